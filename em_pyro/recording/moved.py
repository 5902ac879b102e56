"""Log-factors of the sites that no family recognises, as the model itself says them: by running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..program.named import Named, Params, squeeze
from ..program.program import Program
from ..program.site import Site
from ..records.frozen import frozen

FAINT = 1e-200  # weights far below rounding, of rows whose density may have no digits one step on


@frozen
class Moved:
    """What the model says of some of its sites at some values.

    Attributes:
        parts: log-densities of sites, those of several that are one function stacked on a new first dimension.
        names: site -> the plates and latents of its dimensions.
        prior: sum of the log-densities of priors whose arguments are parameters.
    """

    parts: Mapping[tuple[str, ...], Tensor]
    names: Mapping[str, tuple[str, ...]]
    prior: Tensor

    @cached_property
    def factors(self) -> dict[str, Named]:
        """The log-density of each site."""
        found = {}
        for members, part in self.parts.items():
            apart = part.unbind() if len(members) > 1 else (part,)
            found.update({n: Named(tensor, self.names[n]) for n, tensor in zip(members, apart, strict=True)})
        return found

    def weighted(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Sum of all log-densities, each entry times its weight; what has next to none does not count."""
        total = self.prior
        for members, part in self.parts.items():
            weight = weights[members[0]] if len(members) == 1 else torch.stack([weights[name] for name in members])
            total = total + torch.where(weight.abs() > FAINT, part, 0.0).mul(weight).sum()
        return total


NOTHING = Moved({}, {}, torch.zeros((), dtype=torch.float64))


def played(program: Program, sites: Sequence[str], priors: Sequence[str], params: Params) -> Moved:
    """Run the model for the factors of some sites; differentiable."""
    found = program.run(params)
    factors = {name: found[name].log_prob() for name in sites}
    prior = sum((prior_of(found[name]) for name in priors), torch.zeros((), dtype=torch.float64))
    parts: dict[tuple[str, ...], Tensor] = {(name,): part.tensor.double() for name, part in factors.items()}
    return Moved(parts, {name: part.names for name, part in factors.items()}, prior)


def prior_of(site: Site) -> Tensor:
    """Return the log-density of a prior whose arguments are parameters themselves."""
    density, scale = site.log_prob(), site.scale
    if isinstance(scale, Tensor):
        scale = squeeze(scale, site.dims, site.name).align(density.names)
    return (density.tensor.double() * scale).sum()
