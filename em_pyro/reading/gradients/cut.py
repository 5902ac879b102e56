"""Parameters that a site depends on by a way that no gradient goes: `detach`, `.item()`, NumPy."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from ...program.marks import tensors_of
from ...program.named import Params
from ...program.program import Program
from ...program.site import Site
from ...program.unroll import unroll
from ..reading import same


def cut_off(
    program: Program,
    sites: Collection[str],
    reaches: Mapping[str, frozenset[str]],
    probes: Sequence[tuple[Params, Mapping[str, Site]]],
) -> dict[str, tuple[str, ...]]:
    """Return the parameters of which `sites` are functions though no gradient reaches them, and those sites.

    All parameters that do not reach a site are moved at once; only where that changes the site, one by one.

    Args:
        program: what is read.
        sites: that may be.
        reaches: the parameters from which a gradient reaches each site.
        probes: two points, and the program there; without a second there is none to move to.
    """
    if len(probes) < 2:
        return {}
    (here, run), (there, _) = probes
    groups: dict[frozenset[str], list[str]] = {}
    for site in sites:
        groups.setdefault(frozenset(here) - reaches.get(site, frozenset()), []).append(site)
    found: dict[str, tuple[str, ...]] = {}
    for names, members in groups.items():
        if not names or not _changed(program, members, run, {**here, **{name: there[name] for name in names}}):
            continue
        for name in sorted(names):
            changed = _changed(program, members, run, {**here, name: there[name]})
            if changed:
                found[name] = (*found.get(name, ()), *changed)
    return found


def _changed(program: Program, sites: Sequence[str], run: Mapping[str, Site], values: Params) -> list[str]:
    """Return those of some sites whose densities are others at `values` than in `run`."""
    try:
        with torch.no_grad():
            moved = unroll(program.run(values))
    except (RuntimeError, ValueError):  # there is no model half-way between two probes
        return []
    return [
        name
        for name in sites
        if any(not same(a, b) for a, b in zip(tensors_of(run[name]), tensors_of(moved[name]), strict=True))
    ]
