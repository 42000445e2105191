"""How long native code takes to make, and to take from the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from infinisa.api import Compiled
from infinisa.plugins.models import read_model_folder
from infinisa.runtime import host
from infinisa.runtime.jit import compile_program

from ._contest import loaded, onnx_model
from ._cpu_kernels import draw, node
from ._measure import Bar, at_most, timed
from ._measure import Row as Flat
from .overview import write_gpt2

MOST = {"softmax 1024 x 1024": 17, "matmul 512 x 512 x 512": 50, "GPT-2 small": 300}
"""Milliseconds."""

MOST_CACHED = 10
CACHED = "GPT-2 small"


@dataclass(frozen=True)
class Row:
    """CPU seconds of one thread, the least of some rounds: made, and taken from the cache."""

    name: str
    made: float
    cached: float
    characters: int
    part: str = field(default="compile", init=False)


def measured(rounds: int) -> tuple[list[Flat], list[Bar]]:
    rows = [row(name, make(), rounds) for name, make in work().items()]
    return [asdict(row) for row in rows], [*bars(rows)]


def work() -> dict[str, Callable[[], Compiled]]:
    row = onnx_model(
        [node("Softmax", ["x"], ["y"])], {"x": draw(1024, 1024)}, {"y": (1024, 1024)}, {}
    )
    product = onnx_model(
        [node("MatMul", ["x", "w"], ["y"])],
        {"x": draw(512, 512)},
        {"y": (512, 512)},
        {"w": draw(512, 512)},
    )
    compiled = (partial(loaded(model).compile, host.probe()) for model in (row, product))
    return dict(zip(MOST, (*compiled, gpt2), strict=True))


def gpt2() -> Compiled:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "gpt2"
        write_gpt2(folder)
        return loaded(read_model_folder(folder, prompt=128, text=False)).compile(host.probe())


def row(name: str, compiled: Compiled, rounds: int) -> Row:
    def make(cache: bool) -> int:
        made = compile_program(compiled.program, compiled.library, verified=True, cache=cache)
        return made.ir

    fresh = [timed(partial(make, False)) for _ in range(rounds)]
    make(True)  # now it is in the user's cache
    again = [timed(partial(make, True))[0] for _ in range(rounds)]
    return Row(name, min(seconds for seconds, _ in fresh), min(again), fresh[0][1])


def bars(rows: Sequence[Row]) -> Iterator[Bar]:
    for row in rows:
        yield at_most(f"compile, {row.name}", row.made * 1e3, MOST[row.name], "ms")
        if row.name == CACHED:
            title = f"compile, {row.name}, from the cache"
            yield at_most(title, row.cached * 1e3, MOST_CACHED, "ms")
