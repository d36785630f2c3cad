#pragma once
// exp, expm1, log and log1p on Vec<Isa, double>, and the double-length arithmetic under them.
//
// Three grades of each function:
//   _fast   one double, relative error about 2^-45: for results that are rounded to float32;
//   _pair   hi + lo, relative error below 2^-58: for float64 results, whose last rounding then
//   shows
//           with 0.50 (exp) or 0.51 (log) units in the last place;
//   _wide   hi + lo, relative error below 2^-100: for sums that cancel. Slow.
// Every operation is an IEEE one in a fixed order, so all levels give the same bits. Nothing here
// branches on the data except ldexp(), where results may be subnormal.
//
// The constants come from fit_math.py, which prints the errors quoted beside them. The errors of
// the functions are the largest ones that tests/test_math.py (mpmath, 300 bits) has measured on
// 10^5 inputs of each kind.
#include "vec.h"

namespace stableops {

// 1 / ln 2
constexpr double log2_e = 0x1.71547652b82fep+0;
// ln 2 to 53 bits
constexpr double ln2_high = 0x1.62e42fefa39efp-1;
// ln 2 - ln2_high
constexpr double ln2_low = 0x1.abc9e3b39803fp-56;
// ln 2 - ln2_high - ln2_low
constexpr double ln2_lowest = 0x1.7b57a079a1934p-111;
// ln 2 to 42 bits
constexpr double ln2_head = 0x1.62e42fefa3800p-1;
// ln 2 - ln2_head
constexpr double ln2_tail = 0x1.ef35793c76730p-45;
// exp(r) = 1 + r q(r), |r| <= ln 2 / 2: relative error 2^-45.91
constexpr double exp_fast_tail[] = {
    0x1.ffffffffffcf2p-1,  0x1.ffffffffeedbep-2,  0x1.55555555b4453p-3,
    0x1.555555811dd2ep-5,  0x1.1111105e0e7f9p-7,  0x1.6c1636c472f10p-10,
    0x1.a01bcbbcba019p-13, 0x1.a1736235f1993p-16, 0x1.70c976cb43a4dp-19};
// 2^(j/32)
constexpr double power_steps[] = {
    0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0,
    0x1.172b83c7d517bp+0, 0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0,
    0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0, 0x1.3dea64c123422p+0, 0x1.44e086061892dp+0,
    0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0, 0x1.6247eb03a5585p+0,
    0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
    0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0,
    0x1.ae89f995ad3adp+0, 0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0,
    0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0, 0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0};
// exp(r) = 1 + r + r^2 q(r), |r| <= ln 2 / 32, q in float32: relative error 2^-37.47
constexpr double exp_sixteenth_tail[] = {0x1.0000000000000p-1, 0x1.55571e0000000p-3,
                                         0x1.55576c0000000p-5};
// expm1(r) = r + r^2 q(r), |r| <= ln 2 / 2: relative error 2^-49.35
constexpr double expm1_fast_tail[] = {
    0x1.fffffffffffbfp-2,  0x1.5555555552270p-3,  0x1.5555555564b6ep-5,
    0x1.1111112131dc7p-7,  0x1.6c16c1358366ap-10, 0x1.a0199c0ab9e3ap-13,
    0x1.a01a7917163dap-16, 0x1.72da3388cfe67p-19, 0x1.27dc452d1e05fp-22};
// 1 / 6, high and low
constexpr double sixth[] = {0x1.5555555555555p-3, 0x1.5555555555555p-57};
// exp(r) = 1 + r + r^2 / 2 + r^3 / 6 + r^4 q(r), |r| <= ln 2 / 2: relative error 2^-63.61
constexpr double exp_pair_tail[] = {
    0x1.5555555555558p-5,  0x1.1111111111104p-7,  0x1.6c16c16c15353p-10, 0x1.a01a01a02450dp-13,
    0x1.a01a01ac785f0p-16, 0x1.71de3a2714286p-19, 0x1.27e4ce31d4887p-22, 0x1.ae64fc0a2f544p-26,
    0x1.1f88aedc8ffefp-29, 0x1.60919088c9709p-33};
// log(m) = w + w z p(z), sqrt(1/2) <= m <= sqrt(2): relative error 2^-52.23
constexpr double log_fast_tail[] = {0x1.555555555397ap-4,  0x1.999999a28e8e9p-7,
                                    0x1.2492417a9b154p-9,  0x1.c7227697b5534p-12,
                                    0x1.732c521e1b032p-14, 0x1.5875924f13fedp-16};
// log1p(t) = t + t^2 p(t), 0 <= t <= 1: relative error 2^-46.08
constexpr double log1p_unit_tail[] = {
    -0x1.ffffffffe9d78p-2, 0x1.5555554af9bf0p-2, -0x1.fffffc94fab3fp-3,  0x1.99994fd553d6cp-3,
    -0x1.5551977b32f0cp-3, 0x1.24723825aeb23p-3, -0x1.fe7f3446d0b68p-4,  0x1.c0897d38a5b30p-4,
    -0x1.84047514d84d0p-4, 0x1.3df13f08c09bap-4, -0x1.d38b40deecc58p-5,  0x1.218f285e0d313p-5,
    -0x1.19ba452919451p-6, 0x1.8b99e63c664edp-8, -0x1.5fdd6e3854eb6p-10, 0x1.2748ea8ef4454p-13};
// log(m) = w + w z p(z), sqrt(1/2) <= m <= sqrt(2): relative error 2^-60.66
constexpr double log_pair_tail[] = {
    0x1.5555555555555p-4,  0x1.999999999998ep-7,  0x1.249249249399cp-9,
    0x1.c71c71c4c1424p-12, 0x1.745d187737133p-14, 0x1.3b1353fd43a08p-16,
    0x1.11228ea5a6accp-18, 0x1.ddf302232ebd5p-21, 0x1.ece799a9a2362p-23};
// 1 / i!; exp(r) cut there, |r| <= ln 2 / 2: relative error 2^-115.23
constexpr double inverse_factorial[] = {
    0x1.0000000000000p+0,  0x1.0000000000000p+0,  0x1.0000000000000p-1,  0x1.5555555555555p-3,
    0x1.5555555555555p-5,  0x1.1111111111111p-7,  0x1.6c16c16c16c17p-10, 0x1.a01a01a01a01ap-13,
    0x1.a01a01a01a01ap-16, 0x1.71de3a556c734p-19, 0x1.27e4fb7789f5cp-22, 0x1.ae64567f544e4p-26,
    0x1.1eed8eff8d898p-29, 0x1.6124613a86d09p-33, 0x1.93974a8c07c9dp-37, 0x1.ae7f3e733b81fp-41,
    0x1.ae7f3e733b81fp-45, 0x1.952c77030ad4ap-49, 0x1.6827863b97d97p-53, 0x1.2f49b46814157p-57,
    0x1.e542ba4020225p-62, 0x1.71b8ef6dcf572p-66, 0x1.0ce396db7f853p-70, 0x1.761b41316381ap-75};
// 1 / i! - inverse_factorial[i]
constexpr double inverse_factorial_low[] = {0x0.0p+0,
                                            0x0.0p+0,
                                            0x0.0p+0,
                                            0x1.5555555555555p-57,
                                            0x1.5555555555555p-59,
                                            0x1.1111111111111p-63,
                                            -0x1.f49f49f49f49fp-65,
                                            0x1.a01a01a01a01ap-73,
                                            0x1.a01a01a01a01ap-76,
                                            -0x1.c154f8ddc6c00p-73,
                                            0x1.cbbc05b4fa99ap-76,
                                            -0x1.c062e06d1f209p-80,
                                            -0x1.2aec959e14c06p-83,
                                            0x1.f28e0cc748ebep-87};

// hi + lo, the sum unevaluated; |lo| <= ulp(hi) / 2 unless a function says otherwise.
template <class Isa>
struct Pair {
    Vec<Isa, double> hi, lo;
};

// value * 2^exponent; exponent is integral.
template <class Isa>
struct Scaled {
    Pair<Isa> value;
    Vec<Isa, double> exponent;
};

// a + b without error (Knuth 1969).
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> two_sum(Vec<Isa, T> a, Vec<Isa, T> b,
                                                  Vec<Isa, T>& error) {
    Vec<Isa, T> s = a + b;
    Vec<Isa, T> bb = s - a;
    error = (a - (s - bb)) + (b - bb);
    return s;
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> two_sum(Vec<Isa, double> a, Vec<Isa, double> b) {
    Pair<Isa> r;
    r.hi = two_sum(a, b, r.lo);
    return r;
}

// The same where |a| >= |b| or a is 0 (Dekker 1971).
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> fast_two_sum(Vec<Isa, double> a, Vec<Isa, double> b) {
    Vec<Isa, double> s = a + b;
    return {s, b - (s - a)};
}

// a * b without error, as long as no part of it underflows.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> two_prod(Vec<Isa, double> a, Vec<Isa, double> b) {
    Vec<Isa, double> p = a * b;
    return {p, fma(a, b, -p)};
}

// Double-length arithmetic; the bounds on the relative error are those of Joldes, Muller & Popescu
// (ACM TOMS 44, 2017), algorithms 4, 6, 9, 12 and 17.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> add(Pair<Isa> a, Vec<Isa, double> b) {  // 2^-105
    Pair<Isa> s = two_sum(a.hi, b);
    return fast_two_sum(s.hi, a.lo + s.lo);
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> add(Pair<Isa> a, Pair<Isa> b) {  // 2^-104.4
    Pair<Isa> s = two_sum(a.hi, b.hi);
    Pair<Isa> t = two_sum(a.lo, b.lo);
    Pair<Isa> v = fast_two_sum(s.hi, s.lo + t.hi);
    return fast_two_sum(v.hi, t.lo + v.lo);
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> mul(Pair<Isa> a, Vec<Isa, double> b) {  // 2^-105
    Pair<Isa> p = two_prod(a.hi, b);
    return fast_two_sum(p.hi, fma(a.lo, b, p.lo));
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> mul(Pair<Isa> a, Pair<Isa> b) {  // 2^-103.6
    Pair<Isa> p = two_prod(a.hi, b.hi);
    Vec<Isa, double> cross = fma(a.hi, b.lo, a.lo * b.lo);
    return fast_two_sum(p.hi, p.lo + fma(a.lo, b.hi, cross));
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> div(Pair<Isa> a, Pair<Isa> b) {  // 2^-102.7
    Vec<Isa, double> q = a.hi / b.hi;
    Pair<Isa> p = mul(b, q);
    Vec<Isa, double> rest = (a.hi - p.hi) + (a.lo - p.lo);
    return fast_two_sum(q, rest / b.hi);
}

// a / b as hi + lo with one division, relative error below 2^-100: the remainder of the first
// quotient is multiplied by the rounded reciprocal.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> div_fast(Pair<Isa> a, Pair<Isa> b) {
    Vec<Isa, double> inverse = Vec<Isa, double>::splat(1) / b.hi;
    Vec<Isa, double> q = a.hi * inverse;
    Vec<Isa, double> rest = fma(-q, b.hi, a.hi) + fma(-q, b.lo, a.lo);
    return fast_two_sum(q, rest * inverse);
}

// 1 / a, measured error 2^-46.9, where 2^-126 <= |a| < 2^127: a division in float32 takes a
// third of the time of one in float64, and Newton's step squares its error of 2^-23.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> reciprocal_fast(Vec<Isa, double> a) {
    Vec<Isa, double> q = reciprocal_float32(a);
    return fma(q, fma(-a, q, Vec<Isa, double>::splat(1)), q);
}

// Added to x, |x| < 2^51, this leaves round(x) in the low bits.
constexpr double rounding_magic = 0x1.8p52;

template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> horner(const double* coefficients, int count,
                                                 Vec<Isa, T> x) {
    using V = Vec<Isa, T>;
    V p = V::splat(static_cast<T>(coefficients[count - 1]));
#pragma GCC unroll 16
    for (int i = count - 2; i >= 0; --i) p = fma(p, x, V::splat(static_cast<T>(coefficients[i])));
    return p;
}
template <class Isa, class T, int count>
[[gnu::always_inline]] inline Vec<Isa, T> horner(const double (&coefficients)[count],
                                                 Vec<Isa, T> x) {
    return horner(coefficients, count, x);
}

// 2^k for integral k, -1022 <= k <= 1023.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> power_of_two(Vec<Isa, double> k) {
    using D = Vec<Isa, double>;
    Mask<Isa, double> low = bits(k + D::splat(rounding_magic));
    return from_bits<double>((low << 52) + bits(D::splat(1)));
}

// a * 2^k for integral k, |k| <= 2044 and |a| in [2^-900, 2^900]: the first of the two products is
// exact, so a subnormal result is rounded once.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> ldexp(Vec<Isa, double> a, Vec<Isa, double> k) {
    using D = Vec<Isa, double>;
    D half = fma(k, D::splat(0.5), D::splat(rounding_magic)) - D::splat(rounding_magic);
    return (a * power_of_two(half)) * power_of_two(k - half);
}

// (a.hi + a.lo) * 2^k, rounded once; where k < -900, |a.hi| in [2^-2, 2^2]. Rounding hi + lo to
// double and that to a subnormal would add up to a quarter of a unit in the last place; adding the
// power of two whose last place is the smallest subnormal's rounds there at once.
template <class Isa>
[[gnu::always_inline]] inline bool may_be_subnormal(Vec<Isa, double> k) {
    return any(k < Vec<Isa, double>::splat(-1019));
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> ldexp(Pair<Isa> a, Vec<Isa, double> k) {
    using D = Vec<Isa, double>;
    D value = a.hi + a.lo;
    if (may_be_subnormal(k)) [[unlikely]] {
        D unit = power_of_two(max(min(D::splat(-1022) - k, D::splat(60)), D::splat(-1022)));
        Mask<Isa, double> subnormal = abs(a.hi) < unit;
        Mask<Isa, double> sign = bits(a.hi) & bits(D::splat(-0.0));
        unit = from_bits<double>(bits(unit) | sign);
        Pair<Isa> s = fast_two_sum(unit, a.hi);
        value = select(subnormal, (s.hi + (s.lo + a.lo)) - unit, value);
    }
    return ldexp(value, k);
}

// x = k ln 2 + r, k integral and |r| <= ln 2 / 2 (1 + 2^-40), for |x| <= 1420. r.hi has no error
// (the product is exact inside fma, and what remains is a multiple of 2^-54 below 1/2); r.lo is the
// rest of k ln 2 and of x, up to 2^-97.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> reduce_exp(Vec<Isa, double> x, Vec<Isa, double> x_lo,
                                                   Vec<Isa, double>& k) {
    using D = Vec<Isa, double>;
    k = fma(x, D::splat(log2_e), D::splat(rounding_magic)) - D::splat(rounding_magic);
    return {fma(k, D::splat(-ln2_high), x), fma(k, D::splat(-ln2_low), x_lo)};
}

// exp(x) for -708 <= x <= 709; a NaN whose low 12 bits are 0, as that of any float32, stays NaN.
// Error of the polynomial 2^-45.9, of the product by ln 2 to 53 bits at most 2^-45.3 (2^-48 for |x|
// <= 104). Measured 2^-44.55.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> exp_fast(Vec<Isa, double> x) {
    using D = Vec<Isa, double>;
    D t = fma(x, D::splat(log2_e), D::splat(rounding_magic));
    D r = fma(t - D::splat(rounding_magic), D::splat(-ln2_high), x);
    D p = fma(horner(exp_fast_tail, r), r, D::splat(1));
    return from_bits<double>(bits(p) + (bits(t) << 52));
}

// expm1(r) for r = r.hi + r.lo as reduced above, hi + lo with |lo| <= 2^-52 |hi|, error below
// 2^-61 |r|: r is exact, r^2 / 2 + r^3 / 6 = r^2 (1/2 + r / 6) double-length, and r^4 q(r), at most
// 2^-10.6, has a rounding error of 2^-63.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> expm1_reduced(Pair<Isa> r) {
    using D = Vec<Isa, double>;
    D half = D::splat(0.5);
    D tail = horner(exp_pair_tail, r.hi);
    D inner = fma(r.hi, D::splat(sixth[0]), half);
    D inner_lo = fma(r.hi, D::splat(sixth[1]), fma(r.hi, D::splat(sixth[0]), half - inner));
    Pair<Isa> square = two_prod(r.hi, r.hi);
    D s = square.hi * inner;
    D s_lo = fma(square.hi, inner, -s) + fma(square.hi, inner_lo, square.lo * inner);
    s_lo = fma(square.hi * square.hi, tail, s_lo);
    Pair<Isa> sum = fast_two_sum(r.hi, s);
    // d exp(r) = exp(r) dr: r.lo is below 2^-43, so 20 bits of exp(r) are enough, and r.lo^2 does
    // not count.
    D slope = D::splat(1) + (sum.hi + s_lo);
    return fast_two_sum(sum.hi, sum.lo + fma(r.lo, slope, s_lo));
}

// exp(x + x_lo), |x_lo| <= ulp(x), as value in [0.7, 1.42) times 2^exponent. Measured error
// 2^-61.3. x may be anything, NaN and infinities included: it is clamped to [-1400, 1400], where
// x_lo, which may be NaN then, is dropped; ldexp() of that is 0 or infinity.
template <class Isa>
[[gnu::always_inline]] inline Scaled<Isa> exp_pair(Vec<Isa, double> x, Vec<Isa, double> x_lo) {
    using D = Vec<Isa, double>;
    D clamped = min(D::splat(1400), max(D::splat(-1400), x));
    x_lo = select(x == clamped, x_lo, D::zero());
    D k;
    Pair<Isa> q = expm1_reduced(reduce_exp(clamped, x_lo, k));
    Pair<Isa> one_and_q = fast_two_sum(D::splat(1), q.hi);
    return {fast_two_sum(one_and_q.hi, one_and_q.lo + q.lo), k};
}

// exp(x) in double, measured 0.5016 units in the last place, subnormal results included; overflows
// to infinity, exp(-inf) is 0.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> exp(Vec<Isa, double> x) {
    Scaled<Isa> e = exp_pair(x, Vec<Isa, double>::zero());
    return ldexp(e.value, e.exponent);
}

// expm1(x) for x <= 709, near 0 too. Measured error 2^-45.2, there as with exp_fast from ln 2;
// 2^-47.5 for |x| <= 104.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> expm1_fast(Vec<Isa, double> x) {
    using D = Vec<Isa, double>;
    x = max(D::splat(-60), x);
    D t = fma(x, D::splat(log2_e), D::splat(rounding_magic));
    D r = fma(t - D::splat(rounding_magic), D::splat(-ln2_high), x);
    D q = fma(horner(expm1_fast_tail, r), r * r, r);
    D scale = from_bits<double>(bits(D::splat(1)) + (bits(t) << 52));
    return fma(scale, q, scale - D::splat(1));
}

// expm1(x + x_lo), |x_lo| <= ulp(x), measured error 2^-59.9: 2^k - 1 and 2^k q are both exact, and
// they do not cancel where k is not 0. Overflows to infinity in hi.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> expm1_pair(Vec<Isa, double> x, Vec<Isa, double> x_lo) {
    using D = Vec<Isa, double>;
    D clamped = min(D::splat(710), max(D::splat(-80), x));
    x_lo = select(x == clamped, x_lo, D::zero());
    D k;
    Pair<Isa> q = expm1_reduced(reduce_exp(clamped, x_lo, k));
    // Half of everything, as 2^1024 is none.
    D scale = power_of_two(k - D::splat(1));
    Pair<Isa> power = two_sum(scale, D::splat(-0.5));
    Pair<Isa> sum = two_sum(power.hi, scale * q.hi);
    Pair<Isa> r = fast_two_sum(sum.hi, sum.lo + fma(scale, q.lo, power.lo));
    Mask<Isa, double> unscaled = k == D::zero();
    return {select(unscaled, q.hi, r.hi + r.hi), select(unscaled, q.lo, r.lo + r.lo)};
}

// The exponent k of a = 2^k m with m in [sqrt(1/2), sqrt(2)), a positive and normal, as bits
// shifted by 52, and as a double.
template <class Isa>
[[gnu::always_inline]] inline Mask<Isa, double> exponent_bits(Vec<Isa, double> a,
                                                              Vec<Isa, double>& k) {
    using D = Vec<Isa, double>;
    using I = Mask<Isa, double>;
    // The significand of sqrt(2) is 6a09e667f3bcd: adding the rest of it carries into the exponent.
    I biased = (bits(a) + I::splat(0x95f619980c433)) & I::splat(0x7ff0000000000000);
    // Shifted as unsigned: AVX2 has no arithmetic shift of 64 bits.
    I small = from_bits<std::int64_t>(from_bits<std::uint64_t>(biased) >> 52);
    k = from_bits<double>(small | bits(D::splat(0x1p52))) - D::splat(0x1p52 + 1023);
    return biased - bits(D::splat(1));
}

// log(2^k (1 + f)) in double, sqrt(1/2) <= 1 + f <= sqrt(2); all but the error of the division,
// 2^-46.9, is small.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> log_reduced_fast(Vec<Isa, double> f,
                                                                Vec<Isa, double> k) {
    using D = Vec<Isa, double>;
    D w = f * reciprocal_fast(fma(f, D::splat(0.5), D::splat(1)));
    D z = w * w;
    D log_m = fma(horner(log_fast_tail, z), z * w, w);
    return fma(k, D::splat(ln2_high), log_m);
}

// log(a) for positive, normal and finite a; NaN stays NaN. Measured error 2^-46.8.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> log_fast(Vec<Isa, double> a) {
    using D = Vec<Isa, double>;
    D k;
    Mask<Isa, double> shift = exponent_bits(a, k);
    D m = from_bits<double>(bits(a) - shift);
    return select(is_nan(a), a, log_reduced_fast(m - D::splat(1), k));
}

// a + log1p(t) for 0 <= t <= 1, the logarithm with all its relative accuracy: a polynomial costs
// less than the division of log1p_fast. Measured error of the logarithm 2^-46.0, the polynomial's.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> add_log1p_unit_fast(Vec<Isa, double> a,
                                                                   Vec<Isa, double> t) {
    using D = Vec<Isa, double>;
    return fma(fma(horner(log1p_unit_tail, t), t, D::splat(1)), t, a);
}

// log(1 + r) for 0 <= r <= 2^1000, with all its relative accuracy down to the smallest subnormal;
// NaN stays NaN. Measured error 2^-46.9.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> log1p_fast(Vec<Isa, double> r) {
    using D = Vec<Isa, double>;
    D k;
    D scale = from_bits<double>(bits(D::splat(1)) - exponent_bits(D::splat(1) + r, k));
    // Exact for k = 0, where it must be; the rounding of scale - 1 is far below f otherwise.
    D f = fma(r, scale, scale - D::splat(1));
    return log_reduced_fast(f, k);
}

// log(2^k (1 + f.hi + f.lo)) as hi + lo: w = f / (1 + f / 2) double-length (so that f itself comes
// through where it is subnormal), then w + w^3 p(w^2), the second at most 2^-6.6 of the first, so
// that its rounding errors, four of half a unit, are 2^-58.3 of the result; k times the 42-bit head
// of ln 2 is exact.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> log_reduced_pair(Pair<Isa> f, Vec<Isa, double> k) {
    using D = Vec<Isa, double>;
    D half = D::splat(0.5);
    Pair<Isa> d;
    d.hi = fma(f.hi, half, D::splat(1));
    d.lo = fma(f.lo, half, fma(f.hi, half, D::splat(1) - d.hi));
    D inverse = D::splat(1) / d.hi;
    D w = f.hi * inverse;
    D w_lo = (fma(-w, d.hi, f.hi) + fma(-w, d.lo, f.lo)) * inverse;
    D z = w * w;
    D cube = w * z;
    D tail = fma(horner(log_pair_tail, z), cube, w_lo);
    // d (w^3 / 12) = w^2 / 4 dw.
    tail = fma(w_lo * z, D::splat(0.25), tail);
    Pair<Isa> sum = fast_two_sum(k * D::splat(ln2_head), w);
    return fast_two_sum(sum.hi, sum.lo + fma(k, D::splat(ln2_tail), tail));
}

// log(a + a_lo), |a_lo| <= ulp(a), for a_lo = 0 or 2^-960 <= a <= 2^960. Subnormal a, 0 (-inf),
// infinity, negative a and NaN (NaN) are right in hi; lo is 0 where hi is not finite. Measured
// error 2^-58.3.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> log_pair(Vec<Isa, double> a, Vec<Isa, double> a_lo) {
    using D = Vec<Isa, double>;
    Mask<Isa, double> tiny = a < D::splat(0x1p-1022);
    D normal = select(tiny, a * D::splat(0x1p54), a);
    D k;
    Mask<Isa, double> shift = exponent_bits(normal, k);
    D m = from_bits<double>(bits(normal) - shift);
    D m_lo =
        select(a_lo == D::zero(), D::zero(), a_lo * from_bits<double>(bits(D::splat(1)) - shift));
    k = select(tiny, k - D::splat(54), k);
    Pair<Isa> r = log_reduced_pair(fast_two_sum(m - D::splat(1), m_lo), k);
    Mask<Isa, double> regular = (a > D::zero()) & (a < D::splat(__builtin_inf()));
    D special = select(a == D::zero(), D::splat(-__builtin_inf()), D::splat(__builtin_nan("")));
    special = select(a == D::splat(__builtin_inf()), a, special);
    return {select(regular, r.hi, special), select(regular, r.lo, D::zero())};
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> log(Vec<Isa, double> a) {
    Pair<Isa> r = log_pair(a, Vec<Isa, double>::zero());
    return r.hi + r.lo;
}

// log(1 + r + r_lo), r >= 0, |r_lo| <= ulp(r), with full relative accuracy down to the smallest
// subnormal r; infinity and NaN come through in hi with lo = 0. Measured error 2^-58.5 (below
// r = 2^-960: that, or half the smallest subnormal).
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> log1p_pair(Vec<Isa, double> r, Vec<Isa, double> r_lo) {
    using D = Vec<Isa, double>;
    // Above 2^60 the 1 does not count, and r is divided by 2^600 so that 2^-k is a normal number.
    Mask<Isa, double> huge = r > D::splat(0x1p960);
    D k;
    D reduced = select(huge, r * D::splat(0x1p-600), r);
    D reduced_lo = select(huge, r_lo * D::splat(0x1p-600), r_lo);
    D scale = from_bits<double>(bits(D::splat(1)) - exponent_bits(D::splat(1) + reduced, k));
    // scale - 1 is exact up to k = 53, and beyond it the error 2^-k is of no account.
    Pair<Isa> f = two_sum(reduced * scale, scale - D::splat(1));
    f = fast_two_sum(f.hi, fma(reduced_lo, scale, f.lo));
    k = select(huge, k + D::splat(600), k);
    Pair<Isa> result = log_reduced_pair(f, k);
    Mask<Isa, double> regular = r < D::splat(__builtin_inf());
    return {select(regular, result.hi, r), select(regular, result.lo, D::zero())};
}

// expm1(r) for |r| <= ln 2 / 2 by Taylor's series, double-length where that counts: relative error
// below 2^-100.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> expm1_reduced_wide(Pair<Isa> r) {
    using D = Vec<Isa, double>;
    constexpr int terms = sizeof(inverse_factorial) / sizeof(double);
    constexpr int long_terms = sizeof(inverse_factorial_low) / sizeof(double);
    Pair<Isa> p = {horner(inverse_factorial + long_terms, terms - long_terms, r.hi), D::zero()};
    for (int i = long_terms - 1; i >= 1; --i) {
        p = add(mul(p, r),
                Pair<Isa>{D::splat(inverse_factorial[i]), D::splat(inverse_factorial_low[i])});
    }
    return mul(p, r);
}

// exp(x.hi + x.lo) as exp_pair: r keeps a third part of k ln 2. Measured error 2^-105.7.
template <class Isa>
[[gnu::always_inline]] inline Scaled<Isa> exp_wide(Pair<Isa> x) {
    using D = Vec<Isa, double>;
    D clamped = min(D::splat(1400), max(D::splat(-1400), x.hi));
    D x_lo = select(x.hi == clamped, x.lo, D::zero());
    D k = fma(clamped, D::splat(log2_e), D::splat(rounding_magic)) - D::splat(rounding_magic);
    D r = fma(k, D::splat(-ln2_high), clamped);
    Pair<Isa> low = two_prod(k, D::splat(-ln2_low));
    low.lo = fma(k, D::splat(-ln2_lowest), low.lo);
    Pair<Isa> reduced = add(add(low, x_lo), r);
    return {add(expm1_reduced_wide(reduced), D::splat(1)), k};
}

// log(1 + r.hi + r.lo) for 0 <= r.hi <= 2^900, measured error 2^-104: one step of Newton's
// iteration on log1p_pair, y + e, e = (1 + r) exp(-y) - 1 = (r + expm1(-y)) + r expm1(-y), taken
// with -y = k ln 2 + s as 2^k ((r + 1 - 2^-k) + (1 + r) expm1(s)); e is 2^-59 y, so e^2 / 2 does
// not count, and its parts cancel down to 2^-100 y.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> log1p_wide(Pair<Isa> r) {
    using D = Vec<Isa, double>;
    Pair<Isa> y = log1p_pair(r.hi, r.lo);
    D k = fma(-y.hi, D::splat(log2_e), D::splat(rounding_magic)) - D::splat(rounding_magic);
    Pair<Isa> low = two_prod(k, D::splat(-ln2_low));
    low.lo = fma(k, D::splat(-ln2_lowest), low.lo);
    Pair<Isa> s = add(add(low, -y.lo), fma(k, D::splat(-ln2_high), -y.hi));
    D scale = power_of_two(k);
    Pair<Isa> scaled = {r.hi * scale, r.lo * scale};
    // 2^k (1 + r) - 1, then 2^k (1 + r) itself.
    Pair<Isa> rest = add(scaled, two_sum(scale, D::splat(-1)));
    Pair<Isa> whole = add(scaled, scale);
    Pair<Isa> e = add(rest, mul(whole, expm1_reduced_wide(s)));
    return add(y, e.hi);
}

}  // namespace stableops
