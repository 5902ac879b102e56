"""Laws of one EM step, over every program and every zoo model; each is seen to fail on a planted fault."""

from typing import Any

import pytest
import torch
from oracles.engines import EVERYTHING, Built, distance, farthest, laid_out
from oracles.replay import Params
from oracles.steps import em_step, expect, maximise, q, scaled
from oracles.tolerances import IDENTITY, SOLVERS
from oracles.varied import PROGRAMS, VARIED, kinds
from programs.registry import HIDDEN
from torch import Tensor
from torch.distributions import constraints

from em_pyro.e_step.engine import Engine
from em_pyro.e_step.expectation import Expectation
from em_pyro.m_step.ascent.hill import gradient
from em_pyro.program.coordinates import constrained, unconstrained

UNBOUNDED = ("factor_statement",)  # its bonus grows for ever


def engine_of(built: Built, engine: str) -> Engine:
    """One of the two engines."""
    return built.compiled if engine == "compiled" else built.replayed


def moves(engine: Engine, site: str) -> bool:
    """Whether any parameter enters a site."""
    return site not in engine.sites or bool(engine.sites[site].parameters)


def inflated(engine: Engine, found: Expectation) -> Expectation:
    """The fault that monotonicity does not notice: the statistics of one site with parameters 0.1 % too big."""
    size = {n: sum(float(part.abs().sum()) for part in s.parts) for n, s in found.sums.items() if moves(engine, n)}
    if any(size.values()):
        return scaled(found, 1.001, [max(size, key=lambda name: size[name])])
    observed = [name for name in found.weights if engine.recognition.runs[0][name].role == "observed"]
    return scaled(found, 1.001, (observed or list(found.weights))[-1:])


# ---- Fisher's identity -----------------------------------------------------------------------------------------------


def shift(engine: Engine, params: Params, direction: Params, t: float) -> dict[str, Tensor]:
    """Move in unconstrained space."""
    moved = dict(params)
    for name, along in direction.items():
        moved[name] = constrained(engine.program, name, unconstrained(engine.program, name, params[name]) + t * along)
    return moved


def slopes_of_evidence(engine: Engine, params: Params, directions: Params) -> dict[str, float]:
    """Directional derivatives of the objective, a parameter at a time, by Richardson's difference quotient."""
    found = {}
    for name, along in directions.items():

        def at(t: float, name: str = name, along: Tensor = along) -> float:
            return float(expect(engine, shift(engine, params, {name: along}, t)).objective)

        h = 2e-3
        found[name] = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    return found


def directions_of(engine: Engine, params: Params) -> dict[str, Tensor]:
    """A random direction for every parameter; where a coordinate is infinite it does not move."""
    generator = torch.Generator().manual_seed(7)
    found = {}
    for name, value in params.items():
        point = unconstrained(engine.program, name, value)
        noise = torch.randn(point.shape, generator=generator, dtype=torch.float64)
        found[name] = torch.where(torch.isfinite(point), noise, 0.0)
    return found


def fisher_gap(engine: Engine, params: Params, found: Expectation) -> float:
    """Largest difference between slopes of the evidence and of `Q`, relative to `1 + |slope|`."""
    directions = directions_of(engine, params)
    _, slopes = gradient(engine, found, params, list(params))
    numeric = slopes_of_evidence(engine, params, directions)
    return max(distance(float((slopes[n] * directions[n]).sum()), numeric[n]) for n in params)


ROUNDED = ("mixed_precision",)  # parameters in float32: a difference quotient has no digits left


EXACT = [name for name in VARIED if name not in ROUNDED]


@pytest.mark.parametrize(
    ("name", "engine"), [*((name, "compiled") for name in EXACT), *((name, "replayed") for name in EXACT[::4])]
)
def test_fishers_identity(name: str, engine: str) -> None:
    """The gradient of the objective is that of `Q`; the tolerance is that of a difference quotient.

    That both engines have one objective and one gradient is a law of its own below: replayed, a quarter is enough.
    """
    built = laid_out(name)
    chosen = engine_of(built, engine)
    found = expect(chosen, built.here)
    assert fisher_gap(chosen, built.here, found) < SOLVERS


@pytest.mark.parametrize("name", ["gaussian_mixture", "markov_chain", "three_nested_plates", "poisson", "student"])
def test_fishers_identity_notices_a_wrong_weight(name: str) -> None:
    """One site's weights 0.1 % too big: the two gradients differ."""
    built = laid_out(name)
    found = expect(built.compiled, built.here)
    assert fisher_gap(built.compiled, built.here, inflated(built.compiled, found)) > SOLVERS


# ---- the maximum -----------------------------------------------------------------------------------------------------


def towards(constraint: Any, value: Tensor, generator: torch.Generator, size: float) -> Tensor | None:
    """A feasible point nearby, off a boundary where the value sits on one."""
    noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
    if constraint is constraints.simplex:
        return (1 - size) * value + size * noise / noise.sum(-1, keepdim=True)
    if constraint is constraints.unit_interval:
        return (1 - size) * value + size * noise
    if constraint is constraints.positive:
        return value * (1 + size * (noise - 0.5)) + 1e-12 * size * noise
    if constraint is constraints.real:
        return value + size * (noise - 0.5)
    return None


def best_rise(engine: Engine, found: Expectation, at: Params, names: list[str]) -> float:
    """How far any feasible direction tried raises `Q`, relative to `1 + |Q|`."""

    def height(params: Params) -> float:
        with torch.no_grad():
            return float(q(engine, params, found))

    base, rise = height(at), -torch.inf
    _, slopes = gradient(engine, found, at, names)
    generator = torch.Generator().manual_seed(3)
    for name in names:
        point = unconstrained(engine.program, name, at[name])
        steep = slopes[name] / slopes[name].abs().max().clamp(min=1e-300)
        noise = torch.randn(point.shape, generator=generator, dtype=torch.float64)
        for size in (1e-2, 1e-4):
            for along in (steep, -noise):
                moved = constrained(
                    engine.program, name, torch.where(torch.isfinite(point), point + size * along, point)
                )
                rise = max(rise, height({**at, name: moved}) - base)
            near = towards(engine.program.parameters[name].constraint, at[name], generator, size)
            if near is not None:
                rise = max(rise, height({**at, name: near}) - base)
    return rise / (1 + abs(base))


def closed_forms(built: Built) -> list[str]:
    """Parameters with a closed form."""
    return [name for name, line in built.plan.lines.items() if line.closed_form]


@pytest.mark.parametrize("name", VARIED)
def test_no_feasible_direction_raises_q(name: str) -> None:
    """After an M-step, no move of a parameter with a closed form makes `Q` larger."""
    built = laid_out(name)
    names = closed_forms(built)
    found = expect(built.compiled, built.here)
    new = maximise(built.compiled, built.plan, found, built.here)
    assert best_rise(built.compiled, found, new, names) < IDENTITY
    assert best_rise(built.compiled, found, built.here, names) > IDENTITY, "the start was already the maximum"


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("gaussian_mixture", "scale"),
        ("gaussian_mixture", "loc"),
        ("binomial_coins", "bias"),
        ("poisson_exposure", "rate"),
        ("multivariate_mixture_tied", "covariance"),
        ("gaussian-full", "scale_tril"),
        ("mixture_of_regressions", "b"),
        ("beta_coins", "bias"),
    ],
)
def test_a_wrong_maximum_is_noticed(name: str, parameter: str) -> None:
    """A solver whose answer is 0.1 % too big leaves a direction that raises `Q`; monotonicity notices nothing."""
    built = laid_out(name)
    found = expect(built.compiled, built.here)
    new = maximise(built.compiled, built.plan, found, built.here)
    wrong = {**new, parameter: 1.001 * new[parameter]}
    assert best_rise(built.compiled, found, wrong, [parameter]) > IDENTITY
    assert float(expect(built.compiled, wrong).objective) > float(found.objective)


NOT_UNIQUE = {
    "unnormalised_weights": "only the proportions of its weights are identified",
    "structural_zeros": "only differences of its logits are identified",
    "left_to_right_chain": "only differences of its logits are identified",
    "binomial_items": "two items cannot tell its five columns apart",
    "multiplicative_rates": "only the products of sizes and items are identified",
    "multivariate_mixture": "four points and two components: a covariance of the maximum is all but singular",
    "missing_cells": "four points: a scale of the maximum is all but zero",
}
"""Programs whose maximum of `Q` is compared by its value alone, and why."""


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in UNBOUNDED])
def test_the_closed_form_is_torchs_maximum(name: str) -> None:
    """L-BFGS on `Q` climbs to the same maximum: the same value, at the same parameters."""
    built = laid_out(name)
    found = expect(built.compiled, built.here)
    closed = maximise(built.compiled, built.plan, found, built.here)
    climbed = maximise(built.compiled, built.plan_with("torch"), found, built.here)
    with torch.no_grad():
        by_form, by_torch = (q(built.compiled, params, found) for params in (closed, climbed))
    assert distance(by_torch, by_form) < SOLVERS
    if name not in NOT_UNIQUE:
        assert farthest(climbed, closed) < SOLVERS
        assert farthest(climbed, {n: 1.001 * value for n, value in closed.items()}) > 100 * SOLVERS


# ---- one step, and many ----------------------------------------------------------------------------------------------


def rises(built: Built, params: Params, steps: int) -> list[float]:
    """The objective along some EM steps, up to where four points let a scale collapse."""
    path, at = [], dict(params)
    for _ in range(steps):
        at, found = em_step(built.compiled, built.plan, at)
        path.append(float(found.objective))
        if "scale" in at and float(at["scale"].min()) < 1e-4:
            return path
    return [*path, float(expect(built.compiled, at).objective)]


def falls(path: list[float]) -> bool:
    """Whether any step fell beyond rounding."""
    return any(b < a - IDENTITY * (1 + abs(a)) for a, b in zip(path, path[1:], strict=False))


@pytest.mark.parametrize("name", [name for name in VARIED if name not in UNBOUNDED])
def test_no_step_falls(name: str) -> None:
    """EM ascends: eight steps, one where torch maximises."""
    built = laid_out(name)
    path = rises(built, built.there, 1 if built.plan.torch else 8)
    assert not falls(path)
    assert len(path) == 1 or path[-1] > path[0]
    assert len(path) == 1 or falls(path[::-1])


@pytest.mark.parametrize("name", EVERYTHING)
def test_the_compiled_engine_is_the_replayed_one(name: str) -> None:
    """Evidence and slopes of `Q` by matrix products are those of the model's own `log_prob`, elsewhere too."""
    built = laid_out(name)
    tolerance = SOLVERS if name in ROUNDED else IDENTITY  # float32 has six digits
    both = []
    hidden = name in HIDDEN or name.startswith("discrete-hmm")
    at = built.there if hidden else built.here  # `Q` of all states or of none: equal slopes only
    for engine in (built.compiled, built.replayed):
        found = expect(engine, built.there)
        _, slopes = gradient(engine, found, at, list(at))
        both.append((found.objective, slopes))
    assert distance(both[0][0], both[1][0]) < tolerance
    assert farthest(both[0][1], both[1][1]) < tolerance
    found = inflated(built.compiled, expect(built.compiled, built.there))
    _, slopes = gradient(built.compiled, found, at, list(at))
    assert farthest(slopes, both[1][1]) > tolerance


# ---- which programs --------------------------------------------------------------------------------------------------


def test_what_is_varied_takes_every_way() -> None:
    """Every unit, form, solver and argument with its kind of M-step that any program has, a program of `VARIED` has."""
    ways = {name: kinds(laid_out(name)) for name in EVERYTHING}
    chosen = set[tuple[str, ...]]().union(*(ways[name] for name in VARIED))
    assert all(found <= chosen for found in ways.values())
