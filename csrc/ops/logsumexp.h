#pragma once
// logsumexp: log |sum_i b_i exp(x_i)| over the columns of rows, with the sign of the sum; b is 1
// where it is not given.
//
//   y = m + log S,  S = sum_i b_i E_i,  E_i = exp(x_i - m),  m = the maximum over b_i != 0
//
// Where the textbook loses digits, and what is done instead (x - m and exp as in softmax.h):
//
//   dominated   S = c + R, with c the sum of b_i over the elements equal to m and R the rest.
//   Rounding
//               c + R loses R, and with it all of y where m = 0 and c = 1. They are summed apart
//               and log1p((c - 1) + R) sees every digit of R.
//   cancelled   y next to 0 although m is not (x the logarithms of probabilities that sum to nearly
//   1):
//               then m + log S cancels, and the error of log S, e S / y of y's size, grows without
//               limit. The sum is formed again in a longer type when the first result shows that
//               this matters: of the sum of exp(x_i) itself, with no m, less 1, in triple length,
//               so that y = log1p(sum - 1) is right however near to 1 the sum is.
//   signs       b of both signs: S cancels, and entirely so where the weights of equal x_i do,
//   however
//               large they are; what decides then may be any distance below. The sum is formed
//               again without error.
//
// Error budget. With e the relative error of S (float32: 2^-44; float64, and all with b: 2^-61 and
// log's 2^-59.4), the first result has an absolute error of e (1 + |log S|) at most; it is accepted
// if that is below 2^-26 or 2^-55 of the result: 0.75 ULP. Float32 without b then tries float64's
// way: accepted down to y = 2^-32 |m|. Triple length: the sum less 1 is right to 2^-150 of its
// largest term, so y keeps its digits until 95 bits more than those of a double cancel. With b: exp
// is right to 2^-150, and nothing else is rounded; sums of b_i exp(x_i) over different x_i that
// cancel by more than 95 bits are beyond it.
//
// Edge cases. NaN: NaN. +inf: +inf. All -inf, or nothing left by b or a mask: -inf, sign 0 where
// there is b. An element with b = 0 takes no part, whatever it is. A negative sum without the sign
// asked for: NaN.
//
// logsumexp_backward (softmax.h): g softmax(x)_i, from x itself: exp(x_i - y) would inherit |y| / 2
// ULP of y's rounding.
#include "../simd/exact_sum.h"
#include "../simd/triple.h"
#include "softmax.h"

namespace stableops {

template <class Isa>
[[gnu::always_inline]] inline Triple<Isa> plus(Triple<Isa> a, Triple<Isa> b) {
    return add(a, b);
}
template <int by, class Isa>
[[gnu::always_inline]] inline Triple<Isa> rotate(Triple<Isa> a) {
    return {rotate<by>(a.hi), rotate<by>(a.mid), rotate<by>(a.lo)};
}

// A result: log |S| + m as hi + lo, and the sign of S.
struct SignedLog {
    double hi, lo, sign;
};

// One row again, in a longer type. Rows that come here are rare, so they are gathered in small
// blocks and need no scratch.
template <class Isa>
struct SecondLook {
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using Form = Along<Isa, double>;

    const RowShape& shape;
    const RowOperand& x;
    const RowOperand* b;  // weights, or a mask
    std::ptrdiff_t row;

    // body(slot, x, b) for all columns; b is 1 where there is none. Where it is 0, and beyond the
    // end, x is -inf.
    template <class Body>
    [[gnu::always_inline]] inline void each(const Body& body) const {
        constexpr std::ptrdiff_t block = 512;
        double values[block], weights[block];
        const char* x_row = x.data + row_offset<Isa>(shape, x, row);
        const char* b_row = b == nullptr ? nullptr : b->data + row_offset<Isa>(shape, *b, row);
        for (std::ptrdiff_t i = 0; i < block; ++i) weights[i] = 1;
        for (std::ptrdiff_t c = 0; c < shape.cols; c += block) {
            std::ptrdiff_t n = smaller<Isa>(block, shape.cols - c);
            gather_line<Isa>(values, shape, x, x_row, c, n);
            if (b != nullptr) gather_line<Isa>(weights, shape, *b, b_row, c, n);
            Form::each(
                n,
                [&](int slot, std::ptrdiff_t, D v, D w) __attribute__((always_inline)) {
                    body(slot, select(w == D::zero(), D::splat(minus_infinity), v), w);
                },
                Column<double>{values, minus_infinity}, Column<double>{weights, 0});
        }
    }
    template <class Sum, class Term>
    [[gnu::always_inline]] inline Sum sum(Sum zero, const Term& term) const {
        Lanes<Form, Sum> sums(zero);
        each([&](int slot, D v, D) __attribute__((always_inline)) {
            sums.lane[slot] = plus(sums.lane[slot], term(v));
        });
        return Form::fold(sums.lane, Plus{});
    }

    // As float64 rows are summed at first, for float32 without weights.
    [[gnu::noinline]] SignedLog pair(double peak) const {
        using E = Exponentials<Isa, double>;
        using Sum = SumBesideTop<Isa, double>;
        D m = D::splat(peak);
        Sum s = sum(Sum{E::zero(), D::zero()}, [&](D v) __attribute__((always_inline)) {
            Mask<Isa, double> is_top = v == m;
            return Sum{E::masked(~is_top, E::exp_difference(v, m)),
                       select(is_top, D::splat(1), D::zero())};
        });
        P log = E::log_sum(s.tops, s.rest);
        P y = two_sum(m, log.hi);
        return {y.hi[0], (y.lo + log.lo)[0], 1};
    }

    // With the c elements equal to m kept apart: the sum less 1 is R + c expm1(m) + (c - 1), of
    // which none is rounded to the size of another. It is formed 2^512 times larger, so that
    // nothing is subnormal on the way. m + log S cancels only for -log(number of columns) <= m < 0.
    [[gnu::noinline]] SignedLog triple(double peak) const {
        D m = D::splat(peak), zero = D::zero(), one = D::splat(1);
        D scale = D::splat(0x1p512), down = D::splat(0x1p-512);
        Lanes<Form, Triple<Isa>> rests({zero, zero, zero});
        Lanes<Form, D> counts(zero);
        each([&](int slot, D v, D) __attribute__((always_inline)) {
            D k;
            Mask<Isa, double> used = (v > D::splat(-1000)) & (v != m);
            Triple<Isa> e = exp_triple(P{select(used, v, zero), zero}, k);
            D power = select(used, power_of_two(k + D::splat(512)), zero);
            rests.lane[slot] = add(rests.lane[slot], scaled(e, power));
            counts.lane[slot] = counts.lane[slot] + select(v == m, one, zero);
        });
        Triple<Isa> rest = Form::fold(rests.lane, Plus{});
        D tops = Form::fold(counts.lane, Plus{});

        // Where the largest element is not next to 0, nothing is lost by plain subtraction of 1.
        Mask<Isa, double> small = abs(m) < D::splat(0.34);
        D k;
        Triple<Isa> e = exp_triple(P{m, zero}, k);
        Triple<Isa> s = add(rest, mul(e, tops * power_of_two(k + D::splat(512))));
        Triple<Isa> f = add(add(mul(expm1_triple(select(small, m, zero), scale), tops),
                                Triple<Isa>{(tops - one) * scale, zero, zero}),
                            rest);
        Triple<Isa> difference = add(s, Triple<Isa>{-scale, zero, zero});
        f = {select(small, f.hi, difference.hi), select(small, f.mid, difference.mid),
             select(small, f.lo, difference.lo)};
        // After a cancellation the parts may be out of order.
        P low = two_sum(f.mid, f.lo);
        P less_one = two_sum(f.hi, low.hi);
        less_one = fast_two_sum(less_one.hi, less_one.lo + low.lo);
        Mask<Isa, double> near = abs(f.hi) < D::splat(0x1p510);
        P near_log = log_reduced_pair(
            P{select(near, less_one.hi * down, zero), select(near, less_one.lo * down, zero)},
            zero);
        P log = log_pair(s.hi * down, s.mid * down);
        return {select(near, near_log.hi, log.hi)[0], select(near, near_log.lo, log.lo)[0], 1};
    }

    // Without error but for exp. Elements far below the largest count only if those above cancel
    // entirely, which one looks into when the sum is too small to be that of weights that do not: a
    // window of 5,000 bits holds the terms; from it down to its middle a sum is at least 2^-1074
    // 2^-2500 of exp(m), and all that lies below the window is less than 2^1024 2^-5000 times the
    // number of columns. Each further window reads the row once more, and takes equal elements that
    // cancel entirely out of it.
    [[gnu::noinline]] SignedLog exact(double m) const {
        constexpr double window = 5000 * ln2_high;
        constexpr int smallest_kept = -3700;
        for (;;) {
            // Without a shift where the sum may be next to 1.
            double shift = __builtin_fabs(m) < 3000 ? 0 : m;
            ExactSum<Isa> sum;
            double next = minus_infinity;
            bool regular = true;
            each([&](int, D v, D w) {
                Mask<Isa, double> used = w != D::zero();
                regular = regular && !any(~is_finite(w) | (used & (v != v)));
                Mask<Isa, double> below = used & (v < D::splat(m - window / 2));
                if (any(below)) {
                    for (int j = 0; j < D::size; ++j)
                        if (below[j] != 0) next = larger<Isa>(next, v[j]);
                }
                used = used & is_finite(w) & (v <= D::splat(m)) & (v >= D::splat(m - window));
                if (any(used)) add_exactly(sum, v, w, shift, used);
            });
            if (!regular) return {__builtin_nan(""), 0, 0};
            ExactValue s = sum.value();
            double top_exponent = shift == 0 ? m * log2_e : 0;
            if (s.sign == 0 || s.exponent < top_exponent + smallest_kept) {
                if (next != minus_infinity) {
                    m = next;
                    continue;
                }
                if (s.sign == 0) return {minus_infinity, 0, 0};
            }
            if (shift == 0 && (s.exponent == 0 || s.exponent == 1)) {
                sum.add(-s.sign, 0);
                ExactValue f = sum.value();
                f.sign *= s.sign;
                if (f.exponent < -1) {
                    SignedLog result = near_one(f);
                    result.sign = s.sign;
                    return result;
                }
            }
            return elsewhere(s, shift);
        }
    }

  private:
    // a 2^-exponent of moderate size, for products with parts of triples.
    [[gnu::always_inline]] static inline D moderate(D a, D& exponent) {
        D zero = D::zero(), far = D::splat(800);
        Mask<Isa, double> tiny = abs(a)<D::splat(0x1p-300), huge = abs(a)> D::splat(0x1p500);
        exponent = select(tiny, -far, select(huge, far, zero));
        return a * select(tiny, D::splat(0x1p800), select(huge, D::splat(0x1p-800), D::splat(1)));
    }

    // w exp(v - shift), for |v - shift| < 2^13; next to 0 as w + w expm1(v), so that v keeps its
    // digits.
    static void add_exactly(ExactSum<Isa>& sum, D v, D w, double shift, Mask<Isa, double> used) {
        D zero = D::zero();
        P d = two_sum(v, D::splat(-shift));
        d = {select(used, d.hi, zero), select(used, d.lo, zero)};
        D k, d_exponent, w_exponent;
        Triple<Isa> r = reduce_triple(d, k);
        Triple<Isa> e = expm1_over_r(r);
        Mask<Isa, double> is_small = k == zero;
        D lifted = moderate(d.hi, d_exponent);
        Triple<Isa> whole = add(Triple<Isa>{D::splat(1), zero, zero}, mul(e, r));
        Triple<Isa> rest = mul(e, lifted);
        Triple<Isa> t = {select(is_small, rest.hi, whole.hi), select(is_small, rest.mid, whole.mid),
                         select(is_small, rest.lo, whole.lo)};
        D weight = moderate(w, w_exponent);
        P part[] = {two_prod(t.hi, weight), two_prod(t.mid, weight), two_prod(t.lo, weight)};
        D exponent = select(is_small, d_exponent, k) + w_exponent;
        for (int j = 0; j < D::size; ++j) {
            if (used[j] == 0) continue;
            int power = static_cast<int>(exponent[j]);
            for (const P& p : part) {
                sum.add(p.hi[j], power);
                sum.add(p.lo[j], power);
            }
            if (is_small[j] != 0) sum.add(w[j], 0);
        }
    }

    // log(1 + f) for |f| <= 1/4, with the sign of 1.
    static SignedLog near_one(const ExactValue& f) {
        // A subnormal result is rounded once.
        if (f.exponent < -900) {
            D y = ldexp(P{D::splat(f.hi * f.sign), D::splat(f.lo * f.sign)},
                        D::splat(larger<Isa>(-1100, f.exponent)));
            return {y[0], 0, 1};
        }
        D power = power_of_two(D::splat(f.exponent)) * D::splat(f.sign);
        P y = log_reduced_pair(P{D::splat(f.hi) * power, D::splat(f.lo) * power}, D::zero());
        return {y.hi[0], y.lo[0], 1};
    }
    // shift + log s, which do not cancel.
    static SignedLog elsewhere(const ExactValue& s, double shift) {
        bool lower = s.hi < 0x1.6a09e667f3bcdp-1;
        double scale = lower ? 2 : 1;
        D hi = D::splat(s.hi * scale), lo = D::splat(s.lo * scale);
        D octaves = D::splat(lower ? s.exponent - 1 : s.exponent);
        P log = log_reduced_pair(fast_two_sum(hi - D::splat(1), lo), D::zero());
        P power = two_prod(octaves, D::splat(ln2_high));
        power.lo = fma(octaves, D::splat(ln2_low), power.lo);
        log = add(power, log);
        P y = two_sum(D::splat(shift), log.hi);
        return {y.hi[0], (y.lo + log.lo)[0], static_cast<double>(s.sign)};
    }
};

// Writes the results of rows; `again` are those that need a second look, which `look` takes.
template <class Isa, class C>
struct LogSumExpWriter {
    using D = Vec<Isa, double>;

    const RowShape& shape;
    const RowOperand& y;
    const RowOperand* sign;  // nullptr: not wanted

    template <class Look>
    void write(std::ptrdiff_t first, std::ptrdiff_t n, Pair<Isa> log, D signs,
               Mask<Isa, double> again, const Look& look) const {
        // m + log of infinite parts is NaN in lo.
        log.lo = select(is_finite(log.hi), log.lo, D::zero());
        for (int j = 0; j < n; ++j) {
            SignedLog result = {log.hi[j], log.lo[j], signs[j]};
            if (again[j] != 0) {
                SignedLog second = look(j);
                // NaN comes of NaN or infinite weights; then the first look is right.
                if (second.hi == second.hi) result = second;
            }
            double value = result.hi + result.lo;
            if (sign != nullptr) {
                double s = value == value ? result.sign : value;
                write_row_value<Isa>(shape, *sign, first + j, static_cast<C>(s));
            } else if (result.sign < 0) {
                value = __builtin_nan("");
            }
            write_row_value<Isa>(shape, y, first + j, static_cast<C>(value));
        }
    }
};

template <class Isa, class C>
struct LogSumExp {
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using E = Exponentials<Isa, C>;
    using Sum = SumBesideTop<Isa, C>;
    static constexpr int inputs = 1;
    static constexpr bool has_peak = true;
    static constexpr bool emits = false;
    static constexpr bool float_lanes = sizeof(C) == 4;
    static constexpr bool keeps = false;
    static constexpr bool has_holes = false;

    LogSumExpWriter<Isa, C> writer;
    const RowOperand& x;
    const RowOperand* mask;

    struct Row {
        D peak;
        D float_log;  // by the sum in float32 lanes
    };

    // A sum that is right to 2^-27.7 gives results above 1/2 in magnitude.
    Mask<Isa, double> accepts(const FloatSum<Isa>& sum, Row& row) const {
        Mask<Isa, double> in_range = in_float_range(sum);
        row.float_log = log_fast(select(in_range, sum.sum, D::splat(1)));
        return in_range & (abs(row.float_log) > D::splat(0.5));
    }
    template <class Form>
    void finish_float(Form, std::ptrdiff_t first, std::ptrdiff_t n, const FloatSum<Isa>&,
                      Mask<Isa, double> accepted, const Row& row) const {
        for (int j = 0; j < n; ++j) {
            if (accepted[j] == 0) continue;
            write_row_value<Isa>(writer.shape, writer.y, first + j,
                                 static_cast<C>(row.float_log[j]));
            if (writer.sign != nullptr)
                write_row_value<Isa>(writer.shape, *writer.sign, first + j, C{1});
        }
    }

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        return {D::zero(), D::zero()};
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
    void finish(Form, std::ptrdiff_t first, std::ptrdiff_t n, Sum sum, Row& row) const {
        D m = row.peak;
        // S is not below 1, so only the sum with m cancels.
        P log = parts(E::log_sum(sum.tops, sum.rest));
        P y = two_sum(m, log.hi);
        y.lo = y.lo + log.lo;
        // What the first look may lose, against what it finds.
        D accepted = D::splat(sizeof(C) == 8 ? 0x1p-4 : 0x1p-17);
        Mask<Isa, double> again = (abs(y.hi) < accepted * abs(m)) & is_finite(m);
        D sign = select(m == D::splat(minus_infinity), D::zero(), D::splat(1));
        writer.write(first, n, y, sign, again, [&](int j) {
            SecondLook<Isa> look = {writer.shape, x, mask, first + j};
            if constexpr (sizeof(C) == 4) {
                SignedLog result = look.pair(m[j]);
                if (!(__builtin_fabs(result.hi) < 0x1p-32 * __builtin_fabs(m[j]))) return result;
            }
            return look.triple(m[j]);
        });
    }
};

// R, c, and what |b_i| E_i and |b_i| add up to there.
template <class Isa>
struct WeightedExponentials {
    Pair<Isa> rest, tops;
    Vec<Isa, double> rest_size, tops_size;
};
template <class Isa>
[[gnu::always_inline]] inline WeightedExponentials<Isa> plus(WeightedExponentials<Isa> a,
                                                             WeightedExponentials<Isa> b) {
    return {plus(a.rest, b.rest), plus(a.tops, b.tops), a.rest_size + b.rest_size,
            a.tops_size + b.tops_size};
}
template <int by, class Isa>
[[gnu::always_inline]] inline WeightedExponentials<Isa> rotate(WeightedExponentials<Isa> a) {
    return {rotate<by>(a.rest), rotate<by>(a.tops), rotate<by>(a.rest_size),
            rotate<by>(a.tops_size)};
}

// Weights take float64's way for every type.
template <class Isa>
struct WeightedLogSumExp {
    using C = double;
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using E = Exponentials<Isa, double>;
    using Sum = WeightedExponentials<Isa>;
    static constexpr int inputs = 2;
    static constexpr bool has_peak = true;
    static constexpr bool emits = false;
    static constexpr bool float_lanes = false;
    static constexpr bool keeps = false;

    LogSumExpWriter<Isa, C> writer;
    const RowOperand& x;
    const RowOperand& b;

    struct Row {
        D peak;
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t, std::ptrdiff_t) const {
        return {D::zero()};
    }
    template <class Form, class Body>
    [[gnu::always_inline]] static inline void each(std::ptrdiff_t n, const C* const* in,
                                                   const Body& body) {
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t, D v, D w) __attribute__((always_inline)) {
                body(slot, select(w == D::zero(), D::splat(minus_infinity), v), w);
            },
            Column<C>{in[0], minus_infinity}, Column<C>{in[1], 0});
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
        D top = row.peak, zero = D::zero();
        Lanes<Form, Sum> sums({E::zero(), E::zero(), zero, zero});
        each<Form>(n, in, [&](int slot, D v, D w) __attribute__((always_inline)) {
            Mask<Isa, double> is_top = v == top;
            P e = E::masked(~is_top, E::product(E::exp_difference(v, top), w));
            D top_weight = select(is_top, w, zero);
            sums.lane[slot] =
                plus(sums.lane[slot], Sum{e, E::of(top_weight), abs(e.hi), abs(top_weight)});
        });
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t first, std::ptrdiff_t n, Sum sum, Row& row) const {
        D zero = D::zero(), one = D::splat(1), down = D::splat(1 / E::scale);
        D m = row.peak;
        P tops = two_sum(sum.tops.hi, sum.tops.lo), rest = two_sum(sum.rest.hi, sum.rest.lo);
        P s = two_sum(tops.hi, rest.hi * down);
        s = fast_two_sum(s.hi, s.lo + fma(rest.lo, down, tops.lo));
        // An infinite sum has NaN as its error.
        D plain = sum.tops.hi + sum.rest.hi * down;
        s = {select(is_finite(plain), s.hi, plain), select(is_finite(plain), s.lo, zero)};
        D sign = select(s.hi < zero, -one, one);
        P log = log_pair(abs(s.hi), s.lo * sign);
        P y = two_sum(m, log.hi);
        y.lo = y.lo + log.lo;
        // What the first look may lose, against what it finds.
        D accepted = D::splat(x.type == Element::float64 ? 0x1p-4 : 0x1p-28);
        D rest_size = sum.rest_size * down;
        // Next to a sum of 1 or -1 the parts that are not 1 may cancel.
        P near = add(two_sum(tops.hi * sign, -one), rest.hi * (down * sign));
        D beside_one = rest_size + abs(tops.hi * sign - one) + sum.tops_size * D::splat(0x1p-40);
        Mask<Isa, double> again =
            (abs(y.hi) < accepted * abs(m)) | (abs(s.hi) < accepted * (rest_size + sum.tops_size)) |
            ((abs(y.hi) < D::splat(0.25)) & (abs(near.hi) < accepted * beside_one)) |
            // Exponentials below 2^-1534, and products that over- or underflow.
            (abs(s.hi) < D::splat(0x1p-400)) | ~(abs(s.hi) < D::splat(0x1p1000));
        again = again & is_finite(m);
        sign = select((s.hi == zero) | (m == D::splat(minus_infinity)), zero, sign);
        writer.write(first, n, y, sign, again, [&](int j) {
            return SecondLook<Isa>{writer.shape, x, &b, first + j}.exact(m[j]);
        });
    }
};

// b: weights, or a mask (booleans), or nullptr.
template <class Isa, class C>
void logsumexp(const RowShape& shape, const RowOperand& y, const RowOperand* sign,
               const RowOperand& x, const RowOperand* b) {
    LogSumExpWriter<Isa, C> writer = {shape, y, sign};
    if (b == nullptr || b->type == Element::boolean) {
        using Op = LogSumExp<Isa, C>;
        RowDriver<Isa, C, Op>{shape, {writer, x, b}, nullptr, {&x}, 0, shape.rows, b, 0}.run();
    } else {
        using Op = WeightedLogSumExp<Isa>;
        RowDriver<Isa, double, Op>{shape, {{shape, y, sign}, x, *b}, nullptr, {&x, b}}.run();
    }
}

}  // namespace stableops
