#include "../ops/interpolate.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class Isa, Storage T>
constexpr InterpolateKernels<T> interpolate_of() {
    return {
        .nearest = nearest<Isa, T>,
        .nearest_backward = nearest_backward<Isa, T>,
        .bilinear = bilinear<Isa, T>,
        .bilinear_backward = bilinear_backward<Isa, T>,
    };
}

template <>
constinit const PerDtype<InterpolateKernels>
    KernelTable<isa::Current, PerDtype<InterpolateKernels>>::kernels = {
        interpolate_of<isa::Current, double>(),
        interpolate_of<isa::Current, float>(),
        interpolate_of<isa::Current, float16>(),
        interpolate_of<isa::Current, bfloat16>(),
};

}  // namespace stableops
