"""What number formats do to results: differences, and the perplexity of the shipped model."""

from functools import cache

import numpy as np
import pytest

from infinisa.api import Compiled, load
from infinisa.compiler.builder import Builder
from infinisa.isa.language import dot
from infinisa.plugins.models import HELD_OUT
from infinisa.runtime.accuracy import Difference, perplexity
from infinisa.runtime.jit import compile_program
from tests.machines import CACHE


@cache
def compiled() -> Compiled:
    return load("python_lm", tokens=4).compile(CACHE)


def test_a_difference_is_relative() -> None:
    found = Difference.of(np.array([3.0, 4.0]), np.array([3.0, 5.0]))

    assert found.largest == pytest.approx(1 / 5)
    assert found.rms == pytest.approx(1 / np.sqrt(34))
    assert found.cosine == pytest.approx(29 / np.sqrt(25 * 34))


def test_perplexity_is_that_of_logits_of_every_beginning_of_the_text() -> None:
    """The prompt is made one token longer each time, and nothing is kept in between."""
    model, text = compiled(), HELD_OUT[:60]
    arrays, settings = model.bound(text, None)
    session = compile_program(model.program, model.library).session(arrays)
    first = session.run({}, settings | {"tokens": 1})
    count = first.parameters["prompt"]
    tokens = first.kept["ids"][:count].copy()
    assert count > 12
    lost = 0.0
    for position in range(1, count):
        session.tensors["ids"][:count] = tokens
        session.step({"prompt": position, "tokens": 1}, ("prefill",))()
        logits = session.tensors["prefill/logits"].reshape(-1).astype(np.float64)
        lost -= logits[tokens[position]] - np.log(np.exp(logits).sum())

    found = perplexity(session, text)

    assert found == pytest.approx(np.exp(lost / (count - 1)), rel=1e-2)  # caches are bf16


def test_fewer_bits_are_worse() -> None:
    """Held-out loss is 2.6 nats a token: a perplexity of 13.5 of other text."""
    shares, before = [], 0.0
    for weights in ("int8", "int4/32", "int4/256"):
        found = compiled().accuracy(weights)
        assert found.perplexity is not None
        before, after = found.perplexity
        assert 8 < before < 14
        assert before * 0.99 < after < before * 1.2
        shares.append((found.rounded, found.outputs["prefill/logits"].rms))

    assert shares == sorted(shares)
    assert shares[0][1] < 0.02 < shares[1][1]


def test_inputs_that_are_not_given_are_drawn() -> None:
    b = Builder("product")
    x = b.input("x", "m k", (3, 64))
    w = b.weight("w", "k n", np.eye(64, 32, dtype=np.float32) / 127)
    b.graph("main").output("y", dot(x, w, "k"))
    found = load(b.model()).compile("host").accuracy("int8")

    assert found.perplexity is None
    assert found.rounded < 1e-7  # every column is one number
    assert found.outputs["main/y"].cosine == pytest.approx(1)
    assert found.outputs["main/y"].largest < 1e-6


def test_weights_that_groups_do_not_divide_are_said_to_be_in_another_format() -> None:
    """300 steps are no multiple of 32: that weight is in int8, the other as asked for."""
    b = Builder("products")
    random = np.random.default_rng(0)
    x = b.input("x", "m k", (3, 300))
    up = b.weight("up", "k n", random.normal(size=(300, 64)).astype(np.float32))
    down = b.weight("down", "n p", random.normal(size=(64, 32)).astype(np.float32))
    b.graph("main").output("y", dot(dot(x, up, "k"), down, "n"))
    found = load(b.model()).compile("host").accuracy("int4/32")

    assert found.kept == {"int8": 1, "int4/32": 1}
    assert "; 1 of 2 weights are in int8, as steps in groups do not divide theirs" in str(found)


def test_a_format_that_no_weight_is_kept_in_says_so() -> None:
    b = Builder("sum")
    x = b.input("x", "m k", (3, 64))
    b.graph("main").output("y", x + b.weight("w", "k", np.ones(64, np.float32)))
    found = load(b.model()).compile("host").accuracy("int8")

    assert str(found).startswith("weights int8: no product reads a weight that could be kept so")
