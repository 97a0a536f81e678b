// The passes of a plastic network on the CPU, and how they find their kernels.
#pragma once

#include "../network.h"
#include "connection.h"

namespace plastikern {

// Calls run(kernel, first, last, backwards) for the rows [begin, end), kernel by kernel. Rows that
// `backwards(j)` run their traces backwards.
template <typename S, class Run, class Backwards>
void for_kernels(const Network<S>& n, int64_t begin, int64_t end, Backwards backwards, Run run) {
    const Kernels<S>& all = kernels<S>();
    for (int64_t first = begin, last; first < end; first = last) {
        const bool traced = n.eligible(first), back = backwards(first);
        for (last = first + 1; last < end && n.eligible(last) == traced && backwards(last) == back;)
            ++last;
        const RuleKernels<S>& rule = all.rules[n.rule];
        const auto layout = static_cast<size_t>(n.connection.layout);
        run((*(back ? rule.free : rule.traces)[traced])[layout], first, last, back);
    }
}
template <typename S, class Run>
void for_kernels(const Network<S>& n, int64_t begin, int64_t end, Run run) {
    const auto forwards = [](int64_t) { return false; };
    for_kernels(n, begin, end, forwards,
                [&](const ConnectionKernels<S>& kernel, int64_t first, int64_t last, bool) {
                    run(kernel, first, last);
                });
}

template <typename S>
void forward(const Network<S>&, const Outputs<S>&);

// Unit k of a forward pass alone, for a network that acts: call after call from k = 0 to the end of
// the elements, whose lengths are then `n.lengths`. In between the traces and packed parameters lie
// in `memory`, of acting_bytes(n); all activities must be kept, and only the last call needs the
// last state.
template <typename S>
int64_t acting_bytes(const Network<S>&);
template <typename S>
void forward_unit(Network<S>, const Outputs<S>&, int64_t k, void* memory);

template <typename S>
void backward(const Network<S>&, const Gradients<S>&);

}  // namespace plastikern
