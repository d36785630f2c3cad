#pragma once
// softmax and log_softmax over the columns of rows, and their gradients.
//
//   y_i = exp(x_i - m) / S,   S = sum_j exp(x_j - m),   m = max x
//   log y_i = (x_i - m) - log S
//
// Where the textbook loses digits, and what is done instead (u: unit roundoff of the result's type,
// 2^-24 or 2^-53; one ULP is up to 2u):
//
//   x_i - m     rounded to the input's type, it is off by u |x_i - m|, and exp turns that into a
//               relative error of |x_i - m| u: 60 ULP at a distance of 60. Float32 is subtracted in
//               double, where the difference of two floats less than 2^29 apart in magnitude is
//               exact and any other has an error of 2^-53 |x_i - m|. Float64 keeps the error of
//               the subtraction (TwoSum) and hands both parts to exp.
//   exp         float32: one double, 2^-45. Float64: hi + lo, 2^-62, and multiplied by 2^512, so
//               that neither part, nor a sum of them, is subnormal where the quotient by S is a
//               number.
//   S           float32: in double. Float64: compensated (simd/sum.h).
//   / S         1 / S as hi + lo for float64: its rounding would show.
//   log S       S = c + R, with c the number of elements equal to m and R the sum of the others. S
//               rounded to a double has no digit of R left when R < 2^-53, though log S = R then.
//               So c and R are summed apart, and log S = log1p((c - 1) + R).
//   x - m - log S   both differences are <= 0: nothing cancels. Float64 adds hi + lo parts.
//
// float32 rows of which no element is beyond +-80 need no maximum: exp(x_i) is summed as it is, in
// float32 lanes (float_sums.h: 0.66 ULP), where the result is not next to 0.
//
// Error budget in units of u (of the ways in float64 lanes). softmax, float32: 2^-45 (exp) + 2^-40
// (sum, a million columns) + 2^-52 against u = 2^-24, hence 0.5 ULP + 2^-15 where the result is
// normal, and the same absolute error (in the unit of subnormal numbers) where it is not, as there
// is one rounding. float64: 2^-62 of exp twice (E and S), 2^-62 of the pair product: 0.5 + 0.01
// ULP. log_softmax: float64 adds log1p's 2^-59.4: 0.5 + 0.05 ULP.
//
// Edge cases. NaN in a row: the maximum passes it over, the sum does not: all NaN. +inf, or nothing
// but -inf: 1/S and log S are made NaN, so all NaN. -inf beside numbers: probability 0. Elements
// that a mask leaves out take part in nothing, get probability 0 (log -inf), also in a row of NaN.
//
// Gradients, with g the gradient of the result and y the result:
//   softmax:      y_i (g_i - sum_j g_j y_j)
//   log_softmax:  g_i - exp(y_i) sum_j g_j
// Here terms of both signs cancel, so the error is relative to the sum of the absolute terms:
// products are exact (float32 in double, float64 as hi + lo), sums as above, one rounding at the
// end. A float64 row whose sum is next to overflow is done again with g scaled down (`rescale`).
#include "rows.h"

namespace stableops {

// What differs between float32 and float64 results: how an exponential, a sum and a logarithm are
// represented. Scale: exponentials of float64 are multiplied by it.
template <class Isa, class C>
struct Exponentials;

template <class Isa>
struct Exponentials<Isa, float> {
    using D = Vec<Isa, double>;
    using Number = D;
    static constexpr double scale_exponent = 0;
    static constexpr double scale = 1;

    [[gnu::always_inline]] static inline D zero() { return D::zero(); }

    // exp(x - m) for x <= m or NaN. At -700 the result, 2^-1010, rounds to 0 in float32 whatever it
    // is multiplied by there.
    [[gnu::always_inline]] static inline D exp_difference(D x, D m) {
        return exp_fast(max(D::splat(-700), x - m));
    }
    // exp(x) for x <= 89 or NaN; no scale is needed.
    [[gnu::always_inline]] static inline D exp_of(D x, D) {
        return exp_fast(max(D::splat(-700), x));
    }

    [[gnu::always_inline]] static inline D reciprocal(D a) { return D::splat(1) / a; }
    [[gnu::always_inline]] static inline D product(D a, D b) { return a * b; }
    // a times b, rounded; for results.
    [[gnu::always_inline]] static inline D rounded_product(D a, D b) { return a * b; }
    [[gnu::always_inline]] static inline D exact_product(D a, D b) { return a * b; }
    [[gnu::always_inline]] static inline D of(D a) { return a; }
    [[gnu::always_inline]] static inline D minus(D a, D b) { return a - b; }
    [[gnu::always_inline]] static inline D rounded(D a) { return a; }
    [[gnu::always_inline]] static inline D negated(D a) { return -a; }
    [[gnu::always_inline]] static inline D masked(Mask<Isa, double> keep, D a) {
        return select(keep, a, D::zero());
    }
    // log(tops + rest), tops >= 1 (or 0: then rest).
    [[gnu::always_inline]] static inline D log_sum(D tops, D rest) {
        return log1p_fast((tops - D::splat(1)) + rest);
    }
    // (x - m) - log_sum
    [[gnu::always_inline]] static inline D log_probability(D x, D m, D log_sum) {
        return difference(difference(x, m), log_sum);
    }

  private:
    // a - b, in the units for products: those that add are busy with conversions.
    [[gnu::always_inline]] static inline D difference(D a, D b) {
        if constexpr (Isa::bytes > 16) {
            return fma(a, D::splat(1), D::zero() - b);
        } else {
            return a - b;
        }
    }
};

template <class Isa>
struct Exponentials<Isa, double> {
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using Number = P;
    static constexpr double scale_exponent = 512;
    static constexpr double scale = 0x1p512;

    [[gnu::always_inline]] static inline P zero() { return {D::zero(), D::zero()}; }

    [[gnu::always_inline]] static inline P exp_of_pair(D hi, D lo, D scale_exponent) {
        Scaled<Isa> e = exp_pair(hi, lo);
        D k = e.exponent + scale_exponent;
        D power = power_of_two(max(D::splat(-1022), k));
        // Below, the value is beyond what any result can show; -inf must give exactly 0.
        power = select(k < D::splat(-1022), D::zero(), power);
        return {e.value.hi * power, e.value.lo * power};
    }
    [[gnu::always_inline]] static inline P exp_difference(D x, D m) {
        P d = two_sum(x, -m);
        return exp_of_pair(d.hi, d.lo, D::splat(scale_exponent));
    }
    // exp(x) 2^exponent
    [[gnu::always_inline]] static inline P exp_of(D x, D exponent) {
        return exp_of_pair(x, D::zero(), exponent);
    }

    [[gnu::always_inline]] static inline P reciprocal(P a) {
        P n = fast_two_sum(a.hi, a.lo);
        D q = D::splat(1) / n.hi;
        return {q, fma(-q, n.lo, fma(-q, n.hi, D::splat(1))) * q};
    }
    [[gnu::always_inline]] static inline P product(P a, P b) {
        P p = two_prod(a.hi, b.hi);
        p.lo = fma(a.hi, b.lo, fma(a.lo, b.hi, p.lo));
        return p;
    }
    [[gnu::always_inline]] static inline P product(P a, D b) {
        P p = two_prod(a.hi, b);
        p.lo = fma(a.lo, b, p.lo);
        return p;
    }
    // a b, rounded once. a is scaled up, b down. Next to the subnormal numbers the small parts of
    // the product would be rounded on their own, so it is formed 2^600 times larger, and rounded to
    // the subnormal unit by adding a number whose own unit that is.
    [[gnu::always_inline]] static inline D rounded_product(P a, P b) {
        D y = fma(a.hi, b.hi, fma(a.hi, b.lo, a.lo * b.hi));
        Mask<Isa, double> low = (abs(y) < D::splat(0x1p-960)) & (a.hi != D::zero());
        if (any(low)) [[unlikely]] {
            D up = D::splat(0x1p600);
            P p = product(a, P{b.hi * up, b.lo * up});
            D unit = select(p.hi < D::zero(), D::splat(-0x1p-422), D::splat(0x1p-422));
            P s = two_sum(unit, p.hi);
            D subnormal = (s.hi + (s.lo + p.lo)) - unit;
            Mask<Isa, double> is_subnormal = abs(p.hi) < D::splat(0x1p-422);
            D larger = select(is_subnormal, subnormal, p.hi + p.lo);
            y = select(low, larger * D::splat(0x1p-600), y);
        }
        return y;
    }
    [[gnu::always_inline]] static inline P exact_product(D a, D b) { return two_prod(a, b); }
    [[gnu::always_inline]] static inline P of(D a) { return {a, D::zero()}; }
    [[gnu::always_inline]] static inline P minus(P a, P b) {
        P s = two_sum(a.hi, -b.hi);
        return fast_two_sum(s.hi, s.lo + (a.lo - b.lo));
    }
    [[gnu::always_inline]] static inline D rounded(P a) { return a.hi + a.lo; }
    [[gnu::always_inline]] static inline P negated(P a) { return {-a.hi, -a.lo}; }
    [[gnu::always_inline]] static inline P masked(Mask<Isa, double> keep, P a) {
        return {select(keep, a.hi, D::zero()), select(keep, a.lo, D::zero())};
    }
    [[gnu::always_inline]] static inline P log_sum(D tops, P rest) {
        D down = D::splat(1 / scale);
        P r = fast_two_sum(rest.hi, rest.lo);
        P s = two_sum(tops - D::splat(1), r.hi * down);
        s = fast_two_sum(s.hi, fma(r.lo, down, s.lo));
        return log1p_pair(s.hi, s.lo);
    }
    [[gnu::always_inline]] static inline D log_probability(D x, D m, P log_sum) {
        P d = two_sum(x, -m);
        P s = two_sum(d.hi, -log_sum.hi);
        D y = s.hi + (s.lo + (d.lo - log_sum.lo));
        // The parts of an infinite difference are NaN.
        return select(abs(d.hi) < D::splat(__builtin_inf()), y, d.hi + log_sum.hi);
    }
};

// hi + lo of a Number.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> parts(Vec<Isa, double> a) {
    return {a, Vec<Isa, double>::zero()};
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> parts(Pair<Isa> a) {
    return a;
}

// R, the sum of the exponentials of all elements below the maximum, and c, the number of those that
// equal it.
template <class Isa, class C>
struct SumBesideTop {
    typename Exponentials<Isa, C>::Number rest;
    Vec<Isa, double> tops;
};
template <class Isa, class C>
[[gnu::always_inline]] inline SumBesideTop<Isa, C> plus(SumBesideTop<Isa, C> a,
                                                        SumBesideTop<Isa, C> b) {
    return {plus(a.rest, b.rest), a.tops + b.tops};
}
template <int by, class Isa, class C>
[[gnu::always_inline]] inline SumBesideTop<Isa, C> rotate(SumBesideTop<Isa, C> a) {
    return {rotate<by>(a.rest), rotate<by>(a.tops)};
}

template <class Isa>
[[gnu::always_inline]] inline Mask<Isa, double> is_finite(Vec<Isa, double> a) {
    return abs(a) < Vec<Isa, double>::splat(__builtin_inf());
}

// Far enough from float32's subnormal numbers, and from infinity, for a product of float32 parts.
template <class Isa>
[[gnu::always_inline]] inline Mask<Isa, double> is_normal_float(Vec<Isa, double> a) {
    using D = Vec<Isa, double>;
    return (abs(a) > D::splat(0x1p-124)) & (abs(a) < D::splat(0x1p126));
}

constexpr double minus_infinity = -__builtin_inf();

// The columns of operand 0.
template <class Isa, class C, class Form>
struct Logits {
    using D = Vec<Isa, double>;

    template <class Body>
    [[gnu::always_inline]] static inline void each(std::ptrdiff_t n, const C* const* in,
                                                   const Body& body) {
        Form::each(n, body, Column<C>{in[0], minus_infinity});
    }

    // out[i] = body(x[i])
    template <class Body>
    [[gnu::always_inline]] static inline void map(std::ptrdiff_t n, C* out, const C* const* in,
                                                  const Body& body) {
        Form::map(
            n, out, [&](std::ptrdiff_t, D x) __attribute__((always_inline)) { return body(x); },
            Column<C>{in[0], minus_infinity});
    }

    [[gnu::always_inline]] static inline D peak(std::ptrdiff_t n, const C* const* in) {
        Lanes<Form, D> m(D::splat(minus_infinity));
        each(n, in, [&](int slot, std::ptrdiff_t, D x) __attribute__((always_inline)) {
            m.lane[slot] = max(x, m.lane[slot]);
        });
        return Form::fold(m.lane, Larger{});
    }

    [[gnu::always_inline]] static inline SumBesideTop<Isa, C> sum_beside_top(std::ptrdiff_t n,
                                                                             const C* const* in,
                                                                             D top) {
        using E = Exponentials<Isa, C>;
        Lanes<Form, SumBesideTop<Isa, C>> sums({E::zero(), D::zero()});
        each(n, in, [&](int slot, std::ptrdiff_t, D x) __attribute__((always_inline)) {
            Mask<Isa, double> is_top = x == top;
            SumBesideTop<Isa, C>& sum = sums.lane[slot];
            sum.rest = plus(sum.rest, E::masked(~is_top, E::exp_difference(x, top)));
            sum.tops += select(is_top, D::splat(1), D::zero());
        });
        return Form::fold(sums.lane, Plus{});
    }
};

// g softmax(x): with one g a row it is the gradient of logsumexp.
template <class Isa, class C>
struct Softmax {
    using D = Vec<Isa, double>;
    using E = Exponentials<Isa, C>;
    using Sum = typename E::Number;
    static constexpr int inputs = 1;
    static constexpr bool has_peak = true;
    static constexpr bool emits = true;
    static constexpr bool float_lanes = sizeof(C) == 4;
    static constexpr bool keeps = sizeof(C) == 8;
    static constexpr bool float_emits = true;
    static constexpr bool has_holes = false;

    const RowShape& shape;
    const RowOperand* gradient;  // nullptr: 1

    struct Row {
        D peak;
        Sum inverse;  // g / S
        D factor;
        Mask<Isa, double> float_emit;
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        Row row = {};
        row.float_emit = Mask<Isa, double>::zero();
        return row;
    }
    template <class Form>
    D peak(Form, std::ptrdiff_t n, const C* const* in, const Row&) const {
        return Logits<Isa, C, Form>::peak(n, in);
    }
    template <class Form>
    Sum sum(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row) const {
        D top = row.peak;
        Lanes<Form, Sum> sums(E::zero());
        Logits<Isa, C, Form>::each(
            n, in, [&](int slot, std::ptrdiff_t, D x) __attribute__((always_inline)) {
                sums.lane[slot] = plus(sums.lane[slot], E::exp_difference(x, top));
            });
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    Sum sum_kept(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row, C* hi,
                 C* lo) const {
        D top = row.peak;
        Lanes<Form, Sum> sums(E::zero());
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t column, D x) __attribute__((always_inline)) {
                Sum e = E::exp_difference(x, top);
                storeu(hi + column, e.hi);
                storeu(lo + column, e.lo);
                sums.lane[slot] = plus(sums.lane[slot], e);
            },
            Column<C>{in[0], minus_infinity});
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    void emit_kept(Form, std::ptrdiff_t, std::ptrdiff_t n, C* out, const C* hi, const C* lo,
                   const Row& row) const {
        Sum inverse = row.inverse;
        Form::map(
            n, out,
            [&](std::ptrdiff_t, D e, D rest)
                __attribute__((always_inline)) { return E::rounded_product({e, rest}, inverse); },
            Column<C>{hi, 0}, Column<C>{lo, 0});
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t first, std::ptrdiff_t n, Sum sum, Row& row) const {
        D nan = D::splat(__builtin_nan(""));
        Mask<Isa, double> regular = is_finite(row.peak);
        row.inverse = E::reciprocal(sum);
        row.factor = D::zero();
        row.float_emit = Mask<Isa, double>::zero();
        if constexpr (sizeof(C) == 8) {
            row.inverse = {select(regular, row.inverse.hi, nan),
                           select(regular, row.inverse.lo, nan)};
        } else {
            row.inverse = select(regular, row.inverse, nan);
        }
        if (gradient != nullptr)
            row.inverse = E::product(row.inverse, E::of(gradients<Form>(first, n)));
    }
    Mask<Isa, double> accepts(const FloatSum<Isa>& sum, const Row&) const {
        return in_float_range(sum);
    }
    template <class Form>
    void finish_float(Form, std::ptrdiff_t first, std::ptrdiff_t n, const FloatSum<Isa>& sum,
                      Mask<Isa, double>, Row& row) const {
        row.peak = D::zero();
        row.factor = D::splat(1) / sum.sum;
        if (gradient != nullptr) row.factor = row.factor * gradients<Form>(first, n);
        if constexpr (sizeof(C) == 4) row.inverse = row.factor;
        row.float_emit = is_normal_float(exp_fast(sum.smallest) * row.factor);
        if (gradient != nullptr)
            row.float_emit = row.float_emit & is_normal_float(exp_fast(sum.largest) * row.factor);
    }
    void patch(std::ptrdiff_t, std::ptrdiff_t, C*, std::ptrdiff_t, int, const Row&) const {}
    template <class Form>
    void emit(Form, std::ptrdiff_t, std::ptrdiff_t n, C* out, const C* const* in,
              const Row& row) const {
        D top = row.peak;
        Sum inverse = row.inverse;
        Logits<Isa, C, Form>::map(n, out, in, [&](D x) __attribute__((always_inline)) {
            return E::rounded_product(E::exp_difference(x, top), inverse);
        });
    }

  private:
    template <class Form>
    D gradients(std::ptrdiff_t first, std::ptrdiff_t n) const {
        double g[D::size];
        for (int j = 0; j < D::size; ++j) {
            std::ptrdiff_t lane = Form::rows == 1 ? 0 : smaller<Isa, std::ptrdiff_t>(j, n - 1);
            g[j] = read_row_value<Isa, C>(shape, *gradient, first + lane);
        }
        return loadu<Isa>(g);
    }
};

template <class Isa, class C>
struct LogSoftmax {
    using D = Vec<Isa, double>;
    using E = Exponentials<Isa, C>;
    using Number = typename E::Number;
    using Sum = SumBesideTop<Isa, C>;
    static constexpr int inputs = 1;
    static constexpr bool has_peak = true;
    static constexpr bool emits = true;
    static constexpr bool float_lanes = sizeof(C) == 4;
    static constexpr bool keeps = false;
    static constexpr bool float_emits = false;
    static constexpr bool has_holes = false;

    struct Row {
        D peak;
        Number log_sum;
        D float_log;  // by the sum in float32 lanes
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        return Row();
    }
    template <class Form>
    D peak(Form, std::ptrdiff_t n, const C* const* in, const Row&) const {
        return Logits<Isa, C, Form>::peak(n, in);
    }
    template <class Form>
    Sum sum(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row) const {
        return Logits<Isa, C, Form>::sum_beside_top(n, in, row.peak);
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t, std::ptrdiff_t, Sum sum, Row& row) const {
        row.log_sum = E::log_sum(sum.tops, sum.rest);
        D nan = D::splat(__builtin_nan(""));
        row.log_sum = plus(row.log_sum, E::of(select(is_finite(row.peak), D::zero(), nan)));
    }
    // A sum that is right to 2^-27.7 gives results above 1/2 in magnitude.
    Mask<Isa, double> accepts(const FloatSum<Isa>& sum, Row& row) const {
        Mask<Isa, double> in_range = in_float_range(sum);
        row.float_log = log_fast(select(in_range, sum.sum, D::splat(1)));
        return in_range & (sum.largest - row.float_log < D::splat(-0.5));
    }
    template <class Form>
    void finish_float(Form, std::ptrdiff_t, std::ptrdiff_t, const FloatSum<Isa>&, Mask<Isa, double>,
                      Row& row) const {
        row.peak = D::zero();
        if constexpr (sizeof(C) == 4) row.log_sum = row.float_log;
    }
    void patch(std::ptrdiff_t, std::ptrdiff_t, C*, std::ptrdiff_t, int, const Row&) const {}
    template <class Form>
    void emit(Form, std::ptrdiff_t, std::ptrdiff_t n, C* out, const C* const* in,
              const Row& row) const {
        D top = row.peak;
        Number log_sum = row.log_sum;
        Logits<Isa, C, Form>::map(n, out, in, [&](D x) __attribute__((always_inline)) {
            return E::log_probability(x, top, log_sum);
        });
    }
};

// What the g of a row are multiplied by, so that neither their sum nor a difference overflows, and
// what the results are multiplied by then.
template <class Isa, class C>
struct GradientScale {
    using D = Vec<Isa, double>;
    D down, up;

    // Whether rows must be summed again.
    bool rescale(Pair<Isa> sum)
        requires(sizeof(C) == 8)
    {
        Mask<Isa, double> large = ~(abs(sum.hi) < D::splat(0x1p960)) & (down == D::splat(1));
        down = select(large, D::splat(0x1p-64), down);
        up = select(large, D::splat(0x1p64), up);
        return any(large);
    }
    [[gnu::always_inline]] inline D scaled(D g) const { return sizeof(C) == 8 ? g * down : g; }
    [[gnu::always_inline]] inline D result(D y) const { return sizeof(C) == 8 ? y * up : y; }
};

// Operands: g, y.
template <class Isa, class C>
struct SoftmaxBackward {
    using D = Vec<Isa, double>;
    using E = Exponentials<Isa, C>;
    using Sum = typename E::Number;
    static constexpr int inputs = 2;
    static constexpr bool has_peak = false;
    static constexpr bool emits = true;
    static constexpr bool float_lanes = false;
    static constexpr bool keeps = false;

    struct Row {
        Sum dot;
        GradientScale<Isa, C> scale;
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        Row row;
        row.scale = {D::splat(1), D::splat(1)};
        return row;
    }
    template <class Form>
    Sum sum(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row) const {
        GradientScale<Isa, C> scale = row.scale;
        Lanes<Form, Sum> sums(E::zero());
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t, D g, D y) __attribute__((always_inline)) {
                sums.lane[slot] = plus(sums.lane[slot], E::exact_product(scale.scaled(g), y));
            },
            Column<C>{in[0], 0}, Column<C>{in[1], 0});
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t, std::ptrdiff_t, Sum sum, Row& row) const {
        row.dot = sum;
    }
    template <class Form>
    void emit(Form, std::ptrdiff_t, std::ptrdiff_t n, C* out, const C* const* in,
              const Row& row) const {
        Sum dot = row.dot;
        GradientScale<Isa, C> scale = row.scale;
        Form::map(
            n, out,
            [&](std::ptrdiff_t, D g, D y) __attribute__((always_inline)) {
                Sum difference = E::minus(E::of(scale.scaled(g)), dot);
                return scale.result(E::rounded(E::product(difference, E::of(y))));
            },
            Column<C>{in[0], 0}, Column<C>{in[1], 0});
    }
};

template <class Isa, class C>
struct LogSoftmaxBackward {
    using D = Vec<Isa, double>;
    using E = Exponentials<Isa, C>;
    using Sum = typename E::Number;
    static constexpr int inputs = 2;
    static constexpr bool has_peak = false;
    static constexpr bool emits = true;
    static constexpr bool float_lanes = false;
    static constexpr bool keeps = false;

    struct Row {
        Sum total;
        D scale_exponent;
        GradientScale<Isa, C> scale;
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        Row row;
        row.scale = {D::splat(1), D::splat(1)};
        return row;
    }
    template <class Form>
    Sum sum(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row) const {
        GradientScale<Isa, C> scale = row.scale;
        Lanes<Form, Sum> sums(E::zero());
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t, D g) __attribute__((always_inline)) {
                sums.lane[slot] = plus(sums.lane[slot], E::of(scale.scaled(g)));
            },
            Column<C>{in[0], 0});
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t, std::ptrdiff_t, Sum sum, Row& row) const {
        // A small total would underflow under the inverse scale, and needs none: what its product
        // with exp(y) < 2^-1022 loses no result can show.
        Mask<Isa, double> small = abs(E::rounded(sum)) < D::splat(1);
        row.total = E::product(sum, E::of(select(small, D::splat(1), D::splat(1 / E::scale))));
        row.scale_exponent = select(small, D::zero(), D::splat(E::scale_exponent));
    }
    template <class Form>
    void emit(Form, std::ptrdiff_t, std::ptrdiff_t n, C* out, const C* const* in,
              const Row& row) const {
        Sum total = row.total;
        D scale_exponent = row.scale_exponent;
        GradientScale<Isa, C> scale = row.scale;
        Form::map(
            n, out,
            [&](std::ptrdiff_t, D g, D y) __attribute__((always_inline)) {
                Sum p = E::exp_of(y, scale_exponent);
                return scale.result(
                    E::rounded(E::minus(E::of(scale.scaled(g)), E::product(p, total))));
            },
            Column<C>{in[0], 0}, Column<C>{in[1], minus_infinity});
    }
};

template <class Isa, class C>
void softmax(const RowShape& shape, const RowOperand& y, const RowOperand& x,
             const RowOperand* mask) {
    using Op = Softmax<Isa, C>;
    RowDriver<Isa, C, Op>{shape, {shape, nullptr}, &y, {&x}, 0, shape.rows, mask, 0}.run();
}
template <class Isa, class C>
void logsumexp_backward(const RowShape& shape, const RowOperand& grad_x, const RowOperand& grad_y,
                        const RowOperand& x) {
    RowDriver<Isa, C, Softmax<Isa, C>>{shape, {shape, &grad_y}, &grad_x, {&x}}.run();
}
template <class Isa, class C>
void log_softmax(const RowShape& shape, const RowOperand& y, const RowOperand& x,
                 const RowOperand* mask) {
    using Op = LogSoftmax<Isa, C>;
    RowDriver<Isa, C, Op>{shape, {}, &y, {&x}, 0, shape.rows, mask, minus_infinity}.run();
}
template <class Isa, class C>
void softmax_backward(const RowShape& shape, const RowOperand& grad_x, const RowOperand& grad_y,
                      const RowOperand& y) {
    RowDriver<Isa, C, SoftmaxBackward<Isa, C>>{shape, {}, &grad_x, {&grad_y, &y}}.run();
}
template <class Isa, class C>
void log_softmax_backward(const RowShape& shape, const RowOperand& grad_x, const RowOperand& grad_y,
                          const RowOperand& y) {
    RowDriver<Isa, C, LogSoftmaxBackward<Isa, C>>{shape, {}, &grad_x, {&grad_y, &y}}.run();
}

}  // namespace stableops
