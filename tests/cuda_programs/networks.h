// Random networks, drawn by their number: the same values on the host and on the device.
#pragma once

#include <cmath>
#include <cstdio>
#include <initializer_list>
#include <random>

#include "network.h"
#include "tensors.h"

namespace plastikern::check {

using S = PLASTIKERN_SCALAR;

// small: sizes that fill no warp, no steps and no element among them. large: of the size of the
// experiments, with many blocks to an element; in double precision only, since some of these
// networks amplify what rounding does. maze: the one network of the benchmark's workload of that
// name, tame.
enum class Size { small, large, maze };

// Double: tests/tolerances.py. Single: fp32() there gives 3e-5 for the largest of the small
// networks and 1.7e-4 for the maze, and both sides err.
constexpr double tolerance(Size size) {
    return sizeof(S) == 8 ? 1e-10 : size == Size::small ? 1e-4 : 4e-4;
}
constexpr bool serves(Size size) { return sizeof(S) == 8 || size != Size::large; }

class Draw {
   public:
    explicit Draw(uint64_t number) : bits_(number + 1) {}
    int64_t below(int64_t count) {
        return static_cast<int64_t>(bits_() % static_cast<uint64_t>(count));
    }
    bool maybe() { return below(2) == 0; }
    bool mostly() { return below(5) > 0; }
    int64_t of(std::initializer_list<int64_t> choices) {
        return choices.begin()[below(static_cast<int64_t>(choices.size()))];
    }
    double between(double low, double high) {
        return low + (high - low) * static_cast<double>(below(1 << 24)) / (1 << 24);
    }

   private:
    std::mt19937_64 bits_;
};

// A network with what comes into both passes.
class Drawn {
   public:
    Drawn(int64_t number, Size size, Place place)
        : draw_(static_cast<uint64_t>(number)), tensors_(place) {
        if (size == Size::maze) {
            draw_maze();
        } else {
            draw_options(size == Size::large);
        }
        n.threads = 1;
        draw_modulation(size);
        draw_connection(size);
        draw_sequences(size == Size::maze);
        draw_state();
        describe();
        processors = draw_.of({1, 4});
        tightness = size == Size::maze ? 0 : draw_.below(4);
    }

    template <typename T>
    Sequence<T> sequence(T* data, int64_t size) const {
        if (data == nullptr) return {};
        return batch_first_ ? Sequence<T>{data, size, n.steps * size}
                            : Sequence<T>{data, n.batch * size, size};
    }
    int64_t cells() const { return n.batch * n.posts; }
    int64_t drive_size() const { return n.posts * drive_blocks(n.kind); }
    const std::string& name() const { return name_; }

    Network<S> n{};
    const S *grad_output = nullptr, *grad_hidden = nullptr, *grad_cell = nullptr,
            *grad_trace = nullptr, *grad_eligibility = nullptr;
    bool wants_trace, wants_eligibility, wants_features, wants_alpha, wants_rate, wants_scale,
        wants_eligibility_rate;
    int64_t processors,
        tightness;  // of the device; how often the plan is made again with too little shared memory

   private:
    void draw_options(bool large) {
        n.kind = static_cast<NetworkKind>(draw_.below(4));
        n.rule = draw_.below(kRuleCount);
        n.steps = large ? draw_.of({1, 5, 12}) : draw_.of({0, 1, 2, 5, 5});
        n.batch = large ? draw_.of({1, 3, 30}) : draw_.of({1, 3});
        n.posts = large ? draw_.of({33, 100, 257, 600}) : draw_.of({1, 5, 33});
        n.pres = n.recurrent() ? n.posts : large ? draw_.of({37, 300}) : draw_.of({1, 4, 37});
        n.checkpoint_every = draw_.below(4);
        n.nonlinearity = n.has_gates()
                             ? Nonlinearity::tanh
                             : static_cast<Nonlinearity>(draw_.below(n.recurrent() ? 4 : 5));
        // Without a bound, sums over many neurons grow.
        if (large &&
            (n.nonlinearity == Nonlinearity::relu || n.nonlinearity == Nonlinearity::identity))
            n.nonlinearity = Nonlinearity::tanh;
        n.post = static_cast<Post>(draw_.below(4));
        if (n.has_gates() && n.history_size() == 0) n.post = Post::hidden;
    }
    // Rule hebb, constraint clip, as benchmarks/workloads has them.
    void draw_maze() {
        n.kind = NetworkKind::rnn;
        n.rule = find_rule(0, 1);
        n.steps = 200;
        n.batch = 30;
        n.posts = n.pres = 100;
        n.checkpoint_every = 14;
        n.nonlinearity = Nonlinearity::tanh;
        n.post = Post::hidden;
    }
    void draw_modulation(Size size) {
        const bool maze = size == Size::maze;
        n.retroactive = !maze && draw_.below(3) == 0;
        if (!maze && !n.retroactive && draw_.maybe()) return;
        const int64_t inputs = n.kind == NetworkKind::lstm ? 3 : n.recurrent() ? 2 : 1;
        const double most = size == Size::small ? 0.5 : 1 / std::sqrt(static_cast<double>(n.posts));
        n.modulator = {uniform("modulator_weight", n.posts, -most, most),
                       uniform("modulator_bias", 1, -0.5, 0.5),
                       static_cast<ModulatorInput>(maze ? 0 : draw_.below(inputs)),
                       kModulatorNonlinearities[maze ? 0 : draw_.below(3)]};
        if (n.retroactive && draw_.maybe()) n.modulated = flags("modulated", n.posts);
    }
    Coefficients<S> coefficients(const std::string& name, bool per_synapse, double low,
                                 double high) {
        const int64_t stride = per_synapse ? n.pres : draw_.below(2);
        return {uniform(name, stride == 0 ? 1 : n.posts * stride, low, high), stride};
    }
    void draw_connection(Size size_of_all) {
        const bool maze = size_of_all == Size::maze, small = size_of_all == Size::small;
        Connection<S>& c = n.connection;
        c.pres = n.pres;
        c.layout = maze ? Layout::alpha_per_synapse : static_cast<Layout>(draw_.below(3));
        const double size = 0.8 / std::sqrt(static_cast<double>(n.pres));
        const int64_t rows = weight_blocks(n.kind) * n.posts;
        n.gates = uniform("weight", rows * n.pres, -size, size);
        c.weight = {n.gates + (n.has_gates() ? kPlastic * n.synapses() : 0), n.pres};
        c.alpha = coefficients("alpha", c.layout != Layout::per_neuron, -size, size);
        const bool per_synapse = c.layout == Layout::per_synapse;
        // Many connections that change fast amplify what rounding does.
        const double most = small ? 0.4 : 0.02;
        if (!n.modulator || per_synapse || draw_.maybe())
            c.rate = coefficients("rate", per_synapse, most / 8, most);
        if (n.modulator && (maze || per_synapse || draw_.maybe()))
            c.rate_scale =
                coefficients("rate_scale", per_synapse, small ? 0.5 : most / 8, small ? 1 : most);
        if (n.retroactive)
            c.eligibility_rate = coefficients("eligibility_rate", per_synapse, most / 8, most);
        c.bound = S(maze ? 2 : small ? 0.25 : 0.02);
    }
    void draw_sequences(bool maze) {
        batch_first_ = draw_.maybe();
        const int64_t rows = n.steps * n.batch;
        n.drive = sequence(uniform("drive", rows * drive_size(), -1, 1), drive_size());
        if (!n.recurrent())
            n.features = sequence(uniform("features", rows * n.pres, -1, 1), n.pres);
        if (n.kind == NetworkKind::rnn && !maze && draw_.below(3) == 0)
            n.clamp = sequence(flags("clamp", rows * n.posts), n.posts);
        if (!maze && draw_.maybe()) {
            std::vector<int64_t> lengths(static_cast<size_t>(n.batch));
            for (int64_t& length : lengths) length = draw_.below(n.steps + 1);
            n.lengths = tensors_.put<int64_t>("lengths", lengths);
        }
        if (draw_.mostly()) grad_output = uniform("grad_output", rows * n.posts, -1, 1);
    }
    void draw_state() {
        const auto given = [&](bool exists, const char* name, int64_t count) -> const S* {
            return exists && draw_.maybe() ? uniform(name, count, -0.3, 0.3) : nullptr;
        };
        const int64_t traces = n.batch * n.synapses();
        const bool lstm = n.kind == NetworkKind::lstm;
        n.hidden = given(n.recurrent(), "hidden_in", cells());
        n.cell = given(lstm, "cell_in", cells());
        n.trace = given(true, "trace_in", traces);
        n.eligibility = given(n.retroactive, "eligibility_in", traces);
        grad_hidden = given(n.recurrent(), "grad_hidden", cells());
        grad_cell = given(lstm, "grad_cell", cells());
        grad_trace = given(true, "grad_trace", traces);
        grad_eligibility = given(n.retroactive, "grad_eligibility", traces);
        for (bool* wants : {&wants_trace, &wants_eligibility, &wants_features, &wants_alpha,
                            &wants_rate, &wants_scale, &wants_eligibility_rate})
            *wants = draw_.mostly();
    }
    const S* uniform(const std::string& name, int64_t count, double low, double high) {
        std::vector<S> values(static_cast<size_t>(count));
        for (S& value : values) value = static_cast<S>(draw_.between(low, high));
        return tensors_.put<S>(name, values);
    }
    const bool* flags(const std::string& name, int64_t count) {
        std::vector<unsigned char> values(static_cast<size_t>(count));
        for (unsigned char& value : values) value = draw_.maybe() ? 1 : 0;
        return tensors_.put<bool>(name, values);
    }
    void describe() {
        char text[300];
        std::snprintf(
            text, sizeof(text),
            "kind %d, rule %d with constraint %d, T %d, B %d, O %d, I %d, checkpoint_every "
            "%d, nonlinearity %d, "
            "post %d, retroactive %d, modulator %d, layout %d, lengths %d, clamp %d",
            int(n.kind), int(kRules[n.rule].rule), int(kRules[n.rule].constraint), int(n.steps),
            int(n.batch), int(n.posts), int(n.pres), int(n.checkpoint_every), int(n.nonlinearity),
            int(n.post), n.retroactive, n.modulator ? int(n.modulator.input) : -1,
            int(n.connection.layout), n.lengths != nullptr, bool(n.clamp));
        name_ = text;
    }

    Draw draw_;
    Tensors tensors_;
    bool batch_first_ = false;
    std::string name_;
};

// What a forward pass returns, in new tensors.
inline Outputs<S> outputs(const Drawn& drawn, Tensors& tensors) {
    const Network<S>& n = drawn.n;
    const int64_t rows = n.steps * n.batch, traces = n.batch * n.synapses();
    const bool lstm = n.kind == NetworkKind::lstm;
    const int64_t checkpoints = n.checkpoint_every > 0 && n.steps > 0
                                    ? (n.steps - 1) / n.checkpoint_every * n.batch * n.traces()
                                    : 0;
    const auto take = [&](const char* name, int64_t count) { return tensors.take<S>(name, count); };
    Outputs<S> out{};
    out.activities.output = drawn.sequence(take("output", rows * n.posts), n.posts);
    if (n.has_gates())
        out.activities.history =
            drawn.sequence(take("kept: history", rows * n.history_size()), n.history_size());
    if (n.modulator) out.activities.modulators = drawn.sequence(take("kept: modulators", rows), 1);
    if (n.recurrent()) out.hidden = take("hidden", drawn.cells());
    if (lstm) out.cell = take("cell", drawn.cells());
    out.trace = take("trace", traces);
    if (n.retroactive) out.eligibility = take("eligibility", traces);
    out.checkpoints = take("kept: checkpoints", checkpoints);
    return out;
}

// What a backward pass takes and returns, in new tensors. `fill`: of those that the CPU adds to.
inline Gradients<S> gradients(const Drawn& drawn, const Outputs<S>& out, Tensors& tensors,
                              int fill) {
    const Network<S>& n = drawn.n;
    const Connection<S>& c = n.connection;
    const int64_t rows = n.steps * n.batch, traces = n.batch * n.synapses();
    const bool lstm = n.kind == NetworkKind::lstm;
    const auto constant = [](const Sequence<S>& from) {
        return Sequence<const S>{from.data, from.step, from.element};
    };
    const auto like = [&](const char* name, bool wanted, const Coefficients<S>& parameter) -> S* {
        if (!wanted || parameter.data == nullptr) return nullptr;
        return tensors.take<S>(name, parameter.stride == 0 ? 1 : n.posts * parameter.stride, fill);
    };
    const auto optional = [&](const char* name, bool wanted, int64_t count) -> S* {
        return wanted ? tensors.take<S>(name, count) : nullptr;
    };
    Gradients<S> g{};
    g.activities = {constant(out.activities.output), constant(out.activities.history),
                    constant(out.activities.modulators)};
    g.output = drawn.sequence(drawn.grad_output, n.posts);
    g.hidden = drawn.grad_hidden;
    g.cell = drawn.grad_cell;
    g.trace = drawn.grad_trace;
    g.eligibility = drawn.grad_eligibility;
    g.checkpoints = out.checkpoints;
    g.drive = drawn.sequence(tensors.take<S>("grad drive", rows * drawn.drive_size()),
                             drawn.drive_size());
    if (n.clamp || (lstm && n.post == Post::recurrent))
        g.sum = drawn.sequence(tensors.take<S>("grad sum", rows * n.posts), n.posts);
    if (!n.recurrent() && drawn.wants_features)
        g.features = drawn.sequence(tensors.take<S>("grad features", rows * n.pres), n.pres);
    if (n.modulator) g.modulator = drawn.sequence(tensors.take<S>("grad modulator", rows), 1);
    g.hidden_in = optional("grad hidden_in", n.recurrent(), drawn.cells());
    g.cell_in = optional("grad cell_in", lstm, drawn.cells());
    g.trace_in = optional("grad trace_in", drawn.wants_trace, traces);
    g.eligibility_in =
        optional("grad eligibility_in", n.retroactive && drawn.wants_eligibility, traces);
    g.alpha = like("grad alpha", drawn.wants_alpha, c.alpha);
    g.rate = like("grad rate", drawn.wants_rate, c.rate);
    g.rate_scale = like("grad rate_scale", drawn.wants_scale, c.rate_scale);
    g.eligibility_rate =
        like("grad eligibility_rate", drawn.wants_eligibility_rate, c.eligibility_rate);
    return g;
}

}  // namespace plastikern::check
