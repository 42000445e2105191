"""The layers of docs/architecture.md, checked: who may import whom, and how.

src/infinisa          the facade and the command line
plugins/              the contract and everything built on it
compiler/ | runtime/  model to program | program to values and cycles
isa/                  the language, instructions, machines, programs
"""

import ast
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BELOW = {
    "isa": set[str](),
    "compiler": {"isa"},
    "runtime": {"isa"},
    "plugins": {"isa", "compiler", "runtime"},
    "facade": {"isa", "compiler", "runtime", "plugins"},
}
"""The folders that the files of each folder may import from, besides their own."""

STAGES = (
    *("compiler/equality", "compiler/schedule", "compiler/selection", "compiler/explanation"),
    *("runtime/jit/code", "runtime/jit/expressions", "runtime/jit/contraction"),
    *("runtime/jit/kernels", "runtime/jit/rewriting", "runtime/jit/program"),
)
"""Folders of which each may import from those before it."""

FOLDERS = tuple(folder for folder in BELOW if folder != "facade")

OPTIONAL = {
    "onnx": ("compiler/readers/",),
    "torch": ("compiler/readers/",),
    "tokenizers": ("compiler/readers/", "plugins/"),
}
"""Packages that come with an extra, and where functions may import them."""

ISA_NEEDS = {"ml_dtypes", "numpy", "pydantic"}


@dataclass(frozen=True)
class Import:
    """One imported module: `name` as written, dots included, at `line` of `file`.

    lazy: inside a function, so that it costs and fails only when called. Imports under
    `if TYPE_CHECKING` never run, and count as lazy too.
    """

    file: str
    line: int
    name: str
    lazy: bool

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def folder(self) -> str:
        """The folder that the importing file belongs to."""
        first = self.file.split("/")[0]
        return first if first in FOLDERS else "facade"

    @property
    def package(self) -> str:
        """The top-level package, or "" for a relative import."""
        return self.name.split(".")[0]

    @property
    def target(self) -> str | None:
        """The folder of ours that is imported by its full name, if one is."""
        match self.name.split("."):
            case ["infinisa", folder, *_] if folder in FOLDERS:
                return folder
            case ["infinisa", *_]:
                return "facade"
        return None

    @property
    def escapes(self) -> bool:
        """Whether a relative import leaves the file's folder."""
        if not self.name.startswith("."):
            return False
        within = self.name.lstrip(".")
        if self.folder == "facade":
            return within.split(".")[0] in FOLDERS
        steps_up = len(self.name) - len(within) - 1
        return steps_up >= self.file.count("/")

    @property
    def stage(self) -> str:
        """The folder of `STAGES` that a relative import leads into, or ""."""
        within = self.name.lstrip(".")
        parents = Path(self.file).parents
        reached = parents[min(len(self.name) - len(within), len(parents)) - 1]
        leads = reached / within.split(".")[0] if self.name != within else Path()
        return next((s for s in STAGES if leads.is_relative_to(s)), "")


Rule = Callable[[Iterable[Import]], list[str]]


def imports_in(source: str, file: str) -> Iterator[Import]:
    """Every import of a file, wherever it stands."""

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names):
                for alias in names:
                    yield Import(file, node.lineno, alias.name, lazy)
            case ast.ImportFrom(module=None, names=names, level=level):
                for alias in names:
                    yield Import(file, node.lineno, "." * level + alias.name, lazy)
            case ast.ImportFrom(module="infinisa", names=names, level=0):
                for alias in names:
                    yield Import(file, node.lineno, f"infinisa.{alias.name}", lazy)
            case ast.ImportFrom(module=module, level=level):
                yield Import(file, node.lineno, "." * level + str(module), lazy)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                lazy = True
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                lazy = True
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    return visit(ast.parse(source), lazy=False)


def files_of(folder: str) -> Iterable[Path]:
    """The Python files of a folder; those of the facade lie beside the four links."""
    if folder == "facade":
        return (ROOT / "src" / "infinisa").glob("*.py")
    return (ROOT / folder).rglob("*.py")


@cache
def project_imports() -> tuple[Import, ...]:
    return tuple(
        found
        for folder in BELOW
        for path in sorted(files_of(folder))
        for found in imports_in(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    )


def above(imports: Iterable[Import]) -> list[str]:
    """Imports that point up, or sideways between compiler and runtime."""
    return [
        f"{found.place} imports {found.name}: {found.folder} may import only"
        f" {', '.join(sorted(BELOW[found.folder])) or 'itself'}"
        for found in imports
        if found.target and found.target not in BELOW[found.folder] | {found.folder}
    ]


def backwards(imports: Iterable[Import]) -> list[str]:
    """Imports of a stage by one that is before it."""
    return [
        f"{found.place} imports {found.name}: {stage} comes before {found.stage}"
        for found in imports
        for stage in STAGES
        if found.file.startswith(f"{stage}/") and found.stage > ""
        if STAGES.index(stage) < STAGES.index(found.stage)
    ]


def bare(imports: Iterable[Import]) -> list[str]:
    """Imports of a folder by its bare name: it works from the root, and doubles every class."""
    return [
        f"{found.place} imports {found.name}: write infinisa.{found.name}"
        for found in imports
        if found.package in FOLDERS
    ]


def roundabout(imports: Iterable[Import]) -> list[str]:
    """Imports of a file's own folder by its full name."""
    return [
        f"{found.place} imports {found.name}: write a relative import inside {found.folder}"
        for found in imports
        if found.folder == found.target and found.folder != "facade"
    ]


def escaping(imports: Iterable[Import]) -> list[str]:
    """Relative imports that leave the file's folder."""
    return [
        f"{found.place} imports {found.name}: write infinisa.<folder> across folders"
        for found in imports
        if found.escapes
    ]


def pluggy_outside(imports: Iterable[Import]) -> list[str]:
    """Imports of pluggy where plugins are not managed."""
    return [
        f"{found.place} imports pluggy: only plugins and the facade know it"
        for found in imports
        if found.package == "pluggy" and found.folder not in ("plugins", "facade")
    ]


def eager_or_misplaced(imports: Iterable[Import]) -> list[str]:
    """Imports of optional packages outside functions, or outside the files that read with them."""
    return [
        f"{found.place} imports {found.package}: do so inside a function of"
        f" {' or '.join(OPTIONAL[found.package])}"
        for found in imports
        if found.package in OPTIONAL
        if not (found.lazy and found.file.startswith(OPTIONAL[found.package]))
    ]


def heavy_isa(imports: Iterable[Import]) -> list[str]:
    """Imports in isa of more than numbers and checks."""
    return [
        f"{found.place} imports {found.package}: isa needs only {', '.join(sorted(ISA_NEEDS))}"
        for found in third_party(imports)
        if found.folder == "isa" and found.package not in ISA_NEEDS
    ]


def undeclared(imports: Iterable[Import], declared: set[str]) -> list[str]:
    """Imports of packages that an install would not bring."""
    return [
        f"{found.place} imports {found.package}: it is no dependency in pyproject.toml"
        for found in third_party(imports)
        if found.package not in declared | set(OPTIONAL)
    ]


def third_party(imports: Iterable[Import]) -> Iterator[Import]:
    ours = {"", "infinisa", *FOLDERS}
    return (
        found
        for found in imports
        if found.package not in ours and found.package not in sys.stdlib_module_names
    )


def test_imports_point_down() -> None:
    assert above(project_imports()) == []


def test_stages_import_those_before() -> None:
    assert backwards(project_imports()) == []


def test_no_folder_is_imported_by_its_bare_name() -> None:
    tests = [
        found
        for path in (ROOT / "tests").rglob("*.py")
        for found in imports_in(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]

    assert bare([*project_imports(), *tests]) == []


def test_imports_inside_a_folder_are_relative() -> None:
    assert roundabout(project_imports()) == []


def test_imports_across_folders_are_absolute() -> None:
    assert escaping(project_imports()) == []


def test_only_plugins_and_the_facade_know_pluggy() -> None:
    assert pluggy_outside(project_imports()) == []


def test_optional_packages_are_imported_where_and_when_needed() -> None:
    assert eager_or_misplaced(project_imports()) == []


def test_isa_needs_only_numbers_and_checks() -> None:
    assert heavy_isa(project_imports()) == []


def test_every_imported_package_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {dependency.split(">=")[0] for dependency in project["dependencies"]}

    assert undeclared(project_imports(), declared) == []


def test_the_links_lead_to_the_folders() -> None:
    """A checkout without links (Windows, core.symlinks=false) would import nothing of ours."""
    for folder in FOLDERS:
        link = ROOT / "src" / "infinisa" / folder
        assert link.resolve() == ROOT / folder


# Each rule sees what it is for: without this, a rule that finds nothing might look at nothing.


@pytest.mark.parametrize(
    ("rule", "file", "source", "fault"),
    [
        (
            above,
            "isa/a.py",
            "from infinisa.compiler.graph import Graph",
            "isa/a.py:1 imports infinisa.compiler.graph: isa may import only itself",
        ),
        (
            above,
            "compiler/a.py",
            "def f():\n    from infinisa import runtime",
            "compiler/a.py:2 imports infinisa.runtime: compiler may import only isa",
        ),
        (
            above,
            "plugins/a.py",
            "from infinisa import compare",
            "plugins/a.py:1 imports infinisa.compare: plugins may import only"
            " compiler, isa, runtime",
        ),
        (
            backwards,
            "compiler/equality/oracle/a.py",
            "from ...selection.match import Match",
            "compiler/equality/oracle/a.py:1 imports ...selection.match:"
            " compiler/equality comes before compiler/selection",
        ),
        (
            backwards,
            "compiler/schedule/a.py",
            "from ..selection import match",
            "compiler/schedule/a.py:1 imports ..selection:"
            " compiler/schedule comes before compiler/selection",
        ),
        (
            bare,
            "runtime/a.py",
            "import isa.machine",
            "runtime/a.py:1 imports isa.machine: write infinisa.isa.machine",
        ),
        (
            roundabout,
            "isa/a.py",
            "from infinisa.isa.errors import MachineError",
            "isa/a.py:1 imports infinisa.isa.errors: write a relative import inside isa",
        ),
        (
            escaping,
            "compiler/readers/a.py",
            "from ...isa import errors",
            "compiler/readers/a.py:1 imports ...isa: write infinisa.<folder> across folders",
        ),
        (
            escaping,
            "src/infinisa/cli.py",
            "from .isa import errors",
            "src/infinisa/cli.py:1 imports .isa: write infinisa.<folder> across folders",
        ),
        (
            pluggy_outside,
            "isa/a.py",
            "import pluggy",
            "isa/a.py:1 imports pluggy: only plugins and the facade know it",
        ),
        (
            eager_or_misplaced,
            "compiler/readers/onnx.py",
            "import onnx.helper",
            "compiler/readers/onnx.py:1 imports onnx: do so inside a function of compiler/readers/",
        ),
        (
            eager_or_misplaced,
            "runtime/a.py",
            "def f():\n    import torch",
            "runtime/a.py:2 imports torch: do so inside a function of compiler/readers/",
        ),
        (
            heavy_isa,
            "isa/a.py",
            "import llvmlite",
            "isa/a.py:1 imports llvmlite: isa needs only ml_dtypes, numpy, pydantic",
        ),
        (
            lambda imports: undeclared(imports, {"numpy"}),
            "runtime/a.py",
            "import numpy, os, scipy.linalg",
            "runtime/a.py:1 imports scipy: it is no dependency in pyproject.toml",
        ),
    ],
)
def test_a_rule_finds_what_breaks_it(rule: Rule, file: str, source: str, fault: str) -> None:
    assert rule(list(imports_in(source, file))) == [fault]


def test_lazy_relative_and_downward_imports_break_no_rule() -> None:
    source = """
from typing import TYPE_CHECKING

from infinisa.isa.machine import Machine

from ..graph import Graph

if TYPE_CHECKING:
    import torch

def read():
    import onnx
"""
    found = list(imports_in(source, "compiler/readers/a.py"))

    assert len(found) == 5
    for rule in (
        above,
        backwards,
        bare,
        roundabout,
        escaping,
        pluggy_outside,
        eager_or_misplaced,
        heavy_isa,
    ):
        assert rule(found) == []
