"""Several threads: what they divide, what they compute, and how they end."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from infinisa.isa import language as L
from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction, instruction, step_of
from infinisa.isa.program import Issue, Loop, Operand, Program
from infinisa.isa.verify import verify
from infinisa.runtime.interpreter import interpret
from infinisa.runtime.jit import Compiled, Session, compile_program
from infinisa.runtime.jit.rewriting.shares import Share, Shares
from infinisa.runtime.jit.threads import COUNTERS, EACH, ID, usable_cores
from tests.runtime.jit import single


@instruction(unit="matrix")
def matmul(a: "m k", b: "k n"):
    return L.dot(a, b, "k")


@instruction(unit="vector")
def softmax(x: "m n"):
    e = L.exp(x - L.max(x, "n"))
    return e / L.sum(e, "n")


@instruction(unit="vector")
def look_up(table: "v d", i: "s: i32"):
    return L.gather(table, i, "v")


@instruction(unit="vector")
def running(x: "s d", start: "d"):
    def step(total, here):
        return (total + here,), (total + here,)

    _, (sums,) = L.scan(step, {"total": start}, {"here": x}, "s")
    return sums


@instruction(unit="vector")
def double(x: "n"):
    return x + x


# ---------------------------------------------------------------- what is divided


def the_issue(program: Program) -> Issue:
    (item,) = program.sections[0].stages[0].body
    while isinstance(item, Loop):
        (item,) = item.body
    return item


def divided(program: Program, meaning: Instruction, issue: Issue | None = None) -> str | None:
    """The range that two threads would divide, however little it saves."""
    (opcode,) = program.opcodes
    bounds = {extent.axis: extent.most for extent in program.sections[0].extents}
    shares = Shares(program.buffer, threads=2, lanes=4, worth=1)
    found = shares.share(issue or the_issue(program), opcode, meaning, bounds)
    return found.range if found else None


@pytest.mark.parametrize(
    ("meaning", "sizes", "wanted"),
    [
        (matmul, {"m": 64, "k": 64, "n": 512}, "n"),  # each reads half of the larger side
        (matmul, {"m": 512, "k": 64, "n": 64}, "m"),
        (matmul, {"m": 1, "k": 512, "n": 1}, None),  # sums are not divided
        (step_of(matmul)[0], {"m": 8, "k": 64, "n": 512}, "n"),
        (softmax, {"m": 8, "n": 512}, "m"),
        (look_up, {"v": 512, "d": 8, "s": 8}, "s"),  # any row of the table may be wanted
        (look_up, {"v": 512, "d": 64, "s": 1}, "d"),
        (double, {"n": 512}, "n"),
    ],
)
def test_an_axis_is_divided(
    meaning: Instruction, sizes: dict[str, int], wanted: str | None
) -> None:
    assert divided(single.program_of(meaning, sizes), meaning) == wanted


def test_a_recurrence_is_divided_across_its_steps() -> None:
    program = single.program_of(running, {"s": 512, "d": 64})

    assert divided(program, running) == "d"


def test_what_is_read_elsewhere_than_it_is_written_is_not_divided() -> None:
    """In place the pieces are apart; one position further they are not."""
    program = single.program_of(double, {"n": 512})
    issue = the_issue(program)
    here = Operand("out0", issue.writes[0].dimensions)
    further = Operand("out0", (replace(here.dimensions[0], offset=1),))

    assert divided(program, double, replace(issue, reads=(here,))) == "n"
    assert divided(program, double, replace(issue, reads=(further,))) is None


def test_pieces_write_lines_of_their_own() -> None:
    """16 numbers of 4 bytes: 40 positions are 16, 16 and 8, and 16 are one thread's."""
    program = single.program_of(double, {"n": 40})
    (opcode,) = program.opcodes
    shares = Shares(program.buffer, threads=2, lanes=1, worth=1)
    share = shares.share(the_issue(program), opcode, double, {"n": 40})

    assert share is not None
    assert (share.grain, share.piece(40)) == (16, 16)
    assert shares.share(the_issue(program), opcode, double, {"n": 16}) is None


def test_small_work_stays_on_one_thread() -> None:
    """Where its length is known when it runs, that decides; so does what is saved at most."""
    small = single.program_of(matmul, {"m": 4, "k": 8, "n": 16})
    large = single.program_of(matmul, {"m": 256, "k": 256, "n": 256})

    assert not code(small, matmul, worth=None).plan.shared
    assert code(large, matmul, worth=None).plan.shared == {large.sections[0].name}


# ---------------------------------------------------------------- what they compute


def code(
    program: Program, meaning: Instruction, threads: int = 2, worth: int | None = 1
) -> Compiled:
    more: dict[str, Any] = {} if worth is None else {"worth": worth}
    library = {meaning.name: meaning}
    return compile_program(program, library, "parallel", threads=threads, verified=True, **more)


def steps(turns: int = 50) -> tuple[Program, Instruction]:
    """A product in many pieces that accumulate: each turn reads what the one before wrote. There
    are so many rows that no thread's piece is of the few that another kernel computes."""
    step, _ = step_of(matmul)
    program = single.program_of(step, {"m": 77, "k": 4 * turns, "n": 65}, {"k": 4})
    return program, step


def make(threads: int = 2) -> tuple[Session, dict[str, Any], Any]:
    """A session, its inputs, and what must come out: bit for bit what one thread computes."""
    program, step = steps()
    arrays = single.arrays_for(program)
    wanted = compile_program(program, {step.name: step}, "vector", verified=True).run(arrays)
    made = code(program, step, threads).session(arrays)
    assert made.compiled.plan.shared
    return made, arrays, wanted.outputs["out0"]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_any_number_of_threads_computes_the_same(threads: int) -> None:
    program, step = steps()
    arrays = single.arrays_for(program)
    wanted = compile_program(program, {step.name: step}, "vector", verified=True).run(arrays)
    made = code(program, step, threads).session(arrays)

    for _ in range(20):
        assert np.array_equal(made.run({}).outputs["out0"], wanted.outputs["out0"])


def test_a_length_known_when_it_runs() -> None:
    """All lengths from none to more than the pieces hold."""
    program = single.program_of(softmax, {"m": 9, "n": 20}, most={"m": 70})
    arrays = single.arrays_for(program)
    made = code(program, softmax, 3)

    for length in (0, 1, 2, 3, 8, 69, 70):
        one = compile_program(program, {"softmax": softmax}, verified=True)
        wanted = one.run(arrays, {"m": length}).outputs["out0"]
        assert np.array_equal(made.run(arrays, {"m": length}).outputs["out0"], wanted)


def test_two_sessions_at_once() -> None:
    """Each has threads, words and scratch memory of its own."""
    pairs = [make(), make(3)]
    wrong: list[str] = []

    def work(made: Session, wanted: Any) -> None:
        for _ in range(50):
            if not np.array_equal(made.run({}).outputs["out0"], wanted):
                wrong.append("values")

    running = [threading.Thread(target=work, args=(made, wanted)) for made, _, wanted in pairs]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()

    assert wrong == []


def view(x: L.Node, index: str, fill: float | None = None) -> L.Node:
    """x read at an index of its axis c."""
    return L.view(x, {"c": index}, fill=fill)


def positions_of(axis: str) -> L.Node:
    return L.cast(L.sum(L.position(axis), axis), "f32")


A_C, C, ROWS = L.Input("x", ("a", "c"), "f32"), L.Input("y", ("c",), "f32"), {"a": 5, "c": 17}
PICKS = L.Input("i", ("f",), "i32")
INDEXED: list[tuple[str, tuple[L.Node, ...], dict[str, int], str]] = [
    ("window", (view(A_C, "f"),), {"a": 5, "f": 17}, "a f"),
    ("window with a stride", (view(A_C, "2*f + 3"),), {"a": 5, "f": 17}, "a f"),
    ("window of a fold", (L.max(view(A_C, "2*f + r + 1"), "r"),), {"a": 5, "f": 17, "r": 3}, "a f"),
    ("window of a product", (L.dot(view(A_C, "f + 3*r"), L.Input("w", ("r", "o"), "f32"), "r"),),
     {"a": 5, "f": 17, "r": 3, "o": 9}, "a f o"),
    ("two windows alike", (view(A_C, "f + 1") * view(C, "f + 1"),), {"a": 5, "f": 17}, "a f"),
    ("window and position", (view(A_C, "f") * L.position("f") + L.size("f"),),
     {"a": 5, "f": 17}, "a f"),
    ("two windows unlike", (view(A_C, "f") * view(C, "16 - f"),), {**ROWS, "f": 17}, "a"),
    ("read in two ways", (view(A_C, "f") + view(A_C, "f + 1"),), {**ROWS, "f": 16}, "a"),
    ("its axis is there too", (view(A_C, "f") * L.max(C, "c"),), {**ROWS, "f": 17}, "a"),
    ("its positions are asked for", (view(A_C, "f") + positions_of("c"),), {**ROWS, "f": 17}, "a"),
    ("backwards", (view(-A_C, "16 - f"),), {**ROWS, "f": 17}, "a"),
    ("backwards in place", (view(-A_C, "16 - c"),), ROWS, "a"),
    ("a fill", (view(-A_C, "2*f - 3", 1.0),), {**ROWS, "f": 17}, "a"),
    ("digits", (view(A_C, "f // 3") * view(A_C, "f % 17"),), {**ROWS, "f": 33}, "a"),
    ("window of what is folded", (view(L.max(A_C, "a"), "f"),), {**ROWS, "f": 17}, ""),
    ("look-up", (L.gather(A_C, PICKS, "c"),), {**ROWS, "f": 33}, "a f"),
    ("look-up in a window", (L.gather(view(A_C, "g + 2"), PICKS, "a"),),
     {"a": 8, "f": 33, "g": 15}, "f g"),
    ("stack", (L.stack([A_C, A_C * 2.0, -A_C], "k"),), {**ROWS, "k": 3}, "a c"),
    ("update", (L.update(A_C, L.Input("z", ("a", "g"), "f32"), {"c": "2*g + 1"}),),
     {**ROWS, "g": 7}, "a"),
    ("position", (A_C * L.position("c") + L.position("a"),), ROWS, "a c"),
    ("index of the greatest", (L.argmax(A_C, "c"),), ROWS, "a"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "outputs", "sizes", "axes"), INDEXED, ids=lambda x: x if isinstance(x, str) else ""
)
def test_whatever_may_be_divided_computes_the_same(
    name: str,
    outputs: tuple[L.Node, ...],
    sizes: dict[str, int],
    axes: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where positions are computed, an axis goes in pieces of any length or not at all."""
    meaning = Instruction(name="op", unit="vector", operands=L.inputs(outputs), outputs=outputs)
    library = {"op": meaning}
    program = single.program_of(meaning, sizes)
    (opcode,) = program.opcodes
    verify(program, None, library)
    arrays = single.arrays_for(program)
    wanted = interpret(program, library, arrays).outputs["out0"]

    found = list(Shares(program.buffer, 2, 4, worth=1).ranges(the_issue(program), opcode, meaning))

    assert sorted(found) == axes.split()
    for axis in found:
        for threads in (2, 7):
            share = Share(axis, pieces=threads)
            monkeypatch.setattr(Shares, "share", lambda *_, share=share: share)
            made = code(program, meaning, threads)
            assert made.plan.shared
            single.near(
                made.run(arrays).outputs["out0"], wanted, 1e-6, f"{name} by {axis} in {threads}"
            )


# ---------------------------------------------------------------- how they end


def workers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("infinisa")}


def gone(threads: set[threading.Thread]) -> bool:
    """Whether these threads end; they need a moment."""
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_close_ends_the_threads_and_another_run_starts_new_ones() -> None:
    before = workers()
    made, _, wanted = make(3)
    made.run({})
    mine = workers() - before

    made.close()

    assert len(mine) == 2
    assert gone(mine)
    assert np.array_equal(made.run({}).outputs["out0"], wanted)
    made.close()


def test_the_last_reference_ends_the_threads() -> None:
    before = workers()
    made, *_ = make()
    made.run({})
    mine = workers() - before

    del made
    gc.collect()

    assert mine
    assert gone(mine)


def test_threads_wait_for_the_next_run_and_not_for_long() -> None:
    made, _, wanted = make(3)
    for pause in (0, 0, 2.0, 0):
        made.run({})
        time.sleep(pause)
    assert np.array_equal(made.run({}).outputs["out0"], wanted)

    end = time.monotonic() + 30
    while len(made.team.away) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert made.team.away == {1, 2}
    made.close()


def test_threads_of_the_caller_share_a_session() -> None:
    made, _, wanted = make()
    step = made.step()
    running = [threading.Thread(target=lambda: [step() for _ in range(100)]) for _ in range(3)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)

    assert not any(thread.is_alive() for thread in running)
    assert np.array_equal(made.run({}).outputs["out0"], wanted)
    made.close()


def test_a_run_on_its_own_leaves_no_threads() -> None:
    before = workers()
    program, step = steps()

    code(program, step).run(single.arrays_for(program))

    assert gone(workers() - before)


def test_an_interrupt_before_native_code_leaves_nothing_waiting() -> None:
    made, _, wanted = make()
    entries = made.entries

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    made.entries = dict.fromkeys(entries, interrupted)  # type: ignore[arg-type]  # what a signal there amounts to
    with pytest.raises(KeyboardInterrupt):
        made.run({})
    made.entries = entries

    assert np.array_equal(made.run({}).outputs["out0"], wanted)
    before = workers()
    made.close()
    assert gone(before)


def test_the_calling_thread_keeps_its_cores() -> None:
    before = usable_cores()
    made, *_ = make()
    made.run({})

    assert usable_cores() == before


CORES = hasattr(os, "sched_setaffinity") and len(usable_cores()) > 1
"""Whether there are cores to keep threads on."""


@pytest.mark.skipif(not CORES, reason="there are no cores to keep threads on")
def test_the_others_stay_away_from_the_core_of_the_calling_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever that one moves to."""
    made, *_ = make()

    def kept() -> set[int]:
        """The core that the other thread is kept on, if it is not away just now."""
        made.run({})
        return {
            core for one in made.team.known.copy().values() for core in os.sched_getaffinity(one)
        }

    for core in (*usable_cores()[:2], usable_cores()[0]):
        monkeypatch.setattr("infinisa.runtime.jit.threads._core", lambda core=core: core)
        end = time.monotonic() + 30
        while len(found := kept()) != 1 and time.monotonic() < end:
            pass  # it is only just starting, or away
        assert found == {made.team.cores[1]} <= set(usable_cores()) - {core}
    made.close()


@pytest.mark.skipif(not CORES, reason="there are no cores to keep threads on")
def test_a_core_that_somebody_else_has_too() -> None:
    """The other thread loses it in the middle of a piece; wherever it ends that, it is kept on its
    core again."""
    made, _, wanted = make()
    made.run({})
    spin = f"import os; os.sched_setaffinity(0, {{{made.team.cores[1]}}})\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", spin]) as other:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert np.array_equal(made.run({}).outputs["out0"], wanted)
            for thread, one in made.team.known.copy().items():
                if not made.team.words[COUNTERS + EACH * thread + ID]:
                    continue  # it is only just starting
                with suppress(OSError):  # it has ended meanwhile
                    assert os.sched_getaffinity(one) == {made.team.cores[thread]}
        other.kill()
    made.close()


SCRIPT = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("tests_of_threads", {file!r})
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
made, _, wanted = module.make()
"""


def script(more: str) -> subprocess.Popen[str]:
    text = SCRIPT.format(file=__file__) + more
    return subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)


def test_a_process_ends_with_its_threads_parked() -> None:
    process = script("made.run({}); print('done')")

    assert process.communicate(timeout=60)[0] == "done\n"
    assert process.returncode == 0


def test_a_process_ends_when_it_is_interrupted() -> None:
    """A shell that starts the tests in the background has its children ignore the interrupt."""
    process = script("""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
while True:
    made.run({})
""")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)

    process.send_signal(signal.SIGINT)

    assert process.wait(timeout=60) not in (0, None)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_fork_has_threads_of_its_own() -> None:
    process = script("""
made.run({})
child = os.fork()
right = (made.run({}).outputs["out0"] == wanted).all()
if child == 0:
    os._exit(0 if right else 1)
sys.exit(os.waitpid(child, 0)[1])
""")

    assert process.wait(timeout=60) == 0


# ---------------------------------------------------------------- what is refused


def test_threads_that_cannot_be() -> None:
    program, step = steps()
    library = {step.name: step}
    for backend, threads, message in (
        ("parallel", 0, "threads must be 1 to 1024 on this system, not 0"),
        ("parallel", -3, "threads must be 1 to 1024 on this system, not -3"),
        ("scalar", 2, "backend 'scalar' runs on 1 thread, not 2: use 'parallel'"),
    ):
        with pytest.raises(CompileError) as caught:
            compile_program(program, library, backend, threads=threads, verified=True)
        assert str(caught.value) == message


def test_by_default_there_is_a_thread_for_each_core() -> None:
    program, step = steps()
    made = compile_program(program, {step.name: step}, "parallel", verified=True)

    assert made.plan.threads == len(usable_cores())
