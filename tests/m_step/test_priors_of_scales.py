"""Priors of precisions and variances that are conjugate to a scale: what they add to its weight and its scatter."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY, SOLVERS
from pyro import poutine
from torch import Tensor, tensor

from em_pyro import EM

N, K = 60, 2


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = real(N) + torch.arange(N) % 2 * 3.0
PAIRS = real(N, 2, seed=1) + (torch.arange(N) % 2 * 3.0).unsqueeze(-1)
GROUPS = real(9, 3, seed=2) + real(9, 1, seed=3)

Prior = Callable[[], Any]
Root = Callable[[Tensor], Tensor]

PRIORS: dict[str, tuple[Prior, Root]] = {
    "a precision": (lambda: dist.Gamma(tensor([0.5, 3.0]), 2.0), torch.rsqrt),
    "an exponential precision": (lambda: dist.Exponential(tensor([0.5, 3.0])), lambda tau: 1 / tau.sqrt()),
    "a variance": (lambda: dist.InverseGamma(tensor([0.5, 3.0]), 2.0), torch.sqrt),
}


def mixture(prior: Prior, root: Root) -> Callable[[Tensor], None]:
    """Clusters whose scales are a known multiple of the root."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 2.0]))
        spread = pyro.sample("spread", prior().to_event(1))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
            pyro.sample("x", dist.Normal(loc[z], 1.5 * root(spread[z])), obs=x)

    return model


def chain(prior: Prior, root: Root) -> Callable[[Tensor], None]:
    """The same along a chain, with every second prior counted twice."""

    def model(x: Tensor) -> None:
        loc, z = pyro.param("loc", tensor([0.0, 2.0])), 0
        with poutine.scale(scale=2.0):
            spread = pyro.sample("spread", prior().to_event(1))
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z{t}", dist.Categorical(tensor([[0.8, 0.2], [0.3, 0.7]])[z]))
            pyro.sample(f"x{t}", dist.Normal(loc[z], root(spread[z])), obs=x[t])

    return model


def intercepts(prior: Prior, root: Root) -> Callable[[Tensor], None]:
    """The scale of an intercept that is integrated, and that of what is observed."""

    def model(y: Tensor) -> None:
        mean, spread = pyro.param("mean", tensor(0.0)), pyro.sample("spread", prior().to_event(1))
        with pyro.plate("groups", len(y), dim=-2):
            b = pyro.sample("b", dist.Normal(0.0, root(spread[0])))
            with pyro.plate("in group", y.shape[1], dim=-1):
                pyro.sample("y", dist.Normal(mean + b, root(spread[1])), obs=y)

    return model


PROGRAMS: dict[str, tuple[Any, Tensor]] = {
    "a mixture": (mixture, X),
    "a chain": (chain, X[:7]),
    "intercepts": (intercepts, GROUPS),
}


def fitted(model: Any, x: Tensor, **options: Any) -> Any:
    """A fit from the start of the program."""
    pyro.clear_param_store()
    return EM(model, tol=1e-12, **options).fit(x)


@pytest.mark.parametrize("density", ["constrained", "unconstrained"])
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", PRIORS)
def test_closed_forms_are_what_torch_climbs_to(name: str, program: str, density: str) -> None:
    """In either density."""
    build, x = PROGRAMS[program]
    model = build(*PRIORS[name])
    assert EM(model, prior_density=density).plan(x)["spread"].how == "closed form"
    ours = fitted(model, x, prior_density=density)
    other = fitted(model, x, prior_density=density, m_step={"spread": "torch"})
    assert ours.outcome == other.outcome == "converged"
    assert abs(ours.objective - other.objective) < SOLVERS * abs(other.objective)
    close(ours.params["spread"], other.params["spread"], 1e-4)


def test_a_precision_by_hand() -> None:
    """`tau = (a - 1 + n / 2) / (b + S / 2)`, around a known mean."""

    def model(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(tensor(3.0), 2.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(1.0, tau.rsqrt()), obs=x)

    close(fitted(model, X).params["tau"], (2 + N / 2) / (2 + ((X - 1) ** 2).sum() / 2), IDENTITY)


@pytest.mark.parametrize("shape", [0.2, 0.5])
def test_a_shape_that_the_rows_do_not_outweigh(shape: float) -> None:
    """`a - 1 + n / 2` is not above zero: the density has no bound at zero, and a mode in unconstrained coordinates."""

    def model(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(tensor([3.0, shape]), 2.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(0.0, tau[(torch.arange(len(x)) > 0).long()].rsqrt()), obs=x)

    fit = fitted(model, X[:2])
    assert fit.outcome == "prior unbounded"
    assert 'site "tau", entry (1,)' in str(fit)
    assert fitted(model, X[:2], prior_density="unconstrained").outcome == "converged"


def matrices(x: Tensor) -> None:
    """Precision matrices of two clusters."""
    loc = pyro.param("loc", tensor([[0.0, 0.0], [3.0, 3.0]]))
    with pyro.plate("clusters", K):
        precision = pyro.sample("precision", dist.Wishart(tensor(5.0), tensor([[0.7, 0.2], [0.2, 0.5]])))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(K) / K))
        pyro.sample("x", dist.MultivariateNormal(loc[z], precision_matrix=precision[z]), obs=x)


def test_precision_matrices() -> None:
    """A Wishart adds to weight and scatter; its volume in unconstrained coordinates is of no such form."""
    assert EM(matrices).plan(PAIRS)["precision"].how == "closed form"
    ours, other = (fitted(matrices, PAIRS, m_step=m_step) for m_step in (None, {"precision": "torch"}))
    assert abs(ours.objective - other.objective) < SOLVERS * abs(other.objective)
    close(ours.params["precision"], other.params["precision"], 1e-4)
    assert EM(matrices, prior_density="unconstrained").plan(PAIRS)["precision"].how == "torch"


OTHERS: dict[str, tuple[Prior, Root]] = {
    "a scale that has the prior itself": (lambda: dist.Gamma(tensor([2.0, 3.0]), 2.0), lambda scale: scale),
    "a variance that is no inverse Gamma": (lambda: dist.Gamma(tensor([2.0, 3.0]), 2.0), torch.sqrt),
    "a precision that is no Gamma": (lambda: dist.InverseGamma(tensor([2.0, 3.0]), 2.0), torch.rsqrt),
    "a logarithm that is normal": (lambda: dist.LogNormal(tensor([0.0, 0.1]), 1.0), torch.sqrt),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_conjugate_is_climbed(name: str) -> None:
    """And the plan says so."""
    line = EM(mixture(*OTHERS[name])).plan(X)["spread"]
    assert line.how == "torch"
    assert "is not conjugate to Normal" in line.why


def test_two_uses_that_differ() -> None:
    """A precision that is also a rate has no closed form."""

    def model(x: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(tensor(3.0), 2.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(1.0, tau.rsqrt()), obs=x)
            pyro.sample("n", dist.Poisson(tau), obs=torch.ones(len(x)))

    assert EM(model).plan(X)["tau"].how == "torch"
