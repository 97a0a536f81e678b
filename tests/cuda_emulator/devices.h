// The devices that can be described, and what they refuse.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>

#include <utility>

#include "cuda_emulator.h"

namespace plastikern_emulator {
namespace {

// Limits of CUDA that all devices share.
constexpr int kReservedShared = 1024, kSharedGranularity = 128, kSharedWithoutOptin = 48 * 1024;
constexpr int kRegisterGranularity = 256, kPartitions = 4, kMostRegisters = 255;

// Compute capabilities: CUDA C++ Programming Guide, "Technical Specifications per Compute
// Capability". Numbers of multiprocessors and sizes of the L2 cache: the whitepapers of the
// architectures.
constexpr int kKiB = 1024, kMiB = 1024 * kKiB;
constexpr Device kDevices[] = {
    // NVIDIA A100 Tensor Core GPU Architecture (SXM4, 40 MB)
    {"A100", 8, 0, 108, 163 * kKiB, 164 * kKiB, 65536, 2048, 32, 40 * kMiB},
    // NVIDIA Ampere GA102 GPU Architecture
    {"RTX 3090", 8, 6, 82, 99 * kKiB, 100 * kKiB, 65536, 1536, 16, 6 * kMiB},
    // NVIDIA L4 datasheet, NVIDIA Ada GPU Architecture (AD104)
    {"L4", 8, 9, 58, 99 * kKiB, 100 * kKiB, 65536, 1536, 24, 48 * kMiB},
    // NVIDIA H100 Tensor Core GPU Architecture (SXM5)
    {"H100", 9, 0, 132, 227 * kKiB, 228 * kKiB, 65536, 2048, 32, 50 * kMiB},
    // NVIDIA H200 Tensor Core GPU datasheet (SXM): the processors of the H100
    {"H200", 9, 0, 132, 227 * kKiB, 228 * kKiB, 65536, 2048, 32, 50 * kMiB},
    // CUDA Blackwell Tuning Guide (L2: 126 MB)
    {"B200", 10, 0, 148, 227 * kKiB, 228 * kKiB, 65536, 2048, 32, 126 * kMiB},
    // NVIDIA RTX Blackwell GPU Architecture (GB202)
    {"RTX 5090", 12, 0, 170, 99 * kKiB, 100 * kKiB, 65536, 1536, 24, 96 * kMiB},
    // None that exists: so small that tests meet its limits soon
    {"tiny", 8, 0, 4, 48 * kKiB, 64 * kKiB, 65536, 1024, 4, 1 * kMiB},
};

// What was set for a kernel.
struct Settings {
    int registers = 0;  // of a thread; 0 for those of the device
    int dynamic_shared_bytes = kSharedWithoutOptin;
};

int registers_of(const Device& device, const Settings& settings) {
    return settings.registers ? settings.registers : device.registers_per_thread;
}

size_t product(const dim3& size) { return size_t{size.x} * size.y * size.z; }

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

// The most warps that registers allow: each takes them in units from one of the partitions of the
// multiprocessor. The rules are those of the occupancy calculator (cuda_occupancy.h of the CUDA
// toolkit).
int warps_by_registers(const Device& device, int registers) {
    int per_warp = round_up(registers * warpSize, kRegisterGranularity);
    int warps = device.registers_per_multiprocessor / kPartitions / per_warp * kPartitions;
    return registers > kMostRegisters ? 0 : warps;
}

// Blocks that a multiprocessor holds at a time.
int resident_blocks(const Device& device, const Settings& settings, int threads,
                    size_t dynamic_shared_bytes) {
    if (threads > device.threads_per_block) return 0;
    if (dynamic_shared_bytes > static_cast<size_t>(settings.dynamic_shared_bytes)) return 0;
    int warps = (threads + warpSize - 1) / warpSize;
    int shared =
        round_up(static_cast<int>(dynamic_shared_bytes) + kReservedShared, kSharedGranularity);
    return std::min({device.blocks_per_multiprocessor,
                     device.threads_per_multiprocessor / warpSize / warps,
                     warps_by_registers(device, registers_of(device, settings)) / warps,
                     device.shared_per_multiprocessor / shared});
}

// Why the device refuses the launch, and with which error; cudaSuccess where it does not.
std::pair<cudaError_t, std::string> refusal(const Device& device, const Settings& settings,
                                            const cudaLaunchConfig_t& config, bool cooperative) {
    const dim3 &grid = config.gridDim, &block = config.blockDim;
    auto number = [](auto value) { return std::to_string(value); };
    auto size = [&](const dim3& of) {
        return number(of.x) + " x " + number(of.y) + " x " + number(of.z);
    };
    size_t threads = product(block);
    if (threads == 0 || threads > static_cast<size_t>(device.threads_per_block) || block.z > 64) {
        return {cudaErrorInvalidConfiguration, "a block of " + size(block) +
                                                   " threads, expected 1 to " +
                                                   number(device.threads_per_block)};
    }
    if (product(grid) == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        return {cudaErrorInvalidConfiguration,
                "a grid of " + size(grid) +
                    " blocks, expected at least 1, at most 2147483647 x 65535 x 65535"};
    }
    if (config.dynamicSmemBytes > static_cast<size_t>(settings.dynamic_shared_bytes)) {
        return {cudaErrorInvalidValue,
                number(config.dynamicSmemBytes) +
                    " bytes of dynamic shared memory, expected at most the " +
                    number(settings.dynamic_shared_bytes) + " that are set for the kernel"};
    }
    int registers = registers_of(device, settings),
        most = warps_by_registers(device, registers) * warpSize;
    if (threads > static_cast<size_t>(most)) {
        return {cudaErrorLaunchOutOfResources,
                "a block of " + number(threads) + " threads of " + number(registers) +
                    " registers, expected at most " + number(most) + " of them"};
    }
    int in_use =
        device.multiprocessors_in_use ? device.multiprocessors_in_use : device.multiprocessors;
    size_t resident =
        static_cast<size_t>(in_use) *
        resident_blocks(device, settings, static_cast<int>(threads), config.dynamicSmemBytes);
    if (cooperative && product(grid) > resident) {
        return {cudaErrorCooperativeLaunchTooLarge,
                "a cooperative grid of " + number(product(grid)) +
                    " blocks, expected at most the " + number(resident) +
                    " that the device holds at a time"};
    }
    return {cudaSuccess, ""};
}

struct AttributeValue {
    cudaDeviceAttr attribute;
    int value;
};

auto attributes_of(const Device& device) {
    return std::to_array<AttributeValue>({
        {cudaDevAttrMaxThreadsPerBlock, device.threads_per_block},
        {cudaDevAttrMaxSharedMemoryPerBlock, kSharedWithoutOptin},
        {cudaDevAttrWarpSize, warpSize},
        {cudaDevAttrMultiProcessorCount, device.multiprocessors},
        {cudaDevAttrL2CacheSize, device.l2_bytes},
        {cudaDevAttrMaxThreadsPerMultiProcessor, device.threads_per_multiprocessor},
        {cudaDevAttrComputeCapabilityMajor, device.major},
        {cudaDevAttrComputeCapabilityMinor, device.minor},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, device.shared_per_multiprocessor},
        {cudaDevAttrMaxRegistersPerMultiprocessor, device.registers_per_multiprocessor},
        {cudaDevAttrCooperativeLaunch, 1},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, device.shared_per_block},
        {cudaDevAttrMaxBlocksPerMultiprocessor, device.blocks_per_multiprocessor},
        {cudaDevAttrReservedSharedMemoryPerBlock, kReservedShared},
    });
}

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};

constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge",
     "too many blocks in cooperative launch"},
};

const ErrorText& described(cudaError_t error) {
    for (const ErrorText& known : kErrors) {
        if (known.error == error) return known;
    }
    static constexpr ErrorText kUnknown{cudaErrorInvalidValue, "unrecognized error code",
                                        "unrecognized error code"};
    return kUnknown;
}

}  // namespace
}  // namespace plastikern_emulator
