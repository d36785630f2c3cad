#pragma once
// What the poolings share: windows of an axis, tasks, and rows of a plane laid out for vectors.
#include <cstddef>
#include <cstdint>

#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../simd/shuffle.h"
#include "../simd/vec.h"

namespace stableops {

template <class Isa>
[[gnu::always_inline]] inline std::ptrdiff_t smaller(std::ptrdiff_t a, std::ptrdiff_t b) {
    return a < b ? a : b;
}
template <class Isa>
[[gnu::always_inline]] inline std::ptrdiff_t larger(std::ptrdiff_t a, std::ptrdiff_t b) {
    return a > b ? a : b;
}

// A run of consecutive rows of consecutive planes: while (next_plane()) visits rows [first, last) of
// plane (outer, inner).
template <class Isa>
struct RowRange {
    std::ptrdiff_t inner_count, rows;  // planes are numbered outer * inner_count + inner
    std::ptrdiff_t outer, inner, first, last, left;

    RowRange(std::ptrdiff_t inner_count, std::ptrdiff_t rows, std::ptrdiff_t begin,
             std::ptrdiff_t end)
        : inner_count(inner_count),
          rows(rows),
          outer(begin / rows / inner_count),
          inner(begin / rows % inner_count - 1),
          first(0),
          last(begin % rows),
          left(end - begin) {}

    bool next_plane() {
        if (left == 0) return false;
        first = last == rows ? 0 : last;
        last = smaller<Isa>(rows, first + left);
        left -= last - first;
        if (++inner == inner_count) {
            inner = 0;
            ++outer;
        }
        return true;
    }
    std::ptrdiff_t plane() const { return outer * inner_count + inner; }
};

// Runs f(RowRange) over blocks of all rows worth about 20 us each; `row_cost` is in lane operations,
// of which a core does a few in a nanosecond.
template <class Isa, class F>
void for_row_blocks(std::ptrdiff_t outer_count, std::ptrdiff_t inner_count,
                    std::ptrdiff_t rows_per_plane, std::ptrdiff_t row_cost, const F& f) {
    constexpr std::ptrdiff_t task_cost = std::ptrdiff_t{1} << 17;
    const std::ptrdiff_t rows = outer_count * inner_count * rows_per_plane;
    const std::ptrdiff_t block = row_cost >= task_cost ? 1 : task_cost / (row_cost + 1) + 1;
    parallel_for<Isa>((rows - 1) / block + 1, [&](std::ptrdiff_t task) {
        f(RowRange<Isa>(inner_count, rows_per_plane, task * block,
                        smaller<Isa>(rows, (task + 1) * block)));
    });
}

// Parts of one scratch block, each aligned to 64 bytes.
template <class Isa>
struct ScratchParts {
    static constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }

    char* next;
    template <class T>
    T* take(std::ptrdiff_t count) {
        T* part = reinterpret_cast<T*>(next);
        next += aligned(static_cast<std::size_t>(count) * sizeof(T));
        return part;
    }
};

// The taps of a window along one axis that lie in the image: first, first + 1 ... end - 1 of
// [0, kernel), where tap k is at start + k * dilation.
struct Taps {
    std::ptrdiff_t first, end;
};
template <class Isa>
[[gnu::always_inline]] inline Taps taps_inside(std::ptrdiff_t start, std::ptrdiff_t kernel,
                                               std::ptrdiff_t dilation, std::ptrdiff_t size) {
    std::ptrdiff_t first = start >= 0 ? 0 : (dilation - 1 - start) / dilation;
    std::ptrdiff_t end = start >= size ? 0 : (size - start + dilation - 1) / dilation;
    return {first, smaller<Isa>(kernel, end)};
}

// Rows of one plane with unit stride: the plane's own where that is what they are, else copies in a
// ring of `slots` rows, so that windows that overlap copy a row once.
template <class Isa, class T>
struct RowRing {
    static constexpr std::ptrdiff_t slots = 16;

    T* copies = nullptr;
    std::ptrdiff_t* held = nullptr;  // which row a slot holds, -1 for none
    std::ptrdiff_t width = 0;
    const T* plane = nullptr;
    std::ptrdiff_t stride_h = 0, stride_w = 0;

    // Whole cache lines, and never a multiple of 4 KB, where all rows would share a few cache sets.
    static std::ptrdiff_t pitch(std::ptrdiff_t width) {
        constexpr std::ptrdiff_t line = 64 / static_cast<std::ptrdiff_t>(sizeof(T));
        return ((width + line - 1) / line | 1) * line;
    }
    static std::size_t scratch_size(std::ptrdiff_t width) {
        using Parts = ScratchParts<Isa>;
        return Parts::aligned(static_cast<std::size_t>(slots * pitch(width)) * sizeof(T)) +
               Parts::aligned(slots * sizeof(std::ptrdiff_t));
    }
    void use_scratch(ScratchParts<Isa>& parts) {
        copies = parts.template take<T>(slots * pitch(width));
        held = parts.template take<std::ptrdiff_t>(slots);
    }
    void set_plane(const T* p) {
        plane = p;
        if (stride_w == 1) return;
        for (std::ptrdiff_t slot = 0; slot < slots; ++slot) held[slot] = -1;
    }

    // Row y. It stays valid while rows within `slots` of it are asked for.
    const T* row(std::ptrdiff_t y) {
        const T* source = plane + y * stride_h;
        if (stride_w == 1) return source;
        const std::ptrdiff_t slot = y % slots;
        T* copy = copies + slot * pitch(width);
        if (held[slot] != y) {
            held[slot] = y;
            for (std::ptrdiff_t i = 0; i < width; ++i) copy[i] = source[i * stride_w];
        }
        return copy;
    }
    // The same for rows that are further apart: the caller says which slot is free.
    const T* row_in_slot(std::ptrdiff_t y, std::ptrdiff_t slot) {
        if (stride_w == 1) return plane + y * stride_h;
        held[slot] = -1;
        const T* source = plane + y * stride_h;
        T* copy = copies + slot * pitch(width);
        for (std::ptrdiff_t i = 0; i < width; ++i) copy[i] = source[i * stride_w];
        return copy;
    }
};

}  // namespace stableops
