"""Check the observed values before anything runs: finite, inside their support, all on one device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import constraints

from .errors import DataError
from .named import unwrap
from .program import Site


def check_data(sites: Mapping[str, Site], params: Mapping[str, Tensor]) -> None:
    """Raise a `DataError` that names the site and the first bad index.

    Raises:
        DataError: a value that is observed and not masked is not finite or outside the support of its distribution, or
            data and parameters lie on different devices.
    """
    for site in sites.values():
        if site.role != "observed" or not site.value.numel():
            continue
        devices = {site.value.device.type} | {p.device.type for p in params.values()}
        if len(devices) > 1:
            raise DataError(
                f'Site "{site.name}": expected data and parameters on one device, got {sorted(devices)}. Move the '
                f"data, or create the parameters with device=data.device."
            )
        support = getattr(unwrap(site.fn).base, "support", None)
        # One sum, without temporary tensors, tells that all is well with most data; what it cannot tell is looked at.
        finite = site.value.is_floating_point() and bool(torch.isfinite(site.value.sum()))
        if finite and support in (constraints.real, constraints.real_vector):
            continue
        seen = _seen(site)
        if site.value.is_floating_point() and not finite:
            _refuse(site, ~torch.isfinite(site.value) & seen, "finite data")
        if support is None:
            continue
        if type(support).__name__ == "_Multinomial":  # the density holds for rows of any total
            support = constraints.independent(constraints.nonnegative_integer, 1)
        event = getattr(unwrap(site.fn).base, "event_dim", 0)
        inside = support.check(site.value)
        enumerated = inside.dim() - (site.value.dim() - event)
        if enumerated > 0:  # the support depends on a latent: one state that allows the value is enough
            inside = inside.flatten(0, enumerated - 1).any(0)
        visible = seen.flatten(seen.dim() - event).any(-1) if event and seen.dim() > event else seen
        if event and seen.dim() <= event:
            visible = seen.any()
        _refuse(site, ~inside & visible, f"values within {support}")


def _seen(site: Site) -> Tensor:
    """Which entries of the value are not masked, broadcastable to it."""
    inner = unwrap(site.fn)
    event = site.fn.event_dim - inner.event_rank  # type: ignore[attr-defined]
    seen = torch.ones_like(site.value, dtype=torch.bool)
    for mask, rank in ((site.mask, inner.event_rank + event), (inner.mask, event)):
        if mask is not None:
            mask = mask.reshape(mask.shape + (1,) * rank)
            while mask.dim() > seen.dim():
                mask = mask.any(0)  # the mask depends on a latent
            seen = seen & mask
    return seen


def _refuse(site: Site, bad: Tensor, expected: str) -> None:
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        value = site.value[index] if len(index) == site.value.dim() else site.value
        got = f"{value.item()}" if value.numel() == 1 else f"{value.flatten()[:6].tolist()}"
        raise DataError(
            f'Site "{site.name}": expected {expected}, got {got} at index {index}. Remove it, or leave it out by '
            f"fn.mask(observed)."
        )
