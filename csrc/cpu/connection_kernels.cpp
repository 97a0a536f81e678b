// The kernels of a plastic connection for one instruction set and one scalar type; compiled once
// for each. Contract in connection.h, arithmetic in ../plasticity.h. What differs between variants
// is a template parameter.
#include "connection.h"

#include "activation.h"
#include "lanes.h"
#include "products.h"

namespace {

using namespace plastikern;

template <class R, class C, bool kEligible, Layout kLayout>
struct Policy : Synapse<R, C, kEligible> {
    static constexpr bool alpha_per_synapse = kLayout != Layout::per_neuron;
    static constexpr bool rate_per_synapse = kLayout == Layout::per_synapse;
    static constexpr bool reversible =
        same<typename Reversed<R, C>::Constraint, C> && !(kEligible && same<C, Decay>);
};

// A row after the other: its streams run straight on into the next row's, which is what hardware
// prefetchers follow. Sums are kept in as many chains as hide the latency of an addition.
constexpr int kForwardChains = 4;

// 1 / (1 - rate) in two parts, for running the rule `decay` backwards. Exact where the compiler
// fuses multiply and add.
template <typename T>
struct Inverse {
    T value, rest;

    explicit LANES_INLINE Inverse(T rate)
        : value(1 / (1 - rate)), rest((1 - (1 - rate) * value) * value) {}
};

// A parameter of row j: a vector from memory where it is per synapse, else one number.
template <bool kPerSynapse>
struct Coefficient {
    const S* row;
    V value;

    LANES_INLINE Coefficient(Coefficients<S> all, int64_t j) : row(all.row(j)) {
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

// The rates of row j: in force, rate + rate_scale * M; and of the eligibility trace.
template <class P>
struct RowRates {
    const S *rate, *scale, *eligibility;
    V in_force{}, fading{}, modulator;

    LANES_INLINE RowRates(const Connection<S>& c, int64_t j, S m)
        : rate(c.rate.row(j)),
          scale(c.rate_scale.data == nullptr ? nullptr : c.rate_scale.row(j)),
          eligibility(P::eligible ? c.eligibility_rate.row(j) : nullptr),
          modulator(splat(m)) {
        if constexpr (!P::rate_per_synapse) {
            in_force = splat(scale == nullptr ? *rate : *rate + *scale * m);
            if constexpr (P::eligible) fading = splat(*eligibility);
        }
    }
    LANES_INLINE Traces<V> of_row() const { return {in_force, fading}; }
    template <class Access>
    LANES_INLINE Traces<V> at(int64_t i, Access access) const {
        if constexpr (P::rate_per_synapse) {
            Traces<V> here;
            here.trace = access.load(rate + i);
            if (scale != nullptr) here.trace += access.load(scale + i) * modulator;
            if constexpr (P::eligible) here.eligibility = access.load(eligibility + i);
            return here;
        } else {
            return of_row();
        }
    }
};

// Rows of traces, or of their gradients.
template <class P, typename T>
struct TraceRow {
    T *trace, *eligibility;

    LANES_INLINE TraceRow(const TraceRows<T>& all, int64_t j)
        : trace(all.row(j)), eligibility(P::eligible ? all.eligibility_row(j) : nullptr) {}
    template <class Access>
    LANES_INLINE Traces<V> load(int64_t i, Access access) const {
        Traces<V> here;
        here.trace = access.load(trace + i);
        if constexpr (P::eligible) here.eligibility = access.load(eligibility + i);
        return here;
    }
    template <class Access>
    LANES_INLINE void store(int64_t i, Access access, Traces<V> value) const {
        access.store(trace + i, value.trace);
        if constexpr (P::eligible) access.store(eligibility + i, value.eligibility);
    }
};

// Columns to go through: where rows are padded, whole vectors.
LANES_INLINE int64_t columns_of(const Connection<S>& c, bool padded) {
    return padded ? (c.pres + kLanes - 1) / kLanes * kLanes : c.pres;
}

// Connection and unit come by value: what is stored to traces might else be a pointer that has to
// be read again.
template <class P, bool kUpdate, bool kRead, bool kLost = false>
void forward_rows(const Connection<S> c, const ForwardUnit<S> u, int64_t begin, int64_t end) {
    const int64_t columns = columns_of(c, u.padded);
    const V bound = splat(c.bound);
    const S *pre_before_row = u.pre_before, *pre_row = u.pre;
    for (int64_t j = begin; j < end; ++j) {
        const S* weight = c.weight.row(j);
        const TraceRow<P, const S> traces_in(u.traces, j);
        const TraceRow<P, S> traces_out(u.traces_out, j);
        const Coefficient<P::alpha_per_synapse> alpha(c.alpha, j);
        const RowRates<P> rates(c, j, u.modulator);
        const V post = kUpdate ? splat(u.post_before[j]) : V{};
        V sum[kForwardChains] = {};
        decltype(V{} < V{}) lost{};
        for_lanes<kForwardChains>(
            columns, [&](int64_t i, auto access, int chain) __attribute__((always_inline)) {
                Traces<V> traces;
                if constexpr (kUpdate) {
                    const Traces<V> before = traces_in.load(i, access),
                                    rates_here = rates.at(i, access);
                    const V pre_before = access.load(pre_before_row + i);
                    traces = P::next(before, pre_before, post, rates_here, bound);
                    if constexpr (kLost)
                        lost |= traces.trace !=
                                before.trace + P::change(before, pre_before, post, rates_here);
                    traces_out.store(i, access, traces);
                } else {
                    traces.trace = access.load(traces_in.trace + i);
                }
                if constexpr (kRead) {
                    const V readable = P::Constraint::read(traces.trace, bound);
                    const V effective = access.load(weight + i) + alpha.at(i, access) * readable;
                    sum[chain] += effective * access.load(pre_row + i);
                }
            });
        static_assert(kForwardChains == 4);
        if constexpr (kLost) u.lost[j] |= sum_of(lost ? splat(1) : V{}) != 0;
        if constexpr (kRead) u.sum[j] = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

template <class P, bool kUpdate, bool kRead, bool kReverse>
void backward_rows(const Connection<S> c, const BackwardUnit<S> u, int64_t begin, int64_t end) {
    const int64_t columns = columns_of(c, u.padded);
    using Rule = typename P::Rule;
    using Constraint = typename P::Constraint;
    const V bound = splat(c.bound);
    const S *pre_before_row = u.pre_before, *pre_row = u.pre;
    S *grad_pre_before_row = u.grad_pre_before, *grad_pre_row = u.grad_pre;
    for (int64_t j = begin; j < end; ++j) {
        const S* weight = c.weight.row(j);
        const TraceRow<P, const S> traces_in(u.traces, j), grads_in(u.grad_traces, j);
        const TraceRow<P, S> traces_out(u.traces_out, j), grads_out(u.grad_traces_out, j);
        const int64_t in_matrix = j * c.pres;
        const Coefficient<P::alpha_per_synapse> alpha(c.alpha, j);
        const RowRates<P> rates(c, j, u.modulator);
        const V post = kUpdate ? splat(u.post_before[j]) : V{},
                grad_sum = kRead ? splat(u.grad_sum[j]) : V{};
        // What fades at a rate and is run backwards: the eligibility trace, or the trace under the
        // rule `decay`.
        const Inverse<S> row_inverse(
            kReverse && !P::rate_per_synapse ? P::rule_rate(rates.of_row())[0] : S(0));
        const V inverse_value = splat(row_inverse.value), inverse_rest = splat(row_inverse.rest);
        RowSums<V> sums;
        V rate_sum{}, fading_sum{}, plastic{};
        S* grad_alphas = u.grad_alphas == nullptr ? nullptr : u.grad_alphas + j * u.alpha_stride;
        for_lanes(columns, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
            // `traces` are what the unit reads, `before` what they were before the change.
            Traces<V> traces, before;
            Traces<V> rates_here;
            V pre_before{};
            if constexpr (kUpdate) {
                before = traces_in.load(i, access);
                pre_before = access.load(pre_before_row + i);
                rates_here = rates.at(i, access);
                if constexpr (kReverse) {
                    traces = before;
                    V inverse = inverse_value, rest = inverse_rest;
                    if constexpr (P::rate_per_synapse) {
                        const Inverse<V> here(P::rule_rate(rates_here));
                        inverse = here.value, rest = here.rest;
                    }
                    if constexpr (P::eligible) {
                        const V taken =
                            Rule::change(before.trace, pre_before, post, rates_here.eligibility);
                        before.eligibility =
                            Decay::reverse(before.eligibility, taken, inverse, rest);
                    }
                    const V change = P::change(before, pre_before, post, rates_here);
                    before.trace = Constraint::reverse(traces.trace, change, inverse, rest);
                    traces_out.store(i, access, before);
                } else {
                    traces = P::next(before, pre_before, post, rates_here, bound);
                }
            } else {
                traces.trace = access.load(traces_in.trace + i);
            }
            Traces<V> grad = grads_in.load(i, access);
            if constexpr (kRead) {
                const V alpha_here = alpha.at(i, access),
                        readable = Constraint::read(traces.trace, bound);
                const V pre = access.load(pre_row + i),
                        effective = access.load(weight + i) + alpha_here * readable;
                access.store(grad_pre_row + i,
                             access.load(grad_pre_row + i) + grad_sum * effective);
                const V through = grad_sum * pre;
                grad.trace += Constraint::read_adjoint(traces.trace, bound, through * alpha_here);
                if constexpr (!P::alpha_per_synapse) {
                    plastic += readable * pre;
                } else if (grad_alphas != nullptr) {
                    access.store(grad_alphas + i,
                                 access.load(grad_alphas + i) + through * readable);
                }
            }
            if constexpr (kUpdate) {
                const SynapseGrad<V> through =
                    P::adjoint(before, pre_before, post, rates_here, bound, grad);
                grad = through.before;
                const V grad_pre_before = access.load(grad_pre_before_row + i) + through.pre;
                access.store(grad_pre_before_row + i, grad_pre_before);
                if constexpr (P::rate_per_synapse) {
                    const V rule_rate = P::rule_rate(rates_here);
                    Rule::accumulate(sums, before.trace, pre_before, rule_rate * through.change);
                    V rule =
                          through.change * Rule::change(before.trace, pre_before, post, splat(1)),
                      in_force = through.rate;
                    const auto add = [&](S* to, V value) __attribute__((always_inline)) {
                        if (to == nullptr) return;
                        access.store(to + in_matrix + i, access.load(to + in_matrix + i) + value);
                    };
                    if constexpr (P::eligible) {
                        add(u.grad_eligibility_rates, rule + through.fading);
                    } else {
                        in_force += rule;
                    }
                    add(u.grad_rates, in_force);
                    add(u.grad_rate_scales, in_force * rates.modulator);
                    if (rates.scale != nullptr) rate_sum += in_force * access.load(rates.scale + i);
                } else {
                    Rule::accumulate(sums, before.trace, pre_before, through.change);
                    if constexpr (P::has_rate) rate_sum += through.rate;
                    if constexpr (P::eligible) fading_sum += through.fading;
                }
            }
            grads_out.store(i, access, grad);
        });
        if constexpr (kRead && !P::alpha_per_synapse)
            u.grad_alpha[j] += u.grad_sum[j] * sum_of(plastic);
        if constexpr (kUpdate) {
            const RowSums<S> totals = {sum_of(sums.with_pre), sum_of(sums.with_trace)};
            S rule_rate = 1, through_rule,
              rate = P::has_rate || P::rate_per_synapse ? sum_of(rate_sum) : S(0);
            if constexpr (!P::rate_per_synapse) rule_rate = P::rule_rate(rates.of_row())[0];
            Rule::finish(totals, u.post_before[j], rule_rate, u.grad_post_before[j], through_rule);
            if constexpr (!P::rate_per_synapse && P::eligible) {
                u.grad_eligibility_rate[j] += through_rule + sum_of(fading_sum);
            } else if constexpr (!P::rate_per_synapse) {
                rate += through_rule;
            }
            u.grad_rate[j] = rate;
        }
    }
}

template <class P>
void forward(const Connection<S>& c, const ForwardUnit<S>& u, int64_t begin, int64_t end) {
    if (u.pre_before == nullptr) return forward_rows<P, false, true>(c, u, begin, end);
    if constexpr (P::Constraint::loses) {
        if (u.lost != nullptr && u.pre == nullptr)
            return forward_rows<P, true, false, true>(c, u, begin, end);
        if (u.lost != nullptr) return forward_rows<P, true, true, true>(c, u, begin, end);
    }
    if (u.pre == nullptr) return forward_rows<P, true, false>(c, u, begin, end);
    forward_rows<P, true, true>(c, u, begin, end);
}

template <class P>
void backward(const Connection<S>& c, const BackwardUnit<S>& u, int64_t begin, int64_t end) {
    if (u.pre_before == nullptr) return backward_rows<P, false, true, false>(c, u, begin, end);
    if constexpr (P::reversible) {
        if (u.reverse && u.pre == nullptr)
            return backward_rows<P, true, false, true>(c, u, begin, end);
        if (u.reverse) return backward_rows<P, true, true, true>(c, u, begin, end);
    }
    if (u.pre == nullptr) return backward_rows<P, true, false, false>(c, u, begin, end);
    backward_rows<P, true, true, false>(c, u, begin, end);
}

// The columns that stay in registers over many steps: as many vectors as hide the latency of their
// changes.
constexpr int kTileVectors = 4;
constexpr int64_t kTile = kTileVectors * kLanes;

// A vector of a row of which `remaining` columns are left; lanes beyond them are zero, or stay
// untouched.
LANES_INLINE V load_upto(const S* from, int64_t remaining) {
    if (remaining >= kLanes) return Whole::load(from);
    return remaining > 0 ? Part(remaining).load(from) : V{};
}
LANES_INLINE void store_upto(S* to, V value, int64_t remaining) {
    if (remaining >= kLanes) return Whole::store(to, value);
    if (remaining > 0) Part(remaining).store(to, value);
}

// kVectors vectors of a row through all steps, with its posts and, per neuron, its rates in force.
template <class P, int kVectors>
void recompute_tile(const Connection<S> c, const History<S> h, int64_t columns, TraceRows<S> out,
                    int64_t out_step, const S* posts, const S* in_force, int64_t j, int64_t i) {
    const V bound = splat(c.bound);
    const TraceRow<P, const S> traces_in(h.traces, j);
    TraceRow<P, S> to(out, j);
    RowRates<P> rates(c, j, 0);
    V trace[kVectors],
        eligibility[kVectors] = {};  // apart: compilers keep no array of records in registers
    for (int v = 0; v < kVectors; ++v) {
        const int64_t at = i + v * kLanes;
        trace[v] = load_upto(traces_in.trace + at, columns - at);
        if constexpr (P::eligible)
            eligibility[v] = load_upto(traces_in.eligibility + at, columns - at);
    }
    const S* pre = h.first_pre + i;
    for (int64_t t = 0; t < h.steps; ++t) {
        const V post = splat(posts[t]);
        if constexpr (P::rate_per_synapse) {
            rates.modulator = splat(in_force[t]);
        } else {
            rates.in_force = splat(in_force[t]);
        }
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            const int64_t at = i + v * kLanes;
            const Traces<V> before = {trace[v], eligibility[v]};
            const Traces<V> after =
                P::next(before, Whole::load(pre + v * kLanes), post, rates.at(at, Whole()), bound);
            trace[v] = after.trace;
            Whole::store(to.trace + at, after.trace);
            if constexpr (P::eligible) {
                eligibility[v] = after.eligibility;
                Whole::store(to.eligibility + at, after.eligibility);
            }
        }
        to.trace += out_step;
        if constexpr (P::eligible) to.eligibility += out_step;
        pre = h.pre + t * h.pre_stride + i;
    }
}

// Synapses stay in registers over the whole segment.
template <class P>
void recompute(const Connection<S>& c, const History<S>& h, bool padded, TraceRows<S> out,
               int64_t out_step, S* scratch, int64_t begin, int64_t end) {
    S *posts = scratch, *in_force = scratch + h.steps;
    const int64_t columns = columns_of(c, padded), whole = columns_of(c, true);
    for (int64_t j = begin; j < end; ++j) {
        for (int64_t t = 0; t < h.steps; ++t) {
            const S m = h.modulators[t * h.modulator_stride];
            posts[t] = h.post[t * h.post_stride + j];
            in_force[t] = P::rate_per_synapse ? m : RowRates<P>(c, j, m).in_force[0];
        }
        int64_t i = 0;
        for (; i + kTile <= whole; i += kTile) {
            recompute_tile<P, kTileVectors>(c, h, columns, out, out_step, posts, in_force, j, i);
        }
        for (; i < whole; i += kLanes)
            recompute_tile<P, 1>(c, h, columns, out, out_step, posts, in_force, j, i);
    }
}

// Histories of the columns [first_tile, last_tile) * kTile, in the order in which `alpha_gradient`
// reads them: all steps of a tile, zeros beyond the last column. In place, every step would touch
// another page.
void pack_history(int64_t columns, const History<S>* elements, int64_t count, S* packed,
                  int64_t first_tile, int64_t last_tile) {
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

// Gradient of alpha for a tile of one row: the synapses' traces and gradients stay in registers
// over all steps of all elements. `pres` holds the tile's history; `grads`, `posts` and
// `modulators` the row's.
template <class P>
void alpha_gradient_tile(const Connection<S>& c, const History<S>* elements, int64_t count,
                         const S* pres, const S* grads, const S* posts, const S* modulators,
                         int64_t j, int64_t i, S* alpha) {
    V sum[kTileVectors] = {}, trace[kTileVectors], eligibility[kTileVectors] = {};
    V rate[kTileVectors] = {}, scale[kTileVectors] = {}, fading[kTileVectors] = {};
    const V bound = splat(c.bound);
    const RowRates<P> fixed(c, j, 0);
    if constexpr (P::rate_per_synapse) {
        for (int v = 0; v < kTileVectors; ++v) {
            const int64_t at = i + v * kLanes, left = c.pres - at;
            rate[v] = load_upto(fixed.rate + at, left);
            if (fixed.scale != nullptr) scale[v] = load_upto(fixed.scale + at, left);
            if constexpr (P::eligible) fading[v] = load_upto(fixed.eligibility + at, left);
        }
    }
    for (const History<S>* e = elements; e != elements + count; ++e) {
        const TraceRow<P, const S> traces_in(e->traces, j);
        for (int v = 0; v < kTileVectors; ++v) {
            const int64_t at = i + v * kLanes, left = c.pres - at;
            trace[v] = load_upto(traces_in.trace + at, left);
            if constexpr (P::eligible) eligibility[v] = load_upto(traces_in.eligibility + at, left);
        }
        for (int64_t t = 0; t < e->steps; ++t, pres += kTile) {
            const V grad = splat(*grads++), post = splat(*posts++);
            const RowRates<P> rates(c, j, *modulators++);
#pragma GCC unroll 8
            for (int v = 0; v < kTileVectors; ++v) {
                const V pre = Whole::load(pres + v * kLanes);
                sum[v] += (grad * pre) * P::Constraint::read(trace[v], bound);
                Traces<V> here = {rates.in_force, rates.fading};
                if constexpr (P::rate_per_synapse)
                    here = {rate[v] + scale[v] * rates.modulator, fading[v]};
                const Traces<V> after = P::next({trace[v], eligibility[v]}, pre, post, here, bound);
                trace[v] = after.trace;
                if constexpr (P::eligible) eligibility[v] = after.eligibility;
            }
        }
    }
    for (int v = 0; v < kTileVectors; ++v) {
        const int64_t at = i + v * kLanes;
        store_upto(alpha + j * c.pres + at, sum[v], c.pres - at);
    }
}

template <class P>
void alpha_gradient(const Connection<S>& c, const History<S>* elements, int64_t count,
                    const AlphaGradient<S>& out, int64_t begin, int64_t end) {
    const int64_t steps = steps_of(elements, count);
    S *grads = out.scratch, *posts = grads + kGradientRows * steps,
      *modulators = posts + kGradientRows * steps;
    int64_t at = 0;
    for (const History<S>* e = elements; e != elements + count; ++e) {
        for (int64_t t = 0; t < e->steps; ++t, ++at)
            modulators[at] = e->modulators[t * e->modulator_stride];
    }
    for (int64_t first = begin; first < end; first += kGradientRows) {
        const int64_t rows = end - first < kGradientRows ? end - first : kGradientRows;
        at = 0;
        for (const History<S>* e = elements; e != elements + count; ++e) {
            for (int64_t t = 0; t < e->steps; ++t, ++at) {
                const S *grad_row = e->grad_sum + t * e->grad_stride,
                        *post_row = e->post + t * e->post_stride;
                for (int64_t r = 0; r < rows; ++r) grads[r * steps + at] = grad_row[first + r];
                for (int64_t r = 0; r < rows; ++r) posts[r * steps + at] = post_row[first + r];
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            for (int64_t i = 0; i < c.pres; i += kTile) {
                alpha_gradient_tile<P>(c, elements, count, out.pres + i * steps, grads + r * steps,
                                       posts + r * steps, modulators, first + r, i, out.alpha);
            }
        }
    }
}

template <class P>
constexpr ConnectionKernels<S> kernels_of() {
    if constexpr (P::alpha_per_synapse) {
        return {forward<P>, backward<P>, recompute<P>, alpha_gradient<P>};
    } else {
        return {forward<P>, backward<P>, recompute<P>, nullptr};
    }
}

template <class R, class C, bool kEligible>
const ConnectionKernels<S>* table(Layout layout) {
    static constexpr ConnectionKernels<S> all[3] = {
        kernels_of<Policy<R, C, kEligible, Layout::per_neuron>>(),
        kernels_of<Policy<R, C, kEligible, Layout::alpha_per_synapse>>(),
        kernels_of<Policy<R, C, kEligible, Layout::per_synapse>>(),
    };
    return &all[static_cast<int>(layout)];
}

const ConnectionKernels<S>* connection(int64_t rule, int64_t constraint, Layout layout,
                                       bool eligible) {
    const ConnectionKernels<S>* found = nullptr;
    with_types(rule, constraint, [&]<class R, class C>(R*, C*) __attribute__((always_inline)) {
        found = eligible ? table<R, C, true>(layout) : table<R, C, false>(layout);
    });
    return found;
}

const ConnectionKernels<S>* reversed(int64_t rule, int64_t constraint, Layout layout,
                                     bool eligible) {
    const ConnectionKernels<S>* found = nullptr;
    with_types(rule, constraint, [&]<class R, class C>(R*, C*) __attribute__((always_inline)) {
        using Backwards = typename Reversed<R, C>::Constraint;
        // An eligibility trace under `decay`: the trace would fade at a rate of its own.
        if constexpr (!same<Backwards, void>) {
            if (!eligible) {
                found = table<R, Backwards, false>(layout);
            } else if constexpr (!same<Backwards, Decay>) {
                found = table<R, Backwards, true>(layout);
            }
        }
    });
    return found;
}

// The traffic of a forward unit without its dependencies: three streams read, one of them written.
void bandwidth(const S* a, const S* b, S* c, int64_t count) {
    for_lanes<4>(count, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        access.store(c + i,
                     access.load(c + i) * S(0.999) + access.load(a + i) * access.load(b + i));
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
    .capability = TEXT(PLASTIKERN_CAPABILITY),
    .connection = connection,
    .reversed = reversed,
    .tile = kTile,
    .pack_history = pack_history,
    .activate = activate,
    .lstm_forward = lstm_forward,
    .lstm_backward = lstm_backward,
    .multiply = multiply,
    .add_rows = add_rows,
    .bandwidth = bandwidth,
};

}  // namespace plastikern
