#pragma once
// Sizes and strides of the 2-D poolings.
#include <cstddef>

namespace stableops {

// Of an (N, C, H, W) array, in elements; any sign, zero included.
struct ImageStrides {
    std::ptrdiff_t n, c, h, w;
};

// Window (oy, ox) has its tap (r, s) at row oy * stride_h - pad_h + r * dilation_h and column
// ox * stride_w - pad_w + s * dilation_w of the image. Every window has at least one tap inside.
struct Pool2dShape {
    std::ptrdiff_t batch, channels, height, width;
    std::ptrdiff_t out_h, out_w;
    std::ptrdiff_t kernel_h, kernel_w;
    std::ptrdiff_t stride_h, stride_w;
    std::ptrdiff_t pad_h, pad_w;
    std::ptrdiff_t dilation_h, dilation_w;
    // The input's channel stride is 1, and the result's memory is in (N, H, W, C) order; otherwise
    // it is in (N, C, H, W) order.
    bool channels_last;
};

}  // namespace stableops
