// The operators that compute networks, the same for every Device: see call.h.
#pragma once

#include "call.h"

namespace plastikern {

template <typename S, class Device>
Outputs<S> outputs(const Call<Device>& call, const Tensors& results) {
    const auto at = [&](Results which) { return results[static_cast<size_t>(which)]; };
    Outputs<S> out{};
    out.activities.output = call.layout(output_pointer<S>(at(Results::output)), call.posts);
    out.activities.history = call.layout(output_pointer<S>(at(Results::history)), call.size('H'));
    out.activities.modulators = call.layout(output_pointer<S>(at(Results::modulators)), 1);
    out.hidden = output_pointer<S>(at(Results::hidden));
    out.cell = output_pointer<S>(at(Results::cell));
    out.trace = output_pointer<S>(at(Results::trace));
    out.eligibility = output_pointer<S>(at(Results::eligibility));
    out.checkpoints = output_pointer<S>(at(Results::checkpoints));
    out.lost = output_pointer<bool>(at(Results::lost));
    return out;
}

template <class Device>
std::vector<Tensor> forward(const Call<Device>& call) {
    const unsigned more = Device::keeps_activities ? fact::kept : 0;
    Tensors results = call.make(kResults, call.facts | more, "");
    call.with_dtype([&]<typename S>(S) {
        Network<S> n = call.template network<S>();
        Device::forward(n, outputs<S>(call, results), call.like);
    });
    for (size_t at = 0; at < results.size(); ++at) {
        if ((kResults[at].when & ~call.facts) != 0) results[at].reset();
    }
    return present(results);
}

template <class Device>
std::vector<Tensor> step(std::vector<Tensor> tensors, std::string names, std::string program,
                         double clip, bool keep) {
    const unsigned more = fact::driven | fact::last | (keep ? fact::kept : 0);
    return forward(Call<Device>(std::move(named<1>(tensors, names, {kOperands})[0]), std::nullopt,
                                program, clip, false, 0, more));
}

template <class Device>
std::vector<Tensor> sequence(std::vector<Tensor> tensors, std::string names, std::string program,
                             double clip, bool batch_first, int64_t checkpoint_every,
                             bool reversible) {
    Call<Device> call(
        std::move(named<1>(tensors, names, {kOperands})[0]), std::nullopt, program, clip,
        batch_first, checkpoint_every,
        fact::driven | fact::last | fact::sequence | (checkpoint_every > 0 ? fact::kept : 0));
    if (reversible && call.loses()) call.facts |= fact::reverses;
    return forward(call);
}

// One unit of a sequence, for a network that acts: the step `k` from a drive (B, D), whose
// activities are written into those of all steps; after the last step, without a drive, what only
// the end knows: the last state of elements with `lengths`. `written`: the results, those that are
// missing without values; and behind them memory for the steps.
template <class Device>
void advance(std::vector<Tensor> tensors, std::string names, std::vector<Tensor> written,
             std::string program, double clip, int64_t checkpoint_every, int64_t k) {
    constexpr size_t count = sizeof kResults / sizeof *kResults;
    require(written.size() == count + 1, "written must be ", count + 1, " tensors; got ",
            written.size());
    Tensors operands = std::move(named<1>(tensors, names, {kOperands})[0]);
    MaybeTensor drive;
    drive.swap(operands[0]);
    const bool ends = !drive.has_value();
    const MaybeTensor output = written[0];
    Call<Device> call(std::move(operands), output, program, clip, false, checkpoint_every,
                      fact::sequence | (ends ? fact::last : 0u));
    const auto given = [&](Operands which) { return call.operand(which).has_value(); };
    require(call.is(fact::recurrent) && !given(Operands::clamp),
            "only recurrent networks act, without a clamp");
    require(k >= 0 && k <= call.steps - (ends ? 0 : 1), "k must be a step of the output; got ", k);
    require(ends == given(Operands::lengths), "lengths are for the end");
    for (int64_t b = 0; ends && b < call.batch; ++b)
        require(pointer<int64_t>(call.operand(Operands::lengths))[b] == k,
                "all elements must end after step ", k);
    if (!ends) call.check({"drive", "BD", 0, 0, Value::number, false}, drive);
    call.facts |= fact::kept;
    if (checkpoint_every > 0 && written[count - 1].numel() > 0) call.facts |= fact::reverses;
    Tensors results(written.begin(), written.end() - 1);
    for (size_t at = 0; at < count; ++at) {
        const bool absent = (kResults[at].when & ~call.facts) != 0;
        if (absent && written[at].numel() == 0) results[at].reset();
        call.check(kResults[at], results[at]);
        require(!results[at].has_value() || written[at].is_contiguous(), kResults[at].name,
                " must be contiguous");
    }
    const Tensor& memory = written[count];
    require(Device::beside(memory, call.like) && memory.scalar_type() == call.like.scalar_type() &&
                memory.dim() == 1 && memory.is_contiguous(),
            "memory must be contiguous, of one dimension and of the output's dtype and device");
    call.with_dtype([&]<typename S>(S) {
        Network<S> n = call.template network<S>();
        n.drive = {pointer<S>(drive), 0, call.size('D')};
        Device::advance(n, outputs<S>(call, results), k, output_pointer<S>(memory), memory.numel());
    });
}

// Gradients. The tensors are those of a forward pass without its drive; what it has left, and its
// last traces where traces are to be run backwards from there; and gradients of what it returned.
// `wanted`: names of operands.
template <class Device>
std::vector<Tensor> sequence_backward(std::vector<Tensor> tensors, std::string names,
                                      std::string program, double clip, bool batch_first,
                                      int64_t checkpoint_every, std::string wanted) {
    std::array<Tensors, 3> tables = named<3>(tensors, names, {kOperands, kKept, kUpstream});
    Tensors &kept = tables[1], &upstream = tables[2];
    require(kept[0].has_value(), "output is missing");
    const bool is_step = kept[0]->dim() == 2;
    require(checkpoint_every >= 1, "checkpoint_every must be positive; got ", checkpoint_every);
    const auto at = [](auto& tensors, auto which) -> MaybeTensor& {
        return tensors[static_cast<size_t>(which)];
    };
    const MaybeTensor output = compact("output", *kept[0]);
    Call<Device> call(std::move(tables[0]), output, program, clip, batch_first, checkpoint_every,
                      fact::kept | fact::last | (is_step ? 0u : fact::sequence));
    if (at(kept, Kept::trace_out).has_value()) call.facts |= fact::reverses;
    call.check(kKept, kept);
    call.check(kUpstream, upstream);
    const bool reverse = call.is(fact::reverses) && call.can_reverse();
    require(!reverse || !call.loses() || at(kept, Kept::lost).has_value(),
            "lost is needed to run the trace backwards");
    Tensors grads = call.make(kGrads, call.facts, wanted);
    call.with_dtype([&]<typename S>(S) {
        Network<S> n = call.template network<S>();
        const auto left = [&](Kept which) { return pointer<S>(at(kept, which)); };
        const auto back = [&](Upstream which) { return pointer<S>(at(upstream, which)); };
        const auto to = [&](Grads which) { return output_pointer<S>(at(grads, which)); };
        Gradients<S> g{};
        g.activities.output = call.layout(left(Kept::output), call.posts);
        g.activities.history = call.layout(left(Kept::history), call.size('H'));
        if (call.is(fact::modulated))
            g.activities.modulators = call.layout(left(Kept::modulators), 1);
        g.output = call.layout(back(Upstream::grad_output), call.posts);
        g.hidden = back(Upstream::grad_hidden);
        g.cell = back(Upstream::grad_cell);
        g.trace = back(Upstream::grad_trace);
        g.eligibility = back(Upstream::grad_eligibility);
        g.trace_out = left(Kept::trace_out);
        g.eligibility_out = left(Kept::eligibility_out);
        g.lost = pointer<bool>(at(kept, Kept::lost));
        g.checkpoints = left(Kept::checkpoints);
        g.reverse = reverse;
        g.drive = call.layout(to(Grads::drive), call.size('D'));
        g.sum = call.layout(to(Grads::sum), call.posts);
        g.features = call.layout(to(Grads::features), call.pres);
        g.modulator = call.layout(to(Grads::modulator), 1);
        g.hidden_in = to(Grads::hidden);
        g.cell_in = to(Grads::cell);
        g.trace_in = to(Grads::trace);
        g.eligibility_in = to(Grads::eligibility);
        g.alpha = to(Grads::alpha);
        g.rate = to(Grads::rate);
        g.rate_scale = to(Grads::rate_scale);
        g.eligibility_rate = to(Grads::eligibility_rate);
        Device::backward(n, g, call.like);
    });
    return present(grads);
}

}  // namespace plastikern
