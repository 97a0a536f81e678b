"""What each run of a campaign has reached, read from its files: there is no other record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from experiments.campaign.table import Task
from experiments.common import ownership
from experiments.common.collection import duration
from experiments.common.metrics import METRICS, read_end
from experiments.common.report import counted


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        episode: trained and logged so far.
        seconds: of training so far.
        finished: whether its result is there.
        numbers: the running means of the last line.
    """

    episode: float = 0
    seconds: float = 0.0
    finished: bool = False
    numbers: str = ""


def reached(task: Task) -> State:
    """The state of a run; of one that has not begun, too."""
    last = read_end(task.folder / METRICS)
    line = next((line for line in reversed(last) if "seconds" in line), None)
    if line is None:
        return State()
    # A row further down may have gone on with a run, so that its result at this row's end is no more.
    result = last[-1]["kind"] == "result"
    finished = last[-1]["episode"] >= task.episodes if result else line["episode"] > task.episodes
    means = {key.partition("_last_")[0]: value for key, value in line.items() if "_last_" in key}
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in means.items())
    return State(line["episode"], line["seconds"], finished, numbers)


def time_left(states: Sequence[tuple[Task, State]], jobs: int) -> tuple[float, int]:
    """Seconds until all runs are finished, ``jobs`` at a time, by the speeds measured; and how many have no measure.

    A run goes on at its own speed; one that has not begun takes that of the others in its result folder, or, where
    there are none, of other nets in the same preset.
    """
    speeds: dict[str, list[float]] = {}
    for task, state in states:
        if state.episode:
            for name in (task.name, task.group):
                speeds.setdefault(name, []).append(state.seconds / state.episode)
    left, unknown = [0.0], 0
    for task, state in states:
        if state.finished:
            continue
        own = [state.seconds / state.episode] if state.episode else []
        if measured := own or speeds.get(task.name) or speeds.get(task.group):
            left.append(median(measured) * max(task.episodes - state.episode, 0))
        else:
            unknown += 1
    return max(sum(left) / jobs, *left), unknown


def describe(task: Task, state: State, failure: str = "") -> str:
    """One line about a run."""
    busy = "" if state.finished else ownership.owner(task.folder)
    if failure:
        what = f"failed: {failure}"
    elif state.finished:
        what = f"finished, {duration(state.seconds)}; {state.numbers}"
    elif busy or state.episode:
        what = f"{state.episode / task.episodes:.1%}, {duration(state.seconds)}; {state.numbers}"
        what += f"; {busy}" if busy else "; interrupted"
    else:
        what = "waiting"
    return f"{task}: {what}"


def summary(states: Sequence[tuple[Task, State]], running: Iterable[Task], jobs: int) -> str:
    """One line about all runs.

    Args:
        running: those that are being trained, on this machine or another.
        jobs: processes at a time, for the time that is left.
    """
    finished = sum(state.finished for _, state in states)
    left, unknown = time_left(states, jobs)
    text = f"{finished} of {counted(len(states), 'run')} finished, {len(list(running))} running"
    if left:
        text += f", about {duration(left)} left by the speeds measured"
    return text + (f", besides {counted(unknown, 'run')} without a measure yet" if unknown else "")
