"""A program on other arguments is the same program: no initialiser runs again, and what differs is named."""

import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import registry
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import DataError, ModelError
from em_pyro.program.survey import survey

CALLS: list[str] = []


def start() -> Tensor:
    """Count, and start somewhere."""
    CALLS.append("start")
    return tensor([-1.0, 1.0])


def mixture(x: Tensor, kinds: int = 2, how: str = "") -> None:
    """Fit Normal distributions; `how` makes it another program."""
    weights = pyro.param("weights", torch.full((2,), 0.5), constraint=constraints.simplex)
    loc = pyro.param("loc", start)
    scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
    if how == "parameter":
        pyro.param("more", tensor(0.0))
    with pyro.plate("others" if how == "plate" else "rows", len(x)):
        law = dist.Categorical(torch.ones(kinds) / kinds) if kinds != 2 else dist.Categorical(weights)
        z = pyro.sample("z", law, obs=torch.zeros_like(x).long() if how == "observed" else None)
        loc = loc[z.clamp(max=1)]
        if how == "statement":
            pyro.sample("y", dist.Normal(loc, scale), obs=x)
        pyro.sample("x", dist.Normal(loc, scale), obs=None if how == "missing" else x)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_no_initialiser_runs(rows: int) -> None:
    """Fewer rows, one row, more rows: sizes and sites are the new ones, parameters and states the old ones."""
    CALLS.clear()
    program = survey(mixture, (torch.arange(5.0),), {})
    assert CALLS == ["start"]
    other = program.on((torch.arange(float(rows)),), {})
    assert CALLS == ["start"]
    assert (program.plates, other.plates) == ({"rows": 5}, {"rows": rows})
    assert other.parameters is program.parameters
    assert other.latents is program.latents
    at = {name: parameter.initial + 1.0 for name, parameter in program.parameters.items()}
    assert other.run(at)["x"].log_prob().tensor.squeeze(-1).shape == ((2, rows) if rows > 1 else (2,))
    assert torch.equal(other.run(at)["x"].value, torch.arange(float(rows)))
    assert torch.equal(program.run(at)["x"].value, torch.arange(5.0))
    assert torch.equal(other.on((torch.arange(5.0),), {}).run(at)["x"].value, torch.arange(5.0))
    assert CALLS == ["start"]


@pytest.mark.parametrize("name", registry.NAMES)
def test_its_own_arguments(name: str) -> None:
    """Every program is the same program on what it was surveyed with."""
    case = registry.build(name)
    program = survey(case.model, case.args, {})
    other = program.on(case.args, {})
    assert other.plates == program.plates
    assert other.parameters is program.parameters


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("parameter", 'Site "more": .*new in this one.*another program'),
        ("plate", 'Plate "others": expected .*got '),
        ("observed", 'Site "z": expected a latent .*got an observed value'),
        ("statement", 'Site "y": .*new in this one'),
        ("missing", 'Site "x": .*new in this one'),
    ],
)
def test_another_program_is_refused(how: str, says: str) -> None:
    """Say which statement differs, and what to do."""
    program = survey(mixture, (torch.arange(5.0),), {})
    with pytest.raises(ModelError, match=says) as refusal:
        program.on((torch.arange(3.0),), {"how": how})
    assert str(refusal.value).endswith("fit it by itself.")


def test_a_missing_statement() -> None:
    """What the first arguments had and these have not is named too."""
    for how, says in (("statement", 'Site "y": .*missing'), ("parameter", 'Parameter "more": expected a statement')):
        program = survey(mixture, (torch.arange(5.0),), {"how": how})
        with pytest.raises(ModelError, match=says):
            program.on((torch.arange(5.0),), {})


def test_a_plate_in_another_dimension() -> None:
    """Its rows would be looked for where they are not."""

    def model(x: Tensor, dim: int) -> None:
        loc = pyro.param("loc", tensor(0.0))
        with pyro.plate("rows", len(x), dim=dim):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x.reshape(-1, *(1,) * (-1 - dim)))

    program = survey(model, (torch.arange(5.0), -1), {})
    with pytest.raises(ModelError, match='Plate "rows": expected dimension -1 .*got dimension -2'):
        program.on((torch.arange(5.0), -2), {})


def test_other_states() -> None:
    """A latent with more states, whose prior is no parameter, is another latent."""
    program = survey(mixture, (torch.arange(5.0),), {"kinds": 3})
    with pytest.raises(ModelError, match='Site "z": expected the same 3 states .*got 4 of'):
        program.on((torch.arange(5.0),), {"kinds": 4})


@pytest.mark.parametrize("initial", [lambda x: torch.zeros(len(x)), lambda x: lambda: torch.zeros(len(x))])
def test_a_parameter_by_row(initial: Callable[[Tensor], Any]) -> None:
    """Rows with a parameter each are no other rows of one program, whether its start is a tensor or a function."""

    def model(x: Tensor) -> None:
        own = pyro.param("own", initial(x))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(own, 1.0), obs=x)

    program = survey(model, (torch.arange(5.0),), {})
    for rows in (1, 3):
        with pytest.raises(ModelError, match="other arguments.*fit it by itself"):
            program.on((torch.arange(float(rows)),), {})
    assert program.on((torch.arange(5.0) + 1,), {}).plates == {"rows": 5}


def test_no_rows() -> None:
    """No rows are refused as they are at first."""
    program = survey(mixture, (torch.arange(5.0),), {})
    with pytest.raises(DataError, match=re.escape('Plate "rows": expected at least one row')):
        program.on((torch.zeros(0),), {})
