"""Coordinates around fitted values: zero there, one for each direction in which the constraints let them move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import transform_to

from ...families.charts import bounds_of, domain_of, is_correlation
from ...program.named import Params
from ...program.program import Program
from ...records.frozen import frozen

Entry = tuple[str, tuple[int, ...]]
"""An entry of a parameter."""

MATRICES = ("lower_cholesky", "positive_definite")


@frozen
class Around:
    """Coordinates `v` around values of some parameters, `v = 0` there.

    A positive number moves by its logarithm, a probability by its logit, a row of a simplex by the logarithms of its
    entries beside the largest, a Cholesky factor by its entries below the diagonal and the logarithms of those on it.
    Entries at a boundary stay there: they have no coordinate.

    Attributes:
        program: whose parameters they are.
        names: those that move.
        params: values of all parameters, float64.
    """

    program: Program
    names: tuple[str, ...]
    params: Params = field(repr=False)

    @cached_property
    def domains(self) -> dict[str, str]:
        """The values that the constraint of each parameter allows, by name."""
        return {name: domain_of(self.program.parameters[name].constraint) for name in self.names}

    @cached_property
    def free(self) -> dict[str, Tensor]:
        """Which entries of each parameter have a coordinate."""
        found = {n: _free(self._point(n), self.params[n], domain) for n, domain in self.domains.items()}
        return found | {n: found[n] & ~self._at_an_end(n) for n in self._between}

    @cached_property
    def _between(self) -> tuple[str, ...]:
        """Parameters between other bounds than those that have a name: points at these may be finite."""
        constraints = {n: self.program.parameters[n].constraint for n, d in self.domains.items() if d == "other"}
        return tuple(name for name, constraint in constraints.items() if bounds_of(constraint) is not None)

    def _at_an_end(self, name: str) -> Tensor:
        """Which entries are at one of their bounds."""
        bounds = bounds_of(self.program.parameters[name].constraint)
        assert bounds is not None
        return (self.params[name] <= bounds[0]) | (self.params[name] >= bounds[1])

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The entry of every coordinate, in their order."""
        return tuple((name, tuple(at)) for name, free in self.free.items() for at in free.nonzero().tolist())

    @cached_property
    def values(self) -> Tensor:
        """What each coordinate moves, `(D)`: an entry of the value, or of an unconstrained point."""
        parts = [torch.zeros(0, dtype=torch.float64)]
        for name, (_, places) in self._places.items():
            flat = (self._point(name) if self.domains[name] == "other" else self.params[name]).reshape(-1)
            parts.append(flat if places is None else flat[places])
        return torch.cat(parts)

    @cached_property
    def size(self) -> int:
        """Number of coordinates `D`."""
        return sum(many for many, _ in self._places.values())

    @cached_property
    def _places(self) -> dict[str, tuple[int, Tensor | None]]:
        """How many entries of each parameter have a coordinate, and which of all laid out flat; None is all."""
        found = {name: free.reshape(-1).nonzero().squeeze(-1) for name, free in self.free.items()}
        return {n: (len(at), None if len(at) == self.free[n].numel() else at) for n, at in found.items()}

    def logarithmic(self, entry: Entry) -> bool:
        """Whether the coordinate of an entry is a logarithm, or a logit; else it is added."""
        name, at = entry
        return at[-1] == at[-2] if self.domains[name] in MATRICES else self.domains[name] != "real"

    def shown(self, entry: Entry) -> Entry:
        """The entry of a value that a coordinate is named by: of a root of correlations the diagonal of its row."""
        name, at = entry
        if len(at) >= self.params[name].dim() or not is_correlation(self.program.parameters[name].constraint):
            return entry
        size = self.params[name].shape[-1]
        row = int(torch.tril_indices(size, size, -1)[0, at[-1]])
        return name, (*at[:-1], row, row)

    @cached_property
    def sizes(self) -> Tensor:
        """What every coordinate is small beside: one of a logarithm, else the entry itself."""
        added = torch.tensor([not self.logarithmic(entry) for entry in self.entries], dtype=torch.bool)
        return torch.where(added, self.values.abs(), 1.0)

    def edges(self) -> list[Entry]:
        """Entries that are exactly at the boundary of what their constraint allows."""
        found = []
        for name, domain in self.domains.items():
            value = self.params[name]
            at = ~torch.isfinite(self._point(name))
            if domain in ("unit", "simplex", "positive"):
                at = (value == 0) | (value == 1) & (domain == "unit")
            elif name in self._between:
                at = at | self._at_an_end(name)
            elif domain == "lower_cholesky":
                at = at | _singular(value)
            found += [(name, tuple(index)) for index in (at & _used(at, domain)).nonzero().tolist()]
        return found

    def batch(self, v: Tensor) -> dict[str, Tensor]:
        """Return the parameters at coordinates `v (starts, D)`, starts first; differentiable."""
        values = {name: value.expand((len(v), *value.shape)) for name, value in self.params.items()}
        at = 0
        for name, (many, places) in self._places.items():
            move, shape = v[:, at : at + many], self.free[name].shape
            if places is not None:
                move = v.new_zeros((len(v), shape.numel())).index_copy(1, places, move)
            move = move.reshape((len(v), *shape))
            values[name] = _moved(self._point(name), self.params[name], move, self.domains[name], self._onto(name))
            if name in self._between:  # what is at a bound is there exactly
                values[name] = torch.where(self.free[name], values[name], self.params[name])
            at += many
        return values

    def at(self, v: Tensor) -> Around:
        """Return coordinates around the point that these have at `v (D)`."""
        return Around(self.program, self.names, {n: p.detach()[0] for n, p in self.batch(v.unsqueeze(0)).items()})

    def to(self, name: str, value: Tensor) -> Tensor:
        """Return the coordinates `(D)` at which numbers, positive or in their order, have these values."""
        there = Around(self.program, self.names, {**self.params, name: value})
        old, new = self._point(name), there._point(name)
        moved = (new / old).log() if self.domains[name] == "positive" else new - old
        parts = [moved[free] if n == name else moved.new_zeros(int(free.sum())) for n, free in self.free.items()]
        return torch.cat(parts).double()

    def _onto(self, name: str) -> torch.distributions.Transform:
        return transform_to(self.program.parameters[name].constraint)

    def _point(self, name: str) -> Tensor:
        """The value in which entries move: itself, its Cholesky factor, or an unconstrained point."""
        value, domain = self.params[name], self.domains[name]
        if domain == "positive_definite":
            return torch.linalg.cholesky(value)
        return self._onto(name).inv(value) if domain == "other" else value


def named(entries: Sequence[Entry]) -> str:
    """Write entries as a user does, each once: `"loc"[1], "table"[0, 2]`; of many the first."""
    text = [f'"{name}"' + (f"[{', '.join(map(str, at))}]" if at else "") for name, at in dict.fromkeys(entries)]
    return ", ".join(text[:4]) + (f" and {len(text) - 4} more" if len(text) > 4 else "")


def put(around: Around, entry: Entry, value: float) -> dict[str, Tensor]:
    """Return the parameters with one entry put to `value`; the others of a simplex give way."""
    name, at = entry
    new = around.params[name].clone()
    if around.domains[name] == "simplex":
        new[at[:-1]] *= (1 - value) / (1 - new[at])
    new[at] = value
    return {**around.params, name: new}


def _used(where: Tensor, domain: str) -> Tensor:
    """Entries of a point that enter the value: those of a triangle, or all."""
    return torch.ones_like(where).tril() if domain in MATRICES else torch.ones_like(where)


def _free(point: Tensor, value: Tensor, domain: str) -> Tensor:
    """Which entries have a coordinate: those inside, and of a simplex not the largest of a row."""
    free = torch.isfinite(point)
    if domain == "simplex":
        largest = torch.zeros_like(free).scatter(-1, value.argmax(-1, keepdim=True), value=True)
        return free & (value > 0) & ~largest
    if domain == "unit":
        return free & (value > 0) & (value < 1)
    if domain == "positive":
        return free & (value > 0)
    free = free & _used(free, domain)
    return free & ~_singular(value) if domain == "lower_cholesky" else free


def _singular(root: Tensor) -> Tensor:
    """Which entries on the diagonal of a root are zero."""
    return torch.diag_embed(root.diagonal(dim1=-2, dim2=-1) == 0)


def _moved(point: Tensor, value: Tensor, move: Tensor, domain: str, onto: torch.distributions.Transform) -> Tensor:
    """Move a value by its coordinates, zeros where there are none."""
    if domain == "real":
        return value + move
    if domain == "positive":
        return value * move.exp()
    if domain == "unit":
        odds = move.exp() * value
        return odds / (1 - value + odds)
    if domain == "simplex":
        raised = value * (move - move.amax(-1, keepdim=True).detach()).exp()
        return raised / raised.sum(-1, keepdim=True)
    if domain in MATRICES:
        root = point + move.tril(-1)
        root = root.tril(-1) + torch.diag_embed(point.diagonal(dim1=-2, dim2=-1) * _diagonal(move).exp())
        return root @ root.mT if domain == "positive_definite" else root
    out: Tensor = onto(point + move)
    return out


def _diagonal(move: Tensor) -> Tensor:
    return move.diagonal(dim1=-2, dim2=-1)
