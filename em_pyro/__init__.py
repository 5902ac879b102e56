"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .after.criteria import Criteria
from .after.fit import Fit
from .e_step.forward_backward import recursion
from .em import EM
from .errors import DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError
from .families import Family, Role, register
from .m_step.plan import Plan
from .posterior.posterior import Posterior
from .selection.select import select
from .selection.selection import Selection

__all__ = [
    "EM",
    "Criteria",
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
    "Selection",
    "recursion",
    "register",
    "select",
]
