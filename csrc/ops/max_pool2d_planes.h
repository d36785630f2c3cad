#pragma once
// max_pool2d where vectors are neighbouring outputs of a row.
#include "../pool2d_shape.h"
#include "max_pool2d_taps.h"

namespace stableops {

// What one row of outputs is made of: some rows of its windows, from the image or from the state
// that earlier rows left in y and `offsets`.
template <class Isa, class T>
struct MaxPoolRow {
    static constexpr int most = 8;
    using I = typename MaxPoolTypes<Isa, T>::I;
    T* y;
    std::int64_t* indices;
    std::ptrdiff_t base;    // index of tap (0, 0) of window 0
    const I* first_column;  // offset of each window's first tap inside, along W
    I* offsets;
    std::ptrdiff_t first_row;  // offset of the first row inside
    const T* row[most];
    int rows;
    std::ptrdiff_t first_offset, row_offset;  // offsets of row[0] and from row to row
    bool starts, ends;
};

template <class Isa, int step, class T>
void max_pool_row(const MaxPoolRow<Isa, T>& in, const MaxPoolColumns& windows) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    using Offsets = typename Types::Offsets;
    for_each_vec_of_windows<Isa, V::size>(
        windows.count, [&](std::ptrdiff_t ox, auto lanes) [[gnu::always_inline]] {
            MaxPoolState<Isa, T> start;
            if (in.starts) {
                using I = typename Types::I;
                start = {V::splat(Types::lowest()), load_vec<Isa>(in.first_column + ox, lanes) +
                                                        Offsets::splat(static_cast<I>(in.first_row))};
            } else {
                start = {Types::load_elements(in.y + ox, lanes),
                         load_vec<Isa>(in.offsets + ox, lanes)};
            }
            const MaxPoolState<Isa, T> best = max_of_taps<Isa, T, true>(
                start, [&](auto&& body) [[gnu::always_inline]] {
                    for (int r = 0; r < in.rows; ++r)
                        for_each_column<Isa, step>(windows, in.row[r], ox, lanes,
                                                   in.first_offset + r * in.row_offset, body);
                });
            Types::store_elements(in.y + ox, best.value, lanes);
            if (in.ends)
                store_indices<Isa>(in.indices + ox, best.offset, in.base + ox * windows.stride,
                                   windows.stride, lanes);
            // The last vector meets the state of the one that it overlaps, so that is kept as well.
            if (!in.ends || !in.starts) store_vec<Isa>(in.offsets + ox, best.offset, lanes);
        });
}

// What the tasks of either kind need to know.
template <class Isa, class T>
struct MaxPoolPlanes {
    static constexpr int most = MaxPoolRow<Isa, T>::most;
    static constexpr std::ptrdiff_t slots = RowRing<Isa, T>::slots;
    const Pool2dShape& shape;
    MaxPoolColumns windows;
    RowRing<Isa, T> ring;

    MaxPoolPlanes(const Pool2dShape& shape, const ImageStrides& stride)
        : shape(shape), windows(shape) {
        constexpr int size = MaxPoolTypes<Isa, T>::V::size;
        ring.width = shape.width;
        ring.left = shape.pad_w;
        ring.right = (shape.out_w - 1) * shape.stride_w - shape.pad_w +
                     (shape.kernel_w - 1) * shape.dilation_w + 1;
        if (shape.out_w < size) ring.right = larger<Isa>(ring.right, shape.width) + 4 * size;
        ring.stride_h = stride.h;
        ring.stride_w = stride.w;
    }
    std::ptrdiff_t start(std::ptrdiff_t oy) const { return oy * shape.stride_h - shape.pad_h; }
    Taps rows_inside(std::ptrdiff_t oy) const {
        return taps_inside<Isa>(start(oy), shape.kernel_h, shape.dilation_h, shape.height);
    }
    // Rows of one group, and of the windows below that share them, fit a ring; so do those of the
    // next row of outputs.
    bool reuses_rows() const {
        return (smaller<Isa>(shape.kernel_h, most) - 1) * shape.dilation_h < slots;
    }
    bool looks_ahead() const {
        return shape.dilation_h == 1 && shape.kernel_h <= most &&
               shape.kernel_h + 2 * shape.stride_h < slots;
    }
    // Where `looks_ahead`: f(row) for the rows of the windows at oy, from `next` on, which then is
    // the first row after them.
    template <class F>
    [[gnu::always_inline]] inline void for_new_rows(std::ptrdiff_t oy, std::ptrdiff_t& next,
                                                    const F& f) const {
        const std::ptrdiff_t end = smaller<Isa>(shape.height, start(oy) + shape.kernel_h);
        for (next = larger<Isa>(next, start(oy)); next < end; ++next) f(next);
    }
};

template <class Isa, int step, class T>
void max_pool_planes_with_indices(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                                  const ImageStrides& stride) {
    using Row = MaxPoolRow<Isa, T>;
    using I = typename Row::I;
    using Ring = RowRing<Isa, T>;
    const std::ptrdiff_t row_offset = shape.dilation_h * shape.width;
    for_row_blocks<Isa>(
        shape.batch, shape.channels, shape.out_h,
        shape.out_w * shape.kernel_h * shape.kernel_w + 64, [&](RowRange<Isa> range) {
            MaxPoolPlanes<Isa, T> planes(shape, stride);
            const bool reuse = planes.reuses_rows();
            const std::size_t line =
                ScratchParts<Isa>::aligned(static_cast<std::size_t>(shape.out_w) * sizeof(I));
            ScratchParts<Isa> parts{
                static_cast<char*>(thread_scratch(planes.ring.scratch_size() + 2 * line))};
            const bool ahead = planes.looks_ahead() && !planes.ring.direct;
            planes.ring.use_scratch(parts, MaxPoolTypes<Isa, T>::lowest_element());
            I* first_column = parts.template take<I>(shape.out_w);
            for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox) {
                const Taps taps = taps_inside<Isa>(ox * shape.stride_w - shape.pad_w,
                                                   shape.kernel_w, shape.dilation_w, shape.width);
                first_column[ox] = static_cast<I>(taps.first * shape.dilation_w);
            }
            Row row;
            row.first_column = first_column;
            row.offsets = parts.template take<I>(shape.out_w);
            row.row_offset = row_offset;
            while (range.next_plane()) {
                planes.ring.set_plane(x + range.outer * stride.n + range.inner * stride.c);
                std::ptrdiff_t copied = 0;
                for (std::ptrdiff_t oy = range.first; oy < range.last; ++oy) {
                    if (ahead && oy + 1 < range.last)
                        planes.for_new_rows(oy + 1, copied,
                                            [&](std::ptrdiff_t h) { planes.ring.row(h); });
                    const Taps taps = planes.rows_inside(oy);
                    const std::ptrdiff_t at = (range.plane() * shape.out_h + oy) * shape.out_w;
                    row.y = y + at;
                    row.indices = indices + at;
                    row.base = planes.start(oy) * shape.width - shape.pad_w;
                    row.first_row = taps.first * row_offset;
                    for (std::ptrdiff_t r = taps.first; r < taps.end; r += Row::most) {
                        row.starts = r == taps.first;
                        row.ends = taps.end - r <= Row::most;
                        row.rows = static_cast<int>(smaller<Isa>(taps.end - r, Row::most));
                        row.first_offset = r * row_offset;
                        for (int k = 0; k < row.rows; ++k) {
                            const std::ptrdiff_t h = planes.start(oy) + (r + k) * shape.dilation_h;
                            row.row[k] =
                                planes.ring.row_in_slot(h, reuse ? Ring::slot_of(h) : k);
                        }
                        max_pool_row<Isa, step>(row, planes.windows);
                    }
                }
            }
        });
}

// The maxima of one image row's windows. False if there may be a NaN: the sum of all taps says so,
// or infinities do without need.
template <class Isa, int step, class T>
bool max_of_row(T* maxima, const T* row, const MaxPoolColumns& windows) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    V sum = V::zero();
    for_each_vec_of_windows<Isa, V::size>(
        windows.count, [&](std::ptrdiff_t ox, auto lanes) [[gnu::always_inline]] {
            MaxPoolState<Isa, T> best = {V::splat(Types::lowest()), {}};
            for_each_column<Isa, step>(
                windows, row, ox, lanes, 0,
                [&](V tap, std::ptrdiff_t offset) [[gnu::always_inline]] {
                    take_number<Isa, T, false>(best, sum, tap, offset);
                });
            Types::store_elements(maxima + ox, best.value, lanes);
        });
    if constexpr (Types::has_nan) return !any(is_nan(sum));
    return true;
}

// The same with NaN: the first one of a window is its maximum.
template <class Isa, class T>
[[gnu::noinline]] void max_of_row_with_nan(T* maxima, const T* row, const MaxPoolColumns& windows) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    for_each_vec<Isa, V::size>(windows.count, [&](std::ptrdiff_t ox, auto lanes) {
        MaxPoolState<Isa, T> best = {V::splat(Types::lowest()), {}};
        for_each_column<Isa, 0>(windows, row, ox, lanes, 0, [&](V tap, std::ptrdiff_t offset) {
            take_tap<Isa, T, false>(best, tap, offset);
        });
        Types::store_elements(maxima + ox, best.value, lanes);
    });
}

// y = the larger of the rows, the upper one where they are equal; with NaN as it is defined, which
// the sum of the rows decides.
template <class Isa, class T, bool starts>
void max_of_rows(T* y, const T* const* rows, int count, std::ptrdiff_t out_w) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    for_each_vec_of_windows<Isa, V::size>(out_w, [&](std::ptrdiff_t ox, auto lanes)
                                                     [[gnu::always_inline]] {
        const MaxPoolState<Isa, T> start = {
            starts ? V::splat(Types::lowest()) : Types::load_elements(y + ox, lanes), {}};
        const MaxPoolState<Isa, T> best = max_of_taps<Isa, T, false>(
            start, [&](auto&& body) [[gnu::always_inline]] {
                for (int r = 0; r < count; ++r)
                    body(Types::load_elements(rows[r] + ox, lanes), 0);
            });
        Types::store_elements(y + ox, best.value, lanes);
    });
}

template <class Isa, int step, class T>
void max_pool_planes(const Pool2dShape& shape, T* y, const T* x, const ImageStrides& stride) {
    using Types = MaxPoolTypes<Isa, T>;
    using Ring = RowRing<Isa, T>;
    for_row_blocks<Isa>(
        shape.batch, shape.channels, shape.out_h,
        shape.out_w * (shape.kernel_h + shape.stride_h * shape.kernel_w) + 64,
        [&](RowRange<Isa> range) {
            MaxPoolPlanes<Isa, T> planes(shape, stride);
            constexpr int most = planes.most;
            const bool reuse = planes.reuses_rows();
            const bool ahead = planes.looks_ahead();
            Ring maxima;
            maxima.width = shape.out_w;
            const std::size_t rows_size = planes.ring.scratch_size();
            ScratchParts<Isa> parts{
                static_cast<char*>(thread_scratch(rows_size + maxima.scratch_size()))};
            planes.ring.use_scratch(parts, Types::lowest_element());
            maxima.use_scratch(parts, Types::lowest_element());
            const auto reduce = [&](std::ptrdiff_t h, std::ptrdiff_t slot) {
                T* line = maxima.copies + slot * maxima.pitch;
                const T* row = planes.ring.row(h);
                if (!max_of_row<Isa, step>(line, row, planes.windows)) {
                    if constexpr (Types::has_nan)
                        max_of_row_with_nan<Isa>(line, row, planes.windows);
                }
            };
            while (range.next_plane()) {
                planes.ring.set_plane(x + range.outer * stride.n + range.inner * stride.c);
                maxima.set_plane(nullptr);
                std::ptrdiff_t copied = 0, reduced = 0;
                for (std::ptrdiff_t oy = range.first; oy < range.last; ++oy) {
                    if (ahead) {
                        const auto reduce_row = [&](std::ptrdiff_t h) {
                            reduce(h, Ring::slot_of(h));
                        };
                        if (!planes.ring.direct && oy + 2 < range.last)
                            planes.for_new_rows(oy + 2, copied,
                                                [&](std::ptrdiff_t h) { planes.ring.row(h); });
                        planes.for_new_rows(oy, reduced, reduce_row);
                        if (oy + 1 < range.last) planes.for_new_rows(oy + 1, reduced, reduce_row);
                    }
                    const Taps taps = planes.rows_inside(oy);
                    T* y_row = y + (range.plane() * shape.out_h + oy) * shape.out_w;
                    for (std::ptrdiff_t r = taps.first; r < taps.end; r += most) {
                        const T* rows[most];
                        const int count = static_cast<int>(smaller<Isa>(taps.end - r, most));
                        for (int k = 0; k < count; ++k) {
                            const std::ptrdiff_t h = planes.start(oy) + (r + k) * shape.dilation_h;
                            const std::ptrdiff_t slot = reuse ? Ring::slot_of(h) : k;
                            if (!ahead && maxima.held[slot] != h) {
                                maxima.held[slot] = h;
                                reduce(h, slot);
                            }
                            rows[k] = maxima.copies + slot * maxima.pitch;
                        }
                        if (r == taps.first) {
                            max_of_rows<Isa, T, true>(y_row, rows, count, shape.out_w);
                        } else {
                            max_of_rows<Isa, T, false>(y_row, rows, count, shape.out_w);
                        }
                    }
                }
            }
        });
}

template <class Isa, int step, class T>
void max_pool_planes(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                     const ImageStrides& stride) {
    indices ? max_pool_planes_with_indices<Isa, step>(shape, y, indices, x, stride)
            : max_pool_planes<Isa, step>(shape, y, x, stride);
}

}  // namespace stableops
