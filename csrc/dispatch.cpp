// Chooses the kernel table once: the best level that this CPU runs, or STABLEOPS_ISA.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace stableops {
namespace {

template <class Isa>
constexpr Kernels kernels_of(const char* level) {
    return {
        .level = level,
        .elementwise = KernelTable<Isa, PerDtype<ElementwiseKernels>>::kernels,
        .sigmoid_cross_entropy = KernelTable<Isa, PerDtype<SigmoidCrossEntropyKernels>>::kernels,
        .softmax = KernelTable<Isa, PerCompute<SoftmaxKernels>>::kernels,
        .logsumexp = KernelTable<Isa, PerCompute<LogSumExpKernels>>::kernels,
        .softmax_cross_entropy = KernelTable<Isa, PerCompute<CrossEntropyKernels>>::kernels,
        .conv2d = KernelTable<Isa, PerDtype<Conv2dKernels>>::kernels,
        .nms = KernelTable<Isa, PerDtype<NmsKernels>>::kernels,
        .boxes = KernelTable<Isa, PerDtype<BoxesKernels>>::kernels,
        .soft_nms = KernelTable<Isa, PerDtype<SoftNmsKernels>>::kernels,
        .boxes_rotated = KernelTable<Isa, PerDtype<BoxesRotatedKernels>>::kernels,
        .weighted_boxes_fusion = KernelTable<Isa, WeightedBoxesFusionKernels>::kernels,
        .pool2d = KernelTable<Isa, PerDtype<Pool2dKernels>>::kernels,
        .integer_pool2d = KernelTable<Isa, IntegerPool2dKernels>::kernels,
        .norm = KernelTable<Isa, PerCompute<NormKernels>>::kernels,
        .interpolate = KernelTable<Isa, PerDtype<InterpolateKernels>>::kernels,
    };
}

struct Level {
    Kernels kernels;
    bool (*runs_here)();
};

const Level levels[] = {
    {kernels_of<isa::Baseline>("baseline"), [] { return true; }},
#if defined(__x86_64__) || defined(_M_X64)
    {kernels_of<isa::X86V3>("x86-64-v3"), [] { return __builtin_cpu_supports("x86-64-v3") != 0; }},
    {kernels_of<isa::X86V4>("x86-64-v4"), [] { return __builtin_cpu_supports("x86-64-v4") != 0; }},
#endif
};

std::atomic<const Kernels*> active{nullptr};

const Kernels* find_level(const char* name) {
    for (const Level& level : levels)
        if (std::strcmp(level.kernels.level, name) == 0 && level.runs_here()) return &level.kernels;
    return nullptr;
}

const Kernels* choose_level() {
    const char* wanted = std::getenv("STABLEOPS_ISA");
    if (wanted == nullptr || *wanted == '\0') {
        const Kernels* best = nullptr;
        for (const Level& level : levels)
            if (level.runs_here()) best = &level.kernels;
        return best;
    }
    if (const Kernels* found = find_level(wanted)) return found;
    std::string allowed;
    for (const Level& level : levels)
        if (level.runs_here())
            allowed += (allowed.empty() ? "" : ", ") + std::string(level.kernels.level);
    throw std::invalid_argument("STABLEOPS_ISA=" + std::string(wanted) +
                                " is no SIMD level of this build and CPU; allowed: " + allowed);
}

}  // namespace

const Kernels& active_kernels() {
    const Kernels* kernels = active.load(std::memory_order_acquire);
    if (kernels == nullptr) {
        kernels = choose_level();
        active.store(kernels, std::memory_order_release);
    }
    return *kernels;
}

int available_levels(const char* names[], int capacity) {
    int count = 0;
    for (const Level& level : levels)
        if (level.runs_here() && count < capacity) names[count++] = level.kernels.level;
    return count;
}

bool set_active_level(const char* name) {
    const Kernels* found = find_level(name);
    if (found != nullptr) active.store(found, std::memory_order_release);
    return found != nullptr;
}

}  // namespace stableops
