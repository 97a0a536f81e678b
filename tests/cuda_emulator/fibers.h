// Fibers: how an emulated thread runs, waits and is unwound, and what the sanitizers are told of
// it.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <new>

#include "cuda_emulator.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
// Code that runs in the emulated threads is not instrumented: to the race detector the scheduler's
// own state does not exist, so that it neither is reported nor orders anything.
#define UNSEEN __attribute__((no_sanitize("thread")))
extern "C" void AnnotateIgnoreWritesBegin(const char* file, int line);
extern "C" void AnnotateIgnoreWritesEnd(const char* file, int line);
#else
#define UNSEEN
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#define PLASTIKERN_EMULATOR_UCONTEXT
#endif
#if defined(PLASTIKERN_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace plastikern_emulator {
namespace {

constexpr unsigned kWarp = warpSize;
constexpr size_t kStack = 256 * 1024, kGuard = 64 * 1024;
// The race detector knows at most 8128 threads. To it two threads on the same fiber are one: under
// it, fibers take turns at being the threads of blocks that run one after the other, so that races
// between such blocks are found.
#if defined(__SANITIZE_THREAD__)
constexpr bool kDetector = true;
constexpr size_t kMostFibers = 8000;
#else
constexpr bool kDetector = false;
constexpr size_t kMostFibers =
    30000;  // the system maps at most 65530 pieces of memory, two for each
#endif
constexpr size_t kFibersInTurn = 512;
// Polling of all threads without anything else happening, and of one thread in all, after which it
// is given up.
constexpr uint64_t kIdleRounds = 256, kMostSleeps = 50'000;

void release(void* tag) {
#if defined(__SANITIZE_THREAD__)
    __tsan_release(tag);
#else
    (void)tag;
#endif
}

void acquire(void* tag) {
#if defined(__SANITIZE_THREAD__)
    __tsan_acquire(tag);
#else
    (void)tag;
#endif
}

enum class State : unsigned char { kEnded, kFresh, kRunning, kAtBarrier, kAtWarp, kAsleep };

struct Block;
struct Warp;

// A CUDA thread and the fiber that runs it. The fiber outlives the thread and serves later
// launches.
struct Thread {
#if defined(PLASTIKERN_EMULATOR_UCONTEXT)
    ucontext_t context;
#else
    void* stack_pointer;
#endif
    Thread* next;  // in the queue of those that can run
    Block* block;
    Warp* warp;
    uint3 index;
    unsigned lane;
    State state;
    bool fenced;            // __threadfence was called since the last barrier
    unsigned* last_atomic;  // what the next __threadfence acquires
    uint64_t sleeps;
    const char* stack;  // lowest address
    size_t stack_size;
    void* detector_fiber;
    void* fake_stack;
};

struct Warp {
    Thread* lanes[kWarp];
    unsigned arrived;  // lanes that wait in an operation
    unsigned mask[kWarp];
    uint64_t given[kWarp], received[kWarp];
    unsigned char source[kWarp];
    WarpOperation operation[kWarp];
    char arrival[kWarp],
        completion[kWarp];  // what the race detector knows each by, for each lowest lane of a mask
};

struct Block {
    uint3 index;
    Thread** threads;
    unsigned size, waiting;
    unsigned char* shared;
    char arrival, completion;
};

struct Cancelled {};  // unwinds a thread of a launch that has failed

// The running launch.
struct Launch {
    Kernel kernel;
    char start, end;  // what the race detector knows them by
    size_t live;
    uint64_t idle_sleeps, block_barriers, warp_operations, sleeps;
    const char* failure;
    bool cancelled;
    // Addresses of atomic operations, the first ones: a plain array, which the race detector does
    // not look into.
    uintptr_t atomics[64];
    int atomic_count;
};

Launch running;
Thread host;
Thread* current = &host;
Thread* previous;
Thread* ready_first;
Thread* ready_last;

#if !defined(PLASTIKERN_EMULATOR_UCONTEXT)
extern "C" void plastikern_emulator_switch(void** saved, void* next);
asm(R"(
.text
.type plastikern_emulator_switch, @function
plastikern_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmpq *%rcx
.size plastikern_emulator_switch, .-plastikern_emulator_switch
)");
#endif

// The address sanitizer has to be told of the stack that is now in use.
UNSEEN void arrived_on_stack() {
#if defined(__SANITIZE_ADDRESS__)
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(current->fake_stack, &bottom, &size);
    previous->stack = static_cast<const char*>(bottom);
    previous->stack_size = size;
#endif
}

UNSEEN void transfer(Thread* to) {
    Thread* from = current;
    previous = from;
    current = to;
    threadIdx = to->index;
    if (to->block) blockIdx = to->block->index;
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(to->detector_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_size);
#endif
#if defined(PLASTIKERN_EMULATOR_UCONTEXT)
    swapcontext(&from->context, &to->context);
#else
    plastikern_emulator_switch(&from->stack_pointer, to->stack_pointer);
#endif
    arrived_on_stack();
}

// The next that can run; the host where none can.
UNSEEN Thread* take_ready() {
    Thread* thread = ready_first;
    if (!thread) return &host;
    ready_first = thread->next;
    return thread;
}

UNSEEN void append_ready(Thread* thread) {
    thread->next = nullptr;
    (ready_first ? ready_last->next : ready_first) = thread;
    ready_last = thread;
}

// Threads that what they waited for lets go, except for the running one. They run before all
// others: a warp stays on its way as long as it can, and its stacks in the cache.
struct Released {
    Thread *first = nullptr, *last = nullptr;

    UNSEEN void add(Thread* thread) {
        if (thread == current) return;
        thread->state = State::kRunning;
        (first ? last->next : first) = thread;
        last = thread;
    }

    UNSEEN void run_next() {
        running.idle_sleeps = 0;
        if (!first) return;
        if (!ready_first) ready_last = last;
        last->next = ready_first;
        ready_first = first;
    }
};

UNSEEN void suspend(State state) {
    Thread* self = current;
    self->state = state;
    Thread* next = take_ready();
    if (next != self) transfer(next);
    if (running.cancelled) throw Cancelled{};
    self->state = State::kRunning;
}

// Ends the launch: the host describes where the threads are and unwinds them.
[[noreturn]] UNSEEN void fail(State state, const char* reason) {
    running.failure = reason;
    current->state = state;
    ready_first = nullptr;
    transfer(&host);
    throw Cancelled{};
}

[[noreturn]] UNSEEN void run_threads() {
    arrived_on_stack();
    for (;;) {
        Thread* self = current;
        self->state = State::kRunning;
        acquire(&running.start);
        try {
            running.kernel.call(running.kernel.closure);
        } catch (const Cancelled&) {
        } catch (...) {
            if (!running.failure) running.failure = "the kernel threw an exception";
            ready_first = nullptr;
        }
        release(&running.end);
        self->state = State::kEnded;
        --running.live;
        running.idle_sleeps = 0;
        transfer(take_ready());
    }
}

// Fibers, made when first needed and kept.
class Fibers {
   public:
    Thread& at(size_t index) {
        while (fibers_.size() <= index) add();
        return fibers_[index];
    }

   private:
    void add() {
        void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory, kGuard, PROT_NONE);
        Thread& fiber = fibers_.emplace_back();
        char* stack = static_cast<char*>(memory) + kGuard;
        fiber.stack = stack;
        fiber.stack_size = kStack;
#if defined(PLASTIKERN_EMULATOR_UCONTEXT)
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = stack;
        fiber.context.uc_stack.ss_size = kStack;
        makecontext(&fiber.context, run_threads, 0);
#else
        // Tops that lie differently in their pages, so that stacks do not all want the same lines
        // of the cache.
        auto** top = reinterpret_cast<void**>(stack + kStack - 64 - fibers_.size() % 64 * 320);
        top[-1] = nullptr;  // in place of a return address: run_threads is entered with the stack
                            // of a call
        top[-2] = reinterpret_cast<void*>(run_threads);
        std::fill(top - 8, top - 2, nullptr);
        fiber.stack_pointer = top - 8;
#endif
#if defined(__SANITIZE_THREAD__)
        fiber.detector_fiber = __tsan_create_fiber(0);
#endif
    }

    std::deque<Thread> fibers_;
};

Fibers fibers;

}  // namespace
}  // namespace plastikern_emulator
