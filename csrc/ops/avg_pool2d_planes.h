#pragma once
// avg_pool2d.h where vectors are neighbouring elements of a row.
#include "../pool2d_shape.h"
#include "avg_pool2d_pass.h"

namespace stableops {

// Rows of the source, laid out; their padding is not read.
template <class Isa, class C>
RowRing<Isa, C> source_rows(const PlaneAccess<C>& access, std::ptrdiff_t width,
                            const ImageStrides& stride) {
    return {access, {width, stride.w, 0, 1, 1, width}, stride.h};
}

template <class Isa, class C, bool backward>
struct AvgPoolPlanes {
    using Pass = AvgPoolPass<Isa, C, backward>;
    using Types = AvgPoolTypes<Isa, C>;
    Pass pass;
    RowRing<Isa, C> ring;
    RowWriter<Isa, C> writer;
    const char* x;
    char* y;
    ImageStrides stride;
    std::ptrdiff_t channels;

    const char* plane_at(std::ptrdiff_t n, std::ptrdiff_t c) const {
        return x + (n * stride.n + c * stride.c) * ring.access.element_size;
    }

    // Sums the columns of result row i.
    template <bool scaled>
    [[gnu::noinline]] void add_columns(std::ptrdiff_t i) {
        const PoolSpan span = pass.h.span(i);
        PoolRows<C> in;
        in.rows = 0;
        in.starts = true;
        for (std::ptrdiff_t r = span.begin; r < span.end; r += PoolRows<C>::most) {
            in.starts = r == span.begin;
            in.rows = static_cast<int>(smaller<Isa>(span.end - r, PoolRows<C>::most));
            for (int k = 0; k < in.rows; ++k) {
                in.row[k] = ring.row(r + k);
                if constexpr (backward) in.divisors[k] = pass.divisors_of(r + k, in, k);
            }
            pass.template add_rows<scaled>(in);
        }
        if (span.begin >= span.end) pass.clear_columns();  // no window holds this row
    }

    // `count` results from position `at` on, of row i, written by write<scaled>(to, divisors).
    template <class Write>
    [[gnu::always_inline]] inline void put(std::ptrdiff_t at, std::ptrdiff_t count,
                                           const Write& write) {
        char* to = y + at * ring.access.element_size;
        C* const values = writer.begin(to);
        write(values);
        writer.end(to, values, count);
    }

    // Row i of the results from its column sums.
    [[gnu::noinline]] void put_row(std::ptrdiff_t at, std::ptrdiff_t i) {
        const PoolDivisors* d = backward ? nullptr : pass.divisors_of(i, {}, 0);
        put(at, pass.w.result, [&](C* to) {
            if (pass.template write_row<false>(to, d)) return;
            if constexpr (Types::compensated) {
                add_columns<true>(i);
                pass.template write_row<true>(to, d);
            }
        });
    }

    // One window a plane: the results of many planes are finished together.
    [[gnu::noinline]] void put_whole_planes(RowRange<Isa>& range) {
        const bool narrow = ring.direct && pass.w.source <= pass.narrow_width;
        typename Pass::Tile tile;
        if (narrow) tile = {};
        const PoolDivisors* d = pass.divisors_of(0, {}, 0);
        while (range.next_plane()) {
            std::ptrdiff_t count = 0;
            const std::ptrdiff_t first = range.plane();
            do {
                const char* plane = plane_at(range.outer, range.inner);
                if (narrow) {
                    pass.add_narrow_plane(tile, count, reinterpret_cast<const C*>(plane), stride.h);
                } else {
                    ring.set_plane(plane);
                    add_columns<false>(0);
                    pass.add_columns_of(pass.begin[0], pass.end[0], pass.windows.total[count],
                                        pass.windows.error[count]);
                }
            } while (++count < Pass::planes && range.next_plane());
            if (narrow) pass.add_tile(tile);
            bool finite = true;
            put(first, count,
                [&](C* to) { finite = pass.template write_sums<false>(to, count, d); });
            if (finite) continue;
            for (std::ptrdiff_t k = 0; k < count; ++k) {
                const std::ptrdiff_t plane = first + k;
                ring.set_plane(plane_at(plane / channels, plane % channels));
                add_columns<false>(0);
                put_row(plane, 0);
            }
        }
    }

    // Rows [begin, end) of one plane, whose first result is at position `plane`. The columns of row
    // i + 1 are summed before those of row i are read, for the sake of vectors that straddle two
    // stores.
    void put_plane(std::ptrdiff_t plane, std::ptrdiff_t begin, std::ptrdiff_t end) {
        const auto same_rows = [&](std::ptrdiff_t i) {
            if (!backward || i == begin) return false;
            const PoolSpan a = pass.h.span(i), b = pass.h.span(i - 1);
            return a.begin == b.begin && a.end == b.end;
        };
        const std::ptrdiff_t row_bytes = pass.w.result * ring.access.element_size;
        for (std::ptrdiff_t i = begin - 1; i < end; ++i) {
            const bool other_next = i + 1 < end && !same_rows(i + 1);
            pass.swap_columns();
            if (other_next) add_columns<false>(i + 1);
            pass.swap_columns();
            if (i >= begin && same_rows(i)) {  // the same windows hold both rows
                char* row = y + plane * ring.access.element_size + i * row_bytes;
                if (writer.streams) {
                    stream_bytes<Isa>(row, reinterpret_cast<const char*>(writer.line), row_bytes);
                } else {
                    __builtin_memcpy(row, row - row_bytes, static_cast<std::size_t>(row_bytes));
                }
            } else if (i >= begin) {
                put_row(plane + i * pass.w.result, i);
            }
            if (other_next) pass.swap_columns();
        }
    }
};

template <class Isa, class C, bool backward>
void avg_pool_planes(const AvgPoolPass<Isa, C, backward>& setup, std::ptrdiff_t batch,
                     std::ptrdiff_t channels, void* y, const void* x, const ImageStrides& stride,
                     const PlaneAccess<C>& access) {
    const std::ptrdiff_t rows_added = setup.h.source / setup.h.result + 2;
    const std::ptrdiff_t row_cost = rows_added * (setup.w.source + setup.w.result) + 64;
    for_row_blocks<Isa>(batch, channels, setup.h.result, row_cost, [&](RowRange<Isa> range) {
        const bool streams =
            batch * channels * setup.h.result * setup.w.result * access.element_size >=
            pool_stream_bytes;
        AvgPoolPlanes<Isa, C, backward> planes = {setup,
                                                  source_rows<Isa>(access, setup.w.source, stride),
                                                  {access, streams, false},
                                                  static_cast<const char*>(x),
                                                  static_cast<char*>(y),
                                                  stride,
                                                  channels};
        auto& pass = planes.pass;
        const std::ptrdiff_t line = pass.result_length() + pass.planes;
        ScratchParts<Isa> parts{static_cast<char*>(thread_scratch(
            pass.scratch_size() + planes.ring.scratch_size() +
            ScratchParts<Isa>::aligned(static_cast<std::size_t>(line) * sizeof(C))))};
        pass.use_scratch(parts);
        planes.ring.use_scratch(parts, C{});
        planes.writer.line = parts.template take<C>(line);
        if (pass.whole_planes()) planes.put_whole_planes(range);
        while (range.next_plane()) {
            planes.ring.set_plane(planes.plane_at(range.outer, range.inner));
            planes.put_plane(range.plane() * pass.h.result * pass.w.result, range.first,
                             range.last);
        }
        planes.writer.end_task();
    });
}

}  // namespace stableops
