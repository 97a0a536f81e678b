// Memory that is kept from one call to the next: touching fresh pages takes longer than everything
// a kernel does with them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace plastikern {

struct Block {
    void* memory = nullptr;
    int64_t size = 0;
};

// Blocks that nobody uses at present, up to a size in all. Never waits for another thread: who
// finds it in use takes fresh memory, and gives it back to the system.
class Pool {
   public:
    static Pool& only() {
        static Pool* const pool =
            new Pool();  // never destroyed: calls may come while the process ends
        return *pool;
    }
    Block take(int64_t bytes) {
        const int64_t page = bytes < kPage ? kLine : kPage, size = (bytes + page - 1) / page * page;
        if (const std::unique_lock lock(busy_, std::try_to_lock); lock.owns_lock()) {
            // The smallest that will do, but not one that is far too large.
            auto best = idle_.end();
            for (auto block = idle_.begin(); block != idle_.end(); ++block) {
                if (block->size < size || block->size / 2 > std::max(size, kPage)) continue;
                if (best == idle_.end() || block->size < best->size) best = block;
            }
            if (best != idle_.end()) {
                const Block found = *best;
                idle_.erase(best);
                kept_ -= found.size;
                return found;
            }
        }
        void* memory = std::aligned_alloc(static_cast<size_t>(page), static_cast<size_t>(size));
        if (memory == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (page == kPage) madvise(memory, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
        return {memory, size};
    }
    void give(Block block) {
        const std::unique_lock lock(busy_, std::try_to_lock);
        if (!lock.owns_lock() || block.size > kKeep) return std::free(block.memory);
        while (kept_ + block.size > kKeep) {
            kept_ -= idle_.front().size;
            std::free(idle_.front().memory);
            idle_.erase(idle_.begin());
        }
        kept_ += block.size;
        idle_.push_back(block);
    }

   private:
    static constexpr int64_t kLine = 64;
    static constexpr int64_t kPage = int64_t{2}
                                     << 20;  // a huge page: fewer misses of the address cache
    static constexpr int64_t kKeep = int64_t{256}
                                     << 20;  // more than this is not worth keeping from others

    std::mutex busy_;
    std::vector<Block> idle_;  // the longest idle first
    int64_t kept_ = 0;
};

// Scratch memory of one call.
class Workspace {
   public:
    explicit Workspace(int64_t bytes) : block_(Pool::only().take(bytes)) {}
    ~Workspace() { Pool::only().give(block_); }
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    void* memory() const { return block_.memory; }

   private:
    Block block_;
};

}  // namespace plastikern
