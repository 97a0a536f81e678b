// A user's rule: what its kernels are told, on every device. They are templates over what is
// printed of the rule (Python's plastikern/rules/programs.py). Knows nothing of torch.
//
// Everything that a unit takes, makes or returns lies in a slot: of the element one number, of
// columns a vector (I,), of rows a vector (O,), of synapses a matrix (O, stride), whose rows start
// on cache lines. A part of a schedule
// names the slots that it takes and makes:
//
//   elements, columns, rows, synapses    slots that are taken
//   made                                 slots of its own level; `adds`: whether what is there
//   stays row_sums, column_sums, element_sums  slots of sums over its synapses, columns or rows
//   run(element, column, row, synapse, made, row_sums, column_sums, element_sums)
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "neuron.h"

namespace plastikern {

// A place as a constant, on a device, too.
template <size_t kPlace>
struct At {
    PLASTIKERN_INLINE constexpr operator size_t() const { return kPlace; }
};

#if defined(__CUDACC__)
#define PLASTIKERN_ALWAYS
#else
#define PLASTIKERN_ALWAYS __attribute__((always_inline))
#endif

// Calls run(place) with 0, ..., kCount - 1 as constants.
template <size_t kCount, class Run>
PLASTIKERN_INLINE void for_places(const Run& run) {
    [&]<size_t... k>(std::index_sequence<k...>)
        PLASTIKERN_ALWAYS { (run(At<k>()), ...); }(std::make_index_sequence<kCount>());
}

// Numbers of slots.
template <int... kSlot>
struct Places {
    static constexpr size_t count = sizeof...(kSlot);
    static constexpr int all[] = {kSlot..., -1};
};

// As many values as a part has of something.
template <typename T, size_t kCount>
using Values = T[kCount + 1];

// Where a slot lies at unit k of element b: base + (k + offset) * step + b * batch.
template <typename S>
struct Source {
    // memory: there. parity: (k + offset) modulo 2 in the place of it. scratch: of the thread.
    // segment: the state number `batch` of a segment, before the unit or, offset 1, after it.
    // total: of the thread, `batch` values from its start.
    enum Role : int64_t { memory, parity, scratch, segment, total } role;
    S* base;
    int64_t step, batch, offset;
};

// What a slot of a vector, or of one number, is added to after a unit.
template <typename S>
struct Addition {
    int64_t level, slot;
    Source<S> to;
    int64_t count;
};

// The slots of one schedule: by level, their number and sources.
template <typename S>
struct Binding {
    int64_t counts[4];
    const Source<S>* sources[4];
    int64_t additions;
    const Addition<S>* added;
};

template <typename S>
struct Job {
    int64_t steps, batch, posts, pres, stride, every, read_after, activity, states, totals;
    // A NetworkKind. With gates: what the rule sees as y (a Post), and where the history lies,
    // (T, B, rows, O); its step is 0 where each one writes over the one before. `group`: elements
    // that a worker takes through the steps together.
    int64_t kind, post, history_step, history_rows, group;
    Binding<S> forward[3], again, backward[3];  // a change and a read, a read, a change
    const S* drive;                             // (T, B, O); with gates: (T, B, 4 O)
    const S* clamp;         // (T, B, O), not 0 where the activity is the drive; or null
    const S *gates, *cell;  // with gates: (3 O, O), gru: (2 O, O), recurrent weights that are not
                            // plastic; lstm: (B, O), the first one
    // (B, O), (T, B, O), (T, B, O) the activities, which lie behind the first ones, (B, O), of a
    // recurrent connection.
    S *sum, *z, *y;
    S* history;                // with gates: what is kept of a cell
    const S* const* first;     // of each state of synapses (B, O, I)
    S* const* state;           // (B, O, stride), as the steps change it
    S* const* checkpoint;      // of each (C, B, O, stride), or null
    S *grad_y, *grad_z;        // (T, B, O)
    S *grad_drive, *grad_sum;  // as the drive; (T, B, O), the same memory where both are the same
    S* grad_post;              // with gates: (T, B, O), or null where the activities are the post
    S* grad_cell;              // lstm: (B, O), of the cell after a step, then of that before it
    // Totals of each thread, of a block on a device, and what each of these works in: slots of
    // `width` values, sums of its warps, a segment.
    S *totals_of, *work;
    int64_t width, slots, sums, workers;
    int64_t ahead;  // whether a backward unit takes states after it, too
    // Where the job lies, with all arrays that it points into behind it, and the shared memory that
    // a block takes on a device.
    int64_t home, shared;
};

template <typename S>
PLASTIKERN_INLINE int64_t units_of(const Job<S>& job) {
    return job.read_after != 0 ? job.steps : job.steps + 1;
}
template <typename S>
PLASTIKERN_INLINE int64_t variant_of(const Job<S>& job, int64_t k) {
    if (job.read_after != 0 || (k > 0 && k < job.steps)) return 0;
    return k == 0 ? 1 : 2;
}
// Which state a unit finds: the number of changes before.
template <typename S>
PLASTIKERN_INLINE int64_t state_before(const Job<S>& job, int64_t k) {
    return job.read_after != 0 ? k : (k > 0 ? k - 1 : 0);
}
template <typename S>
PLASTIKERN_INLINE int64_t state_after(const Job<S>& job, int64_t k) {
    return job.read_after != 0 ? k + 1 : k;
}

// Whether the states after so many changes are kept for the backward pass.
template <typename S>
PLASTIKERN_INLINE bool is_kept(const Job<S>& job, int64_t changes) {
    return job.every > 0 && changes > 0 && changes < job.steps && changes % job.every == 0;
}
template <typename S>
PLASTIKERN_INLINE S* checkpoint(const Job<S>& job, int64_t which, int64_t changes, int64_t b) {
    return job.checkpoint[which] +
           ((changes / job.every - 1) * job.batch + b) * job.posts * job.stride;
}
// Where a worker has what it works in.
template <typename S>
struct Place {
    const Job<S>& job;
    int64_t worker, member = 0;  // of the worker's group

    PLASTIKERN_INLINE int64_t matrix() const { return job.posts * job.stride; }
    PLASTIKERN_INLINE int64_t segment() const { return (job.every + 1) * job.states * matrix(); }
    PLASTIKERN_INLINE int64_t size() const {
        return (job.slots + job.sums) * job.width + job.group * segment();
    }
    PLASTIKERN_INLINE S* slot(int64_t number) const {
        return job.work + worker * size() + number * job.width;
    }
    PLASTIKERN_INLINE S* sum(int64_t number) const { return slot(job.slots + number); }
    // State number `which`, `inside` steps after the segment's first one.
    PLASTIKERN_INLINE S* state(int64_t inside, int64_t which) const {
        return sum(job.sums) + member * segment() + (inside * job.states + which) * matrix();
    }
    // Of unit k of element b, `inside` its segment; `number`: of the slot.
    PLASTIKERN_INLINE S* of(const Source<S>& source, int64_t k, int64_t b, int64_t inside,
                            int64_t number) const {
        switch (source.role) {
            case Source<S>::parity:
                return source.base + ((k + source.offset) & 1) * source.step + b * source.batch;
            case Source<S>::scratch:
                return slot(number);
            case Source<S>::segment:
                return state(inside + source.offset, source.batch);
            case Source<S>::total:
                return job.totals_of + worker * job.totals + source.batch;
            default:
                if (source.base == nullptr) return nullptr;
                return source.base + (k + source.offset) * source.step + b * source.batch;
        }
    }
};

}  // namespace plastikern
