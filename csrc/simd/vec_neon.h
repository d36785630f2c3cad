#pragma once
// The operations of vec.h that need NEON intrinsics; arm64's Baseline. Included by vec.h only.
#include <arm_neon.h>

namespace stableops {

// a * b + c with one rounding.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> fma(Vec<Isa, T> a, Vec<Isa, T> b, Vec<Isa, T> c) {
    if constexpr (sizeof(T) == 4) {
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(
            vfmaq_f32(reinterpret_cast<float32x4_t>(c.raw), reinterpret_cast<float32x4_t>(a.raw),
                      reinterpret_cast<float32x4_t>(b.raw)))};
    } else {
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(
            vfmaq_f64(reinterpret_cast<float64x2_t>(c.raw), reinterpret_cast<float64x2_t>(a.raw),
                      reinterpret_cast<float64x2_t>(b.raw)))};
    }
}

// a > b ? a : b, so b where either is NaN and for zeros of either sign, as on x86 (fmax differs);
// min is a < b ? a : b.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> max(Vec<Isa, T> a, Vec<Isa, T> b) {
    return select(a > b, a, b);
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> min(Vec<Isa, T> a, Vec<Isa, T> b) {
    return select(a < b, a, b);
}

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> sqrt(Vec<Isa, T> a) {
    if constexpr (sizeof(T) == 4) {
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(
            vsqrtq_f32(reinterpret_cast<float32x4_t>(a.raw)))};
    } else {
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(
            vsqrtq_f64(reinterpret_cast<float64x2_t>(a.raw)))};
    }
}

// One bit a lane, lane 0 in bit 0.
template <class Isa, class M>
[[gnu::always_inline]] inline unsigned mask_bits(Vec<Isa, M> mask) {
    unsigned result = 0;
    for (int i = 0; i < Vec<Isa, M>::size; ++i)
        result |= static_cast<unsigned>(mask.raw[i] & 1) << i;
    return result;
}
template <class Isa, class M>
[[gnu::always_inline]] inline bool any(Vec<Isa, M> mask) {
    return vmaxvq_u32(reinterpret_cast<uint32x4_t>(mask.raw)) != 0;
}

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> load_first(const T* p, int count) {
    Vec<Isa, T> v = Vec<Isa, T>::zero();
    for (int i = 0; i < count; ++i) v.raw[i] = p[i];
    return v;
}
template <class Isa, class T>
[[gnu::always_inline]] inline void store_first(T* p, Vec<Isa, T> v, int count) {
    for (int i = 0; i < count; ++i) p[i] = v.raw[i];
}

// NEON has no non-temporal store of one register.
template <class Isa, class T>
[[gnu::always_inline]] inline void stream(T* p, Vec<Isa, T> v) {
    storeu(p, v);
}
template <class Isa>
[[gnu::always_inline]] inline void stream_fence() {}

template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> widen_low(Vec<Isa, float> a) {
    return {reinterpret_cast<typename Vec<Isa, double>::Raw>(
        vcvt_f64_f32(vget_low_f32(reinterpret_cast<float32x4_t>(a.raw))))};
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> widen_high(Vec<Isa, float> a) {
    return {reinterpret_cast<typename Vec<Isa, double>::Raw>(
        vcvt_high_f64_f32(reinterpret_cast<float32x4_t>(a.raw)))};
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> narrow(Vec<Isa, double> low, Vec<Isa, double> high) {
    return {reinterpret_cast<typename Vec<Isa, float>::Raw>(
        vcvt_high_f32_f64(vcvt_f32_f64(reinterpret_cast<float64x2_t>(low.raw)),
                          reinterpret_cast<float64x2_t>(high.raw)))};
}

// The low 32 bits of every lane of both, in some order.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, std::int32_t> low_words(Vec<Isa, double> a,
                                                               Vec<Isa, double> b) {
    return {reinterpret_cast<typename Vec<Isa, std::int32_t>::Raw>(
        vuzp1q_s32(reinterpret_cast<int32x4_t>(a.raw), reinterpret_cast<int32x4_t>(b.raw)))};
}

// Whether a lane of a has none of the bits of b.
template <class Isa>
[[gnu::always_inline]] inline bool any_without(Vec<Isa, std::int32_t> a, Vec<Isa, std::int32_t> b) {
    return any((a & b) == Vec<Isa, std::int32_t>::splat(0));
}

// Whether a lane of a is not 0.
template <class Isa>
[[gnu::always_inline]] inline bool any_nonzero(Vec<Isa, std::int32_t> a) {
    return any(a != Vec<Isa, std::int32_t>::splat(0));
}

// Tables of 16 words would take four registers here, and more operations than they save.
template <class Isa>
constexpr int lookup_size = 0;
template <class Isa, class T, int size>
Vec<Isa, T> lookup(const T (&table)[size], Vec<Isa, std::int32_t> index);

// 1 / a with a and the quotient rounded to float32.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> reciprocal_float32(Vec<Isa, double> a) {
    float32x2_t f = vcvt_f32_f64(reinterpret_cast<float64x2_t>(a.raw));
    return {reinterpret_cast<typename Vec<Isa, double>::Raw>(
        vcvt_f64_f32(vdiv_f32(vdup_n_f32(1.0f), f)))};
}

// As many floats as a register has doubles, widened, and doubles narrowed to as many floats.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> load_widened(const float* p) {
    return {reinterpret_cast<typename Vec<Isa, double>::Raw>(vcvt_f64_f32(vld1_f32(p)))};
}
template <class Isa>
[[gnu::always_inline]] inline void store_narrowed(float* p, Vec<Isa, double> v) {
    vst1_f32(p, vcvt_f32_f64(reinterpret_cast<float64x2_t>(v.raw)));
}

// Eight entries of 4 bytes, looked up by the low three bits of each lane.
template <class Isa, class T>
struct Table8 {
    const T* memory;

    [[gnu::always_inline]] explicit inline Table8(const T* from) : memory(from) {}
    [[gnu::always_inline]] inline Vec<Isa, T> operator[](Vec<Isa, std::int32_t> index) const {
        Vec<Isa, T> r;
        for (int i = 0; i < Vec<Isa, T>::size; ++i) r.raw[i] = memory[index.raw[i] & 7];
        return r;
    }
};

// 0, 1, 2, ... by lane.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> lane_numbers() {
    return {typename Vec<Isa, double>::Raw{0, 1}};
}

template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> load_narrow(const float16* p) {
    float16x4_t h;
    std::memcpy(&h, p, sizeof(h));
    return {reinterpret_cast<typename Vec<Isa, float>::Raw>(vcvt_f32_f16(h))};
}
template <class Isa>
[[gnu::always_inline]] inline void store_narrow(float16* p, Vec<Isa, float> v) {
    float16x4_t h = vcvt_f16_f32(reinterpret_cast<float32x4_t>(v.raw));
    std::memcpy(p, &h, sizeof(h));
}

template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> load_narrow(const bfloat16* p) {
    uint16x4_t h;
    std::memcpy(&h, p, sizeof(h));
    return {reinterpret_cast<typename Vec<Isa, float>::Raw>(vshll_n_u16(h, 16))};
}
// To nearest even in the integer; NaN keeps its top bits and becomes quiet.
template <class Isa>
[[gnu::always_inline]] inline void store_narrow(bfloat16* p, Vec<Isa, float> v) {
    using I = Vec<Isa, std::int32_t>;
    I b = bits(v);
    I rounded = b + I::splat(0x7fff) + ((b >> 16) & I::splat(1));
    I top = select(is_nan(v), b | I::splat(0x400000), rounded);
    uint16x4_t h = vshrn_n_u32(reinterpret_cast<uint32x4_t>(top.raw), 16);
    std::memcpy(p, &h, sizeof(h));
}

}  // namespace stableops
