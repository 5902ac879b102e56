"""The posterior of Gaussian latents: laws, modes, draws, evidence by row, new rows."""

from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same
from oracles.tolerances import SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, ParameterError, load

DRAWS = 4000
GROUP = torch.arange(20) // 4


def values(*shape: int, seed: int = 0) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def intercepts(y: Tensor) -> None:
    """Rows with an effect of their group."""
    mu = pyro.param("mu", tensor(0.3))
    tau = pyro.param("tau", tensor(0.8), constraint=constraints.positive)
    sigma = pyro.param("sigma", tensor(0.6), constraint=constraints.positive)
    with pyro.plate("groups", 5):
        b = pyro.sample("b", dist.Normal(0.0, tau))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu + b[GROUP[: len(y)]], sigma), obs=y)


def analysers(x: Tensor) -> None:
    """Rows of two kinds, each with a factor of its own."""
    share = pyro.param("share", tensor([0.4, 0.6]), constraint=constraints.simplex)
    loading = pyro.param("loading", tensor([[1.0, 0.5, -0.7], [0.2, -1.1, 0.4]]))
    centre = pyro.param("centre", tensor([[-1.0, 0.0, 1.0], [1.5, 0.5, -0.5]]))
    with pyro.plate("rows", len(x)):
        kind = pyro.sample("kind", dist.Categorical(share))
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * loading[kind] + centre[kind], 0.5).to_event(1), obs=x)


def seen_in_part(x: Tensor, seen: Tensor) -> None:
    """Rows of a multivariate normal of which some coordinates are seen."""
    tril = pyro.param("tril", torch.eye(3).double(), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        row = pyro.sample("row", dist.MultivariateNormal(torch.zeros(3).double(), scale_tril=tril))
        pyro.sample("x", dist.Delta(row).mask(seen).to_event(1), obs=x)


def walk(y: Tensor) -> None:
    """A level that moves at random."""
    step = pyro.param("step", tensor(0.7), constraint=constraints.positive)
    z = torch.zeros(()).double()
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Normal(z, step if t else 2.0))
        pyro.sample(f"y_{t}", dist.Normal(z, 0.5), obs=y[t])


def test_effects_of_groups() -> None:
    """Mean and spread are those of the textbook."""
    y = values(20)
    law = EM(intercepts).posterior(y).marginal("b")
    precision = 1 / tensor(0.8) ** 2 + 4 / tensor(0.6) ** 2
    same(law.stddev, precision.rsqrt().expand(5))
    same(law.mean, (y - 0.3).reshape(5, 4).sum(1) / 0.36 / precision)


@pytest.mark.parametrize("steps", [12, 80])
def test_a_walk(steps: int) -> None:
    """Short ones have a whole matrix, long ones a chain of blocks: both are the conditional normal."""
    y = values(steps, seed=1)
    posterior = EM(walk).posterior(y)
    time = torch.arange(steps).double()
    prior = 4.0 + 0.49 * torch.minimum(time, time[:, None])
    gain = torch.linalg.solve(prior + 0.25 * torch.eye(steps).double(), prior).T
    mean, covariance = gain @ y, prior - gain @ prior
    for t in (0, 5, steps - 1):
        law = posterior.marginal(f"z_{t}")
        same(law.mean, mean[t])
        same(law.stddev, covariance[t, t].sqrt())
    drawn = posterior.sample(DRAWS, seed=3)
    pair = torch.stack([drawn["z_4"], drawn["z_5"]])
    assert float((pair.mean(1) - mean[4:6]).abs().max()) < 4 * float(covariance[4, 4].sqrt()) / DRAWS**0.5
    assert float((torch.cov(pair) - covariance[4:6, 4:6]).abs().max()) < 0.02
    same(torch.stack([posterior.mode()[f"z_{t}"] for t in range(steps)]), mean)


def test_mixtures_of_normals() -> None:
    """The law of a factor is a mixture over the kinds; its draws are draws of both."""
    x = values(6, 3, seed=2)
    posterior = EM(analysers).posterior(x)
    law, kind = posterior.marginal("z"), posterior.marginal("kind")
    loading = tensor([[1.0, 0.5, -0.7], [0.2, -1.1, 0.4]]).double()
    centre = tensor([[-1.0, 0.0, 1.0], [1.5, 0.5, -0.5]]).double()
    marginal = dist.MultivariateNormal(centre, loading.unsqueeze(-1) * loading.unsqueeze(-2) + 0.25 * torch.eye(3))
    joint = marginal.log_prob(x.unsqueeze(1)) + tensor([0.4, 0.6]).double().log()
    same(posterior.log_evidence_by("rows"), joint.logsumexp(1), SOLVERS)
    same(kind, joint.softmax(1), SOLVERS)
    precision = 1 + loading.square().sum(1) / 0.25
    mean = ((x.unsqueeze(1) - centre) * loading).sum(-1) / 0.25 / precision
    same(law.mean, (kind * mean).sum(1), SOLVERS)
    drawn = posterior.sample(DRAWS, seed=5)
    assert float((drawn["z"].mean(0) - law.mean).abs().max()) < 0.05
    first = drawn["kind"] == 0
    for row in range(2):
        some = first[:, row]
        assert abs(float(drawn["z"][some, row].mean() - mean[row, 0])) < 5 / float(some.sum()) ** 0.5
    peak = joint.softmax(1) * precision.sqrt()
    best = peak.argmax(1)
    assert torch.equal(posterior.mode()["kind"], best)
    same(posterior.mode()["z"], mean.gather(1, best.unsqueeze(1)).squeeze(1), SOLVERS)


def of_one_kind(x: Tensor) -> None:
    """All rows are of one kind, and it is not known of which."""
    loading = tensor([[1.0, 0.5, -0.7], [0.2, -1.1, 0.4]]).double()
    kind = pyro.sample("kind", dist.Categorical(pyro.param("share", tensor([0.5, 0.5]))))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1) * loading[kind], 0.5).to_event(1), obs=x)


def test_a_state_of_all_rows() -> None:
    """The factors of a draw are those of its kind, and so are statistics."""
    x = 0.3 * values(2, 3, seed=2)
    loading = tensor([[1.0, 0.5, -0.7], [0.2, -1.1, 0.4]]).double()
    posterior = EM(of_one_kind).posterior(x)
    covariance = loading.unsqueeze(-1) * loading.unsqueeze(-2) + 0.25 * torch.eye(3)
    evidence = dist.MultivariateNormal(torch.zeros(3).double(), covariance).log_prob(x.unsqueeze(1)).sum(0)
    same(posterior.marginal("kind"), evidence.softmax(0))
    drawn = posterior.sample(DRAWS, seed=5)
    mean = (x @ loading.T) / 0.25 / (1 + loading.square().sum(1) / 0.25)
    for kind in range(2):
        some = drawn["z"][drawn["kind"] == kind]
        assert len(some) > DRAWS // 5
        assert float((some.mean(0) - mean[:, kind]).abs().max()) < 5 * 0.5 / len(some) ** 0.5


def test_what_is_seen_is_known() -> None:
    """Seen coordinates have no spread, and are what was seen in every draw."""
    x, seen = values(7, 3, seed=4), values(7, 3, seed=5) > -0.5
    fit = EM(seen_in_part, max_steps=3).fit(torch.where(seen, x, 0.0), seen)
    law, drawn = fit.posterior.marginal("row"), fit.posterior.sample(3)["row"]
    assert bool((law.stddev[seen] == 0).all())
    assert bool((law.stddev[~seen] > 0).all())
    same(torch.where(seen, law.mean, 0.0), torch.where(seen, x, 0.0))
    same(drawn[:, seen], x[seen].expand(3, -1))


def test_evidence_of_rows() -> None:
    """Groups are independent, rows are not."""
    posterior = EM(intercepts).posterior(values(20))
    same(posterior.log_evidence_by("groups").sum(), tensor(posterior.log_evidence))
    with pytest.raises(ParameterError, match=r'log_evidence_by\("rows"\).*continuous latents.*\(b\) join'):
        posterior.log_evidence_by("rows")


def test_new_rows() -> None:
    """Other rows have latents of their own, with the law that they would have had."""
    x, seen = values(7, 3, seed=4), values(7, 3, seed=5) > -0.5
    fit = EM(seen_in_part, max_steps=3).fit(torch.where(seen, x, 0.0), seen)
    new = fit.posterior_on(torch.where(seen, x, 0.0)[2:5], seen[2:5])
    same(new.marginal("row").mean, fit.posterior.marginal("row").mean[2:5])
    same(new.log_evidence_by("rows"), fit.posterior.log_evidence_by("rows")[2:5])


def test_a_plate_of_one_row() -> None:
    """What nobody else has is in the only row there is: of factors in each state of their kind, of what is seen."""
    x, seen = values(7, 3, seed=4), values(7, 3, seed=5) > -0.5
    for fit, args in (
        (EM(analysers, max_steps=3).fit(x), (x,)),
        (EM(seen_in_part, max_steps=3).fit(x, seen), (x, seen)),
    ):
        alone = fit.posterior_on(*(part[2:3] for part in args))
        same(alone.log_evidence_by("rows"), fit.posterior.log_evidence_by("rows")[2:3])


def seen_walk(y: Tensor, seen: Tensor) -> None:
    """A level that moves at random, and is seen in some steps."""
    step = pyro.param("step", tensor(0.7), constraint=constraints.positive)
    z = torch.zeros(()).double()
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z_{t}", dist.Normal(z, step if t else 2.0))
        pyro.sample(f"y_{t}", dist.Normal(z, 0.5).mask(seen[t]), obs=y[t])


def test_further_and_fewer_steps(tmp_path: Path) -> None:
    """A longer series has latents that were not fitted, a shorter one lacks some: forecasts, and filtered levels."""
    y, seen = values(9, seed=1), torch.ones(12, dtype=torch.bool)
    fit = EM(seen_walk, max_steps=3).fit(y, seen[:9])
    fit.save(tmp_path / "fit.pt")
    last = fit.posterior.marginal("z_8")
    for one in (fit, load(tmp_path / "fit.pt", seen_walk)):
        ahead = one.posterior_on(torch.cat([y, torch.zeros(3)]), torch.arange(12) < 9)
        law = ahead.marginal("z_11")
        same(law.mean, last.mean)
        same(law.variance, last.variance + 3 * fit.params["step"] ** 2)
        short = one.posterior_on(y[:5], seen[:5])
        same(
            short.marginal("z_4").mean, EM(seen_walk, starts=fit.params).posterior(y[:5], seen[:5]).marginal("z_4").mean
        )
        assert "z_5" not in short.engine.program.integrated
        assert len(one.simulate(torch.zeros(11), seen[:11])) == 11


def test_a_further_parameter_was_not_fitted() -> None:
    """A coefficient with a prior that new columns would need is no latent."""

    def ridge(x: Tensor, y: Tensor) -> None:
        coef = [pyro.sample(f"coef_{j}", dist.Normal(0.0, 1.0)) for j in range(x.shape[1])]
        with pyro.plate("rows", len(y)):
            location = sum((coef[j] * x[:, j] for j in range(x.shape[1])), torch.zeros(()))
            pyro.sample("y", dist.Normal(location, pyro.param("scale", tensor(1.0))), obs=y)

    x = values(8, 3, seed=2)
    fit = EM(ridge, max_steps=2).fit(x[:, :2], x[:, 2])
    with pytest.raises(ParameterError, match='"coef_2": expected one of the fitted parameters'):
        fit.posterior_on(x, x[:, 2])


SIZES = torch.tensor([1, 4, 2, 7, 3, 5, 1, 6])


def ragged(y: Tensor, spread: Tensor) -> None:
    """Effects of groups of unequal sizes, rows with known errors."""
    group = torch.repeat_interleave(torch.arange(len(SIZES)), SIZES)
    mu = pyro.param("mu", tensor(0.3))
    tau = pyro.param("tau", tensor(0.8), constraint=constraints.positive)
    with pyro.plate("groups", len(SIZES)):
        b = pyro.sample("b", dist.Normal(mu, tau))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b[group], spread), obs=y)


def test_groups_of_unequal_sizes() -> None:
    """Those of few rows are laid out as if they had more: evidence and laws are those of a dense normal."""
    n, group = int(SIZES.sum()), torch.repeat_interleave(torch.arange(len(SIZES)), SIZES)
    y, spread = values(n, seed=6), 0.5 + values(n, seed=7).abs()
    fit = EM(ragged, tol=1e-12).fit(y, spread)
    mu, tau = (fit.params[name].double() for name in ("mu", "tau"))
    Z = torch.nn.functional.one_hot(group).double()
    covariance = Z @ Z.T * tau**2 + spread.square().diag()
    same(tensor(fit.objective), dist.MultivariateNormal(mu.expand(n), covariance).log_prob(y))
    mean = mu + tau**2 * Z.T @ torch.linalg.solve(covariance, y - mu)
    same(fit.posterior.marginal("b").mean, mean)
    weight = torch.linalg.inv(covariance).sum(0)
    same(mu, weight @ y / weight.sum(), SOLVERS)
