"""Beside a fitted bound of a support the others are climbed, and the note's remedy ends where the fit does."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM

POSITIVE = constraints.positive
X = 2 + 0.1 * (1 + torch.arange(40) * 17 % 40).double().square()


def shifted(bound: Tensor, rate: Tensor) -> dist.Distribution:
    """An exponential number beyond a bound."""
    return dist.TransformedDistribution(
        dist.Exponential(rate), [torch.distributions.transforms.AffineTransform(bound, 1)]
    )


def late(bound: Tensor, rate: Tensor) -> dist.Distribution:
    """A Weibull number beyond a bound."""
    weibull = dist.Weibull(1 / rate, torch.ones_like(rate))
    return dist.TransformedDistribution(weibull, [torch.distributions.transforms.AffineTransform(bound, 1.0)])


def rates(x: Tensor, law: Any, known: Tensor | None = None, *, mixed: bool = False) -> None:
    """A bound, which may be known, and a rate, or two of them."""
    start = torch.tensor(1.0, dtype=x.dtype)
    bound = pyro.param("bound", start, constraint=POSITIVE) if known is None else known
    rate = pyro.param("rate", torch.tensor([1.0, 0.1] if mixed else [1.0], dtype=x.dtype), constraint=POSITIVE)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5], dtype=x.dtype))) if mixed else 0
        pyro.sample("x", law(bound, rate[z]), obs=x)


def fitted(*args: Any, **options: Any) -> Any:
    """Fit in a store of its own."""
    with pyro.get_param_store().scope():
        return EM(rates).fit(*args, **options)


@pytest.mark.parametrize(
    ("law", "dtype"), [*((law, torch.float64) for law in (shifted, dist.Pareto, late)), (dist.Pareto, torch.float32)]
)
def test_the_rate_beside_a_bound(law: Any, dtype: torch.dtype) -> None:
    """The bound is at the smallest value, and the rate at its maximum given that, which is known in closed form."""
    fit = fitted(X.to(dtype), law)
    rate = 1 / ((X / X.min()).log() if law is dist.Pareto else X - X.min()).mean()
    rough = SOLVERS if dtype is torch.float64 else 1e-3
    close(fit.params["bound"].double(), X.min(), rough)
    close(fit.params["rate"].double(), rate.unsqueeze(0), 10 * rough)
    assert fit.outcome == "unconfirmed"
    assert "keep what bounds a support known, as the smallest value does" in str(fit.notes)


def test_the_remedy() -> None:
    """With the bound known the rest has the same maximum, and it is one."""
    free, known = fitted(X, shifted, mixed=True), fitted(X, shifted, X.min(), mixed=True)
    assert known.outcome == "converged"
    close(free.log_likelihood, known.log_likelihood, SOLVERS)
    close(free.params["rate"], known.params["rate"], 1e-3)
