"""The text of functions: where it is, what names stand for in it, which variables it sets."""

from __future__ import annotations

import ast
import linecache
import types
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from .. import bits
from ..code.ir import SOON


class RestrictedError(Exception):
    """Something that restricted Python does not have; it still runs in CPython."""


def function(body: Callable[..., Any]) -> types.FunctionType:
    if not isinstance(body, types.FunctionType):
        raise RestrictedError(f"{body!r} is not a function")
    return body


def parameters_named(body: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters of a function; RestrictedError if it is none."""
    code = function(body).__code__
    return code.co_varnames[: code.co_argcount]


def names_of(body: types.FunctionType) -> dict[str, Any]:
    """What a function sees: the names of its module, and of functions around it."""
    inner = zip(body.__code__.co_freevars, body.__closure__ or (), strict=True)
    return body.__globals__ | {name: cell.cell_contents for name, cell in inner}


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
