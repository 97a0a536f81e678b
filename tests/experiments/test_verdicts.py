"""Verdicts on the papers' claims: what follows from how many seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("scipy", reason="the tests of the verdicts are scipy's")

from experiments.__main__ import EXPERIMENTS
from experiments.campaign import table
from experiments.common import claims, collection
from experiments.common.cli import main
from experiments.common.verdicts import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Differs,
    Mean,
    Outcome,
    Reaches,
    Sooner,
    Test,
)

AT = 1000


def result(
    finals: Sequence[float], episodes: int = AT, rises_at: Sequence[float] | None = None
) -> dict[str, Any]:
    """A results file with a seed for each final value; its curve leaves 0 at some episode and is there 10 later."""
    seeds = {}
    for number, final in enumerate(finals):
        start = rises_at[number] if rises_at else 10.0
        curve = {
            "episode": [0, start, start + 10, episodes],
            "reward_last_250": [0, 0, final, final],
        }
        tested = {"kind": "result", "episode": episodes, "test_reward": final + 1}
        seeds[str(number)] = {"curve": curve, "result": tested, "tests": []}
    return {"seeds": seeds}


def outcome(test: Test, runs: int = 10, **results: dict[str, Any]) -> Outcome:
    return test.outcome(
        {f"group-{net}": content for net, content in results.items()}, "group", runs
    )


HIGH, LOW = [15.0, 16, 17, 15.5, 16.5], [1.0, 2, 0, 1.5, 0.5]


def test_a_rank_sum_test_decides_from_four_seeds_a_net_on() -> None:
    more = Differs("a", "b", "reward", AT)
    told = outcome(more, a=result(HIGH), b=result(LOW))
    assert told.verdict == REPRODUCED and told.needs == ()
    assert told.evidence.endswith(
        "16 against 1 (medians of 5 and 5 seeds), rank-sum test p = 0.0079"
    ), "2 of 252"
    assert outcome(more, a=result(LOW), b=result(HIGH)).verdict == NOT_REPRODUCED
    less = Differs("a", "b", "reward", AT, lower=True)
    assert outcome(less, a=result(LOW), b=result(HIGH)).verdict == REPRODUCED
    assert outcome(more, a=result(HIGH[:4]), b=result(LOW[:4])).verdict == REPRODUCED
    told = outcome(more, a=result(HIGH[:3]), b=result(LOW))
    assert told.verdict == REPRODUCED, "3 and 5 have 56 orders"
    told = outcome(more, a=result(HIGH[:3]), b=result(LOW[:3]))
    assert told.verdict == UNDECIDED and told.needs[0].startswith("1 more seeds a net at least")


def test_no_difference_counts_against_a_claim_once_the_runs_are_as_many_as_published() -> None:
    more, mixed = Differs("a", "b", "reward", AT), [1.0, 3, 5, 7, 9]
    slightly = [2.0, 4, 6, 8, 10]
    told = outcome(more, a=result(slightly), b=result(mixed))
    assert told.verdict == UNDECIDED
    # The chance of a run of a to have more than one of b is 15 of 25, so that Noether's formula gives 131.
    assert told.needs == ("about 131 seeds a net, if the effect is as seen (power 80%)",)
    assert outcome(more, runs=5, a=result(slightly), b=result(mixed)).verdict == NOT_REPRODUCED
    same = outcome(more, a=result(mixed), b=result(mixed))
    assert same.needs == ("5 more seeds a net, as many as published: no effect is seen",)


def test_a_sign_test_takes_five_seeds_that_agree() -> None:
    reaches, stays = Reaches("a", "reward", 9, AT), Reaches("a", "reward", 9, AT, below=True)
    told = outcome(reaches, a=result(HIGH))
    assert told.verdict == REPRODUCED and told.evidence.endswith("sign test p = 0.031")
    assert "5 of 5 seeds have reward at least 9 after 1,000 episodes (median 16)" in told.evidence
    assert outcome(stays, a=result(HIGH)).verdict == NOT_REPRODUCED
    assert outcome(stays, a=result(LOW)).verdict == REPRODUCED
    assert outcome(reaches, a=result(HIGH[:3])).needs == ("2 more seeds that agree with these",)
    assert outcome(reaches, a=result([*HIGH, 0.0])).needs == (
        "4 more seeds, as many as published: these disagree",
    )
    assert outcome(reaches, runs=6, a=result([*HIGH, 0.0])).verdict == NOT_REPRODUCED


def test_who_learns_sooner_is_compared_by_the_first_episode_at_a_level() -> None:
    sooner = Sooner("a", "b", "reward", 9, AT)
    early, late = (
        result(HIGH, rises_at=[100.0, 110, 120, 130, 140]),
        result(HIGH, rises_at=[300.0, 310, 320, 330, 340]),
    )
    told = outcome(sooner, a=early, b=late)
    assert told.verdict == REPRODUCED and "130 against 330" in told.evidence
    assert outcome(sooner, a=late, b=early).verdict == NOT_REPRODUCED
    assert outcome(sooner, a=early, b=result(LOW)).verdict == REPRODUCED, (
        "never is later than anything"
    )
    assert outcome(sooner, runs=5, a=result(LOW), b=result(LOW)).verdict == NOT_REPRODUCED


def test_a_published_mean_is_compared_with_the_interval_of_ours() -> None:
    mean = Mean("a", "test_reward", 10, AT)
    assert outcome(mean, a=result(HIGH)).verdict == REPRODUCED
    assert (
        "mean test_reward 17, 95 % interval 16.02 to 17.98, 5 seeds"
        in outcome(mean, a=result(HIGH)).evidence
    )
    assert outcome(mean, a=result(LOW)).verdict == NOT_REPRODUCED
    assert outcome(mean, a=result([9.0, 10.0])).verdict == UNDECIDED
    assert outcome(mean, a=result([9.0])).needs == ("4 more seeds, for an interval",)


def test_runs_that_are_too_short_or_not_there_are_named() -> None:
    told = outcome(Differs("a", "b", "reward", AT), a=result(HIGH[:1], episodes=400))
    assert told.verdict == UNDECIDED
    assert told.needs == ("600 more episodes of group-a, seed 0", "runs of group-b")
    unfinished = result(HIGH)
    unfinished["seeds"]["0"]["result"] = None
    assert "5 of 5" in outcome(Reaches("a", "reward", 9, AT), a=unfinished).evidence, (
        "its curve is long enough"
    )


def test_a_claim_is_reproduced_if_all_of_its_tests_say_so() -> None:
    parts = [Reaches("a", "reward", 9, AT), Reaches("b", "reward", 9, AT, below=True)]
    claim = claims.Claim("paper", "a learns, b does not", "group", 10, parts)

    def verdict(a: Sequence[float], b: Sequence[float]) -> Outcome:
        return claim.verdict({"group-a": result(a), "group-b": result(b)})

    assert verdict(HIGH, LOW).verdict == REPRODUCED
    assert verdict(HIGH, HIGH).verdict == NOT_REPRODUCED
    told = verdict(HIGH, LOW[:4])
    assert (told.verdict, told.needs) == (UNDECIDED, ("1 more seeds that agree with these",))
    assert verdict(HIGH[:1], HIGH).verdict == NOT_REPRODUCED, "one part that fails is enough"


def test_every_claim_asks_for_runs_that_the_table_has() -> None:
    tasks = table.tasks(table.read(table.TABLE), EXPERIMENTS, Path("runs"))
    longest = {task.name: task.episodes for task in tasks}
    for claim in claims.CLAIMS:
        for test in claim.tests:
            for field in test.nets:
                name = f"{claim.group}-{getattr(test, field)}"
                if claim.group != "language-large":  # days of a GPU
                    assert name in longest, claim.text
                    assert longest[name] >= test.at or "500,000" in claim.text  # type: ignore[attr-defined]


def test_reports_and_result_files_come_with_their_verdicts(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "maze-demo-rnn"
    small = ["maze", "--preset", "demo", "--net", "rnn", "--episodes", "60", "--threads", "1"]
    assert (
        main(
            EXPERIMENTS, [*small, "--set", "hidden=3", "evaluation_episodes=30", "--out", str(out)]
        )
        == 0
    )
    assert (
        main(
            EXPERIMENTS,
            ["report", "--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results")],
        )
        == 0
    )
    report = (tmp_path / "runs" / "report.md").read_text()
    assert (
        "## Verdicts" in report
        and "| undecided |" in report
        and "299,940 more episodes of maze-demo-rnn" in report
    )
    assert "Omniglot" not in report, "the runs say nothing about it"
    assert "<h2>Verdicts</h2>" in (tmp_path / "runs" / "report.html").read_text()
    kept = (tmp_path / "results" / "verdicts.md").read_text()
    assert kept.count("\n") == 2 + len(claims.CLAIMS)
    assert json.loads((tmp_path / "results" / "maze-demo-rnn.json").read_text())["episodes"] == 60


def test_the_verdicts_of_the_documentation_follow_from_its_result_files(tmp_path: Path) -> None:
    results = Path(__file__).resolve().parents[2] / "docs" / "results"
    anew = "python -m experiments report --results docs/results"
    assert (results / "verdicts.md").read_text() == collection.verdicts_of(results), (
        f"write it anew: {anew}"
    )
    (tmp_path / "one.json").write_text((results / "maze-demo-rnn.json").read_text())
    assert (
        main(
            EXPERIMENTS, ["report", "--out", str(tmp_path / "nothing"), "--results", str(tmp_path)]
        )
        == 0
    )
    assert (tmp_path / "verdicts.md").read_text() == collection.verdicts_of(tmp_path)
