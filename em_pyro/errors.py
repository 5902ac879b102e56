"""Every exception of the package, one class for each thing that a caller might catch.

Messages name the site, what was expected, what was found and the remedy, in that order.
"""

from importlib import import_module
from typing import Any


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


def library(name: str, wanted_by: str, install: str) -> Any:
    """Import a library that em_pyro does without.

    Args:
        name: of its module.
        wanted_by: what was called.
        install: what pip is to install.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"{wanted_by}: expected {name}, which is not installed. pip install {install}."
        ) from missing
