"""Whether two computations are one function, by values: both are evaluated at the same points.

Points are random at several scales, and where functions have corners also around the numbers of
both sides; logarithms and roots get positive values; what goes through comparisons or a maximum is
also tried with -inf, with -1e30 and with the least f32, in single places and in whole rows; what is
compared with an infinity or a large number, or asked whether it is NaN, with that.

`question.py` is one side, `answer.py` holds another against it; `points.py` draws inputs of the
lengths that `lengths.py` finds; `traits.py` says what a computation is made of, `comparing.py` how
far results are apart.
"""

from .answer import Answer, apart_if_alike, candidates_for, same, with_literals
from .comparing import distance
from .points import Array, Probe
from .question import NEAR, Question
from .traits import (
    MOST_POSITIONS,
    NARROW,
    functions_in,
    immediates_in,
    numbers_in,
    ordered,
)

__all__ = [
    "MOST_POSITIONS",
    "NARROW",
    "NEAR",
    "Answer",
    "Array",
    "Probe",
    "Question",
    "apart_if_alike",
    "candidates_for",
    "distance",
    "functions_in",
    "immediates_in",
    "numbers_in",
    "ordered",
    "same",
    "with_literals",
]
