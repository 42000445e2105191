"""Sums of branches, as networks have them while they are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compiler.everywhere import agree_everywhere
from tests.compiler.readers.test_onnx import (
    assert_as_onnxruntime,
    made,
    named,
    node,
    random,
)
from tests.machines import CACHE


def blocks(count: int, branches: int) -> Any:
    """Each the sum of products of its input, and of the input scaled and shifted."""
    weights = {"gain": random(6), "shift": random(6, seed=1)}
    nodes, x = [], "x"
    for block in range(count):
        total = f"scaled{block}"
        nodes += [node("Mul", f"{x} gain", f"g{block}"), node("Add", f"g{block} shift", total)]
        for number in range(branches):
            own, last = f"{block}_{number}", total
            weights |= {f"w{own}": 0.5 * random(6, 6, seed=number), f"b{own}": random(6)}
            total = f"sum{own}"
            nodes += [
                node("MatMul", f"{x} w{own}", f"p{own}"),
                node("Add", f"p{own} b{own}", f"q{own}"),
                node("Add", f"q{own} {last}", total),
            ]
        x = f"x{block}"
        nodes.append(node("Relu", total, x))
    return made(nodes, {"x": (5, 6)}, [x], weights)


@pytest.mark.parametrize(("count", "branches"), [(1, 5), (2, 2), (3, 3)])
def test_blocks_of_branches(count: int, branches: int, tmp_path: Path) -> None:
    inputs = {"x": random(5, 6)}
    found = assert_as_onnxruntime(blocks(count, branches), inputs, tmp_path)

    agree_everywhere(found, CACHE, inputs=named(found, inputs), tolerance=1e-4)
