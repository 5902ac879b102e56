"""One site of a regression, or several side by side: its share of `Q` by the predictors of every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from math import prod

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...program.named import Params, batched
from ...reading.bound import finite
from ...reading.predictor import side_by_side as beside
from ...records.frozen import frozen
from ..ascent.products import SIDE_BY_SIDE, products
from ..pooling import Refused
from ..uses import family_name
from .predictors import Argument, Entry, argument_of

ROUNDING = 1e-15  # of the terms that `Q` adds up, relative to their sizes


@frozen
class Site:
    """One site of a block, or several that are laid out alike (the steps of a chain), side by side."""

    factors: tuple[SiteFactor, ...]
    arguments: tuple[Argument, ...] = field(repr=False)
    known: Params = field(repr=False)  # other arguments, as the family expects them

    def density(self, etas: Sequence[Tensor], sums: Sums) -> tuple[Tensor, Tensor]:
        """`<natural, S>` of every cell, and what its rounding may be, both of shape (S,) + cells + events."""
        factor, args = self.factors[0], dict(self.known)
        for argument, eta in zip(self.arguments, etas, strict=True):
            args |= argument.bound(eta)
        if sums.around is not None and factor.family.location is not None:
            args[factor.family.location] = args[factor.family.location] - sums.around
        natural = factor.form.natural_of(factor, args)
        total = rounding = torch.zeros((), dtype=torch.float64)
        rank = 1 + len(self.shape)
        for value, statistic in zip(natural, sums.parts, strict=True):
            product = torch.where(statistic != 0, finite(value) * statistic, 0.0)
            product = product.flatten(rank).sum(-1) if product.dim() > rank else product
            total, rounding = total + product, rounding + ROUNDING * product.detach().abs()
        return total, rounding

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the cells, those of several sites with one in front for the sites."""
        factor = self.factors[0]
        return (*((len(self.factors),) if len(self.factors) > 1 else ()), *factor.cell_shape, *factor.event_shape)

    def counted(self, found: Mapping[str, Sums]) -> Sums:
        """Statistics of the cells."""
        each = [found[factor.name] for factor in self.factors]
        if len(each) == 1:
            return each[0]
        parts = tuple(torch.stack(some, 1) for some in zip(*(one.parts for one in each), strict=True))
        arounds = [one.around for one in each if one.around is not None]
        return replace(each[0], parts=parts, around=torch.stack(arounds, 1) if arounds else None)

    def slopes(self, theta: Tensor, sums: Sums) -> tuple[Tensor, list[Tensor], list[list[Tensor | None]]]:
        """`Q` of every start and cell, and its slopes and curvatures there in all predictors (None is zero).

        Rounding counts against `Q`: a climb after a scale that shrinks to nothing ends where no digit of it is left.
        """
        leaves, count = [], sum(len(argument.predictors) for argument in self.arguments)
        for argument in self.arguments:
            eta = argument.affine.at(theta)
            events = eta.shape[-1:] if argument.row else ()
            leaves.append(eta.expand((len(theta), *self.shape, *events)).detach().contiguous().requires_grad_())
        with torch.enable_grad():
            cells, rounding = self.density(leaves, sums)
            grads = torch.autograd.grad(cells.sum(), leaves, create_graph=True)
            slopes, curvatures = list[Tensor](), list[list[Tensor | None]]()
            for argument, grad in zip(self.arguments, grads, strict=True):
                for own in grad.unbind(-1) if argument.row else (grad,):
                    slopes.append(own.detach())
                    if not own.requires_grad:
                        curvatures.append([None] * count)
                        continue
                    rows = torch.autograd.grad(own.sum(), leaves, retain_graph=True, allow_unused=True)
                    found: list[Tensor | None] = []
                    for other, leaf, row in zip(self.arguments, leaves, rows, strict=True):
                        if not other.row:
                            found.append(row)
                        else:
                            found += [None] * leaf.shape[-1] if row is None else row.unbind(-1)
                    curvatures.append(found)
        return cells.detach() - rounding, slopes, curvatures

    def expanded(self, theta: Tensor, sums: Sums, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """The same in the first `count` coordinates: `Q` of every start and cell, its gradient and its Hessian."""
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad():
            etas = []
            for argument in self.arguments:
                eta = argument.affine.at(leaf)
                etas.append(eta.expand((len(leaf), *self.shape, *(eta.shape[-1:] if argument.row else ()))))
            cells, rounding = self.density(etas, sums)
            (slope,) = torch.autograd.grad(cells.sum(), leaf, create_graph=True)
            units = torch.eye(leaf.shape[-1]).to(leaf)[:count].unsqueeze(1).expand((count, *leaf.shape))
            rows = products(slope, leaf, units, sum(eta.numel() for eta in etas))
        return cells.detach() - rounding, slope.detach()[:, :count], rows[..., :count].movedim(0, 1)

    def by_coordinates(self, count: int) -> bool:
        """Whether so few coordinates move that `Q` is differentiated by them at once, and not by its predictors.

        By predictors it takes a backward pass for each, and a product of designs for every pair.
        """
        width = sum(len(argument.predictors) for argument in self.arguments)
        entries = count * width * prod(self.shape)
        return count <= width or (2 * count <= width * width and entries <= SIDE_BY_SIDE)


def site_of(engine: Engine, factor: SiteFactor, place: Mapping[Entry, int]) -> Site:
    """Read the arguments of one site over the coordinates that `place` numbers."""
    start = {n: p.initial.double() for n, p in engine.program.parameters.items()}
    with torch.no_grad():
        bound = factor.arguments(engine.bind(batched(start)), torch.zeros((), dtype=torch.float64))
    arguments, known = list[Argument](), dict[str, Tensor]()
    for key, role in factor.roles.items():
        if role.known:
            known |= {k: v for k, v in bound.items() if k in (key, f"{key}_complement")}
        elif key in factor.family.kinked:
            raise Refused(f"{family_name(factor)}.{key} has a kink")
        else:
            arguments.append(argument_of(engine, factor, key, role, place))
    return Site((factor,), tuple(arguments), known)


def side_by_side(sites: Sequence[Site]) -> tuple[Site, ...]:
    """Put sites that are laid out alike into one, so that a chain of a thousand steps is one operation."""
    groups: dict[object, list[Site]] = {}
    for site in sites:
        (factor,) = site.factors
        arguments = tuple(
            (a.role, a.affine.chart.name, a.affine.offset.shape)
            + tuple((p.index.shape, p.value.shape) for p in a.affine.pieces)
            for a in site.arguments
        )
        known = tuple((key, value.shape) for key, value in sorted(site.known.items()))
        alike = (id(factor.family), factor.cell_shape, factor.event_shape, factor.form.events(factor), arguments, known)
        groups.setdefault(alike if factor.form.alike else factor.name, []).append(site)
    return tuple(some[0] if len(some) == 1 else _joined(some) for some in groups.values())


def _joined(sites: Sequence[Site]) -> Site:
    """Several sites as one, with a dimension for them in front of the cells."""
    arguments = []
    for alike in zip(*(site.arguments for site in sites), strict=True):
        arguments.append(replace(alike[0], affine=beside([argument.affine for argument in alike])))
    known = {key: torch.stack([site.known[key] for site in sites]) for key in sites[0].known}
    return Site(tuple(site.factors[0] for site in sites), tuple(arguments), known)
