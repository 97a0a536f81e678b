// The operators of the native library: their schemas, once. Implementations register themselves
// beside their kernels.
#include <torch/csrc/stable/library.h>

#include <string>

#ifndef PLASTIKERN_BUILD_INFO
#define PLASTIKERN_BUILD_INFO "{}"
#endif

// One network, of the kind and with the options that `codes` says: the numbers of KINDS, the rule,
// the constraint, the nonlinearity, an LSTM's post, retroactive modulation, the modulator's input
// and its nonlinearity, as plastikern/ops/fused.py makes them. A missing state is zero; the rate in
// force is rate + rate_scale * M, where a missing rate is 0 and a missing scale 1. Results that a
// network does not have, or that nobody needs, are missing.
#define OPERANDS                                                                                  \
    "Tensor? features, Tensor? hidden, Tensor? cell, Tensor? trace, Tensor? eligibility, Tensor " \
    "weight, Tensor "                                                                             \
    "alpha, "                                                                                     \
    "Tensor? rate, Tensor? rate_scale, Tensor? eligibility_rate, Tensor? modulator_weight, "      \
    "Tensor? modulator_bias, "                                                                    \
    "Tensor? modulated, Tensor? clamp"

// The emulated kernels of the tests have a namespace of their own.
#if defined(PLASTIKERN_EMULATED)
STABLE_TORCH_LIBRARY(plastikern_emulated, m)
#else
STABLE_TORCH_LIBRARY(plastikern, m)
#endif
{
    m.def("build_info() -> str");
    m.def("cpu_capability() -> str");
    m.def("bandwidth(Tensor a, Tensor b, Tensor(c!) c, int repeats) -> ()");
    m.def(
        "explain_cuda(int[] codes, int[] sizes, int scalar_bytes, bool backward, int[] device) -> "
        "str");
    m.def("empty(Tensor like, int[] size) -> Tensor");
    m.def("step(Tensor drive, " OPERANDS
          ", int[] codes, float clip, bool keep) -> (Tensor output, Tensor? cell, Tensor trace, "
          "Tensor? eligibility, "
          "Tensor? history, Tensor? modulators)");
    m.def("advance(Tensor? drive, " OPERANDS
          ", Tensor? lengths, Tensor(a!) output, Tensor(b!)? last_hidden, Tensor(c!)? last_cell, "
          "Tensor(d!)? last_trace, "
          "Tensor(e!)? last_eligibility, Tensor(f!)? history, Tensor(g!)? modulators, Tensor(h!)? "
          "checkpoints, "
          "Tensor(i!)? lost, Tensor(j!) memory, int[] codes, float clip, int checkpoint_every, int "
          "k) -> ()");
    m.def("sequence(Tensor drive, " OPERANDS
          ", Tensor? lengths, int[] codes, float clip, bool batch_first, int checkpoint_every, "
          "bool reversible) -> "
          "(Tensor output, "
          "Tensor? hidden, Tensor? cell, Tensor trace, Tensor? eligibility, Tensor? history, "
          "Tensor? modulators, "
          "Tensor? checkpoints, Tensor? lost)");
    m.def(
        "sequence_backward(Tensor? grad_output, Tensor? grad_hidden, Tensor? grad_cell, Tensor? "
        "grad_trace, Tensor? "
        "grad_eligibility, Tensor output, Tensor? history, Tensor? modulators, Tensor? "
        "checkpoints, Tensor? "
        "lost, Tensor? trace_out, Tensor? eligibility_out, " OPERANDS
        ", Tensor? lengths, int[] codes, float clip, bool batch_first, int checkpoint_every, bool "
        "reversible, int "
        "needs) -> (Tensor drive, Tensor? sum, Tensor? features, Tensor? hidden, Tensor? cell, "
        "Tensor? trace, Tensor? "
        "eligibility, Tensor? alpha, Tensor? rate, Tensor? rate_scale, Tensor? eligibility_rate, "
        "Tensor? modulator)");
}

#if !defined(PLASTIKERN_EMULATED)
namespace {

std::string build_info() { return PLASTIKERN_BUILD_INFO; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) {
    m.impl("build_info", TORCH_BOX(&build_info));
}
#endif
