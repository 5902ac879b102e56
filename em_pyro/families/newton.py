"""Guarded Newton iterations for the families whose equations have no closed solution, all cells at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..records.frozen import frozen

ITERATIONS = 100
FLAT = 1e-10  # of the largest curvature, in coordinates of about unit curvature: below, a direction has none
LEVEL = 1e-7  # of the largest slope: below, a direction without curvature is left alone
LOST = 1e-14  # of the largest entry of a step, in coordinates of about unit curvature: rounding
STILL = 4e-16  # of the logarithm: a step below this (times its size, if above one) ends the iteration


SETTLED = 1e-6  # a step of Newton after which none is left: its error is the square
LARGE = 0.5  # a step of Newton that is not trusted at first, in coordinates of which one unit is a large step
SAFE = 10  # steps for which that is so
HALVINGS = 30

Slope = Callable[[Tensor], tuple[Tensor, Tensor]]


def root(slope: Slope, start: Tensor, lower: Tensor | float, upper: Tensor | float) -> Tensor:
    """Zero of a decreasing function on a positive interval: Newton in `log x`, bisection where that leaves the bracket.

    Args:
        slope: returns the function and its derivative by `log x`, elementwise.
        start: where to begin; clamped to the interval.
        lower: where the function is still positive. The end itself is returned where it is not.
        upper: where it is negative already.
    """
    low = torch.as_tensor(lower).to(start).log().expand_as(start)
    high = torch.as_tensor(upper).to(start).log().expand_as(start)
    at = torch.minimum(torch.maximum(start.log(), low), high)
    before = torch.full_like(at, torch.inf)
    for _ in range(ITERATIONS):
        value, derivative = slope(at.exp())
        low, high = torch.where(value > 0, at, low), torch.where(value < 0, at, high)
        newton = at - value / derivative
        inside = (newton >= low) & (newton <= high)
        new = torch.where(inside, newton, (low + high) / 2)
        step = (value / derivative).abs()
        size = STILL * at.abs().clamp(min=1.0)
        rounding = (step < 1e-9) & (step >= before)  # a quadratic step that no longer shrinks
        done = (step <= size) | rounding | (value == 0) | (high - low <= size)
        at, before = torch.where(done, at, new), step
        if bool(done.all()):
            break
    return at.exp()


def inverse_digamma(y: Tensor) -> Tensor:
    """Return the positive `a` with `digamma(a) = y`.

    References:
        Minka (2000), Estimating a Dirichlet distribution, appendix C (the start).
    """
    start = torch.where(y >= -2.22, y.clamp(max=600.0).exp() + 0.5, -1 / (y.clamp(max=-1.0) + 0.5772156649015329))
    return root(lambda a: (y - a.digamma(), -a * torch.polygamma(1, a)), start, start / 4, 4 * start)


def log_minus_digamma(a: Tensor) -> tuple[Tensor, Tensor]:
    """`log(a) - digamma(a)`, to all digits for large `a` as well, and its derivative by `log(a)`."""
    far = a > 30.0
    x = torch.where(far, a, 30.0)
    y = x**-2
    tail = 0.5 / x + y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
    slope = -0.5 / x - y * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - 5 * y / 66))))
    near = torch.where(far, 1.0, a)
    return (
        torch.where(far, tail, near.log() - near.digamma()),
        torch.where(far, slope, 1 - near * torch.polygamma(1, near)),
    )


def dirichlet(mean_log: Tensor, start: Tensor, free: Tensor) -> Tensor:
    """Maximise `log Gamma(sum a) - sum log Gamma(a) + sum a mean_log` over the free entries of `a`.

    The function is concave and its Hessian is diagonal plus a constant: Newton in linear time, halved until it ascends.

    Args:
        mean_log: shape `(..., C)`.
        start: current values, shape `(..., C)`.
        free: which of the `C` entries move.

    References:
        Minka (2000), Estimating a Dirichlet distribution, equations 15 to 18.
    """

    def value(a: Tensor) -> Tensor:
        return a.sum(-1).lgamma() + (a * mean_log - a.lgamma()).sum(-1)

    a, before = start, torch.full(start.shape[:-1], torch.inf).to(start)
    for _ in range(ITERATIONS):
        total = a.sum(-1, keepdim=True)
        gradient = torch.where(free, total.digamma() - a.digamma() + mean_log, 0.0)
        diagonal = torch.where(free, 1 / torch.polygamma(1, a), 0.0)
        shared = torch.polygamma(1, total)
        weight = (gradient * diagonal).sum(-1, keepdim=True) / (1 / shared - diagonal.sum(-1, keepdim=True))
        step = diagonal * (gradient + weight)
        size = (step / a).abs().amax(-1)
        done = (size <= STILL) | ((size < 1e-9) & (size >= before))
        before = size
        if bool(done.all()):
            break
        new = torch.maximum(a + step, 0.1 * a)
        near = done | (size < 1e-4)
        old = value(a)
        for _ in range(30):
            worse = ~near & ~(value(new) >= old)
            if not bool(worse.any()):
                break
            new = torch.where(worse.unsqueeze(-1), (a + new) / 2, new)
        a = torch.where(done.unsqueeze(-1), a, new)
    return a


def ascent_direction(slope: Tensor, hessian: Tensor, flat: float = FLAT, level: float = LEVEL) -> Tensor:
    """Return Newton's direction with every curvature made negative: `|H|^-1 g`, in coordinates of about unit curvature.

    A direction of positive curvature is climbed by it, and a saddle is left. A direction without curvature is followed
    as far as its slope, unless that is next to none as well (a constant added to all logits of a simplex). Entries that
    are rounding beside the others stay: with next to no curvature of their own, they would go anywhere.

    Args:
        slope: `g`, shape `(..., D)`; an entry that is not finite is taken for zero, with its row of the Hessian.
        hessian: `H`, shape `(..., D, D)`.
        flat: of the largest curvature: a direction with less has none.
        level: of the largest slope: a direction without curvature whose slope is no more than this stays. One is all.

    References:
        Nocedal & Wright (2006), section 3.4 (modified Hessian); Dauphin et al. (2014).
    """
    finite = torch.isfinite(slope) & torch.isfinite(hessian).all(-1)
    slope = torch.where(finite, slope, 0.0)
    hessian = torch.where(finite.unsqueeze(-1) & finite.unsqueeze(-2), hessian, 0.0)
    diagonal = hessian.diagonal(dim1=-2, dim2=-1).abs()
    largest = diagonal.amax(-1, keepdim=True)
    unit = torch.where(diagonal > 0, diagonal, torch.where(largest > 0, largest, 1.0)).rsqrt()
    scaled = -(hessian + hessian.mT) / 2 * unit.unsqueeze(-1) * unit.unsqueeze(-2)
    curvature, axes = torch.linalg.eigh(scaled)
    size, along = curvature.abs(), (axes.mT @ (unit * slope).unsqueeze(-1)).squeeze(-1)
    none = size <= flat * size.amax(-1, keepdim=True).clamp(min=1e-300)
    still = along.abs() <= level * along.abs().amax(-1, keepdim=True)
    step = torch.where(none & still, 0.0, along / torch.where(none, 1.0, size))
    step = (axes @ step.unsqueeze(-1)).squeeze(-1)
    lost = step.abs() <= LOST * step.abs().amax(-1, keepdim=True)
    return torch.where(lost, 0.0, unit * step)


@frozen
class Near:
    """A function of a few coordinates in every cell, as it is near a point.

    Attributes:
        value: shape `(cells,)`.
        slope: shape `(cells, C)`.
        hessian: shape `(cells, C, C)`.
        safely: from the coordinates that move to a point where the function is not lower, however far the maximum is.
    """

    value: Tensor
    slope: Tensor
    hessian: Tensor
    safely: Callable[[Tensor], Tensor]


def climb(near: Callable[[Tensor], Near], start: Tensor, free: Tensor, upper: Tensor) -> Tensor:
    """Ascend a smooth function of a few coordinates in every cell: Newton, with the curvature made negative.

    Args:
        near: from points `(cells, C)` to what the function is there; each cell depends on its own point alone.
        start: shape `(cells, C)`, in coordinates of which one unit is a large step.
        free: which coordinates move, shape of `start`.
        upper: bounds from above, shape of `start`.

    References:
        Nocedal & Wright (2006), Numerical Optimization, section 3.4 (modified Hessian, backtracking).
    """
    point, here, size = start, near(start), torch.full(start.shape[:-1], torch.inf).to(start)
    for k in range(ITERATIONS):
        step, before = _newton(here, free & ~((point >= upper) & (here.slope > 0))), size
        size = step.abs().amax(-1)
        room = torch.where(point + step > upper, (upper - point) / step, 1.0).amin(-1)  # cut, so as to ascend still
        length = torch.minimum(room, 1 / size.clamp(min=1.0))
        new = torch.minimum(point + step * length.unsqueeze(-1), upper)
        if k < SAFE and bool((far := size > LARGE).any()):
            new = torch.where(far.unsqueeze(-1), here.safely(free), new)
        small = size < 1e-6  # values cannot tell such steps apart
        rounding = small & (size >= before)
        new = torch.where(rounding.unsqueeze(-1), point, new)
        if bool((rounding | (size <= SETTLED)).all()):
            return new
        there = near(new)
        for halved in range(HALVINGS):
            worse = ~small & ~(there.value >= here.value)
            if not bool(worse.any()):
                break
            back = point if halved == HALVINGS - 1 else (point + new) / 2
            new = torch.where(worse.unsqueeze(-1), back, new)
            there = near(new)
        size = torch.where((new == point).all(-1), 0.0, size)
        point, here = new, there
    return point


def _newton(here: Near, moving: Tensor) -> Tensor:
    """Newton's step in the coordinates that move."""
    both = moving.unsqueeze(-1) & moving.unsqueeze(-2)
    hessian = torch.where(both, here.hessian, 0.0) - torch.diag_embed((~moving).to(here.slope))
    return ascent_direction(torch.where(moving, here.slope, 0.0), hessian)


class _Value(torch.autograd.Function):
    """The value at a point, `(cells,)`, whose derivatives are known."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, value: Tensor, slope: Tensor, hessian: Tensor) -> Tensor:
        """`point`: shape `(cells, C)`; the others as those of `Near`."""
        ctx.save_for_backward(point, slope, hessian)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, None, None, None]:
        """The slope, which has a derivative in its turn."""
        return along.unsqueeze(-1) * _Slope.apply(*ctx.saved_tensors), None, None, None


class _Slope(torch.autograd.Function):
    """The slope at a point, `(cells, C)`."""

    @staticmethod
    def forward(ctx: Any, point: Tensor, slope: Tensor, hessian: Tensor) -> Tensor:
        """The arguments of `_Value`."""
        ctx.save_for_backward(hessian)
        return slope.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, along: Tensor) -> tuple[Tensor, None, None]:
        """The product with the Hessian."""
        (hessian,) = ctx.saved_tensors
        return (hessian @ along.unsqueeze(-1)).squeeze(-1), None, None


def differentiable(point: Tensor, near: Callable[[Tensor], Near]) -> Tensor:
    """Return the value at `point (cells, C)`, which torch differentiates twice by the slope and Hessian of `near`."""
    with torch.no_grad():
        here = near(point)
    return cast(Tensor, _Value.apply(point, here.value, here.slope, here.hessian))
