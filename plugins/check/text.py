"""Findings for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from . import CHECKS
from .finding import Finding


def report(findings: Sequence[Finding]) -> RenderableType:
    """A row for each instruction, a column for each check; then every fault and note."""
    table = Table(box=box.SIMPLE)
    table.add_column("instruction")
    for name in CHECKS:
        table.add_column(name, justify="center")
    rows: dict[str, list[Finding]] = {}
    for finding in findings:
        rows.setdefault(finding.instruction, []).append(finding)
    for name, row in rows.items():
        table.add_row(name, *map(_mark, row))
    lines = [
        Text(f"{word} {finding.instruction}, {finding.check}: {text}")
        for finding in findings
        for word, texts in (("failed", finding.faults), ("note  ", finding.notes))
        for text in texts
    ]
    failed = [finding for finding in findings if not finding.passed]
    names = {finding.instruction for finding in failed}
    verdict = f"{len(names)} of {len(rows)} instructions failed" if failed else "all passed"
    total = f"{len(rows)} instructions, {len(findings)} checks: {verdict}"
    return Group(table, *lines, Text(total))


def _mark(finding: Finding) -> Text:
    if not finding.passed:
        return Text("failed", "bold red")
    return Text("passed", "green") if not finding.notes else Text("note", "yellow")
