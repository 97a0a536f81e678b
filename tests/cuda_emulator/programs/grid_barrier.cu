// Passes numbers round a ring of blocks, one step a grid barrier: correctly, or with the mistake
// named.
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_emulator.h"

enum class Mistake { kNone, kNoFence, kNoBarrier, kBlockMissing };

template <Mistake mistake>
__device__ void wait_for_grid(unsigned* arrived, unsigned target) {
    __syncthreads();
    if (threadIdx.x == 0) {
        if (mistake != Mistake::kNoFence) __threadfence();
        atomicAdd(arrived, 1);
        while (plastikern_emulator::load_acquire(arrived) < target) __nanosleep(32);
    }
    __syncthreads();
}

// Numbers [2, blocks, threads]: a step reads one half and writes the other.
template <Mistake mistake>
__global__ void pass_on(int* numbers, unsigned* arrived, int steps) {
    if (mistake == Mistake::kBlockMissing && blockIdx.x == 1) return;
    unsigned count = gridDim.x * blockDim.x, left = (blockIdx.x + gridDim.x - 1) % gridDim.x;
    for (int step = 0; step < steps; ++step) {
        const int* from = numbers + (step & 1) * count;
        int* to = numbers + (1 - (step & 1)) * count;
        to[blockIdx.x * blockDim.x + threadIdx.x] = from[left * blockDim.x + threadIdx.x] + 1;
        if (mistake != Mistake::kNoBarrier) wait_for_grid<mistake>(arrived, gridDim.x * (step + 1));
    }
}

template <Mistake mistake>
int run(bool cooperative, int steps) {
    const unsigned blocks = 5, threads = 64, count = blocks * threads;
    std::vector<int> numbers(2 * count);
    for (unsigned i = 0; i < count; ++i) numbers[i] = static_cast<int>(1000 * i);
    unsigned arrived = 0;
    cudaLaunchAttribute attribute{cudaLaunchAttributeCooperative, {cooperative}};
    cudaLaunchConfig_t config{dim3(blocks), dim3(threads), 0, nullptr, &attribute, 1};
    cudaError_t error =
        cudaLaunchKernelEx(&config, pass_on<mistake>, numbers.data(), &arrived, steps);
    bool right = true;
    for (unsigned i = 0; i < count; ++i) {
        unsigned from = (i + blocks * threads * steps - threads * steps) % count;
        right = right && numbers[(steps & 1) * count + i] == static_cast<int>(1000 * from) + steps;
    }
    std::printf("%s %s %s\n", cudaGetErrorName(error), right ? "right" : "wrong",
                emulator_last_error_text());
    return 0;
}

int main(int, char** arguments) {
    std::string mistake = arguments[1];
    int steps = std::stoi(arguments[2]);
    if (mistake == "none") return run<Mistake::kNone>(true, steps);
    if (mistake == "no_fence") return run<Mistake::kNoFence>(true, steps);
    if (mistake == "no_barrier") return run<Mistake::kNoBarrier>(true, steps);
    if (mistake == "block_missing") return run<Mistake::kBlockMissing>(true, steps);
    if (mistake == "not_cooperative") return run<Mistake::kNone>(false, steps);
    return 2;
}
