"""The answer: fitted values, the path that led there, and how it ended.

What is asked of few fits is imported when it is asked for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyro
from torch import Tensor

from ..errors import EMError, ParameterError
from ..fit.endings import BAD, OUTCOMES
from ..fit.problem import Problem
from ..posterior.posterior import Posterior, posterior
from ..posterior.served import Kind
from ..program.devices import beside
from ..program.handlers import alone
from ..records.frozen import frozen
from .dimension import dimension
from .fitted import fitted_model
from .record import Record
from .source import save

if TYPE_CHECKING:
    from .criteria import Criteria
    from .information.certificate import Certificate
    from .information.record import Information
    from .summary import Summary


@frozen
class Fit(Record):
    """Result of `EM.fit`.

    Attributes:
        fitted: fitted constrained values by name, which nobody may write to; `params` hands out copies.
        log_likelihood: log evidence of the data at `params`, in nats.
        objective: log evidence plus log prior, of the density that `prior_density` names. With `e_step="hard"` the
            log-density of data and states together takes the place of log evidence.
        path: the objective at every step, the start included; up is good. With `e_step="sampled"` that of EM at every
            point visited, which goes up and down, and at their average.
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
        source: what a file says of the program, if the fit was loaded.
    """

    def save(self, path: str | os.PathLike[str], *, remarks: Mapping[str, Any] | None = None) -> None:
        """Write the fit to a file, without the model and its data: `em_pyro.load` reads it, and asks for these.

        Information criteria are written too; of rows in batches if they have been asked for.

        The file holds tensors, numbers and words, and nothing that runs: `torch.load(path, weights_only=True)` reads
        it. It is written whole or not at all; one that is there is replaced.

        Args:
            path: of the file.
            remarks: words, numbers and tensors of your own to stand beside it.

        Raises:
            OSError: it cannot be written.
            ParameterError: this is no path, or remarks are something else.
        """
        source = self._told()
        if self.prepared is None or self.prepared.rows.whole or "_criteria" in self.__dict__:  # else it is a pass
            with contextlib.suppress(EMError):  # of data that have changed
                source = replace(source, criteria=self.criteria())
        there = replace(self, source=source, fitted={n: v.detach().cpu() for n, v in self.fitted.items()})
        save(there, path, remarks or {})

    @cached_property
    def posterior(self) -> Posterior:
        """Exact posterior of the latents of the fitted data (computed when asked for).

        Raises:
            DataError: the data, or what else the model sees, are no longer those of the fit.
        """
        with alone():
            return posterior(self._unchanged("posterior", "posterior_on(...)").engine, self.fitted)

    @cached_property
    def _served(self) -> list[Kind]:
        """Kinds of arguments that the fitted values are known to serve."""
        return []

    @alone()
    def posterior_on(self, *args: Any, **kwargs: Any) -> Posterior:
        """Return the posterior of new data, passed as the model takes it: other rows, at the fitted values.

        Raises:
            ParameterError: the shape of a parameter does not serve these rows.
            ModelError: the model is another program on them.
            DataError: the data cannot be used; there are none, or some row is impossible.
        """
        from ..posterior.new_rows import posterior_on

        here = self._on(args, kwargs)
        with pyro.get_param_store().scope():  # what another fit has left there does not matter here
            return posterior_on(here.program, self.params, args, kwargs, self._served)

    @alone()
    def information(
        self, kind: str = "observed", *, plate: str | None = None, weights: str = "frequency"
    ) -> Information:
        """Return standard errors, covariances and intervals of the fitted values, and what has none. Print it.

        Args:
            kind: "observed", by minus the second derivative of the objective; "opg", by the outer product of the
                scores of rows (Berndt, Hall, Hall & Hausman 1974); "robust", the sandwich of both (White 1982);
                "complete", as if the latents had been seen.
            plate: whose rows are independent, for "opg" and "robust": a plate that holds others has clusters. By
                default that with most of them.
            weights: what a row's `poutine.scale` is. "frequency": how often it is there. "probability", for "robust"
                alone: a sampling weight, the inverse of the probability with which the row was drawn, so that
                `sum_i (w_i s_i) (w_i s_i)'` takes the place of `sum_i w_i s_i s_i'` in the sandwich (Binder 1983).

        Raises:
            ParameterError: no such kind, plate or weights; what does not go together; rows that are not independent, or
                a fit that ended at no maximum of the likelihood.
            PlanError: the program cannot be differentiated twice.
            DataError: the data, or what else the model sees, are no longer those of the fit.
        """
        from .information.information import information

        if self.outcome == "settled":
            raise ParameterError(
                'Fit.information: expected a maximum of the likelihood, got a fit that ended as "settled", with every '
                "row in one state. Go on to one: EM(model, starts=fit.params)."
            )
        return information(self._maximum("information"), self.fitted, kind, plate, weights)

    @alone()
    def certificate(self) -> Certificate:
        """Say how good a maximum this is: nats still to gain, the smallest curvature, and what is flat. Print it.

        Raises:
            ParameterError: the fit ended at no maximum.
            PlanError: the program cannot be differentiated twice.
            DataError: the data, or what else the model sees, are no longer those of the fit.
        """
        from .information.certificate import certificate

        return certificate(self._maximum("certificate"), self.fitted)

    def _maximum(self, asked: str) -> Problem:
        if self.outcome in BAD:
            raise ParameterError(
                f'Fit.{asked}: expected a maximum, got a fit that ended as "{self.outcome}". {OUTCOMES[self.outcome]}'
            )
        return self._unchanged(asked, "fit(...)", summed=True)

    @alone()
    def simulate(self, *args: Any, seed: int = 0, **kwargs: Any) -> dict[str, Tensor]:
        """Draw the observed sites at the fitted values, by name; sites with a prior stay at theirs, latents are drawn.

        Labels (`obs_mask`) and entries under a mask stay as they are, and so does what the model takes from its
        arguments: covariates, or the past of a series that it reads there.

        Args:
            args: of the model, of the size wanted (data may be None where the model runs with that); none: the fit's.
            seed: of the draws; no global generator moves.
            kwargs: arguments by name.

        Raises:
            ModelError: a site cannot be drawn: it has row weights, no draws, or is a factor of latents or rows.
            ParameterError: the shape of a parameter does not serve these arguments.
            DataError: there are no rows, or those of the fit have changed.
        """
        from .drawn.simulate import simulator

        with pyro.get_param_store().scope():
            return simulator(self._on(args, kwargs), self.params, args, kwargs).draw(seed)

    def sensitivity(self, *, of: str, to: Tensor) -> Tensor:
        """Return the derivative of a fitted value by the data, through the fixed point: its shape + that of the data.

        Args:
            of: the name of the parameter.
            to: one of the tensors that were passed to `fit`.

        Raises:
            ParameterError: no such parameter or tensor; or the fit has not converged, so that it is at no maximum.
            PlanError: the maximum is flat, or the program cannot be differentiated.

        References: Dini's implicit function theorem at the stationary point of EM; Oakes (1999) for the information.
        """
        from .sensitivity import sensitivity

        if self.outcome != "converged":
            raise ParameterError(
                f'Fit.sensitivity: expected a fit that ended as "converged", got "{self.outcome}": a derivative is one '
                f"of a maximum."
            )
        with alone():
            here = self._unchanged("sensitivity", "fit(...)")
        with alone(), beside(here.program.device):
            return sensitivity(here, self.fitted, of, to)

    @property
    def model(self) -> Callable[..., Any]:
        """The user's model with the fitted values substituted and its latents marked for enumeration."""
        if self.prepared is None and self.source is not None and self.source.model is not None:
            return self.source.fitted_model(self.params)
        return fitted_model(self._alive(), self.params)

    @alone()
    def reordered(self, site: str, by: str | Sequence[int]) -> Fit:
        """Return the fit with the components of a latent in another order: values, and the posterior with them.

        The param store follows, if it has the values of this fit. Every axis that the latent indexes is permuted, with
        it latents that share one: steps of a chain, whose transitions have two. The objective stays what it is.

        Args:
            site: the latent, or what the latents `z_0, z_1, ...` of a loop have in common.
            by: the old place of each new component; or a parameter, by which they ascend: by the first entry of each
                component where it has several, ties as they are.

        Raises:
            ParameterError: no such latent or parameter, no permutation, or states that cannot change places: constants,
                labels or a constraint tell them apart.
        """
        from .reorder import reordered

        new, note = reordered(self._alive(), self.fitted, site, by)
        return replace(self, fitted=new, notes=(*self.notes, note))

    @property
    def num_parameters(self) -> int:
        """Number of free parameters; K - 1 of a simplex of K entries. Those on a boundary count, fixed ones do not."""
        return self._criteria.parameters if self.prepared is None else dimension(self.prepared)

    def criteria(self, n: float | None = None) -> Criteria:
        """Return information criteria with `n` rows: by default those of the plate of the latents, weights added up.

        Raises:
            ParameterError: `n` is no number above zero.
            DataError: the data are no longer those of the fit.
        """
        from .criteria import counted

        return self._criteria if n is None else counted(self._criteria, n)

    @cached_property
    def _criteria(self) -> Criteria:
        from .criteria import criteria, criteria_by_parts

        if self.prepared is None and self.source is not None and self.source.criteria is not None:
            return self.source.criteria
        if self._alive().rows.whole:
            return criteria(self._alive(), self.log_likelihood, self.posterior)
        with alone():
            here = self._unchanged("criteria", "fit(...)", summed=True)
            with beside(here.program.device):
                return criteria_by_parts(here, self.log_likelihood, self.fitted)

    @property
    def aic(self) -> float:
        """Akaike's information criterion, -2 log L + 2 p: smaller is better."""
        return self.criteria().aic

    @property
    def bic(self) -> float:
        """Schwarz's, -2 log L + p log n, with n rows of the plate that owns the latents (a chain is one row)."""
        return self.criteria().bic

    @property
    def icl(self) -> float:
        """BIC + 2 entropy, the soft one, `-sum p log p` of all discrete latents jointly."""
        return self.criteria().icl

    def summary(self, level: float = 0.95) -> Summary:
        """Return a table of every entry with its standard error and interval, then criteria, outcome and notes.

        What cannot be had (of a fit from a file without its data, or of very many entries) is said in a line.

        Raises:
            ParameterError: `level` is not between 0 and 1.
        """
        from .summary import summary

        return summary(self.fitted, self._head(()), self.notes, self.information, self.criteria, level)
