"""What planning costs: it grows with the program, not with its square."""

import gc
from contextlib import nullcontext
from itertools import product
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import gaussian_mixture
from oracles.sizes import Largest
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.utils._python_dispatch import TorchDispatchMode

from em_pyro import EM
from em_pyro.fit.problem import prepare


class Counting(TorchDispatchMode):
    """Count the operations of torch."""

    operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one, and go on."""
        self.operations += 1
        return func(*args, **(kwargs or {}))


def operations(sites: int) -> int:
    """Count what planning takes for a mixture with a parameter of its own at every site, of three families in turn."""
    x = torch.arange(20.0).remainder(2.0)

    def model(x: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            for k in range(sites):
                start = tensor([0.2, 0.6]) + 0.01 * (k % 10)
                unit = pyro.param(f"p{k}", start, constraint=constraints.unit_interval)[z]
                law = (dist.Bernoulli(unit), dist.Normal(unit, 1.0), dist.Poisson(unit))[k % 3]
                pyro.sample(f"x{k}", law, obs=x)

    pyro.clear_param_store()
    with Counting() as counting:
        EM(model).plan(x)
    return counting.operations


def test_planning_is_linear() -> None:
    """Twice as many sites more take twice as many operations more."""
    few, some, many = (operations(sites) for sites in (6, 12, 24))
    assert many - some <= 2.05 * (some - few)


@pytest.mark.parametrize(("sites", "replays"), [(9, 10), (149, 6)])
def test_long_programs_are_replayed_less_often(sites: int, replays: int) -> None:
    """Of more than a hundred sites about a thousand are run in all, and every parameter is found as before."""

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", 1.0 + torch.arange(float(sites)), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            for k in range(sites):
                pyro.sample(f"x{k}", dist.Poisson(rate[k] * tensor([1.0, 2.0])[z]), obs=x)

    pyro.clear_param_store()
    problem = prepare(model, (tensor([1.0, 0.0, 3.0]),), {}, {}, check=False)
    assert len(problem.engine.full.recognition.points) == replays
    assert problem.plan["rate"].how == "closed form"


def test_garbage_is_looked_for_afterwards() -> None:
    """No cycles are looked for while a plan is made; afterwards they are, or not, as before: also after an error."""
    looked = list[bool]()

    def model(x: Tensor, *, wrong: bool) -> None:
        looked.append(gc.isenabled())
        if wrong:
            raise ArithmeticError
        p = pyro.param("p", tensor([0.3, 0.6]), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample("x", dist.Bernoulli(p[z]), obs=x)

    before = gc.isenabled()
    try:
        for enabled, wrong in product((True, False), repeat=2):
            (gc.enable if enabled else gc.disable)()
            with pytest.raises(ArithmeticError) if wrong else nullcontext():
                EM(model).plan(torch.arange(20.0).remainder(2.0), wrong=wrong)
            assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert looked
    assert not any(looked)


def test_nothing_is_as_large_as_what_arguments_are_expanded_to() -> None:
    """A covariance matrix for each row is one for each state: no operation of planning makes the others.

    Locations far from zero are looked at elsewhere, too.
    """
    x = 1e3 + torch.randn(4000, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with Largest() as made:
        EM(gaussian_mixture.full, starts={"loc": x[:6]}).plan(x, 6)
    assert made.size < 2 * x.untyped_storage().nbytes()  # a byte for each entry of the others would be three times that
