"""Modules: parameters and priors that live in `PyroModule` and `torch.nn.Module`."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, tensor
from torch.distributions import constraints

from programs.case import program


def _points() -> tuple[Tensor, ...]:
    return (tensor([-1.3, 0.2, 2.9, 3.4]),)


def _lines() -> tuple[Tensor, ...]:
    return tensor([-1.0, 0.3, 1.2, 2.0]), tensor([0.4, 0.9, -1.1, 2.3])


def _linear(linear: torch.nn.Linear) -> torch.nn.Linear:
    with torch.no_grad():
        linear.weight.copy_(tensor([[0.9], [-1.1]]))
        assert linear.bias is not None
        linear.bias.copy_(tensor([0.2, 0.5]))
    return linear


@program(_points)
class ModuleMixture(PyroModule):
    """Declare weights, means and scale as `PyroParam`."""

    def __init__(self) -> None:
        """Start from generic values."""
        super().__init__()
        self.weights = PyroParam(tensor([0.35, 0.65]), constraint=constraints.simplex)
        self.loc = PyroParam(lambda: tensor([-0.4, 2.3]))
        self.scale = PyroParam(tensor(1.2), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        """Run the mixture on `x`, shape `(N,)`."""
        weights, loc, scale = self.weights, self.loc, self.scale
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


@program(_points, map_values=lambda: {"loc": tensor([-0.6, 2.4])})
class ModuleWithPrior(PyroModule):
    """Declare means as `PyroSample` beside a `PyroParam`."""

    def __init__(self) -> None:
        """Start from generic values."""
        super().__init__()
        self.weights = PyroParam(tensor([0.35, 0.65]), constraint=constraints.simplex)
        self.loc = PyroSample(dist.Normal(0.5, 2.0).expand([2]).to_event(1))

    def forward(self, x: Tensor) -> None:
        """Run the mixture on `x`, shape `(N,)`."""
        weights, loc = self.weights, self.loc
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@program(_points)
class DecoratedModule(PyroModule):
    """Declare weights, means and scale by decorators, which make them when they are first asked for."""

    @PyroParam(constraint=constraints.simplex)
    def weights(self) -> Tensor:
        """Start from generic values."""
        return tensor([0.35, 0.65])

    @PyroParam
    def loc(self) -> Tensor:
        """Start from generic values."""
        return tensor([-0.4, 2.3])

    @PyroParam(constraint=constraints.positive)
    def scale(self) -> Tensor:
        """Start from a generic value."""
        return tensor(1.2)

    def forward(self, x: Tensor) -> None:
        """Run the mixture on `x`, shape `(N,)`."""
        weights, loc, scale = self.weights, self.loc, self.scale
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


@program(_lines)
class RegisteredLinear:
    """Predict both components' means by an `nn.Linear` that `pyro.module` registers."""

    def __init__(self) -> None:
        """Start from generic values."""
        self.linear = _linear(torch.nn.Linear(1, 2))

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Run the mixture on `x` and `y`, both of shape `(N,)`."""
        linear = pyro.module("linear", self.linear)
        weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            means = linear(x.unsqueeze(-1))
            pyro.sample("y", dist.Normal(torch.where(z == 0, means[:, 0], means[:, 1]), 0.9), obs=y)


@program(_lines)
class NestedLinear(PyroModule):
    """Nest a `PyroModule[nn.Linear]`, whose weights are parameters under dotted names."""

    def __init__(self) -> None:
        """Start from generic values."""
        super().__init__()
        self.linear = _linear(PyroModule[torch.nn.Linear](1, 2))
        self.weights = PyroParam(tensor([0.35, 0.65]), constraint=constraints.simplex)

    def forward(self, x: Tensor, y: Tensor) -> None:
        """Run the mixture on `x` and `y`, both of shape `(N,)`."""
        means = self.linear(x.unsqueeze(-1))
        weights = self.weights
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(torch.where(z == 0, means[:, 0], means[:, 1]), 0.9), obs=y)
