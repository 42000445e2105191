"""Gathers what `infinisa manual` prints: the instructions in force and where models use them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infinisa.compiler.calls import Call
from infinisa.isa.machine import Machine
from infinisa.runtime.report.manual import (
    Busy,
    Entry,
    Example,
    Manual,
    Use,
    examples,
    only_opcodes,
    own_opcode,
)

from . import api

PARTS = (".step", ".finish")


def manual(
    models: Sequence[api.Loaded],
    machines: Sequence[str | Path | Machine] = api.DEFAULT_MACHINES,
    *,
    progress: api.Progress = api.silent,
) -> Manual:
    """The manual of the plugins of the models, which are compiled for the first machine."""
    from . import __version__

    registry = models[0].registry
    targets = tuple(api.find_machine(machine, registry) for machine in machines)
    found = Found()
    for model in models:
        compiled = model.compile(targets[0], progress=progress)
        found.add(compiled)
        progress(f"simulating {model.model.name}")
        found.add_busy(compiled)
    unused = [e.item for name, e in registry.instructions.items() if name not in found.examples]
    alone = only_opcodes("unused", targets[0].name, map(own_opcode, unused))
    known = examples(alone) | found.examples
    entries = tuple(
        Entry(
            each.item,
            each.origin.plugin,
            each.origin.distribution,
            each.origin.version,
            known[name],
            tuple(found.uses[name]),
            tuple(found.busy[name]),
        )
        for name, each in sorted(registry.instructions.items())
    )
    return Manual(__version__, entries, targets, tuple(model.model.name for model in models))


@dataclass
class Found:
    """What compiled models show of each instruction, by its name."""

    uses: dict[str, list[Use]] = field(default_factory=lambda: defaultdict(list))
    busy: dict[str, list[Busy]] = field(default_factory=lambda: defaultdict(list))
    examples: dict[str, Example] = field(default_factory=dict)

    def add(self, compiled: api.Compiled) -> None:
        """The calls of a model, and how its program writes them."""
        assert compiled.compilation is not None  # it was compiled just now
        for covered in compiled.compilation.covered:
            calls: dict[str, list[Call]] = defaultdict(list)
            for call in covered.calls:
                calls[call.opcode.instruction].append(call)
            shares = compiled.compilation.coverage[covered.name].instructions
            for name, own in calls.items():
                whole, part = split(name)
                nodes = tuple(call.source or call.writes[0].tensor for call in own)
                share = shares[name]
                model = compiled.program.name
                self.uses[whole].append(
                    Use(model, covered.name, part, nodes, share.operations, share.bytes)
                )
        for name, example in examples(compiled.program).items():
            self.examples.setdefault(split(name)[0], example)

    def add_busy(self, compiled: api.Compiled) -> None:
        """The share of each instruction in the busy cycles of its unit."""
        report = compiled.simulate()
        totals: dict[str, int] = defaultdict(int)
        issues: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for row in report.by_opcode.values():
            totals[row.unit] += row.cycles
            name = compiled.program.opcode[row.opcode].instruction
            sums = issues[split(name)[0], row.unit]
            sums[0] += row.cycles
            sums[1] += row.issues
        for (name, unit), (busy, count) in issues.items():
            share = busy / totals[unit] if totals[unit] else 0.0
            self.busy[name].append(Busy(compiled.program.name, unit, share, count))


def split(name: str) -> tuple[str, str]:
    """`matmul.step` as matmul and .step."""
    for part in PARTS:
        if name.endswith(part):
            return name.removesuffix(part), part
    return name, ""
