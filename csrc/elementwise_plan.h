#pragma once
// How an elementwise operation walks over strided arrays: dimensions merged and ordered by the
// binding, so that kernels see few and long lines.
#include <cstddef>

namespace stableops {

// NumPy's own limit.
constexpr int max_dims = 64;

// Operand 0 is the output. Dimension 0 is the outermost, ndim >= 1; sizes are positive, strides are
// in elements and may be zero (broadcast) or negative.
template <int operands>
struct ElementwisePlan {
    int ndim;
    std::ptrdiff_t size[max_dims];
    std::ptrdiff_t stride[operands][max_dims];

    // Inlined without optimisation, too: objects of several levels share no function.
    [[gnu::always_inline]] inline std::ptrdiff_t line_length() const { return size[ndim - 1]; }
    [[gnu::always_inline]] inline std::ptrdiff_t line_stride(int operand) const {
        return stride[operand][ndim - 1];
    }
};

}  // namespace stableops
