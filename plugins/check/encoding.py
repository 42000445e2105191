"""Programs of the instruction as text and as bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ml_dtypes import finfo

from infinisa.isa.assembly import parse_text, to_text
from infinisa.isa.dtypes import DTYPES, held, is_float
from infinisa.isa.encoding import decode, encode
from infinisa.isa.errors import InfinisaError
from infinisa.isa.instruction import Instruction
from infinisa.isa.verify import verify

from .finding import Fault, Note, Subject
from .sample import Sample, lengths_of


def encoding(subject: Subject) -> Iterator[Fault | Note]:
    """A program of one issue passes `verify`, and is the same after text and after bytes, with
    each immediate at its default and as small and as large as its type can hold."""
    made = subject.instruction
    defaults = made.held({i.name: i.default for i in made.immediates}) or {}
    try:
        verify(Sample(made, lengths_of(made), {}, defaults).program, None, subject.library)
        for numbers in ({}, defaults, *extremes(made)):
            yield from _again(Sample(made, lengths_of(made), {}, numbers))
    except InfinisaError as error:
        yield Fault(f"a program of one issue: {error}")


def extremes(made: Instruction) -> Iterator[dict[str, float | int]]:
    """The least and largest numbers, and the one next to 0, that typed immediates may have."""
    whole = {i.name: isinstance(i.default, int) for i in made.immediates}
    for name, kind in made.formats:
        numbers: tuple[float | int, ...] = (0, 1)
        if is_float(kind):
            about = finfo(DTYPES[kind].numpy)  # type: ignore[no-untyped-call]  # it has no types
            numbers = (float(about.min), float(about.max), float(about.smallest_subnormal))
        elif kind != "bool":
            limits = np.iinfo(DTYPES[kind].numpy)
            numbers = (int(limits.min), int(limits.max), 1)
        for number in numbers:
            kept = held(int(number) if whole[name] else float(number), kind)
            if kept is not None:  # the largest of 64 bits are no f64
                yield {name: kept}


def _again(sample: Sample) -> Iterator[Fault]:
    program = sample.program
    for form, again in (
        ("text", parse_text(to_text(program), "text")),
        ("bytes", decode(encode(program), "bytes")),
    ):
        if again != program:
            with_ = "".join(f", {name} = {number}" for name, number in sample.immediates.items())
            yield Fault(f"a program of one issue{with_} must be itself again after {form}")


def documentation(subject: Subject) -> Iterator[Fault | Note]:
    """There is a docstring."""
    if not subject.instruction.documentation.strip():
        yield Fault("must have a docstring: what it computes, and where that comes from")
