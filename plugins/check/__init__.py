"""What must hold of an instruction before anyone relies on it: `infinisa check PLUGIN`.

Each check is a function from a subject to what it finds; a check that finds no fault has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from infinisa.isa.errors import PluginError

from ..manager import Registry
from .encoding import documentation, encoding
from .finding import Check, Fault, Finding, Subject
from .gradients import gradients
from .kernels import kernels
from .laws import laws, tiles
from .likeness import duplicates
from .timing import timing
from .values import backends, tracing

CHECKS: Mapping[str, Check] = {
    "tracing": tracing,
    "kernel": kernels,
    "backends": backends,
    "gradient": gradients,
    "timing": timing,
    "encoding": encoding,
    "new": duplicates,
    "laws": laws,
    "tiles": tiles,
    "documented": documentation,
}

Progress = Callable[[str, int, int], None]


def silent(step: str, done: int, total: int) -> None:
    """Progress that nobody wants to see."""


def check(registry: Registry, plugins: Sequence[str], progress: Progress = silent) -> list[Finding]:
    """Run all checks on every instruction of these plugins; PluginError for one that is not
    loaded, or that failed when it was."""
    known = [origin.plugin for origin in registry.plugins]
    for name in plugins:
        for failure in registry.failures:
            if failure.plugin == name:
                raise PluginError(str(failure))
        if name not in known:
            raise PluginError(
                f"plugin {name!r}: must be a .py file, a folder with a pyproject.toml, or one of "
                f"{', '.join(known)}"
            )
    entries = registry.instructions.values()
    chosen = [entry.item for entry in entries if entry.origin.plugin in plugins]
    found: list[Finding] = []
    for number, instruction in enumerate(chosen):
        progress(f"checking {instruction.name}", number, len(chosen))
        found += checked(Subject(instruction, registry))
    return found


def checked(subject: Subject) -> Iterator[Finding]:
    """All checks of one instruction."""
    for name, run in CHECKS.items():
        said = list(run(subject))
        faults = tuple(text for text in said if isinstance(text, Fault))
        notes = tuple(text for text in said if not isinstance(text, Fault))
        yield Finding(subject.instruction.name, name, faults, notes)
