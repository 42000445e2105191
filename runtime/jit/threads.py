"""Threads that share the pieces of large issues, and how they do.

One thread runs a section. At a large issue it *hands out* its pieces: each of its team has some of
them, which it takes one after the other, and then those that others have left. It goes on when all
are done. So nothing but pieces of one issue ever runs at once, and a thread that the system keeps
waiting holds up nobody: whoever is there takes its piece. As long as all are there, a thread takes
the same part of every issue: what it reads is in the caches of its core.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

from infinisa.isa.errors import CompileError, ProgramError

from .code.ir import Code, Function, Module, Number, Value, constant, number
from .code.processor import Target

DONE, DUE, COUNTERS = 0, 16, 32
"""Places in a team's words, on cache lines of their own: how many pieces were ever done, and will
be when these are; from COUNTERS on, EACH for a thread, the number of this hand-out and how many
pieces it has left to take (STOP: no more will come), and then what follows. Behind all of them are
the function that computes a piece and the numbers that it works on."""

EACH = 16

END, BUSY, ID, CORE = 1, 2, 3, 4
"""Places behind a thread's counter: the number behind its last piece; whether it may have one in
its hands; for those that wait, the system's number of the thread and the core it is kept on."""

MOST_CORES, CLOCK_MONOTONIC = 1024, 1
"""Of Linux: how many cores a set of them can have here, and the clock that nobody sets."""

LEFT = 16
"""Low bits of a counter that say how many pieces are left."""

STOP = -1

PIECE = [("team", "ptr"), ("piece", "i64"), ("work", "ptr")]
"""What the function of a piece is given: the words, its number, scratch memory."""

WORKER = "worker"
"""The function that the other threads run; its arguments are the words, scratch memory and the
thread's number, from 1 on: 0 is the one that hands out."""

TAKING = [("team", "ptr"), ("work", "ptr"), ("thread", "i64")]

SPINS, NAP = 4000, 50
"""How often a waiting thread looks before it sleeps in between, and for how many microseconds:
about 100 us of looking, then others may have the core. To yield would cost it the rest of its
time, which even one of the lowest priority would get."""

NAPS = 20
"""How often a thread sleeps before it no longer waits for something to do: after 1 to 3 ms, if
nobody else wants its core."""

FOREVER = 1 << 62


# ---------------------------------------------------------------- native code


def code_at(threads: int) -> int:
    """The place of the function that computes a piece; the numbers that it works on follow."""
    return COUNTERS + EACH * threads


def hand_out(
    f: Function, team: Value, pieces: tuple[str, Number], work: Value, target: Target, threads: int
) -> None:
    """Have all pieces computed: (function, how many)."""
    code, count = pieces
    name = _hand_out_function(f.module, target, threads)
    f.run(name, [("ptr", team), ("ptr", Value(f"@{code}", "ptr")), ("i64", count), ("ptr", work)])


def worker(module: Module, target: Target, threads: int) -> None:
    """What the other threads run: take pieces until there are no more, or none came for long."""
    f = Function(module, WORKER, TAKING, public=True)
    team, work, thread = f.parameters.values()
    f.jump("again")
    f.place("again")
    seen = _take(f, team, work, thread, threads)
    on = f.label()
    f.branch(f.compare("slt", seen, constant("i64", 0)), "out", on)
    f.place(on)
    counter = _counter(f, team, thread)
    _wait(f, counter, seen, target, NAPS)
    f.branch(f.compare("ne", _atomic_load(f, counter), seen), "again", "out")
    f.place("out")
    f.done()


def _hand_out_function(module: Module, target: Target, threads: int) -> str:
    name = "hand_out"
    if name in module.names:
        return name
    module.names.add(name)
    given = [("team", "ptr"), ("code", "ptr"), ("count", "i64"), ("work", "ptr")]
    f = Function(module, name, given)
    team, code, count, work = f.parameters.values()
    done, due = (f.at(team, place, "i64") for place in (DONE, DUE))
    began = _time(f) if _movable(target) else None
    f.store(code, f.at(team, code_at(threads), "i64"))
    wanted = f.binary("add", f.load(due, "i64"), count)
    f.store(wanted, due)
    # All that was handed out before is done: nobody takes anything until its counter is stored.
    before = f.binary("lshr", _atomic_load(f, _counter(f, team, 0)), constant("i64", LEFT))
    next_one = f.binary("add", before, constant("i64", 1))
    head = f.binary("shl", next_one, constant("i64", LEFT))

    def give(turn: Value, end: list[Value]) -> list[Value]:
        """A thread its part, the last one first: it should begin soon."""
        thread = f.subtract(threads - 1, turn)
        part = f.binary("udiv", f.binary("mul", count, number(thread)), constant("i64", threads))
        counter = _counter(f, team, thread)
        f.store(end[0], f.at(counter, END, "i64"))
        fresh = f.binary("or", head, f.binary("sub", end[0], part))
        f.line(f"store atomic i64 {fresh.text}, ptr {counter.text} release, align 8")
        return [part]

    f.loop(0, threads, 1, give, [count])
    _take(f, team, work, constant("i64", 0), threads)
    if began:
        # It computed some pieces: who takes half of that time for one more has lost its core.
        ended = _time(f)
        half = f.binary("lshr", f.binary("sub", ended, began), constant("i64", 1))
        patience = f.binary("add", ended, half)
        _fetch_function(module, target, threads)

    def late(now: Value) -> None:
        if began is None:
            _wait(f, done, now, target, FOREVER)
            return
        _wait(f, done, now, target, 0)
        arguments = [("ptr", team), ("i64", wanted)]
        f.when(f.compare("sgt", _time(f), patience), lambda: f.run("fetch", arguments))

    _until(f, done, wanted, late)
    f.done()
    return name


def _until(f: Function, word: Value, wanted: Value, meanwhile: Callable[[Value], None]) -> None:
    """Do something again and again, given what a word is, until that is as wanted."""
    f.jump("again")
    f.place("again")
    now, on = _atomic_load(f, word), f.label()
    f.branch(f.compare("eq", now, wanted), "out", on)
    f.place(on)
    meanwhile(now)
    f.jump("again")
    f.place("out")


def _movable(target: Target) -> bool:
    """Whether a thread can bring another one to its core."""
    return "linux" in target.triple


def _fetch_function(module: Module, target: Target, threads: int) -> None:
    """Whoever has a piece in its hands and no core finishes it on this thread's, then goes back."""
    f = Function(module, "fetch", [("team", "ptr"), ("wanted", "i64")])
    team, wanted = f.parameters.values()
    module.declarations |= {"declare i32 @sched_getcpu()", "declare i32 @usleep(i32)"}
    module.declarations.add("declare i32 @sched_setaffinity(i32, i64, ptr)")
    cores = f.emit("ptr", 1, f"alloca [{MOST_CORES // 64} x i64]")

    def keep(counter: Value, core: Value) -> None:
        known = f.load(f.at(counter, ID, "i64"), "i64")
        f.when(f.compare("ne", known, constant("i64", 0)), lambda: pin(known, core))

    def pin(known: Value, core: Value) -> None:
        words = MOST_CORES // 64
        f.loop(0, words, 1, lambda i, _: f.store(constant("i64", 0), f.at(cores, i, "i64")))
        place = f.at(cores, f.binary("lshr", core, constant("i64", 6)), "i64")
        shift = f.binary("and", core, constant("i64", 63))
        f.store(f.binary("shl", constant("i64", 1), shift), place)
        who = f.emit("i32", 1, f"trunc i64 {known.text} to i32")
        size = MOST_CORES // 8
        f.line(f"call i32 @sched_setaffinity(i32 {who.text}, i64 {size}, ptr {cores.text})")

    def each(do: Callable[[Value], None]) -> None:
        f.loop(1, threads, 1, lambda thread, _: do(_counter(f, team, thread)))

    here = f.emit("i32", 1, "call i32 @sched_getcpu()")
    here = f.emit("i64", 1, f"zext i32 {here.text} to i64")

    def bring(counter: Value) -> None:
        busy = f.load(f.at(counter, BUSY, "i64"), "i64")
        f.when(f.compare("ne", busy, constant("i64", 0)), lambda: keep(counter, here))

    def bring_all() -> None:
        each(bring)
        _until(f, f.at(team, DONE, "i64"), wanted, lambda _: f.line(f"call i32 @usleep(i32 {NAP})"))
        each(lambda counter: keep(counter, f.load(f.at(counter, CORE, "i64"), "i64")))

    f.when(f.compare("ult", here, constant("i64", MOST_CORES)), bring_all)
    f.done()


def _time(f: Function) -> Value:
    """Nanoseconds since whenever."""
    module, name = f.module, "nanoseconds"
    if name not in module.names:
        module.names.add(name)
        module.declarations.add("declare i32 @clock_gettime(i32, ptr)")
        g = Function(module, name, [], result="i64")
        cells = g.emit("ptr", 1, "alloca [2 x i64]")
        g.line(f"call i32 @clock_gettime(i32 {CLOCK_MONOTONIC}, ptr {cells.text})")
        seconds, rest = (g.load(g.at(cells, place, "i64"), "i64") for place in (0, 1))
        g.finish(g.binary("add", g.binary("mul", seconds, constant("i64", 10**9)), rest))
        g.close()
    return f.emit("i64", 1, f"call i64 @{name}()")


def _counter(f: Function, team: Value, thread: Number) -> Value:
    return f.at(team, f.add(COUNTERS, f.multiply(thread, EACH)), "i64")


def _take(f: Function, team: Value, work: Value, thread: Value, threads: int) -> Value:
    """Compute pieces until none is left to take, the thread's own first; its counter as it then
    was."""
    name = "take"
    if name not in f.module.names:
        f.module.names.add(name)
        _take_function(f.module, name, threads)
    given = f"ptr {team.text}, ptr {work.text}, i64 {thread.text}"
    return f.emit("i64", 1, f"call i64 @{name}({given})")


def _take_function(module: Module, name: str, threads: int) -> None:
    f = Function(module, name, TAKING, result="i64")
    team, work, thread = f.parameters.values()
    mine = _counter(f, team, thread)
    count = f.emit("ptr", 1, "alloca i64")  # added to those of others once: they all write there
    f.store(constant("i64", 0), count)
    f.jump("again")
    f.place("again")
    own, busy = _atomic_load(f, mine), f.at(mine, BUSY, "i64")
    f.store(constant("i64", 1), busy)

    def look(turn: Value, _: list[Value]) -> None:
        """A piece of this thread, or of the next that has one; then again from the start."""
        at = f.binary("urem", f.binary("add", thread, turn), constant("i64", threads))
        counter = _counter(f, team, at)
        seen = _atomic_load(f, counter)
        left = f.binary("and", seen, constant("i64", (1 << LEFT) - 1))
        stop = f.compare("slt", seen, constant("i64", 0))
        none = f.binary("or", stop, f.compare("eq", left, constant("i64", 0)))
        some, taking, others = f.label(), f.label(), f.label()
        f.branch(none, others, some)
        f.place(some)
        fewer = f.binary("sub", seen, constant("i64", 1))
        f.line(
            f"%exchange = cmpxchg ptr {counter.text}, i64 {seen.text}, i64 {fewer.text} "
            "acq_rel monotonic"
        )
        taken = f.emit("i1", 1, "extractvalue { i64, i1 } %exchange, 1")
        f.branch(taken, taking, "again")
        f.place(taking)
        # Read only now: until this piece is done, there is no other hand-out.
        code = f.load(f.at(team, code_at(threads), "i64"), "ptr")
        end = f.load(f.at(counter, END, "i64"), "i64")
        piece = f.binary("sub", end, left)
        f.line(f"call void {code.text}(ptr {team.text}, i64 {piece.text}, ptr {work.text})")
        f.store(f.binary("add", f.load(count, "i64"), constant("i64", 1)), count)
        f.jump("again")
        f.place(others)

    f.loop(0, threads, 1, look)
    some, done = f.load(count, "i64"), f.at(team, DONE, "i64")

    def add() -> None:
        f.emit("i64", 1, f"atomicrmw add ptr {done.text}, i64 {some.text} release")

    f.when(f.compare("ne", some, constant("i64", 0)), add)
    f.store(constant("i64", 0), busy)
    f.finish(own)
    f.close()


def _wait(f: Function, word: Value, old: Value, target: Target, naps: int) -> None:
    """Wait until a word is no longer what it was: look, then sleep in between, not more than so
    often."""
    name = "wait"
    if name not in f.module.names:
        f.module.names.add(name)
        _wait_function(f.module, name, target)
    f.run(name, [("ptr", word), ("i64", old), ("i64", naps)])


def _wait_function(module: Module, name: str, target: Target) -> None:
    f = Function(module, name, [("word", "ptr"), ("old", "i64"), ("naps", "i64")])
    word, old, naps = f.parameters.values()
    pause = "call void @llvm.x86.sse2.pause()" if "sse2" in target.features else ""
    module.declarations.add("declare i32 @usleep(i32)")
    module.declarations |= {pause.replace("call", "declare")} - {""}

    def look(then: str) -> None:
        again = f.label()
        f.branch(f.compare("ne", _atomic_load(f, word), old), "out", again)
        f.place(again)
        if then:
            f.line(then)

    f.loop(0, SPINS, 1, lambda _, __: look(pause))
    f.loop(0, naps, 1, lambda _, __: look(f"call i32 @usleep(i32 {NAP})"))
    f.jump("out")
    f.place("out")
    f.done()


def _atomic_load(f: Function, word: Value) -> Value:
    return f.emit("i64", 1, f"load atomic i64, ptr {word.text} acquire, align 8")


# ---------------------------------------------------------------- the threads themselves


def usable_cores() -> tuple[int, ...]:
    """The cores that this thread may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def number_of_threads(threads: int | None) -> int:
    """As many as asked for, else as there are cores. CompileError for a number that cannot be."""
    most = 1 << 10 if os.name == "posix" else 1
    if threads is None:
        return min(len(usable_cores()), most)
    if not 1 <= threads <= most:
        raise CompileError(f"threads must be 1 to {most} on this system, not {threads}")
    return threads


_teams = itertools.count()


class Team:
    """Threads of a session: the one that calls and `size` - 1 more, which end with the team.

    They wait for pieces in native code, and if none came for long are parked in Python. Each of the
    others is kept on a core of its own, where the system lets us say so; the one that calls runs
    where it likes, and whoever is kept there has to move.

    words  by which pieces are handed out
    place  where they are
    work   scratch memory of each thread
    away   threads that do not wait for pieces
    cores  where the thread that calls was when the others were placed, and where these are
    known  the system's numbers of the threads that are not away
    """

    def __init__(
        self, size: int, code: Code, frame: int, work: Sequence[NDArray[np.uint8]]
    ) -> None:
        """code: with the function of a worker, if anything is divided; frame: numbers of a piece"""
        self.size, self.code, self.frame, self.work = size, code, frame, work
        self.first = next(_teams) * (size - 1)
        self._begin()

    def _begin(self) -> None:
        """Nobody waits, and nothing was ever handed out."""
        self.words = np.zeros(code_at(self.size) + 1 + self.frame, np.int64)
        self.place = int(self.words.ctypes.data)
        self.away = set(range(1, self.size))
        self.cores: list[int] = []
        self.known: dict[int, int] = {}
        self.pool: ThreadPoolExecutor | None = None
        self.process = os.getpid()
        self._spread(_core())

    def gather(self) -> int:
        """Have the other threads wait for pieces; where the words are. Who stops waiting just now
        misses what is handed out next, and the others do it."""
        if self.process != os.getpid():  # a fork has no threads
            self._begin()
        here = _core()
        if here in self.cores and here != self.cores[0]:
            self._spread(here)
        for thread in tuple(self.away):
            self._submit(thread)
        return self.place

    def _spread(self, here: int) -> None:
        """Keep the others away from the core that this thread is on, and from each other. Teams
        that run at once share as few cores as can be."""
        free = [core for core in usable_cores() if core != here] or [here]
        others = [free[(self.first + turn) % len(free)] for turn in range(self.size - 1)]
        self.cores[:] = [here, *others]
        self.words[COUNTERS + CORE : code_at(self.size) : EACH] = self.cores
        for thread, known in tuple(self.known.items()):
            _pin(known, self.cores[thread])

    def close(self) -> None:
        """End the threads; another run would start new ones."""
        if self.pool is not None:
            self._stop()
            self.pool.shutdown(wait=False)
            self._begin()

    def __del__(self) -> None:
        self._stop()

    def _stop(self) -> None:
        self.words[COUNTERS : code_at(self.size) : EACH] = STOP

    def _submit(self, thread: int) -> None:
        if self.pool is None:
            self.pool = ThreadPoolExecutor(self.size - 1, "infinisa")
        self.away.discard(thread)
        given = self.code, self.words, self.work[thread], thread
        try:
            self.pool.submit(_work, *given, self.away, self.cores, self.known)
        except RuntimeError as error:
            self.away.add(thread)
            raise ProgramError(f"cannot start {self.size} threads: {error}") from error


def _work(
    code: Code,
    words: NDArray[np.int64],
    work: NDArray[np.uint8],
    thread: int,
    away: set[int],
    cores: Sequence[int],
    known: dict[int, int],
) -> None:
    """What another thread does. It holds what it touches, should the session be gone already."""
    known[thread] = threading.get_native_id()
    _pin(known[thread], cores[thread])
    if max(cores) < MOST_CORES:
        words[COUNTERS + EACH * thread + ID] = known[thread]
    given = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64
    run = ctypes.CFUNCTYPE(None, *given)(code.addresses[WORKER])
    run(words.ctypes.data, work.ctypes.data, thread)
    del known[thread]
    away.add(thread)


def _pin(thread: int, core: int) -> None:
    """Keep a thread on a core; where that cannot be, it runs on any."""
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(thread, {core})


def _core() -> int:
    """The core that this thread is on; -1 if the system does not tell."""
    return int(_getcpu()())


@cache
def _getcpu() -> Callable[[], int]:
    library = ctypes.PyDLL(None) if os.name == "posix" else None
    return getattr(library, "sched_getcpu", lambda: -1)
