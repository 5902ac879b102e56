"""Known multiples of a parameter and invertible functions of it are solved and mapped back."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import genetic_linkage
from oracles.evidence import log_evidence
from oracles.m_steps import check_closed, how, same, step, why
from programs.probed import ROWS, N, bits, counts, locations, mixture, real, unit
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM


def test_linkage_cells() -> None:
    """`[1/2, p/4, (1 - p)/4, (1 - p)/4, p/4]`: a constant, multiples of `p` and of `1 - p`."""
    observed = torch.repeat_interleave(torch.arange(4), tensor([125, 18, 20, 34]))
    for model in (genetic_linkage.five_cells, genetic_linkage.two_coins):
        assert how(model, observed) == {"p": "closed form"}
    assert "known factor" in why(genetic_linkage.five_cells, "p", observed)
    new = check_closed(genetic_linkage.five_cells, observed).params["p"]
    hidden = 125 * 0.125 / 0.625  # expected animals of the second cell at p = 1/2
    same(new, tensor((hidden + 34) / (hidden + 34 + 18 + 20)))


CELLS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "p/2, (1 - p)/2, 1/2": (lambda p: torch.stack([p / 2, (1 - p) / 2, tensor(0.5)]), True),
    "0.3 p, 0.7 p, 1 - p": (lambda p: torch.stack([0.3 * p, 0.7 * p, 1 - p]), True),
    "p^2, (1 - p^2)/2, (1 - p^2)/2": (lambda p: torch.stack([p**2, (1 - p**2) / 2, (1 - p**2) / 2]), True),
    "0.3 p, 0.5, 0.5 - 0.3 p": (lambda p: torch.stack([0.3 * p, tensor(0.5), 0.5 - 0.3 * p]), False),
    "p^2, 2 p (1 - p), (1 - p)^2": (lambda p: torch.stack([p**2, 2 * p * (1 - p), (1 - p) ** 2]), False),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells(name: str) -> None:
    """Categorical cells that are known multiples of a probability and its complement, and cells that are not."""
    cells, closed = CELLS[name]

    def of(z: Tensor) -> Any:
        return dist.Categorical(torch.stack([cells(p) for p in unit("p", 0.3, 0.6)])[z])

    x = torch.arange(N) % 3
    if closed:
        check_closed(mixture(of), x)
    else:
        assert how(mixture(of), x) == {"p": "torch"}


def softplus(x: Tensor) -> Tensor:
    """Smooth positive part."""
    return torch.nn.functional.softplus(x)


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Tensor, Any, Callable[[], Tensor]]] = {
    "exp": (lambda a, z: dist.Poisson(a.exp()[z]), tensor([0.1, 1.0]), constraints.real, counts),
    "exp of a scale": (lambda a, z: dist.Normal(locations(z), a.exp()[z]), tensor([0.1, 1.0]), constraints.real,
                       lambda: 2 * real(N)),
    "softplus": (lambda a, z: dist.Poisson(softplus(a)[z]), tensor([0.1, 3.0]), constraints.real, counts),
    "square": (lambda a, z: dist.Exponential(a.square()[z]), tensor([0.5, 1.5]), constraints.positive,
               lambda: real(N).exp()),
    "square of a scale": (lambda a, z: dist.Normal(locations(z), (a**2)[z]), tensor([0.9, 1.5]), constraints.positive,
                          lambda: 2 * real(N)),
    "sqrt": (lambda a, z: dist.Normal(locations(z), a.sqrt()[z]), tensor([0.5, 1.5]), constraints.positive,
             lambda: 2 * real(N)),
    "rsqrt": (lambda a, z: dist.Normal(locations(z), a.rsqrt()[z]), tensor([0.5, 1.5]), constraints.positive,
              lambda: 2 * real(N)),
    "reciprocal": (lambda a, z: dist.Exponential(1 / a[z]), tensor([0.5, 1.5]), constraints.positive,
                   lambda: real(N).exp()),
    "reciprocal, with an exposure": (lambda a, z: dist.Poisson((torch.arange(N) + 1) / a[z]), tensor([5.0, 1.5]),
                                     constraints.positive, counts),
    "log": (lambda a, z: dist.Normal(a.log()[z], 1.0), tensor([0.5, 3.0]), constraints.positive, lambda: 2 * real(N)),
    "1 - x": (lambda a, z: dist.Bernoulli(1 - a[z]), tensor([0.3, 0.6]), constraints.unit_interval, bits),
    "sigmoid": (lambda a, z: dist.Bernoulli(torch.sigmoid(a)[z]), tensor([-1.0, 0.6]), constraints.real, bits),
    "logits": (lambda a, z: dist.Geometric(logits=a[z]), tensor([-1.0, 0.6]), constraints.real, counts),
    "sqrt of a probability": (lambda a, z: dist.Bernoulli(a.sqrt()[z]), tensor([0.3, 0.6]), constraints.unit_interval,
                              bits),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_invertible_functions(name: str) -> None:
    """The maximum over the argument, mapped back, is the maximum over the parameter."""
    law, start, constraint, data = FUNCTIONS[name]
    check_closed(mixture(lambda z: law(pyro.param("a", start.double(), constraint=constraint), z)), data())


SIMPLEX: dict[str, tuple[Callable[[Tensor, Tensor], Any], Tensor, Any]] = {
    "probs": (lambda w, z: dist.Categorical(w[z]), ROWS.softmax(-1), constraints.simplex),
    "probs, not normalised": (lambda w, z: dist.Categorical(3 * w[z]), ROWS.softmax(-1), constraints.simplex),
    "positive": (lambda w, z: dist.Categorical(w[z]), ROWS.exp(), constraints.positive),
    "logits of probs": (lambda w, z: dist.Categorical(logits=w.log()[z]), ROWS.softmax(-1), constraints.simplex),
    "logits": (lambda w, z: dist.Categorical(logits=w[z]), ROWS, constraints.real),
    "shifted logits": (lambda w, z: dist.Categorical(logits=w[z] + 5), ROWS, constraints.real),
    "softmax": (lambda w, z: dist.Categorical(w.softmax(-1)[z]), ROWS, constraints.real),
    "log_softmax": (lambda w, z: dist.Categorical(logits=w.log_softmax(-1)[z]), ROWS, constraints.real),
    "softmax after": (lambda w, z: dist.Categorical(w[z].softmax(-1)), ROWS, constraints.real),
}


@pytest.mark.parametrize("name", SIMPLEX)
def test_rows_of_probabilities(name: str) -> None:
    """Whole rows are compared up to normalisation, as `probs` and as `logits`, and give one and the same law."""
    law, start, constraint = SIMPLEX[name]
    model = mixture(lambda z: law(pyro.param("w", start, constraint=constraint), z))
    x = torch.arange(N).sqrt().long() % 3

    def view(w: Tensor) -> Tensor:
        return w.log_softmax(-1) if constraint is constraints.real else (w / w.sum(-1, keepdim=True)).log()

    def plain(z: Tensor) -> Any:
        return dist.Categorical(pyro.param("w", ROWS.softmax(-1), constraint=constraints.simplex)[z])

    new = check_closed(model, x, views={"w": view}).params["w"]
    same(view(new), step(mixture(plain), x).params["w"].log())


@pytest.mark.parametrize("name", ["probs", "logits", "logits of probs"])
def test_a_category_that_never_occurs(name: str) -> None:
    """Its probability is exactly zero after one step, its logit minus infinity, and further steps keep it there."""
    law, start, constraint = SIMPLEX[name]
    model = mixture(lambda z: law(pyro.param("w", start, constraint=constraint), z))
    fit = EM(model).fit(torch.arange(N) % 2)
    assert fit.converged
    assert fit.params["w"][:, 2].tolist() == ([-torch.inf] * 2 if constraint is constraints.real else [0.0] * 2)
    best = torch.full((2, 3), 0.5) * tensor([1.0, 1.0, 0.0])
    want = log_evidence(mixture(lambda z: dist.Categorical(logits=best.log()[z])), torch.arange(N) % 2)
    same(tensor(fit.log_likelihood), tensor(want), 1e-6)
