"""Weights in panels, as a session keeps them: one layout for all the contractions that use one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.language import Axis, Input

from ..code.functions import STORED
from ..code.ir import BYTES, Number, Value
from ..expressions.expression import Env, Place, Weight, WeightAxis, rooted
from .integers import beside
from .packing import Packing, pack_all, panel_columns, vector_lanes
from .quantised import (
    IN_GROUPS,
    INTEGERS,
    TURN,
    WHOLE_COLUMNS,
    Form,
    group_offset,
    quantised,
)
from .roles import Sides
from .transforms import SIDE, TAPS, WINDOW, corners, transformed

if TYPE_CHECKING:
    from .contraction import Contractions

Run = tuple[int, int]
"""(extent, elements from one position to the next in the order that a weight came in)."""


MOST_STEPS = 1 << 16
"""Products of u8 and s8 whose sum an i32 surely holds."""


@dataclass(frozen=True)
class Layout:
    """[others][panel][k][columns of a panel]; the last panel may be wider than what is left.

    source  the type that the weight comes in, `dtype` that of what a panel is read as
    form    of integers; None: panels hold numbers of type `dtype`
    windows  elements from tap to tap of windows that are transformed: there is all of that for each
             product of a patch
    """

    source: str
    dtype: str
    form: Form | None
    width: int
    column: Run
    over: tuple[Run, ...]
    others: tuple[Run, ...]
    windows: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        return math.prod(extent for extent, _ in self.over)

    @property
    def slab(self) -> int:
        """Elements of the panels of one position of the other axes."""
        return -(-self.column[0] // self.width) * self.width * self.steps

    @property
    def panels(self) -> int:
        """Of one position of the other axes."""
        return -(-self.column[0] // self.width)

    @property
    def bytes(self) -> int:
        if self.form:
            slabs = math.prod(n for n, _ in self.others)
            return slabs * self.panels * self.form.bytes(self.steps, self.width)
        return self.products * self.part * BYTES[STORED[self.dtype]]

    @property
    def part(self) -> int:
        """Elements of the panels of one product of a patch."""
        return math.prod(n for n, _ in self.others) * self.slab

    @property
    def products(self) -> int:
        """Of a patch."""
        return int(SIDE ** len(self.windows))

    def filled(self, form: Form, array: NDArray[Any]) -> tuple[NDArray[np.uint8], float]:
        """(the weight as integers, its relative error)."""
        runs = (*self.others, self.column, *self.over)
        flat = np.ascontiguousarray(array).reshape(-1)
        strides = [step * flat.itemsize for _, step in runs]
        shape = [extent for extent, _ in runs]
        seen = np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False)
        seen = seen.reshape(-1, self.column[0], self.steps).astype(np.float32)
        room = self.panels * self.width - self.column[0]
        seen = np.pad(seen, ((0, 0), (0, room), (0, 0)))
        panels = seen.reshape(-1, self.width, self.steps).transpose(0, 2, 1)
        return quantised(form, np.ascontiguousarray(panels))


@dataclass(frozen=True)
class Kept:
    """Where the X of a contraction is in panels that hold more than that.

    steps   of k of a panel; `slab`: elements of the panels of one position of the other axes
    column  the first column, `step` the first step, `number` that of the slab
    moves   of axes that are loops around: (columns, slabs) from one position to the next
    form    of integers, if they are that
    whole   the contraction takes all of k
    """

    memory: Value
    steps: Number
    slab: int
    column: Number = 0
    step: Number = 0
    number: Number = 0
    moves: Mapping[Axis, tuple[int, Number]] = field(default_factory=dict)
    form: Form | None = None
    whole: bool = False

    def panel(self, packing: Packing, column: Number, step: Number, slabs: Number) -> Value:
        """Where a panel is, from a step on."""
        f, width = packing.emitter.f, packing.width
        if self.form:
            form, steps = self.integers
            each = form.bytes(steps, width) // width
            grouped = form.group > 0
            skipped = group_offset(f, form, step, width) if grouped else f.multiply(step, width)
            offset = f.add(f.multiply(column, each), skipped)
            return f.at(self.memory, f.add(offset, f.multiply(slabs, self.slab // width * each)))
        offset = f.add(f.multiply(column, self.steps), f.multiply(step, width))
        offset = f.add(offset, f.multiply(slabs, self.slab))
        return f.at(self.memory, offset, packing.stored)

    def factors(self, packing: Packing, column: Number, slabs: Number) -> Value:
        """What is behind the numbers of a panel: factors of its columns, their sums."""
        form, steps = self.integers
        behind = form.numbers(steps, packing.width)
        return packing.emitter.f.at(self.panel(packing, column, 0, slabs), behind)

    @property
    def integers(self) -> tuple[Form, int]:
        """Their form, and the steps of k of a panel."""
        assert self.form is not None
        assert isinstance(self.steps, int)
        return self.form, self.steps


def pack_whole(packing: Packing, others: tuple[Axis, ...], env: Env) -> Kept:
    """All panels, in scratch memory."""
    emitter, f, bounds = packing.emitter, packing.emitter.f, packing.emitter.frame.bounds
    columns = -(-bounds[packing.vector] // packing.width) * packing.width
    slab = columns * emitter.bound(packing.over)
    memory = emitter.allot(slab * emitter.bound(others), packing.dtype)
    pack_all(packing, memory, others, slab, env)
    moves: dict[Axis, tuple[int, Number]] = {}
    slabs: Number = 1
    for axis in reversed(others):
        moves[axis] = 0, slabs
        slabs = f.multiply(slabs, emitter.frame.length(axis))
    return Kept(memory, packing.steps(), slab, moves=moves)


def kept(
    emitter: Contractions, x: Place | None, sides: Sides, over: tuple[Axis, ...], env: Env
) -> tuple[Kept, Layout] | None:
    """X in panels of a session, if that can keep it so: wherever a region begins, its columns must
    begin a panel, and its steps must follow each other."""
    if x is None or x.weight is None:
        return None
    axes = {axis.name: axis for axis in x.weight.axes if axis.extent != 1}
    groups = {axis: _members(emitter, axis, axes) for axis in (*sides.columns, *over)}
    if not all(groups.values()) or sum(map(len, groups.values())) > len(axes):
        return None
    deep = [member for axis in over for member in groups[axis]]
    wide, others = _columns(groups[sides.vector], [a for a in axes.values() if a not in deep])
    columns = math.prod(axis.extent for axis in wide)
    stride = wide[-1].stride
    width = _width(emitter, columns, stride, wide, env)
    if width is None:
        return None
    steps = math.prod(axis.extent for axis in deep)
    lengths = [emitter.frame.length(axis) for axis in over]
    known = math.prod(n for n in lengths if isinstance(n, int))
    first = not any(axis.divisor or axis.name in env for axis in deep)
    whole_k = first and known == steps and all(isinstance(n, int) for n in lengths)
    dtype, form = _form(emitter, x.dtype, steps)
    layout = Layout(
        x.dtype,
        dtype,
        form,
        width,
        (columns, stride),
        _joined(deep),
        tuple((axis.extent, axis.stride) for axis in others),
        x.weight.windows,
    )
    reach, frame = layout.width * stride, emitter.frame
    whole = (math.prod(member.extent for member in groups[axis]) for axis in over[1:])
    if any(frame.length(axis) != most for axis, most in zip(over[1:], whole, strict=True)):
        return None
    if any(axis.divisor for axis in deep[1:]):
        return None
    if form and not _grouped(emitter, form.group or TURN, form.group, deep, over):
        return None
    moves: dict[Axis, tuple[int, Number]] = {}
    for axis in (other for other in sides.columns if other != sides.vector):
        inner = groups[axis][-1]
        if inner in wide and inner.stride % reach:
            return None
        moves[axis] = (inner.stride // stride, 0) if inner in wide else (0, _slabs(others, inner))
    found = _placed(emitter, x.weight, layout, (wide, deep, others), moves, env)
    return replace(found, whole=whole_k), layout


def _width(
    emitter: Contractions, columns: int, stride: int, wide: Sequence[WeightAxis], env: Env
) -> int | None:
    """Columns of a panel: as many as can be of which none is inside of two regions."""
    lanes, most = vector_lanes(emitter.target), panel_columns(emitter.target, columns)
    begins = [axis.divisor * axis.stride for axis in wide]
    begins += [axis.stride for axis in wide if axis.name in env]
    widths = range(most, 0, -lanes)
    return next((n for n in widths if not any(begin % (n * stride) for begin in begins)), None)


def _placed(
    emitter: Contractions,
    weight: Weight,
    layout: Layout,
    axes: tuple[Sequence[WeightAxis], Sequence[WeightAxis], Sequence[WeightAxis]],
    moves: Mapping[Axis, tuple[int, Number]],
    env: Env,
) -> Kept:
    """The region that begins at the starts of its axes, at an environment."""
    f = emitter.f
    wide, deep, others = axes

    def start(axis: WeightAxis) -> Number:
        return f.add(axis.start, env[axis.name].base) if axis.name in env else axis.start

    column: Number = 0
    step: Number = 0
    number: Number = 0
    for axis in wide:
        column = f.add(column, f.multiply(start(axis), axis.stride // layout.column[1]))
    inner = layout.steps
    for axis in deep:
        inner //= axis.extent
        step = f.add(step, f.multiply(start(axis), inner))
    for axis in others:
        number = f.add(number, f.multiply(start(axis), _slabs(others, axis)))
    slab = layout.panels * layout.width if layout.form else layout.slab
    product = f.multiply(weight.number, layout.part if layout.windows else 0)
    memory = f.at(weight.packed, product, STORED[layout.dtype])
    return Kept(memory, layout.steps, slab, column, step, number, moves, layout.form)


def _form(emitter: Contractions, dtype: str, steps: int) -> tuple[str, Form | None]:
    """(type of what a panel is read as, form of its integers), as a session was asked to keep
    weights: never in more bits than they came in. Where groups do not fit, a column is one."""
    wanted = emitter.weights
    if wanted is None or dtype not in ("f32", "bf16", "f16"):
        return dtype, None
    if wanted.weights not in INTEGERS:
        return (wanted.weights if dtype == "f32" else dtype), None
    if steps > MOST_STEPS:
        return dtype, None
    bits, group = INTEGERS[wanted.weights], wanted.group
    if group and steps % group:
        bits, group = 8, 0
    digits: Literal[1, 2, 3] = IN_GROUPS if group else WHOLE_COLUMNS
    if wanted.activations:
        digits = 1
    return "f32", Form(bits, group, digits, beside(bits, emitter.target))


def _grouped(
    emitter: Contractions,
    begin: int,
    end: int,
    deep: Sequence[WeightAxis],
    over: tuple[Axis, ...],
) -> bool:
    """Whether a region of k begins with a multiple of `begin` and ends with one of `end`."""
    inner = math.prod(axis.extent for axis in deep[1:])
    length = math.prod(
        n if isinstance(n := emitter.frame.length(axis), int) else 1 for axis in over
    )
    return deep[0].divisor * inner % begin == 0 and (not end or length % end == 0)


def _members(
    emitter: Contractions, axis: Axis, axes: Mapping[Axis, WeightAxis]
) -> list[WeightAxis]:
    """The axes of a weight that an axis of a contraction stands for, outermost first."""
    names = emitter.merged_axes.get(axis, frozenset([axis]))
    found = [axes[name] for name in names if name in axes]
    return sorted(found, key=lambda axis: -axis.stride)


def _columns(
    vector: Sequence[WeightAxis], rest: Sequence[WeightAxis]
) -> tuple[list[WeightAxis], list[WeightAxis]]:
    """(axes that are one run of columns, outermost first; all others): alike for all regions."""
    run = [vector[-1]]
    while True:
        reach = run[0].stride * run[0].extent
        found = [axis for axis in rest if axis not in run and axis.stride == reach]
        if not found:
            break
        run.insert(0, found[0])
    return run, [axis for axis in rest if axis not in run]


def _joined(axes: Sequence[WeightAxis]) -> tuple[Run, ...]:
    """Axes of k as runs: those that lie one in the other are one."""
    found: list[Run] = []
    for axis in axes:
        if found and found[-1][1] == axis.stride * axis.extent:
            found[-1] = (found[-1][0] * axis.extent, axis.stride)
        else:
            found.append((axis.extent, axis.stride))
    return tuple(found)


def _slabs(others: Sequence[WeightAxis], axis: WeightAxis) -> int:
    """Slabs from one position of an axis to the next."""
    return math.prod(other.extent for other in others[others.index(axis) + 1 :])


def pack_weight(emitter: Contractions, layout: Layout) -> None:
    """The body of a function that puts a weight `x` into `panels`."""
    f, frame = emitter.f, emitter.frame
    over = tuple(f"k{i}" for i in range(len(layout.over)))
    others = tuple(f"o{i}" for i in range(len(layout.others)))
    names = ("n", *over, *others)
    runs = dict(zip(names, (layout.column, *layout.over, *layout.others), strict=True))
    frame.lengths.update({axis: extent for axis, (extent, _) in runs.items()})
    frame.bounds.update({axis: extent for axis, (extent, _) in runs.items()})
    x = Place(f.parameters["x"], layout.source, {axis: step for axis, (_, step) in runs.items()})
    leaf = Input("x", names, layout.source)
    emitter.places[leaf] = x
    packing = Packing(emitter, leaf, x, "n", over, layout.dtype, layout.width)
    if layout.windows:
        pack_windows(packing, f.parameters["panels"], others, layout)
        return
    pack_all(packing, f.parameters["panels"], others, layout.slab, {})


def pack_windows(packing: Packing, memory: Value, others: tuple[Axis, ...], layout: Layout) -> None:
    """All panels of a weight whose windows are transformed, rounded once."""
    emitter, f, x, vector = packing.emitter, packing.emitter.f, packing.x, packing.vector
    assert x is not None
    taps = corners(f, x, TAPS, layout.windows)
    axes = (*packing.over, vector)

    def other(at: Env) -> None:
        slabs: Number = 0
        for axis in others:
            slabs = f.add(f.multiply(slabs, emitter.frame.length(axis)), at[axis].base)

        def panel(column: Number, columns: Number) -> None:
            offset = f.add(f.multiply(column, packing.steps()), f.multiply(slabs, layout.slab))
            pointer = f.at(memory, f.subtract(offset, column), packing.stored)
            first = Place(pointer, packing.dtype, packing.strides())

            def put(here: Env) -> None:
                read = cache(
                    lambda tap: f.convert("fpext", emitter.load(taps[tap], here), "double")
                )
                found = transformed(f, WINDOW, len(layout.windows), read)
                for number, (_, value) in enumerate(found):
                    one = f.convert("fptrunc", value, "float")
                    emitter.store(one, rooted(first, f, number * layout.part), here)

            with emitter.part(vector, column, columns):
                emitter.nest(axes, vector, [], at, put)

        emitter.each_panel(vector, packing.width, panel)

    emitter.loops(others, {}, other)
