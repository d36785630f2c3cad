#include "../ops/pool2d.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr Pool2dKernels<T> pool2d_of() {
    return {
        .max_pool2d = max_pool2d<Isa, T>,
        .max_pool2d_backward = max_pool2d_backward<Isa, T>,
        .avg_pool2d = avg_pool2d<Isa, T>,
        .avg_pool2d_backward = avg_pool2d_backward<Isa, T>,
    };
}

template <>
constinit const PerDtype<Pool2dKernels>
    KernelTable<isa::Current, PerDtype<Pool2dKernels>>::kernels = {
        pool2d_of<isa::Current, double>(),
        pool2d_of<isa::Current, float>(),
        pool2d_of<isa::Current, float16>(),
        pool2d_of<isa::Current, bfloat16>(),
};

template <>
constinit const IntegerPool2dKernels KernelTable<isa::Current, IntegerPool2dKernels>::kernels = {
    .max_pool2d = max_pool2d<isa::Current, std::int64_t>,
};

}  // namespace stableops
