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

// n / d for n >= 0: strides and dilations are nearly always 1 or 2, and a division takes longer than
// pooling a short row.
template <class Isa>
[[gnu::always_inline]] inline std::ptrdiff_t quotient(std::ptrdiff_t n, std::ptrdiff_t d) {
    if (d == 1) return n;
    if (d == 2) return n >> 1;
    return n / d;
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
    std::ptrdiff_t first = start >= 0 ? 0 : quotient<Isa>(dilation - 1 - start, dilation);
    std::ptrdiff_t end =
        start >= size ? 0 : quotient<Isa>(size - start + dilation - 1, dilation);
    return {first, smaller<Isa>(kernel, end)};
}

// Rows of one plane as vectors want them: unit stride, and `padding` where windows reach beyond the
// image. The plane's own rows where that is what they are, else copies in a ring of `slots` rows, so
// that windows that overlap copy a row once. Vectors that straddle two stores of a copy wait until
// both are in the cache: whoever can asks for rows some time before they are read.
template <class Isa, class T>
struct RowRing {
    static constexpr std::ptrdiff_t slots = 16;

    std::ptrdiff_t width = 0;
    std::ptrdiff_t left = 0;   // columns before column 0
    std::ptrdiff_t right = 0;  // columns from column 0 on, if not `width`
    const T* plane = nullptr;
    std::ptrdiff_t stride_h = 0, stride_w = 0;
    T* copies = nullptr;
    std::ptrdiff_t* held = nullptr;  // which row a slot holds, -1 for none

    // Set by scratch_size().
    bool direct = true;
    std::ptrdiff_t margin = 0;  // whole cache lines before column 0, so that whole lines are copied
    std::ptrdiff_t pitch = 0;   // never a multiple of 4 KB, where all rows would share few cache sets

    static constexpr std::ptrdiff_t line = 64 / static_cast<std::ptrdiff_t>(sizeof(T));

    std::size_t scratch_size() {
        using Parts = ScratchParts<Isa>;
        direct = stride_w == 1 && left == 0 && right <= width;
        margin = (left + line - 1) / line * line;
        pitch = ((margin + larger<Isa>(right, width) + line - 1) / line | 1) * line;
        return Parts::aligned(static_cast<std::size_t>(slots * pitch) * sizeof(T)) +
               Parts::aligned(slots * sizeof(std::ptrdiff_t));
    }
    void use_scratch(ScratchParts<Isa>& parts, T padding) {
        copies = parts.template take<T>(slots * pitch);
        held = parts.template take<std::ptrdiff_t>(slots);
        if (left > 0 || right > width)
            for (std::ptrdiff_t i = 0; i < slots * pitch; ++i) copies[i] = padding;
    }
    void set_plane(const T* p) {
        plane = p;
        for (std::ptrdiff_t slot = 0; slot < slots; ++slot) held[slot] = -1;
    }

    static std::ptrdiff_t slot_of(std::ptrdiff_t y) { return y & (slots - 1); }

    // Column 0 of row y. It stays valid while rows within `slots` of it are asked for.
    const T* row(std::ptrdiff_t y) { return row_in_slot(y, slot_of(y)); }
    // The same where the caller says which slot is free.
    const T* row_in_slot(std::ptrdiff_t y, std::ptrdiff_t slot) {
        const T* source = plane + y * stride_h;
        if (direct) return source;
        T* copy = copies + slot * pitch + margin;
        if (held[slot] == y) return copy;
        held[slot] = y;
        if (stride_w == 1) {
            std::ptrdiff_t i = 0;
            for (; i + line <= width; i += line)
                for (int part = 0; part < 64 / Isa::bytes; ++part) {
                    Vec<Isa, float> v;
                    constexpr std::ptrdiff_t step = Isa::bytes / sizeof(T);
                    __builtin_memcpy(&v.raw, source + i + part * step, Isa::bytes);
                    __builtin_memcpy(copy + i + part * step, &v.raw, Isa::bytes);
                }
            for (; i < width; ++i) copy[i] = source[i];
        } else {
            for (std::ptrdiff_t i = 0; i < width; ++i) copy[i] = source[i * stride_w];
        }
        return copy;
    }
};

}  // namespace stableops
