"""A point mass that is not observed is what it is computed from, wherever it stands: `pyro.deterministic` by hand."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError, Plan

X = torch.cat([torch.linspace(-3.0, -1.0, 6), torch.linspace(1.0, 3.0, 6)]).double()

State = Callable[[str, Tensor], Tensor]


def delta(name: str, value: Tensor, event_dim: int = 0) -> Tensor:
    """As a user may write it."""
    found: Tensor = pyro.sample(name, dist.Delta(value, event_dim=event_dim))
    return found


def deterministic(name: str, value: Tensor, event_dim: int = 0) -> Tensor:
    """As Pyro has it."""
    found: Tensor = pyro.deterministic(name, value, event_dim=event_dim)
    return found


def parameters() -> tuple[Tensor, Tensor]:
    """Shares and locations."""
    weights = pyro.param("weights", tensor([0.4, 0.6], dtype=torch.float64), constraint=constraints.simplex)
    return weights, pyro.param("loc", tensor([-1.0, 1.0], dtype=torch.float64))


def outside(state: Callable[..., Tensor]) -> None:
    """Of parameters."""
    weights, loc = parameters()
    twice = state("twice", 2 * loc, event_dim=1)
    with pyro.plate("rows", 12):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(twice[z], 1.0), obs=X)


def inside(state: Callable[..., Tensor]) -> None:
    """Of a latent, in a plate."""
    weights, loc = parameters()
    with pyro.plate("rows", 12):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(state("mean", loc[z]), 1.0), obs=X)


def two_plates(state: Callable[..., Tensor]) -> None:
    """The same in two, with a known number beside it."""
    weights, loc = parameters()
    factor = state("factor", tensor(2.0, dtype=torch.float64))
    with pyro.plate("rows", 6, dim=-1):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("times", 2, dim=-2):
            pyro.sample("x", dist.Normal(state("mean", factor * loc[z]), 1.0), obs=X.reshape(2, 6))


def chain(state: Callable[..., Tensor]) -> None:
    """In a loop."""
    weights, loc = parameters()
    stay, z = tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64), None
    for t in pyro.markov(range(12)):
        z = pyro.sample(f"z_{t}", dist.Categorical(weights if z is None else stay[z]))
        pyro.sample(f"x_{t}", dist.Normal(state(f"mean_{t}", loc[z]), 1.0), obs=X[t])


def gaussian(state: Callable[..., Tensor]) -> None:
    """Of a latent that is integrated."""
    _, loc = parameters()
    with pyro.plate("rows", 12):
        u = pyro.sample("u", dist.Normal(loc[0], 1.0))
        pyro.sample("x", dist.Normal(state("mean", 0.5 * u + loc[1]), 1.0), obs=X)


def hows(plan: Plan) -> list[str]:
    """How every parameter is maximised."""
    return [line.how for line in plan.lines.values()]


@pytest.mark.parametrize("model", [outside, inside, two_plates, chain, gaussian], ids=lambda model: model.__name__)
def test_it_is_deterministic(model: Callable[[Callable[..., Tensor]], None]) -> None:
    """The plan is the same, and so is the fit."""
    assert hows(EM(model).plan(delta)) == hows(EM(model).plan(deterministic))
    fits = []
    for state in (delta, deterministic):
        pyro.clear_param_store()
        fits.append(EM(model).fit(state))
    one, other = fits
    assert one.outcome == other.outcome == "converged"
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=IDENTITY)
    assert one.params.keys() == other.params.keys() == {"weights", "loc"} & one.params.keys()
    torch.testing.assert_close(one.params["loc"], other.params["loc"], rtol=IDENTITY, atol=IDENTITY)


def test_a_point_with_a_density_is_refused() -> None:
    """Its number is no value of a deterministic statement."""

    def model() -> None:
        weights, loc = parameters()
        with pyro.plate("rows", 12):
            z = pyro.sample("z", dist.Categorical(weights))
            mean = pyro.sample("mean", dist.Delta(loc[z], log_density=torch.ones(12)))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=X)

    with pytest.raises(ModelError, match='Site "mean"'):
        EM(model).plan()
