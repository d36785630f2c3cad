// Checks float32 results of sigmoid, softplus and log_sigmoid for a run of consecutive bit patterns;
// compiled and called by exhaustive.py.
//
// The reference is x87 long double (64 bits, functions of the C library to 1 unit in the last place), so
// its relative error is below 2^-61. Where a relative change of 2^-60 changes the rounding to
// float32, the input is reported as undecided, and exhaustive.py settles it with mpmath.
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

static_assert(LDBL_MANT_DIG >= 64, "long double is too short here for a reference");

namespace {

float float_of(std::uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, sizeof f);
    return f;
}

std::uint32_t bits_of(float f) {
    std::uint32_t bits;
    std::memcpy(&bits, &f, sizeof bits);
    return bits;
}

enum Function { sigmoid, softplus, log_sigmoid };

// What needs no function: results that are constant, or x itself, to within 2^-40 of a unit in the
// last place of any midpoint.
bool obvious(Function f, float x, float& y) {
    if (x >= 18) {
        // exp(-18) < 2^-25; softplus: exp(-18) is below a hundredth of the unit of 18.
        y = f == sigmoid ? 1 : x;
        return true;
    }
    if (x <= -104) {
        // exp(-104) < 2^-150
        y = 0;
        return true;
    }
    if (std::fabs(x) < 0x1p-40f) {
        // 1/2 + x/4 and log 2 + x/2; log 2 is 0.07 units away from the next midpoint.
        y = f == sigmoid ? 0.5f : 0x1.62e430p-1f;
        return true;
    }
    return false;
}

long double reference(Function f, long double x) {
    const long double t = std::exp(-std::fabs(x));
    if (f == sigmoid) return x >= 0 ? 1 / (1 + t) : t / (1 + t);
    return (x > 0 ? x : 0) + std::log1p(t);
}

}  // namespace

// results[i] belongs to the input with bits first + i. Writes up to `capacity` inputs whose result is
// wrong to `wrong` and undecided ones to `undecided`; returns how many results are wrong and adds the
// number of undecided ones to *undecided_count.
extern "C" std::int64_t check(int function, std::uint32_t first, std::int64_t n,
                              const float* results, std::int64_t capacity, std::uint32_t* wrong,
                              std::uint32_t* undecided, std::int64_t* undecided_count) {
    const Function f = static_cast<Function>(function);
    std::int64_t wrong_count = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t bits = first + static_cast<std::uint32_t>(i);
        float x = float_of(bits);
        float got = results[i];
        if (f == log_sigmoid) {
            x = -x;
            got = -got;
        }
        float want;
        if (std::isnan(x)) {
            if (!std::isnan(got) && wrong_count++ < capacity) wrong[wrong_count - 1] = bits;
            continue;
        }
        if (!obvious(f, x, want)) {
            const long double exact = reference(f, x);
            want = static_cast<float>(exact * (1 - 0x1p-60L));
            if (want != static_cast<float>(exact * (1 + 0x1p-60L))) {
                if (*undecided_count < capacity) undecided[*undecided_count] = bits;
                ++*undecided_count;
                continue;
            }
        }
        if (bits_of(got) != bits_of(want) && wrong_count++ < capacity) wrong[wrong_count - 1] = bits;
    }
    return wrong_count;
}
