// What a block of either pass knows: its place in the plan, the parameters of its rows, the traces
// that it works on.
#pragma once

#include "../update.h"
#include "device.h"
#include "plan.h"

namespace plastikern::cuda {

using arithmetic::fused;

// A row of the table in update.h: a change, that of rows that change at once where others have
// eligibility traces, and a read.
template <class UpdateOf, class AtOnceOf, class ReadOf>
struct Rule {
    using Update = UpdateOf;
    using AtOnce = AtOnceOf;
    using Read = typename ReadOf::by_synapse;
};
template <class Update, typename S>
using States = typename Update::template States<S>;
template <class Update, typename S>
using Given = typename Update::template Coefficients<S>;
template <class Update>
constexpr int kStates = sizeof(States<Update, float>) / sizeof(float);
template <class Update>
constexpr bool kEligible = kStates<Update> == 2;
// Whether a change sums over its row inside: see row_passes.cuh.
template <class Rule>
constexpr bool kSumsInside =
    most(Rule::Update::by_row::passes, Rule::Update::by_synapse::passes,
         Rule::AtOnce::by_row::passes, Rule::AtOnce::by_synapse::passes) > 0;

// Columns that a lane has under way at once.
constexpr int kColumns = 2;

template <class Run>
__device__ __forceinline__ void for_threads(int64_t count, Run run) {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) run(i);
}

struct Position {
    int64_t group, rank, first_row;
    int rows, lane, warp, warps;

    __device__ __forceinline__ Position(const Plan& plan, int64_t posts)
        : group(blockIdx.x / plan.share),
          rank(blockIdx.x % plan.share),
          first_row(rank * plan.rows),
          rows(static_cast<int>(posts - first_row < plan.rows ? posts - first_row : plan.rows)),
          lane(threadIdx.x % kLanes),
          warp(threadIdx.x / kLanes),
          warps(blockDim.x / kLanes) {}
    // Elements [first, last) of a wave.
    __device__ __forceinline__ void elements(const Plan& plan, int64_t wave, int64_t batch,
                                             int64_t& first, int64_t& last) const {
        first = (wave * plan.groups + group) * plan.together;
        last = first + plan.together < batch ? first + plan.together : batch;
    }
    // A warp's rows, `at_once` of them together: for (row = first_of_warp(); row < rows; row +=
    // stride()).
    __device__ __forceinline__ int first_of_warp() const { return warp * static_cast<int>(kRows); }
    __device__ __forceinline__ int stride() const { return warps * static_cast<int>(kRows); }
    __device__ __forceinline__ int at_once(int row) const {
        return rows - row < static_cast<int>(kRows) ? rows - row : static_cast<int>(kRows);
    }
    // After `sums_of_two`: which of the rows a lane knows the sum of, and whether it is the one to
    // tell.
    __device__ __forceinline__ int row_of_lane() const { return lane / (kLanes / 2); }
    __device__ __forceinline__ bool tells(int count) const {
        return lane % (kLanes / 2) == 0 && row_of_lane() < count;
    }
};

template <typename S>
__device__ __forceinline__ TraceRows<S> below(TraceRows<S> all, int64_t row) {
    all.trace += row * all.stride;
    if (all.eligibility != nullptr) all.eligibility += row * all.eligibility_stride;
    return all;
}

// The parameters of a block's rows, which count from 0, in global memory or on the chip.
template <typename S>
struct BlockParameters {
    Coefficients<S> weight, alpha, rate, rate_scale, eligibility_rate;
    bool alpha_per_synapse, rates_per_synapse, modulated;
    bool gated, most_gates;  // some recurrent sums beside the plastic one; as many as there are
    const S* gates[kMostOthers];  // rows of I values
    const bool* eligible_rows;
    int64_t pres;

    __device__ __forceinline__ BlockParameters(const Network<S>& n, const Plan& plan,
                                               const BlockLayout& layout, S* chip,
                                               const Position& at)
        : weight(n.connection.weight),
          alpha(n.connection.alpha),
          rate(n.connection.rate),
          rate_scale(n.connection.rate_scale),
          eligibility_rate(n.connection.eligibility_rate),
          alpha_per_synapse(n.connection.layout != Layout::per_neuron),
          rates_per_synapse(n.connection.layout == Layout::per_synapse),
          modulated(n.modulator),
          gated(n.has_gates()),
          most_gates(n.others() == kMostOthers),
          gates{},
          eligible_rows(n.modulated == nullptr ? nullptr : n.modulated + at.first_row),
          pres(n.pres) {
        weight.data = weight.row(at.first_row);
        alpha.data = alpha.row(at.first_row);
        if (rate.data != nullptr) rate.data = rate.row(at.first_row);
        if (rate_scale.data != nullptr) rate_scale.data = rate_scale.row(at.first_row);
        if (eligibility_rate.data != nullptr)
            eligibility_rate.data = eligibility_rate.row(at.first_row);
        for_others([&](int gate) {
            gates[gate] = n.gates + (block_of(gate) * n.posts + at.first_row) * pres;
        });
        if (!plan.parameters_on_chip) return;
        const int64_t count = at.rows * pres;
        S *weights = chip + layout.weight, *alphas = chip + layout.alpha;
        S* of_gates = chip + layout.gates;
        for_threads(count, [&](int64_t i) {
            weights[i] = weight.data[i];
            if (alpha_per_synapse) alphas[i] = alpha.data[i];
            for_others([&](int gate) { of_gates[gate * count + i] = gates[gate][i]; });
        });
        weight.data = weights;
        if (alpha_per_synapse) alpha.data = alphas;
        for_others([&](int gate) { gates[gate] = of_gates + gate * count; });
        __syncthreads();
    }
    // Each by a number that is known at compilation: an array with another index would lie in local
    // memory, and what lies beside it, too.
    template <class Run>
    __device__ __forceinline__ void for_others(const Run& run) const {
        if (!gated) return;
#pragma unroll
        for (int gate = 0; gate < kMostOthers; ++gate) {
            if (gate < kFewestOthers || most_gates) run(gate);
        }
    }
    __device__ __forceinline__ bool eligible(int row) const {
        return eligible_rows == nullptr || eligible_rows[row];
    }
    // The coefficients of a row, or of its synapse i, under the modulator m.
    template <class Update>
    __device__ __forceinline__ Given<Update, S> coefficients(int row, int i, S m) const {
        const S offset = rate.data == nullptr ? S(0) : rate.row(row)[i];
        Given<Update, S> found;
        found.r = modulated ? fused(scale(row, i), m, offset) : offset;
        if constexpr (kEligible<Update>) found.eta = eligibility_rate.row(row)[i];
        return found;
    }
    __device__ __forceinline__ S scale(int row, int i) const {
        return rate_scale.data == nullptr ? S(1) : rate_scale.row(row)[i];
    }
};

// The values of a row that its synapses share, in the text by synapse of its change. Nothing is
// kept where they follow from the post and the bound alone.
template <class Rule, typename S, bool kKept = kSumsInside<Rule>>
struct RowValues {
    template <class Changed>
    __device__ __forceinline__ auto of(S post, S bound, S count, const Given<Changed, S>& given) {
        return Changed::by_synapse::row(post, bound, count, given);
    }
};
template <class Rule, typename S>
struct RowValues<Rule, S, true> {
    typename Rule::Update::by_synapse::template Row<S> update;
    typename Rule::AtOnce::by_synapse::template Row<S> at_once;

    template <class Changed>
    __device__ __forceinline__ auto& kept() {
        if constexpr (same<Changed, typename Rule::Update>) {
            return update;
        } else {
            return at_once;
        }
    }
    template <class Changed>
    __device__ __forceinline__ auto& of(S, S, S, const Given<Changed, S>&) {
        return kept<Changed>();
    }
};

// The states after a step. By synapse, whatever coefficients belong to: a choice at run time costs
// more than what is computed once a row would save. Where some rows have no eligibility traces,
// their traces change at once, and their E stays.
template <class Rule, typename S>
__device__ __forceinline__ States<typename Rule::Update, S> next(
    bool eligible, States<typename Rule::Update, S> before, S pre, S post, S bound, S count,
    const Given<typename Rule::Update, S>& given, RowValues<Rule, S>& values) {
    using Update = typename Rule::Update;
    using AtOnce = typename Rule::AtOnce;
    if constexpr (kEligible<Update>) {
        if (!eligible) {
            const Given<AtOnce, S> rate{given.r};
            before.H =
                AtOnce::by_synapse::next(values.template of<AtOnce>(post, bound, count, rate),
                                         {before.H}, pre, rate)
                    .H;
            return before;
        }
    }
    return Update::by_synapse::next(values.template of<Update>(post, bound, count, given), before,
                                    pre, given);
}

// One row of traces, or of their gradients; null: nobody wants them.
template <class Update, typename S>
struct TraceRow {
    using Values = States<Update, std::remove_const_t<S>>;
    S* rows[kStates<Update>];

    __device__ __forceinline__ TraceRow(const TraceRows<S>& all, int row) {
        rows[0] = all.row(row);
        if constexpr (kEligible<Update>) rows[1] = all.eligibility_row(row);
    }
    __device__ __forceinline__ Values load(int i) const {
        Values found;
        Update::states([&](int state, auto& value) { value = rows[state][i]; }, found);
        return found;
    }
    __device__ __forceinline__ void store(int i, const Values& values) const {
        Update::states(
            [&](int state, const auto& value) {
                if (rows[state] != nullptr) rows[state][i] = value;
            },
            values);
    }
};

// Where the traces of a block's rows lie in tensors (B, O, I).
template <typename S, typename T>
__device__ __forceinline__ TraceRows<T> rows_of_tensors(const Network<S>& n, T* trace,
                                                        T* eligibility, T* zeros, int64_t b,
                                                        const Position& at) {
    return below(tensor_traces<S, T>(n, trace, eligibility, zeros, b), at.first_row);
}

template <class Update, typename S>
__device__ __forceinline__ void copy_traces(const TraceRows<const S>& from, const TraceRows<S>& to,
                                            int64_t pres, const Position& at) {
    for_threads(at.rows * pres, [&](int64_t i) {
        const int row = static_cast<int>(i / pres), column = static_cast<int>(i % pres);
        TraceRow<Update, S>(to, row).store(column,
                                           TraceRow<Update, const S>(from, row).load(column));
    });
}

}  // namespace plastikern::cuda
