"""How small the scales of a program are beside the spread of its data: what a collapse is measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pyro.distributions as dist
import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.sites.centring import scales
from ..e_step.sites.site_factor import SiteFactor
from ..program.masks import seen_values
from ..program.named import Params, unwrap
from ..program.site import Site
from ..reading.bound import Bound

DEGENERATE = 1e-6  # of the pooled scale
SPIKE = 1e10  # concentration at which all values are one
POOLED = 10_000  # rows that are enough to know a spread by


@dataclass(frozen=True)
class Watched:
    """A site whose scale may collapse.

    Attributes:
        factor: of the site.
        role: "scale" or "scale_tril".
        pooled: standard deviation of its values over all rows, by event.
    """

    factor: SiteFactor
    role: str
    pooled: Tensor = field(repr=False)

    def roots(self, bound: Bound) -> Tensor:
        """Return the scales of every cell at `bound`, or the roots of its covariance."""
        return scales(self.factor, bound)


@dataclass(frozen=True)
class Scales:
    """Everything in a program that may shrink to nothing, each with its unit."""

    engine: Engine = field(repr=False)

    @cached_property
    def watched(self) -> tuple[Watched, ...]:
        """Sites with a location or a logarithm of one, whose scale is no constant."""
        found = []
        for factor in self.engine.leaders.values():
            role = "scale" if "scale" in factor.roles else "scale_tril" if "scale_tril" in factor.roles else None
            if role is not None and factor.role == "observed" and not factor.roles[role].known:
                together = [self.engine.sites.get(n, factor) for n in self.engine.members[factor.name]]
                found.append(Watched(factor, role, pooled_scale(together)))
        return tuple(found)

    @cached_property
    def _spikes(self) -> tuple[SiteFactor, ...]:
        """Sites whose concentration may run to infinity."""
        factors = [factor for factor in self.engine.leaders.values() if factor.role == "observed"]
        return tuple(f for f in factors if "concentration" in f.roles and not f.roles["concentration"].known)

    def narrowest(self, bound: Bound) -> list[Tensor]:
        """Return the scales of every watched site in units of its pooled one, (starts) + cells + events."""
        return [one.roots(bound) / one.pooled for one in self.watched]

    def collapsed(self, bound: Bound) -> str:
        """Say which scale has shrunk to nothing beside the spread of its site; empty if none has."""
        for one in self.watched:
            small = (one.roots(bound) < DEGENERATE * one.pooled).squeeze(0)
            if bool(small.any()):
                return f'site "{one.factor.name}": {one.role} collapsed at {_cell(one.factor, small)}'
        for factor in self._spikes:
            large = (factor.arguments(bound)["concentration"] > SPIKE).squeeze(0)
            if bool(large.any()):
                return f'site "{factor.name}": concentration runs to infinity at {_cell(factor, large)}'
        return ""

    # ---- sites that are replayed ----

    @cached_property
    def replayed(self) -> dict[str, float]:
        """Replayed sites and priors with a scale that a parameter enters, each with its unit.

        The unit of an observed site is the spread of its values; that of a prior, whose values shrink with it, the
        scale that it started from.
        """
        engine = self.engine
        names = [n for n in engine.moving if n not in engine.program.latents]
        names += [name for name, prior in engine.priors.items() if prior.fn is None]
        found: dict[str, float] = {}
        initial = {n: p.initial.double() for n, p in engine.program.parameters.items()}
        with torch.no_grad():
            start = engine.program.run(initial) if names else {}
        for name in names:
            scale = _scale(start[name])
            if scale is None or not self._varies(name):
                continue
            value = start[name].value.double()[seen_values(start[name])]
            unit = float(scale.min()) if start[name].role == "prior" else float(value.std(correction=0))
            if unit > 0:
                found[name] = unit
        return found

    def _varies(self, name: str) -> bool:
        """Whether the scale of a site differs between probes."""
        scales = [_scale(run[name]) for run in self.engine.recognition.runs]
        return any(s is not None and scales[0] is not None and not torch.equal(s, scales[0]) for s in scales[1:])

    def replay_collapsed(self, params: Params) -> str:
        """Say the same of sites that are replayed, and of priors whose scale is a parameter: the model is run."""
        if not self.replayed:
            return ""
        with torch.no_grad():
            sites = self.engine.program.run(params)
        for name, unit in self.replayed.items():
            scale = _scale(sites[name])
            if scale is not None and bool((scale < DEGENERATE * unit).any()):
                kind = "prior" if sites[name].role == "prior" else "site"
                return f'{kind} "{name}": its scale collapsed'
        return ""


def _cell(factor: SiteFactor, wrong: Tensor) -> str:
    """The first cell with something wrong."""
    cell = tuple(int(i) for i in wrong.nonzero()[0][: len(factor.cells)])
    return ", ".join(f"{n}={i}" for n, i in zip(factor.cells, cell, strict=False)) or "all rows"


def _scale(site: Site) -> Tensor | None:
    """The scale of a site's distribution, or the roots of its covariance; None if it has none."""
    base = unwrap(site.fn).base
    root = getattr(base, "_unbroadcasted_scale_tril", None)
    scale = getattr(base, "scale", None) if root is None else root.diagonal(dim1=-2, dim2=-1)
    return scale.detach().double() if isinstance(scale, Tensor) and not isinstance(base, dist.LogNormal) else None


def pooled_scale(members: Sequence[SiteFactor]) -> Tensor:
    """Return the standard deviation over all rows of the values of `members`, by event.

    Of values that do not vary it is their size (or one). `members` are sites of one function: the steps of a loop.
    """
    many = sum(one.data.value.tensor.shape[: len(one.data.value.names)].numel() for one in members)
    parts = [_thinned(one, max(1, many // POOLED)) for one in members]
    values = (parts[0] if len(parts) == 1 else torch.cat(parts)).double()
    family = members[0].family
    if family.location is None and "loc" in family.roles:  # the scale of a logarithm
        values = values.clamp(min=0).log()
    values = torch.where(torch.isfinite(values), values, torch.nan)
    size = values.nan_to_num(0.0).abs().amax(0)
    deviation = (values - values.nanmean(0)).square().nanmean(0).nan_to_num(0.0).sqrt()
    return torch.where(deviation > 1e-14 * size, deviation, torch.where(size > 0, size, 1.0))


def _thinned(factor: SiteFactor, stride: int) -> Tensor:
    """One in `stride` of a site's values, rows first, and nan where they are not seen."""
    value, seen = factor.data.value.tensor, factor.data.seen
    rows = value.shape[: len(factor.data.value.names)]
    if rows:
        chosen = torch.unravel_index(torch.arange(0, rows.numel(), stride), rows)
        value, seen = value[chosen], None if seen is None else seen[chosen]
    value = value if seen is None else torch.where(seen, value, torch.nan)
    return value if rows else value.unsqueeze(0)
