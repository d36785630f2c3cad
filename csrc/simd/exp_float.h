#pragma once
// exp on Vec<Isa, float>, as a rounded value and what the rounding left: for float32 rows, whose
// sums need more than float32 and whose speed needs float32's lanes.
//
//   x = k ln 2 / 8 + r,  |r| <= ln 2 / 16,  k = 8 e + j:  exp(x) = 2^e T_j (1 + q(r)),  T_j = 2^(j
//   / 8)
//
// T_j is a float and a relative rest, looked up in eight entries, which one permutation of any
// register does. k sits in the low bits of x 8 / ln 2 + 1.5 2^23, so adding these bits, shifted by
// 20, to the bits of T_j (less j 2^20) multiplies by 2^e. Error: q 2^-32.3; r, from the rounding of
// x - k ln 2 / 8, 2^-29; q's last rounding 2^-29; rest of T_j 2^-49: 2^-27.9 in all. Measured:
// 2^-27.7.
#include "vec.h"

namespace stableops {

// 8 / ln 2
constexpr float eighths_per_ln2 = 0x1.715476p+3f;
// ln 2 / 8, high and low
constexpr float ln2_eighth_high = 0x1.62e430p-4f;
constexpr float ln2_eighth_low = -0x1.05c610p-32f;
// expm1(r) = r + r^2 q(r), |r| <= ln 2 / 16: relative error 2^-32.30
constexpr float exp_float_tail[] = {0x1.000000p-1f, 0x1.555c76p-3f, 0x1.55483ep-5f};
// The bits of 2^(j / 8) as float, less j 2^20.
constexpr std::int32_t exp_float_bits[] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                                           0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
// 1 - float(2^(j / 8)) / 2^(j / 8)
constexpr float exp_float_low[] = {0x0.0p+0f,        -0x1.9c0c22p-27f, 0x1.125002p-25f,
                                   -0x1.0a3552p-25f, 0x1.26055cp-26f,  0x1.67a1cap-28f,
                                   -0x1.f9c306p-27f, -0x1.a5217cp-28f};

template <class Isa>
struct ExpFloat {
    Vec<Isa, float> value, rest;
};

template <class Isa>
struct ExpFloatTables {
    Table8<Isa, std::int32_t> bits;
    Table8<Isa, float> low;

    [[gnu::always_inline]] inline ExpFloatTables() : bits(exp_float_bits), low(exp_float_low) {}
};

// exp of each x[v], -80 <= x <= 80 (elsewhere: any value, and no trap). One is a chain of fifteen
// operations: one after another, they fill the processor's queue with what cannot begin yet; in
// step they do not.
template <class Isa, int n>
[[gnu::always_inline]] inline void exp_float(const ExpFloatTables<Isa>& tables,
                                             const Vec<Isa, float> (&x)[n], ExpFloat<Isa> (&e)[n]) {
    using V = Vec<Isa, float>;
    const V magic = V::splat(0x1.8p23f);
    V t[n], r[n], q[n], power[n];
#pragma GCC unroll 4
    for (int v = 0; v < n; ++v) {
        t[v] = fma(x[v], V::splat(eighths_per_ln2), magic);
        V k = t[v] - magic;
        r[v] = fma(k, V::splat(-ln2_eighth_low), fma(k, V::splat(-ln2_eighth_high), x[v]));
    }
#pragma GCC unroll 4
    for (int v = 0; v < n; ++v) {
        q[v] = fma(r[v], V::splat(exp_float_tail[2]), V::splat(exp_float_tail[1]));
        q[v] = fma(r[v] * r[v], fma(r[v], q[v], V::splat(exp_float_tail[0])), r[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < n; ++v) {
        Mask<Isa, float> index = bits(t[v]);
        power[v] = from_bits<float>(tables.bits[index] + (index << 20));
        q[v] = q[v] + tables.low[index];
    }
#pragma GCC unroll 4
    for (int v = 0; v < n; ++v) {
        e[v].value = fma(power[v], q[v], power[v]);
        // power - value is exact (Sterbenz), so this is what the rounding of value left.
        e[v].rest = fma(power[v], q[v], power[v] - e[v].value);
    }
}
template <class Isa>
[[gnu::always_inline]] inline ExpFloat<Isa> exp_float(const ExpFloatTables<Isa>& tables,
                                                      Vec<Isa, float> x) {
    Vec<Isa, float> xs[] = {x};
    ExpFloat<Isa> e[1];
    exp_float(tables, xs, e);
    return e[0];
}

}  // namespace stableops
