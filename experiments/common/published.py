"""Published numbers, all in one place, each with its source.

The curves were read off the figures of Miconi, Stanley, Clune, *Differentiable plasticity* (arXiv 1804.02464, version
of April 2018): about +-2 % of an axis' range. Of the reinforcement-learning curves of *Backpropamine* (arXiv
2002.10585) no numbers could be had: what stands here for them are values that follow from the tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

PAPER = "Miconi et al. 2018"
PAPER_2 = "Miconi et al. 2019"


@dataclass(frozen=True)
class Curve:
    """A published learning curve: ``values`` of ``metric`` at ``episodes``."""

    label: str
    metric: str
    episodes: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Level:
    """A value of ``metric`` that belongs to no number of episodes, such as that of chance."""

    label: str
    metric: str
    value: float


# Fig. 2: summed squared error, mean of 10 runs. The last value is given for 1,500 to 1,900.
PATTERNS_1000 = Curve(
    f"{PAPER}, Fig. 2, mean of 10 runs",
    "loss",
    (5, 50, 100, 150, 200, 250, 300, 400, 500, 1_000, 1_700),
    (515, 420, 265, 100, 47, 29, 22, 14, 11, 7, 4),
)

# Section 4.1: "less than 1 % error within about 200 episodes", 10 runs.
PATTERNS_1000_ERROR = Curve(f"{PAPER}, section 4.1", "error", (200,), (0.01,))

# Fig. 3: sign error of one typical run each, averaged over 100 episodes.
_FIG_3_EPISODES = (
    25_000, 50_000, 100_000, 150_000, 200_000, 300_000, 400_000, 500_000, 600_000, 800_000, 990_000
)  # fmt: skip
PATTERNS_50 = {
    "lstm": Curve(
        f"{PAPER}, Fig. 3, LSTM",
        "error",
        _FIG_3_EPISODES,
        (0.128, 0.122, 0.110, 0.095, 0.073, 0.033, 0.021, 0.0155, 0.013, 0.012, 0.011),
    ),
    "rnn": Curve(
        f"{PAPER}, Fig. 3, non-plastic RNN",
        "error",
        _FIG_3_EPISODES,
        (0.183, 0.170, 0.142, 0.132, 0.123, 0.120, 0.119, 0.120, 0.119, 0.119, 0.120),
    ),
    # The text gives "below 0.01 within 2,000 episodes"; from 50,000 on the figure shows 0.001 to 0.002.
    "plastic": Curve(
        f"{PAPER}, Fig. 3, plastic RNN", "error", (2_000, 50_000, 990_000), (0.01, 0.0015, 0.0015)
    ),
}

# Fig. 5: training loss, median of 10 runs for each condition. There is no published non-plastic curve.
_FIG_5_EPISODES = (0, 200, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 39_000)
IMAGES = {
    "independent": Curve(
        f"{PAPER}, Fig. 5, independent alpha",
        "loss",
        _FIG_5_EPISODES,
        (90, 53, 30, 25, 21, 18, 15.5, 15.7, 15.7),
    ),
    "yoked": Curve(
        f"{PAPER}, Fig. 5, yoked alpha",
        "loss",
        _FIG_5_EPISODES,
        (46, 40, 33, 31, 29, 27, 25.5, 26, 26.5),
    ),
}

# Section 4.4: 10 runs, 100 test episodes each; 95 % confidence interval 0.57 %. About a million episodes of training.
OMNIGLOT = {
    "yoked": Curve(f"{PAPER}, section 4.4, 10 runs", "accuracy", (1_000_000,), (0.985,)),
    # Of the later version of the paper, with one coefficient per connection, after five million episodes.
    "free": Curve(f"{PAPER}, later version, 10 runs", "accuracy", (5_000_000,), (0.983,)),
}

# Fig. 6: reward of an episode, median of 15 runs.
_FIG_6_EPISODES = (
    50_000,
    100_000,
    200_000,
    300_000,
    400_000,
    500_000,
    600_000,
    700_000,
    800_000,
    900_000,
    970_000,
)
MAZE_1 = {
    "plastic": Curve(
        f"{PAPER}, Fig. 6, plastic",
        "reward",
        _FIG_6_EPISODES,
        (16.5, 25, 36, 56, 77, 90, 108, 117, 136, 144, 148),
    ),
    "rnn": Curve(
        f"{PAPER}, Fig. 6, non-plastic",
        "reward",
        _FIG_6_EPISODES,
        (17.5, 40, 45, 38, 40, 49, 47, 53, 55, 55, 58),
    ),
}

# Simulated. An agent that is told where the reward is, and one that acts at random.
MAZE_1_LEVELS = (
    Level("told the place (simulated)", "reward", 406),
    Level("random (simulated)", "reward", 0.1),
)
MAZE_2_LEVELS = {
    9: (
        Level("told the place (simulated)", "reward", 323),
        Level("random (simulated)", "reward", 8.2),
    ),
    11: (
        Level("told the place (simulated)", "reward", 270),
        Level("random (simulated)", "reward", 5.7),
    ),
}

# Test perplexity on the Penn Treebank, section 4.3: means of 16 runs of the small models, medians of 5 of the large.
PERPLEXITY = {
    ("small", "lstm"): Level(f"{PAPER_2}, 16 runs", "perplexity", 104.26),
    ("small", "plastic"): Level(f"{PAPER_2}, 16 runs", "perplexity", 103.80),
    ("small", "simple"): Level(f"{PAPER_2}, 16 runs", "perplexity", 102.65),
    ("small", "retroactive"): Level(f"{PAPER_2}, 16 runs", "perplexity", 102.48),
    ("large", "lstm"): Level(f"{PAPER_2}, 5 runs", "perplexity", 62.48),
    ("large", "simple"): Level(f"{PAPER_2}, 5 runs", "perplexity", 61.44),
}

# Traces of a trained retroactive network that the authors ship: 15 to 18 of at most 18 to 20 in 120 steps.
CUE_REWARD_LEVELS = (
    Level("a trained network of the authors (15 to 18)", "reward", 16.25),
    Level("chance", "reward", 0),
)
