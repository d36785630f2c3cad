#pragma once
// Batch, group and layer norm: y = (x - mean) rstd weight + bias with rstd = 1 / sqrt(variance +
// eps) (norm_plan.h says what a row is, norm_moments.h how its moments are found).
//
// y is computed in float64 as (x - mean) scale + bias, scale = rstd weight, and rounded once: x -
// mean first, because x scale - mean scale has no digits where the mean is large. Error for float32
// arrays: half a unit in the last place, and 2^-32 of |(x - mean) scale|, and 2^-53 |mean scale|,
// that of the mean. For float64 the mean is hi + lo and six roundings of 2^-53 of the terms are
// left.
#include "norm_moments.h"

namespace stableops {

// Where a plane's weights are.
[[gnu::always_inline]] static inline std::ptrdiff_t affine_offset(const NormAffine& a,
                                                                  std::ptrdiff_t group,
                                                                  std::ptrdiff_t plane,
                                                                  std::ptrdiff_t position) {
    return group * a.group_step + plane * a.plane_step + position * a.position_step;
}

// v, or 0 where v is not above it; NaN is NaN.
template <bool rectify, class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> rectified(Vec<Isa, double> v) {
    if constexpr (!rectify) return v;
    return select(v <= Vec<Isa, double>::zero(), Vec<Isa, double>::zero(), v);
}

template <class Isa, class C>
[[gnu::always_inline]] inline Wide<Isa, C> centred(Wide<Isa, C> x, const RowStatistics<Isa>& r) {
    using D = Vec<Isa, double>;
#pragma GCC unroll 2
    for (int k = 0; k < x.parts; ++k) {
        if constexpr (sizeof(C) == 8) {
            x.part[k] = (x.part[k] * D::splat(r.prescale) - r.mean.hi) - r.mean.lo;
        } else {
            x.part[k] = x.part[k] - r.mean.hi;
        }
    }
    return x;
}

// A segment of a row.
template <bool rectify, class Isa, class C>
[[gnu::noinline]] void emit_segment(SegmentData<C> y, SegmentData<C> x, const Segment& s,
                                    const NormAffine& affine, std::ptrdiff_t group,
                                    const RowStatistics<Isa>& r) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    for (std::ptrdiff_t k = 0; k < s.planes; ++k) {
        const C* from = x.data + k * x.pitch;
        C* to = y.data + k * y.pitch;
        const std::ptrdiff_t at = affine_offset(affine, group, s.plane + k, s.begin);
        const double* weight = affine.weight ? affine.weight + at : nullptr;
        const double* bias = affine.bias ? affine.bias + at : nullptr;
        if (affine.position_step != 0) {
            // The weights have a register's room behind their end.
            for_each_vec_overlapping<Isa, W::size>(
                s.n, [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
                    W v = centred<Isa, C>(load_wide<Isa>(from + i, lanes), r);
#pragma GCC unroll 2
                    for (int j = 0; j < W::parts; ++j) {
                        D scale = r.rstd;
                        if (weight) scale = scale * loadu<Isa>(weight + i + j * D::size);
                        v.part[j] = v.part[j] * scale;
                        if (bias) v.part[j] = v.part[j] + loadu<Isa>(bias + i + j * D::size);
                    }
                    store_wide(to + i, v, lanes);
                });
        } else {
            const D scale = weight ? r.rstd * D::splat(*weight) : r.rstd;
            const D shift = bias ? D::splat(*bias) : D::zero();
            for_each_vec_overlapping<Isa, W::size>(
                s.n, [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
                    W v = centred<Isa, C>(load_wide<Isa>(from + i, lanes), r);
#pragma GCC unroll 2
                    for (int j = 0; j < W::parts; ++j)
                        v.part[j] = rectified<rectify>(v.part[j] * scale + shift);
                    store_wide(to + i, v, lanes);
                });
        }
    }
}

template <class Isa, class C>
void emit_part(const NormShape& shape, const NormOperand& y, const NormOperand& x,
               const NormAffine& affine, std::ptrdiff_t row, const Segment& s,
               const RowStatistics<Isa>& r, C* scratch) {
    const SegmentData<C> to = segment_to_write<Isa>(shape, y, row, s, scratch + segment_columns);
    const SegmentData<C> from = read_segment<Isa>(shape, x, row, s, scratch);
    const std::ptrdiff_t group = row % shape.groups;
    affine.rectify ? emit_segment<true, Isa, C>(to, from, s, affine, group, r)
                   : emit_segment<false, Isa, C>(to, from, s, affine, group, r);
    write_segment<Isa>(shape, y, row, s, scratch + segment_columns);
}

template <class Isa, class C>
C* segment_scratch(int segments) {
    return static_cast<C*>(
        thread_scratch(static_cast<std::size_t>(segments) * segment_columns * sizeof(C)));
}

// Runs over rows, several in a task if they are short. Few long rows are better cut.
template <class Isa, class F>
void for_row_runs(std::ptrdiff_t rows, std::ptrdiff_t cols, const F& f) {
    const std::ptrdiff_t each = larger<Isa>(task_elements / cols, std::ptrdiff_t{1});
    parallel_for<Isa>((rows + each - 1) / each, [&](std::ptrdiff_t task) {
        f(task * each, smaller<Isa>(rows, (task + 1) * each));
    });
}
constexpr std::ptrdiff_t few_rows = 16;

template <class Isa>
void save_statistics(const RowStatistics<Isa>& r, std::ptrdiff_t row, double* mean, double* rstd,
                     double* variance) {
    mean[row] = (r.mean.hi[0] + r.mean.lo[0]) / r.prescale;
    rstd[row] = r.rstd[0] * r.prescale;
    if (variance) variance[row] = r.variance[0] / r.prescale / r.prescale;
}

template <class Isa, class C>
void normalize_row(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                   const NormAffine& affine, double eps, std::ptrdiff_t row, double* mean,
                   double* rstd, double* variance) {
    C* scratch = segment_scratch<Isa, C>(2);
    const RowStatistics<Isa> r = row_statistics<Isa>(shape, x, row, eps, scratch);
    const Segments<Isa> segments(shape);
    for (std::ptrdiff_t i = 0; i < segments.count; ++i)
        emit_part<Isa>(shape, y, x, affine, row, segments[i], r, scratch);
    save_statistics<Isa>(r, row, mean, rstd, variance);
}

// Rows of one segment, a register of them at a time: a row a lane from its sums to its rstd,
// because divisions and the root would take longer than a short row's elements.
template <class Isa, class C>
void normalize_short_rows(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                          const NormAffine& affine, double eps, std::ptrdiff_t row,
                          std::ptrdiff_t end, double* mean, double* rstd, double* variance) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size;
    const Segment s = Segments<Isa>(shape)[0];
    const double n = static_cast<double>(shape.cols());
    for (; row < end; row += lanes) {
        const int count = static_cast<int>(smaller<Isa>(end - row, lanes));
        C* scratch = segment_scratch<Isa, C>(2);
        double shift[lanes] = {}, parts[4][lanes] = {};
        for (int k = 0; k < count; ++k) {
            const SegmentData<C> from = read_segment<Isa>(shape, x, row + k, s, scratch);
            const ShiftedSums<Isa, C> sums =
                segment_shifted_sums<Isa>(from, s, shape.planes_are_channels, 1);
            const Pair<Isa> s1 = as_pair(sums.s1), s2 = as_pair(sums.s2);
            shift[k] = static_cast<double>(from.data[0]);
            parts[0][k] = s1.hi[0];
            parts[1][k] = s1.lo[0];
            parts[2][k] = s2.hi[0];
            parts[3][k] = s2.lo[0];
        }
        const auto part = [&](int k) { return loadu<Isa>(parts[k]); };
        ShiftedSums<Isa, C> sums;
        if constexpr (sizeof(C) == 8) {
            sums = {{part(0), part(1)}, {part(2), part(3)}};
        } else {
            sums = {part(0), part(2)};
        }
        const Moments<Isa> m = moments_of<Isa, C>(sums, loadu<Isa>(shift), n);
        const RowStatistics<Isa> all(m, n, eps, 1);
        for (int k = 0; k < count; ++k) {
            if constexpr (sizeof(C) == 8) {
                if (prescale_for<Isa>(m.mean.hi[k], m.m2.hi[k], eps) != 1) {
                    normalize_row<Isa, C>(shape, y, x, affine, eps, row + k, mean, rstd, variance);
                    continue;
                }
            }
            const RowStatistics<Isa> r(all, k);
            emit_part<Isa>(shape, y, x, affine, row + k, s, r, scratch);
            save_statistics<Isa>(r, row + k, mean, rstd, variance);
        }
    }
}

template <class Isa, class C>
void normalize_along(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                     const NormAffine& affine, double eps, double* mean, double* rstd,
                     double* variance) {
    const Segments<Isa> segments(shape);
    if (segments.count == 1) {
        for_row_runs<Isa>(shape.rows(), shape.cols(), [&](std::ptrdiff_t row, std::ptrdiff_t end) {
            normalize_short_rows<Isa, C>(shape, y, x, affine, eps, row, end, mean, rstd, variance);
        });
        return;
    }
    if (shape.rows() >= few_rows) {
        for_row_runs<Isa>(shape.rows(), shape.cols(), [&](std::ptrdiff_t row, std::ptrdiff_t end) {
            for (; row < end; ++row)
                normalize_row<Isa, C>(shape, y, x, affine, eps, row, mean, rstd, variance);
        });
        return;
    }
    SharedBlock<Isa> block(static_cast<std::size_t>(shape.rows() * segments.count) *
                           sizeof(Moments<Isa>));
    Moments<Isa>* moments = static_cast<Moments<Isa>*>(block.data);
    parallel_for<Isa>(shape.rows() * segments.count, [&](std::ptrdiff_t task) {
        const Segment s = segments[task % segments.count];
        C* scratch = segment_scratch<Isa, C>(1);
        moments[task] =
            segment_moments<Isa>(read_segment<Isa>(shape, x, task / segments.count, s, scratch), s,
                                 shape.planes_are_channels, 1);
    });
    for (std::ptrdiff_t row = 0; row < shape.rows(); ++row) {
        Moments<Isa> total = moments[row * segments.count];
        double seen = 0;
        for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
            const double n = static_cast<double>(segments[i].planes * segments[i].n);
            if (i > 0) total = merged(total, seen, moments[row * segments.count + i], n);
            seen += n;
        }
        RowStatistics<Isa> r(total, seen, eps, 1);
        if constexpr (sizeof(C) == 8) {
            if (prescale_for<Isa>(total.mean.hi[0], total.m2.hi[0], eps) != 1)
                r = row_statistics<Isa>(shape, x, row, eps, segment_scratch<Isa, C>(1));
        }
        save_statistics<Isa>(r, row, mean, rstd, variance);
        parallel_for<Isa>(segments.count, [&](std::ptrdiff_t i) {
            emit_part<Isa>(shape, y, x, affine, row, segments[i], r, segment_scratch<Isa, C>(2));
        });
    }
}

// Constants of neighbouring channels, as arrays.
struct StripConstants {
    double *mean, *rest, *scale, *shift;
};

// body(first, count, position) for blocks of channels whose constants stay in L1 from one position
// to the next.
template <class Isa, class Body>
[[gnu::always_inline]] inline void each_channel_block(std::ptrdiff_t channels, std::ptrdiff_t begin,
                                                      std::ptrdiff_t end, const Body& body) {
    constexpr std::ptrdiff_t block = 256;
    for (std::ptrdiff_t first = 0; first < channels; first += block)
        for (std::ptrdiff_t i = begin; i < end; ++i)
            body(first, smaller<Isa>(channels - first, block), i);
}

// All channels, position by position, from position `begin` of a plane on.
template <class Isa, class C, bool rectify = false>
[[gnu::noinline]] void emit_across(const NormOperand& y, const NormOperand& x,
                                   std::ptrdiff_t channels, std::ptrdiff_t begin,
                                   std::ptrdiff_t end, std::ptrdiff_t y_offset,
                                   std::ptrdiff_t x_offset, const StripConstants& c) {
    using D = Vec<Isa, double>;
    using W = Wide<Isa, C>;
    each_channel_block<Isa>(
        channels, begin, end,
        [&](std::ptrdiff_t first, std::ptrdiff_t count, std::ptrdiff_t i)
            __attribute__((always_inline)) {
                const C* from =
                    reinterpret_cast<const C*>(x.data + x_offset + i * x.length_stride[0]) + first;
                C* to = reinterpret_cast<C*>(y.data + y_offset + i * y.length_stride[0]) + first;
                for_each_vec<Isa, W::size>(
                    count, [&](std::ptrdiff_t g, auto lanes) __attribute__((always_inline)) {
                        W v = load_wide<Isa>(from + g, lanes);
#pragma GCC unroll 2
                        for (int k = 0; k < W::parts; ++k) {
                            const std::ptrdiff_t at = first + g + k * D::size;
                            D d = v.part[k] - loadu<Isa>(c.mean + at);
                            if constexpr (sizeof(C) == 8) d = d - loadu<Isa>(c.rest + at);
                            v.part[k] = rectified<rectify>(d * loadu<Isa>(c.scale + at) +
                                                           loadu<Isa>(c.shift + at));
                        }
                        store_wide(to + g, v, lanes);
                    });
            });
}

// f(image, begin, end) for parts of the positions of every image: the planes of batch norm, the
// samples of group norm.
template <class Isa, class F>
void for_positions(std::ptrdiff_t images, std::ptrdiff_t length, std::ptrdiff_t channels,
                   const F& f) {
    const std::ptrdiff_t wanted = larger<Isa>(task_elements / channels, std::ptrdiff_t{1});
    // Short images several a task, long ones in parts.
    const std::ptrdiff_t parts = (length + wanted - 1) / wanted;
    const std::ptrdiff_t each = parts > 1 ? 1 : larger<Isa>(wanted / length, std::ptrdiff_t{1});
    const std::ptrdiff_t runs = (images + each - 1) / each;
    parallel_for<Isa>(runs * parts, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t begin = task % parts * wanted;
        const std::ptrdiff_t first = task / parts * each;
        for (std::ptrdiff_t n = first; n < smaller<Isa>(images, first + each); ++n)
            f(n, begin, smaller<Isa>(length, begin + wanted));
    });
}

template <class Isa>
std::ptrdiff_t sample_offset(const NormShape& shape, const NormOperand& a, std::ptrdiff_t sample) {
    return run_at<Isa>(shape.sample_ndim, shape.sample_size, a.sample_stride, sample, 1).offset;
}

// `arrays` arrays of `n` doubles with room behind each for a register beyond its end.
template <class Isa>
struct DoubleArrays {
    SharedBlock<Isa> block;
    std::ptrdiff_t pitch;

    DoubleArrays(std::ptrdiff_t arrays, std::ptrdiff_t n)
        : block(static_cast<std::size_t>(arrays * (n + 16)) * sizeof(double)), pitch(n + 16) {}
    double* operator[](std::ptrdiff_t i) const {
        return static_cast<double*>(block.data) + i * pitch;
    }
};

template <class Isa, class C>
void normalize_across(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                      const NormAffine& affine, double eps, double* mean, double* rstd,
                      double* variance) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size, strip = strip_registers * lanes;
    const Segments<Isa> segments(shape);
    const std::ptrdiff_t groups = shape.groups, strips = (groups + strip - 1) / strip;
    DoubleArrays<Isa> table(4 * segments.count, groups), constants(5, groups);
    parallel_for<Isa>(segments.count * strips, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t i = task / strips, row = task % strips * strip;
        const std::ptrdiff_t count = smaller<Isa>(groups - row, strip);
        Moments<Isa> moments[strip_registers];
        strip_moments<Isa, C>(x, segments[i], row, count, moments);
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r) {
            const D parts[] = {moments[r].mean.hi, moments[r].mean.lo, moments[r].m2.hi,
                               moments[r].m2.lo};
            for (int k = 0; k < 4; ++k)
                store_some(table[4 * i + k] + row + r * lanes, parts[k], count - r * lanes);
        }
    });
    const StripConstants c = {constants[0], constants[1], constants[2], constants[3]};
    double* const squares = constants[4];
    for_row_runs<Isa>((groups + lanes - 1) / lanes, 64 * segments.count,
                      [&](std::ptrdiff_t r, std::ptrdiff_t end) {
                          for (; r < end; ++r) {
                              const std::ptrdiff_t row = r * lanes, count = groups - row;
                              auto moments = [&](std::ptrdiff_t i) {
                                  auto part = [&](int k) {
                                      return load_some<Isa>(table[4 * i + k] + row, count);
                                  };
                                  return Moments<Isa>{{part(0), part(1)}, {part(2), part(3)}};
                              };
                              Moments<Isa> total = moments(0);
                              double seen = 0;
                              for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
                                  const double n =
                                      static_cast<double>(segments[i].planes * segments[i].n);
                                  if (i > 0) total = merged(total, seen, moments(i), n);
                                  seen += n;
                              }
                              const RowStatistics<Isa> s(total, seen, eps, 1);
                              D scale = s.rstd, shift = D::zero();
                              if (affine.weight)
                                  scale = scale * load_some<Isa>(affine.weight + row, count);
                              if (affine.bias) shift = load_some<Isa>(affine.bias + row, count);
                              store_some(c.mean + row, s.mean.hi, count);
                              store_some(c.rest + row, s.mean.lo, count);
                              store_some(c.scale + row, scale, count);
                              store_some(c.shift + row, shift, count);
                              store_some(squares + row, total.m2.hi, count);
                              store_some(mean + row, s.mean.hi + s.mean.lo, count);
                              store_some(rstd + row, s.rstd, count);
                              if (variance) store_some(variance + row, s.variance, count);
                          }
                      });
    for_positions<Isa>(shape.planes, shape.length, groups,
                       [&](std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end) {
                           emit_across<Isa, C>(y, x, groups, begin, end, plane * y.plane_stride,
                                               plane * x.plane_stride, c);
                       });
    if constexpr (sizeof(C) == 8) {
        for (std::ptrdiff_t row = 0; row < groups; ++row)
            if (prescale_for<Isa>(c.mean[row], squares[row], eps) != 1)
                normalize_row<Isa, C>(shape, y, x, affine, eps, row, mean, rstd, variance);
    }
}

// Group norm of channels-last images: sums of channels side by side, then rows from their channels'
// sums.
template <class Isa, class C>
void normalize_channels(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                        const NormAffine& affine, double eps, double* mean, double* rstd,
                        double* variance) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size, strip = strip_registers * lanes;
    const Segments<Isa> segments(shape);
    const std::ptrdiff_t planes = shape.planes, channels = shape.groups * planes;
    const std::ptrdiff_t strips = (channels + strip - 1) / strip, pieces = segments.pieces;
    // By sample and piece of the length: shift and sums of every channel.
    constexpr int kept = 5;
    DoubleArrays<Isa> table(kept * pieces * shape.samples, channels);
    DoubleArrays<Isa> constants(4 * shape.samples, channels);
    const auto first_of = [&](std::ptrdiff_t sample, std::ptrdiff_t channel, std::ptrdiff_t begin) {
        return reinterpret_cast<const C*>(x.data + sample_offset<Isa>(shape, x, sample) +
                                          begin * x.length_stride[0])[channel];
    };
    parallel_for<Isa>(shape.samples * pieces * strips, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t channel = task % strips * strip, image = task / strips;
        const std::ptrdiff_t sample = image / pieces, piece = image % pieces;
        const std::ptrdiff_t count = smaller<Isa>(channels - channel, strip);
        const std::ptrdiff_t begin = piece * segment_columns;
        const Segment s = {0, 1, begin, smaller<Isa>(shape.length - begin, segment_columns)};
        double* const shifts = table[kept * image];
        D shift[strip_registers];
        ShiftedSums<Isa, C> sums[strip_registers];
        for (std::ptrdiff_t c = channel; c < channel + count; ++c) {
            // The first element of the channel's segment.
            const std::ptrdiff_t plane = c % planes;
            const std::ptrdiff_t first = c - plane % segments.planes_each;
            shifts[c] = static_cast<double>(first_of(sample, first, begin));
        }
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r)
            shift[r] = load_some<Isa>(shifts + channel + r * lanes, count - r * lanes);
        NormOperand image_x = x;
        image_x.data += sample_offset<Isa>(shape, x, sample);
        strip_shifted_sums<Isa, C>(image_x, s, channel, count, shift, sums);
        for (std::ptrdiff_t r = 0; r * lanes < count; ++r) {
            const Pair<Isa> s1 = as_pair(sums[r].s1), s2 = as_pair(sums[r].s2);
            const D parts[] = {s1.hi, s1.lo, s2.hi, s2.lo};
            for (int k = 0; k < 4; ++k)
                store_some(table[kept * image + 1 + k] + channel + r * lanes, parts[k],
                           count - r * lanes);
        }
    });
    parallel_for<Isa>(shape.samples, [&](std::ptrdiff_t sample) {
        const StripConstants c = {constants[4 * sample], constants[4 * sample + 1],
                                  constants[4 * sample + 2], constants[4 * sample + 3]};
        for (std::ptrdiff_t group = 0; group < shape.groups; ++group) {
            const std::ptrdiff_t row = sample * shape.groups + group;
            Moments<Isa> total;
            double seen = 0;
            for (std::ptrdiff_t i = 0; i < segments.count; ++i) {
                const Segment s = segments[i];
                const std::ptrdiff_t image = sample * pieces + s.begin / segment_columns;
                const std::ptrdiff_t first = group * planes + s.plane;
                ShiftedSums<Isa, C> sums = no_sums<Isa, C>();
                for (std::ptrdiff_t k = first; k < first + s.planes; ++k) {
                    const auto part = [&](int j) { return D::splat(table[kept * image + j][k]); };
                    if constexpr (sizeof(C) == 8) {
                        sums = {plus(sums.s1, Pair<Isa>{part(1), part(2)}),
                                plus(sums.s2, Pair<Isa>{part(3), part(4)})};
                    } else {
                        sums = {plus(sums.s1, part(1)), plus(sums.s2, part(3))};
                    }
                }
                const double n = static_cast<double>(s.planes * s.n);
                const Moments<Isa> m =
                    moments_of<Isa, C>(sums, D::splat(table[kept * image][first]), n);
                total = i == 0 ? m : merged(total, seen, m, n);
                seen += n;
            }
            const RowStatistics<Isa> r(total, seen, eps, 1);
            save_statistics<Isa>(r, row, mean, rstd, variance);
            for (std::ptrdiff_t k = group * planes; k < (group + 1) * planes; ++k) {
                c.mean[k] = r.mean.hi[0];
                c.rest[k] = r.mean.lo[0];
                c.scale[k] = affine.weight ? r.rstd[0] * affine.weight[k] : r.rstd[0];
                c.shift[k] = affine.bias ? affine.bias[k] : 0;
            }
            if constexpr (sizeof(C) == 8) {
                // Done again below, along; NaN marks it.
                if (prescale_for<Isa>(total.mean.hi[0], total.m2.hi[0], eps) != 1)
                    c.rest[group * planes] = __builtin_nan("");
            }
        }
    });
    for_positions<Isa>(
        shape.samples, shape.length, channels,
        [&](std::ptrdiff_t sample, std::ptrdiff_t begin, std::ptrdiff_t end) {
            const StripConstants c = {constants[4 * sample], constants[4 * sample + 1],
                                      constants[4 * sample + 2], constants[4 * sample + 3]};
            emit_across<Isa, C>(y, x, channels, begin, end, sample_offset<Isa>(shape, y, sample),
                                sample_offset<Isa>(shape, x, sample), c);
        });
    if constexpr (sizeof(C) == 8) {
        for (std::ptrdiff_t row = 0; row < shape.rows(); ++row) {
            const double* rest = constants[4 * (row / shape.groups) + 1];
            const double value = rest[row % shape.groups * planes];
            if (value != value)
                normalize_row<Isa, C>(shape, y, x, affine, eps, row, mean, rstd, variance);
        }
    }
}

template <class Isa, class C>
void normalize(const NormShape& shape, const NormOperand& y, const NormOperand& x,
               const NormAffine& affine, double eps, double* mean, double* rstd, double* variance) {
    const bool across = lies_across<Isa, C>(shape, x) && lies_across<Isa, C>(shape, y);
    if (across && shape.planes_are_channels) {
        normalize_channels<Isa, C>(shape, y, x, affine, eps, mean, rstd, variance);
    } else if (across && affine.position_step == 0) {
        normalize_across<Isa, C>(shape, y, x, affine, eps, mean, rstd, variance);
    } else {
        normalize_along<Isa, C>(shape, y, x, affine, eps, mean, rstd, variance);
    }
}

// Statistics that are given, a row a lane.
template <class Isa>
RowStatistics<Isa> known_statistics(Vec<Isa, double> mean, Vec<Isa, double> variance, double eps,
                                    double prescale) {
    using D = Vec<Isa, double>;
    const D p = D::splat(prescale), zero = D::zero();
    return {{{mean * p, zero}, {variance * p * p, zero}}, 1, eps, prescale};
}
// A quarter is worked on where variance + eps or the difference of an element and the mean may
// overflow: x - mean does not while |mean| < 2^970, half a unit in the last place of the largest x.
template <class Isa, class C>
double known_prescale(double mean, double variance, double eps) {
    const bool large = variance > 0x1p1000 || eps > 0x1p1000 || mean > 0x1p969 || mean < -0x1p969;
    return sizeof(C) == 8 && large ? 0.25 : 1;
}

template <class Isa, class C>
void transform(const NormShape& shape, const NormOperand& y, const NormOperand& x,
               const NormAffine& affine, double eps, const double* mean, const double* variance) {
    using D = Vec<Isa, double>;
    constexpr std::ptrdiff_t lanes = D::size;
    const Segments<Isa> segments(shape);
    const std::ptrdiff_t groups = shape.groups;
    // Rows [row, end), of which at most a register's.
    const auto rows_along = [&](std::ptrdiff_t row, std::ptrdiff_t end, std::ptrdiff_t first,
                                std::ptrdiff_t last) {
        C* scratch = segment_scratch<Isa, C>(2);
        const RowStatistics<Isa> all =
            known_statistics<Isa>(load_some<Isa>(mean + row, end - row),
                                  load_some<Isa>(variance + row, end - row), eps, 1);
        for (int lane = 0; row + lane < end; ++lane) {
            const double m = mean[row + lane], v = variance[row + lane];
            RowStatistics<Isa> r(all, lane);
            const double prescale = known_prescale<Isa, C>(m, v, eps);
            if (prescale != 1) r = known_statistics<Isa>(D::splat(m), D::splat(v), eps, prescale);
            for (std::ptrdiff_t i = first; i < last; ++i)
                emit_part<Isa>(shape, y, x, affine, row + lane, segments[i], r, scratch);
        }
    };
    if (!lies_across<Isa, C>(shape, x) || !lies_across<Isa, C>(shape, y)) {
        if (groups < few_rows) {
            parallel_for<Isa>(groups * segments.count, [&](std::ptrdiff_t task) {
                const std::ptrdiff_t i = task % segments.count, row = task / segments.count;
                rows_along(row, row + 1, i, i + 1);
            });
        } else {
            for_row_runs<Isa>(groups, shape.cols(), [&](std::ptrdiff_t row, std::ptrdiff_t end) {
                for (; row < end; row += lanes)
                    rows_along(row, smaller<Isa>(end, row + lanes), 0, segments.count);
            });
        }
        return;
    }
    DoubleArrays<Isa> constants(4, groups);
    const StripConstants c = {constants[0], constants[1], constants[2], constants[3]};
    for (std::ptrdiff_t row = 0; row < groups; row += lanes) {
        const std::ptrdiff_t count = groups - row;
        const RowStatistics<Isa> r = known_statistics<Isa>(
            load_some<Isa>(mean + row, count), load_some<Isa>(variance + row, count), eps, 1);
        D scale = r.rstd, shift = D::zero();
        if (affine.weight) scale = scale * load_some<Isa>(affine.weight + row, count);
        if (affine.bias) shift = load_some<Isa>(affine.bias + row, count);
        store_some(c.mean + row, r.mean.hi, count);
        store_some(c.rest + row, r.mean.lo, count);
        store_some(c.scale + row, scale, count);
        store_some(c.shift + row, shift, count);
    }
    const auto emit = affine.rectify ? emit_across<Isa, C, true> : emit_across<Isa, C, false>;
    for_positions<Isa>(shape.planes, shape.length, groups,
                       [&](std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end) {
                           emit(y, x, groups, begin, end, plane * y.plane_stride,
                                plane * x.plane_stride, c);
                       });
    if constexpr (sizeof(C) == 8) {
        for (std::ptrdiff_t g = 0; g < groups; ++g)
            if (known_prescale<Isa, C>(mean[g], variance[g], eps) != 1)
                rows_along(g, g + 1, 0, segments.count);
    }
}

template <class Isa>
void update_running(std::ptrdiff_t count, double* running, const double* statistic, double factor,
                    double momentum) {
    for (std::ptrdiff_t i = 0; i < count; ++i)
        running[i] = (1 - momentum) * running[i] + momentum * (factor * statistic[i]);
}

}  // namespace stableops
