"""Functions that differ in numbers and names only become one, which is told where those are.

That is code which computes with addresses, copies and calls: loops over the tiles of products above
all. What computes with numbers of a tensor stays as it is, made for the numbers that it knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .ir import SOON, Module

HEAD = re.compile(r"define (internal )?void @(\w+)\((.*)\) noinline nounwind {\n")
COMPUTES = "= f", "@llvm.f", "tofp"
OPERATION = re.compile(
    r"  (?:%\w+ = (?:(?:add|sub|mul|udiv|urem|and|icmp|phi)[a-z ]* i64|select|getelementptr|call) "
    r"|call void )"
)
WORD = re.compile(r"(?<=i64 )-?\d+|(?<=[%\w], )-?\d+$|(?<=\[)-?\d+(?=, %)|@(?!llvm)\w+")
TAKEN = re.compile(r"ptr @(\w+)")
HOLE = "\0"


@dataclass(frozen=True)
class Text:
    """A function: its name, what it takes, its lines with holes, and what is in these.

    inner  only functions of the module call it
    """

    name: str
    inner: bool
    parameters: str
    lines: str
    words: Sequence[str]

    @classmethod
    def of(cls, code: str) -> Text:
        head = HEAD.match(code)
        assert head
        words: list[str] = []
        lines = code[head.end() :].split("\n")
        for place, line in enumerate(lines):
            if OPERATION.match(line) and "<" not in line:
                words += WORD.findall(line)
                lines[place] = WORD.sub(HOLE, line)
        return cls(head[2], bool(head[1]), head[3], "\n".join(lines), words)


def merge(module: Module) -> None:
    """Merge a module's functions, and call what they become."""
    taken = {*TAKEN.findall("\n".join([*module.tables, *module.functions]))}
    likely: dict[tuple[str, int], list[int]] = {}
    for place, code in enumerate(module.functions):
        head = HEAD.match(code)
        if head and head[2] not in taken and not any(word in code for word in COMPUTES):
            likely.setdefault((head[3], code.count("\n")), []).append(place)
    groups: dict[tuple[str, str], list[tuple[int, Text]]] = {}
    for places in likely.values():
        for place in places if len(places) > 1 else ():
            text = Text.of(module.functions[place])
            groups.setdefault((text.parameters, text.lines), []).append((place, text))
    made: list[str] = []
    gone: set[int] = set()
    calls: dict[str, str] = {}
    for group in groups.values():
        if len(group) > 1:
            gone |= {place for place, _ in group}
            made += _one([text for _, text in group], module, calls)
    if gone:
        names = re.compile(rf"call void @({'|'.join(calls)})\(")
        left = [code for place, code in enumerate(module.functions) if place not in gone]
        left = [names.sub(lambda found: calls[found[1]], code) for code in left]
        module.functions = [*left, *made]


def _one(texts: Sequence[Text], module: Module, calls: dict[str, str]) -> list[str]:
    """The function in the place of some, and those that are called from outside, which call it.

    calls  how a call of each begins now
    """
    first, given = texts[0], dict[tuple[str, ...], int]()
    words = []
    for column in zip(*(text.words for text in texts), strict=True):
        same = column.count(column[0]) == len(column)
        words.append(column[0] if same else f"%given{given.setdefault(column, len(given))}")
    loads = "".join(_load(number, column[0]) for column, number in given.items())
    label, lines = _filled(first.lines, words).split("\n", 1)
    name = f"alike_{first.name}"
    head = f"define internal void @{name}(ptr noalias %given, {first.parameters})"
    made = [f"{head} noinline nounwind {{\n{label}\n{loads}{lines}"]
    for place, text in enumerate(texts):
        table = module.table("i64", [_number(column[place]) for column in given])
        call = calls[text.name] = f"call void @{name}(ptr {table.text}, "
        if not text.inner:
            arguments = text.parameters.replace(" noalias", "")
            head = f"define void @{text.name}({text.parameters}) {SOON} nounwind {{"
            made.append(f"{head}\nentry:\n  {call}{arguments})\n  ret void\n}}")
    return made


def _number(word: str) -> str:
    return f"ptrtoint (ptr {word} to i64)" if word.startswith("@") else word


def _load(number: int, word: str) -> str:
    kind = "ptr" if word.startswith("@") else "i64"
    place = f"  %given_at{number} = getelementptr i64, ptr %given, i64 {number}\n"
    return f"{place}  %given{number} = load {kind}, ptr %given_at{number}, align 8\n"


def _filled(lines: str, words: Iterable[str]) -> str:
    pieces = lines.split(HOLE)
    return pieces[0] + "".join(w + piece for w, piece in zip(words, pieces[1:], strict=True))
