"""A config.json: values by key, checked one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infinisa.isa.errors import ModelError

from .checkpoint import read_object


@dataclass(frozen=True)
class Config:
    """The keys of a configuration file. A missing key without a default is an error."""

    file: Path
    values: Mapping[str, Any]

    def error(self, key: str, must: str) -> ModelError:
        value = self.values.get(key)
        return ModelError(f"{self.file}: {key} must be {must}, not {value!r}")

    def _get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        value = self._get(key, default)
        if type(value) is not int or value < 1:
            raise self.error(key, "a positive integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def word(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.error(key, "text")
        return value

    def section(self, key: str) -> Config | None:
        """An object of its own; None where there is none."""
        value = self._get(key, None)
        if value is not None and not isinstance(value, dict):
            raise self.error(key, "an object")
        return None if value is None else Config(self.file, value)

    def require(self, key: str, value: object, default: object) -> None:
        """Refuse what the reader does not build."""
        if self._get(key, default) != value:
            raise self.error(key, repr(value))

    def divided(self, key: str, by: str) -> int:
        """A count that another count divides: the quotient."""
        whole, part = self.count(key), self.count(by)
        if whole % part:
            raise self.error(key, f"a multiple of {by} ({part})")
        return whole // part


def read_config(path: Path) -> Config:
    return Config(path, read_object(path))
