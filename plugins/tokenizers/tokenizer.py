"""A tokenizer: flat tables, two kernels, and the ordinary Python around them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from infinisa.isa.errors import ModelError

from .arrays import Kernel, Table
from .characters import members
from .native import SHORT, Encoder, convert

Normalise = Callable[[str], str]
TOO_SMALL, UNKNOWN = -1, -2


@dataclass(frozen=True)
class AddedToken:
    """A token that is recognised in the text before anything else happens to it.

    `single_word`: not inside a word. `lstrip`, `rstrip`: it takes the spaces beside it.
    `normalized`: it is looked for in the normalised text. `special`: it is left out when ids become
    text again.
    """

    content: str
    token: int
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class Frame:
    """What happens around the kernels.

    `before` and `after` are the template's ids; `compose` is NFC; `leading_space` puts a space
    before each part between added tokens.
    """

    added: tuple[AddedToken, ...] = ()
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    compose: bool = False
    leading_space: bool = False

    @cached_property
    def bare(self) -> bool:
        """Whether every text is plain."""
        return not (self.added or self.compose or self.leading_space)

    def is_plain(self, text: str) -> bool:
        """Whether the kernel shall encode all of a text as it stands."""
        if self.leading_space or (self.compose and not unicodedata.is_normalized("NFC", text)):
            return False
        return self.any_added is None or self.any_added.search(text) is None

    def normalise(self, text: str) -> str:
        return unicodedata.normalize("NFC", text) if self.compose else text

    def parts(self, text: str) -> list[int | str]:
        """The ids of added tokens, and between them the text that the kernel shall encode."""
        found: list[int | str] = []
        for part in split(text, self.raw):
            if isinstance(part, int):
                found.append(part)
            else:
                found += split(self.normalise(part), self.normalised)
        return [self.lead(part) if isinstance(part, str) else part for part in found]

    def lead(self, part: str) -> str:
        return " " + part if self.leading_space and not part.startswith(" ") else part

    @cached_property
    def raw(self) -> dict[str, AddedToken]:
        return {added.content: added for added in self.added if not added.normalized}

    @cached_property
    def normalised(self) -> dict[str, AddedToken]:
        return {self.normalise(added.content): added for added in self.added if added.normalized}

    @cached_property
    def any_added(self) -> re.Pattern[str] | None:
        """Any added token, however it is looked for."""
        return any_of((*self.raw, *self.normalised)) if self.added else None

    @cached_property
    def special(self) -> frozenset[int]:
        return frozenset(added.token for added in self.added if added.special)


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back; several threads may ask at once.

    `kind` is "byte_bpe", "wordpiece", "character" or "word". Ids are below `vocabulary_size`; some
    may be unused. A kernel's parameters after the third are keys of `tables`.

    `encode(text, length, ids, tables...)` returns how many ids it wrote, -1 if `ids` is too small,
    -2 for a character without an id where there is no unknown token either. The free rest of `ids`
    is its working space: `room(length)` places are always enough. The table `memo`, where a kernel
    has one, stands for none; here it gets one that remembers.

    `decode(ids, count, text, tables...)` returns how many bytes it wrote, -1 if `text` is too
    small, -2 for an id outside the vocabulary.
    """

    kind: str
    vocabulary_size: int
    tables: Mapping[str, Table]
    encode: Kernel
    decode: Kernel
    frame: Frame = field(default_factory=Frame)
    idle: list[Encoder] = field(default_factory=list, init=False, repr=False, compare=False)
    """Encoders that no thread uses just now."""

    @staticmethod
    def room(length: int) -> int:
        """How many places of `ids` are enough to encode any text of `length` bytes."""
        return 3 * length + 1

    def ids(self, text: str, special: bool = True) -> list[int]:
        """The ids of a text; with `special`, inside the template's tokens ([CLS] ... [SEP])."""
        frame = self.frame
        if frame.bare or frame.is_plain(text):
            ids = self.part_ids(text)
        else:
            ids = []
            for part in frame.parts(text):
                ids += [part] if isinstance(part, int) else self.part_ids(part)
        if special and (frame.before or frame.after):
            return [*frame.before, *ids, *frame.after]
        return ids

    def part_ids(self, text: str) -> list[int]:
        """The ids of a text in which no added tokens are looked for."""
        try:
            if len(text) > SHORT:  # without a sign, ids below 0 are outside of the numbers
                ids = self.array(text.encode()).view(np.uint32)
                long: list[int] = self.numbers.take(ids).tolist()
                return long
            encoder = self.idle_encoder()
            found = encoder.listed(text)
        except UnicodeEncodeError as error:
            raise ModelError(
                f"text: every character must have a UTF-8 form, "
                f"not {text[error.start]!r} at {error.start}"
            ) from None
        self.idle.append(encoder)
        if isinstance(found, int):
            raise self.error(text.encode(), found)
        return found

    def array(self, data: bytes) -> Table:
        """The ids of UTF-8 text in which no added tokens are looked for, as an array of 32-bit
        integers; the text may be ill-formed."""
        encoder = self.idle_encoder()
        count = encoder.encode(data)
        if count < 0:
            raise self.error(data, count)
        ids: Table = encoder.ids[:count].copy()
        self.idle.append(encoder)
        return ids

    @cached_property
    def numbers(self) -> Table:
        """Every id as Python has it: a long list of these is sooner made than one of new ones."""
        return np.arange(self.vocabulary_size).astype(object)

    def idle_encoder(self) -> Encoder:
        """An encoder that no other thread uses."""
        try:
            return self.idle.pop()
        except IndexError:
            return Encoder(self.encode, self.tables, self.room)

    def error(self, data: bytes, count: int) -> ModelError:
        """What a negative number from a kernel means."""
        if count == UNKNOWN:
            text = data.decode("utf-8", "replace")
            return ModelError(
                f"{self.kind} tokenizer: every character must be in the vocabulary, "
                f"which has no unknown token; not all of {text[:40]!r} are"
            )
        return ModelError(f"{self.kind} tokenizer: its kernel must return a number of ids")

    def forget(self) -> None:
        """Begin again with empty memos: for measuring what a first text costs."""
        for encoder in self.idle:
            encoder.forget()

    def text(self, ids: Iterable[int], special: bool = False) -> str:
        """The text of ids, special tokens only if `special`; ill-formed UTF-8 becomes U+FFFD."""
        kept = [token for token in ids if special or token not in self.frame.special]
        for token in kept:
            if not 0 <= token < self.vocabulary_size:
                raise ModelError(
                    f"{self.kind} tokenizer: ids must be from 0 to {self.vocabulary_size - 1}, "
                    f"not {token}"
                )
        starts = self.tables["starts"]
        data = np.zeros(sum(int(starts[2 * t + 2] - starts[2 * t]) for t in kept), np.uint8)
        source = np.array(kept, np.int32)
        count = convert(self.decode, source, data, self.tables)
        return data[:count].tobytes().decode("utf-8", "replace")


def split(text: str, tokens: Mapping[str, AddedToken]) -> Iterator[int | str]:
    """The text cut at added tokens: leftmost first, then longest. Empty parts are left out."""
    at = 0
    for match in matches(text, tokens):
        token = tokens[match.group()]
        start, stop = match.span()
        if token.single_word and inside_word(text, start, stop):
            continue
        if token.lstrip:
            start = max(at, spaces_before(text, start))
        if token.rstrip:
            stop = spaces_after(text, stop)
        if start >= stop:  # the token before has taken it as its space
            continue
        if at < start:
            yield text[at:start]
        yield token.token
        at = stop
    if at < len(text):
        yield text[at:]


def matches(text: str, tokens: Mapping[str, AddedToken]) -> Iterable[re.Match[str]]:
    return any_of(tuple(tokens)).finditer(text) if tokens else ()


@lru_cache(maxsize=32)
def any_of(contents: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the strings, the longest where several begin."""
    return re.compile("|".join(map(re.escape, sorted(contents, key=len, reverse=True))))


def inside_word(text: str, start: int, stop: int) -> bool:
    """Whether text[start:stop] touches a word's character."""
    word = members("word")
    return bool(
        (start > 0 and word[ord(text[start - 1])]) or (stop < len(text) and word[ord(text[stop])])
    )


def spaces_before(text: str, start: int) -> int:
    """Where the white space that ends at `start` begins."""
    while start > 0 and members("white_space")[ord(text[start - 1])]:
        start -= 1
    return start


def spaces_after(text: str, stop: int) -> int:
    """Where the white space that begins at `stop` ends."""
    while stop < len(text) and members("white_space")[ord(text[stop])]:
        stop += 1
    return stop
