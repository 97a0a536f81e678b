// The kernels of the backward pass, as the host knows them.
#pragma once

#include "plan.h"

namespace plastikern::cuda {

template <typename S>
struct BackwardJob {
    Network<S> network;
    Gradients<S> gradients;
    Plan plan;
    BackwardLayout layout;
    S* scratch;
    int64_t first,
        last;  // units, from the last to the first; -1 is what comes back to the first state
};

template <typename S>
using BackwardKernel = void (*)(BackwardJob<S>);
template <typename S>
BackwardKernel<S> backward_kernel(const Network<S>&);

// to[i] = the sum of parts[p * distance + i] over the parts, in their order.
template <typename S>
struct SumJob {
    const S* parts;
    int64_t count, distance, size;
    S* to;
};
template <typename S>
using SumKernel = void (*)(SumJob<S>);
// One thread for each of `size` sums; or one warp for a single sum over `count` parts of `size`
// values.
template <typename S>
SumKernel<S> sum_of_each();
template <typename S>
SumKernel<S> sum_of_all();

}  // namespace plastikern::cuda
