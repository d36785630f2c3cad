#include "../ops/boxes_rotated.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr BoxesRotatedKernels<T> boxes_rotated_of() {
    return {
        .box_iou_rotated = box_iou_rotated<Isa, T>,
        .nms_rotated = nms_rotated<Isa, T>,
    };
}

template <>
constinit const PerDtype<BoxesRotatedKernels>
    KernelTable<isa::Current, PerDtype<BoxesRotatedKernels>>::kernels = {
        boxes_rotated_of<isa::Current, double>(),
        boxes_rotated_of<isa::Current, float>(),
        boxes_rotated_of<isa::Current, float16>(),
        boxes_rotated_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
