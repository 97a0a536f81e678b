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

// Neurons [begin, end) of an LSTM: gates in the order i, f, g, o.
void lstm_forward(const plastikern::LstmStep<S>& s, int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t lane, auto access, int) {
        const int64_t i = begin + lane, f = i + s.neurons, g = f + s.neurons, o = g + s.neurons;
        const auto sum = [&](int64_t gate) {
            return access.load(s.gates + gate) + access.load(s.drive + gate);
        };
        if (s.recurrent != nullptr) access.store(s.recurrent + i, access.load(s.gates + g));
        const auto step = plastikern::generated::lstm::forward<V>(
            {.input_sum = sum(i),
             .forget_sum = sum(f),
             .candidate_sum = sum(g),
             .output_sum = sum(o),
             .cell_before = access.load(s.cell_before + i)});
        access.store(s.gates + i, step.input);
        access.store(s.gates + f, step.forget);
        access.store(s.gates + g, step.candidate);
        access.store(s.gates + o, step.output);
        access.store(s.cell + i, step.cell);
        access.store(s.hidden + i, step.hidden);
    });
}

void lstm_backward(const plastikern::LstmStepGrad<S>& s, int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t lane, auto access, int) {
        const int64_t i = begin + lane, f = i + s.neurons, g = f + s.neurons, o = g + s.neurons;
        const auto grads = plastikern::generated::lstm::adjoint<V>(
            {.input = access.load(s.gates + i),
             .forget = access.load(s.gates + f),
             .candidate = access.load(s.gates + g),
             .output = access.load(s.gates + o),
             .cell = access.load(s.cell + i),
             .cell_before = access.load(s.cell_before + i),
             .grad_candidate =
                 s.grad_candidate == nullptr ? V{} : access.load(s.grad_candidate + i),
             .grad_cell = access.load(s.grad_cell + i),
             .grad_hidden = access.load(s.grad_hidden + i)});
        access.store(s.grad_drive + i, grads.grad_input_sum);
        access.store(s.grad_drive + f, grads.grad_forget_sum);
        access.store(s.grad_drive + g, grads.grad_candidate_sum);
        access.store(s.grad_drive + o, grads.grad_output_sum);
        access.store(s.grad_cell + i, grads.grad_cell_before);
    });
}

}  // namespace
