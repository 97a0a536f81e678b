// The operators on CUDA devices. Compiled a second time, against the emulator, they serve tensors
// on the CPU instead: the proof of these kernels on machines without a GPU.
#include "../operators.h"
#include "passes.h"

#if !defined(PLASTIKERN_EMULATED)
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "stream.h"
#endif

namespace plastikern {
namespace {

#if defined(PLASTIKERN_EMULATED)

struct OnDevice {
    explicit OnDevice(const Tensor& /*tensor*/) {}
    void* stream() const { return nullptr; }
    void check_not_captured() const {}
    const Tensor& staged(const Tensor& numbers) const { return numbers; }
};

#else

// Makes the tensor's device the current one; what is launched goes to torch's current stream of it.
class OnDevice {
   public:
    explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()) {
        if (torch::stable::accelerator::getCurrentDeviceIndex() != index_) guard_.emplace(index_);
    }
    void* stream() const { return cuda::current_stream(index_); }
    void check_not_captured() const {
        require(!cuda::captures(stream()),
                "lengths are copied from the host, which no CUDA graph captures");
    }
    // In page-locked memory, from which a copy does not wait for the device. torch keeps it until
    // the copy is done.
    Tensor staged(const Tensor& numbers) const {
        Tensor locked = torch::stable::empty({numbers.size(0)}, numbers.scalar_type(), std::nullopt,
                                             numbers.device(),
                                             /*pin_memory=*/true);
        torch::stable::copy_(locked, numbers);
        return locked;
    }

   private:
    int32_t index_;
    // None where the device is the current one: its destructor ends the process where the device
    // has failed.
    std::optional<torch::stable::accelerator::DeviceGuard> guard_;
};

#endif

struct Cuda {
#if defined(PLASTIKERN_EMULATED)
    static constexpr const char* name = "cpu";
    static bool beside(const Tensor& tensor, const Tensor& /*like*/) { return tensor.is_cpu(); }
#else
    static constexpr const char* name = "cuda device";
    static bool beside(const Tensor& tensor, const Tensor& like) {
        return tensor.is_cuda() && tensor.get_device_index() == like.get_device_index();
    }
#endif
    static constexpr bool reverses = false, keeps_activities = true;
    static Tensor bring(const Tensor& lengths, const Tensor& like) {
        const OnDevice on(like);
        on.check_not_captured();
        Tensor there = torch::stable::new_empty(like, {lengths.size(0)}, ScalarType::Long);
        const Tensor staged = on.staged(lengths);
        torch::stable::copy_(there, staged, /*non_blocking=*/true);
        return there;
    }
    static Tensor empty(const Tensor& like, const Shape& shape, ScalarType dtype) {
        return unwritten(like, shape, dtype);
    }
    static Tensor zeros(const Tensor& like, const Shape& shape, ScalarType dtype) {
        return torch::stable::new_zeros(like, {shape.data(), shape.size()}, dtype);
    }
    // Plans the pass, and once more without cooperative launches where the device refuses one.
    template <class Planned, class Run>
    static void launch(const Tensor& like, Planned planned, Run run) {
        const OnDevice on(like);
        cuda::Device device = cuda::device();
        const auto attempt = [&] {
            const cuda::Plan plan = planned(device);
            const Tensor scratch = unwritten(like, Shape{plan.scratch_bytes}, ScalarType::Byte);
            run(plan, scratch.mutable_data_ptr(), on.stream());
        };
        try {
            attempt();
        } catch (const cuda::NotResident&) {
            device.cooperative = false;
            attempt();
        }
    }
    template <typename S>
    static void forward(const Network<S>& n, const Outputs<S>& out, const Tensor& like) {
        launch(
            like, [&](const cuda::Device& device) { return cuda::plan_forward(n, device); },
            [&](const cuda::Plan& plan, void* scratch, void* stream) {
                cuda::forward(n, out, plan, scratch, stream);
            });
    }
    template <typename S>
    static void backward(const Network<S>& n, const Gradients<S>& g, const Tensor& like) {
        launch(
            like, [&](const cuda::Device& device) { return cuda::plan_backward(n, g, device); },
            [&](const cuda::Plan& plan, void* scratch, void* stream) {
                cuda::backward(n, g, plan, scratch, stream);
            });
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
