"""The driver: `EM(model).plan / step / fit / posterior`, in the shape of Pyro's `SVI`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .em_step import em_step
from .endings import collapsed
from .errors import ModelError, ObjectiveError, ParameterError
from .fit import Fit, Start, Starts, write_back
from .loop import Interrupted, Run, Settings, State, check_start, guard, possible_posterior, run
from .m_step import gradient, maximise
from .plan import Choice, Plan
from .posterior import Posterior
from .prepare import Prepared, disagreements, key_of, measured, prepare
from .solvers import PriorUnbounded
from .starts import given_start, prior_start, random_start
from .store import starting_values, write

CERTIFIED = 1e-7  # of the gradient of Q after a closed form, relative to 1 + |Q|
BAD = ("degenerate", "empty state", "prior unbounded")
SAME_MAXIMUM = 1e-6
MEASURED_AGAIN = 1e-8


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
        acceleration: str | None = None,
    ) -> None:
        """Take the model and the options; nothing runs yet."""
        if not callable(model):
            raise ModelError(f"EM: expected a Pyro model (a callable), got {type(model).__name__}.")
        if tol < 0 or max_steps < 0:
            raise ParameterError(f"EM: expected tol and max_steps of at least 0, got {tol} and {max_steps}.")
        if isinstance(starts, int) and (starts < 1 or isinstance(starts, bool)):
            raise ParameterError(f"EM: expected at least one start, got {starts}.")
        if acceleration not in (None, "squarem"):
            raise ParameterError(f'EM: expected acceleration to be None or "squarem", got {acceleration!r}.')
        self.model = model
        self.tol, self.max_steps, self.seed, self.starts = tol, max_steps, seed, starts
        self.m_step, self.check, self.progress, self.callback = dict(m_step or {}), check, progress, callback
        self.acceleration = acceleration
        self.last: Fit | None = None
        self._prepared: Prepared | None = None
        self._kept: tuple[Any, ...] = ()
        self._sites: dict[str, Tensor] = {}  # current values of sites with a prior
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
        here = self._prepare(args, kwargs)
        self._need_parameters(here)
        params = self._current(here)
        if self._previous is None:
            check_start(here.engine, params, float(here.engine.expect(params).objective))
        try:
            new, found = em_step(here.engine, here.plan, params)
        except PriorUnbounded as where:
            raise ObjectiveError(
                f"EM.step: expected an interior update, but {where}. Use a shape of at least 1."
            ) from None
        objective = float(found.objective)
        check_start(here.engine, params, objective)
        before = self._previous
        if before is not None and before[0] == here.key and _unmoved(before[2], params):
            guard(before[1], objective, here.engine, 1)
        self._keep(here, new)
        self._previous = here.key, objective, {n: v.clone() for n, v in self._current(here).items()}
        return -objective

    def fit(self, *args: Any, **kwargs: Any) -> Fit:
        """Run EM from every start to its end, and return the best.

        The fitted values are left in the param store under the user's names; a fit that fails leaves it as it was.

        Raises:
            ModelError: the program is one that exact EM cannot treat; or it has no parameters.
            DataError: the data cannot be used.
            ParameterError: an option or a start does not fit.
            ObjectiveError: the objective fell, or is not finite at the start.
        """
        here = self._prepare(args, kwargs)
        self._need_parameters(here)
        starts = self._starting_points(here)
        runs: list[Run] = []
        bar = _bar(len(starts)) if self.progress else None
        try:
            for start in starts:
                here, done = self._follow(here, start(here), bar)
                runs.append(done)
        except Interrupted as stopped:
            self._finish(here, [*runs, stopped.run], measure=False)
            raise KeyboardInterrupt from None
        finally:
            if bar is not None:
                bar.close()
        return self._finish(here, runs)

    def posterior(self, *args: Any, **kwargs: Any) -> Posterior:
        """Exact posterior of the latents at `params` (the starting values before any fit)."""
        here = self._prepare(args, kwargs)
        return possible_posterior(here.engine, self._current(here))

    # ---- one start ----

    def _follow(self, here: Prepared, start: dict[str, Tensor], bar: Any) -> tuple[Prepared, Run]:
        """Follow one start to its end; withdraw what the certificates refute, and go on."""
        tick = bar.update if bar is not None else None
        settings = Settings(self.tol, self.max_steps, self.callback, tick, self.acceleration is not None)
        here, notes = self._certified(here, start)
        done = run(here.engine, here.plan, start, settings)
        path = done.path
        while True:
            wrong = disagreements(here.engine, done.params)
            if not wrong:
                break
            names = frozenset[str]().union(*(here.engine.recognition.readings[s].parameters for s in wrong))
            why = "the model's arguments at the fitted values are not those that the plan derived"
            notes = (*notes, f"closed forms of {sorted(names)} withdrawn: {why}; the fit went on with the model itself")
            here = here.without(names, frozenset(wrong), why)
            done = run(here.engine, here.plan, done.params, settings)
            path = done.path
        return here, replace(done, notes=(*notes, *done.notes), path=path)

    def _certified(self, here: Prepared, start: dict[str, Tensor]) -> tuple[Prepared, tuple[str, ...]]:
        """Take one M-step and require that the gradient of `Q` is zero at every closed form."""
        closed = [n for n, line in here.plan.lines.items() if line.closed_form]
        params = {n: v.double() for n, v in start.items()}
        found = here.engine.expect(params)
        check_start(here.engine, params, float(found.objective))
        if not closed:
            return here, ()
        try:
            new = maximise(here.engine, here.plan, found, params)
        except (PriorUnbounded, ObjectiveError):
            return here, ()  # the loop reports it as its ending
        if collapsed(here.engine, here.plan, new):
            return here, ()
        value, slopes = gradient(here.engine, found, new, closed)
        size = 1 + abs(value)
        wrong = [n for n in closed if not _small(slopes[n], CERTIFIED * size)]
        if not wrong:
            return here, ()
        why = "its closed form left a gradient of Q that is not zero"
        return here.without(frozenset(wrong), frozenset(), why), (f"closed forms of {wrong} withdrawn: {why}",)

    def _starting_points(self, here: Prepared) -> list[Callable[[Prepared], dict[str, Tensor]]]:
        own = {n: v.double() for n, v in starting_values(here.program).items()}
        if isinstance(self.starts, int):
            first = [lambda p: prior_start(p.engine, p.plan, own, self.seed)]
            return first + [
                lambda p, i=i: random_start(p.engine, p.plan, own, self.seed, i) for i in range(1, self.starts)
            ]
        given = [self.starts] if isinstance(self.starts, Mapping) else list(self.starts)
        if not given:
            raise ParameterError("EM: expected at least one start, got an empty list. Pass an int, a dict or dicts.")
        for values in given:
            given_start(here.engine, own, values)

        def point(values: Mapping[str, Any]) -> Callable[[Prepared], dict[str, Tensor]]:
            return lambda p: given_start(p.engine, prior_start(p.engine, p.plan, own, self.seed), values)

        return [point(values) for values in given]

    def _finish(self, here: Prepared, runs: Sequence[Run], *, measure: bool = True) -> Fit:
        """Rank the runs, re-measure the best on the user's program, and leave its values in the store."""
        top = max(range(len(runs)), key=lambda i: (runs[i].outcome not in BAD, runs[i].objective))
        level = runs[top].objective - SAME_MAXIMUM * (1 + abs(runs[top].objective))
        reached = [i for i, r in enumerate(runs) if r.objective >= level and r.outcome == runs[top].outcome]
        best = reached[0]  # of equals the first, whose labels are the user's
        done = runs[best]
        params = write_back(here, done.params)
        expectation = here.engine.expect({n: v.double() for n, v in params.items()})
        evidence, prior = float(expectation.log_evidence), float(expectation.log_prior)
        if measure and all(p.initial.dtype == torch.float64 for p in here.program.parameters.values()):
            again = measured(here.engine, params)
            if again is not None and again == again:
                if abs(again - evidence) > MEASURED_AGAIN * (1 + abs(evidence)):
                    both = f"{again:.9g} at the fitted values, the loop {evidence:.9g}"
                    done = replace(done, notes=(*done.notes, f"the model itself gives log-likelihood {both}"))
                evidence = again
        starts = Starts(
            tuple(Start(i, r.objective, r.outcome, r.num_steps) for i, r in enumerate(runs)), best, len(reached)
        )
        fit = Fit(
            params,
            evidence,
            evidence + prior,
            done.path,
            done.num_steps,
            done.outcome,
            done.converged,
            done.gap,
            starts,
            replace(here.plan, solvers=(), callables={}),  # what it says, without the data that solvers hold
            done.notes,
            here,
            done.acceleration,
        )
        self._keep(here, done.params)
        self.last = fit
        return fit

    # ---- state ----

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prepared:
        """Trace and plan, unless the arguments are the same objects at the same versions."""
        if self._prepared is None or self._prepared.key != key_of(args, kwargs):
            prepared = prepare(self.model, args, kwargs, self.m_step, check=self.check)
            self._prepared, self._kept = prepared, (args, kwargs)
        return self._prepared

    def _need_parameters(self, here: Prepared) -> None:
        if not here.program.parameters:
            raise ModelError(
                "The model: expected at least one parameter to fit, got none. Declare it with pyro.param, or as a "
                "continuous pyro.sample outside the data plates."
            )

    def _current(self, here: Prepared) -> dict[str, Tensor]:
        values = {n: v.double() for n, v in starting_values(here.program).items()}
        known = {n: v for n, v in self._sites.items() if n in values and v.shape == values[n].shape}
        if any(p.kind == "prior" and n not in known for n, p in here.program.parameters.items()):
            values = prior_start(here.engine, here.plan, values, self.seed)
        return {**values, **known}

    def _keep(self, here: Prepared, values: Mapping[str, Tensor]) -> None:
        write(here.program, values)
        self._sites = {n: values[n].detach().clone() for n, p in here.program.parameters.items() if p.kind == "prior"}


def _small(slope: Tensor, bound: float) -> bool:
    return not slope.numel() or float(slope.abs().max()) <= bound


def _unmoved(kept: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> bool:
    return kept.keys() == params.keys() and all(torch.equal(kept[n], params[n]) for n in kept)


def _bar(starts: int) -> Any:
    from tqdm import tqdm

    return tqdm(desc=f"EM, {starts} start{'s' * (starts > 1)}", unit=" steps")
