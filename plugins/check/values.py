"""Values: the trace is sound, and every backend computes what the language says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray

from infinisa.isa.dtypes import held, is_float
from infinisa.isa.errors import InfinisaError, LanguageError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Immediate, everything

from .comparison import FEW, cuts, difference, finite
from .finding import Fault, Note, Subject
from .sample import KINDS, PRIMES, Sample, lengths_of, result

Array = NDArray[Any]

TYPES = ("f32", "bf16", "f16", "i8")
"""What operands of a float type are read from memory as."""


def tracing(subject: Subject) -> Iterator[Fault | Note]:
    """Everything that is declared is used, and there is a value at any lengths."""
    made = subject.instruction
    if made.opaque:
        yield Note("opaque: its body is not traced")
        return
    used = set(everything(made.outputs))
    for leaf in (*made.operands, *(state.input for state in made.states)):
        if leaf not in used:
            yield Fault(f"operand {leaf.name!r} must be used by a result")
    for number in made.immediates:
        if number not in used:
            yield Fault(f"immediate {number.name!r} must be used by a result")
    for sizes in (PRIMES, (1,)):
        sample = Sample(made, lengths_of(made, sizes))
        try:
            sample.evaluate(sample.arrays("random"))
        except LanguageError as error:
            yield Fault(f"at {sample}: must have a value, but {error}")


def backends(subject: Subject) -> Iterator[Fault | Note]:
    """On random and extreme values of every type, all backends give the language's values."""
    made = subject.instruction
    if made.opaque:
        yield Note("opaque: values that its body takes cannot be made up")
        return
    for sample in samples(made):
        try:
            sample.evaluate(sample.arrays("random"))
        except LanguageError as error:
            yield Note(f"{sample}: {error}")
            continue
        yield from _backends(subject, sample)


def samples(made: Instruction) -> Iterator[Sample]:
    """Prime lengths in every type; one position of everything, with other immediates."""
    floats = [operand.name for operand in made.operands if is_float(operand.dtype)]
    lengths = lengths_of(made, PRIMES)
    for kind in TYPES if floats else TYPES[:1]:
        yield Sample(made, lengths, dict.fromkeys(floats, kind))
    numbers = {i.name: other(i, dict(made.formats)) for i in made.immediates}
    yield Sample(made, lengths_of(made, (1,)), {}, numbers)


def other(immediate: Immediate, formats: Mapping[str, str]) -> float | int:
    """A number near its default, but not that: of the same sign, so as sensible. It is one that
    its encoding holds, if one of a few is."""
    default = immediate.default
    whole = (default + 1, default - 1, default)
    near = whole if isinstance(default, int) else (default * 1.5 or 0.5, default * 2, *whole)
    if immediate.name not in formats:
        return near[0]
    held_ = (held(number, formats[immediate.name]) for number in near)
    return next(number for number in held_ if number is not None)


def _backends(subject: Subject, sample: Sample) -> Iterator[Fault | Note]:
    asked = {kind: sample.arrays(kind) for kind in KINDS}
    judges = {kind: _judge(sample, arrays) for kind, arrays in asked.items()}
    for name, entry in subject.registry.backends.items():
        where = f"backend {name!r} at {sample}"
        try:
            run = entry.item(sample.program, subject.library, 1)
            for kind, arrays in asked.items():
                outputs = run(arrays, {}).outputs
                found = [outputs[result(k)] for k in range(len(sample.results))]
                if fault := judges[kind](found):
                    yield Fault(f"{where}, {kind} values: {fault}")
                    break
        except InfinisaError as error:
            yield Fault(f"{where}: must run, but {error}")


def _judge(sample: Sample, arrays: Mapping[str, Array]) -> Callable[[Sequence[Array]], str | None]:
    """What says how results for these arrays differ from the language's."""
    return partial(
        difference,
        wanted=sample.evaluate(arrays),
        exact=sample.exact(arrays),
        few=FEW if cuts(sample.instruction.outputs) else 0.0,
        finite=finite(arrays),
    )
