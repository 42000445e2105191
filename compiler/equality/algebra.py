"""Exact algebra of real values: sums of products of atoms with rational coefficients.

A *form* maps monomials to coefficients; a monomial is a product of powers of atoms, which are
numbered. What two forms say is compared by comparing the forms, so every way to make an atom first
brings its arguments into one shape. Each identity used holds wherever its left side is defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import permutations, product
from typing import Any

from infinisa.isa.dtypes import is_float
from infinisa.isa.language import Affine, Axis

from .canonical import composed
from .forms import (
    ONE,
    Atom,
    Form,
    Frozen,
    Index,
    Monomial,
    Number,
    TooBig,
    add,
    bound_name,
    common_factor,
    constant,
    factors,
    joined,
    number,
    odd,
    order,
    plus,
    raised,
    renaming,
    scaled,
    sorted_terms,
    union_of,
    whole,
)

MOST_TERMS = 240
MOST_PRODUCTS = 12_000
"""How large a form may grow and how many products of monomials one proof may cost."""

MOST_EXPONENT = 64

MOST_ORDERS = 24
"""How many orders of reduced axes of equal length are compared."""

POSITIVE = ("exp", "number", "size")
"""Kinds of atoms that are above zero."""

SETTLING = ("number", "base", "absolute", "positive", "order", "truth")
"""Kinds of atoms of which a product may have a simpler form."""

STACK = "stack"
"""The base of values side by side: the first of its axes says which."""


class Algebra:
    """The atoms of one proof, and what can be computed with forms over them.

    sizes  axes whose extent is a known number; of any other axis it is an atom
    """

    def __init__(self, sizes: Mapping[Axis, int]) -> None:
        self.sizes = sizes
        self.atoms: list[Atom] = []
        self.numbers: dict[tuple[str, tuple[Any, ...]], int] = {}
        self.settled: dict[Monomial, Form | None] = {}
        self.fractions: list[tuple[Form, Frozen]] = []
        self.leading: dict[int, tuple[Monomial, Number, Form]] = {}
        self.places: dict[tuple[int, Index], Form] = {}
        self.products = 0
        self.fresh = 0

    # ------------------------------------------------------------ atoms

    def atom(
        self,
        kind: str,
        *parts: Any,
        axes: Iterable[Axis] = (),
        integer: bool = False,
        infinite: bool = False,
        level: int = 0,
    ) -> Form:
        return {((self.named(kind, parts, axes, integer, infinite, level), 1),): 1}

    def named(
        self,
        kind: str,
        parts: tuple[Any, ...],
        axes: Iterable[Axis],
        integer: bool = False,
        infinite: bool = False,
        level: int = 0,
    ) -> int:
        """The number of an atom."""
        key = kind, parts
        if key not in self.numbers:
            self.numbers[key] = len(self.atoms)
            self.atoms.append(Atom(kind, parts, frozenset(axes), integer, infinite, level))
        return self.numbers[key]

    def over(
        self,
        kind: str,
        *forms: Form,
        name: str = "",
        integer: bool = False,
        infinite: bool | None = None,
    ) -> Form:
        """An atom that is a function of forms."""
        parts = tuple(self.frozen(form) for form in forms)
        inside = [self.atoms[a] for part in parts for monomial, _ in part for a, _ in monomial]
        return self.atom(
            kind,
            *([name] if name else []),
            *parts,
            axes=union_of(inside),
            integer=integer,
            infinite=any(a.infinite for a in inside) if infinite is None else infinite,
            level=max((a.level for a in inside), default=0),
        )

    def frozen(self, form: Form) -> Frozen:
        """A form as an atom keeps it; of fractions that are equal, the one seen first."""
        if not any(self.denominators(form)):
            return frozenset(form.items())
        for known, frozen in self.fractions:
            if self.equal(form, known):
                return frozen
        self.fractions.append((form, frozenset(form.items())))
        return self.fractions[-1][1]

    def axes(self, form: Iterable[Monomial]) -> frozenset[Axis]:
        """The free axes that a form depends on."""
        return frozenset(
            axis for monomial in form for atom, _ in monomial for axis in self.atoms[atom].axes
        )

    def finite(self, form: Iterable[Monomial]) -> bool:
        return not any(self.atoms[a].infinite for monomial in form for a, _ in monomial)

    def integral(self, form: Iterable[Monomial]) -> bool:
        """Whether a form is a whole number apart from its coefficients."""
        return all(
            self.atoms[a].integer and isinstance(e, int) and e > 0
            for monomial in form
            for a, e in monomial
        )

    # ------------------------------------------------------------ products

    def times(self, a: Form, b: Form) -> Form:
        total: Form = {}
        for m, c in a.items():
            for n, d in b.items():
                self.insert(total, joined(m, n), c * d)
        if len(total) > MOST_TERMS:
            raise TooBig
        return total

    def insert(self, total: Form, monomial: Monomial, coefficient: Number) -> None:
        """total += coefficient * monomial, settled"""
        self.products += 1
        if self.products > MOST_PRODUCTS:
            raise TooBig
        simpler = self.settle(monomial)
        if simpler is None:
            add(total, monomial, coefficient)
        else:
            for each, factor in simpler.items():
                add(total, each, coefficient * factor)

    def settle(self, monomial: Monomial) -> Form | None:
        """What a monomial simplifies to; None if to itself."""
        if monomial not in self.settled:
            self.settled[monomial] = None
            for atom, exponent in monomial:
                if self.atoms[atom].kind not in SETTLING:
                    continue
                simpler = self.simpler(monomial, atom, exponent)
                if simpler is not None:
                    total: Form = {}
                    for each, coefficient in simpler.items():
                        self.insert(total, each, coefficient)
                    self.settled[monomial] = total
                    break
        return self.settled[monomial]

    def simpler(self, monomial: Monomial, atom: int, exponent: Number) -> Form | None:
        """A simpler form because of one of the factors; it may be simplified further."""
        kind, parts = self.atoms[atom].kind, self.atoms[atom].parts
        if kind in ("positive", "order", "truth") and exponent > 0 and exponent != 1:
            return {joined(monomial, ((atom, number(1 - exponent)),)): 1}  # 0 or 1
        if kind == "number" and not 0 < exponent < 1:
            out = math.floor(exponent)
            rest = joined(monomial, ((atom, -out),))
            return {rest: number(Fraction(parts[0]) ** out)}
        if (kind == "absolute" and not 0 < exponent < 2) or (kind == "base" and exponent >= 1):
            step = 2 if kind == "absolute" else 1
            out = step * math.floor(Fraction(exponent) / step)
            rest = joined(monomial, ((atom, -out),))
            return self.times({rest: 1}, self.power(dict(parts[0]), out))
        if kind == "base" and exponent < 0:
            return self.divided(monomial, atom, lambda: {((atom, 1),): 1})
        if kind == "positive" and exponent == 1:
            return self.sign_known(monomial, dict(parts[0])) or self.divided(
                monomial, atom, lambda: self.rectified(dict(parts[0]))
            )
        return None

    def divided(self, monomial: Monomial, atom: int, value: Callable[[], Form]) -> Form | None:
        """An atom t with q * t = `value`, q = lead + rest:  lead * t  →  value - rest * t

        For t = 1 / q the value is 1, for t = [q > 0] it is max(q, 0). `value` times the rest of the
        monomial is given over the same power of t, so 1 is written as t there.
        """
        if atom not in self.leading:
            q: Form = dict(self.atoms[atom].parts[0])
            first = max(q, key=order)
            self.leading[atom] = first, q.pop(first), q
        first, coefficient, rest = self.leading[atom]
        exponents = dict(monomial)
        if not first or any(e <= 0 or exponents.get(a, 0) < e for a, e in first):
            return None
        left = joined(monomial, raised(first, -1))
        total: Form = {}
        for each, factor in rest.items():
            add(total, joined(left, each), -factor)
        base = self.atoms[atom].kind == "base"
        outside = left if base else joined(left, ((atom, -1),))
        for each, factor in value().items():
            add(total, joined(outside, each), factor)
        return scaled(total, Fraction(1) / coefficient)

    def sign_known(self, monomial: Monomial, q: Form) -> Form | None:
        """|q| * [q > 0]  →  q * [q > 0]"""
        for sign in (1, -1):
            key = "absolute", (frozenset(scaled(q, sign).items()),)
            atom = self.numbers.get(key)
            if atom is not None and odd(dict(monomial).get(atom, 0)):
                return self.times({joined(monomial, ((atom, -1),)): 1}, q)
        return None

    # ------------------------------------------------------------ quotients and roots

    def power(self, form: Form, exponent: Number) -> Form:
        """form ** exponent, where the form is not negative unless the exponent is whole"""
        exponent = number(exponent)
        if not exponent:
            return {ONE: 1}
        if not form:
            if exponent < 0:
                raise TooBig
            return {}
        if len(form) == 1:
            ((monomial, coefficient),) = form.items()
            return self.monomial_power(monomial, coefficient, exponent)
        if isinstance(exponent, int) and exponent > 0:
            return self.repeated(form, exponent)
        if isinstance(exponent, int):
            cleared, factor = self.cleared(form)
            if factor != {ONE: 1}:
                return self.times(self.power(cleared, exponent), self.power(factor, -exponent))
        coefficient, common, q = self.content(form, whole(exponent))
        outside = self.times(
            self.number_power(coefficient, exponent), self.monomial_power(common, 1, exponent)
        )
        base = self.over("base", q)
        return self.times(outside, {raised(m, exponent): c for m, c in base.items()})

    def repeated(self, form: Form, exponent: int) -> Form:
        if exponent > MOST_EXPONENT:
            raise TooBig
        result = form
        for _ in range(exponent - 1):
            result = self.times(result, form)
        return result

    def monomial_power(self, monomial: Monomial, coefficient: Number, exponent: Number) -> Form:
        """(x ** 2) ** 0.5  →  |x|;  (x * y) ** 0.5 stays whole: both may be negative"""
        if whole(exponent):
            total: Form = {}
            self.insert(total, raised(monomial, exponent), 1)
            return self.times(total, self.number_power(coefficient, exponent))
        result = self.number_power(abs(Fraction(coefficient)), exponent)
        signed: list[tuple[int, Number]] = []
        for atom, e in monomial:
            one: Form = {((atom, 1),): 1}
            if not odd(e) and whole(e) and not self.nonnegative(one):
                one = self.absolute(one)
            elif odd(e) and not self.nonnegative(one):
                signed.append((atom, e))
                continue
            result = self.times(result, self.atom_power(one, number(e * exponent)))
        if len(signed) == 1 and coefficient > 0:
            return self.times(result, {raised(tuple(signed), exponent): 1})
        if signed:
            base = self.over("base", {tuple(signed): 1 if coefficient > 0 else -1})
            return self.times(result, {raised(m, exponent): c for m, c in base.items()})
        if coefficient < 0:
            raise TooBig  # the root of a number below zero
        return result

    def atom_power(self, form: Form, exponent: Number) -> Form:
        """The power of one atom that is not negative."""
        total: Form = {}
        for monomial in form:
            self.insert(total, raised(monomial, exponent), 1)
        return total

    def number_power(self, value: Number, exponent: Number) -> Form:
        """12 ** -0.5  →  1/6 * 3 ** 0.5"""
        if isinstance(exponent, int):
            if abs(exponent) > MOST_EXPONENT and abs(value) != 1:
                raise TooBig
            return constant(Fraction(value) ** exponent)
        exact, result = Fraction(value), {ONE: number(1)}
        for whole_number, sign in ((exact.numerator, 1), (exact.denominator, -1)):
            for prime, count in factors(whole_number):
                atom = self.named("number", (prime,), ())
                monomial = ((atom, number(sign * count * exponent)),)
                result = self.times(result, {monomial: 1})
        return result

    def content(self, form: Form, signed: bool) -> tuple[Number, Monomial, Form]:
        """A form as number * monomial * rest, the rest without common factor. If not `signed`, the
        number and the monomial are above zero."""
        factor = common_factor(form)
        if signed and form[max(form, key=order)] < 0:
            factor = -factor
        lowest: dict[int, Number] = {}
        every = {atom for monomial in form for atom, _ in monomial}
        for atom in every:
            least = min(dict(monomial).get(atom, 0) for monomial in form)
            if least and (signed or self.atoms[atom].kind in POSITIVE):
                lowest[atom] = least
        common = tuple(sorted(lowest.items()))
        under = raised(common, -1)
        rest = {joined(m, under): number(c / factor) for m, c in form.items()}
        return number(factor), common, rest

    def denominators(self, form: Iterable[Monomial]) -> Iterator[tuple[int, Number]]:
        """The powers below zero of sums in a form."""
        for monomial in form:
            for atom, exponent in monomial:
                if exponent < 0 and self.atoms[atom].kind == "base":
                    yield atom, exponent

    def cleared(self, form: Form) -> tuple[Form, Form]:
        """(form * factor, factor), where no sum is left in a denominator of the first."""
        lowest: dict[int, int] = {}
        for atom, exponent in self.denominators(form):
            lowest[atom] = min(lowest.get(atom, 0), math.floor(exponent))
        factor: Form = {ONE: 1}
        for atom, exponent in lowest.items():
            q: Form = dict(self.atoms[atom].parts[0])
            factor = self.times(factor, self.power(q, -exponent))
        return (self.times(form, factor) if lowest else form), factor

    def equal(self, a: Form, b: Form) -> bool:
        """Whether two forms are one rational function."""
        difference = plus(a, b, -1)
        for _ in range(4):
            if not difference or not any(self.denominators(difference)):
                break
            difference, _ = self.cleared(difference)
        return not difference

    # ------------------------------------------------------------ signs and conditions

    def nonnegative(self, form: Form) -> bool:
        """Whether a form is visibly not below zero: no term is, or it is |x| + x or |x| - x."""
        if all(c > 0 and all(self.never_negative(a, e) for a, e in m) for m, c in form.items()):
            return True
        for monomial, c in form.items():
            size = self.only_atom({monomial: 1})
            if size is not None and size.kind == "absolute" and c > 0:
                rest = plus(form, {monomial: 1}, -c)
                if rest in (scaled(dict(size.parts[0]), c), scaled(dict(size.parts[0]), -c)):
                    return True
        return False

    def never_negative(self, number_: int, exponent: Number) -> bool:
        atom = self.atoms[number_]
        if not odd(exponent) or atom.kind in (*POSITIVE, "absolute", "positive", "order", "truth"):
            return True  # a root is not negative where it is defined
        if atom.kind in ("sum", "max", "product"):
            return self.nonnegative(dict(atom.parts[1]))
        return atom.kind == "base" and self.nonnegative(dict(atom.parts[0]))

    def absolute(self, form: Form) -> Form:
        if self.nonnegative(form):
            return form
        if self.nonnegative(scaled(form, -1)):
            return scaled(form, -1)
        coefficient, common, q = self.content(form, signed=True)
        result = constant(abs(Fraction(coefficient)))
        for atom, exponent in common:
            inside: Form = {((atom, exponent),): 1}
            if not self.nonnegative(inside):
                whole_part = self.over("absolute", {((atom, 1),): 1})
                inside = self.atom_power(whole_part, exponent)
            result = self.times(result, inside)
        return result if q == {ONE: 1} else self.times(result, self.over("absolute", q))

    def rectified(self, form: Form) -> Form:
        """max(form, 0)  →  (form + |form|) / 2"""
        return scaled(plus(form, self.absolute(form)), Fraction(1, 2))

    def maximum(self, a: Form, b: Form) -> Form:
        low = self.infinity(-1)
        if low in (a, b):
            return b if a == low else a
        return plus(b, self.rectified(plus(a, b, -1)))

    def infinity(self, sign: int) -> Form:
        return scaled(self.atom("infinity", infinite=True), sign)

    def less(self, a: Form, b: Form) -> Form:
        """1 where a < b, else 0. What may be infinite is not subtracted: -inf < -inf + 1 is not
        0 < 1."""
        if self.finite(a) and self.finite(b):
            return self.positive(plus(b, a, -1))
        return self.over("order", a, b, integer=True, infinite=False)

    def positive(self, form: Form) -> Form:
        """1 where a form is above zero, else 0."""
        if not form:
            return {}
        if set(form) == {ONE}:
            return constant(int(form[ONE] > 0))
        if self.integral(form):
            return self.positive_integer(form)
        _, _, q = self.content(form, signed=False)
        return self.over("positive", q, integer=True)

    def positive_integer(self, form: Form) -> Form:
        """2 * i - 1 > 0  →  i > 0;  -i > 0  →  1 - (i + 1 > 0)"""
        rest = {m: c for m, c in form.items() if m != ONE}
        factor = common_factor(rest)
        up = rest[max(rest, key=order)] > 0
        steps = scaled(rest, (1 if up else -1) / factor)
        least = math.floor(-Fraction(form.get(ONE, 0)) / factor) + 1  # steps >= least, or -steps
        if up:
            return self.over("positive", plus(steps, constant(1 - least)), integer=True)
        above = self.over("positive", plus(steps, constant(least)), integer=True)
        return plus({ONE: 1}, above, -1)

    def where(self, condition: Form, a: Form, b: Form) -> Form:
        """b + condition * (a - b); of -inf in a branch a mask that is 0 or -inf"""
        low = self.infinity(-1)
        if a == b:
            return a
        if b == low and self.below_infinity(a):
            return plus(a, self.mask(condition))
        if a == low and self.below_infinity(b):
            return plus(b, self.mask(plus({ONE: 1}, condition, -1)))
        return plus(b, self.times(condition, plus(a, b, -1)))

    def below_infinity(self, form: Form) -> bool:
        """Whether a form is finite but for masks that are added to it."""
        return all(
            self.finite([monomial])
            or (c > 0 and len(monomial) == 1 and self.atoms[monomial[0][0]].kind == "mask")
            for monomial, c in form.items()
        )

    def mask(self, condition: Form) -> Form:
        """0 where the condition holds, else -inf."""
        if condition == {ONE: 1}:
            return {}
        return self.over("mask", condition, infinite=True)

    # ------------------------------------------------------------ exponentials and logarithms

    def exp(self, form: Form) -> Form:
        """exp(a + 2 * b)  →  exp(a) * exp(b) ** 2;  exp(2 * log(x))  →  x ** 2"""
        result: Form = {ONE: 1}
        for monomial, coefficient in form.items():
            inside = self.only_atom({monomial: 1})
            if inside is not None and inside.kind == "log":
                factor = self.power(dict(inside.parts[0]), coefficient)
            elif inside is not None and inside.kind == "mask" and coefficient > 0:
                factor = dict(inside.parts[0])
            else:
                factor = {((self.exponential(monomial), coefficient),): 1}
            result = self.times(result, factor)
        return result

    def exponential(self, monomial: Monomial) -> int:
        inside = [self.atoms[a] for a, _ in monomial]
        return self.named(
            "exp",
            (monomial,),
            union_of(inside),
            infinite=any(a.infinite for a in inside),
            level=max((a.level for a in inside), default=0),
        )

    def log(self, form: Form) -> Form:
        """log(2 * exp(a) * b)  →  log(2) + a + log(b)"""
        if not form:
            raise TooBig
        coefficient, common, q = self.content(form, signed=False)
        exact = Fraction(coefficient)
        total: Form = {}
        for whole_number, sign in ((exact.numerator, 1), (exact.denominator, -1)):
            for prime, count in factors(whole_number):
                total = plus(total, self.over("log", constant(prime)), sign * count)
        if len(q) == 1 and all(self.never_negative(a, 1) for m in q for a, _ in m):
            ((single, _),) = q.items()
            common, q = joined(common, single), {ONE: 1}
        for atom, exponent in common:
            if self.atoms[atom].kind == "exp":
                term: Form = {self.atoms[atom].parts[0]: 1}
            else:
                term = self.over("log", {((atom, 1),): 1})
            total = plus(total, term, exponent)
        return total if q == {ONE: 1} else plus(total, self.over("log", q))

    # ------------------------------------------------------------ reductions

    def size(self, axis: Axis) -> Form:
        if axis in self.sizes:
            return constant(self.sizes[axis])
        return self.atom("size", axis, integer=True)

    def label(self, axis: Axis) -> str:
        """What stands for the extent of an axis."""
        if axis[0] in "%?":
            return axis.partition(":")[2]
        return str(self.sizes[axis]) if axis in self.sizes else axis

    def sum(self, form: Form, over: Iterable[Axis]) -> Form:
        """Term by term: what lacks the axes goes out, what no axis connects is a sum of its own,
        and sums inside are summed at once."""
        over = tuple(over)
        total: Form = {}
        for monomial, coefficient in form.items():
            for opened, bound, factor in self.opened(monomial, over):
                part = scaled(self.product_sum(opened, bound), coefficient * factor)
                total = plus(total, part)
        return total

    def opened(
        self, monomial: Monomial, over: Sequence[Axis]
    ) -> Iterator[tuple[Monomial, list[Axis], Number]]:
        """A product with the sums inside opened that depend on the axes: (product, axes, factor)"""
        bound, result = list(over), {ONE: number(1)}
        for atom, exponent in monomial:
            inside: Form = {((atom, exponent),): 1}
            record = self.atoms[atom]
            if record.kind == "sum" and exponent == 1 and record.axes & set(over):
                names = {axis: self.another(axis) for axis in record.parts[0]}
                inside = self.moved(dict(record.parts[1]), renaming(names))
                bound += names.values()
            result = self.times(result, inside)
        for each, factor in result.items():
            yield each, bound, factor

    def another(self, axis: Axis) -> Axis:
        self.fresh += 1
        return f"?{self.fresh}:{self.label(axis)}"

    def product_sum(self, monomial: Monomial, bound: Iterable[Axis]) -> Form:
        """The sum of one product over axes."""
        groups: list[tuple[set[Axis], list[tuple[int, Number]]]] = []
        outside: list[tuple[int, Number]] = []
        result: Form = {ONE: 1}
        bound = tuple(bound)
        for atom, exponent in monomial:
            mine, factors_ = self.atoms[atom].axes & set(bound), [(atom, exponent)]
            if not mine:
                outside.append((atom, exponent))
                continue
            touching = [group for group in groups if group[0] & mine]
            groups = [group for group in groups if not group[0] & mine]
            joint = set(mine).union(*(axes for axes, _ in touching))
            groups.append((joint, [f for _, fs in touching for f in fs] + factors_))
        for axis in bound:
            if not any(axis in axes for axes, _ in groups):
                result = self.times(result, self.size_of(axis))
        for axes, members in groups:
            result = self.times(result, self.bound("sum", axes, {tuple(sorted(members)): 1}))
        return self.times(result, {tuple(outside): 1})

    def size_of(self, axis: Axis) -> Form:
        """The extent of an axis, which may be a bound one."""
        label = self.label(axis)
        return constant(int(label)) if label.isdigit() else self.size(label)

    def bound(self, kind: str, axes: Iterable[Axis], form: Form, integer: bool = False) -> Form:
        """The atom of a reduction: its axes get names that say only how long they are."""
        inside = [self.atoms[a] for monomial in form for a, _ in monomial]
        level = max((a.level for a in inside), default=0)
        best: tuple[tuple[Any, ...], tuple[Axis, ...], Form] | None = None
        for attempt in self.orders(axes):
            names = {
                axis: bound_name(level + 1 + k, self.label(axis)) for k, axis in enumerate(attempt)
            }
            body = self.moved(form, renaming(names))
            key = tuple(sorted((order(m), c) for m, c in body.items()))
            if best is None or key < best[0]:
                best = key, tuple(names.values()), body
        assert best is not None
        _, bound, body = best
        if set(bound) & (self.axes(form) - set(axes)):
            raise TooBig  # a name that means another axis here
        return self.atom(
            kind,
            bound,
            self.frozen(body),
            axes=self.axes(form) - set(axes),
            integer=integer or (self.integral(body) and all(map(whole, body.values()))),
            infinite=any(a.infinite for a in inside),
            level=level + len(bound),
        )

    def orders(self, axes: Iterable[Axis]) -> Iterator[tuple[Axis, ...]]:
        """The orders of axes to choose from: by their extents, equal ones in every order."""
        alike: dict[str, list[Axis]] = {}
        for axis in sorted(axes):
            alike.setdefault(self.label(axis), []).append(axis)
        groups = [alike[label] for label in sorted(alike)]
        if math.prod(math.factorial(len(group)) for group in groups) > MOST_ORDERS:
            raise TooBig
        for choice in product(*(permutations(group) for group in groups)):
            yield tuple(axis for group in choice for axis in group)

    def max(self, form: Form, over: Iterable[Axis]) -> Form:
        """max(2 * x + c)  →  2 * max(x) + c, where c lacks the axes"""
        moving, still = self.parted(form, over)
        if not moving:
            return still
        axes, factor = self.axes(moving) & set(over), common_factor(moving)
        q = scaled(moving, 1 / factor)
        inner = self.only_atom(q)
        if inner is not None and inner.kind == "max":
            names = {axis: self.another(axis) for axis in inner.parts[0]}
            q, axes = self.moved(dict(inner.parts[1]), renaming(names)), axes | {*names.values()}
        return plus(still, self.bound("max", axes, q), factor)

    def argmax(self, form: Form, axis: Axis) -> Form:
        """argmax(2 * x + c)  →  argmax(x), where c lacks the axis"""
        moving, _ = self.parted(form, [axis])
        if not moving:
            return {}
        q = scaled(moving, 1 / common_factor(moving))
        return self.bound("argmax", [axis], q, integer=True)

    def product(self, form: Form, over: Iterable[Axis]) -> Form:
        for axis in over:
            if axis in self.axes(form):
                form = self.bound("product", [axis], form)
            elif axis in self.sizes:
                form = self.power(form, self.sizes[axis])
            else:
                raise TooBig
        return form

    def parted(self, form: Form, over: Iterable[Axis]) -> tuple[Form, Form]:
        """The terms that depend on axes, and the others."""
        axes = set(over)
        moving = {m: c for m, c in form.items() if self.axes([m]) & axes}
        return moving, {m: c for m, c in form.items() if m not in moving}

    def only_atom(self, form: Form) -> Atom | None:
        """The atom that a form is."""
        match list(form.items()):
            case [(((atom, 1),), 1)]:
                return self.atoms[atom]
        return None

    # ------------------------------------------------------------ other atoms

    def position(self, axis: Axis) -> Form:
        return self.atom("position", axis, axes=[axis], integer=True)

    def read(self, base: tuple[Any, ...], index: Index, dtype: str) -> Form:
        """A tensor at an index. `base` says which: what makes it, over axes of its own."""
        kind = "truth" if dtype == "bool" else "read"
        integer = dtype == "bool" or not is_float(dtype)
        axes = [axis for _, i in index for axis in i.axes]
        return self.atom(kind, base, index, dtype, axes=axes, integer=integer)

    def function(self, name: str, *forms: Form) -> Form:
        """A function of which no more is known than its symmetry."""
        if name in ("erf", "sin", "round", "cos"):
            (form,) = forms
            if not form:
                return {} if name != "cos" else {ONE: 1}
            if form[max(form, key=order)] < 0:
                return scaled(
                    self.over("function", scaled(form, -1), name=name), 1 if name == "cos" else -1
                )
        return self.over("function", *forms, name=name, integer=name in ("round", "floor"))

    def floor(self, form: Form) -> Form:
        """floor(x + 2 * i)  →  2 * i + floor(x)"""
        steps = constant(math.floor(form.get(ONE, 0)))
        for monomial, c in form.items():
            if monomial and isinstance(c, int) and self.integral([monomial]):
                add(steps, monomial, c)
        rest = plus(form, steps, -1)
        return plus(steps, self.function("floor", rest)) if set(rest) - {ONE} else steps

    def index(self, index: Affine) -> Form:
        """The value of an index."""
        total = constant(index.offset)
        for axis, stride in index.terms:
            total = plus(total, self.position(axis), stride)
        if index.divide != 1:
            total = self.floor(scaled(total, Fraction(1, index.divide)))
        return self.modulo(total, constant(index.modulo)) if index.modulo else total

    def modulo(self, a: Form, b: Form) -> Form:
        """a - b * floor(a / b)"""
        return plus(a, self.times(b, self.floor(self.times(a, self.power(b, -1)))), -1)

    # ------------------------------------------------------------ other axes

    def moved(self, form: Form, to: Mapping[Axis, Affine]) -> Form:
        """A form with axes replaced by indices, everywhere in it."""
        total: Form = {}
        for monomial, coefficient in form.items():
            result: Form = {ONE: coefficient}
            for atom, exponent in monomial:
                axes = self.atoms[atom].axes
                mine = tuple((a, i) for a, i in to.items() if a in axes)
                one: Form = {((atom, 1),): 1} if not mine else self.place(atom, mine)
                result = self.times(result, self.power(one, exponent))
            total = plus(total, result)
        return total

    def place(self, atom: int, to: Index) -> Form:
        if (atom, to) not in self.places:
            self.places[atom, to] = self.placed(self.atoms[atom], dict(to))
        return self.places[atom, to]

    def placed(self, atom: Atom, to: Mapping[Axis, Affine]) -> Form:
        """An atom made again with other axes."""
        parts = atom.parts
        match atom.kind:
            case "position":
                return self.index(to[parts[0]])
            case "read" | "truth":
                return self.reread(parts[0], parts[1], parts[2], to)
            case "exp":
                return self.exp(self.moved({parts[0]: 1}, to))
            case "sum":
                return self.sum(self.moved(dict(parts[1]), to), parts[0])
            case "max":
                return self.max(self.moved(dict(parts[1]), to), parts[0])
            case "product":
                return self.product(self.moved(dict(parts[1]), to), parts[0])
            case "argmax":
                return self.argmax(self.moved(dict(parts[1]), to), parts[0][0])
            case "function":
                return self.function(parts[0], *(self.moved(dict(p), to) for p in parts[1:]))
        forms = [self.moved(dict(part), to) for part in parts]
        make: Mapping[str, Callable[..., Form]] = {
            "base": lambda q: q,
            "absolute": self.absolute,
            "positive": self.positive,
            "order": self.less,
            "mask": self.mask,
            "log": self.log,
        }
        return make[atom.kind](*forms)

    def reread(
        self, base: tuple[Any, ...], index: Index, dtype: str, to: Mapping[Axis, Affine]
    ) -> Form:
        """A tensor at an index over other axes; of values side by side perhaps one of them."""
        moved = []
        for axis, i in index:
            other = composed(i, to)
            if other is None:
                raise TooBig
            moved.append((axis, sorted_terms(other)))
        if base[0] == STACK and not moved[0][1].terms:
            return self.moved(dict(base[1][moved[0][1].offset]), dict(moved[1:]))
        return self.read(base, tuple(moved), dtype)
