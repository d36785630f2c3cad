#pragma once
#include "exact_iou.h"

namespace stableops {

struct BoxMeasures {
    double iou;
    double generalized;
    double distance;
};

// The measures of boxes.h for one pair, without overflow or underflow on the way: within 2^-49,
// relative for iou and absolute for the others, for all finite corners. For the few pairs whose
// areas or squares leave the range of the kernel's type.
BoxMeasures box_measures(const Corners& a, const Corners& b) noexcept;

}  // namespace stableops
