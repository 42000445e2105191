"""The kernel that an author wrote against the definition.

Here CPython runs it, which says what a mistake is; native code of it is what `backends` compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.errors import LanguageError
from infinisa.isa.evaluate import saturate
from infinisa.isa.instruction import Native, step_of

from .comparison import FEW, cuts, difference, finite
from .finding import Fault, Note, Subject
from .sample import KINDS, Array, Sample
from .values import samples

ELSEWHERE = 3
"""Where axes begin whose positions the definition computes with."""


def kernels(subject: Subject) -> Iterator[Fault | Note]:
    """On random and extreme values of every type it gives the definition's values."""
    made = subject.instruction
    if made.native is None:
        return
    if made.accumulates and not made.states and all(
        piece is None or piece.native is None for piece in step_of(made)
    ):  # fmt: skip
        over = ", ".join(sorted(made.reduced))
        yield Note(f"in pieces of {over} it accumulates something else: that kernel is derived")
    elsewhere = dict.fromkeys(made.indexed, ELSEWHERE)
    for plain in samples(made):
        for sample in (plain, replace(plain, starts=elsewhere)) if elsewhere else (plain,):
            fault = _first_fault(sample, made.native)
            if fault:
                yield Fault(fault)


def _first_fault(sample: Sample, native: Native) -> str:
    few = FEW if cuts(sample.instruction.outputs) else 0.0
    for kind in KINDS:
        arrays = sample.arrays(kind)
        try:
            wanted = sample.evaluate(arrays)
        except LanguageError:
            continue  # `backends` notes it
        where = f"at {sample}, {kind} values"
        try:
            found = run(sample, native, arrays)
        except Exception as error:
            return f"{where}: failed with {type(error).__name__}: {error}"
        if unlike := difference(found, wanted, sample.exact(arrays), few, finite=finite(arrays)):
            return f"{where}: {unlike}"
    return ""


def run(sample: Sample, native: Native, arrays: Mapping[str, Array]) -> list[Array]:
    """What the body writes, run by CPython. What it does not write is no number, or -77."""
    meaning = sample.meaning()
    given = {**arrays, **sample.initial(meaning)}
    numbers = {i.name: i.default for i in meaning.immediates}
    results: list[Array] = []
    arguments: list[object] = []
    for role, name in native.parameters:
        match role:
            case "operand":
                arguments.append(_readable(given[name]).data)
            case "immediate":
                arguments.append(numbers[name])
            case "length":
                arguments.append(sample.windowed_ranges[name].length)
            case "start":
                arguments.append(sample.windowed_ranges[name].start)
            case "result":
                axes, made = sample.results[len(results)], meaning.outputs[len(results)]
                shape = [sample.lengths[axis] for axis in axes]
                blank = np.full(shape, np.nan if is_float(made.dtype) else -77)
                results.append(_readable(saturate(blank, made.dtype)).reshape(shape))
                arguments.append(results[-1].reshape(-1).data)
    native.body(*arguments)
    return [saturate(x, y.dtype) for x, y in zip(results, meaning.outputs, strict=True)]


def _readable(array: Array) -> Array:
    """Flat, of a type whose elements CPython can read: narrow floats are widened."""
    name = next(row for row in DTYPES.values() if row.numpy == array.dtype)
    wide = DTYPES[name.wide].numpy if is_float(name.name) else array.dtype
    return np.array(array, wide).reshape(-1)
