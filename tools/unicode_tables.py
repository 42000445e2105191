"""Write `plugins/tokenizers/unicode.json`: what the `tokenizers` library makes of each code point.

The tables are asked from the library, not from Python's `unicodedata`: its regular expressions and
its BERT normaliser follow their own (different) versions of Unicode, and ids must equal its ids
under every Python.

    python tools/unicode_tables.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

TARGET = Path(__file__).resolve().parent.parent / "plugins" / "tokenizers" / "unicode.json"
POINTS = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
HANGUL = range(0xAC00, 0xD7A4)  # decomposed by arithmetic when the tables are read


def main() -> None:
    tables = {
        "letter": ranges(matching(r"\p{L}")),
        "upper": ranges(matching(r"[\p{Lu}\p{Lt}]")),
        "lower": ranges(matching(r"\p{Ll}")),
        "mark": ranges(matching(r"\p{M}")),
        "number": ranges(matching(r"\p{N}")),
        "space": ranges(matching(r"\s")),
        "word": ranges(words()),
        "white_space": ranges(white_space()),
        "control": ranges(mapped_to("", clean_text=True)),
        "ideograph": ranges(ideographs()),
        "punctuation": ranges(punctuation()),
        "strip_accents": changes(bert(strip_accents=True), skip=HANGUL),
        "lower_case": changes(bert(lowercase=True)),
    }
    TARGET.write_text(json.dumps(tables, indent=0) + "\n", "ascii")


def bert(**chosen: bool) -> Callable[[str], str]:
    """BERT's normaliser with only the chosen steps."""
    steps = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    options = {step: chosen.get(step, False) for step in steps}
    return normalizers.BertNormalizer(**options).normalize_str


def matching(pattern: str) -> list[int]:
    """The code points that a one-character regular expression matches."""
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [p for p in POINTS if len(split.pre_tokenize_str(f"\0{chr(p)}\0")) == 3]


def words() -> list[int]:
    """`\\w` of the Whitespace pre-tokenizer: what stays in one piece with letters."""
    split = pre_tokenizers.Whitespace().pre_tokenize_str
    return [p for p in POINTS if len(split(f"a{chr(p)}a")) == 1]


def white_space() -> list[int]:
    split = pre_tokenizers.WhitespaceSplit().pre_tokenize_str
    return [p for p in POINTS if len(split(f"a{chr(p)}a")) == 2]


def punctuation() -> list[int]:
    """What BERT's pre-tokenizer sets apart."""
    split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
    return [p for p in POINTS if len(split(f"a{chr(p)}a")) == 3]


def ideographs() -> list[int]:
    apart = bert(handle_chinese_chars=True)
    return [p for p in POINTS if apart(chr(p)) == f" {chr(p)} "]


def mapped_to(text: str, **chosen: bool) -> list[int]:
    normal = bert(**chosen)
    return [p for p in POINTS if normal(chr(p)) == text]


def ranges(points: Iterable[int]) -> str:
    """Ascending code points as `41-5a aa b5`."""
    runs: list[list[int]] = []
    for point in points:
        if runs and runs[-1][1] == point - 1:
            runs[-1][1] = point
        else:
            runs.append([point, point])
    return " ".join(span(first, last) for first, last in runs)


def span(first: int, last: int) -> str:
    return f"{first:x}" if first == last else f"{first:x}-{last:x}"


def changes(normal: Callable[[str], str], skip: range = range(0)) -> str:
    """What changes, as `41-5a:61 130:69+307 300-36f:`; in a run, the image moves with the point."""
    runs: list[tuple[int, int, str]] = []
    for point in POINTS:
        image = normal(chr(point))
        if image == chr(point) or point in skip:
            continue
        if runs and runs[-1][1] == point - 1 and image == moved(runs[-1], point):
            runs[-1] = (runs[-1][0], point, runs[-1][2])
        else:
            runs.append((point, point, image))
    return " ".join(
        f"{span(first, last)}:{'+'.join(f'{ord(c):x}' for c in image)}"
        for first, last, image in runs
    )


def moved(run: tuple[int, int, str], point: int) -> str | None:
    """The image that continues a run: none for sequences, nothing for marks that vanish."""
    first, _, image = run
    if len(image) == 1:
        target = ord(image) + point - first
        return None if 0xD800 <= target < 0xE000 else chr(target)
    return image if image == "" else None


if __name__ == "__main__":
    main()
