#pragma once
// The correlation (conv_problem.h) for few channels: depthwise and grouped layers, first layers,
// and the gradient of a first layer's input.
//
// Lanes are output pixels, and a tile reads its vectors straight from the window (conv_patches.h),
// where a tap of neighbouring outputs lies in neighbouring places: nothing is packed, because there
// are too few output channels or terms to share it. A task copies the channels of as many groups as
// stay in cache and then computes them, so that the geometry is worked out once for all.
#include "../runtime/memory.h"
#include "conv_plan.h"

namespace stableops {

// Sums in flight hide the latency of fma; a term costs rows broadcasts and `vectors` loads that
// mostly cross a cache line, so tiles are wide.
template <class Isa>
constexpr int direct_rows = Isa::bytes == 64 ? 6 : 4;

template <class Isa>
constexpr int direct_vectors(int rows) {
    if (rows == 1) return 8;
    if (Isa::bytes == 64) return 4;
    return rows == 2 ? 4 : rows == 3 ? 3 : 2;
}

// sums[i][j] = sum over t of a[i * terms + t] * b[j][offset[t] + lane]
template <class Isa, class T, int rows, int vectors>
[[gnu::noinline]] void direct_tile(T* __restrict sums, const T* __restrict a,
                                   const T* const* __restrict b,
                                   const std::int32_t* __restrict offset, std::ptrdiff_t terms) {
    using V = Vec<Isa, T>;
    V acc[rows][vectors];
    const T* place[vectors];
#pragma GCC unroll 8
    for (int j = 0; j < vectors; ++j) place[j] = b[j];
    std::ptrdiff_t t = 0;
    do {
        const std::ptrdiff_t end = terms - t > block_terms ? t + block_terms : terms;
        const bool resume = t > 0;
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j) acc[i][j] = V::zero();
        for (; t < end; ++t) {
            const std::ptrdiff_t at = offset[t];
            V bv[vectors];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j) bv[j] = loadu<Isa>(place[j] + at);
            const T* weight = a + t;
#pragma GCC unroll 8
            for (int i = 0; i < rows; ++i) {
                const V av = V::splat(*weight);
                weight += terms;
#pragma GCC unroll 8
                for (int j = 0; j < vectors; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < rows; ++i)
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j) {
                T* sum = sums + (i * vectors + j) * V::size;
                storeu(sum, resume ? loadu<Isa>(sum) + acc[i][j] : acc[i][j]);
            }
    } while (t < terms);
}

template <class T>
using DirectTile = void (*)(T*, const T*, const T* const*, const std::int32_t*, std::ptrdiff_t);

template <class Isa, class T, int rows = direct_rows<Isa>>
DirectTile<T> direct_tile_function(std::ptrdiff_t wanted) {
    if constexpr (rows > 1) {
        if (wanted != rows) return direct_tile_function<Isa, T, rows - 1>(wanted);
    }
    return direct_tile<Isa, T, rows, direct_vectors<Isa>(rows)>;
}

// How far a group's arrays lie from those of the group before.
struct GroupSteps {
    std::ptrdiff_t x, weight, panels, bias, y;
};

// The correlation of one group, from that of the first.
template <class Isa, class T>
Correlation<T> of_group(Correlation<T> p, const GroupSteps& steps, std::ptrdiff_t group) {
    p.x += group * steps.x;
    if (p.panels)
        p.panels += group * steps.panels;
    else
        p.weight.data += group * steps.weight;
    if (p.bias) p.bias += group * steps.bias;
    p.y += group * steps.y;
    return p;
}

struct DirectPlan {
    std::ptrdiff_t groups, images, rows;
    std::ptrdiff_t group_blocks, image_blocks, row_blocks;
    std::ptrdiff_t window_groups;

    [[gnu::always_inline]] inline std::ptrdiff_t tasks() const {
        return group_blocks * image_blocks * row_blocks;
    }
};

// Of a task that computes `problems` phases. No task if the window would be too large.
template <class Isa, class T>
DirectPlan plan_direct(const Correlation<T>& p, std::ptrdiff_t groups, std::ptrdiff_t problems) {
    constexpr std::ptrdiff_t size = sizeof(Compute<T>);
    DirectPlan plan{};
    // Short sums are bound by loads, so they read from L1; long ones reuse what they load.
    const std::ptrdiff_t budget = (p.terms() <= 64 ? 24 << 10 : window_bytes) / size;
    const std::ptrdiff_t row = lane_window(p.w, 0, p.w.out).size * p.in_channels;
    plan.rows = p.h.out;
    while (plan.rows > 1 && outer_window(p.h, 0, plan.rows).size * row > budget)
        plan.rows = (plan.rows + 1) / 2;
    const std::ptrdiff_t window = outer_window(p.h, 0, plan.rows).size * row;
    if (window > window_bytes / size) return plan;
    plan.row_blocks = ceil_div(p.h.out, plan.rows);
    plan.window_groups = smaller(larger(budget / larger(window, 1), 1), groups);
    // Direct sums run at about a quarter of a large tile's rate.
    const std::ptrdiff_t work =
        larger(problems * plan.rows * p.w.out * larger(p.terms(), 4) * p.out_channels, 1);
    const std::ptrdiff_t units = larger(task_work / 8 / work, 1);
    plan.groups = smaller(ceil_div(units, plan.window_groups) * plan.window_groups, groups);
    plan.group_blocks = ceil_div(groups, plan.groups);
    plan.groups = ceil_div(groups, plan.group_blocks);
    plan.groups = ceil_div(plan.groups, plan.window_groups) * plan.window_groups;
    plan.images = smaller(larger(units / plan.groups, 1), p.images);
    plan.image_blocks = ceil_div(p.images, plan.images);
    return plan;
}

// A vector of outputs: where its lanes begin in the window and in y, and how many there are.
struct DirectVector {
    std::int32_t from;
    int lanes;
    std::ptrdiff_t to;
};

template <class Isa, class T>
void correlate_direct(const Correlation<T>& p, const GroupSteps& steps, std::ptrdiff_t groups,
                      const DirectPlan& plan, std::ptrdiff_t task) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    constexpr std::ptrdiff_t size = sizeof(C);
    constexpr std::ptrdiff_t widest = 8;
    const std::ptrdiff_t h0 = task % plan.row_blocks * plan.rows;
    const std::ptrdiff_t g0 = task / plan.row_blocks % plan.group_blocks * plan.groups;
    const std::ptrdiff_t n0 = task / plan.row_blocks / plan.group_blocks * plan.images;
    const std::ptrdiff_t h1 = smaller(h0 + plan.rows, p.h.out);
    const std::ptrdiff_t g1 = smaller(g0 + plan.groups, groups);
    const std::ptrdiff_t n1 = smaller(n0 + plan.images, p.images);
    if (h0 >= h1) return;

    const std::ptrdiff_t terms = p.terms();
    const std::ptrdiff_t channels = p.in_channels;
    const Window rows = outer_window(p.h, h0, h1);
    const Window columns = lane_window(p.w, 0, p.w.out);
    const PatchLayout layout =
        patch_layout<Isa, C>(rows, columns, 1, plan.window_groups * channels, false);
    const std::ptrdiff_t row_vectors = ceil_div(p.w.out, n);
    const std::ptrdiff_t vectors = (h1 - h0) * row_vectors;
    const std::ptrdiff_t row_blocks = ceil_div(p.out_channels, direct_rows<Isa>);
    const std::ptrdiff_t window_size = plan.window_groups * channels * layout.pitch.c + n;
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (window_size + p.out_channels * terms + direct_rows<Isa> * widest * n) * size + terms * 4 +
        (vectors + widest) * static_cast<std::ptrdiff_t>(sizeof(DirectVector)) + 6 * 64)));
    C* window = carve<C>(scratch, window_size);
    C* weight = carve<C>(scratch, p.out_channels * terms);
    C* sums = carve<C>(scratch, direct_rows<Isa> * widest * n);
    std::int32_t* offset = carve<std::int32_t>(scratch, terms);
    DirectVector* vector = carve<DirectVector>(scratch, vectors + widest);

    for (std::ptrdiff_t t = 0; t < terms; ++t) {
        const std::ptrdiff_t c = t / (p.h.taps * p.w.taps);
        offset[t] = static_cast<std::int32_t>(
            c * layout.pitch.c + rows.of(h0, t / p.w.taps % p.h.taps) * layout.pitch.h +
            columns.of(0, t % p.w.taps));
    }
    DirectVector* last = vector;
    for (std::ptrdiff_t h = h0; h < h1; ++h)
        for (std::ptrdiff_t w = 0; w < p.w.out; w += n)
            *last++ = {static_cast<std::int32_t>((h - h0) * layout.h.out_step * layout.pitch.h +
                                                 w * columns.out_step),
                       static_cast<int>(smaller(n, p.w.out - w)),
                       h * p.y_stride.h + w * p.y_stride.w};
    // Tiles are whole: the last one computes its last vector several times.
    for (std::ptrdiff_t i = 0; i < widest; ++i) last[i] = last[-1];

    const TermMatrix<T>& m = p.weight;
    bool any_nan = false;
    for (std::ptrdiff_t image = n0; image < n1; ++image)
        for (std::ptrdiff_t g = g0; g < g1; g += plan.window_groups) {
            const std::ptrdiff_t end = smaller(g + plan.window_groups, g1);
            copy_patches<Isa>(window, layout, p.x + image * p.x_stride.n + g * steps.x, p.x_stride,
                              p.h, p.w, 1, (end - g) * channels);
            for (std::ptrdiff_t group = g; group < end; ++group) {
                const C* base = window + (group - g) * channels * layout.pitch.c;
                C* packed = weight;
                for (std::ptrdiff_t k = 0; k < p.out_channels; ++k)
                    for (std::ptrdiff_t c = 0; c < channels; ++c)
                        for (std::ptrdiff_t r = 0; r < p.h.taps; ++r, packed += p.w.taps)
                            copy_line<Isa>(packed,
                                           m.data + group * steps.weight + k * m.lane_stride +
                                               c * m.stride[0] + r * m.stride[1],
                                           m.stride[2], p.w.taps);
                for (std::ptrdiff_t block = 0; block < row_blocks; ++block) {
                    const std::ptrdiff_t k = p.out_channels * block / row_blocks;
                    const std::ptrdiff_t tall = p.out_channels * (block + 1) / row_blocks - k;
                    const DirectTile<C> tile = direct_tile_function<Isa, C>(tall);
                    const int width = direct_vectors<Isa>(static_cast<int>(tall));
                    T* y = p.y + image * p.y_stride.n + group * steps.y + k * p.y_stride.c;
                    for (std::ptrdiff_t i = 0; i < vectors; i += width) {
                        const C* place[widest];
                        for (int j = 0; j < width; ++j) place[j] = base + vector[i + j].from;
                        tile(sums, weight + k * terms, place, offset, terms);
                        if (p.outside_is_nothing && !any_nan)
                            any_nan = has_nan<Isa>(sums, tall * width);
                        const int used = static_cast<int>(smaller(width, vectors - i));
                        for (std::ptrdiff_t row = 0; row < tall; ++row) {
                            C bias = 0;
                            if (p.bias)
                                bias = widen_one<Isa>(p.bias + group * steps.bias +
                                                      (k + row) * p.bias_stride);
                            T* to = y + row * p.y_stride.c;
                            for (int j = 0; j < used; ++j) {
                                V v = loadu<Isa>(sums + (row * width + j) * n);
                                if (p.bias) v = v + V::splat(bias);
                                const DirectVector& at = vector[i + j];
                                store_output<Isa>(to + at.to, p.y_stride.w, v, p.epilogue,
                                                  FirstLanes{at.lanes});
                            }
                        }
                    }
                }
            }
        }
    if (!any_nan) return;
    for (std::ptrdiff_t group = g0; group < g1; ++group)
        repair_borders<Isa>(of_group<Isa>(p, steps, group),
                            {n0, h0, 0, 0, n1 - n0, h1 - h0, p.w.out, p.out_channels});
}

}  // namespace stableops
