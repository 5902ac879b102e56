"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .after.fit import Fit
from .e_step.forward_backward import recursion
from .em import EM
from .errors import DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError
from .families import Family, Role, register
from .m_step.plan import Plan
from .posterior.posterior import Posterior
from .variational.fit import VariationalFit
from .variational.normal_wishart import NormalWishart
from .variational.stick_breaking import StickBreaking
from .variational.variational import VariationalEM

__all__ = [
    "EM",
    "DataError",
    "EMError",
    "Family",
    "Fit",
    "ModelError",
    "NormalWishart",
    "ObjectiveError",
    "ParameterError",
    "Plan",
    "PlanError",
    "Posterior",
    "Role",
    "StickBreaking",
    "VariationalEM",
    "VariationalFit",
    "recursion",
    "register",
]
