"""A selection is not enough for a closed form: constraints, rows used partly, families that differ, blocks."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import check_closed, how, step, why
from programs.probed import ROWS, N, bits, counts, locations, mixture, positive, real, unit
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM

NARROW: dict[str, tuple[Callable[[Tensor, Tensor], Any], Tensor, Any, Callable[[], Tensor]]] = {
    "interval of a probability": (lambda a, z: dist.Bernoulli(a[z]), tensor([0.3, 0.5]), constraints.interval(0.2, 0.9),
                                  bits),
    "ordered locations": (lambda a, z: dist.Normal(a[z], 1.0), tensor([-1.0, 1.0]), dist.constraints.ordered_vector,
                          lambda: 2 * real(N)),
    "bounded scale": (lambda a, z: dist.Normal(locations(z), a[z]), tensor([0.5, 1.5]), constraints.greater_than(0.1),
                      lambda: 2 * real(N)),
    "bounded rate": (lambda a, z: dist.Poisson(a[z]), tensor([0.5, 1.5]), constraints.greater_than(0.1), counts),
    "scale below one": (lambda a, z: dist.Normal(locations(z), a[z]), tensor([0.3, 0.5]), constraints.unit_interval,
                        lambda: 0.3 * real(N)),
}  # fmt: skip


@pytest.mark.parametrize("name", NARROW)
def test_narrower_constraints(name: str) -> None:
    """A constraint narrower than the domain goes to torch, whose transform enforces it."""
    law, start, constraint, data = NARROW[name]
    model = mixture(lambda z: law(pyro.param("a", start.double(), constraint=constraint), z))
    assert how(model, data()) == {"a": "torch"}
    assert "constraint" in why(model, "a", data())
    fit = EM(model, max_steps=10).fit(data())
    assert bool(constraint.check(fit.params["a"]).all())
    assert list(fit.path) == sorted(fit.path)
    assert fit.path[-1] > fit.path[0]


PARTLY: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "one entry": lambda w, z: dist.Bernoulli(w[z, 0]),
    "an entry and its complement": lambda w, z: dist.Categorical(torch.stack([w[..., 0], 1 - w[..., 0]], -1)[z]),
    "two of three entries": lambda w, z: dist.Categorical(w[z, :2]),
    "a sum of entries": lambda w, z: dist.Categorical(torch.stack([w[..., 0], w[..., 1] + w[..., 2]], -1)[z]),
}


@pytest.mark.parametrize("name", PARTLY)
def test_a_simplex_row_used_partly(name: str) -> None:
    """The rest of the row would pay for what is used: torch."""

    def of(z: Tensor) -> Any:
        return PARTLY[name](pyro.param("w", ROWS.softmax(-1), constraint=constraints.simplex), z)

    x = bits() if name == "one entry" else bits().long()
    assert how(mixture(of), x) == {"w": "torch"}


def test_a_simplex_row_permuted_is_used_whole() -> None:
    """Two sites may read one row in two orders, and as multiples beside a constant."""

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.param("w", ROWS.softmax(-1), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Categorical(w[z]), obs=x)
            pyro.sample("y", dist.Categorical(torch.cat([w.flip(-1) / 2, torch.full((2, 1), 0.5)], -1)[z]), obs=y)

    check_closed(model, torch.arange(N) % 3, torch.arange(N) % 4)


def test_one_parameter_in_two_families() -> None:
    """A rate that is also a scale has no joint closed form, and the plan names both."""

    def model(x: Tensor, y: Tensor) -> None:
        a = positive("a", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(0.0, a[z]), obs=x)
            pyro.sample("y", dist.Poisson(a[z]), obs=y)

    assert how(model, real(N), counts()) == {"a": "torch"}
    assert "Normal" in why(model, "a", real(N), counts())
    assert "Poisson" in why(model, "a", real(N), counts())


def test_one_parameter_in_two_families_of_one_kind() -> None:
    """A probability of heads and of the first success is pooled over both; so is a rate of counts and of waiting."""

    def model(x: Tensor, y: Tensor, c: Tensor, t: Tensor) -> None:
        p, r = unit("p", 0.3, 0.6), positive("r", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Bernoulli(p[z]), obs=x)
            pyro.sample("y", dist.Geometric(1 - p[z]), obs=y)
            pyro.sample("c", dist.Poisson(r[z]), obs=c)
            pyro.sample("t", dist.Exponential(r[1 - z]), obs=t)

    check_closed(model, bits(), counts(), counts().flip(0), real(N).exp())


def test_one_parameter_through_two_functions() -> None:
    """`a` and `a^2` at two sites: torch."""

    def model(x: Tensor, y: Tensor) -> None:
        a = positive("a", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Poisson(a[z]), obs=x)
            pyro.sample("y", dist.Poisson(a[z] ** 2), obs=y)

    assert how(model, counts(), counts()) == {"a": "torch"}


def test_one_parameter_as_location_and_scale() -> None:
    """A standard deviation proportional to the mean: torch."""

    def of(z: Tensor) -> Any:
        a = positive("a", 0.5, 1.5)
        return dist.Normal(a[z], a[z])

    assert how(mixture(of), 1 + real(N)) == {"a": "torch"}


def test_a_location_times_a_parameter() -> None:
    """A product of two parameters is neither."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("a", tensor([-1.0, 1.0]))[z] * pyro.param("b", tensor(0.7)), 1.0)

    assert how(mixture(of), real(N)) == {"a": "torch", "b": "torch"}


# ---- blocks that are swept -------------------------------------------------------------------------------------------


def test_a_mean_shared_by_components_whose_scales_differ() -> None:
    """The classic outlier model: swept until the gradient of `Q` is zero, and the plan says why."""

    def of(z: Tensor) -> Any:
        return dist.Normal(pyro.param("loc", tensor(0.3)), positive("scale", 0.5, 3.0)[z])

    x = torch.cat([0.5 * real(20), 4 * real(10, seed=1)])
    assert "shared" in why(mixture(of), "loc", x)
    check_closed(mixture(of), x, swept=("loc", "scale"))


def test_a_mean_with_a_prior_and_a_free_scale() -> None:
    """A Normal prior weighs against the scale: swept."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(tensor([-2.0, 2.0]), 0.5).to_event(1))
        scale = positive("scale", 0.5, 1.5)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    assert "prior" in why(model, "loc", 2 * real(N))
    check_closed(model, 2 * real(N), swept=("loc", "scale"))


def test_a_mean_with_a_prior_and_a_known_scale() -> None:
    """Nothing to sweep when the scale is known."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(tensor([-2.0, 2.0]), 0.5).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.6, 0.4])))
            pyro.sample("x", dist.Normal(loc[z], tensor([0.5, 1.5])[z]), obs=x)

    check_closed(model, 2 * real(N))


def test_a_location_that_torch_maximises() -> None:
    """Closed and torch in one block: alternated until `Q` is stationary."""

    def of(z: Tensor) -> Any:
        loc = pyro.param("loc", tensor([-1.0, 1.0]), constraint=dist.constraints.ordered_vector)
        return dist.Normal(loc[z], positive("scale", 0.5, 1.5)[z])

    x = 2 * real(N)
    assert how(mixture(of), x) == {"loc": "torch", "scale": "swept"}
    assert step(mixture(of), x).slope <= 1e-10
