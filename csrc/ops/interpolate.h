#pragma once
// Interpolation of images, nearest and bilinear, and its adjoint.
//
// Along each axis output o has two taps (bilinear: inputs first and second with weights that add up
// to 1) or one (nearest). Where it lies is resize_shape.h's formula, clamped to the image, as in
// PyTorch:
//
//   y[oh, ow] = low(oh) h(first(oh), ow) + high(oh) h(second(oh), ow),
//   h(r, ow)  = low(ow) x[r, first(ow)]  + high(ow) x[r, second(ow)],
//
// products and sums in the compute type, each rounded: at most 4 units of 2^-24 (2^-53) of the sum
// of |terms|. Nearest copies.
//
// The adjoint adds up, in float64, for input row r first over the output rows and then over the
// output columns, both ascending, so that it needs one row of sums:
//
//   grad_x[r, i] = sum over ow of weight_i(ow) (sum over oh of weight_r(oh) grad_y[oh, ow]).
//
// Planes: rows pass through scratch if they are no unit-stride rows of the compute type. Pixels
// (channels-last): registers hold channels.
#include "../resize_shape.h"
#include "elementwise.h"

namespace stableops {

// The taps of an axis of `out` outputs.
template <class C>
struct AxisTaps {
    std::ptrdiff_t in, out;
    std::int32_t *first, *second;  // by output
    C *low, *high;
    std::int32_t *begin, *end;  // by input: the outputs that may have it for a tap
};

template <class Isa, class C>
std::size_t taps_bytes(std::ptrdiff_t in, std::ptrdiff_t out) {
    return static_cast<std::size_t>(out) * (2 * sizeof(std::int32_t) + 2 * sizeof(C)) +
           static_cast<std::size_t>(in) * 2 * sizeof(std::int32_t);
}

template <class Isa, class C>
AxisTaps<C> make_taps(char* memory, std::ptrdiff_t in, std::ptrdiff_t out, double factor,
                      bool bilinear, bool align_corners) {
    AxisTaps<C> t;
    t.in = in;
    t.out = out;
    t.low = reinterpret_cast<C*>(memory);
    t.high = t.low + out;
    t.first = reinterpret_cast<std::int32_t*>(t.high + out);
    t.second = t.first + out;
    t.begin = t.second + out;
    t.end = t.begin + in;
    // As PyTorch: nearest images of the same or twice the size ignore a fractional factor.
    const bool from_sizes = factor == 0 || (bilinear ? align_corners : out == in || out == 2 * in);
    for (std::ptrdiff_t i = 0; i < in; ++i) {
        t.begin[i] = static_cast<std::int32_t>(out);
        t.end[i] = 0;
    }
    const auto reaches = [&](std::ptrdiff_t i, std::ptrdiff_t o) {
        t.begin[i] = static_cast<std::int32_t>(min_of<Isa>(t.begin[i], o));
        t.end[i] = static_cast<std::int32_t>(o + 1);
    };
    for (std::ptrdiff_t o = 0; o < out; ++o) {
        // Place first + rest / parts of the input: quotients of whole numbers have no error.
        std::ptrdiff_t first;
        double rest = 0, parts = 1;
        if (from_sizes) {
            std::ptrdiff_t number = o * in, divisor = out;
            if (bilinear) {
                number = align_corners ? o * (in - 1) : (2 * o + 1) * in - out;
                divisor = align_corners ? out - 1 : 2 * out;
                if (number < 0 || divisor == 0) number = 0;
                if (divisor == 0) divisor = 1;
            }
            first = number / divisor;
            rest = static_cast<double>(number % divisor);
            parts = static_cast<double>(divisor);
        } else {
            // Not times 1 / factor: 49 * (1 / 49) is less than 1.
            double place = static_cast<double>(o) / factor;
            if (bilinear) place = (static_cast<double>(o) + 0.5) / factor - 0.5;
            if (place < 0) place = 0;
            first = static_cast<std::ptrdiff_t>(place);
            rest = place - static_cast<double>(first);
        }
        if (first > in - 1) {
            first = in - 1;
            rest = 0;
        }
        if (!bilinear) rest = 0;
        const std::ptrdiff_t second = bilinear ? min_of<Isa>(first + 1, in - 1) : first;
        t.first[o] = static_cast<std::int32_t>(first);
        t.second[o] = static_cast<std::int32_t>(second);
        t.high[o] = static_cast<C>(rest / parts);
        t.low[o] = static_cast<C>((parts - rest) / parts);
        reaches(first, o);
        reaches(second, o);
    }
    return t;
}

template <class Isa, class C>
struct ImageTaps {
    void* block;
    AxisTaps<C> h, w;

    ImageTaps(const ResizeShape& s, bool bilinear) {
        const std::size_t bytes = (taps_bytes<Isa, C>(s.in_h, s.out_h) + 63) / 64 * 64;
        block = acquire_block(bytes + taps_bytes<Isa, C>(s.in_w, s.out_w));
        char* memory = static_cast<char*>(block);
        h = make_taps<Isa, C>(memory, s.in_h, s.out_h, s.factor_h, bilinear, s.align_corners);
        w = make_taps<Isa, C>(memory + bytes, s.in_w, s.out_w, s.factor_w, bilinear,
                              s.align_corners);
    }
    ~ImageTaps() { release_block(block); }
    ImageTaps(const ImageTaps&) = delete;
    ImageTaps& operator=(const ImageTaps&) = delete;
};

static inline bool in_pixels(const ResizeShape& s) {
    return s.channels > 1 && s.x.c == 1 && s.y.c == 1 && s.x.w != 1 && s.y.w != 1;
}

// f(batch, channel, first row, end row) over `rows` rows of every plane (or, in pixels, of all
// planes at once, channel 0).
template <class Isa, class F>
void for_image_rows(const ResizeShape& s, std::ptrdiff_t rows, std::ptrdiff_t row_cost,
                    const F& f) {
    const std::ptrdiff_t channels = in_pixels(s) ? 1 : s.channels;
    if (in_pixels(s)) row_cost *= s.channels;
    std::ptrdiff_t each = 32768 / (row_cost + 1) + 1;
    each = min_of<Isa>(each, rows);
    const std::ptrdiff_t parts = (rows + each - 1) / each;
    parallel_for<Isa>(s.batch * channels * parts, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t first = task % parts * each, plane = task / parts;
        f(plane / channels, plane % channels, first, min_of<Isa>(rows, first + each));
    });
}

template <class Isa, Storage T>
void nearest(T* y, const T* x, const ResizeShape& s) {
    const ImageTaps<Isa, Compute<T>> taps(s, false);
    for_image_rows<Isa>(
        s, s.out_h, s.out_w,
        [&](std::ptrdiff_t n, std::ptrdiff_t c, std::ptrdiff_t first, std::ptrdiff_t end) {
            for (std::ptrdiff_t oh = first; oh < end; ++oh) {
                const T* from = x + n * s.x.n + c * s.x.c + taps.h.first[oh] * s.x.h;
                T* to = y + n * s.y.n + c * s.y.c + oh * s.y.h;
                if (in_pixels(s)) {
                    for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow)
                        __builtin_memcpy(to + ow * s.y.w, from + taps.w.first[ow] * s.x.w,
                                         static_cast<std::size_t>(s.channels) * sizeof(T));
                } else if (oh > first && taps.h.first[oh] == taps.h.first[oh - 1] && s.y.w == 1) {
                    __builtin_memcpy(to, to - s.y.h, static_cast<std::size_t>(s.out_w) * sizeof(T));
                } else {
                    for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow)
                        to[ow * s.y.w] = from[taps.w.first[ow] * s.x.w];
                }
            }
        });
}

// `n` elements at any stride, in the compute type; in place if they lie so.
template <class Isa, Storage T>
const Compute<T>* wide_row(const T* from, std::ptrdiff_t stride, std::ptrdiff_t n, T* packed,
                           Compute<T>* wide) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        if (stride == 1) return from;
        gather_line<Isa>(n, wide, from, stride);
    } else {
        if (stride != 1) {
            gather_line<Isa>(n, packed, from, stride);
            from = packed;
        }
        for_each_vec<Isa, Vec<Isa, float>::size>(n, [&](std::ptrdiff_t i, auto lanes) {
            store<Isa>(wide + i, load<Isa>(from + i, lanes), lanes);
        });
    }
    return wide;
}

template <class Isa, Storage T>
void bilinear_rows(T* y, const T* x, const ResizeShape& s, const ImageTaps<Isa, Compute<T>>& taps,
                   std::ptrdiff_t first, std::ptrdiff_t end) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    const std::size_t longest = static_cast<std::size_t>(s.in_w > s.out_w ? s.in_w : s.out_w);
    C* wide = static_cast<C*>(thread_scratch(longest * (3 * sizeof(C) + sizeof(T))));
    C* const rows[2] = {wide + longest, wide + 2 * longest};
    T* packed = reinterpret_cast<T*>(wide + 3 * longest);
    std::int32_t held[2] = {-1, -1};
    // Row r, interpolated along the columns.
    const auto row = [&](std::int32_t r) -> const C* {
        C* const to = rows[r & 1];
        if (held[r & 1] == r) return to;
        held[r & 1] = r;
        const C* from = wide_row<Isa>(x + r * s.x.h, s.x.w, s.in_w, packed, wide);
        for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow)
            to[ow] =
                from[taps.w.first[ow]] * taps.w.low[ow] + from[taps.w.second[ow]] * taps.w.high[ow];
        return to;
    };
    for (std::ptrdiff_t oh = first; oh < end; ++oh) {
        const C* above = row(taps.h.first[oh]);
        const C* below = row(taps.h.second[oh]);
        const V low = V::splat(taps.h.low[oh]), high = V::splat(taps.h.high[oh]);
        T* const out = y + oh * s.y.h;
        T* const to = s.y.w == 1 ? out : packed;
        for_each_vec<Isa, V::size>(s.out_w, [&](std::ptrdiff_t i, auto lanes) {
            store<Isa>(to + i,
                       load<Isa>(above + i, lanes) * low + load<Isa>(below + i, lanes) * high,
                       lanes);
        });
        if (to != out) scatter_line<Isa>(s.out_w, out, s.y.w, to);
    }
}

template <class Isa, Storage T>
void bilinear(T* y, const T* x, const ResizeShape& s) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    const ImageTaps<Isa, C> taps(s, true);
    for_image_rows<Isa>(
        s, s.out_h, 2 * s.out_w,
        [&](std::ptrdiff_t n, std::ptrdiff_t c, std::ptrdiff_t first, std::ptrdiff_t end) {
            const T* image = x + n * s.x.n + c * s.x.c;
            T* result = y + n * s.y.n + c * s.y.c;
            if (!in_pixels(s)) {
                bilinear_rows<Isa>(result, image, s, taps, first, end);
                return;
            }
            for (std::ptrdiff_t oh = first; oh < end; ++oh) {
                const V low = V::splat(taps.h.low[oh]), high = V::splat(taps.h.high[oh]);
                for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow) {
                    const V left = V::splat(taps.w.low[ow]), right = V::splat(taps.w.high[ow]);
                    const T* above = image + taps.h.first[oh] * s.x.h;
                    const T* below = image + taps.h.second[oh] * s.x.h;
                    const std::ptrdiff_t a = taps.w.first[ow] * s.x.w,
                                         b = taps.w.second[ow] * s.x.w;
                    T* to = result + oh * s.y.h + ow * s.y.w;
                    for_each_vec<Isa, V::size>(s.channels, [&](std::ptrdiff_t i, auto lanes) {
                        V upper = load<Isa>(above + a + i, lanes) * left +
                                  load<Isa>(above + b + i, lanes) * right;
                        V lower = load<Isa>(below + a + i, lanes) * left +
                                  load<Isa>(below + b + i, lanes) * right;
                        store<Isa>(to + i, upper * low + lower * high, lanes);
                    });
                }
            }
        });
}

// The weights that outputs [begin, end) of an axis give input i, in order, one by one: f(output,
// weight).
template <class Isa, class C, class F>
[[gnu::always_inline]] inline void each_weight(const AxisTaps<C>& t, std::ptrdiff_t i,
                                               bool bilinear, const F& f) {
    for (std::ptrdiff_t o = t.begin[i]; o < t.end[i]; ++o) {
        if (t.first[o] == i) f(o, static_cast<double>(t.low[o]));
        if (bilinear && t.second[o] == i) f(o, static_cast<double>(t.high[o]));
    }
}

// The outputs that an input goes into, as offsets in grad_y.
struct TapWeight {
    std::ptrdiff_t offset;
    double weight;
};
template <class Isa, class C>
std::ptrdiff_t list_weights(TapWeight* list, const AxisTaps<C>& t, std::ptrdiff_t i, bool bilinear,
                            std::ptrdiff_t stride) {
    std::ptrdiff_t count = 0;
    each_weight<Isa>(t, i, bilinear, [&](std::ptrdiff_t o, double weight) {
        list[count++] = {o * stride, weight};
    });
    return count;
}

// One pixel of grad_x, all channels.
template <class Isa, Storage T>
void gather_pixel(T* out, const T* g, std::ptrdiff_t channels, const TapWeight* rows,
                  std::ptrdiff_t row_count, const TapWeight* columns, std::ptrdiff_t column_count) {
    using V = Vec<Isa, Compute<T>>;
    using D = Vec<Isa, double>;
    constexpr int parts = V::size / D::size;
    for_each_vec<Isa, V::size>(channels, [&](std::ptrdiff_t i, auto lanes) {
        D total[parts];
        for (D& part : total) part = D::zero();
        for (std::ptrdiff_t c = 0; c < column_count; ++c) {
            D sum[parts];
            for (D& part : sum) part = D::zero();
            for (std::ptrdiff_t r = 0; r < row_count; ++r) {
                V v = load<Isa>(g + rows[r].offset + columns[c].offset + i, lanes);
                const D weight = D::splat(rows[r].weight);
                if constexpr (parts == 1) {
                    sum[0] += weight * v;
                } else {
                    sum[0] += weight * widen_low(v);
                    sum[1] += weight * widen_high(v);
                }
            }
            for (int k = 0; k < parts; ++k) total[k] += D::splat(columns[c].weight) * sum[k];
        }
        if constexpr (parts == 1) {
            store<Isa>(out + i, total[0], lanes);
        } else {
            store<Isa>(out + i, narrow(total[0], total[1]), lanes);
        }
    });
}

// Here s.x and s.y are the strides of grad_x and grad_y.
template <class Isa, Storage T>
void interpolate_backward(T* grad_x, const T* grad_y, const ResizeShape& s, bool bilinear) {
    using C = Compute<T>;
    const ImageTaps<Isa, C> taps(s, bilinear);
    const std::ptrdiff_t cost = 2 * s.out_w * (s.out_h / s.in_h + 1);
    for_image_rows<Isa>(
        s, s.in_h, cost,
        [&](std::ptrdiff_t n, std::ptrdiff_t c, std::ptrdiff_t first, std::ptrdiff_t end) {
            const T* g = grad_y + n * s.y.n + c * s.y.c;
            T* out = grad_x + n * s.x.n + c * s.x.c;
            // A list may name each output twice.
            const std::size_t listed = 2 * static_cast<std::size_t>(s.out_h + s.out_w);
            const std::ptrdiff_t longest = s.out_w > s.in_w ? s.out_w : s.in_w;
            const std::size_t row_bytes = 2 * sizeof(double) + sizeof(C) + sizeof(T);
            char* scratch = static_cast<char*>(thread_scratch(
                listed * sizeof(TapWeight) + static_cast<std::size_t>(longest) * row_bytes));
            TapWeight* const rows = reinterpret_cast<TapWeight*>(scratch);
            TapWeight* const columns = rows + 2 * s.out_h;
            double* const sums = reinterpret_cast<double*>(scratch + listed * sizeof(TapWeight));
            double* const total = sums + longest;
            C* const wide = reinterpret_cast<C*>(total + longest);
            T* const packed = reinterpret_cast<T*>(wide + longest);
            for (std::ptrdiff_t r = first; r < end; ++r) {
                const std::ptrdiff_t row_count =
                    list_weights<Isa>(rows, taps.h, r, bilinear, s.y.h);
                T* const to = out + r * s.x.h;
                if (in_pixels(s)) {
                    for (std::ptrdiff_t i = 0; i < s.in_w; ++i) {
                        const std::ptrdiff_t column_count =
                            list_weights<Isa>(columns, taps.w, i, bilinear, s.y.w);
                        gather_pixel<Isa>(to + i * s.x.w, g, s.channels, rows, row_count, columns,
                                          column_count);
                    }
                    continue;
                }
                for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow) sums[ow] = 0;
                for (std::ptrdiff_t k = 0; k < row_count; ++k) {
                    const C* row = wide_row<Isa>(g + rows[k].offset, s.y.w, s.out_w, packed, wide);
                    const double weight = rows[k].weight;
                    for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow)
                        sums[ow] += weight * static_cast<double>(row[ow]);
                }
                for (std::ptrdiff_t i = 0; i < s.in_w; ++i) total[i] = 0;
                for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow) {
                    total[taps.w.first[ow]] += static_cast<double>(taps.w.low[ow]) * sums[ow];
                    if (bilinear)
                        total[taps.w.second[ow]] += static_cast<double>(taps.w.high[ow]) * sums[ow];
                }
                for (std::ptrdiff_t i = 0; i < s.in_w; ++i) wide[i] = static_cast<C>(total[i]);
                T* const row = s.x.w == 1 ? to : packed;
                for_each_vec<Isa, Vec<Isa, C>::size>(s.in_w, [&](std::ptrdiff_t i, auto lanes) {
                    store<Isa>(row + i, load<Isa>(wide + i, lanes), lanes);
                });
                if (row != to) scatter_line<Isa>(s.in_w, to, s.x.w, row);
            }
        });
}

template <class Isa, Storage T>
void nearest_backward(T* grad_x, const T* grad_y, const ResizeShape& s) {
    interpolate_backward<Isa>(grad_x, grad_y, s, false);
}
template <class Isa, Storage T>
void bilinear_backward(T* grad_x, const T* grad_y, const ResizeShape& s) {
    interpolate_backward<Isa>(grad_x, grad_y, s, true);
}

}  // namespace stableops
