"""Pyro enumerates a Gauss rule like any discrete distribution."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import expected
from oracles.answers import people
from oracles.tolerances import IDENTITY
from pyro.infer import TraceEnum_ELBO, config_enumerate, infer_discrete
from pyro.infer.autoguide import AutoDelta
from test_quadrature import LAWS, scalar
from torch import Tensor

from em_pyro.quadrature import quadrature


def test_shapes_follow_pyro() -> None:
    """Check shapes of a batch, and that nothing is materialised along it."""
    rule = quadrature(LAWS["gamma"], 7)
    assert (rule.batch_shape, rule.event_shape) == ((), ())
    assert rule.has_enumerate_support
    assert rule.support.is_discrete
    wide = rule.expand([3, 2])
    assert wide.batch_shape == (3, 2)
    assert wide.enumerate_support().shape == (7, 3, 2)
    values = wide.enumerate_support(expand=False)
    assert values.shape == (7, 1, 1)
    log_prob = wide.log_prob(values)
    assert log_prob.shape == (7, 3, 2)
    assert log_prob.stride()[1:] == (0, 0)
    assert torch.equal(log_prob, wide.log_prob(wide.enumerate_support()))
    assert torch.equal(log_prob[:, 0, 0], rule.log_weights)
    assert wide.mean.shape == wide.variance.shape == (3, 2)
    assert rule.expand_by([4]).batch_shape == (4,)
    single = quadrature(dist.Normal(torch.zeros((), dtype=torch.float32), 1.0), 3)
    assert single.nodes.dtype == single.log_weights.dtype == torch.float32


def test_log_prob_knows_its_nodes() -> None:
    """Look nodes up in any order and after a trip through float32; anything else is impossible."""
    rule = quadrature(LAWS["normal"], 5)
    shuffled = rule.nodes[[3, 0, 2, 4, 1]]
    assert torch.equal(rule.log_prob(shuffled), rule.log_weights[[3, 0, 2, 4, 1]])
    assert torch.equal(rule.log_prob(shuffled.float()), rule.log_prob(shuffled))
    assert torch.equal(rule.log_prob(shuffled.float().double()), rule.log_prob(shuffled))
    between = (rule.nodes[1:] + rule.nodes[:-1]) / 2
    others = torch.cat([between, rule.nodes[:2] - 1e-3, rule.nodes[-1:] + 9.0])
    assert (rule.log_prob(others) == -torch.inf).all()
    assert rule.support.check(rule.nodes).all()
    assert not rule.support.check(others).any()
    one = quadrature(LAWS["normal"], 1)
    assert one.log_prob(scalar(0.0)) == 0.0


def test_draws_are_nodes_in_the_right_proportions() -> None:
    """Draw many and compare with the weights."""
    rule = quadrature(LAWS["beta"], 4).expand([5])
    draws = rule.sample((20_000,))
    assert draws.shape == (20_000, 5)
    assert rule.support.check(draws).all()
    frequency = (draws[..., None] == rule.nodes).double().mean((0, 1))
    weights = rule.log_weights.exp()
    error = (weights * (1 - weights) / draws.numel()).sqrt()
    assert ((frequency - weights).abs() < 5 * error).all()  # five standard errors of a multinomial frequency


def log_evidence(model: Callable[..., Any], *args: Any) -> float:
    """Return Pyro's own log evidence."""
    return -TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), lambda *args: None, *args)


def rasch(answers: Tensor, intercepts: Tensor, slopes: Tensor, num_nodes: int) -> None:
    """Answer items with a latent ability; `answers` has shape `(N, items)`."""
    with pyro.plate("persons", len(answers)):
        ability = pyro.sample("ability", quadrature(LAWS["normal"], num_nodes))
        logits = intercepts + slopes * ability[..., None]
        pyro.sample("answer", dist.Bernoulli(logits=logits).to_event(1), obs=answers)


@pytest.mark.parametrize("name", ["logit_rasch_gauss_hermite_201", "logit_2pl_gauss_hermite_201"])
def test_lsat6_likelihood(name: str) -> None:
    """Pyro's own enumeration over the nodes gives the published fit's log likelihood."""
    answers = people()
    golden = expected("lsat6")["golden"][name]
    intercepts = torch.tensor(golden["intercepts"], dtype=torch.float64)
    slopes = torch.tensor(golden["slopes"], dtype=torch.float64)
    assert answers.shape == (1000, 5)
    got = log_evidence(rasch, answers, intercepts, slopes, 201)
    assert got == pytest.approx(golden["loglik"], abs=IDENTITY * (1 - golden["loglik"]))


def test_a_conjugate_marginal_is_found_by_enumeration() -> None:
    """A Gamma rate under a Poisson count is a negative binomial: the likelihood is smooth, 60 nodes are plenty."""
    counts = torch.tensor([0.0, 3.0, 7.0], dtype=torch.float64)

    def model() -> None:
        with pyro.plate("data", 3):
            rate = pyro.sample("rate", quadrature(LAWS["gamma"], 60))
            pyro.sample("count", dist.Poisson(rate), obs=counts)

    expected = float(dist.NegativeBinomial(scalar(3.7), probs=scalar(1 / 3.5)).log_prob(counts).sum())
    assert log_evidence(model) == pytest.approx(expected, abs=IDENTITY * (1 + abs(expected)))


def test_gradients_pass_through_the_location_scale_rewrite() -> None:
    """`x = loc + scale z`, `y ~ Normal(x, 1)` is `Normal(loc, sqrt(1 + scale^2))`, and so are its gradients."""
    y = torch.tensor([0.3, -1.1, 2.0], dtype=torch.float64)
    loc, scale = scalar(0.2).requires_grad_(), scalar(0.7).requires_grad_()

    def model() -> None:
        with pyro.plate("data", 3):
            z = pyro.sample("z", quadrature(LAWS["normal"], 61))
            pyro.sample("y", dist.Normal(loc + scale * z, 1.0), obs=y)

    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(config_enumerate(model), lambda: None)
    got = torch.autograd.grad(loss, [loc, scale])
    expected = torch.autograd.grad(-dist.Normal(loc, (1 + scale**2).sqrt()).log_prob(y).sum(), [loc, scale])
    for left, right in zip(got, expected, strict=True):
        assert float(left) == pytest.approx(float(right), abs=IDENTITY * (1 + abs(float(right))))


def test_other_pyro_tools_accept_it() -> None:
    """Decoding returns nodes, AutoDelta leaves the site to enumeration, and a plain run draws it."""
    y = torch.tensor([-4.0, 0.1, 4.0], dtype=torch.float64)

    def model() -> Tensor:
        with pyro.plate("data", 3):
            z = pyro.sample("z", quadrature(LAWS["normal"], 21))
            pyro.sample("y", dist.Normal(z, 0.1), obs=y)
        return z

    assert quadrature(LAWS["normal"], 21).support.check(model()).all()
    mode = infer_discrete(config_enumerate(model), first_available_dim=-2, temperature=0)()
    nodes = quadrature(LAWS["normal"], 21).nodes
    posterior = dist.Normal(nodes[:, None], 0.1).log_prob(y) + quadrature(LAWS["normal"], 21).log_weights[:, None]
    assert torch.equal(mode, nodes[posterior.argmax(0)])
    guide = AutoDelta(pyro.poutine.block(model, hide=["z"]))
    assert math.isfinite(TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(model), guide))
