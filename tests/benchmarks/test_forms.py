"""The forms that models are written in compute what the plain ones do."""

from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks._forms import (
    ARCHITECTURES,
    CAP,
    EPSILON,
    SIZES,
    SPECIMEN_SIZES,
    SPECIMENS,
    expected,
    library,
    primitives,
    specimen,
    transformer,
)
from benchmarks._judge import difference, tolerance
from infinisa.compiler.graph import Model
from infinisa.isa.evaluate import Range, align, evaluate
from infinisa.isa.language import Constant, Node, substitute

FORMS = 12
"""Random forms of each formula; they share parts, so that few leave one out."""


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_form_computes_what_the_instruction_does(name: str) -> None:
    made = library()[name]
    choices = [{"epsilon": e, "scale": s, "cap": CAP} for e in (1e-3, EPSILON)
               for s in (0.25, 5.0**-0.5)]  # fmt: skip
    meanings: list[Node] = []
    for numbers in choices:
        known: dict[Node, Node] = {i: Constant(numbers[i.name]) for i in made.immediates}
        meanings += substitute(made.outputs, known)
    forms = {specimen(name, Random(seed)) for seed in range(FORMS)}

    for form in forms:
        apart = [difference(form, each, made.operands, SPECIMEN_SIZES) for each in meanings]
        assert min(apart) < tolerance(["f32"]), form


def value(model: Model) -> NDArray[Any]:
    """The model's result on inputs that follow from their names, over axes b s v."""
    arrays = {}
    for name, (leaf, shape) in model.inputs.items():
        source = np.random.default_rng([*name.encode()])
        arrays[leaf.name] = source.standard_normal(shape)
    arrays |= {name: weight.load() for name, weight in model.weights.items()}
    (graph,) = model.graphs
    ranges = {axis: Range(0, size) for axis, size in graph.sizes().items()}
    (result,) = evaluate(graph.roots, arrays, ranges=ranges)
    return align(result, graph.roots[0].axes, ("b", "s", "v"))


@pytest.mark.parametrize("number", range(len(ARCHITECTURES)))
def test_a_model_in_random_forms_and_layouts_is_the_plain_model(number: int) -> None:
    """To the roundings of f32; of bf16 where that is its type, since it rounds in other places."""
    architecture = ARCHITECTURES[number]
    most = 0.1 if architecture.dtype == "bf16" else 2e-3

    plain = value(transformer(architecture, 1))
    other = value(transformer(architecture, 1, seed=number))

    assert np.abs(plain - other).max() <= most * np.abs(plain).max()


def test_forms_differ_from_layer_to_layer_and_seed_to_seed() -> None:
    architecture = ARCHITECTURES[0]
    first, second = (transformer(architecture, 2, seed) for seed in (1, 2))

    assert first.graphs[0].roots != second.graphs[0].roots
    assert transformer(architecture, 2, 1).graphs[0].roots == first.graphs[0].roots
    assert primitives(transformer(architecture, 2, 1, distinct=1)) != primitives(first)


def test_what_must_be_found_follows_from_the_architecture() -> None:
    assert expected(ARCHITECTURES[1], 12) == {
        "rms_norm": 25,
        "causal_attention": 12,
        "rope_by_table": 24,
        "swiglu": 12,
        "matmul": 7 * 12 + 1,
        "softmax": 1,
    }


def test_the_library_has_forty_instructions() -> None:
    assert len(library()) == 40


def test_sizes_that_may_be_mistaken_for_each_other_differ() -> None:
    """Axes that meet in one formula; s and t are the same positions."""
    for group in ("s d f v", "h e f", "p i s", "c d s", "m n k", "s t d e"):
        sizes = SPECIMEN_SIZES if group in ("m n k", "s t d e") else SIZES
        lengths = [sizes[axis] for axis in group.split()]
        assert len(set(lengths)) == len(lengths), group
