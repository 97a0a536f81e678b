// Sums the numbers 0 to n - 1, block by block, by shuffles and shared memory: correctly, or with
// the mistake named.
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_emulator.h"

enum class Mistake {
    kNone,
    kNoSyncthreads,
    kNoSyncwarp,
    kShuffleAsBarrier,
    kSharedIndex,
    kGlobalIndex,
    kBlocksShare
};

template <Mistake mistake>
__global__ void __launch_bounds__(128) block_sums(const double* numbers, double* sums, int n) {
    auto* warp_sums = reinterpret_cast<double*>(plastikern_emulator::dynamic_shared_memory());
    int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    int warp = static_cast<int>(threadIdx.x) / warpSize,
        lane = static_cast<int>(threadIdx.x) % warpSize;
    double value = index < n ? __ldcg(numbers + index) : 0.0;
    for (int step = warpSize / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    if (lane == 0) warp_sums[warp + (mistake == Mistake::kSharedIndex)] = value;
    if (mistake != Mistake::kNoSyncthreads) __syncthreads();
    if (warp != 0) return;
    double sum = lane < static_cast<int>(blockDim.x) / warpSize ? warp_sums[lane] : 0.0;
    if (mistake == Mistake::kShuffleAsBarrier) {
        __shfl_sync(0xffffffffu, lane, 0);
    } else if (mistake != Mistake::kNoSyncwarp) {
        __syncwarp();
    }
    if (lane < 4) warp_sums[lane ^ 1] = sum;
    __syncwarp();
    if (lane >= 4) return;
    sum = warp_sums[lane];
    for (unsigned step = 2; step > 0; step /= 2) sum += __shfl_down_sync(0x0000000fu, sum, step, 4);
    if (lane == 0)
        sums[mistake == Mistake::kBlocksShare ? 0
                                              : blockIdx.x + (mistake == Mistake::kGlobalIndex)] =
            sum;
}

template <Mistake mistake>
int run(int n) {
    unsigned blocks = (n + 127) / 128;
    std::vector<double> numbers(n), sums(blocks, -1.0);
    for (int i = 0; i < n; ++i) numbers[i] = i;
    cudaLaunchConfig_t config{dim3(blocks), dim3(128), 4 * sizeof(double), nullptr, nullptr, 0};
    cudaError_t error =
        cudaLaunchKernelEx(&config, block_sums<mistake>, numbers.data(), sums.data(), n);
    double total = 0;
    for (double sum : sums) total += sum;
    std::printf("%s %.0f\n", cudaGetErrorName(error), total);
    return 0;
}

int main(int, char** arguments) {
    std::string mistake = arguments[1];
    int n = std::stoi(arguments[2]);
    if (mistake == "none") return run<Mistake::kNone>(n);
    if (mistake == "no_syncthreads") return run<Mistake::kNoSyncthreads>(n);
    if (mistake == "no_syncwarp") return run<Mistake::kNoSyncwarp>(n);
    if (mistake == "shuffle_as_barrier") return run<Mistake::kShuffleAsBarrier>(n);
    if (mistake == "shared_index") return run<Mistake::kSharedIndex>(n);
    if (mistake == "global_index") return run<Mistake::kGlobalIndex>(n);
    if (mistake == "blocks_share") return run<Mistake::kBlocksShare>(n);
    return 2;
}
