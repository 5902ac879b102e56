"""Cross-validation of models with Gaussian latents: rows are dealt with what stands for their latents."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models.factor_analysis import factor_analysis
from oracles.agreement import close
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError, cross_validate

X = torch.randn((30, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ tensor(
    [[1.0, 0.8, -0.5], [0.0, 0.5, 0.2], [0.0, 0.0, 0.6]], dtype=torch.float64
)


def schools(y: Tensor) -> None:
    """Pupils in schools, each school with an effect."""
    mean = pyro.param("mean", tensor(0.0))
    between = pyro.param("between", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("schools", len(y), dim=-2):
        effect = pyro.sample("effect", dist.Normal(0.0, between))
        with pyro.plate("pupils", y.shape[1], dim=-1):
            pyro.sample("y", dist.Normal(mean + effect, 0.5), obs=y)


def test_factors_by_hand() -> None:
    """Every row has the normal density that the other folds give it."""
    found = cross_validate(factor_analysis, X, plate="rows", folds=3)
    for fold in range(3):
        pyro.clear_param_store()
        params = EM(factor_analysis).fit(X[found.fold != fold]).params
        root = params["loadings"]
        covariance = root @ root.mT + params["scale"].square().diag()
        rows = found.fold == fold
        close(found.per_row[rows], dist.MultivariateNormal(params["loc"], covariance).log_prob(X[rows]), 1e-8)


def test_every_school_is_a_fold() -> None:
    """The plate that is cut is then one of a single row, whose latent nobody else has."""
    found = cross_validate(schools, X[:5], plate="schools", folds=5)
    pyro.clear_param_store()
    fit = EM(schools).fit(X[:5][found.fold != 2])
    close(found.per_fold[2], fit.posterior_on(X[:5][found.fold == 2]).log_evidence)


def test_rows_that_depend_on_others() -> None:
    """Are refused all the same."""

    def centred(x: Tensor) -> None:
        factor_analysis(x - x.mean(0))

    with pytest.raises(ModelError, match="to have the same density whatever other rows are passed"):
        cross_validate(centred, X, plate="rows")
