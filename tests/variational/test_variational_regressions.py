"""Regressions with known noise: Normal laws of rows of coefficients, by hand and beside evidence that is known."""

from math import log, pi
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import variational as by_hand
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor

from em_pyro import EM, PlanError, VariationalEM, VariationalFit
from em_pyro.variational.coefficients import Coefficients

DOUBLE = torch.float64
NOISE, STEPS, FAR = 0.5, 25, 1e-3
LOC, COVARIANCE = tensor([0.5, -0.2], dtype=DOUBLE), tensor([[2.0, 0.3], [0.3, 1.0]], dtype=DOUBLE)
PRIOR = dist.MultivariateNormal(LOC, COVARIANCE)
FLAT = dist.Dirichlet(torch.ones(2, dtype=DOUBLE))
START = {"weights": tensor([0.5, 0.5], dtype=DOUBLE), "coef": tensor([[0.0, 1.0], [0.0, -1.0]], dtype=DOUBLE)}


def rows(n: int = 40) -> tuple[Tensor, Tensor]:
    """Two lines, and the design with an intercept."""
    x = torch.stack([torch.ones(n), torch.linspace(-1, 2, n)], -1).double()
    wobble = 0.4 * torch.sin(7.0 * torch.arange(n).double())
    return x, torch.where(torch.arange(n) % 2 == 0, 1 + 2 * x[:, 1], -1 - x[:, 1]) + wobble


def line(x: Tensor, y: Tensor, offset: Tensor | float = 0.0) -> None:
    """One regression."""
    coef = pyro.param("coef", torch.zeros(2, dtype=DOUBLE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ coef + offset, NOISE), obs=y)


def lines(x: Tensor, y: Tensor) -> None:
    """A mixture of two."""
    weights = pyro.param("weights", START["weights"], constraint=dist.constraints.simplex)
    coef = pyro.param("coef", START["coef"])
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal((coef[z] * x).sum(-1), NOISE), obs=y)


def emission(x: np.ndarray, y: np.ndarray) -> by_hand.Emission:
    """Responses of two lines, every row of coefficients under `PRIOR`: all matrices inverted openly."""
    m, prior = LOC.numpy(), np.linalg.inv(COVARIANCE.numpy())

    def learnt(shares: np.ndarray) -> tuple[np.ndarray, ...]:
        spread = np.linalg.inv(prior + np.einsum("nk,ni,nj->kij", shares, x, x) / NOISE**2)
        return np.einsum("kij,kj->ki", spread, prior @ m + np.einsum("nk,n,ni->ki", shares, y, x) / NOISE**2), spread

    def expected(laws: tuple[np.ndarray, ...]) -> np.ndarray:
        loc, spread = laws
        squares = (y[:, None] - x @ loc.T) ** 2 + np.einsum("ni,kij,nj->nk", x, spread, x)
        return -0.5 * (squares / NOISE**2 + log(2 * pi * NOISE**2))

    def divergence(laws: tuple[np.ndarray, ...]) -> float:
        total = 0.0
        for loc, spread in zip(*laws, strict=True):
            dets = np.linalg.slogdet(COVARIANCE.numpy())[1] - np.linalg.slogdet(spread)[1]
            total += 0.5 * (np.trace(prior @ spread) - 2 + (loc - m) @ prior @ (loc - m) + dets)
        return float(total)

    return by_hand.Emission(expected, learnt, divergence)


def fitted(**options: Any) -> VariationalFit:
    """The mixture from its start."""
    return VariationalEM(lines, {"weights": FLAT, "coef": PRIOR}, starts=START, **options).fit(*rows())


def path_by_hand() -> tuple[list[float], np.ndarray, Any]:
    """From the posterior of EM at the same start."""
    x, y = rows()
    shares = EM(lines, starts=START).posterior(x, y).marginal("z").numpy()
    return by_hand.mixture(emission(x.numpy(), y.numpy()), np.ones(2), shares, STEPS)


def test_every_step_is_that_by_hand() -> None:
    """The bound with all its constants, and the laws."""
    fit = fitted(tol=0, max_steps=STEPS)
    path, shapes, (loc, spread) = path_by_hand()
    assert distance(tensor(fit.path), tensor(path)) < IDENTITY
    assert distance(fit.laws["weights"].concentration, torch.as_tensor(shapes)) < IDENTITY
    assert distance(fit.laws["coef"].loc, torch.as_tensor(loc)) < IDENTITY
    assert distance(fit.laws["coef"].covariance_matrix, torch.as_tensor(spread)) < IDENTITY
    assert distance(fit.params["coef"], torch.as_tensor(loc)) < IDENTITY
    assert fit.path[-1] > fit.path[0] + FAR, "a start that is the answer says nothing"


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_without_latents_the_bound_is_the_evidence(offset: float) -> None:
    """By the joint normal of all responses; far from zero, and with a known part of the mean, too."""
    x, y = rows()
    known = offset + torch.linspace(0, 1, len(y)).double()
    joint = NOISE**2 * torch.eye(len(y)) + x @ COVARIANCE @ x.mT
    want = dist.MultivariateNormal(x @ LOC, joint).log_prob(y)
    assert distance(VariationalEM(line, {"coef": PRIOR}).fit(x, y).elbo, want) < IDENTITY
    found = VariationalEM(line, {"coef": PRIOR}).fit(x, y + known, known)
    assert distance(found.elbo, want) < SOLVERS


def test_priors_of_numbers_are_those_of_rows() -> None:
    """A Normal of every coefficient is a MultivariateNormal of independent ones; a site in the program is read."""
    x, y = rows()
    alike = dist.MultivariateNormal(LOC, torch.eye(2, dtype=DOUBLE) * 9.0)
    numbers, vectors = (VariationalEM(line, {"coef": p}).fit(x, y).elbo for p in (dist.Normal(LOC, 3.0), alike))
    assert distance(numbers, vectors) < IDENTITY

    def stated(x: Tensor, y: Tensor) -> None:
        coef = pyro.sample("coef", dist.MultivariateNormal(LOC, COVARIANCE))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ coef, NOISE), obs=y)

    assert (
        distance(VariationalEM(stated).fit(x, y).elbo, VariationalEM(line, {"coef": PRIOR}).fit(x, y).elbo) < IDENTITY
    )


def test_equal_lines_are_told_apart_and_new_rows_have_their_law() -> None:
    """The saddle test moves coefficients; SQUAREM ends where plain steps do; other rows have the posterior of these."""
    x, y = rows()
    equal = {**START, "coef": LOC.repeat(2, 1)}
    priors = {"weights": FLAT, "coef": PRIOR}
    fit = VariationalEM(lines, priors, starts=equal).fit(x, y)
    assert fit.notes
    assert distance(fit.elbo, fitted().elbo) < SOLVERS
    assert distance(fitted(acceleration="squarem").elbo, fitted().elbo) < SOLVERS
    shares = fitted().posterior.marginal("z")
    assert distance(fitted().posterior_on(x[:7], y[:7]).marginal("z"), shares[:7]) < IDENTITY


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coefficients taken for certain."""
    monkeypatch.setattr(Coefficients, "spread", lambda *_: None)
    assert distance(tensor(fitted(tol=0, max_steps=STEPS).path), tensor(path_by_hand()[0])) > FAR


def parallel(x: Tensor, y: Tensor) -> None:
    """An intercept and a slope apart."""
    intercept = pyro.param("intercept", torch.zeros((), dtype=DOUBLE))
    slope = pyro.param("slope", torch.zeros(2, dtype=DOUBLE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(intercept + x @ slope, NOISE), obs=y)


def noisy(x: Tensor, y: Tensor) -> None:
    """The noise is a parameter."""
    coef = pyro.param("coef", torch.zeros(2, dtype=DOUBLE))
    scale = pyro.param("scale", torch.ones((), dtype=DOUBLE), constraint=dist.constraints.positive)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ coef, scale), obs=y)


def summed(x: Tensor, y: Tensor) -> None:
    """Two rows of coefficients in one mean."""
    coef = pyro.param("coef", torch.zeros((2, 2), dtype=DOUBLE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ coef[0] + (x**2) @ coef[1], NOISE), obs=y)


def logistic(x: Tensor, y: Tensor) -> None:
    """A link."""
    coef = pyro.param("coef", torch.zeros(2, dtype=DOUBLE))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ coef), obs=(y > 0).double())


NORMAL = dist.Normal(0.0, 1.0)
REFUSED = {
    "two parameters": (parallel, {"intercept": NORMAL, "slope": NORMAL}, 'at site "y" it is added to "'),
    "two rows": (summed, {"coef": NORMAL}, 'at site "y" several of its rows are added'),
    "noise unknown": (noisy, {"coef": NORMAL, "scale": dist.Gamma(1.0, 1.0)}, "scale"),
    "link": (logistic, {"coef": NORMAL}, '"probs" of site "y" is affine in it'),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_conjugate_is_refused(name: str) -> None:
    """By name, with the site."""
    model, priors, said = REFUSED[name]
    with pytest.raises(PlanError, match=said):
        VariationalEM(model, priors).fit(*rows())
