#pragma once
// Boxes (centre x, centre y, width, height, angle in degrees): IoU of every pair, and greedy
// non-maximum suppression.
//
// The angle turns the width's direction to (cos, -sin) and the height's to (sin, cos): counter-
// clockwise on a screen, whose y points down, as in detectron2. A box whose width or height is not
// positive has area 0 and IoU 0 with every box.
//
// Pairs whose hulls (the smallest boxes with sides along the axes) do not overlap are passed over a
// vector at a time. The others are clipped in float64 or double-length arithmetic by rotated_iou(),
// one by one, on every level by the same code: error below 1e-12, relative.
//
// The grid of nms.h serves the hulls. Let two rotated boxes of areas A and B have IoU > t, hence an
// intersection above t A. If their hulls overlap in x along f of the width of A's hull, the
// intersection lies in a strip of that width, and no such strip holds more of a rectangle than the
// middle one does: at most 1 - (1 - f)^2 of it, as for a square on its corner, since the length of
// the cut is a concave function of x. So f > 1 - sqrt(1 - t), in x and y, for both boxes; this
// stands in for t in the lemma of nms.h.
#include "nms.h"
#include "rotated_iou.h"

namespace stableops {

template <class Isa, Storage T>
[[gnu::always_inline]] inline RotatedBox load_rotated_box(BoxRows<T> boxes, std::ptrdiff_t i) {
    const T* box = boxes.data + i * boxes.row_stride;
    std::ptrdiff_t step = boxes.column_stride;
    return make_rotated_box(load_one<Isa>(box), load_one<Isa>(box + step),
                            load_one<Isa>(box + 2 * step), load_one<Isa>(box + 3 * step),
                            load_one<Isa>(box + 4 * step));
}

// The hull as a box of nms.h: NaN, so that it is inert there, if the box has no area.
template <class Isa>
[[gnu::always_inline]] inline Box<double> hull_box(const RotatedBox& box) {
    if (box.width > 0 && box.height > 0)
        return {box.hull.x1, box.hull.y1, box.hull.x2, box.hull.y2};
    constexpr double nan = __builtin_nan("");
    return {nan, nan, nan, nan};
}

// The test of a pair for greedy(): the term of a box is its position.
template <class Isa>
struct RotatedTest {
    const RotatedBox* boxes;
    double threshold;
    // Some hull ends at the largest number, so that its centre may not be that of the box.
    bool hulls_are_cut;

    // A little less than 1 - sqrt(1 - t), for the rounding of hulls and areas; 0 rules out a grid.
    double needed_overlap() const {
        if (hulls_are_cut) return 0;
        return (1.0 - __builtin_sqrt(1.0 - threshold)) * (1.0 - 0x1p-40);
    }
};

template <class Isa>
[[gnu::always_inline]] inline double test_term(const RotatedTest<Isa>&, const Box<double>&,
                                               std::ptrdiff_t position) {
    return static_cast<double>(position);
}

template <class Isa>
bool suppressed_in(const BoxBlock<double>& block, const Candidate<Isa, double>& c,
                   const RotatedTest<Isa>& test) {
    using V = Vec<Isa, double>;
    const RotatedBox& own = test.boxes[static_cast<std::ptrdiff_t>(c.term[0])];
    // The last lane to be looked at; unused lanes repeat the first.
    double seen = -1;
    for (int lane = 0; lane < BoxBlock<double>::lanes; lane += V::size) {
        V width = min(c.x2, loadu<Isa>(block.x2 + lane)) - max(c.x1, loadu<Isa>(block.x1 + lane));
        V height = min(c.y2, loadu<Isa>(block.y2 + lane)) - max(c.y1, loadu<Isa>(block.y1 + lane));
        auto overlap = (width > V::zero()) & (height > V::zero());
        for (unsigned open = mask_bits(overlap); open != 0; open &= open - 1) {
            double position = block.term[lane + __builtin_ctz(open)];
            if (position == seen) continue;
            seen = position;
            const RotatedBox& kept = test.boxes[static_cast<std::ptrdiff_t>(position)];
            double area = own.width * own.height;
            double other = kept.width * kept.height;
            // IoU is at most the ratio of the areas.
            double ratio = (area < other ? area / other : other / area) * (1.0 + 0x1p-40);
            if (ratio <= test.threshold) continue;
            if (rotated_iou(own, kept) > test.threshold) return true;
        }
    }
    return false;
}

template <class Isa, Storage T>
std::ptrdiff_t nms_rotated(std::int64_t* kept, BoxRows<T> boxes, const std::uint32_t* order,
                           std::ptrdiff_t count, double threshold, std::ptrdiff_t max_output) {
    std::ptrdiff_t greedy_size = round_up<Isa>(GreedyScratch<Isa, double>(count).bytes);
    std::ptrdiff_t hulls_size =
        round_up<Isa>(count * static_cast<std::ptrdiff_t>(sizeof(Box<double>)));
    std::ptrdiff_t boxes_size =
        round_up<Isa>(count * static_cast<std::ptrdiff_t>(sizeof(RotatedBox)));
    Workspace<Isa> workspace(greedy_size + hulls_size + boxes_size + 4 * count);
    char* memory = workspace.memory + greedy_size;
    Box<double>* hulls = reinterpret_cast<Box<double>*>(memory);
    RotatedBox* sorted = reinterpret_cast<RotatedBox*>(memory += hulls_size);
    std::uint32_t* positions = reinterpret_cast<std::uint32_t*>(memory += boxes_size);
    bool hulls_are_cut = false;
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        sorted[i] = load_rotated_box<Isa>(boxes, order[i]);
        hulls[i] = hull_box<Isa>(sorted[i]);
        const Box<double>& hull = hulls[i];
        constexpr double large = 0x1p1022;
        hulls_are_cut |= hull.x1 < -large || hull.y1 < -large || hull.x2 > large || hull.y2 > large;
    }
    const RotatedTest<Isa> test = {sorted, threshold, hulls_are_cut};
    std::ptrdiff_t kept_count =
        greedy<Isa>(positions, hulls, count, test, max_output, workspace.memory);
    for (std::ptrdiff_t i = 0; i < kept_count; ++i) kept[i] = order[positions[i]];
    return kept_count;
}

// iou[i][j] for every row i of a and j of b; `iou` has rows of b.count elements.
template <class Isa, Storage T>
void box_iou_rotated(T* iou, BoxRows<T> a_rows, BoxRows<T> b_rows) {
    using V = Vec<Isa, double>;
    const std::ptrdiff_t rows = a_rows.count;
    const std::ptrdiff_t columns = b_rows.count;
    if (rows == 0 || columns == 0) return;
    const std::ptrdiff_t column = (columns + 15) / 8 * 8;
    const std::ptrdiff_t box_size = static_cast<std::ptrdiff_t>(sizeof(RotatedBox));
    Workspace<Isa> workspace((rows + columns) * box_size + 4 * column * 8);
    RotatedBox* a = reinterpret_cast<RotatedBox*>(workspace.memory);
    RotatedBox* b = a + rows;
    double* x1 = reinterpret_cast<double*>(b + columns);
    double* y1 = x1 + column;
    double* x2 = y1 + column;
    double* y2 = x2 + column;
    constexpr double infinity = __builtin_inf();
    for (std::ptrdiff_t i = 0; i < rows; ++i) a[i] = load_rotated_box<Isa>(a_rows, i);
    for (std::ptrdiff_t j = 0; j < column; ++j) {
        x1[j] = y1[j] = infinity;
        x2[j] = y2[j] = -infinity;
        if (j >= columns) continue;
        b[j] = load_rotated_box<Isa>(b_rows, j);
        x1[j] = b[j].hull.x1;
        y1[j] = b[j].hull.y1;
        x2[j] = b[j].hull.x2;
        y2[j] = b[j].hull.y2;
    }

    parallel_for<Isa>(rows, [&](std::ptrdiff_t row) {
        const RotatedBox& own = a[row];
        V ax1 = V::splat(own.hull.x1), ay1 = V::splat(own.hull.y1);
        V ax2 = V::splat(own.hull.x2), ay2 = V::splat(own.hull.y2);
        T* out = iou + row * columns;
        // Most pairs are apart, and 0 has no bits in any type.
        __builtin_memset(out, 0, static_cast<std::size_t>(columns) * sizeof(T));
        for (std::ptrdiff_t first = 0; first < columns; first += V::size) {
            // Not apart, so that NaN counts as an overlap.
            auto apart = (ax2 <= loadu<Isa>(x1 + first)) | (loadu<Isa>(x2 + first) <= ax1) |
                         (ay2 <= loadu<Isa>(y1 + first)) | (loadu<Isa>(y2 + first) <= ay1);
            for (unsigned open = mask_bits(~apart); open != 0; open &= open - 1) {
                const std::ptrdiff_t j = first + __builtin_ctz(open);
                if (j < columns) store_one<Isa>(out + j, rotated_iou(own, b[j]));
            }
        }
    });
}

}  // namespace stableops
