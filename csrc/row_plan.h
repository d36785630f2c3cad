#pragma once
// How a reduction walks over strided arrays: the axes that stay (their elements are the rows) and
// the axes that are reduced (their elements are the columns), each merged by the binding so that
// kernels see few and long runs.
#include <cstddef>

#include "elementwise_plan.h"

namespace stableops {

// Storage of an operand's elements; boolean is a byte, 0 or not.
enum class Element { float64, float32, float16, bfloat16, boolean };

// Rows are numbered in C order of the kept axes, columns in C order of the reduced ones. Both have
// at least one axis (of size 1 if there is none).
struct RowShape {
    std::ptrdiff_t rows;
    std::ptrdiff_t cols;
    int kept_ndim;
    int reduced_ndim;
    std::ptrdiff_t kept_size[max_dims];
    std::ptrdiff_t reduced_size[max_dims];
};

// One array over a RowShape. Strides are in bytes and may be zero or negative; an operand with one
// value a row has no use for reduced_stride.
struct RowOperand {
    char* data;
    Element type;
    std::ptrdiff_t kept_stride[max_dims];
    std::ptrdiff_t reduced_stride[max_dims];
};

}  // namespace stableops
