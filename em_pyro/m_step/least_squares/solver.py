"""Locations by weighted least squares, then scales around the new locations.

With `S = sum w (1, x, x x')` of every cell, in which the location is `X b` and the precision `P`,

    sum X' n P X b = sum X' P S_1,        Sigma = sum w (x - X b)(x - X b)' / sum w.

Numbers are vectors of dimension one; a selection is a predictor with one slot, whose equations are diagonal (of
vectors, block by block) and divided. Where all cells of a location share a precision, it cancels. Systems of several
unknowns are solved for the step from the current `b`, with what is left of the values there on the right: it keeps the
digits of the step where covariates lie far from zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import prod
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.several.abreast import alike, beside, side_by_side
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...families.charts import Chart, bounds_of
from ...program.named import Batch
from ...reading.priors import Prior
from ...records.frozen import frozen
from ..pooling import Refused, added, pool, refuse_unbounded
from ..uses import Block, chart_of, terms_of
from .arguments import Argument, Selection
from .bounds import Bounds
from .equations import Design, Equations
from .lines import LineSite, MatrixLineSite
from .matrix import MatrixSite
from .scalar import Moments, ScalarSite
from .sharing import differ, why_swept


class Site(Protocol):
    """One site of a block, of numbers or of vectors; shapes are those of `Moments`."""

    scale_role: ClassVar[str]

    @property
    def name(self) -> str:
        """Of the site."""

    @property
    def loc(self) -> Argument:
        """Locations of its cells."""

    @property
    def scale(self) -> Selection:
        """Scales of its cells, or Cholesky factors of covariances."""

    @classmethod
    def of(cls, engine: Engine, factor: SiteFactor) -> Site:
        """Read the arguments of a site; raise `Refused` where they are no selections and no predictor."""

    def moments(self, sums: Sums) -> Moments:
        """Lay the statistics out over flat cells."""

    def plain(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Sum of the values, and weight, of every cell."""

    def weighted(self, moments: Moments, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same times the precision of every cell."""

    def pulled(self, moments: Moments, rest: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same of the values less `rest`, as vectors and matrices."""

    @staticmethod
    def solved(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Locations by divided equations, and where there is one."""

    def scatter(self, moments: Moments, batch: Batch) -> Tensor:
        """Products around the current locations."""

    @staticmethod
    def scale_of(scatter: Tensor, n: Tensor, chart: Chart, old: Tensor) -> Tensor:
        """The parameter at the pooled scatter over the pooled weight."""


SITES: Mapping[str, type[Site]] = {"normal": ScalarSite, "multivariate_normal": MatrixSite}
"""What a site of each kind of block is."""

ALONG = "sites"  # the dimension of sites that are one

LINES: Mapping[type[Site], type[Site]] = {ScalarSite: LineSite, MatrixSite: MatrixLineSite}
"""The same where a location has covariates."""


def _site(engine: Engine, kind: type[Site], factor: SiteFactor) -> Site:
    """Read one site: a line where its location has entries that its values lack."""
    line = factor.family.roles["loc"].event_dim > factor.family.event_dim
    return (LINES[kind] if line else kind).of(engine, factor)


@frozen
class LeastSquares:
    """Locations and scales of the Normal sites of a block.

    Attributes:
        locations: parameters, and the function through which each enters.
        scales: the same.
        sizes: entries of each parameter; of vectors and matrices, how many it holds.
        sites: all of one kind; those of a loop that are laid out alike are one.
        stands_for: names of the sites that each of them is.
        designs: predictors of every site over the unknowns of `equations`.
        equations: of all locations together, where some are affine or a prior joins them; None where each is divided by
            itself.
        weighted: whether precisions differ between cells of one location, or a prior meets them.
        pseudo: precision times mean of every entry of locations with a prior, flat, and the precision (`_laid`).
        spreads: weight and scatter that the prior of a scale adds to those of every entry.
        swept: why closed forms are only conditional, or empty.
        bounds: of every entry of the locations that have some, lower and upper, flat.
    """

    how: ClassVar[str] = "closed form"
    separable: ClassVar[bool] = False
    absorbs: ClassVar[bool] = False

    locations: Mapping[str, Chart]
    scales: Mapping[str, Chart]
    sizes: Mapping[str, int]
    sites: tuple[Site, ...] = field(repr=False)
    stands_for: tuple[tuple[str, ...], ...] = field(repr=False)
    designs: tuple[Design, ...] = field(repr=False)
    equations: Equations | None = field(repr=False)
    weighted: bool
    pseudo: Mapping[str, tuple[Tensor, Tensor]] = field(repr=False)
    swept: str
    bounds: Mapping[str, Bounds] = field(default_factory=dict, repr=False)
    spreads: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, engine: Engine, block: Block) -> LeastSquares:
        """Collect the sites of a block."""
        kind, groups = SITES[block.kind], alike(terms_of(engine, block.names))
        factors = [side_by_side(some, (ALONG, *some[0].cells)) if len(some) > 1 else some[0] for some in groups]
        roles = _roles(block)
        sites = tuple(_site(engine, kind, factor) for factor in factors)
        charts = {name: chart_of(engine, name, block.uses[name]) for name in block.solved}
        locations = {name: chart for name, chart in charts.items() if roles[name] == "loc"}
        scales = {name: chart for name, chart in charts.items() if roles[name] == kind.scale_role}
        locs = [site.loc for site in sites]
        priors = {n: engine.priors[n] for n in locations if n in engine.priors and not engine.priors[n].flat}
        pseudo = {n: _laid(prior) for n, prior in priors.items()}
        joined = _joined(locs, priors, vectors=kind is MatrixSite)
        all_scales = {place.parameter for site in sites for place in site.scale.places}
        initial = {name: engine.program.parameters[name].initial for name in charts}
        bounds = _bounds(engine, locations)
        swept = _coupled(engine, block, factors, bool(scales))
        swept = swept or why_swept(factors, locs, locations, all_scales, pseudo, bounds)
        equations, designs = None, tuple[Design, ...]()
        if joined and locations:
            every = Equations.over({n: initial[n].numel() for n in locations}, pseudo, bounds)
            equations = every.of(loc.met(every.first) for loc in locs)
            designs = tuple(equations.design(loc) for loc in locs)
        weighted = bool(pseudo) or (not joined and differ(factors, locs, locations))
        sizes = _sizes(sites, initial)
        priors = {n: engine.priors[n] for n in scales if n in engine.priors and not engine.priors[n].flat}
        spreads = {n: prior.spreads[block.kind, scales[n].name] for n, prior in priors.items()}
        stands_for = tuple(tuple(factor.name for factor in some) for some in groups)
        return cls(
            locations, scales, sizes, sites, stands_for, designs, equations, weighted, pseudo, swept, bounds, spreads
        )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Locations, then scales."""
        return (*self.locations, *self.scales)

    def solve(self, sums: Mapping[str, Sums], batch: Batch) -> dict[str, Tensor]:
        """Take one pass: conditional on the scales the locations, then conditional on the locations the scales."""
        each = [[sums[name] for name in names] for names in self.stands_for]
        moments = [
            site.moments(some[0] if len(some) == 1 else beside(some))
            for site, some in zip(self.sites, each, strict=True)
        ]
        new = self._located(moments, batch) if self.equations is None else self._together(moments, batch)
        return new | self._scaled(moments, {**batch, **new})

    def _located(self, moments: Sequence[Moments], batch: Batch) -> dict[str, Tensor]:
        """Every location by itself."""
        pooled: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.locations}
        for site, some in zip(self.sites, moments, strict=True):
            places = [place for place in site.loc.places if place.parameter in pooled]
            if places:
                total, weight = site.weighted(some, batch) if self.weighted else site.plain(some)
            for name, _, where in places:
                size = self.sizes[name]
                pooled[name].append((pool(total, where, size), pool(weight, where, size)))
        new = {}
        for name, chart in self.locations.items():
            total, weight = (added(parts) for parts in zip(*pooled[name], strict=True))
            if name in self.pseudo:
                total, weight = total + self.pseudo[name][0], weight + self.pseudo[name][1]
            solved, there = self.sites[0].solved(total, weight)
            old = batch[name].double()
            if name in self.bounds:  # by themselves, numbers are best at the nearest one that is allowed
                solved = solved.maximum(self.bounds[name][0]).minimum(self.bounds[name][1])
            new[name] = torch.where(there, chart.inverse(solved), old.reshape(solved.shape)).reshape(old.shape)
        return new

    def _together(self, moments: Sequence[Moments], batch: Batch) -> dict[str, Tensor]:
        """All entries of all locations by one system."""
        assert self.equations is not None
        system = None
        for site, some, design in zip(self.sites, moments, self.designs, strict=True):
            pull, weight = site.pulled(some, site.loc.at(batch), batch)
            system = self.equations.entered(system, design, pull, weight)
        assert system is not None
        return self.equations.solve(*system, batch)

    def _scaled(self, moments: Sequence[Moments], batch: Batch) -> dict[str, Tensor]:
        """Every scale around the locations of `batch`."""
        pooled: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.scales}
        for site, some in zip(self.sites, moments, strict=True):
            places = [place for place in site.scale.places if place.parameter in pooled]
            scatter = site.scatter(some, batch) if places else some.second
            for name, _, where in places:
                size = self.sizes[name]
                pooled[name].append((pool(scatter, where, size), pool(some.n, where, size)))
        new = {}
        for name, chart in self.scales.items():
            scatter, n = (added(parts) for parts in zip(*pooled[name], strict=True))
            if name in self.spreads:
                more, squares = self.spreads[name]
                n, scatter = n + more.reshape(n.shape[1:]), scatter + squares.reshape(scatter.shape[1:])
                refuse_unbounded(name, n, more, more.shape)
            new[name] = self.sites[0].scale_of(scatter, n, chart, batch[name].double())
        return new


def _roles(block: Block) -> dict[str, str]:
    """Of each parameter of a block, the one argument that it enters."""
    roles = {name: {key for _, key, _ in block.uses[name]} for name in block.names}
    for name, keys in roles.items():
        if len(keys) > 1:
            raise Refused(f'"{name}" is a location and a scale')
    return {name: key for name, (key,) in roles.items()}


def _bounds(engine: Engine, locations: Mapping[str, Chart]) -> dict[str, Bounds]:
    """The bounds of every entry, flat, of locations that are parameters as they are: a function of one has none."""
    found = dict[str, Bounds]()
    for name in (name for name, chart in locations.items() if chart.name == "itself"):
        parameter = engine.program.parameters[name]
        if (bounds := bounds_of(parameter.constraint, parameter.initial.shape)) is not None:
            low, high = (end.expand(parameter.initial.shape).reshape(-1) for end in bounds)
            found[name] = low, high
    return found


def _joined(locs: Sequence[Argument], priors: Mapping[str, Prior], *, vectors: bool) -> bool:
    """Whether locations have one system of equations: one is affine, or a prior joins the coordinates of vectors."""
    joined = any(loc.affine is not None for loc in locs)
    joined = joined or any(prior.joins or vectors for prior in priors.values())
    if joined and any(place.chart.name != "itself" for loc in locs for place in loc.places):
        raise Refused("a location joins others at one site and is a function of a parameter at another")
    return joined


def _laid(prior: Prior) -> tuple[Tensor, Tensor]:
    """Precision times mean of every entry, flat, and the precision: of every entry, or the matrix of all of them."""
    assert prior.pseudo is not None
    total, precision = prior.pseudo
    if not prior.joins:
        return total.reshape(-1), precision.reshape(-1)
    return total.reshape(-1), torch.block_diag(*precision.reshape((-1, *precision.shape[-2:])))


def _sizes(sites: Sequence[Site], initial: Mapping[str, Tensor]) -> dict[str, int]:
    """How many entries of their units parameters hold."""
    found = {}
    for site in sites:
        for unit, places in ((site.loc.unit, site.loc.places), (site.scale.unit, site.scale.places)):
            for name in (place.parameter for place in places if place.parameter in initial):
                found[name] = initial[name].numel() // prod(unit)
    return found


def _coupled(engine: Engine, block: Block, factors: Sequence[SiteFactor], scales: bool) -> str:  # noqa: FBT001
    """Say which location of a scale, or part of the same location, something else moves: the two must be alternated."""
    why = ""
    for factor in factors:
        loc = factor.roles["loc"]
        beside = frozenset(name for name, _ in loc.affine.entries) if loc.affine is not None else frozenset[str]()
        selected = engine.recognition.bank.parameters(loc, "real") if scales else frozenset[str]()
        others = (selected | beside).intersection(block.moving)
        if others:
            why = f'its location "{min(others)}" is maximised otherwise: alternated until Q is stationary'
    return why
