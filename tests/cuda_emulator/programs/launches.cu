// A kernel that counts its threads, and the runtime calls that tests make about it, for ctypes.
#include "cuda_emulator.h"

__global__ void count_threads(unsigned* count) {
    atomicAdd(count, 1);
    __syncthreads();
    __syncwarp();
}

// What a thread may see that reads what nobody wrote: the first number of shared memory, and a lane
// outside the mask.
__global__ void read_unwritten(float* values) {
    values[0] = *reinterpret_cast<float*>(plastikern_emulator::dynamic_shared_memory());
    values[1] = __shfl_sync(0x00000001u, 1.0f, 5);
}

extern "C" {

int launch(const unsigned* grid, const unsigned* block, size_t shared_bytes, int cooperative,
           void* stream, unsigned* count) {
    cudaLaunchAttribute attribute{cudaLaunchAttributeCooperative, {cooperative}};
    cudaLaunchConfig_t config{dim3(grid[0], grid[1], grid[2]),
                              dim3(block[0], block[1], block[2]),
                              shared_bytes,
                              static_cast<cudaStream_t>(stream),
                              &attribute,
                              1};
    return cudaLaunchKernelEx(&config, count_threads, count);
}

int launch_unwritten(float* values) {
    cudaLaunchConfig_t config{dim3(1), dim3(1), sizeof(float), nullptr, nullptr, 0};
    return cudaLaunchKernelEx(&config, read_unwritten, values);
}

int allow_shared(int bytes) {
    return cudaFuncSetAttribute(count_threads, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

void set_registers(int registers) {
    plastikern_emulator::describe_registers(count_threads, registers);
}

int resident_blocks(int threads, size_t shared_bytes) {
    int blocks = -1;
    cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, count_threads,
                                                                      threads, shared_bytes);
    return error == cudaSuccess ? blocks : -static_cast<int>(error);
}

int most_threads() {
    cudaFuncAttributes attributes;
    cudaFuncGetAttributes(&attributes, count_threads);
    return attributes.maxThreadsPerBlock;
}

int device_attribute(int attribute) {
    int value = -1, device = -1;
    cudaGetDevice(&device);
    cudaError_t error =
        cudaDeviceGetAttribute(&value, static_cast<cudaDeviceAttr>(attribute), device);
    return error == cudaSuccess ? value : -static_cast<int>(error);
}

int take_last_error() { return cudaGetLastError(); }
const char* error_name(int error) { return cudaGetErrorName(static_cast<cudaError_t>(error)); }
}
