#pragma once
// Local response normalisation (Krizhevsky, Sutskever & Hinton 2012) over windows of channels:
//
//   b_c = k + alpha / size sum of x_j^2, j from c - size / 2 to c + (size - 1) / 2
//   y_c = x_c b_c^-beta
//   grad_x_c = grad_y_c b_c^-beta - 2 alpha beta / size x_c sum of grad_y_j x_j b_j^(-beta - 1),
//              j over the channels whose windows have c in them
//
// Windows end at the first and last channel; the divisor stays `size`. A task has some positions of
// an image and walks over the channels, with the last `size` rows of squares (and, backward, of the
// terms of the second sum) in scratch. Sums in ascending order of j. Computed in float64; the power
// of float32 arrays has an error of 2^-44 (1 + |beta log b|), and y is rounded once: 0.51 units in
// the last place; that of float64 arrays is rounded from hi + lo, which leaves the rounding of b,
// times beta, and two more: 3 units for beta <= 1.
//
// b = 0 is raised like a real number; b < 0 gives NaN. Squares of float64 elements overflow from
// 2^511 on, where y is 0.
#include "norm_rows.h"

namespace stableops {

constexpr std::ptrdiff_t response_positions = 256;

template <class Isa, class C>
struct PowerOf {
    using D = Vec<Isa, double>;
    double exponent;

    [[gnu::always_inline]] inline D at_limit(double base_is_zero) const {
        const double sign = base_is_zero ? exponent : -exponent;
        return D::splat(sign > 0 ? 0 : sign < 0 ? __builtin_inf() : 1);
    }
    [[gnu::always_inline]] inline D operator()(D base) const {
        D power;
        if constexpr (sizeof(C) == 8) {
            Pair<Isa> l = log_pair(base, D::zero());
            Pair<Isa> x = mul(l, D::splat(exponent));
            Scaled<Isa> e = exp_pair(x.hi, x.lo);
            power = ldexp(e.value, e.exponent);
        } else {
            D x = log_fast(base) * D::splat(exponent);
            power = exp_fast(min(D::splat(709), max(D::splat(-708), x)));
        }
        power = select(base == D::zero(), at_limit(true), power);
        power = select(base == D::splat(__builtin_inf()), at_limit(false), power);
        return select(base < D::zero(), D::splat(__builtin_nan("")), power);
    }
};

// Rows of one chunk of positions, [0, n), of one image.
template <class Isa, class C>
struct ResponseRows {
    using D = Vec<Isa, double>;
    const NormShape& shape;
    const LocalResponse& rule;
    std::ptrdiff_t sample, begin, n, ring;
    char* next;

    C* take_row() { return take<C>(response_positions); }
    template <class T>
    T* take(std::ptrdiff_t count) {
        T* part = reinterpret_cast<T*>(next);
        next += static_cast<std::size_t>(count) * sizeof(T);
        return part;
    }
    Segment segment() const { return {0, 1, begin, n}; }
    std::ptrdiff_t row(std::ptrdiff_t channel) const { return sample * shape.groups + channel; }

    static std::ptrdiff_t ring_of(const NormShape& shape, const LocalResponse& rule) {
        return smaller<Isa>(rule.size, shape.groups) + 1;
    }
    double* in_ring(double* rows, std::ptrdiff_t channel) const {
        return rows + channel % ring * response_positions;
    }

    // f(position) for every register of doubles; rows of scratch have room for whole ones.
    template <class F>
    [[gnu::always_inline]] inline void each(const F& f) const {
        for (std::ptrdiff_t i = 0; i < n; i += D::size) f(i);
    }
    [[gnu::always_inline]] inline D load_row(const C* p, std::ptrdiff_t i) const {
        if (n - i >= D::size) return load_lanes<Isa>(p + i);
        return load_wide<Isa>(p + i, FirstLanes{static_cast<int>(n - i)}).part[0];
    }

    void squares(const NormOperand& x, std::ptrdiff_t channel, C* packed, double* rows) const {
        const C* from = read_segment<Isa>(shape, x, row(channel), segment(), packed).data;
        double* to = in_ring(rows, channel);
        each([&](std::ptrdiff_t i) {
            D v = load_row(from, i);
            storeu(to + i, v * v);
        });
    }
    // Sum of the rows [first, last] that there are.
    [[gnu::always_inline]] inline D window_sum(double* rows, std::ptrdiff_t first,
                                               std::ptrdiff_t last, std::ptrdiff_t i) const {
        D sum = loadu<Isa>(in_ring(rows, first) + i);
        for (std::ptrdiff_t j = first + 1; j <= last; ++j)
            sum = sum + loadu<Isa>(in_ring(rows, j) + i);
        return sum;
    }
};

template <class Isa, class F>
void for_response_chunks(const NormShape& shape, const F& f) {
    const std::ptrdiff_t chunks = (shape.length + response_positions - 1) / response_positions;
    parallel_for<Isa>(shape.samples * chunks, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t begin = task % chunks * response_positions;
        f(task / chunks, begin, smaller<Isa>(shape.length - begin, response_positions));
    });
}

template <class Isa, class C>
void local_response_norm(const NormShape& shape, const NormOperand& y, const NormOperand& x,
                         const LocalResponse& rule) {
    using D = Vec<Isa, double>;
    using Rows = ResponseRows<Isa, C>;
    const std::ptrdiff_t before = rule.size / 2, after = (rule.size - 1) / 2;
    const std::ptrdiff_t channels = shape.groups, ring = Rows::ring_of(shape, rule);
    const D factor = D::splat(rule.alpha / static_cast<double>(rule.size)), k = D::splat(rule.k);
    const PowerOf<Isa, C> power{-rule.beta};
    const std::size_t bytes =
        (static_cast<std::size_t>(ring + 1) * sizeof(double) + 2 * sizeof(C)) * response_positions;
    for_response_chunks<Isa>(shape, [&](std::ptrdiff_t sample, std::ptrdiff_t begin,
                                        std::ptrdiff_t n) {
        Rows rows{shape, rule, sample, begin, n, ring, static_cast<char*>(thread_scratch(bytes))};
        double* const squares = rows.template take<double>(ring * response_positions);
        double* const result = rows.template take<double>(response_positions);
        C *const packed = rows.take_row(), *const out = rows.take_row();
        std::ptrdiff_t ready = 0;
        for (std::ptrdiff_t c = 0; c < channels; ++c) {
            const std::ptrdiff_t first = larger<Isa>(c - before, std::ptrdiff_t{0});
            const std::ptrdiff_t last = smaller<Isa>(c + after, channels - 1);
            for (; ready <= last; ++ready) rows.squares(x, ready, packed, squares);
            const C* from = read_segment<Isa>(shape, x, rows.row(c), rows.segment(), packed).data;
            rows.each([&](std::ptrdiff_t i) {
                D base = k + factor * rows.window_sum(squares, first, last, i);
                storeu(result + i, rows.load_row(from, i) * power(base));
            });
            C* to = segment_to_write<Isa>(shape, y, rows.row(c), rows.segment(), out).data;
            for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = static_cast<C>(result[i]);
            write_segment<Isa>(shape, y, rows.row(c), rows.segment(), out);
        }
    });
}

template <class Isa, class C>
void local_response_norm_backward(const NormShape& shape, const NormOperand& grad_x,
                                  const NormOperand& grad_y, const NormOperand& x,
                                  const LocalResponse& rule) {
    using D = Vec<Isa, double>;
    using Rows = ResponseRows<Isa, C>;
    const std::ptrdiff_t before = rule.size / 2, after = (rule.size - 1) / 2;
    const std::ptrdiff_t channels = shape.groups, ring = Rows::ring_of(shape, rule);
    const double share = rule.alpha / static_cast<double>(rule.size);
    const D factor = D::splat(share), k = D::splat(rule.k);
    const D cross = D::splat(2 * rule.beta * share);
    const PowerOf<Isa, C> power{-rule.beta};
    const std::size_t bytes =
        (static_cast<std::size_t>(3 * ring + 1) * sizeof(double) + 3 * sizeof(C)) *
        response_positions;
    for_response_chunks<Isa>(shape, [&](std::ptrdiff_t sample, std::ptrdiff_t begin,
                                        std::ptrdiff_t n) {
        Rows rows{shape, rule, sample, begin, n, ring, static_cast<char*>(thread_scratch(bytes))};
        double* const squares = rows.template take<double>(ring * response_positions);
        double* const powers = rows.template take<double>(ring * response_positions);
        double* const terms = rows.template take<double>(ring * response_positions);
        double* const result = rows.template take<double>(response_positions);
        C *const packed = rows.take_row(), *const packed_grad = rows.take_row();
        C* const out = rows.take_row();
        std::ptrdiff_t ready = 0, ready_terms = 0;
        for (std::ptrdiff_t c = 0; c < channels; ++c) {
            // The channels whose windows have c in them.
            const std::ptrdiff_t first = larger<Isa>(c - after, std::ptrdiff_t{0});
            const std::ptrdiff_t last = smaller<Isa>(c + before, channels - 1);
            for (; ready_terms <= last; ++ready_terms) {
                const std::ptrdiff_t j = ready_terms;
                const std::ptrdiff_t low = larger<Isa>(j - before, std::ptrdiff_t{0});
                const std::ptrdiff_t high = smaller<Isa>(j + after, channels - 1);
                for (; ready <= high; ++ready) rows.squares(x, ready, packed, squares);
                const C* from =
                    read_segment<Isa>(shape, x, rows.row(j), rows.segment(), packed).data;
                const C* g =
                    read_segment<Isa>(shape, grad_y, rows.row(j), rows.segment(), packed_grad).data;
                rows.each([&](std::ptrdiff_t i) {
                    D base = k + factor * rows.window_sum(squares, low, high, i);
                    D p = power(base);
                    storeu(rows.in_ring(powers, j) + i, p);
                    storeu(rows.in_ring(terms, j) + i,
                           rows.load_row(g, i) * rows.load_row(from, i) * p / base);
                });
            }
            const C* from = read_segment<Isa>(shape, x, rows.row(c), rows.segment(), packed).data;
            const C* g =
                read_segment<Isa>(shape, grad_y, rows.row(c), rows.segment(), packed_grad).data;
            rows.each([&](std::ptrdiff_t i) {
                D sum = rows.window_sum(terms, first, last, i);
                D own = rows.load_row(g, i) * loadu<Isa>(rows.in_ring(powers, c) + i);
                storeu(result + i, own - cross * rows.load_row(from, i) * sum);
            });
            C* to = segment_to_write<Isa>(shape, grad_x, rows.row(c), rows.segment(), out).data;
            for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = static_cast<C>(result[i]);
            write_segment<Isa>(shape, grad_x, rows.row(c), rows.segment(), out);
        }
    });
}

}  // namespace stableops
