"""Exact Expectation-Maximisation on ordinary, unmodified Pyro models.

What a first fit does not need is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .after.fit import Fit
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

if TYPE_CHECKING:
    from .after.criteria import Criteria
    from .after.drawn.predictive import PredictiveCheck, predictive_check
    from .after.inference_data import to_inference_data
    from .after.load import load
    from .after.summary import Summary
    from .compare.race import race
    from .e_step.forward_backward.compiled import recursion
    from .selection.bootstrap import LikelihoodRatio, bootstrap_lrt
    from .selection.cross_validate import CrossValidation, cross_validate
    from .selection.select import select
    from .selection.selection import Selection
    from .variational.fit import VariationalFit
    from .variational.normal_wishart import NormalWishart
    from .variational.stick_breaking import StickBreaking
    from .variational.variational import VariationalEM

__version__ = "0.1.0"

_LATE = {
    "Criteria": "after.criteria",
    "CrossValidation": "selection.cross_validate",
    "LikelihoodRatio": "selection.bootstrap",
    "NormalWishart": "variational.normal_wishart",
    "PredictiveCheck": "after.drawn.predictive",
    "Selection": "selection.selection",
    "StickBreaking": "variational.stick_breaking",
    "Summary": "after.summary",
    "VariationalEM": "variational.variational",
    "VariationalFit": "variational.fit",
    "bootstrap_lrt": "selection.bootstrap",
    "cross_validate": "selection.cross_validate",
    "load": "after.load",
    "predictive_check": "after.drawn.predictive",
    "race": "compare.race",
    "recursion": "e_step.forward_backward.compiled",
    "select": "selection.select",
    "to_inference_data": "after.inference_data",
}
"""Names that a first fit does not need, and the modules that are imported when they are asked for."""

_ROOMS = frozenset({"compare", "plotting", "selection", "variational"})
"""Packages that are imported when they are asked for."""

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


def __dir__() -> list[str]:
    """List what is imported late, too."""
    return sorted({*globals(), *_LATE, *_ROOMS})


if not TYPE_CHECKING:  # a checker sees the imports above, and complains of other names

    def __getattr__(name: str) -> Any:
        """Import what is asked for late, and keep it."""
        if name in _ROOMS:
            return import_module(f".{name}", __name__)
        if name not in _LATE:
            raise AttributeError(f'module "{__name__}" has no attribute "{name}"')
        found = getattr(import_module(f".{_LATE[name]}", __name__), name)
        globals()[name] = found
        return found
