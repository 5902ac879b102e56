"""Every exception of the package, one class for each thing that a caller might catch.

Messages name the site, what was expected, what was found and the remedy, in that order.
"""


class EMError(Exception):
    """Base of every error that em_pyro raises on purpose."""


class ModelError(EMError, ValueError):
    """The program is one on which exact EM is not defined, or is silently wrong."""


class DataError(EMError, ValueError):
    """The data cannot be used: not finite, outside a support, empty, or impossible under the model."""


class ParameterError(EMError, ValueError):
    """A starting value, a parameter name or an option does not fit the program."""


class PlanError(EMError, ValueError):
    """A closed form was demanded where the plan has none."""


class ProcessError(EMError, RuntimeError):
    """Another process of a group does not answer: it has ended, or hangs."""


class ObjectiveError(EMError, RuntimeError):
    """The objective fell, or is not finite: the theorem of EM was violated."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the fit goes on without it, and its notes say so."""
