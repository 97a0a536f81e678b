// The kernels of constants.cu: each does one thing many times and counts the clocks of its block.
#pragma once

#include "cuda/device.h"

#if defined(PLASTIKERN_EMULATED)
#include <chrono>
#endif

namespace plastikern::microbenchmarks {

using cuda::barrier_of_blocks;
using cuda::shared_memory;

// Slots of different cache lines.
constexpr int kSlotBytes = 256;
constexpr int kSlot = kSlotBytes / sizeof(unsigned long long);

struct alignas(8) Two {
    float a, b;
};
struct alignas(16) Four {
    float a, b, c, d;
};
__device__ inline float sum(float value) { return value; }
__device__ inline float sum(Two value) { return value.a + value.b; }
__device__ inline float sum(Four value) { return value.a + value.b + value.c + value.d; }

#if defined(PLASTIKERN_EMULATED)
// Nanoseconds of the host.
inline long long clocks_now() {
    return std::chrono::steady_clock::now().time_since_epoch().count();
}
inline unsigned long long load_relaxed(const unsigned long long* address) {
    __nanosleep(1);
    return *address;
}
inline void store_relaxed(unsigned long long* address, unsigned long long value) {
    *address = value;
}
#else
__device__ inline long long clocks_now() { return clock64(); }
__device__ inline unsigned long long load_relaxed(const unsigned long long* address) {
    unsigned long long value;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(address) : "memory");
    return value;
}
__device__ inline void store_relaxed(unsigned long long* address, unsigned long long value) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(address), "l"(value) : "memory");
}
#endif

// A number that the compiler cannot know to be never written.
__device__ inline void keep(float value, long long* clocks) {
    if (value == -1.25f) clocks[0] = -1;
}

__global__ void nothing(int) {}

__global__ void spin(long long* clocks, int64_t turns) {
    const long long start = clocks_now();
    float value = static_cast<float>(threadIdx.x);
    for (int64_t i = 0; i < turns; ++i) value = value * 0.5f + 1.0f;
    keep(value, clocks);
    if (threadIdx.x == 0) clocks[blockIdx.x] = clocks_now() - start;
}

__global__ void barriers_of_threads(long long* clocks, int64_t turns) {
    __syncthreads();
    const long long start = clocks_now();
    for (int64_t i = 0; i < turns; ++i) __syncthreads();
    if (threadIdx.x == 0) clocks[blockIdx.x] = clocks_now() - start;
}

// The barrier of the kernels; the first one, in which blocks wait for those that start later, is
// not counted.
__global__ void barriers_of_blocks(long long* clocks, unsigned* counter, int64_t turns) {
    unsigned passed = 0;
    barrier_of_blocks(counter, gridDim.x, passed);
    const long long start = clocks_now();
    for (int64_t i = 0; i < turns; ++i) barrier_of_blocks(counter, gridDim.x, passed);
    if (threadIdx.x == 0) clocks[blockIdx.x] = clocks_now() - start;
}

// Two blocks, each with a slot that it writes and the other polls. A slot holds a value and its
// epoch in eight bytes, so that no fence is needed.
__global__ void exchanges(long long* clocks, unsigned long long* slots, int64_t turns) {
    if (threadIdx.x != 0) return;
    unsigned long long *own = slots + blockIdx.x * kSlot, *other = slots + (1 - blockIdx.x) * kSlot;
    long long start = 0;
    for (int64_t i = 0; i <= turns; ++i) {
        if (i == 1) start = clocks_now();
        const unsigned long long epoch = static_cast<unsigned long long>(i) + 1;
        if (blockIdx.x == 0) store_relaxed(own, epoch);
        while (load_relaxed(other) < epoch) {
        }
        if (blockIdx.x == 1) store_relaxed(own, epoch);
    }
    clocks[blockIdx.x] = clocks_now() - start;
}

#if !defined(PLASTIKERN_EMULATED)
// With `stores`, each thread writes a number into the shared memory of the next block before the
// barrier, and reads its own after it.
__global__ void barriers_of_clusters(long long* clocks, int64_t turns, bool stores) {
#if __CUDA_ARCH__ >= 900
    const unsigned own =
        static_cast<unsigned>(__cvta_generic_to_shared(shared_memory())) + 4 * threadIdx.x;
    unsigned rank, blocks, there;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(there)
                 : "r"(own), "r"((rank + 1) % blocks));
    const auto barrier = [] {
        asm volatile(
            "barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                : "memory");
    };
    barrier();
    const long long start = clocks_now();
    float value = 1;
    for (int64_t i = 0; i < turns; ++i) {
        if (stores)
            asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
        barrier();
        if (stores) asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(own) : "memory");
    }
    if (threadIdx.x == 0) clocks[blockIdx.x] = clocks_now() - start;
    keep(value, clocks);
    barrier();  // no block ends while another one writes into its memory
#endif
}
#endif

constexpr int kSharedBytes = 32 * 1024, kMostThreads = 512;

// All of the block's shared memory, read by addresses that are known to be shared.
template <class V>
__global__ void __launch_bounds__(kMostThreads)
    shared_direct(long long* clocks, const float* /*elsewhere*/, bool /*on_chip*/, int64_t turns) {
    constexpr int count = kSharedBytes / static_cast<int>(sizeof(V));
    V* memory = reinterpret_cast<V*>(shared_memory());
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
        memory[i] = V{};
    __syncthreads();
    const long long start = clocks_now();
    float one = 0, other = 0;
    for (int64_t turn = 0; turn < turns; ++turn) {
        // Two under way at once, as in the kernels; another place every turn, so that nothing is
        // read only once.
        const int offset = static_cast<int>(turn % 2);
        for (int i = static_cast<int>(threadIdx.x); i < count;
             i += 2 * static_cast<int>(blockDim.x)) {
            const int next = i + static_cast<int>(blockDim.x);
            one += sum(memory[(i + offset) % count]);
            other += sum(memory[(next + offset) % count]);
        }
    }
    keep(one + other, clocks);
    if (threadIdx.x == 0) clocks[blockIdx.x] = clocks_now() - start;
}

// The same by addresses of which the compiler does not know where they point.
template <class V>
__global__ void __launch_bounds__(kMostThreads)
    shared_generic(long long* clocks, const float* elsewhere, bool on_chip, int64_t turns) {
    constexpr int count = kSharedBytes / static_cast<int>(sizeof(V));
    V* shared = reinterpret_cast<V*>(shared_memory());
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
        shared[i] = V{};
    __syncthreads();
    const V* memory = on_chip ? shared : reinterpret_cast<const V*>(elsewhere);
    const long long start = clocks_now();
    float one = 0, other = 0;
    for (int64_t turn = 0; turn < turns; ++turn) {
        const int offset = static_cast<int>(turn % 2);
        for (int i = static_cast<int>(threadIdx.x); i < count;
             i += 2 * static_cast<int>(blockDim.x)) {
            const int next = i + static_cast<int>(blockDim.x);
            one += sum(memory[(i + offset) % count]);
            other += sum(memory[(next + offset) % count]);
        }
    }
    keep(one + other, clocks);
    if (threadIdx.x == 0) clocks[blockIdx.x] = clocks_now() - start;
}

// Past the first-level cache.
__device__ inline Four load_far(const Four* from) {
#if defined(PLASTIKERN_EMULATED)
    return *from;
#else
    const float4 value = __ldcg(reinterpret_cast<const float4*>(from));
    return {value.x, value.y, value.z, value.w};
#endif
}

// Each turn reads all again.
__global__ void __launch_bounds__(kMostThreads)
    reads(const Four* from, Four* to, int64_t count, int64_t turns) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    float all = 0;
    for (int64_t turn = 0; turn < turns; ++turn)
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
             i += step)
            all += sum(load_far(&from[i]));
    if (all == -1.25f) to[0].a = all;
}

__global__ void __launch_bounds__(kMostThreads)
    copies(const Four* from, Four* to, int64_t count, int64_t turns) {
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t turn = 0; turn < turns; ++turn)
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
             i += step)
            to[i] = load_far(&from[i]);
}

}  // namespace plastikern::microbenchmarks
