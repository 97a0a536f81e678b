// The kernels of one plastic connection, and the contract by which networks call them.
//
// A network runs in units. Unit k changes the trace by step k - 1 and then reads it for step k, in one pass over the
// synapses:
//
//     H_k = constraint(H_{k-1}, r d(post_{k-1}, pre_{k-1}))      where k > 0
//     sum_k = (w + alpha read(H_k)) pre_k                        where k < T
//
// so that a modulator computed from step k - 1 is known when it is needed. The backward unit k is the adjoint of the
// two lines, last line first. All traces are row-major, one row per post-synaptic neuron; a row is read, used and
// written in one pass.
#pragma once

#include <cstdint>

#include "../plasticity.h"

namespace plastikern {

// The parameters of a connection. Shapes: weight (O, I); alpha and rate (O, I) when per synapse, else (O,) or one
// number: those of row j start at j * stride, with stride I or more, 1 or 0.
template <typename S>
struct Connection {
    int64_t pres;  // I
    const S *weight, *alpha, *rate;
    int64_t weight_stride, alpha_stride, rate_stride;
    bool alpha_per_synapse, rate_per_synapse;
    S bound;
};

// One matrix of traces or trace gradients; a stride of 0 stands for rows that are all the same (all zero).
template <typename S>
struct Rows {
    S* data;
    int64_t stride;

    S* row(int64_t j) const { return data + j * stride; }
};

template <typename S>
struct ForwardUnit {
    const S *pre_before, *post_before;  // (I,), (O,): step k - 1; null where k = 0
    const S* pre;                       // (I,): step k; null where k = T
    Rows<const S> trace;                // H_{k-1}, or H_0 where k = 0
    Rows<S> trace_out;                  // H_k, may be the same memory; untouched where k = 0
    S* sum;                             // (O,): sum_k
};

template <typename S>
struct BackwardUnit {
    const S *pre_before, *post_before, *pre;  // as forward
    const S* grad_sum;                        // (O,): of sum_k
    bool reverse;                             // `trace` is H_k, and H_{k-1} is computed from it into `trace_out`
    Rows<const S> trace;                      // H_k (reverse, or k = 0), else H_{k-1}
    Rows<S> trace_out;                        // reverse only; may be the same memory
    Rows<const S> grad_trace;                 // of H_k, as it came from unit k + 1
    Rows<S> grad_trace_out;                   // of H_{k-1} (of H_0 where k = 0), may be the same memory
    S* grad_pre;                              // (I,), added to: of pre_k
    S* grad_pre_before;                       // (I,), added to: of pre_{k-1}
    S* grad_post_before;                      // (O,), written: of post_{k-1}
    S* grad_rate;                             // (O,) or, per connection, (O, I), added to
};

// Some consecutive steps of one element, from a trace that is known. Step i has its pre at `first_pre` (i = 0) or
// `pre + (i - 1) * pre_stride`, its post at `post + i * post_stride`.
template <typename S>
struct History {
    const S *first_pre, *pre, *post;
    int64_t pre_stride, post_stride, steps;
    Rows<const S> trace;          // before the first of the steps
    const S* grad_sum = nullptr;  // as post; for `gradients` only
    int64_t grad_stride = 0;
};

template <typename S>
inline __attribute__((always_inline)) int64_t steps_of(const History<S>* elements, int64_t count) {
    int64_t steps = 0;
    for (int64_t e = 0; e < count; ++e) steps += elements[e].steps;
    return steps;
}

constexpr int64_t kGradientRows = 8;  // rows whose histories `gradients` gathers together

template <typename S>
struct ParameterGradients {
    S *weight, *alpha;  // (O, I), and alpha's own shape; null: not wanted. Written for the rows asked for.
    const S* pres;      // the elements' pre, by `pack_history`
    S* scratch;         // 2 * kGradientRows * (all steps of all elements)
};

// Kernels of one rule, constraint and parameter layout, for rows [begin, end).
template <typename S>
struct ConnectionKernels {
    void (*forward)(const Connection<S>&, const ForwardUnit<S>&, int64_t begin, int64_t end);
    void (*backward)(const Connection<S>&, const BackwardUnit<S>&, int64_t begin, int64_t end);
    // out: the trace after the first step; those after the others follow at a distance of out_step.
    void (*recompute)(const Connection<S>&, const History<S>&, Rows<S> out, int64_t out_step, int64_t begin,
                      int64_t end);
    void (*gradients)(const Connection<S>&, const History<S>*, int64_t elements, const ParameterGradients<S>&,
                      int64_t begin, int64_t end);
};

template <typename S>
struct Kernels {
    const char* capability;
    const ConnectionKernels<S>* (*connection)(RuleKind, ConstraintKind, bool alpha_per_synapse, bool rate_per_synapse);
    // Columns that are packed together, and the packing of the elements' pre for `gradients`: tiles [first_tile,
    // last_tile).
    int64_t tile;
    void (*pack_history)(int64_t columns, const History<S>* elements, int64_t count, S* packed, int64_t first_tile,
                         int64_t last_tile);
    void (*activate)(Nonlinearity, const S* drive, const bool* clamp, S* sum_to_activity, int64_t count);
    void (*bandwidth)(const S* a, const S* b, S* c, int64_t count);
};

// The kernels for the best instruction set that this processor and this build have.
template <typename S>
const Kernels<S>& kernels();

}  // namespace plastikern
