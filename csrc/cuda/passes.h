// Both passes of a plastic network on a CUDA device, as the host calls them. Knows neither torch nor CUDA's headers.
#pragma once

#include "plan.h"

namespace plastikern::cuda {

// The current device.
Device device();

// Both work in plan.scratch_bytes bytes of the device's memory, on a CUDA stream, and return before the work is done.
// std::runtime_error: the device refused, and why.
template <typename S>
void forward(const Network<S>&, const Outputs<S>&, const Plan&, void* scratch, void* stream);
template <typename S>
void backward(const Network<S>&, const Gradients<S>&, const Plan&, void* scratch, void* stream);

}  // namespace plastikern::cuda
