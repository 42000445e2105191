"""Which of the ready issues a unit takes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from infinisa.runtime.simulator import POLICIES

from .hookspec import hookimpl


@hookimpl
def infinisa_policies() -> Mapping[str, Callable[..., Any]]:
    return POLICIES
