"""docs/plugins.md: each of its plugins is loaded from a file and does what the page says."""

import json
import re
import shlex
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import infinisa
from infinisa.cli import main, parser
from infinisa.compiler.builder import Builder
from infinisa.isa.errors import ModelError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Opaque, everything
from infinisa.isa.machine import Channel
from infinisa.plugins.manager import HOOKS, Registry, load
from infinisa.plugins.models import PYTHON_LM
from infinisa.plugins.tokenizers import load_tokenizer

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "plugins.md").read_text("utf-8")


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for name, code in found if name == language]


def plugin(folder: Path, word: str) -> Path:
    """The page's plugin that has this word in it, as a file."""
    (code,) = [block for block in blocks(PAGE, "python") if word in block]
    path = folder / "mine.py"
    path.write_text(code, "utf-8")
    return path


def loaded(path: Path) -> Registry:
    registry = load([path], installed=False)
    assert registry.failures == ()
    return registry


def test_the_page_names_every_hook_in_its_order() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(HOOKS)


def test_the_page_shows_commands_that_there_are() -> None:
    (block,) = blocks(PAGE, "")
    commands = [*block.splitlines(), *re.findall(r"`(infinisa (?:run|simulate) [^`]*)`", PAGE)]
    for command in commands:
        parser().parse_args(shlex.split(command)[1:])

    assert len(commands) == 4


def test_the_entry_point_has_the_group_that_is_looked_for() -> None:
    (block,) = blocks(PAGE, "toml")

    assert tomllib.loads(block) == {"project": {"entry-points": {"infinisa": {"mine": "mine"}}}}


def test_a_model_uses_the_instruction_of_the_page(tmp_path: Path) -> None:
    b = Builder("feed forward")
    x, weight = b.input("x", "s d", (40, 24)), b.input("weight", "d f", (24, 48))
    hidden = infinisa.relu(infinisa.dot(x, weight, "d"))
    b.graph("main").output("y", hidden * hidden)
    path = plugin(tmp_path, "matmul_relu2")
    compiled = infinisa.load(b.model(), plugins=[path]).compile("tiny")

    assert {opcode.instruction.partition(".")[0] for opcode in compiled.program.opcodes} == {
        "load",
        "store",
        "matmul_relu2",
    }


def test_the_opaque_instruction_of_the_page_runs(tmp_path: Path) -> None:
    found = loaded(plugin(tmp_path, "running_total")).library["running_total"]
    assert isinstance(found, Instruction)
    assert found.body is not None
    total = np.zeros(4, np.int32)
    found.body(np.array([3, 1, 4, 1], np.int32), total)

    assert total.tolist() == [3, 4, 8, 9]


def test_a_model_file_uses_the_operator_of_the_page(tmp_path: Path) -> None:
    shape = [6, 5]
    graph = helper.make_graph(
        [helper.make_node("SquaredRelu", ["x"], ["y"], domain="com.example", scale=0.5)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    file = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), file)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    model = infinisa.load(file, plugins=[plugin(tmp_path, "SquaredRelu")])
    (y,) = model.compile("tiny").run(inputs={"x": x}).outputs.values()

    np.testing.assert_allclose(y, np.maximum(x, 0) ** 2 * 0.5, rtol=1e-6)


def test_the_machine_of_the_page_is_the_one_of_the_page_on_machines(tmp_path: Path) -> None:
    (toml,) = blocks((DOCS / "machines.md").read_text("utf-8"), "toml")
    (tmp_path / "mine.toml").write_text(toml)
    found = loaded(plugin(tmp_path, "mine.toml")).machines["mine"].item

    assert (found.cores, found.unit("matrix").attributes["rows"]) == (2, 64)


@pytest.mark.parametrize("name", ["critical_but_patient", "spread"])
def test_the_policies_of_the_page_run_a_program(tmp_path: Path, name: str) -> None:
    b = Builder("doubled")
    x = b.input("x", "s", (500,))
    b.graph("main").output("y", x + x)
    path = plugin(tmp_path, "critical_but_patient")
    report = infinisa.load(b.model(), plugins=[path]).compile("tiny").simulate(policy=name)

    assert (report.policy, report.cycles > 0) == (name, True)


def test_the_unit_and_the_channel_of_the_page_take_the_time_they_say(tmp_path: Path) -> None:
    """A load of one tile, the addition, a store: 100 more at the first addition, two cycles until
    its results in place of 12, and 10 for each of the two transfers."""
    b = Builder("doubled")
    x = b.input("x", "s", (8,))
    b.graph("main").output("y", x + x)
    model = infinisa.load(b.model(), plugins=[plugin(tmp_path, "warming_up")])
    tiny = model.registry.machines["tiny"].item
    dram = replace(tiny.dram, channel=Channel(sharing="metered"))
    units = [replace(u, process="warming_up" * (u.name == "vector")) for u in tiny.units]
    changed = replace(tiny, units=tuple(units), memories=(tiny.scratchpad, dram))
    before, after = (model.compile(m).simulate().cycles for m in (tiny, changed))

    assert after - before == 100 - (tiny.unit("vector").attributes["latency"] - 2) + 2 * 10


def test_a_folder_names_the_tokenizer_of_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(PYTHON_LM, folder)
    tokenizer = {"model": {"type": "Letters", "letters": "abc"}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    path = plugin(tmp_path, "infinisa_tokenizers")
    operators = {
        node.operator
        for graph in infinisa.load(folder, plugins=[path]).model.graphs
        for node in everything(graph.roots)
        if isinstance(node, Opaque)
    }
    readers = {name: found.item for name, found in loaded(path).tokenizers.items()}

    assert "encode_character" in operators
    assert load_tokenizer(folder, readers).ids("cabx") == [3, 1, 2, 0]
    with pytest.raises(ModelError, match="must be one of BPE, WordPiece, WordLevel"):
        infinisa.load(folder)


def test_the_command_line_has_the_verb_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(tmp_path, "infinisa_commands")

    assert main(["letters", "abc", "--plugin", str(path), "de"]) == 0
    assert capsys.readouterr().out == "5\n"
    assert main(["list", "commands", "--plugin", str(path)]) == 0
    assert "letters" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["letters", "abc"])


def test_the_backend_of_the_page_runs_a_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    b = Builder("doubled")
    x = b.input("x", "s", (5,))
    b.graph("main").output("y", x + x)
    compiled = infinisa.load(b.model(), plugins=[plugin(tmp_path, "timed")]).compile("tiny")
    values = np.arange(5, dtype=np.float32)
    (y,) = compiled.run("timed", inputs={"x": values}).outputs.values()

    assert y.tolist() == [0, 2, 4, 6, 8]
    assert re.fullmatch(r"doubled: \d+\.\d{3} s\n", capsys.readouterr().out)
