"""The M-step: closed forms where the plan has them, torch for the rest, never letting `Q` fall."""

from __future__ import annotations

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.expectation import Expectation
from ..errors import ObjectiveError, ParameterError
from ..program.named import Batch, Params, batched, only
from .ascent.ascend import Carried, ascend
from .ascent.climbs import joint_climb
from .ascent.hill import gradient as gradient
from .plan import Plan

STATIONARY = 1e-10  # of the gradient of Q, relative to 1 + |Q|
SWEEPS, JOINTLY = 100, 3


def maximise(
    engine: Engine, plan: Plan, found: Expectation, batch: Batch, carried: Carried | None = None
) -> dict[str, Tensor]:
    """Return `argmax Q` (for torch parameters, a `Q` that did not fall), given the expected statistics `found`.

    Starts come first, in `found`, in `batch` and in what is returned; torch and callables take them one by one.

    `carried` is what Adam remembers between the M-steps of one start; it is the only thing that is written to.
    """
    new = dict(batch)
    exact = all(climb.exact for climb in plan.climbs)
    for sweep in range(SWEEPS if plan.swept and exact else 1):
        for solver in plan.solvers:
            new |= solver.solve(found.sums, new)
        for climb in plan.climbs:
            new |= batched(ascend(engine, found, only(new), climb, carried))
        if not plan.swept or _stationary(engine, plan, found, only(new)):
            break
        if sweep >= JOINTLY:  # conditional maxima creep along a ridge; a joint ascent does not
            together = [n for n, line in plan.lines.items() if line.how in ("swept", "torch")]
            new |= batched(ascend(engine, found, only(new), joint_climb(engine, together)))
            if _stationary(engine, plan, found, only(new)):
                break
    return batched(_called(engine, plan, found, only(new))) if plan.callables else new


def _stationary(engine: Engine, plan: Plan, found: Expectation, params: Params) -> bool:
    value, slopes = gradient(engine, found, params, plan.free)
    return all(float(slope.abs().max()) <= STATIONARY * (1 + abs(value)) for slope in slopes.values() if slope.numel())


def _called(engine: Engine, plan: Plan, found: Expectation, params: Params) -> dict[str, Tensor]:
    """Apply the user's own M-steps, and hold each to a `Q` that does not fall."""
    statistics = {name: tuple(part.squeeze(0) for part in one.parts) for name, one in found.sums.items()}
    new = dict(params)
    for name, call in plan.callables.items():
        value = torch.as_tensor(call(statistics, new[name])).double()
        parameter = engine.program.parameters[name]
        if value.shape != new[name].shape or not bool(parameter.constraint.check(value).all()):
            raise ParameterError(
                f'm_step["{name}"]: expected a value of shape {tuple(new[name].shape)} within {parameter.constraint}, '
                f"got {value}. Return the new value of the parameter."
            )
        before = float(engine.q(batched(new), found))
        after = float(engine.q(batched(new | {name: value}), found))
        if after < before - 1e-10 * (1 + abs(before)):
            raise ObjectiveError(
                f'm_step["{name}"]: expected Q not to fall, got {after:.12g} after {before:.12g}. Return a value that '
                f"is at least as good, or leave the parameter to the plan."
            )
        new[name] = value
    return new
