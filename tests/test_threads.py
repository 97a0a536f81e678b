"""Threads and processes: any number of threads, calls from several at once, workers, and children of a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from conftest import VARIANTS, Case, assert_close, assert_same_bits, needs_native, run, threads
from tolerances import FP64_ROUNDING
from torch import Tensor

import plastikern
from plastikern import PlasticRNN, use_backend

SECONDS = 120

pytestmark = needs_native
# Split among threads, whole elements to each, and small ones of every network.
SMALL = {name: replace(case, batch=3, lengths=None) for name, case in VARIANTS.items()}
MANY = {"rows": Case(5, 1, 150), "elements": Case(24, 5, 41), **SMALL}
# A team of 7 threads, two of which have fewer rows; elements of 3 threads each, with one left over for a team.
TEAMS = {
    "team": Case(3, 1, 250),
    "left over": Case(3, 7, 140),
    "gates": Case(3, 2, 130, network="lstm"),
}


def test_the_number_of_threads_may_change_between_calls_and_between_the_passes() -> None:
    for case in (MANY["rows"], MANY["elements"], *TEAMS.values()):
        expected = run(case, "reference")
        for forward, backward in ((1, 2), (2, 1), (7, 3), (2, 64), (1, 1)):
            inputs = case.inputs()
            with threads(forward):
                outputs = case.sequence(inputs, "cpu")
            with threads(backward):
                found = case.results(outputs, inputs)
            assert_close(found, expected, FP64_ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*MANY, *TEAMS])
def test_more_threads_than_cores_change_no_bit(name: str, dtype: torch.dtype) -> None:
    """The work is shared by as many threads as there are cores: more would wait for their turns at every barrier."""
    case = (MANY | TEAMS)[name]
    with threads(3):
        expected = run(case, "cpu", dtype)
    with threads(64, cores=3):
        # The products of the baseline weight's gradient are torch's own.
        found = run(case, "cpu", dtype)
        del found["grad_weight"], expected["grad_weight"]
        assert_same_bits(found, expected)


@pytest.mark.parametrize(
    "case",
    [
        Case(5, 1, 130),
        Case(5, 1, 68, network="lstm"),
        Case(5, 1, 6, network="linear", nonlinearity="tanh", features=4000),
        Case(2, 20, 29),
    ],
    ids=["rows", "gates", "few long rows", "elements"],
)
def test_more_threads_than_there_is_work_for_change_no_bit(case: Case) -> None:
    """Each of these is worth two threads."""
    with threads(2):
        expected = run(case, "cpu")
    with threads(64):
        found = run(case, "cpu")
    for name in ("grad_weight", "grad_modulator_weight"):
        found.pop(name, None), expected.pop(name, None)
    assert_same_bits(found, expected)


STARTED = """
import os, torch
import plastikern.functional as PF
from plastikern import PlasticLSTM, PlasticRNN
networks = PlasticRNN(None, 200, bias=False), PlasticLSTM(1, 200)
drives = [torch.zeros(9, batch, 200 * network.gates) for network in networks for batch in (1, 4, 40)]
torch.set_num_threads(64)  # which starts threads at once, for other purposes
before = len(os.listdir("/proc/self/task"))
for drive in drives:
    network = networks[drive.shape[-1] > 200]
    parameters = network.weight_hh_l0, network.alpha_l0, network.eta_l0
    with torch.no_grad():
        if network is networks[0]:
            PF.plastic_rnn_sequence(drive, None, None, *parameters)
            rollout = network.rollout(9, drive.shape[1])
            for row in drive:
                rollout.step(row)
        else:
            PF.plastic_lstm_sequence(drive, None, None, None, *parameters)
print(len(os.listdir("/proc/self/task")) - before, len(os.sched_getaffinity(0)))
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the system does not tell what a process may use"
)
def test_no_more_threads_are_started_than_there_are_cores() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTED], capture_output=True, text=True, check=True
    )
    started, cores = map(int, done.stdout.split())
    assert started < cores


def test_calls_from_several_python_threads_do_not_meet() -> None:
    """The same bits as one after the other, whichever finds the scratch memory of the process in use."""

    def bits(job: tuple[str, torch.dtype]) -> Mapping[str, Tensor]:
        name, dtype = job
        return run(MANY[name], "cpu", dtype)

    jobs = [(name, dtype) for name in MANY for dtype in (torch.float32, torch.float64)]
    with threads(2):
        expected = {job: bits(job) for job in jobs}
        with ThreadPoolExecutor(max_workers=6) as pool:
            for job, found in zip(3 * jobs, pool.map(bits, 3 * jobs), strict=True):
                assert_same_bits(found, expected[job])


def test_a_block_with_a_backend_is_of_its_own_thread() -> None:
    with ThreadPoolExecutor(max_workers=1) as pool, use_backend("reference"):
        elsewhere = pool.submit(plastikern.backends.select, None, torch.zeros(1)).result()
        assert (elsewhere, plastikern.backends.select(None, torch.zeros(1))) == ("cpu", "reference")


def train_in_a_thread(module: PlasticRNN) -> list[Tensor]:
    output, _ = module(torch.ones(6, 3, 4))
    return [*torch.autograd.grad(output.sum(), [*module.parameters()])]


def test_one_module_serves_several_threads() -> None:
    torch.manual_seed(0)
    module = PlasticRNN(4, 33)
    expected = train_in_a_thread(module)
    with ThreadPoolExecutor(max_workers=4) as pool:
        for found in pool.map(train_in_a_thread, [module] * 12):
            assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_process_that_is_forked_after_use_works_and_its_parent_too() -> None:
    """OpenMP's threads are not in the child: a loop there that waited for them would never end."""
    with threads(2):
        expected = run(MANY["rows"], "cpu")
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(SECONDS)  # a child that hangs is ended, which is no success
            status = 1
            try:
                assert torch.get_num_threads() == 1
                assert_close(run(MANY["rows"], "cpu"), expected, FP64_ROUNDING)
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert torch.get_num_threads() == 2
        assert_same_bits(run(MANY["rows"], "cpu"), expected)


class Episodes(torch.utils.data.Dataset):
    """Items that are computed by a plastic network in the worker."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = PlasticRNN(3, 20, backend="cpu")

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        torch.manual_seed(index)
        with torch.no_grad():
            return self.module(torch.randn(5, 3))[0]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader_compute_with_plastic_networks(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"the system does not {method}")
    episodes = Episodes()
    with threads(2):
        expected = torch.stack(
            [episodes[index] for index in range(len(episodes))]
        )  # used before the workers start
        loader = torch.utils.data.DataLoader(
            episodes, batch_size=2, num_workers=2, multiprocessing_context=method, timeout=SECONDS
        )  # fmt: skip
        found = torch.cat([*loader])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
