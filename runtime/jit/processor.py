"""What the system tells of this processor's caches."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

FIRST_CACHE, SECOND_CACHE = 32 << 10, 1 << 20
"""Bytes, where the system does not tell."""


@cache
def cache_bytes(level: int) -> int:
    """Of the first (data) or second cache of a core."""
    for index in range(8):
        folder = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}")
        with contextlib.suppress(OSError, ValueError):
            given = [(folder / name).read_text("utf-8").strip() for name in ("level", "type")]
            if given[0] == str(level) and given[1] != "Instruction":
                size = (folder / "size").read_text("utf-8").strip()
                return int(size.rstrip("KM")) << {"K": 10, "M": 20}.get(size[-1], 0)
    return FIRST_CACHE if level == 1 else SECOND_CACHE
