#include "../ops/norm.h"

#include "../kernels.h"
#include "../ops/local_response_norm.h"
#include "../ops/norm_backward.h"
#include "current.h"

namespace stableops {

template <class Isa, class C>
constexpr NormKernels norm_of() {
    return {
        .normalize = normalize<Isa, C>,
        .transform = transform<Isa, C>,
        .backward = norm_backward<Isa, C>,
        .negative_sums = negative_sums<Isa, C>,
        .update_running = update_running<Isa>,
        .local_response_norm = local_response_norm<Isa, C>,
        .local_response_norm_backward = local_response_norm_backward<Isa, C>,
    };
}

template <>
constinit const PerCompute<NormKernels>
    KernelTable<isa::Current, PerCompute<NormKernels>>::kernels = {norm_of<isa::Current, double>(),
                                                                   norm_of<isa::Current, float>()};

}  // namespace stableops
