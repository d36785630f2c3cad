#pragma once
// Sums of doubles without error, for sums in which large terms cancel to nothing and what decides
// lies any number of bits below them.
//
// A fixed-point number of 16,384 bits in words of 32 (Kulisch's accumulator; here in 64-bit words,
// so that 2^30 terms go in before a carry must move on). Some 5 ns a term.
#include <cstdint>

#include "math.h"

namespace stableops {

// sign (hi + lo) 2^exponent with hi in [1/2, 1) and |lo| <= 2^-53: the sum to a relative 2^-96.
struct ExactValue {
    int sign;
    double hi, lo;
    int exponent;
};

template <class Isa>
class ExactSum {
  public:
    // The exponent of the last bit; what a term has below it is dropped.
    static constexpr int lowest = -10912;
    static constexpr int words = 512;

    ExactSum() {
        for (int i = 0; i < words; ++i) word_[i] = 0;
    }

    // a 2^exponent, a finite.
    void add(double a, int exponent) {
        if (a == 0) return;
        std::uint64_t bits = __builtin_bit_cast(std::uint64_t, a);
        int biased = static_cast<int>(bits >> 52 & 0x7ff);
        std::uint64_t significand = bits & ((std::uint64_t{1} << 52) - 1);
        if (biased == 0) {
            biased = 1;
        } else {
            significand |= std::uint64_t{1} << 52;
        }
        int place = biased - 1075 + exponent - lowest;
        if (place < 0) return;
        int first = place / 32, shift = place % 32;
        std::uint64_t low = significand << shift;
        std::uint64_t high = shift == 0 ? 0 : significand >> (64 - shift);
        std::int64_t part[3] = {static_cast<std::int64_t>(low & 0xffffffff),
                                static_cast<std::int64_t>(low >> 32),
                                static_cast<std::int64_t>(high)};
        for (int i = 0; i < 3; ++i) word_[first + i] += a < 0 ? -part[i] : part[i];
        if (++pending_ == 1 << 30) carry();
    }

    ExactValue value() {
        carry();
        int sign = 1;
        if (word_[words - 1] < 0) {
            sign = -1;
            for (int i = 0; i < words; ++i) word_[i] = -word_[i];
            carry();
        }
        int top = words - 1;
        while (top >= 0 && word_[top] == 0) --top;
        ExactValue result = {0, 0, 0, 0};
        if (top >= 0) {
            // 128 bits from the leading one on, as three doubles.
            std::uint64_t a = pair_at(top), b = pair_at(top - 2), c = pair_at(top - 4);
            int zeros = __builtin_clzll(a);
            if (zeros > 0) {
                a = a << zeros | b >> (64 - zeros);
                b = b << zeros | c >> (64 - zeros);
            }
            double hi = static_cast<double>(static_cast<std::int64_t>(a >> 11)) * 0x1p-53;
            double lo =
                static_cast<double>(static_cast<std::int64_t>((a & 0x7ff) << 42 | b >> 22)) *
                0x1p-106;
            result = {sign, hi, lo, 32 * (top - 1) + 64 - zeros + lowest};
        }
        if (sign < 0)
            for (int i = 0; i < words; ++i) word_[i] = -word_[i];
        return result;
    }

  private:
    // Words i and i - 1.
    std::uint64_t pair_at(int i) const {
        std::uint64_t high = i >= 0 ? static_cast<std::uint64_t>(word_[i]) : 0;
        std::uint64_t low = i >= 1 ? static_cast<std::uint64_t>(word_[i - 1]) : 0;
        return high << 32 | low;
    }
    // Leaves every word in [0, 2^32) but the last, which has the sign.
    void carry() {
        for (int i = 0; i + 1 < words; ++i) {
            std::int64_t over = word_[i] >> 32;
            word_[i] -= over * (std::int64_t{1} << 32);
            word_[i + 1] += over;
        }
        pending_ = 0;
    }

    std::int64_t word_[words];
    std::int64_t pending_ = 0;
};

}  // namespace stableops
