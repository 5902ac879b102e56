"""Many rows are read by some of them: with the same result, by few runs of all, and only if all rows are as these.

Rows that are not among those read have another slope, another scale, a term of their own. None of this is carried over.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.steps import em_step
from oracles.tolerances import IDENTITY, SOLVERS
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch.distributions import constraints

from em_pyro.fit.problem import Problem, prepare
from em_pyro.program.program import Program
from em_pyro.reading import recognise
from em_pyro.reading.design import some_rows

ROWS, OTHER = 200, 77  # rows; and one that is not among those that are read
RANDOM = torch.Generator().manual_seed(0)
X = torch.randn((ROWS, 3), generator=RANDOM).double()
RARE = (torch.arange(ROWS) == 123).double()
GROUP = torch.arange(ROWS) * 7 % 30
Y = torch.randn(ROWS, generator=RANDOM).double()
COUNTS = (4 * torch.rand(ROWS, generator=RANDOM)).floor().double()
K = 2

Body = Callable[[Tensor], Any]
"""From the states to the law of what is observed."""


def parameter(name: str, *shape: int, constraint: Any = constraints.real) -> Tensor:
    """Declare a parameter whose entries differ."""
    values = torch.linspace(0.3, 0.9, torch.Size(shape).numel()).double().reshape(shape)
    return pyro.param(name, values, constraint=constraint)


def mixture(law: Callable[..., Any]) -> Callable[..., None]:
    """Return a mixture; the law is of the states and of what the model is called with but the last, the values."""

    def model(*args: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.4, 0.6]).double(), constraint=constraints.simplex)
        with pyro.plate("rows", len(args[-1])):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", law(z, *args[:-1]), obs=args[-1])

    return model


def scale() -> Tensor:
    """Declare a scale."""
    return parameter("scale", constraint=constraints.positive)


def regression(z: Tensor, x: Tensor) -> Any:
    """Return a linear regression in each state."""
    return dist.Normal(parameter("a", K)[z] + (x * parameter("b", K, 3)[z]).sum(-1), scale())


def with_rare(z: Tensor, x: Tensor, rare: Tensor) -> Any:
    """Return the same with a covariate that is zero but for one row."""
    return dist.Normal(x @ parameter("b", 3) + parameter("c", K)[z] * rare, scale())


def exposed(z: Tensor, x: Tensor, e: Tensor) -> Any:
    """Return counts with exposures."""
    return dist.Poisson(e.exp() * (parameter("a", K)[z] + x @ parameter("b", 3)).exp())


def looked_up(z: Tensor, group: Tensor) -> Any:
    """Return locations that rows look up."""
    return dist.Normal(Vindex(parameter("m", K, 30))[z, group], scale())


def beside(z: Tensor, x: Tensor, group: Tensor) -> Any:
    """Return a regression with a term that rows look up."""
    return dist.Normal(parameter("m", 30)[group] + (x * parameter("b", K, 3)[z]).sum(-1), scale())


def logistic(z: Tensor, x: Tensor) -> Any:
    """Return a logistic regression."""
    return dist.Bernoulli(logits=(x * parameter("b", K, 3)[z]).sum(-1))


AS_READ = {
    "regression": (regression, (X, Y)),
    "a rare category": (with_rare, (X, RARE, Y)),
    "exposures": (exposed, (X, X[:, 0], COUNTS)),
    "lookups": (looked_up, (GROUP, Y)),
    "lookups beside covariates": (beside, (X, GROUP, Y)),
    "logistic": (logistic, (X, (COUNTS > 1).double())),
}


def another_slope(z: Tensor, x: Tensor) -> Any:
    """Return a regression in which one row has twice the slope."""
    twice = torch.where(torch.arange(len(x)) == OTHER, 2.0, 1.0) if len(x) == ROWS else torch.ones(len(x))
    return dist.Normal(twice.double() * (x * parameter("b", K, 3)[z]).sum(-1), scale())


def a_square(z: Tensor, x: Tensor) -> Any:
    """Return one in which a location is no longer affine where a covariate lies in a short interval."""
    b, inside = parameter("b", K, 3)[z], (x[:, 0] - X[OTHER, 0]).abs() < 1e-6
    return dist.Normal(torch.where(inside, (x * b).sum(-1) ** 2, (x * b).sum(-1)), scale())


def a_parameter_of_its_own(z: Tensor, x: Tensor) -> Any:
    """Return one in which a row has a parameter that no other has."""
    inside = (x[:, 0] - X[OTHER, 0]).abs() < 1e-6
    return dist.Normal((x * parameter("b", K, 3)[z]).sum(-1) + inside * parameter("more"), scale())


def centred(z: Tensor, x: Tensor) -> Any:
    """Return one whose covariates are centred among the rows at hand."""
    return dist.Normal(((x - x.mean(0)) * parameter("b", K, 3)[z]).sum(-1), scale())


def computed(z: Tensor, x: Tensor) -> Any:
    """Return one with a covariate that is a function of two others."""
    return dist.Normal(parameter("b", K)[z] * (x[:, 0] * x[:, 1]), scale())


OTHERWISE: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    name: (law, (X, Y))
    for name, law in {
        "another slope": another_slope,
        "a square": a_square,
        "a parameter of its own": a_parameter_of_its_own,
        "centred": centred,
        "computed": computed,
    }.items()
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Read programs by some of their rows; collect whether what was read holds for all."""
    found = list[bool]()
    carried = some_rows.carried
    monkeypatch.setattr(some_rows, "MANY", ROWS)
    monkeypatch.setattr(some_rows, "ENTRIES", 1)
    monkeypatch.setattr(some_rows, "EVENLY", 9)

    def listened(*args: Any) -> Any:
        readings = carried(*args)
        found.append(readings is not None)
        return readings

    monkeypatch.setattr(recognise, "carried", listened)
    return found


def planned(law: Callable[..., Any], args: tuple[Tensor, ...]) -> Problem:
    """Plan a program anew."""
    pyro.clear_param_store()
    return prepare(mixture(law), args, {}, {}, check=True)


def whole(law: Callable[..., Any], args: tuple[Tensor, ...]) -> Problem:
    """The same with all rows read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(some_rows, "MANY", 10**9)
        return planned(law, args)


def check_same(one: Problem, other: Problem) -> None:
    """Compare how parameters are maximised, and a step."""
    assert {n: line.how for n, line in one.plan.lines.items()} == {n: line.how for n, line in other.plan.lines.items()}
    values = {name: parameter.initial for name, parameter in one.program.parameters.items()}
    mine, its = (em_step(problem.engine, problem.plan, values) for problem in (one, other))
    close(mine[1].log_evidence, its[1].log_evidence, IDENTITY)
    for name in values:
        close(mine[0][name], its[0][name], SOLVERS)


@pytest.mark.parametrize("name", [*AS_READ, *OTHERWISE])
def test_the_same_is_read(name: str, told: list[bool]) -> None:
    """Columns of what the model is called with are told by some rows; what another row does is found out by all."""
    law, args = {**AS_READ, **OTHERWISE}[name]
    problem = planned(law, args)
    assert told == [name in AS_READ]
    check_same(problem, whole(law, args))


def test_all_rows_are_run_a_few_times(told: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many parameters there are."""
    monkeypatch.setattr("em_pyro.program.points.abreast.FEW", 10**9)
    runs, run = list[int](), Program.run

    def noted(program: Program, *args: Any) -> Any:
        runs.append(program.plates["rows"])
        return run(program, *args)

    monkeypatch.setattr(Program, "run", noted)
    planned(regression, (X, Y))
    some = runs.count(ROWS)
    runs.clear()
    whole(regression, (X, Y))
    assert some <= 3 + 1 + 4 < runs.count(ROWS) / 2
