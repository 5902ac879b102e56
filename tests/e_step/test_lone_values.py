"""Steps of a chain that see one value each, around locations of their own: one array gives what they give."""

from collections.abc import Callable, Iterator

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.tolerances import IDENTITY, SOLVERS
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.e_step.chains import find
from em_pyro.e_step.chains.parts import Each
from em_pyro.e_step.several import abreast
from em_pyro.fit.problem import Problem, prepare
from em_pyro.program.named import Params, batched

T = 12
MOVES = tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
Model = Callable[[Tensor], None]


def walk(*shape: int) -> Tensor:
    """A path that wanders."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).cumsum(0)


def switching(y: Tensor) -> None:
    """An autoregression whose level, slope and scale depend on the regime (Hamilton 1989)."""
    moves = pyro.param("moves", MOVES, constraint=constraints.simplex)
    level, slope = pyro.param("level", tensor([-0.5, 0.5])), pyro.param("slope", tensor([0.4, 0.9]))
    scale = pyro.param("scale", tensor([0.7, 1.5]), constraint=constraints.positive)
    z = 0
    for t in pyro.markov(range(1, len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(Vindex(moves)[z]))
        pyro.sample(f"y{t}", dist.Normal(level[z] + slope[z] * y[t - 1], scale[z]), obs=y[t])


def one_scale(y: Tensor) -> None:
    """Slopes are shared by the regimes, the scale is one, and a prior holds the levels."""
    level = pyro.sample("level", dist.Normal(torch.zeros(2), 2.0).to_event(1))
    slope, scale = pyro.param("slope", tensor(0.5)), pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    z = 0
    for t in pyro.markov(range(1, len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(MOVES[z]))
        pyro.sample(f"y{t}", dist.Normal(level[z] + slope * y[t - 1], scale * (1.0 + t)), obs=y[t])


def vectors(y: Tensor) -> None:
    """A vector autoregression with a covariance of each regime."""
    moves = pyro.param("moves", MOVES, constraint=constraints.simplex)
    level = pyro.param("level", tensor([[0.0, 0.0], [1.0, -1.0]]))
    slopes = pyro.param("slopes", 0.5 * torch.eye(2).expand(2, 2, 2).clone())
    root = pyro.param("root", torch.eye(2).expand(2, 2, 2).clone(), constraint=constraints.lower_cholesky)
    z = 0
    for t in pyro.markov(range(1, len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(Vindex(moves)[z]))
        pyro.sample(f"y{t}", dist.MultivariateNormal(level[z] + slopes[z] @ y[t - 1], scale_tril=root[z]), obs=y[t])


def events(y: Tensor) -> None:
    """Two measurements, each with a scale of its own."""
    level, slope = pyro.param("level", tensor([-0.5, 0.5])), pyro.param("slope", tensor([0.4, 0.9]))
    scale = pyro.param("scale", tensor([0.7, 1.5]), constraint=constraints.positive)
    z = 0
    for t in pyro.markov(range(1, len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(MOVES[z]))
        loc = level[z].unsqueeze(-1) + slope * y[t - 1]
        pyro.sample(f"y{t}", dist.Normal(loc, scale).to_event(1), obs=y[t])


PROGRAMS: dict[str, tuple[Model, Tensor]] = {
    "switching": (switching, walk(T)),
    "far away": (switching, walk(T) + 1e7),
    "one scale": (one_scale, walk(T)),
    "vectors": (vectors, walk(3 * T, 2)),
    "events": (events, walk(T, 2)),
}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> tuple[Model, Tensor]:
    """A model and its data."""
    pyro.clear_param_store()
    return PROGRAMS[request.param]


def arrays(problem: Problem) -> Iterator[Each]:
    """Arrays of steps of which each sees a value."""
    parts = (part for chain in problem.engine.units for part in getattr(chain, "emissions", ()))
    return (part for part in parts if type(part) is Each)


def planned(model: Model, y: Tensor) -> Problem:
    """Plan, without a fit."""
    pyro.clear_param_store()
    return prepare(model, (y,), {}, {}, check=False)


def alone(patch: pytest.MonkeyPatch) -> None:
    """Let every step stand alone."""
    patch.setattr(find, "kind_of", lambda factor, words: None)
    patch.setattr(abreast, "kind_of", lambda factor, words: None)


def test_an_array_gives_what_its_steps_give(program: tuple[Model, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence, statistics around the locations of the step, `Q` there and elsewhere, and where digits run short."""
    together = planned(*program)
    (array,) = arrays(together)
    assert len(array.steps) == len(program[1]) - 1
    alone(monkeypatch)
    apart = planned(*program)
    assert not list(arrays(apart))
    here = {name: p.initial.double() for name, p in together.program.parameters.items()}
    there = {name: value * 1.01 for name, value in here.items()} | {"moves": here.get("moves", MOVES)}
    for about in (here, there):
        one, other = (statistics(problem, here, about) for problem in (together, apart))
        assert one.keys() == other.keys()
        for name, part in one.items():
            assert distance(part, other[name]) < IDENTITY, name


def statistics(problem: Problem, here: Params, about: Params) -> dict[str, Tensor]:
    """All that an E-step gives at `here` with statistics around `about`, and what is said of digits between the two."""
    engine = problem.engine
    near, around = engine.bind(batched(here)), engine.bind(batched(about))
    found = engine.expect(near, around)
    given = {
        "evidence": found.log_evidence,
        "q": engine.q(batched(about), found),
        "digits": engine.digits(near, around),
    }
    for name, sums in found.sums.items():
        given |= {f"{name} {k}": part for k, part in enumerate(sums.parts)}
        given |= {} if sums.around is None else {f"{name} around": sums.around}
    return {name: part for name, part in given.items() if part is not None}


def test_steps_are_those_without_arrays(program: tuple[Model, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps of EM, by one least-squares system of all sites and by one of each."""
    model, y = program
    paths = []
    for _ in range(2):
        pyro.clear_param_store()
        paths.append(EM(model, tol=0, max_steps=5, acceleration=None, check=False).fit(y).path)
        alone(monkeypatch)
    assert distance(tensor(paths[0]), tensor(paths[1])) < SOLVERS
