#pragma once
// Elementwise operations: y[i] = f(x[i], ...), forward and backward, over arrays of any strides.
//
//   relu:           y = x > 0 ? x : 0 for numbers, NaN for NaN; -0 gives +0. Exact.
//   relu_backward:  grad_x = y > 0 ? grad_y : 0 (the derivative at 0 is 0, as in PyTorch). Exact.
//   sigmoid:        1 / (1 + exp(-x)); softplus: log(1 + exp(x)); log_sigmoid: -softplus(-x).
//                   Why not as written, and to which error: simd/logistic.h.
//                   Infinities give the limits,
//                   and NaN gives NaN.
//   sigmoid_backward:      grad_y * (y * (1 - y)). y (1 - y) comes first: both factors are at
//                          most 1, and the product is above y / 2 or (1 - y) / 2,
//                          so nothing over- or underflows before the result does.
//                          1 - y is exact for y >= 1/2.
//   softplus_backward:     grad_y * sigmoid(x); log_sigmoid_backward: grad_y * sigmoid(-x), which
//                          keeps the digits that 1 - sigmoid(x) loses.
//   leaky_relu:     y = x > 0 ? x : slope x, with the slope rounded to the type computed in;
//                   prelu the same with a weight for every element (broadcast by strides of 0):
//                   one rounding.
//   dropout:        y = mask ? scale x : 0, also where x is infinite or NaN.
//   The backward functions of float64 round twice or three times, 2^-53 of the result at most each
//   time: measured 1.50 and 1.96 ULP. Those of float32, float16 and bfloat16 compute in float64 and
//   round to float32 once, or in float32 lanes where that is certain to give the same.
//
// Each operation is a function object on vectors of the compute type; for_each_element is the one
// driver. It cuts the lines of the plan into blocks that fit the L1 cache. A line of unit stride is
// read and written in place; another one passes through a block of per-thread scratch, so no layout
// costs a copy of the array, and every layout meets the same vector code.
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "../elementwise_plan.h"
#include "../runtime/memory.h"
#include "../runtime/parallel.h"
#include "../simd/logistic.h"

namespace stableops {

// Elements in a block: three float64 operands of it take 24 of the 32 KB of the smallest L1 caches.
constexpr std::ptrdiff_t elementwise_block = 1024;

// Elements in a task: some 10 microseconds of the operation, below which waking another thread does
// not pay. Moving numbers is cheap, exponentials are dear.
enum class Cost : std::ptrdiff_t { cheap = 65536, dear = 16384 };

// Bytes of a result from which on it is written past the caches: it would displace what they hold,
// and a store that misses reads the line first. Measured (Sapphire Rapids, two threads, 1e7
// float32): 0.28 to 0.8 ns an element instead of 2 to 3.
constexpr std::ptrdiff_t elementwise_stream_bytes = std::ptrdiff_t{32} << 20;

// Bytes that an operand is fetched ahead: a function of thirty instructions and more fills the
// window in which the processor finds loads to begin, and its own prefetching is too short-sighted.
// Measured as above, one thread: sigmoid 0.98 -> 0.44, softplus_backward 2.4 -> 0.84 ns an element.
constexpr std::ptrdiff_t elementwise_ahead = 2048;

template <class Isa>
[[gnu::always_inline]] inline std::ptrdiff_t min_of(std::ptrdiff_t a, std::ptrdiff_t b) {
    return a < b ? a : b;
}

template <class Isa, Storage T>
void gather_line(std::ptrdiff_t n, T* to, const T* from, std::ptrdiff_t stride) {
    if (stride == 0) {
        const T value = *from;
        for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = value;
        return;
    }
    for (std::ptrdiff_t i = 0; i < n; ++i) to[i] = from[i * stride];
}
template <class Isa, Storage T>
void scatter_line(std::ptrdiff_t n, T* to, std::ptrdiff_t stride, const T* from) {
    for (std::ptrdiff_t i = 0; i < n; ++i) to[i * stride] = from[i];
}

// f(the lanes from i on of every operand).
template <class Isa, int inputs, Storage T, class Lanes, class F>
[[gnu::always_inline]] inline Vec<Isa, Compute<T>> of_operands(std::ptrdiff_t i, Lanes lanes,
                                                               const T* const (&in)[inputs],
                                                               const F& f) {
    if constexpr (inputs == 1) {
        return f(load<Isa>(in[0] + i, lanes));
    } else if constexpr (inputs == 2) {
        return f(load<Isa>(in[0] + i, lanes), load<Isa>(in[1] + i, lanes));
    } else {
        static_assert(inputs == 3);
        return f(load<Isa>(in[0] + i, lanes), load<Isa>(in[1] + i, lanes),
                 load<Isa>(in[2] + i, lanes));
    }
}

// function of `vectors` times the lanes from i on, whose results go to put(j, y). A function that
// has a tentative() way takes it for all of them before one test: without a branch between them
// their operations can go side by side, and each is a chain too long for the processor to begin
// the next one by itself.
template <class Isa, int vectors, int inputs, Storage T, class Function, class Lanes, class Put>
[[gnu::always_inline]] inline void apply_at(std::ptrdiff_t i, Lanes lanes,
                                            const T* const (&in)[inputs], const Function& function,
                                            const Put& put) {
    using V = Vec<Isa, Compute<T>>;
    V y[vectors];
    bool doubtful[vectors] = {};
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
        const std::ptrdiff_t j = i + v * V::size;
        for (int k = 0; k < inputs; ++k)
            __builtin_prefetch(in[k] + j + elementwise_ahead / sizeof(T));
        y[v] = of_operands<Isa>(j, lanes, in, [&](auto... x) __attribute__((always_inline)) {
            if constexpr (requires { function.tentative(x..., doubtful[v]); }) {
                return function.tentative(x..., doubtful[v]);
            } else {
                return function(x...);
            }
        });
    }
    bool any = false;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) any = any | doubtful[v];
    if (any) [[unlikely]] {
        for (int v = 0; v < vectors; ++v)
            y[v] = of_operands<Isa>(i + v * V::size, lanes, in,
                                    [&](auto... x) __attribute__((always_inline)) {
                                        if constexpr (requires { function.careful(x...); }) {
                                            return function.careful(x...);
                                        } else {
                                            return function(x...);
                                        }
                                    });
    }
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) put(i + v * V::size, y[v]);
}

// out[i] = function(in[0][i], in[1][i], ...) on contiguous operands; whole vectors are written past
// the caches if `streams`, and then out is aligned. A function may be a hundred instructions: here
// it is there for all that calls this, once for pairs of vectors and once for what is left. It is
// copied from memory: arguments that hold vectors would come in registers, and GCC leaves their
// upper halves as they are behind a function that takes such arguments; if it is called last,
// nobody else clears them, and the caller's SSE code runs at a fraction of its speed.
template <class Isa, int inputs, Storage T, class Function>
void apply_contiguous(std::ptrdiff_t n, T* out, const T* const (&in)[inputs],
                      const void* shared_function, bool streams) {
    constexpr int size = Vec<Isa, Compute<T>>::size;
    const Function function = *static_cast<const Function*>(shared_function);
    // Narrow types are bound by their conversions.
    constexpr int together = std::is_same_v<T, Compute<T>> && Isa::bytes > 16 ? 2 : 1;
    std::ptrdiff_t i = 0;
    for (; i + together * size <= n; i += together * size)
        apply_at<Isa, together>(i, AllLanes{}, in, function,
                                [&](std::ptrdiff_t j, auto y) __attribute__((always_inline)) {
                                    if constexpr (std::is_same_v<T, Compute<T>>)
                                        if (streams) return stream<Isa>(out + j, y);
                                    store<Isa>(out + j, y, AllLanes{});
                                });
    for (; i < n; i += size) {
        const FirstLanes lanes{static_cast<int>(min_of<Isa>(size, n - i))};
        apply_at<Isa, 1>(i, lanes, in, function,
                         [&](std::ptrdiff_t j, auto y)
                             __attribute__((always_inline)) { store<Isa>(out + j, y, lanes); });
    }
}

// A function and its apply_contiguous: what walks over the operands is the same for all functions.
template <class Isa, int inputs, Storage T>
struct Applied {
    const void* function;
    void (*apply)(std::ptrdiff_t, T*, const T* const (&)[inputs], const void*, bool);

    void operator()(std::ptrdiff_t n, T* out, const T* const (&in)[inputs],
                    bool streams = false) const {
        apply(n, out, in, function, streams);
    }
};

// The same for an out that is not read again soon.
template <class Isa, int inputs, Storage T>
void apply_streaming(std::ptrdiff_t n, T* out, const T* const (&in)[inputs],
                     const Applied<Isa, inputs, T>& applied) {
    const std::ptrdiff_t past = reinterpret_cast<std::uintptr_t>(out) % Isa::bytes;
    const std::ptrdiff_t head =
        min_of<Isa>(past == 0 ? 0 : (Isa::bytes - past) / static_cast<int>(sizeof(T)), n);
    applied(head, out, in);
    const T* rest[inputs];
    for (int k = 0; k < inputs; ++k) rest[k] = in[k] + head;
    applied(n - head, out + head, rest, true);
}

// Elements [begin, end) of the line whose element 0 lies at out and in.
template <class Isa, int inputs, Storage T>
void apply_line(const ElementwisePlan<inputs + 1>& plan, std::ptrdiff_t begin, std::ptrdiff_t end,
                T* out, const T* const (&in)[inputs], bool streams,
                const Applied<Isa, inputs, T>& applied) {
    bool unit_strides = true;
    for (int k = 0; k <= inputs; ++k) unit_strides = unit_strides && plan.line_stride(k) == 1;
    if (unit_strides) {
        const T* from[inputs];
        for (int k = 0; k < inputs; ++k) from[k] = in[k] + begin;
        streams ? apply_streaming<Isa>(end - begin, out + begin, from, applied)
                : applied(end - begin, out + begin, from);
        return;
    }
    T* scratch = static_cast<T*>(thread_scratch(sizeof(T) * (inputs + 1) * elementwise_block));
    for (std::ptrdiff_t i = begin; i < end; i += elementwise_block) {
        const std::ptrdiff_t n = min_of<Isa>(end - i, elementwise_block);
        const T* from[inputs];
        for (int k = 0; k < inputs; ++k) {
            const std::ptrdiff_t stride = plan.line_stride(k + 1);
            from[k] = in[k] + i * stride;
            if (stride != 1) {
                T* block = scratch + (k + 1) * elementwise_block;
                gather_line<Isa>(n, block, from[k], stride);
                from[k] = block;
            }
        }
        const std::ptrdiff_t stride = plan.line_stride(0);
        if (stride == 1) {
            applied(n, out + i, from);
        } else {
            applied(n, scratch, from);
            scatter_line<Isa>(n, out + i * stride, stride, scratch);
        }
    }
}

// f(begin, end, lines, offset) for parts [begin, end) of runs of lines: offset[k] is where operand
// k has element 0 of the first, and the others follow at the stride of the last dimension but one.
template <class Isa, int operands, class F>
void for_each_run(const ElementwisePlan<operands>& plan, Cost cost, const F& f) {
    const std::ptrdiff_t elementwise_task = static_cast<std::ptrdiff_t>(cost);
    const std::ptrdiff_t length = plan.line_length();
    std::ptrdiff_t lines = 1;
    for (int d = 0; d + 1 < plan.ndim; ++d) lines *= plan.size[d];
    const std::ptrdiff_t inner = plan.ndim > 1 ? plan.size[plan.ndim - 2] : 1;

    // A task is a part of a long line, or some short ones.
    const std::ptrdiff_t parts = (length + elementwise_task - 1) / elementwise_task;
    const std::ptrdiff_t lines_per_task = parts > 1 ? 1 : (elementwise_task + length - 1) / length;
    const std::ptrdiff_t tasks = (lines + lines_per_task - 1) / lines_per_task;

    parallel_for<Isa>(tasks * parts, [&](std::ptrdiff_t task) {
        const std::ptrdiff_t begin = (task % parts) * elementwise_task;
        const std::ptrdiff_t end = min_of<Isa>(begin + elementwise_task, length);
        const std::ptrdiff_t first = (task / parts) * lines_per_task;
        const std::ptrdiff_t last = min_of<Isa>(first + lines_per_task, lines);
        for (std::ptrdiff_t line = first, count; line < last; line += count) {
            count = min_of<Isa>(last - line, inner - line % inner);
            std::ptrdiff_t offset[operands] = {};
            std::ptrdiff_t rest = line;
            for (int d = plan.ndim - 2; d >= 0; --d) {
                for (int k = 0; k < operands; ++k)
                    offset[k] += rest % plan.size[d] * plan.stride[k][d];
                rest /= plan.size[d];
            }
            f(begin, end, count, offset);
        }
        stream_fence<Isa>();
    });
}

// f(begin, end, offset) for parts [begin, end) of lines, offset[k] being where operand k has the
// line's element 0.
template <class Isa, int operands, class F>
void for_each_line(const ElementwisePlan<operands>& plan, Cost cost, const F& f) {
    for_each_run<Isa>(plan, cost,
                      [&](std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t lines,
                          std::ptrdiff_t(&offset)[operands]) {
                          for (; lines > 0; --lines) {
                              f(begin, end, offset);
                              if (lines == 1) return;
                              for (int k = 0; k < operands; ++k)
                                  offset[k] += plan.stride[k][plan.ndim - 2];
                          }
                      });
}

template <class Isa, int inputs, Storage T>
[[gnu::noinline, gnu::noclone]] void apply_to_each_line(const ElementwisePlan<inputs + 1>& plan,
                                                        Cost cost, T* out,
                                                        const T* const (&in)[inputs],
                                                        const Applied<Isa, inputs, T>& applied) {
    std::ptrdiff_t bytes = sizeof(T);
    for (int d = 0; d < plan.ndim; ++d) bytes *= plan.size[d];
    // In place, the lines are in the caches already. Narrow types are not written vector by vector.
    bool streams = std::is_same_v<T, Compute<T>> && bytes >= elementwise_stream_bytes;
    for (int k = 0; k < inputs; ++k) streams = streams && out != in[k];

    for_each_line<Isa>(
        plan, cost,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end, const std::ptrdiff_t(&offset)[inputs + 1]) {
            const T* from[inputs];
            for (int k = 0; k < inputs; ++k) from[k] = in[k] + offset[k + 1];
            apply_line<Isa>(plan, begin, end, out + offset[0], from, streams, applied);
        });
}

template <class Isa, int inputs, Cost cost = Cost::cheap, Storage T, class Function>
void for_each_element(const ElementwisePlan<inputs + 1>& plan, T* out, const T* const (&in)[inputs],
                      const Function& function) {
    apply_to_each_line<Isa, inputs, T>(plan, cost, out, in,
                                       {&function, apply_contiguous<Isa, inputs, T, Function>});
}

// f on the operands widened to float64, rounded to float32.
template <class Isa, Storage T, class F>
[[gnu::always_inline]] inline Vec<Isa, Compute<T>> through_float64(const F& f,
                                                                   Vec<Isa, Compute<T>> a,
                                                                   Vec<Isa, Compute<T>> b) {
    if constexpr (std::is_same_v<T, double>) {
        return f(a, b);
    } else {
        return narrow(f(widen_low(a), widen_low(b)), f(widen_high(a), widen_high(b)));
    }
}

// g * sigmoid(x). In float64 the significand of sigmoid takes its exponent down to -1000 before it
// meets g and the rest afterwards: so neither a tiny sigmoid loses digits against a large g, nor
// does a product overflow that is representable.
template <class Isa>
[[gnu::always_inline]] inline Vec<Isa, double> times_sigmoid_float64(Vec<Isa, double> g,
                                                                     Vec<Isa, double> x) {
    Scaled<Isa> s = sigmoid_pair(x, exp_of_minus_abs(x));
    Vec<Isa, double> first = max(s.exponent, Vec<Isa, double>::splat(-1000));
    Vec<Isa, double> rest = max(s.exponent - first, Vec<Isa, double>::splat(-1022));
    return (s.value.hi + s.value.lo) * power_of_two(first) * g * power_of_two(rest);
}
template <class Isa>
[[gnu::noinline]] Vec<Isa, double> times_sigmoid_careful(Vec<Isa, double> g, Vec<Isa, double> x) {
    // exp_pair stops at exp(-1400), which a large g still makes a normal number.
    return times_sigmoid_float64(g, x) *
           exp(min(Vec<Isa, double>::zero(), x - Vec<Isa, double>::splat(-1400)));
}

// The sign of an argument turned, or left: functions that mirror one another share their code.
template <class Isa, Storage T>
struct Mirror {
    using V = Vec<Isa, Compute<T>>;
    V sign;

    explicit Mirror(bool mirrored)
        : sign(V::splat(static_cast<Compute<T>>(mirrored ? -0.0 : 0.0))) {}
    [[gnu::always_inline]] inline V operator()(V x) const {
        return from_bits<Compute<T>>(bits(x) ^ bits(sign));
    }
};

// g * sigmoid(x), or g * sigmoid(-x).
template <class Isa, Storage T>
struct TimesSigmoid {
    using V = Vec<Isa, Compute<T>>;
    Mirror<Isa, T> mirror;

    [[gnu::always_inline]] inline V tentative(V g, V x, bool& doubtful) const {
        x = mirror(x);
        if constexpr (std::is_same_v<T, double>) {
            doubtful = any(x < V::splat(-1400));
            return times_sigmoid_float64(g, x);
        } else if constexpr (lookup_size<Isa> > 0) {
            Mask<Isa, float> uncertain;
            V y = times_sigmoid_float32(g, x, uncertain);
            doubtful = any_nonzero(uncertain);
            return y;
        } else {
            doubtful = false;
            return times_sigmoid_careful(g, x);
        }
    }
    [[gnu::always_inline]] inline V careful(V g, V x) const {
        return times_sigmoid_careful(g, mirror(x));
    }
};

// softplus(x), or -softplus(-x): log_sigmoid(x).
template <class Isa, Storage T>
struct MirroredSoftplus {
    using V = Vec<Isa, Compute<T>>;
    using Positive = Rounded<Isa, T, Softplus<Isa>>;
    Mirror<Isa, T> mirror;

    [[gnu::always_inline]] inline V tentative(V x, bool& doubtful) const {
        return mirror(Positive::tentative(mirror(x), doubtful));
    }
    [[gnu::always_inline]] inline V careful(V x) const {
        return mirror(Positive::careful(mirror(x)));
    }
};

template <class Isa, Storage T>
void relu(const ElementwisePlan<2>& plan, T* y, const T* x) {
    using V = Vec<Isa, Compute<T>>;
    for_each_element<Isa, 1>(plan, y, {x}, [](V v) __attribute__((always_inline)) {
        return select(v <= V::zero(), V::zero(), v);
    });
}

template <class Isa, Storage T>
void relu_backward(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* y) {
    using V = Vec<Isa, Compute<T>>;
    for_each_element<Isa, 2>(plan, grad_x, {grad_y, y},
                             [](V g, V v) __attribute__((always_inline)) {
                                 return select(v > V::zero(), g, V::zero());
                             });
}

template <class Isa, Storage T>
void sigmoid(const ElementwisePlan<2>& plan, T* y, const T* x) {
    for_each_element<Isa, 1, Cost::dear>(plan, y, {x}, Rounded<Isa, T, Sigmoid<Isa>>{});
}

template <class Isa, Storage T>
void softplus(const ElementwisePlan<2>& plan, T* y, const T* x) {
    for_each_element<Isa, 1, Cost::dear>(plan, y, {x},
                                         MirroredSoftplus<Isa, T>{Mirror<Isa, T>(false)});
}

template <class Isa, Storage T>
void log_sigmoid(const ElementwisePlan<2>& plan, T* y, const T* x) {
    for_each_element<Isa, 1, Cost::dear>(plan, y, {x},
                                         MirroredSoftplus<Isa, T>{Mirror<Isa, T>(true)});
}

template <class Isa, Storage T>
void sigmoid_backward(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* y) {
    using V = Vec<Isa, Compute<T>>;
    for_each_element<Isa, 2>(plan, grad_x, {grad_y, y},
                             [](V g, V v) __attribute__((always_inline)) {
                                 return through_float64<Isa, T>(
                                     [](auto gd, auto vd) __attribute__((always_inline)) {
                                         return gd * (vd * (decltype(vd)::splat(1) - vd));
                                     },
                                     g, v);
                             });
}

// grad_y * sigmoid(x).
template <class Isa, Storage T>
void softplus_backward(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* x) {
    for_each_element<Isa, 2, Cost::dear>(plan, grad_x, {grad_y, x},
                                         TimesSigmoid<Isa, T>{Mirror<Isa, T>(false)});
}

// grad_y * sigmoid(-x).
template <class Isa, Storage T>
void log_sigmoid_backward(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* x) {
    for_each_element<Isa, 2, Cost::dear>(plan, grad_x, {grad_y, x},
                                         TimesSigmoid<Isa, T>{Mirror<Isa, T>(true)});
}

template <class Isa, Storage T>
void leaky_relu(const ElementwisePlan<2>& plan, T* y, const T* x, double negative_slope) {
    using V = Vec<Isa, Compute<T>>;
    const V slope = V::splat(static_cast<Compute<T>>(negative_slope));
    for_each_element<Isa, 1>(plan, y, {x}, [slope](V v) __attribute__((always_inline)) {
        return select(v > V::zero(), v, v * slope);
    });
}

template <class Isa, Storage T>
void leaky_relu_backward(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* x,
                         double negative_slope) {
    using V = Vec<Isa, Compute<T>>;
    const V slope = V::splat(static_cast<Compute<T>>(negative_slope));
    for_each_element<Isa, 2>(plan, grad_x, {grad_y, x},
                             [slope](V g, V v) __attribute__((always_inline)) {
                                 return select(v > V::zero(), g, g * slope);
                             });
}

// function(x..., weight) on lines of unit stride, one after the other, along which the weight has
// unit stride too or is constant.
template <class Isa, bool constant, int operands, Storage T, class Function>
[[gnu::noinline]] void apply_weighted(const ElementwisePlan<operands>& plan, std::ptrdiff_t n,
                                      std::ptrdiff_t lines, T* out,
                                      const T* const (&in)[operands - 1],
                                      const Function& shared_function) {
    constexpr int inputs = operands - 1;
    using V = Vec<Isa, Compute<T>>;
    const Function function = shared_function;
    const T* from[inputs];
    for (int k = 0; k < inputs; ++k) from[k] = in[k];
    for (;;) {
        V weight = V::zero();
        if constexpr (constant) weight = V::splat(load<Isa>(from[inputs - 1], FirstLanes{1})[0]);
        for_each_vec<Isa, V::size>(
            n, [&](std::ptrdiff_t i, auto lanes) __attribute__((always_inline)) {
                if constexpr (!constant) weight = load<Isa>(from[inputs - 1] + i, lanes);
                V values[inputs - 1];
                for (int k = 0; k < inputs - 1; ++k) {
                    __builtin_prefetch(from[k] + i + elementwise_ahead / sizeof(T));
                    values[k] = load<Isa>(from[k] + i, lanes);
                }
                if constexpr (inputs == 2) {
                    store<Isa>(out + i, function(values[0], weight), lanes);
                } else {
                    store<Isa>(out + i, function(values[0], values[1], weight), lanes);
                }
            });
        if (--lines == 0) return;
        out += plan.stride[0][plan.ndim - 2];
        for (int k = 0; k < inputs; ++k) from[k] += plan.stride[k + 1][plan.ndim - 2];
    }
}

// for_each_element where the last input, a weight for every channel, is constant along lines
// (NCHW), or where lines are short (channels-last).
template <class Isa, int inputs, Storage T, class Function>
void for_each_weighted(const ElementwisePlan<inputs + 1>& plan, T* out,
                       const T* const (&in)[inputs], const Function& function) {
    bool unit_strides = true;
    std::ptrdiff_t bytes = sizeof(T);
    for (int k = 0; k < inputs; ++k) unit_strides = unit_strides && plan.line_stride(k) == 1;
    for (int d = 0; d < plan.ndim; ++d) bytes *= plan.size[d];
    const std::ptrdiff_t step = plan.line_stride(inputs);
    if (!unit_strides || (step != 0 && step != 1) || bytes >= elementwise_stream_bytes) {
        for_each_element<Isa, inputs>(plan, out, in, function);
        return;
    }
    for_each_run<Isa>(
        plan, Cost::cheap,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end, std::ptrdiff_t lines,
            const std::ptrdiff_t(&offset)[inputs + 1]) {
            const T* from[inputs];
            for (int k = 0; k < inputs; ++k)
                from[k] = in[k] + offset[k + 1] + begin * plan.line_stride(k + 1);
            T* const to = out + offset[0] + begin;
            step == 0 ? apply_weighted<Isa, true>(plan, end - begin, lines, to, from, function)
                      : apply_weighted<Isa, false>(plan, end - begin, lines, to, from, function);
        });
}

template <class Isa, Storage T>
void prelu(const ElementwisePlan<3>& plan, T* y, const T* x, const T* weight) {
    using V = Vec<Isa, Compute<T>>;
    for_each_weighted<Isa, 2>(plan, y, {x, weight}, [](V v, V w) __attribute__((always_inline)) {
        return select(v > V::zero(), v, v * w);
    });
}

template <class Isa, Storage T>
void prelu_backward(const ElementwisePlan<4>& plan, T* grad_x, const T* grad_y, const T* x,
                    const T* weight) {
    using V = Vec<Isa, Compute<T>>;
    for_each_weighted<Isa, 3>(plan, grad_x, {grad_y, x, weight},
                              [](V g, V v, V w) __attribute__((always_inline)) {
                                  return select(v > V::zero(), g, g * w);
                              });
}

template <class Isa, Storage T>
void dropout(const ElementwisePlan<3>& plan, T* y, const T* x, const std::uint8_t* mask,
             double scale) {
    using C = Compute<T>;
    using V = Vec<Isa, C>;
    const V factor = V::splat(static_cast<C>(scale));
    for_each_line<Isa>(
        plan, Cost::cheap,
        [&](std::ptrdiff_t begin, std::ptrdiff_t end, const std::ptrdiff_t(&offset)[3]) {
            struct Scratch {
                C keep[elementwise_block];
                T from[elementwise_block], to[elementwise_block];
            };
            Scratch& scratch = *static_cast<Scratch*>(thread_scratch(sizeof(Scratch)));
            for (std::ptrdiff_t i = begin; i < end; i += elementwise_block) {
                const std::ptrdiff_t n = min_of<Isa>(end - i, elementwise_block);
                const std::uint8_t* kept = mask + offset[2] + i * plan.line_stride(2);
                if (plan.line_stride(2) == 1) {
                    for (std::ptrdiff_t j = 0; j < n; ++j) scratch.keep[j] = kept[j];
                } else {
                    for (std::ptrdiff_t j = 0; j < n; ++j)
                        scratch.keep[j] = kept[j * plan.line_stride(2)];
                }
                const T* from = x + offset[1] + i * plan.line_stride(1);
                if (plan.line_stride(1) != 1) {
                    gather_line<Isa>(n, scratch.from, from, plan.line_stride(1));
                    from = scratch.from;
                }
                T* const out = y + offset[0] + i * plan.line_stride(0);
                T* const to = plan.line_stride(0) == 1 ? out : scratch.to;
                for_each_vec<Isa, V::size>(n, [&](std::ptrdiff_t j, auto lanes) {
                    V keep = load<Isa>(scratch.keep + j, lanes);
                    V v = load<Isa>(from + j, lanes);
                    store<Isa>(to + j, select(keep > V::zero(), v * factor, V::zero()), lanes);
                });
                if (to != out) scatter_line<Isa>(n, out, plan.line_stride(0), to);
            }
        });
}

}  // namespace stableops
