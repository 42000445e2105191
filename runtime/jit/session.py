"""Compiled programs and the memory they run in."""

from __future__ import annotations

import ctypes
import hashlib
import pickle
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.dtypes import DTYPES
from infinisa.isa.encoding import encode
from infinisa.isa.errors import CompileError, ProgramError
from infinisa.isa.garbage import uncollected
from infinisa.isa.instance import find, resolve
from infinisa.isa.instruction import Instruction
from infinisa.isa.program import COPIES, Buffer, Issue, Operand, Program, defaults, extents
from infinisa.isa.verify import verify

from ..opaque import run_body
from ..values import Array, Result, bind, nothing
from .cache import SOURCES, remembered
from .code.ir import Code, image, link, to_assembler
from .code.processor import Target
from .contraction.quantised import Format, relative
from .contraction.weights import Layout
from .program.plan import (
    CALL_HEAD,
    CONTEXT,
    CORE,
    FAILED,
    FAULT,
    FAULTY,
    ISSUE,
    OUT_OF_BOUNDS,
    OUT_OF_RANGE,
    STATUS,
    Plan,
    chip_sizes,
    output_dimensions,
    temporary_places,
)
from .program.program import emit
from .rewriting.shares import WORTH
from .threads import Team, number_of_threads

BACKENDS = ("vector", "scalar", "parallel")
TEAM = CONTEXT.index("team")
ALIGNMENT, LARGE_PAGE, LINE = 4096, 2 << 20, 64
SLACK = 256
"""Bytes behind every buffer: a clipped index into an empty region reads its first position."""


def compile_program(
    program: Program,
    library: Mapping[str, Instruction],
    backend: str = "vector",
    *,
    cores: int = 1,
    threads: int | None = None,
    worth: int = WORTH,
    target: str = "",
    weights: str = "",
    activations: str = "",
    verified: bool = False,
    cache: bool = True,
) -> Compiled:
    """A program as native code. It is verified first, since native code checks no bounds.

    backend   "vector": the widest vectors of this processor, written by us; "scalar": portable
              code, the same text for every processor, left to LLVM's own passes; "parallel":
              "vector" on threads
    threads   of "parallel"; default: the cores that this process may use
    worth     operations that dividing an issue among threads must save
    cores     that the program was compiled for; their parts run one after the other
    target    a kind of processor to restrict the code to, of `processor.PROCESSORS`; default: all
              that this one has
    weights   how a session keeps those that contractions read, if in fewer bits: "bf16", "f16",
              "int8" (a factor a column), "int8/32", "int4/32" (a factor for 32 steps of a column;
              or 64, 128, 256; where groups do not fit, "int8"); `Session.errors` says what that
              did to each
    activations  "int8": with integer weights, the other side is rounded too, row by row
    verified  the caller has done that
    cache     keep the code in the user's cache folder, and take it from there
    """
    if backend not in BACKENDS:
        raise CompileError(f"backend must be {' or '.join(BACKENDS)}, not {backend!r}")
    count = number_of_threads(threads if backend == "parallel" else threads or 1)
    if count > 1 and backend != "parallel":
        raise CompileError(f"backend {backend!r} runs on 1 thread, not {count}: use 'parallel'")
    form = Format.of(weights, activations)
    if not verified:
        verify(program, None, library, cores)
    began = time.perf_counter()
    scalar = backend == "scalar"
    chosen = Target.scalar() if scalar else Target.named(target) if target else Target.host()
    if missing := chosen.missing():
        raise CompileError(f"target {target!r}: this processor lacks {', '.join(missing)}")
    setting = Setting(chosen, cores, count, worth, form)
    native = native_code(program, library, setting, cache)
    code = link(native.images, native.plan.functions)
    seconds = time.perf_counter() - began
    return Compiled(program, library, backend, seconds, native.characters, native.plan, code)


@dataclass(frozen=True)
class Setting:
    """All but the program that decides its code."""

    target: Target
    cores: int
    threads: int
    worth: int
    weights: Format | None


@dataclass(frozen=True)
class Native:
    """The code of a program: object files, what a session must provide, and how many characters of
    LLVM's language it was."""

    images: tuple[bytes, ...]
    plan: Plan
    characters: int


def native_code(
    program: Program, library: Mapping[str, Instruction], setting: Setting, cache: bool
) -> Native:
    """Made now, or taken from the user's cache folder.

    A program is known again by its encoding, before any code is written. Authors' own bodies are no
    part of that: where there are some, only the text of the code is known again.
    """
    names = {opcode.instruction for opcode in program.opcodes}.difference(COPIES)
    definitions = (find(name, library) for name in names)
    own = any(made.native or made.body for made in definitions)

    def make() -> Native:
        with uncollected():
            emission = emit(
                program,
                library,
                setting.target,
                setting.cores,
                setting.threads,
                setting.worth,
                setting.weights,
            )
        source, bodies = emission.module.text, emission.bodies.module
        scalar, keep = setting.target.lanes == 1, cache and own
        images = [image(source, scalar, setting.target, keep)]
        if bodies.functions:
            images.append(image(bodies.text, True, setting.target, keep))
        return Native(tuple(images), emission.plan, len(source))

    if own or not cache:
        return make()
    key = hashlib.sha256(encode(program)).hexdigest()
    kept = remembered(key, f"{SOURCES} {setting}", lambda: pickle.dumps(make()))
    found: Native = pickle.loads(kept)
    return found


def assembler(program: Program, library: Mapping[str, Instruction], target: str) -> str:
    """A program in the instructions of a kind of processor, which need not be this one."""
    chosen = Target.named(target)
    verify(program, None, library, 1)
    return to_assembler(emit(program, library, chosen, 1).module.text, chosen)


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program's native code.

    seconds  it took to compile
    ir       characters of its text in LLVM's language
    """

    program: Program
    library: Mapping[str, Instruction]
    backend: str
    seconds: float
    ir: int
    plan: Plan = field(repr=False)
    code: Code = field(repr=False)

    def session(self, arrays: Mapping[str, Array]) -> Session:
        """Memory with weights, and perhaps inputs and states, in place for many runs."""
        return Session(self, arrays)

    def run(
        self, arrays: Mapping[str, Array], parameters: Mapping[str, int] | None = None
    ) -> Result:
        """Run once in memory of its own."""
        with closing(self.session(arrays)) as session:
            return session.run({}, parameters)


class Session:
    """The memory of a compiled program, kept from run to run.

    Weights are used where they are, if they are contiguous, or packed for contractions; inputs and
    states are copied in. `errors`: of weights that are kept in fewer bits, what was rounded off,
    relative to the weight, as root mean squares; `formats`: in which each of them is.
    """

    def __init__(self, compiled: Compiled, arrays: Mapping[str, Array]) -> None:
        self.compiled, self.program = compiled, compiled.plan.over(compiled.program)
        self.tensors: dict[str, Array] = {}
        self.errors: dict[str, float] = {}
        self.formats: dict[str, str] = {}
        self.panels = self._panels()
        size, places = temporary_places(self.program)
        self.temporaries = _bytes(size)
        self._place(places)
        kept = [b for b in self.program.buffers if b.outer and b.name not in places]
        given = bind(replace(self.program, buffers=tuple(kept)), arrays)
        for buffer in kept:
            self._keep(buffer, given[buffer.name])
        self.chips = self._chips()
        self.parameters = np.zeros(max(1, len(self.program.parameters)), np.int64)
        self.ends = np.zeros(1 + sum(len(b.shape) for b in self.program.buffers), np.int64)
        self.call = np.zeros(compiled.plan.area, np.int64)
        threads = compiled.plan.threads
        self.work = [_bytes(compiled.plan.scratch) for _ in range(threads)]
        self.team = Team(threads, compiled.code, compiled.plan.frame, self.work)
        self.running = threading.RLock()
        addresses = [self._address(buffer) for buffer in self.program.buffers]
        addresses += [int(memory.ctypes.data) for memory in self.panels.values()]
        self.buffers = np.array(addresses or [0], np.uint64)
        self.failure: BaseException | None = None
        self.callback = ctypes.CFUNCTYPE(None)(self._opaque)
        self.context = self._context()
        self.given = ctypes.c_void_p(self.context.ctypes.data)
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.entries = {
            section.name: entry(compiled.code.addresses[name])
            for section, name in zip(self.program.sections, compiled.plan.entries, strict=True)
        }

    def run(
        self, arrays: Mapping[str, Array], parameters: Mapping[str, int] | None = None
    ) -> Result:
        """Run all sections; `arrays` replace inputs and states, states else start anew.

        The results lie in the memory of this session: the next run overwrites them.
        """
        self._bind(arrays)
        self._set(parameters)
        seconds = self._sections(self.entries)
        names = [parameter.name for parameter in self.program.parameters]
        final = dict(zip(names, map(int, self.parameters), strict=False))
        return self._result(final, seconds)

    def step(
        self, parameters: Mapping[str, int] | None = None, sections: Collection[str] | None = None
    ) -> Callable[[], object]:
        """A call that runs sections (by name; default: all) and nothing else: inputs and states are
        taken as they lie in `tensors`, results stay there. For runs that are short."""
        self._set(parameters)
        names = [name for name in self.entries if sections is None or name in sections]
        if len(names) != 1:
            return partial(self._sections, names)
        if names[0] in self.compiled.plan.shared:
            return partial(self._section, names[0])
        entry, given, call = self.entries[names[0]], self.given, self.call

        def once() -> None:
            entry(given)
            if call[STATUS]:
                self._check(names[0])

        return once

    def close(self) -> None:
        """End the threads that it keeps; so does the last reference to it."""
        self.team.close()

    # -- running

    def _set(self, parameters: Mapping[str, int] | None) -> None:
        """Parameters before a run, and nothing of an earlier one."""
        values = defaults(self.program, parameters)
        self.ends[:] = 0
        self.call[STATUS] = 0
        for place, parameter in enumerate(self.program.parameters):
            self.parameters[place] = values[parameter.name]

    def _sections(self, names: Iterable[str]) -> dict[str, float]:
        """Run sections: seconds of each."""
        seconds: dict[str, float] = {}
        for name in names:
            began = time.perf_counter()
            self._section(name)
            seconds[name] = time.perf_counter() - began
        return seconds

    def _section(self, name: str) -> None:
        """Run a section. Its memory is one, so threads of the caller do so one after the other."""
        with self.running:
            if name in self.compiled.plan.shared:
                self.context[TEAM] = self.team.gather()
            self.entries[name](self.given)
        self._check(name)

    # -- memory

    def _context(self) -> NDArray[np.uint64]:
        """The table that entries are given."""
        tables: list[Array] = [self.parameters, self.buffers, self.ends, self.work[0], self.call]
        given = [table.ctypes.data for table in tables]
        callback = ctypes.cast(self.callback, ctypes.c_void_p).value
        return np.array([*given, callback, self.team.place], np.uint64)

    def _panels(self) -> dict[tuple[str, Layout], NDArray[np.uint8]]:
        """Memory for weights in panels, in the order of their use: one run of large pages, and
        behind each weight the one that is needed next."""
        packed = self.compiled.plan.packed
        places = np.cumsum([0, *(-(-layout.bytes // LINE) * LINE for _, layout in packed)])
        memory = _bytes(int(places[-1]))
        return {
            key: memory[first : first + key[1].bytes]
            for key, first in zip(packed, places.tolist(), strict=False)
        }

    def _chips(self) -> dict[str, NDArray[np.uint8]]:
        sizes, cores = chip_sizes(self.program), self.compiled.plan.cores
        return {name: _bytes(size * cores) for name, size in sizes.items()}

    def _place(self, places: Mapping[str, int]) -> None:
        """Temporaries where others lie too; that they start as nothing is seen to once for all."""
        filled: dict[tuple[int, str], int] = {}
        for name, first in places.items():
            buffer = self.program.buffer[name]
            dtype = DTYPES[buffer.dtype].numpy
            place = self.temporaries[first : first + buffer.bytes].view(dtype)
            self.tensors[name] = place.reshape(buffer.shape)
            done = filled.get((first, buffer.dtype), 0)
            with np.errstate(invalid="ignore"):
                place[done:] = np.asarray(nothing(buffer.dtype)).astype(dtype)
            filled[first, buffer.dtype] = max(done, place.size)

    def _keep(self, buffer: Buffer, array: Array) -> None:
        """A tensor in memory: a weight where it is or in panels, if nothing needs it otherwise."""
        fixed = buffer.kind == "weight" and array.flags.c_contiguous and array.size
        plan = self.compiled.plan
        if buffer.kind != "weight" or buffer.name in plan.plain:
            order = plan.orders.get(buffer.name, ())
            array = self.tensors[buffer.name] = array if fixed else _owned(array, order)
        elif not fixed:
            array = _owned(array)
        self._pack(buffer.name, array)

    def _pack(self, name: str, array: Array) -> None:
        """Bring a weight into the layouts in which it is used."""
        fills, addresses = self.compiled.plan.fills, self.compiled.code.addresses
        for (buffer, layout), memory in self.panels.items():
            if buffer != name:
                continue
            if layout.form:
                filled, self.errors[name] = layout.filled(layout.form, array)
                memory[: filled.size] = filled
            else:
                fill = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
                fill(addresses[fills[layout]])(array.ctypes.data, memory.ctypes.data)
                if layout.dtype != layout.source:
                    with np.errstate(over="ignore"):
                        rounded = array.astype(DTYPES[layout.dtype].numpy)
                    self.errors[name] = relative(array, rounded)
            kept = layout.form.name.replace("_", "/") if layout.form else layout.dtype
            if name in self.errors:
                self.formats[name] = kept
            if not np.isfinite(self.errors.get(name, 0.0)):
                raise ProgramError(f"weight {name!r}: has numbers that {kept} cannot hold")

    def _address(self, buffer: Buffer) -> int:
        if buffer.outer:
            kept = self.tensors.get(buffer.name)
            return 0 if kept is None else int(kept.ctypes.data)
        return int(self.chips[buffer.memory].ctypes.data) + buffer.address

    def _bind(self, arrays: Mapping[str, Array]) -> None:
        for buffer in self.program.buffers:
            given, mine = arrays.get(buffer.name), self.tensors.get(buffer.name)
            if given is not None and buffer.outer:
                only = {buffer.name: given}
                fresh = bind_one(self.program, buffer, only)
                if mine is not None:
                    np.copyto(mine, fresh)
                self._pack(buffer.name, np.ascontiguousarray(fresh))
            elif mine is None:
                continue
            elif buffer.kind == "state" and self.failure is None and self.started:
                mine.fill(buffer.initial)
        self.started = True

    started = False

    # -- opaque instructions

    def _opaque(self) -> None:
        """Run the opaque instruction that the entry has put into the call area.

        An error cannot pass through native code: it is kept and raised behind it.
        """
        try:
            issue = self.compiled.plan.opaque[int(self.call[ISSUE])]
            self._run_opaque(issue)
        except BaseException as error:  # it is raised again outside native code
            self.failure = error
            self.call[STATUS] = FAILED

    def _run_opaque(self, issue: Issue) -> None:
        opcode = self.program.opcode[issue.opcode]
        types = [self.program.buffer[operand.buffer].dtype for operand in issue.reads]
        meaning = resolve(opcode, types, self.compiled.library)
        place = CALL_HEAD
        views = []
        for operand in (*issue.reads, *issue.writes):
            view, place = self._view(operand, place)
            views.append(view)
        count = len(issue.reads)
        found, numbers = run_body(meaning, issue, self.program, views[:count], views[count:])
        names = [parameter.name for parameter in self.program.parameters]
        for name, number in numbers.items():
            self.parameters[names.index(name)] = number
        for view, array in zip(views[count:], found, strict=True):
            view[...] = array

    def _view(self, operand: Operand, place: int) -> tuple[Array, int]:
        """The region of an operand that the call area holds, and where the next one is."""
        buffer = self.program.buffer[operand.buffer]
        turn = int(self.call[place])
        ends = self.call[place + 1 : place + 1 + 2 * len(buffer.shape)].reshape(-1, 2)
        slices: tuple[Any, ...] = tuple(slice(int(a), int(a + length)) for a, length in ends)
        if buffer.outer:
            array = self.tensors[buffer.name]
        else:
            core = int(self.call[CORE])
            offset = core * chip_sizes(self.program)[buffer.memory]
            offset += buffer.address + turn * buffer.pitch
            dtype = DTYPES[buffer.dtype].numpy
            array = np.ndarray(buffer.shape, dtype, self.chips[buffer.memory].data, offset)
        return array[(*slices, ...)], place + 1 + 2 * len(buffer.shape)

    # -- results

    def _check(self, section: str) -> None:
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        if self.call[STATUS] == OUT_OF_RANGE:
            names = [parameter.name for parameter in self.program.parameters]
            values = dict(zip(names, map(int, self.parameters), strict=False))
            found = next(s for s in self.program.sections if s.name == section)
            extents(found, values)
            raise AssertionError(f"section {section!r} ended early")
        if self.call[STATUS] in (FAULTY, OUT_OF_BOUNDS):
            raise ProgramError(self._refusal())

    def _refusal(self) -> str:
        """What an opaque instruction did wrong in native code."""
        plan = self.compiled.plan
        if self.call[STATUS] == FAULTY:
            issue = plan.opaque[int(self.call[ISSUE])]
            name = self.program.opcode[issue.opcode].instruction
            fault = plan.faults[int(self.call[FAULT])]
            return f"instruction {name!r}: failed in {fault}"
        parameter = self.program.parameters[int(self.call[FAULT])]
        place = plan.opaque[int(self.call[ISSUE])].sets.index(parameter.name)
        value = int(self.call[CALL_HEAD + place])
        return f"parameter {parameter.name!r}: must be 0 to {parameter.most}, not {value}"

    def _result(self, parameters: dict[str, int], seconds: dict[str, float]) -> Result:
        starts = output_dimensions(self.program)
        outputs = {}
        for buffer in self.program.of_kind("output"):
            first = starts[buffer.name]
            ends = self.ends[first : first + len(buffer.shape)]
            whole = self.tensors[buffer.name]
            some = all(ends)
            outputs[buffer.name] = whole[tuple(slice(0, int(n) if some else 0) for n in ends)]
        states = (buffer for buffer in self.program.of_kind("state") if buffer.outer)
        kept = {buffer.name: self.tensors[buffer.name] for buffer in states}
        return Result(outputs, kept, parameters, seconds)


def bind_one(program: Program, buffer: Buffer, arrays: Mapping[str, Array]) -> Array:
    """One array, checked and padded as `runtime.values.bind` does it."""
    return bind(replace(program, buffers=(buffer,)), arrays)[buffer.name]


def _bytes(size: int) -> NDArray[np.uint8]:
    """Zeros at an aligned address, with slack behind.

    Much memory is whole large pages, for which NumPy asks the system: what a program streams over
    is more than the addresses of small ones that a processor remembers.
    """
    page = LARGE_PAGE if size >= LARGE_PAGE else ALIGNMENT
    raw = np.zeros(-(-(size + SLACK) // page) * page + page, np.uint8)
    offset = -raw.ctypes.data % page
    return raw[offset : offset + size + SLACK]


def _owned(array: Array, order: Sequence[int] = ()) -> Array:
    """A copy at an aligned address, contiguous with its dimensions in this order."""
    order = order or range(array.ndim)
    memory, laid = _bytes(array.nbytes), array.transpose(order)
    copy = np.ndarray(laid.shape, laid.dtype, memory.data)
    np.copyto(copy, laid)
    return copy.transpose(np.argsort(order))
