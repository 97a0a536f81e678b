// Plastic networks: what their two passes need, whose memory is whose, on every device. Knows
// nothing of torch.
//
//     rnn      pre: the activities before the step; post: those after it
//     lstm,    the same, with the candidate's recurrent sum from the plastic connection and a
//     gru      choice of post
//     linear   pre: features, given for every step; post: the outputs
#pragma once

#include <cstdint>
#include <type_traits>

#include "neuron.h"

namespace plastikern {

// What belongs to a synapse and what to a neuron (or to the whole layer). Rates per synapse come
// with alpha per synapse only: callers expand alpha, which costs less than a fourth set of kernels.
enum class Layout { per_neuron, alpha_per_synapse, per_synapse };

// A parameter (O, I), (O,) or of one number: that of row j starts at data + j * stride, with stride
// I or more, 1 or 0.
template <typename S>
struct Coefficients {
    const S* data = nullptr;
    int64_t stride = 0;

    PLASTIKERN_INLINE const S* row(int64_t j) const { return data + j * stride; }
};

// The parameters of a connection. The rate in force at a step is rate + rate_scale * M, with that
// step's modulator M.
template <typename S>
struct Connection {
    int64_t pres;  // I
    Layout layout;
    Coefficients<S> weight, alpha, rate, rate_scale,
        eligibility_rate;  // rate_scale.data null: no modulator
    S bound;
};

// Matrices of traces and eligibility traces, or of their gradients; a stride of 0 stands for rows
// that are all the same (all zero). Without eligibility that half is not looked at.
template <typename S>
struct TraceRows {
    S *trace = nullptr, *eligibility = nullptr;
    int64_t stride = 0, eligibility_stride = 0;

    PLASTIKERN_INLINE operator TraceRows<const S>() const
        requires(!std::is_const_v<S>)
    {
        return {trace, eligibility, stride, eligibility_stride};
    }
    PLASTIKERN_INLINE S* row(int64_t j) const { return trace + j * stride; }
    PLASTIKERN_INLINE S* eligibility_row(int64_t j) const {
        return eligibility + j * eligibility_stride;
    }
};

// Length of a row that starts on a cache line wherever the matrix does.
template <typename S>
PLASTIKERN_INLINE constexpr int64_t padded(int64_t columns) {
    constexpr int64_t line = 64 / sizeof(S);
    return (columns + line - 1) / line * line;
}

// A (T, B, N) array in either layout; neurons lie next to each other.
template <typename S>
struct Sequence {
    S* data = nullptr;
    int64_t step = 0, element = 0;

    PLASTIKERN_INLINE S* at(int64_t t, int64_t b) const { return data + t * step + b * element; }
    PLASTIKERN_INLINE explicit operator bool() const { return data != nullptr; }
};

template <typename S>
struct Modulator {
    const S *weight = nullptr, *bias = nullptr;  // (N,), (); null: none
    ModulatorInput input;
    Nonlinearity nonlinearity;

    PLASTIKERN_INLINE explicit operator bool() const { return weight != nullptr; }
};

template <typename S>
struct Network {
    NetworkKind kind;
    int64_t steps, batch, posts, pres, threads;
    int64_t rule;  // its place in update.h
    Nonlinearity nonlinearity;
    Post post;
    bool retroactive;
    Connection<S> connection;
    Modulator<S> modulator;
    const bool* modulated;  // retroactive: (O,), which rows have eligibility traces; null: all. The
                            // others learn at once
    const S* gates;         // with gates: (4 N, N), gru: (3 N, N); the third block is the
                            // connection's weight
    Sequence<const S> drive;       // (T, B, O), with gates: (T, B, 4 N); forward only
    Sequence<const S> features;    // linear: (T, B, I)
    Sequence<const bool> clamp;    // rnn, or none
    const S *hidden, *cell;        // (B, N) or null: zero
    const S *trace, *eligibility;  // (B, O, I) or null: zero
    const int64_t* lengths;        // (B,) or null: all steps
    int64_t checkpoint_every;      // 0: no checkpoints

    PLASTIKERN_INLINE bool recurrent() const { return kind != NetworkKind::linear; }
    PLASTIKERN_INLINE int64_t synapses() const { return posts * pres; }
    // Values of the connection's traces for one element, in rows that start on cache lines: trace,
    // then eligibility.
    PLASTIKERN_INLINE int64_t matrix() const { return posts * padded<S>(pres); }
    PLASTIKERN_INLINE int64_t traces() const { return matrix() * (retroactive ? 2 : 1); }
    PLASTIKERN_INLINE int64_t length(int64_t b) const {
        return lengths == nullptr ? steps : lengths[b];
    }
    PLASTIKERN_INLINE bool eligible(int64_t j) const {
        return retroactive && (modulated == nullptr || modulated[j]);
    }
    // Rows (O,) of the segment between two checkpoints that step k - 1 belongs to.
    template <typename T>
    PLASTIKERN_INLINE T* segment_rows(T* rows, int64_t k, int64_t b) const {
        return rows + ((k - 1) / checkpoint_every * batch + b) * posts;
    }
    // Recurrent sums beside the plastic one.
    PLASTIKERN_INLINE int64_t others() const { return weight_blocks(kind) - 1; }
    PLASTIKERN_INLINE bool carries_cell() const { return kind == NetworkKind::lstm; }
    PLASTIKERN_INLINE bool has_gates() const { return gated(kind); }
    PLASTIKERN_INLINE int64_t history_size() const { return history_rows(kind, post) * posts; }
};

// What a forward pass leaves, step by step.
template <typename S>
struct Activities {
    Sequence<S> output;   // (T, B, O)
    Sequence<S> history;  // with gates: (T, B, history_size()), what is kept of a cell's step; in
                          // the forward pass it may be one row per element
    Sequence<S> modulators;  // (T, B); unmodulated: one zero with strides of 0
};

template <typename S>
struct Outputs {
    Activities<S> activities;
    S *hidden, *cell;        // (B, N): after the last step of each element; null: not wanted
    S *trace, *eligibility;  // (B, O, I)
    bool* lost;  // (segments, B, O): rows that lost what they were, by segments; zeros; null: not
                 // wanted
    S* checkpoints;  // (C, B, traces()): at k = checkpoint_every, 2 checkpoint_every, ... < T,
                     // unwritten past an element's end
};

template <typename S>
struct Gradients {
    Activities<const S> activities;
    Sequence<const S> output;                      // or none
    const S *hidden, *cell, *trace, *eligibility;  // of the last state, or null: zero
    const S *trace_out, *eligibility_out;          // (B, O, I): final traces; only where `reverse`
    const S* checkpoints;
    const bool* lost;       // as they came out; null: none
    bool reverse;           // run traces backwards between checkpoints, but for rows that have lost
                            // something; else compute them again from the checkpoints
    Sequence<S> drive;      // as the drive
    Sequence<S> sum;        // (T, B, O): of the connection's sums; none: those of the drive
    Sequence<S> features;   // linear: (T, B, I)
    Sequence<S> modulator;  // (T, B): of what goes into the modulator's nonlinearity
    // Of the first state, in its shapes; null: not wanted (`hidden_in` and `cell_in` are, where
    // there are any).
    S *hidden_in, *cell_in, *trace_in, *eligibility_in;
    // In the shapes of the parameters; null: not wanted. Those per synapse, but for alpha, are
    // added to.
    S *alpha, *rate, *rate_scale, *eligibility_rate;
};

// Activity before step k.
template <typename S, typename T>
PLASTIKERN_INLINE const S* pre_of(const Network<S>& n, const Activities<T>& a, const S* zeros,
                                  int64_t k, int64_t b) {
    if (!n.recurrent()) return n.features.at(k, b);
    if (k > 0) return a.output.at(k - 1, b);
    return n.hidden == nullptr ? zeros : n.hidden + b * n.posts;
}

// Of an LSTM, whose history has its cell behind what came of its sums.
template <typename S, typename T>
PLASTIKERN_INLINE T* cell_of(const Network<S>& n, const Activities<T>& a, int64_t k, int64_t b) {
    return a.history.at(k, b) + generated::lstm::drives * n.posts;
}

template <typename S, typename T>
PLASTIKERN_INLINE const S* cell_before(const Network<S>& n, const Activities<T>& a, const S* zeros,
                                       int64_t k, int64_t b) {
    if (k > 0) return cell_of(n, a, k - 1, b);
    return n.cell == nullptr ? zeros : n.cell + b * n.posts;
}

// What a cell was before step k: of a GRU, the activities.
template <typename S, typename T>
PLASTIKERN_INLINE const S* carried(const Network<S>& n, const Activities<T>& a, const S* zeros,
                                   int64_t k, int64_t b) {
    return n.carries_cell() ? cell_before(n, a, zeros, k, b) : pre_of(n, a, zeros, k, b);
}

// The signal that changes the traces after step k.
template <typename S, typename T>
PLASTIKERN_INLINE T* post_of(const Network<S>& n, const Activities<T>& a, int64_t k, int64_t b) {
    const int64_t row = post_row(n.kind, n.post);
    if (row < 0) return a.output.at(k, b);
    return a.history.at(k, b) + row * n.posts;
}

// What step k's modulator is computed from.
template <typename S, typename T>
PLASTIKERN_INLINE const S* modulator_input(const Network<S>& n, const Activities<T>& a,
                                           const S* zeros, int64_t k, int64_t b) {
    if (n.modulator.input == ModulatorInput::previous_hidden) return pre_of(n, a, zeros, k, b);
    return n.modulator.input == ModulatorInput::cell ? cell_of(n, a, k, b) : a.output.at(k, b);
}

// Traces in a block of `n.traces()` values.
template <typename S, typename T>
PLASTIKERN_INLINE TraceRows<T> packed_traces(const Network<S>& n, T* block) {
    const int64_t stride = padded<S>(n.pres);
    return {block, n.retroactive ? block + n.matrix() : nullptr, stride, stride};
}

// Traces of element b in tensors (B, O, I); those that are missing are zero.
template <typename S, typename T>
PLASTIKERN_INLINE TraceRows<T> tensor_traces(const Network<S>& n, T* trace, T* eligibility,
                                             T* zeros, int64_t b) {
    const int64_t at = b * n.synapses();
    TraceRows<T> rows{zeros, zeros, 0, 0};
    if (trace != nullptr) rows.trace = trace + at, rows.stride = n.pres;
    if (eligibility != nullptr)
        rows.eligibility = eligibility + at, rows.eligibility_stride = n.pres;
    return rows;
}

template <typename S>
PLASTIKERN_INLINE bool is_checkpoint(const Network<S>& n, int64_t k, int64_t length) {
    return n.checkpoint_every > 0 && k > 0 && k < length && k % n.checkpoint_every == 0;
}

template <typename S, typename T>
PLASTIKERN_INLINE TraceRows<T> checkpoint(const Network<S>& n, T* checkpoints, int64_t k,
                                          int64_t b) {
    return packed_traces(n,
                         checkpoints + ((k / n.checkpoint_every - 1) * n.batch + b) * n.traces());
}

}  // namespace plastikern
