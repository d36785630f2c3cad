#pragma once
// conv2d and its gradients.
//
//   y[n,k,oh,ow] = bias[k] + sum over (c,r,s), ascending, of
//                  weight[k,c,r,s] * x[n, g C/G + c, oh stride_h - pad_top + r dilation_h, ...]
//   grad_x       : terms (k,r,s) ascending, over the outputs that read the pixel
//   grad_weight  : terms (n,oh,ow) ascending
//   grad_bias    : sum of grad_y over (n,oh,ow)
// A transposed convolution is grad_x with a bias that is added last.
//
// Each is a canonical sum (gemm.h). Zero padding is data: x outside the image is +0, as if the
// image had been padded beforehand, so 0 * inf at a border is NaN in y and in grad_weight exactly
// as it is for numpy.pad and no padding. In grad_x an output that does not exist is no term,
// whatever the weight.
//
// gemm.h has the error bound, conv_problem.h the map of the other files.
#include "../runtime/parallel.h"
#include "conv_channel_lanes.h"
#include "conv_depthwise.h"
#include "conv_pixel_lanes.h"
#include "conv_streamed.h"

namespace stableops {

// Unknown for negative strides.
template <class Isa, class T>
const T* end_of_weight(const T* weight, const Conv2dShape& shape) {
    const Strides4& s = shape.weight;
    if (weight == nullptr || s.n < 0 || s.c < 0 || s.h < 0 || s.w < 0) return nullptr;
    return weight + (shape.out_channels - 1) * s.n + (shape.in_channels / shape.groups - 1) * s.c +
           (shape.kernel_h - 1) * s.h + (shape.kernel_w - 1) * s.w + 1;
}

// Few output channels or terms to share packed operands with, and pixels innermost on both sides;
// or so few channels that the lanes of other forms would be idle, and rows to transpose.
template <class Isa, class T>
bool prefer_direct(const Correlation<T>& p, std::ptrdiff_t problems) {
    const std::ptrdiff_t lanes = Vec<Isa, Compute<T>>::size;
    const bool planar =
        (p.y_stride.w == 1 || p.y_stride.c != 1) && (p.x_stride.w == 1 || p.x_stride.c != 1);
    const std::ptrdiff_t taps = p.h.taps * p.w.taps;
    if (p.panels || p.terms() == 0) return false;
    if (p.out_channels < lanes / 2) return planar || (taps * problems > 1 && p.w.out >= lanes);
    return planar && p.terms() <= 64 && taps > 1;
}

// The correlations of all groups and `problems` phases: problem(i) is phase i of the first group.
template <class Isa, class T, class Problem>
void correlate(std::ptrdiff_t problems, std::ptrdiff_t groups, const GroupSteps& steps,
               Problem&& problem) {
    // The first phase has the most outputs; a block beyond another's end is empty.
    const Correlation<T> first = problem(0);
    if constexpr (Isa::has_fma) {
        if (is_depthwise_last<Isa>(first, steps)) {
            const std::ptrdiff_t row = larger(first.w.out * first.terms() * groups, 1);
            const std::ptrdiff_t rows = smaller(larger(task_work / 4 / row, 1), first.h.out);
            const std::ptrdiff_t blocks = ceil_div(first.h.out, rows);
            parallel_for<Isa>(problems * first.images * blocks, [&](std::ptrdiff_t task) {
                const Correlation<T> p = problem(task / blocks / first.images);
                const std::ptrdiff_t h = task % blocks * rows;
                depthwise_rows<Isa>(p, steps, groups, task / blocks % first.images, h,
                                    smaller(h + rows, p.h.out));
            });
            return;
        }
    }
    // Where masked loads are instructions, and for the type that networks have.
    if constexpr (std::is_same_v<T, float> && Isa::bytes > 16) {
        if (problems == 1 && is_depthwise_plane<Isa>(first)) {
            // These sums run at a quarter to a tenth of a large tile's rate.
            const std::ptrdiff_t share = larger(task_work / 16 / (9 * first.w.out), 1);
            const std::ptrdiff_t rows = smaller(share, first.h.out);
            const std::ptrdiff_t row_blocks = ceil_div(first.h.out, rows);
            const std::ptrdiff_t group_blocks = ceil_div(groups, larger(share / rows, 1));
            parallel_for<Isa>(first.images * row_blocks * group_blocks, [&](std::ptrdiff_t task) {
                const std::ptrdiff_t h = task % row_blocks * rows;
                const std::ptrdiff_t block = task / row_blocks % group_blocks;
                depthwise_planes<Isa>(first, steps, task / row_blocks / group_blocks, h,
                                      smaller(h + rows, first.h.out), groups * block / group_blocks,
                                      groups * (block + 1) / group_blocks);
            });
            return;
        }
        bool pairs = problems % 2 == 0;
        for (std::ptrdiff_t i = 0; pairs && i < problems; i += 2)
            pairs = is_depthwise_pair<Isa>(problem(i), problem(i + 1));
        if (pairs) {
            const std::ptrdiff_t share =
                task_work / 4 / larger(first.terms() * problems * first.h.out * first.w.out, 1);
            const std::ptrdiff_t blocks = ceil_div(groups, larger(share, 1));
            parallel_for<Isa>(first.images * blocks, [&](std::ptrdiff_t task) {
                const std::ptrdiff_t block = task % blocks;
                for (std::ptrdiff_t i = 0; i < problems; i += 2)
                    depthwise_pair<Isa>(problem(i), problem(i + 1), steps, task / blocks,
                                        groups * block / blocks, groups * (block + 1) / blocks);
            });
            return;
        }
    }
    const DirectPlan direct = plan_direct<Isa>(first, groups, problems);
    if (prefer_direct<Isa>(first, problems) && direct.tasks() > 0) {
        // All phases of a block in one task: they share its lines of y.
        parallel_for<Isa>(direct.tasks(), [&](std::ptrdiff_t task) {
            for (std::ptrdiff_t i = 0; i < problems; ++i)
                correlate_direct<Isa>(problem(i), steps, groups, direct, task);
        });
        return;
    }
    if constexpr (std::is_same_v<T, Compute<T>> && Isa::has_fma) {
        const bool dots = dots_weights<Isa>(first);
        if (problems == 1 && groups == 1 && (dots || streams_weights<Isa>(first))) {
            // Half a million weights are worth handing over, in rows that memory likes.
            const std::ptrdiff_t all = first.out_channels;
            const std::ptrdiff_t tasks = larger(smaller(all * first.terms() >> 19, all / 384), 1);
            auto begin = [&](std::ptrdiff_t task) {
                return task == tasks ? all : all / 16 * task / tasks * 16;
            };
            parallel_for<Isa>(tasks, [&](std::ptrdiff_t task) {
                if (dots)
                    correlate_dotted<Isa>(first, begin(task), begin(task + 1));
                else
                    correlate_streamed<Isa>(first, begin(task), begin(task + 1));
            });
            return;
        }
        if (problems == 1 && groups == 1 && writes_rows<Isa>(first)) {
            const std::ptrdiff_t pixels = first.images * first.h.out * first.w.out;
            const std::ptrdiff_t share = larger((1 << 18) / first.out_channels, written_rows);
            parallel_for<Isa>(ceil_div(pixels, share), [&](std::ptrdiff_t task) {
                correlate_written<Isa>(first, task * share, smaller((task + 1) * share, pixels));
            });
            return;
        }
    }
    std::ptrdiff_t others = 0;
    for (std::ptrdiff_t i = 0; i < problems; ++i) others += problem(i).terms() > 0;
    const BlockPlan plan = plan_blocks<Isa>(first, larger(others, 1) * groups);
    const std::ptrdiff_t tasks = plan.tasks();
    parallel_for<Isa>(problems * groups * tasks, [&](std::ptrdiff_t task) {
        const Correlation<T> p =
            of_group<Isa>(problem(task / tasks / groups), steps, task / tasks % groups);
        if constexpr (std::is_same_v<T, Compute<T>> && Isa::has_fma) {
            if (plan.pixel_lanes) {
                correlate_pixels<Isa>(p, plan.block(task % tasks));
                return;
            }
        }
        correlate_channels<Isa>(p, plan.block(task % tasks));
    });
}

template <class Isa, class T>
void pack_conv2d_weight(Compute<T>* panels, const T* weight, const Conv2dShape& shape) {
    constexpr std::ptrdiff_t lanes = panel_lanes<Compute<T>>;
    const std::ptrdiff_t group_in = shape.in_channels / shape.groups;
    const std::ptrdiff_t group_out = shape.out_channels / shape.groups;
    const std::ptrdiff_t terms = group_in * shape.kernel_h * shape.kernel_w;
    const std::ptrdiff_t blocks = ceil_div(group_out, lanes);
    parallel_for<Isa>(shape.groups * blocks, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t k = task % blocks * lanes;
        const TermMatrix<T> matrix{weight + task / blocks * group_out * shape.weight.n,
                                   shape.weight.n,
                                   {group_in, shape.kernel_h, shape.kernel_w},
                                   {shape.weight.c, shape.weight.h, shape.weight.w},
                                   end_of_weight<Isa>(weight, shape)};
        pack_panel<Isa>(panels + task * lanes * terms, join_axes<Isa>(matrix), k,
                        smaller(lanes, group_out - k), 0, terms,
                        static_cast<int>(lanes) / Vec<Isa, Compute<T>>::size);
    });
}

// weight or panels is null.
template <class Isa, class T>
void conv2d(T* y, const T* x, const T* weight, const Compute<T>* panels, const T* bias,
            const Conv2dShape& shape) {
    const std::ptrdiff_t group_in = shape.in_channels / shape.groups;
    const std::ptrdiff_t group_out = shape.out_channels / shape.groups;
    const Correlation<T> first{
        {shape.in_h, shape.out_h, shape.stride_h, shape.kernel_h, -shape.pad_top, shape.dilation_h},
        {shape.in_w, shape.out_w, shape.stride_w, shape.kernel_w, -shape.pad_left,
         shape.dilation_w},
        shape.batch,
        group_in,
        group_out,
        x,
        shape.x,
        {weight,
         shape.weight.n,
         {group_in, shape.kernel_h, shape.kernel_w},
         {shape.weight.c, shape.weight.h, shape.weight.w},
         end_of_weight<Isa>(weight, shape)},
        panels,
        bias,
        shape.bias,
        y,
        shape.y,
        false,
        shape.epilogue};
    const GroupSteps steps{group_in * shape.x.c, group_out * shape.weight.n,
                           panels_size<Compute<T>>(shape) / shape.groups, group_out * shape.bias,
                           group_out * shape.y.c};
    correlate<Isa, T>(1, shape.groups, steps, [&](std::ptrdiff_t) { return first; });
}

// The taps that reach inputs phase, phase + stride, phase + 2 stride, ... along one axis, and where
// in grad_y they find their outputs: input phase + stride q is read with tap first_tap + m tap_step
// by output q + axis.first + m axis.step.
struct Phase {
    Axis axis;
    std::ptrdiff_t first_tap, tap_step;
};

static inline Phase phase_of(std::ptrdiff_t phase, std::ptrdiff_t in, std::ptrdiff_t out,
                             std::ptrdiff_t stride, std::ptrdiff_t kernel, std::ptrdiff_t pad,
                             std::ptrdiff_t dilation) {
    std::ptrdiff_t common = stride;
    for (std::ptrdiff_t rest = dilation; rest != 0;) {
        const std::ptrdiff_t next = common % rest;
        common = rest;
        rest = next;
    }
    Phase result{
        {out, ceil_div(in - phase, stride), 1, 0, 0, -(dilation / common)}, 0, stride / common};
    for (std::ptrdiff_t r = 0; r < smaller(kernel, result.tap_step); ++r) {
        const std::ptrdiff_t place = phase + pad - r * dilation;
        if (place % stride == 0) {
            result.first_tap = r;
            result.axis.first = place / stride;
            result.axis.taps = ceil_div(kernel - r, result.tap_step);
            break;
        }
    }
    return result;
}

// With a stride, the inputs of one phase are a convolution of their own, so no zero is ever
// inserted between the elements of grad_y.
template <class Isa, class T>
void conv2d_grad_input(T* grad_x, const T* grad_y, const T* weight, const T* bias,
                       const Conv2dShape& shape) {
    const std::ptrdiff_t group_in = shape.in_channels / shape.groups;
    const std::ptrdiff_t group_out = shape.out_channels / shape.groups;
    const std::ptrdiff_t phases_h = smaller(shape.stride_h, shape.in_h);
    const std::ptrdiff_t phases_w = smaller(shape.stride_w, shape.in_w);
    auto correlation = [&](std::ptrdiff_t problem) {
        const std::ptrdiff_t phase_w = problem % phases_w;
        const std::ptrdiff_t phase_h = problem / phases_w;
        const Phase h = phase_of(phase_h, shape.in_h, shape.out_h, shape.stride_h, shape.kernel_h,
                                 shape.pad_top, shape.dilation_h);
        const Phase w = phase_of(phase_w, shape.in_w, shape.out_w, shape.stride_w, shape.kernel_w,
                                 shape.pad_left, shape.dilation_w);
        return Correlation<T>{
            h.axis,
            w.axis,
            shape.batch,
            group_out,
            group_in,
            grad_y,
            shape.y,
            {weight + h.first_tap * shape.weight.h + w.first_tap * shape.weight.w,
             shape.weight.c,
             {group_out, h.axis.taps, w.axis.taps},
             {shape.weight.n, shape.weight.h * h.tap_step, shape.weight.w * w.tap_step},
             end_of_weight<Isa>(weight, shape)},
            nullptr,
            bias,
            shape.bias,
            grad_x + phase_h * shape.x.h + phase_w * shape.x.w,
            {shape.x.n, shape.x.c, shape.x.h * shape.stride_h, shape.x.w * shape.stride_w},
            true};
    };
    const GroupSteps steps{group_out * shape.y.c, group_out * shape.weight.n, 0,
                           group_in * shape.bias, group_in * shape.x.c};
    correlate<Isa, T>(phases_h * phases_w, shape.groups, steps, correlation);
}

// The stride of all pixels in row-major order, or 0 if they have none.
static inline std::ptrdiff_t flat_stride(const Conv2dShape& s, const Strides4& stride) {
    const std::ptrdiff_t step = s.out_w > 1 ? stride.w : s.out_h > 1 ? stride.h : stride.n;
    const bool rows = s.out_w == 1 || s.out_h == 1 || stride.h == s.out_w * step;
    const bool images =
        s.batch == 1 || s.out_h * s.out_w == 1 || stride.n == s.out_h * s.out_w * step;
    return rows && images ? step : 0;
}

// A linear layer, or a 1x1 layer of channels-last images: grad_weight [k][c] is a linear layer too,
// whose input is grad_y and whose weight is x, both transposed and both read where they lie.
template <class Isa, class T>
bool is_matrix_product(const Conv2dShape& s) {
    const std::ptrdiff_t pixels = s.batch * s.out_h * s.out_w;
    return std::is_same_v<T, Compute<T>> && s.kernel_h * s.kernel_w == 1 && s.groups == 1 &&
           s.stride_h * s.stride_w == 1 && s.pad_top == 0 && s.pad_left == 0 && s.in_h == s.out_h &&
           s.in_w == s.out_w && s.x.c == 1 && s.y.c == 1 && s.weight.c == 1 && s.in_channels >= 8 &&
           pixels > 0 && (pixels == 1 || flat_stride(s, s.x) != 0) &&
           (pixels == 1 || flat_stride(s, s.y) != 0);
}

template <class Isa, class T>
void matrix_weight_gradient(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape,
                            bool add) {
    const std::ptrdiff_t pixels = shape.batch * shape.out_h * shape.out_w;
    const std::ptrdiff_t x_step = flat_stride(shape, shape.x);
    const std::ptrdiff_t y_step = flat_stride(shape, shape.y);
    for (std::ptrdiff_t first = 0; first < pixels; first += segment_pixels) {
        const std::ptrdiff_t count = smaller(segment_pixels, pixels - first);
        const T* weight = x + first * x_step;
        const Correlation<T> product{{1, 1, 1, 1, 0, 1},
                                     {shape.out_channels, shape.out_channels, 1, 1, 0, 1},
                                     1,
                                     count,
                                     shape.in_channels,
                                     grad_y + first * y_step,
                                     {0, y_step, 0, 1},
                                     {weight, 1, {count, 1, 1}, {x_step, 0, 0}, nullptr},
                                     nullptr,
                                     nullptr,
                                     0,
                                     grad_weight,
                                     {0, 1, 0, shape.weight.n},
                                     false,
                                     {add || first > 0, false}};
        correlate<Isa, T>(1, 1, {}, [&](std::ptrdiff_t) { return product; });
    }
}

template <class Isa, class T>
void conv2d_grad_weight(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape,
                        bool add) {
    if (is_matrix_product<Isa, T>(shape)) {
        matrix_weight_gradient<Isa>(grad_weight, grad_y, x, shape, add);
        return;
    }
    if constexpr (Isa::has_fma) {
        if (is_depthwise<Isa, T>(shape) && !add) {
            constexpr std::ptrdiff_t lanes = Vec<Isa, Compute<T>>::size;
            parallel_for<Isa>(ceil_div(shape.groups, lanes), [&](std::ptrdiff_t task) {
                depthwise_weight_gradient<Isa>(grad_weight, grad_y, x, shape, task * lanes,
                                               smaller(lanes, shape.groups - task * lanes));
            });
            return;
        }
    }
    weight_gradient<Isa>(grad_weight, grad_y, x, shape, add);
}

template <class Isa, class T>
void conv2d_grad_bias(T* grad_bias, const T* grad_y, const Conv2dShape& shape) {
    bias_gradient<Isa>(grad_bias, grad_y, shape);
}

}  // namespace stableops
