"""Programs written by hand: their loops become whole issues, and compute what they did."""

from __future__ import annotations

from infinisa.isa import language as L
from infinisa.isa.assembly import parse_text
from infinisa.isa.instruction import instruction, step_of
from infinisa.isa.program import Issue, Loop, Program, statements
from infinisa.runtime.jit.rewriting.untiled import Meanings, untiled
from tests.runtime.jit import single


@instruction(unit="matrix")
def matmul(a: "m k", b: "k n"):
    return L.dot(a, b, "k")


@instruction(unit="matrix")
def matmul_bias(a: "m k", b: "k n", c: "n"):
    return L.dot(a, b, "k") + c


@instruction(unit="vector")
def added(a: "m n", b: "m n"):
    return a + b


@instruction(unit="vector")
def clipped(a: "m n"):
    return L.maximum(a, 0.0)


@instruction(unit="vector")
def added3(a: "p q n", b: "p q n"):
    return a + b


@instruction(unit="vector")
def twice(a: "m n"):
    return L.maximum(a, 0.0), a - L.max(a, "n") + L.sum(a, "n")


LIBRARY = {each.name: each for each in (matmul, matmul_bias, added, added3, clipped, twice)}


def program_of(text: str, **holes: str) -> Program:
    """The program of a text with names of instructions where their meanings stand."""
    adding, _ = step_of(matmul)
    step, finish = step_of(matmul_bias)
    assert finish is not None
    parts = {"adding": adding, "step": step, "finish": finish}
    meanings = {name: each.meaning for name, each in {**LIBRARY, **parts}.items()}
    return parse_text(text.format(**meanings, **holes), "program")


def whole(program: Program) -> list[Issue | Loop]:
    """What native code runs, once all backends compute what the interpreter does."""
    single.check(program, LIBRARY)
    found = untiled(program, Meanings(LIBRARY))
    stages = [stage for section in found.sections for stage in section.stages]
    return [item for stage in stages for item in statements(stage.body)]


def buffers_of_one(program: Program) -> list[str]:
    """What the only issue of a program reads."""
    (issue,) = whole(program)
    assert isinstance(issue, Issue)
    return [read.buffer for read in issue.reads]


PLACES = """program convolution for host
opcode adding = matmul.step "{adding}" on matrix
    bind m = q
    bind k = c
    bind n = o
    read (c . q)
    read (o c . .)
    write (. q o)
    outputs 0
buffer y: output f32 [5, 9, 33] in dram
buffer x: input f32 [17, 11, 10] in dram
buffer w: weight f32 [33, 17, 3, 2] in dram
section all
    axis c = 17
    axis p = 5
    axis q = 9
    axis r = 3
    axis u = 2
    axis o = 33
    stage only
        for p1 in p step 1:
            for q1 in q step 4:
                for o1 in o step 16:
                    for r1 in r step 1:
                        for u1 in u step 1:
                            y[p1, q1, o1] = {issue}
"""
PLACE = (
    "adding(x[c, r1+2*p1-1, u1+q1-1] fill 0.0, w[o1, c, r1, u1]) on matrix "
    "over r=r1, u=u1, p=p1, q=q1, o=o1, c fresh r1, u1"
)


def test_places_of_windows_in_loops_are_one_sum() -> None:
    assert buffers_of_one(program_of(PLACES, issue=PLACE)) == ["x", "w"]


PIECES = """program pieces for host
opcode adding = matmul_bias.step "{step}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read (m k)
    read (k n)
    write (m n)
    outputs 0
opcode ending = matmul_bias.finish "{finish}" on matrix
    bind m = m
    bind n = n
    read (m n)
    read (n)
    write (m n)
    outputs 0
buffer y: output f32 [20, 90] in dram
buffer a: input f32 [20, 70] in dram
buffer b: weight f32 [70, 90] in dram
buffer c: weight f32 [90] in dram
buffer total: temporary f32 [16, 32] in cache place 0 pitch 2048 slots 2 rotor n1
section all
    axis m = 20
    axis k = 70
    axis n = 90
    stage only
        alive total 0 to 2
        for m1 in m step 16:
            for n1 in n step 32:
                for k1 in k step 16:
                    total[m1-m1, n1-n1] = {issue}
                y[m1, n1] = ending(total[m1-m1, n1-n1], c[n1]) on matrix over m=m1, n=n1
"""
PIECE = "adding(a[m1, k1], b[k1, n1]) on matrix over m=m1, n=n1, k=k1 fresh k1"


def test_steps_and_what_finishes_them_are_one_issue() -> None:
    assert buffers_of_one(program_of(PIECES, issue=PIECE)) == ["a", "b", "c"]


CLIPPED = """opcode behind = clipped "{clipped}" on vector
    bind m = m
    bind n = n
    read (m n)
    write (m n)
    outputs 0
buffer y: output"""
TILE = """buffer u: temporary f32 [16, 8] in cache place 1 address 4096 pitch 512 slots 2 rotor n2
"""
IN_A_LOOP = """                for n2 in n1 step 8:
                    u[m1-m1, n2-n2] = ending(total[m1-m1, n2-n1], c[n2]) on matrix over m=m1, n=n2
                    y[m1, n2] = behind(u[m1-m1, n2-n2]) on vector over m=m1, n=n2
"""


def test_what_finishes_sums_and_more_is_not_what_finishes_them_alone() -> None:
    plain, _, _ = PIECES.rpartition("                y[m1, n1]")
    text = (plain + IN_A_LOOP).replace("buffer y: output", CLIPPED)
    text = text.replace("section all", TILE + "section all")
    text = text.replace("alive total 0 to 2", "alive total 0 to 3\n        alive u 1 to 3")

    assert len(whole(program_of(text, issue=PIECE))) > 1


ROW_BY_ROW = """program rows for host
opcode product = matmul "{matmul}" on matrix
    bind m =
    bind k = k
    bind n = n
    read (. k)
    read (k n)
    write (. n)
    outputs 0
opcode behind = clipped "{clipped}" on vector
    bind m =
    bind n = n
    read (. n)
    write (. n)
    outputs 0
buffer y: output f32 [20, 90] in dram
buffer a: input f32 [20, 70] in dram
buffer b: weight f32 [70, 90] in dram
buffer tile: temporary f32 [1, 90] in cache place 0 pitch 512 slots 2 rotor m1
section all
    axis m = 20
    axis k = 70
    axis n = 90
    stage only
        alive tile 0 to 2
        for m1 in m step 1:
            tile[m1-m1, n] = product(a[m1, k], b[k, n]) on matrix over m=m1, k, n
            y[m1, n] = behind(tile[m1-m1, n]) on vector over m=m1, n
"""


def test_a_row_and_what_follows_it_are_each_a_row() -> None:
    assert whole(program_of(ROW_BY_ROW))


ROWS = """program rows for host
opcode adding = matmul_bias.step "{step}" on matrix
    bind m = q
    bind k = c
    bind n = o
    read (. q c)
    read (. c o)
    write (. q o)
    outputs 0
opcode ending = matmul_bias.finish "{finish}" on matrix
    bind m = p q
    bind n = o
    read (p q o)
    read (o)
    write (p q o)
    outputs 0
buffer y: output f32 [6, 9, 33] in dram
buffer x: input f32 [11, 9, 17] in dram
buffer w: weight f32 [3, 17, 33] in dram
buffer b: weight f32 [33] in dram
buffer total: temporary f32 [1, 9, 33] in cache place 0 pitch 1216
section all
    axis c = 17
    axis p = 6
    axis q = 9
    axis r = 3
    axis o = 33
    stage only
        alive total 0 to 2
        for p1 in p step 1:
            for r1 in r step 1:
                total[p1-p1, q, o] = {issue}
            y[p1-p, q, o] = ending(total[p1-p1, q, o], b[o]) on matrix over p=p1, q, o
"""
WINDOWED = (
    "adding(x[r1-r+2*(p1-p)-1, q, c] fill 0.0, w[r1, c, o]) on matrix "
    "over r=r1, p=p1, q, o, c fresh r1"
)


def test_rows_of_windows_that_a_finish_knows_are_one_issue() -> None:
    """The step reads one row of what the finish calls p; ranges that begin at 0 count from it."""
    assert buffers_of_one(program_of(ROWS, issue=WINDOWED)) == ["x", "w", "b"]


BEHIND = """program behind for host
opcode product = matmul_bias "{matmul_bias}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read (m k)
    read (k n)
    read (n)
    write (n m)
    outputs 0
opcode adding = added "{added}" on vector
    bind m = p
    bind n = q
    read (p q)
    read (q p)
    write (p q)
    outputs 0
opcode ending = clipped "{clipped}" on vector
    bind m = p
    bind n = q
    read (p q)
    write (p q)
    outputs 0
buffer y: output f32 [20, 90] in dram
{more}buffer a: input f32 [20, 70] in dram
buffer b: weight f32 [70, 90] in dram
buffer c: weight f32 [90] in dram
buffer r: input f32 [20, 90] in dram
buffer t: temporary f32 [32, 16] in cache place 0 pitch 2048
buffer u: temporary f32 [16, 32] in cache place 1 address 2048 pitch 2048
section all
    axis m = 20
    axis k = 70
    axis n = 90
    stage only
        alive t 0 to 2
        alive u 1 to {end}
        for m1 in m step 16:
            for n1 in n step 32:
                t[n1-n1, m1-m1] = product(a[m1, k], b[k, n1], c[n1]) on matrix over m=m1, n=n1, k
                for m2 in m1 step 4:
                    u[m2-m1, n1-n1] = adding(r[m2, n1], t[n1-n1, m2-m1]) on vector over p=m2, q=n1
                {issue}
"""
ENDING = "y[m1, n1] = ending(u[m1-m1, n1-n1]) on vector over p=m1, q=n1"


def behind(more: str = "", issue: str = "") -> Program:
    """A product, what is added to it, and what follows that."""
    return program_of(BEHIND, more=more, issue=ENDING + issue, end="4" if issue else "3")


def test_what_follows_a_product_number_by_number_is_one_issue_with_it() -> None:
    """Whatever tiles it comes in, and in whatever order the memory between them has the axes."""
    assert buffers_of_one(behind()) == ["a", "b", "c", "r"]


def test_what_others_read_too_stays_in_memory() -> None:
    again = "\n                z[m1, n1] = ending(u[m1-m1, n1-n1]) on vector over p=m1, q=n1"
    left = whole(behind("buffer z: output f32 [20, 90] in dram\n", again))

    assert [item.writes[0].buffer for item in left if isinstance(item, Issue)] == ["u", "y", "z"]


ONE_ROW = """program row for host
opcode product = matmul_bias "{matmul_bias}" on matrix
    bind m = q
    bind k = k
    bind n = n
    read (. q k)
    read (k n)
    read (n)
    write (n . q)
    outputs 0
opcode adding = added3 "{added3}" on vector
    bind p = p
    bind q = q
    bind n = o
    read (p q o)
    read (o p q)
    write (p q o)
    outputs 0
buffer y: output f32 [6, 9, 33] in dram
buffer a: input f32 [12, 9, 17] in dram
buffer b: weight f32 [17, 33] in dram
buffer c: weight f32 [33] in dram
buffer r: input f32 [6, 9, 33] in dram
buffer t: temporary f32 [33, 1, 9] in cache place 0 pitch 1216
section all
    axis k = 17
    axis p = 6
    axis q = 9
    axis n = 33
    stage only
        alive t 0 to 2
        for p1 in p step 1:
            t[n, p1-p1, q] = product(a[2*p1+1, q, k], b[k, n], c[n]) on matrix over q, n, k, p=p1
            y[p1, q, n] = adding(r[p1, q, n], t[n, p1-p1, q]) on vector over p=p1, q, o=n
"""


def test_a_product_of_one_row_takes_the_name_that_what_follows_it_has_for_rows() -> None:
    assert buffers_of_one(program_of(ONE_ROW)) == ["a", "b", "c", "r"]


CHAIN = """program chain for host
opcode product = matmul "{matmul}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read (m k)
    read (k n)
    write (m n)
    outputs 0
buffer y: output f32 [12, 8] in dram
buffer b: weight f32 [8, 8] in dram
section all
    axis m = 12
    axis k = 8
    axis n = 8
    stage only
        for m1 in m step 1:
            y[m1, n] = product(y[m1-1, k] fill 1.0, b[k, n]) on matrix over m=m1, k, n
"""


def test_tiles_that_read_what_others_wrote_stay_in_order() -> None:
    """Each tile reads rows above its own of the buffer that it writes."""
    assert any(isinstance(item, Loop) for item in whole(program_of(CHAIN)))


ONE_TURN = """program turn for host
opcode product = matmul "{matmul}" on matrix
    bind m = m
    bind k = k
    bind n = n
    read (m k)
    read (k n)
    write (n m)
    outputs 0
opcode twice = twice "{twice}" on vector
    bind m = m
    bind n = n
    read (n m)
    write (m n)
    write (m n)
    outputs 0 1
opcode behind = clipped "{clipped}" on vector
    bind m = m
    bind n = n
    read (m n)
    write (m n)
    outputs 0
buffer y: output f32 [20, 90] in dram
buffer z: output f32 [20, 90] in dram
buffer a: input f32 [20, 70] in dram
buffer b: weight f32 [70, 90] in dram
buffer t: temporary f32 [90, 4] in cache place 0 pitch 1536 slots 2 rotor m2
buffer u: temporary f32 [4, 90] in cache place 1 address 4096 pitch 1536 slots 2 rotor m1
section all
    axis m = 20
    axis k = 70
    axis n = 90
    stage only
        alive t 0 to 2
        alive u 1 to 3
        for m1 in m step 4:
            for m2 in m1 step 4:
                t[n, m2-m2] = product(a[m2, k], b[k, n]) on matrix over m=m2, n, k
                y[m2, n], u[m2-m1, n] = twice(t[n, m2-m2]) on vector over m=m2, n
            z[m1, n] = behind(u[m1-m1, n]) on vector over m=m1, n
"""


def test_a_loop_of_one_turn_is_none_whatever_counts_by_it() -> None:
    """The tile has two places in turn, and counts from the start of the only turn."""
    (loop,) = (item for item in whole(program_of(ONE_TURN)) if isinstance(item, Loop))
    assert loop.range == "m1"
