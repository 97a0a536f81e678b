// torch's current CUDA stream, found at run time: this library must also load with a torch that has
// no CUDA.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace plastikern::cuda {

// The stream that work on a device goes to now. std::runtime_error: torch has none, and what the
// loader said.
inline void* current_stream(int32_t device) {
    constexpr const char* name = "aoti_torch_get_current_cuda_stream";
    using Find = int32_t (*)(int32_t, void**);
    // Python loads torch's libraries with RTLD_LOCAL, so that the default look-up of a symbol does
    // not see them. Which library is loaded does not change any more once one has been found.
    static std::atomic<Find> known = nullptr;
    Find find = known;
    if (find == nullptr) {
        void* torch_cuda = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
        void* symbol = torch_cuda == nullptr ? nullptr : dlsym(torch_cuda, name);
        if (symbol == nullptr) {
            const char* said = dlerror();
            throw std::runtime_error(
                std::string("torch's current CUDA stream: ") + name +
                " of libtorch_cuda.so: " + (said != nullptr ? said : "not loaded"));
        }
        known = find = reinterpret_cast<Find>(symbol);
    }
    void* stream = nullptr;
    if (const int32_t error = find(device, &stream); error != 0) {
        throw std::runtime_error(std::string("torch's current CUDA stream: ") + name + "(" +
                                 std::to_string(device) + ") failed with " + std::to_string(error));
    }
    return stream;
}

}  // namespace plastikern::cuda
