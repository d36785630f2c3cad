#pragma once
// Storage types of array elements. float16 and bfloat16 carry bits only: kernels compute in
// float32.
#include <cstdint>
#include <type_traits>

namespace stableops {

struct float16 {
    std::uint16_t bits;
};

struct bfloat16 {
    std::uint16_t bits;
};

template <class T>
concept Storage = std::is_same_v<T, double> || std::is_same_v<T, float> ||
                  std::is_same_v<T, float16> || std::is_same_v<T, bfloat16>;

// The type in which elements of storage type T are computed.
template <Storage T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace stableops
