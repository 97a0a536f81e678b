// The plastic recurrent network on the CPU: what its two passes need, whose memory is whose. Knows nothing of torch.
#pragma once

#include <cstdint>

#include "connection.h"

namespace plastikern {

// Length of a row that starts on a cache line wherever the matrix does.
template <typename S>
constexpr int64_t padded(int64_t columns) {
    constexpr int64_t line = 64 / sizeof(S);
    return (columns + line - 1) / line * line;
}

// A (T, B, N) array in either layout; neurons lie next to each other.
template <typename S>
struct Sequence {
    S* data = nullptr;
    int64_t step = 0, element = 0;

    S* at(int64_t t, int64_t b) const { return data + t * step + b * element; }
    explicit operator bool() const { return data != nullptr; }
};

template <typename S>
struct Rnn {
    int64_t steps, batch, neurons, threads;
    RuleKind rule;
    ConstraintKind constraint;
    Nonlinearity nonlinearity;
    Connection<S> connection;
    const S* hidden;             // (B, N) or null: zero
    const S* trace;              // (B, N, N) or null: zero
    Sequence<const bool> clamp;  // or none
    const int64_t* lengths;      // (B,) or null: all steps
    int64_t checkpoint_every;    // 0: no checkpoints

    int64_t synapses() const { return neurons * neurons; }
    int64_t matrix() const { return neurons * padded<S>(neurons); }
    int64_t length(int64_t b) const { return lengths == nullptr ? steps : lengths[b]; }
    const ConnectionKernels<S>& kernel() const {
        return *kernels<S>().connection(rule, constraint, connection.alpha_per_synapse, connection.rate_per_synapse);
    }
};

template <typename S>
struct RnnOutputs {
    Sequence<S> output;
    S *hidden,
        *trace;      // (B, N), (B, N, N): after the last step of each element; `hidden` may be the output of one step
    S* checkpoints;  // (C, B, N, padded(N)): H_k at k = checkpoint_every, 2 checkpoint_every, ... < T, unwritten past
                     // an element's end
};

template <typename S>
struct RnnGradients {
    Sequence<const S> output, grad_output;  // grad_output or none
    const S *grad_hidden, *grad_trace;      // (B, N), (B, N, N) or null: zero
    const S* trace_out;                     // (B, N, N): final traces; only where `reverse`
    const S* checkpoints;
    bool reverse;  // run the trace backwards between checkpoints (decay only), else recompute it from them
    Sequence<S> grad_drive;
    S* grad_hidden_in;                  // (B, N)
    S *grad_trace_in, *weight, *alpha;  // (B, N, N), (N, N), alpha's shape; null: not wanted
    S* rate;  // rate's shape; null: not wanted. One per synapse is added to, zeroed before, and never null
};

template <typename S>
void rnn_forward(const Rnn<S>&, Sequence<const S> drive, const RnnOutputs<S>&);
template <typename S>
void rnn_backward(const Rnn<S>&, const RnnGradients<S>&);

}  // namespace plastikern
