#pragma once

namespace stableops {

// A box as its corners in float64, to which every coordinate of a narrower type converts exactly.
struct Corners {
    double x1, y1, x2, y2;
};

// Whether the intersection over union of a and b is greater than threshold, as real numbers: no
// rounding, overflow or underflow for any finite corners. Both boxes have x1 < x2 and y1 < y2, they
// overlap with positive area, and 0 <= threshold <= 1.
//
// Compiled for the baseline only: callers come here for the few pairs that their filter leaves
// open.
bool iou_exceeds(const Corners& a, const Corners& b, double threshold) noexcept;

}  // namespace stableops
