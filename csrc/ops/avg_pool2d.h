#pragma once
// avg_pool2d:                    y[o] = sum of x over window o / divisor of window o
// adaptive_avg_pool2d:           the same with windows floor(o * in / out) .. ceil((o + 1) * in / out)
// and their backward functions:  grad_x[i] = sum over the windows o that hold i of
//                                            grad_y[o] / divisor of window o
//
// Shapes: x and grad_x (N, C, H, W); y and grad_y (N, C, out_h, out_w).
//
// The canonical order of every sum here: each column from top to bottom, starting from +0, then the
// column sums from left to right, starting from +0. A column is summed once for all the windows of
// a row that share it, and R + S additions round less than R * S do. Forward and backward are one
// pass, since the windows that hold an element are consecutive on either axis too: they differ in
// the spans of rows and columns, and in whether the divisor belongs to the result or to the terms.
//
// float32, float16 and bfloat16 are summed in float64, which no such sum can overflow, and rounded
// once more for float32, twice for the narrow ones: |error| <= (0.5 + n * 2^-28) ULP for n terms
// of one sign. float64 sums carry their rounding errors along (TwoSum, Ogita, Rump & Oishi 2005),
// and the division corrects its quotient by the remainder: |error| <= (0.5 + n^2 * 2^-51) ULP. A
// float64 row with a result that is not finite is computed again from x * 2^-k, so that no sum
// overflows where the mean does not; only a row of infinities or NaN pays for that in vain.
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
    PoolSpan span(std::ptrdiff_t i) const {
        if (adaptive) {
            std::ptrdiff_t end = scaled(i + 1, source, result);
            bool exact = (i + 1) * (source % result) % result == 0;
            return {scaled(i, source, result), exact ? end : end + 1};
        }
        if (!backward) {
            std::ptrdiff_t start = i * stride - pad;
            return {larger<Isa>(start, 0), smaller<Isa>(start + kernel, source)};
        }
        std::ptrdiff_t last = (i + pad) / stride;
        std::ptrdiff_t start = i + pad - kernel;
        return {start < 0 ? 0 : start / stride + 1, smaller<Isa>(last + 1, source)};
    }
    // How many elements window `o` counts along this axis.
    std::ptrdiff_t count(std::ptrdiff_t o) const {
        PoolAxis forward = *this;
        if (backward) {
            forward.source = result;
            forward.result = source;
            forward.backward = false;
        }
        if (!adaptive && count_include_pad) {
            std::ptrdiff_t start = o * stride - pad;
            return smaller<Isa>(start + kernel, forward.source + pad) - start;
        }
        PoolSpan inside = forward.span(o);
        return inside.end - inside.begin;
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
        V v = load<Isa>(p, lanes);
        if constexpr (parts == 1) {
            part[0] = v;
        } else {
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
    // The same for a single term, added to a sum.
    [[gnu::always_inline]] static inline void add_quotient(Sum& sum, D x, D divisor, D inverse) {
        D q = x * inverse;
        if constexpr (compensated) {
            D rest = fma(-q, divisor, x);
            sum.error = fma(rest, inverse, sum.error);
        }
        sum.add(q);
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
template <class Isa, class T>
struct AvgPoolPass {
    PoolAxis<Isa> h, w;
    std::int64_t divisor;  // 0: the elements of the window
    std::ptrdiff_t left;   // zeros before column 0 of `columns`
    double scale;          // a power of two that keeps sums of float64 finite
    PoolLine columns, windows;
    PoolDivisors divisors[PoolRows<T>::most];
    std::ptrdiff_t* begin;
    std::ptrdiff_t* end;

    static constexpr std::ptrdiff_t slack = 4 * Vec<Isa, float>::size;
    std::ptrdiff_t columns_length() const {
        return left + w.source + (stepwise() ? 0 : w.kernel) + slack;
    }
    // Window by window; else vectors of windows, which read the padding too.
    bool stepwise() const {
        return w.adaptive || w.kernel > 32 || (w.backward ? w.stride > 1 : w.stride > 2);
    }

    std::size_t scratch_size() const {
        using Parts = ScratchParts<Isa>;
        std::size_t line = sizeof(double) * static_cast<std::size_t>(columns_length());
        std::size_t result = sizeof(double) * static_cast<std::size_t>(w.result + slack);
        std::size_t windows_side = w.backward ? line : result;
        return 2 * Parts::aligned(line) + 4 * Parts::aligned(result) +
               2 * PoolRows<T>::most * Parts::aligned(windows_side);
    }
    void use_scratch(ScratchParts<Isa>& parts) {
        columns = {parts.template take<double>(columns_length()),
                   parts.template take<double>(columns_length())};
        for (std::ptrdiff_t i = 0; i < columns_length(); ++i) {
            columns.total[i] = 0;
            columns.error[i] = 0;
        }
        std::ptrdiff_t result = w.result + slack;
        windows = {parts.template take<double>(result), parts.template take<double>(result)};
        begin = parts.template take<std::ptrdiff_t>(result);
        end = parts.template take<std::ptrdiff_t>(result);
        for (std::ptrdiff_t j = 0; j < w.result; ++j) {
            PoolSpan span = w.span(j);
            begin[j] = left + span.begin;
            end[j] = left + span.end;
        }
        std::ptrdiff_t windows_side = w.backward ? columns_length() : result;
        for (PoolDivisors& d : divisors) {
            d.row_count = 0;
            d.divisor = parts.template take<double>(windows_side);
            d.inverse = parts.template take<double>(windows_side);
            for (std::ptrdiff_t i = 0; i < windows_side; ++i) d.divisor[i] = d.inverse[i] = 0;
        }
    }

    // The divisors of window row `o`: kept from an earlier row if possible, else in the place of
    // some that none of the first `used` rows of `in` needs.
    const PoolDivisors* divisors_of(std::ptrdiff_t o, const PoolRows<T>& in, int used) {
        std::ptrdiff_t count = divisor != 0 ? 1 : h.count(o);
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
        std::ptrdiff_t n = w.backward ? w.source : w.result;
        for (std::ptrdiff_t j = 0; j < n; ++j) {
            d.divisor[j] = static_cast<double>(divisor != 0 ? divisor : count * w.count(j));
            d.inverse[j] = 1 / d.divisor[j];
        }
        return &d;
    }

    template <bool scaled>
    void add_rows(const PoolRows<T>& in) const {
        using Types = AvgPoolTypes<Isa, T>;
        using D = typename Types::D;
        const PoolLine line = {columns.total + left, columns.error + left};
        for_each_vec<Isa, Types::V::size>(
            w.source, [&](std::ptrdiff_t x, auto lanes) [[gnu::always_inline]] {
                typename Types::Sum sum[Types::parts];
                for (int p = 0; p < Types::parts; ++p)
                    sum[p] = in.starts ? Types::zero() : Types::load_sum(line, x + p * D::size);
                for (int k = 0; k < in.rows; ++k) {
                    D part[Types::parts];
                    Types::load_parts(part, in.row[k] + x, lanes);
                    for (int p = 0; p < Types::parts; ++p) {
                        if constexpr (scaled) part[p] = part[p] * D::splat(scale);
                        if (w.backward) {
                            Types::add_quotient(
                                sum[p], part[p],
                                loadu<Isa>(in.divisors[k]->divisor + x + p * D::size),
                                loadu<Isa>(in.divisors[k]->inverse + x + p * D::size));
                        } else {
                            sum[p].add(part[p]);
                        }
                    }
                }
                for (int p = 0; p < Types::parts; ++p)
                    Types::store_sum(line, x + p * D::size, sum[p]);
            });
    }

    void add_columns() const {
        using Types = AvgPoolTypes<Isa, T>;
        using D = typename Types::D;
        using Sum = typename Types::Sum;
        if (stepwise()) {
            for (std::ptrdiff_t j = 0; j < w.result; ++j) {
                PoolSum<Isa, double, Types::compensated> sum = {0, 0};
                for (std::ptrdiff_t i = begin[j]; i < end[j]; ++i)
                    sum.add({columns.total[i], columns.error[i]});
                windows.total[j] = sum.total;
                windows.error[j] = sum.error;
            }
        } else if (w.stride == 1) {
            for (std::ptrdiff_t j = 0; j < w.result; j += D::size) {
                Sum sum = Types::zero();
                for (std::ptrdiff_t s = 0; s < w.kernel; ++s)
                    sum.add(Types::load_sum(columns, j + s));
                Types::store_sum(windows, j, sum);
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

    // False if a result is not finite and has not been computed from scaled data.
    template <bool scaled>
    bool write_row(T* y, const PoolDivisors* d) const {
        using Types = AvgPoolTypes<Isa, T>;
        using D = typename Types::D;
        bool finite = true;
        for_each_vec<Isa, Types::V::size>(
            w.result, [&](std::ptrdiff_t j, auto lanes) [[gnu::always_inline]] {
                D part[Types::parts];
                for (int p = 0; p < Types::parts; ++p) {
                    std::ptrdiff_t at = j + p * D::size;
                    typename Types::Sum sum = Types::load_sum(windows, at);
                    if (w.backward) {
                        part[p] = finished<scaled>(sum, D::splat(1), D::splat(1));
                    } else {
                        part[p] = finished<scaled>(sum, loadu<Isa>(d->divisor + at),
                                                   loadu<Isa>(d->inverse + at));
                    }
                }
                if constexpr (scaled) part[0] = replace_not_finite(y + j, part[0], lanes);
                Types::store_parts(y + j, part, lanes);
                if constexpr (Types::compensated && !scaled)
                    finite = finite && !any(is_nan(first_lanes(part[0] - part[0], lanes)));
            });
        return finite;
    }

    static typename AvgPoolTypes<Isa, T>::D first_lanes(typename AvgPoolTypes<Isa, T>::D v,
                                                        AllLanes) {
        return v;
    }
    static typename AvgPoolTypes<Isa, T>::D first_lanes(typename AvgPoolTypes<Isa, T>::D v,
                                                        FirstLanes lanes) {
        for (int i = lanes.count; i < AvgPoolTypes<Isa, T>::D::size; ++i) v.raw[i] = 0;
        return v;
    }

    // A result must not depend on its neighbours, so finite ones stay as they are.
    template <class Lanes>
    [[gnu::always_inline]] static inline typename AvgPoolTypes<Isa, T>::D replace_not_finite(
        const T* y, typename AvgPoolTypes<Isa, T>::D scaled_result, Lanes lanes) {
        typename AvgPoolTypes<Isa, T>::D old = load<Isa>(y, lanes);
        return select(is_nan(old - old), scaled_result, old);
    }

    // Infinities and NaN have no error term: theirs is NaN.
    template <bool scaled>
    [[gnu::always_inline]] inline typename AvgPoolTypes<Isa, T>::D finished(
        typename AvgPoolTypes<Isa, T>::Sum sum, typename AvgPoolTypes<Isa, T>::D divisor,
        typename AvgPoolTypes<Isa, T>::D inverse) const {
        using Types = AvgPoolTypes<Isa, T>;
        using D = typename Types::D;
        D q = Types::quotient(sum, divisor, inverse);
        if constexpr (scaled) {
            q = select(is_nan(sum.total - sum.total), sum.total * inverse, q);
            q = q * D::splat(1 / scale);
        }
        return q;
    }
};

template <class Isa, class T, bool scaled>
bool avg_pool_row(AvgPoolPass<Isa, T>& pass, RowRing<Isa, T>& ring, T* y, std::ptrdiff_t i) {
    const PoolSpan span = pass.h.span(i);
    PoolRows<T> in = {};
    for (std::ptrdiff_t r = span.begin; r < span.end; r += PoolRows<T>::most) {
        in.starts = r == span.begin;
        in.rows = static_cast<int>(smaller<Isa>(span.end - r, PoolRows<T>::most));
        for (int k = 0; k < in.rows; ++k) {
            in.row[k] = ring.row(r + k);
            if (pass.h.backward) in.divisors[k] = pass.divisors_of(r + k, in, k);
        }
        pass.template add_rows<scaled>(in);
    }
    if (span.begin >= span.end) {  // an element that no window holds
        in.starts = true;
        pass.template add_rows<scaled>(in);
    }
    pass.add_columns();
    return pass.template write_row<scaled>(
        y, pass.h.backward ? nullptr : pass.divisors_of(i, in, 0));
}

template <class Isa, class T>
void avg_pool_planes(const AvgPoolPass<Isa, T>& setup, std::ptrdiff_t batch,
                     std::ptrdiff_t channels, T* y, const T* x, const ImageStrides& stride) {
    using Ring = RowRing<Isa, T>;
    const std::ptrdiff_t row_cost =
        (setup.h.source / setup.h.result + 2) * (setup.w.source + setup.w.result);
    for_row_blocks<Isa>(
        batch * channels * setup.h.result, row_cost,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            AvgPoolPass<Isa, T> pass = setup;
            Ring ring;
            ring.width = ring.right = pass.w.source;
            ring.stride_h = stride.h;
            ring.stride_w = stride.w;
            ScratchParts<Isa> parts{static_cast<char*>(
                thread_scratch(pass.scratch_size() + Ring::scratch_size(0, ring.right)))};
            pass.use_scratch(parts);
            ring.use_scratch(parts);
            std::ptrdiff_t held = -1;
            for (std::ptrdiff_t row = begin; row < end; ++row) {
                const std::ptrdiff_t plane = row / pass.h.result;
                if (plane != held) {
                    held = plane;
                    ring.set_plane(x + plane / channels * stride.n + plane % channels * stride.c);
                }
                const std::ptrdiff_t i = row % pass.h.result;
                T* y_row = y + row * pass.w.result;
                if (!avg_pool_row<Isa, T, false>(pass, ring, y_row, i)) {
                    if constexpr (AvgPoolTypes<Isa, T>::compensated)
                        avg_pool_row<Isa, T, true>(pass, ring, y_row, i);
                }
            }
        });
}

template <class Isa, class T, bool scaled>
bool avg_pool_pixel(const AvgPoolPass<Isa, T>& pass, std::ptrdiff_t i, std::ptrdiff_t j,
                    std::ptrdiff_t channels, T* y, const T* x, const ImageStrides& stride) {
    using Types = AvgPoolTypes<Isa, T>;
    using D = typename Types::D;
    const PoolSpan rows = pass.h.span(i);
    const PoolSpan cols = pass.w.span(j);
    const auto divisor_of = [&](std::ptrdiff_t oy, std::ptrdiff_t ox) {
        return static_cast<double>(pass.divisor != 0 ? pass.divisor
                                                     : pass.h.count(oy) * pass.w.count(ox));
    };
    const double own = pass.h.backward ? 1 : divisor_of(i, j);
    bool finite = true;
    for_each_vec<Isa, Types::V::size>(
        channels, [&](std::ptrdiff_t c, auto lanes) [[gnu::always_inline]] {
            typename Types::Sum sum[Types::parts];
            for (int p = 0; p < Types::parts; ++p) sum[p] = Types::zero();
            for (std::ptrdiff_t w = cols.begin; w < cols.end; ++w) {
                typename Types::Sum column[Types::parts];
                for (int p = 0; p < Types::parts; ++p) column[p] = Types::zero();
                for (std::ptrdiff_t h = rows.begin; h < rows.end; ++h) {
                    D part[Types::parts];
                    Types::load_parts(part, x + h * stride.h + w * stride.w + c, lanes);
                    const double term = pass.h.backward ? divisor_of(h, w) : 1;
                    for (int p = 0; p < Types::parts; ++p) {
                        if constexpr (scaled) part[p] = part[p] * D::splat(pass.scale);
                        if (pass.h.backward) {
                            Types::add_quotient(column[p], part[p], D::splat(term),
                                                D::splat(1 / term));
                        } else {
                            column[p].add(part[p]);
                        }
                    }
                }
                for (int p = 0; p < Types::parts; ++p) sum[p].add(column[p]);
            }
            D part[Types::parts];
            for (int p = 0; p < Types::parts; ++p)
                part[p] =
                    pass.template finished<scaled>(sum[p], D::splat(own), D::splat(1 / own));
            if constexpr (scaled) part[0] = pass.replace_not_finite(y + c, part[0], lanes);
            Types::store_parts(y + c, part, lanes);
            if constexpr (Types::compensated && !scaled)
                finite = finite && !any(is_nan(part[0] - part[0]));
        });
    return finite;
}

// Channels of a task: enough for whole cache lines of every dtype, few enough to cut one pixel.
constexpr std::ptrdiff_t avg_pool_channels = 128;

template <class Isa, class T>
void avg_pool_channels_last(const AvgPoolPass<Isa, T>& pass, std::ptrdiff_t batch,
                            std::ptrdiff_t channels, T* y, const T* x,
                            const ImageStrides& stride) {
    const std::ptrdiff_t blocks = (channels - 1) / avg_pool_channels + 1;
    const std::ptrdiff_t pixel_cost =
        smaller<Isa>(channels, avg_pool_channels) *
        ((pass.h.source / pass.h.result + 1) * (pass.w.source / pass.w.result + 1) + 1);
    for_row_blocks<Isa>(
        batch * pass.h.result * blocks, pass.w.result * pixel_cost,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end) {
            for (std::ptrdiff_t unit = begin; unit < end; ++unit) {
                const std::ptrdiff_t row = unit / blocks;
                const std::ptrdiff_t c = unit % blocks * avg_pool_channels;
                const std::ptrdiff_t n = smaller<Isa>(channels - c, avg_pool_channels);
                const std::ptrdiff_t i = row % pass.h.result;
                const T* image = x + row / pass.h.result * stride.n + c;
                for (std::ptrdiff_t j = 0; j < pass.w.result; ++j) {
                    T* pixel = y + (row * pass.w.result + j) * channels + c;
                    if (!avg_pool_pixel<Isa, T, false>(pass, i, j, n, pixel, image, stride)) {
                        if constexpr (AvgPoolTypes<Isa, T>::compensated)
                            avg_pool_pixel<Isa, T, true>(pass, i, j, n, pixel, image, stride);
                    }
                }
            }
        });
}

template <class Isa, class T>
void avg_pool_pass(const Pool2dShape& shape, const AvgPool2dRule& rule, bool backward, T* y,
                   const T* x, const ImageStrides& stride) {
    AvgPoolPass<Isa, T> pass = {};
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
    pass.left = pass.stepwise() ? 0 : backward ? pass.w.kernel - 1 - pass.w.pad : pass.w.pad;
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
    avg_pool_pass<Isa, T>(shape, rule, false, y, x, stride);
}
template <class Isa, Storage T>
void avg_pool2d_backward(const Pool2dShape& shape, const AvgPool2dRule& rule, T* grad_x,
                         const T* grad_y, const ImageStrides& stride) {
    avg_pool_pass<Isa, T>(shape, rule, true, grad_x, grad_y, stride);
}

}  // namespace stableops
