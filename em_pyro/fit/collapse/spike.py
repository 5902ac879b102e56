"""Densities that draw together onto a value, judged by the density itself: no argument of it need be a scale."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ...e_step.engine import Engine
from ...program.data.check import allowed
from ...program.data.supports import support_of
from ...program.masks import seen_values
from ...program.named import Params, listed, unwrap
from ...program.site import Site, unvalidated
from ...records.frozen import frozen
from .narrow import DEGENERATE, unit, width

SHARP = 1e-4  # of the size of equal values: a density as narrow as this is on its way to them
BEGUN = 0.3  # of the size: a density as narrow as this has begun to draw together
DROP = 0.5  # nats that a density falls at a distance beside a value, on either side, where it is narrower than that


@frozen
class Shapes:
    """Observed sites of continuous values, and how narrow the laws of those are that have no scale.

    Attributes:
        engine: of the program.
    """

    engine: Engine = field(repr=False)

    @cached_property
    def lengths(self) -> dict[str, float]:
        """A length that is nothing beside the values of a site, by the sites of numbers whose laws have no scale.

        It is that at which scales have collapsed; of equal values, a part of their size.
        """
        found = dict[str, float]()
        for name, site in self.engine.full.recognition.runs[0].items():
            support = _support(site)
            if support is not None and (support.event_dim == 0 or _is_simplex(support)) and width(site) is None:
                values = site.value.detach().double()[seen_values(site)]
                if values.numel():
                    length = SHARP * _size(site) if _are_equal(site) else DEGENERATE * float(unit(values))
                    if not _is_narrower(site, length):  # else it has atoms, whatever its parameters are
                        found[name] = length
        return found

    def collapsed(self, params: Params) -> str:
        """Say which law is nothing but a spike on some row; empty if none is. The model is run."""
        if not self.lengths:
            return ""
        with torch.no_grad():
            return self.spiked(self.engine.program.run(params), list(self.lengths))

    def spiked(self, sites: Mapping[str, Site], names: Sequence[str]) -> str:
        """Say the same of some of the sites in a run."""
        for name in names:
            if _is_narrower(sites[name], self.lengths[name]):
                entering = sorted(self.engine.full.recognition.reaches.get(name, frozenset()))
                which = f", as {listed(entering)} run off" if entering else ""
                return (
                    f'site "{name}": its density draws together onto one value and rises for ever{which}; give its '
                    f"parameters a prior, or use fewer components"
                )
        return ""

    def of_equal_values(self, params: Params, names: Collection[str]) -> str:
        """Return a site all rows of which have one value, and which one of `names` enters, if there are any.

        Its density has no bound where its law can draw together; of `names`, where it has begun to.
        """
        recognition = self.engine.full.recognition
        with torch.no_grad():
            sites = self.engine.program.run(params) if names else {}
        for name, site in recognition.runs[0].items():
            atoms = width(site) is None and site.fn.event_dim == 0 and name not in self.lengths  # type: ignore[attr-defined]
            if _support(site) is not None and not atoms and _are_equal(site):
                enters = not recognition.reaches.get(name, frozenset()).isdisjoint(names)
                if not names or (enters and _is_narrower(sites.get(name, site), BEGUN * _size(site))):
                    return name
        return ""


def _support(site: Site) -> Any:
    """Return the support of an observed site of continuous values; None of others."""
    if site.role != "observed" or not site.value.is_floating_point() or not site.value.numel():
        return None
    support = support_of(unwrap(site.fn).base)
    return None if support is None or support.is_discrete else support


def _size(site: Site) -> float:
    """Return the largest value of a site that is seen; one where all are zero."""
    return float(site.value.detach().double()[seen_values(site)].abs().max()) or 1.0


def _is_simplex(support: Any) -> bool:
    return isinstance(support, type(constraints.simplex))


def _are_equal(site: Site) -> bool:
    """Whether all rows of a site that are seen have one value."""
    event: int = site.fn.event_dim  # type: ignore[attr-defined]
    value, visible = site.value.detach(), seen_values(site)
    rows = value.flatten(value.dim() - event) if event else value.unsqueeze(-1)
    seen = visible.flatten(visible.dim() - event).all(-1) if event else visible
    rows = rows[seen]
    return len(rows) > 1 and bool((rows == rows[0]).all())


def _is_narrower(site: Site, length: float) -> bool:
    """Whether the density falls on both sides of some row within `length`; of a simplex, within that part."""
    here = unvalidated(site.fn, site.value)
    highest = torch.stack(torch.broadcast_tensors(*_beside(site, length))).amax(0)
    visible = seen_values(site)
    event: int = site.fn.event_dim  # type: ignore[attr-defined]
    seen = visible.flatten(visible.dim() - event).all(-1) if event else visible
    return bool(((here - highest > DROP) & torch.isfinite(here) & seen & _inside(site, site.value.detach())).any())


def _beside(site: Site, length: float) -> list[Tensor]:
    """Return the log-density on both sides of every value, minus infinity where nothing may be."""
    value, support = site.value.detach(), _support(site)
    if _is_simplex(support):
        tilt = torch.linspace(-length, length, value.shape[-1], dtype=value.dtype)
        moved = [value * (sign * tilt).exp() for sign in (1, -1)]
        moved = [rows / rows.sum(-1, keepdim=True) for rows in moved]
        return [unvalidated(site.fn, rows).nan_to_num(nan=-torch.inf) for rows in moved]
    found = []
    for there in (value + length, value - length):
        density = torch.where(_inside(site, there), unvalidated(site.fn, there), -torch.inf)
        found.append(density.nan_to_num(nan=-torch.inf))
    return found


def _inside(site: Site, there: Tensor) -> Tensor:
    """Which rows of some values the support of a site has."""
    event: int = site.fn.event_dim  # type: ignore[attr-defined]
    inside = allowed(_support(site), there)
    return inside.flatten(inside.dim() - event).all(-1) if event and inside.dim() > there.dim() - event else inside
