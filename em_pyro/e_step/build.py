"""Lay a recognised program out as an `Engine`: site factors, units, replayed sites, contraction and chunks of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod

from ..program.named import Named, Sizes, ordered
from ..program.program import Program
from ..program.site import Site
from ..program.unroll import TRANSITION, hidden_sizes, unroll
from ..reading.priors import Prior
from ..reading.reading import Recognition
from .chunks import rows_of
from .contraction.elimination import plan_contraction
from .contraction.mixture import as_mixture
from .contraction.schedule import Factor
from .engine import Engine
from .left import CHAIN, Left, alone
from .part import Contracted, Part
from .several import bundle
from .sites import compiled
from .sites.site_factor import SiteFactor
from .units import Unit


def hidden(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take every `dist.DiscreteHMM`."""
    if not any(name + TRANSITION in left.run for name in left.run):
        return (), left
    from .chains.hidden import take

    return take(left)


def gaussian(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take all sites that Gaussian latents enter."""
    if left.recognition.latents is None:
        return (), left
    from .gaussian.take import take

    return take(left)


def loops(left: Left) -> tuple[Sequence[Unit], Left]:
    """Take the loops of latents that are coupled one to the next, with all that hangs on them."""
    if len(left.owners) < CHAIN:
        return (), left
    from .chains.find import take

    return take(left)


TAKERS: tuple[Callable[[Left], tuple[Sequence[Unit], Left]], ...] = (
    hidden,
    compiled.take,
    gaussian,
    loops,
    bundle.take,
    alone,
)
"""Each takes the sites that it can out of what is left, and returns the units that it has made of them."""


def order_of(program: Program) -> dict[str, int]:
    """Return the sizes of all latents and plates, in the order of their tensor dimensions: latents left, rows right."""
    latents = sorted(program.latents.values(), key=lambda latent: latent.dim)
    plates = sorted(program.plates, key=lambda plate: program.plate_dims[plate])
    return {latent.name: latent.size for latent in latents} | {plate: program.plates[plate] for plate in plates}


def build(
    program: Program,
    recognition: Recognition,
    run: Mapping[str, Site],
    priors: Mapping[str, Prior],
    alive: Mapping[str, Named],
    *,
    recognised: bool = True,
    chains: bool = True,
    plate: str | None = None,
) -> Engine:
    """Lay the program out.

    Args:
        program: what is to be run.
        recognition: what its sites are.
        run: its sites in one run, with the values and the known arguments.
        priors: of its parameters.
        alive: entries of latents that reach an observation.
        recognised: without, all sites are replayed.
        chains: whether latents of a loop are a unit; without, the contraction sums them out one by one.
        plate: whose rows may be split; None is the largest.
    """
    taken_apart = unroll(run) if recognised else run
    if recognised and len(taken_apart) > len(run):
        run, program = taken_apart, replace(program, view=unroll)
    elif not recognised:
        program = replace(program, view=None)
    if not recognised:  # but what Gaussian latents enter has no density to be replayed
        entered = {name: recognition.readings[name] for name in recognition.readings if name in recognition.entered}
        recognition = replace(recognition, readings=entered)
    sizes = Sizes(hidden_sizes(run) | order_of(program))
    owners = {name: frozenset(latent.plates) for name, latent in program.latents.items()}
    plate = plate or max(program.plates, key=lambda name: sizes[name], default=None)
    left, units = Left(run, recognition, owners, sizes, plate, alive), list[Unit]()
    for take in TAKERS if chains else [take for take in TAKERS if take is not loops]:
        taken, left = take(left)
        units += taken
    sites = {factor.name: factor for unit in units if not unit.latents for factor in unit.every}
    inside = {f.name: f for unit in units if unit.latents for f in unit.every if f.role == "observed"}
    parts, whole = _parts(left.factors, owners, sizes, units, left.constants)
    base, offsets = _base(sites | inside, left.apart, owners, sizes)
    return Engine(
        program, recognition, sites, tuple(units), left.apart, left.factors, left.replayed, priors, parts, base,
        offsets, sizes, plate, whole, alive, left.constants,
    )  # fmt: skip


def _base(
    sites: Mapping[str, SiteFactor],
    factors: Mapping[str, Factor],
    latents: Mapping[str, object],
    sizes: Mapping[str, int],
) -> tuple[float, dict[str, Named]]:
    """Log base measures: the sum of those that are the same in all states, and the others by site."""
    total, offsets = 0.0, dict[str, Named]()
    scales = {name: factors[name].scale if name in factors else None for name in sites}
    for name, site in sites.items():
        columns = (*site.layout.batch, *site.layout.columns)
        if any(n in latents for n in columns):
            base = site.data.base()
            if base is not None:
                offsets[name] = Named(base.align(site.names), site.names)
            continue
        for chunk in site.data.slices():
            base, scale = site.data.base(chunk), scales[name]
            if base is None:
                break
            every = ordered((*base.names, *(scale.names if scale is not None else ())), sizes)
            part = base.align(every)
            if scale is not None:
                part = part * Named(chunk.cut(scale), scale.names).align(every)
            plates = factors[name].plates if name in factors else site.plates
            copies = prod(sizes[p] for p in plates if p not in every)
            total += float(part.sum()) * copies
    return total, offsets


# ---- what is contracted together, in which chunks --------------------------------------------------------------------


def _parts(
    factors: Mapping[str, Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    units: Sequence[Unit],
    constants: Mapping[str, Named],
) -> tuple[tuple[Contracted, ...], str]:
    """Split the factors into those of one plate, in chunks, and the others; say why rows are taken whole."""
    part = partial(_part, owners, sizes, units, constants)
    every = list(factors.values())
    if not any(f.plates for f in every):
        return ((part(every),) if every else ()), ""
    plate, rows, why = _chunks(every, owners, sizes, units)
    chunked = rows < sizes[plate] and not why
    inner = [f for f in every if plate in f.plates]
    apart = chunked or not any(n in owners and plate not in owners[n] for f in inner for n in f.names)
    if not apart:
        return (part(every),), why
    outer = [f for f in every if plate not in f.plates]
    first = part(inner, plate, rows) if chunked else part(inner)
    return (first, *([part(outer)] if outer else [])), why


def _chunks(
    factors: Sequence[Factor], owners: Mapping[str, frozenset[str]], sizes: Mapping[str, int], units: Sequence[Unit]
) -> tuple[str, int, str]:
    """The largest plate whose rows can be taken in chunks, and of how many; or the largest, and why they cannot."""
    plates = sorted({p for f in factors for p in f.plates}, key=lambda p: -sizes[p])
    rows = {plate: _rows(factors, sizes, units, plate) for plate in plates}
    if rows[plates[0]] >= sizes[plates[0]]:
        return plates[0], rows[plates[0]], ""
    why = {plate: _stuck(factors, owners, units, plate) for plate in plates if rows[plate] < sizes[plate]}
    plate = next((plate for plate in why if not why[plate]), plates[0])
    return plate, rows[plate], why[plate]


def _rows(factors: Sequence[Factor], sizes: Mapping[str, int], units: Sequence[Unit], plate: str) -> int:
    """Rows of a plate in a chunk: a row that holds many rows of another plate makes a chunk of few."""
    inner = max((prod(sizes[p] for p in f.plates - {plate}) for f in factors if plate in f.plates), default=1)
    return rows_of(1 + sum(unit.width(plate) for unit in units), inner)


def _part(
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    units: Sequence[Unit],
    constants: Mapping[str, Named],
    inside: Sequence[Factor],
    plate: str | None = None,
    rows: int = 0,
) -> Contracted:
    """Contract some factors, in chunks of so many rows of a plate if there is one."""
    names = tuple(f.name for f in inside)
    chosen = tuple(unit for unit in units if unit.members[0] in names)
    length = rows if plate else max((sizes[p] for f in inside for p in f.plates), default=1)
    mixture = as_mixture(chosen, inside, owners, sizes, length)
    if mixture is not None:
        return mixture
    compiled = {name for unit in chosen for name in unit.members}
    replayed = tuple(n for n in names if n not in compiled)
    moving = tuple(n for n in replayed if n not in constants)
    schedule = plan_contraction(inside, owners, sizes)
    return Part(schedule, names, chosen, replayed, moving, plate, sizes[plate] if plate else 0, rows)


def _stuck(factors: Sequence[Factor], owners: Mapping[str, frozenset[str]], units: Sequence[Unit], plate: str) -> str:
    """Why the rows of a plate cannot be taken in chunks; empty if they can."""
    inner = [f for f in factors if plate in f.plates]
    stuck = [n for f in inner for n in f.names if n in owners and plate not in owners[n]]
    if stuck:
        return f'latent "{stuck[0]}" sits above plate "{plate}"'
    return next((why for unit in units if (why := unit.stuck(plate))), "")
