"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models."""

from .after.criteria import Criteria
from .after.drawn.predictive import PredictiveCheck, predictive_check
from .after.fit import Fit
from .after.inference_data import to_inference_data
from .after.load import load
from .after.summary import Summary
from .compare.race import race
from .e_step.forward_backward import recursion
from .em import EM
from .errors import (
    CheckpointWarning,
    DataError,
    EMError,
    ModelError,
    ObjectiveError,
    ParameterError,
    PlanError,
    ProcessError,
)
from .families import Family, Role, register
from .fit.loop import State
from .m_step.plan import Plan
from .posterior.posterior import Posterior
from .program.data.columns import columns
from .selection.bootstrap import LikelihoodRatio, bootstrap_lrt
from .selection.cross_validate import CrossValidation, cross_validate
from .selection.select import select
from .selection.selection import Selection
from .variational.fit import VariationalFit
from .variational.normal_wishart import NormalWishart
from .variational.stick_breaking import StickBreaking
from .variational.variational import VariationalEM

__version__ = "0.1.0"

__all__ = [
    "EM",
    "CheckpointWarning",
    "Criteria",
    "CrossValidation",
    "DataError",
    "EMError",
    "Family",
    "Fit",
    "LikelihoodRatio",
    "ModelError",
    "NormalWishart",
    "ObjectiveError",
    "ParameterError",
    "Plan",
    "PlanError",
    "Posterior",
    "PredictiveCheck",
    "ProcessError",
    "Role",
    "State",
    "__version__",
    "Selection",
    "Summary",
    "bootstrap_lrt",
    "columns",
    "cross_validate",
    "load",
    "predictive_check",
    "race",
    "StickBreaking",
    "VariationalEM",
    "VariationalFit",
    "recursion",
    "register",
    "select",
    "to_inference_data",
]
