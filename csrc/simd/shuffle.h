#pragma once
// Vec operations that move lanes: every second element, interleaving, halves of integers. All are
// compiler shuffles with constant indices, so one text serves every level and architecture.
#include <cstdint>
#include <utility>

#include "vec.h"

namespace stableops {

template <class Isa, class T, int... lane>
[[gnu::always_inline]] inline Vec<Isa, T> every_second(Vec<Isa, T> low, Vec<Isa, T> high,
                                                       std::integer_sequence<int, lane...>) {
    return {__builtin_shufflevector(low.raw, high.raw, 2 * lane...)};
}
// Lanes 0, 2, 4 ... of the two vectors, one after the other.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> even_lanes(Vec<Isa, T> low, Vec<Isa, T> high) {
    return every_second(low, high, std::make_integer_sequence<int, Vec<Isa, T>::size>{});
}

template <class Isa, class T, int... lane>
[[gnu::always_inline]] inline Vec<Isa, T> every_second_odd(Vec<Isa, T> low, Vec<Isa, T> high,
                                                           std::integer_sequence<int, lane...>) {
    return {__builtin_shufflevector(low.raw, high.raw, (2 * lane + 1)...)};
}
// Lanes 1, 3, 5 ... of the two vectors, one after the other.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> odd_lanes(Vec<Isa, T> low, Vec<Isa, T> high) {
    return every_second_odd(low, high, std::make_integer_sequence<int, Vec<Isa, T>::size>{});
}

template <class Isa, class T, int... lane>
[[gnu::always_inline]] inline Vec<Isa, T> even_then_odd(Vec<Isa, T> low, Vec<Isa, T> shifted,
                                                        std::integer_sequence<int, lane...>) {
    constexpr int size = Vec<Isa, T>::size;
    return {__builtin_shufflevector(low.raw, shifted.raw,
                                    (2 * lane < size ? 2 * lane : 2 * lane + 1)...)};
}
// p[0], p[2], ... p[2 * size - 2], which reads nothing beyond the last of them.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> even_lanes_overlapping(Vec<Isa, T> at_0,
                                                                 Vec<Isa, T> at_size_minus_1) {
    return even_then_odd(at_0, at_size_minus_1,
                         std::make_integer_sequence<int, Vec<Isa, T>::size>{});
}

template <class Isa, class T, int... lane>
[[gnu::always_inline]] inline Vec<Isa, T> shifted_in(Vec<Isa, T> before, Vec<Isa, T> v,
                                                     std::integer_sequence<int, lane...>) {
    return {__builtin_shufflevector(before.raw, v.raw, (Vec<Isa, T>::size - 1 + lane)...)};
}
// The last lane of `before`, and all but the last of v.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> shifted_in(Vec<Isa, T> before, Vec<Isa, T> v) {
    return shifted_in(before, v, std::make_integer_sequence<int, Vec<Isa, T>::size>{});
}

template <int first, class Isa, class T, int... lane>
[[gnu::always_inline]] inline Vec<Isa, T> interleave(Vec<Isa, T> even, Vec<Isa, T> odd,
                                                     std::integer_sequence<int, lane...>) {
    return {__builtin_shufflevector(even.raw, odd.raw,
                                    (first + lane / 2 + (lane % 2) * Vec<Isa, T>::size)...)};
}
// even[0], odd[0], even[1], odd[1] ...: the first `size` of these, and the rest.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> interleave_low(Vec<Isa, T> even, Vec<Isa, T> odd) {
    return interleave<0>(even, odd, std::make_integer_sequence<int, Vec<Isa, T>::size>{});
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> interleave_high(Vec<Isa, T> even, Vec<Isa, T> odd) {
    constexpr int size = Vec<Isa, T>::size;
    return interleave<size / 2>(even, odd, std::make_integer_sequence<int, size>{});
}

// Lanes that are not negative, as int64: the first half of them, and the rest.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, std::int64_t> widen_low(Vec<Isa, std::int32_t> a) {
    using Wide = typename Vec<Isa, std::int64_t>::Raw;
    return {reinterpret_cast<Wide>(interleave_low(a, Vec<Isa, std::int32_t>::zero()).raw)};
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, std::int64_t> widen_high(Vec<Isa, std::int32_t> a) {
    using Wide = typename Vec<Isa, std::int64_t>::Raw;
    return {reinterpret_cast<Wide>(interleave_high(a, Vec<Isa, std::int32_t>::zero()).raw)};
}

}  // namespace stableops
