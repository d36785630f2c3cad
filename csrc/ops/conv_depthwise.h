#pragma once
// Depthwise layers (one channel a group): the correlation of channels-last images and the gradient
// of the weight in any layout, where lanes are channels, and the 3x3 correlation of planes, where
// lanes are columns.
#include "conv_direct.h"
#include "conv_weight_grad.h"

namespace stableops {

// Outputs a tile: with one weight vector and a pointer each, their loads keep both ports busy.
constexpr int depthwise_outputs = 6;

// out[j][lane] = sum over t of weight[t * pitch + lane] * place[j + of term t][lane]
template <class Isa, class T, int outputs, class Lanes>
[[gnu::always_inline]] inline void depthwise_tile(Vec<Isa, Compute<T>>* out,
                                                  const Compute<T>* weight, std::ptrdiff_t pitch,
                                                  const T* const* place, const std::ptrdiff_t* term,
                                                  std::ptrdiff_t out_step, std::ptrdiff_t terms,
                                                  std::ptrdiff_t channel, Lanes lanes) {
    using V = Vec<Isa, Compute<T>>;
    V acc[outputs];
#pragma GCC unroll 8
    for (int j = 0; j < outputs; ++j) acc[j] = V::zero();
    for (std::ptrdiff_t t = 0; t < terms; ++t) {
        if (t > 0 && t % block_terms == 0) {
#pragma GCC unroll 8
            for (int j = 0; j < outputs; ++j) {
                out[j] = t == block_terms ? acc[j] : out[j] + acc[j];
                acc[j] = V::zero();
            }
        }
        const V wv = loadu<Isa>(weight + t * pitch + channel);
        const T* const* at = place + term[t];
#pragma GCC unroll 8
        for (int j = 0; j < outputs; ++j)
            acc[j] = fma(wv, load<Isa>(at[j * out_step] + channel, lanes), acc[j]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < outputs; ++j) out[j] = terms <= block_terms ? acc[j] : out[j] + acc[j];
}

// Outputs of a 3x3 tile: their sums and the nine weights stay in registers.
constexpr int tap9_outputs = 4;

// The same for 3x3 taps, `count` outputs of a row that go to y: each place is loaded once, for the
// up to three outputs that read it. Rows of places lie `row` apart. Returns whether a result is
// NaN.
template <class Isa, class T, int stride, int step, class Lanes>
[[gnu::noinline]] bool tap9_row(T* y, std::ptrdiff_t y_step, const T* weight, std::ptrdiff_t pitch,
                                const T* const* place, std::ptrdiff_t row, std::ptrdiff_t channel,
                                std::ptrdiff_t count, const T* bias, Epilogue epilogue,
                                Lanes lanes) {
    using V = Vec<Isa, T>;
    constexpr int outputs = tap9_outputs;
    constexpr int columns = (outputs - 1) * stride + 3;
    V factor[9];
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) factor[t] = loadu<Isa>(weight + t * pitch + channel);
    Mask<Isa, T> found = is_nan(V::zero());
    for (std::ptrdiff_t w = 0; w < count; w += outputs, place += outputs * stride) {
        V acc[outputs];
#pragma GCC unroll 4
        for (int j = 0; j < outputs; ++j) acc[j] = V::zero();
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r)
#pragma GCC unroll 16
            for (int i = 0; i < columns; ++i) {
                const int column = step > 0 ? i : columns - 1 - i;
                const V x = load<Isa>(place[r * row + column] + channel, lanes);
#pragma GCC unroll 4
                for (int j = 0; j < outputs; ++j) {
                    const int s = step > 0 ? column - j * stride : 2 - (column - j * stride);
                    if (s >= 0 && s < 3) acc[j] = fma(factor[3 * r + s], x, acc[j]);
                }
            }
#pragma GCC unroll 4
        for (int j = 0; j < outputs; ++j) {
            if (w + j >= count) break;
            found = found | is_nan(acc[j]);
            if (bias) acc[j] = acc[j] + loadu<Isa>(bias + channel);
            store_output<Isa>(y + (w + j) * y_step + channel, acc[j], epilogue, lanes);
        }
    }
    return any(found);
}

template <class Isa, class T>
bool is_depthwise_last(const Correlation<T>& p, const GroupSteps& steps) {
    return p.in_channels == 1 && p.out_channels == 1 && steps.x == 1 && steps.y == 1 &&
           p.terms() > 0;
}

// One output row of all channels. Taps read through pointers to whole pixels, so that those outside
// the image can point to zeros.
template <class Isa, class T>
void depthwise_rows(const Correlation<T>& p, const GroupSteps& steps, std::ptrdiff_t channels,
                    std::ptrdiff_t image, std::ptrdiff_t h0, std::ptrdiff_t h1) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    const std::ptrdiff_t terms = p.terms();
    const Window columns = outer_window(p.w, 0, p.w.out);
    const std::ptrdiff_t vectors = ceil_div(channels, n);
    const std::ptrdiff_t pitch = vectors * n;
    const std::ptrdiff_t slots = p.h.taps * columns.size + columns.out_step * depthwise_outputs;
    constexpr std::ptrdiff_t word = sizeof(std::ptrdiff_t);
    char* scratch = static_cast<char*>(thread_scratch(
        static_cast<std::size_t>((terms + 2) * pitch * static_cast<std::ptrdiff_t>(sizeof(C)) +
                                 (slots + terms) * word + 5 * 64)));
    C* weight = carve<C>(scratch, terms * pitch);
    C* bias = carve<C>(scratch, pitch);
    T* zeros = carve<T>(scratch, pitch);
    const T** place = carve<const T*>(scratch, slots);
    std::ptrdiff_t* term = carve<std::ptrdiff_t>(scratch, terms);

    TermMatrix<T> matrix = p.weight;
    matrix.lane_stride = steps.weight;
    pack_panel<Isa>(weight, join_axes<Isa>(matrix), 0, channels, 0, terms,
                    static_cast<int>(vectors));
    if (p.bias) pack_run<Isa>(bias, p.bias, steps.bias, 0, channels, 1, static_cast<int>(vectors));
    for (std::ptrdiff_t c = 0; c < pitch; c += n) store(zeros + c, V::zero(), AllLanes{});
    for (std::ptrdiff_t t = 0; t < terms; ++t)
        term[t] = t / p.w.taps * columns.size + columns.of(0, t % p.w.taps);

    const bool tap9 = std::is_same_v<T, float> && p.h.taps == 3 && p.w.taps == 3 &&
                      !columns.apart && (p.w.step == 1 || (p.w.step == -1 && p.w.stride == 1)) &&
                      p.w.stride <= 2;
    for (std::ptrdiff_t h = h0; h < h1; ++h) {
        const T** slot = place;
        for (std::ptrdiff_t r = 0; r < p.h.taps; ++r) {
            const std::ptrdiff_t row = h * p.h.stride + p.h.first + r * p.h.step;
            const bool row_inside = row >= 0 && row < p.h.in;
            for (std::ptrdiff_t i = 0; i < columns.size; ++i) {
                const std::ptrdiff_t column = input_place(p.w, columns, i);
                *slot++ =
                    row_inside && column >= 0 && column < p.w.in
                        ? p.x + image * p.x_stride.n + row * p.x_stride.h + column * p.x_stride.w
                        : zeros;
            }
        }
        while (slot != place + slots) *slot++ = zeros;
        T* y = p.y + image * p.y_stride.n + h * p.y_stride.h;
        bool any_nan = false;
        auto by_tap9 = [&]<int stride, int step>() {
            for_each_vec<Isa, n>(channels, [&](std::ptrdiff_t c, auto lanes) {
                any_nan |= tap9_row<Isa, T, stride, step>(
                    y, p.y_stride.w, weight, pitch, place, columns.size, c, p.w.out,
                    p.bias ? bias : nullptr, p.epilogue, lanes);
            });
        };
        if constexpr (std::is_same_v<T, float>) {
            if (tap9) {
                if (p.w.step < 0)
                    by_tap9.template operator()<1, -1>();
                else if (p.w.stride == 1)
                    by_tap9.template operator()<1, 1>();
                else
                    by_tap9.template operator()<2, 1>();
            }
        }
        for (std::ptrdiff_t w = tap9 ? p.w.out : 0; w < p.w.out; w += depthwise_outputs) {
            const std::ptrdiff_t count = smaller(depthwise_outputs, p.w.out - w);
            for_each_vec<Isa, n>(channels, [&](std::ptrdiff_t c, auto lanes) {
                V out[depthwise_outputs];
                depthwise_tile<Isa, T, depthwise_outputs>(out, weight, pitch,
                                                          place + w * columns.out_step, term,
                                                          columns.out_step, terms, c, lanes);
                for (std::ptrdiff_t j = 0; j < count; ++j) {
                    V v = out[j];
                    if (p.outside_is_nothing) any_nan = any_nan || any(is_nan(v));
                    if (p.bias) v = v + loadu<Isa>(bias + c);
                    store_output<Isa>(y + (w + j) * p.y_stride.w + c, v, p.epilogue, lanes);
                }
            });
        }
        if (!any_nan || !p.outside_is_nothing) continue;
        for (std::ptrdiff_t c = 0; c < channels; ++c)
            repair_borders<Isa>(of_group<Isa>(p, steps, c), {image, h, 0, 0, 1, 1, p.w.out, 1});
    }
}

// Columns of a plane's row, whose masks take four times its memory.
constexpr std::ptrdiff_t widest_plane = 8192;
// Outputs of a column of planes: they and the nine weights stay in registers.
template <class Isa>
constexpr int column_rows = Isa::bytes == 64 ? 7 : 4;

// sums[i][lane] = sum over r and s of weight[3 r + s] * (tap s of input row[i * stride + r]). Each
// input row is loaded once, for the up to three outputs that read it. Tap s of neighbouring outputs
// is at place + s * tap_step; with a stride of 2, even and odd lanes are told apart here.
template <class Isa, class T, int stride, int rows>
[[gnu::noinline]] void column_tile(T* __restrict sums, const T* const* __restrict row,
                                   std::ptrdiff_t place, std::ptrdiff_t tap_step,
                                   const Mask<Isa, T>* __restrict mask,
                                   const T* __restrict weight) {
    using V = Vec<Isa, T>;
    constexpr int n = V::size;
    V factor[9];
    V acc[rows];
#pragma GCC unroll 9
    for (int t = 0; t < 9; ++t) factor[t] = V::splat(weight[t]);
#pragma GCC unroll 16
    for (int h = 0; h < (rows - 1) * stride + 3; ++h) {
        const T* from = row[h] + place;
        V x[3];
        if constexpr (stride == 1) {
#pragma GCC unroll 3
            for (int s = 0; s < 3; ++s) x[s] = load_masked(from + s * tap_step, mask[s]);
        } else {
            const V a = load_masked(from, mask[0]);
            const V b = load_masked(from + n, mask[1]);
            x[0] = even_lanes(a, b);
            x[1] = odd_lanes(a, b);
            x[2] = even_lanes(load_masked(from + 2, mask[2]), load_masked(from + n + 2, mask[3]));
        }
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r) {
            const int i = (h - r) / stride;
            if (h < r || (h - r) % stride != 0 || i >= rows) continue;
            if (r == 0) acc[i] = V::zero();
#pragma GCC unroll 3
            for (int s = 0; s < 3; ++s) acc[i] = fma(factor[3 * r + s], x[s], acc[i]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) storeu(sums + i * n, acc[i]);
}

template <class Isa, class T>
using ColumnTile = void (*)(T*, const T* const*, std::ptrdiff_t, std::ptrdiff_t,
                            const Mask<Isa, T>*, const T*);

template <class Isa, class T, int rows = column_rows<Isa>>
ColumnTile<Isa, T> column_tile_function(std::ptrdiff_t wanted, std::ptrdiff_t stride) {
    if constexpr (rows > 1) {
        if (wanted != rows) return column_tile_function<Isa, T, rows - 1>(wanted, stride);
    }
    return stride == 1 ? column_tile<Isa, T, 1, rows> : column_tile<Isa, T, 2, rows>;
}

template <class Isa, class T>
bool is_depthwise_plane(const Correlation<T>& p) {
    return p.in_channels == 1 && p.out_channels == 1 && p.h.taps == 3 && p.w.taps == 3 &&
           p.x_stride.w == 1 && p.w.in <= widest_plane && p.w.out <= widest_plane &&
           p.h.stride == p.w.stride && p.h.step == p.w.step &&
           ((p.h.step == 1 && p.h.stride <= 2) || (p.h.step == -1 && p.h.stride == 1));
}

// Output rows [h0, h1) of channels [g0, g1) of one image.
template <class Isa, class T>
void depthwise_planes(const Correlation<T>& p, const GroupSteps& steps, std::ptrdiff_t image,
                      std::ptrdiff_t h0, std::ptrdiff_t h1, std::ptrdiff_t g0, std::ptrdiff_t g1) {
    using V = Vec<Isa, T>;
    constexpr std::ptrdiff_t n = V::size;
    constexpr std::ptrdiff_t size = sizeof(T);
    constexpr int most_rows = column_rows<Isa>;
    const std::ptrdiff_t vectors = ceil_div(p.w.out, n);
    char* scratch = static_cast<char*>(thread_scratch(
        static_cast<std::size_t>((p.w.in + most_rows * n + 4 * vectors * n) * size + 3 * 64)));
    T* zeros = carve<T>(scratch, p.w.in);
    T* sums = carve<T>(scratch, most_rows * n);
    Mask<Isa, T>* mask = carve<Mask<Isa, T>>(scratch, 4 * vectors);
    fill_zero<Isa>(zeros, p.w.in);
    for (std::ptrdiff_t i = 0; i < 4 * vectors; ++i) {
        const std::ptrdiff_t load = p.w.stride == 1 ? i % 4 * p.w.step : i % 2 * n + i % 4 / 2 * 2;
        const std::ptrdiff_t column = i / 4 * n * p.w.stride + p.w.first + load;
        for (std::ptrdiff_t lane = 0; lane < n; ++lane)
            mask[i].raw[lane] = column + lane >= 0 && column + lane < p.w.in ? -1 : 0;
    }
    bool any_nan = false;
    for (std::ptrdiff_t g = g0; g < g1; ++g) {
        const T* x = p.x + image * p.x_stride.n + g * steps.x;
        T* y = p.y + image * p.y_stride.n + g * steps.y;
        T weight[9];
        for (std::ptrdiff_t t = 0; t < 9; ++t)
            weight[t] = p.weight.data[g * steps.weight + t / 3 * p.weight.stride[1] +
                                      t % 3 * p.weight.stride[2]];
        const V bias = V::splat(p.bias ? p.bias[g * steps.bias] : T{0});
        for (std::ptrdiff_t h = h0, tall; h < h1; h += tall) {
            tall = ceil_div(h1 - h, ceil_div(h1 - h, most_rows));
            // Taps that go backwards: so do the outputs, for the sake of the order of terms.
            const std::ptrdiff_t begin = p.h.step < 0 ? h + tall - 1 : h;
            const T* row[2 * most_rows + 1];
            for (std::ptrdiff_t i = 0; i < (tall - 1) * p.h.stride + 3; ++i) {
                const std::ptrdiff_t at = begin * p.h.stride + p.h.first + i * p.h.step;
                row[i] = at >= 0 && at < p.h.in ? x + at * p.x_stride.h : zeros;
            }
            const ColumnTile<Isa, T> tile = column_tile_function<Isa, T>(tall, p.h.stride);
            for (std::ptrdiff_t j = 0; j < vectors; ++j) {
                tile(sums, row, j * n * p.w.stride + p.w.first, p.w.step, mask + 4 * j, weight);
                if (p.outside_is_nothing && !any_nan) any_nan = has_nan<Isa>(sums, tall);
                const FirstLanes lanes{static_cast<int>(smaller(n, p.w.out - j * n))};
                for (std::ptrdiff_t i = 0; i < tall; ++i) {
                    V v = loadu<Isa>(sums + i * n);
                    if (p.bias) v = v + bias;
                    store_output<Isa>(
                        y + (begin + i * p.h.step) * p.y_stride.h + j * n * p.y_stride.w,
                        p.y_stride.w, v, p.epilogue, lanes);
                }
            }
        }
    }
    if (!any_nan) return;
    for (std::ptrdiff_t g = g0; g < g1; ++g)
        repair_borders<Isa>(of_group<Isa>(p, steps, g), {image, h0, 0, 0, 1, h1 - h0, p.w.out, 1});
}

// The gradient of the input of a depthwise layer with a column stride of 2: even and odd columns
// are two phases, interleaved where they are stored. Sums of one block of terms.
template <class Isa, class T>
bool is_depthwise_pair(const Correlation<T>& even, const Correlation<T>& odd) {
    return even.in_channels == 1 && even.out_channels == 1 && even.x_stride.w == 1 &&
           even.w.in <= widest_plane && even.w.out <= widest_plane && even.y_stride.w == 2 &&
           odd.y == even.y + 1 && even.w.stride == 1 && even.h.stride == 1 &&
           odd.h.out == even.h.out && odd.h.taps == even.h.taps && odd.h.first == even.h.first &&
           larger(even.terms(), odd.terms()) <= block_terms && !even.epilogue.add &&
           !even.epilogue.rectify;
}

// All output rows of channels [g0, g1) of one image.
template <class Isa, class T>
void depthwise_pair(const Correlation<T>& even, const Correlation<T>& odd, const GroupSteps& steps,
                    std::ptrdiff_t image, std::ptrdiff_t g0, std::ptrdiff_t g1) {
    using V = Vec<Isa, T>;
    constexpr std::ptrdiff_t n = V::size;
    constexpr std::ptrdiff_t size = sizeof(T);
    const Correlation<T>* const phase[2] = {&even, &odd};
    const std::ptrdiff_t vectors = ceil_div(even.w.out, n);
    const std::ptrdiff_t taps = even.w.taps + odd.w.taps;
    const std::ptrdiff_t rows = even.h.taps;
    char* scratch = static_cast<char*>(thread_scratch(
        static_cast<std::size_t>((even.w.in + taps * rows + vectors * taps * n) * size +
                                 rows * static_cast<std::ptrdiff_t>(sizeof(const T*)) + 4 * 64)));
    T* zeros = carve<T>(scratch, even.w.in);
    T* weight = carve<T>(scratch, taps * rows);
    const T** row = carve<const T*>(scratch, rows);
    Mask<Isa, T>* mask = carve<Mask<Isa, T>>(scratch, vectors * taps);
    fill_zero<Isa>(zeros, even.w.in);
    for (std::ptrdiff_t i = 0; i < vectors * taps; ++i) {
        const bool second = i % taps >= even.w.taps;
        const Axis& w = second ? odd.w : even.w;
        const std::ptrdiff_t tap = i % taps - (second ? even.w.taps : 0);
        const std::ptrdiff_t column = i / taps * n + w.first + tap * w.step;
        for (std::ptrdiff_t lane = 0; lane < n; ++lane)
            mask[i].raw[lane] = column + lane >= 0 && column + lane < w.in ? -1 : 0;
    }
    bool any_nan = false;
    for (std::ptrdiff_t g = g0; g < g1; ++g) {
        T* factor = weight;
        for (const Correlation<T>* p : phase)
            for (std::ptrdiff_t t = 0; t < p->h.taps * p->w.taps; ++t)
                *factor++ = p->weight.data[g * steps.weight + t / p->w.taps * p->weight.stride[1] +
                                           t % p->w.taps * p->weight.stride[2]];
        const V bias = V::splat(even.bias ? even.bias[g * steps.bias] : T{0});
        for (std::ptrdiff_t h = 0; h < even.h.out; ++h) {
            const T* x = even.x + image * even.x_stride.n + g * steps.x;
            for (std::ptrdiff_t r = 0; r < rows; ++r) {
                const std::ptrdiff_t at = h + even.h.first + r * even.h.step;
                row[r] = at >= 0 && at < even.h.in ? x + at * even.x_stride.h : zeros;
            }
            T* y = even.y + image * even.y_stride.n + g * steps.y + h * even.y_stride.h;
            for (std::ptrdiff_t j = 0; j < vectors; ++j) {
                V v[2];
                factor = weight;
                const Mask<Isa, T>* inside = mask + j * taps;
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i) {
                    const Axis& w = phase[i]->w;
                    V acc = V::zero();
                    for (std::ptrdiff_t r = 0; r < rows; ++r) {
                        const T* from = row[r] + j * n + w.first;
                        for (std::ptrdiff_t s = 0; s < w.taps; ++s)
                            acc = fma(V::splat(*factor++),
                                      load_masked(from + s * w.step, inside[s]), acc);
                    }
                    if (even.outside_is_nothing && !any_nan) any_nan = any(is_nan(acc));
                    if (even.bias) acc = acc + bias;
                    v[i] = acc;
                    inside += w.taps;
                }
                const std::ptrdiff_t left = even.w.out + odd.w.out - 2 * j * n;
                store_first(y + 2 * j * n, interleave_low(v[0], v[1]),
                            static_cast<int>(smaller(left, n)));
                if (left > n)
                    store_first(y + (2 * j + 1) * n, interleave_high(v[0], v[1]),
                                static_cast<int>(smaller(left - n, n)));
            }
        }
    }
    if (!any_nan) return;
    for (const Correlation<T>* p : phase)
        for (std::ptrdiff_t g = g0; g < g1; ++g)
            repair_borders<Isa>(of_group<Isa>(*p, steps, g),
                                {image, 0, 0, 0, 1, p->h.out, p->w.out, 1});
}

// sums[i][lane] = sum over p of x[offset[p] + tap[i] + lane] * y[p][lane]; `resume` as in
// tile_sums.
template <class Isa, class T, int taps>
[[gnu::noinline]] void depthwise_sums(T* __restrict sums, const T* __restrict x,
                                      const std::int32_t* __restrict offset,
                                      const std::ptrdiff_t* __restrict tap, const T* __restrict y,
                                      std::ptrdiff_t terms, bool resume) {
    using V = Vec<Isa, T>;
    const T* place[taps];
#pragma GCC unroll 16
    for (int i = 0; i < taps; ++i) place[i] = x + tap[i];
    std::ptrdiff_t t = 0;
    do {
        const std::ptrdiff_t end = terms - t > block_terms ? t + block_terms : terms;
        V acc[taps];
#pragma GCC unroll 16
        for (int i = 0; i < taps; ++i) acc[i] = V::zero();
        for (; t < end; ++t) {
            const V yv = loadu<Isa>(y + t * V::size);
            const std::ptrdiff_t at = offset[t];
#pragma GCC unroll 16
            for (int i = 0; i < taps; ++i) acc[i] = fma(loadu<Isa>(place[i] + at), yv, acc[i]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < taps; ++i) {
            T* sum = sums + i * V::size;
            storeu(sum, resume ? loadu<Isa>(sum) + acc[i] : acc[i]);
        }
        resume = true;
    } while (t < terms);
}

template <class T>
using DepthwiseSums = void (*)(T*, const T*, const std::int32_t*, const std::ptrdiff_t*, const T*,
                               std::ptrdiff_t, bool);

constexpr int depthwise_taps = 9;

template <class Isa, class T, int taps = depthwise_taps>
DepthwiseSums<T> depthwise_function(std::ptrdiff_t wanted) {
    if constexpr (taps > 1) {
        if (wanted != taps) return depthwise_function<Isa, T, taps - 1>(wanted);
    }
    return depthwise_sums<Isa, T, taps>;
}

// One row of a window whose pixels are one vector of channels each.
template <class Isa, class T>
void copy_pixels(Compute<T>* to, const T* row, const Strides4& stride, std::ptrdiff_t channels,
                 std::ptrdiff_t in, std::ptrdiff_t place, std::ptrdiff_t count) {
    constexpr std::ptrdiff_t n = Vec<Isa, Compute<T>>::size;
    const std::ptrdiff_t before = smaller(larger(-place, 0), count);
    const std::ptrdiff_t inside = smaller(larger(in - (place + before), 0), count - before);
    fill_zero<Isa>(to, before * n);
    if (inside > 0)
        pack_run<Isa>(to + before * n, row + (place + before) * stride.w, stride.c, stride.w,
                      channels, inside, 1);
    fill_zero<Isa>(to + (before + inside) * n, (count - before - inside) * n);
}

// grad_weight of one vector of channels of a depthwise layer: the same sum as weight_gradient_task.
// Within a chain pixels follow each other, so lanes are channels in every layout.
template <class Isa, class T>
void depthwise_weight_gradient(T* grad_weight, const T* grad_y, const T* x,
                               const Conv2dShape& shape, std::ptrdiff_t c,
                               std::ptrdiff_t channels) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    constexpr std::ptrdiff_t size = sizeof(C);
    const std::ptrdiff_t pixels = shape.batch * shape.out_h * shape.out_w;
    const std::ptrdiff_t taps = shape.kernel_h * shape.kernel_w;
    const Axis axis_w{shape.in_w,     shape.out_w,     shape.stride_w,
                      shape.kernel_w, -shape.pad_left, shape.dilation_w};
    constexpr std::ptrdiff_t chunk = 2 * block_terms;
    const std::ptrdiff_t runs = chunk / shape.out_w + 2;
    const std::ptrdiff_t width = range_window(axis_w, 0, smaller(shape.out_w, chunk)).size;
    const std::ptrdiff_t window_size = runs * shape.kernel_h * width * n;
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (window_size + chunk * n + 2 * taps * n) * size + chunk * 4 +
        taps * static_cast<std::ptrdiff_t>(sizeof(std::ptrdiff_t)) + 6 * 64)));
    C* window = carve<C>(scratch, window_size);
    C* panel = carve<C>(scratch, chunk * n);
    C* sums = carve<C>(scratch, taps * n);
    C* total = carve<C>(scratch, taps * n);
    std::int32_t* offset = carve<std::int32_t>(scratch, chunk);
    std::ptrdiff_t* tap = carve<std::ptrdiff_t>(scratch, taps);
    for (std::ptrdiff_t i = 0; i < taps; ++i)
        tap[i] = (i / shape.kernel_w * width + i % shape.kernel_w * shape.dilation_w) * n;

    x += c * shape.x.c;
    grad_y += c * shape.y.c;
    fill_zero<Isa>(total, taps * n);
    for (std::ptrdiff_t first = 0; first < pixels;) {
        const std::ptrdiff_t segment = first / segment_pixels;
        const std::ptrdiff_t last =
            smaller(smaller(first + chunk, pixels), (segment + 1) * segment_pixels);
        C* row = window;
        std::ptrdiff_t pixel = 0;
        for_each_run<Isa>(shape, first, last, [&](const PixelRun& run) {
            const std::ptrdiff_t place = run.w * shape.stride_w - shape.pad_left;
            const std::ptrdiff_t count = range_window(axis_w, 0, run.length).size;
            const std::ptrdiff_t base = row - window;
            for (std::ptrdiff_t r = 0; r < shape.kernel_h; ++r, row += width * n) {
                const std::ptrdiff_t h =
                    run.h * shape.stride_h - shape.pad_top + r * shape.dilation_h;
                const bool inside = h >= 0 && h < shape.in_h;
                copy_pixels<Isa>(row, inside ? x + run.n * shape.x.n + h * shape.x.h : x, shape.x,
                                 channels, inside ? shape.in_w : 0, place, count);
            }
            for (std::ptrdiff_t i = 0; i < run.length; ++i)
                offset[pixel + i] = static_cast<std::int32_t>(base + i * shape.stride_w * n);
            pack_run<Isa>(panel + pixel * n,
                          grad_y + run.n * shape.y.n + run.h * shape.y.h + run.w * shape.y.w,
                          shape.y.c, shape.y.w, channels, run.length, 1);
            pixel += run.length;
        });
        for (std::ptrdiff_t i = 0; i < taps; i += depthwise_taps)
            depthwise_function<Isa, C>(smaller(depthwise_taps, taps - i))(
                sums + i * n, window, offset, tap + i, panel, last - first,
                first % segment_pixels != 0);
        first = last;
        if (last % segment_pixels == 0 || last == pixels)
            for (std::ptrdiff_t i = 0; i < taps * n; i += n)
                storeu(total + i, segment == 0 ? loadu<Isa>(sums + i)
                                               : loadu<Isa>(total + i) + loadu<Isa>(sums + i));
    }
    for (std::ptrdiff_t i = 0; i < taps; ++i)
        for (std::ptrdiff_t lane = 0; lane < channels; ++lane)
            store(grad_weight + (c + lane) * shape.weight.n + i / shape.kernel_w * shape.weight.h +
                      i % shape.kernel_w * shape.weight.w,
                  V::splat(total[i * n + lane]), FirstLanes{1});
}

template <class Isa, class T>
bool is_depthwise(const Conv2dShape& shape) {
    const Axis axis_w{shape.in_w,     shape.out_w,     shape.stride_w,
                      shape.kernel_w, -shape.pad_left, shape.dilation_w};
    const std::ptrdiff_t width =
        range_window(axis_w, 0, smaller(shape.out_w, 2 * block_terms)).size;
    const std::ptrdiff_t elements =
        (2 * block_terms / shape.out_w + 2) * shape.kernel_h * width * Vec<Isa, Compute<T>>::size;
    return shape.in_channels == shape.groups && shape.out_channels == shape.groups &&
           elements * static_cast<std::ptrdiff_t>(sizeof(Compute<T>)) <= 4 * window_bytes;
}

}  // namespace stableops
