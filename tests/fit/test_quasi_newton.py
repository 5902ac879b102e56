"""Quasi-Newton steps in a fit: how many EM steps they take, when they begin, what is left, what is refused."""

from __future__ import annotations

import pickle
from functools import cache, partial
from itertools import product
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import bernoulli_mixture, gaussian_mixture, poisson_mixture
from em_pyro.models.data import load
from oracles.agreement import expected
from oracles.answers import expand
from oracles.tolerances import SOLVERS

from em_pyro import EM, Fit
from em_pyro.fit.acceleration import quasi_newton
from em_pyro.fit.loop import State
from em_pyro.fit.stopping import SLOWEST


def fitted(model: Any, args: tuple[Any, ...], **options: Any) -> Fit:
    """Fit in a param store of its own."""
    with pyro.get_param_store().scope():
        return EM(model, check=False, **options).fit(*args)


# ---- problems on which plain EM creeps -------------------------------------------------------------------------------


def deaths() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two seasons of deaths in The Times, day by day (Hasselblad 1969)."""
    start = {"weights": torch.tensor([0.3, 0.7]), "rate": torch.tensor([1.0, 2.5])}
    return poisson_mixture.poisson_mixture, (expand(torch.tensor(load("london_deaths")["days"])),), start


def overlapping() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Three Gaussians, one and a half standard deviations apart."""
    generator = torch.Generator().manual_seed(1)
    x = torch.cat([torch.randn(200, generator=generator, dtype=torch.float64) + 1.5 * k for k in range(3)])
    start = {"weights": torch.full((3,), 1 / 3), "loc": torch.tensor([-1.0, 1.5, 4.0]), "scale": torch.ones(3)}
    return partial(gaussian_mixture.univariate, K=3), (x,), {k: v.double() for k, v in start.items()}


def vague_classes() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Four kinds of people whose answers to fifteen questions tell little: 63 parameters."""
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(4, 15, generator=generator, dtype=torch.float64) * 0.55 + 0.225
    kind = torch.randint(4, (600,), generator=generator)
    answers = (torch.rand(600, 15, generator=generator, dtype=torch.float64) < probs[kind]).double()
    start = {"weights": torch.full((4,), 0.25, dtype=torch.float64), "probs": 0.6 * probs + 0.2}
    return bernoulli_mixture.bernoulli_mixture, (answers, 4), start


@cache
def highest(problem: Any) -> Fit:
    """Follow quasi-Newton steps to where next to nothing is left: once, for all that asks how far away it is."""
    model, data, start = problem()
    return fitted(model, data, starts=start, acceleration="quasi-newton", tol=1e-12, max_steps=20_000)


@pytest.mark.parametrize(("problem", "most"), [(deaths, 40), (overlapping, 150), (vague_classes, 200)])
def test_few_em_steps_to_the_maximum(problem: Any, most: int) -> None:
    """To within 1e-6 nats, where plain EM takes hundreds or thousands; by quasi-Newton steps, and by default."""
    (model, data, start), top = problem(), highest(problem)
    plain = fitted(model, data, starts=start, acceleration=None, max_steps=most, tol=0)
    assert plain.objective < top.objective - 1e-6
    for fit in (top, fitted(model, data, starts=start, tol=1e-11, max_steps=20_000)):
        steps = next(step for step, objective in enumerate(fit.path) if objective >= top.objective - 1e-6)
        assert fit.converged
        assert steps <= most
        if problem is deaths:
            assert abs(fit.objective - expected("london_deaths")["golden"]["loglik"]) <= SOLVERS


@pytest.mark.parametrize(
    ("problem", "tol"), [*product((deaths, overlapping), (1e-6, 1e-8, 1e-10)), (vague_classes, 1e-8)]
)
def test_the_gap_is_true(problem: Any, tol: float) -> None:
    """What a fit says it has left to gain is no less than a quarter of what it has: plain steps show it late."""
    model, data, start = problem()
    fit, top = fitted(model, data, starts=start, acceleration="quasi-newton", tol=tol), highest(problem)
    rounding = 1e-11 * (1 + abs(fit.objective))
    if top.objective > fit.objective + 1e-3:  # another maximum: the gap is to the one that this fit is at
        top = fitted(model, data, starts=dict(fit.params), acceleration="quasi-newton", tol=1e-14, max_steps=3000)
    assert fit.converged
    assert fit.gap <= tol * (1 + abs(fit.objective))
    assert -rounding <= top.objective - fit.objective <= 4 * fit.gap + rounding


@pytest.mark.parametrize("form", [gaussian_mixture.full, gaussian_mixture.diagonal])
@pytest.mark.parametrize("K", [5, 6, 9])
def test_first_fits_end(K: int, form: Any) -> None:
    """A mixture of several components is fitted by default, without a word about `max_steps`."""
    geyser = load("faithful")
    x = torch.stack([torch.tensor(column, dtype=torch.float64) for column in geyser.values()], -1)
    assert fitted(form, (x, K)).outcome in ("converged", "degenerate", "empty state")


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_refused_proposal_is_answered_by_plain_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no proposal can be had the iterates are those of plain EM, and the record says so."""
    model, data, start = deaths()
    monkeypatch.setattr(quasi_newton, "_tried", lambda *args: None)
    fast = fitted(model, data, starts=start, acceleration="quasi-newton", tol=0, max_steps=40)
    plain = fitted(model, data, starts=start, acceleration=None, tol=0, max_steps=40)
    assert fast.num_steps == 40
    assert fast.path == pytest.approx(plain.path[: len(fast.path)], rel=1e-14)
    assert fast.acceleration is not None
    assert fast.acceleration.rejected > 3
    assert fast.acceleration.kept == 0
    assert f"0 proposals kept, {fast.acceleration.rejected} rejected" in str(fast)


def test_the_guard_is_what_prevents_a_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A direction that is fifty times too long is shortened or refused; with no guard the loop notices the fall."""
    model, data, start = deaths()
    true = quasi_newton._direction
    monkeypatch.setattr(quasi_newton, "_direction", lambda secants, at: 50 * true(secants, at))
    fit = fitted(model, data, starts=start, acceleration="quasi-newton", tol=0, max_steps=60)
    assert all(after >= before - 1e-10 * 2000 for before, after in zip(fit.path, fit.path[1:], strict=False))
    assert fit.acceleration is not None
    assert fit.acceleration.rejected > 0
    monkeypatch.setattr(quasi_newton, "RISEN", -1e9)
    with pytest.raises(Exception, match=r"expected the objective not to fall|finite"):
        fitted(model, data, starts=start, acceleration="quasi-newton", tol=0, max_steps=60)


def test_every_step_is_counted() -> None:
    """`max_steps` is a number of EM steps."""
    model, data, start = overlapping()
    for cap in (0, 1, 2, 5, 6, 17):
        seen: list[State] = []
        options = {"starts": start, "tol": 0, "max_steps": cap, "callback": seen.append}
        fit = fitted(model, data, acceleration="quasi-newton", **options)
        assert (fit.num_steps, fit.outcome) == (cap, "step limit")
        assert [state.objective for state in seen] == list(fit.path[1:])


# ---- edges -----------------------------------------------------------------------------------------------------------


def test_entries_at_a_boundary_do_not_hold_the_others_up() -> None:
    """Questions that everybody of a kind answers alike: probabilities of zero and one, and others that creep there."""
    generator = torch.Generator().manual_seed(2)
    probs = torch.rand(3, 12, generator=generator, dtype=torch.float64).round(decimals=1)
    kind = torch.randint(3, (150,), generator=generator)
    x = (torch.rand(150, 12, generator=generator, dtype=torch.float64) < probs[kind]).double()
    plain, fast = (
        fitted(bernoulli_mixture.bernoulli_mixture, (x, 3), acceleration=kind, max_steps=5000)
        for kind in (None, "quasi-newton")
    )
    assert plain.converged
    assert fast.converged
    assert fast.objective >= plain.objective - SOLVERS * (1 + abs(plain.objective))
    assert fast.num_steps <= max(plain.num_steps, 60)


def test_a_start_at_the_maximum_stays() -> None:
    """It has converged, after the few plain steps that say so."""
    model, data, start = deaths()
    first = fitted(model, data, starts=start, acceleration="quasi-newton", tol=1e-13)
    again = fitted(model, data, starts=dict(first.params), acceleration="quasi-newton")
    assert again.converged
    assert again.num_steps <= 5


def test_many_coordinates() -> None:
    """Of more than a few hundred coordinates only the last moves are remembered."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(4, 100, generator=generator, dtype=torch.float64) * 0.3 + 0.35
    kind = torch.randint(4, (400,), generator=generator)
    x = (torch.rand(400, 100, generator=generator, dtype=torch.float64) < probs[kind]).double()
    fast, plain = (
        fitted(
            bernoulli_mixture.bernoulli_mixture, (x, 4), starts={"probs": probs}, acceleration=kind, max_steps=60, tol=0
        )
        for kind in ("quasi-newton", None)
    )
    assert fast.objective > plain.objective


def test_a_saddle_is_left() -> None:
    """As a plain fit leaves it."""
    x = torch.linspace(-1.0, 1.0, 40) + 2.0 * (torch.arange(40) % 2)
    start = {"weights": torch.tensor([0.5, 0.5]), "loc": torch.ones(2), "scale": torch.ones(2)}
    plain, fast = (
        fitted(gaussian_mixture.univariate, (x,), starts=start, acceleration=k) for k in (None, "quasi-newton")
    )
    assert any("saddle" in note for note in fast.notes)
    assert fast.objective >= plain.objective - SOLVERS * (1 + abs(plain.objective))


def test_what_is_fixed_stays() -> None:
    """No coordinate is made of it."""
    model, data, start = deaths()
    fit = fitted(model, data, starts=start, m_step={"weights": "fixed"}, acceleration="quasi-newton")
    assert torch.equal(fit.params["weights"], start["weights"])
    assert fit.converged


def test_torch_m_steps() -> None:
    """A constraint without closed forms: the gradient is Fisher's, whatever the M-step is."""

    def ordered(x: torch.Tensor) -> None:
        start = torch.tensor([-0.5, 0.5], dtype=torch.float64)
        loc = pyro.param("loc", start, constraint=dist.constraints.ordered_vector)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6], dtype=torch.float64)))
            pyro.sample("x", dist.Normal(loc[z], torch.ones((), dtype=torch.float64)), obs=x)

    x = torch.randn(80, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 1.2
    plain, fast = (fitted(ordered, (x,), acceleration=k, tol=1e-11) for k in (None, "quasi-newton"))
    assert fast.objective == pytest.approx(plain.objective, rel=SOLVERS)
    assert fast.num_steps < plain.num_steps


def test_a_fit_keeps_the_counts_alone() -> None:
    """And can be pickled."""
    model, data, start = deaths()
    fit = fitted(model, data, starts=start, acceleration="quasi-newton", max_steps=12)
    assert fit.acceleration is not None
    assert len(fit.acceleration.secants) == 0
    assert pickle.loads(pickle.dumps(fit)).acceleration == fit.acceleration


def test_the_slowest_rate_is_the_bound() -> None:
    """Until two plain steps in a row have shown a rate, the most is taken to be left."""
    assert quasi_newton.WORST == pytest.approx(1 / (1 - SLOWEST))
