"""Latents that are left to the contraction: marginals, and choices of states, by the schedule of the E-step.

A marginal is the weight of a zero factor laid over the latent and its plates; choices run the schedule backwards,
picking a state where the E-step would share weight out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property

import torch
from torch import Tensor

from ..e_step.contraction.drawn import drawn, portions
from ..e_step.contraction.elimination import plan_contraction
from ..e_step.contraction.schedule import Factor, Schedule
from ..e_step.engine import Engine
from ..e_step.units import Unit
from ..errors import ParameterError
from ..program.named import Named, align
from ..program.program import Program
from ..records.frozen import frozen

ABSENT = 1e-200
MANY = 12  # latents from which all marginals are worked out at the first that is asked for


@frozen
class Joint:
    """The joint law of all latents that no unit sums out itself.

    Attributes:
        engine: the engine of all rows.
        factors: all that is contracted, whole.
    """

    engine: Engine = field(repr=False)
    factors: Mapping[str, Named] = field(repr=False)

    @cached_property
    def free(self) -> tuple[str, ...]:
        """These latents."""
        inside = {name for unit in self.engine.units for name in unit.inside}
        return tuple(name for name in self.engine.program.latents if name not in inside)

    def by_row(self, plate: str) -> Tensor:
        """Log evidence of every row of a plate, shape `(N,)`.

        Raises:
            ParameterError: the rows depend on one another.
        """
        program = self.engine.program
        schedule, inputs, _ = self._schedule()
        _, values, _ = schedule.forward(inputs)
        total = torch.zeros(program.plates[plate], dtype=torch.float64)
        for step in schedule.products:
            missing = dict(step.missing)
            if plate not in step.over and plate not in missing:
                continue
            if step.output not in schedule.roots:
                latent = next(n for n in schedule.names[step.output] if n in program.latents)
                raise ParameterError(
                    f'log_evidence_by("{plate}"): expected independent rows, but latent "{latent}" outside the plate '
                    f"joins them. Ask for a plate that holds it."
                )
            value, have = align(values[step.input], schedule.names[step.input], step.names), step.names
            if step.scale is not None:
                scale = step.scale.align(have)
                value = torch.where(scale <= ABSENT, 0.0, value * scale)
            rest = tuple(i for i, name in enumerate(have) if name != plate)
            value = value.sum(rest) if rest else value
            for other, size in missing.items():
                value = value * (size if other != plate else 1)
            total = total + value
        return total

    def share(self, unit: Unit) -> Tensor | None:
        """Posterior of the latents around a unit, in the dimensions of its factor; None if there are none."""
        name = unit.members[0]
        axes = tuple(i for i, n in enumerate(self.engine.joined[name].names) if n in self.engine.program.latents)
        if not axes:
            return None
        schedule, inputs, _ = self._schedule()
        share = schedule.contract(inputs)[1][list(self.engine.joined).index(name)]
        return share / share.sum(axes, keepdim=True)

    def shares(self) -> dict[str, Tensor]:
        """Posterior weights of all factors, in their dimensions, row weights counted."""
        schedule, inputs, _ = self._schedule()
        return dict(zip(self.engine.joined, schedule.contract(inputs)[1], strict=True))

    def marginal(self, site: str) -> Tensor:
        """Posterior probabilities of one latent: plates of the site + `(K,)`."""
        one = (site,)
        return self._every_marginal[one].clone() if len(self.free) > MANY else self.marginals([one])[one]

    def entropy(self, inside: Mapping[str, Tensor]) -> float:
        """Entropy of these latents in nats, and what units add of theirs, by factor and in its dimensions."""
        schedule, inputs, _ = self._schedule()
        total, shares = schedule.entropy(inputs)
        for name, share in zip(self.engine.joined, shares, strict=True):
            if name in inside:
                total = total + (share * inside[name]).sum()
        return float(total)

    def choices(self, instead: Mapping[str, Named], *, largest: bool) -> Choices:
        """Run the elimination once, so that states can be chosen.

        Args:
            instead: factors that take the place of others: the best path of a chain in place of its sum.
            largest: whether latents are maximised out, not summed.
        """
        # A zero factor over every latent makes each elimination carry all plates of its latent.
        schedule, inputs, _ = self._schedule(tuple((name,) for name in self.free))
        for i, name in enumerate(self.engine.joined):
            if name in instead:
                inputs[i] = align(instead[name].tensor, instead[name].names, self.factors[name].names)
        return Choices(self.engine.program, self.free, schedule, schedule.eliminations(inputs, largest=largest))

    @cached_property
    def _every_marginal(self) -> dict[tuple[str, ...], Tensor]:
        return self.marginals([(name,) for name in self.free])

    def marginals(self, sites: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], Tensor]:
        """Posterior probabilities of latents together: all of their plates, then the states of each.

        The plates of each are among those of the last of them, or the other way round.
        """
        schedule, inputs, places = self._schedule(tuple(sites))
        _, shares = schedule.contract(inputs)
        program, found = self.engine.program, {}
        for names in sites:
            plates, place = self.plates_of(names), places[names]
            share = align(shares[place], schedule.names[place], (*plates, *names))
            last = tuple(range(-len(names), 0))
            share = share / share.sum(last, keepdim=True)  # a row's weight multiplies its share
            sizes = (*(program.plates[p] for p in plates), *(program.latents[n].size for n in names))
            found[names] = share.expand(sizes).contiguous()
        return found

    def plates_of(self, sites: Sequence[str]) -> tuple[str, ...]:
        """Plates around any of some latents, left to right."""
        return max((self.engine.program.latents[name].plates for name in sites), key=len)

    def _schedule(
        self, extra: tuple[tuple[str, ...], ...] = ()
    ) -> tuple[Schedule, list[Tensor], dict[tuple[str, ...], int]]:
        """The contraction of all rows at once, with a zero factor over each of `extra` and its plates."""
        engine, program = self.engine, self.engine.program
        factors = [replace(f, scale=_positive(f.scale), alive=None) for f in engine.joined.values()]
        inputs = [self.factors[f.name].tensor for f in factors]
        sizes = engine.sizes
        owners = {name: frozenset(latent.plates) for name, latent in program.latents.items()}
        for together in extra:
            plates = frozenset(self.plates_of(together))
            names = tuple(n for n in sizes if sizes[n] > 1 and (n in together or n in plates))
            scale = next((f.scale for f in factors if f.plates == plates), None)
            factors.append(Factor(f"[{', '.join(together)}]", names, plates, scale))
            inputs.append(torch.zeros([sizes[n] for n in names], dtype=torch.float64))
        places = {n: len(engine.joined) + i for i, n in enumerate(extra)}
        return plan_contraction(factors, owners, sizes), inputs, places


def check_together(program: Program, sites: Sequence[str]) -> None:
    """Refuse latents that have no joint table.

    Raises:
        ParameterError: they are no discrete latents of the program, one is named twice, or their plates do not nest.
    """
    for site in sites:
        if site not in program.latents:
            what = (
                "a continuous latent, whose law is asked for by itself" if site in program.integrated else f'"{site}"'
            )
            raise ParameterError(
                f"marginal: expected names of discrete latents, among {sorted(program.latents)}, got {what}."
            )
    if len(set(sites)) < len(sites) or not sites:
        raise ParameterError(f"marginal: expected names of latents, each once, got {tuple(sites)}.")
    nested = sorted((set(program.latents[site].plates) for site in sites), key=len)
    if any(not inner <= outer for inner, outer in zip(nested, nested[1:], strict=False)):
        raise ParameterError(
            f"marginal: expected latents whose plates nest, got {tuple(sites)} in plates "
            f"{[program.latents[site].plates for site in sites]}. Ask for those of one plate."
        )


@frozen
class Choices:
    """The log-weights that states are chosen by, each latent given those eliminated after it."""

    program: Program = field(repr=False)
    free: tuple[str, ...]
    schedule: Schedule = field(repr=False)
    eliminated: Sequence[Tensor] = field(repr=False)

    def best(self) -> dict[str, Tensor]:
        """Indices of the states with the largest weights: one choice, then plates."""
        return self._chosen(1, lambda weights: weights.argmax(1))

    def draws(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Indices of states drawn in proportion to their weights: `n` choices, then plates."""
        parts = [
            self._chosen(some, lambda weights, some=some: drawn(weights, some, 1 - weights.dim(), generator))  # type: ignore[misc]
            for some in portions(n, [weights.numel() for weights in self.eliminated])
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in self.free}

    def _chosen(self, n: int, pick: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        found, every = self.schedule.chosen(self.eliminated, pick, self.program.latents), {}
        for name in self.free:
            plates = self.program.latents[name].plates
            index = found.get(name, Named(torch.zeros(1, dtype=torch.long), ()))  # of one state
            every[name] = align(index.tensor, index.names, plates).expand(n, *(self.program.plates[p] for p in plates))
        return every


def _positive(scale: Named | None) -> Named | None:
    """A row of weight zero still has a posterior: give it next to none."""
    return None if scale is None else Named(scale.tensor.clamp(min=ABSENT), scale.names)
