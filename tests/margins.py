"""Sessions whose memory has margins: native code checks no bounds, so we look at what it wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infinisa.runtime.jit.session import ALIGNMENT, SLACK, Session

Bytes = NDArray[np.uint8]
MARK = 0xA5


class Margins:
    """What is around the memory that a session asks for while it is made."""

    def __init__(self) -> None:
        self.around: list[tuple[str, Bytes]] = []

    def allocate(self, size: int) -> Bytes:
        """Zeros at an aligned address with slack behind, and a page of marks on either side."""
        raw = np.zeros(size + SLACK + 3 * ALIGNMENT, np.uint8)
        start = ALIGNMENT + -raw.ctypes.data % ALIGNMENT
        end = start + size + SLACK
        found = [("in front of", raw[:start]), ("behind", raw[end:])]
        for name, margin in found:
            margin[:] = MARK
            self.around.append((f"{name} {size} bytes", margin))
        return raw[start:end]

    def check(self) -> None:
        for name, margin in self.around:
            wrong = np.flatnonzero(margin != MARK)
            assert not wrong.size, f"{wrong.size} bytes {name} were written, at {wrong[:8]}"


def around_sessions(patch: Any) -> None:
    """All sessions that are made from now on look at what is around their memory."""
    make, section = Session.__init__, Session._section
    current = [Margins()]

    def made(session: Session, *given: Any) -> None:
        current[0] = session.margins = Margins()  # type: ignore[attr-defined]  # ours alone
        make(session, *given)
        current[0] = Margins()

    def checked(session: Session, name: str) -> None:
        section(session, name)
        session.margins.check()  # type: ignore[attr-defined]  # as above

    patch.setattr("infinisa.runtime.jit.session._bytes", lambda size: current[0].allocate(size))
    patch.setattr(Session, "__init__", made)
    patch.setattr(Session, "_section", checked)
