"""Compare what two runs of a program gave its sites, many sites at once.

The steps of a loop have arguments of one shape that depend on latents of one kind. Their tensors are stacked and
compared in a few operations, however many steps there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape  # torch's own imports a second of symbolic algebra
from torch import Tensor

from ..families import family_of
from ..program.masks import masks_of
from ..program.named import Named, align, squeeze, unwrap
from ..program.program import Program
from ..program.site import Site, unvalidated
from ..records.frozen import frozen

CLOSE = 1e-9
ROUNDING = 100  # units of the dtype: one run of many states rounds otherwise than many runs
ROWS = 1000  # of a plate that are compared
STACKED = 100_000  # entries of an argument up to which it is stacked with others like it
SITE = "[site]"
Key = tuple[str, str]
"""A site, and what of it: as `parts_of` says."""


@frozen
class Alike:
    """Arguments of some sites that have one shape and depend on latents in one way, from the enumerated run."""

    what: str
    sites: tuple[str, ...]
    latents: tuple[tuple[str, ...], ...] = field(repr=False)  # of every site
    event: int
    given: tuple[Tensor, ...] = field(repr=False)  # as the sites have them
    whole: Named = field(repr=False)  # dimensions: site, latents by position, plates


def parts_of(site: Site) -> dict[str, Named]:
    """Return what determines the factor of a site: weights, masks, arguments, value; or, of no family, the density."""
    inner = unwrap(site.fn)
    family, rank = family_of(inner.base), inner.event_rank
    counts = masks_of(site)
    if isinstance(site.scale, Tensor) or site.scale != 1.0:
        counts["row weight"] = squeeze(torch.as_tensor(site.scale), site.dims, site.name)
    if family is None:
        return {"its log_prob": squeeze(unvalidated(site.fn, site.value), site.dims, site.name)} | counts
    parts: dict[str, tuple[Tensor, int]] = {}
    for key, value in family.read(inner.base).items():
        event = family.known_event_dim[key] if key in family.known_event_dim else rank
        event += family.roles[key].event_dim if key in family.roles else 0
        parts[f'argument "{key}"'] = value, min(value.dim(), event)
    if site.role != "latent":
        parts["value"] = site.value, rank + family.event_dim
    found = {key: squeeze(tensor, site.dims, site.name, event) for key, (tensor, event) in parts.items()}
    return found | counts


def alike(enumerated: Mapping[str, Site], program: Program) -> list[Alike]:
    """Group what determines the densities of all sites."""
    groups: dict[tuple[Any, ...], list[tuple[str, Named, Tensor]]] = {}
    latents = program.latents
    for name, site in enumerated.items():
        for what, part in parts_of(site).items():
            named, event = thinned(part, program), part.tensor.dim() - len(part.names)
            kinds = tuple("" if n in latents else n for n in named.names)
            large = named.tensor.numel() > STACKED
            key = (what, event, named.tensor.shape, named.tensor.dtype, kinds, name if large else "")
            groups.setdefault(key, []).append((name, named, part.tensor))
    found = []
    for key, members in groups.items():
        what, event = key[:2]
        first = members[0][1]
        of = tuple(tuple(n for n in part.names if n in latents) for _, part, _ in members)
        places = {n: f"[{k}]" for k, n in enumerate(of[0])}
        names = (SITE, *(places.get(n, n) for n in first.names))
        whole = torch.stack([part.tensor for _, part, _ in members]) if len(members) > 1 else first.tensor.unsqueeze(0)
        given = tuple(tensor for _, _, tensor in members)
        found.append(Alike(what, tuple(name for name, _, _ in members), of, event, given, Named(whole, names)))
    return found


def differences(
    groups: list[Alike],
    program: Program,
    runs: Sequence[Mapping[str, Site]],
    indices: Sequence[Mapping[str, Named]],
) -> Iterator[tuple[int, str, str]]:
    """Yield where a concrete run gave another value than the enumerated one does there: the run, the site, and what.

    Args:
        groups: of the enumerated run.
        program: what was run.
        runs: the others.
        indices: states of the latents in each of them, by plates.
    """
    taken = [{name: parts_of(site) for name, site in run.items()} for run in runs]
    indices = [{name: thinned(part, program) for name, part in index.items()} for index in indices]
    for group in groups:
        kept: dict[object, list[tuple[int, int, Named]]] = {}
        for run, parts in enumerate(taken):
            for k, name in enumerate(group.sites):
                part = parts[name].get(group.what)
                if part is None or _shared_memory(part.tensor, group.given[k]):
                    continue
                named = thinned(part, program)
                chosen = tuple(indices[run][n].names for n in group.latents[k])
                kept.setdefault((named.names, named.tensor.shape, named.tensor.dtype, chosen), []).append(
                    (run, k, named)
                )
        for members in kept.values():
            agree = _agreeing(group, members, indices).expand(len(members)).tolist()
            yield from (
                (run, group.sites[k], group.what) for (run, k, _), fine in zip(members, agree, strict=True) if not fine
            )


def differ(groups: list[Alike], program: Program, runs: Mapping[Key, Named], indices: Mapping[str, Named]) -> bool:
    """Tell whether a concrete run gave another value than the enumerated one does there.

    Args:
        groups: of the enumerated run.
        program: what was run.
        runs: what determines the densities of all runs, by site and `parts_of`; runs are the first dimension.
        indices: states of the latents in all runs, which are the first dimension.
    """
    indices = {name: _thinned_behind(part, program) for name, part in indices.items()}
    for group in groups:
        kept: dict[object, list[tuple[int, Named]]] = {}
        for k, name in enumerate(group.sites):
            part = runs.get((name, group.what))
            if part is None or (not part.tensor.stride(0) and _shared_memory(part.tensor[0], group.given[k])):
                continue
            named = _thinned_behind(part, program)
            chosen = tuple(indices[n].names for n in group.latents[k])
            kept.setdefault((named.names, named.tensor.shape, named.tensor.dtype, chosen), []).append((k, named))
        for members in kept.values():
            places, of = [k for k, _ in members], [group.latents[k] for k, _ in members]
            concrete = Named(torch.cat([part.tensor for _, part in members]), (SITE, *members[0][1].names))
            count = len(concrete.tensor) // len(members)
            whole = group.whole.tensor[torch.tensor(places).repeat_interleave(count)]
            states = {}
            for slot, first in enumerate(of[0]):
                stacked = torch.cat([indices[names[slot]].tensor for names in of]).to(whole.device)
                states[f"[{slot}]"] = Named(stacked, (SITE, *indices[first].names))
            if not bool(
                _agree(concrete, _select(Named(whole, group.whole.names), states, group.event), group.event).all()
            ):
                return True
    return False


def _thinned_behind(part: Named, program: Program) -> Named:
    """The same as `thinned` of every run."""
    thin = thinned(Named(part.tensor, (SITE, *part.names)), program)
    return Named(thin.tensor, part.names)


def _agreeing(
    group: Alike, members: Sequence[tuple[int, int, Named]], indices: Sequence[Mapping[str, Named]]
) -> Tensor:
    """Tell of members of a group, each by its run and its place in the group, whether they are as enumerated."""
    places, whole = [k for _, k, _ in members], group.whole
    if len(group.sites) == 1:
        whole = Named(whole.tensor.expand(len(places), *whole.tensor.shape[1:]), whole.names)
    elif places != list(range(len(group.sites))):
        whole = Named(whole.tensor[places], whole.names)
    concrete = Named(torch.stack([part.tensor for _, _, part in members]), (SITE, *members[0][2].names))
    states = {}
    for slot in range(len(group.latents[0])):
        of = [indices[run][group.latents[k][slot]] for run, k, _ in members]
        stacked = torch.stack([part.tensor for part in of]).to(whole.tensor.device)
        states[f"[{slot}]"] = Named(stacked, (SITE, *of[0].names))
    return _agree(concrete, _select(whole, states, group.event), group.event)


def _shared_memory(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are one: data that the model passes on as they are."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def thinned(part: Named, program: Program) -> Named:
    """Return at most `ROWS` rows of every plate, evenly spaced."""
    tensor = part.tensor
    for axis, name in enumerate(part.names):
        if name in program.plates and tensor.shape[axis] > ROWS:
            rows = torch.linspace(0, tensor.shape[axis] - 1, ROWS, device=tensor.device).round().long()
            tensor = tensor.index_select(axis, rows)
    return Named(tensor, part.names)


def _select(part: Named, index: Mapping[str, Named], event: int) -> Named:
    """Return the enumerated tensor at the chosen states."""
    names, tensor = part.names, part.tensor
    for latent in [n for n in names if n in index]:
        axis = names.index(latent)
        rest = names[:axis] + names[axis + 1 :]
        every = rest + tuple(p for p in index[latent].names if p not in rest)
        tensor = align(tensor, names, (latent, *every), event)
        chosen = index[latent].align(every)
        shape = broadcast_shape(tensor.shape[1 : 1 + len(every)], chosen.shape)
        tensor = tensor.expand((tensor.shape[0], *shape, *tensor.shape[1 + len(every) :]))
        chosen = (
            chosen.expand(shape)
            .reshape((1, *shape) + (1,) * event)
            .expand((1, *shape, *tensor.shape[1 + len(every) :]))
        )
        tensor, names = tensor.gather(0, chosen).squeeze(0), every
    return Named(tensor, names)


def _agree(a: Named, b: Named, event: int) -> Tensor:
    """Tell whether two tensors agree, by site."""
    names = (*a.names, *(n for n in b.names if n not in a.names))
    x = align(a.tensor, a.names, names, event).double()
    y = align(b.tensor, b.names, names, event).double()
    close = max([CLOSE, *(ROUNDING * torch.finfo(t.dtype).eps for t in (a.tensor, b.tensor) if t.is_floating_point())])
    try:
        same = x == y
        if not bool(same.all()):
            same |= ((x - y).abs() <= close * (1 + y.abs())) | (x.isnan() & y.isnan())
    except RuntimeError:
        return torch.zeros((), dtype=torch.bool)
    return same.reshape(len(same), -1).all(1)
