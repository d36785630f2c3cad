#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>

#include "cpu_count.h"
#include "environment.h"
#include "float_environment.h"

#if defined(_WIN32)
#include <system_error>
#include <thread>
#else
#include <pthread.h>
#include <signal.h>
#endif

namespace stableops {
namespace {

// A region with more tasks hands them out in runs, which bounds both the word and the contention.
constexpr std::ptrdiff_t max_tickets = std::ptrdiff_t{1} << 20;

// About three times what it costs to wake a sleeper: calls that follow one another closely find
// the workers awake, and a process that has finished computing burns next to nothing.
constexpr std::chrono::microseconds spin_time{30};

std::atomic<int> configured_threads = 0;

// Set while this thread runs tasks of a shared region.
thread_local bool inside_region = false;

int default_num_threads() {
    if (const auto threads = environment_number("STABLEOPS_NUM_THREADS", 1)) {
        return static_cast<int>(std::min<std::size_t>(*threads, max_threads));
    }
    int threads = std::min(available_cpus(), max_threads);
    // Another library's variable, a list with one number per nesting level: what we cannot read as
    // a bound is not ours to complain about.
    if (const char* omp = std::getenv("OMP_NUM_THREADS")) {
        const long bound = std::strtol(omp, nullptr, 10);
        if (bound >= 1 && bound < threads) threads = static_cast<int>(bound);
    }
    return threads;
}

void relax_cpu() noexcept {
#if defined(__x86_64__) || defined(_M_X64)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

template <class Ready>
bool spin_until(const Ready& ready) noexcept {
    if (ready()) return true;
    const auto deadline = std::chrono::steady_clock::now() + spin_time;
    do {
        for (int i = 0; i < 8; ++i) {
            relax_cpu();
            if (ready()) return true;
        }
    } while (std::chrono::steady_clock::now() < deadline);
    return false;
}

class alignas(64) Sleeper {
  public:
    template <class Ready>
    void sleep_until(const Ready& ready) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            asleep_.store(true);
            if (ready()) break;
            woken_.wait(lock);
        }
        asleep_.store(false);
    }

    // Cheap for a thread that is awake. Whoever wakes a sleeper takes back the announcement, so
    // that callers in quick succession pay for one wake-up and not for one each.
    void wake() {
        if (!asleep_.load()) return;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!asleep_.load()) return;
            asleep_.store(false);
        }
        woken_.notify_one();
    }

  private:
    std::atomic<bool> asleep_ = false;
    std::mutex mutex_;
    std::condition_variable woken_;
};

class Pool {
  public:
    // Thread 0 of a region is its caller; the workers are 1, 2, ...
    bool run(std::ptrdiff_t tasks, void (*body)(void*, std::ptrdiff_t), void* context, int threads);
    [[noreturn]] void serve(int index);
    void retry_starts() { start_failed_.store(false, std::memory_order_relaxed); }
    void forget_threads();

  private:
    static std::uint32_t remaining(std::uint64_t open) { return static_cast<std::uint32_t>(open); }
    static int limit(std::uint64_t open) { return static_cast<int>(open >> 32); }
    static bool may_claim(std::uint64_t open, int index) {
        return remaining(open) != 0 && index < limit(open);
    }

    int start_workers(int wanted);
    void wake_children(int index, int limit);
    void work(int index) noexcept;
    void run_ticket(std::ptrdiff_t ticket) noexcept;

    alignas(64) std::atomic<std::uint64_t> open_ = 0;
    alignas(64) std::atomic<std::uint32_t> unfinished_ = 0;
    std::atomic<bool> failed_ = false;
    Sleeper caller_;

    // The description of the region: written by its caller while nothing can be claimed, read by
    // others only between a claim and the report.
    alignas(64) void (*body_)(void*, std::ptrdiff_t) = nullptr;
    void* context_ = nullptr;
    std::ptrdiff_t tasks_ = 0;
    std::ptrdiff_t tickets_ = 0;
    std::ptrdiff_t tasks_per_ticket_ = 1;

    // Whoever holds busy_ may start workers. A worker is published by the first limit above its
    // index.
    alignas(64) std::atomic<bool> busy_ = false;
    std::atomic<bool> start_failed_ = false;
    int started_ = 0;
    std::atomic<bool> spin_ = false;
    Sleeper* workers_[max_threads] = {};
};

struct WorkerArguments {
    Pool* pool;
    int index;
};

#if defined(_WIN32)

bool start_thread(WorkerArguments arguments) {
    try {
        std::thread([arguments] { arguments.pool->serve(arguments.index); }).detach();
    } catch (const std::system_error&) {
        return false;
    } catch (const std::bad_alloc&) {
        return false;
    }
    return true;
}

#else

void* serve_forever(void* argument) {
    const WorkerArguments arguments = *static_cast<WorkerArguments*>(argument);
    delete static_cast<WorkerArguments*>(argument);
    arguments.pool->serve(arguments.index);
}

bool start_thread(WorkerArguments arguments) {
    auto* const argument = new (std::nothrow) WorkerArguments(arguments);
    if (argument == nullptr) return false;

    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) {
        delete argument;
        return false;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    // musl's default is 128 KB, and glibc takes the thread-local storage of all libraries from it.
    pthread_attr_setstacksize(&attributes, std::size_t{1} << 20);

    // The host's signals are for the host's threads: one that a worker takes would interrupt no
    // system call of the main thread. Faults and profilers concern the thread they hit.
    sigset_t blocked;
    sigset_t callers;
    sigfillset(&blocked);
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGPROF}) {
        sigdelset(&blocked, signal);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, &callers);
    pthread_t thread;
    const bool started = pthread_create(&thread, &attributes, serve_forever, argument) == 0;
    pthread_sigmask(SIG_SETMASK, &callers, nullptr);

    pthread_attr_destroy(&attributes);
    if (!started) delete argument;
    return started;
}

#endif

int Pool::start_workers(int wanted) {
    while (started_ < wanted && !start_failed_.load(std::memory_order_relaxed)) {
        Sleeper*& sleeper = workers_[started_ + 1];
        if (sleeper == nullptr) sleeper = new (std::nothrow) Sleeper;
        if (sleeper == nullptr || !start_thread({this, started_ + 1})) {
            // Not again in every region; set_num_threads() asks for another attempt.
            start_failed_.store(true, std::memory_order_relaxed);
            break;
        }
        ++started_;
    }
    return std::min(started_, wanted);
}

// A binary tree of wake-ups, rooted at the caller: a wake-up is a system call, and paying for all
// of them one after another would keep the caller of a large machine from its own tasks.
void Pool::wake_children(int index, int limit) {
    for (int child = 2 * index + 1; child <= 2 * index + 2 && child < limit; ++child) {
        workers_[child]->wake();
    }
}

void Pool::run_ticket(std::ptrdiff_t ticket) noexcept {
    const std::ptrdiff_t begin = ticket * tasks_per_ticket_;
    const std::ptrdiff_t count = std::min(tasks_per_ticket_, tasks_ - begin);
    try {
        for (std::ptrdiff_t i = 0; i < count; ++i) {
            if (failed_.load(std::memory_order_relaxed)) return;
            body_(context_, begin + i);
        }
    } catch (const std::bad_alloc&) {
        failed_.store(true, std::memory_order_relaxed);
    }
}

void Pool::work(int index) noexcept {
    // One report for all tickets of this thread. The region stays open for it meanwhile, since what
    // is not reported is not finished; so all of them belong to the same region.
    std::uint32_t finished = 0;
    std::uint64_t open = open_.load();
    while (may_claim(open, index)) {
        if (!open_.compare_exchange_weak(open, open - 1)) continue;
        run_ticket(tickets_ - remaining(open));
        ++finished;
        open = open_.load();
    }
    // The context may be gone after this line, and another region may have begun: waking its caller
    // for nothing is harmless.
    if (finished != 0 && unfinished_.fetch_sub(finished) == finished) caller_.wake();
}

void Pool::serve(int index) {
    inside_region = true;
    const auto ready = [this, index] { return may_claim(open_.load(), index); };
    bool spin = false;
    for (;;) {
        if (!spin || !spin_until(ready)) workers_[index]->sleep_until(ready);
        const std::uint64_t open = open_.load();
        if (remaining(open) != 0) wake_children(index, limit(open));
        {
            const DefaultFloatEnvironment environment;
            work(index);
        }
        spin = spin_.load(std::memory_order_relaxed);
    }
}

bool Pool::run(std::ptrdiff_t tasks, void (*body)(void*, std::ptrdiff_t), void* context,
               int threads) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;

    body_ = body;
    context_ = context;
    tasks_ = tasks;
    tasks_per_ticket_ = (tasks - 1) / max_tickets + 1;
    tickets_ = (tasks - 1) / tasks_per_ticket_ + 1;
    const int wanted = static_cast<int>(std::min<std::ptrdiff_t>(threads, tickets_)) - 1;
    const int limit = start_workers(wanted) + 1;
    // Where threads outnumber CPUs a spinning thread takes the CPU from one that computes.
    const bool spin = threads > 1 && threads <= available_cpus();
    spin_.store(spin, std::memory_order_relaxed);
    failed_.store(false, std::memory_order_relaxed);
    unfinished_.store(static_cast<std::uint32_t>(tickets_), std::memory_order_relaxed);
    open_.store(static_cast<std::uint64_t>(limit) << 32 | static_cast<std::uint64_t>(tickets_));

    wake_children(0, limit);
    inside_region = true;
    work(0);
    inside_region = false;

    const auto all_finished = [this] { return unfinished_.load() == 0; };
    if (!all_finished() && (!spin || !spin_until(all_finished))) caller_.sleep_until(all_finished);

    const bool failed = failed_.load(std::memory_order_relaxed);
    busy_.store(false, std::memory_order_release);
    if (failed) throw std::bad_alloc();
    return true;
}

// Overwrites everything without reading it, since the threads that are gone may have left any part
// half-changed; the sleepers' addresses alone are kept, never being taken back.
void Pool::forget_threads() {
    Sleeper* sleepers[max_threads];
    std::copy(workers_, workers_ + max_threads, sleepers);
    new (this) Pool;
    for (int i = 0; i < max_threads; ++i) {
        if (sleepers[i] != nullptr) workers_[i] = new (sleepers[i]) Sleeper;
    }
}

// Never destroyed: workers outlive static destructors, and the process ends with them asleep or at
// work. Made when the library is loaded, so that no fork can fall into its construction.
Pool& pool = *new Pool;

#if !defined(_WIN32)

// The child of a fork has the forking thread only, which is in no region.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { pool.forget_threads(); });

#endif

}  // namespace

int num_threads() {
    int threads = configured_threads.load(std::memory_order_relaxed);
    if (threads != 0) return threads;
    const int by_default = default_num_threads();
    // A concurrent set_num_threads() wins.
    if (configured_threads.compare_exchange_strong(threads, by_default)) return by_default;
    return threads;
}

void set_num_threads(int n) {
    configured_threads.store(std::min(n, max_threads));
    pool.retry_starts();
}

void parallel_for(std::ptrdiff_t tasks, void (*body)(void* context, std::ptrdiff_t task),
                  void* context) {
    if (tasks > 1 && !inside_region) {
        const int threads = num_threads();
        if (threads > 1 && pool.run(tasks, body, context, threads)) return;
    }
    for (std::ptrdiff_t task = 0; task < tasks; ++task) body(context, task);
}

}  // namespace stableops
