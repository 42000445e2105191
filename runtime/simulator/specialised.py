"""The kernel for one machine: for CPython as it is, or compiled."""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from types import FunctionType, ModuleType
from typing import Annotated, Any, TypeAlias

import numpy as np

from infinisa.isa.machine import Machine

from ..jit import bits, ir, restricted
from ..jit.cache import remembered
from ..jit.ir import link, to_object
from ..jit.restricted import Library, annotated
from . import jump, kernel, layout, walk

PARTS = (layout, walk, jump, kernel)

Array: TypeAlias = Any
"""A list for CPython, of NumPy for native code."""

Kernel: TypeAlias = Callable[[Sequence[Array]], int]


@dataclass(frozen=True)
class Constants:
    """What the kernel is made for; see `layout`."""

    RING: int
    CORES: int
    WINDOW: int
    FETCH: int
    ISSUE: int
    ARRIVAL: int
    COUNTS: tuple[int, ...]
    FIRST: tuple[int, ...]
    COPIES: tuple[bool, ...]
    CLASSES: int
    UNITS: int
    READS: int
    WRITES: int
    STORES: int
    OLDEST: bool
    CACHED: bool
    TRACE: bool
    JUMP: bool

    @classmethod
    def of(
        cls, machine: Machine, hazards: tuple[int, int, int], *, trace: bool, jump: bool
    ) -> Constants:
        """Of a machine and a stage whose issues have at most so many (reads, writes, stores)."""
        counts = tuple(unit.count for unit in machine.units)
        reads, writes, stores = hazards
        cached = machine.memories[-2].managed == "hardware"
        return cls(
            RING=64 if machine.dispatch.window <= 64 else 128,
            CORES=machine.cores,
            WINDOW=machine.dispatch.window,
            FETCH=machine.dispatch.fetch,
            ISSUE=machine.dispatch.issue,
            ARRIVAL=machine.dram.latency,
            COUNTS=counts,
            FIRST=tuple(sum(counts[:k]) for k in range(len(counts))),
            COPIES=tuple(unit.kind == "copy" for unit in machine.units),
            CLASSES=len(counts),
            UNITS=sum(counts),
            READS=reads,
            WRITES=writes,
            STORES=stores,
            OLDEST=True,
            CACHED=cached,
            TRACE=trace,
            JUMP=jump and not cached,
        )

    @property
    def names(self) -> dict[str, object]:
        """Those of `layout` that stand for a machine, and those that follow from them."""
        found: dict[str, object] = asdict(self)
        account = layout.DATA + self.CLASSES
        found["SETS"] = layout.WAITING + 2 * self.CLASSES
        found["ACCOUNT"] = account
        found["USES"] = self.CORES * (self.UNITS + 1) * account
        found["RECORD"] = layout.HAZARDS + self.READS + self.WRITES + self.STORES
        found["PLACES"] = 1 + 3 * self.WINDOW
        found["TIMES"] = 3 * self.UNITS + 2
        found["Masks"] = Annotated[list[int], "u64" if self.RING == 64 else "u128"]
        return found


def specialised(constants: Constants) -> Callable[..., int]:
    """The kernel with these constants: its functions in a module of their own."""
    names: dict[str, object] = {"__name__": kernel.__name__}
    for part in PARTS:
        names |= {name: value for name, value in vars(part).items() if name[:2] != "__"}
    own = [part.__name__ for part in PARTS]
    names |= constants.names
    for name, value in names.items():
        if isinstance(value, FunctionType) and value.__module__ in own:
            copy = FunctionType(value.__code__, names, name)
            copy.__annotations__ = value.__annotations__
            names[name] = copy
    made = names["run"]
    assert isinstance(made, FunctionType)
    return made


def interpreted(constants: Constants) -> Kernel:
    """The kernel in CPython, on lists."""
    body = specialised(constants)
    return lambda arrays: body(*arrays)


@cache
def compiled(constants: Constants) -> Kernel:
    """The kernel as native code, on NumPy arrays; from the user's cache if it was made before."""
    name = "opaque0"
    image = remembered(_recipe(), repr(constants), lambda: _image(constants))
    code = link([image], [name])
    count = len(inspect.signature(kernel.run).parameters)
    types = [ctypes.c_void_p, ctypes.c_int64] * count + [ctypes.c_void_p] * 2
    function = ctypes.CFUNCTYPE(None, *types)(code.addresses[name])
    returned = np.zeros(2, np.int64)
    place = int(returned.ctypes.data)

    def run(arrays: Sequence[Array]) -> int:
        words = [word for array in arrays for word in (array.ctypes.data, array.size)]
        function(*words, place, place + 8)
        return int(returned[0])

    run.code = code  # type: ignore[attr-defined]  # it lives as long as the function
    return run


def _image(constants: Constants) -> bytes:
    body = specialised(constants)
    library = Library(checked=False, mask="i64" if constants.RING == 64 else "i128")
    kinds, _ = annotated(body, library.mask)
    library.entry(body, kinds, 1)
    return to_object(library.module.text, optimise=True)


@cache
def _recipe() -> str:
    """All that the native code is made from, but for the constants: reading it is quicker than
    writing the code to find out that it is there."""
    parts: tuple[ModuleType, ...] = (*PARTS, bits, restricted, ir, sys.modules[__name__])
    return hashlib.sha256("".join(map(inspect.getsource, parts)).encode()).hexdigest()
