// What the kernels use of CUDA. The same sources are compiled by g++ against an emulator of it:
// tests/cuda_emulator.
#pragma once

#if defined(PLASTIKERN_EMULATED)
#include "cuda_emulator.h"
#else
#include <cuda_runtime.h>
#endif

#include <math.h>  // not <cmath>: the overloads for float, too, outside of std

#include <cstdint>

namespace plastikern::cuda {

#if defined(PLASTIKERN_EMULATED)
inline unsigned char* shared_memory() { return plastikern_emulator::dynamic_shared_memory(); }
inline unsigned load_acquire(const unsigned* address) {
    return plastikern_emulator::load_acquire(address);
}
#else
__device__ __forceinline__ unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char memory[];
    return memory;
}
__device__ __forceinline__ unsigned load_acquire(const unsigned* address) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
    return value;
}
#endif

constexpr int kLanes = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// What another block may have written during this launch: past the first-level cache, which would
// not know of it.
template <typename S>
__device__ __forceinline__ S load_fresh(const S* address) {
    return __ldcg(address);
}

template <typename S>
__device__ __forceinline__ S sum_of_lanes(S value) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(kAllLanes, value, distance);
    return value;
}

template <typename S>
__device__ __forceinline__ S most_of_lanes(S value) {
    for (int distance = kLanes / 2; distance > 0; distance /= 2) {
        const S other = __shfl_xor_sync(kAllLanes, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

// Sums over all lanes of two values: of the first one in the lower half of the lanes, of the second
// in the upper half.
template <typename S>
__device__ __forceinline__ S sums_of_two(S first, S second, int lane) {
    const bool upper = lane >= kLanes / 2;
    S sum =
        (upper ? second : first) + __shfl_xor_sync(kAllLanes, upper ? first : second, kLanes / 2);
    for (int distance = kLanes / 4; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(kAllLanes, sum, distance);
    return sum;
}

// All threads of all `blocks` blocks that count on the same counter, which starts at 0 and only
// grows. They must be resident together.
__device__ __forceinline__ void barrier_of_blocks(unsigned* counter, unsigned blocks,
                                                  unsigned& passed) {
    __syncthreads();
    if (blocks == 1) return;
    passed += blocks;
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(counter, 1u);
        while (load_acquire(counter) < passed) __nanosleep(20);
        __threadfence();
    }
    __syncthreads();
}

}  // namespace plastikern::cuda
