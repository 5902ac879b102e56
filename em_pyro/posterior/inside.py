"""States that units sum out inside: a chain's, or those hidden in a site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..e_step.engine import Engine
from ..e_step.units import Unit
from ..e_step.whole import based
from ..program.named import Named, align
from ..reading.bound import Bound
from ..records.frozen import frozen
from .joint import Joint


@frozen
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
                found[site] = self._in_plates(site, law, kept)
        return found

    def entropies(self) -> dict[str, Tensor]:
        """Entropy of what is inside each unit, by its factor and in the dimensions of that."""
        return {unit.members[0]: unit.entropy(self._natural(unit)) for unit in self.units}

    def modes(self) -> tuple[dict[str, Named], dict[str, Tensor]]:
        """Log-densities of the best states of every unit, by its factor, and these states, by site, as one choice."""
        scores, best = dict[str, Named](), dict[str, Tensor]()
        for unit in self.units:
            score, states = unit.mode(self._natural(unit))
            scores[unit.members[0]] = Named(score, self._names(unit))
            best |= {site: found.unsqueeze(0) for site, found in states.items()}
        return scores, best

    def draws(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """States of every unit, drawn `n` times."""
        found: dict[str, Tensor] = {}
        for unit in self.units:
            found |= unit.draws(self._natural(unit), n, generator)
        return found

    def paths(self, generator: torch.Generator | None = None) -> dict[str, tuple[Named, Tensor]]:
        """One path of every site with states inside, the best or a drawn one: its log-density, and its states.

        Unlike a mode it ends where the last is seen, and begins with the state before the first step.
        """
        found = dict[str, tuple[Named, Tensor]]()
        for site, unit in self.engine.inner.items():
            density, states = unit.path(self._natural(unit), generator)
            found[site] = based(unit, site, Named(density, self._names(unit))), states
        return found

    def chosen(self, found: Mapping[str, Tensor], around: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What was found inside units, at the chosen states of the latents around them: choices, then their plates."""
        return {site: self._chosen(unit, site, found[site], around) for unit in self.units for site in unit.inside}

    def _chosen(self, unit: Unit, site: str, found: Tensor, around: Mapping[str, Tensor]) -> Tensor:
        """Pick what was found for one site at the chosen states, one latent around the unit after the other."""
        names, latents = self._names(unit), self.engine.program.latents
        rank = found.dim() - 1 - len(names)
        for latent in [n for n in names if n in latents]:
            rest = tuple(n for n in names if n != latent)
            wide = [i for i, plate in enumerate(latents[latent].plates) if plate in rest]
            index = around[latent]
            index = index.reshape(len(index), *(index.shape[1 + i] for i in wide))  # without plates of one row
            index = align(index, [latents[latent].plates[i] for i in wide], rest)
            moved = align(found, names, (latent, *rest), rank)
            shape = [len(found), 1, *moved.shape[2:]]
            index = index[(slice(None), None, ..., *(None,) * rank)].expand(shape)
            found, names = moved.gather(1, index).squeeze(1), rest
        return self._in_plates(site, found, names, 1)

    def plates_of(self, site: str) -> tuple[str, ...]:
        """Plates of a site whose states are inside a unit, left to right."""
        return plates_of(self.engine, site)

    def _in_plates(self, site: str, found: Tensor, names: tuple[str, ...], before: int = 0) -> Tensor:
        """Give `found` one dimension for each plate of a site, behind so many others."""
        program, rank, plates = self.engine.program, found.dim() - before - len(names), self.plates_of(site)
        found = align(found, names, plates, rank)
        last = found.shape[found.dim() - rank :]
        return found.expand((*found.shape[:before], *(program.plates[p] for p in plates), *last)).contiguous()

    def _natural(self, unit: Unit) -> Any:
        return unit.natural(self.bound, None, self.engine.replays(self.engine.moved(self.bound)))

    def _names(self, unit: Unit) -> tuple[str, ...]:
        """Dimensions of a unit's factor."""
        return self.engine.joined[unit.members[0]].names


def plates_of(engine: Engine, site: str) -> tuple[str, ...]:
    """Return the plates of any latent, left to right."""
    program = engine.program
    if site in program.latents:
        return program.latents[site].plates
    if site in program.integrated:
        return engine.recognition.runs[0][site].plates
    around = engine.joined[engine.inner[site].members[0]].plates
    return tuple(p for p in engine.sizes if p in around)
