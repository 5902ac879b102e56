"""Families whose log-density is a sum of counts times log-probabilities: one closed form for all of them.

Every use of a probability `p`, in whichever of these families, adds `a log p + b log(1 - p)` to `Q`, and so does a Beta
or Dirichlet prior; the maximum is `a / (a + b)`, or `a / sum(a)` on a simplex.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Distribution

from ..program.named import unexpand
from .base import Args, Family, Role, register


def probabilities(distribution: Distribution, event_dim: int = 0, name: str = "probs", logit: str = "logits") -> Tensor:
    """Return the probabilities from whichever argument the program gave; logits of -inf are exact zeros."""
    if name in vars(distribution):
        return unexpand(getattr(distribution, name), event_dim)
    logits = unexpand(getattr(distribution, logit), event_dim)
    return torch.softmax(logits, -1) if event_dim else torch.sigmoid(logits)


def _log_factorial(x: Tensor) -> Tensor:
    return torch.lgamma(x + 1)


class _Unit(Family):
    """One probability a cell: statistics are (successes, failures)."""

    solver = "counts"
    roles = {"probs": Role("unit")}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        return {"probs": probabilities(distribution)}

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return args["probs"], args["probs_complement"]


@register(dist.Bernoulli)
class Bernoulli(_Unit):
    """`x log p + (1 - x) log(1 - p)`."""

    summed = "x, 1 - x"

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return value, 1 - value

    def total(self, value: Tensor, known: Args) -> Tensor | None:
        return torch.ones((), dtype=torch.float64)


@register(dist.Binomial)
class Binomial(_Unit):
    """`x log p + (n - x) log(1 - p) + log C(n, x)`, the total `n` known and possibly different in each row."""

    summed = "x, total_count - x"

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        total = unexpand(distribution.total_count)  # type: ignore[attr-defined]
        return {**super().read(distribution), "total_count": total}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return value, known["total_count"] - value

    def total(self, value: Tensor, known: Args) -> Tensor | None:
        return known["total_count"]

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        n = known["total_count"]
        return _log_factorial(n) - _log_factorial(value) - _log_factorial(n - value)


@register(dist.Geometric)
class Geometric(_Unit):
    """`log p + x log(1 - p)`, with `x` failures before the first success."""

    summed = "1, x"
    counting = frozenset({0})

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return torch.ones_like(value), value


class _Simplex(Family):
    """One row of probabilities a cell: the statistic is a row of counts."""

    solver = "counts"
    roles = {"probs": Role("simplex", event_dim=1, multiples=True)}
    event_dim = 1

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        inner = getattr(distribution, "_categorical", distribution)
        return {"probs": probabilities(inner, 1)}

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        return (args["probs"],)

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return (value,)


@register(dist.Categorical)
class Categorical(_Simplex):
    """`log p_x`: the statistic is the one-hot row of `x`."""

    summed = "the one-hot row of x"
    event_dim = 0
    known_event_dim = {"categories": 1}

    def read(self, distribution: Distribution) -> dict[str, Tensor]:
        probs = super().read(distribution)["probs"]
        return {"probs": probs, "categories": torch.arange(probs.shape[-1], device=probs.device)}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        return (value.unsqueeze(-1) == known["categories"],)

    def codes(self, value: Tensor, known: Args) -> Tensor | None:
        return value.long()

    def total(self, value: Tensor, known: Args) -> Tensor | None:
        return torch.ones((), dtype=torch.float64)


@register(dist.OneHotCategorical)
class OneHotCategorical(_Simplex):
    """`sum_c x_c log p_c` with one `x_c = 1`."""

    summed = "the row x"

    def total(self, value: Tensor, known: Args) -> Tensor | None:
        return torch.ones((), dtype=torch.float64)


@register(dist.Multinomial)
class Multinomial(_Simplex):
    """`sum_c x_c log p_c + log n! - sum_c log x_c!`."""

    summed = "the row x"

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        return _log_factorial(value.sum(-1)) - _log_factorial(value).sum(-1)

    def total(self, value: Tensor, known: Args) -> Tensor | None:
        return value.sum(-1)
