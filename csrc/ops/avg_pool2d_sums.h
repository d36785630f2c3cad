#pragma once
// What avg_pool2d.h is made of: spans of an axis, and sums that carry their errors.
#include "../simd/transpose.h"
#include "pool2d_rows.h"

namespace stableops {

// Elements [begin, end) of the other side.
struct PoolSpan {
    std::ptrdiff_t begin, end;
};

// One axis of the pass from `source` positions to `result` positions.
template <class Isa>
struct PoolAxis {
    std::ptrdiff_t source, result;
    std::ptrdiff_t kernel, stride, pad;
    bool adaptive, backward, count_include_pad;

    // floor(i * to / from) without the overflow of i * to.
    static std::ptrdiff_t scaled(std::ptrdiff_t i, std::ptrdiff_t to, std::ptrdiff_t from) {
        return i * (to / from) + i * (to % from) / from;
    }
    // Part i of `of` elements cut into `parts`.
    static PoolSpan part(std::ptrdiff_t i, std::ptrdiff_t of, std::ptrdiff_t parts) {
        const std::ptrdiff_t end = scaled(i + 1, of, parts);
        const bool exact = (i + 1) * (of % parts) % parts == 0;
        return {scaled(i, of, parts), exact ? end : end + 1};
    }
    PoolSpan span(std::ptrdiff_t i) const {
        if (adaptive) return part(i, source, result);
        if (!backward) {
            std::ptrdiff_t start = i * stride - pad;
            return {larger<Isa>(start, 0), smaller<Isa>(start + kernel, source)};
        }
        std::ptrdiff_t last = quotient<Isa>(i + pad, stride);
        std::ptrdiff_t start = i + pad - kernel;
        return {start < 0 ? 0 : quotient<Isa>(start, stride) + 1, smaller<Isa>(last + 1, source)};
    }
    // How many elements window `o` counts along this axis.
    std::ptrdiff_t count(std::ptrdiff_t o) const {
        const std::ptrdiff_t image = backward ? result : source;
        const std::ptrdiff_t windows = backward ? source : result;
        if (adaptive) {
            const PoolSpan inside = part(o, image, windows);
            return inside.end - inside.begin;
        }
        const std::ptrdiff_t start = o * stride - pad;
        if (count_include_pad) return smaller<Isa>(start + kernel, image + pad) - start;
        return smaller<Isa>(start + kernel, image) - larger<Isa>(start, 0);
    }
    // Windows on the same grid without the word "adaptive", where there is one.
    void make_regular() {
        std::ptrdiff_t image = backward ? result : source;
        std::ptrdiff_t windows = backward ? source : result;
        if (!adaptive || image % windows != 0) return;
        adaptive = false;
        kernel = stride = image / windows;
        pad = 0;
    }
};

template <class Isa, class D>
[[gnu::always_inline]] inline D two_sum_error(D a, D b, D sum) {
    D b_part = sum - a;
    return (a - (sum - b_part)) + (b - b_part);
}

// A sum in float64 lanes (or one float64), with its rounding errors if `compensated`.
template <class Isa, class D, bool compensated>
struct PoolSum {
    D total, error;

    [[gnu::always_inline]] inline void add(D x) {
        D sum = total + x;
        if constexpr (compensated) error = error + two_sum_error<Isa>(total, x, sum);
        total = sum;
    }
    [[gnu::always_inline]] inline void add(PoolSum other) {
        add(other.total);
        if constexpr (compensated) error = error + other.error;
    }
};

// Sums of neighbouring columns or windows, in scratch. Readers and writers use whole vectors: there
// are zeros or unused elements behind the last one.
struct PoolLine {
    double* total;
    double* error;
};

template <class Isa, class T>
struct AvgPoolTypes {
    static constexpr bool compensated = std::is_same_v<T, double>;
    using V = Vec<Isa, Compute<T>>;
    using D = Vec<Isa, double>;
    using Sum = PoolSum<Isa, D, compensated>;
    static constexpr int parts = V::size / D::size;

    [[gnu::always_inline]] static inline Sum zero() { return {D::zero(), D::zero()}; }
    [[gnu::always_inline]] static inline Sum load_sum(const PoolLine& line, std::ptrdiff_t i) {
        return {loadu<Isa>(line.total + i), compensated ? loadu<Isa>(line.error + i) : D::zero()};
    }
    [[gnu::always_inline]] static inline void store_sum(const PoolLine& line, std::ptrdiff_t i,
                                                        Sum sum) {
        storeu(line.total + i, sum.total);
        if constexpr (compensated) storeu(line.error + i, sum.error);
    }
    template <class Lanes>
    [[gnu::always_inline]] static inline void load_parts(D (&part)[parts], const T* p,
                                                         Lanes lanes) {
        if constexpr (std::is_same_v<T, float> && std::is_same_v<Lanes, AllLanes>) {
            part[0] = load_widened<Isa>(p);
            part[1] = load_widened<Isa>(p + D::size);
        } else if constexpr (parts == 1) {
            part[0] = load<Isa>(p, lanes);
        } else {
            V v = load<Isa>(p, lanes);
            part[0] = widen_low(v);
            part[1] = widen_high(v);
        }
    }
    // As many elements as there are sums in a vector, or the first `count` of them.
    [[gnu::always_inline]] static inline D load_wide(const T* p) {
        if constexpr (parts == 1) {
            return loadu<Isa>(p);
        } else {
            return load_widened<Isa>(p);
        }
    }
    [[gnu::always_inline]] static inline D load_wide(const T* p, int count) {
        const V v = load<Isa>(p, FirstLanes{count});
        if constexpr (parts == 1) {
            return v;
        } else {
            return widen_low(v);
        }
    }
    template <class Lanes>
    [[gnu::always_inline]] static inline void store_parts(T* p, const D (&part)[parts], Lanes lanes,
                                                          bool streams) {
        if constexpr (parts == 1) {
            put_elements<Isa>(p, part[0], lanes, streams);
        } else {
            put_elements<Isa>(p, narrow(part[0], part[1]), lanes, streams);
        }
    }

    // sum / divisor, where `inverse` is the rounded 1 / divisor.
    [[gnu::always_inline]] static inline D quotient(Sum sum, D divisor, D inverse) {
        D q = sum.total * inverse;
        if constexpr (!compensated) {
            return q;
        } else {
            D rest = fma(-q, divisor, sum.total) + sum.error;
            return fma(rest, inverse, q);
        }
    }
    // The same of one term, with the quotient's error.
    [[gnu::always_inline]] static inline Sum term_quotient(D x, D divisor, D inverse) {
        const D q = x * inverse;
        if constexpr (!compensated) {
            return {q, D::zero()};
        } else {
            return {q, fma(-q, divisor, x) * inverse};
        }
    }

    // All lanes that count are finite.
    template <class Lanes>
    [[gnu::always_inline]] static inline bool finite(D v, Lanes lanes) {
        unsigned bad = mask_bits(is_nan(v - v));
        if constexpr (std::is_same_v<Lanes, FirstLanes>) bad &= (1u << lanes.count) - 1u;
        return bad == 0;
    }
    // What scaled data gave, where the plain result is not finite: a finite result must not depend
    // on its neighbours.
    template <class Lanes>
    [[gnu::always_inline]] static inline D replace_not_finite(const T* y, D scaled, Lanes lanes) {
        D old = load<Isa>(y, lanes);
        return select(is_nan(old - old), scaled, old);
    }
};

}  // namespace stableops
