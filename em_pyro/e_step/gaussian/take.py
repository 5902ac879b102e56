"""Take all sites that Gaussian latents enter out of a program, as one unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from ...errors import ModelError
from ...program.named import batched, ordered
from ...reading.bound import Bound
from ...reading.latents.bilinear import Bilinear
from ..contraction.schedule import Factor
from ..left import Left
from ..units import Unit
from .alike.components import Members, members_of, place_of
from .alike.merge import merged
from .alike.ragged import joined
from .block import Block, block_of, patterns_of
from .forms import factor_of
from .group import Group
from .precision.factored import width_of
from .rows import Rows, layout_of, rows_of, weight_of
from .squeeze import squeezed
from .translate import translations
from .unit import Gaussian

LARGEST = 4096  # latents of a component: its precision matrix is a whole one
MOST = 4096  # joint states of the discrete latents that reach a component


def take(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take the sites out, and put in the factor of their components."""
    latents = left.recognition.latents
    if latents is None:
        return (), left
    real = {f.name: f for stack in left.stacks for f in stack.every if f.name in latents.sites}
    exact = [name for name, made in latents.sites.items() if name not in left.recognition.readings]
    names = {n for f in real.values() for n in f.names if n in left.owners}
    states = {n: left.sizes[n] for n in ordered(names, left.sizes)}
    if prod(states.values()) > MOST:
        raise _too_many(prod(states.values()), list(states))
    _check_weights(left, latents.sites)
    readings = left.recognition.readings
    plates = {p: left.sizes[p] for p in ordered({p for n in states for p in left.owners[n]}, left.sizes)}
    together = merged([rows_of(readings[n], latents.sites[n], states) for n in real])
    rows = [one for one, _ in together]
    given = _observed(left, [latents.sites[n] for n in exact], latents.places.count)
    members = joined(rows, members_of(rows, latents.places.count))
    groups = tuple(_squeezed(_group(rows, m, given, plates)) for m in members)
    every = (*states, *plates)
    final = ordered(every, left.sizes)
    sites = tuple(factor_of(real[one.site], one, _ones(one)) for one in rows)
    name = next(iter(real))
    alike = {one.site: names for one, names in together}
    whole = partial(_whole, rows, members, given, plates)
    order = tuple(every.index(n) for n in final)
    unit = Gaussian(
        name, sites, alike, tuple(rows), tuple(members), groups, whole, latents.places, states, plates, order,
        translations(rows, latents.places.count, latents.sizes),
    )  # fmt: skip
    values = {n: v.double() for n, v in left.recognition.values.items()}
    if loose := unit.undetermined(Bound(batched(values), left.recognition.bank)):
        beside = f" beside {', '.join(loose[1:4])}" if loose[1:] else ""
        raise ModelError(
            f'Site "{loose[0]}": expected a continuous latent that a prior or what is observed determines, got one '
            f"that neither does{beside}: its law has no bound. Give it a prior, or leave it out."
        )
    factor = Factor(name, final, frozenset(plates), None, None)
    return (unit,), replace(left.taking([*real, *exact], factor), apart={**left.apart, name: factor})


def _ones(rows: Rows) -> list[bool]:
    """Of every covariate whether it is one everywhere."""
    return [
        part is not None and bool((part == 1).all()) and all(slot[j] is None for slot in rows.slopes)
        for j, part in enumerate(rows.constants[:-1])
    ]


def _check_weights(left: Left, sites: Mapping[str, Bilinear]) -> None:
    """Refuse row weights: a row of weight two is two rows with latents of their own, not one of half the variance."""
    for name in sites:
        scale = left.run[name].scale
        if isinstance(scale, Tensor) and bool((scale != 1).any()) or not isinstance(scale, Tensor) and scale != 1:
            raise ModelError(
                f'Site "{name}": expected no row weights (poutine.scale) where continuous latents are integrated, got '
                f"some. Repeat the rows, each with latents of its own."
            )


def _too_many(count: int, names: Sequence[str]) -> ModelError:
    return ModelError(
        f"The model: expected at most {MOST:,} joint states of the discrete latents that reach one set of connected "
        f"continuous latents, got {count:,} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''}). Each has a "
        f"law of its own. Let a discrete state hold for a whole sequence, or write it as dist.DiscreteHMM."
    )


def _observed(left: Left, exact: Sequence[Bilinear], count: int) -> tuple[Tensor, Tensor] | None:
    """Latent entries that a Delta site observes: which are free, and the values of the others.

    Raises:
        ModelError: such a site is more than one latent in each entry.
    """
    if not exact:
        return None
    free, values = torch.ones(count, dtype=torch.bool), torch.zeros(count, dtype=torch.float64)
    for made in exact:
        layout = layout_of(made, {}, joint=False)
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
        seen = which >= 0
        seen = seen if weight is None else seen & (weight.unsqueeze(0) != 0)
        free[which[seen]] = False
        values[which[seen]] = (-constant / torch.where(slope == 0, 1.0, slope))[seen]
    return free, values


def _group(
    rows: Sequence[Rows], members: Members, given: tuple[Tensor, Tensor] | None, plates: Mapping[str, int]
) -> Group:
    """Lay alike components out."""
    k = members.entries.shape[1]
    width = width_of([part for part in members.slots if part is not None], k)
    if k > LARGEST and not width:
        raise ModelError(
            f"The model: expected at most {LARGEST:,} continuous latents that hang together, got {k:,}, whose "
            f"precision matrix would be a whole one. Fewer levels, or effects that are nested, make it small."
        )
    free = None if given is None else given[0]
    patterns = patterns_of(members, rows, free)
    blocks = tuple(
        block_of(s, rows[s], mine, slots, there, patterns)
        for s, (mine, slots, there) in enumerate(zip(members.rows, members.slots, members.present, strict=True))
        if mine is not None and slots is not None
    )
    live = _live(blocks, len(patterns.sizes), k)
    if free is not None:
        live = live & free[members.entries[patterns.first]]
    values = None if given is None or bool(live.all()) else given[1][members.entries]
    at = _places(rows, members, plates) if plates else None
    return Group(blocks, members.entries, patterns, live, values, None, patterns.sizes, width, at)


def _squeezed(group: Group) -> Group:
    return squeezed(group) if group.at is None else group


def _whole(
    rows: Sequence[Rows],
    members: Sequence[Members],
    given: tuple[Tensor, Tensor] | None,
    plates: Mapping[str, int],
) -> list[Group]:
    return [_group(rows, mine, given, plates) for mine in members]


def _live(blocks: Sequence[Block], patterns: int, k: int) -> Tensor:
    """Which latents of every pattern have a density, or enter one: (p, k)."""
    found = torch.zeros((patterns, k + 1), dtype=torch.long)
    for block in blocks:
        if not block.slopes:
            continue
        enters = torch.stack(torch.broadcast_tensors(*(_enters(slot) for slot in block.slopes)), -1)
        if block.weight is not None:
            enters = enters & (block.weight != 0).unsqueeze(-1)
        enters = enters.any(2).expand((patterns, *block.slots.shape))
        at = torch.where(block.slots >= 0, block.slots, k)
        found.index_add_(1, at.reshape(-1), enters.flatten(1).long())
    return found[:, :k] > 0


def _enters(slot: Sequence[Tensor | None]) -> Tensor:
    """Where a slot has any slope in any state: (p, c, e)."""
    total = torch.zeros((1, 1, 1), dtype=torch.bool)
    for part in slot:
        if part is not None:
            total = total | (part != 0).any(0)
    return total


def _places(rows: Sequence[Rows], members: Members, plates: Mapping[str, int]) -> Tensor:
    """The row of the factor that every member belongs to.

    Raises:
        ModelError: a component reaches several of them.
    """
    found = torch.zeros(len(members.entries), dtype=torch.long)
    for plate, size in plates.items():
        place = place_of(rows, members, plate)
        if place is None:
            raise ModelError(
                f'Plate "{plate}": expected continuous latents that hang together within one of its rows, got some '
                f"across rows, each with a discrete state of its own. Their number of joint states has no bound. Let a "
                f"discrete latent hold for all that hangs together."
            )
        found = found * size + place
    return found
