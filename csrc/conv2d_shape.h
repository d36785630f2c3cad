#pragma once
// Sizes and strides of a 2-D convolution, as the bindings pass them to the kernels.
#include <cstddef>

namespace stableops {

// Of a 4-D array, in elements.
struct Strides4 {
    std::ptrdiff_t n, c, h, w;
};

// What becomes of a sum and its bias: y + it if `add`, and of that the rectifier if `rectify`. The
// bits are those of a convolution, an addition and a rectifier one after another.
struct Epilogue {
    bool add, rectify;
};

// out_h and out_w imply the padding at the bottom and on the right.
struct Conv2dShape {
    std::ptrdiff_t batch, in_channels, in_h, in_w;
    std::ptrdiff_t out_channels, kernel_h, kernel_w, out_h, out_w;
    std::ptrdiff_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, groups;
    // `weight` is (out_channels, in_channels / groups, kernel_h, kernel_w).
    Strides4 x, weight, y;
    std::ptrdiff_t bias;
    // Of conv2d.
    Epilogue epilogue;
};

// Weights packed beforehand: panels [term][output channel] of this many channels, one panel after
// another, one group after another, padded with zeros. The same at every SIMD level.
template <class C>
constexpr std::ptrdiff_t panel_lanes = 128 / static_cast<std::ptrdiff_t>(sizeof(C));

// Layers that gain nothing from panels keep their weights as they are: few filters, and short
// terms that are summed without packing (conv_direct.h).
[[gnu::always_inline]] inline bool wants_panels(const Conv2dShape& s) {
    const std::ptrdiff_t taps = s.kernel_h * s.kernel_w;
    const std::ptrdiff_t terms = s.in_channels / s.groups * taps;
    return s.out_channels / s.groups >= 8 && terms > 0 && (taps == 1 || terms > 64);
}

// Elements of all panels.
template <class C>
[[gnu::always_inline]] inline std::ptrdiff_t panels_size(const Conv2dShape& s) {
    constexpr std::ptrdiff_t lanes = panel_lanes<C>;
    return s.groups * ((s.out_channels / s.groups + lanes - 1) / lanes) * lanes *
           (s.in_channels / s.groups) * s.kernel_h * s.kernel_w;
}

}  // namespace stableops
