#pragma once
#include <cstddef>

namespace stableops {

// Dimensions of two arrays, the outermost first, 1 <= ndim <= 64; strides count elements.
struct Rearrangement {
    int ndim;
    const std::ptrdiff_t *size, *to_stride, *from_stride;
};

// Copies elements of `bytes` (1, 2, 4 or 8) bytes.
void rearrange(const Rearrangement& plan, void* to, const void* from, std::size_t bytes);

}  // namespace stableops
