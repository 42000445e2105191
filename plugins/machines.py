"""The machines that are shipped: the files of isa/machines."""

from collections.abc import Sequence
from pathlib import Path

from infinisa.isa.machine import builtin_machine_files

from .hookspec import hookimpl


@hookimpl
def infinisa_machines() -> Sequence[Path]:
    return builtin_machine_files()
