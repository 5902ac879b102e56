"""The conjugate law of a precision, or of a variance, beside means that are known or have laws of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar

import torch.distributions as dist
from torch import Tensor

from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..m_step.least_squares.scalar import ScalarSite
from ..m_step.pooling import added, flat, pool
from ..program.named import Params
from ..reading.bound import Bound
from ..records.frozen import frozen
from .conjugate import Draw, Positive
from .entering import places
from .laws import AtLaws


@frozen
class Precision(Positive):
    """`Gamma(a + n / 2, b + S / 2)` with `S = sum w ((x - E mu)^2 + Var mu)`, of a scale `tau ** -0.5`.

    Attributes:
        sites: all that it enters, with their factors.
    """

    last: ClassVar[bool] = True

    sites: Sequence[tuple[SiteFactor, ScalarSite]] = field(repr=False)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> dist.Gamma:
        """Weight and scatter, added to those of the prior."""
        assert isinstance(about, AtLaws)
        parts, size = [], self.prior.concentration.numel()
        for factor, site in self.sites:
            moments, variance = site.moments(sums[site.name]), about.variance(factor)
            c = site.scale.coefficient
            spread = flat(variance.expand((1, *factor.cell_shape, *factor.event_shape))) / (1.0 if c is None else c**2)
            scatter = site.scatter(moments, about.batch) + moments.n * spread
            for place in places(site.scale, self.name):
                parts.append((pool(moments.n, place.where, size), pool(scatter, place.where, size)))
        n, scatter = (added(part).reshape(self.prior.rate.shape) for part in zip(*parts, strict=True))
        return dist.Gamma(self.prior.concentration + n / 2, self.prior.rate + scatter / 2)

    def excess(self, law: dist.Gamma, factor: SiteFactor, about: Bound) -> Tensor | None:
        """`(E log tau - log E tau) / 2`."""
        found = self.beyond(law, "scale", factor, about.bank)
        return None if found is None else found / 2


@frozen
class Variance(Precision):
    """`InverseGamma(a + n / 2, b + S / 2)` of a scale `v ** 0.5`: the law of one over a precision."""

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> Any:
        """Weight and scatter, added to those of the prior."""
        return inverse(super().updated(sums, about, law))

    def points(self, law: Any) -> Params:
        """One over the expected precision, which has a value where the mean is infinite."""
        return {self.name: law.rate / law.concentration}

    means = points

    def divergence(self, law: Any, other: Any = None) -> Tensor:
        """That of the precisions."""
        return super().divergence(inverse(law), None if other is None else inverse(other))

    def disturbed(self, law: Any, nats: float, draw: Draw) -> Any:
        """That of the precision."""
        return inverse(super().disturbed(inverse(law), nats, draw))


def inverse(law: Any) -> Any:
    """The law of one over what has a Gamma or an InverseGamma."""
    kind = dist.InverseGamma if type(law) is dist.Gamma else dist.Gamma
    return kind(law.concentration, law.rate)
