"""One piece of work, done by us and by others: the same ONNX file, interleaved, held to float64.

Each contender is a call without arguments on memory that is already in place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from infinisa import api
from infinisa.compiler.graph import Model
from infinisa.runtime import host
from infinisa.runtime.jit import compile_program

from ._measure import Bar, Ceiling, at_least, at_most

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Call = Callable[[], object]

OURS = "infinisa"
OPSET, IR_VERSION = 23, 10
SPELL = 4e-3
"""CPU seconds for which a contender is run again and again, in each round."""


@dataclass(frozen=True)
class Contest:
    """What to do, and what we are held to.

    calls   by contender: ours, and peers
    flops   operations of the work; 0: it is not bound by them
    read    bytes that must come from memory; 0: it is not bound by that
    copied  bytes that it reads and as many that it writes, once; 0: it is not bound by that
    ratio   how many times the best peer's speed ours must be; None: printed only
    share   of the ceiling that ours must reach; None: printed only. It is more than all of it where
            ours multiplies less than `flops` counts: windows of three
    most    seconds that ours may take; None: printed only
    error   largest difference from float64, over the largest value, or root mean squares of them
    peer_error  the same of the best peer's result, which ours must not exceed; None: printed only
    compiling  seconds in which our native code was made
    threaded   contenders on a number of threads
    """

    part: str
    name: str
    calls: Mapping[str, Call]
    flops: float = 0.0
    read: float = 0.0
    copied: int = 0
    ratio: float | None = None
    share: float | None = None
    most: float | None = None
    error: float = 0.0
    peer_error: float | None = None
    compiling: float = 0.0
    threaded: Mapping[str, Callable[[int], Call]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Seconds are CPU seconds of one run: the least, and the median of the rounds."""

    part: str
    name: str
    seconds: float
    median: float
    best_peer: str
    peer_seconds: float
    peer_median: float
    ratio: float
    share: float
    error: float
    compiling: float
    peers: Mapping[str, float] = field(default_factory=dict)

    @property
    def reach(self) -> float:
        """The ceiling over the best peer's speed; NaN where nothing bounds the work."""
        return self.ratio / self.share if self.share else math.nan

    @property
    def flat(self) -> Mapping[str, object]:
        """With a column for each peer's seconds."""
        own = {name: value for name, value in vars(self).items() if name != "peers"}
        return own | {"reach": self.reach} | {f"{n} s": value for n, value in self.peers.items()}


def contend(contest: Contest, ceiling: Ceiling, rounds: int) -> Row:
    """All contenders in each round, and the processor's ceiling with them."""
    turns = {name: turns_of(call) for name, call in contest.calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in contest.calls}
    gflops, bandwidth, copying = [], [], []
    for _ in range(rounds):
        gflops.append(ceiling.flops())
        if contest.read:
            bandwidth.append(ceiling.read())
        if contest.copied:
            copying.append(ceiling.copy(contest.copied))
        for name, call in contest.calls.items():
            taken[name].append(seconds(call, turns[name]))
    least = {name: min(found) for name, found in taken.items()}
    median = {name: float(np.median(found)) for name, found in taken.items()}
    peers = {name: found for name, found in least.items() if name != OURS}
    best = min(peers, key=lambda name: peers[name], default="")
    bound = max(
        contest.flops / max(gflops),
        contest.read / max(bandwidth, default=math.inf),
        min(copying, default=0.0),
    )
    return Row(
        contest.part,
        contest.name,
        least[OURS],
        median[OURS],
        best,
        peers.get(best, math.nan),
        median.get(best, math.nan),
        peers.get(best, math.nan) / least[OURS],
        bound / least[OURS],
        contest.error,
        contest.compiling,
        peers,
    )


def turns_of(call: Call) -> int:
    """How often a call is run in a round; it is run twice to find out."""
    call()
    began = time.perf_counter()
    call()
    return max(1, int(SPELL / max(time.perf_counter() - began, 1e-7)))


def seconds(call: Call, turns: int) -> float:
    began = time.process_time()
    for _ in range(turns):
        call()
    return (time.process_time() - began) / turns


def bars(contest: Contest, row: Row) -> Iterator[Bar]:
    """What a row is held to."""
    title = f"{row.part}, {row.name}"
    if contest.ratio is not None:
        limit = f" (the ceiling: {row.reach:.2f})" if row.share else ""
        yield at_least(f"{title}: of the best peer{limit}", row.ratio, contest.ratio, "times")
    if contest.share is not None:
        yield at_least(f"{title}: of the ceiling", row.share, contest.share, "")
    if contest.most is not None:
        yield at_most(f"{title}: seconds", row.seconds, contest.most, "s")
    if contest.peer_error is not None:
        title = f"{title}: error beside float64, as the peer's"
        yield at_most(title, contest.error, contest.peer_error, "")


# ---------------------------------------------------------------- contenders


@dataclass(frozen=True)
class Ours:
    """A model compiled for this processor, in a session; `outputs` are of a first run."""

    step: Call
    outputs: Arrays
    seconds: float


def ours(model: Model | onnx.ModelProto, inputs: Arrays, **options: Any) -> Ours:
    """Compile and put in place; `options` are those of `compile_program`."""
    compiled = loaded(model).compile(host.probe())
    made = compile_program(compiled.program, compiled.library, **options)
    session = made.session(compiled.bound(None, inputs)[0])
    found = compiled.shown(session.run({})).outputs
    outputs = {name.partition("/")[2]: np.array(array) for name, array in found.items()}
    return Ours(session.step(), outputs, made.seconds)


def loaded(model: Model | onnx.ModelProto) -> api.Loaded:
    if isinstance(model, Model):
        return api.load(model)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        return api.load(path)


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Arrays,
    outputs: Mapping[str, Sequence[int]],
    constants: Arrays,
    results: type[np.generic] = np.float32,
) -> onnx.ModelProto:
    """A graph; `results`: the type of its outputs."""

    def value(name: str, shape: Sequence[int], dtype: Any) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "work",
        [value(name, array.shape, array.dtype) for name, array in inputs.items()],
        [value(name, shape, results) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)


def runtime(model: onnx.ModelProto, inputs: Arrays, threads: int = 1) -> Call:
    """onnxruntime, with inputs and outputs bound."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    for value in model.graph.output:
        shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        place = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind)
        binding.bind_ortvalue_output(value.name, place)
    return lambda: session.run_with_iobinding(binding)


def difference(found: Array, expected: Array) -> float:
    """The largest difference over the largest value."""
    gap = np.abs(np.asarray(found, np.float64).reshape(expected.shape) - expected).max()
    return float(gap / np.abs(expected).max())
