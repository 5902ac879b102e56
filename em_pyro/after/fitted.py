"""Fitted values: in the model, in the dtypes of the program, and laid out as text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pyro.infer import config_enumerate
from torch import Tensor

from ..fit.endings import OUTCOMES
from ..fit.problem import Problem
from ..program.handlers import Substitute
from ..program.named import Params


def ended(outcome: str, steps: int, log_likelihood: float, objective: float, gap: float, density: str) -> list[str]:
    """Say how a fit ended, and how high."""
    lines = [f"{outcome} after {steps} steps: {OUTCOMES[outcome]}", f"log-likelihood {log_likelihood:.6f}"]
    if abs(objective - log_likelihood) > 1e-12 * abs(objective):
        where = " (priors in unconstrained coordinates)" if density == "unconstrained" else ""
        lines[-1] += f", objective {objective:.6f}{where}"
    lines[-1] += f", estimated gap {gap:.1e} nats" if gap != float("inf") else ""
    return lines


def shown(params: Params) -> list[str]:
    """Lay out values by name, of long ones the corners."""
    width = max((len(name) for name in params), default=0)
    rows_of = {name: [" " * (width + 4) * bool(k) + row for k, row in enumerate(laid(v))] for name, v in params.items()}
    return [f"  {name.ljust(width)}  " + "\n".join(rows) for name, rows in rows_of.items()]


def laid(value: Tensor) -> list[str]:
    """Lay out one value, of a long one its corners."""
    entries, long = value.detach().cpu().numpy(), value.numel() > 60
    with np.printoptions(precision=6, suppress=True, threshold=60, edgeitems=3, linewidth=100):
        lines = np.array2string(entries, separator=", ").split("\n")
    whole = f"tensor of shape {tuple(value.shape)}, from {entries.min():.6g} to {entries.max():.6g}" if long else ""
    return [whole, *lines] if long else lines


def fitted_model(prepared: Problem, params: Mapping[str, Tensor]) -> Callable[..., Any]:
    """Return the model at fixed values, as an ordinary Pyro model."""
    enumerated = config_enumerate(prepared.program.model)
    weights = {n: v for n, v in params.items() if prepared.program.parameters[n].tensor is not None}
    values = {n: v for n, v in params.items() if n not in weights}

    def fitted(*args: Any, **kwargs: Any) -> Any:
        with prepared.program.given(weights) if weights else contextlib.nullcontext(), Substitute(values):
            return enumerated(*args, **kwargs)

    return fitted


def write_back(prepared: Problem, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fitted values in the dtypes of the program, in memory of their own."""
    parameters = prepared.program.parameters
    return {n: v.detach().to(parameters[n].initial.dtype, copy=True) for n, v in values.items() if n in parameters}
