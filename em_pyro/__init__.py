"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .after.fit import Fit
from .after.load import load
from .e_step.forward_backward import recursion
from .em import EM
from .errors import CheckpointWarning, DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError
from .families import Family, Role, register
from .m_step.plan import Plan
from .posterior.posterior import Posterior

__all__ = [
    "EM",
    "CheckpointWarning",
    "DataError",
    "EMError",
    "Family",
    "Fit",
    "ModelError",
    "ObjectiveError",
    "ParameterError",
    "Plan",
    "PlanError",
    "Posterior",
    "Role",
    "load",
    "recursion",
    "register",
]
