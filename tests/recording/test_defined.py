"""Logarithms of probabilities that are zero in a state without weight: neither they nor their slopes count."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.errors import ObjectiveError
from em_pyro.recording import graph
from em_pyro.recording.defined import LOGARITHMS

K = torch.arange(60, dtype=torch.float64)
NEAR = torch.round(9 * (0.7 * K).sin())
ROUNDED = torch.cat([NEAR, tensor([75.0, 90.0, 180.0], dtype=torch.float64)])
"""Values in whole numbers: to the last digit the last ones have no probability in a narrow state."""

Law = Callable[[Tensor, Tensor], Tensor]


def between(low: Tensor, high: Tensor) -> Tensor:
    """The log-probability of an interval, as it is written first."""
    return (high - low).log()


def below(low: Tensor, high: Tensor) -> Tensor:
    """Another way to write it."""
    return (high - low - 1).log1p()


def bounded(low: Tensor, high: Tensor) -> Tensor:
    """What has a slope everywhere, by a bound."""
    return (high - low).clamp(min=1e-300).log()


def mixture(y: Tensor, law: Law) -> None:
    """Two normals of other widths, seen in intervals."""
    share = pyro.param("share", tensor([0.9, 0.1], dtype=torch.float64), constraint=constraints.simplex)
    scale = pyro.param("scale", tensor([3.0, 60.0], dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(share))
        one = dist.Normal(0.0, scale[z])
        pyro.factor("y", law(one.cdf(y - 0.5), one.cdf(y + 0.5)))


def fitted(law: Law) -> Fit:
    """Fit rounded values."""
    pyro.clear_param_store()
    return EM(mixture).fit(ROUNDED, law)


@pytest.mark.parametrize("law", [between, below])
def test_intervals_in_a_mixture(law: Law) -> None:
    """The maximum is that of the density with a bound, which no row reaches."""
    fit, usual = fitted(law), fitted(bounded)
    assert fit.converged
    assert usual.converged
    assert fit.objective == pytest.approx(usual.objective, rel=SOLVERS)
    for name, value in usual.params.items():
        assert torch.allclose(fit.params[name], value, rtol=1e-3)


def test_without_it_no_step_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero times infinity is no slope."""
    monkeypatch.setattr(graph, "LOGARITHMS", ())
    with pytest.raises(ObjectiveError, match="finite gradient"):
        fitted(between)


@pytest.mark.parametrize(("op", "run"), LOGARITHMS)
def test_values_and_slopes_are_those_of_torch(op: Callable[[Tensor], Tensor], run: Callable[[Tensor], Tensor]) -> None:
    """Twice differentiated; at zero the value is, and the slope is none."""
    x = tensor([0.3, 1.0, 7.0], dtype=torch.float64, requires_grad=True)
    mine, theirs = run(x), op(x)
    assert torch.equal(mine, theirs)
    for _ in range(2):
        mine, theirs = (torch.autograd.grad(y.sum(), x, create_graph=True)[0] for y in (mine, theirs))
        assert torch.equal(mine, theirs)
    zero = torch.full((1,), 0.0 if op is torch.ops.aten.log.default else -1.0, requires_grad=True)
    value = run(zero)
    assert value.item() == -torch.inf
    assert torch.autograd.grad(value.sum(), zero)[0].item() == 0.0
    assert run(tensor([-2.0])).isnan().all()
