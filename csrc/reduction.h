#pragma once
// How a loss is reduced, and the partial sums of a reduction.
#include <cstddef>

namespace stableops {

enum class Reduction { none, sum, mean };

// hi + lo, not normalised; lo means nothing where hi is not finite.
struct LongSum {
    double hi, lo;
};

// Elements of an elementwise loss that make one partial sum.
constexpr std::ptrdiff_t loss_block = 8192;

}  // namespace stableops
