"""Where every issue of a program stands: its section, stage and open loops, and what is known of
the ranges there whatever the parameters are. What `verify` looks at; nothing here judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from .assembly import DEEPEST, issue_text, loop_text
from .errors import ProgramError
from .instance import resolve
from .instruction import Instruction
from .machine import Machine
from .program import (
    COPIES,
    Count,
    Extent,
    Issue,
    Loop,
    Opcode,
    Operand,
    Program,
    Section,
    Stage,
    Statement,
    core_share,
)


@dataclass(frozen=True, eq=False)
class Known:
    """What holds of a range for all parameters: its positions are from `low` up to, not including,
    `high`; there are `shortest` to `longest` of them.

    parent   the range it is a piece of (None: an axis of the section)
    exact    the positions are exactly `low` to `high`
    """

    name: str
    parent: Known | None
    low: int
    high: int
    longest: int
    shortest: int
    exact: bool = False

    @property
    def least(self) -> int:
        """One past the last position cannot be before this."""
        return self.low + self.shortest

    @property
    def single(self) -> bool:
        """Whether it is one position, whatever the parameters are."""
        return self.longest == self.shortest == 1

    def base(self, name: str) -> Known | None:
        """The range of this name that this one is, or is a piece of."""
        found: Known | None = self
        while found is not None and found.name != name:
            found = found.parent
        return found


Scope = Mapping[str, Known]


@dataclass(frozen=True, eq=False)
class Place:
    """A place in a stage: the loops open there, outermost first, and the ranges; `alike`: how many
    stages like this one there are."""

    section: Section
    number: int
    loops: tuple[Loop, ...]
    ranges: Scope
    alike: int

    @property
    def stage(self) -> Stage:
        return self.section.stages[self.number]

    def __str__(self) -> str:
        return f"section {self.section.name!r}, stage {self.number} {self.stage.name!r}"


@dataclass(frozen=True, eq=False)
class LoopSite:
    """A loop; `place` is where it stands, outside of it."""

    place: Place
    loop: Loop

    def __str__(self) -> str:
        return f"{self.place}, `{loop_text(self.loop)}`"


@dataclass(frozen=True, eq=False)
class Site:
    """An issue.

    position  the number of calls (issues that are not copies) before it in its stage
    times     how often it runs at most in one turn of the section, on one core
    early     the loop of which it runs one turn ahead
    """

    place: Place
    issue: Issue
    position: int
    times: int
    early: Loop | None = None

    def __str__(self) -> str:
        return f"{self.place}, `{issue_text(self.issue)}`"

    @property
    def ranges(self) -> Scope:
        return self.place.ranges

    @property
    def copies(self) -> bool:
        return self.issue.opcode in COPIES

    @cached_property
    def axes(self) -> Mapping[str, str]:
        """The name of the range of each axis."""
        return dict(self.issue.axes)

    @property
    def operands(self) -> Iterator[Operand]:
        yield from self.issue.reads
        yield from self.issue.writes


def least_and_most(count: Count, most: Mapping[str, int]) -> tuple[int, int]:
    """Between which numbers a count is while parameters are 0 to what `most` says."""
    low = high = count.constant
    for name, factor in count.terms:
        low += min(0, factor * most.get(name, 0))
        high += max(0, factor * most.get(name, 0))
    return low, high


def axis_range(extent: Extent, most: Mapping[str, int]) -> Known:
    """An axis of a section. Engines refuse to run one that leaves `most` and `bound`."""
    fixed = not extent.length.terms and not extent.start.terms
    length, start = least_and_most(extent.length, most)[0], least_and_most(extent.start, most)[0]
    shortest = min(max(length, 0), extent.most)
    longest = extent.most if extent.length.terms else shortest
    low = max(start, 0)
    high = low + longest if fixed else extent.bound
    return Known(extent.axis, None, low, high, longest, shortest, fixed)


def piece_range(loop: Loop, parent: Known, cores: int) -> Known:
    """The pieces of a loop: a loop that has no positions runs no piece, so none is empty."""
    step = max(loop.step, 1)
    if loop.spread:
        step = core_share(parent.longest, step, cores)
    if step >= parent.longest and parent.shortest >= 1 and not loop.spread:
        return Known(
            loop.range,
            parent,
            parent.low,
            parent.high,
            parent.longest,
            parent.shortest,
            parent.exact,
        )
    longest = shortest = min(step, parent.longest)
    if loop.spread or parent.shortest < parent.longest:
        shortest = min(1, longest)
    elif longest:
        shortest = parent.longest % step or step
    return Known(loop.range, parent, parent.low, parent.high, longest, shortest)


class Walker:
    """Collects the loops and issues of a stage, with what is known where they stand."""

    def __init__(self, place: Place, cores: int) -> None:
        self.cores = cores
        self.loops: list[LoopSite] = []
        self.sites: list[Site] = []
        self.position = 0
        self.statements(place.stage.body, place, 1)

    def statements(self, items: Iterable[Statement], place: Place, times: int) -> None:
        for item in items:
            if isinstance(item, Issue):
                self.issue(item, place, times)
            else:
                self.loop(item, place, times)

    def issue(self, issue: Issue, place: Place, times: int, early: Loop | None = None) -> None:
        self.sites.append(Site(place, issue, self.position, times, early))
        if issue.opcode not in COPIES:
            self.position += 1

    def loop(self, loop: Loop, place: Place, times: int) -> None:
        site = LoopSite(place, loop)
        if len(place.loops) >= DEEPEST:
            raise ProgramError(f"{site}: must be inside at most {DEEPEST - 1} loops")
        self.loops.append(site)
        parent = place.ranges.get(loop.parent) or Known(loop.parent, None, 0, 0, 0, 0)
        ranges = {**place.ranges, loop.range: piece_range(loop, parent, self.cores)}
        inner = replace(place, loops=(*place.loops, loop), ranges=ranges)
        trips = 1 if loop.spread else -(-parent.longest // max(loop.step, 1))
        for issue in loop.ahead:
            self.issue(issue, inner, times * trips, loop)
        self.statements(loop.body, inner, times * trips)


class Facts:
    """A program on a machine with a library of instructions, looked at from all sides.

    Of stages that are alike (`Program.likes`) the first stands for all.
    """

    def __init__(
        self,
        program: Program,
        machine: Machine | None,
        library: Mapping[str, Instruction],
        cores: int = 1,
    ) -> None:
        self.program, self.machine, self.library = program, machine, library
        self.cores = machine.cores if machine else cores
        self.most = {parameter.name: parameter.most for parameter in program.parameters}
        self.buffers = program.buffer
        self.opcodes = program.opcode
        self._meanings: dict[tuple[str, tuple[str, ...]], Instruction] = {}
        self._resolved: dict[tuple[Opcode, tuple[str, ...]], Instruction] = {}

    @cached_property
    def walked(self) -> Mapping[tuple[int, int], Walker]:
        """The first stages of those that are alike, by the numbers of section and stage."""
        return {
            (section, number): self.walk(section, number)
            for section, likes in enumerate(self.program.likes)
            for number in dict.fromkeys(like.first for like in likes)
        }

    def walk(self, section: int, number: int) -> Walker:
        where, likes = self.program.sections[section], self.program.likes[section]
        axes = {extent.axis: axis_range(extent, self.most) for extent in where.extents}
        alike = sum(like.first == likes[number].first for like in likes)
        return Walker(Place(where, number, (), axes, alike), self.cores)

    @cached_property
    def loops(self) -> list[LoopSite]:
        return [site for walker in self.walked.values() for site in walker.loops]

    @cached_property
    def sites(self) -> list[Site]:
        return [site for walker in self.walked.values() for site in walker.sites]

    @cached_property
    def calls(self) -> list[Site]:
        """The issues that are not copies."""
        return [site for site in self.sites if not site.copies]

    def types(self, site: Site) -> tuple[str, ...]:
        """The element types that an issue reads."""
        return tuple(self.buffers[operand.buffer].dtype for operand in site.issue.reads)

    def meaning(self, site: Site) -> Instruction:
        """What an issue means. InfinisaError if its opcode means nothing."""
        key = site.issue.opcode, self.types(site)
        if key not in self._meanings:
            self._meanings[key] = self._resolve(self.opcodes[key[0]], key[1])
        return self._meanings[key]

    def _resolve(self, opcode: Opcode, types: tuple[str, ...]) -> Instruction:
        """Opcodes that differ in what does not matter here share what they mean."""
        alike = replace(opcode, name="", unit="", results=(), outputs=(), limits=()), types
        if alike not in self._resolved:
            self._resolved[alike] = resolve(opcode, types, self.library)
        return self._resolved[alike]
