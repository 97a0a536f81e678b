"""From the runs that are there to a verdict on a claim: reproduced, not reproduced, or undecided, and why.

All tests are at the 5 % level. Runs as numerous as the published ones that show no significant effect count against a
claim; fewer leave it undecided.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
from scipy import stats

Summary = Mapping[str, Any]
"""What a results file holds (:func:`experiments.common.collection.summary`)."""

LEVEL = 0.05
POWER = 0.8
REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"


@dataclass(frozen=True)
class Outcome:
    """What a test says.

    Attributes:
        verdict: one of the three.
        evidence: the test, its p-value or interval, the seeds.
        needs: of an undecided one, what it would take.
    """

    verdict: str
    evidence: str
    needs: tuple[str, ...] = ()


class Missing(Exception):
    """A test cannot be made; the message says what it would take."""


def value(seed: Summary, metric: str, at: int) -> float:
    """A metric of one run after so many episodes: of its result if it is tested at the end, else its running mean.

    Raises:
        Missing: the run has not got so far.
    """
    result, curve = seed["result"] or {}, seed["curve"]
    reached = max([result.get("episode", 0), *curve.get("episode", [])])
    if reached < at:
        raise Missing(f"{at - reached:,.10g} more episodes")
    if metric in result:
        return float(result[metric])
    return float(numpy.interp(at, curve["episode"], _running(curve, metric)))


def first_reach(seed: Summary, metric: str, level: float, at: int) -> float:
    """Episodes after which a running mean is at least ``level``; infinite where it is not within ``at``."""
    value(seed, metric, at)
    curve = seed["curve"]
    pairs = zip(curve["episode"], _running(curve, metric), strict=True)
    return min(
        (episode for episode, mean in pairs if mean >= level and episode <= at), default=math.inf
    )


def _running(curve: Summary, metric: str) -> Sequence[float]:
    (name,) = (name for name in curve if name.partition("_last_")[0] == metric)
    return curve[name]


class Test(ABC):
    """One comparison that a claim rests on; the results it needs are named by their nets."""

    nets: ClassVar[tuple[str, ...]] = ("net",)

    @abstractmethod
    def measure(self, seed: Summary) -> float:
        """The number of a run that is tested."""

    @abstractmethod
    def judge(self, samples: Sequence[Sequence[float]], runs: int) -> Outcome:
        """The outcome for one sample a net; ``runs`` is how many the paper has."""

    def outcome(self, results: Mapping[str, Summary], group: str, runs: int) -> Outcome:
        """The outcome for the results ``GROUP-NET``."""
        samples, missing = [], []
        for field in self.nets:
            name = f"{group}-{getattr(self, field)}"
            sample: list[float] = []
            for number, seed in results.get(name, {"seeds": {}})["seeds"].items():
                try:
                    sample.append(self.measure(seed))
                except Missing as error:
                    missing.append(f"{error} of {name}, seed {number}")
            if not sample and not any(name in text for text in missing):
                missing.append(f"runs of {name}")
            samples.append(sample)
        if not all(samples):
            return Outcome(UNDECIDED, "no runs that are long enough", tuple(missing))
        return self.judge(samples, runs)


@dataclass(frozen=True)
class Reaches(Test):
    """Every run has ``metric`` on one side of ``level`` after ``at`` episodes (exact sign test, one-sided)."""

    net: str
    metric: str
    level: float
    at: int
    below: bool = False

    def measure(self, seed: Summary) -> float:
        return value(seed, self.metric, self.at)

    def judge(self, samples: Sequence[Sequence[float]], runs: int) -> Outcome:
        (sample,) = samples
        count = sum(
            number < self.level if self.below else number >= self.level for number in sample
        )
        side = "below" if self.below else "at least"
        evidence = (
            f"{self.net}: {count} of {len(sample)} seeds have {self.metric} {side} {self.level:g} after {self.at:,} "
            f"episodes (median {numpy.median(sample):.4g})"
        )
        return _sign_test(count, len(sample), runs, evidence)


@dataclass(frozen=True)
class Differs(Test):
    """``net`` has more (or less) of ``metric`` than ``other`` after ``at`` episodes (rank-sum test, two-sided)."""

    nets: ClassVar[tuple[str, ...]] = ("net", "other")
    net: str
    other: str
    metric: str
    at: int
    lower: bool = False

    def measure(self, seed: Summary) -> float:
        return value(seed, self.metric, self.at)

    def judge(self, samples: Sequence[Sequence[float]], runs: int) -> Outcome:
        names = f"{self.metric} after {self.at:,} episodes"
        return _rank_sum(samples, self, "less" if self.lower else "more", names, runs)


@dataclass(frozen=True)
class Sooner(Test):
    """``net`` reaches ``level`` after fewer episodes than ``other``, within ``at`` (rank-sum test, two-sided)."""

    nets: ClassVar[tuple[str, ...]] = ("net", "other")
    net: str
    other: str
    metric: str
    level: float
    at: int

    def measure(self, seed: Summary) -> float:
        return first_reach(seed, self.metric, self.level, self.at)

    def judge(self, samples: Sequence[Sequence[float]], runs: int) -> Outcome:
        return _rank_sum(
            samples, self, "less", f"episodes up to a {self.metric} of {self.level:g}", runs
        )


@dataclass(frozen=True)
class Mean(Test):
    """The mean of ``metric`` is at least ``low``, the lower end of the published interval (t interval)."""

    net: str
    metric: str
    low: float
    at: int

    def measure(self, seed: Summary) -> float:
        return value(seed, self.metric, self.at)

    def judge(self, samples: Sequence[Sequence[float]], runs: int) -> Outcome:
        (sample,) = samples
        if len(sample) < 2:
            text = f"{self.net}: {self.metric} {sample[0]:.4g} with one seed, published at least {self.low:g}"
            return Outcome(UNDECIDED, text, ("4 more seeds, for an interval",))
        mean, error = numpy.mean(sample), stats.sem(sample)
        low, high = (
            stats.t.interval(1 - LEVEL, len(sample) - 1, mean, error) if error else (mean, mean)
        )
        evidence = (
            f"{self.net}: mean {self.metric} {mean:.4g}, 95 % interval {low:.4g} to {high:.4g}, {len(sample)} seeds; "
            f"published at least {self.low:g}"
        )
        if low >= self.low:
            return Outcome(REPRODUCED, evidence)
        if high < self.low:
            return Outcome(NOT_REPRODUCED, evidence)
        return Outcome(UNDECIDED, evidence, ("more seeds: the interval contains the limit",))


def _sign_test(count: int, total: int, runs: int, evidence: str) -> Outcome:
    p, against = (
        float(stats.binomtest(each, total, alternative="greater").pvalue)
        for each in (count, total - count)
    )
    evidence += f", sign test p = {p:.2g}"
    if p < LEVEL:
        return Outcome(REPRODUCED, evidence)
    if against < LEVEL or total >= runs:
        return Outcome(NOT_REPRODUCED, evidence)
    least = math.ceil(math.log2(1 / LEVEL))
    if count in (0, total) and total < least:
        return Outcome(UNDECIDED, evidence, (f"{least - total} more seeds that agree with these",))
    return Outcome(
        UNDECIDED, evidence, (f"{runs - total} more seeds, as many as published: these disagree",)
    )


def _rank_sum(
    samples: Sequence[Sequence[float]], test: Differs | Sooner, side: str, what: str, runs: int
) -> Outcome:
    ours, theirs = samples
    ties = len({*ours, *theirs}) < len(ours) + len(theirs)
    method = stats.PermutationMethod(rng=0) if ties else "exact"
    tested = stats.mannwhitneyu(ours, theirs, alternative="two-sided", method=method)
    p = float(tested.pvalue)
    # The chance that a run of the one net has more than a run of the other.
    chance = float(tested.statistic) / (len(ours) * len(theirs))
    right = chance < 0.5 if side == "less" else chance > 0.5
    evidence = (
        f"{test.net} against {test.other}: {what} {numpy.median(ours):.4g} against {numpy.median(theirs):.4g} "
        f"(medians of {len(ours)} and {len(theirs)} seeds), rank-sum test p = {p:.2g}"
    )
    fewest = min(len(ours), len(theirs))
    if p < LEVEL:
        return Outcome(REPRODUCED if right else NOT_REPRODUCED, evidence)
    if fewest >= runs:
        return Outcome(NOT_REPRODUCED, evidence)
    return Outcome(UNDECIDED, evidence, (_more_seeds(fewest, chance, runs),))


def _more_seeds(fewest: int, chance: float, runs: int) -> str:
    """What a rank-sum test that says nothing yet would take, with ``fewest`` runs a net."""
    least = next(n for n in range(1, 100) if 2 / math.comb(2 * n, n) < LEVEL)
    if fewest < least:
        return f"{least - fewest} more seeds a net at least: with fewer the test cannot decide"
    if chance == 0.5:
        return f"{runs - fewest} more seeds a net, as many as published: no effect is seen"
    # Noether's sample size of the rank-sum test for the effect seen.
    quantiles = stats.norm.isf(LEVEL / 2) + stats.norm.isf(1 - POWER)
    needed = max(math.ceil(quantiles**2 / (6 * (chance - 0.5) ** 2)), fewest + 1)
    return f"about {needed} seeds a net, if the effect is as seen (power {POWER:.0%})"
