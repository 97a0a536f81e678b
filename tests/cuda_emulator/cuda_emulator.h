// CUDA kernels on the CPU, as a proof of them on machines without a GPU.
//
// The sources that nvcc compiles are compiled by
//     g++ -std=c++20 -DPLASTIKERN_EMULATED -I cuda_emulator -x c++ kernels.cu
//     cuda_emulator/cuda_emulator.cpp
// where they include this header in place of CUDA's and launch by cudaLaunchKernelEx. Each CUDA
// thread is a fiber, and all fibers of a launch take turns on the OS thread that launches, always
// in the same order: a launch has ended when it returns. The blocks of a cooperative launch are
// resident together; those of an ordinary launch run one after the other, so that a block which
// waits for another one is found.
//
// What it checks:
// - Barriers. What a thread of the block or of the mask never reaches, because it has ended or
// waits elsewhere, ends
//   the launch with cudaErrorLaunchFailure and a text that says which threads wait where. So do
//   threads that poll by
//   __nanosleep for what never comes.
// - Data races, under -fsanitize=thread: each CUDA thread is a thread of its own to the detector,
// and only what CUDA
//   says orders memory orders it: __syncthreads, __syncwarp, load_acquire of what was added by
//   atomicAdd after
//   __threadfence, and the start and end of a launch. A shuffle orders nothing ("do not imply a
//   memory barrier", CUDA C++ Programming Guide, Warp Shuffle Functions). A missing barrier is
//   found even where the result is right.
// - Indices, under -fsanitize=address: dynamic shared memory is a block of the heap of just the
// size asked for.
// - Poison: shared memory starts as NaN, and so is what a shuffle reads from a lane outside the
// mask.
// - Launches that a device would refuse, by the limits and the occupancy rules of the device chosen
// by use_device.
//
// What it cannot check: hardware that reorders memory more than x86-64 does, beyond what the race
// detector infers, which takes a __threadfence for one until the thread's next barrier and
// remembers the last four accesses to a word only; bank conflicts, coalescing and timing; registers
// and spills, which g++ does not know (describe_registers tells them); other rounding by
// contractions and by the device's own functions; a loop that polls without __nanosleep, which
// hangs.
//
// What it holds: 30000 resident threads with 256 KiB of stack each, of which only what is touched
// takes memory; under the race detector 8000, which take about a megabyte each. A thread that needs
// more stack ends the process.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// Those of the running thread; to be read only.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

void __syncthreads();
void __syncwarp(unsigned mask = 0xffffffffu);
void __threadfence();
// Lets all other threads run on: what a loop that polls must call.
void __nanosleep(unsigned nanoseconds);
// Relaxed, as CUDA's: orders memory only together with __threadfence.
unsigned atomicAdd(unsigned* address, unsigned value);

// Caches are not emulated.
template <typename T>
T __ldcg(const T* address) {
    return *address;
}

namespace plastikern_emulator {

// The dynamic shared memory of the running block.
unsigned char* dynamic_shared_memory();
unsigned load_acquire(const unsigned* address);

enum class WarpOperation : unsigned char { kSync, kShuffle, kShuffleXor, kShuffleDown };

// Waits for the lanes of the mask, gives `bits` to them and returns those of lane `source`.
uint64_t exchange(WarpOperation operation, unsigned mask, uint64_t bits, unsigned source);
unsigned lane_of_thread();

template <typename T>
concept Shuffled = std::same_as<T, float> || std::same_as<T, double> || std::same_as<T, int> ||
                   std::same_as<T, unsigned>;

template <Shuffled T>
T shuffle(WarpOperation operation, unsigned mask, T value, unsigned source) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    bits = exchange(operation, mask, bits, source);
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

}  // namespace plastikern_emulator

// Lanes form segments of `width`, a power of two. What points beyond the own segment gives the own
// value.
template <plastikern_emulator::Shuffled T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
    using namespace plastikern_emulator;
    unsigned segment = lane_of_thread() & ~(width - 1u);
    return shuffle(WarpOperation::kShuffle, mask, value, segment | (source & (width - 1u)));
}

template <plastikern_emulator::Shuffled T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
    using namespace plastikern_emulator;
    unsigned lane = lane_of_thread(), other = lane ^ static_cast<unsigned>(lane_mask);
    return shuffle(WarpOperation::kShuffleXor, mask, value,
                   other <= (lane | (width - 1u)) ? other : lane);
}

template <plastikern_emulator::Shuffled T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
    using namespace plastikern_emulator;
    unsigned lane = lane_of_thread(), other = lane + delta;
    return shuffle(WarpOperation::kShuffleDown, mask, value,
                   other <= (lane | (width - 1u)) ? other : lane);
}

// Host side: the part of the CUDA runtime that the launches need, with its names, numbers and
// errors.
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101,
    cudaErrorNoKernelImageForDevice = 209,
    cudaErrorLaunchOutOfResources = 701,
    cudaErrorLaunchFailure = 719,
    cudaErrorCooperativeLaunchTooLarge = 720,
};

using cudaStream_t = struct CUstream_st*;

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrWarpSize = 10,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrMaxThreadsPerMultiProcessor = 39,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerMultiprocessor = 81,
    cudaDevAttrMaxRegistersPerMultiprocessor = 82,
    cudaDevAttrCooperativeLaunch = 95,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
    cudaDevAttrMaxBlocksPerMultiprocessor = 106,
    cudaDevAttrReservedSharedMemoryPerBlock = 111,
};

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

struct cudaFuncAttributes {
    size_t sharedSizeBytes, constSizeBytes, localSizeBytes;
    int maxThreadsPerBlock, numRegs, binaryVersion, maxDynamicSharedSizeBytes;
};

enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative = 2 };

union cudaLaunchAttributeValue {
    int cooperative;
};

struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault
};

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
// On the host, of just the size asked for.
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMemsetAsync(void* destination, int value, size_t bytes,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes,
                            cudaMemcpyKind kind, cudaStream_t stream = nullptr);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status);
cudaError_t cudaGetLastError();
cudaError_t cudaPeekAtLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);

namespace plastikern_emulator {

// A device as far as launches depend on it. Sizes in bytes, registers of 32 bits.
struct Device {
    const char* name;
    int major, minor, multiprocessors;
    int shared_per_block, shared_per_multiprocessor, registers_per_multiprocessor;
    int threads_per_multiprocessor, blocks_per_multiprocessor, l2_bytes;
    int threads_per_block = 1024;
    int registers_per_thread = 128;  // of a kernel that describe_registers says nothing about
    // Multiprocessors that launches may use, fewer than the device has in a green context or beside
    // other clients of MPS; 0 for all. No attribute tells.
    int multiprocessors_in_use = 0;
};

// One of those built in: A100, RTX 3090, L4, H100, B200, RTX 5090, or tiny. The current device has
// another number from then on, and nothing is set for kernels on it. False for a name that is none
// of them.
bool use_device(const char* name);
void use_device(const Device& device);

// What is erased of a kernel to launch it: `call(closure)` runs one thread of it.
struct Kernel {
    const void* address;
    void (*call)(void* closure);
    void* closure;
};

cudaError_t launch(const cudaLaunchConfig_t& config, const Kernel& kernel);
void describe_registers(const void* kernel, int registers_per_thread);
cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t occupancy(int* blocks, const void* kernel, int threads, size_t dynamic_shared_bytes);

template <typename... Parameters>
void describe_registers(void (*kernel)(Parameters...), int registers_per_thread) {
    describe_registers(reinterpret_cast<const void*>(kernel), registers_per_thread);
}

}  // namespace plastikern_emulator

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute,
                                 int value) {
    return plastikern_emulator::set_attribute(reinterpret_cast<const void*>(kernel), attribute,
                                              value);
}

template <typename... Parameters>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Parameters...)) {
    return plastikern_emulator::get_attributes(attributes, reinterpret_cast<const void*>(kernel));
}

template <typename... Parameters>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks,
                                                          void (*kernel)(Parameters...),
                                                          int threads,
                                                          size_t dynamic_shared_bytes) {
    return plastikern_emulator::occupancy(blocks, reinterpret_cast<const void*>(kernel), threads,
                                          dynamic_shared_bytes);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... given) {
    return [&](Parameters... arguments) {
        auto thread = [&] { kernel(arguments...); };
        return plastikern_emulator::launch(
            *config,
            {reinterpret_cast<const void*>(kernel),
             [](void* closure) { (*static_cast<decltype(thread)*>(closure))(); }, &thread});
    }(std::forward<Arguments>(given)...);
}

// For ctypes.
extern "C" {

struct EmulatorLaunch {
    unsigned grid[3], block[3];
    uint64_t dynamic_shared_bytes, stream, kernel;
    uint64_t block_barriers;   // __syncthreads that completed, summed over blocks
    uint64_t warp_operations;  // shuffles and __syncwarp that completed, summed over warps
    uint64_t sleeps;           // calls of __nanosleep
    uint64_t closest_atomics;  // bytes from one address of an atomic operation to the next; 0 for
                               // fewer than two
    int cooperative, error;
};

// 0, or cudaErrorInvalidDevice.
int emulator_use_device(const char* name);
// For all kernels that have no number of their own, until the next use of a device.
void emulator_describe_registers(int registers_per_thread);
// How many multiprocessors launches may use, until the next use of a device.
void emulator_limit_multiprocessors(int count);
// Function attributes set since the last reset.
int emulator_attribute_count();
// Launches since the last reset, refused ones among them.
int emulator_launch_count();
// Copies the first `capacity` of them, returns how many.
int emulator_launches(EmulatorLaunch* launches, int capacity);
// Why the last launch that was refused or ended early did so; empty since the last reset if none
// was.
const char* emulator_last_error_text();
// Forgets launches, errors and what was set for kernels: the device has another number from then
// on.
void emulator_reset();
}
