#pragma once
// Greedy non-maximum suppression: candidates in descending order of score; one is kept unless its
// intersection over union (IoU) with a box kept before it exceeds the threshold t.
//
// Inert boxes. A box whose x2 <= x1 or y2 <= y1 has area 0, and IoU 0 with every box; a box with a
// NaN or infinite coordinate takes no part either (an infinite area makes the IoU 0 or undefined).
// They are kept and suppress nothing.
//
// The comparison is exact. With areas A, B and intersection area I of two boxes that are not inert,
//     IoU > t  <=>  I > r (A + B),   r = t / (1 + t) <= 1/2.
// Kept boxes are tested a vector at a time with I' > a + b, where I' is I computed in T and
// a = f A' - 4 e for the computed area A', f = r (1 - 16 u), u half an ULP of 1, e the smallest
// subnormal. I' and A' are within 3.01 u of I and A, or off by e/2 more if they underflow; f as
// computed lies in r (1 - 12 u, 1 - 20 u); so
//     a + b <= r (1 - 12 u)(1 + 6.2 u)(A + B) - 5 e < r (A + B)(1 - 3.01 u) - e/2,
// and no pair with IoU > t fails the test. Of those that pass,
//     I' > (1 + 40 u)(a + b) + c,   c a normal number far above e,   a + b > 0
// implies IoU > t: its right side is at least r (A + B)(1 + 11 u), rounding included. The few pairs
// in between, and all pairs with a box so large that its area might overflow (a = -infinity, so
// that they pass the first test and not the second), are compared as integers by iou_exceeds().
//
// The grid. IoU > t needs an overlap in x longer than t max(w, v), for widths w and v, while two
// intervals whose centres are d apart overlap by at most (w + v) / 2 - d. Hence
//     d < (w + v) / 2 - t max(w, v),   and v < w / t since the overlap is at most w.
// Over all such v this is at most w (1 - t) if t >= 1/2, else w (1 - t) / (2 t): call it w * reach.
// So a box suppresses only candidates whose centre lies in the kept box's `reach` around its own
// centre, in x and in y. Each kept box is entered in every cell which that area touches, and a
// candidate looks into one cell: that of its own centre. Rounding: a cell number is a monotone
// function of the computed coordinate, and the area is widened by more than the coordinates and
// `reach` are off. Centres outside the grid belong to the border cells, which keeps monotony, so
// the grid may cover just where most boxes are.
//
// Candidates come from all over the image, so each meets a cell that has left the cache. Where the
// kept boxes have outgrown it, candidates are taken in batches: first all of a batch are tested
// against the boxes kept before it, cell by cell and on several threads, then those that are left
// one by one, in order, against the boxes kept since. Which boxes suppress a candidate does not
// depend on when it is asked, so the list is the same.
//
// A box that covers many cells goes into a list that all candidates read when that is cheaper, and
// whenever the blocks run out: the worst case is a sweep over all kept boxes, one vector at a time.
//
// Reference: the definition is that of torchvision.ops.nms; Neubeck & Van Gool, "Efficient
// Non-Maximum Suppression", ICPR 2006.
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "box_rows.h"
#include "exact_iou.h"
#include "order.h"

namespace stableops {

template <class T>
struct IouTest {
    T factor;    // f
    T rounding;  // 1 + 40 u
    T floor;     // c
    T slack;     // 4 e
    T huge;      // areas above it might overflow in a sum
    double threshold;

    // IoU > threshold needs an overlap of more than this part of each width and height.
    double needed_overlap() const { return threshold; }
};

template <class Isa, class T>
IouTest<T> make_iou_test(double threshold) {
    double ratio = threshold / (1.0 + threshold);
    if constexpr (sizeof(T) == 4) {
        return {static_cast<T>(ratio * (1.0 - 16 * 0x1p-24)),
                1.0f + 40 * 0x1p-24f,
                0x1p-100f,
                4 * 0x1p-149f,
                0x1p125f,
                threshold};
    } else {
        return {ratio * (1.0 - 16 * 0x1p-53),
                1.0 + 40 * 0x1p-53,
                0x1p-960,
                4 * 0x1p-1074,
                0x1p1021,
                threshold};
    }
}

// What a box adds to the bound of the first test.
template <class Isa, class T>
[[gnu::always_inline]] inline T test_term(const IouTest<T>& test, const Box<T>& box,
                                          std::ptrdiff_t) {
    T area = (box.x2 - box.x1) * (box.y2 - box.y1);
    return area <= test.huge ? test.factor * area - test.slack : -static_cast<T>(__builtin_inf());
}

template <class Isa, class T>
[[gnu::always_inline]] inline Corners corners(const Box<T>& box) {
    return {box.x1, box.y1, box.x2, box.y2};
}

// Up to 64 bytes of each coordinate, and of the term of the test; unused lanes repeat the first
// box.
template <class T>
struct alignas(64) BoxBlock {
    static constexpr int lanes = 64 / static_cast<int>(sizeof(T));
    T x1[lanes], y1[lanes], x2[lanes], y2[lanes], term[lanes];
};

template <class Isa, class T>
struct Candidate {
    Box<T> box;
    Vec<Isa, T> x1, y1, x2, y2, term;
};

// The second test.
template <class Isa, class T>
[[gnu::always_inline]] inline Mask<Isa, T> certainly_above(const IouTest<T>& test,
                                                           Vec<Isa, T> intersection,
                                                           Vec<Isa, T> bound) {
    using V = Vec<Isa, T>;
    return (bound > V::zero()) &
           (intersection > V::splat(test.rounding) * bound + V::splat(test.floor));
}

template <class Isa, class T>
bool suppressed_in(const BoxBlock<T>& block, const Candidate<Isa, T>& c, const IouTest<T>& test) {
    using V = Vec<Isa, T>;
    for (int lane = 0; lane < BoxBlock<T>::lanes; lane += V::size) {
        V width =
            max(min(c.x2, loadu<Isa>(block.x2 + lane)) - max(c.x1, loadu<Isa>(block.x1 + lane)),
                V::zero());
        V height = min(c.y2, loadu<Isa>(block.y2 + lane)) - max(c.y1, loadu<Isa>(block.y1 + lane));
        V intersection = width * height;
        V bound = c.term + loadu<Isa>(block.term + lane);
        Mask<Isa, T> possible = intersection > bound;
        if (!any(possible)) continue;
        possible = possible & (width > V::zero()) & (height > V::zero());
        if (any(possible & certainly_above(test, intersection, bound))) return true;
        for (unsigned open = mask_bits(possible); open != 0; open &= open - 1) {
            int i = lane + __builtin_ctz(open);
            Corners kept = {block.x1[i], block.y1[i], block.x2[i], block.y2[i]};
            if (iou_exceeds(kept, corners<Isa>(c.box), test.threshold)) return true;
        }
    }
    return false;
}

// One axis of the grid.
template <class T>
struct GridAxis {
    T origin;
    T cells_per_unit;
    int cells;
};

template <class Isa, class T>
[[gnu::always_inline]] inline int grid_cell(const GridAxis<T>& axis, T position) {
    T cell = (position - axis.origin) * axis.cells_per_unit;
    T last = static_cast<T>(axis.cells - 1);
    cell = cell < last ? cell : last;
    return cell > T{0} ? static_cast<int>(cell) : 0;
}

template <class Isa, class T>
[[gnu::always_inline]] inline T middle(T low, T high) {
    return T(0.5) * low + T(0.5) * high;
}

// Sorts a few numbers.
template <class Isa, class T>
void insertion_sort(T* values, int n) {
    for (int i = 1; i < n; ++i) {
        T value = values[i];
        int j = i;
        for (; j > 0 && values[j - 1] > value; --j) values[j] = values[j - 1];
        values[j] = value;
    }
}

// Lays an axis over most of the sampled centres, with cells as wide as the reach of a kept box of
// median size, which so touches two of them; wider ones where that makes more than max_cells.
template <class Isa, class T>
GridAxis<T> make_axis(T* centres, T* sizes, int samples, double reach, int max_cells) {
    if (samples == 0) return {T{0}, T{0}, 1};
    insertion_sort<Isa>(centres, samples);
    insertion_sort<Isa>(sizes, samples);
    int outliers = samples / 32;
    double low = centres[outliers];
    double high = centres[samples - 1 - outliers];
    double margin = (high - low) * 0.05;
    low -= margin;
    high += margin;
    double extent = high - low;
    double cell = static_cast<double>(sizes[samples / 2]) * reach * 2;
    double cells = extent / cell;
    cells = cells < max_cells ? cells : max_cells;
    double scale = cells / extent;
    // Also refuses NaN, and steps that T cannot hold.
    constexpr double largest = sizeof(T) == 4 ? 0x1p100 : 0x1p1000;
    if (!(cells >= 2 && scale < largest && scale > 1 / largest)) return {T{0}, T{0}, 1};
    return {static_cast<T>(low), static_cast<T>(scale), static_cast<int>(cells)};
}

// The boxes kept so far, in blocks chained by cell; the last cell is the list that all candidates
// read.
template <class Isa, class T>
struct KeptBoxes {
    struct Cell {
        std::int32_t block;  // the newest one, or -1
        std::int32_t boxes;
    };
    GridAxis<T> x, y;
    double reach;
    Cell* cells;
    BoxBlock<T>* blocks;
    std::int32_t* next;
    std::int32_t used;
    std::int32_t capacity;
};

template <class Isa, class T>
void enter(KeptBoxes<Isa, T>& kept, std::ptrdiff_t cell_index, const Candidate<Isa, T>& c) {
    using V = Vec<Isa, T>;
    auto& cell = kept.cells[cell_index];
    int lane = cell.boxes++ % BoxBlock<T>::lanes;
    if (lane == 0) {
        kept.next[kept.used] = cell.block;
        cell.block = kept.used++;
        BoxBlock<T>& block = kept.blocks[cell.block];
        for (int i = 0; i < BoxBlock<T>::lanes; i += V::size) {
            storeu(block.x1 + i, c.x1);
            storeu(block.y1 + i, c.y1);
            storeu(block.x2 + i, c.x2);
            storeu(block.y2 + i, c.y2);
            storeu(block.term + i, c.term);
        }
        return;
    }
    BoxBlock<T>& block = kept.blocks[cell.block];
    block.x1[lane] = c.box.x1;
    block.y1[lane] = c.box.y1;
    block.x2[lane] = c.box.x2;
    block.y2[lane] = c.box.y2;
    block.term[lane] = c.term[0];
}

// A range of cells which contains the cell of every centre within reach.
template <class Isa, class T>
[[gnu::always_inline]] inline void covered(const GridAxis<T>& axis, T low, T high, double reach,
                                           int& first, int& last) {
    constexpr T ulps = sizeof(T) == 4 ? T(0x1p-20) : T(0x1p-49);
    constexpr T tiny = sizeof(T) == 4 ? T(0x1p-120) : T(0x1p-1000);
    T centre = middle<Isa>(low, high);
    T radius = static_cast<T>(reach) * (T(0.5) * high - T(0.5) * low) * 2;
    radius += ulps * (radius + (centre < 0 ? -centre : centre)) + tiny;
    first = grid_cell<Isa>(axis, centre - radius);
    last = grid_cell<Isa>(axis, centre + radius);
}

template <class Isa, class T>
void keep(KeptBoxes<Isa, T>& kept, const Candidate<Isa, T>& c, std::ptrdiff_t remaining) {
    int left, right, top, bottom;
    covered<Isa>(kept.x, c.box.x1, c.box.x2, kept.reach, left, right);
    covered<Isa>(kept.y, c.box.y1, c.box.y2, kept.reach, top, bottom);
    std::ptrdiff_t cells = std::ptrdiff_t{right - left + 1} * (bottom - top + 1);
    // Entering a cell costs about as much as 32 candidates' looks at one more box.
    if ((cells > 1 && cells > remaining / 32) || kept.used + cells > kept.capacity) {
        enter(kept, std::ptrdiff_t{kept.x.cells} * kept.y.cells, c);
        return;
    }
    for (int row = top; row <= bottom; ++row)
        for (int column = left; column <= right; ++column)
            enter(kept, std::ptrdiff_t{row} * kept.x.cells + column, c);
}

template <class Isa, class T>
[[gnu::always_inline]] inline void prefetch(const BoxBlock<T>& block) {
    const char* line = reinterpret_cast<const char*>(&block);
    for (std::size_t i = 0; i < sizeof(block); i += 64) __builtin_prefetch(line + i);
}

// Blocks below number `tested` have been tested before, except that the newest of them in a cell
// may have got boxes since.
template <class Isa, class T, class Test>
[[gnu::always_inline]] inline bool suppressed_in_cell(const KeptBoxes<Isa, T>& kept,
                                                      std::ptrdiff_t cell,
                                                      const Candidate<Isa, T>& c, const Test& test,
                                                      std::int32_t tested) {
    for (std::int32_t block = kept.cells[cell].block; block >= 0;) {
        std::int32_t next = block < tested ? -1 : kept.next[block];
        if (next >= 0) prefetch<Isa>(kept.blocks[next]);
        if (suppressed_in(kept.blocks[block], c, test)) return true;
        block = next;
    }
    return false;
}

// Above this many candidates the grid pays.
constexpr std::ptrdiff_t sweep_limit = 400;
constexpr int max_samples = 95;

// Candidates in a batch: at first min_batch, then half as many as are done.
constexpr std::ptrdiff_t min_batch = 4096;
constexpr std::ptrdiff_t max_batch = 65536;
// Blocks from which on the kept boxes no longer stay in a second-level cache.
constexpr std::int32_t cached_blocks = 2048;

template <class Isa, class T>
struct GreedyScratch {
    std::ptrdiff_t max_cells;
    std::ptrdiff_t grid_blocks;
    std::ptrdiff_t blocks;
    std::ptrdiff_t batch;
    std::ptrdiff_t bytes;

    explicit GreedyScratch(std::ptrdiff_t n) {
        max_cells = n > sweep_limit ? n / 2 : 1;
        grid_blocks = max_cells + 2 * n / BoxBlock<T>::lanes;
        blocks = grid_blocks + n / BoxBlock<T>::lanes + 1;
        batch = n < max_batch ? n : max_batch;
        bytes =
            blocks * static_cast<std::ptrdiff_t>(sizeof(BoxBlock<T>) + sizeof(std::int32_t)) +
            (max_cells + 1) * static_cast<std::ptrdiff_t>(sizeof(typename KeptBoxes<Isa, T>::Cell) +
                                                          sizeof(std::uint32_t)) +
            batch * static_cast<std::ptrdiff_t>(2 * sizeof(std::uint32_t) + 1);
    }
};

// Candidates [begin, end): their cells, and which of them are known to be suppressed.
template <class Isa>
struct Batch {
    std::ptrdiff_t begin, end;
    std::uint32_t* cells;
    char* suppressed;
    std::uint32_t* by_cell;
    std::uint32_t* cell_starts;
};

template <class Isa, class T>
[[gnu::always_inline]] inline bool inert(const Box<T>& box) {
    constexpr T infinity = static_cast<T>(__builtin_inf());
    return !(box.x2 > box.x1 && box.y2 > box.y1 && box.x1 > -infinity && box.y1 > -infinity &&
             box.x2 < infinity && box.y2 < infinity);
}

template <class Isa, class T>
void lay_grid(KeptBoxes<Isa, T>& kept, const Box<T>* boxes, std::ptrdiff_t n, double needed_overlap,
              std::ptrdiff_t max_cells) {
    kept.reach = needed_overlap >= 0.5 ? 1.0 - needed_overlap
                                       : (1.0 - needed_overlap) / (2.0 * needed_overlap);
    kept.x = kept.y = {T{0}, T{0}, 1};
    constexpr double largest_reach = 64;
    if (n <= sweep_limit || !(kept.reach < largest_reach)) return;
    T centres_x[max_samples], centres_y[max_samples], widths[max_samples], heights[max_samples];
    std::ptrdiff_t wanted = n / 64 < max_samples ? n / 64 : max_samples;
    int samples = 0;
    for (std::ptrdiff_t i = 0; i < wanted; ++i) {
        const Box<T>& box = boxes[i * (n / wanted)];
        if (inert<Isa>(box)) continue;
        centres_x[samples] = middle<Isa>(box.x1, box.x2);
        centres_y[samples] = middle<Isa>(box.y1, box.y2);
        widths[samples] = box.x2 - box.x1;
        heights[samples] = box.y2 - box.y1;
        ++samples;
    }
    int side = static_cast<int>(__builtin_sqrt(static_cast<double>(max_cells)));
    kept.x = make_axis<Isa>(centres_x, widths, samples, kept.reach, side);
    kept.y = make_axis<Isa>(centres_y, heights, samples, kept.reach, side);
}

// The cell of a candidate. What it is for an inert box does not matter.
template <class Isa, class T>
[[gnu::always_inline]] inline std::ptrdiff_t cell_of(const KeptBoxes<Isa, T>& kept,
                                                     const Box<T>& box) {
    return std::ptrdiff_t{grid_cell<Isa>(kept.y, middle<Isa>(box.y1, box.y2))} * kept.x.cells +
           grid_cell<Isa>(kept.x, middle<Isa>(box.x1, box.x2));
}

template <class Isa, class T, class Test>
[[gnu::always_inline]] inline Candidate<Isa, T> make_candidate(const Box<T>& box,
                                                               std::ptrdiff_t position,
                                                               const Test& test) {
    using V = Vec<Isa, T>;
    return {box,
            V::splat(box.x1),
            V::splat(box.y1),
            V::splat(box.x2),
            V::splat(box.y2),
            V::splat(test_term<Isa>(test, box, position))};
}

// Marks the candidates of a batch that a box kept so far suppresses, visiting them by cell.
template <class Isa, class T, class Test>
void mark_suppressed(const Batch<Isa>& batch, const KeptBoxes<Isa, T>& kept, const Box<T>* boxes,
                     const Test& test) {
    constexpr std::ptrdiff_t grain = 1024;
    const std::ptrdiff_t n = batch.end - batch.begin;
    const std::ptrdiff_t everywhere = std::ptrdiff_t{kept.x.cells} * kept.y.cells;
    std::uint32_t* starts = batch.cell_starts;
    for (std::ptrdiff_t cell = 0; cell < everywhere; ++cell) starts[cell] = 0;
    for (std::ptrdiff_t i = 0; i < n; ++i) ++starts[batch.cells[i]];
    std::uint32_t sum = 0;
    for (std::ptrdiff_t cell = 0; cell < everywhere; ++cell) {
        std::uint32_t count = starts[cell];
        starts[cell] = sum;
        sum += count;
    }
    for (std::ptrdiff_t i = 0; i < n; ++i)
        batch.by_cell[starts[batch.cells[i]]++] = static_cast<std::uint32_t>(i);

    parallel_for<Isa>((n + grain - 1) / grain, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t end = (task + 1) * grain < n ? (task + 1) * grain : n;
        for (std::ptrdiff_t k = task * grain; k < end; ++k) {
            const std::ptrdiff_t i = batch.by_cell[k];
            const Box<T>& box = boxes[batch.begin + i];
            if (inert<Isa>(box)) continue;
            const Candidate<Isa, T> c = make_candidate<Isa>(box, batch.begin + i, test);
            batch.suppressed[i] = suppressed_in_cell(kept, batch.cells[i], c, test, 0) ||
                                  suppressed_in_cell(kept, everywhere, c, test, 0);
        }
    });
}

// boxes[0..n) in order of score. Writes the positions of those kept, at most max_kept, and returns
// how many they are. The test is IouTest or one with the same three functions.
template <class Isa, class T, class Test>
std::ptrdiff_t greedy(std::uint32_t* kept_positions, const Box<T>* boxes, std::ptrdiff_t n,
                      const Test& test, std::ptrdiff_t max_kept, void* scratch) {
    if (max_kept == 0) return 0;
    GreedyScratch<Isa, T> sizes(n);
    KeptBoxes<Isa, T> kept;
    Batch<Isa> batch;
    kept.blocks = static_cast<BoxBlock<T>*>(scratch);
    kept.cells = reinterpret_cast<typename KeptBoxes<Isa, T>::Cell*>(kept.blocks + sizes.blocks);
    kept.next = reinterpret_cast<std::int32_t*>(kept.cells + sizes.max_cells + 1);
    batch.cells = reinterpret_cast<std::uint32_t*>(kept.next + sizes.blocks);
    batch.by_cell = batch.cells + sizes.batch;
    batch.cell_starts = batch.by_cell + sizes.batch;
    batch.suppressed = reinterpret_cast<char*>(batch.cell_starts + sizes.max_cells + 1);
    kept.used = 0;
    kept.capacity = static_cast<std::int32_t>(sizes.grid_blocks);
    lay_grid(kept, boxes, n, test.needed_overlap(), sizes.max_cells);
    const std::ptrdiff_t everywhere = std::ptrdiff_t{kept.x.cells} * kept.y.cells;
    for (std::ptrdiff_t cell = 0; cell <= everywhere; ++cell) kept.cells[cell] = {-1, 0};

    // Candidates whose cells and blocks are on their way to the cache.
    constexpr std::ptrdiff_t ahead = 16;
    std::ptrdiff_t count = 0;
    for (batch.begin = 0; batch.begin < n; batch.begin = batch.end) {
        std::ptrdiff_t size = batch.begin / 2 < min_batch ? min_batch : batch.begin / 2;
        size = size < max_batch ? size : max_batch;
        batch.end = n - batch.begin < size ? n : batch.begin + size;
        size = batch.end - batch.begin;
        std::memset(batch.suppressed, 0, static_cast<std::size_t>(size));
        for (std::ptrdiff_t i = 0; i < size; ++i)
            batch.cells[i] = static_cast<std::uint32_t>(cell_of(kept, boxes[batch.begin + i]));
        std::int32_t tested = 0;
        if (kept.used > cached_blocks && kept.used > everywhere) {
            mark_suppressed(batch, kept, boxes, test);
            tested = kept.used;
        }
        for (std::ptrdiff_t i = 0; i < size; ++i) {
            if (i + ahead < size) {
                __builtin_prefetch(&kept.cells[batch.cells[i + ahead]]);
                const std::int32_t block = kept.cells[batch.cells[i + ahead / 2]].block;
                if (block >= 0) prefetch<Isa>(kept.blocks[block]);
            }
            if (batch.suppressed[i]) continue;
            const std::ptrdiff_t position = batch.begin + i;
            const Box<T>& box = boxes[position];
            if (!inert<Isa>(box)) {
                const Candidate<Isa, T> c = make_candidate<Isa>(box, position, test);
                if (suppressed_in_cell(kept, batch.cells[i], c, test, tested) ||
                    suppressed_in_cell(kept, everywhere, c, test, tested))
                    continue;
                keep(kept, c, n - position);
            }
            kept_positions[count++] = static_cast<std::uint32_t>(position);
            if (count == max_kept) return count;
        }
    }
    return count;
}

// `order` lists the candidates by score; writes the indices of the boxes kept, in this order.
template <class Isa, Storage T>
std::ptrdiff_t nms(std::int64_t* kept, BoxRows<T> boxes, const std::uint32_t* order,
                   std::ptrdiff_t count, double threshold, std::ptrdiff_t max_output) {
    using C = Compute<T>;
    std::ptrdiff_t greedy_size = round_up<Isa>(GreedyScratch<Isa, C>(count).bytes);
    std::ptrdiff_t boxes_size = round_up<Isa>(count * static_cast<std::ptrdiff_t>(sizeof(Box<C>)));
    Workspace<Isa> workspace(greedy_size + boxes_size + 4 * count);
    char* memory = workspace.memory;
    Box<C>* sorted = reinterpret_cast<Box<C>*>(memory + greedy_size);
    std::uint32_t* positions = reinterpret_cast<std::uint32_t*>(memory + greedy_size + boxes_size);
    for (std::ptrdiff_t i = 0; i < count; ++i) sorted[i] = load_box<Isa>(boxes, order[i]);
    std::ptrdiff_t kept_count =
        greedy<Isa>(positions, sorted, count, make_iou_test<Isa, C>(threshold), max_output, memory);
    for (std::ptrdiff_t i = 0; i < kept_count; ++i) kept[i] = order[positions[i]];
    return kept_count;
}

// The same where only boxes of the same class suppress each other. Candidates are grouped by class,
// each class is a greedy run of its own, and the boxes kept are listed by score again.
template <class Isa, Storage T>
std::ptrdiff_t batched_nms(std::int64_t* kept, BoxRows<T> boxes, Strided<std::int64_t> classes,
                           const std::uint32_t* order, std::ptrdiff_t count, double threshold,
                           std::ptrdiff_t max_output) {
    using C = Compute<T>;
    using Entry = Keyed<Isa, std::uint64_t>;
    // Candidates a task has at least, so that many small classes share one.
    constexpr std::ptrdiff_t grain = 2048;

    std::ptrdiff_t entries_size =
        round_up<Isa>(2 * count * static_cast<std::ptrdiff_t>(sizeof(Entry)));
    std::ptrdiff_t counts_size = round_up<Isa>(4 * radix_counts<Isa>(count));
    std::ptrdiff_t boxes_size = round_up<Isa>(count * static_cast<std::ptrdiff_t>(sizeof(Box<C>)));
    std::ptrdiff_t tasks_size = round_up<Isa>(4 * (count / grain + 2));
    Workspace<Isa> workspace(entries_size + counts_size + boxes_size + tasks_size + count);
    char* memory = workspace.memory;
    Entry* entries = reinterpret_cast<Entry*>(memory);
    Box<C>* grouped = reinterpret_cast<Box<C>*>(memory += entries_size);
    std::uint32_t* counts = reinterpret_cast<std::uint32_t*>(memory += boxes_size);
    std::uint32_t* first = reinterpret_cast<std::uint32_t*>(memory += counts_size);
    char* is_kept = memory += tasks_size;

    for (std::ptrdiff_t i = 0; i < count; ++i) {
        std::int64_t id = classes.data[order[i] * classes.stride];
        entries[i] = {static_cast<std::uint64_t>(id), static_cast<std::uint32_t>(i)};
    }
    entries = sort_by_key(entries, entries + count, count, counts);

    std::ptrdiff_t tasks = 0;
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        is_kept[i] = 0;
        bool new_class = i == 0 || entries[i].key != entries[i - 1].key;
        if (new_class && (tasks == 0 || i - first[tasks - 1] >= grain))
            first[tasks++] = static_cast<std::uint32_t>(i);
    }
    first[tasks] = static_cast<std::uint32_t>(count);

    const IouTest<C> test = make_iou_test<Isa, C>(threshold);
    parallel_for<Isa>(tasks, [&](std::ptrdiff_t task) {
        std::ptrdiff_t end = first[task + 1];
        std::ptrdiff_t largest = 0;
        for (std::ptrdiff_t i = first[task], next; i < end; i = next) {
            next = i + 1;
            while (next < end && entries[next].key == entries[i].key) ++next;
            largest = largest > next - i ? largest : next - i;
        }
        std::ptrdiff_t greedy_size = round_up<Isa>(GreedyScratch<Isa, C>(largest).bytes);
        Workspace<Isa> scratch(greedy_size + 4 * largest);
        std::uint32_t* positions = reinterpret_cast<std::uint32_t*>(scratch.memory + greedy_size);
        for (std::ptrdiff_t i = first[task], next; i < end; i = next) {
            for (next = i; next < end && entries[next].key == entries[i].key; ++next)
                grouped[next] = load_box<Isa>(boxes, order[entries[next].index]);
            std::ptrdiff_t kept_count =
                greedy<Isa>(positions, grouped + i, next - i, test, max_output, scratch.memory);
            for (std::ptrdiff_t k = 0; k < kept_count; ++k)
                is_kept[entries[i + positions[k]].index] = 1;
        }
    });

    std::ptrdiff_t kept_count = 0;
    for (std::ptrdiff_t i = 0; i < count && kept_count < max_output; ++i)
        if (is_kept[i]) kept[kept_count++] = order[i];
    return kept_count;
}

}  // namespace stableops
