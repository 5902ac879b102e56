"""The engine of a program at one value of its parameters: what the model computes there is a constant of every site.

A posterior asks for no more, and to find out where arguments come from takes a dozen runs of the model. Here one run is
all. Sites are compiled, with these arguments for known ones, where that is exact or pays: of probabilities, of which
torch holds none to be zero, and of many rows with the same arguments. The others have the density of the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch.distributions import Distribution

from ..e_step.build import build
from ..e_step.engine import Engine
from ..families import family_of
from ..program.masks import alive, masks_of
from ..program.named import Named, Params, squeeze, unwrap
from ..program.points.probes import probes
from ..program.program import Program
from ..program.site import Site
from ..program.unroll import unroll
from ..reading.bank import Bank
from ..reading.match import Atoms, atoms_of
from ..reading.reading import Reading, Recognition, Refusal, Unrecognised, arguments
from ..reading.recognise import read_site

ROWS, SITES = 4096, 30  # rows or sites from which matrix products pay for being laid out


@torch.no_grad()
def fixed_engine(program: Program, sites: Mapping[str, Site], values: Params) -> Engine:
    """Lay a program without Gaussian latents out at fixed values of its parameters.

    Args:
        program: with its arguments.
        sites: its run at the values.
        values: of the parameters.
    """
    rows = max(program.plates, key=lambda plate: program.plates[plate], default="")
    double = all(p.initial.dtype == torch.float64 for p in program.parameters.values())  # the model's own digits do
    few = double and program.plates.get(rows, 1) < ROWS and len(sites) < SITES
    atoms, readings, refusals = atoms_of(replace(program, parameters={}), [{}]), dict[str, Reading](), {}
    for name, site in unroll(sites).items():
        if site.role == "prior":
            continue
        try:
            readings[name] = _read(name, site, atoms, rows, few=few)
        except Unrecognised as reason:
            refusals[name] = Refusal(str(reason), frozenset())
    bank = Bank((), (), ())
    found = Recognition(bank, readings, refusals, {}, {}, values, [sites], [values])
    return build(program, found, sites, {}, _living(program, sites))


def _read(name: str, site: Site, atoms: Atoms, rows: str, *, few: bool) -> Reading:
    """Read a site that is to be compiled.

    Raises:
        Unrecognised: the model computes it as well and as fast: of `few` rows, or of arguments that differ by row.
    """
    base, rank = unwrap(site.fn).base, unwrap(site.fn).event_rank
    family = family_of(base)
    if family is None:
        raise Unrecognised("it has no registered family")
    domains = {role.domain for role in family.roles.values()}
    exact = not domains & {"unit", "simplex"} or _by_logits(base) or _inside(base)
    if exact and few:
        raise Unrecognised("the model is as fast")
    if "unit" in domains and _by_logits(base):
        raise Unrecognised("where p is nearly one, 1 - p has no digits left, and its logit has them all")
    args = arguments(family, site)
    by_row = any(
        rows in squeeze(args[key], site.dims, name, rank + role.event_dim).names for key, role in family.roles.items()
    )
    if exact and by_row:
        raise Unrecognised("its arguments differ by row")
    found = read_site([site], atoms)
    known = {k: r if r.constant is None else replace(r, constant=r.constant.double()) for k, r in found.roles.items()}
    return replace(found, roles=known)


def _by_logits(base: Distribution) -> bool:
    """Whether a distribution was given logits, which have more digits than its probabilities."""
    inner = vars(getattr(base, "_categorical", base))
    return "logits" in inner and inner.get("_param") is inner["logits"]


def _inside(base: Distribution) -> bool:
    """Whether all probabilities are ones that torch takes as they are: zeros and ones it moves inside."""
    probs = getattr(base, "probs", None)
    if probs is None or not probs.is_floating_point():
        return False
    eps = torch.finfo(probs.dtype).eps
    return bool(((probs >= eps) & (probs <= 1 - eps)).all())


def _living(program: Program, sites: Mapping[str, Site]) -> dict[str, Named]:
    """Return which entries of latents reach an observation, seen at other parameters too: states may be alike here."""
    if all(bool(mask.tensor.all()) for site in sites.values() for mask in masks_of(site).values()):
        return {}
    generator = torch.Generator().manual_seed(0)
    runs = [run for _, run in probes(program, 1, sites, generator)] if program.parameters else []
    return alive(program, [sites, *runs])
