#pragma once
// Square register transposes: out[j] lane i = source[i * pitch + j].
//
// A row is not loaded whole. Each vector is put together from 16-byte pieces of rows 4 (float64: 2)
// apart, so that the pieces are already in their final 128-bit lane, and what is left are shuffles
// inside lanes: half as many as transposing whole rows takes, and inserting a piece from memory
// runs on two ports where a shuffle runs on one.
#include "vec.h"

namespace stableops {

// Bytes 0-15 at p, p + distance, p + 2 * distance, ... as the 128-bit lanes of one vector.
template <class Isa, class T>
[[gnu::always_inline]] inline Vec<Isa, T> load_pieces(const T* p, std::ptrdiff_t distance) {
    if constexpr (Isa::bytes == 16) {
        return loadu<Isa>(p);
    } else {
        typedef T Piece __attribute__((vector_size(16)));
        constexpr int pieces = Isa::bytes / 16;
        Piece piece[pieces];
#pragma GCC unroll 4
        for (int i = 0; i < pieces; ++i) std::memcpy(&piece[i], p + i * distance, 16);
        return join_pieces<Isa, T>(piece);
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

template <class Isa, class T>
[[gnu::always_inline]] inline void transpose(const T* source, std::ptrdiff_t pitch,
                                             Vec<Isa, T>* out) {
    constexpr int n = Vec<Isa, T>::size;
    constexpr int piece = 16 / static_cast<int>(sizeof(T));
#pragma GCC unroll 8
    for (int j = 0; j < n; j += piece) {
        Vec<Isa, T> row[piece];
#pragma GCC unroll 4
        for (int i = 0; i < piece; ++i)
            row[i] = load_pieces<Isa>(source + i * pitch + j, piece * pitch);
        if constexpr (piece == 2) {
            out[j] = interleave<Isa, 1, false>(row[0], row[1]);
            out[j + 1] = interleave<Isa, 1, true>(row[0], row[1]);
        } else {
            Vec<Isa, T> low01 = interleave<Isa, 1, false>(row[0], row[1]);
            Vec<Isa, T> high01 = interleave<Isa, 1, true>(row[0], row[1]);
            Vec<Isa, T> low23 = interleave<Isa, 1, false>(row[2], row[3]);
            Vec<Isa, T> high23 = interleave<Isa, 1, true>(row[2], row[3]);
            out[j] = interleave<Isa, 2, false>(low01, low23);
            out[j + 1] = interleave<Isa, 2, true>(low01, low23);
            out[j + 2] = interleave<Isa, 2, false>(high01, high23);
            out[j + 3] = interleave<Isa, 2, true>(high01, high23);
        }
    }
}

}  // namespace stableops
