"""Numbers to numbers: what operators do, and the checks of what CPython would not do either."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from infinisa.isa.dtypes import is_float

from ..code.functions import widen
from ..code.ir import Function, Value, constant
from .kinds import MASKS
from .source import RestrictedError

if TYPE_CHECKING:
    from .library import Library


class Arithmetic:
    """Writes instructions on numbers into a function."""

    def __init__(
        self, library: Library, body: Callable[..., Any], tree: ast.FunctionDef, f: Function
    ) -> None:
        self.library, self.body, self.tree, self.f = library, body, tree, f
        self.checked = library.checks(body)

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

    def number_of(self, mask: Value) -> Value:
        return mask if mask.kind == "i64" else self.f.convert("trunc", mask, "i64")
