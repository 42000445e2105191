"""Contractions with weights that are integers: rows of the other side become integers when used.

Products are summed in i32, which is exact, so with one digit every processor finds the same
numbers. With three digits a row is in 2^24 steps between plus and minus its largest number, as good
as f32, and a sum has three parts; with two, which weights in groups meet, in 2^16. With one digit
it is in 255 steps between its smallest and its largest number, or 0: where 0 is there, `zero`, is
the same for a whole row, and what it adds is that times the sum of a column's weights, which is
kept behind the panel. For a piece of k there is no such sum, and 0 is in the middle. A number that
is not finite makes its row NaN.

Weights may count from the middle of what a byte holds, so a sum of products is less by that times
the sum of the row's digits: [step f32, zero i32, ...][first digits][second][third][sums of the
digits of each group i32]. Digits are s8, the first is the highest. Where pairs of i16 are
multiplied they are i16, two of twelve bits instead of three, one instead of two; bytes of weights
are widened as they are loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Literal

from ..code.functions import multiply_add
from ..code.ir import BYTES, Function, Module, Number, Value, constant, typed
from ..code.processor import LINE, Target
from ..expressions.expression import Env, Index, Place
from .microkernels import kernel, lane_count
from .packing import tile_vectors, vector_lanes
from .quantised import TURN, Form, group_offset, halves, load_factors

if TYPE_CHECKING:
    from .panels import Panels
    from .weights import Kept

AHEAD = 2048
"""Bytes ahead of what it reads for which a tile of several panels asks that has weights of 4 bits:
so much is computed with each line that the processor asks for too little in time."""

HEAD = LINE
"""Bytes before the digits of a row."""

ZERO = 4
"""Where `zero` is in a row."""

SHIFTER = 1.5 * 2.0**23
SHIFTER_BITS = 0x4B400000
"""Added to a number that is small beside it, it rounds that to an integer: its lowest bits."""

LONG = 8192
"""Products of digits of twelve bits whose sum an i32 surely holds."""

FOUR = 4
"""Steps of a turn where products are added by an operation of their own: LLVM sums up those of a
longer turn in another order, and has no registers left for that."""

CHAINS = 4
"""Of operations side by side, where each waits for the one before it."""

LEAST = 1e-30
"""A row of numbers nearer to 0 than that is 0: the reciprocal of its step may be infinite."""


@dataclass(frozen=True)
class Digits:
    """How a number of a row is stored: `count` integers of `bits`, each in an element of `kind`."""

    count: int
    bits: int = 8
    kind: Literal["i8", "i16"] = "i8"

    @property
    def bytes(self) -> int:
        """Of a number."""
        return self.count * BYTES[self.kind]

    @property
    def most(self) -> int:
        """A little less than the largest number, so that none is above it when rounded."""
        return 127 << self.count * self.bits - 8

    @property
    def name(self) -> str:
        return f"{self.count}_{self.bits}_{self.kind}"


def row_digits(form: Form, target: Target, steps: int) -> Digits:
    """Of rows with up to so many numbers."""
    if form.side == 4:
        return Digits(form.digits)
    if form.digits == 2:  # an i32 holds the sums of a group
        return Digits(1, 16, "i16")
    if form.digits == 3 and steps <= LONG:
        return Digits(2, 12, "i16")
    return Digits(form.digits, 8, "i16")


def rounded_rows(panels: Panels, kept: Kept) -> Panels:
    """The same contraction over rows of S in integers, in scratch memory."""
    emitter, f, rows, (form, _) = panels.emitter, panels.f, panels.sides.rows, kept.integers
    s = panels.s
    if len(panels.over) > 1 or s.strides[panels.over[0]] != 1:
        s = emitter.pack(panels.sides.s, (*rows, *panels.over), "f32", panels.env)
        panels = replace(panels, s=s).flattened()
        s = panels.s
    (over,) = panels.over
    most, target = emitter.frame.bounds[over], emitter.target
    digits = row_digits(form, target, most)
    sums = digits.count * BYTES["i32"] * (most // form.group if form.group else 1)
    size = HEAD + digits.bytes * (-(-most // LINE) * LINE) + -(-sums // LINE) * LINE
    strides: dict[str, Number] = {over: 1}
    for axis in reversed(rows):
        strides[axis] = size
        size *= emitter.frame.bounds[axis]
    made = Place(emitter.allot(size, "u8"), "u8", strides)
    name = rounding_kernel(f.module, form, digits, vector_lanes(target), kept.whole)

    def row(env: Env) -> None:
        env = {**env, over: Index(0)}
        places = [("ptr", emitter.base(place, env)) for place in (s, made)]
        f.run(name, [*places, ("i64", emitter.frame.length(over))])

    emitter.loops(rows, panels.env, row)
    return replace(panels, s=made)


# ---------------------------------------------------------------- a row in integers

ROUNDING = [("x", "ptr noalias"), ("row", "ptr noalias"), ("steps", "i64")]
"""Numbers, contiguous; where the row goes; how many numbers."""


def rounding_kernel(module: Module, form: Form, row: Digits, lanes: int, whole: bool) -> str:
    """`whole`: the sums of columns are those of all steps that the row has."""
    # long: a kernel is one piece
    moved = form.digits == 1 and whole
    name = f"round_{row.name}_{form.group}_{lanes}{'_moved' * moved}"
    f = kernel(module, name, ROUNDING)
    if f is None:
        return name
    p = f.parameters
    least, most, wrong = _range(f, lanes)
    if form.digits == 1:
        digits = _one_digit(f, lanes, least, most, wrong, moved)
    else:
        digits = _many_digits(f, lanes, row, least, most, wrong)
    *planes, behind = digit_planes(f, row, p["row"])

    def some(index: Value, sums: list[Value], mask: Value | None = None) -> list[Value]:
        value = f.load(f.at(p["x"], index, "float"), "float", lanes, mask)
        found = digits(value)
        for at, digit in zip(planes, found, strict=True):
            f.store(f.convert("trunc", digit, row.kind), f.at(at, index, row.kind))
        return [f.binary("add", *pair) for pair in zip(sums, found, strict=True)]

    def rest(index: Value, sums: list[Value]) -> list[Value]:
        """Numbers behind the last one are 0."""
        left = lane_count(f, f.subtract(p["steps"], index), lanes)
        return some(index, sums, f.compare("slt", f.lane_numbers("i32", lanes), left))

    zeros = [constant("i32", 0, lanes)] * row.count

    def group(first: Value, _: list[Value]) -> None:
        last = f.add(first, form.group)
        place = f.emit("i64", 1, f"udiv i64 {first.text}, {form.group}")
        _store_sums(f, f.loop(first, last, lanes, some, zeros), behind, place)

    if form.group:
        f.loop(0, p["steps"], form.group, group)
    else:
        full, padded = f.whole(p["steps"], lanes), f.whole(f.add(p["steps"], TURN - 1), TURN)
        sums = f.loop(0, full, lanes, some, zeros)
        _store_sums(f, f.loop(full, padded, lanes, rest, sums), behind, 0)
    f.done()
    return name


def digit_planes(f: Function, digits: Digits, row: Value) -> list[Value]:
    """Where the first digits of a row are, the second ones, ..., and what is behind them."""
    plane = f.whole(f.add(f.parameters["steps"], LINE - 1), LINE)
    each = f.multiply(plane, BYTES[digits.kind])
    return [f.at(f.at(row, f.multiply(each, d)), HEAD) for d in range(digits.count + 1)]


def _store_sums(f: Function, sums: list[Value], behind: Value, place: Number) -> None:
    """The sums of a group's digits, one number each."""
    for d, total in enumerate(sums):
        while total.width > 1:
            total = f.binary("add", *f.halves(total))
        f.store(total, f.at(behind, f.add(f.multiply(place, len(sums)), d), "i32"))


Divider = Callable[[Value], list[Value]]
"""Makes digits of numbers."""


def _one_digit(
    f: Function, lanes: int, least: Value, most: Value, wrong: Value, moved: bool
) -> Divider:
    """Of 255 steps; writes the head of the row. Unless 0 may be `moved`, it is in the middle."""
    below = f.binary("fsub", _nothing(), least)
    if not moved:
        below = most = _larger(f, most, below)
    row, span = f.parameters["row"], f.binary("fadd", most, below)
    inverse = _inverse(f, constant("float", 255), span)
    zero = f.intrinsic("rint", [f.binary("fmul", below, inverse)])
    zero = zero if moved else constant("float", 128)
    step = f.binary("fmul", span, constant("float", 1 / 255))
    f.store(f.binary("fadd", step, wrong), row)
    place = f.binary("fsub", zero, constant("float", 128))
    f.store(f.convert("fptosi", place, "i32"), f.at(row, ZERO))
    bottom = f.binary("fsub", _nothing(), zero)
    top = f.binary("fsub", constant("float", 255), zero)
    shift = f.binary("fadd", place, constant("float", SHIFTER))
    by, low, high, more = (f.splat(value, lanes) for value in (inverse, bottom, top, shift))

    def digits(value: Value) -> list[Value]:
        value = _smaller(f, _larger(f, f.binary("fmul", value, by), low), high)
        bits = f.convert("bitcast", f.binary("fadd", value, more), "i32")
        return [f.binary("sub", bits, constant("i32", SHIFTER_BITS))]

    return digits


def _many_digits(
    f: Function, lanes: int, row: Digits, least: Value, most: Value, wrong: Value
) -> Divider:
    """Of `row.most` steps to either side; writes the head of the row."""
    span = _larger(f, most, f.binary("fsub", _nothing(), least))
    inverse = _inverse(f, constant("float", row.most), span)
    step = f.binary("fdiv", span, constant("float", row.most))
    f.store(f.binary("fadd", step, wrong), f.parameters["row"])
    by = f.splat(inverse, lanes)

    def digits(value: Value) -> list[Value]:
        value = f.intrinsic("rint", [f.binary("fmul", value, by)])
        number = f.convert("fptosi", value, "i32")
        found: list[Value] = []
        for _ in range(row.count - 1):
            half, bits = constant("i32", 1 << row.bits - 1), constant("i32", row.bits)
            upper = f.binary("ashr", f.binary("add", number, half), bits)
            lower = f.binary("shl", upper, bits)
            found.append(f.binary("sub", number, lower))
            number = upper
        return [number, *reversed(found)]

    return digits


def _nothing() -> Value:
    return constant("float", 0)


def _inverse(f: Function, number: Value, span: Value) -> Value:
    wide = f.compare("ogt", span, constant("float", LEAST))
    return f.select(wide, f.binary("fdiv", number, span), _nothing())


def _range(f: Function, lanes: int) -> tuple[Value, Value, Value]:
    """(least, most, wrong) of the numbers and 0; `wrong` is 0, or NaN if one is not finite."""
    p, nothing = f.parameters, constant("float", 0, lanes)

    def more(index: Number, found: list[Value], mask: Value | None = None) -> list[Value]:
        value = f.load(f.at(p["x"], index, "float"), "float", lanes, mask)
        least, most, wrong = found
        return [_smaller(f, value, least), _larger(f, value, most),
                f.binary("fadd", wrong, f.binary("fmul", value, nothing))]  # fmt: skip

    def some(index: Value, found: list[Value]) -> list[Value]:
        parts = [found[n : n + 3] for n in range(0, len(found), 3)]
        places = [f.add(index, n * lanes) for n in range(len(parts))]
        return [each for place in zip(places, parts, strict=True) for each in more(*place)]

    full, many = f.whole(p["steps"], lanes), f.whole(p["steps"], CHAINS * lanes)
    found = f.loop(0, many, CHAINS * lanes, some, [nothing] * (3 * CHAINS))
    while len(found) > 3:
        one, other, rest = found[:3], found[3:6], found[6:]
        found = [*rest, _smaller(f, one[0], other[0]), _larger(f, one[1], other[1]),
                 f.binary("fadd", one[2], other[2])]  # fmt: skip
    found = f.loop(many, full, lanes, more, found)
    left = lane_count(f, f.subtract(p["steps"], full), lanes)
    mask = f.compare("slt", f.lane_numbers("i32", lanes), left)
    some_left = f.compare("sgt", left, constant("i32", 0))
    least, most, wrong = f.either(some_left, lambda: more(full, found, mask), lambda: found)
    while least.width > 1:
        least, most = _smaller(f, *f.halves(least)), _larger(f, *f.halves(most))
        wrong = f.binary("fadd", *f.halves(wrong))
    return least, most, wrong


def _smaller(f: Function, a: Value, b: Value) -> Value:
    return f.select(f.compare("olt", a, b), a, b)


def _larger(f: Function, a: Value, b: Value) -> Value:
    return f.select(f.compare("ogt", a, b), a, b)


# ---------------------------------------------------------------- sums of products of bytes


def fused(target: Target, lanes: int) -> str:
    """The instruction that adds four products of u8 and s8 to each i32, if there is one."""
    has = target.features
    if lanes == 16 and "avx512vnni" in has:
        return "llvm.x86.avx512.vpdpbusd.512"
    if lanes == 8 and ("avxvnni" in has or {"avx512vnni", "avx512vl"} <= has):
        return "llvm.x86.avx512.vpdpbusd.256"
    return ""


PAIRED = {16: ("avx512bw", "avx512.pmaddw.d.512"), 8: ("avx2", "avx2.pmadd.wd"),
          4: ("sse2", "sse2.pmadd.wd")}  # fmt: skip
"""By lanes: the feature with an instruction that adds neighbouring products of i16."""

BYTEWISE = {16: ("avx512bw", "avx512.pmaddubs.w.512"), 8: ("avx2", "avx2.pmadd.ub.sw"),
            4: ("sse4.2", "ssse3.pmadd.ub.sw.128")}  # fmt: skip
"""The same of products of u8 and s8, to i16."""

WHOLE_ROWS, GROUP_ROWS = 6, 64
"""By whose factors weights have, columns' or groups': up to so many rows it pays to bring rows into
integers rather than a panel into f32, where products are added in pairs; up to two elsewhere."""

SHORT = 32
"""Steps whose products with weights less than 16 an i16 surely holds: half of them each."""


def has(target: Target, instruction: tuple[str, str]) -> bool:
    """Whether a processor has an instruction, given with its feature."""
    return instruction[0] in target.features


def beside(bits: int, target: Target) -> Literal[2, 4]:
    """Steps of k of a column of weights that lie side by side."""
    lanes = vector_lanes(target)
    pairs = bits == 8 and has(target, PAIRED[lanes]) and not fused(target, lanes)
    return 2 if pairs else 4


def nibbles(form: Form, target: Target, lanes: int) -> bool:
    """Whether bytes are multiplied as they are, and summed in i16."""
    pairs = has(target, PAIRED[lanes]) and has(target, BYTEWISE[lanes])
    return form.bits == 4 and pairs and not fused(target, lanes)


def few_rows(form: Form, target: Target) -> int:
    """Rows up to which panels stay integers where there is no instruction for sums of four."""
    if not has(target, PAIRED[vector_lanes(target)]):
        return 2
    return GROUP_ROWS if form.group else WHOLE_ROWS


class Products:
    """Adds the products of four steps to sums: unsigned `w` and signed `a`, lanes of i32 that hold
    four bytes each. All ways give the same integers."""

    def __init__(self, f: Function, target: Target, lanes: int) -> None:
        self.f, self.lanes, self.fused = f, lanes, fused(target, lanes)

    def weights(self, form: Form, at: Value) -> list[list[Value]]:
        """What one load brings of a vector of columns: steps of k as `add` wants them."""
        raw = self.f.load(at, "i32", self.lanes)
        return [self.unsigned(part) for part in halves(self.f, form, raw)]

    def unsigned(self, w: Value) -> list[Value]:
        """Bytes as `add` wants them."""
        f = self.f
        if self.fused:
            return [w]
        shifted = [f.binary("lshr", w, constant("i32", 8 * t)) if t else w for t in range(4)]
        return [f.binary("and", value, constant("i32", 255)) for value in shifted]

    def signed(self, at: Value) -> list[Value]:
        """Digits of a row, in all lanes."""
        f = self.f
        a = f.splat(f.load(at, "i32"), self.lanes)
        if self.fused:
            return [a]
        shifted = [
            f.binary("shl", a, constant("i32", 24 - 8 * t)) if t < 3 else a for t in range(4)
        ]
        return [f.binary("ashr", value, constant("i32", 24)) for value in shifted]

    def as_lanes(self, kind: str, value: Value) -> Value:
        """The same bits in narrower lanes."""
        width = value.width * BYTES[value.kind] // BYTES[kind]
        wide = typed(kind, width)
        return self.f.emit(kind, width, f"bitcast {value.type} {value.text} to {wide}")

    def pairs(self, a: Value, b: Value) -> Value:
        """Sums of two products of i16."""
        return self.call(PAIRED, "i32", self.lanes, a, b)

    def call(
        self, table: Mapping[int, tuple[str, str]], kind: str, width: int, a: Value, b: Value
    ) -> Value:
        f, name, result = self.f, table[self.lanes][1], typed(kind, width)
        f.module.declarations.add(f"declare {result} @llvm.x86.{name}({a.type}, {b.type})")
        given = f"{a.type} {a.text}, {b.type} {b.text}"
        return f.emit(kind, width, f"call {result} @llvm.x86.{name}({given})")

    def add(self, total: Value, w: list[Value], a: list[Value]) -> Value:
        f, kind = self.f, total.type
        if self.fused:
            f.module.declarations.add(f"declare {kind} @{self.fused}({kind}, {kind}, {kind})")
            given = ", ".join(f"{kind} {value.text}" for value in (total, *w, *a))
            return f.emit("i32", self.lanes, f"call {kind} @{self.fused}({given})")
        for one, other in zip(w, a, strict=True):
            total = f.binary("add", total, f.binary("mul", one, other))
        return total


class Pairs(Products):
    """The same for two steps, both sides signed: lanes that hold two i16."""

    def weights(self, form: Form, at: Value) -> list[list[Value]]:
        raw = self.f.load(at, "i8", 2 * self.lanes)
        return [[self.f.convert("sext", raw, "i16")]]

    def signed(self, at: Value) -> list[Value]:
        return [self.as_lanes("i16", self.f.splat(self.f.load(at, "i32"), self.lanes))]

    def add(self, total: Value, w: list[Value], a: list[Value]) -> Value:
        return self.f.binary("add", total, self.pairs(*w, *a))


class Nibbles(Products):
    """The same for weights less than 16, with sums in i16."""

    def unsigned(self, w: Value) -> list[Value]:
        return [self.as_lanes("i8", w)]

    def signed(self, at: Value) -> list[Value]:
        return [self.as_lanes("i8", self.f.splat(self.f.load(at, "i32"), self.lanes))]

    def add(self, total: Value, w: list[Value], a: list[Value]) -> Value:
        return self.f.binary("add", total, self.call(BYTEWISE, "i16", 2 * self.lanes, *w, *a))

    def widened(self, total: Value, by: int) -> Value:
        """Sums in i16, multiplied, as sums in i32."""
        return self.pairs(total, constant("i16", by, 2 * self.lanes))


# ---------------------------------------------------------------- a tile of the result


def integer_rows(form: Form, target: Target, shape: tuple[int, int]) -> int:
    """Rows of a tile whose sums stay in registers: of a panel of `shape[1]` columns, and rows of
    `shape[0]` steps at most."""
    lanes, vectors = vector_lanes(target), tile_vectors(target, shape[1])
    digits = row_digits(form, target, shape[0])
    single = form.side == 2 or fused(target, lanes) or nibbles(form, target, lanes)
    parts = 1 if single else 2
    left = target.registers - vectors * parts - 2 * parts + 1
    return max(1, min(left // (vectors * (digits.count + (form.group > 0))), 8))


TILE = [("x", "ptr noalias"), ("behind", "ptr noalias"), ("s", "ptr noalias"), ("sm", "i64"),
        ("c", "ptr noalias"), ("cm", "i64"), ("steps", "i64"), ("columns", "i64"),
        ("more", "i64"), ("apart", "i64")]  # fmt: skip
"""A panel, what is behind its numbers; rows in integers, bytes from one to the next; the result,
its elements from row to row; steps of k; columns; whether to add to the result; bytes from panel
to panel."""


@dataclass(frozen=True)
class Shape:
    """Of a tile: rows, columns of a panel, panels side by side, how numbers of a row are stored."""

    rows: int
    width: int
    panels: int
    digits: Digits


def integer_tile(module: Module, form: Form, target: Target, shape: Shape) -> str:
    """Panels against rows."""
    lanes = vector_lanes(target)
    size = f"{shape.rows}x{shape.width}_{shape.panels}"
    name = f"integers_{form.name}_{shape.digits.name}_{lanes}_{size}"
    f = kernel(module, name, TILE)
    if f is None:
        return name
    count = tile_vectors(target, shape.width) * lanes
    for first in range(0, shape.width, count):
        IntegerTile(f, form, target, shape, first).write()
    f.done()
    return name


class IntegerTile:
    """Writes the code of one tile: rows x vectors of the result, from a column of each panel on."""

    def __init__(self, f: Function, form: Form, target: Target, shape: Shape, column: int) -> None:
        self.f, self.form, self.column, self.digits = f, form, column, shape.digits
        self.rows, self.width = shape.rows, shape.width
        self.lanes, self.vectors = vector_lanes(target), tile_vectors(target, shape.width)
        short = nibbles(form, target, self.lanes)
        self.nibbles = Nibbles(f, target, self.lanes) if short else None
        kind = Pairs if form.side == 2 else Products
        self.products = self.nibbles or kind(f, target, self.lanes)
        p = f.parameters
        self.aparts = [f.multiply(p["apart"], panel) for panel in range(shape.panels)]
        self.heads = [f.at(p["s"], f.multiply(p["sm"], r)) for r in range(self.rows)]
        rows = [digit_planes(f, shape.digits, head) for head in self.heads]
        self.lefts, self.behind_rows = [row[:-1] for row in rows], [row[-1] for row in rows]

    def write(self) -> None:
        totals = self.groups() if self.form.group else self.columns()
        for panel, found in enumerate(totals):
            self.put(found, self.column + panel * self.width)

    def put(self, totals: list[Value], column: int) -> None:
        """Into the result from a column on, or added to it."""
        f, p, lanes = self.f, self.f.parameters, self.lanes
        end, places = column + self.vectors * lanes, []
        firsts = [column + v * lanes for v in range(self.vectors)]
        numbers = [f.lane_numbers("i32", lanes, first=first) for first in firsts]
        limits = lane_count(f, p["columns"], end)
        masks = [f.compare("sgt", limits, lane) for lane in numbers]
        for r in range(self.rows):
            row = f.multiply(p["cm"], r)
            places += [
                (f.at(p["c"], f.add(row, first), "float"), mask)
                for first, mask in zip(firsts, masks, strict=True)
            ]

        def before() -> list[Value]:
            return [f.load(at, "float", lanes, mask) for at, mask in places]

        def store(masked: bool) -> list[Value]:
            for total, first, (at, mask) in zip(totals, start, places, strict=True):
                f.store(f.binary("fadd", total, first), at, mask if masked else None)
            return []

        again = f.compare("ne", p["more"], constant("i64", 0))
        start = f.either(again, before, lambda: [constant("float", 0, lanes)] * len(places))
        whole = f.compare("sge", p["columns"], constant("i64", end))
        f.either(whole, lambda: store(False), lambda: store(True))  # masked stores are slow

    def by_panel(self, values: list[Value]) -> list[list[Value]]:
        """Values of all panels, panel by panel."""
        each = len(values) // len(self.aparts)
        return [values[first : first + each] for first in range(0, len(values), each)]

    def columns(self) -> list[list[Value]]:
        """Sums of each panel where each column has one factor."""
        f, p = self.f, self.f.parameters
        padded = f.whole(f.add(p["steps"], TURN - 1), TURN)
        side = self.form.side
        starts = [f.at(f.at(p["x"], apart), side * self.column) for apart in self.aparts]
        steps = TURN if self.products.fused else FOUR

        def turn(first: Value, sums: list[Value]) -> list[Value]:
            passed, found = f.multiply(first, self.width), []
            for x, mine in zip(starts, self.by_panel(sums), strict=True):
                found += self.added(f.at(x, passed), first, steps, mine)
            return found

        sums = f.loop(0, padded, steps, turn, self.start(0) * len(starts))
        pairs = zip(self.by_panel(sums), self.aparts, strict=True)
        return [self.column_totals(mine, apart) for mine, apart in pairs]

    def column_totals(self, sums: list[Value], apart: Number) -> list[Value]:
        """What integers stand for, in the panel that begins there."""
        f = self.f
        factors = self.behind(apart, 0, "float")
        if self.form.digits == 1:
            weights = self.behind(apart, 1, "i32")
            for place, total in enumerate(sums):
                zero = f.load(f.at(self.heads[place // self.vectors], ZERO), "i32")
                moved = f.binary("mul", weights[place % self.vectors], zero)
                sums[place] = f.binary("sub", total, moved)
        steps = [f.load(head, "float") for head in self.heads]
        return [
            f.binary("fmul", value, f.binary("fmul", factors[place % self.vectors],
                                             steps[place // self.vectors]))
            for place, value in enumerate(self.joined(sums))
        ]  # fmt: skip

    def groups(self) -> list[list[Value]]:
        """Sums of each panel where groups of steps have factors."""
        f, p, form = self.f, self.f.parameters, self.form
        numbers = form.group // form.deep * self.width

        def part(x: Value, first: Value, start: list[Value], totals: list[Value]) -> list[Value]:
            if self.nibbles and len(self.aparts) > 1:
                for line in range(0, form.numbers(form.group, self.width), LINE):
                    f.prefetch(f.at(x, AHEAD + line), cache=2)
            sums = self.group_sums(f.at(x, form.side * self.column), first, start)
            factors = [
                load_factors(f, form, f.at(x, numbers), self.column + v * self.lanes, self.lanes)
                for v in range(self.vectors)
            ]
            pairs = zip(self.joined(sums), totals, strict=True)
            return [multiply_add(f, value, factors[i % self.vectors], total)
                    for i, (value, total) in enumerate(pairs)]  # fmt: skip

        def group(first: Value, totals: list[Value]) -> list[Value]:
            x = f.at(p["x"], group_offset(f, form, first, self.width))
            place = f.emit("i64", 1, f"udiv i64 {first.text}, {form.group}")
            start, found = self.start(place), []
            for apart, mine in zip(self.aparts, self.by_panel(totals), strict=True):
                found += part(f.at(x, apart), first, start, mine)
            return found

        zeros = [constant("float", 0, self.lanes)] * (self.rows * self.vectors * len(self.aparts))
        totals = self.by_panel(f.loop(0, p["steps"], form.group, group, zeros))
        pairs = zip(totals, self.aparts, strict=True)
        return [self.group_totals(mine, apart) for mine, apart in pairs]

    def group_totals(self, totals: list[Value], apart: Number) -> list[Value]:
        """What the sums of all groups stand for, in the panel that begins there."""
        f = self.f
        if self.form.digits == 1:
            weights = self.behind(apart, 0, "float")
            for place, total in enumerate(totals):
                head = self.heads[place // self.vectors]
                zero = f.convert("sitofp", f.load(f.at(head, ZERO), "i32"), "float")
                moved = f.binary("fmul", weights[place % self.vectors], zero)
                totals[place] = f.binary("fsub", total, moved)
        steps = [f.load(head, "float") for head in self.heads]
        return [f.binary("fmul", total, steps[place // self.vectors])
                for place, total in enumerate(totals)]  # fmt: skip

    def group_sums(self, x: Value, first: Number, sums: list[Value]) -> list[Value]:
        """A group, in turns of a loop: written out in one piece, the factors behind it would be
        read before the numbers, and memory is slower when it is not read in its order."""
        f, form = self.f, self.form

        def turn(more: Value, sums: list[Value]) -> list[Value]:
            at = f.at(x, f.multiply(more, self.width // form.deep))
            return self.added(at, f.add(first, more), TURN, sums)

        if self.nibbles is None:
            return f.loop(0, form.group, TURN, turn, sums)
        widened, count, size = self.nibbles.widened, self.digits.count, len(sums)
        zeros = [constant("i16", 0, 2 * self.lanes)] * (count * size)

        def some(begin: Number, sums: list[Value]) -> list[Value]:
            found = f.loop(begin, f.add(begin, SHORT), TURN, turn, zeros)
            for d in range(count):
                more = [widened(total, self.worth(d)) for total in found[d * size : (d + 1) * size]]
                sums = [f.binary("add", a, b) for a, b in zip(sums, more, strict=True)]
            return sums

        return some(0, sums) if form.group == SHORT else f.loop(0, form.group, SHORT, some, sums)

    def start(self, group: Number) -> list[Value]:
        """What sums begin with, by digit, row and vector: weights count from the middle. `Nibbles`
        have one sum for all digits."""
        f, digits, found = self.f, self.digits.count, []
        if self.form.middle == 0:
            nothing = constant("i32", 0, self.lanes)
            return [nothing] * (digits * self.rows * self.vectors)
        for d in range(digits):
            by = -self.form.middle * (self.worth(d) if self.nibbles else 1)
            for behind in self.behind_rows:
                total = f.load(f.at(behind, f.add(f.multiply(group, digits), d), "i32"), "i32")
                found.append(f.binary("mul", total, constant("i32", by)))
        if self.nibbles:
            rows = [found[r :: self.rows] for r in range(self.rows)]
            found = [reduce(partial(f.binary, "add"), row) for row in rows]
        return [f.splat(total, self.lanes) for total in found for _ in range(self.vectors)]

    def worth(self, digit: int) -> int:
        """Of a digit, in steps of the last one."""
        return 1 << self.digits.bits * (self.digits.count - 1 - digit)

    def added(self, x: Value, first: Number, count: int, sums: list[Value]) -> list[Value]:
        """Sums and products of `count` steps, which begin at `x` and in S with `first`."""
        f, form, found = self.f, self.form, list(sums)
        side, deep = form.side, form.deep
        for turn in range(count // side):
            if turn % deep == 0:
                at = f.at(x, turn // deep * side * self.width)
                loaded = [self.products.weights(form, f.at(at, side * v * self.lanes))
                          for v in range(self.vectors)]  # fmt: skip
            step = f.multiply(f.add(first, turn * side), BYTES[self.digits.kind])
            for d in range(self.digits.count):
                for r, row in enumerate(self.lefts):
                    one = self.products.signed(f.at(row[d], step))
                    for v in range(self.vectors):
                        place = (d * self.rows + r) * self.vectors + v
                        found[place] = self.products.add(found[place], loaded[v][turn % deep], one)
        return found

    def joined(self, sums: list[Value]) -> list[Value]:
        """The sums of all digits as one number."""
        f, size = self.f, self.rows * self.vectors
        found = [f.convert("sitofp", value, "float") for value in sums]
        values = found[:size]
        for d in range(1, len(sums) // size):
            by = constant("float", 1 << self.digits.bits)
            values = [
                f.binary("fadd", f.binary("fmul", value, by), more)
                for value, more in zip(values, found[d * size : (d + 1) * size], strict=True)
            ]
        return values

    def behind(self, apart: Number, number: int, kind: str) -> list[Value]:
        """Of each column a number of what is behind the panel's: the first or the second."""
        f = self.f
        at = f.at(f.parameters["behind"], apart)
        at = f.at(at, number * self.width + self.column, kind)
        return [f.load(f.at(at, v * self.lanes, kind), kind, self.lanes)
                for v in range(self.vectors)]  # fmt: skip
