// What a card takes for the things that csrc/cuda/plan.cpp counts: barriers, launches, loads from
// shared memory, from the second-level cache and from the device's memory. A program without torch,
// for `python -m plastikern gpu-check`.
//
//     constants [quick]    quick: so little of each that the emulator is through in a second;
//     figures mean nothing then
//
// It prints JSON, a line for each figure as it comes. Clocks are those of a processor (clock64),
// rates are made from host time around work of milliseconds. Status: 0, 1 where the device refused
// something, 77 without a device.
#include <chrono>
#include <cstdlib>
#include <functional>

#include "microbenchmarks.cuh"
#include "tensors.h"

namespace {

using namespace plastikern::check;
using namespace plastikern::microbenchmarks;

constexpr int kRefused = 1, kNoDevice = 77, kThreads = 256;
constexpr int64_t kMiB = int64_t{1} << 20;

int attribute(cudaDeviceAttr which) {
    int value = 0, device = 0;
    expect(cudaGetDevice(&device), "the current device");
    expect(cudaDeviceGetAttribute(&value, which, device), "the device's attributes");
    return value;
}

void synchronise() { expect(cudaStreamSynchronize(nullptr), "run"); }

// Numbers that kernels write: clocks of each block, then sums that keep loads from being left out.
struct Card {
    explicit Card(bool quick)
        : quick(quick),
          processors(attribute(cudaDevAttrMultiProcessorCount)),
          shared(attribute(cudaDevAttrMaxSharedMemoryPerBlock)) {}

    int64_t times(int64_t many) const { return quick ? 3 : many; }
    template <typename... Parameters, typename... Arguments>
    void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                bool cooperative, Arguments... arguments) const {
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(static_cast<unsigned>(blocks));
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
        cudaLaunchAttribute together = {};
        together.id = cudaLaunchAttributeCooperative;
        together.val.cooperative = 1;
        config.attrs = &together;
        config.numAttrs = cooperative ? 1 : 0;
        expect(cudaLaunchKernelEx(&config, kernel, arguments...), "launch");
    }
    // Seconds of the host around some work, after a first time that is not counted.
    double seconds(const std::function<void()>& work) const {
        work();
        synchronise();
        const auto start = std::chrono::steady_clock::now();
        work();
        synchronise();
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    // The most clocks that any of the blocks counted, of the better of two runs.
    double clocks(int64_t blocks, const std::function<void(long long*)>& work) const {
        double best = 0;
        for (int run = 0; run < 2; ++run) {
            const Tensor counted(static_cast<size_t>(blocks) * sizeof(long long), 0, Place::device);
            work(counted.data<long long>());
            synchronise();
            std::vector<long long> found(static_cast<size_t>(blocks));
            counted.read(found.data());
            const double most = static_cast<double>(*std::max_element(found.begin(), found.end()));
            if (run == 0 || most < best) best = most;
        }
        return best;
    }

    bool quick;
    int64_t processors, shared;
    double hertz = 0;
};

void tell(const char* constant, const char* variant, int64_t size, const char* unit, double value) {
    std::printf(
        "{\"constant\": \"%s\", \"variant\": \"%s\", \"size\": %lld, \"unit\": \"%s\", \"value\": "
        "%.6g}\n",
        constant, variant, static_cast<long long>(size), unit, value);
    std::fflush(stdout);
}

// Clocks a second, under load of all processors.
void measure_clock(Card& card) {
    const int64_t turns = card.times(20'000'000);
    double counted = 0;
    const double seconds = card.seconds([&] {
        counted = card.clocks(card.processors, [&](long long* clocks) {
            card.launch(spin, card.processors, 32, 0, false, clocks, turns);
        });
    });
    // Two runs in one piece of work.
    card.hertz = 2 * counted / seconds;
    tell("clock", "all processors busy", card.processors, "MHz", card.hertz / 1e6);
}

void measure_barriers(const Card& card) {
    const int64_t turns = card.times(2000);
    const auto one = [&](int threads) {
        const double clocks = card.clocks(1, [&](long long* found) {
            card.launch(barriers_of_threads, 1, threads, 0, false, found, turns);
        });
        tell("barrier of threads", "__syncthreads", threads, "clocks",
             clocks / static_cast<double>(turns));
    };
    for (const int threads : {128, 256, 512}) one(threads);
    for (int64_t blocks = 2;; blocks = std::min(2 * blocks, card.processors)) {
        const double clocks = card.clocks(blocks, [&](long long* found) {
            const Tensor counter(sizeof(unsigned), 0, Place::device);
            card.launch(barriers_of_blocks, blocks, kThreads, 0, true, found,
                        counter.data<unsigned>(), turns);
            synchronise();
        });
        tell("barrier of blocks", "counter", blocks, "clocks", clocks / static_cast<double>(turns));
        if (blocks >= card.processors) break;
    }
    // A number from one block to another and an answer back: four of these are a barrier by
    // counter.
    const double clocks = card.clocks(2, [&](long long* found) {
        const Tensor slots(2 * kSlotBytes, 0, Place::device);
        card.launch(exchanges, 2, 32, 0, true, found, slots.data<unsigned long long>(), turns);
        synchronise();
    });
    tell("polling", "round trip of (value, epoch) pairs", 2, "clocks",
         clocks / static_cast<double>(turns));
}

void measure_clusters(const Card& card) {
#if defined(PLASTIKERN_EMULATED)
    std::printf("{\"note\": \"the emulator has no clusters\"}\n");
    (void)card;
#else
    if (attribute(cudaDevAttrClusterLaunch) == 0) {
        std::printf("{\"note\": \"the device has no clusters\"}\n");
        return;
    }
    const int64_t turns = card.times(2000);
    for (const unsigned blocks : {2u, 4u, 8u}) {
        for (const bool stores : {false, true}) {
            const double clocks = card.clocks(blocks, [&](long long* found) {
                cudaLaunchConfig_t config = {};
                config.gridDim = dim3(blocks);
                config.blockDim = dim3(kThreads);
                config.dynamicSmemBytes = kThreads * sizeof(float);
                cudaLaunchAttribute cluster = {};
                cluster.id = cudaLaunchAttributeClusterDimension;
                cluster.val.clusterDim.x = blocks;
                cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
                config.attrs = &cluster;
                config.numAttrs = 1;
                expect(cudaLaunchKernelEx(&config, barriers_of_clusters, found, turns, stores),
                       "launch of a cluster");
            });
            tell("barrier of a cluster",
                 stores ? "with a store to the next block's shared memory" : "alone", blocks,
                 "clocks", clocks / static_cast<double>(turns));
        }
    }
#endif
}

// Bytes a clock of one processor: all of its warps, then one warp.
void measure_shared(const Card& card) {
    const int64_t turns = card.times(500);
    const int64_t bytes = kSharedBytes;
    const auto one = [&](const char* variant, auto kernel, int threads) {
        const double clocks = card.clocks(1, [&](long long* found) {
            const Tensor elsewhere(static_cast<size_t>(bytes), 0, Place::device);
            // Which of the two memories is read is known at run time only, as in the kernels'
            // generic loads.
            card.launch(kernel, 1, threads, bytes, false, found, elsewhere.data<float>(), true,
                        turns);
            synchronise();
        });
        tell("shared memory", variant, threads, "bytes a clock",
             static_cast<double>(bytes) * static_cast<double>(turns) / clocks);
    };
    for (const int threads : {32, kMostThreads}) {
        one("generic addresses, 4 bytes", shared_generic<float>, threads);
        one("generic addresses, 8 bytes", shared_generic<Two>, threads);
        one("shared addresses, 4 bytes", shared_direct<float>, threads);
        one("shared addresses, 8 bytes", shared_direct<Two>, threads);
        one("shared addresses, 16 bytes", shared_direct<Four>, threads);
    }
}

void measure_launches(const Card& card) {
    const int64_t count = card.times(2000);
    const auto each = [&](const char* variant, int64_t blocks, bool cooperative, bool waits) {
        const double seconds = card.seconds([&] {
            for (int64_t i = 0; i < count; ++i) {
                card.launch(nothing, blocks, kThreads, 0, cooperative, 0);
                if (waits) synchronise();
            }
        });
        const double one = seconds / static_cast<double>(count);
        tell("launch", variant, blocks, "ns", one * 1e9);
        tell("launch", variant, blocks, "clocks", one * card.hertz);
    };
    each("back to back", card.processors, false, false);
    each("cooperative, back to back", card.processors, true, false);
    each("waited for", card.processors, false, true);
}

// GB/s of all processors, and bytes a clock of each.
void measure_memory(const Card& card) {
    const auto one = [&](const char* constant, const char* variant, int64_t bytes, int64_t turns,
                         bool writes) {
        const Tensor from(static_cast<size_t>(bytes), 0, Place::device);
        const Tensor to(static_cast<size_t>(writes ? bytes : 64), 0, Place::device);
        const int64_t blocks = 4 * card.processors;
        const double seconds = card.seconds([&] {
            card.launch(writes ? copies : reads, blocks, kMostThreads, 0, false, from.data<Four>(),
                        to.data<Four>(), bytes / static_cast<int64_t>(sizeof(Four)), turns);
        });
        const double moved = static_cast<double>(bytes * turns) * (writes ? 2 : 1) / seconds;
        tell(constant, variant, bytes / kMiB, "GB/s", moved / 1e9);
        tell(constant, variant, bytes / kMiB, "bytes a clock",
             moved / card.hertz / static_cast<double>(card.processors));
    };
    const int64_t cache = attribute(cudaDevAttrL2CacheSize);
    const int64_t near = card.quick ? 64 * 1024 : std::max<int64_t>(kMiB, cache / 4 / kMiB * kMiB);
    const int64_t far =
        card.quick ? 64 * 1024 : std::max<int64_t>(16 * cache, 512 * kMiB) / kMiB * kMiB;
    one("second-level cache", "reads", near, card.times(2000), false);
    one("second-level cache", "copies", near, card.times(2000), true);
    one("device's memory", "reads", far, card.quick ? 1 : 20, false);
    one("device's memory", "copies", far, card.quick ? 1 : 20, true);
}

}  // namespace

int main(int count, char** arguments) {
    int devices = 0;
    const cudaError_t found = cudaGetDeviceCount(&devices);
    if (found != cudaSuccess || devices == 0) {
        std::printf("{\"skip\": \"no CUDA device: %s\"}\n", cudaGetErrorString(found));
        return kNoDevice;
    }
#if defined(PLASTIKERN_EMULATED)
    plastikern_emulator::use_device("tiny");
#endif
    int refused = 0;
    try {
        Card card(count > 1 && std::strcmp(arguments[1], "quick") == 0);
        measure_clock(card);
        // What one of them cannot do does not keep the others from it.
        for (const auto& measure : {measure_barriers, measure_clusters, measure_shared,
                                    measure_launches, measure_memory}) {
            try {
                measure(card);
            } catch (const std::exception& error) {
                std::printf("{\"error\": \"%s\"}\n", error.what());
                std::fflush(stdout);
                cudaGetLastError();
                refused = kRefused;
            }
        }
    } catch (const std::exception& error) {
        std::printf("{\"error\": \"%s\"}\n", error.what());
        return kRefused;
    }
    return refused;
}
