"""What stands around a prior: masks, flat and joint ones."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.m_steps import how, why
from oracles.tolerances import SOLVERS
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

N = 24
COVARIANCE = tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)


def real(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normals."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.2).double()


# ---- masks -----------------------------------------------------------------------------------------------------------


def chain(y: Tensor, mask: Any, inner: Any = None) -> None:
    """A chain of two states, with masks around the priors of its tables, or within them."""
    own = (lambda fn: fn) if inner is None else (lambda fn: fn.mask(inner))
    with poutine.mask(mask=mask):
        move = pyro.sample("move", own(dist.Dirichlet(tensor([[3.0, 1.5], [1.2, 4.0]])).to_event(1)))
        p = pyro.sample("p", own(dist.Beta(tensor([2.0, 4.0]), 3.0).to_event(1)))
    z: Any = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(move[z]))
        pyro.sample(f"y{t}", dist.Bernoulli(p[z]), obs=y[t])


def likelihood(y: Tensor) -> None:
    """The same chain without priors."""
    move = pyro.param("move", tensor([[0.7, 0.3], [0.2, 0.8]]), constraint=constraints.simplex)
    p = pyro.param("p", tensor([0.3, 0.6]), constraint=constraints.unit_interval)
    z: Any = 0
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(move[z]))
        pyro.sample(f"y{t}", dist.Bernoulli(p[z]), obs=y[t])


START = {"move": tensor([[0.7, 0.3], [0.2, 0.8]]), "p": tensor([0.3, 0.6])}


@pytest.mark.parametrize("mask", [True, tensor(data=True)])
@pytest.mark.parametrize("inner", [False, True])
def test_a_mask_of_true_changes_nothing(mask: Any, inner: bool) -> None:  # noqa: FBT001
    """Around the statement and on the distribution: the closed form, the path and the prior's name are the same."""
    y, masks = bits()[:5], (True, mask) if inner else (mask, None)
    options: dict[str, Any] = {"starts": START, "max_steps": 4}
    assert set(how(chain, y, *masks).values()) == {"closed form"}
    assert "Dirichlet prior" in why(chain, "move", y, *masks)
    want = EM(chain, **options).fit(y, True)  # noqa: FBT003
    close(EM(chain, **options).fit(y, *masks).path, want.path, SOLVERS)


@pytest.mark.parametrize("mask", [False, tensor(data=False)])
@pytest.mark.parametrize("inner", [False, True])
def test_a_mask_of_false_drops_the_prior(mask: Any, inner: bool) -> None:  # noqa: FBT001
    """What is left is the likelihood, and its closed form."""
    y, masks = bits()[:5], (True, mask) if inner else (mask, None)
    assert set(how(chain, y, *masks).values()) == {"closed form"}
    options: dict[str, Any] = {"starts": START, "max_steps": 4}
    got = EM(chain, **options).fit(y, *masks)
    want = EM(likelihood, max_steps=4).fit(y)
    close(got.path, want.path, 1e-6)
    close(got.objective, got.log_likelihood, SOLVERS)


def test_a_mask_by_entries_of_a_prior() -> None:
    """Pseudo-counts where it is true; the objective is the evidence and what is left of the prior."""
    mask = tensor([True, False])

    def model(x: Tensor) -> None:
        with pyro.plate("two", 2), poutine.mask(mask=mask):
            p = pyro.sample("p", dist.Beta(3.0, 5.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Bernoulli(p[torch.arange(len(x)) % 2]), obs=x)

    x = bits()
    fit = EM(model).fit(x)
    assert how(model, x) == {"p": "closed form"}
    hits, half = tensor([x[::2].sum(), x[1::2].sum()]), N / 2
    close(fit.params["p"], tensor([(hits[0] + 2) / (half + 6), hits[1] / half]), SOLVERS)
    close(fit.objective - fit.log_likelihood, float(dist.Beta(3.0, 5.0).log_prob(fit.params["p"][0])), 1e-6)


@pytest.mark.parametrize("kind", ["scale", "location", "coefficients"])
def test_dropped_priors_leave_every_closed_form(kind: str) -> None:
    """One that was never conjugate, one of a location, one of a regression by Newton's method."""

    def model(x: Tensor) -> None:
        if kind == "scale":
            s = pyro.sample("s", dist.HalfCauchy(1.0).mask(False))  # noqa: FBT003
            law: Any = dist.Normal(0.0, s)
        elif kind == "location":
            law = dist.Normal(pyro.sample("s", dist.Laplace(0.0, 1.0).mask(False)), 1.0)  # noqa: FBT003
        else:
            s = pyro.sample("s", dist.Normal(0.0, 1.0).expand([2]).to_event(1).mask(False))  # noqa: FBT003
            law = dist.Bernoulli(logits=s[0] + s[1] * torch.linspace(-1.0, 1.0, len(x)))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", law, obs=x)

    x = bits() if kind == "coefficients" else real(N)
    assert how(model, x) == {"s": "Newton" if kind == "coefficients" else "closed form"}
    fit = EM(model).fit(x)
    close(fit.objective, fit.log_likelihood, SOLVERS)


# ---- flat and joint priors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [False, True])
def test_a_uniform_prior_on_all_that_a_probability_may_be(event: bool) -> None:  # noqa: FBT001
    """It is a constant; within other bounds the maximum may lie on them, and torch looks for it."""

    def model(x: Tensor, low: float, high: float) -> None:
        if event:
            p = pyro.sample("p", dist.Uniform(low, high).expand([2]).to_event(1))
        else:
            with pyro.plate("states", 2):
                p = pyro.sample("p", dist.Uniform(low, high))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample("x", dist.Binomial(9, p[z]), obs=x)

    x = (real(N).abs() * 3).floor().clamp(max=9)
    assert how(model, x, 0.0, 1.0) == {"p": "closed form"}
    assert "Uniform prior is constant" in why(model, "p", x, 0.0, 1.0)
    assert how(model, x, 0.1, 1.0) == {"p": "torch"}
    fit = EM(model).fit(x, 0.0, 1.0)
    close(fit.objective, fit.log_likelihood, SOLVERS)


def test_the_name_of_a_prior_under_to_event() -> None:
    """The plan names the distribution, not what wraps it."""
    assert "with its Dirichlet prior" in why(chain, "move", bits()[:4], True)  # noqa: FBT003


def rows(x: Tensor, prior: Callable[[], Any], law: Callable[[Tensor], Any]) -> None:
    """Two components whose means have a prior, row by row."""
    with pyro.plate("components", 2):
        m = pyro.sample("m", prior())
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
        pyro.sample("x", law(m[z]), obs=x)


def one(x: Tensor, prior: Callable[[], Any], law: Callable[[Tensor], Any]) -> None:
    """Two numbers, or two coefficients, with one prior."""
    m = pyro.sample("m", prior())
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
        pyro.sample("x", law(m[z]), obs=x)


def lines(x: Tensor, prior: Callable[[], Any], law: Callable[[Tensor], Any]) -> None:
    """A regression whose coefficients have one prior."""
    m = pyro.sample("m", prior())
    design = torch.stack([torch.ones(len(x)).double(), torch.linspace(-1.0, 1.0, len(x)).double()], -1)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", law(design @ m), obs=x)


def joint() -> Any:
    """Correlated normals."""
    return dist.MultivariateNormal(tensor([1.0, -1.0], dtype=torch.float64), COVARIANCE)


JOINT: dict[str, tuple[Any, Any, Any, tuple[int, ...]]] = {
    "vectors": (rows, joint, lambda m: dist.MultivariateNormal(m, COVARIANCE.inverse()), (N, 2)),
    "vectors, given the precision": (
        rows, lambda: dist.MultivariateNormal(tensor([0.5, 2.0]).double(), precision_matrix=COVARIANCE),
        lambda m: dist.MultivariateNormal(m, COVARIANCE), (N, 2),
    ),
    "vectors, independent": (
        rows, lambda: dist.Normal(tensor([1.0, -1.0]).double(), 0.5).to_event(1),
        lambda m: dist.MultivariateNormal(m, COVARIANCE), (N, 2),
    ),
    "coordinates": (rows, joint, lambda m: dist.Normal(m, 0.7).to_event(1), (N, 2)),
    "numbers": (one, joint, lambda m: dist.Normal(m, 0.7), (N,)),
    "coefficients": (lines, joint, lambda m: dist.Normal(m, 0.7), (N,)),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_normal_prior_of_a_mean(name: str) -> None:
    """Its precision matrix enters the equations of all coordinates; torch finds the same maximum."""
    model, prior, law, shape = JOINT[name]
    x, start = 2 * real(*shape), {"m": tensor([0.3, -0.4]).double()}
    if model is rows:
        start = {"m": tensor([[0.3, -0.4], [1.0, 0.2]]).double()}
    assert how(model, x, prior, law) == {"m": "closed form"}
    options: dict[str, Any] = {"starts": start, "max_steps": 1, "tol": 0}
    closed = EM(model, **options).fit(x, prior, law)
    solved = EM(model, m_step={"m": "torch"}, **options).fit(x, prior, law)
    close(closed.params["m"], solved.params["m"], 1e-6)


def test_a_joint_prior_beside_a_free_covariance() -> None:
    """Mean and covariance are alternated, and nothing falls."""

    def model(x: Tensor) -> None:
        L = pyro.param("L", torch.eye(2).double(), constraint=constraints.lower_cholesky)
        m = pyro.sample("m", joint())
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.MultivariateNormal(m, scale_tril=L), obs=x)

    x = 2 * real(N, 2)
    assert how(model, x) == {"L": "swept", "m": "swept"}
    fit = EM(model).fit(x)
    assert fit.converged
    deviation = x - fit.params["m"]
    L = fit.params["L"]
    close(L @ L.mT, deviation.mT @ deviation / N, 1e-6)
