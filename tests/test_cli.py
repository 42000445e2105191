"""The command line as its user sees it: what it prints, its exit status, its messages."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from infinisa.cli import main

PROMPT = "import os"

PATIENT = """
from infinisa import hookimpl

def patient(waited: int) -> int:
    return -waited

@hookimpl
def infinisa_policies():
    return {"patient": patient}
"""

INTERRUPTING = """
from infinisa import hookimpl

asked = []

def stop(ready):
    asked.append(len(ready))
    if len(asked) == 1000:
        raise KeyboardInterrupt
    return 0

@hookimpl
def infinisa_policies():
    return {"stop": stop}
"""

GEARS = """
from infinisa import hookimpl
from infinisa.compiler.builder import Builder
from infinisa.isa.language import Opaque, exp


def gears():
    b = Builder("gears")
    b.axis("s", 4)
    x = b.input("x", "s", (4,))
    b.graph("main").output("y", exp(Opaque("gear", (x,), ("s",), "f32")))
    return b.model()


@hookimpl
def infinisa_models():
    return {"gears": gears}
"""
"""A model with an operator that no instruction is called like."""


def messages(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that must fail says: one message, exit status 2, no traceback."""
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("infinisa: ")
    assert "Traceback" not in said
    return said.removeprefix("infinisa: ").strip()


def test_a_comparison_says_what_every_part_does_on_every_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The table and its JSON have a row for prefill and decode on each machine, then the text."""
    file, page = tmp_path / "rows.json", tmp_path / "rows.html"
    options = ["--machine", "edge", "--machine", "tpu_v1", "--rounds", "1", "--tokens", "8"]
    files = ["--json", str(file), "--html", str(page)]
    assert main(["compare", *options, "--prompt", PROMPT, *files]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())

    assert [(row["section"], row["machine"]) for row in found["rows"]] == [
        ("prefill", "edge"),
        ("prefill", "tpu_v1"),
        ("decode", "edge"),
        ("decode", "tpu_v1"),
    ]
    for row in found["rows"]:
        assert row["cycles"] > row["instructions"] > 0
        assert row["tokens"] == (7 if row["section"] == "decode" else row["tokens"])
        assert row["ratio"] == pytest.approx(row["measured"] / row["seconds"])
        assert 0 < row["bandwidth"] <= 1
        assert row["selection"]["proved"] > 50
    for word in ("cycles", "tokens/s", "of peak", "bound by", "coverage", "proved", PROMPT):
        assert word in printed
        assert word in page.read_text()


def test_a_program_file_is_the_program(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Compiled to text and to binary, a model simulates alike, and disassembles to the text."""
    cycles = []
    for suffix in (".iasm", ".iisa"):
        file, report = tmp_path / f"program{suffix}", tmp_path / "report.json"
        assert main(["compile", "--machine", "edge", "--tokens", "2", "-o", str(file)]) == 0
        arguments = ["simulate", str(file), "--machine", "edge", "--json", str(report)]
        assert main(arguments) == 0
        cycles.append(json.loads(report.read_text())["cycles"])
    capsys.readouterr()
    assert main(["disassemble", str(tmp_path / "program.iisa")]) == 0

    assert cycles[0] == cycles[1] > 0
    assert capsys.readouterr().out == (tmp_path / "program.iasm").read_text()


def test_a_program_runs_with_its_weights(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A program file and its weights write what the model writes."""
    program, weights = tmp_path / "p.iisa", tmp_path / "w.safetensors"
    compile_ = ["compile", "--machine", "tiny", "--tokens", "3", "-o", str(program)]
    assert main([*compile_, "--weights-file", str(weights)]) == 0
    capsys.readouterr()
    run = ["run", str(program), "--machine", "tiny", "--weights-file", str(weights)]
    assert main([*run, "--prompt", PROMPT]) == 0
    ours = capsys.readouterr().out
    assert main(["run", "--tokens", "3", "--prompt", PROMPT]) == 0

    assert ours.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1]


def test_a_number_format_says_what_it_does(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """`run` says it behind the text, `compare` under the table and in its JSON."""
    file, formats = tmp_path / "rows.json", ["--weights", "int8/32", "--activations", "int8"]
    assert main(["run", "--tokens", "2", "--prompt", PROMPT, *formats]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    options = ["--machine", "edge", "--rounds", "1", "--tokens", "2", "--json", str(file)]
    assert main(["compare", "--prompt", PROMPT, *options, *formats]) == 0
    found = json.loads(file.read_text())["accuracy"]

    assert said.startswith("weights int8/32, activations int8: weights are off by 0.5")
    assert "perplexity" in said
    assert said.split("; ")[1] in " ".join(capsys.readouterr().out.split())
    assert found["perplexity"][1] == pytest.approx(found["perplexity"][0], rel=0.01)
    assert 0.999 < found["outputs"]["prefill/logits"]["cosine"] < 1


def test_a_number_format_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = messages(capsys, "run", "--weights", "int4")
    assert said.startswith("weights must be 'bf16', 'f16', 'int8', 'int8/N' or 'int4/N'")
    said = messages(capsys, "run", "--activations", "int8")
    assert said == "activations 'int8': need integer weights, not ''"
    said = messages(capsys, "run", "--weights", "int8", "--backend", "reference")
    assert said == "backend 'reference': cannot keep weights in 'int8'"


def test_threads_write_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """A sixteenth as many tokens as usual: some issues of the prefill are divided."""
    texts = []
    for options in ([], ["--threads", "3"], ["--backend", "parallel"]):
        assert main(["run", "--tokens", "4", "--prompt", PROMPT * 20, *options]) == 0
        texts.append(capsys.readouterr().out)

    assert texts[0] == texts[1] == texts[2]


def test_a_comparison_on_two_threads_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The host's peak is that of two cores, so it computes in less simulated time."""
    times = []
    for threads in ("1", "2"):
        file = tmp_path / f"{threads}.json"
        options = ["--machine", "host", "--rounds", "1", "--tokens", "2", "--json", str(file)]
        assert main(["compare", *options, "--threads", threads]) == 0
        found = json.loads(file.read_text())
        assert found["settings"]["CPU threads"] == int(threads)
        assert f"CPU threads {threads}" in capsys.readouterr().out
        times.append(found["rows"][0]["seconds"])

    assert times[1] < times[0]


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_threads_must_be_positive(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--threads", number])

    assert f"must be a positive number, not {number!r}" in capsys.readouterr().err


def test_a_batch_works_on_more_tokens_in_hardly_more_time(tmp_path: Path) -> None:
    rates = []
    for batch in ("1", "4"):
        file = tmp_path / f"{batch}.json"
        options = ["--machine", "edge", "--tokens", "2", "--batch", batch, "--json", str(file)]
        assert main(["simulate", *options]) == 0
        sections = {each["name"]: each for each in json.loads(file.read_text())["sections"]}
        assert sections["decode"]["tokens"] == int(batch)
        rates.append(sections["decode"]["tokens_per_second"])

    assert 3 < rates[1] / rates[0] < 4


def test_a_trace_has_events_of_every_unit(tmp_path: Path) -> None:
    """The file is Chrome's trace format: complete events with times, for all units that worked."""
    trace = tmp_path / "trace.json"
    assert main(["simulate", "--machine", "edge", "--tokens", "2", "--trace", str(trace)]) == 0
    events = json.loads(trace.read_text())["traceEvents"]
    names = {e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}

    assert {"load", "store", "matrix", "vector", "text"} <= names
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")


def test_policies_are_compared_in_one_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A row for each, those of plugins too, the fastest first."""
    plugin, file = tmp_path / "mine.py", tmp_path / "report.json"
    plugin.write_text(PATIENT)
    options = ["--machine", "edge", "--tokens", "2", "--plugin", str(plugin)]
    assert main(["simulate", *options, "--policy", "all", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())

    names = ["oldest", "in_order", "critical_path", "load_balancing", "shortest", "longest"]
    assert list(found) == [*names, "patient"]
    assert all(found[name]["policy"] == name for name in found)
    fastest = min(found[name]["cycles"] for name in found)
    assert printed.index(f"{fastest:,}") < printed.index(f"{found['in_order']['cycles']:,}")


def test_models_run_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model and a program, on three cores and one; parameters are those of both."""
    program, file = tmp_path / "one.iisa", tmp_path / "together.json"
    one = tmp_path / "one.toml"
    whole = Path("isa/machines/datacenter.toml").read_text("utf-8")
    one.write_text(whole.replace("count = 4", "count = 1"), "utf-8")
    assert main(["compile", "--tokens", "2", "--machine", str(one), "-o", str(program)]) == 0
    options = ["--machine", "datacenter", "--tokens", "2", "--with", str(program)]
    capsys.readouterr()

    assert main(["simulate", *options, "--cores", "3,1", "--json", str(file)]) == 0

    printed = capsys.readouterr().out
    assert "slowdown" in printed
    assert "(unused)" in printed
    found = json.loads(file.read_text("utf-8"))
    assert [each["cores"] for each in found["programs"]] == [3, 1]
    assert all(each["slowdown"] > 1 for each in found["programs"])
    assert all(sum(parts) == pytest.approx(1) for parts in found["shares"].values())
    assert found["cycles"] == max(each["together"]["cycles"] for each in found["programs"])
    alone = tmp_path / "alone.json"
    assert main(["simulate", str(program), "--machine", str(one), "--json", str(alone)]) == 0
    cycles = json.loads(alone.read_text("utf-8"))["cycles"]
    assert found["programs"][1]["alone"]["cycles"] == cycles


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--with", "python_lm", "--memory"], "--with: cannot be with --trace, --critical-path,"),
        (["--with", "python_lm", "--cores", "4"], "--cores: must be 2 numbers, one a model"),
        (["--cores", "4"], "--cores: divides the cores of a machine among models, see --with"),
        (["--with", "python_lm", "--set", "x=1"], "parameter 'x': none of the programs has it"),
        (["--with", "python_lm", "--cores", "4,1"], "machine 'datacenter': has 4 cores, not 4 + 1"),
        (["--with", "python_lm", "--machine", "edge"], "machine 'edge': 2 programs at a time need"),
    ],
)
def test_models_that_cannot_run_at_a_time_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--machine", "datacenter", "--tokens", "2", *options]

    assert message in messages(capsys, "simulate", *given)


def test_a_broken_policy_is_named_with_its_plugin(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PATIENT.replace("-waited", "waited / 2"))
    options = ["--machine", "edge", "--plugin", str(plugin), "--policy", "patient"]

    assert messages(capsys, "simulate", *options) == (
        "policy 'patient' of plugin 'mine' in cycle 0: patient of #0 encode_byte_bpe must be an "
        "integer, not 0.0"
    )


def test_an_interrupted_simulation_shows_what_it_had(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Ctrl-C at the 1,000th choice, in the prefill."""
    plugin, file = tmp_path / "mine.py", tmp_path / "report.json"
    plugin.write_text(INTERRUPTING)
    options = ["--machine", "edge", "--plugin", str(plugin), "--policy", "stop"]
    assert main(["simulate", *options, "--json", str(file)]) == 130
    found = json.loads(file.read_text())

    assert "python_lm on edge, interrupted" in capsys.readouterr().out
    assert found["partial"]
    assert [section["name"] for section in found["sections"]] == ["encode", "prefill"]
    assert 900 < found["instructions"] < 1200


def test_the_critical_path_and_the_memory_are_shown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """All cycles are on the path; the four layers are named."""
    file = tmp_path / "report.json"
    options = ["--machine", "edge", "--tokens", "2", "--json", str(file)]
    assert main(["simulate", *options, "--critical-path", "--memory"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())

    for words in ("critical path by instruction", "critical path by layer", "memory by stage"):
        assert words in printed
    assert sum(found["critical_path"].values()) == found["cycles"]
    assert {f"layers.{i}" for i in range(4)} <= set(found["critical_layers"])
    assert all(0 < use["used"] <= use["size"] for use in found["memory"])
    assert found["energy"]["total"] > 0
    assert found["sections"][1]["tokens_per_second"] > 0


def test_explain_says_what_covers_what(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The tables and their JSON: instructions, a node by a part of its name, near misses."""
    file = tmp_path / "explained.json"
    options = ["--machine", "edge", "--node", "layers.0.gat", "--json", str(file)]
    assert main(["explain", *options]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())

    assert [graph["graph"] for graph in found["graphs"]] == [
        "encode", "prefill", "decode", "detokenize"
    ]  # fmt: skip
    rows = {row["instruction"]: row for row in found["graphs"][1]["rows"]}
    assert (rows["swiglu"]["calls"], rows["swiglu"]["nodes"]) == (4, 12)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1.0)
    assert [node["graph"] for node in found["nodes"]] == ["prefill", "decode"]
    assert found["nodes"][0]["options"][0]["instruction"] == "swiglu"
    assert found["failure"] is None
    for words in ("computed by swiglu", "ways to compute it", "nearest misses", "never used"):
        assert words in printed


def test_explain_names_what_nothing_computes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit status 2 and the error of the compiler, after all that can be explained."""
    plugin, file = tmp_path / "gears.py", tmp_path / "explained.json"
    plugin.write_text(GEARS)
    options = ["--plugin", str(plugin), "--machine", "edge", "--json", str(file)]
    assert main(["explain", "gears", *options]) == 2
    printed = capsys.readouterr()
    found = json.loads(file.read_text())

    assert "it needs an opaque instruction called 'gear'" in printed.err
    assert "nothing computes it" in printed.out
    assert found["failure"] == printed.err.removeprefix("infinisa: ").strip()
    assert found["graphs"][0]["uncovered"][0].startswith("gear.")


def test_reports_say_how_sure_selection_is(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program, file = tmp_path / "p.iasm", tmp_path / "report.json"
    options = ["--machine", "edge", "--tokens", "2", "--require", "proved"]
    assert main(["compile", *options, "-o", str(program)]) == 0
    assert main(["simulate", *options, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    decode = json.loads(file.read_text())["selection"]["decode"]

    assert decode["proved"] > 50
    assert (decode["tested"], decode["error"]) == (0, 0.0)
    assert printed.count("matches proved, 0 tested, largest error introduced 0") == 2
    said = messages(capsys, "simulate", str(program), "--machine", "edge", "--require", "proved")
    assert said.endswith("--require or --error-budget is for models")


def test_print_after_shows_a_pass(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """After cover there are calls of instructions, a line each."""
    out = str(tmp_path / "p.iisa")
    assert main(["compile", "--machine", "edge", "-o", out, "--print-after", "cover"]) == 0

    assert "causal_flash_step(" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "nothing"], "model 'nothing': must be"),
        (["compare", "--machine", "nope"], "machine 'nope': must be"),
        (["simulate", "--machine", "edge", "--policy", "x"], "policy 'x': must be one of"),
        (["run", "--backend", "x"], "backend 'x': must be one of"),
        (["run", "--backend", "vector", "--threads", "2"], "backend 'vector': runs on 1 thread"),
        (["explain", "--machine", "edge", "--node", "layers.0"], "node 'layers.0': must be one of"),
        (["explain", "--machine", "edge", "--error-budget", "-1"], "error budget must not be"),
        (["run", "missing.iisa"], "program missing.iisa: cannot be read: No such file"),
        (["run", "--set", "tokens"], "a setting must be NAME=NUMBER, not 'tokens'"),
        (["run", "--set", "tokens=100000"], "parameter 'tokens': must be 0 to"),
        (["run", "--batch", "2", "p.iasm"], "program p.iasm: is compiled already, --batch is"),
        (["run", "--tokens", "2", "p.iasm"], "program p.iasm: is compiled already, --tokens (see"),
        (["run", "--batch", "2", "m.onnx"], "model 'm.onnx': an .onnx file has sizes, not batch"),
        (
            ["run", "--cache-type", "f16", "p.iasm"],
            "program p.iasm: is compiled already, --cache-type is",
        ),
        (["run", "--batch", "2", "--prompt", "a"], "program 'python_lm': takes no text"),
        (["list", "machines", "--plugin", "no.py"], "plugin 'no.py': must be a .py file"),
        (["compile", "--machine", "edge", "-o", "p.txt"], "program p.txt: the name must end in"),
        (
            ["compile", "--machine", "edge", "-o", "p.iasm", "--print-after", "x"],
            "stage must be one of",
        ),
    ],
)
def test_a_mistake_is_one_clear_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names what, which, what must be."""
    assert messages(capsys, *arguments).startswith(message)


BROKEN = """
from infinisa import hookimpl
from infinisa.compiler.positional.operator import operator

@operator("Broken", domain="com.example")
def broken(x):
    return x.missing

@hookimpl
def infinisa_operators():
    return [broken]

@hookimpl
def infinisa_models():
    return {"raising": lambda: 1 / 0, "three": lambda: 3}

@hookimpl
def infinisa_commands():
    return {"fall": lambda arguments: 1 / 0}
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "raising"],
            "plugin 'broken': model 'raising' raised broken.py, line 15: ZeroDivisionError",
        ),
        (["run", "three"], "plugin 'broken': model 'three' must be a Model, not int"),
        (["fall"], "plugin 'broken': verb 'fall' raised broken.py, line 19: ZeroDivisionError"),
    ],
)
def test_what_a_plugin_raises_is_reported_under_its_name(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)

    assert messages(capsys, *arguments, "--plugin", str(plugin)).startswith(message)


def test_an_operator_that_raises_is_reported_under_its_node(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    helper = pytest.importorskip("onnx.helper")
    (tmp_path / "broken.py").write_text(BROKEN)
    x, y = (helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    node = helper.make_node("Broken", ["x"], ["y"], name="first", domain="com.example")
    domains = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    graph = helper.make_graph([node], "broken", [x], [y])
    file = tmp_path / "broken.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=domains).SerializeToString())

    said = messages(capsys, "run", str(file), "--plugin", str(tmp_path / "broken.py"))
    assert said.startswith(f"{file}: node 'first' (Broken, domain com.example, opset 1): ")
    assert said.endswith("'Tensor' object has no attribute 'missing'")


@pytest.mark.parametrize("option", ["--json", "--html", "--trace"])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    option: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In a folder that is not there, or a folder itself."""
    for place in (tmp_path, tmp_path / "none" / "report"):
        with pytest.raises(SystemExit):
            main(["compare", option, str(place)])
        said = capsys.readouterr().err
        assert f"{option}: must be a file in a folder that exists, not '{place}'" in said


def test_weights_that_are_none_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    program, file = tmp_path / "p.iisa", tmp_path / "w.safetensors"
    assert main(["compile", "--machine", "tiny", "--tokens", "2", "-o", str(program)]) == 0
    run = ["run", str(program), "--machine", "tiny", "--weights-file", str(file)]
    assert messages(capsys, *run).startswith(f"weights {file}: must be a safetensors file")
    file.write_bytes(b"nonsense")
    assert messages(capsys, *run).startswith(f"weights {file}: must be a safetensors file")


def test_an_input_that_nothing_is_called_like_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Else a misspelled one would be random numbers where inputs may be left out."""
    np.savez(tmp_path / "x.npz", txt=np.zeros(3, np.uint8))

    said = messages(capsys, "run", "--input", str(tmp_path / "x.npz"))
    assert said == "input 'txt': must be one of text"


def test_a_damaged_file_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """An ONNX file, a program and an input that are not what they should be."""
    for name in ("model.onnx", "program.iisa", "program.iasm"):
        (tmp_path / name).write_bytes(b"nonsense")
        verb = ["simulate", str(tmp_path / name), "--machine", "edge"]
        assert str(tmp_path / name) in messages(capsys, *verb)
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    assert "x.npz" in messages(capsys, "run", "--input", str(tmp_path / "x.npz"))


def test_a_machine_too_small_for_any_tile_is_an_error(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The message names the call, the bytes it needs and those there are."""
    main(["list", "machines"])
    capsys.readouterr()
    from infinisa.api import find_machine
    from infinisa.plugins.manager import load

    text = find_machine("tiny", load(installed=False)).text()
    small = tmp_path / "small.toml"
    small.write_text(text.replace('"64 KiB"', '"128 B"').replace('"tiny"', '"small"'))
    said = messages(capsys, "simulate", "--machine", str(small))

    assert "bytes" in said
    assert "scratchpad" in said


def hear_interrupts() -> None:
    """A shell's background job ignores them, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupting_leaves_no_partial_file(tmp_path: Path) -> None:
    """Ctrl-C ends with status 130 and the output file is not there. A plugin tells when the work
    begins: on a busy machine that is long after the process does."""
    out, plugin, begun = (tmp_path / name for name in ("program.iisa", "tells.py", "begun"))
    plugin.write_text(f"from pathlib import Path\n\nPath({str(begun)!r}).touch()\n")
    command = [sys.executable, "-m", "infinisa", "compare", "--json", str(out), "--rounds", "500"]
    with subprocess.Popen(
        [*command, "--plugin", str(plugin)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        preexec_fn=hear_interrupts,
    ) as process:
        while not begun.exists() and process.poll() is None:
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)

    assert process.returncode == 130
    assert b"interrupted" in said
    assert not list(tmp_path.glob("*program*"))
