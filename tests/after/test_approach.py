"""Where rows are many, the top is gone to by slopes alone, and second derivatives are taken there once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pytest
from em_pyro.models import gaussian_mixture
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from programs.overlapping import overlapping, slow
from torch import Tensor

from em_pyro import EM
from em_pyro.after.information import oakes
from em_pyro.after.information.record import Information
from em_pyro.fit.verdict import peak
from em_pyro.fit.verdict.approach import approached
from em_pyro.fit.verdict.around import Around
from em_pyro.fit.verdict.ground import Ground


def well_apart() -> tuple[Callable[..., None], tuple[Tensor, ...]]:
    """Three normals that EM tells apart in a few steps."""
    x = gaussian_mixture.simulate(20_000, 2, 3, seed=1).double()
    return partial(gaussian_mixture.full, K=3), (x,)


def looked(model: Any, args: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, many: int) -> tuple[Information, int]:
    """Return the information of a fit that ends well below the top, and how often second derivatives were taken."""
    calls, second = list[int](), oakes.second_order

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return second(*args, **options)

    pyro.clear_param_store()
    fit = EM(model, tol=1e-7, check=False).fit(*args)
    with monkeypatch.context() as patch:
        patch.setattr(peak, "MANY", many)
        patch.setattr(oakes, "second_order", counted)
        return fit.information(), len(calls)


def test_one_pass_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same standard errors, by fewer passes."""
    model, args = well_apart()
    few, passes = looked(model, args, monkeypatch, many=10**9)
    many, pass_ = looked(model, args, monkeypatch, many=1)
    assert pass_ == 1 < passes
    for name, se in few.se.items():
        close(many.se[name], se, SOLVERS)
        close(many.params[name], few.params[name], SOLVERS)


def test_where_em_is_slow_newton_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that leaves much of the slope is the last, and the standard errors are the same."""
    few, many = (looked(slow, (overlapping(),), monkeypatch, many=many)[0] for many in (10**9, 1))
    for name, se in few.se.items():
        close(many.se[name], se, SOLVERS)


def test_a_lower_place_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: slopes that point downwards lead nowhere."""
    model, args = well_apart()
    pyro.clear_param_store()
    fit = EM(model, tol=1e-7, check=False).fit(*args)
    problem = fit._alive()
    ground = Ground(problem, Around(problem.program, problem.plan.free, fit.fitted))
    found = ground.found()
    information = ground.curvature_of_q(found)
    assert information is not None
    assert approached(ground, found, information, (), 1e-6)[0] is not ground
    slope = Ground.slope_of_q
    monkeypatch.setattr(Ground, "slope_of_q", lambda *args: -slope(*args))
    ground = Ground(problem, ground.around)  # one that has seen no slope yet
    assert approached(ground, found, information, (), 1e-6) == (ground, found, information)
