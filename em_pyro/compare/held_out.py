"""Held-out log predictive density: the one number on which point estimates and full posteriors can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError
from ..fit.problem import Problem, prepare
from ..posterior.posterior import posterior
from ..program.named import Params
from ..program.stated import by_row


class HeldOut:
    """Data that no contender sees, with the model that predicts them."""

    def __init__(self, here: Problem, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Prepare the model for the held-out data.

        Raises:
            ParameterError: a parameter has another shape there: one of a row, say.
        """
        for name in here.program.by_row:
            raise by_row(name)
        self.there = prepare(here.program.model, args, kwargs, {}, check=False)
        ours = {name: p.initial.shape for name, p in here.program.parameters.items()}
        for name, parameter in self.there.program.parameters.items():
            if ours.get(name) != parameter.initial.shape:
                raise ParameterError(
                    f'held_out: expected parameter "{name}" of shape {tuple(ours.get(name, ()))} as in the data, got '
                    f"{tuple(parameter.initial.shape)}. Hold out whole rows that have no parameters of their own."
                )
        self.plate = self._plate()

    def at(self, params: Params) -> float:
        """Log predictive density at one value of the parameters: the log evidence of the held-out data."""
        return float(self._rows(params).sum())

    def average(self, draw: Callable[[], Params], draws: int) -> float:
        """Log predictive density averaged over draws, row by row: `sum_n log mean_s p(x_n | theta_s)`."""
        rows = torch.stack([self._rows(draw()) for _ in range(draws)])
        return float((rows.logsumexp(0) - math.log(draws)).sum())

    def _plate(self) -> str | None:
        """The largest plate by which the evidence factorises, or None."""
        plates = self.there.program.plates
        params = {n: p.initial.double() for n, p in self.there.program.parameters.items()}
        for plate in sorted(plates, key=lambda name: -plates[name]):
            try:
                posterior(self.there.engine, params).log_evidence_by(plate)
            except ValueError:
                continue
            return plate
        return None

    def _rows(self, params: Params) -> Tensor:
        params = {name: params[name].double() for name in self.there.program.parameters}
        if self.plate is None:
            return torch.tensor([posterior(self.there.engine, params).log_evidence], dtype=torch.float64)
        return posterior(self.there.engine, params).log_evidence_by(self.plate).reshape(-1)
