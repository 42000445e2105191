"""Timing expressions: integer arithmetic over axis lengths and a unit's attributes.

`m * n / lanes + 12` is text in a plugin, a function here. A quotient rounds up: a partial cycle is
a cycle. The same expression works on Python integers and on NumPy arrays of them. A Python function
of such expressions becomes text too (`timings`), so there is one way to evaluate either.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import LanguageError

Number = Any  # int or an integer array


def ceil_divide(a: Number, b: Number) -> Number:
    return -(-a // b)


def larger(a: Number, b: Number) -> Number:
    return max(a, b) if isinstance(a, int) and isinstance(b, int) else np.maximum(a, b)


def smaller(a: Number, b: Number) -> Number:
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else np.minimum(a, b)


@dataclass(frozen=True)
class Timing:
    """An expression in + - * / // % min max and parentheses over names and integers."""

    text: str

    def __post_init__(self) -> None:
        _ = self.names

    @cached_property
    def tree(self) -> ast.expr:
        try:
            return ast.parse(self.text, mode="eval").body
        except SyntaxError:
            raise LanguageError(f"timing {self.text!r} is not an expression") from None

    @cached_property
    def names(self) -> frozenset[str]:
        """The names that the expression uses."""
        found: set[str] = set()
        _check(self.tree, self.text, found)
        return frozenset(found)

    def __call__(self, values: Mapping[str, Number]) -> Number:
        """The value, given every name; LanguageError for one that is not."""
        if missing := sorted(name for name in self.names if name not in values):
            raise LanguageError(f"timing {self.text!r}: nothing is called {missing[0]!r}")
        return _value(self.tree, values)


def _check(node: ast.expr, text: str, found: set[str]) -> None:
    match node:
        case ast.Constant(value=int()):
            return
        case ast.Name(id=name):
            found.add(name)
            return
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _check(operand, text, found)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            _check(left, text, found)
            return _check(right, text, found)
        case ast.Call(func=ast.Name(id="min" | "max"), args=[_, _, *_] as arguments, keywords=[]):
            for argument in arguments:
                _check(argument, text, found)
            return
    raise LanguageError(
        f"timing {text!r}: {ast.unparse(node)!r} must be integer arithmetic "
        "(+ - * / // % min max) over axes and attributes of the unit"
    )


def timings(function: Callable[..., Any], where: str) -> tuple[Timing, ...]:
    """The one or two expressions that a function returns, its local names written out.

    It may have a docstring, assignments to names, and a return at its end. LanguageError for
    anything else, or for a name that is neither a parameter nor assigned before.
    """
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (OSError, TypeError, SyntaxError):
        raise LanguageError(f"{where}: its source must be in a file") from None
    if not isinstance(body, ast.FunctionDef):
        raise LanguageError(f"{where}: must be a function")
    known: dict[str, ast.expr] = {
        name: ast.Name(name) for name in inspect.signature(function).parameters
    }
    statements = body.body[1:] if ast.get_docstring(body) else body.body
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                known[name] = _written_out(value, known, where)
            case ast.Return(value=ast.Tuple(elts=[occupancy, latency])):
                pair = (_written_out(part, known, where) for part in (occupancy, latency))
                return tuple(Timing(ast.unparse(part)) for part in pair)
            case ast.Return(value=ast.expr() as value):
                return (Timing(ast.unparse(_written_out(value, known, where))),)
            case _:
                text = ast.unparse(statement).split("\n")[0]
                raise LanguageError(
                    f"{where}: {text!r} must be an assignment to a name or the return"
                )
    raise LanguageError(f"{where}: must return cycles")


def _written_out(node: ast.expr, known: Mapping[str, ast.expr], where: str) -> ast.expr:
    """An expression of parameters alone."""

    class Writer(ast.NodeTransformer):
        def visit_Call(self, node: ast.Call) -> ast.Call:
            node.args = [self.visit(argument) for argument in node.args]
            return node  # the name of a function is none of ours

        def visit_Name(self, node: ast.Name) -> ast.expr:
            if node.id not in known:
                raise LanguageError(f"{where}: {node.id!r} must be a parameter or assigned before")
            return known[node.id]

    written: ast.expr = Writer().visit(node)
    return written


_OPERATIONS: dict[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: ceil_divide,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
}


def _value(node: ast.expr, values: Mapping[str, Number]) -> Number:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name(id=name):
            return values[name]
        case ast.UnaryOp(operand=operand):
            return -_value(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_value(left, values), _value(right, values))
        case ast.Call(func=ast.Name(id=name), args=arguments):
            first, *rest = (_value(argument, values) for argument in arguments)
            for other in rest:
                first = (smaller if name == "min" else larger)(first, other)
            return first
    raise AssertionError(node)
