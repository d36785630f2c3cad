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
// Reference: Bodla et al., "Soft-NMS: improving object detection with one line of code", ICCV 2017.
#include "../simd/math.h"
#include "box_measures.h"
#include "nms.h"

namespace stableops {

// Boxes in the order of selection. Positions beyond the last hold boxes that overlap nothing.
template <class Isa, class T>
struct SelectedBoxes {
    T *x1, *y1, *x2, *y2, *term;
    std::ptrdiff_t count = 0;

    static std::ptrdiff_t column(std::ptrdiff_t n) { return (n + 31) / 16 * 16; }
    static std::ptrdiff_t bytes(std::ptrdiff_t n) {
        return 5 * column(n) * static_cast<std::ptrdiff_t>(sizeof(T));
    }

    SelectedBoxes(void* memory, std::ptrdiff_t n) {
        constexpr T infinity = static_cast<T>(__builtin_inf());
        std::ptrdiff_t size = column(n);
        x1 = static_cast<T*>(memory);
        y1 = x1 + size;
        x2 = y1 + size;
        y2 = x2 + size;
        term = y2 + size;
        for (std::ptrdiff_t i = 0; i < size; ++i) {
            x1[i] = y1[i] = infinity;
            x2[i] = y2[i] = -infinity;
            term[i] = infinity;
        }
    }

    void set(std::ptrdiff_t i, const Box<T>& box, T box_term) {
        x1[i] = box.x1;
        y1[i] = box.y1;
        x2[i] = box.x2;
        y2[i] = box.y2;
        term[i] = box_term;
    }
    void add(const Box<T>& box, T box_term) { set(count++, box, box_term); }
    Corners operator[](std::ptrdiff_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
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
    std::uint32_t seen;  // selected boxes that `score` accounts for
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

// The scores' factors, a few at a time for the sake of the vector exponential.
template <class Isa>
struct GaussianFactors {
    static constexpr int capacity = 8;
    double exponent[capacity];
    int count = 0;

    double apply(double score) {
        using V = Vec<Isa, double>;
        for (int i = count; i < capacity; ++i) exponent[i] = 0;
        for (int i = 0; i < count; i += V::size)
            storeu(exponent + i, exp(loadu<Isa>(exponent + i)));
        for (int i = 0; i < count; ++i) score *= exponent[i];
        count = 0;
        return score;
    }
};

// The score of `box` after the selected boxes from `first` on; some score below `minimum` if it
// falls below that on the way.
template <class Isa, class T>
double decayed(double score, const Box<T>& box, const SelectedBoxes<Isa, T>& selected,
               std::ptrdiff_t first, const SoftNmsOptions& options, const IouTest<T>& test) {
    using V = Vec<Isa, T>;
    V x1 = V::splat(box.x1), y1 = V::splat(box.y1), x2 = V::splat(box.x2), y2 = V::splat(box.y2);
    V term = V::splat(test_term<Isa>(test, box, 0));
    Corners own = corners<Isa>(box);
    GaussianFactors<Isa> factors;
    for (std::ptrdiff_t j = first; j < selected.count; j += V::size) {
        V width = max(min(x2, loadu<Isa>(selected.x2 + j)) - max(x1, loadu<Isa>(selected.x1 + j)),
                      V::zero());
        V height = min(y2, loadu<Isa>(selected.y2 + j)) - max(y1, loadu<Isa>(selected.y1 + j));
        V intersection = width * height;
        V sum = term + loadu<Isa>(selected.term + j);
        auto open =
            options.gaussian ? (width > V::zero()) & (height > V::zero()) : intersection > sum;
        if (!any(open)) continue;
        if (options.gaussian) {
            for (unsigned lanes = mask_bits(open); lanes != 0; lanes &= lanes - 1) {
                double iou = overlap_iou<Isa, T>(own, selected[j + __builtin_ctz(lanes)]);
                factors.exponent[factors.count++] = -(iou * iou) / options.sigma;
                if (factors.count == factors.capacity) score = factors.apply(score);
            }
        } else {
            open = open & (width > V::zero()) & (height > V::zero());
            unsigned certain = mask_bits(certainly_above(test, intersection, sum));
            for (unsigned lanes = mask_bits(open); lanes != 0; lanes &= lanes - 1) {
                int lane = __builtin_ctz(lanes);
                Corners other = selected[j + lane];
                if ((certain >> lane & 1) != 0 || iou_exceeds(own, other, test.threshold))
                    score *= 1 - overlap_iou<Isa, T>(own, other);
            }
        }
        if (!(score > options.minimum)) return score;
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
    std::ptrdiff_t heap_size =
        round_up<Isa>(count * static_cast<std::ptrdiff_t>(sizeof(Candidate)));
    Workspace<Isa> workspace(heap_size + SelectedBoxes<Isa, C>::bytes(count));
    Candidate* heap = reinterpret_cast<Candidate*>(workspace.memory);
    SelectedBoxes<Isa, C> selected(workspace.memory + heap_size, count);
    const IouTest<C> test = make_iou_test<Isa, C>(options.iou_threshold);

    std::ptrdiff_t waiting = 0;
    std::ptrdiff_t next = 0;
    std::ptrdiff_t done = 0;
    while (waiting > 0 || next < count) {
        Candidate candidate = {};
        bool untouched = next < count;
        if (untouched) {
            candidate = {scores[order[next]], order[next], 0};
            untouched = waiting == 0 || before(candidate, heap[0]);
        }
        if (untouched) {
            ++next;
        } else {
            candidate = heap[0];
        }
        Box<C> box = load_box<Isa>(boxes, candidate.index);
        bool takes_part = !inert<Isa>(box);
        if (takes_part && candidate.seen < selected.count) {
            double score = decayed(candidate.score, box, selected, candidate.seen, options, test);
            bool changed = score != candidate.score;
            candidate.score = score;
            candidate.seen = static_cast<std::uint32_t>(selected.count);
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
