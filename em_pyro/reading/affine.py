"""Arguments that are affine in their parameters, through a link: the link is inverted on the argument that was read.

A real parameter enters as it is, a positive one by its logarithm: `lam[z] * (x @ b).exp()` has an affine logarithm.

What the columns say must explain every probe; and the gradient check of `recognise` follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ..families import Family, family_for, family_of
from ..families.charts import CHARTS, COORDINATES, domain_of
from ..program.masks import seen
from ..program.named import Named, Params, batched, squeeze, unwrap
from ..program.program import Program
from ..program.site import Site
from .bank import RoleMap
from .design.columns import columns
from .design.replays import Linked
from .match import Atoms, entering, match, match_matrices
from .predictor import Affine
from .reading import Reading, Refusal, Unrecognised, narrowest

LINKS = {"real": ("itself",), "positive": ("exp", "softplus"), "unit": ("sigmoid",), "simplex": ("softmax",)}
"""Through which functions a predictor may enter an argument, by the argument's domain."""

ENTRIES = 1000  # of the parameters that reach a site: a Hessian of more is too large, and a network is not affine
STILL = 1e-4  # of its size, by which what moves no more has no digits of the parameters
SAME = {torch.float64: 1e-9, torch.float32: 1e-4}
CHART = {chart.name: chart for chart in CHARTS}


class Own(NamedTuple):
    """A site as it is read: a MultivariateNormal whose factor is diagonal in every run is a row of Normals."""

    family: Family
    args: Sequence[Mapping[str, Tensor]]  # in every run
    rank: int  # events
    seen: Named | None
    matrices: Mapping[str, RoleMap]  # arguments that are whole matrices of parameters


def own(family: Family, runs: Sequence[Site], atoms: Atoms) -> Own:
    """Return how a site is read whose distribution belongs to a family.

    Raises:
        Unrecognised: a covariance that is neither a matrix parameter nor diagonal; a known argument that is not.
    """
    site, inner = runs[0], [unwrap(run.fn) for run in runs]
    family, args = narrowest(family, [one.base for one in inner])
    rank, part = inner[0].event_rank, seen(site)
    square = [key for key, role in family.roles.items() if role.domain == "scale_tril"]
    stacks = {key: [own[key] for own in args] for key in square}
    matched = {key: match_matrices(site, stack, atoms) for key, stack in stacks.items()}
    matrices = {key: role for key, role in matched.items() if role is not None}
    if len(matrices) == len(square):
        return Own(family, args, rank, part, matrices)
    trils = stacks["scale_tril"]
    off = ~torch.eye(trils[0].shape[-1], dtype=torch.bool, device=trils[0].device)
    if any(bool((tril[..., off] != 0).any()) for tril in trils):
        raise Unrecognised("the covariance is no whole matrix parameter, nor diagonal")
    rows = [{"loc": own["loc"], "scale": own["scale_tril"].diagonal(dim1=-2, dim2=-1)} for own in args]
    if part is not None:
        part = Named(part.tensor.unsqueeze(-1), part.names)  # all coordinates of a row, or none
    return Own(family_for(dist.Normal), rows, rank + 1, part, {})


def may_be_affine(site: Site, refusal: Refusal) -> bool:
    """Tell whether what was refused is an argument that is computed from parameters."""
    computed = refusal.why.endswith("is computed from parameters, not selected from one")
    return computed and family_of(unwrap(site.fn).base) is not None


def affine_readings(
    program: Program,
    wanted: Mapping[str, frozenset[str]],
    probes: Sequence[tuple[Params, Mapping[str, Site]]],
    atoms: Atoms,
    *,
    values: bool = False,
) -> Iterator[tuple[str, Reading]]:
    """Find the sites among `wanted` (with the parameters that reach them) that are affine through a link.

    Args:
        program: what is read.
        wanted: sites with the parameters that reach them.
        probes: values of all parameters, and the program there.
        atoms: what arguments may be selections of.
        values: whether locations are to be affine in all parameters as they are, whatever constrains them.
    """
    size = {name: sum(program.parameters[n].initial.numel() for n in reach) for name, reach in wanted.items()}
    wanted = {name: reach for name, reach in wanted.items() if 0 < size[name] <= ENTRIES}
    runs = {name: [sites[name] for _, sites in probes] for name in wanted}
    matched = {name: _matched(runs[name], atoms) for name in wanted}
    links = [link for _, links in matched.values() for link in links if not (values and link.unitless)]
    reach = frozenset[str]().union(*wanted.values())
    domains = {n: domain_of(p.constraint) for n, p in program.parameters.items() if n in reach}
    coordinates = {n: COORDINATES[domain] for n, domain in domains.items() if domain in ("real", "positive")}
    if values:
        coordinates = dict.fromkeys(domains, COORDINATES["real"])
    if not links or not coordinates:
        return
    try:
        candidates = list(columns(program, coordinates, probes[0][0], links))
    except (RuntimeError, ValueError):  # there is no model where coordinates are zero: a matrix that has no inverse
        return
    found: dict[str, dict[str, Affine]] = {}
    for link, affine in candidates:
        if link.role not in found.get(link.site, {}) and _explains(link, affine, probes):
            found.setdefault(link.site, {})[link.role] = affine
    for name in wanted:
        roles, open_roles = matched[name]
        affines = found.get(name, {})
        if affines and affines.keys() == {link.role for link in open_roles}:
            yield name, _reading(runs[name], roles, affines, atoms)


def _matched(runs: Sequence[Site], atoms: Atoms) -> tuple[dict[str, RoleMap], list[Linked]]:
    """Return the selections among the arguments of a site, and the links to be tried for the others."""
    first = family_of(unwrap(runs[0].fn).base)
    assert first is not None
    family, args, rank, _, matrices = own(first, runs, atoms)
    roles: dict[str, RoleMap] = {**matrices}
    links: list[Linked] = []
    for key, role in family.roles.items():
        if key in roles:
            continue
        try:
            stack = [a[key] for a in args]
            roles[key] = match(runs[0], key, stack, rank + role.event_dim, atoms, multiples=role.multiples)
        except Unrecognised:
            for name in LINKS.get(role.domain, ()) if role.event_dim <= 1 else ():
                link = Linked(runs[0].name, key, CHART[name], family, rank)
                links.append(_counted(link, runs) if name == "softmax" else link)
            if key not in {link.role for link in links}:
                return {}, []
    return roles, links


def _counted(link: Linked, runs: Sequence[Site]) -> Linked:
    """Return the link with the category of each row from which its predictors count: the first that is possible.

    A category that a program rules out by a logit of -1e9 has no digit of the parameters beside it. Its probability is
    zero, wherever they are: it is ruled out as by minus infinity.
    """
    logits = [link.raw(run) for run in runs]
    first, shares = logits[0], [torch.softmax(each, -1) for each in logits]
    never = torch.stack([share == 0 for share in shares]).all(0)
    for each in logits[1:]:
        never = never & ((each == first) | ((each - first).abs() <= STILL * first.abs()))
    possible = shares[0] > 0
    everywhere = possible.reshape(-1, possible.shape[-1]).all(0)
    if bool(everywhere.any()):  # one for all rows, so that the design does not vary with them for it
        possible = everywhere.expand(possible.shape)
    reference = possible.byte().argmax(-1, keepdim=True)
    return replace(link, reference=reference, never=never if bool(never.any()) else None)


def _explains(link: Linked, affine: Affine, probes: Sequence[tuple[Params, Mapping[str, Site]]]) -> bool:
    """Tell whether the argument is what the predictor says at every probe."""
    for values, sites in probes:
        site = sites[link.site]
        truth = link.argument(site).tensor.double()
        under = link.predictor(site).tensor
        claim = affine.predictor(batched({n: v.double() for n, v in values.items()})).squeeze(0)
        rtol = SAME[torch.float32 if any(v.dtype == torch.float32 for v in values.values()) else torch.float64]
        size = torch.ones((), dtype=torch.float64) if link.unitless else under[torch.isfinite(under)].abs().max()
        same = (claim == under) | ((claim - under).abs() <= rtol * (size + under.abs()))
        if not bool(same.all()):  # where a link saturates, the predictor cannot be read off any more
            argument = affine.chart.forward(claim).expand(truth.shape)
            scale = truth.abs() if link.chart.name in ("exp", "softplus") else 1.0
            same = same | (argument == truth) | ((argument - truth).abs() <= rtol * scale)
        if not bool(same.all()):
            return False
    return True


def _reading(
    runs: Sequence[Site], roles: Mapping[str, RoleMap], affines: Mapping[str, Affine], atoms: Atoms
) -> Reading:
    """Put the reading of a site together from arguments that were matched and those that are affine."""
    site, first = runs[0], family_of(unwrap(runs[0].fn).base)
    assert first is not None
    family, args, rank, part, _ = own(first, runs, atoms)
    known = {key: value for key, value in args[0].items() if key not in family.roles}
    maps: dict[str, RoleMap] = {}
    parameters: set[str] = set()
    for key, role in family.roles.items():
        if key in roles:
            maps[key] = roles[key]
            parameters |= entering(atoms.bank, roles[key], role.domain)
            continue
        affine = affines[key]
        names = squeeze(args[0][key], site.dims, site.name, rank + role.event_dim).names
        for d in reversed(range(len(names))):
            if affine.shape[d] == 1:
                names = names[:d] + names[d + 1 :]
                affine = affine.changed(partial(_without, d))
        maps[key] = RoleMap(names, torch.full((), -1).expand(affine.shape), affine=affine)
        parameters |= {name for name, _ in affine.entries}
    return Reading(site, family, rank, part, maps, known, frozenset(parameters))


def _without(d: int, part: Tensor, slots: int) -> Tensor:
    """Drop a dimension along which nothing varies; slots stay last."""
    assert d < part.dim() - slots
    return part.squeeze(d)
