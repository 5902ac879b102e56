"""How a fit may end, and the endings that are no maximum: a scale that collapses, a state that empties."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .engine import Engine, Expectation
from .named import unexpand
from .plan import Plan
from .predictor import Affine, adjoint
from .term import Term

Params = Mapping[str, Tensor]

DEGENERATE = 1e-6  # of the pooled scale
POOLED = 100_000  # rows that are enough to know a spread by
EMPTY = 1e-8  # of the rows

OUTCOMES = {
    "converged": "The estimated remaining gain is below tol, and a small disturbance led nowhere higher.",
    "step limit": "max_steps was reached before the objective settled: raise max_steps, or use acceleration.",
    "stopped": "The callback returned True.",
    "degenerate": "A scale collapsed onto a few rows, where the likelihood has no maximum: give it a prior, tie the "
    "scales, use fewer components or other starts.",
    "empty state": "A state has lost all its rows: use fewer states or other starts.",
    "prior unbounded": "The prior's density is unbounded at the boundary to which the update would go: use a shape of "
    "at least 1, or other starts.",
    "interrupted": "The fit was interrupted; these are the best values so far.",
}


def bad_ending(engine: Engine, plan: Plan, params: Params, found: Expectation) -> list[str]:
    """`[outcome, note]` if a scale has collapsed or a state is empty, else nothing."""
    where = collapsed(engine, plan, params)
    if where:
        return ["degenerate", where]
    empty = _empty(engine, found)
    return ["empty state", empty] if empty else []


def collapsed(engine: Engine, plan: Plan, params: Params) -> str:
    """Say which scale has shrunk to nothing beside the spread of its site; empty if none has."""
    bound = engine.bind(params)
    for term in engine.leaders.values():
        role = "scale" if "scale" in term.roles else "scale_tril" if "scale_tril" in term.roles else None
        if role is None or term.role != "observed" or term.roles[role].known:
            continue
        pooled = pooled_scale(term)
        if pooled is None:
            continue
        scale = term.arguments(bound)[role]
        roots = scale if role == "scale" else scale.diagonal(dim1=-2, dim2=-1)
        small = roots < DEGENERATE * pooled
        if bool(small.any()):
            cell = tuple(int(i) for i in small.nonzero()[0][: len(term.cells)])
            where = ", ".join(f"{n}={i}" for n, i in zip(term.cells, cell, strict=False)) or "all rows"
            return f'site "{term.name}": {role} collapsed at {where}'
    return ""


def pooled_scale(term: Term) -> Tensor | None:
    """Standard deviation of a site's values over all rows, by event; None where they do not vary."""
    if "pooled" not in term.__dict__:
        rows = len(term.value.names)
        values = term.value.tensor.flatten(0, rows - 1) if rows else term.value.tensor.unsqueeze(0)
        values = values[:: max(1, len(values) // POOLED)].double()
        if term.family.location is None and "loc" in term.family.roles:  # the scale of a logarithm
            values = values.clamp(min=0).log()
        values = torch.where(torch.isfinite(values), values, 0.0)
        deviation = values.std(0, correction=0)
        object.__setattr__(term, "pooled", deviation if bool((deviation > 0).all()) else None)
    return term.__dict__["pooled"]


def _unused(term: Term, weight: Tensor, affines: Mapping[str, Affine]) -> str:
    """An entry of a predictor in whose cells there is next to no weight; one that states share has that of all."""
    for key, affine in affines.items():
        dims = (*weight.shape, *(1,) * (affine.offset.dim() - weight.dim()))
        ones = affine.changed(lambda part, slots: (part != 0).double() if slots and part.is_floating_point() else part)
        used = adjoint(ones, weight.reshape((1, *dims)), len(affine.entries))[0]
        small = (used <= EMPTY * weight.sum()).nonzero()
        if len(small):
            name, entry = affine.entries[int(small[0])]
            return f'site "{term.name}": entry {entry} of "{name}" has no rows left in "{key}"'
    return ""


def _empty(engine: Engine, found: Expectation) -> str:
    """A parameter row whose cells have next to no weight, all sites together."""
    totals: dict[tuple[str, ...], Tensor] = {}
    for name, term in engine.leaders.items():
        latents = [n for n in term.cells if n in engine.program.latents]
        if term.role != "observed" or not latents or not term.parameters:
            continue
        parts = term.split(found.statistics[name])
        weight = sum(p.abs().reshape((*p.shape[: len(term.cells)], -1)).sum(-1) for p in parts)
        affine = {key: role.affine for key, role in term.roles.items() if role.affine is not None}
        if affine:
            where = _unused(term, torch.as_tensor(weight), affine)
            if where:
                return where
            varying = [unexpand(role.index) for role in term.roles.values() if role.affine is None]
            latents = [n for n in latents if any(index.shape[term.cells.index(n)] > 1 for index in varying)]
            if not latents:
                continue
        drop = tuple(i for i, n in enumerate(term.cells) if n not in latents)
        weight = torch.as_tensor(weight).sum(drop) if drop else torch.as_tensor(weight)
        key = (*sorted(term.parameters), *(str(engine.program.latents[n].size) for n in latents))
        totals[key] = totals[key] + weight if key in totals else weight
    for key, weight in totals.items():
        small = weight <= EMPTY * weight.sum()
        if bool(small.any()):
            state = tuple(int(i) for i in small.nonzero()[0])
            return f"parameters {[k for k in key if not k.isdigit()]}: state {state} has no rows left"
    return ""
