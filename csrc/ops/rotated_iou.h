#pragma once
#include "exact_iou.h"

namespace stableops {

// A number as an unevaluated sum, |low| <= ulp(high) / 2.
struct DoubleLength {
    double high, low;
};

// Centre, size, sine and cosine of the angle.
struct RotatedBox {
    double x, y, width, height;
    DoubleLength sine, cosine;
    // Contains the box, rounding included; its corners are finite. NaN if any number of the box is
    // NaN or infinite.
    Corners hull;
};

RotatedBox make_rotated_box(double x, double y, double width, double height,
                            double degrees) noexcept;

// Intersection over union, within 1e-12, relative, where the intersection is wider than 1e-17 times
// the larger box; narrower ones lose digits, and below 1e-28 they count as nothing. 0 if a width or
// height is not positive, NaN if any number is NaN or infinite.
double rotated_iou(const RotatedBox& a, const RotatedBox& b) noexcept;

}  // namespace stableops
