"""LLVM code as text: values that know their type, a function under construction, compilation."""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import llvmlite.binding as llvm

from ..cache import remembered
from .half import conversions
from .processor import Target

FLOATS = ("half", "float", "double")
BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "i128": 16,
         "half": 2, "float": 4, "double": 8}  # fmt: skip


class Value(NamedTuple):
    """Something computed: its text in the code, its element kind, how many lanes it has."""

    text: str
    kind: str
    width: int = 1

    @property
    def type(self) -> str:
        return typed(self.kind, self.width)

    @property
    def constant(self) -> bool:
        return not self.text.startswith(("%", "@"))


Number: TypeAlias = "int | Value"
"""An i64: known while the code is written, or when it runs."""


def typed(kind: str, width: int) -> str:
    return kind if width == 1 else f"<{width} x {kind}>"


def parameter(name: str, kind: str) -> Value:
    """Of a function, by its type, behind which there may be what LLVM is told of a pointer."""
    if kind.startswith("<"):
        width, _, element = kind[1:-1].partition(" x ")
        return Value(f"%{name}", element, int(width))
    return Value(f"%{name}", kind.split()[0])


def literal(kind: str, value: float | int | bool) -> str:
    """A number of this kind as LLVM writes it, exact; of whole numbers infinities are the ends."""
    if kind == "i1":
        return "true" if value else "false"
    if kind in ("float", "half"):
        value = ctypes.c_float(value).value  # too large is infinite
    if kind in FLOATS:
        return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"
    if math.isinf(value):
        least = -1 << (int(kind[1:]) - 1)
        return str(least if value < 0 else ~least)
    return str(int(value))


def constant(kind: str, value: float | int | bool, width: int = 1) -> Value:
    text = literal(kind, value)
    return Value(text if width == 1 else f"splat ({kind} {text})", kind, width)


@dataclass
class Module:
    """Functions for a processor, and what they need from outside."""

    target: Target = field(default_factory=Target.host)
    functions: list[str] = field(default_factory=list)
    declarations: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    tables: dict[str, str] = field(default_factory=dict)

    def table(self, kind: str, items: Sequence[int | str]) -> Value:
        """Constants in memory: numbers, or names of functions as pointers."""
        listed = ", ".join(f"{kind} {item}" for item in items)
        title = f"@table{len(self.tables)}"
        title = self.tables.setdefault(f"[{len(items)} x {kind}] [{listed}]", title)
        return Value(title, "ptr")

    @property
    def text(self) -> str:
        head = [f'target triple = "{self.target.triple}"', *sorted(self.declarations)]
        tables = [f"{title} = internal constant {held}" for held, title in self.tables.items()]
        source = "\n".join([*head, *tables, *self.functions])
        return source + conversions(source, self.target.converts_half)


SOON = "noinline optnone"
"""A function that had better be written soon than fast."""

Body: TypeAlias = Callable[[Value, list[Value]], Sequence[Value] | None]
Argument: TypeAlias = "tuple[str, Number]"
"""Of a call: its type and what it is."""


NAMED = re.compile(r"%v(\d+)")


@dataclass
class Early:
    """What is computed in front of scopes that stand beside each other.

    first  how much was computed before them, `depth` of the scopes
    """

    first: int
    depth: int
    lines: list[str] = field(default_factory=list)
    known: dict[str, Value] = field(default_factory=dict)
    names: set[int] = field(default_factory=set)

    def value(self, f: Function, kind: str, width: int, text: str) -> Value | None:
        """A value, if it needs nothing of the scopes."""
        found = self.known.get(text)
        if found is None and f.depth == self.depth and self.before(text):
            lines, f.lines = f.lines, self.lines
            found = self.known[text] = f.emit(kind, width, text)
            f.lines = lines
            self.names.add(f.count)
        return found

    def before(self, text: str) -> bool:
        numbers = map(int, NAMED.findall(text))
        return all(number <= self.first or number in self.names for number in numbers)


class Function:
    """A function under construction: every method adds code at its end.

    parameters  names and types; a pointer may be "ptr noalias"
    inline      whether calls of it are written out, for LLVM: "noinline", "alwaysinline", "" (as
                it thinks good), SOON
    """

    def __init__(
        self,
        module: Module,
        name: str,
        parameters: Sequence[tuple[str, str]],
        public: bool = False,
        result: str = "",
        inline: str = "noinline",
    ) -> None:
        self.module, self.name = module, name
        self.parameters = {name: parameter(name, kind) for name, kind in parameters}
        listed = ", ".join(f"{kind} %{name}" for name, kind in parameters)
        linkage = "" if public else "internal "
        hint = f" {inline}" if inline else ""
        self.head = f"define {linkage}{result or 'void'} @{name}({listed}){hint} nounwind {{"
        self.lines: list[str] = []
        self.count = 0
        self.block = "entry"
        self.known: dict[str, Value] = {}
        self.depth = 0
        self.early: Early | None = None
        self.sums: dict[Value, tuple[Value, int]] = {}
        self.products: dict[Value, tuple[Value, int]] = {}

    # -- lines

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def fresh(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def emit(self, kind: str, width: int, text: str) -> Value:
        self.count += 1
        name = f"%v{self.count}"
        self.lines.append(f"  {name} = {text}")
        return Value(name, kind, width)

    def pure(self, kind: str, width: int, text: str) -> Value:
        """The same, of what neither reads nor writes memory: as it was computed before, if it was
        on every way to here."""
        found = self.known.get(text)
        if found is None and self.early:
            found = self.early.value(self, kind, width, text)
        if found is None:
            found = self.known[text] = self.emit(kind, width, text)
        return found

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is computed inside is not known behind it."""
        known, before = self.known, len(self.known)
        self.depth += 1
        yield
        self.depth -= 1
        while len(known) > before:
            known.popitem()
        self.known = known if self.known is known else {}

    @contextmanager
    def beside(self) -> Iterator[list[str]]:
        """Scopes directly inside share what they compute of what was there before: the lines for
        that, to be put in front of them."""
        outer = self.early
        self.early = early = Early(self.count, self.depth + 1)
        yield early.lines
        self.early = outer
        self.known.update(early.known)

    def label(self) -> str:
        self.count += 1
        return f"L{self.count}"

    def place(self, label: str) -> None:
        """Code that may be reached from anywhere."""
        self.known = {}
        self.begin(label)

    def begin(self, label: str) -> None:
        """A block that only the one before it leads to, or only blocks that this one does."""
        self.lines.append(f"{label}:")
        self.block = label

    def jump(self, label: str) -> None:
        self.line(f"br label %{label}")

    def branch(self, condition: Value, yes: str, no: str) -> None:
        self.line(f"br i1 {condition.text}, label %{yes}, label %{no}")

    def done(self) -> None:
        """End the function and put it into its module."""
        self.finish()
        self.close()

    def finish(self, value: Value | None = None) -> None:
        """Return from the function."""
        self.line(f"ret {value.type} {value.text}" if value else "ret void")

    def close(self) -> None:
        self.module.functions.append("\n".join([self.head, "entry:", *self.lines, "}"]))

    # -- control

    def loop(
        self,
        first: Number,
        last: Number,
        step: Number | None,
        body: Body,
        carried: Sequence[Value] = (),
    ) -> list[Value]:
        """for i from first, below last, by step (None: the body returns it, before the others);
        `carried` values go from turn to turn."""
        before, head, inside, out = self.block, self.label(), self.label(), self.label()
        self.jump(head)
        self.begin(head)
        index = Value(self.fresh(), "i64")
        values = [Value(self.fresh(), value.kind, value.width) for value in carried]
        at = len(self.lines)
        self.lines += [""] * (1 + len(values))
        self.branch(self.compare("slt", index, number(last)), inside, out)
        self.begin(inside)
        with self.scope():
            after = list(body(index, values) or ())
            by = after.pop(0) if step is None else step
            following = self.pure("i64", 1, f"add nsw i64 {index.text}, {text(by)}")
        latch = self.block
        self.jump(head)
        pairs = [(index, number(first), following), *zip(values, carried, after, strict=True)]
        for offset, (value, start, result) in enumerate(pairs):
            self.lines[at + offset] = (
                f"  {value.text} = phi {value.type} "
                f"[{start.text}, %{before}], [{result.text}, %{latch}]"
            )
        self.begin(out)
        return values

    def when(self, condition: Value, body: Callable[[], None]) -> None:
        """if condition: body()"""
        yes, out = self.label(), self.label()
        self.branch(condition, yes, out)
        self.begin(yes)
        with self.scope():
            body()
        self.jump(out)
        self.begin(out)

    def either(
        self,
        condition: Value,
        yes: Callable[[], Sequence[Value]],
        no: Callable[[], Sequence[Value]],
    ) -> list[Value]:
        """The values of one of two branches."""
        labels = self.label(), self.label(), self.label()
        self.branch(condition, labels[0], labels[1])
        ends = []
        for label, side in zip(labels[:2], (yes, no), strict=True):
            self.begin(label)
            with self.scope():
                values = list(side())
            ends.append((self.block, values))
            self.jump(labels[2])
        self.begin(labels[2])
        (one, left), (two, right) = ends
        return [
            self.emit(a.kind, a.width, f"phi {a.type} [{a.text}, %{one}], [{b.text}, %{two}]")
            for a, b in zip(left, right, strict=True)
        ]

    # -- whole numbers, folded where they are known

    def add(self, a: Number, b: Number) -> Number:
        if isinstance(a, int):
            a, b = b, a
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        if isinstance(a, int):
            return self.pure("i64", 1, f"add nsw i64 {a}, {text(b)}")
        base, known = self.sums.get(a, (a, 0))
        if isinstance(b, Value):
            other, more = self.sums.get(b, (b, 0))
            if known or more:  # what is known last: it is part of an address
                return self.add(self.add(base, other), known + more)
            return self.pure("i64", 1, f"add nsw i64 {a.text}, {b.text}")
        if b == 0 or known + b == 0:
            return a if b == 0 else base
        found = self.pure("i64", 1, f"add nsw i64 {base.text}, {known + b}")
        self.sums[found] = base, known + b
        return found

    def known_part(self, a: Number) -> int:
        """The number that was added last, if it was known."""
        return a if isinstance(a, int) else self.sums.get(a, (a, 0))[1]

    def subtract(self, a: Number, b: Number) -> Number:
        if isinstance(b, int):
            return self.add(a, -b)
        if isinstance(a, Value):
            (base, more), (other, less) = self.sums.get(a, (a, 0)), self.sums.get(b, (b, 0))
            if base == other:
                return more - less
        return self.pure("i64", 1, f"sub nsw i64 {text(a)}, {text(b)}")

    def multiply(self, a: Number, b: Number) -> Number:
        if isinstance(a, int):
            a, b = b, a
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if b == 0 or b == 1:
            return 0 if b == 0 else a
        if isinstance(a, int) or not isinstance(b, int):
            return self.pure("i64", 1, f"mul nsw i64 {text(a)}, {text(b)}")
        base, known = self.products.get(a, (a, 1))
        found = self.pure("i64", 1, f"mul nsw i64 {base.text}, {known * b}")
        self.products[found] = base, known * b
        return found

    def minimum(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        return self.intrinsic("smin", [number(a), number(b)])

    def maximum(self, a: Number, b: Number) -> Number:
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        return self.intrinsic("smax", [number(a), number(b)])

    def ceil_divide(self, a: Number, b: Number) -> Number:
        """a / b rounded up, for a >= 0 and b > 0."""
        return self.divide(self.add(a, self.subtract(b, 1)), b)

    def divide(self, a: Number, b: Number) -> Number:
        """a / b rounded down, for a >= 0 and b > 0."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if b == 1 else self.pure("i64", 1, f"udiv i64 {text(a)}, {text(b)}")

    def whole(self, a: Number, b: int) -> Number:
        """The largest multiple of b up to a, for a >= 0."""
        if isinstance(a, int) or b == 1:
            return a // b * b if isinstance(a, int) else a
        if b & (b - 1) == 0:
            return self.pure("i64", 1, f"and i64 {text(a)}, {-b}")
        rest = self.pure("i64", 1, f"urem i64 {text(a)}, {b}")
        return self.subtract(a, rest)

    # -- values of any kind

    def splat(self, value: Value, width: int) -> Value:
        """The same number in all lanes."""
        if value.width == width:
            return value
        assert value.width == 1, value
        if value.constant:
            return Value(f"splat ({value.kind} {value.text})", value.kind, width)
        kind = typed(value.kind, width)
        one = self.pure(
            value.kind, width, f"insertelement {kind} poison, {value.type} {value.text}, i64 0"
        )
        return self.pure(
            value.kind,
            width,
            f"shufflevector {kind} {one.text}, {kind} poison, <{width} x i32> zeroinitializer",
        )

    def match(self, *values: Value) -> list[Value]:
        """All with the lanes of the widest."""
        width = max([value.width for value in values])
        return [x if x.width == width else self.splat(x, width) for x in values]

    def binary(self, operation: str, a: Value, b: Value) -> Value:
        a, b = self.match(a, b)
        return self.pure(a.kind, a.width, f"{operation} {a.type} {a.text}, {b.text}")

    def compare(self, how: str, a: Value, b: Value) -> Value:
        a, b = self.match(a, b)
        word = "fcmp" if a.kind in FLOATS else "icmp"
        return self.pure("i1", a.width, f"{word} {how} {a.type} {a.text}, {b.text}")

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        if condition.width == 1:
            a, b = self.match(a, b)
            if condition.constant:
                return a if condition.text == "true" else b
        else:
            condition, a, b = self.match(condition, a, b)
        return self.pure(
            a.kind,
            a.width,
            f"select {condition.type} {condition.text}, {a.type} {a.text}, {b.type} {b.text}",
        )

    def convert(self, operation: str, value: Value, kind: str) -> Value:
        """A conversion by its name in LLVM, such as `sext` or `bitcast`, lane by lane."""
        target = typed(kind, value.width)
        return self.pure(kind, value.width, f"{operation} {value.type} {value.text} to {target}")

    def intrinsic(self, name: str, arguments: Sequence[Value], flags: str = "") -> Value:
        """`llvm.<name>` on arguments of one type, with a result of that type."""
        arguments = self.match(*arguments)
        first = arguments[0]
        called = self.called(f"llvm.{name}.{mangled(first)}", first.kind, arguments, flags)
        return self.pure(first.kind, first.width, called)

    def call(self, name: str, kind: str, arguments: Sequence[Value]) -> Value:
        """Call an outside function whose result has the lanes of its arguments."""
        return self.emit(kind, arguments[0].width, self.called(name, kind, arguments))

    def called(self, name: str, kind: str, arguments: Sequence[Value], flags: str = "") -> str:
        """The text of a call."""
        result = typed(kind, arguments[0].width)
        types = [value.type for value in arguments]
        self.module.declarations.add(f"declare {result} @{name}({', '.join(types)})")
        pairs = zip(types, arguments, strict=True)
        given = ", ".join(f"{type_} {value.text}" for type_, value in pairs)
        return f"call {flags} {result} @{name}({given})"

    def extract(self, value: Value, lane: int) -> Value:
        if value.width == 1:
            return value
        return self.pure(value.kind, 1, f"extractelement {value.type} {value.text}, i64 {lane}")

    def halves(self, value: Value) -> tuple[Value, Value]:
        """The lower and the upper lanes."""
        half = value.width // 2
        found = []
        for first in (0, half):
            lanes = ", ".join(f"i32 {lane}" for lane in range(first, first + half))
            found.append(
                self.pure(
                    value.kind,
                    half,
                    f"shufflevector {value.type} {value.text}, {value.type} poison, "
                    f"<{half} x i32> <{lanes}>",
                )
                if half > 1
                else self.extract(value, first)
            )
        return found[0], found[1]

    def shuffle(self, a: Value, b: Value, lanes: Sequence[int]) -> Value:
        """Lanes of two vectors by their numbers: those of b count on from those of a."""
        picks = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.pure(
            a.kind,
            len(lanes),
            f"shufflevector {a.type} {a.text}, {b.type} {b.text}, <{len(lanes)} x i32> <{picks}>",
        )

    def lane_numbers(self, kind: str, width: int, step: int = 1, first: int = 0) -> Value:
        """first, first + step, first + 2 * step, ..."""
        numbers = ", ".join(f"{kind} {first + lane * step}" for lane in range(width))
        return Value(f"<{numbers}>" if width > 1 else str(first), kind, width)

    # -- memory

    def at(self, pointer: Value, index: Number, kind: str = "i8") -> Value:
        """The address of element `index`."""
        if index == 0:
            return pointer
        kind = "i8" if kind == "i1" else kind
        return self.pure("ptr", 1, f"getelementptr {kind}, ptr {pointer.text}, i64 {text(index)}")

    def load(self, pointer: Value, kind: str, width: int = 1, mask: Value | None = None) -> Value:
        size = BYTES.get(kind, 8)
        kind_ = typed(kind, width)
        if mask is None:
            return self.emit(kind, width, f"load {kind_}, ptr {pointer.text}, align {size}")
        name = f"llvm.masked.load.v{width}{short(kind)}.p0"
        self.module.declarations.add(f"declare {kind_} @{name}(ptr, i32, {mask.type}, {kind_})")
        return self.emit(
            kind,
            width,
            f"call {kind_} @{name}(ptr {pointer.text}, i32 {size}, "
            f"{mask.type} {mask.text}, {kind_} zeroinitializer)",
        )

    def store(
        self, value: Value, pointer: Value, mask: Value | None = None, past: bool = False
    ) -> None:
        """`past`: whole lines of memory, which no cache should keep."""
        size = BYTES.get(value.kind, 8)
        if past:
            self.module.declarations.add("!0 = !{i32 1}")
            self.line(
                f"store {value.type} {value.text}, ptr {pointer.text}, "
                f"align {size * value.width}, !nontemporal !0"
            )
            return
        if mask is None:
            self.line(f"store {value.type} {value.text}, ptr {pointer.text}, align {size}")
            return
        name = f"llvm.masked.store.v{value.width}{short(value.kind)}.p0"
        self.module.declarations.add(f"declare void @{name}({value.type}, ptr, i32, {mask.type})")
        self.line(
            f"call void @{name}({value.type} {value.text}, ptr {pointer.text}, i32 {size}, "
            f"{mask.type} {mask.text})"
        )

    def addresses(self, pointer: Value, lanes: Value, kind: str) -> Value:
        """The addresses of the elements that `lanes` number."""
        kind = "i8" if kind == "i1" else kind
        return self.pure(
            "ptr",
            lanes.width,
            f"getelementptr {kind}, ptr {pointer.text}, {lanes.type} {lanes.text}",
        )

    def gather(self, addresses: Value, kind: str, mask: Value | None = None) -> Value:
        width, size = addresses.width, BYTES[kind]
        kind_, bits = typed(kind, width), typed("i1", width)
        name = f"llvm.masked.gather.v{width}{short(kind)}.v{width}p0"
        self.module.declarations.add(
            f"declare {kind_} @{name}({addresses.type}, i32, {bits}, {kind_})"
        )
        on = mask.text if mask else "splat (i1 true)"
        return self.emit(
            kind,
            width,
            f"call {kind_} @{name}({addresses.type} {addresses.text}, i32 {size}, "
            f"{bits} {on}, {kind_} zeroinitializer)",
        )

    def scatter(self, value: Value, addresses: Value, mask: Value | None = None) -> None:
        width, bits = value.width, typed("i1", value.width)
        name = f"llvm.masked.scatter.v{width}{short(value.kind)}.v{width}p0"
        self.module.declarations.add(
            f"declare void @{name}({value.type}, {addresses.type}, i32, {bits})"
        )
        on = mask.text if mask else "splat (i1 true)"
        self.line(
            f"call void @{name}({value.type} {value.text}, {addresses.type} {addresses.text}, "
            f"i32 {BYTES[value.kind]}, {bits} {on})"
        )

    def prefetch(self, pointer: Value, cache: int = 1) -> None:
        """Ask for a line of memory, into the first cache or only the second."""
        self.module.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        near = 4 - cache
        self.line(f"call void @llvm.prefetch.p0(ptr {pointer.text}, i32 0, i32 {near}, i32 1)")

    def run(self, code: str | Value, arguments: Sequence[Argument]) -> None:
        """Call a function of this module, by its name or where it is."""
        given = ", ".join(f"{kind} {text(value)}" for kind, value in arguments)
        self.line(f"call void {code.text if isinstance(code, Value) else f'@{code}'}({given})")

    def call_outside(self, name: str, arguments: Sequence[Argument]) -> None:
        """Call a function of another module."""
        types = ", ".join(kind for kind, _ in arguments)
        self.module.declarations.add(f"declare void @{name}({types})")
        self.run(name, arguments)


def text(value: Number) -> str:
    return str(value) if isinstance(value, int) else value.text


def number(value: Number) -> Value:
    return Value(str(value), "i64") if isinstance(value, int) else value


def short(kind: str) -> str:
    return {"half": "f16", "float": "f32", "double": "f64", "ptr": "p0"}.get(kind, kind)


def mangled(value: Value) -> str:
    """How intrinsics name a type."""
    return short(value.kind) if value.width == 1 else f"v{value.width}{short(value.kind)}"


# ---------------------------------------------------------------- compilation


@dataclass(frozen=True, eq=False)
class Code:
    """Native code of `size` bytes in this process. It is unloaded with the last reference."""

    addresses: dict[str, int]
    size: int
    tracker: Any


def compile_text(
    source: str,
    names: Sequence[str],
    optimise: bool,
    *,
    target: Target | None = None,
    cache: bool = False,
    more: str = "",
) -> Code:
    """LLVM text to native code.

    optimise  run LLVM's passes, which vector code does not need
    target    default: this processor
    more      another module that the first one calls; it is always optimised
    """
    target = target or Target.host()
    images = [image(source, optimise, target, cache)]
    if more:
        images.append(image(more, True, target, cache))
    return link(images, names)


def image(source: str, optimise: bool, target: Target, cache: bool) -> bytes:
    """An object file, perhaps from an earlier run."""
    how = f"{optimise} {target.triple} {target.cpu} {target.flags}"
    return remembered(source, how, lambda: to_object(source, optimise, target=target), cache)


def to_object(
    source: str, optimise: bool, passes: Sequence[str] = (), target: Target | None = None
) -> bytes:
    """Native code for text; `passes` are those of LLVM to run if not all that it thinks good."""
    with generator(target or Target.host(), optimise or bool(passes)) as machine:
        return bytes(machine.emit_object(lowered(source, optimise, passes, machine)))


def to_assembler(source: str, target: Target, optimise: bool = False) -> str:
    """The instructions of the processor, as text."""
    with generator(target, optimise) as machine:
        return str(machine.emit_assembly(lowered(source, optimise, (), machine)))


SPARED = ("-disable-lsr", "-disable-post-ra", "-disable-copyprop")
"""What LLVM's code generation leaves out for code in vectors, which gains nothing by it, a third of
all the time: a search for cheaper addresses in loops, a second order of instructions, a search for
copies of registers that nothing needs. Options of the process."""


@cache
def machine_of(target: Target) -> Any:
    """One for all code that is made for a processor; that of the linker is its own."""
    return target.machine()


@contextmanager
def generator(target: Target, improve: bool) -> Iterator[Any]:
    """LLVM's code generation for a processor; `improve`: all of it."""
    machine = machine_of(target)
    if improve:
        yield machine
        return
    for option in SPARED:
        llvm.set_option("infinisa", f"{option}=true")
    try:
        yield machine
    finally:
        for option in SPARED:
            llvm.set_option("infinisa", f"{option}=false")


def lowered(source: str, optimise: bool, passes: Sequence[str], machine: Any) -> Any:
    """LLVM's module of a text, verified, behind its passes."""
    module = llvm.parse_assembly(source)
    module.verify()
    if passes:
        chosen = llvm.create_new_module_pass_manager()
        for name in passes:
            getattr(chosen, f"add_{name}_pass")()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        chosen.run(module, llvm.create_pass_builder(machine, options))
    elif optimise:
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = True
        options.slp_vectorization = True
        builder = llvm.create_pass_builder(machine, options)
        builder.getModulePassManager().run(module, builder)
    return module


def link(images: Sequence[bytes], names: Sequence[str]) -> Code:
    """Object files into this process."""
    builder = llvm.JITLibraryBuilder()
    for image in images:
        builder.add_object_img(image)
    builder.add_current_process()
    for name in names:
        builder.export_symbol(name)
    tracker = builder.link(linker(), f"program{next(_libraries)}")
    return Code({name: tracker[name] for name in names}, sum(map(len, images)), tracker)


_libraries = itertools.count()


@cache
def linker() -> Any:
    """One for the whole process; programs come and go as libraries of it."""
    return llvm.create_lljit_compiler(Target.host().machine())
