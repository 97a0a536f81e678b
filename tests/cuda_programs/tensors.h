// Tensors of the check programs: on the host, or on the CUDA device, which the emulator plays where
// there is none.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda/device.h"

namespace plastikern::check {

enum class Place { host, device };

// cudaError_t is not thrown away: what the device says is the message.
inline void expect(cudaError_t found, const std::string& what) {
    if (found != cudaSuccess) throw std::runtime_error(what + ": " + cudaGetErrorString(found));
}

// An allocation of its own, of just its size, so that whatever watches memory sees an index beyond
// its end.
class Tensor {
   public:
    Tensor(size_t bytes, int fill, Place place)
        : memory_(allocate(bytes, place), Free{place}), bytes_(bytes) {
        if (bytes == 0) return;
        if (place == Place::host) {
            std::memset(memory_.get(), fill, bytes);
        } else {
            expect(cudaMemsetAsync(memory_.get(), fill, bytes, nullptr), "memset");
        }
    }
    template <typename T>
    T* data() const {
        return static_cast<T*>(memory_.get());
    }
    size_t bytes() const { return bytes_; }
    void write(const void* from) const { copy(memory_.get(), from, cudaMemcpyHostToDevice); }
    void read(void* to) const { copy(to, memory_.get(), cudaMemcpyDeviceToHost); }

   private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        Place place;
        void operator()(void* memory) const {
            if (place == Place::host) {
                operator delete(memory, kLine);
            } else {
                cudaFree(memory);
            }
        }
    };
    static void* allocate(size_t bytes, Place place) {
        if (place == Place::host) return operator new(bytes, kLine);
        void* memory = nullptr;
        expect(cudaMalloc(&memory, std::max<size_t>(bytes, 1)), "memory of the device");
        return memory;
    }
    void copy(void* to, const void* from, cudaMemcpyKind direction) const {
        if (bytes_ == 0) return;
        if (memory_.get_deleter().place == Place::host) {
            std::memcpy(to, from, bytes_);
            return;
        }
        expect(cudaMemcpyAsync(to, from, bytes_, direction, nullptr), "copy");
        expect(cudaStreamSynchronize(nullptr), "copy");
    }

    std::unique_ptr<void, Free> memory_;
    size_t bytes_;
};

// Tensors by their names, all in one place.
class Tensors {
   public:
    explicit Tensors(Place place) : place_(place) {}
    template <typename T>
    T* take(const std::string& name, int64_t count, int fill = 0xff) {
        return add(name, static_cast<size_t>(count) * sizeof(T), fill).template data<T>();
    }
    // T and the values' type are of one size.
    template <typename T, typename V>
    const T* put(const std::string& name, const std::vector<V>& values) {
        static_assert(sizeof(T) == sizeof(V));
        const Tensor& tensor = add(name, values.size() * sizeof(T), 0);
        tensor.write(values.data());
        return tensor.template data<T>();
    }
    auto begin() const { return all_.begin(); }
    auto end() const { return all_.end(); }
    const Tensor& at(const std::string& name) const { return all_.at(name); }

   private:
    const Tensor& add(const std::string& name, size_t bytes, int fill) {
        return all_.try_emplace(name, bytes, fill, place_).first->second;
    }

    Place place_;
    std::map<std::string, Tensor> all_;
};

}  // namespace plastikern::check
