// Plastic networks on the CPU: what their two passes need, whose memory is whose. Knows nothing of torch.
//
//     rnn      pre: the activities before the step; post: those after it
//     lstm     the same, with the candidate's recurrent sum from the plastic connection and a choice of post
//     linear   pre: features, given for every step; post: the outputs
#pragma once

#include <cstdint>

#include "connection.h"

namespace plastikern {

// Numbers as in plastikern/ops/fused.py (KINDS) and plastikern/plasticity.py (POSTS, MODULATOR_INPUTS,
// MODULATOR_NONLINEARITIES).
enum class NetworkKind : int64_t { rnn, lstm, linear };
enum class Post : int64_t { candidate, recurrent, cell, hidden };
enum class ModulatorInput : int64_t { hidden, previous_hidden, cell };
enum class ModulatorNonlinearity : int64_t { tanh, sigmoid, linear };

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
struct Modulator {
    const S *weight = nullptr, *bias = nullptr;  // (N,), (); null: none
    ModulatorInput input;
    ModulatorNonlinearity nonlinearity;

    explicit operator bool() const { return weight != nullptr; }
};

template <typename S>
struct Network {
    NetworkKind kind;
    int64_t steps, batch, posts, pres, threads;
    int64_t rule, constraint;  // places in Rules and Constraints
    Nonlinearity nonlinearity;
    Post post;
    bool retroactive;
    Connection<S> connection;
    Modulator<S> modulator;
    const bool*
        modulated;   // retroactive: (O,), which rows have eligibility traces; null: all. The others learn at once
    const S* gates;  // lstm: (4 N, N), whose third block is the connection's weight
    Sequence<const S> drive;       // (T, B, O), lstm: (T, B, 4 N); forward only
    Sequence<const S> features;    // linear: (T, B, I)
    Sequence<const bool> clamp;    // rnn, or none
    const S *hidden, *cell;        // (B, N) or null: zero
    const S *trace, *eligibility;  // (B, O, I) or null: zero
    const int64_t* lengths;        // (B,) or null: all steps
    int64_t checkpoint_every;      // 0: no checkpoints

    bool recurrent() const { return kind != NetworkKind::linear; }
    int64_t synapses() const { return posts * pres; }
    // Values of the connection's traces for one element, in rows that start on cache lines: trace, then eligibility.
    int64_t matrix() const { return posts * padded<S>(pres); }
    int64_t traces() const { return matrix() * (retroactive ? 2 : 1); }
    int64_t length(int64_t b) const { return lengths == nullptr ? steps : lengths[b]; }
    bool eligible(int64_t j) const { return retroactive && (modulated == nullptr || modulated[j]); }
    // Calls run(kernel, first, last, backwards) for the rows [begin, end), kernel by kernel. Rows that `backwards(j)`
    // run their traces backwards.
    template <class Run, class Backwards>
    void for_kernels(int64_t begin, int64_t end, Backwards backwards, Run run) const {
        const Kernels<S>& all = kernels<S>();
        for (int64_t first = begin, last; first < end; first = last) {
            const bool traced = eligible(first), back = backwards(first);
            for (last = first + 1; last < end && eligible(last) == traced && backwards(last) == back;) ++last;
            const auto choose = back ? all.reversed : all.connection;
            run(*choose(rule, constraint, connection.layout, traced), first, last, back);
        }
    }
    template <class Run>
    void for_kernels(int64_t begin, int64_t end, Run run) const {
        const auto forwards = [](int64_t) { return false; };
        for_kernels(begin, end, forwards, [&](const ConnectionKernels<S>& kernel, int64_t first, int64_t last, bool) {
            run(kernel, first, last);
        });
    }
    // Rows (O,) of the segment between two checkpoints that step k - 1 belongs to.
    template <typename T>
    T* segment_rows(T* rows, int64_t k, int64_t b) const {
        return rows + ((k - 1) / checkpoint_every * batch + b) * posts;
    }
    // Rows of `history`: the gates i, f, g, o after their nonlinearity, the cell, and the candidate's recurrent sum.
    int64_t history_size() const { return kind != NetworkKind::lstm ? 0 : (post == Post::recurrent ? 6 : 5) * posts; }
};

// What a forward pass leaves, step by step.
template <typename S>
struct Activities {
    Sequence<S> output;      // (T, B, O)
    Sequence<S> history;     // lstm: (T, B, history_size()); in the forward pass it may be one row per element
    Sequence<S> modulators;  // (T, B); unmodulated: one zero with strides of 0
};

template <typename S>
struct Outputs {
    Activities<S> activities;
    S *hidden, *cell;        // (B, N): after the last step of each element; null: not wanted
    S *trace, *eligibility;  // (B, O, I)
    bool* lost;              // (segments, B, O): rows that lost what they were, by segments; zeros; null: not wanted
    S* checkpoints;          // (C, B, traces()): at k = checkpoint_every, 2 checkpoint_every, ... < T, unwritten past
                             // an element's end
};

template <typename S>
struct Gradients {
    Activities<const S> activities;
    Sequence<const S> output;                      // or none
    const S *hidden, *cell, *trace, *eligibility;  // of the last state, or null: zero
    const S *trace_out, *eligibility_out;          // (B, O, I): final traces; only where `reverse`
    const S* checkpoints;
    const bool* lost;       // as they came out; null: none
    bool reverse;           // run traces backwards between checkpoints, but for rows that have lost something; else
                            // compute them again from the checkpoints
    Sequence<S> drive;      // as the drive
    Sequence<S> sum;        // (T, B, O): of the connection's sums; none: those of the drive
    Sequence<S> features;   // linear: (T, B, I)
    Sequence<S> modulator;  // (T, B): of what goes into the modulator's nonlinearity
    // Of the first state, in its shapes; null: not wanted (`hidden_in` and `cell_in` are, where there
    // are any).
    S *hidden_in, *cell_in, *trace_in, *eligibility_in;
    // In the shapes of the parameters; null: not wanted. Those per synapse, but for alpha, are added to.
    S *alpha, *rate, *rate_scale, *eligibility_rate;
};

template <typename S>
void forward(const Network<S>&, const Outputs<S>&);
template <typename S>
void backward(const Network<S>&, const Gradients<S>&);

}  // namespace plastikern
