// Random networks through the CUDA kernels in each form of plan.h, compared with the CPU kernels: a
// program without torch and Python, which a broken one of them does not stop, and with which the
// sanitizers get along.
//
//     smoke [NETWORKS [FIRST [FORM [SIZE]]]]    networks FIRST, FIRST + 1, ... in one form, or in
//     `all` three
//
// `python -m plastikern gpu-check` runs it on a card. `make sanitize` compiles it against the
// emulator twice, under the race detector in single precision and under the address sanitizer in
// double, and runs both. Every tensor is an allocation of its own, of just its size; what is to be
// written starts as NaN. Networks are drawn by their number: a mismatch tells it, and `smoke 1
// NUMBER FORM SIZE` draws it again. Large ones are for double precision.
//
// It prints JSON, a line each: mismatches and errors as they come, then for each form how many
// networks ran. Told to end (SIGTERM) it says where it was. Status: 0 where all are right, 1 where
// not, 2 for bad arguments, 77 without a device.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>

#include "cpu/network.h"
#include "cuda/passes.h"
#include "networks.h"

namespace {

using namespace plastikern;
using namespace plastikern::check;

constexpr const char* kForms[] = {"resident", "cooperative", "streaming"};
constexpr const char* kSizes[] = {"small", "large", "maze"};
constexpr const char* kScalar = sizeof(S) == 8 ? "double" : "float";
constexpr int kWrong = 1, kBadArguments = 2, kNoDevice = 77;

// What runs now, for whoever ends this process because it hangs.
char running[96];

void say_where(int) {
    if (write(STDOUT_FILENO, running, std::strlen(running)) < 0) _exit(kBadArguments);
    _exit(kWrong);
}

// Text of an error, in a JSON string.
std::string quoted(const std::string& text) {
    std::string found = "\"";
    for (const char c : text)
        found += c == '"' || c == '\\' ? std::string{'\\', c} : std::string{c < ' ' ? ' ' : c};
    return found + "\"";
}

Tensors on_the_cpu(const Drawn& drawn) {
    // It reads rates and modulators without asking whether there are any.
    static const S zero = 0, one = 1;
    Network<S> n = drawn.n;
    if (n.connection.rate.data == nullptr) n.connection.rate = {&zero, 0};
    if (n.modulator && n.connection.rate_scale.data == nullptr) n.connection.rate_scale = {&one, 0};
    Tensors tensors(Place::host);
    const Outputs<S> out = outputs(drawn, tensors);
    plastikern::forward(n, out);
    if (n.checkpoint_every == 0) return tensors;
    Gradients<S> g = gradients(drawn, out, tensors, 0);
    if (!n.modulator) g.activities.modulators = {&zero, 0, 0};
    plastikern::backward(n, g);
    return tensors;
}

// The plan in this form, if there is one, for a device that has only just, or not even, the shared
// memory for it.
template <class Make>
std::optional<cuda::Plan> plan_in(cuda::Form form, const Drawn& drawn, Make make) {
    cuda::Device device = cuda::device();
    if (form != cuda::Form::cooperative)
        device.processors = std::min(device.processors, drawn.processors);
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
        const Tensor scratch(static_cast<size_t>(plan.scratch_bytes), 0xff, Place::device);
        pass(scratch.data<void>());
        expect(cudaStreamSynchronize(nullptr), "run");
    };
    Tensors tensors(Place::device);
    const Outputs<S> out = outputs(drawn, tensors);
    const auto there =
        plan_in(form, drawn, [&](const cuda::Device& d) { return cuda::plan_forward(n, d); });
    if (!there) return std::nullopt;
    run(*there, [&](void* scratch) { cuda::forward(n, out, *there, scratch, nullptr); });
    if (n.checkpoint_every == 0) return tensors;
    const Gradients<S> g = gradients(drawn, out, tensors, 0xff);
    const auto back =
        plan_in(form, drawn, [&](const cuda::Device& d) { return cuda::plan_backward(n, g, d); });
    if (!back) return std::nullopt;
    run(*back, [&](void* scratch) { cuda::backward(n, g, *back, scratch, nullptr); });
    return tensors;
}

// The largest difference over max(1, largest value); infinite where one of them is no number.
double difference(const Tensor& found, const Tensor& expected) {
    std::vector<S> one(found.bytes() / sizeof(S)), other(expected.bytes() / sizeof(S));
    found.read(one.data());
    expected.read(other.data());
    double most = 0, size = 1;
    for (size_t i = 0; i < other.size(); ++i) {
        const double a = one[i], b = other[i], apart = std::abs(a - b);
        if (std::isnan(apart)) return INFINITY;
        most = std::max(most, apart);
        size = std::max(size, std::abs(b));
    }
    return most / size;
}

// Networks of one form and size.
struct Check {
    cuda::Form form;
    Size size;
    int64_t ran = 0, wrong = 0;
    double worst = 0;

    const char* name() const { return kForms[static_cast<int>(form)]; }
    void tell(int64_t number, const Drawn& drawn, const std::string& what) {
        std::printf(
            "{\"wrong_network\": %d, \"form\": \"%s\", \"size\": \"%s\", \"scalar\": \"%s\", %s, "
            "\"network\": \"%s\"}\n",
            int(number), name(), kSizes[static_cast<int>(size)], kScalar, what.c_str(),
            drawn.name().c_str());
        std::fflush(stdout);
    }
    bool same(int64_t number, const Drawn& drawn, const Tensors& found, const Tensors& expected) {
        bool right = true;
        for (const auto& [tensor, values] : expected) {
            if (tensor.starts_with("kept: ")) continue;  // unwritten beyond an element's end
            const double apart = difference(found.at(tensor), values);
            if (apart <= tolerance(size)) {
                worst = std::max(worst, apart);
                continue;
            }
            char text[200];
            // JSON has no infinity: what is no number differs by 1e308.
            std::snprintf(text, sizeof(text),
                          "\"tensor\": \"%s\", \"differs\": %.3g, \"allowed\": %.3g",
                          tensor.c_str(), std::min(apart, 1e308), tolerance(size));
            tell(number, drawn, text);
            right = false;
        }
        return right;
    }
    // False where the device takes no more work.
    bool run(int64_t number) {
        std::snprintf(running, sizeof(running),
                      "\n{\"stopped_in_network\": %d, \"form\": \"%s\", \"size\": \"%s\", "
                      "\"scalar\": \"%s\"}\n",
                      int(number), name(), kSizes[static_cast<int>(size)], kScalar);
        const Drawn here(number, size, Place::host);
        try {
            const Drawn there(number, size, Place::device);
            const std::optional<Tensors> found = on_the_device(there, form);
            if (!found) return true;
            ++ran;
            if (!same(number, here, *found, on_the_cpu(here))) ++wrong;
            return true;
        } catch (const std::exception& error) {
            ++wrong;
            std::string text = error.what();
#if defined(PLASTIKERN_EMULATED)
            text += std::string(": ") + emulator_last_error_text();
#endif
            tell(number, here, "\"error\": " + quoted(text));
        }
        // What a kernel did wrong is said again and again by the calls that come after it.
        return cudaStreamSynchronize(nullptr) == cudaSuccess;
    }
};

// Runs the networks in a form; how many went wrong.
int64_t run_form(cuda::Form form, Size size, int64_t first, int64_t networks) {
    Check all{form, size};
    setenv("PLASTIKERN_CUDA_FORM", all.name(), 1);
    int64_t number = first;
    while (number < first + networks && all.run(number)) ++number;
    std::printf(
        "{\"form\": \"%s\", \"size\": \"%s\", \"scalar\": \"%s\", \"networks\": %d, \"wrong\": %d, "
        "\"worst\": %.3g, \"allowed\": %.3g, \"left\": %d}\n",
        all.name(), kSizes[static_cast<int>(size)], kScalar, int(all.ran), int(all.wrong),
        all.worst, tolerance(size), int(std::max<int64_t>(0, first + networks - 1 - number)));
    std::fflush(stdout);
    return all.wrong;
}

// The place of a name among others; -1: it is none of them.
template <size_t N>
int place_of(const char* name, const char* const (&names)[N]) {
    for (size_t i = 0; i < N; ++i)
        if (std::strcmp(name, names[i]) == 0) return static_cast<int>(i);
    return -1;
}

}  // namespace

int main(int count, char** arguments) {
    const int64_t networks = count > 1 ? std::atoll(arguments[1]) : 100,
                  first = count > 2 ? std::atoll(arguments[2]) : 0;
    const bool all = count <= 3 || std::strcmp(arguments[3], "all") == 0;
    const int only = all ? -1 : place_of(arguments[3], kForms),
              size = count > 4 ? place_of(arguments[4], kSizes) : 0;
    if (networks < 1 || first < 0 || (!all && only < 0) || size < 0 ||
        !serves(static_cast<Size>(size)) || count > 5) {
        std::fprintf(stderr,
                     "usage: smoke [NETWORKS [FIRST [resident|cooperative|streaming|all "
                     "[small|large|maze]]]]\n");
        return kBadArguments;
    }
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    if (found != cudaSuccess || devices == 0) {
        std::printf("{\"skip\": %s}\n",
                    quoted(std::string("no CUDA device: ") + cudaGetErrorString(found)).c_str());
        return kNoDevice;
    }
#if defined(PLASTIKERN_EMULATED)
    plastikern_emulator::use_device("tiny");
#endif
    signal(SIGTERM, say_where);
    int64_t wrong = 0;
    for (int form = 0; form < 3; ++form)
        if (all || form == only)
            wrong +=
                run_form(static_cast<cuda::Form>(form), static_cast<Size>(size), first, networks);
    return wrong == 0 ? 0 : kWrong;
}
