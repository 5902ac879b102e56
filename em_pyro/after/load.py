"""From a file to a fit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from .. import files
from ..errors import ModelError, ParameterError
from ..fit.acceleration.accelerated import Accelerated
from ..fit.acceleration.quasi_newton import QuasiNewton
from ..fit.acceleration.secants import Secants
from ..fit.acceleration.squarem import Squarem
from ..fit.endings import OUTCOMES
from ..fit.starting.runs import Maximum, Start, Starts
from ..m_step.ascent.climbs import Climb
from ..m_step.plan import Line, Plan
from ..program.handlers import alone
from .criteria import Criteria
from .fit import Fit
from .source import FORM, KIND, WHOSE, Source, same_data

KINDS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (
        Fit,
        Starts,
        Start,
        Maximum,
        Plan,
        Line,
        Climb,
        Accelerated,
        Squarem,
        QuasiNewton,
        Secants,
        Source,
        Criteria,
    )
}
"""Every record that may be in a file, by name."""


def load(
    path: str | os.PathLike[str],
    model: Callable[..., Any] | None = None,
    args: tuple[Any, ...] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Fit:
    """Read a fit that `Fit.save` wrote. Nothing in the file is run, and the param store is not touched.

    By itself the fit prints, and has its values, path, plan, notes and criteria. With the model it gives posteriors of
    rows that it is shown, and the fitted model. With the model and the data that were fitted it does all that it did.
    Its values are on the CPU, or beside the data.

    Args:
        path: of the file.
        model: the model that was fitted.
        args: the arguments that were fitted; of a model that takes none, `()`.
        kwargs: the same by name.

    Raises:
        DataError: the file is damaged, holds code, is no fit, or is of a newer format; or the data are not those that
            were fitted.
        ParameterError: the model has other parameters; there are data, and no model; or this is no path.
        ModelError: the model is another program, or no model.
        OSError: the file is not there, or may not be read.
    """
    given = args is not None or kwargs is not None
    if model is None and given:
        raise ParameterError(
            "load: expected the model with the data, got data alone. Pass load(path, model, args=...)."
        )
    if not (model is None or callable(model)):
        raise ModelError(f"load: expected a Pyro model (a callable), got {type(model).__name__}.")
    if not isinstance(args, (tuple, list, type(None))):
        raise ParameterError(f"load: expected args to be a tuple, got {type(args).__name__}. Write args=(x,).")
    if not isinstance(kwargs, (Mapping, type(None))):
        raise ParameterError(f"load: expected kwargs to be a dict by name, got {type(kwargs).__name__}.")
    fit = _read(path)
    assert fit.source is not None
    source = replace(fit.source, model=model)
    if not given:
        return replace(fit, source=source)
    with alone():
        problem = source.planned(fit.fitted, tuple(args or ()), kwargs or {})
        fitted = same_data(problem, fit.fitted, fit.log_likelihood)
    return replace(fit, fitted=fitted, prepared=problem, source=source)


def _read(path: str | os.PathLike[str]) -> Fit:
    found = files.read(path, KIND, FORM, WHOSE)
    try:
        fit = files.taken_up(found["fit"], KINDS)
        _check(fit)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise files.damaged(path, WHOSE, error) from error
    return fit


def _check(fit: Any) -> None:
    """Raise where a file has other things in it than a fit has."""
    sound = isinstance(fit, Fit) and all(isinstance(n, str) and isinstance(v, Tensor) for n, v in fit.fitted.items())
    sound = sound and fit.outcome in OUTCOMES and isinstance(fit.source, Source) and isinstance(fit.starts, Starts)
    sound = sound and all(isinstance(number, float) for number in (fit.log_likelihood, fit.objective, *fit.path))
    if not sound or not all(isinstance(note, str) for note in fit.notes) or fit.plan.solvers or fit.plan.callables:
        raise ValueError("its parts are not those of a fit")
    str(fit), str(fit.plan)
