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

// n / d for n >= 0: strides and dilations are nearly always 1 or 2, and a division takes longer
// than pooling a short row.
template <class Isa>
[[gnu::always_inline]] inline std::ptrdiff_t quotient(std::ptrdiff_t n, std::ptrdiff_t d) {
    if (d == 1) return n;
    if (d == 2) return n >> 1;
    return n / d;
}

// A run of consecutive rows of consecutive planes: while (next_plane()) visits rows [first, last)
// of plane (outer, inner).
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

// Runs f(RowRange) over blocks of all rows worth about 20 us each; `row_cost` is in lane
// operations, of which a core does a few in a nanosecond.
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
    static constexpr std::size_t aligned(std::size_t bytes) {
        return (bytes + 63) & ~std::size_t{63};
    }

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
    std::ptrdiff_t end = start >= size ? 0 : quotient<Isa>(size - start + dilation - 1, dilation);
    return {first, smaller<Isa>(kernel, end)};
}

// Elements that a storage type is pooled in; integers are pooled as int64.
template <class T>
struct PoolElement {
    using type = Compute<T>;
};
template <>
struct PoolElement<std::int64_t> {
    using type = std::int64_t;
};

template <class Isa, class T, class Lanes>
[[gnu::always_inline]] inline Vec<Isa, typename PoolElement<T>::type> load_elements(const T* p,
                                                                                    Lanes lanes) {
    if constexpr (!std::is_same_v<T, std::int64_t>) {
        return load<Isa>(p, lanes);
    } else if constexpr (std::is_same_v<Lanes, AllLanes>) {
        return loadu<Isa>(p);
    } else {
        return load_first<Isa>(p, lanes.count);
    }
}
template <class Isa, class T, class Lanes>
[[gnu::always_inline]] inline void store_elements(T* p, Vec<Isa, typename PoolElement<T>::type> v,
                                                  Lanes lanes) {
    if constexpr (!std::is_same_v<T, std::int64_t>) {
        store<Isa>(p, v, lanes);
    } else if constexpr (std::is_same_v<Lanes, AllLanes>) {
        storeu(p, v);
    } else {
        store_first(p, v, lanes.count);
    }
}

template <class Isa, class T>
[[gnu::always_inline]] inline typename PoolElement<T>::type element(T stored) {
    if constexpr (std::is_same_v<T, typename PoolElement<T>::type>) {
        return stored;
    } else {
        return load<Isa>(&stored, FirstLanes{1})[0];
    }
}

// A row of the padded image, cut so that neighbouring windows have neighbouring taps whatever their
// stride is: column x (of the image; -left is the first of the padding) is element
// (x + left) / phases of phase (x + left) % phases, where phases = stride of the windows. Phases
// that no tap falls into are left out.
struct RowLayout {
    std::ptrdiff_t width;        // columns of the image that windows reach
    std::ptrdiff_t memory_step;  // from column to column, in elements
    std::ptrdiff_t left;
    std::ptrdiff_t stride;  // of the windows
    std::ptrdiff_t phases, phase_length;
};
template <class Isa>
[[gnu::always_inline]] inline bool two_phases(const RowLayout& layout) {
    return layout.stride == 2 && layout.phases == 2;
}

// Columns [first, first + count) of the image's row, `step` elements apart from `source` on: 1
// where the windows are one or two columns apart.
template <class Isa, class T>
[[gnu::always_inline]] inline void lay_out_columns(const RowLayout& layout,
                                                   typename PoolElement<T>::type* to,
                                                   std::ptrdiff_t first, const T* source,
                                                   std::ptrdiff_t step, std::ptrdiff_t count) {
    using C = typename PoolElement<T>::type;
    using V = Vec<Isa, C>;
    constexpr int size = V::size;
    if (layout.stride == 1) {
        to += layout.left + first;
        for_each_vec<Isa, size>(
            count, [&](std::ptrdiff_t x, auto lanes) __attribute__((always_inline)) {
                store_elements<Isa>(to + x, load_elements<Isa>(source + x, lanes), lanes);
            });
        return;
    }
    std::ptrdiff_t x = 0;
    std::ptrdiff_t phase = (layout.left + first) % layout.stride;
    std::ptrdiff_t at = (layout.left + first) / layout.stride;
    const auto put_vector = [&](int n) {
        T gathered[size];
        C element[size];
        for (int i = 0; i < size; ++i) gathered[i] = i < n ? source[(x + i) * step] : T{};
        storeu(element, load_elements<Isa>(gathered, AllLanes{}));
        for (int i = 0; i < n; ++i) {
            if (phase < layout.phases) to[phase * layout.phase_length + at] = element[i];
            if (++phase == layout.stride) {
                phase = 0;
                ++at;
            }
        }
        x += n;
    };
    if (two_phases<Isa>(layout)) {
        if (phase == 1) to[layout.phase_length + at++] = element<Isa>(source[x++]);
        C* const even = to + at - x / 2;
        C* const odd = even + layout.phase_length;
        for (; x + 2 * size <= count; x += 2 * size) {
            const V low = load_elements<Isa>(source + x, AllLanes{});
            const V high = load_elements<Isa>(source + x + size, AllLanes{});
            storeu(even + x / 2, even_lanes(low, high));
            storeu(odd + x / 2, odd_lanes(low, high));
        }
        const int left = static_cast<int>(count - x);
        if (left == 0) return;
        const V low = load_elements<Isa>(source + x, FirstLanes{left < size ? left : size});
        const V high = left <= size
                           ? V::zero()
                           : load_elements<Isa>(source + x + size, FirstLanes{left - size});
        store_first(even + x / 2, even_lanes(low, high), (left + 1) / 2);
        store_first(odd + x / 2, odd_lanes(low, high), left / 2);
        return;
    }
    while (x < count) put_vector(static_cast<int>(smaller<Isa>(size, count - x)));
}

// The image's columns of one row, in the type they are pooled in; padding is not touched.
template <class Isa, class T>
[[gnu::noinline]] void lay_out_row(const RowLayout& layout, typename PoolElement<T>::type* to,
                                   const void* row) {
    constexpr std::ptrdiff_t most = 256;
    const T* source = static_cast<const T*>(row);
    const std::ptrdiff_t step = layout.memory_step;
    const bool by_vectors = layout.stride == 1 || two_phases<Isa>(layout);
    T gathered[most];
    for (std::ptrdiff_t first = 0, count; first < layout.width; first += count) {
        count = layout.width - first;
        const bool gathers = step != 1 && by_vectors;
        if (gathers) {
            count = smaller<Isa>(count, most);
            for (std::ptrdiff_t i = 0; i < count; ++i) gathered[i] = source[(first + i) * step];
        }
        lay_out_columns<Isa>(layout, to, first, gathers ? gathered : source, gathers ? 1 : step,
                             count);
    }
}

// `count` results in their storage type.
template <class Isa, class T>
[[gnu::noinline]] void store_row(void* to, const typename PoolElement<T>::type* from,
                                 std::ptrdiff_t count) {
    using C = typename PoolElement<T>::type;
    for_each_vec<Isa, Vec<Isa, C>::size>(count, [&](std::ptrdiff_t i,
                                                    auto lanes) __attribute__((always_inline)) {
        store_elements<Isa>(static_cast<T*>(to) + i, load_elements<Isa>(from + i, lanes), lanes);
    });
}

// Planes of a storage type, read and written row by row in the type C that they are pooled in.
template <class C>
struct PlaneAccess {
    std::ptrdiff_t element_size;
    bool stored_as_is;  // the storage type is C
    void (*lay_out)(const RowLayout&, C*, const void*);
    void (*store)(void*, const C*, std::ptrdiff_t);
};
template <class Isa, class T>
PlaneAccess<typename PoolElement<T>::type> plane_access() {
    return {sizeof(T), std::is_same_v<T, typename PoolElement<T>::type>, lay_out_row<Isa, T>,
            store_row<Isa, T>};
}

// Results of so many bytes leave the caches before anybody reads them.
constexpr std::ptrdiff_t pool_stream_bytes = std::ptrdiff_t{32} << 20;

// Whether pixels of channels are written past the caches: whole lines, by whole vectors.
template <class T>
static bool streams_pixels(std::ptrdiff_t pixels, std::ptrdiff_t channels, const T* y) {
    const std::ptrdiff_t bytes = channels * static_cast<std::ptrdiff_t>(sizeof(T));
    return std::is_same_v<T, typename PoolElement<T>::type> && bytes % 64 == 0 &&
           reinterpret_cast<std::uintptr_t>(y) % 64 == 0 && pixels * bytes >= pool_stream_bytes;
}
template <class Isa, class T, class Lanes>
[[gnu::always_inline]] inline void put_elements(T* p, Vec<Isa, typename PoolElement<T>::type> v,
                                                Lanes lanes, bool streams) {
    if constexpr (std::is_same_v<T, typename PoolElement<T>::type> &&
                  std::is_same_v<Lanes, AllLanes>) {
        if (streams) return stream<Isa>(p, v);
    }
    store_elements<Isa>(p, v, lanes);
}

// Copies past the caches; stream_fence() follows the last one of a task.
template <class Isa>
[[gnu::noinline]] void stream_bytes(char* to, const char* from, std::ptrdiff_t count) {
    using V = Vec<Isa, float>;
    constexpr std::ptrdiff_t size = Isa::bytes;
    const std::ptrdiff_t head = smaller<Isa>(
        count, -static_cast<std::ptrdiff_t>(reinterpret_cast<std::uintptr_t>(to) % 64) & 63);
    __builtin_memcpy(to, from, static_cast<std::size_t>(head));
    std::ptrdiff_t i = head;
    for (; i + size <= count; i += size) {
        V v;
        __builtin_memcpy(&v.raw, from + i, sizeof(v.raw));
        stream<Isa>(reinterpret_cast<float*>(to + i), v);
    }
    __builtin_memcpy(to + i, from + i, static_cast<std::size_t>(count - i));
}

// Writes rows of results that are computed as C. They are computed in place where that will do,
// else in `line`.
template <class Isa, class C>
struct RowWriter {
    PlaneAccess<C> access;
    bool streams;
    bool padded;  // whole vectors are written, whatever the row's length
    C* line = nullptr;

    C* begin(char* to) const {
        return access.stored_as_is && !streams && !padded ? reinterpret_cast<C*>(to) : line;
    }
    // `values` is what begin(to) has returned.
    void end(char* to, C* values, std::ptrdiff_t count) const {
        if (!streams) {
            if (values == line) access.store(to, values, count);
            return;
        }
        // Narrowing in place reads what it overwrites.
        if (!access.stored_as_is) access.store(values, values, count);
        stream_bytes<Isa>(to, reinterpret_cast<const char*>(values), count * access.element_size);
    }
    void end_task() const {
        if (streams) stream_fence<Isa>();
    }
};

// Rows of one plane, laid out. The plane's own rows where these will do, else copies in a ring of
// `slots` rows, so that windows that overlap copy a row once. Vectors that straddle two stores of a
// copy wait until both are in the cache: whoever can asks for rows some time before they are read.
template <class Isa, class C>
struct RowRing {
    static constexpr std::ptrdiff_t slots = 16;

    PlaneAccess<C> access;
    RowLayout layout;
    bool direct;
    std::ptrdiff_t stride_h;
    std::ptrdiff_t margin;  // before a row, so that column 0 begins a cache line
    std::ptrdiff_t pitch;   // never a multiple of 4 KB, where all rows would share few cache sets
    const char* plane = nullptr;
    C* copies = nullptr;
    std::ptrdiff_t* held = nullptr;  // which row a slot holds, -1 for none

    RowRing(const PlaneAccess<C>& access, const RowLayout& layout, std::ptrdiff_t stride_h)
        : access(access), layout(layout), stride_h(stride_h) {
        constexpr std::ptrdiff_t line = 64 / static_cast<std::ptrdiff_t>(sizeof(C));
        const std::ptrdiff_t length = layout.phases * layout.phase_length;
        direct = access.stored_as_is && layout.memory_step == 1 && layout.stride == 1 &&
                 layout.left == 0 && length <= layout.width;
        margin = layout.stride == 1 ? (line - layout.left % line) % line : 0;
        pitch = ((margin + length + Vec<Isa, C>::size + line - 1) / line | 1) * line;
    }

    std::size_t scratch_size() const {
        using Parts = ScratchParts<Isa>;
        return direct ? 0
                      : Parts::aligned(static_cast<std::size_t>(slots * pitch) * sizeof(C)) +
                            Parts::aligned(slots * sizeof(std::ptrdiff_t));
    }
    void use_scratch(ScratchParts<Isa>& parts, C padding) {
        if (direct) return;
        copies = parts.template take<C>(slots * pitch);
        held = parts.template take<std::ptrdiff_t>(slots);
        for (std::ptrdiff_t i = 0; i < slots * pitch; i += Vec<Isa, C>::size)
            storeu(copies + i, Vec<Isa, C>::splat(padding));
    }
    // `first`: the element at row 0 and column 0.
    void set_plane(const void* first) {
        plane = static_cast<const char*>(first);
        if (direct) return;
        for (std::ptrdiff_t slot = 0; slot < slots; ++slot) held[slot] = -1;
    }

    const char* source(std::ptrdiff_t y) const {
        return plane + y * stride_h * access.element_size;
    }
    static std::ptrdiff_t slot_of(std::ptrdiff_t y) { return y & (slots - 1); }

    // Row y from phase 0 on. It stays valid while rows within `slots` of it are asked for.
    [[gnu::always_inline]] inline const C* row(std::ptrdiff_t y) {
        return row_in_slot(y, slot_of(y));
    }
    // The same where the caller says which slot is free.
    [[gnu::always_inline]] inline const C* row_in_slot(std::ptrdiff_t y, std::ptrdiff_t slot) {
        if (direct) return reinterpret_cast<const C*>(source(y));
        C* copy = copies + slot * pitch + margin;
        if (held[slot] != y) {
            held[slot] = y;
            access.lay_out(layout, copy, source(y));
        }
        return copy;
    }
    // Row y, which has been laid out.
    [[gnu::always_inline]] inline const C* laid_out(std::ptrdiff_t y) const {
        return copies + slot_of(y) * pitch + margin;
    }
};

}  // namespace stableops
