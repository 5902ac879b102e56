"""What every refusal of bad input has to satisfy, and a small model to spoil."""

import re
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, DataError, EMError, ModelError, ObjectiveError, ParameterError, PlanError


def store() -> dict[str, Any]:
    """Everything that the param store holds, bit for bit."""
    held = pyro.get_param_store()
    values = {name: (id(value), value.detach().clone(), value._version) for name, value in held._params.items()}
    return {"values": values, "constraints": dict(held._constraints), "modules": dict(held._param_to_name)}


def unchanged(before: dict[str, Any]) -> None:
    """Assert that the store is what it was, and that no name was added."""
    after = store()
    assert after["constraints"] == before["constraints"]
    assert after["values"].keys() == before["values"].keys()
    assert len(after["modules"]) == len(before["modules"])
    for name, (identity, value, version) in before["values"].items():
        assert after["values"][name][0] == identity
        assert after["values"][name][2] == version
        assert torch.equal(after["values"][name][1], value)


CLASSES: dict[str, type[EMError]] = {
    "data": DataError, "model": ModelError, "parameter": ParameterError, "objective": ObjectiveError, "plan": PlanError,
}  # fmt: skip


FORM = re.compile(r": expected .*, (got|but) .*\. [A-Z].*\.$", re.DOTALL)
"""Site, expected, got, remedy: in that order."""


def refuse(
    kind: str, pattern: str, model: Any, *args: Any, methods: str = "plan step fit posterior", **options: Any
) -> None:
    """Require the error from every method, at once and again, with the store and the generator as they were."""
    before, generator = store(), torch.get_rng_state()
    for method in methods.split():
        with pytest.raises(EMError) as caught:
            getattr(EM(model, **options), method)(*args)
        message = str(caught.value)
        assert type(caught.value) is CLASSES[kind], f"{type(caught.value).__name__}: {message}"
        assert re.search(pattern, message, re.DOTALL), message
        assert FORM.search(message), f"not in house form: {message}"
        unchanged(before)
        assert torch.equal(torch.get_rng_state(), generator)


def points(x: Tensor) -> None:
    """Mix two normals; the parameter `loc` is in the store already."""
    loc = pyro.param("loc", tensor([-1.0, 1.0]))
    scale = pyro.param("scale", tensor([1.0, 2.0]), constraint=constraints.positive)
    with pyro.plate("points", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


X = (-1.0, 0.5, 2.0)
"""Data of `points`."""
