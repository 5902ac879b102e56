"""Starts and options that do not fit: a clear error, and nothing changed."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.refusals import X, points, refuse
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ObjectiveError, ParameterError

pytestmark = pytest.mark.usefixtures("earlier_values")


def test_a_start_outside_its_constraint() -> None:
    """A model's own start: the parameter, its constraint and the value."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        scale = pyro.param("scale", tensor([1.0, -2.0]), constraint=constraints.positive)
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)

    pattern = r'^Parameter "scale": expected its start within Greater.*, got \[1\.0, -2\.0\]'
    refuse("parameter", pattern, model, tensor(X))


def test_a_start_that_is_nan() -> None:
    """Not a number is within no constraint."""

    def model(x: Tensor) -> None:
        loc = pyro.param("start", tensor([-1.0, torch.nan]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("parameter", r'^Parameter "start": expected its start within Real', model, tensor(X))


def test_a_start_of_another_shape() -> None:
    """The store was filled by another model."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 0.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    refuse("parameter", r'^Parameter "loc": expected its start of shape \(3,\), got \(2,\)', model, tensor(X))


GIVEN: dict[str, tuple[Any, str]] = {
    "outside its constraint": ({"scale": tensor([1.0, -1.0])}, r'"scale": expected its start within'),
    "on its boundary": ({"scale": tensor([1.0, 0.0])}, r'"scale": expected its start within'),
    "of the wrong shape": ({"loc": tensor([1.0, 2.0, 3.0])}, r'"loc": expected its start of shape \(2,\), got \(3,\)'),
    "not a number": ({"loc": tensor([1.0, torch.nan])}, r'"loc": expected its start'),
    "unknown": ({"mean": tensor([1.0, 2.0])}, r"^starts: expected names among \['loc', 'scale'\], got \"mean\""),
    "second of a list": ([{}, {"scale": tensor([1.0, -1.0])}], r'"scale": expected its start within'),
}


@pytest.mark.parametrize("name", GIVEN)
def test_given_starts(name: str) -> None:
    """Of every start before the first is followed."""
    starts, pattern = GIVEN[name]
    refuse("parameter", pattern, points, tensor(X), methods="fit", starts=starts)


def test_an_unknown_name_in_m_step() -> None:
    """The error lists the names there are."""
    pattern = r"^m_step: expected names among \['loc', 'scale'\], got \"mean\""
    refuse("parameter", pattern, points, tensor(X), m_step={"mean": "torch"})


def test_an_unknown_m_step() -> None:
    """The error lists the choices."""
    pattern = r'^m_step\["loc"\]: expected "torch", "closed", "fixed" or a callable, got'
    refuse("parameter", pattern, points, tensor(X), m_step={"loc": "newton"})


def test_a_closed_form_where_there_is_none() -> None:
    """With the plan's why."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Laplace(loc[z].sin(), 1.0), obs=x)

    refuse("plan", r'^m_step\["loc"\]: expected a closed form', model, tensor(X), m_step={"loc": "closed"})


@pytest.mark.parametrize(
    "options",
    [
        {"tol": -1.0},
        {"tol": float("nan")},
        {"tol": "small"},
        {"max_steps": -1},
        {"max_steps": 2.5},
        {"starts": 0},
        {"starts": True},
        {"starts": -3},
        {"starts": 2.5},
        {"starts": None},
        {"starts": "3"},
        {"starts": [3]},
        {"starts": []},
        {"seed": "x"},
        {"seed": 1.5},
        {"m_step": "closed"},
        {"callback": 3},
        {"collapse": "no"},
        {"screen": "no"},
        {"check": 1},
    ],
    ids=lambda o: str(o),
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    """At once, before any model runs."""
    with pytest.raises(ParameterError, match="expected"):
        EM(points, **options)


def test_an_unknown_option() -> None:
    """Options are keyword-only, and there are no others."""
    with pytest.raises(TypeError):
        EM(points, steps=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        EM(points, 1e-8)  # type: ignore[misc]


def test_an_unknown_name_asked_of_a_plan_or_a_posterior() -> None:
    """The error lists what there is."""
    with pytest.raises(ParameterError, match=r"expected one of \['loc', 'scale'\], got \"mean\""):
        EM(points).plan(tensor(X))["mean"]
    with pytest.raises(ParameterError, match=r"expected one of the latent sites \['z'\], got \"x\""):
        EM(points).posterior(tensor(X)).marginal("x")


def test_an_m_step_of_the_user_s_that_is_no_value() -> None:
    """Outside its constraint, of another shape, or one that lets `Q` fall."""
    x = tensor(X)
    calls: list[tuple[str, Any]] = [
        ("parameter", lambda statistics, value: -value),
        ("parameter", lambda statistics, value: value[:1]),
        ("objective", lambda statistics, value: value + 50),
    ]
    for kind, call in calls:
        name = "scale" if kind == "parameter" else "loc"
        refuse(kind, rf'^m_step\["{name}"\]: expected', points, x, methods="step fit", m_step={name: call})


def test_tensors_on_different_devices() -> None:
    """Meta tensors stand for another device; both are named."""
    x = torch.zeros(3, device="meta")
    refuse("data", r"^Site \"x\": expected data and parameters on one device, got \['cpu', 'meta'\]", points, x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is one device here")
def test_data_on_another_device() -> None:
    """Parameters on the CPU, data on the accelerator."""
    refuse("data", r'^Site "x": expected data and parameters on one device', points, tensor(X).cuda())


def test_a_non_finite_objective_at_the_start() -> None:
    """Finite data and parameters, and a density that is not a number."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)
            pyro.factor("penalty", (loc.sum() - 1e6).sqrt() * torch.ones(len(x)))

    refuse("objective", r"^Start: expected a finite objective, got nan\. ", model, tensor(X), methods="fit step")


def test_an_objective_that_overflows_at_the_start() -> None:
    """A start so far away that the objective is minus infinity."""
    with pytest.raises(ObjectiveError, match=r"^Start: expected a finite objective, got .*starting values"):
        EM(points, starts={"loc": tensor([1e200, 1e200])}).fit(tensor(X))


def test_an_integer_parameter() -> None:
    """Pyro cannot differentiate by it, and what is meant is a number with a decimal point."""

    def model(x: Tensor) -> None:
        rate = pyro.param("rate", tensor([1, 3]))
        with pyro.plate("points", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(rate[z], 1.0), obs=x)

    refuse("model", r'^Parameter "rate": expected an initial value in floating point', model, tensor(X))
