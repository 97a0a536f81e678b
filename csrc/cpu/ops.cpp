// The operators on the CPU.
#include "../operators.h"
#include "network.h"
#include "team.h"

namespace plastikern {
namespace {

struct Cpu {
    static constexpr const char* name = "cpu";
    static constexpr bool reverses = true, keeps_activities = false;
    static bool has(const Tensor& tensor) { return tensor.is_cpu(); }
    static Tensor bring(const Tensor& lengths, const Tensor& /*like*/) { return lengths; }

    // The kernels read rates and modulators without asking whether there are any.
    template <typename S>
    static void complete(Network<S>& n) {
        static const S zero = 0, one = 1;
        Connection<S>& c = n.connection;
        if (c.rate.data == nullptr) c.rate = {&zero, 0};
        if (n.modulator && c.rate_scale.data == nullptr) c.rate_scale = {&one, 0};
        n.threads = static_cast<int64_t>(torch::stable::get_num_threads());
    }
    template <typename S>
    static void forward(Network<S>& n, const Outputs<S>& out, const Tensor& /*like*/) {
        complete(n);
        plastikern::forward(n, out);
    }
    template <typename S>
    static void backward(Network<S>& n, Gradients<S>& g, const Tensor& /*like*/) {
        static const S zero = 0;
        complete(n);
        if (!g.activities.modulators) g.activities.modulators = {&zero, 0, 0};
        plastikern::backward(n, g);
    }
};

void bandwidth(const Tensor& a, const Tensor& b, const Tensor& c, int64_t repeats) {
    for (const Tensor* tensor : {&a, &b, &c}) {
        check<Cpu>("bandwidth", *tensor, {a.numel()}, ScalarType::Float);
        STD_TORCH_CHECK(tensor->is_contiguous(), "bandwidth: tensors must be contiguous");
    }
    const int64_t count = a.numel();
    const float *from_a = pointer<float>(a), *from_b = pointer<float>(b);
    float* to = output_pointer<float>(c);
    parallel(static_cast<int64_t>(torch::stable::get_num_threads()), [&](Team team) {
        int64_t begin, end;
        team.share(count, begin, end);
        for (int64_t i = 0; i < repeats; ++i) {
            kernels<float>().bandwidth(from_a + begin, from_b + begin, to + begin, end - begin);
            team.barrier();
        }
    });
}

std::string cpu_capability() { return kernels<float>().capability; }

}  // namespace
}  // namespace plastikern

STABLE_TORCH_LIBRARY_IMPL(plastikern, CPU, m) {
    m.impl("step", TORCH_BOX(&plastikern::step<plastikern::Cpu>));
    m.impl("sequence", TORCH_BOX(&plastikern::sequence<plastikern::Cpu>));
    m.impl("sequence_backward", TORCH_BOX(&plastikern::sequence_backward<plastikern::Cpu>));
    m.impl("bandwidth", TORCH_BOX(&plastikern::bandwidth));
}

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) {
    m.impl("cpu_capability", TORCH_BOX(&plastikern::cpu_capability));
}
