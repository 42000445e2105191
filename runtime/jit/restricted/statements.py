"""Statements: a function's body from its text."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infinisa.isa.dtypes import is_float

from ..code.functions import narrow
from ..code.ir import BYTES, Function, Value, constant, literal
from .expressions import Expressions
from .kinds import ELEMENTS, MASKS, Array, Kind, parameters_of, parts_of
from .source import RestrictedError, definition, dotted, function, inlining, reading

if TYPE_CHECKING:
    from .library import Library

NOTHING: Mapping[str, int] = {}


class Compiler(Expressions):
    """Writes one function."""

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
        self.public, self.result, self.results = public, result, results
        tree = definition(function(body).__code__)
        given = [part for n, kind in takes.items() for part in parameters_of(kind, n, public)]
        given += [("returned", "ptr noalias")] if public else []
        given.append(("fault", "ptr noalias"))
        inline = inlining(tree, "" if public or library.checks(body) else "alwaysinline")
        f = Function(library.module, name, given, public=public, result=result, inline=inline)
        super().__init__(library, body, tree, f)
        self.head: list[str] = []
        self.copied: list[tuple[Value, Value, int]] = []
        self.loops: list[tuple[str, str] | None] = []
        for argument, kind in takes.items():
            value = f.parameters[f"{argument}.in"]
            if kind[1:-1] in MASKS and self.checked:
                raise RestrictedError(f"{name}: an array of masks cannot be checked")
            if kind[:1] == "[":
                length = f.parameters[f"{argument}.length"]
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


def zero(kind: Kind) -> Value | None:
    return constant(kind, 0) if kind else None
