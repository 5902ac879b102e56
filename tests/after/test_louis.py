"""Observed information in one pass over the rows: exact, whatever the program, the digits and the point.

Three oracles: `torch.autograd.functional.hessian` of log evidence written by hand, differences of the score, and outer
products of differences of the rows' log evidence. All numbers are in units of standard errors given complete data.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import laid_out
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.autograd.functional import hessian, jacobian
from torch.distributions import constraints

from em_pyro.after.information.louis import SecondOrder, around_of, second_order, unserved
from em_pyro.e_step.second import second
from em_pyro.e_step.second.directions import Directions
from em_pyro.e_step.second.pairs import Pairs
from em_pyro.e_step.second.rows import Rows
from em_pyro.e_step.second.states import States
from em_pyro.e_step.shares import Collect
from em_pyro.fit.problem import Problem, prepare
from em_pyro.fit.verdict.around import Around
from em_pyro.fit.verdict.ground import STEP, Ground
from em_pyro.models import gaussian_mixture
from em_pyro.posterior.posterior import posterior

EIGHTH = {1: 4 / 5, -1: -4 / 5, 2: -1 / 5, -2: 1 / 5, 3: 4 / 105, -3: -4 / 105, 4: -1 / 280, -4: 1 / 280}
"""Of a derivative, times the step: to eighth order."""

NEAR = 0.2
"""Part of the usual step of differences: so that nothing but rounding is left of their error."""

FAR = 1e-3
"""What a planted fault must be off by, at least."""


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    with pyro.get_param_store().scope():
        pyro.clear_param_store()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


def problem_of(name: str) -> tuple[Problem, Mapping[str, Tensor]]:
    """Return a program by its name, planned, and generic parameters of it: no maximum."""
    built = laid_out(name)
    return prepare(built.model, built.args, {}, {}, check=False), built.there


def unit_of(found: SecondOrder) -> Tensor:
    """Return standard errors given complete data, on a diagonal."""
    size = found.complete.diagonal()
    return torch.diag(torch.where(size > 0, size, 1.0).rsqrt())


def off(found: Tensor, wanted: Tensor, unit: Tensor) -> float:
    """Return how far two matrices are apart, in these units."""
    return float((unit @ (found - wanted) @ unit).abs().max())


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


# ---- log evidence by hand --------------------------------------------------------------------------------------------


def mixture(rows: int, dimensions: int, states: int, narrow: float = 1.0) -> tuple[Problem, dict[str, Tensor], Tensor]:
    """Return a mixture of normals off its maximum; the first state is so many times narrower, and far from the rest."""
    generator = torch.Generator().manual_seed(0)
    loc = 1.5 * torch.randn((states, dimensions), generator=generator)
    tril = torch.eye(dimensions) + 0.2 * torch.ones((dimensions, dimensions)).tril(-1)
    scale_tril = tril.repeat(states, 1, 1) / torch.tensor([narrow] + [1.0] * (states - 1))[:, None, None]
    state = torch.arange(rows) % states
    x = loc[state] + (scale_tril[state] @ torch.randn((rows, dimensions, 1), generator=generator)).squeeze(-1)
    weights = torch.softmax(torch.linspace(0.0, 0.5, states), 0)
    problem = prepare(partial(gaussian_mixture.full, K=states), (x,), {}, {}, check=False)
    params = {"weights": weights, "loc": loc + 0.1 / narrow, "scale_tril": 1.05 * scale_tril}
    return problem, params, x


def evidence(x: Tensor, around: Around, v: Tensor) -> Tensor:
    """Log evidence of every row, written by hand."""
    batch = {name: value.squeeze(0) for name, value in around.batch(v.unsqueeze(0)).items()}
    density = torch.distributions.MultivariateNormal(batch["loc"], scale_tril=batch["scale_tril"], validate_args=False)
    return (batch["weights"].log() + density.log_prob(x.unsqueeze(-2))).logsumexp(-1)


@pytest.mark.parametrize(("rows", "dimensions", "states"), [(200, 2, 3), (50_000, 2, 2), (60, 4, 1)])
def test_information_is_the_hessian(rows: int, dimensions: int, states: int) -> None:
    """Against a log evidence written by hand, in one chunk or several, of one state or several."""
    problem, params, x = mixture(rows, dimensions, states)
    assert (len(problem.engine.parts[0].chunks()) > 1) == (rows == 50_000)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    wanted = -hessian(lambda v: evidence(x, around, v).sum(), torch.zeros(around.size))
    assert off(found.observed, wanted, unit_of(found)) < IDENTITY


def test_narrow_states_keep_their_digits() -> None:
    """A state ten thousand times narrower than the rest has all digits of its own."""
    assert narrow_digits() < IDENTITY


def test_one_centre_loses_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: around one centre the fourth power of the distance eats them."""
    monkeypatch.setattr(second, "FARTHEST", torch.inf)
    assert narrow_digits() > FAR


def narrow_digits() -> float:
    """By how much the information about a narrow state is wrong, and what its rows say of it."""
    problem, params, x = mixture(300, 2, 3, narrow=1e4)
    found, around = second_order(problem, params), around_of(problem, params)
    assert found is not None
    assert found.squares is not None
    here, unit = torch.zeros(around.size), unit_of(found)
    slopes = jacobian(lambda v: evidence(x, around, v), here)
    wanted = -hessian(lambda v: evidence(x, around, v).sum(), here)
    return max(off(found.observed, wanted, unit), off(found.squares, slopes.mT @ slopes, unit))


def test_along_a_basis() -> None:
    """Directions may be few; then rows are looked at one by one, and the numbers are the same."""
    problem, params, _ = mixture(500, 2, 3)
    whole = second_order(problem, params)
    basis = torch.randn((17, 1), generator=torch.Generator().manual_seed(1))
    few = second_order(problem, params, basis=basis)
    assert whole is not None
    assert whole.squares is not None
    assert few is not None
    assert few.squares is not None
    unit = few.complete.rsqrt()
    assert off(few.observed, basis.mT @ whole.observed @ basis, unit) < IDENTITY
    assert off(few.squares, basis.mT @ whole.squares @ basis, unit) < IDENTITY


def test_parts_add_up() -> None:
    """Sums over two parts of the rows, each around a centre of its own, are those over all."""
    problem, params, x = mixture(400, 2, 2)
    around = around_of(problem, params)
    along = Collect(along=Directions(around.batch, torch.eye(around.size)))
    bound = problem.bind({name: value.unsqueeze(0) for name, value in around.params.items()})
    parts = [problem.engine.on((part,)).expect(bound, collect=along) for part in (x[:100], x[100:] + 0.0)]
    both, whole = (parts[0] + parts[1]).second, problem.expect(bound, collect=along).second
    assert both is not None
    assert whole is not None
    assert both.squares is not None
    assert whole.squares is not None
    unit = torch.diag(whole.squares.diagonal().rsqrt())
    assert off(both.missing, whole.missing, unit) < IDENTITY
    assert off(both.squares, whole.squares, unit) < IDENTITY


def test_nothing_is_collected_that_is_not_asked_for() -> None:
    """A step of EM does not pay for it."""
    problem, params, _ = mixture(100, 2, 2)
    bound = problem.bind({name: value.unsqueeze(0) for name, value in params.items()})
    assert problem.expect(bound).second is None


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
        ("regression-logistic", Rows, "found", partial(_one_sided, Rows.found)),
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
