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
from dataclasses import field
from typing import ClassVar

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...families.charts import COORDINATES, Chart, domain_of
from ...families.newton import ascent_direction
from ...program.named import Batch, unwrap
from ...reading.predictor import adjoint, gram
from ...reading.priors import Prior
from ...records.frozen import frozen
from ..pooling import Refused
from ..uses import Block, entering, made_up, terms_of
from .apart import Apart, apart
from .lines import Lines, Logits, lines_of
from .nearer import FAR, nearer
from .predictors import Entry
from .site import Site, side_by_side, site_of

ITERATIONS, HALVINGS = 30, 20
STATIONARY = 1e-10  # of the gradient, relative to 1 + |Q|
PROMISED = 1e-4  # of what the slope promises on the way to zero, beside the slope itself
UNSEEN = 1e-12  # of a rise of Q, relative to 1 + |Q|: below, only the gradient can tell
SINGULAR = 1e-12  # of the curvature along a direction, relative to the largest, each entry scaled to one
SHORT = 0.5**HALVINGS  # share of a step: the direction is of no use
NEAR = 1e-3  # beside `1 + |coordinate|`: a step so short that it need not be tried
ACROSS = 2.0  # times the largest coordinate: as far as a step from far out goes that has failed
KINKED = ("Laplace", "AsymmetricLaplace")  # priors whose maximum may be a kink

Expansion = tuple[Tensor, Tensor, Tensor]
"""`Q` of every start by sets of coordinates, its gradient and its Hessian in the coordinates that move."""


@frozen
class Regression:
    """Parameters with a joint maximum, found by Newton's method.

    Attributes:
        parameters: those that move.
        held: parameters that enter the same sites and are not solved here.
        domains: of all of them; it says what their coordinates are.
        sizes: entries of those that move.
        sites: that they enter.
        lines: of those whose derivatives are sums over rows; None for the others.
        priors: of those that move.
        apart: sets of coordinates that are climbed side by side.
        swept: why the maximum is only conditional, or empty.
    """

    how: ClassVar[str] = "Newton"
    separable: ClassVar[bool] = False
    absorbs: ClassVar[bool] = True

    parameters: tuple[str, ...]
    held: tuple[str, ...]
    domains: Mapping[str, str] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)
    sites: tuple[Site, ...] = field(repr=False)
    lines: tuple[Lines | Logits | None, ...] = field(repr=False)
    priors: Mapping[str, Prior] = field(repr=False)
    apart: Apart = field(repr=False)
    swept: str

    @classmethod
    def of(cls, engine: Engine, block: Block) -> Regression:
        """Collect the sites of a block, and differentiate them twice: a family that is not ours may not allow it."""
        factors = terms_of(engine, block.names)
        solver = cls.laid_out(engine, block, factors)
        batch = {name: p.initial.double().unsqueeze(0) for name, p in engine.program.parameters.items()}
        try:
            solver.expand(solver.coordinates(batch), solver._sums(made_up(factors)), batch)
        except (RuntimeError, NotImplementedError) as reason:
            raise Refused(f"its site cannot be differentiated twice ({reason})") from None
        return solver

    @classmethod
    def laid_out(
        cls, engine: Engine, block: Block, factors: Sequence[SiteFactor], *, joined: bool = True
    ) -> Regression:
        """Lay out some of the sites of a block over the coordinates of all; those that are alike `joined` into one."""
        initial = {n: p.initial for n, p in engine.program.parameters.items()}
        inside = set[str]().union(*(entering(engine, factor) for factor in terms_of(engine, block.names)))
        moving = tuple(name for name in initial if name in block.solved)
        held = tuple(name for name in initial if name in inside and name not in moving)
        domains = {n: domain_of(engine.program.parameters[n].constraint) for n in (*moving, *held)}
        _check(engine, moving, domains)
        place: dict[Entry, int] = {}
        for name in (*moving, *held):
            for i in range(initial[name].numel()):
                place[name, i] = len(place)
        sites = tuple(site_of(engine, factor, place) for factor in factors)
        sites = side_by_side(sites) if joined else sites
        priors = {n: engine.priors[n] for n in moving if n in engine.priors and not engine.priors[n].flat}
        other = next((f'"{name}"' for name in held if name in block.moving), "")
        why = f"{other}, which meets it, is maximised otherwise: alternated until Q is stationary" if other else ""
        sizes = {name: initial[name].numel() for name in moving}
        sets = apart(sites, tuple(sizes.values()), [k for k, name in enumerate(moving) if name in priors])
        return cls(moving, held, domains, sizes, sites, tuple(map(lines_of, sites)), priors, sets, why)

    @property
    def count(self) -> int:
        """Number of coordinates that move."""
        return sum(self.sizes.values())

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Climb until the gradient is zero; a start whose `Q` is not finite stays where it is."""
        theta, own = self.coordinates(batch), self._sums(sums)
        solved = self._climb(theta, own, batch)
        far = self.apart.largest(torch.maximum(theta.abs(), solved.abs())[:, : self.count]) > FAR
        solved = self._drawn_in(solved, far, own, batch) if bool(far.any()) else solved
        return self.values(solved, theta, batch)

    def _drawn_in(self, solved: Tensor, far: Tensor, sums: Sequence[Sums], batch: Batch) -> Tensor:
        """Climb once more, from nearer to zero, where a climb that was `far` out, `(S, sets)`, was given up.

        Densities are saturated out there: where `Q` is steep it has hardly any curvature, where it is level none.
        """
        (value, slope, _), own = self.expand(solved, sums, batch), solved[:, : self.count]
        scale = 1 + value.nan_to_num(0.0, 0.0, 0.0).sum(-1, keepdim=True).abs()
        steep = torch.maximum(self.apart.largest(slope.abs()), PROMISED * self.apart.added((slope * own).abs()))
        if not bool((stuck := far & (steep > STATIONARY * scale)).any()):
            return solved
        shares = nearer(lambda part: self.expand(self._moved(solved, -own, 1 - part), sums, batch)[0], stuck)
        again = self._climb(self._moved(solved, -own, 1 - shares), sums, batch)
        better = stuck & (self.expand(again, sums, batch)[0] > value)
        return self._moved(solved, again[:, : self.count] - own, better.to(solved))

    def values(self, solved: Tensor, theta: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the parameters at coordinates, those that are where `theta` is as they are in `batch`."""
        new, at = {}, 0
        for name, size in self.sizes.items():
            old, here = batch[name], slice(at, at + size)
            value = COORDINATES[self.domains[name]].forward(solved[:, here]).reshape(old.shape)
            still = (solved[:, here] == theta[:, here]).reshape(old.shape)
            new[name] = torch.where(still, old.double(), value)
            at += size
        return new

    def coordinates(self, batch: Batch) -> Tensor:
        """Coordinates `(S, E)` of all parameters: what the predictors are affine in."""
        parts = []
        for name in (*self.parameters, *self.held):
            value = batch[name].double()
            parts.append(COORDINATES[self.domains[name]].inverse(value.reshape((len(value), -1))))
        return torch.cat(parts, -1)

    def _sums(self, sums: Mapping[str, Sums]) -> list[Sums]:
        """Statistics of every site."""
        return [site.counted(sums) for site in self.sites]

    def _climb(self, theta: Tensor, sums: Sequence[Sums], batch: Batch) -> Tensor:
        """Newton steps for all starts and sets of coordinates side by side, halved until `Q` does not fall.

        Where the direction of one set is no use (its curvature has run off to zero), the coordinates that would go
        farthest stay, and the others of the set go on without them. Where none goes far, rounding is all that is left.
        """
        value, slope, curvature = self.expand(theta, sums, batch)
        done, before = ~torch.isfinite(value), torch.full_like(value, torch.inf)
        lost = torch.zeros_like(slope, dtype=torch.bool)
        for _ in range(ITERATIONS):
            size = self.apart.largest(slope.masked_fill(lost, 0.0).abs())
            scale = 1 + value.nan_to_num(0.0, 0.0, 0.0).sum(-1, keepdim=True).abs()
            step = ascent_direction(slope.masked_fill(lost, torch.nan), curvature, flat=SINGULAR, level=1.0)
            step = self._moving(step, slope.masked_fill(lost, 0.0), theta, size > STATIONARY * scale)
            gain = self.apart.added(slope * step) / 2
            still = (gain <= UNSEEN * scale) & ((size <= STATIONARY * scale) | (size >= 0.5 * before))
            near = self.apart.largest(step.abs() / (1 + theta[:, : self.count].abs())) <= NEAR
            theta = self._moved(theta, step, (still & near & ~done).to(theta))  # the last step costs nothing
            done = done | still | ~torch.isfinite(gain)
            if bool(done.all()):
                break
            before = torch.where(gain <= UNSEEN * scale, size, torch.inf)
            share, across = torch.where(done, 0.0, 1.0), self._across(theta, step)
            for _ in range(HALVINGS):
                trial = self._moved(theta, step, share)
                new = self.expand(trial, sums, batch)
                worse = ~done & ~(new[0] >= value + 1e-4 * share * gain - UNSEEN * scale)
                if not bool(worse.any()):
                    break
                share = torch.where(worse, torch.minimum(share / 2, across), share)
            else:
                trial = self._moved(theta, step, torch.where(worse, 0.0, share))
                new = self.expand(trial, sums, batch)
            unseen = (gain > UNSEEN * scale) & (share * gain <= UNSEEN * scale)  # what is left of a promise
            hard = ~done & (unseen | (share <= SHORT * across))
            far = self.apart.each(hard) & ~lost & (step.abs() > FAR * (1 + theta[:, : self.count].abs()))
            done, lost = done | (hard & (self.apart.added(far.to(theta)) == 0)), lost | far
            theta, (value, slope, curvature) = trial, new
        return theta

    def _moving(self, step: Tensor, slope: Tensor, theta: Tensor, steep: Tensor) -> Tensor:
        """Follow the slope of `steep` sets far out that have no curvature at all: all their densities are saturated."""
        size = self.apart.largest(1 + theta[:, : self.count].abs())
        idle = steep & (size > FAR) & (self.apart.largest(step.abs()) == 0)
        length = ACROSS * size / self.apart.largest(slope.abs()).clamp(min=1e-300)
        return torch.where(self.apart.each(idle), self.apart.each(length) * slope, step)

    def _across(self, theta: Tensor, step: Tensor) -> Tensor:
        """Return which share `(S, sets)` of a step from far out goes across zero, and as far beyond; of others all."""
        size = self.apart.largest(1 + theta[:, : self.count].abs())
        share = ACROSS * size / self.apart.largest(step.abs()).clamp(min=1e-300)
        return torch.where(size > FAR, share.clamp(max=1.0), 1.0)

    def _moved(self, theta: Tensor, step: Tensor, share: Tensor) -> Tensor:
        """Go shares `(S, sets)` of a step; what is not solved for stays."""
        moved = theta.clone()
        moved[:, : self.count] += torch.where(self.apart.each(share) > 0, self.apart.each(share) * step, 0.0)
        return moved

    def expand(self, theta: Tensor, sums: Sequence[Sums], batch: Batch) -> Expansion:
        """Expand `Q` to second order in the coordinates that move, for every start."""
        count = self.count
        value = theta.new_zeros((len(theta), self.apart.count))
        slope, curvature = theta.new_zeros((len(theta), count)), theta.new_zeros((len(theta), count, count))
        for at, some in enumerate(sums):
            q, first, second = self.of_site(at, theta, some)
            value = value + self.apart.of_cells(at, q)
            slope, curvature = slope + first, curvature + second
        at = 0
        for name, n in self.sizes.items():
            if name in self.priors:
                chart, here = COORDINATES[self.domains[name]], slice(at, at + n)
                q, g, h = _of_prior(self.priors[name], chart, theta[:, here], batch[name].shape[1:])
                value[:, self.apart.labels[at]] += q
                slope[:, here] += g
                curvature[:, here, here] += h
            at += n
        return value, slope, curvature

    def of_site(self, at: int, theta: Tensor, sums: Sums) -> Expansion:
        """Expand the share of one site: `Q` of every start and cell, gradient and Hessian in what moves."""
        site, line, count = self.sites[at], self.lines[at], self.count
        if line is None and site.by_coordinates(count):
            return site.expanded(theta, sums, count)
        q, slope, curvature = _expanded(site, theta, sums) if line is None else line.expand(theta, sums)
        return q, slope[:, :count], curvature[:, :count, :count]


def _check(engine: Engine, moving: Sequence[str], domains: Mapping[str, str]) -> None:
    """Refuse parameters that have no coordinate here, and priors that Newton's method cannot climb."""
    for name, domain in domains.items():
        if domain not in COORDINATES:
            bounds = engine.program.parameters[name].constraint
            raise Refused(f'"{name}", with which it has a joint maximum, is bounded by {bounds}')
    for name in moving:
        prior = engine.priors.get(name)
        if prior is not None and (prior.fn is None or prior.kind in KINKED):
            raise Refused(f'the prior of "{name}" is not smooth, or has parameters')


def _expanded(site: Site, theta: Tensor, sums: Sums) -> Expansion:
    """`Q` of every start and cell of a site, its gradient and its Hessian in all coordinates."""
    size = theta.shape[-1]
    slope, curvature = theta.new_zeros(theta.shape), theta.new_zeros((*theta.shape, size))
    q, slopes, curvatures = site.slopes(theta, sums)
    predictors = [p for argument in site.arguments for p in argument.predictors]
    for r, first in enumerate(predictors):
        slope = slope + adjoint(first, slopes[r], size)
        for s, second in enumerate(predictors[r:], r):
            weight = curvatures[r][s]
            if weight is not None:
                block = gram(first, second, weight, size)
                curvature = curvature + (block if r == s else block + block.mT)
    return q, slope, curvature


def _of_prior(prior: Prior, chart: Chart, theta: Tensor, shape: torch.Size) -> Expansion:
    """Log prior of every start, its gradient and its Hessian in the coordinates of one parameter."""
    assert prior.fn is not None
    leaf = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        q = prior.log_prob(chart.forward(leaf).reshape((len(theta), *shape))).double()
        (slope,) = torch.autograd.grad(q.sum(), leaf, create_graph=True)
        if not slope.requires_grad:
            return q.detach(), slope, theta.new_zeros((*theta.shape, theta.shape[-1]))
        if not unwrap(prior.fn).base.event_shape:
            (diagonal,) = torch.autograd.grad(slope.sum(), leaf)
            return q.detach(), slope.detach(), torch.diag_embed(diagonal)
        rows = [torch.autograd.grad(part.sum(), leaf, retain_graph=True)[0] for part in slope.unbind(-1)]
    return q.detach(), slope.detach(), torch.stack(rows, -2)
