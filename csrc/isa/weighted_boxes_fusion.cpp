#include "../ops/weighted_boxes_fusion.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <>
constinit const WeightedBoxesFusionKernels
    KernelTable<isa::Current, WeightedBoxesFusionKernels>::kernels = {
        .weighted_boxes_fusion = weighted_boxes_fusion<isa::Current>,
};

}  // namespace stableops
