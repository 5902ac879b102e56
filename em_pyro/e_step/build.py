"""Lay a recognised program out as an `Engine`: terms, units, replayed sites, contraction and blocks of rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import prod

import torch

from ..errors import ModelError
from ..program.named import Named, Sizes, ordered, squeeze
from ..program.program import Program, Site
from ..program.unroll import TRANSITION, hidden_sizes, is_hidden, unroll
from ..reading.priors import Prior
from ..reading.reading import Reading, Recognition
from .chains.hmm import Hmm
from .chains.hmm_parts import chain_of, still
from .chains.loops import markov_units
from .chains.markov import Markov
from .contraction import Factor
from .elimination import plan_contraction
from .engine import Engine
from .mixture import Mixture, as_mixture
from .part import Part, Unit, blocks_of
from .sites.bundle import Bundle, bundle
from .sites.centring import Centred, can_be_centred
from .sites.layout import compile_term
from .sites.rows import RowTerm, row_term
from .sites.site_factor import WHOLE, Block, Term
from .sites.stack import Stack, stack

BLOCK_BYTES = 1 << 22


def order_of(program: Program) -> dict[str, int]:
    """Sizes of all latents and plates, in the order of their tensor dimensions: latents left, rows right."""
    latents = sorted(program.latents.values(), key=lambda latent: latent.dim)
    plates = sorted(program.plates, key=lambda plate: program.plate_dims[plate])
    return {latent.name: latent.size for latent in latents} | {plate: program.plates[plate] for plate in plates}


def build(
    program: Program,
    recognition: Recognition,
    sites: Mapping[str, Site],
    priors: Mapping[str, Prior],
    alive: Mapping[str, Named],
    *,
    compiled: bool = True,
    centred: frozenset[str] = frozenset(),
) -> Engine:
    """Lay the program out: terms, replayed sites, contraction and blocks.

    Args:
        program: what is to be run.
        recognition: what its sites are.
        sites: one run, with the values and the known arguments.
        priors: of its parameters.
        alive: entries of latents that reach an observation.
        compiled: without, all sites are replayed.
        centred: sites that are evaluated around each cell's own location.
    """
    taken_apart = unroll(sites) if compiled else sites
    if compiled and len(taken_apart) > len(sites):
        sites, program = taken_apart, replace(program, view=unroll)
    elif not compiled:
        program = replace(program, view=None)
    sizes = Sizes(hidden_sizes(sites) | order_of(program))
    scales = _scales(sites)
    owners = {name: frozenset(latent.plates) for name, latent in program.latents.items()}
    terms: dict[str, Term] = {}
    factors: dict[str, Factor] = {}
    replayed: dict[str, Factor] = {}
    hmms: dict[str, Hmm] = {}
    constants: dict[str, Named] = {}
    for name, site in sites.items():
        if site.role == "prior" or is_hidden(name):
            continue
        plates = frozenset(site.plates)
        if name + TRANSITION in sites:
            scale = scales.get(plates)
            hmms[name], fixed = chain_of(name, sites, recognition, sizes, weighted=scale is not None)
            constants |= fixed
            factors[name] = Factor(name, hmms[name].names, plates, scale)
        elif compiled and name in recognition.readings:
            reading = recognition.readings[name]
            used = {n for n in _names(reading, site) if n in owners}
            above = frozenset[str]().union(*(owners[n] for n in used)) if used else frozenset()
            exponent = None
            if site.role == "observed" and above < plates:
                exponent = _ratio_of(scales.get(plates), scales.get(above), sizes)
                plates = above
            else:
                above = plates
            terms[name] = _compiled(reading, sizes, above, exponent)
            if name in centred and can_be_centred(terms[name]):
                terms[name] = replace(terms[name], centred=True)
            factors[name] = Factor(name, terms[name].names, plates, scales.get(plates), alive.get(name))
        else:
            with torch.no_grad():
                log_prob = site.log_prob()
            if not recognition.reaches.get(name) and still(name, log_prob, recognition.runs):
                constants[name] = Named(log_prob.tensor.double(), log_prob.names)
            names = log_prob.names
            factors[name] = replayed[name] = Factor(name, names, plates, scales.get(plates), alive.get(name))
    for name in _barren(factors, sites):
        factors[name] = replace(factors[name], alive=Named(torch.zeros((), dtype=torch.float64), ()))
    stacks = stack(terms)
    terms = {term.name: term for group in stacks for term in group.terms}
    for group in stacks:
        if len(group.terms) > 1:
            for term in group.terms:
                factors[term.name] = replace(factors[term.name], pool=group.first.name)
    beside, loops, joined = markov_units(stacks, factors, owners, sizes)
    bundled, gone = bundle(beside, factors, owners)
    apart = tuple(Centred(unit.terms[0]) if unit.terms[0].centred else unit for unit in bundled)
    units: tuple[Unit, ...] = (*apart, *hmms.values(), *loops)
    parts, whole = _parts({n: f for n, f in joined.items() if n not in gone}, owners, sizes, units, constants)
    emissions = {name: hmm.emission for name, hmm in hmms.items() if isinstance(hmm.emission, Term)}
    observed = terms | emissions
    return Engine(
        program,
        recognition,
        terms,
        units,
        factors,
        replayed,
        priors,
        parts,
        *_base(observed, factors, owners, sizes),
        sizes,
        whole,
        alive,
        constants,
    )


def _compiled(reading: Reading, sizes: Mapping[str, int], above: frozenset[str], exponent: Named | None) -> Term:
    term = compile_term(reading, sizes, above, exponent)
    return row_term(term) if reading.family.solver == "rows" else term


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


def _names(reading: Reading, site: Site) -> set[str]:
    """Every name that a recognised site's factor may carry."""
    found: set[str] = set()
    for role in reading.roles.values():
        found |= set(role.names)
    rank = reading.event_rank + reading.family.event_dim
    found |= set(squeeze(site.value, site.dims, site.name, rank).names)
    if site.mask is not None and site.role == "observed":
        found |= set(squeeze(site.mask, site.dims, site.name).names)
    if reading.mask is not None:
        inner = min(reading.event_rank, reading.mask.dim())
        found |= set(squeeze(reading.mask, site.dims, site.name, inner).names)
    for key, part in reading.known.items():
        event = reading.family.known_event_dim.get(key, reading.event_rank)
        found |= set(squeeze(part, site.dims, site.name, event).names)
    return found


def _scales(sites: Mapping[str, Site]) -> dict[frozenset[str], Named | None]:
    """The `poutine.scale` of every set of plates.

    Raises:
        ModelError: two sites of the same plates carry different scales.
    """
    first: dict[frozenset[str], str] = {}
    scales: dict[frozenset[str], Named | None] = {}
    for name, site in sites.items():
        if site.role == "prior":
            continue
        plates = frozenset(site.plates)
        scale = torch.as_tensor(site.scale, dtype=torch.float64)
        named = squeeze(scale, site.dims, name)
        value = None if named.tensor.dim() == 0 and float(named.tensor) == 1.0 else named
        if plates not in first:
            first[plates], scales[plates] = name, value
            continue
        other = scales[plates]
        same = (value is None) == (other is None) and (
            value is None
            or other is None
            or (value.names == other.names and torch.equal(value.tensor, other.tensor.to(value.tensor)))
        )
        if not same:
            where = f"plate {sorted(plates)}" if plates else "outside all plates"
            raise ModelError(
                f'Site "{name}": expected the same poutine.scale as site "{first[plates]}" ({where}), got another. '
                f"A row's weight multiplies its whole log-likelihood: put the plate, latents included, inside the "
                f"scale."
            )
    return scales


def _ratio_of(inner: Named | None, outer: Named | None, sizes: Mapping[str, int]) -> Named | None:
    if outer is None or inner is None:
        return inner if outer is None else _ratio_of(Named(torch.ones((), dtype=torch.float64), ()), outer, sizes)
    names = ordered((*inner.names, *outer.names), sizes)
    below = outer.align(names)
    ratio = torch.where(below == 0, 0.0, inner.align(names) / torch.where(below == 0, 1.0, below))
    return None if bool((ratio == 1).all()) else Named(ratio, names)


def _base(
    terms: Mapping[str, Term], factors: Mapping[str, Factor], latents: Mapping[str, object], sizes: Mapping[str, int]
) -> tuple[float, dict[str, Named]]:
    """Log base measures: the sum of those that are the same in all states, and the others by site."""
    total, offsets = 0.0, dict[str, Named]()
    for name, term in terms.items():
        if any(n in latents for n in term.columns):
            base = term.base()
            if base is not None:
                offsets[name] = Named(base.align(term.names), term.names)
            continue
        for block in term.slices():
            base, scale = term.base(block), factors[name].scale
            if base is None:
                break
            every = ordered((*base.names, *(scale.names if scale is not None else ())), sizes)
            part = base.align(every)
            if scale is not None:
                cut = scale.tensor
                if block.plate in scale.names:
                    cut = cut.narrow(scale.names.index(block.plate), block.start, block.length)
                part = part * Named(cut, scale.names).align(every)
            copies = prod(sizes[p] for p in factors[name].plates if p not in every)
            total += float(part.sum()) * copies
    return total, offsets


def _parts(
    factors: Mapping[str, Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    units: Sequence[Unit],
    constants: Collection[str],
) -> tuple[tuple[Part | Mixture, ...], str]:
    """Split the factors into those of the largest plate, in blocks, and the others."""

    def part(inside: list[Factor], blocks: tuple[Block, ...] = (WHOLE,)) -> Part | Mixture:
        names = tuple(f.name for f in inside)
        chosen = tuple(unit for unit in units if unit.members[0] in names)
        mixture = as_mixture(chosen, inside, owners, sizes, blocks)
        if mixture is not None:
            return mixture
        compiled = {name for unit in chosen for name in unit.members}
        replayed = tuple(n for n in names if n not in compiled)
        moving = tuple(n for n in replayed if n not in constants)
        return Part(plan_contraction(inside, owners, sizes), blocks, names, chosen, replayed, moving)

    every = list(factors.values())
    if not every:
        return (), ""
    plates = {p for f in every for p in f.plates}
    if not plates:
        return (part(every),), ""
    plate = max(plates, key=lambda p: sizes[p])
    rows = block_rows(units, plate)
    why = _stuck(every, owners, units, plate) if rows < sizes[plate] else ""
    blocks = blocks_of(plate, sizes[plate], rows) if not why else (WHOLE,)
    inner = [f for f in every if plate in f.plates]
    apart = blocks != (WHOLE,) or not any(n in owners and plate not in owners[n] for f in inner for n in f.names)
    if not apart:
        return (part(every),), why
    outer = [f for f in every if plate not in f.plates]
    return (part(inner, blocks), *([part(outer)] if outer else [])), why


def _stuck(factors: Sequence[Factor], owners: Mapping[str, frozenset[str]], units: Sequence[Unit], plate: str) -> str:
    """Why the rows of a plate cannot be taken in blocks; empty if they can."""
    inner = [f for f in factors if plate in f.plates]
    stuck = [n for f in inner for n in f.names if n in owners and plate not in owners[n]]
    if stuck:
        return f'latent "{stuck[0]}" sits above plate "{plate}"'
    every = [term for unit in units for term in (unit.terms if isinstance(unit, (Stack, Bundle)) else unit.parts)]
    apart = [term.name for term in every if isinstance(term, RowTerm) and plate in term.names]
    if apart:
        return f'the family of site "{apart[0]}" needs all rows at once'
    by_row = [t.name for unit in units for t in unit.parts if plate in t.cells]
    if by_row:
        return f'an argument of site "{by_row[0]}" differs by row of plate "{plate}"'
    return ""


def block_rows(units: Sequence[Unit], plate: str) -> int:
    """Rows a block so that features and logits of one block stay in cache."""
    width = 1
    for unit in units:
        inside = [term for term in unit.parts if plate in term.names]
        if inside:
            cells = prod(inside[0].sizes[n] for n in inside[0].names if n != plate)
            each = cells if isinstance(unit, Centred) else 1
            copies = unit.steps if isinstance(unit, Markov) else len(unit.members)
            width += (sum(each * term.width for term in inside) + 3 * cells) * copies
    return max(256, BLOCK_BYTES // (8 * width))
