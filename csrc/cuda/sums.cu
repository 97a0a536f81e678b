// Sums over what the groups of blocks found, always in the same order.
#include "backward.h"
#include "device.h"

namespace plastikern::cuda {
namespace {

template <typename S>
__global__ void __launch_bounds__(256) run_sum_of_each(const SumJob<S> job) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= job.size) return;
    S sum = 0;
    for (int64_t part = 0; part < job.count; ++part) sum += job.parts[part * job.distance + i];
    job.to[i] = sum;
}

template <typename S>
__global__ void __launch_bounds__(32) run_sum_of_all(const SumJob<S> job) {
    S sum = 0;
    for (int64_t part = 0; part < job.count; ++part) {
        for (int64_t i = threadIdx.x; i < job.size; i += kLanes)
            sum += job.parts[part * job.distance + i];
    }
    sum = sum_of_lanes(sum);
    if (threadIdx.x == 0) *job.to = sum;
}

}  // namespace

template <typename S>
SumKernel<S> sum_of_each() {
    return run_sum_of_each<S>;
}
template <typename S>
SumKernel<S> sum_of_all() {
    return run_sum_of_all<S>;
}
template SumKernel<float> sum_of_each();
template SumKernel<double> sum_of_each();
template SumKernel<float> sum_of_all();
template SumKernel<double> sum_of_all();

}  // namespace plastikern::cuda
