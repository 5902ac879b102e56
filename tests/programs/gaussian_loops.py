"""Loops with a Gaussian latent a step, as they are written; every one takes the series `y`."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints


def series(steps: int) -> Tensor:
    """A series of numbers."""
    return torch.randn(steps, generator=torch.Generator().manual_seed(steps)).cumsum(0)


def _scale(name: str, value: float) -> Tensor:
    return pyro.param(name, tensor(value), constraint=constraints.positive)


def level(y: Tensor) -> None:
    """A local level, some steps of which are not seen."""
    eta, eps, z = _scale("eta", 0.8), _scale("eps", 0.6), tensor(0.0)
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Normal(z, eta if t else 2.0))
        pyro.sample(f"y_{t}", dist.Normal(z, eps).mask(torch.tensor(t % 4 != 2)), obs=y[t])


def second_order(y: Tensor) -> None:
    """Two lags, with noise whose scale is known and alternates."""
    phi, s, z = pyro.param("phi", tensor([0.5, 0.2])), _scale("s", 0.8), list[Tensor]()
    for t in range(len(y)):
        loc = phi[0] * z[-1] + phi[1] * z[-2] if t > 1 else tensor(0.0)
        z.append(pyro.sample(f"z_{t}", dist.Normal(loc, s if t > 1 else 2.0)))
        pyro.sample(f"y_{t}", dist.Normal(z[t], (0.3, 0.7)[t % 2]), obs=y[t])


def sums(y: Tensor) -> None:
    """What is seen is the sum of a state and the one before."""
    eta, z = _scale("eta", 0.8), list[Tensor]()
    for t in range(len(y)):
        z.append(pyro.sample(f"z_{t}", dist.Normal(z[-1] if t else tensor(0.0), eta)))
        pyro.sample(f"y_{t}", dist.Normal(z[t] + (z[t - 1] if t else 0.0), 0.5), obs=y[t])


def panel(y: Tensor) -> None:
    """A vector of two states a step, of which three units each have their own, and each is not seen now and then."""
    F, q, r = pyro.param("F", tensor([[0.8, 0.1], [0.0, 0.6]])), _scale("q", 0.7), _scale("r", 0.4)
    with pyro.plate("units", 3):
        z = torch.zeros(3, 2)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Normal(z @ F.mT, q).to_event(1))
            seen = (torch.arange(3) + t) % 5 != 0
            pyro.sample(f"y_{t}", dist.Normal(z[..., 0], r).mask(seen), obs=y[t] + torch.arange(3.0))


def weighted(y: Tensor) -> None:
    """A local level that is there twice."""
    eta, z = _scale("eta", 0.8), tensor(0.0)
    with pyro.poutine.scale(scale=torch.tensor(2.0)):
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Normal(z, eta))
            pyro.sample(f"y_{t}", dist.Normal(z, 0.5), obs=y[t])


def accumulated(y: Tensor) -> None:
    """An ARMA(1, 1) written out: every step is a sum of all innovations before, by powers of `phi`."""
    phi, theta, s = pyro.param("phi", tensor(0.5)), pyro.param("theta", tensor(0.1)), _scale("s", 0.9)
    e = [pyro.sample(f"e_{t}", dist.Normal(0.0, s)) for t in range(len(y))]
    x = e[0]
    for t in range(len(y)):
        x = phi * x + e[t] + theta * e[t - 1] if t else x
        pyro.sample(f"y_{t}", dist.Normal(x, 0.3), obs=y[t])


def companion(y: Tensor) -> None:
    """A level and four seasons, moved by a matrix: disturbances come and go in turns, and add up to nothing."""
    walk, season, first = _scale("walk", 0.5), _scale("season", 0.3), pyro.param("first", tensor([0.4, -0.3, 0.2]))
    moves, level, state = tensor([[-1.0, -1.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), tensor(0.0), first
    for t in pyro.markov(range(len(y))):
        level = pyro.sample(f"z_{t}", dist.Normal(level, walk))
        new = pyro.sample(f"e_{t}", dist.Normal(0.0, season))
        state = moves @ state + torch.stack([new, tensor(0.0), tensor(0.0)])
        pyro.sample(f"y_{t}", dist.Normal(level + state[0], 0.4), obs=y[t])


LOOPS: dict[str, Callable[[Tensor], None]] = {
    "level": level,
    "second order": second_order,
    "sums": sums,
    "panel": panel,
    "weighted": weighted,
    "accumulated": accumulated,
    "companion": companion,
}
