// Applies one function of math.h to pairs of doubles from standard input: tests/test_math.py
// compiles this for each level and compares its output with mpmath.
#include "math.h"

#include <cstdio>
#include <cstring>
#include <vector>

namespace stableops {
namespace {

#if defined(__AVX512F__)
using Level = isa::X86V4;
#elif defined(__AVX2__)
using Level = isa::X86V3;
#else
using Level = isa::Baseline;
#endif

using D = Vec<Level, double>;
using P = Pair<Level>;

struct Result {
    P value;
    D exponent;
};
using Function = Result (*)(D, D);

Result single(D value) { return {{value, D::zero()}, D::zero()}; }
Result pair(P value) { return {value, D::zero()}; }
Result scaled(Scaled<Level> s) { return {s.value, s.exponent}; }

struct Named {
    const char* name;
    Function function;
};
const Named functions[] = {
    {"exp_fast", [](D x, D) { return single(exp_fast(x)); }},
    {"exp_pair", [](D x, D lo) { return scaled(exp_pair(x, lo)); }},
    {"exp_wide", [](D x, D lo) { return scaled(exp_wide(P{x, lo})); }},
    {"exp", [](D x, D) { return single(exp(x)); }},
    {"expm1_fast", [](D x, D) { return single(expm1_fast(x)); }},
    {"expm1_pair", [](D x, D lo) { return pair(expm1_pair(x, lo)); }},
    {"log_fast", [](D x, D) { return single(log_fast(x)); }},
    {"log_pair", [](D x, D lo) { return pair(log_pair(x, lo)); }},
    {"log", [](D x, D) { return single(log(x)); }},
    {"log1p_fast", [](D x, D) { return single(log1p_fast(x)); }},
    {"log1p_unit_fast", [](D x, D) { return single(add_log1p_unit_fast(D::zero(), x)); }},
    {"log1p_pair", [](D x, D lo) { return pair(log1p_pair(x, lo)); }},
    {"log1p_wide", [](D x, D lo) { return pair(log1p_wide(P{x, lo})); }},
    {"reciprocal_fast", [](D x, D) { return single(reciprocal_fast(x)); }},
    {"ldexp", [](D x, D k) { return single(ldexp(x, k)); }},
    {"add", [](D x, D y) { return pair(add(two_prod(x, x), two_prod(y, y))); }},
    {"mul", [](D x, D y) { return pair(mul(two_prod(x, x), two_prod(y, y))); }},
    {"div", [](D x, D y) { return pair(div(two_prod(x, x), two_prod(y, y))); }},
    {"div_fast", [](D x, D y) { return pair(div_fast(two_prod(x, x), two_prod(y, y))); }},
};

int run(const char* name) {
    for (const Named& f : functions) {
        if (std::strcmp(f.name, name) != 0) continue;
        double in[2];
        std::vector<double> x, y;
        while (std::fread(in, sizeof in, 1, stdin) == 1) {
            x.push_back(in[0]);
            y.push_back(in[1]);
        }
        std::size_t n = x.size();
        x.resize(n + D::size);
        y.resize(n + D::size);
        for (std::size_t i = 0; i < n; i += D::size) {
            Result r = f.function(loadu<Level>(&x[i]), loadu<Level>(&y[i]));
            for (int j = 0; j < D::size && i + j < n; ++j) {
                double out[3] = {r.value.hi[j], r.value.lo[j], r.exponent[j]};
                std::fwrite(out, sizeof out, 1, stdout);
            }
        }
        return 0;
    }
    return 1;
}

}  // namespace
}  // namespace stableops

int main(int argc, char** argv) { return argc == 2 ? stableops::run(argv[1]) : 1; }
