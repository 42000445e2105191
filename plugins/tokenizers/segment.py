"""Chinese text cut into words, as jieba does it by default.

    text ──blocks──► best_path: the most probable words of a dictionary
                       └─ runs of single characters ──► hidden_words: a hidden Markov model

A word has a number if it is in the dictionary or one character, so that text need not be cut again:
first those of the dictionary, what is frequent first; then other characters up to U+FFFF; then what
is no word, but begins one. The dictionary and the model are the user's files. Ties are decided as
jieba decides them: between paths for the longest word, between states for the last in the alphabet.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infinisa.isa.errors import ModelError
from infinisa.runtime.jit.bits import apart, static

from .arrays import F64, I32, I64, U8, Table, frozen
from .lookup import LIMIT, find, home, number_table
from .native import Bound
from .tables import read_text

BEGIN, END, MIDDLE, SINGLE = range(4)
STATES = "BEMS"
BEFORE, OR_BEFORE = (END, BEGIN, BEGIN, END), (SINGLE, MIDDLE, MIDDLE, SINGLE)
"""The two states that may come before each."""

FIRST_IDEOGRAPH, LAST_IDEOGRAPH = 0x4E00, 0x9FD5
SINGLES = 0x10000
"""Characters that have a number."""

NEVER = -3.14e100
"""The logarithm of the probability of what the model has never seen."""

HIDDEN = 0
"""The setting: whether the hidden Markov model is used."""


class Tables(NamedTuple):
    """The setting, the dictionary, the model, and working space: see `segment`."""

    settings: I32
    firsts: I32
    edges: I64
    weights: F64
    model: F64
    ends: I32
    numbers: I32
    score: F64
    back: U8


# ---------------------------------------------------------------- kernels


def is_alphanumeric(point: int) -> bool:
    return is_digit(point) or 0x41 <= point <= 0x5A or 0x61 <= point <= 0x7A


def is_digit(point: int) -> bool:
    return 0x30 <= point <= 0x39


def is_ideograph(point: int) -> bool:
    return FIRST_IDEOGRAPH <= point <= LAST_IDEOGRAPH


def is_in_block(point: int) -> bool:
    """Whether a character may be part of a word of several: ideographs, letters, +#&._%-"""
    return (
        is_ideograph(point)
        or is_alphanumeric(point)
        or point == 0x2B
        or point == 0x23
        or point == 0x26
        or point == 0x2E
        or point == 0x5F
        or point == 0x25
        or point == 0x2D
    )


def number_of(point: int, firsts: I32) -> int:
    """The number of a character, or -1."""
    return firsts[point] if point < len(firsts) else -1


def best_path(text: I32, start: int, stop: int, tables: Tables) -> None:
    """Where the word at each place of text[start:stop] ends on the most probable path, and its
    number.

    `weights` are of the words of the dictionary, then of a character that is none.
    """
    weights = tables.weights
    score = tables.score
    ends = tables.ends
    numbers = tables.numbers
    last = len(weights) - 1
    look_ahead(text, start, stop, tables.firsts, tables.edges, numbers, ends)
    score[stop] = 0.0
    for back in range(stop - start):
        k = stop - 1 - back
        node = tables.firsts[text[k]]
        best = weights[min(node, last)] + score[k + 1]
        known = node < last
        end = k + 1
        number = node
        at = end
        while at < stop:
            at += 1
            if at == k + 2:
                node = numbers[k]
            elif at == k + 3:
                node = ends[k]
            else:
                node = child(node, text[at - 1], tables.edges)
            if node < 0:
                break
            if node < last:
                found = weights[node] + score[at]
                if found >= best or not known:
                    best = found
                    known = True
                    end = at
                    number = node
        score[k] = best
        ends[k] = end
        numbers[k] = number


def look_ahead(
    text: I32, start: int, stop: int, firsts: I32, edges: I64, twos: I32, threes: I32
) -> None:
    """What two and three characters from each place on are: reads that wait for nothing."""
    for k in range(start, stop - 1):
        twos[k] = child(firsts[text[k]], text[k + 1], edges)
    for k in range(start, stop - 2):
        threes[k] = child(twos[k], text[k + 2], edges)


def child(node: int, point: int, edges: I64) -> int:
    """What a beginning, or -1, and one more character are, or -1: one look if that is enough."""
    key = node << 16 | point if node >= 0 else 0
    slot = edges[home(key) & (len(edges) - 1)]
    if slot >= 0 and slot >> 22 != key:
        return find(key, edges)
    return slot & 0x3FFFFF if slot >= 0 else -1


@apart
def hidden_words(text: I32, start: int, stop: int, words: I32, count: int, tables: Tables) -> int:
    """The words of ideographs by the most probable states (Viterbi); how many words there are then.

    `model` is 4 logarithms of probabilities to start, 16 of transitions, 4 for every ideograph.
    """
    model = tables.model
    score = tables.score
    back = tables.back
    row = 20 + (text[start] - FIRST_IDEOGRAPH) * 4
    here = start * 4
    for state in static(range(4)):
        score[here + state] = model[state] + model[row + state]
    for k in range(start + 1, stop):
        here = k * 4
        row = 20 + (text[k] - FIRST_IDEOGRAPH) * 4
        for state in static(range(4)):
            one = score[here - 4 + BEFORE[state]] + model[4 + BEFORE[state] * 4 + state]
            other = score[here - 4 + OR_BEFORE[state]] + model[4 + OR_BEFORE[state] * 4 + state]
            one = one + model[row + state]
            other = other + model[row + state]
            score[here + state] = other if other >= one else one
            back[here + state] = OR_BEFORE[state] if other >= one else BEFORE[state]
    now = SINGLE if score[here + SINGLE] >= score[here + END] else END
    for turn in range(stop - start):
        k = stop - 1 - turn
        before = back[k * 4 + now]
        back[k * 4] = now
        now = before
    for k in range(start, stop):
        if back[k * 4] == SINGLE:
            count = put_word(words, count, k + 1, tables.firsts[text[k]])
        if back[k * 4] == END:
            count = put_word(words, count, k + 1, -1)
    return count


def put_word(words: I32, count: int, end: int, number: int) -> int:
    """Write one more word: where it ends, and its number or -1."""
    words[2 * count] = end
    words[2 * count + 1] = number
    return count + 1


def other_words(text: I32, start: int, stop: int, words: I32, count: int) -> int:
    """Letters and numbers with a fraction or a %, and what stands between."""
    at = start
    open_ = start
    while at < stop:
        if not is_alphanumeric(text[at]):
            at += 1
            continue
        if at > open_:
            count = put_word(words, count, at, -1)
        while at < stop and is_alphanumeric(text[at]):
            at += 1
        if at + 1 < stop and text[at] == 0x2E and is_digit(text[at + 1]):
            at += 1
            while at < stop and is_digit(text[at]):
                at += 1
        if at < stop and text[at] == 0x25:
            at += 1
        count = put_word(words, count, at, -1)
        open_ = at
    if open_ < stop:
        count = put_word(words, count, stop, -1)
    return count


def is_known(text: I32, start: int, stop: int, firsts: I32, edges: I64, known: int) -> bool:
    """Whether text[start:stop] is one of the first `known` words."""
    node = firsts[text[start]]
    for k in range(start + 1, stop):
        node = find(node << 16 | text[k], edges)
        if node < 0:
            return False
    return node < known


@apart
def left_alone(text: I32, start: int, stop: int, words: I32, count: int, tables: Tables) -> int:
    """The words of characters that the path leaves alone: themselves if there is one, or if they
    are an entry; else by the model. Without the model these are letters, in one."""
    if tables.settings[HIDDEN] == 0:
        return put_word(words, count, stop, -1)
    entries = len(tables.weights) - 1
    if stop - start == 1 or is_known(text, start, stop, tables.firsts, tables.edges, entries):
        for k in range(start, stop):
            count = put_word(words, count, k + 1, tables.numbers[k])
        return count
    at = start
    while at < stop:
        first = at
        while at < stop and is_ideograph(text[at]):
            at += 1
        if at > first:
            count = hidden_words(text, first, at, words, count, tables)
        first = at
        while at < stop and not is_ideograph(text[at]):
            at += 1
        count = other_words(text, first, at, words, count)
    return count


def segment(
    text: I32,
    length: int,
    words: I32,
    settings: I32,
    firsts: I32,
    edges: I64,
    weights: F64,
    model: F64,
    ends: I32,
    numbers: I32,
    score: F64,
    back: U8,
) -> int:
    """The words of a text of code points; how many.

    Each is two places of `words`: where it ends, and its number or -1. The last
    four arrays are working space: for a text of n characters n, n, 4 * n + 1 and 4 * n places.
    """
    tables = Tables(settings, firsts, edges, weights, model, ends, numbers, score, back)
    count = 0
    at = 0
    while at < length:
        stop = at
        while stop < length and is_in_block(text[stop]):
            stop += 1
        if stop == at:
            pair = text[at] == 0x0D and at + 1 < length and text[at + 1] == 0x0A
            at += 2 if pair else 1
            single = -1 if pair else number_of(text[at - 1], firsts)
            count = put_word(words, count, at, single)
            continue
        best_path(text, at, stop, tables)
        alone = at  # characters alone wait for their like
        while alone < stop:
            whole = at < stop and (
                ends[at] - at > 1 or not (settings[HIDDEN] != 0 or is_alphanumeric(text[at]))
            )
            if alone < at and (whole or at == stop):
                count = left_alone(text, alone, at, words, count, tables)
                alone = at
            if whole:
                count = put_word(words, count, ends[at], numbers[at])
                alone = ends[at]
            if at < stop:
                at = ends[at]
    return count


# ---------------------------------------------------------------- words


class Workspace:
    """The kernel with memory of its own, for one thread at a time."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.most = 0
        none = np.zeros(0, np.int32)
        self.bound = Bound(segment, [none, *tables.values(), none, none, none, none])

    def words(self, points: Table) -> Table:
        """Pairs of an end and a number; valid until the next call."""
        if len(points) > self.most:
            self.grow(2 * len(points))
        count = self.bound.run(points)
        pairs: Table = self.bound.arrays[0][: 2 * count].reshape(-1, 2)
        return pairs

    def grow(self, most: int) -> None:
        self.most = most
        last = len(self.bound.arrays)
        self.bound.replace(0, np.empty(2 * most, np.int32))
        self.bound.replace(last - 4, np.empty(most, np.int32))
        self.bound.replace(last - 3, np.empty(most, np.int32))
        self.bound.replace(last - 2, np.empty(4 * most + 1, np.float64))
        self.bound.replace(last - 1, np.zeros(4 * most, np.uint8))


class Segmenter:
    """Text to words: those of a dictionary, and with a model those that it makes of characters."""

    def __init__(self, entries: Sequence[str], tables: Mapping[str, Table]) -> None:
        whole, ends = "".join(entries), np.cumsum([len(entry) for entry in entries]).tolist()
        self.entries = np.empty(len(entries), object)
        self.entries[:] = [whole[a:b] for a, b in pairwise([0, *ends])]  # new ones, side by side
        self.tables = tables
        self.idle: list[Workspace] = []

    def words(self, text: str) -> list[str]:
        """The words of a text, which together are the text."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.int32)
        try:
            workspace = self.idle.pop()
        except IndexError:
            workspace = Workspace(self.tables)
        pairs = workspace.words(points)
        ends, numbers = pairs[:, 0], pairs[:, 1]
        found: list[str] = self.entries[numbers].tolist()
        others = np.flatnonzero(numbers < 0)
        starts = np.where(others > 0, ends[others - 1], 0)
        for k, a, b in zip(others.tolist(), starts.tolist(), ends[others].tolist(), strict=True):
            found[k] = text[a:b]
        self.idle.append(workspace)
        return found


# ---------------------------------------------------------------- reading


def load_segmenter(dictionary: Path, model: Path | None = None) -> Segmenter:
    """Read a dictionary as jieba has it: a word, how often it occurs and perhaps more a line.

    model  a folder with the `prob_start.py`, `prob_trans.py` and `prob_emit.py` of jieba's
           `finalseg`: a hidden Markov model of words that no dictionary has; None: it is not used
    """
    frequencies, occurrences = read_dictionary(Path(dictionary))
    total = math.log(occurrences)
    words = [word for word, often in frequencies.items() if often > 0 and is_reached(word)]
    words.sort(key=lambda word: -frequencies[word])  # what is often read lies together
    known = set(words)
    entries = [*words, *(chr(point) for point in range(SINGLES) if chr(point) not in known)]
    nodes = {entry: number for number, entry in enumerate(entries)}
    for word in words:
        for k in range(2, len(word)):
            nodes.setdefault(word[:k], len(nodes))
    if len(nodes) >= LIMIT:
        raise ModelError(
            f"{dictionary}: words must have fewer than {LIMIT} beginnings, not {len(nodes)}"
        )
    longer = [(start, node) for start, node in nodes.items() if len(start) > 1]
    edges = {nodes[start[:-1]] << 16 | ord(start[-1]): node for start, node in longer}
    weights = [math.log(frequencies[word]) - total for word in words]
    tables = {
        "settings": frozen([model is not None], np.int32),
        "firsts": frozen([nodes[chr(point)] for point in range(SINGLES)], np.int32),
        "edges": number_table(edges.keys(), edges.values()),
        "weights": frozen([*weights, 0.0 - total], np.float64),
        "model": read_model(Path(model)) if model is not None else frozen([], np.float64),
    }
    return Segmenter(entries, tables)


def is_reached(word: str) -> bool:
    """Whether a word may be found: all of it is in one block."""
    return all(is_in_block(ord(character)) for character in word)


def read_dictionary(path: Path) -> tuple[dict[str, int], int]:
    """Words and how often they occur, the last line of a word; how often all lines together do."""
    frequencies: dict[str, int] = {}
    total = 0
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        word, _, rest = line.strip().partition(" ")
        often = rest.partition(" ")[0]
        if not word or not often.isdecimal():
            raise ModelError(
                f"{path}: line {number} must be a word and how often it occurs, not {line!r}"
            )
        frequencies[word] = int(often)
        total += int(often)
    if total == 0:
        raise ModelError(f"{path}: the file must hold a word that occurs, not none")
    return frequencies, total


def read_model(folder: Path) -> Table:
    """Logarithms of probabilities: to start, of transitions, and of every ideograph."""
    start, change, emit = (
        read_literal(folder / f"prob_{n}.py") for n in ("start", "trans", "emit")
    )
    emission = np.full((LAST_IDEOGRAPH - FIRST_IDEOGRAPH + 1, 4), NEVER)
    for state, row in emit.items():
        for character, value in row.items():
            if is_ideograph(ord(character)):
                emission[ord(character) - FIRST_IDEOGRAPH, STATES.index(state)] = value
    first = [start[state] for state in STATES]
    changes = [change[a].get(b, NEVER) for a in STATES for b in STATES]
    return frozen([*first, *changes, *emission.reshape(-1)], np.float64)


def read_literal(path: Path) -> dict[str, Any]:
    """The dictionary that a file of Python assigns to P; nothing is run."""
    try:
        for node in ast.parse(read_text(path)).body:
            match node:
                case ast.Assign([ast.Name("P")], value):
                    found = ast.literal_eval(value)
                    if isinstance(found, dict) and set(STATES).issuperset(found):
                        return found
    except (SyntaxError, ValueError):
        pass
    raise ModelError(
        f"{path}: the file must assign P a dictionary by the states {', '.join(STATES)}"
    )
