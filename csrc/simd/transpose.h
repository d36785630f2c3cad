#pragma once
// Square register transposes: out[j] lane i = source[i * pitch + j].
//
// A row is not loaded whole. Each vector is put together from pieces of rows that lie apart, so
// that what is left are few shuffles across 128-bit lanes, or none, and those inside lanes:
// inserting a piece from memory runs on two ports where a shuffle runs on one. Vectors of 64 bytes
// are made of halves: of pieces of 16 bytes, there would be twice as many loads and insertions.
#include "vec.h"

namespace stableops {

// Half a vector at p, and behind it half a vector at p + distance; a whole one of 16 bytes.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> load_halves(const T* p, std::ptrdiff_t distance) {
    if constexpr (Isa::bytes == 16) {
        return loadu<Isa>(p);
    } else {
        typedef T Half __attribute__((vector_size(Isa::bytes / 2)));
        Half low, high;
        std::memcpy(&low, p, sizeof(low));
        std::memcpy(&high, p + distance, sizeof(high));
        return join_halves<Isa, T>(low, high);
    }
}

// 128-bit lanes 0 and 2 (or 1 and 3) of a, and the same of b.
template <class Isa, bool odd, class T>
[[gnu::always_inline]] inline Vec<Isa, T> every_other_piece(Vec<Isa, T> a, Vec<Isa, T> b) {
    constexpr int h = odd;
    if constexpr (sizeof(T) == 8) {
        constexpr int f = 2 * h;
        return {__builtin_shufflevector(a.raw, b.raw, f, f + 1, f + 4, f + 5, f + 8, f + 9, f + 12,
                                        f + 13)};
    } else {
        constexpr int f = 4 * h;
        return {__builtin_shufflevector(a.raw, b.raw, f, f + 1, f + 2, f + 3, f + 8, f + 9, f + 10,
                                        f + 11, f + 16, f + 17, f + 18, f + 19, f + 24, f + 25,
                                        f + 26, f + 27)};
    }
}

// Lanes of a and b alternating, from the low (or high) half of each 128-bit lane, in units of
// `unit` elements.
template <class Isa, int unit, bool high, class T>
[[gnu::always_inline]] inline Vec<Isa, T> interleave(Vec<Isa, T> a, Vec<Isa, T> b) {
    constexpr int n = Vec<Isa, T>::size;
    constexpr int piece = 16 / static_cast<int>(sizeof(T));
    constexpr auto source = [](int lane) {
        int in_piece = lane % piece;
        int from_b = (in_piece / unit) % 2;
        int position = in_piece / (2 * unit) * unit + in_piece % unit + (high ? piece / 2 : 0);
        return lane - in_piece + position + from_b * n;
    };
    if constexpr (n == 2) {
        return {__builtin_shufflevector(a.raw, b.raw, source(0), source(1))};
    } else if constexpr (n == 4) {
        return {__builtin_shufflevector(a.raw, b.raw, source(0), source(1), source(2), source(3))};
    } else if constexpr (n == 8) {
        return {__builtin_shufflevector(a.raw, b.raw, source(0), source(1), source(2), source(3),
                                        source(4), source(5), source(6), source(7))};
    } else {
        return {__builtin_shufflevector(a.raw, b.raw, source(0), source(1), source(2), source(3),
                                        source(4), source(5), source(6), source(7), source(8),
                                        source(9), source(10), source(11), source(12), source(13),
                                        source(14), source(15))};
    }
}

// Vectors whose 128-bit lanes are one piece of as many rows as it has elements, transposed within
// lanes.
template <class Isa, class T>
[[gnu::always_inline]] inline void transpose_pieces(const Vec<Isa, T>* row, Vec<Isa, T>* out) {
    if constexpr (sizeof(T) == 8) {
        out[0] = interleave<Isa, 1, false>(row[0], row[1]);
        out[1] = interleave<Isa, 1, true>(row[0], row[1]);
    } else {
        const Vec<Isa, T> low01 = interleave<Isa, 1, false>(row[0], row[1]);
        const Vec<Isa, T> high01 = interleave<Isa, 1, true>(row[0], row[1]);
        const Vec<Isa, T> low23 = interleave<Isa, 1, false>(row[2], row[3]);
        const Vec<Isa, T> high23 = interleave<Isa, 1, true>(row[2], row[3]);
        out[0] = interleave<Isa, 2, false>(low01, low23);
        out[1] = interleave<Isa, 2, true>(low01, low23);
        out[2] = interleave<Isa, 2, false>(high01, high23);
        out[3] = interleave<Isa, 2, true>(high01, high23);
    }
}

template <class Isa, class T>
[[gnu::always_inline]] inline void transpose(const T* source, std::ptrdiff_t pitch,
                                             Vec<Isa, T>* out) {
    constexpr int n = Vec<Isa, T>::size;
    constexpr int piece = 16 / static_cast<int>(sizeof(T));
    if constexpr (Isa::bytes < 64) {
#pragma GCC unroll 8
        for (int j = 0; j < n; j += piece) {
            Vec<Isa, T> row[piece];
#pragma GCC unroll 4
            for (int i = 0; i < piece; ++i)
                row[i] = load_halves<Isa>(source + i * pitch + j, piece * pitch);
            transpose_pieces<Isa>(row, out + j);
        }
    } else {
        // All loads of a row together: rows that lie a power of two apart are not in the first
        // level of the cache for long.
        Vec<Isa, T> near[2][piece], far[2][piece];
#pragma GCC unroll 4
        for (int i = 0; i < piece; ++i)
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) {
                const T* p = source + i * pitch + j * 2 * piece;
                near[j][i] = load_halves<Isa>(p, piece * pitch);
                far[j][i] = load_halves<Isa>(p + 2 * piece * pitch, piece * pitch);
            }
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            Vec<Isa, T> even[piece], odd[piece];
#pragma GCC unroll 4
            for (int i = 0; i < piece; ++i) {
                even[i] = every_other_piece<Isa, false>(near[j][i], far[j][i]);
                odd[i] = every_other_piece<Isa, true>(near[j][i], far[j][i]);
            }
            transpose_pieces<Isa>(even, out + j * 2 * piece);
            transpose_pieces<Isa>(odd, out + j * 2 * piece + piece);
        }
    }
}

}  // namespace stableops
