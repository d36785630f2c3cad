#pragma once
// Sizes and strides of interpolation.
#include <cstddef>

#include "pool2d_shape.h"

namespace stableops {

// Row o of the result lies at row (o + 1/2) step_h - 1/2 of the image, or at o step_h with
// align_corners; columns alike. Nearest takes floor(o step_h).
struct ResizeShape {
    std::ptrdiff_t batch, channels, in_h, in_w, out_h, out_w;
    double step_h, step_w;
    bool align_corners;
    ImageStrides x, y;
};

}  // namespace stableops
