#pragma once

// For baseline objects only (bindings, runtime): nothing here is templated on Isa.

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(__aarch64__)
#include <cstdint>
#else
#include <cfenv>
#endif

namespace stableops {

// The default floating-point environment for as long as the object lives: round to nearest, no
// flushing of subnormals, no traps. A host may have changed any of these (a library loaded with
// -ffast-math sets flush-to-zero for the thread that loads it, and new threads inherit it), and the
// results must not depend on it. The caller's whole register comes back at the end, so exception
// flags raised meanwhile do not reach the caller either.
//
// The compiler does not order floating-point arithmetic against writes of the control register. The
// guarded code must therefore be an opaque call, which a call through the kernel table is.
class DefaultFloatEnvironment {
  public:
    DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
    DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

#if defined(__x86_64__) || defined(_M_X64)
    DefaultFloatEnvironment() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }
    ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    DefaultFloatEnvironment() noexcept {
        __asm__ volatile("mrs %0, fpcr" : "=r"(saved_control_) : : "memory");
        __asm__ volatile("mrs %0, fpsr" : "=r"(saved_status_) : : "memory");
        // Writing FPCR can drain the pipeline, and it is nearly always right already.
        if (saved_control_ != 0)
            __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}) : "memory");
    }
    ~DefaultFloatEnvironment() {
        if (saved_control_ != 0)
            __asm__ volatile("msr fpcr, %0" : : "r"(saved_control_) : "memory");
        __asm__ volatile("msr fpsr, %0" : : "r"(saved_status_) : "memory");
    }

  private:
    std::uint64_t saved_control_;
    std::uint64_t saved_status_;
#else
    DefaultFloatEnvironment() noexcept {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultFloatEnvironment() { std::fesetenv(&saved_); }

  private:
    std::fenv_t saved_;
#endif
};

}  // namespace stableops
