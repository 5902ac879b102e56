"""Find which arguments of the program are plain selections of its parameters: probe, do not parse.

The model is replayed at random valid parameter values. An argument entry is recognised if in every replay it equals one and
the same entry of a parameter (through one of the `charts`, or times one and the same known factor), or a constant; and if
the gradient of a random combination of all arguments is that of the claimed selections. Real locations that are affine in
their parameters are recognised by evaluating their columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution, transform_to

from .bank import Affine, Bank, RoleMap, Segment, entries_of, gather, packed
from .charts import CHARTS, domain_of
from .families import Family, family_for, family_of
from .named import Named, squeeze, unwrap
from .priors import Prior, read_priors
from .program import Params, Program, Site
from .unroll import FROM, INITIAL, STATE, TIME, TO, TRANSITION, unroll

REPLAYS = 10
LONG_PROGRAM = 1000  # sites; beyond it two replays, far apart, and the check at the end of every fit
EXACT = {torch.float64: 1e-11, torch.float32: 1e-4}  # a selection may pass through a normalisation
AFFINE_ENTRIES = 512
AFFINE_SIZE = 50_000_000


@dataclass(frozen=True)
class Reading:
    """A site of a registered family, all of whose arguments are known or recognised."""

    site: Site
    family: Family
    event_rank: int  # events that are batch dimensions of the family
    mask: Tensor | None = field(repr=False)  # over the batch and event dimensions
    roles: Mapping[str, RoleMap]
    known: Mapping[str, Tensor] = field(repr=False)  # as the distribution holds them, unbroadcast
    parameters: frozenset[str]


@dataclass(frozen=True)
class Refusal:
    """A site that must be replayed: why, and the parameters that enter it."""

    why: str
    parameters: frozenset[str]


@dataclass(frozen=True)
class Recognition:
    """What the probes found."""

    bank: Bank
    readings: Mapping[str, Reading]
    refusals: Mapping[str, Refusal]
    reaches: Mapping[str, frozenset[str]]  # site -> parameters that enter it
    priors: Mapping[str, Prior]
    values: Params = field(repr=False)  # a random point
    runs: Sequence[Mapping[str, Site]] = field(repr=False)  # the program at every probe, that point first


class _Unrecognised(Exception):
    """Says why an argument is no selection."""


def recognise(program: Program) -> Recognition:
    """Probe `program` at random parameter values and read off where every argument comes from."""
    generator = torch.Generator().manual_seed(0)
    replays = 2 if len(program.upstream) > LONG_PROGRAM else REPLAYS
    probes = [_probe(program, k, generator) for k in range(replays)] if program.parameters else []
    start = probes[0][0] if probes else {}
    with program.given(start):  # the weights of a module are leaves in place
        return _recognise(program, probes, *_traced(program, start))


def _recognise(
    program: Program,
    probes: list[tuple[dict[str, Tensor], dict[str, Site]]],
    leaves: dict[str, Tensor],
    traced: dict[str, Site],
) -> Recognition:
    reaches = _reached(traced, leaves)
    probes = probes or [({}, traced)]
    bank = _bank(program, [values for values, _ in probes])
    readings: dict[str, Reading] = {}
    refusals: dict[str, Refusal] = {}
    unrolled = [unroll(sites) for _, sites in probes]
    leaf_sites = unroll(traced)
    for name, site in leaf_sites.items():
        if site.role == "prior":
            continue
        try:
            readings[name] = _read(name, [sites[name] for sites in unrolled], bank)
        except _Unrecognised as reason:
            refusals[name] = Refusal(str(reason), reaches.get(name, frozenset()))
    wanted = {n for n, r in refusals.items() if r.parameters and _may_be_affine(traced[n], r)}
    if wanted:
        for name, reading in _affine(program, wanted, [(v, {n: s[n] for n in wanted}) for v, s in probes], bank):
            readings[name] = reading
            del refusals[name]
    layout = _packed(bank.bank, readings)
    for name in _disagreeing(program, leaves, leaf_sites, readings, layout):
        why = "an argument has a parameter's value but not its gradient"
        refusals[name] = Refusal(why, reaches.get(name, frozenset()))
        del readings[name]
    _keep_whole(leaf_sites, readings, refusals, reaches)
    runs = [sites for _, sites in probes]
    return Recognition(layout, readings, refusals, reaches, read_priors(runs), probes[0][0], runs)


def _keep_whole(
    sites: Mapping[str, Site],
    readings: dict[str, Reading],
    refusals: dict[str, Refusal],
    reaches: Mapping[str, frozenset[str]],
) -> None:
    """A DiscreteHMM is recognised with all its three sites, or not at all."""
    for name in [n for n in sites if n + TRANSITION in sites]:
        parts = (name + INITIAL, name + TRANSITION, name)
        wrong = [part for part in parts if part not in readings]
        latent = [n for part in parts if part in readings for role in readings[part].roles.values() for n in role.names]
        hidden = (name + FROM, name + TO, name + STATE, name + TIME)
        outside = [n for n in latent if n not in hidden and n not in sites[name].plates]
        if not wrong and outside:
            wrong = [f"an argument that depends on {outside[0]}"]
        if wrong:
            why = refusals[wrong[0]].why if wrong[0] in refusals else wrong[0]
            for part in parts:
                readings.pop(part, None)
                refusals.pop(part, None)
            refusals[name] = Refusal(why, reaches[name])


def _packed(bank: Bank, readings: dict[str, Reading]) -> Bank:
    """Keep what the readings use, split by how it is bound; the readings are changed to match."""
    used: dict[str, list[Tensor]] = {"entries": [], "probabilities": [], "matrices": []}
    for reading in readings.values():
        for key, role in reading.roles.items():
            used[_kind(reading.family.roles[key].domain)].append(role.entries)
    entries, where_entry = packed(bank.entries, used["entries"])
    probabilities, where_probability = packed(bank.entries, used["probabilities"])
    matrices, where_matrix = packed(bank.matrices, used["matrices"])
    where = {"entries": where_entry, "probabilities": where_probability, "matrices": where_matrix}
    for name, reading in readings.items():
        roles = {
            key: role
            if role.known or role.affine is not None
            else role.moved(where[_kind(reading.family.roles[key].domain)])
            for key, role in reading.roles.items()
        }
        readings[name] = replace(reading, roles=roles)
    return Bank(entries, probabilities, matrices)


def _kind(domain: str) -> str:
    if domain in ("unit", "simplex"):
        return "probabilities"
    return "matrices" if domain == "scale_tril" else "entries"


# ---- probes ----------------------------------------------------------------------------------------------------------


def draw(program: Program, spread: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Random valid values of all parameters, `spread` away from the initial ones in unconstrained space."""
    return {name: transform(point) for name, (transform, point) in _unconstrained(program, spread, generator).items()}


def _unconstrained(program: Program, spread: float, generator: torch.Generator) -> dict[str, tuple[Any, Tensor]]:
    points = {}
    for name, parameter in program.parameters.items():
        transform = transform_to(parameter.constraint)
        centre = transform.inv(parameter.initial)
        centre = torch.where(torch.isfinite(centre), centre, torch.zeros_like(centre))
        noise = torch.randn(centre.shape, generator=generator, dtype=torch.float64)
        points[name] = transform, centre + spread * noise.to(centre)
    return points


def _probe(program: Program, k: int, generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Replay at a random point; where the model cannot be evaluated there, nearer to its initial values."""
    spread = (0.5, 1.0, 2.0)[k % 3]
    for attempt in range(8):
        values = draw(program, spread * 0.5**attempt, generator)
        try:
            with torch.no_grad():
                return values, program.run(values)
        except (RuntimeError, ValueError):
            if attempt == 7:
                raise
    raise AssertionError


def _traced(program: Program, values: Params) -> tuple[dict[str, Tensor], dict[str, Site]]:
    """Replay with a gradient: leaves are unconstrained values (a module's weights themselves)."""
    leaves, constrained = {}, {}
    for name, value in values.items():
        parameter = program.parameters[name]
        if parameter.tensor is not None:
            leaves[name], constrained[name] = parameter.tensor, value
            continue
        transform = transform_to(parameter.constraint)
        leaves[name] = transform.inv(value).detach().requires_grad_()
        constrained[name] = transform(leaves[name])
    with torch.enable_grad():
        return leaves, program.run(constrained)


def _tensors(site: Site) -> list[Tensor]:
    """Every differentiable tensor that a site's density may depend on."""
    found = [site.value]

    def walk(fn: Distribution) -> None:
        for value in vars(fn).values():
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, Distribution):
                walk(value)
            elif isinstance(value, (list, tuple)):
                found.extend(v for v in value if isinstance(v, Tensor))

    walk(site.fn)
    return [t for t in found if t.requires_grad]


def _reached(traced: Mapping[str, Site], leaves: Mapping[str, Tensor]) -> dict[str, frozenset[str]]:
    """Parameters that each site depends on, by one backward pass a site (of a long program: all, or none)."""
    reached = {}
    for name, site in traced.items():
        tensors = _tensors(site)
        if not tensors or len(traced) > LONG_PROGRAM:
            reached[name] = frozenset(leaves) if tensors else frozenset()
            continue
        grads = torch.autograd.grad(
            sum((t.sum() for t in tensors), torch.zeros(())),
            list(leaves.values()),
            retain_graph=True,
            allow_unused=True,
        )
        reached[name] = frozenset(n for n, g in zip(leaves, grads, strict=True) if g is not None)
    return reached


# ---- matching --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Atoms:
    """The bank at every probe: tiers of positions to try one after the other, and the matrices."""

    bank: Bank
    values: Tensor = field(repr=False)  # (probes, M)
    tiers: tuple[Tensor, ...] = field(repr=False)
    matrices: Tensor | None = field(repr=False)  # (probes, M, D, D); None where there are none, or several sizes
    rtol: float


def _bank(program: Program, values: Sequence[Params]) -> _Atoms:
    segments: list[Segment] = []
    matrices: list[Segment] = []
    offset = matrix_offset = 0
    first, second = [], []
    size = None
    for name, parameter in program.parameters.items():
        if not parameter.initial.is_floating_point() or not parameter.initial.numel():
            continue
        domain = domain_of(parameter.constraint)
        for chart in CHARTS:
            image = chart.domains.get(domain)
            if image == "scale_tril":
                if size in (None, parameter.initial.shape[-1]):
                    size = parameter.initial.shape[-1]
                    count = parameter.initial.numel() // size**2
                    matrices.append(Segment(name, chart, False, matrix_offset, count))
                    matrix_offset += count
                if chart.name != "itself":
                    continue
            if image is None and chart.name != "itself":
                continue
            if image == "simplex" and not parameter.initial.dim():
                continue
            for complement in (False, True) if image in ("unit", "simplex") else (False,):
                segments.append(Segment(name, chart, complement, offset, parameter.initial.numel()))
                plain = chart.name == "itself" and not complement
                (first if plain else second).extend(range(offset, offset + parameter.initial.numel()))
                offset += parameter.initial.numel()
    bank = Bank(tuple(segments), (), tuple(matrices))
    single = any(p.initial.dtype == torch.float32 for p in program.parameters.values())
    return _Atoms(
        bank,
        torch.stack([entries_of(segments, v).double() for v in values])
        if segments
        else torch.zeros((len(values), 0)).double(),
        tuple(torch.tensor(t) for t in (first, second) if t),
        torch.stack([bank.stack(v).double() for v in values]) if matrices else None,
        EXACT[torch.float32 if single else torch.float64],
    )


def _read(name: str, runs: Sequence[Site], atoms: _Atoms) -> Reading:
    """Recognise every argument of one site, from its runs at all probes."""
    site = runs[0]
    inner = [unwrap(run.fn) for run in runs]
    family = family_of(inner[0].base)
    if family is None:
        raise _Unrecognised(f"{type(inner[0].base).__name__} has no registered family")
    if any(not _same(run.value, site.value) for run in runs[1:]):
        raise _Unrecognised("the value of the site depends on a parameter")
    family, args = _narrowest(family, [i.base for i in inner])
    rank, mask = inner[0].event_rank, inner[0].mask
    known = {key: value for key, value in args[0].items() if key not in family.roles}
    roles: dict[str, RoleMap] = {}
    for key, role in family.roles.items():
        stack = [a[key] for a in args]
        if role.domain == "scale_tril":
            matched = _match_matrices(site, stack, atoms)
            if matched is None:
                return _read_diagonal(site, args, rank, mask, atoms)
            roles[key] = matched
        else:
            roles[key] = _match(site, key, role.multiples, stack, rank + role.event_dim, atoms)
    parameters = frozenset[str]().union(*(_entering(atoms.bank, m, family.roles[k].domain) for k, m in roles.items()))
    return Reading(site, family, rank, mask, roles, known, parameters)


def _narrowest(family: Family, bases: Sequence[Distribution]) -> tuple[Family, list[dict[str, Tensor]]]:
    """The first of a family and its wider ones whose known arguments no parameter enters, and what it reads."""
    while True:
        args = [family.read(base) for base in bases]
        known = [key for key in args[0] if key not in family.roles]
        moving = [key for key in known if any(not _same(other[key], args[0][key]) for other in args[1:])]
        if not moving:
            return family, args
        if family.wider is None:
            raise _Unrecognised(f'"{moving[0]}" depends on a parameter')
        family = family.wider


def _entering(bank: Bank, role: RoleMap, domain: str) -> frozenset[str]:
    """Parameters of a role while all entries are in one list still."""
    return bank.parameters(role, "scale_tril" if domain == "scale_tril" else "real")


def _read_diagonal(site: Site, args: Sequence[Mapping[str, Tensor]], rank: int, mask: Any, atoms: _Atoms) -> Reading:
    """A MultivariateNormal whose factor is diagonal in every replay is a row of Normals."""
    trils = [a["scale_tril"] for a in args]
    off = ~torch.eye(trils[0].shape[-1], dtype=torch.bool, device=trils[0].device)
    if any(bool((tril[..., off] != 0).any()) for tril in trils):
        raise _Unrecognised("the covariance is no whole matrix parameter, nor diagonal")
    roles = {
        "loc": _match(site, "loc", True, [a["loc"] for a in args], rank + 1, atoms),
        "scale": _match(site, "scale", True, [t.diagonal(dim1=-2, dim2=-1) for t in trils], rank + 1, atoms),
    }
    parameters = frozenset[str]().union(*(_entering(atoms.bank, m, "real") for m in roles.values()))
    mask = None if mask is None else mask.unsqueeze(-1)
    return Reading(site, family_for(dist.Normal), rank + 1, mask, roles, {}, parameters)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))


def _match(site: Site, role: str, multiples: bool, stack: Sequence[Tensor], event_dim: int, atoms: _Atoms) -> RoleMap:
    """Map an argument entry by entry."""
    first = squeeze(stack[0].detach(), site.dims, site.name, event_dim)
    shape = first.tensor.shape
    entries = torch.stack([s.detach().reshape(-1) for s in stack]).double()
    index = torch.full((entries.shape[1],), -1)
    coefficient = torch.ones(entries.shape[1], dtype=torch.float64)
    varying = ~((entries == entries[0]) | entries.isnan()).all(0)
    for wanted in (False, True) if multiples else (False,):
        for tier in atoms.tiers:
            todo = (varying & (index < 0)).nonzero().squeeze(-1)
            if len(todo):
                found, factor = _search(entries[:, todo], atoms.values[:, tier], atoms.rtol, multiples=wanted)
                hit = found >= 0
                index[todo[hit]] = tier[found[hit]]
                coefficient[todo[hit]] = factor[hit]
    if bool((varying & (index < 0)).any()):
        raise _Unrecognised(f'"{role}" is no selection of a parameter')
    constant = None if bool(varying.all()) else first.tensor.contiguous()
    if constant is not None and varying.any():
        constant = torch.where(varying.reshape(shape), 0.0, constant)
    coefficients = None if bool((coefficient == 1).all()) else coefficient.reshape(shape)
    return _compressed(RoleMap(first.names, index.reshape(shape), coefficients, constant))


def _search(entries: Tensor, bank: Tensor, rtol: float, *, multiples: bool) -> tuple[Tensor, Tensor]:
    """Find for every column of `entries` the column of `bank` that equals it (up to a factor) in all probes."""
    if multiples:
        if len(entries) < 2:
            return torch.full((entries.shape[1],), -1), torch.ones(entries.shape[1])
        keys, sought = bank[1] / bank[0], entries[1] / entries[0]
    else:
        keys, sought = bank[0], entries[0]
    keys, order = torch.where(keys.isfinite(), keys, torch.inf).sort(stable=True)
    slack = rtol * (1 + sought.abs())
    at = torch.searchsorted(keys, torch.where(sought.isfinite(), sought, torch.inf) - slack).clamp(max=len(keys) - 1)
    candidate = order[at]
    near = bank[:, candidate]
    factor = torch.ones(entries.shape[1], dtype=torch.float64)
    if multiples:
        factor = entries[0] / near[0]
        factor = torch.where(factor.isfinite(), factor, 0.0)
    agree = ((entries - factor * near).abs() <= rtol * entries.abs()).all(0) & (factor != 0)
    return torch.where(agree, candidate, -1), factor


def _match_matrices(site: Site, stack: Sequence[Tensor], atoms: _Atoms) -> RoleMap | None:
    """Map a matrix argument whole; None where it is no matrix parameter."""
    first = squeeze(stack[0].detach(), site.dims, site.name, 2)
    shape, dim = first.tensor.shape[:-2], first.tensor.shape[-1]
    if all(_same(s, stack[0]) for s in stack[1:]):
        return RoleMap(first.names, torch.full(shape, -1), None, first.tensor)
    if atoms.matrices is None or atoms.matrices.shape[-1] != dim:
        return None
    entries = torch.stack([s.detach().reshape(-1, dim, dim) for s in stack]).double()
    distance = (entries[0, :, None, 0, 0] - atoms.matrices[0, None, :, 0, 0]).abs()
    index = distance.argmin(1)
    near = atoms.matrices[:, index]
    scale = near.abs().amax((-2, -1), keepdim=True)
    if bool(((entries - near).abs() > 1e3 * atoms.rtol * scale).any()):
        return None
    return _compressed(RoleMap(first.names, index.reshape(shape)))


def _compressed(role: RoleMap) -> RoleMap:
    """Drop named dimensions along which the program only materialised copies."""
    for k in reversed(range(len(role.names))):
        parts = (role.index, role.coefficient, role.constant)
        if all(p is None or bool((p == p.narrow(k, 0, 1)).all()) for p in parts):
            cut = [None if p is None else p.select(k, 0) for p in parts]
            role = RoleMap(role.names[:k] + role.names[k + 1 :], cut[0], cut[1], cut[2])  # type: ignore[arg-type]
    return role


# ---- affine locations ------------------------------------------------------------------------------------------------


def _may_be_affine(site: Site, refusal: Refusal) -> bool:
    family = family_of(unwrap(site.fn).base)
    return family is not None and family.solver == "normal" and '"loc"' in refusal.why


def _affine(
    program: Program, names: set[str], probes: Sequence[tuple[Params, Mapping[str, Site]]], atoms: _Atoms
) -> Iterator[tuple[str, Reading]]:
    """Evaluate the columns of the locations of `names`, and keep those that explain every probe."""
    real = [n for n, p in program.parameters.items() if domain_of(p.constraint) == "real"]
    entries = [(n, i) for n in real for i in range(program.parameters[n].initial.numel())]
    if not entries or len(entries) > AFFINE_ENTRIES:
        return
    values = dict(probes[0][0]) | {n: torch.zeros_like(program.parameters[n].initial) for n in real}

    def location(at: Params) -> dict[str, Tensor]:
        with torch.no_grad():
            sites = program.run(at)
        return {n: unwrap(sites[n].fn).base for n in names}  # type: ignore[misc]

    offsets = _locations(location(values))
    columns: dict[str, list[Tensor]] = {n: [] for n in names}
    for name, i in entries:
        unit = torch.zeros_like(values[name]).flatten()
        unit[i] = 1
        moved = _locations(location(values | {name: unit.reshape(values[name].shape)}))
        for n in names:
            columns[n].append(moved[n] - offsets[n])
    for name in sorted(names):
        used = [j for j, column in enumerate(columns[name]) if bool((column != 0).any())]
        size = sum(columns[name][j].numel() for j in used)
        if not used or size > AFFINE_SIZE:
            continue
        design = torch.stack([columns[name][j] for j in used], -1)
        chosen = tuple(entries[j] for j in used)
        exact = True
        for at, sites in probes:
            theta = torch.stack([at[n].flatten()[i] for n, i in chosen])
            truth = _locations({name: unwrap(sites[name].fn).base})[name]
            exact &= bool(((offsets[name] + design @ theta - truth).abs() <= 1e-9 * (1 + truth.abs())).all())
        if exact:
            reading = _affine_reading(name, [s[name] for _, s in probes], offsets[name], design, chosen, atoms)
            if reading is not None:
                yield name, reading


def _locations(bases: Mapping[str, Any]) -> dict[str, Tensor]:
    families = {n: family_of(base) for n, base in bases.items()}
    return {n: f.read(bases[n])["loc"].detach() for n, f in families.items() if f is not None}


def _affine_reading(
    name: str, runs: Sequence[Site], offset: Tensor, design: Tensor, chosen: Any, atoms: _Atoms
) -> Reading | None:
    site, inner = runs[0], [unwrap(run.fn) for run in runs]
    family, rank = family_of(inner[0].base), inner[0].event_rank
    assert family is not None
    try:
        scale = _match(site, "scale", True, [family.read(i.base)["scale"] for i in inner], rank, atoms)
    except _Unrecognised:
        return None
    flat = squeeze(offset, site.dims, name, rank)
    design = design.reshape(*flat.tensor.shape, design.shape[-1])
    affine = Affine(chosen, flat.tensor, design)
    roles = {"loc": RoleMap(flat.names, torch.full(flat.tensor.shape, -1), affine=affine), "scale": scale}
    parameters = _entering(atoms.bank, scale, "real") | {n for n, _ in chosen}
    return Reading(site, family, rank, inner[0].mask, roles, {}, parameters)


# ---- the second certificate: gradients -------------------------------------------------------------------------------


def _disagreeing(
    program: Program,
    leaves: Mapping[str, Tensor],
    traced: Mapping[str, Site],
    readings: Mapping[str, Reading],
    bank: Bank,
) -> list[str]:
    """Sites whose arguments have not the gradient that their maps claim, in two random combinations of all of them."""
    if not leaves or not readings:
        return []
    params = {n: transform_to(program.parameters[n].constraint)(leaf) for n, leaf in leaves.items()}
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    atoms = {"entries": bank.values(params), "probabilities": entries_of(bank.probabilities, params)}
    if bank.matrices:
        atoms["matrices"] = bank.stack(params)
    for name, reading in readings.items():
        args = arguments(reading.family, traced[name])
        for key, role in reading.roles.items():
            kind = _kind(reading.family.roles[key].domain)
            claim = gather(role, atoms.get(kind, torch.zeros(0)), params)
            event = reading.event_rank + reading.family.roles[key].event_dim
            truth = squeeze(args[key], traced[name].dims, name, event)
            claim = Named(claim, role.names).align(truth.names).expand(truth.tensor.shape)
            pairs.setdefault(name, []).append((truth.tensor, claim))
    generator = torch.Generator().manual_seed(1)

    def agree(names: Sequence[str]) -> bool:
        difference, size = torch.zeros(()), torch.zeros(())
        for name in names:
            for truth, claim in pairs[name]:
                v = torch.randn(truth.shape, generator=generator, dtype=torch.float64).to(truth)
                difference = difference + (v * (truth - claim)).sum()
                size = size + (v * claim).sum()
        if not difference.requires_grad:
            return True
        targets = list(leaves.values())
        off = torch.autograd.grad(difference, targets, retain_graph=True, allow_unused=True)
        scale = torch.autograd.grad(size, targets, retain_graph=True, allow_unused=True) if size.requires_grad else off
        top = max((float(g.abs().max()) for g in (*off, *scale) if g is not None and g.numel()), default=0.0)
        worst = max((float(g.abs().max()) for g in off if g is not None and g.numel()), default=0.0)
        single = any(leaf.dtype == torch.float32 for leaf in targets)
        return worst <= (1e-3 if single else 1e-8) * (1 + top)

    if all(agree(list(pairs)) for _ in range(2)):
        return []
    return [name for name in pairs if not (agree([name]) and agree([name]))]


def arguments(family: Family, site: Site) -> dict[str, Tensor]:
    """Arguments of a site as `family` reads them; a diagonal MultivariateNormal is read as a row of Normals."""
    base = unwrap(site.fn).base
    tril = family_for(type(base)).read(base)
    if "scale_tril" in family.roles or "scale_tril" not in tril:
        return family.read(base)
    return {"loc": tril["loc"], "scale": tril["scale_tril"].diagonal(dim1=-2, dim2=-1)}
