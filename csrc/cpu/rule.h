// A user's rule on the CPU: see ../rule.h.
#pragma once

#include <algorithm>
#include <new>
#include <vector>

#include "../rule.h"
#include "lanes.h"
#include "rule_neurons.h"
#include "rule_parts.h"
#include "team.h"

namespace {

using namespace plastikern;

// The slots of a schedule.
class Bound {
   public:
    // `room`: of scratch slots, if not the worker's.
    Slots at(const Place<S>& place, const Binding<S>& binding, int64_t k, int64_t b, int64_t inside,
             S* room = nullptr) {
        int64_t number = 0;
        for (int64_t level = 0; level < 4; ++level) {
            pointers_[level].resize(binding.counts[level] + 1);
            for (int64_t slot = 0; slot < binding.counts[level]; ++slot, ++number) {
                const Source<S>& source = binding.sources[level][slot];
                // Those of rows are used as soon as they are made.
                const bool own = room != nullptr && level != 1 && source.role == Source<S>::scratch;
                pointers_[level][slot] =
                    own ? room + number * place.job.width : place.of(source, k, b, inside, number);
            }
        }
        return slots();
    }
    Slots slots() {
        return {pointers_[0].data(), pointers_[1].data(), pointers_[2].data(), pointers_[3].data()};
    }
    // Puts the states of a segment into a block of rows, `distance` values from one to the next.
    void put(const Job<S>& job, const Binding<S>& binding, int64_t inside, S* block,
             int64_t distance) {
        for (int64_t slot = 0; slot < binding.counts[3]; ++slot) {
            const Source<S>& source = binding.sources[3][slot];
            if (source.role != Source<S>::segment) continue;
            const int64_t number = (inside + source.offset) * job.states + source.batch;
            pointers_[3][slot] = block + number * distance;
        }
    }

   private:
    std::vector<S*> pointers_[4];
};

// A first state, in rows that start on cache lines.
inline void copy_first(const Job<S>& job, int64_t which, int64_t b, S* to, int64_t first,
                       int64_t last) {
    for (int64_t j = first; j < last; ++j)
        std::copy_n(job.first[which] + (b * job.posts + j) * job.pres, job.pres,
                    to + (j - first) * job.stride);
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
                    copy_first(job, s, b, job.state[s] + b * place.matrix(), 0, job.posts);
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

// The unit that changes a state.
inline int64_t change_of(const Job<S>& job, int64_t state) {
    return job.read_after != 0 ? state : state + 1;
}

// The states of a segment, from its first one to `last`.
template <class Forward>
void recompute(const Job<S>& job, const Place<S>& place, Bound& bound, int64_t start, int64_t last,
               int64_t b) {
    for (int64_t s = 0; s < job.states; ++s) {
        if (start == 0) {
            copy_first(job, s, b, place.state(0, s), 0, job.posts);
        } else {
            std::copy_n(checkpoint(job, s, start, b), place.matrix(), place.state(0, s));
        }
    }
    for (int64_t state = start; state < last; ++state) {
        Forward::run(2, bound.at(place, job.again, change_of(job, state), b, state - start), job);
    }
}

// What a unit leaves in slots goes to where gradients are gathered: of rows [first, last), or of
// columns and of the element.
inline void add_up(const Place<S>& place, const Binding<S>& binding, const Slots& slots, int64_t k,
                   int64_t b, bool of_rows, int64_t first, int64_t last) {
    S** levels[] = {slots.element, slots.row, slots.column};
    for (int64_t each = 0; each < binding.additions; ++each) {
        const Addition<S>& add = binding.added[each];
        if ((add.level == 1) != of_rows) continue;
        S* to = place.of(add.to, k, b, 0, 0);
        const S* from = levels[add.level][add.slot];
        const int64_t end = of_rows ? last : add.count;
        for (int64_t i = of_rows ? first : 0; i < end; ++i) to[i] += from[i];
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
                    if (enters) recompute<Forward>(job, place, bound, start, before + job.ahead, b);
                    const Binding<S>& binding = job.backward[which];
                    const Slots slots = bound.at(place, binding, k, b, before - start);
                    Backward::run(which, slots, job);
                    add_up(place, binding, slots, k, b, true, 0, job.posts);
                    add_up(place, binding, slots, k, b, false, 0, 0);
                }
            }
        });
    });
}

// Memory of a thread, on cache lines.
class Room {
   public:
    explicit Room(int64_t values)
        : memory_(static_cast<S*>(::operator new(static_cast<size_t>(values) * sizeof(S), kLine))) {
    }
    ~Room() { ::operator delete(memory_, kLine); }
    Room(const Room&) = delete;
    Room& operator=(const Room&) = delete;
    S* at(int64_t place) const { return memory_ + place; }

   private:
    static constexpr std::align_val_t kLine{64};
    S* memory_;
};

// Where no row needs another one, a few rows go through many units before the next ones do: so many
// that what they go over at each unit, `matrices` of the layer, stays in the first cache, and what
// they have of a segment in the second one.
inline int64_t rows_of_block(const Job<S>& job, int64_t matrices, int64_t of_segment) {
    const int64_t row = job.stride * static_cast<int64_t>(sizeof(S));
    for (int64_t rows = 16; rows > 4; rows /= 2) {
        if (rows * matrices * row <= int64_t{48} << 10 && rows * of_segment * row <= int64_t{256}
                                                                                         << 10)
            return rows;
    }
    return 4;
}
// Calls run(first, last) for blocks of so many rows.
template <class Run>
void for_blocks(int64_t begin, int64_t end, int64_t rows, Run run) {
    for (int64_t j = begin; j < end; j += rows) run(j, std::min(j + rows, end));
}
// The same for halves of a block. While one half waits for the activities that it needs at the next
// unit, the other one is at work.
template <class Run>
void for_halves(int64_t first, int64_t last, int64_t rows, Run run) {
    for_blocks(first, last, std::max<int64_t>(rows / 2, 4), run);
}

// Neurons [first, last) at step k, and back.
inline void activate_rows(const Job<S>& job, int64_t k, int64_t b, int64_t first, int64_t last) {
    for_lanes(last - first, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        fire<V>(job, k, b, first + j, access);
    });
}
inline void activate_rows_adjoint(const Job<S>& job, int64_t k, int64_t b, int64_t first,
                                  int64_t last) {
    for_lanes(last - first, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        fire_adjoint<V>(job, k, b, first + j, access, V{});
    });
}

// Units that go over a block of rows at a time, where nothing is kept.
constexpr int64_t kUnitsAtOnce = 16;

template <class Forward>
void forward_apart(const Job<S>& job, const Place<S>& place, int64_t b, std::vector<Bound>& bounds,
                   const Room& room, int64_t first_unit, int64_t last_unit) {
    const int64_t size = job.slots * job.width, matrix = place.matrix();
    for (int64_t k = first_unit; k <= last_unit; ++k) {
        const int64_t which = variant_of(job, k), at = k - first_unit;
        Forward::early(which, bounds[at].at(place, job.forward[which], k, b, 0, room.at(at * size)),
                       job);
    }
    const int64_t after = state_after(job, last_unit);
    const int64_t rows = rows_of_block(job, job.forward[0].counts[3], 0);
    for_blocks(0, job.posts, rows, [&](int64_t first, int64_t last) {
        for (int64_t s = 0; first_unit == 0 && s < job.states; ++s)
            copy_first(job, s, b, job.state[s] + b * matrix + first * job.stride, first, last);
        for (int64_t k = first_unit; k <= last_unit; ++k) {
            const Slots slots = bounds[k - first_unit].slots();
            for_halves(first, last, rows, [&](int64_t from, int64_t to) {
                Forward::rows(variant_of(job, k), slots, job, from, to);
                if (k < job.steps) activate_rows(job, k, b, from, to);
            });
        }
        for (int64_t s = 0; is_kept(job, after) && s < job.states; ++s)
            std::copy_n(job.state[s] + b * matrix + first * job.stride, (last - first) * job.stride,
                        checkpoint(job, s, after, b) + first * job.stride);
    });
}

template <class Forward, class Backward>
void backward_apart(const Job<S>& job, const Place<S>& place, int64_t b, std::vector<Bound>& bounds,
                    const Room& room, int64_t start) {
    const int64_t first_unit = start == 0 ? 0 : change_of(job, start);
    const int64_t last_unit = std::min(change_of(job, start + job.every - 1), units_of(job) - 1);
    const int64_t changes = job.states == 0 ? 0 : state_before(job, last_unit) + job.ahead - start;
    const int64_t size = job.slots * job.width;
    Bound* again = bounds.data();
    const auto unit = [&](int64_t k) -> Bound& { return bounds[job.every + k - first_unit]; };
    S* slots = room.at(0);
    for (int64_t s = 0; s < changes; ++s, slots += size)
        Forward::early(2, again[s].at(place, job.again, change_of(job, start + s), b, s, slots),
                       job);
    for (int64_t k = first_unit; k <= last_unit; ++k, slots += size) {
        const int64_t which = variant_of(job, k);
        Backward::early(which, unit(k).at(place, job.backward[which], k, b, 0, slots), job);
    }
    S* states = room.at((2 * job.every + 1) * size);
    const int64_t rows =
        rows_of_block(job, job.backward[0].counts[3], job.states * (job.every + 1));
    for_blocks(0, job.posts, rows, [&](int64_t first, int64_t last) {
        const int64_t distance = rows * job.stride, before = first * job.stride;
        S* block = reinterpret_cast<S*>(reinterpret_cast<intptr_t>(states) -
                                        before * static_cast<int64_t>(sizeof(S)));
        for (int64_t s = 0; s < job.states; ++s) {
            S* to = states + s * distance;
            if (start == 0) {
                copy_first(job, s, b, to, first, last);
            } else {
                std::copy_n(checkpoint(job, s, start, b) + before, (last - first) * job.stride, to);
            }
        }
        for (int64_t s = 0; s < changes; ++s) {
            again[s].put(job, job.again, s, block, distance);
            Forward::rows(2, again[s].slots(), job, first, last);
        }
        for (int64_t k = last_unit; k >= first_unit; --k) {
            const int64_t which = variant_of(job, k);
            unit(k).put(job, job.backward[which], state_before(job, k) - start, block, distance);
            for_halves(first, last, rows, [&](int64_t from, int64_t to) {
                if (k < job.steps) activate_rows_adjoint(job, k, b, from, to);
                Backward::rows(which, unit(k).slots(), job, from, to);
                add_up(place, job.backward[which], unit(k).slots(), k, b, true, from, to);
            });
        }
    });
    for (int64_t k = last_unit; k >= first_unit; --k) {
        const int64_t which = variant_of(job, k);
        Backward::late(which, unit(k).slots(), job);
        add_up(place, job.backward[which], unit(k).slots(), k, b, false, 0, 0);
    }
}

template <class Forward>
void forward_pass_apart(const Job<S>& job) {
    parallel(job.workers, [&](Team team) {
        const Place<S> place{job, team.rank};
        const int64_t most = job.every > 0 ? job.every + 1 : kUnitsAtOnce;
        std::vector<Bound> bounds(most);
        const Room room(most * job.slots * job.width);
        for (int64_t b = team.rank; b < job.batch; b += team.size) {
            for (int64_t k = 0, last = 0; k < units_of(job); k = last + 1) {
                last = job.every > 0 ? k : k + most - 1;
                while (job.every > 0 && !is_kept(job, state_after(job, last)) &&
                       last - k < most - 1)
                    ++last;
                last = std::min(last, units_of(job) - 1);
                forward_apart<Forward>(job, place, b, bounds, room, k, last);
            }
        }
    });
}

template <class Forward, class Backward>
void backward_pass_apart(const Job<S>& job) {
    parallel(job.workers, [&](Team team) {
        const Place<S> place{job, team.rank};
        const int64_t units = 2 * job.every + 1;
        std::vector<Bound> bounds(units);
        const Room room(units * job.slots * job.width +
                        (job.every + 1) * job.states * 16 * job.stride);
        for (int64_t b = team.rank; b < job.batch; b += team.size) {
            const int64_t last = state_before(job, units_of(job) - 1) / job.every * job.every;
            for (int64_t start = last; start >= 0; start -= job.every)
                backward_apart<Forward, Backward>(job, place, b, bounds, room, start);
        }
    });
}

}  // namespace
