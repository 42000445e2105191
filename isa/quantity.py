"""Numbers with units, as people write them: '1 MiB', '34 GB/s', '700 MHz'. Nothing is rounded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

NUMBER_AND_UNIT = re.compile(
    r"(\d{1,30}(?:\.\d{1,30})?(?:[eE][+-]?\d{1,3})?) ?([A-Za-z/]+)", re.ASCII
)

DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A kind of number with a unit: how people are asked for it, and what each unit is worth.

    `written` are the units that `write` may choose from, smallest first; the first is worth 1.
    """

    words: str
    units: Mapping[str, int | Fraction]
    written: tuple[str, ...]

    def read(self, text: object) -> Fraction:
        """The exact number of base units; ValueError says what the text must be."""
        match = NUMBER_AND_UNIT.fullmatch(text) if isinstance(text, str) else None
        if match is None or match[2] not in self.units:
            raise ValueError(f"must be {self.words}, not {text!r}")
        return Fraction(match[1]) * self.units[match[2]]

    def read_whole(self, text: object) -> int:
        """The number of base units, which must be whole."""
        value = self.read(text)
        if value.denominator != 1:
            raise ValueError(f"must be a whole number of {self.written[0]}, not {text!r}")
        return value.numerator

    def read_float(self, text: object) -> float:
        """The number of base units as the nearest float."""
        try:
            return float(self.read(text))
        except OverflowError:
            raise ValueError(f"must be {self.words}, not {text!r}") from None

    def write(self, value: int | float) -> str:
        """The shortest text that reads back as `value`: in the largest unit that divides it."""
        divides = [unit for unit in self.written if value and value % self.units[unit] == 0]
        unit = divides[-1] if divides else self.written[0]
        if unit == self.written[0]:
            return f"{value!r} {unit}"
        return f"{value // self.units[unit]} {unit}"


def _prefixed(unit: str, *prefixes: Mapping[str, int]) -> dict[str, int]:
    return {prefix + unit: worth for table in prefixes for prefix, worth in table.items()}


SIZE = Quantity(
    words="a size such as '1 MiB'",
    units=_prefixed("B", DECIMAL, BINARY),
    written=("B", "KiB", "MiB", "GiB", "TiB"),
)
RATE = Quantity(
    words="a rate such as '34 GB/s'",
    units=_prefixed("B/s", DECIMAL, BINARY),
    written=("B/s", "kB/s", "MB/s", "GB/s", "TB/s"),
)
FREQUENCY = Quantity(
    words="a frequency such as '700 MHz'",
    units=_prefixed("Hz", DECIMAL),
    written=("Hz", "kHz", "MHz", "GHz"),
)
ENERGY = Quantity(
    words="an energy such as '0.2 pJ'",
    units={"pJ": 1, "nJ": 1000, "fJ": Fraction(1, 1000)},
    written=("pJ",),
)
POWER = Quantity(
    words="a power such as '28 W'",
    units={"W": 1, "mW": Fraction(1, 1000)},
    written=("W",),
)
