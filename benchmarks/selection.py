"""Selection by meaning: what is found, what is wrongly taken, how long it takes.

    python -m benchmarks.selection --json FILE

Forms: ten 12-layer transformers in random algebraic forms and layouts, for each instruction how
often it must be found and is; beside it what plain structural equality finds. Every match offered
is held against an independent judge. Soundness: generated mutants and near misses made by hand,
none of which may be taken for what it resembles. Time: 24 layers with 40 instructions, and how it
grows with distinct and with repeated layers. Choice: simulated cycles of the cover that is
predicted to be fastest, beside simpler ways to choose. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from math import isnan

from infinisa.api import find_machine
from infinisa.compiler.selection.choice import ANY
from infinisa.compiler.selection.cover import canonical_graph, choosing_in, settled
from infinisa.compiler.selection.match import Match
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Input, Node
from infinisa.isa.machine import Machine
from infinisa.plugins.manager import Registry, load

from . import _choice, _measure
from ._finding import Found, Library, Structural, found_in, model_of
from ._forms import (
    ARCHITECTURES,
    OWN,
    SPECIMEN_SIZES,
    Architecture,
    expected,
    library,
    primitives,
    transformer,
)
from ._judge import Audit
from ._measure import Bar, at_least, at_most, below, fresh, timed
from ._mutants import Mutant, mutants
from ._near_misses import MADE, NearMiss

MACHINE = "edge"
SEED = 1
LAYERS, DEEP = 12, 24
MUTANTS, NEAR_MISSES = 2000, 50
TIMED = ARCHITECTURES[3]
"""The model whose selection is timed: more than 80 operations a layer."""
LEAST_NODES = 2000
MOST_SECONDS = 0.5
LARGEST_GROWTH = 2.6
"""Twice as many distinct layers may take this many times as long."""
LARGEST_SHARE = 0.25
"""A repeated layer may take this share of the time of one in forms of its own."""
PARTS = ("forms", "soundness", "time", "choice", "zoo")

Part = tuple[list[_measure.Row], list[Bar]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the report; what it is about says which fields mean something.

    expected  how often an instruction must be found; `taken`: is chosen; `offered`: is found,
              chosen or not; `structure`: is chosen if only plain equality counts
    wrong     of the `judged` matches those that compute something else; of cones those with one
    undefined matches whose root is a number at no point: nobody can say
    apart     the worst difference of a match that counts as right
    """

    part: str
    what: str
    nodes: int | None = None
    expected: int | None = None
    taken: int | None = None
    offered: int | None = None
    structure: int | None = None
    count: int | None = None
    equal: int | None = None
    judged: int | None = None
    wrong: int | None = None
    undefined: int | None = None
    apart: float | None = None
    seconds: float | None = None


@cache
def registry() -> Registry:
    return load()


def machine() -> Machine:
    return find_machine(MACHINE, registry())


def everything() -> Library:
    """All built-in instructions and those of the benchmark."""
    return {**registry().library, **{made.name: made for made in OWN}}


# ---------------------------------------------------------------- forms


def forms(quick: bool) -> Part:
    """The ten transformers, a row each, and a row for each instruction."""
    rows: list[Row] = []
    total: dict[str, Counter[str]] = {k: Counter() for k in ("all", "taken", "offered", "plain")}
    chosen = ARCHITECTURES[:3] if quick else ARCHITECTURES
    for number, architecture in enumerate(chosen):
        rows.append(model_row(number, architecture, 2 if quick else LAYERS, total))
    for name, count in total["all"].items():
        rows.append(
            Row(
                part="forms",
                what=name,
                expected=count,
                taken=total["taken"][name],
                offered=total["offered"][name],
                structure=total["plain"][name],
            )
        )
    models = rows[: len(chosen)]
    share = sum(total["taken"].values()) / sum(total["all"].values())
    bars = [
        at_least("instructions found in random forms", share, 1.0, "of those expected"),
        at_most("wrong matches in random forms", sum(r.wrong or 0 for r in models), 0, "matches"),
        at_most(
            "matches in random forms that cannot be judged",
            sum(r.undefined or 0 for r in models),
            0,
            "matches",
        ),
    ]
    return [asdict(row) for row in rows], bars


def model_row(
    number: int, architecture: Architecture, layers: int, total: dict[str, Counter[str]]
) -> Row:
    """What is found in one transformer, added to the totals too."""
    model = transformer(architecture, layers, SEED + number)
    wanted = expected(architecture, layers)
    seconds, found = timed(lambda: found_in(model, machine(), library()))
    plain = found_in(model, machine(), library(), Structural, whole=False)
    taken = {name: min(found.taken(name), count) for name, count in wanted.items()}
    same = {name: min(plain.offered(name), count) for name, count in wanted.items()}
    offered = {name: min(found.offered(name), count) for name, count in wanted.items()}
    for key, counts in zip(total, (wanted, taken, offered, same), strict=True):
        total[key].update(counts)
    (graph,) = model.graphs
    verdict = held(found, Audit(graph.sizes()))
    return Row(
        part="forms",
        what=f"model {number}: {described(architecture)}",
        nodes=primitives(model),
        expected=sum(wanted.values()),
        taken=sum(taken.values()),
        offered=sum(offered.values()),
        structure=sum(same.values()),
        judged=len(found.matches),
        wrong=len(verdict.wrong),
        undefined=verdict.undefined,
        apart=verdict.apart,
        seconds=seconds,
    )


@dataclass(frozen=True)
class Verdict:
    """The matches that are wrong, how many are of no number, the worst difference of the others."""

    wrong: list[Match]
    undefined: int
    apart: float


def held(found: Found, audit: Audit) -> Verdict:
    """All matches against the judge."""
    wrong = [match for match in found.matches if audit.wrong(match)]
    right = [audit(match) for match in found.matches if not audit.wrong(match)]
    known = [apart for apart in right if not isnan(apart)]
    return Verdict(wrong, len(right) - len(known), max(known, default=0.0))


def described(a: Architecture) -> str:
    words = [a.norm, a.mask, a.gate, a.dtype, a.head]
    flags = ("bias", "rotary", "grouped", "head_norm", "batch", "parted", "joint")
    return " ".join([*words, *(flag for flag in flags if getattr(a, flag))])


# ---------------------------------------------------------------- soundness


def soundness(quick: bool) -> Part:
    """Mutants by the kind of change, then the near misses."""
    count = MUTANTS // 10 if quick else MUTANTS
    made = list(islice(mutants(SEED), count))
    rows = [mutant_row(kind, made) for kind in dict.fromkeys(m.changed for m in made)]
    rows.append(near_miss_row(MADE))
    wrong = sum(row.wrong or 0 for row in rows)
    bars = [
        at_least("mutants", len(made), count, "cones"),
        at_least("near misses", len(MADE), NEAR_MISSES, "cones"),
        at_most("mutants and near misses wrongly taken", wrong, 0, "cones"),
    ]
    return [asdict(row) for row in rows], bars


def mutant_row(kind: str, made: Sequence[Mutant]) -> Row:
    mine = [mutant for mutant in made if mutant.changed == kind]
    cones = [(mutant.root, library()[mutant.resembles]) for mutant in mine]
    return tried(f"mutants: {kind}", cones, sum(mutant.equal for mutant in mine))


def near_miss_row(made: Sequence[NearMiss]) -> Row:
    return tried("near misses", [(miss.root, miss.instruction) for miss in made], 0)


def tried(what: str, cones: Sequence[tuple[Node, Instruction]], equal: int) -> Row:
    """What is found in cones, each with the instruction that it resembles; wrong ones are shown."""
    taken = judged = wrong = undefined = 0
    for root, resembled in cones:
        known = {**everything(), resembled.name: resembled}
        found = found_in(model_of(root, SPECIMEN_SIZES), machine(), known, whole=False)
        verdict = held(found, Audit(SPECIMEN_SIZES))
        taken += found.offered(resembled.name) > 0
        judged += len(found.matches)
        wrong += bool(verdict.wrong)
        undefined += verdict.undefined
        for match in verdict.wrong:
            print(f"wrong: {match} in {root}", file=sys.stderr)
    return Row(
        part="soundness", what=what, count=len(cones), equal=equal, offered=taken, judged=judged,
        wrong=wrong, undefined=undefined,
    )  # fmt: skip


# ---------------------------------------------------------------- time


def time(quick: bool) -> Part:
    """Selection in processes of their own, so that none remembers another's."""
    rounds = 1 if quick else 7
    deep = 4 if quick else DEEP
    rows: dict[tuple[int, int], Row] = {}
    cases = [(deep, 1), (deep, deep)]
    cases += [(n, n) for n in ((1, 2) if quick else (1, 2, 4, 8, 16))]
    cases += [(n, 1) for n in ((2, 8) if quick else (6, 12, 48))]
    runs = [(case, fresh(selection_seconds, *case)) for _ in range(rounds) for case in cases]
    for layers, distinct in cases:
        mine = [run for case, run in runs if case == (layers, distinct)]
        rows[layers, distinct] = Row(
            part="time",
            what=f"{layers} layers, {distinct} distinct",
            nodes=mine[0][0],
            seconds=min(seconds for _, seconds in mine),
        )
    return [asdict(row) for row in rows.values()], [] if quick else time_bars(rows)


def time_bars(rows: dict[tuple[int, int], Row]) -> list[Bar]:
    seconds = {key: row.seconds or 0.0 for key, row in rows.items()}
    nodes = min(rows[DEEP, distinct].nodes or 0 for distinct in (1, DEEP))
    repeated = (seconds[48, 1] - seconds[12, 1]) / 36
    distinct = (seconds[16, 16] - seconds[4, 4]) / 12
    return [
        at_least(f"nodes of {DEEP} layers", nodes, LEAST_NODES, "nodes"),
        below(f"select for {DEEP} equal layers", seconds[DEEP, 1], MOST_SECONDS, "s"),
        at_most("16 distinct layers for 8", seconds[16, 16] / seconds[8, 8], LARGEST_GROWTH, "x"),
        at_most("a repeated layer for a distinct one", repeated / distinct, LARGEST_SHARE, "x"),
    ]


def selection_seconds(layers: int, distinct: int) -> tuple[int, float]:
    """(operations of a model, CPU seconds to find the instructions for its canonical form and to
    choose among them), once the library has been read."""
    known, x = library(), Input("x", ("m",))
    found_in(model_of(x + x, {"m": 4}), machine(), known)
    model = transformer(TIMED, layers, SEED, distinct)
    (graph,) = model.graphs
    choosing = choosing_in(model, graph, machine(), known, ANY)
    roots = canonical_graph(graph).roots
    seconds, _ = timed(lambda: settled(graph, roots, choosing))
    return primitives(model), seconds


# ---------------------------------------------------------------- all


def zoo(quick: bool) -> Part:
    """Exported models, which have a file of their own."""
    models = importlib.import_module("benchmarks._zoo")
    found: Part = models.rows(1 if quick else 3, quick)
    return found


def main() -> int:
    parser = _measure.arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, help="one part")
    options = parser.parse_args()
    there = importlib.util.find_spec("benchmarks._zoo") is not None
    parts = {"forms": forms, "soundness": soundness, "time": time, "choice": _choice.rows}
    parts |= {"zoo": zoo} if there else {}
    core = _measure.pin()
    rows: list[_measure.Row] = []
    bars: list[Bar] = []
    for name, part in parts.items():
        if options.only in (None, name):
            more, judged = part(options.quick)
            rows += more
            bars += judged
    settings = {
        "core": core, "machine": MACHINE, "seed": SEED, "layers": LAYERS, "quick": options.quick,
        "instructions": len(library()),
    }  # fmt: skip
    return _measure.report(options.json, settings, rows, bars)


if __name__ == "__main__":
    sys.exit(main())
