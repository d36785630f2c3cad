#include "../ops/boxes.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr BoxesKernels<T> boxes_of() {
    return {
        .box_area = box_area<Isa, T>,
        .box_convert = box_convert<Isa, T>,
        .box_iou = pairwise<Isa, Measure::iou, T>,
        .generalized_box_iou = pairwise<Isa, Measure::generalized, T>,
        .distance_box_iou = pairwise<Isa, Measure::distance, T>,
        .complete_box_iou = pairwise<Isa, Measure::complete, T>,
    };
}

template <>
constinit const PerDtype<BoxesKernels> KernelTable<isa::Current, PerDtype<BoxesKernels>>::kernels =
    {
        boxes_of<isa::Current, double>(),
        boxes_of<isa::Current, float>(),
        boxes_of<isa::Current, float16>(),
        boxes_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
