"""Control flow of a compiled kernel: blocks, loops, and the fewest instructions of a way through one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# What ends a way, where it is not predicated.
ENDS = ("EXIT", "RET", "BRX", "JMX", "KILL")


class Instruction(NamedTuple):
    """One instruction of SASS.

    Attributes:
        address: in the kernel.
        name: of the operation with its modifiers, as ``LDG.E``.
        operands: as they are printed.
        predicated: whether it may be skipped, or a branch not be taken.
    """

    address: int
    name: str
    operands: str
    predicated: bool

    @property
    def operation(self) -> str:
        return self.name.split(".")[0]

    @property
    def target(self) -> int | None:
        """Where a branch or a call goes; compilers leave loops by calls that do not return, too."""
        found = (
            re.search(r"0x([0-9a-f]+)\s*$", self.operands)
            if self.operation in ("BRA", "CALL")
            else None
        )
        return int(found[1], 16) if found else None

    @property
    def falls_through(self) -> bool:
        """Whether the next instruction may be next."""
        # A branch is conditional by its guard, or by a predicate among its operands.
        conditional = self.predicated or "," in self.operands
        return conditional or ".DIV" in self.name or self.operation not in ("BRA", *ENDS)


@dataclass(eq=False)
class Block:
    """Instructions of which all are issued or none; ``following`` are the blocks that may come next."""

    instructions: list[Instruction]
    following: list[Block] = field(default_factory=list)
    preceding: list[Block] = field(default_factory=list)
    dominators: frozenset[Block] = frozenset()


@dataclass(eq=False)
class Loop:
    """Blocks between a header, through which every way into it leads, and the ``latches`` that lead back to it."""

    header: Block
    latches: list[Block]
    body: set[Block]


def blocks_of(code: Sequence[Instruction]) -> list[Block]:
    """The blocks that can be reached, the first one first.

    The way that only lanes without the others take (``BRA.DIV``) is never taken: the kernels exchange values between
    all lanes.
    """
    place = {instruction.address: index for index, instruction in enumerate(code)}
    jumps = {
        index: place[instruction.target]
        for index, instruction in enumerate(code)
        if instruction.target in place and ".DIV" not in instruction.name
    }
    ends = {
        index
        for index, instruction in enumerate(code)
        if instruction.operation in ("BRA", "CALL", *ENDS)
    }
    starts = sorted({0, *jumps.values(), *(index + 1 for index in ends if index + 1 < len(code))})
    blocks = {
        start: Block(list(code[start:end]))
        for start, end in zip(starts, [*starts[1:], len(code)], strict=True)
    }
    for start, block in blocks.items():
        last = start + len(block.instructions) - 1
        if code[last].falls_through:
            block.following += [blocks[last + 1]] if last + 1 in blocks else []
        block.following += [blocks[jumps[last]]] if last in jumps else []
    return _reachable(blocks[0])


def _reachable(first: Block) -> list[Block]:
    """In an order in which a block comes before those that follow it, but for loops."""
    order: list[Block] = []
    seen, waiting = {first}, [(first, iter(first.following))]
    while waiting:
        block, rest = waiting[-1]
        child = next((block for block in rest if block not in seen), None)
        if child is None:
            order.append(block)
            waiting.pop()
        else:
            seen.add(child)
            waiting.append((child, iter(child.following)))
    order.reverse()
    for block in order:
        for other in block.following:
            other.preceding.append(block)
    return order


def loops_of(blocks: Sequence[Block]) -> list[Loop]:
    """The natural loops, one for each header."""
    _find_dominators(blocks)
    found: dict[Block, Loop] = {}
    for block in blocks:
        for header in block.following:
            if header in block.dominators:
                loop = found.setdefault(header, Loop(header, [], {header}))
                loop.latches.append(block)
                waiting = [block]
                while waiting:
                    inside = waiting.pop()
                    if inside not in loop.body:
                        loop.body.add(inside)
                        waiting += inside.preceding
    return list(found.values())


def _find_dominators(blocks: Sequence[Block]) -> None:
    everything = frozenset(blocks)
    for block in blocks:
        block.dominators = everything
    blocks[0].dominators = frozenset(blocks[:1])
    changed = True
    while changed:
        changed = False
        for block in blocks[1:]:
            found = frozenset.intersection(*(other.dominators for other in block.preceding)) | {
                block
            }
            if found != block.dominators:
                block.dominators, changed = found, True


def innermost(loops: Iterable[Loop]) -> list[Loop]:
    """Loops that have none inside."""
    loops = list(loops)
    return [loop for loop in loops if not any(other.body < loop.body for other in loops)]


def shortest(
    loop: Loop,
    needs: Mapping[str, int],
    kinds: Callable[[Instruction], Collection[str]],
    free: Collection[Block] = (),
    avoid: Collection[str] = (),
) -> list[Instruction] | None:
    """The fewest instructions of one iteration that has at least so many of each kind; None where there is no such way.

    Args:
        loop: loops inside of it are gone through once.
        needs: how many instructions of a kind there must be.
        kinds: what an instruction counts as.
        free: blocks whose instructions do not count.
        avoid: operations that a way must not have, where no guard stands before them.
    """
    names, wanted = list(needs), tuple(needs.values())

    def after(so_far: tuple[int, ...], block: Block) -> tuple[int, ...]:
        found = Counter(kind for instruction in block.instructions for kind in kinds(instruction))
        return tuple(
            min(most, count + found[name])
            for most, count, name in zip(wanted, so_far, names, strict=True)
        )

    avoided = {
        block
        for block in loop.body
        if any(
            instruction.operation in avoid and not instruction.predicated
            for instruction in block.instructions
        )
    }

    def cost(block: Block) -> int:
        return 0 if block in free else len(block.instructions)

    Way = tuple[int, tuple[Block, ...]]
    best: dict[Block, dict[tuple[int, ...], Way]] = {
        loop.header: {after((0,) * len(wanted), loop.header): (cost(loop.header), (loop.header,))}
    }
    for block in _inside(loop):
        for so_far, (length, way) in best.get(block, {}).items():
            for other in block.following:
                if other in loop.body and other not in avoided and other not in block.dominators:
                    known, state = best.setdefault(other, {}), after(so_far, other)
                    if state not in known or known[state][0] > length + cost(other):
                        known[state] = length + cost(other), (*way, other)
    ways = [best[latch][wanted] for latch in loop.latches if wanted in best.get(latch, {})]
    if not ways:
        return None
    _, way = min(ways, key=lambda way: way[0])
    return [instruction for block in way if block not in free for instruction in block.instructions]


def _inside(loop: Loop) -> list[Block]:
    """The blocks of a loop, each after those that lead to it within an iteration."""
    order: list[Block] = []
    seen, waiting = {loop.header}, [(loop.header, iter(loop.header.following))]
    while waiting:
        block, rest = waiting[-1]
        child = next((other for other in rest if other in loop.body and other not in seen), None)
        if child is None:
            order.append(block)
            waiting.pop()
        else:
            seen.add(child)
            waiting.append((child, iter(child.following)))
    return order[::-1]
