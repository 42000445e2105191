"""Expressions to numbers: names, elements, conditions, calls."""

from __future__ import annotations

import ast
import math
import types
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import bits
from ..code.functions import FUNCTIONS
from ..code.ir import Function, Value, constant
from .arithmetic import Arithmetic
from .kinds import ELEMENTS, Array, Kind
from .source import dotted, function, kept_names, names_of

if TYPE_CHECKING:
    from .library import Library

MATH: Mapping[object, str] = {
    getattr(math, name): name for name in ("exp", "log", "sqrt", "tanh", "erf", "sin", "cos")
}
WORDS = (bits.word, bits.product, bits.shifted)
"""What `bits` has for integers of 64 bits, which may be checked."""

KNOWN = (ast.Constant, ast.Name, ast.Subscript, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp,
         ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.expr_context)  # fmt: skip
"""What an expression that is known while code is written may be made of."""

COMPARE = {ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}


class Expressions(Arithmetic):
    """Writes expressions into a function. Variables that change are memory in it: LLVM's passes
    make registers of them."""

    def __init__(
        self, library: Library, body: Callable[..., Any], tree: ast.FunctionDef, f: Function
    ) -> None:
        super().__init__(library, body, tree, f)
        self.names = names_of(function(body))
        self.arrays: dict[str, Array] = {}
        self.variables: dict[str, tuple[Value, Kind]] = {}
        self.known: dict[str, object] = {}
        self.kept = kept_names(tree)

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

    def inside(self, node: ast.AST, array: Array, index: Value) -> None:
        if not self.checked:
            return
        fine = self.f.compare("ult", index, array.length)
        self.check(fine, node, f"the index of `{ast.unparse(node)}` is outside")

    def element(self, node: ast.AST, array: Array, index: Value) -> Value:
        f, kind = self.f, ELEMENTS[array.dtype]
        self.inside(node, array, index)
        return self.widened(f.load(f.at(array.pointer, index, kind), kind), array.dtype)

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
