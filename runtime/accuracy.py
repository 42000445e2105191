"""What weights in fewer bits do to a model: its results beside those with weights as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import is_float
from infinisa.isa.instruction import Instruction
from infinisa.isa.program import Program

from .jit import Session, compile_program

Array = NDArray[Any]

PREFILL, DECODE = "prefill", "decode"
IDS, TEXT, LOGITS = "ids", "text", "logits"


@dataclass(frozen=True)
class Difference:
    """Of an output from what it is with weights as they come.

    largest  over the largest absolute value
    rms      root mean square over root mean square
    cosine   of both as vectors
    """

    largest: float
    rms: float
    cosine: float

    @classmethod
    def of(cls, found: Array, expected: Array) -> Difference:
        a, b = (np.asarray(array, np.float64).reshape(-1) for array in (found, expected))
        gap = a - b

        def share(part: np.floating[Any], whole: np.floating[Any]) -> float:
            return float(part / whole) if whole else float(part)

        norms = np.linalg.norm(a) * np.linalg.norm(b)
        cosine = float(a @ b / norms) if norms else 1.0
        return cls(
            share(np.abs(gap).max(), np.abs(b).max()),
            share(np.linalg.norm(gap), np.linalg.norm(b)),
            cosine,
        )

    def __str__(self) -> str:
        return (
            f"cosine {self.cosine:.6f}, largest difference {100 * self.largest:.2g} %, "
            f"root mean square {100 * self.rms:.2g} %"
        )


@dataclass(frozen=True)
class Accuracy:
    """How results with a number format compare.

    rounded     what is rounded off the weights that are kept so, relative, root mean square
    kept        how many weights are in which format: groups of steps may not divide theirs
    outputs     those of sections that run once, by name
    perplexity  of a text, of a model that continues texts: (with weights as they come, with these)
    """

    weights: str
    activations: str
    rounded: float
    kept: Mapping[str, int]
    outputs: Mapping[str, Difference]
    perplexity: tuple[float, float] | None

    @property
    def format(self) -> str:
        found = f"weights {self.weights}"
        return f"{found}, activations {self.activations}" if self.activations else found

    def __str__(self) -> str:
        parts = [f"weights are off by {100 * self.rounded:.2g} %"]
        if not self.kept:
            parts = ["no product reads a weight that could be kept so"]
        others = {name: count for name, count in self.kept.items() if name != self.weights}
        for name, count in others.items():
            parts.append(
                f"{count} of {sum(self.kept.values())} weights are in {name}, as steps in groups "
                "do not divide theirs"
            )
        if self.perplexity:
            before, after = self.perplexity
            parts.append(f"perplexity {after:.2f} instead of {before:.2f}")
        parts += [f"{name}: {difference}" for name, difference in self.outputs.items()]
        return f"{self.format}: {'; '.join(parts)}"

    def plain(self) -> dict[str, object]:
        """Numbers and text only, for JSON."""
        return asdict(self)


def accuracy(
    program: Program,
    library: Mapping[str, Instruction],
    arrays: Mapping[str, Array],
    parameters: Mapping[str, int],
    *,
    weights: str,
    activations: str = "",
    cores: int = 1,
    text: str = "",
) -> Accuracy:
    """Run a program twice: with weights as they come, and in a format of `jit.compile_program`.

    arrays      inputs and weights by buffer name
    text        whose perplexity is asked for, where the program continues texts
    """
    with ExitStack() as stack:
        sessions = []
        for formats in (("", ""), (weights, activations)):
            made = compile_program(
                program, library, cores=cores, weights=formats[0], activations=formats[1]
            )
            sessions.append(stack.enter_context(closing(made.session(arrays))))
        expected, found = (session.run({}, parameters).outputs for session in sessions)
        once = {section.name for section in program.sections if section.repeat is None}
        compared = {
            buffer.name: Difference.of(found[buffer.name], expected[buffer.name])
            for buffer in program.of_kind("output")
            if is_float(buffer.dtype) and buffer.name.partition("/")[0] in once
            if found[buffer.name].size
        }
        errors = list(sessions[1].errors.values())
        rounded = float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0
        pair = None
        if text and continues_texts(program):
            before, after = (perplexity(session, text) for session in sessions)
            pair = before, after
        kept = dict(Counter(sessions[1].formats.values()))
        return Accuracy(weights, activations, rounded, kept, compared, pair)


def continues_texts(program: Program) -> bool:
    """Whether a program reads a text, then predicts token after token."""
    wanted = {IDS, TEXT, f"{PREFILL}/{LOGITS}", f"{DECODE}/{LOGITS}"}
    return wanted <= {buffer.name for buffer in program.buffers}


def perplexity(session: Session, text: str) -> float:
    """How uncertain a model is of each token of a text, given those before: exp of the mean of the
    negative logarithms of their probabilities. Every token is given as it is in the text."""
    data = np.frombuffer(text.encode(), np.uint8)
    result = session.run({TEXT: data}, {"bytes": len(data), "tokens": 1})
    count = result.parameters["prompt"]
    tokens = result.kept[IDS][:count].copy()
    lost = 0.0
    for position in range(1, count):
        session.tensors[IDS][:count] = tokens
        section = PREFILL if position == 1 else DECODE
        place = {"prompt": max(position - 1, 1), "tokens": 2}
        session.step(place, (section,))()
        logits = session.tensors[f"{section}/{LOGITS}"].reshape(-1).astype(np.float64)
        logits -= logits.max()
        lost += float(np.log(np.exp(logits).sum()) - logits[tokens[position]])
    return float(np.exp(lost / max(count - 1, 1)))
