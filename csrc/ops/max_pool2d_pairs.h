#pragma once
// Rows of max_pool2d without indices whose windows are three columns wide and two apart, and at
// most three rows high: even and odd columns are parted in registers, where max_pool2d_planes.h
// would lay rows out first. (Windows that do not overlap are as fast there, and read memory in its
// order.)
#include "../pool2d_shape.h"
#include "max_pool2d_taps.h"

namespace stableops {

// Window ox has the columns 2 ox + first and the two behind it.
template <class C>
struct MaxPoolPairs {
    static constexpr int most = 3;
    const C* row[most];
    std::ptrdiff_t width, first, count;
    C* y;
};

// The definition.
template <class Isa, class C>
[[gnu::noinline]] void max_pool_pairs_with_nan(const MaxPoolPairs<C>& in, int rows) {
    for (std::ptrdiff_t ox = 0; ox < in.count; ++ox) {
        C best = MaxPoolTypes<Isa, C>::lowest();
        for (int r = 0; r < rows; ++r)
            for (int s = 0; s < 3; ++s) {
                const std::ptrdiff_t column = 2 * ox + in.first + s;
                if (column < 0 || column >= in.width) continue;
                const C tap = in.row[r][column];
                if (tap > best || (tap != tap && best == best)) best = tap;
            }
        in.y[ox] = best;
    }
}

template <class Isa, class C, int rows>
[[gnu::noinline]] void max_pool_pairs(const MaxPoolPairs<C>& in) {
    using Types = MaxPoolTypes<Isa, C>;
    using V = typename Types::V;
    constexpr int size = V::size;
    constexpr int ahead = 4096;  // bytes: 1.8 -> 1.4 ms for 8 x 64 planes of 112 x 112 (Zen 4)
    const V lowest = V::splat(Types::lowest());
    // The middle columns are the even lanes from here on.
    const std::ptrdiff_t base = in.first + 1;
    V before[rows];  // its last lane is the column before
    for (int r = 0; r < rows; ++r) before[r] = base > 0 ? V::splat(in.row[r][base - 1]) : lowest;

    V sum = V::zero();
    const auto pool = [&](std::ptrdiff_t ox, auto load_pair, auto lanes)
                          __attribute__((always_inline)) {
                              V best = lowest;
#pragma GCC unroll 3
                              for (int r = 0; r < rows; ++r) {
                                  const C* const from = in.row[r] + base + 2 * ox;
                                  V low, high;
                                  load_pair(from, low, high);
                                  const V even = even_lanes(low, high), odd = odd_lanes(low, high);
                                  const V left = shifted_in(before[r], odd);
                                  before[r] = odd;
                                  const V row_best = max(odd, max(even, left));
                                  sum += left + even + odd;
                                  best = r == 0 ? row_best : max(row_best, best);
                              }
                              store_elements<Isa>(in.y + ox, best, lanes);
                          };
    typename Types::I lane_index[size];
    for (int i = 0; i < size; ++i) lane_index[i] = i;
    const Mask<Isa, C> lane = loadu<Isa>(lane_index);
    std::ptrdiff_t ox = 0;
    for (; ox + size <= in.count && base + 2 * (ox + size) <= in.width; ox += size)
        pool(
            ox,
            [](const C* from, V& low, V& high) __attribute__((always_inline)) {
                low = loadu<Isa>(from);
                high = loadu<Isa>(from + size);
                for (int line = 0; line < 2 * Isa::bytes; line += 64)
                    __builtin_prefetch(reinterpret_cast<const char*>(from) + ahead + line);
            },
            AllLanes{});
    for (; ox < in.count; ox += size) {
        const std::ptrdiff_t left = larger<Isa>(0, in.width - base - 2 * ox);
        const int in_low = static_cast<int>(smaller<Isa>(left, size));
        const int in_high = static_cast<int>(smaller<Isa>(left - in_low, size));
        const Mask<Isa, C> low_here = lane < Mask<Isa, C>::splat(in_low);
        const Mask<Isa, C> high_here = lane < Mask<Isa, C>::splat(in_high);
        pool(
            ox,
            [&](const C* from, V& low, V& high) __attribute__((always_inline)) {
                low = select(low_here, load_first<Isa>(from, in_low), lowest);
                high = select(high_here, load_first<Isa>(from + size, in_high), lowest);
            },
            FirstLanes{static_cast<int>(smaller<Isa>(in.count - ox, size))});
    }
    if constexpr (Types::has_nan) {
        if (any(is_nan(sum))) [[unlikely]]
            max_pool_pairs_with_nan<Isa>(in, rows);
    }
}

// `rows` from 1 to 3.
template <class Isa, class C>
void max_pool_pairs(const MaxPoolPairs<C>& in, std::ptrdiff_t rows) {
    rows == 3   ? max_pool_pairs<Isa, C, 3>(in)
    : rows == 2 ? max_pool_pairs<Isa, C, 2>(in)
                : max_pool_pairs<Isa, C, 1>(in);
}

}  // namespace stableops
