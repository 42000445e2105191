"""What is found again for a repeated layer is what a search from scratch finds there."""

from __future__ import annotations

import pytest

from benchmarks._forms import ARCHITECTURES, library, transformer
from infinisa.compiler.equality.surroundings import Surroundings
from infinisa.compiler.graph import Model
from infinisa.compiler.selection.cover import canonical_graph
from infinisa.compiler.selection.match import Match, Meaning
from infinisa.compiler.selection.repeats import Repeats, graph_nodes
from infinisa.isa.language import Input, Node, dot, exp, inputs, max, rename, sum, tanh, view, walk
from infinisa.isa.program import Count, Extent

LIBRARY = library().values()
SIZES = {"m": 4, "n": 4, "k": 5, "e": 6, "h0": 4, "h1": 4, "h2": 4}
EXTENTS = [Extent(axis, Count(size), size) for axis, size in SIZES.items()]
X = Input("x", ("m", "n"))


class FromScratch(Meaning):
    """The same finder without a memory for repeats."""

    def again(self, root: Node) -> None:
        return None


class Counting(Meaning):
    """The finder, and how many values it did not search."""

    spared = 0

    def again(self, root: Node) -> list[Match] | None:
        found = super().again(root)
        self.spared += found is not None
        return found


def said(match: Match) -> object:
    """All that a match says."""
    return (
        match.instruction.name, match.roots, match.leaves, tuple(sorted(match.binding.items())),
        match.loops, tuple(match.immediates.items()), match.inner, match.stamp, match.error,
        match.meaning.operands, match.meaning.outputs,
    )  # fmt: skip


def around(*roots: Node) -> Surroundings:
    return Surroundings.of(roots, EXTENTS)


def keep(repeats: Repeats, root: Node) -> None:
    """As if a search had seen all under a value."""
    repeats.keep(root, ([n for n in walk([root]) if n.children], inputs([root])))


def surroundings(model: Model) -> Surroundings:
    (graph,) = model.graphs
    return Surroundings.of(canonical_graph(graph).roots, graph.extents)


@pytest.mark.parametrize(("number", "distinct"), [(0, 1), (1, 1), (4, 1), (5, 1), (9, 0)], ids=str)
def test_repeats_give_the_matches_of_a_search_from_scratch(number: int, distinct: int) -> None:
    """At every value of four layers, all written alike (1) or each in forms of its own (0): with
    grouped heads, rotations, a given mask and parted axes, in bf16. The first and the last differ
    from those between in what is around them."""
    model = transformer(ARCHITECTURES[number], 4, seed=7, distinct=distinct)
    graph = surroundings(model)
    quick, slow = Counting(LIBRARY, graph), FromScratch(LIBRARY, graph)

    for node in graph.users:
        assert {*map(said, quick(node))} == {*map(said, slow(node))}, str(node)[:200]

    assert quick.spared > (len(graph.users) / 8 if distinct else 0)


# ---------------------------------------------------------------- classes


def test_names_of_tensors_and_axes_are_no_difference() -> None:
    other = Input("other", ("k", "m"))
    first, second = tanh(X * 2.0), tanh(rename(other, {"k": "n"}) * 2.0)
    repeats = Repeats(around(first, tanh(Input("y", ("n", "m")) * 2.0), second), {})

    keep(repeats, first)
    alike = repeats.earlier(tanh(Input("y", ("n", "m")) * 2.0))
    assert alike is not None
    assert alike[0] is first
    assert repeats.earlier(second) is None  # an axis of five, and a renaming


@pytest.mark.parametrize(
    "other",
    [
        tanh(Input("y", ("m", "n")) * 3.0),
        exp(Input("y", ("m", "n")) * 2.0),
        tanh(Input("y", ("m", "n"), "bf16") * 2.0),
        tanh(Input("y", ("m", "k")) * 2.0),
        tanh(Input("y", ("m",)) * 2.0),
    ],
)
def test_numbers_functions_types_and_lengths_are_differences(other: Node) -> None:
    first = tanh(X * 2.0)
    repeats = Repeats(around(first, other), {})

    keep(repeats, first)
    assert repeats.earlier(other) is None


def test_other_users_are_a_difference() -> None:
    y = Input("y", ("m", "n"))
    first, other = tanh(exp(X)), tanh(exp(y))
    repeats = Repeats(around(first, other, exp(y)), {})

    keep(repeats, first)
    assert repeats.earlier(other) is None


def test_which_axis_is_reduced_is_a_difference() -> None:
    y = Input("y", ("m", "n"))
    first, other = sum(exp(X), "m"), sum(exp(y), "n")
    repeats = Repeats(around(first, other), {})

    keep(repeats, first)
    assert repeats.earlier(other) is None


def test_one_value_in_two_places_is_a_difference() -> None:
    """x - max(x) is not x - max(y), though both do the same to what they are computed from."""
    y, z = Input("y", ("m", "n")), Input("z", ("m", "n"))
    first, other = X - max(X, "n"), y - max(z, "n")
    alike = Input("u", ("m", "n")) - max(Input("u", ("m", "n")), "n")
    repeats = Repeats(around(first, other, alike), {})

    assert repeats.twins(first, other, {first, max(X, "n")}, {X}) is None
    assert repeats.twins(other, first, {other, max(z, "n")}, {y, z}) is None
    assert repeats.twins(first, alike, {first, max(X, "n")}, {X}) is not None


def test_twins_are_nodes_and_axes_in_the_same_places() -> None:
    y, v, w = Input("y", ("n", "m")), Input("v", ("n", "k")), Input("w", ("m", "k"))
    first, other = exp(dot(X, v, "n")), exp(dot(y, w, "m"))
    repeats = Repeats(around(first, other), {})

    twins = repeats.twins(first, other, {first, first.children[0]}, {X, v})

    assert twins is not None
    assert twins.axes == {"m": "n", "n": "m", "k": "k"}
    assert (twins.node(X), twins.node(v)) == (y, w)
    assert twins.node(X * 1.0) == y * 1.0
    assert twins.node(rename(X, {"n": "k"})) == rename(y, {"m": "k"})


def test_a_part_of_a_sum_stands_for_its_terms() -> None:
    y, z = Input("y", ("m", "n")), Input("z", ("m", "n"))
    graph = around((X + y) + z)

    assert set(graph_nodes(X + z, graph)) == {X, z}
    assert set(graph_nodes(X + y, graph)) == {X + y}


def test_layers_may_share_a_part_of_their_sums() -> None:
    """Two masks that all layers add: what is known of the part is about one of the layers only."""
    one, other = Input("one", ("m", "n")), Input("other", ("m", "n"))
    products = [
        dot(Input(f"q{i}", ("m", "k")), rename(Input(f"k{i}", (f"h{i}", "k")), {f"h{i}": "n"}), "k")
        for i in range(3)
    ]
    totals = [product + one + other for product in products]
    roots = [exp(total - max(total, "n")) for total in totals]
    values = [
        dot(weight / sum(weight, "n"), Input(f"v{i}", ("n", "e")), "n")
        for i, weight in enumerate(roots)
    ]
    graph = around(*values)
    quick, slow = Counting(LIBRARY, graph), FromScratch(LIBRARY, graph)

    for node in (values[0], roots[1], values[2]):
        assert {*map(said, quick(node))} == {*map(said, slow(node))}

    assert quick.spared == 1


def test_each_layer_reads_past_its_own_view() -> None:
    """The leaf of a product of renamed parts is one view of the whole, which no search met."""
    sizes = {"a": 2, "b": 4, "m": 4, "k": 5, "n": 4}
    extents = [Extent(axis, Count(size), size) for axis, size in sizes.items()]

    def attended(name: str) -> Node:
        part = view(Input(name, ("a", "b", "k")), {"a": 1})
        return dot(rename(part, {"b": "m"}), Input("w", ("k", "n")), "k") + dot(part, part, "k b")

    roots = [attended("x"), attended("y")]
    graph = Surroundings.of(roots, extents)
    quick, slow = Counting(LIBRARY, graph), FromScratch(LIBRARY, graph)

    for node in graph.users:
        assert {*map(said, quick(node))} == {*map(said, slow(node))}
