"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .after.fit import Fit
from .e_step.forward_backward import recursion
from .em import EM
from .errors import DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError
from .families import Family, Role, register
from .fit.loop import State
from .m_step.plan import Plan
from .posterior.posterior import Posterior
from .version import __version__

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
    "State",
    "__version__",
    "recursion",
    "register",
]
