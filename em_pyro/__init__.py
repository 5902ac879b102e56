"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .after.fit import Fit
from .e_step.forward_backward import recursion
from .em import EM
from .errors import DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError, ProcessError
from .families import Family, Role, register
from .m_step.plan import Plan
from .posterior.posterior import Posterior

__all__ = [
    "EM",
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
    "ProcessError",
    "Role",
    "recursion",
    "register",
]
