"""The same contract as a C program for one machine, see `scoreboard.c`."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np

from infinisa.isa.machine import Machine
from infinisa.isa.program import Program, extents, stream
from infinisa.runtime.simulator.shapes import Costs, View

from ._streams import LIBRARY

READS, WRITES = 3, 1
SOURCE = Path(__file__).with_name("scoreboard.c")


def available() -> bool:
    return shutil.which("gcc") is not None


def compiled(machine: Machine, folder: Path) -> ctypes.CDLL:
    """The program for a machine, by gcc."""
    dispatch, units = machine.dispatch, machine.units
    copies = sum(1 << k for k, unit in enumerate(units) if unit.kind == "copy")
    numbers = {
        "WINDOW": dispatch.window,
        "FETCH": dispatch.fetch,
        "ISSUE": dispatch.issue,
        "CLASSES": len(units),
        "ARRIVAL": machine.dram.latency,
        "COPIES": copies,
        "READS": READS,
        "WRITES": WRITES,
    }
    place = folder / "scoreboard.so"
    flags = [f"-D{name}={number}" for name, number in numbers.items()]
    command = ["gcc", "-O3", "-march=native", "-shared", "-fPIC", *flags, str(SOURCE)]
    subprocess.run([*command, "-o", str(place)], check=True)
    return ctypes.CDLL(str(place))


class Written:
    """A program of one stage for the C program: written out, its shapes numbered."""

    def __init__(self, program: Program, machine: Machine, library: ctypes.CDLL) -> None:
        (section,) = program.sections
        (stage,) = section.stages
        view = View(program, machine, Costs(program, LIBRARY, machine), section, stage)
        numbers: dict[int, int] = {}
        shapes: list[list[int]] = []
        order = []
        for issue, ranges in stream(stage, extents(section, {})):
            shape = view.shape(view.texts[id(issue)], ranges)
            if id(shape) not in numbers:
                numbers[id(shape)] = len(shapes)
                sides = (shape.reads, READS), (shape.writes, WRITES), (shape.stores, 1)
                hazards = [
                    number + 1 for side, room in sides for number in (*side, *[-1] * room)[:room]
                ]
                shapes.append([shape.unit, shape.occupancy, shape.drain, shape.transfer, *hazards])
            order.append(numbers[id(shape)])
        self.shapes = np.array(shapes, np.int32)
        self.order = np.array(order, np.int32)
        self.hazards = len(view.numbers) + 1
        self.accounts = np.zeros((len(machine.units) + 1, 4 + len(machine.units)), np.int64)
        self.events = np.empty((0, 4), np.int64)
        self.function = library.simulate
        self.function.restype = ctypes.c_int64

    def run(self) -> int:
        """When the last issue is done; `events` has the times of each, in memory made for them, as
        the engine does."""
        self.events = np.empty((len(self.order), 4), np.int64)
        hazards = np.zeros((self.hazards, 3), np.uint64)
        self.accounts[:] = 0
        arrays = self.shapes, self.order, hazards, self.events, self.accounts
        shapes, order, masks, events, accounts = (
            ctypes.c_void_p(array.ctypes.data) for array in arrays
        )
        size = ctypes.c_int64(len(self.order))
        return int(self.function(shapes, order, size, masks, events, accounts))
