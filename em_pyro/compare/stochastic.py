"""Contenders of Pyro's own: SVI with `TraceEnum_ELBO`, and an empty, an `AutoDelta` or any other guide."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor

from ..fit.problem import Problem
from ..program.named import batched
from ..program.store import starting_values
from ..program.volume import UnconstrainedPriors
from .arena import arena, plate_depth, prior_sites
from .contenders import Contender
from .lane import Clock, Lane, Point

SAME = {torch.float64: 1e-8, torch.float32: 1e-4}  # of the loss at the start, relative to 1 + |objective|

Score = Callable[[Callable[[], Mapping[str, Tensor]]], float]


class NotAble(Exception):
    """The contender cannot run this model; says why."""


def run_svi(
    here: Problem,
    name: str,
    who: Contender,
    index: int,
    start: dict[str, Tensor],
    clock: Clock,
    seed: int,
    score: Score | None,
) -> Lane:
    """Run SVI from a start until the budget is spent.

    Args:
        here: the program, for its structure and the exact objective at the start.
        name: of the contender.
        who: the contender.
        index: of the start.
        start: starting values.
        clock: the budget.
        seed: of the global generator, for guides that draw.
        score: held-out predictive density of what a function draws, for a Bayesian contender.
    """
    program, began = here.program, time.perf_counter()
    exact = here.objective(batched(start))
    points: list[Point] = []
    with arena(here, start, seed):
        guide = _guide(here, who, start)
        optim = fresh(who.options["optim"])
        elbo = TraceEnum_ELBO(max_plate_nesting=plate_depth(here))
        stepper = SVI(_ascended(here, who), guide, optim, elbo)
        setup, before = time.perf_counter() - began, time.perf_counter()
        loss = stepper.evaluate_loss(*program.args, **program.kwargs)
        first = time.perf_counter() - before
        if who.shares_objective:
            _same(here, -loss, exact)
        arrived, step = 0.0, 0
        clock.start()
        while True:
            objective = -stepper.step(*program.args, **program.kwargs)
            points.append(Point(step, arrived, objective, step, step))
            arrived, step = clock.now, step + 1
            ending = clock.spent(step)
            if not math.isfinite(objective):
                ending = "not finite"
            if ending:
                break
        params = _reached(here, guide)
        held_out = None
        if score is not None and not who.shares_objective:
            held_out = score(lambda: {**params, **_draw(guide, program.args, program.kwargs)})
    return Lane(name, index, tuple(points), setup, first, ending, "", params, held_out, who.shares_objective)


def _ascended(here: Problem, who: Contender) -> Callable[..., Any]:
    """Return the model whose loss is the objective of the race, its priors in the coordinates of that."""
    model = config_enumerate(here.program.model)
    if not (here.program.unconstrained and who.shares_objective):
        return model

    def unconstrained(*args: Any, **kwargs: Any) -> Any:
        with UnconstrainedPriors():
            return model(*args, **kwargs)

    return unconstrained


def fresh(optim: Any) -> Any:
    """Return a copy of an optimiser that has seen no parameter."""
    new = copy.copy(optim)
    new.optim_objs, new._state_waiting_to_be_consumed = {}, {}
    new.pt_optim_args = copy.deepcopy(optim.pt_optim_args)
    return new


def _guide(here: Problem, who: Contender, start: Mapping[str, Tensor]) -> Callable[..., Any]:
    """Return the guide of a contender, at a start: an empty one where no site has a prior."""
    sites = prior_sites(here)
    if who.kind == "svi" and sites:
        raise NotAble(f"an empty guide leaves the sites {sites} to be drawn from their prior: enter svi_map(optim)")
    if who.kind == "svi_bayes" and not sites:
        raise NotAble("no continuous site has a prior, so that there is nothing to be Bayesian about: enter svi(optim)")
    if not sites:
        return _empty
    values = {name: start[name].detach().clone().to(here.program.parameters[name].initial.dtype) for name in sites}
    shown = poutine.block(here.program.model, expose=sites)
    factory = AutoDelta if who.kind == "svi_map" else who.options["guide"]
    takes = inspect.signature(factory).parameters
    guide = factory(shown, init_loc_fn=init_to_value(values=values)) if "init_loc_fn" in takes else factory(shown)
    assert callable(guide)
    return guide


def _empty(*args: Any, **kwargs: Any) -> None:
    """Guide nothing: every latent is enumerated."""


def _same(here: Problem, loss: float, exact: float) -> None:
    """Refuse a contender whose loss is not the objective of the race."""
    slack = SAME[here.program.dtype]
    if not abs(loss - exact) <= slack * (1 + abs(exact)):
        raise NotAble(f"its objective at the start is {loss:.10g} where log evidence plus log prior is {exact:.10g}")


def _reached(here: Problem, guide: Callable[..., Any]) -> dict[str, Tensor]:
    """Constrained values at the end; sites with a prior at the guide's median."""
    program = here.program
    params = {}
    for name, value in starting_values(program).items():
        weight = program.parameters[name].tensor
        params[name] = (value if weight is None else weight).detach().clone().double()
    if guide is not _empty:
        median = getattr(guide, "median", None)
        found = median(*program.args, **program.kwargs) if median else guide(*program.args, **program.kwargs)
        params |= {n: v.detach().clone().double() for n, v in found.items() if n in program.parameters}
    return params


def _draw(guide: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Tensor]:
    with torch.no_grad():
        trace = poutine.trace(guide).get_trace(*args, **kwargs)
    sites: Mapping[str, Any] = trace.nodes
    drawn = {n: s for n, s in sites.items() if s["type"] == "sample" and not s["infer"].get("is_auxiliary")}
    return {n: s["value"].double() for n, s in drawn.items()}
