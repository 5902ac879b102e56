"""What an engine is made of: units, each of which computes one factor or several, and gives their statistics.

To add one, write a file with a class that has these members and a function that takes factors out of what is left, and
put the function into `build.TAKERS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..program.named import Named
from ..reading.bound import Bound
from .chunks import WHOLE, Chunk
from .sites.site_factor import SiteFactor
from .sums import Sums


class Unit(Protocol):
    """Some factors of the log-joint, as functions of the arguments bound.

    What `natural` returns is local to the rows of this engine: the form of every cell, and around what it is computed.
    Where it is None, shares were given and not weighed by densities: there are no parameters that belong to them.
    """

    in_one_product: ClassVar[bool] = False  # whether a mixture may compute its factors in one product, and not ask it

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the factors that it computes."""

    @property
    def factors(self) -> tuple[SiteFactor, ...]:
        """The site factors whose sums come out, one for all that are the same function."""

    @property
    def every(self) -> tuple[SiteFactor, ...]:
        """All site factors in it."""
        return self.factors

    @property
    def stands_for(self) -> Mapping[str, tuple[str, ...]]:
        """For each of `factors`, by name, all sites that are the same function."""
        return {factor.name: (factor.name,) for factor in self.factors}

    @property
    def absorbed(self) -> tuple[str, ...]:
        """Replayed sites that have weights, and no factor of their own."""
        return ()

    @property
    def latents(self) -> tuple[str, ...]:
        """Sites whose states are summed out inside, so that only this unit can give their posterior."""
        return ()

    @property
    def inside(self) -> tuple[str, ...]:
        """Those, and latents of the program that are summed out inside: this unit gives their posterior."""
        return self.latents

    @property
    def continuous(self) -> tuple[str, ...]:
        """Continuous latents that are summed out inside."""
        return ()

    @property
    def held(self) -> int:
        """Numbers that an E-step at one start holds beside the factors: of latents that are summed out inside."""
        return 0

    def expanded(self, sums: Mapping[str, Sums], bound: Bound) -> tuple[Mapping[str, Sums], Mapping[str, Tensor]]:
        """Statistics in a model with more parameters, where that is faster; and how far those of this one move then."""
        return sums, {}

    def structure(self, latent: str) -> str:
        """Say how one of these hangs together with others."""
        raise KeyError(latent)

    @property
    def notes(self) -> Mapping[str, str]:
        """What the plan says of it: a title, and how it is computed; mostly nothing."""
        return {}

    def natural(self, bound: Bound, about: Bound | None = None, replays: Mapping[str, Named] | None = None) -> Any:
        """Bind the arguments; statistics are wanted around the locations `about`, if that is given."""

    def log_factors(self, natural: Any, chunk: Chunk = WHOLE) -> tuple[list[Tensor], Any]:
        """Log-densities of the members in a chunk of rows, (starts) + names of each; and what to remember of them."""

    def sums(self, shares: Sequence[Tensor | None], natural: Any, memo: Any, chunk: Chunk = WHOLE) -> dict[str, Tensor]:
        """Statistics of a chunk under the posterior weights of the members, by factor; those of chunks are added."""

    def given(self, shares: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Statistics of all rows under given weights, by site: shares that were drawn, and not weighed by densities."""
        return self.sums([shares[name] for name in self.members], None, None)

    def given_at(self, shares: Mapping[str, Tensor], bound: Bound) -> dict[str, Sums]:
        """What of statistics under given shares needs parameters all the same: nothing, but with continuous latents."""
        return {}

    def made_of(self, member: str) -> tuple[SiteFactor, ...]:
        """The sites whose densities make up a member."""
        return tuple(factor for factor in self.every if factor.name == member)

    def finish(self, found: Mapping[str, Tensor], natural: Any) -> dict[str, Sums]:
        """Statistics of its families, from what the chunks have given for all factors: once a step."""

    def inner(self, bound: Bound, sums: Mapping[str, Sums]) -> Tensor:
        """The share in `Q` of those of its factors whose sums are given, shape `(starts)`."""
        parts = [factor.inner(bound, sums[factor.name]).sum(-1) for factor in self.factors if factor.name in sums]
        return sum(parts, torch.zeros((), dtype=torch.float64))

    def digits(self, bound: Bound, near: Bound) -> Tensor | None:
        """Say by how much digits run short, shape `(2, starts)`: above one they do; None where they never do.

        First, whether sums taken at `bound` have too few for the arguments `near`; second, whether the fastest form has
        too few `near`.
        """

    def width(self, plate: str) -> int:
        """Numbers that a row of `plate` takes while it is worked on: what the size of a chunk is chosen by."""

    def stuck(self, plate: str) -> str:
        """Why rows of `plate` cannot be taken in chunks; empty if they can."""
        return next((why for factor in self.factors if (why := factor.stuck(plate))), "")

    def dimensions(self, name: str) -> tuple[str, ...]:
        """Named dimensions of an absorbed site's log-density."""
        raise KeyError(name)

    # ---- the posterior of what is `inside`, of one start and all rows ----

    def laws(self, natural: Any) -> dict[str, Tensor]:
        """Posterior of each, given what is outside: dimensions of the factor, then its own."""
        return {}

    def entropy(self, natural: Any) -> Tensor:
        """Posterior entropy of all that is inside, in nats, given what is outside: dimensions of the factor."""
        raise KeyError(self.members)

    def mode(self, natural: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The largest log-density over all that is inside, in the dimensions of the factor, and where it is taken."""
        raise KeyError(self.members)

    def path(self, natural: Any, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """The best path of hidden states, or a drawn one, from the state before the first step to the last seen.

        Returns its log-density together with the data, in the dimensions of the factor, and the path: those and steps.
        """
        raise KeyError(self.members)

    def draws(self, natural: Any, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Drawn `n` times, shape `(n,)` + dimensions of the factor + its own."""
        return {}


def worst(numbers: Iterable[Tensor | None]) -> Tensor | None:
    """Return the largest of what there is, entry by entry; None if there is none."""
    found = [part for part in numbers if part is not None]
    return found[0] if len(found) == 1 else torch.stack(found).amax(0) if found else None
