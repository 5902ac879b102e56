"""What SVI takes beside a model can be called, too: it is named, and not taken for one."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import Tensor, tensor

from em_pyro import EM, ModelError, VariationalEM


def model(x: Tensor) -> None:
    """One location."""
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(pyro.param("loc", tensor(0.0)), 1.0), obs=x)


OTHERS = {
    "a guide": [AutoDelta, AutoNormal],
    "an objective of SVI": [lambda _: TraceEnum_ELBO(), lambda _: Trace_ELBO()],
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("cls", [EM, VariationalEM])
def test_a_guide_or_an_objective(cls: Any, kind: str) -> None:
    """Its class and what it is are named."""
    for make in OTHERS[kind]:
        other = make(model)  # type: ignore[operator]
        with pytest.raises(
            ModelError, match=f"{cls.__name__}: .* got {type(other).__name__}, {kind}.*the model itself"
        ):
            cls(other)


def test_a_module_is_a_model() -> None:
    """What has a `forward` is called as any function is."""

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> None:
            model(x)

    assert EM(Module()).fit(tensor([1.0, 2.0])).converged


def test_what_svi_takes_beside_a_model() -> None:
    """A guide, an optimiser and a loss are named, and how EM is called."""
    beside = (AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), TraceEnum_ELBO())
    for many in (1, 2, 3):
        with pytest.raises(TypeError, match=r"got .* beside the model.*no guide.*EM\(model\).fit\(data\)"):
            EM(model, *beside[:many])
    with pytest.raises(TypeError, match="got function beside|got <lambda> beside"):
        EM(model, lambda x: None)


class Silent(torch.nn.Module):
    """Nothing is written in it."""


@pytest.mark.parametrize("cls", [EM, VariationalEM])
@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Silent, r"the class Silent. Make one"),
        (dist.Normal(0.0, 1.0), "the distribution Normal"),
        (Silent(), "forward"),
    ],
    ids=["a class", "a distribution", "a module"],
)
def test_what_can_be_called_and_is_no_model(cls: Any, other: Any, said: str) -> None:
    """A class, a distribution, and a module that has no `forward`."""
    with pytest.raises(ModelError, match=f"{cls.__name__}: expected .*{said}"):
        cls(other)
