// The kernels of one plastic connection, and the contract by which networks call them.
//
// A network runs in units. Unit k changes the traces by step k - 1 and then reads them for step k,
// in one pass over the synapses:
//
//     H_k, E_k = next(H_{k-1}, E_{k-1}, post_{k-1}, pre_{k-1}, rate)     where k > 0
//     sum_k = (w + alpha read(H_k)) pre_k                                where k < T
//
// so that a modulator computed from step k - 1 is known when it is needed. The backward unit k is
// the adjoint of the two lines, last line first. All traces are row-major, one row per
// post-synaptic neuron; a row is read, used and written in one pass.
#pragma once

#include <array>
#include <cstdint>

#include "../network.h"

namespace plastikern {

// Units whose rows are `padded` read and write whole vectors: beyond the last column all rows go on
// to the next cache line, with zeros in parameters and pre and anything finite in traces.
template <typename S>
struct ForwardUnit {
    bool padded;
    const S *pre_before, *post_before;  // (I,), (O,): step k - 1; null where k = 0
    S modulator;                        // M_{k-1}
    const S* pre;                       // (I,): step k; null where k = T
    TraceRows<const S> traces;          // H_{k-1}, or H_0 where k = 0
    TraceRows<S> traces_out;            // H_k, may be the same memory; untouched where k = 0
    S* sum;                             // (O,): sum_k
    bool* lost;  // (O,): set where the change lost what the trace was before; or null
};

template <typename S>
struct BackwardUnit {
    bool padded;
    const S *pre_before, *post_before, *pre;  // as forward
    S modulator;                              // M_{k-1}
    const S* grad_sum;                        // (O,): of sum_k
    bool reverse;  // `traces` is H_k, and H_{k-1} is computed from it into `traces_out`
    TraceRows<const S> traces;       // H_k (reverse, or k = 0), else H_{k-1}
    TraceRows<S> traces_out;         // reverse only; may be the same memory
    TraceRows<const S> grad_traces;  // of H_k, as it came from unit k + 1
    TraceRows<S> grad_traces_out;    // of H_{k-1} (of H_0 where k = 0), may be the same memory
    S* grad_pre;                     // (I,), added to: of pre_k
    S* grad_pre_before;              // (I,), added to: of pre_{k-1}
    S* grad_post_before;             // (O,), written: of post_{k-1}
    S* grad_rate;    // (O,), written: of the rate in force; per synapse, of M_{k-1} by the rows
    S* grad_alpha;   // (O,), added to; only per neuron
    S* grad_alphas;  // (O, alpha_stride), added to; only per synapse; null: not wanted
    int64_t alpha_stride;
    S* grad_eligibility_rate;  // (O,), added to; only per neuron
    // (O, I), added to; only per synapse; null: not wanted
    S *grad_rates, *grad_rate_scales, *grad_eligibility_rates;
};

// Some consecutive steps of one element, from traces that are known. Step i has its pre at
// `first_pre` (i = 0) or `pre + (i - 1) * pre_stride`, its post at `post + i * post_stride`, and so
// on.
template <typename S>
struct History {
    const S *first_pre, *pre, *post, *modulators;
    int64_t pre_stride, post_stride, modulator_stride, steps;
    TraceRows<const S> traces;    // before the first of the steps
    const S* grad_sum = nullptr;  // as post; for `alpha_gradient` only
    int64_t grad_stride = 0;
};

template <typename S>
inline __attribute__((always_inline)) int64_t steps_of(const History<S>* elements, int64_t count) {
    int64_t steps = 0;
    for (int64_t e = 0; e < count; ++e) steps += elements[e].steps;
    return steps;
}

constexpr int64_t kGradientRows = 8;  // rows whose histories `alpha_gradient` gathers together

template <typename S>
struct AlphaGradient {
    S* alpha;       // (O, I), written for the rows asked for
    const S* pres;  // the elements' pre, by `pack_history`
    S* scratch;     // (2 * kGradientRows + 1) * (all steps of all elements)
};

// Kernels of one rule, constraint, layout and eligibility, for rows [begin, end).
template <typename S>
struct ConnectionKernels {
    void (*forward)(const Connection<S>&, const ForwardUnit<S>&, int64_t begin, int64_t end);
    void (*backward)(const Connection<S>&, const BackwardUnit<S>&, int64_t begin, int64_t end);
    // out: the traces after the first step; those after the others follow at a distance of
    // out_step. All rows but those the history starts from (unless `padded`) are padded, the pre,
    // too. scratch: 2 * steps.
    void (*recompute)(const Connection<S>&, const History<S>&, bool padded, TraceRows<S> out,
                      int64_t out_step, S* scratch, int64_t begin, int64_t end);
    // Only where alpha is per synapse and a change takes one pass over a row; else null.
    void (*alpha_gradient)(const Connection<S>&, const History<S>*, int64_t elements,
                           const AlphaGradient<S>&, int64_t begin, int64_t end);
};

// By layout.
template <typename S>
using LayoutKernels = std::array<ConnectionKernels<S>, 3>;

// Without and with eligibility traces; and those whose `backward` may run the traces backwards, for
// rows that have lost nothing.
template <typename S>
struct RuleKernels {
    const LayoutKernels<S>*traces[2], *free[2];
};

// One element of a network with gates: rows of N values.
template <typename S>
struct GatedStep {
    int64_t neurons;
    const S* drive;   // its blocks
    S* history;       // in, the recurrent sums; out, what is kept
    const S* before;  // the cell; of a GRU the activities before
    S* hidden;        // written
    S* recurrent;     // written: the plastic sum, of an LSTM; null: not wanted
};

template <typename S>
struct GatedStepGrad {
    int64_t neurons;
    const S *history, *before;         // as they came out of the step
    const S *grad_hidden, *grad_post;  // without that of the post
    Post post;
    S* grad_drive;   // written
    S* grad_before;  // of an LSTM: in, of its cell; out, of the cell before. Of a GRU: added to
};

template <typename S>
struct Kernels {
    const char* capability;
    const RuleKernels<S>* rules;  // by their places in ../update.h
    // Columns that are packed together, and the packing of the elements' pre for `alpha_gradient`:
    // tiles [first_tile, last_tile).
    int64_t tile;
    void (*pack_history)(int64_t columns, const History<S>* elements, int64_t count, S* packed,
                         int64_t first_tile, int64_t last_tile);
    void (*activate)(Nonlinearity, const S* drive, const bool* clamp, S* sum_to_activity,
                     int64_t count);
    void (*gated_forward)(NetworkKind, const GatedStep<S>&, int64_t begin, int64_t end);
    void (*gated_backward)(NetworkKind, const GatedStepGrad<S>&, int64_t begin, int64_t end);
    // out[e][r] = row r of a matrix times vectors[e]: rows of `columns` values, next to each other.
    void (*multiply)(const S* matrix, int64_t rows, int64_t columns, const S* const* vectors,
                     S* const* out, int64_t count);
    // out[e] += the sum of the rows r, each times factors[e][r].
    void (*add_rows)(const S* matrix, int64_t rows, int64_t columns, const S* const* factors,
                     S* const* out, int64_t count);
    void (*bandwidth)(const S* a, const S* b, S* c, int64_t count);
};

// The kernels for the best instruction set that this processor and this build have.
template <typename S>
const Kernels<S>& kernels();

}  // namespace plastikern
