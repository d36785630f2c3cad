#pragma once
// The typed table between bindings and kernels: one pointer per operation and pass, per storage
// type and SIMD level. Kernels trust their arguments; the bindings have checked them.
#include <cstddef>
#include <cstdint>

#include "conv2d_shape.h"
#include "detection.h"
#include "dtypes.h"
#include "elementwise_plan.h"
#include "isa/levels.h"

namespace stableops {

template <Storage T>
struct ElementwiseKernels {
    void (*relu)(const ElementwisePlan<2>& plan, T* y, const T* x);
    void (*relu_backward)(const ElementwisePlan<3>& plan, T* grad_x, const T* grad_y, const T* y);
};

// Arrays start at element (0, 0, 0, 0). `bias` may be null. Linear layers are convolutions too: their
// rows are the pixels, their features the channels of a 1x1 kernel.
template <Storage T>
struct Conv2dKernels {
    void (*conv2d)(T* y, const T* x, const T* weight, const T* bias, const Conv2dShape& shape);
    void (*grad_input)(T* grad_x, const T* grad_y, const T* weight, const Conv2dShape& shape);
    void (*grad_weight)(T* grad_weight, const T* grad_y, const T* x, const Conv2dShape& shape);
    void (*grad_bias)(T* grad_bias, const T* grad_y, const Conv2dShape& shape);
};

// Candidates are positions in boxes and scores; 32 bits hold them (the bindings refuse more).
template <Storage T>
struct NmsKernels {
    std::ptrdiff_t (*descending_order)(std::uint32_t* order, Strided<T> scores, ScoreCut cut);
    std::ptrdiff_t (*nms)(std::int64_t* kept, BoxRows<T> boxes, const std::uint32_t* order,
                          std::ptrdiff_t count, double threshold, std::ptrdiff_t max_output);
    std::ptrdiff_t (*batched_nms)(std::int64_t* kept, BoxRows<T> boxes,
                                  Strided<std::int64_t> classes, const std::uint32_t* order,
                                  std::ptrdiff_t count, double threshold,
                                  std::ptrdiff_t max_output);
};

// One family of kernels for every storage type.
template <template <Storage> class Family>
struct PerDtype {
    Family<double> float64;
    Family<float> float32;
    Family<float16> half;
    Family<bfloat16> brain;

    template <Storage T>
    const Family<T>& of() const {
        if constexpr (std::is_same_v<T, double>) {
            return float64;
        } else if constexpr (std::is_same_v<T, float>) {
            return float32;
        } else if constexpr (std::is_same_v<T, float16>) {
            return half;
        } else {
            return brain;
        }
    }
};

// The kernels of one family at one level, defined in isa/<family>.cpp and constant-initialised:
// nothing compiled for a level may run before the CPU has been asked for it.
template <class Isa, class Family>
struct KernelTable {
    static const Family kernels;
};

struct Kernels {
    const char* level;
    const PerDtype<ElementwiseKernels>& elementwise;
    const PerDtype<Conv2dKernels>& conv2d;
    const PerDtype<NmsKernels>& nms;
};

// The table in use: the best level of this CPU, or the one that STABLEOPS_ISA names.
// Throws std::invalid_argument on first use if STABLEOPS_ISA names none that can run here.
const Kernels& active_kernels();

// The levels that this build has and this CPU runs, lowest first; returns how many.
int available_levels(const char* names[], int capacity);

// Switches to a level by name; false if there is none of that name here.
bool set_active_level(const char* name);

}  // namespace stableops
