"""What covers what in a model, as tables for a terminal, for a notebook and for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from infinisa.compiler.explanation.explain import (
    Covering,
    Explanation,
    GraphReport,
    Near,
    NodeReport,
    Option,
)
from infinisa.compiler.explanation.misses import Miss
from infinisa.compiler.selection.coverage import Share
from infinisa.isa.errors import CompileError
from infinisa.runtime.compare import Selected, total
from infinisa.runtime.report import html
from infinisa.runtime.report.text import number, percent, plain

UNKNOWN = "no small change makes them equal"


@dataclass(frozen=True)
class Explained:
    """An explanation that renders itself."""

    found: Explanation

    @property
    def failure(self) -> CompileError | None:
        """Why the model cannot be compiled, if it cannot."""
        return self.found.failure

    def shown(self) -> RenderableType:
        """Tables: of each graph, of the instructions that are never used, of the nodes."""
        found = self.found
        sure = total(Selected(g.proved, g.tested, g.error) for g in found.graphs)
        parts: list[RenderableType] = [Text(f"{found.model} on {found.machine}: {sure}")]
        parts += [part for graph in found.graphs for part in _graph(graph)]
        parts += _unused(found.unused)
        parts += [_near(found.near)] if found.near else []
        parts += [part for node in found.nodes for part in _node(node)]
        return Group(*parts)

    def __str__(self) -> str:
        return plain(self.shown())

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        return html.fragment(self.shown())

    def plain(self) -> dict[str, object]:
        """Numbers and text only, for JSON; a distance or cost that is infinite is null."""
        made = asdict(replace(self.found, failure=None))
        made["failure"] = self.failure and str(self.failure)
        return {key: _finite(value) for key, value in made.items()}


def _finite(content: object) -> object:
    match content:
        case Mapping():
            return {key: _finite(value) for key, value in content.items()}
        case list() | tuple():
            return [_finite(value) for value in content]
        case float() if not math.isfinite(content):
            return None
    return content


# ---------------------------------------------------------------- one graph


def _graph(graph: GraphReport) -> Iterator[RenderableType]:
    table = _table(f"{graph.graph}: what covers what", "instruction", "calls", "nodes", "FLOPs",
                   "of all", "bytes", "cycles", "proved", "tested", "error")  # fmt: skip
    for row in graph.rows:
        table.add_row(
            row.instruction,
            f"{row.calls:,}",
            f"{row.nodes:,}",
            number(row.operations),
            percent(row.share),
            number(row.bytes),
            f"{row.cycles:,.0f}",
            str(row.proved),
            str(row.tested),
            f"{row.error:.2g}",
        )
    yield table
    if graph.rows:
        yield Text(
            f"fused (instructions of more than one node): {_shares(graph.fused, graph.simple)}\n"
            f"simple: {_shares(graph.simple, graph.fused)}"
        )
    uncovered = ", ".join(graph.uncovered) or "none"
    yield Text(f"uncovered: {uncovered}", style="bold" if graph.uncovered else "")
    if graph.capped:
        yield Text(f"searches that were cut off: {', '.join(graph.capped)}", style="dim")


def _shares(share: Share, rest: Share) -> str:
    pairs = (
        ("nodes", share.nodes, rest.nodes),
        ("FLOPs", share.operations, rest.operations),
        ("bytes", share.bytes, rest.bytes),
    )
    return ", ".join(
        f"{percent(mine / (mine + other)) if mine else '0 %'} of {what}"
        for what, mine, other in pairs
    )


def _unused(unused: Mapping[str, Sequence[str]]) -> list[RenderableType]:
    lines = [Text("\nnever used", style="italic")] if unused else []
    lines += [Text(f"  {why}: {', '.join(names)}") for why, names in unused.items()]
    return [*lines]


def _near(near: Sequence[Near]) -> Table:
    table = _table("never used, but near", "instruction", "node", "distance", "likely reason")
    for row in near:
        table.add_row(
            row.instruction, f"{row.graph}: {row.node}", _far(row.distance), row.reason or UNKNOWN
        )
    return table


# ---------------------------------------------------------------- one node


def _node(node: NodeReport) -> Iterator[RenderableType]:
    yield Text(f"\n{node.graph}: {node.name}", style="bold")
    yield Text(f"  {node.what}\n  {node.how}")
    if node.covering is not None:
        yield Text("\n".join(f"  {line}" for line in _covering(node.covering)))
    if node.options:
        yield _options(node.options)
    if node.misses:
        yield _misses(node.misses)
    elif node.covering is None:
        yield Text("  no instruction comes near")


def _covering(covering: Covering) -> Iterator[str]:
    yield f"by {', '.join(covering.calls)} on unit {covering.unit}"
    yield f"yields {', '.join(covering.yields)}"
    axes = [f"{axis} = {'*'.join(bound) or '1'}" for axis, bound in covering.binding.items()]
    yield f"axes: {', '.join(axes) or 'none'}; loops: {', '.join(covering.loops) or 'none'}"
    if covering.immediates:
        yield ", ".join(f"{name} = {value:g}" for name, value in covering.immediates.items())


def _options(options: Sequence[Option]) -> Table:
    table = _table("ways to compute it", "instruction", "operands", "nodes", "cycles",
                   "with all it needs", "stamp", "error", "")  # fmt: skip
    for option in options:
        table.add_row(
            option.instruction,
            _operands(option.operands),
            str(option.nodes),
            f"{option.cycles:,.0f}",
            "" if option.total is None else f"{option.total:,}",
            option.stamp,
            f"{option.error:.2g}",
            option.verdict,
        )
    return table


def _misses(misses: Sequence[Miss]) -> Table:
    table = _table(
        "nearest misses", "instruction", "operands", "nodes", "distance", "likely reason"
    )
    for miss in misses:
        apart = "" if miss.distance is None else _far(miss.distance)
        table.add_row(
            miss.instruction,
            _operands(miss.operands),
            str(miss.nodes),
            apart,
            miss.reason or UNKNOWN,
        )
    return table


def _operands(operands: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in operands)


def _far(distance: float) -> str:
    return f"{distance:.2g}" if math.isfinite(distance) else "no number"


NUMBERS = frozenset(
    ["calls", "nodes", "FLOPs", "of all", "bytes", "cycles", "with all it needs", "proved",
     "tested", "error", "distance"]
)  # fmt: skip


def _table(title: str, *headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in NUMBERS else "left")
    return table
