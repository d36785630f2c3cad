#pragma once

#include <cstddef>

namespace stableops {

// Calls body(context, task) for every task in [0, tasks), each exactly once, on this thread and on
// the workers of the pool. What a task does must depend on its number alone, never on who runs it
// or beside whom: tasks are cut by shape, so results are the same for any number of threads.
//
// Everything runs on this thread if tasks <= 1, if one thread is configured, if another thread's
// region holds the pool, or if this thread is inside a task already.
//
// A task may throw std::bad_alloc: tasks not yet begun are then skipped and the call throws
// std::bad_alloc. Any other exception out of a task that shares a region ends the process. Throws
// what num_threads() throws, before any task. Tasks may use up to 256 KB of stack.
//
// How a region works. The word `open` holds (limit, remaining): how many threads may take part, and
// how many tickets nobody has claimed. A thread whose index is below the limit claims a ticket by
// lowering `remaining` with a compare-and-swap, and reads body, context and sizes only after that
// has succeeded. The caller returns when every ticket is reported finished, so it never waits for a
// worker that claimed none.
//
// Why a late worker is harmless. A claim succeeds only while the word shows an unclaimed ticket,
// hence only in a region that is open at that moment; that region cannot end before the ticket is
// reported, so its description and context are alive and unchanged until then. A worker that wakes
// after the end finds remaining == 0, claims nothing and reads nothing. If the word it has read
// belongs to an earlier region and the current one happens to show the same value, its claim is a
// correct claim of the current region, because the value is all that was used: there is no ABA
// problem and so no epoch in the word. The successful swap reads from the release sequence headed
// by the store that opened the region, so the description, written before, is visible.
//
// Why no wake-up is lost. A sleeper announces itself and then reads the word, the waker writes the
// word and then looks for sleepers, all sequentially consistent: at least one sees the other.
void parallel_for(std::ptrdiff_t tasks, void (*body)(void* context, std::ptrdiff_t task),
                  void* context);

// The most threads that a region can have.
constexpr int max_threads = 512;

// The threads a region may use, the caller's included, at most max_threads. By default the CPUs
// available to the process (cpu_count.h), or the first number of OMP_NUM_THREADS if that is less.
// STABLEOPS_NUM_THREADS overrides both; std::invalid_argument if it is malformed, on each call
// until it is corrected or set_num_threads() is called.
int num_threads();

// n >= 1. Takes effect at the next region; any thread may call it while others compute.
void set_num_threads(int n);

template <class Isa, class F>
void call_task(void* context, std::ptrdiff_t task) {
    (*static_cast<const F*>(context))(task);
}

// For kernels: f(task) for every task, without an allocation or a copy of f. Isa is in the name so
// that objects of different SIMD levels never share an instance.
template <class Isa, class F>
void parallel_for(std::ptrdiff_t tasks, const F& f) {
    parallel_for(tasks, &call_task<Isa, F>, const_cast<F*>(&f));
}

}  // namespace stableops
