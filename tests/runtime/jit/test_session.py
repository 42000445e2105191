"""Programs of one instruction in loops: native code, with vectors and without, equals NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infinisa.isa import language as L
from infinisa.isa.instruction import Instruction, instruction, step_of
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit.session import compile_program
from tests.runtime.jit.single import BACKENDS, check, of, program_of


@instruction(unit="vector")
def gelu_bias(x: "m n", b: "n"):
    y = x + b
    return 0.5 * y * (1.0 + L.erf(y * 0.70710678))


@instruction(unit="vector")
def softmax(x: "m n"):
    e = L.exp(x - L.max(x, "n"))
    return e / L.sum(e, "n")


@instruction(unit="vector")
def scaled_softmax(x: "m n", scale=0.7):
    e = L.exp(x * scale - L.max(x * scale, "n"))
    return e / L.sum(e, "n")


@instruction(unit="vector")
def layer_norm(x: "m n", g: "n", b: "n", eps=1e-5):
    middle = x - L.mean(x, "n")
    return middle * L.rsqrt(L.mean(middle * middle, "n") + eps) * g + b


@instruction(unit="vector")
def residual_norm(x: "m n", y: "m n"):
    z = x + y
    return z, z * L.rsqrt(L.mean(z * z, "n") + 1e-6)


@instruction(unit="matrix")
def matmul(a: "m k", b: "k n"):
    return L.dot(a, b, "k")


@instruction(unit="matrix")
def matmul_gelu(a: "m k", b: "k n", c: "n"):
    y = L.dot(a, b, "k") + c
    return y * L.sigmoid(1.702 * y)


@instruction(unit="matrix")
def attend(q: "s d", k: "t d", v: "t e"):
    scores = L.dot(q, k, "d") * 0.125
    scores = L.where(L.position("t") <= L.position("s"), scores, -1e30)
    e = L.exp(scores - L.max(scores, "t"))
    return L.dot(e, v, "t") / L.sum(e, "t")


@instruction(unit="matrix")
def branches(q: "d", k: "t g e d", v: "t s r g e"):
    scores = L.dot(q, k, "d")
    e = L.exp(scores - L.max(scores, "t"))
    return L.dot(e / L.sum(e, "t"), v, "t")


@instruction(unit="matrix")
def conv(x: "h w c", k: "r u c o"):
    windows = L.view(x, {"h": "2*p + r - 1", "w": "q + u - 1"})
    return L.dot(windows, k, "r u c")


@instruction(unit="vector")
def pool(x: "h w c"):
    windows = L.view(x, {"h": "2*p + r", "w": "2*q + u"})
    return L.max(windows, "r u")


@instruction(unit="vector")
def embed(table: "v d", ids: "s: i32"):
    return L.gather(table, ids, "v")


@instruction(unit="vector")
def pick(x: "m n"):
    return L.argmax(x, "n")


@instruction(unit="vector")
def swap(x: "s d"):
    half = L.view(x, {"d": "(e + 4) % 8"})
    return L.where(L.position("e") < 4, -half, half)


@instruction(unit="vector")
def cumulative(x: "t n", w: "n j"):
    def step(h, x):
        after = L.tanh(L.dot(L.rename(h, {"j": "n"}), w, "n") + L.rename(x, {"n": "j"}))
        return [after], [after * 2.0]

    zero = L.rename(L.sum(x, "t"), {"n": "j"}) * 0.0
    (last,), (each,) = L.scan(step, {"h": zero}, {"x": x}, "t")
    return last, each


CASES: list[tuple[str, Instruction, dict[str, int], dict[str, int], dict[str, Any]]] = [
    ("gelu", gelu_bias, {"m": 5, "n": 37}, {"m": 2, "n": 16}, {}),
    ("gelu bf16", gelu_bias, {"m": 5, "n": 40}, {}, {"types": {"x": "bf16"}, "results": ["bf16"]}),
    ("softmax", softmax, {"m": 7, "n": 77}, {"m": 3}, {}),
    ("softmax long", softmax, {"m": 2, "n": 300}, {}, {}),
    ("softmax columns", softmax, {"m": 33, "n": 9}, {"m": 20},
     {"order": {"x": "n m", "out0": "n m"}}),
    ("layer norm", layer_norm, {"m": 6, "n": 100}, {"m": 4}, {}),
    ("two results", residual_norm, {"m": 6, "n": 64}, {"m": 4}, {}),
    ("matmul", matmul, {"m": 37, "n": 70, "k": 29}, {}, {}),
    ("matmul tiles", matmul, {"m": 37, "n": 70, "k": 29}, {"m": 16, "n": 32}, {}),
    ("matmul n k", matmul, {"m": 37, "n": 70, "k": 29}, {"m": 16}, {"order": {"b": "n k"}}),
    ("matmul k m", matmul, {"m": 37, "n": 70, "k": 29}, {}, {"order": {"a": "k m"}}),
    ("matmul to n m", matmul, {"m": 37, "n": 70, "k": 29}, {}, {"order": {"out0": "n m"}}),
    ("matmul deep", matmul, {"m": 9, "n": 20, "k": 1500}, {}, {}),
    ("matmul groups of panels", matmul, {"m": 70, "n": 600, "k": 1100}, {}, {}),
    ("matmul groups k m, n k", matmul, {"m": 70, "n": 600, "k": 1100}, {},
     {"order": {"a": "k m", "b": "n k"}}),
    ("matmul k m bf16", matmul, {"m": 37, "n": 70, "k": 29}, {},
     {"order": {"a": "k m"}, "types": {"a": "bf16", "b": "bf16"}}),
    ("vector", matmul, {"m": 1, "n": 300, "k": 129}, {}, {}),
    ("vector n k", matmul, {"m": 1, "n": 45, "k": 129}, {}, {"order": {"b": "n k"}}),
    ("three rows n k", matmul, {"m": 3, "n": 45, "k": 129}, {}, {"order": {"b": "n k"}}),
    ("three rows k m, n k", matmul, {"m": 3, "n": 45, "k": 129}, {},
     {"order": {"a": "k m", "b": "n k"}}),
    ("matmul bf16", matmul, {"m": 19, "n": 45, "k": 64}, {}, {"types": {"a": "bf16", "b": "bf16"}}),
    ("vector bf16", matmul, {"m": 1, "n": 45, "k": 64}, {}, {"types": {"b": "bf16"}}),
    ("matmul i8", matmul, {"m": 19, "n": 45, "k": 64}, {}, {"types": {"a": "i8", "b": "i8"}}),
    ("matmul f64", matmul, {"m": 19, "n": 45, "k": 64}, {},
     {"types": {"a": "f64", "b": "f64"}, "results": ["f64"]}),
    ("matmul gelu", matmul_gelu, {"m": 20, "n": 50, "k": 33}, {"m": 8}, {}),
    ("attention", attend, {"s": 21, "t": 40, "d": 16, "e": 24}, {"s": 8}, {}),
    ("scores wanted before they have a place", branches,
     {"d": 9, "t": 2, "s": 56, "r": 56, "g": 32, "e": 4}, {},
     {"order": {"out0": "s r g e"}}),
    ("convolution", conv, {"p": 5, "q": 9, "r": 3, "u": 3, "c": 6, "o": 20}, {"p": 2, "q": 4},
     {"fill": {"x": 0.0}}),
    ("pool", pool, {"p": 4, "q": 5, "r": 2, "u": 2, "c": 19}, {"p": 3}, {}),
    ("embed", embed, {"v": 9, "d": 33, "s": 6}, {"s": 4}, {}),
    ("argmax", pick, {"m": 5, "n": 90}, {"m": 2}, {}),
    ("argmax columns", pick, {"m": 40, "n": 9}, {}, {"order": {"x": "n m"}}),
    ("swap halves", swap, {"s": 5, "d": 8, "e": 8}, {"s": 2}, {}),
    ("recurrence", cumulative, {"t": 6, "n": 12, "j": 12}, {}, {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "meaning", "sizes", "steps", "more"),
    CASES,
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_an_instruction_in_loops(
    name: str,
    meaning: Instruction,
    sizes: dict[str, int],
    steps: dict[str, int],
    more: dict[str, Any],
) -> None:
    more = dict(more)
    if "order" in more:
        more["order"] = {key: axes.split() for key, axes in more["order"].items()}

    check(program_of(meaning, sizes, steps, **more), of(meaning))


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 63, 64, 100])
@pytest.mark.parametrize("meaning", [softmax, matmul, gelu_bias, attend], ids=lambda m: m.name)
def test_lengths_are_known_when_it_runs(meaning: Instruction, length: int) -> None:
    axis = {"softmax": "n", "matmul": "k", "gelu_bias": "n", "attend": "t"}[meaning.name]
    sizes = dict.fromkeys(meaning.axes, 20) | {axis: length}
    if meaning is attend and length == 0:
        pytest.skip("a softmax over nothing")
    program = program_of(meaning, sizes, most={axis: 128})

    check(program, of(meaning), parameters={axis: length})


@pytest.mark.parametrize("order", [{}, {"a": "km", "b": "nk"}], ids=str)
@pytest.mark.parametrize("lengths", [(1, 1, 1), (17, 33, 65), (64, 256, 512), (70, 600, 1100)])
def test_panels_of_lengths_known_when_it_runs(
    order: dict[str, str], lengths: tuple[int, int, int]
) -> None:
    """Room for several panels a group and several blocks of k, used or not."""
    most = {"m": 70, "n": 600, "k": 1100}
    sizes = dict(zip(most, lengths, strict=True))
    program = program_of(matmul, sizes, most=most, order=order)

    check(program, of(matmul), parameters=sizes)


def test_blocks_of_k_accumulate() -> None:
    """Each issue takes several blocks and adds to what those before have left."""
    step, _ = step_of(matmul)
    program = program_of(step, {"m": 20, "n": 300, "k": 2500}, {"k": 1250})

    check(program, {step.name: step})


@pytest.mark.parametrize("steps", [{"k": 8}, {"k": 8, "m": 16}, {"k": 16, "n": 32, "m": 5}])
@pytest.mark.parametrize("fold", ["dot", "max"])
def test_partial_results_accumulate(steps: dict[str, int], fold: str) -> None:
    @instruction(unit="vector")
    def top(x: "m k"):
        return L.max(x, "k")

    step, _ = step_of(matmul if fold == "dot" else top)
    sizes = {"m": 20, "n": 45, "k": 37} if fold == "dot" else {"m": 20, "k": 37}
    program = program_of(step, sizes, {a: s for a, s in steps.items() if a in sizes})

    check(program, {step.name: step})


def test_a_softmax_of_huge_scaled_numbers_is_one_at_their_maximum() -> None:
    """The product and the subtraction are rounded one after the other, as in NumPy."""
    program = program_of(scaled_softmax, {"m": 5, "n": 19})
    x = (np.random.default_rng(0).standard_normal((5, 19)) * 1e30).astype(np.float32)

    check(program, {"scaled_softmax": scaled_softmax}, {"x": x})


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_computes_what_lies_in_memory_now(backend: str) -> None:
    program, library = program_of(scaled_softmax, {"m": 400, "n": 190}), of(scaled_softmax)
    x, y = np.random.default_rng(0).standard_normal((2, 400, 190), np.float32)
    session = compile_program(program, library, backend, **BACKENDS[backend]).session({"x": x})
    step = session.step()
    result = program.of_kind("output")[0].name

    for given in (x, y):
        session.tensors["x"][...] = given
        step()

        expected = interpret(program, library, {"x": given}).outputs[result]
        np.testing.assert_allclose(session.tensors[result], expected, rtol=1e-5)
