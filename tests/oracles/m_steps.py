"""One M-step in two ways: by the plan's closed forms, and by torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from em_pyro import EM
from em_pyro.e_step.engine import Engine
from em_pyro.fit.problem import prepare
from em_pyro.m_step.ascent.hill import gradient
from em_pyro.m_step.plan import Plan, choose
from em_pyro.program.store import starting_values
from oracles.steps import em_step
from oracles.tolerances import IDENTITY, SOLVERS

Model = Callable[..., Any]
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What one M-step did: how each parameter was found, its new value, and the largest slope of `Q` left."""

    how: dict[str, str]
    start: dict[str, Tensor]
    params: dict[str, Tensor]
    slope: float


def step(model: Model, *args: Any, m_step: Mapping[str, Any] | None = None) -> Step:
    """Take one EM step from the model's start, its program checked."""
    with pyro.get_param_store().scope():
        here = prepare(model, args, {}, dict(m_step or {}), check=True)
        return taken(here.engine, here.plan)


def taken(engine: Engine, plan: Plan) -> Step:
    """Take the step of a plan; the slope is relative to `1 + |Q|`, in unconstrained coordinates."""
    start = {name: value.double() for name, value in starting_values(engine.program).items()}
    new, found = em_step(engine, plan, start)
    value, slopes = gradient(engine, found, new, list(new))
    top = max(float(slope.abs().max()) for slope in slopes.values())
    return Step({name: plan[name].how for name in new}, start, new, top / (1 + abs(value)))


def how(model: Model, *args: Any) -> dict[str, str]:
    """Say how the plan maximises every parameter."""
    with pyro.get_param_store().scope():
        plan = EM(model, check=False).plan(*args)
        return {name: line.how for name, line in plan.lines.items()}


def why(model: Model, name: str, *args: Any) -> str:
    """Say why the plan maximises one parameter as it does."""
    with pyro.get_param_store().scope():
        return EM(model, check=False).plan(*args)[name].why


def check_closed(
    model: Model, *args: Any, swept: tuple[str, ...] = (), views: Mapping[str, View] | None = None
) -> Step:
    """Require closed forms (swept ones by name) that leave no slope of `Q`, and that torch finds the same maximum.

    `views` maps a parameter that several values describe alike (logits up to a constant) to what is compared.
    """
    with pyro.get_param_store().scope():
        here = prepare(model, args, {}, {}, check=True)
        closed = taken(here.engine, here.plan)
        solved = taken(here.engine, choose(here.engine, dict.fromkeys(closed.params, "torch"), {}))
    assert closed.how == {name: "swept" if name in swept else "closed form" for name in closed.params}
    assert closed.slope <= IDENTITY
    assert set(solved.how.values()) == {"torch"}
    moved = False
    for name, value in closed.params.items():
        view = (views or {}).get(name, lambda x: x)
        same(view(value), view(solved.params[name]), SOLVERS)
        moved |= not torch.allclose(view(value), view(closed.start[name]), rtol=1e-3)
    assert moved
    return closed


def same(got: Tensor, want: Tensor, tolerance: float = IDENTITY) -> None:
    """Assert that every entry agrees, relative to `1 + |want|`."""
    assert got.shape == want.shape
    difference = float(((got - want).abs() / (1 + want.abs())).max())
    assert difference <= tolerance, f"largest difference {difference:.3g}, allowed {tolerance:.3g}"
