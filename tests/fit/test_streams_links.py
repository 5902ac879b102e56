"""Regressions with a link in batches: a damped Newton step a pass, to the maximum that is reached in memory."""

from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.tolerances import IDENTITY
from programs.links import PROGRAMS, batches, poissons, rows
from torch import Tensor, tensor

from em_pyro import EM, ObjectiveError, PlanError
from em_pyro.e_step.second.expansion import share
from em_pyro.fit import step
from em_pyro.fit.empty import emptied
from em_pyro.fit.rows.scan import streamed
from em_pyro.program.named import batched


def rises(path: tuple[float, ...]) -> bool:
    """Whether no step falls, rounding apart."""
    return all(after >= before - IDENTITY * abs(before) for before, after in pairwise(path))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_maximum_is_that_in_memory(name: str) -> None:
    """And the plan says how it is come by."""
    whole = EM(PROGRAMS[name], tol=1e-10, collapse=False).fit(*rows())
    pyro.clear_param_store()
    streamed = EM(PROGRAMS[name], tol=1e-10).fit_stream(batches())
    assert distance(streamed.objective, whole.objective) < 1e-8
    assert distance(streamed.log_likelihood, whole.log_likelihood) < 1e-8
    assert farthest(streamed.params, whole.params) < 1e-4
    assert streamed.outcome == whole.outcome == "converged"
    stepped = [line for line in streamed.plan.lines.values() if line.how == "Newton step"]
    assert stepped
    assert all("one damped Newton step a pass by summed curvature, backtracked" in line.why for line in stepped)
    assert rises(streamed.path)


def test_summed_expansions_are_derivatives_of_the_evidence() -> None:
    """By Fisher's identity, of one that is written down; and they move to another centre without an error."""
    problem = streamed(EM(poissons)._prepare, batches())
    here = {name: value.double() for name, value in problem.engine.recognition.values.items()}
    found = problem.expect(problem.bind(batched(here)))
    sums = found.sums["y"]
    x, y = rows()
    b = here["b"].clone().requires_grad_()
    each = dist.Poisson((x @ b.T).exp()).log_prob(y.unsqueeze(-1)) + here["weights"].log()
    (slope,) = torch.autograd.grad(each.logsumexp(-1).sum(), b)
    assert distance(sums.parts[1].reshape(2, 2), slope) < IDENTITY
    there = batched({**here, "b": here["b"] + 0.1})
    assert sums.coordinates is not None
    moved = sums.about(sums.coordinates(there))
    assert distance(share(moved, there), share(sums, there)) < IDENTITY


def test_rows_that_do_not_tell_what_they_keep_are_taken_by_name() -> None:
    """A batch of one row, and one in which the covariate is the same in all rows."""
    x, y = rows()
    x[50:57, 1] = 2.0
    whole = EM(poissons, tol=1e-10, collapse=False, check=False).fit(x, y)
    pyro.clear_param_store()
    parts = [(x[a:b], y[a:b]) for a, b in pairwise((0, 50, 57, 119, 120))]
    streamed = EM(poissons, tol=1e-10, check=False).fit_stream(parts)
    assert distance(streamed.objective, whole.objective) < 1e-8


class Counted:
    """Batches, and how often they were read."""

    def __init__(self) -> None:
        """Begin."""
        self.passes = 0

    def __iter__(self) -> Any:
        """Begin another pass."""
        self.passes += 1
        return iter(batches())


FAR = {"b": tensor([-6.0, 0.0])}


def one(x: Tensor, y: Tensor) -> None:
    """A Poisson regression; from far below, a whole step of Newton's method leads far above."""
    b = pyro.param("b", torch.zeros(2))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson((x @ b).exp()), obs=y)


def test_a_step_is_a_pass_and_one_that_falls_is_halved() -> None:
    """The pass that tells whether the objective fell is the next one; halved steps cost one more."""
    counts = {}
    for start in ({"b": tensor([1.5, -0.3])}, FAR):
        for steps in (1, 3):
            pyro.clear_param_store()
            source = Counted()
            EM(one, tol=0, acceleration=None, check=False, starts=start).fit_stream(source, passes=steps)
            counts[float(start["b"][0]), steps] = source.passes
    assert counts[1.5, 3] - counts[1.5, 1] == 2
    assert counts[-6.0, 3] - counts[1.5, 3] >= 3


def test_without_the_halving_the_objective_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: it is the guard that makes this an EM."""
    fit = EM(one, tol=1e-12, starts=FAR).fit_stream(batches())
    assert fit.outcome == "converged"
    assert rises(fit.path)
    monkeypatch.setattr(step, "held_back", lambda problem, batch, new, found: new)
    pyro.clear_param_store()
    with pytest.raises(ObjectiveError, match="not to fall"):
        EM(one, starts={"b": tensor([-1.0, 0.0])}, acceleration=None).fit_stream(batches())


def test_a_state_without_rows_is_named_as_in_memory() -> None:
    """By the weights of the cells, which are summed beside slopes and curvatures."""
    here = batched({"b": tensor([[1.4, -0.1], [0.5, 0.0]]), "weights": tensor([1.0, 1e-12])})
    told = []
    for problem in (EM(poissons, collapse=False)._prepare(rows(), {}), streamed(EM(poissons)._prepare, batches())):
        told.append(emptied(problem, problem.expect(problem.bind(here))))
    assert told[0] == told[1] == 'entry (1, 0) of "b" has no rows left'


def by_row(x: Tensor, y: Tensor) -> None:
    """An intercept in every row, in batches of one size."""
    a, b = pyro.param("a", torch.zeros(len(y))), pyro.param("b", tensor(0.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Poisson((a + b * x[:, 1]).exp()), obs=y)


def test_what_does_not_add_up_is_refused_by_its_site() -> None:
    """Entries by row, a kink, and statistics of slices, which belong to several points."""
    with pytest.raises(PlanError, match='Site "y": expected statistics that add up'):
        EM(by_row).fit_stream(batches((0, 40, 80, 120)))
    with pytest.raises(PlanError, match='Site "y": expected statistics that are kept by slice'):
        EM(poissons, batches=3).fit_stream(batches())
    with pytest.raises(PlanError, match='m_step\\["b"\\]: expected a closed form'):
        EM(poissons, m_step={"b": "closed"}).fit_stream(batches())
    for how in ("fixed", "torch"):
        with pytest.raises(PlanError, match='Site "y": expected statistics that add up'):
            EM(poissons, m_step={"b": how}).fit_stream(batches())
