"""The kernel for one machine: for CPython as it is, or compiled."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np

from infinisa.isa.garbage import uncollected
from infinisa.isa.machine import Machine

from ..jit import bits, restricted
from ..jit.cache import remembered
from ..jit.code import ir
from ..jit.code.ir import link, to_object
from ..jit.restricted import Library, RestrictedError
from . import banked, fair, jump, kernel, layout, ports, walk
from .policy import ISSUE, UNIT, Key, Policy, first, oldest
from .policy import names as parameters

MODULES = (layout, walk, fair, banked, ports, jump, kernel)

PASSES = ("sroa", "simplify_cfg", "always_inliner", "loop_rotate", "new_gvn", "simplify_cfg")
"""What makes the kernel as fast as all of LLVM's passes do, in an eighth of their time."""

MOST_NEAR = 1 << 13
"""Elements on the stack."""

Array: TypeAlias = Any
"""A list for CPython, of NumPy for native code."""

Kernel: TypeAlias = Callable[[Sequence[Array]], Callable[[], int]]
"""Given its arrays, the kernel as a function that gives why it returned."""


class KeyFault(Exception):
    """The key of a policy did what restricted Python does not: it has no number."""


@dataclass(frozen=True)
class Constants:
    """What the kernel is made for; see `layout`."""

    RING: int
    CORES: int
    WINDOW: int
    FETCH: int
    ISSUE: int
    ARRIVAL: int
    CLASSES: int
    UNITS: int
    READS: int
    WRITES: int
    STORES: int
    CACHED: bool
    FAIR: bool
    DRAM_BANKS: int
    ROW_MISS: int
    LINKS: int
    LINK_ARRIVAL: int
    BANKS: int
    SIDES: int
    TRACE: bool
    JUMP: bool
    policy: Policy

    @classmethod
    def of(
        cls,
        machine: Machine,
        hazards: tuple[int, int, int],
        policy: Policy,
        *,
        trace: bool,
        jump: bool,
    ) -> Constants:
        """Of a machine and a stage whose issues have at most so many (reads, writes, stores)."""
        reads, writes, stores = hazards
        cached = machine.cache is not None
        way = machine.interconnect
        links = 0 if way is None else 1 if way.shared else machine.cores
        return cls(
            RING=64 if machine.dispatch.window <= 64 else 128,
            CORES=machine.cores,
            WINDOW=machine.dispatch.window,
            FETCH=machine.dispatch.fetch,
            ISSUE=machine.dispatch.issue,
            ARRIVAL=machine.dram.latency,
            CLASSES=len(machine.units),
            UNITS=sum(unit.count for unit in machine.units),
            READS=reads,
            WRITES=writes,
            STORES=stores,
            CACHED=cached,
            FAIR=machine.dram.channel.sharing == "fair",
            DRAM_BANKS=machine.dram.channel.banks,
            ROW_MISS=machine.dram.channel.row_miss,
            LINKS=links,
            LINK_ARRIVAL=0 if way is None else way.latency,
            BANKS=machine.scratchpad.banks,
            SIDES=1 if machine.scratchpad.shared else machine.cores,
            TRACE=trace,
            JUMP=jump and not (cached or machine.dram.channel.banks) and repeats(policy),
            policy=policy,
        )

    @property
    def near(self) -> Mapping[str, int]:
        """The arrays that the kernel keeps on the stack while it runs, unless they are large."""
        sets = layout.WAITING + 3 * self.CLASSES
        found = {
            "now": self.places["PORTS_AT"] + self.SIDES * self.BANKS,
            "cores": self.CORES * layout.CORE,
            "slots": self.slots,
            "units": self.lanes,
            "masks": self.CORES * sets,
            "then": self.CORES * self.RING,
            "after": self.CORES * self.RING,
        }
        return found if sum(found.values()) <= MOST_NEAR else {}

    @property
    def slots(self) -> int:
        """Numbers of all slots: of the fields that this machine and policy need."""
        more = self.CACHED or self.heights or self.BANKS or self.DRAM_BANKS
        return self.places["ROWS" if more else "FILL"] + self.CORES * self.RING + layout.APART

    @property
    def lanes(self) -> int:
        """Numbers of all units."""
        more = self.FAIR or self.BANKS
        return self.places["PORTED" if more else "KIND_AT"] + self.CORES * self.UNITS

    @property
    def heights(self) -> bool:
        """Whether the policy looks at heights."""
        return "height" in parameters(self.policy.key)

    @property
    def places(self) -> dict[str, int]:
        """The names of places that follow from the machine."""
        account = layout.DATA + self.CLASSES
        none = self.READS + self.WRITES + self.STORES
        ports = layout.HAZARDS + none + (self.LINKS > 0)
        link = layout.KINDS + layout.KIND_SIZE * self.CLASSES
        return {
            **field_places(layout.SLOT_FIELDS, self.CORES * self.RING + layout.APART),
            **field_places(layout.LANE_FIELDS, self.CORES * self.UNITS),
            "SINGLE": self.UNITS == self.CLASSES,
            "SETS": layout.WAITING + 3 * self.CLASSES,
            "ACCOUNT": account,
            "USES": 1 + self.CORES * (self.UNITS + 1) * account,
            "NONE": none,
            "CROSSING": layout.HAZARDS + none,
            "PORTS": ports,
            "RECORD": ports + self.BANKS,
            "LINK_AT": link,
            "PORTS_AT": link + self.LINKS,
            "SNAPSHOT": 2 + self.LINKS,
            "PLACES": 1 + 6 * self.WINDOW,
            "TIMES": 9 * self.UNITS + 4,
        }

    @property
    def names(self) -> dict[str, object]:
        """What stands for a machine and a policy in the kernel."""
        policy = self.policy
        return {
            **{f.name: getattr(self, f.name) for f in fields(self)},
            **self.places,
            "OLDEST": policy.key is oldest and policy.unit is first,
            "IN_ORDER": policy.in_order,
            "HEIGHTS": self.heights,
            "issue_key": adapted("issue_key", tuple(ISSUE), policy.key),
            "unit_key": adapted("unit_key", UNIT, policy.unit),
        }


def field_places(names: Sequence[str], size: int) -> dict[str, int]:
    """Where fields of so many numbers each are, one after the other."""
    return {name: k * size for k, name in enumerate(names)}


@cache
def unwritable(policy: Policy) -> str:
    """Why the keys of a policy cannot be native code; "" if they can."""
    library = Library()
    for key in (policy.key, policy.unit):
        try:
            library.function(key)
        except (RestrictedError, OSError) as error:  # OSError: its source is in no file
            return str(error)
    return ""


def repeats(policy: Policy) -> bool:
    """Whether what a policy chooses does not depend on how often it has chosen before: only then
    do states repeat."""
    forgetful = {"occupancy", "transfer", "work", "latency", "height", "waited"}
    return (policy.key is oldest or forgetful.issuperset(parameters(policy.key))) and {
        "instance"
    }.issuperset(parameters(policy.unit))


def adapted(name: str, given: Sequence[str], key: Key) -> FunctionType:
    """A key of some of these integers as a function of all of them."""
    all_of_them = ", ".join(f"{one}: int" for one in given)
    source = f"def {name}({all_of_them}) -> int:\n    return key({', '.join(parameters(key))})\n"
    place = f"<{name} of {key.__module__}.{key.__qualname__}>"
    linecache.cache[place] = len(source), None, source.splitlines(True), place
    names: dict[str, Any] = {"key": key, "__name__": kernel.__name__}
    exec(compile(source, place, "exec"), names)
    made = names[name]
    assert isinstance(made, FunctionType)
    return made


def specialised(constants: Constants) -> Callable[..., int]:
    """The kernel with these constants: its functions in a module of their own."""
    names: dict[str, object] = {"__name__": kernel.__name__}
    for part in MODULES:
        names |= {name: value for name, value in vars(part).items() if name[:2] != "__"}
    own = [vars(part) for part in MODULES]
    names |= constants.names
    for name, value in names.items():
        if isinstance(value, FunctionType) and any(value.__globals__ is part for part in own):
            copy = FunctionType(value.__code__, names, name)
            copy.__annotations__ = value.__annotations__
            names[name] = copy
    made = names["run"]
    assert isinstance(made, FunctionType)
    return made


def interpreted(constants: Constants) -> Kernel:
    """The kernel in CPython, on lists."""
    body = specialised(constants)
    return lambda arrays: partial(body, *arrays)


@cache
def compiled(constants: Constants) -> Kernel:
    """The kernel as native code, on NumPy arrays; from the user's cache if it was made before."""
    name = "opaque0"
    image = remembered(_recipe(), _how(constants), lambda: _image(constants))
    code = link([image], [name])
    count = len(inspect.signature(kernel.run).parameters)
    types = [ctypes.c_void_p, ctypes.c_int64] * count + [ctypes.c_void_p] * 2
    function = ctypes.CFUNCTYPE(None, *types)(code.addresses[name])
    returned = np.zeros(2, np.int64)
    place = int(returned.ctypes.data)

    def bound(arrays: Sequence[Array]) -> Callable[[], int]:
        words = [word for array in arrays for word in (array.ctypes.data, array.size)]
        given = [kind(word) for kind, word in zip(types, (*words, place, place + 8), strict=True)]

        def run() -> int:
            function(*given)
            if returned[1]:
                raise KeyFault
            return int(returned[0])

        return run

    bound.code = code  # type: ignore[attr-defined]  # it lives as long as the function
    return bound


def _how(constants: Constants) -> str:
    """The constants as text that is the same in every process: keys of a policy as native code."""
    numbers = {f.name: getattr(constants, f.name) for f in fields(constants) if f.name != "policy"}
    return f"{numbers} {_keys(constants.policy)}"


@cache
def _keys(policy: Policy) -> str:
    library = Library()
    for key in (policy.key, policy.unit):
        library.function(key)
    given = [parameters(key) for key in (policy.key, policy.unit)]
    return f"{policy.is_oldest} {policy.in_order} {given} {library.module.text}"


@uncollected()
def _image(constants: Constants) -> bytes:
    body = specialised(constants)
    ours = frozenset(part.__name__ for part in MODULES)
    library = Library(ours, mask="i64" if constants.RING == 64 else "i128")
    kinds = [*library.signature(body).flat.values()]
    library.entry(body, kinds, 1, near=constants.near)
    return to_object(library.module.text, optimise=True, passes=PASSES)


@cache
def _recipe() -> str:
    """All that the native code is made from, but for the constants: reading it is quicker than
    writing the code to find out that it is there."""
    parts: tuple[ModuleType, ...] = (*MODULES, bits, *restricted.MODULES, ir, sys.modules[__name__])
    return hashlib.sha256("".join(map(inspect.getsource, parts)).encode()).hexdigest()
