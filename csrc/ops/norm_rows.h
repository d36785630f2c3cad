#pragma once
// What the normalisations share: the segments of a row, its data in two forms, and sums over it.
//
// A row is cut into segments of at most 4096 columns: as many whole planes as fit, or a piece of
// one plane. In a segment, 16 logical lanes of float64 (simd/sum.h): lane j adds the positions j, j
// + 16, j + 32, ... of each plane, in that order; the lanes are folded as everywhere, and the
// segments combined in order. Where the planes of a row are channels (group norm), the lanes of
// each plane are folded and the planes' sums added in order, so that all channels can be worked on
// side by side. Terms of float64 arrays are added with their rounding errors (Pair). Nothing of
// this depends on layout, threads, register width, or the other rows.
//
//   along    registers hold neighbouring positions of one row; what does not lie so, or is no
//   compute
//            type, passes through scratch, a segment at a time.
//   across   channels are neighbours in memory (channels-last, or (N, C)): registers hold one
//            position of neighbouring channels, up to 8 registers side by side so that memory is
//            read in whole cache lines.
#include "../norm_plan.h"
#include "rows.h"

namespace stableops {

constexpr std::ptrdiff_t segment_columns = 4096;

struct Segment {
    std::ptrdiff_t plane, planes, begin, n;
};

template <class Isa>
struct Segments {
    std::ptrdiff_t planes, length, planes_each, pieces, count;

    // With `each_plane`, a segment has one plane.
    Segments(const NormShape& shape, bool each_plane = false)
        : planes(shape.planes),
          length(shape.length),
          planes_each(each_plane ? 1
                                 : larger<Isa>(segment_columns / shape.length, std::ptrdiff_t{1})),
          pieces((shape.length + segment_columns - 1) / segment_columns),
          count(pieces > 1 ? planes * pieces : (planes + planes_each - 1) / planes_each) {}

    Segment operator[](std::ptrdiff_t i) const {
        if (pieces > 1) {
            const std::ptrdiff_t begin = i % pieces * segment_columns;
            return {i / pieces, 1, begin, smaller<Isa>(length - begin, segment_columns)};
        }
        const std::ptrdiff_t plane = i * planes_each;
        return {plane, smaller<Isa>(planes - plane, planes_each), 0, length};
    }
};

template <class Isa>
std::ptrdiff_t row_offset(const NormShape& shape, const NormOperand& a, std::ptrdiff_t row) {
    const std::ptrdiff_t sample = row / shape.groups;
    return run_at<Isa>(shape.sample_ndim, shape.sample_size, a.sample_stride, sample, 1).offset +
           row % shape.groups * a.group_stride;
}

template <class Isa, class C>
bool lies_along(const NormShape& shape, const NormOperand& a) {
    return a.type == storage_of<C> && shape.length_ndim == 1 &&
           (a.length_stride[0] == sizeof(C) || shape.length == 1);
}
template <class Isa, class C>
bool lies_across(const NormShape& shape, const NormOperand& a) {
    if (a.type != storage_of<C> || shape.length_ndim != 1) return false;
    if (!shape.planes_are_channels)
        return shape.samples == 1 && shape.groups > 1 && a.group_stride == sizeof(C);
    return (shape.planes == 1 || a.plane_stride == sizeof(C)) &&
           (shape.groups == 1 ||
            a.group_stride == shape.planes * static_cast<std::ptrdiff_t>(sizeof(C))) &&
           shape.groups * shape.planes > 1;
}

// A segment of one row: plane k at data + k * pitch. Read into scratch if it does not lie along.
template <class C>
struct SegmentData {
    C* data;
    std::ptrdiff_t pitch;
};
template <class Isa, class C, class Each>
void each_run(const NormShape& shape, const NormOperand& a, std::ptrdiff_t row, const Segment& s,
              C* packed, const Each& each) {
    for (std::ptrdiff_t k = 0; k < s.planes; ++k) {
        char* plane = a.data + row_offset<Isa>(shape, a, row) + (s.plane + k) * a.plane_stride;
        for (std::ptrdiff_t i = 0; i < s.n;) {
            const Run run = run_at<Isa>(shape.length_ndim, shape.length_size, a.length_stride,
                                        s.begin + i, s.n - i);
            each(packed + k * s.n + i, plane + run.offset, a.length_stride[shape.length_ndim - 1],
                 run.length);
            i += run.length;
        }
    }
}
template <class Isa, class C>
SegmentData<C> place_of(const NormShape& shape, const NormOperand& a, std::ptrdiff_t row,
                        const Segment& s) {
    return {
        reinterpret_cast<C*>(a.data + row_offset<Isa>(shape, a, row) + s.plane * a.plane_stride) +
            s.begin,
        a.plane_stride / static_cast<std::ptrdiff_t>(sizeof(C))};
}
template <class Isa, class C>
SegmentData<C> read_segment(const NormShape& shape, const NormOperand& a, std::ptrdiff_t row,
                            const Segment& s, C* scratch) {
    if (lies_along<Isa, C>(shape, a)) return place_of<Isa, C>(shape, a, row, s);
    each_run<Isa>(shape, a, row, s, scratch,
                  [&](C* to, const char* from, std::ptrdiff_t stride, std::ptrdiff_t n) {
                      read_elements<Isa>(to, a.type, from, stride, n);
                  });
    return {scratch, s.n};
}
// Where a segment is to be written; write_segment() brings it home if that was scratch.
template <class Isa, class C>
SegmentData<C> segment_to_write(const NormShape& shape, const NormOperand& a, std::ptrdiff_t row,
                                const Segment& s, C* scratch) {
    if (lies_along<Isa, C>(shape, a)) return place_of<Isa, C>(shape, a, row, s);
    return {scratch, s.n};
}
template <class Isa, class C>
void write_segment(const NormShape& shape, const NormOperand& a, std::ptrdiff_t row,
                   const Segment& s, C* scratch) {
    if (lies_along<Isa, C>(shape, a)) return;
    each_run<Isa>(shape, a, row, s, scratch,
                  [&](C* from, char* to, std::ptrdiff_t stride, std::ptrdiff_t n) {
                      write_elements<Isa>(to, a.type, from, stride, n);
                  });
}

// A register of C as one or two of float64.
template <class Isa, class C>
struct Wide {
    using D = Vec<Isa, double>;
    static constexpr int parts = sizeof(C) == 8 ? 1 : 2;
    static constexpr int size = parts * D::size;
    D part[parts];
};
template <class Isa, class C>
[[gnu::always_inline]] inline Wide<Isa, C> load_wide(const C* p, AllLanes) {
    Wide<Isa, C> v;
#pragma GCC unroll 2
    for (int k = 0; k < v.parts; ++k) v.part[k] = load_lanes<Isa>(p + k * (v.size / v.parts));
    return v;
}
template <class Isa, class C>
[[gnu::always_inline]] inline Wide<Isa, C> widened(Vec<Isa, C> v) {
    if constexpr (sizeof(C) == 8) {
        return {{v}};
    } else {
        return {{widen_low(v), widen_high(v)}};
    }
}
template <class Isa, class C>
[[gnu::always_inline]] inline Wide<Isa, C> load_wide(const C* p, FirstLanes lanes) {
    return widened<Isa, C>(load<Isa>(p, lanes));
}
// The first `count` lanes.
template <class Isa, class C>
[[gnu::always_inline]] inline Mask<Isa, C> first_lanes(int count) {
    if constexpr (sizeof(C) == 8) {
        return lane_numbers<Isa>() < Vec<Isa, double>::splat(count);
    } else {
        return loadu<Isa>(lane_index) < Mask<Isa, C>::splat(count);
    }
}
template <class Isa, class C, class L>
[[gnu::always_inline]] inline void store_wide(C* p, const Wide<Isa, C>& v, L lanes) {
    if constexpr (sizeof(C) == 8) {
        store<Isa>(p, v.part[0], lanes);
    } else if constexpr (std::is_same_v<L, AllLanes>) {
        // Two stores take less than joining the halves and one.
        store_narrowed(p, v.part[0]);
        store_narrowed(p + v.size / v.parts, v.part[1]);
    } else {
        store<Isa>(p, narrow(v.part[0], v.part[1]), lanes);
    }
}

// body(position, lanes) for n positions. The last register overlaps its neighbour rather than be
// stored in part, which is slow; so what is written must not be what is read.
template <class Isa, int width, class Body>
[[gnu::always_inline]] inline void for_each_vec_overlapping(std::ptrdiff_t n, const Body& body) {
    if (n < width) {
        body(0, FirstLanes{static_cast<int>(n)});
        return;
    }
    for (std::ptrdiff_t i = 0; i < n; i += width) body(smaller<Isa>(i, n - width), AllLanes{});
}

// body(slot, position, values) for the n positions of a run, lane by lane; `beyond` stands in for
// the elements behind the last.
template <class Isa, class C, int inputs, class Body>
[[gnu::always_inline]] inline void each_slot(std::ptrdiff_t n, const C* const (&in)[inputs],
                                             const double (&beyond)[inputs], const Body& body) {
    using D = Vec<Isa, double>;
    using V = Vec<Isa, C>;
    constexpr int lanes = D::size;
    std::ptrdiff_t i = 0;
    for (; i + sum_lanes <= n; i += sum_lanes) {
#pragma GCC unroll 8
        for (int s = 0; s < sum_lanes / lanes; ++s) {
            D v[inputs];
#pragma GCC unroll 2
            for (int k = 0; k < inputs; ++k) v[k] = load_lanes<Isa>(in[k] + i + s * lanes);
            body(s, i + s * lanes, v);
        }
    }
    // Unrolled, so that no slot has a variable number: sums by slot then stay in registers.
#pragma GCC unroll 8
    for (int s = 0; s < sum_lanes / lanes; s += Wide<Isa, C>::parts, i += V::size) {
        if (i >= n) break;
        const int here = static_cast<int>(smaller<Isa>(n - i, std::ptrdiff_t{V::size}));
        Wide<Isa, C> w[inputs];
#pragma GCC unroll 2
        for (int k = 0; k < inputs; ++k) {
            V v = load<Isa>(in[k] + i, FirstLanes{here});
            if (beyond[k] != 0)
                v = select(first_lanes<Isa, C>(here), v, V::splat(static_cast<C>(beyond[k])));
            w[k] = widened<Isa, C>(v);
        }
#pragma GCC unroll 2
        for (int part = 0; part < Wide<Isa, C>::parts; ++part) {
            if (part * lanes >= here) break;
            D v[inputs];
#pragma GCC unroll 2
            for (int k = 0; k < inputs; ++k) v[k] = w[k].part[part];
            body(s + part, i + part * lanes, v);
        }
    }
}

// What a lane keeps of a sum, and how a term joins it.
template <class Isa, class C>
using SumOf = std::conditional_t<sizeof(C) == 8, Pair<Isa>, Vec<Isa, double>>;
template <class Isa>
[[gnu::always_inline]] inline void join(Vec<Isa, double>& sum, Vec<Isa, double> term) {
    sum = sum + term;
}
template <class Isa>
[[gnu::always_inline]] inline void join(Pair<Isa>& sum, Vec<Isa, double> term) {
    Pair<Isa> s = two_sum(sum.hi, term);
    sum = {s.hi, sum.lo + s.lo};
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> as_pair(Vec<Isa, double> a) {
    return {a, Vec<Isa, double>::zero()};
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> as_pair(Pair<Isa> a) {
    return a;
}
template <class Isa, class S>
[[gnu::always_inline]] inline S no_sum() {
    if constexpr (std::is_same_v<S, Pair<Isa>>) {
        return {Vec<Isa, double>::zero(), Vec<Isa, double>::zero()};
    } else {
        return S::zero();
    }
}

// Registers side by side on the way across, and how much of a strip they cover.
constexpr int strip_registers = 8;

// Adds channels [channel, channel + count) of a strip, of a segment whose planes are not channels,
// to sums[register][lane]: add(register, sum, values). The last register may be partial: its lanes
// beyond `count` are loaded as 0.
//
// Lane by lane over some positions, so that sums stay in registers for more than one of them, and
// these positions near the core for all lanes.
template <class Isa, class C, int inputs, class Sum, class Add>
[[gnu::always_inline]] inline void add_strip(const Segment& s,
                                             const NormOperand* const (&in)[inputs],
                                             std::ptrdiff_t channel, std::ptrdiff_t count,
                                             Sum (&sums)[strip_registers][sum_lanes],
                                             const Add& add) {
    using D = Vec<Isa, double>;
    constexpr int lanes = D::size;
    constexpr std::ptrdiff_t block = 4 * sum_lanes;
    const C* p[inputs];
    std::ptrdiff_t step[inputs];
    std::ptrdiff_t begin = 0, end = 0;
    const auto add_registers = [&](auto together, int r,
                                   const auto& load) __attribute__((always_inline)) {
        constexpr int registers = decltype(together)::value;
        for (int lane = 0; lane < smaller<Isa>(end - begin, std::ptrdiff_t{sum_lanes}); ++lane) {
            Sum sum[registers];
#pragma GCC unroll 4
            for (int q = 0; q < registers; ++q) sum[q] = sums[r + q][lane];
            for (std::ptrdiff_t i = begin + lane; i < end; i += sum_lanes) {
#pragma GCC unroll 4
                for (int q = 0; q < registers; ++q) {
                    D v[inputs];
#pragma GCC unroll 2
                    for (int j = 0; j < inputs; ++j)
                        v[j] = load(p[j] + i * step[j] + (r + q) * lanes);
                    add(r + q, sum[q], v);
                }
            }
#pragma GCC unroll 4
            for (int q = 0; q < registers; ++q) sums[r + q][lane] = sum[q];
        }
    };
    for (std::ptrdiff_t k = 0; k < s.planes; ++k) {
        for (int j = 0; j < inputs; ++j) {
            step[j] = in[j]->length_stride[0] / static_cast<std::ptrdiff_t>(sizeof(C));
            p[j] = reinterpret_cast<const C*>(in[j]->data + (s.plane + k) * in[j]->plane_stride) +
                   channel + s.begin * step[j];
        }
        for (begin = 0; begin < s.n; begin = end) {
            end = smaller<Isa>(s.n, begin + block);
            int r = 0;
            // Sums with errors would not fit into the registers.
            if constexpr (sizeof(C) == 4)
                for (; (r + 4) * lanes <= count; r += 4)
                    add_registers(std::integral_constant<int, 4>{}, r,
                                  [](const C* from) __attribute__((always_inline)) {
                                      return load_lanes<Isa>(from);
                                  });
            for (; r * lanes < count; ++r) {
                const int here =
                    static_cast<int>(smaller<Isa>(count - r * lanes, std::ptrdiff_t{lanes}));
                add_registers(std::integral_constant<int, 1>{}, r,
                              [&](const C* from) __attribute__((always_inline)) {
                                  return load_wide<Isa>(from, FirstLanes{here}).part[0];
                              });
            }
        }
    }
}

// `n` doubles from p on, of which `count` are there.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> load_some(const double* p, std::ptrdiff_t count) {
    constexpr int lanes = Vec<Isa, double>::size;
    return count >= lanes ? loadu<Isa>(p) : load_first<Isa>(p, static_cast<int>(count));
}
template <class Isa>
[[gnu::always_inline]] inline void store_some(double* p, Vec<Isa, double> v, std::ptrdiff_t count) {
    constexpr int lanes = Vec<Isa, double>::size;
    if (count >= lanes) {
        storeu(p, v);
    } else {
        store_first(p, v, static_cast<int>(count));
    }
}

}  // namespace stableops
