"""Arguments looked up by row: a cell for each group is what a cell for each row is, step by step."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.sites import groups

ROWS, GROUPS, ITEMS = 240, 4, 3


def drawn(seed: int = 0) -> torch.Generator:
    """A source of numbers."""
    return torch.Generator().manual_seed(seed)


GROUP = torch.randint(0, GROUPS, (ROWS,), generator=drawn())
OTHER = torch.randint(0, 2, (ROWS,), generator=drawn(1))
HALF = torch.arange(ROWS) % 2
X = torch.randn(ROWS, generator=drawn(2)).double() + GROUP + 3.0 * HALF
COUNTS = torch.poisson(torch.exp(0.3 * GROUP + HALF), generator=drawn(3))
EXPOSURE = 0.5 + torch.rand(ROWS, generator=drawn(4)).double()
ANSWERS = torch.bernoulli(torch.sigmoid(X / 3).unsqueeze(-1).expand(ROWS, ITEMS), generator=drawn(5))
WORDS = torch.randint(0, 5, (ROWS,), generator=drawn(6))
POINTS = torch.randn(ROWS, 2, generator=drawn(7)).double() + torch.stack((GROUP, 3.0 * HALF), -1)


def start(*shape: int, seed: int = 8) -> Tensor:
    """Values to start from."""
    return torch.rand(shape, generator=drawn(seed)).double() + 0.5


def halves() -> Tensor:
    """A latent of two states."""
    return pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6]).double()))  # type: ignore[no-any-return]


def means(x: Tensor, group: Tensor) -> None:
    """Every state has a mean for each group."""
    loc, scale = pyro.param("loc", start(2, GROUPS)), pyro.param("scale", start(2), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = halves()
        pyro.sample("x", dist.Normal(loc[z, group], scale[z]), obs=x)


def no_latents(x: Tensor, group: Tensor) -> None:
    """Groups alone, with a prior."""
    with pyro.plate("groups", GROUPS):
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        scale = pyro.param("scale", start(GROUPS), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc[group], scale[group]), obs=x)


def two_lookups(x: Tensor, group: Tensor) -> None:
    """Means by one group, scales by another."""
    loc = pyro.param("loc", start(2, GROUPS))
    scale = pyro.param("scale", start(2, 2), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = halves()
        pyro.sample("x", dist.Normal(loc[z, group], scale[OTHER[: len(x)], z]), obs=x)


def table(x: Tensor, group: Tensor) -> None:
    """A table of two groups, and masked rows that count twice."""
    loc = pyro.param("loc", start(GROUPS, 2, 2))
    with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=x < 4), pyro.poutine.scale(scale=2.0):
        z = halves()
        pyro.sample("x", dist.Normal(loc[group, OTHER[: len(x)], z], 1.0), obs=x)


def exposures(x: Tensor, group: Tensor) -> None:
    """Counts with a rate for each group and state."""
    rate = pyro.param("rate", start(2, GROUPS), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = halves()
        pyro.sample("n", dist.Poisson(rate[z, group] * EXPOSURE[: len(x)]), obs=COUNTS[: len(x)])


def items(x: Tensor, group: Tensor) -> None:
    """Answers to items, whose difficulty differs between groups."""
    probs = pyro.param("probs", start(2, GROUPS, ITEMS) / 2, constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        z = halves()
        pyro.sample("y", dist.Bernoulli(probs[z, group]).to_event(1), obs=ANSWERS[: len(x)])


def words(x: Tensor, group: Tensor) -> None:
    """Words by group."""
    topics = pyro.param("topics", torch.softmax(start(2, GROUPS, 5), -1), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = halves()
        pyro.sample("w", dist.Categorical(topics[z, group]), obs=WORDS[: len(x)])


def vectors(x: Tensor, group: Tensor) -> None:
    """Vectors, with a covariance for each state."""
    loc = pyro.param("loc", start(2, GROUPS, 2))
    tril = pyro.param("tril", torch.eye(2).double().repeat(2, 1, 1), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        z = halves()
        pyro.sample("x", dist.MultivariateNormal(loc[z, group], scale_tril=tril[z]), obs=POINTS[: len(x)])


def latent_by_group(x: Tensor, group: Tensor) -> None:
    """Weights of the states by group."""
    weights = pyro.param("weights", torch.softmax(start(GROUPS, 2), -1), constraint=constraints.simplex)
    loc = pyro.param("loc", start(2))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights[group]))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


Model = Callable[[Tensor, Tensor], None]
MODELS: tuple[Model, ...] = (
    means, no_latents, two_lookups, table, exposures, items, words, vectors, latent_by_group,
)  # fmt: skip


def steps(model: Model, **options: Any) -> Any:
    """Take three plain steps."""
    pyro.clear_param_store()
    return EM(model, tol=0, max_steps=3, acceleration=None, collapse=False, **options)


@pytest.mark.parametrize("model", MODELS)
def test_groups_are_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths and parameters, with a cell for each group and for each row."""
    by_group = steps(model).fit(X, GROUP)
    monkeypatch.setattr(groups, "LEAST", float(ROWS))
    by_row = steps(model).fit(X, GROUP)
    assert max(abs(a - b) / (1 + abs(b)) for a, b in zip(by_group.path, by_row.path, strict=True)) < IDENTITY
    assert farthest(by_group.params, by_row.params) < IDENTITY
    assert distance(by_group.posterior.log_evidence, by_row.posterior.log_evidence) < IDENTITY


LAWS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "Laplace": dist.Laplace,
    "Gumbel": dist.Gumbel,
    "StudentT": lambda a, b: dist.StudentT(4.0, a, b),
    "Weibull": dist.Weibull,
    "GammaPoisson": dist.GammaPoisson,
    "BetaBinomial": lambda a, b: dist.BetaBinomial(a, b, 30),
}


@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("law", LAWS)
def test_rows_that_are_kept_as_they_are_have_groups_too(law: str, states: int) -> None:
    """Families without finite sufficient statistics: the fit of all groups is that of each by itself."""

    def model(x: Tensor, group: Tensor) -> None:
        a = pyro.param("a", start(states, GROUPS), constraint=constraints.positive)
        b = pyro.param("b", start(states, GROUPS, seed=9), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = 0 if states == 1 else halves()
            pyro.sample("x", LAWS[law](a[z, group], b[z, group]), obs=x)

    x = (1 + COUNTS if law in ("GammaPoisson", "BetaBinomial") else 0.1 + X.abs()).double()
    assert "another density" not in str(EM(model).plan(x, GROUP))
    if states == 1 and law in ("Weibull", "GammaPoisson"):
        together, apart = EM(model).fit(x, GROUP).log_likelihood, 0.0
        for k in range(GROUPS):
            pyro.clear_param_store()
            apart += EM(model).fit(x[k == GROUP], GROUP[k == GROUP]).log_likelihood
        assert abs(together - apart) <= SOLVERS * (1 + abs(apart))
