#pragma once
// Tags of the SIMD levels. Every function of ISA code is a template on one of them, so that no two
// objects compiled for different levels can share a symbol.

namespace stableops::isa {

// x86-64 without extensions (SSE2, no fma), or NEON on arm64.
struct Baseline {
    static constexpr int bytes = 16;
#if defined(__aarch64__) || defined(_M_ARM64)
    static constexpr bool has_fma = true;
#else
    // Emulated, it takes so much longer than all else that forms which save the rest are left out.
    static constexpr bool has_fma = false;
#endif
};

struct X86V3 {
    static constexpr int bytes = 32;
    static constexpr bool has_fma = true;
};

struct X86V4 {
    static constexpr int bytes = 64;
    static constexpr bool has_fma = true;
};

}  // namespace stableops::isa
