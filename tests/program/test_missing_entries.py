"""Masked arrays: their mask is not lost on the way to a tensor."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor

from em_pyro import EM, DataError

ARRAY = np.ma.array([1.0, 2.0, 3.0, 50.0], mask=[False, False, False, True])


def mean(x: Tensor, known: Tensor) -> None:
    """Have a mean of what is known."""
    loc = pyro.param("loc", tensor(0.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0).mask(known), obs=x)


def line(x: Tensor, y: Tensor) -> None:
    """Have a covariate."""
    slope = pyro.param("slope", tensor(0.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


def test_a_masked_entry_is_no_number() -> None:
    """What is behind a mask is refused, as observed and as a covariate; the remedy is one."""
    pyro.clear_param_store()
    with pytest.raises(DataError, match="expected numbers, got a masked array with 1 of 4 entries masked"):
        EM(mean).fit(ARRAY, torch.ones(4, dtype=torch.bool))
    with pytest.raises(DataError, match="1 of 4 entries masked"):
        EM(line).fit(ARRAY, torch.ones(4))
    fit = EM(mean).fit(tensor(ARRAY.filled(0)), tensor(~np.ma.getmaskarray(ARRAY)))
    assert abs(fit.params["loc"] - 2.0) < 1e-10


def test_an_array_that_masks_nothing_is_an_array() -> None:
    """Without a masked entry it is numbers."""
    pyro.clear_param_store()
    fit = EM(mean).fit(np.ma.array([1.0, 2.0]), torch.ones(2, dtype=torch.bool))
    assert abs(fit.params["loc"] - 1.5) < 1e-10
