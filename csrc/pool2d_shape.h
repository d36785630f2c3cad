#pragma once
// Sizes and strides of the 2-D poolings.
#include <cstddef>
#include <cstdint>

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

// What avg_pool2d and adaptive_avg_pool2d divide by, and where their windows lie.
struct AvgPool2dRule {
    bool adaptive;  // windows cut the image into out_h x out_w parts; kernel, stride, pad do not
                    // count
    bool count_include_pad;
    std::int64_t divisor;  // 0: the number of elements of the window
};

}  // namespace stableops
