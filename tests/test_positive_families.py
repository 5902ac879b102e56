"""Positive, circular, heavy-tailed and overdispersed data: the closed form of every set of free arguments."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from m_steps import check_closed, same, step
from tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints
from zoo import simulated

from em_pyro.families import RowFamily, family_for

N = 60
Law = Callable[[], Any]
positive, unit = constraints.positive, constraints.unit_interval

Argument = tuple[str, Any, float]
"""Name, constraint and first start of an argument."""
a, b, loc, scale = ("a", positive, 2.0), ("b", positive, 1.5), ("loc", constraints.real, 0.3), ("scale", positive, 1.2)
df, r, p = ("df", positive, 4.0), ("r", positive, 3.0), ("p", unit, 0.4)

FAMILIES: dict[str, tuple[Callable[..., Any], tuple[Argument, ...], Law]] = {
    "Gamma": (dist.Gamma, (a, b), lambda: dist.Gamma(3.0, 1.0)),
    "InverseGamma": (dist.InverseGamma, (a, b), lambda: dist.InverseGamma(3.0, 2.0)),
    "Beta": (dist.Beta, (a, b), lambda: dist.Beta(2.0, 3.0)),
    "VonMises": (dist.VonMises, (loc, a), lambda: dist.VonMises(1.0, 2.0)),
    "StudentT": (dist.StudentT, (df, loc, scale), lambda: dist.StudentT(2.5, 1.0, 2.0)),
    "Weibull": (dist.Weibull, (scale, a), lambda: dist.Weibull(2.0, 1.5)),
    "NegativeBinomial": (dist.NegativeBinomial, (r, p), lambda: dist.NegativeBinomial(2.0, tensor(0.6))),
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


@pytest.mark.parametrize(("family", "free"), FREE, ids=[f"{name}-{'-'.join(free)}" for name, free in FREE])
def test_free_set(family: str, free: tuple[str, ...]) -> None:
    """Every set of free arguments has a closed form, where torch arrives too."""
    check_closed(mixture(family, free), FAMILIES[family][2]().sample((N,)))


@pytest.mark.parametrize(("family", "free"), FREE, ids=[f"{name}-{'-'.join(free)}" for name, free in FREE])
def test_fixed_is_known(family: str, free: tuple[str, ...]) -> None:
    """A parameter that is fixed by an option is a known argument."""
    x, every = FAMILIES[family][2]().sample((N,)), tuple(name for name, _, _ in FAMILIES[family][1])
    model = mixture(family, every)
    got = step(model, x, m_step={name: "fixed" for name in every if name not in free})
    torches = {name: "fixed" if name in every and name not in free else "torch" for name in ("weights", *every)}
    want = step(model, x, m_step=torches)
    assert all(got.how[name] == "closed form" for name in free)
    for name in every:
        same(got.params[name], want.params[name], SOLVERS)


@pytest.mark.parametrize("name", ["gamma", "inverse-gamma", "beta", "dirichlet", "von-mises", "weibull", "student",
                                  "negative-binomial"])  # fmt: skip
def test_zoo(name: str) -> None:
    """The models of the zoo, whole."""
    model, args = simulated(name)
    check_closed(model, *args)


ROLES = {
    "Beta": ("concentration1", "concentration0"),
    "VonMises": ("loc", "concentration"),
    "StudentT": ("df", "loc", "scale"),
    "Weibull": ("scale", "concentration"),
    "NegativeBinomial": ("total_count", "probs"),
}
"""Arguments of a family in the order in which the distribution takes them, where not concentration and rate."""


@pytest.mark.parametrize("name", FAMILIES)
def test_weighted_maximum_likelihood(name: str) -> None:
    """With weights on the rows, the solution makes the derivative of torch's own log-likelihood zero."""
    law, arguments, data = FAMILIES[name]
    x, weights = data().sample((200,)), torch.rand(200)
    family = family_for(law)
    family = family.wider or family
    args = dict(zip(ROLES.get(name, ("concentration", "rate")), (tensor([a[2]]) for a in arguments), strict=True))
    if isinstance(family, RowFamily):
        solved = family.solve_rows(x[None], weights[None], args, frozenset(args))
    else:
        sums = tuple((weights * part).sum()[None] for part in family.statistics(x, {}))
        solved = family.solve(sums, args, frozenset(args))
    leaves = {key: solved[key].clone().requires_grad_() for key in args}
    slopes = torch.autograd.grad((weights * law(*leaves.values()).log_prob(x)).sum(), list(leaves.values()))
    for leaf, slope in zip(leaves.values(), slopes, strict=True):
        assert float((leaf.detach() * slope).abs()) < IDENTITY * 200
    assert not any(torch.allclose(solved[key], args[key], rtol=1e-3) for key in args)


def test_a_wrong_solution_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Gamma solved by moments, a good estimate, leaves a slope of `Q`."""
    family = family_for(dist.Gamma).wider
    assert family is not None
    exact = family.solve

    def by_moments(statistics: tuple[Tensor, ...], args: Any, free: frozenset[str]) -> dict[str, Tensor]:
        return {key: value * 1.000001 for key, value in exact(statistics, args, free).items()}

    model, args = simulated("gamma")
    check_closed(model, *args)
    monkeypatch.setattr(type(family), "solve", staticmethod(by_moments))
    with pytest.raises(AssertionError):
        check_closed(model, *args)
