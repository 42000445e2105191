"""docs/language.md: it has every word; its definitions pass all checks and give NumPy's values."""

import re
from pathlib import Path

import numpy as np
import pytest

import infinisa
from infinisa.isa.evaluate import evaluate
from infinisa.isa.functions import FUNCTIONS
from infinisa.isa.language import Axis
from infinisa.plugins.check import check
from infinisa.plugins.manager import Registry, load

PAGE = (Path(__file__).parents[1] / "docs" / "language.md").read_text("utf-8")
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

NO_WORDS = {
    "Associative", "InfinisaError", "LinearIn", "StepOf", "Trust", "check", "compare", "discover",
    "hookimpl", "instruction", "load", "opaque", "read_program",
}  # fmt: skip
"""What `infinisa` exports besides the words of the language."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    path = tmp_path_factory.mktemp("page") / "definitions.py"
    path.write_text(CODE, "utf-8")
    registry = load([path], installed=False)
    assert registry.failures == ()
    return registry


def test_the_page_has_every_word() -> None:
    table = PAGE.partition("## Words")[2].partition("## Places")[0]
    named = set(re.findall(r"\b[a-z_]+\b", " ".join(re.findall(r"`([^`]+)`", table))))

    assert set(infinisa.__all__) - NO_WORDS <= named
    signs = {"negate", "add", "subtract", "multiply", "divide", "floor_divide", "modulo", "power",
             "less", "less_equal", "greater", "greater_equal", "logical_and", "logical_or",
             "logical_not"}  # fmt: skip
    assert set(FUNCTIONS) - signs <= named


def test_its_definitions_pass_all_checks(registry: Registry) -> None:
    assert [str(f) for f in check(registry, ["definitions"]) if not f.passed] == []


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(weights / weights.sum(-1, keepdims=True))


def test_its_definitions_give_what_numpy_gives(registry: Registry) -> None:
    random = np.random.default_rng(1)

    def drawn(*shape: int) -> np.ndarray:
        return random.standard_normal(shape)

    def found(name: str, sizes: dict[Axis, int] | None = None, **arrays: np.ndarray) -> np.ndarray:
        outputs = registry.library[name].outputs
        return evaluate(outputs, arrays, sizes=sizes or {})[0]

    x, w = drawn(2, 5, 7), drawn(5)
    centred = x - x.mean((1, 2), keepdims=True)
    wanted = centred / np.sqrt((centred**2).mean((1, 2), keepdims=True) + 1e-5) * w[:, None]
    assert np.allclose(found("group_norm", x=x, scale=w), wanted)

    x, w = drawn(2, 9, 3), drawn(3, 3, 4)
    before = np.pad(x, ((0, 0), (4, 0), (0, 0)))
    wanted = sum(before[:, 4 - 2 * r : 13 - 2 * r] @ w[r] for r in range(3))
    assert np.allclose(found("dilated", x=x, w=w), np.maximum(wanted, 0.0))

    q, k, v = drawn(40, 8), drawn(40, 8), drawn(40, 3)
    behind = np.arange(40)[:, None] - np.arange(40)
    scores = np.where((behind >= 0) & (behind < 16), q @ k.T * 0.125, -np.inf)
    assert np.allclose(found("local_attention", q=q, k=k, v=v), softmax(scores) @ v)

    table, at = drawn(6, 2), np.array([0.0, 0.25, 4.5, 3.0])
    wanted = np.stack([np.interp(at, np.arange(6), column) for column in table.T], 1)
    assert np.allclose(found("interpolated", table=table, at=at), wanted)

    x = np.array([[1.27, -0.5, 0.004], [0.0, 0.0, 0.0]])
    assert found("quantised", x=x).tolist() == [[127, -50, 0], [0, 0, 0]]

    q, k, v, beta = drawn(6, 4), drawn(6, 4), drawn(6, 3), drawn(6)
    memory, wanted = np.zeros((4, 3)), np.zeros((6, 3))
    for t in range(6):
        memory += np.outer(k[t], v[t] - k[t] @ memory) * beta[t]
        wanted[t] = q[t] @ memory
    assert np.allclose(found("delta_rule", q=q, k=k, v=v, beta=beta), wanted)
