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

from collections.abc import Mapping

import torch
from torch import Tensor

from ...reading.bank import gather
from ...reading.bound import Bound, once
from ..chunks import Chunk
from .natural import Natural, Own
from .site_factor import SiteFactor

EXACT = 1e-12  # relative error of a log-density up to which one centre does
SHORT = 2.0  # what is said where it is only known that digits run short
EPS = torch.finfo(torch.float64).eps
FARTHEST = (EXACT / EPS) ** 0.5
"""Distance from the centre, in units of the smallest scale, up to which one centre does: about 67."""


def natural(factor: SiteFactor, bound: Bound, about: Bound | None) -> Natural:
    """Bind a site that is computed by features: with one centre, but for the cells that are too narrow for it."""
    eta = factor.eta(bound)
    if not factor.moves or (bound.plain and about is None):
        return Natural(eta)
    wanted = factor.locations(bound if about is None else about)
    if not factor.centres:
        return Natural(eta, wanted)
    mask = _narrow(factor, bound)
    if about is not None:
        mask = mask | _narrow(factor, about)
    if not bool(mask.any()):
        return Natural(eta, wanted)
    return Natural(torch.where(mask.unsqueeze(-1), 0.0, eta), wanted, _own(factor, bound, mask, wanted))


@once
def scales(factor: SiteFactor, bound: Bound) -> Tensor:
    """Scales of a site, or the diagonals of its Cholesky factors: (starts, or one) + what they differ by."""
    key = "scale" if "scale" in factor.roles else "scale_tril"
    role = factor.roles[key]
    found = gather(role, bound.entries if key == "scale" else bound.matrices, bound.batch)
    found = found if key == "scale" else found.diagonal(dim1=-2, dim2=-1)
    return found.unsqueeze(0) if role.known else found


@once
def _narrow(factor: SiteFactor, bound: Bound) -> Tensor:
    """Which cells are too narrow for one centre."""
    return _room(factor, bound) < factor.data.reach


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

    def chosen(part: Tensor, event_dim: int) -> Tensor:
        tail = part.shape[part.dim() - event_dim :]
        return part.expand((*inner, *tail)).flatten(0, mask.dim() - 1)[which]

    location = factor.family.location
    assert location is not None
    dims = {key: role.event_dim for key, role in factor.family.roles.items()}
    args = {key: chosen(value, dims[key]) for key, value in factor.arguments(bound).items() if key != location}
    here = chosen(factor.locations(bound), dims[location])
    return Own(which.tolist(), here, args, chosen(wanted, dims[location]), every=len(which) == mask.numel())


def add_densities(factor: SiteFactor, own: Own | None, product: Tensor, chunk: Chunk) -> None:
    """Add the log-densities of the cells of `own` to their rows of `product`, (starts and cells flattened, columns)."""
    for k, row in enumerate(own.which if own else ()):
        assert own is not None
        product[row] += _density(factor, chunk, own.location[k], {key: value[k] for key, value in own.args.items()})


def _density(factor: SiteFactor, chunk: Chunk, location: Tensor, args: Mapping[str, Tensor]) -> Tensor:
    """Log-density of the rows of a chunk in one cell, events and folded plates summed."""
    data = factor.data
    deviation, _, weight = data.rows(chunk, location)
    found = factor.family.around(deviation, args)
    if weight is not None:
        found = torch.where(weight == 0, 0.0, found * weight)
    columns = [chunk.size(n, data.sizes[n]) for n in data.layout.columns]
    folded = [chunk.size(n, data.sizes[n]) for n in data.folded]
    found = found.expand((*columns, *folded, *data.event_shape))
    extra = tuple(range(len(columns), found.dim()))
    return (found.sum(extra) if extra else found).reshape(-1)


def own_sums(factor: SiteFactor, own: Own, weights: Tensor, chunk: Chunk) -> Tensor:
    """Statistics of the cells of `own` around their centres, (n, F).

    Args:
        factor: the site.
        own: cells.
        weights: of all starts and cells flattened, (all, columns).
        chunk: rows.
    """
    room = factor.data.empty(chunk)
    found = weights.new_empty((len(own.which), factor.data.width))
    for k, row in enumerate(own.which):
        factor.data.write(chunk, room, own.centre[k])
        torch.mv(room, weights[row], out=found[k])
    return found


def finish(factor: SiteFactor, found: Tensor, natural: Natural | None) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Statistics of the family, moved from where they were taken to where they are wanted; and where that is.

    Without `natural` (the shares were drawn, not weighed) they stay around the common centre.
    """
    parts, shift = factor.split(found), factor.data.shift
    if shift is None:
        return parts, None
    wanted = None if natural is None else natural.wanted
    if wanted is None or factor.kept is not None:  # a row a cell: nothing has been summed, nothing is gained by moving
        tail = () if not factor.family.event_dim else shift.shape[-1:]
        return parts, shift.double().expand((len(found), *factor.cell_shape, *factor.event_shape, *tail))
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
        return (factor.data.reach / FARTHEST / scale.reshape((len(scale), -1)).amin(-1)).expand((2, near.starts))
    room, narrow = _room(factor, near), _narrow(factor, near)
    moved = (factor.locations(near) - factor.locations(bound)).abs()
    if moved.dim() > room.dim():
        moved = moved.flatten(room.dim()).amax(-1)
    far = (narrow > _narrow(factor, bound)) | (moved > room)
    return SHORT * torch.stack((far, narrow)).reshape((2, near.starts, -1)).any(-1)
