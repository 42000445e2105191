"""Instructions over a model's axes, and how long they take."""

import numpy as np
import pytest

from infinisa.isa.errors import InfinisaError, ProgramError
from infinisa.isa.evaluate import evaluate
from infinisa.isa.instance import find, instance, issue_cycles, resolve
from infinisa.isa.instruction import Instruction, opaque, step_of
from infinisa.isa.language import Dot, Immediate, Input, dot, everything, exp, scan, show, view
from infinisa.isa.machine import Unit
from infinisa.isa.program import Opcode
from infinisa.isa.timing import Timing

A, B = Input("a", ("m", "k")), Input("b", ("k", "n"))
PRODUCT = Instruction(name="product", unit="matrix", operands=(A, B), outputs=(dot(A, B, "k"),))
SCALED = Instruction(
    name="scaled",
    unit="vector",
    operands=(Input("x", ("m",)),),
    outputs=(exp(Input("x", ("m",)) * Immediate("scale", 1.0)),),
    immediates=(Immediate("scale", 1.0),),
)
LIBRARY = {made.name: made for made in (PRODUCT, SCALED)}


def opcode(made: Instruction, **more: object) -> Opcode:
    settings = {
        "name": "op",
        "instruction": made.name,
        "meaning": made.meaning,
        "unit": made.unit,
        "binding": tuple((axis, (axis,)) for axis in made.axes),
        "operands": tuple(leaf.axes for leaf in made.operands),
    } | more
    return Opcode(**settings)  # type: ignore[arg-type]  # fields by name


def refusal(made: Opcode, *types: str) -> str:
    with pytest.raises(InfinisaError) as caught:
        resolve(made, types, LIBRARY)
    return str(caught.value)


def test_an_axis_may_stand_for_several() -> None:
    """n as heads h and widths e; more axes of an operand are loops outside."""
    over = instance(
        PRODUCT,
        {"m": ("s",), "k": ("d",), "n": ("h", "e")},
        [Input("a", ("layer", "s", "d"), "bf16"), Input("b", ("d", "h", "e"))],
    )

    assert over.outputs[0].axes == ("layer", "s", "h", "e")
    assert show(over.outputs[0]) == "dot(a[layer s d: bf16], b[d h e], over=d)"


def test_an_immediate_is_bound_inside_a_recurrence() -> None:
    """h = h * rate + x along m, for a rate that is not the default."""
    rate, x = Immediate("rate", 0.5), Input("x", ("m",))
    (end,), _ = scan(lambda h, x: ([h * rate + x], []), {"h": 0.0}, {"x": x}, "m")
    decaying = Instruction(
        name="decaying", unit="vector", operands=(x,), outputs=(end,), immediates=(rate,)
    )

    over = instance(decaying, {"m": ("s",)}, [Input("x", ("s",))], {"rate": 0.25})

    assert evaluate(over.outputs, {"x": np.array([16.0, 8.0, 1.0])})[0] == 4.0
    assert evaluate(decaying.outputs, {"x": np.array([16.0, 8.0, 1.0])})[0] == 9.0


def test_an_operand_may_lack_axes() -> None:
    """A vector times a matrix: m stands for nothing."""
    over = instance(PRODUCT, {"m": ()}, [Input("a", ("k",)), B])

    (found,) = evaluate(over.outputs, {"a": np.array([1.0, 2.0]), "b": np.eye(2)})
    assert found.tolist() == [1, 2]


def test_immediates_are_those_given() -> None:
    over = instance(SCALED, {}, [Input("x", ("m",))], {"scale": 0.5})

    assert over.immediates == (Immediate("scale", 0.5),)
    assert show(over.outputs[0]) == "exp(multiply(x[m], #scale=0.5))"


def test_the_state_of_a_step_has_the_type_and_the_axes_of_its_sum() -> None:
    """Over i8 it is i32, in which all sums are exact; a loop outside gives one for each turn."""
    step, _ = step_of(PRODUCT)

    over = instance(step, {}, [Input("a", ("b", "m", "k"), "i8"), Input("b", ("k", "n"), "i8")])

    (state,) = over.states
    assert (state.input.axes, state.input.dtype) == (("b", "m", "n"), "i32")
    assert over.outputs[0].dtype == "i32"
    assert {node.dtype for node in everything(over.outputs) if isinstance(node, Dot)} == {"i32"}


def test_the_pieces_of_an_instruction_have_names() -> None:
    bias = Input("bias", ("n",))
    fused = Instruction(
        name="fused", unit="matrix", operands=(A, B, bias), outputs=(dot(A, B, "k") + bias,)
    )
    library = {"product": PRODUCT, "fused": fused}

    assert find("product", library) is PRODUCT
    assert find("product.step", library).name == "product.step"
    assert find("fused.finish", library).operands[1] is bias
    for name in ("other", "product.finish", "product.half", "other.step"):
        with pytest.raises(ProgramError) as caught:
            find(name, library)
        assert str(caught.value) == f"instruction {name!r}: no loaded plugin defines it"


def test_an_opcode_is_resolved_over_the_axes_of_its_program() -> None:
    made = opcode(
        PRODUCT, binding=(("m", ("s",)), ("k", ("d",)), ("n", ("f",))),
        operands=(("s", "", "d"), ("d", "f")),
    )  # fmt: skip

    found = resolve(made, ["bf16", "f32"], LIBRARY)

    assert show(found.outputs[0]) == "dot(a[s d: bf16], b[d f], over=d)"


def test_an_opcode_that_means_nothing_here_is_refused() -> None:
    assert refusal(opcode(PRODUCT, instruction="sort"), "f32", "f32") == (
        "instruction 'sort': no loaded plugin defines it"
    )
    assert refusal(opcode(PRODUCT, meaning="0"), "f32", "f32") == (
        "opcode 'op': instruction 'product' must have meaning 0, the loaded plugin's is "
        f"{PRODUCT.meaning}"
    )
    assert refusal(opcode(PRODUCT, operands=(("m", "k"),)), "f32", "f32") == (
        "opcode 'op': 'product' takes 2 operands, not 1"
    )
    assert refusal(opcode(PRODUCT), "f32") == "opcode 'op': 'product' takes 2 operands, not 1"
    assert refusal(opcode(PRODUCT, operands=(("m",), ("k", "n"))), "f32", "f32") == (
        "dot: no axis 'k' in (m)"
    )


def test_an_opaque_opcode_keeps_its_body() -> None:
    def pick(x, found):  # type: ignore[no-untyped-def]  # a body has no types
        return None

    pick.__annotations__ = {"x": "n: u8"}
    made = opaque(unit="text", results={"found": "n: i32"})(pick)

    found = resolve(opcode(made, operands=(("b",),)), ["u8"], {"pick": made})

    assert found.body is pick
    assert found.operands == (Input("x", ("b",), "u8"),)


# ---------------------------------------------------------------- time

VECTOR = Unit(name="vector", kind="vector", attributes={"lanes": 4, "overhead": 3, "latency": 5})


def test_time_follows_from_the_operations() -> None:
    """Eight exponentials of 8 and eight multiplications, four lanes: 18; then overhead, drain."""
    made = opcode(SCALED)

    assert issue_cycles(resolve(made, ["f32"], LIBRARY), made, VECTOR, {"m": 8}) == (21, 26)


def test_a_timing_of_a_plugin_counts_the_axes_bound_to_its_own() -> None:
    """m is s and h: 6; layer is outside: twice. Attributes and immediates have names."""
    timed = Instruction(
        name="scaled",
        unit="vector",
        operands=SCALED.operands,
        outputs=SCALED.outputs,
        immediates=(Immediate("scale", 1),),
        occupancy=Timing("m * scale / lanes"),
    )
    made = opcode(
        timed, binding=(("m", ("s", "h")),), operands=(("layer", "s", "h"),),
        immediates=(("scale", 10),),
    )  # fmt: skip
    meaning = resolve(made, ["f32"], {"scaled": timed})

    lengths = {"layer": 2, "s": 3, "h": 2}
    assert issue_cycles(meaning, made, VECTOR, lengths) == (30, 35)


def test_a_latency_of_a_plugin_stands_for_itself() -> None:
    timed = Instruction(
        name="moved",
        unit="vector",
        operands=(A,),
        outputs=(view(A, {"m": "p"}),),
        occupancy=Timing("m"),
        latency=Timing("2 * m"),
    )
    made = opcode(timed, binding=(("m", ("p",)), ("k", ("k",))), operands=(("p", "k"),))

    assert issue_cycles(timed, made, VECTOR, {"p": 7, "k": 1}) == (7, 14)


def test_time_works_on_many_lengths_at_once() -> None:
    made = opcode(SCALED)
    meaning = resolve(made, ["f32"], LIBRARY)
    lengths = np.array([1, 8, 100])

    occupancy, latency = issue_cycles(meaning, made, VECTOR, {"m": lengths})

    single = [issue_cycles(meaning, made, VECTOR, {"m": int(n)}) for n in lengths]
    assert list(zip(occupancy.tolist(), latency.tolist(), strict=True)) == single
