"""Kernels as native code, made once for a user, run on arrays that stay where they are.

The kernels of this package are held against CPython by tests, so they are compiled without checks;
those of others are checked at every index, store, overflow and division.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from infinisa.isa.errors import ModelError
from infinisa.runtime.jit import bits, restricted
from infinisa.runtime.jit.cache import remembered
from infinisa.runtime.jit.code import functions, ir
from infinisa.runtime.jit.code.ir import Code, Function, Value, link, to_object
from infinisa.runtime.jit.restricted import Library, RestrictedError

from .arrays import Kernel, Table, run
from .listing import Listing
from .memo import new_memo

FILES = ("byte_bpe", "character", "characters", "lookup", "memo", "merging", "pieces", "segment",
         "word", "wordpiece")  # fmt: skip
TRUSTED = frozenset(f"{__package__}.{name}" for name in FILES)
ENTRY = "entry"
SHORT = 1 << 10
"""Characters of a text whose ids `listed` gives: there is room for them from the start."""

SETS = 1 << 18
"""Of a memo, 16 MB: half of them hold two short pieces each, two others a longer one. The system
gives memory to those that are used."""

FAULT = -3
"""What a checked kernel returns that did what CPython would not do either."""

MOST = (1 << 31) - 1
"""Elements of the first array: their number goes as C's int."""


@dataclass(frozen=True, eq=False)
class Compiled:
    """A kernel as a function of (frame, first array, its size) that returns the kernel's number.

    The frame is 64-bit words: two that the function writes, then the address and size of every
    array but the first. A number right behind the first array is that array's size. ctypes knows no
    types of parameters, which it would look up at each call: it passes pointers and C's int.
    """

    function: Callable[[ctypes.c_void_p, bytes | ctypes.c_void_p, int], int]
    code: Code


class Bound:
    """A kernel with its arrays: all but the first, which each call gives."""

    def __init__(self, kernel: Kernel, arrays: Sequence[Table]) -> None:
        self.compiled, self.arrays = compiled(kernel), list(arrays)
        words = [word for array in arrays for word in (array.ctypes.data, array.size)]
        self.frame = np.array([0, 0, *words], np.int64)
        self.address = ctypes.c_void_p(self.frame.ctypes.data)

    def run(self, first: Table) -> int:
        check_size(first.size)
        address = ctypes.c_void_p(first.ctypes.data)
        return self.compiled.function(self.address, address, first.size)

    def replace(self, number: int, array: Table) -> None:
        """Another array instead of the one of that number."""
        self.arrays[number] = array
        self.frame[2 + 2 * number : 4 + 2 * number] = array.ctypes.data, array.size


class Encoder:
    """An encoding kernel with memory of its own, for one thread at a time.

    Kernels that are not restricted Python run in CPython.
    """

    def __init__(self, kernel: Kernel, tables: Mapping[str, Table], room: Callable[[int], int]):
        names = list(inspect.signature(kernel).parameters)[3:]
        self.memo = new_memo(SETS if "memo" in names else 0)
        self.kernel, self.tables, self.room = kernel, {**tables, "memo": self.memo}, room
        self.most = 0
        self.grow(4 * SHORT)
        try:
            self.bound = Bound(kernel, [self.ids, *(self.tables[name] for name in names)])
            self.function, self.address = self.bound.compiled.function, self.bound.address
            where = self.bound.compiled.code.addresses[ENTRY]
            self.listing = Listing(where, int(self.bound.frame.ctypes.data))
            self.listed = self.listing.function  # type: ignore[method-assign, assignment]  # chosen once
        except (RestrictedError, OSError):  # OSError: its source is in no file
            self.encode = self.interpreted  # type: ignore[method-assign]  # chosen once

    def encode(self, data: bytes) -> int:
        """Write the ids of UTF-8 text into `ids`; how many, or what the kernel says else."""
        size = len(data)
        if size > self.most:
            self.grow(size)
            self.bound.replace(0, self.ids)
        return self.function(self.address, data, size)

    def listed(self, text: str) -> list[int] | int:
        """The ids of a text of at most `SHORT` characters, or what the kernel says else."""
        count = self.encode(text.encode())
        return self.view[:count].tolist() if count >= 0 else count

    def interpreted(self, data: bytes) -> int:
        """The same in CPython."""
        if len(data) > self.most:
            self.grow(len(data))
        return run(self.kernel, np.frombuffer(data, np.uint8), len(data), self.ids, self.tables)

    def forget(self) -> None:
        """Begin again with an empty memo."""
        self.memo[:] = 0

    def grow(self, most: int) -> None:
        """Make room for texts of so many bytes."""
        check_size(most)
        self.most = max(most, 2 * self.most)
        self.ids: Table = np.empty(self.room(self.most), np.int32)
        self.view = self.ids.data


def call(kernel: Kernel, *arrays: Table) -> int:
    """Run a kernel of arrays once."""
    first, *others = arrays
    return Bound(kernel, others).run(first)


def check_size(size: int) -> None:
    """Refuse a text that is too long for C's int."""
    if size > MOST:
        raise ModelError(f"a text must be at most {MOST} bytes, not {size}")


def convert(kernel: Kernel, source: Table, target: Table, tables: Mapping[str, Table]) -> int:
    """Run a kernel (source, its size, target, tables...) once, in CPython if it has to be."""
    names = list(inspect.signature(kernel).parameters)[3:]
    try:
        return call(kernel, source, target, *(tables[name] for name in names))
    except (RestrictedError, OSError):  # OSError: its source is in no file
        return run(kernel, source, source.size, target, tables)


@cache
def compiled(kernel: Kernel) -> Compiled:
    """A kernel as native code; RestrictedError or OSError if it cannot be."""
    if kernel.__module__ in TRUSTED:
        image = remembered(recipe(), f"{kernel.__module__}.{kernel.__name__}", lambda: made(kernel))
    else:
        source = written(kernel)
        image = remembered(source, "tokenizer", lambda: to_object(source, optimise=True))
    code = link([image], [ENTRY])
    return Compiled(ctypes.CFUNCTYPE(ctypes.c_int64)(code.addresses[ENTRY]), code)


def made(kernel: Kernel) -> bytes:
    return to_object(written(kernel), optimise=True)


def written(kernel: Kernel) -> str:
    """LLVM's text of a kernel and its entry."""
    library = Library(TRUSTED)
    kinds = [*library.signature(kernel).flat.values()]
    inner = library.entry(kernel, kinds, 1)
    parameters = [("frame", "ptr"), ("first", "ptr"), ("int", "i32")]
    f = Function(library.module, ENTRY, parameters, public=True, result="i64")
    frame, size = f.parameters["frame"], f.convert("sext", f.parameters["int"], "i64")
    given: list[tuple[str, Any]] = [("ptr", f.parameters["first"]), ("i64", size)]
    place = 2

    def next_word(kind: str) -> Value:
        nonlocal place
        place += 1
        return f.load(f.at(frame, place - 1, "i64"), kind)

    for number, kind in enumerate(kinds[1:]):
        if kind == "i64" and number == 0:
            given.append(("i64", size))
        else:
            given += [("ptr", next_word("ptr")), ("i64", next_word("i64"))]
    fault = f.at(frame, 1, "i64")
    f.store(ir.constant("i64", 0), fault)
    f.run(inner, [*given, ("ptr", frame), ("ptr", fault)])
    fine = f.compare("eq", f.load(fault, "i64"), ir.constant("i64", 0))
    f.finish(f.select(fine, f.load(frame, "i64"), ir.constant("i64", FAULT)))
    f.close()
    return library.module.text


@cache
def recipe() -> str:
    """All that our kernels are made from: reading it is quicker than writing the code to find out
    that it is there."""
    own = [Path(__file__).with_name(f"{name}.py").read_text("utf-8") for name in (*FILES, "native")]
    others = map(inspect.getsource, (bits, functions, ir, *restricted.MODULES))
    return hashlib.sha256("".join([*own, *others]).encode()).hexdigest()
