#include "memory.h"

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>
#include <unordered_map>

#include "environment.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <pthread.h>
#include <sys/mman.h>
#endif

namespace stableops {
namespace {

constexpr std::size_t page = 4096;
constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::size_t huge_from = std::size_t{4} << 20;

// More than any address space holds, and up to here no rounding up overflows.
constexpr std::size_t largest = std::numeric_limits<std::size_t>::max() / 4;

// `bytes` is a multiple of the page. These two functions are all that knows the platform. nullptr
// on failure.
void* system_allocate(std::size_t bytes) noexcept {
#if defined(_WIN32)
    return _aligned_malloc(bytes, bytes >= huge_from ? huge_page : page);
#else
    if (bytes < huge_from) {
        void* memory = nullptr;
        return posix_memalign(&memory, page, bytes) == 0 ? memory : nullptr;
    }
    // malloc would keep freed blocks of up to 32 MB in its heap once it has seen a few.
    void* const mapped = mmap(nullptr, bytes + huge_page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    char* const start = static_cast<char*>(mapped);
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(start) % huge_page;
    char* const memory = start + before;
    if (before != 0) munmap(start, before);
    if (before != huge_page) munmap(memory + bytes, huge_page - before);
#if defined(MADV_HUGEPAGE)
    madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return memory;
#endif
}

void system_free(void* memory, std::size_t bytes) noexcept {
#if defined(_WIN32)
    static_cast<void>(bytes);
    _aligned_free(memory);
#else
    if (bytes < huge_from) {
        std::free(memory);
    } else {
        munmap(memory, bytes);
    }
#endif
}

// Eight classes per doubling: blocks of slightly different arrays become interchangeable, for less
// than an eighth of waste, most of it pages that are never touched.
std::size_t class_size(std::size_t bytes) {
    const std::size_t step = std::bit_floor(bytes | page) / 8;
    const std::size_t granule = step < page ? page : step;
    return bytes == 0 ? page : (bytes + granule - 1) / granule * granule;
}

struct Block {
    void* memory;
    std::size_t bytes;
};

class Cache {
  public:
    void* acquire(std::size_t bytes, std::size_t limit);
    void release(void* memory, std::size_t limit) noexcept;
    void empty() noexcept;
    std::size_t idle_bytes() const { return idle_bytes_.load(std::memory_order_relaxed); }

    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

  private:
    // Bounds the search below; it also bounds how many small blocks can lie about.
    static constexpr int max_idle = 512;

    Block take_idle(int position);

    std::mutex mutex_;
    std::unordered_map<void*, std::size_t> handed_out_;
    // The oldest first. Contiguous, so that a search reads 8 KB at worst, some tenths of a
    // microsecond.
    Block idle_[max_idle];
    int idle_count_ = 0;
    // Written under the lock, read without.
    std::atomic<std::size_t> idle_bytes_ = 0;
};

Block Cache::take_idle(int position) {
    const Block block = idle_[position];
    --idle_count_;
    for (int i = position; i < idle_count_; ++i) idle_[i] = idle_[i + 1];
    idle_bytes_.store(idle_bytes_.load(std::memory_order_relaxed) - block.bytes,
                      std::memory_order_relaxed);
    return block;
}

void* Cache::acquire(std::size_t bytes, std::size_t limit) {
    if (bytes > largest) throw std::bad_alloc();
    const std::size_t needed = class_size(bytes);
    if (limit > 0) {
        const std::lock_guard<std::mutex> guard(mutex_);
        int best = -1;
        // From the newest, which is likeliest to be in the processor's caches.
        for (int i = idle_count_ - 1; i >= 0; --i) {
            const std::size_t held = idle_[i].bytes;
            if (held < needed || held / 2 > needed) continue;
            if (best < 0 || held < idle_[best].bytes) best = i;
        }
        if (best >= 0) {
            // First, since it is what can throw.
            handed_out_.emplace(idle_[best].memory, idle_[best].bytes);
            return take_idle(best).memory;
        }
    }
    void* memory = system_allocate(needed);
    if (memory == nullptr) {
        empty();
        memory = system_allocate(needed);
    }
    if (memory == nullptr) throw std::bad_alloc();
    try {
        const std::lock_guard<std::mutex> guard(mutex_);
        handed_out_.emplace(memory, needed);
    } catch (...) {
        system_free(memory, needed);
        throw;
    }
    return memory;
}

void Cache::release(void* memory, std::size_t limit) noexcept {
    Block block{memory, 0};
    {
        const std::lock_guard<std::mutex> guard(mutex_);
        const auto found = handed_out_.find(memory);
        if (found == handed_out_.end()) return;
        block.bytes = found->second;
        handed_out_.erase(found);
    }
    // Room is made before the block is kept, so the limit holds at any time; the oldest goes first.
    // The system call that frees a victim can take milliseconds and is made without the lock.
    for (;;) {
        Block victim = block;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            if (block.bytes <= limit) {
                const std::size_t held = idle_bytes_.load(std::memory_order_relaxed);
                if (idle_count_ < max_idle && held <= limit - block.bytes) {
                    idle_[idle_count_++] = block;
                    idle_bytes_.store(held + block.bytes, std::memory_order_relaxed);
                    return;
                }
                victim = take_idle(0);
            }
        }
        system_free(victim.memory, victim.bytes);
        if (victim.memory == block.memory) return;
    }
}

void Cache::empty() noexcept {
    for (;;) {
        Block victim;
        {
            const std::lock_guard<std::mutex> guard(mutex_);
            if (idle_count_ == 0) return;
            victim = take_idle(0);
        }
        system_free(victim.memory, victim.bytes);
    }
}

// Never destroyed: arrays release their blocks until the very end of the process. Made when the
// library is loaded, so that no fork can fall into its construction.
Cache& cache = *new Cache;

#if !defined(_WIN32)

// A fork waits until no thread is inside the cache, so that the child finds it whole. Nothing but
// malloc is called under the lock, and its own fork handlers come after these.
[[maybe_unused]] const int fork_handlers =
    pthread_atfork([] { cache.lock(); }, [] { cache.unlock(); }, [] { cache.unlock(); });

#endif

constexpr std::size_t unread = std::numeric_limits<std::size_t>::max();
std::atomic<std::size_t> limit_read = unread;

class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() { reset(); }

    void* at_least(std::size_t bytes) {
        if (bytes <= bytes_) return memory_;
        if (bytes > largest) throw std::bad_alloc();
        // Freed first: the old contents are void by contract, and the two need not coexist.
        reset();
        const std::size_t rounded = class_size(bytes);
        memory_ = system_allocate(rounded);
        if (memory_ == nullptr) throw std::bad_alloc();
        bytes_ = rounded;
        return memory_;
    }

  private:
    void reset() {
        if (memory_ != nullptr) system_free(memory_, bytes_);
        memory_ = nullptr;
        bytes_ = 0;
    }

    void* memory_ = nullptr;
    std::size_t bytes_ = 0;
};

thread_local Scratch scratch;

}  // namespace

void* thread_scratch(std::size_t bytes) { return scratch.at_least(bytes == 0 ? 1 : bytes); }

std::size_t cache_limit() {
    const std::size_t known = limit_read.load(std::memory_order_relaxed);
    if (known != unread) return known;
    const std::size_t limit =
        environment_number("STABLEOPS_CACHE_BYTES", 0).value_or(std::size_t{256} << 20);
    // Below the sentinel, and more than any machine has.
    limit_read.store(limit < largest ? limit : largest, std::memory_order_relaxed);
    return limit_read.load(std::memory_order_relaxed);
}

void* acquire_block(std::size_t bytes) { return cache.acquire(bytes, cache_limit()); }

void release_block(void* block) noexcept {
    // Read by then: acquire_block() cannot succeed otherwise.
    if (block != nullptr) cache.release(block, limit_read.load(std::memory_order_relaxed));
}

void empty_cache() noexcept { cache.empty(); }

std::size_t cache_bytes_in_use() { return cache.idle_bytes(); }

}  // namespace stableops
