#pragma once
// Stable orders of detections: by descending score, and by class.
//
// Scores become unsigned keys whose ascending order is the descending order of the scores: the bits
// of an IEEE number order like an integer once negative numbers are complemented, and everything is
// complemented once more. -0 equals +0 and NaN takes the largest key, which no number has.
//
// Few keys are ranked by counting, all against all, one vector of ranks at a time: n^2 / lanes
// steps of three instructions without a branch. More go through a least-significant-digit radix
// sort, in which a digit that all keys share costs nothing.
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "box_rows.h"

namespace stableops {

template <class Isa, class Key>
struct Keyed {
    Key key;
    std::uint32_t index;
};

template <class Isa>
[[gnu::always_inline]] inline std::uint32_t descending_key(float score) {
    std::uint32_t bits;
    float positive_zero = score + 0.0f;
    std::memcpy(&bits, &positive_zero, sizeof(bits));
    bool negative = (bits >> 31) != 0;
    std::uint32_t key = negative ? bits : ~(bits | 0x80000000u);
    return score != score ? ~std::uint32_t{0} : key;
}
template <class Isa>
[[gnu::always_inline]] inline std::uint64_t descending_key(double score) {
    std::uint64_t bits;
    double positive_zero = score + 0.0;
    std::memcpy(&bits, &positive_zero, sizeof(bits));
    bool negative = (bits >> 63) != 0;
    std::uint64_t key = negative ? bits : ~(bits | std::uint64_t{1} << 63);
    return score != score ? ~std::uint64_t{0} : key;
}

// Sorts n entries by key, stably, with the help of `other`, and returns whichever of the two arrays
// then holds them. `counts` has room for (key bits / digit_bits, rounded up) << digit_bits numbers.
template <class Isa, int digit_bits, class Key>
Keyed<Isa, Key>* radix_sort(Keyed<Isa, Key>* entries, Keyed<Isa, Key>* other, std::ptrdiff_t n,
                            std::uint32_t* counts) {
    constexpr int passes = (8 * static_cast<int>(sizeof(Key)) + digit_bits - 1) / digit_bits;
    constexpr std::uint32_t buckets = 1u << digit_bits;
    std::memset(counts, 0, passes * buckets * sizeof(std::uint32_t));
    for (std::ptrdiff_t i = 0; i < n; ++i)
        for (int pass = 0; pass < passes; ++pass)
            ++counts[pass * buckets +
                     static_cast<std::uint32_t>(entries[i].key >> (pass * digit_bits)) % buckets];
    for (int pass = 0; pass < passes; ++pass) {
        std::uint32_t* start = counts + pass * buckets;
        int shift = pass * digit_bits;
        if (n == 0 || start[static_cast<std::uint32_t>(entries[0].key >> shift) % buckets] == n)
            continue;
        std::uint32_t sum = 0;
        for (std::uint32_t bucket = 0; bucket < buckets; ++bucket) {
            std::uint32_t count = start[bucket];
            start[bucket] = sum;
            sum += count;
        }
        for (std::ptrdiff_t i = 0; i < n; ++i)
            other[start[static_cast<std::uint32_t>(entries[i].key >> shift) % buckets]++] =
                entries[i];
        Keyed<Isa, Key>* sorted = other;
        other = entries;
        entries = sorted;
    }
    return entries;
}

constexpr std::ptrdiff_t rank_limit = 160;
// Digits of 8 bits need more passes, but their counters cost less than many of 11 bits hold
// entries.
constexpr std::ptrdiff_t short_digits_limit = 4096;

// Counters for eight passes of 8 bits or six of 11, as 64-bit keys need.
template <class Isa>
constexpr std::ptrdiff_t radix_counts(std::ptrdiff_t n) {
    return n <= short_digits_limit ? 8 << 8 : 6 << 11;
}

template <class Isa, class Key>
Keyed<Isa, Key>* sort_by_key(Keyed<Isa, Key>* entries, Keyed<Isa, Key>* other, std::ptrdiff_t n,
                             std::uint32_t* counts) {
    return n <= short_digits_limit ? radix_sort<Isa, 8>(entries, other, n, counts)
                                   : radix_sort<Isa, 11>(entries, other, n, counts);
}

// order[rank of i] = index[i] for n <= rank_limit keys, ties by position. The keys are signed, and
// there is room for a vector beyond the last.
template <class Isa, class Int>
void order_by_rank(const Int* keys, const std::uint32_t* index, std::ptrdiff_t n,
                   std::uint32_t* order) {
    using V = Vec<Isa, Int>;
    Int lane_numbers[V::size];
    for (int lane = 0; lane < V::size; ++lane) lane_numbers[lane] = lane;
    V lanes = loadu<Isa>(lane_numbers);
    for (std::ptrdiff_t first = 0; first < n; first += V::size) {
        V own = loadu<Isa>(keys + first);
        V rank = V::zero();
        std::ptrdiff_t j = 0;
        for (; j < first; ++j) rank.raw -= (V::splat(keys[j]) <= own).raw;
        for (; j < n && j < first + V::size; ++j) {
            V key = V::splat(keys[j]);
            V before = V::splat(static_cast<Int>(j - first)) < lanes;
            rank.raw -= ((key < own) | ((key == own) & before)).raw;
        }
        for (; j < n; ++j) rank.raw -= (V::splat(keys[j]) < own).raw;
        for (int lane = 0; lane < V::size && first + lane < n; ++lane)
            order[rank[lane]] = index[first + lane];
    }
}

template <class S>
using ScoreKey = std::conditional_t<std::is_same_v<S, double>, std::uint64_t, std::uint32_t>;

// Writes the positions of the scores that take part by descending score, NaN last, ties by
// ascending position, and returns how many they are.
template <class Isa, Storage S>
std::ptrdiff_t descending_order(std::uint32_t* order, Strided<S> scores, ScoreCut cut) {
    using Key = ScoreKey<S>;
    std::ptrdiff_t n = scores.count;
    std::ptrdiff_t count = 0;
    if (n <= rank_limit) {
        using Int = std::make_signed_t<Key>;
        constexpr Key sign = Key{1} << (8 * sizeof(Key) - 1);
        Int keys[rank_limit + 16];
        std::uint32_t index[rank_limit + 1];
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            Compute<S> score = load_one<Isa>(scores.data + i * scores.stride);
            keys[count] = static_cast<Int>(descending_key<Isa>(score) ^ sign);
            index[count] = static_cast<std::uint32_t>(i);
            count += cut.all || score > cut.minimum;
        }
        for (std::ptrdiff_t i = count; i < count + 16; ++i) keys[i] = 0;
        order_by_rank<Isa>(keys, index, count, order);
        return count;
    }
    using Entry = Keyed<Isa, Key>;
    Workspace<Isa> workspace(2 * n * static_cast<std::ptrdiff_t>(sizeof(Entry)) +
                             4 * radix_counts<Isa>(n));
    Entry* entries = reinterpret_cast<Entry*>(workspace.memory);
    Entry* other = entries + n;
    std::uint32_t* counts = reinterpret_cast<std::uint32_t*>(other + n);
    for (std::ptrdiff_t i = 0; i < n; ++i) {
        Compute<S> score = load_one<Isa>(scores.data + i * scores.stride);
        entries[count] = {descending_key<Isa>(score), static_cast<std::uint32_t>(i)};
        count += cut.all || score > cut.minimum;
    }
    entries = sort_by_key(entries, other, count, counts);
    for (std::ptrdiff_t i = 0; i < count; ++i) order[i] = entries[i].index;
    return count;
}

}  // namespace stableops
