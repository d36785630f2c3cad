#include "../ops/softmax.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class C>
constexpr SoftmaxKernels softmax_of() {
    return {
        .softmax = softmax<isa::Current, C>,
        .log_softmax = log_softmax<isa::Current, C>,
        .softmax_backward = softmax_backward<isa::Current, C>,
        .log_softmax_backward = log_softmax_backward<isa::Current, C>,
    };
}

template <>
constinit const PerCompute<SoftmaxKernels>
    KernelTable<isa::Current, PerCompute<SoftmaxKernels>>::kernels = {softmax_of<double>(),
                                                                      softmax_of<float>()};

}  // namespace stableops
