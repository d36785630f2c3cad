#pragma once
// Binary cross-entropy of logits x and labels y, with weight w and positive weight p (1 by
// default):
//
//   loss = w (p y softplus(-x) + (1 - y) softplus(x))
//   grad = w ((1 - y) sigmoid(x) - p y sigmoid(-x)),   without "negatives" both lose the (1 - y)
//   term.
//
// Textbooks write log(sigmoid(x)), which is -inf below -709 (-88 in float32), or max(x, 0) - x y +
// log1p(exp(-|x|)), where x - x y cancels unless y is exactly 0 or 1; sigmoid(x) - y has no digits
// left for y = 1 and x > 17 (37 in float64). Here both logarithms are positive sums, and both
// sigmoids come from the same t = exp(-|x|) without a subtraction:
//
//   small = softplus(-|x|) = log1p(t), large = softplus(|x|) = |x| + log1p(t),
//   sigmoid(-|x|) = t / (1 + t), sigmoid(|x|) = 1 / (1 + t).
//
// With s = p y, l = 1 - y for x >= 0 and s = 1 - y, l = p y for x < 0 the loss is
// w (s small + l large) and the gradient +-w (l sigmoid(|x|) - s sigmoid(-|x|)).
//
// What can still cancel is part of the problem: the gradient where sigmoid(x) is near y strictly
// between 0 and 1, the loss where y is outside [0, 1] (or p < 0). Every term is therefore known to
// more digits than the result has, and where the result is small against its terms it is computed
// again:
//
//   float32   terms in float64 with 2^-45. If the sum is below 2^-18 of a term: the float64 way.
//             Error: 0.5 units in the last place (2^-24 of the result) + 2^-45 / 2^-18.
//   float64   terms as hi + lo with 2^-58. If the sum is below 2^-7 of a term: double-length with
//             2^-100. Error: 0.5 units (2^-53) + 2^-58 / 2^-7 for losses with y outside [0, 1] and
//             gradients with y strictly inside; 0.5 + 2^-58 without cancellation. A sum that
//             cancels to below 2^-46 of its terms has the digits that 2^-100 leaves it.
//   float16, bfloat16 as float32, rounded once more.
//
// A term with y or 1 - y equal to 0 is dropped, so x = inf with y = 1 and x = -inf with y = 0 have
// loss and gradient 0, and p does not count where y is 0; the other infinities give an infinite
// loss. NaN anywhere else gives NaN.
//
// Sums ("sum", "mean") run in C order of the elements whatever the layout: blocks of 8192 elements;
// in a block 16 lanes of float64, lane j adds the elements j, j + 16, ...; lane j absorbs lane j +
// 8, then 4, 2, 1; the blocks' sums are added in order. float64 losses enter as hi + lo and are
// added double-length, those of the other dtypes as float64 before they are rounded. Where a sum of
// float64 losses overflows, they are added again, scaled down: the mean may be a number.
#include "../elementwise_plan.h"
#include "../reduction.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../simd/logistic.h"

namespace stableops {

// small * 2^exponent stands in for the functions of -|x|; those of |x| are of ordinary size.
template <class Isa>
struct LogisticTerms {
    Scaled<Isa> small, sigmoid_small;
    Pair<Isa> large, sigmoid_large;
};

template <class Isa>
[[gnu::always_inline]] inline LogisticTerms<Isa> logistic_terms(Vec<Isa, double> magnitude) {
    using D = Vec<Isa, double>;
    ExpOfMinusAbs<Isa> t = exp_of_minus_abs(magnitude);
    Scaled<Isa> small = softplus_pair(-magnitude, t);
    Scaled<Isa> sigmoid_small = sigmoid_pair(-magnitude, t);
    D scale = power_of_two(max(small.exponent, D::splat(-1000)));
    Pair<Isa> large = add(Pair<Isa>{small.value.hi * scale, small.value.lo * scale}, magnitude);
    return {small, sigmoid_small, large, sigmoid_pair(magnitude, t).value};
}

// The same with a relative error below 2^-99. Below -75, log1p(t) is t to 2^-109.
template <class Isa>
[[gnu::always_inline]] inline LogisticTerms<Isa> logistic_terms_wide(Vec<Isa, double> magnitude) {
    using D = Vec<Isa, double>;
    Pair<Isa> one = {D::splat(1), D::zero()};
    Scaled<Isa> e = exp_wide(Pair<Isa>{-magnitude, D::zero()});
    D scale = power_of_two(max(e.exponent, D::splat(-200)));
    Pair<Isa> t = {e.value.hi * scale, e.value.lo * scale};
    Pair<Isa> l = log1p_wide(t);
    Pair<Isa> d = add(t, D::splat(1));
    Mask<Isa, double> far = magnitude > D::splat(75);
    LogisticTerms<Isa> r;
    r.small = {{select(far, e.value.hi, l.hi), select(far, e.value.lo, l.lo)},
               select(far, e.exponent, D::zero())};
    r.sigmoid_small = {div(e.value, d), e.exponent};
    r.large = add(l, magnitude);
    r.sigmoid_large = div(one, d);
    return r;
}

// Loss and gradient of a float64 vector, and where they are below 2^-7 of their terms.
template <class Isa>
struct CrossEntropy {
    Scaled<Isa> loss, grad;
    Mask<Isa, double> cancels;
};

// What multiplies the functions of -|x| and of |x|.
template <class Isa>
struct Coefficients {
    Pair<Isa> small, large;
};

template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> select(Mask<Isa, double> mask, Pair<Isa> yes,
                                               Pair<Isa> no) {
    return {select(mask, yes.hi, no.hi), select(mask, yes.lo, no.lo)};
}

template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> operator^(Pair<Isa> a, Mask<Isa, double> signs) {
    return {from_bits<double>(bits(a.hi) ^ signs), from_bits<double>(bits(a.lo) ^ signs)};
}

// a b, also where that is infinite and so has no low part.
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> mul_to_infinity(Pair<Isa> a, Vec<Isa, double> b) {
    Pair<Isa> p = mul(a, b);
    return select(is_nan(p.hi), Pair<Isa>{a.hi * b, Vec<Isa, double>::zero()}, p);
}

// Where the result may be subnormal (deep: small below 2^-500 and l below 2^-300) l is multiplied
// by 2^-exponent instead of small by 2^exponent, and the exponent is left for the end.
template <class Isa>
[[gnu::always_inline]] inline CrossEntropy<Isa> combine(const LogisticTerms<Isa>& terms,
                                                        const Coefficients<Isa>& c,
                                                        Mask<Isa, double> negative) {
    using D = Vec<Isa, double>;
    const D magic = D::splat(rounding_magic);
    D k = max(terms.sigmoid_small.exponent, D::splat(-1140));
    Mask<Isa, double> deep = (k < D::splat(-500)) & (abs(c.large.hi) < D::splat(0x1p-300));
    D exponent = select(deep, k, D::zero());
    D half = fma(exponent, D::splat(0.5), magic) - magic;
    D up = power_of_two(-half), up_rest = power_of_two(half - exponent);
    Pair<Isa> l = {c.large.hi * up * up_rest, c.large.lo * up * up_rest};
    auto small_term = [&](const Scaled<Isa>& s) [[gnu::always_inline]] {
        D down = power_of_two(select(deep, D::zero(), max(s.exponent, D::splat(-1000))));
        return mul(Pair<Isa>{s.value.hi * down, s.value.lo * down}, c.small);
    };
    Pair<Isa> none = {D::zero(), D::zero()};
    Pair<Isa> loss_large = select(c.large.hi == D::zero(), none, mul(l, terms.large));
    Pair<Isa> loss = add(small_term(terms.small), loss_large);
    Pair<Isa> grad_large = mul(l, terms.sigmoid_large);
    Mask<Isa, double> sign = bits(D::splat(-0.0));
    Pair<Isa> grad =
        add(small_term(terms.sigmoid_small) ^ (~negative & sign), grad_large ^ (negative & sign));
    // Either term may stand for both: where they cancel they are nearly equal.
    const D limit = D::splat(0x1p-7);
    Mask<Isa, double> cancels =
        (abs(loss.hi) < limit * abs(loss_large.hi)) | (abs(grad.hi) < limit * abs(grad_large.hi));
    return {{loss, exponent}, {grad, exponent}, cancels};
}

template <class Isa>
[[gnu::noinline]] void cross_entropy_wide(Vec<Isa, double> magnitude, const Coefficients<Isa>& c,
                                          Mask<Isa, double> negative, CrossEntropy<Isa>& r) {
    CrossEntropy<Isa> wide = combine(logistic_terms_wide(magnitude), c, negative);
    r.loss.value = select(r.cancels, wide.loss.value, r.loss.value);
    r.grad.value = select(r.cancels, wide.grad.value, r.grad.value);
}

// A product p y that is NaN with y = 0.
template <class Isa>
[[gnu::always_inline]] inline Mask<Isa, double> is_dropped(Vec<Isa, double> product,
                                                           Vec<Isa, double> y) {
    return is_nan(product) & (y == Vec<Isa, double>::zero());
}

// Loss and gradient in float64, before w.
template <class Isa>
[[gnu::always_inline]] inline CrossEntropy<Isa> cross_entropy_pair(Vec<Isa, double> x,
                                                                   Vec<Isa, double> y,
                                                                   Vec<Isa, double> pos_weight,
                                                                   bool negatives) {
    using D = Vec<Isa, double>;
    Mask<Isa, double> negative = x < D::zero();
    Pair<Isa> rest = two_sum(D::splat(negatives ? 1 : 0), negatives ? -y : D::zero());
    Pair<Isa> positive = two_prod(pos_weight, y);
    Mask<Isa, double> dropped = is_dropped(positive.hi, y);
    positive = select(dropped, Pair<Isa>{D::zero(), D::zero()}, positive);
    Coefficients<Isa> c = {select(negative, rest, positive), select(negative, positive, rest)};
    D magnitude = abs(x);
    LogisticTerms<Isa> terms = logistic_terms(magnitude);
    CrossEntropy<Isa> r = combine(terms, c, negative);
    if (any(r.cancels)) [[unlikely]]
        cross_entropy_wide(magnitude, c, negative, r);
    Mask<Isa, double> nan = is_nan(r.loss.value.hi + r.loss.value.lo);
    if (any(nan)) [[unlikely]] {
        // Double-length arithmetic makes NaN of infinities; the plain formula does not.
        D small = ldexp(terms.small.value, terms.small.exponent);
        D large = select(c.large.hi == D::zero(), D::zero(), (magnitude + small) * c.large.hi);
        r.loss.value =
            select(nan, Pair<Isa>{fma(small, c.small.hi, large), D::zero()}, r.loss.value);
        r.loss.exponent = select(nan, D::zero(), r.loss.exponent);
    }
    return r;
}

// Operands of one vector; loss before it is rounded to T, gradient after.
template <class Isa, Storage T>
struct CrossEntropyVectors {
    static constexpr int parts = std::is_same_v<T, double> ? 1 : 2;
    using V = Vec<Isa, Compute<T>>;
    V x, y, weight, pos_weight;
    Pair<Isa> loss[parts];
    V grad;
};

template <class Isa>
struct CrossEntropyOptions {
    bool negatives;
    // What the gradient of the reduced loss is multiplied by: 1, or 1/n as hi + lo.
    Pair<Isa> grad_scale;
    double loss_scale = 1;  // of float64
};

// One part of a vector, in float64: the loss as hi + lo (hi rounded from both), the rounded
// gradient.
template <class Isa>
[[gnu::always_inline]] inline void cross_entropy_part(Vec<Isa, double> x, Vec<Isa, double> y,
                                                      Vec<Isa, double> weight,
                                                      Vec<Isa, double> pos_weight,
                                                      const CrossEntropyOptions<Isa>& options,
                                                      Pair<Isa>& loss, Vec<Isa, double>& grad) {
    using D = Vec<Isa, double>;
    CrossEntropy<Isa> r = cross_entropy_pair(x, y, pos_weight, options.negatives);
    Pair<Isa> scaled = mul_to_infinity(r.loss.value, weight);
    D lo = scaled.lo - ((scaled.hi + scaled.lo) - scaled.hi);
    loss = {ldexp(scaled, r.loss.exponent), select(r.loss.exponent == D::zero(), lo, D::zero())};
    loss.lo = select(is_nan(loss.lo), D::zero(), loss.lo);
    grad = ldexp(mul(mul_to_infinity(r.grad.value, weight), options.grad_scale), r.grad.exponent);
}

// The lanes of `where` again, in the float64 way; the others keep what they have, or an element's
// bits would depend on its neighbours.
template <class Isa>
[[gnu::noinline]] void cross_entropy_careful(Vec<Isa, double> x, Vec<Isa, double> y,
                                             Vec<Isa, double> weight, Vec<Isa, double> pos_weight,
                                             Mask<Isa, double> where,
                                             const CrossEntropyOptions<Isa>& options,
                                             Pair<Isa>& loss, Vec<Isa, double>& grad) {
    Pair<Isa> careful_loss;
    Vec<Isa, double> careful_grad;
    cross_entropy_part(x, y, weight, pos_weight, options, careful_loss, careful_grad);
    loss = select(where, careful_loss, loss);
    grad = select(where, careful_grad, grad);
}

// The float32 way of one part; returns where the float64 way is needed. Beyond |x| = 700, where the
// result is 0 or x in float32, t is exp(-700).
template <bool with_grad, bool weighted, class Isa>
[[gnu::always_inline]] inline Mask<Isa, double> cross_entropy_fast(
    Vec<Isa, double> x, Vec<Isa, double> y, Vec<Isa, double> weight, Vec<Isa, double> pos_weight,
    const CrossEntropyOptions<Isa>& options, Pair<Isa>& loss, Vec<Isa, double>& grad) {
    using D = Vec<Isa, double>;
    const D limit = D::splat(0x1p-18);
    D magnitude = abs(x);
    D t = exp_fast(-min(D::splat(700), magnitude));
    D small = add_log1p_unit_fast(D::zero(), t);
    Mask<Isa, double> negative = x < D::zero();
    D rest = options.negatives ? D::splat(1) - y : D::zero();
    D positive = weighted ? pos_weight * y : y;
    if constexpr (weighted) positive = select(is_dropped(positive, y), D::zero(), positive);
    D s = select(negative, rest, positive);
    D l = select(negative, positive, rest);
    D large = select(l == D::zero(), D::zero(), l * (magnitude + small));
    D sum = fma(s, small, large);
    loss = {weighted ? sum * weight : sum, D::zero()};
    Mask<Isa, double> cancels = abs(sum) < limit * abs(large);
    if constexpr (with_grad) {
        D q = reciprocal_fast(D::splat(1) + t);
        D grad_large = l * q;
        D difference = grad_large - s * (t * q);
        cancels = cancels | (abs(difference) < limit * abs(grad_large));
        Mask<Isa, double> flip = negative & bits(D::splat(-0.0));
        difference = from_bits<double>(bits(difference) ^ flip);
        grad = (weighted ? difference * weight : difference) * options.grad_scale.hi;
    }
    return cancels;
}

template <bool with_grad, bool weighted, class Isa, Storage T>
[[gnu::always_inline]] inline void cross_entropy(CrossEntropyVectors<Isa, T>& v,
                                                 const CrossEntropyOptions<Isa>& options) {
    if constexpr (std::is_same_v<T, double>) {
        cross_entropy_part(v.x, v.y, v.weight, v.pos_weight, options, v.loss[0], v.grad);
    } else {
        using D = Vec<Isa, double>;
        D grad[2] = {};
        const D x[2] = {widen_low(v.x), widen_high(v.x)};
        const D y[2] = {widen_low(v.y), widen_high(v.y)};
        const D weight[2] = {widen_low(v.weight), widen_high(v.weight)};
        const D pos_weight[2] = {widen_low(v.pos_weight), widen_high(v.pos_weight)};
        Mask<Isa, double> cancels[2];
        for (int part = 0; part < 2; ++part)
            cancels[part] = cross_entropy_fast<with_grad, weighted>(x[part], y[part], weight[part],
                                                                    pos_weight[part], options,
                                                                    v.loss[part], grad[part]);
        if (any(cancels[0] | cancels[1])) [[unlikely]]
            for (int part = 0; part < 2; ++part)
                cross_entropy_careful(x[part], y[part], weight[part], pos_weight[part],
                                      cancels[part], options, v.loss[part], grad[part]);
        v.grad = narrow(grad[0], grad[1]);
    }
}

constexpr int cross_entropy_lanes = 16;
// Elements that are gathered at a time where an operand is not contiguous.
constexpr std::ptrdiff_t cross_entropy_chunk = 1024;
constexpr std::ptrdiff_t loss_blocks_per_task = 4;

// The lanes of a block's sum, 16 / size registers of them.
template <class Isa>
struct SumLanes {
    static constexpr int slots = cross_entropy_lanes / Vec<Isa, double>::size;
    Pair<Isa> slot[slots];

    [[gnu::always_inline]] inline void add(int s, Pair<Isa> term) {
        Pair<Isa> sum = two_sum(slot[s].hi, term.hi);
        slot[s] = {sum.hi, slot[s].lo + (sum.lo + term.lo)};
    }
    // For float32 losses, whose rounding is 2^-24: float64 lanes are enough.
    [[gnu::always_inline]] inline void add(int s, Vec<Isa, double> term) {
        slot[s].hi = slot[s].hi + term;
    }
};

template <class Isa>
[[gnu::always_inline]] inline LongSum long_add(LongSum a, LongSum b) {
    double s = a.hi + b.hi;
    double bb = s - a.hi;
    double error = (a.hi - (s - bb)) + (b.hi - bb);
    return {s, error + (a.lo + b.lo)};
}

template <class Isa>
LongSum fold(const SumLanes<Isa>& lanes) {
    constexpr int size = Vec<Isa, double>::size;
    LongSum lane[cross_entropy_lanes];
    for (int j = 0; j < cross_entropy_lanes; ++j)
        lane[j] = {lanes.slot[j / size].hi[j % size], lanes.slot[j / size].lo[j % size]};
    for (int apart = cross_entropy_lanes / 2; apart >= 1; apart /= 2)
        for (int j = 0; j < apart; ++j) lane[j] = long_add<Isa>(lane[j], lane[j + apart]);
    return lane[0];
}

// Elements [first, first + n) of an operand, counted in the order of the plan, to or from `line`.
template <class Isa, int operands, class T, class Move>
[[gnu::always_inline]] inline void walk(const ElementwisePlan<operands>& plan, int operand,
                                        std::ptrdiff_t first, std::ptrdiff_t n, const Move& move) {
    const std::ptrdiff_t length = plan.line_length();
    const std::ptrdiff_t stride = plan.line_stride(operand);
    std::ptrdiff_t done = 0;
    while (done < n) {
        std::ptrdiff_t rest = first + done;
        const std::ptrdiff_t column = rest % length;
        rest /= length;
        std::ptrdiff_t offset = column * stride;
        for (int d = plan.ndim - 2; d >= 0; --d) {
            offset += rest % plan.size[d] * plan.stride[operand][d];
            rest /= plan.size[d];
        }
        std::ptrdiff_t count = length - column;
        if (count > n - done) count = n - done;
        for (std::ptrdiff_t i = 0; i < count; ++i) move(offset + i * stride, done + i);
        done += count;
    }
}

// The four inputs of a chunk as contiguous lines: where they lie, or gathered, or ones.
template <class Isa, Storage T>
[[gnu::always_inline]] inline const T* line_of(const ElementwisePlan<6>& plan, int operand,
                                               const T* data, std::ptrdiff_t first,
                                               std::ptrdiff_t n, T* scratch) {
    if (plan.ndim == 1 && plan.line_stride(operand) == 1) return data + first;
    walk<Isa, 6, T>(plan, operand, first, n,
                    [&](std::ptrdiff_t from, std::ptrdiff_t to)
                        [[gnu::always_inline]] { scratch[to] = data[from]; });
    return scratch;
}

// Results of this size are written past the caches (elementwise.h has measured it); they are new
// arrays and aligned then.
constexpr std::ptrdiff_t loss_stream_bytes = std::ptrdiff_t{32} << 20;

template <class Isa, Storage T, class Lanes>
[[gnu::always_inline]] inline void put(T* p, Vec<Isa, Compute<T>> v, bool streams, Lanes lanes) {
    if constexpr (std::is_same_v<T, Compute<T>> && std::is_same_v<Lanes, AllLanes>) {
        if (streams) {
            stream<Isa>(p, v);
            return;
        }
    }
    store<Isa>(p, v, lanes);
}

template <class Isa, Storage T, bool with_grad, bool weighted>
void cross_entropy_task(const ElementwisePlan<6>& plan, std::ptrdiff_t task, std::ptrdiff_t total,
                        T* loss, T* grad, LongSum* block_sums, const T* logits, const T* labels,
                        const T* weight, const T* pos_weight,
                        const CrossEntropyOptions<Isa>& options) {
    using V = Vec<Isa, Compute<T>>;
    using D = Vec<Isa, double>;
    constexpr int parts = CrossEntropyVectors<Isa, T>::parts;
    T* scratch = static_cast<T*>(thread_scratch(6 * sizeof(T) * cross_entropy_chunk));
    T* const spare_loss = scratch + 4 * cross_entropy_chunk;
    T* const spare_grad = scratch + 5 * cross_entropy_chunk;
    const bool streams = total * static_cast<std::ptrdiff_t>(sizeof(T)) >= loss_stream_bytes;
    const bool direct_loss = plan.ndim == 1 && plan.line_stride(0) == 1;
    const bool direct_grad = plan.ndim == 1 && plan.line_stride(1) == 1;
    for (std::ptrdiff_t b = 0; b < loss_blocks_per_task; ++b) {
        const std::ptrdiff_t block = task * loss_blocks_per_task + b;
        const std::ptrdiff_t begin = block * loss_block;
        if (begin >= total) break;
        std::ptrdiff_t end = begin + loss_block;
        if (end > total) end = total;
        SumLanes<Isa> sums = {};
        for (std::ptrdiff_t first = begin; first < end; first += cross_entropy_chunk) {
            std::ptrdiff_t n = end - first;
            if (n > cross_entropy_chunk) n = cross_entropy_chunk;
            const T* x = line_of<Isa>(plan, 2, logits, first, n, scratch);
            const T* y = line_of<Isa>(plan, 3, labels, first, n, scratch + cross_entropy_chunk);
            const T* w = weight == nullptr ? nullptr
                                           : line_of<Isa>(plan, 4, weight, first, n,
                                                          scratch + 2 * cross_entropy_chunk);
            const T* p = pos_weight == nullptr ? nullptr
                                               : line_of<Isa>(plan, 5, pos_weight, first, n,
                                                              scratch + 3 * cross_entropy_chunk);
            T* loss_line = loss == nullptr ? nullptr : direct_loss ? loss + first : spare_loss;
            T* grad_line = grad == nullptr ? nullptr : direct_grad ? grad + first : spare_grad;
            auto vector = [&](std::ptrdiff_t i, int first_slot, auto lanes) [[gnu::always_inline]] {
                // As in elementwise.h: the processor's own prefetching is too short-sighted.
                __builtin_prefetch(x + i + 2048 / sizeof(T));
                __builtin_prefetch(y + i + 2048 / sizeof(T));
                CrossEntropyVectors<Isa, T> v;
                v.x = load<Isa>(x + i, lanes);
                v.y = load<Isa>(y + i, lanes);
                v.weight = w == nullptr ? V::splat(1) : load<Isa>(w + i, lanes);
                v.pos_weight = p == nullptr ? V::splat(1) : load<Isa>(p + i, lanes);
                if constexpr (parts == 1) v.weight = v.weight * V::splat(options.loss_scale);
                cross_entropy<with_grad, weighted>(v, options);
                if (loss_line != nullptr) {
                    if constexpr (parts == 1) {
                        put<Isa>(loss_line + i, v.loss[0].hi, direct_loss && streams, lanes);
                    } else {
                        put<Isa>(loss_line + i, narrow(v.loss[0].hi, v.loss[1].hi),
                                 direct_loss && streams, lanes);
                    }
                } else {
                    for (int part = 0; part < parts; ++part) {
                        if constexpr (std::is_same_v<decltype(lanes), FirstLanes>) {
                            for (int j = 0; j < D::size; ++j)
                                if (part * D::size + j >= lanes.count)
                                    v.loss[part].hi.raw[j] = v.loss[part].lo.raw[j] = 0;
                        }
                        if constexpr (parts == 1) {
                            sums.add(first_slot, v.loss[0]);
                        } else {
                            sums.add(first_slot + part, v.loss[part].hi);
                        }
                    }
                }
                if constexpr (with_grad)
                    put<Isa>(grad_line + i, v.grad, direct_grad && streams, lanes);
            };
            std::ptrdiff_t i = 0;
            for (; i + cross_entropy_lanes <= n; i += cross_entropy_lanes)
#pragma GCC unroll 8
                for (int j = 0; j < cross_entropy_lanes; j += V::size)
                    vector(i + j, j / D::size, AllLanes{});
            for (int j = 0; i + j < n; j += V::size) {
                if (i + j + V::size <= n) {
                    vector(i + j, j / D::size, AllLanes{});
                } else {
                    vector(i + j, j / D::size, FirstLanes{static_cast<int>(n - i - j)});
                }
            }
            if (loss_line == spare_loss)
                walk<Isa, 6, T>(plan, 0, first, n,
                                [&](std::ptrdiff_t to, std::ptrdiff_t from)
                                    [[gnu::always_inline]] { loss[to] = spare_loss[from]; });
            if (grad_line == spare_grad)
                walk<Isa, 6, T>(plan, 1, first, n,
                                [&](std::ptrdiff_t to, std::ptrdiff_t from)
                                    [[gnu::always_inline]] { grad[to] = spare_grad[from]; });
        }
        if (loss == nullptr) block_sums[block] = fold(sums);
    }
    if (streams) stream_fence<Isa>();
}

// (hi + lo) / n, rounded once.
template <class Isa>
double quotient_of(LongSum sum, double n) {
    using D = Vec<Isa, double>;
    double value = sum.hi + sum.lo;
    double q = value / n;
    if (!(q - q == 0)) return sum.hi / n;
    D rest = fma(D::splat(-q), D::splat(n), D::splat(value));
    double lo = sum.lo - (value - sum.hi);
    return q + (rest[0] + lo) / n;
}

// loss: every element (Reduction::none) or the reduced one, for which sums holds a LongSum for
// every loss_block elements. grad, weight and pos_weight may be null. The plan's operands are loss,
// grad, logits, labels, weight, pos_weight; its order is C order unless the reduction is none.
template <class Isa, Storage T>
void sigmoid_cross_entropy(const ElementwisePlan<6>& plan, T* loss, T* grad, LongSum* sums,
                           const T* logits, const T* labels, const T* weight, const T* pos_weight,
                           bool negatives, Reduction reduction) {
    using D = Vec<Isa, double>;
    std::ptrdiff_t total = 1;
    for (int d = 0; d < plan.ndim; ++d) total *= plan.size[d];
    const double n = static_cast<double>(total);
    CrossEntropyOptions<Isa> options = {negatives, {D::splat(1), D::zero()}};
    if (reduction == Reduction::mean) {
        D inverse = D::splat(1) / D::splat(n);
        options.grad_scale = {inverse, fma(-inverse, D::splat(n), D::splat(1)) / D::splat(n)};
    }
    T* const losses = reduction == Reduction::none ? loss : nullptr;
    const std::ptrdiff_t blocks = (total + loss_block - 1) / loss_block;
    const std::ptrdiff_t tasks = (blocks + loss_blocks_per_task - 1) / loss_blocks_per_task;
    // Only float32 gains from a variant without weights.
    constexpr bool has_unweighted = std::is_same_v<T, float>;
    const bool unweighted = has_unweighted && weight == nullptr && pos_weight == nullptr;
    const auto run = [&]<bool with_grad, bool weighted>() {
        parallel_for<Isa>(tasks, [&](std::ptrdiff_t task) {
            cross_entropy_task<Isa, T, with_grad, weighted>(
                plan, task, total, losses, grad, sums, logits, labels, weight, pos_weight, options);
        });
    };
    if (grad != nullptr) {
        unweighted ? run.template operator()<true, !has_unweighted>()
                   : run.template operator()<true, true>();
    } else {
        unweighted ? run.template operator()<false, !has_unweighted>()
                   : run.template operator()<false, true>();
    }
    if (reduction == Reduction::none) return;
    const auto reduced = [&] {
        LongSum sum = sums[0];
        for (std::ptrdiff_t b = 1; b < blocks; ++b) sum = long_add<Isa>(sum, sums[b]);
        const double divisor = reduction == Reduction::mean ? n : 1;
        return quotient_of<Isa>(sum, divisor * options.loss_scale);
    };
    double value = reduced();
    if constexpr (std::is_same_v<T, double>) {
        if (!(value - value == 0)) {
            options.loss_scale = 0x1p-128;
            grad = nullptr;
            run.template operator()<false, true>();
            value = reduced();
        }
        *loss = value;
    } else {
        store<Isa>(loss, narrow(D::splat(value), D::splat(value)), FirstLanes{1});
    }
}

}  // namespace stableops
