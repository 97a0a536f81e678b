"""The tables of the gallery: ``python docs/rule_tables.py`` writes them into docs/results/rules.

speed.md is made of speed.json, a report of ``python -m benchmarks --json`` over the workloads ``rule-A1`` to
``rule-A10``; what it has not, or where there is none, the table calls "not measured". costs.md is what
``plastikern.explain`` says.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import plastikern  # noqa: E402
from tests.rules.ten import GRANULARITIES, RULES  # noqa: E402

FOLDER = ROOT / "docs" / "results" / "rules"
OURS = "plastikern-cpu"
PASSES = ("forward", "forward_backward")
MISSING = "not measured"
SPEED = """| rule | forward, ms | forward + backward, ms | times as fast as the best PyTorch rival | added MiB |
| --- | --- | --- | --- | --- |
"""


COSTS = """| rule | class | passes, forward | backward | bytes a synapse and step, forward | backward | again |
| --- | --- | --- | --- | --- | --- | --- |
"""


def costs() -> str:
    """What ``explain`` says in single precision, a row a rule; A5 is recurrent."""
    lines = []
    for tag, rule in RULES.items():
        use = rule.use(**GRANULARITIES.get(tag, {}))
        if tag == "A5":
            module: Any = plastikern.PlasticRNN(None, 8, plasticity=use)
        else:
            module = plastikern.PlasticLinear(8, 8, plasticity=use)
        said = plastikern.explain(module, batch=1, steps=2)
        kind = re.findall(r"class (K\d)", said)
        cells = kind + re.findall(r"goes over the synapses (.*?);", said)
        cells += re.findall(r"(\d+) bytes a synapse", said)
        lines.append(f"| [{tag}](#{tag.lower()}) | {' | '.join(cells)} |\n")
    return COSTS + "".join(lines)


def table(found: Mapping[str, Any]) -> str:
    """A report's times and memory in Markdown, a row a rule."""
    rows, ratios = (
        {(r["workload"], r["pass"]): r for r in found.get(part, ()) if r["variant"] == OURS}
        for part in ("rows", "ratios")
    )
    lines = []
    for tag in RULES:
        forward, both = (rows.get((f"rule-{tag}", each)) for each in PASSES)
        ratio = ratios.get((f"rule-{tag}", PASSES[1]), {})
        times, memory = ratio.get("over_best_rival"), None if both is None else both["peak_bytes"]
        cells = [
            MISSING if forward is None else f"{forward['median_ms']:.1f}",
            MISSING if both is None else f"{both['median_ms']:.1f}",
            MISSING if times is None else f"{times:.1f} ({ratio['best_rival']})",
            MISSING if memory is None else f"{memory / 2**20:.0f}",
        ]
        lines.append(f"| [{tag}](#{tag.lower()}) | {' | '.join(cells)} |\n")
    return SPEED + "".join(lines) + "\n" + _where(found)


def _where(found: Mapping[str, Any]) -> str:
    if not found:
        return "No report is in this revision.\n"
    where = found["machine"]
    return f"On {where['threads']} threads of {where['cpu']}, torch {where['torch']}; medians.\n"


def report() -> dict[str, Any]:
    """What was measured; nothing where there is no file."""
    source = FOLDER / "speed.json"
    return json.loads(source.read_text(encoding="utf-8")) if source.exists() else {}


def main() -> None:
    """Writes both."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "speed.md").write_text(table(report()), encoding="utf-8")
    (FOLDER / "costs.md").write_text(costs(), encoding="utf-8")


if __name__ == "__main__":
    main()
