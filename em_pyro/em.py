"""The driver: `EM(model).plan / step / fit / posterior`, in the shape of Pyro's `SVI`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from numbers import Integral
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from .e_step.confirm import disagreements, measured
from .e_step.precision import around, moves_too_far, suited
from .errors import DataError, ModelError, ObjectiveError
from .fit.endings import BAD, collapsed
from .fit.loop import Interrupted, Run, Settings, State, careful_step, check_start, guard, possible_posterior
from .fit.problem import Prepared, prepare
from .fit.restarts import follow
from .fit.result import Fit, Start, Starts, write_back
from .fit.starts import given_start, prior_start, random_start
from .m_step.ascent.ascend import Carried
from .m_step.maximise import gradient, maximise
from .m_step.plan import Choice, Plan
from .m_step.pooling import PriorUnbounded
from .options import check_options, check_switches
from .posterior.posterior import Posterior
from .program.devices import beside
from .program.fingerprint import key_of
from .program.named import Params
from .program.store import starting_values, write

CERTIFIED = 1e-7  # of the gradient of Q after a closed form, relative to the terms that Q adds up
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
        check_options(
            tol=tol,
            max_steps=max_steps,
            seed=seed,
            starts=starts,
            m_step=m_step,
            callback=callback,
            acceleration=acceleration,
        )
        check_switches(check=check, progress=progress, screen=screen, collapse=collapse)
        self.model = model
        self.tol, self.max_steps, self.seed = tol, int(max_steps), int(seed)
        self.starts = int(starts) if isinstance(starts, Integral) else starts
        self.m_step, self.check, self.progress, self.callback = dict(m_step or {}), check, progress, callback
        self.screen, self.collapse, self.acceleration = screen, collapse, acceleration
        self.last: Fit | None = None
        self._prepared: Prepared | None = None
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
        here = self._prepare(args, kwargs)
        self._need_parameters(here)
        with beside(here.program.device):
            return self._stepped(here)

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
        with beside(here.program.device):
            return self._fitted(here)

    def posterior(self, *args: Any, **kwargs: Any) -> Posterior:
        """Exact posterior of the latents at `params` (the starting values before any fit)."""
        here = self._prepare(args, kwargs)
        with beside(here.program.device):
            return possible_posterior(here.engine, self._current(here))

    # ---- how ----

    def _stepped(self, here: Prepared) -> float:
        """One EM step from the current values."""
        params = self._current(here)
        if self._previous is None:
            check_start(here.engine, params, float(here.engine.expect(params).objective))
        try:
            new, found = careful_step(here.engine, here.plan, params, self._carried)
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

    def _fitted(self, here: Prepared) -> Fit:
        """Follow every start to its end; the best is left in the store."""
        points = [point(here) for point in self._starting_points(here)]
        bar = _bar(len(points)) if self.progress else None
        try:
            here, runs = self._follow(here, points, bar)
        except Interrupted as stopped:
            self._finish(here, [stopped.run], measure=False)
            raise KeyboardInterrupt from None
        finally:
            if bar is not None:
                bar.close()
        return self._finish(here, runs)

    def _follow(self, here: Prepared, points: Sequence[Params], bar: Any) -> tuple[Prepared, list[Run]]:
        """Follow all starts to their ends; withdraw what the certificates refute, and go on."""
        tick = bar.update if bar is not None else None
        settings = Settings(self.tol, self.max_steps, self.callback, tick, self.acceleration is not None)
        notes: tuple[str, ...] = ()
        for point in points:
            try:
                here, more, certified = self._certified(here, point)
            except (DataError, ObjectiveError):
                if len(points) == 1:
                    raise
                continue  # the ending of this start
            notes += more
            if certified:
                break
        runs = follow(here.engine, here.plan, points, settings, screen=self.screen)
        if all(done.outcome == "impossible start" for done in runs):
            self._certified(here, points[0])  # raises
        while True:
            best = runs[ranked(runs)[0]]
            wrong = disagreements(here.engine, best.params)
            if not wrong:
                break
            here, note = here.corrected(wrong)
            notes = (*notes, note)
            screened = {i: done for i, done in enumerate(runs) if done.outcome == "screened out"}
            again = [done.params for i, done in enumerate(runs) if i not in screened]
            rest = iter(follow(here.engine, here.plan, again, settings, screen=False))
            runs = [screened[i] if i in screened else next(rest) for i in range(len(runs))]
        return here, [replace(done, notes=(*notes, *done.notes)) for done in runs]

    def _certified(self, here: Prepared, start: Params) -> tuple[Prepared, tuple[str, ...], bool]:
        """Take one M-step and require that the gradient of `Q` is zero at every closed form.

        Returns:
            What is left of the closed forms, why others were withdrawn, and whether this start could tell.
        """
        closed = [n for n, line in here.plan.lines.items() if line.closed_form]
        params = {n: v.double() for n, v in start.items()}
        engine = suited(here.engine.lean, params)
        found = engine.expect(params)
        check_start(engine, params, float(found.objective))
        if not closed:
            return here, (), True
        try:
            new = maximise(engine, here.plan, found, params)
            if moves_too_far(engine, params, new):
                engine = around(suited(engine, new), new)
                found = engine.expect(params)
                new = maximise(engine, here.plan, found, params)
        except (PriorUnbounded, ObjectiveError):
            return here, (), False  # the loop reports it as its ending
        if collapsed(engine, here.plan, new):
            return here, (), False
        _, slopes = gradient(engine, found, new, closed)
        size = 1 + engine.magnitude(found, new)
        wrong = [n for n in closed if not _small(slopes[n], CERTIFIED * size)]
        if not wrong:
            return here, (), True
        why = "its closed form left a gradient of Q that is not zero"
        return here.without(frozenset(wrong), frozenset(), why), (f"closed forms of {wrong} withdrawn: {why}",), True

    def _starting_points(self, here: Prepared) -> list[Callable[[Prepared], dict[str, Tensor]]]:
        own = {n: v.double() for n, v in starting_values(here.program).items()}
        if isinstance(self.starts, int):
            return [partial(self._drawn, own, i) for i in range(self.starts)]
        given = [self.starts] if isinstance(self.starts, Mapping) else list(self.starts)
        for values in given:
            given_start(here.engine, own, values)
        return [partial(self._given, own, values) for values in given]

    def _drawn(self, own: Params, i: int, here: Prepared) -> dict[str, Tensor]:
        """Start number `i`."""
        engine, plan = here.of_all_rows
        return random_start(engine, plan, own, self.seed, i) if i else prior_start(engine, plan, own, self.seed)

    def _given(self, own: Params, values: Mapping[str, Any], here: Prepared) -> dict[str, Tensor]:
        """Start 0 with the values of the user's in it."""
        return given_start(here.engine, self._drawn(own, 0, here), values)

    def _finish(self, here: Prepared, runs: Sequence[Run], *, measure: bool = True) -> Fit:
        """Rank the runs, re-measure the best on the user's program, and leave its values in the store."""
        top = ranked(runs)[0]
        level = runs[top].objective - SAME_MAXIMUM * (1 + abs(runs[top].objective))
        reached = [i for i, r in enumerate(runs) if r.objective >= level and r.outcome == runs[top].outcome]
        best = reached[0]  # of equals the first, whose labels are the user's
        done = runs[best]
        params = write_back(here, done.params)
        expectation = suited(here.engine.lean, done.params).expect({n: v.double() for n, v in params.items()})
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
            done.switches,
        )
        self._keep(here, done.params)
        self.last = fit
        return fit

    # ---- state ----

    def _prepare(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prepared:
        """Trace and plan, unless the arguments are the same objects at the same versions."""
        if self._prepared is None or self._prepared.key != key_of(args, kwargs):
            prepared = prepare(self.model, args, kwargs, self.m_step, check=self.check, collapse=self.collapse)
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
            values = prior_start(*here.of_all_rows, values, self.seed)
        return {**values, **known}

    def _keep(self, here: Prepared, values: Mapping[str, Tensor]) -> None:
        write(here.program, values)
        self._sites = {n: values[n].detach().clone() for n, p in here.program.parameters.items() if p.kind == "prior"}


def ranked(runs: Sequence[Run]) -> list[int]:
    """Best first: by objective, endings that are no maximum last."""
    return sorted(range(len(runs)), key=lambda i: (runs[i].outcome in BAD, -runs[i].objective))


def _small(slope: Tensor, bound: float) -> bool:
    return not slope.numel() or float(slope.abs().max()) <= bound


def _unmoved(kept: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> bool:
    return kept.keys() == params.keys() and all(torch.equal(kept[n], params[n]) for n in kept)


def _bar(starts: int) -> Any:
    from tqdm import tqdm

    return tqdm(desc=f"EM, {starts} start{'s' * (starts > 1)}", unit=" steps")
