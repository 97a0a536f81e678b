// How threads share the work of a batch: whole elements each, without a barrier, or the neurons of
// one element together.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#if defined(__SANITIZE_THREAD__)
#include <thread>
#include <vector>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace plastikern {

// Meets every few microseconds, so it spins; but only as long as a wait on an idle machine, or
// waking a thread on a virtual one, takes. Where another process holds a core, spinning on would
// keep the scheduler from letting the thread that is missing run on this one: OpenMP's barrier
// does.
class Barrier {
   public:
    // Returns when `members` threads have called it.
    void wait(int64_t members) {
        const int before = generation_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == members) {
            arrived_.store(0, std::memory_order_relaxed);
            generation_.store(before + 1, std::memory_order_release);
            generation_.notify_all();
            return;
        }
        for (int spin = 0; spin < kSpins; ++spin) {
            if (generation_.load(std::memory_order_acquire) != before) return;
            pause();
        }
        generation_.wait(before, std::memory_order_acquire);
    }

   private:
    static constexpr int kSpins = 4000;  // about a hundred microseconds

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    std::atomic<int64_t> arrived_{0};
    std::atomic<int> generation_{0};
};

// The threads that work on one element together.
struct Team {
    int64_t rank = 0, size = 1;
    Barrier* meeting = nullptr;

    void barrier() const {
        if (size > 1) meeting->wait(size);
    }
    // Share of `count` rows, in units of a few.
    void share(int64_t count, int64_t& begin, int64_t& end) const {
        const int64_t units = shares(count);
        begin = std::min(count, units * rank / size * kUnit);
        end = std::min(count, units * (rank + 1) / size * kUnit);
    }
    // Into how many shares `count` rows can be divided.
    static int64_t shares(int64_t count) { return (count + kUnit - 1) / kUnit; }

   private:
    static constexpr int64_t kUnit = 4;
};

// The processors that this process may use. More threads than that would wait for each other's
// turns, at every barrier. The environment variable PLASTIKERN_CPU_CORES says it where the system
// does not: in a container with a quota of time.
inline int64_t cores() {
    const char* wish = std::getenv("PLASTIKERN_CPU_CORES");
    if (wish != nullptr && std::atoll(wish) > 0) return std::atoll(wish);
#if defined(_OPENMP)
    static const int64_t usable =
        omp_get_num_procs();  // asks the kernel, for a microsecond of every step
    return usable;
#else
    return 1;
#endif
}

// Calls body(team) on up to `threads` threads; the team is all of them.
template <class Body>
void parallel(int64_t threads, Body body) {
#if defined(__SANITIZE_THREAD__)
    // To the race detector nothing that OpenMP's runtime does orders anything.
    if (threads > 1) {
        Barrier meeting;
        std::vector<std::thread> others;
        for (int64_t rank = 1; rank < threads; ++rank)
            others.emplace_back([&, rank] { body(Team{rank, threads, &meeting}); });
        body(Team{0, threads, &meeting});
        for (std::thread& other : others) other.join();
        return;
    }
#elif defined(_OPENMP)
    if (threads > 1) {
        Barrier meeting;
#pragma omp parallel num_threads(static_cast<int>(threads))
        body(Team{omp_get_thread_num(), omp_get_num_threads(), &meeting});
        return;
    }
#endif
    body(Team{});
}

}  // namespace plastikern
