"""The simulator's engines: whether they agree to the cycle, and how fast the compiled one is.

    python -m benchmarks.engine --json FILE

Exactness over random programs and machines; speed against the simpy engine and against a C program
of the same contract for the same machine; what starting costs; long loops; whole models. Exit
status 1 if a bar is missed.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np

from infinisa import api
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine, Unit
from infinisa.isa.program import Program, Ranges, extents
from infinisa.plugins.manager import load as load_plugins
from infinisa.plugins.models import read_model_folder
from infinisa.runtime.jit.cache import folder as cache_folder
from infinisa.runtime.simulator import POLICIES, Event, Report, simulate
from infinisa.runtime.simulator.compiled_engine import CompiledEngine
from infinisa.runtime.simulator.contract import StageReport
from infinisa.runtime.simulator.policy import POLICIES as POLICY
from infinisa.runtime.simulator.shapes import Costs, View
from infinisa.runtime.simulator.simpy_engine import SimpyEngine
from infinisa.runtime.simulator.specialised import Constants, compiled
from infinisa.runtime.simulator.trace import Recorded, unpacked
from tests.runtime.programs import RANDOM_LIBRARY, nest, random_machine, random_program

from . import _gcc, _measure, _streams
from ._measure import Bar, Row, Timing, at_least, at_most, below, fresh, peak_memory, timed
from .overview import write_gpt2

PARTS = ("exact", "jump", "speed", "start", "loop", "gpt2", "llama")
MACHINES, PROGRAMS, NESTS = 100, 2000, 1000
FEW = 20_000
"""Issues that the simpy engine is measured with."""

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 80,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "intermediate_size": 28672,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
"""The shape of Llama 3 70B."""

GPT2 = "prefill of 128, no jumps"
PROMPT = 2048
ROOM = 1 << 39
"""Bytes for its weights: the DRAM of `datacenter` has 16 GiB."""

TILE = 32


def times(events: Sequence[Event]) -> list[tuple[object, ...]]:
    """All that an engine decides of each issue."""
    return [
        (
            e.core,
            e.number,
            e.start,
            e.free,
            e.done,
            e.fetched,
            e.ready,
            e.holder,
            e.unit,
            e.instance,
        )
        for e in events
    ]


def view_of(
    program: Program, machine: Machine, library: Mapping[str, Instruction]
) -> tuple[View, Ranges]:
    """The only stage of a program, and its outermost ranges."""
    (section,) = program.sections
    (stage,) = section.stages
    costs = Costs(program, library, machine)
    return View(program, machine, costs, section, stage), extents(section, {})


# ---------------------------------------------------------------- exactness


def exact_rows(quick: bool) -> Iterator[Row]:
    """Random programs on random machines, in all engines, cycles and accounts."""
    machines = [random_machine(Random(seed)) for seed in range(10 if quick else MACHINES)]
    policies = list(POLICIES)
    runs = issues = 0
    wrong = {"kernel": 0, "compiled": 0}
    for seed in range(40 if quick else PROGRAMS):
        machine, policy = machines[seed % len(machines)], policies[seed // 2 % 2 * seed % 6]
        program = random_program(Random(seed), cores=machine.cores, depth=1 + seed % 4, most=300)
        run = partial(simulate, program, RANDOM_LIBRARY, machine, policy=policy, trace=True)
        wanted = run(engine="simpy")
        for engine in wrong:
            found = run(engine=engine)
            same = replace(found, engine="simpy", events=()) == replace(wanted, events=())
            wrong[engine] += not (same and times(found.events) == times(wanted.events))
        runs += 1
        issues += len(wanted.events)
    for engine, count in wrong.items():
        yield {
            "part": "exact", "what": f"{engine} = simpy", "programs": runs, "issues": issues,
            "machines": len(machines), "mismatches": count,
        }  # fmt: skip


def jump_rows(quick: bool) -> Iterator[Row]:
    """Nests of loops with what repeats left out, and without."""
    machine = random_machine(Random(0))
    wrong = leaps = issues = 0
    for seed in range(40 if quick else NESTS):
        program = nest(Random(seed), 1 + seed % 4)
        found = [stage_of(program, machine, jump) for jump in (True, False)]
        (report, events), (other, all_events) = found
        assert isinstance(events, Recorded)
        assert isinstance(all_events, Recorded)
        pairs = [(events.rows(c)[0], all_events.rows(c)[0]) for c in range(machine.cores)]
        wrong += report != other or not all(np.array_equal(a, b) for a, b in pairs)
        leaps += len(events.leaps)
        issues += len(events)
    yield {
        "part": "jump", "what": "jump = no jump", "programs": seed + 1, "issues": issues,
        "leaps": leaps, "mismatches": wrong,
    }  # fmt: skip


def stage_of(program: Program, machine: Machine, jump: bool) -> tuple[StageReport, Sequence[Event]]:
    """The only stage of a program."""
    view, outermost = view_of(program, machine, RANDOM_LIBRARY)
    engine = CompiledEngine(machine, trace=True, jump=jump)
    return engine.run(view, outermost, 0, 0)


# ---------------------------------------------------------------- speed


def speed_rows(rounds: int, issues: int) -> Iterator[Row]:
    """Issues a second with a trace, nothing left out; the engine and the C program in the same
    rounds."""
    programs = {"regular": _streams.regular(issues), "random": _streams.random(issues)}
    for name, program in programs.items():
        tasks: dict[str, Callable[[], object]] = {
            "compiled": engine_task(program, _streams.core()),
            "compiled, fair": engine_task(program, _streams.core("fair")),
        }
        ours = engine_task(program, _streams.core())()
        size = sum(row.issues for row in ours[0].opcodes)
        row = {"part": "speed", "program": name, "issues": size}
        if _gcc.available():
            with tempfile.TemporaryDirectory() as place:
                library = _gcc.compiled(_streams.core(), Path(place))
                written = _gcc.Written(program, _streams.core(), library)
                tasks["gcc"] = written.run
                yield {**row, "what": "gcc = compiled", "mismatches": differences(written, ours)}
                found = _measure.interleaved(tasks, rounds)
        else:
            yield {**row, "what": "gcc is missing: nothing to compare with"}
            found = _measure.interleaved(tasks, rounds)
        small = engine_task(program_of(name, FEW), _streams.core(), "simpy")
        found["simpy"] = Timing(tuple(timed(small)[0] * size / FEW for _ in range(3)))
        for what, timing in found.items():
            rates = {"per second": size / timing.median, "best": size / timing.least}
            yield {**row, "what": what, **rates}


def program_of(name: str, issues: int) -> Program:
    return _streams.regular(issues) if name == "regular" else _streams.random(issues)


def differences(written: _gcc.Written, ours: tuple[StageReport, Sequence[Event]]) -> int:
    """Issues whose times are others in C."""
    end, events = written.run(), ours[1]
    found = sorted((e.number, e.start, e.free, e.done, e.fetched, e.ready) for e in events)
    theirs = unpacked(written.events)[:, :5]
    mine = np.array(found, np.int64)[:, 1:]
    return int((mine != theirs).any(axis=1).sum()) + (end != ours[0].cycles)


def engine_task(
    program: Program, machine: Machine, engine: str = "compiled"
) -> Callable[[], tuple[StageReport, Sequence[Event]]]:
    """A run of the only stage of a program from the text on, its shapes known."""
    view, outermost = view_of(program, machine, _streams.LIBRARY)
    made: CompiledEngine | SimpyEngine
    if engine == "simpy":
        made = SimpyEngine(machine, trace=True)
    else:
        made = CompiledEngine(machine, trace=True, jump=False)
    return lambda: made.run(view, outermost, 0, 0)


# ---------------------------------------------------------------- start


def start_rows() -> Iterator[Row]:
    """CPU seconds until the kernel can run, in processes that know nothing: the code is made, and
    the process before left it in the cache."""
    with tempfile.TemporaryDirectory() as place:
        for what in ("cold", "cached"):
            yield {"part": "start", "what": what, "seconds": fresh(starting, place)}


def starting(place: str) -> float:
    """CPU seconds to have the kernel for a machine, with the cache in a folder."""
    os.environ["XDG_CACHE_HOME"] = place
    return ready()[0]


def ready() -> tuple[float, object]:
    machine = _streams.core()
    constants = Constants.of(machine, (3, 1, 1), POLICY["oldest"], trace=False, jump=True)
    return timed(partial(compiled, constants))


# ---------------------------------------------------------------- loops and models


def loop_rows() -> Iterator[Row]:
    """A loop of 10^9 turns of 26 issues."""
    task = partial(
        simulate, _streams.regular(26 * 10**9), _streams.LIBRARY, _streams.core(), engine="compiled"
    )
    report = task()
    yield {
        "part": "loop", "what": "10^9 turns", "seconds": min(timed(task)[0] for _ in range(5)),
        "issues": report.instructions, "cycles": report.cycles,
    }  # fmt: skip


def gpt2_rows() -> Iterator[Row]:
    """The prefill of GPT-2 small, in tiles of 32 x 32 x 32, nothing left out inside a stage: one of
    like layers, as every simulation does, and all."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "gpt2"
        write_gpt2(folder)
        model = read_model_folder(folder, prompt=128, tokens=1, context=256, text=False)
        edge = api.find_machine("edge", load_plugins(()))
        program = api.Loaded(model, load_plugins(())).compile(tiled(edge)).program
    library = {name: item.item for name, item in load_plugins(()).instructions.items()}
    machine = tiled(edge)
    costs = Costs(program, library, machine)
    section = next(s for s in program.sections if s.name == "prefill")
    values = {p.name: p.default for p in program.parameters}
    outermost = extents(section, values | {"prompt": 128})
    views = [View(program, machine, costs, section, stage) for stage in section.stages]

    def run(views: Sequence[View]) -> list[StageReport]:
        engine = CompiledEngine(machine, jump=False)
        return [engine.run(view, outermost, 0, 0)[0] for view in views]

    unlike = {view.key(outermost): view for view in reversed(views)}
    parts = {GPT2: list(unlike.values()), f"{GPT2}, every layer": views}
    for what, chosen in parts.items():
        run(chosen)
        seconds = min(timed(partial(run, chosen))[0] for _ in range(5))
        reports = run(chosen)
        yield {
            "part": "gpt2", "what": what, "seconds": seconds,
            "issues": sum(row.issues for report in reports for row in report.opcodes),
            "cycles": sum(report.cycles for report in reports),
        }  # fmt: skip


def tiled(machine: Machine) -> Machine:
    """A machine whose matrix unit takes 32 of each axis at most."""

    def small(unit: Unit) -> Unit:
        if unit.kind != "matrix":
            return unit
        return replace(unit, attributes=dict(unit.attributes) | {"depth": TILE})

    return replace(machine, units=tuple(small(unit) for unit in machine.units))


def llama_rows() -> Iterator[Row]:
    """From a folder to cycles in a process that knows nothing; its weights are a file of holes."""
    yield fresh(llama)


def llama() -> Row:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_llama(folder)
        reading, model = timed(
            partial(
                read_model_folder, folder, prompt=PROMPT, tokens=1, context=2 * PROMPT, text=False
            )
        )
        loaded = api.Loaded(model, load_plugins(()))
        machine = roomy(api.find_machine("datacenter", loaded.registry))
        compiling, work = timed(partial(loaded.compile, machine))
    run = partial(work.simulate, {"prompt": PROMPT, "tokens": 1}, engine="compiled")
    seconds, report = timed(run)
    assert isinstance(report, Report)
    return {
        "part": "llama", "what": "Llama 70B shape, prefill of 2048, datacenter with 512 GiB",
        "seconds": reading + compiling + seconds, "reading": reading, "compiling": compiling,
        "simulating": seconds, "issues": report.instructions, "cycles": report.cycles,
        "bytes": float(peak_memory()),
    }  # fmt: skip


def roomy(machine: Machine) -> Machine:
    """A machine whose DRAM holds all weights."""
    *inner, dram = machine.memories
    return replace(machine, memories=(*inner, replace(dram, size=ROOM)))


def write_llama(folder: Path) -> None:
    """A Hugging Face folder whose weights take no room: a file of zeros that are not written."""
    (folder / "config.json").write_text(json.dumps(LLAMA), "utf-8")
    width, inner, words = 8192, 28672, 128256
    narrow = width // 8
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (words, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (words, width),
    }
    for layer in range(80):
        place = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{place}.{name}.weight"] = (width,)
        for name, rows in (("q", width), ("k", narrow), ("v", narrow), ("o", width)):
            shapes[f"{place}.self_attn.{name}_proj.weight"] = rows, width
        shapes[f"{place}.mlp.gate_proj.weight"] = inner, width
        shapes[f"{place}.mlp.up_proj.weight"] = inner, width
        shapes[f"{place}.mlp.down_proj.weight"] = width, inner
    table, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape, dtype=np.int64))
        table[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(table).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + end)


# ---------------------------------------------------------------- the report


def judged(rows: Sequence[Row]) -> Iterator[Bar]:
    """What must hold, of the parts that ran."""
    for row in rows:
        if "mismatches" in row:
            name = f"{row['part']}: {row.get('program', '')} {row['what']}: mismatches"
            yield at_most(" ".join(name.split()), float(str(row["mismatches"])), 0, "")
    rates = {(row["program"], row["what"]): row for row in rows if "per second" in row}
    goals = {"random": (15e6, 150), "regular": (40e6, 400)}
    for program, (least, factor) in goals.items():
        if (program, "compiled") not in rates:
            continue
        of_it = {what: row for (name, what), row in rates.items() if name == program}
        rate = {what: float(str(row["per second"])) for what, row in of_it.items()}
        mine = rate["compiled"]
        yield at_least(f"{program}: speed", mine / 1e6, least / 1e6, "M issues/s")
        yield at_least(f"{program}: against simpy", mine / rate["simpy"], factor, "times")
        yield at_most(f"{program}: fair against fifo", mine / rate["compiled, fair"], 1.3, "times")
        if "gcc" in rate:
            yield at_least(f"{program}: against gcc", mine / rate["gcc"], 1.0, "times")
    most = {"cold": 0.15, "cached": 0.02, "10^9 turns": 0.005, GPT2: 0.05}
    for row in rows:
        if row["what"] in most:
            seconds = float(str(row["seconds"]))
            yield below(
                f"{row['part']}: {row['what']}", seconds * 1e3, most[row["what"]] * 1e3, "ms"
            )
        if row["part"] == "llama":
            yield below("llama: model to cycles", float(str(row["seconds"])), 2, "s")
            yield below("llama: memory", float(str(row["bytes"])) / 1e9, 1, "GB")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _measure.arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="these parts alone")
    options = parser.parse_args(arguments)
    core = _measure.pin()
    rounds, issues = (3, 100_000) if options.quick else (9, 1_000_000)
    tasks: Mapping[str, Callable[[], Iterator[Row]]] = {
        "llama": llama_rows,
        "start": start_rows,
        "exact": partial(exact_rows, options.quick),
        "jump": partial(jump_rows, options.quick),
        "speed": partial(speed_rows, rounds, issues),
        "loop": loop_rows,
        "gpt2": gpt2_rows,
    }
    chosen = options.only or PARTS
    rows = [row for part, task in tasks.items() if part in chosen for row in task()]
    settings = {"core": core, "rounds": rounds, "cache": str(cache_folder().name), "parts": chosen}
    return _measure.report(options.json, settings, rows, list(judged(rows)))


if __name__ == "__main__":
    sys.exit(main())
