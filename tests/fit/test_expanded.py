"""Parameter-expanded steps: what random effects take of a mean goes to the mean, beside them or around them."""

from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.e_step.gaussian.unit import Gaussian
from em_pyro.fit.problem import prepare

GROUP = torch.arange(60) // 5
SIDE = torch.arange(60) % 4


def normal(*shape: int, seed: int) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Y = 2 * normal(12, seed=1)[GROUP] + normal(4, seed=2)[SIDE] + normal(60, seed=3)
DAY = normal(60, seed=4)


def positive(name: str) -> Tensor:
    """A free positive number that begins at one."""
    return pyro.param(name, tensor(1.0), constraint=constraints.positive)


def intercepts(y: Tensor) -> None:
    """One effect."""
    mu = pyro.param("mu", tensor(0.0))
    with pyro.plate("groups", 12):
        b = pyro.sample("b", dist.Normal(0.0, positive("tau")))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(mu + b[GROUP], positive("sigma")), obs=y)


def crossed(y: Tensor) -> None:
    """Two effects of one mean."""
    mu = pyro.param("mu", tensor(0.0))
    with pyro.plate("groups", 12):
        a = pyro.sample("a", dist.Normal(0.0, positive("tau")))
    with pyro.plate("sides", 4):
        b = pyro.sample("b", dist.Normal(0.0, positive("rho")))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(mu + a[GROUP] + b[SIDE], positive("sigma")), obs=y)


def slopes(y: Tensor) -> None:
    """Effects with a covariance, in an order of their own."""
    beta = pyro.param("beta", torch.zeros(2).double())
    tril = pyro.param("tril", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    with pyro.plate("groups", 12):
        b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2).double(), scale_tril=tril))
    with pyro.plate("rows", 60):
        line = beta[1] + b[GROUP, 0] + (beta[0] + b[GROUP, 1]) * DAY
        pyro.sample("y", dist.Normal(line, positive("sigma")), obs=y)


def known(y: Tensor) -> None:
    """One effect whose law no parameter enters: statistics are taken of it for its mean alone."""
    mu = pyro.param("mu", tensor(0.0))
    with pyro.plate("rows", 60):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + b, positive("sigma")), obs=y)


def centred(y: Tensor) -> None:
    """Effects around their mean."""
    with pyro.plate("groups", 12):
        b = pyro.sample("b", dist.Normal(pyro.param("mu", tensor(0.0)), positive("tau")))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(b[GROUP], positive("sigma")), obs=y)


def upper(y: Tensor) -> None:
    """Effects around a line, beside a covariate of rows; what is seen of them at two sites."""
    line = pyro.param("line", torch.zeros(2).double())
    with pyro.plate("groups", 12):
        b = pyro.sample("b", dist.Normal(line[0] + line[1] * DAY[:12], positive("tau")))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(b[GROUP] + pyro.param("day", tensor(0.0)) * DAY, positive("sigma")), obs=y)
        pyro.sample("twice", dist.Normal(2 * b[GROUP], positive("rho")).mask(DAY > 0), obs=2 * y + DAY**2)


def lines(y: Tensor) -> None:
    """Intercepts and slopes around their means."""
    beta = pyro.param("beta", torch.zeros(2).double())
    tril = pyro.param("tril", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    with pyro.plate("groups", 12):
        b = pyro.sample("b", dist.MultivariateNormal(beta, scale_tril=tril))
    with pyro.plate("rows", 60):
        pyro.sample("y", dist.Normal(b[GROUP, 0] + b[GROUP, 1] * DAY, positive("sigma")), obs=y)


def pairs(y: Tensor) -> None:
    """Effects on vectors."""
    root = pyro.param("root", torch.eye(2).double(), constraint=constraints.lower_cholesky)
    with pyro.plate("groups", 12):
        b = pyro.sample("b", dist.Normal(pyro.param("mu", torch.zeros(2).double()), positive("tau")).to_event(1))
    with pyro.plate("rows", 60):
        both = torch.stack([y, y + 0.5 * DAY + DAY.flip(0)], -1)
        pyro.sample("y", dist.MultivariateNormal(b[GROUP], scale_tril=root), obs=both)


MODELS: dict[str, Any] = {"intercepts": intercepts, "crossed": crossed, "slopes": slopes, "known": known}
AROUND = {"centred": centred, "upper": upper, "lines": lines, "pairs": pairs}
MODELS |= AROUND


@cache
def near(name: str) -> Fit:
    """The fit that begins near the data."""
    return EM(MODELS[name], tol=1e-10).fit(Y)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("offset", [0.0, 100.0, 1e6])
def test_wherever_the_data_lie(name: str, offset: float) -> None:
    """The end is that of a fit that began near, and it is not far: plain EM would creep, or seem to stand still."""
    want = near(name).log_likelihood
    pyro.clear_param_store()
    far = EM(MODELS[name], tol=1e-10).fit(Y + offset) if offset else near(name)
    assert far.converged
    assert far.num_steps < 80
    assert abs(far.log_likelihood - want) < 1e-6 * (1 + abs(want))
    assert not any("withdrawn" in note for note in far.notes)


@pytest.mark.parametrize("name", MODELS)
def test_no_step_falls_and_each_is_higher_than_the_plain_one(name: str) -> None:
    """From the same point it gains at least as much in the expanded model: its M-step has more to choose from."""
    problem = prepare(MODELS[name], (Y + 50,), {}, {}, check=True)
    batch = {n: p.initial.double().unsqueeze(0) for n, p in problem.program.parameters.items()}
    before = float(problem.heights(batch))
    for _ in range(4):
        found = problem.expect(problem.bind(batch))
        plain = problem.maximise(found, batch, {})
        batch = problem.sooner("auto", 1e-8).maximise(found, batch, {})
        now = float(problem.heights(batch))
        assert now > before
        assert now >= float(problem.heights(plain)) - SOLVERS
        before = now


@pytest.mark.parametrize("name", AROUND)
def test_next_to_no_spread(name: str) -> None:
    """A mean around which latents have next to none is found at once; EM would hardly move it."""
    problem = prepare(AROUND[name], (Y + 50,), {}, {}, check=True)
    batch = {n: p.initial.double().unsqueeze(0) for n, p in problem.program.parameters.items()}
    for spread in {"tau", "tril"} & batch.keys():
        batch[spread] = 1e-3 * batch[spread]
    found = problem.expect(problem.bind(batch))
    mean = next(iter({"mu", "line", "beta"} & batch.keys()))
    plain = problem.maximise(found, batch, {})[mean].flatten()[0]
    new = problem.sooner("auto", 1e-8).maximise(found, batch, {})[mean].flatten()[0]
    assert float(plain) < 1.0
    assert float(new) > 45.0


def test_centred_steps_are_those_of_effects_beside_their_mean() -> None:
    """At the boundary, too, where the data show no effect."""
    alike = normal(60, seed=3)
    alike = alike - alike.reshape(12, 5).mean(1)[GROUP] + 0.05 * normal(12, seed=5)[GROUP]
    beside = EM(intercepts).fit(10 * alike)
    pyro.clear_param_store()
    around = EM(centred).fit(10 * alike)
    assert around.notes == beside.notes == ('at the boundary: "tau"',)
    assert around.num_steps == beside.num_steps
    assert abs(around.log_likelihood - beside.log_likelihood) < SOLVERS


def test_covariates_for_a_mean_change_no_plan() -> None:
    """Coefficients of a multivariate outcome are a closed form beside effects around a mean, too."""

    def model(y: Tensor) -> None:
        root = pyro.param("root", torch.eye(2).double(), constraint=constraints.lower_cholesky)
        slope = pyro.param("slope", torch.zeros(2).double())
        with pyro.plate("groups", 12):
            b = pyro.sample("b", dist.Normal(pyro.param("mu", tensor(0.0)), positive("tau")))
        with pyro.plate("rows", 60):
            loc = b[GROUP][:, None] + slope * DAY[:, None]
            pyro.sample("y", dist.MultivariateNormal(loc, scale_tril=root), obs=torch.stack([y, DAY - y], -1))

    lines = EM(model).plan(Y).lines
    assert {name: line.how for name, line in lines.items()} == dict.fromkeys(lines, "closed form")


def test_plain_steps_where_they_are_asked_for() -> None:
    """Without an acceleration, and with no tolerance, steps are those of the textbook."""
    options: dict[str, Any] = {"starts": {"mu": tensor(0.0), "tau": tensor(1.0), "sigma": tensor(1.0)}, "max_steps": 3}
    plain = EM(intercepts, acceleration=None, **options).fit(Y + 100)
    other = EM(intercepts, tol=0, **options).fit(Y + 100)
    same(tensor(plain.path), tensor(other.path))
    assert EM(intercepts, **options).fit(Y + 100).log_likelihood > plain.log_likelihood + 10


def test_without_its_statistics_a_known_law_has_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that no parameter enters are left out, but for those whose latents are moved."""
    assert EM(known).fit(Y).converged
    pyro.clear_param_store()
    monkeypatch.setattr(Gaussian, "_moving", frozenset())
    with pytest.raises(KeyError, match="b"):
        EM(known).fit(Y)


def test_a_mean_that_has_a_prior_stays() -> None:
    """Its density would change with it."""

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(3.0, 0.1))
        with pyro.plate("groups", 12):
            b = pyro.sample("b", dist.Normal(0.0, positive("tau")))
        with pyro.plate("rows", 60):
            pyro.sample("y", dist.Normal(mu + b[GROUP], positive("sigma")), obs=y)

    options: dict[str, Any] = {"continuous": {"mu": "maximise"}, "tol": 1e-11}
    fit = EM(model, **options).fit(Y)
    plain = EM(model, acceleration=None, max_steps=5000, **options).fit(Y)
    assert abs(fit.objective - plain.objective) < 1e-6
