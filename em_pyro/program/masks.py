"""Which entries of a site's value are seen, and which entries of the latents anything observed depends on.

This is the one place that reads masks. A site has two: its own, from `poutine.mask` and what sets it (`obs_mask` among
others), and that of its distribution, from `fn.mask(...)`. Both leave entries out of the density.

An entry of a latent on which nothing observed depends (a step past the end of a sequence, the unobserved half of an
`obs_mask` site on a labelled row) has its prior as posterior. Leaving it out of the statistics changes no fixed point
and makes EM faster: its share of the missing information is not there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ModelError
from .named import Named, Params, align, squeeze, unwrap
from .program import Program
from .site import Site


def masks_of(site: Site) -> dict[str, Named]:
    """Return the masks of a site by "mask" (its own) and "inner mask" (its distribution's).

    The trailing dimensions of each are the events that are batch dimensions under `.to_event`, of size one where the
    mask does not vary.
    """
    inner = unwrap(site.fn)
    rank, found = inner.event_rank, {}
    if site.mask is not None:
        found["mask"] = squeeze(site.mask.reshape(site.mask.shape + (1,) * rank), site.dims, site.name, rank)
    if inner.mask is not None:
        mask = inner.mask.reshape((1,) * (rank - inner.mask.dim()) + inner.mask.shape)
        found["inner mask"] = squeeze(mask, site.dims, site.name, rank)
    return found


def seen(site: Site) -> Named | None:
    """Return which entries of a site count in its density, laid out as in `masks_of`; None is all.

    An enumerated latent counts everywhere but under its distribution's own mask: `Site.log_prob` keeps its prior, since
    states without one would be counted, each with weight one, in the sum over states.
    """
    parts = masks_of(site)
    if site.role == "latent":
        parts.pop("mask", None)
    if len(parts) < 2:
        return next(iter(parts.values()), None)  # as the program passed it: nothing is copied
    own, inner = parts.values()
    names = tuple(name for _, name in sorted(site.dims.items()) if name in {*own.names, *inner.names})
    return Named(own.align(names) & inner.align(names), names)


def refuse_moving(program: Program, probes: Sequence[tuple[Params, Mapping[str, Site]]]) -> None:
    """Refuse masks and row weights that a parameter moves: which rows count, and how often, is data.

    Args:
        program: what is read.
        probes: values of the parameters, and the program there.

    Raises:
        ModelError: naming the site and the parameter.
    """
    (values, first), *others = probes
    for name, site in first.items():
        masks = masks_of(site)
        for other, run in others:
            if what := _moved(site, masks, run[name]):
                entering = _moving(program, values, other, name, what)
                raise ModelError(
                    f'Site "{name}": expected {what} that is data, got one that depends on {entering}. What counts, '
                    f"and how often, cannot be fitted: a density is largest where little of it is left. Pass it to the "
                    f"model as an argument, or write the whole term as pyro.factor."
                )


def _moved(site: Site, here: Mapping[str, Named], other: Site) -> str:
    """Return which of them, the masks being those `here`, is another one in another run; empty if none is."""
    if not _same(site.scale, other.scale):
        return "a row weight (poutine.scale)"
    there = masks_of(other)
    same = here.keys() == there.keys() and all(_same(here[key].tensor, there[key].tensor) for key in here)
    return "" if same else "a mask"


def _same(one: float | Tensor, other: float | Tensor) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other or bool(torch.equal(torch.as_tensor(one), torch.as_tensor(other)))
    return one == other


def _moving(program: Program, values: Params, others: Params, name: str, what: str) -> str:
    """Name the parameter that moves a mask or a weight by itself."""
    with torch.no_grad():
        site = program.run(values)[name]
        masks = masks_of(site)
        for parameter, other in others.items():
            if _moved(site, masks, program.run({**values, parameter: other})[name]) == what:
                return f'the parameter "{parameter}"'
    return "the parameters"


def anywhere(part: Named, names: Collection[str]) -> Named:
    """Keep those of `names` that a mask has, and say where it is true anywhere in its other dimensions and events."""
    drop = [i for i in range(part.tensor.dim()) if i >= len(part.names) or part.names[i] not in names]
    kept = tuple(name for name in part.names if name in names)
    return Named(part.tensor.any(dim=drop) if drop else part.tensor, kept)


def seen_entries(value: Named, weight: Named | None, rank: int, event_dim: int) -> Tensor | None:
    """Return the entries of a value whose weight is not zero, as a view of its shape; None is all."""
    if weight is None or not set(weight.names) <= set(value.names):
        return None
    w = weight.tensor.reshape(weight.tensor.shape + (1,) * event_dim)
    return (align(w, weight.names, value.names, rank + event_dim) != 0).expand_as(value.tensor)


def seen_values(site: Site) -> Tensor:
    """Return which entries of a site's value count in some state of the latents, broadcast to the value."""
    everything, part = torch.ones_like(site.value, dtype=torch.bool), seen(site)
    if part is None:
        return everything
    event = site.fn.event_dim  # type: ignore[attr-defined]
    batch = site.value.dim() - event
    here = [site.dims.get(i - batch, "") for i in range(batch)]
    over = [i for i, name in enumerate(part.names) if name not in here]
    kept = tuple(name for name in part.names if name in here)
    mask = Named(part.tensor.any(dim=over) if over else part.tensor, kept).align(here)
    return everything & mask.reshape(mask.shape + (1,) * (batch + event - mask.dim()))


def alive(program: Program, runs: Sequence[Mapping[str, Site]]) -> dict[str, Named]:
    """Return, for every latent with dead entries, one where an entry reaches an observation, by its plates.

    A factor does not depend on a latent at an entry if it is constant over its states there in every run. Only programs
    with masks are looked at: without one, an entry that reaches nothing is the program's own doing.
    """
    first = runs[0]
    masks = (mask.tensor for site in first.values() for mask in masks_of(site).values())
    if not program.latents or all(bool(mask.all()) for mask in masks):
        return {}
    with torch.no_grad():
        factors = [{n: s.log_prob() for n, s in run.items() if s.role != "prior"} for run in runs[:2]]
    found: dict[str, Named] = {}
    for name in reversed([n for n in first if n in program.latents]):
        latent = program.latents[name]
        reach: Tensor | None = None
        for other in factors[0]:
            if other == name or name not in factors[0][other].names:
                continue
            moves = anywhere(_varies([f[other] for f in factors], name), latent.plates).align(latent.plates)
            if other in found:
                moves = moves & anywhere(found[other], latent.plates).align(latent.plates)
            reach = moves if reach is None else reach | moves
        if reach is None:
            reach = torch.zeros((1,) * len(latent.plates), dtype=torch.bool)
        found[name] = _named(reach, latent.plates)
    return {
        name: Named(part.tensor.double(), part.names) for name, part in found.items() if not bool(part.tensor.all())
    }


def _varies(factors: Sequence[Named], latent: str) -> Named:
    """Return the entries at which any of the factors differs between states of the latent."""
    names = factors[0].names
    axis = names.index(latent)
    moves = torch.zeros((), dtype=torch.bool)
    for factor in factors:
        moves = moves | (factor.tensor.amax(axis) != factor.tensor.amin(axis))
    return Named(moves, names[:axis] + names[axis + 1 :])


def _named(tensor: Tensor, plates: tuple[str, ...]) -> Named:
    keep = [i for i in range(tensor.dim()) if tensor.shape[i] > 1]
    drop = tuple(i for i in range(tensor.dim()) if i not in keep)
    return Named(tensor.squeeze(drop) if drop else tensor, tuple(plates[i] for i in keep))
