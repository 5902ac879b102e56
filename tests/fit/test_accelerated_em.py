"""EM accelerated: it never ends lower than plain EM, and where plain EM creeps it takes far fewer steps."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture, poisson_mixture
from em_pyro.models.data import load
from oracles.agreement import expected
from oracles.answers import expand
from oracles.tolerances import SOLVERS
from programs import registry, zoo

from em_pyro import EM, Fit
from em_pyro.errors import ParameterError
from em_pyro.fit.loop import State

SMALL = (
    "gaussian_mixture",  # closed form
    "three_nested_plates",
    "gap_in_chain",  # a plain fit takes thousands of steps
    "nested_counts",
    "structural_zeros",  # infinite coordinates
    "partly_labelled_chain",  # weights that go to zero
    "RegisteredLinear",  # weights of a torch module, by torch
    "beta_coins",
    "priors_without_conjugacy",  # swept
)
KINDS = (None, "squarem", "quasi-newton", "auto")
ZOO = ("gaussian-full", "latent-classes", "poisson", "plsa")


def fitted(model: Any, args: tuple[Any, ...], **options: Any) -> Fit:
    """Fit in a param store of its own."""
    with pyro.get_param_store().scope():
        return EM(model, check=False, **options).fit(*args)


def check(plain: Fit, fast: Fit) -> None:
    """Compare a fit by SQUAREM with a plain one from the same start."""
    never_lower(plain, fast)
    spent = fast.acceleration
    assert spent is not None
    assert len(fast.path) - 1 <= spent.cycles <= fast.num_steps <= 3 * spent.cycles
    assert spent.rejected + spent.squarem.extrapolated <= spent.cycles
    assert "SQUAREM" in str(fast)


def never_lower(plain: Fit, fast: Fit) -> None:
    """Compare an accelerated fit with a plain one from the same start."""
    assert fast.path[0] == pytest.approx(plain.path[0], rel=1e-12)
    assert fast.objective >= plain.objective - SOLVERS * (1 + abs(plain.objective))
    falls = [before - after for before, after in zip(fast.path, fast.path[1:], strict=False)]
    assert max(falls, default=0) <= 1e-10 * (1 + abs(fast.objective))
    assert plain.acceleration is None
    spent = fast.acceleration
    if spent is not None:  # "auto" may find that plain steps do
        assert spent.evaluations == fast.num_steps >= len(fast.path) - 1
        assert str(spent) in str(fast)


@pytest.mark.laws
@pytest.mark.parametrize("name", SMALL)
def test_never_lower_on_small_programs(name: str) -> None:
    """Whatever the M-steps are, acceleration ends where plain EM ends, or higher."""
    cases = {kind: registry.build(name) for kind in KINDS}  # one each: modules keep what was fitted
    plain, *others = (fitted(c.model, c.args, max_steps=120, acceleration=kind) for kind, c in cases.items())
    check(plain, others[0])
    for fast in others[1:]:
        never_lower(plain, fast)


@pytest.mark.laws
@pytest.mark.parametrize("name", ZOO)
def test_never_lower_on_the_zoo(name: str) -> None:
    """The same on models from the literature."""
    model, args = zoo.simulated(name, seed=1)
    plain, *others = (fitted(model, args, max_steps=150, acceleration=kind) for kind in KINDS)
    check(plain, others[0])
    for fast in others[1:]:
        never_lower(plain, fast)


def test_london_deaths() -> None:
    """The classic (Hasselblad 1969): a rate of 0.99567 costs plain EM thousands of steps."""
    want = expected("london_deaths")["golden"]["loglik"]
    counts = expand(torch.tensor(load("london_deaths")["days"]))
    start = {"weights": torch.tensor([0.3, 0.7]), "rate": torch.tensor([1.0, 2.5])}
    model, options = poisson_mixture.poisson_mixture, {"starts": start, "tol": 1e-10}
    fast = fitted(model, (counts,), **options, max_steps=1000, acceleration="squarem")
    plain = fitted(model, (counts,), **options, max_steps=10 * fast.num_steps, acceleration=None)
    check(plain, fast)
    assert fast.converged
    assert abs(fast.objective - want) <= SOLVERS
    assert not plain.converged
    assert fast.acceleration is not None
    assert fast.acceleration.reach > 5 * fast.num_steps


def badly_started() -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
    """Three Gaussians that overlap, all started at the left end of the data."""
    generator = torch.Generator().manual_seed(1)
    x = torch.cat([torch.randn(200, generator=generator) + centre for centre in (0.0, 2.0, 4.0)])
    start = {
        "weights": torch.tensor([0.8, 0.1, 0.1]),
        "loc": torch.quantile(x, torch.tensor([0.01, 0.02, 0.03])),
        "scale": torch.full((3,), float(x.std())),
    }
    return partial(gaussian_mixture.univariate, K=3), x, start


def steps_to(points: list[tuple[int, float]], level: float) -> int:
    """Return after how many EM steps a fit was within 1e-3 nats of `level`."""
    return next(step for step, objective in points if objective >= level - 1e-3)


def test_badly_started_mixture() -> None:
    """To within 1e-3 nats of the maximum, plain EM takes several times as many steps."""
    model, x, start = badly_started()
    seen: dict[str | None, list[tuple[int, float]]] = {None: [], "squarem": []}
    fits = []
    for kind, points in seen.items():

        def note(state: State, points: list[tuple[int, float]] = points) -> None:
            points.append((state.step, state.objective))

        options = {"starts": start, "max_steps": 5000, "tol": 1e-12, "callback": note, "acceleration": kind}
        fits.append(fitted(model, (x,), **options))
    check(*fits)
    best = max(fit.objective for fit in fits)
    assert steps_to(seen["squarem"], best) * 3 < steps_to(seen[None], best)


def test_every_step_is_counted() -> None:
    """`max_steps` is a number of EM steps: neither more nor, with `tol=0`, fewer are taken."""
    model, x, start = badly_started()
    for cap in (0, 1, 2, 3, 4, 11):
        steps: list[State] = []
        fit = fitted(model, (x,), starts=start, max_steps=cap, tol=0, acceleration="squarem", callback=steps.append)
        assert fit.num_steps == cap
        assert fit.outcome == "step limit"
        assert [state.objective for state in steps] == list(fit.path[1:])
        assert [state.step for state in steps] == sorted({state.step for state in steps})
        if steps:
            assert steps[-1].step == cap


def test_saddle_is_left() -> None:
    """A start at a saddle is left as a plain fit leaves it."""
    x = torch.linspace(-1.0, 1.0, 40) + 2.0 * (torch.arange(40) % 2)
    start = {"weights": torch.tensor([0.5, 0.5]), "loc": torch.ones(2), "scale": torch.ones(2)}
    plain, fast = (
        fitted(gaussian_mixture.univariate, (x,), starts=start, acceleration=kind) for kind in (None, "squarem")
    )
    check(plain, fast)
    assert any("saddle" in note for note in fast.notes)


def test_unbounded_prior_is_named() -> None:
    """Where no EM step is defined, the ending is that of a plain fit."""

    def model(x: torch.Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([0.3, 0.3])))
        loc = pyro.param("loc", torch.tensor([0.0, 40.0]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    x, start = torch.tensor([0.1, -0.3, 0.4]), {"weights": torch.tensor([0.5, 0.5])}
    plain, fast = (fitted(model, (x,), starts=start, acceleration=kind) for kind in (None, "squarem"))
    assert plain.outcome == fast.outcome == "prior unbounded"


def test_fit_can_be_saved() -> None:
    """What was spent is part of a fit that is pickled."""
    model, x, start = badly_started()
    fit = fitted(model, (x,), starts=start, max_steps=9, acceleration="squarem")
    assert pickle.loads(pickle.dumps(fit)).acceleration == fit.acceleration


@pytest.mark.parametrize("value", ["SQUAREM", "aitken", True, 1])
def test_unknown_acceleration(value: Any) -> None:
    """An unknown acceleration is refused."""
    with pytest.raises(ParameterError, match="acceleration"):
        EM(gaussian_mixture.univariate, acceleration=value)
