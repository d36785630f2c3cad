#pragma once
// softmax_cross_entropy: loss and gradient of rows of logits x against a class index k, or against
// class weights v (soft labels, label smoothing).
//
//   index:    loss = w_k (lse - x_k),            gradient_i = w_k (p_i - [i = k])
//   weights:  loss = sum_i v_i (lse - x_i),      gradient_i = p_i V - v_i,  V = sum_i v_i
//   lse = log sum_j exp(x_j),  p_i = exp(x_i - lse),  m = max x,  E_i = exp(x_i - m)
//   v_i = w_i ((1 - s) y_i + s / C) for label smoothing s of C classes; y is the label.
//
// Where the textbook loses digits, and what is done instead (subtractions x - m and exponentials as
// in softmax.h):
//
//   index     The loss of a confident row is log1p of something small: of S', the sum of E_i over
//             everything but the label. Rounding 1 + S' loses it, and with it every digit of a loss
//             below 2^-53. So the label is left out of the sum (its place is known beforehand):
//               x_k = m:  loss = log1p(S')
//               x_k < m:  loss = (m - x_k) + log(S' + E_k),  both >= 0, nothing cancels.
//             p_k - 1 for the gradient would cancel alike; it is -S' / (S' + E_k).
//   weights   lse - x_i = (m - x_i) + L, L = log1p((c - 1) + R) with the c elements equal to m kept
//   out of
//             R, both parts >= 0: loss = sum_i v_i (m - x_i) + V L, of one sign if v is.
//             The gradient p_i V - v_i cancels where p_i is next to v_i / V. It is formed as
//               (E_i V - v_i c - v_i R) / (c + R)
//             with double-length terms. For a one-hot label of a confident row, E_i V - v_i c is
//             exactly 0 and -v_i R survives.
//
// Error budget. Index, float32: exponentials 2^-45, sums 2^-40, log1p 2^-45, one rounding: 0.5 ULP
// + 2^-15. float64: 2^-62, 2^-59.4 for log1p, the last sum hi + lo: 0.5 + 0.03 ULP. Weights:
// double-length throughout (float32 too), products 2^-100, exponentials 2^-62: 0.5 + 0.03 ULP of
// the loss where v has one sign; where terms of both signs, or p_i V and v_i, cancel, an error of
// 2^-60 of the larger term besides.
//
// Edge cases. A weight v_i = 0 drops its term, also where x_i is -inf. NaN or +inf in a row, or all
// -inf: NaN. x_k = -inf: loss +inf. Ignored rows: loss 0 and gradient 0 exactly, whatever they
// hold; all rows ignored: the mean is 0 / 0 = NaN. One column: loss and gradient 0 exactly.
//
// The sum over rows is compensated, in the order of simd/sum.h with rows for columns; losses enter
// it unrounded (hi + lo). Where it, or the sum of the weights, overflows in float64, everything is
// done again with all weights multiplied by `rescue_scale`, and so is what the sum is divided by.
// Weights that sum to 0: the mean is the total / 0, its gradient NaN.
#include "../cross_entropy_plan.h"
#include "softmax.h"

namespace stableops {

// Losses below 2^1024 of 2^64 rows have a sum that does not overflow.
constexpr double rescue_scale = 0x1p-128;

// Losses of a slab of rows, hi + lo, and what becomes of them.
struct LossSlab {
    double* hi;  // nullptr: losses are written row by row
    double* lo;
    std::ptrdiff_t first;
};

template <class Isa>
struct LossWriter {
    const RowShape& shape;
    const RowOperand& losses;
    LossSlab slab;

    [[gnu::always_inline]] inline void write(std::ptrdiff_t row, std::ptrdiff_t n, Pair<Isa> loss,
                                             Mask<Isa, double> wanted) const {
        Vec<Isa, double> rounded = loss.hi + loss.lo;
        for (int j = 0; j < n; ++j) {
            if (wanted[j] == 0) continue;
            if (slab.hi == nullptr) {
                write_row_value<Isa>(shape, losses, row + j, rounded[j]);
            } else {
                slab.hi[row + j - slab.first] = loss.hi[j];
                slab.lo[row + j - slab.first] = loss.lo[j];
            }
        }
    }
};

// weight ((m - x) + log_sum), where the difference of two finite doubles may overflow although the
// product does not; zero weight drops it.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> weighted_distance(Pair<Isa> weight, Vec<Isa, double> m,
                                                          Vec<Isa, double> x, Pair<Isa> log_sum) {
    using D = Vec<Isa, double>;
    using E = Exponentials<Isa, double>;
    D nothing = D::zero();
    Pair<Isa> d = two_sum(m, -x);
    D halves = D::splat(1);
    Mask<Isa, double> overflow = (d.hi == D::splat(__builtin_inf())) & is_finite(x);
    if (any(overflow)) [[unlikely]] {
        D half = D::splat(0.5);
        Pair<Isa> h = two_sum(m * half, x * -half);
        d = {select(overflow, h.hi, d.hi), select(overflow, h.lo, d.lo)};
        halves = select(overflow, D::splat(2), halves);
    }
    Pair<Isa> s = two_sum(d.hi, log_sum.hi);
    s.lo = s.lo + (d.lo + log_sum.lo);
    Pair<Isa> p = E::product(s, weight);
    // An infinite distance (x = -inf) has NaN in its other parts.
    Mask<Isa, double> regular = is_finite(s.hi);
    p = {select(regular, p.hi, s.hi * weight.hi), select(regular, p.lo, nothing)};
    p = {p.hi * halves, p.lo * halves};
    p.lo = select(is_finite(p.hi), p.lo, nothing);
    Mask<Isa, double> used = weight.hi != nothing;
    return {select(used, p.hi, nothing), select(used, p.lo, nothing)};
}

// Class indices.
template <class Isa, class C>
struct IndexLabels {
    using D = Vec<Isa, double>;
    using E = Exponentials<Isa, C>;
    using Number = typename E::Number;
    using Sum = Number;
    static constexpr int inputs = 1;
    static constexpr bool has_peak = true;
    static constexpr bool emits = true;
    static constexpr bool float_lanes = sizeof(C) == 4;
    static constexpr bool keeps = sizeof(C) == 8;
    static constexpr bool float_emits = true;
    static constexpr bool has_holes = true;

    const CrossEntropyArguments& arguments;
    const RowOperand& x;
    Pair<Isa> gradient_scale;  // of every row, before its class weight
    double scale;              // of the class weights
    LossWriter<Isa> writer;

    struct Row {
        D peak;
        D label;  // -1: ignored
        D logit;
        D weight;
        Number inverse;  // weight * gradient_scale / S
        D label_gradient;
        D factor;
        Mask<Isa, double> float_emit;
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t first, std::ptrdiff_t n) const {
        double label[D::size], logit[D::size], weight[D::size];
        for (int j = 0; j < D::size; ++j) {
            label[j] = -1;
            logit[j] = 0;
            weight[j] = 0;
            if (j >= n) continue;
            std::ptrdiff_t row = first + j;
            std::int64_t k = arguments.indices[row];
            if (k == arguments.ignore_index) continue;
            label[j] = static_cast<double>(k);
            logit[j] = read_element<Isa, C>(*arguments.shape, x, row, k);
            weight[j] = scale;
            if (arguments.weight != nullptr)
                weight[j] *= static_cast<double>(static_cast<const C*>(arguments.weight)[k]);
        }
        Row row;
        row.factor = D::zero();
        row.float_emit = Mask<Isa, double>::zero();
        // Along a row, all lanes are that row.
        row.label = Form::rows == 1 ? D::splat(label[0]) : loadu<Isa>(label);
        row.logit = Form::rows == 1 ? D::splat(logit[0]) : loadu<Isa>(logit);
        row.weight = Form::rows == 1 ? D::splat(weight[0]) : loadu<Isa>(weight);
        return row;
    }
    template <class Form>
    D peak(Form, std::ptrdiff_t n, const C* const* in, const Row&) const {
        return Logits<Isa, C, Form>::peak(n, in);
    }
    template <class Form>
    Sum sum(Form, std::ptrdiff_t first_column, std::ptrdiff_t n, const C* const* in,
            const Row& row) const {
        D top = row.peak;
        D label = row.label - D::splat(static_cast<double>(first_column));
        Lanes<Form, Sum> sums(E::zero());
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t column, D v) __attribute__((always_inline)) {
                Number e = E::exp_difference(v, top);
                sums.lane[slot] =
                    plus(sums.lane[slot], E::masked(Form::columns(column) != label, e));
            },
            Column<C>{in[0], minus_infinity});
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    Sum sum_kept(Form, std::ptrdiff_t, std::ptrdiff_t n, const C* const* in, const Row& row, C* hi,
                 C* lo) const {
        D top = row.peak, label = row.label;
        Lanes<Form, Sum> sums(E::zero());
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t column, D v) __attribute__((always_inline)) {
                Number e = E::exp_difference(v, top);
                storeu(hi + column, e.hi);
                storeu(lo + column, e.lo);
                sums.lane[slot] =
                    plus(sums.lane[slot], E::masked(Form::columns(column) != label, e));
            },
            Column<C>{in[0], minus_infinity});
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    void emit_kept(Form, std::ptrdiff_t, std::ptrdiff_t n, C* out, const C* hi, const C* lo,
                   const Row& row) const {
        D label = row.label, label_gradient = row.label_gradient;
        Mask<Isa, double> used = row.label >= D::zero();
        Number inverse = row.inverse;
        Form::map(
            n, out,
            [&](std::ptrdiff_t column, D e, D rest) __attribute__((always_inline)) {
                D g = E::rounded_product({e, rest}, inverse);
                g = select(Form::columns(column) == label, label_gradient, g);
                return select(used, g, D::zero());
            },
            Column<C>{hi, 0}, Column<C>{lo, 0});
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t first, std::ptrdiff_t n, Sum others, Row& row) const {
        D one = D::splat(1), nothing = D::zero();
        D nan = D::splat(__builtin_nan(""));
        Mask<Isa, double> used = row.label >= nothing;
        Mask<Isa, double> is_top = row.logit == row.peak;
        Number whole = plus(others, E::exp_difference(row.logit, row.peak));
        Number rest = plus(E::masked(is_top, others), E::masked(~is_top, whole));
        Pair<Isa> log_sum = parts(E::log_sum(select(is_top, one, nothing), rest));
        D invalid = select(is_finite(row.peak), nothing, nan);
        log_sum.hi = log_sum.hi + invalid;
        Pair<Isa> loss =
            weighted_distance(Pair<Isa>{row.weight, nothing}, row.peak, row.logit, log_sum);
        loss = {select(used, loss.hi, nothing), select(used, loss.lo, nothing)};
        writer.write(first, n, loss, ~Mask<Isa, double>::zero());
        if (arguments.grad == nullptr) return;

        Pair<Isa> scale = mul(gradient_scale, row.weight);
        if constexpr (sizeof(C) == 8) {
            row.inverse = E::product(E::reciprocal(whole), scale);
        } else {
            row.inverse = E::reciprocal(whole) * scale.hi;
        }
        row.inverse = plus(row.inverse, E::of(invalid));
        row.label_gradient = nothing - E::rounded_product(others, row.inverse);
        row.factor = nothing;
        row.float_emit = Mask<Isa, double>::zero();
    }
    std::int64_t hole(const Row& row, int lane) const {
        return static_cast<std::int64_t>(row.label[lane]);
    }
    Mask<Isa, double> accepts(const FloatSum<Isa>& sum, const Row&) const {
        return in_float_range(sum);
    }
    // Without a maximum: loss = log1p(S' / exp(x_k)).
    template <class Form>
    void finish_float(Form, std::ptrdiff_t first, std::ptrdiff_t n, const FloatSum<Isa>& sum,
                      Mask<Isa, double> accepted, Row& row) const {
        D nothing = D::zero();
        Mask<Isa, double> used = row.label >= nothing;
        D others = select(accepted, sum.sum, D::splat(1));
        D logit = select(accepted, row.logit, nothing);
        D loss = row.weight * log1p_fast(others * exp_fast(-logit));
        loss = select(used & (row.weight != nothing), loss, nothing);
        writer.write(first, n, {loss, nothing}, accepted);
        if (arguments.grad == nullptr) return;
        row.peak = nothing;
        row.factor = row.weight * gradient_scale.hi / (others + exp_fast(logit));
        if constexpr (sizeof(C) == 4) row.inverse = row.factor;
        row.label_gradient = nothing - others * row.factor;
        row.float_emit = used & accepted & is_normal_float(exp_fast(sum.smallest) * row.factor) &
                         is_normal_float(exp_fast(sum.largest) * row.factor);
    }
    void patch(std::ptrdiff_t column, std::ptrdiff_t n, C* out, std::ptrdiff_t stride, int lane,
               const Row& row) const {
        std::ptrdiff_t k = static_cast<std::ptrdiff_t>(row.label[lane]) - column;
        if (k >= 0 && k < n) out[k * stride] = static_cast<C>(row.label_gradient[lane]);
    }
    template <class Form>
    void emit(Form, std::ptrdiff_t first_column, std::ptrdiff_t n, C* out, const C* const* in,
              const Row& row) const {
        D top = row.peak;
        D label = row.label - D::splat(static_cast<double>(first_column));
        D label_gradient = row.label_gradient;
        Mask<Isa, double> used = row.label >= D::zero();
        Number inverse = row.inverse;
        Form::map(
            n, out,
            [&](std::ptrdiff_t column, D v) __attribute__((always_inline)) {
                D g = E::rounded_product(E::exp_difference(v, top), inverse);
                g = select(Form::columns(column) == label, label_gradient, g);
                return select(used, g, D::zero());
            },
            Column<C>{in[0], minus_infinity});
    }
};

// The sums for class weights: R and c of softmax.h, V, and sum v (m - x).
template <class Isa>
struct WeightedSum {
    SumBesideTop<Isa, double> exponentials;
    Pair<Isa> weights;
    Pair<Isa> distances;
};
template <class Isa>
[[gnu::always_inline]] inline WeightedSum<Isa> plus(WeightedSum<Isa> a, WeightedSum<Isa> b) {
    return {plus(a.exponentials, b.exponentials), plus(a.weights, b.weights),
            plus(a.distances, b.distances)};
}
template <int by, class Isa>
[[gnu::always_inline]] inline WeightedSum<Isa> rotate(WeightedSum<Isa> a) {
    return {rotate<by>(a.exponentials), rotate<by>(a.weights), rotate<by>(a.distances)};
}

// Class weights, in float64's way for every type. Operand 1 is w; operand 2 is y, or absent
// (`indexed`): then y is 1 at the index.
template <class Isa, bool indexed>
struct WeightLabels {
    using C = double;
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    using E = Exponentials<Isa, double>;
    using Sum = WeightedSum<Isa>;
    static constexpr int inputs = indexed ? 2 : 3;
    static constexpr bool has_peak = true;
    static constexpr bool emits = true;
    static constexpr bool float_lanes = false;
    static constexpr bool keeps = false;

    const CrossEntropyArguments& arguments;
    P label_share;   // 1 - s, times the scale of the weights
    P common_share;  // s / C, likewise
    P gradient_scale;
    LossWriter<Isa> writer;

    struct Row {
        D peak;
        D label;
        SumBesideTop<Isa, double> exponentials;
        P weights;
        P inverse;
    };

    template <class Form>
    Row start(Form, std::ptrdiff_t first, std::ptrdiff_t n) const {
        Row row;
        row.label = D::zero();
        if constexpr (indexed) {
            double label[D::size];
            for (int j = 0; j < D::size; ++j) {
                std::ptrdiff_t r =
                    first +
                    (Form::rows == 1 ? 0 : smaller<Isa>(static_cast<std::ptrdiff_t>(j), n - 1));
                std::int64_t k = arguments.indices[r];
                label[j] = k == arguments.ignore_index ? -1 : static_cast<double>(k);
            }
            row.label = loadu<Isa>(label);
        }
        return row;
    }
    template <class Form>
    D peak(Form, std::ptrdiff_t n, const C* const* in, const Row&) const {
        return Logits<Isa, C, Form>::peak(n, in);
    }

    // body(slot, column, x, v)
    template <class Form, class Body>
    [[gnu::always_inline]] inline void each(std::ptrdiff_t first_column, std::ptrdiff_t n,
                                            const C* const* in, const Row& row,
                                            const Body& body) const {
        D label = row.label - D::splat(static_cast<double>(first_column));
        Column<C> logits = {in[0], minus_infinity}, weights = {in[1], 0};
        if constexpr (indexed) {
            Form::each(
                n,
                [&](int slot, std::ptrdiff_t column, D x, D w) __attribute__((always_inline)) {
                    body(slot, x, weight_of(is_label<Form>(column, label), w));
                },
                logits, weights);
        } else {
            Form::each(
                n,
                [&](int slot, std::ptrdiff_t, D x, D w, D y)
                    __attribute__((always_inline)) { body(slot, x, weight_of(y, w)); },
                logits, weights, Column<C>{in[2], 0});
        }
    }

    template <class Form>
    Sum sum(Form, std::ptrdiff_t first_column, std::ptrdiff_t n, const C* const* in,
            const Row& row) const {
        D top = row.peak;
        P none = E::zero();
        Lanes<Form, Sum> sums(Sum{{none, D::zero()}, none, none});
        each<Form>(
            first_column, n, in, row, [&](int slot, D x, P v) __attribute__((always_inline)) {
                Sum& sum = sums.lane[slot];
                Mask<Isa, double> is_top = x == top;
                sum.exponentials.rest =
                    plus(sum.exponentials.rest, E::masked(~is_top, E::exp_difference(x, top)));
                sum.exponentials.tops += select(is_top, D::splat(1), D::zero());
                sum.weights = plus(sum.weights, v);
                sum.distances = plus(sum.distances, weighted_distance(v, top, x, none));
            });
        return Form::fold(sums.lane, Plus{});
    }
    template <class Form>
    void finish(Form, std::ptrdiff_t first, std::ptrdiff_t n, Sum sum, Row& row) const {
        D nothing = D::zero();
        D nan = D::splat(__builtin_nan(""));
        Mask<Isa, double> used = row.label >= nothing;
        D invalid = select(is_finite(row.peak), nothing, nan);
        row.exponentials = {fast_two_sum(sum.exponentials.rest.hi, sum.exponentials.rest.lo),
                            sum.exponentials.tops};
        row.weights = fast_two_sum(sum.weights.hi, sum.weights.lo);
        P log_sum = E::log_sum(row.exponentials.tops, row.exponentials.rest);
        P distances = two_sum(sum.distances.hi, sum.distances.lo);
        P loss = E::product(log_sum, row.weights);
        loss = {loss.hi + invalid, loss.lo};
        // An infinite distance has NaN as its error.
        Mask<Isa, double> regular = is_finite(sum.distances.hi);
        P both = add(distances, loss);
        loss = {select(regular, both.hi, sum.distances.hi + loss.hi),
                select(regular, both.lo, nothing)};
        loss = {select(used, loss.hi, nothing), select(used, loss.lo, nothing)};
        writer.write(first, n, loss, ~Mask<Isa, double>::zero());

        P whole = add(row.exponentials.rest, row.exponentials.tops * D::splat(E::scale));
        row.inverse = E::product(E::reciprocal(whole), gradient_scale);
        row.inverse.hi = row.inverse.hi + invalid;
    }
    template <class Form>
    void emit(Form, std::ptrdiff_t first_column, std::ptrdiff_t n, C* out, const C* const* in,
              const Row& row) const {
        D label = row.label - D::splat(static_cast<double>(first_column));
        Column<C> logits = {in[0], minus_infinity}, weights = {in[1], 0};
        if constexpr (indexed) {
            Form::map(
                n, out,
                [&](std::ptrdiff_t column, D x, D w) __attribute__((always_inline)) {
                    return gradient(row, x, weight_of(is_label<Form>(column, label), w));
                },
                logits, weights);
        } else {
            Form::map(
                n, out,
                [&](std::ptrdiff_t, D x, D w, D y)
                    __attribute__((always_inline)) { return gradient(row, x, weight_of(y, w)); },
                logits, weights, Column<C>{in[2], 0});
        }
    }

  private:
    template <class Form>
    [[gnu::always_inline]] static inline D is_label(std::ptrdiff_t column, D label) {
        return select(Form::columns(column) == label, D::splat(1), D::zero());
    }
    // w ((1 - s) y + s / C)
    [[gnu::always_inline]] inline P weight_of(D y, D w) const {
        return mul(add(mul(label_share, y), common_share), w);
    }
    [[gnu::always_inline]] inline D gradient(const Row& row, D x, P v) const {
        P whole_weight = E::product(E::exp_difference(x, row.peak), row.weights);
        P tops = mul(v, row.exponentials.tops * D::splat(-E::scale));
        P rest = E::negated(E::product(row.exponentials.rest, v));
        P numerator = add(add(whole_weight, tops), rest);
        D g = E::rounded_product(numerator, row.inverse);
        return select(row.label >= D::zero(), g, D::zero());
    }
};

template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> splat(double hi, double lo) {
    return {Vec<Isa, double>::splat(hi), Vec<Isa, double>::splat(lo)};
}

template <class Isa, class C>
struct CrossEntropy {
    using D = Vec<Isa, double>;
    using P = Pair<Isa>;
    // Rows whose losses are held at a time.
    static constexpr std::ptrdiff_t slab_rows = 8 * sum_block;

    const CrossEntropyArguments& a;
    double scale = 1;  // of all weights: 1 or rescue_scale

    // What the sum is divided by: for a mean the sum of the weights of the rows that are not
    // ignored, or the number of rows where labels are weights.
    P divisor() const {
        if (a.reduction != Reduction::mean) return splat<Isa>(scale, 0);
        if (a.indices == nullptr) return splat<Isa>(static_cast<double>(a.shape->rows) * scale, 0);
        P sum = splat<Isa>(0, 0);
        std::ptrdiff_t counted = 0;
        for (std::ptrdiff_t r = 0; r < a.shape->rows; ++r) {
            std::int64_t k = a.indices[r];
            if (k == a.ignore_index) continue;
            if (a.weight == nullptr) {
                ++counted;
            } else {
                sum = plus(sum, splat<Isa>(static_cast<const C*>(a.weight)[k] * scale, 0));
            }
        }
        return a.weight == nullptr ? splat<Isa>(static_cast<double>(counted) * scale, 0)
                                   : fast_two_sum(sum.hi, sum.lo);
    }

    // Whether it is worth trying again with rescue_scale.
    bool overflows(P total, P divisor) const {
        return sizeof(C) == 8 && scale == 1 &&
               any(~(is_finite(normalized(total).hi) & is_finite(divisor.hi)));
    }

    void run_rows(P gradient_scale, LossSlab slab, std::ptrdiff_t first,
                  std::ptrdiff_t count) const {
        LossWriter<Isa> writer = {*a.shape, a.losses, slab};
        if (a.indices != nullptr && a.smoothing == 0) {
            IndexLabels<Isa, C> op = {a, a.x, gradient_scale, scale, writer};
            RowDriver<Isa, C, IndexLabels<Isa, C>>{*a.shape, op, a.grad, {&a.x}, first, count}
                .run();
            return;
        }
        P share = mul(two_sum(D::splat(1), D::splat(-a.smoothing)), D::splat(scale));
        P common = div(splat<Isa>(a.smoothing * scale, 0),
                       splat<Isa>(static_cast<double>(a.shape->cols), 0));
        char one = 1;
        RowOperand ones = {};
        ones.data = &one;
        ones.type = Element::boolean;
        const RowOperand* weights = a.weight == nullptr ? &ones : a.weight_rows;
        auto with = [&]<bool indexed>(auto... labels) {
            using Op = WeightLabels<Isa, indexed>;
            Op op = {a, share, common, gradient_scale, writer};
            RowDriver<Isa, double, Op>{*a.shape, op,   a.grad, {&a.x, weights, labels...},
                                       first,    count}
                .run();
        };
        if (a.indices != nullptr) {
            with.template operator()<true>();
        } else {
            with.template operator()<false>(a.labels);
        }
    }

    void run() const {
        std::ptrdiff_t rows = a.shape->rows;
        if (a.reduction == Reduction::none) {
            run_rows(splat<Isa>(1, 0), {nullptr, nullptr, 0}, 0, rows);
            return;
        }
        P divisor = this->divisor();
        P gradient_scale = div(splat<Isa>(1, 0), divisor);
        P total = splat<Isa>(0, 0);
        // A few rows need no memory from elsewhere.
        constexpr std::ptrdiff_t few = 256;
        double near[2 * few];
        std::ptrdiff_t held = smaller<Isa>(rows, slab_rows);
        SharedBlock<Isa> block(held <= few ? 0
                                           : 2 * sizeof(double) * static_cast<std::size_t>(held));
        LossSlab slab;
        slab.hi = held <= few ? near : static_cast<double*>(block.data);
        slab.lo = slab.hi + held;
        for (slab.first = 0; slab.first < rows; slab.first += slab_rows) {
            std::ptrdiff_t count = smaller<Isa>(slab_rows, rows - slab.first);
            run_rows(gradient_scale, slab, slab.first, count);
            // A single sample is its own sum.
            if (count == 1) total = plus(total, splat<Isa>(slab.hi[0], slab.lo[0]));
            for (std::ptrdiff_t b = 0; count > 1 && b < count; b += sum_block)
                total = plus(total,
                             sum_of(slab.hi + b, slab.lo + b, smaller<Isa>(sum_block, count - b)));
        }
        if (overflows(total, divisor)) return CrossEntropy{a, rescue_scale}.run();
        C loss = reduced(total, divisor);
        write_elements<Isa>(a.losses.data, a.losses.type, &loss, 0, 1);
    }

    // The sum of all losses as the result, rounded once.
    static C reduced(P total, P divisor) {
        total = normalized(total);
        P result = div(total, divisor);
        // Double-length arithmetic makes NaN of infinities.
        return static_cast<C>(
            select(is_finite(result.hi), result.hi + result.lo, total.hi / divisor.hi)[0]);
    }

    // An infinite sum has NaN as its error.
    static P normalized(P a) {
        P s = two_sum(a.hi, a.lo);
        Mask<Isa, double> regular = is_finite(a.hi);
        return {select(regular, s.hi, a.hi), select(regular, s.lo, D::zero())};
    }
    static P sum_of(const double* hi, const double* lo, std::ptrdiff_t n) {
        using Form = Along<Isa, double>;
        Lanes<Form, P> sums(splat<Isa>(0, 0));
        Form::each(
            n,
            [&](int slot, std::ptrdiff_t, D h, D l) __attribute__((always_inline)) {
                sums.lane[slot] = plus(sums.lane[slot], P{h, l});
            },
            Column<double>{hi, 0}, Column<double>{lo, 0});
        return Form::fold(sums.lane, Plus{});
    }
};

template <class Isa, class C>
void softmax_cross_entropy(const CrossEntropyArguments& arguments) {
    CrossEntropy<Isa, C>{arguments}.run();
}

}  // namespace stableops
