#pragma once
// A correlation of images with a bank of filters: what conv2d is, and what the gradient of its input
// is once the roles of the channels are exchanged. Terms in the order (input channel, tap row, tap
// column), canonical sums (gemm.h), then the bias.
//
// Lanes are output channels, tile rows are output pixels. A task owns a block of pixels times a range
// of channels and keeps three things in L2: its window of the input, one panel of packed weights, and
// the sums. Where the window of all channels would not fit, terms are taken in chunks that end on a
// block of the canonical sum, and the sums wait in between.
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "conv_patches.h"

namespace stableops {

template <class T>
struct Correlation {
    Axis h, w;
    std::ptrdiff_t images, in_channels, out_channels;
    const T* x;
    Strides4 x_stride;
    // Lanes: output channels. Terms: input channel, tap row, tap column.
    TermMatrix<T> weight;
    const T* bias;
    std::ptrdiff_t bias_stride;
    T* y;
    Strides4 y_stride;
    // Places outside x: zeros, or (true) no terms at all, which differs where a weight is not finite.
    bool outside_is_nothing;

    [[gnu::always_inline]] inline std::ptrdiff_t terms() const { return in_channels * h.taps * w.taps; }
};

// A task's share: images [n, n + images) and so on.
struct Block {
    std::ptrdiff_t n, h, w, k;
    std::ptrdiff_t images, rows, columns, channels;
};

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
        return {task / row_blocks * images, task % row_blocks * rows, w * columns,
                k * channels,               images,                   rows,
                columns,                    channels};
    }
};

// Bytes of L2 that a task plans with: window, panel, sums. Together about 1 MB, which fits the second
// level of every x86-64 core in use but the smallest, where it spills into the third.
constexpr std::ptrdiff_t window_bytes = 512 << 10;
constexpr std::ptrdiff_t panel_bytes = 128 << 10;
constexpr std::ptrdiff_t sums_bytes = 512 << 10;

// Multiply-adds of a task that are worth handing to another thread (some 50 us).
constexpr std::ptrdiff_t task_work = std::ptrdiff_t{1} << 22;

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

// Whether lanes should be pixels (conv_pixel_lanes.h), by what each form costs beside the arithmetic,
// as a share of it: packing a weight costs as much as 19 pixels of arithmetic with it, transposing an
// output as much as 20 terms, packing a patch as much as 4 channels. Measured on AVX-512.
template <class Isa, class T>
bool prefer_pixel_lanes(const Correlation<T>& p) {
    if (!std::is_same_v<T, Compute<T>> || p.y_stride.w != 1 || !offsets_fit<Isa>(p.weight) ||
        (p.x_stride.c == 1 && p.x_stride.w != 1) || inner_window(p.w, 0, p.w.out).apart)
        return false;
    constexpr double lanes = Vec<Isa, Compute<T>>::size;
    const double channels = static_cast<double>(p.out_channels);
    const double pixels = static_cast<double>(
        p.h.out * p.w.out * (p.h.out * p.w.out < 256 ? smaller(p.images, 16) : 1));
    const double channel_vectors = static_cast<double>(ceil_div(p.out_channels, Vec<Isa, Compute<T>>::size));
    const double pixel_vectors =
        static_cast<double>(ceil_div(static_cast<std::ptrdiff_t>(pixels), Vec<Isa, Compute<T>>::size));
    const double by_channels = channel_vectors * lanes / channels *
                               (1 + 12 / (pixels < 1024 ? pixels : 1024) + 20.0 / static_cast<double>(larger(p.terms(), 1)));
    const bool copied = p.h.taps * p.w.taps > 1 || p.h.stride * p.w.stride > 1;
    const double by_pixels = pixel_vectors * lanes / pixels * (copied ? 1.1 + 20 / channels : 1.02 + 4 / channels);
    return by_pixels < by_channels;
}

template <class Isa, class T>
BlockPlan plan_blocks(const Correlation<T>& p) {
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
        block_pixels = larger(smaller(block_pixels, sums_bytes / size / p.out_channels),
                              6 * vector);
    // A window of one row and of the channels that one block of terms needs must fit.
    const std::ptrdiff_t least_channels = smaller(p.in_channels, block_terms / taps + 2);
    const std::ptrdiff_t places =
        window_bytes / size / larger(least_channels * larger(p.h.taps, 1), 1);
    plan.columns =
        smaller(p.w.out, larger(places / p.w.stride, 2 * TileLimits<Isa>::rows(2)));
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

    // Splitting the channels repeats the copy of the window, splitting the pixels repeats the packing.
    const std::ptrdiff_t work = plan.images * plan.rows * plan.columns * p.terms();
    const std::ptrdiff_t least = ceil_div(larger(task_work / larger(work, 1), 1), 4 * vector);
    plan.channels = smaller(larger(least, 2) * 4 * vector, p.out_channels);
    const std::ptrdiff_t pixel_tasks = plan.image_blocks * plan.row_blocks * plan.column_blocks;
    if (pixel_tasks >= 32) plan.channels = p.out_channels;
    plan.channel_blocks = ceil_div(p.out_channels, plan.channels);
    return plan;
}

// y(pixel i, channel j) = sums[i][j] + bias[j], for `rows` pixels and `lanes` channels.
template <class Isa, class T>
void store_tile(T* y, std::ptrdiff_t pixel_stride, std::ptrdiff_t channel_stride,
                std::ptrdiff_t rows, std::ptrdiff_t lanes, const Compute<T>* sums,
                std::ptrdiff_t pitch, const Compute<T>* bias) {
    using V = Vec<Isa, Compute<T>>;
    constexpr std::ptrdiff_t n = V::size;
    if (channel_stride == 1) {
        for (std::ptrdiff_t i = 0; i < rows; ++i) {
            T* to = y + i * pixel_stride;
            const Compute<T>* from = sums + i * pitch;
            for_each_vec<Isa, n>(lanes, [&](std::ptrdiff_t j, auto which) {
                V v = loadu<Isa>(from + j);
                if (bias) v = v + loadu<Isa>(bias + j);
                store(to + j, v, which);
            });
        }
        return;
    }
    for (std::ptrdiff_t j = 0; j < lanes; j += n) {
        const std::ptrdiff_t columns = smaller(n, lanes - j);
        for (std::ptrdiff_t i = 0; i < rows; i += n) {
            const FirstLanes pixels{static_cast<int>(smaller(n, rows - i))};
            T* to = y + i * pixel_stride + j * channel_stride;
            V column[n];
            transpose<Isa>(sums + i * pitch + j, pitch, column);
            if (bias) {
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) column[k] = column[k] + V::splat(bias[j + k]);
            }
            if (pixel_stride == 1 && columns == n) {
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) store(to + k * channel_stride, column[k], pixels);
            } else {
                T line[n * n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) store(line + k * n, column[k], AllLanes{});
                for (std::ptrdiff_t k = 0; k < columns; ++k)
                    for (int q = 0; q < pixels.count; ++q)
                        to[k * channel_stride + q * pixel_stride] = line[k * n + q];
            }
        }
    }
}

template <class Isa, class C>
[[gnu::always_inline]] inline C fma_one(C a, C b, C c) {
    if constexpr (sizeof(C) == 4) {
        return __builtin_fmaf(a, b, c);
    } else {
        return __builtin_fma(a, b, c);
    }
}

template <class Isa, class T>
Compute<T> widen_one(const T* p) {
    return load<Isa>(p, FirstLanes{1})[0];
}

template <class Isa, class T>
bool all_finite(const TermMatrix<T>& m, std::ptrdiff_t lane, std::ptrdiff_t lanes) {
    for (std::ptrdiff_t k = lane; k < lane + lanes; ++k)
        for (std::ptrdiff_t a = 0; a < m.count[0]; ++a)
            for (std::ptrdiff_t b = 0; b < m.count[1]; ++b)
                for (std::ptrdiff_t c = 0; c < m.count[2]; ++c)
                    if (widen_one<Isa>(m.data + k * m.lane_stride + a * m.stride[0] +
                                       b * m.stride[1] + c * m.stride[2]) *
                            0 !=
                        0)
                        return false;
    return true;
}

// The outputs of a block that reach outside x, again, one by one: a product with an infinite or NaN
// weight that does not exist counts as +0. (Products with finite weights are 0 anyway, and are added
// as the tiles add them, so that the sign of a zero agrees.) Called when some output is NaN, which a
// product of 0 and such a weight always makes it.
template <class Isa, class T>
void repair_borders(const Correlation<T>& p, const Block& b) {
    using C = Compute<T>;
    if (all_finite<Isa>(p.weight, b.k, b.channels)) return;
    for (std::ptrdiff_t n = b.n; n < b.n + b.images; ++n)
        for (std::ptrdiff_t oh = b.h; oh < b.h + b.rows; ++oh)
            for (std::ptrdiff_t ow = b.w; ow < b.w + b.columns; ++ow)
                for (std::ptrdiff_t k = b.k; k < b.k + b.channels; ++k) {
                    C total = 0;
                    C chain = 0;
                    bool complete = true;
                    const std::ptrdiff_t terms = p.terms();
                    for (std::ptrdiff_t t = 0; t < terms; ++t) {
                        const std::ptrdiff_t r = t / p.w.taps % p.h.taps;
                        const std::ptrdiff_t s = t % p.w.taps;
                        const std::ptrdiff_t c = t / (p.h.taps * p.w.taps);
                        const std::ptrdiff_t h = oh * p.h.stride + p.h.first + r * p.h.step;
                        const std::ptrdiff_t w = ow * p.w.stride + p.w.first + s * p.w.step;
                        C weight = widen_one<Isa>(
                            p.weight.data + k * p.weight.lane_stride + c * p.weight.stride[0] +
                            r * p.weight.stride[1] + s * p.weight.stride[2]);
                        C value = 0;
                        if (h >= 0 && h < p.h.in && w >= 0 && w < p.w.in) {
                            value = widen_one<Isa>(p.x + n * p.x_stride.n + c * p.x_stride.c +
                                                   h * p.x_stride.h + w * p.x_stride.w);
                        } else {
                            complete = false;
                            if (weight * 0 != 0) weight = 0;
                        }
                        chain = fma_one<Isa>(value, weight, chain);
                        if (t % block_terms == block_terms - 1 || t == terms - 1) {
                            total = t < block_terms ? chain : total + chain;
                            chain = 0;
                        }
                    }
                    if (complete) continue;
                    if (p.bias) total = total + widen_one<Isa>(p.bias + k * p.bias_stride);
                    store(p.y + n * p.y_stride.n + k * p.y_stride.c + oh * p.y_stride.h +
                              ow * p.y_stride.w,
                          Vec<Isa, C>::splat(total), FirstLanes{1});
                }
}

// Where the pixels of a block lie in the scratch and in y: rows of `length` pixels. Rows and images
// that follow each other without a gap in both become one row, so that tiles are full.
struct PixelRows {
    std::ptrdiff_t images, rows, length;
};

static inline PixelRows pixel_rows(const Block& b, const PatchLayout& layout,
                                   const Strides4& y) {
    PixelRows r{b.images, b.rows, b.columns};
    const std::ptrdiff_t step = layout.w.out_step * layout.pitch.w;
    if (r.rows > 1 && layout.h.out_step * layout.pitch.h == r.length * step &&
        y.h == r.length * y.w) {
        r.length *= r.rows;
        r.rows = 1;
    }
    if (r.images > 1 && r.rows == 1 && layout.pitch.n == r.length * step &&
        y.n == r.length * y.w) {
        r.length *= r.images;
        r.images = 1;
    }
    return r;
}

// The tiles of one panel, over all pixels of the block: tile(scratch offset, y offset, rows).
template <class Isa, class Body>
[[gnu::always_inline]] inline void for_each_tile(const PixelRows& r, const PatchLayout& layout,
                                                 const Strides4& y, Body&& tile) {
    const std::ptrdiff_t count = ceil_div(r.length, TileLimits<Isa>::rows(2));
    const std::ptrdiff_t size = r.length / count;
    const std::ptrdiff_t larger_ones = r.length % count;
    const std::ptrdiff_t step = layout.w.out_step * layout.pitch.w;
    for (std::ptrdiff_t n = 0; n < r.images; ++n)
        for (std::ptrdiff_t h = 0; h < r.rows; ++h) {
            std::ptrdiff_t from = n * layout.pitch.n + h * layout.h.out_step * layout.pitch.h;
            std::ptrdiff_t to = n * y.n + h * y.h;
            for (std::ptrdiff_t i = 0; i < count; ++i) {
                const std::ptrdiff_t rows = size + (i < larger_ones);
                tile(from, to, rows);
                from += rows * step;
                to += rows * y.w;
            }
        }
}

template <class C>
[[gnu::always_inline]] inline C* carve(char*& scratch, std::ptrdiff_t elements) {
    C* part = reinterpret_cast<C*>(scratch);
    scratch += (elements * static_cast<std::ptrdiff_t>(sizeof(C)) + 63) / 64 * 64;
    return part;
}

// A 1x1 layer without padding can be read where it lies, unless the rows of a tile would fall into
// few sets of the cache (tiles of 14 rows, 64 sets of 64 bytes).
template <class Isa, class T>
bool reads_in_place(const Correlation<T>& p) {
    if (!std::is_same_v<T, Compute<T>> || p.h.taps != 1 || p.w.taps != 1) return false;
    if (p.h.first < 0 || (p.h.out - 1) * p.h.stride + p.h.first >= p.h.in || p.w.first < 0 ||
        (p.w.out - 1) * p.w.stride + p.w.first >= p.w.in)
        return false;
    const std::ptrdiff_t step = p.w.stride * p.x_stride.w * static_cast<std::ptrdiff_t>(sizeof(T));
    const std::ptrdiff_t channel = p.x_stride.c < 0 ? -p.x_stride.c : p.x_stride.c;
    return (step == 0 || step % 2048 != 0) && channel < (std::ptrdiff_t{1} << 30) / larger(p.in_channels, 1);
}

template <class Isa, class T>
void correlate_block(const Correlation<T>& p, Block b) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t vector = Vec<Isa, C>::size;
    constexpr std::ptrdiff_t size = sizeof(C);
    constexpr std::ptrdiff_t tile_rows = TileLimits<Isa>::rows(2);
    b.images = smaller(b.images, p.images - b.n);
    b.rows = smaller(b.rows, p.h.out - b.h);
    b.columns = smaller(b.columns, p.w.out - b.w);
    b.channels = smaller(b.channels, p.out_channels - b.k);
    if (b.images <= 0 || b.rows <= 0 || b.columns <= 0 || b.channels <= 0) return;

    const bool channels_innermost = p.x_stride.c == 1 && p.x_stride.w != 1 && p.in_channels > 1;
    const bool direct = reads_in_place<Isa>(p);
    const Window rows = outer_window(p.h, b.h, b.h + b.rows);
    const Window columns = channels_innermost ? outer_window(p.w, b.w, b.w + b.columns)
                                              : inner_window(p.w, b.w, b.w + b.columns);
    const std::ptrdiff_t taps = p.h.taps * p.w.taps;
    const std::ptrdiff_t terms = p.terms();

    std::ptrdiff_t chunk = larger(terms, 1);
    const std::ptrdiff_t window_channels =
        window_bytes / size / larger(b.images * rows.size * columns.size, 1);
    if (!direct && window_channels < p.in_channels)
        chunk = smaller(chunk, larger((window_channels - 1) * taps, 1));
    // Low tiles read the panel so often that it should stay in L1. A handful of pixels hardly read it
    // at all: then the weights should come from memory in long runs.
    const bool few_pixels = b.images * b.rows * b.columns <= 8;
    chunk = smaller(chunk, panel_bytes / size / (2 * vector) * (few_pixels ? 4 : 1) /
                               (b.columns < 10 && !few_pixels ? 4 : 2));
    if (chunk < terms) chunk = larger(chunk / block_terms, 1) * block_terms;
    const std::ptrdiff_t chunks = larger(ceil_div(terms, chunk), 1);
    const std::ptrdiff_t chunk_channels =
        taps == 0 ? 0 : smaller(p.in_channels, (chunk + taps - 2) / taps + 1);
    PatchLayout layout =
        patch_layout<Isa, C>(rows, columns, b.images, chunk_channels, channels_innermost);
    if (direct) {
        layout.pitch = p.x_stride;
        layout.h.out_step = p.h.stride;
        layout.w.out_step = p.w.stride;
    }

    const PixelRows pixels = pixel_rows(b, layout, p.y_stride);
    const std::ptrdiff_t tiles =
        pixels.images * pixels.rows * ceil_div(pixels.length, tile_rows);
    const int vectors = pixels.length <= TileLimits<Isa>::rows(4) ? 4 : 2;
    const std::ptrdiff_t lanes = vectors * vector;
    // One vector more than a tile: the transposing store reads whole squares.
    const std::ptrdiff_t tile_size = larger(tile_rows, vector) * lanes;
    const std::ptrdiff_t panels = ceil_div(b.channels, lanes);
    std::ptrdiff_t group = panels;
    if (chunks > 1)
        group = smaller(panels, larger(sums_bytes / size / (tiles * tile_size), 1));

    const std::ptrdiff_t window_size = direct               ? 0
                                       : channels_innermost ? b.images * layout.pitch.n
                                                            : chunk_channels * layout.pitch.c;
    const std::ptrdiff_t sums_size = (chunks > 1 ? group * tiles : 1) * tile_size;
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (window_size + chunk * lanes + sums_size + lanes) * size + chunk * 4 + 5 * 64)));
    C* window = carve<C>(scratch, window_size);
    const C* source = window;
    C* panel = carve<C>(scratch, chunk * lanes);
    C* sums = carve<C>(scratch, sums_size);
    C* bias = carve<C>(scratch, lanes);
    std::int32_t* offset = carve<std::int32_t>(scratch, chunk);

    const TermMatrix<T> weight = join_axes<Isa>(p.weight);
    const std::ptrdiff_t step = layout.w.out_step * layout.pitch.w;
    bool repair = false;
    for (std::ptrdiff_t group_begin = 0; group_begin < panels; group_begin += group) {
        const std::ptrdiff_t group_end = smaller(group_begin + group, panels);
        for (std::ptrdiff_t q = 0; q < chunks; ++q) {
            const std::ptrdiff_t first = q * chunk;
            const std::ptrdiff_t last = smaller(first + chunk, terms);
            if (first < last && (chunks > 1 || group_begin == 0)) {
                const std::ptrdiff_t c0 = first / taps;
                const T* x = p.x + b.n * p.x_stride.n + c0 * p.x_stride.c;
                if constexpr (std::is_same_v<T, C>)
                    if (direct)
                        source = x + (b.h * p.h.stride + p.h.first) * p.x_stride.h +
                                 (b.w * p.w.stride + p.w.first) * p.x_stride.w;
                if (!direct)
                    copy_patches<Isa>(window, layout, x, p.x_stride, p.h, p.w, b.images,
                                      (last - 1) / taps + 1 - c0);
                std::ptrdiff_t c = 0;
                std::ptrdiff_t r = first / p.w.taps % p.h.taps;
                std::ptrdiff_t s = first % p.w.taps;
                for (std::ptrdiff_t t = 0; t < last - first; ++t) {
                    offset[t] = static_cast<std::int32_t>(
                        direct ? c * p.x_stride.c
                               : c * layout.pitch.c + rows.of(b.h, r) * layout.pitch.h +
                                     columns.of(b.w, s) * layout.pitch.w);
                    if (++s == p.w.taps) {
                        s = 0;
                        if (++r == p.h.taps) {
                            r = 0;
                            ++c;
                        }
                    }
                }
            }
            for (std::ptrdiff_t i = group_begin; i < group_end; ++i) {
                const std::ptrdiff_t k = b.k + i * lanes;
                const std::ptrdiff_t used = smaller(lanes, b.k + b.channels - k);
                const int used_vectors = static_cast<int>(ceil_div(used, vector));
                pack_panel<Isa>(panel, weight, k, used, first, last, used_vectors);
                if (p.bias && q == chunks - 1)
                    pack_run<Isa>(bias, p.bias + k * p.bias_stride, p.bias_stride, 0, used, 1,
                                  used_vectors);
                T* y = p.y + b.n * p.y_stride.n + k * p.y_stride.c + b.h * p.y_stride.h +
                       b.w * p.y_stride.w;
                C* slot = sums + (chunks > 1 ? (i - group_begin) * tiles * tile_size : 0);
                for_each_tile<Isa>(
                    pixels, layout, p.y_stride,
                    [&](std::ptrdiff_t from, std::ptrdiff_t to, std::ptrdiff_t count) {
                        tile_function<Isa, C>(static_cast<int>(count), used_vectors)(
                            slot, source + from, offset, step, panel, last - first, q > 0);
                        if (q == chunks - 1 && p.outside_is_nothing && !repair)
                            repair = has_nan<Isa>(slot, count * used_vectors);
                        if (q == chunks - 1)
                            store_tile<Isa>(y + to, p.y_stride.w, p.y_stride.c, count, used,
                                            slot, used_vectors * vector,
                                            p.bias ? bias : nullptr);
                        if (chunks > 1) slot += tile_size;
                    });
            }
        }
    }
    if (repair) repair_borders<Isa>(p, b);
}

}  // namespace stableops
