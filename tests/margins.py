"""Sessions whose memory has margins: native code checks no bounds, so we look at what it wrote."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.runtime.jit.session import ALIGNMENT, SLACK, Session

Bytes = NDArray[np.uint8]
MARK = 0xA5


class Margins:
    """Memory that sessions asked for, while they have it: where it begins, and its size."""

    def __init__(self) -> None:
        self.made: list[tuple[weakref.ref[Bytes], int, int]] = []

    def allocate(self, size: int) -> Bytes:
        """Zeros at an aligned address with slack behind, and a page of marks on either side."""
        size += SLACK
        raw = np.zeros(size + 3 * ALIGNMENT, np.uint8)
        start = ALIGNMENT + -raw.ctypes.data % ALIGNMENT
        raw[:start] = raw[start + size :] = MARK
        self.made.append((weakref.ref(raw), start, size))
        return raw[start : start + size]

    def check(self) -> None:
        """AssertionError, once, if anything around memory was written."""
        made, self.made = self.made, []
        for known, start, size in made:
            raw = known()
            if raw is None:
                continue
            for name, part in (("before", raw[:start]), ("behind", raw[start + size :])):
                wrong = np.flatnonzero(part != MARK)
                assert not wrong.size, f"{wrong.size} bytes {name} {size} were written: {wrong[:8]}"
            self.made.append((known, start, size))


def around_sessions(patch: Any) -> None:
    """All sessions that are made from now on look at what is around their memory."""
    margins, section = Margins(), Session._section

    def checked(session: Session, name: str) -> None:
        section(session, name)
        margins.check()

    patch.setattr("infinisa.runtime.jit.session._bytes", margins.allocate)
    patch.setattr(Session, "_section", checked)
