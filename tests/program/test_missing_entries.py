"""Masked arrays: their mask is not lost on the way to a tensor; and codes of missing categories."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, tensor
from torch.distributions import constraints

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


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("code", [-1, 7])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_the_code_of_a_missing_category(dtype: torch.dtype, code: int, inside: bool) -> None:  # noqa: FBT001
    """Behind a mask, the distribution's or the program's, it is no category, and nobody looks it up."""

    def items(y: Tensor, seen: Tensor) -> None:
        probs = pyro.param("probs", tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]]), constraint=constraints.simplex)
        with pyro.plate("people", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            if inside:
                pyro.sample("y", dist.Categorical(probs[z].unsqueeze(-2)).mask(seen).to_event(1), obs=y)
                return
            for i in range(3):
                with poutine.mask(mask=seen[:, i]):
                    pyro.sample(f"y_{i}", dist.Categorical(probs[z]), obs=y[:, i])

    y = torch.tensor([[0, 1, 2], [2, 2, 1], [1, 0, 0], [2, 2, 2]])
    seen = torch.tensor([[True, False, True], [True, True, True], [False, True, True], [True, True, False]])
    with pyro.get_param_store().scope():
        plain = EM(items).fit(y.to(dtype), seen)
    with pyro.get_param_store().scope():
        coded = EM(items).fit(torch.where(seen, y, code).to(dtype), seen)
    assert abs(coded.log_likelihood - plain.log_likelihood) < 1e-10
    with pyro.get_param_store().scope(), pytest.raises(DataError, match=f"got {code}"):
        EM(items).fit(torch.where(seen, code, y).to(dtype), seen)


@pytest.mark.parametrize("rank", [0, 1])
def test_nan_where_the_law_takes_it_for_a_missing_entry(rank: int) -> None:
    """Pyro's own laws of incomplete normals: the fit is that of what is seen, and infinite entries are refused."""
    y = tensor([0.2, -0.5, 0.1, 3.4, 2.9, 3.3, 8.0], dtype=torch.float64)
    seen = torch.arange(7) < 6

    def masked(y: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 3.0], dtype=torch.float64))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=torch.float64)))
            pyro.sample("y", dist.Normal(loc[z], 1.0).mask(seen), obs=y)

    def incomplete(y: Tensor) -> None:
        loc = pyro.param("loc", tensor([0.0, 3.0], dtype=torch.float64))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5], dtype=torch.float64)))
            root = torch.eye(1, dtype=torch.float64)
            vector = dist.NanMaskedMultivariateNormal(loc[z].unsqueeze(-1), scale_tril=root)
            pyro.sample("y", vector if rank else dist.NanMaskedNormal(loc[z], 1.0), obs=y)

    pyro.clear_param_store()
    usual = EM(masked).fit(y)
    holes = torch.where(seen, y, torch.nan)[(..., *[None] * rank)]
    pyro.clear_param_store()
    fit = EM(incomplete).fit(holes)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(usual.log_likelihood, abs=1e-6)
    assert torch.allclose(fit.posterior.marginal("z")[6], tensor([0.5, 0.5], dtype=torch.float64))
    pyro.clear_param_store()
    with pytest.raises(DataError, match=r'^Site "y": expected finite data, or nan for what is missing, got'):
        EM(incomplete).fit(torch.where(holes.isnan(), torch.inf, holes))
