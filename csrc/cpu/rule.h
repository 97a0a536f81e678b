// A user's rule on the CPU: see ../rule.h.
#pragma once

#include <algorithm>
#include <vector>

#include "../rule.h"
#include "lanes.h"
#include "rule_neurons.h"
#include "team.h"

namespace {

using namespace plastikern;

struct Slots {
    S **element, **row, **column, **synapse;
};

template <class P>
void run_element(const Slots& at) {
    Values<S, P::elements::count> element;
    Values<S, P::made::count> made;
    for_places<P::elements::count>([&](auto k) __attribute__((always_inline)) {
        element[k] = *at.element[P::elements::all[k]];
    });
    P::template run<S>(element, nullptr, nullptr, nullptr, made, nullptr, nullptr, nullptr);
    for_places<P::made::count>(
        [&](auto k) __attribute__((always_inline)) { *at.element[P::made::all[k]] = made[k]; });
}

template <class P>
void run_columns(const Slots& at, int64_t pres) {
    constexpr size_t kSums = P::element_sums::count;
    Values<V, P::elements::count> element;
    Values<V, kSums> sums{};
    for_places<P::elements::count>([&](auto k) __attribute__((always_inline)) {
        element[k] = splat(*at.element[P::elements::all[k]]);
    });
    for_lanes(pres, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        Values<V, P::columns::count> column;
        Values<V, P::made::count> made;
        Values<V, kSums> more;
        for_places<P::columns::count>([&](auto k) __attribute__((always_inline)) {
            column[k] = access.load(at.column[P::columns::all[k]] + i);
        });
        for_places<kSums>([&](auto k) __attribute__((always_inline)) { more[k] = sums[k]; });
        P::template run<V>(element, column, nullptr, nullptr, made, nullptr, nullptr, more);
        for_places<P::made::count>([&](auto k) __attribute__((always_inline)) {
            access.store(at.column[P::made::all[k]] + i, made[k]);
        });
        for_places<kSums>([&](auto k) __attribute__((always_inline)) {
            sums[k] = access.choose(more[k], sums[k]);
        });
    });
    for_places<kSums>([&](auto k) __attribute__((always_inline)) {
        *at.element[P::element_sums::all[k]] = sum_of(sums[k]);
    });
}

template <class P>
void run_row(const Slots& at, int64_t j) {
    Values<S, P::elements::count> element;
    Values<S, P::rows::count> row;
    Values<S, P::made::count> made;
    Values<S, P::element_sums::count> sums;
    for_places<P::elements::count>([&](auto k) __attribute__((always_inline)) {
        element[k] = *at.element[P::elements::all[k]];
    });
    for_places<P::rows::count>(
        [&](auto k) __attribute__((always_inline)) { row[k] = at.row[P::rows::all[k]][j]; });
    for_places<P::element_sums::count>([&](auto k) __attribute__((always_inline)) {
        sums[k] = *at.element[P::element_sums::all[k]];
    });
    P::template run<S>(element, nullptr, row, nullptr, made, nullptr, nullptr, sums);
    for_places<P::made::count>(
        [&](auto k) __attribute__((always_inline)) { at.row[P::made::all[k]][j] = made[k]; });
    for_places<P::element_sums::count>([&](auto k) __attribute__((always_inline)) {
        *at.element[P::element_sums::all[k]] = sums[k];
    });
}

template <class P>
void run_synapses(const Slots& at, int64_t j, int64_t pres, int64_t stride) {
    constexpr size_t kSums = P::row_sums::count;
    // Few sums would wait for each other's latency: they are kept in several chains.
    constexpr int kChains = kSums > 0 && kSums <= 2 ? 4 : 1;
    Values<V, P::elements::count> element;
    Values<V, P::rows::count> row;
    Values<const S*, P::columns::count> columns;
    Values<const S*, P::synapses::count> synapses;
    Values<S*, P::made::count> to;
    Values<S*, P::column_sums::count> column_sums;
    V sums[kSums + 1][kChains] = {};
    for_places<P::elements::count>([&](auto k) __attribute__((always_inline)) {
        element[k] = splat(*at.element[P::elements::all[k]]);
    });
    for_places<P::rows::count>(
        [&](auto k) __attribute__((always_inline)) { row[k] = splat(at.row[P::rows::all[k]][j]); });
    for_places<P::columns::count>(
        [&](auto k) __attribute__((always_inline)) { columns[k] = at.column[P::columns::all[k]]; });
    for_places<P::synapses::count>([&](auto k) __attribute__((always_inline)) {
        synapses[k] = at.synapse[P::synapses::all[k]] + j * stride;
    });
    for_places<P::made::count>([&](auto k) __attribute__((always_inline)) {
        S* matrix = at.synapse[P::made::all[k]];
        to[k] = matrix == nullptr ? nullptr : matrix + j * stride;
    });
    for_places<P::column_sums::count>([&](auto k) __attribute__((always_inline)) {
        column_sums[k] = at.column[P::column_sums::all[k]];
    });
    for_lanes<kChains>(pres, [&](int64_t i, auto access, int chain) __attribute__((always_inline)) {
        Values<V, P::columns::count> column;
        Values<V, P::synapses::count> synapse;
        Values<V, P::made::count> made;
        Values<V, kSums> more;
        Values<V, P::column_sums::count> of_columns;
        for_places<P::columns::count>([&](auto k) __attribute__((always_inline)) {
            column[k] = access.load(columns[k] + i);
        });
        for_places<P::synapses::count>([&](auto k) __attribute__((always_inline)) {
            synapse[k] = access.load(synapses[k] + i);
        });
        for_places<kSums>([&](auto k) __attribute__((always_inline)) { more[k] = sums[k][chain]; });
        for_places<P::column_sums::count>([&](auto k) __attribute__((always_inline)) {
            of_columns[k] = access.load(column_sums[k] + i);
        });
        P::template run<V>(element, column, row, synapse, made, more, of_columns, nullptr);
        for_places<P::made::count>([&](auto k) __attribute__((always_inline)) {
            if constexpr (P::adds::all[k]) {
                if (to[k] != nullptr) access.store(to[k] + i, access.load(to[k] + i) + made[k]);
            } else {
                access.store(to[k] + i, made[k]);
            }
        });
        for_places<kSums>([&](auto k) __attribute__((always_inline)) {
            sums[k][chain] = access.choose(more[k], sums[k][chain]);
        });
        for_places<P::column_sums::count>([&](auto k) __attribute__((always_inline)) {
            access.store(column_sums[k] + i, of_columns[k]);
        });
    });
    for_places<kSums>([&](auto k) __attribute__((always_inline)) {
        V total = sums[k][0];
        for (int chain = 1; chain < kChains; ++chain) total += sums[k][chain];
        at.row[P::row_sums::all[k]][j] = sum_of(total);
    });
}

template <class... Part>
struct Parts {
    // Sums that the parts of rows add to are zero first.
    static void clear(const Slots& at, int64_t pres) {
        [[maybe_unused]] const auto one = [&]<class P>(P) {
            for_places<P::column_sums::count>([&](auto k) __attribute__((always_inline)) {
                std::fill_n(at.column[P::column_sums::all[k]], pres, S(0));
            });
            for_places<P::element_sums::count>([&](auto k) __attribute__((always_inline)) {
                *at.element[P::element_sums::all[k]] = 0;
            });
        };
        (one(Part()), ...);
    }
    static void before(const Slots& at, int64_t pres) {
        [[maybe_unused]] const auto one = [&]<class P>(P) {
            if constexpr (P::level == 0) {
                run_element<P>(at);
            } else {
                run_columns<P>(at, pres);
            }
        };
        (one(Part()), ...);
    }
    static void of_row(const Slots& at, int64_t j, int64_t pres, int64_t stride) {
        [[maybe_unused]] const auto one = [&]<class P>(P) {
            if constexpr (P::level == 1) {
                run_row<P>(at, j);
            } else {
                run_synapses<P>(at, j, pres, stride);
            }
        };
        (one(Part()), ...);
    }
};

template <class BeforeParts, class RowParts>
struct Sweep {
    static void run(const Slots& at, const Job<S>& job) {
        BeforeParts::before(at, job.pres);
        RowParts::clear(at, job.pres);
        for (int64_t j = 0; j < job.posts; ++j) RowParts::of_row(at, j, job.pres, job.stride);
    }
};

template <class... Each>
struct Sweeps {
    static void run(const Slots& at, const Job<S>& job) { (Each::run(at, job), ...); }
};

// Schedules of a unit: a change and a read, a read, a change.
template <class Both, class Reads, class Changes>
struct Variants {
    static void run(int64_t which, const Slots& at, const Job<S>& job) {
        if (which == 0) return Both::run(at, job);
        if (which == 1) return Reads::run(at, job);
        Changes::run(at, job);
    }
};

// The slots of a schedule.
class Bound {
   public:
    Slots at(const Place<S>& place, const Binding<S>& binding, int64_t k, int64_t b,
             int64_t inside) {
        int64_t number = 0;
        for (int64_t level = 0; level < 4; ++level) {
            pointers_[level].resize(binding.counts[level] + 1);
            for (int64_t slot = 0; slot < binding.counts[level]; ++slot, ++number)
                pointers_[level][slot] =
                    place.of(binding.sources[level][slot], k, b, inside, number);
        }
        return {pointers_[0].data(), pointers_[1].data(), pointers_[2].data(), pointers_[3].data()};
    }

   private:
    std::vector<S*> pointers_[4];
};

// A first state, in rows that start on cache lines.
inline void copy_first(const Job<S>& job, int64_t which, int64_t b, S* to) {
    for (int64_t j = 0; j < job.posts; ++j)
        std::copy_n(job.first[which] + (b * job.posts + j) * job.pres, job.pres,
                    to + j * job.stride);
}

// Calls run(first, last) for the groups of elements that a thread takes.
template <class Run>
void for_groups(const Job<S>& job, Team team, Run run) {
    for (int64_t first = team.rank * job.group; first < job.batch; first += team.size * job.group)
        run(first, std::min(first + job.group, job.batch));
}

template <class Forward>
void forward_pass(const Job<S>& job) {
    parallel(job.workers, [&](Team team) {
        const Place<S> place{job, team.rank};
        Bound bound;
        for_groups(job, team, [&](int64_t first, int64_t last) {
            for (int64_t b = first; b < last; ++b) {
                for (int64_t s = 0; s < job.states; ++s)
                    copy_first(job, s, b, job.state[s] + b * place.matrix());
            }
            for (int64_t k = 0; k < units_of(job); ++k) {
                const int64_t which = variant_of(job, k), after = state_after(job, k);
                for (int64_t b = first; b < last; ++b)
                    Forward::run(which, bound.at(place, job.forward[which], k, b, 0), job);
                if (k < job.steps) activate(job, k, first, last);
                if (!is_kept(job, after)) continue;
                for (int64_t b = first; b < last; ++b) {
                    for (int64_t s = 0; s < job.states; ++s)
                        std::copy_n(job.state[s] + b * place.matrix(), place.matrix(),
                                    checkpoint(job, s, after, b));
                }
            }
        });
    });
}

// The states of a segment, from its first one to `last`.
template <class Forward>
void recompute(const Job<S>& job, const Place<S>& place, Bound& bound, int64_t start, int64_t last,
               int64_t b) {
    for (int64_t s = 0; s < job.states; ++s) {
        if (start == 0) {
            copy_first(job, s, b, place.state(0, s));
        } else {
            std::copy_n(checkpoint(job, s, start, b), place.matrix(), place.state(0, s));
        }
    }
    for (int64_t state = start; state < last; ++state) {
        const int64_t k = job.read_after != 0 ? state : state + 1;
        Forward::run(2, bound.at(place, job.again, k, b, state - start), job);
    }
}

// What a unit leaves in slots goes to where gradients are gathered.
inline void add_up(const Place<S>& place, const Binding<S>& binding, const Slots& slots, int64_t k,
                   int64_t b) {
    S** levels[] = {slots.element, slots.row, slots.column, slots.synapse};
    for (int64_t each = 0; each < binding.additions; ++each) {
        const Addition<S>& add = binding.added[each];
        S* to = place.of(add.to, k, b, 0, 0);
        const S* from = levels[add.level][add.slot];
        for (int64_t i = 0; to != nullptr && i < add.count; ++i) to[i] += from[i];
    }
}

template <class Forward, class Backward>
void backward_pass(const Job<S>& job) {
    parallel(job.workers, [&](Team team) {
        Bound bound;
        for_groups(job, team, [&](int64_t first, int64_t last) {
            int64_t start = -1;
            for (int64_t k = units_of(job) - 1; k >= 0; --k) {
                const int64_t which = variant_of(job, k), before = state_before(job, k);
                const bool enters = before / job.every * job.every != start;
                start = before / job.every * job.every;
                if (k < job.steps) activate_adjoint(job, k, first, last);
                for (int64_t b = first; b < last; ++b) {
                    const Place<S> place{job, team.rank, b - first};
                    if (enters) recompute<Forward>(job, place, bound, start, before, b);
                    const Binding<S>& binding = job.backward[which];
                    const Slots slots = bound.at(place, binding, k, b, before - start);
                    Backward::run(which, slots, job);
                    add_up(place, binding, slots, k, b);
                }
            }
        });
    });
}

}  // namespace
