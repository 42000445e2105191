"""How close scheduled layers come to what their instructions and their memory allow.

    python -m benchmarks.tiling --json FILE

For each machine and model: bytes to and from DRAM without fusion, with fusion, and at least;
simulated cycles over the bound, which is the larger of the busiest unit (its issues full, without
overheads, on all cores) and the least bytes over the bandwidth; what the program holds; how long
the compiler takes. Exit status 1 if a bar is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from infinisa.compiler.calls import Call, Covered
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.home import volume
from infinisa.compiler.schedule.tile import lengths, schedule
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.encoding import encode
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Axis
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import Issue, Parameter, Program, statements
from infinisa.plugins.families import attention, elementwise, linear, normalization
from infinisa.runtime.simulator import simulate

from . import _layers as layers
from ._measure import Bar, arguments, at_most, pin, report

FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
} | layers.OWN

REPEATS = 5
"""A layer is compiled so often; the least time counts."""

CONTEXT = (Parameter("context", 1024, 1024),)
STEPS = (Parameter("steps", 64, 64),)

Model = tuple[Callable[[Machine], Covered], tuple[Parameter, ...]]

MODELS: dict[str, Model] = {
    "GPT-2 128": (lambda m: layers.gpt2(m, LIBRARY, 128, 768, 12, 3072), ()),
    "GPT-2 1024": (lambda m: layers.gpt2(m, LIBRARY, 1024, 768, 12, 3072), ()),
    "Llama prefill 512": (lambda m: layers.llama(m, LIBRARY, 512, 4096, 32, 11008), ()),
    "Llama decode 1024": (
        lambda m: layers.llama(m, LIBRARY, 1, 4096, 32, 11008, context=1024),
        CONTEXT,
    ),
    "Llama 8B decode 1024": (
        lambda m: layers.llama(m, LIBRARY, 1, 4096, 32, 14336, context=1024),
        CONTEXT,
    ),
    "LSTM 512, 64 steps": (lambda m: layers.lstm(m, LIBRARY, 64, 1, 512), STEPS),
    "LAC, 64 steps": (lambda m: layers.bigru(m, LIBRARY, 64, 1, 256), STEPS),
    "ResNet block 56x56x64": (lambda m: layers.resnet(m, LIBRARY, 56, 64), ()),
}
"""Models of 2-byte tensors with fp32 sums; LAC is two layers of GRU from both ends."""

MACHINES = ("edge", "datacenter")

REACHED = {
    ("edge", "GPT-2 128"), ("edge", "GPT-2 1024"), ("edge", "Llama prefill 512"),
    ("edge", "Llama decode 1024"), ("edge", "ResNet block 56x56x64"),
    ("datacenter", "Llama prefill 512"), ("datacenter", "Llama decode 1024"),
}  # fmt: skip
"""Where a schedule within 1.2 of the bound is known to exist."""

LARGEST_RATIO = {"compute": 1.25, "dram": 1.05}
LARGEST_COMPILE_MS = 150.0


@dataclass(frozen=True)
class Row:
    """What was found for one model on one machine; sizes in bytes, a layer."""

    machine: str
    model: str
    dram_unfused: int
    dram_fused: int
    dram_least: int
    cycles_unfused: int
    cycles: int
    predicted: int
    bound: int
    bound_by: str
    ratio: float
    groups: int
    static_issues: int
    dynamic_issues: int
    program_bytes: int
    compile_ms: float


def issues_of(call: Call, sizes: Mapping[Axis, int]) -> Iterator[tuple[int, dict[Axis, int]]]:
    """(how many, of what lengths): the issues that a call takes at least."""
    parts = []
    for axis, limit in call.limits.items():
        full, rest = divmod(sizes[axis], limit)
        parts.append([(n, length) for n, length in ((full, limit), (1, rest)) if n and length])
    for combination in product(*parts):
        count = 1
        for number, _ in combination:
            count *= number
        yield count, {a: n for a, (_, n) in zip(call.limits, combination, strict=True)}


def least_cycles(covered: Covered, machine: Machine, sizes: Mapping[Axis, int]) -> int:
    """Cycles of the busiest unit: its issues full, without their overhead, on all cores."""
    busy = dict.fromkeys((unit.name for unit in machine.units), 0)
    for call in covered.calls:
        overhead = call.unit.attributes["overhead"]
        for count, one in issues_of(call, sizes):
            busy[call.unit.name] += count * (int(call.cycles(one)[0]) - overhead)
    return max(busy[u.name] // (u.count * machine.cores) for u in machine.units)


def least_bytes(covered: Covered, sizes: Mapping[Axis, int]) -> int:
    """Bytes of inputs, weights and kept tensors that are read, of results that are written."""
    moved: dict[tuple[str, bool], int] = {}
    for call in covered.calls:
        for write, accesses in ((False, call.reads), (True, call.writes)):
            for access in accesses:
                tensor = covered.tensors[access.tensor]
                if tensor.kind not in ("temporary", "carry"):
                    size = int(volume(access, sizes)) * DTYPES[tensor.dtype].size
                    key = tensor.name, write
                    moved[key] = max(moved.get(key, 0), size)
    return sum(moved.values())


def compiled(
    covered: Covered, machine: Machine, parameters: tuple[Parameter, ...], fuse: bool = True
) -> tuple[Program, int, int]:
    """(the program, its groups, the cycles they were predicted to take)"""
    groups = schedule(covered, machine, fuse=fuse, parameters=parameters)
    program = emit(covered.name, machine, [(covered, groups)], parameters)
    return program, len(groups), round(sum(group.time for group in groups))


def measure(machine: Machine, name: str, repeats: int) -> Row:
    make, parameters = MODELS[name]
    covered = make(machine)
    elapsed = []
    for _ in range(repeats):
        began = time.process_time()
        program, groups, predicted = compiled(covered, machine, parameters)
        elapsed.append(time.process_time() - began)
    apart, _, _ = compiled(covered, machine, parameters, fuse=False)
    found, unfused = (simulate(p, LIBRARY, machine) for p in (program, apart))
    sizes = lengths(covered, parameters).typical
    compute, least = least_cycles(covered, machine, sizes), least_bytes(covered, sizes)
    moving = machine.transfer_cycles(least)
    bound, dram = max(compute, moving), machine.dram.name
    stages = program.sections[0].stages
    static = [s for stage in stages for s in statements(stage.body) if isinstance(s, Issue)]
    return Row(
        machine=machine.name,
        model=name,
        dram_unfused=unfused.read[dram] + unfused.written[dram],
        dram_fused=found.read[dram] + found.written[dram],
        dram_least=least,
        cycles_unfused=unfused.cycles,
        cycles=found.cycles,
        predicted=predicted,
        bound=bound,
        bound_by="compute" if compute >= moving else "dram",
        ratio=round(found.cycles / bound, 3),
        groups=groups,
        static_issues=len(static),
        dynamic_issues=found.instructions,
        program_bytes=len(encode(program)),
        compile_ms=round(1e3 * min(elapsed), 1),
    )


def bars(rows: Sequence[Row]) -> Iterator[Bar]:
    """What must hold of each row."""
    for row in rows:
        where = f"{row.machine}, {row.model}"
        if (row.machine, row.model) in REACHED:
            most = LARGEST_RATIO[row.bound_by]
            yield at_most(f"{where}: simulated over the {row.bound_by} bound", row.ratio, most, "x")
        yield at_most(f"{where}: compile a layer", row.compile_ms, LARGEST_COMPILE_MS, "CPU ms")


def shown(row: Row) -> dict[str, object]:
    """A row for people: megabytes and ratios."""
    return {
        "machine": row.machine,
        "model": row.model,
        "DRAM MB unfused": round(row.dram_unfused / 1e6, 1),
        "fused": round(row.dram_fused / 1e6, 1),
        "least": round(row.dram_least / 1e6, 1),
        "unfused / bound": round(row.cycles_unfused / row.bound, 2),
        "fused / bound": round(row.ratio, 2),
        "bound": row.bound_by,
        "groups": row.groups,
        "static": row.static_issues,
        "dynamic": row.dynamic_issues,
        "bytes": row.program_bytes,
        "compile ms": round(row.compile_ms, 1),
    }


def main(given: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="only these")
    options = parser.parse_args(given)
    core, repeats = pin(), 1 if options.quick else REPEATS
    machines = {file.stem: load_machine(file) for file in builtin_machine_files()}
    names = options.model or list(MODELS)
    rows = [measure(machines[m], name, repeats) for m in MACHINES for name in names]
    settings = {"core": core, "repeats": repeats, "models": names, "machines": MACHINES}
    return report(options.json, settings, [shown(row) for row in rows], list(bars(rows)))


if __name__ == "__main__":
    raise SystemExit(main())
