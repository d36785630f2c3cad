#pragma once
// Boxes (x1, y1, x2, y2): area, conversion of formats, and measures of how far two sets overlap.
//
//   area          (x2 - x1)(y2 - y1), 0 if x2 <= x1 or y2 <= y1
//   iou           I / U,  I = area of the intersection, U = A + B - I; 0 without an overlap
//   generalized   iou - (C - U) / C,  C = area of the smallest box around all corners [1]
//   distance      iou - d^2 / c^2,  d = distance of the centres, c = diagonal of that box [2]
//   complete      distance - alpha v,  v = 4 / pi^2 (atan(w_a / h_a) - atan(w_b / h_b))^2,
//                 alpha = v / (1 - iou + v) [2]
//
// Quotients whose denominator is 0 (boxes without extent) count as 0. A NaN coordinate gives NaN,
// an infinite one what the formulas give.
//
// Error, with u half an ULP of 1 in the type computed in (float32 for float16 and bfloat16, whose
// results round once more). Differences round once, areas are within 3u, and U within 12u: A + B is
// off by 4u (A + B) <= 8u U, I by 3u U, and the last subtraction by u. So iou is within 16u,
// relative. The others add (C - U) / C, within 24u, or d^2 / c^2, within 14u: d is taken from
// differences of like corners, (x1 - x1') + (x2 - x2'), not of centres, so that its error is small
// beside c and not beside the coordinates. They lie in [-2, 1] and are within 64u, absolute. All
// this needs I (where the boxes overlap), C and c^2 in a range where no product overflows or
// underflows. Lanes outside it are computed by box_measures(), one by one. Where all boxes of both
// sets are ordinary (BoxColumns), none can be, and nothing is checked: that leaves little beside
// the divisions, which bind the float64 measures and the relatives of iou on x86.
//
// Area and conversions of float32 are computed in float64 and are within 0.5 ULP (float16,
// bfloat16: 0.501 after the second rounding); float64 areas within 2.5 ULP (two sizes, each off by
// at most 2^-53, and the product), conversions within 0.5 ULP, 1 in the subnormal range.
//
// [1] Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019.
// [2] Zheng et al., "Distance-IoU Loss", AAAI 2020.
#include "../runtime/parallel.h"
#include "box_measures.h"
#include "box_rows.h"

namespace stableops {

template <class Isa>
[[gnu::always_inline]] inline double box_area(double x1, double y1, double x2, double y2) {
    double width = x2 - x1;
    double height = y2 - y1;
    double area = width * height;
    if (width != width || height != height) return width + height;
    if (width <= 0 || height <= 0) return 0;
    constexpr double infinity = __builtin_inf();
    if (area == infinity) {
        // Halving is exact where the difference overflows.
        if (width == infinity) return (0.5 * x2 - 0.5 * x1) * height * 2;
        if (height == infinity) return (0.5 * y2 - 0.5 * y1) * width * 2;
    }
    return area;
}

template <class Isa, Storage T>
void box_area(T* area, BoxRows<T> boxes) {
    for (std::ptrdiff_t i = 0; i < boxes.count; ++i) {
        Box<Compute<T>> box = load_box<Isa>(boxes, i);
        store_one<Isa>(area + i, box_area<Isa>(box.x1, box.y1, box.x2, box.y2));
    }
}

// The extent of a box along one axis, from its two coordinates in a format.
template <class Isa>
struct Span {
    double low, high, size, centre;
};

template <class Isa>
[[gnu::always_inline]] inline Span<Isa> span(BoxFormat format, double first, double second) {
    if (format == BoxFormat::xywh) return {first, first + second, second, first + 0.5 * second};
    if (format == BoxFormat::cxcywh)
        return {first - 0.5 * second, first + 0.5 * second, second, first};
    constexpr double infinity = __builtin_inf();
    double sum = first + second;
    bool overflows = sum == infinity || sum == -infinity;
    return {first, second, second - first, overflows ? 0.5 * first + 0.5 * second : 0.5 * sum};
}

// `converted` has rows of four elements.
template <class Isa, Storage T>
void box_convert(T* converted, BoxRows<T> boxes, BoxFormat from, BoxFormat to) {
    for (std::ptrdiff_t i = 0; i < boxes.count; ++i) {
        Box<Compute<T>> box = load_box<Isa>(boxes, i);
        Span<Isa> x = span<Isa>(from, box.x1, box.x2);
        Span<Isa> y = span<Isa>(from, box.y1, box.y2);
        T* row = converted + 4 * i;
        bool centred = to == BoxFormat::cxcywh;
        store_one<Isa>(row, centred ? x.centre : x.low);
        store_one<Isa>(row + 1, centred ? y.centre : y.low);
        store_one<Isa>(row + 2, to == BoxFormat::xyxy ? x.high : x.size);
        store_one<Isa>(row + 3, to == BoxFormat::xyxy ? y.high : y.size);
    }
}

// atan(width / height) in [0, pi / 2]; a size that is not positive counts as 0, and 0 / 0 gives 0.
// |error| < 2^-52: the arctangent of t <= tan(pi / 8), by reflection where needed, is t + t z Q(z)
// with z = t^2 and Q fitted at Chebyshev nodes to 8e-18.
template <class Isa>
double aspect_angle(double width, double height) {
    width = width > 0 ? width : 0;
    height = height > 0 ? height : 0;
    double low = width < height ? width : height;
    double high = width < height ? height : width;
    if (high == 0) return 0;
    // high + low must not overflow; a low that this rounds is below 2^-2000 of it.
    if (high > 0x1p1000) {
        low *= 0x1p-10;
        high *= 0x1p-10;
    }
    constexpr double tan_pi_8 = 0x1.a827999fcef32p-2;
    constexpr double pi_4 = 0x1.921fb54442d18p-1;
    double t = low / high;
    bool reflected = t > tan_pi_8;
    if (reflected) t = (high - low) / (high + low);
    double z = t * t;
    constexpr double q[] = {
        -0x1.3a2b7a07caea9p-6, 0x1.41603647c7a7cp-5, -0x1.a098bb6ba4941p-5, 0x1.dfe61e80903d2p-5,
        -0x1.10fa75382537fp-4, 0x1.3b1262d95579ep-4, -0x1.745d0b26b83e7p-4, 0x1.c71c7185314cbp-4,
        -0x1.24924924360cbp-3, 0x1.999999999934ap-3, -0x1.5555555555555p-2,
    };
    double sum = q[0];
    for (int i = 1; i < 11; ++i) sum = sum * z + q[i];
    double angle = t + t * (z * sum);
    if (reflected) angle = pi_4 - angle;
    return width > height ? 2 * pi_4 - angle : angle;
}

// Of a box; where a size overflows the ratio is that of the halves.
template <class Isa, class C>
double aspect_angle(const Box<C>& box) {
    double x1 = box.x1, y1 = box.y1, x2 = box.x2, y2 = box.y2;
    double width = x2 - x1, height = y2 - y1;
    constexpr double largest = 0x1.fffffffffffffp1023;
    if (width > largest || height > largest) {
        width = x2 / 2 - x1 / 2;
        height = y2 / 2 - y1 / 2;
    }
    return aspect_angle<Isa>(width, height);
}

enum class Measure { iou, generalized, distance, complete };

// Coordinates and what depends on one box alone, one array each.
template <class Isa, class C>
struct BoxColumns {
    using V = Vec<Isa, C>;
    C *x1, *y1, *x2, *y2, *area, *angle;
    // All boxes have their corners in order, and coordinates that are 0 or in a range where
    // products of their differences neither overflow nor underflow: in float32, differences are 0
    // or multiples of 2^-49, up to 2^62.
    bool ordinary;

    // Elements for n boxes, with room for a vector beyond the last.
    static std::ptrdiff_t size(std::ptrdiff_t n) { return 6 * ((n + 31) / 16 * 16); }

    template <Storage T>
    BoxColumns(C* memory, BoxRows<T> boxes, bool with_angle) {
        const std::ptrdiff_t column = size(boxes.count) / 6;
        x1 = memory;
        y1 = x1 + column;
        x2 = y1 + column;
        y2 = x2 + column;
        area = y2 + column;
        angle = area + column;
        for (std::ptrdiff_t i = 0; i < column; ++i) {
            const Box<C> box = i < boxes.count ? load_box<Isa>(boxes, i) : Box<C>{0, 0, 0, 0};
            x1[i] = box.x1;
            y1[i] = box.y1;
            x2[i] = box.x2;
            y2[i] = box.y2;
        }
        if (with_angle)
            for (std::ptrdiff_t i = 0; i < column; ++i)
                angle[i] = static_cast<C>(aspect_angle<Isa>(Box<C>{x1[i], y1[i], x2[i], y2[i]}));
        ordinary = fill_areas(column);
    }
    bool fill_areas(std::ptrdiff_t count) {
        const V zero = V::zero();
        const V low = V::splat(sizeof(C) == 4 ? C(0x1p-26) : C(0x1p-400));
        const V high = V::splat(sizeof(C) == 4 ? C(0x1p61) : C(0x1p500));
        auto strange = zero < zero;
        const auto look_at = [&](V v) {
            strange = strange | ~(abs(v) <= high) | ((abs(v) < low) & (v != zero));
        };
        for (std::ptrdiff_t i = 0; i < count; i += V::size) {
            const V left = loadu<Isa>(x1 + i), right = loadu<Isa>(x2 + i);
            const V top = loadu<Isa>(y1 + i), bottom = loadu<Isa>(y2 + i);
            const V width = right - left, height = bottom - top;
            const V product = width * height;
            const auto flat = (width <= zero) | (height <= zero);
            storeu(area + i, select(flat & ~is_nan(width + height), zero, product));
            strange = strange | (width < zero) | (height < zero);
            look_at(left);
            look_at(top);
            look_at(right);
            look_at(bottom);
        }
        return !any(strange);
    }
};

constexpr double four_over_pi_squared = 0x1.9f02f6222c72p-2;

template <class Isa>
[[gnu::always_inline]] inline double complete_of(const BoxMeasures& m, double angle_a,
                                                 double angle_b) {
    double difference = angle_a - angle_b;
    double v = four_over_pi_squared * difference * difference;
    return v == 0 ? m.distance : m.distance - v * v / (1 - m.iou + v);
}

// The limits within which products and quotients of boxes' sizes are as accurate as boxes.h says.
template <class C>
constexpr C smallest_product = sizeof(C) == 4 ? C(0x1p-100) : C(0x1p-960);
template <class C>
constexpr C largest_product = sizeof(C) == 4 ? C(0x1p125) : C(0x1p1020);

// One row's measures with boxes [first, first + lanes) of b, all of them ordinary: a denominator
// is 0 or at least smallest_product, and where it is 0 the numerator is, too.
template <class Isa, Measure measure, class C>
[[gnu::always_inline]] inline Vec<Isa, C> measure_ordinary(const BoxColumns<Isa, C>& a,
                                                           std::ptrdiff_t row,
                                                           const BoxColumns<Isa, C>& b,
                                                           std::ptrdiff_t first) {
    using V = Vec<Isa, C>;
    const V smallest = V::splat(smallest_product<C>);
    const V ax1 = V::splat(a.x1[row]), ay1 = V::splat(a.y1[row]);
    const V ax2 = V::splat(a.x2[row]), ay2 = V::splat(a.y2[row]);
    const V bx1 = loadu<Isa>(b.x1 + first), by1 = loadu<Isa>(b.y1 + first);
    const V bx2 = loadu<Isa>(b.x2 + first), by2 = loadu<Isa>(b.y2 + first);
    const V width = max(min(ax2, bx2) - max(ax1, bx1), V::zero());
    const V height = max(min(ay2, by2) - max(ay1, by1), V::zero());
    const V intersection = width * height;
    const V whole = V::splat(a.area[row]) + loadu<Isa>(b.area + first) - intersection;
    const V iou = intersection / max(whole, smallest);
    if constexpr (measure == Measure::iou) return iou;
    const V hull_width = max(ax2, bx2) - min(ax1, bx1);
    const V hull_height = max(ay2, by2) - min(ay1, by1);
    if constexpr (measure == Measure::generalized) {
        const V hull = hull_width * hull_height;
        return iou - (hull - whole) / max(hull, smallest);
    }
    const V dx = (ax1 - bx1) + (ax2 - bx2), dy = (ay1 - by1) + (ay2 - by2);
    const V diagonal = hull_width * hull_width + hull_height * hull_height;
    const V distance = iou - V::splat(C(0.25)) * (dx * dx + dy * dy) / max(diagonal, smallest);
    if constexpr (measure == Measure::distance) return distance;
    const V difference = V::splat(a.angle[row]) - loadu<Isa>(b.angle + first);
    const V v = V::splat(static_cast<C>(four_over_pi_squared)) * (difference * difference);
    return distance - v * v / max(V::splat(C(1)) - iou + v, smallest);
}

// One row's measures with boxes [first, first + lanes) of b.
template <class Isa, Measure measure, class C>
[[gnu::always_inline]] inline Vec<Isa, C> measure_lanes(const BoxColumns<Isa, C>& a,
                                                        std::ptrdiff_t row,
                                                        const BoxColumns<Isa, C>& b,
                                                        std::ptrdiff_t first) {
    using V = Vec<Isa, C>;
    constexpr C smallest = smallest_product<C>, largest = largest_product<C>;
    const V zero = V::zero();
    V ax1 = V::splat(a.x1[row]), ay1 = V::splat(a.y1[row]);
    V ax2 = V::splat(a.x2[row]), ay2 = V::splat(a.y2[row]);
    V bx1 = loadu<Isa>(b.x1 + first), by1 = loadu<Isa>(b.y1 + first);
    V bx2 = loadu<Isa>(b.x2 + first), by2 = loadu<Isa>(b.y2 + first);
    V width = min(ax2, bx2) - max(ax1, bx1);
    V height = min(ay2, by2) - max(ay1, by1);
    auto overlap = (width > zero) & (height > zero);
    V intersection = select(overlap, width * height, zero);
    V whole = V::splat(a.area[row]) + loadu<Isa>(b.area + first) - intersection;
    V result = select(overlap | is_nan(whole), intersection / whole, zero);
    auto in_range =
        ~overlap | ((intersection >= V::splat(smallest)) & (whole <= V::splat(largest)));
    if constexpr (measure != Measure::iou) {
        V hull_width = max(max(ax1, ax2), max(bx1, bx2)) - min(min(ax1, ax2), min(bx1, bx2));
        V hull_height = max(max(ay1, ay2), max(by1, by2)) - min(min(ay1, ay2), min(by1, by2));
        V part, total;
        Mask<Isa, C> flat;
        if constexpr (measure == Measure::generalized) {
            total = hull_width * hull_height;
            part = total - whole;
            flat = (hull_width == zero) | (hull_height == zero);
        } else {
            const V half = V::splat(C(0.5));
            V dx = half * ((ax1 - bx1) + (ax2 - bx2));
            V dy = half * ((ay1 - by1) + (ay2 - by2));
            part = dx * dx + dy * dy;
            total = hull_width * hull_width + hull_height * hull_height;
            flat = (hull_width == zero) & (hull_height == zero);
        }
        in_range =
            in_range & (flat | ((total >= V::splat(smallest)) & (total <= V::splat(largest))));
        V iou = result;
        result = iou - select(flat, zero, part / total);
        if constexpr (measure == Measure::complete) {
            V difference = V::splat(a.angle[row]) - loadu<Isa>(b.angle + first);
            V v = V::splat(static_cast<C>(four_over_pi_squared)) * (difference * difference);
            result = result - select(v == zero, zero, v * v / (V::splat(C(1)) - iou + v));
        }
    }
    if (unsigned open = mask_bits(~in_range)) [[unlikely]] {
        for (; open != 0; open &= open - 1) {
            int lane = __builtin_ctz(open);
            std::ptrdiff_t j = first + lane;
            BoxMeasures m = box_measures({a.x1[row], a.y1[row], a.x2[row], a.y2[row]},
                                         {b.x1[j], b.y1[j], b.x2[j], b.y2[j]});
            double value = measure == Measure::iou           ? m.iou
                           : measure == Measure::generalized ? m.generalized
                           : measure == Measure::distance
                               ? m.distance
                               : complete_of<Isa>(m, a.angle[row], b.angle[j]);
            result.raw[lane] = static_cast<C>(value);
        }
    }
    return result;
}

// Results of so many bytes leave the caches before anybody reads them.
constexpr std::ptrdiff_t measures_stream_bytes = std::ptrdiff_t{32} << 20;

// n results, those from j on being measures_at(j); whole vectors go past the caches if `streams`.
template <class Isa, Storage T, class MeasuresAt>
[[gnu::always_inline]] inline void write_measures(T* out, std::ptrdiff_t n, bool streams,
                                                  const MeasuresAt& measures_at) {
    using V = Vec<Isa, Compute<T>>;
    for (std::ptrdiff_t j = 0, count; j < n; j += count) {
        const V values = measures_at(j);
        count = V::size;
        if (streams) {  // up to the next place of a whole vector
            const std::uintptr_t beyond = reinterpret_cast<std::uintptr_t>(out + j) % Isa::bytes;
            count = static_cast<std::ptrdiff_t>((Isa::bytes - beyond) / sizeof(T));
        }
        count = count < n - j ? count : n - j;
        if (count < V::size) {
            store<Isa>(out + j, values, FirstLanes{static_cast<int>(count)});
        } else if (std::is_same_v<T, Compute<T>> && streams) {
            stream<Isa>(reinterpret_cast<Compute<T>*>(out + j), values);
        } else {
            store<Isa>(out + j, values, AllLanes{});
        }
    }
}

// measures[i][j] for every row i of a and j of b; `measures` has rows of b.count elements.
template <class Isa, Measure measure, Storage T>
void pairwise(T* measures, BoxRows<T> a_rows, BoxRows<T> b_rows) {
    using C = Compute<T>;
    // Columns that stay in the L1 cache while all rows of a task pass over them.
    constexpr std::ptrdiff_t block = 4096 / static_cast<std::ptrdiff_t>(sizeof(C));
    constexpr std::ptrdiff_t columns_per_task = 16 * block;
    constexpr std::ptrdiff_t task_size = 65536;

    const std::ptrdiff_t rows = a_rows.count;
    const std::ptrdiff_t columns = b_rows.count;
    if (rows == 0 || columns == 0) return;
    using Columns = BoxColumns<Isa, C>;
    Workspace<Isa> workspace((Columns::size(rows) + Columns::size(columns)) *
                             static_cast<std::ptrdiff_t>(sizeof(C)));
    C* memory = reinterpret_cast<C*>(workspace.memory);
    constexpr bool with_angle = measure == Measure::complete;
    const Columns a(memory, a_rows, with_angle);
    const Columns b(memory + Columns::size(rows), b_rows, with_angle);

    const bool ordinary = a.ordinary && b.ordinary;
    const bool streams =
        std::is_same_v<T, C> &&
        rows * columns * static_cast<std::ptrdiff_t>(sizeof(T)) >= measures_stream_bytes;

    const std::ptrdiff_t parts = (columns + columns_per_task - 1) / columns_per_task;
    const std::ptrdiff_t width = parts > 1 ? columns_per_task : columns;
    const std::ptrdiff_t rows_per_task = (task_size + width - 1) / width;
    const std::ptrdiff_t groups = (rows + rows_per_task - 1) / rows_per_task;
    parallel_for<Isa>(groups * parts, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t first_row = task / parts * rows_per_task;
        const std::ptrdiff_t first_column = task % parts * columns_per_task;
        const std::ptrdiff_t end_row =
            first_row + rows_per_task < rows ? first_row + rows_per_task : rows;
        const std::ptrdiff_t end_column =
            first_column + width < columns ? first_column + width : columns;
        for (std::ptrdiff_t start = first_column; start < end_column; start += block) {
            const std::ptrdiff_t n = start + block < end_column ? block : end_column - start;
            for (std::ptrdiff_t row = first_row; row < end_row; ++row) {
                T* out = measures + row * columns + start;
                if (ordinary) {
                    write_measures<Isa>(
                        out, n, streams, [&](std::ptrdiff_t j) __attribute__((always_inline)) {
                            return measure_ordinary<Isa, measure>(a, row, b, start + j);
                        });
                } else {
                    write_measures<Isa>(
                        out, n, streams, [&](std::ptrdiff_t j) __attribute__((always_inline)) {
                            return measure_lanes<Isa, measure>(a, row, b, start + j);
                        });
                }
            }
        }
        if (streams) stream_fence<Isa>();
    });
}

}  // namespace stableops
