#pragma once
// The search of max_pool2d.h: vectors of taps, and the first of the largest.
#include "pool2d_rows.h"

namespace stableops {

template <class Isa, class T>
struct MaxPoolTypes {
    using C = typename PoolElement<T>::type;
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
};

template <class Isa, class T>
struct MaxPoolState {
    typename MaxPoolTypes<Isa, T>::V value;
    typename MaxPoolTypes<Isa, T>::Offsets offset;
};

// Numbers only: a NaN tap is never taken and a NaN maximum stands. The sum of all taps is NaN if
// any of them is; it may also be NaN for infinities, which costs the caller a second look, no more.
template <class Isa, class T, bool with_indices>
[[gnu::always_inline]] inline void take_number(MaxPoolState<Isa, T>& best,
                                               typename MaxPoolTypes<Isa, T>::V& sum,
                                               typename MaxPoolTypes<Isa, T>::V tap,
                                               std::ptrdiff_t offset) {
    using Types = MaxPoolTypes<Isa, T>;
    if constexpr (with_indices) {
        using I = typename Types::I;
        best.offset =
            select(tap > best.value, Types::Offsets::splat(static_cast<I>(offset)), best.offset);
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
        best.offset = select(wins, Types::Offsets::splat(static_cast<I>(offset)), best.offset);
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
    each_tap([&](V tap, std::ptrdiff_t offset) __attribute__((always_inline)) {
        take_number<Isa, T, with_indices>(best, sum, tap, offset);
    });
    if constexpr (MaxPoolTypes<Isa, T>::has_nan) {
        if (any(is_nan(sum))) [[unlikely]]
            return max_with_nan<Isa, T, with_indices>(start, each_tap);
    }
    return best;
}

// indices[lane] = base + offset[lane].
template <class Isa, class I, class Lanes>
[[gnu::always_inline]] inline void store_indices(std::int64_t* indices, Vec<Isa, I> offset,
                                                 std::ptrdiff_t base, Lanes lanes) {
    using Index = Vec<Isa, std::int64_t>;
    constexpr int half = Index::size;
    const Index start = Index::splat(base);
    if constexpr (sizeof(I) == 8) {
        store_elements<Isa>(indices, start + offset, lanes);
    } else if constexpr (std::is_same_v<Lanes, AllLanes>) {
        storeu(indices, start + widen_low(offset));
        storeu(indices + half, start + widen_high(offset));
    } else {
        const int count = lanes.count;
        store_first(indices, start + widen_low(offset), count < half ? count : half);
        if (count > half) store_first(indices + half, start + widen_high(offset), count - half);
    }
}

}  // namespace stableops
