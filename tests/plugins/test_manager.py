"""Plugins: what is found, what is refused, what is reported."""

import re
import types
from importlib import metadata
from pathlib import Path

import pytest

from infinisa.isa.errors import PluginError
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Node, exp
from infinisa.isa.laws import StepOf
from infinisa.plugins.hookspec import hookimpl
from infinisa.plugins.manager import Origin, Registry, load

DOUBLE = '''
from infinisa.isa.instruction import instruction
from infinisa.plugins.hookspec import hookimpl

@instruction(unit="vector")
def double(x: "m"):
    """Twice the operand."""
    return x + x

@hookimpl
def infinisa_instructions():
    return [double]
'''


def vector_instruction(name: str, law: StepOf | None = None) -> Instruction:
    def body(x: Node) -> Node:
        return exp(x)

    body.__annotations__["x"] = "m"
    return instruction(unit="vector", name=name, step_of=law)(body)


def plugin(**hooks: object) -> types.SimpleNamespace:
    """An object whose hooks return the given values."""

    def hook(value: object) -> object:
        @hookimpl
        def function() -> object:
            if isinstance(value, Exception):
                raise value
            return value

        return function

    return types.SimpleNamespace(**{name: hook(value) for name, value in hooks.items()})


def load_only(**plugins: object) -> Registry:
    return load(plugins=plugins, installed=False)


def refusal(**plugins: object) -> str:
    with pytest.raises(PluginError) as caught:
        load_only(**plugins)
    return str(caught.value)


def test_what_is_shipped_comes_through_the_hooks() -> None:
    registry = load(installed=False)

    entry = registry.instructions["matmul"]
    assert entry.item is registry.library["matmul"]
    assert entry.origin.plugin == "families.linear"
    assert entry.origin.distribution == "infinisa"
    assert set(registry.machines) >= {"tiny", "edge", "datacenter", "tpu_v1"}
    assert registry.failures == ()


def test_a_plain_file_is_a_plugin_and_its_version_is_a_hash_of_its_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(DOUBLE)

    registry = load([file], installed=False)

    assert registry.library["double"].documentation == "Twice the operand."
    assert registry.instructions["double"].origin == Origin("mine", "mine.py", "4c9072b01422")


def test_an_installed_plugin_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_isa.py").write_text(DOUBLE)
    monkeypatch.syspath_prepend(tmp_path)
    point = metadata.EntryPoint("my_isa", "my_isa", "infinisa")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])

    assert load().instructions["double"].origin == Origin("my_isa", "my_isa", "0")


def test_a_name_can_be_defined_once() -> None:
    mine = plugin(infinisa_instructions=[vector_instruction("matmul")])

    assert refusal(mine=mine) == (
        "plugin 'mine': infinisa_instructions: name 'matmul' must be new, "
        "plugin 'families.linear' has it already"
    )


def test_a_misspelled_hook_is_refused_with_the_nearest_name() -> None:
    message = refusal(mine=plugin(infinisa_instruction=[]))

    assert message.startswith("plugin 'mine': infinisa_instruction is no hook: must be one of ")
    assert message.endswith("; did you mean infinisa_instructions?")


def test_a_hook_must_be_marked() -> None:
    mine = types.SimpleNamespace(infinisa_instructions=list)

    assert refusal(mine=mine) == (
        "plugin 'mine': infinisa_instructions must be a function marked with @hookimpl"
    )


def test_a_hook_takes_nothing() -> None:
    @hookimpl
    def infinisa_models(folder: str) -> dict[str, object]:
        return {}

    mine = types.SimpleNamespace(infinisa_models=infinisa_models)

    assert refusal(mine=mine) == (
        "plugin 'mine': infinisa_models must take no arguments, not (folder)"
    )


@pytest.mark.parametrize(
    ("hook", "value", "rule"),
    [
        ("infinisa_instructions", 3, "must return instructions, not int"),
        ("infinisa_instructions", [3], "must return instructions, not int"),
        (
            "infinisa_instructions",
            [vector_instruction("load")],
            "the name of an instruction must be an identifier other than load and store, "
            "not 'load'",
        ),
        ("infinisa_machines", ["tiny"], "must return machines or paths, not str"),
        ("infinisa_models", [], "must return functions by name, not list"),
        ("infinisa_backends", {"fast": 3}, "must return functions by name, not 'fast': 3"),
    ],
)
def test_a_hook_must_return_what_it_is_for(hook: str, value: object, rule: str) -> None:
    assert refusal(mine=plugin(**{hook: value})) == f"plugin 'mine': {hook} {rule}"


def test_a_law_names_instructions_that_exist() -> None:
    step = vector_instruction("step", StepOf("nothing", "m", "flash_finish"))

    assert refusal(mine=plugin(infinisa_instructions=[step])) == (
        "plugin 'mine': infinisa_instructions: the law of 'step' names 'nothing', "
        "which no plugin defines"
    )


def test_a_plugin_that_raises_is_reported_and_the_rest_go_on(tmp_path: Path) -> None:
    broken = plugin(infinisa_instructions=ValueError("no data"))
    file = tmp_path / "worse.py"
    file.write_text("def deep():\n    import nothing_of_this_name\n\ndeep()\n")
    good = plugin(infinisa_instructions=[vector_instruction("good")])

    registry = load([file], plugins={"broken": broken, "good": good}, installed=False)

    worse, raised = map(str, registry.failures)
    assert worse == (
        "plugin 'worse': cannot be loaded: worse.py, line 2: ModuleNotFoundError: No module named "
        "'nothing_of_this_name'"
    )
    pattern = r"plugin 'broken': infinisa_instructions raised .*, line \d+: ValueError: no data"
    assert re.fullmatch(pattern, raised)
    assert "good" in registry.instructions


def test_what_a_plugin_calls_is_not_blamed(tmp_path: Path) -> None:
    """The line is the plugin's, not that of the module in which it fails."""
    file = tmp_path / "calling.py"
    file.write_text("import json\n\nnumbers = json.loads('nothing')\n")
    (failure,) = load([file], installed=False).failures

    assert str(failure).startswith("plugin 'calling': cannot be loaded: calling.py, line 3: JSON")


def test_two_plugins_cannot_share_a_name(tmp_path: Path) -> None:
    file = tmp_path / "same.py"
    file.write_text(DOUBLE)

    with pytest.raises(PluginError) as caught:
        load([file, file], installed=False)

    assert str(caught.value) == (
        "plugin 'same' of same.py: same.py has a plugin of this name already"
    )


def test_a_plugin_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(PluginError) as caught:
        load([tmp_path / "none.py"], installed=False)

    assert str(caught.value) == f"plugin '{tmp_path / 'none.py'}': must be a .py file that exists"


def package(folder: Path, text: str = DOUBLE) -> Path:
    """A package that is not installed."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "my-isa"\nversion = "1.2"\n'
        '[project.entry-points.infinisa]\nmine = "my_folder_isa"\n'
    )
    (folder / "my_folder_isa.py").write_text(text)
    return folder


def test_a_folder_of_a_package_is_a_plugin_as_it_is_now(tmp_path: Path) -> None:
    """Its pyproject.toml names it; what was edited since it was loaded counts."""
    folder = package(tmp_path / "work")
    first = load([folder], installed=False).instructions["double"]
    (folder / "my_folder_isa.py").write_text(DOUBLE.replace("Twice", "Two times"))
    second = load([folder], installed=False).instructions["double"]

    assert first.origin == Origin("mine", "my-isa", "1.2")
    assert first.item.documentation == "Twice the operand."
    assert second.item.documentation == "Two times the operand."


def test_a_folder_stands_for_what_is_installed_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed copy is not loaded beside it."""
    point = metadata.EntryPoint("mine", "my_folder_isa", "infinisa")
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    folder = package(tmp_path / "work")

    assert load([folder]).instructions["double"].origin == Origin("mine", "my-isa", "1.2")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (None, "must be a folder with a pyproject.toml"),
        ("[project", "pyproject.toml cannot be read: "),
        ("[project]\nname = 'x'\n", "pyproject.toml must have [project.entry-points.infinisa]"),
    ],
)
def test_a_folder_must_name_its_plugins(tmp_path: Path, text: str | None, rule: str) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)

    with pytest.raises(PluginError) as caught:
        load([tmp_path], installed=False)

    assert str(caught.value).startswith(f"plugin {str(tmp_path)!r}: {rule}")


def test_a_module_of_a_folder_must_be_in_it(tmp_path: Path) -> None:
    folder = package(tmp_path / "work")
    (folder / "my_folder_isa.py").rename(tmp_path / "my_folder_isa.py")
    file = folder / "pyproject.toml"
    file.write_text(file.read_text().replace("my_folder_isa", "colorsys"))

    (failure,) = load([folder], installed=False).failures

    assert failure.plugin == "mine"
    assert f"module 'colorsys' must be in {folder}, not " in failure.message
