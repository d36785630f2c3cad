// What the machine can do at best: fused multiply-adds on registers, and bytes through each level
// of the memory. Compiled by limits.py for the machine at hand and called through ctypes.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#if defined(__AVX512F__) || defined(__AVX__) || defined(__SSE2__)
#include <immintrin.h>
#define HAS_NON_TEMPORAL 1
#endif

namespace {

#if defined(__AVX512F__)
constexpr std::size_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr std::size_t kVectorBytes = 32;
#else
constexpr std::size_t kVectorBytes = 16;
#endif

template <class T>
using Vector [[gnu::vector_size(kVectorBytes)]] = T;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The wall time of `work(thread)` on all threads at once: from the moment that all have arrived
// until the last is done. The best of `rounds`.
double timed(int threads, int rounds, const std::function<void(int)>& work) {
  double best = 1e30;
  for (int round = 0; round < rounds; ++round) {
    std::atomic<int> arrived{0};
    std::vector<double> starts(threads), ends(threads);
    auto body = [&](int thread) {
      arrived.fetch_add(1);
      while (arrived.load() < threads) {
      }
      starts[thread] = now();
      work(thread);
      ends[thread] = now();
    };
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; ++thread) others.emplace_back(body, thread);
    body(0);
    for (auto& other : others) other.join();
    best = std::min(best, *std::max_element(ends.begin(), ends.end()) -
                              *std::min_element(starts.begin(), starts.end()));
  }
  return best;
}

// Twelve independent chains: more than latency times ports of any current core.
template <class T>
void multiply_add_chains(std::int64_t steps) {
  constexpr int kChains = 12;
  Vector<T> chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = Vector<T>{} + T(i) * T(1e-3);
  const Vector<T> factor = Vector<T>{} + T(0.999), addend = Vector<T>{} + T(1e-4);
  for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chains[i] = chains[i] * factor + addend;
    // Without a use of each value the compiler would be free to drop the loop.
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) {
#if defined(__x86_64__)
      asm volatile("" ::"x"(chains[i]));
#elif defined(__aarch64__)
      asm volatile("" ::"w"(chains[i]));
#endif
    }
  }
  volatile T sink = 0;
  for (int i = 0; i < kChains; ++i) sink = sink + chains[i][0];
}

template <class T>
double peak_flops(int threads) {
  constexpr std::int64_t kSteps = 200'000;
  const double seconds = timed(threads, 40, [](int) { multiply_add_chains<T>(kSteps); });
  return 2.0 * 12 * (kVectorBytes / sizeof(T)) * kSteps * threads / seconds;
}

using V = Vector<float>;
constexpr std::size_t kLanes = kVectorBytes / sizeof(float);
enum Kind { kRead, kWrite, kCopy, kWriteNonTemporal, kCopyNonTemporal };

inline void stream(float* to, V value) {
#if defined(__AVX512F__)
  _mm512_stream_ps(to, reinterpret_cast<__m512>(value));
#elif defined(__AVX__)
  _mm256_stream_ps(to, reinterpret_cast<__m256>(value));
#elif defined(HAS_NON_TEMPORAL)
  _mm_stream_ps(to, reinterpret_cast<__m128>(value));
#else
  *reinterpret_cast<V*>(to) = value;
#endif
}

inline void finish_streams() {
#if defined(HAS_NON_TEMPORAL)
  _mm_sfence();
#endif
}

// `count` is a multiple of 8 vectors, both arrays are aligned to one.
void pass(Kind kind, float* __restrict to, const float* __restrict from, std::size_t count) {
  switch (kind) {
    case kRead: {
      V sums[8] = {};
      for (std::size_t i = 0; i < count; i += 8 * kLanes)
        for (int j = 0; j < 8; ++j) sums[j] += *reinterpret_cast<const V*>(from + i + j * kLanes);
      for (int j = 1; j < 8; ++j) sums[0] += sums[j];
      volatile float sink = sums[0][0];
      (void)sink;
      return;
    }
    case kWrite: {
      const V value = V{} + 1.0f;
      for (std::size_t i = 0; i < count; i += kLanes) *reinterpret_cast<V*>(to + i) = value;
      break;
    }
    case kCopy:
      for (std::size_t i = 0; i < count; i += kLanes)
        *reinterpret_cast<V*>(to + i) = *reinterpret_cast<const V*>(from + i);
      break;
    case kWriteNonTemporal: {
      const V value = V{} + 2.0f;
      for (std::size_t i = 0; i < count; i += kLanes) stream(to + i, value);
      finish_streams();
      break;
    }
    case kCopyNonTemporal:
      for (std::size_t i = 0; i < count; i += kLanes)
        stream(to + i, *reinterpret_cast<const V*>(from + i));
      finish_streams();
      break;
  }
  // The next pass writes the same bytes: without this it could replace this one.
  asm volatile("" ::"r"(to) : "memory");
}

}  // namespace

extern "C" {

// 1 where the compiler gave fused multiply-adds, else the "peak" is of separate ones.
int has_fma() {
#if defined(__FMA__) || defined(__aarch64__)
  return 1;
#else
  return 0;
#endif
}

int vector_bits() { return 8 * static_cast<int>(kVectorBytes); }

double flops_float32(int threads) { return peak_flops<float>(threads); }

double flops_float64(int threads) { return peak_flops<double>(threads); }

// Bytes a second (read plus written) when arrays of `bytes` in all are passed over again and
// again, each thread over its own part.
double bandwidth(int kind, std::size_t bytes, int threads) {
  const bool two_arrays = kind == kCopy || kind == kCopyNonTemporal;
  const std::size_t step = 8 * kVectorBytes;
  const std::size_t part = bytes / (two_arrays ? 2 : 1) / threads / step * step;
  if (part == 0) return 0;
  std::vector<float*> from(threads), to(threads);
  timed(threads, 1, [&](int thread) {
    // An odd number of lines between the two keeps them out of each other's cache sets.
    const std::size_t size = (part + 4096 + 4095) / 4096 * 4096;
    from[thread] = static_cast<float*>(std::aligned_alloc(4096, size));
    to[thread] = two_arrays ? static_cast<float*>(std::aligned_alloc(4096, size)) + 17 * 16
                            : from[thread];
    if (from[thread]) std::memset(from[thread], 0, part);
    if (to[thread]) std::memset(to[thread], 0, part);
  });
  const std::size_t moved = part * threads * (two_arrays ? 2 : 1);
  // Many short rounds: the best of them is one that nothing interrupted.
  const int passes = static_cast<int>(std::max<std::size_t>(1, (std::size_t{8} << 20) / moved));
  const int rounds = moved > (std::size_t{32} << 20) ? 4 : 24;
  const double seconds = timed(threads, rounds, [&](int thread) {
    for (int i = 0; i < passes; ++i)
      pass(static_cast<Kind>(kind), to[thread], from[thread], part / sizeof(float));
  });
  for (int thread = 0; thread < threads; ++thread) {
    if (two_arrays) std::free(to[thread] - 17 * 16);
    std::free(from[thread]);
  }
  return static_cast<double>(moved) * passes / seconds;
}
}
