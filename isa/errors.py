"""Errors that a person can act on: what, which, what must be, what is."""


class InfinisaError(Exception):
    """Anything a user can cause. Its message is one clear sentence; commands end with status 2."""


class LanguageError(InfinisaError):
    """An expression of the tensor language that has no meaning."""


class MachineError(InfinisaError):
    """A machine description that cannot be built."""


class ModelError(InfinisaError):
    """A model that cannot be read, or whose shapes or operators do not fit together."""


class CompileError(InfinisaError):
    """A model that cannot be compiled for a machine."""


class ProgramError(InfinisaError):
    """A program that breaks a rule of the instruction set."""


class PluginError(InfinisaError):
    """A plugin that breaks the contract of `plugins/hookspec.py`."""


class SimulationError(InfinisaError):
    """A simulation that cannot go on."""
