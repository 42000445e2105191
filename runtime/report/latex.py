"""Formulas as LaTeX, in the subset that Markdown renderers set."""

from __future__ import annotations

from collections.abc import Iterable

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

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta",
    "η": "eta", "θ": "theta", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi",
    "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau", "φ": "varphi", "χ": "chi", "ψ": "psi",
    "ω": "omega",
}  # fmt: skip

SIGNS = {
    "·": r"\cdot",
    "−": "-",
    "≥": r"\ge",
    "≤": r"\le",
    "≠": r"\ne",
    "<": r"\lt",
    ">": r"\gt",
    "∧": r"\wedge",
    "∨": r"\vee",
    "¬": r"\neg",
    "←": r"\leftarrow",
    "∑": r"\sum",
    "∏": r"\prod",
    "⌈": r"\lceil",
    "⌉": r"\rceil",
    "⌊": r"\lfloor",
    "⌋": r"\rfloor",
    "{": r"\{",
    "}": r"\}",
    "×": r"\times",
}

NUMBERS = {"∞": r"\infty", "π": r"\pi"}


def display(equations: Iterable[Equation]) -> str:
    """Equations below each other, their signs aligned."""
    lines = [
        f"{latex(each.left)} &{SIGNS.get(each.relation, each.relation)} {latex(each.right)}"
        for each in equations
    ]
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"


def latex(box: Box) -> str:
    """One box on one line."""
    match box:
        case Name(text, primes):
            return _name(text) + "'" * primes
        case Number(text):
            return NUMBERS.get(text, text)
        case Word(text):
            return _name(text) if text in GREEK else rf"\operatorname{{{_plain(text)}}}"
        case Sign(text):
            return SIGNS.get(text, text)
        case Row(items):
            return " ".join(map(latex, items))
        case Fraction(top, bottom):
            return rf"\frac{{{latex(top)}}}{{{latex(bottom)}}}"
        case Root(inside):
            return rf"\sqrt{{{latex(inside)}}}"
        case Scripts(base, below, above):
            text = f"{{{latex(base)}}}"
            text += "" if below is None else f"_{{{latex(below)}}}"
            return text + ("" if above is None else f"^{{{latex(above)}}}")
        case Big(Sign(text), under, inside):
            return rf"{SIGNS[text]}_{{{latex(under)}}} {latex(inside)}"
        case Big(Word(text), under, inside):
            return rf"\operatorname*{{{_plain(text)}}}_{{{latex(under)}}} {latex(inside)}"
        case Fence(left, inside, right):
            return rf"\left{_fence(left, 'l')} {latex(inside)} \right{_fence(right, 'r')}"
        case Cases(rows):
            return rf"\begin{{cases}} {' '.join(map(_case, rows))} \end{{cases}}"
    raise AssertionError(box)


def _name(text: str) -> str:
    if text in GREEK:
        return rf"\{GREEK[text]}"
    return text if len(text) == 1 else rf"\mathrm{{{_plain(text)}}}"


def _plain(text: str) -> str:
    return text.replace("_", r"\_").replace(" ", r"\ ")


def _fence(text: str, side: str) -> str:
    """A vertical bar by its name: in a table of Markdown the sign would end the cell."""
    return rf"\{side}vert" if text == "|" else SIGNS.get(text, text)


def _case(case: tuple[Box, Box | None]) -> str:
    value, condition = case
    when = r"\text{otherwise}" if condition is None else rf"\text{{if }} {latex(condition)}"
    return rf"{latex(value)} & {when} \\"
