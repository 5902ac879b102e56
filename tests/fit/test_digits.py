"""Digits at the end of a fit: the way of numbers to zero or infinity, and slopes that promise next to nothing."""

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.certificate import TRIALS, certify
from em_pyro.fit.problem import prepare
from em_pyro.fit.verdict import digits
from em_pyro.fit.verdict.around import Entry
from em_pyro.fit.verdict.ground import Ground
from em_pyro.program.named import batched

ENTRY: Entry = ("scale", (1,))


def ground(start: float, value: float, looked: list[float]) -> Any:
    """Stand for the objective around a fit: one that jumps by a nat above a thousandth, and notes where it is asked."""

    def with_entries(moves: Sequence[tuple[Entry, float]]) -> Tensor:
        looked.extend(number for _, number in moves)
        return tensor([math.copysign(0.5, k - 1) if number < 1e-3 else 0.0 for k, (_, number) in enumerate(moves)])

    around = SimpleNamespace(params={"scale": tensor([1.0, value])}, domains={"scale": "positive"})
    parameters = {"scale": SimpleNamespace(initial=tensor([1.0, start]))}
    program = SimpleNamespace(parameters=parameters)
    return SimpleNamespace(around=around, problem=SimpleNamespace(program=program), with_entries=with_entries)


@pytest.mark.parametrize(
    ("start", "value"), [(2.0, 0.0), (2.0, torch.inf), (0.0, 2.0), (torch.inf, 3.0), (2.0, 1e-320)]
)
def test_zero_and_infinity_have_a_way(start: float, value: float) -> None:
    """All points on it are numbers above zero, and what is lost at some is told."""
    looked: list[float] = []
    lost = digits._on_the_way(ground(start, value, looked), ENTRY)
    assert looked
    assert all(0 < number < math.inf for number in looked)
    assert lost == (1.0 if min(looked) < 1e-3 else 0.0)


@pytest.mark.parametrize(("start", "value"), [(2.0, 0.0), (2.0, torch.inf), (0.0, 2.0)])
def test_they_are_far_out(start: float, value: float) -> None:
    """So that their way is looked at; a number that stands where it has started has none."""
    assert digits._moved(ground(start, value, []), ENTRY) > digits.FAR_OUT
    assert digits._moved(ground(2.0, 2.0, []), ENTRY) == 0.0


@pytest.mark.parametrize("scale", [1.0, 1e6, 2.0**40])
def test_what_is_steep_on_the_way_is_not_lost(scale: float) -> None:
    """From where the program states a scale, a million times too small: all is exponential there, and smooth."""
    x = scale * dist.Gumbel(0.0, 1.0).sample((60,))

    def model(x: Tensor) -> None:
        width = pyro.param("width", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Gumbel(0.0, width), obs=x)

    fit = EM(model, starts={"width": tensor(scale)}).fit(x)
    assert fit.converged, fit
    assert fit.notes == ()


@pytest.mark.parametrize(("tol", "times"), [(1e-3, 0), (1e-8, 1), (0.0, 1)])
def test_a_promise_below_the_tolerance_is_not_put_to_the_test(
    tol: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off a maximum by less than the tolerance nothing climbs to see; by more the slope is doubted either way."""
    x = torch.randn(60, generator=torch.Generator().manual_seed(0))

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    pyro.clear_param_store()
    problem = prepare(model, (x,), {}, {}, check=False)
    params = {"loc": x.mean() + 0.01}  # 0.003 nats below the maximum
    found = problem.expect(problem.bind(batched(params)))
    heights, points = Ground.heights, list[int]()
    monkeypatch.setattr(Ground, "heights", lambda self, at: (points.append(len(at)), heights(self, at))[1])
    findings = certify(problem, params, found, tol)
    assert points.count(len(TRIALS)) == times
    assert bool(findings.doubt(problem.objective(batched(params)), tol)) == bool(times)
    assert findings.gain == pytest.approx(60 * 0.01**2 / 2, rel=SOLVERS)
