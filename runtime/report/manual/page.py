"""The manual as one page of HTML that needs nothing else: styles, search and formulas inside."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources
from string import Template

from ..mathml import display, inline
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

TITLE = "Instruction set"

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<nav aria-label="Instructions">
<a class="title" href="#top">$title</a>
<input id="search" type="search" placeholder="Search" aria-label="Search instructions"/>
<p id="none" hidden="hidden">Nothing found.</p>
$index
</nav>
<main id="top">
<header>
<h1>$title</h1>
$introduction
</header>
$sections
</main>
<script>
$script
</script>
</body>
</html>
""")


def page(manual: Manual) -> str:
    """The whole page."""
    folder = resources.files(__package__)
    return PAGE.substitute(
        title=TITLE,
        style=folder.joinpath("page.css").read_text("utf-8").strip(),
        script=folder.joinpath("page.js").read_text("utf-8").strip(),
        index=index(manual),
        introduction=_blocks(introduction(manual)),
        sections="\n".join(
            section(entry, manual)
            for _, families in manual.groups
            for _, entries in families
            for entry in entries
        ),
    )


def index(manual: Manual) -> str:
    """Links to all instructions, by unit and family."""
    parts = []
    for unit, families in manual.groups:
        parts.append(f"<section><h2>{escape(unit)}</h2>")
        for family, entries in families:
            links = "".join(
                f'<li><a href="#{e.name}"{_unused(e)}>{escape(e.name)}</a></li>' for e in entries
            )
            parts.append(f"<section><h3>{escape(family)}</h3><ul>{links}</ul></section>")
        parts.append("</section>")
    return "\n".join(parts)


def _unused(entry: Entry) -> str:
    return "" if entry.uses else ' class="unused"'


def section(entry: Entry, manual: Manual) -> str:
    """One instruction; `data-words` is what the search looks in."""
    instruction = entry.instruction
    words = [entry.name, entry.plugin, entry.distribution, instruction.unit]
    words += [leaf.name for leaf in (*instruction.operands, *instruction.results)]
    words += [instruction.documentation, *(node for use in entry.uses for node in use.nodes)]
    found = escape(" ".join(dict.fromkeys(" ".join(words).lower().split())))
    return (
        f'<article id="{entry.name}" data-words="{found}">\n<h2>{_anchor(entry.name)}</h2>\n'
        f"{_blocks(contents(entry, manual))}\n</article>"
    )


def _anchor(name: str) -> str:
    return f'<a href="#{name}">{escape(name)}</a>'


def _blocks(blocks: Iterable[Block]) -> str:
    return "\n".join(map(_block, blocks))


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h3>{escape(text)}</h3>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Code(text, _):
            return f"<pre><code>{escape(text)}</code></pre>"
        case Equations(equations):
            return f'<div class="wide">{display(equations)}</div>'
        case Table():
            return _table(block)
        case Fold(title, inside):
            summary = f"<summary>{escape(title)}</summary>"
            return f"<details>{summary}\n{_blocks(inside)}\n</details>"


def _table(table: Table) -> str:
    sides = [' class="number"' if h in table.numbers else "" for h in table.headings]
    head = "".join(
        f"<th{side}>{escape(heading)}</th>"
        for side, heading in zip(sides, table.headings, strict=True)
    )
    rows = "\n".join(
        "<tr>"
        + "".join(f"<td{s}>{_text(cell)}</td>" for s, cell in zip(sides, cells, strict=True))
        + "</tr>"
        for cells in table.rows
    )
    inside = f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    return f'<div class="wide"><table>{inside}</table></div>'


def _text(text: Text) -> str:
    parts = []
    for part in text:
        match part:
            case Mono(code):
                parts.append(f"<code>{escape(code)}</code>")
            case Link(target):
                parts.append(_anchor(target))
            case Math(box):
                parts.append(inline(box))
            case str():
                parts.append(escape(part))
    return "".join(parts)
