"""Data drawn from a fitted model: a parametric bootstrap's, or those that a statistic is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from numbers import Integral
from typing import Any

from torch import Tensor

from ..errors import DataError, ParameterError
from ..fit.problem import Problem
from ..posterior.misfits import FAULTS
from ..posterior.new_rows import on_new_rows
from ..program.data.passed import converted
from ..program.data.redrawn import redrawn, with_data
from ..program.devices import beside
from ..program.named import Params
from ..program.program import Program

Draw = Callable[[int], dict[str, Tensor]]
"""From a seed to the observed sites by name."""


def simulator(problem: Problem, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Draw:
    """Return what draws data at the parameters, whatever the seed; arguments are looked at here, once.

    Args:
        problem: what was fitted.
        params: values of all its parameters.
        args: positional arguments of the model, of the size wanted; with `kwargs` empty too, those of the fit.
        kwargs: the same by name.

    Raises:
        ParameterError: the shape of a parameter does not serve these arguments.
        ModelError: the model is another program on them.
        DataError: there are no rows; or the arguments of the fit are wanted, and have changed.
    """
    program = problem.program
    if not args and not kwargs:
        changed = problem.change(program.args, program.kwargs, run=False)
        if changed:
            raise DataError(
                f"Fit.simulate: expected what was fitted, but since then {changed} has changed. Pass the arguments."
            )
        return partial(_draw, program, params)
    if not problem.change(args, kwargs, run=False):
        return partial(_draw, program, params)
    return partial(_draw, _served(program, params, args, kwargs), params)


def _served(program: Program, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """Return the program on other arguments, if the fitted values serve them; data may be left out of these (None)."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
    passed, named = converted(args, kwargs, program.how)
    model = program.model
    if not program.by_row:
        # where the model does not run, the survey below says why
        with contextlib.suppress(*FAULTS, ZeroDivisionError, TypeError, AttributeError), beside(program.device):
            model = with_data(replace(program, args=passed, kwargs=named, indices={}), params).model
    there = on_new_rows(program, leaves, args, kwargs, model)
    return replace(there, model=program.model)


def _draw(program: Program, params: Params, seed: int) -> dict[str, Tensor]:
    if not isinstance(seed, Integral):
        raise ParameterError(f"Fit.simulate: expected seed to be an integer, got {seed!r}.")
    with beside(program.device):
        return redrawn(program, params, int(seed))
