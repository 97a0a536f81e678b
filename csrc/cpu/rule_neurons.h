// The neurons of a user's rule on the CPU: a group of elements at a step.
#pragma once

#include "../rule_neurons.h"
#include "lanes.h"
#include "products.h"

namespace {

using namespace plastikern;

constexpr int64_t kMaxGroup = 16;

// Vectors (O,) or longer of the elements of a group.
template <typename T>
struct OfGroup {
    T* at[kMaxGroup];
    int64_t count = 0;

    template <class Where>
    OfGroup(int64_t first, int64_t last, Where where) {
        for (int64_t b = first; b < last; ++b) at[count++] = where(b);
    }
};

// Over the sums, which lie where the activities will.
inline void softmax(S* z_to_y, int64_t count) {
    V most = splat(z_to_y[0]), total{};
    for_lanes(count, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        const V z = access.load(z_to_y + j);
        most = access.choose(z > most ? z : most, most);
    });
    S largest = most[0];
    for (int64_t lane = 1; lane < kLanes; ++lane) largest = std::max(largest, most[lane]);
    for_lanes(count, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        const V size = arithmetic::exp(access.load(z_to_y + j) - splat(largest));
        access.store(z_to_y + j, size);
        total = access.choose(total + size, total);
    });
    const V whole = splat(sum_of(total));
    for_lanes(count, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        access.store(z_to_y + j, access.load(z_to_y + j) / whole);
    });
}

// The recurrent sums of i, f and o of an LSTM: every weight is read once for the group.
inline void sum_gates(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    const int64_t n = job.posts;
    const OfGroup<const S> before(first, last,
                                  [&](int64_t b) { return before_step(job, job.y, k, b); });
    const OfGroup<S> input_forget(first, last,
                                  [&](int64_t b) { return history_of(job, k, b, kInputGate); });
    const OfGroup<S> output(first, last,
                            [&](int64_t b) { return history_of(job, k, b, kOutputGate); });
    multiply(job.gates, 2 * n, n, before.at, input_forget.at, before.count);
    multiply(job.gates + 2 * n * n, n, n, before.at, output.at, before.count);
}

// What they give back to the activities before the step.
inline void sum_gates_adjoint(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    const int64_t n = job.posts;
    const auto grad_drive = [&](int64_t b) { return job.grad_drive + 4 * (k * job.batch + b) * n; };
    const OfGroup<S> to(first, last, [&](int64_t b) { return before_step(job, job.grad_y, k, b); });
    const OfGroup<const S> input_forget(first, last, [&](int64_t b) { return grad_drive(b); });
    const OfGroup<const S> output(first, last,
                                  [&](int64_t b) { return grad_drive(b) + kOutputGate * n; });
    add_rows(job.gates, 2 * n, n, input_forget.at, to.at, to.count);
    add_rows(job.gates + 2 * n * n, n, n, output.at, to.at, to.count);
}

inline void activate(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    if (job.lstm != 0) sum_gates(job, k, first, last);
    for (int64_t b = first; b < last; ++b) {
        for_lanes(job.posts, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
            if (job.lstm != 0) {
                fire_lstm<V>(job, k, b, j, access);
            } else {
                fire<V>(job, k, b, j, access);
            }
        });
        if (static_cast<Nonlinearity>(job.activity) == Nonlinearity::softmax && job.lstm == 0)
            softmax(job.y + (k * job.batch + b) * job.posts, job.posts);
    }
}

// The sum of a softmax's activities times their gradients.
inline V softmax_mean(const Job<S>& job, int64_t k, int64_t b) {
    const int64_t at = (k * job.batch + b) * job.posts;
    V mean{};
    for_lanes(job.posts, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
        mean += access.load(job.y + at + j) * access.load(job.grad_y + at + j);
    });
    return splat(sum_of(mean));
}

inline void activate_adjoint(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
        const bool whole = static_cast<Nonlinearity>(job.activity) == Nonlinearity::softmax;
        const V mean = whole ? softmax_mean(job, k, b) : V{};
        for_lanes(job.posts, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
            if (job.lstm != 0) {
                fire_lstm_adjoint<V>(job, k, b, j, access);
            } else {
                fire_adjoint<V>(job, k, b, j, access, mean);
            }
        });
    }
    if (job.lstm != 0) sum_gates_adjoint(job, k, first, last);
}

}  // namespace
