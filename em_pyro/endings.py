"""How a fit may end, and the endings that are no maximum: a scale that collapses, a state that empties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .centred import FARTHEST, can_be_centred, reach
from .engine import Engine, Expectation
from .plan import Plan
from .term import Term
from .unroll import STATE

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
    "screened out": "Others were higher after the first steps; screen=False follows every start to its end.",
    "interrupted": "The fit was interrupted; these are the best values so far.",
}


def bad_ending(engine: Engine, plan: Plan, params: Params, found: Expectation) -> list[str]:
    """`[outcome, note]` if a scale has collapsed or a state is empty, else nothing."""
    where = collapsed(engine, plan, params)
    if where:
        return ["degenerate", where]
    empty = _empty(engine, found)
    return ["empty state", empty] if empty else []


def scales(engine: Engine, params: Params, lead: int = 0) -> tuple[Tensor, Tensor]:
    """How small the scales are, without looking at them; infinite where there are none.

    Returns:
        The smallest scale in units of the pooled one of its site, and in units of the smallest that keeps all digits
        around one centre (below 1 the form of `centred.py` must take over); shapes (starts).
    """
    bound, relative, digits = engine.bind(params, lead), list[Tensor](), list[Tensor]()
    for term, role, pooled, least in watched(engine):
        roots = _roots(term.arguments(bound)[role], role)
        relative.append(_least(roots / pooled, lead))
        if least is not None:
            digits.append(_least(roots / least, lead))
    return _least_of(relative, params, lead), _least_of(digits, params, lead)


def _least(part: Tensor, lead: int) -> Tensor:
    return part.flatten(lead).amin(-1) if lead else part.amin()


def _least_of(parts: list[Tensor], params: Params, lead: int) -> Tensor:
    if not parts:
        return torch.full(next(iter(params.values())).shape[:lead], torch.inf, dtype=torch.float64)
    return parts[0] if len(parts) == 1 else torch.stack(parts).amin(0)


def collapsed(engine: Engine, plan: Plan, params: Params) -> str:
    """Say which scale has shrunk to nothing beside the spread of its site; empty if none has."""
    bound = engine.bind(params)
    for term, role, pooled, _ in watched(engine):
        small = _roots(term.arguments(bound)[role], role) < DEGENERATE * pooled
        if bool(small.any()):
            cell = tuple(int(i) for i in small.nonzero()[0][: len(term.cells)])
            where = ", ".join(f"{n}={i}" for n, i in zip(term.cells, cell, strict=False)) or "all rows"
            return f'site "{term.name}": {role} collapsed at {where}'
    return ""


def watched(engine: Engine) -> list[tuple[Term, str, Tensor, Tensor | None]]:
    """Sites whose scale may collapse, and its role there; the pooled scale, and the least that one centre can do."""
    if "watched" not in engine.__dict__:
        found = []
        for term in engine.leaders.values():
            role = "scale" if "scale" in term.roles else "scale_tril" if "scale_tril" in term.roles else None
            known = role is None or term.role != "observed" or term.roles[role].known
            together = [engine.terms.get(n, term) for n in engine.members[term.name]]
            pooled = None if known else pooled_scale(term, together)
            if role is not None and pooled is not None:
                one_centre = can_be_centred(term) and not term.centred and term.value.names
                found.append((term, role, pooled, reach(term).amax() / FARTHEST if one_centre else None))
        object.__setattr__(engine, "watched", found)
    return engine.__dict__["watched"]


def _roots(scale: Tensor, role: str) -> Tensor:
    return scale if role == "scale" else scale.diagonal(dim1=-2, dim2=-1)


def pooled_scale(term: Term, members: Sequence[Term] = ()) -> Tensor | None:
    """Standard deviation of a site's values over all rows, by event; None where they do not vary.

    `members` are the sites that are one function with it: the steps of a loop.
    """
    if "pooled" not in term.__dict__:
        parts = []
        for one in members or (term,):
            rows = len(one.value.names)
            parts.append(one.value.tensor.flatten(0, rows - 1) if rows else one.value.tensor.unsqueeze(0))
        values = parts[0] if len(parts) == 1 else torch.cat(parts)
        values = values[:: max(1, len(values) // POOLED)].double()
        if term.family.location is None and "loc" in term.family.roles:  # the scale of a logarithm
            values = values.clamp(min=0).log()
        values = torch.where(torch.isfinite(values), values, 0.0)
        deviation = values.std(0, correction=0)
        object.__setattr__(term, "pooled", deviation if bool((deviation > 0).all()) else None)
    return term.__dict__["pooled"]


def _empty(engine: Engine, found: Expectation) -> str:
    """A parameter row whose cells have next to no weight, all sites together."""
    totals: dict[tuple[str, ...], Tensor] = {}
    states = set(engine.program.latents) | {name + STATE for name in engine.hmms}
    for name, term in engine.leaders.items():
        latents = [n for n in term.cells if n in states]
        if term.role != "observed" or not latents or not term.parameters:
            continue
        parts = term.split(found.statistics[name])
        weight = sum(p.abs().reshape((*p.shape[: len(term.cells)], -1)).sum(-1) for p in parts)
        drop = tuple(i for i, n in enumerate(term.cells) if n not in latents)
        weight = torch.as_tensor(weight).sum(drop) if drop else torch.as_tensor(weight)
        key = (*sorted(term.parameters), *(str(engine.sizes[n]) for n in latents))
        totals[key] = totals[key] + weight if key in totals else weight
    for key, weight in totals.items():
        small = weight <= EMPTY * weight.sum()
        if bool(small.any()):
            state = tuple(int(i) for i in small.nonzero()[0])
            return f"parameters {[k for k in key if not k.isdigit()]}: state {state} has no rows left"
    return ""
