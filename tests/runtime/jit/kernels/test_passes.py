"""Rows in passes, contractions in blocks, positions that masks hide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray

from infinisa import api
from infinisa.compiler.builder import Builder
from infinisa.isa import formulas
from infinisa.isa import language as L
from infinisa.isa.assembly import parse_text, to_text
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Dot, Input, Map, Node, Reduce
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import Issue, Loop, statements
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.contraction.panels import NOWHERE
from infinisa.runtime.jit.expressions.expression import Place
from infinisa.runtime.jit.expressions.masks import Horizon, horizon
from infinisa.runtime.jit.expressions.quotients import divided_later
from infinisa.runtime.jit.kernels.passes import Store, Task, needed, spent_sums
from infinisa.runtime.jit.rewriting.untiled import COLUMNS, Meanings, untiled
from tests.runtime.jit import single

M = ("m", "n")
X, R = Input("x", M), Input("r", M)
W, B = Input("w", ("n",)), Input("b", ("n",))


def made(*outputs: Node) -> Instruction:
    return Instruction(name="op", unit="vector", operands=tuple(L.inputs(outputs)), outputs=outputs)


def check(
    meaning: Instruction,
    sizes: Mapping[str, int],
    arrays: Mapping[str, NDArray[Any]] | None = None,
    **how: Any,
) -> None:
    program = single.program_of(meaning, sizes, **how)
    single.check(program, {"op": meaning}, arrays, tolerance=3e-5)


ROWS = {
    "softmax": made(formulas.softmax(X, "n")),
    "safe softmax": made(formulas.safe_softmax(X, "n")),
    "layer norm": made(formulas.layer_norm(X, W, B, "n")),
    "residual and layer norm": made(X + R, formulas.layer_norm(X + R, W, B, "n")),
    "moments": made(L.mean(X, "n"), L.mean(X * X, "n"), L.max(X, "n"), X - L.mean(X, "n")),
    "argmax and softmax": made(L.argmax(X, "n"), formulas.softmax(X, "n")),
    "column": made(formulas.softmax(X, "m")),
    "everything": made(X / L.sum(L.exp(X), M)),
}


@pytest.mark.parametrize("width", [1, 2, 16, 17, 63, 64, 65, 128, 129, 200, 250])
@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_any_width(name: str, width: int) -> None:
    """Short rows stay in registers; longer ones go by several vectors, single ones and a rest."""
    check(ROWS[name], {"m": 3, "n": width})


@pytest.mark.parametrize("name", ROWS)
def test_a_row_whose_width_is_known_when_it_runs(name: str) -> None:
    meaning = ROWS[name]
    program = single.program_of(meaning, {"m": 5, "n": 77}, {"m": 2})
    for extra in ({}, {"n": 90}):
        program = single.program_of(meaning, {"m": 5, "n": 77}, {"m": 2}, most=extra)
        single.check(program, {"op": meaning}, None, tolerance=3e-5)


def run(meaning: Instruction, sizes: Mapping[str, int], arrays: Mapping[str, Any]) -> Any:
    program = single.program_of(meaning, sizes)
    return compile_program(program, {"op": meaning}, "vector").run(arrays).outputs["out0"]


@pytest.mark.parametrize(
    "divisor", [1.0, 3.0, 1e-40, 1e-45, 2e-38, 3e38, 1e30, 0.0, np.inf, -np.inf, np.nan, -7e-39]
)
def test_division_of_a_row_by_one_number(divisor: float) -> None:
    """It is a multiplication that neither overflows nor loses digits where a division does not."""
    y = Input("y", ("m",))
    x = np.array([[1, -1, 0, 3e38, -3e38, 1e-38, 1e-45, np.inf, np.nan, 1e30, 7, 1e-30] * 5],
                 np.float32)  # fmt: skip
    with np.errstate(all="ignore"):
        wanted = x.astype(np.float64) / np.float32(divisor)
        wanted = wanted.astype(np.float32)

    found = run(made(X / y), {"m": 1, "n": 60}, {"x": x, "y": np.array([divisor], np.float32)})

    np.testing.assert_allclose(found, wanted, rtol=2e-7, atol=2e-45)


def test_a_row_of_nan_stays_one() -> None:
    x = np.ones((3, 70), np.float32)
    x[1, 69], x[2, :] = np.nan, -np.inf

    found = run(made(formulas.softmax(X, "n")), {"m": 3, "n": 70}, {"x": x})

    np.testing.assert_allclose(found[0], np.full(70, 1 / 70), rtol=1e-6)
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("processor", ["avx2", "sse"])
@pytest.mark.parametrize("name", [*ROWS, "GELU", "attention"])
def test_rows_on_a_processor_with_less(name: str, processor: str) -> None:
    """Fewer and narrower registers, no tables in them."""
    more = {"GELU": made(formulas.gelu_erf(X) + formulas.gelu_tanh(R)), "attention": attention()}
    meaning = {**ROWS, **more}[name]
    sizes = {"m": 3, "n": 77, "h": 2, "s": 100, "t": 100, "d": 20, "e": 17}
    axes = {axis for node in L.walk(meaning.outputs) for axis in node.axes}
    axes |= {axis for leaf in meaning.operands for axis in leaf.axes}
    program = single.program_of(meaning, {a: n for a, n in sizes.items() if a in axes})
    arrays = single.arrays_for(program)
    wanted = interpret(program, {"op": meaning}, arrays).outputs

    found = compile_program(program, {"op": meaning}, target=processor).run(arrays).outputs

    for output, array in wanted.items():
        single.near(found[output], array, 3e-5, f"{processor} {output}")


def small_cache() -> Machine:
    """A machine that takes little at a time."""
    tiny = next(load_machine(file) for file in builtin_machine_files() if file.stem == "tiny")
    chip, dram = tiny.memories
    return replace(tiny, memories=(replace(chip, managed="hardware", size=64 << 10), dram))


def tiled_attention(rows: int, keys: int, heads: int, width: int) -> api.Compiled:
    """A causal attention for a machine that takes little at a time."""
    b = Builder("attention")
    q, k, v = (
        b.input(name, f"h {axis} d", (heads, rows if axis == "s" else keys, width))
        for name, axis in zip("qkv", "stt", strict=True)
    )
    scores = formulas.causal(formulas.attention_scores(q, k, "d", 0.25), "s", "t")
    b.graph("main").output("y", formulas.attend(scores, v, "t"))
    return api.load(b.model()).compile(small_cache())


def test_an_attention_in_tiles_is_one_issue() -> None:
    """Heads, rows and keys, of which a machine takes few at a time, are blocks of native code."""
    compiled = tiled_attention(rows=900, keys=900, heads=3, width=16)
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal((3, 900, 16), np.float32) for name in "qkv"}

    (section,) = untiled(compiled.program, Meanings(compiled.library)).sections
    given = [issue for stage in compiled.program.sections[0].stages
             for issue in statements(stage.body) if isinstance(issue, Issue)]  # fmt: skip
    found = compile_program(compiled.program, compiled.library).run(arrays).outputs["main/y"]

    assert [issue.opcode for issue in given] == ["causal_flash_step", "flash_finish"]
    assert [type(item) for stage in section.stages for item in stage.body] == [Issue]
    wanted = interpret(compiled.program, compiled.library, arrays).outputs["main/y"]
    single.near(found, wanted, 3e-5, "y")


# Four heads at a time, the steps of each and then the ends of each.
HEADS = {
    "limit h 1": "limit h 4",
    "f32 [1, 1] ": "f32 [4, 1] ",
    "f32 [1, 1, 16]": "f32 [4, 1, 16]",
    "pitch 64": "pitch 256",
    "place 1 address 128": "place 1 address 512",
    "place 2 address 256": "place 2 address 1024",
    "for h1 in h step 1:": "for h1 in h step 4:",
    "fresh t1": "fresh t1\n            for h3 in h1 step 1:",
    "for d1 in d step 16:": "    for d1 in d step 16:",
    "    main/y[s-s, h1-h,": "        main/y[s-s, h3-h,",
    "(main/0/causal_attention.total[h1-h1,": "(main/0/causal_attention.total[h3-h1,",
    "weighted[h1-h1, s-s, d1-d]) on vector over h=h1":
    "weighted[h3-h1, s-s, d1-d]) on vector over h=h3",
}  # fmt: skip


def test_an_attention_that_ends_head_by_head_is_one_issue() -> None:
    compiled = tiled_attention(rows=1, keys=300, heads=6, width=16)
    text = to_text(compiled.program)
    for old, new in HEADS.items():
        assert old in text
        text = text.replace(old, new)
    program = parse_text(text, "heads")
    arrays = single.arrays_for(program)

    (section,) = untiled(program, Meanings(compiled.library)).sections
    found = compile_program(program, compiled.library).run(arrays).outputs["main/y"]

    assert [type(item) for stage in section.stages for item in stage.body] == [Issue]
    wanted = interpret(program, compiled.library, arrays).outputs["main/y"]
    single.near(found, wanted, 3e-5, "y")


@pytest.mark.parametrize("fold", ["max", "sum", "mean"])
def test_a_pooling_is_one_issue(fold: str) -> None:
    """An issue takes one window of a row, of native code all windows of an image are one."""
    b = Builder("pooling")
    b.axis("p", 20)
    b.axis("q", 33)
    b.axis("r", 3)
    b.axis("u", 2)
    x = b.input("x", "c h w", (5, 41, 67))
    windows = L.view(x, {"h": "2*p + r - 1", "w": "2*q + u - 1"}, fill=-9.0)
    b.graph("main").output("y", getattr(L, fold)(windows, "r u"))
    compiled = api.load(b.model()).compile(small_cache())
    arrays = single.arrays_for(compiled.program)

    (section,) = untiled(compiled.program, Meanings(compiled.library)).sections

    assert [type(item) for stage in section.stages for item in stage.body] == [Issue]
    single.check(compiled.program, compiled.library, arrays)


@pytest.mark.parametrize("lines", ["p - 1", "2*p - 1"])
def test_windows_along_lines_over_a_border_across_them(lines: str) -> None:
    """A border that no window moves over: whole lines of results read none of the image."""
    b = Builder("lines")
    b.axis("p", 7)
    b.axis("q", 33)
    b.axis("u", 2)
    x, k = b.input("x", "c h w", (5, 5, 34)), b.input("k", "c u", (5, 2))
    windows = L.view(x, {"h": lines, "w": "q + u - 1"}, fill=0.0)
    b.graph("main").output("y", L.dot(windows, k, "u") + 1.0)
    compiled = api.load(b.model()).compile(small_cache())

    single.check(compiled.program, compiled.library)


def test_tiles_of_folded_columns_are_wide() -> None:
    """Four columns are half a vector, and a quarter of each line that is fetched."""
    program = single.program_of(ROWS["column"], {"m": 30, "n": 150}, {"n": 4})
    (section,) = untiled(program, Meanings({"op": ROWS["column"]})).sections
    (loop,) = section.stages[0].body

    assert isinstance(loop, Loop)
    assert loop.step == COLUMNS
    single.check(program, {"op": ROWS["column"]}, tolerance=3e-5)


# Instruction, tiles, orders of dimensions, whether the tiles are one issue.
TILES: Mapping[str, tuple[Instruction, Mapping[str, int], Mapping[str, str], bool]] = {
    "rows of a softmax": (ROWS["softmax"], {"m": 8}, {}, True),
    "rows of two results": (ROWS["residual and layer norm"], {"m": 8}, {}, True),
    "rows of one number each": (made(X * Input("s", ("m",))), {"m": 8}, {}, True),
    "numbers": (made(L.exp(X)), {"m": 8, "n": 16}, {}, True),
    "columns of a fold": (ROWS["column"], {"n": 16}, {}, False),
    "sums of columns": (made(L.sum(X, "m")), {"n": 16}, {}, True),
    "a transposition": (made(L.exp(X)), {"m": 8, "n": 16}, {"out0": "n m"}, False),
    "a recurrence": (
        made(*L.scan(lambda s, h: ((s + h,), (s + h,)), {"s": B}, {"h": X}, "m")[1]),
        {"n": 16}, {}, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TILES)
def test_tiles_of_rows_are_one_issue(name: str) -> None:
    meaning, steps, order, one = TILES[name]
    orders = {operand: axes.split() for operand, axes in order.items()}
    program = single.program_of(meaning, {"m": 30, "n": 70}, steps, order=orders)
    (section,) = untiled(program, Meanings({"op": meaning})).sections

    assert all(isinstance(item, Issue) for item in section.stages[0].body) == one
    single.check(program, {"op": meaning}, tolerance=3e-5)


Y, Z = Input("y", ("h", "m", "n")), Input("z", ("m", "h", "k", "n"))
LINES: Mapping[str, Instruction] = {
    "sum": made(L.sum(X, "m")),
    "of what is computed": made(L.max(L.exp(X) * W, "m")),
    "and what follows": made(L.mean(X, "m") * 0.5 + B),
    "of each matrix": made(L.min(Y, "m")),
    "of all matrices": made(L.sum(Y, "h m")),
    "around what stays": made(L.sum(Z, "m k")),
    "transposed": made(L.sum(Y, "m")),
    "numbers": made(L.max(Input("i", M, "i32"), "m")),
    "half as wide": made(L.sum(Input("v", M, "bf16"), "m")),
}


@pytest.mark.parametrize("width", [1, 7, 40, 141])
@pytest.mark.parametrize("name", LINES)
def test_lines_of_memory_are_folded_into_one(name: str, width: int) -> None:
    """More of them than without loops, of which some are left behind the last four."""
    order = {"out0": ("n", "h")} if name == "transposed" else {}
    check(LINES[name], {"m": 55, "n": width, "h": 3, "k": 2}, order=order)


def test_a_line_that_has_a_number_that_is_none_has_one_afterwards() -> None:
    x = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    x[5, 7], x[59, 9], x[0, 39] = np.nan, np.nan, np.inf

    check(made(L.max(X, "m"), L.sum(X, "m")), {"m": 60, "n": 40}, {"x": x})


# ---------------------------------------------------------------- blocks


def attention(scores: Any = None, heads: int = 0, safe: bool = False) -> Instruction:
    group = ("g",) * bool(heads)
    q, k = Input("q", ("h", *group, "s", "d")), Input("k", ("h", "t", "d"))
    v = Input("v", ("h", "t", "e"))
    given = formulas.attention_scores(q, k, "d", 0.3)
    masked = scores(given) if scores else formulas.causal(given, "s", "t")
    return made((formulas.attend_safe if safe else formulas.attend)(masked, v, "t"))


def test_a_head_alone_is_what_it_is_among_others() -> None:
    """An axis of one position takes no passes of its own from a row: threads divide heads."""
    meaning, sizes = attention(heads=2), {"g": 2, "s": 90, "t": 90, "d": 16, "e": 24}
    order = {"out0": ("h", "g", "s", "e")}
    program = single.program_of(meaning, {"h": 3, **sizes}, order=order)
    arrays = single.arrays_for(program)
    wanted = compile_program(program, {"op": meaning}).run(arrays).outputs["out0"]

    other = single.program_of(meaning, {"h": 1, **sizes}, order=order)
    alone = compile_program(other, {"op": meaning})
    for head in range(3):
        given = {name: np.ascontiguousarray(x[head : head + 1]) for name, x in arrays.items()}
        assert np.array_equal(alone.run(given).outputs["out0"], wanted[head : head + 1])


def _ahead(given: Node) -> Node:
    seen = L.apply("less", L.position("t"), L.position("s") + 5)
    return L.where(seen, given, -np.inf) * 2.0


def _window(given: Node) -> Node:
    ahead = L.apply("less_equal", L.position("t"), L.position("s"))
    behind = L.apply("greater", L.position("t"), L.position("s") - 9)
    return L.where(L.apply("logical_and", ahead, behind), given, -np.inf)


def _added(given: Node) -> Node:
    seen = L.apply("greater_equal", L.position("s"), L.position("t"))
    return given + L.where(seen, 0.0, -np.inf)


MASKS = {"causal": None, "ahead": _ahead, "window": _window, "added": _added}


@pytest.mark.parametrize("heads", [0, 3])
@pytest.mark.parametrize("length", [1, 7, 48, 100, 131])
@pytest.mark.parametrize("mask", MASKS)
def test_an_attention_in_blocks_of_rows(mask: str, length: int, heads: int) -> None:
    sizes = {"h": 2, "s": length, "t": length, "d": 20, "e": 17} | ({"g": heads} if heads else {})

    check(attention(MASKS[mask], heads), sizes)


SCORES = L.dot(Input("q", ("h", "s", "d")), Input("k", ("h", "t", "d")), "d")
VALUES = Input("v", ("h", "t", "e"))
EXPONENTIALS = L.exp(SCORES - L.max(SCORES, "t"))
READ = {
    "alone": (L.dot(EXPONENTIALS, VALUES, "t"),),
    "as a result": (L.dot(EXPONENTIALS, VALUES, "t"), SCORES),
    "behind": (L.dot(EXPONENTIALS, VALUES, "t"), L.dot(SCORES, VALUES, "t")),
    "by a fold behind": (L.dot(EXPONENTIALS / L.sum(SCORES * EXPONENTIALS, "t"), VALUES, "t"),),
    "elsewhere": (L.dot(L.exp(0.1 * (SCORES - L.view(SCORES, {"t": "39 - t"}))), VALUES, "t"),),
}


@pytest.mark.parametrize("outputs", READ.values(), ids=READ)
def test_values_in_the_place_of_sums(outputs: tuple[Node, ...]) -> None:
    """Not where the sums are still read, or read at other positions."""
    check(made(*outputs), {"h": 2, "s": 70, "t": 40, "d": 20, "e": 17})


def test_only_sums_that_nobody_else_reads_are_overwritten() -> None:
    assert spent(READ["alone"]) == {EXPONENTIALS: SCORES}
    for name in ("as a result", "behind", "by a fold behind", "elsewhere"):
        assert spent(READ[name]) == {}, name


def spent(outputs: tuple[Node, ...]) -> dict[Node, Dot]:
    """Whose memory values may take, if contractions, folds and exponentials are kept."""
    stores = [Store(node, Place(NOWHERE, "f32", {}), node.axes) for node in outputs]
    tasks = [
        Task(n)
        for n in L.walk(outputs)
        if isinstance(n, Dot | Reduce) or (isinstance(n, Map) and n.function == "exp")
    ]
    tasks += [Task(store.node, store) for store in stores]
    return spent_sums(tasks, needed(tasks))


@pytest.mark.parametrize("rows", [1, 50])
def test_rows_that_begin_behind_the_first_key(rows: int) -> None:
    """A tile of rows sees all keys before it."""
    sizes = {"h": 1, "s": 100, "t": 100, "d": 16, "e": 16}

    check(attention(), sizes, steps={"s": rows})


def test_what_a_mask_hides_is_not_computed() -> None:
    """A NaN among hidden values does not spread."""
    sizes = {"h": 1, "s": 96, "t": 96, "d": 16, "e": 16}
    meaning = attention()
    program = single.program_of(meaning, sizes)
    arrays = single.arrays_for(program)
    arrays["v"] = arrays["v"].copy()
    wanted = interpret(program, {"op": meaning}, arrays).outputs["out0"]
    arrays["v"][0, 90:] = np.nan

    found = compile_program(program, {"op": meaning}, "vector").run(arrays).outputs["out0"]

    axis = meaning.outputs[0].axes.index("s")
    early = np.take(found, range(24), axis), np.take(wanted, range(24), axis)
    np.testing.assert_allclose(*early, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    rows=some.integers(1, 150),
    columns=some.integers(1, 90),
    depth=some.integers(2, 40),
    second=some.booleans(),
)
def test_what_follows_a_contraction(rows: int, columns: int, depth: int, second: bool) -> None:
    """In blocks where the contraction would leave the second cache. Of a few numbers each may be in
    the tail of GELU, where little is left of what it subtracts."""
    assume(rows * columns >= 16)
    a, c = Input("a", ("m", "k")), Input("c", ("k", "n"))
    product = L.dot(a, c, "k") + W
    result = formulas.layer_norm(product, W, B, "n") if second else formulas.gelu_tanh(product)

    check(made(result), {"m": rows, "n": columns, "k": depth})


# ---------------------------------------------------------------- masks


def seen(node: Node, *shown: str) -> Horizon | None:
    return horizon(list(L.walk([node])), "s", shown)


def test_a_horizon_follows_from_the_definition() -> None:
    scores = Input("scores", ("s", "t"))
    causal = formulas.causal(scores, "s", "t")
    v = Input("v", ("t", "e"))

    assert seen(formulas.attend(causal, v, "t"), "s", "e") == Horizon("t", 0)
    assert seen(formulas.attend(_ahead(scores), v, "t"), "s", "e") == Horizon("t", 4)
    assert seen(formulas.attend(_window(scores), v, "t"), "s", "e") == Horizon("t", 0)
    assert seen(formulas.attend(_added(scores), v, "t"), "s", "e") == Horizon("t", 0)


def test_what_sees_hidden_positions_has_no_horizon() -> None:
    scores, v = Input("scores", ("s", "t")), Input("v", ("t", "e"))
    causal = formulas.causal(scores, "s", "t")
    later = L.where(L.position("s") <= L.position("t"), scores, -np.inf)
    large = L.where(L.position("s") >= L.position("t"), scores, -1e30)

    assert seen(causal, "s", "t") is None  # a result has the axis
    assert seen(L.sum(causal, "t"), "s") is None  # -inf is not neutral in a sum
    assert seen(L.Reduce("min", causal, ("t",)), "s") is None
    assert seen(formulas.attend(later, v, "t"), "s", "e") is None
    assert seen(formulas.attend(large, v, "t"), "s", "e") is None  # a row of nothing else is even
    both = formulas.attend(causal, v, "t") + L.dot(scores, v, "t")
    assert seen(both, "s", "e") is None


# ---------------------------------------------------------------- quotients


def test_weights_are_divided_behind_the_values() -> None:
    """The exponentials of both softmaxes go into the product, what comes out is divided."""
    q, k, v = (Input(name, (*axes,)) for name, axes in (("q", "sd"), ("k", "td"), ("v", "te")))
    scores = L.dot(q, k, "d")
    for attend in (formulas.attend, formulas.attend_safe):
        (found,) = divided_later([attend(scores, v, "t")])
        assert isinstance(found, L.Map)
        assert found.function == "divide"
        top, _ = found.arguments
        assert isinstance(top, L.Dot)
        assert isinstance(top.a, L.Map)
        assert top.a.function == "exp"
        check(made(found), {"s": 21, "t": 75, "d": 8, "e": 24})
        twice = L.dot(attend(scores, v, "t"), L.rename(v, {"t": "u"}), "e")
        (outer,) = divided_later([twice])
        assert isinstance(outer, L.Dot)
        assert isinstance(outer.a, L.Map)
        assert isinstance(outer.a.arguments[0], L.Dot)


def test_what_may_overflow_or_is_read_itself_is_divided_first() -> None:
    x, v = Input("x", ("s", "t")), Input("v", ("t", "e"))
    weights = formulas.softmax(x, "t")
    values = L.dot(weights, v, "t")
    assert divided_later([weights, values]) == (weights, values)
    for quotient in (L.exp(x) / L.sum(L.exp(x), "t"), x / L.sum(x, "t"), weights / (x + 1.0)):
        plain = L.dot(quotient, v, "t")
        assert divided_later([plain]) == (plain,)


# ---------------------------------------------------------------- rows that a mask cuts


@pytest.mark.parametrize("first", [0, 70, 300])
@pytest.mark.parametrize("how", ["causal", "ahead", "window"])
def test_vectors_that_a_mask_shows_are_read_without_it(how: str, first: int) -> None:
    """Rows of 9 vectors: some are shown whole, one in part, the others are hidden."""
    x = Input("x", ("s", "t"))
    mask = MASKS[how]
    masked = mask(x) if mask else formulas.causal(x, "s", "t")
    check(made(formulas.softmax(masked, "t")), {"s": 150, "t": 150})
    seen = L.where(L.position("t") <= L.position("s") + (first - 75), x, 2.0)
    check(made(L.sum(seen, "t"), L.max(seen, "t")), {"s": 150, "t": 150})
