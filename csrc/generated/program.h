// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include <cstdint>

namespace plastikern {

enum class NetworkKind : int64_t { rnn, lstm, linear, gru };
enum class Nonlinearity : int64_t { tanh, relu, sigmoid, identity, softmax };
enum class Post : int64_t { candidate, recurrent, cell, hidden };
enum class ModulatorInput : int64_t { hidden, previous_hidden, cell };
constexpr Nonlinearity kModulatorNonlinearities[] = {Nonlinearity::tanh, Nonlinearity::sigmoid, Nonlinearity::identity};
// Of networks with gates: the block of the drive that the plastic sum goes to; the row of the history
// that a post is, -1 for the output; how many rows are kept. Of all: blocks of N values of the drive,
// and of N rows of the recurrent weights.
constexpr int64_t kPlastic = 2;
PLASTIKERN_INLINE constexpr int64_t post_row(NetworkKind kind, Post post) {
    if (kind == NetworkKind::lstm && post == Post::candidate) return 2;
    if (kind == NetworkKind::lstm && post == Post::recurrent) return 5;
    if (kind == NetworkKind::lstm && post == Post::cell) return 4;
    if (kind == NetworkKind::gru && post == Post::candidate) return 3;
    if (kind == NetworkKind::gru && post == Post::recurrent) return 2;
    return -1;
}
PLASTIKERN_INLINE constexpr int64_t history_rows(NetworkKind kind, Post post) {
    if (kind == NetworkKind::lstm && post == Post::candidate) return 5;
    if (kind == NetworkKind::lstm && post == Post::recurrent) return 6;
    if (kind == NetworkKind::lstm && post == Post::cell) return 5;
    if (kind == NetworkKind::lstm && post == Post::hidden) return 5;
    if (kind == NetworkKind::gru && post == Post::candidate) return 4;
    if (kind == NetworkKind::gru && post == Post::recurrent) return 4;
    if (kind == NetworkKind::gru && post == Post::hidden) return 4;
    return 0;
}
PLASTIKERN_INLINE constexpr int64_t drive_blocks(NetworkKind kind) {
    if (kind == NetworkKind::lstm) return 4;
    if (kind == NetworkKind::gru) return 4;
    return 1;
}
PLASTIKERN_INLINE constexpr int64_t weight_blocks(NetworkKind kind) {
    if (kind == NetworkKind::lstm) return 4;
    if (kind == NetworkKind::gru) return 3;
    return 1;
}

// What a key says, in its order, and by which words.
constexpr const char* kWords[][9] = {
    {"kind", "rnn", "lstm", "linear", "gru"},
    {"rule", "hebb", "oja"},
    {"constraint", "decay", "clip", "soft_clip", "clip_on_read", "none"},
    {"nonlinearity", "tanh", "relu", "sigmoid", "identity", "softmax"},
    {"post", "candidate", "recurrent", "cell", "hidden"},
    {"modulation", "none", "simple", "retroactive"},
    {"modulator_input", "hidden", "previous_hidden", "cell"},
    {"modulator_nonlinearity", "tanh", "sigmoid", "linear"},
};

// What may be true of a program or of a call of it.
namespace fact {
constexpr unsigned rnn = 1u << 0;
constexpr unsigned lstm = 1u << 1;
constexpr unsigned linear = 1u << 2;
constexpr unsigned gru = 1u << 3;
constexpr unsigned gated = 1u << 4;
constexpr unsigned recurrent = 1u << 5;
constexpr unsigned unmodulated = 1u << 6;
constexpr unsigned modulated = 1u << 7;
constexpr unsigned retroactive = 1u << 8;
constexpr unsigned driven = 1u << 9;
constexpr unsigned sequence = 1u << 10;
constexpr unsigned last = 1u << 11;
constexpr unsigned kept = 1u << 12;
constexpr unsigned reverses = 1u << 13;
constexpr unsigned apart = 1u << 14;
constexpr unsigned never = 1u << 15;
}  // namespace fact
constexpr const char* kFacts[] = {
    "a simple recurrent network",
    "an LSTM",
    "a linear layer",
    "a GRU",
    "a network with gates",
    "a recurrent network",
    "a network without a modulator",
    "a network with a modulator",
    "retroactive modulation",
    "a pass that computes activities",
    "a sequence",
    "a pass to the end",
    "a pass that keeps what its gradients need",
    "a pass whose traces run backwards",
    "a network whose sums have gradients of their own",
    "nothing",
};

// The tensors of a call: plastikern/program.py says what this means.
enum class Value { number, flag, integer };
struct Operand {
    const char *name, *shape;
    unsigned when, needed;
    Value value;
    bool asked;
};
enum class Operands : int { drive, features, hidden, cell, trace, eligibility, weight, alpha, rate, rate_scale, eligibility_rate, modulator_weight, modulator_bias, modulated, clamp, lengths };
constexpr Operand kOperands[] = {
    {"drive", "TBD", fact::driven, 0, Value::number, false},
    {"features", "TBI", fact::linear, 0, Value::number, false},
    {"hidden", "BO", fact::recurrent, fact::never, Value::number, false},
    {"cell", "BO", fact::lstm, fact::never, Value::number, false},
    {"trace", "BOI", 0, fact::never, Value::number, false},
    {"eligibility", "BOI", fact::retroactive, fact::never, Value::number, false},
    {"weight", "GI", 0, 0, Value::number, false},
    {"alpha", "P", 0, 0, Value::number, false},
    {"rate", "P", 0, fact::unmodulated, Value::number, false},
    {"rate_scale", "P", fact::modulated, fact::never, Value::number, false},
    {"eligibility_rate", "P", fact::retroactive, 0, Value::number, false},
    {"modulator_weight", "O", fact::modulated, 0, Value::number, false},
    {"modulator_bias", "1", fact::modulated, 0, Value::number, false},
    {"modulated", "O", fact::retroactive, fact::never, Value::flag, false},
    {"clamp", "TBO", fact::rnn, fact::never, Value::flag, false},
    {"lengths", "B", fact::sequence, fact::never, Value::integer, false},
};
enum class Results : int { output, hidden, cell, trace, eligibility, history, modulators, checkpoints, lost };
constexpr Operand kResults[] = {
    {"output", "TBO", 0, 0, Value::number, false},
    {"hidden", "BO", fact::recurrent | fact::sequence | fact::last, 0, Value::number, false},
    {"cell", "BO", fact::lstm | fact::last, 0, Value::number, false},
    {"trace", "BOI", fact::last, 0, Value::number, false},
    {"eligibility", "BOI", fact::retroactive | fact::last, 0, Value::number, false},
    {"history", "TBH", fact::gated | fact::kept, 0, Value::number, false},
    {"modulators", "TB", fact::modulated | fact::kept, 0, Value::number, false},
    {"checkpoints", "CBKOR", fact::sequence | fact::kept, 0, Value::number, false},
    {"lost", "SBO", fact::sequence | fact::kept | fact::reverses, 0, Value::flag, false},
};
enum class Kept : int { output, history, modulators, checkpoints, lost, trace_out, eligibility_out };
constexpr Operand kKept[] = {
    {"output", "TBO", 0, 0, Value::number, false},
    {"history", "TBH", fact::gated | fact::kept, 0, Value::number, false},
    {"modulators", "TB", fact::modulated | fact::kept, 0, Value::number, false},
    {"checkpoints", "CBKOR", fact::sequence | fact::kept, 0, Value::number, false},
    {"lost", "SBO", fact::sequence | fact::kept | fact::reverses, fact::never, Value::flag, false},
    {"trace_out", "BOI", fact::reverses, 0, Value::number, false},
    {"eligibility_out", "BOI", fact::retroactive | fact::reverses, 0, Value::number, false},
};
enum class Upstream : int { grad_output, grad_hidden, grad_cell, grad_trace, grad_eligibility };
constexpr Operand kUpstream[] = {
    {"grad_output", "TBO", 0, fact::never, Value::number, false},
    {"grad_hidden", "BO", fact::recurrent | fact::sequence | fact::last, fact::never, Value::number, false},
    {"grad_cell", "BO", fact::lstm | fact::last, fact::never, Value::number, false},
    {"grad_trace", "BOI", fact::last, fact::never, Value::number, false},
    {"grad_eligibility", "BOI", fact::retroactive | fact::last, fact::never, Value::number, false},
};
enum class Grads : int { drive, sum, features, hidden, cell, trace, eligibility, alpha, rate, rate_scale, eligibility_rate, modulator };
constexpr Operand kGrads[] = {
    {"drive", "TBD", 0, 0, Value::number, false},
    {"sum", "TBO", fact::apart, 0, Value::number, false},
    {"features", "TBI", fact::linear, 0, Value::number, true},
    {"hidden", "BO", fact::recurrent, 0, Value::number, false},
    {"cell", "BO", fact::lstm, 0, Value::number, false},
    {"trace", "BOI", 0, 0, Value::number, true},
    {"eligibility", "BOI", fact::retroactive, 0, Value::number, true},
    {"alpha", "P", 0, 0, Value::number, true},
    {"rate", "P", 0, 0, Value::number, true},
    {"rate_scale", "P", fact::modulated, 0, Value::number, true},
    {"eligibility_rate", "P", fact::retroactive, 0, Value::number, true},
    {"modulator", "TB", fact::modulated, 0, Value::number, false},
};
constexpr int kDifferentiable = 13;

}  // namespace plastikern
