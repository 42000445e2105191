"""Restricted Python as native code: one source that CPython runs as it is and LLVM compiles.

A function takes flat arrays and numbers, and calls functions of the same kind. Arrays that go
together are a NamedTuple of them, `tables.starts[i]`. Values are int (64 bits), float (64 bits) and
bool; narrow types live in arrays only. A variable keeps the type of its first assignment. What
CPython would not do either ends the call with a fault: an index outside, a number too large for its
array, an overflow, a division by zero. Negative indices are faults too.

Has: assignments, if, while, for over range, break, continue, return, assert; arithmetic, bits,
comparisons, `and`, `or`, `not`, conditional expressions, len, int, float, min, max, abs, of
`math` exp, log, sqrt, tanh, erf, sin, cos, and the words of `bits`.
Has not: everything else, which `RestrictedError` names.

Functions of modules that a library trusts, ours that tests hold against CPython, are not checked:
integers wrap there, and a fault in what they call does not end them.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import math
import sys
import types
import typing
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, repeat
from typing import Any, NoReturn, TypeAlias

from infinisa.isa.dtypes import is_float

from . import bits
from .functions import FUNCTIONS, STORED, narrow, widen
from .ir import BYTES, SOON, Function, Module, Value, constant, literal


class RestrictedError(Exception):
    """Something that restricted Python does not have; it still runs in CPython."""


@dataclass(frozen=True)
class Array:
    """A flat array: its address, its length, its element type."""

    pointer: Value
    length: Value
    dtype: str


Kind: TypeAlias = str
"""What a parameter or a result is: "i64", "double", "i1", "" for nothing, or "[u8]", an array."""

NOTHING: Mapping[str, int] = {}
NUMBERS: Mapping[Any, Kind] = {int: "i64", float: "double", bool: "i1", None: "", type(None): ""}
MATH: Mapping[object, str] = {
    getattr(math, name): name for name in ("exp", "log", "sqrt", "tanh", "erf", "sin", "cos")
}
ELEMENTS: Mapping[str, str] = STORED | {"u64": "i64", "u128": "i128"}
"""What an element of an array is in memory; the last two are masks."""

MASKS = {"u64": "i64", "u128": "i128"}
WORDS = (bits.word, bits.product, bits.shifted)
"""What `bits` has for integers of 64 bits, which may be checked."""

KNOWN = (ast.Constant, ast.Name, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp,
         ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)  # fmt: skip
"""What an expression that is known while code is written may be made of."""

COMPARE = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}


@dataclass(frozen=True)
class Signature:
    """What a function takes and returns. A parameter has one kind, by "", or those of the arrays of
    a bundle that the function uses, by names behind the parameter's."""

    parameters: Mapping[str, Mapping[str, Kind]]
    result: Kind

    @property
    def flat(self) -> dict[str, Kind]:
        """Every array and number that it takes."""
        return {
            f"{n}{part}": k for n, kinds in self.parameters.items() for part, k in kinds.items()
        }


@dataclass
class Library:
    """Functions compiled into one module.

    trusted  modules whose functions are not checked: what CPython would not do there is no fault
    mask     what a set of numbers is: "i64" or "i128"
    faults   what went wrong and where, by the number that a faulty call leaves behind
    """

    trusted: frozenset[str] = frozenset()
    mask: Kind = "i64"
    module: Module = field(default_factory=Module)
    faults: list[str] = field(default_factory=lambda: [""])
    made: dict[object, tuple[str, Kind]] = field(default_factory=dict)
    signatures: dict[object, Signature | None] = field(default_factory=dict)
    open: set[object] = field(default_factory=set)

    def entry(
        self,
        body: Callable[..., Any],
        kinds: Sequence[Kind],
        results: int,
        near: Mapping[str, int] = NOTHING,
    ) -> str:
        """A public function for `body` on parameters of these kinds: its name.

        Its parameters are those of `body` (an address and a length for each array), then where
        the first `results` numbers that it returns go, then where a fault goes.

        near  arrays of so many elements that are on the stack while it runs, and copied at its
              begin and end: they need no registers for their addresses
        """
        key = body, tuple(kinds), results
        if key not in self.made:
            name = f"opaque{sum(isinstance(k, tuple) for k in self.made)}"
            takes = dict(zip(parameters_named(body), kinds, strict=True))
            Compiler(self, body, takes, name, public=True, results=results, near=near).run()
            self.made[key] = name, ""
        return self.made[key][0]

    def signature(self, body: Callable[..., Any]) -> Signature:
        """By the annotations of a function, and by what it uses of bundles."""
        if body not in self.signatures:
            self.signatures[body] = None
            hints = annotated(body)
            result = kind_of(hints.pop("return"), self.mask)
            parts = {name: parts_of("", hint) for name, hint in hints.items()}
            bundles = {n: dict(given) for n, given in parts.items() if "" not in dict(given)}
            used = self.uses(body, bundles) if bundles else set()
            parameters = {
                name: {
                    part: kind_of(hint, self.mask)
                    for part, hint in given
                    if name not in bundles or f"{name}{part}" in used
                }
                for name, given in parts.items()
            }
            self.signatures[body] = Signature(parameters, result)
        found = self.signatures[body]
        if found is None:
            raise RestrictedError(f"{body.__name__} calls itself")
        return found

    def uses(self, body: Callable[..., Any], bundles: Mapping[str, Iterable[str]]) -> set[str]:
        """The arrays of bundles that a function uses, or another that it hands them on to."""
        arrays = [f"{name}{part}" for name, parts in bundles.items() for part in parts]
        names, found = names_of(function(body)), set[str]()

        def inside(path: str) -> list[str]:
            return [array for array in arrays if f"{array}.".startswith(f"{path}.")]

        def visit(node: ast.AST) -> None:
            if path := dotted(node):
                found.update(inside(path))
            elif isinstance(node, ast.Call) and any(inside(dotted(each)) for each in node.args):
                hand_on(node)
            else:
                for child in ast.iter_child_nodes(node):
                    visit(child)

        def hand_on(call: ast.Call) -> None:
            target = names.get(dotted(call.func))
            takes: Iterable[Iterable[str]] = ()
            if isinstance(target, types.FunctionType) and target.__module__ != bits.__name__:
                takes = self.signature(target).parameters.values()
            for argument, parts in zip(call.args, chain(takes, repeat([""])), strict=False):
                if path := dotted(argument):
                    found.update(*(inside(f"{path}{part}") for part in parts))
                else:
                    visit(argument)

        visit(definition(function(body).__code__))
        return found

    def function(self, body: Callable[..., Any]) -> tuple[str, Kind]:
        """The internal function for one that others call, and what it returns."""
        if body not in self.made:
            if body in self.open:
                raise RestrictedError(f"{body.__name__} calls itself")
            self.open.add(body)
            takes = self.signature(body)
            name = f"r{len(self.made)}_{body.__name__}"
            Compiler(self, body, takes.flat, name, public=False, result=takes.result).run()
            self.open.discard(body)
            self.made[body] = name, takes.result
        return self.made[body]


def annotated(body: Callable[..., Any]) -> dict[str, Any]:
    """What a function says of its parameters and its result, `return`."""
    hints = hints_of(body)
    names = [*parameters_named(body), "return"]
    if missing := [name for name in names if name not in hints]:
        raise RestrictedError(f"{body.__name__}: {missing[0]!r} must be annotated")
    return {name: hints[name] for name in names}


def parameters_named(body: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a function; RestrictedError if it is none."""
    code = function(body).__code__
    return code.co_varnames[: code.co_argcount]


def function(body: Callable[..., Any]) -> types.FunctionType:
    if not isinstance(body, types.FunctionType):
        raise RestrictedError(f"{body!r} is not a function")
    return body


def names_of(body: types.FunctionType) -> dict[str, Any]:
    """What a function sees: the names of its module, and of functions around it."""
    inner = zip(body.__code__.co_freevars, body.__closure__ or (), strict=True)
    return body.__globals__ | {name: cell.cell_contents for name, cell in inner}


def parts_of(name: str, hint: Any) -> list[tuple[str, Any]]:
    """A parameter by itself; one that is a NamedTuple as its arrays, by `name.field`."""
    fields = fields_of(hint).items()
    found = [part for field, inner in fields for part in parts_of(f"{name}.{field}", inner)]
    return found or [(name, hint)]


@cache
def fields_of(hint: Any) -> Mapping[str, Any]:
    """What a NamedTuple has by name; nothing for all else."""
    if not (isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")):
        return {}
    return hints_of(hint)


def hints_of(body: Callable[..., Any]) -> Mapping[str, Any]:
    """What the annotations of a function or a class stand for: mostly names, which are soon looked
    up."""
    around = getattr(body, "__globals__", None) or vars(sys.modules[body.__module__])
    known = ChainMap(around, vars(builtins))
    found = {name: known.get(hint, hint) for name, hint in body.__annotations__.items()}
    if any(isinstance(hint, str | typing.ForwardRef) for hint in found.values()):
        return typing.get_type_hints(body, include_extras=True)
    return found


def kind_of(hint: Any, mask: Kind) -> Kind:
    if hint in NUMBERS:
        return NUMBERS[hint]
    if hint == bits.Mask:
        return mask
    for dtype in getattr(hint, "__metadata__", ()):
        if dtype == "masks":
            return f"[{next(name for name, kind in MASKS.items() if kind == mask)}]"
        if dtype in ELEMENTS:
            return f"[{dtype}]"
    raise RestrictedError(f"a parameter must be a number or an array, not {hint}")


def parameters_of(kind: Kind, name: str, public: bool) -> list[tuple[str, str]]:
    """Nothing that an entry is given overlaps anything else."""
    if kind[:1] != "[":
        return [(f"{name}.in", kind)]
    return [(f"{name}.in", "ptr noalias" if public else "ptr"), (f"{name}.length", "i64")]


def definition(code: types.CodeType) -> ast.FunctionDef:
    """The text of a function; OSError if it is in no file."""
    found = definitions(code.co_filename).get(code.co_firstlineno)
    if found is None or found.name != code.co_name:
        raise OSError("could not get source code")
    return found


@cache
def definitions(file: str) -> Mapping[int, ast.FunctionDef]:
    """All functions of a file, by their first lines: reading it once is quicker than looking for
    each."""
    found = {}
    left: list[ast.AST] = [ast.parse("".join(linecache.getlines(file)))]
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef):
            found[min([node.lineno, *(mark.lineno for mark in node.decorator_list)])] = node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            inside = getattr(node, part, None)
            if isinstance(inside, list):  # a lambda has an expression
                left += inside
    return found


def inlining(tree: ast.FunctionDef, otherwise: str) -> str:
    """What LLVM is told of calls of a function by its marks."""
    marks = [mark.id for mark in tree.decorator_list if isinstance(mark, ast.Name)]
    if bits.rare.__name__ in marks:
        return SOON
    return "noinline" if bits.apart.__name__ in marks else otherwise


def kept_names(tree: ast.FunctionDef) -> set[str]:
    """Variables that keep what they are given first: parameters, or what a statement outside of
    loops and branches assigns."""
    count = Counter(argument.arg for argument in tree.args.args)
    left: list[ast.stmt] = []
    for item in tree.body:
        count.update(assigned(item))
        left += inner(item)
    outermost = set(count)
    while left:
        item = left.pop()
        count.update(assigned(item))
        left += inner(item)
    return {name for name in outermost if count[name] == 1}


def assigned(item: ast.stmt) -> list[str]:
    """The variables that a statement sets; that of a loop changes, so it is there twice."""
    match item:
        case ast.Assign(targets):
            pass
        case ast.AugAssign(target) | ast.AnnAssign(target):
            targets = [target]
        case ast.For(target):
            targets = [target, target]
        case _:
            return []
    parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return [part.id for part in parts if isinstance(part, ast.Name)]


def inner(item: ast.stmt) -> list[ast.stmt]:
    """What is in a loop or branch."""
    return [*getattr(item, "body", ()), *getattr(item, "orelse", ())]


class Compiler:
    """Writes one function. Variables that change are memory in it: LLVM's passes make registers of
    them."""

    def __init__(
        self,
        library: Library,
        body: Callable[..., Any],
        takes: Mapping[str, Kind],
        name: str,
        *,
        public: bool,
        result: Kind = "",
        results: int = 0,
        near: Mapping[str, int] = NOTHING,
    ) -> None:
        self.library, self.body, self.public, self.result = library, body, public, result
        self.checked = body.__module__ not in library.trusted
        self.results = results
        self.tree = tree = definition(function(body).__code__)
        given = [part for n, kind in takes.items() for part in parameters_of(kind, n, public)]
        given += [("returned", "ptr noalias")] if public else []
        given.append(("fault", "ptr noalias"))
        inline = inlining(tree, "" if self.checked or public else "alwaysinline")
        self.f = Function(library.module, name, given, public=public, result=result, inline=inline)
        self.names = names_of(function(body))
        self.arrays: dict[str, Array] = {}
        self.variables: dict[str, tuple[Value, Kind]] = {}
        self.known: dict[str, object] = {}
        self.head: list[str] = []
        self.copied: list[tuple[Value, Value, int]] = []
        self.loops: list[tuple[str, str] | None] = []
        self.kept = kept_names(tree)
        for argument, kind in takes.items():
            value = self.f.parameters[f"{argument}.in"]
            if kind[1:-1] in MASKS and self.checked:
                raise RestrictedError(f"{name}: an array of masks cannot be checked")
            if kind[:1] == "[":
                length = self.f.parameters[f"{argument}.length"]
                if argument in near:
                    value = self.brought_near(argument, value, ELEMENTS[kind[1:-1]], near[argument])
                self.arrays[argument] = Array(value, length, kind[1:-1])
            else:
                self.assign_name(argument, value)

    def run(self) -> None:
        self.statements(self.tree.body)
        f = self.f
        if self.results:
            self.check(constant("i1", False), self.tree, "it ends without returning anything")
        self.leave()
        f.place("quit")
        for there, here, size in self.copied:
            self.copy(here, there, size)
        f.finish(zero(self.result))
        f.lines = [*self.head, *f.lines]
        f.close()

    def brought_near(self, name: str, there: Value, element: str, size: int) -> Value:
        """A copy on the stack of the elements of an array."""
        here = Value(f"%{name}.near", "ptr")
        self.head.append(f"  {here.text} = alloca [{size} x {element}], align 64")
        self.copied.append((there, here, size * BYTES[element]))
        self.copy(there, here, size * BYTES[element])
        return here

    def copy(self, source: Value, target: Value, size: int) -> None:
        f, name = self.f, "llvm.memcpy.p0.p0.i64"
        f.module.declarations.add(f"declare void @{name}(ptr, ptr, i64, i1)")
        f.line(f"call void @{name}(ptr {target.text}, ptr {source.text}, i64 {size}, i1 false)")

    # -- mistakes

    def where(self, node: ast.AST) -> str:
        return f"{self.body.__name__}, line {getattr(node, 'lineno', self.tree.lineno)}"

    def refuse(self, node: ast.AST, what: str) -> NoReturn:
        raise RestrictedError(f"{self.where(node)}: {what} is not in restricted Python")

    def check(self, fine: Value, node: ast.AST, what: str) -> None:
        """End the call with a fault unless a condition holds."""
        if not self.checked:
            return
        f = self.f
        bad, good = f.label(), f.label()
        f.branch(fine, good, bad)
        f.place(bad)
        number = len(self.library.faults)
        self.library.faults.append(f"{self.where(node)}: {what}")
        f.store(constant("i64", number), f.parameters["fault"])
        f.jump("quit")
        f.place(good)

    # -- statements

    def statements(self, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Expr(ast.Constant(str())) | ast.Pass():
                pass
            case ast.Expr(ast.Call() as call):
                self.call(call)
            case ast.Assign([target], value):
                self.assignment(target, value)
            case ast.AnnAssign(ast.Name() as target, ast.Name("Mask"), ast.expr() as value):
                self.assign(target, self.mask(self.value(value)))
            case ast.AnnAssign(ast.Name() as target, _, ast.expr() as value):
                self.assignment(target, value)
            case ast.AugAssign(target, operation, value):
                read = ast.BinOp(ast.copy_location(reading(target), target), operation, value)
                self.assignment(target, ast.copy_location(read, node))
            case ast.If(test, yes, no):
                known = self.settled(test)
                if known is None:
                    self.branch(self.condition(test), yes, no)
                else:
                    self.statements(yes if known else no)
            case ast.While(test, body, []):
                self.while_loop(test, body)
            case ast.For(ast.Name(name), ast.Call(ast.Name("range"), limits, []), body, []):
                self.for_loop(name, limits, body)
            case ast.For(ast.Name(name), ast.Call(ast.Name("static"), [numbers], []), body, []):
                self.static_loop(name, numbers, body)
            case ast.Break() | ast.Continue() if self.loops and self.loops[-1]:
                self.f.jump(self.loops[-1][isinstance(node, ast.Continue)])
                self.f.place(self.f.label())
            case ast.Return(value):
                self.give(node, value)
            case ast.Assert(test, _):
                self.check(self.condition(test), node, "the assertion does not hold")
            case _:
                self.refuse(node, f"`{ast.unparse(node).splitlines()[0]}`")

    def assignment(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name) and (given := self.arrays_of(value)):
            self.name_arrays(target, given)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            if all(map(self.arrays_of, value.elts)):
                for name, array in zip(target.elts, value.elts, strict=True):
                    self.assignment(name, array)
                return
            values = [self.value(item) for item in value.elts]
            for place, item in zip(target.elts, values, strict=True):
                self.assign(place, item)
        else:
            self.assign(target, self.value(value))

    def arrays_of(self, node: ast.expr) -> dict[str, Array]:
        """An array, by "", or arrays that go together, by names behind the bundle's; else none."""
        path = dotted(node)
        if path and path not in self.variables:
            return {name.removeprefix(path): self.arrays[name] for name in self.arrays_in(path)}
        if not isinstance(node, ast.Call):
            return {}
        parts = parts_of("", self.names.get(dotted(node.func)))
        if not parts[0][0]:
            return {}
        given = [array for each in node.args for array in self.arrays_of(each).values()]
        if len(given) != len(parts):
            self.refuse(node, f"{len(given)} arrays instead of {len(parts)}")
        return {name: array for (name, _), array in zip(parts, given, strict=True)}

    def arrays_in(self, path: str) -> list[str]:
        """The name of an array, or those of all in a bundle."""
        if path in self.arrays:
            return [path]
        return [name for name in self.arrays if name.startswith(f"{path}.")]

    def name_arrays(self, target: ast.Name, given: Mapping[str, Array]) -> None:
        """A name means the same arrays wherever it stands."""
        if target.id in self.variables or self.arrays_in(target.id):
            self.refuse(target, f"another array as {target.id!r}")
        self.arrays |= {f"{target.id}{name}": array for name, array in given.items()}

    def assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(name):
                if name in self.variables and self.variables[name][1] != value.kind:
                    self.refuse(target, f"another type for {name!r}")
                if name in self.arrays:
                    self.refuse(target, f"another array as {name!r}")
                self.assign_name(name, value)
            case ast.Subscript(array, index):
                self.put(target, self.array(array), self.whole(index), value)
            case _:
                self.refuse(target, f"assigning to `{ast.unparse(target)}`")

    def assign_name(self, name: str, value: Value) -> None:
        if name in self.kept:
            self.variables[name] = value, value.kind
            return
        if name not in self.variables:
            cell = Value(f"%{name}.cell", "ptr")
            self.head.append(f"  {cell.text} = alloca {value.kind}")
            self.head.append(f"  store {value.kind} {literal(value.kind, 0)}, ptr {cell.text}")
            self.variables[name] = cell, value.kind
        self.f.store(value, self.variables[name][0])

    def put(self, node: ast.AST, array: Array, index: Value, value: Value) -> None:
        """Store an element; it must fit."""
        f, kind = self.f, ELEMENTS[array.dtype]
        self.inside(node, array, index)
        if array.dtype not in MASKS and is_float(array.dtype):
            value = self.real(value)
            raw = value if kind == "double" else f.convert("fptrunc", value, "float")
            raw = raw if kind in ("double", "float") else narrow(f, raw, array.dtype)
        else:
            if value.kind == "double":
                self.refuse(node, "a float in an array of integers")
            value = self.mask(value) if array.dtype in MASKS else self.integer(value)
            raw = value if value.kind == kind else f.convert("trunc", value, kind)
            if self.checked and kind != "i64":
                again = self.widened(raw, array.dtype)
                fits = f.compare("eq", again, value)
                self.check(fits, node, f"a number does not fit into {array.dtype}")
        f.store(raw, f.at(array.pointer, index, kind))

    def branch(self, test: Value, yes: Sequence[ast.stmt], no: Sequence[ast.stmt]) -> None:
        f = self.f
        first, second, out = f.label(), f.label(), f.label()
        f.branch(test, first, second)
        for label, body in ((first, yes), (second, no)):
            f.place(label)
            self.statements(body)
            f.jump(out)
        f.place(out)

    def while_loop(self, test: ast.expr, body: Sequence[ast.stmt]) -> None:
        f = self.f
        head, inside, out = f.label(), f.label(), f.label()
        f.jump(head)
        f.place(head)
        f.branch(self.condition(test), inside, out)
        f.place(inside)
        self.loops.append((out, head))
        self.statements(body)
        self.loops.pop()
        f.jump(head)
        f.place(out)

    def for_loop(self, name: str, limits: Sequence[ast.expr], body: Sequence[ast.stmt]) -> None:
        """The variable is set at each turn and keeps its last value, as in Python."""
        f = self.f
        step = self.step(limits)
        first = self.whole(limits[0]) if len(limits) > 1 else constant("i64", 0)
        last = self.whole(limits[min(1, len(limits) - 1)])
        counter = f"{name}.counter{f.count}"
        self.assign_name(counter, first)
        cell = self.variables[counter][0]
        head, inside, after, out = (f.label() for _ in range(4))
        f.jump(head)
        f.place(head)
        index = f.load(cell, "i64")
        f.branch(f.compare("slt" if step > 0 else "sgt", index, last), inside, out)
        f.place(inside)
        self.assign(ast.Name(name), index)
        self.loops.append((out, after))
        self.statements(body)
        self.loops.pop()
        f.jump(after)
        f.place(after)
        f.store(f.binary("add", f.load(cell, "i64"), constant("i64", step)), cell)
        f.jump(head)
        f.place(out)

    def static_loop(self, name: str, numbers: ast.expr, body: Sequence[ast.stmt]) -> None:
        """The body once for each number, which is known in it."""
        match numbers:
            case ast.Call(ast.Name("range"), limits, []):
                found = [self.evaluated(limit) for limit in limits]
            case _:
                found = [None]
        self.loops.append(None)
        for number in range(*(self.certain(numbers, limit) for limit in found)):
            self.known[name] = number
            self.statements(body)
        self.loops.pop()
        self.known.pop(name, None)

    def settled(self, test: ast.expr) -> object:
        """What a condition is if that is known while code is written, else None."""
        match test:
            case ast.BoolOp(ast.And(), parts):
                known = [self.settled(part) for part in parts]
                if False in known:
                    return False
                return None if None in known else True
            case ast.UnaryOp(ast.Not(), part):
                value = self.settled(part)
                return None if value is None else not value
        return self.evaluated(test)

    def certain(self, node: ast.AST, number: object) -> int:
        if not isinstance(number, int):
            self.refuse(node, f"`{ast.unparse(node)}`, which is not known,")
        return number

    def evaluated(self, node: ast.expr) -> object:
        """The value of an expression if it is known while code is written, else None."""
        if isinstance(node, ast.Constant):
            return node.value
        names: dict[str, object] = {}
        for part in ast.walk(node):
            if not isinstance(part, KNOWN):
                return None
            if isinstance(part, ast.Name):
                held = part.id in self.variables or part.id in self.arrays
                if held and part.id not in self.known:
                    return None
                names[part.id] = self.known.get(part.id, self.names.get(part.id))
                if not isinstance(names[part.id], int | tuple):
                    return None
        if isinstance(node, ast.Name):
            return names[node.id]
        code = compile(ast.Expression(node), self.body.__name__, "eval")
        found: object = eval(code, {"__builtins__": {}}, names)  # of constants and operators only
        return found

    def step(self, limits: Sequence[ast.expr]) -> int:
        if len(limits) < 3:
            return 1
        step = self.evaluated(limits[2])
        if not isinstance(step, int) or step == 0:
            self.refuse(limits[2], "a step of range that is no constant")
        return step

    def give(self, node: ast.Return, value: ast.expr | None) -> None:
        f = self.f
        if self.public:
            values = value.elts if isinstance(value, ast.Tuple) else [value] if value else []
            if len(values) < self.results:
                self.refuse(node, f"returning {len(values)} numbers instead of {self.results}")
            found = [self.whole(item) for item in values]
            for number, one in enumerate(found[: self.results]):
                f.store(one, f.at(f.parameters["returned"], number, "i64"))
        elif value is not None:
            given = self.value(value)
            given = self.real(given) if self.result == "double" else given
            if given.kind != self.result:
                self.refuse(node, f"returning {given.kind} instead of {self.result or 'nothing'}")
            f.finish(given)
            f.place(f.label())
            return
        self.leave()
        f.place(f.label())

    def leave(self) -> None:
        self.f.jump("quit")

    # -- expressions

    def value(self, node: ast.expr) -> Value:
        """A number."""
        match node:
            case ast.Constant(bool() | int() | float() as number):
                return self.number(node, number)
            case ast.Name(name) if name in self.known:
                return self.number(node, self.known[name])
            case ast.Name(name) if name in self.variables:
                held, kind = self.variables[name]
                return held if name in self.kept else self.f.load(held, kind)
            case ast.Name() | ast.Attribute():
                return self.number(node, self.outside(node))
            case ast.Subscript(ast.Name(name)) if name not in self.arrays:
                return self.number(node, self.evaluated(node))
            case ast.Subscript(array, index):
                return self.element(node, self.array(array), self.whole(index))
            case ast.BinOp(left, operation, right):
                return self.arithmetic(node, operation, self.value(left), self.value(right))
            case ast.UnaryOp(ast.Not(), operand):
                return self.f.binary("xor", self.condition(operand), constant("i1", True))
            case ast.UnaryOp(operation, operand):
                return self.signed(node, operation, self.value(operand))
            case ast.Compare(left, operations, others):
                return self.comparison(left, operations, others)
            case ast.BoolOp(operation, parts):
                return self.logical(isinstance(operation, ast.And), parts)
            case ast.IfExp(test, yes, no):
                return self.choice(node, test, yes, no)
            case ast.Call():
                found = self.call(node)
                if found is None:
                    self.refuse(node, f"the value of `{ast.unparse(node)}`")
                return found
        self.refuse(node, f"`{ast.unparse(node)}`")

    def number(self, node: ast.AST, number: object) -> Value:
        if isinstance(number, bool):
            return constant("i1", number)
        if isinstance(number, int) and -(1 << 63) <= number < 1 << 63:
            return constant("i64", number)
        if isinstance(number, float):
            return constant("double", number)
        self.refuse(node, f"{number!r}")

    def outside(self, node: ast.expr) -> object:
        """What a global name or an attribute of a module stands for."""
        match node:
            case ast.Name(name):
                if name in self.names:
                    return self.names[name]
            case ast.Attribute(owner, name):
                module = self.outside(owner)
                if isinstance(module, types.ModuleType):
                    return getattr(module, name, None)
        self.refuse(node, f"`{ast.unparse(node)}`")

    def array(self, node: ast.expr) -> Array:
        if found := self.arrays.get(dotted(node)):
            return found
        self.refuse(node, f"`{ast.unparse(node)}` as an array")

    def whole(self, node: ast.expr) -> Value:
        found = self.value(node)
        if found.kind == "double":
            self.refuse(node, f"`{ast.unparse(node)}`, a float, as an integer")
        return self.integer(found)

    def condition(self, node: ast.expr) -> Value:
        found = self.value(node)
        if found.kind != "i1":
            self.refuse(node, f"`{ast.unparse(node)}`, a number, as a condition")
        return found

    def integer(self, value: Value) -> Value:
        return self.f.convert("zext", value, "i64") if value.kind == "i1" else value

    def real(self, value: Value) -> Value:
        value = self.integer(value)
        return value if value.kind == "double" else self.f.convert("sitofp", value, "double")

    def mask(self, value: Value) -> Value:
        """A number as a set of numbers: its bits."""
        value = self.integer(value)
        if value.kind == self.library.mask:
            return value
        return self.f.convert("zext", value, self.library.mask)

    def alike(self, a: Value, b: Value) -> tuple[Value, Value]:
        """Both floats, or both integers."""
        if "i128" in (a.kind, b.kind):
            return self.mask(a), self.mask(b)
        if "double" in (a.kind, b.kind):
            return self.real(a), self.real(b)
        return self.integer(a), self.integer(b)

    def inside(self, node: ast.AST, array: Array, index: Value) -> None:
        if not self.checked:
            return
        fine = self.f.compare("ult", index, array.length)
        self.check(fine, node, f"the index of `{ast.unparse(node)}` is outside")

    def element(self, node: ast.AST, array: Array, index: Value) -> Value:
        f, kind = self.f, ELEMENTS[array.dtype]
        self.inside(node, array, index)
        return self.widened(f.load(f.at(array.pointer, index, kind), kind), array.dtype)

    def widened(self, raw: Value, dtype: str) -> Value:
        """An element as an int or a float of 64 bits."""
        f = self.f
        if dtype in MASKS:
            return raw
        if is_float(dtype):
            value = widen(f, raw, dtype)
            return value if value.kind == "double" else f.convert("fpext", value, "double")
        if raw.kind == "i64":
            return raw
        return f.convert("zext" if dtype in ("bool", "u8", "u16") else "sext", raw, "i64")

    def comparison(
        self, left: ast.expr, operations: Sequence[ast.cmpop], others: Sequence[ast.expr]
    ) -> Value:
        """a < b <= c, from the left, until one does not hold."""
        first = self.value(left)
        return self.compared(first, list(operations), list(others))

    def compared(self, first: Value, operations: list[ast.cmpop], others: list[ast.expr]) -> Value:
        f = self.f
        operation = COMPARE.get(type(operations[0]))
        if operation is None:
            self.refuse(others[0], "`in` or `is`")
        second = self.value(others[0])
        a, b = self.alike(first, second)
        if a.kind == "double":
            how = "une" if operation == "ne" else f"o{operation}"
        else:
            how = operation if operation in ("eq", "ne") else f"s{operation}"
        holds = f.compare(how, a, b)
        if len(operations) == 1:
            return holds

        def more() -> list[Value]:
            return [self.compared(second, operations[1:], others[1:])]

        return f.either(holds, more, lambda: [constant("i1", False)])[0]

    def logical(self, both: bool, parts: Sequence[ast.expr]) -> Value:
        """`and` and `or`, which look no further than they must."""
        f = self.f
        first = self.condition(parts[0])
        if len(parts) == 1:
            return first

        def rest() -> list[Value]:
            return [self.logical(both, parts[1:])]

        def known() -> list[Value]:
            return [constant("i1", not both)]

        return f.either(first, *((rest, known) if both else (known, rest)))[0]

    def choice(self, node: ast.IfExp, test: ast.expr, yes: ast.expr, no: ast.expr) -> Value:
        kinds: list[Kind] = []

        def side(expression: ast.expr) -> list[Value]:
            found = self.value(expression)
            kinds.append(found.kind)
            if kinds[0] != found.kind:
                self.refuse(node, "a choice between two types")
            return [found]

        return self.f.either(self.condition(test), lambda: side(yes), lambda: side(no))[0]

    def signed(self, node: ast.AST, operation: ast.unaryop, value: Value) -> Value:
        f = self.f
        match operation:
            case ast.USub():
                if value.kind == "double":
                    return f.emit("double", 1, f"fneg double {value.text}")
                return self.arithmetic(node, ast.Sub(), constant("i64", 0), value)
            case ast.UAdd():
                return value if value.kind == "double" else self.integer(value)
            case ast.Invert() if value.kind != "double":
                value = self.integer(value)
                return f.binary("xor", value, constant(value.kind, -1))
        self.refuse(node, "this sign")

    def arithmetic(self, node: ast.AST, operation: ast.operator, a: Value, b: Value) -> Value:
        f = self.f
        if isinstance(operation, ast.BitAnd | ast.BitOr | ast.BitXor):
            word = {ast.BitAnd: "and", ast.BitOr: "or", ast.BitXor: "xor"}[type(operation)]
            if a.kind == b.kind == "i1":
                return f.binary(word, a, b)
            if "double" not in (a.kind, b.kind):
                return f.binary(word, *self.alike(a, b))
        if isinstance(operation, ast.Div):
            a, b = self.real(a), self.real(b)
            self.check(f.compare("une", b, constant("double", 0)), node, "a division by zero")
            return f.binary("fdiv", a, b)
        a, b = self.alike(a, b)
        words = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul"}
        if type(operation) in words:
            word = words[type(operation)]
            return (
                f.binary(f"f{word}", a, b) if a.kind == "double" else self.exact(node, word, a, b)
            )
        if a.kind != "double":
            match operation:
                case ast.FloorDiv() | ast.Mod():
                    return self.divided(node, a, b, isinstance(operation, ast.Mod))
                case ast.LShift() | ast.RShift():
                    return self.shifted(node, a, b, isinstance(operation, ast.LShift))
        self.refuse(node, f"`{ast.unparse(node)}`")

    def exact(self, node: ast.AST, word: str, a: Value, b: Value) -> Value:
        """A sum, difference or product of 64 bits, or a fault."""
        f = self.f
        if not self.checked:
            return f.binary(word, a, b)
        name = f"llvm.s{word}.with.overflow.i64"
        f.module.declarations.add(f"declare {{ i64, i1 }} @{name}(i64, i64)")
        pair = f.emit("", 1, f"call {{ i64, i1 }} @{name}(i64 {a.text}, i64 {b.text})").text
        value = f.emit("i64", 1, f"extractvalue {{ i64, i1 }} {pair}, 0")
        over = f.emit("i1", 1, f"extractvalue {{ i64, i1 }} {pair}, 1")
        fine = f.binary("xor", over, constant("i1", True))
        self.check(fine, node, f"`{ast.unparse(node)}` has more than 64 bits")
        return value

    def divided(self, node: ast.AST, a: Value, b: Value, rest: bool) -> Value:
        """Rounded down, as Python does."""
        f, zero_ = self.f, constant("i64", 0)
        self.check(f.compare("ne", b, zero_), node, "a division by zero")
        least = f.compare("ne", a, constant("i64", -(1 << 63)))
        fine = f.binary("or", least, f.compare("ne", b, constant("i64", -1)))
        self.check(fine, node, f"`{ast.unparse(node)}` has more than 64 bits")
        quotient, left = f.binary("sdiv", a, b), f.binary("srem", a, b)
        unlike = f.compare("slt", f.binary("xor", left, b), zero_)
        down = f.binary("and", unlike, f.compare("ne", left, zero_))
        if rest:
            return f.select(down, f.binary("add", left, b), left)
        return f.binary("sub", quotient, f.convert("zext", down, "i64"))

    def shifted(self, node: ast.AST, a: Value, b: Value, left: bool) -> Value:
        f = self.f
        fine = f.compare("ult", b, constant("i64", 64))
        self.check(fine, node, f"`{ast.unparse(node)}` shifts by less than 0 or more than 63")
        if not left:
            return f.binary("ashr", a, b)
        value = f.binary("shl", a, b)
        if not self.checked:
            return value
        same = f.compare("eq", f.binary("ashr", value, b), a)
        self.check(same, node, f"`{ast.unparse(node)}` has more than 64 bits")
        return value

    # -- calls

    def call(self, node: ast.Call) -> Value | None:
        """Another function, or one of the few of Python's own."""
        if node.keywords:
            self.refuse(node, "a keyword argument")
        if isinstance(node.func, ast.Name) and node.func.id not in self.names:
            return self.builtin(node, node.func.id)
        target = self.outside(node.func)
        if isinstance(target, types.BuiltinFunctionType) and target in MATH and len(node.args) == 1:
            return self.of_math(node, MATH[target], self.real(self.value(node.args[0])))
        if not isinstance(target, types.FunctionType):
            self.refuse(node, f"`{ast.unparse(node.func)}`")
        if target in WORDS:
            return self.of_words(node, target)
        if target.__module__ == bits.__name__:
            return self.of_masks(node, target)
        name, result = self.library.function(target)
        takes = self.library.signature(target).parameters.values()
        if len(takes) != len(node.args):
            self.refuse(node, f"{len(node.args)} arguments instead of {len(takes)}")
        given = [
            self.argument(self.part(argument, part), kind)
            for argument, kinds in zip(node.args, takes, strict=True)
            for part, kind in kinds.items()
        ]
        words = [*(word for words in given for word in words), "ptr %fault"]
        return self.called(name, result, words)

    def of_masks(self, node: ast.Call, target: types.FunctionType) -> Value:
        """A function of `bits`."""
        f, kind = self.f, self.library.mask
        size = 128 if kind == "i128" else 64
        if self.checked:
            self.refuse(node, f"`{ast.unparse(node)}` with checks")
        if target is bits.bit:
            return f.binary("shl", constant(kind, 1), self.mask(self.value(node.args[0])))
        mask = self.mask(self.value(node.args[0]))
        if target is bits.count:
            return self.number_of(f.intrinsic("ctpop", [mask]))
        if target is bits.first:
            name = f"llvm.cttz.{kind}"
            f.module.declarations.add(f"declare {kind} @{name}({kind}, i1)")
            found = f.emit(kind, 1, f"call {kind} @{name}({kind} {mask.text}, i1 true)")
            return self.number_of(found)
        if target is bits.last:
            name = f"llvm.ctlz.{kind}"
            f.module.declarations.add(f"declare {kind} @{name}({kind}, i1)")
            found = f.emit(kind, 1, f"call {kind} @{name}({kind} {mask.text}, i1 true)")
            return self.number_of(f.binary("xor", found, constant(kind, size - 1)))
        if self.evaluated(node.args[2]) != size:
            self.refuse(node, f"`{ast.unparse(node)}` around another ring than of {size}")
        start = self.mask(self.value(node.args[1]))
        return f.intrinsic("fshr", [mask, mask, start])

    def of_words(self, node: ast.Call, target: types.FunctionType) -> Value:
        """A function of `bits` for integers of 64 bits."""
        f, (one, two) = self.f, node.args
        if target is bits.word:
            array, at = self.array(one), self.whole(two)
            if array.dtype != "u8":
                self.refuse(node, f"a word of an array of {array.dtype}")
            self.inside(node, array, at)
            self.inside(node, array, f.binary("add", at, constant("i64", 7)))
            return f.emit("i64", 1, f"load i64, ptr {f.at(array.pointer, at).text}, align 1")
        a, b = self.whole(one), self.whole(two)
        if target is bits.product:
            return f.binary("mul", a, b)
        fine = f.compare("ult", b, constant("i64", 64))
        self.check(fine, node, f"`{ast.unparse(node)}` shifts by less than 0 or more than 63")
        return f.binary("lshr", a, b)

    def number_of(self, mask: Value) -> Value:
        return mask if mask.kind == "i64" else self.f.convert("trunc", mask, "i64")

    def of_math(self, node: ast.Call, name: str, x: Value) -> Value:
        """A function of `math`: where it has no finite value, though x has one, is a fault."""
        f = self.f
        y = FUNCTIONS[name](f, x)
        zero_ = constant("double", 0)
        finite = f.compare("oeq", f.binary("fsub", y, y), zero_)
        odd = f.compare("une", f.binary("fsub", x, x), zero_)  # infinite or no number
        kept = f.binary("or", f.compare("ord", y, y), f.compare("uno", x, x))
        fine = f.binary("or", finite, f.binary("and", odd, kept))
        self.check(fine, node, f"`{ast.unparse(node)}` has no finite value")
        return y

    def called(self, name: str, result: Kind, words: Sequence[str]) -> Value | None:
        f = self.f
        text = f"call {result or 'void'} @{name}({', '.join(words)})"
        found = f.emit(result, 1, text) if result else None
        if not result:
            f.line(text)
        if not self.checked:
            return found
        fault = f.load(f.parameters["fault"], "i64")
        good = f.label()
        f.branch(f.compare("eq", fault, constant("i64", 0)), good, "quit")
        f.place(good)
        return found

    def part(self, node: ast.expr, name: str) -> ast.expr:
        """One of the arrays that go together as an argument; by "" it is what it is."""
        if name and not dotted(node):
            self.refuse(node, f"`{ast.unparse(node)}` without a name")
        return ast.Name(dotted(node) + name) if name else node

    def argument(self, node: ast.expr, kind: Kind) -> list[str]:
        if kind[:1] == "[":
            array = self.array(node)
            if array.dtype != kind[1:-1]:
                self.refuse(node, f"an array of {array.dtype} instead of {kind[1:-1]}")
            return [f"ptr {array.pointer.text}", f"i64 {array.length.text}"]
        value = self.value(node)
        if kind == "double":
            value = self.real(value)
        if kind == "i64" and value.kind == "i1":
            value = self.integer(value)
        if kind == self.library.mask:
            value = self.mask(value)
        if value.kind != kind:
            self.refuse(node, f"`{ast.unparse(node)}` as an argument of this type")
        return [f"{kind} {value.text}"]

    def builtin(self, node: ast.Call, name: str) -> Value:
        f = self.f
        match name, node.args:
            case "len", [array]:
                return self.array(array).length
            case "int", [value]:
                return self.whole(value)
            case "float", [value]:
                return self.real(self.value(value))
            case "abs", [value]:
                found = self.value(value)
                if found.kind == "double":
                    return f.intrinsic("fabs", [found])
                negative = f.compare("slt", found, constant("i64", 0))
                other = self.signed(node, ast.USub(), self.integer(found))
                return f.select(negative, other, found)
            case (("min" | "max"), [left, right]):
                a, b = self.alike(self.value(left), self.value(right))
                how = "lt" if name == "min" else "gt"
                word = f"o{how}" if a.kind == "double" else f"s{how}"
                return f.select(f.compare(word, b, a), b, a)
        self.refuse(node, f"`{ast.unparse(node)}`")


def dotted(node: ast.AST) -> str:
    """A name, or names with dots between; nothing for another expression."""
    match node:
        case ast.Name(name):
            return name
        case ast.Attribute(owner, name) if outer := dotted(owner):
            return f"{outer}.{name}"
    return ""


def reading(target: ast.expr) -> ast.expr:
    """A target of an assignment as an expression."""
    match target:
        case ast.Name(name):
            return ast.Name(name, ast.Load())
        case ast.Subscript(value, index):
            return ast.Subscript(value, index, ast.Load())
    return target


def zero(kind: Kind) -> Value | None:
    return constant(kind, 0) if kind else None
