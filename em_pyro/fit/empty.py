"""States that have lost their rows: an ending that is no maximum."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..e_step.expectation import Expectation
from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..program.named import unexpand
from ..program.unroll import STATE
from ..reading.predictor import Affine, adjoint
from .problem import Problem

EMPTY = 1e-8  # of the rows


def emptied(problem: Problem, found: Expectation) -> str:
    """Say which row of a parameter has next to no weight in its cells, all sites together; empty if none."""
    engine = problem.engine
    states = set(engine.program.latents) | {name + STATE for name in engine.inner}
    totals: dict[tuple[str, ...], Tensor] = {}
    for name, factor in engine.leaders.items():
        latents = [n for n in factor.cells if n in states]
        if factor.role != "observed" or not latents or not factor.parameters:
            continue
        weight = _weight(factor, found.sums[name])
        affine = {key: role.affine for key, role in factor.roles.items() if role.affine is not None}
        if affine:
            where = _unused(factor, weight, affine)
            if where:
                return where
            latents = _selected(factor, latents)
        if latents:
            drop = tuple(i for i, n in enumerate(factor.cells) if n not in latents)
            weight = weight.sum(drop) if drop else weight
            key = (*sorted(factor.parameters), *(str(engine.sizes[n]) for n in latents))
            totals[key] = totals[key] + weight if key in totals else weight
    for key, weight in totals.items():
        small = weight <= EMPTY * weight.sum()
        if bool(small.any()):
            state = tuple(int(i) for i in small.nonzero()[0])
            return f"parameters {[k for k in key if not k.isdigit()]}: state {state} has no rows left"
    return ""


def _weight(factor: SiteFactor, sums: Sums) -> Tensor:
    """The weight of every cell of one start."""
    parts = [part.squeeze(0) for part in sums.parts]
    counted = [parts[k] for k in sorted(factor.family.counting)] or parts  # others have a unit of their own
    each = (part.abs().reshape((*part.shape[: len(factor.cells)], -1)).sum(-1) for part in counted)
    return sum(each, torch.zeros((), dtype=torch.float64))


def _selected(factor: SiteFactor, latents: list[str]) -> list[str]:
    """The latents by which a site with predictors selects arguments as well."""
    varying = [unexpand(role.index) for role in factor.roles.values() if role.affine is None]
    return [n for n in latents if any(index.shape[factor.cells.index(n)] > 1 for index in varying)]


def _unused(factor: SiteFactor, weight: Tensor, affines: Mapping[str, Affine]) -> str:
    """Name an entry of a predictor in whose cells there is next to no weight; one that states share has that of all."""
    for key, affine in affines.items():
        dims = (*weight.shape, *(1,) * (affine.offset.dim() - weight.dim()))
        ones = affine.changed(lambda part, slots: (part != 0).double() if slots and part.is_floating_point() else part)
        used = adjoint(ones, weight.reshape((1, *dims)), len(affine.entries))[0]
        small = (used <= EMPTY * weight.sum()).nonzero()
        if len(small):
            name, entry = affine.entries[int(small[0])]
            return f'site "{factor.name}": entry {entry} of "{name}" has no rows left in "{key}"'
    return ""
