// The neurons of a layer under a user's rule, from their sums and back, on every device. `access`
// loads and stores a V: neurons [j, j + its lanes), on a device one.
#pragma once

#include "rule.h"

namespace plastikern {

// Row `row` of the history of step k; the cell before the step.
template <typename S>
PLASTIKERN_INLINE S* history_of(const Job<S>& job, int64_t k, int64_t b, int64_t row) {
    return job.history + k * job.history_step + (b * job.history_rows + row) * job.posts;
}
constexpr int64_t kInputGate = 0, kOutputGate = 3, kCell = 4, kTotal = 5;
template <typename S>
PLASTIKERN_INLINE const S* cell_before(const Job<S>& job, int64_t k, int64_t b) {
    return k == 0 ? job.cell + b * job.posts : history_of(job, k - 1, b, kCell);
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

// Step k of an LSTM, in whose history the recurrent sums of i, f and o are.
template <typename V, typename S, class Access>
PLASTIKERN_INLINE void fire_lstm(const Job<S>& job, int64_t k, int64_t b, int64_t j,
                                 Access access) {
    const int64_t at = (k * job.batch + b) * job.posts, n = job.posts;
    const S* drive = job.drive + 4 * at + j;
    S* gates = history_of(job, k, b, kInputGate) + j;
    const V total = access.load(job.sum + b * n + j), z = access.load(drive + 2 * n) + total;
    const auto step = generated::lstm::forward<V>(
        {.input_sum = access.load(drive) + access.load(gates),
         .forget_sum = access.load(drive + n) + access.load(gates + n),
         .candidate_sum = z,
         .output_sum = access.load(drive + 3 * n) + access.load(gates + 3 * n),
         .cell_before = access.load(cell_before(job, k, b) + j)});
    access.store(gates, step.input);
    access.store(gates + n, step.forget);
    access.store(gates + 2 * n, step.candidate);
    access.store(gates + 3 * n, step.output);
    access.store(gates + kCell * n, step.cell);
    if (static_cast<Post>(job.post) == Post::recurrent) access.store(gates + kTotal * n, total);
    access.store(job.z + at + j, z);
    access.store(job.y + at + j, step.hidden);
}

template <typename V, typename S, class Access>
PLASTIKERN_INLINE void fire_lstm_adjoint(const Job<S>& job, int64_t k, int64_t b, int64_t j,
                                         Access access) {
    const int64_t at = (k * job.batch + b) * job.posts, n = job.posts;
    const auto post = static_cast<Post>(job.post);
    const S* gates = history_of(job, k, b, kInputGate) + j;
    S *grad_cell = job.grad_cell + b * n + j, *grad_drive = job.grad_drive + 4 * at + j;
    const V zero = arithmetic::number<V>(0.0);
    const V grad_post = job.grad_post == nullptr ? zero : access.load(job.grad_post + at + j);
    const auto grads = generated::lstm::adjoint<V>(
        {.input = access.load(gates),
         .forget = access.load(gates + n),
         .candidate = access.load(gates + 2 * n),
         .output = access.load(gates + 3 * n),
         .cell = access.load(gates + kCell * n),
         .cell_before = access.load(cell_before(job, k, b) + j),
         .grad_candidate = post == Post::candidate ? grad_post : zero,
         .grad_cell = access.load(grad_cell) + (post == Post::cell ? grad_post : zero),
         .grad_hidden = access.load(job.grad_y + at + j)});
    const V grad_z = grads.grad_candidate_sum + access.load(job.grad_z + at + j);
    access.store(grad_drive, grads.grad_input_sum);
    access.store(grad_drive + n, grads.grad_forget_sum);
    access.store(grad_drive + 2 * n, grad_z);
    access.store(grad_drive + 3 * n, grads.grad_output_sum);
    access.store(grad_cell, grads.grad_cell_before);
    access.store(job.grad_sum + at + j, post == Post::recurrent ? grad_z + grad_post : grad_z);
}

}  // namespace plastikern
