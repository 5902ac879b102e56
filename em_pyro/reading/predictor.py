"""Predictors `offset + design @ entries`, the design kept as what selects an entry and what multiplies it.

The design of a mixture of regressions has `K x N` rows and `K x P` columns, but its component only selects which row of
the coefficients is used, and its covariates are the same for every component. So a slot of a predictor is a pair, an
`index` that says which entry it takes and a `value` that multiplies it, each stored without the dimensions along which
it does not vary: `(K, 1, P)` and `(1, N, P)`. Products with the design are then matrix products over these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property, partial
from itertools import groupby
from string import ascii_lowercase

import torch
from torch import Tensor

from ..families.charts import Chart
from ..program.named import Batch, broadcast
from ..records.frozen import frozen

CHUNK = 1 << 20  # entries of one temporary of a Gram matrix

LETTERS = ascii_lowercase[:16]  # dimensions of the cells; "z" are starts, "s" and "t" slots


@frozen
class Piece:
    """Some slots. Dimensions: those of the argument, of size one where nothing varies, then one of slots."""

    index: Tensor = field(repr=False)  # position among the entries; -1 for nothing
    value: Tensor = field(repr=False)


@frozen
class Affine:
    """An argument `chart(offset + design @ entries)`; the entry of a positive parameter is its logarithm."""

    entries: tuple[tuple[str, int], ...]  # parameter, flat entry; those of one parameter side by side
    offset: Tensor = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)
    chart: Chart
    coordinates: Mapping[str, Chart] = field(default_factory=dict)  # parameter -> from its coordinate to its value

    def predictor(self, batch: Batch) -> Tensor:
        """Bind: shape (starts) + dimensions of the argument, of size one where nothing varies."""
        parts = [] if self.entries else [self.offset.new_zeros((1, 0))]
        for name, at, in_order in self.sources:
            every = batch[name].reshape((len(batch[name]), -1))
            chosen = (every if in_order and every.shape[1] == len(at) else every[:, at]).to(self.offset)
            parts.append(self.coordinates[name].inverse(chosen) if name in self.coordinates else chosen)
        return self.at(parts[0] if len(parts) == 1 else torch.cat(parts, -1))

    def at(self, theta: Tensor) -> Tensor:
        """Predictors at entries `(starts, E)`."""
        theta = torch.cat([theta, theta.new_zeros((len(theta), 1))], -1)  # what index -1 takes
        total = self.offset.unsqueeze(0)
        d = LETTERS[: self.offset.dim()]
        for piece in self.pieces:
            if piece.index.shape[-1] == 1:
                total = total + (theta[:, piece.index] * piece.value).squeeze(-1)
            else:
                total = total + product([(theta[:, piece.index], f"z{d}s"), (piece.value, f"{d}s")], f"z{d}")
        return total.expand((len(theta), *total.shape[1:]))

    def argument(self, batch: Batch) -> Tensor:
        """Bind, through the chart."""
        return self.chart.forward(self.predictor(batch))

    def logs(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Logarithms of the probability and, of one that has no row, of one minus it."""
        return log_probabilities(self.chart, self.predictor(batch))

    def changed(self, change: Callable[[Tensor, int], Tensor]) -> Affine:
        """The same with every tensor laid out anew; `change` takes it and the number of slot dimensions."""
        pieces = tuple(Piece(change(p.index, 1), change(p.value, 1)) for p in self.pieces)
        return replace(self, offset=change(self.offset, 0), pieces=pieces)

    def moved(self, positions: Tensor) -> Affine:
        """The same among other entries: entry `j` has become `positions[j]`, -1 for one that is left out."""
        where = torch.cat([positions, positions.new_full((1,), -1)]).to(self.offset.device)
        return replace(self, pieces=tuple(Piece(where[p.index], p.value) for p in self.pieces))

    @property
    def by_row(self) -> list[Affine]:
        """One predictor for each entry of the last dimension of the argument, which is whole in the offset."""
        return [self.changed(partial(_entry, c)) for c in range(self.offset.shape[-1])]

    @property
    def kind(self) -> tuple[object, ...]:
        """Equal for predictors of the same entries whose designs may stand side by side."""
        coordinates = tuple((name, chart.name) for name, chart in sorted(self.coordinates.items()))
        pieces = tuple((piece.index.shape, piece.value.shape) for piece in self.pieces)
        return self.entries, self.chart.name, coordinates, self.offset.shape, pieces

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the argument, as far as it varies."""
        parts = [p.shape[:-1] for piece in self.pieces for p in (piece.index, piece.value)]
        return broadcast(self.offset.shape, *parts)

    @cached_property
    def sources(self) -> tuple[tuple[str, Tensor, bool], ...]:
        """Parameters in the order of the entries, each with its flat positions, and whether these are the first."""
        groups = groupby(self.entries, key=lambda entry: entry[0])
        each = [(name, [i for _, i in some]) for name, some in groups]
        return tuple((name, torch.tensor(some), some == list(range(len(some)))) for name, some in each)


def _entry(c: int, part: Tensor, slots: int) -> Tensor:
    """One entry of the last dimension."""
    d = part.dim() - slots - 1
    return part.select(d, c if part.shape[d] > 1 else 0)


def stacked(parts: Sequence[Tensor]) -> Tensor:
    """Put tensors of one shape side by side, of size one where they are all the same."""
    both = torch.stack(list(parts))
    return both[:1] if bool((both == both[:1]).all()) else both


def side_by_side(affines: Sequence[Affine]) -> Affine:
    """Put predictors of one kind into one, with a dimension for them in front."""
    pieces = tuple(
        Piece(stacked([piece.index for piece in some]), stacked([piece.value for piece in some]))
        for some in zip(*(affine.pieces for affine in affines), strict=True)
    )
    return replace(affines[0], offset=stacked([affine.offset for affine in affines]), pieces=pieces)


def log_probabilities(chart: Chart, predictor: Tensor) -> tuple[Tensor, Tensor | None]:
    """`(log f, log(1 - f))`; a row of a simplex has no use for the second."""
    if chart.name == "softmax":
        return torch.log_softmax(predictor, -1), None
    return chart.logarithm(predictor, complement=False), chart.logarithm(predictor, complement=True)


def product(parts: Sequence[tuple[Tensor, str]], out: str) -> Tensor:
    """Sum a product over all letters that are not in `out`; a dimension of size one is the same for all.

    Returns:
        A tensor with the dimensions of `out`, of size one where no part varies.
    """
    sizes: dict[str, int] = {}
    terms, tensors = [], []
    for tensor, letters in parts:
        kept = [i for i, size in enumerate(tensor.shape) if size != 1]
        sizes |= {letters[i]: tensor.shape[i] for i in kept}
        terms.append("".join(letters[i] for i in kept))
        tensors.append(tensor.reshape([tensor.shape[i] for i in kept]))
    found = torch.einsum(f"{','.join(terms)}->{''.join(x for x in out if x in sizes)}", *tensors)
    return found.reshape([sizes.get(x, 1) for x in out])


def adjoint(affine: Affine, slope: Tensor, size: int) -> Tensor:
    """`design' @ slope`: slopes of every cell `(starts) + cells`, summed into `size` entries."""
    total = slope.new_zeros((len(slope), size + 1))
    d = LETTERS[: slope.dim() - 1]
    for piece in affine.pieces:
        kept = "".join(x for x, n in zip(d, piece.index.shape, strict=False) if n != 1)
        found = product([(slope, f"z{d}"), (piece.value, f"{d}s")], f"z{kept}s")
        found = found.expand((len(slope), *(n for n in piece.index.shape[:-1] if n != 1), piece.index.shape[-1]))
        total.index_add_(1, piece.index.reshape(-1) % (size + 1), found.reshape(len(slope), -1))
    return total[:, :size]


def gram(first: Affine, second: Affine, weight: Tensor, size: int) -> Tensor:
    """`first' @ diag(weight) @ second`, shape `(starts, size, size)`, in chunks of the longest dimension summed."""
    starts = len(weight)
    total = weight.new_zeros((starts, (size + 1) ** 2))
    for a in first.pieces:
        for b in second.pieces:
            union = broadcast(a.index.shape[:-1], b.index.shape[:-1])
            ia, ib = ((p.index % (size + 1)).expand((*union, p.index.shape[-1])) for p in (a, b))
            where = (ia.unsqueeze(-1) * (size + 1) + ib.unsqueeze(-2)).reshape(-1)
            total.index_add_(1, where, _blocks(a.value, b.value, weight, union).reshape(starts, -1))
    return total.reshape(starts, size + 1, size + 1)[:, :size, :size]


def _blocks(a: Tensor, b: Tensor, weight: Tensor, union: Sequence[int]) -> Tensor:
    """Sums of `weight a_s b_t` over the dimensions along which neither index varies: (starts) + union + (S, T)."""
    d = LETTERS[: weight.dim() - 1]
    kept = "".join(x for x, n in zip(d, union, strict=True) if n != 1)
    summed = [i for i, n in enumerate(union) if n == 1]
    long = max(summed, key=lambda i: weight.shape[i + 1], default=None)
    shape = (len(weight), *(n for n in union if n != 1), a.shape[-1], b.shape[-1])
    length = 1 if long is None else weight.shape[long + 1]
    step = max(1, CHUNK * length // max(1, weight.numel() * a.shape[-1]))
    total = weight.new_zeros(shape)
    for start in range(0, length, step):

        def cut(part: Tensor, dim: int | None, start: int = start) -> Tensor:
            if dim is None or part.shape[dim] == 1:
                return part
            return part.narrow(dim, start, min(step, length - start))

        left = cut(weight, None if long is None else long + 1).unsqueeze(-1) * cut(a, long)
        total += product([(left, f"z{d}s"), (cut(b, long), f"{d}t")], f"z{kept}st")
    return total


def pairs(x: Tensor) -> Tensor:
    """`x_i x_j` for all `i <= j`, (J, rows) to (J (J + 1) / 2, rows)."""
    count, at = len(x), 0
    found = x.new_empty((count * (count + 1) // 2, x.shape[-1]))
    for i in range(count):
        torch.mul(x[i], x[i:], out=found[at : at + count - i])
        at += count - i
    return found


def squared(upper: Tensor, count: int) -> Tensor:
    """Symmetric matrices (J, J) from what is on and above their diagonals, row by row."""
    i, j = torch.triu_indices(count, count, device=upper.device)
    found = upper.new_empty((*upper.shape[:-1], count, count))
    found[..., i, j] = found[..., j, i] = upper
    return found


# ---- which entries meet ----------------------------------------------------------------------------------------------


def meeting(index: Tensor, keys: Tensor) -> dict[int, set[int]]:
    """For each entry, the keys of the cells in which it is used."""
    slots = index.shape[-1]
    shape = broadcast(index.shape[:-1], keys.shape)
    pairs = torch.stack([index.expand((*shape, slots)), keys.unsqueeze(-1).expand((*shape, slots))], -1).flatten(0, -2)
    found: dict[int, set[int]] = {}
    for entry, key in pairs.unique(dim=0).tolist():
        if entry >= 0:
            found.setdefault(entry, set()).add(key)
    return found


def together(affine: Affine) -> list[list[int]]:
    """Return the sets of entries that meet in one predictor, -1 for none."""
    shape = broadcast(*(piece.index.shape[:-1] for piece in affine.pieces))
    every = torch.cat([piece.index.expand((*shape, piece.index.shape[-1])) for piece in affine.pieces], -1)
    return every.reshape(-1, every.shape[-1]).unique(dim=0).tolist()  # type: ignore[no-any-return]


def equation_by_equation(affine: Affine, matrices: Tensor) -> bool:
    """Tell whether the coordinates have the same regressors and entries of their own: then no covariance matters.

    References:
        Zellner (1962), An efficient method of estimating seemingly unrelated regressions. JASA 57, section 3.
    """
    dim = affine.offset.shape[-1]
    for piece in affine.pieces:
        shared = any(len(d) > 1 for d in meeting(piece.index, torch.arange(dim)).values())
        if shared or piece.value.shape[-2] != 1 or bool((piece.index < 0).any()):
            return False
    rows = affine.changed(lambda part, slots: part.movedim(-2, -1).flatten(-2) if slots else part[..., 0])
    keys: dict[int, set[int]] = {}
    for piece in rows.pieces:
        for entry, found in meeting(piece.index, matrices).items():
            keys.setdefault(entry, set()).update(found)
    return all(len(set[int]().union(*(keys[j] for j in row if j >= 0))) <= 1 for row in together(rows))
