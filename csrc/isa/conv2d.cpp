#include "../ops/conv2d.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr Conv2dKernels<T> conv2d_of() {
    return {
        .pack_weight = pack_conv2d_weight<Isa, T>,
        .conv2d = conv2d<Isa, T>,
        .grad_input = conv2d_grad_input<Isa, T>,
        .grad_weight = conv2d_grad_weight<Isa, T>,
        .grad_bias = conv2d_grad_bias<Isa, T>,
    };
}

template <>
constinit const PerDtype<Conv2dKernels>
    KernelTable<isa::Current, PerDtype<Conv2dKernels>>::kernels = {
        conv2d_of<isa::Current, double>(),
        conv2d_of<isa::Current, float>(),
        conv2d_of<isa::Current, float16>(),
        conv2d_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
