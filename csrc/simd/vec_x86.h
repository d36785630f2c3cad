#pragma once
// The operations of vec.h that need x86 intrinsics, for SSE2 (Baseline), AVX2 + FMA + F16C (X86V3)
// and AVX-512 F/BW/DQ/VL (X86V4). Included by vec.h only.
#include <immintrin.h>

namespace stableops {

// fma of float32 without the instruction: the product is exact in float64; the sum there is rounded
// to odd (Boldo & Melquiond 2008), after which rounding to float32 is a single rounding, since
// float64 has more than 2 * 24 + 2 bits. e is the error of the sum (Knuth's TwoSum); it is NaN for
// infinite operands, which compares false and leaves the sum alone.
template <class Isa>
[[gnu::always_inline]] inline __m128d fma_round_to_odd(__m128d a, __m128d b, __m128d c) {
    __m128d p = a * b;
    __m128d s = p + c;
    __m128d cc = s - p;
    __m128d e = (p - (s - cc)) + (c - cc);
    __m128d zero = _mm_setzero_pd();
    __m128i inexact = _mm_castpd_si128(_mm_or_pd(_mm_cmplt_pd(e, zero), _mm_cmpgt_pd(e, zero)));
    __m128i sum = _mm_castpd_si128(s);
    __m128i even = _mm_andnot_si128(sum, _mm_set1_epi64x(1));
    // Towards the exact value: +1 where s and e have the same sign (away from zero), else -1.
    __m128i opposite = _mm_srli_epi64(_mm_castpd_si128(_mm_xor_pd(s, e)), 63);
    __m128i step = _mm_sub_epi64(even, _mm_slli_epi64(_mm_and_si128(opposite, even), 1));
    return _mm_castsi128_pd(_mm_add_epi64(sum, _mm_and_si128(inexact, step)));
}

// Not inlined: in line they make the baseline's kernels three times as large as the other levels'.
template <class Isa>
[[gnu::noinline]] __m128 fma_without_instruction(__m128 a, __m128 b, __m128 c) {
    __m128d low = fma_round_to_odd<Isa>(_mm_cvtps_pd(a), _mm_cvtps_pd(b), _mm_cvtps_pd(c));
    __m128d high =
        fma_round_to_odd<Isa>(_mm_cvtps_pd(_mm_movehl_ps(a, a)), _mm_cvtps_pd(_mm_movehl_ps(b, b)),
                              _mm_cvtps_pd(_mm_movehl_ps(c, c)));
    return _mm_movelh_ps(_mm_cvtpd_ps(low), _mm_cvtpd_ps(high));
}
template <class Isa>
[[gnu::noinline]] __m128d fma_without_instruction(__m128d a, __m128d b, __m128d c) {
    return __m128d{__builtin_fma(a[0], b[0], c[0]), __builtin_fma(a[1], b[1], c[1])};
}

// a * b + c with one rounding.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> fma(Vec<Isa, T> a, Vec<Isa, T> b, Vec<Isa, T> c) {
    if constexpr (Isa::bytes == 64 && sizeof(T) == 4) {
        return {_mm512_fmadd_ps(a.raw, b.raw, c.raw)};
    } else if constexpr (Isa::bytes == 64) {
        return {_mm512_fmadd_pd(a.raw, b.raw, c.raw)};
    } else if constexpr (Isa::bytes == 32 && sizeof(T) == 4) {
        return {_mm256_fmadd_ps(a.raw, b.raw, c.raw)};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_fmadd_pd(a.raw, b.raw, c.raw)};
    } else {
        return {fma_without_instruction<Isa>(a.raw, b.raw, c.raw)};
    }
}

// a > b ? a : b, so b where either is NaN and for zeros of either sign; min is a < b ? a : b.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> max(Vec<Isa, T> a, Vec<Isa, T> b) {
    if constexpr (Isa::bytes == 64 && std::is_same_v<T, float>) {
        return {_mm512_max_ps(a.raw, b.raw)};
    } else if constexpr (Isa::bytes == 64 && std::is_same_v<T, double>) {
        return {_mm512_max_pd(a.raw, b.raw)};
    } else if constexpr (Isa::bytes == 32 && std::is_same_v<T, float>) {
        return {_mm256_max_ps(a.raw, b.raw)};
    } else if constexpr (Isa::bytes == 32 && std::is_same_v<T, double>) {
        return {_mm256_max_pd(a.raw, b.raw)};
    } else if constexpr (std::is_same_v<T, float>) {
        return {_mm_max_ps(a.raw, b.raw)};
    } else if constexpr (std::is_same_v<T, double>) {
        return {_mm_max_pd(a.raw, b.raw)};
    } else {
        return select(a > b, a, b);
    }
}
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> min(Vec<Isa, T> a, Vec<Isa, T> b) {
    if constexpr (Isa::bytes == 64 && std::is_same_v<T, float>) {
        return {_mm512_min_ps(a.raw, b.raw)};
    } else if constexpr (Isa::bytes == 64 && std::is_same_v<T, double>) {
        return {_mm512_min_pd(a.raw, b.raw)};
    } else if constexpr (Isa::bytes == 32 && std::is_same_v<T, float>) {
        return {_mm256_min_ps(a.raw, b.raw)};
    } else if constexpr (Isa::bytes == 32 && std::is_same_v<T, double>) {
        return {_mm256_min_pd(a.raw, b.raw)};
    } else if constexpr (std::is_same_v<T, float>) {
        return {_mm_min_ps(a.raw, b.raw)};
    } else if constexpr (std::is_same_v<T, double>) {
        return {_mm_min_pd(a.raw, b.raw)};
    } else {
        return select(a < b, a, b);
    }
}

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> sqrt(Vec<Isa, T> a) {
    if constexpr (Isa::bytes == 64 && sizeof(T) == 4) {
        return {_mm512_sqrt_ps(a.raw)};
    } else if constexpr (Isa::bytes == 64) {
        return {_mm512_sqrt_pd(a.raw)};
    } else if constexpr (Isa::bytes == 32 && sizeof(T) == 4) {
        return {_mm256_sqrt_ps(a.raw)};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_sqrt_pd(a.raw)};
    } else if constexpr (sizeof(T) == 4) {
        return {_mm_sqrt_ps(a.raw)};
    } else {
        return {_mm_sqrt_pd(a.raw)};
    }
}

// One bit a lane, lane 0 in bit 0.
template <class Isa, class M>
[[gnu::always_inline]] inline unsigned mask_bits(Vec<Isa, M> mask) {
    if constexpr (Isa::bytes == 64 && sizeof(M) == 4) {
        return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask.raw));
    } else if constexpr (Isa::bytes == 64) {
        return _mm512_movepi64_mask(reinterpret_cast<__m512i>(mask.raw));
    } else if constexpr (Isa::bytes == 32 && sizeof(M) == 4) {
        return static_cast<unsigned>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask.raw)));
    } else if constexpr (Isa::bytes == 32) {
        return static_cast<unsigned>(_mm256_movemask_pd(reinterpret_cast<__m256d>(mask.raw)));
    } else if constexpr (sizeof(M) == 4) {
        return static_cast<unsigned>(_mm_movemask_ps(reinterpret_cast<__m128>(mask.raw)));
    } else {
        return static_cast<unsigned>(_mm_movemask_pd(reinterpret_cast<__m128d>(mask.raw)));
    }
}
template <class Isa, class M>
[[gnu::always_inline]] inline bool any(Vec<Isa, M> mask) {
    return mask_bits(mask) != 0;
}

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> load_first(const T* p, int count) {
    if constexpr (Isa::bytes == 64 && sizeof(T) == 4) {
        __mmask16 m = static_cast<__mmask16>((1u << count) - 1u);
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm512_maskz_loadu_epi32(m, p))};
    } else if constexpr (Isa::bytes == 64) {
        __mmask8 m = static_cast<__mmask8>((1u << count) - 1u);
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm512_maskz_loadu_epi64(m, p))};
    } else if constexpr (Isa::bytes == 32 && sizeof(T) == 4) {
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i m = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(
            _mm256_maskload_epi32(reinterpret_cast<const int*>(p), m))};
    } else if constexpr (Isa::bytes == 32) {
        __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
        __m256i m = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane);
        return {reinterpret_cast<typename Vec<Isa, T>::Raw>(
            _mm256_maskload_epi64(reinterpret_cast<const long long*>(p), m))};
    } else {
        Vec<Isa, T> v = Vec<Isa, T>::zero();
        for (int i = 0; i < count; ++i) v.raw[i] = p[i];
        return v;
    }
}
template <class Isa, class T>
[[gnu::always_inline]] inline void store_first(T* p, Vec<Isa, T> v, int count) {
    if constexpr (Isa::bytes == 64 && sizeof(T) == 4) {
        __mmask16 m = static_cast<__mmask16>((1u << count) - 1u);
        _mm512_mask_storeu_epi32(p, m, reinterpret_cast<__m512i>(v.raw));
    } else if constexpr (Isa::bytes == 64) {
        __mmask8 m = static_cast<__mmask8>((1u << count) - 1u);
        _mm512_mask_storeu_epi64(p, m, reinterpret_cast<__m512i>(v.raw));
    } else if constexpr (Isa::bytes == 32 && sizeof(T) == 4) {
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i m = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
        _mm256_maskstore_epi32(reinterpret_cast<int*>(p), m, reinterpret_cast<__m256i>(v.raw));
    } else if constexpr (Isa::bytes == 32) {
        __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
        __m256i m = _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), lane);
        _mm256_maskstore_epi64(reinterpret_cast<long long*>(p), m,
                               reinterpret_cast<__m256i>(v.raw));
    } else {
        for (int i = 0; i < count; ++i) p[i] = v.raw[i];
    }
}

// The lanes where the mask is set; the others are 0, and their memory is not touched.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> load_masked(const T* p, Mask<Isa, T> mask) {
    Vec<Isa, T> v = Vec<Isa, T>::zero();
    if constexpr (Isa::bytes == 64 && sizeof(T) == 4) {
        v.raw = reinterpret_cast<typename Vec<Isa, T>::Raw>(
            _mm512_maskz_loadu_epi32(_mm512_movepi32_mask(reinterpret_cast<__m512i>(mask.raw)), p));
    } else if constexpr (Isa::bytes == 64) {
        v.raw = reinterpret_cast<typename Vec<Isa, T>::Raw>(
            _mm512_maskz_loadu_epi64(_mm512_movepi64_mask(reinterpret_cast<__m512i>(mask.raw)), p));
    } else if constexpr (Isa::bytes == 32 && sizeof(T) == 4) {
        v.raw = reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm256_maskload_epi32(
            reinterpret_cast<const int*>(p), reinterpret_cast<__m256i>(mask.raw)));
    } else {
        static_assert(Isa::bytes == 32);
        v.raw = reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm256_maskload_epi64(
            reinterpret_cast<const long long*>(p), reinterpret_cast<__m256i>(mask.raw)));
    }
    return v;
}

template <class Isa, class T, class Half>
[[gnu::always_inline]] inline Vec<Isa, T> join_halves(Half low, Half high) {
    using Raw = typename Vec<Isa, T>::Raw;
    if constexpr (Isa::bytes == 64) {
        const __m512 v = _mm512_castps256_ps512(reinterpret_cast<__m256>(low));
        return {reinterpret_cast<Raw>(_mm512_insertf32x8(v, reinterpret_cast<__m256>(high), 1))};
    } else {
        const __m256 v = _mm256_castps128_ps256(reinterpret_cast<__m128>(low));
        return {reinterpret_cast<Raw>(_mm256_insertf128_ps(v, reinterpret_cast<__m128>(high), 1))};
    }
}

// Non-temporal store; p is aligned to Isa::bytes, and stream_fence() follows the last one of a
// task.
template <class Isa, class T>
[[gnu::always_inline]] inline void stream(T* p, Vec<Isa, T> v) {
    if constexpr (Isa::bytes == 64) {
        _mm512_stream_si512(reinterpret_cast<__m512i*>(p), reinterpret_cast<__m512i>(v.raw));
    } else if constexpr (Isa::bytes == 32) {
        _mm256_stream_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(v.raw));
    } else {
        _mm_stream_si128(reinterpret_cast<__m128i*>(p), reinterpret_cast<__m128i>(v.raw));
    }
}
template <class Isa>
[[gnu::always_inline]] inline void stream_fence() {
    _mm_sfence();
}

template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> widen_low(Vec<Isa, float> a) {
    if constexpr (Isa::bytes == 64) {
        return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.raw))};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_cvtps_pd(_mm256_castps256_ps128(a.raw))};
    } else {
        return {_mm_cvtps_pd(a.raw)};
    }
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> widen_high(Vec<Isa, float> a) {
    if constexpr (Isa::bytes == 64) {
        return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.raw, 1))};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_cvtps_pd(_mm256_extractf128_ps(a.raw, 1))};
    } else {
        return {_mm_cvtps_pd(_mm_movehl_ps(a.raw, a.raw))};
    }
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> narrow(Vec<Isa, double> low, Vec<Isa, double> high) {
    if constexpr (Isa::bytes == 64) {
        return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low.raw)),
                                   _mm512_cvtpd_ps(high.raw), 1)};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_set_m128(_mm256_cvtpd_ps(high.raw), _mm256_cvtpd_ps(low.raw))};
    } else {
        return {_mm_movelh_ps(_mm_cvtpd_ps(low.raw), _mm_cvtpd_ps(high.raw))};
    }
}

// The low 32 bits of every lane of both, in some order.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, std::int32_t> low_words(Vec<Isa, double> a,
                                                               Vec<Isa, double> b) {
    using Raw = typename Vec<Isa, std::int32_t>::Raw;
    if constexpr (Isa::bytes == 64) {
        return {reinterpret_cast<Raw>(_mm512_shuffle_ps(reinterpret_cast<__m512>(a.raw),
                                                        reinterpret_cast<__m512>(b.raw), 0x88))};
    } else if constexpr (Isa::bytes == 32) {
        return {reinterpret_cast<Raw>(_mm256_shuffle_ps(reinterpret_cast<__m256>(a.raw),
                                                        reinterpret_cast<__m256>(b.raw), 0x88))};
    } else {
        return {reinterpret_cast<Raw>(_mm_shuffle_ps(reinterpret_cast<__m128>(a.raw),
                                                     reinterpret_cast<__m128>(b.raw), 0x88))};
    }
}

// Whether a lane of a has none of the bits of b.
template <class Isa>
[[gnu::always_inline]] inline bool any_without(Vec<Isa, std::int32_t> a, Vec<Isa, std::int32_t> b) {
    if constexpr (Isa::bytes == 64) {
        return _mm512_testn_epi32_mask(reinterpret_cast<__m512i>(a.raw),
                                       reinterpret_cast<__m512i>(b.raw)) != 0;
    } else {
        return any((a & b) == Vec<Isa, std::int32_t>::splat(0));
    }
}

// Whether a lane of a is not 0.
template <class Isa>
[[gnu::always_inline]] inline bool any_nonzero(Vec<Isa, std::int32_t> a) {
    if constexpr (Isa::bytes == 64) {
        __m512i bits = reinterpret_cast<__m512i>(a.raw);
        return _mm512_test_epi32_mask(bits, bits) != 0;
    } else if constexpr (Isa::bytes == 32) {
        __m256i bits = reinterpret_cast<__m256i>(a.raw);
        return _mm256_testz_si256(bits, bits) == 0;
    } else {
        return any(a != Vec<Isa, std::int32_t>::splat(0));
    }
}

// table[index mod size] for every lane, from registers; tables have `lookup_size` words, 0 where
// there are no such instructions.
template <class Isa>
constexpr int lookup_size = Isa::bytes == 64   ? 32
                            : Isa::bytes == 32 ? 16
                                               : 0;
template <class Isa, class T, int size>
[[gnu::always_inline]] inline Vec<Isa, T> lookup(const T (&table)[size],
                                                 Vec<Isa, std::int32_t> index) {
    static_assert(sizeof(T) == 4 && size == lookup_size<Isa>);
    using Raw = typename Vec<Isa, T>::Raw;
    if constexpr (Isa::bytes == 64) {
        return {reinterpret_cast<Raw>(_mm512_permutex2var_epi32(
            _mm512_loadu_si512(table), reinterpret_cast<__m512i>(index.raw),
            _mm512_loadu_si512(table + 16)))};
    } else {
        __m256i i = reinterpret_cast<__m256i>(index.raw);
        __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table));
        __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table + 8));
        // The bit of value 8 goes where the blend looks for it.
        return {reinterpret_cast<Raw>(
            _mm256_blendv_ps(_mm256_castsi256_ps(_mm256_permutevar8x32_epi32(low, i)),
                             _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(high, i)),
                             _mm256_castsi256_ps(_mm256_slli_epi32(i, 28))))};
    }
}

// 1 / a with a and the quotient rounded to float32.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> reciprocal_float32(Vec<Isa, double> a) {
    if constexpr (Isa::bytes == 64) {
        __m256 q = _mm256_div_ps(_mm256_set1_ps(1.0f), _mm512_cvtpd_ps(a.raw));
        return {_mm512_cvtps_pd(q)};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_cvtps_pd(_mm_div_ps(_mm_set1_ps(1.0f), _mm256_cvtpd_ps(a.raw)))};
    } else {
        // The upper half must not divide by the zeros that the conversion leaves there.
        __m128 f = _mm_cvtpd_ps(a.raw);
        return {_mm_cvtps_pd(_mm_div_ps(_mm_set1_ps(1.0f), _mm_movelh_ps(f, f)))};
    }
}

// As many floats as a register has doubles, widened, and doubles narrowed to as many floats.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> load_widened(const float* p) {
    if constexpr (Isa::bytes == 64) {
        return {_mm512_cvtps_pd(_mm256_loadu_ps(p))};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_cvtps_pd(_mm_loadu_ps(p))};
    } else {
        return {
            _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
    }
}
template <class Isa>
[[gnu::always_inline]] inline void store_narrowed(float* p, Vec<Isa, double> v) {
    if constexpr (Isa::bytes == 64) {
        _mm256_storeu_ps(p, _mm512_cvtpd_ps(v.raw));
    } else if constexpr (Isa::bytes == 32) {
        _mm_storeu_ps(p, _mm256_cvtpd_ps(v.raw));
    } else {
        _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_castps_si128(_mm_cvtpd_ps(v.raw)));
    }
}

// Eight entries of 4 bytes, looked up by the low three bits of each lane.
template <class Isa, class T>
struct Table8 {
    Vec<Isa, T> entries;
    const T* memory;

    [[gnu::always_inline]] explicit inline Table8(const T* from) : memory(from) {
        if constexpr (Isa::bytes == 64) {
            __m256i once;
            __builtin_memcpy(&once, from, sizeof(once));
            entries.raw = reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm512_broadcast_i64x4(once));
        } else if constexpr (Isa::bytes == 32) {
            entries = loadu<Isa>(from);
        }
    }
    [[gnu::always_inline]] inline Vec<Isa, T> operator[](Vec<Isa, std::int32_t> index) const {
        if constexpr (Isa::bytes == 64) {
            return {reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm512_permutexvar_epi32(
                reinterpret_cast<__m512i>(index.raw), reinterpret_cast<__m512i>(entries.raw)))};
        } else if constexpr (Isa::bytes == 32) {
            return {reinterpret_cast<typename Vec<Isa, T>::Raw>(_mm256_permutevar8x32_epi32(
                reinterpret_cast<__m256i>(entries.raw), reinterpret_cast<__m256i>(index.raw)))};
        } else {
            Vec<Isa, T> r;
            for (int i = 0; i < Vec<Isa, T>::size; ++i) r.raw[i] = memory[index.raw[i] & 7];
            return r;
        }
    }
};

// 0, 1, 2, ... by lane.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> lane_numbers() {
    if constexpr (Isa::bytes == 64) {
        return {_mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7)};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_setr_pd(0, 1, 2, 3)};
    } else {
        return {_mm_setr_pd(0, 1)};
    }
}

// float16 to float32 without F16C: shift exponent and significand into place and scale by 2^112,
// which also normalises subnormals; infinity and NaN then get the all-ones exponent.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> widen_float16_bits(Vec<Isa, std::int32_t> h) {
    using I = Vec<Isa, std::int32_t>;
    using V = Vec<Isa, float>;
    I magnitude = (h & I::splat(0x7fff)) << 13;
    V scaled = from_bits<float>(magnitude) * V::splat(0x1p112f);
    I special = magnitude >= I::splat(0x7c00 << 13);
    I value = select(special, magnitude | I::splat(0x7f800000), bits(scaled));
    return from_bits<float>(value | ((h & I::splat(0x8000)) << 16));
}

// float32 to float16 without F16C, to nearest even. Normal results round in the integer (the carry
// runs into the exponent and on to infinity); subnormal ones by adding 0.5, whose last place is
// 2^-24, the unit of float16 subnormals; NaN keeps its top bits and becomes quiet.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, std::int32_t> narrow_float16_bits(Vec<Isa, float> x) {
    using I = Vec<Isa, std::int32_t>;
    using V = Vec<Isa, float>;
    I b = bits(x);
    I magnitude = b & I::splat(0x7fffffff);
    I sign = (b >> 16) & I::splat(0x8000);
    I odd = (magnitude >> 13) & I::splat(1);
    I normal = (magnitude + I::splat(0xfff - (112 << 23)) + odd) >> 13;
    normal = select(normal > I::splat(0x7c00), I::splat(0x7c00), normal);
    I subnormal = bits(from_bits<float>(magnitude) + V::splat(0.5f)) - I::splat(0x3f000000);
    I nan = ((magnitude >> 13) & I::splat(0x3ff)) | I::splat(0x7e00);
    I result = select(magnitude < I::splat(0x38800000), subnormal, normal);
    result = select(magnitude > I::splat(0x7f800000), nan, result);
    return result | sign;
}

template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> load_narrow(const float16* p) {
    if constexpr (Isa::bytes == 64) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
    } else if constexpr (Isa::bytes == 32) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    } else {
        __m128i h = _mm_unpacklo_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)),
                                       _mm_setzero_si128());
        return widen_float16_bits<Isa>({reinterpret_cast<typename Vec<Isa, std::int32_t>::Raw>(h)});
    }
}
template <class Isa>
[[gnu::always_inline]] inline void store_narrow(float16* p, Vec<Isa, float> v) {
    if constexpr (Isa::bytes == 64) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtps_ph(v.raw, _MM_FROUND_TO_NEAREST_INT));
    } else if constexpr (Isa::bytes == 32) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm256_cvtps_ph(v.raw, _MM_FROUND_TO_NEAREST_INT));
    } else {
        Vec<Isa, std::int32_t> h = narrow_float16_bits(v);
        for (int i = 0; i < Vec<Isa, float>::size; ++i)
            p[i].bits = static_cast<std::uint16_t>(h.raw[i]);
    }
}

template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> load_narrow(const bfloat16* p) {
    if constexpr (Isa::bytes == 64) {
        __m512i h = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(h, 16))};
    } else if constexpr (Isa::bytes == 32) {
        __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(h, 16))};
    } else {
        __m128i h = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
        return {_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), h))};
    }
}
// To nearest even in the integer; NaN keeps its top bits and becomes quiet. (The instructions for
// it flush subnormals.)
template <class Isa>
[[gnu::always_inline]] inline void store_narrow(bfloat16* p, Vec<Isa, float> v) {
    using I = Vec<Isa, std::int32_t>;
    I b = bits(v);
    I rounded = b + I::splat(0x7fff) + ((b >> 16) & I::splat(1));
    I top = (select(is_nan(v), b | I::splat(0x400000), rounded) >> 16) & I::splat(0xffff);
    if constexpr (Isa::bytes == 64) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                            _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(top.raw)));
    } else if constexpr (Isa::bytes == 32) {
        __m256i t = reinterpret_cast<__m256i>(top.raw);
        _mm_storeu_si128(
            reinterpret_cast<__m128i*>(p),
            _mm_packus_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1)));
    } else {
        for (int i = 0; i < Vec<Isa, float>::size; ++i)
            p[i].bits = static_cast<std::uint16_t>(top.raw[i]);
    }
}

}  // namespace stableops
