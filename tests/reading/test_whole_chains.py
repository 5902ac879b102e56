"""Sites whose density is made of other objects than tensors: whole Gaussian chains, and transforms with parameters."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.steps import expect
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints
from torch.distributions.transforms import AffineTransform

from em_pyro import EM
from em_pyro.fit.problem import Problem, prepare

SERIES = torch.randn((3, 8, 1), generator=torch.Generator().manual_seed(2), dtype=torch.float64).cumsum(1)


def noise(scale: Tensor) -> dist.Distribution:
    """Independent errors of one number."""
    return dist.Normal(torch.zeros(1).double(), scale).to_event(1)


def scales() -> tuple[Tensor, Tensor]:
    """What a step moves by, and the noise."""
    step = pyro.param("step", tensor(0.9).double(), constraint=constraints.positive)
    return step, pyro.param("noise", tensor(0.8).double(), constraint=constraints.positive)


def one_site(x: Tensor) -> None:
    """Write the chain as one site."""
    keep, (step, seen) = pyro.param("keep", tensor(0.7).double()), scales()
    one = torch.eye(1).double()
    with pyro.plate("sequences", len(x)):
        law = dist.GaussianHMM(noise(one[0]), keep * one, noise(step), one, noise(seen), duration=x.shape[1])
        pyro.sample("x", law, obs=x)


def loop(x: Tensor) -> None:
    """Write it as a loop: the first state is before the first step."""
    keep, (step, seen) = pyro.param("keep", tensor(0.7).double()), scales()
    with pyro.plate("sequences", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Normal(keep * z, step))
            pyro.sample(f"x_{t}", dist.Normal(z, seen), obs=x[:, t, 0])


def field(x: Tensor) -> None:
    """Write potentials of neighbours, and of what is seen of them."""
    keep, (_, seen) = pyro.param("keep", tensor(0.5).double()), scales()
    one, T = torch.eye(2).double(), x.shape[1]
    pair = dist.MultivariateNormal(torch.zeros(2).double(), precision_matrix=2 * one - keep * one.flip(0))
    both = dist.MultivariateNormal(torch.zeros(2).double(), precision_matrix=(0.5 * one + 0.5) / seen)
    first = dist.MultivariateNormal(torch.zeros(1).double(), one[:1, :1])
    with pyro.plate("sequences", len(x)):
        pyro.sample("x", dist.GaussianMRF(first, pair.expand((T,)), both.expand((T,))), obs=x)


def stretched(x: Tensor) -> None:
    """Write a normal law as a transform of a standard one."""
    step, seen = scales()
    law = dist.TransformedDistribution(dist.Normal(torch.zeros(()).double(), 1.0), [AffineTransform(step, seen)])
    with pyro.plate("sequences", len(x)):
        pyro.sample("x", law, obs=x[:, 0, 0])


def prepared(model: Callable[[Tensor], None]) -> Problem:
    """Plan a program."""
    pyro.clear_param_store()
    return prepare(model, (SERIES,), {}, {}, check=True)


def start(problem: Problem) -> dict[str, Tensor]:
    """The values that the model states."""
    return {name: parameter.initial for name, parameter in problem.program.parameters.items()}


def test_a_chain_in_one_site_is_the_loop() -> None:
    """The same evidence, and a fit that ends where the loop does, by the same closed forms."""
    one, other = prepared(one_site), prepared(loop)
    assert distance(expect(one.engine, start(one)).objective, expect(other.engine, start(other)).objective) < IDENTITY
    fits = []
    for model in (one_site, loop):
        pyro.clear_param_store()
        fits.append(EM(model).fit(SERIES))
    assert distance(tensor(fits[0].objective), tensor(fits[1].objective)) < SOLVERS
    assert {n: line.how for n, line in one.plan.lines.items()} == {n: line.how for n, line in other.plan.lines.items()}
    assert all(line.sites == ("x",) for line in one.plan.lines.values())


@pytest.mark.parametrize(("model", "names"), [(field, 2), (stretched, 2)])
def test_parameters_inside_are_found(model: Callable[[Tensor], None], names: int) -> None:
    """They are said to enter the site, whatever it is made of."""
    problem = prepared(model)
    reach = problem.engine.recognition.reaches["x"]
    assert len(reach) == names
    assert all(problem.plan[name].sites == ("x",) for name in reach)


def test_a_parameter_inside_has_no_closed_form_elsewhere() -> None:
    """The noise is the scale of another site, too: that site alone does not tell it."""

    def model(x: Tensor) -> None:
        field(x)
        with pyro.plate("others", 5):
            pyro.sample("other", dist.Normal(torch.zeros(()).double(), scales()[1]), obs=torch.arange(5.0).double())

    problem = prepared(model)
    assert problem.plan["noise"].how == "torch"
    assert not problem.withdrawn


def test_latents_inside_of_transforms_are_found() -> None:
    """A mixture whose means are inside of a transform has the evidence of one that is written plainly."""

    def model(x: Tensor, *, plain: bool) -> None:
        means = pyro.param("means", tensor([-1.0, 2.0]).double())
        share = pyro.param("share", tensor([0.3, 0.7]).double(), constraint=constraints.simplex)
        with pyro.plate("rows", len(x)):
            c = pyro.sample("c", dist.Categorical(share))
            law = dist.Normal(torch.zeros(()).double(), 1.0)
            moved = dist.TransformedDistribution(law, [AffineTransform(means[c], 1.0)])
            pyro.sample("x", dist.Normal(means[c], 1.0) if plain else moved, obs=x)

    found = []
    for plain in (True, False):
        pyro.clear_param_store()
        problem = prepare(model, (SERIES[:, 0, 0],), {"plain": plain}, {}, check=True)
        found.append(expect(problem.engine, start(problem)).objective)
    assert distance(found[1], found[0]) < 1e-10
