// The backward pass on a device, from the last unit to the first: the adjoint of the forward pass,
// unit by unit. One kernel for all forms of plan.h; compiled once for each scalar.
//
// Unit k, of every element that runs so far:
//   activities   the gradient of step k's activities is complete: through them to their drives and
//   sums recompute    where a segment between two checkpoints begins, its traces, from the
//   checkpoint pass         this block's rows: the adjoint of the read of step k and of the change
//   by step k - 1 columns      what the block's rows give back to pre
//
// Longer than 600 lines: the parts of one kernel, which share what a block knows of itself.
#include "backward.h"
#include "row_passes.cuh"

namespace plastikern::cuda {
namespace {

template <class Rule, typename S>
class BackwardBlock {
    using Update = typename Rule::Update;
    using AtOnce = typename Rule::AtOnce;
    using Read = typename Rule::Read;
    // Sums over a row's synapses, in the order in which they lie in BackwardLayout::sums: those of
    // the change, by synapse the gradient of the modulator's share, last that of alpha. Where a
    // change sums over its row inside, gradients of the post and of each coefficient lie in the
    // place of its sums; a warp holds those of coefficients after all others.
    static constexpr int kRowSums = plastikern::kRowSums<Update, AtOnce>, kAlpha = kRowSums - 1,
                         kRate = kRowSums - 2,
                         kChangeSums = plastikern::kChangeSums<Update, AtOnce>,
                         kHeldSums = kRowSums + (kSumsInside<Rule> ? kStates<Update> : 0);

   public:
    __device__ __forceinline__ BackwardBlock(const BackwardJob<S>& job)
        : job_(job),
          n_(job.network),
          g_(job.gradients),
          a_(g_.activities),
          plan_(job.plan),
          layout_(job.layout),
          at_(plan_, n_.posts),
          zeros_(job.scratch + layout_.zeros),
          chip_(reinterpret_cast<S*>(shared_memory())),
          own_(layout_.own.of(job.scratch, blockIdx.x)),
          vectors_(plan_.vectors_on_chip ? chip_ : own_),
          group_(plan_.alone() ? chip_ : layout_.group.of(job.scratch, at_.group)),
          zeroed_(layout_.zeroed.of(job.scratch, at_.group)),
          parameters_(n_, plan_, layout_, chip_, at_),
          grad_tile_(n_, (plan_.traces_on_chip ? chip_ : own_) + layout_.grad_traces, plan_.rows),
          counter_(layout_.counter_in(job.scratch, at_.group)),
          sums_(g_.sum ? g_.sum : g_.drive) {
        if (!g_.sum && n_.has_gates()) sums_.data += kPlastic * n_.posts;
    }

    __device__ __forceinline__ void run() {
        if (plan_.alphas_on_chip)
            for_threads(at_.rows * n_.pres, [&](int64_t i) { grad_alphas()[i] = 0; });
        for (int64_t wave = 0; wave < plan_.waves; ++wave) {
            at_.elements(plan_, wave, n_.batch, first_, last_);
            for (int64_t k = job_.first; k >= job_.last; --k) unit(k);
        }
        if (plan_.alphas_on_chip) {
            for_threads(at_.rows * n_.pres, [&](int64_t i) { alphas()[i] = grad_alphas()[i]; });
        }
    }

   private:
    const BackwardJob<S>& job_;
    const Network<S>& n_;
    const Gradients<S>& g_;
    const Activities<const S>& a_;
    const Plan& plan_;
    const BackwardLayout& layout_;
    const Position at_;
    const S* zeros_;
    // Where the layout's offsets count from.
    S *const chip_, *const own_, *const vectors_, *const group_, *const zeroed_;
    const BlockParameters<S> parameters_;
    const Tile<S> grad_tile_;
    unsigned *counter_, passed_ = 0;
    Sequence<S> sums_;
    int64_t first_, last_;  // elements

    // Of this block's rows: the gradient of alpha, on the chip and in the group's.
    __device__ __forceinline__ S* grad_alphas() const { return chip_ + layout_.grad_alphas; }
    __device__ __forceinline__ S* alphas() const {
        return zeroed_ + layout_.alphas + at_.first_row * n_.pres;
    }
    __device__ __forceinline__ S* columns_of(int warp) const {
        return (plan_.columns_on_chip ? chip_ : own_) + layout_.columns + warp * 2 * n_.pres;
    }
    __device__ __forceinline__ S* copied_pre(int64_t k, int64_t b) const {
        return chip_ + layout_.pres + ((b - first_) * 3 + k % 3) * n_.pres;
    }
    __device__ __forceinline__ const S* pre(int64_t k, int64_t b) const {
        return plan_.vectors_on_chip ? copied_pre(k, b) : pre_of(n_, a_, zeros_, k, b);
    }
    // What block `rank` of this group found for the pre of step k.
    __device__ __forceinline__ S* total(int64_t k, int64_t b, int64_t rank) const {
        return group_ + layout_.totals +
               ((k % 3 * plan_.together + b - first_) * plan_.share + rank) * n_.pres;
    }
    __device__ __forceinline__ S sum_of_totals(int64_t k, int64_t b, int64_t i) const {
        S sum = 0;
        for (int64_t rank = 0; rank < plan_.share; ++rank) sum += fresh(total(k, b, rank) + i);
        return sum;
    }
    // Of the step whose M the rows change: in rotation over two steps.
    __device__ __forceinline__ S* rate_rows(int64_t t, int64_t b) const {
        return group_ + layout_.rate_rows + (t % 2 * plan_.together + b - first_) * n_.posts;
    }
    __device__ __forceinline__ S fresh(const S* address) const {
        return plan_.alone() ? *address : load_fresh(address);
    }
    __device__ __forceinline__ S* grad_posts(int64_t b) const {
        return vectors_ + layout_.grad_posts + (b - first_) * plan_.rows;
    }
    __device__ __forceinline__ S* grad_cells(int64_t b) const {
        return vectors_ + layout_.grad_cells + (b - first_) * plan_.rows;
    }
    __device__ __forceinline__ Tile<S> segment(int64_t inside) const {
        return Tile<S>(n_, own_ + layout_.segment + inside * layout_.tile, plan_.rows);
    }
    __device__ __forceinline__ int64_t segment_of(int64_t k) const {
        return (k - 1) / n_.checkpoint_every * n_.checkpoint_every;
    }
    __device__ __forceinline__ S modulator(int64_t t, int64_t b) const {
        return n_.modulator ? *a_.modulators.at(t, b) : S(0);
    }
    // H_k where it is kept.
    __device__ __forceinline__ TraceRows<const S> kept_traces(int64_t k, int64_t b) const {
        if (k == 0)
            return rows_of_tensors<S, const S>(n_, n_.trace, n_.eligibility, zeros_, b, at_);
        return below<const S>(checkpoint(n_, g_.checkpoints, k, b), at_.first_row);
    }
    __device__ __forceinline__ TraceRows<const S> grads_in(int64_t b) const {
        return rows_of_tensors<S, const S>(n_, g_.trace, g_.eligibility, zeros_, b, at_);
    }
    __device__ __forceinline__ TraceRows<S> grads_out(int64_t b) const {
        return rows_of_tensors<S, S>(n_, g_.trace_in, g_.eligibility_in, nullptr, b, at_);
    }

    __device__ __forceinline__ void unit(int64_t k) {
        if (k == n_.steps) begin();
        for (int64_t b = first_; plan_.vectors_on_chip && k > 0 && b < last_; ++b) {
            if (k > n_.length(b)) continue;
            const S* from = pre_of(n_, a_, zeros_, k - 1, b);
            for_threads(n_.pres, [&](int64_t i) { copied_pre(k - 1, b)[i] = from[i]; });
        }
        for (int64_t b = first_; b < last_; ++b) {
            if (k < n_.length(b)) activities(k, b);
        }
        __syncthreads();
        for (int64_t b = first_; b < last_ && k >= 0; ++b) {
            const int64_t length = n_.length(b);
            if (k > length || length == 0) continue;
            if (k > 0) recompute(k, b, length);
            pass(k, b, length, k > 0, k < length);
            __syncthreads();
            for_threads(at_.rows, [&](int64_t row) {
                finish_row(k, b, static_cast<int>(row), k > 0, k < length);
            });
            columns(k, b, length);
            __syncthreads();
        }
        if (plan_.one_launch())
            barrier_of_blocks(counter_, static_cast<unsigned>(plan_.share), passed_);
    }

    // What does not depend on any step: zeros beyond an element's end; where nothing happened, what
    // comes back to the last state goes on to the first.
    __device__ __forceinline__ void begin() const {
        for (int64_t b = first_; b < last_; ++b) {
            const int64_t length = n_.length(b), parts = drive_blocks(n_.kind);
            for_threads((n_.steps - length) * at_.rows, [&](int64_t i) {
                const int64_t t = length + i / at_.rows, j = at_.first_row + i % at_.rows;
                for (int64_t part = 0; part < parts; ++part)
                    g_.drive.at(t, b)[part * n_.posts + j] = 0;
                if (g_.sum) g_.sum.at(t, b)[j] = 0;
            });
            for_threads(at_.rank == 0 ? n_.steps - length : 0, [&](int64_t i) {
                if (g_.modulator) *g_.modulator.at(length + i, b) = 0;
                for (int64_t c = 0; g_.features && c < n_.pres; ++c)
                    g_.features.at(length + i, b)[c] = 0;
            });
            for_threads(at_.rows, [&](int64_t row) {
                const int64_t j = b * n_.posts + at_.first_row + row;
                const S grad_cell = g_.cell == nullptr ? S(0) : g_.cell[j];
                grad_cells(b)[row] = grad_cell;
                if (length > 0) return;
                if (g_.hidden_in != nullptr)
                    g_.hidden_in[j] = g_.hidden == nullptr ? S(0) : g_.hidden[j];
                if (g_.cell_in != nullptr) g_.cell_in[j] = grad_cell;
            });
            if (length == 0) copy_traces<Update, S>(grads_in(b), grads_out(b), n_.pres, at_);
        }
    }

    // The gradient of step k's activities is complete now; k = -1 stands for the activities before
    // the first step.
    __device__ __forceinline__ void activities(int64_t k, int64_t b) const {
        const int64_t length = n_.length(b);
        if (length == 0) return;
        S through_modulator = 0;
        if (n_.modulator && k >= 0) {
            const S* rows = rate_rows(k, b);
            for (int64_t j = at_.lane; j < n_.posts; j += kLanes)
                through_modulator += fresh(rows + j);
            through_modulator = activity_adjoint(n_.modulator.nonlinearity, modulator(k, b),
                                                 sum_of_lanes(through_modulator));
            if (at_.rank == 0 && threadIdx.x == 0) *g_.modulator.at(k, b) = through_modulator;
        }
        if (g_.features && k + 1 < length) {
            const int64_t each = (n_.pres + plan_.share - 1) / plan_.share, first = at_.rank * each;
            for_threads(each, [&](int64_t i) {
                if (first + i < n_.pres)
                    g_.features.at(k + 1, b)[first + i] = sum_of_totals(k + 1, b, first + i);
            });
        }
        if (k < 0 && !n_.recurrent()) return;
        for_threads(at_.rows, [&](int64_t row) {
            activity(k, b, length, static_cast<int>(row), through_modulator);
        });
        if (n_.nonlinearity == Nonlinearity::softmax) through_softmax(k, b);
    }

    __device__ __forceinline__ void activity(int64_t k, int64_t b, int64_t length, int row,
                                             S through_modulator) const {
        const int64_t j = at_.first_row + row, of_state = b * n_.posts + j;
        S grad = 0;
        if (n_.recurrent()) {
            if (k + 1 == length && g_.hidden != nullptr) grad += g_.hidden[of_state];
            if (k + 1 < length) {
                grad += sum_of_totals(k + 1, b, j);
                if (n_.modulator && n_.modulator.input == ModulatorInput::previous_hidden)
                    grad += load_fresh(g_.modulator.at(k + 1, b)) * n_.modulator.weight[j];
            }
        }
        S& grad_carried = grad_cells(b)[row];
        if (n_.has_gates() && !n_.carries_cell()) grad += grad_carried;
        if (k < 0) {
            g_.hidden_in[of_state] = grad;
            if (g_.cell_in != nullptr) g_.cell_in[of_state] = grad_carried;
            return;
        }
        if (g_.output) grad += g_.output.at(k, b)[j];
        if (n_.modulator && n_.modulator.input == ModulatorInput::hidden)
            grad += through_modulator * n_.modulator.weight[j];
        if (!n_.has_gates()) {
            S *drive = g_.drive.at(k, b) + j, *sum = sums_.at(k, b) + j;
            const S y = a_.output.at(k, b)[j];
            const bool clamped = n_.clamp && n_.clamp.at(k, b)[j];
            grad += grad_posts(b)[row];
            const S through = activity_adjoint(n_.nonlinearity, y, grad);
            *sum = clamped ? S(0) : through;
            *drive = clamped ? grad : through;
            return;
        }
        with_cell(n_.kind, [&](auto cell) {
            grad_carried =
                through_cell<decltype(cell)>(k, b, row, grad, grad_carried, through_modulator);
        });
    }

    // Through a neuron with gates, to its drives and sums: the gradient of what the cell was before
    // the step. `grad_hidden` is without that of the post.
    template <class Cell>
    __device__ __forceinline__ S through_cell(int64_t k, int64_t b, int row, S grad_hidden,
                                              S grad_carried, S through_modulator) const {
        const int64_t j = at_.first_row + row, next = n_.posts;
        const S *history = a_.history.at(k, b) + j, grad_post = grad_posts(b)[row];
        S* drive = g_.drive.at(k, b) + j;
        typename Cell::template AdjointGiven<S> given;
        Cell::kept([&](int kept, S& value) { value = history[kept * next]; }, given);
        given.before = carried(n_, a_, zeros_, k, b)[j];
        Cell::posts([&](Post post, S& grad) { grad = post == n_.post ? grad_post : S(0); }, given);
        given.grad_hidden += grad_hidden;
        if constexpr (Cell::carries) {
            given.grad_cell += grad_carried;
            if (n_.modulator && n_.modulator.input == ModulatorInput::cell)
                given.grad_cell = fused(through_modulator, n_.modulator.weight[j], given.grad_cell);
        }
        const auto grads = Cell::adjoint(given);
        Cell::grads([&](int which, const S& grad) { drive[which * next] = grad; }, grads);
        if (g_.sum) g_.sum.at(k, b)[j] = drive[kPlastic * next] + grad_post;
        return grads.grad_before;
    }

    // Of the whole layer, which one block has; `activity` has left the gradients of the activities.
    __device__ __forceinline__ void through_softmax(int64_t k, int64_t b) const {
        __syncthreads();
        const S* output = a_.output.at(k, b);
        S *drive = g_.drive.at(k, b), mean = 0;
        for (int64_t j = at_.lane; j < n_.posts; j += kLanes) mean += output[j] * drive[j];
        mean = sum_of_lanes(mean);
        __syncthreads();
        for_threads(n_.posts, [&](int64_t j) { drive[j] = output[j] * (drive[j] - mean); });
    }

    // At the last unit of a segment: H after its first step, after its second one, and so on, but
    // the last.
    __device__ __forceinline__ void recompute(int64_t k, int64_t b, int64_t length) const {
        const int64_t start = segment_of(k), inside = k - 1 - start;
        if (inside == 0 || (k != length && inside != n_.checkpoint_every - 1)) return;
        const TraceRows<const S> from = kept_traces(start, b);
        for (int row = at_.first_of_warp(); row < at_.rows; row += at_.stride()) {
            const int count = at_.at_once(row);
            for (int r = row; r < row + count; ++r) recompute_row(from, r, b, start, inside);
        }
    }

    __device__ __forceinline__ void recompute_row(TraceRows<const S> from, int row, int64_t b,
                                                  int64_t start, int64_t steps) const {
        const S bound = n_.connection.bound;
        if constexpr (kSumsInside<Rule>) {
            // Its synapses wait for each other at every step.
            for (int64_t t = 0; t < steps; ++t) {
                const S* pre = pre_of(n_, a_, zeros_, start + t, b);
                const S post = post_of(n_, a_, start + t, b)[at_.first_row + row],
                        m = modulator(start + t, b);
                const TraceRows<S> after = segment(t).of(b - first_);
                const RowPasses<Rule, S> passes{parameters_, row, at_.lane, from, pre, m};
                passes.step(after, post, bound);
                from = TraceRows<const S>(after);
            }
        } else {
            const bool eligible = parameters_.eligible(row);
            RowValues<Rule, S> values;
            for (int i = at_.lane; i < static_cast<int>(n_.pres); i += kLanes) {
                auto states = TraceRow<Update, const S>(from, row).load(i);
                for (int64_t t = 0; t < steps; ++t) {
                    const S x = pre_of(n_, a_, zeros_, start + t, b)[i],
                            m = modulator(start + t, b);
                    const S post = post_of(n_, a_, start + t, b)[at_.first_row + row];
                    const auto given = parameters_.template coefficients<Update>(
                        row, parameters_.rates_per_synapse ? i : 0, m);
                    states =
                        next<Rule, S>(eligible, states, x, post, bound, S(n_.pres), given, values);
                    TraceRow<Update, S>(segment(t).of(b - first_), row).store(i, states);
                }
            }
        }
    }

    // This block's rows of element b: the adjoint of the read of step k and of the change by step k
    // - 1.
    __device__ __forceinline__ void pass(int64_t k, int64_t b, int64_t length, bool changes,
                                         bool reads) const {
        TraceRows<const S> from = kept_traces(0, b);
        if (changes) {
            const int64_t start = segment_of(k), inside = k - 1 - start;
            from = inside == 0 ? kept_traces(start, b)
                               : TraceRows<const S>(segment(inside - 1).of(b - first_));
        }
        const TraceRows<const S> grads =
            k == length ? grads_in(b) : TraceRows<const S>(grad_tile_.of(b - first_));
        const TraceRows<S> grads_before = changes ? grad_tile_.of(b - first_) : grads_out(b);
        const S m = changes ? modulator(k - 1, b) : S(0), bound = n_.connection.bound;
        const S* before = changes ? pre(k - 1, b) : zeros_;
        const S* here = reads ? pre(k, b) : zeros_;
        const S* posts = changes ? post_of(n_, a_, k - 1, b) + at_.first_row : nullptr;
        const S* grad_sums = reads ? sums_.at(k, b) + at_.first_row : zeros_;
        S* columns = columns_of(at_.warp);
        const int pres = static_cast<int>(n_.pres);

        for (int row = at_.first_of_warp(); row < at_.rows; row += at_.stride()) {
            const int count = at_.at_once(row);
            const int second = row + count - 1;
            const TraceRow<Update, const S> rows_in[kRows] = {{from, row}, {from, second}};
            const TraceRow<Update, const S> grads_in[kRows] = {{grads, row}, {grads, second}};
            const TraceRow<Update, S> grads_out[kRows] = {{grads_before, row},
                                                          {grads_before, second}};
            const S* weights[kRows] = {parameters_.weight.row(row), parameters_.weight.row(second)};
            const S* alphas[kRows] = {parameters_.alpha.row(row), parameters_.alpha.row(second)};
            S post[kRows] = {}, sums[kHeldSums][kRows] = {};
            Given<Update, S> given[kRows];
            typename Read::template Row<S> reading[kRows];
            bool eligible[kRows];
            RowValues<Rule, S> values[kRows];
            const bool is_first = row == at_.warp * static_cast<int>(kRows);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const int own = r == 0 ? row : second;
                eligible[r] = parameters_.eligible(own);
                reading[r] = Read::row(bound, S(0), grad_sums[own]);
                if (!changes) continue;
                post[r] = posts[own];
                if (!parameters_.rates_per_synapse)
                    given[r] = parameters_.template coefficients<Update>(own, 0, m);
                if constexpr (kSumsInside<Rule>) {
                    if (r >= count) continue;
                    const RowPasses<Rule, S> passes{parameters_, own, at_.lane, from, before, m};
                    passes.next(values[r], post[r], bound);
                    passes.adjoint(values[r], grads, reads ? here : nullptr, reading[r]);
                }
            }
            for (int i = at_.lane; i < pres; i += kLanes) {
                const S x = here[i], x_before = before[i];
                S through_read = 0, through_change = 0;
#pragma unroll
                for (int r = 0; r < kRows; ++r) {
                    if (r >= count) continue;
                    const auto before = rows_in[r].load(i);
                    auto states = before, grad = grads_in[r].load(i);
                    if (changes) {
                        if (parameters_.rates_per_synapse)
                            given[r] = parameters_.template coefficients<Update>(row + r, i, m);
                        states = next<Rule, S>(eligible[r], before, x_before, post[r], bound,
                                               S(n_.pres), given[r], values[r]);
                    }
                    if (reads) {
                        const S alpha = alphas[r][parameters_.alpha_per_synapse ? i : 0];
                        const auto through = Read::adjoint(reading[r], weights[r][i], alpha,
                                                           states.H, x, {grad.H, through_read});
                        grad.H = through.H;
                        through_read = through.x;
                        if (parameters_.gated) through_read += through_gates(k, b, row + r, i);
                        if (parameters_.alpha_per_synapse) {
                            add_alpha(row + r, i, reading[r], states.H, x);
                        } else {
                            sums[kAlpha][r] = Read::alpha(reading[r], states.H, x, sums[kAlpha][r]);
                        }
                    }
                    if (changes) {
                        if (!kEligible<Update> || eligible[r]) {
                            grad =
                                change<Update>(before, x_before, post[r], given[r], bound, grad, m,
                                               row + r, i, through_change, sums, r, values[r]);
                        } else {
                            grad.H = change<AtOnce>({before.H}, x_before, post[r], {given[r].r},
                                                    bound, {grad.H}, m, row + r, i, through_change,
                                                    sums, r, values[r])
                                         .H;
                        }
                    }
                    grads_out[r].store(i, grad);
                }
                if (reads) columns[i] = is_first ? through_read : columns[i] + through_read;
                if (changes) {
                    S* so_far = columns + n_.pres + i;
                    *so_far = is_first ? through_change : *so_far + through_change;
                }
            }
            S* to = vectors_ + layout_.sums + row + at_.row_of_lane();
#pragma unroll
            for (int which = 0; which < kRowSums; ++which) {
                // What no kernel of this rule adds to need not be summed.
                if (which >= (kSumsInside<Rule> ? 0 : kChangeSums) && which < kRate) continue;
                const S sum = sums_of_two(sums[which][0], sums[which][1], at_.lane);
                if (at_.tells(count)) to[which * plan_.rows] = sum;
            }
            if constexpr (kSumsInside<Rule>) {
                if (changes)
                    finish_sums<Rule, kRowSums>(values, eligible, sums, count, at_.lane,
                                                vectors_ + layout_.sums + row, plan_.rows);
            }
        }
    }

    // What the other recurrent sums of step k give back to one of the activities before it.
    __device__ __forceinline__ S through_gates(int64_t k, int64_t b, int row, int i) const {
        const S* drive = g_.drive.at(k, b) + at_.first_row + row;
        S sum = 0;
        parameters_.for_others([&](int gate) {
            sum = fused(parameters_.gates[gate][row * n_.pres + i],
                        drive[block_of(gate) * n_.posts], sum);
        });
        return sum;
    }

    __device__ __forceinline__ void add_alpha(int row, int i,
                                              const typename Read::template Row<S>& reading, S H,
                                              S x) const {
        const auto add = [&](S& so_far) { so_far = Read::alpha(reading, H, x, so_far); };
        if (plan_.alphas_on_chip) {
            add(grad_alphas()[row * n_.pres + i]);
        } else if (g_.alpha != nullptr) {
            add(alphas()[row * n_.pres + i]);
        }
    }

    // The adjoint of one synapse's change by step k - 1: the gradient of its traces before it.
    template <class Changed>
    __device__ __forceinline__ States<Changed, S> change(const States<Changed, S>& before, S pre,
                                                         S post, const Given<Changed, S>& given,
                                                         S bound, const States<Changed, S>& grad,
                                                         S m, int row, int i, S& through_change,
                                                         S (&sums)[kHeldSums][kRows], int r,
                                                         RowValues<Rule, S>& values) const {
        const auto adjoint = [&](auto text, const auto& of_row) {
            using Text = decltype(text);
            typename Text::template Adjoint<S> so_far;
            so_far.x = through_change;
            Text::sums([&](int which, S& sum) { sum = sums[which][r]; }, so_far.sums);
            const auto found = Text::adjoint(of_row, before, pre, given, grad, so_far);
            Text::sums([&](int which, const S& sum) { sums[which][r] = sum; }, found.sums);
            through_change = found.x;
            return found;
        };
        const S count = S(n_.pres);
        if constexpr (!kSumsInside<Rule>) {
            using ByRow = typename Changed::by_row;
            if (!parameters_.rates_per_synapse)
                return adjoint(ByRow(), ByRow::row(post, bound, count, given)).states;
        }
        const auto found = adjoint(typename Changed::by_synapse(),
                                   values.template of<Changed>(post, bound, count, given));
        if constexpr (kSumsInside<Rule>) {
            if (!parameters_.rates_per_synapse) {
                Changed::coefficients(
                    [&](int which, const S& grad) { sums[kRowSums + which][r] += grad; },
                    found.coefficients);
                return found.states;
            }
        }
        const S in_force = found.coefficients.r;
        const int64_t at = (at_.first_row + row) * n_.pres + i, matrix = n_.synapses();
        S* grad_rates = zeroed_ + layout_.rates + at;
        grad_rates[0] += in_force;
        grad_rates[matrix] = fused(in_force, m, grad_rates[matrix]);
        if constexpr (kEligible<Changed>) grad_rates[2 * matrix] += found.coefficients.eta;
        if (parameters_.modulated)
            sums[kRate][r] = fused(in_force, parameters_.scale(row, i), sums[kRate][r]);
        return found.states;
    }

    // From the sums over a row to the gradients of its post, its rates and its alpha.
    __device__ __forceinline__ void finish_row(int64_t k, int64_t b, int row, bool changes,
                                               bool reads) const {
        const S* sums = vectors_ + layout_.sums + row;
        if (reads && !parameters_.alpha_per_synapse)
            zeroed_[layout_.row_sums + 3 * n_.posts + at_.first_row + row] +=
                sums[kAlpha * plan_.rows];
        if (!changes) return;
        if (!kEligible<Update> || parameters_.eligible(row)) {
            finish_change<Update>(k, b, row, sums);
        } else {
            finish_change<AtOnce>(k, b, row, sums);
        }
    }

    template <class Changed>
    __device__ __forceinline__ void finish_change(int64_t k, int64_t b, int row,
                                                  const S* sums) const {
        const int64_t j = at_.first_row + row, posts = n_.posts;
        const S m = modulator(k - 1, b), post = post_of(n_, a_, k - 1, b)[j];
        const auto given = parameters_.template coefficients<Changed>(row, 0, m);
        const auto finish = [&](auto text) {
            using Text = decltype(text);
            typename Text::template Finished<S> found;
            if constexpr (kSumsInside<Rule>) {
                found = finished<Changed, Text>(sums, plan_.rows);
            } else {
                typename Text::template Sums<S> totals;
                Text::sums([&](int which, S& sum) { sum = sums[which * plan_.rows]; }, totals);
                found =
                    Text::finish(Text::row(post, n_.connection.bound, S(n_.pres), given), totals);
            }
            grad_posts(b)[row] = found.y;
            return found;
        };
        S rate = sums[kRate * plan_.rows];
        if (parameters_.rates_per_synapse) {
            finish(typename Changed::by_synapse());
        } else {
            const auto found = finish(typename Changed::by_row());
            S* row_sums = zeroed_ + layout_.row_sums + j;
            rate = found.coefficients.r;
            row_sums[0] += rate;
            row_sums[posts] = fused(rate, m, row_sums[posts]);
            if constexpr (kEligible<Changed>) row_sums[2 * posts] += found.coefficients.eta;
            rate *= parameters_.modulated ? parameters_.scale(row, 0) : S(1);
        }
        if (parameters_.modulated) rate_rows(k - 1, b)[j] = rate;
    }

    // What all rows of this block give back to the pre of step k, which is complete now, and of the
    // one before.
    __device__ __forceinline__ void columns(int64_t k, int64_t b, int64_t length) const {
        const int bundles = (at_.rows + 1) / static_cast<int>(kRows),
                  warps = bundles < at_.warps ? bundles : at_.warps;
        for_threads(n_.pres, [&](int64_t i) {
            S through_read = 0, through_change = 0;
            for (int warp = 0; warp < warps; ++warp) {
                const S* of_warp = columns_of(warp) + i;
                if (k < length) through_read += of_warp[0];
                if (k > 0) through_change += of_warp[n_.pres];
            }
            if (k < length) total(k, b, at_.rank)[i] += through_read;
            if (k > 0) total(k - 1, b, at_.rank)[i] = through_change;
        });
    }
};

template <class Rule, typename S>
__global__ void __launch_bounds__(most_warps(true, kEligible<typename Rule::Update>, sizeof(S)) *
                                  kLanes) run_backward(const __grid_constant__ BackwardJob<S> job) {
    BackwardBlock<Rule, S>(job).run();
}

}  // namespace

#define BACKWARD_KERNELS(rule, constraint, update, free, read, served)                         \
    {run_backward<Rule<generated::update, generated::update, generated::served>,               \
                  PLASTIKERN_SCALAR>,                                                          \
     run_backward<Rule<generated::update##_retroactive, generated::update, generated::served>, \
                  PLASTIKERN_SCALAR>},

template <>
BackwardKernel<PLASTIKERN_SCALAR> backward_kernel<PLASTIKERN_SCALAR>(
    const Network<PLASTIKERN_SCALAR>& n) {
    static const BackwardKernel<PLASTIKERN_SCALAR> kernels[][2] = {
        PLASTIKERN_RULES(BACKWARD_KERNELS)};
    return kernels[n.rule][n.retroactive];
}

}  // namespace plastikern::cuda
