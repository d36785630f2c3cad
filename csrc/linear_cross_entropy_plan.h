#pragma once
// The arguments of linear_cross_entropy behind the boundary. Arrays are of the compute type; rows
// are tokens.
#include <cstddef>
#include <cstdint>

#include "reduction.h"

namespace stableops {

// Element (i, j) at data + i * row + j * column.
struct StridedMatrix {
    const void* data;
    std::ptrdiff_t row, column;
};

struct LinearCrossEntropyArguments {
    std::ptrdiff_t tokens, features, classes;
    StridedMatrix x;       // tokens, features
    StridedMatrix weight;  // classes, features
    const void* bias;      // classes, or nullptr
    std::ptrdiff_t bias_stride;
    const std::int64_t* indices;  // tokens, in [0, classes) or ignore_index
    std::int64_t ignore_index;
    double smoothing;
    Reduction reduction;
    void* losses;  // one a token (none), or a single one
    // Contiguous, or nullptr: not wanted.
    void* grad_x;
    void* grad_weight;
    void* grad_bias;
};

}  // namespace stableops
