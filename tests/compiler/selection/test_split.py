"""Reductions divided among cores: where it is faster, and with the same values."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import compile_model
from infinisa.compiler.selection import cover
from infinisa.isa import formulas
from infinisa.isa.errors import CompileError
from infinisa.isa.language import dot, max, maximum, sum
from infinisa.isa.machine import Machine
from tests.compiler.equality.test_laws import ZERO_POINT, defined
from tests.compiler.everywhere import LIBRARY, MACHINES, agree_everywhere, cycles, instructions

DATACENTER = MACHINES["datacenter"]


def fast(machine: Machine = DATACENTER) -> Machine:
    """With memory that never holds a core up: what the cores compute decides."""
    memories = tuple(
        replace(m, bandwidth=m.bandwidth * 64, latency=1) if m.name == "dram" else m
        for m in machine.memories
    )
    return replace(machine, memories=memories, barrier=10)


def product(k: int, dtype: str = "f32", m: int = 16, n: int = 16, relu: bool = False) -> Model:
    b = Builder("product")
    b.axis("s", m)
    x, w = b.input("x", f"s d: {dtype}", (m, k)), b.input("w", f"d n: {dtype}", (k, n))
    y = dot(x, w, "d")
    b.graph("main").output("y", maximum(y + b.input("c", "n", (n,)), 0.0) if relu else y)
    return b.model()


def attention(keys: int, kind: str = "", queries: int = 32) -> Model:
    b = Builder("attention")
    b.axis("s", queries)
    q = b.input("q", "s d: bf16", (queries, 128))
    k, v = b.input("k", "t d: bf16", (keys, 128)), b.input("v", "t e: bf16", (keys, 128))
    scores = formulas.attention_scores(q, k, "d", 128**-0.5)
    if kind == "causal":
        scores = formulas.causal(scores, "s", "t")
    if kind == "masked":
        scores = scores + b.input("mask", "s t", (queries, keys))
    attend = formulas.attend_safe if kind == "masked" else formulas.attend
    b.graph("main").output("y", attend(scores, v, "t"))
    return b.model()


def undivided(model: Model, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> int:
    """Simulated cycles with no reduction divided."""
    with monkeypatch.context() as patch:
        patch.setattr(cover, "possible", lambda drafting: {})
        return cycles(compile_model(model, machine, LIBRARY))


def test_a_long_contraction_goes_over_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tiles of the result: one axis of them is dealt out over two of four cores."""
    model = product(16384, "bf16", 256, 256)

    done = compile_model(model, DATACENTER, LIBRARY)

    assert instructions(done) == ["matmul.step", "reduce_sum"]
    assert [group.spread for group in done.groups[0]] == ["d_run4", "s"]
    assert cycles(done) < 0.85 * undivided(model, DATACENTER, monkeypatch)


def test_a_long_context_goes_over_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    model = attention(16384, queries=128)

    done = compile_model(model, DATACENTER, LIBRARY)

    assert instructions(done) == ["flash_step", "flash_combine", "flash_finish"]
    assert cycles(done) < 0.6 * undivided(model, DATACENTER, monkeypatch)


def test_a_short_contraction_is_not_worth_another_call() -> None:
    done = compile_model(product(512, "bf16", 256, 256), DATACENTER, LIBRARY)

    assert instructions(done) == ["matmul"]


@pytest.mark.parametrize("dtype", ["f32", "i8"])
@pytest.mark.parametrize("relu", [False, True])
def test_partial_sums_add_up(dtype: str, relu: bool) -> None:
    """What finishes the product (a bias, a function) sees the whole sum. Integers are exact."""
    done = agree_everywhere(
        product(8192, dtype, relu=relu), fast(), tolerance=2e-4 if dtype == "f32" else 1e-7
    )

    names = ["matmul_bias_relu.step", "reduce_sum", "matmul_bias_relu.finish"]
    assert instructions(done) == (names if relu else ["matmul.step", "reduce_sum"])
    (first, *_) = done.covered[0].calls
    assert first.limits["d_run4"] == 1


def test_a_reduction_other_than_a_sum_is_divided_too() -> None:
    b = Builder("top")
    b.axis("n", 1 << 20)
    x = b.input("x", "n", (1 << 20,))
    b.graph("main").output("top", max(x, "n"))

    done = agree_everywhere(b.model(), fast())

    assert instructions(done) == ["reduce_max.step", "reduce_max"]


def test_what_is_linear_by_a_law_is_divided_too() -> None:
    b = Builder("zero")
    b.axis("s", 4)
    x, w = b.input("x", "s d", (4, 4096)), b.input("w", "d n", (4096, 2))
    z = b.input("z", "s", (4,))
    b.graph("main").output("y", dot(x, w, "d") - z * sum(w, "d"))
    on_matrix = replace(ZERO_POINT, unit="matrix", tile=(("m", 16), ("k", 16), ("n", 16)))
    library = {"zero_point": on_matrix, "reduce_sum": LIBRARY["reduce_sum"]}

    done = agree_everywhere(b.model(), fast(), library)

    assert instructions(done) == ["zero_point.step", "reduce_sum"]


@pytest.mark.parametrize("kind", ["", "masked"])
def test_states_of_an_attention_combine(kind: str) -> None:
    """A quarter of the keys that no query may see, and queries that may see nothing at all."""
    mask = np.where(np.random.default_rng(2).random((32, 2048)) < 0.5, -np.inf, 0.0)
    mask[:, :512], mask[3] = -np.inf, -np.inf
    inputs = {"mask": mask.astype(np.float32)} if kind else {}

    done = agree_everywhere(attention(2048, kind), fast(), inputs=inputs)

    step = "masked_flash_step" if kind else "flash_step"
    assert instructions(done) == [step, "flash_combine", "flash_finish"]


def test_an_axis_that_positions_are_computed_from_stays_whole() -> None:
    """A run of the keys has other positions than the keys."""
    done = agree_everywhere(attention(2048, "causal"), fast())

    assert instructions(done) == ["causal_flash_step", "flash_finish"]


def test_one_core_divides_nothing() -> None:
    done = compile_model(product(8192), replace(fast(), cores=1), LIBRARY)

    assert instructions(done) == ["matmul.step"]


def test_states_are_combined_only_by_a_law_that_holds() -> None:
    def combine(top: Any, total: Any, weighted: Any) -> Any:
        return max(top, "r"), sum(total, "r"), sum(weighted, "r")

    axes = {"top": "r s", "total": "r s", "weighted": "r s e"}
    library = {**LIBRARY, "flash_combine": defined(combine, axes, name="flash_combine")}

    with pytest.raises(CompileError) as caught:
        compile_model(attention(2048), fast(), library)

    assert str(caught.value).startswith(
        "instruction 'flash_step': law 'states of separate runs along r combine by flash_combine' "
        "does not hold (at s="
    )
