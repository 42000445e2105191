"""Programs as native code.

| here | what lives there |
|---|---|
| `session.py`, `cache.py` | memory, runs, results; object files from run to run |
| `program/`, `rewriting/` | a program's loops and calls; the program that code is written for |
| `kernels/`, `contraction/`, `expressions/` | one instruction; sums of products; loops and values |
| `code/` | LLVM's language, processors, functions of numbers |
| `threads.py` | threads that share pieces of an issue |
| `restricted/`, `bits.py` | restricted Python: bodies of opaque instructions, the simulator |
"""

from .session import Compiled, Session, compile_program

__all__ = ["Compiled", "Session", "compile_program"]
