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
template <class T>
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

template <class Isa, class T>
void correlate_channels(const Correlation<T>& p, Block b) {
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
    const bool tiled = packs_tiles<Isa>(p);
    const bool direct = !tiled && reads_in_place<Isa>(p);
    const Window rows = outer_window(p.h, b.h, b.h + b.rows);
    const Window columns = channels_innermost ? outer_window(p.w, b.w, b.w + b.columns)
                                              : inner_window(p.w, b.w, b.w + b.columns);
    const std::ptrdiff_t taps = p.h.taps * p.w.taps;
    const std::ptrdiff_t terms = p.terms();

    std::ptrdiff_t chunk = larger(terms, 1);
    const std::ptrdiff_t window_channels =
        window_bytes / size / larger(b.images * rows.size * columns.size, 1);
    if (!direct && !tiled && window_channels < p.in_channels)
        chunk = smaller(chunk, larger((window_channels - (taps > 1)) * taps, 1));
    // Low tiles read the panel so often that it should stay in L1. A handful of pixels hardly read
    // it at all: then the weights should come from memory in long runs.
    const bool few_pixels = b.images * b.rows * b.columns <= 8;
    // Weights that one tile reads are read where they lie if they can be: all panels of some terms
    // before the next, so that memory is read in long runs.
    const TermMatrix<T> weight = join_axes<Isa>(p.weight);
    const bool in_place =
        !p.panels && is_panel<Isa>(weight) && b.images * b.rows * b.columns <= tile_rows;
    if (in_place) chunk = smaller(chunk, 2 * block_terms);
    if (!(few_pixels && p.panels))
        chunk = smaller(chunk, panel_bytes / size / (2 * vector) * (few_pixels ? 4 : 1) /
                                   (b.columns < 10 && !few_pixels ? 4 : 2));
    if (!channels_innermost && !few_pixels) chunk = smaller(chunk, 2 * block_terms);
    // Rows of weights that lie a multiple of half a page apart fall into few sets of the cache, so
    // they cannot be fetched ahead: then longer runs of each are better.
    const bool aliased = !p.panels && !is_panel<Isa>(weight) &&
                         weight.lane_stride * static_cast<std::ptrdiff_t>(sizeof(T)) % 2048 == 0;
    // Weights in one piece are best read as they lie, panel after panel, while x stays in L2.
    const bool sequential = direct && !p.panels && weight.stride[2] == 1 &&
                            weight.lane_stride == terms &&
                            b.images * b.rows * b.columns * terms * size <= window_bytes;
    if ((tiled || (direct && p.x_stride.c == 1)) && !aliased) chunk = smaller(chunk, block_terms);
    // Weights that are copied anyway are copied for all channels at once.
    const bool stripes = !p.panels && !in_place && is_panel<Isa>(weight) && terms > block_terms &&
                         block_terms * (b.channels + 2 * vector) * size <= window_bytes;
    if (stripes) chunk = block_terms;
    if (chunk < terms) chunk = larger(chunk / block_terms, 1) * block_terms;
    const std::ptrdiff_t chunks = larger(ceil_div(terms, chunk), 1);
    const std::ptrdiff_t chunk_channels =
        taps == 0 ? 0 : smaller(p.in_channels, (chunk + taps - 2) / taps + 1);
    PatchLayout layout =
        patch_layout<Isa, C>(rows, columns, b.images, chunk_channels, channels_innermost);
    if (direct || tiled) {
        layout.pitch = p.x_stride;
        layout.h.out_step = p.h.stride;
        layout.w.out_step = p.w.stride;
    }

    const PixelRows pixels = pixel_rows(b, layout, p.y_stride);
    const std::ptrdiff_t tiles = pixels.images * pixels.rows * ceil_div(pixels.length, tile_rows);
    std::ptrdiff_t lanes = (pixels.length <= TileLimits<Isa>::rows(4) ? 4 : 2) * vector;
    if (p.panels) lanes = smaller(lanes, panel_lanes<C>);
    const std::ptrdiff_t tile_size = tile_rows * lanes;
    const std::ptrdiff_t panels = ceil_div(b.channels, lanes);
    std::ptrdiff_t group = panels;
    if (chunks > 1) {
        const std::ptrdiff_t room = sums_bytes / size * (stripes || tiled ? 2 : 1);
        group = smaller(panels, larger(room / (tiles * tile_size), 1));
    }
    // The weights of the next chunk are fetched meanwhile, so they must not be many.
    if ((tiled || direct) && !stripes) group = smaller(group, sequential ? 1 : 12);
    // A term's pixels of a tile, side by side.
    constexpr std::ptrdiff_t pitch = tile_pitch<Isa, C>;
    const std::ptrdiff_t window_size = direct               ? 0
                                       : tiled              ? tiles * chunk * pitch + vector
                                       : channels_innermost ? b.images * layout.pitch.n
                                                            : chunk_channels * layout.pitch.c;
    // One vector more than a tile: the transposing store reads whole squares.
    const std::ptrdiff_t sums_size = ((chunks > 1 ? group * tiles : 1) + 1) * tile_size;
    const std::ptrdiff_t packed_size = p.panels ? 0 : chunk * lanes * (stripes ? panels : 1);
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (window_size + packed_size + sums_size + lanes) * size + chunk * 4 + 5 * 64)));
    C* window = carve<C>(scratch, window_size);
    const C* source = window;
    C* packed = carve<C>(scratch, packed_size);
    C* sums = carve<C>(scratch, sums_size);
    C* bias = carve<C>(scratch, lanes);
    std::int32_t* offset = carve<std::int32_t>(scratch, chunk);

    const std::ptrdiff_t step = layout.w.out_step * layout.pitch.w;
    bool repair = false;
    for (std::ptrdiff_t group_begin = 0; group_begin < panels; group_begin += group) {
        const std::ptrdiff_t group_end = smaller(group_begin + group, panels);
        Ahead later{};
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
                if (tiled) {
                    const T* from_x = x + (b.h * p.h.stride + p.h.first) * p.x_stride.h +
                                      (b.w * p.w.stride + p.w.first) * p.x_stride.w;
                    constexpr std::ptrdiff_t whole = ceil_div(pitch, vector);
                    C* tile = window;
                    std::ptrdiff_t left = pixels.length;
                    for_each_tile<Isa>(
                        pixels, layout, p.y_stride,
                        [&](std::ptrdiff_t from, std::ptrdiff_t, std::ptrdiff_t count) {
                            pack_run<Isa>(tile, from_x + from, step, p.x_stride.c,
                                          smaller(left, whole * vector), last - first,
                                          static_cast<int>(whole), static_cast<const T*>(nullptr),
                                          pitch);
                            tile += chunk * pitch;
                            left = left > count ? left - count : pixels.length;
                        });
                } else if (!direct)
                    copy_patches<Isa>(window, layout, x, p.x_stride, p.h, p.w, b.images,
                                      (last - 1) / taps + 1 - c0);
                std::ptrdiff_t c = 0;
                std::ptrdiff_t r = first / p.w.taps % p.h.taps;
                std::ptrdiff_t s = first % p.w.taps;
                for (std::ptrdiff_t t = 0; t < last - first; ++t) {
                    offset[t] = static_cast<std::int32_t>(
                        tiled    ? c * pitch
                        : direct ? c * p.x_stride.c
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
            if (stripes)
                pack_stripes<Isa>(packed, chunk * lanes, lanes, weight, b.k + group_begin * lanes,
                                  smaller(group_end * lanes, b.channels) - group_begin * lanes,
                                  first, last);
            if (sequential && q == 0)
                later = ahead_rows(weight.data + (b.k + group_end * lanes) * terms, terms * size,
                                   lanes, terms * size, chunk);
            if (!sequential && !aliased)
                later =
                    weights_ahead(weight, b.k + (q + 1 < chunks ? group_begin : group_end) * lanes,
                                  group * lanes, q + 1 < chunks ? last : 0, last - first);
            for (std::ptrdiff_t i = group_begin; i < group_end; ++i) {
                const std::ptrdiff_t k = b.k + i * lanes;
                const std::ptrdiff_t used = smaller(lanes, b.k + b.channels - k);
                const int used_vectors = static_cast<int>(ceil_div(used, vector));
                const C* panel = packed;
                std::ptrdiff_t panel_step = used_vectors * vector;
                bool pack = !stripes && (!in_place || used % vector != 0);
                if (p.panels) {
                    panel_step = panel_lanes<C>;
                    panel = p.panel_of(k) + first * panel_step;
                    pack = false;
                    const C* next = i + 1 < group_end ? p.panel_of(k + lanes) + first * panel_step
                                    : q + 1 < chunks
                                        ? p.panel_of(b.k + group_begin * lanes) + last * panel_step
                                        : p.panel_of(k) + terms * panel_step;
                    later = ahead_rows(next, panel_step * size, last - first, panel_step * size,
                                       last - first);
                    // A single tile cannot fetch a whole panel: it fetches its own, just in time.
                    if (tiles == 1)
                        later = ahead_rows(panel + 16 * panel_step, panel_step * size, last - first,
                                           line_bytes, last - first);
                } else if constexpr (std::is_same_v<T, C>) {
                    if (!pack && !stripes) {
                        panel_step = weight.stride[2];
                        panel = weight.data + k + first * panel_step;
                        later = ahead_rows(panel + lanes, panel_step * size, last - first,
                                           lanes * size, last - first);
                    }
                }
                if (stripes) panel = packed + (i - group_begin) * chunk * lanes;
                if (pack) pack_panel<Isa>(packed, weight, k, used, first, last, used_vectors);
                if (p.bias && q == chunks - 1)
                    pack_run<Isa>(bias, p.bias + k * p.bias_stride, p.bias_stride, 0, used, 1,
                                  used_vectors);
                T* y = p.y + b.n * p.y_stride.n + k * p.y_stride.c + b.h * p.y_stride.h +
                       b.w * p.y_stride.w;
                Ahead results{};
                if (q == chunks - 1 && tiles > 1 && p.y_stride.c == 1 &&
                    pixels.images * pixels.rows == 1)
                    results = ahead_rows(
                        y, p.y_stride.w * static_cast<std::ptrdiff_t>(sizeof(T)), pixels.length,
                        used * static_cast<std::ptrdiff_t>(sizeof(T)), last - first);
                const C* tile = window;
                C* slot = sums + (chunks > 1 ? (i - group_begin) * tiles * tile_size : 0);
                for_each_tile<Isa>(
                    pixels, layout, p.y_stride,
                    [&](std::ptrdiff_t from, std::ptrdiff_t to, std::ptrdiff_t count) {
                        Ahead& next = results.left() ? results : later;
                        const bool fetch = next.left();
                        const int height = static_cast<int>(count);
                        (tiled ? packed_tile_function<Isa, C>(height, used_vectors)
                               : tile_function<Isa, C>(height, used_vectors))(
                            slot, tiled ? tile : source + from, offset, tiled ? 1 : step, panel,
                            panel_step, fetch ? next.take() : reinterpret_cast<const char*>(panel),
                            fetch ? next.step : 0, last - first, q > 0);
                        if (q == chunks - 1 && p.outside_is_nothing && !repair)
                            repair = has_nan<Isa>(slot, count * used_vectors);
                        if (q == chunks - 1)
                            store_tile<Isa>(y + to, p.y_stride.w, p.y_stride.c, count, used, slot,
                                            used_vectors * vector, p.bias ? bias : nullptr,
                                            p.epilogue);
                        if (chunks > 1) slot += tile_size;
                        tile += chunk * pitch;
                    });
            }
        }
    }
    if (repair) repair_borders<Isa>(p, b);
}

}  // namespace stableops
