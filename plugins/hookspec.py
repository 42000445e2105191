"""The whole contract of a plugin: functions that it may define, each marked with `@hookimpl`.

A plugin is a module (or any object) with some of these functions. It is found through the entry
point group `infinisa`, or given as a plain .py file. What InfinISA itself ships comes through the
same functions. Names must be new: two plugins cannot define one name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pluggy

from infinisa.compiler.graph import Model
from infinisa.compiler.positional.operator import Operator
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine
from infinisa.runtime.simulator import ChannelModel, Policy, Steps, Unit

PROJECT = "infinisa"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def infinisa_instructions() -> Iterable[Instruction]:
    """Instructions, made with `@instruction` or `@opaque`.

    The compiler uses one wherever it finds its meaning in a model.
    """
    return ()


@hookspec
def infinisa_operators() -> Iterable[Operator]:
    """Operators that an ONNX file may name, made with `@operator`.

    Each is a function from positional tensors (and keyword attributes) to a tensor or several.
    """
    return ()


@hookspec
def infinisa_machines() -> Iterable[Machine | Path]:
    """Machines, or the TOML files that describe them."""
    return ()


@hookspec
def infinisa_models() -> Mapping[str, Callable[..., Model]]:
    """Models by name: functions that build them, called when one is asked for."""
    return {}


@hookspec
def infinisa_tokenizers() -> Mapping[str, Callable[..., Any]]:
    """Tokenizers by the algorithm that a tokenizer.json names (`model.type`), such as `WordPiece`.

    Each is a function from the file's contents (`infinisa.plugins.tokenizers.Section`) to a
    `Tokenizer`; the instruction `encode_<kind>` of some plugin is its encoder in a program.
    """
    return {}


@hookspec
def infinisa_units() -> Mapping[str, Callable[[Unit], Steps]]:
    """Simpy processes of units by name, for machines whose units name one as their `process`.

    Each is a generator function of the unit that it simulates, see `runtime.simulator.Unit`.
    """
    return {}


@hookspec
def infinisa_policies() -> Mapping[str, Policy | Callable[..., Any]]:
    """Issue policies by name: which of the ready issues a unit takes next.

    Each is the key of a ready issue, a function of named integers such as `work` (the smallest
    starts); a `Policy`, which can say more; or any function of `ready`, the list of ready issues.
    """
    return {}


@hookspec
def infinisa_memories() -> Mapping[str, Callable[..., ChannelModel]]:
    """Channels by name, for machines whose DRAM names one as its `channel.sharing`.

    Each is a function of a simpy environment and the machine to what times the transfers of one run
    of a stage.
    """
    return {}


@hookspec
def infinisa_backends() -> Mapping[str, Callable[..., Any]]:
    """Ways to compute a program's values on this computer, by name.

    Each takes a program, a library of instructions, the number of cores the program was compiled
    for, and the keywords `threads` if it can use several, `weights` and `activations` if it can
    keep those in fewer bits. See `plugins/backends.py`.
    """
    return {}


@hookspec
def infinisa_commands() -> Mapping[str, Callable[[list[str]], int]]:
    """Verbs of the command line by name: from their arguments to an exit status."""
    return {}
