#pragma once
// How a correlation is cut into tasks. No output's bits depend on it.
#include "../runtime/parallel.h"
#include "conv_problem.h"

namespace stableops {

// Bytes of L2 that a task plans with: window, panel, sums. Together about 1 MB, which fits the
// second level of every x86-64 core in use but the smallest, where it spills into the third.
constexpr std::ptrdiff_t window_bytes = 512 << 10;
constexpr std::ptrdiff_t panel_bytes = 128 << 10;
constexpr std::ptrdiff_t sums_bytes = 512 << 10;

// Pixels of a matrix that a task takes: they hide the packing of weights, and leave room in L2 for
// the sums of twelve panels.
constexpr std::ptrdiff_t matrix_pixels = 560;

// Multiply-adds of a task that are worth handing to another thread (some 50 us).
constexpr std::ptrdiff_t task_work = std::ptrdiff_t{1} << 22;

struct BlockPlan {
    std::ptrdiff_t images, rows, columns, channels;
    std::ptrdiff_t image_blocks, row_blocks, column_blocks, channel_blocks;
    bool pixel_lanes;

    [[gnu::always_inline]] inline std::ptrdiff_t tasks() const {
        return image_blocks * row_blocks * column_blocks * channel_blocks;
    }
    [[gnu::always_inline]] inline Block block(std::ptrdiff_t task) const {
        const std::ptrdiff_t k = task % channel_blocks;
        task /= channel_blocks;
        const std::ptrdiff_t w = task % column_blocks;
        task /= column_blocks;
        return {task / row_blocks * images,
                task % row_blocks * rows,
                w * columns,
                k * channels,
                images,
                rows,
                columns,
                channels};
    }
};

// Term offsets into the weights are 32-bit; beyond that the other form packs them.
template <class Isa, class T>
bool offsets_fit(const TermMatrix<T>& m) {
    constexpr std::ptrdiff_t limit = std::ptrdiff_t{1} << 30;
    for (int i = 0; i < 3; ++i) {
        const std::ptrdiff_t stride = m.stride[i] < 0 ? -m.stride[i] : m.stride[i];
        if (m.count[i] > 1 && stride > limit / (3 * m.count[i])) return false;
    }
    return true;
}

// Whether lanes should be pixels (conv_pixel_lanes.h), by what each form costs beside the
// arithmetic, as a share of it, measured on AVX-512. Lanes of channels: packing a weight costs as
// much as 12 pixels of arithmetic with it, transposing an output as much as 20 terms. Lanes of
// pixels: packing a patch costs as much as 4 channels, 20 where it comes from a window.
template <class Isa, class T>
bool prefer_pixel_lanes(const Correlation<T>& p) {
    if (!Isa::has_fma || !std::is_same_v<T, Compute<T>> || p.y_stride.w != 1 ||
        !offsets_fit<Isa>(p.weight) || (p.panels && p.terms() >= std::ptrdiff_t{1} << 24) ||
        (p.x_stride.c == 1 && p.x_stride.w != 1) || inner_window(p.w, 0, p.w.out).apart)
        return false;
    constexpr std::ptrdiff_t vector = Vec<Isa, Compute<T>>::size;
    const std::ptrdiff_t plane = p.h.out * p.w.out;
    const std::ptrdiff_t pixels = plane * (plane < 256 ? smaller(p.images, 16) : 1);
    auto with_idle_lanes = [](std::ptrdiff_t used) {
        return static_cast<double>(ceil_div(used, vector) * vector) / static_cast<double>(used);
    };
    const double packed_weights = p.panels ? 0 : 12.0 / static_cast<double>(smaller(pixels, 1024));
    const double transposition = 20.0 / static_cast<double>(larger(p.terms(), 1));
    const bool copied = p.h.taps * p.w.taps > 1 || p.h.stride * p.w.stride > 1;
    const double channels = static_cast<double>(p.out_channels);
    const double packed_patches = copied ? 0.1 + 20 / channels : 0.02 + 4 / channels;
    return with_idle_lanes(pixels) * (1 + packed_patches) <
           with_idle_lanes(p.out_channels) * (1 + packed_weights + transposition);
}

// One tap, and no padding.
template <class Isa, class T>
bool is_pointwise(const Correlation<T>& p) {
    return p.h.taps == 1 && p.w.taps == 1 && p.h.first >= 0 &&
           (p.h.out - 1) * p.h.stride + p.h.first < p.h.in && p.w.first >= 0 &&
           (p.w.out - 1) * p.w.stride + p.w.first < p.w.in;
}

// Such a layer can be read where it lies, unless the rows of a tile, or a row's terms where rows
// are neighbours, would fall into few sets of the cache (tiles of 14 rows, 64 sets of 64 bytes).
template <class Isa, class T>
bool reads_in_place(const Correlation<T>& p) {
    if (!std::is_same_v<T, Compute<T>> || !is_pointwise<Isa>(p)) return false;
    constexpr std::ptrdiff_t size = sizeof(T);
    const std::ptrdiff_t step = p.w.stride * p.x_stride.w * size;
    const std::ptrdiff_t channel = p.x_stride.c < 0 ? -p.x_stride.c : p.x_stride.c;
    return (step == 0 || step % 2048 != 0) && (channel == 0 || channel * size % 512 != 0) &&
           channel < (std::ptrdiff_t{1} << 30) / larger(p.in_channels, 1);
}

// More pixels than a tile, and channels enough to pay for packing them.
template <class Isa, class T>
bool is_matrix(const Correlation<T>& p) {
    constexpr std::ptrdiff_t lanes = 2 * Vec<Isa, Compute<T>>::size;
    return is_pointwise<Isa>(p) && p.terms() > 0 && p.out_channels >= 6 * lanes &&
           p.images * p.h.out * p.w.out > TileLimits<Isa>::rows(2);
}

// Then they are packed into tiles (conv_channel_lanes.h), so that the pixels of a term are side by
// side and not in as many lines, unless they are few and can be read where they lie.
template <class Isa, class T>
bool packs_tiles(const Correlation<T>& p) {
    return is_matrix<Isa>(p) && (p.images * p.h.out * p.w.out > 128 || !reads_in_place<Isa>(p));
}

// Multiply-adds in the time that a region's hand-over to other threads takes (some 2 us), that an
// element of a window is copied in, and that a weight is read in.
constexpr double region_work = 2e5;
constexpr double copy_work = 8;
constexpr double weight_work = 10;

// Images of a block (or its rows, or the columns of one) in parts, and its channels in blocks, so
// that all threads finish soon: the longest of their shares counts. Each part reads (and packs) the
// weights once more, each block copies the window once more.
template <class Isa, class T>
void share_among_threads(BlockPlan& plan, const Correlation<T>& p, std::ptrdiff_t others) {
    // As many as a tile has at most, so that none lies in two panels of packed weights.
    constexpr std::ptrdiff_t panel =
        smaller(4 * Vec<Isa, Compute<T>>::size, panel_lanes<Compute<T>>);
    const std::ptrdiff_t panels = ceil_div(p.out_channels, panel);
    const std::ptrdiff_t threads = num_threads();
    const double terms = static_cast<double>(p.terms());
    const bool images = plan.images > 1, rows = plan.rows > 1;
    std::ptrdiff_t& cut = images ? plan.images : rows ? plan.rows : plan.columns;
    std::ptrdiff_t& cut_blocks = images ? plan.image_blocks
                                 : rows ? plan.row_blocks
                                        : plan.column_blocks;
    const std::ptrdiff_t whole = cut;
    const std::ptrdiff_t size = images ? p.images : rows ? p.h.out : p.w.out;
    const double weight = p.panels ? weight_work : 2 * weight_work;
    double least = 0;
    std::ptrdiff_t best = whole;
    // More tasks cannot pay where all work takes as long as two hand-overs.
    auto pays = [&] { return least == 0 || least > 2 * region_work; };
    for (std::ptrdiff_t parts = 1; parts <= smaller(threads, whole) && pays(); ++parts) {
        cut = ceil_div(whole, parts);
        cut_blocks = ceil_div(size, cut);
        const double places =
            static_cast<double>(plan.images * ((plan.rows - 1) * p.h.stride + larger(p.h.taps, 1)) *
                                ((plan.columns - 1) * p.w.stride + larger(p.w.taps, 1)));
        const double pixels = static_cast<double>(plan.images * plan.rows * plan.columns);
        const bool copied = p.h.taps * p.w.taps > 1 || packs_tiles<Isa>(p);
        const double window = copied ? copy_work * places * static_cast<double>(p.in_channels) : 0;
        for (std::ptrdiff_t blocks = 1; blocks <= smaller(panels, 4 * threads) && pays();
             ++blocks) {
            const std::ptrdiff_t each = ceil_div(panels, blocks);
            const std::ptrdiff_t tasks = plan.image_blocks * plan.row_blocks * plan.column_blocks *
                                         ceil_div(panels, each) * others;
            const double task =
                static_cast<double>(each * panel) * terms * (pixels + weight) + window;
            const double work = static_cast<double>(ceil_div(tasks, threads)) * task +
                                (tasks > 1 ? region_work : 0);
            if (least == 0 || work < least) {
                least = work;
                best = cut;
                plan.channels = each * panel;
            }
        }
    }
    cut = best;
    cut_blocks = ceil_div(size, cut);
    plan.channel_blocks = ceil_div(p.out_channels, plan.channels);
}

// `others`: how many correlations of this shape there are.
template <class Isa, class T>
BlockPlan plan_blocks(const Correlation<T>& p, std::ptrdiff_t others) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t vector = Vec<Isa, C>::size;
    constexpr std::ptrdiff_t size = sizeof(C);
    const std::ptrdiff_t taps = larger(p.h.taps * p.w.taps, 1);
    BlockPlan plan{};
    plan.pixel_lanes = prefer_pixel_lanes<Isa>(p);
    // Enough pixels to hide the packing of weights. Lanes of pixels have none to hide, but keep the
    // sums of all channels of a block if its terms come in chunks.
    std::ptrdiff_t block_pixels = 1024;
    if (plan.pixel_lanes && p.terms() > 2 * block_terms)
        block_pixels =
            larger(smaller(block_pixels, sums_bytes / size / p.out_channels), 6 * vector);
    const bool matrix = !plan.pixel_lanes && others == 1 && is_matrix<Isa>(p);
    if (matrix) block_pixels = matrix_pixels;
    // A window of one row and of the channels that one block of terms needs must fit.
    const std::ptrdiff_t least_channels = smaller(p.in_channels, block_terms / taps + 2);
    const std::ptrdiff_t places =
        window_bytes / size / larger(least_channels * larger(p.h.taps, 1), 1);
    plan.columns = smaller(p.w.out, larger(places / p.w.stride, 2 * TileLimits<Isa>::rows(2)));
    plan.columns = smaller(plan.columns, block_pixels);
    plan.column_blocks = ceil_div(p.w.out, plan.columns);
    plan.columns = ceil_div(p.w.out, plan.column_blocks);
    plan.rows = smaller(p.h.out, larger(block_pixels / plan.columns, 1));
    plan.row_blocks = ceil_div(p.h.out, plan.rows);
    plan.rows = ceil_div(p.h.out, plan.row_blocks);
    plan.images = 1;
    if (plan.row_blocks == 1 && plan.column_blocks == 1)
        plan.images = smaller(p.images, larger(block_pixels / (p.h.out * p.w.out), 1));
    plan.image_blocks = ceil_div(p.images, plan.images);

    share_among_threads<Isa>(plan, p, others);
    return plan;
}

}  // namespace stableops
