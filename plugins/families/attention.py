"""Attention: whole, causal and masked; each in tiles of the keys; rotary positions.

Axes: queries s, keys t, width d of queries and keys, width e of values. Heads are loops. Positions
are absolute, so a mask by position holds for a tile as for the whole.
"""

from collections.abc import Sequence

from infinisa.isa import formulas
from infinisa.isa.formulas import INFINITY, attention_scores
from infinisa.isa.instruction import Instruction, StepOf, instruction
from infinisa.isa.language import position

from ..hookspec import hookimpl

START = {"top": -INFINITY, "total": 0.0, "weighted": 0.0}
TILE = {"s": "rows", "t": "columns"}


def law(whole: str) -> StepOf:
    """Folding the step over tiles of the keys, then `flash_finish`, equals `whole`."""
    return StepOf(whole, "t", "flash_finish")


@instruction(unit="matrix", tile=TILE)
def attention(q: "s d", k: "t d", v: "t e", scale=1.0):
    return formulas.attend(attention_scores(q, k, "d", scale), v, "t")


@instruction(unit="matrix", tile=TILE)
def causal_attention(q: "s d", k: "t d", v: "t e", scale=1.0):
    """A query sees the keys up to its own position."""
    scores = formulas.causal(attention_scores(q, k, "d", scale), "s", "t")
    return formulas.attend(scores, v, "t")


@instruction(unit="matrix", tile=TILE)
def masked_attention(q: "s d", k: "t d", v: "t e", mask: "s t", scale=1.0):
    """The mask is added to the scores; a query that may see nothing gets 0."""
    return formulas.attend_safe(attention_scores(q, k, "d", scale) + mask, v, "t")


@instruction(unit="matrix", tile=TILE, state=START, step_of=law("attention"))
def flash_step(q: "s d", k: "t d", v: "t e", top: "s", total: "s", weighted: "s e", scale=1.0):
    """A tile of keys of `attention`."""
    scores = attention_scores(q, k, "d", scale)
    return formulas.flash_step(scores, v, "t", top, total, weighted)


@instruction(unit="matrix", tile=TILE, state=START, step_of=law("causal_attention"))
def causal_flash_step(
    q: "s d", k: "t d", v: "t e", top: "s", total: "s", weighted: "s e", scale=1.0
):
    """A tile of keys of `causal_attention`."""
    scores = formulas.causal(attention_scores(q, k, "d", scale), "s", "t")
    return formulas.flash_step(scores, v, "t", top, total, weighted)


@instruction(unit="matrix", tile=TILE, state=START, step_of=law("masked_attention"))
def masked_flash_step(
    q: "s d", k: "t d", v: "t e", mask: "s t", top: "s", total: "s", weighted: "s e", scale=1.0
):
    """A tile of keys of `masked_attention`."""
    scores = attention_scores(q, k, "d", scale) + mask
    return formulas.flash_step(scores, v, "t", top, total, weighted)


@instruction(unit="vector")
def flash_finish(total: "s", weighted: "s e"):
    """The result of an attention from the states of its last step."""
    return formulas.flash_finish(total, weighted)


@instruction(unit="vector")
def rope(x: "s p i", theta=10000.0):
    """Rotary positions: halves p, pairs i; the angle of pair i is s * theta ** (-i / pairs)."""
    return formulas.rope(x, formulas.rope_angles("s", "i", theta), "p")


@instruction(unit="vector")
def rope_by_frequency(x: "s p i", frequency: "i"):
    """Rotary positions with frequencies of one's own: the angle of pair i is s * frequency."""
    return formulas.rope(x, position("s") * frequency, "p")


@instruction(unit="vector")
def rope_by_table(x: "s p i", cosines: "s i", sines: "s i"):
    """Rotary positions from tables of cosines and sines."""
    return formulas.rotate(x, cosines, sines, "p")


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [
        attention,
        causal_attention,
        masked_attention,
        flash_step,
        causal_flash_step,
        masked_flash_step,
        flash_finish,
        rope,
        rope_by_frequency,
        rope_by_table,
    ]
