"""How far simulated times are from those of real chips, and what was fitted to get there.

    python -m benchmarks.accuracy --json FILE [--only tpu|host|a100|forms] [--reference DIR]

    forms  products alone on systolic arrays of every dataflow, against closed forms: exactly
    tpu    the six workloads of TPU v1: throughput and counters of the paper, nothing fitted
    host   kernels and models on this processor, measured as native code: nothing fitted, the
           machine is probed with kernels of its own
    a100   four operators on an A100: nothing fitted; then few constants fitted on every other row
           and scored on the rest, and a roofline with as many beside it. The tables are read from
           DIR/a100 and are no part of this project.

Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from infinisa.plugins.manager import load as load_plugins

from . import _a100, _dataflows, _host, _measure, _tpu
from ._measure import Bar, at_most
from .overview import MINILM, MISSING_MINILM, Subject, subjects

SHAPES = 500
"""Random shapes of each dataflow."""

LARGEST_ERROR = 0.15
"""Of achieved throughput on TPU v1, and of the time of models on this processor at the median."""

GIVEN = ("MLP0", "MLP1", "LSTM0", "CNN0")
"""The workloads whose shapes follow from the paper's tables."""


@dataclass(frozen=True)
class Row:
    """One number, predicted and as it is.

    what     and its unit
    fitted   how many constants were fitted, on rows that are not scored
    error    predicted / real - 1; None for what is no time or rate of its own
    """

    chip: str
    part: str
    name: str
    what: str
    predicted: float
    real: float
    unit: str
    fitted: int
    error: float | None


def row(
    chip: str, part: str, name: str, what: str, predicted: float, real: float, unit: str
) -> Row:
    """With nothing fitted."""
    return Row(chip, part, name, what, predicted, real, unit, 0, predicted / real - 1)


# ---------------------------------------------------------------- closed forms


def forms(count: int) -> list[Row]:
    """A row for each dataflow: how many shapes took exactly as long as their closed form."""
    library = load_plugins().library
    rows = []
    for number, dataflow in enumerate(_dataflows.FORMS):
        found = list(_dataflows.shapes(dataflow, count, seed=number))
        exact = sum(shape.simulated(library) == shape.expected for shape in found)
        what = "shapes with the cycles of the closed form"
        rows.append(row("any array", "forms", dataflow, what, exact, count, "shapes"))
    return rows


def forms_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    for each in rows:
        off = each.real - each.predicted
        yield at_most(f"{each.name}-stationary, shapes off the closed form", off, 0, "shapes")


# ---------------------------------------------------------------- TPU v1


def tpu() -> list[Row]:
    rows = []
    for workload in _tpu.WORKLOADS:
        print(f"TPU v1: {workload.name}", file=sys.stderr)
        made = _tpu.simulated(workload.model())
        rows.append(achieved("throughput", workload, made))
        if workload.batch is not None:
            alone = _tpu.simulated(workload.batch())
            rows.append(achieved("throughput of one batch alone", workload, alone))
        shares = zip(_tpu.ROWS, _tpu.measured(made), workload.table, strict=True)
        for name, share, real in shares:
            cells = "TPU v1", "counters", workload.name, name, share, real, "% of cycles"
            rows.append(Row(*cells, fitted=0, error=None))
    return rows


def achieved(part: str, workload: _tpu.Workload, made: _tpu.Simulated) -> Row:
    rate = _tpu.useful_rate(made) / 1e12
    return row("TPU v1", part, workload.name, "achieved", rate, workload.tops, "TOPS")


def tpu_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    for each in rows:
        if each.part == "throughput" and each.name in GIVEN and each.error is not None:
            title = f"TPU v1, {each.name}: error of achieved TOPS, nothing fitted"
            yield at_most(title, abs(each.error), LARGEST_ERROR, "")


# ---------------------------------------------------------------- this processor


def host(quick: bool) -> list[Row]:
    """Kernels in this process, each model in a fresh one."""
    rounds = 3 if quick else 5
    print("host: kernels", file=sys.stderr)
    found = _measure.fresh(host_kernels, rounds)
    with tempfile.TemporaryDirectory() as scratch:
        for subject in subjects(Path(scratch), quick):
            print(f"host: {subject.name}", file=sys.stderr)
            found += _measure.fresh(host_model, subject, rounds)
    return [
        row("host", each.kind, each.name, "time", 1e3 * each.predicted, 1e3 * each.measured, "ms")
        for each in found
    ]


def host_kernels(rounds: int) -> list[_host.Timed]:
    return _host.compared(_host.kernels(), rounds)


def host_model(subject: Subject, rounds: int) -> list[_host.Timed]:
    return _host.compared([_host.whole_model(subject)], rounds)


def host_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    errors = [abs(each.error) for each in rows if each.part == "model" and each.error is not None]
    title = f"host: error of the time of {len(errors)} models at the median, nothing fitted"
    yield at_most(title, statistics.median(errors), LARGEST_ERROR, "")


# ---------------------------------------------------------------- A100


def a100(folder: Path | None) -> list[Row]:
    return [Row(*each) for each in _a100.rows(folder)] if folder else []


def no_bars(rows: Sequence[Row]) -> Iterator[Bar]:
    return iter(())


# ---------------------------------------------------------------- all of it


PARTS: Mapping[str, Callable[[Sequence[Row]], Iterator[Bar]]] = {
    "forms": forms_bars,
    "tpu": tpu_bars,
    "host": host_bars,
    "a100": no_bars,
}


def summary(rows: Sequence[Row]) -> Iterator[str]:
    """The median and the largest error of each part."""
    parts = dict.fromkeys((each.chip, each.part, each.fitted) for each in rows)
    for chip, part, fitted in parts:
        errors = [
            abs(each.error)
            for each in rows
            if (each.chip, each.part, each.fitted) == (chip, part, fitted)
            and each.error is not None
        ]
        if errors:
            yield (
                f"{chip}, {part}, {fitted} fitted constants: {len(errors)} rows, error "
                f"{statistics.median(errors):.1%} at the median, {max(errors):.1%} at most"
            )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _measure.arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="measured tables that are not ours to copy"
    )
    options = parser.parse_args(arguments)
    core = _measure.pin()
    count = 50 if options.quick else SHAPES
    make: dict[str, Callable[[], list[Row]]] = {
        "forms": lambda: forms(count),
        "tpu": tpu,
        "host": lambda: host(options.quick),
        "a100": lambda: a100(options.reference),
    }
    rows: list[Row] = []
    bars: list[Bar] = []
    for part in [options.only] if options.only else PARTS:
        found = make[part]()
        rows += found
        bars += PARTS[part](found)
    missing = []
    if options.reference is None:
        missing.append("A100: --reference DIR, with the tables in DIR/a100")
    if importlib.util.find_spec(MINILM) is None:
        missing.append(MISSING_MINILM)
    settings = {
        "core": core,
        "shapes": count,
        "missing": missing,
        "workloads": {
            each.name: {
                "shapes": each.shapes,
                "assumed": each.assumed,
                "error of Google's own model": each.google / 100,
            }
            for each in _tpu.WORKLOADS
        },
    }
    for each in _tpu.WORKLOADS if options.only in (None, "tpu") else ():
        print(f"{each.name}: {each.shapes}. {each.assumed}. Google's own model: {each.google} %.")
    print("\n".join([*(f"missing: {line}" for line in missing), *summary(rows)]))
    return _measure.report(options.json, settings, [asdict(each) for each in rows], bars)


if __name__ == "__main__":
    raise SystemExit(main())
