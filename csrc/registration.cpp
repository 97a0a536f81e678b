// The operators of the native library: their schemas, once. Implementations register themselves
// beside their kernels.
#include <torch/csrc/stable/library.h>

#include <string>

#ifndef PLASTIKERN_BUILD_INFO
#define PLASTIKERN_BUILD_INFO "{}"
#endif

// Tensors come with their names, of the tables in plastikern/program.py, which also says what a
// program's key is. Results are those that there are. (A list Tensor?[] would show what is missing,
// but torch looks for requires_grad, and for negations to be computed, in Tensor[] only.)
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
        "explain_cuda(str program, int[] sizes, int scalar_bytes, bool backward, int[] device) -> "
        "str");
    m.def("empty(Tensor like, int[] size) -> Tensor");
    m.def("step(Tensor[] tensors, str names, str program, float clip, bool keep) -> Tensor[]");
    m.def(
        "advance(Tensor[] tensors, str names, Tensor(a!)[] written, str program, float clip, int "
        "checkpoint_every, int k) -> ()");
    m.def(
        "sequence(Tensor[] tensors, str names, str program, float clip, bool batch_first, int "
        "checkpoint_every, bool reversible) -> Tensor[]");
    m.def(
        "sequence_backward(Tensor[] tensors, str names, str program, "
        "float clip, bool batch_first, int checkpoint_every, str wanted) -> Tensor[]");
}

#if !defined(PLASTIKERN_EMULATED)
namespace {

std::string build_info() { return PLASTIKERN_BUILD_INFO; }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) {
    m.impl("build_info", TORCH_BOX(&build_info));
}
#endif
