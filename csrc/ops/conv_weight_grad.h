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
#include "conv_correlate.h"

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
        const PixelRun run{p / shape.out_w / shape.out_h, h, w,
                           smaller(shape.out_w - w, last - p)};
        body(run);
        p += run.length;
    }
}

// A task: output channels [k, k + lanes) and input channels [c, c + channels) of one group.
struct WeightGradTask {
    std::ptrdiff_t group, k, lanes, c, channels;
};

template <class Isa, class T>
void weight_gradient_task(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape,
                          const WeightGradTask& task) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t vector = V::size;
    constexpr std::ptrdiff_t size = sizeof(C);
    const std::ptrdiff_t pixels = shape.batch * shape.out_h * shape.out_w;
    const std::ptrdiff_t taps = shape.kernel_h * shape.kernel_w;
    const std::ptrdiff_t channels = task.channels;
    const std::ptrdiff_t tile_rows = TileLimits<Isa>::rows(2);
    const std::ptrdiff_t channel_tiles = ceil_div(channels, tile_rows);
    const int vectors = channels <= TileLimits<Isa>::rows(4) ? 4 : 2;
    const std::ptrdiff_t lanes = vectors * vector;
    const std::ptrdiff_t panels = ceil_div(task.lanes, lanes);

    // Each run of a chunk has its own kernel_h rows in the window, wide enough for the longest.
    const bool channels_innermost = shape.x.c == 1 && channels > 1;
    std::ptrdiff_t chunk = 4 * block_terms;
    const Axis axis_w{shape.in_w, shape.out_w, shape.stride_w, shape.kernel_w, -shape.pad_left,
                      shape.dilation_w};
    const Axis axis_h{shape.in_h, shape.out_h, shape.stride_h, shape.kernel_h, -shape.pad_top,
                      shape.dilation_h};
    std::ptrdiff_t runs = 0;
    PatchLayout layout{};
    for (;; chunk /= 2) {
        runs = chunk / shape.out_w + 2;
        const std::ptrdiff_t longest = smaller(shape.out_w, chunk);
        const Window w = channels_innermost ? outer_window(axis_w, 0, longest)
                                            : inner_window(axis_w, 0, longest);
        const Window h = apart_window(axis_h, 0, runs);
        layout = patch_layout<Isa, C>(h, w, 1, channels, channels_innermost);
        const std::ptrdiff_t elements =
            channels_innermost ? layout.pitch.n : channels * layout.pitch.c;
        if (elements * size <= window_bytes || chunk == block_terms) break;
    }
    const std::ptrdiff_t window_size =
        channels_innermost ? layout.pitch.n : channels * layout.pitch.c;
    const std::ptrdiff_t tile_size = tile_rows * lanes;
    const std::ptrdiff_t sums_size = panels * taps * channel_tiles * tile_size;
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
    if (pixels == 0) fill_zero<Isa>(sums, sums_size);
    for (std::ptrdiff_t first = 0; first < pixels;) {
        const std::ptrdiff_t segment = first / segment_pixels;
        const std::ptrdiff_t last =
            smaller(smaller(first + chunk, pixels), (segment + 1) * segment_pixels);
        std::ptrdiff_t run_number = 0;
        std::ptrdiff_t pixel = 0;
        for_each_run<Isa>(shape, first, last, [&](const PixelRun& run) {
            PatchLayout part = layout;
            part.h = apart_window(axis_h, run.h, run.h + 1);
            part.w.begin = run.w;
            const std::ptrdiff_t base = run_number * shape.kernel_h * layout.pitch.h;
            copy_patches<Isa>(window + base, part, x + run.n * shape.x.n, shape.x, axis_h, axis_w,
                              1, channels);
            for (std::ptrdiff_t i = 0; i < run.length; ++i)
                offset[pixel + i] = static_cast<std::int32_t>(
                    base + i * layout.w.out_step * layout.pitch.w);
            const T* from =
                grad_y + run.n * shape.y.n + run.h * shape.y.h + run.w * shape.y.w;
            for (std::ptrdiff_t i = 0; i < panels; ++i) {
                const std::ptrdiff_t used = smaller(lanes, task.lanes - i * lanes);
                const int used_vectors = static_cast<int>(ceil_div(used, vector));
                pack_run<Isa>(panel + i * chunk * lanes + pixel * used_vectors * vector,
                              from + i * lanes * shape.y.c, shape.y.c, shape.y.w, used,
                              run.length, used_vectors);
            }
            pixel += run.length;
            ++run_number;
        });

        const bool resume = first % segment_pixels != 0;
        C* slot = sums;
        for (std::ptrdiff_t i = 0; i < panels; ++i) {
            const int used_vectors = static_cast<int>(
                ceil_div(smaller(lanes, task.lanes - i * lanes), vector));
            for (std::ptrdiff_t tap = 0; tap < taps; ++tap) {
                const C* at = window + tap / shape.kernel_w * layout.pitch.h +
                              layout.w.of(layout.w.begin, tap % shape.kernel_w) * layout.pitch.w;
                for (std::ptrdiff_t j = 0; j < channel_tiles; ++j, slot += tile_size) {
                    const std::ptrdiff_t begin = channels * j / channel_tiles;
                    const std::ptrdiff_t end = channels * (j + 1) / channel_tiles;
                    tile_function<Isa, C>(static_cast<int>(end - begin), used_vectors)(
                        slot, at + begin * layout.pitch.c, offset, layout.pitch.c,
                        panel + i * chunk * lanes, last - first, resume);
                }
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
    for (std::ptrdiff_t i = 0; i < panels; ++i) {
        const std::ptrdiff_t used = smaller(lanes, task.lanes - i * lanes);
        const std::ptrdiff_t pitch = ceil_div(used, vector) * vector;
        for (std::ptrdiff_t tap = 0; tap < taps; ++tap)
            for (std::ptrdiff_t j = 0; j < channel_tiles; ++j, result += tile_size) {
                const std::ptrdiff_t begin = channels * j / channel_tiles;
                const std::ptrdiff_t end = channels * (j + 1) / channel_tiles;
                T* to = grad_weight + (task.k + i * lanes) * shape.weight.n +
                        (task.c + begin) * shape.weight.c +
                        tap / shape.kernel_w * shape.weight.h +
                        tap % shape.kernel_w * shape.weight.w;
                store_tile<Isa>(to, shape.weight.c, shape.weight.n, end - begin, used, result,
                                pitch, static_cast<const C*>(nullptr));
            }
    }
}

template <class Isa, class T>
void weight_gradient(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t vector = Vec<Isa, C>::size;
    const std::ptrdiff_t group_in = shape.in_channels / shape.groups;
    const std::ptrdiff_t group_out = shape.out_channels / shape.groups;
    const std::ptrdiff_t taps = shape.kernel_h * shape.kernel_w;
    // The sums of a task stay in L2 (twice: segment and total), and the packing of grad_y is shared by
    // as many rows, the copy of x by as many lanes, as that allows.
    const std::ptrdiff_t lanes = smaller(group_out, 4 * vector);
    const std::ptrdiff_t sums_rows =
        larger(sums_bytes / static_cast<std::ptrdiff_t>(sizeof(C)) / 2 / (4 * vector), 1);
    const std::ptrdiff_t limit = smaller(larger(sums_rows / taps, 1), group_in);
    std::ptrdiff_t channel_tasks = larger(ceil_div(group_in, limit), 1);
    const std::ptrdiff_t lane_tasks = ceil_div(group_out, lanes);
    const std::ptrdiff_t work =
        shape.batch * shape.out_h * shape.out_w * group_in * taps * lanes;
    if (shape.groups * lane_tasks * channel_tasks < 16)
        channel_tasks = larger(channel_tasks, smaller(ceil_div(group_in, TileLimits<Isa>::rows(2)),
                                                      smaller(work / task_work, 4)));
    const std::ptrdiff_t tasks = lane_tasks * channel_tasks;
    parallel_for<Isa>(shape.groups * tasks, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t group = task / tasks;
        const std::ptrdiff_t k = task % tasks / channel_tasks * lanes;
        const std::ptrdiff_t c = task % channel_tasks;
        const std::ptrdiff_t begin = group_in * c / channel_tasks;
        const std::ptrdiff_t end = group_in * (c + 1) / channel_tasks;
        if (begin < end)
            weight_gradient_task<Isa>(grad_weight, grad_y, x, shape,
                                      {group, group * group_out + k,
                                       smaller(lanes, group_out - k), begin, end - begin});
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

template <class Isa, class T>
void bias_gradient(T* grad_bias, const T* grad_y, const Conv2dShape& shape) {
    using C = Compute<T>;
    const std::ptrdiff_t work = shape.batch * shape.out_h * shape.out_w;
    const std::ptrdiff_t share = smaller(larger((1 << 16) / larger(work, 1), 1), shape.out_channels);
    parallel_for<Isa>(ceil_div(shape.out_channels, share), [&](std::ptrdiff_t task) {
        const std::ptrdiff_t end = smaller((task + 1) * share, shape.out_channels);
        for (std::ptrdiff_t k = task * share; k < end; ++k) {
            double sum = 0;
            for (std::ptrdiff_t n = 0; n < shape.batch; ++n)
                sum += plane_sum<Isa>(grad_y + n * shape.y.n + k * shape.y.c, shape);
            store(grad_bias + k * shape.bias, Vec<Isa, C>::splat(static_cast<C>(sum)),
                  FirstLanes{1});
        }
    });
}

}  // namespace stableops
