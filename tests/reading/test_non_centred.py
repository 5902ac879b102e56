"""Normal latents that a parameter multiplies: a spread or a loading beside a known scale.

As the parameter grows the latents shrink, and their joint density rises for ever, or until a prior stops it: they are
integrated. The oracle is the multivariate normal law of all that is observed, written down as a matrix.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.verdict import ridge
from em_pyro.reading.latents import which

GROUP = torch.arange(24) // 4
Y = (
    torch.tensor([1.3, -0.9, 0.4, 2.1, -1.6, 0.2], dtype=torch.float64)[GROUP]
    + (torch.arange(24, dtype=torch.float64) * 1.7).sin() * 0.4
)
X = (torch.arange(24, dtype=torch.float64) * 0.9).cos()
WIDE = torch.stack([Y, 0.6 * Y + 0.3 * X, X - Y], -1)[::2]


def intercept(y: Tensor) -> None:
    """A random intercept, not centred."""
    mean = pyro.param("mean", torch.tensor(0.1))
    spread = pyro.param("spread", torch.tensor(0.8), constraint=constraints.positive)
    noise = pyro.param("noise", torch.tensor(0.6), constraint=constraints.positive)
    with pyro.plate("groups", 6):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + spread * effect[GROUP], noise), obs=y)


def slopes(y: Tensor) -> None:
    """Random slopes: a real parameter, which multiplies a latent and a covariate."""
    size = pyro.param("size", torch.tensor(-0.7))
    noise = pyro.param("noise", torch.tensor(0.6), constraint=constraints.positive)
    effect = pyro.sample("effect", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(size * (effect[..., GROUP] * X), noise), obs=y)


def factor(y: Tensor) -> None:
    """A dynamic factor of known innovations: its own past has a coefficient, observations have loadings."""
    memory = pyro.param("memory", torch.tensor(0.5))
    loadings = pyro.param("loadings", torch.tensor([0.9, 0.5, -0.4]))
    noise = pyro.param("noise", torch.ones(3), constraint=constraints.positive)
    state = torch.tensor(0.0)
    for t in range(len(y)):
        state = pyro.sample(f"state_{t}", dist.Normal(memory * state, 1.0))
        pyro.sample(f"y_{t}", dist.Normal(loadings * state, noise).to_event(1), obs=y[t])


def of_intercept(p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all rows."""
    together = (GROUP[:, None] == GROUP).double()
    return p["mean"].expand(24), p["spread"] ** 2 * together + p["noise"] ** 2 * torch.eye(24)


def of_slopes(p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all rows."""
    together = (GROUP[:, None] == GROUP).double() * torch.outer(X, X)
    return torch.zeros(24), p["size"] ** 2 * together + p["noise"] ** 2 * torch.eye(24)


def of_factor(p: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and covariance of all steps, three coordinates each."""
    steps = len(WIDE)
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    past = torch.where(lag >= 0, p["memory"] ** lag.clamp(min=0), 0.0)
    covariance = torch.kron(past @ past.mT, torch.outer(p["loadings"], p["loadings"]))
    return torch.zeros(3 * steps), covariance + torch.kron(torch.eye(steps), torch.diag(p["noise"] ** 2))


Law = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]
PROGRAMS: dict[str, tuple[Any, Tensor, Law]] = {
    "intercept": (intercept, Y, of_intercept),
    "slopes": (slopes, Y, of_slopes),
    "factor": (factor, WIDE, of_factor),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_fit_is_that_of_the_marginal_law(name: str) -> None:
    """The latents are integrated, and the maximum is one of what was observed."""
    model, y, law = PROGRAMS[name]
    em = EM(model, tol=1e-10)
    plan = str(em.plan(y))
    assert "which has no prior, multiplies it" in plan
    fit = em.fit(y)
    assert fit.converged

    def evidence(p: dict[str, Tensor]) -> Tensor:
        mean, covariance = law(p)
        return dist.MultivariateNormal(mean, covariance).log_prob(y.reshape(-1))

    leaves = {n: v.clone().requires_grad_() for n, v in fit.params.items()}
    found = evidence(leaves)
    assert fit.log_likelihood == pytest.approx(found.item(), rel=IDENTITY)
    slope = torch.autograd.grad(found, list(leaves.values()))
    assert max(float(s.abs().max()) for s in slope) < SOLVERS**0.5  # its square is what a step may gain


SPREADS = {
    "half normal": dist.HalfNormal(torch.tensor(1.0, dtype=torch.float64)),
    "half Cauchy": dist.HalfCauchy(torch.tensor(25.0, dtype=torch.float64)),
    "gamma": dist.Gamma(torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)),
    "uniform": dist.Uniform(torch.tensor(0.0, dtype=torch.float64), torch.tensor(10.0, dtype=torch.float64)),
}


def held(y: Tensor, prior: dist.TorchDistribution) -> None:
    """A prior on the spread: the joint density with the effects has a maximum, where the prior stops it."""
    spread = pyro.sample("spread", prior)
    effect = pyro.sample("effect", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(spread * effect[..., GROUP], 0.5), obs=y)


def centred(y: Tensor, prior: dist.TorchDistribution) -> None:
    """The same law, written the other way."""
    spread = pyro.sample("spread", prior)
    effect = pyro.sample("effect", dist.Normal(torch.zeros(6), spread).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(effect[..., GROUP], 0.5), obs=y)


@pytest.mark.parametrize("name", SPREADS)
def test_a_spread_with_a_prior_is_that_of_the_marginal_law(name: str) -> None:
    """Centred or not; the joint maximum has another one, which the prior alone says."""
    prior, together = SPREADS[name], (GROUP[:, None] == GROUP).double()
    fits = {}
    for model in (held, centred):
        pyro.clear_param_store()
        fits[model] = EM(model, tol=1e-11, starts={"spread": torch.tensor(1.0)}).fit(Y, prior)
        assert fits[model].converged
    assert fits[held].objective == pytest.approx(fits[centred].objective, rel=SOLVERS)
    assert 'continuous latent "effect": integrated ("spread", which is positive' in str(fits[held].plan)
    grid = torch.linspace(0.5, 2.5, 20_001, dtype=torch.float64)
    roots = torch.linalg.cholesky(grid[:, None, None] ** 2 * together + 0.25 * torch.eye(24))
    heights = dist.MultivariateNormal(torch.zeros(24), scale_tril=roots).log_prob(Y) + prior.log_prob(grid)
    assert float(fits[held].params["spread"]) == pytest.approx(float(grid[heights.argmax()]), abs=2e-4)
    assert fits[held].objective == pytest.approx(float(heights.max()), abs=1e-7)
    pyro.clear_param_store()
    joint = EM(held, continuous={"effect": "maximise"}).fit(Y, prior)
    assert float(joint.params["spread"]) > float(fits[held].params["spread"]) + 0.05


BENT: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "exp between bounds": lambda log: log.exp().clamp(1e-3, 1e3),
    "softplus": torch.nn.functional.softplus,
    "square": lambda root: root**2 + 0.1,
}
"""Spreads made of real parameters with a prior."""


def made(y: Tensor, name: str) -> None:
    """A spread that is a function of a normal parameter: no latent, for it enters no location in proportion."""
    root = pyro.sample("root", dist.Normal(0.3, 1.0))
    with pyro.plate("groups", 6):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(BENT[name](root) * effect[GROUP], 0.5), obs=y)


@pytest.mark.parametrize("name", BENT)
def test_a_spread_made_of_a_real_parameter_is_that_of_the_marginal_law(name: str) -> None:
    """As one that is positive by itself: the effects are integrated, and the parameter stays one."""
    fit = EM(made, tol=1e-11, starts={"root": torch.tensor(0.9)}).fit(Y, name)
    assert fit.converged
    assert 'integrated ("root", through a function that bends, multiplies it' in str(fit.plan)
    together, grid = (GROUP[:, None] == GROUP).double(), torch.linspace(0.05, 2.5, 20_001, dtype=torch.float64)
    roots = torch.linalg.cholesky(BENT[name](grid)[:, None, None] ** 2 * together + 0.25 * torch.eye(24))
    heights = dist.MultivariateNormal(torch.zeros(24), scale_tril=roots).log_prob(Y)
    heights = heights + dist.Normal(torch.tensor(0.3).double(), 1.0).log_prob(grid)
    assert fit.objective == pytest.approx(float(heights.max()), abs=1e-7)


def curved(y: Tensor) -> None:
    """A prior mean on a logarithmic scale: the effects around it are integrated, and it is none of them."""
    log_mean = pyro.sample("log_mean", dist.Normal(0.0, 1.0))
    spread = pyro.param("spread", torch.tensor(0.8), constraint=constraints.positive)
    with pyro.plate("groups", 6):
        effect = pyro.sample("effect", dist.Normal(log_mean.exp(), spread))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(effect[GROUP], 0.5), obs=y)


def test_what_enters_the_law_of_a_latent_through_a_bend_stays_a_parameter() -> None:
    """It has no normal law with it; it was taken for part of one, and refused."""
    fit = EM(curved, tol=1e-11).fit(Y)
    p = {name: value.clone().requires_grad_() for name, value in fit.params.items()}
    covariance = p["spread"] ** 2 * (GROUP[:, None] == GROUP).double() + 0.25 * torch.eye(24)
    height = dist.MultivariateNormal(p["log_mean"].exp().expand(24), covariance).log_prob(Y)
    height = height + dist.Normal(torch.zeros(()).double(), 1.0).log_prob(p["log_mean"])
    assert fit.objective == pytest.approx(height.item(), rel=IDENTITY)
    assert max(float(s.abs()) for s in torch.autograd.grad(height, list(p.values()))) < SOLVERS**0.5


def means(y: Tensor) -> None:
    """A spread of the means of a mixture: an integral for every choice of states, so that these stay parameters."""
    spread = pyro.sample("spread", dist.HalfNormal(5.0))
    with pyro.plate("states", 3):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
        pyro.sample("y", dist.Normal(spread * effect[z], 0.5), obs=y)


def known(y: Tensor) -> None:
    """What multiplies the latents is known; a parameter is added."""
    mean = pyro.param("mean", torch.tensor(0.1))
    effect = pyro.sample("effect", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + 0.8 * effect[..., GROUP], 0.5), obs=y)


def bent(y: Tensor) -> None:
    """A function of the latents that is no multiple of them: no integral."""
    size = pyro.param("size", torch.tensor(0.9))
    effect = pyro.sample("effect", dist.Normal(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal((size * effect[..., GROUP]).tanh(), 0.5), obs=y)


@pytest.mark.parametrize("model", [means, known, bent])
def test_others_stay_parameters(model: Callable[[Tensor], None]) -> None:
    """Where the joint density has a maximum, or there is no integral, the latents are parameters with a prior."""
    assert "effect" in EM(model).plan(Y).lines


def robust(y: Tensor) -> None:
    """A multiple of a latent that no integral is known for."""
    size = pyro.param("size", torch.tensor(1.0))
    effect = pyro.sample("effect", dist.Laplace(torch.zeros(6), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(size * effect[..., GROUP], 0.5), obs=y)


def far(size: float) -> dict[str, Tensor]:
    """On the way to infinity."""
    return {"size": torch.tensor(size), "effect": torch.tensor([1.2, -0.9, 0.4, 2.0, -1.5, 0.2]) / size}


FEW = 10  # steps: what is looked at is the end, wherever it is on the way


@pytest.mark.parametrize("size", [1e5, 1e10])
@pytest.mark.parametrize(("model", "chosen"), [(robust, {}), (slopes, {"effect": "maximise"})])
def test_what_grows_as_others_shrink_is_noted(
    model: Callable[[Tensor], None], chosen: dict[str, str], size: float
) -> None:
    """Where they are maximised all the same, the notes name both; also where nothing is left of the way there."""
    notes = "; ".join(EM(model, continuous=chosen, starts=far(size), max_steps=FEW).fit(Y).notes)
    assert 'runs to zero: "effect"' in notes
    assert 'infinity: "size"' in notes
    assert "not identified" not in notes


# ---- seen to fail ----------------------------------------------------------------------------------------------------


def test_without_the_rule_there_is_no_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    """As parameters with a prior the effects vanish, and the spread is many times what it should be."""
    start = {"spread": far(1e5)["size"], "effect": far(1e5)["effect"]}
    assert float(EM(intercept, starts={"spread": start["spread"]}).fit(Y).params["spread"]) < 5
    pyro.clear_param_store()
    monkeypatch.setattr(which, "_multiplied", lambda *args: {})
    fit = EM(intercept, starts=start, max_steps=FEW).fit(Y)
    assert float(fit.params["spread"]) > 50
    assert any("runs to infinity" in note for note in fit.notes)


def test_without_pairs_the_note_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No straight way shows it."""
    monkeypatch.setattr(ridge, "PAIRS", 0)
    assert not any("runs to" in note for note in EM(robust, starts=far(1e5), max_steps=FEW).fit(Y).notes)
