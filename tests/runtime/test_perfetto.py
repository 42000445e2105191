"""Traces for ui.perfetto.dev."""

import json

from infinisa.isa.program import Loop
from infinisa.runtime.report.perfetto import to_json
from infinisa.runtime.simulator import simulate
from tests.runtime.builder import LIBRARY, Builder, machine


def test_a_trace_has_a_process_for_each_core_and_a_thread_for_each_unit() -> None:
    build = Builder()
    build.axis("s", 8)
    build.tensor("a", 8)
    build.tile("p", 4)
    build.tile("q", 4)
    body = (build.load("p s1", "a s1"), build.issue("positive", ["p s1"], ["q s1"]))
    program = build.program([Loop("s1", "s", 4, body, spread=True)])
    target = machine(cores=2, vectors=2)
    trace = json.loads(to_json(simulate(program, LIBRARY, target, trace=True)))
    entries = trace["traceEvents"]
    names = [entry for entry in entries if entry["name"] in ("process_name", "thread_name")]
    slices = [entry for entry in entries if entry["ph"] == "X"]

    assert trace["otherData"] == {"machine": "plain", "clock": 1000, "unit": "1 us is 1 cycle"}
    assert [(n["pid"], n.get("tid"), n["args"]["name"]) for n in names] == [
        (0, None, "program"),
        (0, 0, "sections"),
        (0, 1, "stages"),
        *(
            (core + 1, tid, name)
            for core in (0, 1)
            for tid, name in (
                (None, f"core {core}"),
                (0, "matrix"),
                (1, "vector 0"),
                (2, "vector 1"),
                (3, "text"),
                (4, "load"),
                (5, "store"),
            )
        ),
    ]
    assert [(s["name"], s["pid"], s["tid"], s["ts"], s["dur"]) for s in slices] == [
        ("main 0", 0, 0, 0, 21),
        ("stage0", 0, 1, 0, 21),
        ("load", 1, 4, 0, 4),
        ("load", 2, 4, 0, 8),
        ("positive", 1, 1, 9, 6),
        ("positive", 2, 1, 13, 6),
    ]
    assert slices[2]["args"] == {
        "opcode": "load",
        "section": "main",
        "turn": 0,
        "stage": "stage0",
        "number": 0,
        "bytes": 4,
        "done": 9,
    }


def test_slices_of_a_thread_do_not_overlap() -> None:
    build = Builder()
    build.axis("s", 40)
    build.tensor("a", 40)
    build.tile("p", 4, slots=2, rotor="s1")
    build.tile("q", 4)
    body = (build.load("p s1", "a s1"), build.issue("positive", ["p s1"], ["q s1"]))
    program = build.program([Loop("s1", "s", 4, body)])
    entries = json.loads(to_json(simulate(program, LIBRARY, machine(), trace=True)))["traceEvents"]
    ends: dict[tuple[int, int], int] = {}
    for entry in (entry for entry in entries if entry["ph"] == "X"):
        thread = entry["pid"], entry["tid"]
        assert entry["ts"] >= ends.get(thread, 0)
        ends[thread] = entry["ts"] + entry["dur"]
