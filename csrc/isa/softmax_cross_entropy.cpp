#include "../ops/softmax_cross_entropy.h"

#include "../kernels.h"
#include "../ops/linear_cross_entropy.h"
#include "current.h"

namespace stableops {

// Of every level, this object's own: another object defines the table of convolutions.
static void linear_cross_entropy_float64(const LinearCrossEntropyArguments& arguments) {
    linear_cross_entropy<isa::Current, double>(
        arguments, KernelTable<isa::Current, PerDtype<Conv2dKernels>>::kernels.float64);
}
static void linear_cross_entropy_float32(const LinearCrossEntropyArguments& arguments) {
    linear_cross_entropy<isa::Current, float>(
        arguments, KernelTable<isa::Current, PerDtype<Conv2dKernels>>::kernels.float32);
}

template <>
constinit const PerCompute<CrossEntropyKernels>
    KernelTable<isa::Current, PerCompute<CrossEntropyKernels>>::kernels = {
        {.softmax_cross_entropy = softmax_cross_entropy<isa::Current, double>,
         .linear_cross_entropy = linear_cross_entropy_float64},
        {.softmax_cross_entropy = softmax_cross_entropy<isa::Current, float>,
         .linear_cross_entropy = linear_cross_entropy_float32},
};

}  // namespace stableops
