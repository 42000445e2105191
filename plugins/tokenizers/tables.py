"""Reading tokenizer files: JSON or lines of text, checked field by field.

Nothing is evaluated. Every mistake is a `ModelError`: file, field, what it must be, what it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from infinisa.isa.errors import ModelError

from .lookup import LIMIT
from .tokenizer import AddedToken, Frame

PROCESSORS = "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel or Sequence"


@dataclass(frozen=True)
class Section:
    """A JSON object: the file it is in, its path there, its values."""

    file: str
    path: str
    values: Mapping[str, object]

    def name(self, field: str) -> str:
        return f"{self.path}.{field}" if self.path else field

    def error(self, field: str, must: str) -> ModelError:
        """What is wrong with a field: `model.unk_token must be …, not …`."""
        value = shown(self.values.get(field))
        return ModelError(f"{self.file}: {self.name(field)} must be {must}, not {value}")

    def section(self, field: str) -> Section:
        value = self.values.get(field)
        if not isinstance(value, dict):
            raise self.error(field, "an object")
        return Section(self.file, self.name(field), value)

    def maybe(self, field: str) -> Section | None:
        """The object of that name, or None where it is absent or null."""
        return None if self.values.get(field) is None else self.section(field)

    def sections(self, field: str) -> list[Section]:
        """A list of objects; absent or null is empty."""
        rows = []
        for k, value in enumerate(self.items(field)):
            if not isinstance(value, dict):
                raise self.error(field, f"a list of objects (entry {k} is not)")
            rows.append(Section(self.file, f"{self.name(field)}[{k}]", value))
        return rows

    def items(self, field: str) -> list[object]:
        value = self.values.get(field)
        if value is not None and not isinstance(value, list):
            raise self.error(field, "a list")
        return value or []

    def component(self, field: str, *allowed: str | None) -> Section | None:
        """The object of that name; its `type` must be allowed, None too if it is absent."""
        part = self.maybe(field)
        names = " or ".join(kind or "null" for kind in allowed)
        if part is None and None not in allowed:
            raise self.error(field, names)
        if part is not None and part.values.get("type") not in allowed:
            raise part.error("type", names)
        return part

    def string(self, field: str, default: str | None = None) -> str:
        value = self.values.get(field)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(field, "a string")
        return value

    def flag(self, field: str, default: bool) -> bool:
        value = self.values.get(field)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(field, "true or false")
        return value

    def integer(self, field: str, default: int | None = None) -> int:
        value = self.values.get(field)
        if value is None and default is not None:
            return default
        if not is_id(value):
            raise self.error(field, f"a whole number from 0 to {LIMIT - 1}")
        return value  # type: ignore[return-value]  # is_id has looked

    def must_be(self, field: str, *allowed: object) -> None:
        """Refuse an option whose other values are not supported; absent counts as null."""
        if self.values.get(field) not in allowed:
            raise self.error(field, " or ".join(json.dumps(value) for value in allowed))


def shown(value: object) -> str:
    """A JSON value for an error's message, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LIMIT


# ---------------------------------------------------------------- files


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ModelError(f"{path}: the file must be readable: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{path}: the file must be UTF-8 text; byte {error.start} is not"
        ) from None


def read_json(path: Path) -> Section:
    """A file that holds one JSON object."""
    try:
        values = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{path}: the file must be whole, valid JSON: {error.msg} "
            f"at line {error.lineno}, column {error.colno}"
        ) from None
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        raise ModelError(f"{path}: the file must be a tokenizer's JSON, not this") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path}: the file must hold a JSON object, not {type(values).__name__}")
    return Section(str(path), "", values)


def read_lines(path: Path) -> list[str]:
    """The lines of a `vocab.txt`: line k is token k. No line may come twice."""
    text = read_text(path)
    lines = text.removesuffix("\n").split("\n") if text else []
    lines = [line.removesuffix("\r") for line in lines]
    if not lines:
        raise ModelError(f"{path}: the file must hold one token a line, not nothing")
    check_size(str(path), "the last line", len(lines) - 1)
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if seen.setdefault(line, number) != number:
            raise ModelError(
                f"{path}: line {number} must be a new token, not {line!r} of line {seen[line]}"
            )
    return lines


def check_size(file: str, what: str, token: int) -> None:
    if token >= LIMIT:
        raise ModelError(f"{file}: {what} must be a token below {LIMIT}, not {token}")


# ---------------------------------------------------------------- parts of tokenizer.json


def vocabulary(model: Section) -> dict[str, int]:
    """`model.vocab`: tokens and their ids, all different."""
    tokens: dict[str, int] = {}
    names: dict[int, str] = {}
    for name, token in model.section("vocab").values.items():
        where = f"{model.file}: {model.name('vocab')}[{json.dumps(name)}]"
        if not is_id(token):
            raise ModelError(
                f"{where} must be a whole number from 0 to {LIMIT - 1}, not {json.dumps(token)}"
            )
        assert isinstance(token, int)
        if token in names:
            raise ModelError(
                f"{where} must be an id of its own, not {token} of {json.dumps(names[token])}"
            )
        check_utf8(where, name)
        tokens[name] = token
        names[token] = name
    return tokens


def check_utf8(where: str, name: str) -> None:
    if any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise ModelError(f"{where} must be text, not half of a surrogate pair")


def unknown_id(model: Section, tokens: Mapping[str, int], required: bool) -> int:
    """The id of `model.unk_token`; -1 where there is none and none is required."""
    if not required and model.values.get("unk_token") is None:
        return -1
    name = model.string("unk_token")
    if name not in tokens:
        raise model.error("unk_token", "a token of model.vocab")
    return tokens[name]


def added_tokens(top: Section, tokens: Mapping[str, int]) -> tuple[AddedToken, ...]:
    """`added_tokens`, each with the id that `model.vocab` gives it, if it does."""
    taken = {token: name for name, token in tokens.items()}
    added = []
    for row in top.sections("added_tokens"):
        token = added_token(row, tokens)
        if taken.setdefault(token.token, token.content) != token.content:
            raise row.error(
                "id", f"an id of its own, which {shown(taken[token.token])} is not using"
            )
        added.append(token)
    return tuple(added)


def added_token(row: Section, tokens: Mapping[str, int]) -> AddedToken:
    content, token = row.string("content"), row.integer("id")
    if content == "":
        raise row.error("content", "a string of at least one character")
    check_utf8(f"{row.file}: {row.name('content')}", content)
    if tokens.get(content, token) != token:
        raise row.error("id", f"{tokens[content]}, as in model.vocab")
    return AddedToken(
        content=content,
        token=token,
        special=row.flag("special", False),
        single_word=row.flag("single_word", False),
        lstrip=row.flag("lstrip", False),
        rstrip=row.flag("rstrip", False),
        normalized=row.flag("normalized", True),
    )


def frame(top: Section, tokens: Mapping[str, int], **options: bool) -> Frame:
    """What happens around the kernels, by `added_tokens` and `post_processor`."""
    before, after = template(top.maybe("post_processor"))
    added = added_tokens(top, tokens)
    known = {*tokens.values(), *(token.token for token in added)}
    for token in before + after:
        if token not in known:
            raise ModelError(f"{top.file}: post_processor must add ids of tokens, not {token}")
    return Frame(added, before, after, **options)


def template(part: Section | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a post-processor puts before and after a single text."""
    if part is None:
        return (), ()
    match part.string("type"):
        case "ByteLevel":  # it trims offsets only
            return (), ()
        case "BertProcessing" | "RobertaProcessing":
            return (named_id(part, "cls"),), (named_id(part, "sep"),)
        case "TemplateProcessing":
            return template_ids(part)
        case "Sequence":
            return nested_templates(part.sections("processors"))
    raise part.error("type", PROCESSORS)


def nested_templates(parts: list[Section]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Processors in order: a later one is outside."""
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    for part in parts:
        first, last = template(part)
        before, after = first + before, after + last
    return before, after


def named_id(part: Section, field: str) -> int:
    """The id of a `["[SEP]", 102]` pair."""
    pair = part.items(field)
    if len(pair) != 2 or not is_id(pair[1]):
        raise part.error(field, "a list of a token and its id")
    assert isinstance(pair[1], int)
    return pair[1]


def template_ids(part: Section) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`single`, split at the text, which must be there once."""
    sides: list[list[int]] = [[]]
    for piece in part.sections("single"):
        if "Sequence" in piece.values:
            sides.append([])
        else:
            sides[-1] += special_ids(part, piece.section("SpecialToken").string("id"))
    if len(sides) != 2:
        raise part.error("single", "a list with one Sequence")
    return tuple(sides[0]), tuple(sides[1])


def special_ids(part: Section, name: str) -> Iterator[int]:
    for token in part.section("special_tokens").section(name).items("ids"):
        if not is_id(token):
            raise part.error("special_tokens", f"an object with ids for {name}")
        assert isinstance(token, int)
        yield token


def names_by_id(tokens: Mapping[str, int], added: tuple[AddedToken, ...]) -> list[str]:
    """Every id's token; an empty string where an id is unused."""
    ids = [*tokens.values(), *(token.token for token in added)]
    names = [""] * (max(ids, default=-1) + 1)
    for name, token in tokens.items():
        names[token] = name
    for special in added:
        names[special.token] = special.content
    return names
