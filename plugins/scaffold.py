"""A new plugin as a package: one instruction, a model that uses it, tests, ready to install."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import Path
from string import Template

from infinisa.isa.errors import PluginError

from .manager import Registry

NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
"""What is a Python identifier and, with infinisa- before it, the name of a distribution."""

USED = ("Builder", "dot", "hookimpl", "infinisa", "instruction", "model", "np", "tanh", "x", "cap")
"""Names that the package's files use themselves."""

FILES: Mapping[str, str] = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "infinisa-$name"
version = "0.1.0"
description = "An InfinISA plugin: the instruction $name"
requires-python = ">=3.11"
dependencies = ["infinisa"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points.infinisa]
$name = "infinisa_$name"

[tool.hatch.build]
dev-mode-dirs = ["."]

[tool.hatch.build.targets.wheel]
only-include = ["infinisa_$name.py"]
""",
    "infinisa_$name.py": '''\
"""The instruction $name: what it computes, how long it takes, and a model that uses it."""

import numpy as np

from infinisa import dot, hookimpl, instruction, tanh
from infinisa.compiler.builder import Builder


# What it computes, on one axis m: every other axis of a model becomes a loop. `cap` has a default,
# so it is an immediate: the compiler finds its value in the model. The first line of the docstring
# is what `infinisa list instructions` shows; say where the formula comes from.
@instruction(unit="vector")
def $name(x: "m", cap=50.0):
    """Numbers squashed smoothly to ±cap, as Gemma 2 does to logits (arXiv 2408.00118)."""
    return cap * tanh(x / cap)


# How long one issue takes: a function of axes, immediates and attributes of the unit, in integers;
# a quotient rounds up. Without it the cycles follow from the operations.
@$name.timing
def $name(m, lanes):
    return 4 * m / lanes + 8


# The gradient, here as it would be derived: of each operand, given that of the result.
@$name.gradient
def $name(x, cap, g):
    squashed = tanh(x / cap)
    return g * (1.0 - squashed * squashed)


def model():
    """Scores of 64 queries against 64 keys, capped at ±30."""
    b = Builder("$name")
    query = b.input("query", "s d", (64, 32))
    key = b.weight("key", "t d", np.random.default_rng(0).normal(size=(64, 32)).astype("f4"))
    b.graph("main").output("scores", 30.0 * tanh(dot(query, key, "d") / 30.0))
    return b.model()


@hookimpl
def infinisa_instructions():
    return [$name]


@hookimpl
def infinisa_models():
    return {"$name": model}
''',
    "tests/test_$name.py": '''\
"""The instruction passes every check, the compiler finds it, and its values are right."""

import numpy as np

import infinisa


def test_every_check_passes():
    findings = infinisa.check("$name")

    assert findings
    assert [finding for finding in findings if not finding.passed] == []


def test_the_model_uses_it():
    program = infinisa.load("$name").compile("edge").program

    assert "$name" in [opcode.instruction for opcode in program.opcodes]


def test_the_values_are_those_of_numpy():
    loaded = infinisa.load("$name")
    query = np.random.default_rng(1).normal(size=(64, 32)).astype("f4")
    key = loaded.model.weights["key"].load()

    outputs = loaded.compile("edge").run(inputs={"query": query}).outputs

    wanted = 30 * np.tanh(query @ key.T / 30)
    np.testing.assert_allclose(outputs["main/scores"], wanted, rtol=1e-4, atol=1e-5)
''',
}


def write(name: str, directory: Path, registry: Registry) -> Path:
    """The package's folder, written whole or not at all; PluginError if there is one, or if the
    name is none or is taken."""
    where = f"plugin {name!r}"
    if not NAME.fullmatch(name) or iskeyword(name) or name in USED:
        raise PluginError(
            f"{where}: the name must be lower-case letters, digits and single underscores between "
            f"them, and none that its files use ({', '.join(USED)})"
        )
    taken = {
        "plugin": [origin.plugin for origin in registry.plugins],
        "instruction": registry.instructions,
        "model": registry.models,
    }
    for what, names in taken.items():
        if name in names:
            raise PluginError(f"{where}: the name must be new, there is {article(what)} of it")
    if not directory.is_dir():
        raise PluginError(f"{where}: {str(directory)!r} must be a folder that exists")
    folder = directory / name
    if folder.exists():
        raise PluginError(f"{where}: {str(folder)!r} must not exist yet")
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        draft = Path(temporary) / name
        for path, text in FILES.items():
            file = draft / Template(path).substitute(name=name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(Template(text).substitute(name=name), "utf-8")
        draft.rename(folder)
    return folder


def article(what: str) -> str:
    return f"an {what}" if what[0] in "aeiou" else f"a {what}"


def commands(folder: Path) -> str:
    """What to type next."""
    name = folder.name
    steps = (
        (f"pip install --editable {folder}", "found by its entry point from now on"),
        (f"infinisa check {name}", "the instruction against its definition"),
        (f"infinisa compare {name}", "its model: simulated, and run on this CPU"),
        (f"pytest {folder}", "its own tests"),
    )
    width = max(len(command) for command, _ in steps)
    lines = [f"{command:<{width}}  # {why}" for command, why in steps]
    return "\n".join([f"{folder} is written; infinisa_{name}.py is the file to edit", "", *lines])
