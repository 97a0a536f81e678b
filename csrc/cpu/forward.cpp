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

template <typename S>
struct ForwardScratch {
    S *zeros, *traces;        // (max(O, I),); per slot n.traces(), where it is worth packing
    S* pres;                  // per thread PreRing::size
    S *history, *modulators;  // where they are not kept: per element n.history_size(), and 1
    bool acting;              // `traces` are those of all elements, from one call to the next

    // `live`: traces of all elements, from one call to the next; null: a call takes all units.
    ForwardScratch(const Network<S>& n, const Outputs<S>& out, Parts<S>& parts, S* live)
        : acting(live != nullptr) {
        zeros = parts.take(std::max(n.posts, padded<S>(n.pres)));
        traces =
            acting ? live : parts.take(worth_packing(n) ? sharing_of(n).slots() * n.traces() : 0);
        pres = parts.take(sharing_of(n).threads * PreRing<S>::size(n, sharing_of(n).group));
        history = parts.take(out.activities.history ? 0 : n.batch * n.history_size());
        modulators = parts.take(out.activities.modulators ? 0 : n.batch);
    }
    Outputs<S> completed(const Network<S>& n, Outputs<S> out) const {
        if (!out.activities.history) out.activities.history = {history, 0, n.history_size()};
        if (!out.activities.modulators) out.activities.modulators = {modulators, 0, 1};
        return out;
    }
};

template <typename S>
S modulated(ModulatorNonlinearity nonlinearity, S z) {
    if (nonlinearity == ModulatorNonlinearity::tanh) return std::tanh(z);
    return nonlinearity == ModulatorNonlinearity::sigmoid ? 1 / (1 + std::exp(-z)) : z;
}

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
    if (n.kind == NetworkKind::lstm) {
        const S* before[kMaxGroup];
        for (int64_t e = 0; e < running.count; ++e)
            before[e] = pre_of(n, a, zeros, k, running.elements[e]);
        for (const int64_t gate : {0, 1, 3}) {
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
        if (n.kind == NetworkKind::lstm) {
            S* gates = a.history.at(k, b);
            S* recurrent = n.post == Post::recurrent ? gates + 5 * n.posts : nullptr;
            kernel.lstm_forward({n.posts, drive, gates, cell_before(n, a, zeros, k, b),
                                 cell_of(n, a, k, b), output, recurrent},
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
        const S m = modulated(n.modulator.nonlinearity, sums[e] + *n.modulator.bias);
        modulators[e] = m;
        if (team.rank == 0) *a.modulators.at(k, b) = m;
    }
}

template <typename S>
void forward_group(const Network<S>& n, const Outputs<S>& out, const ForwardScratch<S>& s,
                   Units range, Group group, int64_t thread, Team team) {
    const Activities<S>& a = out.activities;
    const int64_t end_step = longest(n, group), last_unit = std::min(range.last, end_step);
    const int64_t first_slot =
        s.acting ? group.first : (team.size == 1 ? thread : 0) * sharing_of(n).group;
    const auto working_traces = [&](int64_t e) {
        return packed_traces(n, s.traces + (first_slot + e) * n.traces());
    };
    int64_t begin, end;
    team.share(n.posts, begin, end);
    TraceRows<const S> traces[kMaxGroup];
    S modulators[kMaxGroup] = {};  // of the elements that ran at the step before
    const PreRing<S> pres(s.pres + thread * PreRing<S>::size(n, sharing_of(n).group), n);
    for (int64_t b = group.first; b < group.last; ++b) {
        const int64_t e = b - group.first, before = range.first - 1;
        const TraceRows<const S> first =
            tensor_traces<S, const S>(n, n.trace, n.eligibility, s.zeros, b);
        traces[e] = before <= 0 ? first
                    : is_checkpoint(n, before, n.length(b))
                        ? checkpoint<S, const S>(n, out.checkpoints, before, b)
                        : working_traces(e);
        if (before >= 0) {
            pres.filled(before, e, pre_of<S, S>(n, a, s.zeros, before, b));
            if (n.modulator) modulators[e] = *a.modulators.at(before, b);
        }
        if (out.trace == nullptr) continue;
        const TraceRows<S> last = tensor_traces<S, S>(n, out.trace, out.eligibility, nullptr, b);
        if (n.length(b) == 0) copy_traces(n, first, last, begin, end);
        copy_unmodulated(n, first, last, begin, end);
    }
    ForwardUnit<S> units[kMaxGroup];
    for (int64_t k = range.first; k <= last_unit && end_step > 0; ++k) {
        Running running;
        int64_t count = 0, before = 0;
        for (int64_t b = group.first; b < group.last; ++b) {
            const int64_t length = n.length(b), e = b - group.first;
            if (k > length || length == 0) continue;
            // A checkpoint is not copied: the unit writes the traces there, and the next one reads
            // them from there.
            TraceRows<S> traces_out =
                tensor_traces<S, S>(n, out.trace, out.eligibility, nullptr, b);
            if (is_checkpoint(n, k, length)) {
                traces_out = checkpoint(n, out.checkpoints, k, b);
            } else if (k < length && (s.acting || worth_packing(n))) {
                traces_out = working_traces(e);
            }
            ForwardUnit<S> unit{};
            // The first traces and the last ones lie in tensors.
            const bool from_tensor = k <= 1 && (n.trace != nullptr || n.eligibility != nullptr);
            unit.padded = worth_packing(n) && k < length && !from_tensor;
            unit.traces = traces[e];
            unit.traces_out = traces_out;
            if (k > 0) {
                unit.pre_before = pres.row(k - 1, e);
                unit.post_before = post_of(n, a, k - 1, b);
                unit.modulator = n.modulator ? modulators[before++] : S(0);
                if (out.lost != nullptr) unit.lost = n.segment_rows(out.lost, k, b);
                traces[e] = traces_out;
                if (k < length && !unit.padded && worth_packing(n))
                    clear_padding(n, traces_out, begin, end);
            }
            if (k < length) {
                unit.pre = pres.filled(k, e, pre_of<S, S>(n, a, s.zeros, k, b));
                unit.sum = n.kind == NetworkKind::lstm ? a.history.at(k, b) + 2 * n.posts
                                                       : a.output.at(k, b);
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
        activate<S>(n, a, s.zeros, running, k, begin, end);
        team.barrier();
        if (n.modulator) modulate<S>(n, a, s.zeros, running, k, team, modulators);
        // Where the history is one row, the next step writes what another thread still computes its
        // modulator from.
        if (n.modulator && a.history.step == 0 && n.kind == NetworkKind::lstm) team.barrier();
    }
    for (int64_t b = group.first; b < group.last && last_unit == end_step; ++b) {
        const int64_t length = n.length(b);
        if (out.hidden != nullptr) {
            const S* last = pre_of<S, S>(n, a, s.zeros, length, b);
            std::copy(last + begin, last + end, out.hidden + b * n.posts + begin);
        }
        if (out.cell != nullptr) {
            const S* last = cell_before<S, S>(n, a, s.zeros, length, b);
            std::copy(last + begin, last + end, out.cell + b * n.posts + begin);
        }
        for (int64_t t = length; t < n.steps; ++t) {
            std::fill(a.output.at(t, b) + begin, a.output.at(t, b) + end, S(0));
            // The gradient of a modulator's weight runs over all cells that are kept.
            if (n.kind == NetworkKind::lstm && a.history.step != 0)
                std::fill(cell_of(n, a, t, b) + begin, cell_of(n, a, t, b) + end, S(0));
        }
    }
    team.barrier();  // the next group takes the same scratch
}

// Runs units of a network whose parameters are packed.
template <typename S>
void run(const Packed<S>& packed, const Outputs<S>& out, const ForwardScratch<S>& s, Units units) {
    const Network<S>& n = packed.network();
    std::fill_n(s.zeros, std::max(n.posts, padded<S>(n.pres)), S(0));
    const Sharing sharing = sharing_of(n);
    parallel(sharing.threads, [&](Team all) {
        if (units.first == 0) packed.fill(all);
        for_groups(n.batch, sharing, all, [&](Group group, int64_t thread, Team team) {
            forward_group(n, out, s, units, group, thread, team);
        });
    });
}

}  // namespace

template <typename S>
void forward(const Network<S>& given, const Outputs<S>& wanted) {
    Parts<S> counted(nullptr);
    Packed<S>(given, counted);
    ForwardScratch<S>(given, wanted, counted, nullptr);
    const Workspace workspace(counted.bytes());
    Parts<S> parts(workspace.memory());
    const Packed<S> packed(given, parts);
    const ForwardScratch<S> s(given, wanted, parts, nullptr);
    run(packed, s.completed(given, wanted), s, Units{0, given.steps});
}

template <typename S>
int64_t acting_bytes(const Network<S>& n) {
    Parts<S> counted(nullptr);
    Packed<S>(n, counted);
    counted.take(n.batch * n.traces());
    return counted.bytes();
}

template <typename S>
void forward_unit(Network<S> given, const Outputs<S>& out, int64_t k, void* memory) {
    // One step of a small batch is not worth waking threads, or many of them.
    const int64_t work = given.batch * given.synapses() * (given.kind == NetworkKind::lstm ? 4 : 1);
    given.threads = worthwhile(given.threads, work, 2 * kSplitSynapses);
    Parts<S> kept(memory), counted(nullptr);
    const Packed<S> packed(given, kept);
    S* live = kept.take(given.batch * given.traces());
    ForwardScratch<S>(given, out, counted, live);
    const Workspace workspace(counted.bytes());
    Parts<S> parts(workspace.memory());
    run(packed, out, ForwardScratch<S>(given, out, parts, live), Units{k, k});
}

template void forward(const Network<float>&, const Outputs<float>&);
template void forward(const Network<double>&, const Outputs<double>&);
template int64_t acting_bytes(const Network<float>&);
template int64_t acting_bytes(const Network<double>&);
template void forward_unit(Network<float>, const Outputs<float>&, int64_t, void*);
template void forward_unit(Network<double>, const Outputs<double>&, int64_t, void*);

}  // namespace plastikern
