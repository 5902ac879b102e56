"""States that units sum out inside: a chain's, or those hidden in a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.units import Unit
from ..program.named import Named, align
from ..reading.bound import Bound
from .joint import Joint


@dataclass(frozen=True)
class Inside:
    """What the units know of their own states, each given the latents around it.

    Attributes:
        engine: the engine of all rows.
        bound: the parameters.
        joint: the law of the latents around the units.
    """

    engine: Engine = field(repr=False)
    bound: Bound = field(repr=False)
    joint: Joint = field(repr=False)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Units that sum states out themselves."""
        return tuple(unit for unit in self.engine.units if unit.inside)

    @cached_property
    def laws(self) -> dict[str, Tensor]:
        """Posterior of everything inside units, averaged over the latents around them: plates + its own."""
        found = dict[str, Tensor]()
        for unit in self.units:
            names, share = self._names(unit), self.joint.share(unit)
            for site, law in unit.laws(self._natural(unit)).items():
                rank = law.dim() - len(names)
                if share is not None:
                    axes = tuple(i for i, n in enumerate(names) if n in self.engine.program.latents)
                    law = (law * share[(..., *(None,) * rank)]).sum(axes)
                kept = tuple(n for n in names if n not in self.engine.program.latents)
                found[site] = self._in_plates(unit, site, law, kept)
        return found

    def modes(self) -> tuple[dict[str, Named], dict[str, Tensor]]:
        """Log-densities of the best states of every unit, by its factor, and these states, by site."""
        scores, best = dict[str, Named](), dict[str, Tensor]()
        for unit in self.units:
            score, states = unit.mode(self._natural(unit))
            scores[unit.members[0]] = Named(score, self._names(unit))
            best |= states
        return scores, best

    def draws(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """States of every unit, drawn `n` times."""
        found: dict[str, Tensor] = {}
        for unit in self.units:
            found |= unit.draws(self._natural(unit), n, generator)
        return found

    def chosen(self, found: Mapping[str, Tensor], around: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was found inside units, at the chosen states of the latents around them: the shape of their plates."""
        return {site: self._chosen(unit, site, found[site], around) for unit in self.units for site in unit.inside}

    def _chosen(self, unit: Unit, site: str, found: Tensor, around: Mapping[str, Tensor]) -> Tensor:
        names = self._names(unit)
        rank = found.dim() - len(names)
        for latent in [n for n in names if n in self.engine.program.latents]:
            rest = tuple(n for n in names if n != latent)
            index = align(around[latent], self.engine.program.latents[latent].plates, rest)
            moved = align(found, names, (latent, *rest), rank)
            index = index.expand(moved.shape[1 : 1 + len(rest)])
            index = index[(None, ..., *(None,) * rank)].expand(1, *moved.shape[1:])
            found, names = moved.gather(0, index).squeeze(0), rest
        return self._in_plates(unit, site, found, names)

    def _in_plates(self, unit: Unit, site: str, found: Tensor, names: tuple[str, ...]) -> Tensor:
        """Give `found` one dimension for each plate of a site."""
        program, rank = self.engine.program, found.dim() - len(names)
        around = self.engine.joined[unit.members[0]].plates
        plates = tuple(p for p in self.engine.sizes if p in around)
        plates = program.latents[site].plates if site in program.latents else plates
        found = align(found, names, plates, rank)
        return found.expand((*(program.plates[p] for p in plates), *found.shape[found.dim() - rank :])).contiguous()

    def _natural(self, unit: Unit) -> Any:
        return unit.natural(self.bound, None, self.engine.replays(self.engine.moved(self.bound)))

    def _names(self, unit: Unit) -> tuple[str, ...]:
        """Dimensions of a unit's factor."""
        return self.engine.joined[unit.members[0]].names
