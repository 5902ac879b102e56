"""Match the entries of an argument with the entries of the parameters, by their values at all probes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor

from ..families.charts import CHARTS, domain_of
from ..program.named import Named, Params, squeeze, unwrap
from ..program.program import Program
from ..program.site import Parameter, Site
from ..records.frozen import frozen
from .bank import Bank, RoleMap, Segment, entries_of
from .reading import Unrecognised, same

REMEMBERED = 10_000  # entries, in all replays, up to which a match is remembered by them
FEW = 1000  # entries of an argument that are looked at first
TOGETHER = 10_000  # entries of matrices, in some of the replays, that are compared at once
EXACT = {torch.float64: 1e-11, torch.float32: 1e-4}  # a selection may pass through a normalisation


@frozen
class Tier:
    """Atoms that are tried together, at every probe; each kind of key is put in order once."""

    positions: Tensor  # in the bank, shape (M)
    values: Tensor  # shape (probes, M)

    @cached_property
    def entries(self) -> tuple[Tensor, Tensor]:
        """Values at the first probe, in order, and the atoms that have them."""
        return _in_order(self.values[0])

    @cached_property
    def growth(self) -> tuple[Tensor, Tensor]:
        """What the second probe is of the first one, which no known factor changes."""
        return _in_order(self.values[1] / self.values[0])


def _in_order(keys: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(keys.isfinite(), keys, torch.inf).sort(stable=True)


@frozen
class Atoms:
    """The bank at every probe: tiers of atoms to try one after the other, and the matrices."""

    bank: Bank
    tiers: tuple[Tier, ...] = field(repr=False)
    matrices: Tensor | None = field(repr=False)  # (probes, M, D, D); None where there are none
    sizes: Tensor = field(repr=False)  # rows of each of them, (M)
    rtol: float
    matched: dict[object, tuple[RoleMap, tuple[int, ...]] | None] = field(default_factory=dict, repr=False)
    """What was found before, by the values of an argument: the steps of a loop are matched once."""
    still: dict[torch.Size, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    """Of what no parameter enters, by its shape: the index, and the positions that occur."""


def atoms_of(program: Program, values: Sequence[Params]) -> Atoms:
    """Lay all parameters out through all charts, and evaluate them at every probe.

    Args:
        program: whose parameters they are.
        values: of the parameters, at every probe.
    """
    segments = _segments(program.parameters.values())
    matrices = _matrices(program.parameters.values())
    bank, used = Bank(segments, (), matrices), {s.parameter for s in (*segments, *matrices)}
    batch = {name: torch.stack([value[name] for value in values]) for name in used}
    entries = entries_of(segments, batch).double() if segments else torch.zeros((len(values), 0)).double()
    # Most arguments are entries of parameters as they are; those seen through a chart are looked at afterwards, and
    # one minus an entry last: of two probabilities that is the other one, too.
    tiers: tuple[list[Tensor], ...] = [], [], []
    for segment in segments:
        tiers[2 if segment.complement else segment.chart.name != "itself"].append(
            torch.arange(segment.offset, segment.offset + segment.size)
        )
    positions = [torch.cat(tier) for tier in tiers if tier]
    return Atoms(
        bank,
        tuple(Tier(place, entries[:, place]) for place in positions),
        bank.stack(batch).double() if matrices else None,
        torch.tensor([program.parameters[s.parameter].initial.shape[-1] for s in matrices for _ in range(s.size)]),
        EXACT[program.dtype],
    )


def _segments(parameters: Iterable[Parameter]) -> tuple[Segment, ...]:
    """Lay out every entry of every parameter: itself, through the charts of its domain, and one minus probabilities."""
    found: list[Segment] = []
    offset = 0
    for parameter in filter(_has_entries, parameters):
        domain = domain_of(parameter.constraint)
        for chart in CHARTS:
            image, itself = chart.domains.get(domain), chart.name == "itself"
            if not itself and image in (None, "scale_tril"):  # a factor of a matrix is no list of entries
                continue
            if image == "simplex" and not parameter.initial.dim():
                continue
            loose = image not in ("unit", "simplex")
            for complement in (False, True) if not loose else (False,):
                found.append(Segment(parameter.name, chart, complement, offset, parameter.initial.numel(), loose))
                offset += parameter.initial.numel()
    return tuple(found)


def _matrices(parameters: Iterable[Parameter]) -> tuple[Segment, ...]:
    """Lay out the factors of matrices."""
    found: list[Segment] = []
    offset = 0
    for parameter in filter(_has_entries, parameters):
        domain = domain_of(parameter.constraint)
        for chart in (chart for chart in CHARTS if chart.domains.get(domain) == "scale_tril"):
            count = parameter.initial.numel() // parameter.initial.shape[-1] ** 2
            found.append(Segment(parameter.name, chart, complement=False, offset=offset, size=count))
            offset += count
    return tuple(found)


def _has_entries(parameter: Parameter) -> bool:
    return parameter.initial.is_floating_point() and bool(parameter.initial.numel())


def entering(bank: Bank, role: RoleMap, domain: str) -> frozenset[str]:
    """Return the parameters that enter a role, whose map still points into the one list of all entries."""
    return bank.parameters(role, "scale_tril" if domain == "scale_tril" else "real")


def match(site: Site, role: str, stack: Sequence[Tensor], event_dim: int, atoms: Atoms, *, multiples: bool) -> RoleMap:
    """Map an argument entry by entry, of `multiples` also those that are a known factor times a parameter."""
    first, key = squeeze(stack[0].detach(), site.dims, site.name, event_dim), None
    if all(same(other, stack[0]) for other in stack[1:]):
        return _constant(first, atoms)
    if len(stack) * first.tensor.numel() <= REMEMBERED:
        bits = _entries(stack).cpu().numpy().tobytes()
        key = bits, first.tensor.shape, len(first.names), stack[0].dtype, multiples
    if key is None or key not in atoms.matched:
        found = _match(first, stack, atoms, multiples=multiples)
        if key is not None:
            atoms.matched[key] = found
    else:
        found = atoms.matched[key]
    if found is None:
        raise Unrecognised(f'"{role}" is computed from parameters, not selected from one')
    role_map, kept = found
    return role_map.along(tuple(first.names[k] for k in kept))


def _constant(first: Named, atoms: Atoms) -> RoleMap:
    """Return the map of what is the same at all probes: those of one shape share their index."""
    shape = first.tensor.shape
    if shape not in atoms.still:
        atoms.still[shape] = torch.full(shape, -1), torch.zeros(0, dtype=torch.long)
    index, none = atoms.still[shape]
    return RoleMap(first.names, index, None, first.tensor.contiguous()).occurring(none).compressed


def divided(site: Site, values: Params) -> str:
    """Say of probabilities that a distribution has divided by their sum which parameter lacks its constraint; or "".

    Args:
        site: one run of it.
        values: in that run, of the parameters that enter it.
    """
    base = unwrap(site.fn).base
    probs = vars(getattr(base, "_categorical", base)).get("probs")  # as it was given: nothing is computed
    if probs is None or not probs.dim():
        return ""
    row = probs.detach().reshape(-1, probs.shape[-1])[0].double()
    for name, value in values.items():
        if value.dim() and value.shape[-1] == len(row):
            rows = value.detach().double() / value.detach().double().sum(-1, keepdim=True)
            if bool(torch.isclose(rows, row, rtol=EXACT[torch.float32], atol=0).all(-1).any()):
                return (
                    f'"probs" is "{name}" divided by its sum: declare "{name}" with constraint=constraints.simplex, '
                    f"and its update is a closed form"
                )
    return ""


def _match(
    first: Named, stack: Sequence[Tensor], atoms: Atoms, *, multiples: bool
) -> tuple[RoleMap, tuple[int, ...]] | None:
    """Return the map of an argument and which of its named dimensions it keeps; None if it is no selection."""
    shape, step = first.tensor.shape, max(1, first.tensor.numel() // FEW)
    if step > 1 and _selected(_entries(stack, step), atoms, multiples=multiples) is None:
        return None  # most say no at once
    found = _selected(_entries(stack), atoms, multiples=multiples)
    if found is None:
        return None
    index, coefficient, varying = found
    constant = None if bool(varying.all()) else first.tensor.contiguous()
    if constant is not None and varying.any():
        constant = torch.where(varying.reshape(shape), 0.0, constant)
    coefficients = None if bool((coefficient == 1).all()) else coefficient.reshape(shape)
    made = RoleMap(first.names, index.reshape(shape), coefficients, constant).compressed
    return made, tuple(first.names.index(n) for n in made.names)


def _entries(stack: Sequence[Tensor], step: int = 1) -> Tensor:
    """Return every entry of an argument, or one of so many, at all probes: shape (probes, entries)."""
    return torch.stack([argument.detach().reshape(-1)[::step] for argument in stack]).double()


def _selected(entries: Tensor, atoms: Atoms, *, multiples: bool) -> tuple[Tensor, Tensor, Tensor] | None:
    """Find the atom and the factor of every entry, and which of them vary at all; None where one that does has none."""
    index = torch.full((entries.shape[1],), -1)
    coefficient = torch.ones(entries.shape[1], dtype=torch.float64)
    rounding = torch.where(entries[0].isfinite(), atoms.rtol * entries[0].abs(), 0.0)
    still = (entries == entries[0]) | ((entries - entries[0]).abs() <= rounding)
    varying = ~(still | entries.isnan()).all(0)  # a constant may move by rounding where a row is normalised
    exact = _exact(entries, atoms) if bool(varying.all()) else None
    if exact is not None:
        return exact, coefficient, varying
    open_entries = varying.nonzero().squeeze(-1)
    for wanted in (False, True) if multiples else (False,):
        for tier in atoms.tiers:
            todo = open_entries[index[open_entries] < 0]
            if len(todo):
                found, factor = _search(entries[:, todo], tier, atoms.rtol, multiples=wanted)
                hit = found >= 0
                index[todo[hit]] = tier.positions[found[hit]]
                coefficient[todo[hit]] = factor[hit]
    return None if bool((index[open_entries] < 0).any()) else (index, coefficient, varying)


def _exact(entries: Tensor, atoms: Atoms) -> Tensor | None:
    """Find the first atoms that `_search` would try, if they are all entries in every bit, as of most arguments."""
    if not atoms.tiers or not bool(entries[0].isfinite().all()):
        return None
    tier = atoms.tiers[0]
    keys, order = tier.entries
    at = torch.searchsorted(keys, entries[0] - atoms.rtol * entries[0].abs())
    candidate = order[at.clamp_(max=len(keys) - 1)]
    return tier.positions[candidate] if torch.equal(tier.values[:, candidate], entries) else None


def _search(entries: Tensor, tier: Tier, rtol: float, *, multiples: bool) -> tuple[Tensor, Tensor]:
    """Find for every column of `entries` the atom that equals it (up to a factor) in all probes."""
    if multiples and len(entries) < 2:
        return torch.full((entries.shape[1],), -1), torch.ones(entries.shape[1])
    bank, sought = tier.values, entries[1] / entries[0] if multiples else entries[0]
    keys, order = tier.growth if multiples else tier.entries
    sought = torch.where(sought.isfinite(), sought, torch.inf)
    slack = torch.where(sought.isfinite(), rtol * sought.abs(), 0.0)
    at = torch.searchsorted(keys, sought - slack)
    found, factors = torch.full_like(at, -1), torch.ones(entries.shape[1], dtype=torch.float64)
    # Several atoms may lie within the slack of the first probe, in single precision many: try one after the other.
    todo = (at < len(keys)).nonzero().squeeze(-1)
    while len(todo):
        candidate, wanted = order[at[todo]], entries[:, todo]
        near = bank[:, candidate]
        factor = torch.ones(len(todo), dtype=torch.float64)
        if multiples:
            factor = wanted[0] / near[0]
            factor = torch.where(factor.isfinite(), factor, 0.0)
        claim = factor * near
        close = ((wanted - claim).abs() <= rtol * wanted.abs()) & wanted.isfinite()
        agree = ((wanted == claim) | close).all(0) & (factor != 0)
        found[todo[agree]], factors[todo[agree]] = candidate[agree], factor[agree]
        todo = todo[~agree]
        at[todo] += 1
        inside = at[todo] < len(keys)
        todo = todo[inside]
        todo = todo[keys[at[todo]] <= (sought + slack)[todo]]
    return found, factors


def match_matrices(site: Site, stack: Sequence[Tensor], atoms: Atoms) -> RoleMap | None:
    """Map a matrix argument whole; None where it is no matrix parameter."""
    first = squeeze(stack[0].detach(), site.dims, site.name, 2)
    shape, dim = first.tensor.shape[:-2], first.tensor.shape[-1]
    if all(same(s, stack[0]) for s in stack[1:]):
        return RoleMap(first.names, torch.full(shape, -1), None, first.tensor)
    if atoms.matrices is None or not bool((atoms.sizes == dim).any()):
        return None
    probes = [s.detach().reshape(-1, dim, dim) for s in stack]
    distance = (probes[0][:, None, 0, 0].double() - atoms.matrices[0, None, :, 0, 0]).abs()
    index = torch.where(atoms.sizes == dim, distance, torch.inf).argmin(1)
    some = max(1, TOGETHER // max(1, probes[0].numel()))  # all together might be the most that planning holds
    for at in range(0, len(probes), some):
        near = atoms.matrices[at : at + some, index, :dim, :dim]
        scale = near.abs().amax((-2, -1), keepdim=True)
        found = torch.stack(probes[at : at + some]).double()
        if bool(((found - near).abs() > 1e3 * atoms.rtol * scale).any()):
            return None
    return RoleMap(first.names, index.reshape(shape), rows=dim).compressed
