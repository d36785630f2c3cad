#pragma once
// Float32 rows in float32 lanes: sums of exp(x_i) without a shift, and E_i times a factor of the row.
//
// exp of |x| <= 80 neither overflows nor underflows in float32, so no maximum need be known
// beforehand: one read of the row gives the sum and shows whether the row was within that range. Rows
// that are not (and those whose result a sum of 2^-27.7 cannot give, softmax.h) are worked on in
// float64 lanes, by the value of the row alone, so that all forms agree.
//
// The 16 lanes of a sum are those of simd/sum.h: lane j holds the rounded terms of columns j, j + 16,
// ... in float64, and in float32 beside it what rounding those terms left: in a row of equal elements the
// rounding errors of the terms all have one sign, and would be the error of the sum.
//
//   y_i = E_i F for a factor F = H (1 + L): with E_i = w + r, H and L float32,
//   y_i = fma(w, H, fma(w, L, r) H):  one rounding, and 2^-48 of the parts.
//
// Error of softmax in this way: E 2^-27.7, S 2^-27.7, one rounding: 0.5 + 2 x 2^-27.7 / 2^-24 = 0.66 ULP.
#include <cstdint>

#include "../simd/exp_float.h"
#include "../simd/sum.h"

namespace stableops {

// Of one row (Along: in every lane) or a row a lane.
template <class Isa>
struct FloatSum {
    Vec<Isa, double> sum, largest, smallest;
};
template <class Isa>
[[gnu::always_inline]] inline FloatSum<Isa> plus(FloatSum<Isa> a, FloatSum<Isa> b) {
    return {a.sum + b.sum, max(a.largest, b.largest), min(a.smallest, b.smallest)};
}
template <int by, class Isa>
[[gnu::always_inline]] inline FloatSum<Isa> rotate(FloatSum<Isa> a) {
    return {rotate<by>(a.sum), rotate<by>(a.largest), rotate<by>(a.smallest)};
}

constexpr double float_range = 80;
constexpr std::int32_t lane_index[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Whether float32 lanes could do the row.
template <class Isa>
[[gnu::always_inline]] inline Mask<Isa, double> in_float_range(FloatSum<Isa> s) {
    using D = Vec<Isa, double>;
    return (s.largest <= D::splat(float_range)) & (s.smallest >= D::splat(-float_range)) &
           (s.sum < D::splat(__builtin_inf()));
}

template <class Isa>
struct AlongFloat {
    using V = Vec<Isa, float>;
    using D = Vec<Isa, double>;
    static constexpr int size = V::size;
    static constexpr int vectors = sum_lanes / size;
    static constexpr int slots = sum_lanes / D::size;

    ExpFloatTables<Isa> tables;
    D sum[slots];
    V left[vectors], largest[vectors], smallest[vectors];

    // 16 columns, stored where `values` is. The first `count` of them are there, and column `hole`, if
    // it is among them, does not count in the sum; `any` is some x of the row, for the range.
    template <bool partly>
    [[gnu::always_inline]] inline void add(const float* x, float* values, float* rests, bool keep,
                                           std::ptrdiff_t count, std::ptrdiff_t hole, float any) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            V xv;
            Mask<Isa, float> counts;
            if constexpr (partly) {
                using I = Mask<Isa, float>;
                std::ptrdiff_t here = count - v * size;
                here = here < 0 ? 0 : here > size ? size : here;
                I lane = loadu<Isa>(lane_index);
                I there = lane < I::splat(static_cast<std::int32_t>(here));
                xv = select(there, load<Isa>(x + v * size, FirstLanes{static_cast<int>(here)}),
                            V::splat(any));
                std::ptrdiff_t at = hole - v * size;
                at = at < 0 || at >= size ? -1 : at;
                counts = there & (lane != I::splat(static_cast<std::int32_t>(at)));
            } else {
                xv = loadu<Isa>(x + v * size);
            }
            largest[v] = max(xv, largest[v]);
            smallest[v] = min(xv, smallest[v]);
            ExpFloat<Isa> e = exp_float(tables, xv);
            if (keep) storeu(rests + v * size, e.rest);
            if constexpr (partly) {
                if (keep) storeu(values + v * size, e.value);
                V used = select(counts, e.value, V::zero());
                left[v] += select(counts, e.rest, V::zero());
                sum[2 * v] += widen_low(used);
                sum[2 * v + 1] += widen_high(used);
            } else {
                // Widening what was stored takes half the operations of widening a register.
                storeu(values + v * size, e.value);
                left[v] += e.rest;
                sum[2 * v] += load_widened<Isa>(values + v * size);
                sum[2 * v + 1] += load_widened<Isa>(values + v * size + size / 2);
            }
        }
    }

    // A block of a row, without column `hole` (negative: all). values and rests get E of every column.
    template <bool keep>
    [[gnu::noinline]] static FloatSum<Isa> block(const float* x, std::ptrdiff_t n, std::ptrdiff_t hole, float* values,
                               float* rests) {
        AlongFloat a;
#pragma GCC unroll 16
        for (int s = 0; s < slots; ++s) a.sum[s] = D::zero();
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            a.left[v] = V::zero();
            a.largest[v] = V::splat(x[0]);
            a.smallest[v] = V::splat(x[0]);
        }
        float passing[sum_lanes];
        std::ptrdiff_t whole = n / sum_lanes * sum_lanes;
        bool within = hole >= 0 && hole < n;
        std::ptrdiff_t stop = within ? hole / sum_lanes * sum_lanes : whole;
        std::ptrdiff_t i = 0;
        for (;;) {
            for (; i < stop; i += sum_lanes) {
                // Rows from memory: 2 KB ahead, on which the hardware does not insist across pages.
                __builtin_prefetch(x + i + 512);
                a.template add<false>(x + i, keep ? values + i : passing, keep ? rests + i : nullptr,
                                      keep, 0, 0, 0);
            }
            if (i >= n) break;
            // The group of the hole, and the one that is not full.
            a.template add<true>(x + i, keep ? values + i : nullptr, keep ? rests + i : nullptr, keep,
                                 n - i, hole - i, x[0]);
            i += sum_lanes;
            stop = whole;
        }
        Lanes<Along<Isa, float>, FloatSum<Isa>> lanes({D::zero(), D::zero(), D::zero()});
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            lanes.lane[2 * v] = {a.sum[2 * v] + widen_low(a.left[v]), widen_low(a.largest[v]),
                                 widen_low(a.smallest[v])};
            lanes.lane[2 * v + 1] = {a.sum[2 * v + 1] + widen_high(a.left[v]),
                                     widen_high(a.largest[v]), widen_high(a.smallest[v])};
        }
        return Along<Isa, float>::fold(lanes.lane, Plus{});
    }

    // out_i = E_i factor, E from the block above or computed again.
    [[gnu::always_inline]] static inline V product(ExpFloat<Isa> e, V high, V low) {
        return fma(e.value, high, fma(e.value, low, e.rest) * high);
    }
    [[gnu::noinline]] static void emit(float* out, std::ptrdiff_t n, const float* values, const float* rests,
                     double factor, bool streams) {
        write(out, n, factor, streams,
              [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
                  return ExpFloat<Isa>{load<Isa>(values + i, lanes), load<Isa>(rests + i, lanes)};
              });
    }
    [[gnu::noinline]] static void emit(float* out, std::ptrdiff_t n, const float* x, double factor,
                                       bool streams) {
        ExpFloatTables<Isa> tables;
        write(out, n, factor, streams,
              [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
                  return exp_float(tables, load<Isa>(x + i, lanes));
              });
    }

  private:
    // streams: past the caches, where out is aligned; the caller fences.
    template <class Term>
    [[gnu::always_inline]] static inline void write(float* out, std::ptrdiff_t n, double factor,
                                                    bool streams, const Term& term) {
        float h = static_cast<float>(factor);
        V high = V::splat(h), low = V::splat(static_cast<float>((factor - h) / h));
        std::ptrdiff_t begin = 0;
        if (streams && reinterpret_cast<std::uintptr_t>(out) % Isa::bytes == 0) {
            for (; begin + size <= n; begin += size)
                stream(out + begin, product(term(begin, AllLanes{}), high, low));
        }
        for_each_vec<Isa, size>(
            n - begin, [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
                store<Isa>(out + begin + i, product(term(begin + i, lanes), high, low), lanes);
            });
    }
};

// A strip of rows, [column][row].
template <class Isa>
struct AcrossFloat {
    using V = Vec<Isa, float>;
    using D = Vec<Isa, double>;
    static constexpr int size = V::size;

    // holes: the column that each row leaves out, or -1; or nullptr.
    template <bool holed>
    [[gnu::noinline]] static void block(const float* x, std::ptrdiff_t n, const std::int32_t* holes,
                      FloatSum<Isa> (&sums)[2]) {
        ExpFloatTables<Isa> tables;
        D low[sum_lanes], high[sum_lanes];
        V left[sum_lanes];
        // Very short rows leave lanes empty; a sum of positive terms does not change without them.
        int used = static_cast<int>(n < sum_lanes ? n : sum_lanes);
        for (int j = 0; j < used; ++j) {
            low[j] = high[j] = D::zero();
            left[j] = V::zero();
        }
        V largest = loadu<Isa>(x), smallest = largest;
        float passing[size];
        Mask<Isa, float> hole = Mask<Isa, float>::zero();
        if constexpr (holed) hole = loadu<Isa>(holes);
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            V xv = loadu<Isa>(x + i * size);
            largest = max(xv, largest);
            smallest = min(xv, smallest);
            ExpFloat<Isa> e = exp_float(tables, xv);
            if constexpr (holed) {
                Mask<Isa, float> out =
                    hole == Mask<Isa, float>::splat(static_cast<std::int32_t>(i));
                e.value = select(out, V::zero(), e.value);
                e.rest = select(out, V::zero(), e.rest);
            }
            int j = static_cast<int>(i % sum_lanes);
            storeu(passing, e.value);
            left[j] += e.rest;
            low[j] += load_widened<Isa>(passing);
            high[j] += load_widened<Isa>(passing + size / 2);
        }
        for (int j = 0; j < used; ++j) {
            low[j] += widen_low(left[j]);
            high[j] += widen_high(left[j]);
        }
        for (int apart = sum_lanes / 2; apart >= 1; apart /= 2) {
            for (int j = 0; j < apart && j + apart < used; ++j) {
                low[j] += low[j + apart];
                high[j] += high[j + apart];
            }
            used = used < apart ? used : apart;
        }
        sums[0] = {low[0], widen_low(largest), widen_low(smallest)};
        sums[1] = {high[0], widen_high(largest), widen_high(smallest)};
    }

    struct Factor {
        V high, low;

        Factor(D first, D second) {
            high = narrow(first, second);
            D a = widen_low(high), b = widen_high(high);
            low = narrow((first - a) / a, (second - b) / b);
        }
    };
    [[gnu::noinline]] static void emit(float* out, std::ptrdiff_t n, const float* x,
                                       const Factor& factor) {
        ExpFloatTables<Isa> tables;
        for (std::ptrdiff_t i = 0; i < n; ++i)
            storeu(out + i * size,
                   AlongFloat<Isa>::product(exp_float(tables, loadu<Isa>(x + i * size)), factor.high,
                                            factor.low));
    }
};

}  // namespace stableops
