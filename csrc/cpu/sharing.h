// What both passes share: how the work is divided among threads, where activities and traces lie,
// packed parameters.
#pragma once

#include <algorithm>

#include "network.h"
#include "team.h"
#include "workspace.h"

namespace plastikern {

// Lays out a workspace part by part: the offset, in values, of a part of `count` values that
// follows the `size` values so far, which include it from then on. Parts start on cache lines.
template <typename S>
int64_t placed(int64_t& size, int64_t count) {
    const int64_t offset = size;
    size += padded<S>(count);
    return offset;
}

template <typename S>
constexpr int64_t bytes_of(int64_t values) {
    return values * static_cast<int64_t>(sizeof(S));
}

// Zeros that stand for any vector or row that is missing.
template <typename S>
int64_t zeros_size(const Network<S>& n) {
    return std::max(n.posts, padded<S>(n.pres));
}

// Over more than a few steps it pays to work on traces and parameters whose rows start on cache
// lines; and where rates are per synapse, computing traces again reads whole vectors of them.
template <typename S>
bool worth_packing(const Network<S>& n) {
    return n.steps >= (n.connection.layout == Layout::per_synapse ? 2 : 4);
}

template <typename S>
void copy_padded(const S* from, int64_t count, S* to) {
    std::copy_n(from, count, to);
    std::fill(to + count, to + padded<S>(count), S(0));
}

// Calls run(parameter, i) for the i-th parameter of the connection that is worth copying to rows of
// padded length, since it has a value per synapse. Returns how many there are.
template <typename S, class Run>
int64_t for_packed(const Network<S>& n, Run run) {
    using C = Connection<S>;
    constexpr Coefficients<S> C::* all[] = {&C::weight, &C::alpha, &C::rate, &C::rate_scale,
                                            &C::eligibility_rate};
    constexpr int64_t per_synapse[] = {1, 2, 5};  // by Layout
    if (!worth_packing(n) || padded<S>(n.pres) == n.pres) return 0;
    int64_t count = 0;
    for (int64_t i = 0; i < per_synapse[static_cast<int64_t>(n.connection.layout)]; ++i) {
        if ((n.connection.*all[i]).data != nullptr) run(all[i], count++);
    }
    return count;
}

template <typename S>
int64_t packed_size(const Network<S>& n) {
    return for_packed(n, [](auto, int64_t) {}) * n.matrix();
}

// The network with these parameters in `copies`, where `pack` puts them.
template <typename S>
Network<S> with_packed(const Network<S>& n, S* copies) {
    Network<S> packed = n;
    for_packed(n, [&](auto parameter, int64_t i) {
        packed.connection.*parameter = {copies + i * n.matrix(), padded<S>(n.pres)};
    });
    return packed;
}

template <typename S>
void pack(const Network<S>& n, S* copies, Team team) {
    int64_t begin, end;
    team.share(n.posts, begin, end);
    for_packed(n, [&](auto parameter, int64_t i) {
        for (int64_t j = begin; j < end; ++j)
            copy_padded((n.connection.*parameter).row(j), n.pres,
                        copies + i * n.matrix() + j * padded<S>(n.pres));
    });
    team.barrier();
}

// Whether kernels may read and write whole vectors of H_k, the traces of element b after k steps.
// They may not where the caller's tensors hold them: the first ones, unless these are missing and
// so zeros, and the last ones.
template <typename S>
bool has_padded_rows(const Network<S>& n, int64_t k, int64_t b) {
    if (k == 0) return n.trace == nullptr && n.eligibility == nullptr;
    return k < n.length(b);
}

// Below this many synapses a step of one element takes less time than a barrier is worth.
constexpr int64_t kSplitSynapses = 16384;
// Elements side by side, each with its traces and their gradients, must not crowd each other out of
// the cache.
constexpr int64_t kSideBySideBytes = int64_t{8} << 20;
// Elements that go through the steps together.
constexpr int64_t kMaxGroup = 16;

// Elements [first, last), which go through the steps together.
struct Group {
    int64_t first, last;

    int64_t size() const { return last - first; }
};

// How a call is shared by `threads` threads: the first `whole` elements are taken by one thread
// each, in groups, the others by the first `together` threads as a team.
struct Sharing {
    int64_t threads, whole, group, together;

    int64_t teams() const { return whole > 0 ? threads : 1; }
    // Groups of whole elements that one thread takes.
    int64_t slots() const { return teams() * group; }
};

// Threads that are worth waking for so many synapses, or synapses at so many steps: half of the
// smallest work that two of them share is enough for each.
inline int64_t worthwhile(int64_t threads, int64_t work, int64_t smallest) {
    return std::max(std::min(threads, 2 * work / smallest), int64_t{1});
}

template <typename S>
Sharing sharing_of(const Network<S>& n) {
    // All gates are read at every step: by as many elements together as there are.
    const bool gated = n.has_gates();
    const int64_t synapses = n.synapses() * weight_blocks(n.kind);
    // A softmax is over all neurons.
    const bool splits = synapses >= kSplitSynapses && n.nonlinearity != Nonlinearity::softmax;
    const int64_t group = gated ? std::min(n.batch, kMaxGroup) : 1;
    // At every step a team waits for its slowest thread: one that has no rows, or few, only makes
    // it slower.
    const int64_t team =
        splits ? std::min(worthwhile(n.threads, synapses, kSplitSynapses), Team::shares(n.posts))
               : 1;
    // The gradient of a rate per synapse is one matrix, to which the elements add in turn.
    if (n.connection.layout == Layout::per_synapse) return {team, 0, group, team};
    // Elements of a thread in groups of nearly the same size.
    const auto grouped = [&](int64_t each) {
        const int64_t groups = std::max((each + group - 1) / group, int64_t{1});
        return std::max((each + groups - 1) / groups, int64_t{1});
    };
    const int64_t side_by_side = std::min(n.batch, n.threads);
    if (!splits) {
        const int64_t work = n.batch * synapses * n.steps;
        const int64_t threads = worthwhile(side_by_side, work, 2 * kSplitSynapses);
        return {threads, n.batch, grouped((n.batch + threads - 1) / threads), 1};
    }
    const int64_t fitting = kSideBySideBytes / (2 * n.traces() * static_cast<int64_t>(sizeof(S)));
    const int64_t threads = std::min(side_by_side, fitting);
    if (threads < team) return {team, 0, grouped(n.batch), team};
    const int64_t each = n.batch / threads;
    return {threads, each * threads, grouped(each), team};
}

// Calls run(group, thread, team) for every group of elements.
template <class Run>
void for_groups(int64_t batch, Sharing sharing, Team all, Run run) {
    const int64_t groups = (sharing.whole + sharing.group - 1) / sharing.group;
    for (int64_t g = all.rank; g < groups; g += all.size) {
        run(Group{g * sharing.group, std::min((g + 1) * sharing.group, sharing.whole)}, all.rank,
            Team{});
    }
    if (sharing.whole == batch) return;
    all.barrier();
    const Team team{all.rank, std::min(all.size, sharing.together), all.meeting};
    for (int64_t b = sharing.whole; team.rank < team.size && b < batch; b += sharing.group) {
        run(Group{b, std::min(b + sharing.group, batch)}, team.rank, team);
    }
}

// Calls run(begin, end) for blocks of rows that stay in the first cache while all elements of a
// group pass over them.
template <typename S, class Run>
void for_row_blocks(const Network<S>& n, int64_t elements, int64_t begin, int64_t end, Run run) {
    constexpr int64_t bytes = 16384;
    const int64_t rows = std::max<int64_t>(4, bytes / (n.pres * static_cast<int64_t>(sizeof(S))));
    const int64_t block = elements == 1 ? end - begin : rows;
    for (int64_t j = begin; j < end; j += block) run(j, std::min(j + block, end));
}

// Pre for two steps, of each element of a group, in padded rows.
template <typename S>
class PreRing {
   public:
    PreRing(S* memory, const Network<S>& n) : memory_(memory), pres_(n.pres) {}
    static int64_t size(const Network<S>& n, int64_t group) {
        return 2 * group * padded<S>(n.pres);
    }
    S* row(int64_t k, int64_t e) const { return memory_ + (2 * e + k % 2) * padded<S>(pres_); }
    const S* filled(int64_t k, int64_t e, const S* from) const {
        copy_padded(from, pres_, row(k, e));
        return row(k, e);
    }

   private:
    S* memory_;
    int64_t pres_;
};

template <typename S>
void copy_traces(const Network<S>& n, TraceRows<const S> from, TraceRows<S> to, int64_t begin,
                 int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
        std::copy_n(from.row(j), n.pres, to.row(j));
        if (n.retroactive) std::copy_n(from.eligibility_row(j), n.pres, to.eligibility_row(j));
    }
}

// Rows without eligibility hand on what came in: from the first to the last state, and so their
// gradients.
template <typename S>
void copy_unmodulated(const Network<S>& n, TraceRows<const S> from, TraceRows<S> to, int64_t begin,
                      int64_t end) {
    for (int64_t j = begin; n.retroactive && n.modulated != nullptr && j < end; ++j) {
        if (!n.eligible(j)) std::copy_n(from.eligibility_row(j), n.pres, to.eligibility_row(j));
    }
}

template <typename S>
void clear_padding(const Network<S>& n, TraceRows<S> rows, int64_t begin, int64_t end) {
    const int64_t pad = padded<S>(n.pres) - n.pres;
    for (int64_t j = begin; pad > 0 && j < end; ++j) {
        std::fill_n(rows.row(j) + n.pres, pad, S(0));
        if (n.retroactive) std::fill_n(rows.eligibility_row(j) + n.pres, pad, S(0));
    }
}

template <typename S>
int64_t longest(const Network<S>& n, Group group) {
    int64_t most = 0;
    for (int64_t b = group.first; b < group.last; ++b) most = std::max(most, n.length(b));
    return most;
}

}  // namespace plastikern
