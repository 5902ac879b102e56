"""Climbing `Q`: Newton with few backward passes, L-BFGS, and Adam with what it remembers."""

import pickle
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from engines import Built, distance, farthest, laid_out
from tolerances import IDENTITY, SOLVERS
from torch import Tensor, tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints

import em_pyro.ascent.adam
import em_pyro.ascent.ascend
from em_pyro import EM
from em_pyro.ascent.adam import Moments, adam
from em_pyro.ascent.ascend import Carried, ascend
from em_pyro.ascent.climbs import ADAM, LBFGS, NEWTON, Climb
from em_pyro.ascent.hill import Hill, OnlyOnce, gradient, hill_of
from em_pyro.ascent.newton import newton
from em_pyro.ascent.pattern import Pattern, folded, pattern_of, whole
from em_pyro.em_step import em_step
from em_pyro.engine import Expectation
from em_pyro.prepare import Prepared, prepare
from em_pyro.store import starting_values

CLIMBED = (
    "hurdle-negative-binomial",
    "hmm-poisson-stationary",
    "irt-normal-ogive",
    "irt-three-parameters",
)
"""Zoo models some of whose parameters torch maximises."""


def climbed(built: Built, method: str | None = None) -> tuple[Expectation, dict[str, Tensor]]:
    """An E-step, and the parameters of the first block that torch maximises, maximised."""
    climb = built.plan.climbs[0]
    climb = climb if method is None else Climb(climb.names, method)
    found = built.compiled.expect(built.here)
    return found, ascend(built.compiled, found, built.here, climb)


@pytest.mark.parametrize("name", CLIMBED)
def test_newton_ends_where_lbfgs_does_and_is_stationary(name: str) -> None:
    """The plan's method leaves no slope; L-BFGS finds the same `Q`."""
    built = laid_out(name)
    assert built.plan.climbs[0].method == NEWTON
    found, new = climbed(built)
    _, other = climbed(built, LBFGS)
    with torch.no_grad():
        first, second = (built.compiled.q({**built.here, **params}, found) for params in (new, other))
        before = built.compiled.q(built.here, found)
    assert first > before
    assert distance(second, first) < SOLVERS
    value, slopes = gradient(built.compiled, found, {**built.here, **new}, list(new))
    assert max(float(slope.abs().max()) for slope in slopes.values()) < IDENTITY * (1 + abs(value))


def test_a_kink_is_climbed() -> None:
    """The location of a Laplace law by torch: no curvature, and the median all the same."""

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", tensor(0.3))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Laplace(loc, 1.0), obs=x)

    fit = EM(model, m_step={"loc": "torch"}).fit(tensor([-1.0, 2.0, 2.5, 7.0, 9.0]))
    assert fit.plan["loc"].how == "torch"
    assert distance(fit.params["loc"], tensor(2.5)) < SOLVERS


def hill_on(f: Callable[[Tensor], Tensor], start: Tensor) -> Hill:
    """A hill that is a function of one real parameter of the engine of some program."""
    engine = laid_out("gaussian_mixture").compiled
    return Hill(engine, {}, {"loc": start}, lambda values: f(values["loc"]))


def test_newton_leaves_a_saddle() -> None:
    """From a point of positive curvature it climbs to the top: each eigenvalue counts with its absolute value."""
    hill = hill_on(lambda x: (x[0] ** 2 - x[0] ** 4 - x[1] ** 2).sum(), tensor([0.05, 0.3]))
    top, value, slope, _ = newton(hill, hill.start, *hill.slope(hill.start), None)
    assert distance(top, tensor([0.5**0.5, 0.0])) < SOLVERS
    assert float(slope.abs().max()) < IDENTITY
    assert value == pytest.approx(0.25)


class Once(torch.autograd.Function):
    """The square, which torch may differentiate once; the second time it says nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return it."""
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """Return its slope."""
        (x,) = ctx.saved_tensors
        return 2 * x * slope


def far(x: Tensor) -> Tensor:
    """A distance that torch may differentiate once, and says so."""
    return 1e-9 * torch.cdist(x.view(1, 2), torch.zeros(1, 2), p=3.0).sum()


@pytest.mark.parametrize("says_so", [False, True])
def test_what_has_one_derivative_is_climbed_by_that(says_so: bool) -> None:  # noqa: FBT001
    """Where a Hessian cannot be had, or is wrong, L-BFGS takes over."""

    def f(x: Tensor) -> Tensor:
        return far(x) - (x - 1).square().cosh().sum() if says_so else -Once.apply(x - 1).cosh().sum()

    hill = hill_on(f, tensor([0.05, 0.3]))
    if says_so:
        with pytest.raises(OnlyOnce):
            hill.curvature(hill.start)
    else:
        assert not bool(hill.curvature(hill.start)[0].any())
    top, value, _ = em_pyro.ascent.ascend._maximum(hill, hill.start, *hill.slope(hill.start), Climb(("loc",), NEWTON))
    assert distance(value, hill.value(tensor([1.0, 1.0]))) < IDENTITY
    assert distance(top, tensor([1.0, 1.0])) < 1e-3  # the top is flat to the third order


# ---- the pattern of a Hessian ----------------------------------------------------------------------------------------


def separate(matrix: Tensor) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """Products with a matrix, and a count of them."""
    count = [0]

    def product(v: Tensor) -> Tensor:
        count[0] += 1
        return matrix @ v

    return product, count


def test_few_products_find_a_hessian_of_many_items() -> None:
    """Ten items of three parameters each: three products and a check, not thirty."""
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randn(3, 3, generator=generator, dtype=torch.float64) for _ in range(10)]
    matrix = torch.block_diag(*[block + block.mT for block in blocks])
    order = torch.randperm(30, generator=generator)
    matrix = matrix[order][:, order]
    product, count = separate(matrix)
    pattern = pattern_of(whole(product, matrix[0]))
    assert (pattern.width, count[0]) == (3, 30)
    again = folded(product, pattern, matrix[0])
    assert again is not None
    assert distance(again, matrix) < IDENTITY
    assert count[0] == 30 + 4


def test_a_wrong_pattern_is_noticed() -> None:
    """An entry that was zero by accident: the check says so, and the pattern grows."""
    matrix = torch.eye(4, dtype=torch.float64)
    pattern = pattern_of(matrix)
    matrix[0, 3] = matrix[3, 0] = 0.5
    product, _ = separate(matrix)
    assert folded(product, pattern, matrix[0]) is None
    assert bool(pattern_of(matrix, pattern).mask[0, 3])
    blind = Pattern(pattern.mask, torch.arange(4))  # the fault: as many colours as columns, and nothing to check
    unchecked = folded(product, blind, matrix[0])
    assert unchecked is not None
    assert not torch.equal(unchecked, matrix)


def test_items_are_found_apart_in_a_model() -> None:
    """The Hessian of five items with an intercept and a slope each takes two backward passes."""
    built = laid_out("irt-normal-ogive")
    found = built.compiled.expect(built.here)
    hill = hill_of(built.compiled, found, built.here, built.plan.climbs[0].names)
    full, pattern = hill.curvature(hill.start)
    assert len(full) == 10
    assert pattern.width == 2
    assert distance(hill.curvature(hill.start, pattern)[0], full) < IDENTITY


def test_parameters_that_q_separates_are_climbed_apart() -> None:
    """Two sites that share no parameter are two blocks."""

    def model(x: Tensor, y: Tensor) -> None:
        a, b = pyro.param("a", tensor([0.5, 1.0])), pyro.param("b", tensor(0.2))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(a.sin()[z], 1.0), obs=x)
            pyro.sample("y", dist.Normal(b.sin(), 1.0), obs=y)

    plan = EM(model).plan(tensor([0.1, 0.9, 0.3]), tensor([0.4, 0.2, 0.7]))
    assert [climb.names for climb in plan.climbs] == [("a",), ("b",)]


# ---- networks --------------------------------------------------------------------------------------------------------


class Gate:
    """Two experts whose gate is a network with hidden units."""

    def __init__(self, hidden: int = 6) -> None:
        """Start from weights of a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            layers = torch.nn.Linear(1, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2)
            self.net = torch.nn.Sequential(*layers)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Run the mixture on `x` and `y`, both of shape `(N,)`."""
        net = pyro.module("gate", self.net)
        loc = pyro.param("loc", tensor([-1.0, 1.0]))
        scale = pyro.param("scale", tensor(1.5), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=net(x.unsqueeze(-1))))
            pyro.sample("y", dist.Normal(loc[z], scale), obs=y)


def lines(seed: int = 0) -> tuple[Tensor, Tensor]:
    """High in the middle, low at both ends, with noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-2, 2, 40)
    return x, torch.where(x.abs() < 1, 2.0, -2.0) + torch.randn(40, generator=generator, dtype=torch.float64)


def prepared() -> tuple[Prepared, dict[str, Tensor]]:
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
    """Beyond 300 entries some iterations of L-BFGS, beyond 1,000 Adam."""

    def model(x: Tensor, D: int) -> None:
        a = pyro.param("a", torch.full((D,), 0.1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal((a.sin() * x[:, :1]).sum(-1), 1.0), obs=x[:, 1])

    x = torch.stack([tensor([0.3, -0.7, 1.1]), tensor([0.2, 0.4, -0.3])], -1)
    for size, method, why in ((300, NEWTON, ""), (301, LBFGS, "L-BFGS"), (1001, ADAM, "Adam")):
        pyro.clear_param_store()
        plan = EM(model, check=False).plan(x, size)
        assert plan.climbs[0].method == method
        assert ("generalised EM" in plan["a"].why) == bool(why)
        assert f"some steps of {why}" in plan["a"].why or not why
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
        assert moments.count == k * em_pyro.ascent.adam.STEPS
        assert (farthest(with_memory, without) == 0) == (k == 1)


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
    found = here.engine.expect(params)
    hill = hill_of(here.engine, found, params, climb.names)
    return hill, 1 + abs(hill.slope(hill.start)[0])


@pytest.mark.parametrize("rate", [1e3, 1e8])
def test_a_step_too_long_is_taken_back(rate: float) -> None:
    """Steps that overshoot are halved until `Q` rises, or dropped; the next are shorter."""
    hill, scale = network_hill()
    begun = hill.value(hill.start)
    after, moments = adam(hill, hill.start, scale, Moments(rate=rate))
    assert hill.value(after) > begun
    assert moments.rate < rate
    step = hill.start + rate * hill.slope(hill.start)[1].sign()  # the fault: Adam's first step, as it is
    assert hill.value(step) < begun


def test_where_nothing_ascends_nothing_moves() -> None:
    """At the top Adam gives up, keeps the old values and forgets what it has learnt."""
    hill = hill_on(lambda x: -(x.square()).sum(), tensor([0.0, 0.0]))
    after, moments = adam(hill, hill.start, 1.0, Moments(count=7, first=tensor([5.0, 5.0]), second=tensor([1.0, 1.0])))
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


def test_the_guard_notices_an_ascent_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: an M-step that goes down is given back to the old values, whatever the method returns."""
    built = laid_out("irt-normal-ogive")
    found, new = climbed(built)
    downhill: Any = lambda hill, vector, value, slope, climb: (vector - 3 * slope.sign(), value - 1, slope)  # noqa: E731
    monkeypatch.setattr(em_pyro.ascent.ascend, "_maximum", downhill)
    _, kept = climbed(built)
    assert farthest(kept, {name: built.here[name] for name in kept}) == 0
    assert farthest(new, kept) > 0


def test_what_has_a_closed_form_is_not_climbed() -> None:
    """Unless that is asked for."""
    assert laid_out("gaussian_mixture").plan.climbs == ()
    plan = laid_out("gaussian_mixture").plan_with("torch")
    assert {name for climb in plan.climbs for name in climb.names} == {"weights", "loc", "scale"}
