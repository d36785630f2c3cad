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

template <class Isa, class C>
[[gnu::noinline]] void fill_zeros(C* p, std::ptrdiff_t count) {
    using V = Vec<Isa, C>;
    for_each_vec<Isa, V::size>(
        count, [&](std::ptrdiff_t i, auto lanes) { store_elements<Isa>(p + i, V::zero(), lanes); });
}

// The sums of one plane, set to zero shortly before they are used, while they are in the cache.
template <class Isa, class C>
struct PlaneSums {
    C* sums;
    std::ptrdiff_t size;
    std::ptrdiff_t zeroed = 0;

    void zero_until(std::ptrdiff_t end) {
        end = smaller<Isa>(end, size);
        if (end <= zeroed) return;
        fill_zeros<Isa>(sums + zeroed, end - zeroed);
        zeroed = end;
    }
    // Whether `at` lies in the plane; if it does, it has been set to zero.
    [[gnu::noinline]] bool reaches(std::int64_t at) {
        if (static_cast<std::uint64_t>(at) >= static_cast<std::uint64_t>(size)) return false;
        zero_until(at + 1024);
        return true;
    }
};

// sums[index[i]] += grad[i] for i in [0, count). An index is compared before it is used, so a wrong
// one writes nowhere; report(i) is told.
template <class Isa, class T, class Report>
[[gnu::always_inline]] inline void scatter_line(PlaneSums<Isa, Compute<T>>& plane,
                                                std::ptrdiff_t count, const T* grad,
                                                std::ptrdiff_t grad_step, const std::int64_t* index,
                                                std::ptrdiff_t index_step, const Report& report) {
    Compute<T>* const sums = plane.sums;
    std::uint64_t zeroed = static_cast<std::uint64_t>(plane.zeroed);
    for (std::ptrdiff_t i = 0; i < count; ++i) {
        const std::int64_t at = index[i * index_step];
        if (static_cast<std::uint64_t>(at) >= zeroed) [[unlikely]] {
            if (!plane.reaches(at)) {
                report(i);
                continue;
            }
            zeroed = static_cast<std::uint64_t>(plane.zeroed);
        }
        sums[at] += element<Isa>(grad[i * grad_step]);
    }
}

// Adds plane by plane, in the plane of the result itself or in a copy of it: of float32 where the
// result is narrow, or one that fits the cache where the results do not.
template <class Isa, Storage T>
void scatter_planes(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                    const ImageStrides& grad_stride, const std::int64_t* indices,
                    const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    constexpr std::ptrdiff_t cached_bytes = std::ptrdiff_t{1} << 19;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    const std::ptrdiff_t plane_bytes = plane_size * static_cast<std::ptrdiff_t>(sizeof(T));
    const bool streams = shape.batch * shape.channels * plane_bytes >= pool_stream_bytes &&
                         plane_bytes <= cached_bytes;
    const bool direct = std::is_same_v<T, C> && !streams;
    for_row_blocks<Isa>(
        shape.batch, shape.channels, 1, 2 * plane_size + 8 * shape.out_h * shape.out_w,
        [&](RowRange<Isa> range) {
            RowWriter<Isa, C> writer{plane_access<Isa, T>(), streams, false};
            if (!direct)
                writer.line = static_cast<C*>(
                    thread_scratch(static_cast<std::size_t>(plane_size) * sizeof(C)));
            while (range.next_plane()) {
                const std::ptrdiff_t plane = range.plane();
                char* const result = reinterpret_cast<char*>(grad_x + plane * plane_size);
                C* const sums = writer.begin(result);
                PlaneSums<Isa, C> plane_sums{sums, plane_size};
                const std::ptrdiff_t n = range.outer;
                const std::ptrdiff_t c = range.inner;
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy) {
                    const T* g =
                        grad_y + n * grad_stride.n + c * grad_stride.c + oy * grad_stride.h;
                    const std::int64_t* index =
                        indices + n * index_stride.n + c * index_stride.c + oy * index_stride.h;
                    const auto report = [&](std::ptrdiff_t ox) {
                        outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                    };
                    if (grad_stride.w == 1 && index_stride.w == 1) {
                        scatter_line<Isa>(plane_sums, shape.out_w, g, 1, index, 1, report);
                    } else {
                        scatter_line<Isa>(plane_sums, shape.out_w, g, grad_stride.w, index,
                                          index_stride.w, report);
                    }
                }
                plane_sums.zero_until(plane_size);
                writer.end(result, sums, plane_size);
            }
            writer.end_task();
        });
}

// Channels of a task: all of them are read fastest, but few images are to make some tasks too.
// Tasks share no cache line of float32, and the float32 copy of a narrow result stays small.
template <class Isa, class T>
std::ptrdiff_t scatter_channels(const Pool2dShape& shape) {
    if (sizeof(T) == 2) return 16;
    constexpr std::ptrdiff_t tasks = 8;
    const std::ptrdiff_t blocks = (tasks - 1) / shape.batch + 1;
    const std::ptrdiff_t channels = (shape.channels - 1) / blocks + 1;
    return smaller<Isa>(256, (channels + 63) / 64 * 64);
}

// The scatter for some channels of one image, pixel (oy, ox) of grad_y after the other.
//
// Channels do not meet, so vectors of them need no order among their lanes; but a scattered store
// is slow. The indices of one window take few values, and windows differ by a shift: `steps` are
// the values seen so far, less the corner of a window for the guessed stride. Each of them takes a
// comparison and a masked addition; a lane whose index is none of them is added on its own, and
// tells a new one. What was guessed or seen decides how long it takes, never the result.
template <class Isa, class C>
struct ScatterPixels {
    using V = Vec<Isa, C>;
    using I = typename SameWidthInt<C>::type;
    using Positions = Vec<Isa, I>;
    static constexpr int most_steps = 32;

    C* sums;
    std::ptrdiff_t pitch;  // from pixel to pixel
    std::ptrdiff_t count;  // of channels
    std::ptrdiff_t plane_size;
    std::ptrdiff_t zeroed = 0;  // pixels of `sums` that have been set to zero
    int step_count = 0;
    std::ptrdiff_t step[most_steps];
    std::ptrdiff_t largest_step = 0;

    // Sums are set to zero shortly before they are used, while they are in the cache.
    [[gnu::always_inline]] inline void zero_until(std::ptrdiff_t pixel) {
        if (pixel > zeroed) zero_beyond(pixel);
    }
    [[gnu::noinline]] void zero_beyond(std::ptrdiff_t pixel) {
        const std::ptrdiff_t end = smaller<Isa>(plane_size, pixel + 1024 / count);
        if (pitch == count) {
            fill_zeros<Isa>(sums + zeroed * pitch, (end - zeroed) * pitch);
            zeroed = end;
        }
        for (; zeroed < end; ++zeroed) fill_zeros<Isa>(sums + zeroed * pitch, count);
    }
    void add_step(std::ptrdiff_t at) {
        for (int k = 0; k < step_count && k < most_steps; ++k)
            if (step[k] == at) return;
        if (step_count < most_steps) step[step_count] = at;
        ++step_count;  // beyond most_steps: no use
        largest_step = larger<Isa>(largest_step, at);
    }

    // Indices as lanes of the sums' width; those that do not fit become -1.
    template <class Lanes>
    [[gnu::always_inline]] static inline Positions load_positions(const std::int64_t* index,
                                                                  Lanes lanes) {
        if constexpr (sizeof(C) == 8) {
            return load_elements<Isa>(index, lanes);
        } else {
            using Index = Vec<Isa, std::int64_t>;
            Index low, high;
            if constexpr (std::is_same_v<Lanes, AllLanes>) {
                low = loadu<Isa>(index);
                high = loadu<Isa>(index + Index::size);
            } else {
                const int rest = lanes.count - Index::size;
                low = load_first<Isa>(index, rest < 0 ? lanes.count : Index::size);
                high = rest > 0 ? load_first<Isa>(index + Index::size, rest) : Index::zero();
            }
            const Positions a = {reinterpret_cast<typename Positions::Raw>(low.raw)};
            const Positions b = {reinterpret_cast<typename Positions::Raw>(high.raw)};
            return select(odd_lanes(a, b) == Positions::zero(), even_lanes(a, b),
                          Positions::splat(-1));
        }
    }

    // One pixel; `corner` is the guess. report(channel) is told of indices outside the plane.
    template <class T, class Report>
    [[gnu::always_inline]] inline void add(const T* grad, const std::int64_t* index,
                                           std::ptrdiff_t index_step, std::ptrdiff_t corner,
                                           const Report& report) {
        // The index, or -1.
        const auto add_one = [&](std::ptrdiff_t c) -> std::ptrdiff_t {
            const std::int64_t at = index[c * index_step];
            if (static_cast<std::uint64_t>(at) >= static_cast<std::uint64_t>(plane_size))
                [[unlikely]] {
                report(c);
                return -1;
            }
            zero_until(at + 1);
            sums[at * pitch + c] += element<Isa>(grad[c]);
            return at;
        };
        if (index_step != 1 || count < V::size / 2 || step_count > most_steps ||
            plane_size > INT32_MAX) {
            for (std::ptrdiff_t c = 0; c < count; ++c) add_one(c);
            return;
        }
        zero_until(corner + largest_step + 1);
        C* target[most_steps];
        I position[most_steps];
        int targets = 0;
        for (int k = 0; k < step_count; ++k) {
            const std::ptrdiff_t pixel = corner + step[k];
            if (pixel < 0 || pixel >= plane_size) continue;
            target[targets] = sums + pixel * pitch;
            position[targets++] = static_cast<I>(pixel);
        }
        for_each_vec<Isa, V::size>(count, [&](std::ptrdiff_t c, auto lanes) {
            const V g = load_elements<Isa>(grad + c, lanes);
            const Positions at = load_positions(index + c, lanes);
            Positions found = Positions::zero();
            for (int k = 0; k < targets; ++k) {
                const auto here = at == Positions::splat(position[k]);
                found = found | here;
                C* p = target[k] + c;
                store_elements<Isa>(p, load_elements<Isa>(p, lanes) + select(here, g, V::zero()),
                                    lanes);
            }
            unsigned left = ~mask_bits(found);
            if constexpr (std::is_same_v<decltype(lanes), FirstLanes>) {
                left &= (1u << lanes.count) - 1u;
            } else if constexpr (V::size < 32) {
                left &= (1u << V::size) - 1u;
            }
            for (; left != 0; left &= left - 1) {
                const std::ptrdiff_t pixel = add_one(c + __builtin_ctz(left));
                if (pixel >= 0) add_step(pixel - corner);
            }
        });
    }
};

template <class Isa, Storage T>
void scatter_channels_last(const Pool2dShape& shape, T* grad_x, const T* grad_y,
                           const ImageStrides& grad_stride, const std::int64_t* indices,
                           const ImageStrides& index_stride, FirstPosition<Isa>& outside) {
    using C = Compute<T>;
    constexpr bool direct = std::is_same_v<T, C>;
    const std::ptrdiff_t plane_size = shape.height * shape.width;
    const std::ptrdiff_t block = scatter_channels<Isa, T>(shape);
    const std::ptrdiff_t blocks = (shape.channels - 1) / block + 1;
    const std::ptrdiff_t stride_h = larger<Isa>(1, shape.height / shape.out_h);
    const std::ptrdiff_t stride_w = larger<Isa>(1, shape.width / shape.out_w);
    for_row_blocks<Isa>(
        shape.batch, blocks, 1,
        (2 * plane_size + 8 * shape.out_h * shape.out_w) * smaller<Isa>(shape.channels, block),
        [&](RowRange<Isa> range) {
            while (range.next_plane()) {
                const std::ptrdiff_t n = range.outer;
                const std::ptrdiff_t first = range.inner * block;
                ScatterPixels<Isa, C> pixels;
                pixels.plane_size = plane_size;
                pixels.count = smaller<Isa>(shape.channels - first, block);
                pixels.pitch = direct ? shape.channels : pixels.count;
                T* result = grad_x + n * plane_size * shape.channels + first;
                if constexpr (direct) {
                    pixels.sums = result;
                } else {
                    pixels.sums = static_cast<C*>(thread_scratch(
                        static_cast<std::size_t>(plane_size * pixels.count) * sizeof(C)));
                }
                for (std::ptrdiff_t oy = 0; oy < shape.out_h; ++oy)
                    for (std::ptrdiff_t ox = 0; ox < shape.out_w; ++ox)
                        pixels.add(
                            grad_y + n * grad_stride.n + oy * grad_stride.h + ox * grad_stride.w +
                                first,
                            indices + n * index_stride.n + oy * index_stride.h +
                                ox * index_stride.w + first * index_stride.c,
                            index_stride.c, oy * stride_h * shape.width + ox * stride_w,
                            [&](std::ptrdiff_t c) {
                                const std::ptrdiff_t plane = n * shape.channels + first + c;
                                outside.report((plane * shape.out_h + oy) * shape.out_w + ox);
                            });
                pixels.zero_until(plane_size);
                if constexpr (!direct) {
                    for (std::ptrdiff_t pixel = 0; pixel < plane_size; ++pixel)
                        store_row<Isa, T>(result + pixel * shape.channels,
                                          pixels.sums + pixel * pixels.pitch, pixels.count);
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
