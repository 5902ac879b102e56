"""An empty state is an entry of a parameter that has lost its rows, and nothing else is."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from oracles.tolerances import SOLVERS
from pyro.ops.indexing import Vindex
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import EM, Fit
from em_pyro.fit.verdict import edges

COUNTS = tensor([3.0, 2, 4, 1, 3, 2, 3, 9, 6, 8, 7, 10, 8], dtype=torch.float64)


def change_point(y: Tensor, law: Callable[[Tensor], Any] = dist.Poisson) -> None:
    """Counts whose rate changes once."""
    rate = pyro.param("rate", tensor([2.0, 6.0]).to(y), constraint=constraints.positive)
    tau = pyro.sample("tau", dist.Categorical(torch.ones(len(y)).to(y) / len(y)))
    with pyro.plate("t", len(y)):
        pyro.sample("y", law(rate[(torch.arange(len(y)) >= tau).long()]), obs=y)


@pytest.mark.parametrize(
    ("law", "dtype"),
    [
        (dist.Poisson, torch.float64),
        (dist.Poisson, torch.float32),
        (lambda rate: dist.Normal(rate, 0.5), torch.float64),
    ],
)
def test_a_change_point_is_none(law: Callable[[Tensor], Any], dtype: torch.dtype) -> None:
    """Most positions of the change have no weight; both rates have rows."""
    fit = EM(change_point).fit(COUNTS.to(dtype), law)
    assert fit.outcome == "converged", fit.notes


def grouped(x: Tensor, loc: Tensor, which: Tensor, weights: Tensor, *, shared: bool) -> None:
    """States that share means, and a scale of their own each, or one."""
    loc = pyro.param("loc", loc)
    scale = pyro.param("scale", torch.ones(1 if shared else len(weights)), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[which[z]], scale[0 * z if shared else z]), obs=x)


def test_states_that_share_are_judged_together() -> None:
    """A mean that two states use has the rows of one; a scale that only the state without rows uses has none."""
    x, which, weights = tensor([0.1, -0.4, 0.3, 5.2, 4.7, 5.5]), tensor([0, 1, 1]), tensor([0.5, 0.5, 0.0])
    shared = EM(grouped).fit(x, tensor([0.5, 4.0]), which, weights, shared=True)
    assert shared.outcome == "converged", shared.notes
    pyro.clear_param_store()
    alone = EM(grouped, max_steps=20).fit(x, tensor([0.5, 4.0]), which, weights, shared=False)
    assert alone.outcome == "empty state"
    assert alone.notes[-1] == 'entry (2,) of "scale" has no rows left'


def shares(x: Tensor, alpha: float) -> None:
    """Known kinds of rows, one of which hardly explains any, and a prior of their shares."""
    share = pyro.sample("share", dist.Dirichlet(torch.full((3,), alpha)))
    with pyro.plate("kinds", 3):
        loc = pyro.sample("loc", dist.Normal(tensor([-5.0, 5.0, 0.0]), 0.1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def test_a_prior_that_lets_a_share_go_to_zero_is_named() -> None:
    """The end says in which density of the prior every state keeps a share, and there it does."""
    x = tensor([-5.2, -5.1, -4.9, 4.8, 5.0, 5.1])
    fit = EM(shares).fit(x, 1.0)
    assert fit.outcome == "empty state"
    assert fit.notes[-1].endswith('"share" lets a state have no share, but not in EM(prior_density="unconstrained")')
    pyro.clear_param_store()
    inside = EM(shares, prior_density="unconstrained").fit(x, 1.0)
    assert inside.outcome == "converged", inside.notes
    assert float(inside.params["share"].min()) > 0.1
    pyro.clear_param_store()
    assert EM(shares).fit(x, 2.0).outcome == "converged"


def two_latents(x: Tensor) -> None:
    """Means by one latent, scales by another: that a pair of states has no rows is nothing to either."""
    loc = pyro.param("loc", tensor([-4.0, 4.0]))
    scale = pyro.param("scale", tensor([0.1, 1.0]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        w = pyro.sample("w", dist.Categorical(tensor([[1.0, 0.0], [0.0, 1.0]])[z]))
        pyro.sample("x", dist.Normal(loc[z], scale[w]), obs=x)


def test_a_pair_of_states_is_no_state() -> None:
    """Every entry has the rows of one pair."""
    x = torch.cat([-4 + 0.1 * torch.linspace(-1, 1, 9), 4 + torch.linspace(-2, 2, 9)])
    fit = EM(two_latents).fit(x)
    assert fit.outcome == "converged", fit.notes


def items(x: Tensor, seen: Tensor) -> None:
    """Items in a plate, some never answered."""
    p = pyro.param("p", tensor([[0.2, 0.3, 0.4], [0.8, 0.7, 0.6]]), constraint=constraints.unit_interval)
    with pyro.plate("people", len(x), dim=-2):
        z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
        with pyro.plate("items", 3, dim=-1), pyro.poutine.mask(mask=seen):
            pyro.sample("x", dist.Bernoulli(p[z, torch.arange(3)]), obs=x)


def test_an_item_without_answers_is_no_state() -> None:
    """It has no rows whatever the states are."""
    x = (torch.rand(12, 3, generator=torch.Generator().manual_seed(0)) < 0.5).double()
    seen = torch.ones(12, 3, dtype=torch.bool)
    seen[:, 2] = False
    assert EM(items, max_steps=30).fit(x, seen).outcome != "empty state"


STEPS = torch.arange(12, dtype=torch.float64)
SPELLS = (STEPS // 3) % 2
SERIES = torch.where(SPELLS == 0, 1.0, -8.0) + 0.2 * torch.sin(3.0 * STEPS) + 0.01 * STEPS
X = torch.cos(1.7 * STEPS)


def chain(y: Tensor, x: Tensor, family: str = "normal") -> None:
    """A chain whose emissions regress on `x`."""
    move = pyro.param("move", tensor([[0.9, 0.1], [0.1, 0.9]]), constraint=constraints.simplex)
    level, slope = pyro.param("level", tensor([0.5, -6.0])), pyro.param("slope", tensor([0.1, -0.1]))
    z = None
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(tensor([0.5, 0.5]) if z is None else move[z]))
        mean = level[z] + slope[z] * x[t]
        law = dist.Normal(mean, 0.5) if family == "normal" else dist.Poisson(mean.exp())
        pyro.sample(f"y{t}", law, obs=y[t])


def factorial(y: Tensor, x: Tensor) -> None:
    """Two chains whose effects add up, one of them multiplied by `x`."""
    move = pyro.param("move", tensor([[0.9, 0.1], [0.1, 0.9]]), constraint=constraints.simplex)
    first, second = pyro.param("first", tensor([0.5, -6.0])), pyro.param("second", tensor([0.0, 0.3]))
    z = w = None
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(tensor([0.5, 0.5]) if z is None else move[z]))
        w = pyro.sample(f"w{t}", dist.Categorical(tensor([0.5, 0.5]) if w is None else move[w]))
        pyro.sample(f"y{t}", dist.Normal(first[z] + second[w] * x[t], 0.5), obs=y[t])


def test_a_regression_in_a_chain_has_the_rows_of_all_steps() -> None:
    """States are certain at every step, and each step is a site of its own."""
    fit = EM(chain).fit(SERIES, X)
    assert fit.outcome == "converged", fit.notes
    for k in (0, 1):
        design = torch.stack([torch.ones_like(X), X], 1)[SPELLS == k]
        right = torch.linalg.lstsq(design, SERIES[SPELLS == k].unsqueeze(-1)).solution.squeeze(-1)
        close(torch.stack([fit.params["level"][k], fit.params["slope"][k]]), right, SOLVERS)


def test_other_regressions_in_chains() -> None:
    """Counts by Newton's method, and two chains at once."""
    counts = torch.where(SPELLS == 0, 40.0, 0.0) + (STEPS % 3 == 0)
    with pyro.get_param_store().scope():
        assert EM(chain, starts={"level": tensor([3.5, -1.0])}).fit(counts, X, "poisson").outcome == "converged"
    assert EM(factorial, max_steps=60).fit(SERIES, X).outcome in ("converged", "step limit")


def test_a_state_of_a_chain_that_no_step_is_in_is_named() -> None:
    """Also where its parameters enter a regression."""
    fit = EM(chain, starts={"level": tensor([-3.0, -400.0])}, max_steps=30).fit(SERIES, X)
    assert fit.outcome == "empty state"
    assert '"level"' in fit.notes[-1] or '"slope"' in fit.notes[-1]


def kinds_of_chains(y: Tensor, step: Tensor) -> None:
    """Every sequence is of one kind, by which its state moves."""
    weights = pyro.param("weights", torch.ones(2).to(y) / 2, constraint=constraints.simplex)
    keep, noise = pyro.param("keep", step), pyro.param("noise", tensor(0.4).to(y), constraint=constraints.positive)
    with pyro.plate("sequences", y.shape[1]):
        kind = pyro.sample("kind", dist.Categorical(weights))
        z = torch.zeros(()).to(y)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Normal(keep[kind] * z, 0.5))
            pyro.sample(f"y_{t}", dist.Normal(z, noise), obs=y[t])


def fitted_kinds() -> Fit:
    """Fit chains of one kind by two, of which one begins far off."""
    noise = torch.randn((2, 15, 12), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y, z = list[Tensor](), torch.zeros(12, dtype=torch.float64)
    for moved, seen in noise.unbind(1):
        z = 0.9 * z + 0.5 * moved
        y.append(z + 0.3 * seen)
    pyro.clear_param_store()
    return EM(kinds_of_chains).fit(torch.stack(y), tensor([0.5, -40.0]).double())


def test_a_kind_of_chain_that_becomes_empty_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began far off: all values are numbers, and the notes say of what nothing is told any more."""
    monkeypatch.setattr(edges, "TINY", 0.0)  # else it is given a share again
    fit = fitted_kinds()
    assert all(bool(torch.isfinite(value).all()) for value in fit.params.values())
    assert fit.posterior.marginal("kind").sum(0).argmin() == 1
    assert any("boundary" in note and '"weights"[1]' in note for note in fit.notes)
    assert any("not identified" in note and '"keep"[1]' in note for note in fit.notes)


def test_a_kind_of_chain_that_is_worth_a_share_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it has come to, it is better than the other kind for some chains: the fit goes on, and ends higher."""
    fit = fitted_kinds()
    monkeypatch.setattr(edges, "TINY", 0.0)
    assert fit.converged
    assert fit.objective > fitted_kinds().objective + 0.1
    assert float(fit.params["weights"][1]) > 0.01


def immune(y: Tensor, *, logits: bool, dtype: torch.dtype = torch.float64) -> None:
    """Only who is susceptible may be ill: a chance of a positive test for each of three pairs, and a fourth."""
    susceptible = pyro.param("susceptible", tensor(0.6, dtype=dtype), constraint=constraints.unit_interval)
    chance = pyro.param("chance", tensor([[0.1, 0.3], [0.4, 0.9]], dtype=dtype), constraint=constraints.unit_interval)
    with pyro.plate("people", len(y)):
        s = pyro.sample("s", dist.Bernoulli(susceptible)).long()
        table = tensor([[1.0, 0.0], [0.5, 0.5]], dtype=dtype)
        ill = dist.Categorical(logits=table.log()[s]) if logits else dist.Bernoulli(0.5 * s)
        i = pyro.sample("i", ill).long()
        pyro.sample("y", dist.Binomial(6, Vindex(chance)[s, i]), obs=y)


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_what_may_not_meet_has_lost_nothing(dtype: torch.dtype, logits: bool) -> None:  # noqa: FBT001
    """An entry for a pair that the program forbids is not identified; the others have a maximum."""
    y = tensor([0.0, 0, 1, 0, 2, 3, 2, 3, 6, 5, 6, 6, 1, 2], dtype=dtype)
    fit = EM(immune).fit(y, logits=logits, dtype=dtype)
    assert fit.outcome == "converged", fit.notes
    assert fit.params["chance"][0, 1] == tensor(0.3, dtype=dtype)
    if dtype is torch.float64:
        assert any("not identified" in note and '"chance"[0, 1]' in note for note in fit.notes), fit.notes


def left_to_right(y: Tensor) -> None:
    """Means by the step from one state to the next, which never goes back."""
    transition = tensor([[0.7, 0.3, 0.0], [0.0, 0.6, 0.4], [0.0, 0.0, 1.0]])
    mean = pyro.param("mean", torch.arange(9.0).reshape(3, 3))
    before = None
    for t in pyro.markov(range(len(y))):
        state = pyro.sample(f"z_{t}", dist.Categorical(tensor([1.0, 0, 0]) if before is None else transition[before]))
        pyro.sample(f"y_{t}", dist.Normal(Vindex(mean)[state if before is None else before, state], 1.0), obs=y[t])
        before = state


def test_steps_that_a_chain_may_not_take() -> None:
    """The same along a chain."""
    fit = EM(left_to_right).fit(tensor([0.0, 0.3, 1.2, 4.0, 3.8, 4.1, 5.2, 8.1, 8.3]))
    assert fit.outcome == "converged", fit.notes
    assert fit.params["mean"][2, 0] == 6.0


def test_a_pair_that_has_lost_its_rows() -> None:
    """It might have had some: nothing in the program forbids it."""

    def pairs(x: Tensor) -> None:
        loc = pyro.param("loc", tensor([[0.0, 3.0], [6.0, 1e5]]))
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Categorical(tensor([0.5, 0.5])))
            b = pyro.sample("b", dist.Categorical(tensor([[0.5, 0.5], [0.6, 0.4]])[a]))
            pyro.sample("x", dist.Normal(Vindex(loc)[a, b], 1.0), obs=x)

    fit = EM(pairs, max_steps=30).fit(tensor([-0.2, 0.3, 2.8, 3.1, 6.2, 5.9]))
    assert (fit.outcome, fit.notes[-1]) == ("empty state", 'entry (1, 1) of "loc" has no rows left')
