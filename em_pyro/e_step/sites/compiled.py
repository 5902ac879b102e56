"""Compile what is recognised of a program, and leave the rest to the model, and to the unit of Gaussian latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ...program.named import Named, ordered
from ...program.site import Site
from ...program.unroll import is_hidden
from ...reading.reading import Reading
from ..contraction.exponents import exponents, ratio
from ..contraction.schedule import Factor
from ..left import Left
from ..several.stack import stacked
from ..units import Unit
from .layout import laid_out, names_of
from .site_factor import SiteFactor


def take(left: Left) -> tuple[Sequence[Unit], Left]:
    """Lay every recognised site out; units are made of the stacks later."""
    scales = exponents(left.run)
    sites: dict[str, SiteFactor] = {}
    factors: dict[str, Factor] = {}
    replayed: dict[str, Factor] = {}
    constants: dict[str, Named] = {}
    for name, site in left.run.items():
        if name in left.factors:
            factors[name] = left.factors[name]
        if site.role == "prior" or is_hidden(name) or name in left.taken:
            continue
        plates = frozenset(site.plates)
        if name in left.recognition.readings and name in left.recognition.entered:
            factors[name] = _entered(left, left.recognition.readings[name], scales)
            continue
        if name in left.recognition.readings:
            sites[name], plates = _compiled(left, left.recognition.readings[name], scales)
            factors[name] = Factor(name, sites[name].names, plates, scales.get(plates), left.alive.get(name))
            continue
        with torch.no_grad():
            log_prob = site.log_prob()
        if not left.recognition.reaches.get(name) and still(name, log_prob, left.recognition.runs):
            constants[name] = Named(log_prob.tensor.double(), log_prob.names)
        alive = left.alive.get(name)
        factors[name] = replayed[name] = Factor(name, log_prob.names, plates, scales.get(plates), alive)
    for name in _barren(factors, left.run):
        factors[name] = replace(factors[name], alive=Named(torch.zeros((), dtype=torch.float64), ()))
    return (), replace(
        left,
        stacks=stacked(sites),
        factors=factors,
        apart=factors,
        replayed=replayed,
        constants={**left.constants, **constants},
    )


def _compiled(
    left: Left, reading: Reading, scales: Mapping[frozenset[str], Named | None]
) -> tuple[SiteFactor, frozenset[str]]:
    """Lay one site out; the plates that are left around its factor, once those without a latent are folded."""
    plates, above = frozenset(reading.site.plates), _above(left, names_of(reading))
    if reading.site.role == "observed" and above < plates:
        exponent = ratio(scales.get(plates), scales.get(above), left.sizes)
        made = laid_out(reading, left.sizes, above, exponent, left.plate, left.recognition)
        plates = above
    else:
        made = laid_out(reading, left.sizes, plates, None, left.plate, left.recognition)
    keeps = left.plate is not None and bool(made.stuck(left.plate))
    return replace(made, kept=left.plate if keeps else None), plates


def _above(left: Left, names: set[str]) -> frozenset[str]:
    """The plates of the discrete latents among some names."""
    return frozenset[str]().union(*(left.owners[n] for n in names if n in left.owners))


def _entered(left: Left, reading: Reading, scales: Mapping[frozenset[str], Named | None]) -> Factor:
    """The factor of a site that Gaussian latents enter, which their unit lays out: its names, and what is around it."""
    names, plates = names_of(reading), frozenset(reading.site.plates)
    above = _above(left, names)
    if reading.site.role == "observed" and above < plates:
        names, plates = names - (plates - above), above
    name = reading.site.name
    return Factor(name, ordered(names, left.sizes), plates, scales.get(plates), left.alive.get(name))


def _barren(factors: Mapping[str, Factor], sites: Mapping[str, Site]) -> set[str]:
    """Latents on which nothing observed depends, however far downstream."""
    children: dict[str, list[str]] = {}
    for name, factor in factors.items():
        for latent in factor.names:
            if latent != name:
                children.setdefault(latent, []).append(name)
    dead: set[str] = set()
    for name in reversed(list(factors)):
        if sites[name].role == "latent" and all(child in dead for child in children.get(name, ())):
            dead.add(name)
    return dead


def still(name: str, log_prob: Named, runs: Sequence[Mapping[str, Site]]) -> bool:
    """Tell whether a site that no gradient reaches is the same at another random point (a value may be detached)."""
    if len(runs) < 2:
        return True
    with torch.no_grad():
        first, second = (run[name].log_prob().tensor for run in runs[:2])
    return torch.equal(first, second) and torch.equal(first, log_prob.tensor)
