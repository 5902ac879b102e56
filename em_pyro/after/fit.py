"""The answer: fitted values, the path that led there, and how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyro
from torch import Tensor

from ..errors import DataError, ParameterError
from ..fit.endings import OUTCOMES
from ..fit.path import Acceleration
from ..fit.problem import Problem
from ..fit.starting.runs import Starts
from ..m_step.plan import Plan
from ..posterior.new_rows import posterior_on
from ..posterior.posterior import Posterior, posterior
from ..program.handlers import alone
from .fitted import fitted_model, shown


@dataclass(frozen=True)
class Fit:
    """Result of `EM.fit`.

    Attributes:
        fitted: fitted constrained values by name, which nobody may write to; `params` hands out copies.
        log_likelihood: log evidence of the data at `params`, in nats.
        objective: log evidence plus log prior, of the density that `prior_density` names.
        path: the objective at every step, the start included; up is good.
        num_steps: EM steps taken; an accelerated fit takes up to three to a point of `path`. Those of the saddle test,
            which begins when the stopping rule is met, are not counted: mostly ten, and no more than some hundreds.
        outcome: a named ending; `str(fit)` says what to try.
        converged: whether the stopping rule was met (the cap is not convergence).
        gap: estimated nats that further steps would gain.
        starts: every start with its objective and outcome.
        plan: how each parameter was maximised; to be read, so a fit that is loaded from a file has it too.
        notes: what the loop found out on its way.
        acceleration: cycles, extrapolations and seconds of an accelerated fit, else None.
        switches: steps that were summed a second time, around the locations that they led to: where a scale has shrunk
            or a location has moved so far, as it may with clusters far apart, that digits would have been lost.
        prior_density: "constrained", or "unconstrained" where priors are those of their unconstrained coordinates.
    """

    fitted: Mapping[str, Tensor]
    log_likelihood: float
    objective: float
    path: tuple[float, ...] = field(repr=False)
    num_steps: int
    outcome: str
    converged: bool
    gap: float
    starts: Starts = field(repr=False)
    plan: Plan = field(repr=False)
    notes: tuple[str, ...] = ()
    prepared: Problem | None = field(default=None, repr=False, compare=False)
    acceleration: Acceleration | None = None
    switches: int = 0
    prior_density: str = "constrained"

    @property
    def params(self) -> dict[str, Tensor]:
        """Fitted constrained values by name, sites with a prior included, in the dtypes of the program: copies."""
        return {name: value.clone() for name, value in self.fitted.items()}

    def __copy__(self) -> Fit:
        """Copy with the program and its data."""
        return replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Fit:
        """Copy with the same program and data, which nobody writes to."""
        return replace(self, fitted=deepcopy(self.fitted, memo))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the program and its data."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("prepared", "posterior")}
        return {**state, "prepared": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take back what `__getstate__` gave."""
        self.__dict__.update(state)

    def _alive(self) -> Problem:
        """Return the program and its data, if they are there."""
        if self.prepared is None:
            raise ParameterError(
                "Fit: expected the model and its data, but this fit was loaded from a file, without them. Build "
                "EM(model, starts=fit.params) and ask EM.posterior(...)."
            )
        return self.prepared

    @cached_property
    def posterior(self) -> Posterior:
        """Exact posterior of the latents of the fitted data (computed when asked for).

        Raises:
            DataError: the data, or what else the model sees, are no longer those of the fit.
        """
        here = self._alive()
        if not here.rows.whole:
            raise DataError(
                "Fit.posterior: expected all rows at hand, but this fit has read them in batches. Ask "
                "Fit.posterior_on(...) of each."
            )
        with alone():
            changed = here.change(here.program.args, here.program.kwargs, run=True)
            if changed:
                raise DataError(
                    f"Fit.posterior: expected what was fitted, but since then {changed} has changed. Ask "
                    f"Fit.posterior_on(...) of the data as they are now."
                )
            return posterior(here.engine, self.fitted)

    @alone()
    def posterior_on(self, *args: Any, **kwargs: Any) -> Posterior:
        """Posterior of new data, passed as the model takes it: other rows, at the fitted values.

        Raises:
            ParameterError: the shape of a parameter does not serve these rows.
            ModelError: the model is another program on them.
            DataError: the data cannot be used; there are none, or some row is impossible.
        """
        here = self._alive()
        with pyro.get_param_store().scope():  # what another fit has left there does not matter here
            return posterior_on(here.program, self.params, args, kwargs)

    @property
    def model(self) -> Callable[..., Any]:
        """The user's model with the fitted values substituted and its latents marked for enumeration."""
        return fitted_model(self._alive(), self.params)

    def __str__(self) -> str:
        """Say how the fit ended, the fitted values and the notes, in plain text."""
        width = max(len(n) for n in self.params) if self.params else 0
        lines = [f"{self.outcome} after {self.num_steps} steps: {OUTCOMES[self.outcome]}"]
        lines.append(f"log-likelihood {self.log_likelihood:.6f}")
        if abs(self.objective - self.log_likelihood) > 1e-12 * abs(self.objective):
            where = " (priors in unconstrained coordinates)" if self.prior_density == "unconstrained" else ""
            lines[-1] += f", objective {self.objective:.6f}{where}"
        lines[-1] += f", estimated gap {self.gap:.1e} nats" if self.gap != float("inf") else ""
        for name, value in self.params.items():
            laid = "\n".join((" " * (width + 4) if k else "") + row for k, row in enumerate(shown(value)))
            lines.append(f"  {name.ljust(width)}  {laid}")
        if len(self.starts) > 1:
            lines.append(str(self.starts))
        if self.acceleration is not None:
            lines.append(str(self.acceleration))
        return "\n".join([*lines, *self.notes])
