"""A pass over batches is an E-step: over the programs, steps are those of all rows in memory, or a site is named."""

from typing import Any

import pyro
import pytest
from oracles.engines import distance, farthest, laid_out
from oracles.splits import split
from oracles.tolerances import IDENTITY, SOLVERS

from em_pyro import EM, Fit, PlanError
from em_pyro.fit.rows import stream
from em_pyro.m_step.regression.steps import STEP

STREAMED = (
    "masked_rows",
    "missing_cells",
    "multivariate_mixture_tied",
    "zero_inflated_poisson",
    "positive_families",
    "one_hot_latent",
    "binomial_latent",
    "ModuleWithPrior",
    "RegisteredLinear",
    "latent_class",
    "beta_coins",
    "hierarchical_means",
    "multiplicative_rates",
    "mixture_of_regressions",
    "structural_zeros",
    "unnormalised_weights",
    "gaussian-full-covariance",
    "latent-classes-missing",
    "hmm-multivariate-tied",
    "discrete-hmm-gaussian-diagonal",
    "irt-two-parameters",
    "von-mises",
)
"""One or two of every kind: families, priors, masks, weights, chains, designs, plates beside that of the rows."""

REFUSED = {
    "factor_statement": "reward",
    "laplace": "x",
}
"""Statistics that keep their rows, and the site that is named."""

STEPPED = ("negative_binomial_regressions", "student")
"""Statistics that keep their rows, and of which slope and curvature add up: one step of Newton's method a pass.

Others are in `test_streams_links.py`: Poisson and logistic regressions, weights by row, shapes, scales.
"""


def both(name: str) -> tuple[Fit, Fit]:
    """Three plain steps in memory, and of the same rows in two batches."""
    parts, built = split(name), laid_out(name)
    assert parts is not None
    options: dict[str, Any] = {"acceleration": None, "tol": 0, "max_steps": 3, "starts": dict(parts.here)}
    pyro.clear_param_store()
    whole = EM(built.model, collapse=False, **options).fit(*built.args)
    pyro.clear_param_store()
    return whole, EM(built.model, **options).fit_stream(parts.parts)


@pytest.mark.parametrize("name", STREAMED)
def test_steps_over_batches_are_those_of_all_rows(name: str) -> None:
    """Parameters, objectives and the ending."""
    whole, streamed = both(name)
    assert farthest(streamed.params, whole.params) < IDENTITY
    assert max(abs(a - b) / (1 + abs(b)) for a, b in zip(streamed.path, whole.path, strict=True)) < IDENTITY
    assert distance(streamed.log_likelihood, whole.log_likelihood) < IDENTITY
    assert streamed.outcome == whole.outcome


@pytest.mark.parametrize("name", STEPPED)
def test_fits_by_slope_and_curvature_end_where_those_of_all_rows_do(name: str) -> None:
    """By another way to the same top, from beside it."""
    parts, built = split(name), laid_out(name)
    assert parts is not None
    pyro.clear_param_store()
    whole = EM(built.model, collapse=False, starts=dict(parts.here)).fit(*built.args)
    pyro.clear_param_store()
    beside = {name: 0.9 * top + 0.1 * parts.here[name] for name, top in whole.params.items()}
    streamed = EM(built.model, starts=beside).fit_stream(parts.parts)
    assert streamed.path[0] < whole.objective - 1e-3
    assert any(line.how == STEP for line in streamed.plan.lines.values())
    assert streamed.outcome == whole.outcome
    assert distance(streamed.objective, whole.objective) < SOLVERS


@pytest.mark.parametrize("name", REFUSED)
def test_what_keeps_its_rows_is_refused_by_its_site(name: str) -> None:
    """Before anything runs."""
    parts, built = split(name), laid_out(name)
    assert parts is not None
    with pytest.raises(PlanError, match=f'Site "{REFUSED[name]}": expected statistics that add up over rows'):
        EM(built.model, starts=dict(parts.here)).fit_stream(parts.parts)


def test_a_lost_batch_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law above sees a pass that leaves the second batch out."""
    parts = stream.Stream.parts

    def first(*args: object) -> object:
        yield next(parts(*args))  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stream.Stream, "parts", first)
        whole, streamed = both("gaussian-full-covariance")
    assert farthest(streamed.params, whole.params) > 1e-3
