"""What is promised to whoever adds a family, or collects an E-step from the holders of several parts.

Each is added here as a stranger would, without a change of the library; each is seen to fail on a fault planted in it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest
from oracles.oracle import brute_force
from oracles.tolerances import IDENTITY
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.engine import Engine
from em_pyro.e_step.expectation import Expectation
from em_pyro.families import Family, Role, base, family_of, register
from em_pyro.families.base import Args
from em_pyro.fit.problem import Expect, Problem, prepare
from em_pyro.fit.step import em_step
from em_pyro.reading.bound import Bound

FAR = 1e-3
"""What a planted fault must be off by, at least: seven digits above rounding."""


# ---- a family --------------------------------------------------------------------------------------------------------


Shape = torch.Size | list[int] | tuple[int, ...]


class Maxwell(dist.TorchDistribution):
    """Speed of a particle in a gas, `sqrt(2 / pi) x^2 exp(-x^2 / 2 a^2) / a^3`: no family of the library covers it."""

    arg_constraints = {"scale": constraints.positive}
    support = constraints.positive

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:  # noqa: FBT001
        """Take the scale `a`."""
        self.scale = scale
        super().__init__(scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: Shape, _instance: object = None) -> "Maxwell":
        """Return the same with a larger batch shape."""
        return Maxwell(self.scale.expand(batch_shape), validate_args=False)

    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draw the length of a normal vector of three entries."""
        vectors = torch.randn((*sample_shape, *self.batch_shape, 3))
        return self.scale * vectors.square().sum(-1).sqrt()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density."""
        x, a = value, self.scale
        return 0.5 * math.log(2 / math.pi) + 2 * x.log() - 0.5 * (x / a).square() - 3 * a.log()


class MaxwellFamily(Family):
    """`-x^2 / 2 a^2 - 3 log a`, linear in `(1, x^2)`."""

    counting = frozenset({0})
    roles = {"scale": Role("positive")}

    def statistics(self, value: Tensor, known: Args) -> tuple[Tensor, ...]:
        """Return one and the square."""
        return torch.ones_like(value), value.square()

    def natural(self, args: Args) -> tuple[Tensor, ...]:
        """Return what multiplies them."""
        return -3 * args["scale"].log(), -0.5 / args["scale"].square()

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        """Return what no parameter enters."""
        return 0.5 * math.log(2 / math.pi) + 2 * value.log()

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """`a^2 = mean(x^2) / 3`."""
        n, squares = statistics
        return {"scale": torch.where(n > 0, (squares / (3 * n)).sqrt(), args["scale"])}


class WrongMaximum(MaxwellFamily):
    """The fault of a Rayleigh's divisor."""

    def solve(self, statistics: tuple[Tensor, ...], args: Args, free: frozenset[str]) -> dict[str, Tensor]:
        """`a^2 = mean(x^2) / 2`."""
        n, squares = statistics
        return {"scale": (squares / (2 * n)).sqrt()}


class WrongDensity(MaxwellFamily):
    """The fault of a base measure left out."""

    def base(self, value: Tensor, known: Args) -> Tensor | None:
        """Return nothing."""


SPEEDS = tensor([0.4, 0.9, 1.1, 1.6, 3.1, 4.2, 5.3, 0.7], dtype=torch.float64)


def gas(x: Tensor) -> None:
    """Two gases mixed."""
    weights = pyro.param("weights", tensor([0.35, 0.65]), constraint=constraints.simplex)
    scale = pyro.param("scale", tensor([0.8, 2.1]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", Maxwell(scale[z]), obs=x)


def gas_step(x: Tensor, weights: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """One EM step of the mixture, by hand."""
    joint = weights.log() + Maxwell(scale).log_prob(x.unsqueeze(-1))
    shares = joint.softmax(-1)
    count = shares.sum(0)
    return {"weights": count / len(x), "scale": ((shares * x.unsqueeze(-1).square()).sum(0) / (3 * count)).sqrt()}


Registers = Callable[[type[Family]], None]


@pytest.fixture
def registers(monkeypatch: pytest.MonkeyPatch) -> Registers:
    """Register a family as anyone would, in a copy of the table that is gone after the test."""
    monkeypatch.setattr(base, "_TABLE", dict(base._TABLE))

    def add(family: type[Family]) -> None:
        register(Maxwell)(family)

    return add


def gas_off(*, check: bool = True) -> tuple[float, float, dict[str, str]]:
    """How far one step and the evidence are from the formulas, and how the plan finds every parameter."""
    em = EM(gas, check=check)
    how = {name: line.how for name, line in em.plan(SPEEDS).lines.items()}
    here = {name: value.clone() for name, value in em.params.items()}
    evidence = -em.step(SPEEDS)
    return (
        farthest(dict(em.params), gas_step(SPEEDS, **here)),
        distance(evidence, brute_force(gas, (SPEEDS,), params=here).log_evidence),
        how,
    )


def test_a_family_of_ones_own_is_solved_in_closed_form(registers: Registers) -> None:
    """One class and one decorator: step and evidence are those by hand and by brute force, a fit is a fixed point."""
    registers(MaxwellFamily)
    step, evidence, how = gas_off()
    assert how == {"weights": "closed form", "scale": "closed form"}
    assert step < IDENTITY
    assert evidence < IDENTITY
    fit = EM(gas, tol=1e-12).fit(SPEEDS)
    assert farthest(gas_step(SPEEDS, **fit.params), fit.params) < 1e-5


def test_without_the_family_it_is_left_to_torch() -> None:
    """Nothing is registered here: the same program is fitted by torch, and its evidence is no other."""
    assert family_of(Maxwell(tensor(1.0))) is None
    _, evidence, how = gas_off()
    assert how["scale"] == "torch"
    assert evidence < IDENTITY


def test_a_wrong_family_is_noticed(registers: Registers) -> None:
    """A wrong maximum is off in the step; a wrong density in the evidence, unless the check withdraws it first."""
    registers(WrongMaximum)
    step, evidence, _ = gas_off()
    assert step > FAR
    assert evidence < IDENTITY
    registers(WrongDensity)
    assert gas_off(check=False)[1] > FAR
    _, evidence, how = gas_off()
    assert evidence < IDENTITY
    assert how["scale"] == "torch"


# ---- a collector -----------------------------------------------------------------------------------------------------

HEIGHTS = 1e3 + tensor([-2.2, -1.7, -2.4, 0.3, 1.9, 2.2, 1.4, 2.8, -1.9, 2.3, 1.1], dtype=torch.float64)


def heights(x: Tensor) -> None:
    """Two heights far from zero, with a prior on both."""
    weights = pyro.param("weights", tensor([0.45, 0.55]), constraint=constraints.simplex)
    scale = pyro.param("scale", tensor([0.9, 1.2]), constraint=constraints.positive)
    with pyro.plate("kinds", 2):
        loc = pyro.sample("loc", dist.Normal(tensor([998.0, 1002.0]), 3.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


HERE = {
    "weights": tensor([[0.45, 0.55]], dtype=torch.float64),
    "scale": tensor([[0.9, 1.2]], dtype=torch.float64),
    "loc": tensor([[998.1, 1001.7]], dtype=torch.float64),
}


@dataclass(frozen=True)
class Parts:
    """Collects an E-step from the holders of several parts of the rows, each around locations of its own.

    Attributes:
        engines: of the parts.
        away: how far the locations of each lie from those at the parameters.
        unmoved: the fault: parts are added as if they had one centre.
        priors: the fault: everyone adds the prior.
    """

    engines: tuple[Engine, ...]
    away: tuple[float, ...]
    unmoved: bool = False
    priors: bool = False

    def __call__(self, _: Expect) -> Expect:
        """Stand in the place of the E-step over the rows at hand."""
        return self.expect

    def expect(self, bound: Bound, about: Bound | None) -> Expectation:
        """Add up what the parts have."""
        found = [self._part(k, bound, about or bound) for k in range(len(self.engines))]
        total = found[0]
        for part in found[1:]:
            if self.unmoved:
                sums = {n: replace(s, around=total.sums[n].around) for n, s in part.sums.items()}
                part = replace(part, sums=sums)
            total = total + part
        return total

    def _part(self, k: int, bound: Bound, about: Bound) -> Expectation:
        engine = self.engines[k]
        near = Bound({**about.batch, "loc": about.batch["loc"] + self.away[k]}, bound.bank)
        found = engine.expect(bound, near)
        extra = engine.log_prior(bound) if self.priors else 0.0
        return replace(found, log_evidence=found.log_evidence + extra)


def whole() -> Problem:
    """The problem of all rows, apart."""
    return prepare(heights, (HEIGHTS,), {}, {}, check=True, collapse=False)


def collected(problem: Problem, *, unmoved: bool = False, priors: bool = False) -> Problem:
    """The same problem, its E-step collected from two uneven parts."""
    engines = tuple(problem.engine.on((part,)) for part in (HEIGHTS[:4], HEIGHTS[4:]))
    return replace(problem, total=Parts(engines, (0.7, -1.3), unmoved, priors))


def steps_off(one: Problem, other: Problem) -> tuple[float, float]:
    """How far apart one step of two problems leads, and their objectives."""
    (to, found), (back, again) = em_step(one, HERE), em_step(other, HERE)
    return farthest(to, back), distance(found.objective, again.objective)


def test_parts_around_centres_of_their_own_are_the_whole() -> None:
    """The sums of two parts stand around other locations, and their step and objective are those of all rows."""
    problem = whole()
    parts = collected(problem)
    each = [parts.total(problem.expect)(problem.bind(HERE), None)]
    each.append(problem.expect(problem.bind(HERE)))
    around = [found.sums["x"].around for found in each]
    assert around[0] is not None
    assert around[1] is not None
    assert distance(around[0] - around[1], torch.full_like(around[0], 0.7)) < IDENTITY
    step, objective = steps_off(parts, problem)
    assert step < IDENTITY
    assert objective < IDENTITY
    assert abs(float(problem.log_prior(problem.bind(HERE)))) > 1  # it is there to be counted


def test_a_careless_collector_is_noticed() -> None:
    """Centres that are not moved are off in the step; a prior that everyone adds is off in the objective."""
    problem = whole()
    assert steps_off(collected(problem, unmoved=True), problem)[0] > FAR
    step, objective = steps_off(collected(problem, priors=True), problem)
    assert step < IDENTITY
    assert objective > FAR
