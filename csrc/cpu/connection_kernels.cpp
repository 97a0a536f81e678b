// The kernels of a plastic connection for one instruction set and one scalar type; compiled once
// for each. Contract in connection.h, arithmetic in ../update.h. What differs between variants is a
// template parameter.
//
// Longer than 600 lines: compiled once for each instruction set and scalar, as one object whose
// functions stay inside it.
#include "connection.h"

#include <type_traits>

#include "../update.h"
#include "activation.h"
#include "lanes.h"
#include "products.h"

namespace {

using namespace plastikern;

// A change, what it is for rows that lose nothing, and a read.
template <class U, class F, class R, Layout kLayout>
struct Policy {
    static constexpr bool alpha_per_synapse = kLayout != Layout::per_neuron;
    static constexpr bool rate_per_synapse = kLayout == Layout::per_synapse;
    static constexpr bool loses = !same<U, F> && F::reverses;
    using Update = U;
    using FreeUpdate = F;
    using Synapse =
        std::conditional_t<rate_per_synapse, typename U::by_synapse, typename U::by_row>;
    using Free = std::conditional_t<rate_per_synapse, typename F::by_synapse, typename F::by_row>;
    using Read = std::conditional_t<alpha_per_synapse, typename R::by_synapse, typename R::by_row>;
    using States = typename U::template States<V>;
    using Coefficients = typename U::template Coefficients<V>;
    using Adjoint = typename Synapse::template Adjoint<V>;
    using Row = typename Synapse::template Row<V>;
    static constexpr int state_count = sizeof(States) / sizeof(V);
    static constexpr bool eligible = state_count == 2;
};

// A row after the other: its streams run straight on into the next row's, which is what hardware
// prefetchers follow. Sums are kept in as many chains as hide the latency of an addition.
constexpr int kForwardChains = 4;

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

// The rate in force: the same bits wherever it is computed.
template <typename T>
LANES_INLINE T rate_in_force(T rate, T scale, T modulator) {
    return fused(scale, modulator, rate);
}

// The coefficients of row j: the rate in force, and that of the eligibility trace.
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
            in_force = splat(scale == nullptr ? *rate : rate_in_force(*rate, *scale, m));
            if constexpr (P::eligible) fading = splat(*eligibility);
        }
    }
    LANES_INLINE typename P::Coefficients of_row() const {
        if constexpr (P::eligible) {
            return {in_force, fading};
        } else {
            return {in_force};
        }
    }
    template <class Access>
    LANES_INLINE typename P::Coefficients at(int64_t i, Access access) const {
        if constexpr (P::rate_per_synapse) {
            typename P::Coefficients here;
            here.r = access.load(rate + i);
            if (scale != nullptr) here.r = rate_in_force(here.r, access.load(scale + i), modulator);
            if constexpr (P::eligible) here.eta = access.load(eligibility + i);
            return here;
        } else {
            return of_row();
        }
    }
};

// Rows of traces, or of their gradients.
template <class P, typename T>
struct TraceRow {
    T* rows[P::state_count];

    LANES_INLINE TraceRow(const TraceRows<T>& all, int64_t j) {
        rows[0] = all.row(j);
        if constexpr (P::eligible) rows[1] = all.eligibility_row(j);
    }
    LANES_INLINE void operator=(const TraceRow<P, std::remove_const_t<T>>& other)
        requires(std::is_const_v<T>)
    {
        for (int state = 0; state < P::state_count; ++state) rows[state] = other.rows[state];
    }
    template <class Access>
    LANES_INLINE typename P::States load(int64_t i, Access access) const {
        typename P::States here;
        P::Update::states([&](int state, V& value) { value = access.load(rows[state] + i); }, here);
        return here;
    }
    template <class Access>
    LANES_INLINE void store(int64_t i, Access access, typename P::States values) const {
        P::Update::states([&](int state, V value) { access.store(rows[state] + i, value); },
                          values);
    }
    LANES_INLINE void advance(int64_t distance) {
        for (T*& row : rows) row += distance;
    }
};

// The states of some vectors of a row: apart, since compilers keep no array of records in
// registers.
template <class P, int kVectors>
struct Held {
    V values[P::state_count][kVectors];

    LANES_INLINE typename P::States at(int vector) const {
        typename P::States states;
        P::Update::states([&](int state, V& value) { value = values[state][vector]; }, states);
        return states;
    }
    LANES_INLINE void set(int vector, typename P::States states) {
        P::Update::states([&](int state, V value) { values[state][vector] = value; }, states);
    }
};

// Columns to go through: where rows are padded, whole vectors.
LANES_INLINE int64_t columns_of(const Connection<S>& c, bool padded) {
    return padded ? (c.pres + kLanes - 1) / kLanes * kLanes : c.pres;
}

// The trace after a step that loses nothing.
template <class P>
LANES_INLINE V free_next(V post, V bound, V count, const typename P::States& before, V pre,
                         const typename P::Coefficients& given) {
    const auto copy = [](int, V& to, const V& from) { to = from; };
    typename P::FreeUpdate::template States<V> states;
    typename P::FreeUpdate::template Coefficients<V> coefficients;
    P::Update::states(copy, states, before);
    P::Update::coefficients(copy, coefficients, given);
    return P::Free::next(P::Free::row(post, bound, count, coefficients), states, pre, coefficients)
        .H;
}

// The passes [kFirst, kLast) over a row: sums of `add(pass, i, access, so_far)`, in which lanes
// beyond the last column have no part.
template <class P, int kFirst, int kLast, class Add>
LANES_INLINE void gather(typename P::Row& row, int64_t pres, const Add& add) {
    for_passes<kFirst, kLast>([&](auto pass) __attribute__((always_inline)) {
        typename P::Synapse::template Gathered<V> sums{};
        for_lanes(pres, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
            const auto more = add(pass, i, access, sums);
            P::Synapse::gathered(
                [&](int, V& sum, const V& with) { sum = access.choose(with, sum); }, sums, more);
        });
        P::Synapse::gathered([](int, V& sum) { sum = splat(sum_of(sum)); }, sums);
        row = P::Synapse::settle(pass, row, sums);
    });
}

// The values of row j of which the states after a step are computed.
template <class P>
LANES_INLINE typename P::Row row_of_next(const Connection<S>& c, V post, const RowRates<P>& rates,
                                         const TraceRow<P, const S>& before, const S* pre) {
    auto row = P::Synapse::row(post, splat(c.bound), splat(static_cast<S>(c.pres)), rates.of_row());
    if constexpr (P::Synapse::passes > 0) {
        gather<P, 0, P::Synapse::passes_of_next>(
            row, c.pres,
            [&](auto pass, int64_t i, auto access, const auto& so_far)
                __attribute__((always_inline)) {
                    return P::Synapse::gather(pass, row, before.load(i, access),
                                              access.load(pre + i), rates.at(i, access), so_far);
                });
    }
    return row;
}

// Connection and unit come by value: what is stored to traces might else be a pointer that has to
// be read again.
template <class P, bool kUpdate, bool kRead, bool kLost = false>
void forward_rows(const Connection<S> c, const ForwardUnit<S> u, int64_t begin, int64_t end) {
    // What a rule may make of zeros beyond the last column must not get into sums.
    const int64_t columns = columns_of(c, u.padded && P::Synapse::rests);
    const V bound = splat(c.bound);
    [[maybe_unused]] const V count = splat(static_cast<S>(c.pres));
    const S *pre_before_row = u.pre_before, *pre_row = u.pre;
    for (int64_t j = begin; j < end; ++j) {
        const S* weight = c.weight.row(j);
        const TraceRow<P, const S> traces_in(u.traces, j);
        const TraceRow<P, S> traces_out(u.traces_out, j);
        const Coefficient<P::alpha_per_synapse> alpha(c.alpha, j);
        const RowRates<P> rates(c, j, u.modulator);
        const V post = kUpdate ? splat(u.post_before[j]) : V{};
        typename P::Row row{};
        if constexpr (kUpdate) row = row_of_next<P>(c, post, rates, traces_in, pre_before_row);
        const auto reading = P::Read::row(bound, alpha.value, V{});
        V sum[kForwardChains] = {};
        decltype(V{} < V{}) lost{};
        for_lanes<kForwardChains>(columns, [&](int64_t i, auto access,
                                               int chain) __attribute__((always_inline)) {
            typename P::States states;
            if constexpr (kUpdate) {
                const auto before = traces_in.load(i, access);
                const auto given = rates.at(i, access);
                const V pre_before = access.load(pre_before_row + i);
                states = P::Synapse::next(row, before, pre_before, given);
                if constexpr (kLost)
                    lost |= states.H != free_next<P>(post, bound, count, before, pre_before, given);
                traces_out.store(i, access, states);
            } else {
                states.H = access.load(traces_in.rows[0] + i);
            }
            if constexpr (kRead) {
                sum[chain] = P::Read::sum(reading, access.load(weight + i), alpha.at(i, access),
                                          states.H, access.load(pre_row + i), sum[chain]);
            }
        });
        static_assert(kForwardChains == 4);
        if constexpr (kLost) u.lost[j] |= sum_of(lost ? splat(1) : V{}) != 0;
        if constexpr (kRead) u.sum[j] = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
}

template <class P, bool kUpdate, bool kRead, bool kReverse>
void backward_rows(const Connection<S> c, const BackwardUnit<S> u, int64_t begin, int64_t end) {
    using Synapse = typename P::Synapse;
    using Read = typename P::Read;
    // What a rule may make of zeros beyond the last column must not get into sums.
    const int64_t columns = columns_of(c, u.padded && P::Synapse::rests);
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
        const auto reading = Read::row(bound, alpha.value, grad_sum);
        typename P::Row row{};
        if constexpr (kUpdate) {
            row = row_of_next<P>(c, post, rates, traces_in, pre_before_row);
        }
        if constexpr (kUpdate && Synapse::passes > 0) {
            gather<P, Synapse::passes_of_next, Synapse::passes>(
                row, c.pres,
                [&](auto pass, int64_t i, auto access, const auto& so_far)
                    __attribute__((always_inline)) {
                        const auto before = traces_in.load(i, access);
                        const auto given = rates.at(i, access);
                        const V pre_before = access.load(pre_before_row + i);
                        auto grad = grads_in.load(i, access);
                        if constexpr (kRead) {
                            const V read = Synapse::next(row, before, pre_before, given).H;
                            grad.H =
                                Read::adjoint(reading, access.load(weight + i), alpha.at(i, access),
                                              read, access.load(pre_row + i), {grad.H, V{}})
                                    .H;
                        }
                        return Synapse::gather(pass, row, before, pre_before, given, grad, so_far);
                    });
        }
        typename Synapse::template Sums<V> sums{};
        V rate_sum{}, plastic{};
        S* grad_alphas = u.grad_alphas == nullptr ? nullptr : u.grad_alphas + j * u.alpha_stride;
        for_lanes(columns, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
            // `states` are what the unit reads, `before` what they were before the change.
            typename P::States states, before;
            typename P::Coefficients given;
            V pre_before{};
            // Read before traces are stored: else GCC reads it again for each of its uses.
            const V alpha_here = alpha.at(i, access);
            if constexpr (kUpdate) {
                before = traces_in.load(i, access);
                pre_before = access.load(pre_before_row + i);
                given = rates.at(i, access);
                if constexpr (kReverse) {
                    states = before;
                    before = Synapse::reverse(row, states, pre_before, given);
                    traces_out.store(i, access, before);
                } else {
                    states = Synapse::next(row, before, pre_before, given);
                }
            } else {
                states.H = access.load(traces_in.rows[0] + i);
            }
            auto grad = grads_in.load(i, access);
            if constexpr (kRead) {
                const V pre = access.load(pre_row + i);
                const auto through =
                    Read::adjoint(reading, access.load(weight + i), alpha_here, states.H, pre,
                                  {grad.H, access.load(grad_pre_row + i)});
                access.store(grad_pre_row + i, through.x);
                grad.H = through.H;
                if constexpr (!P::alpha_per_synapse) {
                    plastic = Read::alpha(reading, states.H, pre, plastic);
                } else if (grad_alphas != nullptr) {
                    access.store(grad_alphas + i,
                                 Read::alpha(reading, states.H, pre, access.load(grad_alphas + i)));
                }
            }
            if constexpr (kUpdate) {
                typename P::Adjoint so_far;
                so_far.x = access.load(grad_pre_before_row + i);
                so_far.sums = sums;
                const auto through = Synapse::adjoint(row, before, pre_before, given, grad, so_far);
                grad = through.states;
                sums = through.sums;
                access.store(grad_pre_before_row + i, through.x);
                if constexpr (P::rate_per_synapse) {
                    const V in_force = through.coefficients.r;
                    const auto add = [&](S* to, V factor, V value) __attribute__((always_inline)) {
                        if (to == nullptr) return;
                        to += in_matrix + i;
                        access.store(to, fused(factor, value, access.load(to)));
                    };
                    add(u.grad_rates, splat(1), in_force);
                    add(u.grad_rate_scales, rates.modulator, in_force);
                    if constexpr (P::eligible)
                        add(u.grad_eligibility_rates, splat(1), through.coefficients.eta);
                    if (rates.scale != nullptr)
                        rate_sum = fused(in_force, access.load(rates.scale + i), rate_sum);
                }
            }
            grads_out.store(i, access, grad);
        });
        if constexpr (kRead && !P::alpha_per_synapse)
            u.grad_alpha[j] += Read::finish(reading, splat(sum_of(plastic)))[0];
        if constexpr (kUpdate) {
            P::Synapse::sums([](int, V& sum) { sum = splat(sum_of(sum)); }, sums);
            const auto found = Synapse::finish(row, sums);
            u.grad_post_before[j] = found.y[0];
            if constexpr (P::rate_per_synapse) {
                u.grad_rate[j] = sum_of(rate_sum);
            } else {
                u.grad_rate[j] = found.coefficients.r[0];
                if constexpr (P::eligible) u.grad_eligibility_rate[j] += found.coefficients.eta[0];
            }
        }
    }
}

template <class P>
void forward(const Connection<S>& c, const ForwardUnit<S>& u, int64_t begin, int64_t end) {
    if (u.pre_before == nullptr) return forward_rows<P, false, true>(c, u, begin, end);
    if constexpr (P::loses) {
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
    if constexpr (P::Update::reverses) {
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
struct Upto {
    int64_t remaining;
    explicit LANES_INLINE Upto(int64_t columns) : remaining(columns) {}
    LANES_INLINE V load(const S* from) const {
        if (remaining >= kLanes) return Whole::load(from);
        return remaining > 0 ? Part(remaining).load(from) : V{};
    }
    LANES_INLINE void store(S* to, V value) const {
        if (remaining >= kLanes) return Whole::store(to, value);
        if (remaining > 0) Part(remaining).store(to, value);
    }
};

// Of one row, at every step.
struct RowHistory {
    const S *posts, *in_force;  // per synapse the rate in force is a modulator
};

// kVectors vectors of a row through all steps, with its posts and, per neuron, its rates in force.
template <class P, int kVectors>
void recompute_tile(const Connection<S> c, const History<S> h, int64_t columns, TraceRows<S> out,
                    int64_t out_step, RowHistory of_row, int64_t j, int64_t i) {
    const auto [posts, in_force] = of_row;
    const V bound = splat(c.bound);
    const TraceRow<P, const S> traces_in(h.traces, j);
    TraceRow<P, S> to(out, j);
    RowRates<P> rates(c, j, 0);
    Held<P, kVectors> held;
    for (int v = 0; v < kVectors; ++v) {
        const int64_t at = i + v * kLanes;
        held.set(v, traces_in.load(at, Upto(columns - at)));
    }
    const S* pre = h.first_pre + i;
    for (int64_t t = 0; t < h.steps; ++t) {
        const V post = splat(posts[t]);
        if constexpr (P::rate_per_synapse) {
            rates.modulator = splat(in_force[t]);
        } else {
            rates.in_force = splat(in_force[t]);
        }
        const auto row =
            P::Synapse::row(post, bound, splat(static_cast<S>(c.pres)), rates.of_row());
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
            const int64_t at = i + v * kLanes;
            const auto states = P::Synapse::next(row, held.at(v), Whole::load(pre + v * kLanes),
                                                 rates.at(at, Whole()));
            to.store(at, Whole(), states);
            held.set(v, states);
        }
        to.advance(out_step);
        pre = h.pre + t * h.pre_stride + i;
    }
}

// Where a change takes several passes, a row after the other and a step after the other: each is
// read from where the step before has left it.
template <class P>
void recompute_row(const Connection<S>& c, const History<S>& h, int64_t columns, TraceRows<S> out,
                   int64_t out_step, const S* posts, const S* modulators, int64_t j) {
    const int64_t whole = columns_of(c, true);
    TraceRow<P, const S> from(h.traces, j);
    TraceRow<P, S> to(out, j);
    const S* pre = h.first_pre;
    for (int64_t t = 0; t < h.steps; ++t) {
        const RowRates<P> rates(c, j, modulators[t * h.modulator_stride]);
        const auto row = row_of_next<P>(c, splat(posts[t]), rates, from, pre);
        for (int64_t i = 0; i < whole; i += kLanes) {
            const auto before = from.load(i, Upto(columns - i));
            to.store(i, Whole(),
                     P::Synapse::next(row, before, Whole::load(pre + i), rates.at(i, Whole())));
        }
        from = to;
        columns = whole;
        to.advance(out_step);
        pre = h.pre + t * h.pre_stride;
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
        if constexpr (P::Synapse::passes > 0) {
            recompute_row<P>(c, h, columns, out, out_step, posts, h.modulators, j);
            continue;
        }
        int64_t i = 0;
        for (; i + kTile <= whole; i += kTile) {
            recompute_tile<P, kTileVectors>(c, h, columns, out, out_step, {posts, in_force}, j, i);
        }
        for (; i < whole; i += kLanes)
            recompute_tile<P, 1>(c, h, columns, out, out_step, {posts, in_force}, j, i);
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

// Of a tile of one row, at every step of every element.
struct TileHistory {
    const S *pres, *grads, *posts, *modulators;  // the first of the tile, the others of the row
};

// Gradient of alpha for a tile of one row: the synapses' traces and gradients stay in registers
// over all steps of all elements.
template <class P>
void alpha_gradient_tile(const Connection<S>& c, const History<S>* elements, int64_t count,
                         TileHistory of_tile, int64_t j, int64_t i, S* alpha) {
    auto [pres, grads, posts, modulators] = of_tile;
    Held<P, kTileVectors> held;
    V sum[kTileVectors] = {};
    V rate[kTileVectors] = {}, scale[kTileVectors] = {}, fading[kTileVectors] = {};
    const V bound = splat(c.bound);
    const RowRates<P> fixed(c, j, 0);
    if constexpr (P::rate_per_synapse) {
        for (int v = 0; v < kTileVectors; ++v) {
            const int64_t at = i + v * kLanes, left = c.pres - at;
            rate[v] = Upto(left).load(fixed.rate + at);
            if (fixed.scale != nullptr) scale[v] = Upto(left).load(fixed.scale + at);
            if constexpr (P::eligible) fading[v] = Upto(left).load(fixed.eligibility + at);
        }
    }
    for (const History<S>* e = elements; e != elements + count; ++e) {
        const TraceRow<P, const S> traces_in(e->traces, j);
        for (int v = 0; v < kTileVectors; ++v) {
            const int64_t at = i + v * kLanes, left = c.pres - at;
            held.set(v, traces_in.load(at, Upto(left)));
        }
        for (int64_t t = 0; t < e->steps; ++t, pres += kTile) {
            const V grad = splat(*grads++), post = splat(*posts++);
            const RowRates<P> rates(c, j, *modulators++);
            const auto row =
                P::Synapse::row(post, bound, splat(static_cast<S>(c.pres)), rates.of_row());
            const auto reading = P::Read::row(bound, V{}, grad);
#pragma GCC unroll 8
            for (int v = 0; v < kTileVectors; ++v) {
                const V pre = Whole::load(pres + v * kLanes);
                const auto before = held.at(v);
                sum[v] = P::Read::alpha(reading, before.H, pre, sum[v]);
                auto given = rates.of_row();
                if constexpr (P::rate_per_synapse)
                    given.r = rate_in_force(rate[v], scale[v], rates.modulator);
                if constexpr (P::rate_per_synapse && P::eligible) given.eta = fading[v];
                held.set(v, P::Synapse::next(row, before, pre, given));
            }
        }
    }
    for (int v = 0; v < kTileVectors; ++v) {
        const int64_t at = i + v * kLanes;
        Upto(c.pres - at).store(alpha + j * c.pres + at, sum[v]);
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
                const TileHistory of_tile{out.pres + i * steps, grads + r * steps,
                                          posts + r * steps, modulators};
                alpha_gradient_tile<P>(c, elements, count, of_tile, first + r, i, out.alpha);
            }
        }
    }
}

template <class P>
constexpr ConnectionKernels<S> kernels_of() {
    if constexpr (P::alpha_per_synapse && P::Synapse::passes == 0) {
        return {forward<P>, backward<P>, recompute<P>, alpha_gradient<P>};
    } else {
        return {forward<P>, backward<P>, recompute<P>, nullptr};
    }
}

template <class U, class F, class R>
constexpr LayoutKernels<S> layouts = {
    kernels_of<Policy<U, F, R, Layout::per_neuron>>(),
    kernels_of<Policy<U, F, R, Layout::alpha_per_synapse>>(),
    kernels_of<Policy<U, F, R, Layout::per_synapse>>(),
};

#define RULE_KERNELS(rule, constraint, update, free, read, served)                                \
    {{&layouts<generated::update, generated::free, generated::read>,                              \
      &layouts<generated::update##_retroactive, generated::free##_retroactive, generated::read>}, \
     {&layouts<generated::free, generated::free, generated::read>,                                \
      &layouts<generated::free##_retroactive, generated::free##_retroactive, generated::read>}},
constexpr RuleKernels<S> rules[] = {PLASTIKERN_RULES(RULE_KERNELS)};
#undef RULE_KERNELS

// The traffic of a forward unit without its dependencies: three streams read, one of them written.
void bandwidth(const S* a, const S* b, S* c, int64_t count) {
    for_lanes<4>(count, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        access.store(c + i,
                     fused(access.load(a + i), access.load(b + i), access.load(c + i) * S(0.999)));
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
    .rules = rules,
    .tile = kTile,
    .pack_history = pack_history,
    .activate = activate,
    .gated_forward = gated_forward,
    .gated_backward = gated_backward,
    .multiply = multiply,
    .add_rows = add_rows,
    .bandwidth = bandwidth,
};

}  // namespace plastikern
