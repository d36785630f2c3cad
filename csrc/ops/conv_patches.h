#pragma once
// The input of a convolution as the tiles read it: a window of some channels, zero-padded, copied
// into per-thread scratch. Copying costs 2 / (kernel_w * out_channels) of the arithmetic or less
// and pays for itself: borders, strides, dilation, layout and storage type end here, and each
// element that a tile broadcasts is one address away from the next.
#include "../conv2d_shape.h"
#include "../simd/shuffle.h"
#include "gemm.h"

namespace stableops {

// One spatial axis: output o reads, with tap m, input o * stride + first + m * step. Forward,
// `step` is the dilation; in the gradient of the input it is negative.
struct Axis {
    std::ptrdiff_t in, out, stride, taps, first, step;
};

// The places along an axis that outputs [begin, end) need, and where they stand in the scratch:
// a contiguous range of the input; or (`split` > 1) that range sorted by its remainder modulo
// `split`, the stride, so that a tap reads neighbouring outputs from neighbouring places; or
// (`apart`) the taps of each output side by side, where a stride beyond the kernel or a wide
// dilation would leave most of the range unused.
struct Window {
    std::ptrdiff_t begin, size;
    std::ptrdiff_t out_step, tap_step, tap_origin;
    std::ptrdiff_t split, part_size;
    bool apart;

    [[gnu::always_inline]] inline std::ptrdiff_t of(std::ptrdiff_t out, std::ptrdiff_t tap) const {
        const std::ptrdiff_t place = tap * tap_step + tap_origin;
        if (split > 1) return (out - begin) + place % split * part_size + place / split;
        return (out - begin) * out_step + place;
    }
};

static inline Window range_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    const std::ptrdiff_t span = (axis.taps - 1) * axis.step;
    const std::ptrdiff_t size = (end - begin - 1) * axis.stride + (span < 0 ? -span : span) + 1;
    return {begin, size, axis.stride, axis.step, span < 0 ? -span : 0, 1, size, false};
}

static inline Window apart_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    const std::ptrdiff_t size = (end - begin) * axis.taps;
    return {begin, size, axis.taps, 1, 0, 1, size, true};
}

// With one tap only the first part is used.
static inline Window split_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    Window window = range_window(axis, begin, end);
    window.split = axis.stride;
    window.out_step = 1;
    window.part_size = ceil_div(window.size, axis.stride);
    window.size = window.part_size * (axis.taps == 1 ? 1 : axis.stride);
    return window;
}

// Of rows, and of columns where whole pixels are copied.
static inline Window outer_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    const Window range = range_window(axis, begin, end);
    const Window apart = apart_window(axis, begin, end);
    return apart.size < range.size ? apart : range;
}

// Of columns that are read as vectors of neighbouring outputs.
static inline Window lane_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    return axis.stride > 1 ? split_window(axis, begin, end) : range_window(axis, begin, end);
}

// Of columns that are innermost. Picking single elements is slow, so it must save much.
static inline Window inner_window(const Axis& axis, std::ptrdiff_t begin, std::ptrdiff_t end) {
    const Window range = lane_window(axis, begin, end);
    const Window apart = apart_window(axis, begin, end);
    return 4 * apart.size < range.size ? apart : range;
}

// Where the window's place `index` lies in the input (perhaps outside).
static inline std::ptrdiff_t input_place(const Axis& axis, const Window& window,
                                         std::ptrdiff_t index) {
    if (window.apart)
        return (window.begin + index / axis.taps) * axis.stride + axis.first +
               index % axis.taps * axis.step;
    const std::ptrdiff_t first = window.begin * axis.stride + axis.first - window.tap_origin;
    if (window.split > 1)
        return first + index / window.part_size + index % window.part_size * window.split;
    return first + index;
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
[[gnu::always_inline]] inline void fill_zero(C* to, std::ptrdiff_t count) {
    for_each_vec<Isa, Vec<Isa, C>::size>(
        count, [&](std::ptrdiff_t i, auto lanes) { store(to + i, Vec<Isa, C>::zero(), lanes); });
}

template <class Isa, class T>
[[gnu::always_inline]] inline void copy_line(Compute<T>* to, const T* from, std::ptrdiff_t stride,
                                             std::ptrdiff_t count) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t n = Vec<Isa, C>::size;
    std::ptrdiff_t i = 0;
    if (stride == 1) {
        for_each_vec<Isa, n>(count, [&](std::ptrdiff_t j, auto lanes) {
            store(to + j, load<Isa>(from + j, lanes), lanes);
        });
    } else if constexpr (std::is_same_v<T, C>) {
        // The last vector would read one element beyond the last one needed.
        if (stride == 2)
            for (; i + n < count; i += n)
                storeu(to + i, even_lanes(loadu<Isa>(from + 2 * i), loadu<Isa>(from + 2 * i + n)));
        for (; i < count; ++i) to[i] = from[i * stride];
    } else {
        for (; i < count; i += n) {
            T row[n] = {};
            const std::ptrdiff_t used = smaller(n, count - i);
            for (std::ptrdiff_t j = 0; j < used; ++j) row[j] = from[(i + j) * stride];
            store(to + i, load<Isa>(row, AllLanes{}), FirstLanes{static_cast<int>(used)});
        }
    }
}

// `count` columns of one row of every channel: those at place, place + step, ... of a row of `in`,
// 0 where that is outside. The same for all channels, so their loop is the inner one.
template <class Isa, class T>
void copy_columns(Compute<T>* to, std::ptrdiff_t to_channel, const T* row, std::ptrdiff_t stride,
                  std::ptrdiff_t row_channel, std::ptrdiff_t channels, std::ptrdiff_t in,
                  std::ptrdiff_t place, std::ptrdiff_t step, std::ptrdiff_t count) {
    const std::ptrdiff_t before = smaller(place < 0 ? ceil_div(-place, step) : 0, count);
    const std::ptrdiff_t first = place + before * step;
    const std::ptrdiff_t inside =
        smaller(first < in ? ceil_div(in - first, step) : 0, count - before);
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr std::ptrdiff_t n = V::size;
    const T* from = inside > 0 ? row + first * stride : row;
    if (row_channel == 1 && stride > 1 && channels > 1 && inside >= n) {
        // Channels are innermost: squares are transposed. The last one overlaps the one before, and
        // they overwrite what is not border of the zeros.
        for (std::ptrdiff_t c = 0; c < channels; ++c) {
            C* line = to + c * to_channel;
            for (std::ptrdiff_t i = 0; i < before; i += n) storeu(line + i, V::zero());
            for (std::ptrdiff_t i = count; i > before + inside; i -= n)
                storeu(line + i - n, V::zero());
        }
        for (std::ptrdiff_t i = 0; i < inside; i += n) {
            const std::ptrdiff_t at = smaller(i, inside - n);
            pack_run<Isa>(to + before + at, from + at * step * stride, step * stride, 1, n,
                          channels, 1, static_cast<const T*>(nullptr), to_channel);
        }
        return;
    }
    for (std::ptrdiff_t c = 0; c < channels; ++c) {
        fill_zero<Isa>(to, before);
        if (step * stride == 1 && count - before <= n) {
            store(to + before, load<Isa>(from, FirstLanes{static_cast<int>(inside)}),
                  FirstLanes{static_cast<int>(count - before)});
        } else {
            copy_line<Isa>(to + before, from, step * stride, inside);
            fill_zero<Isa>(to + before + inside, count - before - inside);
        }
        to += to_channel;
        from += row_channel;
    }
}

// Copies `channels` channels of `images` images, from `x` on (the first channel of the first
// image).
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
            if (layout.pitch.c == 1 && !layout.w.apart && stride.c == 1 && stride.w == channels &&
                layout.pitch.w == channels) {
                // Whole rows lie as they are wanted.
                copy_columns<Isa>(to, 0, from, 1, 0, 1, row_inside ? axis_w.in * channels : 0,
                                  input_place(axis_w, layout.w, 0) * channels, 1,
                                  layout.w.size * channels);
            } else if (layout.pitch.c == 1) {
                for (std::ptrdiff_t w = 0; w < layout.w.size; ++w, to += layout.pitch.w) {
                    const std::ptrdiff_t column = input_place(axis_w, layout.w, w);
                    if (row_inside && column >= 0 && column < axis_w.in)
                        copy_line<Isa>(to, from + column * stride.w, stride.c, channels);
                    else
                        fill_zero<Isa>(to, channels);
                }
            } else {
                const std::ptrdiff_t part = layout.w.apart ? 1 : layout.w.part_size;
                for (std::ptrdiff_t i = 0; i < layout.w.size; i += part)
                    copy_columns<Isa>(to + i, layout.pitch.c, from, stride.w, stride.c, channels,
                                      row_inside ? axis_w.in : 0, input_place(axis_w, layout.w, i),
                                      layout.w.split, part);
            }
        }
    }
}

}  // namespace stableops
