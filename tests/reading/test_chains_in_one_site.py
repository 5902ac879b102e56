"""`dist.GaussianHMM` is taken apart into normal sites: the same program as a loop, iterate by iterate."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance
from oracles.steps import em_step
from oracles.tolerances import IDENTITY
from pyro import poutine
from torch import Tensor, eye, ones, tensor, zeros
from torch.distributions import constraints

import em_pyro.program.continuous.whole as whole
from em_pyro import EM
from em_pyro.fit.problem import Problem, prepare

N, T, K, D = 4, 6, 2, 3
DRAWS = torch.Generator().manual_seed(3)
X = torch.randn((N, T, D), generator=DRAWS).double().cumsum(1)
H = torch.randn((K, D), generator=DRAWS).double()
Chain = Callable[..., None]


def one_site(name: str, x: Tensor, *made: Any, mask: Tensor | None = None) -> None:
    """State a chain as the distribution that sums its states out."""
    law = dist.GaussianHMM(*made)
    pyro.sample(name, law if mask is None else law.mask(mask), obs=x)


def loop(name: str, x: Tensor, *made: Any, mask: Tensor | None = None) -> None:
    """State the same chain step by step, after the generative model in the docstring of the distribution."""
    initial, F, moves, seen, noise = made
    z = pyro.sample(f"{name}_start", initial if mask is None else initial.mask(mask))
    for t in pyro.markov(range(x.shape[-2])):
        for key, law, matrix, value in (("z", moves, F, None), ("x", noise, seen, x[..., t, :])):
            mean = (z.unsqueeze(-2) @ at(matrix, 2, t)).squeeze(-2)
            made_of = around(law, mean, t)
            made_of = made_of if mask is None else made_of.mask(mask)
            found = pyro.sample(f"{name}_{key}_{t}", made_of, obs=value)
            z = found if value is None else z


def at(part: Tensor, events: int, t: int) -> Tensor:
    """Take one step of a part, whose last dimension before the events has the steps, if there is one."""
    if part.dim() == events:
        return part
    place = part.dim() - events - 1
    return part.select(place, t if part.shape[place] > 1 else 0)


def around(law: Any, mean: Tensor, t: int) -> Any:
    """Move errors of a step to their mean."""
    if isinstance(law, dist.MultivariateNormal):
        return dist.MultivariateNormal(mean + at(law.loc, 1, t), scale_tril=at(law.scale_tril, 2, t))
    base = law.base_dist
    return dist.Normal(mean + at(base.loc, 1, t), at(base.scale, 1, t)).to_event(1)


def real(name: str, value: Tensor) -> Tensor:
    """State a parameter."""
    return pyro.param(name, value.double())


def positive(name: str, value: Tensor) -> Tensor:
    """State a scale."""
    return pyro.param(name, value.double(), constraint=constraints.positive)


def covariance(name: str, size: int) -> Any:
    """Errors with a covariance that is a parameter."""
    whole_matrix = pyro.param(name, eye(size).double() + 0.2, constraint=constraints.positive_definite)
    return dist.MultivariateNormal(zeros(size).double(), whole_matrix)


def normal(scale: Tensor, size: int, loc: Tensor | None = None) -> Any:
    """Independent errors."""
    return dist.Normal(zeros(size).double() if loc is None else loc, scale * ones(size).double()).to_event(1)


def plain(F: Tensor | None = None) -> tuple[Any, ...]:
    """One matrix, independent errors, and a drift."""
    F, drift = real("F", 0.5 * eye(K)) if F is None else F, real("drift", zeros(K))
    step, seen = positive("step", ones(K)), positive("seen", tensor(1.0))
    return normal(tensor(1.0), K), F, normal(step, K, drift), H, normal(seen, D)


def sequences(state: Chain, x: Tensor) -> None:
    """One matrix, independent errors, and a drift."""
    with pyro.plate("sequences", len(x)):
        state("x", x, *plain())


def alone(state: Chain, x: Tensor) -> None:
    """One sequence, in no plate."""
    state("x", x[0], *plain())


def one_by_one(state: Chain, x: Tensor) -> None:
    """Sequences of different lengths."""
    for i in pyro.plate("sequences", len(x)):
        state(f"x{i}", x[i, : T - i], *plain())


def whole_matrices(state: Chain, x: Tensor) -> None:
    """All parts are parameters, the errors have covariances."""
    root = pyro.param("root", eye(K).double(), constraint=constraints.lower_cholesky)
    initial = dist.MultivariateNormal(real("first", ones(K)), scale_tril=root)
    with pyro.plate("sequences", len(x)):
        state("x", x, initial, real("F", 0.5 * eye(K)), covariance("Q", K), real("H", H), covariance("R", D))


def other_steps(state: Chain, x: Tensor) -> None:
    """What moves and what is seen are not the same in every step."""
    times = torch.arange(T).double()
    inputs, loadings = torch.stack([times.sin(), times.cos()], -1) @ real("B", eye(K)), H * (1 + times)[:, None, None]
    noise = dist.Normal(zeros(T, D).double(), positive("noise", ones(T, 1)).expand(T, D)).to_event(1)
    with pyro.plate("sequences", len(x)):
        moves = normal(positive("step", ones(K)), K, inputs)
        state("x", x, normal(tensor(1.0), K), real("F", 0.5 * eye(K)), moves, loadings, noise)


def two_plates(state: Chain, x: Tensor) -> None:
    """The rows have two dimensions, one of which is left free by the first site."""
    with pyro.plate("sequences", len(x), dim=-2):
        state("x", x.unsqueeze(1), *plain())
        with pyro.plate("twice", 2, dim=-1):
            state("y", torch.stack([x, x.flip(1)], 1), *plain())


def partly_seen(state: Chain, x: Tensor) -> None:
    """Some sequences were not observed."""
    with pyro.plate("sequences", len(x)):
        state("x", x, *plain(), mask=tensor([True, False, True, True]))


def weighted(state: Chain, x: Tensor) -> None:
    """Some sequences count more, and some are masked from outside."""
    rows = tensor([True, True, False, True])
    with pyro.plate("sequences", len(x)), poutine.scale(scale=tensor([1.0, 2.0, 1.0, 3.0])), poutine.mask(mask=rows):
        state("x", x, *plain())


def two_kinds(state: Chain, x: Tensor) -> None:
    """Each sequence is of one of two kinds."""
    share = pyro.param("share", tensor([0.4, 0.6]).double(), constraint=constraints.simplex)
    F, seen = real("F", torch.stack([0.5 * eye(K), 0.9 * eye(K)])), positive("seen", tensor([1.0, 0.6]))
    with pyro.plate("sequences", len(x)):
        c = pyro.sample("c", dist.Categorical(share))
        noise = normal(seen[c][..., None, None], D)
        state("x", x, normal(tensor(1.0), K), F[c].unsqueeze(-3), normal(tensor(0.5), K), H, noise)


def prior(state: Chain, x: Tensor) -> None:
    """The matrix has a prior."""
    F = pyro.sample("F", dist.Normal(0.5 * eye(K).double(), 0.3).to_event(2))
    with pyro.plate("sequences", len(x)):
        state("x", x, *plain(F))


PROGRAMS = [
    sequences, alone, one_by_one, whole_matrices, other_steps, two_plates, partly_seen, weighted, two_kinds, prior,
]  # fmt: skip


def prepared(program: Callable[..., None], state: Chain) -> Problem:
    """Plan a program."""
    pyro.clear_param_store()
    return prepare(partial(program, state), (X,), {}, {}, check=True)


def apart(program: Callable[..., None]) -> float:
    """Return how far the iterates of both ways to write a program are apart, over five steps."""
    problems, worst = [prepared(program, state) for state in (one_site, loop)], 0.0
    params = {n: p.initial.detach().double() for n, p in problems[1].program.parameters.items()}
    for _ in range(5):
        steps = [em_step(problem.engine, problem.plan, params) for problem in problems]
        worst = max(worst, distance(steps[0][1].objective, steps[1][1].objective))
        worst = max(worst, *(distance(steps[0][0][name], steps[1][0][name]) for name in params))
        params = steps[1][0]
    return worst


@pytest.mark.parametrize("program", PROGRAMS)
def test_iterates_are_those_of_the_loop(program: Callable[..., None]) -> None:
    """Evidence and parameters, step after step; and no parameter is left to torch."""
    assert apart(program) < IDENTITY
    lines = prepared(program, one_site).plan.lines.values()
    assert {line.how for line in lines} <= {"closed form", "swept"}
    assert {site for line in lines for site in line.sites} <= {"x", "y", "x0", "x1", "x2", "x3", "F", "c"}


def test_a_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """States a little too small, in moves and in what is seen, are another program."""
    made = whole._times
    monkeypatch.setattr(whole, "_times", lambda states, matrix: 0.999 * made(states, matrix))
    assert apart(sequences) > 1e3 * IDENTITY


def test_states_have_laws() -> None:
    """The posterior of all states, under one name, with the one before the first observation in front."""
    for rows, program in (((N,), sequences), ((), alone)):
        laws = []
        for state in (one_site, loop):
            pyro.clear_param_store()
            laws.append(EM(partial(program, state)).posterior(X))
        found = laws[0].marginal("x.states")
        assert found.batch_shape == (T + 1, *rows)
        for t, name in enumerate(["x_start", *(f"x_z_{t}" for t in range(T))]):
            step = laws[1].marginal(name)
            assert distance(found.mean[t], step.mean) < IDENTITY
            assert distance(found.covariance_matrix[t], step.covariance_matrix) < IDENTITY


def test_rows_come_in_batches() -> None:
    """The sequences are independent: halves of them, read one after the other, are all of them."""
    fits = []
    for whole_data in (True, False):
        pyro.clear_param_store()
        em = EM(partial(sequences, one_site), max_steps=5)
        fits.append(em.fit(X) if whole_data else em.fit_stream([(X[:2],), (X[2:],)]))
    assert distance(tensor(fits[0].objective), tensor(fits[1].objective)) < IDENTITY
    drawn = fits[0].simulate(seed=1)  # in as many steps as were observed, though no duration is stated
    assert drawn["x"].shape == X.shape


def test_what_was_updated_is_replayed() -> None:
    """A chain that is made of another one keeps the density of its own, and the plan says so."""

    def model(x: Tensor) -> None:
        initial, *rest = plain()
        law = dist.GaussianHMM(initial, *rest, duration=T)
        law, log_norm = law.conjugate_update(dist.Normal(zeros(T, D).double(), 2.0).to_event(2))
        with pyro.plate("sequences", len(x)):
            pyro.sample("x", law, obs=x)

    pyro.clear_param_store()
    plan = str(EM(model).plan(X))
    assert "made by itself, or as a loop of normal sites, it has" in plan
    assert "closed form" not in plan


def test_the_distribution_is_left_as_it_was() -> None:
    """Chains remember what they were made of while a model is run for a plan, and at no other time."""
    init = dist.GaussianHMM.__init__

    def failing(x: Tensor) -> None:
        sequences(one_site, x)
        raise LookupError

    pyro.clear_param_store()
    with pytest.raises(LookupError):
        EM(failing).plan(X)
    assert dist.GaussianHMM.__init__ is init
