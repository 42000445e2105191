"""What is where on the chip."""

from dataclasses import replace

from infinisa.isa.program import Program
from infinisa.runtime.capacity import Held, capacity
from infinisa.runtime.report import text
from tests.runtime.builder import Builder, machine


def placed() -> Program:
    """x has a place for itself; y and z share one, of two slots, y before z."""
    build = Builder()
    build.tile("x", 4)
    build.tile("y", 4, slots=2, rotor="")
    build.tile("z", 4, slots=2, rotor="", place=1)
    program = build.program([build.issue("positive", ["x"], ["x"])])
    (section,) = program.sections
    (stage,) = section.stages
    stage = replace(stage, lifetimes=(("x", 0, 3), ("z", 2, 3), ("y", 0, 2)))
    return replace(program, sections=(replace(section, stages=(stage,)),))


def test_places_are_counted_once_and_buffers_by_address() -> None:
    (use,) = capacity(placed(), machine())

    assert (use.section, use.stage, use.memory, use.size) == ("main", "stage0", "scratchpad", 65536)
    assert (use.used, use.peak) == (1024 + 2048, 1024 + 2048)
    assert use.buffers == (
        Held("x", 0, 0, 1, 1024, 0, 3),
        Held("y", 1, 4096, 2, 2048, 0, 2),
        Held("z", 1, 4096, 2, 2048, 2, 3),
    )


def test_a_cache_has_no_buffers() -> None:
    assert capacity(placed(), machine(cache=64)) == ()


def test_the_table_shows_the_fullest_stage() -> None:
    shown = text.plain(text.memory(capacity(placed(), machine())))

    assert "scratchpad in stage stage0 of main" in shown
    assert "4.7 %" in shown
