"""A saddle passes every stopping rule: the test that tells it from a maximum, whatever the units of the data."""

from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.engines import distance
from oracles.tolerances import SOLVERS
from programs.loops import mixture, points, symmetric
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.fit.loop
import em_pyro.fit.saddle
from em_pyro import EM
from em_pyro.fit.saddle import margin
from em_pyro.fit.verdict.findings import Findings
from em_pyro.program.named import alike

Units = tuple[float, float]


def test_a_saddle_is_left() -> None:
    """Components that start equal are told apart by a disturbance, and the fit ends where another start does."""
    x = points()
    fit = EM(symmetric).fit(x)
    assert any("left a saddle" in note for note in fit.notes)
    pyro.clear_param_store()
    elsewhere = EM(mixture).fit(x)
    assert fit.converged
    assert distance(fit.objective, elsewhere.objective) < SOLVERS


def test_a_saddle_looks_converged_without_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both stopping criteria hold at the saddle."""
    monkeypatch.setattr(em_pyro.fit.loop, "leave_saddle", lambda *args: None)
    x = points()
    fit = EM(symmetric).fit(x)
    pyro.clear_param_store()
    assert fit.converged
    assert fit.objective < EM(mixture).fit(x).objective - 1


# ---- where curvature tells -------------------------------------------------------------------------------------------


def test_a_top_that_bends_down_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its curvature is that of a maximum: a disturbance leads nowhere else, and the answer is the same to a bit."""
    sizes, x = climbs(monkeypatch), points()
    bent = EM(mixture).fit(x)
    assert (bent.outcome, sizes) == ("converged", [])
    pyro.clear_param_store()
    undecided(monkeypatch)
    disturbed = EM(mixture).fit(x)
    assert sizes == [1]
    assert (bent.outcome, bent.notes, bent.path) == (disturbed.outcome, disturbed.notes, disturbed.path)
    assert alike(bent.params, disturbed.params)


def test_a_saddle_is_no_top(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no curvature there, or the wrong one. The fault: it is believed all the same, and EM ends there."""
    asked, peaked = list[bool](), Findings.peaked

    def told(self: Findings, *args: float) -> bool:
        asked.append(peaked(self, *args))
        return True

    monkeypatch.setattr(Findings, "peaked", told)
    fit = EM(symmetric).fit(points())
    assert asked == [False]
    assert not any("left a saddle" in note for note in fit.notes)


def test_what_has_not_settled_has_left_no_saddle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gains that promise too little, as of M-steps that go a part of the way: it goes on, and no saddle is told."""
    asked, plain = list[float](), em_pyro.fit.loop.estimated_gap

    def told(*args: Any) -> Any:
        gap, spent = plain(*args)
        asked.append(gap)
        return (1e-12 if len(asked) < 4 else gap), spent

    x = points()
    right = EM(mixture).fit(x)
    pyro.clear_param_store()
    monkeypatch.setattr(em_pyro.fit.loop, "estimated_gap", told)
    fit = EM(mixture).fit(x)
    assert asked[1] > 1e-3
    assert not any("left a saddle" in note for note in fit.notes), fit.notes
    close(fit.log_likelihood, right.log_likelihood, SOLVERS)


@pytest.mark.parametrize("gap", [1e-6, 0.0])
def test_a_point_below_its_top_is_none(gap: float) -> None:
    """A slope that promises more than a disturbance would have to gain is no sign of a top."""
    found = Findings(0.0, (), least=0.5, left=1e-6)
    assert found.peaked(-1.0, 1e-8, margin(gap, -1.0)) == (gap > 0)


# ---- whatever the units, and whether the scale is shared -------------------------------------------------------------


def gains(tied: bool, units: Units) -> list[float]:  # noqa: FBT001
    """Gain over one Normal of a mixture of two that starts equal, and of one that starts apart, in some units."""
    unit, origin = units
    x = origin + unit * points()

    def model(x: Tensor, apart: float) -> None:
        weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
        loc = pyro.param("loc", origin + unit * tensor([2.0 - apart, 2.0 + apart]))
        scale = pyro.param("scale", unit * torch.ones(() if tied else 2), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale if tied else scale[z]), obs=x)

    alone = float(dist.Normal(x.mean(), x.std(correction=0)).log_prob(x).sum())
    found = []
    for apart in (0.0, 2.0):
        pyro.clear_param_store()
        found.append(EM(model).fit(x, apart).objective - alone)
    return found


@pytest.mark.laws
@pytest.mark.parametrize("units", [(1.0, 0.0), (1e6, 0.0), (1e-6, 0.0), (1.0, 1e5), (1e-3, -1e3)], ids=str)
@pytest.mark.parametrize("tied", [False, True])
def test_the_disturbance_has_no_units(tied: bool, units: Units) -> None:  # noqa: FBT001
    """Data in other units, or from another origin, are told apart as well; components that share a scale too."""
    equal, apart = gains(tied, units)
    assert apart > 5
    assert abs(equal - apart) < SOLVERS * 200


@pytest.mark.parametrize(("tied", "units"), [(False, (1e-6, 0.0)), (False, (1.0, 1e5)), (True, (1.0, 0.0))], ids=str)
def test_it_takes_both_units_and_size(monkeypatch: pytest.MonkeyPatch, tied: bool, units: Units) -> None:  # noqa: FBT001
    """Relative to the parameters themselves the disturbance misses the first two; too small, it misses the last."""

    def relative(engine: Any, params: Any, found: Any, at: Mapping[str, Tensor], *args: Any) -> dict[str, Tensor]:
        return {name: 1 + point.abs() for name, point in at.items()}

    if tied:
        monkeypatch.setattr(em_pyro.fit.saddle, "LARGE", em_pyro.fit.saddle.SMALL)
    else:
        monkeypatch.setattr(em_pyro.fit.saddle, "row_units", relative)
    equal, apart = gains(tied, units)
    assert equal < apart - 1


# ---- without latents -------------------------------------------------------------------------------------------------


def pairs(both: Tensor, first: Tensor, second: Tensor) -> None:
    """Murray (1977): a bivariate Normal, of which either coordinate may be missing; no latents at all."""
    mean = pyro.param("mean", torch.zeros(2))
    covariance = pyro.param("covariance", 2.5 * torch.eye(2), constraint=constraints.positive_definite)
    with pyro.plate("complete", len(both)):
        pyro.sample("both", dist.MultivariateNormal(mean, covariance), obs=both)
    with pyro.plate("half", len(first)):
        pyro.sample("first", dist.Normal(mean[0], covariance[0, 0].sqrt()), obs=first)
        pyro.sample("second", dist.Normal(mean[1], covariance[1, 1].sqrt()), obs=second)


@pytest.mark.parametrize("correlation", [0.0, 0.2, -0.2])
def test_two_maxima_and_a_saddle(correlation: float) -> None:
    """Murray (1977), in the discussion of Dempster, Laird & Rubin, JRSS B 39:27: rho 0.5 or -0.5, both variances 8/3.

    At no correlation there is a saddle, variances 5/2 and log-likelihood -30.03334239; the sign of a start decides.
    """
    both = tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    half = tensor([2.0, 2.0, -2.0, -2.0])
    start = {"covariance": 2.5 * torch.eye(2) + 2.5 * correlation * (1 - torch.eye(2))}
    fit = EM(pairs, starts=start, tol=1e-12).fit(both, half, half)
    assert fit.converged
    assert any("left a saddle" in note for note in fit.notes) == (correlation == 0)
    sign = correlation or float(fit.params["covariance"][0, 1])
    want = 8 / 3 * (torch.eye(2) + 0.5 * torch.sign(tensor(sign)) * (1 - torch.eye(2)))
    close(fit.params["covariance"], want, SOLVERS)
    close(fit.log_likelihood, -29.974286410465012)


def test_the_cap_holds_after_a_saddle() -> None:
    """A saddle left on the way to the cap is no convergence; without a tolerance it is not looked for."""
    x = points()
    capped = EM(symmetric, max_steps=5).fit(x)
    assert (capped.outcome, capped.num_steps, len(capped.path)) == ("step limit", 5, 6)
    assert any("left a saddle" in note for note in capped.notes)
    assert capped.path[-1] > capped.path[2] + 1e-7
    pyro.clear_param_store()
    plain = EM(symmetric, max_steps=5, tol=0).fit(x)
    assert (plain.outcome, plain.num_steps) == ("step limit", 5)
    assert not any("left a saddle" in note for note in plain.notes)
    assert plain.path[-1] == pytest.approx(plain.path[2], abs=1e-9)


# ---- what is disturbed -----------------------------------------------------------------------------------------------


def test_a_fit_that_stops_on_its_way_is_not_disturbed_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a coarse tolerance EM goes on from where it is told to stop: nothing has stayed where it was put."""
    undecided(monkeypatch)
    sizes = climbs(monkeypatch)
    fit = EM(mixture, tol=1e-5, acceleration=None).fit(points())
    assert fit.converged
    assert sizes == [1]


def test_both_large_disturbances_climb_abreast(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch where steps are closed forms; what has no batch climbs from one after the other."""
    undecided(monkeypatch)
    sizes, x = climbs(monkeypatch), tensor([-1.0, 1.0, -2.0, 2.0, 0.0, 0.3])
    together = EM(tied, tol=1e-9).fit(x)
    assert sizes == [1, 2, 1]  # the last at the maximum, where all comes back
    pyro.clear_param_store()
    monkeypatch.setattr(em_pyro.fit.saddle, "starts_at_once", lambda problem: 1)
    alone = EM(tied, tol=1e-9).fit(x)
    assert sizes == [1, 2, 1, 1, 1, 1]
    close(together.objective, alone.objective)


def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no curvature tell what a disturbance would."""
    monkeypatch.setattr(em_pyro.fit.loop, "glanced", lambda *args: None)


def climbs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many starts climb at once, in each climb from now on."""
    sizes, climb = list[int](), em_pyro.fit.saddle._climb

    def counted(problem: Any, moved: Mapping[str, Tensor], *args: float) -> Any:
        sizes.append(len(next(iter(moved.values()))))
        return climb(problem, moved, *args)

    monkeypatch.setattr(em_pyro.fit.saddle, "_climb", counted)
    return sizes


def tied(x: Tensor) -> None:
    """A mixture of two with one scale: where they are equal, nothing moves at first."""
    loc = pyro.param("loc", tensor([0.0, 0.0]))
    scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def test_the_way_that_rests_is_walked_beside_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where EM is still on its way, as at a tolerance this wide, what stays is told by fewer steps, and the same."""
    undecided(monkeypatch)
    steps, taken = list[int](), em_pyro.fit.saddle.em_step

    def counted(problem: Any, batch: Mapping[str, Tensor]) -> Any:
        steps[-1] += 1
        return taken(problem, batch)

    monkeypatch.setattr(em_pyro.fit.saddle, "em_step", counted)
    fits, x = list[Any](), points()
    for beside in (em_pyro.fit.saddle.BESIDE, 10**9):
        pyro.clear_param_store()
        monkeypatch.setattr(em_pyro.fit.saddle, "BESIDE", beside)
        steps.append(0)
        fits.append(EM(mixture, tol=1e-4).fit(x))
    together, alone = fits
    assert steps[0] < steps[1]
    assert (together.outcome, together.notes) == (alone.outcome, alone.notes)
    close(together.objective, alone.objective)
    for name, value in together.params.items():
        close(value, alone.params[name])
