"""docs/authoring.md: its plugin is checked, and each of its overrides is what programs use."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import infinisa
from infinisa.api import Loaded
from infinisa.cli import parser
from infinisa.compiler.builder import Builder
from infinisa.isa.assembly import to_text
from infinisa.isa.instance import find
from infinisa.plugins.check import CHECKS
from infinisa.plugins.manager import load

PAGE = (Path(__file__).parents[1] / "docs" / "authoring.md").read_text("utf-8")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    path = tmp_path / "mine.py"
    path.write_text(code, "utf-8")
    return path


def capped(cap: float, plugin: Path) -> Loaded:
    b = Builder("capped")
    x = b.input("x", "s d", (20, 30))
    b.graph("main").output("y", cap * infinisa.tanh(x / cap))
    return infinisa.load(b.model(), plugins=[plugin])


def test_the_plugin_passes_every_check(plugin: Path) -> None:
    found = infinisa.check(plugin)

    assert [finding for finding in found if not finding.passed] == []
    assert {finding.instruction for finding in found} == {"soft_cap", "expert_load"}


def test_it_overrides_what_the_page_says(plugin: Path) -> None:
    library = load([plugin], installed=False).library
    soft_cap, expert_load = library["soft_cap"], library["expert_load"]

    assert soft_cap.occupancy
    assert soft_cap.latency
    assert soft_cap.adjoint
    assert soft_cap.formats == (("cap", "bf16"),)
    assert expert_load.native


def test_a_program_holds_a_number_as_the_encoding_says(plugin: Path) -> None:
    text = to_text(capped(30.0, plugin).compile("tiny").program)

    assert "    with cap = 30.0 as bf16\n" in text


def test_a_number_that_the_encoding_does_not_hold_is_no_match(plugin: Path) -> None:
    model = capped(30.1, plugin)

    assert "soft_cap" not in to_text(model.compile("tiny").program)
    near = {miss.instruction: miss.reason for miss in model.explain("tiny").found.near}
    assert near["soft_cap"] == "its encoding has cap as bf16, which does not hold 30.1"


@pytest.mark.parametrize("backend", ["reference", "scalar", "vector", "parallel"])
def test_the_kernel_runs_in_pieces(plugin: Path, backend: str) -> None:
    """Of s, for what stands before the machine's limit; of e, for its start."""
    tokens, experts = 2500, 40
    b = Builder("router")
    choice, weight = b.input("choice", "s: i32", (tokens,)), b.input("weight", "s", (tokens,))
    b.axis("e", experts)
    chosen = infinisa.where(infinisa.equal(choice, infinisa.position("e")), weight, 0.0)
    b.graph("main").output("y", infinisa.sum(chosen, "s"))
    compiled = infinisa.load(b.model(), plugins=[plugin]).compile("tiny")
    used = {opcode.instruction for opcode in compiled.program.opcodes} - {"load", "store"}
    assert used == {"expert_load.step"}
    assert find("expert_load.step", compiled.library).native
    random = np.random.default_rng(0)
    given = {
        "choice": random.integers(0, experts, tokens).astype(np.int32),
        "weight": random.random(tokens, np.float32),
    }
    (y,) = compiled.run(backend, inputs=given).outputs.values()

    wanted = np.bincount(given["choice"], given["weight"], experts)
    np.testing.assert_allclose(y, wanted, rtol=1e-4)


def test_the_page_names_every_check_in_its_order() -> None:
    assert re.findall(r"^\| (\w+) \|", PAGE, re.MULTILINE)[1:] == list(CHECKS)


def test_the_page_shows_commands_that_there_are() -> None:
    found = re.findall(r"^(infinisa [^#\n]*)", PAGE, re.MULTILINE)
    for command in found:
        parser().parse_args(shlex.split(command)[1:])

    assert len(found) == 3
