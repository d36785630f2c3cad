#pragma once
// The fixed order of every sum over a row, and the two ways of walking over rows that honour it.
//
// A row is cut into blocks of `sum_block` columns. In a block, 16 logical lanes of float64: lane j
// adds the block's columns j, j + 16, j + 32, ... in that order; then lane j absorbs lane j + 8,
// and so on with 4, 2 and 1. The blocks' values are combined in order of the blocks. Nothing of
// this depends on the width of a register, on the thread, or on the other rows, so neither do the
// bits.
//
//   Along<Isa, C>   one row that is contiguous: a register holds neighbouring columns, so the 16
//                   lanes are 16 / size registers. For long rows.
//   Across<Isa, C>  as many rows at once as a register has lanes, stored [column][row]: a register
//                   holds one column of these rows, so the 16 lanes are 16 registers. For short
//                   rows and for rows that run across memory. (Float32 is stored as many rows wide
//                   as a register has float32 lanes, and worked on by halves in float64.)
//
// Why float64 lanes: a term of a float32 sum enters exactly, and the error of n additions in 16
// lanes, at most (n / 16 + 4) 2^-53 of the sum for a block, is far below float32's 2^-24 for every
// n that fits in memory. Float64 sums are compensated (Pair): each addition's rounding error is
// found by TwoSum and summed beside it (Ogita, Rump & Oishi 2005), which leaves 2^-105 n^2 where
// the terms have one sign.
#include "math.h"
#include "vec.h"

namespace stableops {

constexpr int sum_lanes = 16;
constexpr std::ptrdiff_t sum_block = 8192;

// Lane j of the result is lane (j + by) mod size.
template <int by, class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> rotate(Vec<Isa, double> v) {
    if constexpr (Vec<Isa, double>::size == 8) {
        return {__builtin_shufflevector(v.raw, v.raw, by, by + 1, by + 2, by + 3, by + 4, by + 5,
                                        by + 6, by + 7)};
    } else if constexpr (Vec<Isa, double>::size == 4) {
        return {__builtin_shufflevector(v.raw, v.raw, by, by + 1, by + 2, by + 3)};
    } else {
        return {__builtin_shufflevector(v.raw, v.raw, by, by + 1)};
    }
}
template <int by, class Isa>
[[gnu::always_inline]] inline Pair<Isa> rotate(Pair<Isa> v) {
    return {rotate<by>(v.hi), rotate<by>(v.lo)};
}

// What a lane does with a term, and with the sum of another lane or block. The compensated sum is
// normalised only where it is used.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> plus(Vec<Isa, double> a, Vec<Isa, double> b) {
    return a + b;
}
template <class Isa>
[[gnu::always_inline]] inline Pair<Isa> plus(Pair<Isa> a, Pair<Isa> b) {
    Pair<Isa> s = two_sum(a.hi, b.hi);
    return {s.hi, s.lo + (a.lo + b.lo)};
}

struct Plus {
    template <class Sum>
    [[gnu::always_inline]] inline Sum operator()(Sum a, Sum b) const {
        return plus(a, b);
    }
};

// The larger; NaN is passed over, for the sums see it.
struct Larger {
    template <class D>
    [[gnu::always_inline]] inline D operator()(D a, D b) const {
        return max(a, b);
    }
};

// A column operand: where its elements are, and what stands in for those beyond the end.
template <class C>
struct Column {
    const C* data;
    double beyond;
};

// As many elements as there are lanes, as double.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> load_lanes(const double* p) {
    return loadu<Isa>(p);
}
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> load_lanes(const float* p) {
    return load_widened<Isa>(p);
}
template <class Isa>
[[gnu::always_inline]] inline void store_lanes(double* p, Vec<Isa, double> v) {
    storeu(p, v);
}
template <class Isa>
[[gnu::always_inline]] inline void store_lanes(float* p, Vec<Isa, double> v) {
    store_narrowed(p, v);
}

template <class Isa, class C>
struct Along {
    using D = Vec<Isa, double>;
    static constexpr int lanes = D::size;
    static constexpr int slots = sum_lanes / lanes;
    static constexpr int rows = 1;

    // The columns in a register that begins at `column`, as double.
    [[gnu::always_inline]] static inline D columns(std::ptrdiff_t column) {
        return lane_numbers<Isa>() + D::splat(static_cast<double>(column));
    }

    // body(slot, column, values...) for every register of every operand.
    template <class Body, class... In>
    [[gnu::always_inline]] static inline void each(std::ptrdiff_t n, const Body& body, In... in) {
        std::ptrdiff_t i = 0;
        for (; i + sum_lanes <= n; i += sum_lanes) {
#pragma GCC unroll 8
            for (int s = 0; s < slots; ++s)
                body(s, i + s * lanes, load_lanes<Isa>(in.data + i + s * lanes)...);
        }
        if (i == n) return;
#pragma GCC unroll 8
        for (int s = 0; s < slots; ++s) {
            std::ptrdiff_t column = i + s * lanes;
            if (column < n) body(s, column, load_rest(in, column, n)...);
        }
    }

    // out[column] = body(column, values...).
    template <class Body, class... In>
    [[gnu::always_inline]] static inline void map(std::ptrdiff_t n, C* out, const Body& body,
                                                  In... in) {
        std::ptrdiff_t i = 0;
        for (; i + sum_lanes <= n; i += sum_lanes) {
#pragma GCC unroll 8
            for (int s = 0; s < slots; ++s)
                store_lanes(out + i + s * lanes,
                            body(i + s * lanes, load_lanes<Isa>(in.data + i + s * lanes)...));
        }
        for (; i < n; i += lanes) {
            C rest[lanes];
            store_lanes(rest, body(i, load_rest(in, i, n)...));
            for (int j = 0; j < lanes && i + j < n; ++j) out[i + j] = rest[j];
        }
    }

    // The value of a row, in every lane: all operations used here are commutative.
    template <class Merge, class Sum>
    [[gnu::always_inline]] static inline Sum fold(Sum (&lane)[slots], Merge merge) {
#pragma GCC unroll 4
        for (int apart = slots / 2; apart >= 1; apart /= 2)
#pragma GCC unroll 8
            for (int s = 0; s < apart; ++s) lane[s] = merge(lane[s], lane[s + apart]);
        Sum sum = lane[0];
        if constexpr (lanes == 8) sum = merge(sum, rotate<4>(sum));
        if constexpr (lanes >= 4) sum = merge(sum, rotate<2>(sum));
        return merge(sum, rotate<1>(sum));
    }

  private:
    [[gnu::always_inline]] static inline D load_rest(Column<C> in, std::ptrdiff_t column,
                                                     std::ptrdiff_t n) {
        if (column + lanes <= n) return load_lanes<Isa>(in.data + column);
        C rest[lanes];
        for (int j = 0; j < lanes; ++j)
            rest[j] = column + j < n ? in.data[column + j] : static_cast<C>(in.beyond);
        return load_lanes<Isa>(rest);
    }
};

template <class Isa, class C>
struct Across {
    using D = Vec<Isa, double>;
    static constexpr int lanes = D::size;
    static constexpr int slots = sum_lanes;
    static constexpr int rows = lanes;
    static constexpr int stride = Vec<Isa, C>::size;

    [[gnu::always_inline]] static inline D columns(std::ptrdiff_t column) {
        return D::splat(static_cast<double>(column));
    }

    template <class Body, class... In>
    [[gnu::always_inline]] static inline void each(std::ptrdiff_t n, const Body& body, In... in) {
        for (std::ptrdiff_t i = 0; i < n; ++i)
            body(static_cast<int>(i % sum_lanes), i, load_lanes<Isa>(in.data + i * stride)...);
    }

    template <class Body, class... In>
    [[gnu::always_inline]] static inline void map(std::ptrdiff_t n, C* out, const Body& body,
                                                  In... in) {
        for (std::ptrdiff_t i = 0; i < n; ++i)
            store_lanes(out + i * stride, body(i, load_lanes<Isa>(in.data + i * stride)...));
    }

    template <class Merge, class Sum>
    [[gnu::always_inline]] static inline Sum fold(Sum (&lane)[slots], Merge merge) {
        for (int apart = slots / 2; apart >= 1; apart /= 2)
            for (int s = 0; s < apart; ++s) lane[s] = merge(lane[s], lane[s + apart]);
        return lane[0];
    }
};

// Sixteen lanes at the value that changes nothing.
template <class Form, class Sum>
struct Lanes {
    Sum lane[Form::slots];

    [[gnu::always_inline]] explicit inline Lanes(Sum start) {
#pragma GCC unroll 16
        for (int s = 0; s < Form::slots; ++s) lane[s] = start;
    }
};

}  // namespace stableops
