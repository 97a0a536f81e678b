// The neurons of a layer under a user's rule, from their sums and back, on every device. `access`
// loads and stores a V: neurons [j, j + its lanes), on a device one.
#pragma once

#include "rule.h"

namespace plastikern {

// Row `row` of the history of step k.
template <typename S>
PLASTIKERN_INLINE S* history_of(const Job<S>& job, int64_t k, int64_t b, int64_t row) {
    return job.history + k * job.history_step + (b * job.history_rows + row) * job.posts;
}
template <typename S>
PLASTIKERN_INLINE NetworkKind kind_of(const Job<S>& job) {
    return static_cast<NetworkKind>(job.kind);
}
// Activities before step k of a recurrent connection, or their gradients.
template <typename S>
PLASTIKERN_INLINE S* before_step(const Job<S>& job, S* activities, int64_t k, int64_t b) {
    return activities + ((k - 1) * job.batch + b) * job.posts;
}

// Step k. Of a softmax the activity is left to a pass over all neurons: here it is the sum.
template <typename V, typename S, class Access>
PLASTIKERN_INLINE void fire(const Job<S>& job, int64_t k, int64_t b, int64_t j, Access access) {
    const int64_t at = (k * job.batch + b) * job.posts + j;
    const V drive = access.load(job.drive + at);
    const V z = drive + access.load(job.sum + b * job.posts + j);
    V y = activity(static_cast<Nonlinearity>(job.activity), z);
    if (job.clamp != nullptr)
        y = access.load(job.clamp + at) != arithmetic::number<V>(0.0) ? drive : y;
    access.store(job.z + at, z);
    access.store(job.y + at, y);
}

// The gradients of the drive and of the sum. `mean`: of a softmax, the sum of activities times
// their gradients.
template <typename V, typename S, class Access>
PLASTIKERN_INLINE void fire_adjoint(const Job<S>& job, int64_t k, int64_t b, int64_t j,
                                    Access access, V mean) {
    const auto kind = static_cast<Nonlinearity>(job.activity);
    const int64_t at = (k * job.batch + b) * job.posts + j;
    const V y = access.load(job.y + at), grad_y = access.load(job.grad_y + at);
    const V grad_z = access.load(job.grad_z + at);
    const V grad =
        kind == Nonlinearity::softmax ? y * (grad_y - mean) : activity_adjoint(kind, y, grad_y);
    if (job.clamp == nullptr) return access.store(job.grad_sum + at, grad_z + grad);
    const auto clamped = access.load(job.clamp + at) != arithmetic::number<V>(0.0);
    access.store(job.grad_sum + at, grad_z + (clamped ? arithmetic::number<V>(0.0) : grad));
    access.store(job.grad_drive + at, grad_z + (clamped ? grad_y : grad));
}

// What the cell was before step k, N values: of a GRU, the activities.
template <class Cell, typename S>
PLASTIKERN_INLINE const S* carried(const Job<S>& job, int64_t k, int64_t b) {
    if constexpr (Cell::carries) {
        return k == 0 ? job.cell + b * job.posts : history_of(job, k - 1, b, Cell::drives);
    } else {
        return before_step(job, job.y, k, b);
    }
}

// Step k of neurons with gates, in whose history the other recurrent sums are.
template <class Cell, typename V, typename S, class Access>
PLASTIKERN_INLINE void fire_gated(const Job<S>& job, int64_t k, int64_t b, int64_t j,
                                  Access access) {
    const int64_t at = (k * job.batch + b) * job.posts, n = job.posts;
    const auto post = static_cast<Post>(job.post);
    const S* drive = job.drive + Cell::drives * at + j;
    S* history = history_of(job, k, b, 0) + j;
    const V total = access.load(job.sum + b * n + j);
    const V z = access.load(drive + kPlastic * n) + total;
    typename Cell::template ForwardGiven<V> given;
    Cell::sums(
        [&](int which, V& sum) {
            if (which == kPlastic) {
                sum = z;
            } else {
                sum = access.load(drive + which * n);
                if (which < Cell::weights) sum = sum + access.load(history + which * n);
            }
        },
        given);
    given.before = access.load(carried<Cell>(job, k, b) + j);
    const auto step = Cell::forward(given);
    Cell::kept([&](int row, const V& value) { access.store(history + row * n, value); }, step);
    const int64_t row = post_row(kind_of(job), post);
    if (row >= Cell::kept_rows) access.store(history + row * n, total);
    access.store(job.z + at + j, z);
    access.store(job.y + at + j, step.hidden);
}

template <class Cell, typename V, typename S, class Access>
PLASTIKERN_INLINE void fire_gated_adjoint(const Job<S>& job, int64_t k, int64_t b, int64_t j,
                                          Access access) {
    const int64_t at = (k * job.batch + b) * job.posts, n = job.posts;
    const auto own = static_cast<Post>(job.post);
    const S* history = history_of(job, k, b, 0) + j;
    S* grad_drive = job.grad_drive + Cell::drives * at + j;
    const V zero = arithmetic::number<V>(0.0);
    const V grad_post = job.grad_post == nullptr ? zero : access.load(job.grad_post + at + j);
    typename Cell::template AdjointGiven<V> given;
    Cell::kept([&](int row, V& value) { value = access.load(history + row * n); }, given);
    given.before = access.load(carried<Cell>(job, k, b) + j);
    Cell::posts([&](Post post, V& grad) { grad = post == own ? grad_post : zero; }, given);
    given.grad_hidden = access.load(job.grad_y + at + j);
    S* grad_before;
    if constexpr (Cell::carries) {
        grad_before = job.grad_cell + b * n + j;
        given.grad_cell = access.load(grad_before) + given.grad_cell;
    } else {
        grad_before = before_step(job, job.grad_y, k, b) + j;
    }
    const auto grads = Cell::adjoint(given);
    V grad_sum = zero;
    Cell::grads(
        [&](int which, const V& found) {
            if (which == kPlastic) {
                grad_sum = found + access.load(job.grad_z + at + j);
                access.store(grad_drive + which * n, grad_sum);
            } else {
                access.store(grad_drive + which * n, found);
            }
        },
        grads);
    if constexpr (Cell::carries) {
        access.store(grad_before, grads.grad_before);
    } else {
        access.store(grad_before, access.load(grad_before) + grads.grad_before);
    }
    const bool apart = post_row(kind_of(job), own) >= Cell::kept_rows;
    access.store(job.grad_sum + at + j, apart ? grad_sum + grad_post : grad_sum);
}

}  // namespace plastikern
