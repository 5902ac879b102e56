"""Find the constants of residuals by replays: which latent every cell takes, and what multiplies what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...errors import ModelError
from ...program.named import Params, broadcast, unwrap
from ...program.program import Program
from ...program.site import Site
from ..reading import Recognition
from .bilinear import Bilinear, Latents, Places, Slot
from .degree import sites_of_latents
from .entries import colours_of, entries_of
from .replays import Crowded, Replays, names_of, thin, thin_which

RUNS = 2000  # of the model, for all constants together

Parts = dict[str, tuple[Tensor, Tensor]]  # value and location of every site


def latents_of(program: Program, recognition: Recognition) -> Latents | None:
    """Find how the latents that are integrated enter; None where there are none.

    Raises:
        ModelError: a site is not linear-Gaussian in them, or not affine in its parameters.
    """
    if not program.integrated:
        return None
    run = recognition.runs[0]
    mine = [name for name in run if name in program.integrated]
    shapes = {name: tuple(run[name].value.shape) for name in mine}
    events = {name: run[name].fn.event_dim for name in mine}  # type: ignore[attr-defined]
    places = Places(shapes, events, {name: run[name].value.dtype for name in mine})
    values = {name: run[name].value.clone() for name in mine}
    sites = sites_of_latents(program, recognition.values, values)
    for name in sites:
        if name in recognition.refusals and "v" not in vars(unwrap(run[name].fn).base):
            raise ModelError(
                f'Site "{name}": expected a location that is affine in its parameters, and a scale that is one, got '
                f"neither: {recognition.refusals[name].why}. Write the location as sums of products of a latent and a "
                f"parameter."
            )
    sizes = {name: parameter.initial.numel() for name, parameter in program.parameters.items()}
    return Latents(places, bilinear(program, recognition, sites, places), sizes)


def bilinear(program: Program, recognition: Recognition, sites: frozenset[str], places: Places) -> dict[str, Bilinear]:
    """Find the residuals of the sites that the latents enter.

    Args:
        program: the model.
        recognition: what is known of it where the latents are given.
        sites: that the latents enter, as `degree.sites_of_latents` proves.
        places: of the latents.

    Raises:
        ModelError: a residual is not affine in the parameters, or cells have too many latents.
    """
    deltas = frozenset(n for n in sites if "v" in vars(unwrap(recognition.runs[0][n].fn).base))
    readings = {n: recognition.readings[n] for n in recognition.runs[0] if n in sites - deltas}
    replays = Replays(program, recognition.values, places, readings, deltas)
    coarse = dict.fromkeys(places.kinds, 0)
    while True:
        try:
            return _found(replays, recognition, coarse)
        except Crowded as crowded:
            coarse[crowded.kind] += 1
            if coarse[crowded.kind] >= len(places.cuts(crowded.kind)):
                raise ModelError(
                    "The model: expected residuals whose digits tell which continuous latent entry each cell takes, "
                    "got one in which rounding hides it. Centre what is observed, or write it in other units."
                ) from None


@dataclass(frozen=True)
class Frame:
    """Latent entries that move together: all at one, or each at a mark of its own."""

    kind: tuple[int, ...]
    ids: Tensor = field(repr=False)
    count: int

    def at(self, values: Tensor | float) -> Tensor:
        """All latents: these at the values, the others at zero."""
        found = torch.zeros(self.count, dtype=torch.float64)
        found[self.ids] = torch.as_tensor(values, dtype=torch.float64)
        return found

    def codes(self, *, single: bool) -> list[Tensor]:
        """Values by which the entries are told apart: marks, or in single precision the digits of their numbers."""
        if not single:
            return [self.marks]
        numbers = torch.arange(len(self.ids))
        return [(numbers >> k & 1).double() for k in range(max(1, (len(self.ids) - 1).bit_length()))]

    @property
    def marks(self) -> Tensor:
        """Irrational, so that no average of two is the mark of a third."""
        return 1 + torch.frac(torch.arange(1, len(self.ids) + 1, dtype=torch.float64) * (math.sqrt(5) - 1) / 2)


def _found(replays: Replays, recognition: Recognition, coarse: Mapping[tuple[int, ...], int]) -> dict[str, Bilinear]:
    places, zero = replays.places, torch.zeros(replays.places.count, dtype=torch.float64)
    frames = [Frame(kind, ids, places.count) for kind, ids in places.frames(coarse)]
    start = replays.run(zero, {})
    shapes = {n: _shape(replays.program, recognition.runs[0][n], parts) for n, parts in start.items()}
    found = {n: entries_of(r, recognition.bank, shapes[n]) for n, r in replays.readings.items()}
    entries = sorted({entry for own, _ in found.values() for entry in own})
    number = {entry: k for k, entry in enumerate(entries)}
    indices = {n: _numbered(own, index, number) for n, (own, index) in found.items()}
    colours = colours_of(list(indices.values()), len(entries))
    count = int(colours.max()) + 1 if len(entries) else 0
    if (1 + len(frames)) * (1 + count) + len(frames) > RUNS:
        raise _too_many(replays.places)
    moves = [_moved(replays, entries, colours, c) for c in range(-1, count)]
    apart = {plate for latent in replays.program.latents.values() for plate in latent.plates}
    rows = {n: [d for d, p in enumerate(names_of(recognition.runs[0][n])) if p in apart] for n in start}
    which = [_which(replays, frame, start, rows) for frame in frames]
    base = replays.run(zero, moves[0])
    constants = _differences(replays, zero, moves, base, None, start)
    slots: dict[str, list[Slot]] = {n: [] for n in start}
    for frame, takes in zip(frames, which, strict=True):
        if takes:
            slopes = _differences(replays, frame.at(1.0), moves, base, constants, takes)
            for name, taken in takes.items():
                some = tuple(slope if bool((slope != 0).any()) else None for slope in slopes[name])
                slots[name].append(Slot(taken, some))
    made = {}
    for name in start:
        own = tuple(thin(_of_colour(indices[name], colours, c)) for c in range(count)) if name in indices else ()
        site = recognition.runs[0][name]
        made[name] = _pruned(
            Bilinear(site, names_of(site), shapes[name], own, tuple(entries), constants[name], tuple(slots[name]))
        )
    _certify(replays, made)
    return made


def _shape(program: Program, site: Site, parts: tuple[Tensor, Tensor]) -> tuple[int, ...]:
    """All cells of a site: in every row of its plates, also where none differs."""
    shape = broadcast(*(part.shape for part in parts))
    plates = {n: program.plates[n] for n in site.plates}
    return (*(plates.get(n, size) for n, size in zip(names_of(site), shape, strict=False)), *shape[len(site.dims) :])


def _numbered(own: Sequence[tuple[str, int]], index: Tensor, number: Mapping[tuple[str, int], int]) -> Tensor:
    table = torch.tensor([*(number[entry] for entry in own), -1], dtype=torch.long)
    return table[index]


def _of_colour(index: Tensor, colours: Tensor, c: int) -> Tensor:
    """The entry of a colour that a cell has, -1 for none."""
    hit = torch.cat([colours == c, torch.zeros(1, dtype=torch.bool)])[index]
    return torch.where(hit, index, -1).amax(-1)


def _moved(replays: Replays, entries: Sequence[tuple[str, int]], colours: Tensor, c: int) -> dict[str, Tensor]:
    """Parameters of locations: zero, and one where they have the colour."""
    found: dict[str, Tensor] = {}
    for (name, at), colour in zip(entries, colours.tolist(), strict=True):
        if name not in found:
            found[name] = torch.zeros_like(replays.program.parameters[name].initial)
        if colour == c:
            found[name].view(-1)[at] = 1.0
    return found


def _which(replays: Replays, frame: Frame, start: Parts, rows: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Which of the entries that move together every cell takes, by site.

    Args:
        replays: the program.
        frame: the entries.
        start: every site where all latents are zero.
        rows: of every site the dimensions along which there is a discrete latent for each row.

    Raises:
        Crowded: a cell has two of them.
    """
    ones, noise = replays.run(frame.at(1.0), {}), replays.noise
    coded = [replays.run(frame.at(code), {}) for code in frame.codes(single=replays.single)]
    found: dict[str, Tensor] = {}
    for name, (value, location) in start.items():
        first = (ones[name][0] - value) - (ones[name][1] - location)
        others = [(run[name][0] - value) - (run[name][1] - location) for run in coded]
        floor = 10 * noise * (value.abs() + location.abs())
        idle = first.abs() <= floor / 10 + 1e-300
        if bool(idle.all()) and all(bool((other.abs() <= 4 * floor).all()) for other in others):
            continue
        read = _binary if replays.single else _marked
        place, gap = read(frame, torch.where(idle, 1.0, first), others)
        slack = torch.where(idle, 4 * floor, 1e4 * noise * first.abs() + 4 * floor)
        if bool((torch.where(idle, torch.stack([o.abs() for o in others]).amax(0), gap) > slack).any()):
            raise Crowded(frame.kind)
        found[name] = thin_which(torch.where(idle, -1, frame.ids[place]), rows[name])
    return found


def _marked(frame: Frame, first: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Which entry every cell takes, by its mark, and how far from it a cell is."""
    (second,) = others
    marks, order = frame.marks.sort()
    if len(marks) == 1:
        nearest = torch.zeros(first.shape, dtype=torch.long)
    else:
        ratio = second / first
        at = torch.searchsorted(marks, ratio.contiguous()).clamp(1, len(marks) - 1)
        nearest = torch.where(ratio - marks[at - 1] < marks[at] - ratio, at - 1, at)
    return order[nearest], (second - marks[nearest] * first).abs()


def _binary(frame: Frame, first: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The same by the digits of its number: few digits of a float32 are enough for each."""
    place, gap = torch.zeros(first.shape, dtype=torch.long), torch.zeros_like(first)
    for k, other in enumerate(others):
        digit = (other / first).round().clamp(0, 1)
        place, gap = place + (digit.long() << k), torch.maximum(gap, (other - digit * first).abs())
    return place.clamp(max=len(frame.ids) - 1), gap


def _differences(
    replays: Replays,
    latents: Tensor,
    moves: Sequence[Params],
    base: Parts,
    less: Mapping[str, tuple[Tensor, ...]] | None,
    names: Iterable[str],
) -> dict[str, tuple[Tensor, ...]]:
    """Covariates of every colour, then the response, at values of the latents: as much as they are more than `less`."""
    known = base if less is None else replays.run(latents, moves[0])
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    for move in moves[1:]:
        run = replays.run(latents, move)
        for name, have in found.items():
            more = run[name][1] - known[name][1]
            if less is not None:
                size = run[name][1].abs() + known[name][1].abs()
                more = more - less[name][len(have)]
                more = torch.where(more.abs() <= replays.noise * size, 0.0, more)  # rounding is no slope
            have.append(thin(more))
    for name, have in found.items():
        value, location = known[name]
        if less is None:
            have.append(thin(value - location))
        else:  # each by itself, so that large ones round nothing
            have.append(thin((value - base[name][0]) - (location - base[name][1])))
    return {name: tuple(have) for name, have in found.items()}


def _pruned(made: Bilinear) -> Bilinear:
    """Leave out covariates that no cell has."""
    kept = [k for k, index in enumerate(made.index) if bool((index >= 0).any())]
    keep = [*kept, len(made.constants) - 1]
    used = sorted({int(i) for k in kept for i in made.index[k].unique() if i >= 0})
    table = torch.full((len(made.entries) + 1,), -1)
    table[used] = torch.arange(len(used))
    slots = tuple(replace(slot, slopes=tuple(slot.slopes[k] for k in keep)) for slot in made.slots)
    return replace(
        made,
        index=tuple(table[made.index[k]] for k in kept),
        entries=tuple(made.entries[i] for i in used),
        constants=tuple(made.constants[k] for k in keep),
        slots=slots,
    )


def _certify(replays: Replays, made: Mapping[str, Bilinear]) -> None:
    """Compare the residuals with the model's own where nothing was probed."""
    generator = torch.Generator().manual_seed(5)
    for size in (1.0, 30.0):
        latents = size * torch.randn(replays.places.count, generator=generator, dtype=torch.float64)
        run = replays.run(latents, {})
        for name, site in made.items():
            truth = run[name][0] - run[name][1]
            mine = site.residual(replays.params, latents)
            reach = 1e4 * replays.noise * (truth.abs() + run[name][0].abs() + run[name][1].abs() + 1e-6 * size)
            if bool(((mine - truth).abs() > reach).any()):
                raise ModelError(
                    f'Site "{name}": expected a residual that is affine in the continuous latents and in the '
                    f"parameters, got one that is not ({_off(mine, truth)} off at random values). Write the location "
                    f"as sums of products of a latent and a parameter."
                )


def _off(mine: Tensor, truth: Tensor) -> str:
    return f"{float((mine - truth).abs().max()):.2g}"


def _too_many(places: Places) -> ModelError:
    names = sorted(places.shapes)[:3]
    return ModelError(
        f"The model: expected cells that have few of the {places.count:,} continuous latent entries each, got cells "
        f"that have many of {', '.join(names)}: a mean over a plate, say. Write it as a latent of its own."
    )
