"""The types of a kernel's parameters: flat arrays of one element type, indexed from 0.

A kernel is restricted Python. CPython runs it as it stands on memory views, whose items are Python
integers (NumPy scalars would wrap); a compiler reads the element type from the annotation's
metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

U8: TypeAlias = Annotated[memoryview, "u8"]
U16: TypeAlias = Annotated[memoryview, "u16"]
I32: TypeAlias = Annotated[memoryview, "i32"]
I64: TypeAlias = Annotated[memoryview, "i64"]
F64: TypeAlias = Annotated[Any, "f64"]

Kernel: TypeAlias = Callable[..., int]
Table: TypeAlias = NDArray[Any]


def run(
    kernel: Kernel, source: Table, count: int, target: Table, tables: Mapping[str, Table]
) -> int:
    """Run `kernel(source, count, target, tables...)` in CPython; the others name tables."""
    code = kernel.__code__
    names = code.co_varnames[3 : code.co_argcount]
    views = [tables[name].data for name in names]
    return kernel(source.data, count, target.data, *views)


def frozen(values: Any, dtype: type[np.generic]) -> Table:
    """A flat, contiguous, read-only array."""
    table: Table = np.ascontiguousarray(values, dtype).reshape(-1)
    table.flags.writeable = False
    return table
