#pragma once
// Float32 rows in float32 lanes: sums of exp(x_i) without a shift, and E_i times a factor of the
// row.
//
// exp of |x| <= 80 neither overflows nor underflows in float32, so no maximum need be known
// beforehand: one read of the row gives the sum and shows whether the row was within that range.
// Rows that are not (and those whose result a sum of 2^-27.7 cannot give, softmax.h) are worked on
// in float64 lanes, by the value of the row alone, so that all forms agree.
//
// The 16 lanes of a sum are those of simd/sum.h: lane j holds the rounded terms of columns j, j +
// 16,
// ... in float64, and in float32 beside it what rounding those terms left: in a row of equal
// elements the rounding errors of the terms all have one sign, and would be the error of the sum.
//
//   y_i = E_i F for a factor F = H (1 + L): with E_i = w + r, H and L float32,
//   y_i = fma(w, H, fma(w, L, r) H):  one rounding, and 2^-48 of the parts.
//
// Error of softmax in this way: E 2^-27.7, S 2^-27.7, one rounding: 0.5 + 2 x 2^-27.7 / 2^-24 =
// 0.66 ULP.
#include <cstdint>
#include <type_traits>

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

// Stores v at p and adds its halves to two sums. They are converted from memory: that is one
// operation, where a register's halves have to be moved to their places first. The barrier keeps
// the compiler from taking them from the register all the same.
template <class Isa>
[[gnu::always_inline]] inline void store_and_sum(float* p, Vec<Isa, float> v, Vec<Isa, double>& low,
                                                 Vec<Isa, double>& high) {
    constexpr int size = Vec<Isa, float>::size;
    storeu(p, v);
    __asm__("" : "+m"(*reinterpret_cast<float(*)[size]>(p)));
    low += load_widened<Isa>(p);
    high += load_widened<Isa>(p + size / 2);
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
    // Vectors in step (exp_float.h), as many as registers allow.
    static constexpr int at_once = vectors > 2 ? vectors : vectors == 2 ? 2 : 4;

    ExpFloatTables<Isa> tables;
    D sum[slots];
    V left[vectors], largest[vectors], smallest[vectors];

    // `groups` times 16 columns, stored where `values` and, if they are kept, `rests` are.
    template <int groups>
    [[gnu::always_inline]] inline void add(const float* x, float* values, float* rests, bool keep) {
        constexpr int n = groups * vectors;
        V xs[n];
        ExpFloat<Isa> e[n];
#pragma GCC unroll 4
        for (int v = 0; v < n; ++v) {
            xs[v] = loadu<Isa>(x + v * size);
            largest[v % vectors] = max(xs[v], largest[v % vectors]);
            smallest[v % vectors] = min(xs[v], smallest[v % vectors]);
        }
        exp_float(tables, xs, e);
#pragma GCC unroll 4
        for (int v = 0; v < n; ++v) {
            left[v % vectors] += e[v].rest;
            if (keep) storeu(rests + v * size, e[v].rest);
            store_and_sum(values + v * size, e[v].value, sum[2 * (v % vectors)],
                          sum[2 * (v % vectors) + 1]);
        }
    }

    // 16 columns of which the first `count` are there, and column `hole`, if it is among them, does
    // not count in the sum; `any` is some x of the row, for the range.
    [[gnu::always_inline]] inline void add_partly(const float* x, float* values, float* rests,
                                                  bool keep, std::ptrdiff_t count,
                                                  std::ptrdiff_t hole, float any) {
        using I = Mask<Isa, float>;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            std::ptrdiff_t here = count - v * size;
            here = here < 0 ? 0 : here > size ? size : here;
            I lane = loadu<Isa>(lane_index);
            I there = lane < I::splat(static_cast<std::int32_t>(here));
            V xv = select(there, load<Isa>(x + v * size, FirstLanes{static_cast<int>(here)}),
                          V::splat(any));
            std::ptrdiff_t at = hole - v * size;
            at = at < 0 || at >= size ? -1 : at;
            I counts = there & (lane != I::splat(static_cast<std::int32_t>(at)));
            largest[v] = max(xv, largest[v]);
            smallest[v] = min(xv, smallest[v]);
            ExpFloat<Isa> e = exp_float(tables, xv);
            if (keep) {
                alignas(V) float value[size];
                storeu(value, e.value);
                __builtin_memcpy(values + v * size, value,
                                 static_cast<std::size_t>(here) * sizeof(float));
                storeu(rests + v * size, e.rest);
            }
            V used = select(counts, e.value, V::zero());
            left[v] += select(counts, e.rest, V::zero());
            sum[2 * v] += widen_low(used);
            sum[2 * v + 1] += widen_high(used);
        }
    }

    // A block of a row, without column `hole` (negative: all). values and rests get E of every
    // column; rests has room for whole groups of 16. `destination`, if given, is written next: its
    // lines are fetched meanwhile.
    template <bool keep>
    [[gnu::noinline]] static FloatSum<Isa> block(const float* x, std::ptrdiff_t n,
                                                 std::ptrdiff_t hole, float* values, float* rests,
                                                 const float* destination) {
        AlongFloat a;
#pragma GCC unroll 16
        for (int s = 0; s < slots; ++s) a.sum[s] = D::zero();
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            a.left[v] = V::zero();
            a.largest[v] = V::splat(x[0]);
            a.smallest[v] = V::splat(x[0]);
        }
        float passing[at_once * size];
        std::ptrdiff_t whole = n / sum_lanes * sum_lanes;
        bool within = hole >= 0 && hole < n;
        std::ptrdiff_t stop = within ? hole / sum_lanes * sum_lanes : whole;
        constexpr std::ptrdiff_t step = at_once * size;
        std::ptrdiff_t i = 0;
        for (;;) {
            for (; i + step <= stop; i += step) {
                // Rows from memory: 4 KB ahead, on which the hardware does not insist across pages,
                // and into L2: what L1 waits for from memory, stores have to wait for, too.
                for (int line = 0; line < step; line += 16) {
                    __builtin_prefetch(x + i + 1024 + line, 0, 2);
                    if (destination != nullptr) __builtin_prefetch(destination + i + line, 1);
                }
                a.template add<at_once / vectors>(x + i, keep ? values + i : passing,
                                                  keep ? rests + i : nullptr, keep);
            }
            for (; i < stop; i += sum_lanes)
                a.template add<1>(x + i, keep ? values + i : passing, keep ? rests + i : nullptr,
                                  keep);
            if (i >= n) break;
            // The group of the hole, and the one that is not full.
            a.add_partly(x + i, keep ? values + i : nullptr, keep ? rests + i : nullptr, keep,
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
    [[gnu::noinline]] static void emit(float* out, std::ptrdiff_t n, const float* values,
                                       const float* rests, double factor, bool streams) {
        write(out, n, factor, streams,
              [&]<int k>(std::ptrdiff_t i, auto lanes, ExpFloat<Isa>(&e)[k])
                  __attribute__((always_inline)) {
#pragma GCC unroll 4
                      for (int v = 0; v < k; ++v)
                          e[v] = {load<Isa>(values + i + v * size, lanes),
                                  load<Isa>(rests + i + v * size, lanes)};
                  });
    }
    [[gnu::noinline]] static void emit(float* out, std::ptrdiff_t n, const float* x, double factor,
                                       bool streams) {
        ExpFloatTables<Isa> tables;
        write(out, n, factor, streams,
              [&]<int k>(std::ptrdiff_t i, auto lanes, ExpFloat<Isa>(&e)[k])
                  __attribute__((always_inline)) {
                      V xs[k];
#pragma GCC unroll 4
                      for (int v = 0; v < k; ++v) xs[v] = load<Isa>(x + i + v * size, lanes);
                      exp_float(tables, xs, e);
                  });
    }

  private:
    // streams: past the caches, where out is aligned; the caller fences. terms(i, lanes, e) gives
    // the next E, which may lie where out does.
    template <class Terms>
    [[gnu::always_inline]] static inline void write(float* out, std::ptrdiff_t n, double factor,
                                                    bool streams, const Terms& terms) {
        float h = static_cast<float>(factor);
        V high = V::splat(h), low = V::splat(static_cast<float>((factor - h) / h));
        streams = streams && reinterpret_cast<std::uintptr_t>(out) % Isa::bytes == 0;
        std::ptrdiff_t i = 0;
        for (; i + at_once * size <= n; i += at_once * size) {
            ExpFloat<Isa> e[at_once];
            terms(i, AllLanes{}, e);
#pragma GCC unroll 4
            for (int v = 0; v < at_once; ++v) {
                V y = product(e[v], high, low);
                if (streams) {
                    stream(out + i + v * size, y);
                } else {
                    storeu(out + i + v * size, y);
                }
            }
        }
        for_each_vec<Isa, size>(n - i,
                                [&](std::ptrdiff_t j, auto lanes) __attribute__((always_inline)) {
                                    ExpFloat<Isa> e[1];
                                    terms(i + j, lanes, e);
                                    store<Isa>(out + i + j, product(e[0], high, low), lanes);
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
        V largest = loadu<Isa>(x), smallest = largest;
        float passing[2 * size];
        Mask<Isa, float> hole = Mask<Isa, float>::zero();
        if constexpr (holed) hole = loadu<Isa>(holes);
        // Columns [i, i + k); the first of a lane is its sum.
        auto add = [&]<int k, bool first>(std::ptrdiff_t i, V(&xs)[k], std::bool_constant<first>)
                       __attribute__((always_inline)) {
                           for (int v = 0; v < k; ++v) {
                               xs[v] = loadu<Isa>(x + (i + v) * size);
                               largest = max(xs[v], largest);
                               smallest = min(xs[v], smallest);
                           }
                           ExpFloat<Isa> e[k];
                           exp_float(tables, xs, e);
                           for (int v = 0; v < k; ++v) {
                               if constexpr (holed) {
                                   Mask<Isa, float> out =
                                       hole ==
                                       Mask<Isa, float>::splat(static_cast<std::int32_t>(i + v));
                                   e[v].value = select(out, V::zero(), e[v].value);
                                   e[v].rest = select(out, V::zero(), e[v].rest);
                               }
                               int j = static_cast<int>((i + v) % sum_lanes);
                               if constexpr (first) {
                                   left[j] = e[v].rest;
                                   low[j] = widen_low(e[v].value);
                                   high[j] = widen_high(e[v].value);
                               } else {
                                   left[j] += e[v].rest;
                                   store_and_sum(passing + v * size, e[v].value, low[j], high[j]);
                               }
                           }
                       };
        V pair[2], single[1];
        std::ptrdiff_t i = 0;
        for (; i + 2 <= used; i += 2) add(i, pair, std::true_type{});
        if (i < used) {
            add(i, single, std::true_type{});
            ++i;
        }
        for (; i + 2 <= n; i += 2) add(i, pair, std::false_type{});
        if (i < n) add(i, single, std::false_type{});
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
        auto write = [&]<int k>(std::ptrdiff_t i, V(&xs)[k]) __attribute__((always_inline)) {
            for (int v = 0; v < k; ++v) xs[v] = loadu<Isa>(x + (i + v) * size);
            ExpFloat<Isa> e[k];
            exp_float(tables, xs, e);
            for (int v = 0; v < k; ++v)
                storeu(out + (i + v) * size,
                       AlongFloat<Isa>::product(e[v], factor.high, factor.low));
        };
        V pair[2], single[1];
        std::ptrdiff_t i = 0;
        for (; i + 2 <= n; i += 2) write(i, pair);
        if (i < n) write(i, single);
    }
};

}  // namespace stableops
