// The kernels of a plastic connection for one instruction set and one scalar type; compiled once for each.
// Contract in connection.h, arithmetic in ../plasticity.h. What differs between variants is a template parameter.
#include "connection.h"

#include "activation.h"
#include "lanes.h"

namespace {

using namespace plastikern;

template <class R, class C, bool kAlphaPerSynapse, bool kRatePerSynapse>
struct Policy {
    using Rule = R;
    using Constraint = C;
    static constexpr bool alpha_per_synapse = kAlphaPerSynapse;
    static constexpr bool rate_per_synapse = kRatePerSynapse;
    static constexpr bool reversible = std::is_same_v<C, Decay> && std::is_same_v<R, Hebb>;

    static LANES_INLINE V next(V trace, V pre, V post, V rate, V bound) {
        return C::apply(trace, R::change(trace, pre, post, rate), rate, bound);
    }
};

// A row after the other: its streams run straight on into the next row's, which is what hardware prefetchers follow.
// Sums are kept in as many chains as hide the latency of an addition.
constexpr int kForwardChains = 4;

// 1 / (1 - rate) in two parts, for running the rule `decay` backwards. Exact where the compiler fuses multiply and add.
template <typename T>
struct Inverse {
    T value, rest;

    explicit LANES_INLINE Inverse(T rate) : value(1 / (1 - rate)), rest((1 - (1 - rate) * value) * value) {}
};

// A parameter of row j: a vector from memory where it is per synapse, else one number.
template <bool kPerSynapse>
struct Coefficient {
    const S* row;
    V value;

    LANES_INLINE Coefficient(const S* data, int64_t stride, int64_t j) : row(data + j * stride) {
        value = kPerSynapse ? V{} : splat(*row);
    }
    template <class Access>
    LANES_INLINE V at(int64_t i, Access access) const {
        if constexpr (kPerSynapse) {
            return access.load(row + i);
        } else {
            return value;
        }
    }
};

template <class P, bool kUpdate, bool kRead>
void forward_rows(const Connection<S>& c, const ForwardUnit<S>& u, int64_t begin, int64_t end) {
    const V bound = splat(c.bound);
    const S *pre_before_row = u.pre_before, *pre_row = u.pre;
    for (int64_t j = begin; j < end; ++j) {
        const S *weight = c.weight + j * c.weight_stride, *trace_in = u.trace.row(j);
        S* trace_out = u.trace_out.row(j);
        const Coefficient<P::alpha_per_synapse> alpha(c.alpha, c.alpha_stride, j);
        const Coefficient<P::rate_per_synapse> rate(c.rate, c.rate_stride, j);
        const V post = kUpdate ? splat(u.post_before[j]) : V{};
        V sum[kForwardChains] = {};
        for_lanes<kForwardChains>(c.pres, [&](int64_t i, auto access, int chain) __attribute__((always_inline)) {
            V trace = access.load(trace_in + i);
            if constexpr (kUpdate) {
                trace = P::next(trace, access.load(pre_before_row + i), post, rate.at(i, access), bound);
                access.store(trace_out + i, trace);
            }
            if constexpr (kRead) {
                const V effective = access.load(weight + i) + alpha.at(i, access) * P::Constraint::read(trace, bound);
                sum[chain] += effective * access.load(pre_row + i);
            }
        });
        static_assert(kForwardChains == 4);
        if constexpr (kRead) u.sum[j] = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

template <class P, bool kUpdate, bool kRead, bool kReverse>
void backward_rows(const Connection<S>& c, const BackwardUnit<S>& u, int64_t begin, int64_t end) {
    using Rule = typename P::Rule;
    using Constraint = typename P::Constraint;
    const V bound = splat(c.bound);
    const S *pre_before_row = u.pre_before, *pre_row = u.pre;
    S *grad_pre_before_row = u.grad_pre_before, *grad_pre_row = u.grad_pre;
    for (int64_t j = begin; j < end; ++j) {
        const S *weight = c.weight + j * c.weight_stride, *trace_in = u.trace.row(j), *grad_in = u.grad_trace.row(j);
        S *trace_out = u.trace_out.row(j), *grad_out = u.grad_trace_out.row(j);
        S* grad_rate_row = u.grad_rate + (P::rate_per_synapse ? j * c.pres : j);
        const Coefficient<P::alpha_per_synapse> alpha(c.alpha, c.alpha_stride, j);
        const Coefficient<P::rate_per_synapse> rate(c.rate, c.rate_stride, j);
        const V post = kUpdate ? splat(u.post_before[j]) : V{}, grad_sum = kRead ? splat(u.grad_sum[j]) : V{};
        const Inverse<S> row_inverse(kReverse ? *rate.row : S(0));
        const V inverse_value = splat(row_inverse.value), inverse_rest = splat(row_inverse.rest);
        RowSums<V> sums;
        V direct{};
        for_lanes(c.pres, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
            V trace = access.load(trace_in + i), last = trace, change{}, pre_before{};
            const V rate_here = rate.at(i, access);
            if constexpr (kUpdate) {
                pre_before = access.load(pre_before_row + i);
                change = Rule::change(last, pre_before, post, rate_here);
                if constexpr (kReverse) {
                    if constexpr (P::rate_per_synapse) {
                        const Inverse<V> inverse(rate_here);
                        last = Constraint::reverse(trace, change, inverse.value, inverse.rest);
                    } else {
                        last = Constraint::reverse(trace, change, inverse_value, inverse_rest);
                    }
                    access.store(trace_out + i, last);
                } else {
                    trace = Constraint::apply(last, change, rate_here, bound);
                }
            }
            V grad = access.load(grad_in + i);
            if constexpr (kRead) {
                const V alpha_here = alpha.at(i, access);
                const V effective = access.load(weight + i) + alpha_here * Constraint::read(trace, bound);
                access.store(grad_pre_row + i, access.load(grad_pre_row + i) + grad_sum * effective);
                grad += Constraint::read_adjoint(trace, bound, (grad_sum * access.load(pre_row + i)) * alpha_here);
            }
            if constexpr (kUpdate) {
                const ConstraintGrad<V> through = Constraint::adjoint(last, change, rate_here, bound, grad);
                const V before = access.load(grad_pre_before_row + i);
                access.store(grad_pre_before_row + i, before + Rule::pre_adjoint(through.change, post, rate_here));
                grad = Rule::trace_adjoint(through.trace, through.change, post, rate_here);
                if constexpr (P::rate_per_synapse) {
                    Rule::accumulate(sums, last, pre_before, rate_here * through.change);
                    V total = access.load(grad_rate_row + i);
                    total += through.change * Rule::change(last, pre_before, post, splat(1));
                    if constexpr (Constraint::has_rate) total += through.rate;
                    access.store(grad_rate_row + i, total);
                } else {
                    Rule::accumulate(sums, last, pre_before, through.change);
                    if constexpr (Constraint::has_rate) direct += through.rate;
                }
            }
            access.store(grad_out + i, grad);
        });
        if constexpr (kUpdate) {
            const RowSums<S> totals = {sum_of(sums.with_pre), sum_of(sums.with_trace)};
            const S row_rate = P::rate_per_synapse ? S(1) : *rate.row;
            S through_rule;
            Rule::finish(totals, u.post_before[j], row_rate, u.grad_post_before[j], through_rule);
            if constexpr (!P::rate_per_synapse) *grad_rate_row += through_rule + sum_of(direct);
        }
    }
}

template <class P>
void forward(const Connection<S>& c, const ForwardUnit<S>& u, int64_t begin, int64_t end) {
    if (u.pre_before == nullptr) return forward_rows<P, false, true>(c, u, begin, end);
    if (u.pre == nullptr) return forward_rows<P, true, false>(c, u, begin, end);
    forward_rows<P, true, true>(c, u, begin, end);
}

template <class P>
void backward(const Connection<S>& c, const BackwardUnit<S>& u, int64_t begin, int64_t end) {
    if (u.pre_before == nullptr) return backward_rows<P, false, true, false>(c, u, begin, end);
    if constexpr (P::reversible) {
        if (u.reverse && u.pre == nullptr) return backward_rows<P, true, false, true>(c, u, begin, end);
        if (u.reverse) return backward_rows<P, true, true, true>(c, u, begin, end);
    }
    if (u.pre == nullptr) return backward_rows<P, true, false, false>(c, u, begin, end);
    backward_rows<P, true, true, false>(c, u, begin, end);
}

// A block of synapses stays in registers over the whole segment.
template <class P>
void recompute(const Connection<S>& c, const History<S>& h, Rows<S> out, int64_t out_step, int64_t begin, int64_t end) {
    const V bound = splat(c.bound);
    for (int64_t j = begin; j < end; ++j) {
        const S* trace_in = h.trace.row(j);
        S* out_row = out.row(j);
        const Coefficient<P::rate_per_synapse> rate(c.rate, c.rate_stride, j);
        for_lanes(c.pres, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
            const V rate_here = rate.at(i, access);
            V trace = access.load(trace_in + i);
            const S* pre = h.first_pre + i;
            for (int64_t t = 0; t < h.steps; ++t) {
                trace = P::next(trace, access.load(pre), splat(h.post[t * h.post_stride + j]), rate_here, bound);
                access.store(out_row + t * out_step + i, trace);
                pre = h.pre + t * h.pre_stride + i;
            }
        });
    }
}

// The columns that `gradients` treats together: as many vectors as hide the latency of its sums and fit into registers.
constexpr int kTileVectors = 4;
constexpr int64_t kTile = kTileVectors * kLanes;

// Histories of the columns [first_tile, last_tile) * kTile, in the order in which `gradients` reads them: all steps of
// a tile, zeros beyond the last column. In place, every step would touch another page.
void pack_history(int64_t columns, const History<S>* elements, int64_t count, S* packed, int64_t first_tile,
                  int64_t last_tile) {
    S* to = packed + first_tile * kTile * steps_of(elements, count);
    for (int64_t i = first_tile * kTile; i < last_tile * kTile; i += kTile) {
        const int64_t here = columns - i < kTile ? columns - i : kTile;
        for (const History<S>* e = elements; e != elements + count; ++e) {
            for (int64_t t = 0; t < e->steps; ++t, to += kTile) {
                const S* from = (t == 0 ? e->first_pre : e->pre + (t - 1) * e->pre_stride) + i;
                for (int64_t column = 0; column < here; ++column) to[column] = from[column];
                for (int64_t column = here; column < kTile; ++column) to[column] = 0;
            }
        }
    }
}

// A vector of a row of which `remaining` columns are left; lanes beyond them are zero, or stay untouched.
LANES_INLINE V load_upto(const S* from, int64_t remaining) {
    if (remaining >= kLanes) return Whole::load(from);
    return remaining > 0 ? Part(remaining).load(from) : V{};
}
LANES_INLINE void store_upto(S* to, V value, int64_t remaining) {
    if (remaining >= kLanes) return Whole::store(to, value);
    if (remaining > 0) Part(remaining).store(to, value);
}

// Gradients of weight and alpha for one tile of one row: the synapses, their traces and both gradients stay in
// registers over all steps of all elements. `pres` holds the tile's history, `grads` and `posts` the row's. Returns the
// sum of alpha's.
template <class P>
V gradient_tile(const Connection<S>& c, const History<S>* elements, int64_t count, const S* pres, const S* grads,
                const S* posts, int64_t j, int64_t i, const ParameterGradients<S>& out) {
    V weight_grad[kTileVectors] = {}, alpha_grad[kTileVectors] = {}, rate[kTileVectors], trace[kTileVectors];
    const V bound = splat(c.bound);
    const S* rate_row = c.rate + j * c.rate_stride;
    for (int v = 0; v < kTileVectors; ++v) {
        rate[v] =
            P::rate_per_synapse ? load_upto(rate_row + i + v * kLanes, c.pres - i - v * kLanes) : splat(*rate_row);
    }
    for (const History<S>* e = elements; e != elements + count; ++e) {
        const S* trace_row = e->trace.row(j) + i;
        for (int v = 0; v < kTileVectors; ++v) trace[v] = load_upto(trace_row + v * kLanes, c.pres - i - v * kLanes);
        for (int64_t t = 0; t < e->steps; ++t, pres += kTile) {
            const V grad = splat(*grads++), post = splat(*posts++);
#pragma GCC unroll 8
            for (int v = 0; v < kTileVectors; ++v) {
                const V pre = Whole::load(pres + v * kLanes), through = grad * pre;
                weight_grad[v] += through;
                alpha_grad[v] += through * P::Constraint::read(trace[v], bound);
                trace[v] = P::next(trace[v], pre, post, rate[v], bound);
            }
        }
    }
    V alpha_sum{};
    for (int v = 0; v < kTileVectors; ++v) {
        const int64_t at = j * c.pres + i + v * kLanes, remaining = c.pres - i - v * kLanes;
        if (out.weight != nullptr) store_upto(out.weight + at, weight_grad[v], remaining);
        if (P::alpha_per_synapse && out.alpha != nullptr) store_upto(out.alpha + at, alpha_grad[v], remaining);
        alpha_sum += alpha_grad[v];
    }
    return alpha_sum;
}

template <class P>
void gradients(const Connection<S>& c, const History<S>* elements, int64_t count, const ParameterGradients<S>& out,
               int64_t begin, int64_t end) {
    const int64_t steps = steps_of(elements, count);
    S *grads = out.scratch, *posts = grads + kGradientRows * steps;
    for (int64_t first = begin; first < end; first += kGradientRows) {
        const int64_t rows = end - first < kGradientRows ? end - first : kGradientRows;
        int64_t at = 0;
        for (const History<S>* e = elements; e != elements + count; ++e) {
            for (int64_t t = 0; t < e->steps; ++t, ++at) {
                const S *grad_row = e->grad_sum + t * e->grad_stride, *post_row = e->post + t * e->post_stride;
                for (int64_t r = 0; r < rows; ++r) grads[r * steps + at] = grad_row[first + r];
                for (int64_t r = 0; r < rows; ++r) posts[r * steps + at] = post_row[first + r];
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            V alpha_sum{};
            for (int64_t i = 0; i < c.pres; i += kTile) {
                alpha_sum += gradient_tile<P>(c, elements, count, out.pres + i * steps, grads + r * steps,
                                              posts + r * steps, first + r, i, out);
            }
            if (!P::alpha_per_synapse && out.alpha != nullptr) out.alpha[first + r] = sum_of(alpha_sum);
        }
    }
}

// A rate per synapse comes with alpha per synapse only: callers expand alpha, which costs less than a fourth set of
// kernels.
template <class R, class C>
const ConnectionKernels<S>* table(bool alpha_per_synapse, bool rate_per_synapse) {
    using PerNeuron = Policy<R, C, false, false>;
    using PerSynapse = Policy<R, C, true, false>;
    using RatePerSynapse = Policy<R, C, true, true>;
    static constexpr ConnectionKernels<S> all[3] = {
        {forward<PerNeuron>, backward<PerNeuron>, recompute<PerNeuron>, gradients<PerNeuron>},
        {forward<PerSynapse>, backward<PerSynapse>, recompute<PerSynapse>, gradients<PerSynapse>},
        {forward<RatePerSynapse>, backward<RatePerSynapse>, recompute<RatePerSynapse>, gradients<RatePerSynapse>},
    };
    if (rate_per_synapse) return alpha_per_synapse ? &all[2] : nullptr;
    return &all[alpha_per_synapse ? 1 : 0];
}

template <class R>
const ConnectionKernels<S>* table(ConstraintKind constraint, bool alpha_per_synapse, bool rate_per_synapse) {
    switch (constraint) {
        case ConstraintKind::decay:
            if constexpr (std::is_same_v<R, Hebb>) return table<R, Decay>(alpha_per_synapse, rate_per_synapse);
            return nullptr;
        case ConstraintKind::clip:
            return table<R, Clip>(alpha_per_synapse, rate_per_synapse);
        case ConstraintKind::soft_clip:
            return table<R, SoftClip>(alpha_per_synapse, rate_per_synapse);
        case ConstraintKind::clip_on_read:
            return table<R, ClipOnRead>(alpha_per_synapse, rate_per_synapse);
        case ConstraintKind::none:
            return table<R, None>(alpha_per_synapse, rate_per_synapse);
    }
    return nullptr;
}

const ConnectionKernels<S>* connection(RuleKind rule, ConstraintKind constraint, bool alpha_per_synapse,
                                       bool rate_per_synapse) {
    return rule == RuleKind::hebb ? table<Hebb>(constraint, alpha_per_synapse, rate_per_synapse)
                                  : table<Oja>(constraint, alpha_per_synapse, rate_per_synapse);
}

// The traffic of a forward unit without its dependencies: three streams read, one of them written.
void bandwidth(const S* a, const S* b, S* c, int64_t count) {
    for_lanes<4>(count, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        access.store(c + i, access.load(c + i) * S(0.999) + access.load(a + i) * access.load(b + i));
    });
}

}  // namespace

#define JOIN_(a, b, c) a##b##_##c
#define JOIN(a, b, c) JOIN_(a, b, c)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

namespace plastikern {

extern const Kernels<S> JOIN(kernels_, PLASTIKERN_CAPABILITY, PLASTIKERN_SCALAR);
const Kernels<S> JOIN(kernels_, PLASTIKERN_CAPABILITY, PLASTIKERN_SCALAR) = {
    TEXT(PLASTIKERN_CAPABILITY), connection, kTile, pack_history, activate, bandwidth};

}  // namespace plastikern
