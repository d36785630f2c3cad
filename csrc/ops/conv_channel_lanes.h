#pragma once
// The correlation (conv_problem.h) with output channels in the lanes and output pixels in the rows
// of a tile.
//
// A task owns a block of pixels times a range of channels and keeps three things in L2: its window
// of the input, one panel of weights (packed here, unless the caller has done it), and the sums.
// Where the window of all channels would not fit, terms are taken in chunks that end on a block of
// the canonical sum, and the sums wait in between.
#include "../runtime/memory.h"
#include "conv_plan.h"

namespace stableops {

// y(pixel i, channel j) = sums[i][j] + bias[j], for `rows` pixels and `lanes` channels.
template <class Isa, class T>
void store_tile(T* y, std::ptrdiff_t pixel_stride, std::ptrdiff_t channel_stride,
                std::ptrdiff_t rows, std::ptrdiff_t lanes, const Compute<T>* sums,
                std::ptrdiff_t pitch, const Compute<T>* bias, Epilogue epilogue = {}) {
    using V = Vec<Isa, Compute<T>>;
    constexpr std::ptrdiff_t n = V::size;
    if (channel_stride == 1) {
        for (std::ptrdiff_t i = 0; i < rows; ++i) {
            T* to = y + i * pixel_stride;
            const Compute<T>* from = sums + i * pitch;
            for_each_vec<Isa, n>(lanes, [&](std::ptrdiff_t j, auto which) {
                V v = loadu<Isa>(from + j);
                if (bias) v = v + loadu<Isa>(bias + j);
                // The next panel's place: rows lie far apart.
                if (epilogue.add) __builtin_prefetch(to + j + lanes, 1);
                store_output<Isa>(to + j, v, epilogue, which);
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
                for (int k = 0; k < n; ++k)
                    store_output<Isa>(to + k * channel_stride, column[k], epilogue, pixels);
            } else {
                Compute<T> lines[n * n];
#pragma GCC unroll 16
                for (int k = 0; k < n; ++k) storeu(lines + k * n, column[k]);
                for (std::ptrdiff_t k = 0; k < columns; ++k)
                    store_output<Isa>(to + k * channel_stride, pixel_stride,
                                      loadu<Isa>(static_cast<const Compute<T>*>(lines) + k * n),
                                      epilogue, pixels);
            }
        }
    }
}

// Where the pixels of a block lie in the scratch and in y: rows of `length` pixels. Rows and images
// that follow each other without a gap in both become one row, so that tiles are full.
struct PixelRows {
    std::ptrdiff_t images, rows, length;
};

static inline PixelRows pixel_rows(const Block& b, const PatchLayout& layout, const Strides4& y) {
    PixelRows r{b.images, b.rows, b.columns};
    const std::ptrdiff_t step = layout.w.out_step * layout.pitch.w;
    if (r.rows > 1 && layout.h.out_step * layout.pitch.h == r.length * step &&
        y.h == r.length * y.w) {
        r.length *= r.rows;
        r.rows = 1;
    }
    if (r.images > 1 && r.rows == 1 && layout.pitch.n == r.length * step && y.n == r.length * y.w) {
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

// The panels of `lanes` channels [k, k + channels) and terms [first, last) from weights that are
// panels as they lie: row after row, as memory likes them, where one panel is a narrow stripe.
template <class Isa, class T>
void pack_stripes(Compute<T>* packed, std::ptrdiff_t panel_size, std::ptrdiff_t lanes,
                  const TermMatrix<T>& weight, std::ptrdiff_t k, std::ptrdiff_t channels,
                  std::ptrdiff_t first, std::ptrdiff_t last) {
    using V = Vec<Isa, Compute<T>>;
    constexpr std::ptrdiff_t n = V::size;
    for (std::ptrdiff_t t = first; t < last; ++t) {
        const T* row = weight.data + k + t * weight.stride[2];
        for (std::ptrdiff_t begin = 0; begin < channels; begin += lanes, row += lanes) {
            const std::ptrdiff_t used = smaller(lanes, channels - begin);
            Compute<T>* to =
                packed + begin / lanes * panel_size + (t - first) * (ceil_div(used, n) * n);
            for_each_vec<Isa, n>(used, [&](std::ptrdiff_t j, auto which) {
                storeu(to + j, load<Isa>(row + j, which));
            });
        }
    }
}

// Terms [first, first + terms) of `lanes` output channels from k on, as far as they lie in rows of
// the one or the other; an empty prospect otherwise.
template <class Isa, class T>
Ahead weights_ahead(const TermMatrix<T>& joined, std::ptrdiff_t k, std::ptrdiff_t lanes,
                    std::ptrdiff_t first, std::ptrdiff_t terms) {
    constexpr std::ptrdiff_t size = sizeof(T);
    if (joined.data == nullptr || joined.count[0] * joined.count[1] != 1) return {};
    const T* at = joined.data + k * joined.lane_stride + first * joined.stride[2];
    if (joined.lane_stride == 1)
        return ahead_rows(at, joined.stride[2] * size, terms, lanes * size, terms);
    if (joined.stride[2] == 1)
        return ahead_rows(at, joined.lane_stride * size, lanes, terms * size, terms);
    return {};
}

// How a task goes about its block: where pixels and weights are read, and in which portions.
template <class Isa, class T>
struct ChannelPlan {
    using C = Compute<T>;
    static constexpr std::ptrdiff_t vector = Vec<Isa, C>::size;
    static constexpr std::ptrdiff_t size = sizeof(C);
    static constexpr std::ptrdiff_t tile_rows = TileLimits<Isa>::rows(2);
    static constexpr std::ptrdiff_t pitch =
        tile_pitch<Isa, C>;  // from term to term of packed tiles

    // Pixels are read from x itself (direct), from tiles that are packed (tiled), or from a window.
    bool channels_innermost, tiled, direct;
    Window rows, columns;
    PatchLayout layout;  // of the window, or of x
    PixelRows pixels;
    std::ptrdiff_t tiles;  // of all pixels

    // Weights are read where they lie (in_place), or from stripes or panels that are packed.
    TermMatrix<T> weight;
    bool in_place, stripes;
    bool aliased;     // rows of weights fall into few sets of the cache: not to be fetched ahead
    bool sequential;  // weights in one piece: panel after panel, while x stays in L2

    std::ptrdiff_t terms, chunk, chunks, chunk_channels;
    std::ptrdiff_t lanes, panels, group;  // panels of so many lanes; a group of them shares a chunk

    ChannelPlan(const Correlation<T>& p, const Block& b) : weight(join_axes<Isa>(p.weight)) {
        const std::ptrdiff_t taps = p.h.taps * p.w.taps;
        const std::ptrdiff_t block_pixels = b.images * b.rows * b.columns;
        terms = p.terms();
        channels_innermost = p.x_stride.c == 1 && p.x_stride.w != 1 && p.in_channels > 1;
        tiled = packs_tiles<Isa>(p);
        direct = !tiled && reads_in_place<Isa>(p);
        rows = outer_window(p.h, b.h, b.h + b.rows);
        columns = channels_innermost ? outer_window(p.w, b.w, b.w + b.columns)
                                     : inner_window(p.w, b.w, b.w + b.columns);
        // Weights that one tile reads are read where they lie if they can be: all panels of some
        // terms before the next, so that memory is read in long runs. Weights that are copied
        // anyway are copied for all channels at once.
        const bool panel_as_is = !p.panels && is_panel<Isa>(weight);
        in_place = panel_as_is && block_pixels <= tile_rows;
        stripes = panel_as_is && !in_place && terms > block_terms &&
                  block_terms * (b.channels + 2 * vector) * size <= window_bytes;
        // Half a page: then longer runs of each row are better.
        aliased = !p.panels && !is_panel<Isa>(weight) &&
                  weight.lane_stride * static_cast<std::ptrdiff_t>(sizeof(T)) % 2048 == 0;
        sequential = direct && !p.panels && weight.stride[2] == 1 && weight.lane_stride == terms &&
                     block_pixels * terms * size <= window_bytes;
        choose_chunk(p, b, taps, block_pixels);
        chunks = larger(ceil_div(terms, chunk), 1);
        chunk_channels = taps == 0 ? 0 : smaller(p.in_channels, (chunk + taps - 2) / taps + 1);
        layout = patch_layout<Isa, C>(rows, columns, b.images, chunk_channels, channels_innermost);
        if (direct || tiled) {
            layout.pitch = p.x_stride;
            layout.h.out_step = p.h.stride;
            layout.w.out_step = p.w.stride;
        }
        pixels = pixel_rows(b, layout, p.y_stride);
        tiles = pixels.images * pixels.rows * ceil_div(pixels.length, tile_rows);
        lanes = (pixels.length <= TileLimits<Isa>::rows(4) ? 4 : 2) * vector;
        if (p.panels) lanes = smaller(lanes, panel_lanes<C>);
        panels = ceil_div(b.channels, lanes);
        group = panels;
        if (chunks > 1) {
            const std::ptrdiff_t room = sums_bytes / size * (stripes || tiled ? 2 : 1);
            group = smaller(panels, larger(room / (tiles * tile_size()), 1));
        }
        // The weights of the next chunk are fetched meanwhile, so they must not be many.
        if ((tiled || direct) && !stripes) group = smaller(group, sequential ? 1 : 12);
    }

    std::ptrdiff_t tile_size() const { return tile_rows * lanes; }
    std::ptrdiff_t pixel_step() const { return layout.w.out_step * layout.pitch.w; }
    std::ptrdiff_t window_size(const Block& b) const {
        return direct               ? 0
               : tiled              ? tiles * chunk * pitch + vector
               : channels_innermost ? b.images * layout.pitch.n
                                    : chunk_channels * layout.pitch.c;
    }
    // One vector more than a tile: the transposing store reads whole squares.
    std::ptrdiff_t sums_size() const {
        return ((chunks > 1 ? group * tiles : 1) + 1) * tile_size();
    }

  private:
    void choose_chunk(const Correlation<T>& p, const Block& b, std::ptrdiff_t taps,
                      std::ptrdiff_t block_pixels) {
        const std::ptrdiff_t window_channels =
            window_bytes / size / larger(b.images * rows.size * columns.size, 1);
        // A handful of pixels hardly read the panel at all: then the weights should come from
        // memory in long runs. Low tiles read it so often that it should stay in L1.
        const bool few_pixels = block_pixels <= 8;
        chunk = larger(terms, 1);
        if (!direct && !tiled && window_channels < p.in_channels)
            chunk = smaller(chunk, larger((window_channels - (taps > 1)) * taps, 1));
        if (in_place) chunk = smaller(chunk, 2 * block_terms);
        if (!(few_pixels && p.panels))
            chunk = smaller(chunk, panel_bytes / size / (2 * vector) * (few_pixels ? 4 : 1) /
                                       (b.columns < 10 && !few_pixels ? 4 : 2));
        if (!channels_innermost && !few_pixels) chunk = smaller(chunk, 2 * block_terms);
        if ((tiled || (direct && p.x_stride.c == 1)) && !aliased)
            chunk = smaller(chunk, block_terms);
        if (stripes) chunk = block_terms;
        if (chunk < terms) chunk = larger(chunk / block_terms, 1) * block_terms;
    }
};

// Where the first pixel of a block reads its first tap.
template <class Isa, class T>
const T* first_pixel(const Correlation<T>& p, const Block& b) {
    return p.x + b.n * p.x_stride.n + (b.h * p.h.stride + p.h.first) * p.x_stride.h +
           (b.w * p.w.stride + p.w.first) * p.x_stride.w;
}

// The pixels' `terms` terms from x on, as tiles.
template <class Isa, class T>
void pack_tiles(Compute<T>* tile, const ChannelPlan<Isa, T>& plan, const Correlation<T>& p,
                const T* x, std::ptrdiff_t terms) {
    using Plan = ChannelPlan<Isa, T>;
    constexpr std::ptrdiff_t whole = ceil_div(Plan::pitch, Plan::vector);
    std::ptrdiff_t left = plan.pixels.length;
    for_each_tile<Isa>(plan.pixels, plan.layout, p.y_stride,
                       [&](std::ptrdiff_t from, std::ptrdiff_t, std::ptrdiff_t count) {
                           pack_run<Isa>(tile, x + from, plan.pixel_step(), p.x_stride.c,
                                         smaller(left, whole * Plan::vector), terms,
                                         static_cast<int>(whole), static_cast<const T*>(nullptr),
                                         Plan::pitch);
                           tile += plan.chunk * Plan::pitch;
                           left = left > count ? left - count : plan.pixels.length;
                       });
}

// Where terms [first, last) lie, from where the first one's channel does.
template <class Isa, class T>
void find_terms(std::int32_t* offset, const ChannelPlan<Isa, T>& plan, const Correlation<T>& p,
                const Block& b, std::ptrdiff_t first, std::ptrdiff_t last) {
    std::ptrdiff_t c = 0;
    std::ptrdiff_t r = first / p.w.taps % p.h.taps;
    std::ptrdiff_t s = first % p.w.taps;
    for (std::ptrdiff_t t = 0; t < last - first; ++t) {
        offset[t] = static_cast<std::int32_t>(
            plan.tiled    ? c * plan.pitch
            : plan.direct ? c * p.x_stride.c
                          : c * plan.layout.pitch.c + plan.rows.of(b.h, r) * plan.layout.pitch.h +
                                plan.columns.of(b.w, s) * plan.layout.pitch.w);
        if (++s == p.w.taps) {
            s = 0;
            if (++r == p.h.taps) {
                r = 0;
                ++c;
            }
        }
    }
}

// What to fetch while the panel of channels from k on, packed by the caller, is used for terms
// [first, last): the same terms of the panel after it, the next terms of the group's first one, or
// the panel behind. A single tile cannot fetch a whole panel: it fetches its own, just in time.
template <class Isa, class T>
Ahead panels_ahead(const ChannelPlan<Isa, T>& plan, const Correlation<T>& p, std::ptrdiff_t k,
                   std::ptrdiff_t group_k, bool ends_group, std::ptrdiff_t first,
                   std::ptrdiff_t last) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t step = panel_lanes<C>, bytes = step * sizeof(C);
    const std::ptrdiff_t terms = last - first;
    if (plan.tiles == 1)
        return ahead_rows(p.panel_of(k) + (first + 16) * step, bytes, terms, line_bytes, terms);
    const C* next = !ends_group         ? p.panel_of(k + plan.lanes) + first * step
                    : last < plan.terms ? p.panel_of(group_k) + last * step
                                        : p.panel_of(k) + plan.terms * step;
    return ahead_rows(next, bytes, terms, bytes, terms);
}

template <class Isa, class T>
void correlate_channels(const Correlation<T>& p, Block b) {
    using C = Compute<T>;
    using Plan = ChannelPlan<Isa, T>;
    constexpr std::ptrdiff_t vector = Plan::vector, size = Plan::size;
    b.images = smaller(b.images, p.images - b.n);
    b.rows = smaller(b.rows, p.h.out - b.h);
    b.columns = smaller(b.columns, p.w.out - b.w);
    b.channels = smaller(b.channels, p.out_channels - b.k);
    if (b.images <= 0 || b.rows <= 0 || b.columns <= 0 || b.channels <= 0) return;

    const Plan plan(p, b);
    const std::ptrdiff_t taps = p.h.taps * p.w.taps;
    const std::ptrdiff_t terms = plan.terms, chunk = plan.chunk, chunks = plan.chunks;
    const std::ptrdiff_t lanes = plan.lanes, group = plan.group;
    const TermMatrix<T>& weight = plan.weight;
    const std::ptrdiff_t packed_size =
        p.panels ? 0 : chunk * lanes * (plan.stripes ? plan.panels : 1);
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (plan.window_size(b) + packed_size + plan.sums_size() + lanes) * size + chunk * 4 +
        5 * 64)));
    C* window = carve<C>(scratch, plan.window_size(b));
    const C* source = window;
    C* packed = carve<C>(scratch, packed_size);
    C* sums = carve<C>(scratch, plan.sums_size());
    C* bias = carve<C>(scratch, lanes);
    std::int32_t* offset = carve<std::int32_t>(scratch, chunk);

    bool repair = false;
    for (std::ptrdiff_t group_begin = 0; group_begin < plan.panels; group_begin += group) {
        const std::ptrdiff_t group_end = smaller(group_begin + group, plan.panels);
        Ahead later{};
        for (std::ptrdiff_t q = 0; q < chunks; ++q) {
            const std::ptrdiff_t first = q * chunk;
            const std::ptrdiff_t last = smaller(first + chunk, terms);
            if (first < last && (chunks > 1 || group_begin == 0)) {
                const std::ptrdiff_t c0 = first / taps;
                if constexpr (std::is_same_v<T, C>)
                    if (plan.direct) source = first_pixel<Isa>(p, b) + c0 * p.x_stride.c;
                if (plan.tiled)
                    pack_tiles<Isa, T>(window, plan, p, first_pixel<Isa>(p, b) + c0 * p.x_stride.c,
                                       last - first);
                else if (!plan.direct)
                    copy_patches<Isa>(window, plan.layout,
                                      p.x + b.n * p.x_stride.n + c0 * p.x_stride.c, p.x_stride, p.h,
                                      p.w, b.images, (last - 1) / taps + 1 - c0);
                find_terms<Isa, T>(offset, plan, p, b, first, last);
            }
            if (plan.stripes)
                pack_stripes<Isa>(packed, chunk * lanes, lanes, weight, b.k + group_begin * lanes,
                                  smaller(group_end * lanes, b.channels) - group_begin * lanes,
                                  first, last);
            if (plan.sequential && q == 0)
                later = ahead_rows(weight.data + (b.k + group_end * lanes) * terms, terms * size,
                                   lanes, terms * size, chunk);
            if (!plan.sequential && !plan.aliased)
                later = weights_ahead<Isa>(weight,
                                           b.k + (q + 1 < chunks ? group_begin : group_end) * lanes,
                                           group * lanes, q + 1 < chunks ? last : 0, last - first);
            for (std::ptrdiff_t i = group_begin; i < group_end; ++i) {
                const std::ptrdiff_t k = b.k + i * lanes;
                const std::ptrdiff_t used = smaller(lanes, b.k + b.channels - k);
                const int used_vectors = static_cast<int>(ceil_div(used, vector));
                const C* panel = packed;
                std::ptrdiff_t panel_step = used_vectors * vector;
                bool pack = !plan.stripes && (!plan.in_place || used % vector != 0);
                if (p.panels) {
                    panel_step = panel_lanes<C>;
                    panel = p.panel_of(k) + first * panel_step;
                    pack = false;
                    later = panels_ahead<Isa, T>(plan, p, k, b.k + group_begin * lanes,
                                                 i + 1 == group_end, first, last);
                } else if constexpr (std::is_same_v<T, C>) {
                    if (!pack && !plan.stripes) {
                        panel_step = weight.stride[2];
                        panel = weight.data + k + first * panel_step;
                        later = ahead_rows(panel + lanes, panel_step * size, last - first,
                                           lanes * size, last - first);
                    }
                }
                if (plan.stripes) panel = packed + (i - group_begin) * chunk * lanes;
                if (pack) pack_panel<Isa>(packed, weight, k, used, first, last, used_vectors);
                if (p.bias && q == chunks - 1)
                    pack_run<Isa>(bias, p.bias + k * p.bias_stride, p.bias_stride, 0, used, 1,
                                  used_vectors);
                T* y = p.y + b.n * p.y_stride.n + k * p.y_stride.c + b.h * p.y_stride.h +
                       b.w * p.y_stride.w;
                Ahead results{};
                if (q == chunks - 1 && plan.tiles > 1 && p.y_stride.c == 1 &&
                    plan.pixels.images * plan.pixels.rows == 1)
                    results =
                        ahead_rows(y, p.y_stride.w * static_cast<std::ptrdiff_t>(sizeof(T)),
                                   plan.pixels.length,
                                   used * static_cast<std::ptrdiff_t>(sizeof(T)), last - first);
                const C* tile = window;
                C* slot =
                    sums + (chunks > 1 ? (i - group_begin) * plan.tiles * plan.tile_size() : 0);
                for_each_tile<Isa>(
                    plan.pixels, plan.layout, p.y_stride,
                    [&](std::ptrdiff_t from, std::ptrdiff_t to, std::ptrdiff_t count) {
                        Ahead& next = results.left() ? results : later;
                        const bool fetch = next.left();
                        const int height = static_cast<int>(count);
                        (plan.tiled ? packed_tile_function<Isa, C>(height, used_vectors)
                                    : tile_function<Isa, C>(height, used_vectors))(
                            slot, plan.tiled ? tile : source + from, offset,
                            plan.tiled ? 1 : plan.pixel_step(), panel, panel_step,
                            fetch ? next.take() : reinterpret_cast<const char*>(panel),
                            fetch ? next.step : 0, last - first, q > 0);
                        if (q == chunks - 1 && p.outside_is_nothing && !repair)
                            repair = has_nan<Isa>(slot, count * used_vectors);
                        if (q == chunks - 1)
                            store_tile<Isa>(y + to, p.y_stride.w, p.y_stride.c, count, used, slot,
                                            used_vectors * vector, p.bias ? bias : nullptr,
                                            p.epilogue);
                        if (chunks > 1) slot += plan.tile_size();
                        tile += chunk * Plan::pitch;
                    });
            }
        }
    }
    if (repair) repair_borders<Isa>(p, b);
}

}  // namespace stableops
