"""Finds plugins, holds them to the contract of `hookspec.py` and gathers what they bring.

A plugin that breaks the contract is refused with a PluginError that names plugin, hook and rule.
What a plugin raises is reported under its name in `Registry.failures`; the others go on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import pkgutil
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import pluggy

from infinisa.compiler.positional.operator import Operator
from infinisa.isa.errors import InfinisaError, PluginError, SimulationError
from infinisa.isa.instruction import Instruction
from infinisa.isa.machine import Machine, load_machine
from infinisa.isa.program import COPIES
from infinisa.runtime.simulator import Policy
from infinisa.runtime.simulator.policy import as_policy

from . import families, hookspec

Item = TypeVar("Item")

HOOKS = tuple(name for name in vars(hookspec) if name.startswith("infinisa_"))
PREFIX = "infinisa_"
GROUP = "infinisa"

BUILT_IN = (
    *(f"{families.__name__}.{found.name}" for found in pkgutil.iter_modules(families.__path__)),
    *(
        f"infinisa.plugins.{name}"
        for name in ("backends", "machines", "memories", "models", "policies")
    ),
)
"""Modules with hooks that InfinISA ships: each file of families/ is one."""


@dataclass(frozen=True)
class Origin:
    """Where a plugin came from: its name, what brought it, and the version of that."""

    plugin: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Registered(Generic[Item]):
    """Something that a plugin defines."""

    item: Item
    origin: Origin


@dataclass(frozen=True)
class Failure:
    """A plugin that raised, and what."""

    plugin: str
    message: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r}: {self.message}"


@dataclass(frozen=True)
class Registry:
    """Everything that the loaded plugins define, by name."""

    instructions: Mapping[str, Registered[Instruction]] = field(default_factory=dict)
    operators: Mapping[str, Registered[Operator]] = field(default_factory=dict)
    machines: Mapping[str, Registered[Machine]] = field(default_factory=dict)
    models: Mapping[str, Registered[Callable[..., Any]]] = field(default_factory=dict)
    tokenizers: Mapping[str, Registered[Callable[..., Any]]] = field(default_factory=dict)
    units: Mapping[str, Registered[Callable[..., Any]]] = field(default_factory=dict)
    policies: Mapping[str, Registered[Policy]] = field(default_factory=dict)
    memories: Mapping[str, Registered[Callable[..., Any]]] = field(default_factory=dict)
    backends: Mapping[str, Registered[Callable[..., Any]]] = field(default_factory=dict)
    commands: Mapping[str, Registered[Callable[..., Any]]] = field(default_factory=dict)
    plugins: tuple[Origin, ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def library(self) -> dict[str, Instruction]:
        """The instructions alone, as the compiler and the interpreter take them."""
        return {name: found.item for name, found in self.instructions.items()}


def load(
    files: Sequence[Path | str] = (),
    *,
    plugins: Mapping[str, object] | None = None,
    installed: bool = True,
) -> Registry:
    """Load the built-in plugins, those installed, files, and objects with hooks.

    files      plain .py files, and folders of packages: their pyproject.toml names the plugins,
               which stand for installed ones of these names
    plugins    objects to treat as plugins, by name
    installed  whether to look for entry points
    """
    loader = Loader()
    points = {Path(file): points_of_folder(Path(file)) for file in files if Path(file).is_dir()}
    replaced = {point.name for folder in points.values() for point in folder}
    for module in BUILT_IN:
        name = module.removeprefix("infinisa.plugins.")
        loader.add(Origin(name, "infinisa", own_version()), import_module(module))
    if installed:
        for point in sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name):
            if point.name not in replaced:
                loader.attempt(origin_of(point), point.load)
    for path in map(Path, files):
        if path in points:
            for point, origin in points[path].items():
                loader.attempt(origin, partial(import_point, path, point))
            continue
        loader.attempt(origin_of_file(path), partial(import_file, path))
    for name, plugin in (plugins or {}).items():
        loader.add(Origin(name, name, "0"), plugin)
    return loader.registry()


def own_version() -> str:
    try:
        return metadata.version("infinisa")
    except metadata.PackageNotFoundError:  # run from a checkout
        return "0"


def origin_of(point: metadata.EntryPoint) -> Origin:
    if point.dist is None:
        return Origin(point.name, point.value, "0")
    return Origin(point.name, point.dist.name, point.dist.version)


def origin_of_file(path: Path) -> Origin:
    """A plain file has no version: a hash of its text stands for one."""
    if path.suffix != ".py" or not path.is_file():
        raise PluginError(f"plugin {str(path)!r}: must be a .py file that exists")
    return Origin(path.stem, path.name, hashlib.sha256(path.read_bytes()).hexdigest()[:12])


def points_of_folder(folder: Path) -> dict[metadata.EntryPoint, Origin]:
    """The plugins of a package that is not installed, as its pyproject.toml names them."""
    file = folder / "pyproject.toml"
    where = f"plugin {str(folder)!r}"
    try:
        project = tomllib.loads(file.read_text("utf-8")).get("project", {})
    except FileNotFoundError:
        raise PluginError(f"{where}: must be a folder with a pyproject.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PluginError(f"{where}: pyproject.toml cannot be read: {error}") from None
    named = project.get("entry-points", {}).get(GROUP, {})
    if not named:
        raise PluginError(f"{where}: pyproject.toml must have [project.entry-points.{GROUP}]")
    title, version = project.get("name", folder.name), project.get("version", "0")
    return {
        metadata.EntryPoint(name, value, GROUP): Origin(name, title, version)
        for name, value in named.items()
    }


def import_point(folder: Path, point: metadata.EntryPoint) -> object:
    """What an entry point names, from this folder as it is now and not from an installed copy."""
    top = point.module.partition(".")[0]
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]
    sources = [path.resolve() for path in (folder / "src", folder) if path.is_dir()]
    sys.path[:0] = map(str, sources)
    try:
        found: object = point.load()
    finally:
        del sys.path[: len(sources)]
    file = Path(sys.modules[top].__file__ or "")
    own = [source / place for source in sources for place in (f"{top}.py", f"{top}/__init__.py")]
    if file not in own:
        raise PluginError(f"module {top!r} must be in {folder}, not {file}")
    return found


def import_file(path: Path) -> ModuleType:
    """The module of a file, as `infinisa_plugin_<stem>`, so that it hides no other module."""
    spec = importlib.util.spec_from_file_location(f"infinisa_plugin_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None  # the file ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


OURS = ("importlib", "infinisa", "pluggy")
"""Modules that call a plugin, or that it calls."""


class Loader:
    """Collects plugins; `registry` calls their hooks and checks what they return."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(hookspec.PROJECT)
        self.manager.add_hookspecs(hookspec)
        self.origins: dict[str, Origin] = {}
        self.failures: list[Failure] = []

    def attempt(self, origin: Origin, plugin: Callable[[], object]) -> None:
        """Add what `plugin` returns; a plugin that cannot be loaded is reported."""
        try:
            found = plugin()
        except Exception as error:
            self.failures.append(Failure(origin.plugin, f"cannot be loaded: {described(error)}"))
        else:
            self.add(origin, found)

    def add(self, origin: Origin, plugin: object) -> None:
        """Check a plugin's hooks and register it."""
        if origin.plugin in self.origins:
            other = self.origins[origin.plugin]
            raise PluginError(
                f"plugin {origin.plugin!r} of {origin.distribution}: "
                f"{other.distribution} has a plugin of this name already"
            )
        check_hooks(origin.plugin, plugin)
        self.manager.register(plugin, origin.plugin)
        self.origins[origin.plugin] = origin

    def registry(self) -> Registry:
        tables = {hook.removeprefix(PREFIX): self.table(hook) for hook in HOOKS}
        check_laws(tables["instructions"])
        return Registry(
            **tables, plugins=tuple(self.origins.values()), failures=tuple(self.failures)
        )

    def table(self, hook: str) -> dict[str, Registered[Any]]:
        """What all plugins return from one hook, by name."""
        table: dict[str, Registered[Any]] = {}
        for implementation in getattr(self.manager.hook, hook).get_hookimpls():
            origin = self.origins[implementation.plugin_name]
            try:
                named = READERS.get(hook, named_functions)(implementation.function())
            except Refused as refused:
                raise PluginError(f"plugin {origin.plugin!r}: {hook} {refused}") from None
            except Exception as error:
                self.failures.append(Failure(origin.plugin, f"{hook} raised {described(error)}"))
                continue
            for name, item in named:
                add_item(table, hook, name, Registered(item, origin))
        return table


@contextmanager
def blamed(origin: Origin, what: str) -> Iterator[None]:
    """Report what a plugin's function raises under the plugin's name; `what` it was asked for."""
    try:
        yield
    except InfinisaError:
        raise
    except Exception as error:
        raise PluginError(f"plugin {origin.plugin!r}: {what} raised {described(error)}") from error


def described(error: Exception) -> str:
    """The error, and the line of the plugin that led to it, whatever modules it called there."""
    told = f"{type(error).__name__}: {error}"
    calls = [
        (frame.f_globals.get("__name__", "").partition(".")[0], frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    own = [call for call in calls if call[0] not in {*OURS, *sys.stdlib_module_names}]
    if not own:
        return told
    _, frame, line = next(call for call in reversed(own) if call[0] == own[0][0])
    return f"{Path(frame.f_code.co_filename).name}, line {line}: {told}"


# ---------------------------------------------------------------- the rules


class Refused(Exception):
    """What a hook returned breaks a rule; the message completes `plugin 'x': hook ...`."""


def check_hooks(plugin: str, module: object) -> None:
    """Every name that starts like a hook must be one, be marked, and take nothing."""
    for name in dir(module):
        if not name.startswith(PREFIX):
            continue
        where = f"plugin {plugin!r}: {name}"
        if name not in HOOKS:
            near = get_close_matches(name, HOOKS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PluginError(f"{where} is no hook: must be one of {', '.join(HOOKS)}{hint}")
        hook = getattr(module, name)
        if not callable(hook) or not hasattr(hook, f"{hookspec.PROJECT}_impl"):
            raise PluginError(f"{where} must be a function marked with @hookimpl")
        if parameters := inspect.signature(hook).parameters:
            raise PluginError(f"{where} must take no arguments, not ({', '.join(parameters)})")


def add_item(
    table: dict[str, Registered[Any]], hook: str, name: str, entry: Registered[Any]
) -> None:
    where = f"plugin {entry.origin.plugin!r}: {hook}"
    if name in table:
        other = table[name].origin.plugin
        raise PluginError(f"{where}: name {name!r} must be new, plugin {other!r} has it already")
    table[name] = entry


def check_laws(instructions: Mapping[str, Registered[Instruction]]) -> None:
    """A law may name only instructions that there are."""
    for name, entry in instructions.items():
        for law in entry.item.laws:
            for other in law.names:
                if other not in instructions:
                    raise PluginError(
                        f"plugin {entry.origin.plugin!r}: infinisa_instructions: the law of "
                        f"{name!r} names {other!r}, which no plugin defines"
                    )


Named = Iterable[tuple[str, Any]]


def elements(value: object, what: str) -> list[object]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise Refused(f"must return {what}, not {type(value).__name__}")
    return list(value)


def named_instructions(value: object) -> Named:
    found = []
    for item in elements(value, "instructions"):
        if not isinstance(item, Instruction):
            raise Refused(f"must return instructions, not {type(item).__name__}")
        if not item.name.isidentifier() or item.name in COPIES:
            rule = f"must be an identifier other than {' and '.join(COPIES)}"
            raise Refused(f"the name of an instruction {rule}, not {item.name!r}")
        found.append((item.name, item))
    return found


def named_operators(value: object) -> Named:
    found = []
    for item in elements(value, "operators"):
        if not isinstance(item, Operator):
            raise Refused(f"must return operators, not {type(item).__name__}")
        found.append((item.key, item))
    return found


def named_machines(value: object) -> Named:
    found = []
    for item in elements(value, "machines or paths of their files"):
        machine = load_machine(item) if isinstance(item, Path) else item
        if not isinstance(machine, Machine):
            raise Refused(f"must return machines or paths, not {type(item).__name__}")
        found.append((machine.name, machine))
    return found


def named_functions(value: object) -> Named:
    if not isinstance(value, Mapping):
        raise Refused(f"must return functions by name, not {type(value).__name__}")
    for name, function in value.items():
        if not isinstance(name, str) or not callable(function):
            raise Refused(f"must return functions by name, not {name!r}: {function!r}")
    return list(value.items())


def named_policies(value: object) -> Named:
    if not isinstance(value, Mapping):
        raise Refused(f"must return policies by name, not {type(value).__name__}")
    found = []
    for name, item in value.items():
        if not isinstance(name, str) or not (isinstance(item, Policy) or inspect.isfunction(item)):
            raise Refused(f"must return policies or functions by name, not {name!r}: {item!r}")
        try:
            found.append((name, as_policy(name, item)))
        except SimulationError as error:
            raise Refused(f"has a faulty {error}") from None
    return found


READERS: Mapping[str, Callable[[object], Named]] = {
    "infinisa_instructions": named_instructions,
    "infinisa_machines": named_machines,
    "infinisa_operators": named_operators,
    "infinisa_policies": named_policies,
}
"""How the result of a hook becomes (name, item) pairs; the other hooks return mappings."""
