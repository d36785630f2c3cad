#pragma once
#include <cstddef>

#include "../elementwise_plan.h"

namespace stableops {

// Copies elements of `bytes` (1, 2, 4 or 8) bytes from from[0] on to to[0] on, in the order of the plan,
// whose strides count elements; operand 0 is written.
void rearrange(const ElementwisePlan<2>& plan, void* to, const void* from, std::size_t bytes);

}  // namespace stableops
