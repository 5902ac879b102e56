"""The driver: `EM(model).plan / step / fit / posterior`, in the shape of Pyro's `SVI`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .errors import ModelError, ObjectiveError
from .fit.answer import answer, follow
from .fit.endings import guard
from .fit.look import look
from .fit.loop import Settings, State
from .fit.path import Interrupted, Path
from .fit.problem import Problem, prepare
from .fit.result import Fit
from .fit.starting.starts import need_parameters, own_values, prior_start, starting_points
from .fit.step import em_step
from .m_step.ascent.ascend import Carried
from .m_step.plan import Choice, Plan
from .m_step.pooling import PriorUnbounded
from .options import check_options, check_switches
from .posterior.possible import check_possible, possible_posterior
from .posterior.posterior import Posterior
from .program.devices import beside
from .program.fingerprint import key_of
from .program.named import Params, batched, only
from .program.store import starting_values, write


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
            list of such dicts.
        m_step: for a parameter by name, "torch", "closed" (an error where there is no closed form), "fixed" (kept at
            its start) or a callable of (expected statistics, current value) that returns the new value.
        check: compare the enumerated program with concrete runs before the first step.
        progress: show a progress bar.
        callback: called with a `State` after every step; returning True stops.
        screen: with more than five starts, compare them after twenty steps and follow the best quarter to their ends;
            False follows all.
        collapse: treat equal rows as one row with a weight, where that pays; False keeps them apart.
        acceleration: None, or "squarem" to let `fit` extrapolate its EM steps, never to where the objective is lower;
            `max_steps` and `Fit.num_steps` then count EM steps, up to three of them to a point of `Fit.path`.
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
        acceleration: str | None = None,
    ) -> None:
        """Take the model and the options; nothing runs yet."""
        if not callable(model):
            raise ModelError(f"EM: expected a Pyro model (a callable), got {type(model).__name__}.")
        check_options(tol, max_steps, seed, starts, m_step, callback, acceleration)
        check_switches(check=check, progress=progress, screen=screen, collapse=collapse)
        self.model = model
        self.tol, self.max_steps, self.seed = tol, int(max_steps), int(seed)
        self.starts = int(starts) if isinstance(starts, Integral) else starts
        self.m_step, self.check, self.progress, self.callback = dict(m_step or {}), check, progress, callback
        self.screen, self.collapse, self.acceleration = screen, collapse, acceleration
        self.last: Fit | None = None
        self._prepared: Problem | None = None
        self._kept: tuple[Any, ...] = ()
        self._sites: dict[str, Tensor] = {}  # current values of sites with a prior
        self._carried: Carried = {}  # what Adam remembers between calls of `step`
        self._previous: tuple[tuple[Any, ...], float, dict[str, Tensor]] | None = None

    # ---- what a user calls ----

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """Say how every parameter will be maximised, and why. Changes nothing."""
        return self._prepare(args, kwargs).plan

    @property
    def params(self) -> Mapping[str, Tensor]:
        """Current values, read-only: the param store's for params, the EM's own for sites with a prior."""
        if self._prepared is None:
            return MappingProxyType({})
        values = {n: v for n, v in starting_values(self._prepared.program).items()}
        return MappingProxyType({**values, **self._sites})

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Take one EM step and return the loss: minus the objective at the parameters that the E-step used.

        Raises:
            ObjectiveError: the objective fell between consecutive steps on the same arguments.
        """
        problem = self._prepare(args, kwargs)
        need_parameters(problem)
        with beside(problem.program.device):
            return self._stepped(problem)

    def fit(self, *args: Any, **kwargs: Any) -> Fit:
        """Run EM from every start to its end, and return the best.

        The fitted values are left in the param store under the user's names; a fit that fails leaves it as it was.

        Raises:
            ModelError: the program is one that exact EM cannot treat; or it has no parameters.
            DataError: the data cannot be used.
            ParameterError: an option or a start does not fit.
            ObjectiveError: the objective fell, or is not finite at the start.
        """
        problem = self._prepare(args, kwargs)
        need_parameters(problem)
        with beside(problem.program.device):
            return self._fitted(problem)

    def posterior(self, *args: Any, **kwargs: Any) -> Posterior:
        """Exact posterior of the latents at `params` (the starting values before any fit)."""
        problem = self._prepare(args, kwargs)
        with beside(problem.program.device):
            return possible_posterior(problem.engine, self._current(problem))

    # ---- how ----

    def _stepped(self, problem: Problem) -> float:
        """Take one EM step from the current values."""
        params = self._current(problem)
        batch = batched(params)
        if self._previous is None:  # before the M-step meets what is impossible
            check_possible(problem.engine, params, problem.objective(batch))
        new, found = em_step(problem, batch, self._carried)
        seen = look(problem, found, batch, new)
        objective = seen.objective[0]
        if not seen.stepped[0]:
            why = problem.fault(found, batch)
            if isinstance(why, PriorUnbounded):
                raise ObjectiveError(
                    f"EM.step: expected an interior update, but {why}. Use a shape of at least 1."
                ) from None
            if why is not None:
                raise why
        check_possible(problem.engine, params, objective)
        before = self._previous
        if before is not None and before[0] == problem.key and _unmoved(before[2], params):
            guard(problem, before[1], objective, 1)
        self._keep(problem, only(new))
        self._previous = problem.key, objective, {n: v.clone() for n, v in self._current(problem).items()}
        return -objective

    def _fitted(self, problem: Problem) -> Fit:
        """Follow every start to its end; the best is left in the store."""
        points = starting_points(problem, self.starts, self.seed)
        bar = _bar(len(points)) if self.progress else None
        tick = bar.update if bar is not None else None
        settings = Settings(self.tol, self.max_steps, self.callback, tick, self.acceleration is not None)
        try:
            problem, paths = follow(problem, points, settings, screen=self.screen)
        except Interrupted as stopped:
            self._answered(problem, [stopped.path], measure=False)
            raise KeyboardInterrupt from None
        finally:
            if bar is not None:
                bar.close()
        return self._answered(problem, paths, measure=True)

    def _answered(self, problem: Problem, paths: Sequence[Path], *, measure: bool) -> Fit:
        """Keep the answer, and its values in the store."""
        self.last = answer(problem, paths, measure=measure)
        self._keep(problem, paths[self.last.starts.best].params)
        return self.last

    # ---- state ----

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Problem:
        """Trace and plan, unless the arguments are the same objects at the same versions."""
        if self._prepared is None or self._prepared.key != key_of(args, kwargs):
            problem = prepare(self.model, args, kwargs, self.m_step, check=self.check, collapse=self.collapse)
            self._prepared, self._kept = problem, (args, kwargs)
        return self._prepared

    def _current(self, problem: Problem) -> dict[str, Tensor]:
        values = own_values(problem)
        known = {n: v for n, v in self._sites.items() if n in values and v.shape == values[n].shape}
        if any(p.kind == "prior" and n not in known for n, p in problem.program.parameters.items()):
            values = prior_start(problem.of_all_rows, values, self.seed)
        return {**values, **known}

    def _keep(self, problem: Problem, values: Params) -> None:
        """Leave values in the param store, and keep those of sites with a prior."""
        write(problem.program, values)
        priors = [n for n, p in problem.program.parameters.items() if p.kind == "prior"]
        self._sites = {n: values[n].detach().clone() for n in priors}


def _unmoved(kept: Params, params: Params) -> bool:
    return kept.keys() == params.keys() and all(torch.equal(kept[n], params[n]) for n in kept)


def _bar(starts: int) -> Any:
    from tqdm import tqdm

    return tqdm(desc=f"EM, {starts} start{'s' * (starts > 1)}", unit=" steps")
