"""The manual as one Markdown file, formulas as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..latex import display, latex
from .blocks import (
    Block,
    Code,
    Equations,
    Fold,
    Heading,
    Link,
    Math,
    Mono,
    Paragraph,
    Table,
    Text,
)
from .contents import Entry, Manual, contents, introduction

SPECIAL = re.compile(r"[*<|\\]")
"""What in running text would mean something to Markdown."""


def markdown(manual: Manual) -> str:
    """The whole manual."""
    parts = ["# Instruction set", *_blocks(introduction(manual)), "## Index", *index(manual)]
    for _, families in manual.groups:
        for _, entries in families:
            parts += [section(entry, manual) for entry in entries]
    return "\n\n".join(parts) + "\n"


def index(manual: Manual) -> Iterator[str]:
    for unit, families in manual.groups:
        lines = [
            f"* **{family}**: {_text(tuple(_spread(entries)))}" for family, entries in families
        ]
        yield "\n".join([f"### On {unit}", "", *lines])


def _spread(entries: list[Entry]) -> Iterator[str | Link]:
    for number, entry in enumerate(entries):
        if number:
            yield ", "
        yield Link(entry.name)


def section(entry: Entry, manual: Manual) -> str:
    """One instruction."""
    return "\n\n".join([f"## {entry.name}", *_blocks(contents(entry, manual))])


def _blocks(blocks: list[Block]) -> Iterator[str]:
    for block in blocks:
        match block:
            case Heading(text):
                yield f"### {text}"
            case Paragraph(text):
                yield _text(text)
            case Code(text, language):
                fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 0)
                yield f"{fence}{language}\n{text}\n{fence}"
            case Equations(equations):
                yield f"```math\n{display(equations)}\n```"
            case Table():
                yield _table(block)
            case Fold(title, inside):
                yield f"**{title}**"
                yield from _blocks(list(inside))


def _table(table: Table) -> str:
    rules = ("---:" if heading in table.numbers else "---" for heading in table.headings)
    lines = [_row(table.headings), _row(rules)]
    lines += [_row(map(_text, cells)) for cells in table.rows]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(text: Text) -> str:
    parts = []
    for part in text:
        match part:
            case Mono(code):
                parts.append(f"`{code}`")
            case Link(target):
                parts.append(f"[{target}](#{target})")
            case Math(box):
                parts.append(f"${latex(box)}$")
            case str():
                parts.append(SPECIAL.sub(r"\\\g<0>", part))
    return "".join(parts)
