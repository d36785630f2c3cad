#include "../ops/soft_nms.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr SoftNmsKernels<T> soft_nms_of() {
    return {
        .soft_nms = soft_nms<Isa, T>,
    };
}

template <>
constinit const PerDtype<SoftNmsKernels>
    KernelTable<isa::Current, PerDtype<SoftNmsKernels>>::kernels = {
        soft_nms_of<isa::Current, double>(),
        soft_nms_of<isa::Current, float>(),
        soft_nms_of<isa::Current, float16>(),
        soft_nms_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
