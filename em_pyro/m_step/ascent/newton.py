"""Newton's method on `Q` for small blocks: exact curvature, and no step that does not ascend."""

from __future__ import annotations

import torch
from torch import Tensor

from ...families.newton import ascent_direction
from .hill import Hill, Point
from .pattern import Pattern

STEPS = 60
QUICK = 0.1  # of the gradient: what a step may leave for the Hessian to be kept
SHORTEST = 1e-10
LONGEST = 4.0  # of a step in any unconstrained coordinate, in its unit, unless it gains what was promised
LIKE = 0.01  # of the slope times the step: how far a quadratic function may be missed for the step to be lengthened
WIDEST = 10.0  # unit of a logarithm or a logit: where it is far out it has no curvature, and would go as far beyond
FAR = 100.0  # beside `1 + |coordinate|`: what is left behind where little comes of a step
LITTLE = 0.1  # of the slope times the step; half of it is all that a quadratic function gains
STRANDED = 1e-10  # of the slope along a coordinate: what is left where a step has come onto a plateau
DONE = 100.0  # units of rounding: the gradient at which to end, after at least one step, if it promises nothing


def newton(
    hill: Hill, vector: Tensor, value: float, slope: Tensor, pattern: Pattern | None
) -> tuple[Tensor, float, Tensor, Pattern | None]:
    """Climb from `vector` until the gradient is zero to rounding and promises nothing, or nothing ascends.

    A gradient has the units of its coordinates, and what a step by the Hessian promises has none: the coefficient of a
    covariate in millionths has next to no gradient anywhere.

    Every eigenvalue of the Hessian counts with its absolute value, so that a direction of positive curvature is climbed
    and a saddle is left; a direction without curvature and without slope (a constant added to all logits of a simplex)
    stays. Where values can no longer be told apart, a step must shrink the gradient. As long as steps shrink it ten
    times, the Hessian is not computed anew but corrected by what the gradient has done (symmetric rank one).

    Args:
        hill: what is climbed.
        vector: where to begin, shape `(D,)`.
        value: `Q` there.
        slope: its gradient there.
        pattern: of the zeros of the Hessian, as far as it is known.

    Returns:
        The point, `Q` and its gradient there, and the pattern.

    References: Nocedal & Wright (2006), Numerical Optimization, sections 3.4 and 6.2; Dauphin et al. (2014).
    """
    hessian: Tensor | None = None
    least: Tensor | None = None
    fresh = False
    for k in range(STEPS):
        small = done(hill, value, slope, begun=k > 0)
        if small and not bool(slope.any()):
            break
        if hessian is None:
            hessian, pattern = hill.curvature(vector, pattern)
            fresh = True
        direction = newton_direction(slope, hessian)
        if direction is None:
            break
        if small and promises_nothing(hill, value, float(direction @ slope)):
            break
        unit = units(hill, hessian, least)
        least = unit if least is None else least
        found = higher(hill, (vector, value, slope), direction, unit)
        if found is None:
            if fresh:
                break
            hessian = None
            continue
        trial, new, new_slope = found
        quick = _size(new_slope) <= QUICK * _size(slope)
        hessian = corrected(hessian, trial - vector, new_slope - slope) if quick else None
        vector, value, slope, fresh = trial, new, new_slope, False
    return vector, value, slope, pattern


def newton_direction(slope: Tensor, hessian: Tensor) -> Tensor | None:
    """Return Newton's direction of ascent; None where the Hessian has no eigenvalues that can be computed."""
    if not bool(torch.isfinite(hessian).all()):
        return None
    try:
        return ascent_direction(slope, hessian)
    except torch.linalg.LinAlgError:
        return None


def done(hill: Hill, value: float, slope: Tensor, *, begun: bool) -> bool:
    """Tell whether a gradient is zero to rounding: once a climb has begun, to a little more than that."""
    return _size(slope) <= (DONE if begun else 1.0) * hill.precision * (1.0 + abs(value))


def promises_nothing(hill: Hill, value: float, gain: float) -> bool:
    """Tell whether a gain is of the size of rounding. Unlike a gradient it has no unit."""
    return gain <= hill.precision * (1.0 + abs(value))


def units(hill: Hill, hessian: Tensor, least: Tensor | None = None) -> Tensor:
    """Return what `Q` changes over by about one along every coordinate: logarithms and logits at least by one.

    A real coordinate has the units of the data, in which one is nothing: it is measured by what one row tells.

    Args:
        hill: what is climbed.
        hessian: of `Q`.
        least: units from where the climb began; none is smaller. A coordinate that runs off under `exp` is curved ever
            more.
    """
    information = hessian.diagonal().abs()
    real = (information / hill.rows).clamp(min=1e-300).rsqrt()
    found = torch.where(hill.real, real, information.clamp(min=1e-300).rsqrt().clamp(min=1.0, max=WIDEST))
    return found if least is None else torch.maximum(found, least)


def higher(hill: Hill, point: Point, direction: Tensor, units: Tensor | float = 1.0) -> Point | None:
    """Shorten a step until it ascends; None if it never does.

    Where little comes of it, coordinates that would go farthest may be why, of which next to nothing is left in `Q`:
    then the others go without them.

    Args:
        hill: what is climbed.
        point: where the step begins, `Q` and its gradient there.
        direction: of ascent, shape `(D,)`.
        units: of the coordinates, in which the longest step is said.
    """
    vector, value, slope = point
    found = _shortened(hill, point, direction, units)
    if found is not None and found[1] - value >= LITTLE * float(direction @ slope):
        return found
    far = direction.abs() > FAR * (1.0 + vector.abs())
    near = direction.masked_fill(far, 0.0)
    if not bool(far.any()) or float(near @ slope) <= 0.0:
        return found
    other = _shortened(hill, point, near, units)
    return found if other is None or (found is not None and found[1] >= other[1]) else other


def _shortened(hill: Hill, point: Point, direction: Tensor, units: Tensor | float) -> Point | None:
    """Quarter a step until `Q` rises by a part of what its slope promises (Armijo); None if it never does."""
    vector, value, slope = point
    rounding, promised = hill.precision * (1.0 + abs(value)), float(direction @ slope)
    onto: Point | None = None
    length = first = min(1.0, LONGEST / max(float((direction / units).abs().max()), 1e-300))
    while length > SHORTEST:
        trial = vector + length * direction
        new, new_slope = hill.trial(trial)
        if promised * length > 1e3 * rounding:
            good = new >= value + 1e-4 * length * promised
        else:
            good = new >= value - rounding and _size(new_slope) < _size(slope)
        if good:
            found = trial, new, new_slope
            if not _stranded(point, found, length * direction, units):
                return _lengthened(hill, point, direction, length, found) if length == first else found
            onto = onto or found
        length /= 4
    return onto


def _stranded(point: Point, found: Point, step: Tensor, units: Tensor | float) -> bool:
    """Whether a long step has come to where nothing is left of the slope along a coordinate, and not at a top.

    A quadratic function has lost its slope at its top, which is as high as foreseen. Where it is not, this is the
    plateau beyond a sigmoid: higher, and no later step leads away from it.
    """
    gone = (step.abs() >= units) & (found[2].abs() <= STRANDED * point[2].abs()) & (point[2] != 0)
    if not bool(gone.any()):
        return False
    foreseen = float(step @ point[2]) / 2
    return abs(found[1] - point[1] - foreseen) > LIKE * foreseen


def _lengthened(hill: Hill, point: Point, direction: Tensor, length: float, found: Point) -> Point:
    """Go on along a step that was cut at its longest, as long as `Q` is the quadratic function that was foreseen.

    A start that is drawn from a wide prior may be a thousand units away.
    """
    promised = float(direction @ point[2])
    while length < 1.0 and abs(found[1] - point[1] - promised * length * (1 - length / 2)) <= LIKE * promised * length:
        length = min(1.0, 4 * length)
        trial = point[0] + length * direction
        new, slope = hill.trial(trial)
        if new <= found[1]:
            break
        found = trial, new, slope
    return found


def corrected(hessian: Tensor, step: Tensor, change: Tensor) -> Tensor:
    """Apply the symmetric rank-one update: the Hessian that explains how the gradient has changed along a step."""
    missed = change - hessian @ step
    along = missed @ step
    if float(along.abs()) <= 1e-8 * float(missed.abs() @ step.abs()):  # which has no unit, unlike norms
        return hessian
    return hessian + torch.outer(missed, missed) / along


def _size(slope: Tensor) -> float:
    return float(slope.abs().max()) if slope.numel() else 0.0
