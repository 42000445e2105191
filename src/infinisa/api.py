"""The verbs in Python: load, compile, simulate, run, compare. The command line is a thin cover."""

from __future__ import annotations

import inspect
import io
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.compiler.discovery.discover import Discovery
from infinisa.compiler.discovery.discover import discover as discover_instructions
from infinisa.compiler.discovery.source import plugin_source
from infinisa.compiler.explanation.explain import explain
from infinisa.compiler.graph import Model
from infinisa.compiler.pipeline import Compilation, compile_model
from infinisa.compiler.positional.operator import Operator
from infinisa.compiler.selection.choice import ANY, Trust
from infinisa.compiler.selection.coverage import Coverage, total_of
from infinisa.isa.assembly import parse_text, to_text
from infinisa.isa.dtypes import DTYPES, is_float
from infinisa.isa.encoding import decode, encode
from infinisa.isa.errors import InfinisaError, MachineError, ModelError, PluginError
from infinisa.isa.garbage import uncollected
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine, load_machine
from infinisa.isa.program import Program
from infinisa.isa.verify import verify
from infinisa.plugins import scaffold
from infinisa.plugins.backends import Run
from infinisa.plugins.check import check as run_checks
from infinisa.plugins.check.finding import Finding
from infinisa.plugins.manager import Registered, Registry, blamed, own_version, points_of_folder
from infinisa.plugins.manager import load as load_plugins
from infinisa.plugins.models import HELD_OUT
from infinisa.runtime.accuracy import Accuracy, accuracy
from infinisa.runtime.compare import Comparison, Selected, Share, Simulated, total
from infinisa.runtime.compare import compare as compare_runs
from infinisa.runtime.host import probe, several_cores
from infinisa.runtime.report.text import Entry, Proposed
from infinisa.runtime.simulator import Policy, Report, Task, Together, simulate_together
from infinisa.runtime.simulator import simulate as simulate_program
from infinisa.runtime.values import Result

from .explained import Explained

Array = NDArray[Any]
Progress = Callable[..., None]

DEFAULT_MODEL = "python_lm"
DEFAULT_MACHINES = ("edge", "datacenter", "tpu_v1")
PROGRAM_SUFFIXES = (".iasm", ".iisa")
TEXT = "text"
"""The name of a model's text input and output: UTF-8 bytes."""


def silent(step: str, done: int = 0, total: int | None = None) -> None:
    """Progress that nobody wants to see."""


# ---------------------------------------------------------------- load


@dataclass(frozen=True)
class Loaded:
    """A model and the plugins in force."""

    model: Model
    registry: Registry

    def compile(
        self,
        machine: str | Path | Machine,
        *,
        trust: Trust = ANY,
        print_after: Collection[str] = (),
        progress: Progress = silent,
    ) -> Compiled:
        """The model as a program for a machine, by name, .toml file or value.

        trust  what the match of an instruction must be to be taken: proved, within an error
        """
        target = find_machine(machine, self.registry)
        progress(f"compiling for {target.name}")
        done = compile_model(
            self.model,
            target,
            self.registry.library,
            print_after=print_after,
            progress=progress,
            trust=trust,
        )
        return Compiled(done.program, target, self.registry, self.model, done)

    def explain(
        self,
        machine: str | Path | Machine,
        node: str | None = None,
        *,
        trust: Trust = ANY,
        progress: Progress = silent,
    ) -> Explained:
        """What covers what on a machine, and why; with `node`, about that node too.

        A model that cannot be covered is explained as far as it goes: `failure` says why.
        """
        target = find_machine(machine, self.registry)
        progress(f"explaining {self.model.name} on {target.name}")
        return Explained(explain(self.model, target, self.registry.library, node=node, trust=trust))


def load(
    source: str | Path | Model | None = None,
    *,
    plugins: Sequence[str | Path] = (),
    sizes: Mapping[str, int] | None = None,
    tokens: int | None = None,
    batch: int | None = None,
    cache_type: str | None = None,
) -> Loaded:
    """A model: an .onnx file, a Hugging Face folder, a registered name (default: the small
    language model that InfinISA ships), or one made with `infinisa.compiler.builder`.

    plugins     plain .py files to load besides those installed
    sizes       of dimensions that an .onnx file leaves open
    tokens      how many tokens a language model generates
    batch       how many sequences it works on at a time: several are of ids, without text
    cache_type  in which it keeps keys and values: "f32", "f16" or "bf16" (default: as it has them)
    """
    registry = load_plugins(plugins)
    if isinstance(source, Model):
        return Loaded(source, registry)
    name = str(source or DEFAULT_MODEL)
    path = Path(name)
    given = {"tokens": tokens, "batch": batch, "cache_type": cache_type}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if name in registry.models:
        return Loaded(_registered(name, registry.models[name], options), registry)
    if path.suffix == ".onnx":
        from infinisa.compiler.readers.onnx import read

        if options:
            raise ModelError(f"model {name!r}: an .onnx file has sizes, not {', '.join(options)}")
        operators = [found.item for found in registry.operators.values()]
        return Loaded(read(path, operators, sizes or {}), registry)
    if path.is_dir():
        from infinisa.plugins.models import read_model_folder

        readers = {name: found.item for name, found in registry.tokenizers.items()}
        model = read_model_folder(path, tokenizers=readers, library=registry.library, **options)
        return Loaded(model, registry)
    known = ", ".join(registry.models)
    raise ModelError(
        f"model {name!r}: must be an .onnx file, a Hugging Face folder or one of {known}"
    )


def _registered(name: str, found: Registered[Callable[..., Any]], options: dict[str, Any]) -> Model:
    """A model that a plugin makes."""
    plugin = found.origin.plugin
    if unknown := [key for key in options if key not in inspect.signature(found.item).parameters]:
        raise ModelError(f"model {name!r}: has no choice of {unknown[0]}")
    with blamed(found.origin, f"model {name!r}"):
        made = found.item(**options)
    if not isinstance(made, Model):
        kind = type(made).__name__
        raise PluginError(f"plugin {plugin!r}: model {name!r} must be a Model, not {kind}")
    return made


def find_machine(machine: str | Path | Machine, registry: Registry) -> Machine:
    """A machine by name (`host` is this CPU, probed), by .toml file, or as it is."""
    if isinstance(machine, Machine):
        return machine
    name = str(machine)
    if name == "host":
        return probe()
    if name in registry.machines:
        return registry.machines[name].item
    if name.endswith(".toml"):
        return load_machine(Path(name))
    known = ", ".join((*registry.machines, "host"))
    raise MachineError(f"machine {name!r}: must be a .toml file or one of {known}")


def chosen(kind: str, name: str, table: Mapping[str, Registered[Any]]) -> Any:
    """What a plugin registered under a name."""
    if name not in table:
        raise InfinisaError(f"{kind} {name!r}: must be one of {', '.join(table)}")
    return table[name].item


def parts_of(registry: Registry) -> dict[str, Any]:
    """What plugins bring to a simulation besides instructions, and who brought what."""
    return {
        "processes": {name: found.item for name, found in registry.units.items()},
        "channels": {name: found.item for name, found in registry.memories.items()},
        "origins": {
            (kind, name): found.origin.plugin
            for kind in ("instructions", "units", "memories")
            for name, found in getattr(registry, kind).items()
        },
    }


# ---------------------------------------------------------------- compiled


@dataclass(frozen=True)
class Compiled:
    """A program and what it takes to run it. `compilation` is None for a program from a file."""

    program: Program
    machine: Machine
    registry: Registry
    model: Model | None = None
    compilation: Compilation | None = None
    store: Path | None = None

    @property
    def library(self) -> dict[str, Instruction]:
        return self.registry.library

    @cached_property
    def weights(self) -> dict[str, Array]:
        """All weights by buffer name."""
        needed = [buffer.name for buffer in self.program.of_kind("weight")]
        if self.model is not None:
            return {name: self.model.weights[name].load() for name in needed}
        return _stored_weights(self.store, needed)

    @uncollected()
    def simulate(
        self,
        parameters: Mapping[str, int] | None = None,
        *,
        engine: str = "auto",
        policy: str = "oldest",
        trace: Path | None = None,
        path: bool = False,
        progress: Progress = silent,
    ) -> Report:
        """Cycles on the machine; with `trace`, a file for ui.perfetto.dev as well; with `path`, the
        critical path."""
        report = simulate_program(
            self.program,
            self.library,
            self.machine,
            parameters,
            engine=engine,
            policy=self.policy(policy),
            trace=trace is not None,
            path=path,
            progress=progress,
            **parts_of(self.registry),
        )
        if trace is not None:
            from infinisa.runtime.report.perfetto import to_json

            write_whole(trace, to_json(report).encode())
        return report

    def policy(self, name: str) -> Policy:
        """A policy by name, which knows the plugin that brought it."""
        policy: Policy = chosen("policy", name, self.registry.policies)
        return replace(policy, plugin=self.registry.policies[name].origin.plugin)

    def run(
        self,
        backend: str = "vector",
        *,
        prompt: str | None = None,
        inputs: Path | Mapping[str, Array] | None = None,
        parameters: Mapping[str, int] | None = None,
        threads: int | None = None,
        weights: str = "",
        activations: str = "",
        progress: Progress = silent,
    ) -> Result:
        """Values on this CPU, by the interpreter ("reference") or as native code.

        threads      of a backend that can use several (default: as many as there are cores)
        weights      the format of those that are multiplied, if in fewer bits: "bf16", "f16",
                     "int8", "int8/N", "int4/N" with a factor for N steps; `accuracy` says what
                     that does
        activations  "int8", with integer weights: what they are multiplied by too
        """
        arrays, settings = self.bound(prompt, inputs)
        settings.update(parameters or {})
        return self.shown(self.runner(backend, threads, weights, activations)(arrays, settings))

    def runner(
        self,
        backend: str,
        threads: int | None = None,
        weights: str = "",
        activations: str = "",
    ) -> Run:
        """What computes the program's values: from arrays and parameters to a result."""
        make = chosen("backend", backend, self.registry.backends)
        known, more = inspect.signature(make).parameters, dict[str, int | str]()
        if threads is not None and "threads" in known:
            more["threads"] = threads
        elif threads not in (None, 1):
            raise InfinisaError(f"backend {backend!r}: runs on 1 thread, not {threads}")
        for name, given in (("weights", weights), ("activations", activations)):
            if given and name not in known:
                raise InfinisaError(f"backend {backend!r}: cannot keep {name} in {given!r}")
            more |= {name: given} if given else {}
        run: Run = make(self.program, self.library, self.machine.cores, **more)
        return run

    def accuracy(
        self,
        weights: str,
        activations: str = "",
        *,
        prompt: str | None = None,
        inputs: Path | Mapping[str, Array] | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> Accuracy:
        """What a number format does to the results; inputs that nobody gives are random."""
        arrays, settings = self.bound(prompt, inputs)
        arrays |= random_inputs(self.program, arrays)
        return accuracy(
            self.program,
            self.library,
            arrays,
            settings | dict(parameters or {}),
            weights=weights,
            activations=activations,
            cores=self.machine.cores,
            text=HELD_OUT,
        )

    def bound(
        self, prompt: str | None, inputs: Path | Mapping[str, Array] | None
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Arrays by buffer name, and the parameters that follow from a text."""
        given = _read_arrays(inputs) if isinstance(inputs, Path) else dict(inputs or {})
        known = [*(self.model.inputs if self.model else ())]
        known += [b.name for b in self.program.of_kind("input") if b.name not in known]
        if unknown := [name for name in given if name not in known]:
            raise ModelError(f"input {unknown[0]!r}: must be one of {', '.join(known) or 'none'}")
        if self.model is not None:
            given = {name: named(self.model, name, array) for name, array in given.items()}
        arrays: dict[str, Array] = dict(self.weights) | given
        settings: dict[str, int] = {}
        if TEXT in {buffer.name for buffer in self.program.of_kind("input")} and TEXT not in given:
            if prompt is None and self.model is not None:
                prompt = self.model.example
            data = np.frombuffer((prompt or "").encode(), np.uint8)
            arrays[TEXT] = data
            settings["bytes"] = len(data)
        elif prompt is not None:
            raise ModelError(f"program {self.program.name!r}: takes no text, so no prompt")
        return arrays, settings

    def shown(self, result: Result) -> Result:
        """A result with the dimensions of its outputs as the model's source has them."""
        if self.model is None:
            return result
        outputs = dict(result.outputs)
        for graph in self.model.graphs:
            for name, node in graph.outputs.items():
                title, layout = f"{graph.name}/{name}", self.model.layouts.get(name)
                if layout and title in outputs:
                    outputs[title] = layout.positional(outputs[title], node.axes)
        return replace(result, outputs=outputs)

    @property
    def selection(self) -> dict[str, Selected]:
        """How sure the matches of each section are; nothing for a program from a file."""
        coverage = self.compilation.coverage if self.compilation else {}
        return {name: selected(each) for name, each in coverage.items()}

    def summary(self) -> str:
        """One line for people."""
        size = len(encode(self.program))
        line = f"{len(self.program.opcodes)} opcodes, {size:,} bytes for {self.machine.name}"
        return f"{line}; {total(self.selection.values())}" if self.selection else line

    def write_weights(self, path: Path) -> None:
        """The weights as one safetensors file."""
        from safetensors.numpy import save

        write_whole(path, save(dict(self.weights)))


def together(
    compiled: Sequence[Compiled],
    machine: Machine,
    parameters: Mapping[str, int] | None = None,
    *,
    engine: str = "auto",
    policy: str = "oldest",
    progress: Progress = silent,
) -> Together:
    """What programs that run at a time take, each compiled for its part of the machine
    (`infinisa.runtime.simulator.part`), in the order of its cores.

    parameters  of each program that has them
    """
    given = dict(parameters or {})
    known = {p.name for each in compiled for p in each.program.parameters}
    if unknown := [name for name in given if name not in known]:
        raise InfinisaError(f"parameter {unknown[0]!r}: none of the programs has it")
    tasks = []
    for each in compiled:
        own = {p.name: given[p.name] for p in each.program.parameters if p.name in given}
        tasks.append(Task(each.program, each.library, each.machine.cores, own))
    return simulate_together(
        tasks,
        machine,
        engine=engine,
        policy=compiled[0].policy(policy),
        progress=progress,
        **parts_of(compiled[0].registry),
    )


def named(model: Model, name: str, array: Array) -> Array:
    """An input as the model has it: with a dimension for each of its axes."""
    layout = model.layouts.get(name)
    if layout is None or name not in model.inputs:
        return array
    if array.shape != layout.shape:
        raise ModelError(f"input {name!r}: must have shape {layout.shape}, not {array.shape}")
    return layout.named(array, model.inputs[name][0].axes)


def _stored_weights(store: Path | None, needed: Sequence[str]) -> dict[str, Array]:
    if not needed:
        return {}
    if store is None:
        raise ModelError(f"weight {needed[0]!r}: a program holds none, give --weights-file FILE")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(store, framework="numpy") as file:
            present = set(file.keys())
            if missing := [name for name in needed if name not in present]:
                raise ModelError(f"weights {store}: must hold {missing[0]!r}")
            return {name: file.get_tensor(name) for name in needed}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"weights {store}: must be a safetensors file ({error})") from None


def read_program(
    path: str | Path,
    machine: str | Path | Machine,
    *,
    plugins: Sequence[str | Path] = (),
    weights: Path | None = None,
) -> Compiled:
    """A program from its text (.iasm) or binary (.iisa) form, verified for a machine."""
    registry = load_plugins(plugins)
    target = find_machine(machine, registry)
    program = _program(Path(path))
    verify(program, target, registry.library)
    return Compiled(program, target, registry, store=weights)


def _program(path: Path) -> Program:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InfinisaError(f"program {path}: cannot be read: {error.strerror}") from None
    if path.suffix == ".iisa":
        return decode(data, str(path))
    try:
        return parse_text(data.decode(), str(path))
    except UnicodeDecodeError:
        raise InfinisaError(f"program {path}: must be UTF-8 text") from None


def write_program(program: Program, path: Path) -> None:
    """Text for .iasm, binary for .iisa."""
    if path.suffix not in PROGRAM_SUFFIXES:
        raise InfinisaError(f"program {path}: the name must end in {' or '.join(PROGRAM_SUFFIXES)}")
    binary = path.suffix == ".iisa"
    write_whole(path, encode(program) if binary else to_text(program).encode())


def disassembled(path: Path) -> str:
    """A program file as text."""
    return to_text(_program(path))


# ---------------------------------------------------------------- compare


def compare(
    model: Loaded,
    machines: Sequence[str | Path | Machine] = DEFAULT_MACHINES,
    *,
    prompt: str | None = None,
    rounds: int = 3,
    threads: int = 1,
    weights: str = "",
    activations: str = "",
    trust: Trust = ANY,
    trace: Path | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Simulated and measured throughput side by side.

    threads      that the CPU runs use; machine `host` then has the peak of so many cores
    weights      and `activations`: number formats of the CPU runs, see `Compiled.run`
    trust        what the match of an instruction must be to be taken

    The simulated programs take a text's number of tokens and the like from the run on the CPU.
    """
    host = model.compile("host", trust=trust, progress=progress)
    run = host.runner("vector" if threads == 1 else "parallel", threads, weights, activations)
    arrays, given = host.bound(prompt, None)
    arrays |= random_inputs(host.program, arrays)
    runs = []
    for number in range(rounds):
        progress("running on this CPU", number, rounds)
        runs.append(run(arrays, given))
    parameters = {p.name: runs[0].parameters[p.name] for p in host.program.parameters}
    simulations: list[Simulated] = []
    for machine in machines:
        target = find_machine(machine, model.registry)
        if machine == "host":
            target = several_cores(target, threads)
        compiled = model.compile(target, trust=trust, progress=progress)
        progress(f"simulating {compiled.machine.name}")
        report = compiled.simulate(parameters, trace=trace and own_trace(trace, compiled, machines))
        assert compiled.compilation is not None  # it was compiled just now
        fused = {name: shares(row) for name, row in compiled.compilation.coverage.items()}
        simulations.append(Simulated(compiled.program, report, fused, compiled.selection))
    wanted = model.model.example if prompt is None else prompt
    settings: dict[str, str | int | float] = {"CPU runs": rounds, "CPU threads": threads}
    settings |= runs[0].parameters
    accuracy = host.accuracy(weights, activations, prompt=prompt) if weights else None
    return compare_runs(
        model.model.name, simulations, runs, wanted, texts(runs[0]), settings, accuracy
    )


def own_trace(trace: Path, compiled: Compiled, machines: Sequence[object]) -> Path:
    """The file of one machine's trace: with several machines its name has the machine's."""
    one = len(machines) == 1
    return trace if one else trace.with_stem(f"{trace.stem}.{compiled.machine.name}")


def random_inputs(program: Program, given: Mapping[str, Array]) -> dict[str, Array]:
    """Numbers for inputs that nobody gave: seeded normal floats, zeros where integers are read."""
    generator = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for buffer in program.of_kind("input"):
        if buffer.name not in given:
            dtype = DTYPES[buffer.dtype].numpy
            values = generator.standard_normal(buffer.shape)
            found[buffer.name] = (values if is_float(buffer.dtype) else 0 * values).astype(dtype)
    return found


def shares(coverage: Coverage) -> Share:
    """The part of a graph that instructions of more than one node compute."""
    whole, fused = total_of(coverage.made), total_of(made for made in coverage.made if made.fused)

    def share(what: str) -> float:
        return getattr(fused, what) / getattr(whole, what) if getattr(whole, what) else 1.0

    return Share(share("nodes"), share("operations"), share("bytes"))


def selected(coverage: Coverage) -> Selected:
    """How sure the matches of a graph are."""
    proved = coverage.proved
    return Selected(proved, len(coverage.matches) - proved, coverage.error)


def is_text(name: str) -> bool:
    """Whether an output is text: UTF-8 bytes, as many as parameter `written` says."""
    return name.rpartition("/")[2] == TEXT


def text_of(result: Result, name: str) -> str:
    data = result.outputs[name].tobytes()
    return data[: result.parameters.get("written", len(data))].decode(errors="replace")


def texts(result: Result) -> dict[str, str]:
    """Outputs that are text."""
    return {name: text_of(result, name) for name in result.outputs if is_text(name)}


def shown_outputs(result: Result) -> list[str]:
    """A line for each output: text as it is, arrays by shape and first values."""
    lines = []
    for name, array in result.outputs.items():
        if is_text(name):
            lines.append(text_of(result, name))
        else:
            first = np.array2string(array.reshape(-1)[:6], precision=6, separator=" ")
            lines.append(f"{name} {array.dtype} {list(array.shape)} {first}")
    return lines


# ---------------------------------------------------------------- discover


def discover(
    model: Loaded,
    machine: str | Path | Machine,
    *,
    top: int = 5,
    trust: Trust = ANY,
    progress: Progress = silent,
) -> Discovery:
    """Instructions, `top` at most, that save the model most simulated cycles on a machine.

    trust  what the match of an instruction must be to be taken
    """
    target = find_machine(machine, model.registry)

    def simulated(work: Compilation) -> float:
        parts = parts_of(model.registry)
        return simulate_program(work.program, work.library, target, **parts).cycles

    return discover_instructions(
        model.model, target, model.registry.library, simulated, top, trust, progress
    )


def proposed_plugin(found: Discovery) -> str:
    """The source of a plugin with the proposed instructions; InfinisaError if there are none."""
    if not found.proposals:
        raise InfinisaError(
            f"model {found.model!r}: no instruction was found that saves it time on "
            f"{found.machine!r}"
        )
    title = f"Instructions that {found.model} gains from on {found.machine}."
    return plugin_source([proposal.instruction for proposal in found.proposals], title)


def discovered(found: Discovery) -> list[Proposed]:
    """The proposals as lines of a table."""
    return [
        Proposed(
            each.instruction.name,
            each.instruction.unit,
            each.calls,
            each.found,
            len(each.instruction.operands),
            len(each.instruction.immediates),
            each.extra,
            each.estimated,
            each.saved,
            each.share,
        )
        for each in found.proposals
    ]


# ---------------------------------------------------------------- lists and files


def listing(kind: str, plugins: Sequence[str | Path] = ()) -> list[Entry]:
    """Everything of a kind that the plugins bring."""
    registry = load_plugins(plugins)
    if kind == "plugins":
        return [Entry(o.plugin, o.plugin, o.distribution, o.version, "") for o in registry.plugins]
    found = getattr(registry, kind)
    host = Entry("host", "runtime.host", "infinisa", own_version(), "this CPU, probed when used")
    extra = [host] if kind == "machines" else []
    return extra + [
        Entry(name, e.origin.plugin, e.origin.distribution, e.origin.version, _about(e.item))
        for name, e in sorted(found.items())
    ]


def check(
    plugin: str | Path, *, plugins: Sequence[str | Path] = (), progress: Progress = silent
) -> list[Finding]:
    """What `infinisa check` finds out about the instructions of a plugin: the name of a loaded
    one, a .py file, or a folder with a pyproject.toml. `plugins` are loaded besides."""
    path = Path(plugin)
    if path.suffix == ".py":
        files, names = [*plugins, path], [path.stem]
    elif (path / "pyproject.toml").is_file():
        files, names = [*plugins, path], [point.name for point in points_of_folder(path)]
    else:
        files, names = [*plugins], [str(plugin)]
    return run_checks(load_plugins(files), names, progress)


def new_plugin(
    name: str, directory: str | Path = ".", *, plugins: Sequence[str | Path] = ()
) -> Path:
    """Write an installable package of this name into a folder; the folder it makes there."""
    return scaffold.write(name, Path(directory), load_plugins(plugins))


def _about(item: object) -> str:
    if isinstance(item, Operator):
        until = f" to {item.until}" if item.until else ""
        return f"{item.domain or 'ai.onnx'}, since version {item.since}{until}"
    if isinstance(item, Policy):
        return item.about
    text = item.documentation if isinstance(item, Instruction) else (item.__doc__ or "")
    if isinstance(item, Machine):
        return f"{item.cores} x {item.peak() / item.cores / 1e9:.0f} Gop/s, {item.dram.name}"
    return text.strip().split("\n")[0]


def _read_arrays(path: Path) -> dict[str, Array]:
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            raise ValueError("it holds one array without a name")
        with found:
            return dict(found)
    except (ValueError, OSError) as error:
        raise ModelError(f"input {path}: must be an .npz file of plain arrays ({error})") from None


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """An .npz file, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    write_whole(path, content.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, then rename: a file is whole or not there."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        if name:
            Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InfinisaError(f"{path}: cannot be written: {error.strerror}") from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
