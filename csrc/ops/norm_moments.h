#pragma once
// Mean and variance of rows (norm_rows.h has the segments and their order).
//
// The textbook's E[x^2] - E[x]^2 loses every digit where the mean is large against the deviation.
// Here a segment of n <= 4096 columns takes its first element K off: with d = x - K, S1 = sum d and
// S2 = sum d^2,
//
//   mean = K + S1 / n,   M2 = sum (x - mean)^2 = S2 - S1^2 / n,
//
// and segments are merged by Chan, Golub & LeVeque (1979), all of whose terms are positive:
//
//   delta = mean_b - mean_a,   mean = mean_a + delta n_b / n,
//   M2 = M2_a + M2_b + delta^2 n_a n_b / n.
//
// K is one of the elements, so (K - mean)^2 <= M2, and S2 <= (n + 1) M2: the difference loses at
// most 12 bits, and if K is no outlier none to three.
//   float32 arrays: d and the sums in float64. Sums of n / 16 + 4 additions: M2 has a relative
//   error below 2^-53 (256 + 4) (4096 + 1) < 2^-32, typically 2^-48. float64 arrays: d, d^2 and
//   both sums as hi + lo, S1^2 / n too: M2 has a relative error below 2^-50 + 2^-100 x 2^12, one or
//   two units of 2^-53 in practice; the mean is hi + lo too.
// Equal elements give d = 0, hence M2 = 0 and mean = K exactly.
//
// Squares of float64 overflow from 2^511 on, and with eps = 0 a variance may underflow: a row whose
// M2 shows it is done again, along, with every element multiplied by `prescale`, a power of two;
// whoever uses the moments multiplies likewise.
#include "norm_rows.h"

namespace stableops {

// A row a lane, or one row in every lane.
template <class Isa>
struct Moments {
    Pair<Isa> mean, m2;
};

template <class Isa>
[[gnu::always_inline]] inline Moments<Isa> merged(Moments<Isa> a, double na, Moments<Isa> b,
                                                  double nb) {
    using D = Vec<Isa, double>;
    D delta = (b.mean.hi - a.mean.hi) + (b.mean.lo - a.mean.lo);
    const double share = nb / (na + nb);
    Pair<Isa> m2 = plus(plus(a.m2, b.m2), as_pair(delta * delta * D::splat(na * share)));
    return {add(a.mean, delta * D::splat(share)), m2};
}

// The two sums of a lane.
template <class Isa, class C>
struct ShiftedSums {
    using D = Vec<Isa, double>;
    SumOf<Isa, C> s1, s2;

    [[gnu::always_inline]] inline void add_term(D x, D shift, D prescale) {
        if constexpr (sizeof(C) == 8) {
            Pair<Isa> d = two_sum(x * prescale, -shift);
            Pair<Isa> square = two_prod(d.hi, d.hi);
            square.lo = square.lo + (d.hi + d.hi) * d.lo;
            s1 = plus(s1, d);
            s2 = plus(s2, square);
        } else {
            D d = x - shift;
            s1 = s1 + d;
            s2 = s2 + d * d;
        }
    }
};
template <class Isa, class C>
[[gnu::always_inline]] inline ShiftedSums<Isa, C> no_sums() {
    return {no_sum<Isa, SumOf<Isa, C>>(), no_sum<Isa, SumOf<Isa, C>>()};
}

template <class Isa, class C>
[[gnu::always_inline]] inline Moments<Isa> moments_of(ShiftedSums<Isa, C> sums,
                                                      Vec<Isa, double> shift, double count) {
    using D = Vec<Isa, double>;
    D n = D::splat(count);
    Moments<Isa> m;
    if constexpr (sizeof(C) == 8) {
        const Pair<Isa> s1 = fast_two_sum(sums.s1.hi, sums.s1.lo);
        const Pair<Isa> s2 = fast_two_sum(sums.s2.hi, sums.s2.lo);
        D q = s1.hi / n;
        m.mean = two_sum(shift, q);
        m.mean.lo = m.mean.lo + (fma(-q, n, s1.hi) + s1.lo) / n;
        Pair<Isa> square = div(mul(s1, s1), as_pair(n));
        m.m2 = add(s2, Pair<Isa>{-square.hi, -square.lo});
    } else {
        D q = sums.s1 / n;
        m.mean = as_pair(shift + q);
        m.m2 = as_pair(sums.s2 - sums.s1 * q);
    }
    // Of two equal numbers the difference may round below 0.
    Mask<Isa, double> negative = m.m2.hi < D::zero();
    m.m2 = {select(negative, D::zero(), m.m2.hi), select(negative, D::zero(), m.m2.lo)};
    return m;
}

// Both sums folded: of a row in every lane, or of a channel a lane.
template <class Isa, class C, class Form, int slots>
[[gnu::always_inline]] inline ShiftedSums<Isa, C> folded(const ShiftedSums<Isa, C> (&sums)[slots]) {
    SumOf<Isa, C> s1[slots], s2[slots];
#pragma GCC unroll 16
    for (int k = 0; k < slots; ++k) {
        s1[k] = sums[k].s1;
        s2[k] = sums[k].s2;
    }
    return {Form::fold(s1, Plus{}), Form::fold(s2, Plus{})};
}

// In every lane.
template <class Isa, class C>
ShiftedSums<Isa, C> segment_shifted_sums(const SegmentData<C>& x, const Segment& s,
                                         bool fold_planes, double prescale) {
    using D = Vec<Isa, double>;
    constexpr int slots = sum_lanes / D::size;
    ShiftedSums<Isa, C> sums[slots], total = no_sums<Isa, C>();
#pragma GCC unroll 8
    for (int k = 0; k < slots; ++k) sums[k] = no_sums<Isa, C>();
    const double first = static_cast<double>(x.data[0]);
    const D shift = D::splat(first * prescale), scale = D::splat(prescale);
    for (std::ptrdiff_t k = 0; k < s.planes; ++k) {
        each_slot<Isa, C, 1>(
            s.n, {x.data + k * x.pitch}, {first},
            [&](int slot, std::ptrdiff_t, const D(&v)[1])
                __attribute__((always_inline)) { sums[slot].add_term(v[0], shift, scale); });
        if (!fold_planes && k + 1 < s.planes) continue;
        const ShiftedSums<Isa, C> plane = folded<Isa, C, Along<Isa, C>>(sums);
        total = {plus(total.s1, plane.s1), plus(total.s2, plane.s2)};
#pragma GCC unroll 8
        for (int j = 0; j < slots; ++j) sums[j] = no_sums<Isa, C>();
    }
    return total;
}
template <class Isa, class C>
Moments<Isa> segment_moments(const SegmentData<C>& x, const Segment& s, bool fold_planes,
                             double prescale) {
    using D = Vec<Isa, double>;
    return moments_of<Isa, C>(segment_shifted_sums<Isa>(x, s, fold_planes, prescale),
                              D::splat(static_cast<double>(x.data[0]) * prescale),
                              static_cast<double>(s.planes * s.n));
}

// The sums of channels [channel, channel + count) of a strip over a segment, in `strip_registers`
// registers at most, with these shifts.
template <class Isa, class C>
void strip_shifted_sums(const NormOperand& x, const Segment& s, std::ptrdiff_t channel,
                        std::ptrdiff_t count, const Vec<Isa, double> (&shift)[strip_registers],
                        ShiftedSums<Isa, C> (&result)[strip_registers]) {
    using D = Vec<Isa, double>;
    constexpr int lanes = D::size;
    ShiftedSums<Isa, C> sums[strip_registers][sum_lanes];
    for (int r = 0; r * lanes < count; ++r)
        for (int j = 0; j < sum_lanes; ++j) sums[r][j] = no_sums<Isa, C>();
    add_strip<Isa, C, 1>(
        s, {&x}, channel, count, sums,
        [&](int r, ShiftedSums<Isa, C>& sum, const D(&v)[1])
            __attribute__((always_inline)) { sum.add_term(v[0], shift[r], D::splat(1)); });
    for (int r = 0; r * lanes < count; ++r) result[r] = folded<Isa, C, Across<Isa, C>>(sums[r]);
}

// The moments of rows that are channels.
template <class Isa, class C>
void strip_moments(const NormOperand& x, const Segment& s, std::ptrdiff_t row, std::ptrdiff_t count,
                   Moments<Isa> (&moments)[strip_registers]) {
    using D = Vec<Isa, double>;
    constexpr int lanes = D::size;
    D shift[strip_registers];
    ShiftedSums<Isa, C> sums[strip_registers];
    const C* first = reinterpret_cast<const C*>(x.data + s.plane * x.plane_stride +
                                                s.begin * x.length_stride[0]) +
                     row;
    for (int r = 0; r * lanes < count; ++r) {
        const std::ptrdiff_t here = smaller<Isa>(count - r * lanes, std::ptrdiff_t{lanes});
        shift[r] = load_wide<Isa>(first + r * lanes, FirstLanes{static_cast<int>(here)}).part[0];
    }
    strip_shifted_sums<Isa, C>(x, s, row, count, shift, sums);
    for (int r = 0; r * lanes < count; ++r) {
        // As along, where the only plane's sums join an empty total.
        const ShiftedSums<Isa, C> none = no_sums<Isa, C>();
        moments[r] = moments_of<Isa, C>({plus(none.s1, sums[r].s1), plus(none.s2, sums[r].s2)},
                                        shift[r], static_cast<double>(s.planes * s.n));
    }
}

// What follows from the moments of a row of n columns. mean, variance and rstd are those of
// prescale x.
template <class Isa>
struct RowStatistics {
    using D = Vec<Isa, double>;
    Pair<Isa> mean;
    D variance, rstd;
    double prescale;

    RowStatistics(const Moments<Isa>& m, double n, double eps, double prescale)
        : mean(m.mean),
          variance((m.m2.hi + m.m2.lo) / D::splat(n)),
          rstd(D::splat(1) / sqrt(variance + D::splat(eps * prescale * prescale))),
          prescale(prescale) {}

    // One lane of another.
    RowStatistics(const RowStatistics& r, int lane)
        : mean{D::splat(r.mean.hi[lane]), D::splat(r.mean.lo[lane])},
          variance(D::splat(r.variance[lane])),
          rstd(D::splat(r.rstd[lane])),
          prescale(r.prescale) {}
};

// The power of two that a float64 row of these moments needs, or 1.
template <class Isa>
double prescale_for(double mean, double m2, double eps) {
    if (!(m2 < __builtin_inf())) return 0x1p-600;
    const bool tiny = m2 < 0x1p-800 && mean < 0x1p-300 && mean > -0x1p-300;
    return tiny && eps < 0x1p-200 ? 0x1p600 : 1;
}

template <class Isa, class C>
Moments<Isa> row_moments(const NormShape& shape, const NormOperand& x, std::ptrdiff_t row,
                         double prescale, C* scratch) {
    const Segments<Isa> segments(shape);
    Moments<Isa> total;
    double seen = 0;
    for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
        const Segment s = segments[i];
        const double n = static_cast<double>(s.planes * s.n);
        const Moments<Isa> m = segment_moments<Isa>(read_segment<Isa>(shape, x, row, s, scratch), s,
                                                    shape.planes_are_channels, prescale);
        total = i == 0 ? m : merged(total, seen, m, n);
        seen += n;
    }
    return total;
}

template <class Isa, class C>
RowStatistics<Isa> row_statistics(const NormShape& shape, const NormOperand& x, std::ptrdiff_t row,
                                  double eps, C* scratch) {
    const double n = static_cast<double>(shape.cols());
    Moments<Isa> m = row_moments<Isa>(shape, x, row, 1, scratch);
    if constexpr (sizeof(C) == 8) {
        const double prescale = prescale_for<Isa>(m.mean.hi[0], m.m2.hi[0], eps);
        if (prescale != 1) {
            m = row_moments<Isa>(shape, x, row, prescale, scratch);
            return {m, n, eps, prescale};
        }
    }
    return {m, n, eps, 1};
}

}  // namespace stableops
