#pragma once
// avg_pool2d.h where vectors are channels of a pixel.
#include "../pool2d_shape.h"
#include "avg_pool2d_pass.h"

namespace stableops {

// What the results of row i have in common where channels are vectors.
template <class Isa, class T, bool backward>
struct PixelRow {
    using Pass = AvgPoolPass<Isa, T, backward>;
    PoolSpan rows;
    const PoolDivisors* own = nullptr;  // of the results
    PoolRows<T> in = {};                // divisors of the first rows only, in the backward pass

    PixelRow(Pass& pass, std::ptrdiff_t i) : rows(pass.h.span(i)) {
        if constexpr (backward) {
            const std::ptrdiff_t n = smaller<Isa>(rows.end - rows.begin, PoolRows<T>::most);
            for (; in.rows < n; ++in.rows)
                in.divisors[in.rows] = pass.divisors_of(rows.begin + in.rows, in, in.rows);
        } else {
            own = pass.divisors_of(i, in, 0);
        }
    }
    const PoolDivisors* term_divisors(Pass& pass, std::ptrdiff_t h) const {
        if (rows.end - rows.begin <= PoolRows<T>::most) return in.divisors[h - rows.begin];
        return pass.divisors_of(h, in, 0);
    }
};

// The sum of column w over the rows, for a vector of channels at x.
template <bool scaled, class Isa, class T, bool backward, class Lanes, int parts>
[[gnu::always_inline]] inline void add_column(
    AvgPoolPass<Isa, T, backward>& pass, const PixelRow<Isa, T, backward>& row,
    PoolSum<Isa, Vec<Isa, double>, AvgPoolTypes<Isa, T>::compensated> (&column)[parts],
    std::ptrdiff_t w, const T* x, const ImageStrides& stride, Lanes lanes) {
    using Types = AvgPoolTypes<Isa, T>;
    using D = typename Types::D;
    const auto add_row = [&](std::ptrdiff_t h, auto first) __attribute__((always_inline)) {
        D part[parts];
        Types::load_parts(part, x + h * stride.h + w * stride.w, lanes);
        D divisor = D::zero(), inverse = D::zero();
        if constexpr (backward) {
            const PoolDivisors* d = row.term_divisors(pass, h);
            divisor = D::splat(d->divisor[w]);
            inverse = D::splat(d->inverse[w]);
        }
        for (int p = 0; p < parts; ++p)
            pass.template add_term<scaled, decltype(first)::value>(column[p], part[p], divisor,
                                                                   inverse);
    };
    if (row.rows.begin >= row.rows.end) {  // no window holds this row
        for (int p = 0; p < parts; ++p) column[p] = Types::zero();
        return;
    }
    add_row(row.rows.begin, std::true_type{});
    for (std::ptrdiff_t h = row.rows.begin + 1; h < row.rows.end; ++h)
        add_row(h, std::false_type{});
}

// One pixel of the results for some channels, at y. `sum_of(sum, c, lanes)` sums its columns.
template <bool scaled, class Isa, class T, bool backward, class SumOf>
[[gnu::always_inline]] inline bool write_pixel(const AvgPoolPass<Isa, T, backward>& pass,
                                               const PixelRow<Isa, T, backward>& row,
                                               std::ptrdiff_t j, std::ptrdiff_t channels, T* y,
                                               const SumOf& sum_of) {
    using Types = AvgPoolTypes<Isa, T>;
    using D = typename Types::D;
    const D divisor = D::splat(backward ? 1 : row.own->divisor[j]);
    const D inverse = D::splat(backward ? 1 : row.own->inverse[j]);
    bool finite = true;
    for_each_vec<Isa, Types::V::size>(
        channels, [&](std::ptrdiff_t c, auto lanes) __attribute__((always_inline)) {
            typename Types::Sum sum[Types::parts];
            for (int p = 0; p < Types::parts; ++p) sum[p] = Types::zero();
            sum_of(sum, c, lanes);
            D part[Types::parts];
            for (int p = 0; p < Types::parts; ++p)
                part[p] = pass.template finished<scaled>(sum[p], divisor, inverse);
            if constexpr (scaled) part[0] = Types::replace_not_finite(y + c, part[0], lanes);
            Types::store_parts(y + c, part, lanes, pass.streams);
            if constexpr (Types::compensated && !scaled)
                finite = finite && Types::finite(part[0], lanes);
        });
    return finite;
}

template <bool scaled, class Isa, class T, bool backward>
[[gnu::noinline]] bool avg_pool_pixel(AvgPoolPass<Isa, T, backward>& pass,
                                      const PixelRow<Isa, T, backward>& row, std::ptrdiff_t j,
                                      std::ptrdiff_t channels, T* y, const T* x,
                                      const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    return write_pixel<scaled>(
        pass, row, j, channels, y,
        [&](auto& sum, std::ptrdiff_t c, auto lanes) __attribute__((always_inline)) {
            for (std::ptrdiff_t w = pass.begin[j]; w < pass.end[j]; ++w) {
                typename Types::Sum column[Types::parts];
                add_column<scaled>(pass, row, column, w, x + c, stride, lanes);
                for (int p = 0; p < Types::parts; ++p) sum[p].add(column[p]);
            }
        });
}

// Sums of columns that several windows share, or of all columns: column w is in slot w % slots.
template <class Isa>
struct ColumnRing {
    static constexpr std::ptrdiff_t shared_slots = 16;
    PoolLine lines;
    std::ptrdiff_t slots;  // a power of two, or all
    std::ptrdiff_t pitch;

    PoolLine column(std::ptrdiff_t w) const {
        const std::ptrdiff_t at = (slots == shared_slots ? w % shared_slots : w) * pitch;
        return {lines.total + at, lines.error + at};
    }
};

// Channels of a task: whole cache lines of every dtype; few enough to cut one pixel into tasks.
constexpr std::ptrdiff_t avg_pool_channels = 128;

// The mean of whole planes: all columns at once, so that memory is read in its own order.
template <class Isa, class T, bool backward>
[[gnu::noinline]] void avg_pool_image(AvgPoolPass<Isa, T, backward>& pass,
                                      const PixelRow<Isa, T, backward>& row,
                                      const ColumnRing<Isa>& ring, std::ptrdiff_t channels, T* y,
                                      const T* x, const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    constexpr int size = Types::D::size;
    for (std::ptrdiff_t h = 0; h < pass.h.source; ++h)
        for (std::ptrdiff_t w = 0; w < pass.w.source; ++w) {
            const T* pixel = x + h * stride.h + w * stride.w;
            const PoolLine line = ring.column(w);
            for_each_vec<Isa, Types::V::size>(
                channels, [&](std::ptrdiff_t c, auto lanes) __attribute__((always_inline)) {
                    typename Types::D part[Types::parts];
                    Types::load_parts(part, pixel + c, lanes);
                    for (int p = 0; p < Types::parts; ++p) {
                        typename Types::Sum sum = {part[p], Types::D::zero()};
                        if (h > 0) {
                            sum = Types::load_sum(line, c + p * size);
                            sum.add(part[p]);
                        }
                        Types::store_sum(line, c + p * size, sum);
                    }
                });
        }
    const bool finite =
        write_pixel<false>(pass, row, 0, channels, y,
                           [&](auto& sum, std::ptrdiff_t c, auto) __attribute__((always_inline)) {
                               for (std::ptrdiff_t w = 0; w < pass.w.source; ++w)
                                   for (int p = 0; p < Types::parts; ++p)
                                       sum[p].add(Types::load_sum(ring.column(w), c + p * size));
                           });
    if constexpr (Types::compensated) {
        if (!finite) avg_pool_pixel<true>(pass, row, 0, channels, y, x, stride);
    }
}

template <class Isa, class T, bool backward>
[[gnu::noinline]] void avg_pool_pixels(AvgPoolPass<Isa, T, backward>& pass,
                                       const PixelRow<Isa, T, backward>& row,
                                       const ColumnRing<Isa>& ring, std::ptrdiff_t channels,
                                       std::ptrdiff_t pixel_pitch, T* y, const T* x,
                                       const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    constexpr int size = Types::D::size;
    std::ptrdiff_t next = 0;
    for (std::ptrdiff_t j = 0; j < pass.w.result; ++j) {
        for (next = larger<Isa>(next, pass.begin[j]); next < pass.end[j]; ++next) {
            const PoolLine line = ring.column(next);
            for_each_vec<Isa, Types::V::size>(
                channels, [&](std::ptrdiff_t c, auto lanes) __attribute__((always_inline)) {
                    typename Types::Sum column[Types::parts];
                    add_column<false>(pass, row, column, next, x + c, stride, lanes);
                    for (int p = 0; p < Types::parts; ++p)
                        Types::store_sum(line, c + p * size, column[p]);
                });
        }
        T* pixel = y + j * pixel_pitch;
        const bool finite = write_pixel<false>(
            pass, row, j, channels, pixel,
            [&](auto& sum, std::ptrdiff_t c, auto) __attribute__((always_inline)) {
                for (std::ptrdiff_t w = pass.begin[j]; w < pass.end[j]; ++w) {
                    const PoolLine line = ring.column(w);
                    for (int p = 0; p < Types::parts; ++p)
                        sum[p].add(Types::load_sum(line, c + p * size));
                }
            });
        if constexpr (Types::compensated) {
            if (!finite) avg_pool_pixel<true>(pass, row, j, channels, pixel, x, stride);
        }
    }
}

template <class Isa, class T, bool backward>
void avg_pool_channels_last(const AvgPoolPass<Isa, T, backward>& setup, std::ptrdiff_t batch,
                            std::ptrdiff_t channels, T* y, const T* x, const ImageStrides& stride) {
    using Pass = AvgPoolPass<Isa, T, backward>;
    using Types = AvgPoolTypes<Isa, T>;
    const bool streams = streams_pixels(batch * setup.h.result * setup.w.result, channels, y);
    const std::ptrdiff_t blocks = (channels - 1) / avg_pool_channels + 1;
    const std::ptrdiff_t block = smaller<Isa>(channels, avg_pool_channels);
    const std::ptrdiff_t taps =
        (setup.h.source / setup.h.result + 1) * (setup.w.source / setup.w.result + 1);
    const bool overlap = !setup.w.adaptive && setup.w.kernel > setup.w.stride &&
                         setup.w.kernel < ColumnRing<Isa>::shared_slots;
    for_row_blocks<Isa>(
        batch, setup.h.result, blocks, setup.w.result * (block * (taps + 1) + 64),
        [&](RowRange<Isa> range) {
            Pass pass = setup;
            pass.streams = streams;
            ColumnRing<Isa> ring;
            ring.slots = pass.whole_planes() ? pass.w.source : ring.shared_slots;
            ring.pitch = (block + 2 * Types::V::size - 1) / 16 * 16 + 16;
            const std::ptrdiff_t ring_size = ring.slots * ring.pitch;
            ScratchParts<Isa> parts{static_cast<char*>(thread_scratch(
                pass.scratch_size() + 2 * sizeof(double) * static_cast<std::size_t>(ring_size)))};
            pass.use_scratch(parts);
            ring.lines = {parts.template take<double>(ring_size),
                          parts.template take<double>(ring_size)};
            while (range.next_plane()) {
                const PixelRow<Isa, T, backward> row(pass, range.inner);
                for (std::ptrdiff_t b = range.first; b < range.last; ++b) {
                    const std::ptrdiff_t c = b * avg_pool_channels;
                    const std::ptrdiff_t n = smaller<Isa>(channels - c, avg_pool_channels);
                    const T* image = x + range.outer * stride.n + c;
                    T* y_row = y + range.plane() * pass.w.result * channels + c;
                    if (pass.whole_planes()) {
                        avg_pool_image(pass, row, ring, n, y_row, image, stride);
                        continue;
                    }
                    if (overlap) {
                        avg_pool_pixels(pass, row, ring, n, channels, y_row, image, stride);
                        continue;
                    }
                    for (std::ptrdiff_t j = 0; j < pass.w.result; ++j) {
                        T* pixel = y_row + j * channels;
                        if (!avg_pool_pixel<false>(pass, row, j, n, pixel, image, stride)) {
                            if constexpr (Types::compensated)
                                avg_pool_pixel<true>(pass, row, j, n, pixel, image, stride);
                        }
                    }
                }
            }
            if (streams) stream_fence<Isa>();
        });
}

}  // namespace stableops
