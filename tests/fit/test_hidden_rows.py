"""Plateaus behind a clamp, or a saturated function that torch climbs: a fit comes back, or names the rows on them."""

from collections.abc import Callable
from functools import cache

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

import em_pyro.fit.loop
from em_pyro import EM, Fit

PLACE = torch.linspace(-3.0, 3.0, 40, dtype=torch.float64)
X = torch.cat([PLACE, PLACE])
GROUP = torch.arange(2).repeat_interleave(40)
NOISY = ((torch.sin(7.0 * PLACE) + 0.5 * PLACE) > 0).double()
STEP = (PLACE > 0.4).double()
OUTLIER = torch.where(torch.arange(40) == 5, 1 - STEP, STEP)
TABLE: dict[str, Tensor] = {
    "noisy": torch.cat([NOISY, 1 - NOISY]),
    "separated": torch.cat([STEP, 1 - STEP]),
    "outlier": torch.cat([OUTLIER, 1 - STEP]),
}
FLOOR = 1e-6

Link = Callable[[Tensor], Tensor]
LINKS: dict[str, Link] = {
    "clamp": lambda eta: torch.sigmoid(eta).clamp(FLOOR, 1 - FLOOR),
    "probit": lambda eta: 0.5 * (1 + torch.erf(eta / 2**0.5)),
}


def groups(y: Tensor, slope: Tensor, level: Tensor, link: Link, offset: float) -> None:
    """Two regressions of known rows."""
    a, b = pyro.param("level", level), pyro.param("slope", slope)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(link(a[GROUP] + b[GROUP] * (X + offset))), obs=y)


def mixed(y: Tensor, slope: Tensor, level: Tensor, link: Link, offset: float) -> None:
    """Eight subjects of ten answers each, of one regression or the other."""
    weights = pyro.param("weights", tensor([0.5, 0.5], dtype=torch.float64), constraint=constraints.simplex)
    a, b = pyro.param("level", level), pyro.param("slope", slope)
    with pyro.plate("subjects", 8, dim=-1):
        z = pyro.sample("z", dist.Categorical(weights))
        with pyro.plate("answers", 10, dim=-2):
            eta = a[z] + b[z] * (X + offset).reshape(8, 10).mT
            pyro.sample("y", dist.Bernoulli(link(eta)), obs=y.reshape(8, 10).mT)


def positive(y: Tensor, slope: Tensor, level: Tensor, link: Link, offset: float) -> None:
    """One regression with a slope above zero."""
    b = pyro.param("slope", slope[0], constraint=constraints.positive)
    with pyro.plate("rows", 40):
        pyro.sample("y", dist.Bernoulli(link(b * (PLACE - 0.2))), obs=y[:40])


MODELS = {"groups": groups, "mixed": mixed, "positive": positive}


def fitted(model: str, table: str, link: str, steep: float, turn: float = 0.2, offset: float = 0.0) -> Fit:
    """Fit from slopes of a size, the curves crossing a half at a place."""
    pyro.clear_param_store()
    slope = tensor([steep, -steep], dtype=torch.float64)
    return EM(MODELS[model]).fit(TABLE[table], slope, -slope * (offset + turn), LINKS[link], offset)


@cache
def near(model: str, table: str, link: str) -> Fit:
    """The maximum, from next to zero."""
    return fitted(model, table, link, 0.5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("steep", [1e3, 1e5])
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("model", "table"), [("groups", "noisy"), ("mixed", "noisy"), ("groups", "separated")])
def test_a_fit_comes_back(model: str, table: str, link: str, steep: float, offset: float) -> None:
    """No row has a slope at the start, and wherever one coefficient moves by itself it is no higher."""
    fit = fitted(model, table, link, steep, offset=offset)
    assert fit.converged
    assert any("left a plateau" in note for note in fit.notes)
    if table == "noisy":
        assert fit.log_likelihood == pytest.approx(near(model, table, link).log_likelihood, rel=SOLVERS)
    else:  # no row is misplaced any more
        assert fit.log_likelihood > -2 * len(X) * FLOOR


def test_a_number_above_zero_comes_back() -> None:
    """It is divided, not subtracted from."""
    fit = fitted("positive", "noisy", "clamp", 1e4)
    assert fit.log_likelihood == pytest.approx(near("positive", "noisy", "clamp").log_likelihood, rel=SOLVERS)


@pytest.mark.parametrize("link", LINKS)
def test_rows_without_a_slope_are_named(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row of each group lies on the wrong side, and a step too small to see leads nowhere."""
    monkeypatch.setattr(em_pyro.fit.loop, "leave_plateau", lambda *_: None)
    fit = fitted("groups", "separated", link, 1e3, turn=0.33)
    wrong = ((PLACE > 0.33) & (PLACE < 0.4)).nonzero().flatten()
    assert fit.outcome == "unconfirmed"
    rows = ", ".join(str(int(at)) for at in torch.cat([wrong, wrong + 40]))
    assert any(
        f'rows {rows} of plate "rows" have no slope and would be far likelier with "level"[0]' in note
        for note in fit.notes
    )


@pytest.mark.parametrize("link", LINKS)
def test_rows_on_the_right_side_are_where_they_belong(link: str) -> None:
    """There is no slope, either; but nothing to gain."""
    fit = fitted("groups", "separated", link, 1e3, turn=0.38)
    assert fit.converged
    assert any("to infinity" in note for note in fit.notes)


@pytest.mark.parametrize(("model", "steep"), [("groups", 10.0), ("groups", 1e3), ("mixed", 1e3), ("positive", 10.0)])
@pytest.mark.parametrize("link", LINKS)
def test_one_row_behind_a_clamp(model: str, steep: float, link: str) -> None:
    """All other rows are on the right side, or have a maximum without it; the regression next to it is separated."""
    fit = fitted(model, "outlier", link, steep, turn=0.4)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(near(model, "outlier", link).log_likelihood, abs=1e-4)


def test_a_plateau_that_ends_nearby_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The climb has stopped as the last row went behind the clamp."""
    monkeypatch.setattr(em_pyro.fit.loop, "leave_plateau", lambda *_: None)
    fit = fitted("groups", "outlier", "clamp", 10.0, turn=0.4)
    assert fit.outcome == "unconfirmed"
    assert any('rows 5 of plate "rows" have no slope' in note for note in fit.notes)


def spread(start: Tensor) -> None:
    """A normal law whose scale is kept away from zero."""
    loc, scale = pyro.param("loc", 0.3 + 0 * start), pyro.param("scale", start, constraint=constraints.positive)
    with pyro.plate("rows", 40):
        pyro.sample("y", dist.Normal(loc, scale.clamp(min=1e-3)), obs=PLACE.to(start))


def spreads(start: Tensor) -> None:
    """A mixture of two whose scales are kept between two bounds."""
    loc = pyro.param("loc", tensor([-0.3, 0.3], dtype=start.dtype))
    scale = pyro.param("scale", torch.stack([start, 1 + 0 * start]), constraint=constraints.positive)
    with pyro.plate("rows", 40):
        z = pyro.sample("z", dist.Categorical(torch.ones(2, dtype=start.dtype) / 2))
        pyro.sample("y", dist.Normal(loc[z], scale.clamp(0.5, 20.0)[z]), obs=(PLACE + 2 * PLACE.sign()).to(start))


def probability(start: Tensor) -> None:
    """A probability that is kept away from zero and one."""
    p = pyro.param("p", start, constraint=constraints.unit_interval)
    with pyro.plate("rows", 40):
        pyro.sample("y", dist.Bernoulli(p.clamp(1e-3, 1 - 1e-3)), obs=STEP.to(start))


def probabilities(start: Tensor) -> None:
    """The law of three classes, of which none is kept from being possible."""
    p = pyro.param("p", torch.stack([start, start, 1 - 2 * start]), constraint=constraints.simplex)
    with pyro.plate("rows", 40):
        pyro.sample("y", dist.Categorical(p.clamp(min=1e-3)), obs=torch.arange(40) % 3)


CLAMPED = {spread: (1e-6, 1.0), spreads: (1e-6, 1.0), probability: (1e-5, 0.5), probabilities: (1e-5, 0.3)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("model", CLAMPED, ids=lambda model: model.__name__)
def test_a_scale_or_a_probability_behind_a_clamp(model: Callable[[Tensor], None], dtype: torch.dtype) -> None:
    """It comes out, and the fit ends where it would have from inside."""
    found = []
    for start in CLAMPED[model]:
        pyro.clear_param_store()
        found.append(EM(model).fit(tensor(start, dtype=dtype)))
    behind, inside = found
    assert behind.converged
    assert inside.log_likelihood > behind.path[0] + 5
    assert behind.log_likelihood == pytest.approx(
        inside.log_likelihood, rel=1e-3 if dtype == torch.float32 else SOLVERS
    )
