"""Check the observed values before anything runs: in their plates, finite, inside their support, all on one device."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ..errors import DataError, ModelError
from .masks import seen_values
from .named import SLICE, unexpand, unwrap
from .site import Site


def check_data(sites: Mapping[str, Site], params: Mapping[str, Tensor], plates: Mapping[str, int]) -> None:
    """Check the values of all observed `sites`, against `params` and the sizes of `plates`, at one run of the model.

    Raises:
        ModelError: the batch of an observed value is not that of its plates.
        DataError: a value that is observed and not masked is not finite or outside the support of its distribution;
            there is no value, or a sequence without a step; data and parameters lie on different devices.
    """
    for site in sites.values():
        if site.role != "observed" or isinstance(unwrap(site.fn).base, dist.Unit):  # a pyro.factor has no value
            continue
        _check_shape(site, plates)
        _check_sequences(site)
        devices = {site.value.device.type} | {p.device.type for p in params.values()}
        if len(devices) > 1:
            raise DataError(
                f'Site "{site.name}": expected data and parameters on one device, got {sorted(devices)}. Move the '
                f"data, or create the parameters with device=data.device."
            )
        _check_values(site)


def _check_values(site: Site) -> None:
    """Raise where a value that no mask leaves out is not finite, or outside the support."""
    base, value = unwrap(site.fn).base, site.value
    support = getattr(base, "support", None)
    if type(support).__name__ == "_Multinomial":  # the density holds for rows of any total
        support = constraints.independent(constraints.nonnegative_integer, 1)
    # Sums and slices, without temporaries of the size of the data, tell that all is well with most data.
    finite = not value.is_floating_point() or bool(torch.isfinite(value.sum()))
    if finite and (support is None or _all_inside(support, value)):
        return
    seen = seen_values(site)
    if not finite:
        _refuse(site, ~torch.isfinite(value) & seen, "finite data")
    if support is None:
        return
    event = getattr(base, "event_dim", 0)
    inside = support.check(value)
    enumerated = inside.dim() - (value.dim() - event)
    if enumerated > 0:  # the support depends on a latent: one state that allows the value is enough
        inside = inside.flatten(0, enumerated - 1).any(0)
    visible = seen.flatten(seen.dim() - event).any(-1) if event else seen
    _refuse(site, ~inside & visible, f"values within {support}")


def _all_inside(support: constraints.Constraint, value: Tensor) -> bool:
    """Tell whether every value is allowed in every state; slice by slice where the bounds are the same in all rows."""
    if support in (constraints.real, constraints.real_vector):
        return True
    support, bounds = _slim(support)
    batch = value.dim() - support.event_dim
    if batch <= 0 or any(not isinstance(b, (int, float)) and getattr(b, "shape", None) != () for b in bounds):
        return bool(support.check(value).all())
    longest = max(range(batch), key=lambda axis: value.shape[axis])
    return all(bool(support.check(part).all()) for part in value.split(SLICE, longest))


def _slim(support: Any) -> tuple[Any, list[Any]]:
    """Return the same support with bounds that are one number as that number, and its bounds."""
    slim = copy(support)
    if isinstance(support, constraints.independent):
        slim.base_constraint, bounds = _slim(support.base_constraint)
        return slim, bounds
    for name, bound in vars(support).items():
        if isinstance(bound, Tensor) and unexpand(bound).numel() == 1:
            setattr(slim, name, unexpand(bound).reshape(()))
    return slim, list(vars(slim).values())


def _check_shape(site: Site, plates: Mapping[str, int]) -> None:
    """Raise where a batch dimension of a value is not that of a plate, of its size."""
    if not site.value.numel():
        raise DataError(f'Site "{site.name}": expected data, got shape {tuple(site.value.shape)}. Pass some.')
    batch = site.value.dim() - site.fn.event_dim  # type: ignore[attr-defined]
    got = site.value.shape[: max(0, batch)]
    want = [plates.get(site.dims.get(i - batch, ""), 1) for i in range(len(got))]
    if any(size not in (1, have) for size, have in zip(got, want, strict=True)):
        within = ", ".join(f'"{name}" ({plates[name]})' for name in site.plates) or "none"
        raise ModelError(
            f'Site "{site.name}": expected a batch that its plates broadcast to, got {tuple(got)} within plates '
            f'{within}. Enclose it in pyro.plate("data", {max(got)}) or call .to_event({batch}).'
        )


def _check_sequences(site: Site) -> None:
    """Raise where a `DiscreteHMM` with a mask has a sequence without a step to look at."""
    law = getattr(unwrap(site.fn).base, "observation_dist", None)
    inner = None if law is None else unwrap(law)
    if inner is not None and inner.mask is not None and inner.mask.dim() > 2 + inner.event_rank:
        empty = ~inner.mask.flatten(-2 - inner.event_rank).any(-1)  # over steps, states and coordinates
        if bool(empty.any()):
            raise DataError(
                f'Site "{site.name}": expected at least one step in every sequence, got none at index '
                f"{tuple(int(i) for i in empty.nonzero()[0])}. Leave the sequence out."
            )


def _refuse(site: Site, bad: Tensor, expected: str) -> None:
    """Raise if any entry is bad, and name the first."""
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        value = site.value[index] if len(index) == site.value.dim() else site.value
        got = f"{value.item()}" if value.numel() == 1 else f"{value.flatten()[:6].tolist()}"
        raise DataError(
            f'Site "{site.name}": expected {expected}, got {got} at index {index}. Remove it, or leave it out by '
            f"fn.mask(observed)."
        )
