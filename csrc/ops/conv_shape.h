#pragma once
// Sizes and strides of a 2-D convolution (moves to kernels.h).
#include <cstddef>

namespace stableops {

// Of a 4-D array, in elements.
struct Strides4 {
    std::ptrdiff_t n, c, h, w;
};

struct Conv2dShape {
    std::ptrdiff_t batch, in_channels, in_h, in_w;
    std::ptrdiff_t out_channels, kernel_h, kernel_w, out_h, out_w;
    std::ptrdiff_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    // Of the weight (K, C / groups, R, S) too: n is the stride of an output channel.
    Strides4 x, weight, y;
    std::ptrdiff_t bias;
};

}  // namespace stableops
