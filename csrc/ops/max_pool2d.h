#pragma once
// max_pool2d:           y[o] = the largest x of window o; index[o] = its position h * W + w in the
//                       plane of the unpadded image.
// max_pool2d_backward:  grad_x[i] = sum of grad_y[o] over the o with index[o] = i.
//
// Shapes: x (N, C, H, W); y, index and grad_y (N, C, out_h, out_w); grad_x as x.
//
// Edge cases. The taps of a window are visited in row-major order and a later one wins only if it
// is greater: of equal values the first stands, zeros of either sign being equal. The first NaN
// wins over all that follows. Padding is never a tap, or is -inf, which is greater than nothing;
// the search starts at the first tap inside the image, so that is the index of a window of only
// -inf. y has the very bits of x[index], whether indices are asked for or not.
//
// The forward pass is exact. The backward pass adds in ascending order of o, in float64 for
// float64 and in float32 for the others, and rounds float16 and bfloat16 once at the end.
//
// Vectors run over neighbouring outputs of a row, or over channels where these are contiguous. The
// first of equals is the same whether a window is searched tap by tap or the maxima of its rows are
// searched from top to bottom, so without indices each row of the image is reduced to the maxima of
// its windows once, for all windows that share it. Offsets of taps are carried relative to their
// window, in integers of the element's width.
#include "../pool2d_shape.h"
#include "max_pool2d_planes.h"
#include "max_pool2d_taps.h"

namespace stableops {

// Channels of a task: whole cache lines of every dtype; few enough to cut one pixel into tasks.
constexpr std::ptrdiff_t max_pool_channels = 128;

// Vectors of channels, `block` channels a task; results have the strides `out`.
template <class Isa, class T, bool with_indices>
void max_pool_pixels(const Pool2dShape& shape, T* y, std::int64_t* indices, const ImageStrides& out,
                     const T* x, const ImageStrides& stride, std::ptrdiff_t block) {
    using Types = MaxPoolTypes<Isa, T>;
    using I = typename Types::I;
    using V = typename Types::V;
    using Offsets = typename Types::Offsets;
    const std::ptrdiff_t blocks = (shape.channels - 1) / block + 1;
    const std::ptrdiff_t row_offset = shape.dilation_h * shape.width;
    const bool streams = shape.channels_last &&
                         streams_pixels(shape.batch * shape.out_h * shape.out_w, shape.channels, y);
    const auto pool_pixel = [&](std::ptrdiff_t n, std::ptrdiff_t oy, std::ptrdiff_t ox,
                                std::ptrdiff_t first_channel) {
        const std::ptrdiff_t start_h = oy * shape.stride_h - shape.pad_h;
        const std::ptrdiff_t start_w = ox * shape.stride_w - shape.pad_w;
        const Taps rows = taps_inside<Isa>(start_h, shape.kernel_h, shape.dilation_h, shape.height);
        const Taps cols = taps_inside<Isa>(start_w, shape.kernel_w, shape.dilation_w, shape.width);
        const T* window =
            x + n * stride.n + start_h * stride.h + start_w * stride.w + first_channel * stride.c;
        const std::ptrdiff_t first = rows.first * row_offset + cols.first * shape.dilation_w;
        const std::ptrdiff_t at = n * out.n + first_channel * out.c + oy * out.h + ox * out.w;
        for_each_vec<Isa, V::size>(
            smaller<Isa>(shape.channels - first_channel, block),
            [&](std::ptrdiff_t c, auto lanes) __attribute__((always_inline)) {
                const MaxPoolState<Isa, T> best = max_of_taps<Isa, T, with_indices>(
                    {V::splat(Types::lowest()), Offsets::splat(static_cast<I>(first))},
                    [&](auto&& body) __attribute__((always_inline)) {
                        for (std::ptrdiff_t r = rows.first; r < rows.end; ++r) {
                            const T* row = window + r * shape.dilation_h * stride.h + c;
                            for (std::ptrdiff_t s = cols.first; s < cols.end; ++s)
                                body(load_elements<Isa>(row + s * shape.dilation_w * stride.w,
                                                        lanes),
                                     r * row_offset + s * shape.dilation_w);
                        }
                    });
                put_elements<Isa>(y + at + c, best.value, lanes, streams);
                if constexpr (with_indices)
                    store_indices<Isa>(indices + at + c, best.offset,
                                       start_h * shape.width + start_w, lanes);
            });
    };
    for_row_blocks<Isa>(
        shape.batch, shape.out_h, blocks,
        shape.out_w * (shape.kernel_h * shape.kernel_w * smaller<Isa>(shape.channels, block) + 64),
        [&](RowRange<Isa> range) {
            while (range.next_plane())
                for (std::ptrdiff_t b = range.first; b < range.last; ++b)
                    for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox)
                        pool_pixel(range.outer, range.inner, ox, b * block);
            if (streams) stream_fence<Isa>();
        });
}

// `indices` may be nullptr: not wanted.
template <class Isa, class T>
void max_pool2d(const Pool2dShape& shape, T* y, std::int64_t* indices, const T* x,
                const ImageStrides& stride) {
    using C = typename PoolElement<T>::type;
    if (!shape.channels_last && MaxPoolPlanes<Isa, C>::fits(shape)) {
        max_pool_planes<Isa, C>(shape, y, indices, x, stride, plane_access<Isa, T>());
        return;
    }
    const std::ptrdiff_t c = shape.channels_last ? 1 : shape.out_h * shape.out_w;
    const std::ptrdiff_t w = shape.channels_last ? shape.channels : 1;
    const ImageStrides out = {shape.channels * shape.out_h * shape.out_w, c, shape.out_w * w, w};
    const std::ptrdiff_t block = shape.channels_last ? max_pool_channels : 1;
    indices ? max_pool_pixels<Isa, T, true>(shape, y, indices, out, x, stride, block)
            : max_pool_pixels<Isa, T, false>(shape, y, indices, out, x, stride, block);
}

}  // namespace stableops
