// What kernels know of a rule. The arithmetic is printed (csrc/generated), from the definitions in
// plastikern/rules; kernels are templates over it.
//
// A change, `update` in the table PLASTIKERN_RULES, with the traces H and, retroactive, E:
//
//   States          of one synapse: the traces, or their gradients
//   Coefficients    the rate in force r and, retroactive, that of the eligibility trace, eta
//   states(f, ...)  calls f(place, member of each of some records), coefficients and sums alike
//   reverses        whether states follow from those after a step; fades: whether they do
//                   so by the rate in force, which then has to be the same at all steps
//   by_row, by_synapse   the functions, where coefficients belong to rows or to synapses:
//     row           what is computed once a row, from its post y, the bound c, the number of pres
//                   and its coefficients
//     passes        over the synapses of a row, before the one that runs `next` (passes_of_next) or
//                   `adjoint` (all): `gather` adds up sums over the row, from which `settle` makes
//                   further values of it
//     rests         whether zeros in the place of a synapse stay zero and give nothing to any sum
//     next          the states after a step, from those before it and the pre x
//     adjoint       gradients of the states before it, added to `so_far`: of x, and what the row
//                   sums; by synapse, gradients of coefficients
//     finish        gradients of y and, by rows, of coefficients, from the row's sums
//     reverse       the states before a step from those after it
//
// A read is what a synapse adds to the sum of its row, (w + alpha read(H)) x: row, sum, adjoint,
// and the gradient of alpha, which `finish` makes of the sum over a row where alpha belongs to it.
#pragma once

#include <cstdint>

#include "generated/rules.h"

namespace plastikern {

template <typename T>
constexpr T most(T first) {
    return first;
}
template <typename T, typename... More>
constexpr T most(T first, More... more) {
    return first > most(more...) ? first : most(more...);
}

// Sums over a row's synapses in a backward pass: those of the change; by synapse, the one of the
// modulator's share; and that of alpha. Never fewer than five, so that plans are the same for all
// rules of the papers.
template <class Update, class AtOnce>
constexpr int kChangeSums = most(Update::by_row::sum_count, AtOnce::by_row::sum_count,
                                 Update::by_synapse::sum_count, AtOnce::by_synapse::sum_count);
template <class Update, class AtOnce>
constexpr int kRowSums = 1 + most(4, kChangeSums<Update, AtOnce>, Update::by_synapse::sum_count + 1,
                                  AtOnce::by_synapse::sum_count + 1);

// Calls run(Pass) for the passes [kFirst, kLast).
template <int kFirst, int kLast, class Run>
PLASTIKERN_INLINE void for_passes(const Run& run) {
    if constexpr (kFirst < kLast) {
        run(arithmetic::Pass<kFirst>());
        for_passes<kFirst + 1, kLast>(run);
    }
}

// What a host knows of a rule.
struct RuleFacts {
    int64_t rule, constraint;  // by their places in plastikern/rules/papers.py
    bool loses;                // a step may lose what the trace was before it: only rows that
                               // have lost nothing may be run backwards
    bool unbounded;            // its read is served by one with bounds, which are infinite then
    int row_sums[2];
    bool reverses[2], fades[2];  // without and with eligibility traces
    // By synapse, over a row before the last pass: for the next states, and for all of the adjoint.
    int passes_of_next[2], passes[2];
};

template <class A, class B>
constexpr bool same = false;
template <class A>
constexpr bool same<A, A> = true;

#define PLASTIKERN_FACTS(rule, constraint, update, free, read, served)     \
    {rule,                                                                 \
     constraint,                                                           \
     !same<generated::update, generated::free>,                            \
     !same<generated::read, generated::served>,                            \
     {kRowSums<generated::update, generated::update>,                      \
      kRowSums<generated::update##_retroactive, generated::update>},       \
     {generated::free::reverses, generated::free##_retroactive::reverses}, \
     {generated::free::fades, generated::free##_retroactive::fades},       \
     {generated::update::by_synapse::passes_of_next,                       \
      generated::update##_retroactive::by_synapse::passes_of_next},        \
     {generated::update::by_synapse::passes,                               \
      generated::update##_retroactive::by_synapse::passes}},
constexpr RuleFacts kRules[] = {PLASTIKERN_RULES(PLASTIKERN_FACTS)};
#undef PLASTIKERN_FACTS

constexpr int64_t kRuleCount = sizeof kRules / sizeof *kRules;

// The place of a rule in the table; -1 where there is no such rule.
inline int64_t find_rule(int64_t rule, int64_t constraint) {
    for (int64_t place = 0; place < kRuleCount; ++place) {
        if (kRules[place].rule == rule && kRules[place].constraint == constraint) return place;
    }
    return -1;
}

}  // namespace plastikern
