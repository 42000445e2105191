"""Programs with mistakes in them: bytes changed under a fitting checksum, and fields changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from random import Random
from typing import Any

from infinisa.isa.encoding import HEADER, MAGIC, VERSION, checksum
from infinisa.isa.program import Program

Path = tuple[str | int, ...]


def with_checksum(body: bytes) -> bytes:
    """A file of this body that is not found damaged."""
    return MAGIC + bytes([VERSION]) + checksum(body) + body


def mutated_bytes(random: Random, data: bytes, other: bytes) -> bytes:
    """The file with up to three of its bytes or runs of bytes flipped, put in or taken out."""
    body = bytearray(data[HEADER:])
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(body)) if body else 0
        match random.randrange(5):
            case 0:
                body[at : at + 1] = bytes([random.randrange(256)])
            case 1 if body:
                body[at] ^= 1 << random.randrange(8)
            case 2:
                body[at:at] = random.randbytes(random.randint(1, 4))
            case 3:
                del body[at : at + random.randint(1, 8)]
            case _:
                start = random.randrange(HEADER, len(other))
                body[at : at + random.randint(0, 8)] = other[start : start + random.randint(0, 8)]
    return with_checksum(bytes(body))


def mutated_program(random: Random, program: Program) -> Program:
    """The program with up to three of its fields changed."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        spots = list(places(program))
        path = random.choice(spots)
        strings = sorted({s for p in spots if isinstance(s := at_path(program, p), str)})
        alike = [at_path(program, p) for p in spots if kind(p) == kind(path)]
        value = at_path(program, path)
        new = changed(random, value, strings, alike)
        if value is None:
            new = new or {"fill": 0.5, "fresh": ()}.get(str(path[-1]))
        elif isinstance(value, tuple) and kind(path)[-2:] in RECORDS:
            new = random.choice(alike)
        program = with_path(program, path, new)
    return program


RECORDS = {(name, "") for name in ("binding", "immediates", "limits", "axes", "lifetimes", "terms")}
"""Where tuples have a meaning for each of their items."""


def kind(path: Path) -> tuple[str, ...]:
    """The path without numbers: what the value there is."""
    return tuple(key if isinstance(key, str) else "" for key in path)


def places(node: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all fields and items below a node, of which each may be changed."""
    if is_dataclass(node):
        for field in fields(node):
            yield (*path, field.name)
            yield from places(getattr(node, field.name), (*path, field.name))
    elif isinstance(node, tuple):
        for number, item in enumerate(node):
            yield (*path, number)
            yield from places(item, (*path, number))


def at_path(node: Any, path: Path) -> Any:
    for key in path:
        node = getattr(node, key) if isinstance(key, str) else node[key]
    return node


def with_path(node: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    key, rest = path[0], path[1:]
    if isinstance(key, str):
        return replace(node, **{key: with_path(getattr(node, key), rest, new)})
    return (*node[:key], with_path(node[key], rest, new), *node[key + 1 :])


def changed(random: Random, value: Any, strings: list[str], alike: list[Any]) -> Any:
    """A value of the same type that is (most of the time) another one."""
    same = [other for other in alike if value is None or type(other) is type(value)]
    if random.random() < 0.3 and same:
        return random.choice(same)
    match value:
        case bool():
            return not value
        case int():
            near = (value + 1, value - 1, value + 2, 2 * value, value // 2, random.randint(0, 20))
            far = (0, 1, -1, 2**31 - 1, 2**31, 2**33, 2**40, -(2**31), 2**62)
            return random.choice(near if random.random() < 0.7 else far)
        case float():
            return random.choice((0.0, 0.5, -1.5, 300.0, 1e300, float("inf"), float("nan")))
        case str():
            return random.choice((*strings, *strings, "", "nothing"))
        case None:
            return random.choice(same)
        case tuple():
            return changed_items(random, value)
    return random.choice(same)


def changed_items(random: Random, items: tuple[Any, ...]) -> tuple[Any, ...]:
    """An item less, one twice, or two that change places."""
    if not items:
        return items
    i, j = random.randrange(len(items)), random.randrange(len(items))
    match random.randrange(3):
        case 0:
            return (*items[:i], *items[i + 1 :])
        case 1:
            return (*items[:i], items[j], *items[i:])
    swapped = list(items)
    swapped[i], swapped[j] = items[j], items[i]
    return tuple(swapped)
