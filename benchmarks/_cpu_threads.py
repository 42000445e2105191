"""Several threads: each contender in a process of its own, in turn, so that no idle pool that spins
takes another's core. Seconds are of the wall clock.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from ._measure import Bar, at_least, fresh
from ._measure import Row as Flat

OURS, RUNTIME, TORCH = "infinisa", "onnxruntime", "torch"
SPELL = 0.05
"""Seconds for which a contender runs again and again, in each round."""

FASTER, NEVER_SLOWER = 1.8, 1.0
WORK = ("matmul 512", "softmax", "GELU", "GPT-2 small, prefill of 128")


@dataclass(frozen=True)
class Row:
    """Wall-clock seconds of one run with one thread and with several; ours also while somebody else
    has one of the cores."""

    name: str
    contender: str
    threads: int
    one: float
    several: float
    one_crowded: float | None
    several_crowded: float | None
    part: str = field(default="threads", init=False)


def contest(name: str, folder: Path) -> object:
    """The contest of a name; this process has the models' libraries only now."""
    from . import _cpu_kernels as kernels
    from . import _cpu_models as models
    from .overview import write_gpt2

    match name:
        case "matmul 512":
            return kernels.product("threads", 512, 512, 512)
        case "softmax":
            return next(kernels.rows())()
        case "GELU":
            return [*kernels.rows()][1]()
    if not folder.exists():
        write_gpt2(folder)
    return models.prefill(name, folder, 128, 0.0)


def contenders(name: str) -> Sequence[str]:
    return (OURS,) if name == WORK[-1] else (OURS, RUNTIME, TORCH)


def seconds(
    name: str, contender: str, counts: Sequence[int], rounds: int, folder: Path
) -> list[float]:
    """The least of some rounds for each number of threads, in this process."""
    from ._contest import Contest

    made = contest(name, folder)
    assert isinstance(made, Contest)
    return [least(made.threaded[contender](threads), rounds) for threads in counts]


def least(call: Callable[[], object], rounds: int) -> float:
    call()
    found = []
    for _ in range(rounds):
        end = time.perf_counter() + SPELL
        while (began := time.perf_counter()) < end:
            call()
            found.append(time.perf_counter() - began)
    return min(found)


@contextmanager
def crowd(core: int) -> Iterator[None]:
    """Somebody else keeps a core busy."""
    other = multiprocessing.get_context("spawn").Process(target=spin, args=(core,), daemon=True)
    other.start()
    time.sleep(1.0)
    try:
        yield
    finally:
        other.terminate()
        other.join()


def spin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        pass


def measured(threads: int, rounds: int) -> tuple[list[Flat], list[Bar]]:
    """All workloads; `threads` are as many cores."""
    cores = sorted(os.sched_getaffinity(0))
    rows: list[Row] = []
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "gpt2"
        for name in WORK:
            for contender in contenders(name):
                given = name, contender, (1, threads), rounds, folder
                quiet = fresh(seconds, *given)
                crowded: Sequence[float | None] = (None, None)
                if contender == OURS:
                    with crowd(cores[-1]):
                        crowded = fresh(seconds, *given)
                rows.append(Row(name, contender, threads, *quiet, *crowded))
    return [asdict(row) for row in rows], [*bars(rows)]


def bars(rows: Sequence[Row]) -> Iterator[Bar]:
    for row in rows:
        if row.one_crowded is None or row.several_crowded is None:
            continue
        title = f"threads, {row.name}, {row.threads} threads over one"
        yield at_least(title, row.one / row.several, FASTER, "times")
        crowded = row.one_crowded / row.several_crowded
        yield at_least(f"{title}, a core taken", crowded, NEVER_SLOWER, "times")
