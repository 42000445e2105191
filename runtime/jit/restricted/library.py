"""Functions of restricted Python compiled into one module."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any

from .. import bits
from ..code.ir import Module
from .kinds import Kind, Signature, annotated, kind_of, parts_of
from .source import RestrictedError, definition, dotted, function, names_of, parameters_named
from .statements import NOTHING, Compiler


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

    def checks(self, body: Callable[..., Any]) -> bool:
        """Whether what CPython would not do ends a function with a fault."""
        return body.__module__ not in self.trusted

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
