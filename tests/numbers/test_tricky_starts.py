"""Data on which EM has many maxima: random starts find at least what k-means starts find, as mclust and others do."""

from collections.abc import Callable

import pyro
import pytest
import torch
from em_pyro.models import gaussian_mixture
from em_pyro.models.data import load
from oracles.tolerances import SOLVERS
from programs.iris import iris
from torch import Tensor

from em_pyro import EM, Fit
from em_pyro.fit.starting.seeding import plus_plus


def by_k_means(x: Tensor, K: int, generator: torch.Generator) -> Tensor:
    """Label rows by the best of ten runs of Lloyd's algorithm, from k-means++."""
    ends = []
    for _ in range(10):
        label = plus_plus(x, K, generator)
        for _ in range(50):
            centres = torch.stack([x[label == k].mean(0) if (label == k).any() else x[k] for k in range(K)])
            label = torch.cdist(x, centres).argmin(-1)
        ends.append((float(torch.cdist(x, centres).amin(-1).square().sum()), label))
    return min(ends, key=lambda end: end[0])[1]


def rival(model: Callable[..., None], x: Tensor, K: int) -> Fit:
    """Fit from k-means labels."""
    flat, starts = x.reshape(len(x), -1), []
    for seed in range(4):
        label = by_k_means(flat, K, torch.Generator().manual_seed(seed))
        groups = [flat[label == k] for k in range(K)]
        start = {"weights": torch.bincount(label, minlength=K) / len(x)}
        start["loc"] = torch.stack([group.mean(0) for group in groups]).reshape(-1, *x.shape[1:])
        cov = torch.stack([torch.cov(g.T, correction=0).reshape(flat.shape[1], -1) for g in groups])
        root = torch.linalg.cholesky(cov + 1e-6 * torch.eye(flat.shape[1]))
        starts.append(start | ({"scale": root.reshape(-1)} if x.dim() == 1 else {"scale_tril": root}))
    pyro.clear_param_store()
    return EM(model, starts=starts, screen=False).fit(x, K)


@pytest.mark.parametrize(("name", "K", "known"), [("iris", 3, -180.1855), ("galaxies", 5, -190.0712)])
def test_tricky_data(name: str, K: int, known: float) -> None:
    """Forty starts find at least what k-means starts find, and the best maximum known that is no collapse."""
    model = gaussian_mixture.full if name == "iris" else gaussian_mixture.univariate
    x = iris() if name == "iris" else torch.as_tensor(load("galaxies")["x"], dtype=torch.float64)
    theirs = rival(model, x, K)
    pyro.clear_param_store()
    ours = EM(model, starts=40).fit(x, K)
    assert ours.outcome == theirs.outcome == "converged"
    assert ours.objective >= theirs.objective - SOLVERS * abs(theirs.objective)
    assert ours.objective >= known - 1e-3
    assert ours.starts.maxima > 1
