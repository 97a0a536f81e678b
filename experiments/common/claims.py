"""The claims of the two papers, and the tests that decide each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from experiments.common.published import PAPER, PAPER_2
from experiments.common.verdicts import (
    NOT_REPRODUCED,
    REPRODUCED,
    UNDECIDED,
    Differs,
    Mean,
    Outcome,
    Reaches,
    Sooner,
    Summary,
    Test,
)

COLUMNS = ("claim", "source", "verdict", "evidence", "what it would take")

# An episode of cue-reward association with 120 steps has 18.5 trials; half of that is learned beyond doubt.
LEARNED = 9.0
CUE_REWARD = 1_200_000
MAZE = 300_000
"""Episodes of our runs, which are shorter than the paper's."""


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        source: paper and section.
        text: what it says, and where our test of it differs.
        group: result folders, without their nets.
        runs: that the paper has of each net.
        tests: all of which must agree.
    """

    source: str
    text: str
    group: str
    runs: int
    tests: Sequence[Test]

    def verdict(self, results: Mapping[str, Summary]) -> Outcome:
        """From all results by name: reproduced if every test says so, not reproduced if one says that."""
        outcomes = [test.outcome(results, self.group, self.runs) for test in self.tests]
        verdicts = {outcome.verdict for outcome in outcomes}
        whole = (
            NOT_REPRODUCED
            if NOT_REPRODUCED in verdicts
            else UNDECIDED
            if UNDECIDED in verdicts
            else REPRODUCED
        )
        needs = (
            [need for outcome in outcomes for need in outcome.needs] if whole == UNDECIDED else []
        )
        evidence = dict.fromkeys(outcome.evidence for outcome in outcomes)
        return Outcome(whole, "; ".join(evidence), tuple(dict.fromkeys(needs)))


def _images(net: str, other: str, at: int) -> Differs:
    return Differs(net, other, "loss", at, lower=True)


def _perplexity(net: str, other: str, at: int = 13) -> Differs:
    return Differs(net, other, "test_perplexity", at, lower=True)


MODULATED, UNMODULATED = ("simple", "retroactive"), ("plastic", "rnn")
CLAIMS = (
    Claim(
        f"{PAPER}, 4.1",
        "1,000 bits: the error falls below 1 % within about 200 episodes (settings of the paper)",
        "patterns-paper", 10,
        [Reaches("plastic", "error", 0.01, 210, below=True)],
    ),
    Claim(
        f"{PAPER}, 4.1",
        "1,000 bits: the same with the settings of the released code",
        "patterns-code", 10,
        [Reaches("plastic", "error", 0.01, 210, below=True)],
    ),
    Claim(
        f"{PAPER}, 4.2",
        "50 bits: the plastic network's error is below 1 % within 2,000 episodes",
        "patterns-bits50-code", 10,
        [Reaches("plastic", "error", 0.01, 2_000, below=True)],
    ),
    Claim(
        f"{PAPER}, 4.2",
        "50 bits: plain RNN and LSTM still have more than 5 % after 100,000 episodes (Fig. 3)",
        "patterns-bits50-code", 10,
        [Reaches(net, "error", 0.05, 100_000) for net in ("rnn", "lstm")],
    ),
    Claim(
        f"{PAPER}, 4.2",
        "50 bits: an LSTM needs about 500,000 episodes (here 400,000 to 600,000), 250 times as many",
        "patterns-bits50-code", 10,
        [Reaches("lstm", "error", 0.0155, 400_000), Reaches("lstm", "error", 0.0155, 600_000, below=True)],
    ),
    Claim(
        f"{PAPER}, 4.3",
        "images: a coefficient for each connection is better than one for all; here after 4,000 of 40,000 episodes",
        "images-code", 10,
        [_images("independent", "yoked", 4_000)],
    ),
    Claim(
        f"{PAPER}, 4.3",
        "images: one coefficient for all learns faster in the beginning; here up to 400 episodes",
        "images-code", 10,
        [_images("yoked", "independent", 400)],
    ),
    Claim(
        f"{PAPER}, abstract",
        "images: non-plastic networks fail; here after 4,000 episodes, against both plastic ones",
        "images-code", 10,
        [_images(net, "nonplastic", 4_000) for net in ("independent", "yoked")],
    ),
    Claim(
        f"{PAPER}, 4.4",
        "Omniglot, 5-way 1-shot: an accuracy of 98.5 +- 0.57 %; here on an honest split, 1,500,000 episodes",
        "omniglot-ours", 10,
        [Mean("yoked", "test_accuracy", 0.9793, 1_500_000)],
    ),
    Claim(
        f"{PAPER}, 4.5",
        "maze: the plastic network is ahead of the plain one after a million episodes",
        "maze-paper1", 15,
        [Differs("plastic", "rnn", "reward", 1_000_000)],
    ),
    Claim(
        f"{PAPER_2}, 4.1",
        "cue-reward association: both modulated networks learn it, others do not; protocol `ours`",
        "cue_reward-ours", 10,
        [
            *(Reaches(net, "reward", LEARNED, CUE_REWARD) for net in MODULATED),
            *(Reaches(net, "reward", LEARNED, CUE_REWARD, below=True) for net in UNMODULATED),
        ],
    ),
    Claim(
        f"{PAPER_2}, 4.1",
        "cue-reward association: modulated networks gain more than others; protocol `ours`",
        "cue_reward-ours", 10,
        [Differs(net, other, "reward", CUE_REWARD) for net in MODULATED for other in UNMODULATED],
    ),
    Claim(
        f"{PAPER_2}, appendix",
        "cue-reward association with fixed cues: plasticity without modulation learns it, too; protocol `ours`",
        "cue_reward-ours-control", 10,
        [Reaches(net, "reward", LEARNED, CUE_REWARD) for net in (*MODULATED, "plastic")],
    ),
    Claim(
        f"{PAPER_2}, appendix",
        "cue-reward association with fixed cues: modulated networks learn sooner; protocol `ours`",
        "cue_reward-ours-control", 10,
        [Sooner(net, "plastic", "reward", LEARNED, CUE_REWARD) for net in MODULATED],
    ),
    Claim(
        f"{PAPER_2}, 4.2",
        "maze: modulated networks gain more than plastic ones without modulation; here after 10,000 of 100,000 updates",
        "maze-demo", 9,
        [Differs(net, "plastic", "reward", MAZE) for net in MODULATED],
    ),
    Claim(
        f"{PAPER_2}, 4.2",
        "maze: plastic networks gain more than plain ones; here after 10,000 of 100,000 updates",
        "maze-demo", 9,
        [Differs(net, "rnn", "reward", MAZE) for net in (*MODULATED, "plastic")],
    ),
    Claim(
        f"{PAPER_2}, 4.3",
        "Penn Treebank, small: plasticity lowers the perplexity of an LSTM",
        "language-small", 16,
        [_perplexity("plastic", "lstm")],
    ),
    Claim(
        f"{PAPER_2}, 4.3",
        "Penn Treebank, small: modulation lowers it further",
        "language-small", 16,
        [_perplexity(net, "plastic") for net in MODULATED],
    ),
    Claim(
        f"{PAPER_2}, 4.3",
        "Penn Treebank, large: modulated plasticity lowers the perplexity",
        "language-large", 5,
        [_perplexity("simple", "lstm", 500)],
    ),
)  # fmt: skip


def rows(
    results: Mapping[str, Summary], groups: Collection[str] | None = None
) -> list[dict[str, str]]:
    """A row for each claim, or for those about some groups of results."""
    table = []
    for claim in CLAIMS:
        if groups is None or claim.group in groups:
            outcome = claim.verdict(results)
            cells = (
                claim.text,
                claim.source,
                outcome.verdict,
                outcome.evidence,
                "; ".join(outcome.needs),
            )
            table.append(dict(zip(COLUMNS, cells, strict=True)))
    return table
