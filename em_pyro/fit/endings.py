"""How a fit may end, and the endings that are no maximum: a scale that collapses, a state that empties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pyro.distributions as dist
import torch
from torch import Tensor

from ..e_step.engine import Engine, Expectation
from ..e_step.sites.centring import FARTHEST, can_be_centred, reach
from ..e_step.sites.site_factor import Term
from ..m_step.plan import Plan
from ..program.data import seen_values
from ..program.named import Params, unexpand, unwrap
from ..program.program import Site
from ..program.unroll import STATE
from ..reading.bank import gather
from ..reading.predictor import Affine, adjoint

DEGENERATE = 1e-6  # of the pooled scale
SPIKE = 1e10  # concentration at which all values are one
POOLED = 10_000  # rows that are enough to know a spread by
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
    "impossible start": "Some row is impossible there, or the objective is not finite: use other starts.",
    "screened out": "Others were higher after the first steps; screen=False follows every start to its end.",
    "interrupted": "The fit was interrupted; these are the best values so far.",
}

BAD = ("degenerate", "empty state", "prior unbounded", "impossible start", "screened out")
"""Endings that are no maximum."""


def bad_ending(engine: Engine, plan: Plan, params: Params, found: Expectation) -> list[str]:
    """`[outcome, note]` if a scale has collapsed or a state is empty, else nothing."""
    where = collapsed(engine, plan, params)
    if where:
        return ["degenerate", where]
    empty = _empty(engine, found)
    return ["empty state", empty] if empty else []


@torch.no_grad()
def scales(engine: Engine, params: Params, lead: int = 0) -> tuple[Tensor, Tensor]:
    """How small the scales are, without looking at them; infinite where there are none.

    Returns:
        The smallest scale in units of the pooled one of its site; and how well the form of the engine keeps all digits:
        below 1 that of `sites/centring.py`, or all features, must take over. Shapes (starts).
    """
    bound, relative, digits = engine.bind(params, lead), list[Tensor](), list[Tensor]()
    digits += [features.digits(bound) for features in engine.leaning]
    for term, role, pooled, least in watched(engine):
        atoms = bound.matrices if role == "scale_tril" else bound.entries
        roots = _roots(gather(term.roles[role], atoms, bound.params, lead), role)
        relative.append(_least(roots / pooled, lead))
        if least is not None:
            digits.append(_least(roots / least, lead))
    return _least_of(relative, params, lead), _least_of(digits, params, lead)


def _least(part: Tensor, lead: int) -> Tensor:
    return part.flatten(lead).amin(-1) if lead else part.amin()


def _least_of(parts: list[Tensor], params: Params, lead: int) -> Tensor:
    if not parts:
        some = next(iter(params.values()))
        return _infinite(some.device).expand(some.shape[:lead]) if lead else _infinite(some.device)
    return parts[0] if len(parts) == 1 else torch.stack(parts).amin(0)


@cache
def _infinite(device: torch.device) -> Tensor:
    return torch.tensor(torch.inf, dtype=torch.float64, device=device)


def collapsed(engine: Engine, plan: Plan, params: Params) -> str:
    """Say which scale has shrunk to nothing beside the spread of its site; empty if none has."""
    bound = engine.bind(params)
    for term, role, pooled, _ in watched(engine):
        small = _roots(term.arguments(bound)[role], role) < DEGENERATE * pooled
        if bool(small.any()):
            return f'site "{term.name}": {role} collapsed at {_cell(term, small)}'
    for term in engine.leaders.values():
        if term.role == "observed" and "concentration" in term.roles and not term.roles["concentration"].known:
            large = term.arguments(bound)["concentration"] > SPIKE
            if bool(large.any()):
                return f'site "{term.name}": concentration runs to infinity at {_cell(term, large)}'
    return _replay_collapsed(engine, params) if _replayed_scales(engine) else ""


def _cell(term: Term, wrong: Tensor) -> str:
    """The first cell with something wrong."""
    cell = tuple(int(i) for i in wrong.nonzero()[0][: len(term.cells)])
    return ", ".join(f"{n}={i}" for n, i in zip(term.cells, cell, strict=False)) or "all rows"


def _replay_collapsed(engine: Engine, params: Params) -> str:
    """The same for sites that are replayed, and for priors whose scale is a parameter: the model is run.

    The unit of an observed site is the spread of its values; that of a prior, whose values shrink with it, the scale
    that it started from.
    """
    with torch.no_grad():
        sites = engine.program.run(params)
    for name, unit in _replayed_scales(engine).items():
        scale = _scale(sites[name])
        if scale is not None and bool((scale < DEGENERATE * unit).any()):
            kind = "prior" if sites[name].role == "prior" else "site"
            return f'{kind} "{name}": its scale collapsed'
    return ""


def watched(engine: Engine) -> list[tuple[Term, str, Tensor, Tensor | None]]:
    """Sites whose scale may collapse, and its role there; the pooled scale, and the least that one centre can do."""
    if "watched" not in engine.__dict__:
        found = []
        for term in engine.leaders.values():
            role = "scale" if "scale" in term.roles else "scale_tril" if "scale_tril" in term.roles else None
            known = role is None or term.role != "observed" or term.roles[role].known
            together = [engine.terms.get(n, term) for n in engine.members[term.name]]
            if role is not None and not known:
                pooled = pooled_scale(term, together)
                one_centre = can_be_centred(term) and not term.centred and term.value.names
                found.append((term, role, pooled, reach(term).amax() / FARTHEST if one_centre else None))
        object.__setattr__(engine, "watched", found)
    return engine.__dict__["watched"]


def _roots(scale: Tensor, role: str) -> Tensor:
    return scale if role == "scale" else scale.diagonal(dim1=-2, dim2=-1)


def _replayed_scales(engine: Engine) -> dict[str, float]:
    """Replayed sites and priors with a scale that a parameter enters, each with its unit."""
    if "replayed_scales" not in engine.__dict__:
        names = [n for n in engine.moving if n not in engine.program.latents]
        names += [name for name, prior in engine.priors.items() if prior.fn is None]
        found: dict[str, float] = {}
        initial = {n: p.initial.double() for n, p in engine.program.parameters.items()}
        with torch.no_grad():
            start = engine.program.run(initial) if names else {}
        for name in names:
            scale = _scale(start[name])
            if scale is None or not _varies(engine, name):
                continue
            value = start[name].value.double()[seen_values(start[name])]
            unit = float(scale.min()) if start[name].role == "prior" else float(value.std(correction=0))
            if unit > 0:
                found[name] = unit
        object.__setattr__(engine, "replayed_scales", found)
    return dict(engine.__dict__["replayed_scales"])


def _varies(engine: Engine, name: str) -> bool:
    """Whether the scale of a site differs between probes."""
    scales = [_scale(run[name]) for run in engine.recognition.runs]
    return any(s is not None and scales[0] is not None and not torch.equal(s, scales[0]) for s in scales[1:])


def _scale(site: Site) -> Tensor | None:
    """The scale of a site's distribution, or the roots of its covariance; None if it has none."""
    base = unwrap(site.fn).base
    root = getattr(base, "_unbroadcasted_scale_tril", None)
    scale = getattr(base, "scale", None) if root is None else root.diagonal(dim1=-2, dim2=-1)
    return scale.detach().double() if isinstance(scale, Tensor) and not isinstance(base, dist.LogNormal) else None


def pooled_scale(term: Term, members: Sequence[Term] = ()) -> Tensor:
    """Standard deviation of a site's values over all rows, by event; where they do not vary, their size (or one).

    `members` are the sites that are one function with it: the steps of a loop.
    """
    if "pooled" not in term.__dict__:
        together = members or (term,)
        many = sum(one.value.tensor.shape[: len(one.value.names)].numel() for one in together)
        parts = [_thinned(one, max(1, many // POOLED)) for one in together]
        values = (parts[0] if len(parts) == 1 else torch.cat(parts)).double()
        if term.family.location is None and "loc" in term.family.roles:  # the scale of a logarithm
            values = values.clamp(min=0).log()
        values = torch.where(torch.isfinite(values), values, torch.nan)
        size = values.nan_to_num(0.0).abs().amax(0)
        deviation = (values - values.nanmean(0)).square().nanmean(0).nan_to_num(0.0).sqrt()
        deviation = torch.where(deviation > 1e-14 * size, deviation, torch.where(size > 0, size, 1.0))
        object.__setattr__(term, "pooled", deviation)
    pooled: Tensor = term.__dict__["pooled"]
    return pooled


def _thinned(term: Term, stride: int) -> Tensor:
    """One in `stride` of a site's values, rows first, and nan where they are not seen."""
    value, seen = term.value.tensor, term.seen
    rows = value.shape[: len(term.value.names)]
    if rows:
        chosen = torch.unravel_index(torch.arange(0, rows.numel(), stride), rows)
        value, seen = value[chosen], None if seen is None else seen[chosen]
    value = value if seen is None else torch.where(seen, value, torch.nan)
    return value if rows else value.unsqueeze(0)


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
    states = set(engine.program.latents) | {name + STATE for name in engine.hmms}
    for name, term in engine.leaders.items():
        latents = [n for n in term.cells if n in states]
        if term.role != "observed" or not latents or not term.parameters:
            continue
        parts = term.split(found.statistics[name])
        parts = tuple(parts[k] for k in sorted(term.family.counting)) or parts  # others have a unit of their own
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
        key = (*sorted(term.parameters), *(str(engine.sizes[n]) for n in latents))
        totals[key] = totals[key] + weight if key in totals else weight
    for key, weight in totals.items():
        small = weight <= EMPTY * weight.sum()
        if bool(small.any()):
            state = tuple(int(i) for i in small.nonzero()[0])
            return f"parameters {[k for k in key if not k.isdigit()]}: state {state} has no rows left"
    return ""
