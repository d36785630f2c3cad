#pragma once
// avg_pool2d.h where vectors are neighbouring elements of a row.
#include "../pool2d_shape.h"
#include "avg_pool2d_pass.h"

namespace stableops {

// Sums the columns of result row i.
template <bool scaled, class Isa, class T, bool backward>
void avg_pool_columns(AvgPoolPass<Isa, T, backward>& pass, RowRing<Isa, T>& ring,
                                     std::ptrdiff_t i) {
    const PoolSpan span = pass.h.span(i);
    PoolRows<T> in;
    in.rows = 0;
    in.starts = true;
    for (std::ptrdiff_t r = span.begin; r < span.end; r += PoolRows<T>::most) {
        in.starts = r == span.begin;
        in.rows = static_cast<int>(smaller<Isa>(span.end - r, PoolRows<T>::most));
        for (int k = 0; k < in.rows; ++k) {
            in.row[k] = ring.row(r + k);
            if constexpr (backward) in.divisors[k] = pass.divisors_of(r + k, in, k);
        }
        pass.template add_rows<scaled>(in);
    }
    if (span.begin >= span.end) pass.clear_columns();  // no window holds this row
}

// Row i of the results, at y, from its column sums.
template <class Isa, class T, bool backward>
void avg_pool_row(AvgPoolPass<Isa, T, backward>& pass, RowRing<Isa, T>& ring, T* y,
                  std::ptrdiff_t i) {
    const PoolDivisors* d = backward ? nullptr : pass.divisors_of(i, {}, 0);
    if (pass.template write_row<false>(y, d)) return;
    if constexpr (AvgPoolTypes<Isa, T>::compensated) {
        avg_pool_columns<true>(pass, ring, i);
        pass.template write_row<true>(y, d);
    }
}

template <class Isa, class T, bool backward>
void avg_pool_planes(const AvgPoolPass<Isa, T, backward>& setup, std::ptrdiff_t batch,
                     std::ptrdiff_t channels, T* y, const T* x, const ImageStrides& stride) {
    using Ring = RowRing<Isa, T>;
    using Pass = AvgPoolPass<Isa, T, backward>;
    const std::ptrdiff_t rows_added = setup.h.source / setup.h.result + 2;
    const std::ptrdiff_t row_cost = rows_added * (setup.w.source + setup.w.result) + 64;
    for_row_blocks<Isa>(
        batch, channels, setup.h.result, row_cost, [&](RowRange<Isa> range) {
            Pass pass = setup;
            Ring ring;
            ring.width = ring.right = pass.w.source;
            ring.stride_h = stride.h;
            ring.stride_w = stride.w;
            ScratchParts<Isa> parts{static_cast<char*>(
                thread_scratch(pass.scratch_size() + ring.scratch_size()))};
            pass.use_scratch(parts);
            ring.use_scratch(parts, T{});
            const auto set_plane = [&](std::ptrdiff_t n, std::ptrdiff_t c) {
                ring.set_plane(x + n * stride.n + c * stride.c);
            };
            if (pass.whole_planes()) {
                const bool narrow =
                    stride.w == 1 && pass.w.source <= AvgPoolTypes<Isa, T>::D::size;
                const PoolDivisors* d = pass.divisors_of(0, {}, 0);
                while (range.next_plane()) {
                    std::ptrdiff_t count = 0;
                    T* first_y = y + range.plane();
                    do {
                        if (narrow) {
                            pass.add_narrow_plane(
                                x + range.outer * stride.n + range.inner * stride.c, stride.h);
                        } else {
                            set_plane(range.outer, range.inner);
                            avg_pool_columns<false>(pass, ring, 0);
                        }
                        pass.add_columns_of(pass.begin[0], pass.end[0],
                                            pass.windows.total[count], pass.windows.error[count]);
                    } while (++count < Pass::planes && range.next_plane());
                    if (!pass.template write_sums<false>(first_y, count, d)) {
                        if constexpr (AvgPoolTypes<Isa, T>::compensated) {
                            for (std::ptrdiff_t k = 0; k < count; ++k) {
                                const std::ptrdiff_t plane = first_y + k - y;
                                set_plane(plane / channels, plane % channels);
                                avg_pool_columns<false>(pass, ring, 0);
                                avg_pool_row(pass, ring, first_y + k, 0);
                            }
                        }
                    }
                }
                return;
            }
            while (range.next_plane()) {
                set_plane(range.outer, range.inner);
                T* plane_y = y + range.plane() * pass.h.result * pass.w.result;
                // The columns of row i + 1 are summed before those of row i are read, for the sake
                // of vectors that straddle two stores.
                const auto same_rows = [&](std::ptrdiff_t i) {
                    if (!backward || i == range.first) return false;
                    const PoolSpan a = pass.h.span(i), b = pass.h.span(i - 1);
                    return a.begin == b.begin && a.end == b.end;
                };
                avg_pool_columns<false>(pass, ring, range.first);
                for (std::ptrdiff_t i = range.first; i < range.last; ++i) {
                    T* y_row = plane_y + i * pass.w.result;
                    const bool other_next = i + 1 < range.last && !same_rows(i + 1);
                    if (other_next) {
                        pass.swap_columns();
                        avg_pool_columns<false>(pass, ring, i + 1);
                        pass.swap_columns();
                    }
                    if (same_rows(i)) {  // the same windows hold both rows
                        __builtin_memcpy(y_row, y_row - pass.w.result,
                                         static_cast<std::size_t>(pass.w.result) * sizeof(T));
                    } else {
                        avg_pool_row(pass, ring, y_row, i);
                    }
                    if (other_next) pass.swap_columns();
                }
            }
        });
}

}  // namespace stableops
