// Random small networks through the emulated CUDA kernels in each form of plan.h, compared with the CPU kernels: a
// program without torch and Python, with which the sanitizers do not get along.
//
//     sanitize [NETWORKS [FIRST [FORM]]]    networks FIRST, FIRST + 1, ... in one form or all three
//
// `make sanitize` compiles it twice, under the race detector in single precision and under the address sanitizer in
// double, and runs both. Every tensor is an allocation of its own, of just its size; what is to be written starts as
// NaN. Networks are drawn by their number: a mismatch tells it, and `sanitize 1 NUMBER FORM` draws it again.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cpu/network.h"
#include "cuda/passes.h"
#include "cuda_emulator.h"

namespace {

using namespace plastikern;
using S = PLASTIKERN_SCALAR;

// Double: tests/tolerances.py. Single: fp32() there gives 3e-5 for the largest of these networks, and both sides err.
constexpr double kTolerance = sizeof(S) == 8 ? 1e-10 : 1e-4;
constexpr const char* kForms[] = {"resident", "cooperative", "streaming"};
constexpr std::align_val_t kLine{64};

class Draw {
   public:
    explicit Draw(uint64_t number) : bits_(number + 1) {}
    int64_t below(int64_t count) { return static_cast<int64_t>(bits_() % static_cast<uint64_t>(count)); }
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

class Tensor {
   public:
    Tensor(size_t bytes, int fill) : memory_(operator new(bytes, kLine)), bytes_(bytes) {
        std::memset(memory_.get(), fill, bytes);
    }
    template <typename T>
    T* data() const {
        return static_cast<T*>(memory_.get());
    }
    size_t bytes() const { return bytes_; }

   private:
    struct Free {
        void operator()(void* memory) const { operator delete(memory, kLine); }
    };
    std::unique_ptr<void, Free> memory_;
    size_t bytes_;
};

// Tensors by their names.
class Tensors {
   public:
    template <typename T = S>
    T* take(const std::string& name, int64_t count, int fill = 0xff) {
        return all_.try_emplace(name, static_cast<size_t>(count) * sizeof(T), fill).first->second.template data<T>();
    }
    const S* uniform(Draw& draw, const std::string& name, int64_t count, double low, double high) {
        S* values = take(name, count);
        for (int64_t i = 0; i < count; ++i) values[i] = static_cast<S>(draw.between(low, high));
        return values;
    }
    const bool* flags(Draw& draw, const std::string& name, int64_t count) {
        bool* values = take<bool>(name, count, 0);
        for (int64_t i = 0; i < count; ++i) values[i] = draw.maybe();
        return values;
    }
    auto begin() const { return all_.begin(); }
    auto end() const { return all_.end(); }
    const Tensor& at(const std::string& name) const { return all_.at(name); }

   private:
    std::map<std::string, Tensor> all_;
};

// A network with what comes into both passes.
class Drawn {
   public:
    explicit Drawn(int64_t number) : draw_(static_cast<uint64_t>(number)) {
        n.kind = static_cast<NetworkKind>(draw_.below(3));
        do {
            n.rule = draw_.below(Rules::size);
            n.constraint = draw_.below(Constraints::size);
            with_types(n.rule, n.constraint, [&]<class R, class C>(R*, C*) { name_ = "compatible"; });
        } while (name_.empty());
        n.steps = draw_.of({0, 1, 2, 5, 5});
        n.batch = draw_.of({1, 3});
        n.posts = draw_.of({1, 5, 33});
        n.pres = n.recurrent() ? n.posts : draw_.of({1, 4, 37});
        n.threads = 1;
        n.checkpoint_every = draw_.below(4);
        n.nonlinearity = n.kind == NetworkKind::lstm ? Nonlinearity::tanh
                                                     : static_cast<Nonlinearity>(draw_.below(n.recurrent() ? 4 : 5));
        n.post = static_cast<Post>(draw_.below(4));
        draw_modulation();
        draw_connection();
        draw_sequences();
        draw_state();
        char text[300];
        std::snprintf(text, sizeof(text),
                      "kind %d, rule %d, constraint %d, T %d, B %d, O %d, I %d, checkpoint_every %d, nonlinearity %d, "
                      "post %d, retroactive %d, modulator %d, layout %d, lengths %d, clamp %d",
                      int(n.kind), int(n.rule), int(n.constraint), int(n.steps), int(n.batch), int(n.posts),
                      int(n.pres), int(n.checkpoint_every), int(n.nonlinearity), int(n.post), n.retroactive,
                      n.modulator ? int(n.modulator.input) : -1, int(n.connection.layout), n.lengths != nullptr,
                      bool(n.clamp));
        name_ = text;
        processors = draw_.of({1, 4});
        tightness = draw_.below(4);
    }

    template <typename T>
    Sequence<T> sequence(T* data, int64_t size) const {
        if (data == nullptr) return {};
        return batch_first_ ? Sequence<T>{data, size, n.steps * size} : Sequence<T>{data, n.batch * size, size};
    }
    int64_t cells() const { return n.batch * n.posts; }
    int64_t drive_size() const { return n.posts * (n.kind == NetworkKind::lstm ? 4 : 1); }
    const std::string& name() const { return name_; }

    Network<S> n{};
    const S *grad_output = nullptr, *grad_hidden = nullptr, *grad_cell = nullptr, *grad_trace = nullptr,
            *grad_eligibility = nullptr;
    bool wants_trace, wants_eligibility, wants_features, wants_alpha, wants_rate, wants_scale, wants_eligibility_rate;
    int64_t processors, tightness;  // of the device; how often the plan is made again with too little shared memory

   private:
    void draw_modulation() {
        n.retroactive = draw_.below(3) == 0;
        if (!n.retroactive && draw_.maybe()) return;
        const int64_t inputs = n.kind == NetworkKind::lstm ? 3 : n.recurrent() ? 2 : 1;
        n.modulator = {tensors_.uniform(draw_, "modulator_weight", n.posts, -0.5, 0.5),
                       tensors_.uniform(draw_, "modulator_bias", 1, -0.5, 0.5),
                       static_cast<ModulatorInput>(draw_.below(inputs)),
                       static_cast<ModulatorNonlinearity>(draw_.below(3))};
        if (n.retroactive && draw_.maybe()) n.modulated = tensors_.flags(draw_, "modulated", n.posts);
    }
    Coefficients<S> coefficients(const std::string& name, bool per_synapse, double low, double high) {
        const int64_t stride = per_synapse ? n.pres : draw_.below(2);
        return {tensors_.uniform(draw_, name, stride == 0 ? 1 : n.posts * stride, low, high), stride};
    }
    void draw_connection() {
        Connection<S>& c = n.connection;
        c.pres = n.pres;
        c.layout = static_cast<Layout>(draw_.below(3));
        const double size = 0.8 / std::sqrt(static_cast<double>(n.pres));
        const int64_t rows = n.kind == NetworkKind::lstm ? 4 * n.posts : n.posts;
        n.gates = tensors_.uniform(draw_, "weight", rows * n.pres, -size, size);
        c.weight = {n.gates + (n.kind == NetworkKind::lstm ? 2 * n.synapses() : 0), n.pres};
        c.alpha = coefficients("alpha", c.layout != Layout::per_neuron, -size, size);
        const bool per_synapse = c.layout == Layout::per_synapse;
        if (!n.modulator || per_synapse || draw_.maybe()) c.rate = coefficients("rate", per_synapse, 0.05, 0.4);
        if (n.modulator && (per_synapse || draw_.maybe()))
            c.rate_scale = coefficients("rate_scale", per_synapse, 0.5, 1);
        if (n.retroactive) c.eligibility_rate = coefficients("eligibility_rate", per_synapse, 0.05, 0.4);
        c.bound = S(0.25);
    }
    void draw_sequences() {
        batch_first_ = draw_.maybe();
        const int64_t rows = n.steps * n.batch;
        n.drive = sequence(tensors_.uniform(draw_, "drive", rows * drive_size(), -1, 1), drive_size());
        if (!n.recurrent()) n.features = sequence(tensors_.uniform(draw_, "features", rows * n.pres, -1, 1), n.pres);
        if (n.kind == NetworkKind::rnn && draw_.below(3) == 0)
            n.clamp = sequence(tensors_.flags(draw_, "clamp", rows * n.posts), n.posts);
        if (draw_.maybe()) {
            int64_t* lengths = tensors_.take<int64_t>("lengths", n.batch);
            for (int64_t b = 0; b < n.batch; ++b) lengths[b] = draw_.below(n.steps + 1);
            n.lengths = lengths;
        }
        if (draw_.mostly()) grad_output = tensors_.uniform(draw_, "grad_output", rows * n.posts, -1, 1);
    }
    void draw_state() {
        const auto given = [&](bool exists, const char* name, int64_t count) -> const S* {
            return exists && draw_.maybe() ? tensors_.uniform(draw_, name, count, -0.3, 0.3) : nullptr;
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
        for (bool* wants : {&wants_trace, &wants_eligibility, &wants_features, &wants_alpha, &wants_rate, &wants_scale,
                            &wants_eligibility_rate})
            *wants = draw_.mostly();
    }

    Draw draw_;
    Tensors tensors_;
    bool batch_first_ = false;
    std::string name_;
};

// What a forward pass returns, in new tensors.
Outputs<S> outputs(const Drawn& drawn, Tensors& tensors) {
    const Network<S>& n = drawn.n;
    const int64_t rows = n.steps * n.batch, traces = n.batch * n.synapses();
    const bool lstm = n.kind == NetworkKind::lstm;
    const int64_t checkpoints =
        n.checkpoint_every > 0 && n.steps > 0 ? (n.steps - 1) / n.checkpoint_every * n.batch * n.traces() : 0;
    Outputs<S> out{};
    out.activities.output = drawn.sequence(tensors.take("output", rows * n.posts), n.posts);
    if (lstm)
        out.activities.history =
            drawn.sequence(tensors.take("kept: history", rows * n.history_size()), n.history_size());
    if (n.modulator) out.activities.modulators = drawn.sequence(tensors.take("kept: modulators", rows), 1);
    if (n.recurrent()) out.hidden = tensors.take("hidden", drawn.cells());
    if (lstm) out.cell = tensors.take("cell", drawn.cells());
    out.trace = tensors.take("trace", traces);
    if (n.retroactive) out.eligibility = tensors.take("eligibility", traces);
    out.checkpoints = tensors.take("kept: checkpoints", checkpoints);
    return out;
}

// What a backward pass takes and returns, in new tensors. `fill`: of those that the CPU adds to.
Gradients<S> gradients(const Drawn& drawn, const Outputs<S>& out, Tensors& tensors, int fill) {
    const Network<S>& n = drawn.n;
    const Connection<S>& c = n.connection;
    const int64_t rows = n.steps * n.batch, traces = n.batch * n.synapses();
    const bool lstm = n.kind == NetworkKind::lstm;
    const auto constant = [](const Sequence<S>& from) { return Sequence<const S>{from.data, from.step, from.element}; };
    const auto like = [&](const char* name, bool wanted, const Coefficients<S>& parameter) -> S* {
        if (!wanted || parameter.data == nullptr) return nullptr;
        return tensors.take(name, parameter.stride == 0 ? 1 : n.posts * parameter.stride, fill);
    };
    const auto optional = [&](const char* name, bool wanted, int64_t count) -> S* {
        return wanted ? tensors.take(name, count) : nullptr;
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
    g.drive = drawn.sequence(tensors.take("grad drive", rows * drawn.drive_size()), drawn.drive_size());
    if (n.clamp || (lstm && n.post == Post::recurrent))
        g.sum = drawn.sequence(tensors.take("grad sum", rows * n.posts), n.posts);
    if (!n.recurrent() && drawn.wants_features)
        g.features = drawn.sequence(tensors.take("grad features", rows * n.pres), n.pres);
    if (n.modulator) g.modulator = drawn.sequence(tensors.take("grad modulator", rows), 1);
    g.hidden_in = optional("grad hidden_in", n.recurrent(), drawn.cells());
    g.cell_in = optional("grad cell_in", lstm, drawn.cells());
    g.trace_in = optional("grad trace_in", drawn.wants_trace, traces);
    g.eligibility_in = optional("grad eligibility_in", n.retroactive && drawn.wants_eligibility, traces);
    g.alpha = like("grad alpha", drawn.wants_alpha, c.alpha);
    g.rate = like("grad rate", drawn.wants_rate, c.rate);
    g.rate_scale = like("grad rate_scale", drawn.wants_scale, c.rate_scale);
    g.eligibility_rate = like("grad eligibility_rate", drawn.wants_eligibility_rate, c.eligibility_rate);
    return g;
}

Tensors on_the_cpu(const Drawn& drawn) {
    // It reads rates and modulators without asking whether there are any.
    static const S zero = 0, one = 1;
    Network<S> n = drawn.n;
    if (n.connection.rate.data == nullptr) n.connection.rate = {&zero, 0};
    if (n.modulator && n.connection.rate_scale.data == nullptr) n.connection.rate_scale = {&one, 0};
    Tensors tensors;
    const Outputs<S> out = outputs(drawn, tensors);
    plastikern::forward(n, out);
    if (n.checkpoint_every == 0) return tensors;
    Gradients<S> g = gradients(drawn, out, tensors, 0);
    if (!n.modulator) g.activities.modulators = {&zero, 0, 0};
    plastikern::backward(n, g);
    return tensors;
}

// The plan in this form, if there is one, for a device that has only just, or not even, the shared memory for it.
template <class Make>
std::optional<cuda::Plan> plan_in(cuda::Form form, const Drawn& drawn, Make make) {
    cuda::Device device = cuda::device();
    if (form != cuda::Form::cooperative) device.processors = drawn.processors;
    cuda::Plan plan = make(device);
    if (plan.form != form) return std::nullopt;
    for (int64_t i = 0; i < drawn.tightness; ++i) {
        device.shared_per_block = plan.shared_bytes - 1;
        const cuda::Plan other = make(device);
        if (other.form == form && other.shared_bytes <= device.shared_per_block) plan = other;
    }
    return plan;
}

// Nothing where the network cannot run in this form.
std::optional<Tensors> on_the_device(const Drawn& drawn, cuda::Form form) {
    const Network<S>& n = drawn.n;
    const auto run = [](const cuda::Plan& plan, auto pass) {
        const Tensor scratch(static_cast<size_t>(plan.scratch_bytes), 0xff);
        pass(scratch.data<void>());
    };
    Tensors tensors;
    const Outputs<S> out = outputs(drawn, tensors);
    const auto there = plan_in(form, drawn, [&](const cuda::Device& d) { return cuda::plan_forward(n, d); });
    if (!there) return std::nullopt;
    run(*there, [&](void* scratch) { cuda::forward(n, out, *there, scratch, nullptr); });
    if (n.checkpoint_every == 0) return tensors;
    const Gradients<S> g = gradients(drawn, out, tensors, 0xff);
    const auto back = plan_in(form, drawn, [&](const cuda::Device& d) { return cuda::plan_backward(n, g, d); });
    if (!back) return std::nullopt;
    run(*back, [&](void* scratch) { cuda::backward(n, g, *back, scratch, nullptr); });
    return tensors;
}

// The largest difference over max(1, largest value); infinite where one of them is no number.
double difference(const Tensor& found, const Tensor& expected) {
    double most = 0, size = 1;
    for (size_t i = 0; i < expected.bytes() / sizeof(S); ++i) {
        const double a = found.data<S>()[i], b = expected.data<S>()[i], apart = std::abs(a - b);
        if (std::isnan(apart)) return INFINITY;
        most = std::max(most, apart);
        size = std::max(size, std::abs(b));
    }
    return most / size;
}

int64_t mismatches(const Tensors& found, const Tensors& expected) {
    int64_t count = 0;
    for (const auto& [name, tensor] : expected) {
        if (name.starts_with("kept: ")) continue;  // unwritten beyond an element's end
        const double apart = difference(found.at(name), tensor);
        if (apart <= kTolerance) continue;
        std::printf("    %s: differs by %.3g, expected at most %.3g\n", name.c_str(), apart, kTolerance);
        ++count;
    }
    return count;
}

// Runs the networks in a form; how many went wrong.
int64_t check(cuda::Form form, int64_t first, int64_t networks) {
    const char* name = kForms[static_cast<int>(form)];
    setenv("PLASTIKERN_CUDA_FORM", name, 1);
    int64_t ran = 0, wrong = 0;
    for (int64_t number = first; number < first + networks; ++number) {
        const Drawn drawn(number);
        try {
            const std::optional<Tensors> found = on_the_device(drawn, form);
            if (!found) continue;
            ++ran;
            if (mismatches(*found, on_the_cpu(drawn)) == 0) continue;
        } catch (const std::exception& error) {
            std::printf("    %s: %s\n", error.what(), emulator_last_error_text());
        }
        ++wrong;
        std::printf("  %s, network %d: %s\n", name, int(number), drawn.name().c_str());
    }
    std::printf("%s: %d networks, %d wrong\n", name, int(ran), int(wrong));
    std::fflush(stdout);
    return wrong;
}

}  // namespace

int main(int count, char** arguments) {
    const int64_t networks = count > 1 ? std::atoll(arguments[1]) : 100,
                  first = count > 2 ? std::atoll(arguments[2]) : 0;
    plastikern_emulator::use_device("tiny");
    int64_t wrong = 0;
    for (int form = 0; form < 3; ++form) {
        if (count > 3 && std::strcmp(arguments[3], kForms[form]) != 0) continue;
        wrong += check(static_cast<cuda::Form>(form), first, networks);
    }
    return wrong == 0 ? 0 : 1;
}
