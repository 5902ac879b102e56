"""Arguments that are functions of parameters and of no row: the model computes a table of them in every step."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


@program(lambda: (tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 1], [0, 0, 0]]),))
def items_on_a_grid(x: Tensor) -> None:
    """Answer items of unequal difficulty and slope, with an ability on a grid."""
    nodes = tensor([-1.2, 0.1, 1.4])
    slope = pyro.param("slope", tensor([0.8, 1.3, 0.6]), constraint=constraints.positive)
    hard = pyro.param("hard", tensor([0.2, -0.5, 0.4]))
    with pyro.plate("person", len(x)):
        ability = pyro.sample("ability", dist.Categorical(logits=-(nodes**2) / 2))
        law = dist.Bernoulli(logits=slope * (nodes[ability].unsqueeze(-1) - hard))
        pyro.sample("x", law.to_event(1), obs=x)


@program(lambda: (tensor([0, 1, 3]),))
def blood_groups(x: Tensor) -> None:
    """Inherit two alleles, which are independent: probabilities of genotypes are products of frequencies."""
    p = pyro.param("p", tensor([0.3, 0.2, 0.5]), constraint=constraints.simplex)
    a, b, o = p.unbind(-1)
    pairs = torch.stack([a * a, 2 * a * o, b * b, 2 * b * o, 2 * a * b, o * o], -1)
    seen = torch.eye(4)[tensor([0, 0, 1, 1, 2, 3])]
    with pyro.plate("row", len(x)):
        pair = pyro.sample("pair", dist.Categorical(pairs))
        pyro.sample("x", dist.Categorical(seen[pair]), obs=x)


@program(lambda: (tensor([[1.0, 3, 0], [2, 2, 5], [4, 0, 2]]),))
def one_rate_of_change(y: Tensor) -> None:
    """Leave either state as easily; rates are sums, so that the second is the larger."""
    change = pyro.param("change", tensor(0.2), constraint=constraints.unit_interval)
    rates = pyro.param("rates", tensor([0.8, 1.7]), constraint=constraints.positive).cumsum(-1)
    moves = torch.stack([torch.stack([1 - change, change]), torch.stack([change, 1 - change])])
    state = tensor(0)
    with pyro.plate("row", len(y)):
        for t in pyro.markov(range(y.shape[1])):
            state = pyro.sample(f"z{t}", dist.Categorical(moves[state]))
            pyro.sample(f"y{t}", dist.Poisson(rates[state]), obs=y[:, t])
