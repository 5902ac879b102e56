"""Put the parts of a `dist.DiscreteHMM` together: compiled where they are recognised, replayed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ...program.named import Named, squeeze, unwrap
from ...program.program import Site
from ...program.unroll import INITIAL, STATE, TIME, TRANSITION, unroll
from ...reading.reading import Recognition
from ..forward_backward.compiled import choose
from ..sites.layout import compile_term
from ..sites.site_factor import Term
from .hmm import Hmm, Replayed


def chain_of(
    name: str, sites: Mapping[str, Site], recognition: Recognition, sizes: Mapping[str, int], *, weighted: bool
) -> tuple[Hmm, dict[str, Named]]:
    """Compile what is recognised of a DiscreteHMM.

    Args:
        name: its site.
        sites: of one run, with its parts among them.
        recognition: what the probes found.
        sizes: of all latents, plates and hidden dimensions.
        weighted: whether its rows carry a `poutine.scale`.

    Returns:
        The unit, and the log-probabilities of replayed parts that never change.
    """
    plates = frozenset(sites[name].plates)
    parts: list[Term | Replayed] = []
    constants: dict[str, Named] = {}
    for key in (name + INITIAL, name + TRANSITION, name):
        if key in recognition.readings:
            # nothing is folded, because a chain joins all times of a row
            parts.append(compile_term(recognition.readings[key], sizes, plates, None))
            continue
        with torch.no_grad():
            log_prob = sites[key].log_prob()
        entering = recognition.reaches.get(key, frozenset())
        if not entering and still(key, log_prob, [unroll(run) for run in recognition.runs[:2]]):
            constants[key] = Named(log_prob.tensor.double(), log_prob.names)
        parts.append(Replayed(key, log_prob.names, entering or frozenset(set() if key in constants else {key})))
    hidden = (name + STATE, name + TIME)
    around = {n for n in sites[name].dims.values() if n not in hidden and sizes[n] > 1}
    outside = tuple(n for n in sizes if n in around and (n in plates or any(n in part.names for part in parts)))
    seen = _seen(sites[name])
    entries = sizes[hidden[0]] * sizes[hidden[1]]
    for n in outside:
        entries *= sizes[n]
    method, reason = choose(entries, sites[name].value.device)
    if name + TIME in parts[1].names:
        method, reason = "torch", "transitions differ between steps"
    weighted = weighted or any(n not in plates for n in outside)
    return Hmm(name, parts[0], parts[1], parts[2], outside, sizes, seen, weighted, method, reason), constants


def _seen(site: Site) -> Named | None:
    """At which steps of which rows something is observed; None if at all."""
    inner, found = unwrap(site.fn), None
    masks = [(site.mask, 0)] if site.mask is not None else []
    if inner.mask is not None:
        masks.append((inner.mask, min(inner.event_rank, inner.mask.dim())))
    for mask, events in masks:
        part = squeeze(mask, site.dims, site.name, events)
        anywhere = part.tensor.flatten(len(part.names)).any(-1) if events else part.tensor
        part = Named(anywhere, part.names)
        drop = [n for n in part.names if n.endswith(STATE)]
        if drop:
            part = Named(part.tensor.any(part.names.index(drop[0])), tuple(n for n in part.names if n not in drop))
        if found is not None:
            names = tuple(dict.fromkeys((*found.names, *part.names)))
            part = Named(found.align(names) & part.align(names), names)
        found = part
    return found


def still(name: str, log_prob: Named, runs: Sequence[Mapping[str, Site]]) -> bool:
    """Whether a site that no gradient reaches is the same at another random point (a value may be detached)."""
    if len(runs) < 2:
        return True
    with torch.no_grad():
        first, second = (run[name].log_prob().tensor for run in runs[:2])
    return torch.equal(first, second) and torch.equal(first, log_prob.tensor)
