"""Programs as bytes: the same program again, one encoding each, and no file is believed."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from infinisa.isa.assembly import parse_text, to_text
from infinisa.isa.dtypes import DTYPES, held
from infinisa.isa.encoding import (
    HEADER,
    LARGEST_FILE,
    MAGIC,
    Writer,
    decode,
    encode,
    identity,
)
from infinisa.isa.errors import ProgramError
from infinisa.isa.program import (
    Buffer,
    Count,
    Issue,
    Loop,
    Opcode,
    Operand,
    Parameter,
    Program,
    Section,
    Stage,
    statements,
)
from tests.isa.anything import anything
from tests.isa.mutants import with_checksum
from tests.isa.programs import TINY, programs

EMPTY = Program("p", "m", (), (), (), ())


def of(*write: Callable[[Writer], None], strings: tuple[str, ...] = ("m", "p")) -> bytes:
    """A file that begins like EMPTY and goes on as these say."""
    writer = Writer(EMPTY, strings)
    writer.table()
    writer.string("p")
    writer.string("m")
    for step in write:
        step(writer)
    return with_checksum(bytes(writer.out))


def naturals(*values: int) -> Callable[[Writer], None]:
    def write(writer: Writer) -> None:
        for value in values:
            writer.natural(value)

    return write


def refusal(data: bytes) -> str:
    with pytest.raises(ProgramError) as caught:
        decode(data, "file")
    return str(caught.value)


def completed(program: Program) -> Program:
    """The program with the opcodes and buffers that it names."""
    issues = [
        item
        for section in program.sections
        for stage in section.stages
        for item in statements(stage.body)
        if isinstance(item, Issue)
    ]
    used = {operand.buffer for issue in issues for operand in (*issue.reads, *issue.writes)}
    used |= {
        name
        for section in program.sections
        for stage in section.stages
        for name, _, _ in stage.lifetimes
    }
    opcodes = sorted({issue.opcode for issue in issues})
    return replace(
        program,
        opcodes=(*program.opcodes, *(Opcode(name, "i", "", "u") for name in opcodes)),
        buffers=(*program.buffers, *(Buffer(name, "m", (), "f32") for name in sorted(used))),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_a_program_is_the_same_after_encoding_and_decoding(program: Program) -> None:
    assert decode(encode(program), "test") == program


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(anything().map(completed))
def test_any_program_is_the_same_after_encoding_and_decoding(program: Program) -> None:
    """Even one that means nothing."""
    data = encode(program)

    assert decode(data, "test") == program
    assert encode(decode(data, "test")) == data


@settings(max_examples=200, deadline=None)
@given(some.binary(max_size=40))
def test_bytes_that_are_accepted_are_what_encoding_gives(body: bytes) -> None:
    """No program has two encodings."""
    try:
        program = decode(with_checksum(body), "test")
    except ProgramError:
        return
    assert encode(program) == with_checksum(body)


def test_a_string_that_nothing_names_is_refused() -> None:
    data = of(naturals(0, 0, 0, 0), strings=("m", "p", "q"))

    assert refusal(data) == "program file: must be encoded in the one way that `encode` takes"


def test_the_least_program_takes_few_bytes() -> None:
    """Magic, version, checksum; two strings (3 bytes each), their numbers, four empty lists."""
    data = encode(EMPTY)

    assert data[:5] == b"IISA\x01"
    assert data[HEADER:].hex(" ") == "02 00 02 6d 00 02 70 01 00 00 00 00 00"


def test_strings_share_their_beginnings_and_hashes_are_packed() -> None:
    """64 hexadecimal digits are 32 bytes; `layer/12` begins with the 7 bytes of `layer/11`."""
    digits = "0123456789abcdef" * 4
    one = encode(replace(EMPTY, name=digits))
    two = encode(replace(EMPTY, name="layer/11", machine="layer/12"))

    assert len(one) == len(encode(EMPTY)) + 31
    assert b"layer/11" in two
    assert two[HEADER:].startswith(b"\x02\x00\x10layer/11\x07\x022")


def test_an_identity_is_that_of_program_and_machine() -> None:
    other = replace(TINY, cores=2)

    assert identity(EMPTY, TINY) == identity(decode(encode(EMPTY), ""), TINY)
    assert identity(EMPTY, TINY) != identity(EMPTY, other)
    assert identity(EMPTY, TINY) != identity(replace(EMPTY, name="q"), TINY)
    assert len(identity(EMPTY, TINY)) == 64


def test_a_file_of_something_else_is_refused() -> None:
    data = encode(EMPTY)

    assert refusal(b"ELF.") == "program file: must begin with b'IISA', not b'ELF.'"
    assert refusal(MAGIC) == f"program file: must have {HEADER} to {LARGEST_FILE} bytes, not 4"
    assert refusal(b"IISA\x02" + data[5:]) == "program file: must be of format 1, not 2"
    assert refusal(data[:-1]) == "program file: is damaged, its checksum does not fit"
    flipped = bytes([*data[:-1], data[-1] ^ 1])
    assert refusal(flipped) == "program file: is damaged, its checksum does not fit"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_checksum(b""), "byte 13: expected a number of at most 64 bits in as few bytes as it "
         "takes"),
        (with_checksum(b"\x80\x00"), "byte 15: expected a number of at most 64 bits in as few "
         "bytes as it takes"),
        (with_checksum(b"\xff" * 9 + b"\x7f"), "byte 23: expected a number of at most 64 bits in "
         "as few bytes as it takes"),
        (with_checksum(b"\x7f\x00"), "byte 14: expected a number of strings less than 3, not 127"),
        (with_checksum(b"\x01\x00\x7e"), "byte 16: expected 63 more bytes, there are 0"),
        (with_checksum(b"\x01\x01\x00"), "byte 15: expected a shared beginning less than 1, not 1"),
        (with_checksum(b"\x02\x00\x02b\x00\x02a"), "byte 20: expected strings in order"),
        (with_checksum(b"\x01\x00\x02\xff"), "byte 17: expected a string in UTF-8"),
        (with_checksum(b"\x01\x00\x02p\x01"), "byte 18: expected the number of a string less than "
         "1, not 1"),
        (of(naturals(200)), "byte 24: expected at most 0 items, not 200"),
        (of(naturals(0, 0, 0, 0, 0)), "byte 26: expected the end of the program"),
        (of(naturals(0, 0, 1, 0, 0, 1, 1, 1, 9)), "byte 31: expected the number of a kind less "
         "than 5, not 9"),
        (of(naturals(0, 0, 1, 0, 3)), "byte 27: expected the number of a word less than 1, not 3"),
    ],
)  # fmt: skip
def test_a_file_with_a_fitting_checksum_is_not_believed(data: bytes, message: str) -> None:
    assert refusal(data) == f"program file, {message}"


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    """Strings that begin with all of the one before: 300 kB of file would be 5 GB of names."""
    body = bytearray()
    writer = Writer(EMPTY, None)
    writer.natural(100_000)
    for number in range(100_000):
        writer.natural(number)
        writer.natural(2)
        writer.out += b"a"
    body += writer.out

    assert refusal(with_checksum(bytes(body))).endswith(
        "expected strings of at most 1024 bytes, 16777216 in all"
    )


def test_loops_may_not_be_endlessly_deep() -> None:
    inner: Loop | Issue = Issue("o", "u", (), ())
    opcode = Opcode("o", "i", "", "u")
    for depth in range(65):
        inner = Loop(f"r{depth}", "s", 1, (inner,))
        stage = Stage("t", (inner,))
        program = replace(EMPTY, opcodes=(opcode,), sections=(Section("s", (), (stage,)),))
        if depth < 64:
            assert decode(encode(program), "file") == program

    assert refusal(encode(program)).endswith("expected at most 64 loops inside each other")


def typed(number: float | int, kind: str) -> Program:
    """A program with one immediate, written in this type."""
    opcode = Opcode("o", "i", "", "u", immediates=(("cap", number),), formats=(("cap", kind),))
    return replace(EMPTY, opcodes=(opcode,))


@given(
    number=some.floats(allow_nan=False) | some.integers(-(2**63), 2**63 - 1),
    kind=some.sampled_from(list(DTYPES)),
)
def test_an_immediate_takes_the_bytes_of_its_type(number: float | int, kind: str) -> None:
    """And is itself again, or is refused."""
    kept = held(number, kind)
    if kept is None:
        with pytest.raises(ProgramError):
            encode(typed(number, kind))
        return
    program = typed(kept, kind)

    assert decode(encode(program), "file") == program
    assert parse_text(to_text(program), "text") == program
    blank = replace(program.opcodes[0], immediates=(), formats=())
    plain = replace(program, opcodes=(blank,))
    table = len(b"\x00\x06cap")  # what is new in the table of strings: no beginning, length, name
    field = len(b"\x02\x02")  # the word, which is new, and its string; then how it is written
    sizes = len(encode(program)) - len(encode(plain)) - table - field - 1
    assert sizes == DTYPES[kind].size


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (typed(0.1, "bf16"), "immediate 'cap' must be of type bf16, not 0.1"),
        (typed(300.0, "u8"), "immediate 'cap' must be of type u8, not 300.0"),
        (typed(2.5, "i16"), "immediate 'cap' must be of type i16, not 2.5"),
        (typed(3, "f32"), "immediate 'cap' must be of type f32, not 3"),
        (typed(3, "u4"), "immediate 'cap' must be of type u4, not 3"),
        (replace(EMPTY, opcodes=(Opcode("o", "i", "", "u", formats=(("cap", "u8"),)),)),
         "opcode 'o' must have formats of its immediates, in their order, not cap"),
        (replace(EMPTY, parameters=(Parameter("n", 2**63, 0),)),
         "a number must be 0 to 2**64 - 1, not 18446744073709551616"),
        (replace(EMPTY, name="\ud800"), "a name must be Unicode text, not '\\ud800'"),
        (replace(EMPTY, name="x" * 1025), "a name must have at most 1024 bytes, not 1025"),
        (replace(EMPTY, sections=(Section("s", (), (Stage("t", (Issue("o", "u", (), ()),)),)),)),
         "the program has no opcode 'o'"),
        (replace(EMPTY, opcodes=(Opcode("o", "i", "", "u"),), sections=(Section("s", (), (Stage(
            "t", (Issue("o", "u", (Operand("x", ()),), ()),)),), tokens=Count(1)),)),
         "the program has no buffer 'x'"),
    ],
)  # fmt: skip
def test_what_cannot_be_encoded_is_named(program: Program, message: str) -> None:
    with pytest.raises(ProgramError) as caught:
        encode(program)

    assert str(caught.value) == f"encoding: {message}"
