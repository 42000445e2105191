"""Loops around contractions and rows undone: native code blocks them for its caches itself.

A program made for a machine with a cache takes its products in tiles. As each tile is a region of
tensors in outer memory, tiles that are computed without each other are one issue over the whole,
and so are the pieces of a sum and what finishes it. Rows in tiles are one issue too, which threads
divide once. A loop around several issues is one around each, tiles between them whole tensors, if
then each of them is undone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from infinisa.isa.functions import FOLDS
from infinisa.isa.instance import find, resolve
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Affine,
    Axis,
    Dot,
    Input,
    Map,
    Node,
    Reduce,
    Scan,
    Update,
    substitute,
    union,
    view,
    walk,
)
from infinisa.isa.laws import StepOf
from infinisa.isa.program import (
    COPIES,
    Buffer,
    Count,
    Dimension,
    Issue,
    Like,
    Loop,
    Opcode,
    Operand,
    Program,
    Section,
    Stage,
    Statement,
    Term,
    statements,
)

from .fission import Tiles, rebased
from .fused import elementwise, fused
from .shares import Shares, narrowed

Windows: TypeAlias = "dict[tuple[int, Axis], Affine]"
"""Of an opcode: (operand, axis of a dimension of it), and what that is at positions of others."""


COLUMNS = 64
"""Of folded columns so many go side by side at least: four of the widest vectors of f32."""


@dataclass(frozen=True)
class Meanings:
    """What the opcodes of a program mean, each made once.

    windows  of opcodes whose operands are read in windows, by their names
    """

    library: Mapping[str, Instruction]
    windows: dict[str, Windows] = field(default_factory=dict)
    known: dict[tuple[str, tuple[str, ...]], Instruction] = field(default_factory=dict)

    def of(self, opcode: Opcode, types: Sequence[str]) -> Instruction:
        """What an opcode means on operands of these types."""
        key = opcode.name, tuple(types)
        if key not in self.known:
            self.known[key] = _meaning(opcode, types, self.library, self.windows.get(opcode.name))
        return self.known[key]


def _meaning(
    opcode: Opcode,
    types: Sequence[str],
    library: Mapping[str, Instruction],
    windows: Windows | None,
) -> Instruction:
    if not windows:
        return resolve(opcode, types, library)
    operands = tuple(
        tuple(name for axis in axes for name in _axes(windows.get((place, axis)), axis))
        for place, axes in enumerate(opcode.operands)
    )
    given = resolve(replace(opcode, operands=operands), types, library)
    leaves, known = [], dict[Node, Node]()
    for place, (leaf, axes) in enumerate(zip(given.operands, opcode.operands, strict=True)):
        read = Input(leaf.name, tuple(axis for axis in axes if axis), leaf.dtype)
        index = {axis: at for (other, axis), at in windows.items() if other == place}
        leaves.append(read)
        if index:
            known[leaf] = view(read, index)
    outputs = substitute(given.outputs, known)
    return replace(given, operands=tuple(leaves), outputs=outputs)


def _axes(index: Affine | None, axis: Axis) -> tuple[Axis, ...]:
    return (axis,) if index is None else index.axes


def untiled(program: Program, meanings: Meanings) -> Program:
    """The program with fewer, larger issues; values are the same."""
    return _Untiling(program, meanings).program()


@dataclass
class _Untiling:
    """
    fusions  names of opcodes that mean more than their instruction
    merged   how often a buffer is read less than in the program, by name
    widened  names of tiles that are whole tensors now, or have one place
    """

    given: Program
    meanings: Meanings
    opcodes: dict[str, Opcode] = field(init=False)
    buffers: dict[str, Buffer] = field(init=False)
    uses: Counter[str] = field(init=False)
    shares: Shares = field(init=False)
    fusions: set[str] = field(default_factory=set)
    merged: Counter[str] = field(default_factory=Counter)
    widened: set[str] = field(default_factory=set)
    zero: frozenset[str] = frozenset()
    lengths: dict[str, int] = field(default_factory=dict)
    bounds: dict[str, int] = field(default_factory=dict)
    folding: dict[int, list[Node]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.library, self.windows = self.meanings.library, self.meanings.windows
        self.opcodes, self.buffers = dict(self.given.opcode), dict(self.given.buffer)
        stages = (stage for section in self.given.sections for stage in section.stages)
        self.uses = Counter(o.buffer for stage in stages for o in _operands(stage.body))
        self.shares = Shares(self.buffers, threads=1, lanes=1)

    def program(self) -> Program:
        sections = tuple(map(self.section, self.given.sections, self.given.likes))
        opcodes, buffers = tuple(self.opcodes.values()), tuple(self.buffers.values())
        return replace(self.given, sections=sections, opcodes=opcodes, buffers=buffers)

    def section(self, section: Section, likes: Sequence[Like]) -> Section:
        """Of stages that are alike, and whose buffers are used as often, only the first is undone:
        the others are what it became, on buffers of their own."""
        self.lengths = {e.axis: e.length.constant for e in section.extents if not e.length.terms}
        self.bounds = {extent.axis: extent.most for extent in section.extents}
        self.zero = frozenset(e.axis for e in section.extents if e.start == Count())
        known: dict[tuple[int, ...], tuple[Stage, Like]] = {}
        stages = []
        for given, like in zip(section.stages, likes, strict=True):
            key = like.first, *(self.uses[name] for name in like.buffers)
            if key in known:
                stage, first = known[key]
                names = dict(zip(first.buffers, like.buffers, strict=True))
                body = tuple(_elsewhere(item, names) for item in stage.body)
                stages.append(replace(given, body=body))
                for old in self.widened & {*names}:
                    self.buffers[names[old]] = replace(self.buffers[old], name=names[old])
            else:
                stages.append(self.stage(given))
                known[key] = stages[-1], like
        return replace(section, stages=tuple(stages))

    def stage(self, stage: Stage) -> Stage:
        body = [_counted(item, self.zero) for item in stage.body]
        return replace(stage, body=tuple(self.each(body)))

    def each(self, items: Sequence[Statement]) -> list[Statement]:
        found: list[Statement] = []
        for item in items:
            found += self.loop(item) if isinstance(item, Loop) else [item]
            while len(found) > 1 and (one := self.one(*found[-2:])):
                found[-2:] = [one]
        return found

    def one(self, first: Statement, second: Statement) -> Issue | None:
        """One issue for two statements, if there is one."""
        return self.joined(first, second) or self.folded(first, second) or self.fused(first, second)

    def loop(self, loop: Loop) -> list[Statement]:
        length = self.lengths.get(loop.parent, 0)
        most = self.bounds[loop.parent]
        even = length % loop.step == 0 and not loop.spread  # a core's part is some steps
        self.lengths[loop.range] = loop.step if even else 0
        self.bounds[loop.range] = most if loop.spread else min(loop.step, most)
        inside = Counter(operand.buffer for operand in _operands(loop.body))
        body = tuple(self.each(loop.body))
        loop = replace(loop, body=body)
        if loop.ahead or loop.spread:
            return [loop]
        if 0 < length <= loop.step and (items := self.single(loop, inside)):
            return items
        issues = [item for item in body if isinstance(item, Issue)]
        if len(issues) < len(body):
            return [loop]
        if len(body) > 1:
            return self.apart(loop, issues, inside) or [loop]
        (issue,) = issues
        if not self.alone_as_well(loop, issue):
            return [self.of_columns(loop, issue)]
        return [self.over_all(loop, issue) or loop]

    def alone_as_well(self, loop: Loop, issue: Issue) -> bool:
        """Whether native code does as well without a loop around an issue."""
        one = self.sums(issue) or self.pooled(issue) or self.lined(issue)
        return one or self.rows(loop, issue)

    def sums(self, issue: Issue) -> bool:
        return self.contraction(issue) is not None or self.chain(issue) is not None

    def apart(self, loop: Loop, issues: Sequence[Issue], uses: Counter[str]) -> list[Statement]:
        """The issues of a loop one after the other, each over its whole range; nothing if that is
        not the same, or if not each is better off so.

        uses  how often the loop touches each buffer
        """
        if not any(map(self.sums, issues)):
            return []
        alone = {name for name, count in uses.items() if count == self.uses[name]}
        tiles = Tiles(loop, issues, self.buffers, alone)
        made = tiles.whole(self.bounds[loop.parent])
        if made is None:
            return []
        issues, buffers = made
        before = {name: self.buffers[name] for name in buffers}
        self.buffers.update(buffers)
        found: list[Statement] = []
        for issue in (_from_zero(issue, self.zero) for issue in issues):
            one = self.over_all(loop, issue) if self.alone_as_well(loop, issue) else None
            if one is None:
                self.buffers.update(before)
                return []
            found.append(one)
        self.widened.update(buffers)
        return self.each(found)

    def of_columns(self, loop: Loop, issue: Issue) -> Loop:
        """A loop over tiles of columns that are folded, each of which is `COLUMNS` wide at least:
        of narrower ones vectors are not full, and lines are fetched again and again."""
        found, operands = self.folds(issue), (*issue.reads, *issue.writes)
        have = [o for o in operands if loop.range in _ranges(o)]
        columns = all(
            [(t.range, t.stride) for t in o.dimensions[-1].terms] == [(loop.range, 1)]
            for o in have
            if o.dimensions
        )
        apart = loop.range not in (issue.fresh or ()) and not _based(operands, loop.range)
        folds = found is not None and found[1] and all(isinstance(f, Reduce) for f in found[1])
        if loop.step >= COLUMNS or not (
            folds and columns and apart and self.in_pieces(loop, issue)
        ):
            return loop
        return replace(loop, step=COLUMNS)

    def single(self, loop: Loop, uses: Counter[str]) -> list[Statement]:
        """What a loop of one turn does, without the loop; nothing if it is done ahead of it."""
        turned = [name for name in uses if self.buffers[name].rotor == loop.range]
        ahead = any(isinstance(item, Loop) and item.ahead for item in statements(loop.body))
        if ahead or any(uses[name] < self.uses[name] for name in turned):
            return []
        for name in turned:
            self.buffers[name] = replace(self.buffers[name], slots=1, rotor="")
        self.widened.update(turned)
        inside = (_inside(item, loop.range, loop.parent) for item in loop.body)
        return [_counted(item, self.zero) for item in inside]

    # -- one loop around one issue

    def over_all(self, loop: Loop, issue: Issue) -> Issue | None:
        """The issue over the loop's whole range, if that is the same."""
        meaning = self.meaning(issue)
        axes = [axis for axis, name in issue.axes if name == loop.range]
        operands = (*issue.reads, *issue.writes)
        if meaning is None or len(axes) != 1 or _based(operands, loop.range):
            return None
        (axis,), opcode = axes, self.opcodes[issue.opcode]
        summed = loop.range in (issue.fresh or ())
        named = any(axis in names for names in (*opcode.operands, *opcode.results))
        if not named or not self.covered(issue, opcode, meaning, (loop.range, axis)):
            if self.contraction(issue) is None and not self.pooled(issue):
                return None
            found = self.extended(loop.range, issue, axis, summed)
            if found is None:
                return None
            issue = replace(issue, opcode=found.name)
        if summed:
            meaning = self.meaning(issue)
            fold = None if meaning is None else _only_fold(meaning)
            alike = fold is not None and axis in fold.over
        else:
            alike = self.in_pieces(loop, issue)
        return _renamed(issue, loop.range, loop.parent) if alike else None

    def covered(
        self, issue: Issue, opcode: Opcode, meaning: Instruction, moving: tuple[str, Axis]
    ) -> bool:
        """Whether an operand that moves with a range has its axis there: by name, or in a window.
        Else the issue reads one position of it, whatever its results say."""
        name, axis = moving
        windows = self.windows.get(opcode.name, {})
        pairs = zip(issue.reads, opcode.operands, meaning.operands, strict=True)
        for place, (operand, axes, leaf) in enumerate(pairs):
            for dimension, old in zip(operand.dimensions, axes, strict=True):
                if name not in (term.range for term in dimension.terms) or old == axis:
                    continue
                index = windows.get((place, old)) or meaning.windows.get((leaf.name, old))
                if index is None or axis not in index.axes:
                    return False
        return True

    def in_pieces(self, loop: Loop, issue: Issue) -> bool:
        """Whether pieces of a range are computed without each other."""
        operands = (*issue.reads, *issue.writes)
        if any(self.buffers[o.buffer].rotor == loop.range for o in operands):
            return False
        opcode, found = self.opcodes[issue.opcode], self.folds(issue)
        ranges = self.shares.ranges(issue, opcode, found[0]) if found else ()
        return loop.range in ranges and self.shares.apart(issue)

    def extended(self, name: str, issue: Issue, axis: Axis, summed: bool) -> Opcode | None:
        """The opcode with one more axis, of whose range `name` an issue takes one position so far:
        such as a place in a window, which is summed over, or a place of the window, which is a
        loop outside of the instruction."""
        opcode = self.opcodes[issue.opcode]
        if opcode.name in self.fusions:
            return None
        base, ranges = find(opcode.instruction, self.library), {r: a for a, r in issue.axes}
        written = any(name in _ranges(operand) for operand in issue.writes)
        if self.lengths[name] != 1 or written == summed or (summed and not self.accumulates(base)):
            return None
        read = _with_range(issue, opcode, name, ranges)
        if read is None:
            return None
        operands, windows = read
        results = [
            _named(*pair, name, axis) for pair in zip(issue.writes, opcode.results, strict=True)
        ]
        kept = self.windows.get(opcode.name, {})
        windows = {**{key: at for key, at in kept.items() if key[1] in operands[key[0]]}, **windows}
        bound = dict(opcode.binding)
        if summed:
            fold = _only_fold(base)
            if fold is None or fold.over[0] in base.indexed:
                return None
            role, *_ = fold.over
            if axis not in (over := bound.get(role, (role,))):
                if axis in union(bound.values()):
                    return None
                bound[role] = (*over, axis)
        made = replace(
            opcode,
            name=f"{opcode.name} over {axis}",
            binding=tuple(bound.items()),
            operands=operands,
            results=tuple(results),
        )
        if self.known(made) != made or self.windows.setdefault(made.name, windows) != windows:
            return None
        return made

    def accumulates(self, step: Instruction) -> bool:
        """Whether it folds, combines that with its state, and nothing else."""
        fold = _only_fold(step)
        if fold is None or len(step.states) != 1:
            return False
        state, (output,) = step.states[0], step.outputs
        how = FOLDS["sum" if isinstance(fold, Dot) else fold.function]
        combined = isinstance(output, Map) and output.function == how.combine
        return (
            combined and state.initial == how.neutral and {state.input, fold} <= {*output.children}
        )

    def contraction(self, issue: Issue) -> Instruction | None:
        """What an issue means, if that is one sum of products and nothing else that needs loops of
        its own: others are computed in rows, so their tiles are what they keep in caches."""
        found = self.folds(issue)
        return found[0] if found and [type(fold) for fold in found[1]] == [Dot] else None

    def pooled(self, issue: Issue) -> bool:
        """Whether an issue folds windows of one operand, and nothing else."""
        found = self.folds(issue)
        if found is None or len(issue.reads) != 1 or len(found[1]) != 1:
            return False
        (fold,), (operand,) = found[1], issue.reads
        return (
            isinstance(fold, Reduce)
            and fold.function != "argmax"
            and any(len(dimension.terms) > 1 for dimension in operand.dimensions)
        )

    def lined(self, issue: Issue) -> bool:
        """Whether an issue folds across lines of memory, and nothing else: sums of columns."""
        found = self.folds(issue)
        if found is None or [type(fold) for fold in found[1]] != [Reduce]:
            return False
        fold, reads = found[1][0], self.opcodes[issue.opcode].operands
        assert isinstance(fold, Reduce)
        across = [axes[-1] not in fold.over for axes in reads if {*axes} & {*fold.over}]
        return fold.function != "argmax" and bool(across) and all(across)

    def chain(self, issue: Issue) -> Instruction | None:
        """What an issue means, if it has several sums of products: blocks of rows go through all of
        them in native code."""
        found = self.folds(issue)
        if found is None or any(isinstance(fold, Scan | Update) for fold in found[1]):
            return None
        return found[0] if sum(isinstance(fold, Dot) for fold in found[1]) > 1 else None

    def rows(self, loop: Loop, issue: Issue) -> bool:
        """Whether an issue goes along its rows in any case, so that how many there are does not
        matter to what it keeps in caches. A transposition needs its tiles, a fold of columns too;
        what is one number a row, such as an id that is looked up, is neither.
        """
        found = self.folds(issue)
        if found is None or loop.range in (issue.fresh or ()):
            return False
        folds = found[1]
        have = [o for o in (*issue.reads, *issue.writes) if loop.range in _ranges(o)]
        wide = [operand for operand in have if len(operand.dimensions) > 1] or have
        last = [loop.range in _ranges(replace(o, dimensions=o.dimensions[-1:])) for o in wide]
        along = all(last) and not folds
        return (along or not any(last)) and all(isinstance(fold, Reduce) for fold in folds)

    def folds(self, issue: Issue) -> tuple[Instruction, list[Node]] | None:
        """What an issue means, and what of that needs loops of its own."""
        meaning = self.meaning(issue)
        if meaning is None or meaning.opaque or meaning.native:
            return None
        if id(meaning) not in self.folding:  # a meaning lives as long as `meanings`
            self.folding[id(meaning)] = [
                node
                for node in walk(meaning.outputs)
                if isinstance(node, Dot | Reduce | Scan | Update)
            ]
        return meaning, self.folding[id(meaning)]

    def meaning(self, issue: Issue) -> Instruction | None:
        """What an issue means; None: it copies."""
        opcode = self.opcodes[issue.opcode]
        if opcode.instruction in COPIES:
            return None
        return self.meanings.of(opcode, self.types(issue))

    def types(self, issue: Issue) -> tuple[str, ...]:
        return tuple(self.buffers[operand.buffer].dtype for operand in issue.reads)

    # -- an issue and what follows it number by number

    def fused(self, first: Statement, second: Statement) -> Issue | None:
        """A contraction, or what goes number by number too, and all that follows at the same
        positions, if nothing else reads what is between them."""
        before = self.leading(first) if isinstance(first, Issue) else None
        issue = self.alone(second)
        if not isinstance(first, Issue) or before is None or issue is None:
            return None
        after, total = self.meaning(issue), first.writes[0]
        buffer = self.buffers[total.buffer]
        alone = len(first.writes) == 1 and first.fresh is None and not before.states
        left = self.uses[total.buffer] - self.merged[total.buffer]
        alone = alone and left == 2 and buffer.kind == "temporary"
        if not alone or total not in issue.reads or buffer.dtype != before.outputs[0].dtype:
            return None
        assert after is not None
        first = self.placed(first, issue, issue.reads.index(total))
        before = self.leading(first)
        if before is None:
            return None  # at that position it reads a window
        opcodes = self.opcodes[first.opcode], self.opcodes[issue.opcode]
        made = fused((first, issue), opcodes, (before, after))
        if made is None:
            return None
        one, opcode, meaning = made
        if not self.shares.apart(one) or self.known(opcode) != opcode:
            return None
        self.meanings.known.setdefault((opcode.name, self.types(one)), meaning)
        self.fusions.add(opcode.name)
        self.merged.update(operand.buffer for operand in (*first.reads, *issue.reads))
        self.merged.subtract(operand.buffer for operand in (total, *one.reads))
        return one

    def leading(self, issue: Issue) -> Instruction | None:
        """What an issue means, if it may be one with what follows."""
        meaning = self.meaning(issue)
        if meaning is None or not (self.contraction(issue) or elementwise(meaning)):
            return None
        return meaning

    def placed(self, first: Issue, second: Issue, place: int) -> Issue:
        """The first issue with names for the axes of its result of which it takes one position, as
        the second one, which reads that as its operand `place`, names them."""
        pairs = list(zip(self.opcodes[first.opcode].results[0],
                         self.opcodes[second.opcode].operands[place], strict=True))  # fmt: skip
        ranges = dict(second.axes)
        for own, axis in pairs:
            if not own and axis and (axis, ranges[axis]) in first.axes:
                opcode = self.extended(ranges[axis], first, axis, False)
                first = replace(first, opcode=opcode.name) if opcode else first
        return first

    def alone(self, item: Statement) -> Issue | None:
        """An element-wise issue, without the loops around it."""
        if isinstance(item, Issue):
            meaning = self.meaning(item)
            return item if meaning is not None and elementwise(meaning) else None
        inner = self.alone(item.body[0]) if len(item.body) == 1 else None
        return self.over_all(item, inner) if inner and not (item.ahead or item.spread) else None

    # -- the step of a sum and what finishes it

    def joined(self, first: Statement, second: Statement) -> Issue | None:
        """The instruction that both issues are the pieces of; the second may come in pieces."""
        last = self.all_pieces(second) if isinstance(first, Issue) and not first.fresh else None
        if not isinstance(first, Issue) or last is None:
            return None
        step, finish = (self.opcodes[issue.opcode] for issue in (first, last))
        if {step.name, finish.name} & self.fusions:
            return None
        base, _, part = step.instruction.rpartition(".")
        whole = self.library.get(base)
        if whole is None or (part, finish.instruction) != ("step", f"{base}.finish"):
            return None
        (total,), reads = first.writes, last.reads
        only = self.uses[total.buffer] == 2 and not self.buffers[total.buffer].outer
        if total != reads[0] or not only or whole.native:
            return None
        if self.contraction(first) is None and not self.pooled(first):
            return None
        return self.whole(whole, (first, step), (last, finish))

    def folded(self, first: Statement, second: Statement) -> Issue | None:
        """The instruction of which the first are the steps, by a law, and the second what finishes
        them, perhaps in pieces: an attention whose keys came in tiles."""
        if not isinstance(first, Loop) or first.ahead:
            return None
        step, ranges = _only(first)
        last = self.all_pieces(second)
        if step is None or last is None or set(step.fresh or ()) != {first.range}:
            return None
        opcodes = [self.opcodes[issue.opcode] for issue in (step, last)]
        if {opcode.name for opcode in opcodes} & self.fusions:
            return None
        given, finish = (self.library.get(opcode.instruction) for opcode in opcodes)
        laws = [law for law in given.laws if isinstance(law, StepOf)] if given else []
        if not laws or finish is None or laws[0].finish != finish.name:
            return None
        whole, tiled = self.library[laws[0].whole], dict(opcodes[0].binding).get(laws[0].axis)
        operands = (*step.reads, *step.writes)
        if whole.native or whole.opaque or any(_based(operands, old) for old in ranges):
            return None
        if [axis for axis, name in step.axes if name == first.range] != list(tiled or ()):
            return None
        for old, new in ranges.items():
            step = _renamed(step, old, new)
        uses = Counter(o.buffer for o in (*step.writes, *last.reads))
        if any(self.uses[o.buffer] != uses[o.buffer] for o in step.writes):
            return None
        if not set(last.reads) <= set(step.writes) or not _agree(*(o.binding for o in opcodes)):
            return None
        return self.whole(whole, (step, opcodes[0]), (last, opcodes[1]))

    def all_pieces(self, item: Statement) -> Issue | None:
        """An issue, or the one of loops whose pieces are computed without each other, over all."""
        if isinstance(item, Issue):
            return item
        issue = self.all_pieces(item.body[0]) if len(item.body) == 1 else None
        if issue is None or item.ahead or item.spread or not self.in_pieces(item, issue):
            return None
        found, opcode = self.folds(issue), self.opcodes[issue.opcode]
        (axis,) = (axis for axis, name in issue.axes if name == item.range)
        whole = found and self.covered(issue, opcode, found[0], (item.range, axis))
        if not whole or _based((*issue.reads, *issue.writes), item.range):
            return None
        return _renamed(issue, item.range, item.parent)

    def whole(
        self, meaning: Instruction, step: tuple[Issue, Opcode], finish: tuple[Issue, Opcode]
    ) -> Issue | None:
        """An instruction in the place of its pieces."""
        found = self.operands(meaning, step, finish)
        if found is None:
            return None
        opcode, operands = found
        axes = dict((*step[0].axes, *finish[0].axes))
        issue = replace(finish[0], opcode=opcode.name, reads=operands, axes=tuple(axes.items()))
        if not self.shares.apart(issue) or self.known(opcode) != opcode:
            return None
        return issue

    def operands(
        self, whole: Instruction, *parts: tuple[Issue, Opcode]
    ) -> tuple[Opcode, tuple[Operand, ...]] | None:
        """The opcode of the whole and what it reads, by the names of operands of its pieces."""
        given: dict[str, tuple[Operand, tuple[str, ...]]] = {}
        windows: Windows = {}
        places = {leaf.name: place for place, leaf in enumerate(whole.operands)}
        for issue, opcode in parts:
            read = self.windows.get(opcode.name, {})
            leaves = self.meanings.of(opcode, self.types(issue)).operands
            for leaf, operand, axes in zip(leaves, issue.reads, opcode.operands, strict=True):
                if given.setdefault(leaf.name, (operand, axes)) != (operand, axes):
                    return None
            for (place, axis), index in read.items():
                windows[places[leaves[place].name], axis] = index
        step, finish = (opcode for _, opcode in parts)
        pairs = [given[leaf.name] for leaf in whole.operands]
        opcode = replace(
            finish,
            name=f"{step.name} and finish",
            instruction=whole.name,
            meaning=whole.meaning,
            binding=tuple(dict((*step.binding, *finish.binding)).items()),
            immediates=tuple(dict((*step.immediates, *finish.immediates)).items()),
            operands=tuple(axes for _, axes in pairs),
            limits=(),
        )
        if windows and self.windows.setdefault(opcode.name, windows) != windows:
            return None
        return opcode, tuple(operand for operand, _ in pairs)

    def known(self, opcode: Opcode) -> Opcode:
        return self.opcodes.setdefault(opcode.name, opcode)


def _operands(items: Iterable[Statement]) -> Iterator[Operand]:
    """What the issues of statements read and write."""
    for item in statements(items):
        if isinstance(item, Issue):
            yield from (*item.reads, *item.writes)


def _only_fold(meaning: Instruction) -> Dot | Reduce | None:
    found = [node for node in walk(meaning.outputs) if isinstance(node, Dot | Reduce)]
    return found[0] if len(found) == 1 else None


def _ranges(operand: Operand) -> set[str]:
    return {term.range for dimension in operand.dimensions for term in dimension.terms}


def _based(operands: Sequence[Operand], name: str) -> bool:
    """Whether a position is counted from the start of a range."""
    return any(t.base == name for o in operands for d in o.dimensions for t in d.terms)


def _with_range(
    issue: Issue, opcode: Opcode, name: str, ranges: Mapping[str, Axis]
) -> tuple[tuple[tuple[Axis, ...], ...], Windows] | None:
    """The axes of the dimensions of what an issue reads, with those that move with a range of which
    it takes one position, and what is read in windows then; None if positions count from where a
    range starts."""
    windows: Windows = {}
    operands: list[tuple[Axis, ...]] = []
    for place, (operand, axes) in enumerate(zip(issue.reads, opcode.operands, strict=True)):
        names = list(axes)
        for d, dimension in enumerate(operand.dimensions):
            if name not in (term.range for term in dimension.terms):
                continue
            if any(term.base or term.range not in ranges for term in dimension.terms):
                return None
            index = Affine(tuple((ranges[t.range], t.stride) for t in dimension.terms))
            names[d] = index.plain or f"{d} of operand {place}"
            if index.plain is None:
                windows[place, names[d]] = index
        operands.append(tuple(names))
    return tuple(operands), windows


def _named(operand: Operand, axes: Sequence[Axis], name: str, axis: Axis) -> tuple[Axis, ...]:
    """The axes of a result of which a range is a dimension by itself."""
    return tuple(
        axis if [term.range for term in dimension.terms] == [name] else old
        for old, dimension in zip(axes, operand.dimensions, strict=True)
    )


def _only(loop: Loop) -> tuple[Issue | None, dict[str, str]]:
    """The one issue of a loop, perhaps in more loops, and the range that each is in; innermost
    first."""
    if len(loop.body) != 1 or loop.ahead or loop.spread:
        return None, {}
    (item,) = loop.body
    if isinstance(item, Issue):
        return item, {loop.range: loop.parent}
    issue, ranges = _only(item)
    return issue, {**ranges, loop.range: loop.parent}


def _agree(*bindings: Sequence[tuple[Axis, tuple[Axis, ...]]]) -> bool:
    """Whether bindings give no axis two meanings."""
    pairs = {pair for binding in bindings for pair in binding}
    return len(dict(pairs)) == len(pairs)


def _counted(item: Statement, zero: Collection[str]) -> Statement:
    """A statement whose positions count from 0 instead of from the start of a range that is 0."""
    if isinstance(item, Issue):
        return _from_zero(item, zero)
    return replace(item, body=tuple(_counted(inner, zero) for inner in item.body))


def _from_zero(issue: Issue, zero: Collection[str]) -> Issue:
    """The same of an issue. Of a term that runs backwards the last position counts, so it stays."""

    def based(operand: Operand) -> bool:
        return any(term.base in zero for d in operand.dimensions for term in d.terms)

    def term(given: Term) -> Term:
        counted = given.base in zero and given.stride > 0
        return Term(given.range, "", given.stride) if counted else given

    def part(operand: Operand) -> Operand:
        if not based(operand):
            return operand
        pairs = ((tuple(map(term, d.terms)), d.offset) for d in operand.dimensions)
        dimensions = tuple(Dimension(terms, offset) for terms, offset in pairs)
        return Operand(operand.buffer, dimensions, operand.fill)

    reads, writes = issue.reads, issue.writes
    if not any(map(based, (*reads, *writes))):
        return issue
    return replace(issue, reads=tuple(map(part, reads)), writes=tuple(map(part, writes)))


def _elsewhere(item: Statement, names: Mapping[str, str]) -> Statement:
    """A statement on other buffers."""
    if isinstance(item, Loop):
        body = tuple(_elsewhere(inner, names) for inner in item.body)
        return replace(item, body=body, ahead=tuple(_moved(issue, names) for issue in item.ahead))
    return _moved(item, names)


def _moved(item: Issue, names: Mapping[str, str]) -> Issue:
    reads, writes = (
        tuple(Operand(names[o.buffer], o.dimensions, o.fill) for o in operands)
        for operands in (item.reads, item.writes)
    )
    return replace(item, reads=reads, writes=writes)


def _inside(item: Statement, old: str, new: str) -> Statement:
    """A statement in another range, from whose start it counts positions."""
    if isinstance(item, Issue):
        return rebased(_renamed(item, old, new), old, new)
    body = tuple(_inside(inner, old, new) for inner in item.body)
    return replace(item, parent=new if item.parent == old else item.parent, body=body)


def _renamed(issue: Issue, old: str, new: str) -> Issue:
    """The issue over another range; it starts anew whatever the old one is at."""
    fresh = None if issue.fresh is None else tuple(name for name in issue.fresh if name != old)
    return replace(narrowed(issue, old, new), fresh=fresh)
