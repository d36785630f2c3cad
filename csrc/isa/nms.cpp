#include "../ops/nms.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr NmsKernels<T> nms_of() {
    return {
        .descending_order = descending_order<Isa, T>,
        .nms = nms<Isa, T>,
        .batched_nms = batched_nms<Isa, T>,
    };
}

template <>
constinit const PerDtype<NmsKernels> KernelTable<isa::Current, PerDtype<NmsKernels>>::kernels = {
    nms_of<isa::Current, double>(),
    nms_of<isa::Current, float>(),
    nms_of<isa::Current, float16>(),
    nms_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
