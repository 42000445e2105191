"""An instruction as Python source: the words that a user would write, whose trace is the same."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from infinisa.isa.errors import CompileError
from infinisa.isa.instruction import Instruction
from infinisa.isa.language import (
    Affine,
    Axis,
    Cast,
    Constant,
    Dot,
    Gather,
    Immediate,
    Input,
    Map,
    Node,
    Position,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    walk,
)
from infinisa.isa.laws import Associative, LinearIn, StepOf

MAPS = frozenset((
    "absolute", "ceil", "cos", "equal", "erf", "exp", "floor", "is_nan", "log", "maximum",
    "minimum", "not_equal", "reciprocal", "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt",
    "tanh", "where",
))  # fmt: skip
"""Scalar functions that are words of `infinisa`."""

WORDS = MAPS | frozenset((
    "Associative", "LinearIn", "StepOf", "argmax", "cast", "dot", "gather", "hookimpl",
    "instruction", "max", "min",
    "position", "product", "scan", "size", "stack", "sum", "update", "view",
))  # fmt: skip
"""What `infinisa` exports; all else comes from `infinisa.isa.language`."""

INFIX: Mapping[str, tuple[str, int]] = {
    "less": ("<", 1),
    "less_equal": ("<=", 1),
    "greater": (">", 1),
    "greater_equal": (">=", 1),
    "logical_or": ("|", 2),
    "logical_and": ("&", 3),
    "add": ("+", 4),
    "subtract": ("-", 4),
    "multiply": ("*", 5),
    "divide": ("/", 5),
    "floor_divide": ("//", 5),
    "modulo": ("%", 5),
    "power": ("**", 7),
}
"""Functions that Python has a sign for, and how tightly it binds."""

SIGN, ATOM = 6, 8
"""How tightly a sign before a value binds, and a name or a call."""

PREFIX: Mapping[str, str] = {"negate": "-", "logical_not": "~"}
"""Functions that Python has a sign for before a value."""

REFLECTED = frozenset((
    "add", "subtract", "multiply", "divide", "floor_divide", "modulo", "power",
))  # fmt: skip
"""Functions whose sign may stand behind a plain number: others ask the value on the right to turn
them round, or know no plain number on the left."""

WIDEST = 60
"""A longer expression gets a name."""

Text = tuple[str, int]


def plugin_source(instructions: Sequence[Instruction], title: str) -> str:
    """A plugin file with these instructions; `title` is its docstring."""
    printers = [_Definition(instruction) for instruction in instructions]
    body = [text for printer in printers for text in (printer.text(), "", "")]
    used = {word for printer in printers for word in printer.used} | {"hookimpl", "instruction"}
    own = {word for word in used if word.rstrip("_") in WORDS}
    lines = [_quoted(title), "", _import("infinisa", own)]
    if others := used - own:
        lines.append(_import("infinisa.isa.language", others))
    names = ", ".join(instruction.name for instruction in instructions)
    hook = ["@hookimpl", "def infinisa_instructions():", f"    return [{names}]"]
    return "\n".join([*lines, "", "", *body, *hook]) + "\n"


def _import(module: str, words: Iterable[str]) -> str:
    """An import; `sum_` is for where an operand is called `sum`."""
    names = [f"{word[:-1]} as {word}" if word.endswith("_") else word for word in sorted(words)]
    line = f"from {module} import {', '.join(names)}"
    rows = "".join(f"    {name},\n" for name in names)
    return line if len(line) <= 100 else f"from {module} import (\n{rows})"


KEYWORDS: Mapping[type, str] = {
    StepOf: "step_of",
    Associative: "associative",
    LinearIn: "linear_in",
}
"""How an instruction declares its laws."""


class _Definition:
    """Prints one instruction and collects the words that it needs; CompileError if it is opaque or
    has a name that is none in Python."""

    def __init__(self, instruction: Instruction) -> None:
        if instruction.opaque:
            raise CompileError(
                f"instruction {instruction.name!r}: an opaque body has no expression"
            )
        self.instruction = instruction
        states = tuple(state.input for state in instruction.states)
        self.leaves = (*instruction.operands, *states)
        self.given = {leaf.name for leaf in self.leaves}
        self.given.update(leaf.name for leaf in instruction.immediates)
        for name in (instruction.name, *self.given):
            if not name.isidentifier() or keyword.iskeyword(name):
                raise CompileError(f"instruction {instruction.name!r}: {name!r} is no Python name")
        self.taken = set(self.given)
        self.used: set[str] = set()
        self.names: dict[Node, Text] = {}
        self.scans: dict[object, str] = {}

    def text(self) -> str:
        made = self.instruction
        operands = [f'{leaf.name}: "{annotation(leaf)}"' for leaf in self.leaves]
        numbers = [f"{each.name}={number(each.default)}" for each in made.immediates]
        head = f"def {made.name}({', '.join([*operands, *numbers])}):"
        if len(head) > 100:
            rows = "".join(f"    {each},\n" for each in (*operands, *numbers))
            head = f"def {made.name}(\n{rows}):"
        lines = [f"@instruction({', '.join(self.options())})", head]
        if made.documentation:
            lines.append(_indented(_quoted(made.documentation)))
        body = self.body(made.outputs)
        return "\n".join([*lines, *body])

    def options(self) -> Iterable[str]:
        made = self.instruction
        yield f'unit="{made.unit}"'
        if made.tile:
            pairs = (f'"{axis}": {limit!r}'.replace("'", '"') for axis, limit in made.tile)
            yield f"tile={{{', '.join(pairs)}}}"
        if made.occupancy:
            yield f'cycles="{made.occupancy.text}"'
        if made.latency:
            yield f'latency="{made.latency.text}"'
        if made.states:
            pairs = (f'"{state.input.name}": {number(state.initial)}' for state in made.states)
            yield f"state={{{', '.join(pairs)}}}"
        for law in made.laws:
            self.used.add(type(law).__name__)
            values = ", ".join(f'"{getattr(law, each.name)}"' for each in fields(law))
            yield f"{KEYWORDS[type(law)]}={type(law).__name__}({values})"

    # -- statements

    def body(self, results: Sequence[Node], last: str = "return {}") -> list[str]:
        """The lines that compute some values: what is used twice, or is long, has a name."""
        uses: dict[Node, int] = {}
        for node in walk(results):
            for child in node.children:
                uses[child] = uses.get(child, 0) + 1
        lines: list[str] = []
        for node in walk(results):
            if node in self.names:
                continue
            if isinstance(node, Scan):
                lines += self.scan(node)
            text, binds = self.names[node] if isinstance(node, Scan) else self.expression(node)
            again = uses.get(node, 0) > 1 and node.children and not isinstance(node, Scan)
            if again or (len(text) > WIDEST and node not in results):
                name = self.fresh(_title(node))
                lines.append(f"{name} = {text}")
                text, binds = name, ATOM
            self.names[node] = text, binds
        if last:
            lines.append(last.format(", ".join(self.names[node][0] for node in results)))
        return [_indented(line) for line in lines]

    def fresh(self, title: str) -> str:
        name, count = title, 1
        while name in self.taken:
            count += 1
            name = f"{title}{count}"
        self.taken.add(name)
        return name

    def scan(self, node: Scan) -> list[str]:
        """The step of a recurrence as a function, once for all results; then one result."""
        body = node.body
        key = body, node.initial, node.xs
        lines = []
        if key not in self.scans:
            name = self.fresh("step")
            leaves = (*body.states, *body.slices)
            if clash := [leaf.name for leaf in leaves if leaf.name in self.taken]:
                raise CompileError(
                    f"instruction {self.instruction.name!r}: {clash[0]!r} is a name of two values"
                )
            self.taken.update(leaf.name for leaf in leaves)
            outside = dict(self.names)
            inner = self.body((*body.next, *body.emits), last="")
            after = ", ".join(self.names[each][0] for each in body.next)
            emits = ", ".join(self.names[each][0] for each in body.emits)
            self.names = outside  # what the step names is its own
            initial = self.pairs(body.states, node.initial)
            xs = self.pairs(body.slices, node.xs)
            more = ", reverse=True" if body.reverse else ""
            if lacking := [
                state
                for state, start in zip(body.states, node.initial, strict=True)
                if set(state.axes) != set(start.axes)
            ]:
                axes = ", ".join(f'"{state.name}": "{" ".join(state.axes)}"' for state in lacking)
                more += f", axes={{{axes}}}"
            self.scans[key] = results = self.fresh("results")
            lines = [
                f"def {name}({', '.join(leaf.name for leaf in leaves)}):",
                *inner,
                f"    return [{after}], [{emits}]",
                f'{results} = {self.word("scan")}({name}, {initial}, {xs}, "{body.axis}"{more})',
            ]
        states = len(body.states)
        part, at = (0, node.output) if node.output < states else (1, node.output - states)
        self.names[node] = f"{self.scans[key]}[{part}][{at}]", ATOM
        return lines

    def pairs(self, leaves: Sequence[Input], values: Sequence[Node]) -> str:
        given = zip(leaves, values, strict=True)
        return "{" + ", ".join(f'"{leaf.name}": {self.names[x][0]}' for leaf, x in given) + "}"

    # -- expressions

    def word(self, name: str) -> str:
        """A word of the language, under another name if an operand has this one."""
        name = f"{name}_" if name in self.given else name
        self.used.add(name)
        return name

    def call(self, word: str, *arguments: str) -> Text:
        return f"{self.word(word)}({', '.join(arguments)})", ATOM

    def expression(self, node: Node) -> Text:
        given = [self.names[child][0] for child in node.children]
        match node:
            case Input(name, _, _) | Immediate(name, _):
                return name, ATOM
            case Constant(value):
                text = number(value)
                return text, SIGN if text.startswith("-") else ATOM
            case Size(axis):
                return self.call("size", f'"{axis}"')
            case Position(axis):
                return self.call("position", f'"{axis}"')
            case Map():
                return self.mapped(node)
            case Reduce(function, _, over):
                return self.call(function, *given, f'"{" ".join(over)}"')
            case Dot(_, _, over):
                return self.call("dot", *given, f'over="{" ".join(over)}"')
            case View(_, index, fill):
                more = () if fill is None else (f"fill={number(fill)}",)
                return self.call("view", *given, _indices(index), *more)
            case Gather(_, _, axis):
                return self.call("gather", *given, f'"{axis}"')
            case Update(_, _, at):
                return self.call("update", *given, _indices(at))
            case Stack(_, axis):
                return self.call("stack", f"[{', '.join(given)}]", f'"{axis}"')
            case Cast(x, to):  # the word leaves out a cast to the type that a value has
                return self.call("Cast" if x.dtype == to else "cast", *given, f'"{to}"')
        raise CompileError(
            f"instruction {self.instruction.name!r}: {type(node).__name__} has no word in Python"
        )

    def mapped(self, node: Map) -> Text:
        """A scalar function: by its sign or its word, else by its name."""
        function, arguments = node.function, node.arguments
        given = [self.names[argument] for argument in arguments]
        plain = [isinstance(argument, Constant) for argument in arguments]
        numbers = function.startswith("logical") and any(x.dtype != "bool" for x in arguments)
        turned = plain[0] and function in INFIX and function not in REFLECTED
        if all(plain) or turned or numbers:
            return self.call("apply", f'"{function}"', *(text for text, _ in given))
        if function in PREFIX:
            return f"{PREFIX[function]}{_inside(given[0], SIGN)}", SIGN
        if function in INFIX:
            sign, binds = INFIX[function]
            left_first = function not in ("power", "less", "less_equal", "greater", "greater_equal")
            left = _inside(given[0], binds if left_first else binds + 1)
            right = _inside(given[1], SIGN if function == "power" else binds + 1)
            return f"{left} {sign} {right}", binds
        if function in MAPS:
            return self.call(function, *(text for text, _ in given))
        return self.call("apply", f'"{function}"', *(text for text, _ in given))


def _inside(text: Text, binds: int) -> str:
    return text[0] if text[1] >= binds else f"({text[0]})"


def annotation(leaf: Input) -> str:
    """The axes and type of an operand, as `@instruction` reads them."""
    axes = " ".join(leaf.axes)
    return axes if leaf.dtype == "f32" else f"{axes}: {leaf.dtype}"


def number(value: float | int | bool) -> str:
    """A number as Python reads it."""
    text = repr(value)
    return f'float("{text}")' if text in ("inf", "-inf", "nan") else text


def _title(node: Node) -> str:
    """What a value is called that is used twice."""
    match node:
        case Dot():
            return "product"
        case Reduce(function, _, _):
            return {"max": "top", "min": "bottom", "sum": "total"}.get(function, "found")
    return "value"


def _indices(index: Iterable[tuple[Axis, Affine]]) -> str:
    pairs = ((axis, f'"{i}"' if i.terms else str(i.offset)) for axis, i in index)
    return "{" + ", ".join(f'"{axis}": {text}' for axis, text in pairs) + "}"


def _quoted(text: str) -> str:
    """A docstring."""
    inside = text.strip().replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    if "\n" in inside:
        inside += "\n"
    return f'"""{inside}"""' if not inside.endswith('"') else f'"""{inside} """'


def _indented(text: str) -> str:
    return "\n".join("    " + line if line else line for line in text.split("\n"))
