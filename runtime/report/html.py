"""Pages that need nothing else: the tables of `text.py` as HTML."""

from __future__ import annotations

from html import escape
from io import StringIO

from rich.console import Console, RenderableType
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

WIDTH = 170

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ margin: 2em; background: white; color: black; }}
pre {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(content: RenderableType, title: str) -> str:
    """A whole page with the content."""
    return PAGE.format(title=escape(title), body=fragment(content))


def fragment(content: RenderableType) -> str:
    """The content for a page or a notebook's cell: preformatted text with inline styles."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(content)
    return console.export_html(
        theme=DEFAULT_TERMINAL_THEME, inline_styles=True, code_format="<pre>{code}</pre>"
    )
