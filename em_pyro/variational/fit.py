"""The answer of variational Bayes: laws of the parameters, and the bound on the evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from functools import cached_property
from typing import Any

import pyro
from torch import Tensor

from ..after.fitted import laid
from ..e_step.engine import Engine
from ..errors import DataError, ParameterError
from ..fit.problem import Problem, prepare
from ..posterior.new_rows import engine_on
from ..posterior.posterior import Posterior, posterior
from ..program.devices import beside
from ..program.handlers import alone
from ..reading.bank import Bank
from ..records.frozen import frozen
from ..records.shown import Shown
from .climbing.accelerated import Accelerated
from .laws import Held, bound_to, law_of, means_of
from .other_rows import fitted_on, own_of_rows

OUTCOMES = {
    "converged": "The estimated remaining gain of the bound is below tol, and a small disturbance led nowhere higher.",
    "step limit": "max_steps was reached before the bound settled: raise max_steps.",
    "stopped": "The callback returned True.",
}


@frozen
class VariationalFit(Shown):
    """Result of `VariationalEM.fit`.

    Attributes:
        elbo: evidence lower bound, in nats, with all constants: `log p(x)` less the divergence of the laws from the
            exact posterior.
        path: the bound at every step, that of the first laws included; it never falls.
        num_steps: steps that led from the first laws to these; an accelerated fit takes up to three to a point of
            `path`. Those of the saddle test are not counted.
        outcome: "converged", "step limit" or "stopped"; `str(fit)` says what to try.
        gap: estimated nats that further steps would add to the bound.
        starts: of every start the bound and the outcome.
        notes: what was found out on the way.
        acceleration: cycles and extrapolations of an accelerated fit, else None.
    """

    elbo: float
    path: tuple[float, ...] = field(repr=False)
    num_steps: int
    outcome: str
    gap: float
    starts: tuple[tuple[float, str], ...] = field(repr=False)
    held: Held = field(repr=False)
    prepared: Problem = field(repr=False)
    priors: Mapping[Any, Any] = field(default_factory=dict, repr=False)
    tol: float = 1e-8
    notes: tuple[str, ...] = ()
    acceleration: Accelerated | None = None

    @property
    def converged(self) -> bool:
        """Whether the stopping rule was met (the cap is not convergence)."""
        return self.outcome == "converged"

    @property
    def laws(self) -> Mapping[str | tuple[str, ...], Any]:
        """Laws of the parameters, by name; of a mean and its scale by both names.

        A Dirichlet, Beta, Gamma, InverseGamma, Normal or MultivariateNormal of torch, each independent of the others; a
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
            changed = here.change(*here.program.passed, run=True)
            if changed:
                raise DataError(
                    f"VariationalFit.posterior: expected what was fitted, but since then {changed} has changed. Ask "
                    f"posterior_on(...) of the data as they are now."
                )
            return self._under_laws(here.engine.full)

    @alone()
    def posterior_on(self, *args: Any, **kwargs: Any) -> Posterior:
        """Return the law of the latents of other rows, under the laws of the parameters.

        Where rows have parameters of their own (the shares of topics in a document), those of the other rows get laws
        of their own, at the fitted laws of the rest: `laws_on` has them.

        Raises:
            ParameterError: the shape of a parameter does not serve these rows.
            ModelError: the model is another program on them.
            DataError: the data cannot be used; there are none, or some row is impossible.
        """
        with pyro.get_param_store().scope():
            if own_of_rows(self.prepared.engine):
                there = self._there(args, kwargs)
                return posterior(there.prepared.engine, there.params, bound_to(there.held, _bank(there)))
            return self._under_laws(engine_on(self.prepared.program, self.params, args, kwargs))

    @alone()
    def laws_on(self, *args: Any, **kwargs: Any) -> VariationalFit:
        """Fit the laws of what is other rows' own, at the fitted laws of the rest, and return them with their bound.

        The bound is on the log evidence of these rows given the fitted laws.

        Raises:
            ParameterError: rows have no parameters of their own: ask `posterior_on`. Or a shape does not serve.
        """
        if not own_of_rows(self.prepared.engine):
            raise ParameterError("laws_on: expected parameters of which every row selects some, got none.")
        with pyro.get_param_store().scope():
            return self._there(args, kwargs)

    def _there(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> VariationalFit:
        pyro.clear_param_store()
        there = prepare(self.prepared.program.model, args, kwargs, {}, check=False)
        laws = {each.names: law for each, law in self.held}
        with beside(there.program.device):
            own = own_of_rows(self.prepared.engine)
            end = fitted_on(there, self.priors, laws, own, self.tol)
        return replace(
            self,
            elbo=end.path[-1],
            path=end.path,
            num_steps=end.num_steps,
            acceleration=None,
            outcome=end.outcome,
            gap=end.gap,
            notes=end.notes,
            starts=((end.path[-1], end.outcome),),
            held=tuple(end.bound.held),
            prepared=there,
        )

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
        if self.acceleration is not None:
            lines.append(str(self.acceleration))
        return "\n".join([*lines, *self.notes])


def _bank(fit: VariationalFit) -> Bank:
    """The atoms of all rows, before equal ones were merged."""
    return fit.prepared.engine.full.recognition.bank
