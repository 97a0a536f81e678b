// The scratch memory of a backward pass, and the sums over all steps that threads gather in it.
#pragma once

#include <algorithm>

#include "sharing.h"

namespace plastikern {

// Distance of vectors that are read and written side by side: whole pages would make a load wait
// for a store to the same offset of another page, which processors take for the same address at
// first.
template <typename S>
constexpr int64_t apart(int64_t count) {
    constexpr int64_t page = 4096 / sizeof(S);
    return (count + page - 1) / page * page + padded<S>(page / 3);
}

// Sums over so many steps are added up in single precision, and those of all steps in double: what
// the steps give to a rate cancels out for the most part, so that rounding a long sum would be
// felt.
constexpr int64_t kGatheredSteps = 64;

// Up to this size the gradient of alpha is a matrix per thread, to which every step adds; beyond it
// would crowd out the traces, and is found afterwards, a block of synapses at a time over all
// steps.
constexpr int64_t kAlphasBytes = int64_t{256} << 10;

// Sums over all steps that a thread gathers for its neurons.
enum Sum { kRates, kRateScales, kEligibilityRates, kAlphas, kSums };

template <typename S>
struct BackwardScratch {
    S* zeros;     // (max(O, I),)
    S* ones;      // (O,)
    S* reversed;  // per slot n.traces(), where some run backwards
    S* traces;  // per slot: a segment's traces, (checkpoint_every - 1) * n.traces(), where some are
                // computed again
    S* grad_traces;   // per slot n.traces()
    S* grad_posts;    // per slot (O,)
    S* grad_hiddens;  // per slot (O,)
    S* grad_cells;    // per slot (O,)
    S* grad_rates;    // per slot (O,): of the rate in force at one step
    S* grad_pres;     // per thread and element of a group (3, I), in rotation: a step's total, the
                   // step's before, the one being read
    S* modulators;   // per thread (2, kMaxGroup): contributions to the gradient of M, of even and
                     // odd steps
    S* sums[kSums];  // per thread (O,): of the rates, their scales, the eligibility's rates and
                     // alpha
    double* totals[kSums];  // what has been gathered of them
    S* packed_pres;         // all steps of all elements, (I) rounded up to whole tiles
    S* alpha_rows;          // per thread
    S* grad_alphas;         // per thread, where `adds_alphas`: (O, padded(I))
    S* pres;                // per thread PreRing::size
    S* segment_pres;        // per thread (segment_steps, padded(I)), and 2 * segment_steps values
    int64_t segment, segment_steps, row, posts, threads, alpha_size, tiles;
    bool wants_alphas,
        adds_alphas;  // alpha is per synapse; its gradient is summed up on the way, not afterwards

    BackwardScratch(const Network<S>& n, const Gradients<S>& g, Parts<S>& parts) {
        const Sharing sharing = sharing_of(n);
        const int64_t slots = sharing.slots();
        threads = sharing.threads;
        row = apart<S>(n.pres);
        posts = apart<S>(n.posts);
        const bool again = !g.reverse || g.lost != nullptr;
        segment_steps = again ? std::min(n.checkpoint_every, n.steps) : 0;
        segment = n.traces() * std::max<int64_t>(segment_steps - 1, 0);
        alpha_size = padded<S>((2 * kGradientRows + 1) * n.steps * n.batch);
        tiles = (n.pres + kernels<S>().tile - 1) / kernels<S>().tile;
        zeros = parts.take(std::max(n.posts, padded<S>(n.pres)));
        ones = parts.take(n.posts);
        reversed = parts.take(g.reverse ? slots * n.traces() : 0);
        traces = parts.take(slots * segment);
        grad_traces = parts.take(slots * n.traces());
        grad_posts = parts.take(slots * posts);
        grad_hiddens = parts.take(slots * posts);
        grad_cells = parts.take(slots * posts);
        grad_rates = parts.take(slots * posts);
        grad_pres = parts.take(threads * sharing.group * 3 * row);
        modulators = parts.take(threads * 2 * kMaxGroup);
        for (S*& sum : sums) sum = parts.take(threads * posts);
        constexpr int64_t size = sizeof(double) / sizeof(S);
        for (double*& total : totals)
            total = reinterpret_cast<double*>(parts.take(threads * posts * size));
        wants_alphas = g.alpha != nullptr && n.connection.layout != Layout::per_neuron;
        adds_alphas = wants_alphas && n.matrix() * static_cast<int64_t>(sizeof(S)) <= kAlphasBytes;
        const bool afterwards = wants_alphas && !adds_alphas;
        packed_pres = parts.take(afterwards ? tiles * kernels<S>().tile * n.steps * n.batch : 0);
        alpha_rows = parts.take(afterwards ? threads * alpha_size : 0);
        grad_alphas = parts.take(adds_alphas ? threads * n.matrix() : 0);
        pres = parts.take(threads * PreRing<S>::size(n, sharing.group));
        segment_pres = parts.take(threads * segment_size(n));
    }
    void clear_sums() const {
        for (S* sum : sums) std::fill_n(sum, threads * posts, S(0));
        for (double* total : totals) std::fill_n(total, threads * posts, 0.0);
    }
    void gather(int64_t thread, int64_t begin, int64_t end) const {
        for (int64_t of = 0; of < kSums; ++of) {
            S* sum = sums[of] + thread * posts;
            double* total = totals[of] + thread * posts;
            for (int64_t j = begin; j < end; ++j) total[j] += static_cast<double>(sum[j]);
            std::fill(sum + begin, sum + end, S(0));
        }
    }
    int64_t segment_size(const Network<S>& n) const {
        return padded<S>(segment_steps * (padded<S>(n.pres) + 2));
    }
};

}  // namespace plastikern
