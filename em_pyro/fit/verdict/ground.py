"""The objective around fitted values: its height, its slope and its curvature, at many points at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field

import torch
from torch import Tensor

from ...e_step.expectation import Expectation
from ...errors import ObjectiveError
from ...program.named import Batch, Params, batched
from ...records.frozen import frozen
from ..problem import Problem
from .around import Around, Entry, put

TOGETHER = 1 << 21  # entries of products that are held at once
STEP = 0.01  # of the differences of slopes, in standard errors given complete data
ASTRAY = 1.5  # times the information in complete data, more than which observed data have at no maximum
ROUGH = {1: 0.5, -1: -0.5}  # of a derivative, times the step: to second order
FINE = {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}  # to fourth order


@frozen
class Ground:
    """The objective of a program, as a function of coordinates around fitted values.

    Attributes:
        problem: the program.
        around: the coordinates.
        known: gradients at the fitted values that were seen, each with the E-step whose `Q` it is of.
    """

    problem: Problem
    around: Around
    known: list[tuple[Expectation, Tensor]] = field(default_factory=list, init=False, repr=False)

    @torch.no_grad()
    def heights(self, points: Tensor) -> Tensor:
        """Return the objective at `points (M, D)`, shape `(M)`; minus infinity where there is none."""
        return torch.cat([points.new_zeros(0), *(self._heights(some) for some in self._split(points))])

    def _heights(self, points: Tensor) -> Tensor:
        return self._heights_of(self.around.batch(points), len(points))

    def _heights_of(self, batch: Batch, starts: int) -> Tensor:
        try:
            found = self.problem.heights(batch)
        except (RuntimeError, ValueError, ObjectiveError):  # of torch: a value that overflows
            return torch.full((starts,), -torch.inf, dtype=torch.float64)
        return found.nan_to_num(nan=-torch.inf, posinf=-torch.inf)

    @torch.no_grad()
    def with_entries(self, moves: Sequence[tuple[Entry, float]]) -> Tensor:
        """Return the objective where one entry is put to a value, for every one of `moves`."""
        found = [torch.zeros(0, dtype=torch.float64)]
        for some in self._split(torch.arange(len(moves))):
            each = [put(self.around, *moves[k]) for k in some.tolist()]
            batch = {name: torch.stack([one[name] for one in each]) for name in each[0]}
            found.append(self._heights_of(batch, len(each)))
        return torch.cat(found)

    def found(self) -> Expectation:
        """Return the E-step at the fitted values."""
        with torch.no_grad():
            return self.problem.expect(self.problem.bind(batched(self.around.params)))

    def height(self, found: Expectation) -> float:
        """Return the objective at the fitted values, of which `found` is the E-step."""
        return float(found.log_evidence + self.problem.log_prior(self.problem.bind(batched(self.around.params))))

    def slopes(self, points: Tensor) -> Tensor:
        """Return the gradient of the objective at `points`, both `(M, D)`: by Fisher's identity that of `Q`.

        It is NaN where the model has no density.
        """
        return torch.cat([points[:0], *(self._slopes(some) for some in self._split(points))])

    def _slopes(self, points: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                found = self.problem.expect(self.problem.bind(self.around.batch(points)))
        except (RuntimeError, ValueError):
            if not self.problem.engine.open:
                raise
            return torch.full_like(points, torch.nan)
        return self.slope_of_q(found, points)

    def slope(self, found: Expectation) -> Tensor:
        """Return the gradient `(D)` at the fitted values, of which `found` is the E-step.

        It is asked for several times, and curvature has it for nothing: it is kept.
        """
        for of, slope in self.known:
            if of is found:
                return slope
        self.known.append((found, self.slope_of_q(found, torch.zeros((1, self.around.size), dtype=torch.float64))[0]))
        return self.known[-1][1]

    def slope_of_q(self, found: Expectation, points: Tensor) -> Tensor:
        """Return the gradient at `points` of the `Q` that an E-step found."""
        leaf = points.detach().clone().requires_grad_()
        with torch.enable_grad():
            q = self.problem.engine.q(self.around.batch(leaf), found).sum()
            slope = torch.autograd.grad(q, leaf, allow_unused=True)[0] if q.requires_grad else None
        return torch.zeros_like(points) if slope is None else slope

    @torch.enable_grad()
    def curvature_of_q(self, found: Expectation) -> Tensor | None:
        """Return the information in complete data, minus the Hessian of `Q`, `(D, D)`; None if torch has none."""
        units = torch.eye(self.around.size, dtype=torch.float64)
        if not len(units):  # all that moved is at a boundary
            return units
        some = (units,) if self.problem.engine.open else self._split(units)
        try:
            rows = torch.cat([units[:0], *(self.products(found, directions) for directions in some)])
        except RuntimeError:  # a function of the model that can be differentiated only once
            return None
        return -(rows + rows.mT).detach() / 2

    def products(self, found: Expectation, directions: Tensor) -> Tensor:
        """Return the products of the Hessian of `Q` with `directions (M, D)`.

        Each has a start of its own, so that all are one pass backwards; the model itself is evaluated at one start, and
        takes a pass for each.
        """
        leaf = torch.zeros_like(directions[:1] if self.problem.engine.open else directions).requires_grad_()
        with torch.enable_grad():
            q = self.problem.engine.q(self.around.batch(leaf), found).sum()
            slope = torch.autograd.grad(q, leaf, create_graph=True)[0] if q.requires_grad else leaf.detach()
        if not any(of is found for of, _ in self.known):
            self.known.append((found, slope[0].detach()))
        if not slope.requires_grad:
            return torch.zeros_like(directions)
        along = ((slope * one).sum() for one in directions.split(len(leaf)))
        rows = (torch.autograd.grad(one, leaf, retain_graph=True, allow_unused=True)[0] for one in along)
        return torch.cat([torch.zeros_like(leaf) if row is None else row for row in rows])

    def information(self, at: Tensor, basis: Tensor, stencil: Mapping[int, float]) -> Tensor:
        """Return minus the second derivative of the objective at `at (D)` along the columns of `basis (D, r)`.

        It is the Jacobian of the slope, by differences, symmetric but for their error: a measure of it. Where complete
        data know next to nothing, as of a component without rows, a step goes so far that differences of the other
        slopes are no derivatives. What these say of that direction stands in their rows.

        References: Oakes (1999).
        """
        if not basis.shape[1]:
            return basis.new_zeros((0, 0))
        steps, weights = (torch.tensor([*part], dtype=torch.float64) for part in (stencil, stencil.values()))
        points = at + (STEP * steps[:, None, None] * basis.mT).reshape(-1, len(at))
        slopes = (self.slopes(points) @ basis).reshape(len(steps), basis.shape[1], -1)
        found = -(weights[:, None, None] * slopes).sum(0) / STEP
        astray = (found - torch.diag(found.diagonal())).abs().amax(-1) > ASTRAY
        return torch.where(astray.unsqueeze(-1) & ~astray, found.mT, found)

    def _split(self, points: Tensor) -> Iterator[Tensor]:
        """As many points at a time as fit in memory; one where the model itself is evaluated."""
        yield from points.split(_at_a_time(self.problem)) if len(points) else ()


def around_of(problem: Problem, params: Params) -> Around:
    """Return the coordinates around `params` of all parameters that the plan maximises."""
    values = {name: value.detach().double() for name, value in params.items()}
    return Around(problem.program, problem.plan.maximised, values)


def heights_in_turn(problem: Problem, batch: Batch) -> Tensor:
    """Return the objective of every start, as many at a time as fit in memory."""
    starts, several = len(next(iter(batch.values()))), _at_a_time(problem)
    slices = [slice(at, at + several) for at in range(0, starts, several)]
    return torch.cat([problem.heights({name: value[some] for name, value in batch.items()}) for some in slices])


def evaluated(problem: Problem) -> int:
    """Return what an evaluation costs: entries of all factors and of the laws of integrated latents, of all rows."""
    engine = problem.engine
    factors = sum(math.prod(engine.sizes[n] for n in factor.names) for factor in engine.factors.values())
    return int(problem.rows.times) * (factors + sum(unit.held for unit in engine.units if unit.continuous))


def _at_a_time(problem: Problem) -> int:
    return 1 if problem.engine.open else max(1, TOGETHER // problem.widest)
