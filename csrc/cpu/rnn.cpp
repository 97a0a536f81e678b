// The loops over steps of the plastic recurrent network. What happens at a synapse is in connection_kernels.cpp.
#include "rnn.h"

#include <algorithm>
#include <vector>

#include "team.h"
#include "workspace.h"

namespace plastikern {
namespace {

// Divides a workspace into parts that start on cache lines: counted first, without memory, then handed out.
template <typename S>
class Parts {
   public:
    explicit Parts(void* memory) : start_(static_cast<S*>(memory)) {}
    S* take(int64_t count) {
        S* part = start_ == nullptr ? nullptr : start_ + used_;
        used_ += padded<S>(count);
        return part;
    }
    int64_t bytes() const { return used_ * static_cast<int64_t>(sizeof(S)); }

   private:
    S* start_;
    int64_t used_ = 0;
};

// Over more than a few steps it pays to work on traces and parameters whose rows start on cache lines.
template <typename S>
bool worth_packing(const Rnn<S>& n) {
    return n.steps >= 4;
}

// The network with its weight, and alpha where it is per synapse, copied to rows of padded length.
template <typename S>
struct Packed {
    S *weight, *alpha;

    Packed(const Rnn<S>& n, Parts<S>& parts) {
        const bool packs = worth_packing(n) && padded<S>(n.neurons) != n.neurons;
        weight = parts.take(packs ? n.matrix() : 0);
        alpha = parts.take(packs && n.connection.alpha_per_synapse ? n.matrix() : 0);
        if (!packs) weight = nullptr;
        if (!packs || !n.connection.alpha_per_synapse) alpha = nullptr;
    }
    static void copy(const S* from, S* to, const Rnn<S>& n, int64_t begin, int64_t end) {
        const int64_t stride = padded<S>(n.neurons);
        for (int64_t j = begin; to != nullptr && j < end; ++j)
            std::copy_n(from + j * n.neurons, n.neurons, to + j * stride);
    }
    void fill(const Rnn<S>& n, Team team) const {
        int64_t begin, end;
        team.share(n.neurons, begin, end);
        copy(n.connection.weight, weight, n, begin, end);
        copy(n.connection.alpha, alpha, n, begin, end);
        team.barrier();
    }
    Rnn<S> applied(Rnn<S> n) const {
        if (weight != nullptr) n.connection.weight = weight, n.connection.weight_stride = padded<S>(n.neurons);
        if (alpha != nullptr) n.connection.alpha = alpha, n.connection.alpha_stride = padded<S>(n.neurons);
        return n;
    }
};

// Below this many synapses a step of one element takes less time than a barrier is worth.
constexpr int64_t kSplitSynapses = 16384;
// Elements side by side, each with a trace and its gradient, must not crowd each other out of the cache.
constexpr int64_t kSideBySideBytes = int64_t{8} << 20;

// Distance of vectors that are read and written side by side: whole pages would make a load wait for a store to the
// same offset of another page, which processors take for the same address at first.
template <typename S>
constexpr int64_t apart(int64_t count) {
    constexpr int64_t page = 4096 / sizeof(S);
    return (count + page - 1) / page * page + padded<S>(page / 3);
}

// How a call is shared by `threads` threads: the first `whole` elements are taken by one thread each, the others by all
// together.
struct Sharing {
    int64_t threads, whole;

    // A team is one thread where elements are taken whole, else all of them.
    int64_t teams() const { return whole > 0 ? threads : 1; }
};

template <typename S>
Sharing sharing_of(const Rnn<S>& n) {
    const bool splits = n.synapses() >= kSplitSynapses;
    // The gradient of a rate per synapse is one matrix, to which the elements add in turn.
    if (n.connection.rate_per_synapse) return {splits ? n.threads : 1, 0};
    if (!splits) {
        const bool worth_threads = n.batch * n.synapses() * n.steps >= 4 * kSplitSynapses;
        return {worth_threads ? std::min(n.batch, n.threads) : 1, n.batch};
    }
    const bool fits = 2 * n.threads * n.matrix() * static_cast<int64_t>(sizeof(S)) <= kSideBySideBytes;
    return {n.threads, fits ? n.batch / n.threads * n.threads : 0};
}

template <typename S>
const S* pre_of(const Rnn<S>& n, Sequence<const S> output, const S* zeros, int64_t k, int64_t b) {
    if (k > 0) return output.at(k - 1, b);
    return n.hidden == nullptr ? zeros : n.hidden + b * n.neurons;
}

template <typename S>
Rows<const S> initial_trace(const Rnn<S>& n, const S* zeros, int64_t b) {
    if (n.trace == nullptr) return {zeros, 0};
    return {n.trace + b * n.synapses(), n.neurons};
}

template <typename S>
bool is_checkpoint(const Rnn<S>& n, int64_t k, int64_t length) {
    return n.checkpoint_every > 0 && k > 0 && k < length && k % n.checkpoint_every == 0;
}

template <typename S, typename T>
T* checkpoint(const Rnn<S>& n, T* checkpoints, int64_t k, int64_t b) {
    return checkpoints + ((k / n.checkpoint_every - 1) * n.batch + b) * n.matrix();
}

template <typename S>
struct ForwardScratch {
    S *zeros, *traces;  // (N,); per team (N, padded(N)), where it is worth packing

    ForwardScratch(const Rnn<S>& n, Parts<S>& parts) {
        zeros = parts.take(n.neurons);
        traces = parts.take(worth_packing(n) ? sharing_of(n).teams() * n.matrix() : 0);
    }
};

template <typename S>
void forward_element(const Rnn<S>& n, Sequence<const S> drive, const RnnOutputs<S>& out, const ForwardScratch<S>& s,
                     int64_t b, int64_t thread, Team team) {
    const ConnectionKernels<S>& kernel = n.kernel();
    const int64_t length = n.length(b);
    const Sequence<const S> output = {out.output.data, out.output.step, out.output.element};
    const S* zeros = s.zeros;
    int64_t begin, end;
    team.share(n.neurons, begin, end);
    const Rows<S> final_trace = {out.trace + b * n.synapses(), n.neurons};
    Rows<S> work = final_trace;
    if (worth_packing(n)) work = {s.traces + (team.size == 1 ? thread : 0) * n.matrix(), padded<S>(n.neurons)};
    Rows<const S> trace = initial_trace(n, zeros, b);
    for (int64_t k = 0; k <= length; ++k) {
        // A checkpoint is not copied: the unit writes the trace there, and the next one reads it from there.
        Rows<S> trace_out = k == length ? final_trace : work;
        if (is_checkpoint(n, k, length)) trace_out = {checkpoint(n, out.checkpoints, k, b), padded<S>(n.neurons)};
        ForwardUnit<S> unit{};
        unit.trace = trace;
        unit.trace_out = trace_out;
        if (k > 0) {
            unit.pre_before = pre_of(n, output, zeros, k - 1, b);
            unit.post_before = output.at(k - 1, b);
        }
        if (k < length) {
            unit.pre = pre_of(n, output, zeros, k, b);
            unit.sum = out.output.at(k, b);
        }
        if (length > 0) kernel.forward(n.connection, unit, begin, end);
        if (k > 0) trace = {trace_out.data, trace_out.stride};
        if (k == length) break;
        kernels<S>().activate(n.nonlinearity, drive.at(k, b) + begin, n.clamp ? n.clamp.at(k, b) + begin : nullptr,
                              out.output.at(k, b) + begin, end - begin);
        team.barrier();
    }
    const S* last = pre_of(n, output, zeros, length, b);
    S* hidden = out.hidden + b * n.neurons;
    if (hidden != last) std::copy(last + begin, last + end, hidden + begin);
    for (int64_t j = begin; length == 0 && j < end; ++j) std::copy_n(trace.row(j), n.neurons, final_trace.row(j));
    for (int64_t t = length; t < n.steps; ++t) std::fill(out.output.at(t, b) + begin, out.output.at(t, b) + end, S(0));
}

// From the gradient of the activities, in `grad_drive`, to those of the drive and of the recurrent sum. A clamped
// activity is its drive; every other one sees both through the nonlinearity, whose slope follows from the activity.
template <typename S>
void through_activity(Nonlinearity nonlinearity, const S* activity, const bool* clamp, S* grad_drive, S* grad_sum,
                      int64_t begin, int64_t end) {
    const auto apply = [&](auto slope) {
        if (clamp == nullptr) {
            for (int64_t j = begin; j < end; ++j) grad_sum[j] = grad_drive[j] *= slope(activity[j]);
            return;
        }
        for (int64_t j = begin; j < end; ++j) {
            grad_sum[j] = clamp[j] ? S(0) : grad_drive[j] * slope(activity[j]);
            grad_drive[j] = clamp[j] ? grad_drive[j] : grad_sum[j];
        }
    };
    switch (nonlinearity) {
        case Nonlinearity::tanh:
            return apply([](S y) { return 1 - y * y; });
        case Nonlinearity::relu:
            return apply([](S y) { return y > 0 ? S(1) : S(0); });
        case Nonlinearity::sigmoid:
            return apply([](S y) { return y * (1 - y); });
        case Nonlinearity::identity:
            return apply([](S) { return S(1); });
    }
}

template <typename S>
struct BackwardScratch {
    S* zeros;          // (N,)
    S* grad_sums;      // (T, B, N): gradients of the recurrent sums; only where neurons are clamped, else they are
                       // grad_drive
    S* traces;         // per team: the trace run backwards (N, padded), or a segment's traces (checkpoint_every - 1, N,
                       // padded)
    S* grad_traces;    // per team (N, padded)
    S* grad_posts;     // per team (N,)
    S* grad_pres;      // per thread (3, N), in rotation: a step's total, the step's before, the one being read
    S* rates;          // per thread (N,)
    S* alphas;         // (N,): alpha's gradient by rows, where it is one number for the layer
    S* packed_pres;    // all steps of all elements, (N) rounded up to whole tiles
    S* gradient_rows;  // per thread
    int64_t trace_size, row, gradient_size, tiles;

    BackwardScratch(const Rnn<S>& n, const RnnGradients<S>& g, Parts<S>& parts) {
        const int64_t threads = sharing_of(n).threads;
        row = apart<S>(n.neurons);
        trace_size = n.matrix() * (g.reverse ? 1 : std::max<int64_t>(std::min(n.checkpoint_every, n.steps) - 1, 0));
        gradient_size = padded<S>(2 * kGradientRows * n.steps * n.batch);
        tiles = (n.neurons + kernels<S>().tile - 1) / kernels<S>().tile;
        zeros = parts.take(n.neurons);
        grad_sums = parts.take(n.clamp ? n.steps * n.batch * n.neurons : 0);
        traces = parts.take(sharing_of(n).teams() * trace_size);
        grad_traces = parts.take(sharing_of(n).teams() * n.matrix());
        grad_posts = parts.take(sharing_of(n).teams() * row);
        grad_pres = parts.take(threads * 3 * row);
        rates = parts.take(threads * row);
        alphas = parts.take(n.neurons);
        const bool wanted = g.weight != nullptr || g.alpha != nullptr;
        packed_pres = parts.take(wanted ? tiles * kernels<S>().tile * n.steps * n.batch : 0);
        gradient_rows = parts.take(wanted ? threads * gradient_size : 0);
    }
};

template <typename S>
Sequence<S> grad_sums_of(const Rnn<S>& n, const RnnGradients<S>& g, const BackwardScratch<S>& s) {
    return n.clamp ? Sequence<S>{s.grad_sums, g.grad_drive.step, g.grad_drive.element} : g.grad_drive;
}

template <typename S>
void backward_element(const Rnn<S>& n, const RnnGradients<S>& g, const BackwardScratch<S>& s, int64_t b, int64_t thread,
                      Team team) {
    const ConnectionKernels<S>& kernel = n.kernel();
    const int64_t length = n.length(b), size = n.neurons, every = n.checkpoint_every;
    const int64_t first_thread = team.size == 1 ? thread : 0, stride = padded<S>(size);
    int64_t begin, end;
    team.share(size, begin, end);
    const Sequence<S> grad_sums = grad_sums_of(n, g, s);
    S* traces = s.traces + first_thread * s.trace_size;
    const Rows<S> grad_work = {s.grad_traces + first_thread * n.matrix(), stride};
    const Rows<S> grad_first = g.grad_trace_in ? Rows<S>{g.grad_trace_in + b * n.synapses(), size} : grad_work;
    S* grad_post = s.grad_posts + first_thread * s.row;
    const auto grad_pre = [&](int64_t member, int64_t k) {
        return s.grad_pres + ((first_thread + member) * 3 + k % 3) * s.row;
    };
    // H_k where it is kept, exactly.
    const auto kept_trace = [&](int64_t k) -> Rows<const S> {
        if (k == 0) return initial_trace(n, static_cast<const S*>(s.zeros), b);
        if (is_checkpoint(n, k, length)) return {checkpoint(n, g.checkpoints, k, b), stride};
        if (k == length && g.reverse) return {g.trace_out + b * n.synapses(), size};
        return {nullptr, 0};
    };

    Rows<const S> grad_in = {s.zeros, 0};
    if (g.grad_trace != nullptr) grad_in = {g.grad_trace + b * n.synapses(), size};
    std::fill_n(grad_pre(team.rank, 0), 3 * s.row, S(0));
    std::fill(grad_post + begin, grad_post + end, S(0));
    for (int64_t t = length; t < n.steps; ++t)
        std::fill(g.grad_drive.at(t, b) + begin, g.grad_drive.at(t, b) + end, S(0));
    team.barrier();
    for (int64_t k = length; k >= 0; --k) {
        BackwardUnit<S> unit{};
        unit.reverse = g.reverse;
        unit.grad_trace = grad_in;
        unit.grad_trace_out = k == 0 ? grad_first : grad_work;
        if (k < length) {
            unit.pre = pre_of(n, g.output, static_cast<const S*>(s.zeros), k, b);
            unit.grad_sum = grad_sums.at(k, b);
            unit.grad_pre = grad_pre(team.rank, k);
        }
        if (k > 0) {
            unit.pre_before = pre_of(n, g.output, static_cast<const S*>(s.zeros), k - 1, b);
            unit.post_before = g.output.at(k - 1, b);
            unit.grad_pre_before = grad_pre(team.rank, k - 1);
            unit.grad_post_before = grad_post;
        }
        unit.grad_rate = n.connection.rate_per_synapse ? g.rate : s.rates + thread * s.row;
        if (k == 0 || g.reverse) {
            const Rows<const S> kept = kept_trace(k);
            unit.trace = kept.data != nullptr ? kept : Rows<const S>{traces, stride};
            unit.trace_out = {traces, stride};
        } else {
            const int64_t segment = (k - 1) / every * every, inside = k - 1 - segment;
            if (inside > 0 && (k == length || inside == every - 1)) {
                const History<S> history = {pre_of(n, g.output, static_cast<const S*>(s.zeros), segment, b),
                                            g.output.at(segment, b),
                                            g.output.at(segment, b),
                                            g.output.step,
                                            g.output.step,
                                            inside,
                                            kept_trace(segment)};
                kernel.recompute(n.connection, history, {traces, stride}, n.matrix(), begin, end);
            }
            unit.trace = inside == 0 ? kept_trace(segment) : Rows<const S>{traces + (inside - 1) * n.matrix(), stride};
        }
        // Nothing comes back through the last trace where nobody asks for its gradient; running backwards still starts
        // there.
        const bool needed = k < length || g.grad_trace != nullptr || g.reverse;
        if (length == 0) {
            for (int64_t j = begin; j < end; ++j) std::copy_n(grad_in.row(j), size, grad_first.row(j));
        } else if (needed) {
            kernel.backward(n.connection, unit, begin, end);
            grad_in = {grad_work.data, stride};
        }
        team.barrier();
        S* target = k > 0 ? g.grad_drive.at(k - 1, b) : g.grad_hidden_in + b * size;
        const S* last = k == length && g.grad_hidden != nullptr ? g.grad_hidden + b * size : s.zeros;
        std::copy(last + begin, last + end, target + begin);
        for (int64_t member = 0; member < team.size; ++member) {
            const S* part = grad_pre(member, k);
            for (int64_t j = begin; j < end; ++j) target[j] += part[j];
        }
        if (k == 0) break;
        const S* upstream = g.grad_output ? g.grad_output.at(k - 1, b) : s.zeros;
        for (int64_t j = begin; j < end; ++j) target[j] += grad_post[j] + upstream[j];
        through_activity(n.nonlinearity, g.output.at(k - 1, b), n.clamp ? n.clamp.at(k - 1, b) : nullptr, target,
                         grad_sums.at(k - 1, b), begin, end);
        // The slot that unit k - 1 starts on was last read before the barrier above.
        if (k > 1) std::fill_n(grad_pre(team.rank, k - 2), size, S(0));
    }
    team.barrier();
}

// Sums the rows of per-thread or per-neuron gradients in a fixed order.
template <typename S>
S summed(const S* values, int64_t count, int64_t stride) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += static_cast<double>(values[i * stride]);
    return static_cast<S>(total);
}

template <typename S>
void parameter_gradients(const Rnn<S>& n, const RnnGradients<S>& g, const BackwardScratch<S>& s, int64_t threads) {
    const ConnectionKernels<S>& kernel = n.kernel();
    const Sequence<S> grad_sums = grad_sums_of(n, g, s);
    std::vector<History<S>> histories;
    for (int64_t b = 0; b < n.batch; ++b) {
        histories.push_back({pre_of(n, g.output, static_cast<const S*>(s.zeros), 0, b), g.output.at(0, b),
                             g.output.at(0, b), g.output.step, g.output.step, n.length(b),
                             initial_trace(n, static_cast<const S*>(s.zeros), b), grad_sums.at(0, b), grad_sums.step});
    }
    const bool alpha_per_layer = g.alpha != nullptr && n.connection.alpha_stride == 0;
    parallel(threads, [&](Team team) {
        int64_t begin, end;
        kernels<S>().pack_history(n.neurons, histories.data(), n.batch, s.packed_pres, s.tiles * team.rank / team.size,
                                  s.tiles * (team.rank + 1) / team.size);
        team.barrier();
        team.share(n.neurons, begin, end);
        const ParameterGradients<S> wanted = {g.weight, alpha_per_layer ? s.alphas : g.alpha, s.packed_pres,
                                              s.gradient_rows + team.rank * s.gradient_size};
        kernel.gradients(n.connection, histories.data(), n.batch, wanted, begin, end);
    });
    if (alpha_per_layer) *g.alpha = summed(s.alphas, n.neurons, 1);
}

}  // namespace

template <typename S>
void rnn_forward(const Rnn<S>& given, Sequence<const S> drive, const RnnOutputs<S>& out) {
    Parts<S> counted(nullptr);
    Packed<S>(given, counted);
    ForwardScratch<S>(given, counted);
    const Workspace workspace(counted.bytes());
    Parts<S> parts(workspace.memory());
    const Packed<S> packed(given, parts);
    const ForwardScratch<S> s(given, parts);
    const Rnn<S> n = packed.applied(given);
    std::fill_n(s.zeros, n.neurons, S(0));
    parallel(sharing_of(n).threads, [&](Team all) {
        packed.fill(given, all);
        for_elements(n.batch, sharing_of(n).whole, all,
                     [&](int64_t b, int64_t thread, Team team) { forward_element(n, drive, out, s, b, thread, team); });
    });
}

template <typename S>
void rnn_backward(const Rnn<S>& given, const RnnGradients<S>& g) {
    Parts<S> counted(nullptr);
    Packed<S>(given, counted);
    BackwardScratch<S>(given, g, counted);
    const Workspace workspace(counted.bytes());
    Parts<S> parts(workspace.memory());
    const Packed<S> packed(given, parts);
    const BackwardScratch<S> s(given, g, parts);
    const Rnn<S> n = packed.applied(given);
    const int64_t threads = sharing_of(n).threads;
    std::fill_n(s.zeros, n.neurons, S(0));
    std::fill_n(s.rates, threads * s.row, S(0));
    parallel(threads, [&](Team all) {
        packed.fill(given, all);
        for_elements(n.batch, sharing_of(n).whole, all,
                     [&](int64_t b, int64_t thread, Team team) { backward_element(n, g, s, b, thread, team); });
    });
    if (g.rate != nullptr && !n.connection.rate_per_synapse) {
        for (int64_t j = 0; j < n.neurons; ++j) s.rates[j] = summed(s.rates + j, threads, s.row);
        if (n.connection.rate_stride == 0) {
            *g.rate = summed(s.rates, n.neurons, 1);
        } else {
            std::copy_n(s.rates, n.neurons, g.rate);
        }
    }
    if (g.weight != nullptr || g.alpha != nullptr) parameter_gradients(n, g, s, threads);
}

#define INSTANTIATE(S)                                                                 \
    template void rnn_forward(const Rnn<S>&, Sequence<const S>, const RnnOutputs<S>&); \
    template void rnn_backward(const Rnn<S>&, const RnnGradients<S>&);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace plastikern
