#pragma once
// The core of convolution and linear layers: a register tile of sums of products, and the packing
// of its vector operand.
//
// The canonical sum. Every output element of conv2d, linear and their gradients is
//
//     ((p_0 + p_1) + p_2) + ...      p_b = the fma chain, from +0, over terms 128 b ... 128 b + 127
//
// in the documented order of its terms. One element is one lane of one register from beginning to
// end, so neither the register width nor the tile, the blocking, the layout, the batch or the
// threads can change its bits. The blocks cost nothing (a fold per 128 terms) and divide the error
// bound of a single chain by the number of blocks: (128 + blocks) * eps * sum |terms|.
#include <cstdint>

#include "../simd/transpose.h"
#include "../simd/vec.h"

namespace stableops {

constexpr std::ptrdiff_t block_terms = 128;

static inline constexpr std::ptrdiff_t smaller(std::ptrdiff_t a, std::ptrdiff_t b) {
    return a < b ? a : b;
}
static inline constexpr std::ptrdiff_t larger(std::ptrdiff_t a, std::ptrdiff_t b) {
    return a > b ? a : b;
}
static inline constexpr std::ptrdiff_t ceil_div(std::ptrdiff_t a, std::ptrdiff_t b) {
    return (a + b - 1) / b;
}

// Tile sizes. The sums in flight must hide the latency of fma (4 cycles on 2 ports: at least 8) and
// fit the registers beside the vectors of one term and one broadcast: at most 28 of 32, or 12
// of 16. rows(vectors) is the tallest tile of that width.
template <class Isa>
struct TileLimits {
    static constexpr int max_vectors = 4;
    static constexpr int rows(int vectors) {
        constexpr int v4[] = {14, 14, 9, 4};
        constexpr int v3[] = {6, 6, 3, 2};
        constexpr int v2[] = {4, 4, 2, 2};
        return (Isa::bytes == 64 ? v4 : Isa::bytes == 32 ? v3 : v2)[vectors - 1];
    }
};

// The value, of which the compiler knows nothing any more.
template <class P>
[[gnu::always_inline]] inline P hidden(P value) {
    asm("" : "+r"(value));
    return value;
}

// Rows 0 to 6 from one pointer without arithmetic: x86 addresses reach p + step * {0, 1, 2, 4} from
// p and each step. Hidden, because compilers would rather add up one pointer for each row.
struct RowSteps {
    std::ptrdiff_t one, three, five, seven;
    [[gnu::always_inline]] explicit RowSteps(std::ptrdiff_t bytes)
        : one(hidden(bytes)),
          three(hidden(3 * bytes)),
          five(hidden(5 * bytes)),
          seven(hidden(7 * bytes)) {}
    [[gnu::always_inline]] inline const char* row(const char* p, int i) const {
        return i == 3 ? p + three : i == 5 ? p + five : i == 6 ? p + 2 * three : p + i * one;
    }
};

// sums[i][j] = sum over t of a[a_offset[t] + i * a_step] * b[t][j], for i < rows and
// j < vectors * lanes; sums are dense, terms of b lie b_step apart. `resume` continues sums of
// earlier terms, whose number was a multiple of block_terms. With each term the line at `ahead` +
// t * ahead_step (bytes) is fetched into L2, see Ahead. With a `pitch`, the rows of a term are side
// by side and terms lie that far apart, whatever a_offset and a_step are.
template <class Isa, class T, int rows, int vectors, int pitch = 0>
[[gnu::noinline]] void tile_sums(T* __restrict sums, const T* __restrict a,
                                 const std::int32_t* __restrict a_offset, std::ptrdiff_t a_step,
                                 const T* __restrict b, std::ptrdiff_t b_step, const char* ahead,
                                 std::ptrdiff_t ahead_step, std::ptrdiff_t terms, bool resume) {
    using V = Vec<Isa, T>;
    V acc[rows][vectors];
    const std::int32_t* end = a_offset + terms;
    const RowSteps steps(a_step * static_cast<std::ptrdiff_t>(sizeof(T)));
    do {
        const std::int32_t* block_end = end - a_offset > block_terms ? a_offset + block_terms : end;
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) acc[i][j] = V::zero();
        for (; a_offset != block_end; ++a_offset) {
            V bv[vectors];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) bv[j] = loadu<Isa>(b + j * V::size);
            b += b_step;
            __builtin_prefetch(ahead, 0, 2);
            ahead += ahead_step;
            const char* row = pitch > 0 ? nullptr : reinterpret_cast<const char*>(a + *a_offset);
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i) {
                if (pitch == 0 && i == 7) row = hidden(row + steps.seven);
                const V av =
                    V::splat(pitch > 0 ? a[i] : *reinterpret_cast<const T*>(steps.row(row, i % 7)));
#pragma GCC unroll 4
                for (int j = 0; j < vectors; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
            }
            a += pitch;
        }
        if (resume) {
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
                for (int j = 0; j < vectors; ++j)
                    acc[i][j] = loadu<Isa>(sums + (i * vectors + j) * V::size) + acc[i][j];
        }
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) storeu(sums + (i * vectors + j) * V::size, acc[i][j]);
        resume = true;
    } while (a_offset != end);
}

template <class T>
using TileSums = void (*)(T*, const T*, const std::int32_t*, std::ptrdiff_t, const T*,
                          std::ptrdiff_t, const char*, std::ptrdiff_t, std::ptrdiff_t, bool);

template <class Isa, class T, int vectors, int rows>
TileSums<T> tile_of_rows(int wanted) {
    if constexpr (rows > 1) {
        if (wanted != rows) return tile_of_rows<Isa, T, vectors, rows - 1>(wanted);
    }
    return tile_sums<Isa, T, rows, vectors>;
}

template <class Isa, class T>
TileSums<T> tile_function(int rows, int vectors) {
    using L = TileLimits<Isa>;
    switch (vectors) {
        case 1:
            return tile_of_rows<Isa, T, 1, L::rows(1)>(rows);
        case 2:
            return tile_of_rows<Isa, T, 2, L::rows(2)>(rows);
        case 3:
            return tile_of_rows<Isa, T, 3, L::rows(3)>(rows);
        default:
            return tile_of_rows<Isa, T, 4, L::rows(4)>(rows);
    }
}

// The pitch of tiles that are packed: their rows, if a vector holds them, or else whole vectors.
template <class Isa, class T>
constexpr int tile_pitch = TileLimits<Isa>::rows(2) <= Vec<Isa, T>::size
                               ? TileLimits<Isa>::rows(2)
                               : (TileLimits<Isa>::rows(2) + Vec<Isa, T>::size - 1) /
                                     Vec<Isa, T>::size * Vec<Isa, T>::size;

// The same for packed tiles. Blocks are cut into tiles of about the same height, so most are as
// tall as can be or one row less.
template <class Isa, class T>
TileSums<T> packed_tile_function(int rows, int vectors) {
    constexpr int tallest = TileLimits<Isa>::rows(2);
    constexpr int pitch = tile_pitch<Isa, T>;
    if (vectors == 2 && rows == tallest) return tile_sums<Isa, T, tallest, 2, pitch>;
    if (vectors == 2 && rows == tallest - 1) return tile_sums<Isa, T, tallest - 1, 2, pitch>;
    return tile_function<Isa, T>(rows, vectors);
}

// Memory that later tiles will need, fetched by earlier ones, one line a term: in a burst between
// tiles so many lines would hold up the loads of the next tile. Runs of lines that lie `step` bytes
// apart, one run a tile; `columns` runs lie `column` bytes apart, and so do as many `block` bytes
// on.
struct Ahead {
    const char* at;
    std::ptrdiff_t step, column, columns, block, runs;
    std::ptrdiff_t taken = 0;

    [[gnu::always_inline]] inline bool left() const { return taken < runs; }
    [[gnu::always_inline]] inline const char* take() {
        const char* run = at + taken % columns * column + taken / columns * block;
        ++taken;
        return run;
    }
};
constexpr std::ptrdiff_t line_bytes = 64;

// `rows` rows of `bytes` bytes that lie `pitch` bytes apart, by tiles of `terms` terms.
template <class T>
[[gnu::always_inline]] inline Ahead ahead_rows(const T* at, std::ptrdiff_t pitch,
                                               std::ptrdiff_t rows, std::ptrdiff_t bytes,
                                               std::ptrdiff_t terms) {
    if (pitch == bytes) {
        const std::ptrdiff_t runs = ceil_div(rows * bytes, line_bytes * larger(terms, 1));
        return {reinterpret_cast<const char*>(at), line_bytes, terms * line_bytes, runs, 0, runs};
    }
    const std::ptrdiff_t columns = ceil_div(bytes, line_bytes);
    return {reinterpret_cast<const char*>(at),         pitch, line_bytes, columns, terms * pitch,
            columns * ceil_div(rows, larger(terms, 1))};
}

// An operand as a matrix of (lane, term), where the terms run over three nested axes of an array.
template <class T>
struct TermMatrix {
    const T* data;
    std::ptrdiff_t lane_stride;
    std::ptrdiff_t count[3];
    std::ptrdiff_t stride[3];
    // Where the array ends, if it is known: loads may cross the end of a row, not this.
    const T* end;
};

// The same terms in the same order with adjacent axes joined where memory allows, so that the
// innermost axis is as long as can be.
template <class Isa, class T>
TermMatrix<T> join_axes(TermMatrix<T> m) {
    for (int pass = 0; pass < 2; ++pass) {
        if (m.count[2] == 1 || m.stride[1] == m.count[2] * m.stride[2]) {
            if (m.count[2] == 1) m.stride[2] = m.stride[1];
            m.count[2] *= m.count[1];
            m.count[1] = m.count[0];
            m.stride[1] = m.stride[0];
            m.count[0] = 1;
        } else if (m.count[1] == 1) {
            m.count[1] = m.count[0];
            m.stride[1] = m.stride[0];
            m.count[0] = 1;
        }
    }
    return m;
}

// The first `width` columns of a square of as many rows as a vector has lanes, as rows. Not
// inlined: in a loop, GCC keeps an induction variable for each of the 32 rows, on the stack.
template <class Isa, class T>
[[gnu::noinline]] void transpose_square(T* to, std::ptrdiff_t to_pitch, const T* from,
                                        std::ptrdiff_t from_pitch, std::ptrdiff_t width) {
    constexpr int n = Vec<Isa, T>::size;
    Vec<Isa, T> column[n];
    transpose<Isa>(from, from_pitch, column);
#pragma GCC unroll 16
    for (int j = 0; j < n; ++j)
        if (j < width) storeu(to + j * to_pitch, column[j]);
}

// panel[t][lane] for `terms` terms that lie `stride` apart, and for `vectors` whole vectors of
// lanes; lanes from `lanes` on are 0. A panel of one vector may have a smaller pitch: a term then
// overwrites what the one before wrote beyond it.
template <class Isa, class T>
void pack_run(Compute<T>* panel, const T* source, std::ptrdiff_t lane_stride, std::ptrdiff_t stride,
              std::ptrdiff_t lanes, std::ptrdiff_t terms, int vectors,
              [[maybe_unused]] const T* end = nullptr, std::ptrdiff_t pitch = 0) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    if (pitch == 0) pitch = vectors * n;
    for (std::ptrdiff_t lane = 0; lane < vectors * n; lane += n) {
        const std::ptrdiff_t used = smaller(n, lanes - lane);
        const T* from = source + lane * lane_stride;
        C* to = panel + lane;
        if (used <= 0) {
            for (std::ptrdiff_t t = 0; t < terms; ++t) storeu(to + t * pitch, V::zero());
        } else if (lane_stride == 1) {
            if (used == n) {
                for (std::ptrdiff_t t = 0; t < terms; ++t) {
                    // For the next panel: rows lie far apart.
                    __builtin_prefetch(from + t * stride + pitch);
                    storeu(to + t * pitch, load<Isa>(from + t * stride, AllLanes{}));
                }
            } else {
                for (std::ptrdiff_t t = 0; t < terms; ++t)
                    storeu(to + t * pitch,
                           load<Isa>(from + t * stride, FirstLanes{static_cast<int>(used)}));
            }
        } else if (stride == 1) {
            for (std::ptrdiff_t t = 0; t < terms; t += n) {
                const std::ptrdiff_t width = smaller(n, terms - t);
                if constexpr (std::is_same_v<T, C>) {
                    if (used == n && (width == n || from + (n - 1) * lane_stride + t + n <= end)) {
                        transpose_square<Isa>(to + t * pitch, pitch, from + t, lane_stride, width);
                        continue;
                    }
                }
                C rows[n * n];
                for (std::ptrdiff_t i = 0; i < n; ++i)
                    storeu(rows + i * n, i < used ? load<Isa>(from + i * lane_stride + t,
                                                              FirstLanes{static_cast<int>(width)})
                                                  : V::zero());
                transpose_square<Isa>(to + t * pitch, pitch, static_cast<const C*>(rows), n, width);
            }
        } else {
            for (std::ptrdiff_t t = 0; t < terms; ++t) {
                T row[n] = {};
                for (std::ptrdiff_t i = 0; i < used; ++i)
                    row[i] = from[i * lane_stride + t * stride];
                storeu(to + t * pitch, load<Isa>(row, AllLanes{}));
            }
        }
    }
}

// The panel that tile_sums reads: terms [first, last) of `lanes` lanes from `lane` on.
template <class Isa, class T>
void pack_panel(Compute<T>* panel, const TermMatrix<T>& m, std::ptrdiff_t lane,
                std::ptrdiff_t lanes, std::ptrdiff_t first, std::ptrdiff_t last, int vectors) {
    const std::ptrdiff_t pitch = vectors * Vec<Isa, Compute<T>>::size;
    const T* source = m.data + lane * m.lane_stride;
    if (m.count[0] == 1 && m.count[2] > 1 && m.stride[1] == 1 && m.lane_stride != 1 &&
        m.stride[2] != 1) {
        // Channels-last weights: those of one tap are neighbours. A vector of channels at all taps
        // before the next, so that what is written stays in L1.
        constexpr std::ptrdiff_t n = Vec<Isa, Compute<T>>::size;
        const std::ptrdiff_t taps = m.count[2];
        for (std::ptrdiff_t c = first / taps; c * taps < last; c += n)
            for (std::ptrdiff_t tap = 0; tap < taps; ++tap) {
                const std::ptrdiff_t begin = larger(c, ceil_div(first - tap, taps));
                const std::ptrdiff_t end = smaller(c + n, ceil_div(last - tap, taps));
                if (begin < end)
                    pack_run<Isa>(panel + (begin * taps + tap - first) * pitch,
                                  source + begin + tap * m.stride[2], m.lane_stride, 1, lanes,
                                  end - begin, vectors, m.end, taps * pitch);
            }
        return;
    }
    for (std::ptrdiff_t t = first; t < last;) {
        const std::ptrdiff_t inner = t % m.count[2];
        const std::ptrdiff_t middle = t / m.count[2] % m.count[1];
        const std::ptrdiff_t outer = t / m.count[2] / m.count[1];
        const std::ptrdiff_t run = smaller(m.count[2] - inner, last - t);
        pack_run<Isa>(panel + (t - first) * pitch,
                      source + outer * m.stride[0] + middle * m.stride[1] + inner * m.stride[2],
                      m.lane_stride, m.stride[2], lanes, run, vectors, m.end);
        t += run;
    }
}

// Whether the terms of neighbouring lanes are neighbours, so that they are a panel as they lie.
template <class Isa, class T>
bool is_panel(const TermMatrix<T>& joined) {
    return std::is_same_v<T, Compute<T>> && joined.lane_stride == 1 &&
           joined.count[0] * joined.count[1] == 1;
}

// Whether any element of whole vectors is NaN.
template <class Isa, class T>
bool has_nan(const T* values, std::ptrdiff_t vectors) {
    using V = Vec<Isa, T>;
    Mask<Isa, T> found = is_nan(V::zero());
    for (std::ptrdiff_t i = 0; i < vectors; ++i)
        found = found | is_nan(loadu<Isa>(values + i * V::size));
    return any(found);
}

}  // namespace stableops
