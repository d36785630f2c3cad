#pragma once
// max_pool2d:           y[o] = the largest x of window o; index[o] = its position h * W + w in the
//                       plane of the unpadded image.
// max_pool2d_backward:  grad_x[i] = sum of grad_y[o] over the o with index[o] = i.
//
// Shapes: x (N, C, H, W); y, index and grad_y (N, C, out_h, out_w); grad_x as x.
//
// Edge cases. The taps of a window are visited in row-major order and a later one wins only if it is
// greater: of equal values the first stands, zeros of either sign being equal. The first NaN wins
// over all that follows. Padding is never a tap, or is -inf, which is greater than nothing; the
// search starts at the first tap inside the image, so that is the index of a window of only -inf.
// y has the very bits of x[index], whether indices are asked for or not.
//
// The forward pass is exact. The backward pass adds in ascending order of o, in float64 for
// float64 and in float32 for the others, and rounds float16 and bfloat16 once at the end.
//
// Vectors run over neighbouring outputs of a row, or over channels where these are contiguous. The
// first of equals is the same whether a window is searched tap by tap or the maxima of its rows are
// searched from top to bottom, so without indices each row of the image is reduced to the maxima of
// its windows once, for all windows that share it. Offsets of taps are carried relative to their
// window, in integers of the element's width.
#include "../pool2d_shape.h"
#include "pool2d_rows.h"

namespace stableops {

// Elements the maximum is taken in; integers are pooled as int64.
template <class T>
struct MaxPoolCompute {
    using type = Compute<T>;
};
template <>
struct MaxPoolCompute<std::int64_t> {
    using type = std::int64_t;
};

template <class Isa, class T>
struct MaxPoolTypes {
    using C = typename MaxPoolCompute<T>::type;
    using I = typename SameWidthInt<C>::type;
    using V = Vec<Isa, C>;
    using Offsets = Vec<Isa, I>;
    static constexpr bool has_nan = !std::is_same_v<C, std::int64_t>;

    static C lowest() {
        if constexpr (has_nan) {
            return -static_cast<C>(__builtin_inf());
        } else {
            return INT64_MIN;
        }
    }
    static T lowest_element() {
        if constexpr (std::is_same_v<T, float16>) {
            return {0xfc00};
        } else if constexpr (std::is_same_v<T, bfloat16>) {
            return {0xff80};
        } else {
            return lowest();
        }
    }

    template <class Lanes>
    [[gnu::always_inline]] static inline V load_elements(const T* p, Lanes lanes) {
        if constexpr (has_nan) {
            return load<Isa>(p, lanes);
        } else if constexpr (std::is_same_v<Lanes, AllLanes>) {
            return loadu<Isa>(p);
        } else {
            return load_first<Isa>(p, lanes.count);
        }
    }
    [[gnu::always_inline]] static inline C value_of(const T* p) {
        if constexpr (std::is_same_v<T, C>) {
            return *p;
        } else {
            return load<Isa>(p, FirstLanes{1})[0];
        }
    }
    template <class Lanes>
    [[gnu::always_inline]] static inline void store_elements(T* p, V v, Lanes lanes) {
        if constexpr (has_nan) {
            store<Isa>(p, v, lanes);
        } else {
            store_vec<Isa>(p, v, lanes);
        }
    }
};

template <class Isa, class T, class Lanes>
[[gnu::always_inline]] inline void store_vec(T* p, Vec<Isa, T> v, Lanes lanes) {
    if constexpr (std::is_same_v<Lanes, AllLanes>) {
        storeu(p, v);
    } else {
        store_first(p, v, lanes.count);
    }
}
template <class Isa, class T, class Lanes>
[[gnu::always_inline]] inline Vec<Isa, T> load_vec(const T* p, Lanes lanes) {
    if constexpr (std::is_same_v<Lanes, AllLanes>) {
        return loadu<Isa>(p);
    } else {
        return load_first<Isa>(p, lanes.count);
    }
}

// The windows of one row of outputs along W.
struct MaxPoolColumns {
    std::ptrdiff_t kernel, stride, pad, dilation, count;

    explicit MaxPoolColumns(const Pool2dShape& shape)
        : kernel(shape.kernel_w),
          stride(shape.stride_w),
          pad(shape.pad_w),
          dilation(shape.dilation_w),
          count(shape.out_w) {}
};

// body(values, offset) for each tap of the windows ox, ox + 1 ... in one row, from left to right;
// `lanes` says how many windows there are. `step` is the stride where it is known, else 0.
template <class Isa, int step, class T, class Lanes, class Body>
[[gnu::always_inline]] inline void for_each_column(const MaxPoolColumns& windows, const T* row,
                                                   std::ptrdiff_t ox, Lanes lanes,
                                                   std::ptrdiff_t offset, Body&& body) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    constexpr int size = V::size;
    const T* p = row + ox * (step > 0 ? step : windows.stride) - windows.pad;
    const auto load_at = [&](std::ptrdiff_t column) [[gnu::always_inline]] {
        return Types::load_elements(p + column, AllLanes{});
    };
    if constexpr (step == 1) {
        for (std::ptrdiff_t s = 0; s < windows.kernel; ++s)
            body(load_at(s * windows.dilation), offset + s * windows.dilation);
    } else if constexpr (step == 2) {
        std::ptrdiff_t s = 0;
        if (windows.dilation == 1) {
            for (; s + 1 < windows.kernel; s += 2) {
                const V low = load_at(s);
                const V high = load_at(s + size);
                body(even_lanes(low, high), offset + s);
                body(odd_lanes(low, high), offset + s + 1);
            }
        }
        for (; s < windows.kernel; ++s) {
            const std::ptrdiff_t tap = s * windows.dilation;
            body(even_lanes_overlapping(load_at(tap), load_at(tap + size - 1)), offset + tap);
        }
    } else {
        int count = size;
        if constexpr (std::is_same_v<Lanes, FirstLanes>) count = lanes.count;
        for (std::ptrdiff_t s = 0; s < windows.kernel; ++s) {
            const std::ptrdiff_t tap = s * windows.dilation;
            T element[size];
            for (int lane = 0; lane < size; ++lane)
                element[lane] =
                    lane < count ? p[tap + lane * windows.stride] : Types::lowest_element();
            body(Types::load_elements(element, AllLanes{}), offset + tap);
        }
    }
}

// Calls body(ox, lanes) for the vectors of a row of outputs. The last one overlaps the one before,
// so that it reads no further than its windows: doing an output twice changes nothing. A row shorter
// than a vector reads up to two vectors beyond its windows.
template <class Isa, int size, class Body>
[[gnu::always_inline]] inline void for_each_vec_of_windows(std::ptrdiff_t count, Body&& body) {
    if (count < size) return body(0, FirstLanes{static_cast<int>(count)});
    for (std::ptrdiff_t ox = 0; ox < count; ox += size)
        body(smaller<Isa>(ox, count - size), AllLanes{});
}

template <class Isa, class T>
struct MaxPoolState {
    typename MaxPoolTypes<Isa, T>::V value;
    typename MaxPoolTypes<Isa, T>::Offsets offset;
};

// Numbers only: a NaN tap is never taken and a NaN maximum stands. The sum of all taps is NaN if any
// of them is; it may also be NaN for infinities, which costs the caller a second look, no more.
template <class Isa, class T, bool with_indices>
[[gnu::always_inline]] inline void take_number(MaxPoolState<Isa, T>& best,
                                               typename MaxPoolTypes<Isa, T>::V& sum,
                                               typename MaxPoolTypes<Isa, T>::V tap,
                                               std::ptrdiff_t offset) {
    using Types = MaxPoolTypes<Isa, T>;
    if constexpr (with_indices) {
        using I = typename Types::I;
        best.offset = select(tap > best.value, Types::Offsets::splat(static_cast<I>(offset)),
                             best.offset);
    }
    best.value = max(tap, best.value);
    if constexpr (Types::has_nan) sum += tap;
}

// The definition.
template <class Isa, class T, bool with_indices>
[[gnu::always_inline]] inline void take_tap(MaxPoolState<Isa, T>& best,
                                            typename MaxPoolTypes<Isa, T>::V tap,
                                            std::ptrdiff_t offset) {
    using Types = MaxPoolTypes<Isa, T>;
    auto wins = (tap > best.value) | (is_nan(tap) & ~is_nan(best.value));
    if constexpr (with_indices) {
        using I = typename Types::I;
        best.offset =
            select(wins, Types::Offsets::splat(static_cast<I>(offset)), best.offset);
    }
    best.value = select(wins, tap, best.value);
}

template <class Isa, class T, bool with_indices, class EachTap>
[[gnu::noinline]] MaxPoolState<Isa, T> max_with_nan(MaxPoolState<Isa, T> best,
                                                    const EachTap& each_tap) {
    each_tap([&](typename MaxPoolTypes<Isa, T>::V tap, std::ptrdiff_t offset) {
        take_tap<Isa, T, with_indices>(best, tap, offset);
    });
    return best;
}

// each_tap(body) calls body(values, offset) for the taps in row-major order.
template <class Isa, class T, bool with_indices, class EachTap>
[[gnu::always_inline]] inline MaxPoolState<Isa, T> max_of_taps(MaxPoolState<Isa, T> start,
                                                               const EachTap& each_tap) {
    using V = typename MaxPoolTypes<Isa, T>::V;
    MaxPoolState<Isa, T> best = start;
    V sum = V::zero();
    each_tap([&](V tap, std::ptrdiff_t offset) [[gnu::always_inline]] {
        take_number<Isa, T, with_indices>(best, sum, tap, offset);
    });
    if constexpr (MaxPoolTypes<Isa, T>::has_nan) {
        if (any(is_nan(sum))) [[unlikely]]
            return max_with_nan<Isa, T, with_indices>(start, each_tap);
    }
    return best;
}

// indices[lane] = base + ramp[lane] + offset[lane].
template <class Isa, class I, class Lanes>
[[gnu::always_inline]] inline void store_indices(std::int64_t* indices, Vec<Isa, I> offset,
                                                 std::ptrdiff_t base, std::ptrdiff_t base_step,
                                                 Lanes lanes) {
    using Index = Vec<Isa, std::int64_t>;
    constexpr int half = Index::size;
    Index ramp;
    for (int i = 0; i < half; ++i) ramp.raw[i] = i;
    ramp = {ramp.raw * Index::splat(base_step).raw};
    Index low = ramp + Index::splat(base);
    if constexpr (sizeof(I) == 8) {
        store_vec<Isa>(indices, low + offset, lanes);
    } else {
        Index high = low + Index::splat(half * base_step);
        if constexpr (std::is_same_v<Lanes, AllLanes>) {
            storeu(indices, low + widen_low(offset));
            storeu(indices + half, high + widen_high(offset));
        } else {
            int count = lanes.count;
            store_first(indices, low + widen_low(offset), count < half ? count : half);
            if (count > half) store_first(indices + half, high + widen_high(offset), count - half);
        }
    }
}

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

// Channels of a task: whole cache lines of every dtype; few enough to cut one pixel into tasks.
constexpr std::ptrdiff_t max_pool_channels = 128;

template <class Isa, class T, bool with_indices>
void max_pool_channels_last(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                            const ImageStrides& stride) {
    using Types = MaxPoolTypes<Isa, T>;
    using I = typename Types::I;
    using V = typename Types::V;
    using Offsets = typename Types::Offsets;
    const std::ptrdiff_t blocks = (shape.channels - 1) / max_pool_channels + 1;
    const std::ptrdiff_t block = smaller<Isa>(shape.channels, max_pool_channels);
    const std::ptrdiff_t row_offset = shape.dilation_h * shape.width;
    const auto pool_pixel = [&](std::ptrdiff_t n, std::ptrdiff_t oy, std::ptrdiff_t ox,
                                std::ptrdiff_t first_channel, std::ptrdiff_t count) {
        const std::ptrdiff_t start_h = oy * shape.stride_h - shape.pad_h;
        const std::ptrdiff_t start_w = ox * shape.stride_w - shape.pad_w;
        const Taps rows =
            taps_inside<Isa>(start_h, shape.kernel_h, shape.dilation_h, shape.height);
        const Taps cols = taps_inside<Isa>(start_w, shape.kernel_w, shape.dilation_w, shape.width);
        const std::ptrdiff_t window =
            n * stride.n + start_h * stride.h + start_w * stride.w + first_channel;
        const std::ptrdiff_t first = rows.first * row_offset + cols.first * shape.dilation_w;
        const std::ptrdiff_t out =
            ((n * shape.out_h + oy) * shape.out_w + ox) * shape.channels + first_channel;
        for_each_vec<Isa, V::size>(count, [&](std::ptrdiff_t c, auto lanes)
                                              [[gnu::always_inline]] {
            const MaxPoolState<Isa, T> best = max_of_taps<Isa, T, with_indices>(
                {V::splat(Types::lowest()), Offsets::splat(static_cast<I>(first))},
                [&](auto&& body) [[gnu::always_inline]] {
                    for (std::ptrdiff_t r = rows.first; r < rows.end; ++r) {
                        const std::ptrdiff_t at = window + r * shape.dilation_h * stride.h + c;
                        for (std::ptrdiff_t s = cols.first; s < cols.end; ++s)
                            body(Types::load_elements(x + at + s * shape.dilation_w * stride.w,
                                                      lanes),
                                 r * row_offset + s * shape.dilation_w);
                    }
                });
            Types::store_elements(y + out + c, best.value, lanes);
            if constexpr (with_indices)
                store_indices<Isa>(indices + out + c, best.offset,
                                   start_h * shape.width + start_w, 0, lanes);
        });
    };
    for_row_blocks<Isa>(
        shape.batch, shape.out_h, blocks,
        shape.out_w * (shape.kernel_h * shape.kernel_w * block + 64), [&](RowRange<Isa> range) {
            while (range.next_plane())
                for (std::ptrdiff_t b = range.first; b < range.last; ++b)
                    for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox)
                        pool_pixel(range.outer, range.inner, ox, b * max_pool_channels,
                                   smaller<Isa>(shape.channels - b * max_pool_channels,
                                                max_pool_channels));
        });
}

// `indices` may be nullptr: not wanted.
template <class Isa, class T>
void max_pool2d(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                const ImageStrides& stride) {
    if (shape.channels_last) {
        indices ? max_pool_channels_last<Isa, T, true>(shape, y, indices, x, stride)
                : max_pool_channels_last<Isa, T, false>(shape, y, indices, x, stride);
    } else if (shape.stride_w == 1) {
        max_pool_planes<Isa, 1>(shape, y, indices, x, stride);
    } else if (shape.stride_w == 2) {
        max_pool_planes<Isa, 2>(shape, y, indices, x, stride);
    } else {
        max_pool_planes<Isa, 0>(shape, y, indices, x, stride);
    }
}

// The smallest position that any task reports, -1 for none.
template <class Isa>
struct FirstPosition {
    std::ptrdiff_t position = -1;

    void report(std::ptrdiff_t found) {
        std::ptrdiff_t seen = __atomic_load_n(&position, __ATOMIC_RELAXED);
        while ((seen < 0 || found < seen) &&
               !__atomic_compare_exchange_n(&position, &seen, found, true, __ATOMIC_RELAXED,
                                            __ATOMIC_RELAXED)) {
        }
    }
};

// sums[index[i] * pitch + i * step] += grad[i] for i in [0, count). An index is compared before it is
// used, so a wrong one writes nowhere; report(i) is told.
template <class Isa, class T, class Report>
[[gnu::always_inline]] inline void scatter_line(Compute<T>* sums, std::ptrdiff_t plane_size,
                                                std::ptrdiff_t pitch, std::ptrdiff_t step,
                                                std::ptrdiff_t count, const T* grad,
                                                std::ptrdiff_t grad_step,
                                                const std::int64_t* index,
                                                std::ptrdiff_t index_step, const Report& report) {
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        const std::int64_t at = index[i * index_step];
        if (static_cast<std::uint64_t>(at) >= static_cast<std::uint64_t>(plane_size)) [[unlikely]] {
            report(i);
            continue;
        }
        sums[at * pitch + i * step] += MaxPoolTypes<Isa, T>::value_of(grad + i * grad_step);
    }
}

// Adds plane by plane. The scatter goes to `sums`: the plane of the result itself, or a float32 copy
// of it.
template <class Isa, Storage T>
void scatter_planes(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                    const ImageStrides& grad_stride, const std::int64_t* indices,
                    const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    for_row_blocks<Isa>(
        shape.batch, shape.channels, 1, 2 * plane_size + 8 * shape.out_h * shape.out_w,
        [&](RowRange<Isa> range) {
            C* sums = nullptr;
            if constexpr (!std::is_same_v<T, C>)
                sums = static_cast<C*>(
                    thread_scratch(static_cast<std::size_t>(plane_size) * sizeof(C)));
            while (range.next_plane()) {
                const std::ptrdiff_t plane = range.plane();
                if constexpr (std::is_same_v<T, C>) sums = grad_x + plane * plane_size;
                for_each_vec<Isa, V::size>(plane_size, [&](std::ptrdiff_t i, auto lanes) {
                    store_vec<Isa>(sums + i, V::zero(), lanes);
                });
                const std::ptrdiff_t n = range.outer;
                const std::ptrdiff_t c = range.inner;
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy) {
                    const T* g = grad_y + n * grad_stride.n + c * grad_stride.c + oy * grad_stride.h;
                    const std::int64_t* index = indices + n * index_stride.n + c * index_stride.c +
                                                oy * index_stride.h;
                    const auto report = [&](std::ptrdiff_t ox) {
                        outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                    };
                    if (grad_stride.w == 1 && index_stride.w == 1) {
                        scatter_line<Isa>(sums, plane_size, 1, 0, shape.out_w, g, 1, index, 1,
                                          report);
                    } else {
                        scatter_line<Isa>(sums, plane_size, 1, 0, shape.out_w, g, grad_stride.w,
                                          index, index_stride.w, report);
                    }
                }
                if constexpr (!std::is_same_v<T, C>) {
                    for_each_vec<Isa, V::size>(plane_size, [&](std::ptrdiff_t i, auto lanes) {
                        store<Isa>(grad_x + plane * plane_size + i, load<Isa>(sums + i, lanes),
                                   lanes);
                    });
                }
            }
        });
}

// Channels of a task: cache lines of grad_y are shared by no two tasks, and the float32 copy of a
// narrow result stays small.
template <class T>
constexpr std::ptrdiff_t scatter_channels = sizeof(T) == 2 ? 8 : 64;

template <class Isa, Storage T>
void scatter_channels_last(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                           const ImageStrides& grad_stride, const std::int64_t* indices,
                           const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr bool direct = std::is_same_v<T, C>;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    const std::ptrdiff_t blocks = (shape.channels - 1) / scatter_channels<T> + 1;
    for_row_blocks<Isa>(
        shape.batch, blocks, 1,
        (2 * plane_size + 8 * shape.out_h * shape.out_w) *
            smaller<Isa>(shape.channels, scatter_channels<T>),
        [&](RowRange<Isa> range) {
            while (range.next_plane()) {
                const std::ptrdiff_t n = range.outer;
                const std::ptrdiff_t first = range.inner * scatter_channels<T>;
                const std::ptrdiff_t count =
                    smaller<Isa>(shape.channels - first, scatter_channels<T>);
                T* result = grad_x + n * plane_size * shape.channels + first;
                const std::ptrdiff_t pitch = direct ? shape.channels : count;
                C* sums;
                if constexpr (direct) {
                    sums = result;
                } else {
                    sums = static_cast<C*>(thread_scratch(
                        static_cast<std::size_t>(plane_size * count) * sizeof(C)));
                }
                for (std::ptrdiff_t pixel = 0; pixel < plane_size; ++pixel)
                    for_each_vec<Isa, V::size>(count, [&](std::ptrdiff_t i, auto lanes) {
                        store_vec<Isa>(sums + pixel * pitch + i, V::zero(), lanes);
                    });
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy)
                    for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox) {
                        const T* g = grad_y + n * grad_stride.n + oy * grad_stride.h +
                                     ox * grad_stride.w + first;
                        const std::int64_t* index = indices + n * index_stride.n +
                                                    oy * index_stride.h + ox * index_stride.w +
                                                    first * index_stride.c;
                        const auto report = [&](std::ptrdiff_t c) {
                            const std::ptrdiff_t plane = n * shape.channels + first + c;
                            outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                        };
                        if (index_stride.c == 1) {
                            scatter_line<Isa>(sums, plane_size, pitch, 1, count, g, 1, index, 1,
                                              report);
                        } else {
                            scatter_line<Isa>(sums, plane_size, pitch, 1, count, g, 1, index,
                                              index_stride.c, report);
                        }
                    }
                if constexpr (!direct) {
                    for (std::ptrdiff_t pixel = 0; pixel < plane_size; ++pixel)
                        for_each_vec<Isa, V::size>(count, [&](std::ptrdiff_t i, auto lanes) {
                            store<Isa>(result + pixel * shape.channels + i,
                                       load<Isa>(sums + pixel * pitch + i, lanes), lanes);
                        });
                }
            }
        });
}

template <class Isa, Storage T>
std::ptrdiff_t max_pool2d_backward(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                                   const ImageStrides& grad_stride, const std::int64_t* indices,
                                   const ImageStrides& index_stride) {
    FirstPosition<Isa> outside;
    if (shape.channels_last) {
        scatter_channels_last<Isa>(shape, grad_x, grad_y, grad_stride, indices, index_stride,
                                   outside);
    } else {
        scatter_planes<Isa>(shape, grad_x, grad_y, grad_stride, indices, index_stride, outside);
    }
    return outside.position;
}

}  // namespace stableops
