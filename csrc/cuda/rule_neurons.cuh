// The neurons of a user's rule on a CUDA device: those of the element that a block has, at a step.
#pragma once

#include "../rule_neurons.h"
#include "device.h"

namespace plastikern::cuda {

// One neuron of a thread.
struct Single {
    template <typename S>
    __device__ __forceinline__ S load(const S* from) const {
        return *from;
    }
    template <typename S>
    __device__ __forceinline__ void store(S* to, S value) const {
        *to = value;
    }
};

// Calls run(j) for the neurons of a thread.
template <class Run>
__device__ __forceinline__ void for_neurons(int64_t posts, const Run& run) {
    for (int64_t j = threadIdx.x; j < posts; j += blockDim.x) run(j);
}

// Over the sums, which lie where the activities will. One warp has the whole layer.
template <typename S>
__device__ void softmax(S* z_to_y, int64_t count) {
    if (threadIdx.x >= kLanes) return;
    S most = z_to_y[0], total = 0;
    for (int64_t j = threadIdx.x; j < count; j += kLanes)
        most = z_to_y[j] > most ? z_to_y[j] : most;
    most = most_of_lanes(most);
    for (int64_t j = threadIdx.x; j < count; j += kLanes) total += exp(z_to_y[j] - most);
    total = sum_of_lanes(total);
    __syncwarp();  // All lanes have read the first sum, and one of them writes it.
    for (int64_t j = threadIdx.x; j < count; j += kLanes) z_to_y[j] = exp(z_to_y[j] - most) / total;
}

// The sum of a softmax's activities times their gradients: every warp makes it for itself.
template <typename S>
__device__ S softmax_mean(const Job<S>& job, int64_t k, int64_t b) {
    const int64_t at = (k * job.batch + b) * job.posts;
    S mean = 0;
    for (int64_t j = threadIdx.x % kLanes; j < job.posts; j += kLanes)
        mean += job.y[at + j] * job.grad_y[at + j];
    return sum_of_lanes(mean);
}

// The other recurrent sums of neurons with gates: a warp takes a row of weights.
template <class Cell, typename S>
__device__ void sum_gates(const Job<S>& job, int64_t k, int64_t b) {
    const int64_t n = job.posts;
    const S* before = before_step(job, job.y, k, b);
    const int64_t rows = (Cell::weights - 1) * n;
    for (int64_t row = threadIdx.x / kLanes; row < rows; row += blockDim.x / kLanes) {
        S sum = 0;
        for (int64_t i = threadIdx.x % kLanes; i < n; i += kLanes)
            sum += job.gates[row * n + i] * before[i];
        sum = sum_of_lanes(sum);
        // The plastic row of the history lies between them.
        if (threadIdx.x % kLanes == 0)
            history_of(job, k, b, 0)[row < kPlastic * n ? row : row + n] = sum;
    }
    __syncthreads();
}

// What they give back to the activities before the step: a thread takes a column.
template <class Cell, typename S>
__device__ void sum_gates_adjoint(const Job<S>& job, int64_t k, int64_t b) {
    const int64_t n = job.posts;
    const S* grad_drive = job.grad_drive + Cell::drives * (k * job.batch + b) * n;
    S* to = before_step(job, job.grad_y, k, b);
    __syncthreads();
    for_neurons(n, [&](int64_t i) {
        S sum = 0;
        for (int64_t row = 0; row < (Cell::weights - 1) * n; ++row)
            sum += job.gates[row * n + i] * grad_drive[row < kPlastic * n ? row : row + n];
        to[i] += sum;
    });
}

template <typename S>
__device__ void activate(const Job<S>& job, int64_t k, int64_t b) {
    with_cell(kind_of(job), [&](auto cell) {
        using Cell = decltype(cell);
        sum_gates<Cell>(job, k, b);
        for_neurons(job.posts, [&](int64_t j) { fire_gated<Cell, S>(job, k, b, j, Single()); });
    });
    if (gated(kind_of(job))) return;
    for_neurons(job.posts, [&](int64_t j) { fire<S>(job, k, b, j, Single()); });
    if (static_cast<Nonlinearity>(job.activity) != Nonlinearity::softmax) return;
    __syncthreads();
    softmax(job.y + (k * job.batch + b) * job.posts, job.posts);
}

template <typename S>
__device__ void activate_adjoint(const Job<S>& job, int64_t k, int64_t b) {
    with_cell(kind_of(job), [&](auto cell) {
        using Cell = decltype(cell);
        for_neurons(job.posts,
                    [&](int64_t j) { fire_gated_adjoint<Cell, S>(job, k, b, j, Single()); });
        sum_gates_adjoint<Cell>(job, k, b);
    });
    if (gated(kind_of(job))) return;
    const bool whole = static_cast<Nonlinearity>(job.activity) == Nonlinearity::softmax;
    const S mean = whole ? softmax_mean(job, k, b) : S(0);
    for_neurons(job.posts, [&](int64_t j) { fire_adjoint<S>(job, k, b, j, Single(), mean); });
}

}  // namespace plastikern::cuda
