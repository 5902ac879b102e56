"""Chains of Gaussian latents in one plate, whose moves are scored: as the loop of the same law, and without its cost.

Rows take latents in turns (those of even and of odd steps are moved apart to be told apart), which must not be seen
afterwards: all rows of a step have the same slopes, and their sums are one product.
"""

from typing import cast

import pyro
import pyro.distributions as dist
import torch
from em_pyro.models import state_space
from oracles.agreement import close
from oracles.steps import em_step, expect
from torch import Tensor
from torch.distributions import constraints

from em_pyro.e_step.gaussian.group import posterior
from em_pyro.e_step.gaussian.unit import Gaussian
from em_pyro.fit.problem import Problem, prepare
from em_pyro.program.named import batched

STEPS = 30


def in_a_plate(y: Tensor, k: int = 2) -> None:
    """`state_space.linear_dynamical_system` of one sequence, without its loop."""
    transition = pyro.param("transition", 0.5 * torch.eye(k))
    emission = pyro.param("emission", torch.ones(y.shape[1], k))
    loc = pyro.param("loc", torch.zeros(y.shape[1]))
    noise = pyro.param("noise", torch.ones(y.shape[1]), constraint=constraints.positive)
    first = (torch.arange(len(y)) == 0).unsqueeze(-1)
    with pyro.plate("time", len(y)):
        state = pyro.sample("state", dist.Normal(torch.zeros(k), 1.0).mask(first).to_event(1))
        pyro.sample("y", dist.Normal(state @ emission.T + loc, noise).to_event(1), obs=y)
    with pyro.plate("moves", len(y) - 1):
        pyro.sample("moved", dist.Normal(state[:-1] @ transition.T, 1.0).to_event(1), obs=state[1:])


def both() -> tuple[Problem, Problem, dict[str, Tensor]]:
    """The program in a plate, that in a loop, and parameters."""
    y = state_space.simulate_system(1, 2 * STEPS)[0][0, :STEPS]
    pyro.clear_param_store()
    plate = prepare(in_a_plate, (y,), {}, {}, check=True)
    pyro.clear_param_store()
    loop = prepare(state_space.linear_dynamical_system, (y[None], 2), {}, {}, check=True)
    generator = torch.Generator().manual_seed(4)
    params = {"loc": y.mean(0), "noise": torch.full((3,), 0.6)}
    for name, shape in (("transition", (2, 2)), ("emission", (3, 2))):
        params[name] = 0.5 * torch.randn(shape, generator=generator)
    return plate, loop, params


def test_it_is_the_law_of_the_loop() -> None:
    """The same evidence, and the same step."""
    plate, loop, params = both()
    with torch.no_grad():
        new, found = em_step(plate.engine, plate.plan, params)
        want, other = em_step(loop.engine, loop.plan, params)
    close(found.objective, other.objective)
    for name, value in want.items():
        close(new[name], value)


def test_all_rows_have_the_same_slopes() -> None:
    """In both: no product is made row by row."""
    for problem in both()[:2]:
        unit = cast(Gaussian, next(unit for unit in problem.engine.units if unit.continuous))
        params = {name: parameter.initial.double() for name, parameter in problem.program.parameters.items()}
        bindings = unit.natural(problem.engine.bind(batched(params))).bindings
        laws = [law for group in unit.groups for law in posterior(group, bindings).laws]
        assert any(law.block.rows >= STEPS - 1 for law in laws)
        assert all(law.slopes.shape[3] == 1 for law in laws if law.block.rows >= STEPS - 1)


def test_rows_of_other_slopes_are_kept_apart() -> None:
    """A slope that differs by row, known numbers, is that of its row."""
    y = torch.linspace(-1.0, 2.0, STEPS) + torch.sin(torch.arange(STEPS))

    def model(y: Tensor, times: Tensor) -> None:
        noise = pyro.param("noise", torch.tensor(0.7), constraint=constraints.positive)
        first = torch.arange(len(y)) == 0
        with pyro.plate("time", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(first))
            pyro.sample("y", dist.Normal(z * times, noise), obs=y)
        with pyro.plate("moves", len(y) - 1):
            pyro.sample("moved", dist.Normal(times[1:] * z[:-1], 1.0), obs=z[1:])

    times = torch.linspace(0.5, 1.5, STEPS)
    problem = prepare(model, (y, times), {}, {}, check=True)
    got = expect(problem.engine, {"noise": torch.tensor(0.7)}).objective
    moves = torch.eye(STEPS) - torch.diag(times[1:], -1)
    spread = torch.linalg.inv(moves)
    covariance = times[:, None] * (spread @ spread.T) * times + 0.49 * torch.eye(STEPS)
    close(got.squeeze(), dist.MultivariateNormal(torch.zeros(STEPS), covariance).log_prob(y))
