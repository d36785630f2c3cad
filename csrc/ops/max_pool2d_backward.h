#pragma once
// max_pool2d_backward of max_pool2d.h: the scatter.
#include "../pool2d_shape.h"
#include "max_pool2d_taps.h"

namespace stableops {

// The smallest position that any task reports, -1 for none.
template <class Isa>
struct FirstPosition {
    std::ptrdiff_t position = -1;

    void report(std::ptrdiff_t found) {
        std::ptrdiff_t seen = __atomic_load_n(&position, __ATOMIC_RELAXED);
        while ((seen < 0 || found < seen) &&
               !__atomic_compare_exchange_n(&position, &seen, found, true, __ATOMIC_RELAXED,
                                            __ATOMIC_RELAXED)) {
        }
    }
};

// sums[index[i] * pitch + i * step] += grad[i] for i in [0, count). An index is compared before it is
// used, so a wrong one writes nowhere; report(i) is told.
template <class Isa, class T, class Report>
[[gnu::always_inline]] inline void scatter_line(Compute<T>* sums, std::ptrdiff_t plane_size,
                                                std::ptrdiff_t pitch, std::ptrdiff_t step,
                                                std::ptrdiff_t count, const T* grad,
                                                std::ptrdiff_t grad_step,
                                                const std::int64_t* index,
                                                std::ptrdiff_t index_step, const Report& report) {
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        const std::int64_t at = index[i * index_step];
        if (static_cast<std::uint64_t>(at) >= static_cast<std::uint64_t>(plane_size)) [[unlikely]] {
            report(i);
            continue;
        }
        sums[at * pitch + i * step] += element<Isa>(grad[i * grad_step]);
    }
}

// Adds plane by plane. The scatter goes to `sums`: the plane of the result itself, or a float32 copy
// of it.
template <class Isa, Storage T>
void scatter_planes(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                    const ImageStrides& grad_stride, const std::int64_t* indices,
                    const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    for_row_blocks<Isa>(
        shape.batch, shape.channels, 1, 2 * plane_size + 8 * shape.out_h * shape.out_w,
        [&](RowRange<Isa> range) {
            C* sums = nullptr;
            if constexpr (!std::is_same_v<T, C>)
                sums = static_cast<C*>(
                    thread_scratch(static_cast<std::size_t>(plane_size) * sizeof(C)));
            while (range.next_plane()) {
                const std::ptrdiff_t plane = range.plane();
                if constexpr (std::is_same_v<T, C>) sums = grad_x + plane * plane_size;
                for_each_vec<Isa, V::size>(plane_size, [&](std::ptrdiff_t i, auto lanes) {
                    store_elements<Isa>(sums + i, V::zero(), lanes);
                });
                const std::ptrdiff_t n = range.outer;
                const std::ptrdiff_t c = range.inner;
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy) {
                    const T* g = grad_y + n * grad_stride.n + c * grad_stride.c + oy * grad_stride.h;
                    const std::int64_t* index = indices + n * index_stride.n + c * index_stride.c +
                                                oy * index_stride.h;
                    const auto report = [&](std::ptrdiff_t ox) {
                        outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                    };
                    if (grad_stride.w == 1 && index_stride.w == 1) {
                        scatter_line<Isa>(sums, plane_size, 1, 0, shape.out_w, g, 1, index, 1,
                                          report);
                    } else {
                        scatter_line<Isa>(sums, plane_size, 1, 0, shape.out_w, g, grad_stride.w,
                                          index, index_stride.w, report);
                    }
                }
                if constexpr (!std::is_same_v<T, C>) {
                    for_each_vec<Isa, V::size>(plane_size, [&](std::ptrdiff_t i, auto lanes) {
                        store<Isa>(grad_x + plane * plane_size + i, load<Isa>(sums + i, lanes),
                                   lanes);
                    });
                }
            }
        });
}

// Channels of a task: cache lines of grad_y are shared by no two tasks, and the float32 copy of a
// narrow result stays small.
template <class T>
constexpr std::ptrdiff_t scatter_channels = sizeof(T) == 2 ? 8 : 64;

template <class Isa, Storage T>
void scatter_channels_last(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                           const ImageStrides& grad_stride, const std::int64_t* indices,
                           const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    constexpr bool direct = std::is_same_v<T, C>;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    const std::ptrdiff_t blocks = (shape.channels - 1) / scatter_channels<T> + 1;
    for_row_blocks<Isa>(
        shape.batch, blocks, 1,
        (2 * plane_size + 8 * shape.out_h * shape.out_w) *
            smaller<Isa>(shape.channels, scatter_channels<T>),
        [&](RowRange<Isa> range) {
            while (range.next_plane()) {
                const std::ptrdiff_t n = range.outer;
                const std::ptrdiff_t first = range.inner * scatter_channels<T>;
                const std::ptrdiff_t count =
                    smaller<Isa>(shape.channels - first, scatter_channels<T>);
                T* result = grad_x + n * plane_size * shape.channels + first;
                const std::ptrdiff_t pitch = direct ? shape.channels : count;
                C* sums;
                if constexpr (direct) {
                    sums = result;
                } else {
                    sums = static_cast<C*>(thread_scratch(
                        static_cast<std::size_t>(plane_size * count) * sizeof(C)));
                }
                for (std::ptrdiff_t pixel = 0; pixel < plane_size; ++pixel)
                    for_each_vec<Isa, V::size>(count, [&](std::ptrdiff_t i, auto lanes) {
                        store_elements<Isa>(sums + pixel * pitch + i, V::zero(), lanes);
                    });
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy)
                    for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox) {
                        const T* g = grad_y + n * grad_stride.n + oy * grad_stride.h +
                                     ox * grad_stride.w + first;
                        const std::int64_t* index = indices + n * index_stride.n +
                                                    oy * index_stride.h + ox * index_stride.w +
                                                    first * index_stride.c;
                        const auto report = [&](std::ptrdiff_t c) {
                            const std::ptrdiff_t plane = n * shape.channels + first + c;
                            outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                        };
                        if (index_stride.c == 1) {
                            scatter_line<Isa>(sums, plane_size, pitch, 1, count, g, 1, index, 1,
                                              report);
                        } else {
                            scatter_line<Isa>(sums, plane_size, pitch, 1, count, g, 1, index,
                                              index_stride.c, report);
                        }
                    }
                if constexpr (!direct) {
                    for (std::ptrdiff_t pixel = 0; pixel < plane_size; ++pixel)
                        for_each_vec<Isa, V::size>(count, [&](std::ptrdiff_t i, auto lanes) {
                            store<Isa>(result + pixel * shape.channels + i,
                                       load<Isa>(sums + pixel * pitch + i, lanes), lanes);
                        });
                }
            }
        });
}

template <class Isa, Storage T>
std::ptrdiff_t max_pool2d_backward(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                                   const ImageStrides& grad_stride, const std::int64_t* indices,
                                   const ImageStrides& index_stride) {
    FirstPosition<Isa> outside;
    if (shape.channels_last) {
        scatter_channels_last<Isa>(shape, grad_x, grad_y, grad_stride, indices, index_stride,
                                   outside);
    } else {
        scatter_planes<Isa>(shape, grad_x, grad_y, grad_stride, indices, index_stride, outside);
    }
    return outside.position;
}

}  // namespace stableops
