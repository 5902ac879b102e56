"""Maximise `Q` over parameters that have no closed form, by the method that suits their number."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.distributions import transform_to

from ...e_step.engine import Engine
from ...e_step.expectation import Expectation
from ...errors import ObjectiveError
from ...families.charts import domain_of
from ...program.coordinates import FAR, constrained, joined
from ...program.named import Params
from ..pooling import unbounded_at
from .adam import Moments, adam
from .climbs import ADAM, LBFGS, NEWTON, SMALL, Climb
from .hill import Hill, OnlyOnce, Point, held, hill_of
from .newton import newton
from .partial import Curvature, Pairs, by_curvature, by_memory

Memory = Moments | Curvature | Pairs
Carried = MutableMapping[tuple[str, ...], Memory]
"""What a climb remembers of each block from one M-step to the next: of one start, and of nothing else."""

BOUNDED = ("unit", "simplex", "positive")
EDGE = 16.0  # of an unconstrained coordinate: a ten-millionth from the boundary
PULL = 1e-3  # of a prior there, nats a unit: that of a density which has a bound has vanished
ITERATIONS, PARTIAL = 200, 20  # of L-BFGS, where `Q` is maximised and where it only has to rise
STEEP = 0.5  # of a slope: what is left of it by steps that were no use
STALLED = 1e4  # units of rounding: a gradient at which Newton has not done its work


class RanOff(ObjectiveError):
    """A parameter is so far out that `Q` has no gradient there, and has one nearer."""


def has_run_off(why: Exception | None) -> bool:
    """Tell whether a step failed because a parameter is so far out."""
    return isinstance(why, RanOff)


def ascend(
    engine: Engine, found: Expectation, params: Params, climb: Climb, carried: Carried | None = None
) -> dict[str, Tensor]:
    """Climb `Q` over the parameters of one block in unconstrained space; keep the old values unless `Q` rose.

    Raises:
        ObjectiveError: `Q` has no finite value or gradient at the current parameters.
        PriorUnbounded: a prior pulls a parameter to a boundary at which its density has no bound.
    """
    hill = hill_of(engine, found, params, climb.names)
    start, kept = hill.start, {name: params[name] for name in climb.names}
    old, slope = _defined(hill, params)
    _refuse_unbounded(hill, slope)
    scale, steep = 1.0 + abs(old), _largest(slope)
    if steep <= hill.precision * scale and (climb.method != NEWTON or steep == 0.0):
        return kept
    if climb.exact:
        vector, new, slope = _maximum(hill, start, old, slope, climb)
    else:
        vector, new, slope = _risen(hill, (start, old, slope), climb, {} if carried is None else carried)
    solved = {name: value.detach() for name, value in hill.values(vector).items()}
    if all(bool(torch.isfinite(value).all()) for value in solved.values()):
        if new > old or (new >= old - 1e-14 * scale and _largest(slope) < steep):
            return solved
    return kept


def _defined(hill: Hill, params: Params) -> tuple[float, Tensor]:
    """`Q` and its gradient at the start."""
    old, slope = hill.slope(hill.start)
    bad = [name for name, part in hill.cut(slope).items() if not bool(torch.isfinite(part).all())]
    if bad or old != old:
        raise _undefined(hill, params, bad or list(hill.cut(slope)))
    return old, slope


def _undefined(hill: Hill, params: Params, bad: Sequence[str]) -> ObjectiveError:
    """Say where `Q` has no gradient: at a parameter that has run off, if it has one where that is nearer.

    Nearer is within reach of any logarithm; or, if nothing is farther out, where the model states it.
    """
    points, stated = hill.cut(hill.start), hill.engine.program.parameters
    nearer = [{name: point.clamp(-FAR, FAR) for name, point in points.items()}]
    nearer += [{name: transform_to(stated[name].constraint).inv(stated[name].initial.double()) for name in points}]
    order = sorted(points, key=lambda name: -_largest(points[name]))
    for name, near in ((name, one[name]) for one in nearer for name in order):
        if hill.trial(joined(points | {name: near.reshape(points[name].shape)}))[0] > -torch.inf:
            return RanOff(
                f'Parameter "{name}": expected a finite gradient of Q, got nan at {params[name]}: it has run off. Give '
                f"it a prior or a constraint, or keep it fixed."
            )
    return ObjectiveError(
        f'Parameter "{bad[0]}": expected a finite gradient of Q, got nan at {params[bad[0]]}. Keep its function in the '
        f"model differentiable there (xlogy, where)."
    )


def _refuse_unbounded(hill: Hill, slope: Tensor) -> None:
    """Refuse to follow a prior to a boundary, next to which likelihoods and bounded densities no longer change."""
    slopes = hill.cut(slope)
    for name, point in hill.cut(hill.start).items():
        prior, constraint = hill.engine.priors.get(name), hill.engine.program.parameters[name].constraint
        edge = (point.abs() > EDGE) & torch.isfinite(point)
        if prior is None or prior.fn is None or domain_of(constraint) not in BOUNDED or not bool(edge.any()):
            continue
        leaf = point.detach().clone().requires_grad_()
        with torch.enable_grad():
            density = prior.log_prob(constrained(hill.engine.program, name, leaf).unsqueeze(0)).sum()
            (pull,) = torch.autograd.grad(density, leaf)
        bad = edge & (pull * point > 0) & (pull.abs() > PULL) & (slopes[name] * point.sign() > pull.abs() / 2)
        if bool(bad.any()):
            raise unbounded_at(name, bad)


def _maximum(hill: Hill, vector: Tensor, value: float, slope: Tensor, climb: Climb) -> tuple[Tensor, float, Tensor]:
    """Climb to the top: by Newton where a Hessian is cheap, by L-BFGS where it is not or Newton stalls."""
    scale = 1.0 + abs(value)
    stalled = STALLED * hill.precision * scale
    pattern = climb.patterns[-1] if climb.patterns else None
    cheap = climb.method == NEWTON and hill.smooth
    for sweep in range(2):
        try:
            if cheap and pattern is None and len(vector) > SMALL:
                pattern = hill.curvature(vector)[1]
            if cheap and (pattern is None or pattern.width <= SMALL):
                vector, value, slope, pattern = newton(hill, vector, value, slope, pattern)
        except OnlyOnce:
            cheap = False
        climb.patterns[:] = [pattern] if pattern is not None else []
        if _largest(slope) <= stalled or sweep:
            break
        # a kink, a ridge that bends, many entries, one derivative
        (vector, value, slope), _ = by_memory(hill, (vector, value, slope), None, ITERATIONS)
    return vector, value, slope


def _risen(hill: Hill, point: Point, climb: Climb, memory: Carried) -> Point:
    """Go a part of the way, from afresh where that leads nowhere."""
    known = memory.pop(climb.names, None)
    if known is not None and known.size not in (1, len(point[0])):  # other data, other shapes
        known = None
    found, known = _part(hill, point, climb, known)
    if known is not None:
        memory[climb.names] = known
    scale = 1.0 + abs(point[1])
    if climb.method != ADAM and found is point and _largest(point[2]) > STALLED * hill.precision * scale:
        found = by_memory(hill, point, None, PARTIAL)[0]  # a kink, a ridge that bends
    if climb.method != ADAM and _largest(found[2]) > STEEP * _largest(point[2]):
        return _along(hill, found, climb)
    return found


def _along(hill: Hill, point: Point, climb: Climb) -> Point:
    """Climb along an edge of what is possible, if it is one that has made the steps so short."""
    rest = held(hill, point)
    if rest is None:
        return point
    found, _ = _part(rest, (*point[:2], rest.free(point[2])), replace(climb, patterns=[]), None)
    return (*found[:2], hill.slope(found[0])[1]) if found[1] > point[1] else point


def _part(hill: Hill, point: Point, climb: Climb, known: Memory | None) -> tuple[Point, Memory | None]:
    """Climb by Adam; or by Newton where a Hessian can be had, else by L-BFGS, to which one stays."""
    of = None if known is None else known.method
    if climb.method == ADAM:
        return adam(hill, point, 1.0 + abs(point[1]), cast(Moments, known) if of == ADAM else Moments())
    if climb.method == NEWTON and hill.smooth and of != LBFGS:
        pattern = climb.patterns[-1] if climb.patterns else None
        curvature = cast(Curvature, known) if of == NEWTON else None
        with contextlib.suppress(OnlyOnce):
            found, curvature, pattern = by_curvature(hill, point, curvature, pattern)
            climb.patterns[:] = [pattern] if pattern is not None else []
            return found, curvature
    return by_memory(hill, point, cast(Pairs, known) if of == LBFGS else None)


def _largest(slope: Tensor) -> float:
    return float(slope.abs().max()) if slope.numel() else 0.0
