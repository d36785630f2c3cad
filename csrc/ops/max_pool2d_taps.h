#pragma once
// The search of max_pool2d.h: vectors of taps, and the first of the largest.
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

}  // namespace stableops
