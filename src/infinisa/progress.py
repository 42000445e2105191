"""Progress on standard error for work that takes longer than two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PATIENCE = 2.0
"""Seconds before anything is shown."""


class Meter:
    """Tells how far one piece of work is; silent until it has taken `PATIENCE` seconds."""

    def __init__(self, what: str, enabled: bool) -> None:
        self.what, self.enabled = what, enabled
        self.began = time.monotonic()
        self.bar: Progress | None = None

    def __call__(self, step: str, done: int = 0, total: int | None = None) -> None:
        """Note that `step` is at `done` of `total` (None: unknown)."""
        if self.bar is None and self.enabled and time.monotonic() - self.began > PATIENCE:
            self.bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                console=Console(file=sys.stderr),
                transient=True,
            )
            self.bar.add_task(self.what, total=None)
            self.bar.start()
        if self.bar is not None:
            task = self.bar.task_ids[0]
            self.bar.update(task, description=f"{self.what}: {step}", completed=done, total=total)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


@contextmanager
def progress(what: str) -> Iterator[Meter]:
    """A meter for the work inside the `with` block; the line disappears when it ends.

    Only a terminal sees it: a file or a pipe on standard error gets messages alone.
    """
    meter = Meter(what, sys.stderr.isatty())
    try:
        yield meter
    finally:
        meter.close()
