"""`dist.GaussianHMM` and `dist.GaussianMRF`, whose latents are summed out in their own density: by dense matrices.

Pyro's recursion adds precisions up, and has fewer digits than a covariance.
"""

from collections.abc import Callable

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.typing import NDArray
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from torch import Tensor, eye, ones, tensor, zeros
from torch.distributions import constraints

from em_pyro import EM

Array = NDArray[np.float64]
T, K, D = 8, 2, 3
RNG = np.random.default_rng(4)
H = RNG.standard_normal((D, K))
X = np.concatenate([RNG.standard_normal((2, T, D)).cumsum(1), 0.5 * RNG.standard_normal((2, T, D))])


def log_normal(x: Array, mean: Array, covariance: Array) -> Array:
    """Log-densities of the rows of `x`."""
    root = np.linalg.cholesky(covariance)
    white = np.linalg.solve(root, (x - mean).T)
    found: Array = -0.5 * (white**2).sum(0) - np.log(root.diagonal()).sum() - 0.5 * len(mean) * np.log(2 * np.pi)
    return found


def normal(scale: Tensor, mean: Tensor | None = None) -> dist.Distribution:
    """Independent numbers."""
    return dist.Normal(torch.zeros_like(scale) if mean is None else mean, scale).to_event(1)


def chain(F: Tensor, step: Tensor, seen: Tensor, drift: Tensor | None = None) -> dist.Distribution:
    """A chain of states whose first is standard normal, and is not seen."""
    first, moves = normal(ones(K).double()), normal(step * ones(K).double(), drift)
    return dist.GaussianHMM(first, F.mT, moves, tensor(H).T, normal(seen * ones(D).double()), duration=T)


def by_chain(x: Array, F: Array, step: Array | float, seen: float, drift: Array | float = 0.0) -> Array:
    """Log-density of every sequence: all states are one linear function of independent numbers."""
    powers = [np.linalg.matrix_power(F, t) for t in range(T + 1)]
    root = np.zeros((T, K, T + 1, K))
    for t in range(T):
        root[t, :, 0] = powers[t + 1]
        for s in range(t + 1):
            root[t, :, s + 1] = powers[t - s] * step
    mean = np.array([sum(powers[s] @ np.broadcast_to(drift, K) for s in range(t + 1)) for t in range(T)]) @ H.T
    seen_root = np.einsum("dk,tksj->tdsj", H, root).reshape(T * D, -1)
    return log_normal(x.reshape(-1, T * D), mean.reshape(-1), seen_root @ seen_root.T + seen**2 * np.eye(T * D))


def _param(name: str, value: Tensor, *, positive: bool = False) -> Tensor:
    return pyro.param(name, value.double(), constraint=constraints.positive if positive else constraints.real)


def drifting(x: Tensor) -> None:
    """Matrices, means and scales are parameters."""
    F, drift = _param("F", 0.5 * eye(K)), _param("drift", zeros(K))
    step, seen = _param("step", ones(K), positive=True), _param("seen", tensor(1.0), positive=True)
    with pyro.plate("sequences", len(x)):
        pyro.sample("x", chain(F, step, seen, drift), obs=x)


def two_kinds(x: Tensor) -> None:
    """Each sequence is of one of two kinds."""
    share = pyro.param("share", tensor([0.4, 0.6]).double(), constraint=constraints.simplex)
    F, seen = _param("F", torch.stack([0.5 * eye(K), 0.9 * eye(K)])), _param("seen", tensor([1.0, 0.6]), positive=True)
    with pyro.plate("sequences", len(x)):
        c = pyro.sample("c", dist.Categorical(share))
        pyro.sample("x", chain(F[c].unsqueeze(-3), tensor(0.5), seen[c][..., None, None]), obs=x)


def partly_seen(x: Tensor) -> None:
    """One sequence was not observed, and the chain has a prior."""
    keep, seen = pyro.sample("keep", dist.Normal(tensor(0.5).double(), 0.3)), _param("seen", tensor(1.0), positive=True)
    with pyro.plate("sequences", len(x)):
        law = chain(keep * eye(K).double(), tensor(0.5), seen)
        pyro.sample("x", law.mask(tensor([True, False, True, True])), obs=x)


CHAINS: dict[str, tuple[Callable[[Tensor], None], Callable[[dict[str, Array]], float]]] = {
    "drifting": (drifting, lambda p: by_chain(X, p["F"], p["step"], float(p["seen"]), p["drift"]).sum()),
    "two kinds": (
        two_kinds,
        lambda p: np.logaddexp(
            *(np.log(p["share"][c]) + by_chain(X, p["F"][c], 0.5, float(p["seen"][c])) for c in (0, 1))
        ).sum(),
    ),
    "partly seen": (partly_seen, lambda p: by_chain(X[[0, 2, 3]], p["keep"] * np.eye(K), 0.5, float(p["seen"])).sum()),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_has_the_evidence_of_a_dense_normal_law(name: str) -> None:
    """After a step, and after some more, which have led higher."""
    (model, evidence), heights = CHAINS[name], []
    for steps in (1, 4):
        pyro.clear_param_store()
        fit = EM(model, max_steps=steps).fit(tensor(X))
        close(fit.log_likelihood, evidence({n: value.numpy() for n, value in fit.params.items()}), SOLVERS)
        heights.append(fit.objective)
    assert heights[1] > heights[0]


def field(x: Tensor) -> None:
    """Neighbours draw each other, by a precision that there is only below a pull of two."""
    pull, noise = _param("pull", tensor(0.3)), _param("noise", tensor(1.0), positive=True)
    pair = 2 * eye(2).double() - pull * eye(2).double().flip(0)
    one, both = tensor([[1.0]]).double(), tensor([[1.0, -1.0], [-1.0, 2.0]]).double() / noise
    laws = [dist.MultivariateNormal(zeros(len(part)).double(), precision_matrix=part) for part in (one, pair, both)]
    with pyro.plate("sequences", len(x)):
        pyro.sample("x", dist.GaussianMRF(laws[0], laws[1].expand((T,)), laws[2].expand((T,))), obs=x)


def by_field(x: Array, pull: float, noise: float) -> float:
    """All potentials in one matrix, states before what is seen of them."""
    J = np.zeros((2 * T + 1, 2 * T + 1))
    J[0, 0] = 1.0
    for t in range(T):
        J[np.ix_([t, t + 1], [t, t + 1])] += np.array([[2.0, -pull], [-pull, 2.0]])
        J[np.ix_([t + 1, T + 1 + t], [t + 1, T + 1 + t])] += np.array([[1.0, -1.0], [-1.0, 2.0]]) / noise
    return float(log_normal(x[..., 0], np.zeros(T), np.linalg.inv(J)[T + 1 :, T + 1 :]).sum())


@pytest.mark.parametrize("smooth", [False, True])
def test_a_field_ends_with_its_evidence(smooth: bool) -> None:  # noqa: FBT001
    """Smooth sequences want a pull beyond which there is no density: the fit ends there, and claims no maximum."""
    x = (0.5 * X if smooth else np.random.default_rng(1).standard_normal(X.shape))[..., :1]
    pyro.clear_param_store()
    fit = EM(field).fit(tensor(x))
    close(fit.log_likelihood, by_field(x, *(float(fit.params[name]) for name in ("pull", "noise"))), SOLVERS)
    assert (abs(float(fit.params["pull"]) - 2) < 1e-3) == smooth
    assert (str(fit.outcome) == "converged") != smooth
