// The parts of a user's rule on the CPU: what is printed of a schedule, run over the slots of a
// unit.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "../rule.h"
#include "lanes.h"

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

// One number at a time, as `for_lanes` has whole vectors.
struct Single {
    static LANES_INLINE S load(const S* from) { return *from; }
    static LANES_INLINE void store(S* to, S value) { *to = value; }
    static LANES_INLINE S choose(S inside, S /*outside*/) { return inside; }
};

// Rows [first, last), in vectors (T = V) or one after another (T = S): what has just been stored
// one by one is not there as a vector at once, and the other way round.
template <class P, typename T>
void run_rows(const Slots& at, int64_t first, int64_t last) {
    constexpr size_t kSums = P::element_sums::count;
    Values<T, P::elements::count> element;
    Values<T, kSums> sums{};
    for_places<P::elements::count>([&](auto k) __attribute__((always_inline)) {
        const S value = *at.element[P::elements::all[k]];
        if constexpr (std::is_same_v<T, S>) {
            element[k] = value;
        } else {
            element[k] = splat(value);
        }
    });
    const auto one = [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        Values<T, P::rows::count> row;
        Values<T, P::made::count> made;
        Values<T, kSums> more;
        for_places<P::rows::count>([&](auto k) __attribute__((always_inline)) {
            row[k] = access.load(at.row[P::rows::all[k]] + first + j);
        });
        for_places<kSums>([&](auto k) __attribute__((always_inline)) { more[k] = sums[k]; });
        P::template run<T>(element, nullptr, row, nullptr, made, nullptr, nullptr, more);
        for_places<P::made::count>([&](auto k) __attribute__((always_inline)) {
            access.store(at.row[P::made::all[k]] + first + j, made[k]);
        });
        for_places<kSums>([&](auto k) __attribute__((always_inline)) {
            sums[k] = access.choose(more[k], sums[k]);
        });
    };
    if constexpr (std::is_same_v<T, S>) {
        for (int64_t j = 0; j < last - first; ++j) one(j, Single(), 0);
    } else {
        for_lanes(last - first, one);
    }
    for_places<kSums>([&](auto k) __attribute__((always_inline)) {
        if constexpr (std::is_same_v<T, S>) {
            *at.element[P::element_sums::all[k]] += sums[k];
        } else {
            *at.element[P::element_sums::all[k]] += sum_of(sums[k]);
        }
    });
}

// Whether a few rows go through many steps at a time, and so stay in the first cache.
#if defined(PLASTIKERN_APART)
constexpr bool kApart = true;
#else
constexpr bool kApart = false;
#endif

// Vectors that the registers hold.
#if defined(__AVX512F__)
constexpr size_t kRegisters = 32;
#else
constexpr size_t kRegisters = 16;
#endif

// How many rows a part of synapses takes at once: vectors of columns, and their sums, are loaded
// once for all of them. What the rows need for themselves must stay in registers. Where several
// matrices come from beyond the first cache, a row after the other: processors fetch few streams
// ahead.
template <class P>
constexpr int rows_at_once() {
    if (!kApart && P::synapses::count > 2) return 1;
    constexpr size_t shared = P::elements::count + P::columns::count + P::column_sums::count,
                     own = P::rows::count + P::row_sums::count,
                     passing = (P::synapses::count + P::made::count) / 2;
    if (shared + 4 * own + passing <= kRegisters) return 4;
    return shared + 2 * own + passing <= kRegisters ? 2 : 1;
}

// Where a part of synapses finds what it takes and puts what it makes, as it is for all rows.
template <class P>
struct Streams {
    Values<V, P::elements::count> element;
    Values<const S*, P::columns::count> columns;
    Values<const S*, P::rows::count> rows;
    Values<const S*, P::synapses::count> synapses;
    Values<S*, P::made::count> to;
    Values<S*, P::column_sums::count> column_sums;
    Values<S*, P::row_sums::count> row_sums;
    int64_t pres, stride;

    LANES_INLINE Streams(const Slots& at, const Job<S>& job) : pres(job.pres), stride(job.stride) {
        for_places<P::elements::count>([&](auto k) __attribute__((always_inline)) {
            element[k] = splat(*at.element[P::elements::all[k]]);
        });
        find<typename P::columns>(columns, at.column);
        find<typename P::rows>(rows, at.row);
        find<typename P::synapses>(synapses, at.synapse);
        find<typename P::made>(to, at.synapse);
        find<typename P::column_sums>(column_sums, at.column);
        find<typename P::row_sums>(row_sums, at.row);
    }

   private:
    template <class Which, typename T>
    static LANES_INLINE void find(T* pointers, S* const* slots) {
        for_places<Which::count>(
            [&](auto k) __attribute__((always_inline)) { pointers[k] = slots[Which::all[k]]; });
    }
};

// kRows rows from row j on.
template <class P, int kRows>
LANES_INLINE void run_synapses(const Streams<P>& at, int64_t j) {
    constexpr size_t kSums = P::row_sums::count;
    // Few sums would wait for each other's latency: they are kept in several chains.
    constexpr int kChains = kSums > 0 && kSums <= 2 ? 4 / kRows : 1;
    const int64_t stride = at.stride;
    Values<V, P::rows::count> rows[kRows];
    V sums[kRows][kSums + 1][kChains] = {};
    for_places<P::rows::count>([&](auto k) __attribute__((always_inline)) {
        for_places<kRows>([&](auto r) __attribute__((always_inline)) {
            rows[r][k] = splat(at.rows[k][j + static_cast<int64_t>(r)]);
        });
    });
    Values<const S*, P::columns::count> columns;
    Values<const S*, P::synapses::count> synapses;
    Values<S*, P::made::count> to;
    Values<S*, P::column_sums::count> column_sums;
    for_places<P::columns::count>(
        [&](auto k) __attribute__((always_inline)) { columns[k] = at.columns[k]; });
    for_places<P::synapses::count>(
        [&](auto k) __attribute__((always_inline)) { synapses[k] = at.synapses[k] + j * stride; });
    for_places<P::made::count>(
        [&](auto k) __attribute__((always_inline)) { to[k] = at.to[k] + j * stride; });
    for_places<P::column_sums::count>(
        [&](auto k) __attribute__((always_inline)) { column_sums[k] = at.column_sums[k]; });
    for_lanes<kChains>(
        at.pres, [&](int64_t i, auto access, int chain) __attribute__((always_inline)) {
            Values<V, P::columns::count> column;
            Values<V, P::column_sums::count> of_columns;
            for_places<P::columns::count>([&](auto k) __attribute__((always_inline)) {
                column[k] = access.load(columns[k] + i);
            });
            for_places<P::column_sums::count>([&](auto k) __attribute__((always_inline)) {
                of_columns[k] = access.load(column_sums[k] + i);
            });
            for_places<kRows>([&](auto r) __attribute__((always_inline)) {
                const int64_t here = i + static_cast<int64_t>(r) * stride;
                Values<V, P::synapses::count> synapse;
                Values<V, P::made::count> made;
                Values<V, kSums> more;
                for_places<P::synapses::count>([&](auto k) __attribute__((always_inline)) {
                    synapse[k] = access.load(synapses[k] + here);
                });
                for_places<kSums>(
                    [&](auto k) __attribute__((always_inline)) { more[k] = sums[r][k][chain]; });
                P::template run<V>(at.element, column, rows[r], synapse, made, more, of_columns,
                                   nullptr);
                for_places<P::made::count>([&](auto k) __attribute__((always_inline)) {
                    if constexpr (P::adds::all[k]) made[k] += access.load(to[k] + here);
                    access.store(to[k] + here, made[k]);
                });
                for_places<kSums>([&](auto k) __attribute__((always_inline)) {
                    sums[r][k][chain] = access.choose(more[k], sums[r][k][chain]);
                });
            });
            for_places<P::column_sums::count>([&](auto k) __attribute__((always_inline)) {
                access.store(column_sums[k] + i, of_columns[k]);
            });
        });
    for_places<kSums>([&](auto k) __attribute__((always_inline)) {
        for_places<kRows>([&](auto r) __attribute__((always_inline)) {
            V total = sums[r][k][0];
            for (int chain = 1; chain < kChains; ++chain) total += sums[r][k][chain];
            at.row_sums[k][j + static_cast<int64_t>(r)] = sum_of(total);
        });
    });
}

// By itself, so that the registers hold what the rows need and nothing else.
template <class P, int kRows>
__attribute__((noinline)) void run_group(const Slots& slots, const Job<S>& job, int64_t j) {
    run_synapses<P, kRows>(Streams<P>(slots, job), j);
}

template <class P>
void run_synapses(const Slots& slots, const Job<S>& job, int64_t first, int64_t last) {
    constexpr int kRows = rows_at_once<P>();
    if constexpr (kApart || kRows > 1) {
        int64_t j = first;
        for (; j + kRows <= last; j += kRows) run_group<P, kRows>(slots, job, j);
        for (; j < last; ++j) run_group<P, 1>(slots, job, j);
    } else {
        const Streams<P> at(slots, job);
        for (int64_t j = first; j < last; ++j) run_synapses<P, 1>(at, j);
    }
}

template <class... Part>
struct Parts {
    // Where the synapses are gone over more than once, a few rows at a time, so that the next part
    // finds them in the first cache.
    static constexpr bool once = (0 + ... + (Part::level == 3)) <= 1;
    static constexpr int64_t block = once && !kApart ? std::numeric_limits<int64_t>::max() : 4;

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
    static void run(const Slots& at, const Job<S>& job, int64_t first, int64_t last) {
        for (int64_t j = first, end; j < last; j = end) {
            end = last - j > block ? j + block : last;
            [[maybe_unused]] const auto one = [&]<class P>(P) {
                if constexpr (P::level == 1) {
                    run_rows<P, std::conditional_t<kApart || !once, S, V>>(at, j, end);
                } else {
                    run_synapses<P>(at, job, j, end);
                }
            };
            (one(Part()), ...);
        }
    }
};

template <class BeforeParts, class RowParts>
struct Sweep {
    static void run(const Slots& at, const Job<S>& job) {
        BeforeParts::before(at, job.pres);
        RowParts::clear(at, job.pres);
        RowParts::run(at, job, 0, job.posts);
    }
};

template <class... Each>
struct Sweeps {
    static void run(const Slots& at, const Job<S>& job) { (Each::run(at, job), ...); }
};

// The same where no row needs another one: what rows need comes first, the rest when all rows are
// through.
template <class EarlyParts, class RowParts, class LateParts>
struct Apart {
    static void early(const Slots& at, const Job<S>& job) {
        EarlyParts::before(at, job.pres);
        RowParts::clear(at, job.pres);
    }
    static void rows(const Slots& at, const Job<S>& job, int64_t first, int64_t last) {
        RowParts::run(at, job, first, last);
    }
    static void late(const Slots& at, const Job<S>& job) { LateParts::before(at, job.pres); }
};

// Schedules of a unit: a change and a read, a read, a change.
template <class Both, class Reads, class Changes>
struct Variants {
    // Calls run(schedule) for one of them.
    template <class Run>
    static void with(int64_t which, const Run& run) {
        if (which == 0) return run(Both());
        if (which == 1) return run(Reads());
        run(Changes());
    }
    static void run(int64_t which, const Slots& at, const Job<S>& job) {
        with(which, [&](auto schedule) { schedule.run(at, job); });
    }
    static void early(int64_t which, const Slots& at, const Job<S>& job) {
        with(which, [&](auto schedule) { schedule.early(at, job); });
    }
    static void rows(int64_t which, const Slots& at, const Job<S>& job, int64_t first,
                     int64_t last) {
        with(which, [&](auto schedule) { schedule.rows(at, job, first, last); });
    }
    static void late(int64_t which, const Slots& at, const Job<S>& job) {
        with(which, [&](auto schedule) { schedule.late(at, job); });
    }
};

}  // namespace
