// The passes of a warp over a row whose change sums over it inside, before the one that runs the
// next states or the adjoint. The change runs the text by synapse, whatever coefficients belong to:
// its values of a row serve next states and adjoint alike. All lanes have the same values.
#pragma once

#include "block.cuh"

namespace plastikern::cuda {

// Calls run(Update()), or run(AtOnce()) for a row without eligibility traces among others with
// them.
template <class Rule, class Run>
__device__ __forceinline__ void with_change(bool eligible, const Run& run) {
    if constexpr (kEligible<typename Rule::Update>) {
        if (!eligible) {
            run(typename Rule::AtOnce());
            return;
        }
    }
    run(typename Rule::Update());
}

// Of one row at one step, by `pre` under the modulator m, from `traces` before it.
template <class Rule, typename S>
struct RowPasses {
    const BlockParameters<S>& parameters;
    const int row, lane;
    const TraceRows<const S> traces;
    const S *pre, m;

    // The values of which next states are computed.
    __device__ __forceinline__ void next(RowValues<Rule, S>& values, S post, S bound) const {
        with_change<Rule>(parameters.eligible(row), [&](auto changed) {
            using Changed = decltype(changed);
            using Text = typename Changed::by_synapse;
            auto& kept = values.template kept<Changed>();
            // By synapse, no coefficient is a row's.
            kept = Text::row(post, bound, S(parameters.pres), Given<Changed, S>{});
            if constexpr (Text::passes_of_next > 0) {
                const TraceRow<Changed, const S> before(traces, row);
                gather<Text, 0, Text::passes_of_next>(
                    kept, [&](auto pass, int i, const auto& so_far) {
                        return Text::gather(pass, kept, before.load(i), pre[i], given<Changed>(i),
                                            so_far);
                    });
            }
        });
    }

    // Then those of which the adjoint is computed, from the gradients of the states after the step.
    // `read`, unless null, are the pres by which these are read; what they get back from there is
    // not in `grads` yet.
    __device__ __forceinline__ void adjoint(
        RowValues<Rule, S>& values, const TraceRows<const S>& grads, const S* read,
        const typename Rule::Read::template Row<S>& reading) const {
        with_change<Rule>(parameters.eligible(row), [&](auto changed) {
            using Changed = decltype(changed);
            using Text = typename Changed::by_synapse;
            auto& kept = values.template kept<Changed>();
            if constexpr (Text::passes > Text::passes_of_next) {
                const TraceRow<Changed, const S> before(traces, row), after(grads, row);
                const S *weight = parameters.weight.row(row), *alpha = parameters.alpha.row(row);
                gather<Text, Text::passes_of_next, Text::passes>(kept, [&](auto pass, int i,
                                                                           const auto& so_far) {
                    const auto states = before.load(i);
                    const auto coefficients = given<Changed>(i);
                    auto grad = after.load(i);
                    if (read != nullptr) {
                        const S H = Text::next(kept, states, pre[i], coefficients).H;
                        grad.H = Rule::Read::adjoint(reading, weight[i],
                                                     alpha[parameters.alpha_per_synapse ? i : 0], H,
                                                     read[i], {grad.H, S(0)})
                                     .H;
                    }
                    return Text::gather(pass, kept, states, pre[i], coefficients, grad, so_far);
                });
            }
        });
    }

    // The whole step, its states stored.
    __device__ __forceinline__ void step(const TraceRows<S>& to, S post, S bound) const {
        using Update = typename Rule::Update;
        RowValues<Rule, S> values;
        next(values, post, bound);
        const bool eligible = parameters.eligible(row);
        const TraceRow<Update, const S> before(traces, row);
        const TraceRow<Update, S> after(to, row);
        for (int i = lane; i < static_cast<int>(parameters.pres); i += kLanes)
            after.store(i, cuda::next<Rule, S>(eligible, before.load(i), pre[i], post, bound,
                                               S(parameters.pres), given<Update>(i), values));
    }

   private:
    template <class Changed>
    __device__ __forceinline__ Given<Changed, S> given(int i) const {
        return parameters.template coefficients<Changed>(row, parameters.rates_per_synapse ? i : 0,
                                                         m);
    }
    // The passes [kFirst, kLast): sums of `add(pass, i, so_far)`, and the values that follow.
    template <class Text, int kFirst, int kLast, class Add>
    __device__ __forceinline__ void gather(typename Text::template Row<S>& values,
                                           const Add& add) const {
        for_passes<kFirst, kLast>([&](auto pass) {
            typename Text::template Gathered<S> sums{};
            for (int i = lane; i < static_cast<int>(parameters.pres); i += kLanes)
                sums = add(pass, i, sums);
            Text::gathered([](int, S& sum) { sum = sum_of_lanes(sum); }, sums);
            values = Text::settle(pass, values, sums);
        });
    }
};

// From what each lane has of the sums over some rows, with those of the gradients of coefficients
// from kCoefficients on, to the gradients of each row's post and coefficients, `stride` values
// apart.
template <class Rule, int kCoefficients, typename S, int kSums>
__device__ __forceinline__ void finish_sums(RowValues<Rule, S> (&values)[kRows],
                                            const bool (&eligible)[kRows],
                                            const S (&sums)[kSums][kRows], int count, int lane,
                                            S* to, int64_t stride) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        if (r >= count) continue;
        with_change<Rule>(eligible[r], [&](auto changed) {
            using Changed = decltype(changed);
            using Text = typename Changed::by_synapse;
            typename Text::template Sums<S> totals;
            Text::sums([&](int which, S& sum) { sum = sum_of_lanes(sums[which][r]); }, totals);
            const S grad_post = Text::finish(values[r].template kept<Changed>(), totals).y;
            if (lane == 0) to[r] = grad_post;
        });
#pragma unroll
        for (int which = kCoefficients; which < kSums; ++which) {
            const S sum = sum_of_lanes(sums[which][r]);
            if (lane == 0) to[(1 + which - kCoefficients) * stride + r] = sum;
        }
    }
}

// Those of a row: by row, with the gradients of its coefficients.
template <class Changed, class Text, typename S>
__device__ __forceinline__ auto finished(const S* sums, int64_t stride) {
    typename Text::template Finished<S> found;
    found.y = *sums;
    if constexpr (same<Text, typename Changed::by_row>)
        Changed::coefficients([&](int which, S& grad) { grad = sums[(1 + which) * stride]; },
                              found.coefficients);
    return found;
}

}  // namespace plastikern::cuda
