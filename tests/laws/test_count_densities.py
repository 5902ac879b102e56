"""Densities of counts and heavy tails have their digits at any concentration; fits end at the limit where best."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.fit.problem import prepare
from em_pyro.fit.verdict.digits import has_lost_digits
from em_pyro.program.data.counts import FORMULAS, density

UNDISPERSED = tensor([3.0, 4, 3, 4, 3, 4, 3, 4, 4, 3])  # counts that vary less than those of one rate


def rising(a: float, x: int) -> float:
    """The logarithm of `a (a + 1) ... (a + x - 1)`, factor by factor."""
    return math.fsum(math.log(a + j) for j in range(x))


def choose(n: int, x: int) -> float:
    """The logarithm of a binomial coefficient."""
    return math.log(math.comb(n, x))


@pytest.mark.parametrize("a", [0.3, 19.0, 21.0, 1e5, 1e12, 1e100])
def test_digits(a: float) -> None:
    """Against products, factor by factor; where the concentration is large, Pyro's own is rounding."""
    x = torch.arange(8.0)
    beta = [choose(7, k) + rising(a, k) + rising(3 * a, 7 - k) - rising(4 * a, 7) for k in range(8)]
    close(density(dist.BetaBinomial(tensor(a), tensor(3 * a), 7), x), tensor(beta), IDENTITY)
    rate = a / 2
    gamma = [
        rising(a, k) - math.log(math.factorial(k)) - a * math.log1p(1 / rate) - k * math.log1p(rate) for k in range(8)
    ]
    close(density(dist.GammaPoisson(tensor(a), tensor(rate)), x), tensor(gamma), IDENTITY)
    rows = tensor([[3.0, 4.0, 2.0], [9.0, 0.0, 0.0]])
    of = [
        math.log(math.factorial(9)) - rising(3 * a, 9) + sum(rising(a, k) - math.log(math.factorial(k)) for k in row)
        for row in ([3, 4, 2], [9, 0, 0])
    ]
    close(density(dist.DirichletMultinomial(tensor(a).expand(3), 9), rows), tensor(of), IDENTITY)


@pytest.mark.parametrize("total", [3.0, 1e9, 1e18])
def test_probabilities_below_rounding_are_taken_as_they_are(total: float) -> None:
    """Torch clamps the logits of what it is given as a probability, which counts as often as the total."""
    x, probs = torch.arange(8.0), tensor(7.0 / (total + 7.0))
    known = density(dist.NegativeBinomial(tensor(total), logits=tensor(math.log(7.0 / total))), x)
    for law in (dist.NegativeBinomial(tensor(total), probs), dist.NegativeBinomial(tensor(total), probs).expand([8])):
        close(density(law, x), known, IDENTITY)


def laws() -> list[tuple[Any, Tensor]]:
    """Distributions of the table, in double precision, with values."""
    a, x = tensor([[2.0], [50.0]]), tensor([0.0, 9.0, 4.0])
    probs, gate = tensor([0.3, 0.4, 0.5]), tensor(0.2)
    return [
        (dist.BetaBinomial(a, tensor([[1.5], [30.0]]), 9), x),
        (dist.GammaPoisson(a, tensor([[1.5], [3.0]])), x),
        (dist.NegativeBinomial(a, logits=tensor(-0.5)), x),
        (dist.NegativeBinomial(a, probs=tensor(0.3)), x.long()),
        (dist.ZeroInflatedNegativeBinomial(tensor(4.0), probs=probs, gate=gate), x),
        (dist.ZeroInflatedNegativeBinomial(tensor(4.0), logits=probs, gate_logits=gate), x),
        (dist.ExtendedBetaBinomial(a, tensor([[1.5], [30.0]]), tensor([9, 3, -1])), x),
        (dist.ZeroInflatedDistribution(dist.BetaBinomial(a, tensor([[1.5], [30.0]]), 9), gate=gate), x),
        (dist.ZeroInflatedDistribution(dist.Geometric(probs), gate_logits=gate), x),
        (dist.StudentT(a, probs, gate + x), x),
        (dist.MultivariateStudentT(a, probs, torch.eye(3) + probs[:2].diag(-1)), x),
    ]


@pytest.mark.parametrize("law", range(11))
def test_wrapped(law: int) -> None:
    """Under `.expand`, `.mask` and `.to_event` they are torch's, where that has its digits."""
    fn, x = laws()[law]
    seen = tensor([1.0, 0.0, 1.0]) > 0
    for whole in (fn, fn.expand((2, 3)), fn.expand((2, 3)).mask(seen), fn.expand((2, 3)).mask(seen).to_event(1)):
        ours = density(whole, x)
        assert ours is not None
        want = whole.log_prob(x)
        close(ours.expand(want.shape).clamp(min=-1e9), want.clamp(min=-1e9), IDENTITY)
    assert density(dist.Poisson(tensor(1.0)), x) is None


@pytest.mark.parametrize("df", [1.0, 3.0, 39.0, 41.0, 1e13, 1e100])
def test_digits_of_heavy_tails(df: float) -> None:
    """Against the formula where that has its digits, and against its limit where it is that to the last one."""
    x, loc = tensor([[0.3, -2.0, 7.0], [1.0, 0.0, 0.0]]), tensor([1.0, 0.0, 0.0])
    root = tensor([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [0.0, -1.0, 3.0]])
    small = df < 100
    want = dist.MultivariateStudentT(tensor(df), loc, root) if small else dist.MultivariateNormal(loc, scale_tril=root)
    close(density(dist.MultivariateStudentT(tensor(df), loc, root), x), want.log_prob(x), IDENTITY)
    each = dist.StudentT(tensor(df), 1.0, 2.0) if small else dist.Normal(1.0, 2.0)
    close(density(dist.StudentT(tensor(df), 1.0, 2.0), x), each.log_prob(x), IDENTITY)


def beta_binomial(x: Tensor, *, shares: bool) -> None:
    """Two concentrations; or a share and how far it is spread."""
    if shares:
        mean = pyro.param("mean", tensor(0.5).to(x), constraint=constraints.unit_interval)
        size = pyro.param("size", tensor(2.0).to(x), constraint=constraints.positive)
        a, b = mean * size, (1 - mean) * size
    else:
        a = pyro.param("a", tensor(1.0).to(x), constraint=constraints.positive)
        b = pyro.param("b", tensor(1.0).to(x), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.BetaBinomial(a, b, 10), obs=x)


def mixed(x: Tensor) -> None:
    """Two kinds of them."""
    a = pyro.param("a", tensor([1.0, 2.0]).to(x), constraint=constraints.positive)
    b = pyro.param("b", tensor([1.0, 1.0]).to(x), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5]).to(x)))
        pyro.sample("x", dist.BetaBinomial(a[z], b[z], 10), obs=x)


def gamma_poisson(x: Tensor) -> None:
    """A shape and a rate."""
    a = pyro.param("a", tensor(1.0).to(x), constraint=constraints.positive)
    b = pyro.param("b", tensor(1.0).to(x), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.GammaPoisson(a, b), obs=x)


def chain(x: Tensor) -> None:
    """Along a chain of two states."""
    a = pyro.param("a", tensor([1.0, 4.0]).to(x), constraint=constraints.positive)
    b = pyro.param("b", tensor([1.0, 1.0]).to(x), constraint=constraints.positive)
    state = None
    for t in pyro.markov(range(len(x))):
        to = tensor([0.5, 0.5]) if state is None else tensor([[0.6, 0.4], [0.4, 0.6]])[state]
        state = pyro.sample(f"z_{t}", dist.Categorical(to.to(x)))
        pyro.sample(f"x_{t}", dist.GammaPoisson(a[state], b[state]), obs=x[t])


def binomial(x: Tensor) -> Any:
    """The limit of beta-binomial counts, fitted."""
    return dist.Binomial(10, x.mean() / 10)


def poisson(x: Tensor) -> Any:
    """The limit of gamma-Poisson counts, fitted."""
    return dist.Poisson(x.mean())


CASES: dict[str, tuple[Callable[..., None], dict[str, Any], Callable[[Tensor], Any]]] = {
    "concentrations": (beta_binomial, {"shares": False}, binomial),
    "a share and its spread": (beta_binomial, {"shares": True}, binomial),
    "a mixture": (mixed, {}, binomial),
    "counts without an end": (gamma_poisson, {}, poisson),
    "a chain": (chain, {}, poisson),
}


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.float64) for name in CASES), ("concentrations", torch.float32)]
)
def test_the_limit(name: str, dtype: torch.dtype) -> None:
    """The supremum is that of the limit, which no log-likelihood is above, and a note names it as the remedy."""
    model, options, limit = CASES[name]
    x = UNDISPERSED[: 3 if name == "a chain" else 10]
    fit = EM(model).fit(x.to(dtype), **options)
    most = float(limit(x).log_prob(x).sum())
    rounding = SOLVERS if dtype is torch.float64 else 1e-4
    assert abs(fit.log_likelihood - most) < 10 * rounding, fit
    if dtype is torch.float64:
        assert fit.outcome == "converged", fit
        assert any(f"next to its limit, {type(limit(x)).__name__}" in note for note in fit.notes), fit.notes


def two_clouds(x: Tensor, law: Callable[..., Any], *, df: bool) -> None:
    """A mixture in two dimensions."""
    loc = pyro.param("loc", tensor([[0.0, 0.0], [4.0, 4.0]]))
    root = pyro.param("root", torch.eye(2).repeat(2, 1, 1), constraint=constraints.lower_cholesky)
    tails = (pyro.param("df", tensor([5.0, 5.0]), constraint=constraints.positive),) if df else ()
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        pyro.sample("x", law(*(tail[z] for tail in tails), loc[z], scale_tril=root[z]), obs=x)


def test_tails_that_are_normal() -> None:
    """Points within bounds: degrees of freedom run off, and the maximum is that of normals."""
    angle = torch.arange(12.0)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    x = torch.cat([ring, 5 + ring.cumsum(0) / 2])
    fit = EM(two_clouds).fit(x, dist.MultivariateStudentT, df=True)
    pyro.clear_param_store()
    normal = EM(two_clouds).fit(x, dist.MultivariateNormal, df=False)
    assert fit.outcome == normal.outcome == "converged", fit
    assert fit.log_likelihood == pytest.approx(normal.log_likelihood, rel=SOLVERS)
    assert any("next to its limit, MultivariateNormal" in note for note in fit.notes)


def extended(x: Tensor) -> None:
    """Two kinds of counts, whose law is one of all integers."""
    a = pyro.param("a", tensor([1.0, 2.0]).to(x), constraint=constraints.positive)
    b = pyro.param("b", tensor([2.0, 2.0]).to(x), constraint=constraints.positive)
    weights = pyro.param("weights", tensor([0.4, 0.6]).to(x), constraint=constraints.simplex)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.ExtendedBetaBinomial(a[z], b[z], 10), obs=x)


DISPERSED = tensor([0.0, 0, 1, 3, 2, 5, 8, 1, 0, 2], dtype=torch.float64).repeat(6)


def test_counts_of_all_integers_have_their_digits() -> None:
    """A fit of them runs to the limit, where Pyro's own density is above one."""
    fit = EM(extended).fit(DISPERSED)
    assert fit.log_likelihood < 0
    assert any("infinity" in note for note in fit.notes)


def test_a_fall_by_lost_digits_is_no_fault_of_an_m_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a density climbs on its rounding and falls by it, the density is named; a fall beyond it is one."""
    monkeypatch.delitem(FORMULAS, dist.ExtendedBetaBinomial)  # type: ignore[arg-type]
    problem = prepare(extended, (DISPERSED,), {}, {}, check=True)
    near = {name: value.unsqueeze(0) for name, value in problem.engine.recognition.values.items()}
    far = near | {"a": tensor([[1e-3, 4.3e15]]), "b": tensor([[1e-3, 1.5e15]])}
    assert has_lost_digits(problem, far, 90.0)
    assert not has_lost_digits(problem, far, 1e6)
    assert not has_lost_digits(problem, near, 1e-6)
