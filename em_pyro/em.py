"""The driver: `EM(model).plan / step / fit / posterior`, in the shape of Pyro's `SVI`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .after.answer import answer
from .after.fit import Fit
from .errors import ModelError
from .families.base import summed
from .fit.acceleration.when import wished
from .fit.checkpoint.opened import opened
from .fit.endings import check_step
from .fit.look import look
from .fit.loop import Settings, State
from .fit.path import Interrupted, Move, Path
from .fit.problem import Problem, prepare
from .fit.starting.current import Current
from .fit.starting.ends import ends, ranked, with_a_value
from .fit.starting.starts import given_value, need_parameters, starting_points
from .fit.step import em_step
from .m_step.ascent.ascend import Carried
from .m_step.plan import Choice, Plan
from .options import EVERY, bar_of, check_file, check_options, check_priors, check_switches, planning, telling
from .posterior.possible import check_possible, possible_posterior
from .posterior.posterior import Posterior
from .program.changes.fingerprint import Fingerprint
from .program.devices import beside
from .program.handlers import alone
from .program.named import alike, batched, only
from .program.stated import Known


class EM:
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
            gives its answer then; remove it to begin anew. Where it cannot be written the fit warns, and goes on.
        every: so many EM steps it is written.

    Attributes:
        last: the last `Fit`; also one that Ctrl-C or an error of the callback ended, with the outcome "interrupted".

    An M-step of your own comes before all others, which are maximised around what it returns. That stands: no
    acceleration or disturbance moves it. Once the others are done, `Q` must not have fallen.

    The expected statistics are a dict. For every site that a parameter enters, by name, it has a tuple of tensors:
    statistics of the data as they are, times posterior weights, summed over the rows. Dimensions are the latents and
    plates along which the arguments of the site differ (latents first, the one sampled last in front; plates by their
    `dim`), then those of the event and of the statistic. Steps of a loop with the same arguments are one site, under
    the name of the first; a `DiscreteHMM` "y" is "y.initial", "y.transition" and "y". What the plan calls replayed has
    none. By distribution, in this order:
    """

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
    ) -> None:
        """Take the model and the options; nothing runs yet."""
        if not callable(model):
            raise ModelError(f"EM: expected a Pyro model (a callable), got {type(model).__name__}.")
        check_options(tol, max_steps, seed, starts, m_step, callback, acceleration)
        check_priors(prior_density, continuous)
        check_switches(check=check, progress=progress, screen=screen, collapse=collapse)
        check_file(checkpoint, every)
        self.model = model
        self.tol, self.max_steps, self.seed = tol, int(max_steps), int(seed)
        self.starts = int(starts) if isinstance(starts, Integral) else starts
        self.m_step, self.check, self.progress, self.callback = dict(m_step or {}), check, progress, callback
        self.screen, self.collapse, self.acceleration = screen, collapse, acceleration
        self.prior_density, self.continuous = prior_density, dict(continuous or {})
        self.checkpoint, self.every = checkpoint, int(every)
        self.last: Fit | None = None
        self._prepared: Problem | None = None
        self._current = Current(self.starts, self.seed)
        self._carried: Carried = {}  # what climbs remember between calls of `step`
        self._previous: tuple[Fingerprint, float, dict[str, Tensor]] | None = None

    # ---- what a user calls ----

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
            ObjectiveError: the objective fell between consecutive steps on the same arguments; or there is no step.
        """
        problem = self._prepare(args, kwargs, closely=False)
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
        problem = self._prepare(args, kwargs)
        need_parameters(problem)
        with beside(problem.program.device):
            return self._fitted(problem, partial(self._planned, args, kwargs))

    @alone()
    def posterior(self, *args: Any, **kwargs: Any) -> Posterior:
        """Exact posterior of the latents at `params` (the starting values before any fit)."""
        problem = self._prepare(args, kwargs)
        with beside(problem.program.device):
            return possible_posterior(problem.engine, self._current.values(problem))

    # ---- how ----

    def _stepped(self, problem: Problem) -> float:
        """Take one EM step from the current values."""
        params = self._current.values(problem)
        batch, carried = batched(params), dict(self._carried)
        if self._previous is None:  # before the M-step meets what is impossible
            check_possible(problem.engine, params, problem.objective(batch))
        try:
            new, found = em_step(problem, batch, carried)
        except (RuntimeError, ValueError):  # of torch, where other data than before are impossible
            check_possible(problem.engine, params, problem.objective(batch))
            raise
        before, objective = self._previous, look(problem, found, batch, new).objective[0]
        known = before is not None and before[0] is problem.key and alike(before[2], params)
        check_step(problem, Move(new, found, carried), batch, before[1] if before is not None and known else None)
        self._current.keep(problem, with_a_value(problem, only(new)))
        self._carried = carried
        self._previous = problem.key, objective, {n: v.clone() for n, v in self._current.values(problem).items()}
        return -objective

    def _fitted(self, problem: Problem, planned: Callable[[Known], Problem]) -> Fit:
        """Follow every start to its end; the best is left in the store."""
        draw = partial(starting_points, problem, self.starts, self.seed, self._current.own(problem))
        problem, journal = opened(problem, self.checkpoint, self.every, telling(self), planned, draw)
        points = journal.points
        bar = bar_of(len(points)) if self.progress else None
        tick = bar.update if bar is not None else None
        told = None if self.callback is None else self._told(problem, self.callback)
        settings = Settings(self.tol, self.max_steps, told, tick, wished(problem, self.acceleration), journal)
        paths: list[Path] = []
        with self._current.kept_on_error(problem):
            try:
                problem, paths = ends(problem.sooner(self.acceleration, self.tol), points, settings, screen=self.screen)
                return self._answered(problem, journal.ended(paths), measure=True)
            except KeyboardInterrupt as stopped:
                if isinstance(stopped, Interrupted):
                    paths = [stopped.path]
                if paths := journal.interrupted(paths):
                    best = paths[ranked(paths)[0]].ended("interrupted")
                    self._answered(problem, [best], measure=False)
                raise getattr(stopped, "cause", None) or KeyboardInterrupt from None
            finally:
                if bar is not None:
                    bar.close()

    def _told(self, problem: Problem, callback: Callable[[State], Any]) -> Callable[[State], Any]:
        """Return the user's callback, before which the values of the step are left in the store."""

        def told(state: State) -> Any:
            self._current.keep(problem, state.params)
            return callback(state)

        return told

    def _answered(self, problem: Problem, paths: Sequence[Path], *, measure: bool) -> Fit:
        """Keep the answer, and its values in the store."""
        self.last = answer(problem, paths, tol=self.tol, measure=measure)
        self._current.keep(problem, paths[self.last.starts.best].params)
        return self.last

    # ---- state ----

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, closely: bool = True) -> Problem:
        """Trace and plan, unless all that the model sees is as it was; `closely`: and all that it does."""
        if self._prepared is None or self._prepared.change(args, kwargs, run=closely):
            return self._planned(args, kwargs)
        return self._prepared

    def _planned(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Known | None = None) -> Problem:
        """Trace and plan."""
        self._prepared = prepare(self.model, args, kwargs, self.m_step, **planning(self), known=known)
        return self._prepared


_SUMMED = "\n".join(f"        {name}: {text}" for name, text in sorted(summed().items()))
EM.__doc__ = f"{(EM.__doc__ or '').rstrip()}\n\n{_SUMMED}\n    "
