#pragma once
// The core of convolution and linear layers: a register tile of sums of products, and the packing of
// its vector operand.
//
// The canonical sum. Every output element of conv2d, linear and their gradients is
//
//     ((p_0 + p_1) + p_2) + ...      p_b = the fma chain, from +0, over terms 128 b ... 128 b + 127
//
// in the documented order of its terms. One element is one lane of one register from beginning to
// end, so neither the register width nor the tile, the blocking, the layout, the batch or the threads
// can change its bits. The blocks cost nothing (a fold per 128 terms) and divide the error bound of a
// single chain by the number of blocks: (128 + blocks) * eps * sum |terms|.
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
// fit the registers beside the vectors of one term and one broadcast: at most 28 of 32, or 12 of 16.
// `rows` x 2 vectors is the normal tile; up to `few_rows`, 4 vectors keep enough sums in flight.
template <class Isa>
struct TileLimits {
    static constexpr int rows = Isa::bytes == 64 ? 14 : Isa::bytes == 32 ? 6 : 4;
    static constexpr int few_rows = Isa::bytes == 64 ? 4 : 2;
};

// sums[i][j] = sum over t of a[a_offset[t] + i * a_step] * b[t][j], for i < rows and
// j < vectors * lanes; b and sums are dense. `resume` continues sums of earlier terms, whose number
// was a multiple of block_terms.
template <class Isa, class T, int rows, int vectors>
[[gnu::noinline]] void tile_sums(T* __restrict sums, const T* __restrict a,
                                 const std::int32_t* __restrict a_offset, std::ptrdiff_t a_step,
                                 const T* __restrict b, std::ptrdiff_t terms, bool resume) {
    using V = Vec<Isa, T>;
    V acc[rows][vectors];
    const std::int32_t* end = a_offset + terms;
    do {
        const std::int32_t* block_end =
            end - a_offset > block_terms ? a_offset + block_terms : end;
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) acc[i][j] = V::zero();
        for (; a_offset != block_end; ++a_offset) {
            V bv[vectors];
#pragma GCC unroll 4
            for (int j = 0; j < vectors; ++j) bv[j] = loadu<Isa>(b + j * V::size);
            b += vectors * V::size;
            // Three rows a pointer: x86 addresses reach p, p + step and p + 2 * step, and fewer
            // pointers than rows stay in registers.
            const T* row = a + *a_offset;
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i) {
                V av = V::splat(row[i % 3 * a_step]);
                if (i % 3 == 2) row += 3 * a_step;
#pragma GCC unroll 4
                for (int j = 0; j < vectors; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
            }
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
            for (int j = 0; j < vectors; ++j)
                storeu(sums + (i * vectors + j) * V::size, acc[i][j]);
        resume = true;
    } while (a_offset != end);
}

template <class T>
using TileSums = void (*)(T*, const T*, const std::int32_t*, std::ptrdiff_t, const T*,
                          std::ptrdiff_t, bool);

template <class Isa, class T, int rows>
constexpr TileSums<T> choose_tile(int vectors) {
    if constexpr (rows <= TileLimits<Isa>::few_rows) {
        if (vectors == 4) return tile_sums<Isa, T, rows, 4>;
        if (vectors == 3) return tile_sums<Isa, T, rows, 3>;
    }
    return vectors == 2 ? tile_sums<Isa, T, rows, 2> : tile_sums<Isa, T, rows, 1>;
}

template <class Isa, class T>
TileSums<T> tile_function(int rows, int vectors) {
    using L = TileLimits<Isa>;
    switch (rows) {
        case 1: return choose_tile<Isa, T, 1>(vectors);
        case 2: return choose_tile<Isa, T, 2>(vectors);
        case 3: return choose_tile<Isa, T, 3>(vectors);
        case 4: return choose_tile<Isa, T, 4>(vectors);
        default: break;
    }
    if constexpr (L::rows >= 6) {
        if (rows == 5) return choose_tile<Isa, T, 5>(vectors);
        if (rows == 6) return choose_tile<Isa, T, 6>(vectors);
    }
    if constexpr (L::rows >= 14) {
        switch (rows) {
            case 7: return choose_tile<Isa, T, 7>(vectors);
            case 8: return choose_tile<Isa, T, 8>(vectors);
            case 9: return choose_tile<Isa, T, 9>(vectors);
            case 10: return choose_tile<Isa, T, 10>(vectors);
            case 11: return choose_tile<Isa, T, 11>(vectors);
            case 12: return choose_tile<Isa, T, 12>(vectors);
            case 13: return choose_tile<Isa, T, 13>(vectors);
            case 14: return choose_tile<Isa, T, 14>(vectors);
            default: break;
        }
    }
    return nullptr;
}

// An operand as a matrix of (lane, term), where the terms run over three nested axes of an array.
template <class T>
struct TermMatrix {
    const T* data;
    std::ptrdiff_t lane_stride;
    std::ptrdiff_t count[3];
    std::ptrdiff_t stride[3];

    std::ptrdiff_t terms() const { return count[0] * count[1] * count[2]; }
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

// panel[t][lane] for `terms` terms that lie `stride` apart, and for `vectors` whole vectors of lanes;
// lanes from `lanes` on are 0.
template <class Isa, class T>
void pack_run(Compute<T>* panel, const T* source, std::ptrdiff_t lane_stride,
              std::ptrdiff_t stride, std::ptrdiff_t lanes, std::ptrdiff_t terms, int vectors) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    const std::ptrdiff_t pitch = vectors * n;
    for (std::ptrdiff_t lane = 0; lane < pitch; lane += n) {
        const std::ptrdiff_t used = smaller(n, lanes - lane);
        const T* from = source + lane * lane_stride;
        C* to = panel + lane;
        if (used <= 0) {
            for (std::ptrdiff_t t = 0; t < terms; ++t) storeu(to + t * pitch, V::zero());
        } else if (lane_stride == 1) {
            if (used == n) {
                for (std::ptrdiff_t t = 0; t < terms; ++t)
                    storeu(to + t * pitch, load<Isa>(from + t * stride, AllLanes{}));
            } else {
                for (std::ptrdiff_t t = 0; t < terms; ++t)
                    storeu(to + t * pitch,
                           load<Isa>(from + t * stride, FirstLanes{static_cast<int>(used)}));
            }
        } else if (stride == 1) {
            for (std::ptrdiff_t t = 0; t < terms; t += n) {
                const std::ptrdiff_t width = smaller(n, terms - t);
                V column[n];
                if (std::is_same_v<T, C> && used == n && width == n) {
                    transpose<Isa>(reinterpret_cast<const C*>(from + t), lane_stride, column);
                } else {
                    C rows[n * n];
                    for (std::ptrdiff_t i = 0; i < n; ++i)
                        storeu(rows + i * n,
                               i < used ? load<Isa>(from + i * lane_stride + t,
                                                    FirstLanes{static_cast<int>(width)})
                                        : V::zero());
                    transpose<Isa>(rows, n, column);
                }
                if (width == n) {
#pragma GCC unroll 16
                    for (int j = 0; j < n; ++j) storeu(to + (t + j) * pitch, column[j]);
                } else {
                    C columns[n * n];
#pragma GCC unroll 16
                    for (int j = 0; j < n; ++j) storeu(columns + j * n, column[j]);
                    for (std::ptrdiff_t j = 0; j < width; ++j)
                        storeu(to + (t + j) * pitch, loadu<Isa>(columns + j * n));
                }
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
    for (std::ptrdiff_t t = first; t < last;) {
        const std::ptrdiff_t inner = t % m.count[2];
        const std::ptrdiff_t middle = t / m.count[2] % m.count[1];
        const std::ptrdiff_t outer = t / m.count[2] / m.count[1];
        const std::ptrdiff_t run = smaller(m.count[2] - inner, last - t);
        pack_run<Isa>(panel + (t - first) * pitch,
                      source + outer * m.stride[0] + middle * m.stride[1] + inner * m.stride[2],
                      m.lane_stride, m.stride[2], lanes, run, vectors);
        t += run;
    }
}

// Whether a packed panel holds an infinity or NaN: 0 * x is 0 for every other x.
template <class Isa, class T>
bool has_nonfinite(const T* panel, std::ptrdiff_t vectors) {
    using V = Vec<Isa, T>;
    V probe = V::zero();
    for (std::ptrdiff_t i = 0; i < vectors; ++i)
        probe = probe + loadu<Isa>(panel + i * V::size) * V::zero();
    return any(is_nan(probe));
}

}  // namespace stableops
