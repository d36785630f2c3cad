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
// Vectors run over neighbouring outputs of a row, or over channels where these are contiguous.
// Offsets of taps are carried relative to their window, in integers of the element's width.
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

// Some rows of windows whose first columns are column 0 of `row`.
template <class T>
struct MaxPoolRows {
    static constexpr int most = 8;
    const T* row[most];
    int rows;
    std::ptrdiff_t first_offset, row_offset;  // of the taps, relative to their window
    std::ptrdiff_t kernel_w, dilation_w, stride_w;
};

// body(values, offset) for each tap of the windows at columns ox, ox + 1 ... in row-major order.
// `step` is the stride of the windows where it is known, else 0.
template <class Isa, int step, class T, class Lanes, class Body>
[[gnu::always_inline]] inline void for_each_tap(const MaxPoolRows<T>& taps, std::ptrdiff_t ox,
                                                Lanes lanes, Body&& body) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    constexpr int size = V::size;
    for (int r = 0; r < taps.rows; ++r) {
        const T* p = taps.row[r] + ox * (step > 0 ? step : taps.stride_w);
        std::ptrdiff_t offset = taps.first_offset + r * taps.row_offset;
        if constexpr (step == 1) {
            for (std::ptrdiff_t s = 0; s < taps.kernel_w; ++s, offset += taps.dilation_w)
                body(Types::load_elements(p + s * taps.dilation_w, lanes), offset);
        } else if constexpr (step == 2) {
            std::ptrdiff_t s = 0;
            if (taps.dilation_w == 1) {
                for (; s + 1 < taps.kernel_w; s += 2, offset += 2) {
                    V low, high;
                    if constexpr (std::is_same_v<Lanes, AllLanes>) {
                        low = Types::load_elements(p + s, lanes);
                        high = Types::load_elements(p + s + size, lanes);
                    } else {
                        int count = 2 * lanes.count;
                        low = Types::load_elements(p + s, FirstLanes{count < size ? count : size});
                        high = count <= size ? low
                                             : Types::load_elements(p + s + size,
                                                                    FirstLanes{count - size});
                    }
                    body(even_lanes(low, high), offset);
                    body(odd_lanes(low, high), offset + 1);
                }
            }
            for (; s < taps.kernel_w; ++s, offset += taps.dilation_w) {
                const T* q = p + s * taps.dilation_w;
                if constexpr (std::is_same_v<Lanes, AllLanes>) {
                    body(even_lanes_overlapping(Types::load_elements(q, lanes),
                                                Types::load_elements(q + size - 1, lanes)),
                         offset);
                } else {
                    int count = 2 * lanes.count - 1;
                    V low = Types::load_elements(q, FirstLanes{count < size ? count : size});
                    V high = count <= size
                                 ? low
                                 : Types::load_elements(q + size, FirstLanes{count - size});
                    body(even_lanes(low, high), offset);
                }
            }
        } else {
            int count = size;
            if constexpr (std::is_same_v<Lanes, FirstLanes>) count = lanes.count;
            for (std::ptrdiff_t s = 0; s < taps.kernel_w; ++s, offset += taps.dilation_w) {
                T element[size] = {};
                const T* q = p + s * taps.dilation_w;
                for (int lane = 0; lane < count; ++lane) element[lane] = q[lane * taps.stride_w];
                body(Types::load_elements(element, AllLanes{}), offset);
            }
        }
    }
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

// What one row of outputs is made of, beside its taps.
template <class Isa, class T>
struct MaxPoolOutputRow {
    T* y;
    std::int64_t* indices;
    std::ptrdiff_t base;                                    // index of tap (0, 0) of window 0
    const typename MaxPoolTypes<Isa, T>::I* first_column;  // offset of the first tap inside
    typename MaxPoolTypes<Isa, T>::I* offsets;             // the state between two groups of rows
    std::ptrdiff_t first_row;
    bool starts, ends;
};

template <class Isa, class T, int step, bool with_indices>
void max_pool_row(const MaxPoolOutputRow<Isa, T>& out, const MaxPoolRows<T>& taps,
                  std::ptrdiff_t out_w) {
    using Types = MaxPoolTypes<Isa, T>;
    using V = typename Types::V;
    using Offsets = typename Types::Offsets;
    for_each_vec<Isa, V::size>(out_w, [&](std::ptrdiff_t ox, auto lanes) [[gnu::always_inline]] {
        MaxPoolState<Isa, T> start = {V::splat(Types::lowest()), Offsets::zero()};
        if (!out.starts) start.value = Types::load_elements(out.y + ox, lanes);
        if constexpr (with_indices) {
            using I = typename Types::I;
            start.offset = out.starts ? load_vec<Isa>(out.first_column + ox, lanes) +
                                            Offsets::splat(static_cast<I>(out.first_row))
                                      : load_vec<Isa>(out.offsets + ox, lanes);
        }
        MaxPoolState<Isa, T> best = max_of_taps<Isa, T, with_indices>(
            start, [&](auto&& body) [[gnu::always_inline]] {
                for_each_tap<Isa, step>(taps, ox, lanes, body);
            });
        Types::store_elements(out.y + ox, best.value, lanes);
        if constexpr (with_indices) {
            if (out.ends) {
                store_indices<Isa>(out.indices + ox, best.offset, out.base + ox * taps.stride_w,
                                   taps.stride_w, lanes);
            } else {
                store_vec<Isa>(out.offsets + ox, best.offset, lanes);
            }
        }
    });
}

template <class Isa, class T, bool with_indices>
void max_pool_planes(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                     const ImageStrides& stride) {
    using Types = MaxPoolTypes<Isa, T>;
    using I = typename Types::I;
    const std::ptrdiff_t left = shape.pad_w;
    const std::ptrdiff_t right = (shape.out_w - 1) * shape.stride_w - shape.pad_w +
                                 (shape.kernel_w - 1) * shape.dilation_w + 1;
    const std::ptrdiff_t row_offset = shape.dilation_h * shape.width;
    // Rows that overlap with the next window's stay in the ring; windows taller than that, or
    // with wider gaps, copy their rows in groups.
    using Ring = RowRing<Isa, T>;
    const bool reuse = (smaller<Isa>(shape.kernel_h, MaxPoolRows<T>::most) - 1) * shape.dilation_h <
                       Ring::slots;
    const std::ptrdiff_t taps_per_row = shape.out_w * shape.kernel_h * shape.kernel_w;
    for_row_blocks<Isa>(
        shape.batch * shape.channels * shape.out_h, taps_per_row,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            Ring ring;
            ring.left = left;
            ring.width = shape.width;
            ring.right = larger<Isa>(right, shape.width);
            ring.stride_h = stride.h;
            ring.stride_w = stride.w;
            const std::size_t line =
                ScratchParts<Isa>::aligned(static_cast<std::size_t>(shape.out_w) * sizeof(I));
            ScratchParts<Isa> parts{static_cast<char*>(
                thread_scratch(Ring::scratch_size(ring.left, ring.right) + 2 * line))};
            ring.use_scratch(parts);
            ring.set_padding(Types::lowest_element());
            I* first_column = parts.template take<I>(shape.out_w);
            for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox) {
                Taps taps = taps_inside<Isa>(ox * shape.stride_w - shape.pad_w, shape.kernel_w,
                                             shape.dilation_w, shape.width);
                first_column[ox] = static_cast<I>(taps.first * shape.dilation_w);
            }
            MaxPoolRows<T> taps = {};
            taps.row_offset = row_offset;
            taps.kernel_w = shape.kernel_w;
            taps.dilation_w = shape.dilation_w;
            taps.stride_w = shape.stride_w;
            MaxPoolOutputRow<Isa, T> out = {};
            out.first_column = first_column;
            out.offsets = parts.template take<I>(shape.out_w);

            std::ptrdiff_t held = -1;
            for (std::ptrdiff_t row = begin; row < end; ++row) {
                const std::ptrdiff_t plane = row / shape.out_h;
                const std::ptrdiff_t oy = row % shape.out_h;
                if (plane != held) {
                    held = plane;
                    ring.set_plane(x + plane / shape.channels * stride.n +
                                   plane % shape.channels * stride.c);
                }
                const std::ptrdiff_t start = oy * shape.stride_h - shape.pad_h;
                const Taps rows =
                    taps_inside<Isa>(start, shape.kernel_h, shape.dilation_h, shape.height);
                out.y = y + row * shape.out_w;
                out.indices = with_indices ? indices + row * shape.out_w : nullptr;
                out.base = start * shape.width - shape.pad_w;
                out.first_row = rows.first * row_offset;
                for (std::ptrdiff_t r = rows.first; r < rows.end; r += MaxPoolRows<T>::most) {
                    out.starts = r == rows.first;
                    out.ends = rows.end - r <= MaxPoolRows<T>::most;
                    taps.rows =
                        static_cast<int>(smaller<Isa>(rows.end - r, MaxPoolRows<T>::most));
                    taps.first_offset = r * row_offset;
                    for (int k = 0; k < taps.rows; ++k) {
                        const std::ptrdiff_t h = start + (r + k) * shape.dilation_h;
                        taps.row[k] = reuse ? ring.row(h) : ring.row_in_slot(h, k);
                    }
                    if (shape.stride_w == 1) {
                        max_pool_row<Isa, T, 1, with_indices>(out, taps, shape.out_w);
                    } else if (shape.stride_w == 2) {
                        max_pool_row<Isa, T, 2, with_indices>(out, taps, shape.out_w);
                    } else {
                        max_pool_row<Isa, T, 0, with_indices>(out, taps, shape.out_w);
                    }
                }
            }
        });
}

template <class Isa, class T, bool with_indices>
void max_pool_channels_last(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                            const ImageStrides& stride) {
    using Types = MaxPoolTypes<Isa, T>;
    using I = typename Types::I;
    using V = typename Types::V;
    using Offsets = typename Types::Offsets;
    const std::ptrdiff_t taps_per_row =
        shape.out_w * shape.kernel_h * shape.kernel_w * shape.channels;
    for_row_blocks<Isa>(
        shape.batch * shape.out_h, taps_per_row, [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            for (std::ptrdiff_t pixel = begin * shape.out_w; pixel < end * shape.out_w; ++pixel) {
                const std::ptrdiff_t row = pixel / shape.out_w;
                const std::ptrdiff_t start_h = row % shape.out_h * shape.stride_h - shape.pad_h;
                const std::ptrdiff_t start_w = pixel % shape.out_w * shape.stride_w - shape.pad_w;
                const Taps rows =
                    taps_inside<Isa>(start_h, shape.kernel_h, shape.dilation_h, shape.height);
                const Taps cols =
                    taps_inside<Isa>(start_w, shape.kernel_w, shape.dilation_w, shape.width);
                const std::ptrdiff_t window =
                    row / shape.out_h * stride.n + start_h * stride.h + start_w * stride.w;
                const std::ptrdiff_t row_offset = shape.dilation_h * shape.width;
                const std::ptrdiff_t first =
                    rows.first * row_offset + cols.first * shape.dilation_w;
                for_each_vec<Isa, V::size>(
                    shape.channels, [&](std::ptrdiff_t c, auto lanes) [[gnu::always_inline]] {
                        MaxPoolState<Isa, T> best = max_of_taps<Isa, T, with_indices>(
                            {V::splat(Types::lowest()), Offsets::splat(static_cast<I>(first))},
                            [&](auto&& body) [[gnu::always_inline]] {
                                for (std::ptrdiff_t r = rows.first; r < rows.end; ++r) {
                                    const std::ptrdiff_t at = window + r * shape.dilation_h * stride.h + c;
                                    for (std::ptrdiff_t s = cols.first; s < cols.end; ++s)
                                        body(Types::load_elements(
                                                 x + at + s * shape.dilation_w * stride.w, lanes),
                                             r * row_offset + s * shape.dilation_w);
                                }
                            });
                        const std::ptrdiff_t at = pixel * shape.channels + c;
                        Types::store_elements(y + at, best.value, lanes);
                        if constexpr (with_indices)
                            store_indices<Isa>(indices + at, best.offset,
                                               start_h * shape.width + start_w, 0, lanes);
                    });
            }
        });
}

// `indices` may be nullptr: not wanted.
template <class Isa, class T>
void max_pool2d(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                const ImageStrides& stride) {
    if (shape.channels_last) {
        indices ? max_pool_channels_last<Isa, T, true>(shape, y, indices, x, stride)
                : max_pool_channels_last<Isa, T, false>(shape, y, indices, x, stride);
    } else {
        indices ? max_pool_planes<Isa, T, true>(shape, y, indices, x, stride)
                : max_pool_planes<Isa, T, false>(shape, y, indices, x, stride);
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

template <class Isa, class T>
[[gnu::always_inline]] inline Compute<T> element(const T* p) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        return *p;
    } else {
        return load<Isa>(p, FirstLanes{1})[0];
    }
}

// Adds plane by plane. The scatter goes to `sums`: the plane of the result itself, or a float32 copy
// of it. An index is compared before it is used, so a wrong one writes nowhere.
template <class Isa, Storage T>
void scatter_planes(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                    const ImageStrides& grad_stride, const std::int64_t* indices,
                    const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    for_row_blocks<Isa>(
        shape.batch * shape.channels, 2 * plane_size + 8 * shape.out_h * shape.out_w,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            C* sums = nullptr;
            if constexpr (!std::is_same_v<T, C>)
                sums = static_cast<C*>(
                    thread_scratch(static_cast<std::size_t>(plane_size) * sizeof(C)));
            for (std::ptrdiff_t plane = begin; plane < end; ++plane) {
                if constexpr (std::is_same_v<T, C>) sums = grad_x + plane * plane_size;
                for_each_vec<Isa, V::size>(plane_size, [&](std::ptrdiff_t i, auto lanes) {
                    store_vec<Isa>(sums + i, V::zero(), lanes);
                });
                const std::ptrdiff_t n = plane / shape.channels;
                const std::ptrdiff_t c = plane % shape.channels;
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy) {
                    const T* g = grad_y + n * grad_stride.n + c * grad_stride.c + oy * grad_stride.h;
                    const std::int64_t* index = indices + n * index_stride.n + c * index_stride.c +
                                                oy * index_stride.h;
                    for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox) {
                        const std::int64_t at = index[ox * index_stride.w];
                        if (static_cast<std::uint64_t>(at) >=
                            static_cast<std::uint64_t>(plane_size)) [[unlikely]] {
                            outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                            continue;
                        }
                        sums[at] += element<Isa>(g + ox * grad_stride.w);
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
constexpr std::ptrdiff_t scatter_channels = sizeof(T) == 2 ? 8 : 32;

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
        shape.batch * blocks,
        (2 * plane_size + 8 * shape.out_h * shape.out_w) *
            smaller<Isa>(shape.channels, scatter_channels<T>),
        [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            for (std::ptrdiff_t unit = begin; unit < end; ++unit) {
                const std::ptrdiff_t n = unit / blocks;
                const std::ptrdiff_t first = unit % blocks * scatter_channels<T>;
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
                for (std::ptrdiff_t pixel = 0; pixel < shape.out_h * shape.out_w; ++pixel) {
                    const std::ptrdiff_t oy = pixel / shape.out_w;
                    const std::ptrdiff_t ox = pixel % shape.out_w;
                    const T* g = grad_y + n * grad_stride.n + oy * grad_stride.h +
                                 ox * grad_stride.w + first;
                    const std::int64_t* index = indices + n * index_stride.n +
                                                oy * index_stride.h + ox * index_stride.w +
                                                first * index_stride.c;
                    for (std::ptrdiff_t c = 0; c < count; ++c) {
                        const std::int64_t at = index[c * index_stride.c];
                        if (static_cast<std::uint64_t>(at) >=
                            static_cast<std::uint64_t>(plane_size)) [[unlikely]] {
                            outside.report(
                                (n * shape.channels + first + c) * shape.out_h * shape.out_w +
                                pixel);
                            continue;
                        }
                        sums[at * pitch + c] += element<Isa>(g + c);
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
