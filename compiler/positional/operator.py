"""Operators: what a model file may say, in terms of positional tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from infinisa.isa.errors import InfinisaError, ModelError, PluginError

from .tensor import Tensor

Results: TypeAlias = "Tensor | Sequence[Tensor | None]"
Function: TypeAlias = Callable[..., Results]

Body: TypeAlias = Callable[..., list[Tensor]]
"""A graph inside an attribute, as a function of tensors."""

DEFAULT_DOMAIN = "ai.onnx"

TYPES: Mapping[int, str] = {
    1: "f32",
    2: "u8",
    3: "i8",
    5: "i16",
    6: "i32",
    7: "i64",
    9: "bool",
    10: "f16",
    11: "f64",
    16: "bf16",
}
"""Element types by their number in ONNX files."""


@dataclass(frozen=True)
class Operator:
    """An operator of a model file in the versions `since` to `until` (0: still so) of its domain.

    `function` takes the inputs in order (None for one that is left out) and the attributes by
    name, and returns the outputs. A parameter `outputs` is given how many of them the model names.
    """

    name: str
    function: Function
    domain: str = DEFAULT_DOMAIN
    since: int = 1
    until: int = 0

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.domain:
            raise PluginError(f"operator {self.name!r}: must have a name and a domain")
        if self.until and self.until < self.since:
            raise PluginError(
                f"operator {self.title}: until must be {self.since} or later, not {self.until}"
            )

    @property
    def title(self) -> str:
        """Its name as messages say it, such as `Gelu` or `com.example::SoftCap`."""
        return self.name if self.domain == DEFAULT_DOMAIN else f"{self.domain}::{self.name}"

    @property
    def key(self) -> str:
        """What tells it from other operators, its own other versions too."""
        return f"{self.title}@{self.since}" if self.since > 1 else self.title

    def serves(self, version: int) -> bool:
        return self.since <= version and (not self.until or version <= self.until)

    def apply(
        self, inputs: Sequence[Tensor | None], attributes: Mapping[str, Any], outputs: int
    ) -> list[Tensor | None]:
        """The outputs; ModelError if the inputs or attributes are not those of the operator."""
        signature = inspect.signature(self.function)
        given = dict(attributes)
        if "outputs" in signature.parameters:
            given["outputs"] = outputs
        try:
            signature.bind(*inputs, **given)
        except TypeError as error:
            raise ModelError(f"{error}") from None
        try:
            results = self.function(*inputs, **given)
        except InfinisaError:
            raise
        except Exception as error:
            raise ModelError(
                f"the operator's function raised {type(error).__name__}: {error}"
            ) from error
        return [results] if isinstance(results, Tensor) else list(results)


def operator(
    name: str, since: int = 1, until: int = 0, domain: str = DEFAULT_DOMAIN
) -> Callable[[Function], Operator]:
    """Make an operator of a function of tensors, as `@operator("Gelu", since=20)`."""
    return lambda function: Operator(name, function, domain, since, until)


def table(operators: Iterable[Operator]) -> dict[tuple[str, str], list[Operator]]:
    """Operators by domain and name; PluginError if two serve one version."""
    found: dict[tuple[str, str], list[Operator]] = {}
    for new in operators:
        others = found.setdefault((new.domain, new.name), [])
        for other in others:
            if other.serves(new.since) or new.serves(other.since):
                raise PluginError(f"operator {new.title}: version {new.since} is defined twice")
        others.append(new)
    return found
