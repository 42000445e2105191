"""Proposed instructions: found where calls recur, tried, printed, loaded and found again."""

import json
from pathlib import Path

import numpy as np
import pytest

import infinisa
from infinisa import api
from infinisa.api import find_machine
from infinisa.cli import main
from infinisa.compiler.builder import Builder
from infinisa.compiler.discovery.discover import Discovery, discover
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import Compilation
from infinisa.isa import formulas
from infinisa.isa.errors import InfinisaError
from infinisa.isa.language import Input, Node, dot, tanh
from infinisa.plugins.manager import load

LIBRARY = load(installed=False).library
TOKENS, WIDTH = 64, 128


def layers(*caps: float, also: bool = False) -> Model:
    """Layers of a product, squashed to ± a cap and squared; `also`: the products are outputs."""
    b = Builder("capped")
    x: Node = b.input("x", "s d", (TOKENS, WIDTH))
    b.axis("s", TOKENS)
    b.axis("d", WIDTH)
    b.axis("e", WIDTH)
    random = np.random.default_rng(3)
    products: list[Node] = []
    for number, cap in enumerate(caps):
        out, inner = ("e", "d") if number % 2 == 0 else ("d", "e")
        weight = random.normal(size=(WIDTH, WIDTH)).astype("f4") / WIDTH
        w = b.weight(f"w{number}", f"{inner} {out}", weight)
        products.append(dot(x, w, inner))
        hidden = cap * tanh(products[-1] / cap)
        x = hidden * hidden
    graph = b.graph("main")
    graph.output("y", x)
    for number, product in enumerate(products if also else ()):
        graph.output(f"product{number}", product)
    return b.model()


def found(model: Model, machine: str = "edge", top: int = 1) -> Discovery:
    return infinisa.discover(infinisa.load(model), machine, top=top)


def test_what_recurs_is_one_proposal() -> None:
    """Layers alike but for the names of their axes, their weights and their caps: the numbers that
    differ are immediates, by default those that most layers have."""
    (proposal,) = found(layers(5.0, 5.0, 8.0)).proposals

    made = proposal.instruction
    assert proposal.calls == ("matmul", "scale", "tanh", "scale", "multiply")
    assert made.name == "matmul_scale_tanh_scale_multiply"
    assert (made.unit, dict(made.tile)) == ("matrix", dict(LIBRARY["matmul"].tile))
    assert proposal.found == len(proposal.where) == 3
    assert [immediate.default for immediate in made.immediates] == [0.2, 5.0]
    product = dot(Input("a", ("m", "k")), Input("b", ("k", "n")), "k")
    capped = tanh(product * made.immediates[0]) * made.immediates[1]
    assert made.outputs == (capped * capped,)


def test_numbers_that_are_equal_everywhere_are_part_of_it() -> None:
    (proposal,) = found(layers(5.0, 5.0)).proposals

    assert proposal.instruction.immediates == ()


def test_a_proposal_is_pasted_loaded_and_found_again(tmp_path: Path) -> None:
    """With the plugin the model uses the instruction, takes exactly the cycles that were promised,
    and computes the same; the plugin passes every check."""
    plugin, model = tmp_path / "new.py", layers(5.0, 5.0, 5.0)
    discovery = found(model)
    plugin.write_text(api.proposed_plugin(discovery), "utf-8")
    name = discovery.proposals[0].instruction.name

    before = infinisa.load(model).compile("edge")
    after = infinisa.load(model, plugins=[plugin]).compile("edge")

    uses = [opcode.instruction for opcode in after.program.opcodes]
    assert name in uses
    assert not {"scale", "tanh", "multiply"} & set(uses)
    assert before.simulate().cycles == discovery.before
    assert after.simulate().cycles == discovery.after < discovery.before
    x = np.random.default_rng(5).normal(size=(TOKENS, WIDTH)).astype("f4")
    old, new = (each.run(inputs={"x": x}).outputs["main/y"] for each in (before, after))
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-5)
    assert all(finding.passed for finding in infinisa.check(plugin))


def test_values_that_others_read_are_not_hidden_in_an_instruction() -> None:
    """The product is a result of its own: what follows cannot be fused to it."""
    model = layers(5.0, also=True)

    assert all("matmul" not in each.calls for each in found(model, top=2).proposals)


def test_an_axis_that_one_issue_does_not_hold_is_not_folded() -> None:
    """A softmax over 128 columns behind a product: the array has 32, so it cannot see a row."""
    b = Builder("rows")
    x = b.input("x", "s d", (TOKENS, WIDTH))
    w = b.weight("w", "d e", np.ones((WIDTH, WIDTH), "f4"))
    b.graph("main").output("y", formulas.softmax(dot(x, w, "d"), "e"))

    discovery = found(b.model())

    tried = [each.calls for each in discovery.proposals]
    tried += [each.calls for each in discovery.refused]
    assert ("matmul", "softmax") not in tried


def test_what_makes_the_program_slower_is_refused() -> None:
    """By the judgement of a machine on which every instruction that is new costs more."""
    model, machine = layers(5.0, 5.0), find_machine("edge", load(installed=False))

    def slower(work: Compilation) -> float:
        return 1000.0 + len(work.library) - len(LIBRARY)

    discovery = discover(model, machine, LIBRARY, slower, top=1)

    assert discovery.proposals == ()
    assert discovery.before == discovery.after == 1000.0
    assert {each.why for each in discovery.refused} == {"the program takes 1 cycles more"}
    with pytest.raises(InfinisaError) as caught:
        api.proposed_plugin(discovery)
    assert str(caught.value) == (
        "model 'capped': no instruction was found that saves it time on 'edge'"
    )


def test_the_command_prints_a_table_and_the_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the shipped model, with few tokens: the JSON has the numbers of the table, the source
    that is printed is the plugin that is written."""
    plugin, rows = tmp_path / "new.py", tmp_path / "rows.json"
    command = ["discover", "--machine", "edge", "--tokens", "2", "--top", "1"]
    assert main([*command, "--json", str(rows), "-o", str(plugin)]) == 0
    printed = capsys.readouterr().out

    (proposal,) = json.loads(rows.read_text())["proposals"]
    for word in (proposal["name"], "edge", "simulated", f"{proposal['saved']:,.0f}"):
        assert word in printed
    registry = load([plugin], installed=False)
    assert registry.failures == ()
    assert len(registry.library[proposal["name"]].operands) == proposal["operands"]
