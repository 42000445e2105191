"""The example plugin as a third party would use it: installed by pip, found by its entry point."""

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from infinisa.api import Compiled, load
from infinisa.cli import parser

ROOT = Path(__file__).parents[1]
SOFTCAP = ROOT / "examples" / "softcap"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the example."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(folder), str(SOFTCAP)]
    subprocess.run(command, check=True)
    return folder


def infinisa(site: Path, *arguments: str) -> str:
    """What the command prints in an environment that has the plugin."""
    path = os.pathsep.join([str(site), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "infinisa", *arguments],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_an_installed_plugin_is_listed_with_its_distribution_and_version(site: Path) -> None:
    """One row of the table of instructions names the plugin, its distribution and its version."""
    (row,) = [
        line for line in infinisa(site, "list", "instructions").splitlines() if "softcap_" in line
    ]

    assert "softcap" in row
    assert "infinisa-softcap" in row
    assert "1.2.0" in row


def test_the_manual_says_where_an_installed_plugin_came_from(site: Path, tmp_path: Path) -> None:
    """In both files: the plugin, its distribution and version, beside what InfinISA ships."""
    said = infinisa(site, "manual", "--output", str(tmp_path), "--machine", "tiny")
    text, page = ((tmp_path / f"manual.{kind}").read_text("utf-8") for kind in ("md", "html"))

    assert [line.split(":")[0] for line in said.splitlines()] == [
        str(tmp_path / "manual.md"),
        str(tmp_path / "manual.html"),
    ]
    assert "\n## softcap_softmax\n" in text
    assert "Plugin `softcap` of `infinisa-softcap` 1.2.0." in text
    assert "Plugin <code>softcap</code> of <code>infinisa-softcap</code> 1.2.0." in page
    assert "\n## matmul\n" in text


def test_a_model_uses_the_instruction_of_an_installed_plugin(site: Path, tmp_path: Path) -> None:
    """Soft-capped attention compiles to the new instruction; without the plugin it does not."""
    script = ROOT / "examples" / "softcap" / "model.py"
    path = os.pathsep.join([str(site), *sys.path])
    with_plugin = run_script(script, path)
    without = run_script(script, os.pathsep.join(sys.path))

    assert "softcap_softmax" in with_plugin
    assert "softcap_softmax" not in without


def run_script(script: Path, path: str) -> str:
    return subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language; "" for those that name none."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [code for name, code in found if name == language]


def test_the_readme_shows_commands_that_there_are() -> None:
    """Every `infinisa` line of the README is one that the command line takes."""
    lines = [line for block in blocks("") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("infinisa ")]
    for command in commands:
        parser().parse_args(shlex.split(command, comments=True)[1:])

    assert len(commands) >= 7


def test_the_readme_shows_python_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The Python use prints a simulation and a comparison."""
    (code,) = [block for block in blocks("python") if "infinisa.load(" in block]
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out

    assert "python_lm on edge" in printed
    assert "this CPU" in printed


def test_the_readme_shows_the_example_as_it_is() -> None:
    """The code in the README is the file that is tested."""
    code = (SOFTCAP / "infinisa_softcap.py").read_text().split('"""\n', 1)[1].strip()

    assert code in (ROOT / "README.md").read_text()


GATED = ROOT / "examples" / "gated.py"


def test_the_readme_shows_what_the_gated_instruction_changes() -> None:
    """Without the plugin and with it: the cycles that the README prints."""
    text = (ROOT / "README.md").read_text()
    before, after = (
        load("python_lm", plugins=plugins).compile("edge") for plugins in ([], [GATED])
    )
    cycles = [
        {section.name: f"{section.cycles:,}" for section in compiled.simulate().sections}
        for compiled in (before, after)
    ]

    assert GATED.read_text().strip() in text
    assert "gated_matmul" not in used(before)
    assert used(after)["gated_matmul"] == 4
    for part in ("prefill", "decode"):
        assert all(found[part] in text for found in cycles)
        assert cycles[0][part] != cycles[1][part]


def used(compiled: Compiled) -> Counter[str]:
    """How often the prefill calls each instruction."""
    assert compiled.compilation is not None
    coverage = compiled.compilation.coverage["prefill"]
    return Counter({name: share.calls for name, share in coverage.instructions.items()})
