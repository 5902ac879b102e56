"""Masks: missing observations, padded sequences, partly labelled latents."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _points() -> Tensor:
    return tensor([-1.3, 0.2, 2.9, 3.4])


def _weights() -> Tensor:
    return pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)


def _loc() -> Tensor:
    return pyro.param("loc", tensor([-0.4, 2.3]))


def _chain() -> tuple[Tensor, Tensor, Tensor]:
    initial = pyro.param("initial", tensor([0.35, 0.65]), constraint=constraints.simplex)
    transition = pyro.param("transition", tensor([[0.8, 0.2], [0.4, 0.6]]), constraint=constraints.simplex)
    return initial, transition, _loc()


@program(lambda: (_points(), torch.tensor([True, False, True, True])))
def missing_observations(x: Tensor, seen: Tensor) -> None:
    """Mask the distribution of what was not seen: `fn.mask`."""
    weights, loc = _weights(), _loc()
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0).mask(seen), obs=x)
        pyro.sample("x_squared", dist.Normal(loc[z] ** 2, 2.0), obs=x**2)


@program(lambda: (_points(), torch.tensor([True, False, True, True])))
def masked_rows(x: Tensor, seen: Tensor) -> None:
    """Mask latent and observation of a row by one `poutine.mask`."""
    weights, loc = _weights(), _loc()
    with pyro.plate("row", len(x)), poutine.mask(mask=seen):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(lambda: (_points(),))
def everything_masked_at_one_site(x: Tensor) -> None:
    """Switch one site off by the Python value False."""
    weights, loc = _weights(), _loc()
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
        with poutine.mask(mask=False):
            pyro.sample("again", dist.Normal(loc[z], 2.0), obs=x)


@program(lambda: (torch.stack([_points(), _points() ** 2], -1), torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0]]).bool()))
def missing_cells(x: Tensor, seen: Tensor) -> None:
    """Miss cells of an event: the mask lies under `.to_event(1)`."""
    weights = _weights()
    loc = pyro.param("loc", tensor([[-0.4, 0.9], [2.3, 6.1]]))
    scale = pyro.param("scale", tensor([0.8, 2.1]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale).mask(seen).to_event(1), obs=x)


@program(lambda: (tensor([[-0.7, 0.4, 2.6], [1.9, 0.0, 0.0], [2.2, 0.1, 0.0]]), torch.tensor([3, 1, 2])))
def padded_chains(y: Tensor, lengths: Tensor) -> None:
    """Pad sequences of unequal length and mask latent and observation beyond the end."""
    initial, transition, loc = _chain()
    x = torch.tensor(0)
    with pyro.plate("sequence", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            with poutine.mask(mask=t < lengths):
                x = pyro.sample(f"x_{t}", dist.Categorical(transition[x] if t else initial))
                pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[:, t])


@program(lambda: (tensor([-0.7, 0.4, 2.6, 1.9]), torch.tensor([True, False, True, False])))
def gap_in_chain(y: Tensor, seen: Tensor) -> None:
    """Mask latent and observation in mid-chain: the state goes on unobserved."""
    initial, transition, loc = _chain()
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        with poutine.mask(mask=seen[t]):
            x = pyro.sample(f"x_{t}", dist.Categorical(transition[x] if t else initial))
            pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(lambda: (_points(), torch.tensor([0, 1, 0, 1]), torch.tensor([True, False, False, True])))
def partly_labelled(x: Tensor, label: Tensor, known: Tensor) -> None:
    """Observe some labels: `obs_mask` on the latent itself."""
    weights, loc = _weights(), _loc()
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights), obs=label, obs_mask=known)
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(lambda: (tensor([-0.7, 0.4, 2.6]), torch.tensor([0, 1, 0]), torch.tensor([False, True, False])))
def partly_labelled_chain(y: Tensor, label: Tensor, known: Tensor) -> None:
    """Observe the state at some steps of a chain."""
    initial, transition, loc = _chain()
    x = torch.tensor(0)
    for t in pyro.markov(range(len(y))):
        probs = transition[x] if t else initial
        x = pyro.sample(f"x_{t}", dist.Categorical(probs), obs=label[t], obs_mask=known[t])
        pyro.sample(f"y_{t}", dist.Normal(loc[x], 1.0), obs=y[t])


@program(lambda: (_points(), torch.tensor([1.0, 0.0, 1.0, 1.0])))
def mask_by_latent(x: Tensor, y: Tensor) -> None:
    """Let the latent decide whether an observation counts: a mask that is itself enumerated."""
    gate = pyro.param("gate", tensor(0.3), constraint=constraints.unit_interval)
    p = pyro.param("p", tensor(0.8), constraint=constraints.unit_interval)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(gate))
        pyro.sample("x", dist.Normal(loc[z.long()], 1.0), obs=x)
        with poutine.mask(mask=z == 1):
            pyro.sample("y", dist.Bernoulli(p), obs=y)
