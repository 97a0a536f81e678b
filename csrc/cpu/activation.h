// Neurons over lanes.
#pragma once

#include "../neuron.h"
#include "connection.h"
#include "lanes.h"

namespace {

// sum_to_activity: in, the recurrent sum; out, the activity. A clamped neuron takes its drive.
void activate(plastikern::Nonlinearity kind, const S* drive, const bool* clamp, S* sum_to_activity,
              int64_t count) {
    plastikern::with_activity(kind, [&](auto activity) {
        for_lanes(count, [&](int64_t i, auto access, int) {
            const V z = access.load(sum_to_activity + i) + access.load(drive + i);
            access.store(sum_to_activity + i, activity.template forward<V>({z}).y);
        });
    });
    if (clamp == nullptr) return;
    for (int64_t i = 0; i < count; ++i)
        sum_to_activity[i] = clamp[i] ? drive[i] : sum_to_activity[i];
}

// Neurons [begin, end) with gates, of the cell of a kind of network.
void gated_forward(plastikern::NetworkKind kind, const plastikern::GatedStep<S>& s, int64_t begin,
                   int64_t end) {
    plastikern::with_cell(kind, [&](auto cell) {
        using Cell = decltype(cell);
        for_lanes(end - begin, [&](int64_t lane, auto access, int) {
            const int64_t i = begin + lane;
            typename Cell::template ForwardGiven<V> given;
            Cell::sums(
                [&](int which, V& sum) {
                    sum = access.load(s.drive + which * s.neurons + i);
                    if (which < Cell::weights)
                        sum = access.load(s.history + which * s.neurons + i) + sum;
                },
                given);
            given.before = access.load(s.before + i);
            if (s.recurrent != nullptr)
                access.store(s.recurrent + i,
                             access.load(s.history + plastikern::kPlastic * s.neurons + i));
            const auto step = Cell::forward(given);
            Cell::kept(
                [&](int row, const V& value) {
                    access.store(s.history + row * s.neurons + i, value);
                },
                step);
            access.store(s.hidden + i, step.hidden);
        });
    });
}

void gated_backward(plastikern::NetworkKind kind, const plastikern::GatedStepGrad<S>& s,
                    int64_t begin, int64_t end) {
    plastikern::with_cell(kind, [&](auto cell) {
        using Cell = decltype(cell);
        for_lanes(end - begin, [&](int64_t lane, auto access, int) {
            const int64_t i = begin + lane;
            typename Cell::template AdjointGiven<V> given{};
            Cell::kept(
                [&](int row, V& value) { value = access.load(s.history + row * s.neurons + i); },
                given);
            given.before = access.load(s.before + i);
            given.grad_hidden = access.load(s.grad_hidden + i);
            V carried{};
            if constexpr (Cell::carries) {
                given.grad_cell = access.load(s.grad_before + i);
            } else {
                carried = access.load(s.grad_before + i);
            }
            const V grad_post = access.load(s.grad_post + i);
            Cell::posts(
                [&](plastikern::Post post, V& grad) {
                    if (post == s.post) grad = grad + grad_post;
                },
                given);
            const auto grads = Cell::adjoint(given);
            Cell::grads(
                [&](int which, const V& grad) {
                    access.store(s.grad_drive + which * s.neurons + i, grad);
                },
                grads);
            access.store(s.grad_before + i, carried + grads.grad_before);
        });
    });
}

}  // namespace
