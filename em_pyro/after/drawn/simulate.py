"""Data drawn from a fitted model: a parametric bootstrap's, or those that a statistic is compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import field, replace
from numbers import Integral
from typing import Any

from torch import Tensor

from ...errors import DataError, ParameterError
from ...fit.problem import Problem
from ...posterior.misfits import FAULTS
from ...posterior.new_rows import on_new_rows
from ...program.data.passed import converted
from ...program.data.redrawn import observed_values, redrawn, with_data
from ...program.devices import beside
from ...program.named import Params
from ...program.program import Program
from ...records.frozen import frozen


@frozen
class Simulator:
    """A program on arguments that fitted values serve, to be drawn from.

    Attributes:
        program: with the arguments.
        params: values of all its parameters.
    """

    program: Program
    params: Params = field(repr=False)

    def draw(self, seed: int) -> dict[str, Tensor]:
        """Draw the observed sites, by name.

        Raises:
            ModelError: a site cannot be drawn.
            ParameterError: the seed is no integer.
        """
        if not isinstance(seed, Integral):
            raise ParameterError(f"simulate: expected seed to be an integer, got {seed!r}.")
        with beside(self.program.device):
            return redrawn(self.program, self.params, int(seed))

    def observed(self) -> dict[str, Tensor]:
        """Return the same sites as they were observed."""
        with beside(self.program.device):
            return observed_values(self.program, self.params)


def simulator(problem: Problem, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Simulator:
    """Return what draws data at the parameters; the arguments are looked at here, once.

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
    own = not args and not kwargs
    if own and not problem.rows.whole:
        raise DataError(
            "Fit.simulate: expected arguments of the size wanted, got none, and this fit has not all its rows at hand. "
            "Pass those of a batch."
        )
    args, kwargs = program.passed if own else (args, kwargs)
    changed = problem.change(args, kwargs, run=False)
    if own and changed:
        raise DataError(
            f"Fit.simulate: expected what was fitted, but since then {changed} has changed. Pass the arguments."
        )
    return Simulator(_served(program, params, args, kwargs) if changed else program, params)


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
