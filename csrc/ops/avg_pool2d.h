#pragma once
// avg_pool2d:                    y[o] = sum of x over window o / divisor of window o
// adaptive_avg_pool2d:           the same; windows floor(o * in / out) .. ceil((o + 1) * in / out)
// their backward functions:      grad_x[i] = sum over the windows o that hold i of
//                                            grad_y[o] / divisor of window o
//
// Shapes: x and grad_x (N, C, H, W); y and grad_y (N, C, out_h, out_w).
//
// The canonical order of every sum here: each column from top to bottom, then the column sums from
// left to right, starting from +0. A column is summed once for all the windows of a row that share
// it, and R + S additions round less than R * S do. Forward and backward are one pass, since the
// windows that hold an element are consecutive on either axis too: they differ in the spans of rows
// and columns, and in whether the divisor belongs to the result or to the terms.
//
// float32, float16 and bfloat16 are summed in float64, which no such sum can overflow, and rounded
// once more for float32, twice for the narrow ones: |error| <= (0.5 + n * 2^-28) ULP for n terms
// of one sign. float64 sums carry their rounding errors along (TwoSum, Ogita, Rump & Oishi 2005),
// and the division corrects its quotient by the remainder: |error| <= (0.5 + n^2 * 2^-51) ULP. A
// float64 result that is not finite is computed again from x * 2^-k, so that no sum overflows where
// the mean does not; only infinities and NaN pay for that in vain.
#include "../pool2d_shape.h"
#include "avg_pool2d_pixels.h"
#include "avg_pool2d_planes.h"

namespace stableops {

template <class Isa, class T, bool backward>
[[gnu::noinline]] AvgPoolPass<Isa, T, backward> avg_pool_pass(const Pool2dShape& shape,
                                                              const AvgPool2dRule& rule) {
    AvgPoolPass<Isa, T, backward> pass = {};
    pass.h = {shape.height, shape.out_h,   shape.kernel_h, shape.stride_h,
              shape.pad_h,  rule.adaptive, backward,       rule.count_include_pad};
    pass.w = {shape.width, shape.out_w,   shape.kernel_w, shape.stride_w,
              shape.pad_w, rule.adaptive, backward,       rule.count_include_pad};
    double terms = 1;
    for (PoolAxis<Isa>* axis : {&pass.h, &pass.w}) {
        terms *= static_cast<double>(rule.adaptive ? axis->source : axis->kernel);
        if (backward) {
            const std::ptrdiff_t image = axis->source;
            axis->source = axis->result;
            axis->result = image;
        }
        axis->make_regular();
    }
    pass.divisor = rule.divisor;
    pass.left = pass.stepwise() ? 0 : larger<Isa>(0, -pass.first_column(0));
    pass.scale = 0.125;
    for (; terms > 1; terms *= 0.5) pass.scale *= 0.5;
    return pass;
}

template <bool backward, class Isa, class T>
void avg_pool(const Pool2dShape& shape, const AvgPool2dRule& rule, T* y, const T* x,
              const ImageStrides& stride) {
    if (shape.channels_last) {
        avg_pool_channels_last(avg_pool_pass<Isa, T, backward>(shape, rule), shape.batch,
                               shape.channels, y, x, stride);
    } else {
        using C = typename PoolElement<T>::type;
        avg_pool_planes(avg_pool_pass<Isa, C, backward>(shape, rule), shape.batch, shape.channels,
                        y, x, stride, plane_access<Isa, T>());
    }
}

// `stride` is that of x or grad_y, which are read; the results are contiguous.
template <class Isa, Storage T>
void avg_pool2d(const Pool2dShape& shape, const AvgPool2dRule& rule, T* y, const T* x,
                const ImageStrides& stride) {
    avg_pool<false, Isa, T>(shape, rule, y, x, stride);
}
template <class Isa, Storage T>
void avg_pool2d_backward(const Pool2dShape& shape, const AvgPool2dRule& rule, T* grad_x,
                         const T* grad_y, const ImageStrides& stride) {
    avg_pool<true, Isa, T>(shape, rule, grad_x, grad_y, stride);
}

}  // namespace stableops
