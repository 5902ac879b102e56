"""`dist.DiscreteHMM` as three sites: an initial state, transitions and observations.

The distribution hides its latents. Taken apart, each of its arguments belongs to a site of a registered family, and the
closed forms of those families are Baum-Welch. Pyro's convention puts a transition before the first observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pyro.distributions as dist
import torch

from .named import unexpand, unwrap
from .program import Site

INITIAL, TRANSITION = ".initial", ".transition"  # suffixes of the hidden sites
FROM, TO, STATE, TIME = "[from]", "[to]", "[state]", "[time]"  # suffixes of the hidden dimensions


def unroll(sites: Mapping[str, Site]) -> dict[str, Site]:
    """Replace every DiscreteHMM with one transition matrix for all times by its three sites."""
    found: dict[str, Site] = {}
    for name, site in sites.items():
        base = unwrap(site.fn).base
        if site.role == "observed" and isinstance(base, dist.DiscreteHMM) and _homogeneous(base):
            found.update(_parts(name, site, base))
        else:
            found[name] = site
    return found


def hidden_sizes(sites: Mapping[str, Site]) -> dict[str, int]:
    """Sizes of the hidden dimensions of all unrolled sites."""
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


def _homogeneous(hmm: dist.DiscreteHMM) -> bool:
    """Whether one transition matrix serves all times, and the time is known."""
    shape = hmm.transition_logits.shape
    return len(shape) < 3 or shape[-3] == 1


def _parts(name: str, site: Site, hmm: dist.DiscreteHMM) -> dict[str, Site]:
    depth = max((-dim for dim, key in site.dims.items() if key in site.plates), default=0)
    plates = {dim: key for dim, key in site.dims.items() if key in site.plates}
    states = hmm.initial_logits.shape[-1]
    device = hmm.initial_logits.device
    dims = plates | {-depth - 1: name + FROM, -depth - 2: name + TO}
    initial = unexpand(hmm.initial_logits, 1)
    transition = hmm.transition_logits
    if transition.dim() >= 3:
        transition = transition.squeeze(-3)
    rows = transition.dim() - 2
    transition = transition.movedim(-2, 0).reshape(
        (states,) + (1,) * (depth - rows) + transition.shape[:rows] + (states,)
    )
    here = torch.arange(states, device=device).reshape((states,) + (1,) * depth)
    parts = {
        name + INITIAL: (dist.Categorical(logits=initial, validate_args=False), here),
        name + TRANSITION: (dist.Categorical(logits=transition, validate_args=False), here.unsqueeze(1)),
    }
    found = {
        key: Site(key, "latent", fn, value, site.plates, dims, site.scale, None) for key, (fn, value) in parts.items()
    }
    observation = hmm.observation_dist
    value = site.value.unsqueeze(-1 - observation.event_dim)
    shifted = {dim - 2: key for dim, key in plates.items()} | {-1: name + STATE, -2: name + TIME}
    mask = None if site.mask is None else site.mask[..., None, None]
    found[name] = replace(site, fn=observation, value=value, dims=shifted, mask=mask)
    return found


def is_hidden(name: str) -> bool:
    """Tell the sites that `unroll` has added from the user's."""
    return name.endswith((INITIAL, TRANSITION))


def user_site(name: str) -> str:
    """The user's name of a site, hidden or not."""
    return name.removesuffix(INITIAL).removesuffix(TRANSITION)
