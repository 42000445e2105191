"""A covered graph computes what the graph says: scheduled, emitted and interpreted on a machine."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from infinisa.compiler.builder import Builder
from infinisa.compiler.calls import Covered
from infinisa.compiler.graph import Model
from infinisa.compiler.reference import evaluate_model
from infinisa.compiler.schedule.emit import emit
from infinisa.compiler.schedule.tile import atoms, schedule
from infinisa.compiler.selection.cover import cover, cover_and_report
from infinisa.isa import formulas
from infinisa.isa.dtypes import DTYPES
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, instruction, opaque
from infinisa.isa.language import (
    Input,
    Node,
    Opaque,
    argmax,
    cast,
    dot,
    exp,
    gather,
    maximum,
    mean,
    position,
    rename,
    scan,
    sigmoid,
    size,
    stack,
    sum,
    tanh,
    update,
    view,
    where,
)
from infinisa.isa.machine import Machine, builtin_machine_files, load_machine
from infinisa.isa.program import Opcode, Repeat
from infinisa.plugins.families import attention, elementwise, linear, normalization, recurrent
from infinisa.runtime.interpreter import interpret

FAMILIES = (attention, elementwise, linear, normalization, recurrent)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
}
MACHINES = {file.stem: load_machine(file) for file in builtin_machine_files()}
TINY = MACHINES["tiny"]
ARRAY = 16
"""How many rows and columns the array of `tiny` has."""
RANDOM = np.random.default_rng(3)

Array = NDArray[np.generic]


def random(*shape: int) -> NDArray[np.float32]:
    return (RANDOM.normal(size=shape) * 0.5).astype(np.float32)


def agree(
    model: Model,
    *,
    machine: Machine = TINY,
    library: Mapping[str, Instruction] = LIBRARY,
    arrays: Mapping[str, Array] | None = None,
    parameters: Mapping[str, int] | None = None,
) -> list[Covered]:
    """Compile and run a model; the graphs as calls, once the values were found right."""
    given: dict[str, Array] = dict(arrays or {})
    for name, (leaf, shape) in model.inputs.items():
        given.setdefault(name, random(*shape).astype(DTYPES[leaf.dtype].numpy))
    expected = evaluate_model(model, given, parameters, library)
    opcodes: dict[object, Opcode] = {}
    covered = [
        cover_and_report(model, graph, machine, library, opcodes=opcodes)[0]
        for graph in model.graphs
    ]
    parts = [(each, schedule(each, machine, parameters=model.parameters)) for each in covered]
    program = emit(model.name, machine, parts, model.parameters)
    given |= {name: weight.load() for name, weight in model.weights.items()}
    names = {buffer.name for buffer in program.buffers}
    bound = {name: array for name, array in given.items() if name in names}
    result = interpret(program, library, bound, parameters)
    for name, value in expected.outputs.items():
        assert result.outputs[name].dtype == value.dtype
        np.testing.assert_allclose(result.outputs[name], value, rtol=2e-4, atol=2e-5)
    for name, value in expected.kept.items():
        if name in result.kept:
            np.testing.assert_allclose(result.kept[name], value, rtol=2e-4, atol=2e-5)
    return covered


def used(covered: Sequence[Covered]) -> list[str]:
    return [call.opcode.instruction for each in covered for call in each.calls]


# ---------------------------------------------------------------- one instruction at a time


def test_a_layer_norm_written_otherwise_is_one_call() -> None:
    b = Builder("norm")
    b.axis("s", 20)
    x = b.input("x", "s d", (20, 24))
    w, c = b.weight("w", "d", random(24)), b.weight("b", "d", random(24))
    centred = x - sum(x, "d") / 24.0
    deviation = (sum(centred * centred, "d") / 24.0 + 1e-6) ** 0.5
    b.graph("main").output("y", c + w * (centred / deviation))

    (covered,) = agree(b.model())

    (call,) = covered.calls
    assert call.opcode.instruction == "layer_norm"
    assert dict(call.opcode.immediates) == {"epsilon": 1e-6}
    assert call.whole == {"d"}


def test_a_long_contraction_accumulates_and_is_finished() -> None:
    """The tiny machine takes 32 of k in one issue; 80 are three pieces."""
    b = Builder("steps")
    b.axis("s", 9)
    x = b.input("x", "s d", (9, 80))
    w, c = b.weight("w", "d n", random(80, 20)), b.weight("b", "n", random(20))
    b.graph("main").output("y", maximum(dot(x, w, "d") + c, 0.0))

    (covered,) = agree(b.model())

    assert used([covered]) == ["matmul_bias_relu.step", "matmul_bias_relu.finish"]
    assert covered.calls[0].reduce == {"d"}
    assert covered.calls[0].limits["d"] < 80


def test_a_sentence_vector_is_one_call_however_many_tokens_there_are() -> None:
    """The mean divides by a length that is known at run time only."""
    b = Builder("sentence")
    b.axis("s", b.parameter("tokens", most=12, default=7))
    b.axis("d", 16)
    pooled = mean(b.input("x", "s d", (12, 16)), "s")
    b.graph("main").output("y", formulas.l2_normalize(pooled, "d"))

    (covered,) = agree(b.model())

    assert used([covered]) == ["mean_l2_normalize"]


def test_a_residual_goes_into_the_norm_behind_it() -> None:
    b = Builder("residual")
    b.axis("s", 8)
    x, r = b.input("x", "s d", (8, 16)), b.input("r", "s d", (8, 16))
    w = b.weight("w", "d", random(16))
    total = x + r
    b.graph("main").output("y", formulas.rms_norm(total, w, "d") + total)

    (covered,) = agree(b.model())

    assert used([covered]) == ["residual_rms_norm", "add"]
    assert covered.calls[0].opcode.outputs == (0, 1)


def test_two_orders_of_a_sum_are_regrouped_for_the_larger_instruction() -> None:
    """(residual + product) + bias is residual + (product + bias): one call less."""
    b = Builder("regrouped")
    b.axis("s", 8)
    x, r = b.input("x", "s d", (8, 16)), b.input("r", "s n", (8, 12))
    w, c = b.weight("w", "d n", random(16, 12)), b.weight("c", "n", random(12))
    b.graph("main").output("y", (r + dot(x, w, "d")) + c)

    assert used(agree(b.model())) == ["matmul_bias", "add"]


def test_a_single_number_may_be_below_zero() -> None:
    """The root of its square is no power of one: at one point it has one sign."""
    b = Builder("size")
    x = b.input("x", "n", (16,))
    total = sum(x, "n")
    b.graph("main").output("y", (total * total) ** 0.5)

    agree(b.model(), arrays={"x": -np.ones(16, np.float32)})


def test_numbers_are_immediates_or_operands() -> None:
    b = Builder("numbers")
    b.axis("s", 8)
    x, y = b.input("x", "s", (8,)), b.input("y", "s", (8,))
    b.graph("main").output("scaled", x * 3.0)
    b.graph("other").output("maximum", maximum(2.5, tanh(y)))

    assert used(agree(b.model())) == ["scale", "tanh", "maximum_scalar"]


def test_a_number_that_no_immediate_takes_becomes_a_kept_tensor() -> None:
    few = {name: LIBRARY[name] for name in ("multiply", "move")}
    b = Builder("operand")
    b.axis("s", 8)
    b.graph("main").output("y", b.input("x", "s", (8,)) * 3.0)

    (covered,) = agree(b.model(), library=few)

    (call,) = covered.calls
    assert [access.tensor for access in call.reads] == ["x", "number 3.0: f32"] or [
        access.tensor for access in call.reads
    ] == ["number 3.0: f32", "x"]


# ---------------------------------------------------------------- attention


def attention_model(tokens: int, *, heads: int = 2, groups: int = 1, causal: bool = True) -> Model:
    b = Builder("attention")
    b.axis("s", tokens)
    b.axis("t", tokens)
    b.axis("r", groups)
    b.axis("g", heads)
    b.axis("e", 8)
    q = b.input("q", "s g r e", (tokens, heads, groups, 8))
    k, v = (b.input(name, "t g e", (tokens, heads, 8)) for name in "kv")
    scores = formulas.attention_scores(q, k, "e", 0.3)
    if causal:
        scores = formulas.causal(scores, "s", "t")
    b.graph("main").output("y", formulas.attend(scores, v, "t"))
    return b.model()


def test_a_short_attention_is_one_call_a_head() -> None:
    (covered,) = agree(attention_model(8))

    (call,) = covered.calls
    assert call.opcode.instruction == "causal_attention"
    assert dict(call.opcode.immediates) == {"scale": 0.3}
    assert call.limits["g"] == 1


def test_values_of_an_axis_of_their_own_are_read_whole() -> None:
    """A piece of them would compute the weights again."""
    b = Builder("attention")
    for axis in "st":
        b.axis(axis, 8)
    q, k = (b.input(name, f"{axis} g d", (8, 2, 8)) for name, axis in (("q", "s"), ("k", "t")))
    v = b.input("v", "t g e", (8, 2, 6))
    scores = formulas.causal(formulas.attention_scores(q, k, "d", 0.3), "s", "t")
    b.graph("main").output("y", formulas.attend(scores, v, "t"))

    (covered,) = agree(b.model())

    assert covered.calls[0].limits["e"] == 6


def test_a_window_of_one_position_is_a_product() -> None:
    b = Builder("convolution")
    b.axis("p", 6)
    image = b.input("x", "h c", (6, 8))
    weight = b.weight("w", "r c o", np.ones((1, 8, 4), np.float32))
    b.graph("main").output("y", dot(view(image, {"h": "p + r"}), weight, "r c"))

    (covered,) = agree(b.model())

    assert dict(covered.calls[0].opcode.binding)["k"] == ("c",)


def test_a_strided_window_goes_one_position_an_issue() -> None:
    b = Builder("convolution")
    b.axis("p", 6)
    source = np.random.default_rng(0)
    image = b.input("x", "h c", (13, 300))
    weight = b.weight("w", "r c o", source.standard_normal((3, 300, 4), np.float32))
    b.graph("main").output("y", dot(view(image, {"h": "2*p + r"}), weight, "r c"))

    (covered,) = agree(b.model())

    (call,) = covered.calls
    assert call.opcode.instruction == "matmul.step"
    assert call.limits["p"] == 1


def test_a_long_attention_goes_by_its_law() -> None:
    (covered,) = agree(attention_model(50))

    step = covered.calls[0]
    assert used([covered]) == ["causal_flash_step", "flash_finish"]
    assert step.reduce == {"t"}
    assert {covered.tensors[a.tensor].kind for a in step.writes} == {"partial"}
    assert atoms(covered) == [(0, 2)]


def test_queries_of_a_group_share_the_keys() -> None:
    """Without a mask by position, r joins s; with one it is a loop like the heads."""
    (plain,) = agree(attention_model(8, groups=3, causal=False))
    (causal,) = agree(attention_model(8, groups=3))

    assert set(dict(plain.calls[0].opcode.binding)["s"]) == {"s", "r"}
    assert dict(causal.calls[0].opcode.binding)["s"] == ("s",)
    assert causal.calls[0].limits["r"] == 1


def test_a_cone_sees_through_the_renames_of_keys_and_values() -> None:
    b = Builder("self")
    b.axis("s", 12)
    b.axis("t", 12)
    x = b.input("x", "s d", (12, 16))
    q, k, v = (
        dot(x, b.weight(n, "d h e", random(16, 2, 8)), "d") + b.weight(f"b{n}", "h e", random(2, 8))
        for n in "qkv"
    )
    k, v = rename(k, {"s": "t"}), rename(v, {"s": "t"})
    scores = formulas.attention_scores(q, k, "e", 8**-0.5)
    y = formulas.attend(formulas.causal(scores, "s", "t"), v, "t")
    b.graph("main").output("y", dot(y, b.weight("o", "h e d", random(2, 8, 16)), "h e"))

    assert used(agree(b.model())) == ["matmul_bias"] * 3 + ["causal_attention", "matmul"]


def test_rotary_positions_are_one_call() -> None:
    b = Builder("rope")
    b.axis("s", 10)
    b.axis("p", 2)
    b.axis("i", 4)
    x = b.input("x", "s h p i", (10, 3, 2, 4))
    b.axis("h", 3)
    angles = formulas.rope_angles("s", "i", 500.0)
    b.graph("main").output("y", formulas.rope(x, angles, "p"))

    (covered,) = agree(b.model())

    (call,) = covered.calls
    assert call.opcode.instruction == "rope"
    assert dict(call.opcode.immediates) == {"theta": 500.0}


def decoder() -> Model:
    """A prompt, then tokens one by one against a cache of keys and values."""
    b = Builder("decoder")
    prompt = b.parameter("prompt", most=8, default=5)
    done = b.parameter("done", most=4, default=0, given=False)
    ids = b.input("ids", "s: i32", (8,))
    tokens = b.kept("tokens", "u: i32", (16,))
    table = b.weight("table", "v d", random(20, 16))
    weights = {n: b.weight(n, "d h e", random(16, 2, 8)) for n in "qkv"}
    out = b.weight("o", "h e d", random(2, 8, 16))
    caches = {n: b.kept(f"cache.{n}", "c h e", (16, 2, 8)) for n in "kv"}
    b.axis("c", 16)
    b.axis("u", 16)

    def layer(text: Node, keys: str) -> tuple[Node, list[Node]]:
        x = gather(table, text, "v")
        q, k, v = (dot(x, weights[n], "d") for n in "qkv")
        kept = [update(caches[n], new, {"c": "s"}) for n, new in (("k", k), ("v", v))]
        k, v = (view(each, {"c": keys}) for each in kept)
        scores = formulas.causal(formulas.attention_scores(q, k, "e", 8**-0.5), "s", keys)
        return x + dot(formulas.attend(scores, v, keys), out, "h e"), kept

    def best(x: Node, last: str) -> Node:
        logits = dot(view(x, {"s": last}), table, "d")
        return update(tokens, argmax(logits, "v"), {"u": f"{last} + 1"})

    first = b.graph("prefill")
    first.axis("s", prompt, 8)
    first.axis("t", prompt, 8)
    first.axis("l", 1, 1, prompt + (-1), 8)
    x, kept = layer(ids, "t")
    first.update(best(x, "l"))
    for each in kept:
        first.update(each)
    step = b.graph("step", Repeat("done", b.parameter("steps", most=4, default=3)))
    now = prompt + done
    step.axis("s", 1, 1, now, 12)
    step.axis("t", now + 1, 12)
    x, kept = layer(view(tokens, {"u": "s"}), "t")
    step.update(best(x, "s"))
    for each in kept:
        step.update(each)
    return b.model()


def test_a_decoder_reads_the_keys_that_it_wrote() -> None:
    ids = RANDOM.integers(0, 20, size=8).astype(np.int32)

    for prompt in (2, 8):
        prefill, step = agree(decoder(), arrays={"ids": ids}, parameters={"prompt": prompt})

    assert used([step]).count("causal_flash_step") == 1
    assert prefill.calls[0].direct == {"table"}
    assert {call.writes[0].tensor for call in step.calls} >= {"cache.k", "cache.v", "tokens"}


# ---------------------------------------------------------------- places


def test_parts_of_a_stack_are_written_in_place_and_inputs_moved_there() -> None:
    b = Builder("stack")
    b.axis("s", 6)
    x, y = b.input("x", "s", (6,)), b.input("y", "s", (6,))
    both = stack([tanh(x), y], "p")
    graph = b.graph("main")
    graph.output("both", both)
    graph.output("sum", sum(both * both, "p"))

    (covered,) = agree(b.model())

    assert sorted(used([covered])) == ["matmul", "move", "tanh"] or "multiply" in used([covered])
    assert all(
        tensor.kind != "temporary" for name, tensor in covered.tensors.items() if "stack" in name
    )


def test_a_result_that_is_an_input_is_moved() -> None:
    b = Builder("same")
    b.axis("s", 6)
    graph = b.graph("main")
    x = b.input("x", "s", (6,))
    graph.output("y", x)
    graph.output("z", rename(tanh(x), {"s": "r"}))
    b.axis("r", 6)

    assert sorted(used(agree(b.model()))) == ["move", "tanh"]


def test_one_value_may_be_two_results_and_a_kept_tensor() -> None:
    b = Builder("twice")
    b.axis("s", 6)
    x, state = b.input("x", "s", (6,)), b.kept("state", "s", (6,))
    y = tanh(x)
    graph = b.graph("main")
    graph.output("a", y)
    graph.output("b", y)
    graph.update(update(state, y, {}))

    (covered,) = agree(b.model())

    (call,) = covered.calls
    assert call.opcode.outputs == (0, 0, 0)


def test_the_old_value_of_a_kept_tensor_is_read_before_it_is_replaced() -> None:
    b = Builder("old")
    b.axis("s", 20)
    b.axis("r", 20)
    x, state = b.input("x", "s", (20,)), b.kept("state", "s", (20,))
    w = b.weight("w", "s r", random(20, 20))
    mixed = rename(dot(state, w, "s"), {"r": "s"})
    after = tanh(mixed + x)
    graph = b.graph("main", Repeat("turn", b.parameter("turns", most=5, default=3)))
    b.parameter("turn", most=5, default=0, given=False)
    graph.output("y", after * state)
    graph.update(update(state, after, {}))

    agree(b.model())


def test_a_head_width_is_split_from_a_row_and_merged_again() -> None:
    b = Builder("split")
    b.axis("s", 5)
    b.axis("h", 2)
    b.axis("e", 8)
    x = b.input("x", "s n", (5, 16))
    b.axis("n", 16)
    apart = tanh(view(x, {"n": "8*h + e"}))
    merged = view(apart, {"h": "n // 8", "e": "n % 8"})
    b.graph("main").output("y", merged + x)

    agree(b.model())


def test_casts_are_how_a_result_is_stored() -> None:
    b = Builder("casts")
    b.axis("s", 6)
    x = b.input("x", "s", (6,))
    y = tanh(x)
    graph = b.graph("main")
    graph.output("narrow", cast(y, "bf16"))
    graph.output("whole", cast(y * 100.0, "i8"))
    graph.output("wide", sigmoid(y))

    (covered,) = agree(b.model())

    assert sorted(used([covered])) == ["scale", "sigmoid", "tanh"]


def test_a_mean_over_a_length_known_at_run_time() -> None:
    b = Builder("mean")
    b.axis("s", b.parameter("rows", most=12, default=7))
    b.axis("d", 8)
    x = b.input("x", "s d", (12, 8))
    b.graph("main").output("y", mean(x, "s"))

    (covered,) = agree(b.model(), parameters={"rows": 5})

    assert used([covered]) in (["reduce_mean"], ["reduce_mean.step", "reduce_mean.finish"])


# ---------------------------------------------------------------- recurrences and opaque operators


def lstm(reverse: bool) -> Model:
    b = Builder("lstm")
    b.axis("t", 7)
    b.axis("b", 3)
    x = b.input("x", "t b d", (7, 3, 6))
    start = b.input("h0", "b m", (3, 8))
    b.axis("m", 8)
    gates = [
        (b.weight(f"w{g}", "d n", random(6, 8)), b.weight(f"u{g}", "m n", random(8, 8)))
        for g in range(4)
    ]

    def step(h: Node, c: Node, x: Node) -> tuple[Sequence[Node], Sequence[Node]]:
        z, o, f, g = (dot(x, w, "d") + dot(h, u, "m") for w, u in gates)
        after, cell = formulas.lstm_cell(z, o, f, g, c)
        return (rename(after, {"n": "m"}), cell), (after,)

    zero = b.input("c0", "b n", (3, 8))
    (h, c), (ys,) = scan(step, {"h": start, "c": zero}, {"x": x}, "t", reverse)
    graph = b.graph("main")
    graph.output("ys", ys)
    graph.output("h", h)
    graph.output("c", c)
    return b.model()


MASKS: dict[str, Callable[[Node, Node, Node], Node]] = {
    "two conditions on positions": lambda s, t, x: (t <= s) & (t > s - 3),
    "one on their distance": lambda s, t, x: (s - t < 3) & (t <= s),
    "one on positions, one on values": lambda s, t, x: (s - t < 3) | (x > 0.5),
    "the opposite": lambda s, t, x: ~(s - t < 3),
}


@pytest.mark.parametrize("name", MASKS)
def test_conditions_are_joined(name: str) -> None:
    """As in attention to the last few positions."""
    b = Builder("mask")
    x = b.input("x", "s t", (7, 9))
    mask = MASKS[name](position("s"), position("t"), x)
    b.graph("main").output("y", tanh(where(mask, x, 0.0)))

    agree(b.model())


def test_an_instruction_without_a_tile_fills_the_array() -> None:
    """What it needs whole may be more than the array: that does not leave it one row at a time."""

    @instruction(unit="matrix")
    def doubled(a: "s d", b: "d t", c: "t e"):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
        return dot(exp(0.01 * dot(a, b, "d")), c, "t")

    b = Builder("chain")
    x, y = b.input("x", "s d", (32, 40)), b.input("y", "d t", (40, 64))
    z = b.input("z", "t e", (64, 24))
    b.graph("main").output("out", dot(exp(0.01 * dot(x, y, "d")), z, "t"))
    library = LIBRARY | {"doubled": doubled}

    (covered,) = agree(b.model(), library=library)

    (call,) = (call for call in covered.calls if call.instruction.name.startswith("doubled"))
    assert call.limits["s"] == call.limits["e"] == ARRAY


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_is_calls_that_run_once_a_step(reverse: bool) -> None:
    (covered,) = agree(lstm(reverse))

    inside = [call for call in covered.calls if call.scan]
    assert used([covered]).count("lstm_cell") == 1
    assert {(call.scan, call.reverse) for call in inside} == {("t", reverse)}
    assert {t.kind for t in covered.tensors.values() if t.name.endswith((".h", ".c"))} == {"carry"}


def test_a_state_that_starts_as_a_number_and_is_read_by_its_own_writer() -> None:
    b = Builder("sum")
    b.axis("t", 7)
    x = b.input("x", "t n", (7, 8))
    b.axis("n", 8)

    def step(total: Node, x: Node) -> tuple[Sequence[Node], Sequence[Node]]:
        return (total * 0.5 + x,), (total,)

    zero = Input("zero", ("n",))
    (last,), (before,) = scan(step, {"total": zero}, {"x": x}, "t")
    b.tensors["zero"] = zero
    b.inputs["zero"] = zero, (8,)
    graph = b.graph("main")
    graph.output("last", last)
    graph.output("before", before)

    agree(b.model())


def test_an_opaque_operator_is_chosen_by_its_name() -> None:
    @opaque(unit="scalar", results={"best": "s", "where": "s: i32"})
    def peaks(x: "s: f32", best, where):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
        for i in range(len(x)):
            best[i] = x[i] if i == 0 or x[i] > best[i - 1] else best[i - 1]
            where[i] = i if i == 0 or x[i] > best[i - 1] else where[i - 1]

    b = Builder("opaque")
    b.axis("s", 9)
    x = tanh(b.input("x", "s", (9,)))
    best = Opaque("peaks", (x,), ("s",), "f32", 0)
    where = Opaque("peaks", (x,), ("s",), "i32", 1)
    graph = b.graph("main")
    graph.output("best", best * 2.0)
    graph.output("where", where)

    (covered,) = agree(b.model(), library={**LIBRARY, "peaks": peaks})

    assert used([covered]) == ["tanh", "peaks", "scale"]


# ---------------------------------------------------------------- errors


def test_what_nothing_covers_is_an_error_that_names_the_node() -> None:
    few = {name: LIBRARY[name] for name in ("add", "move")}
    b = Builder("uncovered")
    b.axis("s", 8)
    b.graph("main").output("y", b.name("squash", tanh(b.input("x", "s", (8,)))) + 1.0)
    model = b.model()

    with pytest.raises(CompileError) as caught:
        cover(model, model.graphs[0], TINY, few)

    assert str(caught.value) == (
        "graph 'main': no instruction of machine 'tiny' computes node 'squash': tanh(x[s]); "
        "a plugin must define an instruction with 'tanh' over these operands"
    )


def test_positions_are_made_by_an_instruction_where_no_larger_one_makes_them() -> None:
    b = Builder("positions")
    b.axis("s", 8)
    x = b.input("x", "s", (8,))
    b.graph("main").output("y", x * (position("s") / size("s")))

    assert used(agree(b.model()))[0] == "positions"


def test_a_padded_row_of_patches_is_read_through_one_index() -> None:
    """Position 0 of j is the class token, which the patches' view fills with 0."""
    b = Builder("patches")
    b.axis("f", 3)
    b.axis("h", 4)
    b.axis("j", 13)
    b.axis("d", 5)
    patches = tanh(b.input("x", "f h d", (3, 4, 5)))
    row = view(patches, {"f": "(j - 1) // 4", "h": "(j + 3) % 4"}, 0.0)
    b.graph("main").output("y", row + b.weight("p", "j d", random(13, 5)))

    assert used(agree(b.model())) == ["tanh", "add"]


def test_a_further_result_under_other_axes_is_computed_again() -> None:
    """The sum is read over d outside of the norm, and over e inside."""
    b = Builder("renamed")
    b.axis("s", 6)
    total = b.input("x", "s d", (6, 16)) + b.input("r", "s d", (6, 16))
    weights = b.weight("g", "e", random(16)), b.weight("c", "e", random(16))
    graph = b.graph("main")
    graph.output("y", formulas.layer_norm(rename(total, {"d": "e"}), *weights, "e"))
    graph.output("z", sigmoid(total))

    assert sorted(used(agree(b.model()))) == ["add", "residual_layer_norm", "sigmoid"]
