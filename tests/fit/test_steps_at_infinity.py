"""A line that tells its rows apart without an error has no finite slope, and its intercept goes along."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM


def lines(x: Tensor, y: Tensor, group: Tensor, *, trials: int, matrix: bool) -> None:
    """Two logistic lines, the second next to a step; the coefficients stand apart, or in one table."""
    if matrix:
        table = pyro.param("table", tensor([[0.0, 0.5], [-2.0, 40.0]]))
        intercept, slope = table[:, 0], table[:, 1]
    else:
        intercept = pyro.param("intercept", tensor([0.0, -2.0]))
        slope = pyro.param("slope", tensor([0.5, 40.0]))
    weights = pyro.param("weights", tensor([0.5, 0.5]), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights), obs=group)
        pyro.sample("y", dist.Binomial(trials, logits=intercept[z] + slope[z] * x), obs=y)


@pytest.mark.parametrize("trials", [1, 4])
@pytest.mark.parametrize("matrix", [True, False])
def test_a_step_is_named(matrix: bool, trials: int) -> None:  # noqa: FBT001
    """Along the intercept or the slope alone it would move; along both it stays, and the likelihood rises for ever."""
    x, group = torch.linspace(-2.0, 2.0, 60), torch.arange(60) % 2
    y = trials * torch.where(group == 1, x > 0.05, torch.arange(60) * 7 % 5 < 2).to(x)
    fit = EM(lines).fit(x, y, group, trials=trials, matrix=matrix)
    names = ('"table"[1, 1]', '"table"[1, 0]') if matrix else ('"slope"[1]', '"intercept"[1]')
    notes = [note for note in fit.notes if note.startswith("runs to")]
    assert all(any(name in note for note in notes) for name in names), fit
    assert not any(name.replace("[1", "[0") in note for note in notes for name in names), fit
