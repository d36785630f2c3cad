// Stand-alone test of csrc/runtime: exits with 0 and prints "ok", or says which check failed. The
// sanitizers are half of it: build it plainly, with -fsanitize=thread and with
// -fsanitize=address,undefined.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu_count.h"
#include "float_environment.h"
#include "memory.h"
#include "parallel.h"

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__SANITIZE_THREAD__)
// The fork test starts threads in the child of a process with threads, which is its point.
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }
constexpr int effort = 10;
#elif defined(__SANITIZE_ADDRESS__)
constexpr int effort = 30;
#else
constexpr int effort = 100;
#endif

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using stableops::parallel_for;

struct Isa {};

void check(bool holds, const char* what,
           std::source_location where = std::source_location::current()) {
    if (holds) return;
    std::fprintf(stderr, "line %u: %s\n", static_cast<unsigned>(where.line()), what);
    std::_Exit(1);
}

template <class Exception, class F>
std::string message_of(const F& f) {
    try {
        f();
    } catch (const Exception& exception) {
        return exception.what();
    }
    return "";
}

void set_environment(const char* name, const char* value) {
#if defined(_WIN32)
    _putenv_s(name, value);
#else
    setenv(name, value, 1);
#endif
}

// Every task once and a sum that proves that the results of all of them are visible.
void run_region(std::ptrdiff_t tasks, std::vector<std::ptrdiff_t>& out) {
    std::fill(out.begin(), out.end(), 0);
    parallel_for<Isa>(tasks, [&](std::ptrdiff_t task) { out[task] += task + 1; });
    std::ptrdiff_t sum = 0;
    for (const std::ptrdiff_t value : out) sum += value;
    check(sum == tasks * (tasks + 1) / 2, "each task runs exactly once");
}

void test_settings() {
    set_environment("STABLEOPS_NUM_THREADS", "four");
    check(message_of<std::invalid_argument>(stableops::num_threads) ==
              "STABLEOPS_NUM_THREADS must be a whole number of at least 1, got 'four'",
          "a malformed thread count is named");
    for (const char* malformed : {"0", "-2", "2 ", "1.5"}) {
        set_environment("STABLEOPS_NUM_THREADS", malformed);
        check(!message_of<std::invalid_argument>(stableops::num_threads).empty(), malformed);
        int runs = 0;
        check(!message_of<std::invalid_argument>([&] {
                   parallel_for<Isa>(2, [&](std::ptrdiff_t) { ++runs; });
               }).empty(),
              "a region reports it too");
        check(runs == 0, "and runs no task");
    }
    set_environment("STABLEOPS_NUM_THREADS", "");
    set_environment("OMP_NUM_THREADS", "1,2");
    check(stableops::num_threads() == 1, "OMP_NUM_THREADS bounds the default");
    stableops::set_num_threads(3);
    check(stableops::num_threads() == 3, "set_num_threads overrides");
    stableops::set_num_threads(1 << 20);
    check(stableops::num_threads() == 512, "the count is bounded");
    check(stableops::available_cpus() >= 1, "there is a CPU");

    set_environment("STABLEOPS_CACHE_BYTES", "256M");
    check(message_of<std::invalid_argument>([] { stableops::acquire_block(1); }) ==
              "STABLEOPS_CACHE_BYTES must be a whole number of at least 0, got '256M'",
          "a malformed cache limit is named");
    set_environment("STABLEOPS_CACHE_BYTES", "67108864");
    check(stableops::cache_limit() == 67108864, "the limit is read");
}

void test_regions() {
    std::mt19937 random(1);
    for (const int threads : {1, 2, 4, 7}) {
        stableops::set_num_threads(threads);
        for (int i = 0; i < effort * 250; ++i) {
            const std::ptrdiff_t tasks = random() % 40;
            std::vector<std::ptrdiff_t> out(40);
            run_region(tasks, out);
        }
    }
    // A context that dies with each region, and a pause that lets workers fall asleep or come late.
    for (int i = 0; i < effort * 2; ++i) {
        std::vector<std::ptrdiff_t> out(64);
        run_region(64, out);
        if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 100));
    }
    std::vector<std::ptrdiff_t> out((std::size_t{3} << 20) + 5);
    run_region(static_cast<std::ptrdiff_t>(out.size()), out);
    parallel_for<Isa>(0, [](std::ptrdiff_t) { check(false, "no task"); });
}

void test_nested() {
    stableops::set_num_threads(4);
    for (int i = 0; i < effort * 10; ++i) {
        std::atomic<int> runs = 0;
        std::atomic<int> strays = 0;
        parallel_for<Isa>(6, [&](std::ptrdiff_t) {
            const std::thread::id self = std::this_thread::get_id();
            parallel_for<Isa>(5, [&](std::ptrdiff_t) {
                ++runs;
                if (std::this_thread::get_id() != self) ++strays;
            });
        });
        check(runs == 30 && strays == 0, "a nested region runs on its own thread");
    }
}

void test_many_callers() {
    stableops::set_num_threads(4);
    std::atomic<bool> stop = false;
    std::thread changer([&] {
        for (int n = 1; !stop; n = n % 6 + 1) {
            stableops::set_num_threads(n);
            std::this_thread::sleep_for(200us);
        }
    });
    std::vector<std::thread> callers;
    for (unsigned seed = 0; seed < 8; ++seed) {
        callers.emplace_back([seed] {
            std::mt19937 random(seed);
            std::vector<std::ptrdiff_t> out(32);
            for (int i = 0; i < effort * 50; ++i) run_region(random() % 32, out);
        });
    }
    for (std::thread& caller : callers) caller.join();
    stop = true;
    changer.join();
}

void test_threads_take_part() {
    stableops::set_num_threads(3);
    // Each of the three tasks waits for the others, so all threads have to be there.
    for (int i = 0; i < 20; ++i) {
        std::atomic<int> arrived = 0;
        parallel_for<Isa>(3, [&](std::ptrdiff_t) {
            ++arrived;
            while (arrived < 3) std::this_thread::yield();
        });
        if (i % 2 == 0) std::this_thread::sleep_for(1ms);
    }
    stableops::set_num_threads(2);
    std::atomic<int> inside = 0;
    for (int i = 0; i < effort * 5; ++i) {
        parallel_for<Isa>(8, [&](std::ptrdiff_t) {
            check(++inside <= 2, "fewer threads from the next region on");
            std::this_thread::yield();
            --inside;
        });
    }
}

void test_bad_alloc() {
    stableops::set_num_threads(3);
    std::vector<std::ptrdiff_t> out(32);
    for (int i = 0; i < effort * 10; ++i) {
        const std::ptrdiff_t failing = i % 40;
        bool thrown = false;
        try {
            parallel_for<Isa>(32, [&](std::ptrdiff_t task) {
                if (task == failing) throw std::bad_alloc();
            });
        } catch (const std::bad_alloc&) {
            thrown = true;
        }
        check(thrown == (failing < 32), "the caller hears of a failed task");
        run_region(32, out);
    }
}

#if !defined(_WIN32)

void test_fork() {
    stableops::set_num_threads(3);
    void* const mine = stableops::thread_scratch(100);
    std::memset(mine, 7, 100);
    std::atomic<bool> stop = false;
    std::atomic<int> regions = 0;
    std::thread other([&] {
        while (!stop) {
            parallel_for<Isa>(6, [](std::ptrdiff_t) { std::this_thread::sleep_for(300us); });
            stableops::release_block(stableops::acquire_block(100000));
            ++regions;
        }
    });
    while (regions == 0) std::this_thread::yield();
    for (int i = 0; i < 20; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            std::vector<std::ptrdiff_t> out(40);
            for (int j = 0; j < 50; ++j) run_region(40, out);
            std::atomic<int> arrived = 0;
            parallel_for<Isa>(2, [&](std::ptrdiff_t) {
                ++arrived;
                while (arrived < 2) std::this_thread::yield();
            });
            void* const block = stableops::acquire_block(100000);
            std::memset(block, 1, 100000);
            stableops::release_block(block);
            const bool kept = static_cast<unsigned char*>(stableops::thread_scratch(100))[99] == 7;
            _exit(kept ? 0 : 2);
        }
        int status = -1;
        check(child > 0 && waitpid(child, &status, 0) == child, "fork");
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child computes");
        std::this_thread::sleep_for(std::chrono::microseconds(137 * i % 1000));
    }
    stop = true;
    other.join();
}

// A process ends while one thread computes and the workers sleep, spin or work.
void test_exit() {
    for (int i = 0; i < 10; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            stableops::set_num_threads(3);
            std::atomic<bool> begun = false;
            std::thread([&] {
                std::vector<std::ptrdiff_t> out(40);
                for (;;) {
                    run_region(40, out);
                    begun = true;
                }
            }).detach();
            while (!begun) std::this_thread::yield();
            std::exit(0);
        }
        int status = -1;
        check(child > 0 && waitpid(child, &status, 0) == child, "fork");
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the process ends in order");
    }
}

#endif

void test_scratch() {
    void* const first = stableops::thread_scratch(1000);
    check(reinterpret_cast<std::uintptr_t>(first) % 64 == 0, "scratch is aligned");
    check(stableops::thread_scratch(10) == first, "scratch is reused");
    const std::size_t bytes = std::size_t{5} << 20;
    std::memset(stableops::thread_scratch(bytes), 1, bytes);
    check(stableops::thread_scratch(0) != nullptr, "no bytes");
    check(!message_of<std::bad_alloc>([] {
               stableops::thread_scratch(std::numeric_limits<std::size_t>::max());
           }).empty(),
          "too much scratch");
    stableops::thread_scratch(1);
    std::thread([first] {
        check(stableops::thread_scratch(1000) != first, "scratch belongs to its thread");
    }).join();
}

void test_cache() {
    using stableops::acquire_block;
    using stableops::cache_bytes_in_use;
    using stableops::release_block;
    const std::size_t mb = std::size_t{1} << 20;

    stableops::empty_cache();
    check(cache_bytes_in_use() == 0, "empty");
    void* const block = acquire_block(10 * mb);
    check(reinterpret_cast<std::uintptr_t>(block) % (2 * mb) == 0, "large blocks: huge pages");
    std::memset(block, 1, 10 * mb);
    release_block(block);
    check(cache_bytes_in_use() >= 10 * mb, "kept");
    void* const smaller = acquire_block(9 * mb);
    check(smaller == block, "a block that fits is reused");
    check(cache_bytes_in_use() == 0, "handed out");
    release_block(smaller);
    void* const half = acquire_block(5 * mb);
    check(half == block, "down to half its size");
    release_block(half);
    void* const misfit = acquire_block(3 * mb);
    check(misfit != block, "not where more than half is wasted");
    release_block(misfit);

    for (int i = 0; i < 200; ++i) {
        std::vector<void*> blocks;
        for (int j = 0; j < 5; ++j) {
            const std::size_t bytes = (1 + (7 * i + j) % 25) * mb + 12345;
            blocks.push_back(acquire_block(bytes));
            static_cast<char*>(blocks.back())[bytes - 1] = 1;
        }
        for (void* const each : blocks) {
            release_block(each);
            check(cache_bytes_in_use() <= stableops::cache_limit(), "the limit holds");
        }
    }
    stableops::empty_cache();
    check(cache_bytes_in_use() == 0, "emptied");

    void* const giant = acquire_block(65 * mb);
    release_block(giant);
    check(cache_bytes_in_use() == 0, "beyond the limit nothing is kept");
    release_block(nullptr);
    release_block(acquire_block(0));

    std::vector<void*> small;
    for (int i = 0; i < 1000; ++i) small.push_back(acquire_block(100));
    for (void* const each : small) release_block(each);
    check(cache_bytes_in_use() == 512 * 4096, "the number of idle blocks is bounded");

    const std::size_t top = std::numeric_limits<std::size_t>::max();
    for (const std::size_t bytes : {top, top - 100, top / 2, top / 2 + 1, top / 4, top / 1000}) {
        check(!message_of<std::bad_alloc>([bytes] { acquire_block(bytes); }).empty(), "too large");
    }

    // Blocks travel between threads; a block handed out twice would show as a wrong mark.
    std::vector<std::atomic<std::uint32_t*>> slots(16);
    std::vector<std::thread> threads;
    for (std::uint32_t seed = 0; seed < 3; ++seed) {
        threads.emplace_back([&slots, seed] {
            std::mt19937 random(seed);
            for (int i = 0; i < effort * 50; ++i) {
                const std::size_t bytes = 4096 + random() % 300000;
                auto* const mark = static_cast<std::uint32_t*>(acquire_block(bytes));
                mark[0] = mark[bytes / 4 - 1] = static_cast<std::uint32_t>(random());
                check(mark[0] == mark[bytes / 4 - 1], "a block has one owner");
                release_block(slots[random() % 16].exchange(mark));
                check(cache_bytes_in_use() <= stableops::cache_limit(), "the limit holds");
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::atomic<std::uint32_t*>& slot : slots) release_block(slot);
}

void test_float_environment() {
#if defined(__x86_64__)
    const unsigned host = _mm_getcsr();
    const unsigned strange = 0x1F80 | 0x8040 | 0x6000;  // FTZ, DAZ, towards zero
    _mm_setcsr(strange);
    {
        const stableops::DefaultFloatEnvironment environment;
        check(_mm_getcsr() == 0x1F80, "the default inside");
        volatile float zero = 0;
        volatile float infinite = 1 / zero;
        check(std::isinf(infinite) && (_mm_getcsr() & 0x4) != 0, "a flag is raised");
    }
    check(_mm_getcsr() == strange, "everything is restored, flags too");

    // Fresh workers inherit the strange register from this thread.
    stableops::set_num_threads(9);
    std::atomic<int> arrived = 0;
    std::atomic<int> wrong = 0;
    const std::thread::id self = std::this_thread::get_id();
    parallel_for<Isa>(9, [&](std::ptrdiff_t) {
        if (std::this_thread::get_id() != self && (_mm_getcsr() & ~0x3Fu) != 0x1F80) ++wrong;
        ++arrived;
        while (arrived < 9) std::this_thread::yield();
    });
    check(_mm_getcsr() == strange, "a region leaves the caller's alone");
    _mm_setcsr(host);
    check(wrong == 0, "workers compute in the default environment");
#endif
}

double microseconds_since(Clock::time_point start) {
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

void print_quantiles(const char* what, std::vector<double> samples) {
    std::sort(samples.begin(), samples.end());
    const auto at = [&](double q) {
        return samples[static_cast<std::size_t>(q * static_cast<double>(samples.size() - 1))];
    };
    std::printf("%-62s median %6.2f us, p90 %6.2f us, p99 %6.2f us\n", what, at(0.5), at(0.9),
                at(0.99));
}

void measure() {
    stableops::set_num_threads(2);
    std::atomic<int> sink = 0;
    const auto nothing = [&](std::ptrdiff_t) { sink.fetch_add(1, std::memory_order_relaxed); };
    // Both threads have to be there, so this is the time until a worker has begun.
    const auto rendezvous = [&] {
        std::atomic<int> arrived = 0;
        parallel_for<Isa>(2, [&](std::ptrdiff_t) {
            ++arrived;
            while (arrived < 2) std::this_thread::yield();
        });
    };
    const auto sample = [&](int count, std::chrono::microseconds idle, const auto& region) {
        std::vector<double> samples;
        for (int i = 0; i < count; ++i) {
            if (idle.count() > 0) std::this_thread::sleep_for(idle);
            const Clock::time_point start = Clock::now();
            region();
            samples.push_back(microseconds_since(start));
        }
        return samples;
    };
    const auto empty = [&] { parallel_for<Isa>(2, nothing); };
    print_quantiles("empty tasks, back to back", sample(20000, 0us, empty));
    print_quantiles("empty tasks, workers parked", sample(500, 1000us, empty));
    print_quantiles("a worker has begun, back to back", sample(2000, 0us, rendezvous));
    print_quantiles("a worker has begun, workers parked", sample(500, 1000us, rendezvous));
    stableops::set_num_threads(1);
    print_quantiles("inline", sample(20000, 0us, empty));
}

}  // namespace

int main() {
#if !defined(_WIN32)
    // Before there are threads: the leak checker that ends the children would look for those that
    // a fork left behind.
    test_exit();
#endif
    test_settings();
    test_scratch();
    test_cache();
    test_regions();
    test_nested();
    test_threads_take_part();
    test_many_callers();
    test_bad_alloc();
    test_float_environment();
#if !defined(_WIN32)
    test_fork();
#endif
    if (effort == 100) measure();
    std::puts("ok");
}
