"""How fast native code runs on this processor: one program of a few kernels, a section each.

Only single kernels are measured, never a model; what `host.py` makes of them is a machine that any
model can be predicted on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt

import numpy as np

from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Node, apply, dot
from infinisa.isa.program import Count, Parameter, Program, Repeat

from .jit import Session, compile_program

FUNCTIONS = (
    "exp", "log", "sqrt", "rsqrt", "reciprocal", "tanh", "erf", "sigmoid", "sin", "cos",
)  # fmt: skip
"""Scalar functions of one argument that take more than an operation."""

ELEMENTS = 1 << 16
"""Of the operands of these functions: 0.25 MiB each, so that a second cache holds them."""

SHORT = 64
"""The k of a product that is mostly reading and writing sums."""

PIECES = 8
"""Issues of a product, side by side: together too large for the second cache, as weights are."""

TALL = 768
"""Rows of the matrices that products with a vector read."""

STREAMS = (1536, 3072, 6144, 12288, 24576)
"""Columns of these matrices, 4.5 to 72 MiB. The largest is read from main memory."""

TINY, TINY_ISSUES = 16, 2048
"""Elements of an issue that is all overhead, and how many follow each other."""

ROUNDS, SPELL = 5, 2e-3
"""How often each section is timed, and for how many seconds about: the fastest counts. It is CPU
time, so that others on this processor disturb little."""

MOST = 1000
"""Turns of a section in one run."""


@dataclass(frozen=True)
class Rates:
    """CPU seconds of a turn of each section of the program that was measured.

    issue  (m, k, n) of an issue of the product
    """

    issue: tuple[int, int, int]
    seconds: Mapping[str, float]

    def _of(self, section: str) -> float:
        """Without what entering a section takes."""
        return max(self.seconds[section] - self.seconds["enter"], 1e-9)

    @cached_property
    def step(self) -> float:
        """Seconds of one multiply-add of a long product, once its operands are there."""
        m, k, n = self.issue
        operands = 4 * (m + n) * (k - SHORT) / self.cache
        difference = (self._of("long") - self._of("short")) / PIECES
        return max(difference - operands, 1e-12) / (m * n * (k - SHORT))

    @cached_property
    def sum(self) -> float:
        """Seconds that each sum of a product takes besides its multiply-adds."""
        m, _, n = self.issue
        operands = 4 * ((m + n) * SHORT + m * n) / self.cache
        return max(0.0, (self._of("short") / PIECES - operands) / (m * n) - SHORT * self.step)

    @cached_property
    def reading(self) -> dict[int, float]:
        """Bytes a second of a matrix that is read from caches or memory, by its bytes."""
        sizes = {4 * TALL * columns: f"read{columns}" for columns in STREAMS}
        return {size: size / self._of(section) for size, section in sizes.items()}

    @cached_property
    def copying(self) -> float:
        """Bytes a second of operands and results that the second cache holds."""
        return 8 * ELEMENTS / self._of("add")

    @cached_property
    def functions(self) -> dict[str, float]:
        """Seconds of one application of a scalar function, once its operand is there."""
        moving = self._of("add")
        return {name: max(self._of(name) - moving, 0.0) / ELEMENTS for name in FUNCTIONS}

    @cached_property
    def overhead(self) -> float:
        """Seconds of an issue that has nearly nothing to do."""
        return self._of("issues") / TINY_ISSUES

    @property
    def memory(self) -> float:
        """Bytes a second that are read from main memory."""
        return self.reading[max(self.reading)]

    @property
    def _held(self) -> int:
        """Bytes of the largest matrix that the last cache holds: it is read at more than the middle
        of the fastest and the slowest rate."""
        middle = sqrt(self.memory * max(self.reading.values()))
        return max(size for size, rate in self.reading.items() if rate >= middle)

    @property
    def cached(self) -> int:
        """Bytes of the last cache: between that matrix and the next."""
        larger = [size for size in self.reading if size > self._held]
        return round(sqrt(self._held * min(larger, default=self._held)))

    @property
    def cache(self) -> float:
        """Bytes a second that are read from the last cache."""
        return self.reading[self._held]


def measure(rows: int, depth: int, columns: int) -> Rates:
    """Rates with products of this size, in about half a second."""
    library = {made.name: made for made in _instructions()}
    program = parse_text("\n".join(_text(library, rows, depth, columns)), "rates")
    arrays = {
        "a": np.full((rows, depth), 0.5, np.float32),
        "b": np.full((depth, PIECES * columns), 0.5, np.float32),
        "row": np.full((1, TALL), 0.5, np.float32),
        "x": np.linspace(0.1, 4.0, ELEMENTS, dtype=np.float32),
    }
    arrays |= {f"matrix{n}": np.full((TALL, n), 0.5, np.float32) for n in STREAMS}
    session = compile_program(repeated(program), library, "vector").session(arrays)
    names = (section.name for section in program.sections)
    return Rates((rows, depth, columns), {name: _turn(session, name) for name in names})


def repeated(program: Program) -> Program:
    """The program with a parameter for each section: how often it runs."""
    names = [section.name for section in program.sections]
    given = [Parameter(name, MOST, 0) for name in names]
    turn = Parameter("turn", MOST, 0, given=False)
    sections = [
        replace(section, repeat=Repeat("turn", Count(0, ((section.name, 1),))))
        for section in program.sections
    ]
    return replace(program, parameters=(*given, turn), sections=tuple(sections))


def _turn(session: Session, name: str) -> float:
    """CPU seconds of a turn of a section: of so many that a run without any does not matter."""
    turns = 1
    while True:
        rounds = [(_run(session, {}), _run(session, {name: turns})) for _ in range(ROUNDS)]
        nothing = min(without for without, _ in rounds)
        taken = max(min(taking for _, taking in rounds) - nothing, 0.0)
        if taken >= SPELL / 2 or turns == MOST:
            return taken / turns
        turns = min(MOST, max(2 * turns, int(turns * SPELL / max(taken, SPELL / MOST))))


def _run(session: Session, turns: Mapping[str, int]) -> float:
    """CPU seconds of a run with so many turns of each section."""
    began = time.process_time()
    session.run({}, turns)
    return time.process_time() - began


def fastest(several: Sequence[Rates]) -> Rates:
    """Of rates that were measured one after the other each section where it was fastest: others on
    this processor only disturb."""
    names = several[0].seconds
    return replace(
        several[0], seconds={name: min(each.seconds[name] for each in several) for name in names}
    )


# ---------------------------------------------------------------- the program


def _instructions() -> Iterator[Instruction]:
    yield _made("matmul", {"a": "m k", "b": "k n"}, _product)
    yield _made("add", {"x": "n"}, _add)
    for name in FUNCTIONS:
        yield _made(name, {"x": "n"}, _applying(name))


def _product(a: Node, b: Node) -> Node:
    return dot(a, b, "k")


def _add(x: Node) -> Node:
    return apply("add", x, 1.0)


def _applying(name: str) -> Callable[..., Node]:
    def body(x: Node) -> Node:
        return apply(name, x)

    return body


def _made(name: str, axes: dict[str, str], body: Callable[..., Node]) -> Instruction:
    body.__annotations__ = axes
    return instruction(unit="matrix" if name == "matmul" else "vector", name=name)(body)


def _text(library: Mapping[str, Instruction], m: int, k: int, n: int) -> Iterator[str]:
    """The program: products, a product with a vector, functions, and an issue of nothing."""
    yield "program rates for host"
    for name, made in library.items():
        product = name == "matmul"
        yield f'opcode {name} = {name} "{made.meaning}" on {"matrix" if product else "vector"}'
        axes = ["m", "k", "n"] if product else ["n"]
        yield from (f"    bind {axis} = {axis}" for axis in axes)
        yield from (f"    read ({' '.join(operand.axes)})" for operand in made.operands)
        yield f"    write ({' '.join(made.outputs[0].axes)})"
        yield "    outputs 0"
    shapes: dict[str, tuple[int, ...]] = {
        "a": (m, k), "b": (k, PIECES * n), "c": (m, PIECES * n), "row": (1, TALL),
        "column": (1, max(STREAMS)), "x": (ELEMENTS,), "y": (ELEMENTS,),
        **{f"matrix{n}": (TALL, n) for n in STREAMS},
    }  # fmt: skip
    for name, shape in shapes.items():
        weight = name == "b" or name.startswith("matrix")
        kind = "output" if name in ("c", "column", "y") else "weight" if weight else "input"
        yield f"buffer {name}: {kind} f32 [{', '.join(map(str, shape))}] in dram"
    yield from _sections(m, k, n)


def _sections(m: int, k: int, n: int) -> Iterator[str]:
    elements = {"n": ELEMENTS}
    for name in ("add", *FUNCTIONS):
        yield from _section(name, elements, f"y[n] = {name}(x[n]) on vector over n=n")
    yield from _section("enter", {"n": TINY}, "y[n] = add(x[n]) on vector over n=n")
    issue = "    y[k] = add(x[k]) on vector over n=k"  # the same: others would become one
    axes = {"n": TINY_ISSUES, "k": TINY}
    yield from _section("issues", axes, "for n1 in n step 1:", issue)
    loop = f"for n1 in n step {n}:"
    product = "    c[m, n1] = matmul(a[m, k], b[k, n1]) on matrix over m=m, k=k, n=n1"
    yield from _section("long", {"m": m, "k": k, "n": PIECES * n}, loop, product)
    yield from _section("short", {"m": m, "k": SHORT, "n": PIECES * n}, loop, product)
    for wide in STREAMS:
        issue = f"column[m, n1] = matmul(row[m, k], matrix{wide}[k, n1]) on matrix"
        axes = {"m": 1, "k": TALL, "n": wide}
        yield from _section(f"read{wide}", axes, loop, f"    {issue} over m=m, k=k, n=n1")


def _section(name: str, axes: Mapping[str, int], *lines: str) -> Iterator[str]:
    yield f"section {name}"
    yield from (f"    axis {axis} = {length}" for axis, length in axes.items())
    yield "    stage only"
    yield from (f"        {line}" for line in lines)
