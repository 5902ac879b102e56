"""Counts and rates, every way to write them, every tying: the closed form is the maximum that torch finds too."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from m_steps import View, check_closed
from ties import TIES, TOTALS, C, N, counted, heads, mixture, pick, real, start
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import solvers


def unit(level: Tensor) -> Tensor:
    """One probability."""
    return 0.25 + 0.2 * level


def row(level: Tensor) -> Tensor:
    """One row of probabilities."""
    return torch.softmax((1 + level) * torch.arange(C) / C, -1)


def logits(level: Tensor) -> Tensor:
    """One row of logits, not normalised."""
    return (1 + level) * torch.arange(C) / C + 0.7


def rate(level: Tensor) -> Tensor:
    """One rate."""
    return 0.6 + 0.9 * level


def softmax(value: Tensor) -> Tensor:
    """Logits count up to a constant."""
    return torch.softmax(value, -1)


def bits() -> Tensor:
    """Zeros and ones."""
    return (real(N) > 0.3).double()


def kinds() -> Tensor:
    """Categories."""
    return (real(N).abs() * 2).long().clamp(max=C - 1)


def tables() -> Tensor:
    """Rows of counts."""
    return (real(N, C).abs() * 3).floor()


def onehot() -> Tensor:
    """Categories, as rows of zeros and a one."""
    return torch.nn.functional.one_hot(kinds(), C).double()


Builder = tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor], Any, Callable[[], Tensor], View | None]
"""Distribution of one argument, its start by level, its constraint, the data, and what to compare."""

ONE: dict[str, Builder] = {
    "Bernoulli probs": (lambda a: dist.Bernoulli(a), unit, constraints.unit_interval, bits, None),
    "Bernoulli logits": (lambda a: dist.Bernoulli(logits=a), lambda k: unit(k).logit(), constraints.real, bits, None),
    "Binomial probs": (lambda a: dist.Binomial(TOTALS, a), unit, constraints.unit_interval, heads, None),
    "Binomial logits": (
        lambda a: dist.Binomial(TOTALS, logits=a), lambda k: unit(k).logit(), constraints.real, heads, None,
    ),
    "Geometric probs": (lambda a: dist.Geometric(a), unit, constraints.unit_interval, counted, None),
    "Geometric logits": (
        lambda a: dist.Geometric(logits=a), lambda k: unit(k).logit(), constraints.real, counted, None,
    ),
    "Categorical probs": (lambda a: dist.Categorical(a), row, constraints.simplex, kinds, None),
    "Categorical logits": (lambda a: dist.Categorical(logits=a), logits, constraints.real, kinds, softmax),
    "OneHotCategorical probs": (lambda a: dist.OneHotCategorical(a), row, constraints.simplex, onehot, None),
    "OneHotCategorical logits": (lambda a: dist.OneHotCategorical(logits=a), logits, constraints.real, onehot, softmax),
    "Multinomial probs": (lambda a: dist.Multinomial(probs=a), row, constraints.simplex, tables, None),
    "Multinomial logits": (lambda a: dist.Multinomial(logits=a), logits, constraints.real, tables, softmax),
    "Poisson": (lambda a: dist.Poisson(a), rate, constraints.positive, counted, None),
    "Exponential": (lambda a: dist.Exponential(a), rate, constraints.positive, lambda: real(N).exp(), None),
}  # fmt: skip


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("name", ONE)
def test_one_argument(name: str, tie: str) -> None:
    """Counts and rates: closed, the maximum, and what torch finds."""
    law, level, constraint, data, view = ONE[name]

    def of(z: Tensor) -> Any:
        return law(pick(pyro.param("argument", start(tie, level), constraint=constraint), tie, z))

    check_closed(mixture(of), data(), views={"argument": view} if view else None)


# ---- events ----------------------------------------------------------------------------------------------------------

EVENTS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Tensor], Tensor], Any, Callable[[], Tensor]]] = {
    "Bernoulli": (
        lambda a: dist.Bernoulli(a).to_event(1),
        lambda k: unit(k) + 0.1 * torch.arange(C) / C, constraints.unit_interval, lambda: (real(N, C) > 0.2).double(),
    ),
    "Categorical": (
        lambda a: dist.Categorical(a).to_event(1), lambda k: row(k + torch.arange(2.0)[:, None]), constraints.simplex,
        lambda: (real(N, 2).abs() * 2).long().clamp(max=C - 1),
    ),
    "Poisson, two dimensions": (
        lambda a: dist.Poisson(a).to_event(2), lambda k: rate(k) + torch.arange(6.0).reshape(3, 2) / 3,
        constraints.positive, lambda: (real(N, 3, 2).abs() * 3).floor(),
    ),
    "Multinomial": (
        lambda a: dist.Multinomial(probs=a).to_event(1), lambda k: row(k + torch.arange(2.0)[:, None]),
        constraints.simplex, lambda: (real(N, 2, C).abs() * 3).floor(),
    ),
    "Exponential": (
        lambda a: dist.Exponential(a).to_event(1), lambda k: rate(k) + torch.arange(C) / C, constraints.positive,
        lambda: real(N, C).exp(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("name", EVENTS)
def test_events(name: str, tie: str) -> None:
    """A `to_event` makes rows of independent arguments, each with a closed form."""
    law, level, constraint, data = EVENTS[name]

    def of(z: Tensor) -> Any:
        return law(pick(pyro.param("argument", start(tie, level), constraint=constraint), tie, z))

    check_closed(mixture(of), data())


def test_an_event_may_share_its_argument() -> None:
    """One probability for all items of a component: the counts of all items are pooled."""

    def of(z: Tensor) -> Any:
        p = pyro.param("p", tensor([0.3, 0.5, 0.6]), constraint=constraints.unit_interval)
        return dist.Bernoulli(p[z].unsqueeze(-1)).expand_by([]).expand((*z.shape[:-1], N, C)).to_event(1)

    check_closed(mixture(of), (real(N, C) > 0.2).double())


# ---- the check is seen to fail ---------------------------------------------------------------------------------------


def planted(x: Tensor) -> None:
    """Mix three normals with a rate beside them: every kind of closed form with one argument."""
    weights = pyro.param("weights", tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
    loc = pyro.param("loc", tensor([-1.0, 0.5, 2.0]))
    scale = pyro.param("scale", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
    rates = pyro.param("rate", tensor([0.6, 1.1, 2.0]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)
        pyro.sample("wait", dist.Exponential(rates[z]), obs=x.exp())


@pytest.mark.parametrize(
    ("solver", "name"), [("Counts", "weights"), ("NormalBlock", "loc"), ("NormalBlock", "scale"), ("Rates", "rate")]
)
def test_a_wrong_m_step_is_noticed(solver: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed form that is 0.1 % off fails the check that all of the above stands on."""
    kind = getattr(solvers, solver)
    right = kind.solve

    def wrong(self: Any, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        return {key: 1.001 * value if key == name else value for key, value in right(self, *args, **kwargs).items()}

    check_closed(planted, real(N))
    monkeypatch.setattr(kind, "solve", wrong)
    with pytest.raises(AssertionError):
        check_closed(planted, real(N))
