// The choice of form and sizes. Times are calculated from public figures, in clocks of a processor,
// and only compared with each other; nobody has measured them.
#include "plan.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "../update.h"

namespace plastikern::cuda {
namespace {

// Bytes that a processor moves in a clock: in its shared memory, from the second-level cache, from
// the device's memory.
constexpr double kChipBytes = 128, kCacheBytes = 32, kMemoryBytes = 10;
// Of its shared memory, by one warp that waits for what it has asked for.
constexpr double kWarpBytes = 12;
// Clocks that a pass over an element takes beside its bytes: sums over lanes, barriers of the
// block.
constexpr double kForwardClocks = 400, kBackwardClocks = 1000;
// Clocks of a step beside its bytes: within a block, with a barrier of blocks, as a launch.
constexpr double kBlockClocks = 1500, kBarrierClocks = 4000, kLaunchClocks = 8000;
constexpr int64_t kMostTogether = 16;

int64_t divided(int64_t count, int64_t by) { return (count + by - 1) / by; }

// Warps that take kRows rows at once, as evenly as they go into a block's rows.
int64_t warps_for(int64_t rows, int64_t most) {
    const int64_t bundles = divided(rows, kRows);
    return divided(bundles, divided(bundles, most));
}

// PLASTIKERN_CUDA_FORM names one form, to compare them: it is taken wherever it is possible.
bool wanted(Form form) {
    const char* named = std::getenv("PLASTIKERN_CUDA_FORM");
    constexpr std::string_view names[] = {"resident", "cooperative", "streaming"};
    return named == nullptr || *named == '\0' || names[static_cast<int64_t>(form)] == named;
}

template <typename S>
struct Pass {
    const Network<S>& n;
    const Gradients<S>* g;  // null: forward
    const Device& device;

    bool backward() const { return g != nullptr; }
    double others() const { return static_cast<double>(n.others()); }
    bool per_synapse() const { return n.connection.layout != Layout::per_neuron; }
    bool alphas() const { return backward() && g->alpha != nullptr && per_synapse(); }
    bool whole_layer() const { return n.nonlinearity == Nonlinearity::softmax; }
    // Whether the change by a step waits for activities of the whole layer.
    bool waits() const {
        return whole_layer() ||
               (n.modulator && n.modulator.input != ModulatorInput::previous_hidden);
    }

    void count(Plan& plan) const {
        const BlockLayout layout =
            backward() ? BlockLayout(backward_layout(n, *g, plan)) : forward_layout(n, plan);
        plan.shared_bytes = layout.chip * static_cast<int64_t>(sizeof(S));
        plan.scratch_bytes = layout.scratch * static_cast<int64_t>(sizeof(S));
    }
    bool fits(Plan& plan) const {
        count(plan);
        return plan.shared_bytes <= device.shared_per_block;
    }
    // Takes on the chip what still fits, the most used first.
    void fill(Plan& plan) const {
        for (bool Plan::* part :
             {&Plan::columns_on_chip, &Plan::alphas_on_chip, &Plan::parameters_on_chip}) {
            const bool wanted = part == &Plan::alphas_on_chip    ? alphas() && plan.one_launch()
                                : part == &Plan::columns_on_chip ? backward()
                                                                 : plan.one_launch() && n.steps > 1;
            plan.*part = wanted;
            if (wanted && !fits(plan)) plan.*part = false;
        }
        count(plan);
    }

    // How often a step reads or writes each trace, or its gradient, and each trace that is computed
    // again: passes over a row before the last one read only.
    double trace_accesses() const {
        const RuleFacts& rule = kRules[n.rule];
        const int next = rule.passes_of_next[n.retroactive];
        return 2 + (backward() ? rule.passes[n.retroactive] - next : next);
    }
    double segment_accesses() const {
        const RuleFacts& rule = kRules[n.rule];
        return 2 + rule.passes[n.retroactive] + rule.passes_of_next[n.retroactive];
    }

    // Bytes of one synapse at one step: of traces, of the gradient of alpha, of parameters.
    void set_clocks(Plan& plan) const {
        const double value = sizeof(S), matrices = n.retroactive ? 2 : 1;
        const double traces = value * matrices * trace_accesses(), sums = alphas() ? 2 * value : 0;
        const double parameters = value * (1 + (per_synapse() ? 1 : 0) + others());
        const double segment = backward() ? value * matrices * segment_accesses() : 0;
        const double chip = std::min(kChipBytes, kWarpBytes * static_cast<double>(plan.warps));
        const auto speed = [&](bool on_chip, double elsewhere) {
            return on_chip ? chip : elsewhere;
        };
        const double all =
            n.batch * n.traces() * value * (backward() ? n.checkpoint_every + 1.0 : 1.0);
        const double far =
            all * 2 < static_cast<double>(device.level_two) ? kCacheBytes : kMemoryBytes;
        const double clocks_per_synapse = traces / speed(plan.traces_on_chip, far) + segment / far +
                                          sums / speed(plan.alphas_on_chip, kCacheBytes) +
                                          parameters / speed(plan.parameters_on_chip, kCacheBytes);
        const double rounds =
            divided(plan.blocks(), device.processors) * static_cast<double>(plan.waves);
        const double fixed = plan.form == Form::streaming     ? kLaunchClocks
                             : plan.form == Form::cooperative ? kBarrierClocks
                                                              : kBlockClocks;
        const double element =
            (backward() ? kBackwardClocks : kForwardClocks) * static_cast<double>(plan.together);
        plan.clocks =
            fixed * static_cast<double>(plan.waves) + element * rounds +
            clocks_per_synapse * static_cast<double>(plan.rows * n.pres * plan.together) * rounds;
    }

    // What moves between the processors and the device's memory or its cache, over all steps.
    void set_memory_bytes(Plan& plan) const {
        const double value = sizeof(S), batch = static_cast<double>(n.batch),
                     steps = static_cast<double>(n.steps);
        const double matrix = value * static_cast<double>(n.synapses()),
                     traces = matrix * (n.retroactive ? 2 : 1);
        // Read and written at every unit; kept on the chip, at the first and the last one.
        double bytes = batch * traces * (plan.traces_on_chip ? 2 : trace_accesses() * steps + 1);
        const double segments =
            n.checkpoint_every > 0 ? steps / static_cast<double>(n.checkpoint_every) : 0;
        bytes += batch * traces * segments;  // checkpoints, written or read
        // Traces between them, computed again and read.
        if (backward()) bytes += batch * traces * segment_accesses() * steps;
        if (alphas())
            bytes += matrix *
                     (plan.alphas_on_chip ? static_cast<double>(plan.groups) : 2 * steps * batch);
        const double parameters = matrix * (1 + (per_synapse() ? 1 : 0) + others());
        bytes += parameters *
                 (plan.parameters_on_chip ? static_cast<double>(plan.groups) : steps * batch);
        plan.memory_bytes = bytes;
    }

    Plan resident() const {
        Plan plan{};
        plan.form = Form::resident;
        plan.rows = n.posts;
        plan.warps = warps_for(plan.rows, most_warps(backward(), n.retroactive, sizeof(S)));
        plan.share = plan.together = 1;
        plan.groups = std::max<int64_t>(1, std::min(n.batch, 2 * device.processors));
        plan.waves = divided(n.batch, plan.groups);
        plan.launches = 1;
        plan.vectors_on_chip = plan.traces_on_chip = true;
        return plan;
    }
    Plan cooperative(int64_t together) const {
        Plan plan{};
        plan.form = Form::cooperative;
        plan.together = together;
        plan.groups = divided(n.batch, together);
        const int64_t most = device.processors / plan.groups;
        if (most < 2) return plan;
        plan.rows = divided(divided(n.posts, most), kRows) * kRows;
        plan.warps = warps_for(plan.rows, most_warps(backward(), n.retroactive, sizeof(S)));
        plan.share = divided(n.posts, plan.rows);
        plan.waves = 1;
        plan.launches = 1;
        plan.vectors_on_chip = plan.traces_on_chip = true;
        return plan;
    }
    Plan streaming() const {
        Plan plan{};
        plan.form = Form::streaming;
        plan.warps = 8;
        plan.rows = std::min(plan.warps * kRows, n.posts);
        plan.share = divided(n.posts, plan.rows);
        plan.groups =
            std::max<int64_t>(1, std::min(n.batch, divided(4 * device.processors, plan.share)));
        plan.together = divided(std::max<int64_t>(n.batch, 1), plan.groups);
        plan.groups = std::max<int64_t>(1, divided(n.batch, plan.together));
        plan.waves = 1;
        plan.at_once = !backward() && n.steps == 1 && !waits();
        plan.launches = plan.at_once ? 1 : n.steps + (backward() ? 2 : 1);
        return plan;
    }

    Plan choose() const {
        Plan best = streaming();
        bool found = false;
        const auto consider = [&](Plan plan) {
            fill(plan);
            set_clocks(plan);
            set_memory_bytes(plan);
            if (!found || plan.clocks < best.clocks) best = plan;
            found = true;
        };
        Plan whole = resident();
        if (whole_layer()) {
            whole.traces_on_chip = fits(whole);
            whole.vectors_on_chip = fits(whole);
            consider(whole);
            return best;
        }
        if (wanted(Form::resident) && fits(whole)) consider(whole);
        const bool shares = device.cooperative && wanted(Form::cooperative);
        for (int64_t together = 1; shares && together <= std::min(n.batch, kMostTogether);
             ++together) {
            Plan shared = cooperative(together);
            if (shared.share < 2) continue;
            shared.traces_on_chip = fits(shared);
            if (fits(shared)) consider(shared);
        }
        if (!found || wanted(Form::streaming)) consider(streaming());
        return best;
    }
};

// The offset of a part of `count` values that follows the `size` values of an area so far, which
// include it from then on.
int64_t placed(int64_t& size, int64_t count) {
    const int64_t offset = size;
    size += (count + 3) / 4 * 4;
    return offset;
}

template <typename S>
void place_parameters(BlockLayout& at, const Network<S>& n, const Plan& plan) {
    const int64_t count = plan.parameters_on_chip ? plan.rows * n.pres : 0;
    at.weight = placed(at.chip, count);
    at.alpha = placed(at.chip, n.connection.layout == Layout::per_neuron ? 0 : count);
    at.gates = placed(at.chip, n.others() * count);
}

// Once the sizes of all areas are known.
template <typename S>
void place_areas(BlockLayout& at, const Network<S>& n, const Plan& plan) {
    placed(at.scratch, plan.groups * (kCounterBytes / static_cast<int64_t>(sizeof(S))));
    at.zeros = placed(at.scratch, std::max(n.posts, n.pres));
    at.zeroed.start = placed(at.scratch, plan.groups * at.zeroed.size);
    at.group.start = placed(at.scratch, plan.groups * at.group.size);
    at.own.start = placed(at.scratch, plan.blocks() * at.own.size);
}

}  // namespace

template <typename S>
Plan plan_forward(const Network<S>& n, const Device& device) {
    return Pass<S>{n, nullptr, device}.choose();
}

template <typename S>
Plan plan_backward(const Network<S>& n, const Gradients<S>& g, const Device& device) {
    return Pass<S>{n, &g, device}.choose();
}

template <typename S>
ForwardLayout forward_layout(const Network<S>& n, const Plan& plan) {
    ForwardLayout at{};
    int64_t& vectors = plan.vectors_on_chip ? at.chip : at.own.size;
    at.element_sums = (1 + n.others()) * plan.rows;
    at.pres = placed(at.chip, plan.vectors_on_chip ? plan.together * 3 * n.pres : 0);
    at.sums = placed(vectors, plan.together * at.element_sums);
    at.traces =
        placed(at.chip, plan.traces_on_chip ? Tile<S>::size(n, plan.rows, plan.together) : 0);
    place_parameters(at, n, plan);
    place_areas(at, n, plan);
    return at;
}

template <typename S>
BackwardLayout backward_layout(const Network<S>& n, const Gradients<S>& g, const Plan& plan) {
    BackwardLayout at{};
    int64_t &chip = at.chip, &own = at.own.size, &zeroed = at.zeroed.size;
    int64_t& vectors = plan.vectors_on_chip ? chip : own;
    int64_t& group = plan.alone() ? chip : at.group.size;
    // Traces between two checkpoints that are computed again together.
    const int64_t segment = std::min(n.checkpoint_every, n.steps) - (n.steps > 0 ? 1 : 0);
    const bool alphas = g.alpha != nullptr && n.connection.layout != Layout::per_neuron;
    const bool per_synapse = n.connection.layout == Layout::per_synapse;
    at.tile = Tile<S>::size(n, plan.rows, plan.together);
    at.pres = placed(chip, plan.vectors_on_chip ? plan.together * 3 * n.pres : 0);
    at.columns = placed(plan.columns_on_chip ? chip : own, plan.warps * 2 * n.pres);
    at.grad_traces = placed(plan.traces_on_chip ? chip : own, at.tile);
    place_parameters(at, n, plan);
    at.grad_alphas = placed(chip, plan.alphas_on_chip ? plan.rows * n.pres : 0);
    at.grad_posts = placed(vectors, plan.together * plan.rows);
    at.grad_cells = placed(vectors, plan.together * plan.rows);
    at.sums = placed(vectors, kRules[n.rule].row_sums[n.retroactive] * plan.rows);
    at.segment = placed(own, segment * at.tile);
    at.totals = placed(group, 3 * plan.together * plan.share * n.pres);
    at.rate_rows = placed(group, n.modulator ? 2 * plan.together * n.posts : 0);
    at.row_sums = placed(zeroed, 4 * n.posts);
    at.alphas = placed(zeroed, alphas ? n.synapses() : 0);
    at.rates = placed(zeroed, per_synapse ? 3 * n.synapses() : 0);
    place_areas(at, n, plan);
    return at;
}

#define PLASTIKERN_PLANS(S)                                                             \
    template Plan plan_forward(const Network<S>&, const Device&);                       \
    template Plan plan_backward(const Network<S>&, const Gradients<S>&, const Device&); \
    template ForwardLayout forward_layout(const Network<S>&, const Plan&);              \
    template BackwardLayout backward_layout(const Network<S>&, const Gradients<S>&, const Plan&);
PLASTIKERN_PLANS(float)
PLASTIKERN_PLANS(double)

}  // namespace plastikern::cuda
