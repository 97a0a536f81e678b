// The backward pass of plastic networks: the loop over steps, from the last to the first. What
// happens at a synapse is in connection_kernels.cpp.
#include <vector>

#include "backward_scratch.h"

namespace plastikern {
namespace {

template <typename S>
Sequence<S> grad_sums(const Network<S>& n, const Gradients<S>& g) {
    if (g.sum) return g.sum;
    Sequence<S> sums = g.drive;
    if (n.has_gates()) sums.data += kPlastic * n.posts;
    return sums;
}

// From the gradient of the activities to those of the drive and of the sum. A clamped activity is
// its drive; every other one sees both through the nonlinearity, whose slope follows from the
// activity.
template <typename S>
void through_activity(Nonlinearity nonlinearity, const S* activity, const bool* clamp,
                      const S* grad_activity, S* grad_drive, S* grad_sum, int64_t begin,
                      int64_t end) {
    if (nonlinearity == Nonlinearity::softmax) {
        S mean = 0;
        for (int64_t j = begin; j < end; ++j) mean += activity[j] * grad_activity[j];
        for (int64_t j = begin; j < end; ++j)
            grad_sum[j] = grad_drive[j] = activity[j] * (grad_activity[j] - mean);
    }
    with_activity(nonlinearity, [&](auto of) {
        for (int64_t j = begin; j < end; ++j) {
            const bool clamped = clamp != nullptr && clamp[j];
            const S grad = of.template adjoint<S>({activity[j], grad_activity[j]}).grad_z;
            grad_sum[j] = clamped ? S(0) : grad;
            grad_drive[j] = clamped ? grad_activity[j] : grad;
        }
    });
}

// The passage of a group of elements through the steps, on one thread or on a team that shares the
// neurons.
template <typename S>
class BackwardGroup {
   public:
    BackwardGroup(const Network<S>& n, const Gradients<S>& g, const BackwardLayout& at, S* memory,
                  Group group, int64_t thread, Team team)
        : n_(n),
          g_(g),
          at_(at),
          memory_(memory),
          zeros_(memory + at.zeros),
          a_(g.activities),
          sums_(grad_sums(n, g)),
          group_(group),
          thread_(thread),
          team_(team),
          group_size_(sharing_of(n).group),
          pres_(memory + at.pres + thread * PreRing<S>::size(n, group_size_), n) {
        team.share(n.posts, begin_, end_);
        team.share(n.pres, first_pre_, last_pre_);
    }

    void run() {
        const int64_t end_step = longest(n_, group_);
        for (int64_t b = group_.first; b < group_.last; ++b) start(b);
        team_.barrier();
        Prepared units[kMaxGroup];
        for (int64_t k = end_step; k >= 0 && end_step > 0; --k) {
            int64_t count = 0;
            for (int64_t b = group_.first; b < group_.last; ++b) {
                if (runs(k, b) && prepare(k, b, units[count])) ++count;
            }
            for_row_blocks(n_, count, begin_, end_, [&](int64_t first, int64_t last) {
                for (int64_t e = 0; e < count; ++e) {
                    const Prepared& unit = units[e];
                    for_kernels(
                        n_, first, last, [&](int64_t j) { return unit.backwards(j); },
                        [&](const ConnectionKernels<S>& kernel, int64_t from, int64_t to,
                            bool backwards) {
                            kernel.backward(n_.connection, backwards ? unit.reversed : unit.again,
                                            from, to);
                        });
                }
            });
            for (int64_t b = group_.first; b < group_.last; ++b) {
                if (runs(k, b) && k > 0) collect_rates(k, b);
            }
            team_.barrier();
            for (int64_t b = group_.first; b < group_.last; ++b) {
                if (runs(k, b)) finish(k, b);
            }
            if (k > 0 && n_.has_gates()) through_gates(k - 1);
            if (k % kGatheredSteps == 0) gather();
        }
        team_.barrier();
    }

   private:
    // A unit for the rows that run backwards, and one for those that are computed again: they
    // differ in their traces.
    struct Prepared {
        BackwardUnit<S> reversed, again;
        bool reverses;
        const bool* lost;  // (O,), or null

        bool backwards(int64_t j) const { return reverses && (lost == nullptr || !lost[j]); }
    };

    const Network<S>& n_;
    const Gradients<S>& g_;
    const BackwardLayout& at_;
    S* const memory_;
    const S* const zeros_;
    const Activities<const S>& a_;
    const Sequence<S> sums_;
    const Group group_;
    const int64_t thread_;
    const Team team_;
    const int64_t
        group_size_;  // of a full group: the distance of what belongs to two slots or threads
    const PreRing<S> pres_;
    int64_t begin_, end_, first_pre_, last_pre_;  // own neurons, own columns
    TraceRows<const S> grad_in_[kMaxGroup];
    S through_input_[kMaxGroup] =
        {};  // gradient that waits for the activities before: of M from the previous hidden

    bool runs(int64_t k, int64_t b) const { return k <= n_.length(b) && n_.length(b) > 0; }
    int64_t slot(int64_t b) const {
        return (team_.size == 1 ? thread_ : 0) * group_size_ + b - group_.first;
    }
    S* grad_pre(int64_t member, int64_t k, int64_t b) const {
        const int64_t thread = (team_.size == 1 ? thread_ : 0) + member;
        return memory_ + at_.grad_pres +
               ((thread * group_size_ + b - group_.first) * 3 + k % 3) * at_.row;
    }
    S* grad_modulator(int64_t member, int64_t k, int64_t b) const {
        const int64_t thread = (team_.size == 1 ? thread_ : 0) + member;
        return memory_ + at_.modulators + (thread * 2 + k % 2) * kMaxGroup + b - group_.first;
    }
    S* of_slot(int64_t vectors, int64_t b) const { return memory_ + vectors + slot(b) * at_.posts; }
    S* of_thread(int64_t of) const {
        return memory_ + at_.sums + (of * at_.threads + thread_) * at_.posts;
    }
    S modulator(int64_t t, int64_t b) const { return *a_.modulators.at(t, b); }
    TraceRows<S> segment(int64_t b, int64_t inside) const {
        return packed_traces(n_,
                             memory_ + at_.traces + slot(b) * at_.segment + inside * n_.traces());
    }
    TraceRows<S> reversed(int64_t b) const {
        return packed_traces(n_, memory_ + at_.reversed + slot(b) * n_.traces());
    }
    TraceRows<S> grad_work(int64_t b) const {
        return packed_traces(n_, memory_ + at_.grad_traces + slot(b) * n_.traces());
    }
    // H_k: where it was kept, exactly; else as the unit before has left it, for rows that run
    // backwards, or as `recompute` has.
    TraceRows<const S> traces(int64_t k, int64_t b, bool backwards) const {
        if (k == 0) return tensor_traces<S, const S>(n_, n_.trace, n_.eligibility, zeros_, b);
        if (is_checkpoint(n_, k, n_.length(b))) return checkpoint(n_, g_.checkpoints, k, b);
        if (k == n_.length(b))
            return tensor_traces<S, const S>(n_, g_.trace_out, g_.eligibility_out, zeros_, b);
        return backwards ? reversed(b) : segment(b, k % n_.checkpoint_every - 1);
    }
    // Where the gradients of the first traces go: those that are asked for to their tensors.
    TraceRows<S> first_grads(int64_t b) const {
        TraceRows<S> rows = grad_work(b);
        const TraceRows<S> wanted =
            tensor_traces<S, S>(n_, g_.trace_in, g_.eligibility_in, nullptr, b);
        if (wanted.trace != nullptr) rows.trace = wanted.trace, rows.stride = wanted.stride;
        if (wanted.eligibility != nullptr)
            rows.eligibility = wanted.eligibility,
            rows.eligibility_stride = wanted.eligibility_stride;
        return rows;
    }

    void start(int64_t b) {
        const int64_t e = b - group_.first, length = n_.length(b);
        grad_in_[e] = tensor_traces<S, const S>(n_, g_.trace, g_.eligibility, zeros_, b);
        std::fill_n(grad_pre(team_.rank, 0, b), 3 * at_.row, S(0));
        clear_padding(n_, grad_work(b), begin_, end_);
        if (g_.reverse) clear_padding(n_, reversed(b), begin_, end_);
        std::fill(of_slot(at_.grad_posts, b) + begin_, of_slot(at_.grad_posts, b) + end_, S(0));
        std::fill(of_slot(at_.grad_rates, b) + begin_, of_slot(at_.grad_rates, b) + end_, S(0));
        S* grad_cell = of_slot(at_.grad_cells, b);
        const S* last = g_.cell == nullptr ? zeros_ : g_.cell + b * n_.posts;
        std::copy(last + begin_, last + end_, grad_cell + begin_);
        const int64_t parts = drive_blocks(n_.kind);
        for (int64_t t = length; t < n_.steps; ++t) {
            for (int64_t part = 0; part < parts; ++part) {
                S* row = g_.drive.at(t, b) + part * n_.posts;
                std::fill(row + begin_, row + end_, S(0));
            }
            if (g_.sum) std::fill(g_.sum.at(t, b) + begin_, g_.sum.at(t, b) + end_, S(0));
            if (g_.features)
                std::fill(g_.features.at(t, b) + first_pre_, g_.features.at(t, b) + last_pre_,
                          S(0));
            if (g_.modulator && team_.rank == 0) *g_.modulator.at(t, b) = 0;
        }
        if (g_.eligibility_in != nullptr)
            copy_unmodulated(n_, grad_in_[e], first_grads(b), begin_, end_);
        if (length > 0) return;
        // Nothing happened: what comes back to the last state goes on to the first.
        const TraceRows<S> first = first_grads(b);
        copy_traces(n_, grad_in_[e], first, begin_, end_);
        if (g_.hidden_in != nullptr) {
            const S* grad = g_.hidden == nullptr ? zeros_ : g_.hidden + b * n_.posts;
            std::copy(grad + begin_, grad + end_, g_.hidden_in + b * n_.posts + begin_);
        }
        if (g_.cell_in != nullptr)
            std::copy(grad_cell + begin_, grad_cell + end_, g_.cell_in + b * n_.posts + begin_);
    }

    // The unit of step k and what it needs of the traces; false where nothing comes back through
    // the last traces.
    bool prepare(int64_t k, int64_t b, Prepared& prepared) {
        const int64_t e = b - group_.first, length = n_.length(b), every = n_.checkpoint_every;
        BackwardUnit<S>& unit = prepared.again;
        unit = {};
        unit.grad_traces = grad_in_[e];
        unit.grad_traces_out = k == 0 ? first_grads(b) : grad_work(b);
        unit.grad_alpha = of_thread(kAlphas);
        unit.grad_eligibility_rate = of_thread(kEligibilityRates);
        unit.grad_rate = of_slot(at_.grad_rates, b);
        unit.alpha_stride = padded<S>(n_.pres);
        if (at_.adds_alphas) unit.grad_alphas = memory_ + at_.grad_alphas + thread_ * n_.matrix();
        if (n_.connection.layout == Layout::per_synapse) {
            unit.grad_rates = g_.rate;
            unit.grad_rate_scales = g_.rate_scale;
            unit.grad_eligibility_rates = g_.eligibility_rate;
        }
        if (k < length) {
            unit.pre = pres_.row(k, e);
            unit.grad_sum = sums_.at(k, b);
            unit.grad_pre = grad_pre(team_.rank, k, b);
        }
        if (k > 0) {
            unit.pre_before = pres_.filled(k - 1, e, pre_of(n_, a_, zeros_, k - 1, b));
            unit.post_before = post_of(n_, a_, k - 1, b);
            unit.modulator = modulator(k - 1, b);
            unit.grad_pre_before = grad_pre(team_.rank, k - 1, b);
            unit.grad_post_before = of_slot(at_.grad_posts, b);
        }
        // The gradients of the first and the last traces lie in tensors, as do those per synapse.
        const bool grads_of_last =
            k == length && (g_.trace != nullptr || g_.eligibility != nullptr);
        unit.padded = worth_packing(n_) && n_.connection.layout != Layout::per_synapse && k > 0 &&
                      has_padded_rows(n_, k - 1, b) && !grads_of_last;
        prepared.reverses = g_.reverse && k > 0;
        prepared.lost = k > 0 && g_.lost != nullptr ? n_.segment_rows(g_.lost, k, b) : nullptr;
        if (prepared.reverses) {
            BackwardUnit<S>& reversed_unit = prepared.reversed;
            reversed_unit = unit;
            reversed_unit.reverse = true;
            reversed_unit.traces = traces(k, b, true);
            reversed_unit.traces_out = reversed(b);
            reversed_unit.padded = unit.padded && has_padded_rows(n_, k, b);
        }
        if (k == 0) {
            unit.traces = traces(0, b, false);
        } else if (!g_.reverse || g_.lost != nullptr) {
            const int64_t inside = (k - 1) % every;
            if (inside > 0 && (k == length || inside == every - 1))
                recompute(k - 1 - inside, inside, b, prepared);
            unit.traces = traces(k - 1, b, false);
        }
        // Running backwards starts from the last trace in any case.
        if (k == length && g_.trace == nullptr && g_.eligibility == nullptr && !g_.reverse)
            return false;
        grad_in_[e] = grad_work(b);
        return true;
    }

    // The steps of a segment lie pages apart, at the same offsets, which no cache likes: their pre
    // are gathered first.
    void recompute(int64_t first, int64_t steps, int64_t b, const Prepared& prepared) const {
        const int64_t stride = padded<S>(n_.pres);
        S *pres = memory_ + at_.segment_pres + thread_ * at_.segment_size,
          *scratch = pres + at_.segment_steps * stride;
        for (int64_t t = 0; t < steps; ++t)
            copy_padded(pre_of(n_, a_, zeros_, first + t, b), n_.pres, pres + t * stride);
        History<S> history = history_of(first, b);
        history.steps = steps;
        history.first_pre = pres;
        history.pre = pres + stride;
        history.pre_stride = stride;
        history.traces = traces(first, b, false);
        const bool padded_rows = has_padded_rows(n_, first, b);
        for_kernels(
            n_, begin_, end_, [&](int64_t j) { return prepared.backwards(j); },
            [&](const ConnectionKernels<S>& kernel, int64_t from, int64_t to, bool backwards) {
                if (backwards) return;
                kernel.recompute(n_.connection, history, padded_rows, segment(b, 0), n_.traces(),
                                 scratch, from, to);
            });
    }

    // What the rates of step k - 1 got: into the sums of this thread, and its share of what the
    // modulator got.
    void collect_rates(int64_t k, int64_t b) const {
        const S m = modulator(k - 1, b), *grad = of_slot(at_.grad_rates, b);
        S share = 0;
        if (n_.connection.layout == Layout::per_synapse) {
            for (int64_t j = begin_; j < end_; ++j) share += grad[j];
        } else {
            S *rates = of_thread(kRates), *scales = of_thread(kRateScales);
            for (int64_t j = begin_; j < end_; ++j) rates[j] += grad[j];
            if (n_.modulator) {
                const Coefficients<S> scale = n_.connection.rate_scale;
                for (int64_t j = begin_; j < end_; ++j) scales[j] += m * grad[j];
                const S *own = grad + begin_,
                        *by = scale.stride == 0 ? memory_ + at_.ones : scale.row(begin_);
                S* to = &share;
                kernels<S>().multiply(by, 1, end_ - begin_, &own, &to, 1);
                if (scale.stride == 0) share *= *scale.data;
            }
        }
        *grad_modulator(team_.rank, k, b) = share;
    }

    // Unit k is done everywhere: the gradient of the activity before step k is complete.
    void finish(int64_t k, int64_t b) {
        S* grad_hidden = of_slot(at_.grad_hiddens, b);
        const int64_t e = b - group_.first;
        const auto total = [&](S* to, int64_t begin, int64_t end) {
            for (int64_t member = 0; member < team_.size; ++member) {
                const S* part = grad_pre(member, k, b);
                for (int64_t i = begin; i < end; ++i) to[i] += part[i];
            }
        };
        if (n_.recurrent()) {
            const S* last =
                k == n_.length(b) && g_.hidden != nullptr ? g_.hidden + b * n_.posts : zeros_;
            std::copy(last + begin_, last + end_, grad_hidden + begin_);
            total(grad_hidden, begin_, end_);
            add_modulated(grad_hidden, through_input_[e]);
            if (k == 0)
                std::copy(grad_hidden + begin_, grad_hidden + end_,
                          g_.hidden_in + b * n_.posts + begin_);
            if (k == 0 && g_.cell_in != nullptr) {
                const S* grad_cell = of_slot(at_.grad_cells, b);
                std::copy(grad_cell + begin_, grad_cell + end_, g_.cell_in + b * n_.posts + begin_);
            }
        } else {
            std::fill(grad_hidden + begin_, grad_hidden + end_, S(0));
            if (g_.features && k < n_.length(b)) {
                std::fill(g_.features.at(k, b) + first_pre_, g_.features.at(k, b) + last_pre_,
                          S(0));
                total(g_.features.at(k, b), first_pre_, last_pre_);
            }
        }
        if (k == 0) return;
        const S* upstream = g_.output ? g_.output.at(k - 1, b) : zeros_;
        for (int64_t j = begin_; j < end_; ++j) grad_hidden[j] += upstream[j];
        through_modulator(k, b, grad_hidden);
        through_step(k - 1, b, grad_hidden);
        // The slot that unit k - 1 starts on was last read before the barrier above.
        if (k > 1) std::fill_n(grad_pre(team_.rank, k - 2, b), n_.pres, S(0));
    }

    void add_modulated(S* to, S grad) const {
        if (grad == 0) return;
        for (int64_t j = begin_; j < end_; ++j) to[j] += grad * n_.modulator.weight[j];
    }

    void through_modulator(int64_t k, int64_t b, S* grad_hidden) {
        if (!n_.modulator) return;
        S grad = 0;
        for (int64_t member = 0; member < team_.size; ++member)
            grad += *grad_modulator(member, k, b);
        grad = activity_adjoint(n_.modulator.nonlinearity, modulator(k - 1, b), grad);
        if (team_.rank == 0) *g_.modulator.at(k - 1, b) = grad;
        through_input_[b - group_.first] = 0;
        switch (n_.modulator.input) {
            case ModulatorInput::hidden:
                return add_modulated(grad_hidden, grad);
            case ModulatorInput::cell:
                return add_modulated(of_slot(at_.grad_cells, b), grad);
            case ModulatorInput::previous_hidden:
                through_input_[b - group_.first] = grad;
        }
    }

    // Through the activities of step t, whose gradient is complete but for that of post.
    void through_step(int64_t t, int64_t b, S* grad_hidden) const {
        const S* grad_post = of_slot(at_.grad_posts, b);
        S* grad_drive = g_.drive.at(t, b);
        const auto add = [&](S* to) {
            for (int64_t j = begin_; j < end_; ++j) to[j] += grad_post[j];
        };
        if (!n_.has_gates()) {
            add(grad_hidden);
            return through_activity(
                n_.nonlinearity, a_.output.at(t, b), n_.clamp ? n_.clamp.at(t, b) : nullptr,
                static_cast<const S*>(grad_hidden), grad_drive, sums_.at(t, b), begin_, end_);
        }
        GatedStepGrad<S> grad{};
        grad.neurons = n_.posts;
        grad.history = a_.history.at(t, b);
        grad.before = carried(n_, a_, zeros_, t, b);
        grad.grad_hidden = grad_hidden;
        grad.grad_post = grad_post;
        grad.post = n_.post;
        grad.grad_drive = grad_drive;
        grad.grad_before =
            n_.carries_cell() ? of_slot(at_.grad_cells, b) : grad_pre(team_.rank, t, b);
        kernels<S>().gated_backward(n_.kind, grad, begin_, end_);
        if (!g_.sum) return;
        const S* grad_candidate = grad_drive + kPlastic * n_.posts;
        for (int64_t j = begin_; j < end_; ++j)
            sums_.at(t, b)[j] = grad_candidate[j] + grad_post[j];
    }

    // What the gates of step t give back to the activities before it.
    void through_gates(int64_t t) const {
        S* grad_pres[kMaxGroup];
        int64_t elements[kMaxGroup], count = 0;
        for (int64_t b = group_.first; b < group_.last; ++b) {
            if (t >= n_.length(b)) continue;
            grad_pres[count] = grad_pre(team_.rank, t, b);
            elements[count++] = b;
        }
        for (int64_t gate = 0; gate < weight_blocks(n_.kind); ++gate) {
            if (gate == kPlastic) continue;
            const int64_t row = gate * n_.posts + begin_;
            const S* factors[kMaxGroup];
            for (int64_t e = 0; e < count; ++e) factors[e] = g_.drive.at(t, elements[e]) + row;
            kernels<S>().add_rows(n_.gates + row * n_.pres, end_ - begin_, n_.pres, factors,
                                  grad_pres, count);
        }
    }

    // Adds what the thread has summed up to its totals.
    void gather() const {
        for (int64_t of = 0; of < kSums; ++of) {
            S* sum = of_thread(of);
            double* total = reinterpret_cast<double*>(memory_ + at_.totals) +
                            (of * at_.threads + thread_) * at_.posts;
            for (int64_t j = begin_; j < end_; ++j) total[j] += static_cast<double>(sum[j]);
            std::fill(sum + begin_, sum + end_, S(0));
        }
    }

   public:
    History<S> history_of(int64_t first, int64_t b) const {
        History<S> history{};
        history.first_pre = pre_of(n_, a_, zeros_, first, b);
        if (n_.recurrent()) {
            history.pre = a_.output.at(first, b);
            history.pre_stride = a_.output.step;
        } else {
            history.pre = n_.features.at(first, b) + n_.features.step;
            history.pre_stride = n_.features.step;
        }
        const bool in_history = post_row(n_.kind, n_.post) >= 0;
        history.post = post_of(n_, a_, first, b);
        history.post_stride = in_history ? a_.history.step : a_.output.step;
        history.modulators = a_.modulators.at(first, b);
        history.modulator_stride = a_.modulators.step;
        return history;
    }
    History<S> whole_history(int64_t b) const {
        History<S> history = history_of(0, b);
        history.steps = n_.length(b);
        history.traces = traces(0, b, false);
        history.grad_sum = sums_.at(0, b);
        history.grad_stride = sums_.step;
        return history;
    }
};

// Adds up what the threads found, in a fixed order; for one value per layer over the neurons, too.
template <typename T, typename S>
void add_up(T* per_thread, int64_t threads, int64_t distance, int64_t neurons, int64_t stride,
            S* to) {
    const auto summed = [](const T* values, int64_t count, int64_t step) {
        double total = 0;
        for (int64_t i = 0; i < count; ++i) total += static_cast<double>(values[i * step]);
        return total;
    };
    if (to == nullptr) return;
    for (int64_t j = 0; j < neurons; ++j)
        per_thread[j] = static_cast<T>(summed(per_thread + j, threads, distance));
    if (stride == 0) {
        *to = static_cast<S>(summed(per_thread, neurons, 1));
    } else {
        std::transform(per_thread, per_thread + neurons, to,
                       [](T value) { return static_cast<S>(value); });
    }
}

template <typename S>
void alpha_gradient(const Network<S>& n, const Gradients<S>& g, const BackwardLayout& at,
                    S* memory) {
    std::vector<History<S>> histories;
    for (int64_t b = 0; b < n.batch; ++b) {
        histories.push_back(
            BackwardGroup<S>(n, g, at, memory, Group{b, b + 1}, 0, Team{}).whole_history(b));
    }
    S* packed_pres = memory + at.packed_pres;
    parallel(at.threads, [&](Team team) {
        int64_t begin, end;
        kernels<S>().pack_history(n.pres, histories.data(), n.batch, packed_pres,
                                  at.tiles * team.rank / team.size,
                                  at.tiles * (team.rank + 1) / team.size);
        team.barrier();
        team.share(n.posts, begin, end);
        const AlphaGradient<S> out = {g.alpha, packed_pres,
                                      memory + at.alpha_rows + team.rank * at.alpha_size};
        for_kernels(
            n, begin, end, [&](const ConnectionKernels<S>& kernel, int64_t from, int64_t to) {
                kernel.alpha_gradient(n.connection, histories.data(), n.batch, out, from, to);
            });
    });
}

}  // namespace

template <typename S>
void backward(const Network<S>& given, const Gradients<S>& g) {
    const BackwardLayout at = backward_layout(given, g);
    const Workspace workspace(bytes_of<S>(at.size));
    S* memory = static_cast<S*>(workspace.memory());
    const Network<S> n = with_packed(given, memory + at.parameters);
    const Sharing sharing = sharing_of(n);
    const int64_t sums = at.threads * at.posts;
    double* totals = reinterpret_cast<double*>(memory + at.totals);
    std::fill_n(memory + at.zeros, zeros_size(n), S(0));
    std::fill_n(memory + at.ones, n.posts, S(1));
    std::fill_n(memory + at.sums, kSums * sums, S(0));
    std::fill_n(totals, kSums * sums, 0.0);
    if (at.adds_alphas) std::fill_n(memory + at.grad_alphas, at.threads * n.matrix(), S(0));
    parallel(at.threads, [&](Team all) {
        pack(given, memory + at.parameters, all);
        for_groups(n.batch, sharing, all, [&](Group group, int64_t thread, Team team) {
            BackwardGroup<S>(n, g, at, memory, group, thread, team).run();
        });
    });
    const Connection<S>& c = n.connection;
    const auto add_up_sum = [&](Sum of, int64_t stride, S* to) {
        add_up(totals + of * sums, at.threads, at.posts, n.posts, stride, to);
    };
    if (c.layout != Layout::per_synapse) {
        add_up_sum(kRates, c.rate.stride, g.rate);
        add_up_sum(kRateScales, c.rate_scale.stride, g.rate_scale);
        add_up_sum(kEligibilityRates, c.eligibility_rate.stride, g.eligibility_rate);
    }
    if (c.layout == Layout::per_neuron) {
        add_up_sum(kAlphas, c.alpha.stride, g.alpha);
    } else if (at.adds_alphas) {
        for (int64_t j = 0; j < n.posts; ++j)
            add_up(memory + at.grad_alphas + j * padded<S>(n.pres), at.threads, n.matrix(), n.pres,
                   1, g.alpha + j * n.pres);
    } else if (at.wants_alphas) {
        alpha_gradient(n, g, at, memory);
    }
}

template void backward(const Network<float>&, const Gradients<float>&);
template void backward(const Network<double>&, const Gradients<double>&);

}  // namespace plastikern
