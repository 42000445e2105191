"""Stages are alike if they differ in the names of buffers only."""

from __future__ import annotations

import pytest

from infinisa.isa.assembly import parse_text
from infinisa.isa.encoding import decode, encode
from infinisa.isa.program import Like

LAYERS = """
program layers for tiny

opcode op = relu "" on vector
    bind m = s
    read (s)
    write (s)
    outputs 0

buffer a: input f32 [9] in dram
buffer b: temporary f32 [9] in dram
buffer c: temporary f32 [9] in dram
buffer d: output f32 [9] in dram
buffer chip: temporary f32 [4] in scratchpad place 0 pitch 64

section main
    axis s = 8
    stage one
        for s1 in s step 4:
            b[s1] = op(a[s1]) on vector over s=s1
    stage two
        alive chip 0 to 1
        chip[s-s] = op(b[s]) on vector over s
    stage three
        for s1 in s step 4:
            c[s1] = op(b[s1]) on vector over s=s1
    stage four
        for s1 in s step 4:
            d[s1] = op(c[s1]) on vector over s=s1
"""


def likes(*edits: str) -> list[int]:
    text = LAYERS
    for edit in edits:
        old, new = edit.split(" -> ")
        assert old in text
        text = text.replace(old, new)
    (found,) = parse_text(text, "test").likes
    return [like.first for like in found]


def test_names_of_buffers_do_not_matter_but_their_kinds_do() -> None:
    assert likes() == [0, 1, 2, 3]
    assert likes("input f32 -> temporary f32", "output f32 -> temporary f32") == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "edit",
    [
        "b: temporary f32 -> b: temporary f16",
        "b: temporary f32 [9] -> b: temporary f32 [10]",
        "c[s1] = op(b[s1]) on vector -> c[s1] = op(b[s1]) on other",
        "c[s1] = op(b[s1]) -> c[s1] = op(b[s1] fill 0.0)",
        "c[s1] = op(b[s1]) -> c[s1] = op(b[s1+1])",
        "c[s1] = op(b[s1]) -> c[s1] = op(c[s1])",
        "for s1 in s step 4:\n            c -> for s1 in s step 2:\n            c",
        "for s1 in s step 4:\n            c -> for s1 in s step 4 reverse:\n            c",
        "stage three -> stage three\n        alive chip 0 to 1",
    ],
)
def test_all_else_does(edit: str) -> None:
    same = "input f32 -> temporary f32", "output f32 -> temporary f32"

    assert likes(*same, edit)[2] == 2


def test_the_same_names_stand_in_the_same_places() -> None:
    """A stage that reads what it writes is like another that does."""
    same = "input f32 -> temporary f32", "output f32 -> temporary f32"

    assert likes(*same, "b[s1] = op(a[s1]) -> a[s1] = op(a[s1])") == [0, 1, 2, 2]
    own = "b[s1] = op(a[s1]) -> a[s1] = op(a[s1])", "d[s1] = op(c[s1]) -> d[s1] = op(d[s1])"
    assert likes(*same, *own) == [0, 1, 2, 0]


def test_each_has_its_own_buffers_in_the_same_order_however_it_was_made() -> None:
    text = LAYERS.replace("input f32", "temporary f32").replace("output f32", "temporary f32")
    made = parse_text(text, "test")

    for program in (made, decode(encode(made), "test")):
        assert program.likes == (
            (Like(0, ("a", "b")), Like(1, ("b", "chip")), Like(0, ("b", "c")), Like(0, ("c", "d"))),
        )
