"""Text to pieces, as the regular expressions of byte-level BPE cut it.

The expressions are not run: their alternatives begin with disjoint classes of characters, so that a
look at the class (letter, number, space, newline, other) chooses.
"""

from __future__ import annotations

from .arrays import I32
from .characters import (
    BLANK,
    CASELESS,
    LETTER,
    LOWER,
    MARK,
    NEWLINE,
    NUMBER,
    SPACE,
    SYMBOL,
    UPPER,
    Text,
    character,
    run_end,
)

WHOLE, GPT2, LLAMA3, O200K = range(4)  # the rules for pieces: none, and families of expressions
RULES, DIGITS, TAIL, LONGEST, CUTS = range(5)
"""Settings: rules; digits in a piece (0: any); whether spaces that end the text are one piece;
bytes of the longest token; whether long pieces may be cut where no token crosses."""

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
TIKTOKEN_CL100K_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
TIKTOKEN_GPT2_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
)
O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {  # pattern → settings: rules, digits, tail
    GPT2_PATTERN: (GPT2, 0, 0),
    LLAMA3_PATTERN: (LLAMA3, 3, 0),
    CL100K_PATTERN: (LLAMA3, 3, 0),
    LLAMA3_PATTERN.replace("{1,3}", ""): (LLAMA3, 1, 0),  # Qwen
    O200K_PATTERN: (O200K, 3, 0),
}
RANK_PATTERNS = PATTERNS | {  # $ is the end of the text for tiktoken, of a line for `tokenizers`
    TIKTOKEN_GPT2_PATTERN: (GPT2, 0, 0),
    TIKTOKEN_CL100K_PATTERN: (LLAMA3, 3, 1),
}

# ---------------------------------------------------------------- kernels


def contraction(text: Text, at: int, length: int, fold: int) -> int:
    """Bytes of 's 't 'm 'd 'll 've 're at `at`; 0 for none.

    `fold` is 32 where case is ignored, else 0.
    """
    if at + 1 >= length or text.bytes[at] != 0x27:
        return 0
    one = text.bytes[at + 1] | fold if text.bytes[at + 1] < 0x80 else text.bytes[at + 1]
    if one == 0x73 or one == 0x74 or one == 0x6D or one == 0x64:
        return 2
    if at + 2 >= length:
        return 0
    two = text.bytes[at + 2] | fold if text.bytes[at + 2] < 0x80 else text.bytes[at + 2]
    if fold != 0 and one == 0xC5 and two == 0xBF:  # the long s, which folds to s
        return 3
    if one == 0x6C and two == 0x6C:
        return 3
    if (one == 0x76 or one == 0x72) and two == 0x65:
        return 3
    return 0


def spaces_end(text: Text, at: int, length: int, newlines: bool, tail: int) -> int:
    """Where spaces end: all but the one before a word, by `\\s+(?!\\S)|\\s+`.

    With `newlines`, after the last newline where there is one, by `\\s*[\\r\\n]+`; but at the end
    of the text with `tail`, by `\\s++$`.
    """
    stop = at
    last = at
    after_newline = at
    while stop < length:
        found = character(text, stop, length)
        if (found >> 3) & BLANK == 0:
            break
        last = stop
        stop += found & 7
        if found >> 3 == NEWLINE:
            after_newline = stop
    if stop == length and tail != 0:
        return stop
    if newlines and after_newline > at:
        return after_newline
    if stop == length or last == at:
        return stop
    return last


def gpt2_end(text: Text, at: int, length: int) -> int:
    """Where the piece at `at` ends by GPT-2's expression."""
    size = contraction(text, at, length, 0)
    if size > 0:
        return at + size
    start = at
    if text.bytes[at] == 0x20 and at + 1 < length:
        start = at + 1
    found = character(text, start, length)
    kind = found >> 3
    if kind & BLANK != 0:
        return spaces_end(text, at, length, False, 0)
    wanted = LETTER if kind & LETTER != 0 else SYMBOL if kind & SYMBOL != 0 else NUMBER
    return run_end(wanted, text, start + (found & 7), length)


def kind_at(text: Text, at: int, length: int) -> int:
    """The class of the character at `at`; behind the end of the text it is a space."""
    return character(text, at, length) >> 3 if at < length else SPACE


def llama3_end(text: Text, at: int, length: int, settings: I32) -> int:
    """Where the piece at `at` ends by the expression of Llama 3 and its relatives."""
    found = character(text, at, length)
    kind = found >> 3
    after = at + (found & 7)
    if kind & LETTER != 0:
        return run_end(LETTER, text, after, length)
    if kind == NUMBER:
        return digits_end(text, at, length, settings[DIGITS])
    size = contraction(text, at, length, 32)
    if size > 0:
        return at + size
    following = kind_at(text, after, length)
    if following & LETTER != 0 and kind != NEWLINE:
        return run_end(LETTER, text, after, length)
    if is_symbols(text, at, kind, following):
        return symbols_end(text, after, length, 0x0A)
    return spaces_end(text, at, length, True, settings[TAIL])


def is_symbols(text: Text, at: int, kind: int, following: int) -> bool:
    """Whether symbols begin at `at`, perhaps behind one space."""
    return kind & SYMBOL != 0 or (text.bytes[at] == 0x20 and following & SYMBOL != 0)


def symbols_end(text: Text, at: int, length: int, also: int) -> int:
    """Where symbols end, with the newlines behind them, and bytes `also`."""
    at = run_end(SYMBOL, text, at, length)
    while at < length and (
        text.bytes[at] == 0x0A or text.bytes[at] == 0x0D or text.bytes[at] == also
    ):
        at += 1
    return at


def digits_end(text: Text, at: int, length: int, digits: int) -> int:
    """The end of at most `digits` numbers."""
    for _ in range(digits):
        if at < length:
            found = character(text, at, length)
            if found >> 3 != NUMBER:
                break
            at += found & 7
    return at


def o200k_end(text: Text, at: int, length: int, settings: I32) -> int:
    """Where the piece at `at` ends by the expression of GPT-4o.

    A mark that begins a piece reads as its letter, not as what stands before its letters: both
    readings end at the same place.
    """
    found = character(text, at, length)
    kind = found >> 3
    after = at + (found & 7)
    if kind == NUMBER:
        return digits_end(text, at, length, settings[DIGITS])
    start = at if kind & (LETTER | MARK) != 0 else after
    if kind != NEWLINE:
        stop = cased_end(text, start, length)
        if stop > start:
            return stop + contraction(text, stop, length, 32)
    following = kind_at(text, after, length)
    if is_symbols(text, at, kind, following):
        return symbols_end(text, after, length, 0x2F)
    return spaces_end(text, at, length, True, settings[TAIL])


def cased_end(text: Text, at: int, length: int) -> int:
    """Where a word of upper, then lower case ends; `at` if there is none.

    What has no case is both. Where no lower case follows, the word ends behind the last of that.
    """
    stop = at
    caseless = at
    while stop < length:
        found = character(text, stop, length)
        kind = found >> 3
        if kind & (UPPER | CASELESS | MARK) == 0:
            if kind == LOWER:
                return run_end(LOWER | CASELESS | MARK, text, stop, length)
            break
        stop += found & 7
        if kind != UPPER:
            caseless = stop
    return caseless if caseless > at else stop


def piece_end(text: Text, at: int, length: int, settings: I32) -> int:
    """Where the piece at `at` ends."""
    if settings[RULES] == GPT2:
        return gpt2_end(text, at, length)
    if settings[RULES] == LLAMA3:
        return llama3_end(text, at, length, settings)
    if settings[RULES] == O200K:
        return o200k_end(text, at, length, settings)
    return length
