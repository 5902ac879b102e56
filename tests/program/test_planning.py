"""What planning costs: it grows with the program, not with its square, and imports nothing that is dear."""

import subprocess
import sys
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.utils._python_dispatch import TorchDispatchMode

from em_pyro import EM


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


DEAR = """
import sys, torch, pyro, pyro.distributions as dist
import em_pyro.plotting
from em_pyro import EM
from torch.distributions import constraints

def model(x):
    w = pyro.param("w", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    rate = pyro.sample("rate", dist.Gamma(torch.ones(2), torch.ones(2)).to_event(1))
    a, b = pyro.param("a", torch.tensor(0.1)), pyro.param("b", torch.tensor(0.2))
    with pyro.plate("rows", len(x)):
        y, z = pyro.sample("y", dist.Categorical(w)), pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Poisson(rate[y] + rate[z] * a.exp() + torch.tanh(b) ** 2), obs=x)

EM(model, max_steps=2, starts=2).fit(torch.arange(12.0))
assert "a" in pyro.get_param_store()
print([name for name in ("sympy", "torch._dynamo", "torch._inductor", "matplotlib") if name in sys.modules])
"""


def test_a_fit_imports_no_compiler() -> None:
    """Neither planning, nor starts, nor torch's M-steps, nor the look at the end import torch's symbolic algebra.

    And nothing imports matplotlib before something is drawn.
    """
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", DEAR], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
