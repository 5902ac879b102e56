"""Columns of designs: which entry a cell has of one column is asked of the first, and of all others together."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.runs import counted
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro.program.program import Program
from em_pyro.program.survey import survey
from em_pyro.reading.design import slots
from em_pyro.reading.predictor import Affine
from em_pyro.reading.recognise import recognise

ROWS, COLUMNS = 30, 6


def design() -> Tensor:
    """Covariates in units of their own, from thousandths to thousands."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, COLUMNS, generator=generator) * 10.0 ** torch.arange(-3.0, COLUMNS - 3.0)


def one_state(x: Tensor, z: Tensor, other: Tensor, b: Tensor) -> Tensor:
    """All columns by the same state."""
    return (b[z] * x).sum(-1)


def two_states(x: Tensor, z: Tensor, other: Tensor, b: Tensor) -> Tensor:
    """The last column by another state than the others."""
    return (b[z] * x)[..., :-1].sum(-1) + b[other, -1] * x[:, -1]


def a_row_turned_round(x: Tensor, z: Tensor, other: Tensor, b: Tensor) -> Tensor:
    """One row has the state turned round in one of the columns, whose unit is the smallest."""
    turned = b[z] * x
    first = torch.where(torch.arange(ROWS) == 7, b[1 - z, 0], b[z, 0]) * x[:, 0]
    return turned[..., 1:].sum(-1) + first


def both_states(x: Tensor, z: Tensor, other: Tensor, b: Tensor) -> Tensor:
    """A cell has two entries of the last column."""
    return (b[z] * x).sum(-1) + b[1 - z, -1] * x[:, -1] ** 2


BODIES = (one_state, two_states, a_row_turned_round, both_states)
Body = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def program_of(body: Body) -> Program:
    """A regression with two binary latents a row."""

    def model(x: Tensor) -> None:
        b = pyro.param("b", 0.1 + 0.1 * torch.arange(2.0 * COLUMNS).reshape(2, COLUMNS))
        scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", ROWS):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            other = pyro.sample("other", dist.Categorical(tensor([0.3, 0.7])))
            pyro.sample("y", dist.Normal(body(x, z, other, b), scale), obs=x[:, 0])

    pyro.clear_param_store()
    return survey(model, (design(),), {})


def predictor(program: Program) -> Affine | None:
    """Return the location of the outcome as a predictor."""
    readings = recognise(program).readings
    return readings["y"].roles["loc"].affine if "y" in readings else None


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_predictor_is_that_of_the_model(body: Body, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """At other values than those that were tried, with steps at once and one by one."""
    if not at_once:
        monkeypatch.setattr("em_pyro.program.points.abreast.FEW", 10**9)
    program = program_of(body)
    affine = predictor(program)
    assert affine is not None
    values = {"b": torch.linspace(-2.0, 3.0, 2 * COLUMNS).reshape(2, COLUMNS), "scale": tensor(2.0)}
    with torch.no_grad():
        (run,) = (site for name, site in program.run(values).items() if name == "y")
        expected, mine = run.fn.mean.squeeze(), affine.predictor({n: v.unsqueeze(0) for n, v in values.items()})
    same(mine.squeeze(0).expand(affine.shape).squeeze(), expected)


@pytest.mark.parametrize("body", BODIES)
def test_what_is_assumed_is_seen_to_hold(body: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this look columns that go by another state are taken for what they are not, and the argument is lost."""
    monkeypatch.setattr(slots, "_agree", lambda replays, name, columns: True)
    assert (predictor(program_of(body)) is None) == (body is not one_state)


def test_a_column_takes_one_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many columns more take twice as many replays more, of which each is of one column."""
    calls = list[int]()
    run = Program.run

    def counted(self: Program, *args: Tensor) -> object:
        calls.append(1)
        return run(self, *args)

    monkeypatch.setattr(Program, "run", counted)
    monkeypatch.setattr("em_pyro.program.points.abreast.FEW", 10**9)
    monkeypatch.setattr("em_pyro.reading.design.replays.FAR", 1e9)  # no step is too long

    def replays(columns: int) -> int:
        x = torch.randn(ROWS, columns, generator=torch.Generator().manual_seed(1))

        def model() -> None:
            b = pyro.param("b", torch.ones(2, columns))
            with pyro.plate("row", ROWS):
                z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
                pyro.sample("y", dist.Normal((b[z] * x).sum(-1), 1.0), obs=x[:, 0])

        pyro.clear_param_store()
        program = survey(model, (), {})
        calls.clear()
        recognise(program)
        return len(calls)

    assert replays(12) - replays(4) <= 8 + 4


def test_steps_that_are_likely_are_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of covariates in units of their own scatter, all but those that lead further than a link."""
    x = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(1))

    def model() -> None:
        b = pyro.param("b", torch.zeros(2, 8))
        with pyro.plate("row", ROWS):
            z = pyro.sample("z", dist.Categorical(tensor([0.4, 0.6])))
            pyro.sample("y", dist.Poisson((b[z] * x).sum(-1).exp()), obs=torch.ones(ROWS))

    pyro.clear_param_store()
    program, calls = survey(model, (), {}), counted(monkeypatch)
    assert "y" in recognise(program).readings
    assert len(calls) <= 18
