"""One start through an engine, a plan and one EM step: the library has starts before everything."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import Tensor

from em_pyro.e_step.engine import Engine
from em_pyro.e_step.expectation import Expectation
from em_pyro.m_step.ascent.climbs import NEWTON
from em_pyro.m_step.maximise import maximise as maximise_batch
from em_pyro.m_step.plan import Plan
from em_pyro.program.named import Named, batched, only
from oracles.replay import Params


def expect(engine: Engine, params: Params, **asked: Any) -> Expectation:
    """Run the E-step at the parameters of one start; the log prior is added."""
    bound = engine.bind(batched(params))
    return replace(engine.expect(bound, **asked), log_prior=engine.log_prior(bound))


def q(engine: Engine, params: Params, found: Expectation) -> Tensor:
    """Return `Q(params)`, a number."""
    return engine.q(batched(params), found).squeeze(0)


def to_the_top(plan: Plan) -> Plan:
    """Return the same plan with `Q` maximised by torch wherever it does not climb a network."""
    return replace(plan, climbs=tuple(replace(c, exact=c.exact or c.method == NEWTON) for c in plan.climbs))


def maximise(engine: Engine, plan: Plan, found: Expectation, params: Params) -> dict[str, Tensor]:
    """Take the M-step of one start, to the maximum."""
    return only(maximise_batch(engine, to_the_top(plan), found, batched(params)))


def em_step(engine: Engine, plan: Plan, params: Params, carried: Any = None) -> tuple[dict[str, Tensor], Expectation]:
    """Take one EM step of one start, to the maximum of `Q` and without a second pass."""
    found = expect(engine, params)
    return only(maximise_batch(engine, to_the_top(plan), found, batched(params), carried)), found


def scaled(found: Expectation, by: float, sites: Collection[str] | None = None) -> Expectation:
    """Return the same with the statistics and weights of some sites, or all of them, multiplied."""
    sums = {n: part.scaled(by) if sites is None or n in sites else part for n, part in found.sums.items()}
    weights = {
        n: Named(by * part.tensor, part.names) if sites is None or n in sites else part
        for n, part in found.weights.items()
    }
    return replace(found, sums=sums, weights=weights)
