// Blocks: who waits for whom, in which order threads run, and what is said of those that can run no
// more.
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "cuda_emulator.h"
#include "devices.h"
#include "fibers.h"

namespace plastikern_emulator {
namespace {

// Waits for all lanes of the mask. True in the lane that came last, which runs on; the others can
// run after it.
UNSEEN bool meet(WarpOperation operation, unsigned mask, uint64_t bits, unsigned source) {
    Thread* self = current;
    Warp* warp = self->warp;
    unsigned lane = self->lane;
    warp->given[lane] = bits;
    warp->source[lane] = static_cast<unsigned char>(source);
    warp->mask[lane] = mask;
    warp->operation[lane] = operation;
    warp->arrived |= 1u << lane;
    if (!(mask >> lane & 1)) fail(State::kAtWarp, "a lane is not in the mask that it gives");

    bool complete = (warp->arrived & mask) == mask;
    for (unsigned left = mask; complete && left; left &= left - 1) {
        int other = __builtin_ctz(left);
        complete = warp->mask[other] == mask && warp->operation[other] == operation;
    }
    if (!complete) {
        suspend(State::kAtWarp);
        return false;
    }
    Released released;
    for (unsigned left = mask; left; left &= left - 1) {
        int other = __builtin_ctz(left);
        unsigned from = warp->source[other];
        warp->received[other] = mask >> from & 1 ? warp->given[from] : ~uint64_t{0};
        released.add(warp->lanes[other]);
    }
    released.run_next();
    warp->arrived &= ~mask;
    ++running.warp_operations;
    return true;
}

// The same for all threads of the block.
UNSEEN bool meet(Block* block) {
    if (++block->waiting < block->size) {
        suspend(State::kAtBarrier);
        return false;
    }
    Released released;
    for (unsigned i = 0; i < block->size; ++i) released.add(block->threads[i]);
    released.run_next();
    block->waiting = 0;
    ++running.block_barriers;
    return true;
}

const char* name_of(WarpOperation operation) {
    constexpr const char* kNames[] = {"__syncwarp", "__shfl_sync", "__shfl_xor_sync",
                                      "__shfl_down_sync"};
    return kNames[static_cast<int>(operation)];
}

std::string place_of(const Thread& thread) {
    switch (thread.state) {
        case State::kEnded:
            return "ended";
        case State::kFresh:
            return "not begun";
        case State::kRunning:
            return "ready to run";
        case State::kAtBarrier:
            return "in __syncthreads";
        case State::kAsleep:
            return "in __nanosleep";
        case State::kAtWarp:
            break;
    }
    char mask[16];
    std::snprintf(mask, sizeof(mask), "0x%08x", thread.warp->mask[thread.lane]);
    return std::string("in ") + name_of(thread.warp->operation[thread.lane]) + "(" + mask + ")";
}

// "block 0: threads 0-30 in __syncthreads, thread 31 ended; block 1: ..."
std::string describe(const std::vector<Block>& blocks) {
    constexpr size_t kMost = 8;
    std::string text;
    for (size_t b = 0; b < std::min(blocks.size(), kMost); ++b) {
        const Block& block = blocks[b];
        text += (b ? "; block " : "block ") + std::to_string(block.index.x);
        if (gridDim.y * gridDim.z > 1) {
            text += "," + std::to_string(block.index.y) + "," + std::to_string(block.index.z);
        }
        for (unsigned first = 0, end; first < block.size; first = end) {
            std::string place = place_of(*block.threads[first]);
            for (end = first + 1; end < block.size && place_of(*block.threads[end]) == place;)
                ++end;
            text += first ? ", thread" : ": thread";
            text += (end - first > 1 ? "s " : " ") + std::to_string(first);
            if (end - first > 1) text += "-" + std::to_string(end - 1);
            text += " " + place;
        }
    }
    if (blocks.size() > kMost)
        text += "; and " + std::to_string(blocks.size() - kMost) + " blocks more";
    return text;
}

// A block's shared memory ends with the block. To the race detector that is no access to it: the
// host would have to have waited for the block, and so would have ordered it before the next one.
void delete_unseen(unsigned char* memory) {
#if defined(__SANITIZE_THREAD__)
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
    delete[] memory;
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#else
    delete[] memory;
#endif
}

uint3 coordinates(size_t index, const dim3& size) {
    return {static_cast<unsigned>(index % size.x), static_cast<unsigned>(index / size.x % size.y),
            static_cast<unsigned>(index / size.x / size.y)};
}

// What reports of races call the thread.
void name_to_detector([[maybe_unused]] Thread& thread, [[maybe_unused]] size_t block,
                      [[maybe_unused]] size_t index) {
#if defined(__SANITIZE_THREAD__)
    char name[48];
    std::snprintf(name, sizeof(name), "block %zu, thread %zu", block, index);
    __tsan_set_fiber_name(thread.detector_fiber, name);
#endif
}

// Runs `count` blocks from the given one on, all resident together. Empty, or why they did not end.
std::string run_blocks(size_t first_block, size_t count, size_t shared_bytes) {
    size_t size = product(blockDim), warps_per_block = (size + kWarp - 1) / kWarp;
    size_t fibers_in_turn =
        kDetector ? std::max(count * size, kFibersInTurn / size * size) : count * size;
    std::vector<Block> blocks(count);
    std::vector<Warp> warps(count * warps_per_block);
    std::vector<Thread*> threads(count * size);
    for (size_t b = 0; b < count; ++b) {
        Block& block = blocks[b];
        block.index = coordinates(first_block + b, gridDim);
        block.threads = &threads[b * size];
        block.size = static_cast<unsigned>(size);
        block.shared = new unsigned char[shared_bytes];
        std::memset(block.shared, 0xff, shared_bytes);
        for (size_t t = 0; t < size; ++t) {
            Thread& thread = fibers.at(((first_block + b) * size + t) % fibers_in_turn);
            thread.block = &block;
            thread.warp = &warps[b * warps_per_block + t / kWarp];
            thread.index = coordinates(t, blockDim);
            thread.lane = t % kWarp;
            thread.state = State::kFresh;
            thread.fenced = false;
            thread.last_atomic = nullptr;
            thread.sleeps = 0;
            thread.warp->lanes[thread.lane] = block.threads[t] = &thread;
            name_to_detector(thread, first_block + b, t);
            append_ready(&thread);
        }
    }
    running.live = threads.size();
    running.idle_sleeps = 0;
    release(&running.start);
    transfer(take_ready());

    std::string text;
    if (running.live || running.failure) {
        const char* reason = running.failure ? running.failure : "no thread can run on";
        text = std::string(reason) + ": " + describe(blocks);
        running.cancelled = true;
        for (Thread* thread : threads) {
            if (thread->state != State::kEnded && thread->state != State::kFresh) transfer(thread);
        }
    }
    for (Block& block : blocks) delete_unseen(block.shared);
    return text;
}

// Empty, or why the launch did not end.
std::string run(const cudaLaunchConfig_t& config, const Kernel& kernel, bool cooperative) {
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    running.kernel = kernel;
    ready_first = nullptr;
#if defined(__SANITIZE_THREAD__)
    host.detector_fiber = __tsan_get_current_fiber();
#endif
    size_t blocks = product(gridDim), together = cooperative ? blocks : 1;
    if (together * product(blockDim) > kMostFibers) {
        return "the emulator holds at most " + std::to_string(kMostFibers) +
               " threads at a time, asked for were " + std::to_string(together * product(blockDim));
    }
    std::string text;
    for (size_t first = 0; first < blocks && text.empty(); first += together) {
        text = run_blocks(first, together, config.dynamicSmemBytes);
    }
    acquire(&running.end);
    return text;
}

}  // namespace
}  // namespace plastikern_emulator
