// Applies one operation of vec.h to what it reads: `vec_test NAME < input > output`, raw elements
// in and out. tests/test_vec.py compiles it for each level and compares with NumPy.
#include "vec.h"

#include <cstdio>
#include <cstring>
#include <vector>

#include "../isa/current.h"

namespace stableops {
namespace {

using Isa = isa::Current;

template <class T>
std::vector<T> read_all() {
    std::vector<T> values;
    T buffer[4096];
    while (const std::size_t n = std::fread(buffer, sizeof(T), 4096, stdin))
        values.insert(values.end(), buffer, buffer + n);
    return values;
}

template <class T>
void write_all(const std::vector<T>& values) {
    std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

// f(a, b, c) of the three thirds of the input.
template <class T, class F>
void ternary(const F& f) {
    const std::vector<T> in = read_all<T>();
    const std::ptrdiff_t n = static_cast<std::ptrdiff_t>(in.size()) / 3;
    std::vector<T> out(static_cast<std::size_t>(n));
    for_each_vec<Isa, Vec<Isa, T>::size>(n, [&](std::ptrdiff_t i, auto lanes) {
        store<Isa>(&out[0] + i,
                   f(load<Isa>(&in[0] + i, lanes), load<Isa>(&in[0] + n + i, lanes),
                     load<Isa>(&in[0] + 2 * n + i, lanes)),
                   lanes);
    });
    write_all(out);
}

// Converts elements of storage type From to To through float32.
template <class From, class To>
void convert() {
    const std::vector<From> in = read_all<From>();
    std::vector<To> out(in.size());
    for_each_vec<Isa, Vec<Isa, float>::size>(
        static_cast<std::ptrdiff_t>(in.size()), [&](std::ptrdiff_t i, auto lanes) {
            store<Isa>(&out[0] + i, load<Isa>(&in[0] + i, lanes), lanes);
        });
    write_all(out);
}

// Through float64: exact, unless widening or narrowing mixes up lanes.
void widen_and_narrow() {
    const std::vector<float> in = read_all<float>();
    std::vector<float> out(in.size());
    for_each_vec<Isa, Vec<Isa, float>::size>(
        static_cast<std::ptrdiff_t>(in.size()), [&](std::ptrdiff_t i, auto lanes) {
            const Vec<Isa, float> v = load<Isa>(&in[0] + i, lanes);
            store<Isa>(&out[0] + i, narrow(widen_low(v), widen_high(v)), lanes);
        });
    write_all(out);
}

template <class T>
bool run_typed(const char* name) {
    using V = Vec<Isa, T>;
    if (std::strcmp(name, "fma") == 0) {
        ternary<T>([](V a, V b, V c) { return fma(a, b, c); });
    } else if (std::strcmp(name, "max") == 0) {
        ternary<T>([](V a, V b, V) { return max(a, b); });
    } else if (std::strcmp(name, "min") == 0) {
        ternary<T>([](V a, V b, V) { return min(a, b); });
    } else if (std::strcmp(name, "sqrt") == 0) {
        ternary<T>([](V a, V, V) { return sqrt(a); });
    } else if (std::strcmp(name, "abs") == 0) {
        ternary<T>([](V a, V, V) { return abs(a); });
    } else if (std::strcmp(name, "select") == 0) {
        ternary<T>([](V a, V b, V c) { return select(a < b, c, V::splat(T(-1))); });
    } else {
        return false;
    }
    return true;
}

bool run(const char* name) {
    if (std::strcmp(name, "from_float16") == 0) {
        convert<float16, float>();
    } else if (std::strcmp(name, "to_float16") == 0) {
        convert<float, float16>();
    } else if (std::strcmp(name, "from_bfloat16") == 0) {
        convert<bfloat16, float>();
    } else if (std::strcmp(name, "to_bfloat16") == 0) {
        convert<float, bfloat16>();
    } else if (std::strcmp(name, "widen") == 0) {
        widen_and_narrow();
    } else if (std::strncmp(name, "float32.", 8) == 0) {
        return run_typed<float>(name + 8);
    } else if (std::strncmp(name, "float64.", 8) == 0) {
        return run_typed<double>(name + 8);
    } else {
        return false;
    }
    return true;
}

}  // namespace
}  // namespace stableops

int main(int argc, char** argv) { return argc == 2 && stableops::run(argv[1]) ? 0 : 2; }
