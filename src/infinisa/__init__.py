"""InfinISA: a simulator of AI accelerators whose instruction set has no end.

An instruction is a small tensor function. `@instruction` makes one, a plugin's hook
`infinisa_instructions` hands it over, and `load`, `compile`, `simulate`, `run`, `compare` use it.
"""

from infinisa.compiler.choice import Trust
from infinisa.isa.errors import InfinisaError
from infinisa.isa.instruction import instruction, opaque
from infinisa.isa.language import (
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
from infinisa.isa.laws import Associative, LinearIn, StepOf
from infinisa.plugins.hookspec import hookimpl

from .api import check, compare, discover, load, read_program

__version__ = "0.1.0"

__all__ = [
    "Associative",
    "InfinisaError",
    "LinearIn",
    "StepOf",
    "Trust",
    "absolute",
    "argmax",
    "cast",
    "check",
    "compare",
    "cos",
    "discover",
    "dot",
    "equal",
    "erf",
    "exp",
    "gather",
    "hookimpl",
    "instruction",
    "load",
    "log",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "opaque",
    "position",
    "read_program",
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
