// The operators on CUDA devices. Compiled a second time, against the emulator, they serve tensors on the CPU instead:
// the proof of these kernels on machines without a GPU.
#include "../operators.h"
#include "passes.h"

#if !defined(PLASTIKERN_EMULATED)
#include <torch/csrc/stable/accelerator.h>

#include "stream.h"
#endif

namespace plastikern {
namespace {

#if defined(PLASTIKERN_EMULATED)

struct OnDevice {
    explicit OnDevice(const Tensor& /*tensor*/) {}
    void* stream() const { return nullptr; }
};

#else

// Makes the tensor's device the current one; what is launched goes to torch's current stream of it.
class OnDevice {
   public:
    explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {}
    void* stream() const { return cuda::current_stream(index_); }

   private:
    int32_t index_;
    torch::stable::accelerator::DeviceGuard guard_;
};

#endif

struct Cuda {
#if defined(PLASTIKERN_EMULATED)
    static constexpr const char* name = "cpu";
    static bool has(const Tensor& tensor) { return tensor.is_cpu(); }
#else
    static constexpr const char* name = "cuda device";
    static bool has(const Tensor& tensor) { return tensor.is_cuda(); }
#endif
    static constexpr bool reverses = false, keeps_activities = true;
    static Tensor bring(const Tensor& lengths, const Tensor& like) {
        Tensor there = torch::stable::new_empty(like, {lengths.size(0)}, ScalarType::Long);
        torch::stable::copy_(there, lengths);
        return there;
    }
    static Tensor empty(const Tensor& like, const std::vector<int64_t>& shape) {
        return torch::stable::new_empty(like, shape);
    }
    static Tensor scratch(const Tensor& like, const cuda::Plan& plan) {
        return torch::stable::new_empty(like, {plan.scratch_bytes}, ScalarType::Byte);
    }
    template <typename S>
    static void forward(const Network<S>& n, const Outputs<S>& out, const Tensor& like) {
        const OnDevice on(like);
        const cuda::Plan plan = cuda::plan_forward(n, cuda::device());
        const Tensor memory = scratch(like, plan);
        cuda::forward(n, out, plan, memory.mutable_data_ptr(), on.stream());
    }
    template <typename S>
    static void backward(const Network<S>& n, const Gradients<S>& g, const Tensor& like) {
        const OnDevice on(like);
        const cuda::Plan plan = cuda::plan_backward(n, g, cuda::device());
        const Tensor memory = scratch(like, plan);
        cuda::backward(n, g, plan, memory.mutable_data_ptr(), on.stream());
    }
};

}  // namespace
}  // namespace plastikern

#if defined(PLASTIKERN_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(plastikern_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(plastikern, CUDA, m) {
#endif
    m.impl("step", TORCH_BOX(&plastikern::step<plastikern::Cuda>));
    m.impl("sequence", TORCH_BOX(&plastikern::sequence<plastikern::Cuda>));
    m.impl("sequence_backward", TORCH_BOX(&plastikern::sequence_backward<plastikern::Cuda>));
}
