"""Estimates that run to infinity: the objective rises along a direction for ever, ever less.

No slope shows it, for the slope vanishes with the information: a standard error is larger than the estimate. So the
objective is looked at, far out: it does not fall at any distance on one side, and falls on the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor

from ...families.charts import is_ordered
from .around import Around, Entry, named
from .ground import Ground
from .ridge import FALL, FAR, GROWING, LOST, multiplying, shrinking

AGAIN = (1.0, 2.0, 4.0, 8.0)  # times the farthest: at one of these distances back a logarithm has to fall
REACH = 3.0  # standard errors given complete data: the unit of these distances
WIDEST = 2.5  # of a logarithm, likewise
FAR_ENOUGH = 4.0  # of these: farther out densities are rounding
ONWARDS = 10.0  # times as far as the values of a row have come: a unit of these distances that no rounding reaches
FLAT = 1e-9  # what is no fall, relative to 1 + |objective|
NAMED = 0.1  # of the largest part of a direction: entries that are named
FAINT = 1e-6  # information along a combination of entries, of what each has by itself: it may run off with them
AMONG = 1e-6  # of the largest part of a direction: what is no part of it
NONE = 1e-14  # of it likewise, which is rounding
BESIDE = (1 - 3e-6, 1 - 1e-6, 1 + 1e-6, 1 + 2e-6)  # neighbours, whose heights differ by rounding alone
DIGITS = 4.0  # times this difference: what may be rounding
FARTHER = tuple(1 + far for far in FAR)
NEARER = (0.3, 0.1, 0.01)  # of the way from zero, or from the next one: where cutpoints are put back
FOR_EVER = "the objective rises for ever, and has no maximum at finite values"
ALL_THE_WAY = "the objective rises all the way to this boundary, and has no maximum before it"
ENDS = {"positive": ("zero", "infinity"), "unit": ("zero", "one"), "simplex": ("zero", "one")}


def running(ground: Ground, level: float, information: Tensor) -> dict[Entry, str]:
    """Say which entries run off, and where to: "infinity", "minus infinity" or "zero".

    Args:
        ground: the objective around the fit.
        level: the objective there.
        information: in complete data, `(D, D)`.
    """
    slack = FLAT * (1 + abs(level))
    found = shrinking(ground, level, slack) | _cutpoints(ground, level, slack)
    found |= multiplying(ground, level, slack, information)
    for entry, to in _along(ground, level, information, _directions(ground, information)).items():
        found.setdefault(entry, to)
    for entry, to in _along(ground, level, information, _together(ground.around, information, found)).items():
        found.setdefault(entry, to)
    return found


def _along(ground: Ground, level: float, information: Tensor, ways: tuple[Tensor, Tensor, Tensor]) -> dict[Entry, str]:
    """Say which entries run off along some directions, and where to."""
    directions, lengths, farthest = ways
    both, farthest = torch.cat([directions * lengths, -directions * lengths]), torch.cat([farthest, farthest])
    left = torch.arange(len(both))
    for far in FAR[1:2] + FAR[:1] + FAR[2:]:
        points = farthest[left].clamp(max=far) * both[left]
        left = left[_holds(ground, points, level - FLAT * (1 + abs(level)))] if len(left) else left
    left = left[_comes_up(ground, both[left], level)]
    found = dict[Entry, str]()
    weights = information.diagonal().clamp(min=0).sqrt()
    for one in both[left]:
        part = one.abs() * torch.where(weights > 0, weights, weights.max().clamp(min=1e-300))
        for k in (part >= NAMED * part.max()).nonzero().flatten().tolist():
            entry = ground.around.entries[k]
            low, high = ENDS.get(ground.around.domains[entry[0]], ("minus infinity", "infinity"))
            found.setdefault(entry, high if one[k] > 0 else low)
    return found


def _comes_up(ground: Ground, ways: Tensor, level: float) -> Tensor:
    """Whether it is lower on the way back; logarithms, whose unit is no standard error, may have come from far."""
    added = torch.tensor([not ground.around.logarithmic(entry) for entry in ground.around.entries])
    small = AMONG * ways.abs().amax(-1, keepdim=True)
    logarithms = (ways[:, added].abs() <= small).all(-1, keepdim=True)
    lower = torch.zeros(len(ways), dtype=torch.bool)
    for far in AGAIN:
        back = FAR[-1] * torch.where(logarithms, far, 1.0)
        lower |= ground.heights(-back * ways) < level - FALL
    return lower


def run_off(off: Mapping[Entry, str], silent: Collection[Entry]) -> list[str]:
    """Name what runs off, and where to; of entries of which even complete data say nothing, the objective is level."""
    notes = []
    for where in dict.fromkeys(off.values()):
        there = [entry for entry, to in off.items() if to == where]
        if rising := [entry for entry in there if entry not in silent]:
            why = FOR_EVER if "infinity" in where else ALL_THE_WAY
            notes.append(f"runs to {where}: {named(rising)}; {why}")
        if level := [entry for entry in there if entry in silent]:
            why = "the objective is the same to its last digit, however far, and tells no value of it"
            notes.append(f"level from here to {where}: {named(level)}; {why}")
    return notes


def _holds(ground: Ground, points: Tensor, least: float) -> Tensor:
    """Whether the objective is no lower than `least`, or by no more than the digits that it has lost.

    A density far out may be the difference of large numbers, as that of a Student t with many degrees of freedom.
    """
    heights = ground.heights(points)
    low = heights < least
    if bool(low.any()):
        beside = torch.tensor(BESIDE, dtype=points.dtype)
        around = ground.heights((beside[:, None, None] * points[low]).flatten(0, 1)).reshape(len(beside), -1)
        low[low.clone()] = heights[low] < least - DIGITS * (around.amax(0) - around.amin(0)).nan_to_num(nan=0.0)
    return ~low


def _directions(ground: Ground, information: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return directions in which estimates run off, their lengths, and at how many of these to look at most.

    They are each real and each positive entry by itself, every row of real ones away from zero, and combinations that
    even complete data say next to nothing about, as of a size and a probability whose product alone is determined.
    Rows are looked at some times as far as they have come, too: standard errors may lie where all digits are lost.
    """
    around, values = ground.around, ground.around.values
    domains = [around.domains[name] for name, _ in around.entries]
    alone = [k for k, domain in enumerate(domains) if domain in ("real", "positive")]
    units = torch.eye(len(values), dtype=values.dtype)[alone]
    groups = _rays(around.entries, domains)
    rays = torch.zeros((len(groups), len(values)), dtype=values.dtype)
    for ray, some in zip(rays, groups, strict=True):
        ray[some] = values[some]
    rays = rays[(rays != 0).sum(-1) > 1].repeat(2, 1)
    combined = [one.unsqueeze(0) for one in _combinations(information, domains)]
    directions = torch.cat([units, rays / rays.abs().amax(-1, keepdim=True), *combined])
    widest = [WIDEST if domains[k] == "positive" else torch.inf for k in alone]
    most = torch.tensor([*widest, *[torch.inf] * len(rays), *[WIDEST] * len(combined)], dtype=values.dtype)
    curved = (directions @ information * directions).sum(-1).clamp(min=0)
    way = (directions * values).abs().amax(-1)
    lengths = torch.where(curved > 1e-300, REACH / curved.sqrt(), 10 * way.clamp(min=1.0))
    near = slice(len(alone) + len(rays) // 2, len(alone) + len(rays))
    lengths[near] = torch.minimum(lengths, ONWARDS * way)[near]
    lost = curved * torch.where(most < torch.inf, 1.0, way.square()) < LOST
    farthest = torch.where(most < torch.inf, FAR_ENOUGH, FAR[-1])
    return directions[lost], torch.minimum(lengths, most)[lost].unsqueeze(-1), farthest[lost].unsqueeze(-1)


def _together(around: Around, information: Tensor, known: Collection[Entry]) -> tuple[Tensor, Tensor, Tensor]:
    """Return rays of which every entry by itself is held by the data: of a parameter, what is faint of its values.

    A class that covariates tell from all others runs off from them. Where it is the one whose logits are zero, those of
    the others run off, and what is between them does not. Far out rounding would move that, too.
    """
    rays = [torch.zeros((0, around.size), dtype=torch.float64)]
    for name in around.names:
        own = [k for k, (n, at) in enumerate(around.entries) if n == name and (n, at) not in known]
        if len(own) < 2 or around.domains[name] != "real":
            continue
        size = information.diagonal()[own]
        unit = torch.where(size > 0, size.clamp(min=1e-300).rsqrt(), 0.0)
        values, vectors = torch.linalg.eigh(information[own][:, own] * unit * unit.unsqueeze(-1))
        faint = vectors[:, (values > NONE) & (values < FAINT)]  # along what has none the objective is level
        one = torch.zeros_like(around.values)
        one[own] = unit * (faint @ (faint.mT @ (around.values[own] * size.clamp(min=0).sqrt())))
        if bool(one.any()):
            rays.append(one.unsqueeze(0) / one.abs().max())
    found = torch.cat(rays)
    curved = (found @ information * found).sum(-1).clamp(min=0)
    way = (found * around.values).abs().amax(-1)
    lost = curved * way.square() < LOST
    return found[lost], ONWARDS * way[lost].unsqueeze(-1), torch.full_like(way[lost], FAR[-1]).unsqueeze(-1)


def _combinations(information: Tensor, domains: list[str]) -> Iterator[Tensor]:
    """Yield directions of several entries, the largest part one, along which information is faint."""
    size = information.diagonal()
    if not bool((size > 0).all()) or "positive" not in domains:
        return
    unit = size.rsqrt()
    values, vectors = torch.linalg.eigh(information * unit * unit.unsqueeze(-1))
    for vector in vectors.mT[values < FAINT]:
        one = unit * vector
        yield one / one.abs().max()


def _cutpoints(ground: Ground, level: float, slack: float) -> dict[Entry, str]:
    """Cutpoints that run off: those above a category without rows, those below one, or all with what they cut.

    Their coordinates are the lowest one and the logarithms of the gaps, so that they are moved as values. The model may
    write gaps, too.
    """
    around, parameters, found = ground.around, ground.problem.program.parameters, dict[Entry, str]()
    ordered = [name for name in around.names if is_ordered(parameters[name].constraint)]
    rows = list(dict.fromkeys((name, at[:-1]) for name, at in around.entries if name in ordered))
    for ways in (_outwards(around, rows), _from_zero(ground, ordered, found)):  # the second sees what the first found
        for out, back, entries in ways:
            if bool((ground.heights(out) >= level - slack).all()) and bool((ground.heights(back) < level - FALL).any()):
                found |= {entry: to for entry, to in entries.items() if entry not in found}
    return found


Way = tuple[Tensor, Tensor, dict[Entry, str]]
"""Points farther out, points on the way back, and which entries run off this way, and where to."""


def _outwards(around: Around, rows: Sequence[Entry]) -> Iterator[Way]:
    """The uppermost or the lowest cutpoints of a row, moved away from the others."""
    for name, row in rows:
        value = around.params[name][row]
        unit, many = max(1.0, float(value.abs().max())), len(value)
        for k, up in product(range(many), (True, False)):
            sign, some = (1, slice(k, many)) if up else (-1, slice(0, k + 1))
            beside = k - 1 if up else k + 1
            gap = float((value[k] - value[beside]).abs()) if 0 <= beside < many else 0.0
            back = [(share - 1) * gap for share in NEARER] if gap else [-far * unit for far in FAR]
            out = [far * unit for far in FAR]
            ways = [[_put(around, name, row, some, sign * by) for by in lengths] for lengths in (out, back)]
            to = "infinity" if up else "minus infinity"
            yield torch.stack(ways[0]), torch.stack(ways[1]), {(name, (*row, j)): to for j in range(many)[some]}


def _put(around: Around, name: str, row: tuple[int, ...], some: slice, by: float) -> Tensor:
    """Coordinates at which some cutpoints of a row are moved."""
    value = around.params[name].clone()
    value[row][some] += by
    return around.to(name, value)


def _from_zero(ground: Ground, ordered: Collection[str], known: Collection[Entry]) -> Iterator[Way]:
    """Whole rows of cutpoints, gaps, and real numbers beside them in a site that only the model tells, multiplied.

    The largest are named, but for those known.
    """
    around, engine = ground.around, ground.problem.engine
    sizes = {name: around.params[name].shape[-1] for name in ordered}
    sites = dict.fromkeys(engine.recognition.reaches.get(site, frozenset()) for site in engine.written)
    for group in _beside_in_a_site(around, sites, ordered):
        some = [around.entries[k] for k in group]
        rows = [(name, at[:-1]) for name, at in some if name in ordered]
        if any(rows.count(row) < sizes[row[0]] for row in rows):
            continue
        out, back = (torch.stack([_multiply(around, some, by) for by in factors]) for factors in (FARTHER, NEARER))
        values = {(name, at): float(around.params[name][at]) for name, at in some if (name, at) not in known}
        largest = {name: max(abs(v) for (n, _), v in values.items() if n == name) for name, _ in values}
        large = {entry: value for entry, value in values.items() if abs(value) >= NAMED * largest[entry[0]] > 0}
        yield out, back, {entry: "infinity" if value > 0 else "minus infinity" for entry, value in large.items()}


def _beside_in_a_site(
    around: Around, sites: Iterable[Collection[str]], ordered: Collection[str]
) -> list[tuple[int, ...]]:
    """Groups of coordinates that are numbers, not all of them real, of parameters that enter a site together."""
    groups = dict[tuple[int, ...], None]()
    kinds = {name: "real" if name in ordered else domain for name, domain in around.domains.items()}
    for names in sites:
        domains = [kinds[n] if n in names and kinds[n] in GROWING else "" for n, _ in around.entries]
        for group in _rays(around.entries, ["real" if domain else "" for domain in domains]):
            if any(around.domains[around.entries[k][0]] != "real" for k in group):
                groups[tuple(group)] = None
    return list(groups)


def _multiply(around: Around, some: Sequence[Entry], by: float) -> Tensor:
    """Coordinates at which some entries are multiplied."""
    point = torch.zeros(around.size, dtype=torch.float64)
    for name in dict.fromkeys(name for name, _ in some):
        value = around.params[name].clone()
        for at in (at for n, at in some if n == name):
            value[at] *= by
        point += around.to(name, value)
    return point


def _rays(entries: tuple[Entry, ...], domains: list[str]) -> list[list[int]]:
    """Real entries of the same row of a parameter, of the same parameter, of one state of several, and all."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for k, (name, at) in enumerate(entries):
        if domains[k] == "real":
            for key in ((name, at[:-1]), (name,), ("first", at[:1]), ("last", at[-1:]), ()):
                groups.setdefault(key, []).append(k)
    return [list(group) for group in dict.fromkeys(map(tuple, groups.values()))]
