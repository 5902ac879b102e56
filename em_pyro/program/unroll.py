"""`dist.DiscreteHMM` as three sites: an initial state, transitions and observations.

The distribution hides its latents. Taken apart, each of its arguments belongs to a site of a registered family, and the
closed forms of those families are Baum-Welch. Pyro's convention puts a transition before the first observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyro.distributions as dist
import torch

from .handlers import LABELS
from .named import unexpand, unwrap
from .site import Site

INITIAL, TRANSITION = ".initial", ".transition"  # suffixes of the hidden sites
BEGIN, MOVES, STATES = ".begin", ".moves", ".states"  # suffixes of the parts of a `GaussianHMM`
FROM, TO, STATE, TIME = "[from]", "[to]", "[state]", "[time]"  # suffixes of the hidden dimensions


def unroll(sites: Mapping[str, Site]) -> dict[str, Site]:
    """Replace every observed DiscreteHMM by its three sites."""
    found: dict[str, Site] = {}
    for name, site in sites.items():
        base = unwrap(site.fn).base if site.role == "observed" else None
        if isinstance(base, dist.DiscreteHMM):
            found.update(_parts(name, site, base))
        else:
            found[name] = site
    return found


def hidden_sizes(sites: Mapping[str, Site]) -> dict[str, int]:
    """Return the sizes of the hidden dimensions of all unrolled sites."""
    sizes: dict[str, int] = {}
    for name, site in sites.items():
        if name + TRANSITION in sites:
            states = sites[name + INITIAL].value.numel()
            sizes |= {name + FROM: states, name + TO: states, name + STATE: states}
            sizes[name + TIME] = site.value.shape[-2 - unwrap(site.fn).event_rank - _event_dim(site)]
    return sizes


def _event_dim(site: Site) -> int:
    inner = unwrap(site.fn)
    return site.fn.event_dim - inner.event_rank  # type: ignore[attr-defined]


def _parts(name: str, site: Site, hmm: dist.DiscreteHMM) -> dict[str, Site]:
    """Take a `DiscreteHMM` apart, with `S` states and `T` steps, by rows.

    The hidden dimensions have names of their own, and tensor dimensions beyond those of the site. The initial state is
    a Categorical over [from], and the transition, one over [to] at each [from] (and [time], where it varies), has the
    probabilities of a row last, as any Categorical has: both are read as tables of a registered family. The observation
    keeps the layout of the distribution: (rows..., T, S) + event.
    """
    depth = max((-dim for dim in site.dims), default=0)
    states = hmm.initial_logits.shape[-1]
    device = hmm.initial_logits.device
    dims = dict(site.dims) | {-depth - 1: name + FROM, -depth - 2: name + TO, -depth - 3: name + TIME}
    here = torch.arange(states, device=device).reshape((states,) + (1,) * depth)
    # Pyro has (rows..., T or 1, S, S). A site of this project has its plates rightmost: (T or 1, 1, S, rows..., S),
    # for [time], [to] (along which only the value varies), [from], the rows, and the states that [to] may take.
    transition = hmm.transition_logits
    transition = transition if transition.dim() > 2 else transition.unsqueeze(-3)
    rows = transition.shape[:-3]
    transition = transition.movedim(-3, 0).movedim(-2, 1)
    transition = transition.reshape((*transition.shape[:2], *(1,) * (depth - len(rows)), *rows, states)).unsqueeze(1)
    laws = {INITIAL: unexpand(hmm.initial_logits, 1), TRANSITION: unexpand(transition, 1)}
    values = {INITIAL: here, TRANSITION: here.unsqueeze(1)}
    found = {
        name + key: Site(
            name + key,
            "latent",
            dist.Categorical(logits=law, validate_args=False),
            values[key],
            site.plates,
            dims,
            site.scale,
            None,
        )
        for key, law in laws.items()
    }
    observation = hmm.observation_dist
    value = site.value.unsqueeze(-1 - observation.event_dim)
    shifted = {dim - 2: key for dim, key in site.dims.items()} | {-1: name + STATE, -2: name + TIME}
    mask = None if site.mask is None else site.mask[..., None, None]
    scale = site.scale[..., None, None] if isinstance(site.scale, torch.Tensor) else site.scale
    found[name] = replace(site, fn=observation, value=value, dims=shifted, scale=scale, mask=mask)
    return found


def is_hidden(name: str) -> bool:
    """Tell the sites that `unroll` has added from the user's."""
    return name.endswith((INITIAL, TRANSITION))


def user_site(name: str) -> str:
    """Return the user's name of a site, or of a part of one."""
    for part in (INITIAL, TRANSITION, BEGIN, MOVES, LABELS):
        name = name.removesuffix(part)
    return name
