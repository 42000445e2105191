"""A new plugin, from its command to a model that uses its instruction, as a newcomer has it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infinisa.cli import main
from infinisa.isa.errors import PluginError
from infinisa.plugins import scaffold
from infinisa.plugins.manager import load

LOADED = load(installed=False)


def environment(site: Path) -> dict[str, str]:
    path = os.pathsep.join([str(site), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200"}


def run(site: Path, *arguments: str) -> str:
    """What a Python command prints where the plugin is installed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(site),
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a new plugin."""
    folder = tmp_path_factory.mktemp("work")
    assert main(["new-plugin", "soft_cap", "--dir", str(folder)]) == 0
    return folder / "soft_cap"


@pytest.fixture(scope="module")
def site(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(folder), str(written)]
    subprocess.run(command, check=True)
    return folder


def test_its_own_tests_pass(written: Path, site: Path) -> None:
    assert "3 passed" in run(site, "-m", "pytest", "-q", str(written))


def test_an_installed_plugin_is_checked_by_its_name(site: Path) -> None:
    printed = run(site, "-m", "infinisa", "check", "soft_cap")

    assert "1 instructions, 10 checks: all passed" in printed


def test_its_model_uses_its_instruction(site: Path) -> None:
    """The table has the model's cycles and its speed on this CPU."""
    program = site / "soft_cap.iasm"
    run(site, "-m", "infinisa", "compile", "soft_cap", "--machine", "edge", "-o", str(program))
    printed = run(site, "-m", "infinisa", "compare", "soft_cap", "--machine", "edge")

    assert "soft_cap(" in program.read_text()
    assert "cycles" in printed


def test_a_folder_is_checked_without_installing_it(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a copy that was edited: what fails is said, and the command's status is 1."""
    file = written / "infinisa_soft_cap.py"
    text = file.read_text()
    file.write_text(text.replace("return 4 * m / lanes + 8", "return 4000 - m"))
    report = written.parent / "report.json"
    try:
        status = main(["check", str(written), "--json", str(report)])
    finally:
        file.write_text(text)
    printed = capsys.readouterr().out

    assert status == 1
    assert "failed soft_cap, timing: on edge at m=2: occupancy must not fall" in printed
    assert "1 of 1 instructions failed" in printed
    assert '"passed": false' in report.read_text()


def test_the_next_commands_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-plugin", "warp", "--dir", str(tmp_path)]) == 0

    printed = capsys.readouterr().out
    assert f"pip install --editable {tmp_path / 'warp'}" in printed
    assert "infinisa check warp" in printed
    assert "infinisa compare warp" in printed
    assert sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    ) == ["warp/infinisa_warp.py", "warp/pyproject.toml", "warp/tests/test_warp.py"]


RULE = (
    "the name must be lower-case letters, digits and single underscores between them, and none "
    "that its files use (Builder, dot, hookimpl, infinisa, instruction, model, np, tanh, x, cap)"
)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Warp", RULE),
        ("my-plugin", RULE),
        ("_warp", RULE),
        ("1d", RULE),
        ("class", RULE),
        ("dot", RULE),
        ("../warp", RULE),
        ("machines", "the name must be new, there is a plugin of it"),
        ("relu", "the name must be new, there is an instruction of it"),
        ("python_lm", "the name must be new, there is a model of it"),
    ],
)
def test_a_name_must_be_one_and_new(tmp_path: Path, name: str, rule: str) -> None:
    with pytest.raises(PluginError) as caught:
        scaffold.write(name, tmp_path, LOADED)

    assert str(caught.value) == f"plugin {name!r}: {rule}"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "warp").mkdir()
    with pytest.raises(PluginError) as caught:
        scaffold.write("warp", tmp_path, LOADED)
    assert str(caught.value) == f"plugin 'warp': '{tmp_path / 'warp'}' must not exist yet"

    with pytest.raises(PluginError) as caught:
        scaffold.write("warp", tmp_path / "none", LOADED)
    assert str(caught.value) == (
        f"plugin 'warp': '{tmp_path / 'none'}' must be a folder that exists"
    )
