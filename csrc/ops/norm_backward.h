#pragma once
// Gradients of the normalisations. With d = x - mean, u = weight grad_y and N columns a row,
//
//   G = sum u,   H = sum u d,
//   grad_x      = rstd (u - G / N - d rstd^2 H / N)
//   grad_weight = sum over its elements of grad_y d rstd,   grad_bias = sum of grad_y.
//
// With given statistics (constant) grad_x = rstd u.
//
// The saved mean is rounded; where the deviation is small against it that is an error in every d.
// For float64 arrays it shows in D = sum d, which would be 0: d - D / N and H - G D / N are what an
// exact mean gives. For float32 arrays a mean in float64 has digits enough. Sums are those of
// norm_rows.h: float64, for float64 arrays with the rounding errors of the additions. grad_x is
// computed in float64 from these and rounded once.
//
// Weights that are constant along the length of a plane (group norm) take sums plane by plane, so
// that grad_weight needs no second pass. Weights that vary along it (layer norm) have columns of
// their own to add to, in tasks of rows that do not depend on the number of threads.
#include "norm.h"

namespace stableops {

// What is added up, of (grad_y, x): terms[0 .. count).
template <class Isa, class C>
struct GradientTerms {
    using D = Vec<Isa, double>;
    static constexpr int count = sizeof(C) == 8 ? 3 : 2;
    D mean, prescale;

    [[gnu::always_inline]] inline void operator()(const D (&in)[2], D (&terms)[count]) const {
        D d;
        if constexpr (sizeof(C) == 8) {
            d = in[1] * prescale - mean;
            terms[2] = d;
        } else {
            d = in[1] - mean;
        }
        terms[0] = in[0];
        terms[1] = in[0] * d;
    }
};

template <class Isa>
struct NegativeTerms {
    using D = Vec<Isa, double>;
    static constexpr int count = 1;

    [[gnu::always_inline]] inline void operator()(const D (&in)[2], D (&terms)[1]) const {
        terms[0] = select(in[1] > D::zero(), D::zero(), in[0] * in[1]);
    }
};

// Sums of a row, or of a row a lane.
template <class Isa, int count>
struct RowSums {
    Pair<Isa> sum[count];

    [[gnu::always_inline]] inline void add_segment(const RowSums& other) {
#pragma GCC unroll 3
        for (int t = 0; t < count; ++t) sum[t] = plus(sum[t], other.sum[t]);
    }
    [[gnu::always_inline]] inline Vec<Isa, double> value(int t) const {
        return sum[t].hi + sum[t].lo;
    }
};

template <class Isa, class C>
using GradientSums = RowSums<Isa, GradientTerms<Isa, C>::count>;
template <class Isa, class C>
[[gnu::always_inline]] inline GradientSums<Isa, C> no_gradient() {
    GradientSums<Isa, C> sums;
    for (Pair<Isa>& sum : sums.sum) sum = no_sum<Isa, Pair<Isa>>();
    return sums;
}

// Weights of positions [i, i + lanes), of n. What lies beyond is the next group's, which may be
// infinite.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> weights_at(const double* weight, std::ptrdiff_t i,
                                                          std::ptrdiff_t n) {
    return load_some<Isa>(weight + i, larger<Isa>(n - i, std::ptrdiff_t{0}));
}

// `beyond_x` gives no term with a gradient of 0. weight: at the position, or nullptr.
template <class Isa, class C, class Terms>
[[gnu::always_inline]] inline RowSums<Isa, Terms::count> segment_sums(
    SegmentData<C> g, SegmentData<C> x, std::ptrdiff_t planes, std::ptrdiff_t n,
    const Terms& terms_of, double beyond_x, const double* weight) {
    using D = Vec<Isa, double>;
    constexpr int slots = sum_lanes / D::size;
    SumOf<Isa, C> sums[Terms::count][slots];
#pragma GCC unroll 3
    for (int t = 0; t < Terms::count; ++t)
#pragma GCC unroll 8
        for (int k = 0; k < slots; ++k) sums[t][k] = no_sum<Isa, SumOf<Isa, C>>();
    const auto add = [&](auto weighted) __attribute__((always_inline)) {
        for (std::ptrdiff_t k = 0; k < planes; ++k)
            each_slot<Isa, C, 2>(n, {g.data + k * g.pitch, x.data + k * x.pitch}, {0, beyond_x},
                                 [&](int slot, std::ptrdiff_t i, D(&v)[2])
                                     __attribute__((always_inline)) {
                                         if constexpr (decltype(weighted)::value)
                                             v[0] = v[0] * weights_at<Isa>(weight, i, n);
                                         D terms[Terms::count];
                                         terms_of(v, terms);
#pragma GCC unroll 3
                                         for (int t = 0; t < Terms::count; ++t)
                                             join(sums[t][slot], terms[t]);
                                     });
    };
    if (weight) {
        add(std::true_type{});
    } else {
        add(std::false_type{});
    }
    RowSums<Isa, Terms::count> result;
#pragma GCC unroll 3
    for (int t = 0; t < Terms::count; ++t)
        result.sum[t] = as_pair(Along<Isa, C>::fold(sums[t], Plus{}));
    return result;
}

// grad_x = p u' - c - ((x - mean) - rest) t, with p holding the weight if it is one for the row or
// plane. For float32 arrays rest is 0.
template <class Isa>
struct RowGradient {
    using D = Vec<Isa, double>;
    D mean, rest, prescale, rstd, c, t;
    D scaled_rstd;  // of prescaled x
};

// The power of two below an extreme rstd, so that rstd / prescale and (x - mean) prescale are near
// 1 and no product of them leaves the range.
template <class Isa>
double gradient_prescale(double rstd, bool prescales) {
    if (!prescales || !(rstd < 0x1p-500 || rstd > 0x1p500)) return 1;
    if (rstd < 0x1p-1022) return 0x1p-1022;
    const std::uint64_t bits = __builtin_bit_cast(std::uint64_t, rstd) & 0x7ff0000000000000u;
    return rstd <= 0x1.fffffffffffffp1023 ? __builtin_bit_cast(double, bits) : 0x1p1023;
}

template <class Isa, int count>
RowGradient<Isa> row_gradient(const RowSums<Isa, count>& s, double n, Vec<Isa, double> mean,
                              Vec<Isa, double> rstd, Vec<Isa, double> prescale,
                              Vec<Isa, double> weight, bool constant) {
    using D = Vec<Isa, double>;
    RowGradient<Isa> r;
    r.mean = mean * prescale;
    r.prescale = prescale;
    r.rstd = rstd;
    D scaled = rstd / prescale;
    r.scaled_rstd = scaled;
    r.rest = D::zero();
    D h = s.value(1);
    if constexpr (count == 3) {
        r.rest = s.value(2) / D::splat(n);
        h = h - r.rest * s.value(0);
    }
    D p = rstd * weight;
    r.c = p * (s.value(0) / D::splat(n));
    r.t = (p * scaled) * (scaled * (h / D::splat(n)));
    if (constant) r.rest = r.c = r.t = D::zero();
    return r;
}

// Adds the first `count` lanes, if any: behind them lie the next group's columns.
template <class Isa>
[[gnu::always_inline]] inline void add_columns(double* columns, Vec<Isa, double> term,
                                               std::ptrdiff_t count) {
    if (count > 0) store_some(columns, load_some<Isa>(columns, count) + term, count);
}

// A segment; with weights by position, `columns` (if any) get grad_y and grad_y d rstd added.
template <class Isa, class C>
void emit_gradient(C* out, const C* g, const C* x, std::ptrdiff_t n, const RowGradient<Isa>& r,
                   double plane_weight, const double* weight, double* weight_columns,
                   double* bias_columns) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    const D scale = r.rstd * D::splat(plane_weight), xhat = r.scaled_rstd;
    const auto emit = [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
        W v = load_wide<Isa>(x + i, lanes), gradient = load_wide<Isa>(g + i, lanes);
#pragma GCC unroll 2
        for (int k = 0; k < W::parts; ++k) {
            const std::ptrdiff_t at = i + k * D::size;
            D d = v.part[k];
            if constexpr (sizeof(C) == 8) {
                d = (d * r.prescale - r.mean) - r.rest;
            } else {
                d = d - r.mean;
            }
            D u = gradient.part[k];
            if (weight_columns) add_columns<Isa>(weight_columns + at, u * (d * xhat), n - at);
            if (bias_columns) add_columns<Isa>(bias_columns + at, u, n - at);
            D p = weight ? r.rstd * loadu<Isa>(weight + at) : scale;
            v.part[k] = (u * p - r.c) - d * r.t;
        }
        if (out) store_wide(out + i, v, lanes);
    };
    // What adds to columns must meet every element once.
    if (weight_columns || bias_columns) {
        for_each_vec<Isa, W::size>(n, emit);
    } else {
        for_each_vec_overlapping<Isa, W::size>(n, emit);
    }
}

// Adds G and H of a piece of a plane to the plane's, and gives them its weight, as the row wants
// them.
template <class Isa, int count>
void weigh_plane(RowSums<Isa, count>& sums, double* plane_sums, bool first, double weight) {
    using D = Vec<Isa, double>;
    if (first) plane_sums[0] = plane_sums[1] = 0;
    for (int t = 0; t < 2; ++t) {
        plane_sums[t] += sums.value(t)[0];
        sums.sum[t] = {sums.sum[t].hi * D::splat(weight), sums.sum[t].lo * D::splat(weight)};
    }
}
// What the sums of a row's planes are once its mean is known: grad_bias and grad_weight.
template <class Isa>
void finish_planes(double* plane_sums, std::ptrdiff_t planes, const RowGradient<Isa>& r) {
    for (std::ptrdiff_t k = 0; k < planes; ++k)
        plane_sums[2 * k + 1] =
            (plane_sums[2 * k + 1] - r.rest[0] * plane_sums[2 * k]) * r.scaled_rstd[0];
}

// Whole rows, along. `columns` is what weights by position add to, plane_sums (by plane) gets each
// plane's sums for grad_bias and grad_weight, and row_sums (by row) the row's.
template <class Isa, class C>
void backward_row(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                  const NormOperand& x, const NormAffine& affine, std::ptrdiff_t row, double mean,
                  double rstd, bool constant, double* weight_columns, double* bias_columns,
                  double* plane_sums, double* row_sums) {
    using D = Vec<Isa, double>;
    const bool planar = shape.planes_are_channels, positional = affine.position_step != 0;
    const Segments<Isa> segments(shape);
    const std::ptrdiff_t group = row % shape.groups;
    const double prescale = gradient_prescale<Isa>(rstd, sizeof(C) == 8);
    const GradientTerms<Isa, C> terms{D::splat(mean * prescale), D::splat(prescale)};
    C* scratch = segment_scratch<Isa, C>(3);
    const auto weight_at = [&](const Segment& s, std::ptrdiff_t plane) {
        return affine.weight + affine_offset(affine, group, s.plane + plane, s.begin);
    };

    GradientSums<Isa, C> total = no_gradient<Isa, C>();
    for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
        const Segment s = segments[i];
        const SegmentData<C> g = read_segment<Isa>(shape, grad_y, row, s, scratch);
        const SegmentData<C> from = read_segment<Isa>(shape, x, row, s, scratch + segment_columns);
        const std::ptrdiff_t planes = planar ? 1 : s.planes;
        for (std::ptrdiff_t k = 0; k < s.planes; k += planes) {
            GradientSums<Isa, C> sums = segment_sums<Isa, C>(
                {g.data + k * g.pitch, g.pitch}, {from.data + k * from.pitch, from.pitch}, planes,
                s.n, terms, sizeof(C) == 8 ? mean : 0.0,
                affine.weight && positional ? weight_at(s, k) : nullptr);
            if (planar)
                weigh_plane(sums, plane_sums + 2 * (s.plane + k), s.begin == 0,
                            affine.weight ? *weight_at(s, k) : 1);
            total.add_segment(sums);
        }
    }
    const D row_weight = D::splat(
        !planar && !positional && affine.weight ? affine.weight[group * affine.group_step] : 1);
    const RowGradient<Isa> r =
        row_gradient<Isa>(total, static_cast<double>(shape.cols()), D::splat(mean), D::splat(rstd),
                          D::splat(prescale), row_weight, constant);
    if (planar) finish_planes(plane_sums, shape.planes, r);
    if (row_sums) {
        row_sums[0] = total.value(0)[0];
        row_sums[1] = (total.value(1)[0] - r.rest[0] * row_sums[0]) * r.scaled_rstd[0];
    }
    if (grad_x == nullptr && weight_columns == nullptr && bias_columns == nullptr) return;
    for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
        const Segment s = segments[i];
        const SegmentData<C> g = read_segment<Isa>(shape, grad_y, row, s, scratch);
        const SegmentData<C> from = read_segment<Isa>(shape, x, row, s, scratch + segment_columns);
        C* const packed = scratch + 2 * segment_columns;
        SegmentData<C> to = {nullptr, 0};
        if (grad_x) to = segment_to_write<Isa>(shape, *grad_x, row, s, packed);
        for (std::ptrdiff_t k = 0; k < s.planes; ++k) {
            const std::ptrdiff_t at = affine_offset(affine, group, s.plane + k, s.begin);
            emit_gradient<Isa>(grad_x ? to.data + k * to.pitch : nullptr, g.data + k * g.pitch,
                               from.data + k * from.pitch, s.n, r,
                               affine.weight && !positional ? *weight_at(s, k) : 1.0,
                               affine.weight && positional ? weight_at(s, k) : nullptr,
                               weight_columns ? weight_columns + at : nullptr,
                               bias_columns ? bias_columns + at : nullptr);
        }
        if (grad_x) write_segment<Isa>(shape, *grad_x, row, s, packed);
    }
}

// Rows of so many columns: a register of them, with their gradients, stays near the core.
constexpr std::ptrdiff_t short_columns = 1024;

// Rows of layer norm that lie along, a register of them at a time: a row a lane where sums become
// constants, because the divisions would take longer than a short row's elements; and then column
// by column, so that what is added up over the rows is read and written once for all of them. The
// bits are those of backward_row.
template <class Isa, class C>
void backward_short_rows(const NormShape& shape, const NormOperand* grad_x,
                         const NormOperand& grad_y, const NormOperand& x, const NormAffine& affine,
                         std::ptrdiff_t row, std::ptrdiff_t end, const double* mean,
                         const double* rstd, double* weight_columns, double* bias_columns) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    constexpr std::ptrdiff_t lanes = D::size;
    constexpr int count = GradientTerms<Isa, C>::count;
    const Segment s = Segments<Isa>(shape)[0];
    for (; row < end; row += lanes) {
        const std::ptrdiff_t rows = smaller<Isa>(end - row, lanes);
        const C *g[lanes], *from[lanes];
        C* to[lanes];
        double prescale[lanes] = {}, parts[2 * count][lanes] = {};
        for (std::ptrdiff_t k = 0; k < rows; ++k) {
            const double m = mean[row + k];
            prescale[k] = gradient_prescale<Isa>(rstd[row + k], sizeof(C) == 8);
            const SegmentData<C> gradient = place_of<Isa, C>(shape, grad_y, row + k, s);
            const SegmentData<C> input = place_of<Isa, C>(shape, x, row + k, s);
            g[k] = gradient.data;
            from[k] = input.data;
            to[k] = grad_x ? place_of<Isa, C>(shape, *grad_x, row + k, s).data : nullptr;
            const GradientTerms<Isa, C> terms{D::splat(m * prescale[k]), D::splat(prescale[k])};
            const GradientSums<Isa, C> sums = segment_sums<Isa, C>(
                gradient, input, 1, s.n, terms, sizeof(C) == 8 ? m : 0.0, affine.weight);
            for (int t = 0; t < count; ++t) {
                parts[2 * t][k] = sums.sum[t].hi[0];
                parts[2 * t + 1][k] = sums.sum[t].lo[0];
            }
        }
        GradientSums<Isa, C> total;
        for (int t = 0; t < count; ++t)
            total.sum[t] = {loadu<Isa>(parts[2 * t]), loadu<Isa>(parts[2 * t + 1])};
        const RowGradient<Isa> r = row_gradient<Isa>(
            total, static_cast<double>(s.n), load_some<Isa>(mean + row, rows),
            load_some<Isa>(rstd + row, rows), loadu<Isa>(prescale), D::splat(1), false);
        struct {
            double mean[lanes], rest[lanes], prescale[lanes], rstd[lanes];
            double c[lanes], t[lanes], scaled_rstd[lanes];
        } of;
        storeu(of.mean, r.mean);
        storeu(of.rest, r.rest);
        storeu(of.prescale, r.prescale);
        storeu(of.rstd, r.rstd);
        storeu(of.c, r.c);
        storeu(of.t, r.t);
        storeu(of.scaled_rstd, r.scaled_rstd);
        for_each_vec<Isa, W::size>(s.n, [&](std::ptrdiff_t i,
                                            auto here) __attribute__((always_inline)) {
            D weight[W::parts], weights[W::parts], biases[W::parts];
#pragma GCC unroll 2
            for (int j = 0; j < W::parts; ++j) {
                const std::ptrdiff_t at = i + j * D::size;
                const std::ptrdiff_t left = larger<Isa>(s.n - at, std::ptrdiff_t{0});
                weight[j] = affine.weight ? loadu<Isa>(affine.weight + at) : D::splat(1);
                weights[j] = weight_columns ? load_some<Isa>(weight_columns + at, left) : D::zero();
                biases[j] = bias_columns ? load_some<Isa>(bias_columns + at, left) : D::zero();
            }
            for (std::ptrdiff_t k = 0; k < rows; ++k) {
                W v = load_wide<Isa>(from[k] + i, here);
                const W gradient = load_wide<Isa>(g[k] + i, here);
                const D rstd_k = D::splat(of.rstd[k]);
#pragma GCC unroll 2
                for (int j = 0; j < W::parts; ++j) {
                    D d = v.part[j];
                    if constexpr (sizeof(C) == 8) {
                        d = (d * D::splat(of.prescale[k]) - D::splat(of.mean[k])) -
                            D::splat(of.rest[k]);
                    } else {
                        d = d - D::splat(of.mean[k]);
                    }
                    const D u = gradient.part[j];
                    weights[j] = weights[j] + u * (d * D::splat(of.scaled_rstd[k]));
                    biases[j] = biases[j] + u;
                    v.part[j] =
                        (u * (rstd_k * weight[j]) - D::splat(of.c[k])) - d * D::splat(of.t[k]);
                }
                if (to[k]) store_wide(to[k] + i, v, here);
            }
#pragma GCC unroll 2
            for (int j = 0; j < W::parts; ++j) {
                const std::ptrdiff_t at = i + j * D::size;
                if (at >= s.n) continue;
                if (weight_columns) store_some(weight_columns + at, weights[j], s.n - at);
                if (bias_columns) store_some(bias_columns + at, biases[j], s.n - at);
            }
        });
    }
}

// Sums of `count` arrays of n doubles that follow each other at `pitch`, in order, with their
// errors.
template <class Isa>
void add_arrays(double* sums, const double* arrays, std::ptrdiff_t count, std::ptrdiff_t pitch,
                std::ptrdiff_t n) {
    using D = Vec<Isa, double>;
    for (std::ptrdiff_t i = 0; i < n; i += D::size) {
        Pair<Isa> sum = no_sum<Isa, Pair<Isa>>();
        for (std::ptrdiff_t k = 0; k < count; ++k)
            join(sum, load_some<Isa>(arrays + k * pitch + i, n - i));
        store_some(sums + i, sum.hi + sum.lo, n - i);
    }
}

template <class Isa>
void add_samples(double* sums, std::ptrdiff_t samples, std::ptrdiff_t channels, double* grad_weight,
                 double* grad_bias) {
    add_arrays<Isa>(sums, sums, samples, 2 * channels, 2 * channels);
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        if (grad_bias) grad_bias[c] = sums[2 * c];
        if (grad_weight) grad_weight[c] = sums[2 * c + 1];
    }
}

template <class Isa, class C>
void backward_along(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                    const NormOperand& x, const NormAffine& affine, const double* mean,
                    const double* rstd, bool constant, double* grad_weight, double* grad_bias) {
    const std::ptrdiff_t rows = shape.rows();
    if (shape.planes_are_channels) {
        // (row, plane) is (sample, weight).
        DoubleArrays<Isa> sums(1, 2 * rows * shape.planes);
        for_row_runs<Isa>(rows, shape.cols(), [&](std::ptrdiff_t row, std::ptrdiff_t end) {
            for (; row < end; ++row)
                backward_row<Isa, C>(shape, grad_x, grad_y, x, affine, row, mean[row], rstd[row],
                                     constant, nullptr, nullptr, sums[0] + 2 * row * shape.planes,
                                     nullptr);
        });
        add_samples<Isa>(sums[0], shape.samples, affine.count, grad_weight, grad_bias);
        return;
    }
    const bool is_short = affine.position_step != 0 && shape.groups * shape.planes == 1 &&
                          !constant && shape.cols() <= short_columns &&
                          lies_along<Isa, C>(shape, x) && lies_along<Isa, C>(shape, grad_y) &&
                          (!grad_x || lies_along<Isa, C>(shape, *grad_x));
    if (affine.position_step != 0 && (grad_weight || grad_bias)) {
        const std::ptrdiff_t each =
            larger<Isa>(std::ptrdiff_t{32}, (rows + 63) / 64 + shape.groups - 1) / shape.groups *
            shape.groups;
        const std::ptrdiff_t run = larger<Isa>(each, shape.groups);
        const std::ptrdiff_t tasks = (rows + run - 1) / run;
        DoubleArrays<Isa> columns(2 * tasks, affine.count);
        parallel_for<Isa>(tasks, [&](std::ptrdiff_t task) {
            double* const weights = columns[task];
            double* const biases = columns[tasks + task];
            for (std::ptrdiff_t i = 0; i < columns.pitch; ++i) weights[i] = biases[i] = 0;
            const std::ptrdiff_t end = smaller<Isa>(rows, (task + 1) * run);
            if (is_short) {
                backward_short_rows<Isa, C>(shape, grad_x, grad_y, x, affine, task * run, end, mean,
                                            rstd, weights, biases);
                return;
            }
            for (std::ptrdiff_t row = task * run; row < end; ++row)
                backward_row<Isa, C>(shape, grad_x, grad_y, x, affine, row, mean[row], rstd[row],
                                     constant, weights, biases, nullptr, nullptr);
        });
        if (grad_weight)
            add_arrays<Isa>(grad_weight, columns[0], tasks, columns.pitch, affine.count);
        if (grad_bias)
            add_arrays<Isa>(grad_bias, columns[tasks], tasks, columns.pitch, affine.count);
        return;
    }
    for_row_runs<Isa>(rows, shape.cols(), [&](std::ptrdiff_t row, std::ptrdiff_t end) {
        if (is_short) {
            backward_short_rows<Isa, C>(shape, grad_x, grad_y, x, affine, row, end, mean, rstd,
                                        nullptr, nullptr);
            return;
        }
        for (; row < end; ++row) {
            double sums[2];
            backward_row<Isa, C>(shape, grad_x, grad_y, x, affine, row, mean[row], rstd[row],
                                 constant, nullptr, nullptr, nullptr, sums);
            if (grad_bias) grad_bias[row] = sums[0];
            if (grad_weight) grad_weight[row] = sums[1];
        }
    });
}

template <class Isa, class C, class Terms>
void strip_sums(const NormOperand& grad_y, const NormOperand& x, const Segment& s,
                std::ptrdiff_t row, std::ptrdiff_t count, const Terms (&terms_of)[strip_registers],
                RowSums<Isa, Terms::count> (&result)[strip_registers]) {
    using D = Vec<Isa, double>;
    constexpr int lanes = D::size;
    struct Lane {
        SumOf<Isa, C> term[Terms::count];
    } sums[strip_registers][sum_lanes];
    for (int r = 0; r * lanes < count; ++r)
        for (int j = 0; j < sum_lanes; ++j)
            for (int t = 0; t < Terms::count; ++t)
                sums[r][j].term[t] = no_sum<Isa, SumOf<Isa, C>>();
    add_strip<Isa, C, 2>(s, {&grad_y, &x}, row, count, sums,
                         [&](int r, Lane& sum, const D(&v)[2]) __attribute__((always_inline)) {
                             D terms[Terms::count];
                             terms_of[r](v, terms);
#pragma GCC unroll 3
                             for (int t = 0; t < Terms::count; ++t) join(sum.term[t], terms[t]);
                         });
    for (int r = 0; r * lanes < count; ++r) {
        const Lane sum = Across<Isa, C>::fold(sums[r], [](Lane a, const Lane& b) {
            for (int t = 0; t < Terms::count; ++t) a.term[t] = plus(a.term[t], b.term[t]);
            return a;
        });
        for (int t = 0; t < Terms::count; ++t) result[r].sum[t] = as_pair(sum.term[t]);
    }
}

// Constants of neighbouring channels: mean, rest, p, c, t of RowGradient from array `first` on.
template <class Isa, class C>
[[gnu::noinline]] void emit_gradient_across(const NormOperand& grad_x, const NormOperand& grad_y,
                                            const NormOperand& x, std::ptrdiff_t channels,
                                            std::ptrdiff_t begin, std::ptrdiff_t end,
                                            const std::ptrdiff_t (&offset)[3],
                                            const DoubleArrays<Isa>& constants,
                                            std::ptrdiff_t first) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    const double* c[5];
    for (int k = 0; k < 5; ++k) c[k] = constants[first + k];
    each_channel_block<Isa>(
        channels, begin, end,
        [&](std::ptrdiff_t start, std::ptrdiff_t count,
            std::ptrdiff_t i) __attribute__((always_inline)) {
            const auto place = [&](const NormOperand& a, int k) {
                return reinterpret_cast<C*>(a.data + offset[k] + i * a.length_stride[0]) + start;
            };
            C* to = place(grad_x, 0);
            const C *g = place(grad_y, 1), *from = place(x, 2);
            for_each_vec<Isa, W::size>(
                count, [&](std::ptrdiff_t at, auto lanes) __attribute__((always_inline)) {
                    W v = load_wide<Isa>(from + at, lanes), u = load_wide<Isa>(g + at, lanes);
#pragma GCC unroll 2
                    for (int k = 0; k < W::parts; ++k) {
                        const auto constant = [&](int j) __attribute__((always_inline)) {
                            return loadu<Isa>(c[j] + start + at + k * D::size);
                        };
                        D d = v.part[k] - constant(0);
                        if constexpr (sizeof(C) == 8) d = d - constant(1);
                        v.part[k] = (u.part[k] * constant(2) - constant(3)) - d * constant(4);
                    }
                    store_wide(to + at, v, lanes);
                });
        });
}

template <class Isa, class C>
void backward_across(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                     const NormOperand& x, const NormAffine& affine, const double* mean,
                     const double* rstd, bool constant, double* grad_weight, double* grad_bias) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size, strip = strip_registers * lanes;
    const Segments<Isa> segments(shape);
    const std::ptrdiff_t groups = shape.groups, strips = (groups + strip - 1) / strip;
    constexpr int terms_count = GradientTerms<Isa, C>::count;
    DoubleArrays<Isa> table(2 * terms_count * segments.count, groups), constants(5, groups);
    parallel_for<Isa>(segments.count * strips, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t i = task / strips, row = task % strips * strip;
        const std::ptrdiff_t count = smaller<Isa>(groups - row, strip);
        GradientTerms<Isa, C> terms[strip_registers];
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            terms[r] = {load_some<Isa>(mean + row + r * lanes, count - r * lanes), D::splat(1)};
        GradientSums<Isa, C> sums[strip_registers];
        strip_sums<Isa, C>(grad_y, x, segments[i], row, count, terms, sums);
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            for (int t = 0; t < terms_count; ++t) {
                double* const to = table[2 * (terms_count * i + t)] + row + r * lanes;
                store_some(to, sums[r].sum[t].hi, count - r * lanes);
                store_some(to + table.pitch, sums[r].sum[t].lo, count - r * lanes);
            }
    });
    for (std::ptrdiff_t row = 0; row < groups; row += lanes) {
        const std::ptrdiff_t count = groups - row;
        GradientSums<Isa, C> total = no_gradient<Isa, C>();
        for (int t = 0; t < terms_count; ++t) {
            for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
                const double* const from = table[2 * (terms_count * i + t)] + row;
                total.sum[t] =
                    plus(total.sum[t], Pair<Isa>{load_some<Isa>(from, count),
                                                 load_some<Isa>(from + table.pitch, count)});
            }
        }
        const D weight = affine.weight ? load_some<Isa>(affine.weight + row, count) : D::splat(1);
        const D scale = load_some<Isa>(rstd + row, count);
        const RowGradient<Isa> r = row_gradient<Isa>(total, static_cast<double>(shape.cols()),
                                                     load_some<Isa>(mean + row, count), scale,
                                                     D::splat(1), weight, constant);
        const D values[] = {r.mean, r.rest, scale * weight, r.c, r.t};
        for (int k = 0; k < 5; ++k) store_some(constants[k] + row, values[k], count);
        if (grad_bias) store_some(grad_bias + row, total.value(0), count);
        if (grad_weight)
            store_some(grad_weight + row, (total.value(1) - r.rest * total.value(0)) * scale,
                       count);
    }
    if (grad_x)
        for_positions<Isa>(shape.planes, shape.length, groups,
                           [&](std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end) {
                               emit_gradient_across<Isa, C>(
                                   *grad_x, grad_y, x, groups, begin, end,
                                   {plane * grad_x->plane_stride, plane * grad_y.plane_stride,
                                    plane * x.plane_stride},
                                   constants, 0);
                           });
    if constexpr (sizeof(C) == 8) {
        for (std::ptrdiff_t row = 0; row < groups; ++row) {
            if (gradient_prescale<Isa>(rstd[row], true) == 1) continue;
            double sums[2];
            backward_row<Isa, C>(shape, grad_x, grad_y, x, affine, row, mean[row], rstd[row],
                                 constant, nullptr, nullptr, nullptr, sums);
            if (grad_bias) grad_bias[row] = sums[0];
            if (grad_weight) grad_weight[row] = sums[1];
        }
    }
}

// Group norm of channels-last images.
template <class Isa, class C>
void backward_channels(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                       const NormOperand& x, const NormAffine& affine, const double* mean,
                       const double* rstd, bool constant, double* grad_weight, double* grad_bias) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size, strip = strip_registers * lanes;
    constexpr int terms_count = GradientTerms<Isa, C>::count;
    const Segments<Isa> segments(shape, true);
    const std::ptrdiff_t planes = shape.planes, channels = shape.groups * planes;
    const std::ptrdiff_t strips = (channels + strip - 1) / strip, pieces = segments.pieces;
    DoubleArrays<Isa> table(2 * terms_count * pieces * shape.samples, channels);
    DoubleArrays<Isa> means(shape.samples, channels), constants(5 * shape.samples, channels);
    DoubleArrays<Isa> plane_sums(1, 2 * channels * shape.samples);
    for (std::ptrdiff_t row = 0; row < shape.rows(); ++row)
        for (std::ptrdiff_t k = 0; k < planes; ++k)
            means[row / shape.groups][row % shape.groups * planes + k] = mean[row];
    parallel_for<Isa>(shape.samples * pieces * strips, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t channel = task % strips * strip, image = task / strips;
        const std::ptrdiff_t sample = image / pieces;
        const std::ptrdiff_t count = smaller<Isa>(channels - channel, strip);
        const std::ptrdiff_t begin = image % pieces * segment_columns;
        const Segment s = {0, 1, begin, smaller<Isa>(shape.length - begin, segment_columns)};
        GradientTerms<Isa, C> terms[strip_registers];
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            terms[r] = {load_some<Isa>(means[sample] + channel + r * lanes, count - r * lanes),
                        D::splat(1)};
        NormOperand image_g = grad_y, image_x = x;
        image_g.data += sample_offset<Isa>(shape, grad_y, sample);
        image_x.data += sample_offset<Isa>(shape, x, sample);
        GradientSums<Isa, C> sums[strip_registers];
        strip_sums<Isa, C>(image_g, image_x, s, channel, count, terms, sums);
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            for (int t = 0; t < terms_count; ++t) {
                double* const to = table[2 * (terms_count * image + t)] + channel + r * lanes;
                store_some(to, sums[r].sum[t].hi, count - r * lanes);
                store_some(to + table.pitch, sums[r].sum[t].lo, count - r * lanes);
            }
    });
    parallel_for<Isa>(shape.rows(), [&](std::ptrdiff_t row) {
        const std::ptrdiff_t sample = row / shape.groups, group = row % shape.groups;
        double* const of_row = plane_sums[0] + 2 * row * planes;
        GradientSums<Isa, C> total = no_gradient<Isa, C>();
        for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
            const Segment s = segments[i];
            const std::ptrdiff_t image = sample * pieces + s.begin / segment_columns;
            const std::ptrdiff_t channel = group * planes + s.plane;
            GradientSums<Isa, C> sums;
            for (int t = 0; t < terms_count; ++t) {
                const double* from = table[2 * (terms_count * image + t)] + channel;
                sums.sum[t] = {D::splat(from[0]), D::splat(from[table.pitch])};
            }
            weigh_plane(sums, of_row + 2 * s.plane, s.begin == 0,
                        affine.weight ? affine.weight[channel] : 1);
            total.add_segment(sums);
        }
        const RowGradient<Isa> r =
            row_gradient<Isa>(total, static_cast<double>(shape.cols()), D::splat(mean[row]),
                              D::splat(rstd[row]), D::splat(1), D::splat(1), constant);
        finish_planes(of_row, planes, r);
        for (std::ptrdiff_t k = group * planes; k < (group + 1) * planes; ++k) {
            const double weight = affine.weight ? affine.weight[k] : 1;
            const double values[] = {r.mean[0], r.rest[0], rstd[row] * weight, r.c[0], r.t[0]};
            for (int j = 0; j < 5; ++j) constants[5 * sample + j][k] = values[j];
        }
    });
    if (grad_x)
        for_positions<Isa>(shape.samples, shape.length, channels,
                           [&](std::ptrdiff_t sample, std::ptrdiff_t begin, std::ptrdiff_t end) {
                               emit_gradient_across<Isa, C>(
                                   *grad_x, grad_y, x, channels, begin, end,
                                   {sample_offset<Isa>(shape, *grad_x, sample),
                                    sample_offset<Isa>(shape, grad_y, sample),
                                    sample_offset<Isa>(shape, x, sample)},
                                   constants, 5 * sample);
                           });
    if constexpr (sizeof(C) == 8) {
        for (std::ptrdiff_t row = 0; row < shape.rows(); ++row)
            if (gradient_prescale<Isa>(rstd[row], true) != 1)
                backward_row<Isa, C>(shape, grad_x, grad_y, x, affine, row, mean[row], rstd[row],
                                     constant, nullptr, nullptr, plane_sums[0] + 2 * row * planes,
                                     nullptr);
    }
    add_samples<Isa>(plane_sums[0], shape.samples, channels, grad_weight, grad_bias);
}

template <class Isa, class C>
void norm_backward(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                   const NormOperand& x, const NormAffine& affine, const double* mean,
                   const double* rstd, bool constant, double* grad_weight, double* grad_bias) {
    const bool across = lies_across<Isa, C>(shape, x) && lies_across<Isa, C>(shape, grad_y) &&
                        (grad_x == nullptr || lies_across<Isa, C>(shape, *grad_x)) &&
                        affine.position_step == 0;
    const auto function = !across                     ? backward_along<Isa, C>
                          : shape.planes_are_channels ? backward_channels<Isa, C>
                                                      : backward_across<Isa, C>;
    function(shape, grad_x, grad_y, x, affine, mean, rstd, constant, grad_weight, grad_bias);
}

template <class Isa, class C>
void negative_sums(const NormShape& shape, const NormOperand& grad_y, const NormOperand& x,
                   double* result) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size, strip = strip_registers * lanes;
    const Segments<Isa> segments(shape);
    const std::ptrdiff_t rows = shape.rows();
    const bool across = lies_across<Isa, C>(shape, x) && lies_across<Isa, C>(shape, grad_y);
    const std::ptrdiff_t each = across ? strip : 1, strips = (rows + each - 1) / each;
    DoubleArrays<Isa> table(segments.count, rows);
    parallel_for<Isa>(segments.count * strips, [&](std::ptrdiff_t task) {
        const Segment s = segments[task / strips];
        const std::ptrdiff_t row = task % strips * each;
        double* const to = table[task / strips] + row;
        if (across) {
            const NegativeTerms<Isa> terms[strip_registers] = {};
            RowSums<Isa, 1> sums[strip_registers];
            const std::ptrdiff_t count = smaller<Isa>(rows - row, strip);
            strip_sums<Isa, C>(grad_y, x, s, row, count, terms, sums);
            for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
                store_some(to + r * lanes, sums[r].value(0), count - r * lanes);
        } else {
            C* scratch = segment_scratch<Isa, C>(2);
            *to =
                segment_sums<Isa, C>(read_segment<Isa>(shape, grad_y, row, s, scratch),
                                     read_segment<Isa>(shape, x, row, s, scratch + segment_columns),
                                     s.planes, s.n, NegativeTerms<Isa>{}, 0, nullptr)
                    .value(0)[0];
        }
    });
    add_arrays<Isa>(result, table[0], segments.count, table.pitch, rows);
}

}  // namespace stableops
