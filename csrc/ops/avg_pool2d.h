#pragma once
// avg_pool2d:                    y[o] = sum of x over window o / divisor of window o
// adaptive_avg_pool2d:           the same with windows floor(o * in / out) .. ceil((o + 1) * in / out)
// and their backward functions:  grad_x[i] = sum over the windows o that hold i of
//                                            grad_y[o] / divisor of window o
//
// Shapes: x and grad_x (N, C, H, W); y and grad_y (N, C, out_h, out_w).
//
// The canonical order of every sum here: each column from top to bottom, then the column sums from
// left to right, starting from +0. A column is summed once for all the windows of
// a row that share it, and R + S additions round less than R * S do. Forward and backward are one
// pass, since the windows that hold an element are consecutive on either axis too: they differ in
// the spans of rows and columns, and in whether the divisor belongs to the result or to the terms.
//
// float32, float16 and bfloat16 are summed in float64, which no such sum can overflow, and rounded
// once more for float32, twice for the narrow ones: |error| <= (0.5 + n * 2^-28) ULP for n terms
// of one sign. float64 sums carry their rounding errors along (TwoSum, Ogita, Rump & Oishi 2005),
// and the division corrects its quotient by the remainder: |error| <= (0.5 + n^2 * 2^-51) ULP. A
// float64 result that is not finite is computed again from x * 2^-k, so that no sum overflows where
// the mean does not; only infinities and NaN pay for that in vain.
#include "../pool2d_shape.h"
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
        return {loadu<Isa>(line.total + i),
                compensated ? loadu<Isa>(line.error + i) : D::zero()};
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
    template <class Lanes>
    [[gnu::always_inline]] static inline void store_parts(T* p, const D (&part)[parts],
                                                          Lanes lanes) {
        if constexpr (parts == 1) {
            store<Isa>(p, part[0], lanes);
        } else {
            store<Isa>(p, narrow(part[0], part[1]), lanes);
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
    std::ptrdiff_t divisors_length() const {
        return (backward ? w.source : w.result) + slack;
    }
    // One window a plane, all of it: the results of `planes` planes are finished together.
    bool whole_planes() const {
        return !backward && h.result == 1 && w.result == 1 && h.span(0).end == h.source &&
               w.span(0).end == w.source;
    }
    static constexpr std::ptrdiff_t planes = Vec<Isa, float>::size;

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
    void use_scratch(ScratchParts<Isa>& parts) {
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
    [[gnu::always_inline]] inline void add_term(Sum& sum, D x, D window_divisor,
                                                D inverse) const {
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
        for_each_vec<Isa, Types::V::size>(
            w.source, [&](std::ptrdiff_t x, auto lanes) [[gnu::always_inline]] {
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
        const auto add_row = [&](int k, auto first) [[gnu::always_inline]] {
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
    // The columns of a plane that is no wider than a vector, without a detour through memory.
    void add_narrow_plane(const T* x, std::ptrdiff_t stride_h) const {
        const FirstLanes lanes{static_cast<int>(w.source)};
        D part[Types::parts];
        Types::load_parts(part, x, lanes);
        Sum sum = {part[0], D::zero()};
        for (std::ptrdiff_t r = 1; r < h.source; ++r) {
            Types::load_parts(part, x + r * stride_h, lanes);
            sum.add(part[0]);
        }
        Types::store_sum(columns, left, sum);
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

    void add_columns() const {
        if (stepwise()) {
            add_columns_stepwise();
        } else if (w.stride == 1) {
            const std::ptrdiff_t first = first_column(0);
            for (std::ptrdiff_t j = 0; j < w.result; j += D::size)
                Types::store_sum(windows, j, add_neighbours(first + j, w.kernel));
        } else if constexpr (backward) {
            // Even and odd results see windows that start one later every second time.
            const std::ptrdiff_t even = first_column(0);
            const std::ptrdiff_t odd = first_column(1);
            const std::ptrdiff_t evens = w.pad / 2 + 1 - even;
            const std::ptrdiff_t odds = (w.pad + 1) / 2 + 1 - odd;
            for (std::ptrdiff_t j = 0; 2 * j < w.result; j += D::size) {
                Sum a = add_neighbours(even + j, evens);
                Sum b = add_neighbours(odd + j, odds);
                Types::store_sum(windows, 2 * j,
                                 {interleave_low(a.total, b.total),
                                  interleave_low(a.error, b.error)});
                Types::store_sum(windows, 2 * j + D::size,
                                 {interleave_high(a.total, b.total),
                                  interleave_high(a.error, b.error)});
            }
        } else {
            for (std::ptrdiff_t j = 0; j < w.result; j += D::size) {
                Sum sum = Types::zero();
                for (std::ptrdiff_t s = 0; s < w.kernel; s += 2) {
                    Sum low = Types::load_sum(columns, 2 * j + s);
                    Sum high = Types::load_sum(columns, 2 * j + s + D::size);
                    sum.add(Sum{even_lanes(low.total, high.total),
                                even_lanes(low.error, high.error)});
                    if (s + 1 < w.kernel)
                        sum.add(Sum{odd_lanes(low.total, high.total),
                                    odd_lanes(low.error, high.error)});
                }
                Types::store_sum(windows, j, sum);
            }
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

    // Finishes `count` results; d is nullptr where nothing is to be divided. False if a float64
    // result is not finite and might be, had it been computed from scaled data.
    template <bool scaled>
    bool write_results(T* y, std::ptrdiff_t count, const PoolDivisors* d) const {
        bool finite = true;
        for_each_vec<Isa, Types::V::size>(
            count, [&](std::ptrdiff_t j, auto lanes) [[gnu::always_inline]] {
                D part[Types::parts];
                for (int p = 0; p < Types::parts; ++p) {
                    const std::ptrdiff_t at = j + p * D::size;
                    D window_divisor = D::zero(), inverse = D::zero();
                    if constexpr (!backward) {
                        window_divisor = loadu<Isa>(d->divisor + at);
                        inverse = loadu<Isa>(d->inverse + at);
                    }
                    part[p] = finished<scaled>(Types::load_sum(windows, at), window_divisor,
                                               inverse);
                }
                if constexpr (scaled)
                    part[0] = Types::replace_not_finite(y + j, part[0], lanes);
                Types::store_parts(y + j, part, lanes);
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

// Sums the columns of result row i.
template <bool scaled, class Isa, class T, bool backward>
void avg_pool_columns(AvgPoolPass<Isa, T, backward>& pass, RowRing<Isa, T>& ring,
                                     std::ptrdiff_t i) {
    const PoolSpan span = pass.h.span(i);
    PoolRows<T> in;
    in.rows = 0;
    in.starts = true;
    for (std::ptrdiff_t r = span.begin; r < span.end; r += PoolRows<T>::most) {
        in.starts = r == span.begin;
        in.rows = static_cast<int>(smaller<Isa>(span.end - r, PoolRows<T>::most));
        for (int k = 0; k < in.rows; ++k) {
            in.row[k] = ring.row(r + k);
            if constexpr (backward) in.divisors[k] = pass.divisors_of(r + k, in, k);
        }
        pass.template add_rows<scaled>(in);
    }
    if (span.begin >= span.end) pass.clear_columns();  // no window holds this row
}

// Row i of the results, at y, from its column sums.
template <class Isa, class T, bool backward>
void avg_pool_row(AvgPoolPass<Isa, T, backward>& pass, RowRing<Isa, T>& ring, T* y,
                  std::ptrdiff_t i) {
    const PoolDivisors* d = backward ? nullptr : pass.divisors_of(i, {}, 0);
    pass.add_columns();
    if (pass.template write_results<false>(y, pass.w.result, d)) return;
    if constexpr (AvgPoolTypes<Isa, T>::compensated) {
        avg_pool_columns<true>(pass, ring, i);
        pass.add_columns();
        pass.template write_results<true>(y, pass.w.result, d);
    }
}

template <class Isa, class T, bool backward>
void avg_pool_planes(const AvgPoolPass<Isa, T, backward>& setup, std::ptrdiff_t batch,
                     std::ptrdiff_t channels, T* y, const T* x, const ImageStrides& stride) {
    using Ring = RowRing<Isa, T>;
    using Pass = AvgPoolPass<Isa, T, backward>;
    const std::ptrdiff_t rows_added = setup.h.source / setup.h.result + 2;
    const std::ptrdiff_t row_cost = rows_added * (setup.w.source + setup.w.result) + 64;
    for_row_blocks<Isa>(
        batch, channels, setup.h.result, row_cost, [&](RowRange<Isa> range) {
            Pass pass = setup;
            Ring ring;
            ring.width = ring.right = pass.w.source;
            ring.stride_h = stride.h;
            ring.stride_w = stride.w;
            ScratchParts<Isa> parts{static_cast<char*>(
                thread_scratch(pass.scratch_size() + ring.scratch_size()))};
            pass.use_scratch(parts);
            ring.use_scratch(parts, T{});
            const auto set_plane = [&](std::ptrdiff_t n, std::ptrdiff_t c) {
                ring.set_plane(x + n * stride.n + c * stride.c);
            };
            if (pass.whole_planes()) {
                const bool narrow =
                    stride.w == 1 && pass.w.source <= AvgPoolTypes<Isa, T>::D::size;
                const PoolDivisors* d = pass.divisors_of(0, {}, 0);
                while (range.next_plane()) {
                    std::ptrdiff_t count = 0;
                    T* first_y = y + range.plane();
                    do {
                        if (narrow) {
                            pass.add_narrow_plane(
                                x + range.outer * stride.n + range.inner * stride.c, stride.h);
                        } else {
                            set_plane(range.outer, range.inner);
                            avg_pool_columns<false>(pass, ring, 0);
                        }
                        pass.add_columns_of(pass.begin[0], pass.end[0],
                                            pass.windows.total[count], pass.windows.error[count]);
                    } while (++count < Pass::planes && range.next_plane());
                    if (!pass.template write_results<false>(first_y, count, d)) {
                        if constexpr (AvgPoolTypes<Isa, T>::compensated) {
                            for (std::ptrdiff_t k = 0; k < count; ++k) {
                                const std::ptrdiff_t plane = first_y + k - y;
                                set_plane(plane / channels, plane % channels);
                                avg_pool_columns<false>(pass, ring, 0);
                                avg_pool_row(pass, ring, first_y + k, 0);
                            }
                        }
                    }
                }
                return;
            }
            while (range.next_plane()) {
                set_plane(range.outer, range.inner);
                T* plane_y = y + range.plane() * pass.h.result * pass.w.result;
                // The columns of row i + 1 are summed before those of row i are read, for the sake
                // of vectors that straddle two stores.
                const auto same_rows = [&](std::ptrdiff_t i) {
                    if (!backward || i == range.first) return false;
                    const PoolSpan a = pass.h.span(i), b = pass.h.span(i - 1);
                    return a.begin == b.begin && a.end == b.end;
                };
                avg_pool_columns<false>(pass, ring, range.first);
                for (std::ptrdiff_t i = range.first; i < range.last; ++i) {
                    T* y_row = plane_y + i * pass.w.result;
                    const bool other_next = i + 1 < range.last && !same_rows(i + 1);
                    if (other_next) {
                        pass.swap_columns();
                        avg_pool_columns<false>(pass, ring, i + 1);
                        pass.swap_columns();
                    }
                    if (same_rows(i)) {  // the same windows hold both rows
                        __builtin_memcpy(y_row, y_row - pass.w.result,
                                         static_cast<std::size_t>(pass.w.result) * sizeof(T));
                    } else {
                        avg_pool_row(pass, ring, y_row, i);
                    }
                    if (other_next) pass.swap_columns();
                }
            }
        });
}

// What the results of row i have in common where channels are vectors.
template <class Isa, class T, bool backward>
struct PixelRow {
    using Pass = AvgPoolPass<Isa, T, backward>;
    PoolSpan rows;
    const PoolDivisors* own = nullptr;  // of the results
    PoolRows<T> in = {};                // divisors of the first rows only, in the backward pass

    PixelRow(Pass& pass, std::ptrdiff_t i) : rows(pass.h.span(i)) {
        if constexpr (backward) {
            const std::ptrdiff_t n = smaller<Isa>(rows.end - rows.begin, PoolRows<T>::most);
            for (; in.rows < n; ++in.rows)
                in.divisors[in.rows] = pass.divisors_of(rows.begin + in.rows, in, in.rows);
        } else {
            own = pass.divisors_of(i, in, 0);
        }
    }
    const PoolDivisors* term_divisors(Pass& pass, std::ptrdiff_t h) const {
        if (rows.end - rows.begin <= PoolRows<T>::most) return in.divisors[h - rows.begin];
        return pass.divisors_of(h, in, 0);
    }
};

// The sum of column w over the rows, for a vector of channels at x.
template <bool scaled, class Isa, class T, bool backward, class Lanes, int parts>
[[gnu::always_inline]] inline void add_column(
    AvgPoolPass<Isa, T, backward>& pass, const PixelRow<Isa, T, backward>& row,
    PoolSum<Isa, Vec<Isa, double>, AvgPoolTypes<Isa, T>::compensated> (&column)[parts],
    std::ptrdiff_t w, const T* x, const ImageStrides& stride, Lanes lanes) {
    using Types = AvgPoolTypes<Isa, T>;
    using D = typename Types::D;
    const auto add_row = [&](std::ptrdiff_t h, auto first) [[gnu::always_inline]] {
        D part[parts];
        Types::load_parts(part, x + h * stride.h + w * stride.w, lanes);
        D divisor = D::zero(), inverse = D::zero();
        if constexpr (backward) {
            const PoolDivisors* d = row.term_divisors(pass, h);
            divisor = D::splat(d->divisor[w]);
            inverse = D::splat(d->inverse[w]);
        }
        for (int p = 0; p < parts; ++p)
            pass.template add_term<scaled, decltype(first)::value>(column[p], part[p], divisor,
                                                                   inverse);
    };
    if (row.rows.begin >= row.rows.end) {  // no window holds this row
        for (int p = 0; p < parts; ++p) column[p] = Types::zero();
        return;
    }
    add_row(row.rows.begin, std::true_type{});
    for (std::ptrdiff_t h = row.rows.begin + 1; h < row.rows.end; ++h)
        add_row(h, std::false_type{});
}

// One pixel of the results for some channels, at y. `sum_of(sum, c, lanes)` sums its columns.
template <bool scaled, class Isa, class T, bool backward, class SumOf>
[[gnu::always_inline]] inline bool write_pixel(const AvgPoolPass<Isa, T, backward>& pass,
                                               const PixelRow<Isa, T, backward>& row,
                                               std::ptrdiff_t j, std::ptrdiff_t channels, T* y,
                                               const SumOf& sum_of) {
    using Types = AvgPoolTypes<Isa, T>;
    using D = typename Types::D;
    const D divisor = D::splat(backward ? 1 : row.own->divisor[j]);
    const D inverse = D::splat(backward ? 1 : row.own->inverse[j]);
    bool finite = true;
    for_each_vec<Isa, Types::V::size>(
        channels, [&](std::ptrdiff_t c, auto lanes) [[gnu::always_inline]] {
            typename Types::Sum sum[Types::parts];
            for (int p = 0; p < Types::parts; ++p) sum[p] = Types::zero();
            sum_of(sum, c, lanes);
            D part[Types::parts];
            for (int p = 0; p < Types::parts; ++p)
                part[p] = pass.template finished<scaled>(sum[p], divisor, inverse);
            if constexpr (scaled) part[0] = Types::replace_not_finite(y + c, part[0], lanes);
            Types::store_parts(y + c, part, lanes);
            if constexpr (Types::compensated && !scaled)
                finite = finite && Types::finite(part[0], lanes);
        });
    return finite;
}

template <bool scaled, class Isa, class T, bool backward>
bool avg_pool_pixel(AvgPoolPass<Isa, T, backward>& pass, const PixelRow<Isa, T, backward>& row,
                    std::ptrdiff_t j, std::ptrdiff_t channels, T* y, const T* x,
                    const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    return write_pixel<scaled>(
        pass, row, j, channels, y,
        [&](auto& sum, std::ptrdiff_t c, auto lanes) [[gnu::always_inline]] {
            for (std::ptrdiff_t w = pass.begin[j]; w < pass.end[j]; ++w) {
                typename Types::Sum column[Types::parts];
                add_column<scaled>(pass, row, column, w, x + c, stride, lanes);
                for (int p = 0; p < Types::parts; ++p) sum[p].add(column[p]);
            }
        });
}

// Sums of columns that several windows share, or of all columns: column w is in slot w % slots.
template <class Isa>
struct ColumnRing {
    static constexpr std::ptrdiff_t shared_slots = 16;
    PoolLine lines;
    std::ptrdiff_t slots;  // a power of two, or all
    std::ptrdiff_t pitch;

    PoolLine column(std::ptrdiff_t w) const {
        const std::ptrdiff_t at = (slots == shared_slots ? w % shared_slots : w) * pitch;
        return {lines.total + at, lines.error + at};
    }
};

// Channels of a task: whole cache lines of every dtype; few enough to cut one pixel into tasks.
constexpr std::ptrdiff_t avg_pool_channels = 128;

// The mean of whole planes: all columns at once, so that memory is read in its own order.
template <class Isa, class T, bool backward>
void avg_pool_image(AvgPoolPass<Isa, T, backward>& pass, const PixelRow<Isa, T, backward>& row,
                    const ColumnRing<Isa>& ring, std::ptrdiff_t channels, T* y, const T* x,
                    const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    constexpr int size = Types::D::size;
    for (std::ptrdiff_t h = 0; h < pass.h.source; ++h)
        for (std::ptrdiff_t w = 0; w < pass.w.source; ++w) {
            const T* pixel = x + h * stride.h + w * stride.w;
            const PoolLine line = ring.column(w);
            for_each_vec<Isa, Types::V::size>(
                channels, [&](std::ptrdiff_t c, auto lanes) [[gnu::always_inline]] {
                    typename Types::D part[Types::parts];
                    Types::load_parts(part, pixel + c, lanes);
                    for (int p = 0; p < Types::parts; ++p) {
                        typename Types::Sum sum = {part[p], Types::D::zero()};
                        if (h > 0) {
                            sum = Types::load_sum(line, c + p * size);
                            sum.add(part[p]);
                        }
                        Types::store_sum(line, c + p * size, sum);
                    }
                });
        }
    const bool finite = write_pixel<false>(
        pass, row, 0, channels, y,
        [&](auto& sum, std::ptrdiff_t c, auto) [[gnu::always_inline]] {
            for (std::ptrdiff_t w = 0; w < pass.w.source; ++w)
                for (int p = 0; p < Types::parts; ++p)
                    sum[p].add(Types::load_sum(ring.column(w), c + p * size));
        });
    if constexpr (Types::compensated) {
        if (!finite) avg_pool_pixel<true>(pass, row, 0, channels, y, x, stride);
    }
}

template <class Isa, class T, bool backward>
void avg_pool_pixels(AvgPoolPass<Isa, T, backward>& pass, const PixelRow<Isa, T, backward>& row,
                     const ColumnRing<Isa>& ring, std::ptrdiff_t channels,
                     std::ptrdiff_t pixel_pitch, T* y, const T* x, const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    constexpr int size = Types::D::size;
    std::ptrdiff_t next = 0;
    for (std::ptrdiff_t j = 0; j < pass.w.result; ++j) {
        for (next = larger<Isa>(next, pass.begin[j]); next < pass.end[j]; ++next) {
            const PoolLine line = ring.column(next);
            for_each_vec<Isa, Types::V::size>(
                channels, [&](std::ptrdiff_t c, auto lanes) [[gnu::always_inline]] {
                    typename Types::Sum column[Types::parts];
                    add_column<false>(pass, row, column, next, x + c, stride, lanes);
                    for (int p = 0; p < Types::parts; ++p)
                        Types::store_sum(line, c + p * size, column[p]);
                });
        }
        T* pixel = y + j * pixel_pitch;
        const bool finite = write_pixel<false>(
            pass, row, j, channels, pixel,
            [&](auto& sum, std::ptrdiff_t c, auto) [[gnu::always_inline]] {
                for (std::ptrdiff_t w = pass.begin[j]; w < pass.end[j]; ++w) {
                    const PoolLine line = ring.column(w);
                    for (int p = 0; p < Types::parts; ++p)
                        sum[p].add(Types::load_sum(line, c + p * size));
                }
            });
        if constexpr (Types::compensated) {
            if (!finite) avg_pool_pixel<true>(pass, row, j, channels, pixel, x, stride);
        }
    }
}

template <class Isa, class T, bool backward>
void avg_pool_channels_last(const AvgPoolPass<Isa, T, backward>& setup, std::ptrdiff_t batch,
                            std::ptrdiff_t channels, T* y, const T* x,
                            const ImageStrides& stride) {
    using Pass = AvgPoolPass<Isa, T, backward>;
    using Types = AvgPoolTypes<Isa, T>;
    const std::ptrdiff_t blocks = (channels - 1) / avg_pool_channels + 1;
    const std::ptrdiff_t block = smaller<Isa>(channels, avg_pool_channels);
    const std::ptrdiff_t taps =
        (setup.h.source / setup.h.result + 1) * (setup.w.source / setup.w.result + 1);
    const bool overlap = !setup.w.adaptive && setup.w.kernel > setup.w.stride &&
                         setup.w.kernel < ColumnRing<Isa>::shared_slots;
    for_row_blocks<Isa>(
        batch, setup.h.result, blocks, setup.w.result * (block * (taps + 1) + 64),
        [&](RowRange<Isa> range) {
            Pass pass = setup;
            ColumnRing<Isa> ring;
            ring.slots = pass.whole_planes() ? pass.w.source : ring.shared_slots;
            ring.pitch = (block + 2 * Types::V::size - 1) / 16 * 16 + 16;
            const std::ptrdiff_t ring_size = ring.slots * ring.pitch;
            ScratchParts<Isa> parts{static_cast<char*>(
                thread_scratch(pass.scratch_size() +
                               2 * sizeof(double) * static_cast<std::size_t>(ring_size)))};
            pass.use_scratch(parts);
            ring.lines = {parts.template take<double>(ring_size),
                          parts.template take<double>(ring_size)};
            while (range.next_plane()) {
                const PixelRow<Isa, T, backward> row(pass, range.inner);
                for (std::ptrdiff_t b = range.first; b < range.last; ++b) {
                    const std::ptrdiff_t c = b * avg_pool_channels;
                    const std::ptrdiff_t n = smaller<Isa>(channels - c, avg_pool_channels);
                    const T* image = x + range.outer * stride.n + c;
                    T* y_row = y + range.plane() * pass.w.result * channels + c;
                    if (pass.whole_planes()) {
                        avg_pool_image(pass, row, ring, n, y_row, image, stride);
                        continue;
                    }
                    if (overlap) {
                        avg_pool_pixels(pass, row, ring, n, channels, y_row, image, stride);
                        continue;
                    }
                    for (std::ptrdiff_t j = 0; j < pass.w.result; ++j) {
                        T* pixel = y_row + j * channels;
                        if (!avg_pool_pixel<false>(pass, row, j, n, pixel, image, stride)) {
                            if constexpr (Types::compensated)
                                avg_pool_pixel<true>(pass, row, j, n, pixel, image, stride);
                        }
                    }
                }
            }
        });
}

template <bool backward, class Isa, class T>
void avg_pool_pass(const Pool2dShape& shape, const AvgPool2dRule& rule, T* y, const T* x,
                   const ImageStrides& stride) {
    AvgPoolPass<Isa, T, backward> pass = {};
    pass.h = {shape.height, shape.out_h,   shape.kernel_h, shape.stride_h,
              shape.pad_h,  rule.adaptive, backward,       rule.count_include_pad};
    pass.w = {shape.width, shape.out_w,   shape.kernel_w, shape.stride_w,
              shape.pad_w, rule.adaptive, backward,       rule.count_include_pad};
    double terms = 1;
    for (PoolAxis<Isa>* axis : {&pass.h, &pass.w}) {
        terms *= static_cast<double>(rule.adaptive ? axis->source : axis->kernel);
        if (backward) {
            const std::ptrdiff_t image = axis->source;
            axis->source = axis->result;
            axis->result = image;
        }
        axis->make_regular();
    }
    pass.divisor = rule.divisor;
    pass.left = pass.stepwise() ? 0 : larger<Isa>(0, -pass.first_column(0));
    pass.scale = 0.125;
    for (; terms > 1; terms *= 0.5) pass.scale *= 0.5;
    if (shape.channels_last) {
        avg_pool_channels_last(pass, shape.batch, shape.channels, y, x, stride);
    } else {
        avg_pool_planes(pass, shape.batch, shape.channels, y, x, stride);
    }
}

// `stride` is that of x or grad_y, which are read; the results are contiguous.
template <class Isa, Storage T>
void avg_pool2d(const Pool2dShape& shape, const AvgPool2dRule& rule, T* y, const T* x,
                const ImageStrides& stride) {
    avg_pool_pass<false, Isa, T>(shape, rule, y, x, stride);
}
template <class Isa, Storage T>
void avg_pool2d_backward(const Pool2dShape& shape, const AvgPool2dRule& rule, T* grad_x,
                         const T* grad_y, const ImageStrides& stride) {
    avg_pool_pass<true, Isa, T>(shape, rule, grad_x, grad_y, stride);
}

}  // namespace stableops
