"""Normal sites of which some rows are observed (`obs_mask`), with others that depend on them."""

import pyro
import pyro.distributions as dist
import torch
from oracles.m_steps import same
from oracles.refusals import refuse
from oracles.tolerances import SOLVERS
from torch import Tensor, nan, tensor
from torch.distributions import MultivariateNormal, constraints

from em_pyro import EM, Fit

ROWS = 40


def table() -> tuple[Tensor, Tensor]:
    """Rows of three correlated columns, with holes; no row is empty."""
    generator = torch.Generator().manual_seed(8)
    root = tensor([[1.0, 0.0, 0.0], [0.8, 0.5, 0.0], [-0.4, 0.3, 0.9]]).double()
    x = torch.randn((ROWS, 3), generator=generator, dtype=torch.float64) @ root.T + tensor([1.0, -2.0, 0.5]).double()
    seen = torch.rand((ROWS, 3), generator=generator) < 0.7
    seen[~seen.any(1), 0] = True
    return x.masked_fill(~seen, nan), seen


def columns(x: Tensor, seen: Tensor) -> None:
    """A multivariate normal, column by column: each regressed on those before it."""
    loc = pyro.param("loc", torch.zeros(3).double())
    coef = pyro.param("coef", torch.zeros(3).double())
    scale = pyro.param("scale", torch.ones(3).double(), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", dist.Normal(loc[0], scale[0]), obs=x[:, 0], obs_mask=seen[:, 0])
        b = pyro.sample("b", dist.Normal(loc[1] + coef[0] * a, scale[1]), obs=x[:, 1], obs_mask=seen[:, 1])
        mean = loc[2] + coef[1] * a + coef[2] * b
        pyro.sample("c", dist.Normal(mean, scale[2]), obs=x[:, 2], obs_mask=seen[:, 2])


def whole(x: Tensor, seen: Tensor) -> None:
    """The same law, with a latent row."""
    loc = pyro.param("loc", torch.zeros(3).double())
    root = pyro.param("root", torch.eye(3).double(), constraint=constraints.lower_cholesky)
    with pyro.plate("rows", len(x)):
        row = pyro.sample("row", dist.MultivariateNormal(loc, scale_tril=root))
        pyro.sample("x", dist.Delta(row).mask(seen).to_event(1), obs=x)


def fitted() -> tuple[Tensor, Tensor, Fit, Fit]:
    """Data, and fits of both."""
    x, seen = table()
    fits = []
    for model in (columns, whole):
        pyro.clear_param_store()
        fits.append(EM(model, tol=1e-12).fit(x, seen))
    return x, seen, *fits


def test_regressions_are_the_multivariate_normal() -> None:
    """Likelihood, and what is known of a row: what was seen has no spread, the rest the conditional law."""
    x, seen, mine, other = fitted()
    same(tensor(mine.log_likelihood), tensor(other.log_likelihood), SOLVERS)
    law = other.posterior.marginal("row")
    drawn, mode = mine.posterior.sample(3), mine.posterior.mode()
    for k, name in enumerate("abc"):
        part = mine.posterior.marginal(name)
        same(part.mean, law.mean[:, k], 1e-4)
        same(part.stddev, law.stddev[:, k], 1e-4)
        known = seen[:, k]
        for values in (part.mean, mode[name], *drawn[name]):
            same(values[known], x[known, k])
        assert bool((part.stddev[known] == 0).all())
        assert bool((part.stddev[~known] > 0).all())


def test_evidence_of_rows() -> None:
    """Every row by the dense law of what was seen of it; other rows have their own."""
    x, seen, _, fit = fitted()
    root, loc = fit.params["root"].double(), fit.params["loc"].double()
    cov = root @ root.T
    each = [MultivariateNormal(loc[s], cov[s][:, s]).log_prob(row[s]) for row, s in zip(x, seen, strict=True)]
    pyro.clear_param_store()
    mine = EM(columns, tol=1e-12).fit(x, seen)
    same(mine.posterior.log_evidence_by("rows"), torch.stack(each), 1e-5)
    few = mine.posterior_on(x[3:9], seen[3:9])
    same(few.log_evidence_by("rows"), mine.posterior.log_evidence_by("rows")[3:9])
    same(few.marginal("b").mean, mine.posterior.marginal("b").mean[3:9])


def test_a_site_beside_latents_has_its_own_evidence() -> None:
    """Rows of a plate in which one site has normal latents, and another none."""

    def model(x: Tensor, y: Tensor) -> None:
        spread = pyro.param("spread", tensor(1.0).double(), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", tensor(0.0).double()), spread), obs=x)
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("y", dist.Normal(z, spread), obs=y)

    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn((2, 9), generator=generator, dtype=torch.float64)
    fit = EM(model).fit(x, 1.5 * y)
    loc, spread = fit.params["loc"].double(), fit.params["spread"].double()
    wide = (1 + spread**2).sqrt()
    truth = dist.Normal(loc, spread).log_prob(x) + dist.Normal(torch.zeros(()).double(), wide).log_prob(1.5 * y)
    same(fit.posterior.log_evidence_by("rows"), truth)


def test_other_laws_are_refused() -> None:
    """There is no exact integral of a Gamma."""

    def model(x: Tensor, seen: Tensor) -> None:
        with pyro.plate("rows", len(x)):
            w = pyro.sample("w", dist.Gamma(pyro.param("shape", tensor(2.0)), 1.0), obs=x, obs_mask=seen)
            pyro.sample("y", dist.Normal(w, 1.0), obs=x)

    refuse(
        "model", r'^Site "w": expected obs_mask on a discrete or normal site, got one of Gamma.*\.mask\(.*quadrature',
        model, tensor([1.0, 2.0, 3.0]), tensor([True, False, True]),
    )  # fmt: skip
