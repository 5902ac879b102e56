"""Conjugate laws of parameters: what statistics make of a prior, and what the E-step takes of the law.

To add one, write a class with the members of `Conjugate` and give it a row in `kinds.KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from typing import Any, ClassVar, Protocol

import torch
import torch.distributions as dist
from torch import Tensor

from ..e_step.sites.site_factor import SiteFactor
from ..e_step.sums import Sums
from ..m_step.counts import Counts, Rates
from ..program.named import Params
from ..reading.bank import Bank
from ..reading.bound import Bound
from ..records.frozen import frozen
from .entering import selected
from .stick_breaking import StickBreaking, Sticks

Draw = Callable[[Tensor], Tensor]
"""Standard normal numbers of a shape."""


class Conjugate(Protocol):
    """The law of one parameter or of a pair, shapes of the parameters; of one start.

    `about` is where everything is bound: values before there are laws, later the laws so far.
    """

    moves: ClassVar[bool]
    """Whether steps move it."""
    last: ClassVar[bool]
    """Whether it is updated after all others, and `about` has their new laws."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters."""

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> Any:
        """The prior with expected statistics added; `law` is the one so far, None at first."""

    def points(self, law: Any) -> Params:
        """What is bound in the place of the parameters: the values whose density is closest to the expected one."""

    def means(self, law: Any) -> Params:
        """Expected values, within the constraints of the parameters."""

    def divergence(self, law: Any, other: Any = None) -> Tensor:
        """Kullback-Leibler divergence of the law from the prior, or from another law, in nats."""

    def disturbed(self, law: Any, nats: float, draw: Draw) -> Any:
        """The law with every hyperparameter moved at random, each by so much as costs the bound about `nats`.

        At `q` the bound falls from its maximum over this law, `q*`, by the divergence of `q` from `q*`.
        """

    def log(self, law: Any, *, complement: bool) -> Tensor:
        """`E log p`, or `E log (1 - p)`, of every entry of a probability."""

    def excess(self, law: Any, factor: SiteFactor, about: Bound) -> Tensor | None:
        """What the law adds to the first natural parameter of the cells of a site; None where it does not enter."""

    def variance(self, law: Any, factor: SiteFactor, bank: Bank) -> Tensor | None:
        """Variance of the location in every cell of a site, by this law; None where it is no law of locations."""

    def spread(self, law: Any, factor: SiteFactor) -> Tensor | None:
        """Covariance of the coefficients of a site's lines; None where the law is of none."""


@frozen
class Probabilities:
    """`Dirichlet(a + counts)`, `Beta(a + successes, b + failures)`, or the Betas of sticks."""

    moves: ClassVar[bool] = True
    last: ClassVar[bool] = False

    name: str
    prior: dist.Dirichlet | dist.Beta | StickBreaking
    counts: Counts = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> Any:
        """Counts, added to those of the prior."""
        old = about.batch[self.name].double()
        hits, misses = self.counts.pooled(sums, old)
        hits = hits.squeeze(0)
        if isinstance(self.prior, StickBreaking):
            order = torch.arange(hits.shape[-1]).expand(hits.shape) if law is None else law.order
            return self.prior.updated(hits, order.to(hits.device))
        if isinstance(self.prior, dist.Dirichlet):
            return dist.Dirichlet(self.prior.concentration + hits)
        misses = torch.zeros_like(hits) if misses is None else misses.squeeze(0)
        return dist.Beta(self.prior.concentration1 + hits, self.prior.concentration0 + misses)

    def points(self, law: Any) -> Params:
        """The means; only their logarithms are bound, and those come from `log`."""
        return {self.name: law.mean}

    means = points

    def divergence(self, law: Any, other: Any = None) -> Tensor:
        """Of all rows, or entries."""
        if isinstance(law, Sticks):
            return law.divergence(other).sum()
        from_: Any = self.prior if other is None else other
        return dist.kl_divergence(law, from_).sum()

    def disturbed(self, law: Any, nats: float, draw: Draw) -> Any:
        """Shapes, by their logarithms."""
        if isinstance(law, dist.Dirichlet):
            total = law.concentration.sum(-1, keepdim=True)
            return dist.Dirichlet(_moved(law.concentration, total, nats, draw))
        if isinstance(law, Sticks):
            total = law.ones + law.rest
            return replace(law, ones=_moved(law.ones, total, nats, draw), rest=_moved(law.rest, total, nats, draw))
        ones, rest = law.concentration1, law.concentration0
        return dist.Beta(_moved(ones, ones + rest, nats, draw), _moved(rest, ones + rest, nats, draw))

    def log(self, law: Any, *, complement: bool) -> Tensor:
        """Differences of digammas."""
        if isinstance(law, Sticks):
            return torch.full_like(law.ones, torch.nan) if complement else law.log
        if isinstance(law, dist.Dirichlet):
            ones = law.concentration
            total = ones.sum(-1, keepdim=True)
            return (total - ones if complement else ones).digamma() - total.digamma()
        ones, rest = law.concentration1, law.concentration0
        return (rest if complement else ones).digamma() - (ones + rest).digamma()

    def excess(self, law: Any, factor: SiteFactor, about: Bound) -> Tensor | None:
        """None: logarithms are bound as such."""
        return None

    def variance(self, law: Any, factor: SiteFactor, bank: Bank) -> Tensor | None:
        """None: no location."""
        return None

    def spread(self, law: Any, factor: SiteFactor) -> Tensor | None:
        """None: no coefficients."""
        return None


class Real:
    """What laws of real numbers have in common: they enter through no logarithm of a probability."""

    moves: ClassVar[bool] = True
    last: ClassVar[bool] = False

    def log(self, law: Any, *, complement: bool) -> Tensor:
        """No probability."""
        raise AssertionError

    def spread(self, law: Any, factor: SiteFactor) -> Tensor | None:
        """None: no coefficients."""
        return None

    def variance(self, law: Any, factor: SiteFactor, bank: Bank) -> Tensor | None:
        """None: no location."""
        return None


@frozen
class Positive(Real):
    """What Gammas have in common: the statistics are multiplied by their means."""

    name: str
    prior: dist.Gamma

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    def points(self, law: dist.Gamma) -> Params:
        """The means."""
        return {self.name: law.mean}

    means = points

    def divergence(self, law: dist.Gamma, other: Any = None) -> Tensor:
        """Of all entries."""
        return dist.kl_divergence(law, self.prior if other is None else other).sum()

    def disturbed(self, law: dist.Gamma, nats: float, draw: Draw) -> dist.Gamma:
        """The rate by its logarithm, whose curvature is the shape."""
        return dist.Gamma(law.concentration, _scaled(law.rate, law.concentration, nats, draw))

    def beyond(self, law: dist.Gamma, key: str, factor: SiteFactor, bank: Bank) -> Tensor | None:
        """`E log x - log E x` of the entry that every cell of an argument selects."""
        return selected(law.concentration.digamma() - law.concentration.log(), self.name, key, factor, bank)


@frozen
class Rate(Positive):
    """`Gamma(a + events, b + exposure)`."""

    rates: Rates = field(repr=False)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> dist.Gamma:
        """Events and exposures, added to those of the prior."""
        shape = self.prior.concentration.shape
        events, exposure = (part.reshape(shape) for part in self.rates.pooled(sums))
        return dist.Gamma(self.prior.concentration + events, self.prior.rate + exposure)

    def excess(self, law: dist.Gamma, factor: SiteFactor, about: Bound) -> Tensor | None:
        """`E log rate - log E rate`."""
        return self.beyond(law, "rate", factor, about.bank)


@frozen
class Untouched(Real):
    """The prior of a parameter that enters no site: of the law of the only state there is, say."""

    moves: ClassVar[bool] = False

    name: str
    prior: Any
    shape: torch.Size

    @property
    def names(self) -> tuple[str, ...]:
        """The one."""
        return (self.name,)

    def updated(self, sums: Mapping[str, Sums], about: Bound, law: Any) -> Any:
        """The prior."""
        return self.prior

    def points(self, law: Any) -> Params:
        """The mean."""
        return {self.name: law.mean.double().expand(self.shape)}

    means = points

    def divergence(self, law: Any, other: Any = None) -> Tensor:
        """Nothing."""
        return torch.zeros((), dtype=torch.float64)

    def disturbed(self, law: Any, nats: float, draw: Draw) -> Any:
        """The prior: no statistics reach it."""
        return law

    def excess(self, law: Any, factor: SiteFactor, about: Bound) -> Tensor | None:
        """Nothing."""
        return None


def _moved(shapes: Tensor, total: Tensor, nats: float, draw: Draw) -> Tensor:
    """Shapes of a Dirichlet moved: the divergence has curvature `a^2 (psi'(a) - psi'(total))` in `log a`."""
    curvature = shapes**2 * (torch.polygamma(1, shapes) - torch.polygamma(1, total))
    return _scaled(shapes, curvature, nats, draw)


def _scaled(value: Tensor, curvature: Tensor, nats: float, draw: Draw) -> Tensor:
    """Move the logarithm as far as costs `nats` on average, but to no end of its range: by `1 + |log|` at most."""
    unit = torch.minimum((2 * nats / curvature).sqrt(), 1 + value.log().abs())
    return value * (unit * draw(value)).exp()
