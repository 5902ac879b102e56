"""The driver: `EM(model).plan / step / fit / posterior`, in the shape of Pyro's `SVI`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .after.driver import Driver
from .after.fit import Fit
from .families.base import summed
from .fit.loop import State
from .fit.problem import Problem
from .fit.rows.holders import shared, shared_stream
from .fit.starting.current import Current
from .fit.starting.starts import given_value, need_parameters
from .m_step.ascent.ascend import Carried
from .m_step.plan import Choice, Plan
from .options import (
    EVERY,
    check_batches,
    check_file,
    check_model,
    check_options,
    check_passes,
    check_priors,
    check_switches,
    check_together,
    model_alone,
    need_soft,
    written,
)
from .posterior.possible import possible_posterior
from .posterior.posterior import Posterior
from .program.changes.fingerprint import Fingerprint
from .program.devices import beside
from .program.handlers import alone


class EM(Driver):
    """Exact Expectation-Maximisation on an ordinary Pyro model.

    Whatever is passed to `plan`, `step`, `fit` and `posterior` goes to the model.

    Args:
        model: a Pyro model whose latent variables are discrete (they are enumerated), or continuous outside the data
            plates (they are parameters with a prior).
        tol: a fit has converged when its estimated remaining gain is below `tol * (1 + |objective|)` nats on two
            successive steps; 0 runs exactly `max_steps`.
        max_steps: cap on EM steps of one start.
        seed: of random starts and of the disturbances that test for a saddle.
        starts: how many starts (1: the user's own values; more: random ones too), or a dict of starting values, or a
            list of such dicts. `step`, `posterior` and `params` begin at the first of them too.
        m_step: for a parameter by name, "torch" (maximised by it, unless it is one of a network), "closed" (an error
            where there is no closed form), "fixed" (kept at its start) or a callable of (expected statistics, current
            value) that returns the new value, as below. What has no closed form and is not named here, torch takes a
            part of the way to the maximum in every step: `Q` rises (generalised EM).
        check: compare the enumerated program with concrete runs before the first step.
        progress: show a progress bar.
        callback: called with a `State` after every step, with its values in the param store; returning True stops.
        screen: with more than five starts, compare them after twenty steps and follow the best quarter to their ends;
            False follows all.
        collapse: treat equal rows as one row with a weight, where that pays; False keeps them apart.
        acceleration: of `fit`, never to where the objective is lower. "quasi-newton" goes by the gradient and the
            curvature that the last moves have shown, with the EM step as preconditioner; "squarem" extrapolates EM
            steps; None is plain EM. "auto" is plain EM until a settled rate says that more than a hundred steps are
            left, then "quasi-newton"; with `tol=0`, a callable as M-step, Adam, or a model that is run in every step it
            stays plain. `max_steps` and `Fit.num_steps` count all EM steps, also those that are not in `Fit.path`.
        prior_density: of sites with a prior, "constrained": at the user's values, or "unconstrained": of unconstrained
            coordinates, infinite nowhere; a Dirichlet, Beta or Gamma shape `a` then adds `a` and not `a - 1`.
        continuous: {"site": "maximise"} makes a continuous latent in a data plate a parameter with an entry a row.
        checkpoint: a path to which `fit` writes, in one move, where it is; a fit that finds the file of the same data,
            model and options there takes the path of one that was never stopped. It stays when the fit has ended, and
            gives its answer then; remove it to begin anew. Where it cannot be written the fit warns, and goes on. Of
            several processes the first one has the file.
        every: so many EM steps it is written.
        e_step: of fits: "soft" shares rows out among states by the posterior, "hard" gives them to the most probable
            ones (k-means is its limit), "sampled" to drawn ones, `max_steps` times whatever `tol` is; the second half
            is averaged. Neither screens starts: all are followed to their ends.
        batches: begin a fit with passes over so many slices of the rows (the batches of `fit_stream`), and an M-step
            after each; full EM steps follow. `max_steps` counts passes.
        update: "incremental" keeps the statistics of every slice; "online" forgets them, by `(t + 1)^-step_size`.
        step_size: of online passes.
        process_group: of torch.distributed: the rows passed to `fit`, `fit_stream` or `step` are the share of this
            process, perhaps none.

    Attributes:
        last: the last `Fit`; also one that Ctrl-C or an error of the callback ended, with the outcome "interrupted".

    An M-step of your own comes before all others, which are maximised around what it returns. That stands: no
    acceleration or disturbance moves it. Once the others are done, `Q` must not have fallen.

    The expected statistics are a dict. For every site that a parameter enters, by name, it has a tuple of tensors:
    statistics of the data as they are, times posterior weights, summed over the rows. Dimensions are the latents and
    plates along which the arguments of the site differ (latents first, the one sampled last in front; plates by their
    `dim`), then those of the event and of the statistic. Where more rows look up fewer entries (`loc[z, group]`), the
    last of the former is one of groups, in place of the plate of the rows. Steps of a loop with the same arguments are
    one site, under the name of the first; a `DiscreteHMM` "y" is "y.initial", "y.transition" and "y". What the plan
    calls replayed has none. By distribution, in this order:
    """

    @model_alone
    def __init__(
        self,
        model: Callable[..., Any],
        *,
        tol: float = 1e-8,
        max_steps: int = 1000,
        seed: int = 0,
        starts: int | Mapping[str, Any] | Sequence[Mapping[str, Any]] = 1,
        m_step: Mapping[str, Choice] | None = None,
        check: bool = True,
        progress: bool = False,
        callback: Callable[[State], Any] | None = None,
        screen: bool = True,
        collapse: bool = True,
        acceleration: str | None = "auto",
        prior_density: str = "constrained",
        continuous: Mapping[str, str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        every: int = EVERY,
        e_step: str = "soft",
        batches: int | None = None,
        update: str = "incremental",
        step_size: float = 0.6,
        process_group: Any = None,
    ) -> None:
        """Take the model and the options; nothing runs yet."""
        check_model("EM", model)
        check_options(tol, max_steps, seed, starts, m_step, callback, acceleration, e_step)
        check_priors(prior_density, continuous)
        check_batches(batches, update, step_size, acceleration, callback, process_group)
        check_switches(check=check, progress=progress, screen=screen, collapse=collapse)
        check_file(checkpoint, every)
        both = {"checkpoint": checkpoint is not None, "e_step": e_step != "soft", "batches": batches is not None}
        check_together("EM", **both)
        self.model = model
        self.tol, self.max_steps, self.seed = tol, int(max_steps), int(seed)
        self.starts = int(starts) if isinstance(starts, Integral) else starts
        self.m_step, self.check, self.progress, self.callback = dict(m_step or {}), check, progress, callback
        self.screen, self.collapse, self.acceleration = screen, collapse, acceleration
        self.prior_density, self.continuous, self.e_step = prior_density, dict(continuous or {}), e_step
        self.checkpoint, self.every = checkpoint, int(every)
        self.batches, self.update, self.step_size = batches, update, float(step_size)
        self.process_group = process_group
        self.last: Fit | None = None
        self._prepared: Problem | None = None
        self._joined: Problem | None = None  # of the last step: the same with the rows of all processes
        self._current = Current(self.starts, self.seed)
        self._carried: Carried = {}  # what climbs remember between calls of `step`
        self._previous: tuple[Fingerprint, float, dict[str, Tensor]] | None = None

    def __repr__(self) -> str:
        """Return the model and the options that are not their defaults."""
        return written(self)

    @alone()
    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Say how every parameter will be maximised, and why. Changes nothing."""
        return self._prepare(args, kwargs).plan

    @property
    @alone()
    def params(self) -> Mapping[str, Tensor]:
        """Copies of the values from which the next step begins; before any call only those of `starts` are known.

        They are those of `starts`, if that has values, until a step or a fit has left others: then the param store's
        for params, the EM's own for sites with a prior.
        """
        if self._prepared is None:
            return MappingProxyType({n: given_value(n, v) for n, v in self._current.given().items()})
        program = self._prepared.program
        with beside(program.device):
            values = self._current.values(self._prepared)
        return MappingProxyType({n: v.to(program.parameters[n].initial.dtype, copy=True) for n, v in values.items()})

    @alone()
    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take one EM step and return the loss: minus the objective at the parameters that the E-step used.

        Steps begin where `params` says. A step that fails leaves everything as it was. All that the model reaches is
        read before every step: arguments, closure, globals, attributes of the objects among them. Where it reaches what
        cannot be read (a thing of another library than torch, Pyro and NumPy, a name that it computes), it is run once
        more as well and compared. What has changed is planned anew.

        Raises:
            ParameterError: `e_step` is not "soft".
            ObjectiveError: the objective fell between consecutive steps on the same arguments; or there is no step.
        """
        need_soft(self.e_step)
        problem = shared(self, partial(self._prepare, closely=False), args, kwargs, self._joined)
        self._joined = None if self.process_group is None else problem
        need_parameters(problem)
        with beside(problem.program.device):
            return self._stepped(problem)

    @alone()
    def fit(self, *args: Any, **kwargs: Any) -> Fit:
        """Run EM from every start to its end, and return the best.

        The fitted values are left in the param store under the user's names; a fit that fails leaves it as it was. The
        answer is kept in `last`, too. Ctrl-C raises `KeyboardInterrupt`, and leaves the best values so far in the
        store, and in `last` the fit so far, with the outcome "interrupted".

        Args:
            args: go to the model, as they are. Where it does not run with arrays and frames of numbers (NumPy, pandas),
                it is given tensors of their dtype instead, and at last tensors for lists of numbers. What stands as
                `obs=` is converted in any case; truth values, bytes and half precision enter densities as wider
                numbers.
            kwargs: the same by name.

        Raises:
            KeyboardInterrupt: the user interrupted it.
            ModelError: the program is one that exact EM cannot treat; or it has no parameters.
            DataError: the data cannot be used.
            ParameterError: an option or a start does not fit.
            ObjectiveError: the objective fell, or is not finite at the start.
        """
        if self.checkpoint is not None:
            self._prepared = None  # what follows from the plan is to follow from what the file says
        problem = shared(self, self._prepare, args, kwargs)
        need_parameters(problem)
        with beside(problem.program.device):
            return self._fitted(problem, partial(self._known, args, kwargs), self._first(problem, (args, kwargs)))

    @alone()
    def fit_stream(self, batches: Any, passes: int | None = None) -> Fit:
        """Run exact EM on rows that come in batches, as `fit` does on all of them, in the memory of one batch.

        The model is planned on the first batch, and its initialisers see that one alone. Every EM step is a pass. With
        a `process_group` the batches are those of this process, perhaps none. What would keep its rows (a regression
        with a link) takes one step of Newton's method where `fit` maximises, and the plan says so.

        Args:
            batches: an iterable that can be read again, or a function that returns an iterator: of tuples of the
                model's arguments, of single tensors or arrays, or of pairs (args, kwargs).
            passes: in place of `max_steps`.

        Raises:
            PlanError: statistics of a site do not add up over batches.
            DataError: a batch is empty, has another shape than the first, or is another in a later pass.
            ParameterError: the batches can be read only once; or an option does not go with them.
        """
        check_passes(passes)
        check_together("fit_stream", checkpoint=self.checkpoint is not None)
        problem = shared_stream(self, self._prepare, batches, passes)
        need_parameters(problem)
        with beside(problem.program.device):
            return self._fitted(problem, None, self._first(problem), passes)

    @alone()
    def posterior(self, *args: Any, **kwargs: Any) -> Posterior:
        """Return the exact posterior of the latents at `params` (the starting values before any fit)."""
        problem = self._prepare(args, kwargs)
        with beside(problem.program.device):
            return possible_posterior(problem.engine, self._current.values(problem))


_SUMMED = "\n".join(f"        {name}: {text}" for name, text in sorted(summed().items()))
EM.__doc__ = f"{(EM.__doc__ or '').rstrip()}\n\n{_SUMMED}\n    "
