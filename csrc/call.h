// A call of an operator, on every device: its tensors checked against the tables of
// generated/program.h, and handed on as kernels take them. Results are allocated by the same
// tables.
//
// A Device says what differs: its name, whether a tensor is on it, how lengths come to it, where
// memory comes from, whether its backward pass runs traces backwards and its forward pass needs the
// activities of all steps kept, and its two passes, which take a network whose missing rates and
// modulators are null.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdlib>
#include <iomanip>
#include <optional>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "program.h"

namespace plastikern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;
using Tensors = std::vector<MaybeTensor>;

// Sizes of a tensor of the library, in place: a small call has no time for memory of its own for
// each.
class Shape {
   public:
    Shape() = default;
    template <class Sizes>
    explicit Shape(const Sizes& sizes) {
        for (const int64_t size : sizes) push_back(size);
    }
    Shape(std::initializer_list<int64_t> sizes) {
        for (const int64_t size : sizes) push_back(size);
    }
    void push_back(int64_t size) {
        require(count_ < kMost, "tensors have at most ", kMost, " dimensions");
        sizes_[count_++] = size;
    }
    size_t size() const { return count_; }
    const int64_t* data() const { return sizes_; }
    const int64_t* begin() const { return sizes_; }
    const int64_t* end() const { return sizes_ + count_; }
    int64_t operator[](size_t at) const { return sizes_[at]; }
    int64_t& operator[](size_t at) { return sizes_[at]; }
    // Of a tensor without gaps.
    Shape strides() const {
        Shape found = *this;
        int64_t stride = 1;
        for (size_t at = count_; at-- > 0;) {
            found.sizes_[at] = stride;
            stride *= std::max<int64_t>(sizes_[at], 1);
        }
        return found;
    }

   private:
    static constexpr size_t kMost = 8;
    int64_t sizes_[kMost];
    size_t count_ = 0;
};

template <class Sizes>
std::string text(const Sizes& sizes) {
    std::string found;
    for (const int64_t size : sizes) found += (found.empty() ? "" : ", ") + std::to_string(size);
    return "(" + found + ")";
}

// What torch makes; or, where it refuses, which is for want of memory, how much that would be. Of
// torch's own text the stable ABI brings little.
template <class Sizes, class Make>
Tensor made(const char* name, const Tensor& like, const Sizes& shape, const Make& make) {
    try {
        return make();
    } catch (const std::exception& error) {
        double bytes = static_cast<double>(like.element_size());
        for (const int64_t size : shape) bytes *= static_cast<double>(size);
        std::ostringstream count;
        count << std::fixed << std::setprecision(0) << bytes;
        refuse("out of memory. Tried to allocate ", count.str(), " bytes for ", name, " ",
               text(shape), " (", error.what(), ")");
    }
}

// A new tensor with any values, on the device of `like`: straight from torch's allocator, since the
// way by the dispatcher takes longer than a small step.
inline Tensor unwritten(const Tensor& like, const Shape& shape, ScalarType dtype) {
    const Shape strides = shape.strides();
    int32_t kind;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &kind));
    const auto code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
    AtenTensorHandle handle;
    TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(shape.size()),
                                                    shape.data(), strides.data(), code, kind,
                                                    like.get_device_index(), &handle));
    return Tensor(handle);
}

// What is made of a text, kept by it: the same few texts come at every call. Makes it again where
// too many have come.
template <class Made, class Make>
const Made& remembered(const std::string& text, const Make& make) {
    thread_local std::unordered_map<std::string, Made> kept;
    const auto found = kept.find(text);
    if (found != kept.end()) return found->second;
    if (kept.size() >= 1024) kept.clear();
    return kept.emplace(text, make()).first->second;
}

// Where tensors of these names lie in the N tables of an operator: table and row.
template <size_t N>
struct Places : std::vector<std::pair<size_t, size_t>> {};

template <size_t N>
Places<N> places_of(const std::string& names, const std::span<const Operand> (&tables)[N]) {
    Places<N> found;
    for (std::string_view words = names; !words.empty();) {
        const std::string_view name = next_word(words);
        const size_t before = found.size();
        for (size_t which = 0; which < N && found.size() == before; ++which) {
            for (size_t at = 0; at < tables[which].size(); ++at) {
                if (name != tables[which][at].name) continue;
                for (const auto& [table, row] : found) {
                    if (table == which && row == at) refuse(name, " is there twice");
                }
                found.emplace_back(which, at);
                break;
            }
        }
        if (found.size() == before) refuse("there is no tensor '", name, "' in this call");
    }
    return found;
}

// What there is of the tables: `given`, by `names`, in their order.
template <size_t N>
std::array<Tensors, N> named(std::vector<Tensor>& given, const std::string& names,
                             const std::span<const Operand> (&tables)[N]) {
    const auto& places = remembered<Places<N>>(names, [&] { return places_of<N>(names, tables); });
    if (places.size() > given.size()) refuse("there must be a tensor for each name; got ", names);
    require(places.size() == given.size(), "there must be a name for each tensor; got ", names);
    std::array<Tensors, N> found;
    for (size_t which = 0; which < N; ++which) found[which].resize(tables[which].size());
    for (size_t at = 0; at < places.size(); ++at)
        found[places[at].first][places[at].second] = std::move(given[at]);
    return found;
}

inline Tensor compact(const char* name, const Tensor& tensor) {
    if (tensor.is_contiguous()) return tensor;
    return made(name, tensor, tensor.sizes(), [&] { return torch::stable::contiguous(tensor); });
}

template <typename S>
const S* pointer(const MaybeTensor& tensor) {
    return tensor.has_value() ? static_cast<const S*>(tensor->const_data_ptr()) : nullptr;
}

template <typename S>
S* output_pointer(const MaybeTensor& tensor) {
    return tensor.has_value() ? static_cast<S*>(tensor->mutable_data_ptr()) : nullptr;
}

template <class Device>
class Call {
   public:
    const Program program;
    unsigned facts;  // the program's, and what the operator says of the call
    Tensors operands;
    const Tensor& like;  // of the shape of the outputs, or the drive
    int64_t steps, batch, posts, pres;

    // `activities`: the outputs, where the call has no drive.
    Call(Tensors given, const MaybeTensor& activities, const std::string& key, double clip,
         bool batch_first, int64_t checkpoint_every, unsigned more)
        : program(remembered<Program>(key, [&] { return Program(key); })),
          facts(program.facts | more),
          operands(std::move(given)),
          like(first(activities)),
          batch_first_(batch_first),
          checkpoint_every_(checkpoint_every),
          clip_(clip) {
        const bool driven = is(fact::driven), linear = is(fact::linear);
        const char* name = driven ? "drive" : "output";
        const int64_t dims = is(fact::sequence) ? 3 : 2;
        require(like.dim() == dims, name, " must have ", dims, " dimensions; got ", like.dim());
        dtype_ = like.scalar_type();
        require(dtype_ == ScalarType::Float || dtype_ == ScalarType::Double, name,
                " must be float32 or float64");
        require(checkpoint_every >= 0, "checkpoint_every must not be negative");
        const MaybeTensor& features = operand(Operands::features);
        steps = dims == 2 ? 1 : like.size(batch_first ? 1 : 0);
        batch = like.size(dims == 2 || batch_first ? 0 : 1);
        posts = like.size(dims - 1) / (driven ? gates() : 1);
        pres = linear && features.has_value() && features->dim() > 0
                   ? features->size(features->dim() - 1)
                   : posts;
        require(posts > 0 && pres > 0, name, " must have at least one neuron");
        check(kOperands, operands);
        if (operand(Operands::clamp).has_value() ||
            (is(fact::lstm) && program.post == Post::recurrent))
            facts |= fact::apart;
        bring_lengths();
    }

    bool is(unsigned fact) const { return (facts & fact) != 0; }
    bool empty() const { return batch == 0; }
    bool half_modulated() const { return operand(Operands::modulated).has_value(); }
    const MaybeTensor& operand(Operands which) const {
        return operands[static_cast<size_t>(which)];
    }
    bool loses() const { return kRules[program.rule].loses; }
    // Whether traces can be run backwards.
    bool can_reverse() const {
        const RuleFacts& rule = kRules[program.rule];
        const bool retroactive = is(fact::retroactive);
        const bool fixed = !retroactive && !is(fact::modulated);
        return Device::reverses && rule.reverses[retroactive] &&
               (fixed || !rule.fades[retroactive]);
    }

    Shape shape(const char* letters) const {
        Shape found;
        for (const char* at = letters; *at != 0; ++at) {
            if (*at != 'T' || is(fact::sequence)) found.push_back(size(*at));
        }
        if (batch_first_ && is(fact::sequence) && letters[0] == 'T') std::swap(found[0], found[1]);
        return found;
    }

    template <size_t N>
    void check(const Operand (&table)[N], Tensors& tensors) const {
        for (size_t at = 0; at < N; ++at) check(table[at], tensors[at]);
    }
    // Leaves a contiguous tensor, of the right shape and dtype and on the device; or none.
    void check(const Operand& operand, MaybeTensor& tensor) const {
        const unsigned lacking = operand.when & ~facts;
        if (!tensor.has_value()) {
            require(lacking != 0 || (operand.needed & ~facts) != 0, operand.name, " is missing");
            return;
        }
        if (lacking != 0) {
            size_t bit = 0;
            while ((lacking >> bit & 1) == 0) ++bit;
            refuse(operand.name, " is for ", kFacts[bit]);
        }
        const ScalarType wanted = type_of(operand.value), dtype = tensor->scalar_type();
        if (operand.value != Value::integer || !tensor->is_cpu())
            require(Device::beside(*tensor, like), operand.name, " must be on the ", Device::name);
        if (dtype != wanted)
            refuse(operand.name, " must have dtype ", torch::headeronly::toString(wanted), "; got ",
                   torch::headeronly::toString(dtype));
        const Shape expected = expected_shape(operand.shape, *tensor);
        bool same = tensor->dim() == static_cast<int64_t>(expected.size());
        for (size_t at = 0; same && at < expected.size(); ++at)
            same = tensor->size(static_cast<int64_t>(at)) == expected[at];
        if (!same)
            refuse(operand.name, " must have shape ", text(expected), "; got ",
                   text(tensor->sizes()));
        tensor = compact(operand.name, *tensor);
    }

    // New tensors: what there is of a table, where that is true; of what is computed for who asks,
    // what is `wanted`.
    template <size_t N>
    Tensors make(const Operand (&table)[N], unsigned true_facts, const std::string& wanted) const {
        Tensors found(N);
        for (size_t at = 0; at < N; ++at) {
            const Operand& operand = table[at];
            if (!there(operand, true_facts, wanted)) continue;
            const bool parameter = operand.shape[0] == 'P';
            const MaybeTensor own = parameter ? parameter_of(operand.name) : std::nullopt;
            if (parameter && !own.has_value()) continue;
            const Shape sizes = parameter ? Shape(own->sizes()) : shape(operand.shape);
            found[at] = made(operand.name, like, sizes, [&] {
                const ScalarType dtype = type_of(operand.value);
                return zeroed(operand) ? Device::zeros(like, sizes, dtype)
                                       : Device::empty(like, sizes, dtype);
            });
        }
        return found;
    }

    // With the scalar type, unless there is nothing to compute.
    template <class Run>
    void with_dtype(const Run& run) const {
        if (empty()) return;
        if (dtype_ == ScalarType::Float) {
            run(float{});
        } else {
            run(double{});
        }
    }

    template <typename S>
    Sequence<S> layout(S* data, int64_t size) const {
        return batch_first_ ? Sequence<S>{data, size, steps * size}
                            : Sequence<S>{data, batch * size, size};
    }

    template <typename S>
    Network<S> network() const {
        Network<S> n{};
        n.kind = program.kind;
        n.steps = steps;
        n.batch = batch;
        n.posts = posts;
        n.pres = pres;
        n.rule = program.rule;
        n.nonlinearity = program.nonlinearity;
        n.post = program.post;
        n.retroactive = is(fact::retroactive);
        n.gates = data<S>(Operands::weight);
        Connection<S>& c = n.connection;
        c.pres = pres;
        c.weight = {n.gates + (is(fact::gated) ? kPlastic * posts * pres : 0), pres};
        c.alpha = coefficients<S>(Operands::alpha);
        c.rate = coefficients<S>(Operands::rate);
        c.rate_scale = coefficients<S>(Operands::rate_scale);
        c.eligibility_rate = coefficients<S>(Operands::eligibility_rate);
        c.layout = parameters_layout();
        c.bound = static_cast<S>(clip_);
        n.modulator = {data<S>(Operands::modulator_weight), data<S>(Operands::modulator_bias),
                       program.modulator_input, program.modulator_nonlinearity};
        n.modulated = data<bool>(Operands::modulated);
        n.drive = layout(data<S>(Operands::drive), posts * gates());
        n.features = layout(data<S>(Operands::features), pres);
        n.clamp = layout(data<bool>(Operands::clamp), posts);
        n.hidden = data<S>(Operands::hidden);
        n.cell = data<S>(Operands::cell);
        n.trace = data<S>(Operands::trace);
        n.eligibility = data<S>(Operands::eligibility);
        n.lengths = data<int64_t>(Operands::lengths);
        n.checkpoint_every = checkpoint_every_;
        return n;
    }

    int64_t gates() const { return drive_blocks(program.kind); }
    int64_t size(char letter) const {
        const int64_t every = checkpoint_every_;
        switch (letter) {
            case 'T':
                return steps;
            case 'B':
                return batch;
            case 'O':
                return posts;
            case 'I':
                return pres;
            case 'D':
                return posts * gates();
            case 'G':
                return posts * weight_blocks(program.kind);
            case 'H':
                return posts * history_rows(program.kind, program.post);
            case 'K':
                return is(fact::retroactive) ? 2 : 1;
            case 'C':
                return every > 0 && steps > 0 ? (steps - 1) / every : 0;
            case 'S':
                return every > 0 ? (steps + every - 1) / every : 0;
            default:
                return dtype_ == ScalarType::Float ? padded<float>(pres) : padded<double>(pres);
        }
    }

   private:
    const Tensor& first(const MaybeTensor& activities) const {
        if (activities.has_value()) return *activities;
        require(operands[0].has_value(), "drive is missing");
        return *operands[0];
    }
    ScalarType type_of(Value value) const {
        return value == Value::number ? dtype_
               : value == Value::flag ? ScalarType::Bool
                                      : ScalarType::Long;
    }
    Shape expected_shape(const char* letters, const Tensor& tensor) const {
        const bool one = tensor.dim() < 2 && tensor.numel() == 1;
        if (letters[0] == '1' || (letters[0] == 'P' && one))
            return tensor.dim() == 1 ? Shape{1} : Shape{};
        if (letters[0] != 'P') return shape(letters);
        return tensor.dim() == 1 ? Shape{posts} : Shape{posts, pres};
    }
    static bool asks(const std::string& wanted, const std::string& name) {
        return (" " + wanted + " ").find(" " + name + " ") != std::string::npos;
    }
    bool there(const Operand& operand, unsigned true_facts, const std::string& wanted) const {
        return (operand.when & ~true_facts) == 0 && (!operand.asked || asks(wanted, operand.name));
    }
    MaybeTensor parameter_of(const std::string& name) const {
        for (size_t at = 0; at < operands.size(); ++at) {
            if (name == kOperands[at].name) return operands[at];
        }
        return std::nullopt;
    }
    // The kernels write what is per neuron or layer, and add to what is per connection, but for
    // alpha. Rows without eligibility traces leave theirs unwritten.
    bool zeroed(const Operand& operand) const {
        if (operand.shape[0] == 'P') return empty() || operand.name != std::string("alpha");
        return operand.value == Value::flag || (operand.shape[0] == 'C' && half_modulated());
    }
    template <typename S>
    const S* data(Operands which) const {
        return pointer<S>(operand(which));
    }
    // A parameter (O, I), (O,) or of one number, () or (1,).
    template <typename S>
    Coefficients<S> coefficients(Operands which) const {
        const MaybeTensor& tensor = operand(which);
        if (!tensor.has_value()) return {};
        const bool one = tensor->dim() < 2 && tensor->numel() == 1;
        return {pointer<S>(tensor), one ? 0 : tensor->dim() == 1 ? 1 : pres};
    }
    Layout parameters_layout() const {
        const auto per_synapse = [&](Operands which) {
            return operand(which).has_value() && operand(which)->dim() == 2;
        };
        const bool alpha = per_synapse(Operands::alpha);
        int64_t rates = 0, given = 0;
        for (const Operands which :
             {Operands::rate, Operands::rate_scale, Operands::eligibility_rate}) {
            given += operand(which).has_value();
            rates += per_synapse(which);
        }
        if (rates == 0) return alpha ? Layout::alpha_per_synapse : Layout::per_neuron;
        const bool whole = rates == given && alpha && operand(Operands::rate).has_value() &&
                           (!is(fact::modulated) || operand(Operands::rate_scale).has_value());
        require(whole, "a rate per connection needs alpha and every other rate per connection");
        return Layout::per_synapse;
    }
    void bring_lengths() {
        MaybeTensor& lengths = operands[static_cast<size_t>(Operands::lengths)];
        // The caller has checked what it has brought there.
        if (!lengths.has_value() || !lengths->is_cpu()) return;
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t length = pointer<int64_t>(lengths)[b];
            if (length < 0 || length > steps)
                refuse("lengths must lie from 0 to ", steps, "; got ", length);
        }
        lengths = Device::bring(*lengths, like);
    }

    bool batch_first_;
    int64_t checkpoint_every_;
    double clip_;
    ScalarType dtype_;
};

// Those that there are.
inline std::vector<Tensor> present(const Tensors& tensors) {
    std::vector<Tensor> found;
    for (const MaybeTensor& tensor : tensors) {
        if (tensor.has_value()) found.push_back(*tensor);
    }
    return found;
}

}  // namespace plastikern
