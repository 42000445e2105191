"""Positions as weights."""

import numpy as np

from infinisa.compiler.graph import Graph, Model
from infinisa.compiler.tables import tabulated
from infinisa.isa.language import Input, position, where
from infinisa.isa.program import Count, Extent, parameter


def model(length: Count) -> Model:
    """Causal scores."""
    scores = Input("scores", ("s", "t"))
    result = where(position("s") >= position("t"), scores, -1.0)
    extents = (Extent("s", length, 2), Extent("t", Count(3), 3))
    graph = Graph("main", extents, {"y": result}, names={result: "mask"})
    return Model("m", (graph,), {"scores": (scores, (2, 3))})


def test_the_largest_expression_of_positions_is_one_weight() -> None:
    found = tabulated(model(Count(2)))

    (graph,) = found.graphs
    assert str(graph.outputs["y"]) == "where(main.table0[s t: bool], scores[s t], -1.0)"
    assert list(graph.names.values()) == ["mask"]
    assert found.weights["main.table0"].load().tolist() == np.tri(2, 3, dtype=bool).tolist()


def test_axes_that_grow_at_run_time_keep_their_positions() -> None:
    growing = model(parameter("tokens"))

    assert tabulated(growing).graphs == growing.graphs
