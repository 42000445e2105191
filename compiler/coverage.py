"""What covers what, for reports."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Share:
    """What one instruction does in a graph."""

    calls: int = 0
    nodes: int = 0
    operations: int = 0
    bytes: int = 0


@dataclass
class Coverage:
    """What covers what: totals for each instruction, and each call by the source's name."""

    instructions: dict[str, Share] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        rows = sorted(self.instructions.items(), key=lambda row: -row[1].operations)
        return "\n".join(
            f"{name}: {share.calls} calls, {share.nodes} nodes, {share.operations} operations, "
            f"{share.bytes} bytes"
            for name, share in rows
        )
