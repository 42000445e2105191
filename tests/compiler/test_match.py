"""Where an instruction computes what a node computes: shapes, axes, numbers."""

from collections.abc import Mapping

from infinisa.compiler.canonical import canonical
from infinisa.compiler.match import Match, Syntactic
from infinisa.compiler.surroundings import Surroundings
from infinisa.isa import formulas
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import (
    Input,
    Node,
    cast,
    dot,
    erf,
    exp,
    gather,
    max,
    maximum,
    mean,
    position,
    relu,
    sum,
    tanh,
    where,
)
from infinisa.plugins.families import attention, elementwise, linear, normalization

SIZES = {"s": 8, "t": 8, "d": 16, "n": 12, "h": 2, "e": 8, "g": 2, "r": 3, "v": 20}
FAMILIES = (attention, elementwise, linear, normalization)
LIBRARY: dict[str, Instruction] = {
    made.name: made for family in FAMILIES for made in family.infinisa_instructions()
}
X, Y = Input("x", ("s", "d")), Input("y", ("s", "d"))
W, B = Input("w", ("d", "n")), Input("b", ("n",))
SCALE = Input("scale", ("d",))


def found(
    *roots: Node, names: str = "", fixed: Mapping[str, int] | None = None, which: int = 0
) -> list[Match]:
    """The matches at a root, of these instructions only."""
    sizes = SIZES if fixed is None else fixed
    form = canonical(roots, sizes)
    library = [LIBRARY[name] for name in names.split()] if names else list(LIBRARY.values())
    around = Surroundings.of(form.roots, SIZES, sizes)
    return list(Syntactic(library, around)(form.roots[which]))


def only(*roots: Node, name: str) -> Match:
    """The match with the fewest loops: q and k can always trade places, at that price."""
    return min(found(*roots, names=name), key=lambda match: len(match.loops))


def leaves(match: Match) -> list[str]:
    return [str(leaf) for leaf in match.leaves]


# ---------------------------------------------------------------- shapes


def test_a_sum_matches_in_any_order() -> None:
    bias, scale = Input("bias", ("d",)), SCALE
    norm = bias + scale * (X - mean(X, "d")) / (mean((X - mean(X, "d")) ** 2, "d") + 1e-3) ** 0.5

    match = only(norm, name="layer_norm")

    assert leaves(match) == ["x[s d]", "scale[d]", "bias[d]"]
    assert match.immediates == {"epsilon": 1e-3}
    assert match.binding == {"m": ("s",), "n": ("d",)}


def test_operands_take_groups_of_a_longer_sum() -> None:
    leaf = Input("z", ("s", "d"))

    groups = {frozenset(leaves(match)) for match in found(X + Y + leaf, names="add")}

    assert {tuple(sorted(group, key=len)) for group in groups} == {
        ("x[s d]", "add(z[s d], y[s d])"),
        ("y[s d]", "add(x[s d], z[s d])"),
        ("z[s d]", "add(x[s d], y[s d])"),
    }


def test_a_node_is_not_its_own_operand() -> None:
    """Every value is 1 times itself; that is no match."""
    assert found(tanh(X), names="scale") == []


def test_what_others_need_is_not_hidden_in_a_cone() -> None:
    product = dot(X, W, "d")

    assert found(relu(product + B), names="matmul_bias_relu") != []
    assert found(relu(product + B), product, names="matmul_bias_relu") == []


def test_a_second_output_may_have_users_of_its_own() -> None:
    total = X + Y

    match = only(formulas.rms_norm(total, SCALE, "d"), total, name="residual_rms_norm")

    assert str(match.roots[0]) == "add(x[s d], y[s d])"
    assert match.immediates == {"epsilon": 1e-5}


def test_masks_are_computed_again_where_they_are_needed() -> None:
    seen = position("s") >= position("t")
    q, k = Input("q", ("s", "e")), Input("k", ("t", "e"))
    v = Input("u", ("t", "h"))
    scores = where(seen, dot(q, k, "e"), -float("inf"))

    match = only(formulas.attend(scores, v, "t"), where(seen, X, 0.0), name="causal_attention")

    assert match.immediates == {"scale": 1.0}


def test_casts_between_floats_are_seen_through() -> None:
    narrow = cast(dot(X, W, "d"), "bf16")

    assert leaves(only(relu(narrow + B), name="matmul_bias_relu")) == ["x[s d]", "w[d n]", "b[n]"]


def test_an_integer_operand_takes_any_integer() -> None:
    table, ids = Input("table", ("v", "d")), Input("ids", ("s",), "i64")

    match = only(gather(table, ids, "v"), name="embedding")

    assert match.binding == {"v": ("v",), "s": ("s",), "d": ("d",)}
    assert found(gather(table, ids, "v"), names="matmul") == []


# ---------------------------------------------------------------- axes


def test_one_axis_stands_for_several() -> None:
    heads = Input("heads", ("d", "h", "e"))
    out = Input("out", ("h", "e", "d"))

    (project, _) = found(dot(X, heads, "d"), names="matmul")
    assert sorted([project.binding["m"], project.binding["n"]]) == [("h", "e"), ("s",)]

    a = Input("a", ("s", "h", "e"))
    (join, _) = found(dot(a, out, "h e"), names="matmul")
    assert set(join.binding["k"]) == {"h", "e"}


def test_what_fits_nowhere_is_a_loop() -> None:
    q, k = Input("q", ("s", "h", "e")), Input("k", ("t", "h", "e"))

    for match in found(dot(q, k, "e"), names="matmul"):
        assert match.loops == ("h",)
        assert match.binding["k"] == ("e",)


def test_an_axis_by_position_stands_for_one() -> None:
    """Rows of a group join the queries, unless a mask by position counts these."""
    q, k = Input("q", ("s", "g", "r", "e")), Input("k", ("t", "g", "e"))
    v = Input("u", ("t", "g", "n"))
    scores = dot(q, k, "e")
    seen = formulas.causal(scores, "s", "t")

    plain = only(formulas.attend(scores, v, "t"), name="attention")
    causal = only(formulas.attend(seen, v, "t"), name="causal_attention")

    assert (plain.binding["s"], plain.loops) == (("s", "r"), ("g",))
    assert (causal.binding["s"], set(causal.loops)) == (("s",), {"g", "r"})


def test_the_head_width_is_reduced_and_yet_an_axis_of_the_result() -> None:
    q, k = Input("q", ("s", "h", "e")), Input("k", ("t", "h", "e"))
    v = Input("u", ("t", "h", "e"))

    match, *others = found(formulas.attend(dot(q, k, "e") * 0.5, v, "t"), names="attention")

    assert match.binding == {"t": ("t",), "d": ("e",), "s": ("s",), "e": ("e",)}
    assert match.loops == ("h",)
    assert all(other.immediates == {"scale": 0.5} for other in others)


def test_operands_may_lack_axes() -> None:
    mask = Input("mask", ("t",))
    q, k, v = Input("q", ("s", "e")), Input("k", ("t", "e")), Input("u", ("t", "n"))

    match = only(formulas.attend_safe(dot(q, k, "e") + mask, v, "t"), name="masked_attention")

    assert leaves(match)[3] == "mask[t]"


# ---------------------------------------------------------------- numbers


def test_numbers_are_equal_within_one_rounding() -> None:
    half = 0.7071067690849304  # sqrt(0.5) as f32 has it

    assert found(0.5 * X * (1.0 + tanh(X)), names="gelu_erf") == []
    gelu = 0.5 * X * (1.0 + erf(X * half))
    assert leaves(only(gelu, name="gelu_erf")) == ["x[s d]"]
    wrong = 0.5 * X * (1.0 + erf(X * 0.7072))
    assert found(wrong, names="gelu_erf") == []


def test_an_immediate_that_occurs_twice_has_one_value() -> None:
    @instruction(unit="vector")
    def softcap(x: "m: f32", cap=30.0):  # type: ignore[no-untyped-def, valid-type]  # noqa: F722  # axes
        return cap * tanh(x / cap)

    around = Surroundings.of(canonical([50.0 * tanh(X * 0.02)], SIZES).roots, SIZES, SIZES)
    finder = Syntactic([softcap], around)
    (root,) = canonical([50.0 * tanh(X * 0.02)], SIZES).roots

    (match,) = finder(root)

    assert match.immediates == {"cap": 50.0}
    other = canonical([50.0 * tanh(X * 0.03)], SIZES).roots
    assert list(Syntactic([softcap], Surroundings.of(other, SIZES, SIZES))(other[0])) == []


def test_a_number_of_the_graph_may_join_an_operand() -> None:
    groups = {tuple(leaves(match)) for match in found(2.5 * X * Y, names="multiply")}

    assert ("multiply(2.5, x[s d])", "y[s d]") in groups
    assert ("x[s d]", "multiply(2.5, y[s d])") in groups


def test_a_mean_matches_by_the_size_of_its_axes() -> None:
    both = Input("both", ("s", "h", "e"))

    match = only(sum(both, "h e") / 16.0, name="reduce_mean")

    assert set(match.binding["n"]) == {"h", "e"}
    assert found(sum(both, "h e") / 15.0, names="reduce_mean") == []


def test_a_mean_over_a_length_known_at_run_time_matches_as_it_is_written() -> None:
    fixed = {axis: size for axis, size in SIZES.items() if axis != "s"}

    assert len(found(mean(X, "s"), names="reduce_mean", fixed=fixed)) == 1
    assert found(sum(X, "s") / 8.0, names="reduce_mean", fixed=fixed) == []


# ---------------------------------------------------------------- other forms


def test_a_naive_mask_is_served_by_an_instruction_with_a_condition() -> None:
    q, k, v = Input("q", ("s", "e")), Input("k", ("t", "e")), Input("u", ("t", "n"))
    mask = where(position("t") <= position("s"), 0.0, -3.4e38)

    match = only(formulas.attend(dot(q, k, "e") + mask, v, "t"), name="causal_attention")

    assert leaves(match) == ["q[s e]", "k[t e]", "u[t n]"]


def test_the_division_of_a_softmax_may_come_after_the_contraction() -> None:
    q, k, v = Input("q", ("s", "e")), Input("k", ("t", "e")), Input("u", ("t", "n"))
    scores = dot(q, k, "e")
    weights = exp(scores - max(scores, "t"))

    after = dot(weights, v, "t") / sum(weights, "t")
    before = dot(weights / sum(weights, "t"), v, "t")

    assert len(found(before, names="attention")) > 0
    assert found(after, names="attention") == []  # the formula divides before, and only then


def test_repeated_layers_are_found_in_memory() -> None:
    x: Node = X
    for layer in range(24):
        up, down = Input(f"up{layer}", ("d", "n")), Input(f"down{layer}", ("n", "d"))
        x = x + dot(maximum(dot(x, up, "d"), 0.0), down, "n")
    form = canonical([x], SIZES)
    around = Surroundings.of(form.roots, SIZES, SIZES)
    finder = Syntactic(list(LIBRARY.values()), around)

    names: dict[str, list[list[str]]] = {}
    for node in around.users:
        for match in finder(node):
            names.setdefault(match.instruction.name, []).append(leaves(match))

    assert len(finder.known) < len([n for n in around.users if n.children]) / 2
    assert len({tuple(row) for row in names["matmul"]}) == 96  # 48 products, each both ways
