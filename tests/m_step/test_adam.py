"""Blocks too large to be maximised, such as networks: some steps of Adam, with what it remembers."""

import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.engines import distance, farthest, laid_out
from oracles.steps import em_step, expect
from oracles.tolerances import IDENTITY
from programs.hills import hill_on
from programs.networks import Gate, lines
from torch import Tensor, tensor

from em_pyro import EM
from em_pyro.fit.problem import Problem, prepare
from em_pyro.m_step.ascent.adam import STEPS, Moments, adam
from em_pyro.m_step.ascent.ascend import Carried
from em_pyro.m_step.ascent.climbs import ADAM, LBFGS, NEWTON
from em_pyro.m_step.ascent.hill import Hill, hill_of
from em_pyro.program.store import starting_values


def prepared() -> tuple[Problem, dict[str, Tensor]]:
    """The network, planned, and its start."""
    here = prepare(Gate(), lines(), {}, {}, check=False)
    return here, {name: value.double() for name, value in starting_values(here.program).items()}


def test_the_plan_says_that_a_network_is_not_maximised() -> None:
    """It is climbed by Adam, some steps in every M-step; a module without hidden units is maximised."""
    plan = EM(Gate()).plan(*lines())
    for name in ("gate$$$0.weight", "gate$$$2.bias"):
        assert plan[name].how == "torch"
        assert "some steps of Adam: Q rises, but is not maximised (generalised EM)" in plan[name].why
    assert plan["loc"].closed_form
    assert [climb.method for climb in laid_out("RegisteredLinear").plan_with("torch").climbs] == [NEWTON] * 2


def test_blocks_of_many_entries_say_so() -> None:
    """Up to 300 entries some steps of Newton, beyond them of L-BFGS, beyond 1,000 of Adam."""

    def model(x: Tensor, D: int) -> None:
        a = pyro.param("a", torch.full((D,), 0.1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal((a.sin() * x[:, :1]).sum(-1), 1.0), obs=x[:, 1])

    x = torch.stack([tensor([0.3, -0.7, 1.1]), tensor([0.2, 0.4, -0.3])], -1)
    for size, method in ((300, NEWTON), (301, LBFGS), (1001, ADAM)):
        pyro.clear_param_store()
        plan = EM(model, check=False).plan(x, size)
        assert plan.climbs[0].method == method
        assert f"steps of {method}" in plan["a"].why
        assert "generalised EM" in plan["a"].why
        fit = EM(model, check=False, max_steps=3, tol=0).fit(x, size)
        assert fit.path[-1] > fit.path[0]


def test_adam_remembers() -> None:
    """Its count goes on from M-step to M-step; without memory the steps are others."""
    here, params = prepared()
    carried: Carried = {}
    with_memory, without = dict(params), dict(params)
    for k in range(1, 4):
        with_memory, _ = em_step(here.engine, here.plan, with_memory, carried=carried)
        without, _ = em_step(here.engine, here.plan, without)
        (moments,) = carried.values()
        assert moments.count == k * STEPS
        assert (farthest(with_memory, without) == 0) == (k == 1)


@pytest.mark.laws
def test_starts_have_a_memory_each() -> None:
    """The same seed gives the same fit, and a start among others is that start alone."""
    x, y = lines()
    fits = []
    for starts in (1, 6, 6):  # six: screened after twenty steps, and the promising ones go on
        with pyro.get_param_store().scope():
            pyro.clear_param_store()
            fits.append(EM(Gate(), starts=starts, max_steps=23, tol=0).fit(x, y))
    first, *others = fits
    assert distance(others[0].starts[0].objective, first.objective) < IDENTITY
    assert [run.objective for run in others[0].starts] == [run.objective for run in others[1].starts]
    assert len({run.objective for run in others[0].starts}) == 6


def test_steps_on_other_data_go_on() -> None:
    """`EM.step` may alternate between data, and a fit of a network pickles."""
    em = EM(Gate())
    data = lines(0), lines(1)
    losses = [em.step(*data[k % 2]) for k in range(8)]
    assert losses[6] < losses[0]
    assert losses[7] < losses[1]
    fit = EM(Gate(), max_steps=2, tol=0).fit(*data[0])
    again = pickle.loads(pickle.dumps(fit))
    assert again.objective == fit.objective
    assert farthest(again.params, fit.params) == 0


def network_hill() -> tuple[Hill, float]:
    """The part of `Q` that the network's weights enter, and `1 + |Q|`."""
    here, params = prepared()
    (climb,) = here.plan.climbs
    found = expect(here.engine, params)
    hill = hill_of(here.engine, found, params, climb.names)
    return hill, 1 + abs(hill.slope(hill.start)[0])


@pytest.mark.parametrize("rate", [1e3, 1e8])
def test_a_step_too_long_is_taken_back(rate: float) -> None:
    """Steps that overshoot are halved until `Q` rises, or dropped; the next are shorter."""
    hill, scale = network_hill()
    begun = hill.value(hill.start)
    (after, *_), moments = adam(hill, (hill.start, *hill.slope(hill.start)), scale, Moments(rate=rate))
    assert hill.value(after) > begun
    assert moments.rate < rate
    step = hill.start + rate * hill.slope(hill.start)[1].sign()  # the fault: Adam's first step, as it is
    assert hill.value(step) < begun


def test_where_nothing_ascends_nothing_moves() -> None:
    """At the top Adam gives up, keeps the old values and forgets what it has learnt."""
    hill = hill_on(lambda x: -(x.square()).sum(), tensor([0.0, 0.0]))
    known = Moments(count=7, first=tensor([5.0, 5.0]), second=tensor([1.0, 1.0]))
    (after, *_), moments = adam(hill, (hill.start, *hill.slope(hill.start)), 1.0, known)
    assert torch.equal(after, hill.start)
    assert moments.count == 0


def test_a_network_learns_the_gate() -> None:
    """EM with Adam steps for the gate ascends at every step, and finds which expert is where."""
    x, y = lines()

    def right(weights: Any, high: int) -> float:
        """How many rows the gate alone would give to the right expert."""
        first, bias, second, last = (weights[f"gate$$${key}"] for key in ("0.weight", "0.bias", "2.weight", "2.bias"))
        logits = (x.unsqueeze(-1) @ first.mT + bias).tanh() @ second.mT + last
        return float(((logits.argmax(-1) == high) == (x.abs() < 1)).double().mean())

    em = EM(Gate(), max_steps=60, tol=0)
    em.plan(x, y)
    before = dict(em.params)
    fit = em.fit(x, y)
    assert all(b >= a - IDENTITY * (1 + abs(a)) for a, b in zip(fit.path, fit.path[1:], strict=False))
    high = int(fit.params["loc"].argmax())
    assert right(before, high) < 0.8 < 0.9 < right(fit.params, high)
