"""A positive slope that the data want negative goes to zero, and where it multiplies, its location to infinity."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

N = 60
X = torch.linspace(-2.0, 2.0, N, dtype=torch.float64)
NOISE = torch.randn(N, generator=torch.Generator().manual_seed(2)).double()
LAWS: dict[str, Callable[[Tensor], Any]] = {
    "Normal": lambda eta: dist.Normal(eta, 1.0),
    "Poisson": lambda eta: dist.Poisson(eta.exp()),
    "Bernoulli": lambda eta: dist.Bernoulli(logits=eta),
}


def data(law: str, sign: float) -> Tensor:
    """Values that go up or down with the covariate."""
    eta = 0.7 + sign * 0.6 * X + 0.5 * NOISE
    return {"Normal": eta, "Poisson": eta.exp().round(), "Bernoulli": (eta + NOISE > 0.7).double()}[law]


def difference(y: Tensor, law: str) -> None:
    """The location is multiplied by the slope, as an item's difficulty is by its discrimination."""
    a = pyro.param("a", tensor(0.5).double(), constraint=constraints.positive)
    b = pyro.param("b", tensor(-0.5).double())
    with pyro.plate("rows", N):
        pyro.sample("y", LAWS[law](a * (X - b)), obs=y)


def sum_of_both(y: Tensor, law: str) -> None:
    """The location stands by itself."""
    a = pyro.param("a", tensor(0.5).double(), constraint=constraints.positive)
    b = pyro.param("b", tensor(-0.5).double())
    with pyro.plate("rows", N):
        pyro.sample("y", LAWS[law](a * X + b), obs=y)


def constant(y: Tensor, law: str) -> float:
    """The log-likelihood without a covariate."""
    mean = y.mean()
    eta = {"Normal": mean, "Poisson": mean.log(), "Bernoulli": torch.logit(mean)}[law]
    return float(LAWS[law](eta.expand(N)).log_prob(y).sum())


@pytest.mark.parametrize("model", [difference, sum_of_both])
@pytest.mark.parametrize("law", LAWS)
def test_a_slope_of_the_wrong_sign(law: str, model: Callable[..., None]) -> None:
    """What is left is a constant: the slope runs to zero, and so its location to where it multiplies to that."""
    y = data(law, -1.0)
    fit = EM(model, tol=1e-6, max_steps=200).fit(y, law)
    assert abs(fit.log_likelihood - constant(y, law)) < 1e3 * SOLVERS * (1 + abs(fit.log_likelihood))
    notes = " ".join(fit.notes)
    assert 'to zero: "a"' in notes
    assert ("infinity" in notes) == (model is difference)


@pytest.mark.parametrize("model", [difference, sum_of_both])
@pytest.mark.parametrize("law", LAWS)
def test_a_slope_of_the_right_sign(law: str, model: Callable[..., None]) -> None:
    """It stays, and nothing is said."""
    fit = EM(model).fit(data(law, 1.0), law)
    assert fit.converged
    assert not fit.notes


def test_an_item_that_goes_the_other_way() -> None:
    """Of four items one is answered the worse, the abler a person is: that one is named, and no other."""
    generator, signs = torch.Generator().manual_seed(3), tensor([1.0, 1.2, -0.6, 0.8])
    ability = torch.randn(120, 1, generator=generator)
    answers = (torch.rand(120, 4, generator=generator) < torch.sigmoid(signs * ability - 0.2)).double()
    grid = torch.linspace(-3.0, 3.0, 7).double()
    weights = (-grid.square() / 2).softmax(-1)

    def model(y: Tensor) -> None:
        a = pyro.param("a", torch.ones(4).double(), constraint=constraints.positive)
        b = pyro.param("b", torch.zeros(4).double())
        with pyro.plate("persons", len(y)):
            theta = grid[pyro.sample("theta", dist.Categorical(weights))].unsqueeze(-1)
            pyro.sample("y", dist.Bernoulli(logits=a * (theta - b)).to_event(1), obs=y)

    notes = [note for note in EM(model, tol=1e-6).fit(answers).notes if note.startswith("runs to")]
    assert len(notes) == 2
    assert all('"a"[2];' in note or '"b"[2];' in note for note in notes)


@pytest.mark.parametrize("far", [1e8, 1e52])
def test_concentrations_that_have_come_far(far: float) -> None:
    """Rows next to the multinomial law: it is said at 1e52 as at 1e8, from where forty logarithms back lead nowhere."""
    x = tensor([[4.0, 6.0, 10.0], [3.0, 7.0, 10.0], [4.0, 5.0, 11.0], [5.0, 6.0, 9.0]]).double()

    def model(x: Tensor) -> None:
        a = pyro.param("a", far * tensor([0.2, 0.3, 0.5]).double(), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.DirichletMultinomial(a, total_count=20), obs=x)

    assert any(note.startswith('runs to infinity: "a"[0], "a"[1], "a"[2];') for note in EM(model).fit(x).notes)
