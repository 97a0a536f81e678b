// A user's rule on a CUDA device: see ../rule.h. A block takes an element through all steps, a warp
// the rows that are its own.
#pragma once

#include <type_traits>

#include "../rule.h"
#include "device.h"
#include "rule_neurons.cuh"

namespace plastikern::cuda {

constexpr int kWarps = 8, kThreads = kWarps * kLanes;

// A job and the arrays that it points into, as a kernel is given them: nothing is copied before a
// launch, which may be captured.
template <typename S, int kWords>
struct Packed {
    Job<S> job;
    int64_t words[kWords];
};

// The job in shared memory, which its pointers are made to point into. Behind it, `slots` gets room
// for the pointers of a unit.
template <typename S, int kWords>
__device__ const Job<S>& unpacked(const Packed<S, kWords>& given, S**& slots) {
    int64_t* memory = reinterpret_cast<int64_t*>(shared_memory());
    constexpr int kAll = sizeof given / sizeof *memory;
    for (int each = static_cast<int>(threadIdx.x); each < kAll; each += blockDim.x)
        memory[each] = reinterpret_cast<const int64_t*>(&given)[each];
    __syncthreads();
    Job<S>& job = *reinterpret_cast<Job<S>*>(memory);
    slots = reinterpret_cast<S**>(memory + kAll);
    if (threadIdx.x == 0) {
        const int64_t way = reinterpret_cast<int64_t>(memory) - job.home;
        const auto move = [&](auto*& pointer) {
            pointer = reinterpret_cast<std::remove_cvref_t<decltype(pointer)>>(
                reinterpret_cast<int64_t>(pointer) + way);
        };
        const auto move_all = [&](Binding<S>& binding) {
            for (auto& sources : binding.sources) move(sources);
            move(binding.added);
        };
        move(job.first), move(job.state), move(job.checkpoint);
        for (auto& binding : job.forward) move_all(binding);
        move_all(job.again);
        for (auto& binding : job.backward) move_all(binding);
    }
    __syncthreads();
    return job;
}

// The slots of a schedule at a unit.
template <typename S>
struct Slots {
    Place<S> place;
    S** pointers;  // of slot s of level l the one at 4 s + l

    // Nobody reads those of the unit before any more: it ended with a barrier.
    __device__ void find(const Binding<S>& binding, int64_t k, int64_t b, int64_t inside) const {
        int64_t number = 0;
        for (int level = 0; level < 4; ++level) {
            for (int64_t slot = threadIdx.x; slot < binding.counts[level]; slot += blockDim.x)
                pointers[4 * slot + level] =
                    place.of(binding.sources[level][slot], k, b, inside, number + slot);
            number += binding.counts[level];
        }
        __syncthreads();
    }
    __device__ __forceinline__ S* element(int slot) const { return pointers[4 * slot]; }
    __device__ __forceinline__ S* row(int slot) const { return pointers[4 * slot + 1]; }
    __device__ __forceinline__ S* column(int slot) const { return pointers[4 * slot + 2]; }
    __device__ __forceinline__ S* synapse(int slot) const { return pointers[4 * slot + 3]; }
    // What a warp adds up for a sum over rows: a vector, or one number.
    __device__ __forceinline__ S* part(int sum, int warp) const {
        return place.sum(sum * kWarps + warp);
    }
};

__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / kLanes; }
__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % kLanes; }

// What a part takes of the element, and of row j.
template <class P, typename S>
__device__ __forceinline__ void load_elements(const Slots<S>& at, S* element) {
    for_places<P::elements::count>([&](auto k) {
        constexpr int slot = P::elements::all[k];
        element[k] = *at.element(slot);
    });
}
template <class P, typename S>
__device__ __forceinline__ void load_row(const Slots<S>& at, int64_t j, S* row) {
    for_places<P::rows::count>([&](auto k) {
        constexpr int slot = P::rows::all[k];
        row[k] = at.row(slot)[j];
    });
}

template <class P, typename S>
__device__ void run_element(const Slots<S>& at) {
    if (threadIdx.x == 0) {
        Values<S, P::elements::count> element;
        Values<S, P::made::count> made;
        load_elements<P>(at, element);
        P::template run<S>(element, nullptr, nullptr, nullptr, made, nullptr, nullptr, nullptr);
        for_places<P::made::count>([&](auto k) {
            constexpr int slot = P::made::all[k];
            *at.element(slot) = made[k];
        });
    }
    __syncthreads();
}

template <class P, typename S>
__device__ void run_columns(const Slots<S>& at) {
    constexpr size_t kSums = P::element_sums::count;
    Values<S, P::elements::count> element;
    Values<S, kSums> sums{};
    load_elements<P>(at, element);
    for (int64_t i = threadIdx.x; i < at.place.job.pres; i += blockDim.x) {
        Values<S, P::columns::count> column;
        Values<S, P::made::count> made;
        for_places<P::columns::count>([&](auto k) {
            constexpr int slot = P::columns::all[k];
            column[k] = at.column(slot)[i];
        });
        P::template run<S>(element, column, nullptr, nullptr, made, nullptr, nullptr, sums);
        for_places<P::made::count>([&](auto k) {
            constexpr int slot = P::made::all[k];
            at.column(slot)[i] = made[k];
        });
    }
    for_places<kSums>([&](auto k) {
        const S sum = sum_of_lanes(sums[k]);
        if (lane_of_thread() == 0) *at.part(k, warp_of_thread()) = sum;
    });
    __syncthreads();
    if (threadIdx.x == 0) {
        for_places<kSums>([&](auto k) {
            constexpr int slot = P::element_sums::all[k];
            S sum = 0;
            for (int warp = 0; warp < kWarps; ++warp) sum += *at.part(k, warp);
            *at.element(slot) = sum;
        });
    }
    __syncthreads();
}

// `first_sum`: how many sums over rows the parts before have.
template <class P, typename S>
__device__ void run_row(const Slots<S>& at, int64_t j, int first_sum) {
    if (lane_of_thread() == 0) {
        Values<S, P::elements::count> element;
        Values<S, P::rows::count> row;
        Values<S, P::made::count> made;
        Values<S, P::element_sums::count> sums;
        load_elements<P>(at, element);
        load_row<P>(at, j, row);
        for_places<P::element_sums::count>(
            [&](auto k) { sums[k] = *at.part(first_sum + static_cast<int>(k), warp_of_thread()); });
        P::template run<S>(element, nullptr, row, nullptr, made, nullptr, nullptr, sums);
        for_places<P::made::count>([&](auto k) {
            constexpr int slot = P::made::all[k];
            at.row(slot)[j] = made[k];
        });
        for_places<P::element_sums::count>(
            [&](auto k) { *at.part(first_sum + static_cast<int>(k), warp_of_thread()) = sums[k]; });
    }
    __syncwarp();
}

template <class P, typename S>
__device__ void run_synapses(const Slots<S>& at, int64_t j, int first_sum) {
    constexpr size_t kSums = P::row_sums::count, kColumnSums = P::column_sums::count;
    const int64_t pres = at.place.job.pres;
    Values<S, P::elements::count> element;
    Values<S, P::rows::count> row;
    Values<const S*, P::columns::count> columns;
    Values<const S*, P::synapses::count> synapses;
    Values<S*, P::made::count> to;
    Values<S, kSums> sums{};
    load_elements<P>(at, element);
    load_row<P>(at, j, row);
    for_places<P::columns::count>([&](auto k) {
        constexpr int slot = P::columns::all[k];
        columns[k] = at.column(slot);
    });
    for_places<P::synapses::count>([&](auto k) {
        constexpr int slot = P::synapses::all[k];
        synapses[k] = at.synapse(slot) + j * at.place.job.stride;
    });
    for_places<P::made::count>([&](auto k) {
        constexpr int slot = P::made::all[k];
        S* matrix = at.synapse(slot);
        to[k] = matrix == nullptr ? nullptr : matrix + j * at.place.job.stride;
    });
    for (int64_t i = lane_of_thread(); i < pres; i += kLanes) {
        Values<S, P::columns::count> column;
        Values<S, P::synapses::count> synapse;
        Values<S, P::made::count> made;
        Values<S, kColumnSums> of_columns;
        for_places<P::columns::count>([&](auto k) { column[k] = columns[k][i]; });
        for_places<P::synapses::count>([&](auto k) { synapse[k] = synapses[k][i]; });
        for_places<kColumnSums>([&](auto k) {
            of_columns[k] = at.part(first_sum + static_cast<int>(k), warp_of_thread())[i];
        });
        P::template run<S>(element, column, row, synapse, made, sums, of_columns, nullptr);
        for_places<P::made::count>([&](auto k) {
            constexpr bool adds = P::adds::all[k];
            if (to[k] != nullptr) to[k][i] = adds ? to[k][i] + made[k] : made[k];
        });
        for_places<kColumnSums>([&](auto k) {
            at.part(first_sum + static_cast<int>(k), warp_of_thread())[i] = of_columns[k];
        });
    }
    for_places<kSums>([&](auto k) {
        constexpr int slot = P::row_sums::all[k];
        const S sum = sum_of_lanes(sums[k]);
        if (lane_of_thread() == 0) at.row(slot)[j] = sum;
    });
    __syncwarp();
}

// Sums over rows that a part has.
template <class P>
constexpr int kRowwiseSums = static_cast<int>(P::level == 1   ? P::element_sums::count
                                              : P::level == 3 ? P::column_sums::count
                                                              : 0);

template <class... Part>
struct Parts {
    static constexpr int kSums = (0 + ... + kRowwiseSums<Part>);

    template <class P, typename S>
    static __device__ void one_before(const Slots<S>& at) {
        if constexpr (P::level == 0) {
            run_element<P>(at);
        } else {
            run_columns<P>(at);
        }
    }
    template <typename S>
    static __device__ void before(const Slots<S>& at) {
        (one_before<Part>(at), ...);
    }
    template <class P, typename S>
    static __device__ void one_of_row(const Slots<S>& at, int64_t j, int& first_sum) {
        if constexpr (P::level == 1) {
            run_row<P>(at, j, first_sum);
        } else {
            run_synapses<P>(at, j, first_sum);
        }
        first_sum += kRowwiseSums<P>;
    }
    // The rows of this warp; then what all warps have added up.
    template <typename S>
    static __device__ void rows(const Slots<S>& at) {
        const int64_t posts = at.place.job.posts, width = at.place.job.width;
        const int warp = warp_of_thread();
        for (int sum = 0; sum < kSums; ++sum)
            for (int64_t i = lane_of_thread(); i < width; i += kLanes) at.part(sum, warp)[i] = 0;
        __syncwarp();
        for (int64_t j = warp; j < posts; j += kWarps) {
            int first_sum = 0;
            (one_of_row<Part>(at, j, first_sum), ...);
        }
        __syncthreads();
        int first_sum = 0;
        (added_up<Part>(at, first_sum), ...);
        __syncthreads();
    }
    template <class P, typename S>
    static __device__ void added_up(const Slots<S>& at, int& first_sum) {
        const auto one = [&](S* to, int sum, int64_t count) {
            for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
                S total = 0;
                for (int warp = 0; warp < kWarps; ++warp) total += at.part(sum, warp)[i];
                to[i] = total;
            }
        };
        if constexpr (P::level == 1) {
            for_places<P::element_sums::count>([&](auto k) {
                constexpr int slot = P::element_sums::all[k];
                one(at.element(slot), first_sum + static_cast<int>(k), 1);
            });
        } else {
            for_places<P::column_sums::count>([&](auto k) {
                constexpr int slot = P::column_sums::all[k];
                one(at.column(slot), first_sum + static_cast<int>(k), at.place.job.pres);
            });
        }
        first_sum += kRowwiseSums<P>;
    }
};

template <class BeforeParts, class RowParts>
struct Sweep {
    template <typename S>
    static __device__ void run(const Slots<S>& at) {
        BeforeParts::before(at);
        RowParts::rows(at);
    }
};

template <class... Each>
struct Sweeps {
    template <typename S>
    static __device__ void run(const Slots<S>& at) {
        (Each::run(at), ...);
    }
};

// Schedules of a unit: a change and a read, a read, a change.
template <class Both, class Reads, class Changes>
struct Variants {
    template <typename S>
    static __device__ void run(int64_t which, const Slots<S>& at) {
        if (which == 0) return Both::run(at);
        if (which == 1) return Reads::run(at);
        Changes::run(at);
    }
};

template <typename S>
__device__ void copy(const S* from, S* to, int64_t count) {
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) to[i] = from[i];
}

template <typename S>
__device__ void copy_first(const Job<S>& job, int64_t which, int64_t b, S* to) {
    const S* from = job.first[which] + b * job.posts * job.pres;
    for (int64_t i = threadIdx.x; i < job.posts * job.pres; i += blockDim.x)
        to[i / job.pres * job.stride + i % job.pres] = from[i];
}

template <class Forward, typename S, int kWords>
__device__ void run_forward(const Packed<S, kWords>& given) {
    S** pointers = nullptr;
    const Job<S>& job = unpacked(given, pointers);
    const int64_t b = blockIdx.x;
    const Place<S> place{job, b};
    const Slots<S> slots{place, pointers};
    for (int64_t s = 0; s < job.states; ++s)
        copy_first(job, s, b, job.state[s] + b * place.matrix());
    __syncthreads();
    for (int64_t k = 0; k < units_of(job); ++k) {
        const int64_t which = variant_of(job, k), after = state_after(job, k);
        slots.find(job.forward[which], k, b, 0);
        Forward::run(which, slots);
        if (k < job.steps) activate(job, k, b);
        if (is_kept(job, after)) {
            for (int64_t s = 0; s < job.states; ++s)
                copy(job.state[s] + b * place.matrix(), checkpoint(job, s, after, b),
                     place.matrix());
        }
        __syncthreads();
    }
}

template <class Forward, class Backward, typename S, int kWords>
__device__ void run_backward(const Packed<S, kWords>& given) {
    S** pointers = nullptr;
    const Job<S>& job = unpacked(given, pointers);
    const int64_t b = blockIdx.x;
    const Place<S> place{job, b};
    const Slots<S> slots{place, pointers};
    int64_t start = -1;
    for (int64_t k = units_of(job) - 1; k >= 0; --k) {
        const int64_t which = variant_of(job, k), before = state_before(job, k);
        if (before / job.every * job.every != start) {
            start = before / job.every * job.every;
            for (int64_t s = 0; s < job.states; ++s) {
                if (start == 0) {
                    copy_first(job, s, b, place.state(0, s));
                } else {
                    copy(checkpoint(job, s, start, b), place.state(0, s), place.matrix());
                }
            }
            __syncthreads();
            for (int64_t state = start; state < before + job.ahead; ++state) {
                const int64_t step = job.read_after != 0 ? state : state + 1;
                slots.find(job.again, step, b, state - start);
                Forward::run(2, slots);
            }
        }
        if (k < job.steps) activate_adjoint(job, k, b);
        __syncthreads();
        const Binding<S>& binding = job.backward[which];
        slots.find(binding, k, b, before - start);
        Backward::run(which, slots);
        for (int64_t each = 0; each < binding.additions; ++each) {
            const Addition<S>& add = binding.added[each];
            S* to = place.of(add.to, k, b, 0, 0);
            const S* from = pointers[4 * add.slot + add.level];
            for (int64_t i = threadIdx.x; to != nullptr && i < add.count; i += blockDim.x)
                to[i] += from[i];
            __syncthreads();
        }
    }
}

#if !defined(__CUDACC_RTC__)
template <typename S, int kWords>
int launch(void (*kernel)(Packed<S, kWords>), const Packed<S, kWords>& given) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(given.job.batch));
    config.blockDim = dim3(kThreads);
    config.dynamicSmemBytes = static_cast<size_t>(given.job.shared);
    return static_cast<int>(cudaLaunchKernelEx(&config, kernel, given));
}
#endif

}  // namespace plastikern::cuda
