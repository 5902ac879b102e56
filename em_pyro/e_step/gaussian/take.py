"""Take all sites that Gaussian latents enter out of a program, as one unit."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from ...errors import ModelError
from ...program.handlers import LABELS
from ...program.masks import seen_values
from ...program.named import batched, ordered
from ...reading.bound import Bound
from ...reading.latents.bilinear import Latents
from ..contraction.exponents import exponents
from ..contraction.schedule import Factor
from ..left import Left
from ..units import Unit
from .alike.components import members_of
from .alike.merge import merged
from .alike.ragged import joined
from .alike.repeats import check_observed, of_entries, repeats_of, repeats_of_members, rows_of_factor
from .alike.steps import laid_out
from .forms import factor_of
from .layer import Layer
from .rows import Rows, layout_of, weight_of
from .squeeze import squeezed
from .translate import centres, translations
from .unit import Gaussian

MOST = 4096  # joint states of the discrete latents that reach a component


def take(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take the sites out, and put in the factor of their components."""
    latents = left.recognition.latents
    assert latents is not None
    readings = {n: left.recognition.readings[n] for n in latents.sites if n in left.recognition.readings}
    exact = [name for name in latents.sites if name not in readings]
    names = {n for name in readings for n in left.factors[name].names if n in left.owners}
    states = {n: left.sizes[n] for n in ordered(names, left.sizes)}
    if prod(states.values()) > MOST:
        raise _too_many(prod(states.values()), list(states))
    plates = {p: left.sizes[p] for p in ordered({p for n in states for p in left.owners[n]}, left.sizes)}
    together = merged(laid_out(readings, latents, left.run, states))
    movable = _movable(left, latents, readings)
    rows, means = centres([one for one, _ in together], latents.places.count, movable)
    members = joined(rows, members_of(rows, latents.places.count))
    repeats = [repeats_of_members(rows, m) for m in members]
    given = _observed(left, latents, exact, of_entries(members, repeats, latents.places.count))
    scale = exponents(left.run).get(frozenset(plates))
    layer = Layer(rows, given, plates, rows_of_factor(scale, plates), latents.places)
    whole = partial(layer.groups, members, repeats)
    groups = tuple(squeezed(group) if group.at is None else group for group in whole())
    every = (*states, *plates)
    final = ordered(every, left.sizes)
    sites = tuple(factor_of(readings[one.site], left.sizes, one, _ones(one)) for one in rows)
    name = next(iter(readings))
    alike = {one.site: names for one, (_, names) in zip(rows, together, strict=True)}
    order = tuple(every.index(n) for n in final)
    unit = Gaussian(
        name, sites, alike, tuple(rows), tuple(members), groups, whole, latents.places, states, plates, order,
        translations(rows, latents.places.count, movable), means,
    )  # fmt: skip
    values = {n: v.double() for n, v in left.recognition.values.items()}
    if loose := unit.undetermined(Bound(batched(values), left.recognition.bank)):
        beside = f" beside {', '.join(loose[1:4])}" if loose[1:] else ""
        raise ModelError(
            f'Site "{loose[0]}": expected a continuous latent that a prior or what is observed determines, got one '
            f"that neither does{beside}: its law has no bound. Give it a prior, or leave it out."
        )
    factor = Factor(name, final, frozenset(plates), scale, None)
    return (unit,), replace(left.taking([*readings, *exact], factor), apart={**left.apart, name: factor})


def _ones(rows: Rows) -> list[bool]:
    """Of every covariate whether it is one everywhere."""
    return [
        part is not None and bool((part == 1).all()) and all(slot[j] is None for slot in rows.slopes)
        for j, part in enumerate(rows.constants[:-1])
    ]


def _movable(left: Left, latents: Latents, sites: Collection[str]) -> dict[str, int]:
    """Parameters that may be anything, and are part of locations of these sites alone; with their entries."""
    found = set(latents.free)
    for name, reach in left.recognition.reaches.items():
        if name not in sites or name in left.recognition.refusals:
            found -= reach
            continue
        reading = left.recognition.readings[name]
        for key, role in reading.roles.items():
            if key != "loc":
                found -= left.recognition.bank.parameters(role, reading.family.roles[key].domain)
    return {name: latents.sizes[name] for name in found}


def _too_many(count: int, names: Sequence[str]) -> ModelError:
    return ModelError(
        f"The model: expected at most {MOST:,} joint states of the discrete latents that reach one set of connected "
        f"continuous latents, got {count:,} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}). Each has a "
        f"law of its own. Let a discrete state hold for a whole sequence, or write it as dist.DiscreteHMM."
    )


def _observed(left: Left, latents: Latents, exact: Sequence[str], repeats: Tensor) -> tuple[Tensor, Tensor] | None:
    """Latent entries that a Delta site observes, or a label: which are free, and the values of the others.

    Args:
        left: what is left of the program.
        latents: that are integrated.
        exact: these sites.
        repeats: how often every latent entry is there.

    Raises:
        ModelError: such a site is more than one latent in each entry.
    """
    places = latents.places
    labels = {name: left.run[name + LABELS] for name in places.shapes if name + LABELS in left.run}
    if not (exact or labels):
        return None
    free, values = torch.ones(len(repeats), dtype=torch.bool), torch.zeros_like(repeats)
    for name, site in labels.items():
        known = seen_values(site).expand(places.shapes[name]).reshape(-1)
        which = torch.nonzero(known)[:, 0] + places.first[name]
        free[which] = False
        values[which] = site.value.expand(places.shapes[name]).reshape(-1)[known].double()
    for made in (latents.sites[name] for name in exact):
        layout = layout_of(made, {}, places, joint=False)
        weight = weight_of(left.run[made.site.name], layout, joint=False)
        sizes = layout.sizes
        which = torch.full(sizes, -1)
        slope, constant = torch.zeros(sizes, dtype=torch.float64), layout.flat(made.constants[-1]).expand(sizes)
        for slot in made.slots:
            (part,) = slot.slopes
            assert part is not None
            mine = layout.flat(part).expand(sizes)
            some = (mine != 0) & (layout.flat(slot.which).expand(sizes) >= 0)
            if bool((some & (which >= 0)).any()):
                raise ModelError(
                    f'Site "{made.site.name}": expected a Delta of one continuous latent in each entry, got one of '
                    f"several. Give the sum a small noise of its own."
                )
            which = torch.where(some, layout.flat(slot.which).expand(sizes), which)
            slope = torch.where(some, mine, slope)
        check_observed(made.site.name, which, repeats_of(left.run[made.site.name], layout), repeats)
        seen = which >= 0
        seen = seen if weight is None else seen & (weight.unsqueeze(0) != 0)
        free[which[seen]] = False
        values[which[seen]] = (-constant / torch.where(slope == 0, 1.0, slope))[seen]
    return free, values
