"""How transfers share DRAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from infinisa.runtime.simulator import CHANNELS, ChannelModel

from .hookspec import hookimpl


@hookimpl
def infinisa_memories() -> Mapping[str, Callable[..., ChannelModel]]:
    return CHANNELS
