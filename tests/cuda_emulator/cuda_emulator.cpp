// What kernels and hosts call. See cuda_emulator.h.
#include "cuda_emulator.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "blocks.h"
#include "devices.h"
#include "fibers.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace plastikern_emulator {
namespace {

// Of what cudaMalloc gives, less than CUDA's.
constexpr std::align_val_t kAlignment{64};

struct Runtime {
    std::mutex mutex;
    Device device = kDevices[0];
    int number = 0;                            // of the device
    std::map<const void*, Settings> settings;  // by kernel
    int attributes = 0;                        // that were set
    std::vector<EmulatorLaunch> launches;
    cudaError_t last_error = cudaSuccess;
    std::string text;

    void forget_settings() {
        settings.clear();
        attributes = 0;
        ++number;
    }
    cudaError_t note(cudaError_t error) {
        if (error != cudaSuccess) last_error = error;
        return error;
    }
};

Runtime runtime;

UNSEEN void note_atomic(uintptr_t address) {
    for (int i = 0; i < running.atomic_count; ++i) {
        if (running.atomics[i] == address) return;
    }
    if (running.atomic_count < 64) running.atomics[running.atomic_count++] = address;
}

uint64_t closest_atomics() {
    uint64_t closest = 0;
    std::sort(running.atomics, running.atomics + running.atomic_count);
    for (int i = 1; i < running.atomic_count; ++i) {
        const uint64_t distance = running.atomics[i] - running.atomics[i - 1];
        if (closest == 0 || distance < closest) closest = distance;
    }
    return closest;
}

}  // namespace

UNSEEN unsigned lane_of_thread() { return current->lane; }

UNSEEN uint64_t exchange(WarpOperation operation, unsigned mask, uint64_t bits, unsigned source) {
    meet(operation, mask, bits, source);
    return current->warp->received[current->lane];
}

UNSEEN unsigned char* dynamic_shared_memory() { return current->block->shared; }

unsigned load_acquire(const unsigned* address) {
    return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}

void use_device(const Device& device) {
    std::lock_guard lock(runtime.mutex);
    runtime.device = device;
    runtime.forget_settings();
}

bool use_device(const char* name) {
    for (const Device& device : kDevices) {
        if (std::strcmp(device.name, name)) continue;
        use_device(device);
        return true;
    }
    return false;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const Kernel& kernel) {
    std::lock_guard lock(runtime.mutex);
    bool cooperative = false;
    for (unsigned i = 0; i < config.numAttrs; ++i)
        cooperative |= config.attrs[i].val.cooperative != 0;
    running = {};
    auto [error, why] =
        refusal(runtime.device, runtime.settings[kernel.address], config, cooperative);
    if (error == cudaSuccess) {
        why = run(config, kernel, cooperative);
        if (!why.empty()) error = cudaErrorLaunchFailure;
    }
    if (error != cudaSuccess) runtime.text = why;
    runtime.launches.push_back({{config.gridDim.x, config.gridDim.y, config.gridDim.z},
                                {config.blockDim.x, config.blockDim.y, config.blockDim.z},
                                config.dynamicSmemBytes,
                                reinterpret_cast<uint64_t>(config.stream),
                                reinterpret_cast<uint64_t>(kernel.address),
                                running.block_barriers,
                                running.warp_operations,
                                running.sleeps,
                                closest_atomics(),
                                cooperative,
                                error});
    return runtime.note(error);
}

void describe_registers(const void* kernel, int registers_per_thread) {
    std::lock_guard lock(runtime.mutex);
    runtime.settings[kernel].registers = registers_per_thread;
}

cudaError_t set_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    std::lock_guard lock(runtime.mutex);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        value > runtime.device.shared_per_block) {
        return runtime.note(cudaErrorInvalidValue);
    }
    runtime.settings[kernel].dynamic_shared_bytes = value;
    ++runtime.attributes;
    return cudaSuccess;
}

cudaError_t get_attributes(cudaFuncAttributes* attributes, const void* kernel) {
    std::lock_guard lock(runtime.mutex);
    const Device& device = runtime.device;
    const Settings& settings = runtime.settings[kernel];
    *attributes = {};
    attributes->numRegs = registers_of(device, settings);
    attributes->maxThreadsPerBlock = std::min(
        warps_by_registers(device, attributes->numRegs) * warpSize, device.threads_per_block);
    attributes->binaryVersion = device.major * 10 + device.minor;
    attributes->maxDynamicSharedSizeBytes = settings.dynamic_shared_bytes;
    return cudaSuccess;
}

cudaError_t occupancy(int* blocks, const void* kernel, int threads, size_t dynamic_shared_bytes) {
    std::lock_guard lock(runtime.mutex);
    if (threads <= 0) return runtime.note(cudaErrorInvalidValue);
    *blocks =
        resident_blocks(runtime.device, runtime.settings[kernel], threads, dynamic_shared_bytes);
    return cudaSuccess;
}

}  // namespace plastikern_emulator

using namespace plastikern_emulator;

// What all threads did before a barrier comes by its first tag to the one that arrives last, and
// from that by its second tag to the others. No thread can arrive at the next barrier, and write
// the second tag, before all have read it.
UNSEEN void __syncthreads() {
    Block* block = current->block;
    release(&block->arrival);
    if (meet(block)) {
        acquire(&block->arrival);
        release(&block->completion);
    }
    acquire(&block->completion);
    current->fenced = false;
}

// Groups of lanes have the tags of their lowest lane. Masks that share it can hide a race between
// their lanes that way, but cannot make up one.
UNSEEN void __syncwarp(unsigned mask) {
    Warp* warp = current->warp;
    int group = mask ? __builtin_ctz(mask) : 0;
    release(&warp->arrival[group]);
    if (meet(WarpOperation::kSync, mask, 0, 0)) {
        acquire(&warp->arrival[group]);
        release(&warp->completion[group]);
    }
    acquire(&warp->completion[group]);
    current->fenced = false;
}

UNSEEN void __nanosleep(unsigned) {
    ++running.sleeps;
    if (++running.idle_sleeps > kIdleRounds * running.live || ++current->sleeps > kMostSleeps) {
        fail(State::kAsleep, "threads poll by __nanosleep for what does not come");
    }
    append_ready(current);
    suspend(State::kAsleep);
}

// CUDA's atomics are relaxed, and a fence makes those after it release what was written before it,
// and acquires what those before it have seen.
UNSEEN void __threadfence() {
    if (current->last_atomic) acquire(current->last_atomic);
    current->fenced = true;
}

namespace {

// By themselves, as the race detector has to see them.
__attribute__((noinline)) unsigned add(unsigned* address, unsigned value, bool releasing) {
    return releasing ? __atomic_fetch_add(address, value, __ATOMIC_RELEASE)
                     : __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

}  // namespace

UNSEEN unsigned atomicAdd(unsigned* address, unsigned value) {
    if (value) running.idle_sleeps = 0;
    note_atomic(reinterpret_cast<uintptr_t>(address));
    current->last_atomic = address;
    return add(address, value, current->fenced);
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    std::lock_guard lock(runtime.mutex);
    *device = runtime.number;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    std::lock_guard lock(runtime.mutex);
    return runtime.note(device == runtime.number ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    std::lock_guard lock(runtime.mutex);
    if (device != runtime.number) return runtime.note(cudaErrorInvalidDevice);
    for (const AttributeValue& known : attributes_of(runtime.device)) {
        if (known.attribute != attribute) continue;
        *value = known.value;
        return cudaSuccess;
    }
    return runtime.note(cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
    *memory = operator new(bytes, kAlignment, std::nothrow);
    return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
    operator delete(memory, kAlignment);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* destination, int value, size_t bytes, cudaStream_t) {
    std::memset(destination, value, bytes);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
    std::memcpy(destination, source, bytes);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaPeekAtLastError() {
    std::lock_guard lock(runtime.mutex);
    return runtime.last_error;
}

cudaError_t cudaGetLastError() {
    std::lock_guard lock(runtime.mutex);
    return std::exchange(runtime.last_error, cudaSuccess);
}

const char* cudaGetErrorName(cudaError_t error) { return described(error).name; }

const char* cudaGetErrorString(cudaError_t error) { return described(error).text; }

int emulator_use_device(const char* name) {
    return use_device(name) ? cudaSuccess : cudaErrorInvalidDevice;
}

void emulator_describe_registers(int registers_per_thread) {
    std::lock_guard lock(runtime.mutex);
    runtime.device.registers_per_thread = registers_per_thread;
}

void emulator_limit_multiprocessors(int count) {
    std::lock_guard lock(runtime.mutex);
    runtime.device.multiprocessors_in_use = count;
}

int emulator_attribute_count() {
    std::lock_guard lock(runtime.mutex);
    return runtime.attributes;
}

int emulator_launch_count() {
    std::lock_guard lock(runtime.mutex);
    return static_cast<int>(runtime.launches.size());
}

int emulator_launches(EmulatorLaunch* launches, int capacity) {
    std::lock_guard lock(runtime.mutex);
    int count = std::min(capacity, static_cast<int>(runtime.launches.size()));
    std::copy_n(runtime.launches.begin(), count, launches);
    return count;
}

const char* emulator_last_error_text() { return runtime.text.c_str(); }

void emulator_reset() {
    std::lock_guard lock(runtime.mutex);
    runtime.forget_settings();
    runtime.launches.clear();
    runtime.last_error = cudaSuccess;
    runtime.text.clear();
}
