"""What a chain is made of: the law of its first state, its transitions, and the sites that hang on its states.

A part gives one log-factor. Its dimensions are those of the sites with the chain's own renamed: `STATE` (or `FROM` and
`TO` of a transition), `TIME` where the steps are side by side in it, and the plates and latents around the chain. A
part is compiled, one site or several that are one function, or replayed: then it is a log-factor of the model itself.

Every part has
    name: under which its statistics come out, or its weights
    names: dimensions of its log-factor
    steps: those that it belongs to, ascending; its log-factor is the same at all of them, unless `TIME` is in `names`
    alive: rows that enter the statistics, by step, with names (TIME, plates); None is all
    wanted: whether parameters enter it
    own: whether its log-factor is memory of its own, free to be overwritten
    unit: the compiled sites; None if they are replayed
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...program.named import Named, align
from ...program.unroll import TIME
from ...reading.bound import Bound
from ...records.frozen import frozen
from ..chunks import Chunk
from ..several.abreast import Abreast
from ..several.stack import Stack
from ..sites.natural import Natural
from ..sums import Sums


@frozen
class Compiled:
    """Sites computed without the model, and the steps that they belong to."""

    unit: Stack  # all sites that it stands for
    names: tuple[str, ...]
    steps: tuple[int, ...]
    alive: Named | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name of the first site."""
        return self.unit.first.name

    @property
    def wanted(self) -> bool:
        """Whether the sites have parameters."""
        return bool(self.unit.first.parameters)


class One(Compiled):
    """One compiled site, whose log-factor serves all of the steps or has them as a dimension."""

    @property
    def own(self) -> bool:
        """A matrix product is; the log-densities of a latent may be a view of its natural parameters."""
        return self.unit.first.role == "observed" and self.unit.first.family.solver != "rows"

    @cached_property
    def _lone(self) -> Stack:
        """The first site alone: the others have the same features."""
        return self.unit if len(self.unit.sites) == 1 else Stack((self.unit.first,), same=True)

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> Natural:
        """Natural parameters of the site."""
        return self._lone.natural(bound, about)

    def log_factor(self, natural: Natural, chunk: Chunk) -> tuple[Tensor, Any]:
        """Log-density of the site, and what to remember of it."""
        (found,), memo = self._lone.log_factors(natural, chunk)
        return found, memo

    def sums(self, weights: Tensor, natural: Natural | None, memo: Any, chunk: Chunk) -> dict[str, Tensor]:
        """Expected statistics of the site."""
        return self._lone.sums([weights], natural, memo, chunk)

    def finish(self, found: Mapping[str, Tensor], natural: Natural | None) -> dict[str, Sums]:
        """Statistics of the family."""
        return self._lone.finish(found, natural)


class Many(Compiled):
    """Compiled sites that are one function of other data at every step: one product for all.

    Its log-factor is laid out as the product leaves it: the cells, the steps, the columns.
    """

    @property
    def own(self) -> bool:
        """It is a product, or looked up."""
        return True

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> Natural:
        """Natural parameters of the function."""
        return self.unit.natural(bound, about)

    def log_factor(self, natural: Natural, chunk: Chunk) -> tuple[Tensor, Tensor]:
        """Log-densities of all sites; the features are remembered."""
        features = self.unit.features(chunk)
        found = self.unit.densities(natural, features, chunk)
        return found.reshape((len(found), *self._sizes(chunk))), features

    def sums(self, weights: Tensor, natural: Natural | None, memo: Tensor | None, chunk: Chunk) -> dict[str, Tensor]:
        """Expected statistics of all sites together."""
        first = self.unit.first
        kept = weights.shape[: 1 + len(first.layout.cells)]
        flat = weights.reshape((kept[0], prod(kept[1:]), -1))
        features = self.unit.features(chunk) if memo is None else memo
        return {first.name: self.unit.statistics(flat, natural, features, chunk).reshape((*kept, -1))}

    def finish(self, found: Mapping[str, Tensor], natural: Natural | None) -> dict[str, Sums]:
        """Statistics of the family."""
        return self.unit.finish(found, natural)

    def _sizes(self, chunk: Chunk) -> tuple[int, ...]:
        """Sizes of the product: the steps stand before the columns, unless they are one of them."""
        sizes, at = self.unit.first.laid_out_sizes(chunk), len(self.unit.first.layout.cells)
        return sizes if len(sizes) == len(self.names) else (*sizes[:at], len(self.steps), *sizes[at:])


@frozen
class Each:
    """Compiled sites that are laid out alike and whose arguments differ by step: one product for all."""

    unit: Abreast
    steps: tuple[int, ...]
    alive: Named | None = field(default=None, repr=False)
    own: bool = True

    @property
    def name(self) -> str:
        """Name of the first site."""
        return self.unit.first.name

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the sites, and the steps."""
        return self.unit.whole.names

    @property
    def wanted(self) -> bool:
        """Whether any of the sites has parameters."""
        return bool(self.unit.whole.parameters)

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> Natural:
        """Natural parameters of all sites."""
        return self.unit.natural(bound, about)

    def log_factor(self, natural: Natural, chunk: Chunk) -> tuple[Tensor, Any]:
        """Log-densities of all sites; the features are remembered."""
        return self.unit.log_density(natural, chunk)

    def sums(self, weights: Tensor, natural: Natural | None, memo: Any, chunk: Chunk) -> dict[str, Tensor]:
        """Expected statistics of all sites."""
        return self.unit.weighted(weights, natural, memo, chunk)

    def finish(self, found: Mapping[str, Tensor], natural: Natural | None) -> dict[str, Sums]:
        """Statistics of every site."""
        return self.unit.finish(found, natural)


@frozen
class Replayed:
    """A site, or a part of one, whose log-densities come from the model itself."""

    name: str
    names: tuple[str, ...]
    steps: tuple[int, ...]
    rows: tuple[str, ...] = field(repr=False)  # `names` as the model has them
    wanted: bool = True
    alive: Named | None = field(default=None, repr=False)
    unit: None = None
    own: bool = False

    def natural(self, bound: Bound, about: Bound | None, replays: Mapping[str, Named]) -> Tensor:
        """Log-densities of all rows."""
        return replays[self.name].tensor

    def log_factor(self, natural: Tensor, chunk: Chunk) -> tuple[Tensor, None]:
        """Log-densities of the rows of a chunk."""
        return chunk.cut(Named(natural, self.rows)).unsqueeze(0), None

    def sums(self, weights: Tensor, natural: Tensor | None, memo: None, chunk: Chunk) -> dict[str, Tensor]:
        """The weights."""
        return {self.name: weights}

    def finish(self, found: Mapping[str, Tensor], natural: Tensor | None) -> dict[str, Sums]:
        """Nothing: weights are no statistics."""
        return {}


Part = One | Many | Each | Replayed


def renamed(names: tuple[str, ...], own: Mapping[str, str]) -> tuple[str, ...]:
    """Return the dimensions of a site in the chain's words."""
    return tuple(own.get(n, n) for n in names)


def compiled(unit: Stack, own: Mapping[str, str], steps: tuple[int, ...], alive: Named | None = None) -> Part:
    """Return the part that a stack of sites is, its first site in the words of `own`."""
    first = unit.first
    if unit.same or len(unit.sites) == 1:
        return One(unit, renamed(first.names, own), steps, alive)
    names = renamed(first.laid_out, own)
    if TIME not in names:
        at = len(first.layout.cells)
        names = (*names[:at], TIME, *names[at:])
    return Many(unit, names, steps, alive)


def index_of(steps: tuple[int, ...]) -> slice | Tensor:
    """Return steps as an index."""
    first, last = steps[0], steps[-1]
    return slice(first, last + 1) if last - first + 1 == len(steps) else torch.tensor(steps)


def together(
    parts: Sequence[Part], logs: Sequence[Tensor], want: Sequence[str], shape: Sequence[int]
) -> tuple[Tensor, bool]:
    """Add log-factors up, each at its own steps.

    Args:
        parts: whose log-factors they are.
        logs: of every part, (starts) + its names.
        want: dimensions of the sum; without `TIME` if all parts belong to all steps.
        shape: their sizes.

    Returns:
        The sum, (starts) + `shape`, and whether it may be overwritten.
    """
    at = want.index(TIME) - len(want) if TIME in want else None
    order = sorted(range(len(parts)), key=lambda k: at is not None and len(parts[k].steps) < shape[at])
    total, own = torch.zeros(1), False
    for k in order:
        part, log = parts[k], align(logs[k], parts[k].names, want)
        batch = log.shape[: log.dim() - len(want)]
        full = at is None or len(part.steps) == shape[at]
        if k == order[0]:
            total = log.expand((*batch, *shape)) if full else log.new_zeros((*batch, *shape))
            own = not full or part.own and total.numel() == log.numel()
        elif full or not own:
            total = total + log if full else total.clone(memory_format=torch.contiguous_format)
            own = True
        if not full:
            total[(..., index_of(part.steps), *(slice(None),) * (-1 - at))] += log  # type: ignore[operator]
    return total, own


def marks(parts: list[Named | None]) -> Named | None:
    """Return the rows that enter the statistics, of several steps: the steps first; None if all do."""
    if all(part is None for part in parts):
        return None
    names = tuple(dict.fromkeys(n for part in parts if part is not None for n in part.names))
    one = next(part.tensor for part in parts if part is not None).new_ones((1,) * len(names), dtype=torch.float64)
    each = [one if part is None else align(part.tensor, part.names, names).double() for part in parts]
    shape = [max(part.shape[k] for part in each) for k in range(len(names))]
    return Named(torch.stack([part.expand(shape) for part in each]), (TIME, *names))
