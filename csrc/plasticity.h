// What one synapse does, forward and adjoint: the only place where the arithmetic of a rule is
// written.
//
// Everything is a template over the value type V: a vector of lanes on the CPU, a scalar on the
// GPU. V needs + - * and comparisons that `?:` takes. Symbols: trace H, pre x, post p, rate r.
//
//   rule         the change c = r d of a trace; d is p x (hebb) or p (x - p H) (oja)
//   constraint   the next trace H' from H and c, and what the forward pass reads of a trace
//   eligibility  a second trace E, which takes the increments d, while H takes what E held before:
//   c = r E
//
// Adjoints take the gradient of a result and give those of its arguments; `trace_adjoint` adds to
// the one it is given. Kernels are templates over both types. One more rule or constraint is one
// more struct here, its place in the list `Rules` or `Constraints` below, its name in the same
// place of plastikern/plasticity.py, and its line in plastikern/reference.py.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define PLASTIKERN_INLINE __host__ __device__ __forceinline__
#else
#define PLASTIKERN_INLINE inline __attribute__((always_inline))
#endif

namespace plastikern {

// Numbers as in plastikern/plasticity.py: LINEAR_NONLINEARITIES.
enum class Nonlinearity : int64_t { tanh, relu, sigmoid, identity, softmax };

// Sums over the synapses of one post-synaptic neuron, from which a rule's `finish` makes the
// gradients of post and rate. Where the rate belongs to the neuron it is multiplied once, there;
// where it belongs to the synapse, `accumulate` is given gradients that are already multiplied by
// it and `finish` a rate of 1.
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
    static PLASTIKERN_INLINE V trace_adjoint(V grad_trace, V /*grad_change*/, V /*post*/,
                                             V /*rate*/) {
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
    static PLASTIKERN_INLINE void finish(RowSums<S> sums, S post, S rate, S& grad_post,
                                         S& grad_rate) {
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
    static PLASTIKERN_INLINE void finish(RowSums<S> sums, S post, S rate, S& grad_post,
                                         S& grad_rate) {
        grad_post = rate * (sums.with_pre - S(2) * post * sums.with_trace);
        grad_rate = post * (sums.with_pre - post * sums.with_trace);
    }
};

// Gradients of what a constraint takes. `rate` is the part beside the change: only the rule `decay`
// has one.
template <typename V>
struct ConstraintGrad {
    V trace, change, rate;
};

template <typename V>
PLASTIKERN_INLINE V clamped(V value, V bound) {
    V above = value < -bound ? -bound : value;
    return above > bound ? bound : above;
}

// The gradient of `clamped` passes inside the bounds, the bounds included, as that of torch.clamp:
// where nothing changes.
template <typename V>
PLASTIKERN_INLINE V clamped_adjoint(V value, V bound, V grad) {
    return clamped(value, bound) == value ? grad : V{};
}

struct ReadsAsIs {
    static constexpr bool has_rate = false;
    // Whether a step may lose what the trace was before it.
    static constexpr bool loses = false;

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
    // The trace before the step from the one after it.
    template <typename V>
    static PLASTIKERN_INLINE V reverse(V next, V change, V /*inverse*/, V /*rest*/) {
        return next - change;
    }
    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V /*rate*/, V /*bound*/) {
        return trace + change;
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V /*trace*/, V /*change*/, V /*rate*/,
                                                       V /*bound*/, V grad) {
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
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V trace, V /*change*/, V rate, V /*bound*/,
                                                       V grad) {
        return {(1 - rate) * grad, grad, -(trace * grad)};
    }
    // The trace before the step from the one after it. `inverse` is 1 / (1 - rate) as far as V
    // holds it and `rest` what is missing: without it every step would err in the same direction,
    // and hundreds of steps would add up.
    template <typename V>
    static PLASTIKERN_INLINE V reverse(V next, V change, V inverse, V rest) {
        V before = next - change;
        return before * rest + before * inverse;
    }
};

// Where a step does not reach the bounds, it is one of `None`.
struct Clip : ReadsAsIs {
    static constexpr bool loses = true;

    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V /*rate*/, V bound) {
        return clamped(trace + change, bound);
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V trace, V change, V /*rate*/, V bound,
                                                       V grad) {
        V inside = clamped_adjoint(trace + change, bound, grad);
        return {inside, inside, V{}};
    }
};

// max(c, 0)(1 - H) + min(c, 0)(1 + H) = c (1 - sign(c) H), whose derivative at c = 0 is 1. A trace
// on a bound stays there exactly: rounding does not decide whether its gradient passes.
struct SoftClip : ReadsAsIs {
    template <typename V>
    static PLASTIKERN_INLINE V towards(V trace, V change) {
        V positive = change > V{} ? trace : V{};
        return change < V{} ? -trace : positive;
    }
    template <typename V>
    static PLASTIKERN_INLINE V unbounded(V trace, V change) {
        return trace + change * (1 - towards(trace, change));
    }
    template <typename V>
    static PLASTIKERN_INLINE V apply(V trace, V change, V /*rate*/, V /*bound*/) {
        return clamped(unbounded(trace, change), V{} + 1);
    }
    template <typename V>
    static PLASTIKERN_INLINE ConstraintGrad<V> adjoint(V trace, V change, V /*rate*/, V /*bound*/,
                                                       V grad) {
        V size = change < V{} ? -change : change;
        V inside = clamped_adjoint(unbounded(trace, change), V{} + 1, grad);
        return {inside - size * inside, inside - towards(trace, change) * inside, V{}};
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

// A rule and a constraint are numbered by their places: as in plastikern/plasticity.py, RULES and
// CONSTRAINTS.
template <class... Types>
struct List {
    static constexpr int64_t size = sizeof...(Types);
};
using Rules = List<Hebb, Oja>;
using Constraints = List<Decay, Clip, SoftClip, ClipOnRead, None>;

template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

// The rule oja decays by itself.
template <class R, class C>
constexpr bool compatible = !(same<R, Oja> && same<C, Decay>);
// The rule and constraint by which the traces before a step follow from those after it: themselves;
// `None` for `Clip`, where nothing was lost; void where they do not follow.
template <class R, class C>
struct Reversed {
    using Constraint = void;
};
template <>
struct Reversed<Hebb, Decay> {
    using Constraint = Decay;
};
template <>
struct Reversed<Hebb, Clip> {
    using Constraint = None;
};
template <>
struct Reversed<Hebb, ClipOnRead> {
    using Constraint = ClipOnRead;
};
template <>
struct Reversed<Hebb, None> {
    using Constraint = None;
};

// Calls run with a null pointer to the type of that number; on the host only.
template <class... Types, class Run>
inline __attribute__((always_inline)) void with_type(List<Types...>, int64_t number, Run run) {
    int64_t place = 0;
    ((place++ == number ? run(static_cast<Types*>(nullptr)) : void()), ...);
}
// The same for a rule and a constraint, where they go together.
template <class Run>
inline __attribute__((always_inline)) void with_types(int64_t rule, int64_t constraint, Run run) {
    with_type(Rules(), rule, [&]<class R>(R*) {
        with_type(Constraints(), constraint, [&]<class C>(C*) {
            if constexpr (compatible<R, C>) run(static_cast<R*>(nullptr), static_cast<C*>(nullptr));
        });
    });
}

// The traces of one synapse, or their gradients; the rates at which they change, or theirs.
template <typename V>
struct Traces {
    V trace{}, eligibility{};
};

template <typename V>
struct SynapseGrad {
    Traces<V> before;    // of the traces before the step
    V change, pre;       // of what the rule changes, its rate included; of pre
    V rate{}, fading{};  // of the rate in force and of the eligibility's, as far as they come not
                         // through the rule
};

// One synapse: a rule, a constraint, and whether an eligibility trace stands between them. The rule
// then changes E, at E's own rate, and fades it by as much: E' = E + r_E (d - E).
template <class R, class C, bool kEligible>
struct Synapse {
    using Rule = R;
    using Constraint = C;
    static constexpr bool eligible = kEligible;
    // Whether the rate in force has a gradient beside the one through the rule.
    static constexpr bool has_rate = kEligible || C::has_rate;

    // The rate of what the rule changes.
    template <typename V>
    static PLASTIKERN_INLINE V rule_rate(Traces<V> rates) {
        return kEligible ? rates.eligibility : rates.trace;
    }
    template <typename V>
    static PLASTIKERN_INLINE V change(Traces<V> before, V pre, V post, Traces<V> rates) {
        return kEligible ? rates.trace * before.eligibility
                         : R::change(before.trace, pre, post, rates.trace);
    }
    template <typename V>
    static PLASTIKERN_INLINE Traces<V> next(Traces<V> before, V pre, V post, Traces<V> rates,
                                            V bound) {
        Traces<V> after;
        after.trace = C::apply(before.trace, change(before, pre, post, rates), rates.trace, bound);
        if constexpr (kEligible) {
            const V fading = (1 - rates.eligibility) * before.eligibility;
            after.eligibility = fading + R::change(before.trace, pre, post, rates.eligibility);
        }
        return after;
    }
    template <typename V>
    static PLASTIKERN_INLINE SynapseGrad<V> adjoint(Traces<V> before, V pre, V post,
                                                    Traces<V> rates, V bound, Traces<V> grad) {
        const V changed = change(before, pre, post, rates);
        const ConstraintGrad<V> through =
            C::adjoint(before.trace, changed, rates.trace, bound, grad.trace);
        SynapseGrad<V> out;
        out.rate = through.rate;
        out.change = through.change;
        if constexpr (kEligible) {
            out.rate += through.change * before.eligibility;
            out.change = grad.eligibility;
            out.fading = -(grad.eligibility * before.eligibility);
            out.before.eligibility =
                through.change * rates.trace + (1 - rates.eligibility) * grad.eligibility;
        }
        out.before.trace = R::trace_adjoint(through.trace, out.change, post, rule_rate(rates));
        out.pre = R::pre_adjoint(out.change, post, rule_rate(rates));
        return out;
    }
};

}  // namespace plastikern
