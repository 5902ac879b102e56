"""The top of the objective: how curved it is along every direction, and along which ones it is flat.

Coordinates are those in which complete data have information one. There the information in the observed data is one
less the Jacobian of the EM map: its eigenvalues are what is seen of each direction, and one less the smallest is the
rate at which EM converges.

References:
    Dempster, Laird and Rubin (1977), theorem 4. Oakes (1999).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...records.frozen import frozen
from .approach import approached
from .around import Entry
from .ground import FINE, ROUGH, Ground
from .ridge import LEVEL, level_ones
from .whitened import Whitened, whitened

SUSPECT, FLAT = 1e-3, 1e-7  # information in the observed data, of that in complete data
SETTLED = 1e-5  # a slope in standard errors at which curvature is believed
NO_LONGER = 1e-20  # nats still to gain, of no consequence to any digit
ROUNDS, CHORDS, HALVES = 4, 30, 12  # Newton's method: second derivatives taken, steps by each, and halvings of a step
MOVED = 1e-12  # in standard errors given complete data: a way after which curvature is taken anew
NEAR = 1e-7  # likewise, times the root of the number of rows: the part of a standard error that it may change
WILD = 10.0  # times the information in complete data, more than which observed data cannot have: it is rounding
FAINT = 1e3  # of the standard errors of single entries: a direction that may be a ridge
MANY, ENOUGH = 10_000, 1e-6  # rows over which second derivatives are worth several E-steps; and `NEAR` of so many
NAMED = 0.1  # of the largest part of a direction: entries that are named


@frozen
class Peak:
    """What the objective is like around a point.

    Attributes:
        ground: the objective, in coordinates around that point, `D` of them.
        basis: coordinates in which complete data have information one, `(D, r)`.
        unit: the standard error of each coordinate by itself given complete data, `(D)`; one where they have no
            information.
        empty: directions `(D, e)` of which complete data know nothing, along which the objective is level.
        kinks: directions `(D, k)` without second derivative, along which it is not.
        off: coordinates that are not looked at, since they run off, as columns `(D, o)`.
        observed: the information in the observed data in that basis, `(r, r)`.
        slope: the gradient there, `(r)`.
        error: of `observed`: by how much it is not symmetric; zero after a glance.
        height: the objective there.
    """

    ground: Ground
    basis: Tensor
    unit: Tensor
    empty: Tensor
    kinks: Tensor
    off: Tensor
    observed: Tensor
    slope: Tensor
    error: float
    height: float

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.observed)
        return values, vectors

    @property
    def values(self) -> Tensor:
        """Eigenvalues of `observed`, `(r)`, the smallest first."""
        return self._eigen[0]

    @property
    def vectors(self) -> Tensor:
        """Their eigenvectors `(r, r)`, in columns."""
        return self._eigen[1]

    @property
    def least(self) -> float:
        """Curvature that is none: a part in so many of that in complete data, or the error of what was found."""
        return max(FLAT, self.error)

    @property
    def smallest(self) -> float:
        """The smallest curvature in units of complete data; zero where nothing is seen of some direction."""
        return 0.0 if self.empty.shape[1] else float(self.values[0]) if len(self.values) else 1.0

    @property
    def rising(self) -> Tensor:
        """Directions `(D, f)` along which the objective rises: this is no maximum."""
        return self.basis @ self.vectors[:, self.values <= -self.least]

    @property
    def flat(self) -> Tensor:
        """Directions `(D, f)` along which the objective does not change: they are not identified."""
        found = torch.cat([self.empty, self.basis @ self.vectors[:, self.values.abs() < self.least]], 1)
        return _apart(found / self.unit.unsqueeze(-1)) * self.unit.unsqueeze(-1)

    @property
    def curved(self) -> Tensor:
        """An orthonormal basis `(r, q)` of the directions along which it falls, in coordinates of `basis`."""
        return self.vectors[:, self.values >= self.least]

    @property
    def curvatures(self) -> Tensor:
        """The eigenvalues along these, `(q)`."""
        return self.values[self.values >= self.least]

    @property
    def rank(self) -> int:
        """How many directions the data determine."""
        return self.curved.shape[1]

    @property
    def decrement(self) -> float:
        """Nats still to gain, `s' I^-1 s / 2` along the directions that are curved."""
        return self._promised(self.slope, self.least)

    def promised(self, slope: Tensor) -> float:
        """Nats that a gradient `(D)` of the same coordinates promises to Newton's step."""
        return self._promised(slope @ self.basis, self.least)

    def _promised(self, slope: Tensor, least: float) -> float:
        along = slope @ self.vectors
        return float(torch.where(self.values >= least, along.square() / self.values.clamp(min=least), 0.0).sum()) / 2

    def moving(self, directions: Tensor) -> tuple[Entry, ...]:
        """The entries that move along some directions `(D, m)`."""
        if not directions.shape[1]:
            return ()
        size = directions.abs() / self.unit.unsqueeze(-1)
        part = size.amax(-1) / size.amax()
        return tuple(self.ground.around.entries[k] for k in (part >= NAMED).nonzero().flatten().tolist())


def _apart(directions: Tensor) -> Tensor:
    """Span the same by directions of which each has an entry of its own: what hangs together stays together."""
    found = directions.clone()
    for k in range(found.shape[1]):
        rest = found[:, k:].abs()
        row, column = divmod(int(rest.argmax()), rest.shape[1])
        found[:, [k, k + column]] = found[:, [k + column, k]]
        found[:, k] = found[:, k] / found[row, k]
        others = [j for j in range(found.shape[1]) if j != k]
        found[:, others] = found[:, others] - found[:, k : k + 1] * found[row, others]
    return found


Second = Callable[[Ground, Tensor], Tensor | None]
"""Minus the second derivative of the objective around a point along the columns of a basis; None where it has none."""


def peak(
    ground: Ground,
    found: Expectation,
    information: Tensor,
    off: Collection[Entry],
    *,
    fine: bool = False,
    second: Second | None = None,
    rows: int = 1,
) -> Peak | None:
    """Look at the curvature around a point, and at the top beside it.

    At a point that is not quite the maximum small eigenvalues are off by as much as the slope is. So Newton's method
    goes to the top first, along the directions that are curved enough, and then, where these are settled, along all
    that are curved.

    Args:
        ground: the objective around the fit.
        found: the E-step there.
        information: in complete data, `(D, D)`.
        off: entries that run off, which are not looked at.
        fine: whether all digits are wanted, or only which directions are flat: then a glance that shows none is enough.
        second: a way to second derivatives; by default differences of slopes.
        rows: of the data. A standard error is known to one part in their root, and the way to the top after which
            second derivatives by `second` are taken anew is measured by it.

    Returns:
        The top; the best point reached, if it is not; None if there are no finite slopes.
    """
    look = partial(_seen, off=off, second=second)
    many = second is not None and rows >= MANY
    near = MOVED if second is None else (ENOUGH if many else NEAR) * rows**0.5
    if fine and many:
        ground, found, information = approached(ground, found, information, off, near)
    here = look(ground, found, information, stencil=FINE if fine else ROUGH)
    if here is not None and not fine:
        if here.smallest >= SUSPECT:
            return replace(here, error=0.0)
        here = look(ground, found, information, stencil=FINE)
    for least in (SUSPECT, *[FLAT] * ROUNDS) if fine else [SUSPECT] * ROUNDS:
        at = None if here is None else _climbed(here, least, near)
        if here is None or at is None:
            break
        here = _there(here, at, look)
    return here if fine else _settled(here)


def _there(here: Peak, at: Tensor, look: Callable[..., Peak | None]) -> Peak | None:
    """Look again from where the steps have led."""
    ground = replace(here.ground, around=here.ground.around.at(at))
    found = ground.found()
    information = ground.curvature_of_q(found)
    if information is None or not bool(torch.isfinite(information).all()):
        return None
    return look(ground, found, information, stencil=FINE)


def _settled(here: Peak | None) -> Peak | None:
    """The same where slopes along what is curved are next to nothing; else nothing can be said of what is flat."""
    if here is None:
        return None
    slope = torch.where(here.values >= SUSPECT, here.slope @ here.vectors, 0.0)
    return here if not len(slope) or float(slope.abs().max()) <= SETTLED else None


def _seen(
    ground: Ground,
    found: Expectation,
    information: Tensor,
    off: Collection[Entry],
    second: Second | None,
    stencil: Mapping[int, float],
) -> Peak | None:
    """Whiten by the information in complete data, and take second derivatives."""
    white, here = whitened(ground, information, off), torch.zeros(len(information), dtype=torch.float64)
    observed = second(ground, white.basis) if second is not None and white.basis.shape[1] else None
    if observed is None:
        observed = ground.information(here, white.basis, stencil)
    unseen = _unseen(ground, white, observed)
    if bool(unseen.any()):
        white, observed = white.without(unseen), observed[~unseen][:, ~unseen]
    slope = ground.slope(found) @ white.basis
    if not bool(torch.isfinite(observed).all() and torch.isfinite(slope).all()):
        return None
    level = level_ones(ground, white.unseen, white.basis, observed, white.unit)
    error = float((observed - observed.mT).abs().max()) if len(slope) else 0.0
    flat, kinks, symmetric = white.unseen[:, level], white.unseen[:, ~level], (observed + observed.mT) / 2
    return Peak(ground, white.basis, white.unit, flat, kinks, white.off, symmetric, slope, error, ground.height(found))


def _unseen(ground: Ground, white: Whitened, observed: Tensor) -> Tensor:
    """Which columns of the basis complete data know nothing of, but for what the rest of a slope bends, `(r)`."""
    unseen = observed.diagonal() > WILD
    faint = ((white.basis / white.unit.unsqueeze(-1)).norm(dim=0) > FAINT) & ~unseen
    if bool(faint.any()):
        rest = ~faint & ~unseen
        ahead = white.without(faint).unseen[:, white.unseen.shape[1] :]
        unseen[faint] = level_ones(ground, ahead, white.basis[:, rest], observed[rest][:, rest], white.unit)
    return unseen


def _climbed(here: Peak, least: float, near: float) -> Tensor | None:
    """Take steps by the curvature at `here` as long as less and less is left to gain; None if they stay as near.

    References: Ortega and Rheinboldt (1970), section 7.1, on chord methods.
    """
    ground, at, slope = here.ground, torch.zeros(len(here.basis), dtype=torch.float64), here.slope
    left, level, moved = here._promised(slope, least), -torch.inf, 0.0
    for k in range(CHORDS):
        along = slope @ here.vectors
        step = here.vectors @ torch.where(here.values >= least, along / here.values.clamp(min=least), 0.0)
        if left <= NO_LONGER or not k and float(step.norm()) <= near:
            break
        if not k:
            level = float(ground.heights(at.unsqueeze(0)))
        found = _shortened(ground, at, here.basis @ step, level)
        if found is None:
            break
        new = ground.slopes(found[0].unsqueeze(0))[0] @ here.basis
        promised = here._promised(new, least)
        if not promised < left:
            break
        moved += float(step.norm())
        (at, level), slope, left = found, new, promised
    return at if moved > near else None


def _shortened(ground: Ground, at: Tensor, step: Tensor, level: float) -> tuple[Tensor, float] | None:
    """Halve a step until the objective does not fall: where that leads, and how high it is there."""
    for half in range(HALVES):
        there = at + step * 0.5**half
        height = float(ground.heights(there.unsqueeze(0)))
        if height >= level - LEVEL * (1 + abs(level)):
            return there, height
    return None
