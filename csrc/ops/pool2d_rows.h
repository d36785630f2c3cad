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

// Runs f(begin, end) over blocks of [0, rows) worth about 20 us each; `row_cost` is in vector-lane
// operations, of which a core does a few in a nanosecond.
template <class Isa, class F>
void for_row_blocks(std::ptrdiff_t rows, std::ptrdiff_t row_cost, const F& f) {
    constexpr std::ptrdiff_t task_cost = std::ptrdiff_t{1} << 17;
    std::ptrdiff_t block = row_cost >= task_cost ? 1 : task_cost / (row_cost + 1) + 1;
    block = smaller<Isa>(block, larger<Isa>(rows, 1));
    parallel_for<Isa>((rows - 1) / block + 1, [&](std::ptrdiff_t task) {
        f(task * block, smaller<Isa>(rows, (task + 1) * block));
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

// Rows of one plane as vectors want them: unit stride, and `padding` in the columns [-left, 0) and
// [width, right). The plane's own rows where that is what they are, else copies in a ring of
// `slots` rows, so that windows that overlap copy a row once.
template <class Isa, class T>
struct RowRing {
    static constexpr std::ptrdiff_t slots = 16;

    T* rows = nullptr;
    std::ptrdiff_t* held = nullptr;  // which row a slot holds, -1 for none
    std::ptrdiff_t left = 0, width = 0, right = 0, pitch = 0;
    const T* plane = nullptr;
    std::ptrdiff_t stride_h = 0, stride_w = 0;

    bool copies() const { return left > 0 || right > width || stride_w != 1; }

    static std::size_t scratch_size(std::ptrdiff_t left, std::ptrdiff_t right) {
        using Parts = ScratchParts<Isa>;
        return Parts::aligned(static_cast<std::size_t>(slots * row_pitch(left, right)) * sizeof(T)) +
               Parts::aligned(slots * sizeof(std::ptrdiff_t));
    }
    // Whole cache lines, and never a multiple of 4 KB, where all rows would share a few cache sets.
    static std::ptrdiff_t row_pitch(std::ptrdiff_t left, std::ptrdiff_t right) {
        constexpr std::ptrdiff_t line = 64 / static_cast<std::ptrdiff_t>(sizeof(T));
        return ((left + right + line - 1) / line | 1) * line;
    }

    void use_scratch(ScratchParts<Isa>& parts) {
        pitch = row_pitch(left, right);
        rows = parts.template take<T>(slots * pitch);
        held = parts.template take<std::ptrdiff_t>(slots);
    }
    void set_padding(T padding) {
        if (!copies()) return;
        for (std::ptrdiff_t slot = 0; slot < slots; ++slot) {
            T* row = rows + slot * pitch;
            for (std::ptrdiff_t i = 0; i < left; ++i) row[i] = padding;
            for (std::ptrdiff_t i = left + width; i < left + right; ++i) row[i] = padding;
        }
    }
    void set_plane(const T* p) {
        plane = p;
        for (std::ptrdiff_t slot = 0; slot < slots; ++slot) held[slot] = -1;
    }

    // Row y from column -left on. It stays valid while rows within `slots` of it are asked for.
    const T* row(std::ptrdiff_t y) {
        const T* source = plane + y * stride_h;
        if (!copies()) return source;
        std::ptrdiff_t slot = y % slots;
        T* copy = rows + slot * pitch;
        if (held[slot] != y) {
            held[slot] = y;
            copy_row(copy + left, source);
        }
        return copy;
    }
    // The same for windows whose rows are further apart: the caller says which slot is free.
    const T* row_in_slot(std::ptrdiff_t y, std::ptrdiff_t slot) {
        const T* source = plane + y * stride_h;
        if (!copies()) return source;
        held[slot] = -1;
        T* copy = rows + slot * pitch;
        copy_row(copy + left, source);
        return copy;
    }

    void copy_row(T* to, const T* from) const {
        if (stride_w == 1) {
            copy_units(to, from);
        } else {
            for (std::ptrdiff_t i = 0; i < width; ++i) to[i] = from[i * stride_w];
        }
    }
    void copy_units(T* to, const T* from) const {
        using Raw = Vec<Isa, float>;
        constexpr std::ptrdiff_t step = Isa::bytes / static_cast<std::ptrdiff_t>(sizeof(T));
        std::ptrdiff_t i = 0;
        for (; i + step <= width; i += step) {
            Raw v;
            __builtin_memcpy(&v.raw, from + i, Isa::bytes);
            __builtin_memcpy(to + i, &v.raw, Isa::bytes);
        }
        for (; i < width; ++i) to[i] = from[i];
    }
};

}  // namespace stableops
