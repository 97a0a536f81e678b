"""Pictures of agents: an episode in a maze as a film, signals of the network around rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageDraw
from torch import Tensor

from experiments.common.agents import Agent, State
from experiments.common.metrics import Line
from experiments.common.plots import new_figure

TRACES, MODULATOR = "norm of the traces", "modulator"
MILLISECONDS = 120
DOT = 4
AGENT = (31, 119, 180)
LEAST_RISE = 2.0
BEFORE, AFTER = 4, 6
"""Steps around an answer."""


def signals(agent: Agent, state: State) -> dict[str, Tensor]:
    """What is drawn of a state: norm of the traces and modulator, each (B,); of a plain network its activity, of a rule
    of one's own the norm of each of its states, and what the network reads out for it."""
    hidden, *traces = state
    if not traces:
        return {"norm of the activities": hidden.norm(dim=-1)}
    if (states := agent.rule_states(state)) is not None:
        norms = {f"norm of {n}": x.reshape(len(x), -1).norm(dim=-1) for n, x in states.items()}
        return {**norms, **agent.readouts(hidden)}
    found = {TRACES: traces[0].flatten(1).norm(dim=-1)}
    modulator = agent.modulator_signal(hidden)
    return found if modulator is None else {**found, MODULATOR: modulator}


def maze_film(
    path: Path,
    grid: numpy.ndarray,
    goal: Sequence[int],
    squares: Sequence[Sequence[int]],
    rewards: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    caption: str,
) -> Path:
    """An animated GIF, one picture a step: the maze at the left, curves over the episode at the right.

    Args:
        grid: True for a wall.
        goal, squares: row and column of the reward, and of the agent at every step.
        rewards, curves: of every step.
    """
    figure, canvas = new_figure(8.0, 3.6)
    maze, *panels = figure.subplot_mosaic(
        [["maze", name] for name in curves], width_ratios=(1, 1.4)
    ).values()
    maze.imshow(grid, cmap="gray_r", vmin=0, vmax=2)
    maze.plot(goal[1], goal[0], "*", color="C1", markersize=14)
    maze.set_axis_off()
    maze.set_title(" ", fontsize="small")  # room for the text of each picture
    for axes, (name, values) in zip(panels, curves.items(), strict=True):
        axes.plot(values, linewidth=1)
        for step, reward in enumerate(rewards):
            if reward > 0:
                axes.axvline(step, color="C1", linewidth=0.6, alpha=0.6)
        axes.set(ylabel=name)
    panels[-1].set_xlabel("step")
    figure.suptitle(caption, fontsize="small")
    canvas.draw()
    # What moves is painted on copies of one picture: to draw the figure anew takes a hundred times as long.
    still = Image.fromarray(numpy.asarray(canvas.buffer_rgba())[..., :3].copy())

    def point(axes: Any, x: float, y: float) -> tuple[float, float]:
        right, up = axes.transData.transform((x, y))
        return right, still.height - up

    radius = abs(point(maze, 0.35, 0)[0] - point(maze, 0, 0)[0])
    pictures: list[Image.Image] = []
    for step, (row, column) in enumerate(squares):
        picture = still.copy()
        paint = ImageDraw.Draw(picture)
        places = [(point(maze, column, row), radius)]
        places += [
            (point(a, step, v[step]), DOT) for a, v in zip(panels, curves.values(), strict=True)
        ]
        for (x, y), size in places:
            paint.ellipse((x - size, y - size, x + size, y + size), fill=AGENT)
        left, top = point(maze, -0.5, -0.5)
        paint.text(
            (left, top - 14), f"step {step}, reward so far {sum(rewards[:step]):.4g}", fill="black"
        )
        pictures.append(
            picture.quantize(
                32, palette=pictures[0] if pictures else None, dither=Image.Dither.NONE
            )
        )
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0)
    return path


def around_rewards(
    path: Path, curves: Mapping[str, numpy.ndarray], rewards: numpy.ndarray, caption: str
) -> Path:
    """Medians and inter-quartile ranges of signals (T, B) around right and around wrong answers."""
    figure, _ = new_figure(5.5 * len(curves), 3.6)
    steps = numpy.arange(-BEFORE, AFTER + 1)
    for axes, (name, values) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        for colour, wanted, label in (("C0", 1, "right"), ("C3", -1, "wrong")):
            times, episodes = (rewards[: len(rewards) - AFTER] == wanted).nonzero()
            times, episodes = times[times >= BEFORE], episodes[times >= BEFORE]
            if len(times) == 0:
                continue
            windows = values[times[:, None] + steps, episodes[:, None]]
            low, middle, high = numpy.quantile(windows, (0.25, 0.5, 0.75), axis=0)
            axes.plot(steps, middle, colour, marker=".", label=f"{label}, {len(times)} answers")
            axes.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.axvline(1, color="k", linestyle=":", linewidth=0.7, label="reward is seen")
        axes.set(xlabel="steps after the answer", ylabel=name)
        axes.legend(fontsize="small")
    figure.suptitle(caption, fontsize="small")
    figure.savefig(path, dpi=120)
    return path


INSIGHT = (
    ("reward", {"reward": "C7", "test_reward": "C0"}, "linear"),
    (
        "modulator where the outcome of an answer is seen",
        {"modulator_after_right": "C0", "modulator_after_wrong": "C3"},
        "linear",
    ),
    (
        "modulator over all steps",
        {"modulator_mean": "C0", "modulator_spread": "C1"},
        "linear",
    ),
    ("norm of the traces at the end of an episode", {"trace_norm": "C0"}, "linear"),
    (
        "norms of the recurrent weights and of alpha times traces",
        {"weight_norm": "C0", "plastic_norm": "C1"},
        "linear",
    ),
    (
        "norm of the gradient",
        {
            "gradient": "C7",
            "gradient_weight": "C0",
            "gradient_alpha": "C1",
            "gradient_modulator": "C2",
        },
        "log",
    ),
)
"""Panels: title, numbers of the metrics with their colours, scale."""


def insight(path: Path, lines: Sequence[Line], caption: str) -> Path:
    """How a network came to learn: its reward, what it makes of outcomes, its traces and its gradients, around the
    episodes in which the reward rises; of one that does not learn, over all of its training.

    Args:
        path: of a picture, the kind of which its suffix says.
        lines: of the metrics of a run.
    """
    train = [line for line in lines if line["kind"] == "train"]
    running = next(name for name in train[-1] if name.startswith("reward_last_"))
    start, end = _rise([line["episode"] for line in train], [line[running] for line in train])
    # Axes fit what is shown, not what lies before or behind it.
    shown = [line for line in lines if start <= line.get("episode", -1) <= end]
    curves = {
        name: points
        for _, names, _ in INSIGHT
        for name in names
        if (points := [(line["episode"], line[name]) for line in shown if name in line])
    }
    panels = [panel for panel in INSIGHT if curves.keys() & panel[1].keys()]
    figure, _ = new_figure(8.0, 1.2 + 1.7 * len(panels))
    rows = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, names, scale) in zip(rows, panels, strict=True):
        for name in (name for name in names if name in curves):
            axes.plot(
                *zip(*curves[name], strict=True),
                names[name],
                linewidth=0.8,
                label=name.replace("_", " "),
            )
        axes.set_title(title, fontsize="small", loc="left")
        axes.set_yscale(scale)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    rows[-1].set(xlabel="episode", xlim=(start, end))
    figure.suptitle(caption, fontsize="small")
    # Without a date the same numbers give the same file.
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _rise(episodes: Sequence[float], rewards: Sequence[float]) -> tuple[float, float]:
    """From well before a tenth of the final reward to well after half of it; all episodes if it is near 0."""
    start, end = episodes[0], episodes[-1]
    if rewards[-1] < LEAST_RISE:
        return start, end
    low, high = (
        next(
            episode
            for episode, reward in zip(episodes, rewards, strict=True)
            if reward >= share * rewards[-1]
        )
        for share in (0.1, 0.5)
    )
    margin = max(3 * (high - low), 0.02 * (end - start))
    return max(low - margin, start), min(high + margin, end)
