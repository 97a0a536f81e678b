"""Floors, the choice of the best rival, and the ratios, from rows that are made up."""

from __future__ import annotations

import pytest

from benchmarks import floor, summary
from benchmarks.table import render
from benchmarks.workloads import workload_named


def row(
    variant: str, milliseconds: float, which: str = "forward", peak_bytes: float | None = 1.0
) -> dict:
    return {
        "workload": "patterns", "variant": variant, "pass": which, "median_ms": milliseconds, "p20_ms": milliseconds,
        "p80_ms": milliseconds, "peak_bytes": peak_bytes, "compile_s": 0.0, "max_rel_error": 1e-6, "samples": 3,
        "program": "one", "host_ms": None, "form": None, "device": "cpu", "clock": "wall clock", "torch": "2.13.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    "best", ["eager", "compile-step", "compile-chunk-recycled", "eager-recycled"]
)
def test_best_rival_is_the_fastest_pytorch_variant_recycled_or_not(best):
    names = ["eager", "eager-recycled", "compile-step", "compile-chunk", "compile-chunk-recycled"]
    rows = [row(name, 10.0 if name == best else 20.0) for name in names]
    rows += [row("jax", 1.0), row("plastikern-cpu", 2.0), row("plastikern-cpu-recycled", 2.0)]
    assert summary.best_rival(rows)["variant"] == best


def test_ratios_are_of_the_same_pass_and_tell_losses():
    rows = [
        row("plastikern-cpu", 10.0, peak_bytes=2.0), row("eager", 40.0, peak_bytes=50.0), row("eager-recycled", 5.0),
        row("eager", 400.0, "forward_backward"),
    ]  # fmt: skip
    (ratio,) = summary.ratios(rows)
    assert ratio["best_rival"] == "eager-recycled"
    assert ratio["over_best_rival"] == 0.5
    assert ratio["over_eager"] == 4.0
    assert ratio["memory_of_eager"] == 25.0
    text = render(
        {
            "rows": rows,
            "ratios": [ratio],
            "floors": [],
            "bandwidth": {},
            "failures": [],
            "left_out": {},
        }
    )
    assert (
        "SLOWER, 0.50 times as fast as the best PyTorch rival (eager-recycled), 4.00 times as fast as eager"
        in text
    )


def test_ratio_without_its_row_is_none_and_shown_as_not_measured():
    rows = [row("plastikern-cpu", 10.0, peak_bytes=None)]
    (ratio,) = summary.ratios(rows)
    assert (ratio["best_rival"], ratio["over_best_rival"], ratio["memory_of_eager"]) == (
        None,
        None,
        None,
    )
    text = render(
        {
            "rows": rows,
            "ratios": [ratio],
            "floors": [],
            "bandwidth": {},
            "failures": [],
            "left_out": {},
        }
    )
    assert "not measured" in text


def test_floor_is_bytes_over_bandwidth():
    workload = workload_named("patterns")
    synapses = 1001**2
    forward, backward = workload.traffic("forward"), workload.traffic("backward")
    assert forward.bytes == 16 * 106 * synapses + 4 * synapses
    assert backward.bytes == 24 * 106 * synapses + 3 * 4 * synapses
    assert forward.floor_ms(100.0) == pytest.approx(forward.bytes / 100e9 * 1e3)
    # Eight elements: every one reads and writes its own trace.
    assert workload_named("images-b8").traffic("forward").synapse_steps == 60 * 8 * 1025**2


def test_floor_of_modulated_networks_counts_eligibility_and_the_weights_of_the_gates_once_for_the_batch():
    synapses = 200**2
    retroactive = {
        kernel: workload_named("cue-reward").traffic(kernel) for kernel in ("forward", "backward")
    }
    assert retroactive["forward"].bytes == 24 * 120 * 30 * synapses + 4 * 2 * 30 * synapses
    assert retroactive["backward"].bytes == 40 * 120 * 30 * synapses + 4 * (2 + 2 * 30) * synapses
    lstm = {
        kernel: workload_named("lm-small").traffic(kernel) for kernel in ("forward", "backward")
    }
    assert lstm["forward"].bytes == (12 * 20 + 4 * 3) * 20 * synapses + 4 * 20 * synapses
    assert lstm["backward"].bytes == (20 * 20 + 4 * 3) * 20 * synapses + 4 * (4 + 20) * synapses
    # A step by itself: weight, alpha and trace in, the next trace out.
    assert workload_named("maze-act").traffic("forward").bytes == 200 * 30 * 16 * 100**2
    layer = workload_named("lm-large").traffic("backward").once - 4 * 1149**2 - 6 * 1149**2
    assert layer == 2 * 4 * 1149 * 400


def test_small_elements_have_a_working_set_for_each_thread(monkeypatch):
    probe = floor.Probe("three", 3, 1, 3, floor._addcmul)
    monkeypatch.setattr(floor.torch, "get_num_threads", lambda: 4)
    assert floor.probe_length(workload_named("maze").traffic("forward"), probe) == 4 * 100**2
    assert (
        floor.probe_length(workload_named("lm-small").traffic("forward"), probe)
        == 4 * 2 * 200**2 // 3
    )
    # The threads share an element; every step passes over all elements.
    assert floor.probe_length(workload_named("images-b8").traffic("forward"), probe) == 1025**2
    assert (
        floor.probe_length(workload_named("lm-large").traffic("forward"), probe)
        == (4 + 6) * 1149**2 // 3
    )
    assert (
        floor.probe_length(workload_named("maze-act").traffic("forward"), probe) == 32 * 100**2 // 3
    )


def test_backward_kernel_is_timed_as_the_difference_of_the_passes():
    workload = workload_named("patterns")
    rows = [
        row("plastikern-cpu", 10.0),
        row("plastikern-cpu", 30.0, "forward_backward"),
        row("eager", 100.0),
    ]
    floors = summary.floors(
        workload, rows, {"forward": {"gb_per_s": 160.0}, "backward": {"gb_per_s": 150.0}}
    )
    assert [(f["variant"], f["kernel"], f["measured_ms"]) for f in floors] == [
        ("plastikern-cpu", "forward", 10.0),
        ("plastikern-cpu", "backward", 20.0),
    ]
    assert floors[0]["over_floor"] == pytest.approx(
        10.0 / workload.traffic("forward").floor_ms(160.0)
    )
    assert floors[1]["floor_ms"] == pytest.approx(workload.traffic("backward").floor_ms(150.0))


def test_floor_of_one_pass_needs_no_other():
    workload = workload_named("patterns")
    (only,) = summary.floors(
        workload, [row("plastikern-cpu", 10.0)], {"forward": {"gb_per_s": 160.0}}
    )
    assert only["kernel"] == "forward"
    assert not summary.floors(workload, [row("plastikern-cpu", 10.0, "forward_backward")], {})


def test_probe_matches_the_mix_and_the_working_set(monkeypatch):
    three = floor.Probe("three", 3, 1, 3, floor._addcmul)
    four = floor.Probe("four", 4, 2, 4, floor._addcmul)
    monkeypatch.setattr(floor, "probes", lambda: [three, four])
    workload = workload_named("patterns")
    forward, backward = workload.traffic("forward"), workload.traffic("backward")
    assert floor.probe_for(forward) is three
    assert floor.probe_for(backward) is four
    assert floor.probe_length(backward, four) == 1001**2
    assert floor.probe_length(backward, three) == 4 * 1001**2 // 3


def test_probe_counts_the_bytes_that_it_moves(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(floor.time, "perf_counter", lambda: float(next(clock)))
    calls = []
    probe = floor.Probe(
        "counted", 3, 1, 3, lambda arrays, repeats: calls.append((len(arrays), repeats))
    )
    assert probe.measure(1000) == pytest.approx(4 * 4 * 1000 / 1e9)
    assert calls == [(3, 1), (3, 1)]


def test_probes_that_are_there_run():
    for probe in floor.probes():
        arrays = [floor.torch.full((64,), 0.5) for _ in range(probe.arrays)]
        before = [array.clone() for array in arrays]
        probe.run(arrays, 2)
        changed = sum(not array.equal(old) for array, old in zip(arrays, before, strict=True))
        assert changed == probe.writes
