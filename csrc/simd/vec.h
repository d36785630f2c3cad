#pragma once
// Vec<Isa, T>: one machine register of T at SIMD level Isa, on the vector extensions of GCC and
// Clang.
//
// Arithmetic is what IEEE 754 says, lane by lane, and nothing else: no operation here rounds
// differently on another level. What the extensions lack (fma, min/max with defined NaN behaviour,
// masked tails, narrow storage types) stands in vec_x86.h and vec_neon.h under the same names.
//
// A wider logical vector is an array of Vec, never a wider Raw: GCC lowers those lane by lane.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../dtypes.h"
#include "../isa/levels.h"

namespace stableops {

// Sums and products of whole numbers wrap around, for which C++ wants them unsigned.
template <class T>
struct Wrapping {
    using type = T;
};
template <>
struct Wrapping<std::int32_t> {
    using type = std::uint32_t;
};
template <>
struct Wrapping<std::int64_t> {
    using type = std::uint64_t;
};

template <class Isa, class T>
struct Vec {
    static constexpr int size = Isa::bytes / static_cast<int>(sizeof(T));
    typedef T Raw __attribute__((vector_size(Isa::bytes)));
    typedef typename Wrapping<T>::type Wrapped __attribute__((vector_size(Isa::bytes)));
    Raw raw;

    [[gnu::always_inline]] static inline Vec zero() { return {Raw{}}; }

    // s - 0 is s for every s, NaN and -0 included, and folds into a broadcast; 0 + s does not (-0).
    [[gnu::always_inline]] static inline Vec splat(T s) { return {s - Raw{}}; }

    [[gnu::always_inline]] inline T operator[](int lane) const { return raw[lane]; }
};

template <class T>
struct SameWidthInt;
template <>
struct SameWidthInt<float> {
    using type = std::int32_t;
};
template <>
struct SameWidthInt<std::int32_t> {
    using type = std::int32_t;
};
template <>
struct SameWidthInt<double> {
    using type = std::int64_t;
};
template <>
struct SameWidthInt<std::int64_t> {
    using type = std::int64_t;
};

// Lanes of a mask are 0 or -1.
template <class Isa, class T>
using Mask = Vec<Isa, typename SameWidthInt<T>::type>;

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator+(Vec<Isa, T> a, Vec<Isa, T> b) {
    using V = Vec<Isa, T>;
    return {(typename V::Raw)((typename V::Wrapped)a.raw + (typename V::Wrapped)b.raw)};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator-(Vec<Isa, T> a, Vec<Isa, T> b) {
    using V = Vec<Isa, T>;
    return {(typename V::Raw)((typename V::Wrapped)a.raw - (typename V::Wrapped)b.raw)};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator*(Vec<Isa, T> a, Vec<Isa, T> b) {
    using V = Vec<Isa, T>;
    return {(typename V::Raw)((typename V::Wrapped)a.raw * (typename V::Wrapped)b.raw)};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator/(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw / b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator-(Vec<Isa, T> a) {
    using V = Vec<Isa, T>;
    return {(typename V::Raw)(-(typename V::Wrapped)a.raw)};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T>& operator+=(Vec<Isa, T>& a, Vec<Isa, T> b) {
    return a = a + b;
}

template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> operator<(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw < b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> operator<=(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw <= b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> operator>(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw > b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> operator>=(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw >= b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> operator==(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw == b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> operator!=(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw != b.raw};
}

// Bitwise operations and shifts are for integer vectors and masks.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator&(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw & b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator|(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw | b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator^(Vec<Isa, T> a, Vec<Isa, T> b) {
    return {a.raw ^ b.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator~(Vec<Isa, T> a) {
    return {~a.raw};
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator<<(Vec<Isa, T> a, int count) {
    return {a.raw << count};
}
// Arithmetic shift.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> operator>>(Vec<Isa, T> a, int count) {
    return {a.raw >> count};
}

template <class Isa, class T, class M>
[[gnu::always_inline]] inline Vec<Isa, T> select(Vec<Isa, M> mask, Vec<Isa, T> yes,
                                                 Vec<Isa, T> no) {
    static_assert(sizeof(M) == sizeof(T));
    return {mask.raw ? yes.raw : no.raw};
}

template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> bits(Vec<Isa, T> a) {
    return {reinterpret_cast<typename Mask<Isa, T>::Raw>(a.raw)};
}
template <class T, class Isa, class M>
[[gnu::always_inline]] inline Vec<Isa, T> from_bits(Vec<Isa, M> a) {
    static_assert(sizeof(M) == sizeof(T));
    return {reinterpret_cast<typename Vec<Isa, T>::Raw>(a.raw)};
}

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> abs(Vec<Isa, T> a) {
    using I = typename SameWidthInt<T>::type;
    constexpr I magnitude = static_cast<I>(~(I{1} << (8 * sizeof(I) - 1)));
    return from_bits<T>(bits(a) & Mask<Isa, T>::splat(magnitude));
}

template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> is_nan(Vec<Isa, T> a) {
    return a != a;
}

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> loadu(const T* p) {
    Vec<Isa, T> v;
    std::memcpy(&v.raw, p, sizeof(v.raw));
    return v;
}
template <class Isa, class T>
[[gnu::always_inline]] inline void storeu(T* p, Vec<Isa, T> v) {
    std::memcpy(p, &v.raw, sizeof(v.raw));
}

// How many lanes of a vector a load or store touches: all of them (a type of its own, so that the
// main loop has no masks), or the first `count`, 0 <= count <= size; the other lanes are loaded as
// 0.
struct AllLanes {};
struct FirstLanes {
    int count;
};

// The one loop with a tail: body(i, AllLanes) for whole vectors of `width` elements, then
// body(i, FirstLanes) for what is left, if anything is.
template <class Isa, int width, class Body>
[[gnu::always_inline]] inline void for_each_vec(std::ptrdiff_t n, Body&& body) {
    std::ptrdiff_t i = 0;
    for (; i + width <= n; i += width) body(i, AllLanes{});
    if (i < n) body(i, FirstLanes{static_cast<int>(n - i)});
}

}  // namespace stableops

#if defined(__x86_64__) || defined(_M_X64)
#include "vec_x86.h"
#elif defined(__aarch64__) || defined(_M_ARM64)
#include "vec_neon.h"
#else
#error "stableops supports x86-64 and arm64"
#endif

namespace stableops {

// Storage to compute type and back; float16 and bfloat16 round to nearest even, once.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, Compute<T>> load(const T* p, AllLanes) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        return loadu<Isa>(p);
    } else {
        return load_narrow<Isa>(p);
    }
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, Compute<T>> load(const T* p, FirstLanes lanes) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        return load_first<Isa>(p, lanes.count);
    } else {
        T padded[Vec<Isa, float>::size] = {};
        for (int i = 0; i < lanes.count; ++i) padded[i] = p[i];
        return load_narrow<Isa>(padded);
    }
}
template <class Isa, class T>
[[gnu::always_inline]] inline void store(T* p, Vec<Isa, Compute<T>> v, AllLanes) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        storeu(p, v);
    } else {
        store_narrow(p, v);
    }
}
template <class Isa, class T>
[[gnu::always_inline]] inline void store(T* p, Vec<Isa, Compute<T>> v, FirstLanes lanes) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        store_first(p, v, lanes.count);
    } else {
        T padded[Vec<Isa, float>::size];
        store_narrow(padded, v);
        for (int i = 0; i < lanes.count; ++i) p[i] = padded[i];
    }
}

}  // namespace stableops
