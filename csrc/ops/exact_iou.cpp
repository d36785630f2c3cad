// iou_exceeds: a float64 filter, then integers.
//
// With areas A and B, I = intersection area and threshold t, I / (A + B - I) > t is
//     I > r (A + B),   r = t / (1 + t),                                                     (1)
// and, with t = m / 2^s for integers m and s >= 0,
//     I 2^s > m (A + B - I).                                                                (2)
// Filter: each of the computed I and A + B is within 5u of its value (u = 2^-53: a difference, a
// product and a sum each round once), r within 3u, as long as nothing leaves the normal range. A
// computed margin of 16u in (1) therefore decides. Integers: coordinates are multiples of a common
// power of two, so their differences are integers in that unit and (2) compares two integers. Its
// square cancels from both sides.
#include "exact_iou.h"

#include <algorithm>
#include <bit>
#include <cstdint>

namespace stableops {
namespace {

// All float64 are multiples of 2^-1074 below 2^1024, so a difference of two needs 2099 bits: 66
// limbs. A product of two takes 132; times 2^1074 (the smallest threshold), 166.
constexpr int max_limbs = 168;

// A non-negative integer, least significant limb first; limbs from `size` on do not exist.
struct Natural {
    int size = 0;
    std::uint32_t limb[max_limbs];

    void resize(int new_size) {
        for (; size < new_size; ++size) limb[size] = 0;
        size = new_size;
    }
};

// magnitude * 2^exponent with an odd magnitude, or 0 * 2^0.
struct Binary {
    std::uint64_t magnitude;
    int exponent;
    bool negative;
};

Binary decompose(double value) {
    std::uint64_t bits = std::bit_cast<std::uint64_t>(value);
    int biased = static_cast<int>(bits >> 52 & 0x7ff);
    std::uint64_t fraction = bits & ((std::uint64_t{1} << 52) - 1);
    std::uint64_t magnitude = biased == 0 ? fraction : fraction | std::uint64_t{1} << 52;
    if (magnitude == 0) return {0, 0, false};
    int exponent = (biased == 0 ? 1 : biased) - 1075;
    int zeros = std::countr_zero(magnitude);
    return {magnitude >> zeros, exponent + zeros, (bits >> 63) != 0};
}

// n += term * 2^shift modulo 2^(32 n.size); a sum that ends up in [0, 2^(32 n.size)) is right.
void add(Natural& n, std::uint64_t magnitude, int shift, bool negative) {
    int first = shift / 32;
    int offset = shift % 32;
    std::uint64_t low = magnitude << offset;
    std::uint32_t spill = offset == 0 ? 0 : static_cast<std::uint32_t>(magnitude >> (64 - offset));
    std::uint32_t part[3] = {static_cast<std::uint32_t>(low), static_cast<std::uint32_t>(low >> 32),
                             spill};
    std::uint64_t carry = 0;
    for (int i = first; i < n.size; ++i) {
        std::uint64_t term = i - first < 3 ? part[i - first] : 0;
        if (negative) {
            std::uint64_t difference = std::uint64_t{n.limb[i]} - term - carry;
            n.limb[i] = static_cast<std::uint32_t>(difference);
            carry = difference >> 63;
        } else {
            std::uint64_t sum = n.limb[i] + term + carry;
            n.limb[i] = static_cast<std::uint32_t>(sum);
            carry = sum >> 32;
        }
    }
}

// (high - low) / 2^unit in `limbs` limbs; high >= low.
Natural difference(const Binary& high, const Binary& low, int unit, int limbs) {
    Natural n;
    n.resize(limbs);
    if (high.magnitude != 0) add(n, high.magnitude, high.exponent - unit, high.negative);
    if (low.magnitude != 0) add(n, low.magnitude, low.exponent - unit, !low.negative);
    return n;
}

Natural multiply(const Natural& a, const Natural& b) {
    Natural product;
    product.resize(a.size + b.size);
    for (int i = 0; i < a.size; ++i) {
        std::uint64_t carry = 0;
        for (int j = 0; j < b.size; ++j) {
            std::uint64_t sum = std::uint64_t{a.limb[i]} * b.limb[j] + product.limb[i + j] + carry;
            product.limb[i + j] = static_cast<std::uint32_t>(sum);
            carry = sum >> 32;
        }
        product.limb[i + b.size] = static_cast<std::uint32_t>(carry);
    }
    return product;
}

Natural shifted_left(const Natural& n, int shift) {
    Natural result;
    result.resize(n.size + shift / 32 + 1);
    for (int i = 0; i < n.size; ++i) add(result, n.limb[i], shift + 32 * i, false);
    return result;
}

// a += b or a -= b; the result fits a and is not negative.
void accumulate(Natural& a, const Natural& b, bool subtract) {
    std::uint64_t carry = 0;
    for (int i = 0; i < a.size; ++i) {
        std::uint64_t term = (i < b.size ? b.limb[i] : 0) + carry;
        std::uint64_t result = subtract ? a.limb[i] - term : a.limb[i] + term;
        a.limb[i] = static_cast<std::uint32_t>(result);
        carry = subtract ? result >> 63 : result >> 32;
    }
}

bool greater(const Natural& a, const Natural& b) {
    for (int i = std::max(a.size, b.size) - 1; i >= 0; --i) {
        std::uint32_t limb_a = i < a.size ? a.limb[i] : 0;
        std::uint32_t limb_b = i < b.size ? b.limb[i] : 0;
        if (limb_a != limb_b) return limb_a > limb_b;
    }
    return false;
}

bool iou_exceeds_integers(const Corners& a, const Corners& b, double threshold) {
    const double coordinates[8] = {a.x1, a.y1, a.x2, a.y2, b.x1, b.y1, b.x2, b.y2};
    Binary c[8];
    int unit = 1024;
    int top = -1074;
    for (int i = 0; i < 8; ++i) {
        c[i] = decompose(coordinates[i]);
        if (c[i].magnitude == 0) continue;
        unit = std::min(unit, c[i].exponent);
        top = std::max(top, c[i].exponent + static_cast<int>(std::bit_width(c[i].magnitude)));
    }
    // A difference is below 2^(top + 1).
    int limbs = (top + 1 - unit) / 32 + 1;

    const Binary& left = a.x1 > b.x1 ? c[0] : c[4];
    const Binary& top_edge = a.y1 > b.y1 ? c[1] : c[5];
    const Binary& right = a.x2 < b.x2 ? c[2] : c[6];
    const Binary& bottom = a.y2 < b.y2 ? c[3] : c[7];
    Natural intersection =
        multiply(difference(right, left, unit, limbs), difference(bottom, top_edge, unit, limbs));
    Natural union_area =
        multiply(difference(c[2], c[0], unit, limbs), difference(c[3], c[1], unit, limbs));
    union_area.resize(union_area.size + 1);
    accumulate(union_area,
               multiply(difference(c[6], c[4], unit, limbs), difference(c[7], c[5], unit, limbs)),
               false);
    accumulate(union_area, intersection, true);

    Binary t = decompose(threshold);
    Natural numerator;
    numerator.resize(2);
    numerator.limb[0] = static_cast<std::uint32_t>(t.magnitude);
    numerator.limb[1] = static_cast<std::uint32_t>(t.magnitude >> 32);
    return greater(shifted_left(intersection, -t.exponent), multiply(union_area, numerator));
}

}  // namespace

bool iou_exceeds(const Corners& a, const Corners& b, double threshold) noexcept {
    double width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
    double height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1);
    double intersection = width * height;
    double areas = (a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1);
    double limit = threshold / (1.0 + threshold) * areas;
    // Below 2^1000 nothing overflowed; with these two above 2^-960, no product lost bits.
    if (areas < 0x1p1000 && limit > 0x1p-960 && intersection > 0x1p-960) {
        if (intersection > limit * (1.0 + 0x1p-49)) return true;
        if (intersection < limit * (1.0 - 0x1p-49)) return false;
    }
    return iou_exceeds_integers(a, b, threshold);
}

}  // namespace stableops
