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

// The other recurrent sums of neurons with gates: those before the plastic one, those behind it.
template <class Cell>
constexpr int64_t kBehind = Cell::weights - kPlastic - 1;

// Every weight is read once for the group.
template <class Cell>
void sum_gates(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    const int64_t n = job.posts;
    const OfGroup<const S> before(first, last,
                                  [&](int64_t b) { return before_step(job, job.y, k, b); });
    const OfGroup<S> sums(first, last, [&](int64_t b) { return history_of(job, k, b, 0); });
    multiply(job.gates, kPlastic * n, n, before.at, sums.at, before.count);
    if constexpr (kBehind<Cell> > 0) {
        const OfGroup<S> behind(first, last,
                                [&](int64_t b) { return history_of(job, k, b, kPlastic + 1); });
        multiply(job.gates + kPlastic * n * n, kBehind<Cell> * n, n, before.at, behind.at,
                 before.count);
    }
}

// What they give back to the activities before the step.
template <class Cell>
void sum_gates_adjoint(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    const int64_t n = job.posts;
    const auto grad_drive = [&](int64_t b) {
        return job.grad_drive + Cell::drives * (k * job.batch + b) * n;
    };
    const OfGroup<S> to(first, last, [&](int64_t b) { return before_step(job, job.grad_y, k, b); });
    const OfGroup<const S> grads(first, last, [&](int64_t b) { return grad_drive(b); });
    add_rows(job.gates, kPlastic * n, n, grads.at, to.at, to.count);
    if constexpr (kBehind<Cell> > 0) {
        const OfGroup<const S> behind(
            first, last, [&](int64_t b) { return grad_drive(b) + (kPlastic + 1) * n; });
        add_rows(job.gates + kPlastic * n * n, kBehind<Cell> * n, n, behind.at, to.at, to.count);
    }
}

inline void activate(const Job<S>& job, int64_t k, int64_t first, int64_t last) {
    with_cell(kind_of(job), [&](auto cell) {
        using Cell = decltype(cell);
        sum_gates<Cell>(job, k, first, last);
        for (int64_t b = first; b < last; ++b) {
            for_lanes(job.posts, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
                fire_gated<Cell, V>(job, k, b, j, access);
            });
        }
    });
    if (gated(kind_of(job))) return;
    for (int64_t b = first; b < last; ++b) {
        for_lanes(job.posts, [&](int64_t j, auto access, int)
                                 __attribute__((always_inline)) { fire<V>(job, k, b, j, access); });
        if (static_cast<Nonlinearity>(job.activity) == Nonlinearity::softmax)
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
    with_cell(kind_of(job), [&](auto cell) {
        using Cell = decltype(cell);
        for (int64_t b = first; b < last; ++b) {
            for_lanes(job.posts, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
                fire_gated_adjoint<Cell, V>(job, k, b, j, access);
            });
        }
        sum_gates_adjoint<Cell>(job, k, first, last);
    });
    if (gated(kind_of(job))) return;
    for (int64_t b = first; b < last; ++b) {
        const bool whole = static_cast<Nonlinearity>(job.activity) == Nonlinearity::softmax;
        const V mean = whole ? softmax_mean(job, k, b) : V{};
        for_lanes(job.posts, [&](int64_t j, auto access, int) __attribute__((always_inline)) {
            fire_adjoint<V>(job, k, b, j, access, mean);
        });
    }
}

}  // namespace
