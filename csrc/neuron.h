// What a neuron makes of its sums. The arithmetic is printed (csrc/generated/neurons.h), from the
// definitions in plastikern/rules/cells.py.
#pragma once

#include <cstdint>

#include "generated/neurons.h"
#include "generated/program.h"

namespace plastikern {

// Calls run with the activity of a neuron by itself, which a softmax is not.
template <class Run>
PLASTIKERN_INLINE void with_activity(Nonlinearity kind, const Run& run) {
#define PLASTIKERN_CASE(name) \
    if (kind == Nonlinearity::name) return run(generated::activity_##name());
    PLASTIKERN_ACTIVITIES(PLASTIKERN_CASE)
#undef PLASTIKERN_CASE
}
template <typename V>
PLASTIKERN_INLINE V activity(Nonlinearity kind, V z) {
    with_activity(kind, [&](auto of) { z = of.template forward<V>({z}).y; });
    return z;
}
// Calls run with the cell of a network with gates.
template <class Run>
PLASTIKERN_INLINE void with_cell(NetworkKind kind, const Run& run) {
#define PLASTIKERN_CASE(name) \
    if (kind == NetworkKind::name) return run(generated::name());
    PLASTIKERN_CELLS(PLASTIKERN_CASE)
#undef PLASTIKERN_CASE
}
PLASTIKERN_INLINE bool gated(NetworkKind kind) {
    bool found = false;
    with_cell(kind, [&](auto) { found = true; });
    return found;
}
// The gradient of z from that of the activity y.
template <typename V>
PLASTIKERN_INLINE V activity_adjoint(Nonlinearity kind, V y, V grad) {
    with_activity(kind, [&](auto of) { grad = of.template adjoint<V>({y, grad}).grad_z; });
    return grad;
}

}  // namespace plastikern
