"""Formulas as MathML Core, which browsers set without help."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .boxes import (
    Big,
    Box,
    Cases,
    Equation,
    Fence,
    Fraction,
    Name,
    Number,
    Root,
    Row,
    Scripts,
    Sign,
    Word,
)
from .latex import latex

FENCES = frozenset("()[]{}|⌈⌉⌊⌋")


def inline(box: Box) -> str:
    """A formula in running text."""
    return f"<math>{mathml(box)}</math>"


def display(equations: Iterable[Equation]) -> str:
    """Equations below each other, their signs aligned; with LaTeX for those who cannot see it."""
    equations = list(equations)
    spoken = "; ".join(f"{latex(e.left)} {e.relation} {latex(e.right)}" for e in equations)
    rows = "".join(
        f'<mtr><mtd class="left">{mathml(each.left)}</mtd><mtd>{_sign(each.relation)}</mtd>'
        f"<mtd>{mathml(each.right)}</mtd></mtr>"
        for each in equations
    )
    table = f'<mtable class="equations" displaystyle="true">{rows}</mtable>'
    return f'<math display="block" alttext="{escape(spoken)}">{table}</math>'


def mathml(box: Box) -> str:
    """One box as elements."""
    match box:
        case Name(text, primes):
            return f"<mi>{escape(slanted(text) + '′' * primes if primes else text)}</mi>"
        case Number(text):
            return f"<mn>{escape(text)}</mn>"
        case Word(text):
            return f'<mi mathvariant="normal">{escape(text)}</mi>'
        case Sign(text):
            return _sign(text)
        case Row(items):
            return f"<mrow>{''.join(map(mathml, items))}</mrow>"
        case Fraction(top, bottom):
            return f"<mfrac>{_one(top)}{_one(bottom)}</mfrac>"
        case Root(inside):
            return f"<msqrt>{mathml(inside)}</msqrt>"
        case Scripts(base, below, above):
            return _scripts(base, below, above)
        case Big(sign, under, inside):
            mark = f'<mo movablelimits="false">{escape(sign.text)}</mo>'
            return f"<mrow><munder>{mark}{_one(under)}</munder>{mathml(inside)}</mrow>"
        case Fence(left, inside, right):
            return f"<mrow>{_sign(left)}{mathml(inside)}{_sign(right)}</mrow>"
        case Cases(rows):
            return f"<mrow>{_sign('{')}<mtable>{''.join(map(_case, rows))}</mtable></mrow>"


def slanted(name: str) -> str:
    """A letter as the slanted one of mathematics: browsers slant an <mi> of one character only."""
    if name == "h":
        return "ℎ"  # it was there before the others, which leave a gap for it
    if len(name) == 1 and "a" <= name <= "z":
        return chr(ord("𝑎") + ord(name) - ord("a"))
    return name


def _sign(text: str) -> str:
    if text in FENCES:
        return f'<mo fence="true" stretchy="true">{escape(text)}</mo>'
    return f"<mo>{escape(text)}</mo>"


def _one(box: Box) -> str:
    """An element that counts as one child."""
    return f"<mrow>{mathml(box)}</mrow>"


def _scripts(base: Box, below: Box | None, above: Box | None) -> str:
    if below is None and above is None:
        return mathml(base)
    parts = "".join(_one(script) for script in (below, above) if script is not None)
    name = "msubsup" if below and above else "msub" if below else "msup"
    return f"<{name}>{_one(base)}{parts}</{name}>"


def _case(case: tuple[Box, Box | None]) -> str:
    value, condition = case
    when = "<mtext>otherwise</mtext>"
    if condition is not None:
        when = f"<mrow><mtext>if\u00a0</mtext>{mathml(condition)}</mrow>"
    return f'<mtr><mtd>{mathml(value)}</mtd><mtd class="when">{when}</mtd></mtr>'
