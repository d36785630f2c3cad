#pragma once
// Sizes and strides of a 2-D convolution, as the bindings pass them to the kernels.
#include <cstddef>

namespace stableops {

// Of a 4-D array, in elements.
struct Strides4 {
    std::ptrdiff_t n, c, h, w;
};

// out_h and out_w imply the padding at the bottom and on the right.
struct Conv2dShape {
    std::ptrdiff_t batch, in_channels, in_h, in_w;
    std::ptrdiff_t out_channels, kernel_h, kernel_w, out_h, out_w;
    std::ptrdiff_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    // `weight` is (out_channels, in_channels / groups, kernel_h, kernel_w).
    Strides4 x, weight, y;
    std::ptrdiff_t bias;
};

}  // namespace stableops
