"""Restarts: a batch of starts is the starts one by one, and what is screened out is said to be."""

from collections.abc import Mapping

import pyro
import pytest
import torch
from em_pyro.models import gaussian_mixture, regressions
from oracles.engines import Built, distance, laid_out, moved
from oracles.tolerances import IDENTITY, SOLVERS
from oracles.varied import VARIED
from programs.loops import points
from torch import Tensor

from em_pyro import EM
from em_pyro.fit.endings import OUTCOMES
from em_pyro.fit.loop import Settings
from em_pyro.fit.path import start as begin
from em_pyro.fit.problem import Problem
from em_pyro.fit.starting.batches import march, together
from em_pyro.fit.starting.restarts import FEW, follow
from em_pyro.fit.step import em_step
from em_pyro.program.named import batched

PATH = 1e-9
"""Of an objective along the first twenty steps, relative: rounding grows on the way."""

PLAIN = Settings(tol=0, max_steps=20)


def advances(name: str) -> bool:
    """Whether the starts of a program advance together."""
    built = laid_out(name)
    return together(problem_of(built), PLAIN, 3) > 1


def problem_of(built: Built) -> Problem:
    """Return what the fit asks."""
    return Problem(built.program, built.compiled, built.plan)


def starts_of(built: Built) -> list[dict[str, Tensor]]:
    """Three starts."""
    return [built.here, built.there, moved(built.compiled, built.here, seed=7)]


LONE = (
    "hmm_stationary", "hmm_of_another_family", "missing_observations", "tutorial_mixture",
    "priors_without_conjugacy", "one_slope_in_the_plane", "factor_statement", "hurdle-poisson",
    "hurdle-negative-binomial", "neural-em",
)  # fmt: skip
"""Programs whose starts run one after the other: torch maximises, or the model itself computes a site."""


@pytest.mark.laws
@pytest.mark.parametrize("name", VARIED)
def test_a_batch_is_one_by_one(name: str) -> None:
    """One step of three starts in one more dimension is three steps; a batch that mixes its starts up is noticed."""
    assert advances(name) == (name not in LONE)
    if name in LONE:
        return
    built = laid_out(name)
    every = starts_of(built)
    together_ = {n: torch.stack([start[n] for start in every]) for n in built.here}
    problem = problem_of(built)
    new, found = em_step(problem, together_)
    for row, start in enumerate(every):
        alone, expected = em_step(problem, batched(start))
        assert distance(found.objective[row], expected.objective[0]) < IDENTITY
        assert all(distance(new[n][row], alone[n][0]) < SOLVERS for n in alone)
    if built.program.latents or built.compiled.inner:  # else one step leads from anywhere to the maximum
        mixed = em_step(problem, batched(every[1]))[0]
        assert any(distance(new[n][0], mixed[n][0]) > SOLVERS for n in mixed)


PATHS = [
    "coins", "gaussian-tied", "latent-classes", "hmm-poisson", "regression-poisson", "regression-experts",
]  # fmt: skip


@pytest.mark.laws
@pytest.mark.parametrize("name", PATHS)
def test_paths_and_ends_are_those_of_lone_starts(name: str) -> None:
    """Twenty steps to 1e-9, and the end to 1e-6: a maximum, or a limit."""
    built = laid_out(name)
    every, problem = starts_of(built), problem_of(built)
    marched = march(problem, dict(enumerate(begin(s) for s in every)), PLAIN)
    fitted = follow(problem, every, Settings(1e-9, 60), screen=False)
    for i, start in enumerate(every):
        (alone,) = follow(problem, [start], PLAIN, screen=False)
        (to_end,) = follow(problem, [start], Settings(1e-9, 60), screen=False)
        assert distance(torch.tensor(marched[i].before), torch.tensor(alone.before)) < PATH
        assert distance(fitted[i].level, to_end.level) < SOLVERS
        assert fitted[i].outcome == to_end.outcome


@pytest.mark.parametrize(("rows", "size"), [(500, 100), (40_000, 2)])
def test_a_batch_that_is_too_large_is_parted(rows: int, size: int) -> None:
    """Rows that are taken whole bound the number of starts that advance together; rows in blocks do not."""
    x = torch.randn(rows, generator=torch.Generator().manual_seed(0))
    settings = Settings(tol=0, max_steps=20)
    for model, args, expected in (
        (regressions.poisson, (torch.stack([torch.ones(rows), x], 1), x.exp().round(), 3), size),
        (regressions.linear, (torch.stack([torch.ones(rows), x], 1), x, 3), 100),
        (gaussian_mixture.univariate, (x, 3), 100),
    ):
        pyro.clear_param_store()
        em = EM(model)
        em.plan(*args)
        assert em._prepared is not None
        assert together(em._prepared, settings, 100) == expected


def test_screening_is_reported() -> None:
    """Of twenty starts a quarter is followed; the others say that they were let go, and do not count."""
    x = points(400)

    def fit(**options: object) -> Mapping[str, object]:
        pyro.clear_param_store()
        found = EM(gaussian_mixture.univariate, starts=20, max_steps=30, **options).fit(x, 3)  # type: ignore[arg-type]
        return {"fit": found, "outcomes": [run.outcome for run in found.starts]}

    screened, every = fit(), fit(screen=False)
    gone = screened["outcomes"].count("screened out")  # type: ignore[attr-defined]
    assert gone == 20 - FEW
    assert screened["outcomes"][0] != "screened out"  # type: ignore[index]
    text = str(screened["fit"].starts)  # type: ignore[attr-defined]
    assert text.startswith("best of 20 starts, found by ")
    assert text.endswith(f"; {gone} were screened out")
    assert "screened out" not in every["outcomes"]  # type: ignore[operator]
    assert "screened" not in str(every["fit"].starts)  # type: ignore[attr-defined]
    assert "screen=False" in OUTCOMES["screened out"]
    for run, other in zip(screened["fit"].starts, every["fit"].starts, strict=True):  # type: ignore[attr-defined]
        if run.outcome == "screened out":
            assert run.num_steps <= 20
            assert run.objective <= other.objective + SOLVERS


def test_equal_rows_kept_apart() -> None:
    """`collapse=False` keeps all rows, says so, and ends at the same place."""
    heads = torch.randint(11, (300,), generator=torch.Generator().manual_seed(0)).double()
    from em_pyro.models import coins

    fits = []
    for collapse in (True, False):
        pyro.clear_param_store()
        em = EM(coins.coins, collapse=collapse)
        assert ("as you asked" in str(em.plan(heads, 10))) != collapse
        fits.append(em.fit(heads, 10))
    assert distance(fits[0].log_likelihood, fits[1].log_likelihood) < IDENTITY
