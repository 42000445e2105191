"""Expressions of the language as formulas: indices at the foot, sums with theirs under the sign.

A value that is used more than once gets a letter and stands under "where". An index that a sum
runs over is primed if its axis has an index already. A view is the index that it reads at, a
look-up an index that is itself a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce

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
    Opaque,
    Position,
    Recurrence,
    Reduce,
    Scan,
    Size,
    Stack,
    Update,
    View,
    everything,
    walk,
)

from .boxes import (
    Big,
    Box,
    Cases,
    Equation,
    Fence,
    Formula,
    Fraction,
    Name,
    Number,
    Root,
    Row,
    Scripts,
    Sign,
    Word,
    call,
    parentheses,
    row,
    separated,
)

CASES, OR, AND, COMPARE, SUM, NEGATED, BIG, PRODUCT, QUOTIENT, POWER, ATOM = range(11)
"""How tightly a box holds together: one that holds less than its place asks for gets brackets."""

Indices = Mapping[Axis, Box]
Set = tuple[Box, int]
"""A box and how tightly it holds together."""

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε",
    "zeta": "ζ", "eta": "η", "theta": "θ", "kappa": "κ", "lambda": "λ", "lam": "λ", "mu": "μ",
    "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ",
    "chi": "χ", "psi": "ψ", "omega": "ω",
}  # fmt: skip

CONSTANTS: Mapping[float, Set] = {
    math.pi: (Number("π"), ATOM),
    2 * math.pi: (row(Number("2"), Number("π")), PRODUCT),
    math.sqrt(2): (Root(Number("2")), ATOM),
    math.sqrt(0.5): (Fraction(Number("1"), Root(Number("2"))), QUOTIENT),
    math.sqrt(2 / math.pi): (Root(Fraction(Number("2"), Number("π"))), ATOM),
}
"""Numbers that are written as what they are equal to, to the last bit."""

INFIX = {
    "logical_or": ("∨", OR, OR, AND),
    "logical_and": ("∧", AND, AND, COMPARE),
    "equal": ("=", COMPARE, SUM, SUM),
    "not_equal": ("≠", COMPARE, SUM, SUM),
    "less": ("<", COMPARE, SUM, SUM),
    "less_equal": ("≤", COMPARE, SUM, SUM),
    "greater": (">", COMPARE, SUM, SUM),
    "greater_equal": ("≥", COMPARE, SUM, SUM),
    "add": ("+", SUM, SUM, BIG),
    "subtract": ("−", SUM, SUM, BIG),
    "modulo": ("mod", PRODUCT, PRODUCT, POWER),
}
"""A sign between two operands: itself, how tightly it holds, what its left and right must hold."""

WORDS = {
    "log": "ln",
    "sigmoid": "σ",
    "sign": "sgn",
    "maximum": "max",
    "minimum": "min",
    "is_nan": "isnan",
    "round": "round",
}
"""Functions whose names in formulas differ from those in the language."""

FENCES = {"absolute": ("|", "|"), "floor": ("⌊", "⌋"), "ceil": ("⌈", "⌉")}

FOLDS: Mapping[str, Sign | Word] = {
    "sum": Sign("∑"),
    "product": Sign("∏"),
    "max": Word("max"),
    "min": Word("min"),
    "argmax": Word("arg max"),
}

RESULTS = ("y", "z", "r", "result")
SHARED = ("u", "v", "w", "c", "g", "h", "f", "r")


def formula(instruction: Instruction) -> Formula:
    """What an instruction that is not opaque computes."""
    taken = {leaf.name for leaf in instruction.operands}
    taken |= {leaf.name for leaf in instruction.immediates} | set(instruction.axes)
    taken |= {state.input.name for state in instruction.states}
    setter = Setter(shared(instruction.outputs), taken)
    states = [state.input for state in instruction.states]
    results = instruction.outputs[len(states) :]
    letter = setter.letter(RESULTS) if results else ""
    lefts: list[Box] = [Name(greek(leaf.name)) for leaf in states]
    lefts += [_numbered(letter, n, len(results)) for n in range(len(results))]
    for left, output in zip(lefts[len(states) :], results, strict=True):
        if output.children:
            setter.names.setdefault(output, left)
    equations = []
    for number, (left, output) in enumerate(zip(lefts, instruction.outputs, strict=True)):
        axes = states[number].axes if number < len(states) else output.axes
        equations.append(setter.equation(left, axes, output, replaces=number < len(states)))
    return Formula(tuple(equations), tuple(setter.where()), tuple(setter.notes))


def greek(name: str) -> str:
    return GREEK.get(name, name)


def number(value: float | int | bool) -> Set:
    """A number as it is written by hand, in as many digits as it takes."""
    if isinstance(value, bool):
        return Word(str(value).lower()), ATOM
    if math.isnan(value):
        return Word("NaN"), ATOM
    if value < 0:
        inside, holds = number(-value)
        return row(Sign("−"), inside), min(holds, NEGATED)
    if value in CONSTANTS:
        return CONSTANTS[value]
    if math.isinf(value):
        return Number("∞"), ATOM
    if isinstance(value, int) or (value == int(value) and value < 1e7):
        return Number(str(int(value))), ATOM
    digits, _, exponent = repr(value).partition("e")
    if not exponent:
        return Number(digits), ATOM
    power = number(int(exponent))[0]
    ten = Scripts(Number("10"), above=power)
    if digits == "1":
        return ten, POWER
    return row(Number(digits), Sign("×"), ten), PRODUCT


def shared(roots: Iterable[Node]) -> set[Node]:
    """Values worth a letter: used more than once, and more than an operand read somewhere."""
    uses: dict[Node, int] = {}
    for node in set(everything(roots)):
        inside = (*node.body.next, *node.body.emits) if isinstance(node, Scan) else ()
        for child in {*node.children, *inside} if isinstance(node, Scan) else node.children:
            uses[child] = uses.get(child, 0) + 1
    return {node for node, count in uses.items() if count > 1 and _work(node) > 1}


def _work(node: Node) -> int:
    """How many operations a value takes, up to two; a fold is worth a letter by itself."""
    if isinstance(node, Reduce | Dot | Scan | Gather):
        return 2
    if isinstance(node, Map):
        return min(2, 1 + sum(_work(child) for child in node.children))
    return max((_work(child) for child in node.children), default=0)


def _by_cases(node: Node) -> bool:
    """Whether a value is written as cases, which stand in an equation of their own."""
    return isinstance(node, Stack | Update) or (isinstance(node, Map) and node.function == "where")


def _numbered(letter: str, number: int, count: int) -> Box:
    above = None if count == 1 else parentheses(Number(str(number + 1)))
    return Scripts(Name(letter), above=above)


@dataclass
class Setter:
    """Sets the expressions of one instruction.

    shared   values that get a letter
    taken    names that mean something already
    names    the letters given, and the names of the states of recurrences
    steps    inside a recurrence: the axis of its steps, which a value depends on without having it
    before   states of recurrences, and where the step before is: 1 ahead or 1 behind
    slices   what stands for one step of a scanned value, and that value
    bodies   the recurrences that have equations
    pending  named values that have no equation yet
    notes    what a formula cannot show, in words
    """

    shared: set[Node]
    taken: set[str]
    names: dict[Node, Box] = field(default_factory=dict)
    steps: dict[Node, Axis] = field(default_factory=dict)
    before: dict[Node, int] = field(default_factory=dict)
    slices: dict[Node, Node] = field(default_factory=dict)
    bodies: list[Recurrence] = field(default_factory=list)
    pending: list[Callable[[], Sequence[Equation]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    # -- names

    def letter(self, among: Sequence[str]) -> str:
        """A name that means nothing yet."""
        several = (f"{among[0]}{n}" for n in range(1, len(self.taken) + 2))
        found = next(name for name in (*among, *several) if name not in self.taken)
        self.taken.add(found)
        return found

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def equation(
        self, name: Box, axes: Sequence[Axis], value: Node, replaces: bool = False
    ) -> Equation:
        """`name[axes] = value`, or with an arrow if the value replaces an old one."""
        left = self.named(name, [Name(greek(axis)) for axis in axes])
        leads_on = isinstance(value, Input) or (replaces and value in self.shared)
        set_ = self.set if leads_on else self.written
        right, holds = set_(value, {}, frozenset(axes))
        if OR <= holds <= COMPARE:
            right = parentheses(right)
        return Equation(left, "←" if replaces else "=", right)

    def where(self) -> Iterator[Equation]:
        """The equations of all values that were named on the way, the first used first."""
        while self.pending:
            yield from self.pending.pop(0)()

    def named(self, name: Box, indices: Sequence[Box]) -> Box:
        below = separated(list(indices)) if indices else None
        if isinstance(name, Scripts):
            return Scripts(name.base, below, name.above)
        return Scripts(name, below) if below else name

    def reference(self, node: Node, indices: Indices) -> Box:
        """A value by its name, at some indices."""
        axes = (self.steps[node], *node.axes) if node in self.steps else node.axes
        return self.named(self.names[node], [self.index(axis, indices) for axis in axes])

    def index(self, axis: Axis, indices: Indices) -> Box:
        return indices.get(axis, Name(greek(axis)))

    # -- expressions

    def set(self, node: Node, indices: Indices, scope: frozenset[str]) -> Set:
        """A value at some indices (an axis without one is its own index). `scope` holds the
        indices that mean something here."""
        if node in self.before:
            return self.state_before(node, indices), ATOM
        if node in self.slices:
            return self.set(self.slices[node], indices, scope)
        if node not in self.names and (node in self.shared or _by_cases(node)):
            self.names[node] = name = Name(self.letter(SHARED))
            axes = (self.steps[node], *node.axes) if node in self.steps else node.axes
            self.pending.append(lambda: [self.equation(name, axes, node)])
        if node in self.names:
            return self.reference(node, indices), ATOM
        return self.written(node, indices, scope)

    def written(self, node: Node, indices: Indices, scope: frozenset[str]) -> Set:
        """A value as what it is made of, even if it has a name."""
        match node:
            case Constant(value):
                return number(value)
            case Input(name, axes, _):
                found = [self.index(axis, indices) for axis in axes]
                return self.named(Name(greek(name)), found), ATOM
            case Immediate(name, _):
                return Name(greek(name)), ATOM
            case Size(axis):
                return Fence("|", Name(greek(axis)), "|"), ATOM
            case Position(axis):
                return self.index(axis, indices), SUM if axis in indices else ATOM
            case Map():
                return self.map(node, indices, scope)
            case Reduce(function, x, over):
                return self.fold(FOLDS[function], over, [x], indices, scope)
            case Dot(a, b, over):
                return self.fold(FOLDS["sum"], over, [a, b], indices, scope)
        return self.moved(node, indices, scope)

    def within(self, node: Node, holds: int, indices: Indices, scope: frozenset[str]) -> Box:
        """A value in a place that asks it to hold so tightly."""
        box, own = self.set(node, indices, scope)
        return box if own >= holds else parentheses(box)

    def map(self, node: Map, indices: Indices, scope: frozenset[str]) -> Set:
        def at(child: Node, holds: int = OR) -> Box:
            return self.within(child, holds, indices, scope)

        name, given = node.function, node.arguments
        match name:
            case "multiply":
                return self.product(list(self.factors(node)), indices, scope)
            case "divide":
                return self.quotient(node, indices, scope)
            case "add" if isinstance(given[1], Constant) and given[1].value < 0:
                return row(at(given[0], SUM), at(given[1])), SUM
            case _ if name in INFIX:
                sign, holds, left, right = INFIX[name]
                mark: Box = Word(sign) if sign.isalpha() else Sign(sign)
                return row(at(given[0], left), mark, at(given[1], right)), holds
            case "negate":
                return row(Sign("−"), at(given[0], PRODUCT)), NEGATED
            case "logical_not":
                return row(Sign("¬"), at(given[0], ATOM)), NEGATED
            case "reciprocal":
                return Fraction(Number("1"), at(given[0])), QUOTIENT
            case "rsqrt":
                return Fraction(Number("1"), Root(at(given[0]))), QUOTIENT
            case "sqrt":
                return Root(at(given[0])), ATOM
            case "floor_divide":
                return Fence("⌊", Fraction(at(given[0]), at(given[1])), "⌋"), ATOM
            case "power":
                return raised(at(given[0], ATOM), at(given[1])), POWER
            case "where":
                return Cases(((at(given[1]), at(given[0])), (at(given[2]), None))), CASES
            case _ if name in FENCES:
                left_sign, right_sign = FENCES[name]
                return Fence(left_sign, at(given[0]), right_sign), ATOM
        return call(WORDS.get(name, name), *map(at, given)), ATOM

    def product(self, factors: list[Node], indices: Indices, scope: frozenset[str]) -> Set:
        """Factors side by side: equal ones as a power, 1 / √x under what stands before it."""
        done: list[Set] = []
        while factors:
            first = factors.pop(0)
            if done and isinstance(first, Map) and first.function == "rsqrt" and self.open(first):
                top = joined(done)[0]
                root = Root(self.within(first.arguments[0], OR, indices, scope))
                done = [(Fraction(top, root), QUOTIENT)]
                continue
            times = 1
            while factors and factors[0] is first:
                times += 1
                factors.pop(0)
            if times == 1:
                done.append(self.set(first, indices, scope))
            else:
                base = self.within(first, ATOM, indices, scope)
                done.append((raised(base, Number(str(times))), POWER))
        return joined(done)

    def open(self, node: Node) -> bool:
        """Whether a value is written out where it is used."""
        return node not in self.names and node not in self.shared and not _by_cases(node)

    def factors(self, node: Node, root: bool = True) -> Iterator[Node]:
        """What a product multiplies, from left to right."""
        if isinstance(node, Map) and node.function == "multiply" and (root or self.open(node)):
            for argument in node.arguments:
                yield from self.factors(argument, False)
        else:
            yield node

    def quotient(self, node: Map, indices: Indices, scope: frozenset[str]) -> Set:
        """A fraction; of a sum by the sizes of axes, which is a mean, the sum stands behind it."""
        top, bottom = node.arguments
        sizes = [bottom]
        while isinstance(top, Map) and top.function == "divide" and self.open(top):
            if not isinstance(top.arguments[1], Size):
                break
            sizes.insert(0, top.arguments[1])
            top = top.arguments[0]
        mean = isinstance(top, Reduce) and self.open(top)
        if not (mean and all(isinstance(size, Size) for size in sizes)):
            top, sizes = node.arguments[0], [bottom]
            mean = False
        below = row(*(self.within(size, OR, indices, scope) for size in sizes))
        if mean:
            inside = self.within(top, BIG, indices, scope)
            return row(Fraction(Number("1"), below), inside), BIG
        return Fraction(self.within(top, OR, indices, scope), below), QUOTIENT

    def fold(
        self,
        sign: Sign | Word,
        over: Sequence[Axis],
        inside: Sequence[Node],
        indices: Indices,
        scope: frozenset[str],
    ) -> Set:
        """A sum or the like of a product over axes, each with an index of its own."""
        bound: dict[Axis, Box] = {}
        for axis in over:
            primes = 0
            while axis + "'" * primes in scope:
                primes += 1
            scope |= {axis + "'" * primes}
            bound[axis] = Name(greek(axis), primes)
        within = {**indices, **bound}
        factors = [f for node in inside for f in self.factors(node, False)]
        body, holds = self.product(factors, within, scope)
        if holds < (BIG if isinstance(sign, Sign) else POWER):
            body = parentheses(body)
        return Big(sign, separated(list(bound.values())), body), BIG

    # -- what only moves values

    def moved(self, node: Node, indices: Indices, scope: frozenset[str]) -> Set:
        match node:
            case View(x, pairs, fill):
                read = {axis: affine(index, indices) for axis, index in pairs}
                if fill is not None:
                    what, _ = self.set(x, read, scope)
                    self.outside(what, x, fill)
                return self.set(x, {**indices, **read}, scope)
            case Gather(table, position, axis):
                at, _ = self.set(position, indices, scope)
                self.note("An index outside of the table is moved to its nearest end.")
                return self.set(table, {**indices, axis: at}, scope)
            case Stack(xs, axis):
                return self.stacked(xs, self.index(axis, indices), indices, scope)
            case Update(x, value, at_):
                conditions: list[Box] = []
                for axis, index in at_:
                    conditions += [Word("and")] if conditions else []
                    sides = [self.index(axis, indices), Sign("="), affine(index, indices)]
                    conditions.append(row(*sides))
                new, old = (self.within(n, OR, indices, scope) for n in (value, x))
                return Cases(((new, row(*conditions)), (old, None))), CASES
            case Cast(x, type):
                return call(type, self.within(x, OR, indices, scope)), ATOM
            case Opaque(operator, arguments, _, _, _):
                given = [self.within(x, OR, indices, scope) for x in arguments]
                return call(operator, *given), ATOM
            case Scan():
                return self.scanned(node, indices, scope)
        raise AssertionError(node)

    def stacked(self, xs: Sequence[Node], at: Box, indices: Indices, scope: frozenset[str]) -> Set:
        """The value that an index along the new axis chooses."""
        if isinstance(at, Number) and int(at.text) < len(xs):
            return self.set(xs[int(at.text)], indices, scope)
        cases = [
            (self.within(x, OR, indices, scope), row(at, Sign("="), Number(str(n))))
            for n, x in enumerate(xs)
        ]
        return Cases(tuple(cases)), CASES

    def outside(self, what: Box, x: Node, fill: float | int | bool) -> None:
        name = x.name if isinstance(x, Input) else "what is read"
        self.note(f"Outside of its range {name} counts as {fill!r}.")

    # -- recurrences

    def scanned(self, node: Scan, indices: Indices, scope: frozenset[str]) -> Set:
        """One result of a recurrence: its states are named, their equations stand below."""
        body = node.body
        if body not in self.bodies:
            self.begin(node)
        axis, count = body.axis, len(body.states)
        if node.output >= count:
            return self.set(body.emits[node.output - count], indices, scope)
        last: Box = Number("0")
        if not body.reverse:
            last = row(Fence("|", Name(greek(axis)), "|"), Sign("−"), Number("1"))
        return self.reference(body.states[node.output], {**indices, axis: last}), ATOM

    def begin(self, node: Scan) -> None:
        """Name the states of a recurrence and leave their equations for later."""
        body = node.body
        self.bodies.append(body)
        own = {*body.states, *body.slices}
        self.slices.update(zip(body.slices, node.xs, strict=True))
        for each in walk((*body.next, *body.emits)):
            if own & set(walk([each])) and each not in own:
                self.steps[each] = body.axis
        for state, after in zip(body.states, body.next, strict=True):
            self.names[state] = Name(self.letter((greek(state.name),)))
            self.steps[state] = body.axis
            self.before[state] = 1 if body.reverse else -1
            if after in self.steps and after.children:
                self.names.setdefault(after, self.names[state])
        self.pending.append(lambda: list(self.recurrence(node)))

    def state_before(self, state: Node, indices: Indices) -> Box:
        """A state as the step before left it."""
        axis = self.steps[state]
        step = row(self.index(axis, indices), Sign("−" if self.before[state] < 0 else "+"))
        return self.reference(state, {**indices, axis: row(step, Number("1"))})

    def recurrence(self, node: Scan) -> Iterator[Equation]:
        """Each state after a step, and before the first."""
        body = node.body
        for state, after, initial in zip(body.states, body.next, node.initial, strict=True):
            yield self.equation(self.names[state], (body.axis, *state.axes), after)
            first: Box = row(Sign("−"), Number("1"))
            if body.reverse:
                first = Fence("|", Name(greek(body.axis)), "|")
            left = self.reference(state, {body.axis: first})
            yield Equation(left, "=", self.within(initial, OR, {}, frozenset(initial.axes)))


def raised(base: Box, power: Box) -> Box:
    """A power; the exponent stands above the index that the base may have."""
    if isinstance(base, Scripts):
        if base.above is None:
            return Scripts(base.base, base.below, power)
        base = parentheses(base)
    return Scripts(base, above=power)


def joined(factors: Sequence[Set]) -> Set:
    """A product. A sum or the like needs brackets unless it is the last factor."""
    if len(factors) == 1:
        return factors[0]
    boxes: list[Box] = []
    for place, (box, holds) in enumerate(factors):
        needs = BIG if place == len(factors) - 1 else PRODUCT
        boxes += [Sign("·")] if boxes else []
        boxes.append(box if holds >= needs else parentheses(box))
    return Row(tuple(boxes)), BIG if factors[-1][1] == BIG else PRODUCT


def affine(index: Affine, indices: Indices) -> Box:
    """An index such as 2p + r − 1."""

    def term(box: Box, pair: tuple[Axis, int]) -> Box:
        axis, stride = pair
        at = indices.get(axis, Name(greek(axis)))
        size = abs(stride)
        part = at if size == 1 else row(Number(str(size)), at)
        return signed(box, part, stride < 0)

    nothing: Box = Row(())
    total = reduce(term, index.terms, nothing)
    if index.offset or not index.terms:
        total = signed(total, Number(str(abs(index.offset))), index.offset < 0)
    if index.divide != 1:
        total = Fence("⌊", Fraction(total, Number(str(index.divide))), "⌋")
    if index.modulo:
        inside = parentheses(total) if isinstance(total, Row) else total
        total = row(inside, Word("mod"), Number(str(index.modulo)))
    return total


def signed(total: Box, part: Box, negative: bool) -> Box:
    """A sum with one more term."""
    if total == Row(()):
        return row(Sign("−"), part) if negative else part
    return row(total, Sign("−" if negative else "+"), part)
