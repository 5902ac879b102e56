"""SQUAREM on laws: fewer steps to the same bound, which never falls; and off when it is not wanted."""

from typing import Any

import pyro
import pyro.distributions as pyro_dist
import pytest
import torch
import torch.distributions as dist
from em_pyro.models import gaussian_mixture, poisson_mixture
from em_pyro.models.data import load
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor

import em_pyro.fit.acceleration.squarem as squared
from em_pyro import NormalWishart, ObjectiveError, StickBreaking, VariationalEM, VariationalFit
from em_pyro.variational.climbing.hyper import CHARTS, laws_at, vector
from em_pyro.variational.stick_breaking import Sticks

DOUBLE = torch.float64
K = 6


def faithful() -> Tensor:
    """Eruptions and waiting times."""
    data = load("faithful")
    return torch.stack([torch.as_tensor(data["eruptions"]), torch.as_tensor(data["waiting"])], -1).double()


def slow(acceleration: str | None, **options: Any) -> VariationalFit:
    """Sticks in the order of six states, of which the data need two: a hundred steps and more."""
    x = faithful()
    rows = x[x[:, 0].argsort(stable=True)].tensor_split(K)
    start = {
        "weights": torch.full((K,), 1 / K, dtype=DOUBLE),
        "loc": torch.stack([part.mean(0) for part in rows]),
        "scale_tril": (torch.linalg.cholesky(x.mT.cov()) / 2).repeat(K, 1, 1),
    }
    pair = NormalWishart(x.mean(0), 1.0, x.mT.cov(), 2.0)
    priors = {"weights": StickBreaking(1.0, sort=False), ("loc", "scale_tril"): pair}
    em = VariationalEM(gaussian_mixture.full, priors, starts=start, acceleration=acceleration, **options)
    return em.fit(x, K)


def quick(acceleration: str | None, **options: Any) -> VariationalFit:
    """A few counts in two groups: a handful of steps."""
    counts = tensor([1.0, 0.0, 3.0, 2.0, 9.0, 7.0, 8.0, 2.0, 1.0, 11.0, 6.0, 0.0], dtype=DOUBLE)
    priors = {"weights": dist.Dirichlet(torch.ones(2)), "rate": dist.Gamma(1.5, 0.4)}
    return VariationalEM(poisson_mixture.poisson_mixture, priors, acceleration=acceleration, **options).fit(counts)


def rises(fit: VariationalFit) -> bool:
    """Whether the bound never falls beyond rounding."""
    return all(b >= a - IDENTITY * (1 + abs(a)) for a, b in zip(fit.path, fit.path[1:], strict=False))


def test_fewer_steps_to_the_same_bound() -> None:
    """By SQUAREM from the first step; by default once plain steps are slow; plain where none is asked for."""
    plain, auto, always = (slow(a) for a in (None, "auto", "squarem"))
    assert plain.acceleration is None
    assert plain.num_steps == len(plain.path) - 1
    for fit in (auto, always):
        assert fit.converged
        assert rises(fit)
        assert fit.num_steps < 0.7 * plain.num_steps
        assert distance(fit.elbo, plain.elbo) < SOLVERS
        assert distance(fit.params["weights"], plain.params["weights"]) < 1e-3
        assert fit.acceleration is not None
        assert fit.acceleration.squarem.extrapolated > 3
        assert str(fit.acceleration) in str(fit)
    assert distance(tensor(auto.path[:20]), tensor(plain.path[:20])) == 0


def test_what_is_quick_is_left_alone() -> None:
    """By default a few steps are the plain ones, and `tol=0` never is anything else."""
    assert quick("auto").path == quick(None).path
    assert slow("auto", tol=0, max_steps=120).path == slow(None, tol=0, max_steps=120).path


@pytest.mark.parametrize("cap", range(9))
def test_the_cap_is_kept(cap: int) -> None:
    """No cycle is begun that would take more steps than are left."""
    fit = slow("squarem", max_steps=cap, tol=0)
    assert fit.num_steps == cap or cap - 3 < fit.num_steps <= cap
    assert fit.outcome == "step limit"
    assert rises(fit)
    assert fit.elbo == fit.path[-1]


# ---- the guard -------------------------------------------------------------------------------------------------------


def test_where_the_bound_is_lower_nobody_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Extrapolations that lead astray are given up; without the guard the fall is seen."""
    plain = squared.extrapolate

    def astray(x: Tensor, x1: Tensor, x2: Tensor, *, step_max: float) -> tuple[Tensor, float]:
        return plain(x, x1, x2, step_max=step_max)[0] - 2.0 * (x2 - x).sign(), 3.0

    monkeypatch.setattr(squared, "extrapolate", astray)
    fit = slow("squarem", tol=0, max_steps=60)
    assert fit.acceleration is not None
    assert fit.acceleration.squarem.rejected > 10
    assert rises(fit)
    measure = squared._measure
    monkeypatch.setattr(squared, "_measure", lambda step, y, at_least: measure(step, y, at_least=-1e9))
    with pytest.raises(ObjectiveError, match="expected the bound to rise"):
        slow("squarem", tol=0, max_steps=60)


# ---- there and back --------------------------------------------------------------------------------------------------


def laws() -> list[Any]:
    """One of every kind, in batches."""
    generator = torch.Generator().manual_seed(0)
    shapes = 0.02 + 9 * torch.rand((3, 2), generator=generator, dtype=DOUBLE)
    matrix = tensor([[3.0, 1.0], [1.0, 2.0]], dtype=DOUBLE).repeat(3, 1, 1) * (1 + shapes[:, :1, None])
    return [
        dist.Dirichlet(shapes),
        dist.Beta(shapes, shapes.flip(0)),
        dist.Gamma(shapes, shapes.flip(0)),
        dist.InverseGamma(1 + shapes, shapes.flip(0)),
        dist.Normal(shapes, shapes.flip(0)),
        dist.MultivariateNormal(shapes, matrix),
        NormalWishart(shapes, shapes[:, 0], matrix, 1 + shapes[:, 1]),
        Sticks(shapes, shapes.flip(0), tensor([[1, 0], [0, 1], [1, 0]]), StickBreaking(2.0)),
    ]


class Law:
    """A conjugate prior as far as it is asked."""

    def __init__(self, *, moves: bool) -> None:
        """Whether steps move it."""
        self.moves = moves


def test_every_law_is_found_again() -> None:
    """From the vector of all; nothing is left over, and what no step moves is the same."""
    every = laws()
    assert [*CHARTS] == [type(law) for law in every]
    for law in every:
        held: Any = [(Law(moves=True), law), (Law(moves=False), "fixed")]
        point = vector(held)
        (_, again), (_, fixed) = laws_at(point, held)
        assert fixed == "fixed"
        assert distance(vector([(held[0][0], again)]), point) < IDENTITY  # type: ignore[list-item]
        for name in ("concentration", "rate", "loc", "covariance", "covariance_matrix", "kappa", "df", "ones", "mean"):
            if hasattr(law, name):
                assert distance(getattr(again, name), getattr(law, name)) < IDENTITY


def spare(x: Tensor) -> None:
    """Three clusters where two will do: the third loses its rows, ever so slowly."""
    weights = pyro.sample("weights", pyro_dist.Dirichlet(torch.ones(3)))
    loc = pyro.sample("loc", pyro_dist.Normal(tensor([-1.0, 0.0, 1.0]), 5.0).to_event(1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", pyro_dist.Categorical(weights))
        pyro.sample("x", pyro_dist.Normal(loc[z], 1.0), obs=x)


def test_gains_that_do_not_shrink_begin_it() -> None:
    """A rate says nothing there, and plain steps creep on to the cap."""
    heights = 2**0.5 * torch.erfinv(2 * (torch.arange(60) + 0.5) / 60 - 1)
    x = torch.cat([heights - 2, heights + 2])
    plain, fit = VariationalEM(spare, acceleration=None).fit(x), VariationalEM(spare).fit(x)
    assert plain.outcome == "step limit"
    assert fit.outcome == "converged"
    assert fit.elbo > plain.elbo + 0.5
    assert float(fit.laws["weights"].concentration.min()) < 1.01
