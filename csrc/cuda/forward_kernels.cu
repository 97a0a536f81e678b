// The forward pass on a device: unit k changes the traces by step k - 1, then reads them for step
// k. One kernel for all forms of plan.h; compiled once for each scalar.
#include "forward.h"
#include "row_passes.cuh"

namespace plastikern::cuda {
namespace {

template <class Rule, typename S>
class ForwardBlock {
    using Update = typename Rule::Update;
    using Read = typename Rule::Read;

   public:
    __device__ __forceinline__ ForwardBlock(const ForwardJob<S>& job)
        : job_(job),
          n_(job.network),
          a_(job.out.activities),
          plan_(job.plan),
          layout_(job.layout),
          at_(plan_, n_.posts),
          chip_(reinterpret_cast<S*>(shared_memory())),
          vectors_(plan_.vectors_on_chip ? chip_ : layout_.own.of(job.scratch, blockIdx.x)),
          parameters_(n_, plan_, layout_, chip_, at_),
          tile_(n_, chip_ + layout_.traces, plan_.rows),
          zeros_(job.scratch + layout_.zeros),
          counter_(layout_.counter_in(job.scratch, at_.group)) {}

    __device__ __forceinline__ void run() {
        for (int64_t wave = 0; wave < plan_.waves; ++wave) {
            at_.elements(plan_, wave, n_.batch, first_, last_);
            for (int64_t k = job_.first; k <= job_.last; ++k) unit(k);
        }
    }

   private:
    const ForwardJob<S>& job_;
    const Network<S>& n_;
    const Activities<S>& a_;
    const Plan& plan_;
    const ForwardLayout& layout_;
    const Position at_;
    // Where the layout's offsets count from.
    S *const chip_, *const vectors_;
    const BlockParameters<S> parameters_;
    const Tile<S> tile_;
    const S* zeros_;
    unsigned *counter_, passed_ = 0;
    int64_t first_, last_;  // elements

    // Activities that a kernel reads while others of this launch write them are copied; else they
    // are where they are.
    __device__ __forceinline__ S* copied_pre(int64_t k, int64_t b) const {
        return chip_ + layout_.pres + ((b - first_) * 3 + k % 3) * n_.pres;
    }
    __device__ __forceinline__ const S* pre(int64_t k, int64_t b) const {
        return plan_.vectors_on_chip ? copied_pre(k, b) : pre_of(n_, a_, zeros_, k, b);
    }

    __device__ __forceinline__ void unit(int64_t k) {
        if (k == 0) begin();
        if (plan_.vectors_on_chip) {
            for (int64_t b = first_; b < last_; ++b) {
                const int64_t length = n_.length(b);
                // What this block alone computes it has put there itself.
                const bool there =
                    n_.recurrent() ? k <= length && (k == 0 || !plan_.alone()) : k < length;
                if (!there) continue;
                const S* from = pre_of(n_, a_, zeros_, k, b);
                for_threads(n_.pres,
                            [&](int64_t i) { copied_pre(k, b)[i] = load_fresh(from + i); });
            }
            __syncthreads();
        }
        for (int64_t b = first_; b < last_; ++b) {
            const int64_t length = n_.length(b);
            if (k > length || length == 0) continue;
            pass(k, b, length, k > 0 && !plan_.at_once, k < length);
        }
        __syncthreads();
        for (int64_t b = first_; b < last_; ++b) {
            if (k >= n_.length(b)) continue;
            for_threads(at_.rows, [&](int64_t row) { activate(k, b, static_cast<int>(row)); });
        }
        if (n_.nonlinearity == Nonlinearity::softmax) softmax(k);
        if (plan_.at_once) change_at_once();
        if (plan_.one_launch())
            barrier_of_blocks(counter_, static_cast<unsigned>(plan_.share), passed_);
        finish(k);
        if (plan_.at_once) finish(1);
    }

    // The change by the only step, in the launch that has read the traces.
    __device__ __forceinline__ void change_at_once() {
        __syncthreads();
        for (int64_t b = first_; b < last_; ++b) {
            if (n_.length(b) > 0) pass(1, b, 1, true, false);
        }
    }

    // What does not depend on any step: what came in where nothing happens, zeros beyond an
    // element's end.
    __device__ __forceinline__ void begin() const {
        for (int64_t b = first_; b < last_; ++b) {
            const int64_t length = n_.length(b);
            if (length == 0) copy_traces<Update, S>(traces_in(b), traces_out(b), n_.pres, at_);
            const int64_t ended = (n_.steps - length) * at_.rows;
            for_threads(ended, [&](int64_t i) {
                const int64_t t = length + i / at_.rows, j = at_.first_row + i % at_.rows;
                a_.output.at(t, b)[j] = 0;
                // The gradient of a modulator's weight runs over all cells.
                if (n_.carries_cell()) cell_of(n_, a_, t, b)[j] = 0;
            });
        }
    }

    // The last activities of elements that ended with unit k, each block's own rows.
    __device__ __forceinline__ void finish(int64_t k) const {
        for (int64_t b = first_; b < last_; ++b) {
            if (k != n_.length(b)) continue;
            for_threads(at_.rows, [&](int64_t row) {
                const int64_t j = at_.first_row + row;
                if (job_.out.hidden != nullptr)
                    job_.out.hidden[b * n_.posts + j] =
                        load_fresh(pre_of(n_, a_, zeros_, k, b) + j);
                if (job_.out.cell != nullptr)
                    job_.out.cell[b * n_.posts + j] =
                        load_fresh(cell_before(n_, a_, zeros_, k, b) + j);
            });
        }
    }

    __device__ __forceinline__ TraceRows<const S> traces_in(int64_t b) const {
        return rows_of_tensors<S, const S>(n_, n_.trace, n_.eligibility, zeros_, b, at_);
    }
    __device__ __forceinline__ TraceRows<S> traces_out(int64_t b) const {
        return rows_of_tensors<S, S>(n_, job_.out.trace, job_.out.eligibility, nullptr, b, at_);
    }

    // Every warp computes it, from the same numbers in the same order.
    __device__ __forceinline__ S modulator(int64_t t, int64_t b) const {
        if (!n_.modulator) return 0;
        const S* source = modulator_input(n_, a_, zeros_, t, b);
        const bool copied =
            plan_.vectors_on_chip && n_.recurrent() && n_.modulator.input != ModulatorInput::cell;
        if (copied)
            source = copied_pre(n_.modulator.input == ModulatorInput::hidden ? t + 1 : t, b);
        S sum = 0;
        for (int64_t i = at_.lane; i < n_.posts; i += kLanes)
            sum = fused(n_.modulator.weight[i], copied ? source[i] : load_fresh(source + i), sum);
        const S z = sum_of_lanes(sum) + *n_.modulator.bias;
        const S m = plastikern::activity(n_.modulator.nonlinearity, z);
        if (at_.rank == 0 && threadIdx.x == 0) *a_.modulators.at(t, b) = m;
        return m;
    }

    // This block's rows of element b: changed by step k - 1, read for step k.
    __device__ __forceinline__ void pass(int64_t k, int64_t b, int64_t length, bool changes,
                                         bool reads) const {
        const bool on_chip = plan_.traces_on_chip;
        TraceRows<const S> from = traces_in(b);
        if (k >= (on_chip ? 1 : 2)) from = on_chip ? tile_.of(b - first_) : traces_out(b);
        TraceRows<S> to = on_chip && k < length ? tile_.of(b - first_) : traces_out(b), kept{};
        if (changes && is_checkpoint(n_, k, length))
            kept = below(checkpoint(n_, job_.out.checkpoints, k, b), at_.first_row);
        const bool stores = changes || on_chip;
        const S m = changes ? modulator(k - 1, b) : S(0), bound = n_.connection.bound;
        const S* before = changes ? pre(k - 1, b) : zeros_;
        const S* here = reads ? pre(k, b) : zeros_;
        const S* posts = changes ? post_of(n_, a_, k - 1, b) + at_.first_row : nullptr;
        const int pres = static_cast<int>(n_.pres);
        const auto reading = Read::row(bound, S(0), S(0));

        for (int row = at_.first_of_warp(); row < at_.rows; row += at_.stride()) {
            const int count = at_.at_once(row);
            using Row = TraceRow<Update, S>;
            using ConstRow = TraceRow<Update, const S>;
            const int second = row + count - 1;
            const ConstRow rows_in[kRows] = {{from, row}, {from, second}};
            const Row rows_out[kRows] = {{to, row}, {to, second}},
                      rows_kept[kRows] = {{kept, row}, {kept, second}};
            const S* weights[kRows] = {parameters_.weight.row(row), parameters_.weight.row(second)};
            const S* alphas[kRows] = {parameters_.alpha.row(row), parameters_.alpha.row(second)};
            S sums[kRows] = {}, gates[kMostOthers][kRows] = {}, post[kRows] = {};
            Given<Update, S> given[kRows];
            bool eligible[kRows];
            RowValues<Rule, S> values[kRows];
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                const int own = r == 0 ? row : second;
                eligible[r] = parameters_.eligible(own);
                if (!changes) continue;
                post[r] = posts[own];
                if (!parameters_.rates_per_synapse)
                    given[r] = parameters_.template coefficients<Update>(own, 0, m);
                if constexpr (kSumsInside<Rule>) {
                    if (r < count)
                        RowPasses<Rule, S>{parameters_, own, at_.lane, from, before, m}.next(
                            values[r], post[r], bound);
                }
            }
            for (int first = at_.lane; first < pres; first += kLanes * kColumns) {
#pragma unroll
                for (int column = 0; column < kColumns; ++column) {
                    const int i = first + column * kLanes;
                    if (i >= pres) continue;
                    const S x = here[i], x_before = before[i];
#pragma unroll
                    for (int r = 0; r < kRows; ++r) {
                        if (r >= count) continue;
                        auto states = rows_in[r].load(i);
                        if (changes) {
                            if (parameters_.rates_per_synapse)
                                given[r] = parameters_.template coefficients<Update>(row + r, i, m);
                            states = next<Rule, S>(eligible[r], states, x_before, post[r], bound,
                                                   S(n_.pres), given[r], values[r]);
                        }
                        if (stores) rows_out[r].store(i, states);
                        if (kept.trace != nullptr) rows_kept[r].store(i, states);
                        const S alpha = alphas[r][parameters_.alpha_per_synapse ? i : 0];
                        sums[r] = Read::sum(reading, weights[r][i], alpha, states.H, x, sums[r]);
                        parameters_.for_others([&](int gate) {
                            gates[gate][r] = fused(parameters_.gates[gate][(row + r) * n_.pres + i],
                                                   x, gates[gate][r]);
                        });
                    }
                }
            }
            if (!reads) continue;
            S* to_sums = sums_of(b) + row + at_.row_of_lane();
            const S sum = sums_of_two(sums[0], sums[1], at_.lane);
            if (at_.tells(count)) *to_sums = sum;
            parameters_.for_others([&](int gate) {
                const S other = sums_of_two(gates[gate][0], gates[gate][1], at_.lane);
                if (at_.tells(count)) to_sums[(gate + 1) * plan_.rows] = other;
            });
        }
    }

    // The sums of the connection for this block's rows, then the other recurrent ones.
    __device__ __forceinline__ S* sums_of(int64_t b) const {
        return vectors_ + layout_.sums + (b - first_) * layout_.element_sums;
    }

    // One neuron, from its sums to its activity.
    __device__ __forceinline__ void activate(int64_t k, int64_t b, int row) const {
        const int64_t j = at_.first_row + row;
        S y;
        if (n_.has_gates()) {
            with_cell(n_.kind, [&](auto cell) { y = fire<decltype(cell)>(k, b, row); });
        } else {
            const S drive = n_.drive.at(k, b)[j];
            y = plastikern::activity(n_.nonlinearity, sums_of(b)[row] + drive);
            if (n_.clamp && n_.clamp.at(k, b)[j]) y = drive;
        }
        a_.output.at(k, b)[j] = y;
        if (plan_.alone() && n_.recurrent()) copied_pre(k + 1, b)[j] = y;
    }

    // One neuron with gates.
    template <class Cell>
    __device__ __forceinline__ S fire(int64_t k, int64_t b, int row) const {
        const int64_t j = at_.first_row + row, neurons = n_.posts;
        const S *drive = n_.drive.at(k, b) + j, *sums = sums_of(b) + row;
        S* history = a_.history.at(k, b) + j;
        typename Cell::template ForwardGiven<S> given;
        Cell::sums(
            [&](int which, S& sum) {
                sum = drive[which * neurons];
                if (which == kPlastic) {
                    sum = sums[0] + sum;
                } else if (which < Cell::weights) {
                    sum = sums[(which < kPlastic ? which + 1 : which) * plan_.rows] + sum;
                }
            },
            given);
        given.before = carried(n_, a_, zeros_, k, b)[j];
        const auto step = Cell::forward(given);
        Cell::kept([&](int kept, const S& value) { history[kept * neurons] = value; }, step);
        const int64_t own = post_row(n_.kind, n_.post);
        if (own >= Cell::kept_rows) history[own * neurons] = sums[0];
        return step.hidden;
    }

    // Of the whole layer, which one block has: a warp takes an element.
    __device__ __forceinline__ void softmax(int64_t k) const {
        __syncthreads();
        for (int64_t b = first_ + at_.warp; b < last_; b += at_.warps) {
            if (k >= n_.length(b)) continue;
            S* output = a_.output.at(k, b);
            S most = output[0], total = 0;
            for (int64_t j = at_.lane; j < n_.posts; j += kLanes)
                most = output[j] > most ? output[j] : most;
            most = most_of_lanes(most);
            for (int64_t j = at_.lane; j < n_.posts; j += kLanes) total += exp(output[j] - most);
            total = sum_of_lanes(total);
            __syncwarp();  // all lanes have read the first activity, and one of them writes it
            for (int64_t j = at_.lane; j < n_.posts; j += kLanes)
                output[j] = exp(output[j] - most) / total;
        }
        __syncthreads();
    }
};

template <class Rule, typename S>
__global__ void __launch_bounds__(most_warps(false, kEligible<typename Rule::Update>, sizeof(S)) *
                                  kLanes) run_forward(const __grid_constant__ ForwardJob<S> job) {
    ForwardBlock<Rule, S>(job).run();
}

}  // namespace

#define FORWARD_KERNELS(rule, constraint, update, free, read, served)                         \
    {run_forward<Rule<generated::update, generated::update, generated::served>,               \
                 PLASTIKERN_SCALAR>,                                                          \
     run_forward<Rule<generated::update##_retroactive, generated::update, generated::served>, \
                 PLASTIKERN_SCALAR>},

template <>
ForwardKernel<PLASTIKERN_SCALAR> forward_kernel<PLASTIKERN_SCALAR>(
    const Network<PLASTIKERN_SCALAR>& n) {
    static const ForwardKernel<PLASTIKERN_SCALAR> kernels[][2] = {
        PLASTIKERN_RULES(FORWARD_KERNELS)};
    return kernels[n.rule][n.retroactive];
}

}  // namespace plastikern::cuda
