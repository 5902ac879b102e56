"""Find which arguments of the program are plain selections of its parameters: probe, do not parse.

The model is replayed at random valid parameter values. An argument entry is recognised if in every replay it equals one
and the same entry of a parameter (through one of the `charts`, or times one and the same known factor), or a constant;
and if the gradient of a random combination of all arguments is that of the claimed selections. Arguments that are
affine in real parameters, through a link, are recognised by evaluating their columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import transform_to

from ..errors import EMError
from ..families import family_for, family_of
from ..program.devices import seeded
from ..program.marks import not_fitted, reached, traced_run
from ..program.masks import seen
from ..program.named import Batch, Named, batched, squeeze, unwrap
from ..program.probes import LONG_PROGRAM, probes
from ..program.program import Program
from ..program.site import Site
from ..program.unroll import unroll, user_site
from .affine import affine_readings, may_be_affine
from .bank import Bank, RoleMap, bound_once, entries_of, list_of, packed
from .cut import cut_off
from .improper import refuse_missing_values, refuse_mixed_priors, unbounded
from .latents.constants import latents_of
from .latents.few_rows import carried_over, few_rows
from .match import Atoms, atoms_of, divided, entering, match, match_matrices, narrowest, same
from .priors import read_priors
from .reading import Reading, Recognition, Refusal, Unrecognised, arguments
from .shapes import with_shapes

REPLAYS = 10

Probe = tuple[dict[str, Tensor], dict[str, Site]]
"""Values of all parameters, and the program there."""


def recognise(program: Program, first: Mapping[str, Site] | None = None) -> Recognition:
    """Probe `program` at random parameter values and read off where every argument comes from.

    Args:
        program: what is read.
        first: the program at its initial values, where it has been run there.
    """
    if (rows := few_rows(program)) is not None:
        try:
            read = carried_over(rows, recognise(rows.few))
        except EMError:  # is said of all rows, with their numbers
            read = None
        if read is not None:
            return read
    generator = torch.Generator().manual_seed(0)
    replays = 2 if len(program.upstream) > LONG_PROGRAM else REPLAYS
    found: list[Probe] = []
    if program.parameters:
        first = first or program.run({name: parameter.initial for name, parameter in program.parameters.items()})
        found = probes(program, replays, first, generator)
    start = found[0][0] if found else {}
    with program.given(start):  # the weights of a module are leaves in place
        return _recognise(program, found, *traced_run(program, start))


def _recognise(
    program: Program,
    probes: Sequence[Probe],
    leaves: dict[str, Tensor],
    traced: dict[str, Site],
) -> Recognition:
    refuse_mixed_priors(program, traced)
    refuse_missing_values(leaves, traced)
    leaf_sites = unroll(traced)
    reaches = reached(leaf_sites, leaves)
    probes = probes or [({}, traced)]
    bank = atoms_of(program, [values for values, _ in probes])
    readings: dict[str, Reading] = {}
    refusals: dict[str, Refusal] = {}
    unrolled = [unroll(sites) for _, sites in probes]
    for name, site in leaf_sites.items():
        if site.role == "prior":
            continue
        try:
            readings[name] = read_site(name, [sites[name] for sites in unrolled], bank)
        except Unrecognised as reason:
            entering = {n: probes[0][0][n] for n in reaches.get(name, frozenset())}
            refusals[name] = Refusal(divided(unrolled[0][name], entering) or str(reason), frozenset(entering))
    wanted = {
        name: reaches.get(user_site(name), frozenset())
        for name, refusal in refusals.items()
        if may_be_affine(leaf_sites[name], refusal)
    }
    if wanted:
        probed = [(values, sites) for (values, _), sites in zip(probes, unrolled, strict=True)]
        for name, reading in affine_readings(program, wanted, probed, bank):
            readings[name] = reading
            del refusals[name]
    layout = _packed(bank.bank, readings)
    cut: dict[str, tuple[str, ...]] = {}
    points = [values for values, _ in probes]
    for name, apart in _disagreeing(program, leaves, leaf_sites, readings, layout).items():
        without = apart & readings[name].parameters
        still = "a gradient reaches an argument whose values do not move"
        why = "an argument has a parameter's value but not its gradient" if without else still
        refusals[name] = Refusal(why, reaches.get(name, frozenset()) | readings[name].parameters)
        cut |= {parameter: (*cut.get(parameter, ()), name) for parameter in without}
        del readings[name]
    computed = [name for name in refusals if not any(name in sites for sites in cut.values())]
    for parameter, sites in cut_off(program, computed, reaches, list(zip(points, unrolled, strict=True))).items():
        cut[parameter] = (*cut.get(parameter, ()), *sites)
    runs = [sites for _, sites in probes]
    outside, priors = not_fitted(traced, leaves), with_shapes(read_priors(runs), runs, bank)
    endless = unbounded(program, points[0], leaves, traced)
    found = Recognition(layout, readings, refusals, reaches, priors, points[0], runs, points, cut, outside, endless)
    return replace(found, latents=latents_of(program, found))


def _packed(bank: Bank, readings: dict[str, Reading]) -> Bank:
    """Keep what the readings use, split by how it is bound; the readings are changed to match."""
    used: dict[str, list[Tensor]] = {"entries": [], "probabilities": [], "matrices": []}
    for reading in readings.values():
        for key, role in reading.roles.items():
            used[list_of(reading.family.roles[key].domain)].append(role.entries)
    entries, where_entry = packed(bank.entries, used["entries"])
    probabilities, where_probability = packed(bank.entries, used["probabilities"])
    matrices, where_matrix = packed(bank.matrices, used["matrices"])
    where = {"entries": where_entry, "probabilities": where_probability, "matrices": where_matrix}
    moved: dict[tuple[int, str], Tensor] = {}  # the steps of a loop share one index, before and after
    for name, reading in readings.items():
        roles = {}
        for key, role in reading.roles.items():
            kind = list_of(reading.family.roles[key].domain)
            if not role.known and role.affine is None:
                if (id(role.index), kind) not in moved:
                    moved[id(role.index), kind] = role.moved(where[kind]).index
                role = replace(role, index=moved[id(role.index), kind])
            roles[key] = role
        readings[name] = replace(reading, roles=roles)
    return Bank(entries, probabilities, matrices)


def read_site(name: str, runs: Sequence[Site], atoms: Atoms) -> Reading:
    """Recognise every argument of one site, from its runs at all probes."""
    site = runs[0]
    inner = [unwrap(run.fn) for run in runs]
    family = family_of(inner[0].base)
    if family is None:
        raise Unrecognised(f"{type(inner[0].base).__name__} has no registered family")
    if any(not same(run.value, site.value) for run in runs[1:]):
        raise Unrecognised("the value of the site depends on a parameter")
    family, args = narrowest(family, [i.base for i in inner])
    rank = inner[0].event_rank
    known = {key: value for key, value in args[0].items() if key not in family.roles}
    roles: dict[str, RoleMap] = {}
    for key, role in family.roles.items():
        stack = [a[key] for a in args]
        if role.domain == "scale_tril":
            matched = match_matrices(site, stack, atoms)
            if matched is None:
                return _read_diagonal(site, args, rank, atoms)
            roles[key] = matched
        else:
            roles[key] = match(site, key, stack, rank + role.event_dim, atoms, multiples=role.multiples)
    parameters = frozenset[str]().union(*(entering(atoms.bank, m, family.roles[k].domain) for k, m in roles.items()))
    return Reading(site, family, rank, seen(site), roles, known, parameters)


def _read_diagonal(site: Site, args: Sequence[Mapping[str, Tensor]], rank: int, atoms: Atoms) -> Reading:
    """Read a MultivariateNormal whose factor is diagonal in every replay as a row of Normals."""
    trils = [a["scale_tril"] for a in args]
    off = ~torch.eye(trils[0].shape[-1], dtype=torch.bool, device=trils[0].device)
    if any(bool((tril[..., off] != 0).any()) for tril in trils):
        raise Unrecognised("the covariance is no whole matrix parameter, nor diagonal")
    scales = [t.diagonal(dim1=-2, dim2=-1) for t in trils]
    roles = {
        "loc": match(site, "loc", [a["loc"] for a in args], rank + 1, atoms, multiples=True),
        "scale": match(site, "scale", scales, rank + 1, atoms, multiples=True),
    }
    parameters = frozenset[str]().union(*(entering(atoms.bank, m, "real") for m in roles.values()))
    part = seen(site)
    part = None if part is None else Named(part.tensor.unsqueeze(-1), part.names)  # all coordinates of a row, or none
    return Reading(site, family_for(dist.Normal), rank + 1, part, roles, {}, parameters)


Pair = tuple[Tensor, Tensor]
"""An argument as the model computed it, and as its map claims, of one shape."""


def _disagreeing(
    program: Program,
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
    readings: Mapping[str, Reading],
    bank: Bank,
) -> dict[str, frozenset[str]]:
    """Return the sites whose arguments have not the gradient that their maps claim, and for which parameters.

    An entry may have a parameter's value at every probe and yet not depend on it (it is detached), or depend on another
    that is always equal. A random combination of all arguments at once tells; only where it differs are the sites
    looked at one by one, which takes a backward pass for each.

    Args:
        program: what was run.
        leaves: the unconstrained values from which `traced` was computed.
        traced: the program's sites, with their gradients.
        readings: of those sites.
        bank: what the maps of the readings select from.
    """
    if not leaves or not readings:
        return {}
    batch = batched({n: transform_to(program.parameters[n].constraint)(leaf) for n, leaf in leaves.items()})
    pairs = _claims(traced, readings, bank, batch)
    generator = torch.Generator().manual_seed(1)
    every = [pair for of_site in pairs.values() for pair in of_site]
    if not _apart(every, leaves, generator):
        return {}
    apart = {n: _apart(own, leaves, generator) | _apart(own, leaves, generator) for n, own in pairs.items()}
    return {name: parameters for name, parameters in apart.items() if parameters}


def _claims(
    traced: Mapping[str, Site], readings: Mapping[str, Reading], bank: Bank, batch: Batch
) -> dict[str, list[Pair]]:
    """Pair every argument that a parameter enters, or is said to enter, with what its map claims, by site."""
    pairs: dict[str, list[Pair]] = {}
    atoms = {"entries": bank.values(batch), "probabilities": entries_of(bank.probabilities, batch)}
    if bank.matrices:
        atoms["matrices"] = bank.stack(batch)
    claims: dict[object, Tensor] = {}
    for name, reading in readings.items():
        args = arguments(reading.family, traced[name])
        for key, role in reading.roles.items():
            kind = list_of(reading.family.roles[key].domain)
            event = reading.event_rank + reading.family.roles[key].event_dim
            truth = squeeze(args[key], traced[name].dims, name, event)
            if role.known and not truth.tensor.requires_grad:
                continue
            # the steps of a loop make one claim, so that it is evaluated once
            where = tuple(truth.names.index(n) for n in role.names)
            same = (id(role.index), id(role.coefficient), id(role.constant), id(role.affine), kind, where)
            if same not in claims or claims[same].shape != truth.tensor.shape:
                claim = bound_once(role, atoms.get(kind, torch.zeros(0)), batch)
                claims[same] = Named(claim, role.names).align(truth.names).expand(truth.tensor.shape)
            pairs.setdefault(name, []).append((truth.tensor, claims[same]))
    return pairs


def _apart(pairs: Sequence[Pair], leaves: Mapping[str, Tensor], generator: torch.Generator) -> frozenset[str]:
    """Return the parameters in which one random combination of all arguments has another gradient than that of claims.

    Every argument counts in units of its size. A parameter that no claim has, or that a row of one entry divides out,
    may have the gradient of rounding.
    """
    difference, size = torch.zeros(()), torch.zeros(())
    alike: dict[object, tuple[Tensor, list[Tensor]]] = {}
    for truth, claim in pairs:  # those with one claim in one operation
        alike.setdefault((id(claim), truth.dtype), (claim, []))[1].append(truth)
    for claim, truths in alike.values():
        truth = torch.stack(truths)
        v = seeded(torch.randn, truth.shape, generator=generator, dtype=torch.float64).to(truth)
        v = v / _size(truth)
        difference = difference + (v * (truth - claim)).sum()
        size = size + (v * claim).sum()
    if not difference.requires_grad:
        return frozenset()
    targets = list(leaves.values())
    single = torch.float32 in {leaf.dtype for leaf in targets}
    share, rounding = (1e-3, 1e-5) if single else (1e-8, 1e-12)
    off = torch.autograd.grad(difference, targets, retain_graph=True, allow_unused=True)
    over = {name: _largest(a) - rounding / _size(leaf) for (name, leaf), a in zip(leaves.items(), off, strict=True)}
    if not any(not more <= 0 for more in over.values()):
        return frozenset()  # whatever is claimed
    claimed: Sequence[Tensor | None] = [None] * len(targets)
    if size.requires_grad:
        claimed = torch.autograd.grad(size, targets, retain_graph=True, allow_unused=True)
    return frozenset(n for (n, more), b in zip(over.items(), claimed, strict=True) if not more <= share * _largest(b))


def _size(tensor: Tensor) -> float:
    """Return the largest absolute value that is finite; one if that is zero."""
    found = tensor.detach().abs().nan_to_num(0.0, posinf=0.0)
    return (float(found.max()) if found.numel() else 0.0) or 1.0


def _largest(gradient: Tensor | None) -> float:
    """Return the largest absolute entry; zero of none."""
    return float(gradient.abs().max()) if gradient is not None and gradient.numel() else 0.0
