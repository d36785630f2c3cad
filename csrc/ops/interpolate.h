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
#include "../simd/shuffle.h"
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
    // As PyTorch: a factor that leaves the size as it is changes nothing, nor does a fraction more
    // than 2 where the nearest pixel is taken.
    const bool from_sizes = factor == 0 || out == in || (bilinear ? align_corners : out == 2 * in);
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

// Every element twice, in `copies` rows. The last register overlaps the one before it.
template <class Isa, class C>
void double_row(C* to, std::ptrdiff_t pitch, std::ptrdiff_t copies, const C* from,
                std::ptrdiff_t n) {
    using V = Vec<Isa, C>;
    for (std::ptrdiff_t i = 0; i < n; i += V::size) {
        if (i + V::size > n) i = n - V::size;
        const V v = loadu<Isa>(from + i);
        for (std::ptrdiff_t k = 0; k < copies; ++k) {
            storeu(to + k * pitch + 2 * i, interleave_low(v, v));
            storeu(to + k * pitch + 2 * i + V::size, interleave_high(v, v));
        }
    }
}

// One input row, for the `copies` outputs that it is the nearest to.
template <class Isa, Storage T>
void nearest_row(T* to, std::ptrdiff_t copies, const T* from, const ResizeShape& s,
                 const std::int32_t* first) {
    if (in_pixels(s)) {
        for (std::ptrdiff_t k = 0; k < copies; ++k)
            for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow)
                __builtin_memcpy(to + k * s.y.h + ow * s.y.w, from + first[ow] * s.x.w,
                                 static_cast<std::size_t>(s.channels) * sizeof(T));
        return;
    }
    // An axis of twice the size needs no indices (make_taps).
    if constexpr (std::is_same_v<T, Compute<T>>)
        if (s.out_w == 2 * s.in_w && s.in_w >= Vec<Isa, T>::size && s.x.w == 1 && s.y.w == 1)
            return double_row<Isa>(to, s.y.h, copies, from, s.in_w);
    for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow) to[ow * s.y.w] = from[first[ow] * s.x.w];
    for (std::ptrdiff_t k = 1; k < copies; ++k)
        for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow) to[k * s.y.h + ow * s.y.w] = to[ow * s.y.w];
}

template <class Isa, Storage T>
void nearest(T* y, const T* x, const ResizeShape& s) {
    const ImageTaps<Isa, Compute<T>> taps(s, false);
    for_image_rows<Isa>(
        s, s.out_h, s.out_w,
        [&](std::ptrdiff_t n, std::ptrdiff_t c, std::ptrdiff_t first, std::ptrdiff_t end) {
            for (std::ptrdiff_t oh = first, next; oh < end; oh = next) {
                const std::int32_t row = taps.h.first[oh];
                for (next = oh + 1; next < end && taps.h.first[next] == row;) ++next;
                nearest_row<Isa>(y + n * s.y.n + c * s.y.c + oh * s.y.h, next - oh,
                                 x + n * s.x.n + c * s.x.c + row * s.x.h, s, taps.w.first);
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

// An output row that an input row goes into, as an offset in grad_y.
struct TapWeight {
    std::ptrdiff_t offset;
    double weight;
};
template <class Isa, class C>
std::ptrdiff_t list_weights(TapWeight* list, const AxisTaps<C>& t, std::ptrdiff_t i, bool bilinear,
                            std::ptrdiff_t stride) {
    std::ptrdiff_t count = 0;
    for (std::ptrdiff_t o = t.begin[i]; o < t.end[i]; ++o) {
        if (t.first[o] == i) list[count++] = {o * stride, static_cast<double>(t.low[o])};
        if (bilinear && t.second[o] == i)
            list[count++] = {o * stride, static_cast<double>(t.high[o])};
    }
    return count;
}

// A row of pixels of grad_x. Nearest: pixel by pixel, since an input's outputs are neighbours;
// bilinear: a register of channels at a time, of which `total` holds one for each pixel.
template <class Isa, Storage T>
void backward_pixels(T* out, const T* g, const ResizeShape& s, const AxisTaps<Compute<T>>& w,
                     const TapWeight* rows, std::ptrdiff_t row_count, bool bilinear,
                     double* total) {
    using V = Vec<Isa, Compute<T>>;
    using D = Vec<Isa, double>;
    constexpr int parts = V::size / D::size;
    const auto add_rows = [&](D* sum, const T* from, auto lanes) {
        for (int k = 0; k < parts; ++k) sum[k] = D::zero();
        for (std::ptrdiff_t r = 0; r < row_count; ++r) {
            V v = load<Isa>(from + rows[r].offset, lanes);
            const D weight = D::splat(rows[r].weight);
            if constexpr (parts == 1) {
                sum[0] += weight * v;
            } else {
                sum[0] += weight * widen_low(v);
                sum[1] += weight * widen_high(v);
            }
        }
    };
    const auto put = [&](T* to, const D* v, auto lanes) {
        if constexpr (parts == 1) {
            store<Isa>(to, v[0], lanes);
        } else {
            store<Isa>(to, narrow(v[0], v[1]), lanes);
        }
    };
    if (!bilinear) {
        for (std::ptrdiff_t iw = 0; iw < s.in_w; ++iw)
            for_each_vec<Isa, V::size>(s.channels, [&](std::ptrdiff_t i, auto lanes) {
                D sum[parts], all[parts];
                for (D& part : all) part = D::zero();
                for (std::ptrdiff_t ow = w.begin[iw]; ow < w.end[iw]; ++ow) {
                    add_rows(sum, g + ow * s.y.w + i, lanes);
                    for (int k = 0; k < parts; ++k) all[k] += sum[k];
                }
                put(out + iw * s.x.w + i, all, lanes);
            });
        return;
    }
    for_each_vec<Isa, V::size>(s.channels, [&](std::ptrdiff_t i, auto lanes) {
        D sum[parts];
        for (std::ptrdiff_t k = 0; k < s.in_w * parts; ++k) storeu(total + k * D::size, D::zero());
        for (std::ptrdiff_t ow = 0; ow < s.out_w; ++ow) {
            add_rows(sum, g + ow * s.y.w + i, lanes);
            const auto add = [&](std::int32_t to, Compute<T> weight) {
                for (int k = 0; k < parts; ++k) {
                    double* at = total + (to * parts + k) * D::size;
                    storeu(at, loadu<Isa>(at) + D::splat(weight) * sum[k]);
                }
            };
            add(w.first[ow], w.low[ow]);
            add(w.second[ow], w.high[ow]);
        }
        for (std::ptrdiff_t iw = 0; iw < s.in_w; ++iw) {
            for (int k = 0; k < parts; ++k) sum[k] = loadu<Isa>(total + (iw * parts + k) * D::size);
            put(out + iw * s.x.w + i, sum, lanes);
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
            // The list may name each output twice.
            const std::size_t listed = 2 * static_cast<std::size_t>(s.out_h);
            const std::ptrdiff_t longest = s.out_w > s.in_w ? s.out_w : s.in_w;
            const std::size_t row_bytes = in_pixels(s) ? Vec<Isa, C>::size * sizeof(double)
                                                       : 2 * sizeof(double) + sizeof(C) + sizeof(T);
            char* scratch = static_cast<char*>(thread_scratch(
                listed * sizeof(TapWeight) + static_cast<std::size_t>(longest) * row_bytes));
            TapWeight* const rows = reinterpret_cast<TapWeight*>(scratch);
            double* const sums = reinterpret_cast<double*>(scratch + listed * sizeof(TapWeight));
            double* const total = sums + longest;
            C* const wide = reinterpret_cast<C*>(total + longest);
            T* const packed = reinterpret_cast<T*>(wide + longest);
            for (std::ptrdiff_t r = first; r < end; ++r) {
                const std::ptrdiff_t row_count =
                    list_weights<Isa>(rows, taps.h, r, bilinear, s.y.h);
                T* const to = out + r * s.x.h;
                if (in_pixels(s)) {
                    backward_pixels<Isa>(to, g, s, taps.w, rows, row_count, bilinear, sums);
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
