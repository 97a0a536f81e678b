// Scratch memory that is kept from one call to the next: touching fresh pages is slower than everything a kernel does
// with them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace plastikern {

class Workspace {
   public:
    explicit Workspace(int64_t bytes) {
        Block& block = lock_.owns_lock() ? cache().block : own_;
        if (block.size < bytes) {
            block.release();
            block.allocate(bytes);
        }
        memory_ = block.memory;
    }
    ~Workspace() {
        own_.release();
        if (lock_.owns_lock() && cache().block.size > kKeep) cache().block.release();
    }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    void* memory() const { return memory_; }

   private:
    static constexpr int64_t kPage = int64_t{2} << 20;   // a huge page: fewer misses of the address cache
    static constexpr int64_t kKeep = int64_t{64} << 20;  // more than this is not worth keeping from others

    struct Block {
        void* memory = nullptr;
        int64_t size = 0;

        void allocate(int64_t bytes) {
            const int64_t page = bytes < kPage ? 64 : kPage, rounded = (bytes + page - 1) / page * page;
            memory = std::aligned_alloc(static_cast<size_t>(page), static_cast<size_t>(rounded));
            if (memory == nullptr) throw std::bad_alloc();
            size = rounded;
#if defined(__linux__)
            if (page == kPage) madvise(memory, static_cast<size_t>(rounded), MADV_HUGEPAGE);
#endif
        }
        void release() {
            std::free(memory);
            memory = nullptr;
            size = 0;
        }
    };

    // One block for the process. A call that finds it in use, by another thread, takes memory of its own.
    struct Cache {
        std::mutex busy;
        Block block;
    };
    static Cache& cache() {
        static Cache* const only = new Cache();  // never destroyed: calls may come while the process ends
        return *only;
    }

    std::unique_lock<std::mutex> lock_{cache().busy, std::try_to_lock};
    Block own_;
    void* memory_;
};

}  // namespace plastikern
