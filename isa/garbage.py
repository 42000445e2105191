"""Python's search for garbage that refers to itself, put off while much is made that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no cycles inside. A compiler makes ever more that stays and hardly a cycle: each
    search walks through all of it and finds nothing, which took a fifth of the time of a cover.
    What was made counts as old afterwards, so that the next search of what is young does not go
    through it either; one through all, which comes as often as ever, does."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            if not gc.get_freeze_count():  # else thawing would undo what somebody froze
                gc.freeze()
                gc.unfreeze()
            gc.enable()
