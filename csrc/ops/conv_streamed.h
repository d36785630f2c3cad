#pragma once
// The correlation (conv_problem.h) of a handful of pixels: with a weight whose output channels are
// contiguous, the gradient of a linear layer's input for few rows; and (dots_weights) with one
// whose terms are, the linear layer itself; and (writes_rows) of a handful of terms, the gradient
// of its weight.
//
// Each weight is used a few times only, so memory is the limit, and memory should see whole rows of
// the weight, one after another. So the chains of all channels advance together, four terms at a
// time, and wait in L1 in between.
#include "../runtime/memory.h"
#include "conv_channel_lanes.h"

namespace stableops {

constexpr std::ptrdiff_t streamed_pixels = 14;
// Channels whose chains and weights of four terms stay in L1.
constexpr std::ptrdiff_t streamed_channels = 1024;
constexpr int streamed_terms = 4;
constexpr std::ptrdiff_t page_bytes = 4096;

// Pixels whose factors of four terms stay in registers.
template <class Isa>
constexpr int streamed_rows = Isa::bytes == 64 ? 4 : 2;

template <class Isa, class T>
bool streams_weights(const Correlation<T>& p) {
    return std::is_same_v<T, Compute<T>> && !p.panels && !p.bias && p.terms() > 0 &&
           is_pointwise<Isa>(p) && is_panel<Isa>(join_axes<Isa>(p.weight)) && p.y_stride.c == 1 &&
           p.images * p.h.out * p.w.out <= streamed_pixels;
}

// Where a pixel, counted over all images, is read and written.
template <class Isa, class T>
void locate(const Correlation<T>& p, std::ptrdiff_t pixel, const T*& source, T*& target) {
    const std::ptrdiff_t image = pixel / p.w.out / p.h.out;
    const std::ptrdiff_t h = pixel / p.w.out % p.h.out;
    const std::ptrdiff_t w = pixel % p.w.out;
    source = p.x + image * p.x_stride.n + (h * p.h.stride + p.h.first) * p.x_stride.h +
             (w * p.w.stride + p.w.first) * p.x_stride.w;
    target = p.y + image * p.y_stride.n + h * p.y_stride.h + w * p.y_stride.w;
}

// chain[i][lane] continued by `terms` terms: a[i][t * a_step] * b[t * b_step + lane]. `start`: from
// +0.
template <class Isa, class T, int rows, int terms>
[[gnu::noinline]] void stream_terms(T* __restrict chain, std::ptrdiff_t pitch, const T* const* a,
                                    std::ptrdiff_t a_step, const T* __restrict b,
                                    std::ptrdiff_t b_step, std::ptrdiff_t lanes, bool start) {
    using V = Vec<Isa, T>;
    V factor[rows][terms];
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
        for (int t = 0; t < terms; ++t) factor[i][t] = V::splat(a[i][t * a_step]);
    for_each_vec<Isa, V::size>(lanes, [&](std::ptrdiff_t j, auto which) {
        V weight[terms];
#pragma GCC unroll 4
        for (int t = 0; t < terms; ++t) {
            weight[t] = load<Isa>(b + t * b_step + j, which);
            __builtin_prefetch(b + (t + terms) * b_step + j, 0, 2);
        }
#pragma GCC unroll 4
        for (int i = 0; i < rows; ++i) {
            T* sum = chain + i * pitch + j;
            V acc = start ? V::zero() : loadu<Isa>(sum);
#pragma GCC unroll 4
            for (int t = 0; t < terms; ++t) acc = fma(factor[i][t], weight[t], acc);
            storeu(sum, acc);
        }
    });
}

template <class T>
using StreamTerms = void (*)(T*, std::ptrdiff_t, const T* const*, std::ptrdiff_t, const T*,
                             std::ptrdiff_t, std::ptrdiff_t, bool);

template <class Isa, class T, int terms, int rows = streamed_rows<Isa>>
StreamTerms<T> stream_function(std::ptrdiff_t wanted) {
    if constexpr (rows > 1) {
        if (wanted < rows) return stream_function<Isa, T, terms, rows - 1>(wanted);
    }
    return stream_terms<Isa, T, rows, terms>;
}

// Output channels [k0, k1) of all pixels.
template <class Isa, class T>
void correlate_streamed(const Correlation<T>& p, std::ptrdiff_t k0, std::ptrdiff_t k1) {
    using V = Vec<Isa, T>;
    constexpr std::ptrdiff_t group = streamed_rows<Isa>;
    constexpr std::ptrdiff_t line = line_bytes / static_cast<std::ptrdiff_t>(sizeof(T));
    constexpr std::ptrdiff_t pitch = 2 * streamed_channels - line;
    const TermMatrix<T> weight = join_axes<Isa>(p.weight);
    const std::ptrdiff_t pixels = p.images * p.h.out * p.w.out;
    const std::ptrdiff_t terms = p.terms();
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        2 * pixels * pitch * static_cast<std::ptrdiff_t>(sizeof(T)) + page_bytes + 2 * 64)));
    // A load waits for earlier stores to the same place of any page. So the chains lie just below
    // the weights, as far as that is concerned, and each a line below the one before.
    const std::uintptr_t below = reinterpret_cast<std::uintptr_t>(weight.data + k0) - line_bytes;
    scratch += (below - reinterpret_cast<std::uintptr_t>(scratch)) % page_bytes / 64 * 64;
    T* chain = carve<T>(scratch, pixels * pitch);
    T* total = carve<T>(scratch, pixels * pitch);
    const T* source[streamed_pixels];
    T* target[streamed_pixels];
    for (std::ptrdiff_t i = 0; i < pixels; ++i) {
        locate<Isa>(p, i, source[i], target[i]);
    }
    for (std::ptrdiff_t k = k0; k < k1; k += streamed_channels) {
        const std::ptrdiff_t lanes = smaller(streamed_channels, k1 - k);
        for (std::ptrdiff_t block = 0; block < terms; block += block_terms) {
            const std::ptrdiff_t end = smaller(block + block_terms, terms);
            for (std::ptrdiff_t t = block; t < end;) {
                const bool four = end - t >= streamed_terms;
                const T* b = weight.data + k + t * weight.stride[2];
                for (std::ptrdiff_t i = 0; i < pixels; i += group) {
                    const T* a[group];
                    const std::ptrdiff_t rows = smaller(group, pixels - i);
                    for (std::ptrdiff_t r = 0; r < rows; ++r)
                        a[r] = source[i + r] + t * p.x_stride.c;
                    (four ? stream_function<Isa, T, streamed_terms>(rows)
                          : stream_function<Isa, T, 1>(rows))(chain + i * pitch, pitch, a,
                                                              p.x_stride.c, b, weight.stride[2],
                                                              lanes, t == block);
                }
                t += four ? streamed_terms : 1;
            }
            for (std::ptrdiff_t i = 0; i < pixels; ++i)
                for (std::ptrdiff_t j = i * pitch; j < i * pitch + lanes; j += V::size)
                    storeu(total + j, block == 0 ? loadu<Isa>(chain + j)
                                                 : loadu<Isa>(total + j) + loadu<Isa>(chain + j));
        }
        for (std::ptrdiff_t i = 0; i < pixels; ++i)
            store_tile<Isa>(target[i] + k, 0, 1, 1, lanes, total + i * pitch, pitch,
                            static_cast<const T*>(nullptr), p.epilogue);
    }
}

// Few pixels with a weight whose terms are contiguous: a linear layer of few rows. A square of
// weights is transposed into registers and used there, so that nothing but x is read twice.
constexpr std::ptrdiff_t dotted_pixels = 8;

template <class Isa>
constexpr int dotted_rows = Isa::bytes == 64 ? 8 : 4;

template <class T>
using DotRows = void (*)(T*, const T* const*, const T*, std::ptrdiff_t, std::ptrdiff_t, bool);

template <class Isa, class T>
bool dots_weights(const Correlation<T>& p) {
    constexpr std::ptrdiff_t n = Vec<Isa, Compute<T>>::size;
    const TermMatrix<T> weight = join_axes<Isa>(p.weight);
    return std::is_same_v<T, Compute<T>> && !p.panels && !p.outside_is_nothing && !p.epilogue.add &&
           p.out_channels >= n && p.terms() >= n && is_pointwise<Isa>(p) && p.x_stride.c == 1 &&
           p.y_stride.c == 1 && weight.count[0] * weight.count[1] == 1 && weight.stride[2] == 1 &&
           p.images * p.h.out * p.w.out <= dotted_pixels;
}

// sums[i][lane] = sum of a[i][t] * b[lane * b_pitch + t], or that is added (`add`), for one block
// of the canonical sum.
template <class Isa, class T, int rows>
[[gnu::noinline]] void dot_rows(T* __restrict sums, const T* const* a, const T* __restrict b,
                                std::ptrdiff_t b_pitch, std::ptrdiff_t terms, bool add) {
    using V = Vec<Isa, T>;
    constexpr int n = V::size;
    V acc[rows];
    const T* row[rows];
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
        acc[i] = V::zero();
        row[i] = a[i];
    }
    std::ptrdiff_t t = 0;
    for (; t + n <= terms; t += n) {
        V column[n];
        transpose<Isa>(b + t, b_pitch, column);
#pragma GCC unroll 16
        for (int j = 0; j < n; ++j)
#pragma GCC unroll 8
            for (int i = 0; i < rows; ++i) acc[i] = fma(V::splat(row[i][t + j]), column[j], acc[i]);
    }
    for (; t < terms; ++t) {
        T column[n];
        for (int j = 0; j < n; ++j) column[j] = b[j * b_pitch + t];
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i)
            acc[i] = fma(V::splat(row[i][t]), loadu<Isa>(static_cast<const T*>(column)), acc[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i)
        storeu(sums + i * n, add ? loadu<Isa>(sums + i * n) + acc[i] : acc[i]);
}

// Of the lowest tile that holds them: rows are a power of two.
template <class Isa, class T, int rows = dotted_rows<Isa>>
DotRows<T> dot_function(std::ptrdiff_t wanted) {
    if constexpr (rows > 1) {
        if (wanted <= rows / 2) return dot_function<Isa, T, rows / 2>(wanted);
    }
    return dot_rows<Isa, T, rows>;
}

// Output channels [k0, k1) of all pixels; at least a vector of them.
template <class Isa, class T>
void correlate_dotted(const Correlation<T>& p, std::ptrdiff_t k0, std::ptrdiff_t k1) {
    using V = Vec<Isa, T>;
    constexpr std::ptrdiff_t n = V::size;
    constexpr int group = dotted_rows<Isa>;
    const std::ptrdiff_t pixels = p.images * p.h.out * p.w.out;
    const std::ptrdiff_t terms = p.terms();
    const T* source[dotted_pixels];
    T* target[dotted_pixels];
    for (std::ptrdiff_t i = 0; i < dotted_pixels; ++i) {
        // Rows are whole groups: the last pixel is computed several times.
        locate<Isa>(p, smaller(i, pixels - 1), source[i], target[i]);
    }
    T sums[group * n];
    T bias[n];
    for (std::ptrdiff_t next = k0; next < k1; next += n) {
        // The last vector overlaps the one before.
        const std::ptrdiff_t k = smaller(next, k1 - n);
        if (p.bias) pack_run<Isa>(bias, p.bias + k * p.bias_stride, p.bias_stride, 0, n, 1, 1);
        for (std::ptrdiff_t i = 0; i < pixels; i += group) {
            const DotRows<T> dot = dot_function<Isa, T>(pixels - i);
            for (std::ptrdiff_t t = 0; t < terms; t += block_terms) {
                const T* a[group];
                for (int j = 0; j < group; ++j) a[j] = source[i + j] + t;
                dot(sums, a, p.weight.data + k * p.weight.lane_stride + t, p.weight.lane_stride,
                    smaller(block_terms, terms - t), t > 0);
            }
            for (std::ptrdiff_t j = 0; j < smaller(group, pixels - i); ++j) {
                V v = loadu<Isa>(static_cast<const T*>(sums) + j * n);
                if (p.bias) v = v + loadu<Isa>(static_cast<const T*>(bias));
                store_output<Isa>(target[i + j] + k, v, p.epilogue, AllLanes{});
            }
        }
    }
}

// Few terms: results are many, and memory should see whole rows of them, not many of each term.
constexpr std::ptrdiff_t written_terms = 24;
constexpr int written_rows = 4;

template <class Isa, class T>
bool writes_rows(const Correlation<T>& p) {
    return std::is_same_v<T, Compute<T>> && !p.panels && !p.bias && p.terms() > 0 &&
           p.terms() <= written_terms && is_pointwise<Isa>(p) &&
           is_panel<Isa>(join_axes<Isa>(p.weight)) && p.y_stride.c == 1;
}

// The outputs [0, lanes) of pixels [first, first + rows), one block of the canonical sum.
template <class Isa, class T, int rows>
[[gnu::noinline]] void write_rows(const Correlation<T>& p, const TermMatrix<T>& weight,
                                  std::ptrdiff_t first) {
    constexpr int n = Vec<Isa, T>::size;
    const std::ptrdiff_t terms = p.terms();
    T factor[written_terms * rows];
    T* y[rows];
    for (int i = 0; i < rows; ++i) {
        const T* x;
        locate<Isa>(p, first + i, x, y[i]);
        for (std::ptrdiff_t t = 0; t < terms; ++t) factor[t * rows + i] = x[t * p.x_stride.c];
    }
    auto columns = [&]<int vectors>(std::ptrdiff_t j, auto which) {
        Vec<Isa, T> acc[rows][vectors] = {};
        const T* b = weight.data + j;
        const T* a = factor;
        for (std::ptrdiff_t t = 0; t < terms; ++t, a += rows, b += weight.stride[2]) {
            Vec<Isa, T> bv[vectors];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) bv[v] = load<Isa>(b + v * n, which);
#pragma GCC unroll 4
            for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v)
                    acc[i][v] = fma(Vec<Isa, T>::splat(a[i]), bv[v], acc[i][v]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v)
                store_output<Isa>(y[i] + j + v * n, acc[i][v], p.epilogue, which);
    };
    const std::ptrdiff_t pairs = p.out_channels / (2 * n) * (2 * n);
    for (std::ptrdiff_t j = 0; j < pairs; j += 2 * n) columns.template operator()<2>(j, AllLanes{});
    for_each_vec<Isa, n>(p.out_channels - pairs, [&](std::ptrdiff_t j, auto which) {
        columns.template operator()<1>(pairs + j, which);
    });
}

// All output channels of pixels [first, last).
template <class Isa, class T>
void correlate_written(const Correlation<T>& p, std::ptrdiff_t first, std::ptrdiff_t last) {
    const TermMatrix<T> weight = join_axes<Isa>(p.weight);
    for (; last - first >= written_rows; first += written_rows)
        write_rows<Isa, T, written_rows>(p, weight, first);
    for (; first < last; ++first) write_rows<Isa, T, 1>(p, weight, first);
}

}  // namespace stableops
