"""Restricted Python as native code: one source that CPython runs as it is and LLVM compiles.

A function takes flat arrays and numbers, and calls functions of the same kind. Arrays that go
together are a NamedTuple of them, `tables.starts[i]`. Values are int (64 bits), float (64 bits) and
bool; narrow types live in arrays only. A variable keeps the type of its first assignment. What
CPython would not do either ends the call with a fault: an index outside, a number too large for its
array, an overflow, a division by zero. Negative indices are faults too.

Has: assignments, if, while, for over range, break, continue, return, assert; arithmetic, bits,
comparisons, `and`, `or`, `not`, conditional expressions, len, int, float, min, max, abs, of
`math` exp, log, sqrt, tanh, erf, sin, cos, and the words of `bits`.
Has not: everything else, which `RestrictedError` names.

Functions of modules that a library trusts, ours that tests hold against CPython, are not checked:
integers wrap there, and a fault in what they call does not end them.
"""

from . import arithmetic, expressions, kinds, library, source, statements
from .library import Library
from .source import RestrictedError

MODULES = (arithmetic, expressions, kinds, library, source, statements)
"""All that native code is written by: it changes when one of them does."""

__all__ = ["MODULES", "Library", "RestrictedError"]
