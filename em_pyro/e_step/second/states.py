"""Rows that are independent of one another, with the joint states of the latents that each hangs on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from ...errors import PlanError
from ...program.named import Named, align, ordered
from ...records.frozen import frozen
from ..chunks import WHOLE, Chunk
from ..contraction.schedule import Factor
from ..part import Contracted
from ..sites.site_factor import SiteFactor
from ..units import Unit
from .common import Common


@frozen
class States:
    """All that is contracted in the same plates.

    Attributes:
        latents: that each row has, in order; their joint states count as the states of one.
        plates: of the rows, in order; none is a single row.
        factors: what is contracted, by name.
        units: that compute some of it.
        chunks: of rows.
        sizes: of latents and plates.
    """

    latents: tuple[str, ...]
    plates: tuple[str, ...]
    factors: Mapping[str, Factor] = field(repr=False)
    units: tuple[Unit, ...] = field(repr=False)
    chunks: tuple[Chunk, ...] = field(repr=False)
    sizes: Mapping[str, int] = field(repr=False)

    @property
    def count(self) -> int:
        """Number of joint states `K`."""
        return prod(self.sizes[n] for n in self.latents)

    @cached_property
    def moving(self) -> tuple[SiteFactor, ...]:
        """Sites that parameters enter."""
        return tuple(site for unit in self.units for site in unit.every if site.parameters)

    @cached_property
    def own(self) -> tuple[SiteFactor, ...]:
        """Those of the latents that are the same in all rows."""
        return tuple(s for s in self.moving if s.role != "observed" and set(s.names) <= set(self.latents))

    @cached_property
    def observed(self) -> tuple[tuple[SiteFactor, Common], ...]:
        """Those of observations that are summed over rows, with what all cells have in common."""
        found = ((s, s.form.by_features(s)) for s in self.moving if s.role == "observed" and self._summed(s))
        return tuple((site, common) for site, common in found if common is not None)

    @cached_property
    def by_rows(self) -> tuple[SiteFactor, ...]:
        """The others: arguments or statistics differ by row."""
        others = {site.name for site in (*self.own, *(site for site, _ in self.observed))}
        return tuple(site for site in self.moving if site.name not in others)

    def _summed(self, site: SiteFactor) -> bool:
        return set(site.cells) <= {*self.latents, *site.layout.folded} - {*site.layout.batch}

    def told(self, site: SiteFactor) -> tuple[str, ...]:
        """Latents that the features of a site differ by: the mask of an observation, say, may be a state's."""
        return tuple(n for n in self.latents if n in site.layout.columns)

    def rows(self, chunk: Chunk) -> tuple[int, ...]:
        """Rows of a chunk, along every plate."""
        return tuple(chunk.size(n, self.sizes[n]) for n in self.plates)

    def by_state(self, part: Tensor, names: Sequence[str], trailing: int = 0) -> Tensor:
        """Of what some latents tell: (starts) + (K,) + what trails."""
        shape, tail = tuple(self.sizes[n] for n in self.latents), part.shape[part.dim() - trailing :]
        part = align(part, tuple(names), self.latents, trailing)
        return part.expand((len(part), *shape, *tail)).reshape((len(part), self.count, *tail))

    def by_row(self, part: Tensor, names: Sequence[str], chunk: Chunk, latents: Sequence[str] = ()) -> Tensor:
        """Of what some plates and `latents` tell, dimensions before kept: `(...) + (states,) if any + (rows,)`."""
        lead, states = part.shape[: part.dim() - len(names)], tuple(self.sizes[n] for n in latents)
        part = align(part, tuple(names), (*latents, *self.plates)).expand((*lead, *states, *self.rows(chunk)))
        return part.reshape((*lead, prod(states), -1) if latents else (*lead, -1))

    def weights(
        self, naturals: Sequence[Any], replays: Mapping[str, Named], offsets: Mapping[str, Named], chunk: Chunk
    ) -> Tensor:
        """Return the posterior of the joint states of every row of a chunk, `(K, rows)`."""
        names, found = (*self.latents, *self.plates), dict[str, Tensor]()
        for unit, natural in zip(self.units, naturals, strict=True):
            found.update(zip(unit.members, unit.log_factors(natural, chunk)[0], strict=True))
        total = torch.zeros((), dtype=torch.float64)
        for name, factor in self.factors.items():
            part = found[name].squeeze(0) if name in found else chunk.cut(replays[name])
            part = part + chunk.cut(offsets[name]) if name in offsets else part
            total = total + align(part, factor.names, names)
        return self.by_row(total, names, chunk, self.latents).reshape((self.count, -1)).softmax(0)

    def counts(self, chunk: Chunk) -> Tensor | None:
        """How much every row of a chunk counts, `(rows)`; None is one."""
        scale = next((factor.scale for factor in self.factors.values() if factor.scale is not None), None)
        return None if scale is None else self.by_row(chunk.cut(scale), scale.names, chunk)

    @property
    def dead(self) -> bool:
        """Whether the site of some latent counts in some rows alone."""
        return any(self.factors[site.name].alive is not None for site in self.own)

    def living(self, chunk: Chunk) -> list[Tensor | float]:
        """Where the sites of the latents count, one `(rows)` or number each: all of them together if they all do."""
        found: list[Tensor | float] = []
        for alive in (self.factors[site.name].alive for site in self.own) if self.dead else ():
            found.append(1.0 if alive is None else self.by_row(chunk.cut(alive).double(), alive.names, chunk))
        return found if self.dead else [1.0 for _ in self.own[:1]]


def states_of(
    parts: Sequence[Contracted],
    factors: Mapping[str, Factor],
    owners: Mapping[str, frozenset[str]],
    sizes: Mapping[str, int],
    constants: Mapping[str, Named],
) -> tuple[States, ...]:
    """Sort what is contracted by its plates.

    Args:
        parts: of an engine.
        factors: all that is contracted.
        owners: for every latent, the plates around its site.
        sizes: of all latents and plates.
        constants: replayed sites that no parameter enters.

    Raises:
        PlanError: rows are not independent, or their states are summed out where they cannot be looked at.
    """
    found = []
    units = [(unit, part) for part in parts for unit in part.units]
    computed = {name for unit, _ in units for name in unit.members}
    for plates in dict.fromkeys(factor.plates for factor in factors.values()):
        here = {name: factor for name, factor in factors.items() if factor.plates == plates}
        for name, factor in here.items():
            _check_factor(name, factor, owners, replayed=name not in computed and name not in constants)
        those = [(unit, part) for unit, part in units if unit.members[0] in here]
        for unit, _ in those:
            _check_unit(unit)
        part = next((part for _, part in those), None)
        chunks = (WHOLE,) if part is None else part.chunks()
        chunks = chunks if chunks[0].plate in plates else (WHOLE,)
        latents = ordered((n for factor in here.values() for n in factor.names if n in owners), sizes)
        own = tuple(unit for unit, _ in those)
        found.append(States(latents, ordered(plates, sizes), here, own, chunks, sizes))
    return tuple(found)


def _check_factor(name: str, factor: Factor, owners: Mapping[str, frozenset[str]], *, replayed: bool) -> None:
    above = [n for n in factor.names if n in owners and owners[n] != factor.plates]
    if above:
        raise PlanError(
            f'Site "{name}": expected rows that are independent given the parameters, got latent "{above[0]}", which '
            f"rows of plates {sorted(factor.plates)} share. Take differences of scores."
        )
    if replayed:
        raise PlanError(
            f'Site "{name}": expected a density that a family computes, got one of the model itself. Take differences '
            f"of scores."
        )


def _check_unit(unit: Unit) -> None:
    if unit.inside or unit.continuous or unit.absorbed:
        inside = (*unit.inside, *unit.continuous, *unit.absorbed)
        raise PlanError(
            f'Site "{unit.members[0]}": expected states of each row by itself, got "{inside[0]}", summed out over a '
            f"chain or a Gaussian. Take differences of scores."
        )
