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
// Recurrent sums of neurons with gates beside the plastic one, at least and at most: those of a
// GRU and of an LSTM. And the block of the drive that one of them is of.
constexpr int kFewestOthers = generated::gru::weights - 1,
              kMostOthers = generated::lstm::weights - 1;
PLASTIKERN_INLINE constexpr int64_t block_of(int other) {
    return other < kPlastic ? other : other + 1;
}

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

// Bytes from one barrier's counter to the next: a cache line each, or blocks that wait at one
// barrier slow down others.
constexpr int64_t kCounterBytes = 128;

// A stretch of the scratch of which each group of blocks, or each block, has a part of its own: the
// offset of the first part, and the size of each, in values.
struct Area {
    int64_t start, size;

    template <typename S>
    PLASTIKERN_INLINE S* of(S* scratch, int64_t i) const {
        return scratch + start + i * size;
    }
};

// Where the blocks of either pass have what they work in: offsets within an area, and sizes, in
// values. What the plan or the network does without has no values.
struct BlockLayout {
    int64_t chip;     // size of a block's shared memory
    int64_t scratch;  // size of the scratch: counters of the barriers, zeros to read, the areas
    int64_t zeros;    // in the scratch
    Area zeroed;      // of groups: zero at first
    Area group;       // of groups
    Area own;         // of blocks
    // On the chip.
    int64_t pres;           // (together, 3, I): of three steps
    int64_t weight, alpha;  // (rows, I)
    int64_t gates;          // (others, rows, I)

    // Of the scratch, values that start as zero.
    PLASTIKERN_INLINE int64_t cleared() const { return group.start; }
    template <typename S>
    PLASTIKERN_INLINE static unsigned* counter_in(S* scratch, int64_t g) {
        return reinterpret_cast<unsigned*>(scratch +
                                           g * (kCounterBytes / static_cast<int64_t>(sizeof(S))));
    }
};

struct ForwardLayout : BlockLayout {
    int64_t traces;        // chip: Tile of (together)
    int64_t sums;          // chip or own, as `vectors_on_chip` says: (together, 1 + others,
                           // rows): of the connection, and the other recurrent sums
    int64_t element_sums;  // distance from one element's sums to those of the next one
};

struct BackwardLayout : BlockLayout {
    int64_t columns;      // chip or own: (warps, 2, I): sums over a warp's rows, of the pre of this
                          // step and the one before
    int64_t grad_traces;  // chip or own: Tile of (together)
    int64_t grad_alphas;  // chip: (rows, I); else straight to the group's
    // Chip or own, as `vectors_on_chip` says.
    int64_t grad_posts, grad_cells;  // (together, rows)
    int64_t sums;                    // (kRowSums, rows): of one element
    int64_t segment;  // own: (checkpoint_every - 1) tiles: the traces between two checkpoints
    int64_t tile;     // size of each
    // Of the group; on the chip of a block that is `alone`.
    int64_t totals;     // (3, together, share, I): of the gradient of pre, of three steps
    int64_t rate_rows;  // (2, together, O): what each row gives to the gradient of the modulator,
                        // of two steps
    // Zeroed.
    int64_t row_sums;  // (4, O): gradients of rate, rate_scale, eligibility_rate and alpha, as far
                       // as they are per neuron
    int64_t alphas;    // (O, I): where wanted
    int64_t rates;     // (3, O, I): of the three rates per synapse
};

template <typename S>
Plan plan_forward(const Network<S>&, const Device&);
template <typename S>
Plan plan_backward(const Network<S>&, const Gradients<S>&, const Device&);
template <typename S>
ForwardLayout forward_layout(const Network<S>&, const Plan&);
template <typename S>
BackwardLayout backward_layout(const Network<S>&, const Gradients<S>&, const Plan&);

}  // namespace plastikern::cuda
