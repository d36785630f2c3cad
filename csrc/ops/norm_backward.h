#pragma once
// Gradients of the normalisations. With d = x - mean, u = weight grad_y and N columns a row,
//
//   G = sum u,   H = sum u d,
//   grad_x      = rstd (u - G / N - d rstd^2 H / N)
//   grad_weight = sum over its elements of grad_y d rstd,   grad_bias = sum of grad_y.
//
// With given statistics (constant) grad_x = rstd u.
//
// The saved mean is rounded; where the deviation is small against it that is an error in every d. It
// shows in D = sum d, which would be 0: d - D / N and H - G D / N are what an exact mean gives.
// Sums are those of norm_rows.h: float64, for float64 arrays with the rounding errors of the
// additions. grad_x is computed in float64 from these and rounded once.
//
// Weights that are constant along the length of a plane (group norm) take sums plane by plane, so that
// grad_weight needs no second pass. Weights that vary along it (layer norm) have columns of their own
// to add to, in tasks of rows that do not depend on the number of threads.
#include "norm.h"

namespace stableops {

// What is added up, of (grad_y, x): terms[0 .. count).
template <class Isa>
struct GradientTerms {
    using D = Vec<Isa, double>;
    static constexpr int count = 3;
    D mean, prescale;

    [[gnu::always_inline]] inline void operator()(const D (&in)[2], D (&terms)[3]) const {
        D d = in[1] * prescale - mean;
        terms[0] = in[0];
        terms[1] = in[0] * d;
        terms[2] = d;
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

// `beyond_x` gives no term with a gradient of 0. weight: at the position, or nullptr.
template <class Isa, class C, class Terms>
[[gnu::always_inline]] inline RowSums<Isa, Terms::count> segment_sums(
    SegmentData<C> g, SegmentData<C> x, std::ptrdiff_t planes, std::ptrdiff_t n,
    const Terms& terms_of, double beyond_x, const double* weight) {
    using D = Vec<Isa, double>;
    constexpr int slots = sum_lanes / D::size;
    SumOf<Isa, C> sums[Terms::count][slots];
    for (int t = 0; t < Terms::count; ++t)
        for (int k = 0; k < slots; ++k) sums[t][k] = no_sum<Isa, SumOf<Isa, C>>();
    for (std::ptrdiff_t k = 0; k < planes; ++k)
        each_slot<Isa, C, 2>(n, {g.data + k * g.pitch, x.data + k * x.pitch}, {0, beyond_x},
                             [&](int slot, std::ptrdiff_t i, D(&v)[2])
                                 __attribute__((always_inline)) {
                                     if (weight) v[0] = v[0] * loadu<Isa>(weight + i);
                                     D terms[Terms::count];
                                     terms_of(v, terms);
#pragma GCC unroll 3
                                     for (int t = 0; t < Terms::count; ++t)
                                         join(sums[t][slot], terms[t]);
                                 });
    RowSums<Isa, Terms::count> result;
#pragma GCC unroll 3
    for (int t = 0; t < Terms::count; ++t)
        result.sum[t] = as_pair(Along<Isa, C>::fold(sums[t], Plus{}));
    return result;
}

// grad_x = p u' - c - ((x - mean) - rest) t, with p holding the weight if it is one for the row or plane.
template <class Isa>
struct RowGradient {
    using D = Vec<Isa, double>;
    D mean, rest, prescale, rstd, c, t;
    double scaled_rstd;  // of prescaled x
};

template <class Isa>
double gradient_prescale(double rstd, bool prescales) {
    if (!prescales) return 1;
    return rstd < 0x1p-500 ? 0x1p-600 : rstd > 0x1p500 ? 0x1p600 : 1;
}

template <class Isa>
RowGradient<Isa> row_gradient(const RowSums<Isa, 3>& s, double n, Vec<Isa, double> mean,
                              Vec<Isa, double> rstd, Vec<Isa, double> prescale,
                              Vec<Isa, double> weight, bool constant) {
    using D = Vec<Isa, double>;
    RowGradient<Isa> r;
    r.mean = mean * prescale;
    r.prescale = prescale;
    r.rstd = rstd;
    D scaled = rstd / prescale;
    r.scaled_rstd = scaled[0];
    r.rest = s.value(2) / D::splat(n);
    D h = s.value(1) - r.rest * s.value(0);
    D p = rstd * weight;
    r.c = p * (s.value(0) / D::splat(n));
    r.t = (p * scaled) * (scaled * (h / D::splat(n)));
    if (constant) r.rest = r.c = r.t = D::zero();
    return r;
}

// A segment; with weights by position, `columns` (if any) get grad_y and grad_y d rstd added.
template <class Isa, class C>
void emit_gradient(C* out, const C* g, const C* x, std::ptrdiff_t n, const RowGradient<Isa>& r,
                   double plane_weight, const double* weight, double* weight_columns,
                   double* bias_columns) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    const D scale = r.rstd * D::splat(plane_weight), xhat = D::splat(r.scaled_rstd);
    for_each_vec<Isa, W::size>(n, [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
        W v = load_wide<Isa>(x + i, lanes), gradient = load_wide<Isa>(g + i, lanes);
#pragma GCC unroll 2
        for (int k = 0; k < W::parts; ++k) {
            const std::ptrdiff_t at = i + k * D::size;
            D d = v.part[k];
            if constexpr (sizeof(C) == 8) d = d * r.prescale;
            d = (d - r.mean) - r.rest;
            D u = gradient.part[k];
            if (weight_columns)
                storeu(weight_columns + at, loadu<Isa>(weight_columns + at) + u * (d * xhat));
            if (bias_columns) storeu(bias_columns + at, loadu<Isa>(bias_columns + at) + u);
            D p = weight ? r.rstd * loadu<Isa>(weight + at) : scale;
            v.part[k] = (u * p - r.c) - d * r.t;
        }
        if (out) store_wide(out + i, v, lanes);
    });
}

// Where along the plane a weight is constant.
template <class Isa>
[[gnu::always_inline]] inline bool by_plane(const NormAffine& a) {
    return a.plane_step != 0 && a.position_step == 0;
}

// Whole rows, along. `columns` is what weights by position add to, plane_sums (by plane) gets each
// plane's sums for grad_bias and grad_weight, and row_sums (by row) the row's.
template <class Isa, class C>
void backward_row(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                  const NormOperand& x, const NormAffine& affine, std::ptrdiff_t row, double mean,
                  double rstd, bool constant, double* weight_columns, double* bias_columns,
                  double* plane_sums, double* row_sums) {
    using D = Vec<Isa, double>;
    const bool planar = by_plane<Isa>(affine), positional = affine.position_step != 0;
    const Segments<Isa> segments(shape, planar);
    const std::ptrdiff_t group = row % shape.groups;
    const double prescale = gradient_prescale<Isa>(rstd, sizeof(C) == 8);
    const GradientTerms<Isa> terms{D::splat(mean * prescale), D::splat(prescale)};
    C* scratch = segment_scratch<Isa, C>(3);
    const auto weight_at = [&](const Segment& s, std::ptrdiff_t plane) {
        return affine.weight + affine_offset(affine, group, s.plane + plane, s.begin);
    };

    RowSums<Isa, 3> total;
    for (int t = 0; t < 3; ++t) total.sum[t] = no_sum<Isa, Pair<Isa>>();
    for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
        const Segment s = segments[i];
        RowSums<Isa, 3> sums = segment_sums<Isa, C>(
            read_segment<Isa>(shape, grad_y, row, s, scratch),
            read_segment<Isa>(shape, x, row, s, scratch + segment_columns), s.planes, s.n, terms,
            mean, affine.weight && positional ? weight_at(s, 0) : nullptr);
        if (planar) {
            double* const of_plane = plane_sums + 2 * s.plane;
            if (s.begin == 0) of_plane[0] = of_plane[1] = 0;
            of_plane[0] += sums.value(0)[0];
            of_plane[1] += sums.value(1)[0];
            if (affine.weight) {
                const D weight = D::splat(*weight_at(s, 0));
                for (int t = 0; t < 2; ++t)
                    sums.sum[t] = {sums.sum[t].hi * weight, sums.sum[t].lo * weight};
            }
        }
        total.add_segment(sums);
    }
    const D row_weight =
        D::splat(!planar && !positional && affine.weight ? affine.weight[group * affine.group_step]
                                                         : 1);
    const RowGradient<Isa> r =
        row_gradient<Isa>(total, static_cast<double>(shape.cols()), D::splat(mean), D::splat(rstd),
                          D::splat(prescale), row_weight, constant);
    if (planar) {
        for (std::ptrdiff_t k = 0; k < shape.planes; ++k)
            plane_sums[2 * k + 1] =
                (plane_sums[2 * k + 1] - r.rest[0] * plane_sums[2 * k]) * r.scaled_rstd;
    }
    if (row_sums) {
        row_sums[0] = total.value(0)[0];
        row_sums[1] = (total.value(1)[0] - r.rest[0] * row_sums[0]) * r.scaled_rstd;
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

// Sums of `count` arrays of n doubles that follow each other at `pitch`, in order, with their errors.
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

template <class Isa, class C>
void backward_along(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                    const NormOperand& x, const NormAffine& affine, const double* mean,
                    const double* rstd, bool constant, double* grad_weight, double* grad_bias) {
    const std::ptrdiff_t rows = shape.rows();
    if (by_plane<Isa>(affine)) {
        // (row, plane) is (sample, weight).
        DoubleArrays<Isa> sums(1, 2 * rows * shape.planes);
        for_row_runs<Isa>(rows, shape.cols(), [&](std::ptrdiff_t row, std::ptrdiff_t end) {
            for (; row < end; ++row)
                backward_row<Isa, C>(shape, grad_x, grad_y, x, affine, row, mean[row], rstd[row],
                                     constant, nullptr, nullptr, sums[0] + 2 * row * shape.planes,
                                     nullptr);
        });
        const std::ptrdiff_t pitch = 2 * affine.count;
        add_arrays<Isa>(sums[0], sums[0], shape.samples, pitch, pitch);
        for (std::ptrdiff_t c = 0; c < affine.count; ++c) {
            if (grad_bias) grad_bias[c] = sums[0][2 * c];
            if (grad_weight) grad_weight[c] = sums[0][2 * c + 1];
        }
        return;
    }
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
void strip_sums(const NormOperand& grad_y, const NormOperand& x,
                const Segment& s, std::ptrdiff_t row, std::ptrdiff_t count,
                const Terms (&terms_of)[strip_registers],
                RowSums<Isa, Terms::count> (&result)[strip_registers]) {
    using D = Vec<Isa, double>;
    constexpr int lanes = D::size;
    SumOf<Isa, C> sums[strip_registers][Terms::count][sum_lanes];
    for (int r = 0; r * lanes < count; ++r)
        for (int t = 0; t < Terms::count; ++t)
            for (int j = 0; j < sum_lanes; ++j) sums[r][t][j] = no_sum<Isa, SumOf<Isa, C>>();
    each_strip<Isa, C, 2>(s, {&grad_y, &x}, row, count,
                          [&](int r, int lane, const D(&v)[2]) __attribute__((always_inline)) {
                              D terms[Terms::count];
                              terms_of[r](v, terms);
#pragma GCC unroll 3
                              for (int t = 0; t < Terms::count; ++t)
                                  join(sums[r][t][lane], terms[t]);
                          });
    for (int r = 0; r * lanes < count; ++r)
        for (int t = 0; t < Terms::count; ++t)
            result[r].sum[t] = as_pair(Across<Isa, C>::fold(sums[r][t], Plus{}));
}

template <class Isa, class C>
void emit_gradient_across(const NormShape& shape, const NormOperand& grad_x,
                          const NormOperand& grad_y, const NormOperand& x,
                          const DoubleArrays<Isa>& c) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    const std::ptrdiff_t each = larger<Isa>(task_elements / shape.groups, std::ptrdiff_t{1});
    parallel_for<Isa>((shape.cols() + each - 1) / each, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t end = smaller<Isa>(shape.cols(), (task + 1) * each);
        for (std::ptrdiff_t i = task * each; i < end; ++i) {
            const std::ptrdiff_t plane = i / shape.length, position = i % shape.length;
            const auto place = [&](const NormOperand& a) {
                return reinterpret_cast<C*>(a.data + plane * a.plane_stride +
                                            position * a.length_stride[0]);
            };
            const C *g = place(grad_y), *from = place(x);
            C* to = place(grad_x);
            for_each_vec<Isa, W::size>(
                shape.groups, [&](std::ptrdiff_t at, auto lanes) __attribute__((always_inline)) {
                    W v = load_wide<Isa>(from + at, lanes), u = load_wide<Isa>(g + at, lanes);
#pragma GCC unroll 2
                    for (int k = 0; k < W::parts; ++k) {
                        const auto constant = [&](int j) __attribute__((always_inline)) {
                            return loadu<Isa>(c[j] + at + k * D::size);
                        };
                        D d = (v.part[k] - constant(0)) - constant(1);
                        v.part[k] = (u.part[k] * constant(2) - constant(3)) - d * constant(4);
                    }
                    store_wide(to + at, v, lanes);
                });
        }
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
    DoubleArrays<Isa> table(6 * segments.count, groups), constants(5, groups);
    parallel_for<Isa>(segments.count * strips, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t i = task / strips, row = task % strips * strip;
        const std::ptrdiff_t count = smaller<Isa>(groups - row, strip);
        GradientTerms<Isa> terms[strip_registers];
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            terms[r] = {load_some<Isa>(mean + row + r * lanes, count - r * lanes), D::splat(1)};
        RowSums<Isa, 3> sums[strip_registers];
        strip_sums<Isa, C>(grad_y, x, segments[i], row, count, terms, sums);
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            for (int t = 0; t < 3; ++t) {
                double* const to = table[6 * i + 2 * t] + row + r * lanes;
                store_some(to, sums[r].sum[t].hi, count - r * lanes);
                store_some(to + table.pitch, sums[r].sum[t].lo, count - r * lanes);
            }
    });
    for (std::ptrdiff_t row = 0; row < groups; row += lanes) {
        const std::ptrdiff_t count = groups - row;
        RowSums<Isa, 3> total;
        for (int t = 0; t < 3; ++t) {
            total.sum[t] = no_sum<Isa, Pair<Isa>>();
            for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
                const double* const from = table[6 * i + 2 * t] + row;
                total.sum[t] = plus(total.sum[t], Pair<Isa>{load_some<Isa>(from, count),
                                                            load_some<Isa>(from + table.pitch,
                                                                           count)});
            }
        }
        const D weight =
            affine.weight ? load_some<Isa>(affine.weight + row, count) : D::splat(1);
        const D scale = load_some<Isa>(rstd + row, count);
        const RowGradient<Isa> r =
            row_gradient<Isa>(total, static_cast<double>(shape.cols()),
                              load_some<Isa>(mean + row, count), scale, D::splat(1), weight,
                              constant);
        const D values[] = {r.mean, r.rest, scale * weight, r.c, r.t};
        for (int k = 0; k < 5; ++k) store_some(constants[k] + row, values[k], count);
        if (grad_bias) store_some(grad_bias + row, total.value(0), count);
        if (grad_weight)
            store_some(grad_weight + row,
                       (total.value(1) - r.rest * total.value(0)) * scale, count);
    }
    if (grad_x) emit_gradient_across<Isa, C>(shape, *grad_x, grad_y, x, constants);
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

template <class Isa, class C>
void norm_backward(const NormShape& shape, const NormOperand* grad_x, const NormOperand& grad_y,
                   const NormOperand& x, const NormAffine& affine, const double* mean,
                   const double* rstd, bool constant, double* grad_weight, double* grad_bias) {
    const bool across = lies_across<Isa, C>(shape, x) && lies_across<Isa, C>(shape, grad_y) &&
                        (grad_x == nullptr || lies_across<Isa, C>(shape, *grad_x)) &&
                        affine.plane_step == 0 && affine.position_step == 0;
    (across ? backward_across<Isa, C> : backward_along<Isa, C>)(
        shape, grad_x, grad_y, x, affine, mean, rstd, constant, grad_weight, grad_bias);
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
            *to = segment_sums<Isa, C>(
                      read_segment<Isa>(shape, grad_y, row, s, scratch),
                      read_segment<Isa>(shape, x, row, s, scratch + segment_columns), s.planes,
                      s.n, NegativeTerms<Isa>{}, 0, nullptr)
                      .value(0)[0];
        }
    });
    add_arrays<Isa>(result, table[0], segments.count, table.pitch, rows);
}

}  // namespace stableops
