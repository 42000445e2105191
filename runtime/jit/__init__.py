"""Programs as native code: see `program.py` for the walk, `kernel.py` for single instructions."""

from .session import Compiled, Session, compile_program

__all__ = ["Compiled", "Session", "compile_program"]
