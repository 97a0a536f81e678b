// libcuda.so.1: what the stand-in remembers, and the functions of the driver that Triton's launcher
// and torch ask for.
#include "stand_in.h"

#include <cuda.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <vector>

#include "cubin.h"

namespace stand_in {
namespace {

constexpr int kKiB = 1024, kMiB = 1024 * kKiB;
constexpr Card kCards[] = {
    {"T4", 7, 5, 40, 64 * kKiB, 64 * kKiB, 1024, 4 * kMiB},
    {"A100", 8, 0, 108, 163 * kKiB, 164 * kKiB, 2048, 40 * kMiB},
    {"H100", 9, 0, 132, 227 * kKiB, 228 * kKiB, 2048, 50 * kMiB},
    {"B200", 10, 0, 148, 227 * kKiB, 228 * kKiB, 2048, 126 * kMiB},
};
constexpr int kRegisters = 65536, kReservedShared = 1024;

struct Fault {
    int error, times;
    bool sticky;
};

struct State {
    std::recursive_mutex mutex;
    std::vector<Card> cards;
    std::string record, taken;
    std::map<std::string, Fault> faults;
    int failed = 0;  // the error that ended the context
    int processors_in_use = 0;
    std::map<const void*, Allocation> memory;
    std::map<void*, Stream> streams;

    State() {
        const char* named = std::getenv("STAND_IN_CARDS");
        std::stringstream names(named == nullptr ? "H100" : named);
        for (std::string name; std::getline(names, name, ',');) {
            for (const Card& known : kCards) {
                if (name == known.name) cards.push_back(known);
            }
        }
    }
};

State& state() {
    static State* const all = new State;  // outlives what destructors of other libraries do
    return *all;
}

using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

thread_local int current_device = 0;

int count_of_cards() { return static_cast<int>(state().cards.size()); }
const Card& card(int device) { return state().cards.at(static_cast<size_t>(device)); }

int ordered(const char* call) {
    const Lock lock(state().mutex);
    if (state().failed != 0) return state().failed;
    const auto found = state().faults.find(call);
    if (found == state().faults.end() || found->second.times == 0) return 0;
    --found->second.times;
    if (found->second.sticky) state().failed = found->second.error;
    return found->second.error;
}

std::string member(const char* name, const std::string& value) {
    return std::string("\"") + name + "\": \"" + value + "\"";
}
std::string member(const char* name, int64_t value) {
    return std::string("\"") + name + "\": " + std::to_string(value);
}

void note(const std::string& members) {
    const Lock lock(state().mutex);
    state().record += "{" + members + ", " + member("device", current_device) + "}\n";
}

void* allocate(size_t bytes, int device) {
    const Lock lock(state().mutex);
    void* start = std::aligned_alloc(512, (bytes + 511) / 512 * 512 + 512);
    if (start != nullptr) state().memory[start] = {bytes, device, start};
    return start;
}

bool release(void* start) {
    const Lock lock(state().mutex);
    if (state().memory.erase(start) == 0) return false;
    std::free(start);
    return true;
}

const Allocation* find(const void* address) {
    const Lock lock(state().mutex);
    auto found = state().memory.upper_bound(address);
    if (found == state().memory.begin()) return nullptr;
    --found;
    const char* start = static_cast<const char*>(found->first);
    return static_cast<const char*>(address) < start + std::max<size_t>(found->second.bytes, 1)
               ? &found->second
               : nullptr;
}

Code choose_code(const Code* first, const Code* last, int device) {
    const int wanted = card(device).major * 10 + card(device).minor;
    Code best{0, false};
    for (const Code* code = first; code != last; ++code) {
        const bool runs =
            code->ptx ? code->architecture <= wanted
                      : code->architecture / 10 == wanted / 10 && code->architecture <= wanted;
        const bool better = best.architecture == 0 || (best.ptx && !code->ptx) ||
                            (best.ptx == code->ptx && code->architecture > best.architecture);
        if (runs && better) best = *code;
    }
    return best;
}

Stream* stream_of(void* stream) {
    const Lock lock(state().mutex);
    const auto found = state().streams.find(stream);
    return found == state().streams.end() ? nullptr : &found->second;
}

void* new_stream(int device) {
    const Lock lock(state().mutex);
    void* stream = std::malloc(16);
    state().streams[stream] = {device, false, 0};
    return stream;
}

bool any_captured() {
    const Lock lock(state().mutex);
    for (const auto& [handle, stream] : state().streams) {
        if (stream.captured) return true;
    }
    return false;
}

namespace {

int refusal(const Launch& l) {
    const Card& on = card(current_device);
    if (l.code.architecture == 0) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    const uint64_t threads = uint64_t{l.block[0]} * l.block[1] * l.block[2];
    const uint64_t blocks = uint64_t{l.grid[0]} * l.grid[1] * l.grid[2];
    if (threads == 0 || threads > 1024 || l.block[2] > 64) return CUDA_ERROR_INVALID_VALUE;
    if (blocks == 0 || l.grid[0] > 0x7fffffffu || l.grid[1] > 65535 || l.grid[2] > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    if (l.shared > static_cast<size_t>(l.allowed_shared)) return CUDA_ERROR_INVALID_VALUE;
    const uint64_t registers = (threads + 31) / 32 * 32 * static_cast<uint64_t>(l.registers);
    if (registers > kRegisters) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    const Stream* stream = stream_of(l.stream);
    if (stream != nullptr && stream->device != current_device) return CUDA_ERROR_INVALID_HANDLE;
    const int in_use = state().processors_in_use != 0 ? state().processors_in_use : on.processors;
    const uint64_t a_processor = std::min<uint64_t>(
        {static_cast<uint64_t>(on.threads_per_processor) / threads,
         static_cast<uint64_t>(on.shared_per_processor) / (l.shared + kReservedShared),
         kRegisters / std::max<uint64_t>(registers, 1)});
    if (l.cooperative && blocks > a_processor * static_cast<uint64_t>(in_use))
        return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    return 0;
}

std::string list(const unsigned* values) {
    return "[" + std::to_string(values[0]) + ", " + std::to_string(values[1]) + ", " +
           std::to_string(values[2]) + "]";
}

}  // namespace

int check_and_note(const Launch& l) {
    const Lock lock(state().mutex);
    const int order =
        ordered(std::strstr(l.kernel, "plastikern") != nullptr ? "launch of plastikern" : "launch");
    const int error = order != 0 ? order : refusal(l);
    Stream* stream = stream_of(l.stream);
    const bool captured = stream != nullptr && stream->captured;
    if (captured && error == 0) ++stream->nodes;
    note(member("call", "launch") + ", " + member("kernel", l.kernel) +
         ", \"grid\": " + list(l.grid) + ", \"block\": " + list(l.block) + ", " +
         member("shared", static_cast<int64_t>(l.shared)) + ", " +
         member("allowed_shared", l.allowed_shared) + ", " + member("cooperative", l.cooperative) +
         ", " + member("stream", reinterpret_cast<int64_t>(l.stream)) + ", " +
         member("architecture", l.code.architecture) + ", " + member("ptx", l.code.ptx) + ", " +
         member("captured", captured) + ", " + member("error", error) +
         (l.argument.empty() ? "" : ", " + member("argument", l.argument)));
    return error;
}

}  // namespace stand_in

using namespace stand_in;

extern "C" {

const char* stand_in_take() {
    const Lock lock(state().mutex);
    state().taken.swap(state().record);
    state().record.clear();
    return state().taken.c_str();
}

void stand_in_fault(const char* call, int error, int times, int sticky) {
    const Lock lock(state().mutex);
    state().faults[call] = {error, times, sticky != 0};
}

int64_t stand_in_bytes_behind(int64_t address) {
    const auto* at = reinterpret_cast<const char*>(address);
    const Allocation* found = find(at);
    if (found == nullptr || found->device < 0) return 0;
    return static_cast<int64_t>(found->bytes) - (at - static_cast<const char*>(found->start));
}

void stand_in_call(const char* name) { note(member("call", name)); }

void stand_in_limit_processors(int count) { state().processors_in_use = count; }

void stand_in_reset() {
    const Lock lock(state().mutex);
    state().faults.clear();
    state().record.clear();
    state().failed = state().processors_in_use = 0;
}

// What Triton's launcher, and torch, ask the driver itself for. A context is the number of its
// device, from 1 on.
CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = count_of_cards(), CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
    return std::strncpy(name, card(device).name, static_cast<size_t>(length)), CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
    const Card& on = card(device);
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            *value = 1024;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK:
            *value = 48 * kKiB;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            *value = on.shared_per_block;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR:
            *value = on.shared_per_processor;
            break;
        case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK:
            *value = kReservedShared;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
        case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR:
            *value = kRegisters;
            break;
        case CU_DEVICE_ATTRIBUTE_WARP_SIZE:
            *value = 32;
            break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            *value = on.processors;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR:
            *value = on.threads_per_processor;
            break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
            *value = on.level_two;
            break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
            *value = on.major;
            break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
            *value = on.minor;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X:
            *value = 0x7fffffff;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
        case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z:
            *value = 65535;
            break;
        case CU_DEVICE_ATTRIBUTE_CLOCK_RATE:
            *value = 1980000;
            break;
        case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE:
            *value = 2619000;
            break;
        case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH:
            *value = 5120;
            break;
        case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH:
        case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
            *value = 1;
            break;
        default:
            *value = 0;
    }
    return CUDA_SUCCESS;
}

// NVRTC asks for private tables, and does without.
CUresult cuGetExportTable(const void** table, const CUuuid*) {
    return *table = nullptr, CUDA_ERROR_NOT_SUPPORTED;
}
// As NVIDIA's bindings of Python find all others.
#undef cuGetProcAddress
CUresult cuGetProcAddress_v2(const char* name, void** function, int, cuuint64_t,
                             CUdriverProcAddressQueryResult* status) {
    static void* const library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    *function = dlsym(library, name);
    const bool found = *function != nullptr;
    if (status != nullptr)
        *status = found ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    return *context = reinterpret_cast<CUcontext>(static_cast<intptr_t>(device) + 1), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
    return *flags = 0, *active = 1, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
    return cuDevicePrimaryCtxRetain(context, current_device);
}
CUresult cuCtxSetCurrent(CUcontext context) {
    current_device = static_cast<int>(reinterpret_cast<intptr_t>(context)) - 1;
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) { return *device = current_device, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t* value, CUlimit) { return *value = 0, CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult error, const char** text) {
    static thread_local std::string said;
    said = "the stand-in's error " + std::to_string(error);
    return *text = said.c_str(), CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char** text) { return cuGetErrorString(error, text); }

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
    const Allocation* found = find(reinterpret_cast<const void*>(address));
    if (found == nullptr || found->device < 0) return CUDA_ERROR_INVALID_VALUE;
    if (attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER)
        *static_cast<CUdeviceptr*>(value) = address;
    return CUDA_SUCCESS;
}

}  // extern "C"

namespace {

// A module of one cubin, and its functions.
struct Function {
    std::string name;
    Code code;
    Use use;
    std::map<int, int> allowed_shared;  // by device
};
struct Module {
    Code code;
    std::map<std::string, Use> kernels;
    std::map<std::string, Function*> functions;
};

// The architecture that an ELF image is for stands in its flags, in the lowest byte or, since CUDA
// 13, in the second.
int architecture_of(const void* image) {
    uint32_t flags = 0;
    std::memcpy(&flags, static_cast<const char*>(image) + 48, sizeof flags);
    const unsigned abi = static_cast<const unsigned char*>(image)[8];
    return static_cast<int>(abi >= 8 ? flags >> 8 & 0xff : flags & 0xff);
}

// The bytes of the one argument that a kernel of this library has, in hexadecimal digits.
std::string argument_of(const Function& function, void** arguments) {
    if (function.name.rfind("plastikern", 0) != 0) return "";
    const auto* bytes = static_cast<const unsigned char*>(arguments[0]);
    std::string found;
    for (int i = 0; i < function.use.bytes_of_arguments; ++i) {
        for (const int digit : {bytes[i] >> 4, bytes[i] & 15}) found += "0123456789abcdef"[digit];
    }
    return found;
}

}  // namespace

extern "C" {

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    if (std::memcmp(image,
                    "\x7f"
                    "ELF",
                    4) != 0)
        return CUDA_ERROR_INVALID_IMAGE;
    const Code one{architecture_of(image), false};
    const Code chosen = choose_code(&one, &one + 1, current_device);
    note(member("call", "module") + ", " + member("architecture", one.architecture));
    if (chosen.architecture == 0) return CUDA_ERROR_NO_BINARY_FOR_GPU;
    *module = reinterpret_cast<CUmodule>(new Module{chosen, Cubin(image).kernels(), {}});
    return CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    Module* of = reinterpret_cast<Module*>(module);
    Function*& found = of->functions[name];
    if (found == nullptr) found = new Function{name, of->code, of->kernels[name], {}};
    return *function = reinterpret_cast<CUfunction>(found), CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
    return *value = attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0, CUDA_SUCCESS;
}
CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (value > card(current_device).shared_per_block) return CUDA_ERROR_INVALID_VALUE;
        reinterpret_cast<Function*>(function)->allowed_shared[current_device] = value;
    }
    return CUDA_SUCCESS;
}
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int* count, CUfunction, const CUlaunchConfig*) {
    return *count = 1, CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction function, void** arguments, void**) {
    Function* f = reinterpret_cast<Function*>(function);
    const auto allowed = f->allowed_shared.find(current_device);
    bool cooperative = false;
    for (unsigned i = 0; i < c->numAttrs; ++i) {
        cooperative |=
            c->attrs[i].id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE && c->attrs[i].value.cooperative != 0;
    }
    return static_cast<CUresult>(
        check_and_note({f->name.c_str(),
                        f->code,
                        {c->gridDimX, c->gridDimY, c->gridDimZ},
                        {c->blockDimX, c->blockDimY, c->blockDimZ},
                        c->sharedMemBytes,
                        allowed == f->allowed_shared.end() ? 48 * 1024 : allowed->second,
                        f->use.registers,
                        cooperative,
                        c->hStream,
                        argument_of(*f, arguments)}));
}
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                        unsigned by, unsigned bz, unsigned shared, CUstream stream,
                        void** arguments, void** extra) {
    const CUlaunchConfig config{gx, gy, gz, bx, by, bz, shared, stream, nullptr, 0};
    return cuLaunchKernelEx(&config, function, arguments, extra);
}

}  // extern "C"
