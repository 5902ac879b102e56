"""The cells of a site that Gaussian latents enter, as rows of vectors: all coordinates of a row take the same latents.

Every part is laid out in three dimensions, states of the discrete latents, rows and coordinates, each of size one where
it does not vary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from ...errors import ModelError
from ...program.masks import seen
from ...program.named import Named, broadcast, listed
from ...program.site import Site
from ...reading.bank import RoleMap
from ...reading.latents.bilinear import Bilinear, Places, Slot
from ...reading.latents.which import as_parameter
from ...reading.reading import Reading
from ...records.frozen import frozen

Part = Tensor | None
"""Of three dimensions; None is zero."""


@frozen
class Layout:
    """Which dimensions of a site are states, rows and coordinates.

    Attributes:
        names: of its first dimensions, latents and plates; events follow.
        shape: of all.
        states: all discrete latents of the unit, and how many states each has.
        rows: dimensions along which cells take other latents.
        coordinates: the others that are no states.
        several: how many rows there are of all sites that were joined with it; 0 if none was.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    states: Mapping[str, int]
    rows: tuple[int, ...]
    coordinates: tuple[int, ...]
    several: int = 0  # rows of several sites together

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of states, rows and coordinates."""
        rows, coordinates = (prod(self.shape[d] for d in dims) for dims in (self.rows, self.coordinates))
        return prod(self.states.values()), self.several or rows, coordinates

    @property
    def plates(self) -> tuple[tuple[str, int], ...]:
        """The dimensions of the rows, by name (empty for events), with their sizes."""
        return tuple((self.names[d] if d < len(self.names) else "", self.shape[d]) for d in self.rows)

    def flat(self, part: Tensor, *, kept: int = 0) -> Tensor:
        """Lay a part out in three dimensions, behind which so many are kept."""
        if not self.shape and not self.states:  # a step of a loop
            return part.reshape((1, 1, 1, *part.shape[part.dim() - kept :]))
        dims = list(range(len(self.shape)))
        known = [self.names.index(n) for n in self.states if n in self.names]
        moved = part.permute((*known, *self.rows, *self.coordinates, *range(len(dims), part.dim())))
        states = [moved.shape[known.index(self.names.index(n))] if n in self.names else 1 for n in self.states]
        rest = moved.shape[len(known) :]
        moved = moved.reshape((*states, *rest))
        blocks, at = list[int](), 0
        for full in (tuple(self.states.values()), self._of(self.rows), self._of(self.coordinates)):
            here = moved.shape[at : at + len(full)]
            if prod(here) > 1:
                moved = moved.expand((*moved.shape[:at], *full, *moved.shape[at + len(full) :]))
            blocks.append(prod(moved.shape[at : at + len(full)]))
            at += len(full)
        return moved.reshape((*blocks, *part.shape[part.dim() - kept :]))

    def named(self, part: Named, kept: int = 0) -> Tensor:
        """The same of a part with names, whose events may be fewer than those of the site."""
        aligned = part.align(self.names)
        events, own = len(self.shape) - len(self.names), aligned.dim() - len(self.names) - kept
        shape = aligned.shape
        cut = len(self.names)
        aligned = aligned.reshape((*shape[:cut], *(1,) * (events - own), *shape[cut:]))
        return self.flat(aligned, kept=kept)

    def place(self, plate: str) -> Tensor:
        """The place of every row in a plate."""
        d = [name for name, _ in self.plates].index(plate)
        return torch.arange(self.sizes[1]) // prod(s for _, s in self.plates[d + 1 :]) % self.plates[d][1]

    def _of(self, dims: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.shape[d] for d in dims)


def layout_of(made: Bilinear, states: Mapping[str, int], places: Places, *, joint: bool) -> Layout:
    """Tell rows from coordinates.

    Raises:
        ModelError: which latents a cell takes depends on a discrete latent.
    """
    every = range(len(made.shape))
    of_states = [d for d in every if d < len(made.names) and made.names[d] in states]
    taken = {d for slot in made.slots for d in every if slot.which.shape[d] > 1}
    for d in of_states:
        if d in taken:
            raise _chosen(made, d, of_states, places)
    last = len(made.shape) - 1
    if joint:
        coordinates: tuple[int, ...] = (last,)
    else:
        coordinates = tuple(d for d in every if d not in taken and d not in of_states)
    rows = tuple(d for d in every if d not in coordinates and d not in of_states)
    return Layout(made.names, made.shape, states, rows, coordinates)


def _chosen(made: Bilinear, d: int, of_states: Sequence[int], places: Places) -> ModelError:
    """Say that the states along a dimension choose which latents a cell takes."""
    rows = prod(n for e, n in enumerate(made.shape[: len(made.names)]) if e not in of_states)
    names = places.named(torch.cat([slot.which.reshape(-1) for slot in made.slots if slot.which.shape[d] > 1]))
    return ModelError(
        f'Site "{made.site.name}": expected continuous latents that enter in all states of the discrete latent '
        f'"{made.names[d]}" alike, got others of {listed(names)} in each: all {made.shape[d]}^{rows} choices of states '
        f"would have a law each. {as_parameter(names[0])} Or multiply one that all have by a parameter "
        f"that depends on the state."
    )


@frozen
class Rows:
    """One site.

    Attributes:
        site: its name.
        joint: whether coordinates have a covariance matrix in common; else a scale each.
        layout: of its dimensions.
        which: latent entries of every row, (rows, slots), -1 for none.
        constants: covariates, then the response, where the latents are zero.
        slopes: of every slot the same, as fast as they change.
        cells: of every state, row and coordinate the cell that it is of; if joint, all coordinates are of one.
        index: entries that the covariates of every cell multiply, (cells, J), or (cells, coordinates, J) if joint.
        scale: of every cell where its scale, or factor, stands in the bank; -1 for the known one.
        known: that scale: one, or a matrix.
        weight: one where a coordinate of a row is seen, (rows, coordinates); None is everywhere.
        log_factors: logarithms of known factors of the scales, by which all else is divided; None is zero.
        entries: of the parameters, as (name, flat position).
        places: by plate the place of every row in it, where rows differ in it.
        repeats: how often every row is there (`poutine.scale`), (rows,); None is once.
    """

    site: str
    joint: bool
    layout: Layout
    which: Tensor = field(repr=False)
    constants: tuple[Part, ...] = field(repr=False)
    slopes: tuple[tuple[Part, ...], ...] = field(repr=False)
    cells: Tensor = field(repr=False)
    index: Tensor = field(repr=False)
    scale: Tensor = field(repr=False)
    known: Tensor = field(repr=False)
    weight: Tensor | None = field(repr=False)
    log_factors: Tensor | None = field(repr=False)
    entries: tuple[tuple[str, int], ...] = field(repr=False)
    places: Mapping[str, Tensor] = field(repr=False)
    repeats: Tensor | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """Number of covariates."""
        return len(self.constants) - 1

    @cached_property
    def fixed(self) -> bool:
        """Whether no parameter enters."""
        return not self.count and bool((self.scale < 0).all())

    @cached_property
    def labels(self) -> Tensor:
        """A number for every row, the same where all its states and coordinates are of the same cells."""
        if self.cells.shape[1] == 1:
            return torch.zeros(self.layout.sizes[1], dtype=torch.long)
        return self.cells.movedim(1, 0).flatten(1).unique(dim=0, return_inverse=True)[1]


def rows_of(reading: Reading, made: Bilinear, states: Mapping[str, int], places: Places) -> Rows:
    """Lay a site out.

    Args:
        reading: where its arguments come from.
        made: its residuals.
        states: discrete latents over which its components are summed.
        places: of the latents.

    Raises:
        ModelError: latents or a mask depend on a discrete latent; or known covariances differ between rows.
    """
    joint = reading.family.event_dim == 1
    layout = layout_of(made, states, places, joint=joint)
    slots = _by_coordinate(made) if joint else made.slots
    which = [layout.flat(slot.which)[0, :, 0] for slot in slots]
    which = [part.expand(layout.sizes[1]) for part in which]
    constants = [layout.flat(part) for part in made.constants]
    slopes = [[None if s is None else layout.flat(s) for s in slot.slopes] for slot in slots]
    where, known, by = _scales(reading, layout, joint=joint)
    cells, index, scale = _cells([layout.flat(part) for part in made.index], where, layout, joint=joint)
    log_factors = None
    if by is not None and bool((by != 1).any()):
        constants = [part / by for part in constants]
        slopes = [[None if s is None else s / by for s in slot] for slot in slopes]
        log_factors = by.log()
    return Rows(
        reading.site.name,
        joint,
        layout,
        torch.stack(which, -1) if which else torch.zeros((layout.sizes[1], 0), dtype=torch.long),
        tuple(part if bool((part != 0).any()) else None for part in constants),
        tuple(tuple(slot) for slot in slopes),
        cells,
        index,
        scale,
        known,
        weight_of(reading.site, layout, joint=joint),
        log_factors,
        made.entries,
        {name: layout.place(name) for name, _ in layout.plates if name},
    )


def weight_of(site: Site, layout: Layout, *, joint: bool) -> Tensor | None:
    """One where a coordinate of a row is seen, (rows, coordinates); None is everywhere."""
    part = seen(site)
    if part is None or bool(part.tensor.all()):
        return None
    if joint:  # all coordinates of a vector, or none
        part = Named(part.tensor.unsqueeze(-1), part.names)
    found = layout.named(part).double()
    if len(found) > 1:
        raise ModelError(
            f'Site "{site.name}": expected a mask that is the same in all states of the discrete latents, got one that '
            f"depends on them. Mask by what is observed."
        )
    return found[0].expand(layout.sizes[1:])


def _by_coordinate(made: Bilinear) -> tuple[Slot, ...]:
    """Slots of vectors whose coordinates take different latents: one for each coordinate."""
    found = list[Slot]()
    last = len(made.shape) - 1
    for slot in made.slots:
        if slot.which.shape[last] == 1:
            found.append(slot)
            continue
        for e, which in enumerate(slot.which.split(1, last)):
            one = torch.zeros(made.shape[last], dtype=torch.float64).index_fill_(0, torch.tensor(e), 1.0)
            slopes = tuple(None if s is None else torch.where(which >= 0, s * one, 0.0) for s in slot.slopes)
            found.append(Slot(which, slopes))
    return tuple(found)


def _scales(reading: Reading, layout: Layout, *, joint: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Where scales stand in the bank, the known ones, and by what those of the bank are multiplied."""
    role = reading.roles["scale_tril" if joint else "scale"]
    assert role.affine is None  # else it is computed
    if joint:
        return layout.named(Named(role.index.unsqueeze(-1), role.names)), _one_matrix(role, reading), None
    index = layout.named(Named(role.index, role.names))
    by = torch.ones((1, 1, 1), dtype=torch.float64)
    for part, known in ((role.coefficient, False), (role.constant, True)):
        if part is not None:
            spread = layout.named(Named(part.double(), role.names))
            by = torch.where((index < 0) if known else (index >= 0), spread, by)
    return index, torch.ones((), dtype=torch.float64), by


def _one_matrix(role: RoleMap, reading: Reading) -> Tensor:
    """The known factor of a covariance."""
    size = reading.site.value.shape[-1]
    if role.constant is None or not bool((role.index < 0).any()):
        return torch.eye(size, dtype=torch.float64)
    every = role.constant.double().expand((*role.index.shape, size, size))
    return every[role.index < 0][0]  # where there are several, they are computed


def _cells(index: list[Tensor], places: Tensor, layout: Layout, *, joint: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Number the cells: what has the same entries and the same scale."""
    shape = broadcast(places.shape, *(part.shape for part in index)) if index else tuple(places.shape)
    if joint:
        shape = (*shape[:2], layout.sizes[2])
        flat = [part.expand(shape) for part in index] + [places.expand((*shape[:2], 1))]
        key = torch.cat(flat, -1)
        made, cells = key.flatten(0, 1).unique(dim=0, return_inverse=True)
        own = made[:, :-1].reshape((len(made), len(index), shape[2])).mT
        return cells.reshape((*shape[:2], 1)), own, made[:, -1]
    key = torch.stack([part.expand(shape) for part in (*index, places)], -1)
    made, cells = key.flatten(0, 2).unique(dim=0, return_inverse=True)
    return cells.reshape(shape), made[:, :-1], made[:, -1]
