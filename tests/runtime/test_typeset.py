"""Expressions as formulas: the LaTeX of what is set, and MathML of the same boxes."""

import math
from xml.etree import ElementTree

import pytest

from infinisa.isa import formulas
from infinisa.isa.instruction import Instruction, State
from infinisa.isa.language import (
    Constant,
    Immediate,
    Input,
    Node,
    Value,
    absolute,
    apply,
    argmax,
    cast,
    dot,
    equal,
    exp,
    gather,
    lift,
    max,
    maximum,
    mean,
    position,
    relu,
    rename,
    rsqrt,
    scan,
    sigmoid,
    size,
    sqrt,
    stack,
    sum,
    update,
    view,
    where,
)
from infinisa.runtime.report import latex, mathml
from infinisa.runtime.report.boxes import Formula
from infinisa.runtime.report.typeset import formula

X, Y = Input("x", ("m", "n")), Input("y", ("m", "n"))
A, B = Input("a", ("m", "k")), Input("b", ("k", "n"))
R, S = Input("r", ("m",)), Input("s", ("m",))
SCALE, EPSILON = Immediate("scale", 1.0), Immediate("epsilon", 1e-5)


def instruction(*outputs: Node, states: tuple[State, ...] = ()) -> Instruction:
    """An instruction that computes these values."""
    return Instruction(
        name="it",
        unit="vector",
        operands=(X, Y, A, B, R, S),
        immediates=(SCALE, EPSILON),
        outputs=outputs,
        states=states,
    )


def lines(found: Formula) -> list[str]:
    """Each equation in LaTeX, without the braces and spaces that do not matter for reading."""
    text = []
    for each in (*found.equations, *found.where):
        line = f"{latex.latex(each.left)} {each.relation} {latex.latex(each.right)}"
        for noise in (r"\left", r"\right", r"\mathrm", r"\operatorname*", r"\operatorname"):
            line = line.replace(noise + "{", "{").replace(noise, "")
        for braces in "{}":
            line = line.replace(braces, " ")
        text.append(" ".join(line.replace("_", " _ ").split()))
    return text


def right(value: Node) -> str:
    """The right side of the only equation."""
    (line,) = lines(formula(instruction(value)))
    return line.partition(" = ")[2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (R - (S - R), r"r _ m - ( s _ m - r _ m )"),
        ((R - S) - R, r"r _ m - s _ m - r _ m"),
        ((R + S) * R, r"( r _ m + s _ m ) \cdot r _ m"),
        (R * S + R, r"r _ m \cdot s _ m + r _ m"),
        (-(R + S), r"- ( r _ m + s _ m )"),
        (R + -S, r"r _ m + ( - s _ m )"),
        (R + Constant(-2.0), r"r _ m - 2"),
        (R * -S, r"r _ m \cdot ( - s _ m )"),
        ((R + S) / R, r"\frac r _ m + s _ m r _ m"),
        ((R + S) ** 2.0, r"( r _ m + s _ m ) ^ 2"),
        (R ** (S + 1.0), r"r _ m ^ s _ m + 1"),
        ((R**2.0) ** 3.0, r"( r _ m ^ 2 ) ^ 3"),
        (R * R * R, r"r _ m ^ 3"),
        (R * S * S * R, r"r _ m \cdot s _ m ^ 2 \cdot r _ m"),
        (R * rsqrt(S) * S, r"\frac r _ m \sqrt s _ m \cdot s _ m"),
        (rsqrt(S), r"\frac 1 \sqrt s _ m"),
        (sqrt(absolute(R)), r"\sqrt \lvert r _ m \rvert"),
        (apply("floor_divide", R, S), r"\lfloor \frac r _ m s _ m \rfloor"),
        (apply("modulo", R + S, S), r"( r _ m + s _ m ) mod s _ m"),
        (equal(R, S), r"( r _ m = s _ m )"),
        (apply("logical_not", R >= S), r"\neg ( r _ m \ge s _ m )"),
        (
            apply("logical_or", apply("logical_and", R > S, R < 1.0), R <= 0.0),
            r"( r _ m \gt s _ m \wedge r _ m \lt 1 \vee r _ m \le 0 )",
        ),
        (relu(R), r"max ( r _ m , 0 )"),
        (sigmoid(R), r"\sigma ( r _ m )"),
        (cast(R, "f16"), r"f16 ( r _ m )"),
        (R + EPSILON, r"r _ m + \varepsilon"),
        (R * SCALE, r"r _ m \cdot scale"),
        (position("m") * R, r"m \cdot r _ m"),
        (R / size("m"), r"\frac r _ m \lvert m \rvert"),
    ],
)
def test_brackets_stand_where_they_are_needed_and_nowhere_else(value: Node, expected: str) -> None:
    assert right(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, "0.5"),
        (2.0, "2"),
        (-3, "- 3"),
        (1e-5, r"10 ^ - 5"),
        (2.5e-7, r"2.5 \times 10 ^ - 7"),
        (math.inf, r"\infty"),
        (-math.inf, r"- \infty"),
        (math.nan, "NaN"),
        (math.sqrt(2 / math.pi), r"\sqrt \frac 2 \pi"),
        (math.sqrt(0.5), r"\frac 1 \sqrt 2"),
        (0.7071067811865475, "0.7071067811865475"),
    ],
)
def test_a_number_is_written_exactly(value: Value, expected: str) -> None:
    """A root is written as one only if the number is that root to the last bit."""
    assert right(maximum(R, lift(value))) == f"max ( r _ m , {expected} )"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (dot(A, B, "k"), r"\sum _ k a _ m , k \cdot b _ k , n"),
        (dot(A, B, "k") + Y, r"\sum _ k a _ m , k \cdot b _ k , n + y _ m , n"),
        (dot(A, B, "k") * Y, r"( \sum _ k a _ m , k \cdot b _ k , n ) \cdot y _ m , n"),
        (sum(X + Y, "n"), r"\sum _ n ( x _ m , n + y _ m , n )"),
        (sum(X * X, "n"), r"\sum _ n x _ m , n ^ 2"),
        (sum(X, ["m", "n"]), r"\sum _ m , n x _ m , n"),
        (X - max(X, "n"), r"x _ m , n - max _ n' x _ m , n'"),
        (argmax(X - Y, "n"), r"arg\ max _ n ( x _ m , n - y _ m , n )"),
        (mean(X, "n") + R, r"\frac 1 \lvert n \rvert \sum _ n x _ m , n + r _ m"),
        (mean(X, ["m", "n"]), r"\frac 1 \lvert m \rvert \lvert n \rvert \sum _ m , n x _ m , n"),
        (dot(A, rename(A, {"m": "n"}), "k"), r"\sum _ k a _ m , k \cdot a _ n , k"),
    ],
)
def test_a_fold_has_indices_of_its_own(value: Node, expected: str) -> None:
    """An index that means something outside of a sum already is primed inside."""
    assert right(value) == expected


def test_what_is_used_twice_is_written_once() -> None:
    """In a softmax the exponentials have a letter, and two indices in the quotient."""
    assert lines(formula(instruction(formulas.softmax(X, "n")))) == [
        r"z _ m , n = \frac u _ m , n \sum _ n' u _ m , n'",
        r"u _ m , n = exp ( x _ m , n - max _ n' x _ m , n' )",
    ]


def test_a_result_that_another_uses_is_called_by_its_name() -> None:
    total = X + Y
    assert lines(formula(instruction(total, exp(total)))) == [
        "z _ m , n ^ ( 1 ) = x _ m , n + y _ m , n",
        "z _ m , n ^ ( 2 ) = exp ( z _ m , n ^ ( 1 ) )",
    ]


def test_a_state_is_replaced() -> None:
    """An arrow, and the old value on the right."""
    total = Input("total", ("m",))
    found = formula(instruction(total + sum(X, "n"), states=(State(total, 0.0),)))

    assert lines(found) == [r"total _ m ← total _ m + \sum _ n x _ m , n"]


def test_cases_stand_in_equations_of_their_own() -> None:
    assert lines(formula(instruction(exp(where(R > 0.0, R, 0.0)) + S))) == [
        "z _ m = exp ( u _ m ) + s _ m",
        r"u _ m = \begin cases r _ m & \text if r _ m \gt 0 \\ 0 & \text otherwise \\ \end cases",
    ]


def test_a_view_is_the_index_that_it_reads_at() -> None:
    """A window, with what it reads outside; digits; one position."""
    signal = Input("signal", ("h",))
    found = formula(instruction(view(signal, {"h": "2*p + r - 1"}, fill=0.0)))

    assert lines(found) == ["z _ p , r = signal _ 2 p + r - 1"]
    assert found.notes == ("Outside of its range signal counts as 0.0.",)
    assert right(view(signal, {"h": "(3*p + 1) // 2 % 4"})) == (
        r"signal _ \lfloor \frac 3 p + 1 2 \rfloor mod 4"
    )
    assert right(view(signal, {"h": "n % 64"})) == "signal _ n mod 64"
    assert right(view(signal, {"h": 7}) + R) == "signal _ 7 + r _ m"


def test_a_look_up_is_an_index_that_is_a_value() -> None:
    found = formula(instruction(gather(X, Input("token", ("t",), "i32"), "m")))

    assert lines(found) == ["z _ t , n = x _ token _ t , n"]
    assert found.notes == ("An index outside of the table is moved to its nearest end.",)


def test_a_stack_and_an_update_are_cases() -> None:
    assert lines(formula(instruction(stack([R, S], "i")))) == [
        r"z _ i , m = \begin cases r _ m & \text if i = 0 \\ s _ m & \text if i = 1 \\ \end cases"
    ]
    assert lines(formula(instruction(update(X, R, {"n": 3})))) == [
        r"z _ m , n = \begin cases r _ m & \text if n = 3 \\ "
        r"x _ m , n & \text otherwise \\ \end cases"
    ]


@pytest.mark.parametrize(
    ("reverse", "before", "start", "last"),
    [(False, "t - 1", "- 1", r"\lvert t \rvert - 1"), (True, "t + 1", r"\lvert t \rvert", "0")],
)
def test_a_recurrence_is_an_equation_between_steps(
    reverse: bool, before: str, start: str, last: str
) -> None:
    """Its state after a step from that of the step before, and the one that it starts from."""

    def step(h: Node, x_t: Node) -> tuple[list[Node], list[Node]]:
        return [h * 0.5 + x_t], [exp(h)]

    xs = Input("xs", ("t", "m"))
    (final,), (every,) = scan(step, {"h": R}, {"x_t": xs}, "t", reverse)

    assert lines(formula(instruction(final, every))) == [
        f"z _ m ^ ( 1 ) = h _ {last} , m",
        f"z _ t , m ^ ( 2 ) = exp ( h _ {before} , m )",
        rf"h _ t , m = h _ {before} , m \cdot 0.5 + xs _ t , m",
        f"h _ {start} , m = r _ m",
    ]


def test_states_may_move_on_unchanged() -> None:
    """The input two steps ago: one state takes the step's slice, the other the first state."""

    def step(one: Node, two: Node, x_t: Node) -> tuple[list[Node], list[Node]]:
        return [x_t, one], [two]

    xs = Input("xs", ("t", "m"))
    _, (delayed,) = scan(step, {"one": R, "two": S}, {"x_t": xs}, "t")

    assert lines(formula(instruction(delayed))) == [
        "z _ t , m = two _ t - 1 , m",
        "one _ t , m = xs _ t , m",
        "one _ - 1 , m = r _ m",
        "two _ t , m = one _ t - 1 , m",
        "two _ - 1 , m = s _ m",
    ]


def test_mathml_is_well_formed_and_says_the_same_in_latex() -> None:
    """Every element that a formula may need; the alternative text is the LaTeX."""
    value = where(X > 0.0, formulas.layer_norm(X, R, R, "n", EPSILON) ** 2.0, absolute(Y))
    found = formula(instruction(value))
    root = ElementTree.fromstring(mathml.display(found.equations))

    assert root.get("alttext") == "; ".join(
        f"{latex.latex(e.left)} {e.relation} {latex.latex(e.right)}" for e in found.equations
    )
    text = mathml.display(found.equations) + mathml.display(found.where)
    for tag in ("mfrac", "msqrt", "munder", "msub", "msubsup", "mtable", "mtext"):
        assert f"<{tag}" in text
    assert "<mi>𝑛′</mi>" in text
