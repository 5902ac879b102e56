"""How narrow the density of a site is that no family recognises: by its scale, under transforms of its values too."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, Transform

from ...program.named import unwrap
from ...program.site import Site

DEGENERATE = 1e-6  # of the pooled scale
CLOSE, WIDE = 0.01, 40.0  # of the gaps between neighbours; so many, times the rows, are the width of a lone cluster
COLUMNS = 16  # of wide values that are measured together: what is made on the way is as long as the rows
SORTED = 1_000  # rows that are enough to know the gaps between neighbours by
BOUNDED_BY_SCALE = (dist.Pareto,)  # what they call a scale is where the support begins, and no width
TIES = 1e-14  # of the size of values: nearer ones are equal


def width(site: Site) -> Tensor | None:
    """Return the scale of a site's distribution, or the roots of its covariance; None if it has none.

    It is that of the values that `lengths` returns.
    """
    fn, transforms = _bottom(site)
    scale = _scale(fn)
    if scale is None:
        return None
    for transform in transforms[: _units(transforms)]:
        assert isinstance(transform, AffineTransform)
        scale = scale * torch.as_tensor(transform.scale).abs()
    return scale.detach().double()


def lengths(site: Site) -> Tensor:
    """Return the values of a site where its scale is a length: under all transforms that are more than other units."""
    _, transforms = _bottom(site)
    value = site.value.detach().double()
    for transform in reversed(transforms[_units(transforms) :]):
        value = transform.inv(value)
    return value


def _bottom(site: Site) -> tuple[Distribution, list[Transform]]:
    """Return what has a scale, and what is done to its values: a LogNormal has that of the logarithm."""
    fn, transforms = unwrap(site.fn).base, list[Transform]()
    while isinstance(fn, dist.TransformedDistribution) and (isinstance(fn, dist.LogNormal) or _scale(fn) is None):
        transforms = [*fn.transforms, *transforms]
        fn = unwrap(fn.base_dist).base
    return fn, transforms


def _units(transforms: list[Transform]) -> int:
    """How many transforms, at first, change nothing but units."""
    return next((k for k, one in enumerate(transforms) if not isinstance(one, AffineTransform)), len(transforms))


def _scale(fn: Distribution) -> Tensor | None:
    if isinstance(fn, BOUNDED_BY_SCALE):
        return None
    root = getattr(fn, "_unbroadcasted_scale_tril", getattr(fn, "scale_tril", None))
    scale = getattr(fn, "scale", None) if root is None else root.diagonal(dim1=-2, dim2=-1)
    return scale if isinstance(scale, Tensor) else None


def unit(values: Tensor) -> Tensor:
    """Their spread, by column, of which few are taken at a time; of values that do not vary their size, or one."""
    flat = values.reshape(len(values), values.shape[1:].numel())
    return torch.cat([_unit(part) for part in flat.split(COLUMNS, 1)]).reshape(values.shape[1:])


def _unit(values: Tensor) -> Tensor:
    size = values.nan_to_num(0.0).abs().amax(0) if len(values) else values.new_zeros(values.shape[1:])
    return spread(values, torch.where(size > 0, size, 1.0))


def spread(values: Tensor, alone: Tensor) -> Tensor:
    """Return the standard deviation of values over the first dimension, or of a cluster where clusters are far apart.

    What is between clusters says nothing of how narrow one may become. Neighbours in a cluster of `n` rows are about
    its scale over `n` apart, so that the closest of them tell it.

    Args:
        values: nan where there is none.
        alone: where they do not vary.
    """
    size = values.nan_to_num(0.0).abs().amax(0) if len(values) else torch.zeros_like(alone)
    deviation = (values - values.nanmean(0)).square().nanmean(0).nan_to_num(0.0).sqrt()
    some = values[:: max(1, len(values) // SORTED)]
    gaps = some.sort(0).values.diff(dim=0)
    gaps = torch.where(gaps > TIES * size, gaps, torch.nan)
    if len(gaps):
        within = WIDE * torch.isfinite(some).sum(0) * gaps.nanquantile(CLOSE, 0)
        deviation = torch.fmin(deviation, within)
    return torch.where(deviation > TIES * size, deviation, alone)
