#include "box_measures.h"

#include <algorithm>
#include <cmath>

namespace stableops {
namespace {

// significand * 2^exponent with a significand in [1/2, 1), or 0: no product leaves the range.
struct Scaled {
    double significand;
    int exponent;
};

Scaled scaled(double value, int exponent = 0) {
    int own;
    double significand = std::frexp(value, &own);
    return {significand, own + exponent};
}

// max(high - low, 0).
Scaled extent(double high, double low) {
    if (!(high > low)) return {0.0, 0};
    double difference = high - low;
    // Halving is exact where the difference overflows.
    return std::isinf(difference) ? scaled(high / 2 - low / 2, 1) : scaled(difference);
}

Scaled operator*(Scaled a, Scaled b) {
    return scaled(a.significand * b.significand, a.exponent + b.exponent);
}

Scaled sum(Scaled a, Scaled b, double sign) {
    if (a.significand == 0) return {sign * b.significand, b.exponent};
    if (b.significand == 0) return a;
    int exponent = std::max(a.exponent, b.exponent);
    return scaled(std::ldexp(a.significand, a.exponent - exponent) +
                      sign * std::ldexp(b.significand, b.exponent - exponent),
                  exponent);
}
Scaled operator+(Scaled a, Scaled b) { return sum(a, b, 1); }
Scaled operator-(Scaled a, Scaled b) { return sum(a, b, -1); }

// 0 / 0 is 0 here: a measure of boxes without extent.
double operator/(Scaled a, Scaled b) {
    if (a.significand == 0) return 0;
    return std::ldexp(a.significand / b.significand, a.exponent - b.exponent);
}

// a - b of any sign, halved so that it cannot overflow.
Scaled half_difference(double a, double b) {
    double difference = a - b;
    return std::isinf(difference) ? scaled(a / 2 - b / 2) : scaled(difference, -1);
}

Scaled square(Scaled a) { return a * a; }

double area(const Corners& box) {
    double width = box.x2 - box.x1;
    double height = box.y2 - box.y1;
    if (std::isnan(width) || std::isnan(height)) return width + height;
    return width <= 0 || height <= 0 ? 0 : width * height;
}

// What IEEE arithmetic makes of infinite and NaN corners.
BoxMeasures measures_of_infinite(const Corners& a, const Corners& b) {
    double width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
    double height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    double intersection = width > 0 && height > 0 ? width * height : 0;
    double whole = area(a) + area(b) - intersection;
    double iou = intersection > 0 || std::isnan(whole) ? intersection / whole : 0;
    return {iou, iou - whole * 0, iou - whole * 0};
}

bool finite(const Corners& box) {
    return std::isfinite(box.x1) && std::isfinite(box.y1) && std::isfinite(box.x2) &&
           std::isfinite(box.y2);
}

}  // namespace

BoxMeasures box_measures(const Corners& a, const Corners& b) noexcept {
    if (!finite(a) || !finite(b)) return measures_of_infinite(a, b);
    Scaled area_a = extent(a.x2, a.x1) * extent(a.y2, a.y1);
    Scaled area_b = extent(b.x2, b.x1) * extent(b.y2, b.y1);
    Scaled intersection = extent(std::min(a.x2, b.x2), std::max(a.x1, b.x1)) *
                          extent(std::min(a.y2, b.y2), std::max(a.y1, b.y1));
    Scaled whole = area_a + area_b - intersection;
    Scaled hull_width =
        extent(std::max({a.x1, a.x2, b.x1, b.x2}), std::min({a.x1, a.x2, b.x1, b.x2}));
    Scaled hull_height =
        extent(std::max({a.y1, a.y2, b.y1, b.y2}), std::min({a.y1, a.y2, b.y1, b.y2}));
    Scaled hull = hull_width * hull_height;
    Scaled diagonal = square(hull_width) + square(hull_height);
    Scaled offset = square(half_difference(a.x1, b.x1) + half_difference(a.x2, b.x2)) +
                    square(half_difference(a.y1, b.y1) + half_difference(a.y2, b.y2));
    double iou = intersection / whole;
    return {iou, hull.significand == 0 ? iou : iou - (hull - whole) / hull,
            diagonal.significand == 0 ? iou : iou - offset / diagonal};
}

}  // namespace stableops
