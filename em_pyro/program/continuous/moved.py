"""Normal laws that transforms move and stretch, as the normal laws that they are."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.transforms import ComposeTransform, _InverseTransform

from ..named import unwrap

WRAPPERS = ("Independent", "MaskedDistribution", "ExpandedDistribution")


def as_normal(fn: Any) -> Any:
    """Return a law as it is, but a normal one where it is an affine transform of one."""
    kind = type(fn).__name__
    if kind in WRAPPERS:
        inner = as_normal(fn.base_dist)
        if inner is fn.base_dist:
            return fn
        if kind == "Independent":
            return inner.to_event(fn.reinterpreted_batch_ndims)
        return inner.mask(fn._mask) if kind == "MaskedDistribution" else inner.expand(fn.batch_shape)
    return _transformed(fn) if kind == "TransformedDistribution" else fn


def _transformed(fn: Any) -> Any:
    """Return the law of a transformed value."""
    inner = unwrap(fn.base_dist)
    law: Any = inner.base
    if inner.mask is not None or type(law).__name__ not in ("Normal", "MultivariateNormal"):
        return fn
    for transform, backwards in (part for whole in fn.transforms for part in _parts(whole)):
        kind = type(transform).__name__
        if kind == "AffineTransform":
            law = _stretched(law, transform, backwards=backwards)
        elif kind == "LowerCholeskyAffine" and not backwards:
            law = _mixed(law, transform)
        else:
            return fn
    return law.to_event(len(fn.event_shape) - len(law.event_shape)).expand(fn.batch_shape)


def _parts(transform: Any) -> list[tuple[Any, bool]]:
    """Return the transforms of which one is made, in their order, and whether they are inverted."""
    if isinstance(transform, ComposeTransform):
        return [part for one in transform.parts for part in _parts(one)]
    if isinstance(transform, _InverseTransform):
        return [(one, not backwards) for one, backwards in reversed(_parts(transform._inv))]
    return [(transform, False)]


def _stretched(law: Any, transform: Any, *, backwards: bool) -> Any:
    """Return the law of `m + s x`, or backwards that of `(x - m) / s`."""
    m, s = (torch.as_tensor(part, dtype=law.loc.dtype) for part in (transform.loc, transform.scale))
    loc, by = ((law.loc - m) / s, 1 / s) if backwards else (m + s * law.loc, s)
    if isinstance(law, dist.Normal):
        return dist.Normal(loc, law.scale * by.abs())
    by = by.expand(loc.shape)  # columns take its sign, too: the diagonal of a root is positive
    return dist.MultivariateNormal(loc, scale_tril=by.unsqueeze(-1) * law.scale_tril * by.sign().unsqueeze(-2))


def _mixed(law: Any, transform: Any) -> Any:
    """Return the law of `m + L x`."""
    root: Tensor = torch.diag_embed(law.scale) if isinstance(law, dist.Normal) else law.scale_tril
    loc = transform.loc + (transform.scale_tril @ law.loc.unsqueeze(-1)).squeeze(-1)
    return dist.MultivariateNormal(loc, scale_tril=transform.scale_tril @ root)
