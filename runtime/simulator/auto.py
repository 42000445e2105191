"""The engine that is soonest done: the compiled one where it can and there is enough to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from infinisa.isa.machine import Machine
from infinisa.isa.program import Ranges

from .compiled_engine import CompiledEngine, unsuited
from .contract import Event, Origins, StageReport
from .flat import Unsuited, issues_of
from .memory import FifoChannel, Sharing
from .policy import POLICIES, Policy
from .shapes import View
from .simpy_engine import Process, SimpyEngine

FEW = 4000
"""Issues that the simpy engine has simulated before native code would be there."""


@dataclass
class AutoEngine:
    """The simpy engine until that has simulated `FEW` issues, then the compiled one; all in the
    simpy engine what only that runs, and caches, which have no native code."""

    machine: Machine
    policy: Policy = POLICIES["oldest"]
    channel: Sharing = FifoChannel
    processes: Mapping[str, Process] = field(default_factory=dict)
    origins: Origins = field(default_factory=dict)
    trace: bool = False
    issues: int = 0
    used: dict[str, None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The engines that ran."""
        return " and ".join(self.used)

    @cached_property
    def simpy(self) -> SimpyEngine:
        return SimpyEngine(
            self.machine, self.policy, self.channel, self.processes, self.origins, self.trace
        )

    @cached_property
    def compiled(self) -> CompiledEngine | None:
        if self.machine.cache or unsuited(self.machine, self.policy, self.origins):
            return None
        return CompiledEngine(
            self.machine, self.policy, self.channel, self.processes, self.origins, self.trace
        )

    def run(
        self, view: View, outermost: Ranges, begin: int, turn: int
    ) -> tuple[StageReport, Sequence[Event]]:
        """One stage from cycle `begin`; with its events if they are traced."""
        engine: SimpyEngine | CompiledEngine = self.simpy
        self.issues += issues_of(view.stage.body, outermost)
        if self.issues > FEW and self.compiled:
            engine = self.compiled
        try:
            found = engine.run(view, outermost, begin, turn)
        except Unsuited:
            engine = self.simpy
            found = engine.run(view, outermost, begin, turn)
        self.used[engine.name] = None
        return found
