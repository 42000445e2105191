"""Kernels and whole models on this processor: predicted by simulating `host`, measured as native
code on one thread.

Both are of runs that follow others of the same kind: caches hold of a kernel or a model what they
can. The machine `host` is probed with kernels of its own and knows nothing of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import inf

import numpy as np

from infinisa import api
from infinisa.api import Array, Compiled
from infinisa.compiler.builder import Builder
from infinisa.compiler.graph import Model
from infinisa.isa import formulas
from infinisa.isa.language import Node, apply, dot, exp, mean, position, rsqrt, where
from infinisa.isa.language import max as largest
from infinisa.isa.language import sum as total
from infinisa.isa.machine import Machine
from infinisa.isa.program import Program
from infinisa.plugins.models import read_model_folder
from infinisa.runtime import host
from infinisa.runtime.jit import Session, compile_program
from infinisa.runtime.rates import fastest
from infinisa.runtime.rates import measure as measure_rates
from infinisa.runtime.simulator import simulate

from .overview import Subject

SEED = 0
SPELL, LEAST_TURNS = 0.05, 3
"""A task is run for so many seconds, at least so often, in every round."""

VOCABULARY = 1000
"""Words are drawn of so many."""

EPSILON = 1e-5


@dataclass(frozen=True)
class Timed:
    """Seconds of one run, all sections together."""

    name: str
    kind: str
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


# ---------------------------------------------------------------- kernels


def linear(m: int, k: int, n: int, function: Callable[[Node], Node] | None = None) -> Model:
    b = Builder("linear")
    random = np.random.default_rng(SEED)
    weights = random.standard_normal((k, n), np.float32), random.standard_normal(n, np.float32)
    x = b.input("x", "m k", (m, k))
    y = dot(x, b.weight("w", "k n", weights[0]), "k") + b.weight("bias", "n", weights[1])
    b.graph("main").output("y", y if function is None else function(y))
    return b.model()


def rowwise(function: Callable[[Node], Node], m: int, n: int) -> Model:
    b = Builder("rowwise")
    b.graph("main").output("y", function(b.input("x", "m n", (m, n))))
    return b.model()


def attention(heads: int, length: int, width: int, causal: bool) -> Model:
    b = Builder("attention")
    query = b.input("q", "h s d", (heads, length, width))
    key, value = (b.input(name, "h t d", (heads, length, width)) for name in "kv")
    scores = dot(query, key, "d") * width**-0.5
    if causal:
        seen = apply("less_equal", position("t"), position("s"))
        scores = where(seen, scores, float("-inf"))
    b.graph("main").output("y", dot(softmax(scores, "t"), value, "t"))
    return b.model()


def softmax(x: Node, axis: str = "n") -> Node:
    weights = exp(x - largest(x, axis))
    return weights / total(weights, axis)


def layer_norm(x: Node) -> Node:
    centred = x - mean(x, "n")
    return centred * rsqrt(mean(centred * centred, "n") + EPSILON)


def rms_norm(x: Node) -> Node:
    return x * rsqrt(mean(x * x, "n") + EPSILON)


KERNELS: Mapping[str, Mapping[str, Callable[[], Model]]] = {
    "matmul": {
        f"{m} x {k} x {n}": partial(linear, m, k, n)
        for m, k, n in (
            (64, 256, 256), (64, 256, 1024), (128, 384, 384), (128, 384, 1536), (128, 1536, 384),
            (128, 768, 768), (128, 768, 2304), (128, 768, 3072), (128, 3072, 768),
            (512, 768, 768),
        )
    },
    "matrix by vector": {
        f"{k} x {n}": partial(linear, 1, k, n)
        for k, n in ((256, 1024), (768, 768), (768, 3072), (3072, 768), (768, 50257))
    },
    "matmul and gelu": {
        "128 x 768 x 3072": partial(linear, 128, 768, 3072, formulas.gelu_tanh),
        "128 x 384 x 1536": partial(linear, 128, 384, 1536, formulas.gelu_erf),
    },
    "softmax": {
        "128 x 1024": partial(rowwise, softmax, 128, 1024),
        "1536 x 128": partial(rowwise, softmax, 1536, 128),
    },
    "norm": {
        "layer norm 128 x 768": partial(rowwise, layer_norm, 128, 768),
        "layer norm 128 x 384": partial(rowwise, layer_norm, 128, 384),
        "RMS norm 64 x 256": partial(rowwise, rms_norm, 64, 256),
    },
    "gelu": {
        "erf 128 x 1536": partial(rowwise, formulas.gelu_erf, 128, 1536),
        "tanh 128 x 3072": partial(rowwise, formulas.gelu_tanh, 128, 3072),
    },
    "silu": {"64 x 1024": partial(rowwise, formulas.silu, 64, 1024)},
    "attention": {
        "12 x 128 x 32": partial(attention, 12, 128, 32, False),
        "12 x 128 x 64": partial(attention, 12, 128, 64, False),
        "causal 12 x 128 x 64": partial(attention, 12, 128, 64, True),
    },
}  # fmt: skip


def kernels() -> Iterator[Task]:
    random = np.random.default_rng(SEED)
    machine = host.probe()
    for kind, models in KERNELS.items():
        for name, make in models.items():
            model = make()
            given = {
                key: random.standard_normal(shape, np.float32)
                for key, (_, shape) in model.inputs.items()
            }
            yield Task.of(name, kind, api.load(model).compile(machine), given)


# ---------------------------------------------------------------- models


def whole_model(subject: Subject) -> Task:
    """A whole run of a model: its prompt, and the tokens that it generates."""
    model = read_model_folder(subject.folder, prompt=subject.prompt, text=False)
    compiled = api.load(model).compile(host.probe())
    length = model.inputs["prompt_ids"][1][0]
    ids = np.random.default_rng(SEED).integers(0, VOCABULARY, length).astype(np.int32)
    return Task.of(subject.name, "model", compiled, {"prompt_ids": ids}, subject.parameters)


# ---------------------------------------------------------------- both


@dataclass
class Task:
    """Something to run; `best` is the least time so far."""

    name: str
    kind: str
    compiled: Compiled
    session: Session
    parameters: Mapping[str, int]
    best: float = inf

    @staticmethod
    def of(
        name: str,
        kind: str,
        compiled: Compiled,
        given: Mapping[str, Array],
        parameters: Mapping[str, int] | None = None,
    ) -> Task:
        made = compile_program(compiled.program, compiled.library, "vector")
        session = made.session({**compiled.weights, **given})
        return Task(name, kind, compiled, session, parameters or {})

    def run(self) -> None:
        """For a while, and at least a few times."""
        end = time.perf_counter() + SPELL
        for turn in count():
            if turn >= LEAST_TURNS and time.perf_counter() > end:
                return
            self.best = min(self.best, self._once())

    def _once(self) -> float:
        """Seconds of native code: as they went by, or if others had this processor meanwhile, those
        of the CPU for the whole run."""
        began = time.process_time()
        result = self.session.run({}, self.parameters)
        return min(sum(result.seconds.values()), time.process_time() - began)

    def timed(self, machine: Machine) -> Timed:
        seconds = predicted(self.compiled, machine, self.parameters)
        return Timed(self.name, self.kind, seconds, self.best)


def compared(tasks: Iterable[Task], rounds: int) -> list[Timed]:
    """Each task in every round, and with it the processor itself, so that what disturbs one
    disturbs all."""
    tasks, rates = list(tasks), []
    for _ in range(rounds):
        rates.append(measure_rates(*host.issue_limits()))
        for task in tasks:
            task.run()
    machine = host.measure(fastest(rates))
    return [task.timed(machine) for task in tasks]


def predicted(compiled: Compiled, machine: Machine, parameters: Mapping[str, int]) -> float:
    """Simulated seconds of a run that follows another."""
    names = {section.name for section in compiled.program.sections}
    report = simulate(twice(compiled.program), compiled.library, machine, parameters)
    return sum(section.seconds for section in report.sections if section.name not in names)


def twice(program: Program) -> Program:
    """The sections of a program, then all of them again under other names."""
    again = [replace(section, name=f"{section.name}_again") for section in program.sections]
    return replace(program, sections=(*program.sections, *again))
