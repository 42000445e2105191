"""InfinISA: a simulator of AI accelerators whose instruction set has no end.

An instruction is a small tensor function. `@instruction` makes one; a plugin's
`infinisa_instructions` hook hands it over; `load`, `compile`, `simulate`, `run` and `compare` use it.
"""

from .isa.errors import InfinisaError
from .isa.instruction import StepOf, instruction, opaque
from .isa.language import (
    absolute,
    argmax,
    cast,
    cos,
    dot,
    equal,
    erf,
    exp,
    gather,
    log,
    max,
    maximum,
    mean,
    min,
    minimum,
    position,
    relu,
    rename,
    rsqrt,
    scan,
    sigmoid,
    sin,
    size,
    sqrt,
    stack,
    sum,
    tanh,
    update,
    view,
    where,
)
from .plugins.hookspec import hookimpl

__version__ = "0.1.0"

__all__ = [
    "InfinisaError",
    "StepOf",
    "absolute",
    "argmax",
    "cast",
    "cos",
    "dot",
    "equal",
    "erf",
    "exp",
    "gather",
    "hookimpl",
    "instruction",
    "log",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "opaque",
    "position",
    "relu",
    "rename",
    "rsqrt",
    "scan",
    "sigmoid",
    "sin",
    "size",
    "sqrt",
    "stack",
    "sum",
    "tanh",
    "update",
    "view",
    "where",
]
