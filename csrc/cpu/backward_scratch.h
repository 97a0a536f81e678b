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

// Where a backward pass has what it works in: offsets, in values, and the distances within a part.
struct BackwardLayout {
    int64_t parameters;    // packed
    int64_t zeros;         // zeros_size(n)
    int64_t ones;          // (O,)
    int64_t reversed;      // per slot n.traces(), where some run backwards
    int64_t traces;        // per slot `segment`: a segment's traces, where some are computed again
    int64_t grad_traces;   // per slot n.traces()
    int64_t grad_posts;    // per slot (O,)
    int64_t grad_hiddens;  // per slot (O,)
    int64_t grad_cells;    // per slot (O,)
    int64_t grad_rates;    // per slot (O,): of the rate in force at one step
    int64_t grad_pres;     // per thread and element of a group (3, I), in rotation: a step's total,
                           // the step's before, the one being read
    int64_t modulators;    // per thread (2, kMaxGroup): contributions to the gradient of M, of even
                           // and odd steps
    int64_t sums;          // (kSums, threads, O): of the rates, their scales, the eligibility's
                           // rates and alpha
    int64_t totals;        // the same of doubles: what has been gathered of them
    int64_t packed_pres;   // all steps of all elements, (I) rounded up to whole tiles
    int64_t alpha_rows;    // per thread `alpha_size`
    int64_t grad_alphas;   // per thread, where `adds_alphas`: (O, padded(I))
    int64_t pres;          // per thread PreRing::size
    int64_t segment_pres;  // per thread `segment_size`: (segment_steps, padded(I)), and
                           // 2 * segment_steps values
    int64_t size;          // of all parts
    int64_t row, posts;    // distances of vectors (I,) and (O,)
    int64_t segment, segment_steps, segment_size, alpha_size;
    int64_t threads, tiles;
    bool wants_alphas, adds_alphas;  // alpha is per synapse; its gradient is summed up on the way,
                                     // not afterwards
};

template <typename S>
BackwardLayout backward_layout(const Network<S>& n, const Gradients<S>& g) {
    const Sharing sharing = sharing_of(n);
    const int64_t slots = sharing.slots(), threads = sharing.threads, tile = kernels<S>().tile;
    const bool again = !g.reverse || g.lost != nullptr;
    BackwardLayout at{};
    at.threads = threads;
    at.row = apart<S>(n.pres);
    at.posts = apart<S>(n.posts);
    at.segment_steps = again ? std::min(n.checkpoint_every, n.steps) : 0;
    at.segment = n.traces() * std::max<int64_t>(at.segment_steps - 1, 0);
    at.segment_size = padded<S>(at.segment_steps * (padded<S>(n.pres) + 2));
    at.alpha_size = padded<S>((2 * kGradientRows + 1) * n.steps * n.batch);
    at.tiles = (n.pres + tile - 1) / tile;
    at.wants_alphas = g.alpha != nullptr && n.connection.layout != Layout::per_neuron;
    const auto& kernel = (*kernels<S>().rules[n.rule].traces[n.retroactive])[static_cast<size_t>(
        n.connection.layout)];
    at.adds_alphas = at.wants_alphas &&
                     (bytes_of<S>(n.matrix()) <= kAlphasBytes || kernel.alpha_gradient == nullptr);
    const bool afterwards = at.wants_alphas && !at.adds_alphas;
    const auto place = [&](int64_t count) { return placed<S>(at.size, count); };
    at.parameters = place(packed_size(n));
    at.zeros = place(zeros_size(n));
    at.ones = place(n.posts);
    at.reversed = place(g.reverse ? slots * n.traces() : 0);
    at.traces = place(slots * at.segment);
    at.grad_traces = place(slots * n.traces());
    at.grad_posts = place(slots * at.posts);
    at.grad_hiddens = place(slots * at.posts);
    at.grad_cells = place(slots * at.posts);
    at.grad_rates = place(slots * at.posts);
    at.grad_pres = place(threads * sharing.group * 3 * at.row);
    at.modulators = place(threads * 2 * kMaxGroup);
    at.sums = place(kSums * threads * at.posts);
    at.totals = place(kSums * threads * at.posts * (bytes_of<double>(1) / bytes_of<S>(1)));
    at.packed_pres = place(afterwards ? at.tiles * tile * n.steps * n.batch : 0);
    at.alpha_rows = place(afterwards ? threads * at.alpha_size : 0);
    at.grad_alphas = place(at.adds_alphas ? threads * n.matrix() : 0);
    at.pres = place(threads * PreRing<S>::size(n, sharing.group));
    at.segment_pres = place(threads * at.segment_size);
    return at;
}

}  // namespace plastikern
