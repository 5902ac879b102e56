"""Positive, circular, heavy-tailed and overdispersed data: mixtures of each family with every set of free arguments."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor, tensor
from torch.distributions import constraints

N = 60
Law = Callable[[], Any]
positive, unit = constraints.positive, constraints.unit_interval

Argument = tuple[str, Any, float]
"""Name, constraint and first start of an argument."""
a, b, loc, scale = ("a", positive, 2.0), ("b", positive, 1.5), ("loc", constraints.real, 0.3), ("scale", positive, 1.2)
df, r, p = ("df", positive, 4.0), ("r", positive, 3.0), ("p", unit, 0.4)


def _pareto(alpha: Any) -> Any:
    """Beyond a known scale."""
    return dist.Pareto(tensor(0.7), alpha)


def _beta_binomial(a: Any, b: Any) -> Any:
    """Of a known total."""
    return dist.BetaBinomial(a, b, 9)


def _zero_inflated(gate: Any, rate: Any) -> Any:
    """The gate by name."""
    return dist.ZeroInflatedPoisson(rate, gate=gate)


FAMILIES: dict[str, tuple[Callable[..., Any], tuple[Argument, ...], Law]] = {
    "Gamma": (dist.Gamma, (a, b), lambda: dist.Gamma(3.0, 1.0)),
    "InverseGamma": (dist.InverseGamma, (a, b), lambda: dist.InverseGamma(3.0, 2.0)),
    "Beta": (dist.Beta, (a, b), lambda: dist.Beta(2.0, 3.0)),
    "VonMises": (dist.VonMises, (loc, a), lambda: dist.VonMises(1.0, 2.0)),
    "StudentT": (dist.StudentT, (df, loc, scale), lambda: dist.StudentT(2.5, 1.0, 2.0)),
    "Weibull": (dist.Weibull, (scale, a), lambda: dist.Weibull(2.0, 1.5)),
    "Gumbel": (dist.Gumbel, (loc, scale), lambda: dist.Gumbel(1.0, 1.5)),
    "HalfNormal": (dist.HalfNormal, (scale,), lambda: dist.HalfNormal(2.0)),
    "Pareto": (_pareto, (a,), lambda: dist.Pareto(0.7, 1.5)),
    "NegativeBinomial": (dist.NegativeBinomial, (r, p), lambda: dist.NegativeBinomial(2.0, tensor(0.6))),
    "GammaPoisson": (dist.GammaPoisson, (r, b), lambda: dist.GammaPoisson(2.0, 0.5)),
    "BetaBinomial": (_beta_binomial, (a, b), lambda: dist.BetaBinomial(1.5, 2.0, 9)),
    "ZeroInflatedPoisson": (_zero_inflated, (p, b), lambda: dist.ZeroInflatedPoisson(2.5, gate=tensor(0.3))),
}


def subsets(arguments: tuple[Argument, ...]) -> list[tuple[str, ...]]:
    """All sets of free arguments that are not empty."""
    names = [name for name, _, _ in arguments]
    return [tuple(n for k, n in enumerate(names) if bits >> k & 1) for bits in range(1, 2 ** len(names))]


FREE = [(name, free) for name, (_, arguments, _) in FAMILIES.items() for free in subsets(arguments)]


def mixture(family: str, free: tuple[str, ...], shift: float = 0.3) -> Callable[[Tensor], None]:
    """Mix two components, the arguments in `free` estimated and the others known (one value for both)."""
    law, arguments, _ = FAMILIES[family]

    def model(x: Tensor) -> None:
        weights = pyro.param("weights", tensor([0.6, 0.4]), constraint=constraints.simplex)
        args: list[Any] = []
        for name, constraint, start in arguments:
            values = tensor([start, start + shift])
            args.append(pyro.param(name, values, constraint=constraint) if name in free else tensor([start, start]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", law(*(value[z] for value in args)), obs=x)

    return model
