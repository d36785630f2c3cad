#pragma once
// The arguments of softmax_cross_entropy behind the boundary.
#include <cstdint>

#include "reduction.h"
#include "row_plan.h"

namespace stableops {

struct CrossEntropyArguments {
    const RowShape* shape;  // rows are samples in C order, columns are classes
    RowOperand x;
    // Class indices, one a row, contiguous, in [0, cols) or ignore_index; or nullptr, and `labels`
    // are class weights.
    const std::int64_t* indices;
    std::int64_t ignore_index;
    const RowOperand* labels;
    // Weights of the classes, contiguous in the compute type, and the same as an operand; or
    // nullptr.
    const void* weight;
    const RowOperand* weight_rows;
    double smoothing;
    Reduction reduction;
    RowOperand losses;       // one a row (none), or a single one
    const RowOperand* grad;  // nullptr: not wanted
};

}  // namespace stableops
