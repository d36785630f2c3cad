#include "../ops/logsumexp.h"

#include "../kernels.h"
#include "current.h"

namespace stableops {

template <class C>
constexpr LogSumExpKernels logsumexp_of() {
    return {
        .logsumexp = logsumexp<isa::Current, C>,
        .logsumexp_backward = logsumexp_backward<isa::Current, C>,
    };
}

template <>
constinit const PerCompute<LogSumExpKernels>
    KernelTable<isa::Current, PerCompute<LogSumExpKernels>>::kernels = {logsumexp_of<double>(),
                                                                        logsumexp_of<float>()};

}  // namespace stableops
