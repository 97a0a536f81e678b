// Where the CPU kernels meet torch: tensors are checked, outputs and scratch allocated, pointers handed on.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "rnn.h"
#include "team.h"

namespace plastikern {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

Tensor compact(const Tensor& tensor) { return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor); }

MaybeTensor compact(const MaybeTensor& tensor) {
    return tensor.has_value() ? MaybeTensor(compact(*tensor)) : std::nullopt;
}

void check(const char* name, const Tensor& tensor, std::vector<int64_t> shape, ScalarType dtype) {
    STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the cpu");
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must have dtype ", torch::headeronly::toString(dtype),
                    "; got ", torch::headeronly::toString(tensor.scalar_type()));
    bool same = tensor.dim() == static_cast<int64_t>(shape.size());
    for (size_t i = 0; same && i < shape.size(); ++i) same = tensor.size(i) == shape[i];
    STD_TORCH_CHECK(same, name, " has the wrong shape");
}

void check(const char* name, const MaybeTensor& tensor, std::vector<int64_t> shape, ScalarType dtype) {
    if (tensor.has_value()) check(name, *tensor, shape, dtype);
}

template <typename S>
const S* pointer(const Tensor& tensor) {
    return static_cast<const S*>(tensor.const_data_ptr());
}

template <typename S>
const S* pointer(const MaybeTensor& tensor) {
    return tensor.has_value() ? pointer<S>(*tensor) : nullptr;
}

template <typename S>
S* output_pointer(const Tensor& tensor) {
    return static_cast<S*>(tensor.mutable_data_ptr());
}

// A parameter of a connection with `rows` neurons: (rows, columns), (rows,) or ().
int64_t row_stride(const char* name, const Tensor& tensor, int64_t rows, int64_t columns, ScalarType dtype) {
    if (tensor.dim() == 0) return check(name, tensor, {}, dtype), 0;
    if (tensor.dim() == 1) return check(name, tensor, {rows}, dtype), 1;
    return check(name, tensor, {rows, columns}, dtype), columns;
}

// The tensors of one call, made contiguous and kept alive; their sizes and the rule.
struct Call {
    int64_t steps, batch, neurons;
    bool batch_first;
    ScalarType dtype;
    MaybeTensor hidden, trace, clamp, lengths;
    Tensor weight, alpha, eta;
    int64_t rule, constraint, nonlinearity, checkpoint_every;
    double clip;

    // `sequence` has the shape of the drive: (T, B, N), (B, T, N), or (B, N) for a step.
    Call(const Tensor& sequence, const MaybeTensor& hidden, const MaybeTensor& trace, const Tensor& weight,
         const Tensor& alpha, const Tensor& eta, const MaybeTensor& clamp, const MaybeTensor& lengths, int64_t rule,
         int64_t constraint, double clip, int64_t nonlinearity, bool batch_first, int64_t checkpoint_every)
        : batch_first(batch_first),
          dtype(sequence.scalar_type()),
          hidden(compact(hidden)),
          trace(compact(trace)),
          clamp(compact(clamp)),
          lengths(compact(lengths)),
          weight(compact(weight)),
          alpha(compact(alpha)),
          eta(compact(eta)),
          rule(rule),
          constraint(constraint),
          nonlinearity(nonlinearity),
          checkpoint_every(checkpoint_every),
          clip(clip) {
        const bool is_step = sequence.dim() == 2;
        STD_TORCH_CHECK(is_step || sequence.dim() == 3, "drive must have 2 or 3 dimensions; got ", sequence.dim());
        STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, "drive must be float32 or float64");
        steps = is_step ? 1 : sequence.size(batch_first ? 1 : 0);
        batch = is_step ? sequence.size(0) : sequence.size(batch_first ? 0 : 1);
        neurons = sequence.size(sequence.dim() - 1);
        const std::vector<int64_t> sequence_shape(sequence.sizes().begin(), sequence.sizes().end());
        check("drive", sequence, sequence_shape, dtype);
        check("hidden", hidden, {batch, neurons}, dtype);
        check("trace", trace, {batch, neurons, neurons}, dtype);
        check("weight", weight, {neurons, neurons}, dtype);
        check("clamp", clamp, sequence_shape, ScalarType::Bool);
        check("lengths", lengths, {batch}, ScalarType::Long);
        const bool known =
            rule >= 0 && rule <= 1 && constraint >= 0 && constraint <= 4 && nonlinearity >= 0 && nonlinearity <= 3;
        STD_TORCH_CHECK(known && (rule == 0 || constraint != 0), "rule, constraint or nonlinearity out of range");
        STD_TORCH_CHECK(checkpoint_every >= 0, "checkpoint_every must not be negative");
        for (int64_t b = 0; lengths.has_value() && b < batch; ++b) {
            const int64_t length = pointer<int64_t>(this->lengths)[b];
            STD_TORCH_CHECK(length >= 0 && length <= steps, "lengths must lie from 0 to ", steps, "; got ", length);
        }
    }

    template <typename S>
    Sequence<S> layout(S* data) const {
        const int64_t one = neurons;
        return batch_first ? Sequence<S>{data, one, steps * one} : Sequence<S>{data, batch * one, one};
    }

    std::vector<int64_t> sequence_shape() const {
        return batch_first ? std::vector<int64_t>{batch, steps, neurons} : std::vector<int64_t>{steps, batch, neurons};
    }

    int64_t padded_neurons() const {
        return dtype == ScalarType::Float ? padded<float>(neurons) : padded<double>(neurons);
    }

    int64_t checkpoints() const { return checkpoint_every > 0 && steps > 0 ? (steps - 1) / checkpoint_every : 0; }

    template <typename S>
    Rnn<S> network() const {
        Rnn<S> n{};
        n.steps = steps;
        n.batch = batch;
        n.neurons = neurons;
        n.threads = static_cast<int64_t>(torch::stable::get_num_threads());
        n.rule = static_cast<RuleKind>(rule);
        n.constraint = static_cast<ConstraintKind>(constraint);
        n.nonlinearity = static_cast<Nonlinearity>(nonlinearity);
        n.connection.pres = neurons;
        n.connection.weight = pointer<S>(weight);
        n.connection.alpha = pointer<S>(alpha);
        n.connection.rate = pointer<S>(eta);
        n.connection.weight_stride = neurons;
        n.connection.alpha_stride = row_stride("alpha", alpha, neurons, neurons, dtype);
        n.connection.rate_stride = row_stride("eta", eta, neurons, neurons, dtype);
        n.connection.alpha_per_synapse = alpha.dim() == 2;
        n.connection.rate_per_synapse = eta.dim() == 2;
        STD_TORCH_CHECK(!n.connection.rate_per_synapse || n.connection.alpha_per_synapse,
                        "eta per connection needs alpha per connection");
        n.connection.bound = static_cast<S>(clip);
        n.hidden = pointer<S>(hidden);
        n.trace = pointer<S>(trace);
        n.clamp = layout(pointer<bool>(clamp));
        n.lengths = pointer<int64_t>(lengths);
        n.checkpoint_every = checkpoint_every;
        return n;
    }
};

template <typename S>
void forward(const Call& call, const Tensor& drive, const Tensor& output, const Tensor& hidden, const Tensor& trace,
             const Tensor* checkpoints) {
    if (call.batch == 0) return;
    const Rnn<S> network = call.network<S>();
    const RnnOutputs<S> outputs = {call.layout(output_pointer<S>(output)), output_pointer<S>(hidden),
                                   output_pointer<S>(trace),
                                   checkpoints == nullptr ? nullptr : output_pointer<S>(*checkpoints)};
    rnn_forward(network, call.layout(pointer<S>(drive)), outputs);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> rnn_sequence(
    const Tensor& drive_in, const MaybeTensor& hidden, const MaybeTensor& trace, const Tensor& weight,
    const Tensor& alpha, const Tensor& eta, const MaybeTensor& clamp, const MaybeTensor& lengths, int64_t rule,
    int64_t constraint, double clip, int64_t nonlinearity, bool batch_first, int64_t checkpoint_every) {
    STD_TORCH_CHECK(drive_in.dim() == 3, "drive must have 3 dimensions; got ", drive_in.dim());
    const Tensor drive = compact(drive_in);
    const Call call(drive, hidden, trace, weight, alpha, eta, clamp, lengths, rule, constraint, clip, nonlinearity,
                    batch_first, checkpoint_every);
    Tensor output = torch::stable::empty_like(drive);
    Tensor last = torch::stable::new_empty(drive, {call.batch, call.neurons});
    Tensor changed = torch::stable::new_empty(drive, {call.batch, call.neurons, call.neurons});
    Tensor checkpoints =
        torch::stable::new_empty(drive, {call.checkpoints(), call.batch, call.neurons, call.padded_neurons()});
    if (call.dtype == ScalarType::Float) {
        forward<float>(call, drive, output, last, changed, &checkpoints);
    } else {
        forward<double>(call, drive, output, last, changed, &checkpoints);
    }
    return {output, last, changed, checkpoints};
}

std::tuple<Tensor, Tensor> rnn_step(const Tensor& drive_in, const MaybeTensor& hidden, const MaybeTensor& trace,
                                    const Tensor& weight, const Tensor& alpha, const Tensor& eta,
                                    const MaybeTensor& clamp, int64_t rule, int64_t constraint, double clip,
                                    int64_t nonlinearity) {
    STD_TORCH_CHECK(drive_in.dim() == 2, "drive must have 2 dimensions; got ", drive_in.dim());
    const Tensor drive = compact(drive_in);
    const Call call(drive, hidden, trace, weight, alpha, eta, clamp, std::nullopt, rule, constraint, clip, nonlinearity,
                    false, 0);
    Tensor output = torch::stable::empty_like(drive);
    Tensor changed = torch::stable::new_empty(drive, {call.batch, call.neurons, call.neurons});
    if (call.dtype == ScalarType::Float) {
        forward<float>(call, drive, output, output, changed, nullptr);
    } else {
        forward<double>(call, drive, output, output, changed, nullptr);
    }
    return {output, changed};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> rnn_sequence_backward(
    const MaybeTensor& grad_output_in, const MaybeTensor& grad_hidden_in, const MaybeTensor& grad_trace_in,
    const Tensor& output_in, const MaybeTensor& hidden, const MaybeTensor& trace, const Tensor& trace_out_in,
    const Tensor& checkpoints_in, const Tensor& weight, const Tensor& alpha, const Tensor& eta,
    const MaybeTensor& clamp, const MaybeTensor& lengths, int64_t rule, int64_t constraint, double clip,
    int64_t nonlinearity, bool batch_first, int64_t checkpoint_every, bool reversible, bool needs_trace,
    bool needs_weight, bool needs_alpha, bool needs_eta) {
    using torch::stable::new_empty;
    STD_TORCH_CHECK(output_in.dim() == 3, "output must have 3 dimensions; got ", output_in.dim());
    STD_TORCH_CHECK(checkpoint_every >= 1, "checkpoint_every must be positive; got ", checkpoint_every);
    const Tensor output = compact(output_in), trace_out = compact(trace_out_in), checkpoints = compact(checkpoints_in);
    const MaybeTensor grad_output = compact(grad_output_in), grad_hidden = compact(grad_hidden_in),
                      grad_trace = compact(grad_trace_in);
    const Call call(output, hidden, trace, weight, alpha, eta, clamp, lengths, rule, constraint, clip, nonlinearity,
                    batch_first, checkpoint_every);
    const std::vector<int64_t> traces = {call.batch, call.neurons, call.neurons};
    const bool reverse = reversible && rule == 0 && constraint == 0;
    check("grad_output", grad_output, call.sequence_shape(), call.dtype);
    check("grad_hidden", grad_hidden, {call.batch, call.neurons}, call.dtype);
    check("grad_trace", grad_trace, traces, call.dtype);
    if (reverse) check("trace_out", trace_out, traces, call.dtype);
    if (call.checkpoints() > 0) {
        check("checkpoints", checkpoints, {call.checkpoints(), call.batch, call.neurons, call.padded_neurons()},
              call.dtype);
    }
    const std::vector<int64_t> none = {0};
    const bool empty = call.batch == 0;
    const auto like = [&](bool needed, const Tensor& tensor) {
        if (!needed) return new_empty(tensor, none);
        return empty ? torch::stable::new_zeros(tensor, tensor.sizes()) : torch::stable::empty_like(tensor);
    };
    Tensor grad_drive = torch::stable::empty_like(output);
    Tensor grad_first = new_empty(output, {call.batch, call.neurons});
    Tensor grad_first_trace = new_empty(output, needs_trace ? traces : none);
    Tensor grad_weight = like(needs_weight, call.weight), grad_alpha = like(needs_alpha, call.alpha);
    Tensor grad_eta =
        call.eta.dim() == 2 ? torch::stable::new_zeros(call.eta, call.eta.sizes()) : like(needs_eta, call.eta);
    const auto run = [&]<typename S>(S) {
        const auto wanted = [](bool needed, const Tensor& tensor) {
            return needed ? output_pointer<S>(tensor) : nullptr;
        };
        RnnGradients<S> g{};
        g.output = call.layout(pointer<S>(output));
        g.grad_output = call.layout(pointer<S>(grad_output));
        g.grad_hidden = pointer<S>(grad_hidden);
        g.grad_trace = pointer<S>(grad_trace);
        g.trace_out = pointer<S>(trace_out);
        g.checkpoints = pointer<S>(checkpoints);
        g.reverse = reverse;
        g.grad_drive = call.layout(output_pointer<S>(grad_drive));
        g.grad_hidden_in = output_pointer<S>(grad_first);
        g.grad_trace_in = wanted(needs_trace, grad_first_trace);
        g.weight = wanted(needs_weight, grad_weight);
        g.alpha = wanted(needs_alpha, grad_alpha);
        g.rate = wanted(needs_eta || call.eta.dim() == 2, grad_eta);
        rnn_backward(call.network<S>(), g);
    };
    if (!empty && call.dtype == ScalarType::Float) run(float{});
    if (!empty && call.dtype == ScalarType::Double) run(double{});
    return {grad_drive, grad_first, grad_first_trace, grad_weight, grad_alpha, grad_eta};
}

void bandwidth(const Tensor& a, const Tensor& b, const Tensor& c, int64_t repeats) {
    for (const Tensor* tensor : {&a, &b, &c}) {
        check("bandwidth", *tensor, {a.numel()}, ScalarType::Float);
        STD_TORCH_CHECK(tensor->is_contiguous(), "bandwidth: tensors must be contiguous");
    }
    const int64_t count = a.numel();
    const float *from_a = pointer<float>(a), *from_b = pointer<float>(b);
    float* to = output_pointer<float>(c);
    parallel(static_cast<int64_t>(torch::stable::get_num_threads()), [&](Team team) {
        int64_t begin, end;
        team.share(count, begin, end);
        for (int64_t i = 0; i < repeats; ++i) {
            kernels<float>().bandwidth(from_a + begin, from_b + begin, to + begin, end - begin);
            team.barrier();
        }
    });
}

std::string cpu_capability() { return kernels<float>().capability; }

}  // namespace
}  // namespace plastikern

STABLE_TORCH_LIBRARY_IMPL(plastikern, CPU, m) {
    m.impl("rnn_step", TORCH_BOX(&plastikern::rnn_step));
    m.impl("rnn_sequence", TORCH_BOX(&plastikern::rnn_sequence));
    m.impl("rnn_sequence_backward", TORCH_BOX(&plastikern::rnn_sequence_backward));
    m.impl("bandwidth", TORCH_BOX(&plastikern::bandwidth));
}

STABLE_TORCH_LIBRARY_IMPL(plastikern, CompositeExplicitAutograd, m) {
    m.impl("cpu_capability", TORCH_BOX(&plastikern::cpu_capability));
}
