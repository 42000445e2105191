"""Windows of three by fewer multiplications: native code equals the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from infinisa.isa import language as L
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.program import Program
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.code.processor import Target
from infinisa.runtime.jit.contraction import winograd
from infinisa.runtime.jit.contraction.contraction import Contractions
from infinisa.runtime.jit.contraction.roles import Sides
from infinisa.runtime.jit.contraction.winograd import Window
from infinisa.runtime.jit.program.program import emit
from tests.runtime.jit import single
from tests.runtime.jit.test_contractions import TARGETS, processor, with_weights


def convolution(shift: int, *, followed: bool, images: bool) -> Instruction:
    """Windows over an image of its own channels; a window begins `shift` before its result."""
    index = {"h": f"p + r - {shift}", "w": f"q + u - {shift}"}

    def plain(x: "h w c", k: "r u c o"):
        return L.dot(L.view(x, index), k, "r u c")

    def several(x: "i h w c", k: "r u c o"):
        return L.dot(L.view(x, index), k, "r u c")

    def more(x: "h w c", k: "r u c o", b: "o", y: "p q o"):
        return L.maximum(L.dot(L.view(x, index), k, "r u c") + b + y, 0.0)

    body = more if followed else several if images else plain
    return instruction(unit="matrix", name="conv")(body)


@contextmanager
def preferred(number: int) -> Iterator[list[tuple[Window, ...]]]:
    """As many windows as that are transformed, if there are so many, or (0) as pays; which."""
    chosen, planned, predicted = [], winograd.planned, winograd.cycles

    def cycles(emitter: Contractions, sides: Sides, windows: tuple[Window, ...]) -> float:
        if number == 0:
            return predicted(emitter, sides, windows)
        return abs(len(windows) - number) if windows else 10.0

    def spy(*given: Any) -> tuple[Window, ...]:
        chosen.append(planned(*given))
        return chosen[-1]

    with (
        patch.object(winograd, "cycles", cycles),
        patch("infinisa.runtime.jit.contraction.contraction.planned", spy),
    ):
        yield chosen


def check(
    program: Program,
    meaning: Instruction,
    arrays: dict[str, Any],
    target: Target,
    backend: str,
    parameters: dict[str, int] | None = None,
) -> None:
    library = single.of(meaning)
    wanted = interpret(program, library, arrays, parameters)
    with processor(target):
        code = compile_program(program, library, backend, cache=False, **single.BACKENDS[backend])
    found = code.run(arrays, parameters)
    single.near(found.outputs["out0"], wanted.outputs["out0"], 3e-6, backend)


@settings(max_examples=20, deadline=None)
@given(data=some.data())
def test_any_windows(data: some.DataObject) -> None:
    shift, flags = data.draw(some.integers(0, 2)), some.booleans()
    meaning = convolution(shift, followed=data.draw(flags), images=data.draw(flags))
    most = {"p": 13, "q": 13, "c": 40, "o": 40}
    sizes = {axis: data.draw(some.integers(1, size), axis) for axis, size in most.items()}
    sizes |= {"r": 3, "u": data.draw(some.sampled_from((1, 3, 3))), "i": 2}
    sizes = {axis: size for axis, size in sizes.items() if axis in (*meaning.axes, "p", "q")}
    assume(min(sizes["p"] + 2, sizes["q"] + sizes["u"] - 1) > shift + 1)
    order = {leaf.name: data.draw(some.permutations(leaf.axes)) for leaf in meaning.operands}
    order["out0"] = data.draw(some.permutations(meaning.outputs[0].axes))
    loops = data.draw(some.sets(some.sampled_from("pqo"), max_size=1))
    steps = {axis: data.draw(some.sampled_from((2, 5, 16))) for axis in loops}
    late = data.draw(some.sets(some.sampled_from("pqco"), max_size=1))
    longest = {axis: sizes[axis] + data.draw(some.integers(0, 9)) for axis in sorted(late)}
    program = single.program_of(
        meaning, sizes, steps, order=order, fill={"x": 0.5} if shift else None, most=longest
    )
    program = with_weights(program, {"k"})
    target = TARGETS[data.draw(some.sampled_from(sorted(TARGETS)))]
    backend = data.draw(some.sampled_from(("vector", "vector", "scalar", "parallel")))

    with preferred(data.draw(some.integers(1, 2))):
        parameters = {axis: sizes[axis] for axis in longest}
        check(program, meaning, single.arrays_for(program), target, backend, parameters)


SIZES = {"p": 9, "q": 11, "r": 3, "u": 3, "c": 12, "o": 20}
"""Of an image with a border, whose last patches are not whole."""


PLACES = (("x", (4, 5, 3)), ("x", (8, 10, 0)), ("k", (1, 2, 3, 4)))


@pytest.mark.parametrize("backend", ["vector", "parallel"])
def test_numbers_without_bounds_are_where_a_plain_sum_has_them(backend: str) -> None:
    """Results that do not read such a number are as good as ever."""
    meaning = convolution(1, followed=True, images=False)
    program = with_weights(single.program_of(meaning, SIZES, fill={"x": 0.0}), {"k"})
    library, more = single.of(meaning), single.BACKENDS[backend]
    with preferred(2) as chosen:
        code = compile_program(program, library, backend, cache=False, **more)
    assert any(chosen)
    for (name, place), number in product(PLACES, (np.inf, -np.inf, np.nan, 3e38, 1e30)):
        arrays = single.arrays_for(program)
        arrays[name][place] = number
        with np.errstate(all="ignore"):
            wanted = interpret(program, library, arrays).outputs["out0"]
        found = code.run(arrays).outputs["out0"]

        usual = np.abs(wanted) < 1e6
        single.near(found[usual], wanted[usual], 1e-5, f"{name} {number}")
        single.near(found[~usual], wanted[~usual], 1e-5, f"{name} {number}")


@pytest.mark.parametrize(("divided", "number"), [("p", 2), ("q", 1), ("o", 2)])
def test_threads_have_the_patches_of_one(divided: str, number: int) -> None:
    meaning = convolution(1, followed=True, images=False)
    sizes = SIZES | {divided: 48}
    program = with_weights(single.program_of(meaning, sizes, fill={"x": 0.0}), {"k"})
    arrays, library = single.arrays_for(program), single.of(meaning)
    with preferred(number):
        one, several = (
            compile_program(program, library, backend, cache=False, **single.BACKENDS[backend])
            for backend in ("vector", "parallel")
        )

    assert several.plan.shared
    mine, theirs = (code.run(arrays).outputs["out0"] for code in (one, several))
    np.testing.assert_array_equal(mine, theirs)


def chosen_for(p: int, c: int, o: int, target: Target) -> int:
    """How many windows of a convolution are transformed on a processor."""
    meaning = convolution(1, followed=False, images=False)
    sizes = {"p": p, "q": 56, "r": 3, "u": 3, "c": c, "o": o}
    program = with_weights(single.program_of(meaning, sizes, fill={"x": 0.0}), {"k"})
    with processor(target), preferred(0) as chosen:
        emit(program, single.of(meaning), target, 1)
    return max(map(len, chosen))


@pytest.mark.parametrize("target", ["avx512", "avx2", "sse", "neon"])
def test_what_saves_time_is_transformed(target: str) -> None:
    """Not few channels, whose transformation takes as long as the products; of a single line only
    the windows along it. Portable code sums as it is written."""
    processor_ = Target.named(target)

    assert chosen_for(28, 64, 64, processor_) == 2
    assert chosen_for(1, 128, 128, processor_) == 1
    assert chosen_for(28, 3, 64, processor_) == 0
    assert chosen_for(28, 64, 64, Target.scalar()) == 0
