"""Parameters as a model states them: initial values, or the fitted ones in their place."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, transform_to

from ..errors import DataError, ModelError, ParameterError
from .devices import draw
from .named import unwrap
from .site import Parameter

OTHER_ROWS = "Pass rows with the components, categories and columns of the fit, or fit these by themselves."


class Known(NamedTuple):
    """What a model is to be planned with: parameters at their initial values, and values in place of the store's."""

    initial: Mapping[str, Parameter]
    start: Mapping[str, Tensor]


def parameter_of(msg: Any, fitted: Mapping[str, Parameter] | None) -> Parameter:
    """Read a `pyro.param` statement: its initial value, or the fitted one, for which no initialiser is run.

    Raises:
        ModelError: there is no initial value, or none in floating point.
        ParameterError: it is not among those fitted.
    """
    return _stated(msg) if fitted is None else _fitted(msg, fitted)


def value_of_prior(name: str, fn: Distribution, fitted: Mapping[str, Parameter] | None) -> Tensor:
    """Return a value of a site with a prior: a draw, or the fitted one.

    Raises:
        ModelError: the distribution cannot be drawn from.
        ParameterError: the fitted value has another shape.
    """
    if fitted is None or name not in fitted:
        return _drawn(name, fn)
    value = fitted[name].initial
    if value.shape != fn.shape():  # type: ignore[attr-defined]
        raise misfit(name, value, f"a prior of shape {tuple(fn.shape())}")  # type: ignore[attr-defined]
    return value


def _statement(msg: Any) -> tuple[str, Any, Any]:
    """Return the name, the initial value and the constraint of a `pyro.param` statement."""
    name, *rest = msg["args"]
    options = dict(zip(("init_tensor", "constraint", "event_dim"), rest, strict=False)) | msg["kwargs"]
    store = pyro.get_param_store()
    constraint = store._constraints[name] if name in store else options.get("constraint", constraints.real)
    if not isinstance(constraint, constraints.Constraint):
        is_class = isinstance(constraint, type)
        raise ModelError(
            f'Parameter "{name}": expected a constraint of torch.distributions.constraints, got '
            f"{'a class without its bounds, ' + constraint.__name__ if is_class else repr(constraint)}. Write "
            f"constraint=constraints.positive or constraints.greater_than(0.0), say; a real number needs none."
        )
    return name, options.get("init_tensor"), constraint


def _stated(msg: Any) -> Parameter:
    """Read a `pyro.param` statement without running it."""
    name, init, constraint = _statement(msg)
    store = pyro.get_param_store()
    random = partial(_initial, init, constraint) if callable(init) and not isinstance(init, Tensor) else None
    if name in store and (init is None or random):
        initial = store[name]
    elif init is None:
        raise ModelError(f'Parameter "{name}": expected an initial value, got none. Give pyro.param one.')
    else:
        initial = random() if random else _initial(lambda: init, constraint)
    if torch.as_tensor(initial).dtype not in (torch.float32, torch.float64):
        raise ModelError(
            f'Parameter "{name}": expected an initial value in floating point (float32 or float64), got '
            f"{torch.as_tensor(initial).dtype}. Write it with a decimal point, or call .double()."
        )
    if not torch.as_tensor(initial).numel() and getattr(constraint, "event_dim", 0) > 0:
        raise DataError(
            f'Parameter "{name}": expected an initial value with at least one entry in every row, got shape '
            f"{tuple(torch.as_tensor(initial).shape)}. Pass data, and at least one component."
        )
    weight = init if isinstance(init, torch.nn.Parameter) else None  # pyro.module and PyroModule discard what we return
    kind = "param" if weight is None else "module"
    return Parameter(name, kind, constraint, torch.as_tensor(initial).detach().clone(), random, weight)


def _fitted(msg: Any, fitted: Mapping[str, Parameter]) -> Parameter:
    """Return the fitted parameter of a `pyro.param` statement, whose initialiser is not run.

    One that comes from a file has no constraint of its own, and has that of the statement.
    """
    name, initial, constraint = _statement(msg)
    if name not in fitted:
        raise unfitted(name, fitted)
    stated = tuple(initial.shape) if isinstance(initial, Tensor) else None
    weight, known = initial if isinstance(initial, torch.nn.Parameter) else None, fitted[name]
    if known.constraint is None:
        known = replace(known, constraint=constraint, kind="param" if weight is None else "module")
    return replace(known, tensor=weight, stated=stated)


def stem(name: str) -> str:
    """Return what the steps of a loop have in common in their names, which differ by a number."""
    return re.sub(r"\d+", "", name)


def unfitted(name: str, fitted: Iterable[str]) -> ParameterError:
    """Return the error of a parameter that was not fitted."""
    return ParameterError(
        f'Parameter "{name}": expected one of the fitted parameters {sorted(fitted)}, got another one. {OTHER_ROWS}'
    )


def misfit(name: str, value: Tensor, got: str) -> ParameterError:
    """Return the error of a fitted value that does not serve other rows."""
    return ParameterError(
        f'Parameter "{name}": expected rows that its fitted shape {tuple(value.shape)} serves, got {got}. {OTHER_ROWS}'
    )


def by_row(name: str) -> ParameterError:
    """Return the error of a site that was maximised with an entry for each row, and has none for others."""
    return ParameterError(
        f'Site "{name}": expected the rows that were fitted, got others: it has an entry for each of those. Fit these '
        f"rows by themselves, or ask Fit.posterior."
    )


def _initial(init: Callable[[], Any], constraint: Any) -> Tensor:
    """Return an initial value as `pyro.param` would: it divides the rows of a simplex by their sums."""
    value, rows = torch.as_tensor(init()).detach(), constraint
    while isinstance(rows, constraints.independent):
        rows = rows.base_constraint
    if rows is not constraints.simplex or not value.dim() or not value.shape[-1] or bool(constraint.check(value).all()):
        return value
    normalised: Tensor = transform_to(constraint)(transform_to(constraint).inv(value))
    return normalised if bool(constraint.check(normalised).all()) else value


def _drawn(name: str, fn: Distribution) -> Tensor:
    """Draw a value of a site with a prior."""
    try:
        return draw(fn).detach()
    except NotImplementedError as error:
        raise ModelError(
            f'Site "{name}": expected a prior to draw a start from, got {type(unwrap(fn).base).__name__}, which has no '
            f"draws. Declare it by pyro.param if it has no density, else give its distribution a sample method."
        ) from error
