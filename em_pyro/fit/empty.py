"""States that have lost their rows: an ending that is no maximum.

Entries of parameters are judged, not states: one without weight is none where its parameters have rows elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from math import prod

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.expectation import Expectation
from ..e_step.second.expansion import counted
from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..families.charts import domain_of
from ..m_step.uses import CHART
from ..program.masks import anywhere
from ..program.named import Named, Params, listed, unraveled
from ..program.unroll import STATE
from ..reading.bank import list_of
from ..reading.predictor import Affine, Piece, adjoint
from .problem import Problem

ROUNDINGS = 1.5  # of one: a probability that is no larger is zero
EMPTY = 1e-8  # of the rows that an entry would have if its states had all of them


def emptied(problem: Problem, found: Expectation) -> str:
    """Say which entry of a parameter has next to no weight in its cells, all sites together; empty if none.

    States that the program itself forbids to meet have lost nothing: what only they would use is not identified.
    """
    engine = problem.engine
    where = _emptied(engine, found, {})
    if where:
        together = {name: latents for name in engine.leaders if len(latents := _latents(engine, name)) > 1}
        if together and (allowed := _allowed(engine, together)):
            where = _emptied(engine, found, allowed)
    return where


def _emptied(engine: Engine, found: Expectation, allowed: Mapping[str, Tensor]) -> str:
    """Say the same, where cells of some sites are `allowed` to have weight, and others not."""
    rows, met, tabled = dict[tuple[str, int], Tensor](), set[str](), frozenset(engine.recognition.tabled)
    for name, factor in engine.leaders.items():
        if factor.role == "observed" and factor.parameters and name not in tabled:
            sums = counted(found.sums[name], factor.cell_shape)
            for key, weights in _entries(engine, factor, sums, met, allowed.get(name)) if sums.parts else ():
                rows[key] = rows[key] + weights if key in rows else weights
    for (name, size), (used, possible) in rows.items():
        small = (possible > 0) & (used <= EMPTY * possible)
        if bool(small.any()):
            shape = engine.program.parameters[name].initial.shape
            entry = unraveled(small.nonzero()[0, 0], shape if shape.numel() == size else (size,))
            return f'entry {tuple(int(i) for i in entry)} of "{name}" has no rows left'
    return ""


def kept_inside(problem: Problem, params: Params) -> str:
    """Name the prior that has let a probability go to zero, as it does not in unconstrained coordinates."""
    program = problem.program
    for name, parameter in program.parameters.items():
        inside = parameter.kind == "prior" and domain_of(parameter.constraint) in ("unit", "simplex")
        if inside and not program.unconstrained and bool((params[name] * (1 - params[name]) <= EMPTY).any()):
            return f'; the prior of "{name}" lets a state have no share, but not in EM(prior_density="unconstrained")'
    return ""


def drawn_seldom(problem: Problem, names: Collection[str] | None = None) -> str:
    """Name a latent that is drawn fewer times than a plate has rows that all hang on the same draw; empty if none is.

    It may be wanted so, as a change point is; but a row that is to have its own is sampled inside of the plate.

    Args:
        problem: the program.
        names: parameters; only latents whose sites, or what is observed of them, have one of these are looked at.
    """
    program, recognition = problem.program, problem.engine.recognition
    observed = {name: site for name, site in recognition.runs[0].items() if site.role == "observed"}
    of = {latent: [n for n in observed if latent in program.upstream.get(n, ())] for latent in program.latents}
    touched = {z: set[str]().union(*(recognition.reaches.get(n, ()) for n in (z, *sites))) for z, sites in of.items()}
    for name, latent in program.latents.items():
        if not of[name] or names is not None and touched[name].isdisjoint(names):
            continue
        shared = set.intersection(*(set(observed[site].plates) for site in of[name])) - {*latent.plates}
        alike = [one for other, one in program.latents.items() if other == name or touched[name] & touched[other]]
        draws = sum(prod(program.plates[plate] for plate in one.plates) for one in alike)
        if shared and draws < (rows := prod(program.plates[plate] for plate in shared)):
            often = "once" if draws == 1 else f"{draws} times"
            which = f"plate{'s' * (len(shared) > 1)} " + listed([f'"{plate}"' for plate in sorted(shared)])
            return (
                f'latent "{name}" is drawn {often}, and {rows} rows of {which} hang on the same draw: if each is to '
                f"have its own, sample it inside of that plate"
            )
    return ""


def _latents(engine: Engine, name: str) -> dict[str, int]:
    """The discrete latents among the cells of a site, each with its axis."""
    states = set(engine.program.latents) | {inner + STATE for inner in engine.inner}
    return {cell: axis for axis, cell in enumerate(engine.leaders[name].cells) if cell in states}


def _allowed(engine: Engine, together: Mapping[str, Mapping[str, int]]) -> dict[str, Tensor]:
    """Return which states of the latents of a site may meet in some row, laid out as its cells; of sites where not all.

    A law that is zero where the program begins is zero for good; torch keeps zero probabilities at one rounding.
    """
    program, found = engine.program, dict[str, Tensor]()
    with torch.no_grad():
        run = program.run({name: parameter.initial for name, parameter in program.parameters.items()})
    laws = [site.log_prob() for site in run.values() if site.role == "latent"]
    for name, latents in together.items():
        may = torch.ones([n if i in latents.values() else 1 for i, n in enumerate(engine.leaders[name].cell_shape)])
        for law in laws:
            both = [one for one in law.names if one in latents]
            if len(both) > 1:
                zero = ROUNDINGS * torch.finfo(law.tensor.dtype).eps
                meet = anywhere(Named(law.tensor.exp() > zero, law.names), both)
                shape = [1] * may.dim()
                for one, size in zip(meet.names, meet.tensor.shape, strict=True):
                    shape[latents[one]] = size
                order = sorted(range(len(both)), key=lambda i: latents[meet.names[i]])
                may = may * meet.tensor.permute(order).reshape(shape)
        if not bool(may.all()):
            found[name] = may
    return found


def _entries(
    engine: Engine, factor: SiteFactor, sums: Sums, met: set[str], allowed: Tensor | None
) -> Iterator[tuple[tuple[str, int], Tensor]]:
    """The weights of one site by the entries that its arguments take.

    Args:
        engine: of the program.
        factor: of the site.
        sums: its statistics.
        met: lists of entries of which all parameters have been named, in their order; it is added to.
        allowed: which of its cells may have weight; None is all.

    Yields:
        A parameter and its number of entries (a matrix is one); and, shape (2, entries), the weight of the cells in
        which each is used, and what that would be if the latents were in these states in all rows.
    """
    latent = list(_latents(engine, factor.name).values())
    weight = _weight(factor, sums)
    plates = [i for i in range(weight.dim()) if i not in latent]
    of_states = weight.sum(plates, keepdim=True) if plates else weight
    for key, role in factor.roles.items():
        if role.affine is not None:
            affine = role.affine.changed(_used)
            bears = factor.family.bearing(key, sums.parts)
            own = weight if bears is None else bears.squeeze(0)
            both = _both(affine, own, latent, len(affine.entries), allowed)
            at = 0
            for name, places, _ in affine.sources:
                size = engine.program.parameters[name].initial.numel()
                some = both[:, at : at + len(places)]
                yield (name, size), both.new_zeros((2, size)).index_add_(1, places.to(both.device), some)
                at += len(places)
        elif not role.known:  # of a state, all plates together: an item may well have no rows in one
            domain, bank = factor.family.roles[key].domain, engine.recognition.bank
            segments = bank.touched(role, domain) if list_of(domain) in met else bank.of(domain)
            met.add(list_of(domain))
            one = weight.new_ones((1,) * role.index.dim())
            affine = Affine((), one, (Piece(role.index.unsqueeze(-1), one.unsqueeze(-1)),), CHART["itself"])
            both = _both(affine, of_states, latent, max(s.offset + s.size for s in segments), allowed)
            for s in segments:
                yield (s.parameter, s.size), both[:, s.offset : s.offset + s.size]


def _weight(factor: SiteFactor, sums: Sums) -> Tensor:
    """The weight of every cell of one start."""
    parts = [part.squeeze(0) for part in sums.parts]
    counted = [parts[k] for k in sorted(factor.family.counting)] or parts  # others have a unit of their own
    each = (part.abs().reshape((*part.shape[: len(factor.cells)], -1)).sum(-1) for part in counted)
    return sum(each, torch.zeros((), dtype=torch.float64))


def _used(part: Tensor, slots: int) -> Tensor:
    """One where a design is not zero."""
    return (part != 0).double() if slots and part.is_floating_point() else part


def _both(affine: Affine, weight: Tensor, latent: list[int], size: int, allowed: Tensor | None) -> Tensor:
    """Weights of cells summed into `size` entries: as they are, and with those of all states in each that may be."""
    every = weight.sum(latent, keepdim=True).expand_as(weight) if latent else weight
    every = every if allowed is None else every * allowed.to(every)
    cells = torch.stack([weight, every])
    return adjoint(affine, cells.reshape((*cells.shape, *(1,) * (affine.offset.dim() - weight.dim()))), size)
