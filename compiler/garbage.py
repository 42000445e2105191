"""Python's search for garbage that refers to itself, put off while the compiler works."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no cycles inside. A compiler makes ever more that stays and hardly a cycle: each
    search walks through all of it and finds nothing, which took a fifth of the time of a cover."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
