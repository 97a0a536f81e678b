// Kernels whose threads wait for what never comes, each followed by a correct launch. Prints a line
// for each launch.
#include <cstdio>
#include <stdexcept>

#include "cuda_emulator.h"

__global__ void barrier_in_branch() {
    if (threadIdx.x < 40) __syncthreads();
}

__global__ void barrier_against_shuffle(int* out) {
    if (threadIdx.x == 33) {
        __syncthreads();
    } else {
        int value = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x), 0);
        if (threadIdx.x == 0) *out = value;
    }
    __syncthreads();
}

__global__ void lane_has_left(int* out) {
    if (threadIdx.x == 7) return;
    int value = __shfl_down_sync(0xffffffffu, 1, 1);
    if (threadIdx.x == 0) *out = value;
}

__global__ void masks_differ() { __syncwarp(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u); }

__global__ void operations_differ(int* out) {
    if (threadIdx.x == 0) {
        __syncwarp();
    } else {
        int value = __shfl_xor_sync(0xffffffffu, 1, 1);
        if (threadIdx.x == 1) *out = value;
    }
}

__global__ void lane_outside_mask() { __syncwarp(0x0000ffffu); }

__global__ void polls_for_nothing(unsigned* flag) {
    if (threadIdx.x == 0) {
        while (plastikern_emulator::load_acquire(flag) == 0) __nanosleep(100);
    }
    __syncthreads();
}

__global__ void polls_by_shuffles(unsigned* flag) {
    unsigned seen = 0;
    while (seen == 0) {
        __nanosleep(100);
        seen = __shfl_sync(0xffffffffu, plastikern_emulator::load_acquire(flag), 0);
    }
}

__global__ void throws() {
    if (threadIdx.x == 5) throw std::runtime_error("thrown");
    __syncthreads();
}

// Two halves of a warp shuffle by themselves, and then together.
__global__ void correct(int* out) {
    unsigned lane = threadIdx.x % 32, half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    int value = static_cast<int>(lane);
    int repeats = lane < 16 ? 3 : 5;
    for (int i = 0; i < repeats; ++i) value = __shfl_xor_sync(half, value, 1) + 1;
    value = __shfl_sync(0xffffffffu, value, static_cast<int>(31 - lane));
    __syncthreads();
    out[threadIdx.x] = value;
}

template <typename... Parameters, typename... Arguments>
void launch(const char* name, unsigned threads, void (*kernel)(Parameters...),
            Arguments... arguments) {
    static int out[64];
    cudaLaunchConfig_t config{dim3(2), dim3(threads), 0, nullptr, nullptr, 0};
    cudaError_t error = cudaLaunchKernelEx(&config, kernel, arguments...);
    const char* text = error == cudaSuccess ? "" : emulator_last_error_text();
    cudaLaunchConfig_t one{dim3(1), dim3(64), 0, nullptr, nullptr, 0};
    bool right = cudaLaunchKernelEx(&one, correct, out) == cudaSuccess;
    for (int i = 0; i < 64; ++i) {
        int from = 31 - i % 32, repeats = from < 16 ? 3 : 5;
        right = right && out[i] == (from ^ 1) + repeats;
    }
    std::printf("%s|%s|%s|%s\n", name, cudaGetErrorName(error), text,
                right ? "then right" : "then wrong");
}

int main() {
    int out = 0;
    unsigned flag = 0;
    launch("barrier_in_branch", 64, barrier_in_branch);
    launch("barrier_against_shuffle", 64, barrier_against_shuffle, &out);
    launch("lane_has_left", 32, lane_has_left, &out);
    launch("masks_differ", 32, masks_differ);
    launch("operations_differ", 32, operations_differ, &out);
    launch("lane_outside_mask", 32, lane_outside_mask);
    launch("polls_for_nothing", 64, polls_for_nothing, &flag);
    launch("polls_by_shuffles", 32, polls_by_shuffles, &flag);
    launch("throws", 64, throws);
}
