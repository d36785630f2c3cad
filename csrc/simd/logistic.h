#pragma once
// sigmoid(x) = 1 / (1 + exp(-x)) and softplus(x) = log(1 + exp(x)) on Vec<Isa, double>, and the one
// rounding of such results to float32, float16 and bfloat16.
//
// Both are functions of t = exp(-|x|) <= 1, which cannot overflow:
//   sigmoid(x)  = 1 / (1 + t) for x >= 0, t / (1 + t) for x < 0;
//   softplus(x) = max(x, 0) + log1p(t), all terms positive: nothing cancels, and for x << 0, where
//                 log(1 + exp(x)) has no digits left, log1p keeps them all.
#include <concepts>

#include "math.h"

namespace stableops {

// sigmoid for results in float32: relative error below 2^-45 (exp 2^-45.7 for |x| <= 104, division
// 2^-46.9). Beyond |x| = 200 it is sigmoid of that.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> sigmoid_fast(Vec<Isa, double> x) {
    using D = Vec<Isa, double>;
    D t = exp_fast(-min(D::splat(200), abs(x)));
    D q = reciprocal_fast(D::splat(1) + t);
    return select(x < D::zero(), t * q, q);
}

// The same for -87.3 <= x <= 60 with four operations less: in float64, 1 / (1 + exp(-x)) neither
// overflows nor loses digits, whatever the sign of x. For -120 <= x < -89, where exp(-x) overflows
// in the float32 of the division, it is 0.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> sigmoid_fast_clamped(Vec<Isa, double> x) {
    return reciprocal_fast(Vec<Isa, double>::splat(1) + exp_fast(-x));
}

// softplus for results in float32: relative error below 2^-44.8 (exp 2^-45.7, log1p 2^-46.0) for
// |x| <= 700 or NaN; below it is softplus(-700).
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> softplus_fast_clamped(Vec<Isa, double> x) {
    using D = Vec<Isa, double>;
    D positive = max(x, D::zero());
    D t = exp_fast(max(D::splat(-700), -abs(x)));
    // max() passes over NaN, t does not.
    return add_log1p_unit_fast(positive, t);
}

// exp(-|x|) as it is and multiplied out, where the latter stops at 2^-200: enough beside a 1.
template <class Isa>
struct ExpOfMinusAbs {
    Scaled<Isa> scaled;
    Pair<Isa> value;
};
template <class Isa>
[[gnu::always_inline]] inline ExpOfMinusAbs<Isa> exp_of_minus_abs(Vec<Isa, double> x) {
    using D = Vec<Isa, double>;
    Scaled<Isa> e = exp_pair(-abs(x), D::zero());
    D scale = power_of_two(max(e.exponent, D::splat(-200)));
    return {e, {e.value.hi * scale, e.value.lo * scale}};
}

// sigmoid from t = exp(-|x|), value.hi in [0.35, 1.42]; relative error below 2^-60: that of
// exp_pair 2^-61.3, damped by 1 / (1 + t), and less than 2^-100 of the division. x may be anything.
template <class Isa>
[[gnu::always_inline]] inline Scaled<Isa> sigmoid_pair(Vec<Isa, double> x,
                                                       const ExpOfMinusAbs<Isa>& t) {
    using D = Vec<Isa, double>;
    Pair<Isa> d = fast_two_sum(D::splat(1), t.value.hi);
    d.lo = d.lo + t.value.lo;
    Mask<Isa, double> negative = x < D::zero();
    Pair<Isa> n = {select(negative, t.scaled.value.hi, D::splat(1)),
                   select(negative, t.scaled.value.lo, D::zero())};
    return {div_fast(n, d), select(negative, t.scaled.exponent, D::zero())};
}

// softplus from t = exp(-|x|); relative error below 2^-58 (log1p_pair 2^-58.5; below -45, where the
// result is t, 2^-61.3 and t / 2 < 2^-65). x may be anything. |value.lo| is at most 2^-50 value.hi.
template <class Isa>
[[gnu::always_inline]] inline Scaled<Isa> softplus_pair(Vec<Isa, double> x,
                                                        const ExpOfMinusAbs<Isa>& t) {
    using D = Vec<Isa, double>;
    Pair<Isa> l = log1p_pair(t.value.hi, t.value.lo);
    Pair<Isa> s = two_sum(max(x, D::zero()), l.hi);
    // At infinity the error of the sum is NaN.
    s.lo = select(x < D::splat(0x1p1000), s.lo + l.lo, D::zero());
    Mask<Isa, double> far = x < D::splat(-45);
    return {{select(far, t.scaled.value.hi, s.hi), select(far, t.scaled.value.lo, s.lo)},
            select(far, t.scaled.exponent, D::zero())};
}

// hi + lo rounded to odd: hi, or if lo is not 0 the one of the two doubles around hi + lo whose
// last bit is 1. Rounding that to a format of at most 51 bits is rounding hi + lo once (Boldo &
// Melquiond 2008). hi != 0.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> round_to_odd(Pair<Isa> a) {
    using D = Vec<Isa, double>;
    using I = Mask<Isa, double>;
    Pair<Isa> s = fast_two_sum(a.hi, a.lo);
    I b = bits(s.hi);
    // Not inexact where lo is NaN, beside an infinite hi.
    I inexact = (s.lo < D::zero()) | (s.lo > D::zero());
    I even = ~b & I::splat(1);
    // Away from zero where hi and lo have the same sign.
    I towards_zero = (s.hi < D::zero()) ^ (s.lo < D::zero());
    I step = (even ^ towards_zero) - towards_zero;
    return from_bits<double>(b + (inexact & step));
}

// value * 2^exponent as a double that rounds to float32 and narrower as the exact pair would;
// results below 2^-300 become 2^-300.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> round_to_odd(Scaled<Isa> a) {
    using D = Vec<Isa, double>;
    return round_to_odd(a.value) * power_of_two(max(a.exponent, D::splat(-300)));
}

// y as float32 halves for a further rounding to float16 or bfloat16: y cut off after 24 bits, the
// last of them 1 if anything was lost, so that the next rounding sees on which side of a midpoint y
// lies. (float32's subnormals, where narrow() rounds again, are left to chance: there are 30 inputs
// with such results in bfloat16, and the tests run them all.)
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> narrow_to_odd(Vec<Isa, double> low,
                                                            Vec<Isa, double> high) {
    using I = Mask<Isa, double>;
    const I rest = I::splat((1 << 29) - 1);
    const I last = I::splat(1 << 29);
    I a = bits(low), b = bits(high);
    a = (a & ~rest) | (((a & rest) + rest) & last);
    b = (b & ~rest) | (((b & rest) + rest) & last);
    return narrow(from_bits<double>(a), from_bits<double>(b));
}

// Whether one of these results, known to a relative error below 2^-44, lies so close to the
// midpoint of two float32 (the low 29 bits of a double are 2^28 there) that it might belong to the
// other side; or whether a lane of `also` is set.
template <class Isa>
[[gnu::always_inline]] inline bool any_near_midpoint(Vec<Isa, double> low, Vec<Isa, double> high,
                                                     Mask<Isa, float> also) {
    using I = Mask<Isa, float>;
    constexpr std::int32_t half = 1 << 28;
    constexpr std::int32_t error = 1 << 9;
    I b = low_words(low, high) + I::splat(half + error);
    return any_without(select(also, I::splat(0), b), I::splat((2 * half - 1) & ~(2 * error - 1)));
}

// 2^(j/steps) rounded to float32, with j steps taken off its exponent bits so that adding
// n = steps k + j, shifted, gives 2^(n/steps); and what the rounding left, relative to it.
template <int steps>
struct Powers {
    std::int32_t high[steps];
    float low[steps];
};
template <int steps>
constexpr Powers<steps> power_table = [] {
    Powers<steps> table = {};
    for (int j = 0; j < steps; ++j) {
        const double exact = power_steps[j * (32 / steps)];
        const float high = static_cast<float>(exact);
        table.high[j] = __builtin_bit_cast(std::int32_t, high) - j * ((1 << 23) / steps);
        table.low[j] = static_cast<float>((exact - high) / exact);
    }
    return table;
}();

// A value rounded to float32 and what the rounding took off.
template <class Isa>
struct FloatAndRest {
    Vec<Isa, float> value, rest;

    // Bits that are 0 where the rounding is certain: where value stays although rest grows by 2^-8
    // or 2^-10, which where it matters is at least 2^-33 or 2^-35 of value, the error of
    // sigmoid_float32.
    [[gnu::always_inline]] inline Mask<Isa, float> uncertain() const {
        constexpr float growth = lookup_size<Isa> == 32 ? 1 + 0x1p-10f : 1 + 0x1p-8f;
        return bits(value) ^ bits(fma(rest, Vec<Isa, float>::splat(growth), value));
    }
};

// sigmoid in float32 lanes, in half the time of float64 lanes, for x >= -60 or NaN: below, rest
// would become subnormal.
//
// With a table of N = 16 or 32 powers (as many as registers hold), u = exp(-x) = T (1 + r + small):
// T = 2^(n/N), |r| <= ln 2 / 2N without error, and small = r^2 q(r) + (1 + r) (n (the rest of ln 2
// / N) + the rest of T), at most 2^-12 or 2^-14. 1 + u is kept as d + d_lo: 1 + T with its error,
// then T r by fma with its error, then T small. The quotient is q + q (e + e^2) with q = 1 / d
// rounded and e = 1 - q (d + d_lo), of the size of small, which the code has with its sign changed
// at first. All roundings are of terms of that size, so the relative error of value + rest, eight
// of them, is below 2^-33 or 2^-35; measured 2^-33.6 and 2^-35.5.
template <class Isa>
[[gnu::always_inline]] inline FloatAndRest<Isa> sigmoid_float32(Vec<Isa, float> x) {
    using V = Vec<Isa, float>;
    using I = Mask<Isa, float>;
    constexpr int steps = lookup_size<Isa>;
    constexpr int shift = steps == 32 ? 18 : 19;
    constexpr float ln2_float = static_cast<float>(ln2_high);
    constexpr float ln2_rest = static_cast<float>(ln2_high - ln2_float);
    const V one = V::splat(1), magic = V::splat(0x1.8p23f);
    V clamped = min(V::splat(60), x);
    V t = fma(clamped, V::splat(static_cast<float>(-steps * log2_e)), magic);
    V n = t - magic;
    V r = fma(n, V::splat(-ln2_float / steps), -clamped);
    V q = horner(exp_sixteenth_tail, r);
    I index = bits(t);
    V power = from_bits<float>(lookup<Isa>(power_table<steps>.high, index) + (index << shift));
    V low = fma(n, V::splat(-ln2_rest / steps), lookup<Isa>(power_table<steps>.low, index));
    V small = fma(low, r, fma(r * r, q, low));
    V sum = one + power;
    V sum_lo = min(one, power) - (sum - max(one, power));
    V d = fma(power, r, sum);
    V d_lo = fma(power, small, fma(power, r, sum - d) + sum_lo);
    V inverse = one / d;
    V e = fma(inverse, d_lo, fma(inverse, d, -one));
    e = fma(e, e, -e);
    V y = fma(e, inverse, inverse);
    return {y, fma(e, inverse, inverse - y)};
}

// Bits that are 0 where x >= least or NaN.
template <class Isa>
[[gnu::always_inline]] inline Mask<Isa, float> below(float least, Vec<Isa, float> x) {
    return bits(x) ^ bits(max(Vec<Isa, float>::splat(least), x));
}

// g * sigmoid(x) by way of float64, error 2^-45 before the one rounding. Out of line, so that the
// loop around the way in float32 keeps the registers.
template <class Isa>
[[gnu::noinline]] Vec<Isa, float> times_sigmoid_careful(Vec<Isa, float> g, Vec<Isa, float> x) {
    return narrow(widen_low(g) * sigmoid_fast(widen_low(x)),
                  widen_high(g) * sigmoid_fast(widen_high(x)));
}

// The same in float32 lanes, right where a lane of `uncertain` is 0: there both ways round alike.
//
// For x >= -20, sigmoid is above 2^-29 and its rest far from subnormal; for g = 0 or 2^-63 <= |g|
// <= 2^126, so is what fma finds the product to lack. That is kept with its sign changed: so a
// zero, p - (+0), keeps its own. Nothing but these last bits adds to sigmoid's error.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, float> times_sigmoid_float32(Vec<Isa, float> g,
                                                                    Vec<Isa, float> x,
                                                                    Mask<Isa, float>& uncertain) {
    using V = Vec<Isa, float>;
    using I = Mask<Isa, float>;
    FloatAndRest<Isa> s = sigmoid_float32(x);
    V p = g * s.value;
    V excess = fma(-g, s.rest, fma(-g, s.value, p));
    V y = p - excess;
    V size = abs(g);
    // A NaN becomes 2^126 here. |g| = 0 differs from 2^-63 in one bit, which no other |g| outside
    // the range is alone in having.
    V allowed = max(min(size, V::splat(0x1p126f)), V::splat(0x1p-63f));
    I outside = (bits(size) ^ bits(allowed)) & ~bits(V::splat(0x1p-63f));
    uncertain = FloatAndRest<Isa>{y, (p - y) - excess}.uncertain() | outside | below(-20, x);
    return y;
}

// A function of one argument that is computed in these two ways.
template <class Function, class Isa>
concept TwoGrades = requires(Vec<Isa, double> x) {
    { Function::largest } -> std::convertible_to<float>;
    { Function::fast(x) } -> std::same_as<Vec<Isa, double>>;
    { Function::pair(x) } -> std::same_as<Scaled<Isa>>;
};

template <class Isa>
struct Sigmoid {
    // Beyond it the result is 1 in float32.
    static constexpr float largest = 60;
    [[gnu::always_inline]] static inline Vec<Isa, double> fast(Vec<Isa, double> x) {
        return sigmoid_fast_clamped(x);
    }
    // Also where the result is subnormal in float32.
    [[gnu::always_inline]] static inline Vec<Isa, double> fast_everywhere(Vec<Isa, double> x) {
        return sigmoid_fast(x);
    }
    [[gnu::always_inline]] static inline Scaled<Isa> pair(Vec<Isa, double> x) {
        return sigmoid_pair(x, exp_of_minus_abs(x));
    }
    [[gnu::always_inline]] static inline Vec<Isa, float> float32(Vec<Isa, float> x,
                                                                 Mask<Isa, float>& uncertain)
        requires(lookup_size<Isa> > 0)
    {
        FloatAndRest<Isa> y = sigmoid_float32(x);
        uncertain = y.uncertain() | below(-60, x);
        return y.value;
    }
};

template <class Isa>
struct Softplus {
    static constexpr float largest = __builtin_inff();
    [[gnu::always_inline]] static inline Vec<Isa, double> fast(Vec<Isa, double> x) {
        return softplus_fast_clamped(x);
    }
    [[gnu::always_inline]] static inline Vec<Isa, double> fast_everywhere(Vec<Isa, double> x) {
        return softplus_fast_clamped(x);
    }
    [[gnu::always_inline]] static inline Scaled<Isa> pair(Vec<Isa, double> x) {
        return softplus_pair(x, exp_of_minus_abs(x));
    }
};

// Function::fast on both halves of x, clamped to where fast is right: below -120 results are 0 in
// float32.
template <class Isa, class Function>
struct FloatHalves {
    Vec<Isa, double> low, high;

    [[gnu::always_inline]] explicit inline FloatHalves(Vec<Isa, float> x) {
        using V = Vec<Isa, float>;
        V clamped = min(V::splat(Function::largest), max(V::splat(-120), x));
        low = Function::fast(widen_low(clamped));
        high = Function::fast(widen_high(clamped));
    }
};

// Function(x) in float32, correctly rounded. Function::fast decides the rounding unless it is near
// a midpoint (once in 2^14 vectors) or the result may be subnormal, which for sigmoid and softplus
// means -104 < x < -87.3; below, it is 0. There Function::pair decides, with an error of 2^-58;
// that this is enough for each of the 2^32 inputs is shown by running them (python -m benchmarks
// accuracy --exhaustive).
template <class Isa, class Function>
[[gnu::always_inline]] inline Vec<Isa, float> halves_float32(Vec<Isa, float> x, bool& doubtful) {
    using V = Vec<Isa, float>;
    FloatHalves<Isa, Function> y(x);
    Mask<Isa, float> subnormal = (x < V::splat(-87.3f)) & (x > V::splat(-104.0f));
    doubtful = any_near_midpoint(y.low, y.high, subnormal);
    return narrow(y.low, y.high);
}
// Out of line, so that the loop around the fast way keeps the registers.
template <class Isa, class Function>
[[gnu::noinline]] Vec<Isa, float> correctly_rounded_float32(Vec<Isa, float> x) {
    bool doubtful;
    Vec<Isa, float> y = halves_float32<Isa, Function>(x, doubtful);
    if (doubtful) [[unlikely]]
        return narrow(round_to_odd(Function::pair(widen_low(x))),
                      round_to_odd(Function::pair(widen_high(x))));
    return y;
}
template <class Isa, class Function>
[[gnu::noinline]] Vec<Isa, double> rounded_float64(Vec<Isa, double> x) {
    Scaled<Isa> y = Function::pair(x);
    return ldexp(y.value, y.exponent);
}

// Function(x) rounded to T's compute type: correctly for float32; for float64 with the error of the
// pair beside half a unit; for float16 and bfloat16 in such a way that the rounding on store is
// right. tentative() is right unless `doubtful` gets set, careful() always.
template <class Isa, Storage T, class Function>
    requires TwoGrades<Function, Isa>
struct Rounded {
    using V = Vec<Isa, Compute<T>>;

    [[gnu::always_inline]] static inline V tentative(V x, bool& doubtful) {
        if constexpr (std::is_same_v<T, double>) {
            Scaled<Isa> y = Function::pair(x);
            doubtful = may_be_subnormal(y.exponent);
            return ldexp(y.value.hi + y.value.lo, y.exponent);
        } else if constexpr (!std::is_same_v<T, float>) {
            doubtful = false;
            return narrow_to_odd(Function::fast_everywhere(widen_low(x)),
                                 Function::fast_everywhere(widen_high(x)));
        } else if constexpr (requires(Mask<Isa, float> uncertain) {
                                 Function::float32(x, uncertain);
                             }) {
            Mask<Isa, float> uncertain;
            V y = Function::float32(x, uncertain);
            doubtful = any_nonzero(uncertain);
            return y;
        } else {
            return halves_float32<Isa, Function>(x, doubtful);
        }
    }
    [[gnu::always_inline]] static inline V careful(V x) {
        if constexpr (std::is_same_v<T, double>) {
            return rounded_float64<Isa, Function>(x);
        } else if constexpr (std::is_same_v<T, float>) {
            return correctly_rounded_float32<Isa, Function>(x);
        } else {
            bool doubtful;
            return tentative(x, doubtful);
        }
    }
};

}  // namespace stableops
