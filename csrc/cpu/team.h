// How threads share the work of a batch: whole elements each, without a barrier, or the neurons of one element after
// the other.
#pragma once

#include <algorithm>
#include <cstdint>
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace plastikern {

// The threads that work on one element together.
struct Team {
    int64_t rank, size;

    void barrier() const {
        if (size == 1) return;
#if defined(_OPENMP)
#pragma omp barrier
#endif
    }
    // Share of `count` rows, in whole units, so that no thread is left with a few lanes.
    void share(int64_t count, int64_t& begin, int64_t& end) const {
        constexpr int64_t unit = 4;
        const int64_t units = (count + unit - 1) / unit;
        begin = std::min(count, units * rank / size * unit);
        end = std::min(count, units * (rank + 1) / size * unit);
    }
};

// Calls body(rank, size) on up to `threads` threads.
template <class Body>
void parallel(int64_t threads, Body body) {
#if defined(_OPENMP)
    if (threads > 1) {
#pragma omp parallel num_threads(static_cast<int>(threads))
        body(static_cast<int64_t>(omp_get_thread_num()), static_cast<int64_t>(omp_get_num_threads()));
        return;
    }
#endif
    body(int64_t{0}, int64_t{1});
}

// Below this many synapses a step of one element takes less time than a barrier is worth.
constexpr int64_t kSplitSynapses = 16384;

// Calls element(b, team) for each element: as many as go evenly into the threads are taken whole, the others are shared
// by all.
template <class Element>
void for_elements(int64_t batch, int64_t rank, int64_t threads, bool whole_elements, Element element) {
    const int64_t whole = whole_elements ? batch / threads * threads : 0;
    for (int64_t b = rank; b < whole; b += threads) element(b, Team{0, 1});
    if (whole == batch) return;
    Team{rank, threads}.barrier();
    for (int64_t b = whole; b < batch; ++b) element(b, Team{rank, threads});
}

}  // namespace plastikern
