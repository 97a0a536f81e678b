// The host's side of both passes: what is launched, in which order.
#include "passes.h"

#include <limits>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "../update.h"
#include "backward.h"
#include "device.h"
#include "forward.h"

namespace plastikern::cuda {
namespace {

constexpr unsigned kSumThreads = 256;

int attribute(cudaDeviceAttr which, int device);

void check(cudaError_t found, const char* what) {
    if (found == cudaSuccess) return;
    std::string message = std::string(what) + ": " + cudaGetErrorString(found);
    if (found == cudaErrorNoKernelImageForDevice) {
        int device = 0;
        cudaGetDevice(&device);
        message += " (this build has no code for compute capability " +
                   std::to_string(attribute(cudaDevAttrComputeCapabilityMajor, device)) + "." +
                   std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device)) +
                   "; build with TORCH_CUDA_ARCH_LIST, see the README)";
    }
    // The next call is not to find it. An error that stays has ended the context: it is of work
    // that came before.
    cudaGetLastError();
    if (cudaGetLastError() != cudaSuccess)
        message += " (left by earlier work; this process cannot use the device again)";
    if (found == cudaErrorCooperativeLaunchTooLarge) throw NotResident(message);
    throw std::runtime_error(message);
}

int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "the device's attributes");
    return value;
}

int current_device() {
    int index = 0;
    check(cudaGetDevice(&index), "the current device");
    return index;
}

// Lets a kernel have all the shared memory that a block of the device may: once, since another
// thread may be about to launch it with more than this one needs.
template <class Job>
void allow_shared(void (*kernel)(Job)) {
    static std::mutex mutex;
    static std::set<std::pair<void (*)(Job), int>> allowed;
    const int device = current_device();
    const std::lock_guard lock(mutex);
    if (allowed.count({kernel, device}) != 0) return;
    const int most = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
          "shared memory");
    allowed.insert({kernel, device});
}

// Every launch of the library goes through here.
template <class Job>
void launch(void (*kernel)(Job), int64_t blocks, int64_t threads, int64_t shared_bytes,
            bool cooperative, cudaStream_t stream, const Job& job) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
    config.stream = stream;
    cudaLaunchAttribute together = {};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    config.attrs = &together;
    config.numAttrs = cooperative ? 1 : 0;
    check(cudaLaunchKernelEx(&config, kernel, job), "launch");
}

template <class Job>
void launch_units(void (*kernel)(Job), Job job, int64_t first, int64_t last, int64_t by,
                  cudaStream_t stream) {
    const Plan& plan = job.plan;
    allow_shared(kernel);
    const auto run = [&](int64_t from, int64_t to) {
        job.first = from;
        job.last = to;
        const bool cooperative = plan.one_launch() && plan.share > 1;
        launch(kernel, plan.blocks(), plan.warps * kLanes, plan.shared_bytes, cooperative, stream,
               job);
    };
    if (plan.one_launch()) return run(first, last);
    for (int64_t k = first; k != last + by; k += by) run(k, k);
}

// With infinite bounds where there are none.
template <typename S>
Network<S> bounded(Network<S> n) {
    if (kRules[n.rule].unbounded) n.connection.bound = std::numeric_limits<S>::infinity();
    return n;
}

// What every group found, added up: of each row or synapse, or of the whole layer.
template <typename S>
void add_up(const S* parts, int64_t count, int64_t distance, int64_t size, bool whole, S* to,
            cudaStream_t stream) {
    if (to == nullptr) return;
    const SumJob<S> job = {parts, count, distance, size, to};
    if (whole) return launch(sum_of_all<S>(), 1, kLanes, 0, false, stream, job);
    launch(sum_of_each<S>(), (size + kSumThreads - 1) / kSumThreads, kSumThreads, 0, false, stream,
           job);
}

}  // namespace

Device device() {
    const int index = current_device();
    return {attribute(cudaDevAttrMultiProcessorCount, index),
            attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
            attribute(cudaDevAttrL2CacheSize, index),
            attribute(cudaDevAttrCooperativeLaunch, index) != 0};
}

bool captures(void* stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status),
          "the stream's capture");
    return status != cudaStreamCaptureStatusNone;
}

template <typename S>
void forward(const Network<S>& n, const Outputs<S>& out, const Plan& plan, void* scratch,
             void* stream) {
    const ForwardLayout layout = forward_layout(n, plan);
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    check(cudaMemsetAsync(scratch, 0, layout.cleared() * sizeof(S), on), "scratch");
    const ForwardJob<S> job = {bounded(n), out, plan, layout, static_cast<S*>(scratch), 0, 0};
    launch_units(forward_kernel(n), job, 0, plan.at_once ? 0 : n.steps, 1, on);
}

template <typename S>
void backward(const Network<S>& n, const Gradients<S>& g, const Plan& plan, void* scratch,
              void* stream) {
    const BackwardLayout layout = backward_layout(n, g, plan);
    const cudaStream_t on = static_cast<cudaStream_t>(stream);
    S* memory = static_cast<S*>(scratch);
    check(cudaMemsetAsync(scratch, 0, layout.cleared() * sizeof(S), on), "scratch");
    const BackwardJob<S> job = {bounded(n), g, plan, layout, memory, 0, 0};
    launch_units(backward_kernel(n), job, n.steps, -1, -1, on);
    // The parts of the first group; those of the others follow at a distance.
    const S* first = layout.zeroed.of(memory, 0);
    const Connection<S>& c = n.connection;
    const auto sum = [&](const S* parts, int64_t size, bool whole, S* to) {
        add_up(parts, plan.groups, layout.zeroed.size, size, whole, to, on);
    };
    if (c.layout == Layout::per_synapse) {
        sum(first + layout.rates, n.synapses(), false, g.rate);
        sum(first + layout.rates + n.synapses(), n.synapses(), false, g.rate_scale);
        sum(first + layout.rates + 2 * n.synapses(), n.synapses(), false, g.eligibility_rate);
    } else {
        sum(first + layout.row_sums, n.posts, c.rate.stride == 0, g.rate);
        sum(first + layout.row_sums + n.posts, n.posts, c.rate_scale.stride == 0, g.rate_scale);
        sum(first + layout.row_sums + 2 * n.posts, n.posts, c.eligibility_rate.stride == 0,
            g.eligibility_rate);
    }
    if (c.layout == Layout::per_neuron) {
        sum(first + layout.row_sums + 3 * n.posts, n.posts, c.alpha.stride == 0, g.alpha);
    } else {
        sum(first + layout.alphas, n.synapses(), false, g.alpha);
    }
}

#define PLASTIKERN_PASSES(S)                                                                \
    template void forward(const Network<S>&, const Outputs<S>&, const Plan&, void*, void*); \
    template void backward(const Network<S>&, const Gradients<S>&, const Plan&, void*, void*);
PLASTIKERN_PASSES(float)
PLASTIKERN_PASSES(double)

}  // namespace plastikern::cuda
