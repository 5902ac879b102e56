"""The M-step: closed forms where the plan has them, torch for the rest, never letting `Q` fall."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..e_step.engine import Engine, Expectation
from ..errors import ObjectiveError, ParameterError
from ..program.named import Params
from .ascent.ascend import Carried, ascend
from .ascent.climbs import joint_climb
from .ascent.hill import constrained as constrained
from .ascent.hill import gradient as gradient
from .ascent.hill import unconstrained as unconstrained
from .plan import Plan

STATIONARY = 1e-10  # of the gradient of Q, relative to 1 + |Q|
SWEEPS, JOINTLY = 100, 3


def maximise(
    engine: Engine,
    plan: Plan,
    found: Expectation,
    params: Params,
    lead: int = 0,
    carried: Carried | None = None,
) -> dict[str, Tensor]:
    """Return `argmax Q` (for torch parameters, a `Q` that did not fall), given the expected statistics `found`.

    `carried` is what Adam remembers between the M-steps of one start; it is the only thing that is written to.
    """
    statistics = {name: engine.leaders[name].split(part, lead) for name, part in found.statistics.items()}
    new = dict(params)
    exact = all(climb.exact for climb in plan.climbs)
    for sweep in range(SWEEPS if plan.swept and exact else 1):
        for solver in plan.solvers:
            new |= solver.solve(statistics, new, lead)
        for climb in plan.climbs:
            new |= ascend(engine, found, new, climb, carried)
        if not plan.swept or _stationary(engine, plan, found, new):
            break
        if sweep >= JOINTLY:  # conditional maxima creep along a ridge; a joint ascent does not
            together = [n for n, line in plan.lines.items() if line.how in ("swept", "torch")]
            new |= ascend(engine, found, new, joint_climb(engine, together))
            if _stationary(engine, plan, found, new):
                break
    for name, call in plan.callables.items():
        new = _called(engine, name, call, statistics, found, new)
    return new


def _stationary(engine: Engine, plan: Plan, found: Expectation, params: Params) -> bool:
    value, slopes = gradient(engine, found, params, plan.free)
    return all(float(slope.abs().max()) <= STATIONARY * (1 + abs(value)) for slope in slopes.values() if slope.numel())


def _called(
    engine: Engine,
    name: str,
    call: object,
    statistics: Mapping[str, tuple[Tensor, ...]],
    found: Expectation,
    params: Params,
) -> dict[str, Tensor]:
    """Apply the user's own M-step for one parameter, and hold it to a `Q` that does not fall."""
    value = torch.as_tensor(call(statistics, params[name])).double()  # type: ignore[operator]
    parameter = engine.program.parameters[name]
    if value.shape != params[name].shape or not bool(parameter.constraint.check(value).all()):
        raise ParameterError(
            f'm_step["{name}"]: expected a value of shape {tuple(params[name].shape)} within {parameter.constraint}, '
            f"got {value}. Return the new value of the parameter."
        )
    before, after = float(engine.q(params, found)), float(engine.q(dict(params) | {name: value}, found))
    if after < before - 1e-10 * (1 + abs(before)):
        raise ObjectiveError(
            f'm_step["{name}"]: expected Q not to fall, got {after:.12g} after {before:.12g}. Return a value that is '
            f"at least as good, or leave the parameter to the plan."
        )
    return dict(params) | {name: value}
