#pragma once
// The gradients of conv2d's weight and bias: sums over all output pixels p = (n, oh, ow).
//
// grad_weight is a canonical sum (gemm.h) inside each segment of 4096 pixels; segments are added in
// order. Lanes are output channels (grad_y, packed once a chunk of pixels), tile rows are input
// channels at one tap, terms are pixels. The sums of a task, all its channels and taps, stay in L2
// over the whole batch.
//
// grad_bias: in each image plane, lane j of 32 adds pixels j, j + 32, ... in float64; the lanes are
// added as a binary tree, then the images in order, and the result is rounded once.
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "conv_channel_lanes.h"

namespace stableops {

constexpr std::ptrdiff_t segment_pixels = 4096;

// A run of output pixels within one output row.
struct PixelRun {
    std::ptrdiff_t n, h, w, length;
};

template <class Isa, class Body>
[[gnu::always_inline]] inline void for_each_run(const Conv2dShape& shape, std::ptrdiff_t first,
                                                std::ptrdiff_t last, Body&& body) {
    for (std::ptrdiff_t p = first; p < last;) {
        const std::ptrdiff_t w = p % shape.out_w;
        const std::ptrdiff_t h = p / shape.out_w % shape.out_h;
        const PixelRun run{p / shape.out_w / shape.out_h, h, w, smaller(shape.out_w - w, last - p)};
        body(run);
        p += run.length;
    }
}

// A task: output channels [k, k + lanes) and input channels [c, c + channels) of one group.
struct WeightGradTask {
    std::ptrdiff_t group, k, lanes, c, channels;
};

// Where the taps of grad_weight lie in the sums of a task: tile by tile of channels, tap by tap.
struct WeightGradTiles {
    std::ptrdiff_t channels, taps, tiles, tile_size;

    [[gnu::always_inline]] inline std::ptrdiff_t begin(std::ptrdiff_t tile) const {
        return channels * tile / tiles;
    }
    [[gnu::always_inline]] inline std::ptrdiff_t tile_of(std::ptrdiff_t channel) const {
        std::ptrdiff_t tile = channel * tiles / channels;
        while (begin(tile + 1) <= channel) ++tile;
        return tile;
    }
    // The row of sums of one channel and tap, in a panel whose rows are `pitch` long.
    [[gnu::always_inline]] inline std::ptrdiff_t row(std::ptrdiff_t channel, std::ptrdiff_t tap,
                                                     std::ptrdiff_t pitch) const {
        const std::ptrdiff_t tile = tile_of(channel);
        return (tap * tiles + tile) * tile_size + (channel - begin(tile)) * pitch;
    }
};

// Sums [channel, tap][lane] to grad_weight [lane][channel, tap], whose rows are contiguous; added
// to what is there (`add`), or in its place.
template <class Isa, class T>
void store_weight_rows(T* to, std::ptrdiff_t lane_stride, std::ptrdiff_t lanes,
                       const Compute<T>* sums, const WeightGradTiles& tiles, std::ptrdiff_t pitch,
                       bool add) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    const std::ptrdiff_t terms = tiles.channels * tiles.taps;
    for (std::ptrdiff_t t = 0; t < terms; t += n) {
        const FirstLanes width{static_cast<int>(smaller(n, terms - t))};
        const C* row[n];
        for (int i = 0; i < width.count; ++i)
            row[i] = sums + tiles.row((t + i) / tiles.taps, (t + i) % tiles.taps, pitch);
        for (std::ptrdiff_t lane = 0; lane < lanes; lane += n) {
            C square[n * n];
            for (int i = 0; i < width.count; ++i) storeu(square + i * n, loadu<Isa>(row[i] + lane));
            C columns[n * n];
            transpose_square<Isa>(columns, n, static_cast<const C*>(square), n, n);
            for (std::ptrdiff_t k = 0; k < smaller(n, lanes - lane); ++k) {
                T* row = to + (lane + k) * lane_stride + t;
                const V v = loadu<Isa>(columns + k * n);
                store(row, add ? load<Isa>(row, width) + v : v, width);
            }
        }
    }
}

// What does not depend on the task: the axes and how a chunk of pixels lies in the window.
template <class Isa, class T>
struct WeightGradPlan {
    Axis h, w;
    bool direct, channels_innermost, rows_apart;
    std::ptrdiff_t chunk;

    explicit WeightGradPlan(const Conv2dShape& shape)
        : h{shape.in_h,     shape.out_h,    shape.stride_h,
            shape.kernel_h, -shape.pad_top, shape.dilation_h},
          w{shape.in_w,     shape.out_w,     shape.stride_w,
            shape.kernel_w, -shape.pad_left, shape.dilation_w},
          channels_innermost(shape.x.c == 1 && shape.x.w != 1 && shape.in_channels > shape.groups),
          chunk(2 * block_terms) {
        // A 1x1 layer without padding is read where it lies, unless the channels of a tile would
        // fall into one set of the cache, or the pixels of a chunk lie too far apart for 32 bits.
        constexpr std::ptrdiff_t limit = std::ptrdiff_t{1} << 29;
        auto near = [&](std::ptrdiff_t stride, std::ptrdiff_t steps) {
            return (stride < 0 ? -stride : stride) <= limit / larger(steps, 1);
        };
        const std::ptrdiff_t images =
            smaller(chunk / larger(shape.out_h * shape.out_w, 1) + 2, shape.batch);
        const std::ptrdiff_t step = shape.x.c * static_cast<std::ptrdiff_t>(sizeof(T));
        direct = std::is_same_v<T, Compute<T>> && shape.kernel_h == 1 && shape.kernel_w == 1 &&
                 shape.pad_top == 0 && shape.pad_left == 0 &&
                 (shape.out_h - 1) * shape.stride_h < shape.in_h &&
                 (shape.out_w - 1) * shape.stride_w < shape.in_w && step % 2048 != 0 &&
                 near(shape.x.n, images) && near(shape.x.h, shape.in_h) &&
                 near(shape.x.w, shape.in_w);
        const std::ptrdiff_t rows = smaller(chunk / larger(shape.out_w, 1) + 2, shape.out_h);
        rows_apart = apart_window(h, 0, rows).size < range_window(h, 0, rows).size;
    }

    Window rows(std::ptrdiff_t begin, std::ptrdiff_t end) const {
        return rows_apart ? apart_window(h, begin, end) : range_window(h, begin, end);
    }
};

template <class Isa, class T>
void weight_gradient_task(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape,
                          const WeightGradTask& task, bool add) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t vector = V::size;
    constexpr std::ptrdiff_t size = sizeof(C);
    const std::ptrdiff_t plane = shape.out_h * shape.out_w;
    const std::ptrdiff_t pixels = shape.batch * plane;
    const std::ptrdiff_t taps = shape.kernel_h * shape.kernel_w;
    const std::ptrdiff_t channels = task.channels;

    // A chunk touches one or more images; each has its own rows in the window.
    WeightGradPlan<Isa, T> plan(shape);
    PatchLayout layout{};
    std::ptrdiff_t window_size = 0;
    for (;; plan.chunk /= 2) {
        const std::ptrdiff_t longest = smaller(shape.out_w, plan.chunk);
        const std::ptrdiff_t images = smaller(plan.chunk / plane + 2, shape.batch);
        const std::ptrdiff_t rows = plan.chunk / shape.out_w + 2;
        Window h = plan.rows(0, rows);
        h.size += (images - 1) * plan.rows(0, 1).size;
        const Window w = plan.channels_innermost ? outer_window(plan.w, 0, longest)
                                                 : inner_window(plan.w, 0, longest);
        layout = patch_layout<Isa, C>(h, w, 1, channels, plan.channels_innermost);
        window_size = plan.channels_innermost ? layout.pitch.n : channels * layout.pitch.c;
        if (window_size * size <= window_bytes || plan.chunk == block_terms) break;
    }
    if (plan.direct) window_size = 0;
    const std::ptrdiff_t chunk = plan.chunk;
    // Rows of a tile are channels; or the taps of a row of the kernel where there is one channel,
    // whose single chain would wait for itself.
    const bool by_taps = channels == 1 && layout.w.split == 1 && !plan.direct;
    const std::ptrdiff_t rows = by_taps ? shape.kernel_w : channels;
    const std::ptrdiff_t steps = by_taps ? shape.kernel_h : taps;
    const int vectors = rows <= TileLimits<Isa>::rows(4) ? 4 : 2;
    const std::ptrdiff_t lanes = vectors * vector;
    const std::ptrdiff_t panels = ceil_div(task.lanes, lanes);
    const WeightGradTiles tiles{rows, steps, ceil_div(rows, TileLimits<Isa>::rows(2)),
                                TileLimits<Isa>::rows(2) * lanes};
    const std::ptrdiff_t panel_sums = steps * tiles.tiles * tiles.tile_size;
    const std::ptrdiff_t sums_size = panels * panel_sums;
    const bool many_segments = pixels > segment_pixels;
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (window_size + panels * chunk * lanes + sums_size * (many_segments ? 2 : 1)) * size +
        chunk * 4 + 5 * 64)));
    C* window = carve<C>(scratch, window_size);
    C* panel = carve<C>(scratch, panels * chunk * lanes);
    C* sums = carve<C>(scratch, sums_size);
    C* total = carve<C>(scratch, many_segments ? sums_size : 0);
    std::int32_t* offset = carve<std::int32_t>(scratch, chunk);

    x += (task.group * (shape.in_channels / shape.groups) + task.c) * shape.x.c;
    grad_y += task.k * shape.y.c;
    const std::ptrdiff_t row_step_in_tile = by_taps       ? layout.w.tap_step * layout.pitch.w
                                            : plan.direct ? shape.x.c
                                                          : layout.pitch.c;
    const bool flat = shape.y.h == shape.out_w * shape.y.w;
    auto pack = [&](std::ptrdiff_t at, const T* from, std::ptrdiff_t count) {
        for (std::ptrdiff_t i = 0; i < panels; ++i) {
            const std::ptrdiff_t used = smaller(lanes, task.lanes - i * lanes);
            const int used_vectors = static_cast<int>(ceil_div(used, vector));
            pack_run<Isa>(panel + i * chunk * lanes + at * used_vectors * vector,
                          from + i * lanes * shape.y.c, shape.y.c, shape.y.w, used, count,
                          used_vectors);
        }
    };
    if (pixels == 0) fill_zero<Isa>(sums, sums_size);
    for (std::ptrdiff_t first = 0; first < pixels;) {
        const std::ptrdiff_t segment = first / segment_pixels;
        const std::ptrdiff_t last =
            smaller(smaller(first + chunk, pixels), (segment + 1) * segment_pixels);
        const C* source = window;
        if constexpr (std::is_same_v<T, C>)
            if (plan.direct) source = x + first / plane * shape.x.n;
        std::ptrdiff_t base = 0;
        for (std::ptrdiff_t p = first; p < last;) {
            const std::ptrdiff_t image = p / plane;
            const std::ptrdiff_t end = smaller((image + 1) * plane, last);
            const std::ptrdiff_t h0 = p % plane / shape.out_w;
            const std::ptrdiff_t h1 = (end - 1) % plane / shape.out_w + 1;
            const std::ptrdiff_t w0 = h1 - h0 == 1 ? p % shape.out_w : 0;
            PatchLayout part = layout;
            part.h = plan.rows(h0, h1);
            part.w.begin = w0;
            std::ptrdiff_t row_step = part.h.out_step * layout.pitch.h;
            std::ptrdiff_t column_step = layout.w.out_step * layout.pitch.w;
            if (plan.direct) {
                row_step = shape.stride_h * shape.x.h;
                column_step = shape.stride_w * shape.x.w;
                base = (image - first / plane) * shape.x.n + h0 * row_step + w0 * column_step;
            } else {
                copy_patches<Isa>(window + base, part, x + image * shape.x.n, shape.x, plan.h,
                                  plan.w, 1, channels);
            }
            const T* from = grad_y + image * shape.y.n;
            if (flat) pack(p - first, from + p % plane * shape.y.w, end - p);
            for (std::ptrdiff_t h = h0; h < h1; ++h) {
                const std::ptrdiff_t start = larger(p, image * plane + h * shape.out_w);
                const std::ptrdiff_t stop = smaller(end, image * plane + (h + 1) * shape.out_w);
                const std::ptrdiff_t w = start % shape.out_w;
                if (!flat) pack(start - first, from + h * shape.y.h + w * shape.y.w, stop - start);
                std::ptrdiff_t at = base + (h - h0) * row_step + (w - w0) * column_step;
                for (std::ptrdiff_t i = start; i < stop; ++i, at += column_step)
                    offset[i - first] = static_cast<std::int32_t>(at);
            }
            base += part.h.size * layout.pitch.h;
            p = end;
        }

        const bool resume = first % segment_pixels != 0;
        const Window tap_rows = plan.rows(0, 1);
        C* slot = sums;
        for (std::ptrdiff_t i = 0; i < panels; ++i) {
            const int used_vectors =
                static_cast<int>(ceil_div(smaller(lanes, task.lanes - i * lanes), vector));
            for (std::ptrdiff_t step = 0; step < steps; ++step) {
                const std::ptrdiff_t tap = by_taps ? step * shape.kernel_w : step;
                const C* at = source;
                if (!plan.direct)
                    at += tap_rows.of(0, tap / shape.kernel_w) * layout.pitch.h +
                          layout.w.of(0, tap % shape.kernel_w) * layout.pitch.w;
                for (std::ptrdiff_t j = 0; j < tiles.tiles; ++j, slot += tiles.tile_size)
                    tile_function<Isa, C>(static_cast<int>(tiles.begin(j + 1) - tiles.begin(j)),
                                          used_vectors)(
                        slot, at + tiles.begin(j) * row_step_in_tile, offset, row_step_in_tile,
                        panel + i * chunk * lanes, used_vectors * vector,
                        reinterpret_cast<const char*>(panel), 0, last - first, resume);
            }
        }
        first = last;
        if (many_segments && (last % segment_pixels == 0 || last == pixels)) {
            for (std::ptrdiff_t i = 0; i < sums_size; i += vector)
                storeu(total + i, segment == 0 ? loadu<Isa>(sums + i)
                                               : loadu<Isa>(total + i) + loadu<Isa>(sums + i));
        }
    }

    const C* result = many_segments ? total : sums;
    const bool contiguous = (shape.kernel_w == 1 || shape.weight.w == 1) &&
                            (shape.kernel_h == 1 || shape.weight.h == shape.kernel_w) &&
                            (channels == 1 || shape.weight.c == taps) && !by_taps;
    for (std::ptrdiff_t i = 0; i < panels; ++i, result += panel_sums) {
        const std::ptrdiff_t used = smaller(lanes, task.lanes - i * lanes);
        const std::ptrdiff_t pitch = ceil_div(used, vector) * vector;
        T* to = grad_weight + (task.k + i * lanes) * shape.weight.n + task.c * shape.weight.c;
        if (contiguous) {
            store_weight_rows<Isa>(to, shape.weight.n, used, result, tiles, pitch, add);
            continue;
        }
        const std::ptrdiff_t to_row = by_taps ? shape.weight.w : shape.weight.c;
        for (std::ptrdiff_t step = 0; step < steps; ++step) {
            const std::ptrdiff_t tap = by_taps ? step * shape.kernel_w : step;
            for (std::ptrdiff_t j = 0; j < tiles.tiles; ++j)
                store_tile<Isa>(to + tiles.begin(j) * to_row +
                                    tap / shape.kernel_w * shape.weight.h +
                                    tap % shape.kernel_w * shape.weight.w,
                                to_row, shape.weight.n, tiles.begin(j + 1) - tiles.begin(j), used,
                                result + (step * tiles.tiles + j) * tiles.tile_size, pitch,
                                static_cast<const C*>(nullptr), {add, false});
        }
    }
}

template <class Isa, class T>
void weight_gradient(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape,
                     bool add) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t vector = Vec<Isa, C>::size;
    const std::ptrdiff_t group_in = shape.in_channels / shape.groups;
    const std::ptrdiff_t group_out = shape.out_channels / shape.groups;
    const std::ptrdiff_t taps = shape.kernel_h * shape.kernel_w;
    // The sums of a task stay in L2 (twice: segment and total). Packing grad_y costs as much as 12
    // of its rows, copying x as much as 2 lanes, so a task has many of both.
    const std::ptrdiff_t lanes = smaller(group_out, 4 * vector);
    const std::ptrdiff_t sums_rows =
        larger(sums_bytes / static_cast<std::ptrdiff_t>(sizeof(C)) / 2 / (4 * vector), 1);
    const std::ptrdiff_t limit = smaller(larger(sums_rows / taps, 1), group_in);
    const std::ptrdiff_t lane_tasks = ceil_div(group_out, lanes);
    std::ptrdiff_t channel_tasks = ceil_div(group_in, limit);
    if (shape.groups * lane_tasks * channel_tasks < 8)
        channel_tasks = larger(channel_tasks, smaller(smaller(group_in * taps / 96, group_in / 12),
                                                      8 / (shape.groups * lane_tasks)));
    const std::ptrdiff_t tasks = lane_tasks * channel_tasks;
    parallel_for<Isa>(shape.groups * tasks, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t group = task / tasks;
        const std::ptrdiff_t k = task % tasks / channel_tasks * lanes;
        const std::ptrdiff_t c = task % channel_tasks;
        const std::ptrdiff_t begin = group_in * c / channel_tasks;
        const std::ptrdiff_t end = group_in * (c + 1) / channel_tasks;
        if (begin < end)
            weight_gradient_task<Isa>(
                grad_weight, grad_y, x, shape,
                {group, group * group_out + k, smaller(lanes, group_out - k), begin, end - begin},
                add);
    });
}

// The sum of one plane. Pixels are taken 32 at a time in row-major order, whatever the strides.
template <class Isa, class T>
double plane_sum(const T* y, const Conv2dShape& shape) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t lanes = 32;
    double sum[lanes] = {};
    const std::ptrdiff_t pixels = shape.out_h * shape.out_w;
    C line[lanes];
    std::ptrdiff_t h = 0;
    std::ptrdiff_t w = 0;
    for (std::ptrdiff_t p = 0; p < pixels; p += lanes) {
        const std::ptrdiff_t count = smaller(lanes, pixels - p);
        for (std::ptrdiff_t done = 0; done < count;) {
            const std::ptrdiff_t run = smaller(count - done, shape.out_w - w);
            copy_line<Isa>(line + done, y + h * shape.y.h + w * shape.y.w, shape.y.w, run);
            done += run;
            w += run;
            if (w == shape.out_w) {
                w = 0;
                ++h;
            }
        }
        for (std::ptrdiff_t j = 0; j < count; ++j) sum[j] += static_cast<double>(line[j]);
    }
    for (std::ptrdiff_t half = lanes / 2; half > 0; half /= 2)
        for (std::ptrdiff_t j = 0; j < half; ++j) sum[j] += sum[j + half];
    return sum[0];
}

// Channels whose 32 sums stay in L1.
constexpr std::ptrdiff_t bias_channels = 64;

// total[k] + the sum of plane k, of up to bias_channels planes that are side by side in memory: the
// sums of plane_sum with channels in the lanes.
template <class Isa, class T>
void add_plane_sums(double* total, const T* y, const Conv2dShape& shape, std::ptrdiff_t channels) {
    using C = Compute<T>;
    using D = Vec<Isa, double>;
    // Of the 32 lanes, as many as the pixels reach: the others' sums are zeros.
    std::ptrdiff_t lanes = 32;
    while (lanes > 1 && lanes / 2 >= shape.out_h * shape.out_w) lanes /= 2;
    double sum[32 * bias_channels];
    fill_zero<Isa>(sum, lanes * bias_channels);
    std::ptrdiff_t lane = 0;
    for (std::ptrdiff_t h = 0; h < shape.out_h; ++h)
        for (std::ptrdiff_t w = 0; w < shape.out_w; ++w, lane = (lane + 1) % lanes) {
            const T* pixel = y + h * shape.y.h + w * shape.y.w;
            double* to = sum + lane * bias_channels;
            for_each_vec<Isa, Vec<Isa, C>::size>(channels, [&](std::ptrdiff_t k, auto which) {
                __builtin_prefetch(pixel + 8 * shape.y.w + k);
                const Vec<Isa, C> v = load<Isa>(pixel + k, which);
                if constexpr (sizeof(C) == 8) {
                    storeu(to + k, loadu<Isa>(to + k) + v);
                } else {
                    double* high = to + k + D::size;
                    storeu(to + k, loadu<Isa>(to + k) + widen_low<Isa>(v));
                    storeu(high, loadu<Isa>(high) + widen_high<Isa>(v));
                }
            });
        }
    for (std::ptrdiff_t half = lanes / 2 * bias_channels; half >= bias_channels; half /= 2)
        for (std::ptrdiff_t i = 0; i < half; ++i) sum[i] += sum[i + half];
    for (std::ptrdiff_t k = 0; k < channels; ++k) total[k] += sum[k];
}

template <class Isa, class T>
void bias_gradient(T* grad_bias, const T* grad_y, const Conv2dShape& shape) {
    using C = Compute<T>;
    const std::ptrdiff_t work = shape.batch * shape.out_h * shape.out_w;
    const bool last = shape.y.c == 1;
    std::ptrdiff_t share = larger((1 << 16) / larger(work, 1), 1);
    if (last) share = ceil_div(share, bias_channels) * bias_channels;
    parallel_for<Isa>(ceil_div(shape.out_channels, share), [&](std::ptrdiff_t task) {
        const std::ptrdiff_t end = smaller((task + 1) * share, shape.out_channels);
        const std::ptrdiff_t step = last ? bias_channels : 1;
        for (std::ptrdiff_t k = task * share; k < end; k += step) {
            const std::ptrdiff_t channels = smaller(step, end - k);
            double sum[bias_channels] = {};
            for (std::ptrdiff_t n = 0; n < shape.batch; ++n) {
                const T* plane = grad_y + n * shape.y.n + k * shape.y.c;
                if (last)
                    add_plane_sums<Isa>(sum, plane, shape, channels);
                else
                    sum[0] += plane_sum<Isa>(plane, shape);
            }
            for (std::ptrdiff_t i = 0; i < channels; ++i)
                store(grad_bias + (k + i) * shape.bias, Vec<Isa, C>::splat(static_cast<C>(sum[i])),
                      FirstLanes{1});
        }
    });
}

}  // namespace stableops
