#include "../ops/sigmoid_cross_entropy.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr SigmoidCrossEntropyKernels<T> sigmoid_cross_entropy_of() {
    return {
        .sigmoid_cross_entropy = sigmoid_cross_entropy<Isa, T>,
    };
}

template <>
constinit const PerDtype<SigmoidCrossEntropyKernels>
    KernelTable<isa::Current, PerDtype<SigmoidCrossEntropyKernels>>::kernels = {
        sigmoid_cross_entropy_of<isa::Current, double>(),
        sigmoid_cross_entropy_of<isa::Current, float>(),
        sigmoid_cross_entropy_of<isa::Current, float16>(),
        sigmoid_cross_entropy_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
