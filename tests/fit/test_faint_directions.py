"""Directions of which data say next to nothing: they do not hide what the data say of the others."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.verdict import ground

ENDS = tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
COUNTS = tensor([5.0, 12.0, 20.0, 15.0, 8.0], dtype=torch.float64)


def binned(counts: Tensor, unit: float) -> None:
    """Counts in bins of a mixture that shares a scale: one component ends beyond them all, where none tells how far."""
    share = pyro.param("share", tensor(0.9), constraint=constraints.unit_interval)
    loc = pyro.param("loc", tensor([0.5, 5.0]) * unit)
    scale = pyro.param("scale", tensor(1.0) * unit, constraint=constraints.positive)
    one, other = (dist.Normal(loc[k], scale).cdf(ENDS * unit) for k in range(2))
    below = torch.cat([ENDS.new_zeros(1), share * one + (1 - share) * other, ENDS.new_ones(1)])
    pyro.sample("counts", dist.Multinomial(int(counts.sum()), below[1:] - below[:-1]), obs=counts)


def fitted(unit: float) -> Fit:
    """Fit in some unit."""
    pyro.clear_param_store()
    return EM(binned).fit(COUNTS, unit)


def named_flat(fit: Fit) -> str:
    """The note on what is not identified; empty if there is none."""
    return " ".join(note for note in fit.notes if "not identified" in note)


@pytest.mark.parametrize("unit", [1.0, 1e-2, 1e4])
def test_what_is_curved_beside_it_is_not_called_flat(unit: float) -> None:
    """The location without rows is flat, and it alone."""
    fit = fitted(unit)
    assert fit.converged
    assert '"scale"' not in named_flat(fit)
    assert '"loc"[0]' not in named_flat(fit)
    information = str(fit.information())
    assert "3 of 4 directions determined" in information
    assert 'flat along one direction, of "loc"[1]' in information


def test_without_it_all_is_called_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step along the one goes so far that nothing is left of the slopes of the others."""
    monkeypatch.setattr(ground, "ASTRAY", torch.inf)
    assert '"scale"' in named_flat(fitted(1.0))
