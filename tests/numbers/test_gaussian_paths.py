"""Programs with normal latents follow EM derived by hand, iterate by iterate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles.agreement import close
from test_golden import path_of
from torch import Tensor, tensor
from torch.distributions import constraints

from em_pyro import analytic

STEPS = 35

RNG = np.random.default_rng(11)
X = RNG.standard_normal((40, 2)) @ RNG.standard_normal((2, 5)) + 0.6 * RNG.standard_normal((40, 5)) + [3, 0, -1, 50, 2]
GROUP = np.repeat(np.arange(7), [1, 5, 2, 4, 4, 3, 1])
Y = 2 * RNG.standard_normal(7)[GROUP] + RNG.standard_normal(20) + 30
WALK = RNG.standard_normal(25).cumsum() + RNG.standard_normal(25) + 10
LOADINGS = RNG.standard_normal((5, 2))
FIRST = (5.0, 20.0)


def factors(x: Tensor, *, tied: bool = False) -> None:
    """Explain five columns by two factors."""
    D, k = x.shape[1], 2
    mean = pyro.param("mean", torch.zeros(D))
    loadings = pyro.param("loadings", torch.ones(D, k))
    scale = pyro.param("scale", torch.ones(() if tied else (D,)), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(k), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ loadings.T + mean, scale).to_event(1), obs=x)


def intercepts(y: Tensor, group: Tensor) -> None:
    """Rows in groups, each with a level of its own."""
    mean = pyro.param("mean", tensor(0.0))
    spread = pyro.param("spread", tensor(1.0), constraint=constraints.positive)
    scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    with pyro.plate("groups", int(group.max()) + 1):
        b = pyro.sample("b", dist.Normal(0.0, spread))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mean + b[group], scale), obs=y)


def levels(y: Tensor, first: tuple[float, float]) -> None:
    """A level that walks; what is missing is left out of the loop."""
    step = pyro.param("step", tensor(1.0), constraint=constraints.positive)
    scale = pyro.param("scale", tensor(1.0), constraint=constraints.positive)
    level = tensor(0.0)
    for t in pyro.markov(range(len(y))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, step) if t else dist.Normal(*first))
        if not y[t].isnan():
            pyro.sample(f"y_{t}", dist.Normal(level, scale), obs=y[t])


def holes(y: Any) -> Any:
    """Return the series with a few observations missing."""
    y = y.copy()
    y[[3, 4, 5, 11, 20]] = np.nan
    return y


@dataclass(frozen=True)
class Pair:
    """A program and the same EM derived by hand.

    Attributes:
        model: with its arguments.
        start: by the name of the parameter.
        by_hand: from start and number of steps.
    """

    model: Callable[..., None]
    args: tuple[Any, ...]
    start: dict[str, Any]
    by_hand: Callable[..., analytic.LatentPath]


TALL: dict[str, Any] = {"mean": [1.0, 0.0, 0.0, 40.0, 0.0], "loadings": LOADINGS.tolist()}

PAIRS = {
    "factors": Pair(
        factors, (tensor(X),), {**TALL, "scale": [1.0] * 5}, lambda **s: analytic.factor_analysis(X, **s, steps=STEPS)
    ),
    "one scale": Pair(
        lambda x: factors(x, tied=True),
        (tensor(X),),
        {**TALL, "scale": 1.3},
        lambda **s: analytic.factor_analysis(X, **s, steps=STEPS, tied=True),
    ),
    "intercepts": Pair(
        intercepts,
        (tensor(Y), tensor(GROUP)),
        {"mean": 20.0, "spread": 1.0, "scale": 2.0},
        lambda **s: analytic.random_intercept(Y, GROUP, **s, steps=STEPS),
    ),
    "levels": Pair(
        levels,
        (tensor(WALK), FIRST),
        {"step": 0.5, "scale": 2.0},
        lambda **s: analytic.local_level(WALK, **s, first=FIRST, steps=STEPS),
    ),
    "levels with holes": Pair(
        levels,
        (tensor(holes(WALK)), FIRST),
        {"step": 0.5, "scale": 2.0},
        lambda **s: analytic.local_level(holes(WALK), **s, first=FIRST, steps=STEPS),
    ),
}


def check_path(name: str, **changes: Any) -> None:
    """Every iterate and every log-likelihood."""
    pair = PAIRS[name]
    want = pair.by_hand(**{**pair.start, **changes})
    got = path_of(pair.model, *pair.args, names=tuple(pair.start), start=pair.start, steps=STEPS)
    assert want.log_likelihood[-1] > want.log_likelihood[0] + 0.1
    for key, values in want.params.items():
        close(got[key], values)
    close(got["objective"], want.log_likelihood)


@pytest.mark.parametrize("name", PAIRS)
def test_path(name: str) -> None:
    """To rounding, for 35 steps."""
    check_path(name)


def test_another_start_is_noticed() -> None:
    """A path from a scale a millionth larger is another one."""
    with pytest.raises(AssertionError, match="largest difference"):
        check_path("intercepts", scale=2.0 * (1 + 1e-6))
