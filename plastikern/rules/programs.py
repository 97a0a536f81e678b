"""The C++ of a user's rule: its schedules as parts over slots, which csrc/cpu/rule.h runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from . import layout
from .adjoint import LEVELS, level
from .decorator import Rule
from .printers import CPP, statements
from .schedule import Part, Schedule
from .structs import added
from .symbols import KINDS, Symbol
from .units import SEEN, Unit, unit

VARIANTS = {"both": (True, True), "read": (False, True), "change": (True, False)}
"""Units by whether they change the states and read them, in the order of csrc/cpu/rule.h."""
TAKEN = {"element": "elements", "column": "columns", "row": "rows", "synapse": "synapses"}
SOURCE_WORDS, ADDITION_WORDS = 5, 8
"""Numbers of 8 bytes in a Source and in an Addition of csrc/rule.h."""
SUMMED = {"element": "element_sums", "column": "column_sums", "row": "row_sums"}


@dataclass(frozen=True)
class Printed:
    """A schedule with its slots.

    Attributes:
        slots: by level, names in their order.
    """

    schedule: Schedule
    slots: dict[str, list[str]]

    @staticmethod
    def of(schedule: Schedule) -> Printed:
        """Slots for everything that is taken or made."""
        slots: dict[str, dict[str, None]] = {name: {} for name in LEVELS}
        for part in schedule.parts:
            for name, symbol in part.inputs.items():
                slots[level(symbol)][name] = None
            for name in part.outputs:
                slots[level_of(part, name)][name] = None
        return Printed(schedule, {name: list(names) for name, names in slots.items()})

    @property
    def sums(self) -> int:
        """The most sums over rows that a sweep has, or over columns that a part has."""
        found: dict[object, int] = {}
        for part in self.schedule.parts:
            if part.level in ("row", "synapse"):
                key: object = part.place[0]
                found[key] = found.get(key, 0) + [*part.sums.values()].count("post")
            else:
                found[part.place, part.level] = len(part.sums)
        return max(found.values(), default=0)

    def text(self, name: str, adds: set[str]) -> list[str]:
        """The parts and the list of them, ``NAME``. What is made of ``adds`` is added to what is there."""
        lines: list[list[str]] = []
        sweeps: list[str] = []

        def called(part: Part) -> str:
            lines.append(self._part(f"{name}_{len(lines)}", part, adds))
            return f"{name}_{len(lines) - 1}"

        for sweep in self.schedule.sweeps():
            before, rows = (", ".join(map(called, parts)) for parts in sweep)
            sweeps.append(f"Sweep<Parts<{before}>, Parts<{rows}>>")
        return [
            *(line for part in lines for line in part),
            f"using {name} = Sweeps<{', '.join(sweeps)}>;",
            "",
        ]

    def text_apart(self, name: str, adds: set[str]) -> list[str]:
        """The same where :attr:`rows_apart` is not None."""
        assert self.rows_apart is not None
        lines: list[str] = []
        lists = []
        for kind, parts in zip(("early", "row", "late"), self.rows_apart, strict=True):
            names = [f"{name}_{kind}_{number}" for number in range(len(parts))]
            for each, part in zip(names, parts, strict=True):
                lines += self._part(each, part, adds)
            lists.append(f"Parts<{', '.join(names)}>")
        return [*lines, f"using {name}_apart = Apart<{', '.join(lists)}>;", ""]

    @cached_property
    def rows_apart(self) -> tuple[list[Part], list[Part], list[Part]] | None:
        """Where no row needs another one, at any step: parts of columns and of the element that rows need, those of
        rows, and those that may wait until all rows are through all steps; None elsewhere."""
        (before, rows), *others = self.schedule.sweeps()
        if not others and not any(name.startswith("grad_of_") for name in self.schedule.outputs):
            # What the next unit takes of columns must be there.
            return before, rows, []
        if any(others_rows for _, others_rows in others):
            return None
        needed = {name for part in rows for name in part.inputs}
        early: list[Part] = []
        late = [part for parts, _ in others for part in parts]
        for part in reversed(before):
            made: dict[str, Symbol] = {}
            while more := needed & {*part.outputs} - {*made}:
                made |= {name: part.outputs[name] for name in more}
                needed |= {*self.schedule.limited(part, made).inputs}
            rest = {name: symbol for name, symbol in part.outputs.items() if name not in made}
            if made:
                made = {name: symbol for name, symbol in part.outputs.items() if name in made}
                early.insert(0, self.schedule.limited(part, made))
            if rest:
                late.insert(0, self.schedule.limited(part, rest))
        # What the unit after has summed over rows would have to be there.
        taken = (each for part in (*early, *rows) for each in part.inputs.items())
        if any(
            name.startswith("grad_")
            and symbol.operation == "leaf"
            and level(symbol) in ("element", "column")
            for name, symbol in taken
        ):
            return None
        return early, rows, late

    def _part(self, name: str, part: Part, adds: set[str]) -> list[str]:
        made = [each for each in part.outputs if each not in part.sums]
        lists: dict[str, list[int]] = {each: [] for each in (*TAKEN.values(), *SUMMED.values())}
        texts: dict[str, str] = {}
        for each, symbol in part.inputs.items():
            of = level(symbol)
            texts[each] = f"{of}[{len(lists[TAKEN[of]])}]"
            lists[TAKEN[of]].append(self.slots[of].index(each))
        results = {each: f"made[{place}]" for place, each in enumerate(made)}
        for each in part.sums:
            of = level_of(part, each)
            results[each] = f"{SUMMED[of]}[{len(lists[SUMMED[of]])}]"
            lists[SUMMED[of]].append(self.slots[of].index(each))
        whole = added(part, {each: results[each] for each in part.sums})
        texts |= {results[each]: results[each] for each in part.sums}
        renamed = {texts[given]: symbol for given, symbol in whole.inputs.items()}
        lines, outputs = statements(
            replace(whole, inputs=renamed), CPP,
            lambda to, truth: f"const {'auto' if truth else 'V'} {to} = {{}};",
        )  # fmt: skip
        lists["made"] = [self.slots[part.level].index(each) for each in made]
        sizes = [
            f"using {each} = Places<{', '.join(map(str, places))}>;"
            for each, places in lists.items()
        ]
        added_up = ", ".join(str(int(each in adds)) for each in made)
        return [
            f"struct {name} {{", f"    static constexpr int level = {LEVELS.index(part.level)};",
            *(f"    {line}" for line in sizes),
            f"    using adds = Places<{added_up}>;",
            "    template <typename V>",
            "    static PLASTIKERN_INLINE void run(const V* element, const V* column,",
            "        const V* row, const V* synapse, V* made,",
            "        V* row_sums, V* column_sums, V* element_sums) {",
            *(f"        {line}" for line in lines),
            *(f"        const V r{place} = {outputs[each]};" for place, each in enumerate(results)),
            *(f"        {results[each]} = r{place};" for place, each in enumerate(results)),
            "    }", "};",
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Program:
    """A rule where it is used.

    Attributes:
        granularities: of coefficients, and of ``w`` and ``alpha``.
    """

    rule: Rule
    granularities: Mapping[str, str]

    @cached_property
    def units(self) -> dict[str, Unit]:
        """By variant."""
        return {
            name: unit(self.rule, self.granularities, *which) for name, which in VARIANTS.items()
        }

    @property
    def multiplies(self) -> bool:
        """Whether the gradient of the weight is left to one product of matrices."""
        return self.units["both"].multiplies

    @cached_property
    def forward(self) -> dict[str, Printed]:
        """By variant."""
        return {name: Printed.of(each.forward) for name, each in self.units.items()}

    @cached_property
    def backward(self) -> dict[str, Printed]:
        """By variant."""
        return {name: Printed.of(each.backward) for name, each in self.units.items()}

    @cached_property
    def seen(self) -> list[str]:
        """States of synapses that a backward pass takes as the change has left them, beside those before it."""
        taken = {n for each in self.backward.values() for n in each.slots["synapse"]}
        return [name for name in self.rule.states if SEEN + name in taken]

    @cached_property
    def rows_apart(self) -> bool:
        """Whether no row of the layer needs another one, where activities before a step are given and each neuron has
        its own."""
        forward = all(len(each.schedule.sweeps()) == 1 for each in self.forward.values())
        return forward and all(each.rows_apart is not None for each in self.backward.values())

    @cached_property
    def text_apart(self) -> str:
        """The translation unit of :attr:`rows_apart`."""
        return f"#define PLASTIKERN_APART\n{self.text}"

    def adds(self, printed: Printed) -> set[str]:
        """What is summed over steps in matrices: gradients of parameters of each connection."""
        states = {f"{of}{name}" for of in ("next_", "grad_of_") for name in self.rule.states}
        outputs = printed.schedule.outputs
        return {n for n, s in outputs.items() if level(s) == "synapse" and n not in states}

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Of everything that the rule is given, by name."""
        by_axes = {frozenset(axes): kind for kind, axes in reversed(KINDS.items())}
        leaves = self.rule.traced(self.granularities).leaves
        return {name: by_axes[symbol.axes] for name, symbol in leaves.items()}

    @cached_property
    def other_role(self) -> bool:
        """Whether it takes ``as_pre(...)``."""
        return bool(self.rule.traced(self.granularities).other_role)

    @cached_property
    def text(self) -> str:
        """The translation unit; ``PLASTIKERN_CUDA`` is defined where it is for a device, or for its emulator,
        ``PLASTIKERN_APART`` where rows are apart."""
        lines: list[str] = []
        for way in ("forward", "backward"):
            for name, printed in getattr(self, way).items():
                lines += printed.text(f"{way}_{name}", self.adds(printed))
        if self.rows_apart:
            lines += ["#if defined(PLASTIKERN_APART)"]
            for way in ("forward", "backward"):
                for name, printed in getattr(self, way).items():
                    lines += printed.text_apart(f"{way}_{name}", self.adds(printed))
            lines += ["#endif"]
        names = {
            f"{way}{apart}": ", ".join(f"printed::{way}_{name}{apart}" for name in VARIANTS)
            for way in ("forward", "backward")
            for apart in ("", "_apart")
        }
        foot = FOOT.format(**names, layout=layout.number(), words=self.words)
        return "\n".join([*HEAD, *lines, *layout.stated(), foot])

    @cached_property
    def words(self) -> int:
        """How many numbers of 8 bytes the arrays are, at most, that a job points into: csrc/rule.h."""
        schedules = [*self.forward.values(), *self.backward.values()]
        sources = sum(len(names) for each in schedules for names in each.slots.values())
        additions = sum(len(each.schedule.outputs) for each in self.backward.values())
        return SOURCE_WORDS * sources + ADDITION_WORDS * additions + 3 * len(self.rule.states)


HEAD = [
    "#if defined(PLASTIKERN_CUDA)", '#include "cuda/rule.cuh"', "namespace kernels = plastikern::cuda;",
    "#else", '#include "cpu/rule.h"', "#endif", "", "namespace printed {",
    "using namespace plastikern::arithmetic;", "using plastikern::Places;",
    "#if defined(PLASTIKERN_CUDA)", "using kernels::Parts, kernels::Sweep, kernels::Sweeps;", "#endif", "",
]  # fmt: skip
FOOT = """
}}  // namespace printed

#if defined(PLASTIKERN_CUDA)
using S = PLASTIKERN_SCALAR;
using Given = kernels::Packed<S, {words}>;
using Forward = kernels::Variants<{forward}>;
using Backward = kernels::Variants<{backward}>;
#define KERNEL extern "C" __global__ void __launch_bounds__(kernels::kThreads, 1)
KERNEL plastikern_rule_forward(const __grid_constant__ Given given) {{ kernels::run_forward<Forward>(given); }}
KERNEL plastikern_rule_backward(const __grid_constant__ Given given) {{
    kernels::run_backward<Forward, Backward>(given);
}}
#endif

#if !defined(__CUDACC_RTC__)
#define EXPORTED extern "C" __attribute__((visibility("default"))) int
#if defined(PLASTIKERN_CUDA)
EXPORTED plastikern_forward(const Given* given) {{ return kernels::launch(plastikern_rule_forward, *given); }}
EXPORTED plastikern_backward(const Given* given) {{ return kernels::launch(plastikern_rule_backward, *given); }}
#elif defined(PLASTIKERN_APART)
using Call = plastikern::Job<S>;
using Forward = Variants<{forward_apart}>;
using Backward = Variants<{backward_apart}>;
EXPORTED plastikern_forward(const Call* job) {{ return forward_pass_apart<Forward>(*job), 0; }}
EXPORTED plastikern_backward(const Call* job) {{ return backward_pass_apart<Forward, Backward>(*job), 0; }}
#else
using Call = plastikern::Job<S>;
using Forward = Variants<{forward}>;
using Backward = Variants<{backward}>;
EXPORTED plastikern_forward(const Call* job) {{ return forward_pass<Forward>(*job), 0; }}
EXPORTED plastikern_backward(const Call* job) {{ return backward_pass<Forward, Backward>(*job), 0; }}
#endif
EXPORTED plastikern_layout() {{ return {layout}; }}
#endif
"""


def level_of(part: Part, name: str) -> str:
    """Of what a part makes: its own, but for sums."""
    axis = part.sums.get(name)
    if axis is None:
        return part.level
    if part.level == "synapse":
        return "row" if axis == "pre" else "column"
    return "element"
