"""Sites whose scale may shrink to nothing, and the spread of values by which that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import torch
from torch import Tensor

from ...e_step.engine import Engine
from ...e_step.sites.centring import scales
from ...e_step.sites.site_factor import SiteFactor
from ...program.named import unraveled
from ...reading.bound import Bound
from ...records.frozen import frozen
from .narrow import unit

POOLED = 10_000  # rows that are enough to know a spread by


@frozen
class Watched:
    """A site whose scale may collapse.

    Attributes:
        factor: of the site.
        role: "scale" or "scale_tril".
        pooled: spread of its values over all rows, by event.
        members: the sites whose values these are: steps of a loop.
        leaders: those that have statistics of their own, `factor` among them.
    """

    factor: SiteFactor
    role: str
    pooled: Tensor = field(repr=False)
    members: Sequence[SiteFactor] = field(repr=False)
    leaders: Sequence[SiteFactor] = field(repr=False)

    def roots(self, bound: Bound) -> Tensor:
        """Return the scales of every cell at `bound`, or the roots of its covariance."""
        return scales(self.factor, bound)


def watched_in(engine: Engine, samples: Mapping[str, Tensor]) -> tuple[Watched, ...]:
    """Return sites with a location or a logarithm of one, whose scale is no constant.

    A single value has no spread. Sites of one value each, as those of an autoregression are, are measured by all of
    theirs that have the same parameters as scale.
    """
    found, lone = list[Watched](), dict[tuple[str, object], list[SiteFactor]]()
    for factor in engine.leaders.values():
        role = "scale" if "scale" in factor.roles else "scale_tril" if "scale_tril" in factor.roles else None
        if role is None or factor.role != "observed" or factor.roles[role].known:
            continue
        together = [engine.sites.get(n, factor) for n in engine.members[factor.name]]
        if len(together) == 1 and not factor.data.value.names:
            domain = factor.family.roles[role].domain
            parameters = engine.recognition.bank.parameters(factor.roles[role], domain)
            shape = factor.data.value.tensor.shape
            lone.setdefault((role, (id(factor.family), parameters, shape)), []).append(factor)
        else:
            found.append(Watched(factor, role, pooled_scale(together, samples), together, (factor,)))
    for (key, _), sites in lone.items():
        pooled = pooled_scale(sites, samples)
        found += [Watched(some[0], key, pooled, some, some) for some in _of_one_scale(sites, key)]
    return tuple(found)


def _of_one_scale(sites: Sequence[SiteFactor], role: str) -> list[list[SiteFactor]]:
    """Group sites whose cells have the same scales."""
    groups = dict[object, list[SiteFactor]]()
    for factor in sites:
        one = factor.roles[role]
        parts = (one.index, one.coefficient, one.constant)
        key = tuple(None if part is None else (part.shape, *part.flatten().tolist()) for part in parts)
        groups.setdefault(key if one.affine is None else factor.name, []).append(factor)
    return list(groups.values())


def pooled_scale(members: Sequence[SiteFactor], samples: Mapping[str, Tensor]) -> Tensor:
    """Return the spread over all rows of the values of `members`, by event.

    Of values that do not vary it is their size (or one). `members` are sites of one function: the steps of a loop;
    `samples` has values of those that do not hold all of theirs.
    """
    return unit(pooled_values(members, samples))


def pooled_values(members: Sequence[SiteFactor], samples: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return values of `members` where their scale is a length, rows first; nan where there is none."""
    samples = samples or {}
    many = sum(one.data.value.tensor.shape[: len(one.data.value.names)].numel() for one in members)
    parts = [samples[m.name] if m.name in samples else thinned(m, max(1, many // POOLED)) for m in members]
    values = (parts[0] if len(parts) == 1 else torch.cat(parts)).double()
    family = members[0].data.family
    if family.location is None and "loc" in family.roles:  # the scale of a logarithm
        values = values.clamp(min=0).log()
    return torch.where(torch.isfinite(values), values, torch.nan)


def thinned(factor: SiteFactor, stride: int) -> Tensor:
    """One in `stride` of a site's values, rows first, and nan where they are not seen."""
    value, seen = factor.data.value.tensor, factor.data.seen
    rows = value.shape[: len(factor.data.value.names)]
    if rows and stride > 1:
        chosen = unraveled(torch.arange(0, rows.numel(), stride), rows)
        value, seen = value[chosen], None if seen is None else seen[chosen]
    value = value if seen is None else torch.where(seen, value, torch.nan)
    if not rows:
        return value.unsqueeze(0)
    return value if stride > 1 else value.reshape(rows.numel(), *value.shape[len(rows) :])
