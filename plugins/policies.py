"""Which of the ready issues a unit takes next."""

from __future__ import annotations

from collections.abc import Mapping

from infinisa.runtime.simulator import POLICIES, Policy

from .hookspec import hookimpl


@hookimpl
def infinisa_policies() -> Mapping[str, Policy]:
    return POLICIES
