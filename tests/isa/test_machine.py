"""Machines: the shipped ones, their arithmetic, their text form, and every mistake at once."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infinisa.isa.errors import MachineError
from infinisa.isa.functions import FOLDS, FUNCTIONS
from infinisa.isa.machine import (
    KIND_ATTRIBUTES,
    Channel,
    Dispatch,
    Energy,
    Kind,
    Machine,
    Memory,
    Unit,
    builtin_machine_files,
    load_machine,
    parse_machine,
)

SHIPPED = {path.stem: load_machine(path) for path in builtin_machine_files()}
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "machines.md"


def host() -> Machine:
    """A machine as a probe would build it: caches instead of scratchpads, no copy units."""
    return Machine(
        name="host",
        clock=3_000_000_000,
        cores=2,
        dispatch=Dispatch(window=64, fetch=4, issue=4),
        units=(Unit(name="vector", kind="vector", count=2, attributes={"lanes": 16}),),
        memories=(
            Memory(name="cache", size=1 << 20, managed="hardware"),
            Memory(name="dram", size=8 << 30, bandwidth=20 * 10**9, managed="none", shared=True),
        ),
    )


def edge_with(*changes: tuple[str, str]) -> str:
    """The text of `edge` after replacing, in order, the first occurrence of each old line."""
    text = SHIPPED["edge"].text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def refusal(build: Callable[[], object]) -> str:
    """The whole message with which `build` is refused."""
    with pytest.raises(MachineError) as error:
        build()
    return str(error.value)


def refused(text: str) -> list[str]:
    """The faults found in a machine file, one by one."""
    prefix = "machine file edge.toml: "
    message = refusal(lambda: parse_machine(text, "edge.toml"))
    assert message.startswith(prefix)
    return message.removeprefix(prefix).split("; ")


# The shipped machines


def test_four_machines_are_shipped_each_named_as_its_file() -> None:
    assert list(SHIPPED) == ["datacenter", "edge", "tiny", "tpu_v1"]
    assert all(machine.name == stem for stem, machine in SHIPPED.items())


@pytest.mark.parametrize("machine", SHIPPED.values(), ids=SHIPPED)
def test_a_shipped_machine_has_the_units_that_every_program_may_use(machine: Machine) -> None:
    kinds = {unit.name: unit.kind for unit in machine.units}

    assert kinds == {
        "matrix": "matrix",
        "vector": "vector",
        "scalar": "scalar",
        "text": "text",
        "load": "copy",
        "store": "copy",
    }


@pytest.mark.parametrize(
    ("name", "teraoperations"),
    [("tiny", 0.512), ("edge", 2.048), ("datacenter", 131.072), ("tpu_v1", 91.7504)],
)
def test_peak_counts_a_multiply_and_an_add_for_every_cell(name: str, teraoperations: float) -> None:
    """TPU v1: 2 x 256 x 256 x 700 MHz, the 92 TOPS of the paper."""
    assert SHIPPED[name].peak() == teraoperations * 1e12


def test_tpu_v1_is_the_machine_of_the_paper() -> None:
    machine = SHIPPED["tpu_v1"]

    assert machine.clock == 700_000_000
    assert machine.unit("matrix").dataflow == "weight"
    assert machine.scratchpad.size == 24 << 20
    assert machine.dram.bandwidth == 34_000_000_000


# Arithmetic


def test_transfers_take_the_exact_ceiling_of_their_cycles() -> None:
    """TPU v1 moves 34/0.7 bytes a cycle: a 64 KiB tile of weights takes 1349.27 cycles."""
    machine = SHIPPED["tpu_v1"]

    assert machine.transfer_cycles(65_536) == 1350
    assert machine.transfer_cycles(34 * 10**9) == 700_000_000
    assert machine.transfer_cycles(1) == 1
    assert machine.transfer_cycles(0) == 0


def test_seconds_are_cycles_over_the_clock() -> None:
    assert SHIPPED["tpu_v1"].seconds(1400) == 2e-6


def test_a_machine_without_matrix_unit_peaks_by_its_vector_lanes() -> None:
    """2 operations x 16 lanes x 2 units x 2 cores x 3 GHz."""
    assert host().peak() == 384e9


def test_caches_need_no_copy_units() -> None:
    machine = host()

    assert machine.scratchpad.managed == "hardware"
    assert machine.dram.managed == "none"


def test_unknown_parts_are_refused_with_the_known_ones() -> None:
    machine = host()

    assert refusal(lambda: machine.unit("matrix")) == (
        "machine 'host' has no unit 'matrix'; its units are vector"
    )
    assert refusal(lambda: machine.memory("scratchpad")) == (
        "machine 'host' has no memory 'scratchpad'; its memories are cache, dram"
    )


# The text form

NAMES = st.from_regex("[a-z][a-z0-9_]{0,8}", fullmatch=True)
COSTS = st.floats(0, 1e6)


@st.composite
def units(draw: st.DrawFn, name: str, kind: Kind) -> Unit:
    keys = KIND_ATTRIBUTES[kind]
    attributes = {key: draw(st.integers(1, 1 << 20)) for key in keys}
    attributes |= {key: draw(st.integers(0, 1 << 20)) for key in ("overhead", "latency")}
    functions: list[str] = []
    if kind == "matrix":
        attributes |= {key: draw(st.integers(0, 1 << 20)) for key in ("shift", "skew")}
        attributes |= {"registers": draw(st.integers(1, 2)), "efficiency": draw(st.integers(1, 99))}
    if kind in ("matrix", "vector", "special"):
        attributes |= draw(st.dictionaries(st.just("operand_bytes"), st.integers(1, 1 << 20)))
        functions = draw(st.lists(st.sampled_from([*FUNCTIONS, *FOLDS]), max_size=3))
    return Unit(
        name=name,
        kind=kind,
        count=draw(st.integers(1, 64)),
        attributes=attributes,
        dataflow=draw(st.sampled_from(["output", "weight", "input"])) if kind == "matrix" else "",
        share=draw(st.integers(1, 9)),
        bandwidth=draw(st.integers(0, 1 << 50)),
        process=draw(st.just("") | NAMES),
        functions={function: draw(st.integers(1, 100)) for function in functions},
    )


CHANNELS = st.builds(
    Channel,
    sharing=st.sampled_from(["fifo", "fair", "banked", "mine"]),
    efficiency=st.integers(1, 100),
    burst=st.integers(1, 1 << 12),
    gap=st.integers(0, 1 << 12),
    banks=st.integers(1, 64),
    row=st.integers(1, 1 << 14),
    row_miss=st.integers(0, 100),
)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Any machine: some units of any kind, some inner memories, some energies."""
    kinds: list[Kind] = ["matrix", "vector", "special", "scalar", "text", "copy"]
    named = draw(st.dictionaries(NAMES, st.sampled_from(kinds), max_size=4))
    named |= {"load": "copy", "store": "copy"}
    inner = [
        Memory(
            name=name,
            size=draw(st.integers(1, 1 << 50)),
            bandwidth=draw(st.integers(0, 1 << 50)),
            latency=draw(st.integers(0, 1000)),
            managed=draw(st.sampled_from(["software", "hardware"])),
            shared=draw(st.booleans()),
        )
        for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
        if name != "dram"
    ] or [Memory(name="scratchpad", size=1, managed="software")]
    bandwidth = draw(st.integers(1, 1 << 50))
    dram = Memory(
        name="dram", size=1 << 30, bandwidth=bandwidth, managed="none", channel=draw(CHANNELS)
    )
    by_unit = st.dictionaries(st.sampled_from(list(named)), COSTS)
    return Machine(
        name=draw(NAMES),
        clock=draw(st.integers(1, 10**11)),
        cores=draw(st.integers(1, 1024)),
        dispatch=Dispatch(window=draw(st.integers(1, 128)), fetch=1, issue=draw(st.integers(1, 8))),
        units=tuple(draw(units(name, kind)) for name, kind in named.items()),
        memories=(*inner, dram),
        barrier=draw(st.integers(0, 1000)),
        energy=Energy(
            operation=draw(by_unit), cycle=draw(by_unit), byte={"dram": 20}, leakage=draw(COSTS)
        ),
    )


@given(machines())
def test_the_text_of_a_machine_reads_back_as_the_same_machine(machine: Machine) -> None:
    again = parse_machine(machine.text(), "generated")

    assert again == machine
    assert again.text() == machine.text()
    assert again.identity == machine.identity


def test_the_text_is_normalised() -> None:
    assert host().text() == (
        """\
name = "host"
clock = "3 GHz"

[cores]
count = 2
barrier = 0

[dispatch]
window = 64
fetch = 4
issue = 4

[units.vector]
kind = "vector"
count = 2
lanes = 16
overhead = 0
latency = 0

[memories.cache]
size = "1 MiB"
bandwidth = "0 B/s"
latency = 0
managed = "hardware"
shared = false

[memories.dram]
size = "8 GiB"
bandwidth = "20 GB/s"
latency = 0
managed = "none"
shared = true

[memories.dram.channel]
sharing = "fifo"
efficiency = 100
burst = "1 B"
gap = "0 B"
"""
    )


def test_a_change_of_any_part_changes_the_identity() -> None:
    slower = parse_machine(edge_with(('"32 GB/s"', '"31 GB/s"')), "edge.toml")

    assert slower.identity != SHIPPED["edge"].identity


def test_machines_can_be_hashed_and_sent_to_other_processes() -> None:
    machine = SHIPPED["edge"]

    again = pickle.loads(pickle.dumps(machine))

    assert again == machine
    assert hash(again) == hash(machine)


# Mistakes


def test_every_mistake_in_a_file_is_listed_at_once() -> None:
    text = edge_with(
        ('clock = "1 GHz"', 'clock = "0 GHz"'),
        ("window = 32", "window = 129"),
        ("fetch = 1\n", ""),
        ("rows = 32", "rows = 0"),
        ("depth = 512", "depth = 1.5"),
        ('dataflow = "output"', 'dataflow = "row"'),
        ("lanes = 64", "lames = 64"),
        ('kind = "text"', 'kind = "tekst"'),
        ('size = "1 MiB"', "size = 1048576"),
        ('"32 GB/s"', '"fast"'),
        ("shared = true", 'shared = "yes"'),
        ('matrix = "0.115 pJ"', 'matricks = "0.115 pJ"'),
    )

    assert refused(text) == [
        "clock must be positive, not '0 GHz'",
        "dispatch.window must be an integer from 1 to 128, not 129",
        "dispatch.fetch is missing",
        "units.matrix.dataflow must be 'output', 'weight' or 'input', not 'row'",
        "units.matrix.rows must be a positive integer, not 0",
        "units.matrix.depth must be a positive integer, not 1.5",
        "units.vector.lanes is missing",
        "units.vector.lames is unknown (known here: count, overhead, latency, share, bandwidth, "
        "process, kind, lanes, operand_bytes, functions)",
        "units.text.kind must be 'matrix', 'vector', 'special', 'scalar', 'text' or 'copy',"
        " not 'tekst'",
        "memories.scratchpad.size must be a size such as '1 MiB', not 1048576",
        "memories.dram.bandwidth must be a rate such as '34 GB/s', not 'fast'",
        "memories.dram.shared must be true or false, not 'yes'",
        "energy.operation.matricks is none of the units",
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('name = "edge"', 'name = "Edge 2"', "name must be a name of lower-case letters, digits"),
        ("[units.text]", "[units.Text]", "units.Text must be a name of lower-case letters"),
        ('kind = "text"\n', "", "units.text.kind is missing"),
        ("[units.load]", "[units.input]", "units.load must be a copy unit, since a memory is"),
        ('"32 GB/s"', '"0 B/s"', "memories.dram must have a bandwidth, being the outermost store"),
        ('managed = "none"', 'managed = "hardware"', "memories.dram.managed must be 'none', being"),
        ('managed = "software"', 'managed = "none"', "memories.scratchpad must have a bandwidth"),
        ("barrier = 50", "barrier = -1", "cores.barrier must be zero or a positive integer, not"),
        ("count = 1", "count = true", "cores.count must be a positive integer, not True"),
        ('dram = "162.5 pJ"', "dram = 162.5", "energy.byte.dram must be an energy such as '0.2 pJ"),
        ('managed = "software"', 'managed = "software"\nbanks = 7', "memories.scratchpad banks"),
        ('managed = "software"', 'managed = "software"\nbanks = 65', "memories.scratchpad.banks"),
        ('managed = "none"', 'managed = "none"\nbanks = 8', "memories.dram banks must be left"),
        ('sharing = "fifo"', 'sharing = "banked"', "memories.dram.channel must have banks and row"),
        (
            'fifo"\nefficiency = 100',
            'fifo"\nefficiency = 101',
            "memories.dram.channel.efficiency must be an",
        ),
        ("registers = 2", "registers = 3", "units.matrix.registers must be an integer from 1 to 2"),
        ("skew = 62", "skew = -1", "units.matrix.skew must be zero or a positive integer, not -1"),
        ("lanes = 64", "lanes = 64\noperand_bytes = 0", "units.vector.operand_bytes must be a pos"),
        ("lanes = 64", "lanes = 64\nfunctions.exp = 0", "units.vector.functions.exp must be a pos"),
        ("lanes = 64", "lanes = 64\nfunctions.x = 1", "units.vector.functions.x must be a scalar"),
        ('gap = "0 B"', 'cap = "0 B"', "memories.dram.channel.cap is unknown (known here: sharing"),
        ("[memories.dram.channel]", "[memories.scratchpad.channel]", "memories.scratchpad must h"),
        ("[cores]", "[colours]", "colours is unknown (known here: name, clock, cores, dispatch,"),
    ],
)
def test_a_mistake_is_told_with_its_path(old: str, new: str, fault: str) -> None:
    assert any(found.startswith(fault) for found in refused(edge_with((old, new))))


def test_a_value_where_a_table_belongs_is_refused() -> None:
    assert refused('name = "x"\nclock = "1 Hz"\ndispatch = 1\nunits = 2\nmemories = []') == [
        "dispatch must be a table, not 1",
        "units must be a table, not 2",
        "memories must be a table, not []",
    ]


def test_what_is_not_toml_is_refused_with_its_place() -> None:
    assert refusal(lambda: parse_machine("name = ", "edge.toml")) == (
        "machine file edge.toml is not TOML: Invalid value (at end of document)"
    )


def test_a_file_that_is_not_there_is_refused() -> None:
    assert refusal(lambda: load_machine("no/such.toml")) == (
        "machine file no/such.toml cannot be read: No such file or directory"
    )


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_bytes(b"\xff\xfe")

    assert refusal(lambda: load_machine(path)) == (
        f"machine file {path} cannot be read: it is not UTF-8 text"
    )


def test_parts_built_in_code_are_refused_in_the_same_words() -> None:
    attributes = {"rows": 0, "columns": 4, "width": 1}

    assert refusal(lambda: Unit(name="matrix", kind="matrix", attributes=attributes)) == (
        "units.matrix.depth is missing; "
        "units.matrix.rows must be a positive integer, not 0; "
        "units.matrix.width is unknown; "
        "units.matrix.dataflow must be 'output', 'weight' or 'input', not ''"
    )
    assert refusal(lambda: Memory(name="dram", size=0, managed="none")) == (
        "memories.dram.size must be a positive integer, not 0; "
        "memories.dram must have a bandwidth, being the outermost store"
    )
    assert refusal(lambda: Dispatch(window=0, fetch=1, issue=1)) == (
        "dispatch.window must be an integer from 1 to 128, not 0"
    )
    assert refusal(lambda: Energy(byte={"dram": -1.0}, leakage=float("inf"))) == (
        "energy.leakage must be zero or positive, not inf; "
        "energy.byte.dram must be zero or positive, not -1.0"
    )


def test_two_parts_of_one_name_are_refused() -> None:
    scalar = Unit(name="scalar", kind="scalar")
    memories = host().memories
    dispatch = Dispatch(window=1, fetch=1, issue=1)

    assert refusal(
        lambda: Machine(
            name="m", clock=1, dispatch=dispatch, units=(scalar, scalar), memories=memories
        )
    ) == ("units.scalar is there twice")


# The documentation


def test_the_machine_in_the_documentation_is_one() -> None:
    [example] = re.findall(r"```toml\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)

    machine = parse_machine(example, "docs/machines.md")

    assert machine.unit("matrix").attributes["rows"] == 64
