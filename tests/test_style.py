"""What the style asks for and ruff cannot see: lengths and suppressions that give a reason."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("isa", "compiler", "runtime", "plugins", "tests", "benchmarks", "examples")

LONGEST_FUNCTION = 50

LONG_REASON = re.compile(r"\s*# long: \S")
SUPPRESSION = re.compile(r"# (type: ignore|noqa)\b")
SUPPRESSION_WITH_REASON = re.compile(r"# (type: ignore\[[^]]+\]|noqa: [A-Z0-9, ]+)  # \S")


def python_files() -> Iterator[Path]:
    yield from (ROOT / "src" / "infinisa").glob("*.py")
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


def long_functions(source: str) -> Iterator[str]:
    """Functions over the limit that do not say why, on the line above or first in the body."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length <= LONGEST_FUNCTION:
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        beside = lines[max(0, first - 2) : first - 1] + lines[node.lineno : first_statement(node)]
        if not any(map(LONG_REASON.match, beside)):
            yield f"{node.lineno}: {node.name} has {length} lines: cut it, or say `# long: why`"


def first_statement(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The line of the first statement after the docstring."""
    after = node.body[1:] if ast.get_docstring(node) else node.body
    return (after or node.body)[0].lineno


def silent_suppressions(source: str) -> Iterator[str]:
    """Suppressed findings of mypy or ruff that name no rule or give no reason."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or not SUPPRESSION.match(token.string):
            continue
        if not SUPPRESSION_WITH_REASON.match(token.string):
            yield f"{token.start[0]}: {token.string!r} needs `[rule]` and `  # a reason` behind it"


@pytest.mark.parametrize(
    "path", sorted(python_files()), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_a_file_keeps_the_style(path: Path) -> None:
    source = path.read_text("utf-8")

    assert [*long_functions(source), *silent_suppressions(source)] == []


@pytest.mark.parametrize(
    ("above", "inside"), [("", ""), ("# long:\n", ""), ("", "    # it is long\n")]
)
def test_a_long_function_without_a_reason_is_found(above: str, inside: str) -> None:
    source = f'{above}def f() -> None:\n    """Why not."""\n{inside}' + "    pass\n" * 50
    line, length = 1 + above.count("\n"), 52 + inside.count("\n")

    assert list(long_functions(source)) == [
        f"{line}: f has {length} lines: cut it, or say `# long: why`"
    ]


@pytest.mark.parametrize(
    ("above", "inside"),
    [
        ("# long: one table\n", ""),
        ("# long: one table\n@staticmethod\n", ""),
        ("", "    # long: one table\n"),
        ("", '    """Docstring."""\n    # long: one table\n'),
    ],
)
def test_a_long_function_may_say_why(above: str, inside: str) -> None:
    source = f"{above}def f() -> None:\n{inside}" + "    pass\n" * 50

    assert list(long_functions(source)) == []


def test_a_suppression_names_its_rule_and_its_reason() -> None:
    source = """
x = 1  # type: ignore
x = 1  # type: ignore[misc]
x = 1  # noqa
x = 1  # type: ignore[misc]  # the stub of f is wrong
x = 1  # noqa: E501  # a long address
x = "# noqa"
"""

    assert [fault.split(":")[0] for fault in silent_suppressions(source)] == ["2", "3", "4"]
