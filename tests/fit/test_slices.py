"""M-steps between slices of the rows: incremental EM, whose free energy never falls, and online EM."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from em_pyro.models import factor_analysis
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.loops import mixture, points
from programs.registry import build
from torch import Tensor

from em_pyro import EM, Fit, ObjectiveError, ParameterError, PlanError
from em_pyro.fit.rows import slices


class Column:
    """What of a column of a frame is made use of."""

    def __init__(self, values: Any) -> None:
        """Take an array."""
        self.values, self.shape = values, values.shape

    @property
    def iloc(self) -> Any:
        """Rows by their numbers."""
        return self

    def __getitem__(self, rows: slice) -> Any:
        """Return some rows."""
        return Column(self.values[rows])

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Return the values."""
        return self.values


def data() -> Tensor:
    """Two clusters, in no order."""
    return points(200).double()


def fitted(**options: Any) -> Fit:
    """A fit from the store's start."""
    pyro.clear_param_store()
    return EM(mixture, **options).fit(data())


def test_the_free_energy_never_falls_and_leads_higher_by_a_pass() -> None:
    """From the objective of the start, by as many passes as were asked for; it is at most the objective."""
    plain = fitted(acceleration=None, tol=0, max_steps=5)
    fit = fitted(batches=10, tol=0, max_steps=5)
    assert fit.num_steps == plain.num_steps == 5
    assert fit.path[0] == plain.path[0]
    assert all(after >= before for before, after in zip(fit.path, fit.path[1:], strict=False))
    assert fit.objective > plain.objective


def test_one_slice_is_em() -> None:
    """Its iterates are those of plain EM, and its free energy is that of the E-step before."""
    plain = fitted(acceleration=None, tol=0, max_steps=4)
    fit = fitted(batches=1, tol=0, max_steps=4)
    assert farthest(fit.params, plain.params) < IDENTITY
    assert distance(fit.objective, plain.objective) < IDENTITY


@pytest.mark.parametrize("update", ["incremental", "online"])
def test_full_steps_say_how_it_ended(update: str) -> None:
    """The maximum of plain EM, to what the stopping rule promises, with the log-likelihood of all rows."""
    plain, fit = fitted(acceleration=None), fitted(batches=10, update=update)
    assert fit.outcome == "converged"
    assert abs(fit.objective - plain.objective) < 1e-5
    assert fit.num_steps < plain.num_steps
    assert distance(fit.log_likelihood, EM(mixture, starts=fit.params).posterior(data()).log_evidence) < IDENTITY
    assert fit.posterior.marginal("z").shape == (200, 2)


def test_passes_that_would_be_many_are_left_for_an_acceleration() -> None:
    """Of full steps: factors are approached slowly, by slices too."""
    args = factor_analysis.simulate(100, 5, 2)
    found = []
    for options in ({}, {"batches": 3}, {"batches": 3, "acceleration": None, "max_steps": 200}):
        pyro.clear_param_store()
        found.append(EM(factor_analysis.factor_analysis, **options).fit(*args))  # type: ignore[arg-type]
    assert [fit.outcome for fit in found] == ["converged", "converged", "step limit"]
    assert abs(found[1].objective - found[0].objective) < 1e-4
    assert found[1].num_steps < 2 * found[0].num_steps < 200


@pytest.mark.parametrize("kind", [Tensor.numpy, Tensor.tolist, lambda x: {"x": x}, lambda x: Column(x.numpy())])
def test_slices_of_what_is_passed(kind: Any) -> None:
    """Arrays, lists, what is in a dict, and columns of a frame are cut as tensors are."""

    def model(x: Any) -> None:
        mixture(torch.as_tensor(x["x"] if isinstance(x, dict) else np.asarray(x)))

    options: dict[str, Any] = {"batches": 3, "tol": 0, "max_steps": 3}
    plain = fitted(**options)
    pyro.clear_param_store()
    assert EM(model, **options).fit(kind(data())).path == plain.path


def test_online_passes_are_followed_by_two_full_steps() -> None:
    """Of a stream too; nothing is known of the objective before."""
    x = data()
    parts = [x[:70], x[70:150], x[150:]]
    fit = EM(mixture, batches=3, update="online", step_size=0.7, tol=0, max_steps=4).fit_stream(parts)
    assert [value > -torch.inf for value in fit.path] == [False, False, True, True, True]
    other = EM(mixture, batches=3, update="online", tol=0, max_steps=4)
    pyro.clear_param_store()
    assert farthest(other.fit_stream(parts).params, fit.params) > 1e-6


def test_several_starts_and_other_programs() -> None:
    """Equal rows, priors, chains: slices of whatever a stream may be of."""
    assert len(fitted(batches=4, starts=3).starts) == 3
    for name in ("ModuleWithPrior", "mixture_of_regressions"):
        case = build(name)
        pyro.clear_param_store()
        fit = EM(case.model, batches=2, tol=0, max_steps=3).fit(*case.args)
        assert all(b >= a - IDENTITY * abs(a) for a, b in zip(fit.path, fit.path[1:], strict=False))


def test_sums_that_are_counted_twice_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice whose sums are added to its old ones, not put in their place: the free energy falls."""
    right = slices._summed
    kept: list[Any] = []

    def wrong(*args: Any) -> Any:
        found, rest = right(*args)
        kept.append(found)
        return (found if len(kept) <= 10 else slices._scaled(kept[0], 5.0), rest)

    monkeypatch.setattr(slices, "_summed", wrong)
    with pytest.raises(ObjectiveError, match="not to fall"):
        fitted(batches=10)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batches": 0}, "batches"),
        ({"batches": True}, "batches"),
        ({"batches": 2.0}, "batches"),
        ({"batches": 2, "update": "off-line"}, "update"),
        ({"batches": 2, "update": "online", "step_size": 0.5}, "step_size"),
        ({"batches": 2, "update": "online", "step_size": 2}, "step_size"),
        ({"update": "online"}, "batches="),
        ({"batches": 2, "step_size": 0.7}, 'update="online"'),
        ({"batches": 2, "acceleration": "squarem"}, "batches="),
        ({"batches": 2, "callback": print}, "batches="),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], match: str) -> None:
    """By name, before anything runs."""
    with pytest.raises(ParameterError, match=match):
        EM(mixture, **options)


def test_rows_that_cannot_be_cut_are_named() -> None:
    """Too few of them; arguments whose first dimension is another; statistics that do not add up."""
    with pytest.raises(ParameterError, match="from 1 to that of the rows, 200, got 201"):
        fitted(batches=201)
    pyro.clear_param_store()
    with pytest.raises(ParameterError, match='rows of plate "row", 200 of them, got none that can be cut'):
        EM(lambda x: mixture(x[0]), batches=2).fit(data().unsqueeze(0))
    with pytest.raises(ParameterError, match="number of batches that fit_stream is given, 2, got 3"):
        EM(mixture, batches=3).fit_stream([data()[:50], data()[50:]])
    case = build("factor_statement")
    with pytest.raises(PlanError, match="add up"):
        EM(case.model, batches=2).fit(*case.args)
