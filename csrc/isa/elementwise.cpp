#include "../ops/elementwise.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr ElementwiseKernels<T> elementwise_of() {
    return {
        .relu = relu<Isa, T>,
        .relu_backward = relu_backward<Isa, T>,
    };
}

template <>
constinit const PerDtype<ElementwiseKernels>
    KernelTable<isa::Current, PerDtype<ElementwiseKernels>>::kernels = {
        elementwise_of<isa::Current, double>(),
        elementwise_of<isa::Current, float>(),
        elementwise_of<isa::Current, float16>(),
        elementwise_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
