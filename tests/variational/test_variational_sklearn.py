"""Variational mixtures against scikit-learn's BayesianGaussianMixture, from the same responsibilities."""

import warnings
from typing import Any

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from em_pyro.models.data import load
from oracles.engines import distance
from torch import Tensor

from em_pyro import EM, NormalWishart, StickBreaking, VariationalEM, VariationalFit

K = 6
EQUAL = 1e-8
"""What equal steps of two programs in double precision may differ by, relative to `1 + |number|`."""

FOUND = {
    ("dirichlet", 50): (0.3535117802, 3.67566e-05, 3.67566e-05, 0.1426866465, 3.67566e-05, 0.5036913035),
    ("process", 50): (0.3543853529, 0.0039331993, 0.020497188, 0.2175425941, 0.0038467205, 0.3997949452),
}
"""Weights that scikit-learn 1.9.1 found with `reg_covar=0`."""


def faithful() -> Tensor:
    """Eruptions and waiting times."""
    data = load("faithful")
    return torch.as_tensor(np.stack([data["eruptions"], data["waiting"]], -1))


def start(x: Tensor) -> dict[str, Tensor]:
    """Means of six equal runs of rows in the order of eruptions, a quarter of the covariance of all data."""
    rows = x[x[:, 0].argsort(stable=True)].tensor_split(K)
    tril = torch.linalg.cholesky(x.mT.cov()) / 2
    return {
        "weights": torch.full((K,), 1 / K),
        "loc": torch.stack([part.mean(0) for part in rows]),
        "scale_tril": tril.repeat(K, 1, 1),
    }


def fitted(kind: str, steps: int) -> VariationalFit:
    """As scikit-learn would have it: sticks in the order of the states."""
    x = faithful()
    weights = dist.Dirichlet(torch.full((K,), 0.01)) if kind == "dirichlet" else StickBreaking(1.0, sort=False)
    pair = NormalWishart(x.mean(0), 1.0, x.mT.cov(), 2.0)
    em = VariationalEM(
        gaussian_mixture.full,
        {"weights": weights, ("loc", "scale_tril"): pair},
        starts=start(x),
        tol=0,
        max_steps=steps,
    )
    return em.fit(x, K)


def scikit_learns(kind: str, steps: int) -> Any:
    """The mixture of scikit-learn, from the posterior of EM at the same start."""
    mixture = pytest.importorskip("sklearn.mixture")
    x = faithful()
    shares = EM(gaussian_mixture.full, starts=start(x)).posterior(x, K).marginal("component").numpy()

    class FromShares(mixture.BayesianGaussianMixture):  # type: ignore[misc]
        def _initialize_parameters(self, rows: Any, random_state: Any, **more: Any) -> None:
            self._initialize(rows, shares)

    name = "distribution" if kind == "dirichlet" else "process"
    made = FromShares(
        n_components=K,
        weight_concentration_prior_type=f"dirichlet_{name}",
        weight_concentration_prior=0.01 if kind == "dirichlet" else 1.0,
        mean_precision_prior=1.0,
        mean_prior=x.mean(0).numpy(),
        degrees_of_freedom_prior=2.0,
        covariance_prior=x.mT.cov().numpy(),
        reg_covar=0,
        tol=0,
        max_iter=steps,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        return made.fit(x.numpy())


@pytest.mark.parametrize("kind", ["dirichlet", "process"])
def test_equal_steps_are_scikit_learns(kind: str) -> None:
    """Weights, means and covariances after fifty steps."""
    theirs = scikit_learns(kind, 50)
    fit = fitted(kind, 50)
    law = fit.laws["loc", "scale_tril"]
    assert distance(fit.params["weights"], torch.as_tensor(theirs.weights_)) < EQUAL
    assert distance(law.loc, torch.as_tensor(theirs.means_)) < EQUAL
    assert distance(law.covariance, torch.as_tensor(theirs.covariances_)) < EQUAL
    assert distance(law.kappa, torch.as_tensor(theirs.mean_precision_)) < EQUAL


@pytest.mark.parametrize(("kind", "steps"), FOUND)
def test_weights_are_those_that_scikit_learn_found(kind: str, steps: int) -> None:
    """Where it is not installed: recorded."""
    assert distance(fitted(kind, steps).params["weights"], torch.tensor(FOUND[kind, steps])) < EQUAL
