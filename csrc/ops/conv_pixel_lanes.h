#pragma once
// The correlation (conv_problem.h) with output pixels in the lanes and output channels in the rows
// of a tile.
//
// Weights are read where they lie, one number at a time, and nothing is packed but patches: panels
// [term][pixels] of up to three vectors of pixels, which rows and images may end inside of. That
// costs 3 / (output channels) of the arithmetic, where lanes of channels cost 10 / pixels for
// packing weights and the transposition of the result: it wins where there are many channels and
// few pixels, and in 1x1 layers. Results are stored directly, so pixels must be contiguous in y.
#include "../runtime/memory.h"
#include "conv_plan.h"

namespace stableops {

// Pixels that follow each other in the window and in y.
struct PixelPiece {
    std::ptrdiff_t from, to;
    int lane, length;
};

// panel[t][lane] = source[term[t] + piece.from + ...], whole vectors at a time: what a piece writes
// beyond its end the next one overwrites, and the reader ignores what follows the last.
template <class Isa, class C>
void pack_pixels(C* panel, std::ptrdiff_t pitch, const C* source, const std::ptrdiff_t* term,
                 std::ptrdiff_t terms, const PixelPiece* piece, const PixelPiece* end, bool exact) {
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    for (std::ptrdiff_t t = 0; t < terms; ++t) {
        const C* from = source + term[t];
        C* to = panel + t * pitch;
        for (const PixelPiece* p = piece; p != end; ++p) {
            std::ptrdiff_t i = 0;
            for (; i + n <= p->length; i += n)
                storeu(to + p->lane + i, loadu<Isa>(from + p->from + i));
            if (i < p->length) {
                if (exact)
                    storeu(to + p->lane + i,
                           load_first<Isa>(from + p->from + i, static_cast<int>(p->length - i)));
                else
                    storeu(to + p->lane + i, loadu<Isa>(from + p->from + i));
            }
        }
    }
}

template <class Isa, class T>
void correlate_pixels(const Correlation<T>& p, Block b) {
    using V = Vec<Isa, T>;
    constexpr std::ptrdiff_t n = V::size;
    constexpr std::ptrdiff_t size = sizeof(T);
    constexpr int vectors = Isa::bytes == 64 ? 3 : 2;
    constexpr std::ptrdiff_t width = vectors * n;
    constexpr std::ptrdiff_t tile_rows = TileLimits<Isa>::rows(vectors);
    b.images = smaller(b.images, p.images - b.n);
    b.rows = smaller(b.rows, p.h.out - b.h);
    b.columns = smaller(b.columns, p.w.out - b.w);
    b.channels = smaller(b.channels, p.out_channels - b.k);
    if (b.images <= 0 || b.rows <= 0 || b.columns <= 0 || b.channels <= 0) return;

    const std::ptrdiff_t taps = p.h.taps * p.w.taps;
    const std::ptrdiff_t terms = p.terms();
    // A 1x1 layer whose pixels are contiguous in x needs no window.
    const bool direct = taps == 1 && p.h.stride == 1 && p.w.stride == 1 && p.h.first == 0 &&
                        p.w.first == 0 && p.h.in == p.h.out && p.w.in == p.w.out &&
                        p.x_stride.w == 1;
    const Window rows = outer_window(p.h, b.h, b.h + b.rows);
    const Window columns = lane_window(p.w, b.w, b.w + b.columns);

    std::ptrdiff_t chunk = larger(terms, 1);
    const std::ptrdiff_t window_channels =
        window_bytes / size / larger(b.images * rows.size * columns.size, 1);
    if (!direct && window_channels < p.in_channels)
        chunk = smaller(chunk, larger((window_channels - 1) * taps, 1));
    chunk = smaller(chunk, panel_bytes / 2 / size / width);
    if (chunk < terms) chunk = larger(chunk / block_terms, 1) * block_terms;
    const std::ptrdiff_t chunks = larger(ceil_div(terms, chunk), 1);
    const std::ptrdiff_t chunk_channels =
        taps == 0 ? 0 : smaller(p.in_channels, (chunk + taps - 2) / taps + 1);
    PatchLayout layout = patch_layout<Isa, T>(rows, columns, b.images, chunk_channels, false);

    const std::ptrdiff_t pixels = b.images * b.rows * b.columns;
    const std::ptrdiff_t panels = ceil_div(pixels, width);
    const std::ptrdiff_t most_pieces = smaller(pixels, b.images * b.rows + panels);
    const std::ptrdiff_t tile_size = larger(b.channels, tile_rows) * width;
    const std::ptrdiff_t window_size = direct ? 0 : chunk_channels * layout.pitch.c + n;
    const std::ptrdiff_t sums_size = (chunks > 1 ? panels : 1) * tile_size + n;
    char* scratch = static_cast<char*>(thread_scratch(static_cast<std::size_t>(
        (window_size + chunk * width + n + sums_size) * size +
        chunk * static_cast<std::ptrdiff_t>(sizeof(std::int32_t) + sizeof(std::ptrdiff_t)) +
        most_pieces * static_cast<std::ptrdiff_t>(sizeof(PixelPiece)) +
        (panels + 1) * static_cast<std::ptrdiff_t>(sizeof(std::int32_t)) + 7 * 64)));
    T* window = carve<T>(scratch, window_size);
    T* panel = carve<T>(scratch, chunk * width + n);
    T* sums = carve<T>(scratch, sums_size);
    std::ptrdiff_t* source_offset = carve<std::ptrdiff_t>(scratch, chunk);
    std::int32_t* weight_offset = carve<std::int32_t>(scratch, chunk);
    PixelPiece* pieces = carve<PixelPiece>(scratch, most_pieces);
    std::int32_t* panel_begin = carve<std::int32_t>(scratch, panels + 1);

    const Strides4 step =
        direct ? p.x_stride
               : Strides4{layout.pitch.n, layout.pitch.c, layout.h.out_step * layout.pitch.h, 1};
    std::int32_t count = 0;
    std::ptrdiff_t pixel = 0;
    for (std::ptrdiff_t i = 0; i < b.images; ++i)
        for (std::ptrdiff_t h = 0; h < b.rows; ++h)
            for (std::ptrdiff_t w = 0; w < b.columns;) {
                const std::ptrdiff_t lane = pixel % width;
                const std::ptrdiff_t length = smaller(b.columns - w, width - lane);
                const std::ptrdiff_t from = i * step.n + h * step.h + w;
                const std::ptrdiff_t to = i * p.y_stride.n + h * p.y_stride.h + w;
                if (lane == 0) panel_begin[pixel / width] = count;
                if (lane > 0 && pieces[count - 1].from + pieces[count - 1].length == from &&
                    pieces[count - 1].to + pieces[count - 1].length == to) {
                    pieces[count - 1].length += static_cast<int>(length);
                } else {
                    pieces[count++] = {from, to, static_cast<int>(lane), static_cast<int>(length)};
                }
                w += length;
                pixel += length;
            }
    panel_begin[panels] = count;

    const T* x = p.x + b.n * p.x_stride.n;
    T* y = p.y + b.n * p.y_stride.n + b.k * p.y_stride.c + b.h * p.y_stride.h + b.w;
    bool any_nan = false;
    for (std::ptrdiff_t q = 0; q < chunks; ++q) {
        const std::ptrdiff_t first = q * chunk;
        const std::ptrdiff_t last = smaller(first + chunk, terms);
        const std::ptrdiff_t c0 = taps == 0 ? 0 : first / taps;
        if (!direct && first < last)
            copy_patches<Isa>(window, layout, x + c0 * p.x_stride.c, p.x_stride, p.h, p.w, b.images,
                              (last - 1) / taps + 1 - c0);
        for (std::ptrdiff_t t = first; t < last; ++t) {
            const std::ptrdiff_t c = t / taps;
            const std::ptrdiff_t r = t / p.w.taps % p.h.taps;
            const std::ptrdiff_t s = t % p.w.taps;
            source_offset[t - first] = direct ? c * p.x_stride.c + b.h * p.x_stride.h + b.w
                                              : (c - c0) * layout.pitch.c +
                                                    rows.of(b.h, r) * layout.pitch.h +
                                                    columns.of(b.w, s);
            weight_offset[t - first] = static_cast<std::int32_t>(
                p.panels
                    ? t * panel_lanes<T>
                    : c * p.weight.stride[0] + r * p.weight.stride[1] + s * p.weight.stride[2]);
        }
        for (std::ptrdiff_t i = 0; i < panels; ++i) {
            const PixelPiece* begin = pieces + panel_begin[i];
            const PixelPiece* end = pieces + panel_begin[i + 1];
            const int used = static_cast<int>(ceil_div(smaller(width, pixels - i * width), n));
            pack_pixels<Isa>(panel, used * n, direct ? x : window, source_offset, last - first,
                             begin, end, direct);
            T* slot = sums + (chunks > 1 ? i * tile_size : 0);
            for (std::ptrdiff_t k = 0, tall; k < b.channels; k += tall) {
                // A tile's rows lie in one panel of weights.
                std::ptrdiff_t left = b.channels - k;
                if (p.panels) left = smaller(left, panel_lanes<T> - (b.k + k) % panel_lanes<T>);
                tall = ceil_div(left, ceil_div(left, tile_rows));
                const T* weight = p.panels ? p.panel_of(b.k + k)
                                           : p.weight.data + (b.k + k) * p.weight.lane_stride;
                T* tile = slot + k * used * n;
                tile_function<Isa, T>(static_cast<int>(tall), used)(
                    tile, weight, weight_offset, p.panels ? 1 : p.weight.lane_stride, panel,
                    used * n, reinterpret_cast<const char*>(panel), 0, last - first, q > 0);
                if (q < chunks - 1) continue;
                if (p.outside_is_nothing && !any_nan) any_nan = has_nan<Isa>(tile, tall * used);
                for (std::ptrdiff_t row = 0; row < tall; ++row) {
                    const T* from = tile + row * used * n;
                    T* to = y + (k + row) * p.y_stride.c;
                    const V bias =
                        V::splat(p.bias ? p.bias[(b.k + k + row) * p.bias_stride] : T{0});
                    for (const PixelPiece* piece = begin; piece != end; ++piece)
                        for_each_vec<Isa, n>(piece->length, [&](std::ptrdiff_t m, auto lanes) {
                            V v = loadu<Isa>(from + piece->lane + m);
                            if (p.bias) v = v + bias;
                            store_output<Isa>(to + piece->to + m, v, p.epilogue, lanes);
                        });
                }
            }
        }
    }
    if (any_nan) repair_borders<Isa>(p, b);
}

}  // namespace stableops
