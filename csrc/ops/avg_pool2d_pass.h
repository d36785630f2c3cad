#pragma once
// The pass of avg_pool2d.h over one row of results: columns, windows, division.
#include "avg_pool2d_sums.h"

namespace stableops {

// Divisors of the windows of one row, and their rounded inverses.
struct PoolDivisors {
    std::ptrdiff_t row_count = 0;
    double* divisor = nullptr;
    double* inverse = nullptr;
};

// Rows of the source that one row of results adds up, and what is divided where.
template <class T>
struct PoolRows {
    static constexpr int most = 8;
    const T* row[most];
    const PoolDivisors* divisors[most];
    int rows;
    bool starts;
};

// Everything but the data: the pass for one result row works on these.
template <class Isa, class T, bool backward>
struct AvgPoolPass {
    using Types = AvgPoolTypes<Isa, T>;
    using D = typename Types::D;
    using Sum = typename Types::Sum;

    PoolAxis<Isa> h, w;
    std::int64_t divisor;  // 0: the elements of the window
    std::ptrdiff_t left;   // zeros before column 0 of `columns`
    bool streams;          // results are written past the caches
    double scale;          // a power of two that keeps sums of float64 finite
    PoolLine columns, next_columns, windows;
    PoolDivisors divisors[PoolRows<T>::most];
    std::ptrdiff_t* begin;
    std::ptrdiff_t* end;

    static constexpr std::ptrdiff_t slack = 4 * Vec<Isa, float>::size;
    std::ptrdiff_t columns_length() const {
        return left + w.source + (stepwise() ? 0 : w.kernel) + slack;
    }
    std::ptrdiff_t result_length() const { return w.result + slack; }
    std::ptrdiff_t divisors_length() const { return (backward ? w.source : w.result) + slack; }
    // One window a plane, all of it: the results of `planes` planes are finished together.
    bool whole_planes() const {
        return !backward && h.result == 1 && w.result == 1 && h.span(0).end == h.source &&
               w.span(0).end == w.source;
    }
    static constexpr std::ptrdiff_t planes = Vec<Isa, float>::size;
    static constexpr bool compensated = Types::compensated;

    // Window by window; else vectors of windows, which read the padding too.
    bool stepwise() const { return w.adaptive || w.kernel > 32 || w.stride > 2; }
    // The first column of result j, if the source had no end.
    std::ptrdiff_t first_column(std::ptrdiff_t j) const {
        if (!backward) return j * w.stride - w.pad;
        const std::ptrdiff_t start = j + w.pad - w.kernel;
        return (start >= 0 ? start / w.stride : -((w.stride - 1 - start) / w.stride)) + 1;
    }

    std::size_t scratch_size() const {
        using Parts = ScratchParts<Isa>;
        const auto line = [](std::ptrdiff_t n) {
            return Parts::aligned(sizeof(double) * static_cast<std::size_t>(n));
        };
        return 4 * line(columns_length()) + 4 * line(result_length()) +
               2 * PoolRows<T>::most * line(divisors_length());
    }
    [[gnu::noinline]] void use_scratch(ScratchParts<Isa>& parts) {
        const auto zeros = [&](std::ptrdiff_t n) {
            double* line = parts.template take<double>(n);
            for (std::ptrdiff_t i = 0; i < n; ++i) line[i] = 0;
            return line;
        };
        columns = {zeros(columns_length()), zeros(columns_length())};
        next_columns = {zeros(columns_length()), zeros(columns_length())};
        windows = {zeros(result_length()), zeros(result_length())};
        begin = parts.template take<std::ptrdiff_t>(result_length());
        end = parts.template take<std::ptrdiff_t>(result_length());
        for (std::ptrdiff_t j = 0; j < w.result; ++j) {
            PoolSpan span = w.span(j);
            begin[j] = span.begin;
            end[j] = span.end;
        }
        for (PoolDivisors& d : divisors)
            d = {0, zeros(divisors_length()), zeros(divisors_length())};
    }

    void swap_columns() {
        const PoolLine line = columns;
        columns = next_columns;
        next_columns = line;
    }

    // The divisors of window row `o`: kept from an earlier row if possible, else in the place of
    // some that none of the first `used` rows of `in` needs.
    const PoolDivisors* divisors_of(std::ptrdiff_t o, const PoolRows<T>& in, int used) {
        const std::ptrdiff_t count = divisor != 0 ? 1 : h.count(o);
        for (const PoolDivisors& d : divisors)
            if (d.row_count == count) return &d;
        return new_divisors(count, in, used);
    }
    [[gnu::noinline]] const PoolDivisors* new_divisors(std::ptrdiff_t count, const PoolRows<T>& in,
                                                       int used) {
        int slot = 0;
        for (int k = 0; k < used; ++k) {
            if (in.divisors[k] == &divisors[slot]) {
                ++slot;
                k = -1;
            }
        }
        PoolDivisors& d = divisors[slot];
        d.row_count = count;
        const std::ptrdiff_t n = backward ? w.source : whole_planes() ? planes : w.result;
        for (std::ptrdiff_t j = 0; j < n; ++j) {
            const std::ptrdiff_t column = whole_planes() ? 0 : j;
            d.divisor[j] = static_cast<double>(divisor != 0 ? divisor : count * w.count(column));
            d.inverse[j] = 1 / d.divisor[j];
        }
        return &d;
    }

    // sum += x, or x / divisor in the backward pass, whose terms belong to windows; = if `first`.
    template <bool scaled, bool first>
    [[gnu::always_inline]] inline void add_term(Sum& sum, D x, D window_divisor, D inverse) const {
        if constexpr (scaled) x = x * D::splat(scale);
        if constexpr (backward) {
            const Sum quotient = Types::term_quotient(x, window_divisor, inverse);
            if constexpr (first) {
                sum = quotient;
            } else {
                sum.add(quotient);
            }
        } else if constexpr (first) {
            sum = {x, D::zero()};
        } else {
            sum.add(x);
        }
    }

    template <bool scaled>
    void add_rows(const PoolRows<T>& in) const {
        for_each_vec<Isa, Types::V::size>(w.source, [&](std::ptrdiff_t x, auto lanes) {
            if constexpr (std::is_same_v<decltype(lanes), FirstLanes>) {
                if (lanes.count <= D::size) return add_rows_at<scaled, 1>(in, x, lanes);
            }
            add_rows_at<scaled, Types::parts>(in, x, lanes);
        });
    }
    template <bool scaled, int parts, class Lanes>
    [[gnu::always_inline]] inline void add_rows_at(const PoolRows<T>& in, std::ptrdiff_t x,
                                                   Lanes lanes) const {
        const PoolLine line = {columns.total + left, columns.error + left};
        Sum sum[parts];
        const auto add_row = [&](int k, auto first) {
            D part[Types::parts];
            Types::load_parts(part, in.row[k] + x, lanes);
            for (int p = 0; p < parts; ++p) {
                const std::ptrdiff_t at = x + p * D::size;
                D window_divisor = D::zero(), inverse = D::zero();
                if constexpr (backward) {
                    window_divisor = loadu<Isa>(in.divisors[k]->divisor + at);
                    inverse = loadu<Isa>(in.divisors[k]->inverse + at);
                }
                add_term<scaled, decltype(first)::value>(sum[p], part[p], window_divisor, inverse);
            }
        };
        if (in.starts) {
            add_row(0, std::true_type{});
        } else {
            for (int p = 0; p < parts; ++p) sum[p] = Types::load_sum(line, x + p * D::size);
            add_row(0, std::false_type{});
        }
        for (int k = 1; k < in.rows; ++k) add_row(k, std::false_type{});
        for (int p = 0; p < parts; ++p) Types::store_sum(line, x + p * D::size, sum[p]);
    }
    // Planes that are no wider than this have their columns side by side in a tile, a plane a line.
    static constexpr std::ptrdiff_t narrow_width = 16;
    struct Tile {
        alignas(64) double total[planes * narrow_width];
        alignas(64) double error[compensated ? planes * narrow_width : 1];
    };
    [[gnu::always_inline]] inline void add_narrow_plane(Tile& tile, std::ptrdiff_t plane,
                                                        const T* x, std::ptrdiff_t stride_h) const {
        const PoolLine line = {tile.total + plane * narrow_width,
                               tile.error + (compensated ? plane * narrow_width : 0)};
        for (std::ptrdiff_t c = 0; c < w.source; c += D::size) {
            const int count = static_cast<int>(smaller<Isa>(D::size, w.source - c));
            // Rows behind which the image goes on far enough are read by whole vectors.
            std::ptrdiff_t r = 0;
            std::ptrdiff_t whole = stride_h >= D::size - count ? h.source - 1 : 0;
            if (count == D::size) whole = h.source;
            Sum sum = {-D::zero(), D::zero()};
            for (; r < whole; ++r) sum.add(Types::load_wide(x + r * stride_h + c));
            for (; r < h.source; ++r) sum.add(Types::load_wide(x + r * stride_h + c, count));
            Types::store_sum(line, c, sum);
        }
    }
    // The windows of all planes of the tile.
    void add_tile(const Tile& tile) const {
        for (std::ptrdiff_t plane = 0; plane < planes; plane += D::size) {
            Sum sum = Types::zero();
            for (std::ptrdiff_t c = 0; c < w.source; c += D::size) {
                D total[D::size], error[D::size];
                transpose(tile.total + plane * narrow_width + c, narrow_width, total);
                if constexpr (compensated)
                    transpose(tile.error + plane * narrow_width + c, narrow_width, error);
                for (int i = 0; i < D::size && c + i < w.source; ++i)
                    sum.add(Sum{total[i], compensated ? error[i] : D::zero()});
            }
            Types::store_sum(windows, plane, sum);
        }
    }
    void clear_columns() const {
        for (std::ptrdiff_t x = 0; x < w.source; ++x)
            columns.total[left + x] = columns.error[left + x] = 0;
    }

    // The sum of `count` neighbouring columns, for each of a vector of results.
    [[gnu::always_inline]] inline Sum add_neighbours(std::ptrdiff_t first,
                                                     std::ptrdiff_t count) const {
        Sum sum = Types::zero();
        for (std::ptrdiff_t s = 0; s < count; ++s)
            sum.add(Types::load_sum(columns, left + first + s));
        return sum;
    }

    [[gnu::always_inline]] inline Sum add_even_windows(std::ptrdiff_t j) const {
        Sum sum = Types::zero();
        for (std::ptrdiff_t s = 0; s < w.kernel; s += 2) {
            const Sum low = Types::load_sum(columns, 2 * j + s);
            const Sum high = Types::load_sum(columns, 2 * j + s + D::size);
            sum.add(Sum{even_lanes(low.total, high.total), even_lanes(low.error, high.error)});
            if (s + 1 < w.kernel)
                sum.add(Sum{odd_lanes(low.total, high.total), odd_lanes(low.error, high.error)});
        }
        return sum;
    }
    // Even and odd results see windows that start one later every second time.
    void add_columns_interleaved() const {
        const std::ptrdiff_t even = first_column(0);
        const std::ptrdiff_t odd = first_column(1);
        const std::ptrdiff_t evens = w.pad / 2 + 1 - even;
        const std::ptrdiff_t odds = (w.pad + 1) / 2 + 1 - odd;
        for (std::ptrdiff_t j = 0; 2 * j < w.result; j += D::size) {
            const Sum a = add_neighbours(even + j, evens);
            const Sum b = add_neighbours(odd + j, odds);
            Types::store_sum(windows, 2 * j,
                             {interleave_low(a.total, b.total), interleave_low(a.error, b.error)});
            Types::store_sum(
                windows, 2 * j + D::size,
                {interleave_high(a.total, b.total), interleave_high(a.error, b.error)});
        }
    }
    void add_columns_stepwise() const {
        for (std::ptrdiff_t j = 0; j < w.result; ++j)
            add_columns_of(begin[j], end[j], windows.total[j], windows.error[j]);
    }
    [[gnu::always_inline]] inline void add_columns_of(std::ptrdiff_t from, std::ptrdiff_t to,
                                                      double& total, double& error) const {
        PoolSum<Isa, double, Types::compensated> sum = {0, 0};
        for (std::ptrdiff_t i = from; i < to; ++i)
            sum.add({columns.total[left + i], columns.error[left + i]});
        total = sum.total;
        error = sum.error;
    }

    // A row of results from its column sums; false as write_results.
    template <bool scaled>
    bool write_row(T* y, const PoolDivisors* d) const {
        if (stepwise()) {
            add_columns_stepwise();
            return write_sums<scaled>(y, w.result, d);
        }
        if (w.stride == 1) {
            const std::ptrdiff_t first = first_column(0);
            return write_results<scaled>(y, w.result, d, [&](std::ptrdiff_t j) {
                return add_neighbours(first + j, w.kernel);
            });
        }
        if constexpr (backward) {
            add_columns_interleaved();
            return write_sums<scaled>(y, w.result, d);
        } else {
            return write_results<scaled>(y, w.result, d,
                                         [&](std::ptrdiff_t j) { return add_even_windows(j); });
        }
    }
    template <bool scaled>
    bool write_sums(T* y, std::ptrdiff_t count, const PoolDivisors* d) const {
        return write_results<scaled>(y, count, d,
                                     [&](std::ptrdiff_t j) { return Types::load_sum(windows, j); });
    }

    // Finishes `count` results, whose sums are sum_of(j); d is nullptr where nothing is to be
    // divided. False if a float64 result is not finite and might be, had it been computed from
    // scaled data.
    template <bool scaled, class SumOf>
    [[gnu::always_inline]] inline bool write_results(T* y, std::ptrdiff_t count,
                                                     const PoolDivisors* d,
                                                     const SumOf& sum_of) const {
        bool finite = true;
        for_each_vec<Isa, Types::V::size>(count, [&](std::ptrdiff_t j, auto lanes) {
            D part[Types::parts];
#pragma GCC unroll 2
            for (int p = 0; p < Types::parts; ++p) {
                const std::ptrdiff_t at = j + p * D::size;
                D window_divisor = D::zero(), inverse = D::zero();
                if constexpr (!backward) {
                    window_divisor = loadu<Isa>(d->divisor + at);
                    inverse = loadu<Isa>(d->inverse + at);
                }
                part[p] = finished<scaled>(sum_of(at), window_divisor, inverse);
            }
            if constexpr (scaled) part[0] = Types::replace_not_finite(y + j, part[0], lanes);
            Types::store_parts(y + j, part, lanes, false);
            if constexpr (Types::compensated && !scaled)
                finite = finite && Types::finite(part[0], lanes);
        });
        return finite;
    }

    // Infinities and NaN have no error term: theirs is NaN.
    template <bool scaled>
    [[gnu::always_inline]] inline D finished(Sum sum, D window_divisor, D inverse) const {
        D q = sum.total;
        if constexpr (!backward) {
            q = Types::quotient(sum, window_divisor, inverse);
        } else if constexpr (Types::compensated) {
            q = sum.total + sum.error;
        }
        if constexpr (scaled) {
            D without_error = backward ? sum.total : sum.total * inverse;
            q = select(is_nan(sum.total - sum.total), without_error, q);
            q = q * D::splat(1 / scale);
        }
        return q;
    }
};

}  // namespace stableops
