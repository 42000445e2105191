"""Policies: which of the ready issues of a unit class starts next, and on which of its units.

A policy is two functions of named integers, in restricted Python, so that every engine can have
them: the key of a ready issue and the key of a free unit. The smallest starts, or takes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, TypeAlias

from infinisa.isa.errors import SimulationError

from .contract import Entry

ISSUE: Mapping[str, Callable[[Entry, int], int]] = {
    "number": lambda entry, now: entry.number,
    "occupancy": lambda entry, now: entry.shape.occupancy,
    "transfer": lambda entry, now: entry.transfer,
    "work": lambda entry, now: entry.work,
    "latency": lambda entry, now: entry.latency,
    "height": lambda entry, now: entry.height,
    "waited": lambda entry, now: now - entry.ready,
}
"""What the key of an issue may be computed from, by name; docs/contract.md says what each is."""

UNIT = ("instance", "busy", "issues")
"""What the key of a unit may be computed from: its number in its class, the work of the issues that
it has taken in this stage, and how many these are."""

FREE = (("ready",), ("ready", "free"))
"""The parameters of a policy that is any Python function."""

Key: TypeAlias = Callable[..., int]
Chosen: TypeAlias = "int | tuple[int, int]"


def oldest(number: int) -> int:
    """The first in program order."""
    return number


def shortest(work: int) -> int:
    """The one with least work; of equals the oldest."""
    return work


def longest(work: int) -> int:
    """The one with most work; of equals the oldest."""
    return -work


def critical_path(height: int) -> int:
    """The one that the longest chain of issues in the window waits for; of equals the oldest."""
    return -height


def first(instance: int) -> int:
    """The free unit with the lowest number."""
    return instance


def least_busy(busy: int) -> int:
    """The free unit that was given the least work so far in the stage; of equals the first."""
    return busy


@dataclass(frozen=True)
class Policy:
    """How a unit class goes through its ready issues.

    key       of a ready issue, a function of integers that `ISSUE` names: the smallest starts, of
              equals the oldest
    unit      of a free unit, a function of integers that `UNIT` names: the smallest takes it, of
              equals the first
    in_order  only the oldest issue of a class that has not started may start
    free      in place of both keys, any Python function of the ready issues, in program order, and
              (if it has a parameter `free`) the numbers of the free units; gives the position of
              an issue in the first, or that and the number of a unit. In the simpy engine only
    plugin    what brought it, for messages
    about     one line for people; of the free function or the key unless stated
    """

    name: str
    key: Key = oldest
    unit: Key = first
    in_order: bool = False
    free: Callable[..., Chosen] | None = None
    plugin: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        for function, known in ((self.key, tuple(ISSUE)), (self.unit, UNIT)):
            for name in names(function):
                if name not in known:
                    raise SimulationError(
                        f"{self}: parameter {name!r} of {function.__name__} must be one of "
                        f"{', '.join(known)}"
                    )
        if self.free is not None and names(self.free) not in FREE:
            raise SimulationError(
                f"{self}: a free policy must take (ready) or (ready, free), "
                f"not ({', '.join(names(self.free))})"
            )
        about = self.about or (inspect.getdoc(self.free or self.key) or "").partition("\n")[0]
        object.__setattr__(self, "about", about)

    def __str__(self) -> str:
        return f"policy {self.name!r}" + (f" of plugin {self.plugin!r}" if self.plugin else "")

    @cached_property
    def uses_height(self) -> bool:
        """Whether the engine must keep the heights of issues."""
        return "height" in names(self.key) or self.free is not None

    @cached_property
    def is_oldest(self) -> bool:
        """Whether the first of the ready issues and of the free units is always taken."""
        return self.free is None and self.key is oldest and self.unit is first


@cache
def names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a function."""
    return tuple(inspect.signature(function).parameters)


def as_policy(name: str, item: Policy | Callable[..., Any], plugin: str = "") -> Policy:
    """What a plugin registered: a policy, a key of issues, or a free policy."""
    if isinstance(item, Policy):
        return Policy(name, item.key, item.unit, item.in_order, item.free, plugin, item.about)
    if names(item) in FREE:
        return Policy(name, free=item, plugin=plugin)
    return Policy(name, key=item, plugin=plugin)


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("oldest"),
        Policy(
            "in_order", in_order=True, about="Each unit class in program order, none overtakes."
        ),
        Policy("critical_path", critical_path),
        Policy("load_balancing", unit=least_busy, about="The oldest, on the least busy free unit."),
        Policy("shortest", shortest),
        Policy("longest", longest),
    )
}


def policy(name: str) -> Policy:
    """The built-in policy of this name; SimulationError if there is none."""
    if name not in POLICIES:
        raise SimulationError(f"policy must be one of {', '.join(POLICIES)}, not {name!r}")
    return POLICIES[name]


# ---------------------------------------------------------------- at work, in the simpy engine


@dataclass(frozen=True)
class Candidate:
    """A free unit as a policy sees it."""

    instance: int
    busy: int
    issues: int


def choose(
    policy: Policy, ready: Sequence[Entry], units: Sequence[Candidate], now: int, unit: str
) -> tuple[int, int]:
    """Positions in `ready` (not empty, in program order) and in the free `units` of class `unit`.

    SimulationError, which names policy, issue and cycle, for a choice that is none of these.
    """
    if policy.is_oldest:
        return 0, 0
    if policy.free is not None:
        return _free(policy, policy.free, ready, units, now, unit)
    fields = [ISSUE[name] for name in names(policy.key)]
    keys = [
        _key(policy, policy.key, [get(entry, now) for get in fields], described(entry), now)
        for entry in ready
    ]
    wanted = names(policy.unit)
    loads = [
        _key(policy, policy.unit, [getattr(each, name) for name in wanted],
             f"{unit} {each.instance}", now)
        for each in units
    ]  # fmt: skip
    return keys.index(min(keys)), loads.index(min(loads))


def _key(policy: Policy, function: Key, values: Sequence[int], what: str, now: int) -> int:
    where = f"{policy} in cycle {now}: {function.__name__} of {what}"
    try:
        found = function(*values)
    except Exception as error:
        raise SimulationError(f"{where} raised {type(error).__name__}: {error}") from error
    if type(found) is not int:
        raise SimulationError(f"{where} must be an integer, not {found!r}")
    return found


def _free(
    policy: Policy,
    function: Callable[..., Chosen],
    ready: Sequence[Entry],
    units: Sequence[Candidate],
    now: int,
    unit: str,
) -> tuple[int, int]:
    instances = [each.instance for each in units]
    shown = ", ".join(map(described, ready))
    where = f"{policy} in cycle {now}"
    arguments = (list(ready), instances)[: len(names(function))]
    try:
        found = function(*arguments)
    except Exception as error:
        raise SimulationError(
            f"{where}: raised {type(error).__name__}: {error}, choosing among {shown}"
        ) from error
    position, instance = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if type(position) is not int or not 0 <= position < len(ready):
        raise SimulationError(
            f"{where}: must choose one of {len(ready)} ready issues ({shown}) by its position from "
            f"0, not {position!r}"
        )
    if instance is None:
        return position, 0
    if instance not in instances:
        raise SimulationError(
            f"{where}: gives {described(ready[position])} to {unit} {instance}, which is not free; "
            f"free are {', '.join(map(str, instances))}"
        )
    return position, instances.index(instance)


def described(entry: Entry) -> str:
    """An issue in messages."""
    return f"#{entry.number} {entry.shape.opcode}"
