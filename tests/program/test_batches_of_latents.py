"""Latents whose distribution has rows that no plate declares, such as by an index that is a column."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ModelError
from em_pyro.program.data import check

Y = tensor([0.3, -1.0, 1.2, 0.8, -0.4, -1.9])


def shares(y: Tensor, group: Tensor, law: Any = dist.Categorical) -> None:
    """Every row has the shares of its group."""
    share = pyro.param("share", tensor([[0.5, 0.5], [0.4, 0.6], [0.3, 0.7]]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", law(share[group] if law is dist.Categorical else share[group][..., 0]))
        pyro.sample("y", dist.Normal(loc[z.long()], 1.0), obs=y)


def alone(y: Tensor, group: Tensor) -> None:
    """The same without a plate."""
    share = pyro.param("share", tensor([[0.5, 0.5], [0.4, 0.6], [0.3, 0.7]]), constraint=constraints.simplex)
    z = pyro.sample("z", dist.Categorical(share[group]))
    pyro.sample("y", dist.Normal(tensor([-1.0, 1.0])[z], 1.0), obs=y)


@pytest.mark.parametrize("rows", [6, 2])
@pytest.mark.parametrize(
    ("model", "more"), [(shares, ()), (shares, (dist.Bernoulli,)), (alone, ())], ids=["shares", "odds", "alone"]
)
def test_rows_of_no_plate_are_named(model: Any, more: tuple[Any, ...], rows: int) -> None:
    """By the latent; as many as it has states are no states."""
    group = torch.arange(rows) % 3
    with pytest.raises(ModelError, match=rf'Site "z": .*got {rows} rows that belong to no plate\. Enclose'):
        EM(model).fit(Y[:rows], group if model is alone else group[:, None], *more)
    if model is not alone:
        assert EM(model).fit(Y[:rows], group, *more).converged


def test_a_row_of_indices_is_what_its_plate_has() -> None:
    """A dimension of size one more is none."""
    group = torch.arange(6) % 3
    values = EM(shares).fit(Y, group).params["loc"]
    pyro.clear_param_store()
    assert torch.equal(EM(shares).fit(Y, group[None]).params["loc"], values)


def test_without_it_another_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of two states are taken for one another, and the enumerated program is blamed."""
    monkeypatch.setattr(check, "check_batch", lambda *_: None)
    with pytest.raises(ModelError, match="enumerated or concrete"):
        EM(shares).fit(Y[:2], torch.arange(2)[:, None])
