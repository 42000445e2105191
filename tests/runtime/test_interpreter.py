"""What programs compute, issue by issue: tiled as whole, and in the corners."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from infinisa.isa.assembly import parse_text
from infinisa.isa.errors import ProgramError
from infinisa.isa.instance import find
from infinisa.isa.instruction import Instruction, opaque
from infinisa.isa.language import Input, dot, sum, view
from infinisa.isa.program import Program
from infinisa.isa.verify import verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.values import Result
from tests.isa.programs import LIBRARY, MACHINES, TINY, arrays, program_pairs

CORES = 3
MANY = replace(TINY, cores=CORES)


def program(head: str, body: str, library: Mapping[str, Instruction] = LIBRARY) -> Program:
    """A program of `opcode = NAME ...` lines and sections, in short: `NAME` is followed by the
    lines of its opcode, parted by `;`."""
    lines = []
    for line in head.strip().split("\n"):
        if " = " in line and ";" in line:
            name, rest = line.strip().split(" = ", 1)
            instruction, *parts = rest.split("; ")
            made = find(instruction, library)
            lines.append(f'opcode {name} = {instruction} "{made.meaning}" on {made.unit}')
            lines += [f"    {part}" for part in parts]
        else:
            lines.append(line.strip())
    made_program = parse_text("program p for tiny\n" + "\n".join(lines) + "\n" + body, "test")
    verify(made_program, TINY, library)
    return made_program


RELU = "op = relu; bind m = s; read (s); write (s); outputs 0"
ONE_D = """
parameter rows <= 10 default 4
buffer x: input f32 [10] in dram
buffer y: output f32 [10] in dram
"""


def floats(*numbers: float) -> NDArray[Any]:
    return np.array(numbers, np.float32)


# ---------------------------------------------------------------- tiled as whole


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program_pairs(MANY))
def test_tiles_copies_and_cores_change_no_value(pair: tuple[Program, Program]) -> None:
    """Loops in any order, chip buffers that rotate, loads a turn ahead, work dealt out."""
    tiled, whole = pair
    given = arrays(tiled)

    found = interpret(tiled, LIBRARY, given, cores=CORES)
    wanted = interpret(whole, LIBRARY, given)

    assert found.parameters == wanted.parameters
    assert found.outputs.keys() == wanted.outputs.keys()
    for name, array in wanted.outputs.items():
        if array.size:
            assert_allclose(found.outputs[name], array, rtol=1e-4, atol=1e-5)
        else:
            assert not found.outputs[name].size


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(program_pairs(MACHINES["edge"]))
def test_the_same_program_computes_the_same_again(pair: tuple[Program, Program]) -> None:
    given = arrays(pair[0])

    first, second = (interpret(pair[0], LIBRARY, given) for _ in range(2))

    for name, array in first.outputs.items():
        assert array.tobytes() == second.outputs[name].tobytes()


# ---------------------------------------------------------------- parameters and sections


def test_an_output_is_cut_to_what_was_written() -> None:
    """Four of ten rows by default, seven when asked."""
    made = program(
        f"{RELU}\n{ONE_D}",
        "section main\n axis s = rows most 10\n stage a\n"
        "  for s1 in s step 3:\n   y[s1] = op(x[s1]) on vector over s=s1",
    )
    given = {"x": np.arange(10, dtype=np.float32) - 2}

    assert interpret(made, LIBRARY, given).outputs["y"].tolist() == [0, 0, 0, 1]
    seven = interpret(made, LIBRARY, given, {"rows": 7})
    assert seven.outputs["y"].tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert seven.parameters == {"rows": 7}
    assert list(seven.seconds) == ["main"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rows": 11}, "parameter 'rows': must be 0 to 10, not 11"),
        ({"rows": -1}, "parameter 'rows': must be 0 to 10, not -1"),
        ({"lines": 1}, "parameter 'lines': must be one of rows"),
        ({"rows": 9}, "section 'main': axis 's' must have at most 8 positions before 8, "
         "not 9 from 0; rows is 9"),
    ],
)  # fmt: skip
def test_parameters_stay_in_their_bounds(parameters: dict[str, int], message: str) -> None:
    made = program(
        f"{RELU}\n{ONE_D}",
        "section main\n axis s = rows most 8\n stage a\n  y[s] = op(x[s]) on vector over s",
    )

    with pytest.raises(ProgramError) as caught:
        interpret(made, LIBRARY, {"x": np.zeros(10, np.float32)}, parameters)

    assert str(caught.value) == message


TURNS = """
parameter turn <= 9 default 0 computed
buffer x: input f32 [10] in dram
buffer kept: state f32 [10] in dram initial 1.0
buffer y: output f32 [10] in dram
op = add; bind m = s; read (s); read (s); write (s); outputs 0
"""
RUNNING = """section sums repeat turn < 4
 axis s = 1 from turn most 1 end 9
 stage a
  kept[s+1] = op(kept[s], x[s]) on vector over s
"""


def test_a_section_repeats_on_what_the_last_turn_kept() -> None:
    """Running sums from 1: position s + 1 becomes that of s plus x."""
    seen: list[tuple[str, int]] = []

    found = interpret(
        program(TURNS, RUNNING),
        LIBRARY,
        {"x": np.arange(10, dtype=np.float32)},
        progress=lambda *turn: seen.append(turn),
    )

    assert found.kept["kept"].tolist() == [1, 1, 2, 4, 7, 1, 1, 1, 1, 1]
    assert found.parameters["turn"] == 3
    assert seen == [("sums", turn) for turn in range(4)]


def test_a_run_may_continue_from_what_another_kept() -> None:
    before = np.full(10, 5, np.float32)

    found = interpret(
        program(TURNS, RUNNING), LIBRARY, {"x": np.zeros(10, np.float32), "kept": before}
    )

    assert found.kept["kept"].tolist() == [5] * 10
    assert before.tolist() == [5] * 10
    assert found.kept["kept"] is not before


ODD = """
parameter count <= 4 default 3 computed
buffer x: input i32 [6] in dram
buffer odd: output i32 [6] in dram
buffer y: output i32 [6] in dram
opcode find_odd = keep_odd "{meaning}" on text
    bind n = n
    read (n)
    write (n)
    outputs 0
double = add; bind m = s; read (s); read (s); write (s); outputs 0
"""
DOUBLED = """section text
 axis n = 6
 stage a
  odd[n] = find_odd(x[n]) on text over n sets count
section words
 axis s = count most 6
 stage b
  y[s] = double(odd[s], odd[s]) on vector over s
"""


def odd_program() -> Program:
    text = ODD.replace("{meaning}", LIBRARY["keep_odd"].meaning)
    head = [line for line in text.split("\n") if not line.startswith(("opcode", "    "))]
    opcode = [line for line in text.split("\n") if line.startswith(("opcode", "    "))]
    return program("\n".join(head), "\n".join(opcode) + "\n" + DOUBLED)


def test_an_instruction_sets_a_length_for_later_sections() -> None:
    found = interpret(odd_program(), LIBRARY, {"x": np.array([1, 2, 3, 5, 6, 8], np.int32)})

    assert found.parameters["count"] == 3
    assert found.outputs["y"].tolist() == [2, 6, 10]


def test_what_an_instruction_returns_stays_in_its_bounds() -> None:
    with pytest.raises(ProgramError) as caught:
        interpret(odd_program(), LIBRARY, {"x": np.full(6, 7, np.int32)})

    assert str(caught.value) == "parameter 'count': must be 0 to 4, not 6"


def test_an_instruction_that_fails_is_named() -> None:
    def keep_odd(x: Any, kept: Any) -> int:
        kept[6] = x[0]
        return 0

    keep_odd.__annotations__ = {"x": "n: i32", "kept": "n: i32"}
    broken = opaque(unit="text", results={"kept": "n: i32"}, sets=("count",))(keep_odd)
    made = odd_program()
    opcodes = tuple(
        replace(o, meaning=broken.meaning) if o.name == "find_odd" else o for o in made.opcodes
    )

    with pytest.raises(ProgramError) as caught:
        interpret(
            replace(made, opcodes=opcodes),
            {**LIBRARY, "keep_odd": broken},
            {"x": np.zeros(6, np.int32)},
        )

    assert str(caught.value) == (
        "instruction 'keep_odd': failed with IndexError: index out of bounds on dimension 1"
    )


# ---------------------------------------------------------------- arrays


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "input 'x': no array was given"),
        ({"x": np.zeros(10)}, "input 'x': must have type f32, not float64"),
        ({"x": np.zeros(11, np.float32)}, "input 'x': must have at most the shape (10,), "
         "not (11,)"),
        ({"x": np.zeros((2, 2), np.float32)}, "input 'x': must have at most the shape (10,), "
         "not (2, 2)"),
        ({"x": np.zeros(10, np.float32), "kept": np.zeros(9, np.float32)}, "state 'kept': must "
         "have exactly the shape (10,), not (9,)"),
    ],
)  # fmt: skip
def test_arrays_fit_their_buffers(given: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        interpret(program(TURNS, RUNNING), LIBRARY, given)

    assert str(caught.value) == message


def test_an_input_may_be_shorter_than_its_buffer() -> None:
    found = interpret(program(TURNS, RUNNING), LIBRARY, {"x": floats(1, 1)})

    assert found.kept["kept"][:5].tolist() == [1, 2, 3, 3, 3]


# ---------------------------------------------------------------- accumulation

PRODUCT = """
parameter rows <= 4 default 4
op = matmul.step; bind m = m; bind k = k; bind n = n; read (m k); read (k n); write (m n); outputs 0
buffer a: input {type} [4, 6] in dram
buffer b: weight {type} [6, 3] in dram
buffer c: output {result} [4, 3] in dram
"""


def product(statements: str, type: str = "f32", result: str = "f32") -> Result:
    head = PRODUCT.replace("{type}", type).replace("{result}", result)
    body = "section main\n axis m = rows most 4\n axis k = 6\n axis n = 3\n stage a\n" + statements
    random = np.random.default_rng(0)
    low, high = (-128, 128) if type == "i8" else (-4, 5)
    kind = np.int8 if type == "i8" else np.float32
    given = {
        "a": random.integers(low, high, (4, 6)).astype(kind),
        "b": random.integers(low, high, (6, 3)).astype(kind),
    }
    found = interpret(program(head, body), LIBRARY, given)
    wanted = given["a"].astype(np.int64) @ given["b"].astype(np.int64)
    found.outputs["wanted"] = wanted
    return found


@pytest.mark.parametrize(
    ("statements", "name"),
    [
        ("  c[m, n] = op(a[m, k], b[k, n]) on matrix over m, k, n fresh\n", "no loop"),
        ("  for k1 in k step 4:\n"
         "   c[m, n] = op(a[m, k1], b[k1, n]) on matrix over m, k=k1, n fresh k1\n", "one loop"),
        ("  for k1 in k step 4:\n   for m1 in m step 3:\n    for k2 in k1 step 1:\n"
         "     c[m1, n] = op(a[m1, k2], b[k2, n]) on matrix over m=m1, k=k2, n fresh k1, k2\n",
         "around another"),
        ("  for k1 in k step 4 reverse:\n"
         "   c[m, n] = op(a[m, k1], b[k1, n]) on matrix over m, k=k1, n fresh k1\n", "backwards"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)  # fmt: skip
def test_a_sum_starts_anew_at_the_first_piece(statements: str, name: str) -> None:
    found = product(statements)

    assert found.outputs["c"].tolist() == found.outputs["wanted"].tolist()


def test_a_sum_of_small_integers_is_exact() -> None:
    """In i32, though the instruction was written for floats."""
    statements = (
        "  for k1 in k step 2:\n"
        "   c[m, n] = op(a[m, k1], b[k1, n]) on matrix over m, k=k1, n fresh k1\n"
    )

    found = product(statements, "i8", "i32")

    assert found.outputs["c"].dtype == np.int32
    assert found.outputs["c"].tolist() == found.outputs["wanted"].tolist()


def test_what_does_not_fit_a_buffer_saturates() -> None:
    statements = "  c[m, n] = op(a[m, k], b[k, n]) on matrix over m, k, n fresh\n"

    found = product(statements, "i8", "i8")

    assert found.outputs["c"].tolist() == np.clip(found.outputs["wanted"], -128, 127).tolist()


# ---------------------------------------------------------------- regions


SMOOTH = Instruction(
    name="smooth",
    unit="vector",
    operands=(Input("x", ("h",)), Input("w", ("r",))),
    outputs=(
        dot(view(Input("x", ("h",)), {"h": "2*p + r - 1"}, fill=0.0), Input("w", ("r",)), "r"),
    ),
)
SWAP = Instruction(
    name="swap",
    unit="vector",
    operands=(Input("x", ("m",)), Input("y", ("m",))),
    outputs=(Input("y", ("m",)), Input("x", ("m",))),
)
TOTAL = Instruction(
    name="total",
    unit="vector",
    operands=(Input("x", ("m",)),),
    outputs=(sum(Input("x", ("m",)), "m"),),
)
OWN = {**LIBRARY, "smooth": SMOOTH, "swap": SWAP, "total": TOTAL}

WINDOW = """
parameter places <= 3 default 3
op = smooth; bind h = h; bind p = p; bind r = r; read (h); read (r); write (p); outputs 0
buffer x: input f32 [5] in dram
buffer w: weight f32 [3] in dram
buffer y: output f32 [3] in dram
"""


def test_a_window_reads_its_fill_at_both_ends() -> None:
    """1 2 3 4 5 in threes with stride 2: (0 1 2) (2 3 4) (4 5 0); 7 instead of 0 where it says."""
    made = program(
        WINDOW,
        "section main\n axis p = places most 3\n axis r = 3\n stage a\n  for p1 in p step 2:\n"
        "   y[p1] = op(x[2*p1+r-1] fill 7.0, w[r]) on vector over p=p1, r",
        OWN,
    )

    found = interpret(made, OWN, {"x": floats(1, 2, 3, 4, 5), "w": floats(1, 10, 100)})

    assert found.outputs["y"].tolist() == [7 + 10 + 200, 2 + 30 + 400, 4 + 50 + 700]


def test_nothing_is_read_over_an_empty_range() -> None:
    """No place, so no window: neither a position too many nor one of a negative length."""
    made = program(
        WINDOW,
        "section main\n axis p = places most 3\n axis r = 3\n stage a\n"
        "  y[p] = op(x[2*p+r-1] fill 7.0, w[r]) on vector over p, r",
        OWN,
    )

    found = interpret(made, OWN, {"x": floats(1, 2, 3), "w": floats(1, 1, 1)}, {"places": 0})

    assert found.outputs["y"].tolist() == []


def test_results_are_written_after_all_operands_are_read() -> None:
    """An instruction may swap two tensors in place."""
    made = program(
        "op = swap; bind m = m; read (m); read (m); write (m); write (m); outputs 0 1\n"
        "buffer a: state f32 [2] in dram\nbuffer b: state f32 [2] in dram",
        "section main\n axis m = 2\n stage s\n  a[m], b[m] = op(a[m], b[m]) on vector over m",
        OWN,
    )

    found = interpret(made, OWN, {"a": floats(1, 2), "b": floats(3, 4)})

    assert found.kept["a"].tolist() == [3, 4]
    assert found.kept["b"].tolist() == [1, 2]


def test_a_result_is_repeated_over_axes_that_it_lacks() -> None:
    made = program(
        "op = total; bind m = m; read (m); write (n .); outputs 0\n"
        "buffer x: input f32 [3] in dram\nbuffer y: output f32 [2, 4] in dram",
        "section main\n axis m = 3\n axis n = 2\n stage s\n"
        "  y[n, 3] = op(x[m]) on vector over m, n",
        OWN,
    )

    found = interpret(made, OWN, {"x": floats(1, 2, 3)})

    assert found.outputs["y"][:, 3].tolist() == [6, 6]
    assert np.isnan(found.outputs["y"][:, :3]).all()


def test_a_state_on_chip_starts_anew_with_its_stage() -> None:
    """Two turns of a section: the sum on chip does not go on from the first."""
    made = program(
        """
        parameter turn <= 9 default 0 computed
        opcode store = store "" on store
        buffer x: input f32 [2] in dram
        buffer y: output f32 [2] in dram
        buffer sum: state f32 [1] in scratchpad place 0 pitch 64 initial 10.0
        op = add; bind m = s; read (.); read (.); write (.); outputs 0
        """,
        "section sums repeat turn < 2\n axis t = 1 from turn most 1 end 2\n axis s = 1\n"
        " stage a\n  alive sum 0 to 1\n"
        "  sum[s-s] = op(sum[s-s], x[t]) on vector over s\n"
        "  y[t] = store(sum[t-t]) on store",
    )

    found = interpret(made, LIBRARY, {"x": floats(1, 2)})

    assert found.outputs["y"].tolist() == [11, 12]
    assert found.kept == {}
