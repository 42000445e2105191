"""Native code on this processor against the best libraries, layer by layer, on one thread.

    python -m benchmarks.cpu --json FILE [--only PART ...]

Ours and the peers run in turns in one process on one core; the processor's own ceiling is measured
in the same rounds. Seconds are CPU seconds of one run. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from math import nan
from statistics import geometric_mean
from typing import TYPE_CHECKING

from infinisa.isa.errors import InfinisaError
from infinisa.runtime.jit.code.processor import Target

from . import _measure
from ._measure import Bar, Row, at_least, fresh

if TYPE_CHECKING:
    from . import _contest as contest

CORE_TYPE, WIDE = "OPENBLAS_CORETYPE", "SkylakeX"
"""What makes OpenBLAS take 512-bit kernels where the processor has them; it knows narrower ones."""
PEERS = ("onnxruntime", "torch", "tokenizers", "tiktoken")
PARTS = ("matmul", "thin", "vector", "layouts", "rows", "attention", "recurrent", "convolution",
         "integers", "models", "networks", "tokenizers", "compile", "accuracy")  # fmt: skip
FIRST_MEAN = 1.08
"""Of the best peer, over all convolutions with channels first: the geometric mean."""

EVERY, EVERY_QUICK = 17, 1009
"""So manieth floats are given to each scalar function: 253 million, and 4."""


def contests(part: str, quick: bool) -> Iterator[Callable[[], contest.Contest]]:
    """Functions that make the contests of a part, one after the other: each holds its memory."""
    if part == "models":
        from . import _cpu_models

        yield from _cpu_models.contests(llama_cpp=not not_installed())
        return
    if part == "integers":
        from . import _cpu_integers

        yield from _cpu_integers.contests()
        return
    if part == "networks":
        from . import _cpu_networks

        yield from _cpu_networks.contests()
        return
    if part == "tokenizers":
        from . import _cpu_tokenizers

        yield from _cpu_tokenizers.contests(quick)
        return
    from . import _cpu_kernels as kernels

    match part:
        case "matmul":
            yield from kernels.squares((64, 256, 1024) if quick else tuple(kernels.SQUARE))
        case "thin":
            yield from kernels.thin()
        case "vector":
            yield lambda: kernels.vector(4096, 16384)
        case "layouts":
            yield from kernels.layouts((512,) if quick else (128, 512, 1024))
        case "rows":
            yield from kernels.rows()
        case "attention":
            yield from kernels.attentions((128, 512) if quick else tuple(kernels.LENGTHS))
        case "recurrent":
            yield from kernels.recurrences()
        case "convolution":
            yield from kernels.convolutions(last=True)
            yield from kernels.convolutions(last=False)


OPTIONAL = ("llama_cpp", "gguf")
"""Of packages llama-cpp-python and gguf: a peer that is measured where it is installed."""


def not_installed() -> list[str]:
    return [name for name in OPTIONAL if importlib.util.find_spec(name) is None]


def part_rows(part: str, only: str, quick: bool, rounds: int) -> tuple[list[Row], list[Bar]]:
    """In this process, which should have one thread and know nothing yet."""
    if part == "compile":
        from . import _cpu_compile

        return _cpu_compile.measured(rounds)
    if part == "accuracy":
        from . import _scalars

        return _scalars.accuracy(EVERY_QUICK if quick else EVERY)
    import torch

    from . import _contest as contest
    from ._measure import Ceiling

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    ceiling = Ceiling()
    rows: list[Row] = []
    judged: list[Bar] = []
    first: list[float] = []  # ratios of what has its channels first
    for make in contests(part, quick):
        try:
            made = make()
        except InfinisaError as error:  # the others still count
            judged.append(Bar(f"{part}: {error}", nan, "no error", "", False))
            continue
        if only not in made.name:
            continue
        row = contest.contend(made, ceiling, rounds)
        print(shown(row), file=sys.stderr, flush=True)
        rows.append(row.flat)
        judged += contest.bars(made, row)
        first += [row.ratio] if "channels first" in made.name else []
    if part == "convolution" and not only:
        title = f"{part}, channels first, the mean: of the best peer"
        judged.append(at_least(title, geometric_mean(first), FIRST_MEAN, "times"))
    return rows, judged


def shown(row: contest.Row) -> str:
    """A line while it runs."""
    return (
        f"{row.part}: {row.name}: {row.seconds * 1e6:.1f} us, {row.ratio:.2f} x {row.best_peer}, "
        f"{row.share:.0%} of the ceiling, error {row.error:.0e}, "
        f"compiled in {row.compiling * 1e3:.0f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _measure.arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=f"of {', '.join(PARTS)}")  # fmt: skip
    parser.add_argument("--name", default="", help="only rows whose name has this in it")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="measure these threads too, each contender in a process of its own",
    )
    parser.add_argument("--rounds", type=int, help="default: 9, with --quick 4")
    options = parser.parse_args(arguments)
    if missing := [name for name in PEERS if importlib.util.find_spec(name) is None]:
        raise SystemExit(f"benchmarks.cpu: no {', '.join(missing)}: pip install 'infinisa[bench]'")
    if not Target.named("avx512").missing():
        os.environ.setdefault(CORE_TYPE, WIDE)
    everywhere = os.sched_getaffinity(0)
    core = _measure.pin()
    rounds = options.rounds or (4 if options.quick else 9)
    rows: list[Row] = []
    bars: list[Bar] = []
    for part in options.only:
        found, judged = fresh(part_rows, part, options.name, options.quick, rounds)
        rows += found
        bars += judged
    if options.threads > 1:
        from . import _cpu_threads

        os.sched_setaffinity(0, everywhere)
        found, judged = _cpu_threads.measured(options.threads, rounds)
        rows += found
        bars += judged
    settings = {
        "core": core,
        "not installed": ", ".join(not_installed()) or "nothing",
        "rounds": rounds,
        "threads": options.threads,
        "onnxruntime": "1 thread, all optimisations, inputs and outputs bound",
        "torch": "1 thread",
        "numpy": f"1 thread, {CORE_TYPE}={os.environ.get(CORE_TYPE, 'as it finds')}",
    }
    if absent := not_installed():
        print(f"benchmarks.cpu: without {', '.join(absent)}, no rows beside llama.cpp")
    return _measure.report(options.json, settings, rows, bars)


if __name__ == "__main__":
    raise SystemExit(main())
