#include "../kernels.h"

#include "../ops/softmax_cross_entropy.h"
#include "current.h"

namespace stableops {

template <>
constinit const PerCompute<CrossEntropyKernels>
    KernelTable<isa::Current, PerCompute<CrossEntropyKernels>>::kernels = {
        {.softmax_cross_entropy = softmax_cross_entropy<isa::Current, double>},
        {.softmax_cross_entropy = softmax_cross_entropy<isa::Current, float>},
};

}  // namespace stableops
