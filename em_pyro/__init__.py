"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .em import EM
from .errors import DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError
from .families import Family, Role, register
from .fit import Fit
from .plan import Plan
from .posterior import Posterior

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
    "Role",
    "register",
]
