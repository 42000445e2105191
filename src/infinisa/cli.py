"""The command line: one small function a verb, on top of `infinisa.api`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console

from infinisa.compiler.selection.choice import Trust
from infinisa.isa.errors import InfinisaError
from infinisa.plugins.manager import Registered, blamed, load
from infinisa.runtime.accuracy import Accuracy
from infinisa.runtime.simulator import ENGINES, Report

from . import __version__, api
from .progress import progress

INTERRUPTED = 130
"""The exit status after Ctrl-C, as of a shell."""

KINDS = (
    "plugins", "instructions", "operators", "machines", "models", "tokenizers", "units", "policies",
    "memories", "backends", "commands",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if it worked, 1 if a check failed, 2 if the user can mend it, 130 if
    interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        if given and not given[0].startswith("-") and given[0] not in VERBS:
            command, rest = _command(*given)
            if command is not None:
                with blamed(command.origin, f"verb {given[0]!r}"):
                    status: int = command.item(rest)
                return status
        options = parser().parse_args(given)
        run: Callable[[argparse.Namespace], int | None] = options.run
        return run(options) or 0
    except InfinisaError as error:
        print(f"infinisa: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("infinisa: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        print(f"infinisa: {what}: {error.filename or 'while writing'}", file=sys.stderr)
        return 2


def _command(verb: str, *arguments: str) -> tuple[Registered[Any] | None, list[str]]:
    """A plugin's verb, if there is one, and its arguments; `--plugin FILE` is ours."""
    ours = argparse.ArgumentParser(add_help=False)
    ours.add_argument("--plugin", action="append", default=[])
    known, rest = ours.parse_known_args(arguments)
    return load(known.plugin).commands.get(verb), rest


# ---------------------------------------------------------------- the verbs


def compare(options: argparse.Namespace) -> None:
    """Simulate a model on machines, run it on this CPU, and put both in one table."""
    from infinisa.runtime.report import html, text

    with progress("compare") as meter:
        model = _load(options)
        result = api.compare(
            model,
            options.machine or list(api.DEFAULT_MACHINES),
            prompt=options.prompt,
            rounds=options.rounds,
            threads=options.threads or 1,
            weights=options.weights,
            activations=options.activations,
            trust=_trust(options),
            trace=options.trace,
            progress=meter,
        )
    _print(text.comparison(result))
    if options.json:
        _write_json(options.json, result.plain())
    if options.html:
        page = html.page(text.comparison(result), f"{result.model} compared")
        api.write_whole(options.html, page.encode())


def compile_(options: argparse.Namespace) -> None:
    """Compile a model for a machine into a program file, .iasm (text) or .iisa (binary)."""
    with progress("compile") as meter:
        model = _load(options)
        compiled = model.compile(
            options.machine, trust=_trust(options), print_after=options.print_after, progress=meter
        )
    api.write_program(compiled.program, options.output)
    if options.weights_file:
        compiled.write_weights(options.weights_file)
    print(f"{options.output}: {compiled.summary()}")


def simulate(options: argparse.Namespace) -> int:
    """Cycles of a model or program on a machine, and where the time went."""
    from infinisa.runtime.capacity import capacity
    from infinisa.runtime.report import text
    from infinisa.runtime.simulator import Interrupted

    if options.with_:
        return _together(options)
    if options.cores:
        raise InfinisaError("--cores: divides the cores of a machine among models, see --with")
    with progress("simulate") as meter:
        compiled = _compiled(options, meter)
        if options.policy == "all":
            return _policies(options, compiled, meter)
        try:
            report, status = _simulated(options, compiled, options.policy, meter), 0
        except Interrupted as stop:
            report, status = stop.report, INTERRUPTED
    _print(text.simulation(report, compiled.selection))
    content = report.plain()
    content["selection"] = {name: asdict(part) for name, part in compiled.selection.items()}
    if options.memory:
        uses = capacity(compiled.program, compiled.machine)
        _print(text.memory(uses))
        content["memory"] = [use.plain() for use in uses]
    if options.json:
        _write_json(options.json, content)
    return status


def _simulated(
    options: argparse.Namespace, compiled: api.Compiled, policy: str, meter: api.Progress
) -> Report:
    return compiled.simulate(
        _settings(options.set),
        engine=options.engine,
        policy=policy,
        trace=options.trace,
        path=options.critical_path,
        progress=meter,
    )


def _policies(options: argparse.Namespace, compiled: api.Compiled, meter: api.Progress) -> int:
    """The same program under every policy that there is."""
    from infinisa.runtime.report import text

    if options.trace or options.critical_path or options.memory:
        raise InfinisaError(
            "policy 'all': must be one policy with --trace, --critical-path or --memory"
        )
    reports = []
    for name in compiled.registry.policies:
        meter(f"simulating with policy {name}")
        reports.append(_simulated(options, compiled, name, meter))
    _print(text.policies(reports))
    if options.json:
        _write_json(options.json, {report.policy: report.plain() for report in reports})
    return 0


def _together(options: argparse.Namespace) -> int:
    """Several models at a time on one machine."""
    from infinisa.runtime.report import text
    from infinisa.runtime.simulator import Interrupted, TogetherInterrupted, divided, part

    if options.trace or options.critical_path or options.memory or options.policy == "all":
        raise InfinisaError(
            "--with: cannot be with --trace, --critical-path, --memory or --policy all"
        )
    names = [options.model, *options.with_]
    target = api.find_machine(options.machine, load(options.plugin))
    counts = options.cores or divided(target, len(names))
    if len(counts) != len(names):
        raise InfinisaError(f"--cores: must be {len(names)} numbers, one a model")
    with progress("simulate") as meter:
        compiled = []
        for name, cores in zip(names, counts, strict=True):
            own = {"model": name, "machine": part(target, cores)}
            if _is_program(name):  # what is said of models is said of those beside it
                own |= {"tokens": None, "batch": None, "cache_type": None, "size": []}
            compiled.append(_compiled(argparse.Namespace(**(vars(options) | own)), meter))
        try:
            report, status = (
                api.together(
                    compiled,
                    target,
                    _settings(options.set),
                    engine=options.engine,
                    policy=options.policy,
                    progress=meter,
                ),
                0,
            )
        except TogetherInterrupted as stop:
            report, status = stop.report, INTERRUPTED
        except Interrupted as stop:
            _print(text.simulation(stop.report))
            return INTERRUPTED
    _print(text.together(report))
    if options.json:
        _write_json(options.json, report.plain())
    return status


def run(options: argparse.Namespace) -> None:
    """Compute a model's or program's values on this CPU."""
    with progress("run") as meter:
        options.machine = options.machine or "host"
        compiled = _compiled(options, meter)
        result = compiled.run(
            options.backend or ("parallel" if options.threads else "vector"),
            prompt=options.prompt,
            inputs=options.input,
            parameters=_settings(options.set),
            threads=options.threads,
            weights=options.weights,
            activations=options.activations,
            progress=meter,
        )
        accuracy = _accuracy(options, compiled, meter)
    for line in api.shown_outputs(result):
        print(line)
    if accuracy:
        print(accuracy)
    if options.output:
        api.write_arrays(options.output, result.outputs)


def _accuracy(
    options: argparse.Namespace, compiled: api.Compiled, meter: api.Progress
) -> Accuracy | None:
    """What a number format that was asked for does to the run that was asked for."""
    if not options.weights:
        return None
    meter(f"comparing weights in {options.weights}")
    return compiled.accuracy(
        options.weights,
        options.activations,
        prompt=options.prompt,
        inputs=options.input,
        parameters=_settings(options.set),
    )


def manual(options: argparse.Namespace) -> None:
    """Write the instruction set in force as a manual: formulas, times, bytes, uses."""
    from infinisa.runtime.report.manual import markdown, page

    from .manual import manual as gathered

    with progress("manual") as meter:
        models = [
            api.load(name, plugins=options.plugin, sizes=_settings(options.size))
            for name in options.model or [None]
        ]
        found = gathered(models, options.machine or list(api.DEFAULT_MACHINES), progress=meter)
    options.output.mkdir(parents=True, exist_ok=True)
    for name, content in (("manual.md", markdown(found)), ("manual.html", page(found))):
        api.write_whole(options.output / name, content.encode())
        print(f"{options.output / name}: {len(found.entries)} instructions")


def explain(options: argparse.Namespace) -> int:
    """What covers what in a model, at which cost, and why no other instruction does."""
    with progress("explain") as meter:
        found = _load(options).explain(
            options.machine, options.node, trust=_trust(options), progress=meter
        )
    _print(found.shown())
    if options.json:
        _write_json(options.json, found.plain())
    if found.failure is None:
        return 0
    print(f"infinisa: {found.failure}", file=sys.stderr)
    return 2


def list_(options: argparse.Namespace) -> None:
    """What is there: name, where it comes from, what it is."""
    from infinisa.runtime.report import text

    _print(text.listing(api.listing(options.kind, options.plugin)))


def discover(options: argparse.Namespace) -> None:
    """Propose instructions that would make a model faster, as the source of a plugin."""
    from infinisa.runtime.report import text

    with progress("discover") as meter:
        found = api.discover(
            _load(options),
            options.machine,
            top=options.top,
            trust=_trust(options),
            progress=meter,
        )
    if options.json:
        _write_json(options.json, found.plain())
    title = (
        f"{found.model} on {found.machine}: {found.before:,.0f} cycles, "
        f"{found.after:,.0f} with these"
    )
    refused = [f"tried {each.name}: {each.why}" for each in found.refused]
    _print(text.proposals(title, api.discovered(found), refused))
    source = api.proposed_plugin(found)
    if options.output:
        api.write_whole(options.output, source.encode())
        print(f"{options.output}: {len(found.proposals)} instructions, for --plugin")
    else:
        print(source, end="")


def check(options: argparse.Namespace) -> int:
    """Hold every instruction of a plugin to its definition, on all backends and machines."""
    from infinisa.plugins.check import text

    with progress("check") as meter:
        found = api.check(options.target, plugins=options.plugin, progress=meter)
    _print(text.report(found))
    if options.json:
        _write_json(options.json, [finding.plain() for finding in found])
    return 0 if all(finding.passed for finding in found) else 1


def new_plugin(options: argparse.Namespace) -> None:
    """Write an installable plugin with one instruction, a model that uses it, and tests."""
    from infinisa.plugins import scaffold

    folder = api.new_plugin(options.name, options.dir, plugins=options.plugin)
    print(scaffold.commands(folder))


def disassemble(options: argparse.Namespace) -> None:
    """A program file as text."""
    print(api.disassembled(options.program), end="")


# ---------------------------------------------------------------- what they share


def _load(options: argparse.Namespace) -> api.Loaded:
    return api.load(
        options.model,
        plugins=options.plugin,
        sizes=_settings(options.size),
        tokens=options.tokens,
        batch=options.batch,
        cache_type=options.cache_type,
    )


def _is_program(model: str | None) -> bool:
    return model is not None and Path(model).suffix in api.PROGRAM_SUFFIXES


def _compiled(options: argparse.Namespace, meter: api.Progress) -> api.Compiled:
    """A model compiled for the machine, or a program file as it is."""
    if _is_program(options.model):
        given = {
            "--require or --error-budget": _trust(options) != Trust(),
            "--tokens (see --set)": options.tokens,
            "--batch": options.batch,
            "--cache-type": options.cache_type,
            "--size": options.size,
        }
        if found := [name for name, value in given.items() if value]:
            raise InfinisaError(
                f"program {options.model}: is compiled already, {found[0]} is for models"
            )
        return api.read_program(
            options.model, options.machine, plugins=options.plugin, weights=options.weights_file
        )
    return _load(options).compile(options.machine, trust=_trust(options), progress=meter)


def _trust(options: argparse.Namespace) -> Trust:
    return Trust(options.require, options.error_budget)


def _settings(pairs: Sequence[str]) -> dict[str, int]:
    """Read `name=number` pairs."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not value.isdigit():
            raise InfinisaError(f"a setting must be NAME=NUMBER, not {pair!r}")
        found[name] = int(value)
    return found


def _print(content: object) -> None:
    console = Console()
    wide = Console(width=max(console.width, 170)) if not console.is_terminal else console
    wide.print(content)


def _write_json(path: Path, content: object) -> None:
    api.write_whole(path, (json.dumps(content, indent=2) + "\n").encode())


# ---------------------------------------------------------------- the options


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="infinisa",
        description="Simulate AI accelerators whose instruction set you extend in Python.",
        epilog="`infinisa VERB --help` says more. Without a model, the small one shipped is used. "
        "Plugins may bring more verbs: `infinisa list commands`.",
    )
    top.add_argument("--version", action="version", version=f"infinisa {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    for make in VERBS.values():
        make(verbs)
    return top


Verbs = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[[argparse.Namespace], int | None],
) -> argparse.ArgumentParser:
    about = function.__doc__ or ""
    made = verbs.add_parser(name, help=about, description=about)
    made.set_defaults(run=function)
    made.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="load this plugin file too"
    )
    return made


def _model(verb: argparse.ArgumentParser, program: bool = False) -> None:
    what = "an .onnx file, a Hugging Face folder, a registered name"
    what += ", or a program (.iasm, .iisa)" if program else ""
    verb.add_argument("model", nargs="?", metavar="MODEL", help=f"{what}; default: python_lm")
    verb.add_argument(
        "--tokens", type=_positive, metavar="N", help="tokens to generate (default: 64)"
    )
    verb.add_argument(
        "--batch",
        type=_positive,
        metavar="N",
        help="sequences at a time; several are of ids, without text (default: 1)",
    )
    verb.add_argument(
        "--cache-type",
        choices=("f32", "f16", "bf16"),
        help="keep keys and values in this type (default: as the model has them)",
    )
    _size(verb)


def _size(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=N",
        help="the size of a dimension that an .onnx file leaves open",
    )


def _machines(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--machine",
        action="append",
        metavar="NAME",
        help=f"a machine or a .toml file; may repeat (default: {', '.join(api.DEFAULT_MACHINES)})",
    )


def _trusted(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--require",
        choices=("tested", "proved"),
        default="tested",
        help="take an instruction only where it is proved to compute the same (default: tested)",
    )
    verb.add_argument(
        "--error-budget",
        type=float,
        default=inf,
        metavar="E",
        help="the largest relative error that an instruction may add (default: any)",
    )


def _simulation(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", type=_output, metavar="FILE", help="write all numbers as JSON")
    verb.add_argument(
        "--trace", type=_output, metavar="FILE", help="write a trace for ui.perfetto.dev"
    )


def _threads(verb: argparse.ArgumentParser, about: str) -> None:
    verb.add_argument("--threads", type=_positive, metavar="N", help=about)


def _formats(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--weights",
        default="",
        metavar="FORMAT",
        help="keep the weights of products in fewer bits: bf16, f16, int8 (a factor a column), "
        "int8/N or int4/N (a factor for N steps: 32, 64, 128, 256); reports what that does",
    )
    verb.add_argument(
        "--activations",
        default="",
        metavar="FORMAT",
        help="int8, with integer weights: what they are multiplied by too, rounded row by row",
    )


def _compare(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "compare", compare)
    _model(verb)
    _trusted(verb)
    _machines(verb)
    verb.add_argument("--prompt", metavar="TEXT", help="the text to start from")
    verb.add_argument(
        "--rounds", type=_positive, default=3, metavar="N", help="CPU runs; the fastest counts"
    )
    _threads(verb, "threads of the CPU runs (default: 1)")
    _formats(verb)
    verb.add_argument("--html", type=_output, metavar="FILE", help="write the table as a page")
    _simulation(verb)


def _compile(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "compile", compile_)
    _model(verb)
    _trusted(verb)
    verb.add_argument("--machine", required=True, metavar="NAME")
    verb.add_argument("-o", "--output", type=_output, required=True, metavar="PROGRAM")
    verb.add_argument("--weights-file", type=_output, metavar="FILE", help="write the weights here")
    verb.add_argument(
        "--print-after", action="append", default=[], metavar="PASS", help="print after this pass"
    )


def _simulate(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "simulate", simulate)
    _model(verb, program=True)
    _trusted(verb)
    verb.add_argument("--machine", required=True, metavar="NAME")
    verb.add_argument(
        "--with",
        dest="with_",
        action="append",
        default=[],
        metavar="MODEL",
        help="run this model at the same time, on cores of its own; may repeat",
    )
    verb.add_argument(
        "--cores",
        type=_positives,
        metavar="N,N",
        help="the cores of each model (default: as many for all)",
    )
    verb.add_argument("--engine", choices=tuple(ENGINES), default="auto")
    verb.add_argument(
        "--policy",
        default="oldest",
        metavar="NAME",
        help="which issue starts next, see list policies; all: compare them (default: oldest)",
    )
    verb.add_argument(
        "--critical-path", action="store_true", help="what each cycle was needed for, by layer too"
    )
    verb.add_argument(
        "--memory", action="store_true", help="how full memories are, and what is where"
    )
    verb.add_argument("--set", action="append", default=[], metavar="NAME=N", help="a parameter")
    verb.set_defaults(weights_file=None)
    _simulation(verb)


def _run(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "run", run)
    _model(verb, program=True)
    _trusted(verb)
    verb.add_argument("--machine", metavar="NAME", help="compile for this machine (default: host)")
    verb.add_argument(
        "--backend",
        metavar="NAME",
        help="how to run, see list backends (default: vector; parallel with --threads)",
    )
    _threads(verb, "threads of backend parallel (default: one a core)")
    _formats(verb)
    verb.add_argument("--prompt", metavar="TEXT", help="the text to start from")
    verb.add_argument("--input", type=Path, metavar="FILE.npz", help="input arrays by name")
    verb.add_argument("--output", type=_output, metavar="FILE.npz", help="write output arrays here")
    verb.add_argument("--weights-file", type=Path, metavar="FILE", help="the weights of a program")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=N", help="a parameter")


def _explain(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "explain", explain)
    _model(verb)
    _trusted(verb)
    verb.add_argument("--machine", required=True, metavar="NAME")
    verb.add_argument(
        "--node",
        metavar="NAME",
        help="explain this node too: the model's name for it, or the program's call that computes "
        "it; a part of the name will do if no other has it",
    )
    verb.add_argument("--json", type=_output, metavar="FILE", help="write all of it as JSON")


def _list(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _verb(verbs, "list", list_).add_argument("kind", choices=KINDS)


def _manual(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "manual", manual)
    verb.add_argument(
        "model", nargs="*", metavar="MODEL", help="where to look for uses; default: python_lm"
    )
    _size(verb)
    _machines(verb)
    verb.add_argument(
        "--output",
        type=Path,
        default=Path("manual"),
        metavar="DIR",
        help="the folder of manual.md and manual.html (default: manual)",
    )


def _discover(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "discover", discover)
    _model(verb)
    _trusted(verb)
    verb.add_argument("--machine", required=True, metavar="NAME")
    verb.add_argument(
        "--top", type=_positive, default=5, metavar="N", help="proposals at most (default: 5)"
    )
    verb.add_argument("--json", type=_output, metavar="FILE", help="write all numbers as JSON")
    verb.add_argument(
        "-o", "--output", type=_output, metavar="PLUGIN.py", help="write the plugin here"
    )


def _check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "check", check)
    verb.add_argument(
        "target",
        metavar="PLUGIN",
        help="the name of a loaded plugin (see list plugins), a .py file, or a package's folder",
    )
    verb.add_argument("--json", type=_output, metavar="FILE", help="write all findings as JSON")


def _new_plugin(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verb = _verb(verbs, "new-plugin", new_plugin)
    verb.add_argument("name", metavar="NAME", help="the plugin's name: letters, digits and _")
    verb.add_argument(
        "--dir", type=Path, default=Path(), metavar="D", help="where to put its folder"
    )


def _disassemble(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _verb(verbs, "disassemble", disassemble).add_argument("program", type=Path)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return int(text)


def _output(text: str) -> Path:
    """A file that can be written, as far as one can tell before there is something to write."""
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder that exists, not {text!r}")
    return path


def _positives(text: str) -> tuple[int, ...]:
    return tuple(map(_positive, text.split(",")))


VERBS = {
    make.__name__.strip("_").replace("_", "-"): make
    for make in (
        _compare,
        _compile,
        _simulate,
        _run,
        _explain,
        _list,
        _manual,
        _discover,
        _check,
        _new_plugin,
        _disassemble,
    )
}
"""What adds each verb to the command line."""
