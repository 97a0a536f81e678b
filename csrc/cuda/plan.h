// How a pass is laid out on a device: which blocks take which rows of which elements, and what lies
// on the chip.
//
// One kernel serves three forms, which differ in this plan only:
//
//     resident      one launch; a block has an element to itself, its traces in shared memory
//     cooperative   one launch; blocks share elements, a piece of the traces in each one's shared
//     memory, with a
//                   barrier between the blocks of a group at every step
//     streaming     a launch for every unit; traces in global memory, read and written once a unit
//
// Nothing here knows CUDA, so that a plan can be made, and explained, for a device that is not
// there.
#pragma once

#include <string>

#include "../network.h"

namespace plastikern::cuda {

constexpr int64_t kRows = 2;  // of a warp at once

// Warps of a block at most: so many that each thread has the registers that it needs.
PLASTIKERN_INLINE constexpr int64_t most_warps(bool backward, bool retroactive,
                                               int64_t scalar_bytes) {
    if (scalar_bytes > 4) return 8;
    return backward ? (retroactive ? 8 : 12) : (retroactive ? 12 : 16);
}

struct Device {
    int64_t processors;        // SMs
    int64_t shared_per_block;  // bytes, the most that a kernel may opt in to
    int64_t level_two;         // bytes of second-level cache
    bool cooperative = true;   // whether blocks of a launch may wait for each other
};

enum class Form : int64_t { resident, cooperative, streaming };

struct Plan {
    Form form;
    int64_t warps;         // of a block
    int64_t share;         // blocks that share an element: a group of blocks
    int64_t rows;          // of a block: of `share` blocks, all but the last have as many
    int64_t groups;        // of blocks
    int64_t together;      // elements that a group takes through the steps at once
    int64_t waves;         // how often it does so
    bool at_once;          // a step that updates its traces in the launch that reads them
    bool vectors_on_chip;  // what there is of one value per neuron: else it lies in global memory,
                           // where any launch finds it
    bool traces_on_chip;   // forward: traces; backward: their gradients
    bool parameters_on_chip;
    bool alphas_on_chip;   // backward: the gradient of alpha
    bool columns_on_chip;  // backward: the warps' sums over rows
    int64_t launches;
    int64_t shared_bytes, scratch_bytes;
    double memory_bytes;  // calculated: what moves between chip and memory, of traces, parameters
                          // and their gradients
    double clocks;        // calculated, of one step

    PLASTIKERN_INLINE bool one_launch() const { return form != Form::streaming; }
    // Whether nobody else reads or writes what a block has on its chip.
    PLASTIKERN_INLINE bool alone() const { return vectors_on_chip && share == 1; }
    PLASTIKERN_INLINE int64_t blocks() const { return share * groups; }
};

// Divides a stretch of memory into parts: counted first, without memory, then handed out, by the
// same lines.
template <typename S>
class Parts {
   public:
    PLASTIKERN_INLINE explicit Parts(S* start = nullptr) : start_(start) {}
    PLASTIKERN_INLINE S* take(int64_t count) {
        S* part = start_ == nullptr ? nullptr : start_ + used_;
        used_ += (count + 3) / 4 * 4;
        return part;
    }
    PLASTIKERN_INLINE int64_t count() const { return used_; }

   private:
    S* start_;
    int64_t used_ = 0;
};

// From one of two: a choice between the two themselves would keep both in memory.
template <typename S>
PLASTIKERN_INLINE S* take(bool from_first, Parts<S>& first, Parts<S>& second, int64_t count) {
    S* one = first.take(from_first ? count : 0);
    S* other = second.take(from_first ? 0 : count);
    return from_first ? one : other;
}

// Traces, or their gradients, of some rows of some elements, next to each other.
template <typename S>
struct Tile {
    S* data = nullptr;
    int64_t matrix = 0, element = 0, pres = 0;

    PLASTIKERN_INLINE static int64_t size(const Network<S>& n, int64_t rows, int64_t elements) {
        return elements * rows * n.pres * (n.retroactive ? 2 : 1);
    }
    PLASTIKERN_INLINE Tile(const Network<S>& n, S* memory, int64_t rows)
        : data(memory), matrix(rows * n.pres), element(size(n, rows, 1)), pres(n.pres) {}
    PLASTIKERN_INLINE TraceRows<S> of(int64_t e) const {
        S* first = data + e * element;
        return {first, first + matrix, pres, pres};
    }
};

// Parameters of a block's rows, where they lie on the chip.
template <typename S>
struct ParameterPlaces {
    S *weight = nullptr, *alpha = nullptr, *gates = nullptr;

    PLASTIKERN_INLINE ParameterPlaces(const Network<S>& n, const Plan& plan, Parts<S>& chip) {
        if (!plan.parameters_on_chip) return;
        weight = chip.take(plan.rows * n.pres);
        if (n.connection.layout != Layout::per_neuron) alpha = chip.take(plan.rows * n.pres);
        if (n.kind == NetworkKind::lstm) gates = chip.take(3 * plan.rows * n.pres);
    }
};

// What a block of a forward pass works in: on the chip, or in its own part of the scratch.
template <typename S>
struct ForwardPlaces {
    S* pres;    // (together, 3, I): of three steps; or none
    S* sums;    // (together, 4 or 1, rows): of the connection, and of an LSTM's gates i, f, o
    S* traces;  // Tile of (together); or none
    ParameterPlaces<S> parameters;

    PLASTIKERN_INLINE static int64_t sums_of_row(const Network<S>& n) {
        return n.kind == NetworkKind::lstm ? 4 : 1;
    }
    PLASTIKERN_INLINE ForwardPlaces(const Network<S>& n, const Plan& plan, Parts<S>& chip,
                                    Parts<S>& own)
        : pres(plan.vectors_on_chip ? chip.take(plan.together * 3 * n.pres) : nullptr),
          sums(take(plan.vectors_on_chip, chip, own, plan.together * sums_of_row(n) * plan.rows)),
          traces(plan.traces_on_chip ? chip.take(Tile<S>::size(n, plan.rows, plan.together))
                                     : nullptr),
          parameters(n, plan, chip) {}
};

// What a block of a backward pass works in: its own, on the chip or in its part of the scratch; and
// its group's.
template <typename S>
struct BackwardPlaces {
    S* pres;         // as forward
    S* columns;      // (warps, 2, I): sums over a warp's rows, of the pre of this step and the one
                     // before
    S* grad_traces;  // Tile of (together)
    ParameterPlaces<S> parameters;
    S* grad_alphas;              // (rows, I); or none: straight to the group's part
    S *grad_posts, *grad_cells;  // (together, rows)
    S* sums;                     // (5, rows), as RowSum says: of one element
    S* segment;                  // (checkpoint_every - 1) tiles: the traces between two checkpoints
    // Of the group.
    S* totals;     // (3, together, share, I): of the gradient of pre, of three steps
    S* rate_rows;  // (2, together, O): what each row gives to the gradient of the modulator, of two
                   // steps
    S* row_sums;   // (4, O): gradients of rate, rate_scale, eligibility_rate and alpha, as far as
                   // they are per neuron
    S* alphas;     // (O, I), or none
    S* rates;      // (3, O, I): of the three rates per synapse, or none

    // Traces between two checkpoints that are computed again together.
    PLASTIKERN_INLINE static int64_t segment_steps(const Network<S>& n) {
        return (n.checkpoint_every < n.steps ? n.checkpoint_every : n.steps) -
               (n.steps > 0 ? 1 : 0);
    }
    PLASTIKERN_INLINE BackwardPlaces(const Network<S>& n, const Gradients<S>& g, const Plan& plan,
                                     Parts<S>& chip, Parts<S>& own, Parts<S>& zeroed,
                                     Parts<S>& group)
        : pres(plan.vectors_on_chip ? chip.take(plan.together * 3 * n.pres) : nullptr),
          columns(take(plan.columns_on_chip, chip, own, plan.warps * 2 * n.pres)),
          grad_traces(
              take(plan.traces_on_chip, chip, own, Tile<S>::size(n, plan.rows, plan.together))),
          parameters(n, plan, chip),
          grad_alphas(plan.alphas_on_chip ? chip.take(plan.rows * n.pres) : nullptr) {
        const bool alone = plan.alone();
        const auto local = [&](int64_t count) {
            return take(plan.vectors_on_chip, chip, own, count);
        };
        grad_posts = local(plan.together * plan.rows);
        grad_cells = local(plan.together * plan.rows);
        sums = local(5 * plan.rows);
        segment = own.take(segment_steps(n) * Tile<S>::size(n, plan.rows, plan.together));
        totals = take(alone, chip, group, 3 * plan.together * plan.share * n.pres);
        rate_rows = take(alone, chip, group, n.modulator ? 2 * plan.together * n.posts : 0);
        row_sums = zeroed.take(4 * n.posts);
        const bool per_synapse = n.connection.layout == Layout::per_synapse;
        alphas = g.alpha != nullptr && n.connection.layout != Layout::per_neuron
                     ? zeroed.take(n.synapses())
                     : nullptr;
        rates = per_synapse ? zeroed.take(3 * n.synapses()) : nullptr;
    }
};

// Bytes from one barrier's counter to the next: a cache line each, or blocks that wait at one
// barrier slow down others.
constexpr int64_t kCounterBytes = 128;

// The whole scratch: counters of the barriers, zeros to read, what starts as zero for each group,
// what does not for each group and each block.
struct Scratch {
    int64_t counters, zeros, zeroed, group, own;  // values, of one group or block
    int64_t groups, blocks;

    PLASTIKERN_INLINE int64_t cleared() const { return counters + zeros + groups * zeroed; }
    PLASTIKERN_INLINE int64_t values() const { return cleared() + groups * group + blocks * own; }
    template <typename S>
    PLASTIKERN_INLINE static unsigned* counter_in(S* memory, int64_t g) {
        return reinterpret_cast<unsigned*>(memory +
                                           g * (kCounterBytes / static_cast<int64_t>(sizeof(S))));
    }
    template <typename S>
    PLASTIKERN_INLINE S* zeros_in(S* memory) const {
        return memory + counters;
    }
    template <typename S>
    PLASTIKERN_INLINE S* zeroed_in(S* memory, int64_t g) const {
        return memory + counters + zeros + g * zeroed;
    }
    template <typename S>
    PLASTIKERN_INLINE S* group_in(S* memory, int64_t g) const {
        return memory + cleared() + g * group;
    }
    template <typename S>
    PLASTIKERN_INLINE S* own_in(S* memory, int64_t block) const {
        return memory + cleared() + groups * group + block * own;
    }
};

template <typename S>
Plan plan_forward(const Network<S>&, const Device&);
template <typename S>
Plan plan_backward(const Network<S>&, const Gradients<S>&, const Device&);
template <typename S>
Scratch scratch_of(const Network<S>&, const Plan&);
template <typename S>
Scratch scratch_of(const Network<S>&, const Gradients<S>&, const Plan&);

}  // namespace plastikern::cuda
