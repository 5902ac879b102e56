"""Latents whose mean could as well be part of the parameters: random effects, beside fixed ones or around them.

EM moves a fixed effect slowly where the latents beside it can take what it lacks. In the model in which the latents may
have a mean `nu` as well, their M-step is at once: `nu` is the mean of what is expected of them, their covariance is
around it, and `nu` then goes to the parameters that move all else as it does. No iterate has a lower likelihood for
that.

EM moves the mean of latents slowly where they have little spread around it. In the model in which all else may take
them with `nu` added, `nu` is found by least squares, with a covariate in every site that the latents enter, and goes to
their mean. References: Liu, Rubin and Wu (1998), Parameter expansion to accelerate EM, Biometrika 85; Meng and van Dyk
(1998), Fast EM-type implementations for mixed effects models, JRSS B 60.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

import torch
from torch import Tensor

from ...records.frozen import frozen
from ..sums import Sums
from .rows import Rows

ENTRIES, CELLS = 64, 1 << 22  # of the parameters; of the rows: beyond, nothing is looked for
MEANS = 4  # entries of a mean around which latents are, up to which other sites have covariates for them
SAME = 1e-9  # of the terms of a cell


@frozen
class Translation:
    """What a mean of latents is to the parameters.

    Attributes:
        site: of the latents.
        moves: by parameter, how much every entry moves with each coordinate of the mean, (coordinates, entries).
    """

    site: str
    moves: dict[str, Tensor] = field(repr=False)


@frozen
class Centre:
    """What latents have for a mean, and where covariates stand for what is added to it.

    Attributes:
        entries: of the parameters that it is made of, as (name, flat position).
        columns: by site, the first of its covariates for them.
    """

    entries: tuple[tuple[str, int], ...]
    columns: Mapping[str, int] = field(repr=False)

    def of(self, sums: Mapping[str, Sums], roots: Mapping[str, Tensor]) -> tuple[dict[str, Sums], Tensor]:
        """Find what is best added to the mean, (s, entries), and statistics with that added to the latents.

        Args:
            sums: expected statistics by site.
            roots: of every site what whitens its residuals, by cell.
        """
        many = len(self.entries)
        matrix, right = (torch.zeros((1, *(many,) * dims), dtype=torch.float64) for dims in (2, 1))
        for name, first in self.columns.items():
            mine, root = slice(first, first + many), roots[name]
            _, gram, pull, _ = sums[name].parts
            if sums[name].family.event_dim:  # coordinates with a covariance matrix in common
                weight = root.mT @ root
                matrix = matrix + torch.einsum("scef,scepfq->spq", weight, gram[..., mine, :, mine])
                right = right + torch.einsum("scef,scepf->sp", weight, pull[..., mine, :])
            else:
                matrix = matrix + torch.einsum("sc,scpq->spq", root.square(), gram[..., mine, mine])
                right = right + torch.einsum("sc,scp->sp", root.square(), pull[..., mine])
        added = (torch.linalg.pinv(matrix, hermitian=True) @ right.unsqueeze(-1)).squeeze(-1)
        return {name: _with_added(sums[name], first, added) for name, first in self.columns.items()}, added


def _with_added(some: Sums, first: int, added: Tensor) -> Sums:
    """Statistics of residuals less what covariates from the first one on add to the location."""
    assert some.around is not None
    around = some.around.expand((len(added), *some.around.shape[1:]))
    centre = around.clone()
    centre[..., first : first + added.shape[1]] += added.reshape((len(added), *(1,) * (around.dim() - 2), -1))
    return replace(some.about(centre), around=around)


def centres(sites: Sequence[Rows], count: int, sizes: Mapping[str, int]) -> tuple[list[Rows], tuple[Centre, ...]]:
    """Find latents around means that are parameters, and give the sites that they enter a covariate for each.

    Args:
        sites: all sites that latents enter.
        count: entries of all latents.
        sizes: entries of every parameter that may be moved.

    Returns:
        The same sites, with covariates that no parameter multiplies; and the means.
    """
    every, found = list(sites), list[Centre]()
    for k, own in enumerate(sites):
        made = _means(own, count, sizes)
        if made is None:
            continue
        entries, means = made
        others = [i for i, rows in enumerate(sites) if i != k and bool((means[rows.which] != 0).any())]
        shared = {n for i, r in enumerate(sites) if i != k for n, _ in r.entries} & {n for n, _ in entries}
        covariates = [_covariates(sites[i], means) for i in others]
        if not others or shared or any(part is None for part in covariates):
            continue
        columns = {}
        for i, parts in zip(others, covariates, strict=True):
            assert parts is not None
            columns[sites[i].site] = every[i].count
            every[i] = _widened(every[i], parts)
        found.append(Centre(entries, columns))
    return every, tuple(found)


def _means(own: Rows, count: int, sizes: Mapping[str, int]) -> tuple[tuple[tuple[str, int], ...], Tensor] | None:
    """Entries of the mean of a law, and what each adds to that of every latent, (count + 1, entries).

    None if its values are no latents, or it has no mean that is a parameter.
    """
    states, rows, _ = own.layout.sizes
    names = sorted({name for name, _ in own.entries if name in sizes})
    first, at = dict[str, int](), 0
    for name in names:
        first[name] = at
        at += sizes[name]
    taken = _one_latent_each(own) if states == 1 and rows > 1 and own.weight is None else None
    if not 0 < at <= MEANS or taken is None:
        return None
    made = _equations(own, torch.full((count,), -1), 1, first, at)
    if made is None:
        return None
    means = torch.zeros((count + 1, at), dtype=torch.float64)
    means[taken.reshape(-1)] = made[0]
    return tuple((name, i) for name in names for i in range(sizes[name])), means


def _one_latent_each(own: Rows) -> Tensor | None:
    """The latent that is the value of every row and coordinate, each once: (rows, coordinates); None if none is."""
    sizes = own.layout.sizes
    slopes = []
    for slot in own.slopes:
        if any(part is not None for part in slot[:-1]) or slot[-1] is None:
            return None
        slopes.append(slot[-1].expand(sizes)[0])
    if not slopes:
        return None
    slope = torch.stack(slopes, -1) * (own.which >= 0).unsqueeze(1)  # (rows, coordinates, slots)
    if not bool(((slope != 0).sum(-1) == 1).all()) or not bool((slope.sum(-1) == 1).all()):
        return None
    taken = own.which.unsqueeze(1).expand(slope.shape).gather(-1, slope.argmax(-1, keepdim=True)).squeeze(-1)
    return taken if len(taken.unique()) == taken.numel() else None


def _covariates(rows: Rows, means: Tensor) -> list[Tensor] | None:
    """What is added to means, as it enters a site: a covariate for each entry; None if parameters multiply it."""
    total = torch.zeros((*rows.layout.sizes, means.shape[1]), dtype=torch.float64)
    if total.numel() > CELLS:
        return None
    for f, slot in enumerate(rows.slopes):
        added = means[rows.which[:, f]]  # (rows, entries)
        if bool(added.any()):
            if any(part is not None for part in slot[:-1]):
                return None
            if slot[-1] is not None:
                total = total - slot[-1].unsqueeze(-1) * added.unsqueeze(1)
    return [_thin(part) for part in total.unbind(-1)]


def _thin(part: Tensor) -> Tensor:
    """The same, of size one in dimensions along which it does not vary."""
    for d in range(part.dim()):
        first = part.narrow(d, 0, 1)
        part = first if bool((part == first).all()) else part
    return part.contiguous()


def _widened(rows: Rows, parts: Sequence[Tensor]) -> Rows:
    """A site with more covariates, that no parameter multiplies."""
    nothing = torch.full((*rows.index.shape[:-1], len(parts)), -1)
    return replace(
        rows,
        constants=(*rows.constants[:-1], *parts, rows.constants[-1]),
        slopes=tuple((*slot[:-1], *(None for _ in parts), slot[-1]) for slot in rows.slopes),
        index=torch.cat([rows.index, nothing], -1),
    )


def translations(sites: Sequence[Rows], count: int, sizes: Mapping[str, int]) -> tuple[Translation, ...]:
    """Find the latents whose translation is one of the parameters.

    Args:
        sites: all sites that latents enter.
        count: entries of all latents.
        sizes: entries of every parameter that may be moved.
    """
    found = []
    for own in sites:
        coordinate = _coordinates(own, count)
        if coordinate is not None:
            moves = _moves(own, [rows for rows in sites if rows is not own], coordinate, sizes)
            if moves is not None:
                found.append(Translation(own.site, moves))
    return tuple(found)


def _coordinates(own: Rows, count: int) -> Tensor | None:
    """Which coordinate of the law of a site every latent entry is, -1 for none; None if it is no law around zero."""
    _, rows, size = own.layout.sizes
    width = own.which.shape[1]
    plain = own.count == 0 and len(own.index) == 1 and own.weight is None and own.log_factors is None
    if not plain or own.constants[-1] is not None or width != size or bool((own.which < 0).any()):
        return None
    if size > 1 and not own.joint:
        return None
    slopes = [slot[-1] for slot in own.slopes]
    if any(s is None or s.shape[:2] != (1, 1) for s in slopes):
        return None
    matrix = torch.stack([s.expand((1, 1, size))[0, 0] for s in slopes if s is not None])
    order = matrix.argmax(1)  # the coordinate that every slot is
    if not torch.equal(matrix[order.argsort()], torch.eye(size, dtype=matrix.dtype)):
        return None
    found = torch.full((count,), -1)
    found[own.which.reshape(-1)] = order.repeat(rows)
    return found


def _moves(own: Rows, others: Sequence[Rows], coordinate: Tensor, sizes: Mapping[str, int]) -> dict[str, Tensor] | None:
    """How the parameters move with the mean; None if none of them do what it does."""
    names = sorted({name for rows in others for name, _ in rows.entries if name in sizes})
    first, at = {}, 0
    for name in names:
        first[name] = at
        at += sizes[name]
    if not 0 < at <= ENTRIES:
        return None
    design, pull = [], []
    for rows in others:
        made = _equations(rows, coordinate, own.layout.sizes[2], first, at)
        if made is None:
            return None
        design.append(made[0])
        pull.append(made[1])
    x, t = torch.cat(design), -torch.cat(pull)  # what a mean adds to residuals, the parameters take away
    largest = x.abs().amax(0, keepdim=True)
    unit = torch.where(largest > 0, largest, 1.0)  # of every entry its own: what is small has a direction too
    solved = torch.linalg.lstsq(x / unit, t, driver="gelsd").solution / unit.mT
    terms = x.abs() @ solved.abs() + t.abs()  # of every cell by itself: units may be small
    if bool(((x @ solved - t).abs() > SAME * terms).any()) or not bool(t.any()):
        return None
    return {name: solved[first[name] : first[name] + sizes[name]].mT.contiguous() for name in names}


def _equations(
    rows: Rows, coordinate: Tensor, size: int, first: dict[str, int], entries: int
) -> tuple[Tensor, Tensor] | None:
    """Covariates by all entries, and slopes by the coordinates of the mean, a row a cell; None if they are no sum."""
    shape = rows.layout.sizes
    cells = shape[0] * shape[1] * shape[2]
    if cells > CELLS:
        return None
    padded = torch.cat([coordinate, torch.full((1,), -1)])
    mine = padded[rows.which]  # (rows, slots)
    pull = torch.zeros((*shape, size + 1), dtype=torch.float64)
    for f, slot in enumerate(rows.slopes):
        at = torch.where(mine[:, f] < 0, size, mine[:, f]).reshape((1, -1, 1, 1)).expand((*shape, 1))
        if bool((mine[:, f] >= 0).any()):
            if any(part is not None for part in slot[:-1]):
                return None
            slope = slot[-1]
            if slope is not None:
                pull.scatter_add_(-1, at, slope.expand(shape).unsqueeze(-1))
    where = torch.tensor([first[name] + i if name in first else entries for name, i in rows.entries] + [entries])
    design = torch.zeros((*shape, entries + 1), dtype=torch.float64)
    index = rows.index[rows.cells[..., 0]] if rows.joint else rows.index[rows.cells]
    for j, part in enumerate(rows.constants[:-1]):
        if part is not None:
            at = where[index[..., j]].expand(shape).unsqueeze(-1)
            design.scatter_add_(-1, at, part.expand(shape).unsqueeze(-1))
    return design[..., :entries].reshape((cells, -1)), pull[..., :size].reshape((cells, -1))
