#pragma once
// Triple-length arithmetic and exp in it, for sums of exponentials that cancel: relative error
// below 2^-150. Slow (some 25 ns an element); logsumexp.h says when it is worth that.
//
// The arithmetic is that of Fabiano, Muller & Picot, "Algorithms for triple-word arithmetic" (IEEE
// Trans. Comput. 68, 2019), without their last renormalisation: neighbouring parts may overlap by a
// few bits, which costs as many bits of the 159.
#include "math.h"

namespace stableops {

// high + low + lowest
template <class Isa>
struct Triple {
    Vec<Isa, double> hi, mid, lo;
};

// ln 2 - ln2_high - ln2_low - ln2_lowest
constexpr double ln2_rest = -0x1.ace93a4ebe5d1p-165;
// 1 / i!; exp(r) cut there, |r| <= ln 2 / 2: relative error 2^-166.08
constexpr double triple_factorial[] = {
    0x1.0000000000000p+0,  0x1.0000000000000p+0,   0x1.0000000000000p-1,   0x1.5555555555555p-3,
    0x1.5555555555555p-5,  0x1.1111111111111p-7,   0x1.6c16c16c16c17p-10,  0x1.a01a01a01a01ap-13,
    0x1.a01a01a01a01ap-16, 0x1.71de3a556c734p-19,  0x1.27e4fb7789f5cp-22,  0x1.ae64567f544e4p-26,
    0x1.1eed8eff8d898p-29, 0x1.6124613a86d09p-33,  0x1.93974a8c07c9dp-37,  0x1.ae7f3e733b81fp-41,
    0x1.ae7f3e733b81fp-45, 0x1.952c77030ad4ap-49,  0x1.6827863b97d97p-53,  0x1.2f49b46814157p-57,
    0x1.e542ba4020225p-62, 0x1.71b8ef6dcf572p-66,  0x1.0ce396db7f853p-70,  0x1.761b41316381ap-75,
    0x1.f2cf01972f578p-80, 0x1.3f3ccdd165fa9p-84,  0x1.88e85fc6a4e5ap-89,  0x1.d1ab1c2dccea3p-94,
    0x1.0a18a2635085dp-98, 0x1.259f98b4358adp-103, 0x1.3932c5047d60ep-108, 0x1.434d2e783f5bcp-113};
// 1 / i! - triple_factorial[i]
constexpr double triple_factorial_mid[] = {0x0.0p+0,
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
                                           0x1.f28e0cc748ebep-87,
                                           0x1.05d6f8a2efd1fp-92,
                                           0x1.1d8656b0ee8cbp-97,
                                           0x1.1d8656b0ee8cbp-101,
                                           0x1.ac981465ddc6cp-103,
                                           0x1.eec01221a8b0bp-107,
                                           0x1.2650f61dbdcb4p-112,
                                           0x1.ea72b4afe3c2fp-120,
                                           -0x1.d043ae40c4647p-120,
                                           -0x1.aebcdbd20331cp-124};
// 1 / i! - triple_factorial[i] - triple_factorial_mid[i]
constexpr double triple_factorial_low[] = {0x0.0p+0,
                                           0x0.0p+0,
                                           0x0.0p+0,
                                           0x1.5555555555555p-111,
                                           0x1.5555555555555p-113,
                                           0x1.1111111111111p-119,
                                           -0x1.27d27d27d27d2p-119,
                                           0x1.a01a01a01a01ap-133,
                                           0x1.a01a01a01a01ap-136,
                                           0x1.71de3a556c734p-127,
                                           -0x1.c6d278883e8f5p-132,
                                           0x1.c7880adcbc46ep-136,
                                           0x1.2fb0073dd2d9ep-139,
                                           -0x1.7b2c4c8a840bcp-141};

template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> add(Triple<Isa> a, Triple<Isa> b) {
    Pair<Isa> s = two_sum(a.hi, b.hi);
    Pair<Isa> t = two_sum(a.mid, b.mid);
    Pair<Isa> u = two_sum(t.hi, s.lo);
    Vec<Isa, double> rest = (a.lo + b.lo) + (t.lo + u.lo);
    Pair<Isa> v = two_sum(s.hi, u.hi);
    Pair<Isa> w = two_sum(v.lo, rest);
    return {v.hi, w.hi, w.lo};
}
template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> mul(Triple<Isa> a, Triple<Isa> b) {
    Pair<Isa> hh = two_prod(a.hi, b.hi);
    Pair<Isa> hm = two_prod(a.hi, b.mid);
    Pair<Isa> mh = two_prod(a.mid, b.hi);
    Vec<Isa, double> rest = fma(a.hi, b.lo, fma(a.mid, b.mid, a.lo * b.hi));
    Pair<Isa> s = two_sum(hm.hi, mh.hi);
    Pair<Isa> t = two_sum(hh.lo, s.hi);
    rest = rest + ((hm.lo + mh.lo) + (s.lo + t.lo));
    Pair<Isa> v = fast_two_sum(hh.hi, t.hi);
    Pair<Isa> w = two_sum(v.lo, rest);
    return {v.hi, w.hi, w.lo};
}
template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> mul(Triple<Isa> a, Vec<Isa, double> b) {
    Vec<Isa, double> zero = Vec<Isa, double>::zero();
    return mul(a, Triple<Isa>{b, zero, zero});
}

// x = k ln 2 + r for |x.hi| <= 1420, |x.lo| <= ulp(x.hi); r is right to 2^-160.
template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> reduce_triple(Pair<Isa> x, Vec<Isa, double>& k) {
    using D = Vec<Isa, double>;
    k = fma(x.hi, D::splat(log2_e), D::splat(rounding_magic)) - D::splat(rounding_magic);
    D first = fma(k, D::splat(-ln2_high), x.hi);
    Pair<Isa> second = two_prod(k, D::splat(-ln2_low));
    Pair<Isa> third = two_prod(k, D::splat(-ln2_lowest));
    third.lo = fma(k, D::splat(-ln2_rest), third.lo);
    return add(Triple<Isa>{first, second.hi, third.hi}, Triple<Isa>{x.lo, second.lo, third.lo});
}

// expm1(r) / r for a reduced r. Horner's rule on Taylor's series starts in double, goes on in
// double length where r^i / i! < 2^-57 and in triple length for the last terms.
template <class Isa>
[[gnu::noinline]] Triple<Isa> expm1_over_r(Triple<Isa> r) {
    using D = Vec<Isa, double>;
    constexpr int terms = sizeof(triple_factorial) / sizeof(double);
    constexpr int pair_terms = sizeof(triple_factorial_mid) / sizeof(double);
    constexpr int triple_terms = sizeof(triple_factorial_low) / sizeof(double);
    Pair<Isa> p = {horner(triple_factorial + pair_terms, terms - pair_terms, r.hi), D::zero()};
    Pair<Isa> r_pair = {r.hi, r.mid};
    for (int i = pair_terms - 1; i >= triple_terms; --i)
        p = add(mul(p, r_pair),
                Pair<Isa>{D::splat(triple_factorial[i]), D::splat(triple_factorial_mid[i])});
    Triple<Isa> t = {p.hi, p.lo, D::zero()};
    for (int i = triple_terms - 1; i >= 1; --i)
        t = add(Triple<Isa>{D::splat(triple_factorial[i]), D::splat(triple_factorial_mid[i]),
                            D::splat(triple_factorial_low[i])},
                mul(t, r));
    return t;
}

template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> scaled(Triple<Isa> a, Vec<Isa, double> power_of_two) {
    return {a.hi * power_of_two, a.mid * power_of_two, a.lo * power_of_two};
}

// exp(x.hi + x.lo) = value * 2^k, x as for reduce_triple.
template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> exp_triple(Pair<Isa> x, Vec<Isa, double>& k) {
    using D = Vec<Isa, double>;
    Triple<Isa> r = reduce_triple(x, k);
    return add(Triple<Isa>{D::splat(1), D::zero(), D::zero()}, mul(expm1_over_r(r), r));
}

// scale * expm1(x) for |x| <= ln 2 / 2, with all its relative accuracy down to subnormal x if
// scale, a power of two, lifts it.
template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> expm1_triple(Vec<Isa, double> x, Vec<Isa, double> scale) {
    using D = Vec<Isa, double>;
    Triple<Isa> r = {x, D::zero(), D::zero()};
    return mul(expm1_over_r(r), x * scale);
}

}  // namespace stableops
