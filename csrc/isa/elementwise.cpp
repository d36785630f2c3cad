#include "../ops/elementwise.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr ElementwiseKernels<T> elementwise_of() {
    return {
        .relu = relu<Isa, T>,
        .relu_backward = relu_backward<Isa, T>,
        .sigmoid = sigmoid<Isa, T>,
        .sigmoid_backward = sigmoid_backward<Isa, T>,
        .log_sigmoid = log_sigmoid<Isa, T>,
        .log_sigmoid_backward = log_sigmoid_backward<Isa, T>,
        .softplus = softplus<Isa, T>,
        .softplus_backward = softplus_backward<Isa, T>,
        .leaky_relu = leaky_relu<Isa, T>,
        .leaky_relu_backward = leaky_relu_backward<Isa, T>,
        .prelu = prelu<Isa, T>,
        .prelu_backward = prelu_backward<Isa, T>,
        .dropout = dropout<Isa, T>,
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
