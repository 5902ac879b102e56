"""One law for every registered family: `<natural, statistics> + base` is torch's own `log_prob`."""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from torch import Tensor, tensor
from torch.distributions import constraints, transform_to

from em_pyro.families import Family, RowFamily, family_for
from em_pyro.families.base import _TABLE
from em_pyro.families.heavy_tailed import median
from em_pyro.families.newton import dirichlet, inverse_digamma, log_minus_digamma
from em_pyro.families.overdispersed import nearly_poisson
from em_pyro.program.data.counts import log_rising

K = 3
Law = Callable[[], Any]
positive, unit = constraints.positive, constraints.unit_interval


def some(constraint: Any, *shape: int) -> Tensor:
    """Random values within a constraint."""
    return transform_to(constraint)(torch.randn(shape))


LAWS: dict[str, Law] = {
    "Bernoulli": lambda: dist.Bernoulli(some(unit, K)),
    "Binomial": lambda: dist.Binomial(torch.arange(K) + 2.0, some(unit, K)),
    "Geometric": lambda: dist.Geometric(some(unit, K)),
    "NegativeBinomial": lambda: dist.NegativeBinomial(torch.arange(K) + 2.0, some(unit, K)),
    "Categorical": lambda: dist.Categorical(some(constraints.simplex, K, 4)),
    "OneHotCategorical": lambda: dist.OneHotCategorical(some(constraints.simplex, K, 4)),
    "Multinomial": lambda: dist.Multinomial(5, some(constraints.simplex, K, 4)),
    "Poisson": lambda: dist.Poisson(some(positive, K)),
    "Exponential": lambda: dist.Exponential(some(positive, K)),
    "Gamma": lambda: dist.Gamma(some(positive, K), some(positive, K)),
    "InverseGamma": lambda: dist.InverseGamma(some(positive, K), some(positive, K)),
    "Beta": lambda: dist.Beta(some(positive, K), some(positive, K)),
    "Dirichlet": lambda: dist.Dirichlet(some(positive, K, 4)),
    "VonMises": lambda: dist.VonMises(torch.randn(K), 3 * some(positive, K)),
    "Normal": lambda: dist.Normal(torch.randn(K), some(positive, K)),
    "LogNormal": lambda: dist.LogNormal(torch.randn(K), some(positive, K)),
    "MultivariateNormal": lambda: dist.MultivariateNormal(
        torch.randn(K, 2), scale_tril=some(constraints.lower_cholesky, K, 2, 2)
    ),
    "Laplace": lambda: dist.Laplace(torch.randn(K), some(positive, K)),
    "StudentT": lambda: dist.StudentT(3 * some(positive, K), torch.randn(K), some(positive, K)),
    "Weibull": lambda: dist.Weibull(some(positive, K), some(positive, K)),
    "Gumbel": lambda: dist.Gumbel(torch.randn(K), some(positive, K)),
    "HalfNormal": lambda: dist.HalfNormal(some(positive, K)),
    "Pareto": lambda: dist.Pareto(some(positive, K), some(positive, K)),
    "GammaPoisson": lambda: dist.GammaPoisson(some(positive, K), some(positive, K)),
    "BetaBinomial": lambda: dist.BetaBinomial(some(positive, K), some(positive, K), torch.arange(K) + 2.0),
    "DirichletMultinomial": lambda: dist.DirichletMultinomial(some(positive, K, 4), 5, validate_args=False),
    "ZeroInflatedPoisson": lambda: dist.ZeroInflatedPoisson(some(positive, K), gate=some(unit, K)),
}


def log_density(family: Family, law: Any, value: Tensor) -> Tensor:
    """Log-density by the family's own table, as the engine puts it together."""
    args = family.read(law)
    known = {key: part for key, part in args.items() if key not in family.roles}
    for key, role in family.roles.items():
        if role.domain in ("unit", "simplex"):
            args[f"{key}_complement"] = (-args[key]).log1p()
            args[key] = args[key].log()
    if isinstance(family, RowFamily):
        return family.log_prob(value, args)
    total = family.base(value, known)
    total = torch.zeros(()) if total is None else total
    for eta, statistic in zip(family.natural(args), family.statistics(value, known), strict=True):
        event = statistic.dim() - (value.dim() - family.event_dim)
        product = eta * statistic
        total = total + (product.sum(tuple(range(-event, 0))) if event else product)
    return total


def versions(law: Any) -> list[Family]:
    """The family of a distribution, and the wider ones behind it."""
    found = [family_for(type(law))]
    while found[-1].wider is not None:
        found.append(found[-1].wider)
    return found


@pytest.mark.parametrize("name", LAWS)
def test_density(name: str) -> None:
    """`<natural, statistics> + base` is torch's `log_prob`, whichever family reads the distribution."""
    law = LAWS[name]()
    value = law.sample((7,))
    for family in versions(law):
        same(log_density(family, law, value), law.log_prob(value))


def test_every_family_is_here() -> None:
    """The law above runs over the whole table."""
    assert {cls.__name__ for cls in _TABLE if cls.__module__.startswith("pyro.")} == set(LAWS)


def test_a_wrong_density_is_noticed() -> None:
    """A base measure that forgets the Jacobian fails the law."""
    law = LAWS["InverseGamma"]()
    value = law.sample((7,))
    wrong = log_density(family_for(dist.Gamma), dist.Gamma(law.concentration, law.rate), 1 / value)
    with pytest.raises(AssertionError, match="largest difference"):
        same(wrong, law.log_prob(value))


# ---- equations -------------------------------------------------------------------------------------------------------


def test_inverse_digamma() -> None:
    """From 1e-8 to 1e8."""
    a = torch.logspace(-8, 8, 33)
    assert float((inverse_digamma(a.digamma()) / a - 1).abs().max()) < 1e-13


def test_log_minus_digamma() -> None:
    """Both branches agree where they meet, and the derivative is that of the function."""
    a = tensor([0.1, 1.0, 29.9999, 30.0001, 1e3, 1e6], requires_grad=True)
    value, slope = log_minus_digamma(a)
    same(value.detach()[:4], (a.log() - a.digamma()).detach()[:4], 1e-14)
    (got,) = torch.autograd.grad(value.sum(), a)
    assert float((a.detach() * got / slope.detach() - 1).abs().max()) < 1e-10


@pytest.mark.parametrize("start", [1e-3, 1.0, 1e4])
def test_dirichlet_from_afar(start: float) -> None:
    """Newton finds the concentrations from expected logarithms wherever it starts."""
    a = tensor([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0], [10.0, 0.01, 4.0], [100.0, 200.0, 300.0]])
    mean_log = a.digamma() - a.sum(-1, keepdim=True).digamma()
    got = dirichlet(mean_log, torch.full_like(a, start), torch.ones(3, dtype=torch.bool))
    assert float((got / a - 1).abs().max()) < 1e-11


def test_weighted_median() -> None:
    """The middle row, the heavier row, and the middle of a tie, whatever carries no weight."""
    value = tensor([3.0, 1.0, 2.0, 4.0]).expand(4, 4)
    weights = tensor([[1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.1], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert median(value, weights).tolist() == [2.0, 4.0, 2.0, 2.5]


@pytest.mark.parametrize("total_count", [1e3, 1e4, 1e6, 1e8])
def test_the_equation_of_a_nearly_poisson_count_keeps_its_digits(total_count: float) -> None:
    """`digamma(r + x) - digamma(r)` is the sum of `1 / (r + i)` for `i < x`: in decimals of fifty digits."""
    counts, weights = [0, 3, 3, 5, 20], [1, 2, 1, 1, 3]
    with localcontext() as context:
        context.prec = 50
        r, total = Decimal(int(total_count)), Decimal(sum(weights))
        sums = [sum((1 / (r + i) for i in range(x)), Decimal()) for x in counts]
        mean = sum((w * x for w, x in zip(weights, counts, strict=True)), 0) / total
        slope = sum((w * s for w, s in zip(weights, sums, strict=True)), Decimal()) / total - (1 + mean / r).ln()
    x, w = tensor(counts).double(), tensor(weights).double()
    got = float(nearly_poisson(x, w, tensor(float(mean)), tensor(float(total_count))))
    assert got == pytest.approx(float(slope), rel=1e-9)


@pytest.mark.parametrize("total_count", [1e-3, 0.7, 19.9, 20.0, 300.0, 1e5, 1e9])
def test_a_rising_factorial_keeps_its_digits(total_count: float) -> None:
    """`Gamma(r + x) / Gamma(r)` is the product of `r + i` for `i < x`; the lgammas themselves cancel at large `r`."""
    r = tensor(total_count)
    for x in (0, 1, 2, 7, 100):
        want = (r + torch.arange(float(x))).log().sum()
        assert float((log_rising(tensor(float(x)), r) - want).abs()) < 1e-14 * (1 + float(want.abs()))
    cancelled = (r + 7.0).lgamma() - r.lgamma() - (r + torch.arange(7.0)).log().sum()
    assert (float(cancelled.abs()) > 1e-12) == (total_count > 1e4)
