// Both passes of a plastic network on a CUDA device, as the host calls them. Knows neither torch
// nor CUDA's headers.
#pragma once

#include <stdexcept>

#include "plan.h"

namespace plastikern::cuda {

// The current device.
Device device();

// Whether what goes to a CUDA stream is captured in a graph.
bool captures(void* stream);

// The device cannot hold all blocks of a cooperative launch at once, as in a green context or
// beside other clients of MPS. Nothing has been computed: the pass can be planned again for a
// device that is not cooperative.
struct NotResident : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Both work in plan.scratch_bytes bytes of the device's memory, on a CUDA stream, and return before
// the work is done. NotResident, or std::runtime_error: the device refused, and why.
template <typename S>
void forward(const Network<S>&, const Outputs<S>&, const Plan&, void* scratch, void* stream);
template <typename S>
void backward(const Network<S>&, const Gradients<S>&, const Plan&, void* scratch, void* stream);

}  // namespace plastikern::cuda
