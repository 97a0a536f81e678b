// What one synapse does, forward and adjoint: the only place where the arithmetic of a rule is written.
//
// Everything is a template over the value type V: a vector of lanes on the CPU, a scalar on the GPU. V needs + - * and
// comparisons that `?:` takes. Symbols: trace H, pre x, post p, rate r.
//
//   rule         the change c = r d of a trace; d is p x (hebb) or p (x - p H) (oja)
//   constraint   the next trace H' from H and c, and what the forward pass reads of a trace
//
// Adjoints take the gradient of a result and give those of its arguments; `trace_adjoint` adds to the one it is given.
// Kernels are templates over both types. One more constraint is one more struct and number here, its name in
// plastikern/plasticity.py and its line in plastikern/reference.py, its case in cpu/connection_kernels.cpp, and the
// range that cpu/ops.cpp checks.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PLASTIKERN_INLINE __host__ __device__ __forceinline__
#else
#define PLASTIKERN_INLINE inline __attribute__((always_inline))
#endif

namespace plastikern {

// Numbers as in plastikern/plasticity.py: RULES, CONSTRAINTS, NONLINEARITIES.
enum class RuleKind : int64_t { hebb, oja };
enum class ConstraintKind : int64_t { decay, clip, soft_clip, clip_on_read, none };
enum class Nonlinearity : int64_t { tanh, relu, sigmoid, identity };

// Sums over the synapses of one post-synaptic neuron, from which a rule's `finish` makes the gradients of post and
// rate. Where the rate belongs to the neuron it is multiplied once, there; where it belongs to the synapse,
// `accumulate` is given gradients that are already multiplied by it and `finish` a rate of 1.
template <typename V>
struct RowSums {
    V with_pre{}, with_trace{};
};

struct Hebb {
    template <typename V>
    static PLASTIKERN_INLINE V change(V /*trace*/, V pre, V post, V rate) {
        return (rate * post) * pre;
    }
    template <typename V>
    static PLASTIKERN_INLINE V trace_adjoint(V grad_trace, V /*grad_change*/, V /*post*/, V /*rate*/) {
        return grad_trace;
    }
    template <typename V>
    static PLASTIKERN_INLINE V pre_adjoint(V grad_change, V post, V rate) {
        return grad_change * (rate * post);
    }
    template <typename V>
    static PLASTIKERN_INLINE void accumulate(RowSums<V>& sums, V /*trace*/, V pre, V grad_change) {
        sums.with_pre += grad_change * pre;
    }
    template <typename S>
    static PLASTIKERN_INLINE void finish(RowSums<S> sums, S post, S rate, S& grad_post, S& grad_rate) {
        grad_post = rate * sums.with_pre;
        grad_rate = post * sums.with_pre;
    }
};

struct Oja {
    template <typename V>
    static PLASTIKERN_INLINE V change(V trace, V pre, V post, V rate) {
        return (rate * post) * (pre - post * trace);
    }
    template <typename V>
    static PLASTIKERN_INLINE V trace_adjoint(V grad_trace, V grad_change, V post, V rate) {
        return grad_trace - grad_change * (rate * post * post);
    }
    template <typename V>
    static PLASTIKERN_INLINE V pre_adjoint(V grad_change, V post, V rate) {
        return grad_change * (rate * post);
    }
    template <typename V>
    static PLASTIKERN_INLINE void accumulate(RowSums<V>& sums, V trace, V pre, V grad_change) {
        sums.with_pre += grad_change * pre;
        sums.with_trace += grad_change * trace;
    }
    template <typename S>
    static PLASTIKERN_INLINE void finish(RowSums<S> sums, S post, S rate, S& grad_post, S& grad_rate) {
        grad_post = rate * (sums.with_pre - S(2) * post * sums.with_trace);
        grad_rate = post * (sums.with_pre - post * sums.with_trace);
    }
};

// Gradients of what a constraint takes. `rate` is the part beside the change: only the rule `decay` has one.
template <typename V>
struct ConstraintGrad {
    V trace, change, rate;
};

template <typename V>
PLASTIKERN_INLINE V clamped(V value, V bound) {
    V above = value < -bound ? -bound : value;
    return above > bound ? bound : above;
}

// The gradient of `clamped` passes inside the bounds, the bounds included, as that of torch.clamp.
template <typename V>
PLASTIKERN_INLINE V clamped_adjoint(V value, V bound, V grad) {
    V above = value < -bound ? V{} : grad;
    return value > bound ? V{} : above;
}

struct ReadsAsIs {
    static constexpr bool has_rate = false;

    template <typename V>
    static PLASTIKERN_INLINE V read(V trace, V /*bound*/) {
        return trace;
    }
    template <typename V>
    static PLASTIKERN_INLINE V read_adjoint(V /*trace*/, V /*bound*/, V grad) {
        return grad;
    }
};

struct None : ReadsAsIs {
    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V /*rate*/, V /*bound*/) {
        return trace + change;
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V /*trace*/, V /*change*/, V /*rate*/, V /*bound*/, V grad) {
        return {grad, grad, V{}};
    }
};

struct Decay : ReadsAsIs {
    static constexpr bool has_rate = true;

    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V rate, V /*bound*/) {
        return (1 - rate) * trace + change;
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V trace, V /*change*/, V rate, V /*bound*/, V grad) {
        return {(1 - rate) * grad, grad, -(trace * grad)};
    }
    // The trace before the step from the one after it. `inverse` is 1 / (1 - rate) as far as V holds it and `rest` what
    // is missing: without it every step would err in the same direction, and hundreds of steps would add up.
    template <typename V>
    static PLASTIKERN_INLINE V reverse(V next, V change, V inverse, V rest) {
        V before = next - change;
        return before * rest + before * inverse;
    }
};

struct Clip : ReadsAsIs {
    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V /*rate*/, V bound) {
        return clamped(trace + change, bound);
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V trace, V change, V /*rate*/, V bound, V grad) {
        V inside = clamped_adjoint(trace + change, bound, grad);
        return {inside, inside, V{}};
    }
};

// max(c, 0)(1 - H) + min(c, 0)(1 + H) = c - |c| H, whose derivative at c = 0 is 1.
struct SoftClip : ReadsAsIs {
    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V /*rate*/, V /*bound*/) {
        V size = change < V{} ? -change : change;
        return clamped(trace + change - size * trace, V{} + 1);
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V trace, V change, V /*rate*/, V /*bound*/, V grad) {
        V size = change < V{} ? -change : change;
        V inside = clamped_adjoint(trace + change - size * trace, V{} + 1, grad);
        V towards = change > V{} ? trace : V{};
        V signed_trace = change < V{} ? -trace : towards;
        return {inside - size * inside, inside - signed_trace * inside, V{}};
    }
};

struct ClipOnRead : None {
    template <typename V>
    static PLASTIKERN_INLINE V read(V trace, V bound) {
        return clamped(trace, bound);
    }
    template <typename V>
    static PLASTIKERN_INLINE V read_adjoint(V trace, V bound, V grad) {
        return clamped_adjoint(trace, bound, grad);
    }
};

}  // namespace plastikern
