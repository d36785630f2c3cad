#pragma once
// Sizes and strides of interpolation.
#include <cstddef>

#include "pool2d_shape.h"

namespace stableops {

// Row o of the result lies at row (o + 1/2) / factor_h - 1/2 of the image; columns alike. Nearest
// takes floor(o / factor_h). A factor of 0 stands for the quotient of the sizes, without its
// rounding; align_corners has a rule of its own (interpolate.h).
struct ResizeShape {
    std::ptrdiff_t batch, channels, in_h, in_w, out_h, out_w;
    double factor_h, factor_w;
    bool align_corners;
    ImageStrides x, y;
};

}  // namespace stableops
