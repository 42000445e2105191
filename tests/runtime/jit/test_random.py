"""Random expressions and programs: NumPy and native code, on one thread or several, agree."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from infinisa.isa import language as L
from infinisa.isa.errors import LanguageError, ProgramError
from infinisa.isa.instruction import Instruction, State
from infinisa.isa.language import Axis, Input, Node
from infinisa.isa.verify import verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program, session
from infinisa.runtime.jit.code.ir import image
from infinisa.runtime.jit.code.processor import Target
from tests.runtime.jit import single

SIZES = {"a": 3, "b": 5, "c": 17, "d": 33, "e": 16, "f": 17}
FLOATS = ("f32", "bf16", "f64", "f16")
WHOLE = ("i32", "i8", "u8", "i64")
UNARY = ("negate", "absolute", "exp", "tanh", "sigmoid", "erf", "sign", "floor", "round", "sin")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "less", "greater_equal", "equal")
RATE = L.Immediate("rate", 0.5)
KINDS = ("unary", "binary", "reduce", "dot", "view", "gather", "where", "cast", "stack", "position",
         "mean", "argmax", "scan", "pad", "split", "window")  # fmt: skip


NARROWER = tuple(name for name in single.HERE if Target.named(name).lanes < Target.host().lanes)
"""Kinds of processors with shorter vectors than this one: every other program runs as for one."""


@pytest.fixture(autouse=True)
def _equal_texts_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A third of all texts: of small programs, and of those with nothing to divide."""
    monkeypatch.setattr(session, "image", lru_cache(maxsize=256)(image))


class Builder:
    """Draws nodes over the axes of `SIZES` and keeps them small."""

    def __init__(self, data: some.DataObject, kinds: Sequence[str] = KINDS) -> None:
        self.data, self.kinds = data, kinds
        self.nodes: list[Node] = []
        self.inputs: list[Input] = []
        for number in range(self.number(1, 3)):
            axes = tuple(self.order(tuple(SIZES))[: self.number(1, 3)])
            kind = self.pick(("f32", "f32", "f32", *FLOATS, *WHOLE))
            leaf = Input(f"x{number}", axes, kind)
            self.inputs.append(leaf)
            self.nodes.append(leaf)
        for _ in range(self.number(1, 8)):
            node = self.step()
            if node is not None and len(node.axes) <= 4:
                self.nodes.append(node)

    def number(self, low: int, high: int) -> int:
        return self.data.draw(some.integers(low, high))

    def pick(self, options: Iterable[Any]) -> Any:
        return self.data.draw(some.sampled_from(list(options)))

    def order(self, options: tuple[Axis, ...]) -> list[Axis]:
        return self.data.draw(some.permutations(options))

    def step(self) -> Node | None:
        try:
            made: Node | None = getattr(self, f"make_{self.pick(self.kinds)}")(
                self.pick(self.nodes)
            )
        except LanguageError:
            return None
        return made

    def tame(self, x: Node) -> Node:
        """x in f32, no larger than 3, or what operands hold: nothing overflows."""
        if x.dtype == "f32" and all(isinstance(node, Input | L.View) for node in L.walk([x])):
            return x
        if x.dtype != "f32":
            x = L.cast(x, "f32")
        return L.maximum(L.minimum(x, 3.0), -3.0)

    def make_unary(self, x: Node) -> Node:
        return L.apply(self.pick(UNARY), self.tame(x))

    def make_binary(self, x: Node) -> Node:
        y = self.pick([*self.nodes, L.lift(2), L.lift(0.5), L.lift(-1.5), RATE])
        return L.apply(self.pick(BINARY), x, y)

    def make_where(self, x: Node) -> Node:
        return L.where(x > 0.5, self.tame(self.pick(self.nodes)), self.tame(x))

    def make_cast(self, x: Node) -> Node:
        return L.cast(x, self.pick((*FLOATS, *WHOLE, "bool")))

    def make_reduce(self, x: Node) -> Node | None:
        if not x.axes or x.dtype == "bool":
            return None
        over = tuple(self.order(x.axes)[: self.number(1, min(2, len(x.axes)))])
        return L.Reduce(self.pick(("sum", "max", "min")), x, over)

    def make_mean(self, x: Node) -> Node | None:
        return L.mean(self.tame(x), x.axes[-1:]) if x.axes else None

    def make_argmax(self, x: Node) -> Node | None:
        """Of an input: where values are computed, rounding decides between equals."""
        leaf = self.pick(self.inputs)
        return L.argmax(leaf, self.pick(leaf.axes))

    def make_dot(self, x: Node) -> Node | None:
        return self.product(x, self.pick(self.nodes))

    def product(self, x: Node, y: Node) -> Node | None:
        both = [axis for axis in x.axes if axis in y.axes]
        if not both:
            return None
        return L.dot(self.tame(x), self.tame(y), both[: self.number(1, len(both))])

    def make_view(self, x: Node) -> Node | None:
        """A rename, or the axis backwards."""
        free = [axis for axis in SIZES if axis not in x.axes]
        if not x.axes:
            return None
        old = self.pick(x.axes)
        new = self.pick([axis for axis in [*free, old] if SIZES[axis] <= SIZES[old]] or [old])
        back = f"{SIZES[old] - 1} - {new}" if self.number(0, 1) else new
        x = L.negate(self.tame(x)) if isinstance(x, Input) else x
        return L.view(x, {old: back})

    def make_pad(self, x: Node) -> Node | None:
        free = [axis for axis in SIZES if axis not in x.axes]
        if not x.axes or not free:
            return None
        old, new = self.pick(x.axes), self.pick(free)
        x = L.negate(self.tame(x)) if isinstance(x, Input) else x  # not a window of an operand
        stride, offset = self.pick((1, 2, -1)), self.number(-6, 6)
        return L.view(x, {old: f"{stride}*{new} + {offset}"}, fill=self.pick((0, 1)))

    def make_split(self, x: Node) -> Node | None:
        free = [axis for axis in SIZES if axis not in x.axes]
        if not x.axes or not free:
            return None
        old, new = self.pick(x.axes), self.pick(free)
        if self.number(0, 1):
            return L.view(x, {old: f"({new} + 2) % {SIZES[old]}"})
        return L.view(x, {old: f"{new} // {-(-SIZES[new] // SIZES[old])}"})

    def make_window(self, x: Node) -> Node | None:
        """Of an input: all of it that is read, if nothing else reads it."""
        leaf = self.pick(self.inputs)
        old = self.pick(leaf.axes)
        new = self.order(tuple(axis for axis in SIZES if axis not in leaf.axes))
        terms = [f"{self.number(1, 2)}*{axis}" for axis in new[: self.number(1, 2)]]
        return L.view(leaf, {old: " + ".join([*terms, str(self.number(0, 3))])})

    def make_gather(self, x: Node) -> Node | None:
        index = self.pick(self.nodes)
        if not x.axes:
            return None
        axis = self.pick(x.axes)
        if axis in index.axes:
            return None
        return L.gather(x, L.cast(index, "i32"), axis)

    def make_beside(self, x: Node) -> Node | None:
        """A product of a value at other positions and of one that has, or reads, it at its own."""
        moved = self.pick((self.make_pad, self.make_view, self.make_gather))(x)
        if moved is None:
            return None
        near = self.pick(
            (x, x + moved, *(node for node in self.nodes if set(x.axes) < set(node.axes)))
        )
        return self.product(near, moved)

    def make_stack(self, x: Node) -> Node | None:
        """Three values along axis a, which has three positions."""
        xs = [x, self.tame(self.pick(self.nodes)), self.tame(x)]
        if any("a" in node.axes for node in xs) or x.dtype not in ("f32", "i32"):
            return None
        return L.stack(xs, "a")

    def make_position(self, x: Node) -> Node:
        return x + L.position(self.pick(SIZES)) * L.size(self.pick(SIZES))

    def make_scan(self, x: Node) -> Node | None:
        if len(x.axes) < 2:
            return None
        axis = self.pick(x.axes)
        rest = [a for a in x.axes if a != axis]

        def step(h: Node, x: Node) -> tuple[list[Node], list[Node]]:
            after = L.tanh(h * RATE + x)
            return [after], [after + h]

        first = self.pick((L.max(self.tame(x), axis) * 0.25, L.lift(0.5)))
        backwards, axes = bool(self.number(0, 1)), {"h": " ".join(rest)}
        lasts, emits = L.scan(step, {"h": first}, {"x": self.tame(x)}, axis, backwards, axes)
        return (lasts[0] if self.number(0, 1) else emits[0]) if rest else None


def axes_in(nodes: list[Node]) -> set[Axis]:
    """Those of values, and those whose size is asked for."""
    found = {axis for node in L.walk(nodes) for axis in node.axes}
    return found | {node.axis for node in L.walk(nodes) if isinstance(node, L.Size)}


def sums(node: Node) -> bool:
    """Whether a value may differ by rounding where it is then cut: rounded, compared, looked up."""
    cuts = {"floor", "round", "sign", "less", "greater_equal", "equal"}
    for n in L.walk([node]):
        if isinstance(n, L.Gather | L.Cast):
            return True
        if isinstance(n, L.Map) and n.function in cuts:
            return True
        if isinstance(n, L.Reduce) and n.function == "argmax":
            return True
    return False


EXAMPLES = int(os.environ.get("INFINISA_EXAMPLES", "2000"))
"""Random programs; `make programs` runs more."""

PARTS = 14
"""Of 16: in two all products read something at other positions."""


@pytest.mark.parametrize("part", range(PARTS))
@settings(max_examples=EXAMPLES // 16, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.data())
def test_random_expressions(part: int, data: some.DataObject) -> None:
    compare(Builder(data))


@pytest.mark.parametrize("part", range(2))
@settings(max_examples=EXAMPLES // 16, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.data())
def test_random_products_of_what_is_read_at_other_positions(
    part: int, data: some.DataObject
) -> None:
    compare(Builder(data, ("beside",)))


def compare(builder: Builder) -> None:
    """The ways to run what a builder has drawn."""
    made = [node for node in builder.nodes if not isinstance(node, Input) and node.axes]
    if not made:
        return
    outputs = tuple(dict.fromkeys(made[-builder.number(1, 2) :]))
    leaves = tuple(leaf for leaf in builder.inputs if leaf in set(L.inputs(outputs)))
    numbers = (RATE,) if RATE in L.everything(outputs) else ()
    meaning = Instruction(
        name="random", unit="vector", operands=leaves, outputs=outputs, immediates=numbers
    )
    used = axes_in([*outputs, *leaves])
    sizes = {axis: size for axis, size in SIZES.items() if axis in used}
    loops = [a for a in sizes if a not in meaning.whole and a not in meaning.reduced]
    loops = [a for a in loops if all(a in o.axes for o in outputs) and meaning.axes]
    steps = {axis: builder.number(1, 20) for axis in loops[: builder.number(0, 2)]}
    results = [builder.pick((o.dtype, "f32")) for o in outputs]
    program = single.program_of(
        meaning, sizes, steps, results=results, immediates={i.name: -0.25 for i in numbers}
    )
    library = {"random": meaning}
    arrays = single.arrays_for(program, builder.number(0, 3))
    try:
        verify(program, None, library)
    except ProgramError:
        return  # such as a view that leaves its tensor
    wanted = interpret(program, library, arrays)
    exact = not any(sums(o) for o in outputs)
    ways = [*single.BACKENDS.items()]
    if NARROWER and builder.number(0, 1):
        ways.append(("vector", {"target": builder.pick(NARROWER)}))
    for backend, more in ways:
        code = compile_program(program, library, backend, verified=True, cache=False, **more)
        found = code.run(arrays)
        for name, array in wanted.outputs.items():
            mine = found.outputs[name]
            assert mine.shape == array.shape
            if exact:
                single.near(mine, array, 3e-5, f"{backend} {name} {outputs}")
            else:
                mostly_near(mine, array, f"{backend} {name} {outputs}")


def mostly_near(found: Any, wanted: Any, where: str) -> None:
    """Equal but for a few places, where a rounding has fallen to the other side."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1e-30)
    with np.errstate(invalid="ignore"):
        bad = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= 1e-2 * scale))
    assert bad.mean() < 0.02 if bad.size > 100 else bad.sum() <= 1, (where, a[bad], b[bad])


@pytest.mark.parametrize("function", ["max", "min", "product", "sum"])
def test_states_that_are_folds(function: str) -> None:
    """An initial value other than zero, and a state that the fold reads twice."""
    x, top = Input("x", ("c", "d"), "f32"), Input("top", ("c",), "f32")
    total = Input("total", ("c",), "f32")
    best = L.Map("maximum", (top, L.max(x, "d")))
    weights = L.sum(L.exp(x - best), "d")
    meaning = Instruction(
        name="fold",
        unit="vector",
        operands=(x,),
        states=(State(top, -3.0), State(total, 0.0)),
        outputs=(best, total * L.exp(top - best) + weights),
        laws=(),
    )
    plain = Instruction(
        name="plain",
        unit="vector",
        operands=(x,),
        states=(State(top, -2.0),),
        outputs=(L.Map({"max": "maximum", "min": "minimum", "sum": "add"}.get(function, "multiply"),
                       (top, L.Reduce(function, x, ("d",)))),),
    )  # fmt: skip
    for made in (meaning, plain):
        program = single.program_of(made, {"c": 17, "d": 33}, {"c": 5, "d": 8})
        single.check(with_fresh(program), {made.name: made})


def with_fresh(program: Any) -> Any:
    """The states of the program start anew at the first piece of d."""
    from dataclasses import replace

    from infinisa.isa.program import Loop

    def change(item: Any) -> Any:
        if isinstance(item, Loop):
            return replace(item, body=tuple(map(change, item.body)))
        return replace(item, fresh=("d1",))

    (section,) = program.sections
    (stage,) = section.stages
    inner = tuple(map(change, stage.body))
    outer, middle = inner[0], inner[0].body[0]
    if outer.range == "d1":  # d must turn inside c
        inner = (replace(middle, body=(replace(outer, body=middle.body),)),)
    stage = replace(stage, body=inner)
    return replace(program, sections=(replace(section, stages=(stage,)),))
