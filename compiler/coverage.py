"""What covers what, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from .match import Match


@dataclass
class Share:
    """What one instruction does in a graph."""

    calls: int = 0
    nodes: int = 0
    operations: int = 0
    bytes: int = 0


@dataclass
class Coverage:
    """What covers what: totals for each instruction, each call by the source's name, and the
    matches that were chosen."""

    instructions: dict[str, Share] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)

    @property
    def error(self) -> float:
        """The largest relative error that an instruction adds to those of the model."""
        return max((match.error for match in self.matches), default=0.0)

    def __str__(self) -> str:
        rows = sorted(self.instructions.items(), key=lambda row: -row[1].operations)
        return "\n".join(
            f"{name}: {share.calls} calls, {share.nodes} nodes, {share.operations} operations, "
            f"{share.bytes} bytes"
            for name, share in rows
        )
