"""The M-step: closed forms where the plan has them, torch for the rest, never letting `Q` fall."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.expectation import Expectation
from ..errors import ObjectiveError, ParameterError
from ..program.named import Batch, Params, batched, only
from .ascent.ascend import Carried, ascend
from .ascent.climbs import joint_climb
from .ascent.hill import gradient
from .plan import Plan

STATIONARY = 1e-11  # of the gradient of Q, relative to 1 + |Q|
SWEEPS, JOINTLY = 100, 20  # a sweep costs a hundredth of a joint ascent
UNSEEN = 1e-12  # of a rise of Q, relative to 1 + |Q|: rounding
IDLE, LESS = 5, 0.9  # sweeps in a row in which neither Q rises nor its slope is less than that, beside the least
FALL = {torch.float64: 1e-10, torch.float32: 1e-6}  # of Q by rounding, relative to 1 + |Q|
SAME = {torch.float64: 1e-12, torch.float32: 1e-6}  # of a value by rounding, relative to it


def maximise(
    engine: Engine, plan: Plan, found: Expectation, batch: Batch, carried: Carried | None = None
) -> dict[str, Tensor]:
    """Return `argmax Q` (for torch parameters, a `Q` that did not fall), given the expected statistics `found`.

    M-steps of the user's own come first, and all others are maximised around what they return.

    Starts come first, in `found`, in `batch` and in what is returned; torch and callables take them one by one.

    `carried` is what climbs remember between the M-steps of one start; it is the only thing that is written to.
    """
    new = dict(batch)
    if plan.callables:
        new |= _called(engine, plan, found, only(batch))
    best, level, idle = -torch.inf, torch.inf, 0
    for sweep in range(SWEEPS if plan.swept else 1):
        for solver in plan.solvers:
            new |= solver.solve(found.sums, new)
        if not plan.swept:
            break
        value, steep = _height(engine, plan, found, only(new))
        if (sweep + 1) % JOINTLY == 0 and steep > STATIONARY:  # conditional maxima creep along a ridge, and this not
            new |= batched(ascend(engine, found, only(new), joint_climb(engine, plan.swept)))
            value, steep = _height(engine, plan, found, only(new))
        idle = 0 if value > best + UNSEEN * (1 + abs(value)) or steep < LESS * level else idle + 1
        best, level = max(best, value), min(level, steep)
        if steep <= STATIONARY or idle == IDLE:
            break
    for climb in plan.climbs:
        new |= batched(ascend(engine, found, only(new), climb, carried))
    if plan.callables:
        _guard(engine, plan, found, batch, new)
    return new


def expanded(
    engine: Engine, plan: Plan, found: Expectation, batch: Batch, carried: Carried | None, *, apart: bool
) -> dict[str, Tensor]:
    """Return the same of a model with more parameters, where a unit has one, in terms of those of this one.

    Args:
        engine: of the E-step.
        plan: of the M-step.
        found: expected statistics.
        batch: parameters, starts first.
        carried: what climbs remember.
        apart: take the plain step.

    References:
        Liu, Rubin & Wu (1998), Parameter expansion to accelerate EM: the PX-EM algorithm. Biometrika 85.
    """
    moved: dict[str, Tensor] = {}
    if not apart:
        sums = dict(found.sums)
        for unit in (unit for unit in engine.units if unit.continuous):
            more, by = unit.expanded(found.sums, engine.bind(batch))
            if by and by.keys() <= {n for n in plan.maximised if n not in engine.priors}:
                sums, moved = {**sums, **more}, {**moved, **by}
        found = replace(found, sums=sums) if moved else found
    new = maximise(engine, plan, found, batch, carried)
    return new | {name: new[name] + by.reshape(new[name].shape) for name, by in moved.items()}


def _height(engine: Engine, plan: Plan, found: Expectation, params: Params) -> tuple[float, float]:
    """`Q`, and its largest slope, relative to `1 + |Q|`."""
    value, slopes = gradient(engine, found, params, [name for solver in plan.solvers for name in solver.parameters])
    steep = max((float(slope.abs().max()) for slope in slopes.values() if slope.numel()), default=0.0)
    return value, steep / (1 + abs(value))


# ---- M-steps of the user's own ---------------------------------------------------------------------------------------


def _called(engine: Engine, plan: Plan, found: Expectation, params: Params) -> dict[str, Tensor]:
    """Apply the user's own M-steps, each to the statistics of the data and to its parameter's current value.

    Raises:
        ParameterError: what comes back is no value of the parameter.
    """
    new = {}
    for name, call in plan.callables.items():
        old, parameter = params[name].double(), engine.program.parameters[name]
        returned = call(_of_the_data(found), old.clone())
        try:
            value = torch.as_tensor(returned).detach().to(old)
        except (TypeError, ValueError, RuntimeError):
            value = old.new_full((), torch.nan)
        if value.shape != old.shape or not bool(parameter.constraint.check(value).all()):
            raise ParameterError(
                f'm_step["{name}"]: expected a value of shape {tuple(old.shape)} within {parameter.constraint}, '
                f"got {returned}. Return the new value of the parameter."
            )
        new[name] = value
    return batched(new)


def _of_the_data(found: Expectation) -> dict[str, tuple[Tensor, ...]]:
    """Expected statistics of one start about no centre, for the user to do with as they like."""
    sums = {n: s if s.around is None else s.about(torch.zeros_like(s.around)) for n, s in found.sums.items()}
    return {name: tuple(part.squeeze(0).clone() for part in one.parts) for name, one in sums.items()}


def _guard(engine: Engine, plan: Plan, found: Expectation, old: Batch, new: Batch) -> None:
    """Hold the user's own M-steps to a `Q` that has not fallen, rounding apart.

    Raises:
        ObjectiveError: it has, once all others are maximised around what they returned.
    """
    dtypes = {name: engine.program.parameters[name].initial.dtype for name in plan.callables}
    if all(torch.allclose(new[n], old[n].double(), rtol=SAME[d], atol=0.0) for n, d in dtypes.items()):
        return
    before, after = float(engine.q(old, found)), float(engine.q(new, found))
    if not after >= before - max(FALL[d] for d in dtypes.values()) * (1 + abs(before)):
        names = ", ".join(f'm_step["{name}"]' for name in plan.callables)
        raise ObjectiveError(
            f"{names}: expected Q not to fall, got {after:.12g} after {before:.12g}. Return a value that is at least "
            f"as good, or leave the parameter to the plan."
        )
