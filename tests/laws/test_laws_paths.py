"""EM on a Pyro program follows the path of the EM derived by hand, iterate by iterate."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import coins, gaussian_mixture
from oracles.agreement import close
from oracles.tolerances import IDENTITY
from programs.registry import build
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, analytic
from em_pyro.fit.loop import State
from em_pyro.m_step.least_squares.solver import LeastSquares

STEPS = 12
Path = list[dict[str, Tensor]]


def path_of(model: Callable[..., Any], *args: Any, steps: int = STEPS) -> Path:
    """Parameters after every step of a fit, the first step's first."""
    seen: list[State] = []
    EM(model, tol=0, max_steps=steps, callback=seen.append).fit(*args)
    assert [state.step for state in seen] == list(range(1, steps + 1))
    return [state.params for state in seen]


def follows(path: Path, by_hand: analytic.ParameterPath, names: dict[str, str]) -> None:
    """Assert that every iterate is that of the hand-derived path."""
    for step, params in enumerate(path, 1):
        for ours, theirs in names.items():
            close(params[ours].numpy(), by_hand.params[theirs][step])


@pytest.mark.parametrize("equal", [True, False])
def test_coins(equal: bool) -> None:  # noqa: FBT001
    """Sequences of unequal length, with known and with estimated weights."""
    heads, flips = coins.simulate(seed=3)
    bias = [0.7, 0.4]
    by_hand = analytic.coin_mixture(
        heads.numpy(), flips.numpy(), bias, [0.5, 0.5], steps=STEPS, estimate_weights=not equal
    )
    pyro.param("bias", tensor(bias), constraint=constraints.unit_interval)
    path = path_of(coins.equal_coins if equal else coins.coins, heads, flips)
    follows(path, by_hand, {"bias": "bias"} if equal else {"bias": "bias", "weights": "weights"})


@pytest.mark.parametrize("tied", [True, False])
def test_univariate_gaussians(tied: bool) -> None:  # noqa: FBT001
    """Scales of their own, and one for all."""
    x = gaussian_mixture.simulate(D=0, K=3, seed=3)
    loc, scale, weights = [-1.0, 3.0, 9.0], 1.7 if tied else [1.0, 2.0, 1.5], [0.2, 0.5, 0.3]
    by_hand = analytic.normal_mixture(x.numpy(), loc, scale, weights, steps=STEPS, tied=tied)
    pyro.param("loc", tensor(loc))
    pyro.param("scale", tensor(scale), constraint=constraints.positive)
    pyro.param("weights", tensor(weights), constraint=constraints.simplex)

    def model(x: Tensor) -> None:
        gaussian_mixture.univariate(x, 3, tied=tied)

    follows(path_of(model, x), by_hand, {"loc": "means", "scale": "sds", "weights": "weights"})


def test_two_groups() -> None:
    """Known equal weights."""
    x = gaussian_mixture.simulate(D=0, seed=4)
    by_hand = analytic.normal_mixture(
        x.numpy(), [-1.0, 3.0], [1.0, 2.0], [0.5, 0.5], steps=STEPS, estimate_weights=False
    )
    pyro.param("loc", tensor([-1.0, 3.0]))
    pyro.param("scale", tensor([1.0, 2.0]), constraint=constraints.positive)
    follows(path_of(gaussian_mixture.two_groups, x), by_hand, {"loc": "means", "scale": "sds"})


LOC = [[-1.0, 0.5], [4.0, 3.0]]
COVARIANCES = {
    "full": tensor([[[1.5, 0.2], [0.2, 1.0]], [[1.0, -0.3], [-0.3, 2.0]]]).double(),
    "tied": tensor([[1.5, 0.2], [0.2, 1.0]]).double(),
    "diagonal": tensor([[1.5, 1.0], [0.8, 2.0]]).double(),
    "spherical": tensor([1.5, 0.8]).double(),
}


def mixture_path(
    kind: str, model: Callable[..., Any], role: str
) -> tuple[list[dict[str, Tensor]], analytic.ParameterPath]:
    """The path of a fit with the role's values as covariances, and the hand-derived one."""
    x, start = gaussian_mixture.simulate(seed=5), COVARIANCES[kind]
    value = {"scale_tril": torch.linalg.cholesky, "scale": torch.sqrt, "covariance": torch.clone}[role](start)
    domain = {
        "scale_tril": constraints.lower_cholesky,
        "scale": constraints.positive,
        "covariance": constraints.positive_definite,
    }
    pyro.param("loc", tensor(LOC))
    pyro.param(role, value, constraint=domain[role])
    pyro.param("weights", tensor([0.4, 0.6]), constraint=constraints.simplex)
    path = path_of(model, x)
    back = {"scale_tril": lambda root: root @ root.mT, "scale": torch.square, "covariance": torch.clone}[role]
    path = [{**params, role: back(params[role])} for params in path]
    by_hand = analytic.gaussian_mixture(x.numpy(), LOC, start.numpy(), [0.4, 0.6], steps=STEPS, covariance=kind)
    return path, by_hand


KINDS = [
    ("full", gaussian_mixture.full, "scale_tril"),
    ("full", gaussian_mixture.full_covariance, "covariance"),
    ("tied", gaussian_mixture.tied, "scale_tril"),
    ("diagonal", gaussian_mixture.diagonal, "scale"),
    ("spherical", gaussian_mixture.spherical, "scale"),
]


@pytest.mark.parametrize(("kind", "model", "role"), KINDS, ids=[f"{kind}-{role}" for kind, _, role in KINDS])
def test_multivariate_gaussians(kind: str, model: Callable[..., Any], role: str) -> None:
    """Full, tied, diagonal and spherical covariances."""
    path, by_hand = mixture_path(kind, model, role)
    follows(path, by_hand, {"loc": "means", role: "covariances", "weights": "weights"})


def test_a_slightly_wrong_scale_leaves_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver whose scales are 0.1 % too big, which no step of the objective betrays."""
    right = LeastSquares.solve

    def wrong(self: LeastSquares, *args: Any) -> dict[str, Tensor]:
        new = right(self, *args)
        return {name: 1.001 * v if name == "scale" else v for name, v in new.items()}

    monkeypatch.setattr(LeastSquares, "solve", wrong)
    # The trial of closed forms would withdraw the wrong solver before it could leave the path.
    monkeypatch.setattr("em_pyro.fit.starting.trial.STATIONARY", float("inf"))
    path, by_hand = mixture_path("diagonal", gaussian_mixture.diagonal, "scale")
    with pytest.raises(AssertionError, match="largest difference"):
        follows(path[:1], by_hand, {"scale": "covariances"})


# ---- partly labelled -------------------------------------------------------------------------------------------------


def labelled_step(x: Tensor, label: Tensor, known: Tensor, weights: Tensor, loc: Tensor) -> tuple[Tensor, Tensor]:
    """One step by hand: a labelled row is its label's, the others go by Bayes' rule; then proportions and means."""
    gamma = (weights.log() - 0.5 * (x[:, None] - loc) ** 2).softmax(1)
    gamma = torch.where(known[:, None], torch.nn.functional.one_hot(label, 2).double(), gamma)
    return gamma.mean(0), (gamma * x[:, None]).sum(0) / gamma.sum(0)


def test_partly_labelled() -> None:
    """Labels enter as certainties, and the unobserved half of a labelled row counts nothing."""
    case = build("partly_labelled")
    x, label, known = case.args
    weights, loc = tensor([0.35, 0.65]), tensor([-0.4, 2.3])
    slower = weights.clone()
    for step, params in enumerate(path_of(case.model, *case.args)):
        slower = 0.5 * (slower + labelled_step(x, label, known, slower, loc)[0])  # the unobserved half counted too
        weights, loc = labelled_step(x, label, known, weights, loc)
        close(params["weights"].numpy(), weights.numpy())
        close(params["loc"].numpy(), loc.numpy())
        assert step > 3 or (params["weights"] - slower).abs().max() > IDENTITY


def test_mostly_labelled_converges_as_fast_as_by_hand() -> None:
    """With 80 % of the labels there, the first iterates are the hand-derived ones, not those of a slower EM."""
    x = gaussian_mixture.simulate(n=50, D=0, seed=6)
    label, known = (x > 2).long(), torch.arange(50) % 5 != 0
    case = build("partly_labelled")
    weights, loc = tensor([0.35, 0.65]), tensor([-0.4, 2.3])
    for params in path_of(case.model, x, label, known, steps=5):
        weights, loc = labelled_step(x, label, known, weights, loc)
        close(params["weights"].numpy(), weights.numpy())
        close(params["loc"].numpy(), loc.numpy())


# ---- the same program written in other ways --------------------------------------------------------------------------


def in_a_plate(x: Tensor) -> None:
    """Mix two Normals."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-0.4, 2.3]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@pytest.mark.parametrize("name", ["python_loop", "sequential_plate"])
def test_a_python_loop_is_the_plate(name: str) -> None:
    """Rows by a loop, known or unknown to Pyro as a plate, and by a plate have the same iterates."""
    x = gaussian_mixture.simulate(n=70, D=0, seed=7)  # more than Pyro itself has dimensions for
    path = path_of(build(name).model, x, steps=4)
    pyro.clear_param_store()
    for ours, theirs in zip(path, path_of(in_a_plate, x, steps=4), strict=True):
        close(ours["weights"].numpy(), theirs["weights"].numpy())
        close(ours["loc"].numpy(), theirs["loc"].numpy())
    pyro.clear_param_store()
    with pytest.raises(AssertionError, match="largest difference"):
        close(path[-1]["loc"].numpy(), path_of(in_a_plate, 1.001 * x, steps=4)[-1]["loc"].numpy())
