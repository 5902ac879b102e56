"""Newton's method on `Q` for parameters that enter the arguments of their sites through affine predictors.

`Q` depends on the parameters only through the predictors `eta` of every cell, so its slopes and curvatures in `eta` are
elementwise, and those in the coefficients are `X' dQ/deta` and `X' diag(d2Q/deta2) X`: for a canonical link this is
iteratively reweighted least squares. An argument that is a plain selection of a parameter is affine as well, in the
logarithm of a positive parameter and in the logit of a probability: a site's free arguments are solved together.

References:
    McCullagh, P. and Nelder, J. A. (1989). Generalized Linear Models, section 2.5.
    Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, section 3.4 (modified Hessian, backtracking).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...e_step.sites.rows import RowTerm
from ...e_step.sites.site_factor import Term
from ...families.charts import COORDINATES, Chart
from ...program.named import Params, unwrap
from ...reading.bound import LOWEST
from ...reading.predictor import Affine, adjoint, gram, log_probabilities
from ...reading.priors import Prior

Statistics = Mapping[str, tuple[Tensor, ...]]
Parts = tuple[tuple[Tensor, ...], ...]  # statistics of every use

ITERATIONS, HALVINGS = 100, 50
STATIONARY = 1e-10  # of the gradient, relative to 1 + |Q|
UNSEEN = 1e-12  # of a rise of Q, relative to 1 + |Q|: below, only the gradient can tell
SINGULAR = 1e-12  # of the curvature along a direction, relative to the largest, each entry scaled to one


@dataclass(frozen=True)
class Argument:
    """One argument of a site, by its predictor over the coordinates of the block."""

    role: str
    domain: str
    row: bool  # whether it has an entry for each category or coordinate of the value
    affine: Affine = field(repr=False)

    @property
    def predictors(self) -> list[Affine]:
        """One for each entry of a row; else the one."""
        return self.affine.by_row if self.row else [self.affine]

    def bound(self, eta: Tensor) -> dict[str, Tensor]:
        """The argument as the family expects it (logarithms for probabilities)."""
        if self.domain in ("unit", "simplex"):
            logs = log_probabilities(self.affine.chart, eta)
            names = (self.role, f"{self.role}_complement")
            return {name: log for name, log in zip(names, logs, strict=True) if log is not None}
        return {self.role: self.affine.chart.forward(eta)}


@dataclass(frozen=True)
class NewtonUse:
    """One site of a block, or several that are laid out alike (the steps of a chain), side by side."""

    terms: tuple[Term, ...]
    arguments: tuple[Argument, ...] = field(repr=False)
    known: Params = field(repr=False)  # other arguments, as the family expects them

    def density(self, etas: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
        """`<natural, S>` of every cell, shape (starts,) + cells + events."""
        term, args = self.terms[0], dict(self.known)
        for argument, eta in zip(self.arguments, etas, strict=True):
            args |= argument.bound(eta)
            if term.shift is not None and argument.role == term.family.location:
                args[argument.role] = args[argument.role] - term.shift
        if isinstance(term, RowTerm):
            natural: Sequence[Tensor] = (term.log_density(args),)
        else:
            natural = term.family.natural(args)
        total = torch.zeros((), dtype=torch.float64)
        rank = 1 + len(self.shape)
        for value, statistic in zip(natural, parts, strict=True):
            product = torch.where(statistic != 0, value.clamp(min=LOWEST) * statistic, 0.0)
            total = total + (product.flatten(rank).sum(-1) if product.dim() > rank else product)
        return total

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the cells, those of several terms with one in front for the terms."""
        term = self.terms[0]
        return (*((len(self.terms),) if len(self.terms) > 1 else ()), *term.cell_shape, *term.event_shape)

    def statistics(self, found: Statistics, starts: int, lead: int) -> tuple[Tensor, ...]:
        """Statistics of the cells, after one dimension of starts."""
        parts = [[p.reshape((starts, *p.shape[lead:])) for p in found[term.name]] for term in self.terms]
        return tuple(parts[0]) if len(parts) == 1 else tuple(torch.stack(some, 1) for some in zip(*parts, strict=True))


@dataclass(frozen=True)
class NewtonBlock:
    """Parameters with a joint maximum, found by Newton's method."""

    moving: tuple[str, ...]
    held: tuple[str, ...]  # parameters that enter the same sites and are not solved here
    domains: Mapping[str, str] = field(repr=False)
    uses: tuple[NewtonUse, ...] = field(repr=False)
    priors: Mapping[str, Prior] = field(default_factory=dict, repr=False)

    def solve(self, statistics: Statistics, params: Params, lead: int = 0) -> dict[str, Tensor]:
        """Climb until the gradient is zero; a start whose `Q` is not finite stays where it is."""
        theta, parts = self._laid_out(statistics, params, lead)
        shapes = {name: params[name].shape[lead:] for name in self.moving}
        solved = self._climb(theta, sum(shape.numel() for shape in shapes.values()), parts, shapes)
        new, at = {}, 0
        for name, shape in shapes.items():
            here = slice(at, at + shape.numel())
            value = COORDINATES[self.domains[name]].forward(solved[:, here]).reshape(params[name].shape)
            still = (solved[:, here] == theta[:, here]).reshape(params[name].shape)
            new[name] = torch.where(still, params[name].double(), value)
            at += shape.numel()
        return new

    def differentiate(self, statistics: Statistics, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        """`Q`, its gradient and its Hessian in the coordinates of the block."""
        theta, parts = self._laid_out(statistics, params, 0)
        shapes = {name: params[name].shape for name in self.moving}
        return self.expand(theta, sum(shape.numel() for shape in shapes.values()), parts, shapes)

    def _laid_out(self, statistics: Statistics, params: Params, lead: int) -> tuple[Tensor, Parts]:
        """Coordinates `(starts, E)` of all parameters, and statistics with one dimension of starts."""
        starts = params[self.moving[0]].shape[:lead].numel()
        parts = tuple(use.statistics(statistics, starts, lead) for use in self.uses)
        return torch.cat([self._coordinate(name, params[name], lead) for name in (*self.moving, *self.held)], -1), parts

    def _coordinate(self, name: str, value: Tensor, lead: int) -> Tensor:
        flat = value.double().reshape((value.shape[:lead].numel(), -1))
        return COORDINATES[self.domains[name]].inverse(flat)

    def _climb(self, theta: Tensor, count: int, parts: Parts, shapes: Mapping[str, torch.Size]) -> Tensor:
        """Newton steps for all starts together, halved until `Q` does not fall."""
        value, slope, curvature = self.expand(theta, count, parts, shapes)
        done, before = ~torch.isfinite(value), torch.full_like(value, torch.inf)
        for _ in range(ITERATIONS):
            step = torch.zeros_like(theta)
            step[:, :count] = newton_step(slope, curvature)
            gain, size, scale = (slope * step[:, :count]).sum(-1) / 2, slope.abs().amax(-1), 1 + value.abs()
            still = (gain <= UNSEEN * scale) & ((size <= STATIONARY * scale) | (size >= 0.5 * before))
            theta = torch.where((still & ~done).unsqueeze(-1), theta + step, theta)  # the last step costs nothing
            done = done | still | ~torch.isfinite(gain)
            if bool(done.all()):
                break
            before = torch.where(gain <= UNSEEN * scale, size, torch.inf)
            share = torch.where(done, 0.0, 1.0)
            for _ in range(HALVINGS):
                trial = theta + share.unsqueeze(-1) * step
                new = self.expand(trial, count, parts, shapes)
                worse = ~done & ~(new[0] >= value + 1e-4 * share * gain - UNSEEN * scale)
                if not bool(worse.any()):
                    break
                share = torch.where(worse, share / 2, share)
            else:
                done = done | worse
                trial = torch.where(worse.unsqueeze(-1), theta, trial)
                new = self.expand(trial, count, parts, shapes)
            theta, (value, slope, curvature) = trial, new
        return theta

    def expand(
        self, theta: Tensor, count: int, parts: Parts, shapes: Mapping[str, torch.Size]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`Q`, its gradient and its Hessian in the first `count` coordinates, for every start."""
        size = theta.shape[-1]
        value = theta.new_zeros(len(theta))
        slope, curvature = theta.new_zeros(theta.shape), theta.new_zeros((*theta.shape, size))
        for use, some in zip(self.uses, parts, strict=True):
            q, slopes, curvatures = _in_predictors(use, theta, some)
            value = value + q
            predictors = [p for argument in use.arguments for p in argument.predictors]
            for r, first in enumerate(predictors):
                slope = slope + adjoint(first, slopes[r], size)
                for s, second in enumerate(predictors[r:], r):
                    weight = curvatures[r][s]
                    if weight is not None:
                        block = gram(first, second, weight, size)
                        curvature = curvature + (block if r == s else block + block.mT)
        at = 0
        for name, shape in shapes.items():
            n = shape.numel()
            if name in self.priors:
                chart = COORDINATES[self.domains[name]]
                q, g, h = _of_prior(self.priors[name], chart, theta[:, at : at + n], shape)
                value, slope[:, at : at + n] = value + q, slope[:, at : at + n] + g
                curvature[:, at : at + n, at : at + n] += h
            at += n
        return value, slope[:, :count], curvature[:, :count, :count]


def newton_step(slope: Tensor, curvature: Tensor) -> Tensor:
    """`|-H|^+ g` with every entry scaled to unit curvature: an ascent direction, zero along flat directions."""
    finite = torch.isfinite(slope) & torch.isfinite(curvature).all(-1)
    slope = torch.where(finite, slope, 0.0)
    curvature = torch.where(finite.unsqueeze(-1) & finite.unsqueeze(-2), curvature, 0.0)
    diagonal = curvature.diagonal(dim1=-2, dim2=-1).abs()
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    scaled = -(curvature + curvature.mT) / 2 * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    values, axes = torch.linalg.eigh(scaled)
    size = values.abs()
    seen = size > SINGULAR * size.amax(-1, keepdim=True)
    along = torch.where(seen, (axes.mT @ (scale * slope).unsqueeze(-1)).squeeze(-1) / torch.where(seen, size, 1.0), 0.0)
    return scale * (axes @ along.unsqueeze(-1)).squeeze(-1)


def _in_predictors(
    use: NewtonUse, theta: Tensor, parts: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[list[Tensor | None]]]:
    """`Q` of one site, and in every cell its slopes and curvatures in all predictors (None is zero)."""
    leaves, count = [], sum(len(argument.predictors) for argument in use.arguments)
    for argument in use.arguments:
        eta = argument.affine.at(theta)
        events = eta.shape[-1:] if argument.row else ()
        leaves.append(eta.expand((len(theta), *use.shape, *events)).detach().contiguous().requires_grad_())
    with torch.enable_grad():
        cells = use.density(leaves, parts)
        grads = torch.autograd.grad(cells.sum(), leaves, create_graph=True)
        slopes, curvatures = list[Tensor](), list[list[Tensor | None]]()
        for argument, grad in zip(use.arguments, grads, strict=True):
            for own in grad.unbind(-1) if argument.row else (grad,):
                slopes.append(own.detach())
                if not own.requires_grad:
                    curvatures.append([None] * count)
                    continue
                rows = torch.autograd.grad(own.sum(), leaves, retain_graph=True, allow_unused=True)
                found: list[Tensor | None] = []
                for other, leaf, row in zip(use.arguments, leaves, rows, strict=True):
                    if not other.row:
                        found.append(row)
                    else:
                        found += [None] * leaf.shape[-1] if row is None else row.unbind(-1)
                curvatures.append(found)
    return cells.detach().reshape((len(theta), -1)).sum(-1), slopes, curvatures


def _of_prior(prior: Prior, chart: Chart, theta: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Log prior of every start, its gradient and its Hessian in the coordinates of one parameter."""
    assert prior.fn is not None
    leaf = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        q = prior.log_prob(chart.forward(leaf).reshape((len(theta), *shape)), 1).double()
        (slope,) = torch.autograd.grad(q.sum(), leaf, create_graph=True)
        if not slope.requires_grad:
            return q.detach(), slope, theta.new_zeros((*theta.shape, theta.shape[-1]))
        if not unwrap(prior.fn).base.event_shape:
            (diagonal,) = torch.autograd.grad(slope.sum(), leaf)
            return q.detach(), slope.detach(), torch.diag_embed(diagonal)
        rows = [torch.autograd.grad(part.sum(), leaf, retain_graph=True)[0] for part in slope.unbind(-1)]
    return q.detach(), slope.detach(), torch.stack(rows, -2)
