"""Observed information in one pass over the rows: exact, whatever the program, the digits and the point.

Two oracles: differences of the score, and outer products of differences of the rows' log evidence. All numbers are in
units of standard errors given complete data.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import laid_out
from oracles.tolerances import IDENTITY, SOLVERS
from oracles.units import off, unit_of
from torch import Tensor
from torch.distributions import constraints

from em_pyro.after.information.louis import second_order, unserved
from em_pyro.e_step.second.pairs import Pairs
from em_pyro.e_step.second.rows import RowScores
from em_pyro.e_step.second.states import States
from em_pyro.fit.problem import Problem, prepare
from em_pyro.fit.verdict.around import Around
from em_pyro.fit.verdict.ground import STEP, Ground, around_of
from em_pyro.posterior.posterior import posterior

EIGHTH = {1: 4 / 5, -1: -4 / 5, 2: -1 / 5, -2: 1 / 5, 3: 4 / 105, -3: -4 / 105, 4: -1 / 280, -4: 1 / 280}
"""Of a derivative, times the step: to eighth order."""

NEAR = 0.2
"""Part of the usual step of differences: so that nothing but rounding is left of their error."""

FAR = 1e-3
"""What a planted fault must be off by, at least."""


def problem_of(name: str) -> tuple[Problem, Mapping[str, Tensor]]:
    """Return a program by its name, planned, and generic parameters of it: no maximum."""
    built = laid_out(name)
    return built.problem, built.there


def by_differences(problem: Problem, around: Around, unit: Tensor) -> Tensor:
    """Return the observed information by differences of Fisher's score."""
    here = torch.zeros(around.size)
    inside = Ground(problem, around).information(here, NEAR * unit, EIGHTH) / NEAR**2
    back = unit.inverse()
    return back @ inside @ back


def scores(problem: Problem, plate: str, around: Around, unit: Tensor) -> Tensor:
    """Return the score of every row times what it counts, `(N, D)`, by differences of its log evidence."""
    columns = []
    for direction in NEAR * unit:
        slope = torch.zeros(())
        for step, weight in EIGHTH.items():
            batch = around.batch((STEP * step * direction).unsqueeze(0))
            here = posterior(problem.engine, {name: value.squeeze(0) for name, value in batch.items()})
            slope = slope + weight / STEP * here.log_evidence_by(plate)
        columns.append(slope)
    return torch.stack(columns, -1) @ unit.inverse() / NEAR


# ---- every program that is served ------------------------------------------------------------------------------------

SERVED = (
    "gaussian_mixture_tied",
    "positive_families",
    "multinomial_mixture",
    "zero_inflated_poisson",
    "two_latents",
    "three_way_table",
    "one_hot_latent",
    "ModuleMixture",
    "latent_class",
    "python_loop",
    "padded_chains",
    "masked_rows",
    "everything_masked_at_one_site",
    "partly_labelled",
    "mask_by_latent",
    "structural_zeros",
    "unnormalised_weights",
    "barren_latent",
    "no_latent",
    "no_plate",
    "row_weights",
    "person_counts",
    "constant_scale",
    "beta_coins",
    "hierarchical_means",
    "poisson_exposure",
    "topics",
    "three_experts",
    "shrunken_regressions",
    "mixture_of_regressions",
    "lines_in_the_plane",
    "gaussian-full-covariance",
    "gaussian-diagonal",
    "poisson",
    "zero-inflated-poisson",
    "unigrams",
    "abo",
    "transcripts",
    "regression-linear",
    "regression-parallel",
    "regression-logistic",
    "regression-experts",
)


@pytest.mark.parametrize("name", SERVED)
def test_information_is_the_derivative_of_the_score(name: str) -> None:
    """Louis' formula gives what differences of the score give, off a maximum too."""
    problem, params = problem_of(name)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    assert unserved(problem) == ""
    unit = unit_of(found)
    assert off(found.observed, by_differences(problem, around, unit), unit) < IDENTITY


@pytest.mark.parametrize("name", ["gamma_means", "negative-binomial"])
def test_functions_of_few_digits(name: str) -> None:
    """The same for families whose curvature is a trigamma function, of which torch has ten digits."""
    problem, params = problem_of(name)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    unit = unit_of(found)
    assert off(found.observed, by_differences(problem, around, unit), unit) < SOLVERS


@pytest.mark.parametrize(
    ("name", "plate"),
    [
        ("two_latents", "row"),
        ("masked_rows", "row"),
        ("beta_coins", "sequence"),
        ("latent_class", "person"),
        ("gaussian-full", "points"),
        ("poisson", "days"),
        ("zero-inflated-poisson", "rows"),
        ("abo", "person"),
        ("regression-linear", "rows"),
        ("regression-poisson", "rows"),
    ],
)
def test_squares_are_those_of_the_rows(name: str, plate: str) -> None:
    """Squares are the outer products of the rows' scores, equal rows merged or not."""
    problem, params = problem_of(name)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    assert found.squares is not None
    unit = unit_of(found)
    rows = scores(problem, plate, around, unit)
    assert off(found.squares, rows.mT @ rows, unit) < IDENTITY * (1 + off(found.squares, 0 * found.squares, unit))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("discrete-hmm-gaussian", "summed out over a chain"),
        ("hmm-gaussian", "summed out over a chain"),
        ("latents_at_every_level", "share"),
        ("factor_statement", "of the model itself"),
    ],
)
def test_what_is_not_served_is_named(name: str, why: str) -> None:
    """Where there is no such pass, the reason is given, and no number."""
    problem, params = problem_of(name)
    assert why in unserved(problem)
    assert second_order(problem, params) is None


def test_too_many_sums_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is asked for within bounds."""
    problem, params = problem_of("gaussian-full")
    monkeypatch.setattr("em_pyro.e_step.second.rows.MOST", 10)
    assert second_order(problem, params) is None


def coupled(x: Tensor, steps: int) -> None:
    """Two chains, each moved by both: no chain of one latent, and `4^steps` joint states."""
    moves = pyro.param("moves", torch.tensor([[0.8, 0.4], [0.6, 0.2]]), constraint=constraints.unit_interval)
    loc = pyro.param("loc", torch.tensor([0.0, 1.5]))
    a = b = torch.tensor(0)
    for t in pyro.markov(range(steps)):
        first = pyro.sample(f"a_{t}", dist.Bernoulli(moves[a, b])).long()
        a, b = first, pyro.sample(f"b_{t}", dist.Bernoulli(moves[b, a])).long()
        pyro.sample(f"x_{t}", dist.Normal(loc[a] - loc[b], 1.0), obs=x[t])


@pytest.mark.parametrize(("steps", "served"), [(3, True), (11, False), (25, False), (40, False)])
def test_too_many_joint_states_are_refused(steps: int, *, served: bool) -> None:
    """A table of all joint states is not tried where there are more of them than memory holds, or numbers count."""
    x = torch.linspace(0.0, 4.0, steps).sin()
    problem = prepare(coupled, (x, steps), {}, {}, check=False)
    params = {name: p.initial for name, p in problem.program.parameters.items()}
    assert not unserved(problem)
    assert (second_order(problem, params) is not None) == served


# ---- seen to fail ----------------------------------------------------------------------------------------------------


def _uncounted(self: States, chunk: Any) -> None:
    """Forget the weights of rows."""


def _living(self: States, chunk: Any) -> list[float]:
    """Count latents where nothing is observed."""
    return [1.0 for _ in self.own]


def _one_sided(found: Callable[[Any], tuple[Tensor, Tensor]], self: Any) -> tuple[Tensor, Tensor]:
    """Forget that both of a pair of states move."""
    missing, squares = found(self)
    return missing / 2, squares


@pytest.mark.parametrize(
    ("name", "of", "method", "fault"),
    [
        ("row_weights", States, "counts", _uncounted),
        ("masked_rows", States, "living", _living),
        ("gaussian-full", Pairs, "found", partial(_one_sided, Pairs.found)),
        ("regression-logistic", RowScores, "found", partial(_one_sided, RowScores.found)),
    ],
)
def test_faults_are_seen(
    name: str, of: type, method: str, fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each fault moves the information by far more than the differences are off."""
    problem, params = problem_of(name)
    monkeypatch.setattr(of, method, lambda *args: fault(*args))
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    unit = unit_of(found)
    assert off(found.observed, by_differences(problem, around, unit), unit) > FAR
