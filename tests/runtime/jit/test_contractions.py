"""Sums of products of any shape, order, type and processor: native code equals NumPy."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some

from infinisa.isa import language as L
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError, ProgramError
from infinisa.isa.instruction import Instruction, instruction, step_of
from infinisa.isa.language import Node
from infinisa.isa.program import Buffer, Program
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.code.ir import Module
from infinisa.runtime.jit.code.processor import Target
from infinisa.runtime.jit.contraction import panels
from infinisa.runtime.jit.contraction.microkernels import Tile, tile_kernel
from infinisa.runtime.jit.contraction.panels import Panels
from infinisa.runtime.jit.contraction.weights import Kept
from infinisa.runtime.jit.expressions.expression import Env, Place
from infinisa.runtime.jit.expressions.rows import Rows
from infinisa.runtime.jit.kernels import kernel
from infinisa.runtime.jit.kernels.kernel import Kernel
from infinisa.runtime.jit.program.program import emit
from tests.runtime.jit import single

TARGETS = {
    "host": Target.host(),
    "avx2": Target.named("avx2"),
    "sse": Target.named("sse"),
    "a small second cache": replace(Target.host(), second=1 << 14),
}
LENGTHS = some.one_of(some.integers(1, 9), some.integers(1, 140), some.sampled_from((64, 128, 192)))
TYPES = ("f32", "f32", "f32", "bf16", "f16", "f64", "i8")


@instruction(unit="matrix")
def matmul(a: "m k", b: "k n"):
    return L.dot(a, b, "k")


@instruction(unit="matrix")
def scaled(a: "m k", b: "k n", c: "n"):
    return L.maximum(L.dot(a, b, "k") + c, 0.0)


@instruction(unit="matrix")
def followed(a: "m k", b: "k n", c: "n", d: "m n", e: "m"):
    total = L.dot(a, b, "k") * e + c
    return L.where(total > 0.0, total, 0.1 * total) + d


@instruction(unit="matrix")
def experts(a: "e m k", b: "e k n"):
    return L.dot(a, b, "k")


@instruction(unit="matrix")
def heads(a: "s d", b: "d h w"):
    return L.dot(a, b, "d")


@instruction(unit="matrix")
def largest(a: "s d", b: "d h w"):
    return L.max(L.dot(a, b, "d"), "w")


@instruction(unit="matrix")
def joined(a: "s h w", b: "h w d"):
    return L.dot(a, b, "h w")


@contextmanager
def processor(target: Target) -> Iterator[None]:
    with patch.object(Target, "host", classmethod(lambda _: target)):
        yield


def with_weights(program: Program, names: set[str]) -> Program:
    def kind(buffer: Buffer) -> Buffer:
        return replace(buffer, kind="weight") if buffer.name in names else buffer

    return replace(program, buffers=tuple(map(kind, program.buffers)))


def check(
    program: Program,
    meaning: Instruction,
    target: Target,
    backend: str = "vector",
    parameters: Mapping[str, int] | None = None,
    cache: bool = True,
) -> None:
    arrays, library = single.arrays_for(program), {meaning.name: meaning}
    wanted = interpret(program, library, arrays, parameters)
    with processor(target):
        code = compile_program(program, library, backend, cache=cache, **single.BACKENDS[backend])
    found = code.run(arrays, parameters)
    for name, array in wanted.outputs.items():
        single.near(found.outputs[name], array, 1e-5, name)


@settings(max_examples=120, deadline=None)
@given(data=some.data())
def test_any_product(data: some.DataObject) -> None:
    meaning = data.draw(some.sampled_from((matmul, scaled, followed, experts, heads, joined)))
    sizes = {axis: data.draw(LENGTHS, axis) for axis in meaning.axes}
    if len(sizes) > 3:
        sizes = {axis: min(size, 70) for axis, size in sizes.items()} | {meaning.axes[0]: 3}
    order = {leaf.name: data.draw(some.permutations(leaf.axes)) for leaf in meaning.operands}
    order["out0"] = data.draw(some.permutations(meaning.outputs[0].axes))
    loops = data.draw(some.sets(some.sampled_from(meaning.outputs[0].axes), max_size=2))
    steps = {axis: data.draw(some.sampled_from((1, 5, 16, 64))) for axis in loops}
    kind = data.draw(some.sampled_from(TYPES))
    types = {name: kind for name in order if name in "abd"}
    late = data.draw(some.sets(some.sampled_from(meaning.axes), max_size=2))
    most = {axis: sizes[axis] + data.draw(some.integers(0, 40)) for axis in sorted(late)}
    results = [
        "f64"
        if kind == "f64"
        else "i32"
        if kind == "i8" and meaning not in (scaled, followed)
        else "f32"
    ]
    program = single.program_of(
        meaning, sizes, steps, order=order, types=types, most=most, results=results
    )
    weights = data.draw(some.sets(some.sampled_from([leaf.name for leaf in meaning.operands])))
    target = TARGETS[data.draw(some.sampled_from(sorted(TARGETS)))]
    backend = data.draw(some.sampled_from(("vector", "vector", "scalar", "parallel")))

    parameters = {axis: sizes[axis] for axis in most}
    check(with_weights(program, weights), meaning, target, backend, parameters)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("late", [{}, {"m": 120}, {"k": 1024}, {"k": 1024, "m": 130}])
def test_rows_that_would_share_sets_of_a_cache_are_copied(
    late: dict[str, int], target: str
) -> None:
    """Rows of A are 4 KB apart, and its blocks are of some rows and some steps."""
    sizes = {"m": 101, "k": 1000 if "k" in late else 1024, "n": 300}
    program = with_weights(single.program_of(matmul, sizes, most=late), {"b"})

    check(program, matmul, TARGETS[target], parameters={axis: sizes[axis] for axis in late})


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("late", [{}, {"m": 710}, {"k": 1024}, {"k": 1024, "m": 710}])
def test_rows_that_do_not_lie_along_k_are_turned_block_by_block(
    late: dict[str, int], target: str
) -> None:
    """An image with its channels first; what is turned of it at a time is less than a second cache
    of 512 KB, and all of it is more."""
    sizes = {"m": 700, "k": 1000, "n": 150}
    program = single.program_of(matmul, sizes, most=late, order={"a": "km"})
    program, room = with_weights(program, {"b"}), 512 << 10

    check(program, matmul, TARGETS[target], parameters={axis: sizes[axis] for axis in late})
    with processor(replace(TARGETS[target], second=room)):
        plan = compile_program(program, single.of(matmul), cache=False).plan
    assert plan.scratch < room < 700 * 1000 * 4


@settings(max_examples=40, deadline=None)
@given(data=some.data())
def test_any_rows_are_copied(data: some.DataObject) -> None:
    """As if whatever rows lie apart shared sets of a cache."""
    meaning = data.draw(some.sampled_from((matmul, followed, experts, joined)))
    sizes = {axis: data.draw(LENGTHS, axis) for axis in meaning.axes}
    late = data.draw(some.sets(some.sampled_from(meaning.axes), max_size=2))
    most = {axis: sizes[axis] + data.draw(some.integers(0, 40)) for axis in sorted(late)}
    program = single.program_of(meaning, sizes, most=most)
    target = TARGETS[data.draw(some.sampled_from(sorted(TARGETS)))]
    parameters = {axis: sizes[axis] for axis in most}
    with patch.multiple(panels, CROWD=4, OFTEN=1):
        check(with_weights(program, {"b"}), meaning, target, parameters=parameters, cache=False)


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("rows", [4, 5, 8, 9, 16, 17])
def test_some_rows_meet_long_ones_of_a_table(rows: int, target: str) -> None:
    """Both sides contiguous along k, as logits by the table of embeddings are."""
    sizes = {"m": rows, "k": 277, "n": 41}
    program = single.program_of(matmul, sizes, order={"b": "nk"}, types={"b": "bf16"})

    check(program, matmul, TARGETS[target])


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
@pytest.mark.parametrize(("rows", "k", "n"), [(1, 64, 12), (1, 150, 7), (2, 64, 5), (3, 37, 3)])
def test_sums_of_columns_are_folded_together(
    rows: int, k: int, n: int, dtype: str, target: str
) -> None:
    """As scores of a query with keys are: whole numbers of columns at once, and some left."""
    sizes, types = {"m": rows, "k": k, "n": n}, dict.fromkeys("ab", dtype)
    results = ["i32" if dtype == "i8" else "f32"]
    program = single.program_of(matmul, sizes, order={"b": "nk"}, types=types, results=results)

    check(program, matmul, TARGETS[target])
    module = emit(program, single.of(matmul), TARGETS[target], 1).module
    assert "@dots_" in module.text


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows_go_through_panels_of_a_weight_side_by_side(rows: int, target: str) -> None:
    """Thirteen panels and a part of one; what follows the sums sees the columns of all of them."""
    program = single.program_of(followed, {"m": rows, "k": 277, "n": 215})

    check(with_weights(program, {"b"}), followed, TARGETS[target])


@instruction(unit="matrix")
def chained(q: "s d", k: "t d", v: "t e"):
    return L.dot(L.dot(q, k, "d"), v, "t")


@pytest.mark.parametrize("length", [1, 7, 90])
def test_with_few_registers_one_kind_of_tile_takes_short_panels_and_long_ones(length: int) -> None:
    """Lengths are known late, so there is a tile for each of four numbers of rows, no more."""
    sizes = {"s": length, "d": 40, "t": 304, "e": 64}
    program = with_weights(single.program_of(chained, sizes, most={"s": 100}), {"v"})

    module = emit(program, {"chained": chained}, TARGETS["avx2"], 1).module
    tiles = [name for name in module.names if name.startswith("tile_")]
    assert sorted(re.findall(r"_(\d)x2_", " ".join(tiles))) == ["1", "2", "4", "6"]
    check(program, chained, TARGETS["avx2"], parameters={"s": length})


@settings(max_examples=60, deadline=None)
@given(data=some.data())
def test_any_convolution(data: some.DataObject) -> None:
    steps = data.draw(some.tuples(some.integers(1, 3), some.integers(1, 3)))
    outside = data.draw(some.sampled_from((None, 0.0, 1.5)))
    shift = 0 if outside is None else data.draw(some.integers(0, 2))

    def conv(x: "h w c", k: "r u c o"):
        index = {"h": f"{steps[0]}*p + r - {shift}", "w": f"{steps[1]}*q + u - {shift}"}
        return L.dot(L.view(x, index), k, "r u c")

    meaning = instruction(unit="matrix", name="conv")(conv)
    most = {"p": 9, "q": 20, "r": 3, "u": 4, "c": 40, "o": 80}
    sizes = {axis: data.draw(some.integers(1, size), axis) for axis, size in most.items()}
    reach = [s * (sizes[a] - 1) + sizes[b] for s, a, b in zip(steps, "pq", "ru", strict=True)]
    assume(min(reach) > shift + 1)
    order = {"x": data.draw(some.sampled_from(("hwc", "chw"))),
             "k": data.draw(some.sampled_from(("ruco", "ocru"))),
             "out0": data.draw(some.sampled_from(("pqo", "opq")))}  # fmt: skip
    fill = None if outside is None else {"x": outside}
    loops = {"p": 2} if data.draw(some.booleans()) else {}
    program = single.program_of(meaning, sizes, loops, order=order, fill=fill)
    weights: set[str] = {"k"} if data.draw(some.booleans()) else set()
    target = TARGETS[data.draw(some.sampled_from(sorted(TARGETS)))]
    backend = data.draw(some.sampled_from(("vector", "vector", "scalar", "parallel")))

    check(with_weights(program, weights), meaning, target, backend)


POOLS = {
    "max": lambda x: L.max(x, "r u"),
    "mean": lambda x: L.mean(x, "r u"),
    "least of what is scaled": lambda x: L.min(2.0 * x, "r u"),
}
PRODUCTS = {
    "channel by channel": lambda x, k: L.dot(x, k, "r u"),
    "and what follows": lambda x, k: L.maximum(L.dot(x, k, "r u") + 0.5, 0.0),
}
"""What becomes of windows of each channel."""


@settings(max_examples=60, deadline=None)
@given(data=some.data())
def test_any_fold_of_windows(data: some.DataObject) -> None:
    """Over a border, every other line, with rows of less than a vector and of several."""
    steps = data.draw(some.tuples(some.integers(1, 3), some.integers(1, 3)))
    outside = data.draw(some.sampled_from((None, 0.0, -9.0)))
    shift = 0 if outside is None else data.draw(some.integers(0, 2))
    fold = data.draw(some.sampled_from(sorted({**POOLS, **PRODUCTS})))
    index = {"h": f"{steps[0]}*p + r - {shift}", "w": f"{steps[1]}*q + u - {shift}"}

    def pooled(x: "h w c"):
        return POOLS[fold](L.view(x, index))

    def product(x: "h w c", k: "r u c"):
        return PRODUCTS[fold](L.view(x, index), k)

    meaning = instruction(unit="vector")(pooled if fold in POOLS else product)
    most = {"p": 9, "q": 40, "r": 5, "u": 5, "c": 20}
    sizes = {axis: data.draw(some.integers(1, size), axis) for axis, size in most.items()}
    reach = [s * (sizes[a] - 1) + sizes[b] for s, a, b in zip(steps, "pq", "ru", strict=True)]
    assume(min(reach) > shift + 1)
    order = {"x": data.draw(some.sampled_from(("hwc", "chw"))),
             "k": data.draw(some.sampled_from(("ruc", "cru"))),
             "out0": data.draw(some.sampled_from(("pqc", "cpq")))}  # fmt: skip
    if fold in POOLS:
        del order["k"]
    fill = None if outside is None else {"x": outside}
    loops = {"p": 2} if data.draw(some.booleans()) else {}
    program = single.program_of(meaning, sizes, loops, order=order, fill=fill)
    target = TARGETS[data.draw(some.sampled_from(sorted(TARGETS)))]
    backend = data.draw(some.sampled_from(("vector", "vector", "scalar", "parallel")))

    check(program, meaning, target, backend)


def test_windows_of_channels_are_folded_in_registers() -> None:
    """A convolution channel by channel has no register tile, and its border is copied once."""

    @instruction(unit="vector")
    def meaning(x: "c h w", k: "c r u"):
        return L.dot(L.view(x, {"h": "p + r - 1", "w": "q + u - 1"}), k, "r u")

    sizes = {"c": 5, "p": 9, "q": 40, "r": 3, "u": 3}
    program = single.program_of(meaning, sizes, fill={"x": 0.0})

    module = emit(program, single.of(meaning), TARGETS["avx2"], 1).module
    assert not module.names
    assert module.text.count("@llvm.fmuladd.v8f32(") >= 9 * 3


@pytest.mark.parametrize(("order", "copied"), [("hwc", False), ("chw", True)])
def test_windows_beside_which_vectors_lie_are_not_copied(order: str, copied: bool) -> None:
    """With channels contiguous a vector of them is inside or outside of an image as a whole."""

    @instruction(unit="vector")
    def pooled(x: "h w c"):
        return L.max(L.view(x, {"h": "2*p + r - 1", "w": "2*q + u - 1"}), "r u")

    @instruction(unit="vector")
    def product(x: "h w c", k: "r u c"):
        return L.dot(L.view(x, {"h": "2*p + r - 1", "w": "2*q + u - 1"}), k, "r u")

    sizes = {"c": 16, "p": 9, "q": 16, "r": 3, "u": 3}
    for meaning in (pooled, product):
        places = {"x": order, "out0": "pqc" if order == "hwc" else "cpq"}
        program = single.program_of(meaning, sizes, order=places, fill={"x": 0.0})
        plan = emit(program, single.of(meaning), TARGETS["avx2"], 1).plan
        assert (plan.scratch > 0) == copied, meaning.name


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("side", "stride", "columns"), [(5, 1, 16), (5, 2, 9), (7, 1, 17)])
def test_windows_that_overlap_are_folded_together(
    side: int, stride: int, columns: int, target: str
) -> None:
    """The sums of some positions, and those that are left, are in registers at a time, over a copy
    of the image with its border."""

    def convolved(x: "h w c", k: "r u c"):
        index = {"h": f"p + r - {side // 2}", "w": f"{stride}*q + u - {side // 2}"}
        return L.dot(L.view(x, index), k, "r u")

    meaning = instruction(unit="vector", name="convolved")(convolved)
    sizes = {"c": 40, "p": 6, "q": columns, "r": side, "u": side}
    program = single.program_of(meaning, sizes, order={"k": "ruc"}, fill={"x": 0.0})
    check(program, meaning, TARGETS[target], "vector")

    emission = emit(program, single.of(meaning), TARGETS[target], 1)
    added = emission.module.text.count("@llvm.fmuladd.v")
    together = -(-columns // -(-columns // 8))
    assert added >= together * side * side
    assert emission.plan.scratch > 0


def test_taps_are_turned_where_channels_of_the_image_are_contiguous(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is of the taps alone, not of the image."""
    copied: list[Node] = []

    def padded(_: Kernel, view: Node, *__: object) -> Node:
        copied.append(view)
        return view

    monkeypatch.setattr(kernel, "padded", padded)

    @instruction(unit="vector")
    def meaning(x: "h w c", k: "c r u"):
        product = L.dot(L.view(x, {"h": "p + r - 1", "w": "q + u - 1"}), k, "r u")
        return product * L.sum(product, "c")

    sizes = {"c": 96, "p": 9, "q": 16, "r": 3, "u": 3}
    order = {"x": "hwc", "k": "cru", "out0": "pqc"}
    program = single.program_of(meaning, sizes, order=order, fill={"x": 0.0})
    check(program, meaning, TARGETS["avx2"], "vector")

    assert not copied


def tiles_of(program: Program, meaning: Instruction, target: Target) -> set[Tile]:
    """The register tiles that a program is made of."""
    found: set[Tile] = set()

    def spy(module: Module, tile: Tile) -> str:
        found.add(tile)
        return tile_kernel(module, tile)

    with processor(target), patch.object(panels, "tile_kernel", spy):
        compile_program(program, single.of(meaning), cache=False)
    return found


def convolution(stride: int, shift: int) -> Instruction:
    """With a bias and a residual."""

    def conv(x: "h w c", k: "r u c o", b: "o", y: "p q o"):
        index = {"h": f"{stride}*p + r - {shift}", "w": f"{stride}*q + u - {shift}"}
        return L.maximum(L.dot(L.view(x, index), k, "r u c") + b, 0.0) + y

    return instruction(unit="matrix", name="conv")(conv)


@pytest.mark.parametrize("way", ["scalar", "parallel", *TARGETS])
@pytest.mark.parametrize(("stride", "side"), [(1, 3), (2, 3), (2, 1)])
def test_tiles_have_rows_of_several_lines_of_an_image(stride: int, side: int, way: str) -> None:
    """Lines of seven, of which the tiles would leave registers empty. Where a window is one
    position, rows of 256 channels share sets of a cache and are copied for many panels."""
    meaning, fill = convolution(stride, side // 2), {"x": 0.0} if side > 1 else None
    channels = {"c": 24, "o": 150} if fill else {"c": 256, "o": 550}
    sizes = {"p": 5, "q": 7, "r": side, "u": side, **channels}
    program = with_weights(single.program_of(meaning, sizes, fill=fill), {"k"})
    target = TARGETS.get(way, Target.host())

    check(program, meaning, target, way if way in single.BACKENDS else "vector")
    tiles = tiles_of(program, meaning, target)
    assert {tile.table for tile in tiles} == {fill is not None}
    assert min(tile.rows for tile in tiles) >= 5


def test_windows_over_each_other_fill_a_cache_once() -> None:
    """Each pixel is in nine windows: a block of rows is as large as what it reads. All of an image
    of 12 x 12 x 32 and its border (25 KB) is one block, where its windows are 166 KB."""
    meaning = convolution(1, 1)
    sizes = {"p": 12, "q": 12, "r": 3, "u": 3, "c": 32, "o": 64}
    program = with_weights(single.program_of(meaning, sizes, fill={"x": 0.0}), {"k"})
    blocks: list[object] = []

    def spy(self: Panels, kept: Kept, block: tuple[str, int] | None) -> None:
        blocks.append(block)
        once(self, kept, block)

    once = Panels.blocks
    with (
        processor(replace(Target.named("avx2"), second=72 << 10)),
        patch.object(Panels, "blocks", spy),
    ):
        compile_program(program, single.of(meaning), cache=False)
    assert blocks == [None]


def copied(program: Program, meaning: Instruction) -> list[list[int]]:
    """The most positions of the axes of each loop nest that copies what windows reach."""
    found: list[list[int]] = []

    def spy(self: Rows, root: L.Node, place: Place, axes: Sequence[str], env: Env) -> None:
        if isinstance(root, L.Input) and root.name.startswith("#source"):
            found.append([self.frame.bounds[axis] for axis in axes])
        fill(self, root, place, axes, env)

    fill = Rows.fill
    with patch.object(Rows, "fill", spy):
        compile_program(program, single.of(meaning), cache=False)
    return found


def test_a_line_of_few_channels_is_copied_as_one_run() -> None:
    """Its positions, at most 21, of 3 channels, which have no border, are 63 numbers."""
    sizes = {"p": 19, "q": 19, "r": 3, "u": 3, "c": 3, "o": 16}
    meaning = convolution(1, 1)
    program = with_weights(single.program_of(meaning, sizes, fill={"x": 0.0}), {"k"})

    assert copied(program, meaning) == [[21, 63]]


def test_channels_are_contiguous_in_a_copy_of_a_few_lines() -> None:
    """Of one line of the result, lines of the image are an axis of k as channels are."""

    def line(x: "r w c", k: "r u c o"):
        return L.dot(L.view(x, {"w": "q + u - 1"}), k, "c u r")

    meaning = instruction(unit="matrix", name="line")(line)
    sizes = {"r": 3, "q": 14, "u": 3, "c": 40, "o": 48}
    program = with_weights(single.program_of(meaning, sizes, fill={"x": 0.0}), {"k"})

    check(program, meaning, Target.host())
    assert copied(program, meaning) == [[16, 3, 40]]


@pytest.mark.parametrize("channels", [12, 48])
@pytest.mark.parametrize("backend", single.BACKENDS)
def test_of_an_image_with_channels_first_only_lines_that_are_read_are_copied(
    backend: str, channels: int
) -> None:
    """Every third of 13, and of a line all 19 positions, which are turned together."""

    def third(x: "h w c", k: "c o"):
        return L.dot(L.view(x, {"h": "3*p", "w": "3*q"}), k, "c")

    meaning = instruction(unit="matrix", name="third")(third)
    sizes = {"p": 5, "q": 7, "c": channels, "o": 40}
    program = with_weights(single.program_of(meaning, sizes, order={"x": "chw"}), {"k"})

    check(program, meaning, Target.host(), backend)
    if channels % Target.host().lanes:
        assert copied(program, meaning) == [[5, 19, channels]]


@instruction(unit="matrix")
def causal(x: "t c", k: "j c o"):
    return L.dot(L.view(x, {"t": "2*t - j"}, fill=0.5), k, "j c")


@pytest.mark.parametrize("order", [{}, {"x": "ct"}], ids=str)
@pytest.mark.parametrize("backend", single.BACKENDS)
def test_windows_over_a_border_of_their_own(backend: str, order: dict[str, str]) -> None:
    program = single.program_of(causal, {"t": 19, "c": 16, "j": 4, "o": 33}, order=order)

    check(with_weights(program, {"k"}), causal, Target.host(), backend)


A, B = L.Input("a", ("k", "c"), "f32"), L.Input("b", ("k", "e", "c"), "f32")
INDEX = L.Input("i", ("d",), "i32") * 19  # up to 133
INDEXED = {
    "view": L.view(-A, {"c": "d"}, fill=0.5),
    "backwards": L.view(-A, {"c": "138 - d"}, fill=0),
    "gather": L.gather(-A, INDEX, "c"),
}
BESIDE = [
    *itertools.product(INDEXED, ("panels", "one axis")),
    ("view", "late"),
    ("backwards", "late"),
]


@pytest.mark.parametrize("way", ["scalar", "parallel", *TARGETS])
@pytest.mark.parametrize(("name", "how"), BESIDE)
def test_an_index_ends_where_its_range_does(name: str, how: str, way: str) -> None:
    """Not where a panel does, nor behind all positions of two axes that are walked as one."""
    shown = INDEXED[name]
    output = L.dot(B if how == "one axis" else A + shown, shown, "k")
    leaves = tuple(L.inputs((output,)))
    meaning = Instruction(name="op", unit="matrix", operands=leaves, outputs=(output,))
    sizes = {"k": 3, "c": 129, "d": 140} | ({"e": 5} if B in leaves else {})
    most = {"c": 150} if how == "late" else {}
    program = single.program_of(meaning, sizes, most=most)
    backend = way if way in single.BACKENDS else "vector"

    check(program, meaning, TARGETS.get(way, Target.host()), backend, {a: sizes[a] for a in most})


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("steps", [7, 70, 1500])
def test_tiles_store_what_follows_a_sum_behind_its_last_piece(steps: int, target: str) -> None:
    """With the result in one place for sums and for what follows; no other memory is needed."""
    program = with_weights(single.program_of(followed, {"m": 29, "k": steps, "n": 75}), {"b"})
    check(program, followed, TARGETS[target])
    with processor(TARGETS[target]):
        code = compile_program(program, {"followed": followed}, "vector")
    assert code.plan.scratch < 29 * 75 * 4


# ---------------------------------------------------------------- long sums


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("backend", ["vector", "scalar"])
@pytest.mark.parametrize("weights", [{"b"}, set()], ids=["weight", "packed"])
@pytest.mark.parametrize("order", ["k n", "n k"])
@pytest.mark.parametrize("m", [1, 3, 13])
def test_a_long_sum_is_added_up_in_pieces(
    target: str, backend: str, weights: set[str], order: str, m: int
) -> None:
    """All 4,096 steps in one chain are off by 1.4e-6, at the root mean square."""
    sizes = {"m": m, "k": 4096, "n": 80}
    program = single.program_of(matmul, sizes, order={"b": order.split()})
    arrays = single.arrays_for(program)
    with processor(TARGETS[target]):
        made = compile_program(with_weights(program, weights), {"matmul": matmul}, backend)
    found = made.run(arrays).outputs["out0"]
    a, b = arrays["a"].astype(float), arrays["b"].astype(float)
    wanted = a @ (b if order == "k n" else b.T)

    assert np.linalg.norm(found - wanted) < 7e-7 * np.linalg.norm(wanted)


@pytest.mark.parametrize("weights", [{"b"}, set()], ids=["weight", "packed"])
def test_a_sum_over_several_axes_is_added_up_in_pieces(weights: set[str]) -> None:
    sizes = {"s": 13, "h": 16, "w": 200, "d": 80}
    program = single.program_of(joined, sizes, order={"a": ("w", "s", "h")})
    arrays = single.arrays_for(program)
    made = compile_program(with_weights(program, weights), {"joined": joined})
    found = made.run(arrays).outputs["out0"]
    wanted = np.einsum("wsh,hwd->sd", *(arrays[name].astype(float) for name in "ab"))

    assert np.linalg.norm(found - wanted) < 7e-7 * np.linalg.norm(wanted)


# ---------------------------------------------------------------- weights of a session


def test_a_weight_is_kept_in_panels_only() -> None:
    program = with_weights(single.program_of(matmul, {"m": 7, "k": 65, "n": 130}), {"b"})
    arrays = single.arrays_for(program)
    made = compile_program(program, {"matmul": matmul})
    kept = made.session(arrays)

    assert "b" not in kept.tensors
    first = kept.run({}).outputs["out0"].copy()
    np.testing.assert_allclose(first, arrays["a"] @ arrays["b"], rtol=1e-4, atol=1e-4)


def test_a_weight_given_later_is_packed_again() -> None:
    program = with_weights(single.program_of(matmul, {"m": 7, "k": 65, "n": 130}), {"b"})
    arrays = single.arrays_for(program)
    kept = compile_program(program, {"matmul": matmul}).session(arrays)
    kept.run({})
    other = arrays["b"] * 2 + 1

    found = kept.run({"b": other}).outputs["out0"]

    np.testing.assert_allclose(found, arrays["a"] @ other, rtol=1e-4, atol=1e-4)


def test_rows_of_different_numbers_share_one_layout() -> None:
    """A piece of columns, a piece of k and the whole use the same panels."""
    step, _ = step_of(matmul)
    library = {"matmul": matmul}
    whole = single.program_of(step, {"m": 33, "k": 96, "n": 256}, {"k": 32, "n": 128})
    program = with_weights(whole, {"b"})
    made = compile_program(program, library, "parallel", threads=2, worth=1)

    assert len(made.plan.packed) == 1
    arrays = single.arrays_for(program)
    found = made.run(arrays).outputs["out0"]
    np.testing.assert_allclose(found, arrays["a"] @ arrays["b"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("wide", "columns"), [(32, 32), (48, 48), (64, 64), (80, 16), (20, None)])
def test_panels_are_as_narrow_as_the_heads_of_a_weight(wide: int, columns: int | None) -> None:
    """One head at a time: no panel holds columns of two, or there are no panels."""
    sizes = {"s": 24, "d": 40, "h": 3, "w": wide}
    program = with_weights(single.program_of(largest, sizes, {"h": 1}), {"b"})
    with processor(Target.named("avx512")):
        made = compile_program(program, {"largest": largest})

    assert [layout.width for _, layout in made.plan.packed] == ([columns] if columns else [])
    arrays = single.arrays_for(program)
    if Target.host().lanes == 16:
        found = made.run(arrays).outputs["out0"]
        wanted = np.einsum("sd,dhw->shw", arrays["a"], arrays["b"]).max(2)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_weights_in_panels_are_one_run_of_memory() -> None:
    """What lies behind a weight is what is needed next."""
    program = with_weights(single.program_of(matmul, {"m": 7, "k": 65, "n": 130}), {"a", "b"})
    made = compile_program(program, {"matmul": matmul}).session(single.arrays_for(program))
    places = [memory.ctypes.data for memory in made.panels.values()]
    ends = [
        place + -(-memory.nbytes // 64) * 64
        for place, memory in zip(places, made.panels.values(), strict=True)
    ]

    assert places[1:] == ends[:-1]


# ---------------------------------------------------------------- weights in fewer bits


def rounded(form: str, b: Any) -> Any:
    """A matrix [k, n] as it is kept."""
    k, n = b.shape
    if form in ("bf16", "f16"):
        return b.astype(DTYPES[form].numpy).astype(np.float32)
    name, _, group = form.partition("/")
    fits = group and k % int(group) == 0
    groups = b.reshape(-1, int(group) if fits else k, n)
    if name == "int8" or not fits:
        factors, least, most = np.abs(groups).max(1, keepdims=True) / np.float32(127), -127, 127
    else:
        places = np.abs(groups).argmax(1)[:, None]
        factors, least, most = np.take_along_axis(groups, places, 1) / np.float32(-8), -8, 7
    factors = factors.astype(np.float16).astype(np.float32) if fits else factors
    steps = np.clip(np.rint(groups / factors), least, most)
    return (steps * factors).reshape(k, n)


def rounded_rows(a: Any) -> Any:
    """A matrix [m, k] with each row in 255 steps from its least number, or 0, to its largest."""
    least, most = np.minimum(a.min(1), 0), np.maximum(a.max(1), 0)
    step = ((most - least) / 255)[:, None]
    zero = np.rint(-least[:, None] / step)
    return step * np.clip(np.rint(a / step), -zero, 255 - zero)


@pytest.mark.parametrize("target", ["", "avx2"])
@pytest.mark.parametrize("form", ["bf16", "f16", "int8", "int8/32", "int4/32", "int4/128"])
@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 200), (2, 96, 17), (7, 2048, 64), (70, 33, 65)])
def test_weights_in_fewer_bits(form: str, target: str, m: int, k: int, n: int) -> None:
    program = with_weights(single.program_of(matmul, {"m": m, "k": k, "n": n}), {"b"})
    arrays = single.arrays_for(program)
    made = compile_program(program, {"matmul": matmul}, weights=form, target=target)
    kept = made.session(arrays)
    expected = rounded(form, arrays["b"])
    size = np.sqrt(np.mean(arrays["b"] ** 2))

    found = kept.run({}).outputs["out0"]

    single.near(found, arrays["a"] @ expected, 1e-4 if "/" in form else 1e-5, form)
    error = np.sqrt(np.mean((arrays["b"] - expected) ** 2)) / size
    assert kept.errors["b"] == pytest.approx(error, rel=1e-3)
    assert "b" not in kept.tensors


@pytest.mark.parametrize("form", ["int8", "int4/32"])
@pytest.mark.parametrize("backend", ["scalar", "parallel"])
def test_pieces_of_weights_in_fewer_bits(form: str, backend: str) -> None:
    """Pieces of k begin with groups, and columns with panels."""
    step, _ = step_of(matmul)
    whole = single.program_of(step, {"m": 5, "k": 128, "n": 256}, {"k": 64, "n": 128})
    program = with_weights(whole, {"b"})
    arrays = single.arrays_for(program)
    more = single.BACKENDS[backend]
    made = compile_program(program, {"matmul": matmul}, backend, weights=form, **more)

    found = made.run(arrays).outputs["out0"]

    tolerance = 1e-4 if "/" in form else 1e-5
    single.near(found, arrays["a"] @ rounded(form, arrays["b"]), tolerance, form)


@pytest.mark.parametrize("target", ["", *single.HERE])
@pytest.mark.parametrize("form", ["int8/32", "int4/32", "int4/128"])
def test_weights_in_groups_meet_numbers_of_two_bytes(form: str, target: str) -> None:
    """Rows are in steps of their largest number; nothing else is rounded but the result."""
    program = with_weights(single.program_of(matmul, {"m": 2, "k": 384, "n": 70}), {"b"})
    arrays = single.arrays_for(program)
    arrays["a"][0] *= 1e5
    made = compile_program(program, {"matmul": matmul}, weights=form, target=target)
    step = np.abs(arrays["a"].astype(np.float64)).max(1, keepdims=True) / (127 << 8)
    rows = step * np.rint(arrays["a"] / step)

    found = made.run(arrays).outputs["out0"]

    for mine, wanted in zip(found, rows @ rounded(form, arrays["b"]), strict=True):
        single.near(mine, wanted, 1e-6, form)


def test_a_column_of_zeros_stays_zero_in_fewer_bits() -> None:
    program = with_weights(single.program_of(matmul, {"m": 1, "k": 64, "n": 20}), {"b"})
    arrays = single.arrays_for(program)
    arrays["b"][:, 3] = 0
    for form in ("int8", "int4/32"):
        found = compile_program(program, {"matmul": matmul}, weights=form).run(arrays)
        assert found.outputs["out0"][0, 3] == 0
        assert np.isfinite(found.outputs["out0"]).all()


@pytest.mark.parametrize("form", ["f16", "int8", "int4/32"])
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_what_a_format_cannot_hold_is_refused(form: str, number: float) -> None:
    program = with_weights(single.program_of(matmul, {"m": 1, "k": 64, "n": 20}), {"b"})
    arrays = single.arrays_for(program)
    arrays["b"][5, 5] = number
    made = compile_program(program, {"matmul": matmul}, weights=form)
    if number == 1e30 and form == "int8":
        made.session(arrays)  # its factors are f32
        return
    with pytest.raises(ProgramError, match=f"weight 'b': has numbers that {form} cannot hold"):
        made.session(arrays)


def test_an_unknown_format_is_refused() -> None:
    program = with_weights(single.program_of(matmul, {"m": 1, "k": 64, "n": 20}), {"b"})
    with pytest.raises(CompileError, match=r"weights must be 'bf16', .* not 'int2'"):
        compile_program(program, {"matmul": matmul}, weights="int2")
    with pytest.raises(CompileError, match="of 32, 64, 128, 256, not 'int4/31'"):
        compile_program(program, {"matmul": matmul}, weights="int4/31")
    with pytest.raises(CompileError, match="need integer weights, not 'bf16'"):
        compile_program(program, {"matmul": matmul}, weights="bf16", activations="int8")


INTEGERS = ("int8", "int8/32", "int4/32", "int4/64")


@pytest.mark.parametrize("target", ["", *single.HERE])
@pytest.mark.parametrize("form", INTEGERS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 128, 200), (13, 64, 17), (7, 2048, 64), (9, 33, 70)])
def test_both_sides_in_integers(form: str, target: str, m: int, k: int, n: int) -> None:
    program = with_weights(single.program_of(matmul, {"m": m, "k": k, "n": n}), {"b"})
    arrays = single.arrays_for(program)
    how: Any = {"weights": form, "activations": "int8", "target": target}
    made = compile_program(program, {"matmul": matmul}, **how)

    found = made.run(arrays).outputs["out0"]

    expected = rounded_rows(arrays["a"].astype(np.float64)) @ rounded(form, arrays["b"])
    single.near(found, expected, 2e-5, form)


@pytest.mark.parametrize("form", INTEGERS)
def test_sums_of_integers_are_equal_bit_for_bit(form: str) -> None:
    """With and without the instruction that adds four products, and in registers of any width;
    without one that multiplies and adds, sums of groups are rounded twice."""
    program = with_weights(single.program_of(matmul, {"m": 11, "k": 256, "n": 150}), {"b"})
    arrays = single.arrays_for(program)
    arrays["a"] = np.maximum(arrays["a"], -0.1)
    how: Any = {"weights": form, "activations": "int8"}

    def found(**more: Any) -> Any:
        return compile_program(program, {"matmul": matmul}, **how, **more).run(arrays)

    expected = found().outputs["out0"]
    for target in single.HERE:
        if target == "sse" and "/" in form:
            continue
        np.testing.assert_array_equal(found(target=target).outputs["out0"], expected)
    if "/" not in form:
        np.testing.assert_array_equal(found(backend="scalar").outputs["out0"], expected)


def test_a_row_that_is_not_finite_is_not_a_number() -> None:
    program = with_weights(single.program_of(matmul, {"m": 5, "k": 64, "n": 20}), {"b"})
    arrays = single.arrays_for(program)
    arrays["a"][1, 3], arrays["a"][2, 9], arrays["a"][4] = np.nan, -np.inf, 0
    made = compile_program(program, {"matmul": matmul}, weights="int8", activations="int8")

    found = made.run(arrays).outputs["out0"]

    assert np.isnan(found[1:3]).all()
    assert np.isfinite(found[[0, 3]]).all()
    assert (found[4] == 0).all()


@pytest.mark.parametrize("backend", ["scalar", "parallel"])
def test_pieces_of_sums_of_integers(backend: str) -> None:
    """Pieces of k are one whole again, and pieces of columns round the rows each."""
    step, _ = step_of(matmul)
    whole = single.program_of(step, {"m": 5, "k": 128, "n": 256}, {"k": 64, "n": 128})
    program = with_weights(whole, {"b"})
    arrays = single.arrays_for(program)
    how: Any = {"weights": "int8", "activations": "int8", **single.BACKENDS[backend]}
    made = compile_program(program, {"matmul": matmul}, backend, **how)

    found = made.run(arrays).outputs["out0"]

    expected = rounded_rows(arrays["a"].astype(np.float64)) @ rounded("int8", arrays["b"])
    single.near(found, expected, 2e-5, backend)


@pytest.mark.parametrize("form", INTEGERS)
def test_a_piece_of_k_has_zero_in_the_middle(form: str) -> None:
    """The sums of whole columns are of no use where only half of them is multiplied."""
    program = with_weights(single.program_of(matmul, {"m": 5, "k": 64, "n": 40}), {"b"})
    buffers = [replace(b, shape=(128, 40)) if b.name == "b" else b for b in program.buffers]
    program = replace(program, buffers=tuple(buffers))
    arrays = single.arrays_for(program)
    arrays["a"] = np.maximum(arrays["a"], -0.1)
    how: Any = {"weights": form, "activations": "int8"}
    made = compile_program(program, {"matmul": matmul}, **how)

    found = made.run(arrays).outputs["out0"]

    a = arrays["a"].astype(np.float64)
    step = 2 * np.abs(a).max(1, keepdims=True) / 255
    rows = step * np.clip(np.rint(a / step), -128, 127)
    single.near(found, rows @ rounded(form, arrays["b"])[:64], 2e-5, form)
