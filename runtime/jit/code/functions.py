"""The scalar functions of the language as code, the same for one number and for a vector.

Numbers live in registers in wide types: i1, i32, i64, float and double. Narrow types are widened
when loaded (`widen`) and rounded when stored (`narrow`), so a bf16 in a register is a float that
bf16 can hold. Functions of floats are polynomials with errors below 2e-6; those of doubles call
the C library.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from infinisa.isa.dtypes import DTYPES, is_float

from . import tables
from .ir import FLOATS, Function, Value, constant, short
from .tables import by_pieces, looked_up, permuted

REGISTER = {"bool": "i1", "i32": "i32", "i64": "i64", "f32": "float", "f64": "double"}
"""What a wide type is in a register."""

STORED = {
    "bool": "i8", "i8": "i8", "u8": "i8", "i16": "i16", "u16": "i16", "i32": "i32",
    "i64": "i64", "bf16": "i16", "f16": "half", "f32": "float", "f64": "double",
}  # fmt: skip
"""What a type is in memory."""

Emit: TypeAlias = Callable[..., Value]


def register(dtype: str) -> str:
    """The kind of register that holds a value of this element type."""
    return REGISTER[DTYPES[dtype].wide]


def like(value: Value, number: float | int | bool) -> Value:
    """A constant with the kind and the lanes of `value`."""
    return constant(value.kind, number, value.width)


# ---------------------------------------------------------------- element types


def widen(f: Function, raw: Value, dtype: str) -> Value:
    """What was loaded, in a register."""
    match dtype:
        case "bool":
            return f.compare("ne", raw, like(raw, 0))
        case "i8" | "i16":
            return f.convert("sext", raw, "i32")
        case "u8" | "u16":
            return f.convert("zext", raw, "i32")
        case "bf16":
            bits = f.binary("shl", f.convert("zext", raw, "i32"), constant("i32", 16))
            return f.convert("bitcast", bits, "float")
        case "f16":
            return f.convert("fpext", raw, "float")
    return raw


def narrow(f: Function, value: Value, dtype: str) -> Value:
    """A register that holds a value of `dtype`, as it is stored."""
    match dtype:
        case "bool":
            return f.convert("zext", value, "i8")
        case "i8" | "u8":
            return f.convert("trunc", value, "i8")
        case "i16" | "u16":
            return f.convert("trunc", value, "i16")
        case "bf16":
            bits = f.convert("bitcast", value, "i32")
            return f.convert("trunc", f.binary("lshr", bits, constant("i32", 16)), "i16")
        case "f16":
            return f.convert("fptrunc", value, "half")
    return value


def convert(f: Function, value: Value, kind: str) -> Value:
    """The same number in a wider register, as arithmetic on mixed types wants it."""
    if value.kind == kind:
        return value
    if value.constant and value.width == 1 and value.kind == "float" and kind == "double":
        return Value(value.text, kind)
    if kind in FLOATS:
        if value.kind in FLOATS:
            return f.convert("fpext" if kind == "double" else "fptrunc", value, kind)
        return f.convert("uitofp" if value.kind == "i1" else "sitofp", value, kind)
    if kind == "i1":
        return nonzero(f, value)
    if value.kind == "i1":
        return f.convert("zext", value, kind)
    return f.convert("sext" if kind == "i64" else "trunc", value, kind)


def nonzero(f: Function, value: Value) -> Value:
    if value.kind == "i1":
        return value
    return f.compare("une" if value.kind in FLOATS else "ne", value, like(value, 0))


def saturate(f: Function, value: Value, source: str, target: str) -> Value:
    """`isa.evaluate.saturate` in registers: from one element type to another."""
    kind, found = register(target), DTYPES[source].wide
    if target == "bool":
        return nonzero(f, value)
    if is_float(target):
        value = convert(f, value, kind)
        known = source == target or source == "bool" or (target == "f16" and source == "f16")
        if target == "bf16" and not known:
            return _to_bf16(f, value)
        if target == "f16" and not known:
            return f.convert("fpext", f.convert("fptrunc", value, "half"), "float")
        return value
    if found == "bool":
        return convert(f, value, kind)
    limits = np.iinfo(DTYPES[target].numpy)
    if is_float(source):
        rounded = f.intrinsic("rint", [value])
        name = f"llvm.fptosi.sat.{_lanes(kind, value.width)}.{_lanes(value.kind, value.width)}"
        value = f.call(name, kind, [rounded])
        return value if target in ("i32", "i64") else _clipped(f, value, limits)
    if target == source or (target == "i64"):
        return convert(f, value, kind)
    if value.kind == "i32" and target == "i32":
        return value
    return convert(f, _clipped(f, value, limits), kind)


def _lanes(kind: str, width: int) -> str:
    return short(kind) if width == 1 else f"v{width}{short(kind)}"


def _clipped(f: Function, value: Value, limits: np.iinfo[np.signedinteger]) -> Value:
    value = f.intrinsic("smax", [value, like(value, int(limits.min))])
    return f.intrinsic("smin", [value, like(value, int(limits.max))])


def _to_bf16(f: Function, value: Value) -> Value:
    """Rounded to the nearest bf16, ties to even; NaN stays NaN."""
    bits = f.convert("bitcast", value, "i32")
    odd = f.binary("and", f.binary("lshr", bits, like(bits, 16)), like(bits, 1))
    bits = f.binary("add", bits, f.binary("add", odd, like(bits, 0x7FFF)))
    bits = f.binary("and", bits, like(bits, -0x10000))
    return f.select(
        f.compare("uno", value, value), like(value, math.nan), f.convert("bitcast", bits, "float")
    )


# ---------------------------------------------------------------- polynomials


REORDERED = "fadd reassoc nsz contract"
"""A sum that may be taken in another order, as vectors need."""


def fma(f: Function, a: Value, b: Value, c: Value) -> Value:
    """a * b + c of floats, rounded once where the processor can."""
    return f.intrinsic("fmuladd", [a, b, c])


def multiply_add(f: Function, a: Value, b: Value, c: Value) -> Value:
    """What a sum of products comes to with one more, in floats or integers. Single numbers may be
    summed in another order, so that LLVM makes vectors of them."""
    a, b, c = f.match(a, b, c)
    if a.kind in FLOATS and a.width == 1:
        return f.binary(REORDERED, f.binary("fmul contract", a, b), c)
    return fma(f, a, b, c) if a.kind in FLOATS else f.binary("add", f.binary("mul", a, b), c)


def horner(f: Function, coefficients: Sequence[float], x: Value) -> Value:
    """The polynomial with these coefficients, the highest power first."""
    total = like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = fma(f, total, x, like(x, coefficient))
    return total


def clamp(f: Function, x: Value, low: float, high: float) -> Value:
    """x between two numbers; NaN stays NaN."""
    return at_most(f, at_least(f, x, low), high)


def at_least(f: Function, x: Value, low: float) -> Value:
    return f.select(f.compare("olt", x, like(x, low)), like(x, low), x)


def at_most(f: Function, x: Value, high: float) -> Value:
    return f.select(f.compare("ogt", x, like(x, high)), like(x, high), x)


EXP = (0.00828929059, 0.0418978221, 0.166676521, 0.499991506, 0.999999702, 1.0)
LOG2E, LN2_HIGH, LN2_LOW = 1.4426950408889634, 0.693359375, -2.12194440e-4
BIAS, BELOW = 127, 24
"""Of the exponents of floats; how many powers of two there are below them, for denormals."""

MAGIC, MAGIC_BITS = 1.5 * 2.0**20, 0x49C00000
"""Added to a number, it leaves eighths of it in the low bits."""


def exp(f: Function, x: Value) -> Value:
    """2**n * p(r) with x = n ln 2 + r, of at most 89, which is infinite.

    The clamp keeps masks of -1e30 and infinities finite. A result may be denormal or infinite, so
    that 2**n is two factors.
    """
    if x.kind == "double":
        return f.intrinsic("exp", [x])
    x = clamp(f, x, -104.0, 89.0)
    if looks_up(f, x):
        return _exp_by_powers(f, x)
    if permutes(f, x):
        return _exp_by_eighths(f, x, all_of_it=True)
    both, r = reduced(f, x, 2 * BIAS)
    total = horner(f, EXP, r)
    half = f.binary("lshr", both, like(both, 1))
    for exponent in (half, f.binary("sub", both, half)):
        total = f.binary("fmul", total, power_of_two(f, exponent))
    return total


def exp_up_to_70(f: Function, x: Value) -> Value:
    """exp of what is known to be at most 70: one factor is enough for denormal results."""
    if x.kind == "double":
        return f.intrinsic("exp", [x])
    x = at_least(f, x, -104.0)
    if looks_up(f, x):
        return _exp_by_powers(f, x)
    if permutes(f, x):
        return _exp_by_eighths(f, x)
    exponent, r = reduced(f, x, BIAS + BELOW)
    small = [coefficient * 2.0**-BELOW for coefficient in EXP]
    return f.binary("fmul", horner(f, small, r), power_of_two(f, exponent))


def _exp_by_eighths(f: Function, x: Value, all_of_it: bool = False) -> Value:
    """2**(n / 8) * 2**r: a table has the part of n below 8 as the bits of a float, less what that
    part adds to them when n is shifted to where exponents are.

    Of `all_of_it` what is above 2**100 is another factor, which is 1 below: a value does not depend
    on what is known of it.
    """
    bits, r = _in_eighths(f, x, LOG2E)
    power = permuted(f, tables.eighths(BELOW), bits)
    small = [coefficient * 2.0**-BELOW for coefficient in tables.AFTER_EIGHTHS]
    total, whole = horner(f, small, r), f.binary("shl", bits, like(bits, 20))
    if all_of_it:
        above = f.binary("sub", bits, like(bits, MAGIC_BITS + 8 * 100))
        above = f.intrinsic("smax", [f.binary("ashr", above, like(above, 3)), like(above, 0)])
        factor = f.binary("shl", f.binary("add", above, like(above, BIAS)), like(above, 23))
        total = f.binary("fmul", total, f.convert("bitcast", factor, "float"))
        whole = f.binary("sub", whole, f.binary("shl", above, like(above, 23)))
    power = f.binary("add", power, whole)
    return f.binary("fmul", total, f.convert("bitcast", power, "float"))


def _in_eighths(f: Function, x: Value, factor: float, exact: bool = True) -> tuple[Value, Value]:
    """(8 * n, r) with factor * x = n + r: the first one in the low bits of an i32. Unless it is to
    be `exact`, the factor is rounded to an f32."""
    magic = like(x, MAGIC)
    high = float(np.float32(factor))
    moved = fma(f, x, like(x, high), magic)
    r = fma(f, x, like(x, high), f.binary("fsub", magic, moved))
    bits = f.convert("bitcast", moved, "i32")
    return bits, fma(f, x, like(x, factor - high), r) if exact else r


def reduced(f: Function, x: Value, more: int) -> tuple[Value, Value]:
    """(n + more, r) with x = n ln 2 + r: the first one in the low bits of an i32.

    Adding 1.5 * 2**23 leaves the number there, for a NaN too: no conversion is undefined.
    """
    magic = like(x, 1.5 * 2.0**23 + more)
    moved = fma(f, x, like(x, LOG2E), magic)
    r = remainder(f, x, f.binary("fsub", moved, magic))
    return f.convert("bitcast", moved, "i32"), r


def remainder(f: Function, x: Value, n: Value) -> Value:
    """x - n ln 2"""
    return fma(f, n, like(x, -LN2_LOW), fma(f, n, like(x, -LN2_HIGH), x))


def power_of_two(f: Function, exponent: Value) -> Value:
    """The float with this exponent, of which only the low bits count."""
    return f.convert("bitcast", f.binary("shl", exponent, like(exponent, 23)), "float")


def _exp_by_powers(f: Function, x: Value) -> Value:
    """2**(n / 32) * p(r): the part of n below 32 looked up, the other one an exponent.

    Adding 1.5 * 2**18 leaves thirty-seconds of a number in its low bits.
    """
    magic = like(x, 1.5 * 2.0**18)
    moved = fma(f, x, like(x, LOG2E), magic)
    n = f.binary("fsub", moved, magic)
    r = remainder(f, x, n)
    power = looked_up(f, tables.POWERS, f.convert("bitcast", moved, "i32"))
    rest = horner(f, tables.AFTER_POWERS, r)
    total = fma(f, f.binary("fmul", power, r), rest, power)
    name, kind = "llvm.x86.avx512.mask.scalef.ps.512", x.type
    f.module.declarations.add(f"declare {kind} @{name}({kind}, {kind}, {kind}, i16, i32)")
    given = f"{kind} {total.text}, {kind} {n.text}, {kind} {total.text}"
    return f.emit(x.kind, x.width, f"call {kind} @{name}({given}, i16 -1, i32 4)")


LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
       -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip


def log(f: Function, x: Value) -> Value:
    """x = m * 2**e with m from sqrt(1/2) to sqrt(2); then a polynomial in m - 1."""
    if x.kind == "double":
        return f.intrinsic("log", [x])
    tiny = f.compare("olt", x, like(x, 1.1754944e-38))
    scaled = f.select(tiny, f.binary("fmul", x, like(x, 2.0**23)), x)
    bits = f.convert("bitcast", scaled, "i32")
    above = f.binary("sub", bits, like(bits, 0x3F3504F3))
    exponent = f.convert("sitofp", f.binary("ashr", above, like(bits, 23)), "float")
    exponent = f.binary("fsub", exponent, f.select(tiny, like(x, 23.0), like(x, 0.0)))
    kept = f.binary("sub", bits, f.binary("and", above, like(bits, -0x800000)))
    r = f.binary("fsub", f.convert("bitcast", kept, "float"), like(x, 1.0))
    square = f.binary("fmul", r, r)
    y = f.binary("fmul", f.binary("fmul", horner(f, LOG, r), r), square)
    y = fma(f, exponent, like(x, LN2_LOW), y)
    y = fma(f, square, like(x, -0.5), y)
    y = fma(f, exponent, like(x, LN2_HIGH), f.binary("fadd", r, y))
    y = f.select(f.compare("oeq", x, like(x, 0.0)), like(x, -math.inf), y)
    y = f.select(f.compare("oeq", x, like(x, math.inf)), like(x, math.inf), y)
    return f.select(f.compare("ult", x, like(x, 0.0)), like(x, math.nan), y)


TANH = (
    (1.33461970e-08, 2.05990273e-05, 3.49489134e-03, 1.33804202e-01, 1.0),
    (7.77169646e-07, 3.28454655e-04, 2.58742716e-02, 4.67137337e-01, 1.0),
)
ERF = (
    (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
     -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
    (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
     -1.42647390514189e-02),
)  # fmt: skip


def rational(
    f: Function, x: Value, limit: float, ratio: tuple[Sequence[float], Sequence[float]]
) -> Value:
    """An odd function that is constant beyond `limit`; the quotient is near 1, so that its product
    with the least numbers is as good as with any."""
    x = clamp(f, x, -limit, limit)
    square = f.binary("fmul", x, x)
    top, bottom = horner(f, ratio[0], square), horner(f, ratio[1], square)
    return f.binary("fmul", x, f.binary("fdiv", top, bottom))


def looks_up(f: Function, x: Value) -> bool:
    """Whether one instruction finds a number of a table in registers for each lane."""
    return x.width == 16 and "avx512f" in f.module.target.features


def permutes(f: Function, x: Value) -> bool:
    """Whether one instruction finds a number of a table of 8 in a register for each lane; single
    numbers go the same way, so that a value does not depend on what is computed beside it."""
    target = f.module.target
    return target.lanes == 8 and x.width in (1, 8) and "avx2" in target.features


def tanh(f: Function, x: Value) -> Value:
    if x.kind == "double":
        return f.intrinsic("tanh", [x])
    if looks_up(f, x):
        return tables.tanh_of_sum(f, x)
    # At the limit and behind it the quotient is a little above 1, as factors are rounded or not.
    # There tanh must be exactly 1: 1 + tanh(x) is a factor of a huge -x.
    return clamp(f, rational(f, x, 9.02, TANH), -1.0, 1.0)


def erf(f: Function, x: Value) -> Value:
    if x.kind == "double":
        return by_lane(f, "erf", x)
    if looks_up(f, x):
        return by_pieces(f, x, tables.ERF)
    return rational(f, x, 4.0, ERF)


def by_lane(f: Function, name: str, x: Value) -> Value:
    """A function of the C library, lane by lane."""
    found = Value("poison", x.kind, x.width)
    if x.width == 1:
        return f.call(name, x.kind, [x])
    for lane in range(x.width):
        one = f.call(name, x.kind, [f.extract(x, lane)])
        found = f.emit(
            x.kind,
            x.width,
            f"insertelement {x.type} {found.text}, {one.type} {one.text}, i64 {lane}",
        )
    return found


def sigmoid(f: Function, x: Value) -> Value:
    """e / (1 + e) with e = exp(x) of an x behind which it is 1."""
    if x.kind == "float" and permutes(f, x):
        return sigmoid_of_product(f, x, 1.0)
    x = clamp(f, x, -1000.0, 700.0) if x.kind == "double" else at_most(f, x, 40.0)
    power = exp_up_to_70(f, x)
    return f.binary("fdiv", power, f.binary("fadd", power, like(x, 1.0)))


def sigmoid_of_product(f: Function, x: Value, factor: float) -> Value:
    """p(r) / (p(r) + 2**n) with -factor * x = (n + r) ln 2 and p(r) near 2**-r.

    There is neither the product, which would be rounded, nor an exponential. Both are 2**-24 of
    that, so that the power is finite where the quotient is not 0.
    """
    low, high = sorted((-104.0 / factor, 40.0 / factor))
    exact = abs(math.frexp(factor)[0]) == 0.5
    bits, r = _in_eighths(f, clamp(f, x, low, high), -factor * LOG2E, exact)
    power = f.binary("add", permuted(f, tables.eighths(-BELOW), bits),
                     f.binary("shl", bits, like(bits, 20)))  # fmt: skip
    signs = (-1, 1, -1, 1)
    small = [sign * coefficient * 2.0**-BELOW
             for sign, coefficient in zip(signs, tables.AFTER_EIGHTHS, strict=True)]  # fmt: skip
    total = horner(f, small, r)
    return f.binary("fdiv", total, f.binary("fadd", total, f.convert("bitcast", power, "float")))


SIN = (2.60831598e-6, -1.98106872e-4, 8.33307859e-3, -0.166666597, 1.0)
COS = (2.43904487e-5, -1.38867637e-3, 4.16666418e-2, -0.5, 1.0)
LARGEST_NEAR, LARGEST_ANGLE = 2.0**17, 2.0**30
HALF_PI = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
"""Parts of pi/2, 24 bits each."""


def sin(f: Function, x: Value) -> Value:
    return _circular(f, x, "sin")


def cos(f: Function, x: Value) -> Value:
    return _circular(f, x, "cos")


def _circular(f: Function, x: Value, name: str) -> Value:
    """x = n pi/2 + r, reduced in f32 up to 2**17 where products are added unrounded, else in double
    precision; beyond 2**30 the C library does it. Each lane goes its own way, whatever is beside
    it."""
    if x.kind == "double":
        return f.intrinsic(name, [x])
    if not f.module.target.fuses:
        return _wide(f, x, name)
    large = any_lane(f, f.compare("oge", absolute(f, x), like(x, LARGEST_NEAR)))
    seldom = seldom_called(f, f"far_{name}_{x.width}", x, lambda g, x: _far(g, x, name))
    (found,) = f.either(large, lambda: [seldom()], lambda: [_near(f, x, name)])
    return found


def _far(f: Function, x: Value, name: str) -> Value:
    near = f.compare("olt", absolute(f, x), like(x, LARGEST_NEAR))
    return f.select(near, _near(f, x, name), _wide(f, x, name))


def seldom_called(f: Function, name: str, x: Value, body: Emit) -> Callable[[], Value]:
    """A call of a function of its own, which is written once and does not hold up compiling."""
    module = f.module
    if name not in module.names:
        module.names.add(name)
        g = Function(module, name, [("x", x.type)], result=x.type)
        g.finish(body(g, g.parameters["x"]))
        g.close()
    return lambda: f.emit(x.kind, x.width, f"call {x.type} @{name}({x.type} {x.text})")


def any_lane(f: Function, condition: Value) -> Value:
    if condition.width == 1:
        return condition
    width = condition.width
    bits = f.emit(f"i{width}", 1, f"bitcast {condition.type} {condition.text} to i{width}")
    return f.compare("ne", bits, Value("0", bits.kind))


def _near(f: Function, x: Value, name: str) -> Value:
    """The first of three sums is exact: it has no digit below those of the first part of pi/2."""
    magic = like(x, 1.5 * 2.0**23)
    moved = fma(f, x, like(x, 2 / math.pi), magic)
    n = f.binary("fsub", moved, magic)
    r = x
    for part in HALF_PI:
        r = f.intrinsic("fma", [n, like(x, -part), r])
    return _in_quadrant(f, r, f.convert("bitcast", moved, "i32"), name)


def _wide(f: Function, x: Value, name: str) -> Value:
    size, wide = absolute(f, x), f.convert("fpext", x, "double")

    def far() -> list[Value]:
        given = f.convert("fptrunc", f.intrinsic(name, [wide]), "float")
        near = f.compare("olt", size, like(x, LARGEST_ANGLE))
        return [f.select(near, _quadrant(f, wide, name), given)]

    large = any_lane(f, f.compare("oge", size, like(x, LARGEST_ANGLE)))
    (found,) = f.either(large, far, lambda: [_quadrant(f, wide, name)])
    return found


def _quadrant(f: Function, x: Value, name: str) -> Value:
    magic = like(x, 1.5 * 2.0**52)
    moved = f.binary("fadd", f.binary("fmul", x, like(x, 2 / math.pi)), magic)
    quadrant = f.convert("trunc", f.convert("bitcast", moved, "i64"), "i32")
    n = f.binary("fsub", moved, magic)
    r = fma(f, n, like(x, -1.5707963267948966), x)
    r = f.convert("fptrunc", fma(f, n, like(x, -6.123233995736766e-17), r), "float")
    return _in_quadrant(f, r, quadrant, name)


def _in_quadrant(f: Function, r: Value, quadrant: Value, name: str) -> Value:
    """Of quadrant * pi/2 + r."""
    if name == "cos":
        quadrant = f.binary("add", quadrant, like(quadrant, 1))
    square = f.binary("fmul", r, r)
    odd = f.compare("ne", f.binary("and", quadrant, like(quadrant, 1)), like(quadrant, 0))
    sine = f.binary("fmul", r, horner(f, SIN, square))
    value = f.select(odd, horner(f, COS, square), sine)
    sign = f.binary("shl", f.binary("and", quadrant, like(quadrant, 2)), like(quadrant, 30))
    bits = f.binary("xor", f.convert("bitcast", value, "i32"), sign)
    return f.convert("bitcast", bits, "float")


# ---------------------------------------------------------------- one function for each name


def negate(f: Function, x: Value) -> Value:
    if x.kind in FLOATS:
        return f.emit(x.kind, x.width, f"fneg {x.type} {x.text}")
    return f.binary("sub", like(x, 0), x)


def absolute(f: Function, x: Value) -> Value:
    if x.kind in FLOATS:
        return f.intrinsic("fabs", [x])
    if x.kind == "i1":
        return x
    return f.select(f.compare("slt", x, like(x, 0)), negate(f, x), x)


def sign(f: Function, x: Value) -> Value:
    if x.kind == "i1":
        return x
    if x.kind not in FLOATS:
        return f.intrinsic("smax", [f.intrinsic("smin", [x, like(x, 1)]), like(x, -1)])
    one = f.select(f.compare("ogt", x, like(x, 0.0)), like(x, 1.0), like(x, -1.0))
    return f.select(f.compare("oeq", x, like(x, 0.0)), like(x, 0.0), f.select(
        f.compare("uno", x, x), x, one))  # fmt: skip


def sqrt(f: Function, x: Value) -> Value:
    return f.intrinsic("sqrt", [x])


def reciprocal(f: Function, x: Value) -> Value:
    return f.binary("fdiv", like(x, 1.0), x)


def inverse(f: Function, x: Value) -> tuple[Value, Value]:
    """(s, 1 / (s * x)) with s a power of two, so that y / x is y * s * (1 / (s * x)) wherever a
    division is defined: 1 / x alone overflows for a denormal x, and is denormal for a huge one."""
    if x.constant and 2.0**-126 <= abs(number_of(x)) <= 2.0**126:
        return like(x, 1.0), like(x, 1.0 / number_of(x))
    size = absolute(f, x)
    small = f.compare("olt", size, like(x, 2.0**-64))
    large = f.compare("ogt", size, like(x, 2.0**64))
    power = f.select(large, like(x, 2.0**-64), like(x, 1.0))
    power = f.select(small, like(x, 2.0**64), power)
    return power, reciprocal(f, f.binary("fmul", x, power))


def scaled(f: Function, y: Value, power: Value, factor: Value) -> Value:
    """y / x, given the `inverse` of x: off by at most 1.5 units in the last place."""
    if power.constant:
        return f.binary("fmul", y, factor)
    return f.binary("fmul", f.binary("fmul", y, power), factor)


def number_of(x: Value) -> float:
    """A constant of one lane."""
    value: float = struct.unpack(">d", bytes.fromhex(x.text[2:]))[0]
    return value


def rounding(name: str) -> Emit:
    def emit(f: Function, x: Value) -> Value:
        return f.intrinsic(name, [x]) if x.kind in FLOATS else x

    return emit


def arithmetic(floating: str, whole: str, logical: str) -> Emit:
    """One instruction on floats, another on integers, a third on truth values."""

    def emit(f: Function, a: Value, b: Value) -> Value:
        if a.kind == "i1":
            return f.binary(logical, a, b)
        return f.binary(floating if a.kind in FLOATS else whole, a, b)

    return emit


def extreme(floating: str, whole: str, logical: str) -> Emit:
    """The greater or the lesser; NaN wins, as in NumPy."""

    def emit(f: Function, a: Value, b: Value) -> Value:
        if a.kind == "i1":
            return f.binary(logical, a, b)
        if a.kind in FLOATS:
            return f.intrinsic(floating, [a, b], "nsz")
        return f.intrinsic(whole, [a, b])

    return emit


def comparison(floating: str, whole: str) -> Emit:
    def emit(f: Function, a: Value, b: Value) -> Value:
        if a.kind in FLOATS:
            return f.compare(floating, a, b)
        return f.compare(whole if a.kind != "i1" else whole.replace("s", "u", 1), a, b)

    return emit


def logical(operation: str) -> Emit:
    def emit(f: Function, a: Value, b: Value) -> Value:
        return f.binary(operation, nonzero(f, a), nonzero(f, b))

    return emit


def floor_divide(f: Function, a: Value, b: Value) -> Value:
    if a.kind in FLOATS:
        return _float_division(f, a, b)[0]
    return _whole_division(f, a, b)[0]


def modulo(f: Function, a: Value, b: Value) -> Value:
    if a.kind in FLOATS:
        return _float_division(f, a, b)[1]
    return _whole_division(f, a, b)[1]


def _whole_division(f: Function, a: Value, b: Value) -> tuple[Value, Value]:
    """Rounded down; by zero it is 0, and the least integer by -1 is itself: nothing traps."""
    a, b = f.match(a, b)
    if a.kind == "i1":
        a, b = (f.convert("zext", x, "i32") for x in (a, b))
    nothing = f.compare("eq", b, like(b, 0))
    minus = f.compare("eq", b, like(b, -1))
    safe = f.select(nothing, like(b, 1), f.select(minus, like(b, 1), b))
    quotient, rest = f.binary("sdiv", a, safe), f.binary("srem", a, safe)
    other = f.compare("slt", f.binary("xor", rest, safe), like(b, 0))
    down = f.select(f.compare("ne", rest, like(b, 0)), other, like(other, False))
    quotient = f.select(down, f.binary("sub", quotient, like(b, 1)), quotient)
    rest = f.select(down, f.binary("add", rest, safe), rest)
    quotient = f.select(minus, negate(f, a), quotient)
    zero = like(b, 0)
    return f.select(nothing, zero, quotient), f.select(nothing, zero, rest)


def _float_division(f: Function, a: Value, b: Value) -> tuple[Value, Value]:
    """(floor of a / b, rest with the sign of b), as NumPy computes them from the C remainder."""
    a, b = f.match(a, b)
    rest = f.binary("frem", a, b)
    quotient = f.binary("fdiv", f.binary("fsub", a, rest), b)
    unlike = f.compare(
        "ne", f.compare("olt", b, like(b, 0.0)), f.compare("olt", rest, like(b, 0.0))
    )
    down = f.select(f.compare("une", rest, like(b, 0.0)), unlike, like(unlike, False))
    rest = f.select(down, f.binary("fadd", rest, b), rest)
    quotient = f.select(down, f.binary("fsub", quotient, like(b, 1.0)), quotient)
    low = f.intrinsic("floor", [quotient])
    far = f.compare("ogt", f.binary("fsub", quotient, low), like(b, 0.5))
    low = f.select(far, f.binary("fadd", low, like(b, 1.0)), low)
    return f.select(f.compare("oeq", b, like(b, 0.0)), f.binary("fdiv", a, b), low), rest


def power(f: Function, a: Value, b: Value) -> Value:
    """Squares and roots directly, anything else in double precision."""
    simple: Mapping[str, Emit] = {
        "2.0": lambda: f.binary("fmul", a, a),
        "1.0": lambda: a,
        "3.0": lambda: f.binary("fmul", f.binary("fmul", a, a), a),
        "-1.0": lambda: reciprocal(f, a),
    }
    for exponent, emit in simple.items():
        if b == constant(b.kind, float(exponent)):
            return emit()
    a, b = f.match(a, b)
    if a.kind == "double":
        return f.intrinsic("pow", [a, b])
    wide = [f.convert("fpext", x, "double") for x in (a, b)]
    return f.convert("fptrunc", f.intrinsic("pow", wide), a.kind)


FUNCTIONS: Mapping[str, Emit] = {
    "negate": negate,
    "absolute": absolute,
    "sign": sign,
    "exp": exp,
    "log": log,
    "sqrt": sqrt,
    "rsqrt": lambda f, x: reciprocal(f, sqrt(f, x)),
    "reciprocal": reciprocal,
    "tanh": tanh,
    "erf": erf,
    "sigmoid": sigmoid,
    "sin": sin,
    "cos": cos,
    "floor": rounding("floor"),
    "ceil": rounding("ceil"),
    "round": rounding("rint"),
    "is_nan": lambda f, x: (
        f.compare("uno", x, x) if x.kind in FLOATS else constant("i1", False, x.width)
    ),
    "logical_not": lambda f, x: f.binary("xor", nonzero(f, x), constant("i1", True, x.width)),
    "add": arithmetic("fadd contract", "add", "or"),
    # Never one operation with a product: s * x - max(s * x) must be 0 at the maximum, however
    # large, or the exponential of what a rounding left there overflows.
    "subtract": arithmetic("fsub", "sub", "xor"),
    "multiply": arithmetic("fmul contract", "mul", "and"),
    "divide": lambda f, a, b: f.binary("fdiv", a, b),
    "floor_divide": floor_divide,
    "modulo": modulo,
    "power": power,
    "maximum": extreme("maximum", "smax", "or"),
    "minimum": extreme("minimum", "smin", "and"),
    "equal": comparison("oeq", "eq"),
    "not_equal": comparison("une", "ne"),
    "less": comparison("olt", "slt"),
    "less_equal": comparison("ole", "sle"),
    "greater": comparison("ogt", "sgt"),
    "greater_equal": comparison("oge", "sge"),
    "logical_and": logical("and"),
    "logical_or": logical("or"),
    "where": lambda f, c, a, b: f.select(nonzero(f, c), a, b),
}
"""Code for every function of the language; arguments have one kind, but the condition of where."""

COMBINE: Mapping[str, Emit] = {
    "sum": FUNCTIONS["add"],
    "max": FUNCTIONS["maximum"],
    "min": FUNCTIONS["minimum"],
    "product": FUNCTIONS["multiply"],
}
"""How two partial results of a fold become one."""
