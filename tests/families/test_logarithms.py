"""Logarithms of probabilities: zero is no fault, what is below zero or above one has none; with a slope and without."""

import pytest
import torch
from torch import tensor

from em_pyro.families.charts import safe_log, safe_log_complement


@pytest.mark.parametrize("needs_slope", [False, True])
def test_what_has_no_logarithm(needs_slope: bool) -> None:  # noqa: FBT001
    """A climb differentiates, a trial does not: both see the same values."""
    p = tensor([-0.1, 0.0, 0.3, 1.0, 1.1], requires_grad=needs_slope)
    log, complement = safe_log(p).detach(), safe_log_complement(p).detach()
    assert log.isnan().tolist() == [True, False, False, False, False]
    assert complement.isnan().tolist() == [False, False, False, False, True]
    assert float(log[1]) == float(complement[3]) == -torch.inf


def test_zero_has_a_slope_of_zero() -> None:
    """It counts for nothing, and stops no other."""
    p = tensor([0.0, 0.5], requires_grad=True)
    (slope,) = torch.autograd.grad(safe_log(p)[1], p)
    assert slope.tolist() == [0.0, 2.0]
