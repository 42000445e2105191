"""The instruction set in force as a manual: one Markdown file, one page of HTML."""

from .contents import Busy, Entry, Manual, Use
from .encoded import Example, examples, only_opcodes, own_opcode
from .markdown import markdown
from .page import page

__all__ = [
    "Busy",
    "Entry",
    "Example",
    "Manual",
    "Use",
    "examples",
    "markdown",
    "only_opcodes",
    "own_opcode",
    "page",
]
