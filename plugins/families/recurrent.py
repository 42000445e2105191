"""Cells of recurrent networks.

A recurrence is a scan in the language (`isa.formulas`: rnn, lstm, gru): each step is a product of
the hidden state with the recurrent weights, which is a `matmul`, and one of these cells. So that a
step depends on the one before stays in the program and shows in its time.
"""

from collections.abc import Sequence

from infinisa.isa import formulas
from infinisa.isa.instruction import Instruction, instruction

from ..hookspec import hookimpl


@instruction(unit="vector")
def rnn_cell(inputs: "n", recurrent: "n"):
    """The next hidden of a simple recurrent network."""
    return formulas.rnn_cell(inputs, recurrent)


@instruction(unit="vector")
def lstm_cell(entry: "n", exit: "n", forget: "n", candidate: "n", cell: "n"):
    """The next hidden and the next cell, from the gates' arguments and the cell before."""
    return formulas.lstm_cell(entry, exit, forget, candidate, cell)


@instruction(unit="vector")
def gru_reset(reset: "n", hidden: "n"):
    """What the reset gate leaves of the hidden."""
    return formulas.gru_reset(reset, hidden)


@instruction(unit="vector")
def gru_cell(keep: "n", candidate: "n", hidden: "n"):
    """The next hidden; the candidate saw the hidden after `gru_reset`."""
    return formulas.gru_cell(keep, candidate, hidden)


@instruction(unit="vector")
def gru_cell_linear(keep: "n", reset: "n", inputs: "n", recurrent: "n", hidden: "n"):
    """The next hidden; the reset gate acts behind the recurrent weights."""
    return formulas.gru_cell_linear(keep, reset, inputs, recurrent, hidden)


@hookimpl
def infinisa_instructions() -> Sequence[Instruction]:
    return [rnn_cell, lstm_cell, gru_reset, gru_cell, gru_cell_linear]
