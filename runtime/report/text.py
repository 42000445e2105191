"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..capacity import Use
from ..compare import Comparison, Row, Selected, total
from ..simulator import Report, SectionReport, Together

PREFIXES = (("G", 1e9), ("M", 1e6), ("k", 1e3))
JOULES = (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9), ("pJ", 1e-12))
TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


def number(value: float) -> str:
    """Three digits and a prefix, such as 12.3 k."""
    for prefix, size in PREFIXES:
        if abs(value) >= size:
            return (
                f"{value / size:.3g} {prefix}"
                if value < 1000 * size
                else f"{value / size:.0f} {prefix}"
            )
    return f"{value:.3g}" if value != int(value) else str(int(value))


def duration(seconds: float) -> str:
    """Three digits and a unit, such as 1.25 ms."""
    for unit, size in TIMES:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return "0 s" if seconds == 0 else f"{seconds / 1e-9:.3g} ns"


def joules(energy: float) -> str:
    """Three digits and a unit, such as 12.3 µJ."""
    for unit, size in JOULES:
        if energy >= size:
            return f"{energy / size:.3g} {unit}"
    return f"{energy:.3g} J"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.1f} %"


COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("part", "left"),
    ("machine", "left"),
    ("instructions", "right"),
    ("cycles", "right"),
    ("time", "right"),
    ("{unit}/s\nsimulated", "right"),
    ("{unit}/s\nthis CPU", "right"),
    ("simulated\n/ CPU", "right"),
    ("of peak\ncompute", "right"),
    ("of peak\nbandwidth", "right"),
    ("bound by", "left"),
    ("coverage: nodes,\nFLOPs, bytes", "right"),
)
CAPTION = (
    "Instructions cover every node; coverage is the share that instructions of more than one node "
    "compute."
)


def comparison(result: Comparison) -> RenderableType:
    """The table of a comparison, then what the model wrote."""
    table = Table(box=box.SIMPLE_HEAD, title=result.model, title_justify="left")
    for heading, side in COLUMNS:
        table.add_column(heading.format(unit=result.unit), justify=side, no_wrap=True)
    last = ""
    for row in result.rows:
        if last and row.section != last:
            table.add_section()
        table.add_row(*_cells(row, row.section != last))
        last = row.section
    machines = dict.fromkeys(row.machine for row in result.rows)
    sure = "; ".join(
        f"{name}: {total(row.selection for row in result.rows if row.machine == name)}"
        for name in machines
    )
    settings = ", ".join(f"{name} {value}" for name, value in result.settings.items())
    lines = [CAPTION, sure, settings, *([str(result.accuracy)] if result.accuracy else [])]
    parts: list[RenderableType] = [table, Text("\n".join(lines), style="dim")]
    for text in result.outputs.values():
        parts.append(Text.assemble("\n", (result.prompt, "dim"), (text, "bold")))
    return Group(*parts)


def _cells(row: Row, first: bool) -> Iterable[str]:
    covered = row.fused
    return (
        row.section if first else "",
        row.machine,
        f"{row.instructions:,}",
        f"{row.cycles:,}",
        duration(row.seconds),
        number(row.simulated_rate),
        number(row.measured_rate),
        f"{row.ratio:.3g} x",
        percent(row.compute),
        percent(row.bandwidth),
        row.bound_by,
        ", ".join(percent(share) for share in (covered.nodes, covered.operations, covered.bytes)),
    )


def simulation(report: Report, selection: Mapping[str, Selected] | None = None) -> RenderableType:
    """A row for each section of a simulated program, how sure selection is of its instructions (a
    program from a file does not say), then where the units' time went, the critical path if it was
    asked for, and the energy if the machine states any."""
    title = f"{report.program} on {report.machine}"
    table = Table(box=box.SIMPLE_HEAD, title=title + ", interrupted" * report.partial)
    for heading in ("part", "turns", "instructions", "cycles", "time", "compute", "bandwidth"):
        table.add_column(heading, justify="left" if heading == "part" else "right")
    table.add_column("bound by")
    counted = report.partial or any(part.tokens for part in report.sections)
    table.add_column("tokens/s" if counted else "runs/s", justify="right")
    for part in report.sections:
        table.add_row(
            part.name,
            f"{part.turns:,}",
            f"{part.instructions:,}",
            f"{part.cycles:,}",
            duration(part.cycles / report.clock),
            percent(part.share_of_peak_compute),
            percent(part.share_of_peak_bandwidth),
            part.bound_by,
            _rates(part) if counted else _rate(part.turns, part.seconds),
        )
    sure = [Text(f"{total(selection.values())}", style="dim")] if selection else []
    stalls = [_stalls(part) for part in report.sections if part.cycles]
    return Group(table, *sure, *stalls, *_path(report), *_energy(report))


def _rates(part: SectionReport) -> str:
    """Tokens a second, and those of the first and the last turn: contexts grow."""
    rate = _rate(part.tokens, part.seconds)
    if not rate or part.turns < 2:
        return rate
    return f"{rate} ({number(part.turn_rate(0))} to {number(part.turn_rate(part.turns - 1))})"


def _rate(count: int, seconds: float) -> str:
    return number(count / seconds) if count and seconds else ""


SHOWN = 12
"""Rows of a table of shares; what is left is one more."""


def _path(report: Report) -> Iterable[RenderableType]:
    """The critical path by instruction and by layer."""
    for title, cycles in (("instruction", report.path), ("layer", report.layers)):
        if cycles:
            yield _shares(
                f"critical path by {title}", title, "cycles", cycles, lambda n: f"{round(n):,}"
            )


def _energy(report: Report) -> Iterable[RenderableType]:
    """Where the energy went."""
    energy = report.energy
    parts = {f"work of {name}": part for name, part in energy.opcodes.items()}
    parts |= {f"bytes of {name}": part for name, part in energy.memories.items()}
    parts["leakage"] = energy.leakage
    if energy.total:
        title = f"energy: {joules(energy.total)}"
        yield _shares(title, "of", "energy", parts, joules)


def _shares(
    title: str, of: str, what: str, parts: Mapping[str, float], shown: Callable[[float], str]
) -> Table:
    """Parts of a whole, the largest first."""
    table = Table(box=box.SIMPLE_HEAD, title=title)
    table.add_column(of)
    for heading in (what, "share"):
        table.add_column(heading, justify="right")
    whole = sum(parts.values())
    rows = sorted(((n, name) for name, n in parts.items() if n), key=lambda row: (-row[0], row[1]))
    left = rows[SHOWN:]
    if len(left) > 1:
        rows[SHOWN:] = [(sum(n for n, _ in left), f"{len(left)} more")]
    for n, name in rows:
        table.add_row(name, shown(n), percent(n / whole))
    return table


def policies(reports: Sequence[Report]) -> RenderableType:
    """One program under several policies, the fastest first."""
    best = min(report.cycles for report in reports)
    table = Table(box=box.SIMPLE_HEAD, title=f"{reports[0].program} on {reports[0].machine}")
    table.add_column("policy")
    units = [unit.name for unit in reports[0].target.units if unit.kind != "copy"]
    for heading in ("cycles", "of the fastest", "time", *units, reports[0].target.dram.name):
        table.add_column(heading, justify="right")
    for report in sorted(reports, key=lambda report: report.cycles):
        table.add_row(
            report.policy,
            f"{report.cycles:,}",
            f"{report.cycles / best:.3f}" if best else "",
            duration(report.seconds),
            *(percent(share) for share in report.utilisation.values()),
        )
    return table


def together(report: Together) -> RenderableType:
    """A row for each of several programs on one machine: what it takes alone and together, and its
    share of each unit class, of DRAM and of the interconnect."""
    partial = any(each.together.partial for each in report.programs)
    title = f"{report.target.name}, {report.cycles:,} cycles" + ", interrupted" * partial
    table = Table(box=box.SIMPLE_HEAD, title=title)
    used = {name: parts for name, parts in report.shares.items() if any(parts[:-1])}
    for heading in ("program", "cores", "cycles alone", "together", "slowdown", *used):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for number, each in enumerate(report.programs):
        table.add_row(
            each.together.program,
            str(each.cores),
            f"{each.alone.cycles:,}",
            f"{each.together.cycles:,}",
            f"{each.slowdown:.3f}",
            *(percent(float(parts[number])) for parts in used.values()),
        )
    left = report.target.cores - sum(each.cores for each in report.programs)
    unused = (percent(float(parts[-1])) for parts in used.values())
    table.add_row("(unused)", str(left), "", "", "", *unused)
    return table


def _stalls(part: SectionReport) -> Table:
    """Where the time of each unit went, as shares of a section's cycles."""
    table = Table(box=box.SIMPLE_HEAD, title=f"{part.name}: where the time went")
    for heading in ("core", "unit", "busy", "waiting for data", "queue full", "issue", "idle"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    for row in part.stalls:
        if not row.unit or not (row.busy or row.data):
            continue
        data = ", ".join(f"{name} {percent(n / row.cycles)}" for name, n in row.data.items() if n)
        table.add_row(
            str(row.core),
            row.unit,
            percent(row.busy / row.cycles),
            data or "0 %",
            percent(row.queue / row.cycles),
            percent(row.issue / row.cycles),
            percent(row.idle / row.cycles),
        )
    return table


def memory(uses: Sequence[Use]) -> RenderableType:
    """How full memories are in each stage, and what is where in the fullest."""
    table = Table(box=box.SIMPLE_HEAD, title="memory by stage", title_justify="left")
    for heading in ("part", "stage", "memory", "bytes of buffers", "of its size", "at once"):
        table.add_column(heading, justify="left" if heading in LEFT else "right")
    for use in uses:
        share = percent(use.used / use.size)
        table.add_row(use.section, use.stage, use.memory, f"{use.used:,}", share, f"{use.peak:,}")
    if not uses:
        return table
    fullest = max(uses, key=lambda use: use.used / use.size)
    title = f"{fullest.memory} in stage {fullest.stage} of {fullest.section}"
    inside = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in ("address", "bytes", "slots", "calls", "buffer"):
        inside.add_column(heading, justify="left" if heading in LEFT else "right")
    for held in fullest.buffers:
        calls = f"{held.first} to {held.last - 1}"
        inside.add_row(f"{held.address:,}", f"{held.bytes:,}", str(held.slots), calls, held.buffer)
    return Group(table, inside)


LEFT = ("part", "stage", "memory", "buffer")


@dataclass(frozen=True)
class Entry:
    """A line of a list: what it is called, what brought it, what it is."""

    name: str
    plugin: str
    distribution: str
    version: str
    about: str


def listing(entries: Iterable[Entry]) -> RenderableType:
    """Names with the plugin, distribution and version that they come from."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("name", "plugin", "distribution", "version", "about"):
        table.add_column(heading, no_wrap=heading != "about")
    for entry in entries:
        table.add_row(entry.name, entry.plugin, entry.distribution, entry.version, entry.about)
    return table


@dataclass(frozen=True)
class Proposed:
    """A line of what `infinisa discover` found.

    calls      the instructions that it replaces; `found`: how often it is used
    extra      scalar operations that it does more than they
    estimated  cycles that its calls alone save; `saved`: simulated, `share` of all
    """

    name: str
    unit: str
    calls: tuple[str, ...]
    found: int
    operands: int
    immediates: int
    extra: int
    estimated: float
    saved: float
    share: float


PROPOSED: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("instruction", "left"),
    ("in place of", "left"),
    ("unit", "left"),
    ("uses", "right"),
    ("operands,\nimmediates", "right"),
    ("extra\narithmetic", "right"),
    ("cycles saved,\nits calls alone", "right"),
    ("cycles saved,\nsimulated", "right"),
    ("of the\nmodel", "right"),
)


def proposals(title: str, rows: Iterable[Proposed], notes: Iterable[str]) -> RenderableType:
    """Proposed instructions, each on top of those before it."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading, side in PROPOSED:
        table.add_column(heading, justify=side, no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            ", ".join(row.calls),
            row.unit,
            f"{row.found:,}",
            f"{row.operands}, {row.immediates}",
            f"{row.extra:,}",
            f"{row.estimated:,.0f}",
            f"{row.saved:,.0f}",
            f"{100 * row.share:.2f} %",
        )
    return Group(table, *(Text(note, style="dim") for note in notes))


def plain(content: RenderableType, width: int = 170) -> str:
    """The same without colours, for files and notebooks."""
    console = Console(width=width, record=False, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(content)
    return capture.get()
