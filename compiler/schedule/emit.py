"""From scheduled groups to a program: each group becomes a stage of loops over issues."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

from infinisa.isa.errors import CompileError
from infinisa.isa.language import Axis
from infinisa.isa.machine import Machine
from infinisa.isa.program import (
    Buffer,
    Dimension,
    Issue,
    Loop,
    Opcode,
    Operand,
    Parameter,
    Program,
    Section,
    Stage,
    Statement,
    Term,
)

from ..calls import Access, Call, Covered, Tensor
from .cost import Group, Sizes
from .home import Frame, Home, Key
from .nest import Run
from .place import core_sizes, layout, slots_of
from .tile import frame, lengths

_PLACED = attrgetter(*(f.name for f in fields(Buffer) if f.name != "name"))
"""All fields of a buffer behind its name."""

COPY_OPCODES = (Opcode("load", "load", "", "load"), Opcode("store", "store", "", "store"))
"""Copies name no axes: their one read and one write are regions of equal shape."""


def emit(
    name: str,
    machine: Machine,
    covered: Sequence[tuple[Covered, list[Group]]],
    parameters: Sequence[Parameter] = (),
) -> Program:
    """The program of a model's graphs, each with its groups, one section each.

    Tensors outside the chip keep their names, but a temporary is called `graph/name`, and a chip
    buffer `graph/stage/name`.
    """
    buffers: dict[str, Buffer] = {}
    sections = []
    for graph, groups in covered:
        _add(buffers, (_outside(graph, tensor, machine) for tensor in _bound(graph)))
        site = Site(graph, machine, lengths(graph, ()), frame(graph, machine))
        stages = written(site, groups)
        for stage in stages:
            _add(buffers, (*stage.outside.values(), *(buffer for _, buffer in stage.chip)))
        texts = tuple(stage.text for stage in stages)
        sections.append(Section(graph.name, graph.extents, texts, graph.repeat, graph.tokens))
    opcodes: dict[str, Opcode] = {}
    if machine.scratchpad.managed == "software":
        opcodes.update((opcode.name, opcode) for opcode in COPY_OPCODES)
    for call in (call for graph, _ in covered for call in graph.calls):
        if opcodes.setdefault(call.opcode.name, call.opcode) != call.opcode:
            raise AssertionError(f"two opcodes are called {call.opcode.name!r}")
    return Program(
        name,
        machine.name,
        tuple(parameters),
        tuple(opcodes.values()),
        tuple(buffers.values()),
        tuple(sections),
    )


def _add(buffers: dict[str, Buffer], more: Iterable[Buffer]) -> None:
    for buffer in more:
        if buffers.setdefault(buffer.name, buffer) != buffer:
            raise CompileError(
                f"tensor {buffer.name!r}: must be the same in all graphs, not "
                f"{buffer.dtype} {buffer.shape} and {buffers[buffer.name].dtype} "
                f"{buffers[buffer.name].shape}"
            )


def _bound(graph: Covered) -> list[Tensor]:
    """Tensors that someone outside of the program gives or takes."""
    return [tensor for tensor in graph.tensors.values() if tensor.bound]


def _outside(graph: Covered, tensor: Tensor, machine: Machine) -> Buffer:
    """The buffer of a whole tensor."""
    kind = tensor.kind
    assert not tensor.inner
    return Buffer(
        outside_name(graph, tensor),
        machine.dram.name,
        tensor.shape,
        tensor.dtype,
        kind,  # type: ignore[arg-type]  # a tensor's kind is a buffer's, or it is inner
        initial=tensor.initial,
        content=tensor.content,
    )


def outside_name(graph: Covered, tensor: Tensor) -> str:
    own = f"{graph.name}/"
    plain = tensor.kind != "temporary" or tensor.name.startswith(own)
    return tensor.name if plain else own + tensor.name


@dataclass(frozen=True)
class Scope:
    """The loops around a statement: the range of each axis, all ranges of each axis from the
    outermost inwards, and the innermost range."""

    ranges: Mapping[Axis, str]
    loops: Mapping[Axis, tuple[str, ...]] = field(default_factory=dict)
    innermost: str = ""

    def inside(self, axis: Axis, name: str) -> Scope:
        """The scope inside a loop `name` over a range of `axis`."""
        own = (*self.loops.get(axis, ()), name)
        return Scope({**self.ranges, axis: name}, {**self.loops, axis: own}, name)


@dataclass(frozen=True)
class Opened:
    """A home in the scope in which it was opened: its buffer, and the ranges it counts from."""

    home: Home
    buffer: Buffer
    ranges: Mapping[Axis, str]


@dataclass(frozen=True)
class Site:
    """What all stages of a section have in common."""

    graph: Covered
    machine: Machine
    sizes: Sizes
    around: Frame


@dataclass(frozen=True)
class Written:
    """A group as a stage, with its buffers.

    outside  by tensor
    chip     each with its tensor
    """

    group: Group
    text: Stage
    outside: Mapping[str, Buffer]
    chip: tuple[tuple[str, Buffer], ...]


def written(site: Site, groups: Sequence[Group]) -> list[Written]:
    """The stages of a section. Groups that are alike, over the same axes, have one text but for the
    names of buffers."""
    first: dict[Key, Written] = {}
    found = []
    for number, group in enumerate(groups):
        key = _text_key(group)
        if key is None or key not in first:
            stage = StageWriter(site, group, number).written()
            if key is not None:
                first[key] = stage
        else:
            stage = rewritten(site, first[key], group, number)
        found.append(stage)
    return found


def _text_key(group: Group) -> Key | None:
    """What the text of a stage follows from, but for the names of tensors."""
    if group.names is None:
        return None
    calls = tuple((call.opcode.name, call.sets) for call in group.calls)
    return group.like, group.names.axes, calls


def rewritten(site: Site, first: Written, group: Group, number: int) -> Written:
    """A group written as one that is alike was."""
    assert first.group.names is not None
    assert group.names is not None
    tensors = dict(zip(first.group.names.tensors, group.names.tensors, strict=True))
    outside = {
        tensors[name]: _outside(site.graph, site.graph.tensors[tensors[name]], site.machine)
        for name in first.outside
    }
    names = {buffer.name: outside[tensors[name]].name for name, buffer in first.outside.items()}
    chip: dict[str, tuple[str, Buffer]] = {}
    for tensor, buffer in first.chip:
        name = names[buffer.name] = chip_name(site.graph, number, tensors[tensor], chip)
        chip[name] = tensors[tensor], Buffer(name, *_PLACED(buffer))
    text = Stage(
        group.calls[0].name,
        _with_buffers(first.text.body, names),
        tuple((names[name], begin, end) for name, begin, end in first.text.lifetimes),
    )
    return Written(group, text, outside, tuple(chip.values()))


def _with_buffers(items: Iterable[Statement], names: Mapping[str, str]) -> tuple[Statement, ...]:
    """Statements with other names for buffers."""

    def renamed(operands: Iterable[Operand]) -> tuple[Operand, ...]:
        return tuple([Operand(names[o.buffer], o.dimensions, o.fill) for o in operands])

    def moved(item: Statement) -> Statement:
        match item:
            case Loop(name, parent, step, body, ahead, spread, reverse):
                body = _with_buffers(body, names)
                return Loop(name, parent, step, body, ahead, spread, reverse)
            case Issue(opcode, unit, reads, writes, axes, fresh, sets):
                return Issue(opcode, unit, renamed(reads), renamed(writes), axes, fresh, sets)

    return tuple(map(moved, items))


def chip_name(graph: Covered, number: int, tensor: str, taken: Container[str]) -> str:
    """A name for a buffer of a tensor in a stage that none of the stage's buffers has."""
    own = tensor.removeprefix(f"{graph.name}/")
    name = base = f"{graph.name}/{number}/{own}"
    again = 1
    while name in taken:
        again += 1
        name = f"{base}.{again}"
    return name


class StageWriter:
    """Writes one group as one stage."""

    def __init__(self, site: Site, group: Group, number: int) -> None:
        self.graph, self.machine, self.group, self.number = site.graph, site.machine, group, number
        self.chip: dict[str, tuple[str, Buffer]] = {}
        self.outside: dict[str, Buffer] = {}
        self.opened: dict[tuple[object, ...], Opened] = {}
        self.names = {extent.axis for extent in site.graph.extents}
        setting = site.around.setting((group.first, group.first + len(group.calls)))
        self.most = core_sizes(group, site.sizes, site.machine.cores)
        self.layout = layout(group, setting, self.most)

    def written(self) -> Written:
        text = self.stage()
        return Written(self.group, text, self.outside, tuple(self.chip.values()))

    def stage(self) -> Stage:
        ranges = {extent.axis: extent.axis for extent in self.graph.extents}
        scope, spread = Scope(ranges), self.group.spread
        if spread:
            scope = replace(scope.inside(spread, self.range_name(spread)), innermost="")
        body = self.body((0, len(self.group.calls)), 0, scope)
        if spread:
            loop = Loop(scope.ranges[spread], spread, self.group.step, body, spread=True)
            body = (loop,)
        alive = ((opened.buffer.name, *opened.home.run) for opened in self.opened.values())
        return Stage(self.group.calls[0].name, body, tuple(dict.fromkeys(alive)))

    def range_name(self, axis: Axis) -> str:
        """A name for a piece of an axis that nothing in the section has."""
        number = 1
        while (name := f"{axis}{number}") in self.names:
            number += 1
        self.names.add(name)
        return name

    # -- loops

    def body(self, run: Run, depth: int, scope: Scope) -> tuple[Statement, ...]:
        """The calls of `run` inside their first `depth` loops, with the copies made there."""
        homes = self.open(run, depth, scope)
        items: list[Statement] = []
        items += [self.load(o, scope) for o in homes if o.home.load and o.home.before is None]
        i = run[0]
        while i < run[1]:
            inner = self.layout.tree.runs[i][depth + 1 : depth + 2]
            first, last = inner[0] if inner else (i, i + 1)
            items += [self.load(o, scope) for o in homes if o.home.before in range(first, last)]
            items.append(self.loop(i, depth, scope) if inner else self.issue(i, scope))
            for o in homes:
                stores = [access for w, access in o.home.stores if first <= w < last]
                items += [self.store(o, access, scope) for access in stores]
            i = last
        return tuple(items)

    def loop(self, i: int, depth: int, scope: Scope) -> Loop:
        """The loop that call i has at this depth, with all calls that share it."""
        axis, run = self.layout.tree.paths[i][depth], self.layout.tree.runs[i][depth + 1]
        inner = scope.inside(axis, self.range_name(axis))
        members = self.group.calls[run[0] : run[1]]
        return Loop(
            inner.ranges[axis],
            scope.ranges[axis],
            self.group.tile[self.layout.tree.cuts[i][depth]],
            self.body(run, depth + 1, inner),
            reverse=any(call.scan == axis and call.reverse for call in members),
        )

    def issue(self, i: int, scope: Scope) -> Statement:
        """Call i on its tile: an issue inside loops over what a tile has more than one issue
        takes, reduced axes innermost."""
        call = self.group.calls[i]
        cuts = self.layout.tree.cuts[i]
        extent = {**self.most, **{cut.axis: self.group.tile[cut] for cut in cuts}}
        inner = [axis for axis in call.loops if extent[axis] > call.limits[axis]]
        inner.sort(key=lambda axis: axis in call.reduce)
        made = []
        for axis in inner:
            made.append((self.range_name(axis), scope.ranges[axis], call.limits[axis]))
            scope = scope.inside(axis, made[-1][0])
        statement: Statement = self.bare_issue(i, call, scope)
        for name, parent, step in reversed(made):
            statement = Loop(name, parent, step, (statement,))
        return statement

    def bare_issue(self, i: int, call: Call, scope: Scope) -> Issue:
        fresh = [name for axis in call.limits if axis in call.reduce
                 for name in scope.loops.get(axis, ())]  # fmt: skip
        return Issue(
            call.opcode.name,
            call.unit.name,
            tuple(self.operand(i, access, False, scope) for access in call.reads),
            tuple(self.operand(i, access, True, scope) for access in call.writes),
            tuple((axis, scope.ranges[axis]) for axis in call.limits),
            tuple(fresh) if call.reduce else None,
            call.sets,
        )

    # -- buffers

    def open(self, run: Run, depth: int, scope: Scope) -> list[Opened]:
        """The buffers of the homes at this place of the tree."""
        found = []
        for number, home in enumerate(self.layout.homes):
            if (home.run, home.depth) != (run, depth):
                continue
            opened = Opened(home, self.buffer(number, home, scope), scope.ranges)
            for key in _keys(home):
                self.opened[key] = opened
            found.append(opened)
        return found

    def buffer(self, number: int, home: Home, scope: Scope) -> Buffer:
        spot, tensor = self.layout.spots[number], home.tensor
        slots = slots_of(home, self.group)
        name = chip_name(self.graph, self.number, tensor.name, self.chip)
        made = Buffer(
            name,
            self.machine.scratchpad.name,
            self.layout.shapes[number],
            tensor.dtype,
            "state" if tensor.kind == "carry" else "temporary",
            slots,
            scope.innermost if slots > 1 else "",
            spot.place,
            spot.address,
            spot.pitch,
            tensor.initial,
        )
        self.chip[name] = tensor.name, made
        return made

    def load(self, opened: Opened, scope: Scope) -> Issue:
        outside = self.outside_operand(opened.home.access, scope)
        return Issue("load", "load", (outside,), (_chip(opened, opened.home.access, scope),))

    def store(self, opened: Opened, access: Access, scope: Scope) -> Issue:
        outside = self.outside_operand(access, scope)
        return Issue("store", "store", (_chip(opened, access, scope),), (outside,))

    def operand(self, i: int, access: Access, write: bool, scope: Scope) -> Operand:
        """An access of call i: to its buffer on chip if it has one, else outside."""
        opened = self.opened.get((access.tensor,)) or self.opened.get(
            (access.tensor, i, access.index, write)
        )
        return _chip(opened, access, scope) if opened else self.outside_operand(access, scope)

    def outside_operand(self, access: Access, scope: Scope) -> Operand:
        tensor = self.graph.tensors[access.tensor]
        buffer = self.outside.setdefault(tensor.name, _outside(self.graph, tensor, self.machine))
        dimensions = tuple(
            Dimension(
                tuple(
                    Term(scope.ranges[axis], _base(tensor, axis, stride), stride)
                    for axis, stride in index.terms
                ),
                index.offset,
            )
            for index in access.index
        )
        return Operand(buffer.name, dimensions, access.fill)


def _keys(home: Home) -> list[tuple[object, ...]]:
    """What a call finds its buffer by: a shared one by the tensor, else by its own access."""
    if home.whole:
        return [(home.tensor.name,)]
    index = home.access.index
    reads = [(home.tensor.name, i, index, False) for i in home.reads]
    return [*reads, *((home.tensor.name, i, index, True) for i in home.writes)]


def _base(tensor: Tensor, axis: Axis, stride: int) -> str:
    """What positions of a whole tensor count from: an axis that is read backwards starts at 0."""
    return "" if tensor.absolute or stride < 0 else axis


def _chip(opened: Opened, access: Access, scope: Scope) -> Operand:
    """An access within a chip buffer: counted from the ranges at which that was opened.

    A buffer that holds just a region begins where that begins, so the offset is in the copy.
    """
    home, tensor = opened.home, opened.home.tensor

    def base(axis: Axis, stride: int) -> str:
        cut = not home.whole or opened.ranges[axis] != axis
        return opened.ranges[axis] if cut else _base(tensor, axis, stride)

    dimensions = tuple(
        Dimension(
            tuple(Term(scope.ranges[axis], base(axis, s), s) for axis, s in index.terms),
            index.offset if home.whole else 0,
        )
        for index in access.index
    )
    return Operand(opened.buffer.name, dimensions, access.fill if home.whole else None)
