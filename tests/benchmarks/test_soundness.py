"""Mutants and near misses: each is what it is said to be, and none is taken for an instruction.

`make soundness` tries them all.
"""

from collections import Counter
from itertools import islice

import pytest

from benchmarks._finding import found_in, model_of
from benchmarks._forms import SPECIMEN_SIZES, library
from benchmarks._judge import Audit, difference, tolerance
from benchmarks._mutants import Mutant, mutants
from benchmarks._near_misses import MADE, NearMiss, wanted
from infinisa.api import find_machine
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import Node, inputs
from infinisa.plugins.manager import load

SOME = 60


def mistaken(root: Node, resembled: Instruction) -> list[str]:
    """The matches in a cone that compute something else."""
    known = {**library(), **load().library, resembled.name: resembled}
    found = found_in(model_of(root, SPECIMEN_SIZES), find_machine("edge", load()), known)
    audit = Audit(SPECIMEN_SIZES)
    return [str(match) for match in found.matches if audit.wrong(match)]


@pytest.fixture(scope="module")
def made() -> list[Mutant]:
    return list(islice(mutants(1), SOME))


def test_no_mutant_is_taken_for_what_it_is_not(made: list[Mutant]) -> None:
    wrong = {m.root: mistaken(m.root, library()[m.resembles]) for m in made}

    assert {root: matches for root, matches in wrong.items() if matches} == {}


def test_mutants_are_of_every_kind_and_most_of_them_differ() -> None:
    first = list(islice(mutants(1), 300))
    kinds = Counter(mutant.changed for mutant in first)

    assert len(kinds) == 12
    assert len({mutant.root for mutant in first}) == 300
    assert sum(mutant.equal for mutant in first) < 100


def test_mutants_follow_from_their_seed(made: list[Mutant]) -> None:
    assert list(islice(mutants(1), SOME)) == made
    assert next(mutants(2)).root is not made[0].root


@pytest.mark.parametrize("miss", MADE, ids=lambda miss: miss.title)
def test_a_near_miss_differs(miss: NearMiss) -> None:
    leaves = inputs([miss.root])

    assert difference(miss.root, wanted(miss), leaves, SPECIMEN_SIZES) > 4 * tolerance(["f32"])


@pytest.mark.parametrize("miss", MADE, ids=lambda miss: miss.title)
def test_a_near_miss_is_not_taken(miss: NearMiss) -> None:
    assert mistaken(miss.root, miss.instruction) == []


def test_there_are_fifty_near_misses_or_more() -> None:
    assert len({miss.title for miss in MADE}) == len(MADE) >= 50
