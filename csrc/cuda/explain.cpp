// Which plan a pass would get on a device that is described: an operator without tensors, for any
// machine.
#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <string>
#include <vector>

#include "../program.h"
#include "plan.h"

namespace plastikern::cuda {
namespace {

template <typename S>
Plan plan_for(const Program& program, const std::vector<int64_t>& sizes, bool backward,
              const Device& device) {
    static const S some = 1;  // stands for whatever is there; nobody reads it
    static S found = 0;
    Network<S> n{};
    n.kind = program.kind;
    n.rule = program.rule;
    n.nonlinearity = program.nonlinearity;
    n.post = program.post;
    n.retroactive = program.is(fact::retroactive);
    n.steps = sizes[0];
    n.batch = sizes[1];
    n.posts = sizes[2];
    n.pres = n.connection.pres = sizes[3];
    n.checkpoint_every = sizes[4];
    n.connection.layout = static_cast<Layout>(sizes[5]);
    if (program.is(fact::modulated)) n.modulator = {&some, &some, program.modulator_input, {}};
    Gradients<S> g{};
    g.alpha = &found;
    return backward ? plan_backward(n, g, device) : plan_forward(n, device);
}

std::string json(const Plan& plan) {
    constexpr const char* forms[] = {"resident", "cooperative", "streaming"};
    std::string text = std::string("{\"form\": \"") + forms[static_cast<int64_t>(plan.form)] + "\"";
    const auto add = [&](const char* name, int64_t value) {
        text += std::string(", \"") + name + "\": " + std::to_string(value);
    };
    const auto say = [&](const char* name, bool value) {
        text += std::string(", \"") + name + "\": " + (value ? "true" : "false");
    };
    add("launches", plan.launches);
    add("blocks", plan.blocks());
    add("threads", plan.warps * 32);
    add("blocks_per_element", plan.share);
    add("rows_per_block", plan.rows);
    add("elements_together", plan.together);
    add("waves", plan.waves);
    say("at_once", plan.at_once);
    say("traces_on_chip", plan.traces_on_chip);
    say("parameters_on_chip", plan.parameters_on_chip);
    say("alpha_gradient_on_chip", plan.alphas_on_chip);
    add("shared_bytes", plan.shared_bytes);
    add("scratch_bytes", plan.scratch_bytes);
    add("memory_bytes", static_cast<int64_t>(plan.memory_bytes));
    add("clocks_per_step", static_cast<int64_t>(plan.clocks));
    return text + "}";
}

// sizes: T, B, O, I, checkpoint_every, layout. device: as Device.
std::string explain_cuda(std::string key, std::vector<int64_t> sizes, int64_t scalar_bytes,
                         bool backward, std::vector<int64_t> device) {
    const Program program(key);
    STD_TORCH_CHECK(sizes.size() == 6 && device.size() == 3,
                    "explain_cuda takes 6 sizes and 3 numbers of a device");
    for (const int64_t size : sizes) STD_TORCH_CHECK(size >= 0, "sizes must not be negative");
    for (const int64_t size : device)
        STD_TORCH_CHECK(size > 0, "the numbers of a device must be positive");
    const Device on = {device[0], device[1], device[2]};
    return json(scalar_bytes == 8 ? plan_for<double>(program, sizes, backward, on)
                                  : plan_for<float>(program, sizes, backward, on));
}

}  // namespace
}  // namespace plastikern::cuda

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) {
    m.impl("explain_cuda", TORCH_BOX(&plastikern::cuda::explain_cuda));
}
