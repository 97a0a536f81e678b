// Activations over lanes. In single precision they are computed here, to about two units in the
// last place; in double precision, where the kernels serve as proof and not for speed, they are
// those of the C library.
#pragma once

#include <cmath>
#include <type_traits>

#include "connection.h"
#include "lanes.h"

namespace {

// e^x by x = n ln 2 + r, |r| <= ln 2 / 2, and the Taylor series of e^r to r^7 (remainder below
// 6e-9).
template <typename V>
LANES_INLINE V exponential(V x) {
    typedef int32_t Int __attribute__((vector_size(sizeof(V))));
    x = x < -87.0f ? V{} - 87.0f : x;
    x = x > 88.0f ? V{} + 88.0f : x;
    const V round = V{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    V n = fused(x, number<V>(1.44269504f), round) - round;
    // ln 2 in two parts
    V r = fused(n, number<V>(2.12194440e-4f), fused(n, number<V>(-0.693359375f), x));
    V p = number<V>(1.0f / 5040);
    for (float coefficient : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        p = fused(p, r, number<V>(coefficient));
    Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
    return p * (V)exponent;
}

template <typename V>
LANES_INLINE V sigmoid(V x) {
    return 1.0f / (1.0f + exponential(-x));
}

// Near zero an odd polynomial (fitted for the smallest relative error on |x| < 0.625), else 1 - 2 /
// (e^2|x| + 1).
template <typename V>
LANES_INLINE V hyperbolic_tangent(V x) {
    V size = x < 0.0f ? -x : x;
    V far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    far = x < 0.0f ? -far : far;
    V s = x * x;
    V p = V{} - 5.603908450e-3f;
    for (float coefficient : {2.055171372e-2f, -5.371410532e-2f, 1.333115278e-1f, -3.333327208e-1f})
        p = fused(p, s, number<V>(coefficient));
    return size < 0.625f ? fused(x, s * p, x) : far;
}

LANES_INLINE V tanh_of(V x) {
    if constexpr (std::is_same_v<S, float>) return hyperbolic_tangent(x);
    for (int64_t lane = 0; lane < kLanes; ++lane) x[lane] = std::tanh(x[lane]);
    return x;
}

LANES_INLINE V sigmoid_of(V x) {
    if constexpr (std::is_same_v<S, float>) return sigmoid(x);
    for (int64_t lane = 0; lane < kLanes; ++lane) x[lane] = 1 / (1 + std::exp(-x[lane]));
    return x;
}

// sum_to_activity: in, the recurrent sum; out, the activity. A clamped neuron takes its drive.
void activate(plastikern::Nonlinearity kind, const S* drive, const bool* clamp, S* sum_to_activity,
              int64_t count) {
    for_lanes(count, [&](int64_t i, auto access, int) {
        V u = access.load(drive + i), y = access.load(sum_to_activity + i) + u;
        if (kind == plastikern::Nonlinearity::relu) y = y < S(0) ? V{} : y;
        if (kind == plastikern::Nonlinearity::tanh) y = tanh_of(y);
        if (kind == plastikern::Nonlinearity::sigmoid) y = sigmoid_of(y);
        access.store(sum_to_activity + i, y);
    });
    if (clamp == nullptr) return;
    for (int64_t i = 0; i < count; ++i)
        sum_to_activity[i] = clamp[i] ? drive[i] : sum_to_activity[i];
}

// Neurons [begin, end) of an LSTM: gates in the order i, f, g, o.
void lstm_forward(const plastikern::LstmStep<S>& s, int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t lane, auto access, int) {
        const int64_t i = begin + lane, f = i + s.neurons, g = f + s.neurons, o = g + s.neurons;
        const V recurrent = access.load(s.gates + g);
        const V input = sigmoid_of(access.load(s.gates + i) + access.load(s.drive + i));
        const V forget = sigmoid_of(access.load(s.gates + f) + access.load(s.drive + f));
        const V candidate = tanh_of(recurrent + access.load(s.drive + g));
        const V output = sigmoid_of(access.load(s.gates + o) + access.load(s.drive + o));
        const V cell = fused(forget, access.load(s.cell_before + i), input * candidate);
        if (s.recurrent != nullptr) access.store(s.recurrent + i, recurrent);
        access.store(s.gates + i, input);
        access.store(s.gates + f, forget);
        access.store(s.gates + g, candidate);
        access.store(s.gates + o, output);
        access.store(s.cell + i, cell);
        access.store(s.hidden + i, output * tanh_of(cell));
    });
}

void lstm_backward(const plastikern::LstmStepGrad<S>& s, int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t lane, auto access, int) {
        const int64_t i = begin + lane, f = i + s.neurons, g = f + s.neurons, o = g + s.neurons;
        const V input = access.load(s.gates + i), forget = access.load(s.gates + f);
        const V candidate = access.load(s.gates + g), output = access.load(s.gates + o);
        const V squashed = tanh_of(access.load(s.cell + i)),
                grad_hidden = access.load(s.grad_hidden + i);
        const V grad_cell =
            fused(grad_hidden * output, 1 - squashed * squashed, access.load(s.grad_cell + i));
        V grad_candidate = grad_cell * input;
        if (s.grad_candidate != nullptr) grad_candidate += access.load(s.grad_candidate + i);
        access.store(s.grad_drive + i, grad_cell * candidate * input * (1 - input));
        access.store(s.grad_drive + f,
                     grad_cell * access.load(s.cell_before + i) * forget * (1 - forget));
        access.store(s.grad_drive + g, grad_candidate * (1 - candidate * candidate));
        access.store(s.grad_drive + o, grad_hidden * squashed * output * (1 - output));
        access.store(s.grad_cell + i, grad_cell * forget);
    });
}

}  // namespace
