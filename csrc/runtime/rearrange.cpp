#include "rearrange.h"

#include <algorithm>
#include <cstdint>

#include "parallel.h"

namespace stableops {
namespace {

// Elements of a task.
constexpr std::ptrdiff_t task_size = 32768;

struct Axis {
    std::ptrdiff_t size = 1, to = 0, from = 0;
};

template <class T>
void copy(const Rearrangement& plan, T* to, const T* from) {
    const auto axis = [&](int d) {
        return d < 0 ? Axis{} : Axis{plan.size[d], plan.to_stride[d], plan.from_stride[d]};
    };
    Axis inner = axis(plan.ndim - 1), next = axis(plan.ndim - 2);
    // Two pixels of a block make no loop.
    if (inner.size < 16 && inner.size < next.size) std::swap(inner, next);
    const int outer = std::max(plan.ndim - 2, 0);
    std::ptrdiff_t planes = 1;
    for (int d = 0; d < outer; ++d) planes *= plan.size[d];
    const std::ptrdiff_t each = task_size / (inner.size * next.size) + 1;
    auto run = [&](std::ptrdiff_t task) {
        std::ptrdiff_t plane = task * each, rest = plane, at[64];
        const std::ptrdiff_t end = std::min(planes, plane + each);
        T* plane_to = to;
        const T* plane_from = from;
        for (int d = outer - 1; d >= 0; --d) {
            at[d] = rest % plan.size[d];
            rest /= plan.size[d];
            plane_to += at[d] * plan.to_stride[d];
            plane_from += at[d] * plan.from_stride[d];
        }
        for (; plane < end; ++plane) {
            for (std::ptrdiff_t k = 0; k < next.size; ++k) {
                T* line_to = plane_to + k * next.to;
                const T* line_from = plane_from + k * next.from;
                for (std::ptrdiff_t i = 0; i < inner.size; ++i)
                    line_to[i * inner.to] = line_from[i * inner.from];
            }
            for (int d = outer - 1; d >= 0; --d) {
                plane_to += plan.to_stride[d];
                plane_from += plan.from_stride[d];
                if (++at[d] < plan.size[d]) break;
                plane_to -= at[d] * plan.to_stride[d];
                plane_from -= at[d] * plan.from_stride[d];
                at[d] = 0;
            }
        }
    };
    using Run = decltype(run);
    parallel_for(
        (planes + each - 1) / each,
        [](void* context, std::ptrdiff_t task) { (*static_cast<const Run*>(context))(task); },
        &run);
}

}  // namespace

void rearrange(const Rearrangement& plan, void* to, const void* from, std::size_t bytes) {
    const auto as = [&]<class T>(T) {
        copy(plan, static_cast<T*>(to), static_cast<const T*>(from));
    };
    switch (bytes) {
        case 1:
            return as(std::uint8_t{});
        case 2:
            return as(std::uint16_t{});
        case 4:
            return as(std::uint32_t{});
        default:
            return as(std::uint64_t{});
    }
}

}  // namespace stableops
