"""What must hold of a program before anything runs it.

`verify` looks at the text of a program once; no loop is run, and what it finds holds for all
values of the parameters. Every rule is a function in `RULES` that yields what breaks it; a rule may
rely on those before it.

The proof that no access leaves its buffer is short because a loop can only narrow a range: a piece
stays inside every range that it was made from. So an operand counted from `base` lies within
[0, longest(base)), and one comparison a dimension is enough.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from .dtypes import DTYPES, held, is_float
from .errors import InfinisaError, ProgramError
from .instance import issue_cycles
from .instruction import Instruction
from .machine import Machine
from .meaning import needs, unproved
from .program import COPIES, Buffer, Count, Dimension, Loop, Operand, Program, Section, Stage
from .scope import Facts, Known, Site, least_and_most

LARGEST = (1 << 31) - 1
"""The largest parameter, length, position, step and stride."""
LARGEST_COUNT = 1 << 40
"""The largest number that may come out of parameters, a region or a sum of strides."""
LARGEST_MEMORY = 1 << 40
"""Bytes that a program may ask for where no machine says."""
MOST_ISSUES = 1 << 40
"""How many issues a program may run: a loop of loops is not a way to hang an engine."""
MOST_DIMENSIONS = 16
MOST_SLOTS = 1 << 10
LONGEST_NAME = 500
ALIGNMENT = 64
"""Places and slots on a chip begin at multiples of so many bytes."""

KINDS = ("input", "weight", "state", "output", "temporary")

Rule = Callable[[Facts], Iterator[str]]


def verify(
    program: Program,
    machine: Machine | None,
    library: Mapping[str, Instruction],
    cores: int = 1,
) -> int:
    """Refuse a program that breaks a rule; the number of operands proved in bounds.

    ProgramError with the place, what must be, what is, and the rule. Without a machine the rules
    about units and memories are left out, and work is taken to be dealt out over `cores`.
    """
    facts = Facts(program, machine, library, cores)
    for rule in RULES:
        for fault in rule(facts):
            raise ProgramError(f"{fault} (rule: {rule.__name__.replace('_', ' ')})")
    return sum(
        site.place.alike * (len(site.issue.reads) + len(site.issue.writes)) for site in facts.sites
    )


def issue_bound(facts: Facts) -> int:
    """How many issues a program runs at most, on all cores."""
    total = 0
    for site in facts.sites:
        times = site.times * site.place.alike
        total += times * facts.cores * most_turns(facts, site.place.section)
    return total


def most_turns(facts: Facts, section: Section) -> int:
    if section.repeat is None:
        return 1
    return max(0, least_and_most(section.repeat.count, facts.most)[1])


# ---------------------------------------------------------------- names and numbers


def names_are_unique(facts: Facts) -> Iterator[str]:
    program = facts.program
    groups: list[tuple[str, Iterable[str]]] = [
        ("parameter", (item.name for item in program.parameters)),
        ("opcode", (item.name for item in program.opcodes)),
        ("buffer", (item.name for item in program.buffers)),
        ("section", (item.name for item in program.sections)),
    ]
    for section in program.sections:
        groups.append((f"section {section.name!r}: axis", (e.axis for e in section.extents)))
    for what, names in groups:
        for name, times in Counter(names).items():
            if times > 1:
                yield f"{what} {name!r}: must be there once, not {times} times"
            if fault := name_fault(name):
                yield f"{what} {name!r}: {fault}"


def name_fault(name: str) -> str:
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        return f"must have 1 to {LONGEST_NAME} printable characters"
    return ""


def parameters_are_bounded(facts: Facts) -> Iterator[str]:
    for p in facts.program.parameters:
        if not 0 <= p.most <= LARGEST:
            yield f"parameter {p.name!r}: must be at most {LARGEST}, not {p.most}"
        if not 0 <= p.default <= p.most:
            yield f"parameter {p.name!r}: its default must be 0 to {p.most}, not {p.default}"


def counts_name_parameters(facts: Facts) -> Iterator[str]:
    for where, count in counts(facts.program):
        for name, times in Counter(name for name, _ in count.terms).items():
            if name not in facts.most:
                known = ", ".join(facts.most) or "none"
                yield f"{where}: must count parameters ({known}), not {name!r}"
            if times > 1:
                yield f"{where}: must count {name!r} once, not {times} times"
        size = abs(count.constant)
        size += sum(abs(factor) * facts.most.get(name, 0) for name, factor in count.terms)
        if size > LARGEST_COUNT:
            yield f"{where}: must be at most {LARGEST_COUNT}, not {size}"


def counts(program: Program) -> Iterator[tuple[str, Count]]:
    """Every number that follows from parameters, with where it stands."""
    for section in program.sections:
        where = f"section {section.name!r}"
        yield f"{where}: tokens", section.tokens
        if section.repeat is not None:
            yield f"{where}: its turns", section.repeat.count
        for extent in section.extents:
            yield f"{where}: the length of axis {extent.axis!r}", extent.length
            yield f"{where}: the start of axis {extent.axis!r}", extent.start


def extents_are_bounded(facts: Facts) -> Iterator[str]:
    for section in facts.program.sections:
        for extent in section.extents:
            where = f"section {section.name!r}: axis {extent.axis!r}"
            if not 1 <= extent.most <= LARGEST:
                yield f"{where} must have at most 1 to {LARGEST} positions, not {extent.most}"
            if extent.end != -1 and not 1 <= extent.end <= LARGEST:
                yield f"{where} must end before 1 to {LARGEST}, not {extent.end}"


def repeats_are_bounded(facts: Facts) -> Iterator[str]:
    given = {parameter.name: parameter.given for parameter in facts.program.parameters}
    for section in facts.program.sections:
        if section.repeat is None:
            continue
        where, counter = f"section {section.name!r}", section.repeat.counter
        if given.get(counter, True):
            yield f"{where}: its counter must be a computed parameter, not {counter!r}"
            continue
        turns, room = most_turns(facts, section), facts.most[counter] + 1
        if turns > room:
            yield f"{where}: counter {counter!r} allows {room} turns, there may be {turns}"


# ---------------------------------------------------------------- buffers and memories


def buffers_are_sound(facts: Facts) -> Iterator[str]:
    for buffer in facts.program.buffers:
        for fault in buffer_faults(buffer):
            yield f"buffer {buffer.name!r}: {fault}"


def buffer_faults(buffer: Buffer) -> Iterator[str]:
    if buffer.kind not in KINDS:
        yield f"kind must be one of {', '.join(KINDS)}, not {buffer.kind!r}"
    if buffer.dtype not in DTYPES:
        yield f"element type must be one of {', '.join(DTYPES)}, not {buffer.dtype!r}"
        return
    if len(buffer.shape) > MOST_DIMENSIONS:
        yield f"must have at most {MOST_DIMENSIONS} dimensions, not {len(buffer.shape)}"
    for extent in buffer.shape:
        if not 1 <= extent <= LARGEST:
            yield f"a dimension must have 1 to {LARGEST} positions, not {extent}"
    if not 1 <= buffer.slots <= MOST_SLOTS:
        yield f"must have 1 to {MOST_SLOTS} slots, not {buffer.slots}"
    if fault := number_fault(buffer.initial, buffer.dtype):
        yield f"initial value {fault}"
    if buffer.place < -1:
        yield f"place must be 0 or more, or -1 outside the chip, not {buffer.place}"
    if buffer.outer and (buffer.slots, buffer.rotor, buffer.address, buffer.pitch) != (1, "", 0, 0):
        yield "must have no slots, rotor, address or pitch, being outside the chip"
    if not buffer.outer and buffer.kind not in ("temporary", "state"):
        yield f"must be outside the chip, being of kind {buffer.kind!r}"
    if buffer.slots > 1 and not buffer.rotor:
        yield f"must have a rotor, having {buffer.slots} slots"
    if buffer.slots > 1 and buffer.kind == "state":
        yield f"must have one slot, being a state, not {buffer.slots}"


def number_fault(number: float, dtype: str) -> str:
    """Why a number is no element of this type."""
    if is_float(dtype):
        return ""
    if not math.isfinite(number) or number != int(number):
        return f"must be a whole number, not {number!r}"
    low, high = (0, 1) if dtype == "bool" else limits_of(dtype)
    return "" if low <= number <= high else f"must be {low} to {high}, not {number!r}"


def limits_of(dtype: str) -> tuple[int, int]:
    """The least and the largest integer of a type."""
    bits = 8 * DTYPES[dtype].size
    signed = dtype.startswith("i")
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def buffers_are_inside_memories(facts: Facts) -> Iterator[str]:
    places = len(facts.program.buffers)
    for buffer in facts.program.buffers:
        where = f"buffer {buffer.name!r}"
        if fault := memory_fault(buffer, facts.machine):
            yield f"{where}: {fault}"
        if buffer.outer:
            continue
        if buffer.place >= places:
            yield f"{where}: place must be less than {places}, not {buffer.place}"
        if buffer.pitch < buffer.bytes:
            yield f"{where}: its {buffer.bytes} bytes must fit its pitch, not {buffer.pitch}"
        for key, value in (("address", buffer.address), ("pitch", buffer.pitch)):
            if value % ALIGNMENT:
                yield f"{where}: {key} must be a multiple of {ALIGNMENT}, not {value}"
        size, end = chip_size(facts, buffer), buffer.address + buffer.slots * buffer.pitch
        if not 0 <= buffer.address <= end <= size:
            yield (
                f"{where}: must be within the {size} bytes of {buffer.memory!r}, "
                f"not in [{buffer.address}, {end})"
            )


def memory_fault(buffer: Buffer, machine: Machine | None) -> str:
    if machine is None:
        return name_fault(buffer.memory) and f"memory {name_fault(buffer.memory)}"
    if buffer.outer:
        if buffer.memory == machine.dram.name:
            return ""
        return f"must be in {machine.dram.name!r}, being outside the chip, not {buffer.memory!r}"
    chips = [memory.name for memory in machine.memories if memory.managed != "none"]
    if buffer.memory in chips:
        return ""
    known = ", ".join(map(repr, chips)) or "no memory"
    return f"must be in {known}, being on chip, not {buffer.memory!r}"


def chip_size(facts: Facts, buffer: Buffer) -> int:
    """Bytes that a core has of a buffer's memory; behind a cache there is the DRAM."""
    if facts.machine is None:
        return LARGEST_MEMORY
    memory = facts.machine.memory(buffer.memory)
    if memory.managed == "hardware":
        return facts.machine.dram.size
    return memory.size // (facts.cores if memory.shared else 1)


def memory_suffices(facts: Facts) -> Iterator[str]:
    size = facts.machine.dram.size if facts.machine else LARGEST_MEMORY
    needed = sum(buffer.bytes for buffer in facts.program.buffers if buffer.outer)
    if needed > size:
        yield f"buffers outside the chip: must have at most {size} bytes together, not {needed}"


# ---------------------------------------------------------------- loops and scopes


def names_in_statements_are_known(facts: Facts) -> Iterator[str]:
    for site in facts.sites:
        if site.issue.opcode not in facts.opcodes:
            yield f"{site}: the program has no opcode {site.issue.opcode!r}"
        for operand in site.operands:
            buffer = facts.buffers.get(operand.buffer)
            if buffer is None:
                yield f"{site}: the program has no buffer {operand.buffer!r}"
            elif len(operand.dimensions) != len(buffer.shape):
                yield (
                    f"{site}: {operand.buffer!r} must be indexed in {len(buffer.shape)} "
                    f"dimensions, not {len(operand.dimensions)}"
                )


def loops_narrow(facts: Facts) -> Iterator[str]:
    """A loop makes pieces of an open range, under a name that nothing open has."""
    for site in facts.loops:
        loop, ranges = site.loop, site.place.ranges
        if loop.parent not in ranges:
            yield f"{site}: must be over one of {', '.join(ranges)}, not {loop.parent!r}"
        if loop.range in ranges:
            yield f"{site}: its range must have a new name, not {loop.range!r}"
        if fault := name_fault(loop.range):
            yield f"{site}: its range {fault}"
        if not 1 <= loop.step <= LARGEST:
            yield f"{site}: step must be 1 to {LARGEST}, not {loop.step}"
        if not loop.body:
            yield f"{site}: must have something inside"


def ranges_are_open(facts: Facts) -> Iterator[str]:
    """An issue names ranges of its section's axes and of the loops around it."""
    for site in facts.sites:
        used = [*(name for _, name in site.issue.axes), *(site.issue.fresh or ())]
        used += [term.range for _, dimension in dimensions(site) for term in dimension.terms]
        for name in used:
            if name not in site.ranges:
                known = ", ".join(site.ranges)
                yield f"{site}: must use open ranges ({known}), not {name!r}"
        for axis, times in Counter(axis for axis, _ in site.issue.axes).items():
            if times > 1:
                yield f"{site}: axis {axis!r} must have one range, not {times}"
        for _, dimension in dimensions(site):
            for term in dimension.terms:
                if term.base and not site.ranges[term.range].base(term.base):
                    yield f"{site}: range {term.range!r} must be a piece of {term.base!r}"


def dimensions(site: Site) -> Iterator[tuple[Operand, Dimension]]:
    for operand in site.operands:
        for dimension in operand.dimensions:
            yield operand, dimension


def cores_work_apart(facts: Facts) -> Iterator[str]:
    """A stage dealt out over cores is one loop, and what it writes outside the chip is cut by it:
    all accesses to such a buffer have, in one dimension, a position of a core's own piece."""
    for dealt in facts.loops:
        if not dealt.loop.spread:
            continue
        if len(dealt.place.stage.body) > 1 or dealt.place.loops:
            yield f"{dealt}: must be all of its stage, being dealt out over cores"
        if dealt.loop.ahead or dealt.loop.reverse:
            yield f"{dealt}: must have no order of turns, being dealt out over cores"
    for sites in (walker.sites for walker in facts.walked.values()):
        if not sites or not (loops := sites[0].place.loops) or not loops[0].spread:
            continue
        for site in sites:
            if site.issue.sets:
                yield f"{site}: must set no parameters, being dealt out over cores"
        own = own_pieces(sites, loops[0])
        for name in sorted({o.buffer for site in sites for o in site.issue.writes}):
            if facts.buffers[name].outer and not own[name]:
                yield (
                    f"{sites[0].place}: cores must write pieces of their own of {name!r}, cut by "
                    f"{loops[0].range!r}"
                )


def own_pieces(sites: Iterable[Site], loop: Loop) -> dict[str, set[tuple[int, int, str]]]:
    """For each buffer the dimensions in which all accesses are to the piece that one core has:
    (number, offset, base)."""
    found: dict[str, set[tuple[int, int, str]]] = {}
    for site in sites:
        for operand in site.operands:
            own = set()
            for number, dimension in enumerate(operand.dimensions):
                if len(dimension.terms) == 1 and dimension.terms[0].stride == 1:
                    term = dimension.terms[0]
                    known = site.ranges[term.range]
                    if known.base(loop.range) and term.base in ("", *ancestors(known, loop)):
                        own.add((number, dimension.offset, term.base))
            found[operand.buffer] = found.get(operand.buffer, own) & own
    return found


def ancestors(known: Known, loop: Loop) -> Iterator[str]:
    """The ranges that a loop's range is a piece of."""
    found = known.base(loop.range)
    while found is not None and found.parent is not None:
        found = found.parent
        yield found.name


def early_issues_have_room(facts: Facts) -> Iterator[str]:
    """What runs a turn ahead writes a slot that the turn before does not read."""
    for site in facts.sites:
        if site.early is None:
            continue
        for operand in site.issue.writes:
            buffer = facts.buffers[operand.buffer]
            if buffer.slots < 2 or buffer.rotor != site.early.range:
                yield (
                    f"{site}: {buffer.name!r} must have two slots that turn with "
                    f"{site.early.range!r}, being written a turn ahead"
                )


def rotors_are_open(facts: Facts) -> Iterator[str]:
    """A buffer of several slots is used inside the loop that it turns with."""
    for site in facts.sites:
        turning = {loop.range for loop in site.place.loops if not loop.spread}
        for operand in site.operands:
            buffer = facts.buffers[operand.buffer]
            if buffer.slots > 1 and buffer.rotor not in turning:
                yield f"{site}: {buffer.name!r} must be used inside loop {buffer.rotor!r}"


def issues_are_bounded(facts: Facts) -> Iterator[str]:
    if (number := issue_bound(facts)) > MOST_ISSUES:
        yield f"program {facts.program.name!r}: must run at most {MOST_ISSUES} issues, not {number}"


# ---------------------------------------------------------------- accesses


def accesses_stay_in_bounds(facts: Facts) -> Iterator[str]:
    """A region without a fill is inside its buffer; one with a fill is at least of bounded size."""
    for site in facts.sites:
        for operand in site.operands:
            for number, dimension in enumerate(operand.dimensions):
                if fault := region_fault(site.ranges, operand, dimension, facts, number):
                    yield f"{site}: dimension {number} of {operand.buffer!r} {fault}"
                    return


def region_fault(
    ranges: Mapping[str, Known], operand: Operand, dimension: Dimension, facts: Facts, number: int
) -> str:
    low = dimension.offset
    high, longest = low + 1, 1
    for term in dimension.terms:
        if not 1 <= abs(term.stride) <= LARGEST:
            return f"must have strides of 1 to {LARGEST} or their negatives, not {term.stride}"
        known = ranges[term.range]
        longest += abs(term.stride) * (known.longest - 1)
        if term.base:
            base = known.base(term.base)
            assert base is not None
            high += abs(term.stride) * (base.longest - 1)
        else:
            ends = term.stride * known.low, term.stride * (known.high - 1)
            low, high = low + min(ends), high + max(ends)
    if operand.fill is not None:
        if max(longest, -low, high) > LARGEST:
            return f"must be within {LARGEST} positions, not in [{low}, {high})"
    elif not (low >= 0 and high <= facts.buffers[operand.buffer].shape[number]):
        size = facts.buffers[operand.buffer].shape[number]
        return f"must be within [0, {size}), not in [{low}, {high})"
    return ""


def fills_are_elements(facts: Facts) -> Iterator[str]:
    """Reads may fill what is outside, with a number of the buffer's type; writes do not."""
    for site in facts.sites:
        for operand in site.issue.writes:
            if operand.fill is not None:
                yield f"{site}: {operand.buffer!r} must have no fill, being written"
        for operand in site.issue.reads:
            if operand.fill is not None:
                dtype = facts.buffers[operand.buffer].dtype
                if fault := number_fault(operand.fill, dtype):
                    yield f"{site}: the fill of {operand.buffer!r} {fault}"


def inputs_and_weights_stay(facts: Facts) -> Iterator[str]:
    for site in facts.sites:
        for operand in site.issue.writes:
            kind = facts.buffers[operand.buffer].kind
            if kind in ("input", "weight"):
                yield f"{site}: {operand.buffer!r} must not be written, being of kind {kind!r}"


def regions_fit_memory(facts: Facts) -> Iterator[str]:
    """What an issue reads or writes is not larger than all memory, whatever its fill is."""
    size = facts.machine.dram.size if facts.machine else LARGEST_MEMORY
    for site in facts.sites:
        for operand in site.operands:
            if operand.fill is None:
                continue
            region = DTYPES[facts.buffers[operand.buffer].dtype].size
            for dimension in operand.dimensions:
                region *= length(site, dimension)
            if region > size:
                yield f"{site}: {operand.buffer!r} must be {size} bytes at most, not {region}"


def length(site: Site, dimension: Dimension) -> int:
    """How many positions a dimension has at most."""
    return 1 + sum(abs(t.stride) * (site.ranges[t.range].longest - 1) for t in dimension.terms)


def results_are_written_before_they_are_read(facts: Facts) -> Iterator[str]:
    """A temporary or an output is written by an issue that stands before those that read it."""
    written: set[str] = set()
    opened = {place: opens(facts, walker.sites) for place, walker in facts.walked.items()}
    for section, likes in enumerate(facts.program.likes):
        for number, like in enumerate(likes):
            read, wrote = opened[section, like.first]
            names = dict(zip(likes[like.first].buffers, like.buffers, strict=True))
            for at, name in read:
                if names[name] not in written:
                    site = facts.walk(section, number).sites[at]
                    yield f"{site}: {names[name]!r} must be written before it is read"
            written.update(names[name] for name in wrote)


def opens(facts: Facts, sites: Sequence[Site]) -> tuple[list[tuple[int, str]], set[str]]:
    """The temporaries and outputs that a stage reads before it writes them, each with the number of
    the issue, and the buffers that it writes."""
    read: list[tuple[int, str]] = []
    written: set[str] = set()
    for number, site in enumerate(sites):
        for operand in site.issue.reads:
            buffer = facts.buffers[operand.buffer]
            if buffer.kind in ("temporary", "output") and buffer.name not in written:
                read.append((number, buffer.name))
        written.update(operand.buffer for operand in site.issue.writes)
    return read, written


def chip_buffers_are_alive_once(facts: Facts) -> Iterator[str]:
    """A stage says of chip buffers when they are alive; states are set when it starts."""
    for where, stage in stages(facts):
        for name, first, last in stage.lifetimes:
            buffer = facts.buffers.get(name)
            if buffer is None or buffer.outer:
                yield f"{where}: must say when chip buffers are alive, not {name!r}"
            elif not 0 <= first < last <= LARGEST:
                yield f"{where}: {name!r} must be alive for a while, not {first} to {last}"
            elif buffer.kind == "state" and first > 0:
                yield f"{where}: {name!r} must be alive from 0, being a state, not from {first}"
        for name, times in Counter(name for name, _, _ in stage.lifetimes).items():
            if times > 1:
                yield f"{where}: {name!r} must be alive once, not {times} times"


def stages(facts: Facts) -> Iterator[tuple[str, Stage]]:
    for section, number in facts.walked:
        where = facts.program.sections[section]
        stage = where.stages[number]
        yield f"section {where.name!r}, stage {number} {stage.name!r}", stage


def places_do_not_meet(facts: Facts) -> Iterator[str]:
    """Buffers of one place have the same slots and are never alive together; different places have
    no byte in common. So hazards on (place, slot) are all there are."""
    for where, stage in stages(facts):
        places: dict[int, list[tuple[int, int, Buffer]]] = {}
        for name, first, last in stage.lifetimes:
            buffer = facts.buffers[name]
            places.setdefault(buffer.place, []).append((first, last, buffer))
        for place, alive in places.items():
            alive.sort(key=lambda each: each[:2])
            for (_, end, one), (start, _, other) in pairwise(alive):
                names = f"{one.name!r} and {other.name!r}"
                if spot(one) != spot(other):
                    yield (
                        f"{where}: {names} must have the same memory, address, pitch and slots, "
                        f"being of place {place}"
                    )
                if start < end:
                    yield f"{where}: {names} must not be alive together, being of place {place}"
        firsts = sorted((alive[0][2] for alive in places.values()), key=spot)
        for one, other in pairwise(firsts):
            if one.memory == other.memory and one.address + one.slots * one.pitch > other.address:
                yield (
                    f"{where}: {one.name!r} and {other.name!r} must have no byte in common, being "
                    "of different places"
                )


def spot(buffer: Buffer) -> tuple[str, int, int, int]:
    return buffer.memory, buffer.address, buffer.pitch, buffer.slots


def chip_buffers_are_used_while_alive(facts: Facts) -> Iterator[str]:
    """A call uses a buffer at a position at which it is alive; a copy, next to one."""
    for site in facts.sites:
        alive = {name: (first, last) for name, first, last in site.place.stage.lifetimes}
        for operand in site.operands:
            if facts.buffers[operand.buffer].outer:
                continue
            first, last = alive.get(operand.buffer, (0, 0))
            if not first <= site.position < last + site.copies:
                yield (
                    f"{site}: {operand.buffer!r} must be alive at position {site.position} of its "
                    f"stage, not from {first} to {last}"
                )


# ---------------------------------------------------------------- opcodes and what they mean


def opcodes_are_defined(facts: Facts) -> Iterator[str]:
    for opcode in facts.program.opcodes:
        where = f"opcode {opcode.name!r}"
        copy = {opcode.name, opcode.instruction} & set(COPIES)
        if copy and opcode.name != opcode.instruction:
            yield f"{where}: must be called as its instruction {opcode.instruction!r}, being a copy"
        if len(opcode.results) != len(opcode.outputs):
            yield (
                f"{where}: must say which output each of its {len(opcode.results)} results is, "
                f"not of {len(opcode.outputs)}"
            )
        for axes in (*opcode.operands, *opcode.results):
            for axis, times in Counter(axis for axis in axes if axis).items():
                if times > 1:
                    yield f"{where}: axis {axis!r} must be there once in ({' '.join(axes)})"
        for name, number in opcode.immediates:
            if isinstance(number, int) and not -LARGEST <= number <= LARGEST:
                yield f"{where}: immediate {name!r} must be at most {LARGEST}, not {number}"
    for site in facts.calls:
        try:
            facts.meaning(site)
        except InfinisaError as error:
            yield f"{site}: must mean something, but {error}"


def opcodes_have_one_set_of_types(facts: Facts) -> Iterator[str]:
    """All issues of an opcode read the same element types: they mean the same."""
    found: dict[str, tuple[str, ...]] = {}
    for site in facts.calls:
        types = facts.types(site)
        if (first := found.setdefault(site.issue.opcode, types)) != types:
            yield f"{site}: must read ({', '.join(first)}) as before, not ({', '.join(types)})"


def immediates_are_named(facts: Facts) -> Iterator[str]:
    for site in facts.calls:
        opcode = facts.opcodes[site.issue.opcode]
        known = [immediate.name for immediate in facts.meaning(site).immediates]
        for name, _ in opcode.immediates:
            if name not in known:
                yield (
                    f"opcode {opcode.name!r}: immediates must be ({', '.join(known)}), not {name!r}"
                )


def immediates_are_held(facts: Facts) -> Iterator[str]:
    """Immediates have the types of the instruction's encoding, and values that these hold."""
    for site in facts.calls:
        opcode = facts.opcodes[site.issue.opcode]
        formats = dict(facts.meaning(site).formats)
        wanted = tuple((n, formats[n]) for n, _ in opcode.immediates if n in formats)
        if opcode.formats != wanted:
            yield (
                f"opcode {opcode.name!r}: immediates must be written as ({_formats(wanted)}), "
                f"not ({_formats(opcode.formats)})"
            )
        for name, number in opcode.immediates:
            if name in formats and held(number, formats[name]) != number:
                yield (
                    f"opcode {opcode.name!r}: immediate {name!r} must be of type {formats[name]}, "
                    f"not {number!r}"
                )


def _formats(formats: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name} as {kind}" for name, kind in formats)


def copies_copy(facts: Facts) -> Iterator[str]:
    """A copy reads one region and writes one of equal shape and type."""
    for site in facts.sites:
        if not site.copies:
            continue
        issue = site.issue
        if (len(issue.reads), len(issue.writes)) != (1, 1):
            yield f"{site}: must copy one region, not {len(issue.reads)} to {len(issue.writes)}"
            continue
        (source,), (target,) = issue.reads, issue.writes
        if [spans(d) for d in source.dimensions] != [spans(d) for d in target.dimensions]:
            yield f"{site}: must read and write regions over the same ranges"
        types = [facts.buffers[operand.buffer].dtype for operand in (source, target)]
        if types[0] != types[1]:
            yield f"{site}: must write {types[0]} as it reads, not {types[1]}"
        if issue.axes or issue.fresh is not None or issue.sets:
            yield f"{site}: must name no axes, states or parameters, being a copy"


def spans(dimension: Dimension) -> list[tuple[str, int]]:
    """What the length of a dimension follows from, for all lengths: ranges and strides."""
    return sorted((term.range, term.stride) for term in dimension.terms)


def operands_fit_opcodes(facts: Facts) -> Iterator[str]:
    """An issue has the operands that its opcode names, over the ranges of its axes."""
    for site in facts.calls:
        issue, opcode = site.issue, facts.opcodes[site.issue.opcode]
        meaning = facts.meaning(site)
        sides = (("read", issue.reads, opcode.operands), ("write", issue.writes, opcode.results))
        for verb, given, named in sides:
            if len(given) != len(named):
                yield f"{site}: must {verb} {len(named)} operands, not {len(given)}"
                continue
            for number, (operand, axes) in enumerate(zip(given, named, strict=True)):
                if len(operand.dimensions) != len(axes):
                    yield (
                        f"{site}: {operand.buffer!r} must have dimensions "
                        f"({' '.join(axis or '.' for axis in axes)}), not {len(operand.dimensions)}"
                    )
                    continue
                window = meaning.operands[number].name if verb == "read" else ""
                for axis, dimension in zip(axes, operand.dimensions, strict=True):
                    if fault := dimension_fault(site, axis, dimension, meaning, window):
                        yield f"{site}: {operand.buffer!r} must {fault}"


def dimension_fault(
    site: Site, axis: str, dimension: Dimension, meaning: Instruction, operand: str
) -> str:
    """Why a dimension has not the length that an instance expects of its axis."""
    if not axis:
        single = all(site.ranges[term.range].single for term in dimension.terms)
        return "" if single else "be at a single position where the opcode names no axis"
    index = meaning.windows.get((operand, axis))
    if index is None:
        if axis not in site.axes:
            return f"be read over a range that the issue gives axis {axis!r}"
        wanted = [(site.axes[axis], 1)]
    else:
        if missing := [a for a in index.axes if a not in site.axes]:
            return f"be read over a range that the issue gives axis {missing[0]!r}"
        wanted = sorted((site.axes[a], stride) for a, stride in index.terms)
    found = spans(dimension)
    if found == wanted or _moving(site, found) == _moving(site, wanted):
        return ""
    text = " + ".join(name if stride == 1 else f"{stride}*{name}" for name, stride in wanted)
    return f"be over {text} where the opcode names axis {axis!r}"


def _moving(site: Site, terms: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The terms over more than one position: a single one only moves the region."""
    return [(name, stride) for name, stride in terms if not site.ranges[name].single]


def axes_have_ranges(facts: Facts) -> Iterator[str]:
    """Every axis that a meaning speaks of has a range, and one issue takes it within its limit."""
    for site in facts.calls:
        opcode, meaning = facts.opcodes[site.issue.opcode], facts.meaning(site)
        hidden = {axis: index for (_, axis), index in meaning.windows.items()}
        for axis, index in hidden.items():
            if axis in site.axes:
                yield f"{site}: axis {axis!r} must have no range, being read as {index} only"
        sections = {extent.axis for extent in site.place.section.extents}
        wanted = needs(meaning)
        for axis in (*wanted.axes, *(axis for axis, _ in opcode.limits)):
            if axis not in site.axes and axis not in hidden:
                yield f"{site}: must give axis {axis!r} a range"
        for axis in wanted.sizes:
            if axis not in site.axes and axis not in sections:
                yield f"{site}: must give axis {axis!r} a range, since its size is asked for"
        for axis, limit in opcode.limits:
            if axis in site.axes and site.ranges[site.axes[axis]].longest > limit:
                found = site.ranges[site.axes[axis]].longest
                yield f"{site}: axis {axis!r} must be at most {limit} an issue, not {found}"


def results_take_outputs(facts: Facts) -> Iterator[str]:
    """Each result is an output of the instruction, over its axes or more; every state is one."""
    for site in facts.calls:
        opcode, meaning = facts.opcodes[site.issue.opcode], facts.meaning(site)
        where = f"opcode {opcode.name!r}"
        if meaning.opaque:
            continue
        for number, axes in zip(opcode.outputs, opcode.results, strict=True):
            if not 0 <= number < len(meaning.outputs):
                last = len(meaning.outputs) - 1
                yield f"{where}: a result must be output 0 to {last}, not {number}"
            elif missing := [a for a in meaning.outputs[number].axes if a not in axes]:
                yield (
                    f"{where}: output {number} has axis {missing[0]!r}, result "
                    f"({' '.join(axis or '.' for axis in axes)}) must have it too"
                )
        for number, state in enumerate(meaning.states):
            if number not in opcode.outputs:
                yield f"{where}: must write state {state.input.name!r}, its output {number}"
                continue
            axes = opcode.results[opcode.outputs.index(number)]
            if {axis for axis in axes if axis} != set(state.input.axes):
                yield (
                    f"{where}: state {state.input.name!r} must have axes "
                    f"({' '.join(state.input.axes)}), not ({' '.join(axes)})"
                )
        if site.issue.fresh is not None and not meaning.states:
            yield f"{site}: must not begin anew, since it does not accumulate"


def opaque_operands_are_whole(facts: Facts) -> Iterator[str]:
    """An opaque instruction gets arrays of exactly its axes and types, and sets what it says."""
    for site in facts.calls:
        opcode, meaning = facts.opcodes[site.issue.opcode], facts.meaning(site)
        if len(site.issue.sets) != len(meaning.sets if meaning.opaque else ()):
            number = len(meaning.sets if meaning.opaque else ())
            yield f"{site}: must set {number} parameters, not {len(site.issue.sets)}"
        if not meaning.opaque:
            continue
        definition = facts.library[opcode.instruction]
        binding = dict(opcode.binding)
        if opcode.outputs != tuple(range(len(definition.results))):
            yield f"opcode {opcode.name!r}: must write all results of its instruction in order"
            continue
        leaves = (*definition.operands, *definition.results)
        named = (*opcode.operands, *opcode.results)
        for leaf, axes, operand in zip(leaves, named, site.operands, strict=True):
            wanted = tuple(new for axis in leaf.axes for new in binding.get(axis, (axis,)))
            if tuple(axis for axis in axes if axis) != wanted:
                yield (
                    f"opcode {opcode.name!r}: {leaf.name!r} must have axes ({' '.join(wanted)}), "
                    f"not ({' '.join(axes)})"
                )
            dtype = facts.buffers[operand.buffer].dtype
            if dtype != leaf.dtype:
                yield f"{site}: {operand.buffer!r} must be of type {leaf.dtype}, not {dtype}"


def parameters_are_set_by_instructions(facts: Facts) -> Iterator[str]:
    given = {parameter.name: parameter.given for parameter in facts.program.parameters}
    for site in facts.sites:
        for name in site.issue.sets:
            if given.get(name, True):
                yield f"{site}: must set computed parameters, not {name!r}"
            if site.issue.sets.count(name) > 1:
                yield f"{site}: must set {name!r} once"


def indices_inside_instructions_stay_in_bounds(facts: Facts) -> Iterator[str]:
    """Inside an instruction no view, update, look-up or stack leaves what it works on."""
    for site in facts.calls:
        meaning = facts.meaning(site)
        if not needs(meaning).indexing:
            continue
        ranges = {axis: site.ranges[name] for axis, name in site.issue.axes}
        for fault in unproved(meaning, ranges):
            yield f"{site}: {fault}"


def values_fit_memory(facts: Facts) -> Iterator[str]:
    """No value inside an issue is larger than all memory."""
    size = facts.machine.dram.size if facts.machine else LARGEST_MEMORY
    for site in facts.calls:
        lengths = {axis: site.ranges[name].longest for axis, name in site.issue.axes}
        for axes in needs(facts.meaning(site)).values:
            volume = 8 * math.prod(lengths.get(axis, 1) for axis in axes)
            if volume > size:
                yield f"{site}: a value over ({' '.join(axes)}) must fit {size} bytes, not {volume}"


def units_exist(facts: Facts) -> Iterator[str]:
    machine = facts.machine
    if machine is None:
        return
    kinds = {unit.name: unit.kind for unit in machine.units}
    known = ", ".join(kinds)
    for opcode in facts.program.opcodes:
        if opcode.unit not in kinds:
            yield f"opcode {opcode.name!r}: must be on one of {known}, not {opcode.unit!r}"
    for site in facts.sites:
        unit = site.issue.unit
        if unit not in kinds:
            yield f"{site}: must be on one of {known}, not {unit!r}"
        elif (kinds[unit] == "copy") != site.copies:
            yield f"{site}: must be on a copy unit if it is a copy, else on another, not {unit!r}"


def issues_take_time(facts: Facts) -> Iterator[str]:
    """The timing of every instruction has a value on its unit."""
    if facts.machine is None:
        return
    units = {unit.name: unit for unit in facts.machine.units}
    known: set[tuple[str, str, tuple[tuple[str, int], ...]]] = set()
    for site in facts.calls:
        lengths = tuple((axis, site.ranges[name].longest) for axis, name in site.issue.axes)
        key = site.issue.opcode, site.issue.unit, lengths
        if key in known:
            continue
        known.add(key)
        opcode, meaning = facts.opcodes[site.issue.opcode], facts.meaning(site)
        try:
            cycles = issue_cycles(meaning, opcode, units[site.issue.unit], dict(lengths))
        except (InfinisaError, ZeroDivisionError) as error:
            yield f"{site}: must take a known time, but {error}"
        else:
            if min(cycles) < 0:
                yield f"{site}: must take a positive time, not {min(cycles)} cycles"


RULES: tuple[Rule, ...] = (
    names_are_unique,
    parameters_are_bounded,
    counts_name_parameters,
    extents_are_bounded,
    repeats_are_bounded,
    buffers_are_sound,
    buffers_are_inside_memories,
    memory_suffices,
    names_in_statements_are_known,
    loops_narrow,
    ranges_are_open,
    cores_work_apart,
    early_issues_have_room,
    rotors_are_open,
    issues_are_bounded,
    accesses_stay_in_bounds,
    fills_are_elements,
    inputs_and_weights_stay,
    regions_fit_memory,
    results_are_written_before_they_are_read,
    chip_buffers_are_alive_once,
    places_do_not_meet,
    chip_buffers_are_used_while_alive,
    opcodes_are_defined,
    opcodes_have_one_set_of_types,
    immediates_are_named,
    immediates_are_held,
    copies_copy,
    operands_fit_opcodes,
    axes_have_ranges,
    results_take_outputs,
    opaque_operands_are_whole,
    parameters_are_set_by_instructions,
    indices_inside_instructions_stay_in_bounds,
    values_fit_memory,
    units_exist,
    issues_take_time,
)
