"""Simulated and measured throughput of one model side by side, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from infinisa.isa.program import Count, Program, turns

from .accuracy import Accuracy
from .simulator import Report, SectionReport
from .values import Result


@dataclass(frozen=True)
class Share:
    """Parts of a model: of the nodes of its graph, of scalar operations, of bytes; 0 to 1."""

    nodes: float
    operations: float
    bytes: float


@dataclass(frozen=True)
class Selected:
    """How sure selection is of the instructions of a part.

    proved  the matches in which both sides have one canonical form; `tested`: the others, which
            were equal at all points tried
    error   the largest relative error that one of them adds to those of the model
    """

    proved: int
    tested: int
    error: float

    def __str__(self) -> str:
        return (
            f"{self.proved} matches proved, {self.tested} tested, "
            f"largest error introduced {self.error:.2g}"
        )


def total(parts: Iterable[Selected]) -> Selected:
    """The same of several parts together."""
    parts = list(parts)
    return Selected(
        sum(part.proved for part in parts),
        sum(part.tested for part in parts),
        max((part.error for part in parts), default=0.0),
    )


@dataclass(frozen=True)
class Row:
    """One part of a model on one machine.

    seconds    simulated time; measured is the time on this CPU
    tokens     worked on in that time (runs of the part, where tokens mean nothing)
    bandwidth  and compute: shares of the machine's peak, 0 to 1
    fused      what instructions compute that stand for more than one node; all nodes are covered,
               or the model would not have been compiled
    selection  how sure selection is of the part's instructions
    """

    section: str
    machine: str
    instructions: int
    cycles: int
    seconds: float
    tokens: int
    measured: float
    compute: float
    bandwidth: float
    bound_by: str
    fused: Share
    selection: Selected

    @property
    def simulated_rate(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def measured_rate(self) -> float:
        return self.tokens / self.measured if self.measured else 0.0

    @property
    def ratio(self) -> float:
        """How many times faster the simulated machine is than this CPU."""
        return self.measured / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Comparison:
    """All rows, what the model was given and wrote, and how it was measured.

    unit      what rates count: "tokens", or "runs" of a model that does not work on tokens
    accuracy  what the number format of the CPU runs does, if it is not the model's own
    """

    model: str
    unit: str
    rows: tuple[Row, ...]
    prompt: str
    outputs: Mapping[str, str]
    settings: Mapping[str, str | int | float]
    accuracy: Accuracy | None = None

    def __str__(self) -> str:
        from .report import text

        return text.plain(text.comparison(self))

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from .report import html, text

        return html.fragment(text.comparison(self))

    def plain(self) -> dict[str, object]:
        """Numbers and text only, for JSON."""
        rows = [
            asdict(row)
            | {
                "simulated_rate": row.simulated_rate,
                "measured_rate": row.measured_rate,
                "ratio": row.ratio,
            }
            for row in self.rows
        ]
        return {
            "model": self.model,
            "unit": self.unit,
            "settings": dict(self.settings),
            "rows": rows,
            "prompt": self.prompt,
            "outputs": dict(self.outputs),
            "accuracy": self.accuracy and self.accuracy.plain(),
        }


@dataclass(frozen=True)
class Simulated:
    """A model's program for one machine, its simulation and, by section, what is fused and how
    sure selection is."""

    program: Program
    report: Report
    fused: Mapping[str, Share]
    selection: Mapping[str, Selected]


def compare(
    model: str,
    simulations: Sequence[Simulated],
    measurements: Iterable[Result],
    prompt: str,
    outputs: Mapping[str, str],
    settings: Mapping[str, str | int | float],
    accuracy: Accuracy | None = None,
) -> Comparison:
    """One row for each section with work in it and each machine.

    measurements  several runs of the same program on this CPU: the fastest of each section counts
    """
    runs = list(measurements)
    best = {name: min(run.seconds[name] for run in runs) for name in runs[0].seconds}
    rows = tuple(
        _row(simulated, part, tokens, best.get(part.name, 0.0))
        for simulated in simulations
        for part in simulated.report.sections
        if (tokens := _tokens(simulated.program, part.name, runs[0].parameters)) is not None
    )
    order = list(dict.fromkeys(row.section for row in rows))
    ordered = sorted(rows, key=lambda row: order.index(row.section))
    counted = any(_counts_tokens(simulated.program) for simulated in simulations)
    unit = "tokens" if counted else "runs"
    return Comparison(model, unit, tuple(ordered), prompt, dict(outputs), dict(settings), accuracy)


def _counts_tokens(program: Program) -> bool:
    return any(section.tokens != Count() for section in program.sections)


def _tokens(program: Program, name: str, parameters: Mapping[str, int]) -> int | None:
    """Tokens of all turns of a section; None for a section that is not the model's work.

    A program that counts no tokens anywhere is counted in runs.
    """
    counted = _counts_tokens(program)
    (section,) = (section for section in program.sections if section.name == name)
    values = dict(parameters)
    total = sum(section.tokens.value(values) if counted else 1 for _ in turns(section, values))
    return total if total or not counted else None


def _row(simulated: Simulated, part: SectionReport, tokens: int, measured: float) -> Row:
    return Row(
        section=part.name,
        machine=part.machine,
        instructions=part.instructions,
        cycles=part.cycles,
        seconds=part.seconds,
        tokens=tokens,
        measured=measured,
        compute=part.share_of_peak_compute,
        bandwidth=part.share_of_peak_bandwidth,
        bound_by=part.bound_by,
        fused=simulated.fused[part.name],
        selection=simulated.selection[part.name],
    )
