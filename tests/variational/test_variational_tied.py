"""Means that share a scale: one law of the precision, whose prior counts once; by hand and beside scikit-learn."""

import warnings
from collections.abc import Callable, Mapping
from math import log, pi
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from em_pyro.models.data import load
from oracles import variational as by_hand
from oracles import variational_tied as shared
from oracles.engines import distance
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor

from em_pyro import EM, NormalWishart, ObjectiveError, ParameterError, PlanError, VariationalEM, VariationalFit
from em_pyro.variational.locations import MeanAndScale

DOUBLE = torch.float64
FAR = 1e-3
"""What a planted fault must be off by, at least."""

STEPS = 30
FLAT = dist.Dirichlet(torch.ones(2, dtype=DOUBLE))
MATRIX = tensor([[2.0, 0.4], [0.4, 1.0]], dtype=DOUBLE)


def points() -> Tensor:
    """Two groups in the plane."""
    x = torch.randn((30, 2), generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
    return x + 3.0 * (torch.arange(30) % 2).unsqueeze(-1)


def spherical(x: Tensor) -> None:
    """Two round normals."""
    gaussian_mixture.spherical(x)


def spherical_tied(x: Tensor) -> None:
    """Two round normals of one size."""
    gaussian_mixture.spherical(x, tied=True)


def diagonal_tied(x: Tensor) -> None:
    """Two normals with independent coordinates, whose scales they share."""
    gaussian_mixture.diagonal(x, tied=True)


def univariate_tied(x: Tensor) -> None:
    """Two normals on the line of one width."""
    gaussian_mixture.univariate(x, tied=True)


def side_by_side(x: np.ndarray, *args: Any) -> by_hand.Emission:
    """Independent coordinates, each with a scale that the states share."""
    parts = [shared.tied(x[:, d : d + 1], *args) for d in range(x.shape[1])]
    return by_hand.Emission(
        lambda laws: sum(part.expected(law) for part, law in zip(parts, laws, strict=True)),  # type: ignore[misc]
        lambda shares: tuple(part.learnt(shares) for part in parts),  # type: ignore[misc]
        lambda laws: sum(part.divergence(law) for part, law in zip(parts, laws, strict=True)),  # type: ignore[misc]
    )


def cases() -> Mapping[str, tuple[Callable[..., None], NormalWishart, Tensor, Tensor, by_hand.Emission]]:
    """Model, law of means and scale, data, the scale at the start, and the emission by hand."""
    x = points()
    line, plane = NormalWishart(0.5, 0.3, 2.0, 1.5), NormalWishart(tensor([0.5, -0.5]), 0.3, MATRIX, 3.5)
    one, rows = torch.tensor(1.5, dtype=DOUBLE), x.numpy()
    numbers, m = (np.array([0.5]), 0.3, np.array([[2.0]]), 1.5), np.array([0.5, -0.5])
    return {
        "tied": (gaussian_mixture.tied, plane, x, torch.eye(2), shared.tied(rows, m, 0.3, MATRIX.numpy(), 3.5)),
        "line": (univariate_tied, line, x[:, 0], one, shared.tied(rows[:, :1], *numbers)),
        "diagonal": (diagonal_tied, line, x, one.repeat(2), side_by_side(rows, *numbers)),
        "spherical": (spherical, line, x, one.repeat(2), shared.spherical(rows, 0.5, 0.3, 2.0, 1.5, one=False)),
        "one sphere": (spherical_tied, line, x, one, shared.spherical(rows, 0.5, 0.3, 2.0, 1.5, one=True)),
    }


def fitted(name: str) -> tuple[VariationalFit, list[float], np.ndarray, Any]:
    """The fit from a start, and the same by hand from the posterior of EM there."""
    model, law, x, scale, emission = cases()[name]
    names = ("loc", "scale_tril" if name == "tied" else "scale")
    loc = tensor([[0.0, 1.0], [3.0, 4.0]], dtype=DOUBLE)
    start = {"weights": torch.full((2,), 0.5, dtype=DOUBLE), "loc": loc if x.dim() == 2 else loc[:, 0], names[1]: scale}
    fit = VariationalEM(model, {"weights": FLAT, names: law}, starts=start, tol=0, max_steps=STEPS).fit(x)
    shares = EM(model, starts=start).posterior(x).marginal("component").numpy()
    return fit, *by_hand.mixture(emission, np.ones(2), shares, STEPS)


@pytest.mark.parametrize("name", cases())
def test_every_step_is_that_by_hand(name: str) -> None:
    """The bound at every step with all its constants, and the weights; the bound never falls."""
    fit, path, shapes, _ = fitted(name)
    assert distance(tensor(fit.path), tensor(path)) < IDENTITY
    assert distance(fit.laws["weights"].concentration, torch.as_tensor(shapes)) < IDENTITY
    assert min(b - a for a, b in zip(fit.path, fit.path[1:], strict=False)) > -IDENTITY
    assert fit.path[-1] > fit.path[0] + FAR, "a start that is the answer says nothing"


def test_laws_are_those_by_hand() -> None:
    """Of every mean with the one precision, and the scales that are handed out."""
    fit, _, _, (loc, kappa, inverse, df) = fitted("tied")
    law = fit.laws["loc", "scale_tril"]
    assert distance(law.loc, torch.as_tensor(loc)) < IDENTITY
    assert distance(law.kappa, torch.as_tensor(kappa)) < IDENTITY
    assert distance(law.scale_matrix_inverse, torch.as_tensor(inverse).expand(2, 2, 2)) < IDENTITY
    assert distance(law.df, torch.full((2,), float(df))) < IDENTITY
    tril = fit.params["scale_tril"]
    assert distance(tril @ tril.mT, torch.as_tensor(inverse / df)) < IDENTITY
    fit, _, _, (_, _, shape, rate) = fitted("spherical")
    assert distance(fit.params["scale"], torch.as_tensor((rate / shape) ** 0.5)) < IDENTITY
    fit, _, _, (_, _, shape, rate) = fitted("one sphere")
    assert distance(fit.params["scale"], torch.as_tensor((rate[0] / shape[0]) ** 0.5)) < IDENTITY
    assert fit.laws["loc", "scale"].batch_shape == (2, 2)


def test_without_latents_the_bound_is_the_evidence() -> None:
    """Two groups that are known, one covariance: a ratio of normalisers."""
    x = points()
    group = torch.arange(30) % 2
    prior = cases()["tied"][1]

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros((2, 2), dtype=DOUBLE))
        tril = pyro.param("tril", torch.eye(2, dtype=DOUBLE), constraint=dist.constraints.lower_cholesky)
        with pyro.plate("points", len(x)):
            pyro.sample("x", dist.MultivariateNormal(loc[group], scale_tril=tril), obs=x)

    shares = torch.nn.functional.one_hot(group).double().numpy()
    _, kappa, inverse, df = cases()["tied"][-1].learnt(shares)
    factors = shared.wishart(MATRIX.numpy(), 3.5) - shared.wishart(inverse, df)
    want = np.log(0.3 / kappa).sum() + factors - 30 * log(2 * pi)
    assert distance(VariationalEM(model, {("loc", "tril"): prior}).fit(x).elbo, want) < IDENTITY


def test_a_saddle_is_left() -> None:
    """States that start equal are told apart, where they share a scale too."""
    x = points()
    mean, tril = x.mean(0).repeat(2, 1), torch.linalg.cholesky(x.mT.cov())
    start = {"weights": torch.full((2,), 0.5, dtype=DOUBLE), "loc": mean, "scale_tril": tril}
    priors = {"weights": FLAT, ("loc", "scale_tril"): NormalWishart(x.mean(0), 0.05, 0.1 * MATRIX, 2.0)}
    fit, there = (VariationalEM(gaussian_mixture.tied, priors, starts=s, max_steps=5000).fit(x) for s in (start, 5))
    assert any("left a saddle" in note for note in fit.notes)
    assert distance(fit.elbo, there.elbo) < 1e-5


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision whose divergence counts for every mean; one that learns from its own mean alone."""
    path = fitted("tied")[1]
    with monkeypatch.context() as planted:
        planted.setattr(MeanAndScale, "counted", property(lambda self: torch.ones_like(self.prior.df)))
        with pytest.raises(ObjectiveError, match="expected the bound to rise"):
            fitted("tied")
    with monkeypatch.context() as planted:
        planted.setattr(MeanAndScale, "shared", lambda self, part: part)
        assert distance(tensor(fitted("tied")[0].path), tensor(path)) > FAR


# ---- scikit-learn ----------------------------------------------------------------------------------------------------


def test_equal_steps_are_scikit_learns() -> None:
    """Weights, means and covariance after forty steps.

    scikit-learn shares the rows out among the K states before it adds them to the prior of the one covariance: its
    prior of `a` degrees of freedom and matrix `C` is one of `K a` and `K C`.
    """
    mixture = pytest.importorskip("sklearn.mixture")
    data, K = load("faithful"), 4
    x = torch.as_tensor(np.stack([data["eruptions"], data["waiting"]], -1))
    parts = x[x[:, 0].argsort(stable=True)].tensor_split(K)
    start = {
        "weights": torch.full((K,), 1 / K, dtype=DOUBLE),
        "loc": torch.stack([part.mean(0) for part in parts]),
        "scale_tril": torch.linalg.cholesky(x.mT.cov()) / 2,
    }
    shares = EM(gaussian_mixture.tied, starts=start).posterior(x, K).marginal("component").numpy()

    class FromShares(mixture.BayesianGaussianMixture):  # type: ignore[misc]
        def _initialize_parameters(self, rows: Any, random_state: Any, **more: Any) -> None:
            self._initialize(rows, shares)

    theirs = FromShares(
        n_components=K,
        covariance_type="tied",
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=0.5,
        mean_precision_prior=0.7,
        mean_prior=x.mean(0).numpy(),
        degrees_of_freedom_prior=2.5,
        covariance_prior=x.mT.cov().numpy(),
        reg_covar=0,
        tol=0,
        max_iter=40,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        theirs.fit(x.numpy())
    law = NormalWishart(x.mean(0), 0.7, K * x.mT.cov(), K * 2.5)
    priors = {"weights": dist.Dirichlet(torch.full((K,), 0.5, dtype=DOUBLE)), ("loc", "scale_tril"): law}
    fit = VariationalEM(gaussian_mixture.tied, priors, starts=start, tol=0, max_steps=40).fit(x, K)
    found = fit.laws["loc", "scale_tril"]
    assert distance(fit.params["weights"], torch.as_tensor(theirs.weights_)) < 1e-8
    assert distance(found.loc, torch.as_tensor(theirs.means_)) < 1e-8
    assert distance(found.covariance[0], torch.as_tensor(theirs.covariances_)) < 1e-8
    assert distance(found.kappa, torch.as_tensor(theirs.mean_precision_)) < 1e-8


# ---- what is refused -------------------------------------------------------------------------------------------------


def two_widths(x: Tensor, *, apart: bool = False) -> None:
    """One mean, two scales; or a second site in which a scale has no mean."""
    loc = pyro.param("loc", torch.zeros((), dtype=DOUBLE))
    scale = pyro.param("scale", tensor([1.0, 2.0], dtype=DOUBLE), constraint=dist.constraints.positive)
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5, dtype=DOUBLE)))
        if not apart:
            pyro.sample("x", dist.Normal(loc, scale[z]), obs=x)
        else:
            pyro.sample("x", dist.Normal(loc, scale[0]), obs=x)
            pyro.sample("y", dist.Normal(0.0, scale[z]), obs=x)


def test_a_mean_with_two_scales_is_refused() -> None:
    """By name and site; so is a scale without a mean, and a prior that is not one of one scale."""
    x, law = points()[:, 0], {("loc", "scale"): NormalWishart(0.0, 1.0, 1.0, 1.0)}
    with pytest.raises(PlanError, match='"loc" and "scale".*at site "x" a mean has more than one scale'):
        VariationalEM(two_widths, law).fit(x)
    with pytest.raises(PlanError, match='at site "y" one of the two is without the other'):
        VariationalEM(lambda x: two_widths(x, apart=True), law).fit(x)
    several = NormalWishart(torch.zeros(2), 1.0, torch.stack([MATRIX, 2 * MATRIX]), 3.0)
    with pytest.raises(ParameterError, match="one scale_matrix_inverse and df"):
        VariationalEM(gaussian_mixture.tied, {"weights": FLAT, ("loc", "scale_tril"): several}).fit(points())
