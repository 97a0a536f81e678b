// The forward pass of plastic networks: the loop over steps. What happens at a synapse is in
// connection_kernels.cpp.
#include <cmath>

#include "sharing.h"

namespace plastikern {
namespace {

// Units [first, last] of the forward pass: all of them, or, while a network acts, one.
struct Units {
    int64_t first, last;
};

// Where a forward pass has what it works in: offsets, in values.
struct ForwardLayout {
    // What lasts from unit to unit; while a network acts, from call to call.
    int64_t parameters;  // packed
    int64_t traces;      // n.traces() per slot, where it is worth packing; acting, per element
    int64_t lasting;     // the size of this part
    // What lasts for a call.
    int64_t zeros;                // zeros_size(n)
    int64_t pres;                 // per thread PreRing::size
    int64_t history, modulators;  // where they are not kept: per element n.history_size(), and 1
    int64_t scratch;              // the size of this part
};

template <typename S>
ForwardLayout forward_layout(const Network<S>& n, const Activities<S>& kept, bool acting) {
    const Sharing sharing = sharing_of(n);
    const int64_t slots = acting ? n.batch : worth_packing(n) ? sharing.slots() : 0;
    ForwardLayout at{};
    at.parameters = placed<S>(at.lasting, packed_size(n));
    at.traces = placed<S>(at.lasting, slots * n.traces());
    at.zeros = placed<S>(at.scratch, zeros_size(n));
    at.pres = placed<S>(at.scratch, sharing.threads * PreRing<S>::size(n, sharing.group));
    at.history = placed<S>(at.scratch, kept.history ? 0 : n.batch * n.history_size());
    at.modulators = placed<S>(at.scratch, kept.modulators ? 0 : n.batch);
    return at;
}

// The two parts of the memory of a forward pass.
template <typename S>
struct ForwardMemory {
    ForwardLayout at;
    S *lasting, *scratch;
    bool acting;
};

template <typename S>
void softmax(const S* drive, S* sum_to_activity, int64_t count) {
    S most = sum_to_activity[0] + drive[0], total = 0;
    for (int64_t j = 0; j < count; ++j) most = std::max(most, sum_to_activity[j] += drive[j]);
    for (int64_t j = 0; j < count; ++j)
        total += sum_to_activity[j] = std::exp(sum_to_activity[j] - most);
    for (int64_t j = 0; j < count; ++j) sum_to_activity[j] /= total;
}

// Elements of a group that are still running.
struct Running {
    int64_t elements[kMaxGroup], count = 0;
};

// From the connection's sums of step k, which lie where the activities will, to the activities of
// neurons [begin, end).
template <typename S>
void activate(const Network<S>& n, const Activities<S>& a, const S* zeros, const Running& running,
              int64_t k, int64_t begin, int64_t end) {
    const Kernels<S>& kernel = kernels<S>();
    const bool gated = n.has_gates();
    if (gated) {
        const S* before[kMaxGroup];
        for (int64_t e = 0; e < running.count; ++e)
            before[e] = pre_of(n, a, zeros, k, running.elements[e]);
        for (int64_t gate = 0; gate < weight_blocks(n.kind); ++gate) {
            if (gate == kPlastic) continue;
            S* sums[kMaxGroup];
            const int64_t row = gate * n.posts + begin;
            for (int64_t e = 0; e < running.count; ++e)
                sums[e] = a.history.at(k, running.elements[e]) + row;
            kernel.multiply(n.gates + row * n.pres, end - begin, n.pres, before, sums,
                            running.count);
        }
    }
    for (int64_t e = 0; e < running.count; ++e) {
        const int64_t b = running.elements[e];
        const S* drive = n.drive.at(k, b);
        S* output = a.output.at(k, b);
        if (gated) {
            const bool apart = n.carries_cell() && n.post == Post::recurrent;
            kernel.gated_forward(n.kind,
                                 {n.posts, drive, a.history.at(k, b), carried(n, a, zeros, k, b),
                                  output, apart ? post_of(n, a, k, b) : nullptr},
                                 begin, end);
        } else if (n.nonlinearity == Nonlinearity::softmax) {
            softmax(drive, output, n.posts);
        } else {
            kernel.activate(n.nonlinearity, drive + begin,
                            n.clamp ? n.clamp.at(k, b) + begin : nullptr, output + begin,
                            end - begin);
        }
    }
}

template <typename S>
void modulate(const Network<S>& n, const Activities<S>& a, const S* zeros, const Running& running,
              int64_t k, Team team, S* modulators) {
    const S* inputs[kMaxGroup];
    S sums[kMaxGroup], *out[kMaxGroup];
    for (int64_t e = 0; e < running.count; ++e) {
        inputs[e] = modulator_input(n, a, zeros, k, running.elements[e]);
        out[e] = sums + e;
    }
    kernels<S>().multiply(n.modulator.weight, 1, n.posts, inputs, out, running.count);
    for (int64_t e = 0; e < running.count; ++e) {
        const int64_t b = running.elements[e];
        const S m = activity(n.modulator.nonlinearity, sums[e] + *n.modulator.bias);
        modulators[e] = m;
        if (team.rank == 0) *a.modulators.at(k, b) = m;
    }
}

template <typename S>
void forward_group(const Network<S>& n, const Outputs<S>& out, const ForwardMemory<S>& memory,
                   Units range, Group group, int64_t thread, Team team) {
    const Activities<S>& a = out.activities;
    const S* zeros = memory.scratch + memory.at.zeros;
    const int64_t group_size = sharing_of(n).group;
    const int64_t end_step = longest(n, group), last_unit = std::min(range.last, end_step);
    const int64_t first_slot =
        memory.acting ? group.first : (team.size == 1 ? thread : 0) * group_size;
    const bool packs = worth_packing(n), works = memory.acting || packs;
    // H_k where unit k writes it, and the next unit reads it: nothing is copied to a checkpoint.
    const auto traces_after = [&](int64_t k, int64_t b) {
        const int64_t length = n.length(b);
        if (is_checkpoint(n, k, length)) return checkpoint(n, out.checkpoints, k, b);
        if (k == length || !works)
            return tensor_traces<S, S>(n, out.trace, out.eligibility, nullptr, b);
        const int64_t slot = first_slot + b - group.first;
        return packed_traces(n, memory.lasting + memory.at.traces + slot * n.traces());
    };
    const auto first_traces = [&](int64_t b) {
        return tensor_traces<S, const S>(n, n.trace, n.eligibility, zeros, b);
    };
    int64_t begin, end;
    team.share(n.posts, begin, end);
    // Of every element, as the unit before has left them: to ask again where they lie costs a short
    // row as much as some of its synapses.
    TraceRows<const S> traces[kMaxGroup];
    S modulators[kMaxGroup] = {};  // of the elements that ran at the step before
    const PreRing<S> pres(
        memory.scratch + memory.at.pres + thread * PreRing<S>::size(n, group_size), n);
    for (int64_t b = group.first; b < group.last; ++b) {
        const int64_t e = b - group.first, before = range.first - 1;
        traces[e] = before <= 0 ? first_traces(b) : TraceRows<const S>(traces_after(before, b));
        if (before >= 0) {
            pres.filled(before, e, pre_of<S, S>(n, a, zeros, before, b));
            if (n.modulator) modulators[e] = *a.modulators.at(before, b);
        }
        if (out.trace == nullptr) continue;
        const TraceRows<S> last = tensor_traces<S, S>(n, out.trace, out.eligibility, nullptr, b);
        if (n.length(b) == 0) copy_traces(n, first_traces(b), last, begin, end);
        copy_unmodulated(n, first_traces(b), last, begin, end);
    }
    ForwardUnit<S> units[kMaxGroup];
    for (int64_t k = range.first; k <= last_unit && end_step > 0; ++k) {
        Running running;
        int64_t count = 0, before = 0;
        for (int64_t b = group.first; b < group.last; ++b) {
            const int64_t length = n.length(b), e = b - group.first;
            if (k > length || length == 0) continue;
            ForwardUnit<S> unit{};
            unit.traces = traces[e];
            unit.padded = packs && has_padded_rows(n, std::max<int64_t>(k - 1, 0), b) &&
                          has_padded_rows(n, k, b);
            if (k > 0) {
                traces[e] = unit.traces_out = traces_after(k, b);
                unit.pre_before = pres.row(k - 1, e);
                unit.post_before = post_of(n, a, k - 1, b);
                unit.modulator = n.modulator ? modulators[before++] : S(0);
                if (out.lost != nullptr) unit.lost = n.segment_rows(out.lost, k, b);
                if (k < length && !unit.padded && packs)
                    clear_padding(n, unit.traces_out, begin, end);
            }
            if (k < length) {
                unit.pre = pres.filled(k, e, pre_of<S, S>(n, a, zeros, k, b));
                unit.sum =
                    n.has_gates() ? a.history.at(k, b) + kPlastic * n.posts : a.output.at(k, b);
                running.elements[running.count++] = b;
            }
            units[count++] = unit;
        }
        for_row_blocks(n, count, begin, end, [&](int64_t first, int64_t last) {
            for_kernels(n, first, last,
                        [&](const ConnectionKernels<S>& kernel, int64_t from, int64_t to) {
                            for (int64_t e = 0; e < count; ++e)
                                kernel.forward(n.connection, units[e], from, to);
                        });
        });
        if (running.count == 0) break;
        activate<S>(n, a, zeros, running, k, begin, end);
        team.barrier();
        if (n.modulator) modulate<S>(n, a, zeros, running, k, team, modulators);
        // Where the history is one row, the next step writes what another thread still computes its
        // modulator from.
        if (n.modulator && a.history.step == 0 && n.carries_cell()) team.barrier();
    }
    for (int64_t b = group.first; b < group.last && last_unit == end_step; ++b) {
        const int64_t length = n.length(b);
        if (out.hidden != nullptr) {
            const S* last = pre_of<S, S>(n, a, zeros, length, b);
            std::copy(last + begin, last + end, out.hidden + b * n.posts + begin);
        }
        if (out.cell != nullptr) {
            const S* last = cell_before<S, S>(n, a, zeros, length, b);
            std::copy(last + begin, last + end, out.cell + b * n.posts + begin);
        }
        for (int64_t t = length; t < n.steps; ++t) {
            std::fill(a.output.at(t, b) + begin, a.output.at(t, b) + end, S(0));
            // The gradient of a modulator's weight runs over all cells that are kept.
            if (n.carries_cell() && a.history.step != 0)
                std::fill(cell_of(n, a, t, b) + begin, cell_of(n, a, t, b) + end, S(0));
        }
    }
    team.barrier();  // the next group takes the same scratch
}

// Runs units in the memory of a call; the first of them packs the parameters.
template <typename S>
void run(const Network<S>& given, Outputs<S> out, const ForwardMemory<S>& memory, Units units) {
    const ForwardLayout& at = memory.at;
    Activities<S>& a = out.activities;
    if (!a.history) a.history = {memory.scratch + at.history, 0, given.history_size()};
    if (!a.modulators) a.modulators = {memory.scratch + at.modulators, 0, 1};
    std::fill_n(memory.scratch + at.zeros, zeros_size(given), S(0));
    S* parameters = memory.lasting + at.parameters;
    const Network<S> n = with_packed(given, parameters);
    const Sharing sharing = sharing_of(n);
    parallel(sharing.threads, [&](Team all) {
        if (units.first == 0) pack(given, parameters, all);
        for_groups(n.batch, sharing, all, [&](Group group, int64_t thread, Team team) {
            forward_group(n, out, memory, units, group, thread, team);
        });
    });
}

}  // namespace

template <typename S>
void forward(const Network<S>& n, const Outputs<S>& out) {
    const ForwardLayout at = forward_layout(n, out.activities, false);
    const Workspace workspace(bytes_of<S>(at.lasting + at.scratch));
    S* memory = static_cast<S*>(workspace.memory());
    run(n, out, {at, memory, memory + at.lasting, false}, Units{0, n.steps});
}

template <typename S>
int64_t acting_bytes(const Network<S>& n) {
    return bytes_of<S>(forward_layout(n, {}, true).lasting);
}

template <typename S>
void forward_unit(Network<S> n, const Outputs<S>& out, int64_t k, void* memory) {
    // One step of a small batch is not worth waking threads, or many of them.
    const int64_t work = n.batch * n.synapses() * weight_blocks(n.kind);
    n.threads = worthwhile(n.threads, work, 2 * kSplitSynapses);
    const ForwardLayout at = forward_layout(n, out.activities, true);
    const Workspace workspace(bytes_of<S>(at.scratch));
    S* scratch = static_cast<S*>(workspace.memory());
    run(n, out, {at, static_cast<S*>(memory), scratch, true}, Units{k, k});
}

template void forward(const Network<float>&, const Outputs<float>&);
template void forward(const Network<double>&, const Outputs<double>&);
template int64_t acting_bytes(const Network<float>&);
template int64_t acting_bytes(const Network<double>&);
template void forward_unit(Network<float>, const Outputs<float>&, int64_t, void*);
template void forward_unit(Network<double>, const Outputs<double>&, int64_t, void*);

}  // namespace plastikern
