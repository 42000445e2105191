"""Cycles of a program on a machine: `simulate` gives a `Report`. See docs/contract.md."""

from .contract import (
    Entry,
    Event,
    Interrupted,
    OpcodeReport,
    Report,
    SectionReport,
    Shape,
    Stalls,
)
from .memory import CHANNELS, ChannelModel, Steps
from .policy import POLICIES, Policy
from .simpy_engine import Unit
from .simulate import ENGINES, simulate
from .together import Task, Together, TogetherInterrupted, divided, part, simulate_together

__all__ = ["CHANNELS", "ENGINES", "POLICIES", "ChannelModel", "Entry", "Event", "Interrupted",
           "OpcodeReport", "Policy", "Report", "SectionReport", "Shape", "Stalls", "Steps", "Task",
           "Together", "TogetherInterrupted", "Unit", "divided", "part", "simulate",
           "simulate_together"]  # fmt: skip
