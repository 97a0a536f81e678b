// The kernels of the forward pass, as the host knows them.
#pragma once

#include "plan.h"

namespace plastikern::cuda {

template <typename S>
struct ForwardJob {
    Network<S> network;
    Outputs<S> out;
    Plan plan;
    ForwardLayout layout;
    S* scratch;
    int64_t first, last;  // units
};

template <typename S>
using ForwardKernel = void (*)(ForwardJob<S>);
template <typename S>
ForwardKernel<S> forward_kernel(const Network<S>&);

}  // namespace plastikern::cuda
