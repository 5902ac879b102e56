"""Digits: one centre for all cells of a location family, and each cell's own location where that one would lose them.

Features `(1, x, x x')` of values that are centred once serve all cells in one matrix product, and lose about `eps r^2`
of a log-density, `r` being the largest distance from that centre in units of the cell's smallest scale. A cell for
which that is too much is computed from deviations from its own location instead, at the cost of a matrix product of its
own. Which cells these are is seen when arguments are bound; nobody above a site's factor asks.

Sums are handed on around the location at the parameters of the step, whatever they were taken around; where one centre
is known to do for all cells, they stay there. What is left of a scale that a step shrinks by far more than that
location was right must be summed again, around the new one: `blurred`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...reading.bank import gather
from ...reading.bound import Bound, once
from ..chunks import LEAST
from .natural import Natural, Own
from .site_factor import SiteFactor

EXACT = 1e-12  # relative error of a log-density up to which one centre does
SHORT = 2.0  # what is said where it is only known that digits run short
BLOCK = 1 << 17  # deviations that are taken together: a share of the second-level cache
FEW = 2  # rows for each that has weight in a cell from which it is faster to pick these
EPS = torch.finfo(torch.float64).eps
FARTHEST = (EXACT / EPS) ** 0.5
"""Distance from the centre, in units of the smallest scale, up to which one centre does: about 67."""

Columns = tuple[Tensor, Tensor | None]
"""Values of rows, and how much each counts, as `SiteData.columns` has them."""


def natural(factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
    """Bind a site that is computed by features: with one centre, but for the cells that are too narrow for it."""
    if not factor.moves or (bound.plain and about is None):
        return Natural(factor.eta(bound))
    wanted = factor.locations(bound if about is None else about)
    if not factor.centres:
        return Natural(factor.eta(bound), wanted)
    mask = _narrow(factor, bound)
    if about is not None:
        mask = mask | _narrow(factor, about)
    if not bool(mask.any()):
        return Natural(factor.eta(bound), wanted)
    rough, own = factor.eta(bound), _own(factor, bound, mask, wanted)
    if own.every:
        return Natural(torch.zeros_like(rough), wanted, own._replace(rough=rough))
    return Natural(torch.where(mask.unsqueeze(-1), 0.0, rough), wanted, own)


@once
def scales(factor: SiteFactor, bound: Bound) -> Tensor:
    """Return the scales of a site, or the diagonals of its Cholesky factors: (starts, or one) + what they differ by."""
    key = "scale" if "scale" in factor.roles else "scale_tril"
    role = factor.roles[key]
    found = gather(role, bound.entries if key == "scale" else bound.matrices, bound.batch)
    found = found if key == "scale" else found.diagonal(dim1=-2, dim2=-1)
    return found.unsqueeze(0) if role.known else found


@once
def _narrow(factor: SiteFactor, bound: Bound) -> Tensor:
    """Which cells are too narrow for one centre."""
    return _room(factor, bound) < factor.data.reach


def narrowness(factor: SiteFactor, bound: Bound) -> Tensor:
    """Return how many of its smallest scales the farthest value lies from the common centre, of every cell."""
    return FARTHEST * factor.data.reach / _room(factor, bound)


@once
def _room(factor: SiteFactor, bound: Bound) -> Tensor:
    """How far from a centre the smallest scale of every cell lets values be: (starts) + cells."""
    scale, kept = scales(factor, bound), (bound.starts, *factor.cell_shape)
    event = factor.event_shape if "scale" in factor.roles else (*factor.event_shape, scale.shape[-1])
    scale = scale.expand((*kept, *event))
    return FARTHEST * (scale.flatten(len(kept)).amin(-1) if event else scale).double()


def _own(factor: SiteFactor, bound: Bound, mask: Tensor, wanted: Tensor) -> Own:
    """The cells of `mask`, around their own locations."""
    inner = (bound.starts, *factor.cell_shape, *factor.event_shape)
    which = mask.reshape(-1).nonzero().squeeze(-1)
    every = len(which) == mask.numel()

    def chosen(part: Tensor, event_dim: int) -> Tensor:
        tail = part.shape[part.dim() - event_dim :]
        part = part.expand((*inner, *tail)).flatten(0, mask.dim() - 1)
        return part if every else part[which]

    location = factor.family.location
    assert location is not None
    dims = {key: role.event_dim for key, role in factor.family.roles.items()}
    args = {key: chosen(value, dims[key]) for key, value in factor.arguments(bound).items() if key != location}
    here = chosen(at := factor.locations(bound), dims[location])
    about = here if wanted is at else chosen(wanted, dims[location])
    white, log_factor = factor.family.whitening(args)
    if (excess := bound.excess(factor)) is not None:
        log_factor = log_factor + chosen(excess, 0)
    return Own(which, here, white, log_factor, about, every)


def add_densities(factor: SiteFactor, own: Own, product: Tensor, columns: Columns) -> None:
    """Add the log-densities of the cells of `own` to their rows of `product`, (starts and cells flattened, columns)."""
    values, weight = columns
    for cells, rows in _blocks(len(own.which), values):
        deviation = _deviations(factor, values[..., rows], own.location[cells])
        white = factor.family.whitened(deviation, own.factor[cells], factor.data.room("white", deviation.shape))
        found = _density(white, own.log_factor[cells], values.shape[-2], None if weight is None else weight[..., rows])
        if own.every:
            product[cells, rows] += found
        else:
            product[:, rows].index_add_(0, own.which[cells], found)


def own_sums(factor: SiteFactor, own: Own, weights: Tensor, columns: Columns) -> Tensor:
    """Return the statistics of the cells of `own` around their centres, (n, F).

    Clusters far apart share few rows: where most weights are exact zeros, each cell is summed over its own rows alone.

    Args:
        factor: the site.
        own: cells.
        weights: of all starts and cells flattened, (all, columns).
        columns: values and weights of the rows.
    """
    shares = weights if own.every else weights.index_select(0, own.which)
    values, weight = columns
    counts = shares.count_nonzero(-1)
    most = max(1, int(counts.amax()))
    if FEW * most <= shares.shape[-1]:
        return _over_own_rows(factor, own, values, weight, _of_each(shares, counts, most))
    found = shares.new_zeros((len(shares), factor.data.width))
    for cells, rows in _blocks(len(shares), values):
        part = None if weight is None else weight[..., rows]
        deviation = _deviations(factor, values[..., rows], own.centre[cells])
        found[cells] += _moments(factor, deviation, shares[cells, rows], part)
    return found


def of_one(factor: SiteFactor, own: Own, columns: Columns, share: Tensor) -> tuple[Tensor, Tensor]:
    """Log-densities `(1, columns)` and statistics `(1, F)` of rows that belong to a single cell.

    Args:
        factor: the site.
        own: that cell alone.
        columns: values and weights of the rows.
        share: how much each row counts, `(1, columns)`.
    """
    values, weight = columns
    deviation = _deviations(factor, values, own.location)
    found = None if own.centre is not own.location else _moments(factor, deviation, share, weight)
    white = factor.family.whitened(deviation, own.factor, factor.data.room("white", deviation.shape))
    density = _density(white, own.log_factor, values.shape[-2], weight)
    if found is None:
        found = _moments(factor, _deviations(factor, values, own.centre), share, weight)
    return density, found


def _over_own_rows(
    factor: SiteFactor, own: Own, values: Tensor, weight: Tensor | None, each: tuple[Tensor, Tensor]
) -> Tensor:
    """Statistics of cells, each over the rows in which it has weight."""
    rows, shares = each
    found = []
    for cells in _few_cells(len(shares), values[..., 0].numel() * shares.shape[-1]):
        part = None if weight is None else _picked(weight, rows[cells])
        deviation = _deviations(factor, _picked(values, rows[cells]), own.centre[cells])
        found.append(_moments(factor, deviation, shares[cells], part))
    return torch.cat(found)


def _of_each(shares: Tensor, counts: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The rows in which a cell has weight, and their weights, both (n, most); with zeros behind those of fewer."""
    flat = shares.reshape(-1)
    chosen = flat.nonzero().squeeze(-1)
    ahead = (counts.cumsum(0) - counts).repeat_interleave(counts)  # of the cells before
    cell = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    at = torch.arange(len(chosen), device=chosen.device).sub_(ahead).add_(cell, alpha=most)
    rows, kept = chosen.new_zeros(len(counts) * most), flat.new_zeros(len(counts) * most)
    rows.scatter_(0, at, chosen.sub(cell, alpha=shares.shape[-1]))
    kept.scatter_(0, at, flat.index_select(0, chosen))
    return rows.view(-1, most), kept.view(-1, most)


def _moments(factor: SiteFactor, deviation: Tensor, shares: Tensor, weight: Tensor | None) -> Tensor:
    """Statistics (n, F) of deviations of rows from cells, under shares (n, columns) and the weights of the rows."""
    folded = deviation.shape[-1] // shares.shape[-1]
    each = shares if folded == 1 else shares.unsqueeze(1).expand(-1, folded, -1).flatten(1)
    each = each.reshape((len(shares), *(1,) * len(factor.event_shape), -1))
    each = each if weight is None else each * weight.flatten(-2)
    return _side_by_side(factor, factor.family.moments(deviation, each))


def _picked(part: Tensor, rows: Tensor) -> Tensor:
    """Of every cell its own columns, (n) + ...; `gather` is several times faster here than `index_select`."""
    index = rows.reshape((len(rows), *(1,) * (part.dim() - 1), -1)).expand((len(rows), *part.shape[:-1], -1))
    return part.expand((len(rows), *part.shape)).gather(-1, index)


def _blocks(cells: int, values: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cells and columns in blocks whose deviations stay in cache."""
    entries, columns = values[..., 0].numel(), values.shape[-1]
    for some in _few_cells(cells, entries * LEAST):
        rows = max(LEAST, BLOCK // (entries * (some.stop - some.start)))
        for start in range(0, columns, rows):
            yield some, slice(start, start + rows)


def _few_cells(cells: int, entries: int) -> list[slice]:
    """Cells, so few at a time that their deviations, so many entries each, stay in cache."""
    together = max(1, min(cells, BLOCK // max(entries, 1)))
    return [slice(first, min(first + together, cells)) for first in range(0, cells, together)]


def _deviations(factor: SiteFactor, values: Tensor, location: Tensor) -> Tensor:
    """Values less the location of each cell, folded plates among the rows: (n) + events + event + (rows,).

    They lie in a room that is written again by the next call.
    """
    room = factor.data.room("deviations", (len(location), *values.shape[values.dim() - location.dim() - 1 :]))
    return torch.sub(values, location.unsqueeze(-1).unsqueeze(-1), out=room).flatten(-2)


def _density(white: Tensor, log_factor: Tensor, folded: int, weight: Tensor | None) -> Tensor:
    """Log-densities (n, columns) of residuals, which are overwritten; events and so many folded rows are summed."""
    squares = white.square_()
    if weight is None:
        squares = squares.flatten(1, -2).sum(1) if squares.dim() > 2 else squares
        found = torch.sub(log_factor.reshape((len(log_factor), -1)).sum(-1, keepdim=True), squares, alpha=0.5)
    else:
        squares = squares.sum(-2) if squares.dim() > log_factor.dim() + 1 else squares
        found = torch.sub(log_factor.unsqueeze(-1), squares, alpha=0.5) * weight.flatten(-2)
        found = found.flatten(1, -2).sum(1) if found.dim() > 2 else found
    return found.view((len(found), folded, -1)).sum(1) if folded > 1 else found


def _side_by_side(factor: SiteFactor, parts: tuple[Tensor, ...]) -> Tensor:
    """Statistics of cells as the features have them, (n, F)."""
    data, cells = factor.data, len(parts[0])
    once = (1,) * len(factor.event_shape)
    events = ((once if k in data.counting else factor.event_shape, event) for k, event in enumerate(data.events))
    pairs = [(part, (*shape, *event)) for part, (shape, event) in zip(parts, events, strict=True)]
    return torch.cat([part.expand((cells, *shape)).reshape((cells, -1)) for part, shape in pairs], -1)


def finish(factor: SiteFactor, found: Tensor, natural: Natural | None) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return statistics of the family, moved from where they were taken to where they are wanted; and where that is.

    Without `natural` (the shares were drawn, not weighed) they stay around the common centre.
    """
    parts, shift = factor.split(found), factor.data.shift
    if shift is None:
        return parts, None
    wanted = None if natural is None else natural.wanted
    if wanted is None or factor.kept is not None:  # a row a cell: nothing has been summed, nothing is gained by moving
        tail = () if not factor.family.event_dim else shift.shape[-1:]
        return parts, shift.double().expand((found.shape[0], *factor.cell_shape, *factor.event_shape, *tail))
    taken = shift.double()
    if natural is not None and natural.own is not None:
        kept = 1 + len(factor.cell_shape)
        taken = taken.expand(wanted.shape).clone()
        taken.view((-1, *wanted.shape[kept:]))[natural.own.which] = natural.own.centre
    return factor.family.shifted(parts, wanted - taken), wanted


def digits(factor: SiteFactor, bound: Bound, near: Bound) -> Tensor | None:
    """Say by how much digits run short, shape `(2, starts)`: above one they do; None where they never do.

    First, whether statistics taken at `bound` have too few for the scales `near`: a location has moved by too many of
    the new scales, or a scale has become too narrow for the centre that its cell had. Second, whether a cell is too
    narrow for one centre `near`. Both are read off the arguments and the reach of the data, on which all who hold rows
    agree. Sums that have stayed around one centre are short of digits where the narrowest cell is too narrow for it.
    """
    if not factor.centres:
        return None
    if bound.plain:
        scale = scales(factor, near)
        return (factor.data.reach / FARTHEST / scale.reshape((scale.shape[0], -1)).amin(-1)).expand((2, near.starts))
    room, narrow = _room(factor, near), _narrow(factor, near)
    moved = (factor.locations(near) - factor.locations(bound)).abs()
    if moved.dim() > room.dim():
        moved = moved.flatten(room.dim()).amax(-1)
    far = (narrow > _narrow(factor, bound)) | (moved > room)
    return SHORT * torch.stack((far, narrow)).reshape((2, near.starts, -1)).any(-1)
