// The operators of the native library: their schemas, once. Implementations register themselves beside their kernels.
#include <torch/csrc/stable/library.h>

#include <string>

#ifndef PLASTIKERN_BUILD_INFO
#define PLASTIKERN_BUILD_INFO "{}"
#endif

namespace {

std::string build_info() { return PLASTIKERN_BUILD_INFO; }

}  // namespace

// Rules, constraints and nonlinearities are passed as the numbers of the enums in plasticity.h; a missing hidden state
// or trace is zero. `checkpoint_every` 0 keeps no checkpoints. Sizes: see the functions that call them,
// plastikern/ops/rnn.py.
STABLE_TORCH_LIBRARY(plastikern, m) {
    m.def("build_info() -> str");
    m.def("cpu_capability() -> str");
    m.def("bandwidth(Tensor a, Tensor b, Tensor(c!) c, int repeats) -> ()");
    m.def(
        "rnn_step(Tensor drive, Tensor? hidden, Tensor? trace, Tensor weight, Tensor alpha, Tensor eta, Tensor? clamp, "
        "int rule, int constraint, float clip, int nonlinearity) -> (Tensor hidden, Tensor trace)");
    m.def(
        "rnn_sequence(Tensor drive, Tensor? hidden, Tensor? trace, Tensor weight, Tensor alpha, Tensor eta, Tensor? "
        "clamp, "
        "Tensor? lengths, int rule, int constraint, float clip, int nonlinearity, bool batch_first, int "
        "checkpoint_every) -> "
        "(Tensor output, Tensor hidden, Tensor trace, Tensor checkpoints)");
    m.def(
        "rnn_sequence_backward(Tensor? grad_output, Tensor? grad_hidden, Tensor? grad_trace, Tensor output, Tensor? "
        "hidden, "
        "Tensor? trace, Tensor trace_out, Tensor checkpoints, Tensor weight, Tensor alpha, Tensor eta, Tensor? clamp, "
        "Tensor? lengths, int rule, int constraint, float clip, int nonlinearity, bool batch_first, int "
        "checkpoint_every, "
        "bool reversible, bool needs_trace, bool needs_weight, bool needs_alpha, bool needs_eta) -> "
        "(Tensor drive, Tensor hidden, Tensor trace, Tensor weight, Tensor alpha, Tensor eta)");
}

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) { m.impl("build_info", TORCH_BOX(&build_info)); }
