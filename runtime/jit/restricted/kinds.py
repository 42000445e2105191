"""What functions take and return, by their annotations."""

from __future__ import annotations

import builtins
import sys
import typing
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from .. import bits
from ..code.functions import STORED
from ..code.ir import Value
from .source import RestrictedError, parameters_named


@dataclass(frozen=True)
class Array:
    """A flat array: its address, its length, its element type."""

    pointer: Value
    length: Value
    dtype: str


Kind: TypeAlias = str
"""What a parameter or a result is: "i64", "double", "i1", "" for nothing, or "[u8]", an array."""

NUMBERS: Mapping[Any, Kind] = {int: "i64", float: "double", bool: "i1", None: "", type(None): ""}
ELEMENTS: Mapping[str, str] = STORED | {"u64": "i64", "u128": "i128"}
"""What an element of an array is in memory; the last two are masks."""

MASKS = {"u64": "i64", "u128": "i128"}


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


def annotated(body: Callable[..., Any]) -> dict[str, Any]:
    """What a function says of its parameters and its result, `return`."""
    hints = hints_of(body)
    names = [*parameters_named(body), "return"]
    if missing := [name for name in names if name not in hints]:
        raise RestrictedError(f"{body.__name__}: {missing[0]!r} must be annotated")
    return {name: hints[name] for name in names}


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
