"""How narrow the density of a site is that no family recognises: by its scale, under transforms of its values too."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, Transform

from ...program.named import unwrap
from ...program.site import Site


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
    root = getattr(fn, "_unbroadcasted_scale_tril", getattr(fn, "scale_tril", None))
    scale = getattr(fn, "scale", None) if root is None else root.diagonal(dim1=-2, dim2=-1)
    return scale if isinstance(scale, Tensor) else None
