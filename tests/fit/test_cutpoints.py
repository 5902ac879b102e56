"""Cutpoints that run to infinity are named, and those that do not are not: categories without rows, separated data."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor, tensor

import em_pyro.fit.verdict.infinity
from em_pyro import EM, Fit

X = torch.linspace(-2.0, 2.0, 30, dtype=torch.float64)
NOISE = torch.sin(11.0 * X)
SEPARATED = (X > -0.7).long() + (X > 0.6).long()
MIXED_UP = (X + NOISE > -0.7).long() + (X + NOISE > 0.6).long()


def logistic(eta: Tensor, cut: Tensor) -> dist.TorchDistribution:
    """Proportional odds."""
    return dist.OrderedLogistic(eta, cut)


def probit(eta: Tensor, cut: Tensor) -> dist.TorchDistribution:
    """The same with normal errors, by hand."""
    below = torch.special.ndtr(cut - eta.unsqueeze(-1))
    zero, one = torch.zeros_like(below[..., :1]), torch.ones_like(below[..., :1])
    return dist.Categorical(torch.cat([below, one], -1) - torch.cat([zero, below], -1))


Law = Callable[[Tensor, Tensor], dist.TorchDistribution]


def regression(law: Law, y: Tensor) -> None:
    """One slope."""
    cut = pyro.param("cut", tensor([-1.0, 1.0], dtype=torch.float64), constraint=constraints.ordered_vector)
    slope = pyro.param("slope", tensor(1.0, dtype=torch.float64))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", law(slope * X, cut), obs=y)


def gaps(law: Law, y: Tensor) -> None:
    """The same, its cutpoints the lowest and a gap; beside it a scale of something else."""
    lowest, gap = (
        pyro.param("lowest", tensor(-1.0, dtype=torch.float64)),
        pyro.param("gap", tensor([2.0], dtype=torch.float64), constraint=constraints.positive),
    )
    slope = pyro.param("slope", tensor(1.0, dtype=torch.float64))
    scale = pyro.param("scale", tensor(1.0, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        pyro.sample("x", dist.Normal(0.0, scale), obs=X)
        pyro.sample("y", law(slope * X, torch.cat([lowest.unsqueeze(-1), lowest + gap.cumsum(-1)], -1)), obs=y)


def known_slope(law: Law, y: Tensor) -> None:
    """Cutpoints alone."""
    cut = pyro.param("cut", tensor([-1.0, 1.0], dtype=torch.float64), constraint=constraints.ordered_vector)
    with pyro.plate("rows", len(y)):
        pyro.sample("y", law(0.5 * X, cut), obs=y)


def mixture(law: Law, y: Tensor) -> None:
    """Two scales, of which a second site says which is which."""
    start = tensor([[-1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
    cut = pyro.param("cut", start, constraint=constraints.ordered_vector)
    weights = pyro.param("weights", tensor([0.5, 0.5], dtype=torch.float64), constraint=constraints.simplex)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("side", dist.Normal(6.0 * z, 1.0), obs=torch.where(X > 0, 6.0, 0.0).double())
        pyro.sample("y", law(torch.zeros_like(X), cut[z]), obs=y)


def fitted(model: Callable[[Law, Tensor], None], law: Law, y: Tensor) -> Fit:
    """Fit from the start that the model states."""
    pyro.clear_param_store()
    return EM(model).fit(law, y)


def said(fit: Fit) -> str:
    """All notes."""
    return "\n".join(fit.notes)


@pytest.mark.parametrize("law", [logistic, probit])
def test_data_that_are_separated(law: Law) -> None:
    """Cutpoints and slope run off together."""
    notes = said(fitted(regression, law, SEPARATED))
    assert 'runs to minus infinity: "cut"[0]' in notes
    assert 'runs to infinity: "cut"[1], "slope"' in notes
    assert "not identified" not in notes


@pytest.mark.parametrize("law", [logistic, probit])
def test_gaps_that_grow_with_them(law: Law) -> None:
    """How cutpoints are written does not matter; what enters another site stays."""
    notes = said(fitted(gaps, law, SEPARATED))
    assert 'runs to minus infinity: "lowest"' in notes
    assert 'runs to infinity: "gap"[0], "slope"' in notes
    assert "not identified" not in notes
    assert "scale" not in notes


@pytest.mark.parametrize("law", [logistic, probit])
@pytest.mark.parametrize("model", [regression, known_slope])
def test_a_category_without_rows(model: Callable[[Law, Tensor], None], law: Law) -> None:
    """The cutpoint beside it runs off, and the other does not."""
    above = said(fitted(model, law, MIXED_UP.clamp(max=1)))
    assert 'infinity: "cut"[1];' in above
    assert '"cut"[0]' not in above
    below = said(fitted(model, law, MIXED_UP.clamp(min=1)))
    assert 'to minus infinity: "cut"[0];' in below
    assert '"cut"[1]' not in below


def test_all_rows_in_one_category() -> None:
    """All cutpoints run off, one way or the other."""
    lowest = said(fitted(known_slope, logistic, torch.zeros(30).long()))
    assert 'infinity: "cut"[0]' in lowest
    assert 'infinity: "cut"[1]' in lowest
    assert "minus" not in lowest
    between = said(fitted(known_slope, logistic, torch.ones(30).long()))
    assert 'minus infinity: "cut"[0]' in between
    assert ' to infinity: "cut"[1]' in between


def test_those_of_one_component() -> None:
    """The other component has rows in all categories."""
    y = torch.where(X > 0, (torch.arange(30) % 2), torch.arange(30) % 3)
    notes = said(fitted(mixture, logistic, y))
    assert 'infinity: "cut"[1, 1];' in notes
    assert all(f'"cut"[{at}]' not in notes for at in ("0, 0", "0, 1", "1, 0"))


@pytest.mark.parametrize("model", [regression, gaps, known_slope])
@pytest.mark.parametrize("law", [logistic, probit])
def test_what_has_a_maximum_is_not_named(model: Callable[[Law, Tensor], None], law: Law) -> None:
    """Every category has rows, and they overlap."""
    fit = fitted(model, law, MIXED_UP)
    assert fit.converged
    assert fit.notes == ()


def test_without_it_they_are_not_identified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates of cutpoints are no numbers that run off by themselves."""
    monkeypatch.setattr(em_pyro.fit.verdict.infinity, "_cutpoints", lambda *_: {})
    notes = said(fitted(regression, logistic, SEPARATED))
    assert "infinity" not in notes
    assert "not identified" in notes


def test_what_is_level_both_ways_does_not_run_off() -> None:
    """A ratio alone is determined: multiplied, both stay as good, and divided, too."""

    def ratio() -> None:
        one = pyro.param("one", tensor(1.0, dtype=torch.float64))
        other = pyro.param("other", tensor(2.0, dtype=torch.float64), constraint=constraints.positive)
        with pyro.plate("rows", 30):
            pyro.sample("y", dist.Bernoulli(logits=torch.sin(one / other) * X), obs=(MIXED_UP > 0).double())

    pyro.clear_param_store()
    notes = said(EM(ratio).fit())
    assert "infinity" not in notes
    assert 'not identified: the objective is flat along one direction, of "one", "other"' in notes
