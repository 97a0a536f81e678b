// The operators on the CPU.
#include <torch/csrc/stable/c/shim.h>

#include <cstring>
#include <new>

#include "../operators.h"
#include "network.h"
#include "team.h"
#include "workspace.h"

#if defined(__linux__)
// Of torch 2.11 and newer; null before.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(void*, int64_t, const int64_t*,
                                                                const int64_t*, int64_t, int32_t,
                                                                int32_t, int32_t, AtenTensorHandle*,
                                                                int32_t, const uint8_t*, int64_t,
                                                                void (*)(void*, void*), void*);
#endif

namespace plastikern {
namespace {

#if defined(__linux__)
// Bytes of a tensor; 0: none, or more than can be counted.
int64_t bytes_of(const Shape& shape, int64_t bytes) {
    for (const int64_t size : shape) {
        if (size <= 0 || __builtin_mul_overflow(bytes, size, &bytes)) return 0;
    }
    return bytes;
}

Tensor pooled(const Tensor& like, const Shape& shape, int64_t bytes) {
    const Shape strides = shape.strides();
    int32_t dtype, layout, device;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_layout(like.get(), &layout));
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device));
    auto* block = new Block(Pool::only().take(bytes));
    const auto release = [](void*, void* context) {
        Pool::only().give(*static_cast<Block*>(context));
        delete static_cast<Block*>(context);
    };
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(torch_from_blob(
        block->memory, static_cast<int64_t>(shape.size()), shape.data(), strides.data(), 0, dtype,
        aoti_torch_device_type_cpu(), device, &handle, layout, nullptr, 0, release, block));
    return Tensor(handle);
}
#endif

// A new tensor, a large one of memory that goes back to the pool.
Tensor pooled_empty(const Tensor& like, const Shape& shape) {
#if defined(__linux__)
    constexpr int64_t large = int64_t{1} << 20, beyond_memory = int64_t{1} << 60;
    const int64_t bytes = bytes_of(shape, like.element_size());
    if (torch_from_blob != nullptr && bytes >= large && bytes < beyond_memory) {
        try {
            return pooled(like, shape, bytes);
        } catch (const std::bad_alloc&) {
            // torch is asked for it as well
        }
    }
#endif
    return unwritten(like, shape, like.scalar_type());
}

// For tests: whether new memory starts as NaN, so that a value that is never written is seen.
bool starts_as_nan() {
    const char* wish = std::getenv("PLASTIKERN_NEW_MEMORY");
    return wish != nullptr && std::strcmp(wish, "nan") == 0;
}

struct Cpu {
    static constexpr const char* name = "cpu";
    static constexpr bool reverses = true, keeps_activities = false;
    static bool beside(const Tensor& tensor, const Tensor& /*like*/) { return tensor.is_cpu(); }
    static Tensor bring(const Tensor& lengths, const Tensor& /*like*/) { return lengths; }
    static Tensor empty(const Tensor& like, const Shape& shape, ScalarType /*dtype*/) {
        const Tensor found = pooled_empty(like, shape);
        if (starts_as_nan()) fill(found, 0xFF);
        return found;
    }
    static Tensor zeros(const Tensor& like, const Shape& shape, ScalarType dtype) {
        const Tensor found = unwritten(like, shape, dtype);
        fill(found, 0);
        return found;
    }
    static void fill(const Tensor& tensor, int byte) {
        const int64_t bytes = tensor.numel() * static_cast<int64_t>(tensor.element_size());
        if (bytes > 0) std::memset(tensor.mutable_data_ptr(), byte, static_cast<size_t>(bytes));
    }

    // The kernels read rates and modulators without asking whether there are any.
    template <typename S>
    static void complete(Network<S>& n) {
        static const S zero = 0, one = 1;
        Connection<S>& c = n.connection;
        if (c.rate.data == nullptr) c.rate = {&zero, 0};
        if (n.modulator && c.rate_scale.data == nullptr) c.rate_scale = {&one, 0};
        n.threads = static_cast<int64_t>(torch::stable::get_num_threads());
        if (n.threads > 1) n.threads = std::min(n.threads, cores());
    }
    template <typename S>
    static void forward(Network<S>& n, const Outputs<S>& out, const Tensor& /*like*/) {
        complete(n);
        plastikern::forward(n, out);
    }
    template <typename S>
    static void advance(Network<S>& n, const Outputs<S>& out, int64_t k, S* memory, int64_t count) {
        complete(n);
        const int64_t bytes = acting_bytes(n), given = count * static_cast<int64_t>(sizeof(S));
        require(given >= bytes, "memory must have ", bytes, " bytes; got ", given);
        require(reinterpret_cast<uintptr_t>(memory) % 64 == 0, "memory must start on a cache line");
        plastikern::forward_unit(n, out, k, memory);
    }
    template <typename S>
    static void backward(Network<S>& n, Gradients<S>& g, const Tensor& /*like*/) {
        static const S zero = 0;
        complete(n);
        if (!g.activities.modulators) g.activities.modulators = {&zero, 0, 0};
        plastikern::backward(n, g);
    }
};

Tensor empty(const Tensor& like, std::vector<int64_t> size) {
    return made("a new tensor", like, size, [&] { return pooled_empty(like, Shape(size)); });
}

void bandwidth(const Tensor& a, const Tensor& b, const Tensor& c, int64_t repeats) {
    for (const Tensor* tensor : {&a, &b, &c}) {
        require(tensor->is_cpu() && tensor->scalar_type() == ScalarType::Float &&
                    tensor->is_contiguous() && tensor->numel() == a.numel(),
                "bandwidth: tensors must be contiguous, on the cpu, of one size and float32");
    }
    const int64_t count = a.numel();
    const float *from_a = static_cast<const float*>(a.const_data_ptr()),
                *from_b = static_cast<const float*>(b.const_data_ptr());
    float* to = static_cast<float*>(c.mutable_data_ptr());
    parallel(
        std::min(static_cast<int64_t>(torch::stable::get_num_threads()), cores()), [&](Team team) {
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
    m.impl("empty", TORCH_BOX(&plastikern::empty));
    m.impl("advance", TORCH_BOX(&plastikern::advance<plastikern::Cpu>));
    m.impl("sequence", TORCH_BOX(&plastikern::sequence<plastikern::Cpu>));
    m.impl("sequence_backward", TORCH_BOX(&plastikern::sequence_backward<plastikern::Cpu>));
    m.impl("bandwidth", TORCH_BOX(&plastikern::bandwidth));
}

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) {
    m.impl("cpu_capability", TORCH_BOX(&plastikern::cpu_capability));
}
