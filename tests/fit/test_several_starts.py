"""Several starts: what is drawn, what is screened out, and what becomes of a start from which no step is defined."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from em_pyro.models import hidden_markov
from oracles.agreement import close
from torch import Tensor
from torch.distributions import constraints

from em_pyro import EM, DataError
from em_pyro.fit.acceleration import accelerated
from em_pyro.fit.problem import prepare
from em_pyro.fit.starting import restarts
from em_pyro.fit.starting.restarts import SHORT
from em_pyro.fit.step import em_pass, em_step, starts_at_once
from em_pyro.program.named import batched


def clusters(x: Tensor, loc: tuple[float, ...], scale: float = 10.0) -> None:
    """Mix as many Normal distributions as there are locations."""
    K = len(loc)
    weights = pyro.param("weights", torch.ones(K) / K, constraint=constraints.simplex)
    where = pyro.param("loc", torch.tensor(loc))
    width = pyro.param("scale", torch.full((K,), scale), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(where[z], width[z]), obs=x)


def groups() -> Tensor:
    """Three wide groups, and a narrow one between them."""
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(100, generator=generator) * 10 + at for at in (0.0, 100.0, 200.0)]
    return torch.cat([*wide, torch.randn(40, generator=generator) * 0.1 + 50.0])


BAD = [{"loc": torch.tensor([0.0, 100.0, 190.0 - i, 210.0 + i])} for i in range(5)]
GOOD = {"loc": torch.tensor([25.0, 50.0, 125.0, 170.0]), "scale": torch.tensor([25.0, 2.6, 25.0, 25.0])}
LOC = (0.0, 100.0, 195.0, 205.0)


@pytest.mark.parametrize(
    "options", [{}, {"screen": False}, {"callback": lambda state: None}], ids=["default", "all followed", "watched"]
)
def test_starts_are_compared_after_as_many_steps(options: dict[str, Any]) -> None:
    """A start that leaves the batch early, for one that is narrow, takes its first steps before it is judged."""
    pyro.clear_param_store()
    fit = EM(clusters, starts=[*BAD, GOOD], max_steps=30, **options).fit(groups(), LOC)
    assert fit.starts.best == 5
    assert all(start.num_steps >= SHORT or start.outcome == "converged" for start in fit.starts)


def test_screened_out_starts_come_back_if_all_others_end_badly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The most promising starts of these collapse later on; the one that does not is followed all the same."""
    monkeypatch.setattr(restarts, "SHORT", 1)
    x = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 7.0, 7.5, 8.0, 9.0, 9.5, 10.0])
    narrow = [{"loc": torch.tensor([0.0, 7.0 + 0.1 * i]), "scale": torch.tensor([1.0, 2.0])} for i in range(6)]
    alike = {"loc": torch.tensor([5.0, 5.5]), "scale": torch.tensor([4.0, 4.1])}
    pyro.clear_param_store()
    fit = EM(clusters, starts=[*narrow, alike], tol=1e-3, max_steps=3).fit(x, (0.0, 7.0), 1.0)
    assert {start.outcome for start in fit.starts if start.index < 6} == {"degenerate"}
    assert fit.starts.best == 6


def test_acceleration_counts_the_first_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before the screening count towards `max_steps` and in `num_steps`."""
    taken = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        return em_pass(*args, **kwargs)

    monkeypatch.setattr(accelerated, "em_pass", counted)
    pyro.clear_param_store()
    fit = EM(clusters, starts=6, tol=0, max_steps=25, acceleration="squarem").fit(groups(), LOC)
    assert all(20 <= start.num_steps <= 25 for start in fit.starts)
    assert taken <= 6 * (25 + 3)  # the objective where a run is taken up and at its end, and a step summed again


def covariate(x: Tensor, y: Tensor, prior: bool) -> None:  # noqa: FBT001
    """Mix two lines; the weights have a prior if so wished."""
    if prior:
        weights = pyro.sample("weights", dist.Dirichlet(2 * torch.ones(2)))
    else:
        weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=constraints.simplex)
    a, b = pyro.param("a", torch.tensor([0.0, 1.0])), pyro.param("b", torch.tensor([0.1, -0.1]))
    scale = pyro.param("scale", torch.tensor([1.0, 2.0]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(a[z] + b[z] * x, scale[z]), obs=y)


def exposed(x: Tensor, y: Tensor, prior: bool) -> None:  # noqa: FBT001
    """Mix two Poisson rates, each row with an exposure of its own."""
    weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=constraints.simplex)
    rate = pyro.param("rate", torch.tensor([1.0, 2.0]), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Poisson(rate[z] * (1 + x)), obs=y)


def by_group(x: Tensor, y: Tensor, prior: bool) -> None:  # noqa: FBT001
    """Answer by a probability of the group, and by one of the latent kind."""
    weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=constraints.simplex)
    own = pyro.param("own", torch.tensor([0.3, 0.5, 0.6]), constraint=constraints.unit_interval)
    kind = pyro.param("kind", torch.tensor([0.2, 0.7]), constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Bernoulli(own[x.long()]), obs=(y > 2).double())
        pyro.sample("w", dist.Bernoulli(kind[z]), obs=(y % 2).double())


@pytest.mark.parametrize("prior", [False, True], ids=["params", "prior"])
@pytest.mark.parametrize("model", [covariate, exposed, by_group])
def test_collapsed_rows_have_the_starts_of_all_rows(model: Any, prior: bool) -> None:  # noqa: FBT001
    """What is drawn for a start does not depend on whether equal rows are one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 3, (240,), generator=generator).double()
    y = torch.randint(0, 6, (240,), generator=generator).double()
    ends = []
    for collapse in (True, False):
        pyro.clear_param_store()
        fit = EM(model, starts=3, tol=0, max_steps=30, collapse=collapse).fit(x, y, prior)
        assert ("distinct rows of 240" in str(fit.plan)) == collapse
        ends.append([start.objective for start in fit.starts])
    close(*ends)


def test_an_impossible_start_is_an_ending() -> None:
    """Of several starts it is one that ends there; alone it is an error, and so are many."""
    x = groups()
    far = {"loc": torch.full((4,), 1e200)}
    pyro.clear_param_store()
    fit = EM(clusters, starts=[far, GOOD], max_steps=30).fit(x, LOC)
    assert [start.outcome for start in fit.starts][0] == "impossible start"
    assert fit.starts.best == 1

    def tosses(heads: Tensor) -> None:
        bias = pyro.param("bias", torch.tensor([0.3, 0.6]), constraint=constraints.unit_interval)
        with pyro.plate("rows", len(heads)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("heads", dist.Binomial(5, bias[z]), obs=heads)

    never = [{"bias": torch.tensor([0.0, 0.0])}, {"bias": torch.tensor([1.0, 1.0])}]
    for starts in (never[0], never):
        pyro.clear_param_store()
        with pytest.raises(DataError, match='Site "heads": expected every row to be possible'):
            EM(tosses, starts=starts).fit(torch.tensor([0.0, 1.0, 4.0, 5.0]))


def shared(y: Tensor, c: Tensor) -> None:
    """Have one known prior for the latents of two plates that stand side by side."""
    half = torch.tensor([0.5, 0.5])
    a = pyro.param("a", torch.tensor([0.8, 3.0]), constraint=constraints.positive)
    b = pyro.param("b", torch.tensor([0.5, 4.0]), constraint=constraints.positive)
    with pyro.plate("A", len(y)):
        pyro.sample("y", dist.Poisson(a[pyro.sample("z", dist.Categorical(half))]), obs=y)
    with pyro.plate("B", len(c)):
        pyro.sample("c", dist.Poisson(b[pyro.sample("k", dist.Categorical(half))]), obs=c)


def tied(y: Tensor, c: Tensor) -> None:
    """Share the weights of two plates that stand side by side, and of a latent above all."""
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    a = pyro.param("a", torch.tensor([0.8, 3.0]), constraint=constraints.positive)
    top = pyro.sample("top", dist.Categorical(weights))
    with pyro.plate("A", len(y)):
        pyro.sample("y", dist.Poisson(a[pyro.sample("z", dist.Categorical(weights))]), obs=y)
    with pyro.plate("B", len(c)):
        pyro.sample("c", dist.Poisson(a[pyro.sample("k", dist.Categorical(weights))] + top), obs=c)


@pytest.mark.parametrize("model", [shared, tied])
@pytest.mark.parametrize("collapse", [True, False])
def test_plates_side_by_side_may_share_a_prior(model: Any, collapse: bool) -> None:  # noqa: FBT001
    """The path is that of the program enumerated by Pyro."""
    y, c = torch.tensor([0.0, 2.0, 5.0] * 30), torch.tensor([1.0, 4.0] * 20)
    pyro.clear_param_store()
    fit = EM(model, max_steps=5, tol=0, collapse=collapse).fit(y, c)
    from pyro.infer import TraceEnum_ELBO, config_enumerate

    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    close(-elbo.loss(config_enumerate(model), lambda *args: None, y, c), fit.log_likelihood)


def test_a_chain_holds_no_joint_law_of_its_states() -> None:
    """So the starts of a loop of any length step as one batch, each as it does alone."""
    y = torch.tensor([[1.0, 7.0, 6.0, 2.0, 8.0] * 8] * 3)
    pyro.clear_param_store()
    problem = prepare(hidden_markov.poisson, (y,), {}, {}, check=False)
    assert problem.widest == 40 * 2 * 2 * 3
    assert starts_at_once(problem) > 100
    start = {name: parameter.initial for name, parameter in problem.program.parameters.items()}
    starts = [{**start, "rate": start["rate"] * torch.tensor(factor)} for factor in ([0.9, 1.1], [0.5, 1.7])]
    together, _ = em_step(problem, {name: torch.stack([one[name] for one in starts]) for name in start})
    for k, one in enumerate(starts):
        alone, _ = em_step(problem, batched(one))
        for name, value in alone.items():
            close(together[name][k], value[0])
