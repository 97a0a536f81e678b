// Where kernels meet torch, on every device: tensors are checked, outputs allocated, pointers
// handed on.
//
// A Device says what differs: its name, whether a tensor is on it, how lengths come to it, where
// memory comes from, whether its backward pass runs traces backwards and its forward pass needs the
// activities of all steps kept, and its two passes, which take a network whose missing rates and
// modulators are null.
//
// Longer than 600 lines because every operator spells out all operands, by position, in its
// schema's order: a list of operands that checks, allocates and unpacks in loops is to take their
// place.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "network.h"
#include "update.h"

namespace plastikern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline Tensor compact(const Tensor& tensor) {
    return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline MaybeTensor compact(const MaybeTensor& tensor) {
    return tensor.has_value() ? MaybeTensor(compact(*tensor)) : std::nullopt;
}

using Shape = std::initializer_list<int64_t>;

template <class Device, class Sizes = Shape>
void check(const char* name, const Tensor& tensor, const Sizes& shape, ScalarType dtype) {
    STD_TORCH_CHECK(Device::has(tensor), name, " must be on the ", Device::name);
    STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must have dtype ",
                    torch::headeronly::toString(dtype), "; got ",
                    torch::headeronly::toString(tensor.scalar_type()));
    bool same = tensor.dim() == static_cast<int64_t>(shape.size());
    int64_t axis = 0;
    for (const int64_t size : shape) same = same && tensor.size(axis++) == size;
    const auto text = [](const auto& sizes) {
        std::string found;
        for (const int64_t size : sizes)
            found += (found.empty() ? "" : ", ") + std::to_string(size);
        return "(" + found + ")";
    };
    STD_TORCH_CHECK(same, name, " must have shape ", text(shape), "; got ", text(tensor.sizes()));
}

template <class Device, class Sizes = Shape>
void check(const char* name, const MaybeTensor& tensor, const Sizes& shape, ScalarType dtype) {
    if (tensor.has_value()) check<Device>(name, *tensor, shape, dtype);
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

template <typename S>
S* output_pointer(const MaybeTensor& tensor) {
    return tensor.has_value() ? output_pointer<S>(*tensor) : nullptr;
}

// What both passes take: the arguments of an operator, checked.
template <class Device>
class Call {
   public:
    // `activities` has the shape of the outputs: (T, B, O), (B, T, O) with batch_first, or (B, O)
    // for a step.
    Call(const Tensor& activities, bool drive_is_given, const MaybeTensor& features,
         const MaybeTensor& hidden, const MaybeTensor& cell, const MaybeTensor& trace,
         const MaybeTensor& eligibility, const Tensor& weight, const Tensor& alpha,
         const MaybeTensor& rate, const MaybeTensor& rate_scale,
         const MaybeTensor& eligibility_rate, const MaybeTensor& modulator_weight,
         const MaybeTensor& modulator_bias, const MaybeTensor& modulated, const MaybeTensor& clamp,
         const MaybeTensor& lengths, const std::vector<int64_t>& codes, double clip,
         bool batch_first, int64_t checkpoint_every)
        : batch_first_(batch_first),
          clip_(clip),
          codes_(codes),
          dtype_(activities.scalar_type()),
          features_(compact(features)),
          hidden_(compact(hidden)),
          cell_(compact(cell)),
          trace_(compact(trace)),
          eligibility_(compact(eligibility)),
          rate_(compact(rate)),
          rate_scale_(compact(rate_scale)),
          eligibility_rate_(compact(eligibility_rate)),
          modulator_weight_(compact(modulator_weight)),
          modulator_bias_(compact(modulator_bias)),
          modulated_(compact(modulated)),
          clamp_(compact(clamp)),
          lengths_(compact(lengths)),
          weight_(compact(weight)),
          alpha_(compact(alpha)),
          checkpoint_every_(checkpoint_every) {
        const bool is_step = activities.dim() == 2;
        const char* first = drive_is_given ? "drive" : "output";
        STD_TORCH_CHECK(is_step || activities.dim() == 3, first,
                        " must have 2 or 3 dimensions; got ", activities.dim());
        STD_TORCH_CHECK(dtype_ == ScalarType::Float || dtype_ == ScalarType::Double, first,
                        " must be float32 or float64");
        STD_TORCH_CHECK(codes.size() == 8, "codes must be 8 numbers; got ", codes.size());
        const int64_t limits[8] = {3, kRuleCount, kRuleCount, 5, 4, 2, 3, 3};
        for (size_t i = 0; i < 8; ++i) {
            STD_TORCH_CHECK(codes[i] >= 0 && codes[i] < limits[i], "code ", i,
                            " is out of range: ", codes[i]);
        }
        rule_ = find_rule(codes[1], codes[2]);
        STD_TORCH_CHECK(rule_ >= 0, "rule ", codes[1], " and constraint ", codes[2],
                        " do not go together");
        const bool fixed = !retroactive() && !modulator_weight.has_value();
        const RuleFacts& facts = kRules[rule_];
        reversible_ = Device::reverses && facts.reverses[retroactive()] &&
                      (fixed || !facts.fades[retroactive()]);
        STD_TORCH_CHECK(checkpoint_every >= 0, "checkpoint_every must not be negative");
        STD_TORCH_CHECK(
            is(NetworkKind::linear) || codes[3] != static_cast<int64_t>(Nonlinearity::softmax),
            "softmax is for a linear layer");
        const bool possible =
            codes[6] == 0 || is(NetworkKind::lstm) || (is(NetworkKind::rnn) && codes[6] == 1);
        STD_TORCH_CHECK(possible, "the modulator's input does not exist in this network");
        STD_TORCH_CHECK(is(NetworkKind::rnn) || !clamp.has_value(),
                        "clamp is for a recurrent network");
        STD_TORCH_CHECK(is(NetworkKind::lstm) || !cell.has_value(), "cell is for an LSTM");
        STD_TORCH_CHECK(!is(NetworkKind::linear) || !hidden.has_value(),
                        "hidden is for a recurrent network");
        STD_TORCH_CHECK(codes[5] != 0 || !eligibility.has_value(),
                        "eligibility is for retroactive modulation");
        steps_ = is_step ? 1 : activities.size(batch_first ? 1 : 0);
        batch_ = is_step ? activities.size(0) : activities.size(batch_first ? 0 : 1);
        const int64_t gates = is(NetworkKind::lstm) ? 4 : 1;
        posts_ = activities.size(activities.dim() - 1) / (drive_is_given ? gates : 1);
        pres_ = posts_;
        check<Device>(first, activities,
                      sequence_shape(is_step, posts_ * (drive_is_given ? gates : 1)), dtype_);
        STD_TORCH_CHECK(features.has_value() == is(NetworkKind::linear),
                        "features are for a linear layer");
        if (features.has_value()) {
            pres_ = features_->size(features_->dim() - 1);
            check<Device>("features", features_, sequence_shape(is_step, pres_), dtype_);
        }
        STD_TORCH_CHECK(posts_ > 0 && pres_ > 0, first, " must have at least one neuron");
        check<Device>("weight", weight_, {gates * posts_, pres_}, dtype_);
        check<Device>("hidden", hidden_, {batch_, posts_}, dtype_);
        check<Device>("cell", cell_, {batch_, posts_}, dtype_);
        check<Device>("trace", trace_, {batch_, posts_, pres_}, dtype_);
        check<Device>("eligibility", eligibility_, {batch_, posts_, pres_}, dtype_);
        check<Device>("modulator_weight", modulator_weight_, {posts_}, dtype_);
        if (modulator_bias.has_value()) coefficient_of_one("modulator_bias", *modulator_bias_);
        STD_TORCH_CHECK(modulator_weight.has_value() == modulator_bias.has_value(),
                        "a modulator has weight and bias");
        STD_TORCH_CHECK(rate.has_value() || has_modulator(),
                        "rate must be a tensor without a modulator");
        STD_TORCH_CHECK(has_modulator() || !rate_scale.has_value(), "rate_scale needs a modulator");
        STD_TORCH_CHECK(retroactive() == eligibility_rate.has_value(),
                        "eligibility_rate is for retroactive modulation");
        check<Device>("modulated", modulated_, {posts_}, ScalarType::Bool);
        STD_TORCH_CHECK(retroactive() || !modulated.has_value(),
                        "modulated is for retroactive modulation");
        check<Device>("clamp", clamp_, sequence_shape(is_step, posts_), ScalarType::Bool);
        if (!lengths_.has_value()) return;
        const bool there =
            Device::has(*lengths_) && lengths_->get_device_index() == activities.get_device_index();
        STD_TORCH_CHECK(
            (lengths_->is_cpu() || there) && lengths_->scalar_type() == ScalarType::Long &&
                lengths_->dim() == 1 && lengths_->size(0) == batch_,
            "lengths must be int64 numbers on the cpu, one for each of ", batch_, " elements");
        // The caller has checked what it has brought there.
        if (!lengths_->is_cpu()) return;
        for (int64_t b = 0; b < batch_; ++b) {
            const int64_t length = pointer<int64_t>(lengths_)[b];
            STD_TORCH_CHECK(length >= 0 && length <= steps_, "lengths must lie from 0 to ", steps_,
                            "; got ", length);
        }
        lengths_ = Device::bring(*lengths_, activities);
    }

    bool is(NetworkKind kind) const { return codes_[0] == static_cast<int64_t>(kind); }
    bool retroactive() const { return codes_[5] != 0; }
    bool half_modulated() const { return modulated_.has_value(); }
    bool has_modulator() const { return modulator_weight_.has_value(); }
    bool empty() const { return batch_ == 0; }
    ScalarType dtype() const { return dtype_; }
    int64_t batch() const { return batch_; }
    int64_t posts() const { return posts_; }
    int64_t pres() const { return pres_; }
    int64_t drive_size() const { return posts_ * (is(NetworkKind::lstm) ? 4 : 1); }
    // Whether traces can be run backwards, and whether some rows must be excepted.
    bool can_reverse() const { return reversible_; }
    bool loses() const { return kRules[rule_].loses; }
    // As Network::history_size and Network::traces.
    int64_t history_size() const {
        if (!is(NetworkKind::lstm)) return 0;
        return (codes_[4] == static_cast<int64_t>(Post::recurrent) ? 6 : 5) * posts_;
    }
    std::vector<int64_t> checkpoints_shape() const {
        const int64_t count =
            checkpoint_every_ > 0 && steps_ > 0 ? (steps_ - 1) / checkpoint_every_ : 0;
        const int64_t row =
            dtype_ == ScalarType::Float ? padded<float>(pres_) : padded<double>(pres_);
        return {count, batch_, retroactive() ? 2 : 1, posts_, row};
    }
    std::vector<int64_t> lost_shape() const {
        return {checkpoint_every_ > 0 ? (steps_ + checkpoint_every_ - 1) / checkpoint_every_ : 0,
                batch_, posts_};
    }
    std::vector<int64_t> sequence_shape(bool is_step, int64_t size) const {
        if (is_step) return {batch_, size};
        return batch_first_ ? std::vector<int64_t>{batch_, steps_, size}
                            : std::vector<int64_t>{steps_, batch_, size};
    }

    template <typename S>
    Sequence<S> layout(S* data, int64_t size) const {
        return batch_first_ ? Sequence<S>{data, size, steps_ * size}
                            : Sequence<S>{data, batch_ * size, size};
    }

    // Parameters that the call owns, in case they had to be copied.
    const Tensor& alpha() const { return alpha_; }
    const MaybeTensor& rate() const { return rate_; }
    const MaybeTensor& rate_scale() const { return rate_scale_; }
    const MaybeTensor& eligibility_rate() const { return eligibility_rate_; }

    template <typename S>
    Network<S> network() const {
        Network<S> n{};
        n.kind = static_cast<NetworkKind>(codes_[0]);
        n.steps = steps_;
        n.batch = batch_;
        n.posts = posts_;
        n.pres = pres_;
        n.rule = rule_;
        n.nonlinearity = static_cast<Nonlinearity>(codes_[3]);
        n.post = static_cast<Post>(codes_[4]);
        n.retroactive = retroactive();
        const S* weight = pointer<S>(weight_);
        n.gates = weight;
        Connection<S>& c = n.connection;
        c.pres = pres_;
        c.weight = {weight + (is(NetworkKind::lstm) ? 2 * posts_ * pres_ : 0), pres_};
        c.alpha = coefficients<S>("alpha", alpha_);
        if (rate_.has_value()) c.rate = coefficients<S>("rate", *rate_);
        if (rate_scale_.has_value()) c.rate_scale = coefficients<S>("rate_scale", *rate_scale_);
        if (retroactive())
            c.eligibility_rate = coefficients<S>("eligibility_rate", *eligibility_rate_);
        c.layout = alpha_.dim() == 2 ? Layout::alpha_per_synapse : Layout::per_neuron;
        int64_t rates = 0, given = 0;
        for (const MaybeTensor* tensor : {&rate_, &rate_scale_, &eligibility_rate_}) {
            if (!tensor->has_value()) continue;
            ++given;
            rates += (*tensor)->dim() == 2 ? 1 : 0;
        }
        if (rates > 0) {
            const bool whole = rates == given && alpha_.dim() == 2 &&
                               (!has_modulator() || rate_scale_.has_value()) && rate_.has_value();
            STD_TORCH_CHECK(
                whole, "a rate per connection needs alpha and every other rate per connection");
            c.layout = Layout::per_synapse;
        }
        c.bound = static_cast<S>(clip_);
        n.modulator = {pointer<S>(modulator_weight_), pointer<S>(modulator_bias_),
                       static_cast<ModulatorInput>(codes_[6]), kModulatorNonlinearities[codes_[7]]};
        n.modulated = pointer<bool>(modulated_);
        n.features = layout(pointer<S>(features_), pres_);
        n.clamp = layout(pointer<bool>(clamp_), posts_);
        n.hidden = pointer<S>(hidden_);
        n.cell = pointer<S>(cell_);
        n.trace = pointer<S>(trace_);
        n.eligibility = pointer<S>(eligibility_);
        n.lengths = pointer<int64_t>(lengths_);
        n.checkpoint_every = checkpoint_every_;
        return n;
    }

   private:
    void coefficient_of_one(const char* name, const Tensor& tensor) const {
        const bool plain = tensor.dim() == 1 && tensor.numel() == 1;
        check<Device>(name, tensor, plain ? std::vector<int64_t>{1} : std::vector<int64_t>{},
                      dtype_);
    }
    // A parameter (O, I), (O,) or of one number, () or (1,).
    template <typename S>
    Coefficients<S> coefficients(const char* name, const Tensor& tensor) const {
        if (tensor.dim() < 2 && tensor.numel() == 1)
            return check<Device>(name, tensor, tensor.sizes(), dtype_),
                   Coefficients<S>{pointer<S>(tensor), 0};
        if (tensor.dim() == 1)
            return check<Device>(name, tensor, {posts_}, dtype_),
                   Coefficients<S>{pointer<S>(tensor), 1};
        return check<Device>(name, tensor, {posts_, pres_}, dtype_),
               Coefficients<S>{pointer<S>(tensor), pres_};
    }

    bool batch_first_, reversible_ = false;
    int64_t rule_;
    double clip_;
    std::vector<int64_t> codes_;
    ScalarType dtype_;
    MaybeTensor features_, hidden_, cell_, trace_, eligibility_, rate_, rate_scale_,
        eligibility_rate_, modulator_weight_, modulator_bias_, modulated_, clamp_, lengths_;
    Tensor weight_, alpha_;
    int64_t steps_, batch_, posts_, pres_, checkpoint_every_;
};

template <class Device, class Run>
void with_dtype(const Call<Device>& call, Run run) {
    if (call.empty()) return;
    if (call.dtype() == ScalarType::Float) {
        run(float{});
    } else {
        run(double{});
    }
}

// The tensors that a forward pass returns; `keep`: also those that only a backward pass needs.
template <class Device>
struct Results {
    Tensor output, trace;
    MaybeTensor hidden, cell, eligibility, history, modulators, checkpoints, lost;

    Results(const Call<Device>& call, const Tensor& drive, bool is_step, bool keep,
            bool reversible) {
        const std::vector<int64_t> traces = {call.batch(), call.posts(), call.pres()};
        const std::vector<int64_t> cells = {call.batch(), call.posts()};
        const bool lstm = call.is(NetworkKind::lstm);
        output = Device::empty(drive, call.sequence_shape(is_step, call.posts()));
        trace = Device::empty(drive, traces);
        if (!is_step && !call.is(NetworkKind::linear)) hidden = Device::empty(drive, cells);
        if (lstm) cell = Device::empty(drive, cells);
        if (call.retroactive()) eligibility = Device::empty(drive, traces);
        const bool activities = keep || Device::keeps_activities;
        if (lstm && activities)
            history = Device::empty(drive, call.sequence_shape(false, call.history_size()));
        if (call.has_modulator() && activities)
            modulators = Device::empty(drive, call.sequence_shape(false, 1));
        // Rows without eligibility traces leave theirs unwritten.
        const std::vector<int64_t> kept = call.checkpoints_shape();
        if (keep && !is_step)
            checkpoints = call.half_modulated() ? torch::stable::new_zeros(drive, kept)
                                                : Device::empty(drive, kept);
        if (reversible && call.can_reverse() && call.loses())
            lost = torch::stable::new_zeros(drive, call.lost_shape(), ScalarType::Bool);
    }

    void compute(const Call<Device>& call, const Tensor& drive) const {
        with_dtype(call, [&]<typename S>(S) {
            Network<S> n = call.template network<S>();
            n.drive = call.layout(pointer<S>(drive), call.drive_size());
            Outputs<S> out{};
            out.activities.output = call.layout(output_pointer<S>(output), call.posts());
            out.activities.history = call.layout(output_pointer<S>(history), call.history_size());
            out.activities.modulators = call.layout(output_pointer<S>(modulators), 1);
            out.hidden = output_pointer<S>(hidden);
            out.cell = output_pointer<S>(cell);
            out.trace = output_pointer<S>(trace);
            out.eligibility = output_pointer<S>(eligibility);
            out.checkpoints = output_pointer<S>(checkpoints);
            out.lost = output_pointer<bool>(lost);
            Device::forward(n, out, drive);
        });
    }
};

template <class Device>
std::tuple<Tensor, MaybeTensor, Tensor, MaybeTensor, MaybeTensor, MaybeTensor> step(
    const Tensor& drive_in, const MaybeTensor& features, const MaybeTensor& hidden,
    const MaybeTensor& cell, const MaybeTensor& trace, const MaybeTensor& eligibility,
    const Tensor& weight, const Tensor& alpha, const MaybeTensor& rate,
    const MaybeTensor& rate_scale, const MaybeTensor& eligibility_rate,
    const MaybeTensor& modulator_weight, const MaybeTensor& modulator_bias,
    const MaybeTensor& modulated, const MaybeTensor& clamp, std::vector<int64_t> codes, double clip,
    bool keep) {
    STD_TORCH_CHECK(drive_in.dim() == 2, "drive must have 2 dimensions; got ", drive_in.dim());
    const Tensor drive = compact(drive_in);
    const Call<Device> call(drive, true, features, hidden, cell, trace, eligibility, weight, alpha,
                            rate, rate_scale, eligibility_rate, modulator_weight, modulator_bias,
                            modulated, clamp, std::nullopt, codes, clip, false, 0);
    const Results<Device> r(call, drive, true, keep, false);
    r.compute(call, drive);
    const MaybeTensor none;
    return {r.output,
            r.cell,
            r.trace,
            r.eligibility,
            keep ? r.history : none,
            keep ? r.modulators : none};
}

template <class Device>
std::tuple<Tensor, MaybeTensor, MaybeTensor, Tensor, MaybeTensor, MaybeTensor, MaybeTensor,
           MaybeTensor, MaybeTensor>
sequence(const Tensor& drive_in, const MaybeTensor& features, const MaybeTensor& hidden,
         const MaybeTensor& cell, const MaybeTensor& trace, const MaybeTensor& eligibility,
         const Tensor& weight, const Tensor& alpha, const MaybeTensor& rate,
         const MaybeTensor& rate_scale, const MaybeTensor& eligibility_rate,
         const MaybeTensor& modulator_weight, const MaybeTensor& modulator_bias,
         const MaybeTensor& modulated, const MaybeTensor& clamp, const MaybeTensor& lengths,
         std::vector<int64_t> codes, double clip, bool batch_first, int64_t checkpoint_every,
         bool reversible) {
    STD_TORCH_CHECK(drive_in.dim() == 3, "drive must have 3 dimensions; got ", drive_in.dim());
    const Tensor drive = compact(drive_in);
    const Call<Device> call(drive, true, features, hidden, cell, trace, eligibility, weight, alpha,
                            rate, rate_scale, eligibility_rate, modulator_weight, modulator_bias,
                            modulated, clamp, lengths, codes, clip, batch_first, checkpoint_every);
    const Results<Device> r(call, drive, false, checkpoint_every > 0,
                            reversible && checkpoint_every > 0);
    r.compute(call, drive);
    const MaybeTensor none;
    const bool keep = checkpoint_every > 0;
    return {r.output,
            r.hidden,
            r.cell,
            r.trace,
            r.eligibility,
            keep ? r.history : none,
            keep ? r.modulators : none,
            r.checkpoints,
            r.lost};
}

// One unit of a sequence, for a network that acts: the step `k` from `drive`, whose activities are
// written into those of all steps; after the last step, without a drive, what only the end knows:
// the last state of elements with `lengths`.
template <class Device>
void advance(const MaybeTensor& drive_in, const MaybeTensor& features, const MaybeTensor& hidden,
             const MaybeTensor& cell, const MaybeTensor& trace, const MaybeTensor& eligibility,
             const Tensor& weight, const Tensor& alpha, const MaybeTensor& rate,
             const MaybeTensor& rate_scale, const MaybeTensor& eligibility_rate,
             const MaybeTensor& modulator_weight, const MaybeTensor& modulator_bias,
             const MaybeTensor& modulated, const MaybeTensor& clamp, const MaybeTensor& lengths_in,
             const Tensor& output, const MaybeTensor& last_hidden, const MaybeTensor& last_cell,
             const MaybeTensor& last_trace, const MaybeTensor& last_eligibility,
             const MaybeTensor& history, const MaybeTensor& modulators,
             const MaybeTensor& checkpoints, const MaybeTensor& lost, const Tensor& memory,
             std::vector<int64_t> codes, double clip, int64_t checkpoint_every, int64_t k) {
    const MaybeTensor drive = compact(drive_in), lengths = compact(lengths_in);
    STD_TORCH_CHECK(output.dim() == 3, "output must have 3 dimensions; got ", output.dim());
    const Call<Device> call(output, false, features, hidden, cell, trace, eligibility, weight,
                            alpha, rate, rate_scale, eligibility_rate, modulator_weight,
                            modulator_bias, modulated, clamp, lengths, codes, clip, false,
                            checkpoint_every);
    STD_TORCH_CHECK(!call.is(NetworkKind::linear) && !clamp.has_value(),
                    "only recurrent networks act, without a clamp");
    const bool lstm = call.is(NetworkKind::lstm), ends = !drive.has_value();
    const std::vector<int64_t> traces = {call.batch(), call.posts(), call.pres()},
                               cells = {call.batch(), call.posts()};
    STD_TORCH_CHECK(k >= 0 && k <= output.size(0) - (ends ? 0 : 1),
                    "k must be a step of the output; got ", k);
    STD_TORCH_CHECK(ends == lengths.has_value() && ends == last_trace.has_value(),
                    "lengths and the last state are for the end");
    for (int64_t b = 0; ends && b < call.batch(); ++b) {
        STD_TORCH_CHECK(pointer<int64_t>(*lengths)[b] == k, "all elements must end after step ", k);
    }
    if (!ends) check<Device>("drive", drive, {call.batch(), call.drive_size()}, call.dtype());
    check<Device>("last_hidden", last_hidden, cells, call.dtype());
    check<Device>("last_cell", last_cell, cells, call.dtype());
    check<Device>("last_trace", last_trace, traces, call.dtype());
    check<Device>("last_eligibility", last_eligibility, traces, call.dtype());
    STD_TORCH_CHECK(!ends || call.retroactive() == last_eligibility.has_value(),
                    "last_eligibility is missing");
    STD_TORCH_CHECK(lstm == history.has_value(), "history is what an LSTM keeps");
    STD_TORCH_CHECK(call.has_modulator() == modulators.has_value(),
                    "modulators are what a modulated network keeps");
    check<Device>("history", history, call.sequence_shape(false, call.history_size()),
                  call.dtype());
    check<Device>("modulators", modulators, call.sequence_shape(false, 1), call.dtype());
    STD_TORCH_CHECK(checkpoint_every == 0 || checkpoints.has_value(), "checkpoints are missing");
    if (checkpoint_every > 0)
        check<Device>("checkpoints", checkpoints, call.checkpoints_shape(), call.dtype());
    check<Device>("lost", lost, call.lost_shape(), ScalarType::Bool);
    check<Device>("memory", memory, {memory.numel()}, call.dtype());
    for (const MaybeTensor& written :
         {MaybeTensor(output), last_hidden, last_cell, last_trace, last_eligibility, history,
          modulators, checkpoints, lost, MaybeTensor(memory)}) {
        STD_TORCH_CHECK(!written.has_value() || written->is_contiguous(),
                        "what is written must be contiguous");
    }
    with_dtype(call, [&]<typename S>(S) {
        Network<S> n = call.template network<S>();
        if (!ends) n.drive = {pointer<S>(drive), 0, call.drive_size()};
        Outputs<S> out{};
        out.activities.output = call.layout(output_pointer<S>(output), call.posts());
        out.activities.history = call.layout(output_pointer<S>(history), call.history_size());
        out.activities.modulators = call.layout(output_pointer<S>(modulators), 1);
        out.hidden = output_pointer<S>(last_hidden);
        out.cell = output_pointer<S>(last_cell);
        out.trace = output_pointer<S>(last_trace);
        out.eligibility = output_pointer<S>(last_eligibility);
        out.checkpoints = output_pointer<S>(checkpoints);
        out.lost = output_pointer<bool>(lost);
        Device::advance(n, out, k, output_pointer<S>(memory), memory.numel());
    });
}

template <class Device>
std::tuple<Tensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor,
           MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor, MaybeTensor>
sequence_backward(const MaybeTensor& grad_output_in, const MaybeTensor& grad_hidden_in,
                  const MaybeTensor& grad_cell_in, const MaybeTensor& grad_trace_in,
                  const MaybeTensor& grad_eligibility_in, const Tensor& output_in,
                  const MaybeTensor& history_in, const MaybeTensor& modulators_in,
                  const MaybeTensor& checkpoints_in, const MaybeTensor& lost_in,
                  const MaybeTensor& trace_out_in, const MaybeTensor& eligibility_out_in,
                  const MaybeTensor& features, const MaybeTensor& hidden, const MaybeTensor& cell,
                  const MaybeTensor& trace, const MaybeTensor& eligibility, const Tensor& weight,
                  const Tensor& alpha, const MaybeTensor& rate, const MaybeTensor& rate_scale,
                  const MaybeTensor& eligibility_rate, const MaybeTensor& modulator_weight,
                  const MaybeTensor& modulator_bias, const MaybeTensor& modulated,
                  const MaybeTensor& clamp, const MaybeTensor& lengths, std::vector<int64_t> codes,
                  double clip, bool batch_first, int64_t checkpoint_every, bool reversible,
                  int64_t needs) {
    using torch::stable::new_zeros;
    STD_TORCH_CHECK(output_in.dim() == 3, "output must have 3 dimensions; got ", output_in.dim());
    STD_TORCH_CHECK(checkpoint_every >= 1, "checkpoint_every must be positive; got ",
                    checkpoint_every);
    const Tensor output = compact(output_in);
    const MaybeTensor lost = compact(lost_in), eligibility_out = compact(eligibility_out_in),
                      history = compact(history_in), modulators = compact(modulators_in),
                      checkpoints = compact(checkpoints_in), trace_out = compact(trace_out_in),
                      grad_output = compact(grad_output_in), grad_hidden = compact(grad_hidden_in),
                      grad_cell = compact(grad_cell_in), grad_trace = compact(grad_trace_in),
                      grad_eligibility = compact(grad_eligibility_in);
    const Call<Device> call(output, false, features, hidden, cell, trace, eligibility, weight,
                            alpha, rate, rate_scale, eligibility_rate, modulator_weight,
                            modulator_bias, modulated, clamp, lengths, codes, clip, batch_first,
                            checkpoint_every);
    const bool lstm = call.is(NetworkKind::lstm), linear = call.is(NetworkKind::linear);
    const bool reverse = reversible && call.can_reverse();
    const std::vector<int64_t> traces = {call.batch(), call.posts(), call.pres()},
                               cells = {call.batch(), call.posts()};
    check<Device>("grad_output", grad_output, call.sequence_shape(false, call.posts()),
                  call.dtype());
    check<Device>("grad_hidden", grad_hidden, cells, call.dtype());
    check<Device>("grad_cell", grad_cell, cells, call.dtype());
    check<Device>("grad_trace", grad_trace, traces, call.dtype());
    check<Device>("grad_eligibility", grad_eligibility, traces, call.dtype());
    check<Device>("history", history, call.sequence_shape(false, call.history_size()),
                  call.dtype());
    check<Device>("modulators", modulators, call.sequence_shape(false, 1), call.dtype());
    check<Device>("checkpoints", checkpoints, call.checkpoints_shape(), call.dtype());
    STD_TORCH_CHECK(lstm == history.has_value(), "history is what an LSTM keeps");
    STD_TORCH_CHECK(call.has_modulator() == modulators.has_value(),
                    "modulators are what a modulated network keeps");
    STD_TORCH_CHECK(call.checkpoints_shape()[0] == 0 || checkpoints.has_value(),
                    "checkpoints are missing");
    STD_TORCH_CHECK(!reverse || trace_out.has_value(),
                    "trace_out is needed to run the trace backwards");
    check<Device>("trace_out", trace_out, traces, call.dtype());
    check<Device>("eligibility_out", eligibility_out, traces, call.dtype());
    check<Device>("lost", lost, call.lost_shape(), ScalarType::Bool);
    STD_TORCH_CHECK(!reverse || call.retroactive() == eligibility_out.has_value(),
                    "eligibility_out is missing");
    STD_TORCH_CHECK(!reverse || !call.loses() || lost.has_value(),
                    "lost is needed to run the trace backwards");

    // Positions of the operands, as in plastikern/ops/fused.py.
    enum {
        kFeatures = 1,
        kTrace = 4,
        kEligibility = 5,
        kAlpha = 7,
        kRate = 8,
        kScale = 9,
        kEligibilityRate = 10
    };
    const auto needed = [&](int position) { return (needs >> position & 1) != 0; };
    // The kernels write what is per neuron or layer, and add to what is per connection.
    const auto like = [&](int position, const MaybeTensor& tensor) -> MaybeTensor {
        if (!needed(position) || !tensor.has_value()) return std::nullopt;
        return new_zeros(*tensor, tensor->sizes());
    };
    const auto empty = [&](bool wanted, const std::vector<int64_t>& shape) {
        return wanted ? MaybeTensor(Device::empty(output, shape)) : std::nullopt;
    };
    Tensor grad_drive = Device::empty(output, call.sequence_shape(false, call.drive_size()));
    const bool recurrent_post = lstm && codes[4] == static_cast<int64_t>(Post::recurrent);
    MaybeTensor grad_sum =
        empty(clamp.has_value() || recurrent_post, call.sequence_shape(false, call.posts()));
    MaybeTensor grad_features =
        empty(linear && needed(kFeatures), call.sequence_shape(false, call.pres()));
    MaybeTensor first_hidden = empty(!linear, cells), first_cell = empty(lstm, cells);
    MaybeTensor first_trace = empty(needed(kTrace), traces);
    MaybeTensor first_eligibility = empty(call.retroactive() && needed(kEligibility), traces);
    MaybeTensor grad_alpha;
    if (needed(kAlpha)) {
        grad_alpha = call.empty() ? new_zeros(call.alpha(), call.alpha().sizes())
                                  : torch::stable::empty_like(call.alpha());
    }
    MaybeTensor grad_rate = like(kRate, call.rate()), grad_scale = like(kScale, call.rate_scale()),
                grad_eligibility_rate = like(kEligibilityRate, call.eligibility_rate());
    MaybeTensor grad_modulator = empty(call.has_modulator(), call.sequence_shape(false, 1));
    with_dtype(call, [&]<typename S>(S) {
        Network<S> n = call.template network<S>();
        Gradients<S> g{};
        g.activities.output = call.layout(pointer<S>(output), call.posts());
        g.activities.history = call.layout(pointer<S>(history), call.history_size());
        if (call.has_modulator()) g.activities.modulators = call.layout(pointer<S>(modulators), 1);
        g.output = call.layout(pointer<S>(grad_output), call.posts());
        g.hidden = pointer<S>(grad_hidden);
        g.cell = pointer<S>(grad_cell);
        g.trace = pointer<S>(grad_trace);
        g.eligibility = pointer<S>(grad_eligibility);
        g.trace_out = pointer<S>(trace_out);
        g.eligibility_out = pointer<S>(eligibility_out);
        g.lost = pointer<bool>(lost);
        g.checkpoints = pointer<S>(checkpoints);
        g.reverse = reverse;
        g.drive = call.layout(output_pointer<S>(grad_drive), call.drive_size());
        g.sum = call.layout(output_pointer<S>(grad_sum), call.posts());
        g.features = call.layout(output_pointer<S>(grad_features), call.pres());
        g.modulator = call.layout(output_pointer<S>(grad_modulator), 1);
        g.hidden_in = output_pointer<S>(first_hidden);
        g.cell_in = output_pointer<S>(first_cell);
        g.trace_in = output_pointer<S>(first_trace);
        g.eligibility_in = output_pointer<S>(first_eligibility);
        g.alpha = output_pointer<S>(grad_alpha);
        g.rate = output_pointer<S>(grad_rate);
        g.rate_scale = output_pointer<S>(grad_scale);
        g.eligibility_rate = output_pointer<S>(grad_eligibility_rate);
        Device::backward(n, g, output);
    });
    if (call.has_modulator()) {
        const std::vector<int64_t> flat = call.sequence_shape(false, 1);
        grad_modulator = torch::stable::reshape(*grad_modulator, {flat[0], flat[1]});
    }
    return {grad_drive, grad_sum,    grad_features,         first_hidden,
            first_cell, first_trace, first_eligibility,     grad_alpha,
            grad_rate,  grad_scale,  grad_eligibility_rate, grad_modulator};
}

}  // namespace plastikern
