"""What a check of an instruction is given, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from infinisa.isa.instruction import Instruction

from ..manager import Registry


class Fault(str):
    """What is wrong: where, what must be, what is."""


class Note(str):
    """What the author should know, and why part of a check does not apply."""


@dataclass(frozen=True)
class Subject:
    """An instruction and everything that is loaded beside it."""

    instruction: Instruction
    registry: Registry

    @cached_property
    def library(self) -> Mapping[str, Instruction]:
        return self.registry.library


Check: TypeAlias = Callable[[Subject], Iterator[Fault | Note]]


@dataclass(frozen=True)
class Finding:
    """The result of one check of one instruction."""

    instruction: str
    check: str
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.faults

    def plain(self) -> dict[str, Any]:
        return {
            "instruction": self.instruction,
            "check": self.check,
            "passed": self.passed,
            "faults": list(self.faults),
            "notes": list(self.notes),
        }
