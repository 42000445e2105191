"""Processors that code is written for, and what the system tells of this one."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from infinisa.isa.errors import CompileError

FIRST_CACHE, SECOND_CACHE = 32 << 10, 1 << 20
"""Bytes, where the system does not tell."""


SSE = ("sse2", "sse4.2")
AVX2 = (*SSE, "avx", "avx2", "fma", "f16c")
AVX512 = (*AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq")
PROCESSORS = {
    "avx512": (16, 32, "", "x86-64-v4", AVX512),
    "avx2": (8, 16, "", "x86-64-v3", AVX2),
    "sse": (4, 16, "", "x86-64-v2", SSE),
    "neon": (4, 32, "aarch64-unknown-linux-gnu", "generic", ("neon",)),
}
"""Lanes, registers, the system (default: this one), LLVM's name and the features, as far as our
code asks for them, of each kind of processor; the first that this one is serves it best."""


LINE = 64
"""Bytes of a line of memory."""


@dataclass(frozen=True)
class Target:
    """What code is written for: lanes of an f32 vector, how many vector registers, features.

    triple, cpu, flags  LLVM's names of the system and the processor, and the features it may use
    first, second       bytes of these caches
    """

    lanes: int
    registers: int
    features: frozenset[str]
    triple: str = ""
    cpu: str = ""
    flags: str = ""
    first: int = FIRST_CACHE
    second: int = SECOND_CACHE

    @classmethod
    @cache
    def host(cls) -> Target:
        """The widest vectors of this processor."""
        found = frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)
        kinds = (name for name, given in PROCESSORS.items() if found.issuperset(given[-1]))
        given = cls.named(next(kinds, "sse"))
        return replace(
            given,
            features=found,
            triple=llvm.get_default_triple(),
            cpu=llvm.get_host_cpu_name(),
            flags=llvm.get_host_cpu_features().flatten(),
            first=cache_size(1) or FIRST_CACHE,
            second=cache_size(2) or SECOND_CACHE,
        )

    @classmethod
    def scalar(cls) -> Target:
        """Nothing of this processor: one number at a time, but for the register tiles of sums."""
        return replace(
            cls.host(),
            lanes=1,
            registers=16,
            features=frozenset(),
            first=FIRST_CACHE,
            second=SECOND_CACHE,
        )

    @classmethod
    def named(cls, name: str) -> Target:
        """A kind of processor, at least, whichever this one is."""
        if name not in PROCESSORS:
            raise CompileError(f"target must be {', '.join(PROCESSORS)}, not {name!r}")
        lanes, registers, triple, cpu, features = PROCESSORS[name]
        return cls(lanes, registers, frozenset(features), triple or llvm.get_default_triple(), cpu)

    @property
    def converts_half(self) -> bool:
        """Whether an instruction converts f16."""
        return bool({"f16c", "neon"} & self.features)

    @property
    def fuses(self) -> bool:
        """Whether an instruction multiplies and adds, rounding once."""
        return bool({"fma", "neon"} & self.features)

    @property
    def compares(self) -> bool:
        """Whether the larger of two numbers is one instruction only if it may forget a NaN."""
        return "sse2" in self.features

    def missing(self) -> list[str]:
        """What the code may use and this processor does not have."""
        return sorted(self.features - Target.host().features)

    def machine(self) -> Any:
        """LLVM's description of it."""
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.initialize_native_asmparser()
        if self.triple != llvm.get_default_triple():
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
        return llvm.Target.from_triple(self.triple).create_target_machine(
            cpu=self.cpu, features=self.flags, opt=2, codemodel="jitdefault", jit=True
        )


@cache
def cache_size(level: int) -> int:
    """Bytes of a core's cache for data; 0 where the system does not tell."""
    for index in range(8):
        folder = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}")
        with contextlib.suppress(OSError, ValueError):
            given = [(folder / name).read_text("utf-8").strip() for name in ("level", "type")]
            if given[0] == str(level) and given[1] != "Instruction":
                size = (folder / "size").read_text("utf-8").strip()
                return int(size.rstrip("KM")) << {"K": 10, "M": 20}.get(size[-1], 0)
    return 0
