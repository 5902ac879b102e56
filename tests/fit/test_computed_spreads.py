"""Spreads that are zero where scales are computed from parameters: correlations of one, amplitudes of a process."""

from functools import cache

import pyro
import pyro.distributions as dist
import torch
from oracles.agreement import close
from torch import Tensor
from torch.distributions import MultivariateNormal, constraints

from em_pyro import EM, Fit
from em_pyro.fit.problem import prepare
from em_pyro.fit.scales import Scales
from em_pyro.fit.verdict.digits import has_lost_digits
from em_pyro.fit.verdict.ground import Ground, around_of
from em_pyro.fit.verdict.spreads import lifted

G, PER, N = 10, 6, 20
OF = torch.arange(G).repeat_interleave(PER)


def drawn(seed: int, *shape: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TIME = drawn(2, G * PER)
DESIGN = torch.stack([torch.ones(G * PER).double(), TIME], 1)
ONE = 2 + 1.3 * drawn(3, G)[OF] * (1 + 0.5 * TIME) + drawn(0, G * PER)


def positive(name: str, value: Tensor) -> Tensor:
    """Declare scales."""
    return pyro.param(name, value.double(), constraint=constraints.positive)


def slopes(y: Tensor) -> None:
    """Intercepts and slopes, by standard deviations and the root of their correlations."""
    mean = pyro.param("mean", torch.zeros(2).double())
    sd = positive("sd", torch.ones(2))
    root = pyro.param("root", torch.eye(2).double(), constraint=constraints.corr_cholesky)
    with pyro.plate("groups", G):
        b = pyro.sample("b", dist.MultivariateNormal(mean, scale_tril=sd[:, None] * root))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal((DESIGN * b[OF]).sum(-1), positive("sigma", torch.tensor(1.0))), obs=y)


@cache
def correlated() -> Fit:
    """The fit of intercepts and slopes, made once."""
    return EM(slopes).fit(ONE)


def test_a_correlation_of_one() -> None:
    """It is at the boundary, and all else is identified, as where the root of the covariance is a parameter."""
    fit = correlated()
    assert fit.converged
    assert fit.notes == ('at the boundary: "root"[1, 1]',)
    table = fit.information()
    assert bool(torch.isfinite(table.se["sd"]).all())
    assert bool(torch.isfinite(table.se["mean"]).all())
    assert "on the boundary: no standard error" in str(table)
    close(table.params["root"], fit.params["root"], 1e-3)
    p = {name: value.double() for name, value in fit.params.items()}
    root = DESIGN @ (p["sd"][:, None] * p["root"])
    covariance = root @ root.T * (OF == OF[:, None]) + p["sigma"] ** 2 * torch.eye(G * PER).double()
    close(torch.tensor(fit.log_likelihood), MultivariateNormal(DESIGN @ p["mean"], covariance).log_prob(ONE), 1e-8)


PLACES = torch.linspace(0.0, 4.0, N).double()
PRECISION = torch.linalg.inv(torch.exp(-0.5 * (PLACES - PLACES[:, None]) ** 2) + 0.01 * torch.eye(N).double())


def field(y: Tensor) -> None:
    """A field by its precision matrix, times an amplitude."""
    mean, t = pyro.param("mean", torch.tensor(0.0).double()), positive("t", torch.tensor(1.0))
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(N).double(), precision_matrix=PRECISION / t**2))
    with pyro.plate("places", N):
        pyro.sample("y", dist.Normal(mean + f, positive("sigma", torch.tensor(1.0))), obs=y)


NOTHING = drawn(8, N)


def test_an_amplitude_of_zero() -> None:
    """Where neighbours are not alike the field is nothing, and the rest is one normal."""
    fit = EM(field).fit(NOTHING)
    assert fit.converged
    assert fit.notes == ('at the boundary: "t"',)
    alone = dist.Normal(NOTHING.mean(), NOTHING.std(correction=0)).log_prob(NOTHING).sum()
    close(torch.tensor(fit.log_likelihood), alone, 1e-7)


def test_spreads_that_are_not_known_are_noticed(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Without them correlations of one are called not identified."""
    start = dict(correlated().params)
    pyro.clear_param_store()
    monkeypatch.setattr(Scales, "spreads", frozenset({"sigma"}))
    assert any("not identified" in note for note in EM(slopes, starts=start).fit(ONE).notes)


def test_the_table_has_the_fitted_value_of_a_scale_that_is_zero() -> None:
    """Curvature is looked at with the scale lifted; what is printed is the fit."""

    def effects(y: Tensor) -> None:
        with pyro.plate("groups", G):
            b = pyro.sample("b", dist.Normal(0.0, positive("between", torch.tensor(1.0))))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(b[OF], positive("sigma", torch.tensor(1.0))), obs=y)

    e = drawn(0, G, PER)
    fit = EM(effects).fit((e - e.mean(1, keepdim=True)).reshape(-1))
    assert 'at the boundary: "between"' in fit.notes
    assert float(fit.information().params["between"]) <= 1.1 * float(fit.params["between"]) + 1e-12


def test_scales_that_are_zero_are_lifted_by_what_each_may_cost() -> None:
    """One that is far nearer to zero than another says no less of what it moves."""
    t = torch.arange(12.0, dtype=torch.float64)
    y = torch.stack([4 * 0.9**t, 3 * 0.8**t], -1) + 0.1 * ((-1.0) ** t)[:, None]

    def decays(y: Tensor) -> None:
        keep = pyro.param("keep", torch.tensor([0.9, 0.8]).double())
        moves, noise = positive("moves", torch.ones(2)), positive("noise", torch.tensor(0.1))
        z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 3.0).to_event(1))
        for k in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{k}", dist.Normal(keep * z, moves).to_event(1))
            pyro.sample(f"y_{k}", dist.Normal(z, noise).to_event(1), obs=y[k])

    problem = prepare(decays, (y,), {}, {}, check=True)
    start = {name: parameter.initial.double() for name, parameter in problem.program.parameters.items()}
    for near in ([1e-3, 1e-9], [1e-8, 1e-4]):
        at = start | {"moves": torch.tensor(near).double()}
        ground = Ground(problem, around_of(problem, at))
        lifted_to = lifted(ground, [("moves", (0,)), ("moves", (1,))])[0].around.params["moves"]
        assert bool((lifted_to > 5e-4).all())
        assert bool((lifted_to < 0.1).all())


def test_a_fall_beside_scales_of_no_digits_is_no_fault() -> None:
    """A start with a scale of its own, which one value has, and no noise: last digits move the density there."""

    def level(y: Tensor) -> None:
        begin = pyro.param("begin", y[0].clone())
        first, noise = positive("first", torch.tensor(1.0)), positive("noise", torch.tensor(1.0))
        z = pyro.sample("z_0", dist.Normal(begin, first))
        pyro.sample("y_0", dist.Normal(z, noise), obs=y[0])
        for t in pyro.markov(range(1, len(y))):
            z = pyro.sample(f"z_{t}", dist.Normal(z, positive("moves", torch.tensor(1.0))))
            pyro.sample(f"y_{t}", dist.Normal(z, noise), obs=y[t])

    problem = prepare(level, (2.1 + drawn(4, 8).cumsum(0),), {}, {}, check=True)
    here = {name: parameter.initial.double().unsqueeze(0) for name, parameter in problem.program.parameters.items()}
    tiny = torch.full((1,), 1e-15, dtype=torch.float64)
    assert has_lost_digits(problem, here | {"first": tiny, "noise": tiny}, 0.01)
    assert not has_lost_digits(problem, here, 0.01)
