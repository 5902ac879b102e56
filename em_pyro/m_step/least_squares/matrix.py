"""Sites of a MultivariateNormal: every value is a vector with a covariance matrix of its own."""

from __future__ import annotations

from dataclasses import field
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.site_factor import SiteFactor
from ...e_step.sums import Sums
from ...families.charts import Chart
from ...program.devices import at_hand
from ...program.named import Batch
from ...records.frozen import frozen
from ..pooling import COLLAPSED, TINY, Refused, Selected
from .arguments import Argument, Place, Predictor, Selection
from .scalar import Moments


@frozen
class MatrixSite:
    """One MultivariateNormal site of a block."""

    scale_role: ClassVar[str] = "scale_tril"

    name: str
    loc: Argument
    scale: Selection = field(repr=False)

    @classmethod
    def of(cls, engine: Engine, factor: SiteFactor) -> MatrixSite:
        """Read the arguments of a site."""
        affine, dim = factor.roles["loc"].affine, factor.roles["loc"].index.shape[-1]
        if affine is None:
            return cls(factor.name, _rows(engine, factor, dim), matrices(engine, factor, dim))
        if affine.coordinates:
            raise Refused("the logarithm of a parameter is part of a mean: no least squares")
        predictor = Predictor(affine, (*factor.cell_shape, *factor.event_shape, dim), (dim,))
        return cls(factor.name, predictor, matrices(engine, factor, dim))

    def moments(self, sums: Sums) -> Moments:
        """Lay the statistics out over flat cells, products as whole matrices."""
        n, first, second = sums.parts
        starts, dim = n.shape[0], first.shape[-1]
        around = None if sums.around is None else sums.around.reshape((sums.around.shape[0], -1, dim))
        products = second.index_select(-1, square(dim, second.device)).reshape((starts, -1, dim, dim))
        return Moments(n.reshape((starts, -1)), first.reshape((starts, -1, dim)), products, around)

    def plain(self, moments: Moments) -> tuple[Tensor, Tensor]:
        """Sum of the values, and weight, of every cell: the equations of locations where precisions cancel."""
        n, first, _, around, _ = moments
        each = n.unsqueeze(-1)
        return first if around is None else torch.addcmul(first, each, around), each

    def weighted(self, moments: Moments, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same times the precision of every cell."""
        total, n = self.plain(moments)
        precision = self.scale.at(batch, torch.cholesky_inverse)
        return (precision @ total.unsqueeze(-1)).squeeze(-1), n.unsqueeze(-1) * precision

    def pulled(self, moments: Moments, rest: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Precision times what of the values is not in `rest`, (S, cells, D), and times weight, (S, cells, D, D)."""
        n, first, _, around, _ = moments
        each = n.unsqueeze(-1)
        total = first + each * (-rest if around is None else around - rest)
        precision = self.scale.at(batch, torch.cholesky_inverse)
        return (precision @ total.unsqueeze(-1)).squeeze(-1), each.unsqueeze(-1) * precision

    @staticmethod
    def solved(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Locations row by row, and where there is one: by division, or by a matrix (D, D) of each row."""
        if weight.dim() == total.dim():
            return total / weight, weight > 0
        some = weight.diagonal(dim1=-2, dim2=-1).amin(-1, keepdim=True) > 0
        weight = torch.where(some.unsqueeze(-1), weight, identity(total.shape[-1], total.device))
        return torch.linalg.solve_ex(weight, total.unsqueeze(-1))[0].squeeze(-1), some

    def scatter(self, moments: Moments, batch: Batch) -> Tensor:
        """Products around the current locations: (S, cells, D, D).

        `sum w (x - m)(x - m)'` is `second - m v' - v m'` with `v = first - n m / 2`.
        """
        n, first, second, around, _ = moments
        m = self.loc.at(batch) if around is None else self.loc.at(batch) - around
        cross = m.unsqueeze(-1) * torch.addcmul(first, n.unsqueeze(-1), m, value=-0.5).unsqueeze(-2)
        return second - cross - cross.mT

    @staticmethod
    def scale_of(scatter: Tensor, n: Tensor, chart: Chart, old: Tensor) -> Tensor:
        """The parameter at the pooled scatter (S, matrices, D, D) over the pooled weight; without weight it stays.

        On a line, or on a point, a covariance has no Cholesky factor; nearly on it there is one, which the loop names a
        collapse. Where to look which is needed would be to wait for a device, both are computed.
        """
        rows = _each(n)
        covariance = scatter / rows
        tril, bad = torch.linalg.cholesky_ex(covariance)
        found = rows > 0
        if not at_hand(bad) or bool(bad.any()):
            raised, worse = torch.linalg.cholesky_ex(_raised(covariance))
            tril, found = torch.where(_each(bad) == 0, tril, raised), found & (_each(worse) == 0)
        solved = chart.inverse(tril)
        return torch.where(found, solved, old.reshape(solved.shape)).reshape(old.shape)


def _rows(engine: Engine, factor: SiteFactor, dim: int) -> Selection:
    """Means that are known, or whole rows of one parameter."""
    role, bank = factor.roles["loc"], engine.recognition.bank
    cells = role.index.reshape((-1, dim))
    if role.known:
        assert role.constant is not None
        return Selection((dim,), len(cells), (), constant=role.constant.reshape((-1, dim)).double())
    names = bank.parameters(role, "real")
    if len(names) > 1 or role.coefficient is not None or bool((cells < 0).any()):
        raise Refused("a mean is not selected whole from one parameter")
    (name,) = names
    plain = [s for s in bank.entries if s.parameter == name and s.chart.name == "itself" and not s.complement]
    segment = next((s for s in plain if bool(s.holds(cells).all())), None)
    if segment is None or engine.program.parameters[name].initial.shape[-1:] != (dim,):
        raise Refused("a mean is not a whole row of its parameter")
    first = cells[:, :1] - segment.offset
    if bool((cells - segment.offset != first + torch.arange(dim)).any() or (first % dim != 0).any()):
        raise Refused("a mean is not a whole row of its parameter")
    where = Selected(torch.arange(len(cells)), first.squeeze(-1) // dim)
    return Selection((dim,), len(cells), (Place(name, segment.chart, where),))


def matrices(engine: Engine, factor: SiteFactor, dim: int) -> Selection:
    """Cholesky factors that are known, or whole matrices of one parameter."""
    role, bank = factor.roles["scale_tril"], engine.recognition.bank
    if role.known:
        assert role.constant is not None
        tril = role.constant.reshape((-1, dim, dim)).double()
        return Selection((dim, dim), len(tril), (), constant=tril)
    index = role.index.reshape(-1)
    segment = next((s for s in bank.matrices if bool(s.holds(index).all())), None)
    if segment is None:
        raise Refused("a covariance is not selected whole from one parameter")
    where = Selected(torch.arange(len(index)), index - segment.offset)
    return Selection((dim, dim), len(index), (Place(segment.parameter, segment.chart, where),))


def _raised(covariance: Tensor) -> Tensor:
    """Covariances nearly on the line or the point that they are on."""
    little = covariance.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True).mul_(COLLAPSED).clamp_(min=TINY)
    return torch.addcmul(covariance, little.unsqueeze(-1), identity(covariance.shape[-1], covariance.device))


def _each(number: Tensor) -> Tensor:
    """A number of every matrix, to be broadcast over it."""
    return number.view((*number.shape, 1, 1))


@cache
def square(dim: int, device: torch.device) -> Tensor:
    """Return where each entry of a symmetric matrix stands among its upper triangle, row by row: shape (D * D)."""
    i, j = torch.triu_indices(dim, dim, device=device)
    place = torch.empty((dim, dim), dtype=torch.long, device=device)
    place[i, j] = place[j, i] = torch.arange(len(i), device=device)
    return place.flatten()


@cache
def identity(dim: int, device: torch.device) -> Tensor:
    """Return the identity matrix."""
    return torch.eye(dim, dtype=torch.float64, device=device)
