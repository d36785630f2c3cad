#pragma once
// logsumexp: log |sum_i b_i exp(x_i)| over the columns of rows, with the sign of the sum; b is 1 where it is not
// given.
//
//   y = m + log S,  S = sum_i b_i E_i,  E_i = exp(x_i - m),  m = the maximum over b_i != 0
//
// Where the textbook loses digits, and what is done instead (x - m and exp as in softmax.h):
//
//   dominated   S = c + R, with c the sum of b_i over the elements equal to m and R the rest. Rounding
//               c + R loses R, and with it all of y where m = 0 and c = 1. They are summed apart
//               and log1p((c - 1) + R) sees every digit of R.
//   cancelled   y next to 0 although m is not (x the logarithms of probabilities that sum to nearly 1):
//               then m + log S cancels, and the error of log S, e S / y of y's size, grows without limit. The
//               sum is formed again in a longer type when the first result shows that this matters:
//               of the sum of exp(x_i) itself, with no m, less 1, in triple length, so that
//               y = log1p(sum - 1) is right however near to 1 the sum is.
//   signs       b of both signs: S cancels. The same second look is taken.
//
// Error budget. With e the relative error of S (float32: 2^-44; float64: 2^-61 and log's 2^-59.4), the first
// result has an absolute error of e (1 + |log S|) at most; it is accepted if that is below 2^-26 or
// 2^-55 of the result: 0.75 ULP. Float32 then tries float64's way: accepted down to y = 2^-32 |m|.
// Triple length: the sum less 1 is right to 2^-150 of its largest term, so y keeps its digits until
// 95 bits more than those of a double cancel.
//
// Edge cases. NaN: NaN. +inf: +inf. All -inf, or nothing left by b or a mask: -inf, sign 0 where there is
// b. An element with b = 0 takes no part, whatever it is. A negative sum without the sign asked for: NaN.
//
// logsumexp_backward: g softmax(x)_i, from x itself: exp(x_i - y) would inherit |y| / 2 ULP of y's rounding.
#include "../simd/triple.h"
#include "softmax.h"

namespace stableops {

// R, c and the sum of |b_i| E_i.
template <class Isa, class C>
struct WeightedExponentials {
    typename Exponentials<Isa, C>::Number rest;
    typename Exponentials<Isa, C>::Number tops;
    Vec<Isa, double> size;
};
template <class Isa, class C>
[[gnu::always_inline]] inline WeightedExponentials<Isa, C> plus(WeightedExponentials<Isa, C> a,
                                                                WeightedExponentials<Isa, C> b) {
    return {plus(a.rest, b.rest), plus(a.tops, b.tops), a.size + b.size};
}
template <int by, class Isa, class C>
[[gnu::always_inline]] inline WeightedExponentials<Isa, C> rotate(WeightedExponentials<Isa, C> a) {
    return {rotate<by>(a.rest), rotate<by>(a.tops), rotate<by>(a.size)};
}
template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> plus(Triple<Isa> a, Triple<Isa> b) {
    return add(a, b);
}
template <int by, class Isa>
[[gnu::always_inline]] inline Triple<Isa> rotate(Triple<Isa> a) {
    return {rotate<by>(a.hi), rotate<by>(a.mid), rotate<by>(a.lo)};
}

// A "sum" that keeps the largest term.
template <class Isa>
struct LargestOf {
    Vec<Isa, double> value;
};
template <class Isa>
[[gnu::always_inline]] inline LargestOf<Isa> plus(LargestOf<Isa> a, LargestOf<Isa> b) {
    return {max(a.value, b.value)};
}
template <int by, class Isa>
[[gnu::always_inline]] inline LargestOf<Isa> rotate(LargestOf<Isa> a) {
    return {rotate<by>(a.value)};
}

// A result: log |S| + m as hi + lo, and the sign of S.
template <class Isa>
struct SignedLog {
    Pair<Isa> log;
    Vec<Isa, double> sign;
};

// One row again, in a longer type. Rows that come here are rare, so they are gathered in small blocks
// and need no scratch.
template <class Isa, class C, bool weighted>
struct SecondLook {
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using Form = Along<Isa, C>;

    const RowShape& shape;
    const RowOperand& x;
    const RowOperand* b;
    std::ptrdiff_t row;

    template <class Sum, class Term>
    [[gnu::always_inline]] inline Sum sum(Sum zero, const Term& term) const {
        constexpr std::ptrdiff_t block = 512;
        C values[block], weights[block];
        const char* x_row = x.data + row_offset<Isa>(shape, x, row);
        const char* b_row = weighted ? b->data + row_offset<Isa>(shape, *b, row) : nullptr;
        Sum total = zero;
        for (std::ptrdiff_t c = 0; c < shape.cols; c += block) {
            std::ptrdiff_t n = smaller<Isa>(block, shape.cols - c);
            gather_line<Isa>(values, shape, x, x_row, c, n);
            if constexpr (weighted) {
                gather_line<Isa>(weights, shape, *b, b_row, c, n);
            } else {
                for (std::ptrdiff_t i = 0; i < n; ++i) weights[i] = 1;
            }
            Lanes<Form, Sum> sums(zero);
            Form::each(
                n,
                [&](int slot, std::ptrdiff_t, D v, D w) __attribute__((always_inline)) {
                    v = select(w == D::zero(), D::splat(minus_infinity), v);
                    sums.lane[slot] = plus(sums.lane[slot], term(v, w));
                },
                Column<C>{values, minus_infinity}, Column<C>{weights, 0});
            total = plus(total, Form::fold(sums.lane, Plus{}));
        }
        return total;
    }

    // As float64 rows are summed at first, for float32 without weights.
    SignedLog<Isa> pair(D m) const {
        using E = Exponentials<Isa, double>;
        using Sum = SumBesideTop<Isa, double>;
        Sum s = sum(Sum{E::zero(), D::zero()}, [&](D v, D) __attribute__((always_inline)) {
            Mask<Isa, double> is_top = v == m;
            return Sum{E::masked(~is_top, E::exp_difference(v, m)),
                       select(is_top, D::splat(1), D::zero())};
        });
        P log = E::log_sum(s.tops, s.rest);
        P y = two_sum(m, log.hi);
        return {{y.hi, y.lo + log.lo}, D::splat(1)};
    }

    // With the elements equal to m kept apart (c is the sum of their weights): the sum less 1 is
    // R + c expm1(m) + (c - 1), of which none is rounded to the size of another. It is formed 2^512
    // times larger, so that nothing is subnormal on the way.
    SignedLog<Isa> triple(D m) const {
        D zero = D::zero(), one = D::splat(1);
        // Without a shift where the exponentials allow it.
        D shift = select(abs(m) < D::splat(600), zero, m);
        D top = m - shift;
        D largest = zero;
        if constexpr (weighted) {
            largest = sum(LargestOf<Isa>{zero}, [&](D, D w) __attribute__((always_inline)) {
                          return LargestOf<Isa>{abs(w)};
                      }).value;
        }
        // Sums with large weights are formed 2^512 times smaller instead.
        Mask<Isa, double> huge = largest > D::splat(0x1p100);
        D scale = select(huge, D::splat(0x1p-512), D::splat(0x1p512));
        Triple<Isa> none = {zero, zero, zero};
        Triple<Isa> rest = sum(none, [&](D v, D w) __attribute__((always_inline)) {
            P d = two_sum(v, -shift);
            Mask<Isa, double> counts = (d.hi > D::splat(-1000)) & (v != m);
            d = {select(counts, d.hi, zero), select(counts, d.lo, zero)};
            D k;
            Triple<Isa> e = exp_triple(d, k);
            k = k + select(huge, D::splat(-512), D::splat(512));
            counts = counts & (k > D::splat(-1000));
            D power = select(counts, power_of_two(max(D::splat(-1000), k)), zero);
            return mul(e, w * power);
        });
        Triple<Isa> weight = sum(none, [&](D v, D w) __attribute__((always_inline)) {
            return Triple<Isa>{select(v == m, w, zero), zero, zero};
        });
        D k;
        Triple<Isa> e = exp_triple(P{top, zero}, k);
        Triple<Isa> s =
            add(rest, mul(scaled(e, power_of_two(k)), scaled(weight, scale)));
        D sign = select(s.hi < zero, D::splat(-1), one);
        sign = select(s.hi == zero, zero, sign);
        s = scaled(s, sign);

        // Near 1, for a positive sum; where no element is next to 0, nothing is lost by plain subtraction.
        Mask<Isa, double> small = abs(top) < D::splat(0.34);
        Triple<Isa> less_one = add(weight, Triple<Isa>{-one, zero, zero});
        Triple<Isa> f = add(add(mul(weight, expm1_triple(select(small, top, zero), scale)),
                                scaled(less_one, scale)),
                            rest);
        Triple<Isa> difference = add(s, Triple<Isa>{-scale, zero, zero});
        f = {select(small, f.hi, difference.hi), select(small, f.mid, difference.mid),
             select(small, f.lo, difference.lo)};
        D down = D::splat(0x1p-512);
        // After a cancellation the parts may be out of order.
        P near_mid = two_sum(f.mid, f.lo);
        P near_f = two_sum(f.hi, near_mid.hi);
        near_f = fast_two_sum(near_f.hi, near_f.lo + near_mid.lo);
        Mask<Isa, double> near =
            (abs(f.hi) < D::splat(0x1p510)) & ~huge & (sign == one) & (shift == zero);
        P near_log = log_reduced_pair(
            P{select(near, near_f.hi * down, zero), select(near, near_f.lo * down, zero)}, zero);

        // Elsewhere. The power of two is taken out of the logarithm only where the sum itself is no number.
        Mask<Isa, double> regular = (s.hi > D::splat(0x1p-300)) & (s.hi < D::splat(0x1p1000)) & ~huge;
        D back = select(regular, down, one);
        P log = log_pair(s.hi * back, s.mid * back);
        D octaves = select(huge, D::splat(512), D::splat(-512));
        octaves = select(regular, zero, octaves);
        P restored = two_prod(octaves, D::splat(ln2_high));
        restored.lo = fma(octaves, D::splat(ln2_low), restored.lo);
        log = add(log, restored);
        log = {select(near, near_log.hi, log.hi), select(near, near_log.lo, log.lo)};
        P y = two_sum(shift, log.hi);
        y.lo = y.lo + log.lo;
        Mask<Isa, double> nothing = s.hi == zero;
        return {{select(nothing, D::splat(minus_infinity), y.hi), select(nothing, zero, y.lo)},
                sign};
    }
};

template <class Isa, class C, bool weighted>
struct LogSumExp {
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using E = Exponentials<Isa, C>;
    using Number = typename E::Number;
    using Sum = WeightedExponentials<Isa, C>;
    static constexpr int inputs = weighted ? 2 : 1;
    static constexpr bool has_peak = true;
    static constexpr bool emits = false;
    static constexpr bool float_lanes = sizeof(C) == 4 && !weighted;
    static constexpr bool keeps = false;
    static constexpr bool has_holes = false;

    const RowShape& shape;
    const RowOperand& y;
    const RowOperand* sign;  // nullptr: not wanted
    const RowOperand& x;
    const RowOperand* b;

    struct Row {
        D peak;
    };

    // A sum that is right to 2^-27.7 gives results above 1/2 in magnitude.
    Mask<Isa, double> accepts(const FloatSum<Isa>& sum, const Row&) const {
        Mask<Isa, double> in_range = in_float_range(sum);
        return in_range &
               (abs(log_fast(select(in_range, sum.sum, D::splat(1)))) > D::splat(0.5));
    }
    template <class Form>
    void finish_float(Form, std::ptrdiff_t first, std::ptrdiff_t n, const FloatSum<Isa>& sum,
                      Mask<Isa, double> accepted, Row&) const {
        D log = log_fast(select(accepted, sum.sum, D::splat(1)));
        for (int j = 0; j < n; ++j) {
            if (accepted[j] == 0) continue;
            write_row_value<Isa>(shape, y, first + j, static_cast<C>(log[j]));
            if (sign != nullptr) write_row_value<Isa>(shape, *sign, first + j, C{1});
        }
    }

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        return {D::zero()};
    }

    template <class Form, class Body>
    [[gnu::always_inline]] static inline void each(std::ptrdiff_t n, const C* const* in,
                                                   const Body& body) {
        if constexpr (weighted) {
            Form::each(
                n,
                [&](int slot, std::ptrdiff_t, D v, D w) __attribute__((always_inline)) {
                    body(slot, select(w == D::zero(), D::splat(minus_infinity), v), w);
                },
                Column<C>{in[0], minus_infinity}, Column<C>{in[1], 0});
        } else {
            Form::each(
                n,
                [&](int slot, std::ptrdiff_t, D v) __attribute__((always_inline)) {
                    body(slot, v, D::splat(1));
                },
                Column<C>{in[0], minus_infinity});
        }
    }

    template <class Form>
    D peak(Form, std::ptrdiff_t n, const C* const* in, const Row&) const {
        Lanes<Form, D> m(D::splat(minus_infinity));
        each<Form>(n, in, [&](int slot, D v, D) __attribute__((always_inline)) {
            m.lane[slot] = max(v, m.lane[slot]);
        });
        return Form::fold(m.lane, Larger{});
    }

    template <class Form>
    Sum sum(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row) const {
        D top = row.peak;
        if constexpr (!weighted) {
            SumBesideTop<Isa, C> s = Logits<Isa, C, false, Form>::sum_beside_top(n, in, top);
            return {s.rest, E::of(s.tops), D::zero()};
        }
        Lanes<Form, Sum> sums({E::zero(), E::zero(), D::zero()});
        each<Form>(n, in, [&](int slot, D v, D w) __attribute__((always_inline)) {
            Mask<Isa, double> is_top = v == top;
            Sum& sum = sums.lane[slot];
            Number e = E::masked(~is_top, E::product(E::exp_difference(v, top), w));
            sum.rest = plus(sum.rest, e);
            sum.tops = plus(sum.tops, E::masked(is_top, E::of(w)));
            sum.size += abs(parts(e).hi);
        });
        return Form::fold(sums.lane, Plus{});
    }

    template <class Form>
    void finish(Form, std::ptrdiff_t first, std::ptrdiff_t n, Sum sum, Row& row) const {
        D zero = D::zero(), one = D::splat(1);
        D m = row.peak;
        SignedLog<Isa> result;
        Mask<Isa, double> again;
        // What the first look may lose, against what it finds.
        D accepted = D::splat(sizeof(C) == 8 ? 0x1p-4 : 0x1p-17);
        if constexpr (!weighted) {
            // Not below 1, so only the sum with m cancels.
            P log = parts(E::log_sum(parts(sum.tops).hi, sum.rest));
            P s = two_sum(m, log.hi);
            result = {{s.hi, s.lo + log.lo}, one};
            again = abs(s.hi) < accepted * abs(m);
        } else {
            D down = D::splat(1 / E::scale);
            P tops = parts(sum.tops), rest = parts(sum.rest);
            tops = two_sum(tops.hi, tops.lo);
            rest = two_sum(rest.hi, rest.lo);
            P s = two_sum(tops.hi, rest.hi * down);
            s = fast_two_sum(s.hi, s.lo + fma(rest.lo, down, tops.lo));
            D sign = select(s.hi < zero, D::splat(-1), one);
            sign = select((s.hi == zero) | (m == D::splat(minus_infinity)), zero, sign);
            P log = log_pair(abs(s.hi), s.lo * select(s.hi < zero, D::splat(-1), one));
            P y = two_sum(m, log.hi);
            result = {{y.hi, y.lo + log.lo}, sign};
            D size = sum.size * down + abs(tops.hi);
            // Next to a sum of 1 the parts that are not 1 may cancel.
            P near = add(two_sum(tops.hi, -one), rest.hi * down);
            D beside_one = sum.size * down + abs(tops.hi - one);
            again = (abs(y.hi) < accepted * abs(m)) | (abs(s.hi) < accepted * size) |
                    (abs(s.hi) < D::splat(0x1p-900)) |
                    (abs(near.hi) < accepted * beside_one) | ~is_finite(s.hi);
        }
        again = again & is_finite(m);
        // m + log of infinite parts is NaN in lo.
        result.log.lo = select(is_finite(result.log.hi), result.log.lo, zero);
        for (int j = 0; j < n; ++j) {
            double hi = result.log.hi[j], lo = result.log.lo[j], s = result.sign[j];
            if (again.raw[j] != 0 && !contains_nan(sum, j)) {
                SecondLook<Isa, C, weighted> look = {shape, x, b, first + j};
                D top = D::splat(m[j]);
                SignedLog<Isa> second;
                bool enough = false;
                if constexpr (sizeof(C) == 4) {
                    second = look.pair(top);
                    enough = !weighted && !(__builtin_fabs(second.log.hi[0]) <
                                            0x1p-32 * __builtin_fabs(top[0]));
                }
                if (!enough) second = look.triple(top);
                // NaN comes of infinite weights; then the first look is right.
                if (second.log.hi[0] == second.log.hi[0]) {
                    hi = second.log.hi[0];
                    lo = second.log.lo[0];
                    s = second.sign[0];
                }
            }
            double value = hi + lo;
            if (sign != nullptr) {
                write_row_value<Isa>(shape, *sign, first + j, static_cast<C>(value == value ? s : value));
            } else if (s < 0) {
                value = __builtin_nan("");
            }
            write_row_value<Isa>(shape, y, first + j, static_cast<C>(value));
        }
    }

  private:
    [[gnu::always_inline]] static inline bool contains_nan(const Sum& sum, int j) {
        double a = parts(sum.rest).hi[j], b = parts(sum.tops).hi[j];
        return a != a || b != b;
    }
};

template <class Isa, class C>
void logsumexp(const RowShape& shape, const RowOperand& y, const RowOperand* sign,
               const RowOperand& x, const RowOperand* b) {
    if (b == nullptr) {
        using Op = LogSumExp<Isa, C, false>;
        RowDriver<Isa, C, Op>{shape, {shape, y, sign, x, b}, nullptr, {&x}}.run();
    } else {
        using Op = LogSumExp<Isa, C, true>;
        RowDriver<Isa, C, Op>{shape, {shape, y, sign, x, b}, nullptr, {&x, b}}.run();
    }
}

// g softmax(x), with one g a row.
template <class Isa, class C>
struct LogSumExpBackward : Softmax<Isa, C, false> {
    using Base = Softmax<Isa, C, false>;
    using typename Base::D;
    using typename Base::E;
    using typename Base::Row;
    using typename Base::Sum;

    const RowShape& shape;
    const RowOperand& grad_y;

    LogSumExpBackward(const RowShape& shape, const RowOperand& grad_y)
        : shape(shape), grad_y(grad_y) {}

    template <class Form>
    void finish(Form form, std::ptrdiff_t first, std::ptrdiff_t n, Sum sum, Row& row) const {
        Base::finish(form, first, n, sum, row);
        row.inverse = E::product(row.inverse, E::of(gradients<Form>(first, n)));
    }
    template <class Form>
    void finish_float(Form form, std::ptrdiff_t first, std::ptrdiff_t n, const FloatSum<Isa>& sum,
                      Mask<Isa, double> accepted, Row& row) const {
        Base::finish_float(form, first, n, sum, accepted, row);
        row.factor = row.factor * gradients<Form>(first, n);
        if constexpr (sizeof(C) == 4) row.inverse = row.factor;
        row.float_emit = is_normal_float(exp_fast(sum.smallest) * row.factor) &
                         is_normal_float(exp_fast(sum.largest) * row.factor);
    }

  private:
    template <class Form>
    D gradients(std::ptrdiff_t first, std::ptrdiff_t n) const {
        double g[D::size];
        for (int j = 0; j < D::size; ++j) {
            std::ptrdiff_t lane = Form::rows == 1 ? 0 : smaller<Isa, std::ptrdiff_t>(j, n - 1);
            g[j] = read_row_value<Isa, C>(shape, grad_y, first + lane);
        }
        return loadu<Isa>(g);
    }
};

template <class Isa, class C>
void logsumexp_backward(const RowShape& shape, const RowOperand& grad_x, const RowOperand& grad_y,
                        const RowOperand& x) {
    using Op = LogSumExpBackward<Isa, C>;
    RowDriver<Isa, C, Op>{shape, Op(shape, grad_y), &grad_x, {&x}}.run();
}

}  // namespace stableops
