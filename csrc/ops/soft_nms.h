#pragma once
// Soft non-maximum suppression: the box of the highest score is selected, the scores of the others
// are multiplied by a factor f of their IoU with it, until no score is above the minimum.
//
//   linear     f = 1 - IoU if IoU > threshold, else 1
//   gaussian   f = exp(-IoU^2 / sigma)
//
// Ties go to the lower index. Scores and factors are float64; a score is multiplied in the order in
// which the boxes were selected, so the result has one value whatever the order of evaluation.
// Inert boxes (nms.h) have IoU 0 with all. Whether IoU > threshold is decided exactly, as in nms.h;
// IoU itself is within 16 u (boxes.h), exp within 0.51 ULP.
//
// No factor is above 1, so a score that lacks some factors is an upper bound. Boxes not yet looked
// at wait in the order of their scores, the others in a heap of such bounds. The first of all is
// brought up to date with the boxes selected since it was last looked at; if that changes its score
// it goes (back) into the heap, else it is the next selection. Every pair meets at most once, a
// vector of selected boxes at a time, most boxes are dropped or selected after a few looks, and
// only pairs that overlap enough cost more than a comparison.
//
// Few pairs are compared. Cells of 2 x 2 grid squares overlap by half, on grids of 1, 2, 4 ... 2^L
// squares a side; the home of a box is the finest cell that holds it. A selected box joins the list
// of every home that it touches, so a box needs its own home's list only, which is in the order of
// selection. Squares are found by a monotone function of the coordinate, which rounding does not
// change: boxes that overlap share a square on either axis.
//
// Reference: Bodla et al., "Soft-NMS: improving object detection with one line of code", ICCV 2017.
#include <new>

#include "../simd/math.h"
#include "box_measures.h"
#include "nms.h"

namespace stableops {

// Selected boxes of one home, in the order of selection. Positions beyond the last hold boxes that
// overlap nothing.
template <class Isa, class T>
struct BoxList {
    const T *x1, *y1, *x2, *y2, *term;
    std::ptrdiff_t count;

    Corners operator[](std::ptrdiff_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
};

// Squares of one axis.
template <class Isa, class T>
struct SoftAxis {
    double low = __builtin_inf(), high = -__builtin_inf();
    double squares = 0;  // of the finest grid in a unit of length

    void include(T from, T to) {
        if (from < low) low = from;
        if (to > high) high = to;
    }
    int square(T v, int side) const {
        const double at = (v - low) * squares;
        if (!(at > 0)) return 0;
        return at < side ? static_cast<int>(at) : side - 1;
    }
};

// The lists of selected boxes, one for each home.
template <class Isa, class T>
struct SoftGrid {
    static constexpr int most_levels = 6;
    static constexpr std::ptrdiff_t spare = 16;  // positions behind a list, for vectors
    static constexpr std::ptrdiff_t most_cells = (std::ptrdiff_t{1} << (2 * most_levels)) / 3 + 1;

    SoftAxis<Isa, T> x, y;
    int levels;
    std::ptrdiff_t first_cell[most_levels + 1];
    std::uint32_t homes[most_cells];   // boxes at home in a cell
    std::ptrdiff_t begin[most_cells];  // of its list
    std::uint32_t count[most_cells];
    T* columns[5];

    static int side(int level) { return 1 << level; }

    void set_levels(int n) {
        levels = n;
        first_cell[0] = 0;
        for (int l = 0; l < n; ++l) first_cell[l + 1] = first_cell[l] + side(l) * side(l);
        x.squares = side(n - 1) / (x.high - x.low);
        y.squares = side(n - 1) / (y.high - y.low);
    }

    // The squares of a box on the finest grid; on others they are shifted.
    struct Squares {
        int x1, x2, y1, y2;
    };
    Squares squares(const Box<T>& box) const {
        const int n = side(levels - 1);
        return {x.square(box.x1, n), x.square(box.x2, n), y.square(box.y1, n), y.square(box.y2, n)};
    }
    std::ptrdiff_t home(const Box<T>& box) const {
        const Squares s = squares(box);
        for (int shift = 0;; ++shift) {
            const int level = levels - 1 - shift;
            const int left = s.x1 >> shift, top = s.y1 >> shift;
            if (level == 0 || ((s.x2 >> shift) <= left + 1 && (s.y2 >> shift) <= top + 1))
                return first_cell[level] + top * side(level) + left;
        }
    }
    template <class F>
    void for_each_touched_home(const Box<T>& box, const F& f) const {
        const Squares s = squares(box);
        for (int level = 0; level < levels; ++level) {
            const int shift = levels - 1 - level;
            const int left = (s.x1 >> shift) - 1, right = s.x2 >> shift;
            const int top = (s.y1 >> shift) - 1, bottom = s.y2 >> shift;
            for (int row = top < 0 ? 0 : top; row <= bottom; ++row)
                for (int column = left < 0 ? 0 : left; column <= right; ++column) {
                    const std::ptrdiff_t cell = first_cell[level] + row * side(level) + column;
                    if (homes[cell] != 0) f(cell);
                }
        }
    }

    // Counts homes and the positions of all lists, spares included, for boxes(i) with i in [0, n).
    template <class Boxes>
    std::ptrdiff_t count_positions(std::ptrdiff_t n, const Boxes& boxes) {
        for (std::ptrdiff_t c = 0; c < first_cell[levels]; ++c) homes[c] = count[c] = 0;
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const Box<T> box = boxes(i);
            if (!inert<Isa>(box)) ++homes[home(box)];
        }
        std::ptrdiff_t total = first_cell[levels] * spare;
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const Box<T> box = boxes(i);
            if (!inert<Isa>(box))
                for_each_touched_home(box, [&](std::ptrdiff_t c) {
                    ++count[c];
                    ++total;
                });
        }
        return total;
    }
    // As fine a grid as pays, with room for the lists.
    template <class Boxes>
    std::ptrdiff_t lay(std::ptrdiff_t n, const Boxes& boxes) {
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const Box<T> box = boxes(i);
            if (inert<Isa>(box)) continue;
            x.include(box.x1, box.x2);
            y.include(box.y1, box.y2);
        }
        int wanted = 1;
        while (wanted < most_levels && n >> (2 * wanted + 4) > 0) ++wanted;
        for (;; --wanted) {
            set_levels(wanted);
            const std::ptrdiff_t total = count_positions(n, boxes);
            if (wanted == 1 || total <= 16 * n + most_cells * spare) return total;
        }
    }
    // `memory` has room for five columns of `positions`.
    void use(T* memory, std::ptrdiff_t positions) {
        constexpr T infinity = static_cast<T>(__builtin_inf());
        const T nothing[] = {infinity, infinity, -infinity, -infinity, infinity};
        for (int k = 0; k < 5; ++k) {
            columns[k] = memory + k * positions;
            for (std::ptrdiff_t i = 0; i < positions; ++i) columns[k][i] = nothing[k];
        }
        std::ptrdiff_t at = 0;
        for (std::ptrdiff_t c = 0; c < first_cell[levels]; ++c) {
            begin[c] = at;
            at += count[c] + spare;
            count[c] = 0;
        }
    }
    void add(const Box<T>& box, T term) {
        for_each_touched_home(box, [&](std::ptrdiff_t c) {
            const std::ptrdiff_t at = begin[c] + count[c]++;
            columns[0][at] = box.x1;
            columns[1][at] = box.y1;
            columns[2][at] = box.x2;
            columns[3][at] = box.y2;
            columns[4][at] = term;
        });
    }
    BoxList<Isa, T> list(std::ptrdiff_t c) const {
        const std::ptrdiff_t at = begin[c];
        return {columns[0] + at, columns[1] + at, columns[2] + at,
                columns[3] + at, columns[4] + at, static_cast<std::ptrdiff_t>(count[c])};
    }
};

// IoU of two boxes that overlap.
template <class Isa, class T>
[[gnu::always_inline]] inline double overlap_iou(const Corners& a, const Corners& b) {
    double width = (a.x2 < b.x2 ? a.x2 : b.x2) - (a.x1 > b.x1 ? a.x1 : b.x1);
    double height = (a.y2 < b.y2 ? a.y2 : b.y2) - (a.y1 > b.y1 ? a.y1 : b.y1);
    double intersection = width * height;
    double whole = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - intersection;
    if constexpr (sizeof(T) == 8)
        if (!(intersection > 0x1p-960 && whole < 0x1p1000)) return box_measures(a, b).iou;
    return intersection / whole;
}

template <class Isa>
struct SoftCandidate {
    double score;
    std::uint32_t index;
    std::uint32_t home;
    std::uint32_t seen;  // boxes of its home's list that `score` accounts for
};

template <class Isa>
[[gnu::always_inline]] inline bool before(const SoftCandidate<Isa>& a,
                                          const SoftCandidate<Isa>& b) {
    return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// A heap of n whose top is to be replaced by `candidate`.
template <class Isa>
void sift_down(SoftCandidate<Isa>* heap, std::ptrdiff_t n, const SoftCandidate<Isa>& candidate) {
    std::ptrdiff_t hole = 0;
    for (std::ptrdiff_t child = 1; child < n; child = 2 * hole + 1) {
        if (child + 1 < n && before(heap[child + 1], heap[child])) ++child;
        if (before(candidate, heap[child])) break;
        heap[hole] = heap[child];
        hole = child;
    }
    heap[hole] = candidate;
}

// A heap of n to which `candidate` is to be added.
template <class Isa>
void sift_up(SoftCandidate<Isa>* heap, std::ptrdiff_t n, const SoftCandidate<Isa>& candidate) {
    std::ptrdiff_t hole = n;
    while (hole > 0 && before(candidate, heap[(hole - 1) / 2])) {
        heap[hole] = heap[(hole - 1) / 2];
        hole = (hole - 1) / 2;
    }
    heap[hole] = candidate;
}

// The factors of a score, a few at a time for the sake of vectors.
template <class Isa, class T>
struct DecayFactors {
    using V = Vec<Isa, double>;
    static constexpr int capacity = 8;
    const SoftNmsOptions& options;
    Corners own;
    double x1[capacity], y1[capacity], x2[capacity], y2[capacity], iou[capacity];
    int count = 0;

    // Lanes beyond the count are computed too.
    DecayFactors(const SoftNmsOptions& options, const Corners& own) : options(options), own(own) {
        for (int i = 0; i < capacity; i += V::size) {
            storeu(x1 + i, V::zero());
            storeu(y1 + i, V::zero());
            storeu(x2 + i, V::zero());
            storeu(y2 + i, V::zero());
        }
    }

    void add(const Corners& other) {
        x1[count] = other.x1;
        y1[count] = other.y1;
        x2[count] = other.x2;
        y2[count++] = other.y2;
    }
    // overlap_iou() in vectors.
    void measure() {
        const V area = V::splat((own.x2 - own.x1) * (own.y2 - own.y1));
        for (int i = 0; i < count; i += V::size) {
            const V left = loadu<Isa>(x1 + i), right = loadu<Isa>(x2 + i);
            const V top = loadu<Isa>(y1 + i), bottom = loadu<Isa>(y2 + i);
            const V width = min(V::splat(own.x2), right) - max(V::splat(own.x1), left);
            const V height = min(V::splat(own.y2), bottom) - max(V::splat(own.y1), top);
            const V intersection = width * height;
            const V whole = area + (right - left) * (bottom - top) - intersection;
            storeu(iou + i, intersection / whole);
            if constexpr (sizeof(T) == 8) {
                const auto sound =
                    (intersection > V::splat(0x1p-960)) & (whole < V::splat(0x1p1000));
                if (any(~sound)) [[unlikely]]
                    for (int k = i; k < count && k < i + V::size; ++k)
                        iou[k] = overlap_iou<Isa, T>(own, {x1[k], y1[k], x2[k], y2[k]});
            }
        }
    }
    double apply(double score) {
        measure();
        for (int i = 0; i < count; i += V::size) {
            const V v = loadu<Isa>(iou + i);
            const V factor =
                options.gaussian ? exp(-(v * v) / V::splat(options.sigma)) : V::splat(1) - v;
            storeu(iou + i, factor);
        }
        for (int i = 0; i < count; ++i) score *= iou[i];
        count = 0;
        return score;
    }
};

// The score of `box` after the selected boxes from `first` on; some score below `minimum` if it
// falls below that on the way.
template <class Isa, class T>
double decayed(double score, const Box<T>& box, const BoxList<Isa, T>& selected,
               std::ptrdiff_t first, const SoftNmsOptions& options, const IouTest<T>& test) {
    using V = Vec<Isa, T>;
    V x1 = V::splat(box.x1), y1 = V::splat(box.y1), x2 = V::splat(box.x2), y2 = V::splat(box.y2);
    V term = V::splat(test_term<Isa>(test, box, 0));
    DecayFactors<Isa, T> factors(options, corners<Isa>(box));
    for (std::ptrdiff_t j = first; j < selected.count; j += V::size) {
        V width = max(min(x2, loadu<Isa>(selected.x2 + j)) - max(x1, loadu<Isa>(selected.x1 + j)),
                      V::zero());
        V height = min(y2, loadu<Isa>(selected.y2 + j)) - max(y1, loadu<Isa>(selected.y1 + j));
        V intersection = width * height;
        V sum = term + loadu<Isa>(selected.term + j);
        auto open = (width > V::zero()) & (height > V::zero());
        if (!options.gaussian) open = open & (intersection > sum);
        if (!any(open)) continue;
        const unsigned certain =
            options.gaussian ? ~0u : mask_bits(certainly_above(test, intersection, sum));
        for (unsigned lanes = mask_bits(open); lanes != 0; lanes &= lanes - 1) {
            const int lane = __builtin_ctz(lanes);
            const Corners other = selected[j + lane];
            if ((certain >> lane & 1) == 0 && !iou_exceeds(factors.own, other, test.threshold))
                continue;
            factors.add(other);
            if (factors.count == factors.capacity) {
                score = factors.apply(score);
                if (!(score > options.minimum)) return score;
            }
        }
    }
    return factors.apply(score);
}

// Writes the selected boxes and their scores in the order of selection and returns how many they
// are. `order` lists the candidates by score, all above the minimum.
template <class Isa, Storage T>
std::ptrdiff_t soft_nms(std::int64_t* indices, double* decayed_scores, BoxRows<T> boxes,
                        const double* scores, const std::uint32_t* order, std::ptrdiff_t count,
                        const SoftNmsOptions& options) {
    using C = Compute<T>;
    using Candidate = SoftCandidate<Isa>;
    const auto box_at = [&](std::ptrdiff_t i) { return load_box<Isa>(boxes, order[i]); };
    Workspace<Isa> candidates(count * static_cast<std::ptrdiff_t>(sizeof(Candidate)));
    Candidate* heap = reinterpret_cast<Candidate*>(candidates.memory);
    Workspace<Isa> grid_memory(sizeof(SoftGrid<Isa, C>));
    auto& selected = *new (grid_memory.memory) SoftGrid<Isa, C>;
    const std::ptrdiff_t positions = selected.lay(count, box_at);
    Workspace<Isa> lists(5 * positions * static_cast<std::ptrdiff_t>(sizeof(C)));
    selected.use(reinterpret_cast<C*>(lists.memory), positions);
    const IouTest<C> test = make_iou_test<Isa, C>(options.iou_threshold);

    std::ptrdiff_t waiting = 0;
    std::ptrdiff_t next = 0;
    std::ptrdiff_t done = 0;
    while (waiting > 0 || next < count) {
        Candidate candidate = {};
        bool untouched = next < count;
        if (untouched) {
            candidate = {scores[order[next]], order[next], 0, 0};
            untouched = waiting == 0 || before(candidate, heap[0]);
        }
        if (untouched) {
            ++next;
        } else {
            candidate = heap[0];
        }
        Box<C> box = load_box<Isa>(boxes, candidate.index);
        bool takes_part = !inert<Isa>(box);
        if (untouched && takes_part)
            candidate.home = static_cast<std::uint32_t>(selected.home(box));
        const BoxList<Isa, C> near = takes_part ? selected.list(candidate.home) : BoxList<Isa, C>{};
        if (candidate.seen < near.count) {
            double score = decayed(candidate.score, box, near, candidate.seen, options, test);
            bool changed = score != candidate.score;
            candidate.score = score;
            candidate.seen = static_cast<std::uint32_t>(near.count);
            if (changed && score > options.minimum) {
                if (untouched) {
                    sift_up(heap, waiting++, candidate);
                } else {
                    sift_down(heap, waiting, candidate);
                }
                continue;
            }
        }
        if (!untouched) {
            --waiting;
            sift_down(heap, waiting, heap[waiting]);
        }
        if (!(candidate.score > options.minimum)) continue;
        indices[done] = candidate.index;
        decayed_scores[done++] = candidate.score;
        if (takes_part) selected.add(box, test_term<Isa>(test, box, 0));
    }
    return done;
}

}  // namespace stableops
