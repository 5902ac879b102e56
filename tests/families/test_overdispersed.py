"""Counts that vary more than simple ones do: maxima from anywhere, their limits, and rows that are looked up."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.m_steps import same, step
from oracles.tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM
from em_pyro.families import family_for
from em_pyro.families.overdispersed import Tally, urns
from em_pyro.families.rowwise import looked_up, tallied
from em_pyro.program.data.counts import log_risen, log_rising, rising

EVERY = torch.ones(3, dtype=torch.bool)
A = tensor([1.5, 0.4, 0.1], dtype=torch.float64)


def drawn(a: Tensor, n: int, rows: int = 300) -> Tensor:
    """Counts of urns."""
    return dist.DirichletMultinomial(a, n).sample((rows,))


@pytest.mark.parametrize("start", [1e-8, 1.0, 1e6])
@pytest.mark.parametrize("n", [2, 40, 5000])
def test_urns_from_afar(n: int, start: float) -> None:
    """From any start the slope by every log-concentration is zero, also where counts exceed the number of rows."""
    counts, weights = drawn(A, n), torch.rand(1, 300)
    solved = urns(counts[None], weights, torch.full((1, 3), start), EVERY)
    at = solved.log().requires_grad_()
    law = dist.DirichletMultinomial(at.exp()[0], n, validate_args=False)
    (slope,) = torch.autograd.grad((weights[0] * law.log_prob(counts)).sum(), at)
    assert float(slope.abs().max()) < IDENTITY * 300 * n


def test_urns_like_multinomials_stop_where_the_two_are_one() -> None:
    """What varies less than multinomial ones have no finite concentration: their shares are those of the counts."""
    counts = tensor([[5.0, 3.0, 2.0]]).expand(50, 3)
    solved = urns(counts[None], torch.ones(1, 50), torch.ones(1, 3), EVERY)
    same(solved / solved.sum(), tensor([[0.5, 0.3, 0.2]]), SOLVERS)
    assert 1e7 < float(solved.sum()) < 1e10


def test_what_is_held_stays_where_another_runs_off() -> None:
    """All hits and hardly a miss: one concentration has no bound, and the other is known."""
    counts = tensor([[9.0, 0.0]]).expand(30, 2)
    solved = urns(counts[None], torch.ones(1, 30), tensor([[1.0, 5.0]]), tensor([True, False]))
    assert float(solved[0, 1]) == 5.0
    assert float(solved[0, 0]) > 1e7


def test_a_kind_that_is_never_counted_has_next_to_no_concentration() -> None:
    """And one that only a row without weight has counted is its equal."""
    counts = torch.cat([drawn(A, 9), torch.zeros(300, 1)], -1)
    counts[0, 3], weights = 4.0, torch.rand(1, 300)
    weights[0, 0] = 0.0
    solved = urns(counts[None], weights, torch.ones(1, 4), torch.ones(4, dtype=torch.bool))
    same(solved[:, :3], urns(counts[None, :, :3], weights, torch.ones(1, 3), EVERY), 1e-8)
    assert float(solved[0, 3]) < 1e-50


def test_single_draws_say_nothing_of_the_sum() -> None:
    """Of one draw a row only shares are known: the sum stays where it was."""
    counts = drawn(A, 1)
    solved = urns(counts[None], torch.ones(1, 300), torch.full((1, 3), 4.0), EVERY)
    same(solved[0] / solved.sum(), counts.mean(0), SOLVERS)
    assert 1 < float(solved.sum()) < 100


def test_digits_of_differences() -> None:
    """`digamma(a + x) - digamma(a)` for large `a`, against the sum of `1 / (a + k)` that it is."""
    x, k = tensor([0.0, 1.0, 7.0]), torch.arange(7.0)
    for a in (tensor(0.3), tensor(999.0), tensor(1001.0), tensor(1e9)):
        first, second = rising(x, a)
        inside = k < x.unsqueeze(-1)
        want = torch.where(inside, 1 / (a + k), 0.0).sum(-1)
        bent = -torch.where(inside, 1 / (a + k).square(), 0.0).sum(-1)
        assert float((first - want).abs().max() / want.max()) < 1e-11
        assert float((second - bent).abs().max() / bent.abs().max()) < 1e-8


@pytest.mark.parametrize("size", [0.3, 5.0, 60.0])
def test_a_rising_factorial_has_its_own_derivatives(size: float) -> None:
    """Two of them, by one number for several counts too, as torch has by its terms."""
    x = tensor([[0.0, 1.0, 4.0, 30.0]])
    point = size * tensor([[1.0], [2.5]])
    found = []
    for formula in (log_risen, log_rising):
        a = point.clone().requires_grad_()
        value = formula(x, a)
        (slope,) = torch.autograd.grad((value * (1 + x)).sum(), a, create_graph=True)
        (bent,) = torch.autograd.grad((slope * a.detach()).sum(), a)
        found.append((value.detach(), slope.detach(), bent))
    for got, want in zip(*found, strict=True):
        same(got, want)


@pytest.mark.parametrize("far", [3.0, 1e6])
def test_rows_are_looked_up(far: float) -> None:
    """Few numbers by a table, many as they are: with the same values, and the same weight of each number."""
    counts = tensor([[0.0, 3.0, 3.0, 1.0, far]])
    same(looked_up(counts, lambda x: (x + 1.5).lgamma()), (counts + 1.5).lgamma())
    weights = tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    values, each = tallied(counts, weights)
    same((each * values.square()).sum(-1), (weights * counts.square()).sum(-1))


def test_rows_that_are_cells_are_not_tallied() -> None:
    """A rate by row makes each row a cell: the numbers that others show are no part of it."""
    counts, weights = tensor([[7.0], [0.0], [7.0], [2.0]]), tensor([[0.5], [1.0], [0.25], [2.0]])
    values, each = tallied(counts, weights)
    same(values, counts)
    same(each, weights)
    law = dist.GammaPoisson(tensor([1.5, 2.0, 1.5, 3.0]), tensor([0.5, 1.0, 2.0, 1.0]))
    args = {"concentration": law.concentration[:, None], "rate": law.rate[:, None]}
    got = family_for(type(law)).weighed(counts, weights, args)  # type: ignore[attr-defined]
    same(got, weights[:, 0] * law.log_prob(counts[:, 0]))


def test_no_whole_numbers_are_not_looked_up() -> None:
    """A density that is asked about halves is not that of whole numbers."""
    halves = tensor([[0.5, 1.5, 2.0]])
    same(looked_up(halves, torch.lgamma), halves.lgamma())


def test_the_tally_is_the_sum_over_rows() -> None:
    """What a tally says of all rows is what Pyro says of each."""
    counts, weights = drawn(A, 12), torch.rand(1, 300)
    law = dist.DirichletMultinomial(A, 12)
    family = family_for(type(law))
    got = family.weighed(counts[None], weights, {"concentration": A[None, None]})  # type: ignore[attr-defined]
    same(got[0], (weights[0] * law.log_prob(counts)).sum())
    tally = Tally.of(counts[None], weights)
    a = A[None].clone().requires_grad_()
    (slope,) = torch.autograd.grad(tally.height(a).sum(), a)
    gain, _, cost, _ = tally.slopes(A[None])
    same(gain - cost, slope)


# ---- programs --------------------------------------------------------------------------------------------------------


def urn_mixture(x: Tensor, law: Any = None) -> None:
    """Two urns, or another law of theirs."""
    weights = pyro.param("weights", tensor([0.6, 0.4]), constraint=constraints.simplex)
    a = pyro.param("a", tensor([[1.0, 2.0, 1.0], [2.0, 1.0, 0.5]]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.DirichletMultinomial(a[z], 12, validate_args=False), obs=x)


def test_one_step_is_that_of_torch() -> None:
    """By closed forms and by torch, over a mixture of urns."""
    x = torch.cat([drawn(tensor([5.0, 1.0, 0.5]), 12, 60), drawn(tensor([0.4, 3.0, 2.0]), 12, 60)])
    got, want = step(urn_mixture, x), step(urn_mixture, x, m_step={"a": "torch", "weights": "torch"})
    assert got.how["a"] == "closed form"
    same(got.params["a"], want.params["a"], SOLVERS)


def test_a_fit_of_urns() -> None:
    """Converged where torch's own gradient is zero; new rows have posteriors."""
    x = torch.cat([drawn(tensor([5.0, 1.0, 0.5]), 12, 80), drawn(tensor([0.4, 3.0, 2.0]), 12, 80)])
    fit = EM(urn_mixture).fit(x)
    assert fit.converged, fit
    a, weights = fit.params["a"].clone().requires_grad_(), fit.params["weights"]
    each = dist.DirichletMultinomial(a, 12, validate_args=False).log_prob(x[:, None]) + weights.log()
    (slope,) = torch.autograd.grad(each.logsumexp(-1).sum(), a)
    assert float((slope * a.detach()).abs().max()) < 1e-2
    same(fit.posterior_on(x[:5]).marginal("z"), each.softmax(-1)[:5].detach(), 1e-8)


def test_counts_with_fewer_zeros_than_poisson_have_no_gate() -> None:
    """The gate ends at zero, which a note names."""
    x = dist.Poisson(1.5).sample((200,))
    x[x == 0] = 1.0
    x[:20] = 0.0

    def model(x: Tensor) -> None:
        gate = pyro.param("gate", tensor(0.4), constraint=constraints.unit_interval)
        rate = pyro.param("rate", tensor(2.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.ZeroInflatedPoisson(rate, gate=gate), obs=x)

    fit = EM(model).fit(x)
    assert fit.converged
    assert float(fit.params["gate"]) == 0.0
    same(fit.params["rate"], x.mean())
    assert any("gate" in note for note in fit.notes), fit


@pytest.mark.parametrize("constraint", ["gate", "gate_logits"])
def test_zeros_by_either_argument(constraint: str) -> None:
    """A gate and its logits are one law."""
    x = dist.ZeroInflatedPoisson(3.0, gate=tensor(0.35)).sample((300,))
    rate = x[x > 0].mean()
    for _ in range(200):
        rate = x[x > 0].mean() * (1 - (-rate).exp())
    want = 1 - (x > 0).double().mean() / (1 - (-rate).exp())

    def model(x: Tensor) -> None:
        at = pyro.param(constraint, tensor(0.4), constraint=dist.ZeroInflatedPoisson.arg_constraints[constraint])
        rate = pyro.param("rate", tensor(2.0), constraint=constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.ZeroInflatedPoisson(rate, **{constraint: at}), obs=x)

    fit = EM(model).fit(x)
    got = fit.params[constraint]
    same(fit.params["rate"], rate, SOLVERS)
    same(torch.sigmoid(got) if constraint == "gate_logits" else got, want, SOLVERS)
