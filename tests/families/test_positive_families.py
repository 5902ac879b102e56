"""Positive, circular, heavy-tailed and overdispersed data: the closed form of every set of free arguments."""

from typing import Any

import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import check_closed, same, step
from oracles.tolerances import IDENTITY, SOLVERS
from programs.positive import FAMILIES, FREE, N, mixture
from programs.zoo import simulated
from torch import Tensor, tensor

from em_pyro.families import RowFamily, family_for


@pytest.mark.laws
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


@pytest.mark.laws
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
    "Gumbel": ("loc", "scale"),
    "HalfNormal": ("scale",),
    "Pareto": ("alpha",),
    "NegativeBinomial": ("total_count", "probs"),
    "BetaBinomial": ("concentration1", "concentration0"),
    "ZeroInflatedPoisson": ("gate", "rate"),
}
"""Arguments of a family in the order in which the distribution takes them, where not concentration and rate."""


@pytest.mark.parametrize("name", FAMILIES)
def test_weighted_maximum_likelihood(name: str) -> None:
    """With weights on the rows, the solution makes the derivative of torch's own log-likelihood zero."""
    law, arguments, data = FAMILIES[name]
    x, weights = data().sample((200,)), torch.rand(200)
    family = family_for(type(data()))
    family = family.wider or family
    args = dict(zip(ROLES.get(name, ("concentration", "rate")), (tensor([a[2]]) for a in arguments), strict=True))
    known = {key: part for key, part in family.read(data()).items() if key not in args}
    if isinstance(family, RowFamily):
        rows = {key: part.expand(1, len(x)) for key, part in known.items()}
        solved = family.solve_rows(x[None], weights[None], {**args, **rows}, frozenset(args))
    else:
        sums = tuple((weights * part).sum()[None] for part in family.statistics(x, known))
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
