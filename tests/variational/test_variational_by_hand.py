"""Variational Bayes against the same algorithm by hand, in NumPy, and against evidence that is known."""

from collections.abc import Mapping
from functools import partial
from math import lgamma, log, pi
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins, gaussian_mixture, hidden_markov, poisson_mixture
from oracles import variational as by_hand
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor

from em_pyro import EM, NormalWishart, ObjectiveError, StickBreaking, VariationalEM, VariationalFit
from em_pyro.variational.normal_wishart import NormalWishart as Law

FAR = 1e-3
"""What a planted fault must be off by, at least: seven digits above rounding."""

HEADS = tensor([5.0, 9.0, 8.0, 4.0, 7.0], dtype=torch.float64)
COUNTS = tensor([1.0, 0.0, 3.0, 2.0, 9.0, 7.0, 8.0, 2.0, 1.0, 11.0, 6.0, 0.0], dtype=torch.float64)
STEPS = 40


def flat(size: int) -> dist.Dirichlet:
    """A Dirichlet that favours nothing."""
    return dist.Dirichlet(torch.ones(size))


def numbers() -> Tensor:
    """Two groups on the line."""
    return torch.cat([torch.linspace(-2, 1, 9), torch.linspace(3, 5, 7) + 0.1])


def points(dim: int = 2) -> Tensor:
    """Two groups in the plane."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn((30, dim), generator=generator)
    return x + 4.0 * (torch.arange(30) % 2).unsqueeze(-1)


def known_scale(x: Tensor) -> None:
    """Two normals whose scale is known; priors in the program."""
    weights = pyro.sample("weights", dist.Dirichlet(tensor([1.5, 0.5])))
    loc = pyro.sample("loc", dist.Normal(0.5, 3.0).expand([2]).to_event(1))
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.3), obs=x)


DOUBLE = torch.float64
PAIR = NormalWishart(
    tensor([0.5, -0.5], dtype=DOUBLE), 0.3, tensor([[2.0, 0.4], [0.4, 1.0]], dtype=DOUBLE), tensor(3.5, dtype=DOUBLE)
)


def cases() -> Mapping[str, tuple[Any, Any, Any, tuple[Any, ...], by_hand.Emission, np.ndarray]]:
    """Model, priors, start, arguments, the emission by hand and the shapes of the weights."""
    one, x, y = np.ones(2), numbers(), points()
    pair = PAIR.loc.numpy(), 0.3, PAIR.scale_matrix_inverse.numpy(), 3.5
    centres = {"weights": tensor([0.5, 0.5]), "loc": tensor([[0.0, 1.0], [3.0, 4.0]])}
    line = NormalWishart(0.5, 0.3, 2.0, 1.5)
    return {
        "coins": (
            coins.coins,
            {"weights": flat(2), "bias": dist.Beta(1.0, 1.0)},
            {"weights": tensor([0.4, 0.6]), "bias": tensor([0.3, 0.7])},
            (HEADS, 10),
            by_hand.binomial(HEADS.numpy(), 10, 1.0, 1.0),
            one,
        ),
        "rates": (
            poisson_mixture.poisson_mixture,
            {"weights": dist.Dirichlet(tensor([0.7, 1.2])), "rate": dist.Gamma(1.5, 0.4)},
            {"weights": tensor([0.5, 0.5]), "rate": tensor([1.0, 6.0])},
            (COUNTS,),
            by_hand.poisson(COUNTS.numpy(), 1.5, 0.4),
            np.array([0.7, 1.2]),
        ),
        "means": (
            known_scale,
            None,
            {"weights": tensor([0.5, 0.5]), "loc": tensor([-1.0, 3.0])},
            (x,),
            by_hand.normal_mean(x.numpy(), 1.3, 0.5, 3.0),
            np.array([1.5, 0.5]),
        ),
        "numbers": (
            gaussian_mixture.univariate,
            {"weights": flat(2), ("loc", "scale"): line},
            {"weights": tensor([0.5, 0.5]), "loc": tensor([-1.0, 3.0]), "scale": tensor([1.0, 2.0])},
            (x,),
            by_hand.normal_wishart(x.numpy()[:, None], np.array([0.5]), 0.3, np.array([[2.0]]), 1.5),
            one,
        ),
        "vectors": (
            gaussian_mixture.full,
            {"weights": flat(2), ("loc", "scale_tril"): PAIR},
            {**centres, "scale_tril": torch.eye(2).repeat(2, 1, 1)},
            (y,),
            by_hand.normal_wishart(y.numpy(), *pair),
            one,
        ),
        "covariances": (
            gaussian_mixture.full_covariance,
            {"weights": flat(2), ("loc", "covariance"): PAIR},
            {**centres, "covariance": torch.eye(2).repeat(2, 1, 1)},
            (y,),
            by_hand.normal_wishart(y.numpy(), *pair),
            one,
        ),
    }


def fitted(name: str) -> tuple[VariationalFit, list[float], np.ndarray, tuple[Any, ...]]:
    """The fit from a start, and the same by hand from the posterior of EM there."""
    model, priors, start, args, emission, weights = cases()[name]
    fit = VariationalEM(model, priors, starts=start, tol=0, max_steps=STEPS).fit(*args)
    latent = next(n for n in fit.prepared.program.latents)
    shares = EM(model, starts=start).posterior(*args).marginal(latent).numpy()
    return fit, *by_hand.mixture(emission, weights, shares, STEPS)


@pytest.mark.parametrize("name", cases())
def test_every_step_is_that_by_hand(name: str) -> None:
    """The bound at every step with all its constants, and the laws at the end; the bound never falls."""
    fit, path, shapes, _ = fitted(name)
    assert fit.num_steps == STEPS
    assert fit.outcome == "step limit"
    assert distance(tensor(fit.path), tensor(path)) < IDENTITY
    assert distance(fit.laws["weights"].concentration, torch.as_tensor(shapes)) < IDENTITY
    assert min(b - a for a, b in zip(fit.path, fit.path[1:], strict=False)) > -IDENTITY
    assert fit.path[-1] > fit.path[0] + FAR, "a start that is the answer says nothing"


def test_laws_are_those_by_hand() -> None:
    """Shapes of Betas, Gammas, Normals and normal-Wisharts, and the means that are handed out."""
    fit, _, _, (shapes,) = fitted("coins")
    assert distance(fit.laws["bias"].concentration1, torch.as_tensor(shapes[:, 0])) < IDENTITY
    assert distance(fit.params["bias"], torch.as_tensor(shapes[:, 0] / shapes.sum(-1))) < IDENTITY
    fit, _, _, (shape, rate) = fitted("rates")
    assert distance(fit.laws["rate"].rate, torch.as_tensor(rate)) < IDENTITY
    assert distance(fit.params["rate"], torch.as_tensor(shape / rate)) < IDENTITY
    fit, _, _, (loc, precision) = fitted("means")
    assert distance(fit.laws["loc"].scale ** -2, torch.as_tensor(precision)) < IDENTITY
    assert distance(fit.params["loc"], torch.as_tensor(loc)) < IDENTITY
    fit, _, _, (loc, kappa, inverse, df) = fitted("covariances")
    law = fit.laws["loc", "covariance"]
    for got, want in zip(
        (law.loc, law.kappa, law.scale_matrix_inverse, law.df), (loc, kappa, inverse, df), strict=True
    ):
        assert distance(got, torch.as_tensor(want)) < IDENTITY
    assert distance(fit.params["covariance"], torch.as_tensor(inverse / df[:, None, None])) < IDENTITY


def test_coins_reach_their_bound() -> None:
    """The bound of the five sequences of Do and Batzoglou under flat priors, computed apart."""
    model, priors, start, args, *_ = cases()["coins"]
    fit = VariationalEM(model, priors, starts=start, tol=0, max_steps=300).fit(*args)
    assert distance(fit.elbo, -13.525639046528758) < IDENTITY
    assert distance(fit.params["bias"], tensor([0.50399223, 0.76063092])) < SOLVERS


# ---- evidence that is known ------------------------------------------------------------------------------------------


def one_state(x: Tensor, site: Any) -> None:
    """No latent: the laws are exact."""
    with pyro.plate("points", len(x)):
        pyro.sample("x", site(), obs=x)


def normal_wishart_evidence(x: Tensor, prior: Law) -> float:
    """`log p(x)` of normals under a normal-Wishart: a ratio of normalisers (Murphy 2007, equation 266)."""
    n, dim = x.shape
    centred = x - x.mean(0)
    pull = prior.kappa * n / (prior.kappa + n) * torch.outer(x.mean(0) - prior.loc, x.mean(0) - prior.loc)
    after = prior.scale_matrix_inverse + centred.mT @ centred + pull
    df = prior.df + n
    gammas = torch.mvlgamma(df / 2, dim) - torch.mvlgamma(prior.df / 2, dim)
    dets = prior.df / 2 * prior.scale_matrix_inverse.logdet() - df / 2 * after.logdet()
    return float(gammas + dets + dim / 2 * (prior.kappa / (prior.kappa + n)).log() - n * dim / 2 * log(pi))


def test_without_latents_the_bound_is_the_evidence() -> None:
    """With all constants: Beta and binomial, Gamma and Poisson, Normal and normal, normal-Wishart and normal."""
    heads, n = HEADS, 10

    def bias(x: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.5, 2.5))
        one_state(x, lambda: dist.Binomial(n, p))

    ways = (lgamma(n + 1) - (heads + 1).lgamma() - (n - heads + 1).lgamma()).sum()
    a, b = 1.5 + heads.sum(), 2.5 + (n - heads).sum()
    want = ways + a.lgamma() + b.lgamma() - (a + b).lgamma() + lgamma(4.0) - lgamma(1.5) - lgamma(2.5)
    assert distance(VariationalEM(bias).fit(heads).elbo, want) < IDENTITY

    def rate(x: Tensor) -> None:
        one_state(x, partial(dist.Poisson, pyro.sample("r", dist.Gamma(1.5, 0.4))))

    a, b = 1.5 + COUNTS.sum(), 0.4 + len(COUNTS)
    want = a.lgamma() - a * log(b) + 1.5 * log(0.4) - lgamma(1.5) - (COUNTS + 1).lgamma().sum()
    assert distance(VariationalEM(rate).fit(COUNTS).elbo, want) < IDENTITY

    def mean(x: Tensor) -> None:
        one_state(x, partial(dist.Normal, pyro.sample("m", dist.Normal(0.5, 3.0)), 1.3))

    x = numbers()
    covariance = 1.69 * torch.eye(len(x)) + 9.0
    want = dist.MultivariateNormal(torch.full((len(x),), 0.5), covariance).log_prob(x)
    assert distance(VariationalEM(mean).fit(x).elbo, want) < IDENTITY

    def pair(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2))
        tril = pyro.param("tril", torch.eye(2), constraint=dist.constraints.lower_cholesky)
        one_state(x, lambda: dist.MultivariateNormal(loc, scale_tril=tril))

    found = VariationalEM(pair, {("loc", "tril"): PAIR}).fit(points())
    assert distance(found.elbo, normal_wishart_evidence(points(), PAIR)) < IDENTITY


def test_vectors_with_a_known_covariance() -> None:
    """Without latents the bound is the evidence, by the joint normal of all values; the prior a plate of vectors."""
    noise = tensor([[1.0, 0.3], [0.3, 0.5]])
    prior = tensor([[4.0, 1.0], [1.0, 9.0]])

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.MultivariateNormal(tensor([0.5, -1.0]), prior))
        one_state(x, lambda: dist.MultivariateNormal(loc, noise))

    x = points()[:5]
    joint = torch.kron(torch.eye(5), noise) + torch.kron(torch.ones(5, 5), prior)
    want = dist.MultivariateNormal(tensor([0.5, -1.0]).repeat(5), joint).log_prob(x.flatten())
    assert distance(VariationalEM(model).fit(x).elbo, want) < IDENTITY


# ---- chains ----------------------------------------------------------------------------------------------------------


def test_a_hidden_markov_chain_is_that_by_hand() -> None:
    """Paths of the bound and laws of a chain of counts, from the posterior of EM at one start."""
    initial, transition, emission = np.array([1.5, 1.0]), np.array([[2.0, 0.5], [1.0, 1.0]]), (1.5, 0.4)
    start = {
        "initial": tensor([0.5, 0.5]),
        "transition": tensor([[0.8, 0.2], [0.3, 0.7]]),
        "rate": tensor([1.0, 6.0]),
    }
    counts = COUNTS.unsqueeze(0)
    priors = {
        "initial": dist.Dirichlet(torch.as_tensor(initial)),
        "transition": dist.Dirichlet(torch.as_tensor(transition)),
        "rate": dist.Gamma(*map(tensor, emission)),
    }
    fit = VariationalEM(hidden_markov.poisson, priors, starts=start, tol=0, max_steps=STEPS).fit(counts)
    em = EM(hidden_markov.poisson, starts=start, tol=0, max_steps=1)
    posterior = em.posterior(counts)
    T = len(COUNTS)
    shares = np.stack([posterior.marginal(f"state_{t}").reshape(-1).numpy() for t in range(T)])
    moves = em.fit(counts).params["transition"].numpy()
    pairs = moves * shares[:-1].sum(0)[:, None]  # a step of EM divides expected moves by how often one was left
    emitted = by_hand.poisson(COUNTS.numpy(), *emission)
    path, first, rows, laws = by_hand.chain(emitted, initial, transition, shares, pairs, STEPS)
    assert distance(tensor(fit.path), tensor(path)) < IDENTITY
    assert distance(fit.laws["transition"].concentration, torch.as_tensor(rows)) < IDENTITY
    assert distance(fit.laws["initial"].concentration, torch.as_tensor(first)) < IDENTITY
    assert distance(fit.laws["rate"].concentration, torch.as_tensor(laws[0])) < IDENTITY


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean taken for certain, a divergence left out, or logarithms of means in place of means of logarithms."""
    from em_pyro.variational import locations, stick_breaking

    path = fitted("vectors")[1]
    with monkeypatch.context() as planted:
        planted.setattr(locations.MeanAndScale, "excess", lambda *_: None)
        assert distance(tensor(fitted("vectors")[0].path), tensor(path)) > FAR
    with monkeypatch.context() as planted:
        planted.setattr(Law, "divergence", lambda self, *_: torch.zeros_like(self.df))
        model, priors, start, args, *_ = cases()["vectors"]
        fit = VariationalEM(model, priors, starts=start, tol=0, max_steps=0).fit(*args)
        assert distance(fit.path[0], path[0]) > FAR
    with monkeypatch.context() as planted:
        planted.setattr(stick_breaking.Sticks, "log", property(lambda self: self.mean.log()))
        x = points()
        with pytest.raises(ObjectiveError, match="expected the bound to rise"):
            VariationalEM(
                gaussian_mixture.full,
                {"weights": StickBreaking(1.0), ("loc", "scale_tril"): PAIR},
            ).fit(x, 5)
