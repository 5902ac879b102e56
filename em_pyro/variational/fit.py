"""The answer of variational Bayes: laws of the parameters, and the bound on the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyro
from torch import Tensor

from ..after.fitted import laid
from ..e_step.engine import Engine
from ..errors import DataError
from ..fit.problem import Problem
from ..posterior.new_rows import posterior_on
from ..posterior.posterior import Posterior, posterior
from ..program.handlers import alone
from .laws import Held, bound_to, law_of, means_of

OUTCOMES = {
    "converged": "The estimated remaining gain of the bound is below tol.",
    "step limit": "max_steps was reached before the bound settled: raise max_steps.",
    "stopped": "The callback returned True.",
}


@dataclass(frozen=True)
class VariationalFit:
    """Result of `VariationalEM.fit`.

    Attributes:
        elbo: evidence lower bound, in nats, with all constants: `log p(x)` less the divergence of the laws from the
            exact posterior.
        path: the bound at every step, that of the first laws included; it never falls.
        num_steps: steps that led from the first laws to these.
        outcome: "converged", "step limit" or "stopped"; `str(fit)` says what to try.
        gap: estimated nats that further steps would add to the bound.
        starts: of every start the bound and the outcome.
    """

    elbo: float
    path: tuple[float, ...] = field(repr=False)
    num_steps: int
    outcome: str
    gap: float
    starts: tuple[tuple[float, str], ...] = field(repr=False)
    held: Held = field(repr=False)
    prepared: Problem = field(repr=False, compare=False)

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met (the cap is not convergence)."""
        return self.outcome == "converged"

    @property
    def laws(self) -> Mapping[str | tuple[str, ...], Any]:
        """Laws of the parameters, by name; of a mean and its scale by both names.

        A Dirichlet, Beta, Gamma, Normal or MultivariateNormal of torch, each independent of the others; a
        `NormalWishart`; of `StickBreaking` weights `Sticks`. All have `.mean`, in the order of the model's states.
        """
        return dict(law_of(self.held))

    @property
    def params(self) -> dict[str, Tensor]:
        """Expected values by name, in the dtypes of the program; of a scale that of the expected precision."""
        return {
            name: value.detach().to(self.prepared.program.parameters[name].initial.dtype, copy=True)
            for name, value in means_of(self.held).items()
        }

    @cached_property
    def posterior(self) -> Posterior:
        """The law of the latents of the fitted data, under the laws of the parameters.

        Its log evidence is `log Z` of the E-step, in which expected logarithms take the place of logarithms.

        Raises:
            DataError: the data, or what else the model sees, are no longer those of the fit.
        """
        here = self.prepared
        with alone():
            changed = here.change(here.program.args, here.program.kwargs, run=True)
            if changed:
                raise DataError(
                    f"VariationalFit.posterior: expected what was fitted, but since then {changed} has changed. Ask "
                    f"posterior_on(...) of the data as they are now."
                )
            return self._under_laws(here.engine.full)

    @alone()
    def posterior_on(self, *args: Any, **kwargs: Any) -> Posterior:
        """The law of the latents of other rows, under the laws of the parameters.

        Raises:
            ParameterError: the shape of a parameter does not serve these rows.
            ModelError: the model is another program on them.
            DataError: the data cannot be used; there are none, or some row is impossible.
        """
        with pyro.get_param_store().scope():
            return self._under_laws(posterior_on(self.prepared.program, self.params, args, kwargs).engine)

    def _under_laws(self, engine: Engine) -> Posterior:
        return posterior(engine, self.params, bound_to(self.held, engine.recognition.bank))

    def __str__(self) -> str:
        """Say how the fit ended, and the laws with their means, in plain text."""
        lines = [f"{self.outcome} after {self.num_steps} steps: {OUTCOMES[self.outcome]}"]
        lines.append(f"evidence lower bound {self.elbo:.6f}, estimated gap {self.gap:.1e} nats")
        params = self.params
        width = max(len(name) for name in params)
        for each, law in self.held:
            for name in each.names:
                kind = type(law).__name__
                rows = laid(params[name])
                lines.append(f"  {name.ljust(width)}  {kind}, mean {rows[0]}")
                lines += [" " * (width + 4 + len(kind) + 7) + row for row in rows[1:]]
        if len(self.starts) > 1:
            lines.append(f"best of {len(self.starts)} starts")
        return "\n".join(lines)
