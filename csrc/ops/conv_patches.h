#pragma once
// The input of a convolution as the tiles read it: a window of some channels, zero-padded, copied
// into per-thread scratch. Copying costs 2 / (kernel_w * out_channels) of the arithmetic or less and
// pays for itself: borders, strides, dilation, layout and storage type end here, and each element
// that a tile broadcasts is one address away from the next.
#include "../conv2d_shape.h"
#include "gemm.h"

namespace stableops {

// One spatial axis: output o reads, with tap m, input o * stride + first + m * step. Forward, `step`
// is the dilation; in the gradient of the input it is negative.
struct Axis {
    std::ptrdiff_t in, out, stride, taps, first, step;
};

// The places along an axis that outputs [begin, end) need. Either a contiguous range of the input, or
// (`apart`) the taps of each output side by side, whichever is smaller: with a stride beyond the
// kernel or a wide dilation the range is mostly unused.
struct Window {
    std::ptrdiff_t begin, size;
    std::ptrdiff_t out_step, tap_step, tap_origin;
    bool apart;

    std::ptrdiff_t of(std::ptrdiff_t out, std::ptrdiff_t tap) const {
        return (out - begin) * out_step + tap * tap_step + tap_origin;
    }
};

static inline Window range_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    const std::ptrdiff_t span = (axis.taps - 1) * axis.step;
    const std::ptrdiff_t size = (end - begin - 1) * axis.stride + (span < 0 ? -span : span) + 1;
    return {begin, size, axis.stride, axis.step, span < 0 ? -span : 0, false};
}

static inline Window apart_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    return {begin, (end - begin) * axis.taps, axis.taps, 1, 0, true};
}

// `gain`: how many times smaller the taps side by side must be to be preferred.
static inline Window window_of(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end,
                               std::ptrdiff_t gain) {
    const Window range = range_window(axis, begin, end);
    const Window apart = apart_window(axis, begin, end);
    return apart.size * gain < range.size ? apart : range;
}

// Where the window's place `index` lies in the input (perhaps outside).
static inline std::ptrdiff_t input_place(const Axis& axis, const Window& window,
                                         std::ptrdiff_t index) {
    if (!window.apart)
        return window.begin * axis.stride + axis.first - window.tap_origin + index;
    return (window.begin + index / axis.taps) * axis.stride + axis.first +
           index % axis.taps * axis.step;
}

// Element (image, channel, row, column) of the scratch lies at
// image * n + channel * c + row * h + column * w.
struct PatchLayout {
    Window h, w;
    Strides4 pitch;
};

// Channels stay innermost if they are in the input. The padding of the pitches keeps taps and
// channels, which are read in turn, from falling into one set of the cache.
template <class Isa, class C>
PatchLayout patch_layout(const Window& h, const Window& w, std::ptrdiff_t images,
                         std::ptrdiff_t channels, bool channels_innermost) {
    constexpr std::ptrdiff_t line = 64 / static_cast<std::ptrdiff_t>(sizeof(C));
    PatchLayout layout{h, w, {}};
    Strides4& pitch = layout.pitch;
    if (channels_innermost) {
        pitch.c = 1;
        pitch.w = ceil_div(channels, line) % 2 == 0 ? channels + line : channels;
        pitch.h = w.size * pitch.w;
        pitch.n = h.size * pitch.h;
    } else {
        pitch.w = 1;
        pitch.h = w.size;
        pitch.n = h.size * pitch.h;
        pitch.c = images * pitch.n;
        if (ceil_div(pitch.c, line) % 2 == 0) pitch.c += line;
    }
    return layout;
}

template <class Isa, class C>
void fill_zero(C* to, std::ptrdiff_t count) {
    for_each_vec<Isa, Vec<Isa, C>::size>(
        count, [&](std::ptrdiff_t i, auto lanes) { store(to + i, Vec<Isa, C>::zero(), lanes); });
}

template <class Isa, class T>
void copy_line(Compute<T>* to, const T* from, std::ptrdiff_t stride, std::ptrdiff_t count) {
    using C = Compute<T>;
    if (stride == 1) {
        for_each_vec<Isa, Vec<Isa, C>::size>(count, [&](std::ptrdiff_t i, auto lanes) {
            store(to + i, load<Isa>(from + i, lanes), lanes);
        });
    } else if constexpr (std::is_same_v<T, C>) {
        for (std::ptrdiff_t i = 0; i < count; ++i) to[i] = from[i * stride];
    } else {
        constexpr std::ptrdiff_t n = Vec<Isa, C>::size;
        for (std::ptrdiff_t i = 0; i < count; i += n) {
            T row[n] = {};
            const std::ptrdiff_t used = smaller(n, count - i);
            for (std::ptrdiff_t j = 0; j < used; ++j) row[j] = from[(i + j) * stride];
            store(to + i, load<Isa>(row, AllLanes{}), FirstLanes{static_cast<int>(used)});
        }
    }
}

// One row of the window with channels outermost: the columns of one channel.
template <class Isa, class T>
void copy_columns(Compute<T>* to, const T* row, std::ptrdiff_t stride, const Axis& axis,
                  const Window& window) {
    if (window.apart) {
        for (std::ptrdiff_t i = 0; i < window.size; ++i) {
            const std::ptrdiff_t place = input_place(axis, window, i);
            if (place >= 0 && place < axis.in)
                copy_line<Isa>(to + i, row + place * stride, 1, 1);
            else
                to[i] = 0;
        }
        return;
    }
    const std::ptrdiff_t place = input_place(axis, window, 0);
    const std::ptrdiff_t before = smaller(larger(-place, 0), window.size);
    const std::ptrdiff_t inside =
        smaller(larger(axis.in - (place + before), 0), window.size - before);
    fill_zero<Isa>(to, before);
    copy_line<Isa>(to + before, row + (place + before) * stride, stride, inside);
    fill_zero<Isa>(to + before + inside, window.size - before - inside);
}

// Copies `channels` channels of `images` images, from `x` on (the first channel of the first image).
template <class Isa, class T>
void copy_patches(Compute<T>* scratch, const PatchLayout& layout, const T* x,
                  const Strides4& stride, const Axis& axis_h, const Axis& axis_w,
                  std::ptrdiff_t images, std::ptrdiff_t channels) {
    using C = Compute<T>;
    for (std::ptrdiff_t n = 0; n < images; ++n) {
        for (std::ptrdiff_t h = 0; h < layout.h.size; ++h) {
            const std::ptrdiff_t row = input_place(axis_h, layout.h, h);
            const bool row_inside = row >= 0 && row < axis_h.in;
            const T* from = row_inside ? x + n * stride.n + row * stride.h : x;
            C* to = scratch + n * layout.pitch.n + h * layout.pitch.h;
            if (layout.pitch.c == 1) {
                for (std::ptrdiff_t w = 0; w < layout.w.size; ++w, to += layout.pitch.w) {
                    const std::ptrdiff_t column = input_place(axis_w, layout.w, w);
                    if (row_inside && column >= 0 && column < axis_w.in)
                        copy_line<Isa>(to, from + column * stride.w, stride.c, channels);
                    else
                        fill_zero<Isa>(to, channels);
                }
            } else {
                for (std::ptrdiff_t c = 0; c < channels; ++c, to += layout.pitch.c) {
                    if (row_inside)
                        copy_columns<Isa>(to, from + c * stride.c, stride.w, axis_w, layout.w);
                    else
                        fill_zero<Isa>(to, layout.w.size);
                }
            }
        }
    }
}

}  // namespace stableops
