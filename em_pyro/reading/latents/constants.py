"""Find the constants of residuals by replays: which latent every cell takes, and what multiplies what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import ModelError
from ...families.charts import domain_of
from ...program.named import Params, broadcast, unwrap
from ...program.program import Program
from ...program.site import Site
from ..reading import Recognition
from .bilinear import STEPS, Bilinear, Kind, Latents, Places, Slot, stacked
from .computed import Computed, computed, taken_apart
from .degree import sites_of_latents
from .entries import Used, colours_of, entries_of, first_alike, numbered, of_colour, used_of
from .frames import AGAIN, Frame, points_of, takes_of
from .moves import Moves
from .replays import Crowded, Replays, names_of, thin
from .stand_in import scale_name, unread, with_computed

GROWING = {False: 1e-4, True: 1e-2}  # relative, of what a latent is missing by; in double precision and in single
BLURRED = 1e-3  # of the terms of a residual: what may be rounding, however coarse
RUNS = 2000  # of the model, for all constants together


def with_latents(program: Program, recognition: Recognition) -> Recognition:
    """Return what is known of a program with how the latents that are integrated enter.

    Raises:
        ModelError: a site is not linear-Gaussian in them.
    """
    run = recognition.runs[0]
    mine = [name for name in run if name in program.integrated]
    shapes = {name: tuple(run[name].value.shape) for name in mine}
    events = {name: run[name].fn.event_dim for name in mine}  # type: ignore[attr-defined]
    places = Places(shapes, events, {name: run[name].value.dtype for name in mine})
    values = {name: run[name].value.clone() for name in mine}
    sites = sites_of_latents(program, recognition.values, values)
    recognition = unread(recognition, sites)
    found = bilinear(program, recognition, sites, places)
    sizes = {name: parameter.initial.numel() for name, parameter in program.parameters.items()}
    free = frozenset(n for n, parameter in program.parameters.items() if domain_of(parameter.constraint) == "real")
    recognition = recognition if found.made is None else with_computed(recognition, found.made)
    return replace(recognition, latents=Latents(places, found.sites, sizes, free))


class Found(NamedTuple):
    """The residuals of the sites, and what the model computes of them in every step."""

    sites: dict[str, Bilinear]
    made: Computed | None


def bilinear(program: Program, recognition: Recognition, sites: frozenset[str], places: Places) -> Found:
    """Find the residuals of the sites that the latents enter.

    Args:
        program: the model.
        recognition: what is known of it where the latents are given.
        sites: that the latents enter, as `degree.sites_of_latents` proves.
        places: of the latents.

    Raises:
        ModelError: cells have too many latents.
    """
    deltas = frozenset(n for n in sites if "v" in vars(unwrap(recognition.runs[0][n].fn).base))
    run = {name: site for name, site in recognition.runs[0].items() if name in sites - deltas}
    others = {name: scale_name(site) for name, site in run.items() if name not in recognition.readings}
    replays = Replays(program, recognition.values, places, tuple(run), deltas)
    coarse = {kind: int(len(names) > STEPS) for kind, names in places.kinds.items()}
    while True:
        try:
            return _found(replays, recognition, others, coarse)
        except Crowded as crowded:
            left = [kind for kind, many in coarse.items() if many + 1 < len(places.cuts(kind))]
            if crowded.kind is None and left:
                coarse.update({kind: coarse[kind] + 1 for kind in left})
            elif crowded.said is not None:
                raise crowded.said from None
            elif crowded.kind in left:
                coarse[crowded.kind] += 1
            else:
                raise ModelError(
                    "The model: expected residuals whose digits tell which continuous latent entry each cell takes, "
                    "got one in which rounding hides it. Centre what is observed, or write it in other units."
                ) from None


def _found(replays: Replays, recognition: Recognition, others: Mapping[str, str], coarse: Mapping[Kind, int]) -> Found:
    places, zero = replays.places, torch.zeros(replays.places.count, dtype=torch.float64)
    frames = [Frame(kind, ids, places.count) for kind, ids in places.frames(coarse)]
    far = _begun(replays, frames, recognition.runs[0])
    start = replays.run(zero, {})
    shapes = {n: _shape(replays.program, recognition.runs[0][n], parts) for n, parts in start.items()}
    read = {n: recognition.readings[n] for n in start if n in recognition.readings}
    like = first_alike(read, shapes)
    found = {n: entries_of(read[n], recognition.bank, shapes[n]) for n in dict.fromkeys(like.values())}
    entries = sorted({entry for own, _ in found.values() for entry in own})
    number = {entry: k for k, entry in enumerate(entries)}
    indices = {n: numbered(own, index, number) for n, (own, index) in found.items()}
    colours = colours_of(list(indices.values()), len(entries))
    count = int(colours.max()) + 1 if len(entries) else 0
    if (1 + len(frames)) * (1 + count) + len(frames) > RUNS:
        raise _too_many(replays.places)
    index = {n: tuple(thin(of_colour(indices[n], colours, c)) for c in range(count)) for n in indices}
    has = {n: [part >= 0 for part in own] for n, own in index.items()}
    moves = Moves(replays, entries, colours.tolist(), {n: has[like[n]] for n in read})
    apart = {plate for latent in replays.program.latents.values() for plate in latent.plates}
    apart |= {plate for name in places.shapes for plate in recognition.runs[0][name].plates}
    rows = {n: [d for d, p in enumerate(names_of(recognition.runs[0][n])) if p in apart] for n in start}
    which = [takes_of(replays, frame, far, start, rows) for frame in frames]
    base = replays.run(zero, moves.none)
    constants = moves.constants(base)
    slots: dict[str, list[Slot]] = {n: [] for n in start}
    moves.ahead([frame.at(far) for frame, takes in zip(frames, which, strict=True) if takes])
    for frame, takes in zip(frames, which, strict=True):
        if takes:
            slopes = moves.slopes(frame.at(far), far, base, constants, takes)
            for name, taken in takes.items():
                some = tuple(slope if bool((slope != 0).any()) else None for slope in slopes[name])
                slots[name].append(Slot(taken, some))
    made = dict[str, Bilinear]()
    occurring = {n: used_of(own, entries) for n, own in index.items()}
    for name in start.keys() - others.keys():
        site = recognition.runs[0][name]
        own = occurring[like[name]] if name in like else Used([count], (), ())
        made[name] = _pruned(
            Bilinear(site, names_of(site), shapes[name], own.where, own.entries, constants[name], tuple(slots[name])),
            own,
        )
    if not others:
        _certify(replays, made, far, replays.params)
        return Found({name: made[name] for name in start}, None)
    used = [k for k, takes in enumerate(which) if takes.keys() & others.keys()]
    at = [frames[k].at(1.0) for k in used]
    replays.ahead(at, recognition.runs[0])
    worked = computed(replays.program, recognition.points, places, at, others, single=replays.single)
    runs = [start, *(replays.run(z, {}) for z in at)]
    for name in others:
        site, values = recognition.runs[0][name], [run[name][0] for run in runs]
        parts = taken_apart(worked, name, shapes[name], [which[k].get(name) for k in used], values)
        made[name] = Bilinear(site, names_of(site), shapes[name], parts[1], parts[0], parts[2], parts[3])
    with torch.no_grad():
        _certify(replays, made, far, {**replays.params, **worked.once(replays.params)})
    return Found({name: made[name] for name in start}, worked)


def _begun(replays: Replays, frames: Sequence[Frame], known: Mapping[str, Site]) -> float:
    """Run at the latents that will be asked for, at once where that can be done, and say how far they are moved."""
    near, far = [torch.zeros(replays.places.count, dtype=torch.float64), replays.ones], replays.farthest
    for _ in range(2):
        points = [point for frame in frames for point in points_of(replays, frame, far)] if len(frames) <= RUNS else []
        replays.ahead([*near, *points, *_elsewhere(replays, far)], known)
        if far == replays.far:
            break
        far = replays.far
    return far


def _shape(program: Program, site: Site, parts: tuple[Tensor, Tensor]) -> tuple[int, ...]:
    """All cells of a site: in every row of its plates, also where none differs."""
    shape = broadcast(*(part.shape for part in parts))
    plates = {n: program.plates[n] for n in site.plates}
    return (*(plates.get(n, size) for n, size in zip(names_of(site), shape, strict=False)), *shape[len(site.dims) :])


def _pruned(made: Bilinear, used: Used) -> Bilinear:
    """Leave out covariates that no cell has."""
    if len(used.kept) == len(made.constants):
        return made
    slots = tuple(replace(slot, slopes=tuple(slot.slopes[k] for k in used.kept)) for slot in made.slots)
    return replace(made, constants=tuple(made.constants[k] for k in used.kept), slots=slots)


def _certify(replays: Replays, made: Mapping[str, Bilinear], far: float, params: Params) -> None:
    """Compare the residuals with the model's own where nothing was probed.

    Args:
        replays: the program.
        made: what is claimed.
        far: how far latents are moved.
        params: of the residuals.

    Raises:
        Crowded: they differ: a latent may have been lost beside another one that was moved with it. Where all are
            moved alone, that says what is wrong.
    """
    every, elsewhere = stacked(made), _elsewhere(replays, far)
    for latents in elsewhere[:2]:
        for name, (mine, truth) in _different(replays, every, latents, params).items():
            said = ModelError(
                f'Site "{name}": expected a residual that is affine in the continuous latents and in the parameters, '
                f"got one that is not ({float((mine - truth).abs().max()):.2g} off at random values). Write the "
                f"location as sums of products of a latent and a parameter."
            )
            raise Crowded(None, said)
    for latents in elsewhere[2:]:
        if (lost := _different(replays, every, latents, params)) and _grows(replays, every, latents, params, lost):
            raise Crowded(None)


def _grows(
    replays: Replays,
    every: Sequence[tuple[Sequence[str], Bilinear]],
    latents: Tensor,
    params: Params,
    found: Mapping[str, tuple[Tensor, Tensor]],
) -> bool:
    """Tell whether some of what is missing grows with the latents: the rounding of sums that cancel does not."""
    again = _different(replays, every, AGAIN * latents, params)
    offs = [(mine - truth, again[n][0] - again[n][1]) for n, (mine, truth) in found.items() if n in again]
    slack = GROWING[replays.single]
    return any(bool(((off - AGAIN * o).abs() <= slack * o.abs())[o != 0].any()) for o, off in offs)


def _elsewhere(replays: Replays, far: float) -> list[Tensor]:
    """Return random latents: near, far out, and far out with some of them at zero."""
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(replays.places.count, generator=generator, dtype=torch.float64)
    return [noise, far * noise, *(far * noise * some for some in replays.places.parts(generator))]


def _different(
    replays: Replays, made: Sequence[tuple[Sequence[str], Bilinear]], latents: Tensor, params: Params
) -> dict[str, tuple[Tensor, Tensor]]:
    """Residuals that are not the model's own beyond rounding, and these.

    Args:
        replays: the program.
        made: what is claimed, of sites of one form together.
        latents: all of them.
        params: of the residuals.
    """
    run, found = replays.run(latents, {}), {}
    for names, site in made:
        value, location = (part.expand(site.shape) for part in run.of(names))
        wrong = (
            wrong_cells(site, params, latents, value, location, replays.noise, apart=True)
            .reshape((len(names), -1))
            .any(1)
        )
        if bool(wrong.any()):
            mine, truth = site.residual(params, latents), value - location
            found.update({n: (mine[k], truth[k]) for k, n in enumerate(names) if bool(wrong[k])})
    return found


def same_residuals(
    site: Bilinear, params: Params, latents: Tensor, value: Tensor, location: Tensor, noise: float
) -> bool:
    """Tell whether residuals at some values of parameters and latents are those of a run there, but for rounding."""
    return not bool(wrong_cells(site, params, latents, value, location, noise, apart=False).any())


def wrong_cells(
    site: Bilinear, params: Params, latents: Tensor, value: Tensor, location: Tensor, noise: float, *, apart: bool
) -> Tensor:
    """Cells whose residuals are not those of a run; rounding is relative to the largest term of the site.

    Args:
        site: the residuals.
        params: values of the parameters.
        latents: all of them.
        value: of the run.
        location: likewise.
        noise: relative rounding of a run.
        apart: whether the first dimension is that of sites that were stacked, each with a largest term of its own.
    """
    terms = site.terms(params, latents) + value.abs() + location.abs()
    alone = terms.reshape((len(terms), -1)).amax(1).reshape((-1,) + (1,) * (terms.dim() - 1)) if apart else terms.max()
    off = site.residual(params, latents) - (value - location)
    return off.abs() > min(1e4 * noise, BLURRED) * terms + noise * alone


def _too_many(places: Places) -> ModelError:
    names = sorted(places.shapes)[:3]
    return ModelError(
        f"The model: expected cells that have few of the {places.count:,} continuous latent entries each, got cells "
        f"that have many of {', '.join(names)}: a mean over a plate, say. Write it as a latent of its own."
    )
