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
// No factor is above 1, so a score that lacks some factors is an upper bound. Candidates wait in
// lists, one for each range ("bucket") of such bounds. The candidates of the highest bucket are
// brought up to date with the boxes selected since they were last looked at; those whose scores
// fall into a lower bucket go there, the others into a heap. The first of the heap is brought up to
// date again; if that changes its score it goes back into the heap or a list, else it is the next
// selection. Every pair meets at most once, most candidates are dropped or selected after a few
// looks, only pairs that overlap enough cost more than a comparison, and where buckets hold few
// candidates, one need not be finished before the next begins.
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

// Squares of one axis.
template <class Isa, class T>
struct SoftAxis {
    double low = __builtin_inf(), high = -__builtin_inf();
    double squares = 0;  // of the finest grid in a unit of length

    void include(T from, T to) {
        if (from < low) low = from;
        if (to > high) high = to;
    }
    std::uint8_t square(T v, int side) const {
        const double at = (v - low) * squares;
        if (!(at > 0)) return 0;
        return static_cast<std::uint8_t>(at < side ? static_cast<int>(at) : side - 1);
    }
};

// The squares that a box touches on the finest grid; on the others they are shifted.
template <class Isa>
struct Squares {
    std::uint8_t left, right, top, bottom;
};

template <class Isa>
struct SoftCandidate {
    static constexpr std::uint32_t homeless = ~0u;  // inert boxes are

    double score;
    std::uint32_t index;
    std::uint32_t home;
    std::uint32_t seen;  // boxes of its home's list that `score` accounts for
    std::uint32_t next;  // of its bucket
    Squares<Isa> squares;
};

// Selected boxes of one home, in the order of selection. Lanes beyond the last hold boxes that
// overlap nothing.
template <class Isa, class T>
struct BoxList {
    BoxBlock<T>* blocks;
    std::uint32_t count;
};

// The lists of selected boxes, one for each home.
template <class Isa, class T>
struct SoftGrid {
    using Block = BoxBlock<T>;
    static constexpr int most_levels = 6;
    static constexpr std::ptrdiff_t most_cells =
        (std::ptrdiff_t{1} << (2 * most_levels)) / 3 + (4 << most_levels);

    SoftAxis<Isa, T> x, y;
    int levels;
    std::ptrdiff_t first_cell[most_levels + 1];
    std::uint32_t homes[most_cells];   // boxes at home in a cell
    std::ptrdiff_t begin[most_cells];  // of its list, in blocks
    std::uint32_t count[most_cells];
    Block* blocks;

    static int side(int level) { return 1 << level; }
    // From row to row: the sums of count_touched() need one cell more.
    static int pitch(int level) { return side(level) + 1; }

    void set_levels(int n) {
        levels = n;
        first_cell[0] = 0;
        for (int l = 0; l < n; ++l) first_cell[l + 1] = first_cell[l] + pitch(l) * pitch(l);
        x.squares = side(n - 1) / (x.high - x.low);
        y.squares = side(n - 1) / (y.high - y.low);
    }
    Squares<Isa> squares(const Box<T>& box) const {
        const int n = side(levels - 1);
        return {x.square(box.x1, n), x.square(box.x2, n), y.square(box.y1, n), y.square(box.y2, n)};
    }
    std::ptrdiff_t home(Squares<Isa> s) const {
        for (int shift = 0;; ++shift) {
            const int level = levels - 1 - shift;
            const int left = s.left >> shift, top = s.top >> shift;
            if (level == 0 || ((s.right >> shift) <= left + 1 && (s.bottom >> shift) <= top + 1))
                return first_cell[level] + top * pitch(level) + left;
        }
    }

    // The cells of one level that a box touches: rows [top, bottom), columns [left, right).
    struct Touched {
        int left, right, top, bottom;
    };
    Touched touched(Squares<Isa> s, int level) const {
        const int shift = levels - 1 - level;
        const int left = s.left >> shift, top = s.top >> shift;
        return {left == 0 ? 0 : left - 1, (s.right >> shift) + 1, top == 0 ? 0 : top - 1,
                (s.bottom >> shift) + 1};
    }
    // Counts for each cell the boxes that touch it: at the corners of the area that a box touches,
    // then summed along columns and rows.
    void count_touched(const SoftCandidate<Isa>* candidates, std::ptrdiff_t n) {
        for (int level = 0; level < levels; ++level) {
            std::uint32_t* const cells = count + first_cell[level];
            const std::ptrdiff_t step = pitch(level);
            for (std::ptrdiff_t i = 0; i < n; ++i) {
                if (candidates[i].home == candidates[i].homeless) continue;
                const Touched area = touched(candidates[i].squares, level);
                ++cells[area.top * step + area.left];
                --cells[area.top * step + area.right];
                --cells[area.bottom * step + area.left];
                ++cells[area.bottom * step + area.right];
            }
            for (std::ptrdiff_t c = step; c < step * step; ++c) cells[c] += cells[c - step];
            for (std::ptrdiff_t row = 0; row < step; ++row)
                for (std::ptrdiff_t c = 1; c < step; ++c)
                    cells[row * step + c] += cells[row * step + c - 1];
        }
    }
    // Says where the lists begin; the number of blocks.
    std::ptrdiff_t place_lists(const SoftCandidate<Isa>* candidates, std::ptrdiff_t n) {
        for (std::ptrdiff_t c = 0; c < first_cell[levels]; ++c) homes[c] = count[c] = 0;
        for (std::ptrdiff_t i = 0; i < n; ++i)
            if (candidates[i].home != candidates[i].homeless) ++homes[candidates[i].home];
        count_touched(candidates, n);
        std::ptrdiff_t total = 0;
        for (std::ptrdiff_t c = 0; c < first_cell[levels]; ++c) {
            begin[c] = total;
            if (homes[c] != 0) total += (count[c] + Block::lanes - 1) / Block::lanes;
            count[c] = 0;
        }
        return total;
    }
    // Lays as fine a grid as pays and finds the candidates' homes; the number of blocks.
    template <Storage S>
    std::ptrdiff_t lay(SoftCandidate<Isa>* candidates, std::ptrdiff_t n, BoxRows<S> boxes) {
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            const Box<T> box = load_box<Isa>(boxes, candidates[i].index);
            candidates[i].home = inert<Isa>(box) ? candidates[i].homeless : 0;
            if (candidates[i].home == candidates[i].homeless) continue;
            x.include(box.x1, box.x2);
            y.include(box.y1, box.y2);
        }
        int wanted = 1;
        while (wanted < most_levels && n >> (2 * wanted + 4) > 0) ++wanted;
        for (;; --wanted) {
            set_levels(wanted);
            for (std::ptrdiff_t i = 0; i < n; ++i) {
                SoftCandidate<Isa>& c = candidates[i];
                if (c.home == c.homeless) continue;
                c.squares = squares(load_box<Isa>(boxes, c.index));
                c.home = static_cast<std::uint32_t>(home(c.squares));
            }
            const std::ptrdiff_t total = place_lists(candidates, n);
            if (wanted == 1 || total * Block::lanes <= 16 * n + most_cells * Block::lanes)
                return total;
        }
    }

    void add(const Box<T>& box, Squares<Isa> s, T term) {
        for (int level = 0; level < levels; ++level) {
            const Touched area = touched(s, level);
            for (int row = area.top; row < area.bottom; ++row)
                for (int column = area.left; column < area.right; ++column) {
                    const std::ptrdiff_t cell = first_cell[level] + row * pitch(level) + column;
                    if (homes[cell] != 0) append(list(cell), count[cell]++, box, term);
                }
        }
    }
    static void append(BoxList<Isa, T> list, std::uint32_t at, const Box<T>& box, T term) {
        constexpr T infinity = static_cast<T>(__builtin_inf());
        Block& block = list.blocks[at / Block::lanes];
        const std::uint32_t lane = at % Block::lanes;
        if (lane == 0)
            for (int i = 0; i < Block::lanes; ++i) {
                block.x1[i] = block.y1[i] = block.term[i] = infinity;
                block.x2[i] = block.y2[i] = -infinity;
            }
        block.x1[lane] = box.x1;
        block.y1[lane] = box.y1;
        block.x2[lane] = box.x2;
        block.y2[lane] = box.y2;
        block.term[lane] = term;
    }
    BoxList<Isa, T> list(std::ptrdiff_t cell) const { return {blocks + begin[cell], count[cell]}; }
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

// Candidates by score: a heap of those whose scores fall into the present bucket, and a list of
// those of each lower one.
template <class Isa>
struct SoftQueue {
    struct Entry {
        double score;
        std::uint32_t index;
        std::uint32_t candidate;
    };
    static constexpr std::uint32_t none = ~0u;

    SoftCandidate<Isa>* candidates;
    Entry* heap;
    std::ptrdiff_t size = 0;
    std::uint32_t* first;  // of a bucket
    std::ptrdiff_t buckets;
    double buckets_per_unit;

    SoftQueue(SoftCandidate<Isa>* candidates, Entry* heap, std::uint32_t* first,
              std::ptrdiff_t buckets, double largest_score)
        : candidates(candidates),
          heap(heap),
          first(first),
          buckets(buckets),
          buckets_per_unit(static_cast<double>(buckets) / largest_score) {
        for (std::ptrdiff_t b = 0; b < buckets; ++b) first[b] = none;
    }

    // Rises with the score, or does not fall; what is NaN or infinite here comes last.
    std::ptrdiff_t bucket_of(double score) const {
        const double at = score * buckets_per_unit;
        const std::ptrdiff_t last = buckets - 1;
        return at < static_cast<double>(last) ? static_cast<std::ptrdiff_t>(at) : last;
    }
    void list(std::uint32_t candidate) {
        std::uint32_t& bucket = first[bucket_of(candidates[candidate].score)];
        candidates[candidate].next = bucket;
        bucket = candidate;
    }

    [[gnu::always_inline]] static inline bool before(const Entry& a, const Entry& b) {
        return a.score > b.score || (a.score == b.score && a.index < b.index);
    }
    void push(std::uint32_t candidate) {
        const Entry entry = {candidates[candidate].score, candidates[candidate].index, candidate};
        std::ptrdiff_t hole = size++;
        while (hole > 0 && before(entry, heap[(hole - 1) / 2])) {
            heap[hole] = heap[(hole - 1) / 2];
            hole = (hole - 1) / 2;
        }
        heap[hole] = entry;
    }
    void replace_top(const Entry& entry) {
        std::ptrdiff_t hole = 0;
        for (std::ptrdiff_t child = 1; child < size; child = 2 * hole + 1) {
            if (child + 1 < size && before(heap[child + 1], heap[child])) ++child;
            if (before(entry, heap[child])) break;
            heap[hole] = heap[child];
            hole = child;
        }
        heap[hole] = entry;
    }
    void pop() {
        if (--size > 0) replace_top(heap[size]);
    }
};

// The numbers of the bits that are set in a byte, a byte each, from the lowest bit on.
template <class Isa>
struct BitNumbers {
    std::uint64_t numbers[256];
    std::uint8_t count[256];

    constexpr BitNumbers() : numbers{}, count{} {
        for (unsigned byte = 0; byte < 256; ++byte)
            for (unsigned bit = 0; bit < 8; ++bit)
                if (byte >> bit & 1) numbers[byte] |= std::uint64_t{bit} << 8 * count[byte]++;
    }
};
template <class Isa>
constexpr BitNumbers<Isa> bit_numbers;

// Positions within a scan, of this many boxes.
constexpr int scan_positions = 256;

// Appends the numbers of the bits that are set, from `first` on; writes 8 bytes a byte of `bits`.
template <class Isa, int count>
[[gnu::always_inline]] inline std::uint8_t* append_bits(std::uint8_t* to, unsigned bits,
                                                        int first) {
    for (int shift = 0; shift < count; shift += 8) {
        const unsigned byte = bits >> shift & 255;
        const std::uint64_t numbers =
            bit_numbers<Isa>.numbers[byte] +
            static_cast<std::uint64_t>(first + shift) * 0x0101010101010101u;
        std::memcpy(to, &numbers, sizeof(numbers));
        to += bit_numbers<Isa>.count[byte];
    }
    return to;
}

template <class Isa, class T>
[[gnu::always_inline]] inline Corners corners_at(const BoxBlock<T>* blocks, int position) {
    const BoxBlock<T>& block = blocks[position / BoxBlock<T>::lanes];
    const int lane = position % BoxBlock<T>::lanes;
    return {block.x1[lane], block.y1[lane], block.x2[lane], block.y2[lane]};
}

// Lists the lanes of `count` blocks whose boxes change the score of `box`; those below `first` are
// left out.
template <bool gaussian, class Isa, class T>
[[gnu::noinline]] int scan_blocks(std::uint8_t* positions, const BoxBlock<T>* blocks, int count,
                                  int first, const Box<T>& box, const IouTest<T>& test) {
    using V = Vec<Isa, T>;
    using Block = BoxBlock<T>;
    const V x1 = V::splat(box.x1), y1 = V::splat(box.y1);
    const V x2 = V::splat(box.x2), y2 = V::splat(box.y2);
    const V term = V::splat(test_term<Isa>(test, box, 0));
    std::uint8_t* end = positions;
    unsigned wanted = ~0u << first;
    for (int i = 0; i < count; ++i) {
        const Block& block = blocks[i];
        unsigned open = 0;
        for (int lane = 0; lane < Block::lanes; lane += V::size) {
            const V width =
                min(x2, loadu<Isa>(block.x2 + lane)) - max(x1, loadu<Isa>(block.x1 + lane));
            const V height =
                min(y2, loadu<Isa>(block.y2 + lane)) - max(y1, loadu<Isa>(block.y1 + lane));
            auto overlap = (width > V::zero()) & (height > V::zero());
            if constexpr (gaussian) {
                open |= mask_bits(overlap) << lane;
            } else {
                const V intersection = width * height;
                const V sum = term + loadu<Isa>(block.term + lane);
                overlap = overlap & (intersection > sum);
                const unsigned possible = mask_bits(overlap);
                if (possible == 0) continue;
                open |= possible << lane;
                unsigned unsure = possible & ~mask_bits(certainly_above(test, intersection, sum));
                for (; unsure != 0; unsure &= unsure - 1) {
                    const int k = lane + __builtin_ctz(unsure);
                    if (!iou_exceeds(corners<Isa>(box), corners_at<Isa>(&block, k), test.threshold))
                        open &= ~(1u << k);
                }
            }
        }
        open &= wanted;
        wanted = ~0u;
        if constexpr (!gaussian)
            if (open == 0) continue;
        end = append_bits<Isa, Block::lanes>(end, open, i * Block::lanes);
    }
    return static_cast<int>(end - positions);
}

// The factors of `box` and as many others as a vector has lanes.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, double> gaussian_factors(const Box<T>& box,
                                                                const BoxBlock<T>* blocks,
                                                                const std::uint8_t* positions,
                                                                double sigma) {
    using V = Vec<Isa, double>;
    V left, top, right, bottom;
    for (int i = 0; i < V::size; ++i) {
        const Corners other = corners_at<Isa>(blocks, positions[i]);
        left.raw[i] = other.x1;
        top.raw[i] = other.y1;
        right.raw[i] = other.x2;
        bottom.raw[i] = other.y2;
    }
    // overlap_iou() in vectors.
    const Corners own = corners<Isa>(box);
    const V width = min(V::splat(own.x2), right) - max(V::splat(own.x1), left);
    const V height = min(V::splat(own.y2), bottom) - max(V::splat(own.y1), top);
    const V intersection = width * height;
    const V area = V::splat((own.x2 - own.x1) * (own.y2 - own.y1));
    const V whole = area + (right - left) * (bottom - top) - intersection;
    V iou = intersection / whole;
    if constexpr (sizeof(T) == 8) {
        const auto sound = (intersection > V::splat(0x1p-960)) & (whole < V::splat(0x1p1000));
        if (any(~sound)) [[unlikely]]
            for (int i = 0; i < V::size; ++i)
                iou.raw[i] = overlap_iou<Isa, T>(own, corners_at<Isa>(blocks, positions[i]));
    }
    return exp(-(iou * iou) / V::splat(sigma));
}

// The score of `box` after the selected boxes from `first` on; some score below `minimum` if it
// falls below that on the way.
template <class Isa, class T>
double decayed(double score, const Box<T>& box, const BoxList<Isa, T>& selected,
               std::ptrdiff_t first, const SoftNmsOptions& options, const IouTest<T>& test) {
    using V = Vec<Isa, double>;
    constexpr int lanes = BoxBlock<T>::lanes;
    constexpr std::ptrdiff_t most = scan_positions / lanes;
    std::uint8_t positions[scan_positions + 8];
    const std::ptrdiff_t end = (std::ptrdiff_t{selected.count} + lanes - 1) / lanes;
    int left_out = static_cast<int>(first % lanes);
    for (std::ptrdiff_t b = first / lanes; b < end; b += most) {
        const BoxBlock<T>* const blocks = selected.blocks + b;
        const int count = static_cast<int>(end - b < most ? end - b : most);
        if (!options.gaussian) {
            const int found =
                scan_blocks<false, Isa>(positions, blocks, count, left_out, box, test);
            for (int i = 0; i < found; ++i)
                score *= 1 - overlap_iou<Isa, T>(corners<Isa>(box),
                                                 corners_at<Isa>(blocks, positions[i]));
        } else {
            const int found = scan_blocks<true, Isa>(positions, blocks, count, left_out, box, test);
            // Lanes beyond the last are computed too.
            for (int i = found; found > 0 && i < found + V::size; ++i)
                positions[i] = positions[found - 1];
            for (int i = 0; i < found && score > options.minimum; i += V::size) {
                double factors[V::size];
                storeu(factors, gaussian_factors<Isa>(box, blocks, positions + i, options.sigma));
                for (int k = 0; k < V::size && i + k < found; ++k) score *= factors[k];
            }
        }
        if (!(score > options.minimum)) break;
        left_out = 0;
    }
    return score;
}

// Writes the selected boxes and their scores in the order of selection and returns how many they
// are. `order` lists the candidates by score, all above the minimum.
template <class Isa, Storage T>
std::ptrdiff_t soft_nms(std::int64_t* indices, double* decayed_scores, BoxRows<T> boxes,
                        const double* scores, const std::uint32_t* order, std::ptrdiff_t count,
                        const SoftNmsOptions& options) {
    using C = Compute<T>;
    using Candidate = SoftCandidate<Isa>;
    using Queue = SoftQueue<Isa>;
    using Entry = typename Queue::Entry;
    if (count == 0) return 0;
    const auto bytes = [&](std::size_t each, std::ptrdiff_t n) {
        return round_up<Isa>(n * static_cast<std::ptrdiff_t>(each));
    };
    const std::ptrdiff_t grid_size = bytes(sizeof(SoftGrid<Isa, C>), 1);
    const std::ptrdiff_t candidates_size = bytes(sizeof(Candidate), count);
    const std::ptrdiff_t heap_size = bytes(sizeof(Entry), count);
    const std::ptrdiff_t buckets = 2 * count;
    Workspace<Isa> workspace(grid_size + candidates_size + heap_size +
                             bytes(sizeof(std::uint32_t), buckets));
    char* memory = workspace.memory;
    auto& selected = *new (memory) SoftGrid<Isa, C>;
    Candidate* candidates = reinterpret_cast<Candidate*>(memory += grid_size);
    Entry* heap = reinterpret_cast<Entry*>(memory += candidates_size);
    std::uint32_t* first = reinterpret_cast<std::uint32_t*>(memory += heap_size);
    Queue queue(candidates, heap, first, buckets, scores[order[0]]);

    for (std::ptrdiff_t i = 0; i < count; ++i)
        candidates[i] = {scores[order[i]], order[i], 0, 0, 0, {}};
    const std::ptrdiff_t blocks = selected.lay(candidates, count, boxes);
    Workspace<Isa> lists(blocks * static_cast<std::ptrdiff_t>(sizeof(BoxBlock<C>)));
    selected.blocks = reinterpret_cast<BoxBlock<C>*>(lists.memory);
    for (std::ptrdiff_t i = 0; i < count; ++i) queue.list(static_cast<std::uint32_t>(i));

    const IouTest<C> test = make_iou_test<Isa, C>(options.iou_threshold);
    const auto bring_up_to_date = [&](Candidate& c) {
        if (c.home == c.homeless) return;
        const BoxList<Isa, C> near = selected.list(c.home);
        if (c.seen == near.count) return;
        c.score = decayed(c.score, load_box<Isa>(boxes, c.index), near, c.seen, options, test);
        c.seen = near.count;
    };
    std::ptrdiff_t done = 0;
    for (std::ptrdiff_t bucket = buckets - 1; bucket >= 0; --bucket) {
        for (std::uint32_t i = first[bucket]; i != queue.none; i = candidates[i].next)
            bring_up_to_date(candidates[i]);
        for (std::uint32_t i = first[bucket], next; i != queue.none; i = next) {
            next = candidates[i].next;
            if (!(candidates[i].score > options.minimum)) continue;
            queue.bucket_of(candidates[i].score) == bucket ? queue.push(i) : queue.list(i);
        }
        while (queue.size > 0) {
            const Entry top = heap[0];
            Candidate& c = candidates[top.candidate];
            bring_up_to_date(c);
            if (c.score != top.score) {
                const bool lives = c.score > options.minimum;
                if (lives && queue.bucket_of(c.score) == bucket) {
                    queue.replace_top({c.score, top.index, top.candidate});
                } else {
                    queue.pop();
                    if (lives) queue.list(top.candidate);
                }
                continue;
            }
            queue.pop();
            indices[done] = c.index;
            decayed_scores[done++] = c.score;
            if (c.home == c.homeless) continue;
            const Box<C> box = load_box<Isa>(boxes, c.index);
            selected.add(box, c.squares, test_term<Isa>(test, box, 0));
        }
    }
    return done;
}

}  // namespace stableops
