"""Programs of the instruction as text and as bytes."""

from __future__ import annotations

from collections.abc import Iterator

from infinisa.isa.assembly import parse_text, to_text
from infinisa.isa.encoding import decode, encode
from infinisa.isa.errors import InfinisaError
from infinisa.isa.verify import verify

from .finding import Fault, Note, Subject
from .sample import Sample, lengths_of


def encoding(subject: Subject) -> Iterator[Fault | Note]:
    """A program of one issue passes `verify`, and is the same after text and after bytes."""
    made = subject.instruction
    program = Sample(made, lengths_of(made)).program
    try:
        verify(program, None, subject.library)
        for form, again in (
            ("text", parse_text(to_text(program), "text")),
            ("bytes", decode(encode(program), "bytes")),
        ):
            if again != program:
                yield Fault(f"a program of one issue must be itself again after {form}")
    except InfinisaError as error:
        yield Fault(f"a program of one issue: {error}")


def documentation(subject: Subject) -> Iterator[Fault | Note]:
    """There is a docstring."""
    if not subject.instruction.documentation.strip():
        yield Fault("must have a docstring: what it computes, and where that comes from")
