// libcudart.so.13: the functions of the CUDA runtime that torch and a test build of plastikern
// call. See stand_in.h.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "stand_in.h"

using namespace stand_in;

namespace {

// Of one library's device code, as nvcc's start-up code registers it.
struct Module {
    std::vector<Code> codes;
};
struct Kernel {
    Module* module;
    std::string name;
    std::map<int, int> allowed_shared;  // by device
};
struct Graph {
    uint64_t nodes;
};
struct Event {
    int device;
};

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

std::map<const void*, Kernel>& kernels() {
    static auto* const all =
        new std::map<const void*, Kernel>;  // registered before this file's own objects exist
    return *all;
}

thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

cudaError_t answer(int error) {
    if (error != cudaSuccess) last_error = static_cast<cudaError_t>(error);
    return static_cast<cudaError_t>(error);
}

// The error that was ordered for a call; while a stream is captured, what may not be called then
// ends the capture.
cudaError_t begin(const char* call, bool allowed_while_captured = true) {
    if (const int error = ordered(call); error != 0) return answer(error);
    if (!allowed_while_captured && any_captured() && capture_mode != cudaStreamCaptureModeRelaxed) {
        note(member("call", call) + ", " + member("refused", "captured"));
        return answer(cudaErrorStreamCaptureUnsupported);
    }
    return cudaSuccess;
}

bool is_captured(cudaStream_t stream) {
    const Stream* of = stream_of(stream);
    return of != nullptr && of->captured;
}

// Registers of a thread by kernel, of the table that STAND_IN_REGISTERS names (a line "name
// number"); 32 of others.
int registers_of(const std::string& kernel) {
    static const auto* const table = [] {
        auto* read = new std::map<std::string, int>;
        const char* path = std::getenv("STAND_IN_REGISTERS");
        std::ifstream file(path == nullptr ? "" : path);
        std::string name;
        for (int count = 0; file >> name >> count;) (*read)[name] = count;
        return read;
    }();
    const auto found = table->find(kernel);
    return found == table->end() ? 32 : found->second;
}

Kernel* kernel_of(const void* function) {
    const Lock lock(mutex);
    const auto found = kernels().find(function);
    return found == kernels().end() ? nullptr : &found->second;
}

Code code_of(const Kernel& kernel) {
    const std::vector<Code>& codes = kernel.module->codes;
    return choose_code(codes.data(), codes.data() + codes.size(), current_device);
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   bool cooperative) {
    const Lock lock(mutex);
    Kernel* kernel = kernel_of(function);
    if (kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
    const auto allowed = kernel->allowed_shared.find(current_device);
    return answer(
        check_and_note({kernel->name.c_str(),
                        code_of(*kernel),
                        {grid.x, grid.y, grid.z},
                        {block.x, block.y, block.z},
                        shared,
                        allowed == kernel->allowed_shared.end() ? 48 * 1024 : allowed->second,
                        registers_of(kernel->name),
                        cooperative,
                        stream}));
}

bool locked(const void* address) {
    const Allocation* found = find(address);
    return found != nullptr && found->device < 0;
}
bool on_device(const void* address) {
    const Allocation* found = find(address);
    return found != nullptr && found->device >= 0;
}

// A copy between pageable memory of the host and a device waits for the device, as far as anybody
// may rely on.
cudaError_t copy(const char* call, void* to, const void* from, size_t bytes, cudaStream_t stream,
                 bool waits) {
    const bool of_host = !on_device(to) || !on_device(from);
    const bool pageable = of_host && !locked(on_device(to) ? from : to);
    waits = waits || pageable;
    if (const cudaError_t error = begin(call, !waits || !is_captured(stream)); error != cudaSuccess)
        return error;
    note(member("call", call) + ", " + member("bytes", static_cast<int64_t>(bytes)) + ", " +
         member("stream", reinterpret_cast<int64_t>(stream)) + ", " + member("of_host", of_host) +
         ", " + member("waits", waits) + ", " + member("captured", is_captured(stream)));
    std::memmove(to, from, bytes);
    return cudaSuccess;
}

cudaError_t fill(const char* call, void* to, int value, size_t bytes, cudaStream_t stream) {
    if (const cudaError_t error = begin(call); error != cudaSuccess) return error;
    note(member("call", call) + ", " + member("bytes", static_cast<int64_t>(bytes)) + ", " +
         member("stream", reinterpret_cast<int64_t>(stream)) + ", " +
         member("captured", is_captured(stream)));
    if (!on_device(to)) return answer(cudaErrorInvalidValue);
    std::memset(to, value, bytes);
    return cudaSuccess;
}

cudaError_t wait(const char* call) {
    if (const cudaError_t error = begin(call, false); error != cudaSuccess) return error;
    note(member("call", call) + ", " + member("waits", 1));
    return cudaSuccess;
}

cudaError_t take_memory(const char* call, void** start, size_t bytes, int device) {
    if (const cudaError_t error = begin(call, false); error != cudaSuccess) return error;
    note(member("call", call) + ", " + member("bytes", static_cast<int64_t>(bytes)));
    *start = allocate(bytes, device);
    return answer(*start == nullptr ? cudaErrorMemoryAllocation : cudaSuccess);
}

}  // namespace

extern "C" {

// Device code. The layout of a fat binary: a header with its own size and that of what follows;
// entries of a header with the kind (1: PTX, 2: machine code), its own size, that of the code, and
// the architecture.
void** __cudaRegisterFatBinary(void* wrapper) {
    struct Wrapper {
        int magic, version;
        const unsigned char* data;
    };
    auto* module = new Module;
    const unsigned char* data = static_cast<const Wrapper*>(wrapper)->data;
    const auto read = [](const unsigned char* at, auto value) {
        return std::memcpy(&value, at, sizeof value), value;
    };
    const unsigned char* entry = data + read(data + 6, uint16_t{});
    const unsigned char* end = entry + read(data + 8, uint64_t{});
    while (entry < end) {
        const bool ptx = read(entry, uint16_t{}) == 1;
        module->codes.push_back({static_cast<int>(read(entry + 28, uint32_t{})), ptx});
        entry += read(entry + 4, uint32_t{}) + read(entry + 8, uint64_t{});
    }
    return reinterpret_cast<void**>(module);
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void** handle, const char* function, char*, const char* name, int,
                            uint3*, uint3*, dim3*, dim3*, int*) {
    const Lock lock(mutex);
    kernels()[function] = {reinterpret_cast<Module*>(handle), name, {}};
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

struct Configuration {
    dim3 grid, block;
    size_t shared;
    cudaStream_t stream;
};
static thread_local std::vector<Configuration> configurations;
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared,
                                     struct CUstream_st* stream) {
    configurations.push_back({grid, block, shared, stream});
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    const Configuration last = configurations.back();
    configurations.pop_back();
    *grid = last.grid, *block = last.block, *shared = last.shared;
    *static_cast<cudaStream_t*>(stream) = last.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared,
                               cudaStream_t stream) {
    return launch(kernel, grid, block, shared, stream, false);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void**, size_t shared,
                             cudaStream_t stream) {
    return launch(function, grid, block, shared, stream, false);
}
cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3 grid, dim3 block, void**,
                                        size_t shared, cudaStream_t stream) {
    return launch(function, grid, block, shared, stream, true);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* function, void**) {
    bool cooperative = false;
    for (unsigned i = 0; i < c->numAttrs; ++i) {
        cooperative |=
            c->attrs[i].id == cudaLaunchAttributeCooperative && c->attrs[i].val.cooperative != 0;
    }
    return launch(function, c->gridDim, c->blockDim, c->dynamicSmemBytes, c->stream, cooperative);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
    const Kernel* kernel = kernel_of(function);
    if (kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
    if (code_of(*kernel).architecture == 0) return answer(cudaErrorNoKernelImageForDevice);
    *attributes = {};
    attributes->numRegs = registers_of(kernel->name);
    attributes->maxThreadsPerBlock = std::min(1024, 65536 / attributes->numRegs / 32 * 32);
    attributes->binaryVersion = attributes->ptxVersion = code_of(*kernel).architecture;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
    if (const cudaError_t error = begin("cudaFuncSetAttribute"); error != cudaSuccess) return error;
    const Lock lock(mutex);
    Kernel* kernel = kernel_of(function);
    if (kernel == nullptr) return answer(cudaErrorInvalidDeviceFunction);
    note(member("call", "cudaFuncSetAttribute") + ", " + member("kernel", kernel->name) + ", " +
         member("value", value));
    if (code_of(*kernel).architecture == 0) return answer(cudaErrorNoKernelImageForDevice);
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value < 0 || value > card(current_device).shared_per_block)
        return answer(cudaErrorInvalidValue);
    kernel->allowed_shared[current_device] = value;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*,
                                                                   int threads, size_t, unsigned) {
    return *blocks = card(current_device).threads_per_processor / threads, cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* function,
                                                          int threads, size_t shared) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, threads, shared,
                                                                  0);
}

// Devices.
cudaError_t cudaGetDeviceCount(int* count) { return *count = count_of_cards(), cudaSuccess; }
cudaError_t cudaGetDevice(int* device) {
    if (const cudaError_t error = begin("cudaGetDevice"); error != cudaSuccess) return error;
    return *device = current_device, cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= count_of_cards()) return answer(cudaErrorInvalidDevice);
    return current_device = device, cudaSuccess;
}
// The driver's numbers of attributes are the runtime's.
int cuDeviceGetAttribute(int* value, int attribute, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    return answer(cuDeviceGetAttribute(value, attribute, device));
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (device < 0 || device >= count_of_cards()) return answer(cudaErrorInvalidDevice);
    const Card& on = card(device);
    *properties = {};
    std::strncpy(properties->name, on.name, sizeof properties->name - 1);
    properties->totalGlobalMem = size_t{80} << 30;
    properties->sharedMemPerBlock = 48 * 1024;
    properties->sharedMemPerBlockOptin = static_cast<size_t>(on.shared_per_block);
    properties->sharedMemPerMultiprocessor = static_cast<size_t>(on.shared_per_processor);
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = on.threads_per_processor;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->multiProcessorCount = on.processors;
    properties->l2CacheSize = on.level_two;
    properties->major = on.major;
    properties->minor = on.minor;
    properties->cooperativeLaunch = properties->unifiedAddressing = properties->concurrentKernels =
        1;
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
    return std::snprintf(id, static_cast<size_t>(length), "0000:%02x:00.0", device), cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return wait("cudaDeviceSynchronize"); }
cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
    *function = dlsym(RTLD_DEFAULT, symbol);
    if (result != nullptr)
        *result =
            *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

// Memory.
cudaError_t cudaMalloc(void** start, size_t bytes) {
    return take_memory("cudaMalloc", start, bytes, current_device);
}
cudaError_t cudaHostAlloc(void** start, size_t bytes, unsigned) {
    return take_memory("cudaHostAlloc", start, bytes, -1);
}
cudaError_t cudaFree(void* start) {
    if (start == nullptr) return cudaSuccess;  // torch calls it so to begin
    if (const cudaError_t error = begin("cudaFree", false); error != cudaSuccess) return error;
    return answer(release(start) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaFreeHost(void* start) {
    return answer(release(start) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    return *free = size_t{79} << 30, *total = size_t{80} << 30, cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
    const Allocation* found = find(address);
    *attributes = {};
    attributes->type = found == nullptr    ? cudaMemoryTypeUnregistered
                       : found->device < 0 ? cudaMemoryTypeHost
                                           : cudaMemoryTypeDevice;
    attributes->device = found == nullptr ? 0 : std::max(found->device, 0);
    attributes->hostPointer = attributes->devicePointer = const_cast<void*>(address);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
    return copy("cudaMemcpy", to, from, bytes, nullptr, true);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
    return copy("cudaMemcpyAsync", to, from, bytes, stream, false);
}
cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                cudaStream_t stream) {
    return copy("cudaMemcpyPeerAsync", to, from, bytes, stream, false);
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
    return fill("cudaMemset", to, value, bytes, nullptr);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    return fill("cudaMemsetAsync", to, value, bytes, stream);
}
cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) {
    return cudaSuccess;
}

// Streams, which are numbered by their device; events, which are always over.
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
    return *stream = static_cast<cudaStream_t>(new_stream(current_device)), cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithPriority(stream, 0, 0);
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamQuery(cudaStream_t) { return begin("cudaStreamQuery", false); }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return wait("cudaStreamSynchronize"); }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return begin("cudaStreamWaitEvent");
}
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
    return *priority = 0, cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
    return function(data), cudaSuccess;
}
cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t function, void* data,
                                  unsigned) {
    return function(stream, cudaSuccess, data), cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return *event = reinterpret_cast<cudaEvent_t>(new Event{current_device}), cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    return delete reinterpret_cast<Event*>(event), cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) {
    return begin("cudaEventRecord");
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, 0);
}
cudaError_t cudaEventQuery(cudaEvent_t) { return begin("cudaEventQuery", false); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return wait("cudaEventSynchronize"); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
    return *milliseconds = 1, cudaSuccess;
}

// Graphs: how many launches they hold.
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    return std::swap(*mode, capture_mode), cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = is_captured(stream) ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** nodes, const cudaGraphEdgeData** edges,
                                     size_t* count) {
    cudaStreamIsCapturing(stream, status);
    if (id != nullptr) *id = reinterpret_cast<uintptr_t>(stream);
    if (graph != nullptr) *graph = nullptr;
    if (nodes != nullptr) *nodes = nullptr;
    if (edges != nullptr) *edges = nullptr;
    if (count != nullptr) *count = 0;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    Stream* of = stream_of(stream);
    if (of == nullptr)
        return answer(cudaErrorStreamCaptureUnsupported);  // the null stream cannot be captured
    of->captured = true;
    of->nodes = 0;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    Stream* of = stream_of(stream);
    of->captured = false;
    *graph = reinterpret_cast<cudaGraph_t>(new Graph{of->nodes});
    note(member("call", "graph") + ", " + member("nodes", static_cast<int64_t>(of->nodes)));
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long) {
    *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    if (const cudaError_t error = begin("cudaGraphLaunch"); error != cudaSuccess) return error;
    note(member("call", "cudaGraphLaunch") + ", " +
         member("stream", reinterpret_cast<int64_t>(stream)) + ", " +
         member("nodes", static_cast<int64_t>(reinterpret_cast<Graph*>(executable)->nodes)));
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
    return *count = reinterpret_cast<Graph*>(graph)->nodes, cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return delete reinterpret_cast<Graph*>(graph), cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    return delete reinterpret_cast<Graph*>(graph), cudaSuccess;
}

// Errors.
cudaError_t cudaGetLastError() {
    if (const int error = ordered(""); error != 0) return static_cast<cudaError_t>(error);
    return std::exchange(last_error, cudaSuccess);
}
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }
const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorNoKernelImageForDevice:
            return "no kernel image is available for execution on the device";
        case cudaErrorIllegalAddress:
            return "an illegal memory access was encountered";
        case cudaErrorLaunchOutOfResources:
            return "too many resources requested for launch";
        case cudaErrorCooperativeLaunchTooLarge:
            return "too many blocks in cooperative launch";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        default:
            break;
    }
    static thread_local std::string said;
    said = "error " + std::to_string(error) + " of the stand-in";
    return said.c_str();
}
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

}  // extern "C"
