"""Text to ids on one thread: ours, tiktoken, rs-bpe, `tokenizers`; text to words: ours and jieba.

rs-bpe brings the vocabularies of cl100k and o200k with it. That of GPT-2's rules and WordPiece's
are trained here once, by `tokenizers`, and kept in the system's folder for temporary files.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from tempfile import gettempdir
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import numpy as np
import tiktoken
from rs_bpe import bpe as rs_bpe
from tokenizers import BertWordPieceTokenizer, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from infinisa import api
from infinisa.plugins.models import read_model_folder
from infinisa.plugins.tokenizers import Tokenizer, byte_bpe, load_tokenizer, pieces
from infinisa.plugins.tokenizers.segment import load_segmenter
from infinisa.runtime import host
from infinisa.runtime.jit import compile_program

from . import _onnx, _texts
from ._contest import OURS, Array, Call, Contest, difference
from .overview import MINILM

TIKTOKEN, RS_BPE, LIBRARY, JIEBA = "tiktoken", "rs-bpe", "tokenizers", "jieba"
BPE_TOKENS, WORDPIECE_TOKENS = 50_000, 30_000
SHORT = "Twenty bytes of text"
SHORTEST = 1.5e-6
"""Seconds that a call on them may take."""

RULES = {
    "GPT-2": pieces.TIKTOKEN_GPT2_PATTERN,
    "cl100k": pieces.TIKTOKEN_CL100K_PATTERN,
    "o200k": pieces.O200K_PATTERN,
}


def contests(quick: bool) -> Iterator[Callable[[], Contest]]:
    for rules in RULES:
        yield partial(encoding, rules, "mixed", 2.5)
        yield partial(encoding, rules, "mixed", 1.5, cold=True)
        yield partial(array, rules, "mixed")
        for kind in () if quick else _texts.KINDS:
            yield partial(encoding, rules, kind, 1.0)
        yield partial(encoding, rules, "one character", None)
        yield partial(call, rules)
    yield partial(wordpiece, "mixed", 40.0, array=True)
    yield partial(wordpiece, "mixed", None)
    if _texts.jieba_folder() is not None:
        yield partial(words, 25.0)
    found = importlib.util.find_spec(MINILM)
    if found and found.origin:
        yield partial(embedding, Path(found.origin).parent / "model")


# ---------------------------------------------------------------- byte-level BPE


@dataclass(frozen=True)
class Entrants:
    """One vocabulary as each has it, from a text to ids."""

    ours: Tokenizer
    tiktoken: tiktoken.Encoding
    rs_bpe: Callable[[str], list[int]] | None = None

    def peers(self, text: str) -> dict[str, Call]:
        calls: dict[str, Call] = {TIKTOKEN: lambda: self.tiktoken.encode_ordinary(text)}
        if self.rs_bpe is not None:
            encode = self.rs_bpe
            calls[RS_BPE] = lambda: encode(text)
        return {name: call for name, call in calls.items() if is_able(call)}


def is_able(call: Call) -> bool:
    """Whether a peer can do its work: tiktoken runs out of stack where one piece is very long."""
    try:
        call()
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3's, which is no Exception
            raise
        return False
    return True


@cache
def entrants(rules: str) -> Entrants:
    match rules:
        case "GPT-2":
            ranks, theirs = trained_ranks(), None
        case "cl100k":
            theirs = rs_bpe.openai.cl100k_base()
            ranks = ranks_of(theirs, 100_256)
        case _:
            theirs = rs_bpe.openai.o200k_base()
            ranks = ranks_of(theirs, 199_998)
    pattern = RULES[rules]
    return Entrants(
        byte_bpe.from_ranks(ranks, pattern, {}),
        tiktoken.Encoding(rules, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}),
        theirs.encode if theirs else None,
    )


def ranks_of(theirs: Any, count: int) -> dict[bytes, int]:
    """The bytes of every token that rs-bpe knows."""
    decode = theirs.bpe().decode_tokens
    return {bytes(decode([token])): token for token in range(count)}


def encoding(rules: str, kind: str, ratio: float | None, cold: bool = False) -> Contest:
    """A text to a list of ids; `cold`: nothing is remembered of what came before."""
    made = entrants(rules)
    text = text_of(kind)
    ours = made.ours
    for name, call in made.peers(text).items():
        same(f"{rules}, {kind}, {name}", ours.ids(text), call())

    def anew() -> object:
        ours.forget()
        return ours.ids(text)

    calls: dict[str, Call] = {OURS: anew if cold else lambda: ours.ids(text), **made.peers(text)}
    title = f"{rules}, {kind}, {len(text.encode()) / 1e6:.1f} MB{', cold memo' * cold}"
    return Contest("tokenizers", title, calls, ratio=ratio)


def array(rules: str, kind: str) -> Contest:
    """A text to an array of ids; rs-bpe has lists only."""
    made = entrants(rules)
    text = text_of(kind)
    data = text.encode()

    def theirs() -> Array:
        return made.tiktoken.encode_to_numpy(text, disallowed_special=())

    calls: dict[str, Call] = {OURS: lambda: made.ours.array(data), TIKTOKEN: theirs}
    title = f"{rules}, {kind}, {len(data) / 1e6:.1f} MB, to an array"
    return Contest("tokenizers", title, calls)


def call(rules: str) -> Contest:
    """One call on a text of twenty bytes."""
    made = entrants(rules)
    ours = made.ours
    calls: dict[str, Call] = {OURS: lambda: ours.ids(SHORT), **made.peers(SHORT)}
    return Contest("tokenizers", f"{rules}, a call on 20 bytes", calls, most=SHORTEST)


def text_of(kind: str) -> str:
    match kind:
        case "mixed":
            return _texts.mixed()
        case "one character":
            return _texts.one_character()
    return _texts.KINDS[kind]()


def same(what: str, ours: list[int], theirs: object) -> None:
    """Stop if ids differ."""
    assert isinstance(theirs, list)
    if ours != theirs:
        pairs = enumerate(zip_longest(ours, theirs))
        place = next(at for at, (mine, other) in pairs if mine != other)
        raise SystemExit(f"{what}: id {place} must be {theirs[place]}, not {ours[place]}")


# ---------------------------------------------------------------- WordPiece, words, embeddings


def wordpiece(kind: str, ratio: float | None, array: bool = False) -> Contest:
    """A text to a list of ids, as `tokenizers` gives them; of ours with `array`, to an array."""
    path = trained("wordpiece", BertWordPieceTokenizer, WORDPIECE_TOKENS)
    ours, theirs = load_tokenizer(path), Library.from_file(str(path))
    text = text_of(kind)[: 10**6]
    data = text.encode()
    same(f"WordPiece, {kind}", ours.ids(text, special=False),
         theirs.encode(text, add_special_tokens=False).ids)  # fmt: skip
    own: Call = partial(ours.array, data) if array else partial(ours.ids, text, special=False)
    calls: dict[str, Call] = {
        OURS: own,
        LIBRARY: lambda: theirs.encode(text, add_special_tokens=False).ids,
        f"{LIBRARY}, without offsets": lambda: (
            theirs.encode_batch_fast([text], add_special_tokens=False)[0].ids
        ),
    }
    title = f"WordPiece, {kind}, {len(data) / 1e6:.1f} MB{', to an array' * array}"
    return Contest("tokenizers", title, calls, ratio=ratio)


def words(ratio: float) -> Contest:
    import jieba

    jieba.setLogLevel(logging.WARNING)
    folder, text = _texts.jieba_folder(), _texts.chinese()
    assert folder is not None
    ours = load_segmenter(folder / "dict.txt", folder / "finalseg")
    if ours.words(text) != jieba.lcut(text):
        raise SystemExit("Chinese words: not those of jieba")
    calls: dict[str, Call] = {OURS: lambda: ours.words(text), JIEBA: lambda: jieba.lcut(text)}
    title = f"Chinese words, {len(text) / 1e6:.1f} M characters"
    return Contest("tokenizers", title, calls, ratio=ratio)


def embedding(folder: Path) -> Contest:
    """A sentence to its embedding: one program of ours; `tokenizers`, then onnxruntime."""
    sentence = "The quick brown fox jumps over the lazy dog, and nobody minds it at all today."
    data = np.frombuffer(sentence.encode(), np.uint8)
    compiled = api.load(read_model_folder(folder)).compile(host.probe())
    made = compile_program(compiled.program, compiled.library)
    session = made.session({**compiled.weights, "text": data})
    step = session.step({"bytes": len(data)})
    library = Library.from_file(str(folder / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    peer = _onnx.bert(folder)

    def theirs() -> Array:
        ids = np.array(library.encode(sentence).ids, np.int64)
        given = {"ids": ids, "positions": np.arange(len(ids))}
        found: Array = peer.run(["embedding"], given)[0]
        return found

    step()
    (output,) = (name for name in session.tensors if name.endswith("/embedding"))
    error = difference(session.tensors[output], theirs().astype(np.float64))
    calls: dict[str, Call] = {OURS: step, f"{LIBRARY} and onnxruntime": theirs}
    title = f"MiniLM-L6, {len(data)} bytes to their embedding"
    return Contest("tokenizers", title, calls, ratio=1.5, error=error, compiling=made.seconds)


# ---------------------------------------------------------------- vocabularies


def trained_ranks() -> dict[bytes, int]:
    """A vocabulary by GPT-2's rules, as tiktoken takes it."""
    path = trained("gpt2", lambda: Library(models.BPE()), BPE_TOKENS)
    names = Library.from_file(str(path)).get_vocab()
    return {byte_bpe.token_bytes(name): token for name, token in names.items()}


def trained(name: str, make: Callable[[], Library], size: int) -> Path:
    """The tokenizer.json of a vocabulary; trained on the mixed text if it is not there."""
    path = Path(gettempdir()) / "infinisa-benchmarks" / f"{name}-{size}.json"
    if path.is_file():
        return path
    made = make()
    text = _texts.mixed()
    blocks = [text[at : at + 20_000] for at in range(0, len(text), 20_000)]
    if isinstance(made, BertWordPieceTokenizer):
        made.train_from_iterator(blocks, vocab_size=size, show_progress=False)
    else:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        made.train_from_iterator(blocks, trainer)
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    made.save(str(beside))
    beside.replace(path)
    return path
