"""A stage as the kernel walks it: its loops as a table of steps, its issues as places in another.

Every range has few lengths: those of its loop's pieces and of the last piece, for each length of
its parent. Their numbers and the turns of rotors choose the shape of an issue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count

from infinisa.isa.errors import SimulationError
from infinisa.isa.program import Issue, Loop, Piece, Ranges, Statement, core_share, statements

from .shapes import Text, View
from .walk import (
    AHEAD,
    AT,
    BACK,
    BEGINS,
    BLOCK_SIZE,
    ENDS,
    ISSUES,
    LOOPS,
    SHARES,
    STEP,
    STOPS,
    UNKNOWN,
)

LARGEST_TABLE = 1 << 22
"""Shapes that the issues of a stage may have."""


class Unsuited(SimulationError):
    """What only the simpy engine runs."""


@dataclass
class Flat:
    """A stage for outermost ranges of these lengths.

    lengths   those that each range can have
    plan      steps, loops, digits and so on, see `walk`
    sizes     pieces of loops by length class; lengths by length class
    texts     the issue of each step
    """

    view: View
    outermost: Ranges
    plan: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    texts: dict[int, Text] = field(default_factory=dict)
    table: int = 0

    def __post_init__(self) -> None:
        self.cores = self.view.machine.cores
        self.roots = [name for name in self.outermost if name in self.ranges]
        self._registers()
        self._emit()

    # -- ranges and their lengths

    @cached_property
    def loops(self) -> list[Loop]:
        """Outer before inner."""
        items = statements(self.view.stage.body)
        return [item for item in items if isinstance(item, Loop)]

    @cached_property
    def ranges(self) -> list[str]:
        """All that issues and loops name, in a fixed order."""
        names: dict[str, None] = {}
        for loop in self.loops:
            names |= dict.fromkeys((loop.parent, loop.range))
        for text in self.view.texts.values():
            names.update(dict.fromkeys(text.ranges))
        return list(names)

    @cached_property
    def lengths(self) -> Mapping[str, list[int]]:
        found: dict[str, set[int]] = {name: set() for name in self.ranges}
        for name in self.ranges:
            if name in self.outermost:
                found[name].add(self.outermost[name].length)
        before = -1
        while before != (before := sum(map(len, found.values()))):
            for loop in self.loops:
                found[loop.range] |= {
                    length
                    for whole in found[loop.parent]
                    for _, length, _ in self.pieces(loop, whole)
                    if length
                }
        return {name: sorted(lengths) or [0] for name, lengths in found.items()}

    def pieces(self, loop: Loop, whole: int) -> Iterator[tuple[int, int, int]]:
        """Of a range of this length: (how many, length of the first, of the last); of a loop over
        cores for each core (whether it has one, its length, where it starts)."""
        if not loop.spread:
            trips = -(-whole // loop.step)
            yield trips, min(loop.step, whole), whole - (trips - 1) * loop.step if trips else 0
            if trips > 1:
                yield 0, whole - (trips - 1) * loop.step, 0
            return
        share = core_share(whole, loop.step, self.cores)
        for core in range(self.cores):
            first = core * share
            yield int(first < whole), max(0, min(share, whole - first)), first

    # -- registers

    def _registers(self) -> None:
        """Those that are compared come first: counters, lengths, rotors."""
        turning = [loop for loop in self.loops if not loop.spread]
        self._refuse_nested(self.view.stage.body, tuple(self.outermost))
        free = count(AT + 1)
        self.number = {id(loop): number for number, loop in enumerate(self.loops)}
        self.counter = {id(loop): next(free) for loop in turning}
        self.length = {name: next(free) for name in self.ranges}
        own = {loop.range for loop in turning}
        pairs = dict.fromkeys(
            pair for text in self.view.texts.values() for pair in text.rotors if pair[0] in own
        )
        self.rotor = {pair: next(free) for pair in pairs}
        self.watched = next(free)
        self.nothing = self.watched
        self.start = {name: next(free) for name in self.ranges}
        self.block = {}
        for loop in turning:
            self.block[id(loop)] = next(free)
            for _ in range(BLOCK_SIZE - 1):
                next(free)
        self.width = next(free)

    def _refuse_nested(self, items: Iterable[Statement], outside: tuple[str, ...]) -> None:
        for item in items:
            if isinstance(item, Loop):
                if item.range in outside:
                    raise Unsuited(
                        f"stage {self.view.stage.name!r}: a loop makes pieces {item.range!r} inside"
                        f" of {item.range!r}, which only the simpy engine runs"
                    )
                self._refuse_nested(item.body, (*outside, item.range))

    def registers(self, core: int) -> list[int]:
        """As a core begins."""
        found = [0] * self.width
        spreads = any(isinstance(item, Loop) and item.spread for item in self.view.stage.body)
        found[AT] = 0 if core == 0 or spreads else self.stop
        for name in self.ranges:
            if name in self.outermost:
                piece = self.outermost[name]
                found[self.start[name]] = piece.start
                found[self.length[name]] = self.lengths[name].index(piece.length)
        for (_, slots), register in self.rotor.items():
            found[register] = slots - 1  # the first piece makes it 0
        return found

    def standing(self, names: Iterable[str], registers: Sequence[int]) -> Ranges:
        """Ranges as registers have them; turns up to a multiple of all slots."""
        found: Ranges = {}
        for name in names:
            length = self.lengths[name][int(registers[self.length[name]])]
            turns = self._turns(self.turning[name], registers) if name in self.turning else 0
            found[name] = Piece(int(registers[self.start[name]]), length, 0, turns)
        return found

    @cached_property
    def turning(self) -> Mapping[str, list[tuple[int, int]]]:
        """The slots and registers of the rotors of ranges that have any."""
        found: dict[str, list[tuple[int, int]]] = {}
        for (name, slots), register in self.rotor.items():
            found.setdefault(name, []).append((slots, register))
        return found

    def _turns(self, rotors: Sequence[tuple[int, int]], registers: Sequence[int]) -> int:
        turned = [(slots, int(registers[register])) for slots, register in rotors]
        return next(n for n in count() if all(n % slots == rest for slots, rest in turned))

    # -- steps

    def _emit(self) -> None:
        """Steps first, with places of what they name behind them."""
        self.steps: list[list[int]] = []
        self.more: list[int] = []
        self.place: dict[int, int] = {}
        self.known: dict[str, int] = {}
        total = sum(map(self._count, self.view.stage.body)) + 1
        self.after = total * STEP
        self.stop = self.after - STEP
        for name in self.ranges:
            self.known[name] = len(self.sizes)
            self.sizes += self.lengths[name]
        self.one = len(self.sizes)
        self.sizes.append(1)
        for item in self.view.stage.body:
            self._statement(item)
        self._step(STOPS)
        self.plan = [word for step in self.steps for word in step] + self.more

    def _count(self, item: Statement) -> int:
        if isinstance(item, Issue):
            return 1
        inside = sum(map(self._count, item.body))
        if item.spread:
            return inside + 1
        return inside + 2 + (2 * len(item.ahead) + 2 if item.ahead else 0)

    def _step(self, kind: int, *words: int) -> int:
        self.steps.append([kind, *words, *[0] * (STEP - 1 - len(words))])
        return len(self.steps) - 1

    def _put(self, words: Sequence[int]) -> tuple[int, int]:
        """Where in the plan these are, and where they end."""
        first = self.after + len(self.more)
        self.more += words
        return first, first + len(words)

    def _next(self) -> int:
        return len(self.steps) * STEP

    def _statement(self, item: Statement) -> None:
        if isinstance(item, Issue):
            self._issue(item)
        elif item.spread:
            step = self._step(SHARES, self._loop(item))
            for inner in item.body:
                self._statement(inner)
            self.steps[step][2] = self._next()
        else:
            self._turning(item)

    def _turning(self, item: Loop) -> None:
        """begin; ahead; (ahead of the next; back;) body; end"""
        loop = self._loop(item)
        begin = self._step(BEGINS, loop)
        for issue in item.ahead:
            self._issue(issue)
        again = self._next()
        if item.ahead:
            ahead = self._step(AHEAD, loop)
            for issue in item.ahead:
                self._issue(issue)
            self._step(BACK, loop)
            self.steps[ahead][2] = self._next()
        for inner in item.body:
            self._statement(inner)
        self._step(ENDS, loop, again)
        self.steps[begin][2] = self._next()

    def _issue(self, issue: Issue) -> None:
        text = self.view.texts[id(issue)]
        factor = 1
        digits: list[int] = []
        for name in text.lengths:
            if len(self.lengths[name]) > 1:
                digits += (self.length[name], factor)
                factor *= len(self.lengths[name])
        for pair in text.rotors:
            if pair in self.rotor:
                digits += (self.rotor[pair], factor)
                factor *= pair[1]
        clips: list[list[int]] = []
        for operand in (*issue.reads, *issue.writes) if text.starts else ():
            if operand.fill is None:
                continue
            shape = self.view.program.buffer[operand.buffer].shape
            for dimension, extent in zip(operand.dimensions, shape, strict=True):
                terms = [
                    word
                    for t in dimension.terms
                    for word in (
                        *self._range(t.range), *self._range(t.base), t.stride,
                    )
                ]  # fmt: skip
                clips.append([extent, dimension.offset, *self._put(terms), factor])
                factor *= extent + 1
        base, self.table = self.table, self.table + factor
        if self.table > LARGEST_TABLE:
            raise Unsuited(
                f"stage {self.view.stage.name!r}: issues of {issue.opcode!r} have more than "
                f"{LARGEST_TABLE} shapes, which only the simpy engine counts"
            )
        where = (*self._put(digits), *self._put([word for clip in clips for word in clip]))
        step = self._step(ISSUES, base, *where, int(self.view.asks(text)), UNKNOWN)
        self.texts[step * STEP] = text

    def _range(self, name: str) -> tuple[int, int, int]:
        """Registers of a range's start and length, and its part of `sizes`; "" is position 0."""
        if not name:
            return self.nothing, self.nothing, self.one
        return self.start[name], self.length[name], self.known[name]

    def _loop(self, item: Loop) -> int:
        """Where the plan has a loop."""
        first = len(self.sizes)
        for whole in self.lengths[item.parent]:
            rows = list(self.pieces(item, whole))
            for row in rows if item.spread else rows[:1]:
                self.sizes += self._row(item, row)
        turning = [self.rotor[pair] for pair in self.rotor if pair[0] == item.range]
        slots = [pair[1] for pair in self.rotor if pair[0] == item.range]
        rotors = self._put([word for pair in zip(turning, slots, strict=True) for word in pair])
        moved = self._moved(item)
        shifts = self._put([self.start[name] for name in moved])
        words = (
            self.counter.get(id(item), 0), self.length[item.range], self.start[item.range],
            self.length[item.parent], self.start[item.parent],
            self.cores if item.spread else item.step, int(item.reverse), first, *rotors,
            self.block.get(id(item), 0), self.number[id(item)], int(self._may_jump(item, moved)),
            int(bool(item.ahead)), *shifts,
        )  # fmt: skip
        assert len(words) == LOOPS
        return self._put(words)[0]

    def _row(self, item: Loop, row: tuple[int, int, int]) -> tuple[int, int, int]:
        """Pieces with numbers for lengths."""
        lengths = self.lengths[item.range]
        some, first, last = row
        if item.spread:
            return some, lengths.index(first) if some else 0, last
        return (some, lengths.index(first), lengths.index(last)) if some else (0, 0, 0)

    def _moved(self, item: Loop) -> list[str]:
        """The range of a loop and those that are made of its pieces."""
        found = {item.range: None}
        for _ in self.loops:
            for loop in self.loops:
                if loop.parent in found:
                    found[loop.range] = None
        return list(found)

    def _may_jump(self, item: Loop, moved: Sequence[str]) -> bool:
        """Not where it matters at which position an issue is: where operands are cut."""
        issues = (i for i in statements([item]) if isinstance(i, Issue))
        return not any(
            term.range in moved and term.base not in moved
            for issue in issues
            for operand in (*issue.reads, *issue.writes)
            if operand.fill is not None
            for dimension in operand.dimensions
            for term in dimension.terms
        )


def issues_of(body: Iterable[Statement], outermost: Ranges) -> int:
    """How many issues a stage has on all cores, if pieces are as long as their step."""
    lengths = {name: piece.length for name, piece in outermost.items()}

    def of(items: Iterable[Statement]) -> int:
        return sum(1 if isinstance(item, Issue) else of_loop(item) for item in items)

    def of_loop(loop: Loop) -> int:
        length = lengths.get(loop.parent, 0)
        lengths[loop.range] = length if loop.spread else min(loop.step, length)
        inside = of(loop.body) + len(loop.ahead)
        return inside if loop.spread else -(-length // loop.step) * inside

    return of(body)
