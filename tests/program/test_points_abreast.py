"""Runs at several points, made at once, are the runs there one by one; and where they would not be, there are none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models.factor_analysis import factor_analysis
from oracles.runs import counted
from oracles.tolerances import IDENTITY
from programs.registry import NAMES, build
from torch import Tensor, tensor
from torch.distributions import AffineTransform, ExpTransform, constraints

from em_pyro import EM
from em_pyro.program.changes.same import first_difference
from em_pyro.program.points import abreast as room
from em_pyro.program.points.abreast import Abreast, abreast, read_abreast
from em_pyro.program.program import Program
from em_pyro.program.survey import survey
from em_pyro.reading.recognise import recognise

WEIGHTS_OF_MODULES = frozenset({"RegisteredLinear", "NestedLinear"})
"""Programs that write to the weights of a module: nothing else runs one by one."""
X = torch.linspace(-1.0, 2.0, 5)


def surveyed(name: str) -> tuple[Program, list[dict[str, Tensor]]]:
    """Return a small program, and the points at which it is probed."""
    pyro.clear_param_store()
    case = build(name)
    program = survey(case.model, case.args, {})
    return program, list(recognise(program).points)


def made(program: Program, points: list[dict[str, Tensor]]) -> Abreast | None:
    """Return the runs at some points, made at once."""
    with torch.no_grad():
        return abreast(program, program.run(points[0]), points)


@pytest.mark.parametrize("name", NAMES)
def test_runs_at_once_are_those_one_by_one(name: str) -> None:
    """In all tensors of all sites; what no parameter enters is one tensor, and keeps its memory."""
    program, points = surveyed(name)
    if len(points) < room.FEW or not any(points):
        pytest.skip("has no parameters")
    found = made(program, points)
    assert (found is None) == (name in WEIGHTS_OF_MODULES)
    for point, run in zip(points, [] if found is None else found.runs, strict=found is not None):
        with torch.no_grad():
            alone = program.run(point)
        assert list(run) == list(alone)
        assert first_difference(alone, run) == ""
        for site, other in zip(run.values(), alone.values(), strict=True):
            assert site.fn.batch_shape == other.fn.batch_shape
            assert torch.allclose(
                site.log_prob().tensor, other.log_prob().tensor, rtol=IDENTITY, atol=IDENTITY, equal_nan=True
            )
            assert site.role != "observed" or site.value.data_ptr() == run[site.name].value.data_ptr()


def test_latents_that_are_integrated_have_the_same_values_in_all_runs() -> None:
    """What stands for them is drawn, which it could not be in runs that are made at once."""
    pyro.clear_param_store()
    program = survey(factor_analysis, (torch.linspace(-1.0, 1.0, 40).reshape(8, 5), 2), {})
    assert program.integrated
    values = {name: parameter.initial for name, parameter in program.parameters.items()}
    points = [{name: value * (1 + k / 10) for name, value in values.items()} for k in range(room.FEW)]
    found = made(program, points)
    assert found is not None
    for point, run in zip(points, found.runs, strict=True):
        with torch.no_grad():
            assert first_difference(program.run(point), run) == ""


def test_what_differs_between_the_runs_is_said() -> None:
    """Arguments that a parameter enters, with the points first."""
    program, points = surveyed("gaussian_mixture")
    found = made(program, points)
    assert found is not None
    assert {site for site, _ in found.moved} == {"z", "x"}
    assert {len(part) for part in found.moved.values()} == {len(points)}
    program, points = simple(lambda p: dist.Normal(p, 1.0))
    found = made(program, points)
    assert found is not None
    assert {place.rpartition(".")[2] for _, place in found.moved} == {"loc"}


def branches(p: Tensor) -> Tensor:
    """Ask for a number."""
    return p if p > 0 else -p


def by_item(p: Tensor) -> Tensor:
    """Take a number out of its tensor."""
    return torch.full((5,), p.item())


def draws(p: Tensor) -> Tensor:
    """Draw a random number."""
    return p + torch.rand(())


def writes(p: Tensor) -> Tensor:
    """Write into a tensor of its own."""
    out = torch.zeros(5)
    out[0] = p
    return out


def by_numpy(p: Tensor) -> Tensor:
    """Go through NumPy."""
    return torch.as_tensor(np.exp(p.detach().numpy()))


@pytest.mark.parametrize("body", [branches, by_item, draws, writes, by_numpy])
def test_a_model_without_such_a_run_is_run_point_by_point(body: Callable[[Tensor], Tensor]) -> None:
    """And leaves neither a value in the store nor a draw in the generator."""
    state = torch.get_rng_state()
    program, points = simple(lambda p: dist.Normal(body(p), 1.0))
    assert made(program, points) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert not list(pyro.get_param_store())


def test_a_model_that_does_something_else_every_time_is_found_out() -> None:
    """A run at the first point is made alone, and compared."""
    count = 0

    def counted(p: Tensor) -> Any:
        nonlocal count
        count += 1
        return dist.Normal(p + count, 1.0)

    program, points = simple(counted)
    assert made(program, points) is None
    with torch.no_grad():
        known = program.run(points[0])
    assert read_abreast(program, known, points, (), lambda run: {("x", "loc"): run["x"].fn.mean}) is None


class Closed(dist.Normal):
    """A law with something in it that nobody knows."""

    def expand(self, shape: Any, _instance: Any = None) -> Any:
        """Keep it, whatever the shape."""
        law = super().expand(shape, _instance)
        law.inside = {self.loc}
        return law


def test_a_law_of_which_nobody_knows_what_is_in_it_is_left_alone() -> None:
    """A tensor in there would be that of no run."""
    program, points = simple(lambda p: Closed(p, 1.0))
    assert made(program, points) is None
    with torch.no_grad():
        known = program.run(points[0])
    assert read_abreast(program, known, points, (), lambda run: {("x", "loc"): run["x"].fn.mean}) is not None


@pytest.mark.parametrize(
    "law",
    [
        lambda p: dist.TransformedDistribution(dist.Normal(p, 1.0), [AffineTransform(p, 2.0), ExpTransform()]),
        lambda p: dist.Normal(p, 1.0).expand([5]).mask(X > 0),
        lambda p: dist.MultivariateNormal(torch.stack([p, -p]), torch.eye(2)).expand([5]),
        lambda p: dist.Uniform(p - 9.0, p + 9.0),
    ],
)
def test_what_is_inside_of_a_law_is_taken_apart(law: Callable[[Tensor], Any]) -> None:
    """Transforms, masks, what was expanded and supports are those of each run."""
    program, points = simple(law)
    found = made(program, points)
    assert found is not None
    for point, run in zip(points, found.runs, strict=True):
        with torch.no_grad():
            alone = program.run(point)["x"]
        value = alone.fn.sample() if alone.fn.event_shape else X.exp()
        assert torch.equal(run["x"].fn.log_prob(value), alone.fn.log_prob(value))


@pytest.mark.parametrize(("attribute", "value"), [("FEW", 6), ("ENTRIES", 9), ("DATA", 24)])
def test_few_runs_and_large_ones_are_made_one_by_one(
    attribute: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to be gained."""
    program, points = simple(lambda p: dist.Normal(p, 1.0))
    monkeypatch.setattr(room, "SMALL", 1)
    assert made(program, points) is not None
    monkeypatch.setattr(room, attribute, value)
    assert made(program, points) is None


def test_many_small_arguments_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the steps of a long loop, however many there are."""
    monkeypatch.setattr(room, "ENTRIES", 9)
    program, points = simple(lambda p: dist.Normal(p, 1.0))
    assert made(program, points) is not None


def test_runs_at_once_are_as_many_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is called once for all points."""
    program, points = simple(lambda p: dist.Normal(p, 1.0))
    calls = counted(monkeypatch)
    assert made(program, points) is not None
    assert len(calls) == 2  # the first of them alone


def test_a_plan_runs_the_model_a_dozen_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes, and latents in all their states."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.arange(7.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(7) / 7))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    calls = counted(monkeypatch)
    EM(model).plan(X)
    assert len(calls) <= 12


def test_what_a_model_notes_down_stays_alive() -> None:
    """A list of what it has computed holds tensors that can be used afterwards."""
    seen = list[Tensor]()

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.arange(3.0))
        seen.append(loc.detach().clone())
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)

    EM(model, max_steps=2).fit(X)
    assert all(part.shape == (3,) and bool(part.isfinite().all()) for part in seen)


def simple(law: Callable[[Tensor], Any]) -> tuple[Program, list[dict[str, Tensor]]]:
    """Return a program with one parameter and one site, and five points."""
    pyro.clear_param_store()

    def model(_: Tensor) -> None:
        fn = law(pyro.param("p", tensor(0.5), constraint=constraints.real))
        with pyro.plate("rows", 5):
            pyro.sample("x", fn, obs=torch.ones(5, *fn.event_shape))

    values: list[dict[str, Tensor]] = [{"p": tensor(0.1 * k + 0.2)} for k in range(5)]
    return survey(model, (X,), {}), values
