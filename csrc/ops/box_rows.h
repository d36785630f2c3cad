#pragma once
// Reading strided boxes and scores one at a time, and memory for one call.
#include "../detection.h"
#include "../runtime/memory.h"
#include "../simd/vec.h"

namespace stableops {

template <class T>
struct Box {
    T x1, y1, x2, y2;
};

template <class Isa, Storage T>
[[gnu::always_inline]] inline Compute<T> load_one(const T* p) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
        return *p;
    } else {
        return load<Isa>(p, FirstLanes{1})[0];
    }
}

template <class Isa, Storage T>
[[gnu::always_inline]] inline void store_one(T* p, double value) {
    store<Isa>(p, Vec<Isa, Compute<T>>::splat(static_cast<Compute<T>>(value)), FirstLanes{1});
}

template <class Isa, Storage T>
[[gnu::always_inline]] inline Box<Compute<T>> load_box(BoxRows<T> boxes, std::ptrdiff_t i) {
    const T* box = boxes.data + i * boxes.row_stride;
    std::ptrdiff_t step = boxes.column_stride;
    return {load_one<Isa>(box), load_one<Isa>(box + step), load_one<Isa>(box + 2 * step),
            load_one<Isa>(box + 3 * step)};
}

// Memory for one call. Unlike the thread's scratch it is safe to hold across a parallel_for, and it
// is given back, however large.
template <class Isa>
struct Workspace {
    char* memory;

    explicit Workspace(std::ptrdiff_t bytes)
        : memory(static_cast<char*>(acquire_block(static_cast<std::size_t>(bytes)))) {}
    ~Workspace() { release_block(memory); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;
};

template <class Isa>
constexpr std::ptrdiff_t round_up(std::ptrdiff_t bytes) {
    return (bytes + 63) / 64 * 64;
}

}  // namespace stableops
