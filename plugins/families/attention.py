"""Attention: whole, causal and masked; each in tiles of the keys; rotary positions.

Axes: queries s, keys t, width d of queries and keys, width e of values. Heads are loops. Positions
are absolute, so a mask by position holds for a tile as for the whole.
"""

from collections.abc import Sequence

from infinisa.compiler.positional import tensor
from infinisa.compiler.positional.operator import Operator, operator
from infinisa.compiler.positional.tensor import Tensor, concat, contract, full
from infinisa.isa import formulas
from infinisa.isa.errors import ModelError
from infinisa.isa.formulas import INFINITY, attention_scores
from infinisa.isa.instruction import Instruction, instruction
from infinisa.isa.language import Axis, Node, position
from infinisa.isa.laws import Associative, StepOf

from ..hookspec import hookimpl

START = {"top": -INFINITY, "total": 0.0, "weighted": 0.0}
TILE = {"s": "rows", "t": "columns"}


def law(whole: str) -> StepOf:
    """Folding the step over tiles of the keys, then `flash_finish`, equals `whole`."""
    return StepOf(whole, "t", "flash_finish")


RUNS = Associative("flash_combine", "r")
"""Keys may be divided among cores."""


@instruction(unit="matrix", tile=TILE)
def attention(q: "s d", k: "t d", v: "t e", scale=1.0):
    """Values averaged over the keys by the softmax of the scaled scores (arXiv 1706.03762)."""
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


@instruction(unit="matrix", tile=TILE, state=START, step_of=law("attention"), associative=RUNS)
def flash_step(q: "s d", k: "t d", v: "t e", top: "s", total: "s", weighted: "s e", scale=1.0):
    """A tile of keys of `attention`."""
    scores = attention_scores(q, k, "d", scale)
    return formulas.flash_step(scores, v, "t", top, total, weighted)


@instruction(
    unit="matrix", tile=TILE, state=START, step_of=law("causal_attention"), associative=RUNS
)
def causal_flash_step(
    q: "s d", k: "t d", v: "t e", top: "s", total: "s", weighted: "s e", scale=1.0
):
    """A tile of keys of `causal_attention`."""
    scores = formulas.causal(attention_scores(q, k, "d", scale), "s", "t")
    return formulas.flash_step(scores, v, "t", top, total, weighted)


@instruction(
    unit="matrix", tile=TILE, state=START, step_of=law("masked_attention"), associative=RUNS
)
def masked_flash_step(
    q: "s d", k: "t d", v: "t e", mask: "s t", top: "s", total: "s", weighted: "s e", scale=1.0
):
    """A tile of keys of `masked_attention`."""
    scores = attention_scores(q, k, "d", scale) + mask
    return formulas.flash_step(scores, v, "t", top, total, weighted)


@instruction(unit="vector")
def flash_combine(top: "r s", total: "r s", weighted: "r s e"):
    """The states of one run over all keys, from those of runs over some of them."""
    return formulas.flash_combine(top, total, weighted, "r")


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
        flash_combine,
        flash_finish,
        rope,
        rope_by_frequency,
        rope_by_table,
    ]


# ---------------------------------------------------------------- operators


def heads(x: Tensor, count: int | None) -> Tensor:
    """(batch, heads, positions, width), from that or from (batch, positions, heads * width)."""
    if x.rank == 4:
        return x
    if x.rank != 3 or not count or x.shape[2] % count:
        raise ModelError(f"shape {x.shape} must have 4 dimensions, or 3 with {count} heads last")
    batch, tokens, width = x.shape
    return x.reshape((batch, tokens, count, width // count)).transpose([0, 2, 1, 3])


# long: the parameters are those of the operator
@operator("Attention", since=23)
def attention_node(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
    outputs: int = 1,
) -> list[Tensor]:
    """Queries in groups share a head of keys and values; scores stay apart by head."""
    flat = q.rank == 3
    q, k, v = heads(q, q_num_heads), heads(k, kv_num_heads), heads(v, kv_num_heads)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = concat([past_key, k], 2), concat([past_value, v], 2)
    batch, count, tokens, width = q.shape
    if lengths is not None:
        raise ModelError("nonpad_kv_seqlen is not supported")
    if count % k.shape[1]:
        raise ModelError(f"{count} heads of queries must be a multiple of {k.shape[1]}")
    group = (batch, k.shape[1], count // k.shape[1])
    grouped = q.reshape((*group, tokens, width))
    scores = contract(grouped, "bhgsd", k, "bhtd", "bhgst")
    factor = width**-0.5 if scale is None else scale
    steps = [scores * factor if factor != 1.0 else scores]
    seen = [*group, tokens, k.shape[2]]
    if softcap:
        steps.append((steps[-1] / softcap).map("tanh") * softcap)
    capped = steps[-1]
    if mask is not None:
        steps.append(masked(steps[-1], mask, (batch, count, tokens, k.shape[2])))
    if is_causal:
        steps.append(causal_scores(steps[-1], past))
    safe = mask is not None
    weights = steps[-1].rows(formulas.safe_softmax if safe else formulas.softmax, [-1])
    kept = [steps[0], capped, steps[-1], weights][_mode(qk_matmul_output_mode)]
    result = contract(weights, "bhgst", v, "bhtd", "bhgsd").reshape((*q.shape[:3], v.shape[3]))
    if flat:
        result = result.transpose([0, 2, 1, 3]).reshape((batch, tokens, count * v.shape[3]))
    shown = kept.reshape((batch, count, *seen[3:]))
    return [result, k, v, shown][:outputs]


def _mode(mode: int) -> int:
    """Which scores are shown: as multiplied, capped, masked, or as weights."""
    if mode not in range(4):
        raise ModelError(f"qk_matmul_output_mode must be 0 to 3, not {mode}")
    return mode


def masked(scores: Tensor, mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Scores with a mask added; one of truth values adds 0 where it is true, else -inf."""
    short = shape[-1] - mask.shape[-1] if mask.rank else 0
    if short > 0 and mask.shape[-1] != 1:
        mask = mask.pad(-1, 0, short, False if mask.dtype == "bool" else -INFINITY)
    whole = mask.reshape((*[1] * (4 - mask.rank), *mask.shape))
    batch, count, rows, columns = whole.shape
    groups = scores.shape[1:3] if count != 1 else (1, 1)
    apart = whole.reshape((batch, *groups, rows, columns))
    if mask.dtype == "bool":
        apart = apart.where(full((), 0.0, scores.dtype), -INFINITY)
    return scores + apart


def causal_scores(scores: Tensor, past: int) -> Tensor:
    """Scores of keys after the query become -inf; queries come after `past` keys."""
    rows, columns = tensor.position(scores.shape[-2]), tensor.position(scores.shape[-1])
    row = rows.reshape((scores.shape[-2], 1))
    return (row + past if past else row).map("greater_equal", columns).where(scores, -INFINITY)


def rotated(x: Node, cosines: Node, sines: Node, over: Sequence[Axis]) -> Node:
    """Pairs turned, the halves of which are along the one axis `over`."""
    (halves,) = over
    return formulas.rotate(x, cosines, sines, halves)


@operator("RotaryEmbedding", since=23)
def rotary_node(
    x: Tensor,
    cosines: Tensor,
    sines: Tensor,
    ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Pairs are (x[i], x[i + half]), or neighbours if interleaved; a part may stay as it is."""
    wide = heads(x, num_heads)
    width = rotary_embedding_dim or wide.shape[3]
    turned, rest = wide.slice(3, 0, width), wide.slice(3, width, None)
    cos, sin = (t if ids is None else t.gather(ids, 0) for t in (cosines, sines))
    cos, sin = (t.slice(-1, 0, width // 2).unsqueeze([1]) for t in (cos, sin))
    pairs = (width // 2, 2) if interleaved else (2, width // 2)
    place = 4 if interleaved else 3
    apart = turned.reshape((*turned.shape[:3], *pairs))
    cos, sin = cos.unsqueeze([place]), sin.unsqueeze([place])
    joined = apart.rows(rotated, [place], cos, sin).reshape(turned.shape)
    result = concat([joined, rest], 3) if rest.shape[3] else joined
    return result if x.rank == 4 else result.transpose([0, 2, 1, 3]).reshape(x.shape)


@hookimpl
def infinisa_operators() -> Sequence[Operator]:
    return [attention_node, rotary_node]
