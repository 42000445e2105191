"""A program that breaks a rule is refused with the place, what must be, what is, and the rule."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from infinisa.isa.assembly import parse_text
from infinisa.isa.errors import ProgramError
from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Immediate, Input, dot, stack, sum, update, view
from infinisa.isa.machine import Machine
from infinisa.isa.program import Loop, Program, Statement
from infinisa.isa.scope import Facts
from infinisa.isa.timing import Timing
from infinisa.isa.verify import RULES, issue_bound, verify
from tests.isa.programs import LIBRARY, TINY, programs

X, G, Y, N = Input("x", ("m",)), Input("x", ("g",)), Input("y", ()), Input("y", ("n",))
WINDOW = view(X, {"m": "p + r - 1"}, fill=0.0)
OWN = {
    name: Instruction(name=name, unit="vector", operands=operands, outputs=(output,))
    for name, operands, output in (
        ("pair", (X,), stack([X, X], "g")),
        ("turned", (G,), view(G, {"g": "1 - e"}) + view(G, {"g": "e"})),
        ("put", (X, Y), update(X, Y, {"m": 3})),
        ("outer", (X, N), sum(X * N, "m n")),
        ("smooth", (X, Input("w", ("r",))), dot(WINDOW, Input("w", ("r",)), "r")),
    )
}
ALL = {**LIBRARY, **OWN}
DUAL = replace(TINY, cores=2)

BASE = """
program base for tiny

parameter rows <= 40 default 20
parameter turn <= 7 default 0 computed
parameter found <= 16 default 0 computed

opcode load = load "" on load
opcode store = store "" on store
opcode relu = relu @ on vector
    bind m = s d
    limit s 16
    read (s d)
    write (s d)
    outputs 0
opcode mm = matmul.step @ on matrix
    bind m = s
    bind k = d
    bind n = f
    read (s d)
    read (d f)
    write (s f)
    outputs 0
opcode look = embedding @ on vector
    bind v = v
    bind d = d
    bind s = s
    read (v d)
    read (s)
    write (s d)
    outputs 0
opcode odd = keep_odd @ on text
    bind n = n
    read (n)
    write (n)
    outputs 0

buffer ids: input i32 [40] in dram
buffer table: weight bf16 [9, 8] in dram content "00"
buffer w: weight f32 [8, 12] in dram
buffer e: temporary f32 [40, 8] in dram
buffer y: output f32 [40, 12] in dram
buffer text: input i32 [16] in dram
buffer odds: output i32 [16] in dram
buffer kept: state f32 [8, 8] in dram
buffer x1: temporary f32 [16, 8] in scratchpad place 0 pitch 512 slots 2 rotor s1
buffer r1: temporary f32 [16, 8] in scratchpad place 1 address 1024 pitch 512
buffer y1: temporary f32 [16, 12] in scratchpad place 2 address 1536 pitch 768

section text
    axis n = 16
    stage odd
        odds[n] = odd(text[n]) on text over n sets found

section main
    axis s = rows most 40
    axis d = 8
    axis f = 12
    axis v = 9
    stage look
        for s0 in s step 16:
            e[s0-s, d] = look(table[v, d], ids[s0]) on vector over v, d, s=s0
    stage mm
        alive x1 0 to 1
        alive r1 0 to 2
        alive y1 1 to 2
        for s1 in s step 16:
            ahead:
                x1[s1-s1, d] = load(e[s1-s, d]) on load
            r1[s1-s1, d] = relu(x1[s1-s1, d]) on vector over s=s1, d
            for d1 in d step 4:
                y1[s1-s1, f] = mm(r1[s1-s1, d1], w[d1, f]) on matrix over s=s1, d=d1, f fresh d1
            y[s1, f] = store(y1[s1-s1, f]) on store

section turns repeat turn < 8 tokens 1
    axis s = 1 from turn most 1 end 8
    axis d = 8
    stage keep
        kept[s, d] = relu(kept[s, d]) on vector over s, d
"""

SMALL = """
program small for tiny

parameter rows <= 8 default 3

opcode op = NAME @ on vector
    LINES

buffer x: input f32 [8] in dram
buffer y: input f32 [12] in dram
buffer one: input f32 [] in dram
buffer ids: input i32 [2] in dram
buffer square: input f32 [8, 8] in dram
buffer out: output f32 [8, 8] in dram

section main
    axis a = 8
    axis b = rows most 8
    axis c = 2
    axis d = 12
    stage all
        ISSUE
"""


def program(text: str) -> Program:
    """The program of a text in which `name @` stands for the instruction and its meaning."""

    def hashed(found: re.Match[str]) -> str:
        name = found[1]
        return f'{name} "{find(name, ALL).meaning}"' if name in known else f'{name} "?"'

    known = {*ALL, *(f"{name}.step" for name in ALL)}
    return parse_text(re.sub(r"(\S+) @", hashed, text), "test")


def edited(*edits: str) -> Program:
    """The program BASE with some lines changed: `old -> new`."""
    text = BASE
    for edit in edits:
        old, new = edit.split(" -> ")
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return program(text)


def refusal(program: Program, machine: Machine | None = TINY) -> str:
    with pytest.raises(ProgramError) as caught:
        verify(program, machine, ALL)
    return str(caught.value)


def cases() -> list[tuple[str, tuple[str, ...], str]]:
    """(rule, edits, message) from refusals.txt."""
    found: list[tuple[str, tuple[str, ...], str]] = []
    edits: list[str] = []
    rule = ""
    for line in (Path(__file__).parent / "refusals.txt").read_text("utf-8").splitlines():
        if line.startswith("## "):
            rule = line[3:]
        elif line.startswith("= "):
            found.append((rule, tuple(edits), line[2:]))
            edits = []
        elif line and not line.startswith("#"):
            edits.append(line.replace("|", "\n"))
    return found


def small(instruction: str, lines: str, issue: str) -> Program:
    """The program SMALL with an opcode of these lines (`;` parts them) and an issue of it."""
    text = SMALL.replace("NAME", instruction).replace("ISSUE", issue)
    return program(text.replace("LINES", "\n    ".join(lines.split("; "))))


def test_a_program_that_keeps_all_rules_is_proved() -> None:
    """Sixteen operands, each inside its buffer."""
    assert verify(program(BASE), TINY, ALL) == 16
    assert verify(program(BASE), None, ALL) == 16


@pytest.mark.parametrize(
    ("rule", "edits", "message"), cases(), ids=lambda value: value if type(value) is str else ""
)
def test_a_broken_rule_is_named(rule: str, edits: tuple[str, ...], message: str) -> None:
    assert refusal(edited(*edits)) == f"{message} (rule: {rule})"


def test_every_rule_has_a_case() -> None:
    elsewhere = {
        "immediates are held",
        "indices inside instructions stay in bounds",
        "values fit memory",
        "issues take time",
    }

    rules = [rule.__name__.replace("_", " ") for rule in RULES]
    assert set(rules) - {rule for rule, _, _ in cases()} == elsewhere


INSIDE = [
    (
        "pair",
        "bind m = a; bind g = b; read (a); write (b a); outputs 0",
        "out[b, a] = op(x[a]) on vector over a, b",
        "axis 'b' must have 2 positions, not 0 to 8",
    ),
    (
        "turned",
        "bind g = a; bind e = c; read (a); write (c .); outputs 0",
        "out[c, 0] = op(x[a]) on vector over a, c",
        "",
    ),
    (
        "turned",
        "bind g = b; bind e = c; read (b); write (c .); outputs 0",
        "out[c, 0] = op(x[b]) on vector over b, c",
        "index b=-1*c + 1 must be proved to stay within the positions of 'b': it is 0 to 1, they "
        "are some of 0 to 7",
    ),
    (
        "turned",
        "bind g = c; bind e = a; read (c); write (a .); outputs 0",
        "out[a, 0] = op(x[c]) on vector over a, c",
        "index c=-1*a + 1 must be proved to stay within the positions of 'c': it is -6 to 1, they "
        "are 0 to 1",
    ),
    (
        "put",
        "bind m = c; read (c); read (); write (c .); outputs 0",
        "out[c, 0] = op(x[c], one[]) on vector over c",
        "index c=3 must be proved to stay within the positions of 'c': it is 3 to 3, they are "
        "0 to 1",
    ),
    (
        "embedding",
        "bind v = b; bind d = a; bind s = c; read (b a); read (c); write (c a); outputs 0",
        "out[c, a] = op(square[b, a], ids[c]) on vector over a, b, c",
        "axis 'b' must have at least one position",
    ),
    (
        "argmax",
        "bind m = c; bind n = b; read (c b); write (c .); outputs 0",
        "out[c, 0] = op(square[c, b]) on vector over b, c",
        "axis 'b' must have at least one position",
    ),
]


@pytest.mark.parametrize(("instruction", "lines", "issue", "fault"), INSIDE)
def test_an_index_inside_an_instruction_is_proved_or_refused(
    instruction: str, lines: str, issue: str, fault: str
) -> None:
    """A view, an update, a look-up or a stack could leave what it works on: a JIT would follow."""
    made = small(instruction, lines, issue)

    if not fault:
        assert verify(made, TINY, ALL) > 0
        return
    place = f"section 'main', stage 0 'all', `{issue}`: "
    rule = " (rule: indices inside instructions stay in bounds)"
    assert refusal(made) == place + fault + rule


def test_a_window_is_read_as_far_as_it_reaches() -> None:
    """p + r - 1 over 8 and 2 positions is 9 positions: of no axis, but of both ranges."""
    lines = "bind m = h; bind p = a; bind r = c; read (h); read (c); write (a .); outputs 0"
    read = "x[a+c-1] fill 0.0"

    right = small("smooth", lines, f"out[a, 0] = op({read}, x[c]) on vector over a, c")
    assert verify(right, TINY, ALL) == 3
    for wrong in ("x[a]", "x[2*a+c-1] fill 0.0", "x[c] fill 0.0", "x[a+a] fill 0.0"):
        issue = f"out[a, 0] = op({wrong}, x[c]) on vector over a, c"
        assert refusal(small("smooth", lines, issue)).endswith(
            "'x' must be over a + c where the opcode names axis 'h' (rule: operands fit opcodes)"
        )


def test_the_axis_of_a_window_has_no_range_of_its_own() -> None:
    lines = "bind m = h; bind p = a; bind r = c; read (h); read (c); write (a .); outputs 0"
    issue = "out[a, 0] = op(x[a+c-1] fill 0.0, x[c]) on vector over a, c, h=b"

    assert refusal(small("smooth", lines, issue)).endswith(
        "axis 'h' must have no range, being read as a + c - 1 only (rule: axes have ranges)"
    )


def test_a_window_without_a_fill_must_lie_inside_its_buffer() -> None:
    lines = "bind m = h; bind p = a; bind r = c; read (h); read (c); write (a .); outputs 0"
    issue = "out[a, 0] = op(x[a+c-1], x[c]) on vector over a, c"

    assert refusal(small("smooth", lines, issue)) == (
        f"section 'main', stage 0 'all', `{issue}`: dimension 0 of 'x' must be within [0, 8), "
        "not in [-1, 8) (rule: accesses stay in bounds)"
    )


def test_a_value_inside_an_issue_fits_memory() -> None:
    """The product over a and d is 8 x 12 numbers of at most 8 bytes."""
    lines = "bind m = a; bind n = d; read (a); read (d); write (. .); outputs 0"
    issue = "out[0, 0] = op(x[a], y[d]) on vector over a, d"
    narrow = replace(TINY, memories=(TINY.memories[0], replace(TINY.memories[1], size=767)))

    assert verify(small("outer", lines, issue), TINY, ALL) == 3
    assert refusal(small("outer", lines, issue), narrow) == (
        f"section 'main', stage 0 'all', `{issue}`: a value over (a d) must fit 767 bytes, not 768 "
        "(rule: values fit memory)"
    )


@pytest.mark.parametrize(
    ("cycles", "fault"),
    [
        ("m * width", "known time, but timing 'm * width': nothing is called 'width'"),
        ("m / (lanes - 16)", "known time, but integer division or modulo by zero"),
        ("m - 30", "positive time, not -22 cycles"),
    ],
)
def test_the_timing_of_an_instruction_has_a_value(cycles: str, fault: str) -> None:
    """Eight positions on sixteen lanes."""
    library = {**ALL, "relu": replace(ALL["relu"], occupancy=Timing(cycles))}
    issue = "out[a, 0] = op(x[a]) on vector over a"
    made = small("relu", "bind m = a; read (a); write (a .); outputs 0", issue)

    with pytest.raises(ProgramError) as caught:
        verify(made, TINY, library)

    assert str(caught.value) == (
        f"section 'main', stage 0 'all', `{issue}`: must take a {fault} (rule: issues take time)"
    )


def test_cores_must_write_pieces_of_their_own() -> None:
    """Dealt out over d, all cores add to the same y1; dealt out over s, each has rows of e."""
    by_rows = ("for s0 in s step 16: -> for s0 in s step 16 over cores:",)
    by_columns = (
        "        for s0 in s step 16: ->         for d0 in d step 4 over cores:",
        "e[s0-s, d] = look(table[v, d], ids[s0]) on vector over v, d, s=s0 -> "
        "e[s-s, d] = look(table[v, d], ids[s]) on vector over v, d, s",
    )

    assert verify(edited(*by_rows), DUAL, ALL) == 16
    assert refusal(edited(*by_columns), DUAL) == (
        "section 'main', stage 0 'look': cores must write pieces of their own of 'e', cut by 'd0' "
        "(rule: cores work apart)"
    )


def test_work_dealt_out_is_measured_by_the_machine() -> None:
    """40 rows are 32 and 8 on two cores, 40 on one: one core needs more than the limit of 16."""
    edits = (
        "        kept[s, d] = relu(kept[s, d]) on vector over s, d ->         "
        "for s1 in s step 16 over cores:\n            "
        "e[s1-s, d] = relu(e[s1-s, d]) on vector over s=s1, d",
        "turns repeat turn < 8 tokens 1 -> more",
        "axis s = 1 from turn most 1 end 8 -> axis s = rows most 40",
        "limit s 16 -> limit s 32",
    )

    assert verify(edited(*edits), DUAL, ALL) == 16
    assert refusal(edited(*edits), TINY).endswith(
        "axis 's' must be at most 32 an issue, not 40 (rule: axes have ranges)"
    )


CHAIN = """
program chain for tiny

opcode relu = relu @ on vector
    bind m = s
    read (s)
    write (s)
    outputs 0

buffer x: input f32 [8] in dram
buffer a: temporary f32 [8] in dram
buffer b: temporary f32 [8] in dram
buffer c: temporary f32 [8] in dram
buffer y: output f32 [8] in dram

section main
    axis s = 8
    stage one
        a[s] = relu(x[s]) on vector over s
    stage two
        b[s] = relu(a[s]) on vector over s
    stage three
        c[s] = relu(b[s]) on vector over s
    stage four
        y[s] = relu(c[s]) on vector over s
"""


def test_stages_that_are_alike_are_proved_once_and_count_each() -> None:
    made = program(CHAIN)

    assert [like.first for like in made.likes[0]] == [0, 1, 1, 3]
    assert verify(made, TINY, ALL) == 8
    assert issue_bound(Facts(made, TINY, ALL)) == 4


def test_what_a_stage_reads_must_be_written_though_another_is_like_it() -> None:
    assert refusal(
        program(CHAIN.replace("relu(b[s])", "relu(c[s])").replace("c[s] =", "b[s] ="))
    ) == (
        "section 'main', stage 2 'three', `b[s] = relu(c[s]) on vector over s`: 'c' must be "
        "written before it is read (rule: results are written before they are read)"
    )


def test_deep_loops_are_refused() -> None:
    """Sixty-four loops inside each other, so that nothing that walks them runs out of stack."""
    issue = "out[a, 0] = op(x[a]) on vector over a"
    body = small("relu", "bind m = a; read (a); write (a .); outputs 0", issue)
    (section,) = body.sections
    (stage,) = section.stages
    inner: tuple[Statement, ...] = stage.body
    for number in range(65):
        inner = (Loop(f"c{number}", "c", 1, inner),)
    deep = replace(body, sections=(replace(section, stages=(replace(stage, body=inner),)),))

    assert refusal(deep) == (
        "section 'main', stage 0 'all', `for c0 in c step 1:`: must be inside at most 63 loops"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(DUAL))
def test_random_programs_are_proved(made: Program) -> None:
    assert verify(made, DUAL, LIBRARY) > 0


def test_an_instruction_of_another_meaning_is_refused() -> None:
    """A program names meanings by hash: a plugin that means something else by a name is no help."""
    other = replace(ALL["relu"], outputs=(Input("x", ("m",)) * 2.0,))

    with pytest.raises(ProgramError) as caught:
        verify(program(BASE), TINY, {**ALL, "relu": other})

    assert f"must have meaning {ALL['relu'].meaning}" in str(caught.value)


def test_immediates_are_held_as_the_instruction_says() -> None:
    slope = Immediate("slope", 0.5)
    leaky = Instruction(
        name="leaky", unit="vector", operands=(X,), outputs=(X * slope,),
        immediates=(slope,), formats=(("slope", "bf16"),),
    )  # fmt: skip
    library = {**ALL, "leaky": leaky}

    def said(number: str) -> str:
        lines = f"bind m = a\n    with slope = {number}\n    read (a)\n    write (a)\n    outputs 0"
        text = SMALL.replace("NAME @", f'leaky "{leaky.meaning}"').replace("LINES", lines)
        text = text.replace("ISSUE", "out[a, 0] = op(x[a]) on vector over a")
        text = text.replace("write (a)", "write (a .)")
        try:
            verify(parse_text(text, "test"), TINY, library)
        except ProgramError as error:
            return str(error).removesuffix(" (rule: immediates are held)")
        return ""

    assert said("0.25 as bf16") == ""
    assert said("0.25") == ("opcode 'op': immediates must be written as (slope as bf16), not ()")
    assert said("0.25 as f16") == (
        "opcode 'op': immediates must be written as (slope as bf16), not (slope as f16)"
    )
    assert said("0.1 as bf16") == "opcode 'op': immediate 'slope' must be of type bf16, not 0.1"
